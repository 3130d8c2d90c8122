/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF's coded blocks to f32.
 *
 * One plain loop a type. Layouts and the order of operations are the format's own, so
 * that numbers agree with it bit for bit: products and sums must not be contracted (the
 * build compiles this file with -ffp-contract=off). Blocks lie anywhere, unaligned. */
#include "blocks.h"
#include "half.h"

/* -- blocks of 32 ------------------------------------------------------------------ */

/* 32 numbers: scale d (f16) [, minimum m (f16)] [, 32 fifth bits], 16 bytes whose
 * low nibbles are the first 16 numbers and whose high nibbles are the last 16. */
static void q4_0_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 18, d += 32) {
        const float scale = syi_half_to_float(syi_load16(s));
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
        const float scale = syi_half_to_float(syi_load16(s)), low = syi_half_to_float(syi_load16(s + 2));
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
        const float scale = syi_half_to_float(syi_load16(s));
        const uint32_t high = syi_load32(s + 2);
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
        const float scale = syi_half_to_float(syi_load16(s)), low = syi_half_to_float(syi_load16(s + 2));
        const uint32_t high = syi_load32(s + 4);
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
        const float scale = syi_half_to_float(syi_load16(s));
        const uint8_t *q = s + 2;
        for (int j = 0; j < 32; j++) d[j] = (float)(int8_t)q[j] * scale;
    }
}

/* 4 bits choose one of 16 levels that lie closer around zero. */
static const int8_t nonlinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static void iq4_nl_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 18, d += 32) {
        const float scale = syi_half_to_float(syi_load16(s));
        const uint8_t *q = s + 2;
        for (int j = 0; j < 16; j++) {
            d[j] = scale * (float)nonlinear[q[j] & 15];
            d[j + 16] = scale * (float)nonlinear[q[j] >> 4];
        }
    }
}

/* OCP microscaling: a power of two for the block, 4-bit floats (2 bits of exponent, 1 of
 * mantissa). The table holds them doubled, so the scale is half of 2^(e - 127). */
static void mxfp4_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    static const int8_t e2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    for (int64_t b = 0; b < blocks; b++, s += 17, d += 32) {
        const uint32_t e = s[0];
        const float scale = syi_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
        const uint8_t *q = s + 1;
        for (int j = 0; j < 16; j++) {
            d[j] = scale * (float)e2m1[q[j] & 15];
            d[j + 16] = scale * (float)e2m1[q[j] >> 4];
        }
    }
}

/* -- blocks of 256 ----------------------------------------------------------------- */

/* 16 groups of 16 with a 4-bit scale and a 4-bit minimum each; 64 bytes of bit pairs
 * (byte j of a half holds numbers j, j + 32, j + 64, j + 96); then both f16 units. */
static void q2_k_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 84) {
        const float scale = syi_half_to_float(syi_load16(s + 80)), low = syi_half_to_float(syi_load16(s + 82));
        for (int g = 0; g < 16; g++, d += 16) {
            const float gs = scale * (float)(s[g] & 15), gm = low * (float)(s[g] >> 4);
            const uint8_t *q = s + 16 + 32 * (g / 8) + 16 * (g & 1);
            const int shift = g % 8 / 2 * 2;
            for (int j = 0; j < 16; j++) d[j] = gs * (float)((q[j] >> shift) & 3) - gm;
        }
    }
}

/* 16 groups of 16 with a signed 6-bit scale each: 32 bytes of third bits (a clear one
 * takes 4 off), 64 bytes of bit pairs, 12 bytes of scales (8 with low nibbles, 4 with
 * upper pairs), the f16 unit. */
static void q3_k_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 110) {
        const float scale = syi_half_to_float(syi_load16(s + 108));
        const uint8_t *k = s + 96;
        for (int g = 0; g < 16; g++, d += 16) {
            const int low = g < 8 ? k[g] & 15 : k[g - 8] >> 4, top = (k[8 + g % 4] >> (g / 4 * 2)) & 3;
            const float gs = scale * (float)((low | top << 4) - 32);
            const uint8_t *q = s + 32 + 32 * (g / 8) + 16 * (g & 1), *high = s + 16 * (g & 1);
            const int shift = g % 8 / 2 * 2, bit = g / 2;
            for (int j = 0; j < 16; j++) d[j] = gs * (float)(((q[j] >> shift) & 3) - 4 + ((high[j] >> bit) & 1) * 4);
        }
    }
}

/* 6-bit scale and minimum of group g of 8. The 12 bytes hold the low 6 bits of groups
 * 0..3 (scales, then minima) and, in the rest, the low 4 bits of groups 4..7; their top 2
 * bits lie above the first. */
static inline void six_bits(const uint8_t *k, int g, int *scale, int *low)
{
    *scale = g < 4 ? k[g] & 63 : (k[g + 4] & 15) | ((k[g - 4] >> 6) << 4);
    *low = g < 4 ? k[g + 4] & 63 : (k[g + 4] >> 4) | ((k[g] >> 6) << 4);
}

