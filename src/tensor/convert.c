/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers as they lie in files, to f32 and back.
 *
 * One plain loop a type, written so that compilers vectorise it: no branches,
 * loads through memcpy because mapped files promise no alignment. The formats
 * of GGUF's blocks and the order of their operations follow the format's own
 * reference, so that dequantised weights agree with it bit for bit; products
 * and sums must therefore not be contracted (the build compiles this file with
 * -ffp-contract=off). */
#include "convert.h"
#include "base/base.h"

#include <math.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "files are little-endian; this machine is not: byte swaps would be needed here"
#endif

static inline uint16_t load16(const void *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t load32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline float as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t as_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

/* -- 16 bits ----------------------------------------------------------------- */

/* Of the subnormals: m | 0x3f000000 is 0.5 + m * 2^-24, exact for m < 2^10, since
 * the last place of numbers from 0.5 on is 2^-24, half's smallest step. Adding
 * 0.5 to round into it is the same thing backwards. */
static inline float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, m = h & 0x7fffu;
    uint32_t normal = (m << 13) + (112u << 23);
    uint32_t top = (m << 13) | 0x7f800000u;                       /* inf, NaN */
    uint32_t tiny = as_bits(as_float(m | 0x3f000000u) - 0.5f);    /* m * 2^-24 */
    uint32_t u = m >= 0x7c00u ? top : m < 0x0400u ? tiny : normal;
    return as_float(u | sign);
}

static inline uint16_t float_to_half(float f)
{
    uint32_t u = as_bits(f), sign = (u >> 16) & 0x8000u, m = u & 0x7fffffffu;
    uint32_t normal = (m - (112u << 23) + 0x0fffu + ((m >> 13) & 1u)) >> 13;
    uint32_t tiny = as_bits(as_float(m) + 0.5f) - 0x3f000000u;    /* the addition rounds */
    uint32_t nan = 0x7e00u | ((m >> 13) & 0x03ffu);
    uint32_t h = m > 0x7f800000u ? nan : m >= 0x47800000u ? 0x7c00u : m < 0x38800000u ? tiny : normal;
    return (uint16_t)(h | sign);
}

static inline uint16_t float_to_bf16(float f)
{
    uint32_t u = as_bits(f);
    uint32_t near = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    uint32_t nan = (u >> 16) | 0x0040u;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? nan : near);
}

/* -- 8 bits -------------------------------------------------------------------- */

/* E4M3: bias 7, no infinity, NaN is S.1111.111, largest 448.
 * E5M2: bias 15, the upper half of an IEEE half. */
static inline float e4m3_to_float(uint8_t b)
{
    uint32_t sign = (uint32_t)(b & 0x80u) << 24, m = b & 0x7fu;
    uint32_t normal = (m << 20) + (120u << 23);
    uint32_t tiny = as_bits((float)m * 0x1p-9f);
    uint32_t u = m == 0x7fu ? 0x7fc00000u : m < 8 ? tiny : normal;
    return as_float(u | sign);
}

static inline uint8_t float_to_e4m3(float f)
{
    uint32_t u = as_bits(f), sign = (u >> 24) & 0x80u, m = u & 0x7fffffffu;
    uint32_t normal = (m - (120u << 23) + 0x7ffffu + ((m >> 20) & 1u)) >> 20;
    uint32_t tiny = as_bits(as_float(m) + 0x1p14f) - 0x46800000u; /* last place of 2^14 is 2^-9 */
    uint32_t b = m >= 0x43f00000u ? 0x7fu : m < 0x3c800000u ? tiny : normal; /* 480 and more: NaN */
    return (uint8_t)((b > 0x7fu ? 0x7fu : b) | sign);
}

static inline uint8_t float_to_e5m2(float f)
{
    uint32_t u = as_bits(f), sign = (u >> 24) & 0x80u, m = u & 0x7fffffffu;
    uint32_t normal = (m - (112u << 23) + 0xfffffu + ((m >> 21) & 1u)) >> 21;
    uint32_t tiny = as_bits(as_float(m) + 0x1p7f) - 0x43000000u;  /* last place of 2^7 is 2^-16 */
    uint32_t b = m > 0x7f800000u ? 0x7fu : m >= 0x47800000u ? 0x7cu : m < 0x38800000u ? tiny : normal;
    return (uint8_t)(b | sign);
}

