/* SPDX-License-Identifier: Apache-2.0 */
/* f32 to GGUF's blocks of 32, as the format's reference quantiser does it: the scale from
 * the largest number of a block, every number to the nearest code. Bit-equal to it, also
 * where the scale is zero or too small to be inverted, so products and sums are not
 * contracted (the build compiles this file with -ffp-contract=off).
 *
 * Scales go into the block as f16 but numbers are divided by the f32: that is how the
 * reference does it. Codes of numbers that are not finite are 0. */
#include "blocks.h"
#include "half.h"

#include <math.h>

/* x cut to a whole number if it lies in [0, top + 1); beyond: top; no number: 0. */
static inline uint8_t code(float x, int top)
{
    if (!(x >= 0.0f && x < 128.0f)) return 0;
    const int q = (int)x;
    return (uint8_t)(q > top ? top : q);
}

static inline void put_half(uint8_t *d, float x)
{
    const uint16_t h = syi_float_to_half(x);
    memcpy(d, &h, 2);
}

static inline float inverse_of(float scale)
{
    return scale != 0.0f ? 1.0f / scale : 0.0f;
}

/* The number farthest from zero, with its sign; the first of equals. */
static float farthest(const float *s)
{
    float top = 0.0f, at = 0.0f;
    for (int j = 0; j < 32; j++) {
        const float a = fabsf(s[j]);
        at = a > top ? s[j] : at;
        top = a > top ? a : top;
    }
    return at;
}

static void range(const float *s, float *low, float *high)
{
    float a = 0x1.fffffep127f, b = -0x1.fffffep127f;
    for (int j = 0; j < 32; j++) {
        a = s[j] < a ? s[j] : a;
        b = s[j] > b ? s[j] : b;
    }
    *low = a;
    *high = b;
}

/* Low nibbles are the first 16 codes, high nibbles the last 16. */
static void put_nibbles(uint8_t *d, const uint8_t *q)
{
    for (int j = 0; j < 16; j++) d[j] = (uint8_t)((q[j] & 15) | (q[j + 16] & 15) << 4);
}

static void put_fifth_bits(uint8_t *d, const uint8_t *q)
{
    uint32_t high = 0;
    for (int j = 0; j < 32; j++) high |= (uint32_t)(q[j] >> 4 & 1) << j;
    memcpy(d, &high, 4);
}

/* The number farthest from zero becomes code 0, so the scale has its opposite sign. */
static void encode_q4_0(const float *s, uint8_t *d, int64_t blocks)
{
    uint8_t q[32];
    for (int64_t b = 0; b < blocks; b++, s += 32, d += 18) {
        const float scale = farthest(s) / -8.0f, inverse = inverse_of(scale);
        for (int j = 0; j < 32; j++) q[j] = code(s[j] * inverse + 8.5f, 15);
        put_half(d, scale);
        put_nibbles(d + 2, q);
    }
}

static void encode_q5_0(const float *s, uint8_t *d, int64_t blocks)
{
    uint8_t q[32];
    for (int64_t b = 0; b < blocks; b++, s += 32, d += 22) {
        const float scale = farthest(s) / -16.0f, inverse = inverse_of(scale);
        for (int j = 0; j < 32; j++) q[j] = code(s[j] * inverse + 16.5f, 31);
        put_half(d, scale);
        put_fifth_bits(d + 2, q);
        put_nibbles(d + 6, q);
    }
}

static void encode_q4_1(const float *s, uint8_t *d, int64_t blocks)
{
    uint8_t q[32];
    for (int64_t b = 0; b < blocks; b++, s += 32, d += 20) {
        float low, high;
        range(s, &low, &high);
        const float scale = (high - low) / 15.0f, inverse = inverse_of(scale);
        for (int j = 0; j < 32; j++) q[j] = code((s[j] - low) * inverse + 0.5f, 15);
        put_half(d, scale);
        put_half(d + 2, low);
        put_nibbles(d + 4, q);
    }
}

static void encode_q5_1(const float *s, uint8_t *d, int64_t blocks)
{
    uint8_t q[32];
    for (int64_t b = 0; b < blocks; b++, s += 32, d += 24) {
        float low, high;
        range(s, &low, &high);
        const float scale = (high - low) / 31.0f, inverse = inverse_of(scale);
        for (int j = 0; j < 32; j++) q[j] = code((s[j] - low) * inverse + 0.5f, 31);
        put_half(d, scale);
        put_half(d + 2, low);
        put_fifth_bits(d + 4, q);
        put_nibbles(d + 8, q);
    }
}

static void encode_q8_0(const float *s, uint8_t *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 32, d += 34) {
        const float scale = fabsf(farthest(s)) / 127.0f, inverse = inverse_of(scale);
        put_half(d, scale);
        for (int j = 0; j < 32; j++) {
            /* Half away from zero. Tiny scales have an infinite inverse and NaN has
             * no code: both become 0. */
            const float x = s[j] * inverse, a = fabsf(x) < 127.5f ? fabsf(x) : 0.0f;
            const int whole = (int)a, q = whole + (a - (float)whole >= 0.5f);
            d[2 + j] = (uint8_t)(x < 0.0f ? -q : q);
        }
    }
}

syi_encode_fn *syi_block_encoder(sy_dtype dtype)
{
    switch ((int)dtype) {
    case SY_Q4_0: return encode_q4_0;
    case SY_Q4_1: return encode_q4_1;
    case SY_Q5_0: return encode_q5_0;
    case SY_Q5_1: return encode_q5_1;
    case SY_Q8_0: return encode_q8_0;
    case SY_Q4_K: return syi_encode_q4_k;
    case SY_Q6_K: return syi_encode_q6_k;
    default: return NULL;
    }
}
