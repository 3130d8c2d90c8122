/* SPDX-License-Identifier: Apache-2.0 */
/* Methods around a model: the registry, choosing sites, attaching adapters in the order
 * init -> sites -> slots -> fill -> attach, and what methods ask of a run. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "run/run.h"

#include "base/registry.h"

#include <errno.h>
#include <pcre2.h>
#include <stdlib.h>

const char *const sy_bias_choices[] = {"none", "all", "lora_only", NULL};

const sy_method *const *sy_methods(void) { return syi_methods; }

const sy_method *sy_method_find(const char *name, int kind)
{
    for (int i = 0; syi_methods[i]; i++)
        if ((kind < 0 || (int)syi_methods[i]->kind == kind) && strcmp(syi_methods[i]->name, name) == 0) return syi_methods[i];
    for (int i = 0; syi_methods[i]; i++) {
        const sy_method *m = syi_methods[i];
        if (kind >= 0 && (int)m->kind != kind) continue;
        if ((m->also && syi_has_word(m->also, name)) || sy_preset_find(m, name)) return m;
    }
    return NULL;
}

const sy_preset *sy_preset_find(const sy_method *method, const char *name)
{
    for (const sy_preset *p = method->presets; p && p->name; p++)
        if (strcmp(p->name, name) == 0) return p;
    return NULL;
}

const char *sy_kind_name(sy_kind kind)
{
    static const char *const names[SY_KINDS] = {"adapter", "optimizer", "objective", "trainer", "compressor", "merger", "aggregator"};
    return (unsigned)kind < SY_KINDS ? names[kind] : "method";
}

sy_context *sy_run_context(const sy_run *run) { return run->ctx; }
syi_engine *sy_run_engine(const sy_run *run) { return run->engine; }
sy_model *sy_run_model(const sy_run *run) { return run->model; }
int64_t sy_run_step(const sy_run *run) { return run->step; }
int64_t sy_run_total(const sy_run *run) { return run->total; }
uint64_t sy_run_seed(const sy_run *run) { return run->options.seed; }
uint64_t sy_run_key(const sy_run *run, const char *purpose, const char *tensor)
{
    return syi_key(run->options.seed, purpose, tensor, run->step);
}
bool sy_run_planning(const sy_run *run) { return run->options.plan_only; }
const void *sy_run_adapter_config(const sy_run *run) { return run->adapter_dir ? run->adapter_dir->config : NULL; }

sy_param *const *sy_params(const sy_run *run, int *n)
{
    *n = run->n_params;
    return run->params;
}

syi_active *syi_run_active(const sy_run *run, sy_kind kind)
{
    for (int i = 0; i < run->n_active; i++)
        if (run->active[i].method->kind == kind) return &run->active[i];
    return NULL;
}

sy_use *sy_run_use(sy_run *run, sy_kind kind)
{
    syi_active *a = syi_run_active(run, kind);
    return a ? &a->use : NULL;
}

sy_status sy_run_group(sy_run *run, const char *group, double factor)
{
    for (int i = 0; i < run->n_groups; i++)
        if (strcmp(run->groups[i].name, group) == 0) return run->groups[i].factor = factor, SY_OK;
    syi_group *more = syi_arena_alloc(run->arena, (size_t)(run->n_groups + 1) * sizeof *more);
    char *name = syi_arena_strdup(run->arena, group);
    if (!more || !name) return SY_E_MEMORY;
    if (run->n_groups) memcpy(more, run->groups, (size_t)run->n_groups * sizeof *more);
    more[run->n_groups] = (syi_group){name, factor};
    run->groups = more;
    run->n_groups++;
    return SY_OK;
}

double syi_run_group_factor(const sy_run *run, const char *group)
{
    for (int i = 0; group && i < run->n_groups; i++)
        if (strcmp(run->groups[i].name, group) == 0) return run->groups[i].factor;
    return 1;
}

sy_status sy_site_dim(sy_run *run, const sy_site *site, const char *var, int64_t value)
{
    const sy_method *method = run->current ? run->current->method : NULL;
    for (int64_t i = 0; i < run->n_dims; i++)
        if (run->dims[i].method == method && run->dims[i].site == site && strcmp(run->dims[i].var, var) == 0)
            return run->dims[i].value = value, SY_OK;
    SYI_TRY(syi_grow(run->ctx, (void **)&run->dims, &run->cap_dims, run->n_dims + 1, sizeof *run->dims, 1 << 24));
    char *name = syi_arena_strdup(run->arena, var);
    if (!name) return SY_E_MEMORY;
    run->dims[run->n_dims++] = (syi_dim){method, site, name, value};
    return SY_OK;
}

/* -- choosing sites --------------------------------------------------------------------------- */

static bool same_or_suffix(const char *path, const char *name)
{
    size_t p = strlen(path), n = strlen(name);
    return strcmp(path, name) == 0 || (p > n && path[p - n - 1] == '.' && strcmp(path + p - n, name) == 0);
}

