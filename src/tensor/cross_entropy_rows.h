/* SPDX-License-Identifier: Apache-2.0 */
/* The row passes of the cross-entropy on vectors, included by cross_entropy_X.c,
 * one an instruction set. */
#include "tensor/cross_entropy_internal.h"
#include "tensor/simd_exp2.h"

#include <math.h>

static const float log2e = 1.44269504088896341f;

/* The last, incomplete vector of a row; lanes past its end are `fill`. */
INLINE vf load_tail(const float *x, int64_t n, float fill)
{
    float t[VW];
    for (int64_t i = 0; i < VW; i++) t[i] = i < n ? x[i] : fill;
    return vload_f32(t);
}

static float block_max(const float *x, int64_t n, float max)
{
    vf most[4] = {vset(max), vset(max), vset(max), vset(max)};
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW)
        UNROLL for (int k = 0; k < 4; k++) most[k] = vmax(most[k], vload_f32(x + i + k * VW));
    for (; i + VW <= n; i += VW) most[0] = vmax(most[0], vload_f32(x + i));
    if (i < n) most[1] = vmax(most[1], load_tail(x + i, n - i, max));
    most[0] = vmax(vmax(most[0], most[1]), vmax(most[2], most[3]));
    float lanes[VW];
    vstore_f32(lanes, most[0]);
    for (int k = 0; k < VW; k++) max = lanes[k] > max ? lanes[k] : max;
    return max;
}

INLINE void put(void *out, int64_t i, sy_dtype dt, vf v)
{
    if (dt == SY_F32) vstore_f32((float *)out + i, v);
    else vstore_bf16((bf16 *)out + i, v);
}

INLINE void exp_of(const float *x, int64_t n, float top, double *sum, sy_dtype dt, void *out)
{
    vf part[4] = {vset(0), vset(0), vset(0), vset(0)};
    const vf shift = vset(top), unit = vset(log2e);
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW)
        UNROLL for (int k = 0; k < 4; k++) {
            vf e = vexp2((vload_f32(x + i + k * VW) - shift) * unit);
            part[k] = part[k] + e;
            if (out) put(out, i + k * VW, dt, e);
        }
    for (; i + VW <= n; i += VW) {
        vf e = vexp2((vload_f32(x + i) - shift) * unit);
        part[0] = part[0] + e;
        if (out) put(out, i, dt, e);
    }
    if (i < n) {
        vf e = vexp2((load_tail(x + i, n - i, top - 1e5f) - shift) * unit);
        part[1] = part[1] + e;
        if (out && dt == SY_F32) vstore_f32_part((float *)out + i, e, n - i);
        else if (out) vstore_bf16_part((bf16 *)out + i, e, n - i);
    }
    *sum += (double)vsum((part[0] + part[1]) + (part[2] + part[3]));
}

static void rows_exp(const float *x, int64_t n, float *max, double *sum, sy_dtype dt, void *out)
{
    const float top = block_max(x, n, *max);
    if (top != *max) *sum *= exp((double)*max - top);
    *max = top;
    if (!out) exp_of(x, n, top, sum, SY_F32, NULL);
    else if (dt == SY_F32) exp_of(x, n, top, sum, SY_F32, out);
    else exp_of(x, n, top, sum, SY_BF16, out);
}

static void rows_add(const float *part, int64_t n, float scale, float *sum)
{
    const vf s = vset(scale);
    int64_t i = 0;
    for (; i + VW <= n; i += VW) vstore_f32(sum + i, vload_f32(sum + i) * s + vload_f32(part + i));
    if (i < n) vstore_f32_part(sum + i, vload_f32_part(sum + i, n - i) * s + vload_f32_part(part + i, n - i), n - i);
}
