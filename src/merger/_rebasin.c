/* SPDX-License-Identifier: Apache-2.0 */
/* See _rebasin.h. For one group with all others fixed, the best permutation is a linear
 * assignment: score[i, j] is the inner product of all that unit i of a has with all that
 * unit j of b has. Heads hold groups of their own (channels of v, query heads): the score
 * of a pair of heads is what remains after those are matched inside of the pair. b is moved
 * as permutations are found, so the next score needs no bookkeeping. */
#include "_rebasin.h"

#include "tensor/lap.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>

/* -- groups ----------------------------------------------------------------------------------- */

static int tensor_named(const rebasin *r, const char *name)
{
    for (int i = 0; i < r->n_tensors; i++)
        if (strcmp(r->tensor[i].name, name) == 0) return i;
    return -1;
}

static int group_named(const rebasin *r, const char *name)
{
    for (int i = 0; name && i < r->n_groups; i++)
        if (strcmp(r->group[i].name, name) == 0) return i;
    return -1;
}

sy_status rebasin_begin(rebasin *r, const syi_perm *perms, int n)
{
    r->group = syi_arena_alloc(r->arena, (size_t)(n + 1) * sizeof *r->group);
    if (!r->group) return SY_E_MEMORY;
    for (int pass = 0; pass < 2; pass++) /* parents are there before their children */
        for (int i = 0; i < n; i++) {
            const syi_perm *p = &perms[i];
            const int tensor = tensor_named(r, p->tensor);
            if ((p->parent != NULL) != (pass == 1) || tensor < 0) continue;
            int g = group_named(r, p->group);
            if (g < 0) {
                g = r->n_groups++;
                r->group[g] = (rebasin_group){ .name = p->group, .parent = group_named(r, p->parent), .units = p->units };
                r->group[g].axis = syi_arena_alloc(r->arena, (size_t)n * sizeof *r->group[g].axis);
                if (!r->group[g].axis) return SY_E_MEMORY;
                rebasin_group *parent = r->group[g].parent < 0 ? NULL : &r->group[r->group[g].parent];
                if (p->parent && (!parent || parent->n_child == SYI_COUNT(parent->child)))
                    return syi_fail(r->ctx, SY_E_BUG, "group %s has no place in its parent %s", p->group, p->parent);
                if (parent) parent->child[parent->n_child++] = g;
            }
            rebasin_group *at = &r->group[g];
            const int64_t size = p->axis < r->tensor[tensor].rank ? r->tensor[tensor].dim[p->axis] : 0;
            if (!p->parent && p->first + p->units * p->block > size)
                return syi_fail(r->ctx, SY_E_INPUT, "%s: axis %d has %lld, group %s needs %lld", p->tensor, p->axis, (long long)size, p->group, (long long)(p->first + p->units * p->block));
            at->axis[at->n++] = (rebasin_axis){ tensor, p->axis, p->first, p->block, p->role == SY_ROLE_STAT };
            r->tensor[tensor].silent = p->role == SY_ROLE_STAT;
        }
    return r->n_groups ? SY_OK : syi_fail(r->ctx, SY_E_UNSUPPORTED, "none of the tensors has a permutation symmetry that is known");
}

int64_t rebasin_copies(const rebasin *r, int group)
{
    return r->group[group].parent < 0 ? 1 : r->group[r->group[group].parent].units;
}

sy_status rebasin_identity(const rebasin *r, rebasin_perm *out)
{
    out->p = syi_arena_alloc(r->arena, (size_t)r->n_groups * sizeof *out->p);
    if (!out->p) return SY_E_MEMORY;
    for (int g = 0; g < r->n_groups; g++) {
        const int64_t units = r->group[g].units, n = units * rebasin_copies(r, g);
        out->p[g] = syi_arena_alloc(r->arena, (size_t)n * sizeof *out->p[g]);
        if (!out->p[g]) return SY_E_MEMORY;
        for (int64_t i = 0; i < n; i++) out->p[g][i] = i % units;
    }
    return SY_OK;
}

/* -- pieces of tensors ----------------------------------------------------------------------------- */

typedef rebasin_shape shape;

rebasin_shape rebasin_around(const rebasin_tensor *t, int axis)
{
    shape s = { 1, t->dim[axis], 1 };
    for (int d = 0; d < axis; d++) s.outer *= t->dim[d];
    for (int d = axis + 1; d < t->rank; d++) s.inner *= t->dim[d];
    return s;
}