static sy_status regex_match(sy_context *ctx, const char *pattern, const char *path, bool *match)
{
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED | PCRE2_ENDANCHORED, &code, &at, NULL);
    if (!re) {
        PCRE2_UCHAR text[128];
        pcre2_get_error_message(code, text, sizeof text);
        return syi_fail(ctx, SY_E_USAGE, "target modules: \"%s\" is neither a module name nor a regular expression: %s at %d", pattern, (char *)text, (int)at);
    }
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    if (data && limits) {
        pcre2_set_match_limit(limits, 100000);
        *match = pcre2_match(re, (PCRE2_SPTR)path, strlen(path), 0, 0, data, limits) >= 0;
    }
    bool ok = data && limits;
    pcre2_match_context_free(limits);
    pcre2_match_data_free(data);
    pcre2_code_free(re);
    return ok ? SY_OK : syi_nomem(ctx, 64);
}

sy_status sy_site_match(sy_context *ctx, const sy_site *site, const sy_list *targets, bool *match)
{
    *match = false;
    for (int i = 0; i < targets->n && !*match; i++) {
        const char *t = targets->item[i];
        if (strcmp(t, "all-linear") == 0) *match = site->kind == SY_SITE_LINEAR && site->role != SY_ROLE_HEAD;
        else *match = same_or_suffix(site->name, t);
    }
    /* PEFT: a single text is also a regular expression over the whole path. */
    if (!*match && targets->n == 1 && strpbrk(targets->item[0], "\\.*+?()[]{}|^$")) return regex_match(ctx, targets->item[0], site->name, match);
    return SY_OK;
}

static sy_status layer_chosen(sy_context *ctx, const sy_list *layers, int block, bool *yes)
{
    *yes = layers->n == 0;
    for (int i = 0; i < layers->n; i++) {
        char *end;
        errno = 0;
        long v = strtol(layers->item[i], &end, 10);
        if (*end || end == layers->item[i] || errno || v < 0)
            return syi_fail(ctx, SY_E_USAGE, "layers-to-transform: \"%s\" is not a block number", layers->item[i]);
        *yes |= block == v;
    }
    return SY_OK;
}

/* Is `name` the path, or a piece of it between dots? */
static bool inside(const char *path, const char *name)
{
    const size_t n = strlen(name);
    for (const char *at = path; n && (at = strstr(at, name)); at++)
        if ((at == path || at[-1] == '.') && (at[n] == 0 || at[n] == '.')) return true;
    return false;
}

static sy_status chosen(sy_run *run, const sy_adapter_common *c, const sy_site *s, bool *yes)
{
    *yes = false;
    if (s->kind != SY_SITE_LINEAR && s->kind != SY_SITE_EMBED) return SY_OK;
    SYI_TRY(sy_site_match(run->ctx, s, &c->target_modules, yes));
    if (!*yes) return SY_OK;
    bool out = false;
    if (c->exclude_modules.n) SYI_TRY(sy_site_match(run->ctx, s, &c->exclude_modules, &out));
    /* A module that is trained whole has no adapter as well. */
    for (int i = 0; i < c->modules_to_save.n; i++) out |= inside(s->name, c->modules_to_save.item[i]);
    if (out) return *yes = false, SY_OK;
    return layer_chosen(run->ctx, &c->layers_to_transform, s->block, yes);
}

static bool is_adapter(const syi_active *a) { return a->method->kind == SY_ADAPTER && !(a->method->caps & SY_CAP_TRAINS_MODEL); }

int sy_sites(sy_run *run, sy_site **out, int max)
{
    int n = 0;
    sy_model *m = run->model;
    for (int i = 0; i < m->n_sites; i++) {
        bool yes = true;
        if (run->current && is_adapter(run->current) && chosen(run, run->current->self, &m->sites[i], &yes) != SY_OK) continue;
        if (!yes) continue;
        if (n < max) out[n] = &m->sites[i];
        n++;
    }
    return n;
}

sy_status sy_site_replace(sy_run *run, sy_site *site, float *take)
{
    sy_status s = syi_model_set_weight(run->model, site, take);
    syi_free(run->ctx, take);
    return s;
}

/* -- attaching -------------------------------------------------------------------------------------- */

static bool left_out(const sy_run *run, const syi_active *a, const sy_site *site)
{
    for (int64_t i = 0; i < run->n_dims; i++)
        if (run->dims[i].method == a->method && run->dims[i].site == site && run->dims[i].value == 0) return true;
    return false;
}

static sy_status wrap_site(sy_run *run, syi_active *a, sy_site *site)
{
    if (!site->wraps) {
        site->wraps = syi_arena_alloc(run->arena, (size_t)run->n_active * sizeof *site->wraps);
        if (!site->wraps) return SY_E_MEMORY;
    }
    sy_wrap *w = &site->wraps[site->n_wraps];
    *w = (sy_wrap){.method = a->method, .self = a->self, .site = site, .active = true};
    w->own = a->method->at_size ? syi_arena_alloc(run->arena, a->method->at_size) : NULL;
    if (a->method->at_size && !w->own) return SY_E_MEMORY;
    site->n_wraps++;
    a->wraps[a->n_wraps++] = w;
    return SY_OK;
}

