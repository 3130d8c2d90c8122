/* SPDX-License-Identifier: Apache-2.0 */
/* The verb "adapters": arithmetic on LoRA adapters without their base model. Merging several
 * (by factors, by concatenation, or by their products and a truncated SVD, with TIES' or
 * DARE's thinning in between), extracting one from two checkpoints, changing a rank. */
#include "run/job.h"

#include "io/io.h"
#include "model/model.h"
#include "io/checkpoint.h"
#include "io/source.h"
#include "tensor/orth.h"

#include <math.h>
#include <stdlib.h>

typedef enum { MERGE, EXTRACT, RESIZE } action;
static const char *const actions[] = { "merge", "extract", "resize", NULL };
typedef enum { CAT, LINEAR, SVD, TIES, DARE } combination;
static const char *const combinations[] = { "cat", "linear", "svd", "ties", "dare", NULL };

typedef struct {
    int action, combine;
    sy_list adapters;
    char *model, *base, *out;
    sy_list weights;
    int64_t rank;
    double energy, density;
} lora_self;

static const sy_option rows[] = {
    { .name = "action", .type = SY_OPT_ENUM, .offset = offsetof(lora_self, action), .def = "merge", .choices = actions, .flags = SY_OPT_POSITION, .help = "what to do", .example = "merge" },
    { .name = "adapters", .type = SY_OPT_LIST, .offset = offsetof(lora_self, adapters), .flags = SY_OPT_POSITION, .help = "adapter folders (merge: several, resize: one)",
      .example = "models/tiny/devil-lora" },
    { .name = "model", .type = SY_OPT_PATH, .offset = offsetof(lora_self, model), .help = "extract: the fine-tuned model", .example = "models/tiny" },
    { .name = "base", .type = SY_OPT_PATH, .offset = offsetof(lora_self, base), .alias = "base_model", .help = "extract: the model that it was fine-tuned from", .example = "models/tiny" },
    { .name = "out", .type = SY_OPT_PATH, .offset = offsetof(lora_self, out), .help = "adapter folder that does not exist yet", .example = "merged-lora" },
    { .name = "weights", .type = SY_OPT_LIST, .offset = offsetof(lora_self, weights), .help = "merge: a factor for each adapter (1 each)", .example = "0.5,0.5" },
    { .name = "combine", .type = SY_OPT_ENUM, .offset = offsetof(lora_self, combine), .def = "cat", .choices = combinations, .alias = "combination_type",
      .help = "merge: cat is exact and adds ranks up; linear mixes factors of one rank; svd, ties and dare truncate to rank or energy", .example = "svd" },
    { .name = "rank", .type = SY_OPT_INT, .offset = offsetof(lora_self, rank), .def = "0", .min = 0, .max = 65536, .alias = "svd_rank max_rank", .help = "rank of the result (0: by energy)", .example = "16" },
    { .name = "energy", .type = SY_OPT_FLOAT, .offset = offsetof(lora_self, energy), .def = "0", .min = 0, .max = 1,
      .help = "keep as many singular values as hold this share of their squares (0: by rank)", .example = "0.99" },
    { .name = "density", .type = SY_OPT_FLOAT, .offset = offsetof(lora_self, density), .def = "0.5", .min = 0, .max = 1, .flags = SY_OPT_MIN_OPEN,
      .help = "ties, dare: share of each product that is kept", .example = "0.3" },
    { .name = NULL }
};

/* One module's update: scale B A. */
typedef struct { char *module; int64_t rank, out, in; double *b, *a; } pair; /* b[out,rank] holds the scale */
typedef struct { syi_adapter_dir *dir; pair *pair; int n; } adapter;

typedef struct { sy_context *ctx; lora_self *o; syi_arena *arena; adapter from[64]; pair *result; int n; double kept, all; } work_;

/* -- reading ------------------------------------------------------------------------------------ */

/* PEFT's patterns: a key is the end of a module's path. */
static double pattern(const json_t *patterns, const char *module, double otherwise)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)patterns, key, v) {
        const size_t m = strlen(module), k = strlen(key);
        if (k <= m && strcmp(module + m - k, key) == 0 && (k == m || module[m - k - 1] == '.')) return json_number_value(v);
    }
    return otherwise;
}

