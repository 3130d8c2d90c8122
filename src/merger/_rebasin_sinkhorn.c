/* SPDX-License-Identifier: Apache-2.0 */
/* Sinkhorn re-basin (Pena and others, 2023): each group has a free matrix X; Sinkhorn's
 * normalisations of rows and columns make a doubly stochastic P of it, a soft permutation, and
 * the loss is differentiated through them. At last the nearest permutation to X is taken.
 * AdamW does not see the loss's scale but through its epsilon, which is therefore tiny here. */
#include "_rebasin_net.h"

#include "tensor/lap.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>

/* -- one matrix ---------------------------------------------------------------------------------- */

/* from -> to = from - log sum exp over each row (or column). */
static void normalise(int64_t n, bool columns, const float *from, float *to)
{
    const int64_t along = columns ? n : 1, across = columns ? 1 : n;
    for (int64_t i = 0; i < n; i++) {
        const float *x = from + i * across;
        float top = x[0];
        double sum = 0;
        for (int64_t k = 1; k < n; k++) top = x[k * along] > top ? x[k * along] : top;
        for (int64_t k = 0; k < n; k++) sum += exp((double)x[k * along] - (double)top);
        const float log_sum = (float)((double)top + log(sum));
        for (int64_t k = 0; k < n; k++) to[i * across + k * along] = x[k * along] - log_sum;
    }
}

void rebasin_soft(int64_t n, const float *x, float *z, float *p)
{
    memcpy(z, x, (size_t)(n * n) * sizeof *z);
    for (int k = 0; k < 2 * REBASIN_SINKHORN; k++) normalise(n, k % 2 == 1, z + k * n * n, z + (k + 1) * n * n);
    z += 2 * REBASIN_SINKHORN * n * n;
    for (int64_t i = 0; i < n * n; i++) p[i] = expf(z[i]);
}

void rebasin_soft_back(int64_t n, const float *z, float *dp)
{
    for (int64_t i = 0; i < n * n; i++) dp[i] *= expf(z[2 * REBASIN_SINKHORN * n * n + i]);
    for (int k = 2 * REBASIN_SINKHORN; k >= 1; k--) { /* z_k = z_{k-1} - log sum: its exponentials are the softmax */
        const float *after = z + k * n * n;
        const int64_t along = k % 2 == 0 ? n : 1, across = k % 2 == 0 ? 1 : n;
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;
            for (int64_t e = 0; e < n; e++) sum += (double)dp[i * across + e * along];
            for (int64_t e = 0; e < n; e++) dp[i * across + e * along] -= (float)(exp((double)after[i * across + e * along]) * sum);
        }
    }
}

/* -- all groups ------------------------------------------------------------------------------------ */

typedef struct { float *x, *m, *v, *z, *p, *d; } soft;
typedef struct { const rebasin *r; soft *g; float *from, *to; /* room for the largest tensor */ } search;

/* c[m, n] = a[m, k] b[k, n] (or b[n, k]^T, added): on one thread, for the same bits whatever the threads */
static void product(bool turned, int64_t m, int64_t n, int64_t k, const float *a, const float *b, float *c)
{
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, turned ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, 1, a, (int)k, b, (int)(turned ? k : n), turned ? 1 : 0, c, (int)n);
    omp_set_num_threads(threads);
}

/* Every group acts softly on tensor t, except the axis entry `except`. */
static void apply(const search *s, int t, const rebasin_axis *except, bool silent, float *data)
{
    for (int g = 0; g < s->r->n_groups; g++)
        for (int i = 0; i < s->r->group[g].n; i++) {
            const rebasin_axis *a = &s->r->group[g].axis[i];
            const int64_t n = s->r->group[g].units;
            if (a->tensor != t || a == except || (a->silent && !silent)) continue;
            const rebasin_shape sh = rebasin_around(&s->r->tensor[t], a->axis);
            rebasin_gather(data, sh, a->first, n, a->block, 1, s->from);
            product(false, n, sh.outer * sh.inner * a->block, n, s->g[g].p, s->from, s->to);
            memcpy(s->from, s->to, (size_t)(n * sh.outer * sh.inner * a->block) * sizeof *s->from);
            int64_t *same = syi_alloc(s->r->ctx, (size_t)n * sizeof *same);
            for (int64_t k = 0; same && k < n; k++) same[k] = k;
            if (same) rebasin_scatter(s->from, sh, a->first, n, a->block, 1, same, data);
            syi_free(s->r->ctx, same);
        }
}

/* The soft permutations' gradients from that of the moved tensor, `grad`. */
static void back(const search *s, int t, const float *b, const float *grad, float *work)
{
    for (int g = 0; g < s->r->n_groups; g++)
        for (int i = 0; i < s->r->group[g].n; i++) {
            const rebasin_axis *a = &s->r->group[g].axis[i];
            const int64_t n = s->r->group[g].units;
            if (a->tensor != t || a->silent) continue;
            const rebasin_shape sh = rebasin_around(&s->r->tensor[t], a->axis);
            const int64_t each = sh.outer * sh.inner * a->block;
            memcpy(work, b, (size_t)s->r->tensor[t].count * sizeof *work);
            apply(s, t, a, false, work);
            rebasin_gather(work, sh, a->first, n, a->block, 1, s->from);
            rebasin_gather(grad, sh, a->first, n, a->block, 1, s->to);
            product(true, n, n, each, s->to, s->from, s->g[g].d);
        }
}