/* modules_to_save and trained biases: parameters of the model itself. */
static sy_status common_params(sy_run *run, syi_active *a)
{
    sy_model *m = run->model;
    const sy_adapter_common *c = a->self;
    for (int k = 0; k < c->modules_to_save.n; k++) {
        const char *name = c->modules_to_save.item[k];
        int found = 0;
        for (int i = 0; i < m->n_sites; i++)
            if (syi_ends(m->sites[i].name, name)) { /* as PEFT: "norm" is input_layernorm too */
                if (m->sites[i].n_wraps)
                    return syi_fail(run->ctx, SY_E_USAGE, "modules-to-save: %s is also a target of the adapter %s; exclude it from one of them", m->sites[i].name, a->method->name);
                /* As PEFT does: the copy that is trained no longer shares with the other end. */
                SYI_TRY(syi_model_untie(m, &m->sites[i]));
                SYI_TRY(syi_model_train_site(m, &m->sites[i]));
                SYI_TRY(syi_run_add_param(run, m->sites[i].weight->param));
                if (m->sites[i].bias) SYI_TRY(syi_run_add_param(run, m->sites[i].bias));
                found++;
            }
        for (int i = 0; i < m->n_params; i++) {
            char module[256];
            snprintf(module, sizeof module, "%s", m->params[i].name);
            char *dot = strrchr(module, '.');
            if (dot) *dot = 0;
            if (!m->params[i].site && syi_ends(module, name)) {
                SYI_TRY(syi_run_add_param(run, &m->params[i]));
                found++;
            }
        }
        if (!found) return syi_fail(run->ctx, SY_E_USAGE, "modules-to-save: the model has no module \"%s\"", name);
    }
    if (c->bias)
        for (int i = 0; i < m->n_sites; i++)
            if (m->sites[i].bias && (c->bias == 1 || m->sites[i].n_wraps)) SYI_TRY(syi_run_add_param(run, m->sites[i].bias));
    return SY_OK;
}

static sy_status attach_adapter(sy_run *run, syi_active *a)
{
    sy_model *m = run->model;
    a->wraps = syi_arena_alloc(run->arena, (size_t)m->n_sites * sizeof *a->wraps);
    if (!a->wraps) return SY_E_MEMORY;
    for (int i = 0; i < m->n_sites; i++) {
        bool yes;
        SYI_TRY(chosen(run, a->self, &m->sites[i], &yes));
        if (!yes || left_out(run, a, &m->sites[i])) continue;
        SYI_TRY(wrap_site(run, a, &m->sites[i]));
    }
    const sy_adapter_common *c = a->self;
    if (a->n_wraps == 0) {
        syi_text t;
        syi_text_init(&t, run->ctx, 4096);
        for (int i = 0; i < c->target_modules.n; i++) syi_text_printf(&t, "%s%s", i ? ", " : "", c->target_modules.item[i]);
        sy_status s = syi_fail(run->ctx, SY_E_USAGE, "adapter %s: no module of the model matches the targets (%s); \"steelyard inspect\" lists them", a->method->name, t.s ? t.s : "");
        syi_text_free(&t);
        return s;
    }
    for (int i = 0; i < a->n_wraps; i++) SYI_TRY(syi_run_make_slots(run, a, a->wraps[i]));
    SYI_TRY(common_params(run, a));
    /* A loaded adapter's tensors come after: attach may edit the base (PiSSA). */
    if (a->method->attach && !run->options.plan_only)
        for (int i = 0; i < a->n_wraps; i++) SYI_TRY(a->method->attach(a->self, run, a->wraps[i]));
    return SY_OK;
}

sy_status syi_run_attach(sy_run *run)
{
    sy_model *m = run->model;
    if (run->options.training)
        for (int i = 0; i < m->n_params; i++)
            if (m->params[i].trained || m->params[i].buffer) SYI_TRY(syi_run_add_param(run, &m->params[i]));
    for (int i = 0; i < run->n_active; i++) {
        syi_active *a = run->current = &run->active[i];
        sy_status s = a->method->init ? a->method->init(a->self, run) : SY_OK;
        if (s == SY_OK && is_adapter(a)) s = attach_adapter(run, a);
        run->current = NULL;
        if (s != SY_OK) return s;
    }
    for (int i = 0; i < run->n_params; i++) run->params[i]->stale = run->params[i]->compute.data != run->params[i]->value.data;
    return SY_OK;
}

sy_status syi_run_add_param(sy_run *run, sy_param *p)
{
    for (int i = 0; i < run->n_params; i++)
        if (run->params[i] == p) return SY_OK;
    SYI_TRY(syi_grow(run->ctx, (void **)&run->params, &run->cap_params, run->n_params + 1, sizeof *run->params, 1 << 24));
    if (!p->owner) p->trained = !p->buffer;
    run->params[run->n_params++] = p;
    return SY_OK;
}
