/* SPDX-License-Identifier: Apache-2.0 */
/* From slot rows to parameters: shapes, conditions, sharing, first values, gradients and
 * optimizer state. */
#include "run/run.h"

#include "base/options.h"

#include <math.h>
#include <stdlib.h>

/* -- option fields as numbers and conditions ------------------------------------------------ */

static const sy_option *option_of(const sy_method *m, const char *name, size_t len)
{
    for (const sy_option *o = m->options; o && o->name; o++) {
        if (strlen(o->name) == len && strncmp(o->name, name, len) == 0) return o;
        if (o->peft && strlen(o->peft) == len && strncmp(o->peft, name, len) == 0) return o;
    }
    return NULL;
}

static bool option_on(const sy_option *o, const void *self)
{
    const char *at = (const char *)self + o->offset;
    switch (o->type) {
    case SY_OPT_BOOL: return *(const bool *)at;
    case SY_OPT_INT: case SY_OPT_SIZE: return *(const int64_t *)at != 0;
    case SY_OPT_FLOAT: return *(const double *)at != 0;
    case SY_OPT_ENUM: return *(const int *)at != 0;
    case SY_OPT_LIST: return ((const sy_list *)at)->n > 0;
    case SY_OPT_MAP: return ((const sy_map *)at)->n > 0;
    default: return *(char *const *)at && **(char *const *)at;
    }
}

static bool option_is(const sy_option *o, const void *self, const char *text, size_t len)
{
    const char *at = (const char *)self + o->offset;
    char buf[64];
    const char *value = buf;
    switch (o->type) {
    case SY_OPT_BOOL: value = *(const bool *)at ? "true" : "false"; break;
    case SY_OPT_INT: snprintf(buf, sizeof buf, "%lld", (long long)*(const int64_t *)at); break;
    case SY_OPT_ENUM: value = o->choices[*(const int *)at]; break;
    case SY_OPT_STRING: case SY_OPT_PATH: value = *(char *const *)at ? *(char *const *)at : ""; break;
    default: return false;
    }
    /* "pissa=true": our word comes first */
    size_t n = strcspn(value, "=");
    return n == len && strncmp(value, text, len) == 0;
}

bool syi_slot_when(const syi_active *a, const sy_site *site, const sy_slot *slot)
{
    for (const char *p = slot->when ? slot->when : ""; *p;) {
        p += strspn(p, " ");
        size_t n = strcspn(p, " ");
        if (!n) break;
        const char *term = p;
        p += n;
        bool negate = *term == '!';
        if (negate) term++, n--;
        const char *eq = memchr(term, '=', n);
        size_t name = eq ? (size_t)(eq - term) : n;
        bool yes;
        if (name == 4 && strncmp(term, "site", 4) == 0) {
            if (!site) continue;
            const char *kind = site->kind == SY_SITE_EMBED ? "embed" : site->kind == SY_SITE_NORM ? "norm" : "linear";
            yes = eq && strlen(kind) == n - name - 1 && strncmp(eq + 1, kind, n - name - 1) == 0;
        } else {
            const sy_option *o = option_of(a->method, term, name);
            yes = o && (eq ? option_is(o, a->self, eq + 1, n - name - 1) : option_on(o, a->self));
        }
        if (yes == negate) return false;
    }
    return true;
}

/* -- shapes -------------------------------------------------------------------------------------- */

static sy_status variable(sy_run *run, const syi_active *a, const sy_site *site, const char *word, int64_t in, int64_t out, int64_t *value)
{
    if (strcmp(word, "in") == 0) return *value = in, SY_OK;
    if (strcmp(word, "out") == 0) return *value = out, SY_OK;
    if (strcmp(word, "small") == 0) return *value = syi_min(in, out), SY_OK;
    if (strcmp(word, "large") == 0) return *value = syi_max(in, out), SY_OK;
    for (int own = site != NULL; own >= 0; own--) /* the site's own first */
        for (int64_t i = 0; i < run->n_dims; i++) {
            const syi_dim *d = &run->dims[i];
            if (d->method == a->method && strcmp(d->var, word) == 0 && d->site == (own ? site : NULL)) return *value = d->value, SY_OK;
        }
    const sy_option *o = option_of(a->method, word, strlen(word));
    if (o && o->type == SY_OPT_INT) return *value = *(const int64_t *)((const char *)a->self + o->offset), SY_OK;
    return syi_fail(run->ctx, SY_E_BUG, "method %s: slot shapes use \"%s\", which is neither an integer option nor set by sy_site_dim", a->method->name, word);
}