static void adamw(soft *g, int64_t n, double lr, int64_t t)
{
    const double c1 = 1 - pow(0.9, (double)t), c2 = 1 - pow(0.999, (double)t);
    for (int64_t i = 0; i < n * n; i++) {
        const double d = (double)g->d[i];
        g->m[i] = (float)(0.9 * (double)g->m[i] + 0.1 * d);
        g->v[i] = (float)(0.999 * (double)g->v[i] + 0.001 * d * d);
        g->x[i] = (float)((double)g->x[i] * (1 - lr * 0.01) - lr * ((double)g->m[i] / c1) / (sqrt((double)g->v[i] / c2) + 1e-16));
    }
}

static sy_status begin(search *s, syi_arena *arena, uint64_t key)
{
    int64_t largest = 1;
    for (int t = 0; t < s->r->n_tensors; t++) largest = syi_max(largest, s->r->tensor[t].count);
    s->g = syi_arena_alloc(arena, (size_t)s->r->n_groups * sizeof *s->g);
    s->from = syi_arena_alloc(arena, (size_t)largest * sizeof *s->from);
    s->to = syi_arena_alloc(arena, (size_t)largest * sizeof *s->to);
    if (!s->g || !s->from || !s->to) return SY_E_MEMORY;
    for (int k = 0; k < s->r->n_groups; k++) {
        const int64_t n = s->r->group[k].units, nn = n * n;
        if (s->r->group[k].n_child || s->r->group[k].parent >= 0)
            return syi_fail(s->r->ctx, SY_E_UNSUPPORTED, "group %s holds groups of its own (heads): Sinkhorn's relaxation is for networks without them; use method wm, am or ste",
                            s->r->group[k].name);
        soft *g = &s->g[k];
        float *at = syi_arena_alloc(arena, (size_t)(nn * (5 + 2 * REBASIN_SINKHORN + 1)) * sizeof *at);
        if (!at) return SY_E_MEMORY;
        *g = (soft){ .x = at, .m = at + nn, .v = at + 2 * nn, .p = at + 3 * nn, .d = at + 4 * nn, .z = at + 5 * nn };
        memset(g->m, 0, (size_t)(2 * nn) * sizeof *at);
        syi_normal(syi_key(key, "sinkhorn", s->r->group[k].name, 0), 0, nn, g->x);
        for (int64_t i = 0; i < nn; i++) g->x[i] = 0.1f * g->x[i] + (i / n == i % n ? 1.0f : 0);
    }
    return SY_OK;
}

/* One step: the gradient of every X, in g->d. */
static sy_status differentiate(search *s, rebasin_net *net, const float *const *a, float *const *b, int64_t step, float **moved, float **grad)
{
    const rebasin *r = s->r;
    double loss;
    for (int k = 0; k < r->n_groups; k++) {
        rebasin_soft(r->group[k].units, s->g[k].x, s->g[k].z, s->g[k].p);
        memset(s->g[k].d, 0, (size_t)(r->group[k].units * r->group[k].units) * sizeof *s->g[k].d);
    }
    for (int t = 0; t < r->n_tensors; t++) {
        memcpy(moved[t], b[t], (size_t)r->tensor[t].count * sizeof **moved);
        apply(s, t, NULL, true, moved[t]);
    }
    if (net) {
        rebasin_between(r, 0.5, a, (const float *const *)moved, moved);
        SYI_TRY(rebasin_net_gradient(net, (const float *const *)moved, step, grad, &loss));
    } else {
        for (int t = 0; t < r->n_tensors; t++)
            for (int64_t i = 0; i < r->tensor[t].count; i++) grad[t][i] = r->tensor[t].silent ? 0 : moved[t][i] - a[t][i];
    }
    for (int t = 0; t < r->n_tensors; t++) back(s, t, b[t], grad[t], moved[t]);
    for (int k = 0; k < r->n_groups; k++) rebasin_soft_back(r->group[k].units, s->g[k].z, s->g[k].d);
    return sy_cancelled(r->ctx) ? syi_fail(r->ctx, SY_E_CANCELLED, "interrupted while matching") : SY_OK;
}

static sy_status harden(const search *s, float **b, rebasin_perm *perm)
{
    for (int k = 0; k < s->r->n_groups; k++) {
        const int64_t n = s->r->group[k].units;
        double *score = syi_alloc(s->r->ctx, (size_t)(n * n) * sizeof *score);
        int64_t *p = syi_alloc(s->r->ctx, (size_t)n * sizeof *p);
        sy_status st = score && p ? SY_OK : SY_E_MEMORY;
        for (int64_t i = 0; i < n * n && st == SY_OK; i++) score[i] = (double)s->g[k].x[i];
        if (st == SY_OK) st = syi_lap(s->r->ctx, n, score, p, NULL);
        if (st == SY_OK) st = rebasin_move(s->r, k, p, b, perm);
        syi_free(s->r->ctx, score);
        syi_free(s->r->ctx, p);
        SYI_TRY(st);
    }
    return SY_OK;
}

sy_status rebasin_sinkhorn(const rebasin *r, rebasin_net *net, const float *const *a, float **b, const rebasin_soft_options *o, uint64_t key, rebasin_perm *perm)
{
    search s = { .r = r };
    float **moved = NULL, **grad = NULL;
    syi_arena *arena;
    SYI_TRY(syi_arena_new(r->ctx, 1 << 20, &arena));
    sy_status st = begin(&s, arena, key);
    if (st == SY_OK) st = rebasin_fresh(r, NULL, &moved);
    if (st == SY_OK) st = rebasin_fresh(r, NULL, &grad);
    for (int64_t k = 0; k < o->steps && st == SY_OK; k++) {
        st = differentiate(&s, net, a, b, k, moved, grad);
        for (int g = 0; g < r->n_groups && st == SY_OK; g++) adamw(&s.g[g], r->group[g].units, o->lr, k + 1);
    }
    if (st == SY_OK) st = harden(&s, b, perm);
    rebasin_drop(r, moved);
    rebasin_drop(r, grad);
    syi_arena_free(arena);
    return st;
}