static sy_status read_pair(work_ *w, adapter *a, const sy_entry *ea, const char *module)
{
    const json_t *c = a->dir->config;
    char *name = syi_arena_format(w->arena, "base_model.model.%s.lora_B.weight", module);
    const sy_entry *eb = name ? sy_checkpoint_find(a->dir->tensors, name) : NULL;
    if (!name) return SY_E_MEMORY;
    if (!eb || ea->rank != 2 || eb->rank != 2 || eb->dim[1] != ea->dim[0])
        return syi_fail(w->ctx, SY_E_INPUT, "%s: %s: lora_A and lora_B do not fit each other", a->dir->path, module);
    pair *p = &a->pair[a->n++];
    *p = (pair){ .rank = ea->dim[0], .out = eb->dim[0], .in = ea->dim[1] };
    const double alpha = pattern(json_object_get(c, "alpha_pattern"), module, json_number_value(json_object_get(c, "lora_alpha")));
    const double scale = json_is_true(json_object_get(c, "use_rslora")) ? alpha / sqrt((double)p->rank) : alpha / (double)p->rank;
    float *f = syi_alloc(w->ctx, (size_t)(p->rank * syi_max(p->in, p->out)) * sizeof *f);
    p->module = syi_arena_strdup(w->arena, module);
    p->a = syi_arena_alloc(w->arena, (size_t)(p->rank * p->in) * sizeof *p->a);
    p->b = syi_arena_alloc(w->arena, (size_t)(p->rank * p->out) * sizeof *p->b);
    sy_status st = f && p->module && p->a && p->b ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK) st = sy_entry_read_f32(w->ctx, ea, 0, p->rank, f);
    for (int64_t i = 0; st == SY_OK && i < p->rank * p->in; i++) p->a[i] = (double)f[i];
    if (st == SY_OK) st = sy_entry_read_f32(w->ctx, eb, 0, p->out, f);
    for (int64_t i = 0; st == SY_OK && i < p->rank * p->out; i++) p->b[i] = scale * (double)f[i];
    syi_free(w->ctx, f);
    return st;
}

static sy_status read_adapter(work_ *w, const char *path, adapter *a)
{
    static const char prefix[] = "base_model.model.", suffix[] = ".lora_A.weight";
    SYI_TRY(syi_adapter_open(w->ctx, path, &a->dir));
    const char *type = json_string_value(json_object_get(a->dir->config, "peft_type"));
    if (strcmp(type, "LORA") != 0 || json_is_true(json_object_get(a->dir->config, "use_dora")))
        return syi_fail(w->ctx, SY_E_UNSUPPORTED, "%s: a plain LoRA is needed, this is %s; fold it into its model and extract a LoRA from the two", path,
                        strcmp(type, "LORA") == 0 ? "DoRA" : type);
    const int64_t n = sy_checkpoint_count(a->dir->tensors);
    a->pair = syi_arena_alloc(w->arena, (size_t)(n + 1) * sizeof *a->pair);
    if (!a->pair) return SY_E_MEMORY;
    for (int64_t i = 0; i < n; i++) {
        const sy_entry *e = sy_checkpoint_at(a->dir->tensors, i);
        if (syi_starts(e->name, prefix) && syi_ends(e->name, ".lora_B.weight")) continue;
        if (!syi_starts(e->name, prefix) || !syi_ends(e->name, suffix))
            return syi_fail(w->ctx, SY_E_UNSUPPORTED, "%s: tensor %s is not a factor of a linear layer's LoRA, so it cannot be added up", path, e->name);
        char *module = syi_arena_format(w->arena, "%.*s", (int)(strlen(e->name) - strlen(prefix) - strlen(suffix)), e->name + strlen(prefix));
        if (!module) return SY_E_MEMORY;
        SYI_TRY(read_pair(w, a, e, module));
    }
    return a->n ? SY_OK : syi_fail(w->ctx, SY_E_INPUT, "%s: holds no LoRA factors", path);
}

/* -- ranks -------------------------------------------------------------------------------------- */