static void q4_k_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 144) {
        const float scale = syi_half_to_float(syi_load16(s)), low = syi_half_to_float(syi_load16(s + 2));
        for (int g = 0; g < 8; g++, d += 32) {
            int sc, mn;
            six_bits(s + 4, g, &sc, &mn);
            const float gs = scale * (float)sc, gm = low * (float)mn;
            const uint8_t *q = s + 16 + 32 * (g / 2);
            const int shift = (g & 1) * 4;
            for (int j = 0; j < 32; j++) d[j] = gs * (float)((q[j] >> shift) & 15) - gm;
        }
    }
}

/* As Q4_K, with 32 bytes of fifth bits (bit g of byte j) before the nibbles. */
static void q5_k_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 176) {
        const float scale = syi_half_to_float(syi_load16(s)), low = syi_half_to_float(syi_load16(s + 2));
        const uint8_t *high = s + 16;
        for (int g = 0; g < 8; g++, d += 32) {
            int sc, mn;
            six_bits(s + 4, g, &sc, &mn);
            const float gs = scale * (float)sc, gm = low * (float)mn;
            const uint8_t *q = s + 48 + 32 * (g / 2);
            const int shift = (g & 1) * 4;
            for (int j = 0; j < 32; j++) d[j] = gs * (float)(((q[j] >> shift) & 15) + ((high[j] >> g) & 1) * 16) - gm;
        }
    }
}

/* 256 numbers of 6 bits: 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16
 * signed scales (one for 16 numbers), the f16 scale of them all. Halves of 128. */
static void q6_k_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 210) {
        const float scale = syi_half_to_float(syi_load16(s + 208));
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

/* An f32 unit, 256 signed bytes, 16 sums of them (of use to products only). */
static void q8_k_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 292, d += 256) {
        const float scale = syi_as_float(syi_load32(s));
        for (int j = 0; j < 256; j++) d[j] = scale * (float)(int8_t)s[4 + j];
    }
}

/* 8 groups of 32 with a signed 6-bit scale each (low nibbles in 4 bytes, upper pairs in a
 * 16-bit word), levels as in IQ4_NL. */
static void iq4_xs_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 136) {
        const float scale = syi_half_to_float(syi_load16(s));
        const uint32_t top = syi_load16(s + 2);
        for (int g = 0; g < 8; g++, d += 32) {
            const int sc = (s[4 + g / 2] >> (g % 2 * 4) & 15) | (int)(top >> (2 * g) & 3) << 4;
            const float gs = scale * (float)(sc - 32);
            const uint8_t *q = s + 8 + 16 * g;
            for (int j = 0; j < 16; j++) {
                d[j] = gs * (float)nonlinear[q[j] & 15];
                d[j + 16] = gs * (float)nonlinear[q[j] >> 4];
            }
        }
    }
}

/* -1, 0, 1: five of them a byte, as the fraction byte/256 written in base 3. The n-th
 * digit is what passes the point when the fraction is multiplied by 3^n. */
static float *trits(const uint8_t *q, int bytes, int digits, float scale, float *d)
{
    for (int n = 0, power = 1; n < digits; n++, power *= 3)
        for (int j = 0; j < bytes; j++) *d++ = scale * (float)((((q[j] * power) & 255) * 3 >> 8) - 1);
    return d;
}

static void tq1_0_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 54) {
        const float scale = syi_half_to_float(syi_load16(s + 52));
        d = trits(s, 32, 5, scale, d);
        d = trits(s + 32, 16, 5, scale, d);
        d = trits(s + 48, 4, 4, scale, d);
    }
}

/* The same in bit pairs. */
static void tq2_0_to_f32(const uint8_t *s, float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, s += 66) {
        const float scale = syi_half_to_float(syi_load16(s + 64));
        for (int g = 0; g < 8; g++, d += 32)
            for (int j = 0; j < 32; j++) d[j] = scale * (float)((s[32 * (g / 4) + j] >> (g % 4 * 2) & 3) - 1);
    }
}

/* -- the table ---------------------------------------------------------------------- */

syi_decode_fn *syi_block_decoder(sy_dtype dtype)
{
    switch ((int)dtype) {
    case SY_Q4_0: return q4_0_to_f32;
    case SY_Q4_1: return q4_1_to_f32;
    case SY_Q5_0: return q5_0_to_f32;
    case SY_Q5_1: return q5_1_to_f32;
    case SY_Q8_0: return q8_0_to_f32;
    case SY_Q2_K: return q2_k_to_f32;
    case SY_Q3_K: return q3_k_to_f32;
    case SY_Q4_K: return q4_k_to_f32;
    case SY_Q5_K: return q5_k_to_f32;
    case SY_Q6_K: return q6_k_to_f32;
    case SY_Q8_K: return q8_k_to_f32;
    case SY_IQ4_NL: return iq4_nl_to_f32;
    case SY_IQ4_XS: return iq4_xs_to_f32;
    case SY_TQ1_0: return tq1_0_to_f32;
    case SY_TQ2_0: return tq2_0_to_f32;
    case SY_MXFP4: return mxfp4_to_f32;
    default: return NULL;
    }
}
