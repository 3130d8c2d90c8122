/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF's coded blocks: every type decoded bit field by bit field, the plain encoders
 * against the rule they follow, the searching ones against their neighbours. */
#include "support/test.h"

#include "base/base.h"
#include "tensor/block_search.h"
#include "tensor/convert.h"

#include <math.h>
#include <stdlib.h>

/* Number i of a block by the formats' descriptions, one bit field at a time. */
static float half_at(const uint8_t *p)
{
    const unsigned code = p[0] | (unsigned)p[1] << 8, e = code >> 10 & 31, m = code & 1023;
    const double v = e == 31 ? (m != 0 ? NAN : INFINITY) : e == 0 ? ldexp(m, -24) : ldexp(1024 + m, (int)e - 25);
    return (float)(code >> 15 ? -v : v);
}

static int bits_at(const uint8_t *p, int first, int n)
{
    int v = 0;
    for (int i = 0; i < n; i++) v |= (p[(first + i) / 8] >> ((first + i) % 8) & 1) << i;
    return v;
}

/* 6-bit scale (0) or minimum (1) of a group of Q4_K, Q5_K. */
static int six(const uint8_t *k, int g, int which)
{
    if (g < 4) return k[g + 4 * which] % 64;
    return (which ? k[4 + g] / 16 : k[4 + g] % 16) + k[g - 4 + 4 * which] / 64 * 16;
}

/* Digit n of what a byte of TQ1_0 is a fraction of: 3^5 equal parts of 0..255. */
static int trit(int byte, int n)
{
    for (; n > 0; n--) byte = byte * 3 % 256;
    return byte * 3 / 256 - 1;
}

