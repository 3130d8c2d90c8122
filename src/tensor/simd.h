/* SPDX-License-Identifier: Apache-2.0 */
/* Vectors of f32 as wide as the instruction set that a file is compiled for, on
 * top of the vector types of gcc and clang (arithmetic operators work on them).
 * Included by the cpu_*.c files only, which differ in nothing but flags. */
#ifndef SYI_SIMD_H
#define SYI_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { VW = 16 };
typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));
typedef uint16_t vh __attribute__((vector_size(32)));
#elif defined(__AVX2__)
enum { VW = 8 };
typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
typedef uint32_t vu __attribute__((vector_size(32)));
typedef uint16_t vh __attribute__((vector_size(16)));
#else
enum { VW = 4 };
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t vu __attribute__((vector_size(16)));
typedef uint16_t vh __attribute__((vector_size(8)));
#endif

typedef uint16_t bf16;

static inline vf vset(float x)
{
#if defined(__AVX512F__)
    return (vf)_mm512_set1_ps(x);
#elif defined(__AVX2__)
    return (vf)_mm256_set1_ps(x);
#else
    return (vf){x, x, x, x};
#endif
}

static inline vi vseti(int32_t x)
{
#if defined(__AVX512F__)
    return (vi)_mm512_set1_epi32(x);
#elif defined(__AVX2__)
    return (vi)_mm256_set1_epi32(x);
#else
    return (vi){x, x, x, x};
#endif
}

static inline vf vload_f32(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void vstore_f32(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

static inline vf vload_bf16(const bf16 *p)
{
#if defined(__AVX512F__)
    __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return (vf)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
#elif defined(__AVX2__)
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)p);
    return (vf)_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
#else
    vh h;
    memcpy(&h, p, sizeof h);
    return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}

/* Nearest even; a NaN stays a (quiet) NaN. */
static inline void vstore_bf16(bf16 *p, vf v)
{
#if defined(__AVX512BF16__)
    __m256bh h = _mm512_cvtneps_pbh((__m512)v);
    memcpy(p, &h, sizeof h);
#else
    vu u = (vu)v;
    vu rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    vu quiet = (u >> 16) | 0x40u;
    vu nan = (vu)(v != v);
    u = (nan & quiet) | (~nan & rounded);
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16((__m512i)u));
#elif defined(__AVX2__)
    __m128i lo = _mm256_castsi256_si128((__m256i)u), hi = _mm256_extracti128_si256((__m256i)u, 1);
    _mm_storeu_si128((__m128i *)(void *)p, _mm_packus_epi32(lo, hi));
#else
    vh h = __builtin_convertvector(u, vh);
    memcpy(p, &h, sizeof h);
#endif
#endif
}

/* The first n < VW numbers; the rest is 0 (loads) or left alone (stores). */
static inline vf vload_f32_part(const float *p, int64_t n)
{
    float t[VW] = {0};
    memcpy(t, p, (size_t)n * sizeof *p);
    return vload_f32(t);
}

static inline vf vload_bf16_part(const bf16 *p, int64_t n)
{
    bf16 t[VW] = {0};
    memcpy(t, p, (size_t)n * sizeof *p);
    return vload_bf16(t);
}

static inline void vstore_f32_part(float *p, vf v, int64_t n)
{
    float t[VW];
    vstore_f32(t, v);
    memcpy(p, t, (size_t)n * sizeof *p);
}

static inline void vstore_bf16_part(bf16 *p, vf v, int64_t n)
{
    bf16 t[VW];
    vstore_bf16(t, v);
    memcpy(p, t, (size_t)n * sizeof *p);
}

static inline vf vselect(vi mask, vf yes, vf no)
{
#if defined(__AVX512F__)
    return (vf)_mm512_mask_blend_ps(_mm512_test_epi32_mask((__m512i)mask, (__m512i)mask), (__m512)no, (__m512)yes);
#else
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
#endif
}

/* Lanes added pairwise in a fixed order. */
static inline float vsum(vf v)
{
    float t[VW];
    vstore_f32(t, v);
    for (int n = VW / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) t[i] += t[i + n];
    return t[0];
}

/* Lanes of four vectors added up, each in the same order whatever the others hold. */
static inline void vsum4(const vf v[4], float out[4])
{
#if defined(__AVX512F__)
    const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512 s = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
#elif defined(__AVX2__)
    const __m256 a = (__m256)v[0], b = (__m256)v[1], c = (__m256)v[2], d = (__m256)v[3];
    const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const __m256 s = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
#else
    for (int i = 0; i < 4; i++) out[i] = vsum(v[i]);
#endif
}

static inline vf vsqrt(vf v)
{
#if defined(__AVX512F__)
    return (vf)_mm512_sqrt_ps((__m512)v);
#elif defined(__AVX2__)
    return (vf)_mm256_sqrt_ps((__m256)v);
#else
    for (int i = 0; i < VW; i++) v[i] = __builtin_sqrtf(v[i]);
    return v;
#endif
}

/* e^x to about 1 unit in the last place: x = n ln 2 + r with |r| <= ln 2 / 2, a
 * polynomial for e^r, n put into the exponent. Results below 2^-126 become 0,
 * above the largest number infinity; NaN stays NaN. */
static inline vf vexp(vf x)
{
    const vf magic = vset(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vf clamped = vselect(x < vset(-87.33654f), vset(-87.33654f), x);
    clamped = vselect(clamped > vset(88.72283f), vset(88.72283f), clamped);
    vf t = clamped * vset(1.44269504088896341f) + magic;
    vf n = t - magic;
    vf r = clamped - n * vset(0.693359375f);
    r = r - n * vset(-2.12194440e-4f);
    vf p = vset(1.9841270e-4f);
    p = p * r + vset(1.3888889e-3f);
    p = p * r + vset(8.3333333e-3f);
    p = p * r + vset(4.1666667e-2f);
    p = p * r + vset(1.6666667e-1f);
    p = p * r + vset(0.5f);
    p = p * (r * r) + r + vset(1.0f);
    /* In two halves, because n reaches 128. */
    vi k = (vi)t - (vi)magic;
    vi k1 = k >> 1, k2 = k - k1;
    vf y = p * (vf)((k1 + 127) << 23) * (vf)((k2 + 127) << 23);
    y = vselect(x < vset(-87.33654f), vset(0.0f), y);
    return vselect(x > vset(88.72283f), vset(__builtin_inff()), y);
}

#endif
