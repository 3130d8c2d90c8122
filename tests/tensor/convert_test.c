/* SPDX-License-Identifier: Apache-2.0 */
/* Conversions against definitions: every 16- and 8-bit code decoded by its
 * formula, nearest values found by search, blocks decoded bit by bit. */
#include "support/test.h"

#include "base/base.h"
#include "base/rng.h"
#include "tensor/convert.h"

#include <math.h>

static float bits_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static uint32_t float_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

/* A small float by its definition: e exponent bits, m mantissa bits. */
static double decode(unsigned code, int e, int m, bool has_inf)
{
    const int bias = (1 << (e - 1)) - 1, exponent = (int)(code >> m) & ((1 << e) - 1);
    const unsigned mantissa = code & ((1u << m) - 1);
    const double sign = (code >> (e + m)) & 1 ? -1.0 : 1.0;
    if (has_inf && exponent == (1 << e) - 1) return mantissa ? NAN : sign * INFINITY;
    if (!has_inf && (code & ((1u << (e + m)) - 1)) == (1u << (e + m)) - 1) return NAN;
    if (exponent == 0) return sign * ldexp(mantissa, 1 - bias - m);
    return sign * ldexp((1u << m) + mantissa, exponent - bias - m);
}

typedef struct { sy_dtype dtype; int e, m; bool has_inf; } format;
static const format formats[] = {{SY_F16, 5, 10, true}, {SY_BF16, 8, 7, true}, {SY_F8_E4M3, 4, 3, false}, {SY_F8_E5M2, 5, 2, true}};

/* Nearest code to a finite x >= 0 by bisection over the ordered positive codes; ties
 * to the even code; beyond the largest by the rule that the next code would have. */
static unsigned nearest(const format *f, double x)
{
    const unsigned top = f->has_inf ? ((1u << f->e) - 1) << f->m : (1u << (f->e + f->m)) - 1; /* inf or NaN */
    unsigned lo = 0, hi = top;
    while (hi - lo > 1) {
        const unsigned mid = (lo + hi) / 2;
        if (decode(mid, f->e, f->m, f->has_inf) <= x) lo = mid;
        else hi = mid;
    }
    const double a = decode(lo, f->e, f->m, f->has_inf);
    const double b = hi == top ? 2 * a - decode(lo - 1, f->e, f->m, f->has_inf) : decode(hi, f->e, f->m, f->has_inf);
    if (x - a < b - x) return lo;
    if (x - a > b - x) return hi;
    return lo % 2 == 0 ? lo : hi;
}

static void every_code(void **state)
{
    (void)state;
    for (int k = 0; k < SYI_COUNT(formats); k++) {
        const format *f = &formats[k];
        const unsigned n = 1u << (1 + f->e + f->m);
        for (unsigned code = 0; code < n; code++) {
            uint8_t raw[3] = {0, (uint8_t)code, (uint8_t)(code >> 8)}, back[2] = {0};
            float x;
            syi_to_f32(f->dtype, raw + 1, &x, 1); /* not aligned */
            const double want = decode(code, f->e, f->m, f->has_inf);
            if (isnan(want)) {
                assert_true(isnan(x));
                assert_true(syi_from_f32(f->dtype, &x, back, 1));
                syi_to_f32(f->dtype, back, &x, 1);
                assert_true(isnan(x));
                continue;
            }
            assert_true((double)x == want && !signbit(x) == !signbit(want));
            assert_true(syi_from_f32(f->dtype, &x, back, 1));
            assert_memory_equal(back, raw + 1, n > 256 ? 2 : 1);
        }
    }
}

static void rounding(void **state)
{
    (void)state;
    for (int k = 0; k < SYI_COUNT(formats); k++) {
        const format *f = &formats[k];
        const uint64_t key = syi_key(7, "rounding", sy_dtype_name(f->dtype), 0);
        for (int i = 0; i < 200000; i++) {
            uint64_t r = syi_random_u64(key, i);
            float x = bits_float((uint32_t)r & 0x7fffffffu);
            if (i % 2) { /* near a code or half-way between two */
                const unsigned code = (unsigned)(r >> 32) % (1u << (f->e + f->m));
                const double a = decode(code, f->e, f->m, f->has_inf), b = decode(code + 1, f->e, f->m, f->has_inf);
                x = (float)((a + b) / 2);
                if (i % 3 == 0) x = bits_float(float_bits(x) + (uint32_t)(r % 3) - 1);
            }
            if (!isfinite(x) || x < 0) continue;
            uint8_t got[2] = {0};
            const unsigned want = nearest(f, x);
            syi_from_f32(f->dtype, &x, got, 1);
            assert_int_equal(got[0] | (got[1] << 8), want);
            x = -x;
            syi_from_f32(f->dtype, &x, got, 1);
            assert_int_equal(got[0] | (got[1] << 8), want | 1u << (f->e + f->m));
        }
    }
}