static const int levels[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static float block_number(sy_dtype t, const uint8_t *b, int i)
{
    const int nib = i < 16 ? 0 : 4;
    switch (t) {
    case SY_Q4_0: return half_at(b) * (float)(((b[2 + i % 16] >> nib) & 15) - 8);
    case SY_Q4_1: { const float p = half_at(b) * (float)((b[4 + i % 16] >> nib) & 15); return p + half_at(b + 2); }
    case SY_Q5_0: return half_at(b) * (float)((((b[6 + i % 16] >> nib) & 15) | ((b[2 + i / 8] >> (i % 8)) & 1) << 4) - 16);
    case SY_Q5_1: {
        const float p = half_at(b) * (float)(((b[8 + i % 16] >> nib) & 15) | ((b[4 + i / 8] >> (i % 8)) & 1) << 4);
        return p + half_at(b + 2);
    }
    case SY_Q8_0: return half_at(b) * (float)(b[2 + i] < 128 ? b[2 + i] : b[2 + i] - 256);
    case SY_Q2_K: {
        const float s = half_at(b + 80) * (float)(b[i / 16] % 16), m = half_at(b + 82) * (float)(b[i / 16] / 16);
        const float p = s * (float)bits_at(b + 16 + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2);
        return p - m;
    }
    case SY_Q3_K: {
        const int g = i / 16, sc = bits_at(b + 96 + g % 8, g / 8 * 4, 4) + 16 * bits_at(b + 104 + g % 4, g / 4 * 2, 2) - 32;
        const int q = bits_at(b + 32 + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2) - (bits_at(b + i % 32, i / 32, 1) ? 0 : 4);
        const float s = half_at(b + 108) * (float)sc;
        return s * (float)q;
    }
    case SY_Q4_K:
    case SY_Q5_K: {
        const int g = i / 32, high = t == SY_Q5_K ? bits_at(b + 16 + i % 32, g, 1) : 0;
        const uint8_t *q = b + (t == SY_Q5_K ? 48 : 16) + g / 2 * 32 + i % 32;
        const float s = half_at(b) * (float)six(b + 4, g, 0), m = half_at(b + 2) * (float)six(b + 4, g, 1);
        const float p = s * (float)(bits_at(q, g % 2 * 4, 4) + 16 * high);
        return p - m;
    }
    case SY_Q8_K: {
        float s;
        memcpy(&s, b, 4);
        return s * (float)(b[4 + i] < 128 ? b[4 + i] : b[4 + i] - 256);
    }
    case SY_IQ4_NL: return half_at(b) * (float)levels[(b[2 + i % 16] >> nib) & 15];
    case SY_IQ4_XS: {
        const int g = i / 32, sc = bits_at(b + 4, g * 4, 4) + 16 * bits_at(b + 2, g * 2, 2) - 32;
        const float s = half_at(b) * (float)sc;
        return s * (float)levels[bits_at(b + 8 + g * 16 + i % 16, i % 32 / 16 * 4, 4)];
    }
    case SY_TQ1_0: /* 160 numbers in 32 bytes, 80 in 16, 16 in 4: the first digits of all bytes, the second ... */
        return half_at(b + 52) * (float)(i < 160 ? trit(b[i % 32], i / 32) : i < 240 ? trit(b[32 + i % 16], (i - 160) / 16) : trit(b[48 + i % 4], (i - 240) / 4));
    case SY_TQ2_0: return half_at(b + 64) * (float)(bits_at(b + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2) - 1);
    case SY_MXFP4: { /* sign, 2 bits of exponent, 1 of mantissa */
        const int c = (b[1 + i % 16] >> nib) & 15, e = c >> 1 & 3, m = c & 1;
        const double v = e == 0 ? 0.5 * m : ldexp(1 + 0.5 * m, e - 1);
        return c == 8 ? 0.0f : (float)ldexp(c > 8 ? -v : v, b[0] - 127);
    }
    default: { /* Q6_K */
        const int half = i / 128, j = i % 128;
        const int low = (b[half * 64 + j % 64] >> (j / 64 * 4)) & 15;
        const int high = (b[128 + half * 32 + j % 32] >> (j / 32 * 2)) & 3;
        const int sc = b[192 + i / 16] < 128 ? b[192 + i / 16] : b[192 + i / 16] - 256;
        const float s = half_at(b + 208) * (float)sc;
        return s * (float)(low + high * 16 - 32);
    }
    }
}

static void blocks(void **state)
{
    (void)state;
    static const sy_dtype types[] = {SY_Q4_0, SY_Q4_1, SY_Q5_0, SY_Q5_1, SY_Q8_0, SY_Q2_K,   SY_Q3_K,   SY_Q4_K,
                                     SY_Q5_K, SY_Q6_K, SY_Q8_K, SY_IQ4_NL, SY_IQ4_XS, SY_TQ1_0, SY_TQ2_0, SY_MXFP4};
    enum { BLOCKS = 300 };
    for (int t = 0; t < SYI_COUNT(types); t++) {
        const int len = sy_dtype_block_len(types[t]), bytes = sy_dtype_block_bytes(types[t]);
        uint8_t *raw = malloc((size_t)(BLOCKS * bytes) + 1);
        float *out = malloc(sizeof *out * (size_t)(BLOCKS * len));
        for (int i = 0; i < BLOCKS * bytes; i++) raw[i + 1] = (uint8_t)syi_random_u64(11 + (uint64_t)t, i);
        syi_to_f32(types[t], raw + 1, out, BLOCKS * len);
        for (int i = 0; i < BLOCKS * len; i++) {
            const float want = block_number(types[t], raw + 1 + i / len * bytes, i % len);
            if (isnan(want) ? !isnan(out[i]) : memcmp(&want, &out[i], 4) != 0)
                fail_msg("%s: number %d is %a, not %a", sy_dtype_name(types[t]), i, (double)out[i], (double)want);
        }
        free(raw);
        free(out);
    }
}

static void encode_q8_0(void **state)
{
    (void)state;
    float x[64], y[64];
    uint8_t raw[69];
    syi_normal(3, 0, 64, x);
    for (int i = 32; i < 64; i++) x[i] = 0;
    assert_true(syi_from_f32(SY_Q8_0, x, raw + 1, 64));
    float top = 0;
    for (int i = 0; i < 32; i++) top = fmaxf(top, fabsf(x[i]));
    const float d = top / 127.0f;
    uint16_t want;
    syi_from_f32(SY_F16, &d, &want, 1);
    assert_memory_equal(raw + 1, &want, 2);
    for (int i = 0; i < 32; i++) assert_int_equal((int8_t)raw[3 + i], (int)roundf(x[i] * (1.0f / d)));
    for (int i = 0; i < 34; i++) assert_int_equal(raw[35 + i], 0); /* a block of zeros */
    syi_to_f32(SY_Q8_0, raw + 1, y, 64);
    for (int i = 0; i < 64; i++) assert_true(fabsf(x[i] - y[i]) <= d * 0.51f);
    for (int i = 0; i < 32; i++) x[i] = i % 2 ? 1e-44f : NAN; /* an infinite inverse, no numbers */
    assert_true(syi_from_f32(SY_Q8_0, x, raw, 32));
    syi_to_f32(SY_Q8_0, raw, y, 32);
    for (int i = 0; i < 32; i++) assert_true(y[i] == 0);
}

/* Q4_0, Q5_0: the number farthest from zero is code 0; Q4_1, Q5_1: least and greatest are
 * the first and the last code. */
static void encode_plain(void **state)
{
    (void)state;
    static const struct { sy_dtype type; int bits; bool low; } rows[] = {{SY_Q4_0, 4, false}, {SY_Q5_0, 5, false}, {SY_Q4_1, 4, true}, {SY_Q5_1, 5, true}};
    float x[32], y[32];
    uint8_t raw[32];
    for (int t = 0; t < SYI_COUNT(rows); t++)
        for (int round = 0; round < 200; round++) {
            syi_normal(7, round * 32, 32, x);
            float low = INFINITY, high = -INFINITY, far = 0;
            for (int i = 0; i < 32; i++) {
                low = fminf(low, x[i]);
                high = fmaxf(high, x[i]);
                if (fabsf(x[i]) > fabsf(far)) far = x[i];
            }
            const float d = rows[t].low ? (high - low) / (float)((1 << rows[t].bits) - 1) : fabsf(far) / (float)(1 << (rows[t].bits - 1));
            assert_true(syi_from_f32(rows[t].type, x, raw, 32));
            syi_to_f32(rows[t].type, raw, y, 32);
            for (int i = 0; i < 32; i++) { /* half a step; a whole one at the end that has no code */
                const float most = !rows[t].low && x[i] * far < 0 ? d : d / 2;
                if (!(fabsf(x[i] - y[i]) <= most * 1.01f + 0.004f * fabsf(far))) fail_msg("%s: %g became %g, step %g", sy_dtype_name(rows[t].type), (double)x[i], (double)y[i], (double)d);
            }
        }
    for (int t = 0; t < SYI_COUNT(rows); t++) {
        for (int i = 0; i < 32; i++) x[i] = 0;
        assert_true(syi_from_f32(rows[t].type, x, raw, 32));
        syi_to_f32(rows[t].type, raw, y, 32);
        for (int i = 0; i < 32; i++) assert_true(y[i] == 0);
        static const float odd[] = {NAN, INFINITY, -INFINITY, 1e-44f, 3e38f, -3e38f}; /* no matter what, but no undefined behaviour */
        for (int i = 0; i < 32; i++) x[i] = odd[i % 6];
        assert_true(syi_from_f32(rows[t].type, x, raw, 32));
    }
}

static double squared_error(sy_dtype type, const float *x, const uint8_t *raw)
{
    float y[BLOCK];
    double e = 0;
    syi_to_f32(type, raw, y, BLOCK);
    for (int i = 0; i < BLOCK; i++) e += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    return e;
}

/* On normal numbers no single integer scale can be changed to the better; coding decoded
 * numbers again costs little. */
static void encode_by_search(void **state)
{
    (void)state;
    float x[BLOCK];
    uint8_t raw[210], other[210];
    for (int round = 0; round < 20; round++) {
        syi_normal(9, round * BLOCK, BLOCK, x);
        assert_true(syi_from_f32(SY_Q6_K, x, raw, BLOCK));
        const double e6 = squared_error(SY_Q6_K, x, raw);
        for (int g = 0; g < 16; g++)
            for (int by = -1; by <= 1; by += 2) {
                memcpy(other, raw, sizeof other);
                other[192 + g] = (uint8_t)(other[192 + g] + by);
                assert_true(squared_error(SY_Q6_K, x, other) >= e6);
            }
        assert_true(syi_from_f32(SY_Q4_K, x, raw, BLOCK));
        const double e4 = squared_error(SY_Q4_K, x, raw);
        assert_true(e6 < 256 * 0.0012 && e4 < 256 * 0.011 && e4 > e6);
        syi_to_f32(SY_Q4_K, raw, x, BLOCK); /* decoded numbers coded again */
        assert_true(syi_from_f32(SY_Q4_K, x, raw, BLOCK));
        assert_true(squared_error(SY_Q4_K, x, raw) < e4 * 0.15);
    }
}

/* Every instruction set gives the same bits; no input is too odd. */
static void search_is_the_same_everywhere(void **state)
{
    (void)state;
    float x[BLOCK];
    uint8_t raw[210], plain[210];
    for (int round = 0; round < 300; round++) {
        syi_normal(10, round * BLOCK, BLOCK, x);
        for (int i = 0; i < BLOCK; i++) {
            if (round % 10 == 1) x[i] = ldexpf(x[i], (int)(syi_random_u64(3, i + round) % 250) - 140);
            if (round % 10 == 2) x[i] = fabsf(x[i]);
            if (round % 10 == 3 && i % 7 == 0) x[i] = i % 2 ? NAN : INFINITY;
            if (round % 10 == 4) x[i] = 0;
            if (round % 10 == 5) x[i] = 1e-42f * x[i];
            if (round % 10 == 6) x[i] = 3e38f;
            if (round % 10 == 7 && i >= 32) x[i] = 0;
            if (round % 10 == 8) x[i] = -1e-5f;
        }
        assert_true(syi_from_f32(SY_Q4_K, x, raw, BLOCK));
        block_q4_k(x, plain);
        assert_memory_equal(raw, plain, 144);
        float y[BLOCK];
        syi_to_f32(SY_Q4_K, raw, y, BLOCK);
        for (int i = 0; i < BLOCK; i++) assert_true(isfinite(y[i]));
        assert_true(syi_from_f32(SY_Q6_K, x, raw, BLOCK));
        block_q6_k(x, plain);
        assert_memory_equal(raw, plain, 210);
        syi_to_f32(SY_Q6_K, raw, y, BLOCK);
        for (int i = 0; i < BLOCK; i++) assert_true(isfinite(y[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks), cmocka_unit_test(encode_q8_0), cmocka_unit_test(encode_plain), cmocka_unit_test(encode_by_search),
        cmocka_unit_test(search_is_the_same_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
