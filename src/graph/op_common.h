/* SPDX-License-Identifier: Apache-2.0 */
/* Small helpers of the op rows. Internal to src/graph/op_*.c. */
#ifndef SYI_OP_COMMON_H
#define SYI_OP_COMMON_H

#include "graph/ops.h"

/* Sets the shape of the output. */
static inline sy_status syi_out(sy_op_call *c, sy_dtype dtype, int rank, const int64_t *dim)
{
    sy_tensor t = {.dtype = dtype, .rank = rank};
    for (int i = 0; i < rank; i++) t.dim[i] = dim[i];
    *c->out = t;
    return SY_OK;
}

/* Input i of a test case: normal numbers in the graph's type. */
static inline void syi_case_in(sy_op_case *c, int i, int rank, const int64_t *dim, bool grad)
{
    c->in[i].dtype = SY_F64; /* stands for "the type under test" */
    c->in[i].rank = rank;
    for (int k = 0; k < rank; k++) c->in[i].dim[k] = dim[k];
    c->in[i].grad = grad;
    c->in[i].scale = 1;
}

static inline bool syi_same_shape(const sy_tensor *a, const sy_tensor *b)
{
    if (a->dtype != b->dtype || a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

#endif
