/* SPDX-License-Identifier: Apache-2.0 */
/* Philox against the known answers published with Random123; moments and
 * quantiles of the streams; slices equal the whole. */
#include "support/test.h"

#include "base/rng.h"

#include <math.h>

static void known_answers(void **state)
{
    (void)state;
    static const struct { uint32_t counter[4], key[2], expected[4]; } rows[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        uint32_t out[4];
        syi_philox(rows[i].counter, rows[i].key, out);
        for (int j = 0; j < 4; j++) assert_int_equal(out[j], rows[i].expected[j]);
    }
}

static void slices(void **state)
{
    (void)state;
    float whole[200], part[200];
    for (int kind = 0; kind < 2; kind++) {
        void (*fill)(uint64_t, int64_t, int64_t, float *) = kind ? syi_normal : syi_uniform;
        fill(42, 7, 200, whole);
        for (int first = 0; first < 12; first++) {
            for (int n = 0; n < 50; n++) {
                for (int i = 0; i < 200; i++) part[i] = -99;
                fill(42, 7 + first, n, part);
                assert_memory_equal(part, whole + first, (size_t)n * sizeof *part);
                assert_true(part[n] == -99);
            }
        }
    }
    /* beyond 2^34: the counter's second word counts too */
    syi_uniform(42, INT64_C(1) << 40, 8, whole);
    syi_uniform(42, 0, 8, part);
    assert_memory_not_equal(whole, part, 8 * sizeof *part);
}

enum { N = 1 << 20 };

static void uniform_moments(void **state)
{
    (void)state;
    float *v = test_malloc(N * sizeof *v);
    syi_uniform(syi_key(1, "test", "a", 0), 0, N, v);
    double sum = 0, square = 0, lag = 0;
    for (int i = 0; i < N; i++) {
        assert_true(v[i] >= 0 && v[i] < 1);
        double d = v[i] - 0.5;
        sum += d;
        square += d * d;
        if (i > 0) lag += d * (v[i - 1] - 0.5);
    }
    /* four standard errors: sd(mean) = sqrt(1/12/N), sd(var) = sqrt(1/180/N) */
    assert_true(fabs(sum / N) < 4 * sqrt(1.0 / 12 / N));
    assert_true(fabs(square / N - 1.0 / 12) < 4 * sqrt(1.0 / 180 / N));
    assert_true(fabs(lag / N) < 4.0 / 12 / sqrt(N));
    test_free(v);
}

static void normal_moments(void **state)
{
    (void)state;
    float *v = test_malloc(N * sizeof *v);
    syi_normal(syi_key(1, "test", "b", 3), 0, N, v);
    double m[5] = {0}, lag = 0;
    int below = 0, tail = 0;
    for (int i = 0; i < N; i++) {
        double x = v[i];
        assert_true(isfinite(x));
        for (int k = 1; k <= 4; k++) m[k] += pow(x, k) / N;
        if (i > 0) lag += x * v[i - 1] / N;
        below += x < -1;
        tail += fabs(x) > 3;
    }
    assert_true(fabs(m[1]) < 4 / sqrt(N));
    assert_true(fabs(m[2] - 1) < 4 * sqrt(2.0 / N));
    assert_true(fabs(m[3]) < 4 * sqrt(15.0 / N));
    assert_true(fabs(m[4] - 3) < 4 * sqrt(96.0 / N));
    assert_true(fabs(lag) < 4 / sqrt(N));
    double p = 0.15865525393145707, q = 0.0026997960632601866;
    assert_true(fabs((double)below / N - p) < 4 * sqrt(p * (1 - p) / N));
    assert_true(fabs((double)tail / N - q) < 4 * sqrt(q * (1 - q) / N));
    test_free(v);
}