void rebasin_gather(const float *x, shape s, int64_t first, int64_t units, int64_t block, int64_t repeats, float *out)
{
    const int64_t run = block * s.inner, each = repeats * s.outer * run;
    for (int64_t u = 0; u < units; u++)
        for (int64_t k = 0; k < repeats; k++)
            for (int64_t o = 0; o < s.outer; o++)
                memcpy(out + u * each + (k * s.outer + o) * run, x + (o * s.length + first + (k * units + u) * block) * s.inner, (size_t)run * sizeof *out);
}

void rebasin_scatter(const float *from, shape s, int64_t first, int64_t units, int64_t block, int64_t repeats, const int64_t *p, float *x)
{
    const int64_t run = block * s.inner, each = repeats * s.outer * run;
    for (int64_t u = 0; u < units; u++)
        for (int64_t k = 0; k < repeats; k++)
            for (int64_t o = 0; o < s.outer; o++)
                memcpy(x + (o * s.length + first + (k * units + u) * block) * s.inner, from + p[u] * each + (k * s.outer + o) * run, (size_t)run * sizeof *x);
}

static void unit_rows(float *x, int64_t units, int64_t each)
{
    for (int64_t u = 0; u < units; u++) {
        double s = 0;
        for (int64_t i = 0; i < each; i++) s += (double)x[u * each + i] * (double)x[u * each + i];
        const float by = s > 0 ? (float)(1 / sqrt(s)) : 0;
        for (int64_t i = 0; i < each; i++) x[u * each + i] *= by;
    }
}

/* score[units, units] += what the units of a and b have in common. */
static sy_status add_scores(const rebasin *r, const float *a, const float *b, shape s, int64_t first, int64_t units, int64_t block, int64_t repeats, double *score)
{
    const int64_t each = repeats * s.outer * block * s.inner;
    float *x = syi_alloc(r->ctx, (size_t)(2 * units * each + units * units) * sizeof *x);
    if (!x) return SY_E_MEMORY;
    float *y = x + units * each, *c = y + units * each;
    rebasin_gather(a, s, first, units, block, repeats, x);
    rebasin_gather(b, s, first, units, block, repeats, y);
    if (r->normalize) {
        unit_rows(x, units, each);
        unit_rows(y, units, each);
    }
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1); /* the same sums whatever the threads */
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)units, (int)units, (int)each, 1, x, (int)each, y, (int)each, 0, c, (int)units);
    omp_set_num_threads(threads);
    for (int64_t i = 0; i < units * units; i++) score[i] += (double)c[i];
    syi_free(r->ctx, x);
    return SY_OK;
}

static sy_status move(const rebasin *r, float *x, shape s, int64_t first, int64_t units, int64_t block, int64_t repeats, const int64_t *p)
{
    float *from = syi_alloc(r->ctx, (size_t)(units * repeats * s.outer * block * s.inner) * sizeof *from);
    if (!from) return SY_E_MEMORY;
    rebasin_gather(x, s, first, units, block, repeats, from);
    rebasin_scatter(from, s, first, units, block, repeats, p, x);
    syi_free(r->ctx, from);
    return SY_OK;
}

static bool is_identity(const int64_t *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (p[i] != i) return false;
    return true;
}

sy_status rebasin_move(const rebasin *r, int group, const int64_t *p, float **b, rebasin_perm *perm)
{
    const rebasin_group *g = &r->group[group];
    if (is_identity(p, g->units)) return SY_OK;
    for (int i = 0; i < g->n; i++) {
        const rebasin_axis *x = &g->axis[i];
        SYI_TRY(move(r, b[x->tensor], rebasin_around(&r->tensor[x->tensor], x->axis), x->first, g->units, x->block, 1, p));
    }
    int64_t *old = syi_alloc(r->ctx, (size_t)g->units * sizeof *old);
    if (!old) return SY_E_MEMORY;
    memcpy(old, perm->p[group], (size_t)g->units * sizeof *old);
    for (int64_t i = 0; i < g->units; i++) perm->p[group][i] = old[p[i]];
    syi_free(r->ctx, old);
    for (int c = 0; c < g->n_child; c++) { /* what lies inside moves with its unit */
        const int64_t n = r->group[g->child[c]].units;
        int64_t *inner = syi_alloc(r->ctx, (size_t)(n * g->units) * sizeof *inner);
        if (!inner) return SY_E_MEMORY;
        memcpy(inner, perm->p[g->child[c]], (size_t)(n * g->units) * sizeof *inner);
        for (int64_t i = 0; i < g->units; i++) memcpy(perm->p[g->child[c]] + i * n, inner + p[i] * n, (size_t)n * sizeof *inner);
        syi_free(r->ctx, inner);
    }
    return SY_OK;
}