/* How many of the singular values stay, largest first. */
static int64_t keep(work_ *w, const double *s, int64_t n)
{
    double all = 0, kept = 0;
    int64_t r = 0;
    for (int64_t i = 0; i < n; i++) all += s[i] * s[i];
    if (w->o->energy > 0) {
        while (r < n && kept < w->o->energy * all) kept += s[r] * s[r], r++;
        if (w->o->rank) r = syi_min(r, w->o->rank);
    } else {
        r = w->o->rank ? syi_min(w->o->rank, n) : n;
    }
    r = syi_max(1, r);
    kept = 0;
    for (int64_t i = 0; i < r; i++) kept += s[i] * s[i];
    w->kept += kept;
    w->all += all;
    return r;
}

/* out: B = U sqrt(S), A = sqrt(S) V^T of the leading triplets. */
static sy_status from_triplets(work_ *w, pair *p, const double *ut, const double *s, const double *vt, int64_t n)
{
    p->rank = keep(w, s, n);
    p->a = syi_arena_alloc(w->arena, (size_t)(p->rank * p->in) * sizeof *p->a);
    p->b = syi_arena_alloc(w->arena, (size_t)(p->rank * p->out) * sizeof *p->b);
    if (!p->a || !p->b) return SY_E_MEMORY;
    for (int64_t r = 0; r < p->rank; r++) {
        const double root = sqrt(s[r]);
        for (int64_t i = 0; i < p->in; i++) p->a[r * p->in + i] = root * vt[r * p->in + i];
        for (int64_t o = 0; o < p->out; o++) p->b[o * p->rank + r] = root * ut[r * p->out + o];
    }
    return SY_OK;
}

static sy_status numeric(work_ *w, sy_status st, const char *module)
{
    if (st != SY_E_NUMERIC) return st;
    return syi_fail(w->ctx, st, "%s: its decomposition failed: numbers that are not finite?", module);
}

/* Truncates b[out,k] a[k,in]. */
static sy_status truncate_product(work_ *w, pair *p, const double *b, const double *a, int64_t k)
{
    const int64_t small = syi_min(p->out, p->in);
    double *x = syi_alloc(w->ctx, (size_t)(syi_min(k, small) * (p->out + p->in + 1) + (k > small ? p->out * p->in : 0)) * sizeof *x);
    if (!x) return SY_E_MEMORY;
    const int64_t n = syi_min(k, small);
    double *ut = x, *s = ut + n * p->out, *vt = s + n, *whole = vt + n * p->in;
    sy_status st;
    if (k <= small) {
        st = syi_factored_svd(w->ctx, p->out, p->in, k, b, a, ut, s, vt);
    } else {
        syi_mul_f64(false, false, p->out, p->in, k, 1, b, a, 0, whole);
        st = syi_leading(w->ctx, p->out, p->in, whole, n, ut, s, vt);
    }
    if (st == SY_OK) st = from_triplets(w, p, ut, s, vt, n);
    syi_free(w->ctx, x);
    return numeric(w, st, p->module);
}

/* -- merging -------------------------------------------------------------------------------------- */

static const pair *find(const adapter *a, const char *module)
{
    for (int i = 0; i < a->n; i++)
        if (strcmp(a->pair[i].module, module) == 0) return &a->pair[i];
    return NULL;
}

static int by_size(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;
    return a < b ? 1 : a > b ? -1 : 0;
}

/* The thinned products of all adapters, combined: TIES (signs elected, agreeing ones averaged by
 * weight) or DARE (random, 1/density). */
