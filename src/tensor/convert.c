/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers as they lie in files, to f32 and back.
 *
 * One plain loop a type, written so that compilers vectorise it: no branches,
 * loads through memcpy because mapped files promise no alignment. GGUF's blocks
 * are in block_decode.c and block_encode.c. Compiled with -ffp-contract=off:
 * what is rounded must not depend on the compiler. */
#include "convert.h"
#include "base/base.h"
#include "blocks.h"
#include "half.h"

#include <math.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "files are little-endian; this machine is not: byte swaps would be needed here"
#endif

/* -- 16 bits ----------------------------------------------------------------- */

static inline uint16_t float_to_bf16(float f)
{
    uint32_t u = syi_as_bits(f);
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
    uint32_t tiny = syi_as_bits((float)m * 0x1p-9f);
    uint32_t u = m == 0x7fu ? 0x7fc00000u : m < 8 ? tiny : normal;
    return syi_as_float(u | sign);
}

static inline uint8_t float_to_e4m3(float f)
{
    uint32_t u = syi_as_bits(f), sign = (u >> 24) & 0x80u, m = u & 0x7fffffffu;
    uint32_t normal = (m - (120u << 23) + 0x7ffffu + ((m >> 20) & 1u)) >> 20;
    uint32_t tiny = syi_as_bits(syi_as_float(m) + 0x1p14f) - 0x46800000u; /* last place of 2^14 is 2^-9 */
    uint32_t b = m >= 0x43f00000u ? 0x7fu : m < 0x3c800000u ? tiny : normal; /* 480 and more: NaN */
    return (uint8_t)((b > 0x7fu ? 0x7fu : b) | sign);
}

static inline uint8_t float_to_e5m2(float f)
{
    uint32_t u = syi_as_bits(f), sign = (u >> 24) & 0x80u, m = u & 0x7fffffffu;
    uint32_t normal = (m - (112u << 23) + 0xfffffu + ((m >> 21) & 1u)) >> 21;
    uint32_t tiny = syi_as_bits(syi_as_float(m) + 0x1p7f) - 0x43000000u;  /* last place of 2^7 is 2^-16 */
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

/* -- by type --------------------------------------------------------------------- */

void syi_to_f32(sy_dtype dtype, const void *src, float *dst, int64_t n)
{
    const uint8_t *s = src;
    if (n <= 0) return;
    switch ((int)dtype) {
    case SY_F32: memcpy(dst, src, (size_t)n * 4); break;
    case SY_BF16: for (int64_t i = 0; i < n; i++) dst[i] = syi_as_float((uint32_t)syi_load16(s + 2 * i) << 16); break;
    case SY_F16: for (int64_t i = 0; i < n; i++) dst[i] = syi_half_to_float(syi_load16(s + 2 * i)); break;
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
    case SY_F8_E5M2: for (int64_t i = 0; i < n; i++) dst[i] = syi_half_to_float((uint16_t)(s[i] << 8)); break;
    default:
        if (syi_block_decoder(dtype) != NULL) syi_block_decoder(dtype)(s, dst, n / sy_dtype_block_len(dtype));
    }
}

bool syi_can_write(sy_dtype dtype)
{
    return (unsigned)dtype < SY_DTYPE_COUNT && (sy_dtype_block_len(dtype) == 1 || syi_block_encoder(dtype) != NULL);
}

bool syi_from_f32(sy_dtype dtype, const float *src, void *dst, int64_t n)
{
    uint8_t *d = dst;
    if (!syi_can_write(dtype)) return false;
    if (n <= 0) return true;
    switch ((int)dtype) {
    case SY_F32: memcpy(dst, src, (size_t)n * 4); break;
    case SY_BF16:
        for (int64_t i = 0; i < n; i++) {
            const uint16_t v = float_to_bf16(src[i]);
            memcpy(d + 2 * i, &v, 2);
        }
        break;
    case SY_F16:
        for (int64_t i = 0; i < n; i++) {
            const uint16_t v = syi_float_to_half(src[i]);
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
    default: syi_block_encoder(dtype)(src, d, n / sy_dtype_block_len(dtype)); break;
    }
    return true;
}

/* `near` is v rounded to nearest; `error` is v - near with the right sign (only
 * the sign matters). To odd: of the two neighbours the one with an odd mantissa. */
static inline float to_odd(float near, int error)
{
    uint32_t u = syi_as_bits(near);
    if (error == 0 || (u & 1u) || (u & 0x7fffffffu) >= 0x7f800000u) return near;
    const bool up = (error > 0) == !(u >> 31); /* away from zero? */
    if ((u & 0x7fffffffu) == 0) return syi_as_float((error > 0 ? 0u : 0x80000000u) | 1u);
    return syi_as_float(up ? u + 1u : u - 1u);
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
        return syi_fail(ctx, SY_E_UNSUPPORTED, "writing %s is not supported; types that can be written: F32, BF16, F16, F64, integers, F8, Q4_0, Q4_1, Q5_0, Q5_1, "
                        "Q8_0, Q4_K, Q6_K",
                        sy_dtype_name(dtype));
    return SY_OK;
}