/* -- integers ------------------------------------------------------------------- */

#define INTEGER_TO_F32(name, type)                                            \
    static void name(const uint8_t *s, float *d, int64_t n)                   \
    {                                                                         \
        for (int64_t i = 0; i < n; i++) {                                     \
            type v;                                                           \
            memcpy(&v, s + i * (int64_t)sizeof v, sizeof v);                  \
            d[i] = (float)v;                                                  \
        }                                                                     \
    }
INTEGER_TO_F32(i8_to_f32, int8_t)
INTEGER_TO_F32(u8_to_f32, uint8_t)
INTEGER_TO_F32(i16_to_f32, int16_t)
INTEGER_TO_F32(u16_to_f32, uint16_t)
INTEGER_TO_F32(i32_to_f32, int32_t)
INTEGER_TO_F32(u32_to_f32, uint32_t)
INTEGER_TO_F32(i64_to_f32, int64_t)
INTEGER_TO_F32(u64_to_f32, uint64_t)
INTEGER_TO_F32(f64_to_f32, double)

/* Rounds to nearest even, clamps to the range; NaN becomes 0. `above` is the
 * first float beyond the largest value (a power of two, exact in f32). */
#define INTEGER_FROM_F32(name, type, low, high, below, above)                 \
    static void name(const float *s, uint8_t *d, int64_t n)                   \
    {                                                                         \
        for (int64_t i = 0; i < n; i++) {                                     \
            float x = rintf(s[i]);                                            \
            type v = x >= (above) ? (high) : x <= (below) ? (low) : x == x ? (type)x : 0; \
            memcpy(d + i * (int64_t)sizeof v, &v, sizeof v);                  \
        }                                                                     \
    }
INTEGER_FROM_F32(f32_to_i8, int8_t, INT8_MIN, INT8_MAX, -128.0f, 128.0f)
INTEGER_FROM_F32(f32_to_u8, uint8_t, 0, UINT8_MAX, 0.0f, 256.0f)
INTEGER_FROM_F32(f32_to_i16, int16_t, INT16_MIN, INT16_MAX, -32768.0f, 32768.0f)
INTEGER_FROM_F32(f32_to_u16, uint16_t, 0, UINT16_MAX, 0.0f, 65536.0f)
INTEGER_FROM_F32(f32_to_i32, int32_t, INT32_MIN, INT32_MAX, -0x1p31f, 0x1p31f)
INTEGER_FROM_F32(f32_to_u32, uint32_t, 0, UINT32_MAX, 0.0f, 0x1p32f)
INTEGER_FROM_F32(f32_to_i64, int64_t, INT64_MIN, INT64_MAX, -0x1p63f, 0x1p63f)
INTEGER_FROM_F32(f32_to_u64, uint64_t, 0, UINT64_MAX, 0.0f, 0x1p64f)

/* -- GGUF's blocks ---------------------------------------------------------------- */

/* 32 numbers: scale d (f16) [, minimum m (f16)] [, 32 fifth bits], 16 bytes whose
 * low nibbles are the first 16 numbers and whose high nibbles are the last 16. */
static void q4_0_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 18, d += 32) {
        const float scale = half_to_float(load16(s));
        const uint8_t *q = s + 2;
        for (int j = 0; j < 16; j++) {
            d[j] = scale * (float)((q[j] & 15) - 8);
            d[j + 16] = scale * (float)((q[j] >> 4) - 8);
        }
    }
}

static void q4_1_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 20, d += 32) {
        const float scale = half_to_float(load16(s)), low = half_to_float(load16(s + 2));
        const uint8_t *q = s + 4;
        for (int j = 0; j < 16; j++) {
            d[j] = scale * (float)(q[j] & 15) + low;
            d[j + 16] = scale * (float)(q[j] >> 4) + low;
        }
    }
}

