/* SPDX-License-Identifier: Apache-2.0 */
/* ROCKET's factorisation against the definitions, in f64: errors are outputs', ks = 1 is the
 * truncated singular value decomposition, the dictionary solves its normal equations and is
 * never worse than the basis it replaces, counts are the paper's. */
#include "support/test.h"

#include "compressor/rocket.h"

#include <math.h>

enum { D1 = 40, D2 = 64, T = 160, K = 18 };

typedef struct { sy_context *ctx; syi_engine *e; double *x; float *w; syi_rocket_basis b; double *u, *v; } layer;

static int setup(void **state)
{
    layer *l = calloc(1, sizeof *l);
    float *noise = malloc(T * D1 * sizeof *noise);
    double *g = calloc(D1 * D1, sizeof *g);
    l->ctx = sy_context_new();
    assert_int_equal(syi_engine_new(l->ctx, &l->e), SY_OK);
    l->x = malloc(T * D1 * sizeof *l->x);
    l->w = malloc(D1 * D2 * sizeof *l->w);
    l->u = malloc(K * D1 * sizeof *l->u);
    l->v = malloc(K * D2 * sizeof *l->v);
    syi_normal(1, 0, T * D1, noise);
    syi_normal(2, 0, D1 * D2, l->w);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < D1; i++) l->x[t * D1 + i] = ((double)noise[t * D1 + i] + (i ? 0.5 * (double)noise[t * D1 + i - 1] : 0)) / sqrt(i + 1);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < D1; i++)
            for (int j = 0; j < D1; j++) g[i * D1 + j] += l->x[t * D1 + i] * l->x[t * D1 + j];
    assert_int_equal(syi_rocket_begin(l->ctx, D1, D2, g, l->w, &l->b), SY_OK);
    free(noise);
    free(g);
    *state = l;
    return 0;
}

static int teardown(void **state)
{
    layer *l = *state;
    syi_rocket_end(l->ctx, &l->b);
    syi_engine_free(l->e);
    assert_int_equal(sy_memory_now(l->ctx), 0);
    sy_context_free(l->ctx);
    free(l->x);
    free(l->w);
    free(l->u);
    free(l->v);
    free(l);
    return 0;
}

static double weight(const layer *l, int i, int j) { return (double)l->w[j * D1 + i]; } /* [inputs, outputs] */

/* W - U V */
static double *difference(const layer *l)
{
    double *d = malloc(D1 * D2 * sizeof *d);
    for (int i = 0; i < D1; i++)
        for (int j = 0; j < D2; j++) {
            d[i * D2 + j] = weight(l, i, j);
            for (int q = 0; q < K; q++) d[i * D2 + j] -= l->u[q * D1 + i] * l->v[j * K + q];
        }
    return d;
}

/* |A d|^2 of A[rows, D1], d[D1, D2] */
static double squares(const double *a, int rows, const double *d)
{
    double sum = 0;
    for (int t = 0; t < rows; t++)
        for (int j = 0; j < D2; j++) {
            double s = 0;
            for (int i = 0; i < D1; i++) s += a[t * D1 + i] * d[i * D2 + j];
            sum += s * s;
        }
    return sum;
}

static const syi_rocket_how how = {.lambda = 0.5, .beta = 0.005, .mu = 1e-3, .precise = true, .wide = true};

static void errors_are_outputs(void **state)
{
    layer *l = *state;
    for (int s = K; s >= 8; s -= 5) {
        double weight_error, output_error;
        assert_int_equal(syi_rocket_factor(l->e, &l->b, &how, K, s, l->u, l->v, &weight_error, &output_error), SY_OK);
        double *d = difference(l);
        const double outputs = squares(l->x, T, d), whitened = squares(l->b.l, D1, d);
        if (!(fabs(outputs - whitened) < 1e-8 * outputs)) fail_msg("s %d: %g and %g", s, outputs, whitened);
        assert_true(fabs(output_error * output_error * l->b.output - outputs) < 1e-8 * l->b.output);
        free(d);
    }
}

/* The first K eigenvectors of M [D1, D1] by orthogonal iteration: an independent way. */
static void leading(const double *m, double *q)
{
    for (int i = 0; i < D1 * K; i++) q[i] = (double)(syi_random_u64(9, i) % 2000) / 1000 - 1;
    for (int round = 0; round < 4000; round++) {
        double next[D1 * K];
        for (int i = 0; i < D1; i++)
            for (int c = 0; c < K; c++) {
                next[i * K + c] = 0;
                for (int j = 0; j < D1; j++) next[i * K + c] += m[i * D1 + j] * q[j * K + c];
            }
        for (int c = 0; c < K; c++)
            for (int twice = 0; twice < 2; twice++) {
                for (int b = 0; b < c; b++) {
                    double dot = 0;
                    for (int i = 0; i < D1; i++) dot += next[i * K + c] * next[i * K + b];
                    for (int i = 0; i < D1; i++) next[i * K + c] -= dot * next[i * K + b];
                }
                double size = 0;
                for (int i = 0; i < D1; i++) size += next[i * K + c] * next[i * K + c];
                for (int i = 0; i < D1; i++) next[i * K + c] /= sqrt(size);
            }
        memcpy(q, next, sizeof next);
    }
}

