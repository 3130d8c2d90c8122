/* SPDX-License-Identifier: Apache-2.0 */
/* RMS norm and layer norm over the last dimension, and their gradients. */
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

sy_status syi_layernorm(syi_engine *e, sy_dtype dt, const void *x, const void *w, const void *b, double eps, void *y, void *mean, void *rstd,
                        int64_t rows, int64_t cols)
{
    const int t = syi_type(dt);
    if (t < 0) return syi_no_type(e, "layernorm", dt);
    const int64_t z = sy_dtype_block_bytes(dt), zs = t == SYI_T_F64 ? 8 : 4;
    SYI_CUT(e, rows, syi_piece_rows(cols), r, count,
            e->cpu->layernorm[t](syi_at(x, r * cols, z), w, b, eps, syi_to(y, r * cols, z), syi_to(mean, r, zs), syi_to(rstd, r, zs), count, cols););
    return SY_OK;
}

sy_status syi_layernorm_grad(syi_engine *e, sy_dtype dt, const void *dy, const void *x, const void *w, const void *mean, const void *rstd, bool add,
                             void *dx, void *dw, void *db, int64_t rows, int64_t cols)
{
    const int t = syi_type(dt);
    if (t < 0) return syi_no_type(e, "layernorm", dt);
    if (rows <= 0) return SY_OK;
    const bool sums = dw != NULL || db != NULL;
    const int64_t z = sy_dtype_block_bytes(dt), zs = t == SYI_T_F64 ? 8 : 4;
    const int64_t size = sums ? syi_sum_rows_piece(rows) : syi_piece_rows(cols), pieces = syi_ceil_div(rows, size);
    void *part = NULL, *part_w = NULL, *part_b = NULL;
    if (sums && (part = syi_engine_work(e, SYI_WORK_PIECES, 2 * pieces * cols * zs)) == NULL) return SY_E_MEMORY;
    if (dw != NULL) part_w = part;
    if (db != NULL) part_b = syi_to(part, pieces * cols, zs);
    SYI_CUT(e, rows, size, r, count,
            e->cpu->layernorm_grad[t](syi_at(dy, r * cols, z), syi_at(x, r * cols, z), w, syi_at(mean, r, zs), syi_at(rstd, r, zs), add,
                                      syi_to(dx, r * cols, z), syi_to(part_w, r / size * cols, zs), syi_to(part_b, r / size * cols, zs), count, cols););
    if (dw != NULL) syi_tree_add(e, t, part_w, pieces, cols, dw);
    if (db != NULL) syi_tree_add(e, t, part_b, pieces, cols, db);
    return SY_OK;
}