/* -- one flat group ----------------------------------------------------------------------------------- */

static sy_status match_flat(const rebasin *r, int group, const float *const *a, float **b, rebasin_perm *perm, double *gain)
{
    const rebasin_group *g = &r->group[group];
    double *score = syi_calloc(r->ctx, (size_t)(g->units * g->units), sizeof *score), best = 0, now = 0, size = 0;
    int64_t *p = syi_alloc(r->ctx, (size_t)g->units * sizeof *p);
    sy_status st = score && p ? SY_OK : SY_E_MEMORY;
    for (int i = 0; i < g->n && st == SY_OK; i++) {
        const rebasin_axis *x = &g->axis[i];
        if (!x->silent) st = add_scores(r, a[x->tensor], b[x->tensor], rebasin_around(&r->tensor[x->tensor], x->axis), x->first, g->units, x->block, 1, score);
    }
    if (st == SY_OK) st = syi_lap(r->ctx, g->units, score, p, &best);
    for (int64_t i = 0; i < g->units && st == SY_OK; i++) {
        now += score[i * g->units + i];
        size += fabs(score[i * g->units + p[i]]);
    }
    *gain = 0;
    if (st == SY_OK && best - now > 1e-6 * size) { /* scores are products in f32 */
        st = rebasin_move(r, group, p, b, perm);
        *gain = best - now;
    }
    syi_free(r->ctx, score);
    syi_free(r->ctx, p);
    return st;
}

/* -- a group that holds others (heads) ------------------------------------------------------------------- */

typedef struct { float *a, *b; shape s; int64_t count; } cut; /* unit i of a, unit j of b, on one axis */

bool rebasin_child_axis(const rebasin_group *parent, int k, const rebasin_group *child, const rebasin_axis **out)
{
    for (int i = 0; i < child->n; i++)
        if (child->axis[i].tensor == parent->axis[k].tensor && child->axis[i].axis == parent->axis[k].axis && child->axis[i].first == parent->axis[k].first) { /* q, k, v may be one matrix */
            *out = &child->axis[i];
            return true;
        }
    return false;
}

static double common(const cut *c, int n, const rebasin_group *g)
{
    double sum = 0;
    for (int k = 0; k < n; k++)
        for (int64_t i = 0; !g->axis[k].silent && i < c[k].count; i++) sum += (double)c[k].a[i] * (double)c[k].b[i];
    return sum;
}

/* Matches what lies inside of a pair of units; inner[c] gets the permutation of child c. */
static sy_status match_pair(const rebasin *r, const rebasin_group *g, cut *c, int64_t **inner, double *value)
{
    for (int q = 0; q < g->n_child; q++)
        for (int64_t i = 0; i < r->group[g->child[q]].units; i++) inner[q][i] = i;
    for (int round = 0; round < (g->n_child > 1 ? 3 : 1); round++)
        for (int q = 0; q < g->n_child; q++) {
            const rebasin_group *child = &r->group[g->child[q]];
            const int64_t n = child->units;
            double *score = syi_calloc(r->ctx, (size_t)(n * n), sizeof *score);
            int64_t *p = syi_alloc(r->ctx, (size_t)(2 * n) * sizeof *p);
            sy_status st = score && p ? SY_OK : SY_E_MEMORY;
            const rebasin_axis *x;
            for (int k = 0; k < g->n && st == SY_OK; k++)
                if (rebasin_child_axis(g, k, child, &x) && !x->silent) st = add_scores(r, c[k].a, c[k].b, c[k].s, 0, n, x->block, c[k].s.length / (n * x->block), score);
            if (st == SY_OK) st = syi_lap(r->ctx, n, score, p, NULL);
            for (int k = 0; k < g->n && st == SY_OK; k++)
                if (rebasin_child_axis(g, k, child, &x)) st = move(r, c[k].b, c[k].s, 0, n, x->block, c[k].s.length / (n * x->block), p);
            if (st == SY_OK) {
                memcpy(p + n, inner[q], (size_t)n * sizeof *p);
                for (int64_t i = 0; i < n; i++) inner[q][i] = p[n + p[i]];
            }
            syi_free(r->ctx, score);
            syi_free(r->ctx, p);
            SYI_TRY(st);
        }
    *value = common(c, g->n, g);
    return SY_OK;
}

