/* SPDX-License-Identifier: Apache-2.0 */
/* What the op_*.c files share: shape rules, gradients into destinations of another
 * type, work counts. Internal to src/graph. */
#ifndef SYI_OP_ROW_H
#define SYI_OP_ROW_H

#include "graph/ops.h"

/* In test cases an input's dtype says its role: activations follow the type that is
 * tested, vectors are f32 (f64 in f64). */
#define CASE_ACT SY_F64
#define CASE_VEC SY_F32

/* The type of sums and per-feature vectors beside activations of type dt. */
static inline sy_dtype syi_sum_type(sy_dtype dt)
{
    return dt == SY_F64 ? SY_F64 : SY_F32;
}

static inline int64_t syi_dtype_size(sy_dtype dt)
{
    return sy_dtype_block_bytes(dt);
}

/* Test case: input i is an activation of that shape, normal numbers. */
static inline void syi_case_in(sy_op_case *t, int i, int rank, const int64_t *dim, bool grad)
{
    t->in[i].dtype = CASE_ACT;
    t->in[i].rank = rank;
    for (int d = 0; d < rank; d++) t->in[i].dim[d] = dim[d];
    t->in[i].grad = grad;
}

/* out gets dtype and shape. */
void syi_shape_like(sy_tensor *out, const sy_tensor *x);
void syi_shape_1(sy_tensor *out, sy_dtype dt, int64_t n);
void syi_shape_2(sy_tensor *out, sy_dtype dt, int64_t rows, int64_t cols);
/* Shape rule: one shape and type for all inputs, out like them. */
sy_status syi_shape_same(sy_op_call *c, int *n_aux);
/* "op NAME: input 1 is F32 [3, 4], expected ...". */
sy_status syi_shape_wrong(const sy_op_call *c, const char *op, int i, const char *expected);

/* Where backward writes the gradient of input i as numbers of type dt: din itself, or
 * scratch (which the op asked for with syi_via_bytes) when din has another type, as a
 * bf16 parameter's f32 gradient has. syi_via_done brings it home. */
typedef struct { void *data; bool add; } syi_via;
int64_t syi_via_bytes(const sy_op_call *c, sy_dtype dt);
syi_via syi_via_begin(const sy_op_call *c, int i, sy_dtype dt);
sy_status syi_via_done(const sy_op_call *c, int i, sy_dtype dt, syi_via via);

/* din[i] (+)= a * dout, any pair of types. */
sy_status syi_pass_grad(const sy_op_call *c, int i, double a);
/* Zeroes din[i] unless it is to be added to: for kernels that only add. */
void syi_zero_unless_add(const sy_op_call *c, int i);

/* A single number as it is stored. */
double syi_scalar_get(const sy_tensor *t);
void syi_scalar_set(sy_tensor *t, double v);

unsigned syi_keep_none(const sy_op_call *c, unsigned want);
unsigned syi_keep_out(const sy_op_call *c, unsigned want);

enum { SYI_KEEP_OUT = 256 };

#endif
