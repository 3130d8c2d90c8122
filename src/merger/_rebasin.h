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
typedef struct { const char *name; int rank; int64_t dim[SY_MAX_RANK], count; bool silent, transposed; /* in the file, against the model */ } rebasin_tensor;
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
/* ... and one of each of its children inside of unit i: inner[k] belongs to child k. */
sy_status rebasin_move_inside(const rebasin *r, int group, int64_t i, int64_t *const *inner, float **b, rebasin_perm *perm);
void rebasin_perm_copy(const rebasin *r, const rebasin_perm *from, rebasin_perm *to);
/* sum over tensors of |a - b|^2; running statistics not among them */
double rebasin_distance(const rebasin *r, const float *const *a, const float *const *b);
/* Memory for every tensor, filled from `from` (or zeros); rebasin_drop frees it. */
sy_status rebasin_fresh(const rebasin *r, const float *const *from, float ***out);
void rebasin_drop(const rebasin *r, float **x);
/* out = (1 - t) a + t b, all tensors */
void rebasin_between(const rebasin *r, double t, const float *const *a, const float *const *b, float **out);

/* Matching by second moments c[len, len] of what reads the group, len = units * block of its
 * axis number `axis`: entry (i, j) is how much index i of a and index j of b say the same. */
sy_status rebasin_match_moments(const rebasin *r, int group, int axis, const double *c, float **b, rebasin_perm *perm);

/* -- pieces of tensors ------------------------------------------------------------------------ */
/* A tensor, or a slice of one, as [outer, length, inner] around the axis in question. */
typedef struct { int64_t outer, length, inner; } rebasin_shape;
rebasin_shape rebasin_around(const rebasin_tensor *t, int axis);
/* Unit by unit: out[units, repeats, outer, block * inner] of the indices [first, first +
 * repeats * units * block) of the axis. */
void rebasin_gather(const float *x, rebasin_shape s, int64_t first, int64_t units, int64_t block, int64_t repeats, float *out);
/* Unit i becomes what unit p[i] was. */
void rebasin_scatter(const float *from, rebasin_shape s, int64_t first, int64_t units, int64_t block, int64_t repeats, const int64_t *p, float *x);
/* Axis of a child on the parent's axis number k: the slice is one parent unit. */
bool rebasin_child_axis(const rebasin_group *parent, int k, const rebasin_group *child, const rebasin_axis **out);

#endif