static sy_status thinned(work_ *w, const pair *const *p, const double *weight, int n, double *out, uint64_t seed)
{
    const int64_t count = p[0]->out * p[0]->in;
    double *d = syi_alloc(w->ctx, (size_t)(count * (n + 1)) * sizeof *d), *sorted = d ? d + count * n : NULL;
    if (!d) return SY_E_MEMORY;
    for (int k = 0; k < n; k++) {
        double *x = d + k * count;
        syi_mul_f64(false, false, p[k]->out, p[k]->in, p[k]->rank, 1, p[k]->b, p[k]->a, 0, x);
        if (w->o->combine == DARE) {
            const uint64_t key = syi_key(seed, "lora dare", p[0]->module, k);
            for (int64_t i = 0; i < count; i += 4096) {
                float u[4096];
                const int64_t m = syi_min(4096, count - i);
                syi_uniform(key, i, m, u);
                for (int64_t j = 0; j < m; j++) x[i + j] *= (double)u[j] < w->o->density ? 1 / w->o->density : 0;
            }
        } else {
            const int64_t keep_ = syi_max(1, (int64_t)(w->o->density * (double)count));
            for (int64_t i = 0; i < count; i++) sorted[i] = fabs(x[i]);
            qsort(sorted, (size_t)count, sizeof *sorted, by_size);
            for (int64_t i = 0; i < count; i++) x[i] = fabs(x[i]) >= sorted[keep_ - 1] ? x[i] : 0;
        }
    }
    for (int64_t i = 0; i < count; i++) {
        double sum = 0, top = 0, down = 0;
        for (int k = 0; k < n; k++) sum += weight[k] * d[k * count + i];
        for (int k = 0; k < n; k++) {
            const double e = weight[k] * d[k * count + i];
            if ((sum >= 0 ? e : -e) <= 0) continue;
            top += e;
            down += weight[k];
        }
        out[i] = w->o->combine == DARE ? sum : top / (down == 0 ? 1 : down);
    }
    syi_free(w->ctx, d);
    return SY_OK;
}

static sy_status merge_module(work_ *w, const char *module, const double *weight, pair *out, uint64_t seed)
{
    const pair *p[64];
    double by[64];
    int n = 0;
    int64_t k = 0;
    for (int i = 0; i < w->o->adapters.n; i++) {
        const pair *x = find(&w->from[i], module);
        if (!x) continue;
        if (n && (x->out != p[0]->out || x->in != p[0]->in))
            return syi_fail(w->ctx, SY_E_INPUT, "%s: %s is a layer of %lld x %lld in one adapter and %lld x %lld in another: they are of different models", w->from[i].dir->path, module,
                            (long long)p[0]->out, (long long)p[0]->in, (long long)x->out, (long long)x->in);
        p[n] = x;
        by[n++] = weight[i];
        k += x->rank;
    }
    *out = (pair){ .module = p[0]->module, .out = p[0]->out, .in = p[0]->in };
    if (w->o->combine == LINEAR) {
        out->rank = p[0]->rank;
        out->a = syi_arena_alloc(w->arena, (size_t)(out->rank * out->in) * sizeof *out->a);
        out->b = syi_arena_alloc(w->arena, (size_t)(out->rank * out->out) * sizeof *out->b);
        if (!out->a || !out->b) return SY_E_MEMORY;
        for (int i = 0; i < n; i++) { /* each factor takes the root of the weight; its sign goes to B */
            const double root = sqrt(fabs(by[i]));
            if (p[i]->rank != out->rank)
                return syi_fail(w->ctx, SY_E_USAGE, "%s: factors of rank %lld and %lld cannot be mixed; use --combine cat or svd", module, (long long)out->rank, (long long)p[i]->rank);
            for (int64_t j = 0; j < out->rank * out->in; j++) out->a[j] += root * p[i]->a[j];
            for (int64_t j = 0; j < out->rank * out->out; j++) out->b[j] += (by[i] < 0 ? -root : root) * p[i]->b[j];
        }
        return SY_OK;
    }
    if (w->o->combine == TIES || w->o->combine == DARE) {
        const int64_t small = syi_min(out->out, out->in);
        double *whole = syi_alloc(w->ctx, (size_t)(out->out * out->in + small * (out->out + out->in + 1)) * sizeof *whole);
        if (!whole) return SY_E_MEMORY;
        double *ut = whole + out->out * out->in, *s = ut + small * out->out, *vt = s + small;
        sy_status st = thinned(w, p, by, n, whole, seed);
        if (st == SY_OK) st = syi_leading(w->ctx, out->out, out->in, whole, small, ut, s, vt);
        if (st == SY_OK) st = from_triplets(w, out, ut, s, vt, small);
        syi_free(w->ctx, whole);
        return numeric(w, st, module);
    }
    double *b = syi_arena_alloc(w->arena, (size_t)(k * out->out) * sizeof *b), *a = syi_arena_alloc(w->arena, (size_t)(k * out->in) * sizeof *a);
    if (!a || !b) return SY_E_MEMORY;
    for (int i = 0, at = 0; i < n; at += (int)p[i]->rank, i++) {
        memcpy(a + at * out->in, p[i]->a, (size_t)(p[i]->rank * out->in) * sizeof *a);
        for (int64_t o = 0; o < out->out; o++)
            for (int64_t r = 0; r < p[i]->rank; r++) b[o * k + at + r] = by[i] * p[i]->b[o * p[i]->rank + r];
    }
    if (w->o->combine == CAT) {
        out->rank = k;
        out->a = a;
        out->b = b;
        return SY_OK;
    }
    return truncate_product(w, out, b, a, k);
}