static void q5_0_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 22, d += 32) {
        const float scale = half_to_float(load16(s));
        const uint32_t high = load32(s + 2);
        const uint8_t *q = s + 6;
        for (int j = 0; j < 16; j++) {
            const int h0 = (int)((high >> j) & 1u) << 4, h1 = (int)((high >> (j + 16)) & 1u) << 4;
            d[j] = scale * (float)(((q[j] & 15) | h0) - 16);
            d[j + 16] = scale * (float)(((q[j] >> 4) | h1) - 16);
        }
    }
}

static void q5_1_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 24, d += 32) {
        const float scale = half_to_float(load16(s)), low = half_to_float(load16(s + 2));
        const uint32_t high = load32(s + 4);
        const uint8_t *q = s + 8;
        for (int j = 0; j < 16; j++) {
            const int h0 = (int)((high >> j) & 1u) << 4, h1 = (int)((high >> (j + 16)) & 1u) << 4;
            d[j] = scale * (float)((q[j] & 15) | h0) + low;
            d[j + 16] = scale * (float)((q[j] >> 4) | h1) + low;
        }
    }
}

static void q8_0_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 34, d += 32) {
        const float scale = half_to_float(load16(s));
        const uint8_t *q = s + 2;
        for (int j = 0; j < 32; j++) d[j] = (float)(int8_t)q[j] * scale;
    }
}

/* 256 numbers in 8 groups of 32, each with a scale and a minimum of 6 bits. The 12
 * bytes of these hold the low 6 bits of groups 0..3 (scales, then minima) and, in
 * the rest, the low 4 bits of groups 4..7; their top 2 bits lie above the first. */
static void q4_k_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 144) {
        const float scale = half_to_float(load16(s)), low = half_to_float(load16(s + 2));
        const uint8_t *k = s + 4, *q = s + 16;
        for (int g = 0; g < 8; g++, d += 32) {
            const int sc = g < 4 ? k[g] & 63 : (k[g + 4] & 15) | ((k[g - 4] >> 6) << 4);
            const int mn = g < 4 ? k[g + 4] & 63 : (k[g + 4] >> 4) | ((k[g] >> 6) << 4);
            const float gs = scale * (float)sc, gm = low * (float)mn;
            const uint8_t *at = q + (g / 2) * 32;
            const int shift = (g & 1) * 4;
            for (int j = 0; j < 32; j++) d[j] = gs * (float)((at[j] >> shift) & 15) - gm;
        }
    }
}

/* 256 numbers of 6 bits: 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16
 * signed scales (one for 16 numbers), the f16 scale of them all. Halves of 128. */
static void q6_k_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 210) {
        const float scale = half_to_float(load16(s + 208));
        for (int half = 0; half < 2; half++) {
            const uint8_t *low = s + 64 * half, *high = s + 128 + 32 * half, *sc = s + 192 + 8 * half;
            for (int g = 0; g < 4; g++, d += 32) { /* 32 numbers from 32 nibbles and 32 bit pairs */
                const uint8_t *nibbles = low + 32 * (g & 1);
                const int shift = g < 2 ? 0 : 4, pair = 2 * g;
                const float s0 = scale * (float)(int8_t)sc[2 * g], s1 = scale * (float)(int8_t)sc[2 * g + 1];
                for (int j = 0; j < 32; j++) {
                    const int q = ((nibbles[j] >> shift) & 15) | (((high[j] >> pair) & 3) << 4);
                    d[j] = (j < 16 ? s0 : s1) * (float)(q - 32);
                }
            }
        }
    }
}

static void f32_to_q8_0(const float *s, uint8_t *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 32, d += 34) {
        float top = 0.0f;
        for (int j = 0; j < 32; j++) {
            const float a = fabsf(s[j]);
            top = a > top ? a : top;
        }
        const float scale = top / 127.0f, inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
        const uint16_t h = float_to_half(scale);
        memcpy(d, &h, 2);
        for (int j = 0; j < 32; j++) {
            /* Half away from zero. Tiny scales have an infinite inverse and NaN has
             * no code: both become 0. */
            const float x = s[j] * inverse, a = fabsf(x) < 127.5f ? fabsf(x) : 0.0f;
            const int whole = (int)a, q = whole + (a - (float)whole >= 0.5f);
            d[2 + j] = (uint8_t)(x < 0.0f ? -q : q);
        }
    }
}

