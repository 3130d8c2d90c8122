/* SPDX-License-Identifier: Apache-2.0 */
/* Any adapter as a plain LoRA: exactly where it is one, otherwise by the leading singular
 * directions of what it changes the weights by, module by module. */
#include "run/run.h"

#include "io/io.h"

#include <jansson.h>
#include <math.h>

typedef struct { float *a, *b; int64_t rank; double kept, all; } pair; /* A [r,in], B [out,r] */

/* The update of a site, f32 [out,in], from its LoRA form if it has one. */
static sy_status update_of(sy_run *run, sy_site *site, float **out)
{
    const int64_t n = site->in * site->out;
    float *w = syi_alloc(run->ctx, (size_t)n * sizeof *w), *now = syi_alloc(run->ctx, (size_t)n * sizeof *now);
    double *constant = syi_alloc(run->ctx, (size_t)site->out * sizeof *constant), delta;
    sy_status st = w && now && constant ? site->weight->type->dense(run->ctx, site->weight, 0, site->out, w) : SY_E_MEMORY;
    if (st == SY_OK) {
        memcpy(now, w, (size_t)n * sizeof *now);
        st = syi_run_fold_site(run, site, now, constant, &delta);
    }
    for (int64_t i = 0; i < n && st == SY_OK; i++) now[i] -= w[i];
    syi_free(run->ctx, w);
    syi_free(run->ctx, constant);
    if (st == SY_OK) *out = now;
    else syi_free(run->ctx, now);
    return st;
}

static sy_status exact(sy_run *run, const sy_site *site, pair *p, bool *done)
{
    const sy_wrap *at = &site->wraps[0];
    sy_tensor a, b;
    double s;
    *done = false;
    if (site->n_wraps != 1 || !at->method->to_lora) return SY_OK;
    sy_status st = at->method->to_lora(at->self, at, &a, &b, &s);
    if (st == SY_E_UNSUPPORTED) {
        sy_error_clear(run->ctx);
        return SY_OK;
    }
    SYI_TRY(st);
    *p = (pair){ .a = a.data, .b = b.data, .rank = a.dim[0] };
    for (int64_t i = 0; i < site->out * p->rank; i++) p->b[i] = (float)(s * p->b[i]);
    *done = true;
    return SY_OK;
}

/* sqrt(sigma) on both sides, as many directions as are asked for. */
static sy_status truncated(sy_run *run, sy_site *site, const syi_as_lora *how, pair *p)
{
    sy_context *ctx = run->ctx;
    const int64_t in = site->in, out = site->out, m = syi_min(in, out);
    float *w = NULL, *u = syi_alloc(ctx, (size_t)(out * m) * sizeof *u), *s = syi_alloc(ctx, (size_t)m * sizeof *s), *vt = syi_alloc(ctx, (size_t)(m * in) * sizeof *vt);
    sy_status st = u && s && vt ? update_of(run, site, &w) : SY_E_MEMORY;
    if (st == SY_OK) st = syi_svd(ctx, out, in, w, u, s, vt);
    if (st == SY_OK) {
        double all = 0, kept = 0;
        int64_t r = 0;
        for (int64_t k = 0; k < m; k++) all += (double)s[k] * s[k];
        const int64_t most = how->rank > 0 ? syi_min(how->rank, m) : m;
        while (r < most && s[r] > 1e-6f * s[0] && (how->energy <= 0 || r == 0 || kept < how->energy * all)) {
            kept += (double)s[r] * s[r];
            r++;
        }
        r = syi_max(1, r);
        *p = (pair){ .rank = r, .kept = kept, .all = all, .a = syi_alloc(ctx, (size_t)(r * in) * sizeof(float)), .b = syi_alloc(ctx, (size_t)(out * r) * sizeof(float)) };
        if (!p->a || !p->b) st = SY_E_MEMORY;
        for (int64_t k = 0; k < r && st == SY_OK; k++) {
            const float root = sqrtf(fmaxf(s[k], 0));
            for (int64_t j = 0; j < in; j++) p->a[k * in + j] = root * vt[k * in + j];
            for (int64_t o = 0; o < out; o++) p->b[o * r + k] = root * u[o * m + k];
        }
    }
    syi_free(ctx, w);
    syi_free(ctx, u);
    syi_free(ctx, s);
    syi_free(ctx, vt);
    return st;
}

static sy_status one(sy_run *run, sy_site *site, const syi_as_lora *how, pair *p)
{
    bool done = false;
    if (site->kind != SY_SITE_LINEAR)
        return syi_fail(run->ctx, SY_E_UNSUPPORTED, "%s is no linear layer; --to lora is for linear layers", site->name);
    if (how->rank <= 0 && how->energy <= 0) SYI_TRY(exact(run, site, p, &done));
    return done ? SY_OK : truncated(run, site, how, p);
}

