/* SPDX-License-Identifier: Apache-2.0 */
/* What compressors are made of, against closed forms and brute force: the knapsack, binary
 * codes, sums of powers of two, ROCKET's factors, importance of updates. */
#include "support/test.h"

#include "compressor/bcq.h"
#include "compressor/rocket.h"
#include "compressor/solve.h"

#include <math.h>

static void knapsack(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    enum { ITEMS = 5, WAYS = 6 };
    for (uint64_t trial = 0; trial < 100; trial++) {
        sy_choice all[ITEMS * WAYS];
        int pick[ITEMS];
        for (int i = 0; i < ITEMS * WAYS; i++)
            all[i] = (sy_choice){.item = i / WAYS, .cost = (int64_t)(syi_random_u64(trial, i) % 40), .error = (double)(syi_random_u64(trial + 1000, i) % 1000)};
        const int64_t budget = 60 + (int64_t)(trial % 60);
        double best = INFINITY;
        for (int code = 0; code < 7776; code++) {
            int64_t cost = 0;
            double error = 0;
            for (int i = 0, c = code; i < ITEMS; i++, c /= WAYS) {
                cost += all[i * WAYS + c % WAYS].cost;
                error += all[i * WAYS + c % WAYS].error;
            }
            if (cost <= budget && error < best) best = error;
        }
        const sy_status st = sy_knapsack(ctx, all, ITEMS * WAYS, ITEMS, budget, pick);
        if (isinf(best)) {
            assert_int_equal(st, SY_E_USAGE);
            continue;
        }
        assert_int_equal(st, SY_OK);
        int64_t cost = 0;
        double error = 0;
        for (int i = 0; i < ITEMS; i++) {
            assert_int_equal(all[pick[i]].item, i);
            cost += all[pick[i]].cost;
            error += all[pick[i]].error;
        }
        assert_true(cost <= budget && error == best);
    }
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

static void powers_of_two(void **state)
{
    (void)state;
    static const double bound[] = {0, 0.4143, 0.1085, 0.0275};
    for (int terms = 1; terms <= 3; terms++) {
        double worst = 0;
        for (int i = 0; i < 100000; i++) {
            int8_t e[8];
            bool minus[8];
            const double v = exp2((double)(syi_random_u64(3, i) >> 11) / 9007199254740992.0 * 20 - 10);
            const double far = fabs(syi_apot(v, terms, e, minus) - v) / v;
            if (far > worst) worst = far;
        }
        assert_true(worst < bound[terms] && worst > 0.9 * bound[terms]);
    }
}

static void binary_codes(void **state)
{
    (void)state;
    enum { N = 100000 };
    float *w = malloc(N * sizeof *w);
    syi_bcq q;
    syi_normal(1, 0, N, w);
    syi_bcq_fit(1, 0, 50, w, N, &q);
    double mean = 0, mse = 0;
    for (int i = 0; i < N; i++) mean += fabs((double)w[i]) / N;
    assert_true(fabs((double)q.alpha[0] - mean) < 1e-3); /* f16 */
    syi_bcq_fit(2, 0, 200, w, N, &q); /* Lloyd and Max's levels for a normal distribution */
    assert_true(fabs((double)q.level[2] - 0.453) < 0.01 && fabs((double)q.level[3] - 1.510) < 0.02);
    for (int i = 0; i < N; i++) {
        const double d = (double)(w[i] - q.level[syi_bcq_nearest(&q, w[i])]);
        mse += d * d / N;
    }
    assert_true(fabs(mse - 0.1175) < 0.002);
    /* numbers that are such sums come back */
    const float alpha[3] = {2, 0.5f, 0.25f};
    for (int i = 0; i < 512; i++) {
        w[i] = 0;
        for (int b = 0; b < 3; b++) w[i] += syi_random_u64(2, i * 3 + b) & 1 ? alpha[b] : -alpha[b];
    }
    syi_bcq_fit(3, 3, 50, w, 512, &q);
    for (int i = 0; i < 512; i++) assert_true(q.level[syi_bcq_nearest(&q, w[i])] == w[i]);
    free(w);
}

/* A round is a least-squares fit of the scales for the codes and then the nearest codes: the
 * error never rises, and the scales that are left are those of least squares. */
static void binary_steps(void **state)
{
    (void)state;
    enum { N = 512 };
    float w[N];
    for (int bits = 2; bits <= 4; bits++)
        for (uint64_t seed = 0; seed < 5; seed++) {
            double last = INFINITY, size = 0;
            syi_bcq q;
            syi_normal(seed + 70, 0, N, w);
            for (int i = 0; i < N; i++) size += (double)w[i] * (double)w[i];
            for (int rounds = 1; rounds <= 1000; rounds += rounds < 40 ? 1 : 960) {
                double now = 0, dot[4] = {0};
                syi_bcq_fit(bits, 0, rounds, w, N, &q);
                for (int i = 0; i < N; i++) {
                    const int at = syi_bcq_nearest(&q, w[i]);
                    const double d = (double)(w[i] - q.level[at]);
                    for (int b = 0; b < bits; b++) dot[b] += q.sign[at] >> b & 1 ? d : -d;
                    now += d * d;
                }
                if (!(now <= last + 1e-6 * size)) fail_msg("%d bits, round %d: %g after %g", bits, rounds, now / size, last / size); /* f16 scales: 1e-6 of it */
                last = now;
                for (int b = 0; rounds == 1000 && b < bits; b++) assert_true(fabs(dot[b]) < 3e-3 * sqrt(size * N));
            }
        }
}

static void factors(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    syi_engine *e;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    int64_t k, s;
    assert_true(syi_rocket_sizes(4096, 12288, 0.2, 2, &k, &s));
    assert_int_equal(k, 3932);
    assert_int_equal(s, 1966);
    static const int64_t shape[][2] = {{48, 80}, {80, 48}};
    for (int which = 0; which < 2; which++) {
        const int64_t d1 = shape[which][0], d2 = shape[which][1], t = 200;
        float *x = malloc((size_t)(t * d1) * sizeof *x), *w = malloc((size_t)(d1 * d2) * sizeof *w);
        double *g = calloc((size_t)(d1 * d1), sizeof *g);
        syi_normal(21, 0, t * d1, x);
        syi_normal(22, 0, d1 * d2, w);
        for (int64_t n = 0; n < t; n++)
            for (int64_t i = 0; i < d1; i++)
                for (int64_t j = 0; j < d1; j++) g[i * d1 + j] += (double)x[n * d1 + i] * (double)x[n * d1 + j] / ((double)i + 1) / ((double)j + 1);
        syi_rocket_basis b;
        assert_int_equal(syi_rocket_begin(ctx, d1, d2, g, w, &b), SY_OK);
        double total = 0, left = 0, weight, output;
        for (int64_t i = 0; i < b.r; i++) { /* rows of C: singular values of L W */
            double row = 0;
            for (int64_t j = 0; j < d2; j++) row += b.c[i * d2 + j] * b.c[i * d2 + j];
            total += row;
            if (i >= 20) left += row;
        }
        assert_true(fabs(total - b.output) < 1e-9 * total);
        const syi_rocket_how how = {.lambda = 0.5, .beta = 0.005, .mu = 1e-3, .precise = true};
        float *u = malloc((size_t)(20 * d1) * sizeof *u), *v = malloc((size_t)(20 * d2) * sizeof *v);
        assert_int_equal(syi_rocket_factor(e, &b, &how, 20, 20, u, v, &weight, &output), SY_OK);
        assert_true(fabs(output * output - left / total) < 1e-8); /* Eckart and Young */
        /* sparse: exactly s d2 values; errors are those of the factors themselves */
        assert_int_equal(syi_rocket_factor(e, &b, &how, 20, 12, u, v, &weight, &output), SY_OK);
        int64_t n = 0;
        double far = 0, size = 0;
        for (int64_t i = 0; i < 20 * d2; i++) n += v[i] != 0;
        assert_int_equal(n, 12 * d2);
        for (int64_t j = 0; j < d2; j++)
            for (int64_t i = 0; i < d1; i++) {
                double y = 0;
                for (int64_t q = 0; q < 20; q++) y += (double)u[q * d1 + i] * (double)v[j * 20 + q];
                far += (y - (double)w[j * d1 + i]) * (y - (double)w[j * d1 + i]);
                size += (double)w[j * d1 + i] * (double)w[j * d1 + i];
            }
        assert_true(fabs(weight - sqrt(far / size)) < 1e-4 * weight);
        syi_rocket_end(ctx, &b);
        free(x);
        free(w);
        free(g);
        free(u);
        free(v);
    }
    syi_engine_free(e);
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

static void updates(void **state)
{
    (void)state;
    assert_true(syi_update_importance(0, 0.25, 1, 4, 10) == 1);
    assert_true(syi_update_importance(0.25, 0.25, 1, 4, 10) == 10);
    assert_true(syi_update_importance(1, 0.25, 1, 4, 10) == 1);
    assert_true(syi_update_importance(4, 0.25, 1, 4, 10) == 10);
    int64_t *h = calloc(32768, sizeof *h);
    double least, middle, most;
    h[0] = 77;           /* zeros are no updates                                   */
    h[0x3f80] = 2;       /* 1                                                      */
    h[0x4000] = 1;       /* 2                                                      */
    h[0x4080] = 2;       /* 4: of 1 1 2 4 4 the median is 2                        */
    syi_update_statistics(h, &least, &middle, &most);
    assert_true(least == 1 && middle == 2 && most == 4);
    h[0x3f80] = 3;       /* 1 1 1 2 4 4: between the third and the fourth           */
    syi_update_statistics(h, &least, &middle, &most);
    assert_true(middle == 1.5);
    free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(knapsack), cmocka_unit_test(powers_of_two), cmocka_unit_test(binary_codes), cmocka_unit_test(binary_steps),
                                       cmocka_unit_test(factors), cmocka_unit_test(updates)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