/* ks = 1: L U V is L W on its K leading left singular vectors. */
static void low_rank(void **state)
{
    layer *l = *state;
    double weight_error, output_error, m[D1 * D1], q[D1 * K], size = 0, far = 0;
    assert_int_equal(syi_rocket_factor(l->e, &l->b, &how, K, K, l->u, l->v, &weight_error, &output_error), SY_OK);
    for (int i = 0; i < D1; i++)
        for (int j = 0; j < D1; j++) {
            m[i * D1 + j] = 0;
            for (int c = 0; c < D2; c++) m[i * D1 + j] += l->b.wl[i * D2 + c] * l->b.wl[j * D2 + c];
        }
    leading(m, q);
    for (int j = 0; j < D2; j++) {
        double column[D1], along[K] = {0};
        for (int c = 0; c < K; c++)
            for (int i = 0; i < D1; i++) along[c] += q[i * K + c] * l->b.wl[i * D2 + j];
        for (int i = 0; i < D1; i++) {
            column[i] = 0;
            for (int h = i; h < D1; h++) /* L is upper */
                for (int c = 0; c < K; c++) column[i] += l->b.l[i * D1 + h] * l->u[c * D1 + h] * l->v[j * K + c];
            double want = 0;
            for (int c = 0; c < K; c++) want += q[i * K + c] * along[c];
            size += want * want;
            far += (column[i] - want) * (column[i] - want);
        }
    }
    if (!(sqrt(far / size) < 1e-8)) fail_msg("%g", sqrt(far / size));
}

/* (WL - D Cs) Cs^T = mu D, and D is no worse than the basis was. */
static void dictionary(void **state)
{
    layer *l = *state;
    enum { S = 10 };
    double weight_error, output_error, d[D1 * K], gram[K * K], p[D1 * K], trace = 0, left = 0, size = 0;
    assert_int_equal(syi_rocket_factor(l->e, &l->b, &how, K, S, l->u, l->v, &weight_error, &output_error), SY_OK);
    int kept = 0;
    for (int i = 0; i < K * D2; i++) kept += l->v[i] != 0;
    assert_int_equal(kept, S * D2);
    for (int i = 0; i < D1; i++)
        for (int q = 0; q < K; q++) {
            d[i * K + q] = p[i * K + q] = 0;
            for (int h = i; h < D1; h++) d[i * K + q] += l->b.l[i * D1 + h] * l->u[q * D1 + h];
            for (int j = 0; j < D2; j++) p[i * K + q] += l->b.wl[i * D2 + j] * l->v[j * K + q];
        }
    for (int a = 0; a < K; a++)
        for (int b = 0; b < K; b++) {
            gram[a * K + b] = 0;
            for (int j = 0; j < D2; j++) gram[a * K + b] += l->v[j * K + a] * l->v[j * K + b];
        }
    for (int a = 0; a < K; a++) trace += gram[a * K + a];
    const double mu = fmax(1e-6, 1e-3 * trace / K);
    for (int i = 0; i < D1; i++)
        for (int q = 0; q < K; q++) {
            double s = p[i * K + q] - mu * d[i * K + q];
            for (int c = 0; c < K; c++) s -= d[i * K + c] * gram[c * K + q];
            left += s * s;
            size += p[i * K + q] * p[i * K + q];
        }
    if (!(sqrt(left) <= 1e-8 * sqrt(size))) fail_msg("%g of %g", sqrt(left), sqrt(size));
    double before = 0, after = 0;
    for (int i = 0; i < D1; i++)
        for (int j = 0; j < D2; j++) {
            double a = l->b.wl[i * D2 + j], b = a;
            for (int q = 0; q < K; q++) {
                a -= l->b.b[i * l->b.r + q] * l->v[j * K + q];
                b -= d[i * K + q] * l->v[j * K + q];
            }
            before += a * a;
            after += b * b;
        }
    assert_true(after <= before);
}

static void sizes(void **state)
{
    (void)state;
    int64_t k, s;
    assert_true(syi_rocket_sizes(4096, 12288, 0.2, 2, &k, &s));
    assert_int_equal(k, 3932);
    assert_int_equal(s, 1966);
    assert_int_equal(4096 * k + s * 12288, 40263680);
    assert_false(syi_rocket_sizes(4, 64, 0.05, 3, &k, &s)); /* the dictionary would have more vectors than there are */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(errors_are_outputs, setup, teardown), cmocka_unit_test_setup_teardown(low_rank, setup, teardown),
                                       cmocka_unit_test_setup_teardown(dictionary, setup, teardown), cmocka_unit_test(sizes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