static sy_status merge(work_ *w, uint64_t seed)
{
    double weight[64];
    const sy_list *list = &w->o->adapters;
    if (list->n < 1 || list->n > 64) return syi_fail(w->ctx, SY_E_USAGE, "adapters merge: 1 to 64 adapter folders are needed, found %d", list->n);
    if (w->o->weights.n && w->o->weights.n != list->n) return syi_fail(w->ctx, SY_E_USAGE, "--weights: %d factors for %d adapters", w->o->weights.n, list->n);
    if (w->o->combine >= SVD && !w->o->rank && w->o->energy == 0) return syi_fail(w->ctx, SY_E_USAGE, "--combine %s needs --rank or --energy", combinations[w->o->combine]);
    int most = 0;
    for (int i = 0; i < list->n; i++) {
        weight[i] = 1;
        if (w->o->weights.n && !syi_parse_double(w->o->weights.item[i], &weight[i])) return syi_fail(w->ctx, SY_E_USAGE, "--weights: \"%s\" is not a number", w->o->weights.item[i]);
        SYI_TRY(read_adapter(w, list->item[i], &w->from[i]));
        most += w->from[i].n;
    }
    w->result = syi_arena_alloc(w->arena, (size_t)most * sizeof *w->result);
    if (!w->result) return SY_E_MEMORY;
    for (int i = 0; i < list->n; i++)
        for (int k = 0; k < w->from[i].n; k++) {
            bool there = false;
            for (int j = 0; j < w->n && !there; j++) there = strcmp(w->result[j].module, w->from[i].pair[k].module) == 0;
            if (there) continue;
            SYI_TRY(merge_module(w, w->from[i].pair[k].module, weight, &w->result[w->n], seed));
            w->n++;
        }
    return SY_OK;
}

/* -- resizing, extracting ------------------------------------------------------------------------------ */

static sy_status resize(work_ *w)
{
    if (w->o->adapters.n != 1) return syi_fail(w->ctx, SY_E_USAGE, "adapters resize: one adapter folder is needed, found %d", w->o->adapters.n);
    if (!w->o->rank && w->o->energy == 0) return syi_fail(w->ctx, SY_E_USAGE, "adapters resize: give --rank or --energy");
    SYI_TRY(read_adapter(w, w->o->adapters.item[0], &w->from[0]));
    w->result = syi_arena_alloc(w->arena, (size_t)w->from[0].n * sizeof *w->result);
    if (!w->result) return SY_E_MEMORY;
    for (int i = 0; i < w->from[0].n; i++) {
        const pair *p = &w->from[0].pair[i];
        pair *q = &w->result[w->n++];
        *q = (pair){ .module = p->module, .out = p->out, .in = p->in };
        SYI_TRY(truncate_product(w, q, p->b, p->a, p->rank));
    }
    return SY_OK;
}

/* The leading part of a difference: by a random subspace where a small rank is asked for, else
 * by its whole Gram matrix. */
