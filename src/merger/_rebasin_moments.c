/* SPDX-License-Identifier: Apache-2.0 */
/* Matching by activations: what a unit of one network and a unit of the other say over the
 * same data is all that counts, so groups do not depend on each other and each is matched
 * once. Heads: the value of a pair is what remains after the channels and query heads inside
 * of it are matched, as with weights. */
#include "_rebasin.h"

#include "tensor/lap.h"

typedef struct { const double *c; int64_t len, block; } moments;

static double at(const moments *m, int64_t i, int64_t j) { return m->c[i * m->len + j]; }

static sy_status flat(const rebasin *r, int group, const moments *m, float **b, rebasin_perm *perm)
{
    const int64_t n = r->group[group].units;
    double *score = syi_calloc(r->ctx, (size_t)(n * n), sizeof *score);
    int64_t *p = syi_alloc(r->ctx, (size_t)n * sizeof *p);
    sy_status st = score && p ? SY_OK : SY_E_MEMORY;
    for (int64_t i = 0; i < n * n && st == SY_OK; i++)
        for (int64_t k = 0; k < m->block; k++) score[i] += at(m, i / n * m->block + k, i % n * m->block + k);
    if (st == SY_OK) st = syi_lap(r->ctx, n, score, p, NULL);
    if (st == SY_OK) st = rebasin_move(r, group, p, b, perm);
    syi_free(r->ctx, score);
    syi_free(r->ctx, p);
    return st;
}

/* Unit i of a, unit j of b. map[block]: which index of b's unit stands at each place; inner[q]
 * gets the permutation of child q. */
static sy_status inside(const rebasin *r, const rebasin_group *g, int axis, const moments *m, int64_t i, int64_t j, int64_t *map, int64_t **inner, double *value)
{
    const int64_t size = m->block, a0 = i * size, b0 = j * size;
    for (int64_t k = 0; k < size; k++) map[k] = k;
    for (int q = 0; q < g->n_child; q++)
        for (int64_t u = 0; u < r->group[g->child[q]].units; u++) inner[q][u] = u;
    for (int round = 0; round < (g->n_child > 1 ? 3 : 1); round++)
        for (int q = 0; q < g->n_child; q++) {
            const rebasin_group *child = &r->group[g->child[q]];
            const rebasin_axis *x;
            if (!rebasin_child_axis(g, axis, child, &x)) continue; /* this reader says nothing of it */
            const int64_t n = child->units, repeats = size / (n * x->block);
            double *score = syi_calloc(r->ctx, (size_t)(n * n), sizeof *score);
            int64_t *p = syi_alloc(r->ctx, (size_t)(n + n + size) * sizeof *p), *old = p + n, *was = old + n;
            sy_status st = score && p ? SY_OK : SY_E_MEMORY;
            for (int64_t t = 0; t < n * n && st == SY_OK; t++)
                for (int64_t k = 0; k < repeats; k++)
                    for (int64_t e = 0; e < x->block; e++)
                        score[t] += at(m, a0 + (k * n + t / n) * x->block + e, b0 + map[(k * n + t % n) * x->block + e]);
            if (st == SY_OK) st = syi_lap(r->ctx, n, score, p, NULL);
            if (st == SY_OK) {
                memcpy(old, inner[q], (size_t)n * sizeof *old);
                memcpy(was, map, (size_t)size * sizeof *was);
                for (int64_t u = 0; u < n; u++) inner[q][u] = old[p[u]];
                for (int64_t k = 0; k < size; k++) {
                    const int64_t unit = k / x->block % n;
                    map[k] = was[k + (p[unit] - unit) * x->block];
                }
            }
            syi_free(r->ctx, score);
            syi_free(r->ctx, p);
            SYI_TRY(st);
        }
    *value = 0;
    for (int64_t k = 0; k < size; k++) *value += at(m, a0 + k, b0 + map[k]);
    return SY_OK;
}

static sy_status nested(const rebasin *r, int group, int axis, const moments *m, float **b, rebasin_perm *perm)
{
    const rebasin_group *g = &r->group[group];
    const int64_t n = g->units;
    syi_arena *arena;
    SYI_TRY(syi_arena_new(r->ctx, 1 << 16, &arena));
    double *score = syi_arena_alloc(arena, (size_t)(n * n) * sizeof *score);
    int64_t ***inner = syi_arena_alloc(arena, (size_t)(n * n) * sizeof *inner), *p = syi_arena_alloc(arena, (size_t)(n + m->block) * sizeof *p);
    sy_status st = score && inner && p ? SY_OK : SY_E_MEMORY;
    for (int64_t i = 0; i < n * n && st == SY_OK; i++) {
        inner[i] = syi_arena_alloc(arena, (size_t)g->n_child * sizeof **inner);
        for (int q = 0; q < g->n_child && inner[i]; q++)
            if (!(inner[i][q] = syi_arena_alloc(arena, (size_t)r->group[g->child[q]].units * sizeof(int64_t)))) st = SY_E_MEMORY;
        if (!inner[i]) st = SY_E_MEMORY;
        if (st == SY_OK) st = inside(r, g, axis, m, i / n, i % n, p + n, inner[i], &score[i]);
    }
    if (st == SY_OK) st = syi_lap(r->ctx, n, score, p, NULL);
    if (st == SY_OK) st = rebasin_move(r, group, p, b, perm);
    for (int64_t i = 0; i < n && st == SY_OK; i++) st = rebasin_move_inside(r, group, i, inner[i * n + p[i]], b, perm);
    syi_arena_free(arena);
    return st;
}

sy_status rebasin_match_moments(const rebasin *r, int group, int axis, const double *c, float **b, rebasin_perm *perm)
{
    const rebasin_group *g = &r->group[group];
    const moments m = { c, g->units * g->axis[axis].block, g->axis[axis].block };
    return g->n_child ? nested(r, group, axis, &m, b, perm) : flat(r, group, &m, b, perm);
}