/* The slices of unit i of a and unit j of b. */
static void take(const rebasin *r, const rebasin_group *g, const float *const *a, float **b, int64_t i, int64_t j, cut *c)
{
    for (int k = 0; k < g->n; k++) {
        const rebasin_axis *x = &g->axis[k];
        const shape s = rebasin_around(&r->tensor[x->tensor], x->axis);
        for (int64_t o = 0; o < s.outer; o++) {
            memcpy(c[k].a + o * x->block * s.inner, a[x->tensor] + (o * s.length + x->first + i * x->block) * s.inner, (size_t)(x->block * s.inner) * sizeof(float));
            memcpy(c[k].b + o * x->block * s.inner, b[x->tensor] + (o * s.length + x->first + j * x->block) * s.inner, (size_t)(x->block * s.inner) * sizeof(float));
        }
    }
}

/* Children of unit i are moved by `inner`. */
sy_status rebasin_move_inside(const rebasin *r, int group, int64_t i, int64_t *const *inner, float **b, rebasin_perm *perm)
{
    const rebasin_group *g = &r->group[group];
    for (int q = 0; q < g->n_child; q++) {
        const rebasin_group *child = &r->group[g->child[q]];
        const int64_t n = child->units;
        const rebasin_axis *x;
        for (int k = 0; k < g->n; k++)
            if (rebasin_child_axis(g, k, child, &x))
                SYI_TRY(move(r, b[x->tensor], rebasin_around(&r->tensor[x->tensor], x->axis), g->axis[k].first + i * g->axis[k].block, n, x->block, g->axis[k].block / (n * x->block), inner[q]));
        int64_t *at = perm->p[g->child[q]] + i * n, *old = syi_alloc(r->ctx, (size_t)n * sizeof *old);
        if (!old) return SY_E_MEMORY;
        memcpy(old, at, (size_t)n * sizeof *old);
        for (int64_t u = 0; u < n; u++) at[u] = old[inner[q][u]];
        syi_free(r->ctx, old);
    }
    return SY_OK;
}

static sy_status match_nested(const rebasin *r, int group, const float *const *a, float **b, rebasin_perm *perm, double *gain)
{
    const rebasin_group *g = &r->group[group];
    const int64_t n = g->units;
    syi_arena *arena;
    SYI_TRY(syi_arena_new(r->ctx, 1 << 16, &arena));
    cut *c = syi_arena_alloc(arena, (size_t)g->n * sizeof *c);
    double *score = syi_arena_alloc(arena, (size_t)(n * n) * sizeof *score), now = 0, best = 0, size = 0;
    int64_t ***inner = syi_arena_alloc(arena, (size_t)(n * n) * sizeof *inner), *p = syi_arena_alloc(arena, (size_t)n * sizeof *p);
    sy_status st = c && score && inner && p ? SY_OK : SY_E_MEMORY;
    for (int k = 0; k < g->n && st == SY_OK; k++) {
        const shape s = rebasin_around(&r->tensor[g->axis[k].tensor], g->axis[k].axis);
        c[k].s = (shape){ s.outer, g->axis[k].block, s.inner };
        c[k].count = s.outer * g->axis[k].block * s.inner;
        c[k].a = syi_arena_alloc(arena, (size_t)c[k].count * sizeof(float));
        c[k].b = syi_arena_alloc(arena, (size_t)c[k].count * sizeof(float));
        if (!c[k].a || !c[k].b) st = SY_E_MEMORY;
    }
    for (int64_t i = 0; i < n * n && st == SY_OK; i++) {
        inner[i] = syi_arena_alloc(arena, (size_t)(g->n_child + 1) * sizeof **inner);
        for (int q = 0; q < g->n_child && inner[i]; q++)
            if (!(inner[i][q] = syi_arena_alloc(arena, (size_t)r->group[g->child[q]].units * sizeof(int64_t)))) st = SY_E_MEMORY;
        if (!inner[i]) st = SY_E_MEMORY;
        if (st != SY_OK) break;
        take(r, g, a, b, i / n, i % n, c);
        if (i / n == i % n) now += common(c, g->n, g);
        st = match_pair(r, g, c, inner[i], &score[i]);
    }
    if (st == SY_OK) st = syi_lap(r->ctx, n, score, p, &best);
    for (int64_t i = 0; i < n && st == SY_OK; i++) size += fabs(score[i * n + p[i]]);
    *gain = 0;
    if (st == SY_OK && best - now > 1e-6 * size) {
        st = rebasin_move(r, group, p, b, perm);
        for (int64_t i = 0; i < n && st == SY_OK; i++) st = rebasin_move_inside(r, group, i, inner[i * n + p[i]], b, perm);
        *gain = best - now;
    }
    syi_arena_free(arena);
    return st;
}

