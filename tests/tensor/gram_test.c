/* SPDX-License-Identifier: Apache-2.0 */
/* Singular values by way of the Gram matrix: known ones, LAPACK's own, the same bits for
 * any number of threads and any cutting into slices of whole pieces. */
#include "support/test.h"

#include "tensor/kernels.h"

#include <math.h>

static void values(sy_context *ctx, bool wide, int64_t rows, int64_t cols, const float *x, double *s)
{
    const int64_t n = wide ? rows : cols;
    double *g = calloc((size_t)(n * n), sizeof *g);
    assert_int_equal(syi_gram_add(ctx, wide, rows, cols, x, g), SY_OK);
    assert_int_equal(syi_gram_values(ctx, n, g, s), SY_OK);
    free(g);
}

static void known(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    float x[7 * 3] = {0};
    double s[7];
    x[0 * 3 + 1] = -3; /* one number a row and column: its magnitude */
    x[4 * 3 + 0] = 1e-6f;
    x[6 * 3 + 2] = 20;
    values(ctx, false, 7, 3, x, s);
    assert_true(fabs(s[0] - 20) < 1e-12 && fabs(s[1] - 3) < 1e-12 && fabs(s[2] - 1e-6) < 1e-9);
    float t[3 * 7];
    for (int i = 0; i < 7; i++)
        for (int j = 0; j < 3; j++) t[j * 7 + i] = x[i * 3 + j];
    values(ctx, true, 3, 7, t, s);
    assert_true(fabs(s[0] - 20) < 1e-12 && fabs(s[1] - 3) < 1e-12 && fabs(s[2] - 1e-6) < 1e-9);
    double g[4] = {1, 0, NAN, 1};
    assert_int_equal(syi_gram_values(ctx, 2, g, s), SY_E_NUMERIC);
    sy_context_free(ctx);
}

static void against_svd(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    static const int64_t sizes[][2] = {{700, 300}, {300, 700}, {257, 256}, {1, 9}, {600, 1}};
    for (int k = 0; k < SYI_COUNT(sizes); k++) {
        const int64_t m = sizes[k][0], n = sizes[k][1], p = syi_min(m, n);
        float *x = malloc((size_t)(m * n) * sizeof *x), *u = malloc((size_t)(m * p + p + p * n) * sizeof *u);
        double *s = malloc((size_t)p * sizeof *s), *again = malloc((size_t)p * sizeof *s);
        syi_normal(11 + (uint64_t)k, 0, m * n, x);
        assert_int_equal(syi_svd(ctx, m, n, x, u, u + m * p, u + m * p + p), SY_OK);
        for (int threads = 1; threads <= 3; threads++) {
            sy_threads_set(ctx, threads);
            values(ctx, m < n, m, n, x, again);
            if (threads == 1) memcpy(s, again, (size_t)p * sizeof *s);
            assert_memory_equal(s, again, (size_t)p * sizeof *s);
        }
        for (int64_t i = 0; i < p; i++)
            if (!(fabs(s[i] - (double)u[m * p + i]) < 1e-5 * s[0])) fail_msg("%d: %.9g, not %.9g", (int)i, s[i], (double)u[m * p + i]);
        free(x);
        free(u);
        free(s);
        free(again);
    }
    sy_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(known), cmocka_unit_test(against_svd)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