/* -- by type --------------------------------------------------------------------- */

void syi_to_f32(sy_dtype dtype, const void *src, float *dst, int64_t n)
{
    const uint8_t *s = src;
    if (n <= 0) return;
    switch (dtype) {
    case SY_F32: memcpy(dst, src, (size_t)n * 4); break;
    case SY_BF16: for (int64_t i = 0; i < n; i++) dst[i] = as_float((uint32_t)load16(s + 2 * i) << 16); break;
    case SY_F16: for (int64_t i = 0; i < n; i++) dst[i] = half_to_float(load16(s + 2 * i)); break;
    case SY_F64: f64_to_f32(s, dst, n); break;
    case SY_I8: i8_to_f32(s, dst, n); break;
    case SY_U8: u8_to_f32(s, dst, n); break;
    case SY_I16: i16_to_f32(s, dst, n); break;
    case SY_U16: u16_to_f32(s, dst, n); break;
    case SY_I32: i32_to_f32(s, dst, n); break;
    case SY_U32: u32_to_f32(s, dst, n); break;
    case SY_I64: i64_to_f32(s, dst, n); break;
    case SY_U64: u64_to_f32(s, dst, n); break;
    case SY_BOOL: for (int64_t i = 0; i < n; i++) dst[i] = s[i] != 0 ? 1.0f : 0.0f; break;
    case SY_F8_E4M3: for (int64_t i = 0; i < n; i++) dst[i] = e4m3_to_float(s[i]); break;
    case SY_F8_E5M2: for (int64_t i = 0; i < n; i++) dst[i] = half_to_float((uint16_t)(s[i] << 8)); break;
    case SY_Q4_0: q4_0_to_f32(s, dst, n / 32); break;
    case SY_Q4_1: q4_1_to_f32(s, dst, n / 32); break;
    case SY_Q5_0: q5_0_to_f32(s, dst, n / 32); break;
    case SY_Q5_1: q5_1_to_f32(s, dst, n / 32); break;
    case SY_Q8_0: q8_0_to_f32(s, dst, n / 32); break;
    case SY_Q4_K: q4_k_to_f32(s, dst, n / 256); break;
    case SY_Q6_K: q6_k_to_f32(s, dst, n / 256); break;
    case SY_DTYPE_COUNT: break;
    }
}

bool syi_can_write(sy_dtype dtype)
{
    return (unsigned)dtype < SY_DTYPE_COUNT && (sy_dtype_block_len(dtype) == 1 || dtype == SY_Q8_0);
}

bool syi_from_f32(sy_dtype dtype, const float *src, void *dst, int64_t n)
{
    uint8_t *d = dst;
    if (!syi_can_write(dtype)) return false;
    if (n <= 0) return true;
    switch (dtype) {
    case SY_F32: memcpy(dst, src, (size_t)n * 4); break;
    case SY_BF16:
        for (int64_t i = 0; i < n; i++) {
            const uint16_t v = float_to_bf16(src[i]);
            memcpy(d + 2 * i, &v, 2);
        }
        break;
    case SY_F16:
        for (int64_t i = 0; i < n; i++) {
            const uint16_t v = float_to_half(src[i]);
            memcpy(d + 2 * i, &v, 2);
        }
        break;
    case SY_F64:
        for (int64_t i = 0; i < n; i++) {
            const double v = src[i];
            memcpy(d + 8 * i, &v, 8);
        }
        break;
    case SY_I8: f32_to_i8(src, d, n); break;
    case SY_U8: f32_to_u8(src, d, n); break;
    case SY_I16: f32_to_i16(src, d, n); break;
    case SY_U16: f32_to_u16(src, d, n); break;
    case SY_I32: f32_to_i32(src, d, n); break;
    case SY_U32: f32_to_u32(src, d, n); break;
    case SY_I64: f32_to_i64(src, d, n); break;
    case SY_U64: f32_to_u64(src, d, n); break;
    case SY_BOOL: for (int64_t i = 0; i < n; i++) d[i] = src[i] != 0.0f; break;
    case SY_F8_E4M3: for (int64_t i = 0; i < n; i++) d[i] = float_to_e4m3(src[i]); break;
    case SY_F8_E5M2: for (int64_t i = 0; i < n; i++) d[i] = float_to_e5m2(src[i]); break;
    case SY_Q8_0: f32_to_q8_0(src, d, n / 32); break;
    case SY_Q4_0: case SY_Q4_1: case SY_Q5_0: case SY_Q5_1: case SY_Q4_K: case SY_Q6_K: case SY_DTYPE_COUNT: return false;
    }
    return true;
}

