/* SPDX-License-Identifier: Apache-2.0 */
/* The list of op rows, for tests and listings. */
#include "graph/ops.h"

#define SYI_ROWS(X)                                                                                                             \
    X(linear) X(matmul) X(lowrank_add) X(coded) X(add) X(sub) X(mul) X(scale) X(scale_cols) X(add_bias) X(dropout) X(cast)       \
    X(reshape) X(sum) X(sum_rows) X(dot) X(embed) X(rmsnorm) X(swiglu) X(rope) X(attention) X(head_loss) X(rows) X(cross_entropy)  \
    X(dora_factor) X(columns)

#define SYI_X(name) extern const sy_op syi_row_##name;
SYI_ROWS(SYI_X)
#undef SYI_X

const sy_op *const syi_ops[] = {
#define SYI_X(name) &syi_row_##name,
    SYI_ROWS(SYI_X)
#undef SYI_X
    NULL,
};