/* Every value against Box and Muller written out from the bare generator. */
static void normal_values(void **state)
{
    (void)state;
    float v[64];
    uint64_t key = UINT64_C(0x123456789abcdef0);
    syi_normal(key, 0, 64, v);
    for (uint32_t b = 0; b < 16; b++) {
        uint32_t counter[4] = {b, 0, 2, 0}, k[2] = {(uint32_t)key, (uint32_t)(key >> 32)}, w[4];
        syi_philox(counter, k, w);
        for (int i = 0; i < 4; i += 2) {
            double r = sqrt(-2 * log((w[i] + 0.5) / 4294967296.0)), a = 2 * acos(-1.0) * w[i + 1] / 4294967296.0;
            assert_true(fabs(v[4 * b + (uint32_t)i] - r * cos(a)) < 2e-6);
            assert_true(fabs(v[4 * b + (uint32_t)i + 1] - r * sin(a)) < 2e-6);
        }
    }
}

/* The AVX2 and AVX-512 loops and the portable ones give the same bits. */
static void machines_agree(void **state)
{
    (void)state;
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2")) skip(); /* nothing to compare on this processor */
    float a[256], b[256];
    for (uint64_t i = 0; i < 2000; i++) {
        syi_rng_normal_plain(11, i * 64, a);
        syi_rng_normal_avx2(11, i * 64, b);
        assert_memory_equal(a, b, sizeof a);
        syi_rng_uniform_plain(11, i * 64, a);
        syi_rng_uniform_avx2(11, i * 64, b);
        assert_memory_equal(a, b, sizeof a);
        if (!__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) continue;
        syi_rng_uniform_avx512(11, i * 64, b);
        assert_memory_equal(a, b, sizeof a);
        syi_rng_normal_plain(11, i * 64, a);
        syi_rng_normal_avx512(11, i * 64, b);
        assert_memory_equal(a, b, sizeof a);
    }
#else
    skip(); /* there is one kind of loop here */
#endif
}

static void keys_differ(void **state)
{
    (void)state;
    uint64_t keys[] = {syi_key(0, "init", "a", 0), syi_key(1, "init", "a", 0), syi_key(0, "noise", "a", 0),
                       syi_key(0, "init", "b", 0), syi_key(0, "init", "a", 1), syi_key(0, "init", NULL, 0),
                       syi_key(0, "inita", NULL, 0)};
    for (int i = 0; i < SYI_COUNT(keys); i++)
        for (int j = 0; j < i; j++) assert_true(keys[i] != keys[j]);
    assert_true(syi_key(0, "init", "a", 0) == keys[0]);
}

static void permutations(void **state)
{
    (void)state;
    int64_t p[100];
    int at_first[5] = {0};
    for (int seed = 0; seed < 5000; seed++) {
        syi_permutation(syi_key((uint64_t)seed, "perm", NULL, 0), 5, p);
        int seen = 0;
        for (int i = 0; i < 5; i++) seen |= 1 << p[i];
        assert_int_equal(seen, 31);
        at_first[p[0]]++;
    }
    for (int i = 0; i < 5; i++) assert_in_range(at_first[i], 1000 - 120, 1000 + 120);
    p[0] = 7;
    syi_permutation(1, 0, p);
    assert_int_equal(p[0], 7);
    syi_permutation(1, 1, p);
    assert_int_equal(p[0], 0);
}

static void u64_bits(void **state)
{
    (void)state;
    int ones[64] = {0};
    for (int i = 0; i < 4096; i++)
        for (int b = 0; b < 64; b++) ones[b] += (int)(syi_random_u64(9, i) >> b & 1);
    for (int b = 0; b < 64; b++) assert_in_range(ones[b], 2048 - 160, 2048 + 160); /* 5 sd */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers), cmocka_unit_test(slices),        cmocka_unit_test(uniform_moments),
        cmocka_unit_test(normal_moments), cmocka_unit_test(normal_values), cmocka_unit_test(keys_differ),
        cmocka_unit_test(permutations),  cmocka_unit_test(u64_bits), cmocka_unit_test(machines_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
