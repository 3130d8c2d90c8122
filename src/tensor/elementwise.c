/* SPDX-License-Identifier: Apache-2.0 */
/* Elementwise kernels: the cutting into pieces and the choice by type; the loops
 * are in cpu_impl.h (f32, bf16) and, for f64, here, plainly. */
#include "tensor/gemm.h"
#include "tensor/pieces.h"

static sy_status no_type(const syi_engine *e, const char *what, sy_dtype dt)
{
    return syi_fail(e->ctx, SY_E_BUG, "%s: no kernel for %s (F32, BF16, F64)", what, sy_dtype_name(dt));
}

/* -- types ---------------------------------------------------------------------------- */

enum { CAST_STEP = 1024 };

/* By way of f32 for types that only convert.c knows. */
static sy_status cast_slowly(syi_engine *e, sy_dtype from, const char *src, sy_dtype to, char *dst, int64_t n)
{
    float t[CAST_STEP];
    int64_t fl = sy_dtype_block_len(from), fb = sy_dtype_block_bytes(from);
    int64_t tl = sy_dtype_block_len(to), tb = sy_dtype_block_bytes(to);
    for (int64_t i = 0; i < n; i += CAST_STEP) {
        int64_t count = syi_min(CAST_STEP, n - i);
        SYI_TRY(sy_to_f32(e->ctx, from, src + i / fl * fb, t, count));
        SYI_TRY(sy_from_f32(e->ctx, to, t, dst + i / tl * tb, count));
    }
    return SY_OK;
}

sy_status syi_cast(syi_engine *e, sy_dtype from, const void *src, sy_dtype to, void *dst, int64_t n)
{
    if (n <= 0) return SY_OK;
    if (from == to && sy_dtype_block_len(from) == 1) {
        int64_t size = sy_dtype_block_bytes(from);
        if (src != dst)
            SYI_PIECES(e, n, i, count, { memcpy((char *)dst + i * size, (const char *)src + i * size, (size_t)(count * size)); });
        return SY_OK;
    }
    if (from == SY_F32 && to == SY_BF16)
        SYI_PIECES(e, n, i, count, { e->cpu->to_bf16((const float *)src + i, (uint16_t *)dst + i, count); });
    else if (from == SY_BF16 && to == SY_F32)
        SYI_PIECES(e, n, i, count, { e->cpu->from_bf16((const uint16_t *)src + i, (float *)dst + i, count); });
    else if (from == SY_F32 && to == SY_F64)
        for (int64_t i = 0; i < n; i++) ((double *)dst)[i] = ((const float *)src)[i];
    else if (from == SY_F64 && to == SY_F32)
        for (int64_t i = 0; i < n; i++) ((float *)dst)[i] = (float)((const double *)src)[i];
    else if (from == SY_BF16 && to == SY_F64)
        for (int64_t i = 0; i < n; i++) ((double *)dst)[i] = syi_from_bf16(((const uint16_t *)src)[i]);
    else if (from == SY_F64 && to == SY_BF16)
        for (int64_t i = 0; i < n; i++) ((uint16_t *)dst)[i] = syi_to_bf16((float)((const double *)src)[i]);
    else if (to == SY_F64 || from == SY_F64)
        return no_type(e, "cast to or from F64", to == SY_F64 ? from : to);
    else
        return cast_slowly(e, from, src, to, dst, n);
    return SY_OK;
}

/* -- sums and products ------------------------------------------------------------------ */

sy_status syi_axpy(syi_engine *e, sy_dtype dt, double a, const void *x, bool add, void *y, int64_t n)
{
    if (dt == SY_F32)
        SYI_PIECES(e, n, i, count, { e->cpu->axpy_f32((float)a, (const float *)x + i, add, (float *)y + i, count); });
    else if (dt == SY_BF16)
        SYI_PIECES(e, n, i, count, { e->cpu->axpy_bf16((float)a, (const uint16_t *)x + i, add, (uint16_t *)y + i, count); });
    else if (dt == SY_F64)
        for (int64_t i = 0; i < n; i++) ((double *)y)[i] = (add ? ((double *)y)[i] : 0) + a * ((const double *)x)[i];
    else
        return no_type(e, "axpy", dt);
    return SY_OK;
}
