/* SPDX-License-Identifier: Apache-2.0 */
/* Matching the hidden units of one network to those of another: permutations of groups of
 * units, as the architecture's topology states them, found by coordinate descent on the
 * inner product of the weights. */
#ifndef MERGER_REBASIN_H
#define MERGER_REBASIN_H

#include "model/model.h"

/* One axis of one tensor that a group acts on. */
typedef struct { int tensor, axis; int64_t first, block; bool silent; /* moves along, says nothing */ } rebasin_axis;
typedef struct {
    const char *name;
    int parent;                /* group that this one lies inside of, -1: none               */
    int64_t units;
    rebasin_axis *axis; int n;
    int child[4]; int n_child;
} rebasin_group;
typedef struct { const char *name; int rank; int64_t dim[SY_MAX_RANK], count; } rebasin_tensor;
typedef struct {
    sy_context *ctx;
    syi_arena *arena;
    rebasin_tensor *tensor; int n_tensors;
    rebasin_group *group; int n_groups;
    bool normalize;
} rebasin;

/* Permutations of every group: p[g] has units entries for each unit of the parent (1 without). */
typedef struct { int64_t **p; } rebasin_perm;

/* Groups of the architecture that act on these tensors. */
sy_status rebasin_begin(rebasin *r, const syi_perm *perms, int n);
sy_status rebasin_identity(const rebasin *r, rebasin_perm *out);
int64_t rebasin_copies(const rebasin *r, int group); /* parent's units, or 1 */
/* Matches b (moved in place, data[tensor]) to a: sweeps until nothing gains. perm is composed
 * with what was found. */
sy_status rebasin_match(const rebasin *r, const float *const *a, float **b, int64_t max_sweeps, uint64_t key, rebasin_perm *perm, int64_t *sweeps);
/* Applies a permutation of one top group (units of it) to b. */
sy_status rebasin_move(const rebasin *r, int group, const int64_t *p, float **b, rebasin_perm *perm);
/* sum over tensors of |a - b|^2 */
double rebasin_distance(const rebasin *r, const float *const *a, const float *const *b);

#endif