static sy_status extract_module(work_ *w, pair *p, const double *d, uint64_t seed)
{
    const int64_t small = syi_min(p->out, p->in), r = w->o->energy > 0 ? small : syi_min(w->o->rank, small), l = syi_min(small, r + 10);
    double *x = syi_alloc(w->ctx, (size_t)((l + small) * (p->out + p->in) + small) * sizeof *x), norm = 0;
    if (!x) return SY_E_MEMORY;
    double *ut = x, *vt = ut + small * p->out, *s = vt + small * p->in, *y = s + small, *z = y + l * p->out;
    sy_status st = SY_OK;
    for (int64_t i = 0; i < p->out * p->in; i++) norm += d[i] * d[i];
    if (l >= small / 2) {
        st = syi_leading(w->ctx, p->out, p->in, d, r, ut, s, vt);
    } else { /* Halko, Martinsson and Tropp (2011): a range finder with two power iterations */
        float u[4096];
        const uint64_t key = syi_key(seed, "lora extract", p->module, 0);
        for (int64_t i = 0; i < l * p->in; i += 4096) {
            const int64_t m = syi_min(4096, l * p->in - i);
            syi_normal(key, i, m, u);
            for (int64_t k = 0; k < m; k++) z[i + k] = (double)u[k];
        }
        for (int step = 0; step < 3 && st == SY_OK; step++) {
            syi_mul_f64(false, true, l, p->out, p->in, 1, z, d, 0, y);
            st = syi_polar(w->ctx, l, p->out, y, NULL); /* an orthonormal basis of the same space */
            if (st == SY_OK) syi_mul_f64(false, false, l, p->in, p->out, 1, y, d, 0, z);
            if (st == SY_OK && step < 2) st = syi_polar(w->ctx, l, p->in, z, NULL);
        }
        double *core = syi_alloc(w->ctx, (size_t)(l * l) * sizeof *core);
        if (!core) st = SY_E_MEMORY;
        if (st == SY_OK) st = syi_leading(w->ctx, l, p->in, z, r, core, s, vt);
        if (st == SY_OK) syi_mul_f64(false, false, r, p->out, l, 1, core, y, 0, ut);
        syi_free(w->ctx, core);
    }
    const double kept = w->kept, all = w->all;
    if (st == SY_OK) st = from_triplets(w, p, ut, s, vt, r);
    if (st == SY_OK) { /* the share of the whole difference, not of what was looked at */
        w->kept = kept;
        w->all = all + norm;
        for (int64_t i = 0; i < p->rank; i++) w->kept += s[i] * s[i];
    }
    syi_free(w->ctx, x);
    return numeric(w, st, p->module);
}

