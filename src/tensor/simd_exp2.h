/* SPDX-License-Identifier: Apache-2.0 */
/* Powers of two and maxima on simd.h's vectors, for softmax: attention and
 * cross-entropy. */
#ifndef SYI_SIMD_EXP2_H
#define SYI_SIMD_EXP2_H

#include "tensor/simd.h"

#include <stdbool.h>

#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

INLINE vf vmax(vf a, vf b) /* b if either is NaN */
{
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vselect((vi)(a > b), a, b);
#endif
}

INLINE bool any_above(vf a, vf b)
{
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)) != 0;
#else
    vi m = (vi)(a > b);
    return (m[0] | m[1] | m[2] | m[3]) != 0;
#endif
}

/* 2^x for x <= 100 to 1e-7, never below 2^-126: x = n + f, |f| <= 1/2, a minimax
 * polynomial for 2^f, n added to the exponent. NaN stays NaN. */
INLINE vf vexp2(vf x)
{
    const vf magic = vset(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    x = vmax(vset(-126.0f), x);
    vf t = x + magic;
    vf f = x - (t - magic);
    vf p = vset(0.00132764725f);
    p = p * f + vset(0.00967554096f);
    p = p * f + vset(0.0555071309f);
    p = p * f + vset(0.240221202f);
    p = p * f + vset(0.693146944f);
    p = p * f + vset(1.00000012f);
    return (vf)((vu)p + ((vu)t << 23));
}

/* 1 / (1 + e^-x) to 4e-6, never below 2^-126; NaN stays NaN. */
INLINE vf vlogistic(vf x)
{
    vf t = x * vset(-1.44269504088896341f);
    t = vselect((vi)(t > vset(126.0f)), vset(126.0f), t);
    return vset(1.0f) / (vset(1.0f) + vexp2(t));
}

#endif