/* -- all groups ---------------------------------------------------------------------------------------------- */

sy_status rebasin_match(const rebasin *r, const float *const *a, float **b, int64_t max_sweeps, uint64_t key, rebasin_perm *perm, int64_t *sweeps)
{
    int64_t *order = syi_alloc(r->ctx, (size_t)r->n_groups * sizeof *order);
    if (!order) return SY_E_MEMORY;
    sy_status st = SY_OK;
    bool progress = true;
    for (*sweeps = 0; progress && *sweeps < max_sweeps && st == SY_OK; ++*sweeps) {
        progress = false;
        syi_permutation(syi_key(key, "sweep", NULL, *sweeps), r->n_groups, order);
        for (int i = 0; i < r->n_groups && st == SY_OK; i++) {
            const int g = (int)order[i];
            double gain = 0;
            if (r->group[g].parent >= 0) continue;
            if (r->group[g].n_child) st = match_nested(r, g, a, b, perm, &gain);
            else st = match_flat(r, g, a, b, perm, &gain);
            progress |= gain > 0;
            if (sy_cancelled(r->ctx)) st = syi_fail(r->ctx, SY_E_CANCELLED, "interrupted while matching");
        }
    }
    syi_free(r->ctx, order);
    return st;
}

double rebasin_distance(const rebasin *r, const float *const *a, const float *const *b)
{
    double s = 0;
    for (int t = 0; t < r->n_tensors; t++)
        for (int64_t i = 0; !r->tensor[t].silent && i < r->tensor[t].count; i++) s += ((double)a[t][i] - (double)b[t][i]) * ((double)a[t][i] - (double)b[t][i]);
    return s;
}

/* -- whole networks ------------------------------------------------------------------------------------------- */

sy_status rebasin_fresh(const rebasin *r, const float *const *from, float ***out)
{
    float **x = syi_calloc(r->ctx, (size_t)r->n_tensors, sizeof *x);
    if (!x) return SY_E_MEMORY;
    *out = x;
    for (int t = 0; t < r->n_tensors; t++) {
        const size_t bytes = (size_t)syi_max(1, r->tensor[t].count) * sizeof **x;
        x[t] = syi_alloc(r->ctx, bytes);
        if (!x[t]) return SY_E_MEMORY;
        if (from) memcpy(x[t], from[t], bytes);
        else memset(x[t], 0, bytes);
    }
    return SY_OK;
}

void rebasin_drop(const rebasin *r, float **x)
{
    for (int t = 0; x && t < r->n_tensors; t++) syi_free(r->ctx, x[t]);
    syi_free(r->ctx, x);
}

void rebasin_between(const rebasin *r, double by, const float *const *a, const float *const *b, float **out)
{
    for (int t = 0; t < r->n_tensors; t++)
        for (int64_t i = 0; i < r->tensor[t].count; i++) out[t][i] = (float)((1 - by) * (double)a[t][i] + by * (double)b[t][i]);
}

void rebasin_perm_copy(const rebasin *r, const rebasin_perm *from, rebasin_perm *to)
{
    for (int g = 0; g < r->n_groups; g++) memcpy(to->p[g], from->p[g], (size_t)(r->group[g].units * rebasin_copies(r, g)) * sizeof(int64_t));
}