static json_t *config_of(sy_run *run, const syi_active *a, const pair *pairs)
{
    const sy_method *lora = sy_method_find("lora", SY_ADAPTER);
    json_t *j = lora && lora->peft_defaults ? json_loads(lora->peft_defaults, 0, NULL) : json_object(), *ranks = json_object(), *alphas = json_object(), *modules = json_array();
    for (int i = 0; i < a->n_wraps; i++) {
        const char *name = a->wraps[i]->site->name;
        if (!pairs[i].rank) continue;
        json_array_append_new(modules, json_string(name));
        json_object_set_new(ranks, name, json_integer((json_int_t)pairs[i].rank));
        json_object_set_new(alphas, name, json_integer((json_int_t)pairs[i].rank)); /* scale 1 */
    }
    json_object_set_new(j, "peft_type", json_string("LORA"));
    json_object_set_new(j, "task_type", json_string("CAUSAL_LM"));
    json_object_set_new(j, "base_model_name_or_path", json_string(run->options.model));
    json_object_set_new(j, "inference_mode", json_true());
    json_object_set_new(j, "bias", json_string("none"));
    json_object_set_new(j, "init_lora_weights", json_true());
    json_object_set_new(j, "lora_dropout", json_real(0));
    json_object_set_new(j, "r", json_integer(8));
    json_object_set_new(j, "lora_alpha", json_integer(8));
    json_object_set_new(j, "target_modules", modules);
    json_object_set_new(j, "rank_pattern", ranks);
    json_object_set_new(j, "alpha_pattern", alphas);
    return j;
}

sy_status syi_run_adapter_to_lora(sy_run *run, const char *dir, syi_as_lora *how)
{
    syi_active *a = syi_run_active(run, SY_ADAPTER);
    if (!a || a->n_wraps == 0) return syi_fail(run->ctx, SY_E_USAGE, "there is no adapter to write as a LoRA");
    for (int i = 0; i < run->n_params; i++)
        if (!run->params[i]->owner)
            return syi_fail(run->ctx, SY_E_UNSUPPORTED, "the adapter holds %s, a tensor of the model itself, which is no low-rank update; fold it into the model instead", run->params[i]->name);
    pair *pairs = syi_calloc(run->ctx, (size_t)a->n_wraps, sizeof *pairs);
    syi_named *named = syi_calloc(run->ctx, (size_t)(2 * a->n_wraps), sizeof *named);
    sy_status st = pairs && named ? SY_OK : SY_E_MEMORY;
    double kept = 0, all = 0;
    int n = 0;
    for (int i = 0; i < a->n_wraps && st == SY_OK; i++) {
        sy_site *site = a->wraps[i]->site;
        if (!a->wraps[i]->active) continue;
        st = one(run, site, how, &pairs[i]);
        if (st != SY_OK) break;
        kept += pairs[i].kept;
        all += pairs[i].all;
        how->largest = syi_max(how->largest, pairs[i].rank);
        named[n].name = syi_arena_format(run->arena, "base_model.model.%s.lora_A.weight", site->name);
        named[n++].value = (sy_tensor){ .dtype = SY_F32, .rank = 2, .dim = { pairs[i].rank, site->in }, .data = pairs[i].a };
        named[n].name = syi_arena_format(run->arena, "base_model.model.%s.lora_B.weight", site->name);
        named[n++].value = (sy_tensor){ .dtype = SY_F32, .rank = 2, .dim = { site->out, pairs[i].rank }, .data = pairs[i].b };
        how->bytes += 4 * pairs[i].rank * (site->in + site->out);
        if (!named[n - 1].name || !named[n - 2].name) st = SY_E_MEMORY;
    }
    how->tensors = n;
    how->kept = all > 0 ? kept / all : 1;
    syi_dir out = { .ctx = NULL };
    if (st == SY_OK && dir) {
        json_t *config = config_of(run, a, pairs);
        st = syi_dir_begin(run->ctx, dir, false, &out);
        if (st == SY_OK) st = syi_adapter_write(run->ctx, out.work, config, "---\nlibrary_name: peft\n---\n\nA LoRA made of another adapter by `steelyard convert --to lora`.\n", named, n);
        if (st == SY_OK) st = syi_dir_commit(&out);
        else if (out.ctx) syi_dir_abort(&out);
        json_decref(config);
    }
    for (int i = 0; pairs && i < a->n_wraps; i++) {
        syi_free(run->ctx, pairs[i].a);
        syi_free(run->ctx, pairs[i].b);
    }
    syi_free(run->ctx, pairs);
    syi_free(run->ctx, named);
    return st;
}