static sy_status extract(work_ *w, sy_job *job)
{
    syi_source *model = NULL, *base = NULL;
    int64_t others = 0;
    if (!w->o->model || !w->o->base) return syi_fail(w->ctx, SY_E_USAGE, "adapters extract: give --model and --base");
    if (!w->o->rank && w->o->energy == 0) return syi_fail(w->ctx, SY_E_USAGE, "adapters extract: give --rank or --energy");
    sy_status st = syi_source_open(w->ctx, w->o->model, true, &model);
    if (st == SY_OK) st = syi_source_open(w->ctx, w->o->base, true, &base);
    const int64_t n = st == SY_OK ? sy_checkpoint_count(base->tensors) : 0;
    w->result = syi_arena_alloc(w->arena, (size_t)(n + 1) * sizeof *w->result);
    for (int64_t i = 0; i < n && st == SY_OK; i++) {
        const sy_entry *e = sy_checkpoint_at(base->tensors, i), *f = sy_checkpoint_find(model->tensors, e->name);
        char gguf[SYI_MODEL_NAME_MAX], a[128], b[128];
        const sy_arch_tensor *row = syi_name_to_gguf(base->arch, e->name, gguf);
        if (!f || f->rank != e->rank || memcmp(f->dim, e->dim, sizeof *e->dim * (size_t)e->rank) != 0) {
            st = syi_fail(w->ctx, SY_E_INPUT, "tensor %s is %s in %s and %s in %s: they are not of one model", e->name, syi_shape_text(a, e->rank, e->dim), w->o->base,
                          f ? syi_shape_text(b, f->rank, f->dim) : "missing", w->o->model);
            break;
        }
        const int64_t rows_ = e->rank == 2 ? e->dim[0] : 1, cols = e->dim[e->rank - 1], count = rows_ * cols;
        if (e->rank > 2 || count == 0) continue;
        float *x = syi_alloc(w->ctx, (size_t)(2 * count) * sizeof *x);
        double *d = syi_alloc(w->ctx, (size_t)count * sizeof *d), norm = 0;
        st = x && d ? sy_entry_read_f32(w->ctx, e, 0, rows_, x) : SY_E_MEMORY;
        if (st == SY_OK) st = sy_entry_read_f32(w->ctx, f, 0, rows_, x + count);
        for (int64_t k = 0; st == SY_OK && k < count; k++) {
            d[k] = (double)x[count + k] - (double)x[k];
            norm += d[k] * d[k];
        }
        if (st == SY_OK && norm > 0) {
            if (row && (row->flags & SY_TENSOR_LINEAR) && row->role != SY_ROLE_HEAD && e->rank == 2) {
                pair *p = &w->result[w->n++];
                *p = (pair){ .module = syi_arena_format(w->arena, "%.*s", (int)(strlen(e->name) - strlen(".weight")), e->name), .out = rows_, .in = cols };
                st = p->module ? extract_module(w, p, d, (uint64_t)syi_job_common(job)->seed) : SY_E_MEMORY;
            } else {
                others++;
            }
        }
        syi_free(w->ctx, x);
        syi_free(w->ctx, d);
        syi_mapped_forget(e->data, e->bytes);
        syi_mapped_forget(f->data, f->bytes);
    }
    if (st == SY_OK && w->n == 0) st = syi_fail(w->ctx, SY_E_INPUT, "%s and %s have the same linear layers: there is nothing to extract", w->o->model, w->o->base);
    if (st == SY_OK && others)
        syi_log(w->ctx, SY_LOG_WARN, "%lld tensors that are no linear layers (norms, embeddings, head) differ too; a LoRA does not hold them", (long long)others);
    syi_source_close(model);
    syi_source_close(base);
    return st;
}

/* -- writing ------------------------------------------------------------------------------------------------ */

static sy_status make_config(work_ *w, json_t **out)
{
    json_t *targets = json_array(), *ranks = json_object(), *alphas = json_object(), *c = NULL;
    int64_t most = 0;
    for (int i = 0; i < w->n; i++) most = syi_max(most, w->result[i].rank);
    for (int i = 0; i < w->n; i++) {
        const char *leaf = strrchr(w->result[i].module, '.');
        bool there = false;
        size_t k;
        json_t *v;
        leaf = leaf ? leaf + 1 : w->result[i].module;
        json_array_foreach(targets, k, v) there |= strcmp(json_string_value(v), leaf) == 0;
        if (!there) json_array_append_new(targets, json_string(leaf));
        if (w->result[i].rank == most) continue;
        json_object_set_new(ranks, w->result[i].module, json_integer(w->result[i].rank));
        json_object_set_new(alphas, w->result[i].module, json_integer(w->result[i].rank));
    }
    c = w->from[0].dir ? json_deep_copy(w->from[0].dir->config)
                       : json_pack("{s:s, s:s, s:s, s:b, s:s, s:f}", "peft_type", "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", w->o->base, "inference_mode", 1, "bias", "none",
                                   "lora_dropout", 0.0);
    if (!c) return syi_nomem(w->ctx, 0);
    json_object_set_new(c, "r", json_integer(most));
    json_object_set_new(c, "lora_alpha", json_integer(most));
    json_object_set_new(c, "use_rslora", json_false());
    json_object_set_new(c, "rank_pattern", ranks);
    json_object_set_new(c, "alpha_pattern", alphas);
    json_object_set_new(c, "target_modules", targets);
    json_object_set_new(c, "init_lora_weights", json_true());
    *out = c;
    return SY_OK;
}

