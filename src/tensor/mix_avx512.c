/* SPDX-License-Identifier: Apache-2.0 */
/* The loops of mix.h for AVX512; those that pick out numbers compress in registers. */
#include "tensor/mix.h"

#include <immintrin.h>

#define MIX_OWN_LOOPS
static int64_t pick(const float *x, const float *base, uint32_t lo, uint32_t hi, uint32_t *out, int64_t *above, int64_t n)
{
    const __m512i sign = _mm512_set1_epi32(0x7fffffff), low = _mm512_set1_epi32((int)lo), high = _mm512_set1_epi32((int)hi);
    int64_t found = 0, more = 0;
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 live = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : (__mmask16)0xffff;
        const __m512 d = _mm512_sub_ps(_mm512_maskz_loadu_ps(live, x + i), _mm512_maskz_loadu_ps(live, base + i));
        const __m512i key = _mm512_and_si512(_mm512_castps_si512(d), sign);
        const __mmask16 over = _mm512_mask_cmpgt_epu32_mask(live, key, high);
        const __mmask16 in = _mm512_mask_cmpge_epu32_mask(live & (__mmask16)~over, key, low);
        more += __builtin_popcount(over);
        if (!in) continue;
        _mm512_storeu_si512(out + found, _mm512_maskz_compress_epi32(in, key));
        found += __builtin_popcount(in);
    }
    *above += more;
    return found;
}

static int64_t between(const float *u, float from, float to, int32_t *at, int64_t n)
{
    const __m512 low = _mm512_set1_ps(from), high = _mm512_set1_ps(to);
    __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int64_t found = 0;
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 live = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : (__mmask16)0xffff;
        const __m512 v = _mm512_maskz_loadu_ps(live, u + i);
        const __mmask16 in = _mm512_mask_cmp_ps_mask(_mm512_mask_cmp_ps_mask(live, v, low, _CMP_GE_OQ), v, high, _CMP_LT_OQ);
        _mm512_storeu_si512(at + found, _mm512_maskz_compress_epi32(in, place));
        found += __builtin_popcount(in);
        place = _mm512_add_epi32(place, _mm512_set1_epi32(16));
    }
    return found;
}

static inline double lanes(__m512d v)
{
    double x[8];
    _mm512_storeu_pd(x, v);
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

static void abs_sums(const float *x, const float *base, const float *m, double *sum, int64_t n)
{
    __m512d all = _mm512_setzero_pd(), some = all;
    for (int64_t i = 0; i < n; i += 8) {
        const __mmask8 live = n - i < 8 ? (__mmask8)((1u << (n - i)) - 1) : (__mmask8)0xff;
        const __m256 d = _mm256_sub_ps(_mm256_maskz_loadu_ps(live, x + i), _mm256_maskz_loadu_ps(live, base + i));
        const __m256 off = _mm256_and_ps(d, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
        const __mmask8 kept = _mm256_cmp_ps_mask(_mm256_maskz_loadu_ps(live, m + i), _mm256_setzero_ps(), _CMP_NEQ_OQ);
        const __m512d wide = _mm512_cvtps_pd(off);
        all = _mm512_add_pd(all, wide);
        some = _mm512_mask_add_pd(some, kept, some, wide);
    }
    sum[0] += lanes(all);
    sum[1] += lanes(some);
}

#include "tensor/mix_body.h"

const syi_mix syi_mix_avx512 = MIX_TABLE("avx512");
