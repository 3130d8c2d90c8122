/* SPDX-License-Identifier: Apache-2.0 */
/* Decompositions against what defines them (orthonormal factors, the matrix again,
 * known singular values); AdamW against its formula in f64; sums. */
#include "support/test.h"

#include "tensor/kernels.h"

#include <math.h>

static void dot_rows_identity(const float *u, int64_t rows, int64_t cols, bool columns, double tol)
{
    int64_t n = columns ? cols : rows, len = columns ? rows : cols;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t k = 0; k < len; k++)
                sum += columns ? (double)u[k * cols + i] * (double)u[k * cols + j] : (double)u[i * cols + k] * (double)u[j * cols + k];
            if (!(fabs(sum - (i == j)) < tol)) fail_msg("factor is not orthonormal: %g at %d,%d", sum, (int)i, (int)j);
        }
}

static double rebuilt(const float *a, int64_t m, int64_t n, const float *u, const float *s, const float *vt, int64_t r, double *size)
{
    double d = 0;
    *size = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t k = 0; k < r; k++) sum += (double)u[i * r + k] * (double)s[k] * (double)vt[k * n + j];
            d += ((double)a[i * n + j] - sum) * ((double)a[i * n + j] - sum);
            *size += (double)a[i * n + j] * (double)a[i * n + j];
        }
    return sqrt(d);
}

