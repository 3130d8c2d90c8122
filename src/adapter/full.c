/* SPDX-License-Identifier: Apache-2.0 */
/* Full fine-tuning: no adapter at all, the model's own parameters are trained. It is a
 * method like the others so that the same verbs, options and reports serve it. What is
 * trained can be narrowed to modules, layers or kinds of tensor. */
#include "base/base.h"
#include "steelyard/method.h"
#include "model/model.h"

typedef struct {
    sy_adapter_common common;
    bool embeddings, norms;
} full;

static const sy_option options[] = {
    SY_ADAPTER_ROWS(full),
    { .name = "train-embeddings", .type = SY_OPT_BOOL, .offset = offsetof(full, embeddings), .def = "on",
      .help = "train the embedding table and the output head", .example = "off" },
    { .name = "train-norms", .type = SY_OPT_BOOL, .offset = offsetof(full, norms), .def = "on",
      .help = "train the norms' weights", .example = "off" },
    { .name = NULL }
};

/* The module that a parameter belongs to: its name without the last part. */
static bool module_of(char *dst, size_t size, const char *name)
{
    const char *dot = strrchr(name, '.');
    size_t n = dot ? (size_t)(dot - name) : strlen(name);
    if (n >= size) return false;
    memcpy(dst, name, n);
    dst[n] = '\0';
    return true;
}

static sy_status wanted(const full *f, sy_run *run, sy_model *m, const sy_param *p, bool *yes)
{
    char module[256];
    *yes = true;
    if (p->role == SY_ROLE_NORM) {
        *yes = f->norms;
        return SY_OK;
    }
    if (p->role == SY_ROLE_EMBED || p->role == SY_ROLE_HEAD) {
        *yes = f->embeddings;
        return SY_OK;
    }
    if (!module_of(module, sizeof module, p->name)) return SY_OK;
    const sy_site *site = syi_model_site(m, module);
    if (!site) return SY_OK;
    const sy_adapter_common *c = &f->common;
    bool all = c->target_modules.n == 0 || (c->target_modules.n == 1 && strcmp(c->target_modules.item[0], "all-linear") == 0);
    if (!all) SYI_TRY(sy_site_match(sy_run_context(run), site, &c->target_modules, yes));
    if (*yes && c->exclude_modules.n > 0) {
        bool out;
        SYI_TRY(sy_site_match(sy_run_context(run), site, &c->exclude_modules, &out));
        *yes = !out;
    }
    if (*yes && c->layers_to_transform.n > 0 && site->block >= 0) {
        char number[24];
        snprintf(number, sizeof number, "%d", site->block);
        *yes = false;
        for (int i = 0; i < c->layers_to_transform.n; i++)
            if (strcmp(c->layers_to_transform.item[i], number) == 0) *yes = true;
    }
    return SY_OK;
}

static sy_status init(void *self, sy_run *run)
{
    full *f = self;
    int n, trained = 0;
    sy_param *const *params = sy_params(run, &n);
    for (int i = 0; i < n; i++) {
        if (params[i]->owner || !params[i]->trained) continue;
        bool yes;
        SYI_TRY(wanted(f, run, sy_run_model(run), params[i], &yes));
        params[i]->trained = yes;
        trained += yes;
    }
    if (n > 0 && trained == 0)
        return syi_fail(sy_run_context(run), SY_E_USAGE,
                        "full: nothing of the model is left to train; check target-modules, exclude-modules and layers-to-transform");
    return SY_OK;
}

const sy_method sy_method_full = {
    .abi = SY_METHOD_ABI, .name = "full", .kind = SY_ADAPTER,
    .title = "Full fine-tuning: all of the model's own weights",
    .about = "Trains the weights themselves: the most that can be learned, for 16 bytes a weight (f32 value, gradient and AdamW's two "
             "moments). The result is a whole checkpoint. target-modules, exclude-modules and layers-to-transform narrow it; "
             "embeddings and norms have switches of their own.",
    .caps = SY_CAP_TRAINS_MODEL | SY_CAP_LINEAR_IN_X,
    .options = options, .size = sizeof(full),
    .init = init,
};