/* `near` is v rounded to nearest; `error` is v - near with the right sign (only
 * the sign matters). To odd: of the two neighbours the one with an odd mantissa. */
static inline float to_odd(float near, int error)
{
    uint32_t u = as_bits(near);
    if (error == 0 || (u & 1u) || (u & 0x7fffffffu) >= 0x7f800000u) return near;
    const bool up = (error > 0) == !(u >> 31); /* away from zero? */
    if ((u & 0x7fffffffu) == 0) return as_float((error > 0 ? 0u : 0x80000000u) | 1u);
    return as_float(up ? u + 1u : u - 1u);
}

void syi_to_f32_odd(sy_dtype dtype, const void *src, float *dst, int64_t n)
{
    const uint8_t *s = src;
    syi_to_f32(dtype, src, dst, n);
    for (int64_t i = 0; i < n; i++) {
        if (dtype == SY_F64) {
            double v;
            memcpy(&v, s + 8 * i, 8);
            const double back = dst[i];
            dst[i] = to_odd(dst[i], v > back ? 1 : v < back ? -1 : 0);
        } else if (dtype == SY_I32 || dtype == SY_U32) {
            const double back = dst[i];
            int32_t v;
            memcpy(&v, s + 4 * i, 4);
            const double exact = dtype == SY_I32 ? (double)v : (double)(uint32_t)v;
            dst[i] = to_odd(dst[i], exact > back ? 1 : exact < back ? -1 : 0);
        } else if (dtype == SY_I64) {
            int64_t v;
            memcpy(&v, s + 8 * i, 8);
            const int64_t back = dst[i] >= 0x1p63f ? INT64_MAX : (int64_t)dst[i];
            dst[i] = to_odd(dst[i], dst[i] >= 0x1p63f || v < back ? -1 : v > back ? 1 : 0);
        } else if (dtype == SY_U64) {
            uint64_t v;
            memcpy(&v, s + 8 * i, 8);
            const uint64_t back = dst[i] >= 0x1p64f ? UINT64_MAX : (uint64_t)dst[i];
            dst[i] = to_odd(dst[i], dst[i] >= 0x1p64f || v < back ? -1 : v > back ? 1 : 0);
        } else {
            return; /* nothing was lost */
        }
    }
}

/* -- public, with checks ------------------------------------------------------------ */

static sy_status check(sy_context *ctx, sy_dtype dtype, int64_t n, const char *what)
{
    if ((unsigned)dtype >= SY_DTYPE_COUNT) return syi_fail(ctx, SY_E_USAGE, "%s: no such data type: %d", what, (int)dtype);
    const int len = sy_dtype_block_len(dtype);
    if (n < 0 || n % len != 0)
        return syi_fail(ctx, SY_E_USAGE, "%s: %s codes blocks of %d numbers, but %lld numbers were given", what,
                        sy_dtype_name(dtype), len, (long long)n);
    return SY_OK;
}

sy_status sy_to_f32(sy_context *ctx, sy_dtype dtype, const void *src, float *dst, int64_t n)
{
    SYI_TRY(check(ctx, dtype, n, "sy_to_f32"));
    syi_to_f32(dtype, src, dst, n);
    return SY_OK;
}

sy_status sy_from_f32(sy_context *ctx, sy_dtype dtype, const float *src, void *dst, int64_t n)
{
    SYI_TRY(check(ctx, dtype, n, "sy_from_f32"));
    if (!syi_from_f32(dtype, src, dst, n))
        return syi_fail(ctx, SY_E_UNSUPPORTED, "writing %s is not supported; types that can be written: F32, BF16, F16, F64, integers, F8, Q8_0",
                        sy_dtype_name(dtype));
    return SY_OK;
}