static void svd(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    static const int shapes[][2] = {{1, 1}, {5, 3}, {3, 5}, {40, 40}, {70, 20}, {17, 90}};
    for (int q = 0; q < SYI_COUNT(shapes); q++) {
        int64_t m = shapes[q][0], n = shapes[q][1], p = syi_min(m, n);
        float *a = malloc((size_t)(m * n) * 4), *u = malloc((size_t)(m * p) * 4), *s = malloc((size_t)p * 4), *vt = malloc((size_t)(p * n) * 4);
        syi_normal((uint64_t)q, 0, m * n, a);
        assert_int_equal(syi_svd(ctx, m, n, a, u, s, vt), SY_OK);
        for (int64_t i = 0; i < p; i++) assert_true(s[i] >= 0 && (i == 0 || s[i] <= s[i - 1]));
        dot_rows_identity(u, m, p, true, 1e-5);
        dot_rows_identity(vt, p, n, false, 1e-5);
        double size, d = rebuilt(a, m, n, u, s, vt, p, &size);
        assert_true(d <= 1e-6 * sqrt(size) + 1e-6);
        free(a), free(u), free(s), free(vt);
    }
    /* diag(3, -2) turned by 45 degrees has singular values 3 and 2. */
    const float t[4] = {0.5f, 2.5f, 2.5f, 0.5f};
    float u[4], s[2], vt[4];
    assert_int_equal(syi_svd(ctx, 2, 2, t, u, s, vt), SY_OK);
    assert_true(fabs((double)s[0] - 3) < 1e-6 && fabs((double)s[1] - 2) < 1e-6);
    const float bad[4] = {1, NAN, 0, 1};
    assert_int_equal(syi_svd(ctx, 2, 2, bad, u, s, vt), SY_E_NUMERIC);
    assert_non_null(strstr(sy_error_message(ctx), "NaN"));
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

/* A matrix of rank 8 is found exactly; of a decaying spectrum the error is close to the
 * optimum; equal bits for any number of threads. */
static void rsvd(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    syi_engine *e = NULL;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    enum { M = 150, NN = 220, R = 8 };
    float *left = malloc(M * 40 * 4), *right = malloc(40 * NN * 4), *a = malloc(M * NN * 4);
    float *u = malloc(M * M * 4), *s = malloc(M * 4), *vt = malloc(M * NN * 4), *again = malloc(M * M * 4);
    syi_normal(1, 0, M * 40, left);
    syi_normal(2, 0, 40 * NN, right);
    for (int spectrum = 0; spectrum < 2; spectrum++) {
        int rank = spectrum == 0 ? R : 40;
        for (int i = 0; i < M; i++)
            for (int j = 0; j < NN; j++) {
                double sum = 0;
                for (int k = 0; k < rank; k++) sum += (double)left[i * 40 + k] * (double)right[k * NN + j] * (spectrum == 0 ? 1 : pow(0.7, k));
                a[i * NN + j] = (float)sum;
            }
        assert_int_equal(syi_rsvd(e, M, NN, a, R, 2, 77, u, s, vt), SY_OK);
        dot_rows_identity(u, M, R, true, 1e-4);
        dot_rows_identity(vt, R, NN, false, 1e-4);
        double size, d = rebuilt(a, M, NN, u, s, vt, R, &size);
        if (spectrum == 0) assert_true(d < 1e-5 * sqrt(size));
        else {
            float *fu = malloc(M * M * 4), *fs = malloc(M * 4), *fv = malloc(M * NN * 4);
            double best = 0;
            assert_int_equal(syi_svd(ctx, M, NN, a, fu, fs, fv), SY_OK);
            for (int i = R; i < M; i++) best += (double)fs[i] * (double)fs[i];
            assert_true(d >= 0.999 * sqrt(best) && d < 1.01 * sqrt(best));
            for (int i = 0; i < R; i++) assert_true(fabs((double)(s[i] - fs[i])) < 1e-3 * (double)fs[0]);
            free(fu), free(fs), free(fv);
        }
        memcpy(again, u, M * R * 4);
        for (int threads = 1; threads <= 4; threads++) {
            assert_int_equal(sy_threads_set(ctx, threads), SY_OK);
            assert_int_equal(syi_rsvd(e, M, NN, a, R, 2, 77, u, s, vt), SY_OK);
            assert_memory_equal(again, u, M * R * 4);
        }
    }
    assert_int_equal(syi_rsvd(e, 4, 4, a, 5, 1, 1, u, s, vt), SY_E_BUG);
    free(left), free(right), free(a), free(u), free(s), free(vt), free(again);
    syi_engine_free(e);
    sy_context_free(ctx);
}

static void adamw(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    syi_engine *e = NULL;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    enum { N = 10007 };
    float *w = malloc(N * 4), *g = malloc(N * 4), *m = calloc(N, 4), *v = calloc(N, 4);
    double *dw = malloc(N * 8), *dm = calloc(N, 8), *dv = calloc(N, 8);
    syi_normal(1, 0, N, w);
    for (int i = 0; i < N; i++) dw[i] = (double)w[i];
    for (int t = 1; t <= 5; t++) {
        syi_adamw a = {.lr = 1e-2 / t, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .decay = 0.1, .t = t};
        syi_normal(10 + (uint64_t)t, 0, N, g);
        assert_int_equal(syi_adamw_step(e, &a, w, g, m, v, N), SY_OK);
        for (int i = 0; i < N; i++) {
            double gi = (double)g[i];
            dw[i] *= 1 - a.lr * a.decay;
            dm[i] = a.beta1 * dm[i] + (1 - a.beta1) * gi;
            dv[i] = a.beta2 * dv[i] + (1 - a.beta2) * gi * gi;
            dw[i] -= a.lr * (dm[i] / (1 - pow(a.beta1, t))) / (sqrt(dv[i] / (1 - pow(a.beta2, t))) + a.eps);
            assert_true(fabs((double)w[i] - dw[i]) < 2e-6 * (1 + fabs(dw[i])));
        }
    }
    syi_adamw zero = {.lr = 1, .t = 0};
    assert_int_equal(syi_adamw_step(e, &zero, w, g, m, v, N), SY_E_BUG);
    free(w), free(g), free(m), free(v), free(dw), free(dm), free(dv);
    syi_engine_free(e);
    sy_context_free(ctx);
}

static void sums(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    syi_engine *e = NULL;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    enum { N = 3000001 };
    float *x = malloc((size_t)N * 4);
    for (int i = 0; i < N; i++) x[i] = (float)(i % 5 - 2);
    bool finite = false;
    assert_true(syi_sumsq(e, SY_F32, x, N, &finite) == 6000002 + 2 && finite); /* 10 a period, 4 for the rest */
    for (int threads = 1; threads <= 4; threads++) {
        assert_int_equal(sy_threads_set(ctx, threads), SY_OK);
        syi_normal(5, 0, N, x);
        static double first;
        double s = syi_sumsq(e, SY_F32, x, N, &finite);
        if (threads == 1) first = s;
        assert_true(s == first && fabs(s / N - 1) < 0.01);
    }
    x[N - 1] = INFINITY;
    (void)syi_sumsq(e, SY_F32, x, N, &finite);
    assert_false(finite);
    x[N - 1] = 3e38f; /* its square is beyond f32, not beyond f64 */
    (void)syi_sumsq(e, SY_F32, x, N, &finite);
    assert_true(finite);
    x[7] = NAN;
    (void)syi_sumsq(e, SY_F32, x, N, &finite);
    assert_false(finite);
    assert_true(syi_sumsq(e, SY_F32, x, 0, &finite) == 0 && finite);
    free(x);
    syi_engine_free(e);
    sy_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(svd), cmocka_unit_test(rsvd), cmocka_unit_test(adamw), cmocka_unit_test(sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