sy_status syi_slot_shape(sy_run *run, const syi_active *a, const sy_site *site, const sy_slot *slot, int *rank, int64_t *dim)
{
    int64_t in = site ? site->in : 0, out = site ? site->out : 0;
    if (slot->flags & SY_SLOT_SHARE_ALL)
        for (int i = 0; i < a->n_wraps; i++) {
            in = syi_max(in, a->wraps[i]->site->in);
            out = syi_max(out, a->wraps[i]->site->out);
        }
    *rank = 0;
    for (const char *p = slot->shape; *p;) {
        int64_t d = 1;
        for (;;) {
            p += strspn(p, " ");
            size_t n = strcspn(p, "*, ");
            char word[64];
            if (!n || n >= sizeof word || *rank == SY_MAX_RANK) return syi_fail(run->ctx, SY_E_BUG, "method %s: bad slot shape \"%s\"", a->method->name, slot->shape);
            memcpy(word, p, n);
            word[n] = 0;
            int64_t v = 0;
            if (word[0] >= '0' && word[0] <= '9') v = strtoll(word, NULL, 10);
            else SYI_TRY(variable(run, a, slot->flags & SY_SLOT_SHARE_ALL ? NULL : site, word, in, out, &v));
            if (v < 0 || !syi_size_mul(d, v, &d)) return syi_fail(run->ctx, SY_E_USAGE, "method %s: a tensor of shape %s would be too large", a->method->name, slot->shape);
            p += n;
            p += strspn(p, " ");
            if (*p != '*') break;
            p++;
        }
        dim[(*rank)++] = d;
        if (*p == ',') p++;
    }
    return SY_OK;
}

/* -- values --------------------------------------------------------------------------------------------- */

static void fill(const sy_run *run, const sy_method *m, sy_param *p)
{
    int64_t n = sy_tensor_count(&p->value), fan_in = syi_max(1, sy_tensor_cols(&p->value));
    uint64_t key = syi_key(run->options.seed, m->name, p->name, 0);
    const sy_slot *s = p->slot;
    double bound = s->fill == SY_FILL_UNIFORM ? s->a : s->fill == SY_FILL_KAIMING ? 1 / sqrt((double)fan_in) : sqrt(6 / (double)fan_in);
    float piece[4096];
    for (int64_t first = 0; first < n; first += SYI_COUNT(piece)) {
        int64_t count = syi_min(SYI_COUNT(piece), n - first);
        switch (s->fill) {
        case SY_FILL_ONE: for (int64_t i = 0; i < count; i++) piece[i] = 1; break;
        case SY_FILL_CONST: for (int64_t i = 0; i < count; i++) piece[i] = (float)s->a; break;
        case SY_FILL_UNIFORM: case SY_FILL_KAIMING: case SY_FILL_KAIMING_RELU:
            syi_uniform(key, first, count, piece);
            for (int64_t i = 0; i < count; i++) piece[i] = (float)((2 * (double)piece[i] - 1) * bound);
            break;
        case SY_FILL_NORMAL:
            syi_normal(key, first, count, piece);
            for (int64_t i = 0; i < count; i++) piece[i] = (float)(piece[i] * s->a);
            break;
        default: memset(piece, 0, sizeof piece);
        }
        if (p->value.dtype == SY_F64)
            for (int64_t i = 0; i < count; i++) ((double *)p->value.data)[first + i] = piece[i];
        else
            memcpy((float *)p->value.data + first, piece, (size_t)count * sizeof *piece);
    }
}

