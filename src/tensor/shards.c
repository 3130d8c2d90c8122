/* SPDX-License-Identifier: Apache-2.0 */
/* Rows cut into shards: sums over shards, shards repeated, rows copied between strides. Cut
 * by rows here, done by the accumulating loops of the CPU table. */
#include "tensor/gemm.h"
#include "tensor/pieces.h"

/* z (type t) is added to y (type ty). */
static void accumulate(const syi_engine *e, int t, int ty, const void *z, void *y, int64_t n)
{
    if (t == SYI_T_F64) {
        for (int64_t i = 0; i < n; i++) ((double *)y)[i] += ((const double *)z)[i];
    } else {
        e->cpu->accumulate[t][ty](z, y, n);
    }
}

static sy_status types(const syi_engine *e, const char *what, sy_dtype a, sy_dtype b, int *ta, int *tb)
{
    *ta = syi_type(a);
    *tb = syi_type(b);
    if (*ta < 0) return syi_no_type(e, what, a);
    if (*tb < 0 || (*ta == SYI_T_F64) != (*tb == SYI_T_F64)) return syi_no_type(e, what, b);
    return SY_OK;
}

sy_status syi_shard_sum(syi_engine *e, sy_dtype dt, const void *x, int64_t rows, int64_t cols, int64_t r, bool add, sy_dtype ot, void *out)
{
    int t, to;
    SYI_TRY(types(e, "shard_sum", dt, ot, &t, &to));
    const int64_t z = sy_dtype_block_bytes(dt), zo = sy_dtype_block_bytes(ot), piece = syi_max(1, SYI_PIECE / syi_max(1, cols));
    const int tw = t == SYI_T_F64 ? SYI_T_F64 : SYI_T_F32; /* sums are wide */
    enum { MOST = 1024 };
    SYI_CUT(e, rows, piece, first, count, for (int64_t row = first; row < first + count; row++) {
        const char *xr = (const char *)x + row * cols * z;
        char *o = (char *)out + row * r * zo;
        double wide[MOST]; /* room for either type */
        for (int64_t j = 0; j < r; j += MOST) {
            const int64_t n = syi_min(MOST, r - j);
            if (add && to == tw) memcpy(wide, o + j * zo, (size_t)(n * zo));
            else memset(wide, 0, sizeof(double) * (size_t)n);
            if (add && to != tw) accumulate(e, to, tw, o + j * zo, wide, n);
            if (n == r && tw == SYI_T_F32) e->cpu->shard_sum[t](xr, cols, r, (float *)(void *)wide);
            else
                for (int64_t c = j; c < cols; c += r) accumulate(e, t, tw, xr + c * z, wide, syi_min(n, cols - c));
            if (to == SYI_T_BF16) e->cpu->to_bf16((const float *)(const void *)wide, (uint16_t *)(void *)(o + j * zo), n);
            else memcpy(o + j * zo, wide, (size_t)(n * zo));
        }
    });
    return SY_OK;
}

sy_status syi_repeat_add(syi_engine *e, sy_dtype dt, const void *z, int64_t rows, int64_t q, int64_t cols, sy_dtype yt, void *y)
{
    int t, ty;
    SYI_TRY(types(e, "repeat_add", dt, yt, &t, &ty));
    const int64_t sz = sy_dtype_block_bytes(dt), sy = sy_dtype_block_bytes(yt), piece = syi_max(1, SYI_PIECE / syi_max(1, cols));
    SYI_CUT(e, rows, piece, first, count, for (int64_t row = first; row < first + count; row++) {
        const char *from = (const char *)z + row * q * sz;
        char *to = (char *)y + row * cols * sy;
        if (t == ty && t != SYI_T_F64) e->cpu->repeat_add[t](from, q, cols, to);
        else
            for (int64_t c = 0; c < cols; c += q) accumulate(e, t, ty, from, to + c * sy, syi_min(q, cols - c));
    });
    return SY_OK;
}

sy_status syi_copy_rows(syi_engine *e, sy_dtype dt, const void *x, int64_t ldx, bool add, sy_dtype yt, void *y, int64_t ldy, int64_t rows, int64_t cols)
{
    int t, ty;
    SYI_TRY(types(e, "copy_rows", dt, yt, &t, &ty));
    const int64_t z = sy_dtype_block_bytes(dt), zy = sy_dtype_block_bytes(yt), piece = syi_max(1, SYI_PIECE / syi_max(1, cols));
    SYI_CUT(e, rows, piece, first, count, for (int64_t row = first; row < first + count; row++) {
        const char *from = (const char *)x + row * ldx * z;
        char *to = (char *)y + row * ldy * zy;
        if (!add && t != ty) memset(to, 0, (size_t)(cols * zy));
        if (add || t != ty) accumulate(e, t, ty, from, to, cols);
        else memcpy(to, from, (size_t)(cols * z));
    });
    return SY_OK;
}