static sy_status write(work_ *w, sy_job *job)
{
    syi_named *t = syi_arena_alloc(w->arena, (size_t)(2 * w->n) * sizeof *t);
    json_t *config = NULL;
    int64_t numbers = 0, most = 0;
    sy_status st = t ? make_config(w, &config) : SY_E_MEMORY;
    for (int i = 0; i < w->n && st == SY_OK; i++) {
        const pair *p = &w->result[i];
        for (int k = 0; k < 2 && st == SY_OK; k++) {
            const int64_t n = p->rank * (k ? p->out : p->in);
            float *f = syi_arena_alloc(w->arena, (size_t)n * sizeof *f);
            const double *from = k ? p->b : p->a;
            syi_named *x = &t[2 * i + k];
            *x = (syi_named){ .name = syi_arena_format(w->arena, "base_model.model.%s.lora_%c.weight", p->module, k ? 'B' : 'A'),
                              .value = { SY_F32, 2, { k ? p->out : p->rank, k ? p->rank : p->in }, f } };
            if (!f || !x->name) st = SY_E_MEMORY;
            for (int64_t j = 0; st == SY_OK && j < n; j++) {
                f[j] = (float)from[j];
                if (!isfinite(f[j])) st = syi_fail(w->ctx, SY_E_NUMERIC, "%s: the result holds a number that is not finite", p->module);
            }
            numbers += n;
        }
        most = syi_max(most, p->rank);
    }
    syi_dir dir = { 0 };
    if (st == SY_OK && !syi_job_common(job)->dry_run) {
        st = syi_dir_begin(w->ctx, w->o->out, false, &dir);
        if (st == SY_OK) st = syi_adapter_write(w->ctx, dir.work, config, "LoRA adapter made by `steelyard adapters`.\n", t, 2 * w->n);
        if (st == SY_OK) st = syi_dir_commit(&dir);
        syi_dir_abort(&dir);
    }
    if (st == SY_OK) {
        json_t *report = syi_job_report(job);
        json_object_set_new(report, "modules", json_integer(w->n));
        json_object_set_new(report, "rank", json_integer(most));
        json_object_set_new(report, "parameters", json_integer(numbers));
        json_object_set_new(report, "energy_kept", json_real(w->all > 0 ? w->kept / w->all : 1));
        syi_job_receipt(job, "%d modules, rank %lld, %lld numbers, %.4g of the squared norm kept%s%s", w->n, (long long)most, (long long)numbers, w->all > 0 ? w->kept / w->all : 1,
                        syi_job_common(job)->dry_run ? " (not written: --dry-run)" : " in ", syi_job_common(job)->dry_run ? "" : w->o->out);
    }
    json_decref(config);
    return st;
}

static sy_status work(void *self, sy_job *job)
{
    lora_self *o = self;
    work_ *w = syi_calloc(syi_job_context(job), 1, sizeof *w);
    if (!w) return SY_E_MEMORY;
    w->ctx = syi_job_context(job);
    w->o = o;
    sy_status st = syi_arena_new(w->ctx, 1 << 20, &w->arena);
    if (st == SY_OK && !o->out && !syi_job_common(job)->dry_run) st = syi_fail(w->ctx, SY_E_USAGE, "adapters: --out is missing: the adapter folder to write");
    if (st == SY_OK) st = o->action == MERGE ? merge(w, (uint64_t)syi_job_common(job)->seed) : o->action == RESIZE ? resize(w) : extract(w, job);
    if (st == SY_OK) st = write(w, job);
    for (int i = 0; i < SYI_COUNT(w->from); i++) syi_adapter_close(w->from[i].dir);
    syi_arena_free(w->arena);
    syi_free(w->ctx, w);
    return st;
}

const sy_verb sy_verb_adapters = {
    .name = "adapters", .title = "merges, extracts and resizes LoRA adapters",
    .about = "merge adds adapters up without their base model: exactly, with their ranks added (cat); by mixing factors (linear); or by the leading singular vectors of their sum "
             "(svd), of TIES' elected sum (ties) or of randomly thinned ones (dare). extract makes a LoRA of the difference of two checkpoints, at a rank (by a randomised SVD) or "
             "at a share of its energy. resize changes the rank of one. The results are PEFT folders with alpha = r.",
    .example = "adapters merge models/tiny/devil-lora --weights 0.5 --out {tmp}/half-lora",
    .options = rows, .size = sizeof(lora_self), .flags = SY_VERB_NO_MODEL, .run = work,
};
