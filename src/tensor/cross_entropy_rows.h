/* SPDX-License-Identifier: Apache-2.0 */
/* The row passes of the cross-entropy on vectors, included by cross_entropy_X.c,
 * one an instruction set. */
#include "tensor/cross_entropy_internal.h"
#include "tensor/simd_exp2.h"

#include <math.h>

enum { BLOCK = 2048 /* numbers whose maximum is found before they are read again from the L1 */ };

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

static void rows_sum(const float *x, int64_t n, float *max, double *sum)
{
    for (int64_t at = 0; at < n; at += BLOCK, x += BLOCK) {
        const int64_t len = n - at < BLOCK ? n - at : BLOCK;
        const float top = block_max(x, len, *max);
        if (top != *max) *sum *= exp((double)*max - top);
        *max = top;
        vf part[4] = {vset(0), vset(0), vset(0), vset(0)};
        int64_t i = 0;
        for (; i + 4 * VW <= len; i += 4 * VW)
            UNROLL for (int k = 0; k < 4; k++) part[k] = part[k] + vexp2((vload_f32(x + i + k * VW) - vset(top)) * vset(log2e));
        for (; i + VW <= len; i += VW) part[0] = part[0] + vexp2((vload_f32(x + i) - vset(top)) * vset(log2e));
        if (i < len) part[1] = part[1] + vexp2((load_tail(x + i, len - i, top - 1e5f) - vset(top)) * vset(log2e));
        *sum += (double)vsum((part[0] + part[1]) + (part[2] + part[3]));
    }
}

static void rows_grad(const float *x, int64_t n, float lse, float factor, sy_dtype dt, void *out)
{
    float *f = out;
    bf16 *h = out;
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf g = vexp2((vload_f32(x + i) - vset(lse)) * vset(log2e)) * vset(factor);
        if (dt == SY_F32) vstore_f32(f + i, g);
        else vstore_bf16(h + i, g);
    }
    if (i == n) return;
    vf g = vexp2((load_tail(x + i, n - i, lse) - vset(lse)) * vset(log2e)) * vset(factor);
    if (dt == SY_F32) vstore_f32_part(f + i, g, n - i);
    else vstore_bf16_part(h + i, g, n - i);
}