static sy_status make_param(sy_run *run, syi_active *a, sy_site *site, const sy_slot *slot, sy_param **out)
{
    sy_param *p = syi_arena_alloc(run->arena, sizeof *p);
    if (!p) return SY_E_MEMORY;
    p->name = slot->flags & SY_SLOT_SHARE_ALL ? slot->name : syi_arena_format(run->arena, "base_model.model.%s%s", site->name, slot->name);
    if (!p->name) return SY_E_MEMORY;
    p->role = site ? site->role : SY_ROLE_NONE;
    p->site = slot->flags & SY_SLOT_SHARE_ALL ? NULL : site;
    p->slot = slot;
    p->owner = a->method;
    p->group = slot->group ? slot->group : "default";
    p->trained = (slot->flags & SY_SLOT_TRAIN) && run->options.training;
    bool f64 = run->options.dtype == SY_F64;
    p->value.dtype = f64 ? SY_F64 : SY_F32;
    SYI_TRY(syi_slot_shape(run, a, site, slot, &p->value.rank, p->value.dim));
    p->decay = p->value.rank > 1 && !(slot->flags & SY_SLOT_NO_DECAY);
    p->compute = p->value;
    bool copy = run->options.dtype == SY_BF16 && p->value.rank > 1 && !(slot->flags & (SY_SLOT_STATE | SY_SLOT_WIDE));
    p->capacity = sy_tensor_count(&p->value);
    if (!run->options.plan_only) {
        SYI_TRY(syi_model_pages(run->model, sy_tensor_bytes(&p->value), &p->value.data));
        p->compute.data = p->value.data;
    }
    if (copy) {
        p->compute.dtype = SY_BF16;
        SYI_TRY(syi_model_pages(run->model, sy_tensor_bytes(&p->compute), &p->compute.data));
    }
    if (p->value.data) fill(run, a->method, p);
    *out = p;
    return syi_run_add_param(run, p);
}

static bool same_shape(const sy_site *x, const sy_site *y) { return x->in == y->in && x->out == y->out && x->kind == y->kind; }

sy_status syi_run_make_slots(sy_run *run, syi_active *a, sy_wrap *w)
{
    const sy_slot *rows = a->method->slots;
    int n = 0;
    for (const sy_slot *s = rows; s && s->name; s++) n++;
    w->n_slots = n;
    if (!n) return SY_OK;
    w->slot = syi_arena_alloc(run->arena, (size_t)n * sizeof *w->slot);
    if (!a->shared) a->shared = syi_arena_alloc(run->arena, (size_t)n * sizeof *a->shared);
    if (!w->slot || !a->shared) return SY_E_MEMORY;
    for (int i = 0; i < n; i++) {
        if (!syi_slot_when(a, w->site, &rows[i]) || ((rows[i].flags & SY_SLOT_STATE) && !run->options.training)) continue;
        if (rows[i].flags & SY_SLOT_SHARE_ALL) {
            if (!a->shared[i]) SYI_TRY(make_param(run, a, w->site, &rows[i], &a->shared[i]));
            w->slot[i] = a->shared[i];
            continue;
        }
        if (rows[i].flags & SY_SLOT_SHARE_SHAPE)
            for (int k = 0; k < a->n_wraps && !w->slot[i]; k++)
                if (a->wraps[k] != w && a->wraps[k]->slot && a->wraps[k]->slot[i] && same_shape(a->wraps[k]->site, w->site))
                    w->slot[i] = a->wraps[k]->slot[i];
        if (!w->slot[i]) SYI_TRY(make_param(run, a, w->site, &rows[i], &w->slot[i]));
    }
    return SY_OK;
}

/* -- the optimizer's state ------------------------------------------------------------------------------------ */

sy_status syi_run_make_states(sy_run *run)
{
    syi_active *o = syi_run_active(run, SY_OPTIMIZER);
    if (!o || !o->method->slots) return SY_OK;
    const sy_slot *rows = o->method->slots;
    int n = 0;
    for (const sy_slot *s = rows; s->name; s++) n += syi_slot_when(o, NULL, s);
    for (int i = 0; i < run->n_params; i++) {
        sy_param *p = run->params[i];
        if (!p->trained || p->state) continue;
        p->state = syi_arena_alloc(run->arena, (size_t)n * sizeof *p->state);
        if (!p->state) return SY_E_MEMORY;
        int k = 0;
        for (const sy_slot *s = rows; s->name; s++) {
            if (!syi_slot_when(o, NULL, s)) continue;
            sy_tensor *t = &p->state[k++];
            *t = p->value;
            t->data = NULL;
            if (strcmp(s->shape, "=") != 0) SYI_TRY(syi_slot_shape(run, o, p->site, s, &t->rank, t->dim));
            SYI_TRY(syi_model_pages(run->model, sy_tensor_bytes(t), &t->data));
        }
        p->n_state = n;
    }
    return SY_OK;
}