/* One rounding from f64 although the way leads through f32. */
static void rounded_once(void **state)
{
    (void)state;
    const format *f = &formats[1];
    const uint64_t key = syi_key(7, "odd", "", 0);
    for (int i = 0; i < 100000; i++) {
        const uint64_t r = syi_random_u64(key, i);
        const unsigned code = 0x3f00u + (unsigned)(r % 256);
        const double a = decode(code, 8, 7, true), b = decode(code + 1, 8, 7, true);
        const double x = (a + b) / 2 + ldexp((double)((int)(r >> 60) - 8), -40); /* too near to the middle for f32 */
        float odd;
        uint16_t got;
        syi_to_f32_odd(SY_F64, &x, &odd, 1);
        syi_from_f32(SY_BF16, &odd, &got, 1);
        assert_int_equal(got, nearest(f, x));
    }
    const int64_t big[] = {(1LL << 40) + (1LL << 32), (1LL << 40) + (1LL << 32) + 1, (1LL << 40) + (1LL << 32) - 1, INT64_MAX, INT64_MIN, 0, -1};
    for (int i = 0; i < SYI_COUNT(big); i++) {
        float odd;
        uint16_t got;
        syi_to_f32_odd(SY_I64, &big[i], &odd, 1);
        syi_from_f32(SY_BF16, &odd, &got, 1);
        /* 64 bits do not fit in a double either: the three near 2^40 do */
        const unsigned want = big[i] == INT64_MAX ? nearest(f, 0x1p63) : nearest(f, fabs((double)big[i])) | (big[i] < 0 ? 0x8000u : 0);
        assert_int_equal(got, want);
    }
}

static void integers(void **state)
{
    (void)state;
    const float in[] = {0.5f, 1.5f, -0.5f, -1.5f, 1e30f, -1e30f, NAN, INFINITY, -INFINITY, 100.0f};
    int8_t i8[10];
    uint16_t u16[10];
    int64_t i64[10];
    uint64_t u64[10];
    syi_from_f32(SY_I8, in, i8, 10);
    syi_from_f32(SY_U16, in, u16, 10);
    syi_from_f32(SY_I64, in, i64, 10);
    syi_from_f32(SY_U64, in, u64, 10);
    const int8_t want8[] = {0, 2, 0, -2, 127, -128, 0, 127, -128, 100};
    const uint16_t want16[] = {0, 2, 0, 0, 65535, 0, 0, 65535, 0, 100};
    assert_memory_equal(i8, want8, sizeof want8);
    assert_memory_equal(u16, want16, sizeof want16);
    assert_true(i64[4] == INT64_MAX && i64[5] == INT64_MIN && i64[6] == 0 && i64[3] == -2);
    assert_true(u64[4] == UINT64_MAX && u64[5] == 0 && u64[1] == 2);
    float back[10];
    syi_to_f32(SY_I64, i64, back, 10);
    assert_true(back[4] == 0x1p63f && back[5] == -0x1p63f);
    const uint8_t flags[] = {0, 1, 7};
    syi_to_f32(SY_BOOL, flags, back, 3);
    assert_true(back[0] == 0 && back[1] == 1 && back[2] == 1);
}

static void refusals(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    float x[256] = {0};
    uint8_t raw[256];
    assert_int_equal(sy_from_f32(ctx, SY_Q5_K, x, raw, 256), SY_E_UNSUPPORTED);
    assert_non_null(strstr(sy_error_message(ctx), "Q5_K"));
    assert_int_equal(sy_from_f32(ctx, SY_Q8_0, x, raw, 31), SY_E_USAGE);
    assert_int_equal(sy_to_f32(ctx, (sy_dtype)99, raw, x, 1), SY_E_USAGE);
    assert_int_equal(sy_from_f32(ctx, SY_F32, x, raw, 0), SY_OK);
    sy_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code), cmocka_unit_test(rounding), cmocka_unit_test(rounded_once), cmocka_unit_test(integers),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
