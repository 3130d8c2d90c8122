/* SPDX-License-Identifier: Apache-2.0 */
/* RMS norm over the last dimension, and its gradients. */
#include "tensor/pieces.h"

sy_status syi_rmsnorm(syi_engine *e, sy_dtype dt, const void *x, const void *w, double eps, void *y, void *rstd, int64_t rows, int64_t cols)
{
    const int t = syi_type(dt);
    if (t < 0) return syi_no_type(e, "rmsnorm", dt);
    const int64_t z = sy_dtype_block_bytes(dt), zs = t == SYI_T_F64 ? 8 : 4;
    SYI_CUT(e, rows, syi_piece_rows(cols), r, count,
            e->cpu->rmsnorm[t](syi_at(x, r * cols, z), w, eps, syi_to(y, r * cols, z), syi_to(rstd, r, zs), count, cols););
    return SY_OK;
}

sy_status syi_rmsnorm_grad(syi_engine *e, sy_dtype dt, const void *dy, const void *x, const void *w, const void *rstd,
                           bool add, void *dx, void *dw, int64_t rows, int64_t cols)
{
    const int t = syi_type(dt);
    if (t < 0) return syi_no_type(e, "rmsnorm", dt);
    if (rows <= 0) return SY_OK;
    const int64_t z = sy_dtype_block_bytes(dt), zs = t == SYI_T_F64 ? 8 : 4;
    /* With dw, pieces are those of its partial sums; they are added in a fixed tree. */
    const int64_t size = dw != NULL ? syi_sum_rows_piece(rows) : syi_piece_rows(cols), pieces = syi_ceil_div(rows, size);
    void *part = NULL;
    if (dw != NULL && (part = syi_engine_work(e, SYI_WORK_PIECES, pieces * cols * zs)) == NULL) return SY_E_MEMORY;
    SYI_CUT(e, rows, size, r, count,
            e->cpu->rmsnorm_grad[t](syi_at(dy, r * cols, z), syi_at(x, r * cols, z), w, syi_at(rstd, r, zs), add, syi_to(dx, r * cols, z),
                                    syi_to(part, r / size * cols, zs), count, cols););
    if (dw != NULL) syi_tree_add(e, t, part, pieces, cols, dw);
    return SY_OK;
}
