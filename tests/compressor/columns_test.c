/* SPDX-License-Identifier: Apache-2.0 */
/* What the papers of GPTQ, GPTAQ and ResComp say must hold exactly, on grids of the test's
 * own: residual coefficients are D H^-1 of the trailing inputs, a step of GPTQ is a
 * constrained least-squares minimum, ResComp at full strength propagates the error of the
 * original weight, the start of "exact" is the optimum of GPTAQ's objective. */
#include "support/test.h"

#include "compressor/solve.h"

#include <math.h>

typedef struct { sy_context *ctx; syi_engine *e; int64_t n; double *h, *d; } layer;

/* H and D of `tokens` inputs with a falling spectrum; the other stream is a noisy copy. */
static void inputs(layer *l, int64_t n, int64_t tokens, uint64_t seed)
{
    float *x = malloc((size_t)(tokens * n) * sizeof *x), *noise = malloc((size_t)(tokens * n) * sizeof *x), *mix = malloc((size_t)(n * n) * sizeof *mix);
    double *y = calloc((size_t)(tokens * n), sizeof *y);
    syi_normal(seed, 0, tokens * n, x);
    syi_normal(seed + 1, 0, tokens * n, noise);
    syi_normal(seed + 2, 0, n * n, mix);
    l->n = n;
    l->h = calloc((size_t)(n * n), sizeof *l->h);
    l->d = calloc((size_t)(n * n), sizeof *l->d);
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) y[t * n + j] += (double)x[t * n + i] / sqrt((double)i + 1) * (double)mix[i * n + j] / sqrt((double)n);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) {
                l->h[i * n + j] += y[t * n + i] * y[t * n + j];
                l->d[i * n + j] += (0.05 * y[t * n + i] + 0.05 * (double)noise[t * n + i]) * y[t * n + j];
            }
    }
    free(x);
    free(noise);
    free(mix);
    free(y);
}

static void begin(layer *l, int64_t n, int64_t tokens, uint64_t seed)
{
    *l = (layer){.ctx = sy_context_new()};
    assert_int_equal(syi_engine_new(l->ctx, &l->e), SY_OK);
    inputs(l, n, tokens, seed);
}

static void end(layer *l)
{
    syi_engine_free(l->e);
    assert_int_equal(sy_memory_now(l->ctx), 0);
    sy_context_free(l->ctx);
    free(l->h);
    free(l->d);
}

static double mean_of(const layer *l)
{
    double mean = 0;
    for (int64_t i = 0; i < l->n; i++) mean += l->h[i * l->n + i] / (double)l->n;
    return mean;
}

/* Upper U with (H + lambda I)^-1 = U^T U, in f64, by columns from the last. */
static double *factor(const layer *l, double lambda)
{
    const int64_t n = l->n;
    double *v = calloc((size_t)(n * n), sizeof *v), *u = calloc((size_t)(n * n), sizeof *u);
    for (int64_t j = n - 1; j >= 0; j--) /* H = V V^T, V upper */
        for (int64_t i = j; i >= 0; i--) {
            double s = l->h[i * n + j] + (i == j ? lambda : 0);
            for (int64_t k = j + 1; k < n; k++) s -= v[i * n + k] * v[j * n + k];
            v[i * n + j] = i == j ? sqrt(s) : s / v[j * n + j];
        }
    for (int64_t j = 0; j < n; j++) /* U = V^-1 */
        for (int64_t i = j; i >= 0; i--) {
            double s = i == j;
            for (int64_t k = i + 1; k <= j; k++) s -= v[i * n + k] * u[k * n + j];
            u[i * n + j] = s / v[i * n + i];
        }
    free(v);
    return u;
}

/* x with (H + lambda I)[T,T] x = b, T = {q .. n-1}: Cholesky from the other end. */
static void solve_trailing(const layer *l, double lambda, int64_t q, const double *b, double *x)
{
    const int64_t n = l->n, m = n - q;
    double *a = malloc((size_t)(m * m) * sizeof *a);
    for (int64_t j = 0; j < m; j++)
        for (int64_t i = j; i < m; i++) {
            double s = l->h[(q + i) * n + q + j] + (i == j ? lambda : 0);
            for (int64_t k = 0; k < j; k++) s -= a[i * m + k] * a[j * m + k];
            a[i * m + j] = i == j ? sqrt(s) : s / a[j * m + j];
        }
    for (int64_t i = 0; i < m; i++) {
        double s = b[i];
        for (int64_t k = 0; k < i; k++) s -= a[i * m + k] * x[k];
        x[i] = s / a[i * m + i];
    }
    for (int64_t i = m - 1; i >= 0; i--) {
        double s = x[i];
        for (int64_t k = i + 1; k < m; k++) s -= a[k * m + i] * x[k];
        x[i] = s / a[i * m + i];
    }
    free(a);
}

static void residual_coefficients(void **state)
{
    (void)state;
    layer l;
    begin(&l, 256, 600, 31);
    const int64_t n = l.n;
    const double lambda = 0.01 * mean_of(&l);
    double *u = factor(&l, lambda), *x = malloc((size_t)n * sizeof *x), *p = malloc((size_t)(n * n) * sizeof *p), *t = malloc((size_t)(n * n) * sizeof *t), worst = 0;
    assert_int_equal(syi_residual_rows(l.e, SY_F64, n, l.d, u, 0.25, 0, n, t, p), SY_OK);
    for (int64_t q = 0; q < n - 1; q += 17) {
        solve_trailing(&l, lambda, q + 1, l.d + q * n + q + 1, x); /* a row times the symmetric inverse */
        for (int64_t j = 0; j <= q; j++) assert_true(p[q * n + j] == 0);
        for (int64_t j = q + 1; j < n; j++) worst = fmax(worst, fabs(p[q * n + j] - 0.25 * x[j - q - 1]));
    }
    if (!(worst < 1e-10)) fail_msg("largest difference %g", worst);
    /* rows of a later block alone are the same */
    double *some = malloc((size_t)(n * n) * sizeof *some);
    assert_int_equal(syi_residual_rows(l.e, SY_F64, n, l.d, u, 0.25, 128, 192, t, some), SY_OK);
    for (int64_t q = 128; q < 192; q++)
        for (int64_t j = q + 1; j < n; j++) assert_true(fabs(some[(q - 128) * (n - 128) + j - 128] - p[q * n + j]) < 1e-12);
    free(u);
    free(x);
    free(p);
    free(t);
    free(some);
    end(&l);
}

/* -- a grid of the test's own: multiples of `step`, no range ---------------------------------- */

typedef struct { float step; int64_t m; float *value, *seen; /* [n, m]: what was stored, what came */ } rounding;

static void column(void *self, int64_t col, int64_t row, int64_t n, const float *v, float *value)
{
    rounding *g = self;
    for (int64_t i = 0; i < n; i++) {
        value[i] = g->step > 0 ? g->step * rintf(v[i] / g->step) : v[i];
        g->value[col * g->m + row + i] = value[i];
        g->seen[col * g->m + row + i] = v[i];
    }
}

static rounding solved(const layer *l, float step, int64_t m, const float *w, syi_columns o, const double *dx)
{
    rounding g = {.step = step, .m = m, .value = malloc((size_t)(m * l->n) * sizeof(float)), .seen = malloc((size_t)(m * l->n) * sizeof(float))};
    const syi_column_grid grid = {.self = &g, .group = 0, .column = column};
    double damped;
    assert_int_equal(syi_columns_solve(l->e, &o, &grid, m, l->n, w, l->h, dx, NULL, &damped), SY_OK);
    return g;
}

static void forget(rounding *g)
{
    free(g->value);
    free(g->seen);
}

static int64_t differences(const rounding *a, const float *b, int64_t n)
{
    int64_t far = 0;
    for (int64_t i = 0; i < n; i++) far += fabsf(a->value[i] - b[i]) > 1e-6f * a->step;
    return far;
}

/* Where V' is V (no range to clamp to), the size of lazy blocks means nothing. */
static void blocks_do_not_matter(void **state)
{
    (void)state;
    layer l;
    begin(&l, 256, 600, 41);
    const int64_t m = 24, n = l.n;
    float *w = malloc((size_t)(m * n) * sizeof *w);
    syi_normal(5, 0, m * n, w);
    syi_columns o = {.damp = 0.01, .block = 128, .alpha1 = 0.25, .alpha2 = 0.25};
    rounding a = solved(&l, 0.6f, m, w, o, l.d);
    o.block = 1;
    rounding b = solved(&l, 0.6f, m, w, o, l.d);
    assert_int_equal(differences(&a, b.value, m * n), 0);
    forget(&a);
    forget(&b);
    free(w);
    end(&l);
}

/* The two streams equal, C = H + lambda I, alpha2 = 1: the error of the original weight is what is
 * propagated, w_j -= (w0_q - w^_q) / U_qq U_qj. */
static void error_of_the_original(void **state)
{
    (void)state;
    layer l;
    begin(&l, 256, 600, 51);
    const int64_t m = 48, n = l.n;
    const double lambda = 0.01 * mean_of(&l);
    const float step = 0.6f;
    float *w = malloc((size_t)(m * n) * sizeof *w), *want = malloc((size_t)(m * n) * sizeof *want);
    double *dx = calloc((size_t)(n * n), sizeof *dx), *u = factor(&l, lambda), *now = malloc((size_t)n * sizeof *now);
    for (int64_t i = 0; i < n; i++) dx[i * n + i] = lambda;
    syi_normal(6, 0, m * n, w);
    for (int64_t r = 0; r < m; r++) {
        for (int64_t j = 0; j < n; j++) now[j] = (double)w[r * n + j];
        for (int64_t q = 0; q < n; q++) {
            const double value = (double)step * rint(now[q] / (double)step);
            want[q * m + r] = (float)value;
            for (int64_t j = q + 1; j < n; j++) now[j] -= ((double)w[r * n + q] - value) / u[q * n + q] * u[q * n + j];
        }
    }
    rounding g = solved(&l, step, m, w, (syi_columns){.damp = 0.01, .block = 128, .alpha2 = 1}, dx);
    const int64_t far = differences(&g, want, m * n);
    if (far > m * n / 1000) fail_msg("%d of %d codes differ", (int)far, (int)(m * n)); /* f32 against f64: ties */
    forget(&g);
    free(w);
    free(want);
    free(dx);
    free(u);
    free(now);
    end(&l);
}

/* n = 6, one row, no damping: after each step the weights that are still free are the least-squares
 * minimiser of || (W0 - W) X ||^2 with the others fixed. */
static void steps_are_least_squares(void **state)
{
    (void)state;
    layer l;
    begin(&l, 6, 40, 61);
    const int64_t n = l.n;
    const float w[6] = {0.9f, -1.3f, 0.4f, 2.1f, -0.2f, 0.7f}, step = 0.5f;
    double *u = factor(&l, 0), now[6], b[6], x[6];
    rounding g = solved(&l, step, 1, w, (syi_columns){.damp = 0, .block = 128}, NULL);
    for (int64_t j = 0; j < n; j++) now[j] = (double)w[j];
    for (int64_t q = 0; q < n; q++) {
        const double value = (double)step * rint(now[q] / (double)step), e = (now[q] - value) / u[q * n + q];
        assert_true(fabs((double)g.seen[q] - now[q]) < 1e-5); /* the library's own, in f32 */
        for (int64_t j = q + 1; j < n; j++) now[j] -= e * u[q * n + j];
        now[q] = value;
        /* H[T,T] x = -H[T,S] (now - w0)[S] for the deviation x of T = {q+1 ..} */
        for (int64_t i = q + 1; i < n; i++) {
            b[i - q - 1] = 0;
            for (int64_t j = 0; j <= q; j++) b[i - q - 1] -= l.h[i * n + j] * (now[j] - (double)w[j]);
        }
        if (q + 1 < n) solve_trailing(&l, 0, q + 1, b, x);
        for (int64_t i = q + 1; i < n; i++) assert_true(fabs(now[i] - ((double)w[i] + x[i - q - 1])) < 1e-9);
    }
    free(u);
    forget(&g);
    end(&l);
}

/* || W^ X - W0 X~ ||^2 without its constant of the data: tr(W^ H W^T) - 2 tr(W^ C^T W0^T). */
static double objective(const layer *l, const float *w0, const float *w, int64_t m)
{
    double sum = 0;
    for (int64_t r = 0; r < m; r++)
        for (int64_t i = 0; i < l->n; i++)
            for (int64_t j = 0; j < l->n; j++)
                sum += (double)w[r * l->n + i] * (double)w[r * l->n + j] * l->h[i * l->n + j] -
                       2 * (double)w[r * l->n + j] * (double)w0[r * l->n + i] * (l->h[i * l->n + j] + l->d[i * l->n + j]);
    return sum;
}

static void exact_start(void **state)
{
    (void)state;
    layer l;
    begin(&l, 48, 400, 71);
    const int64_t m = 5, n = l.n;
    float *w = malloc((size_t)(m * n) * sizeof *w), *best = malloc((size_t)(m * n) * sizeof *best), *any = malloc((size_t)(m * n) * sizeof *any);
    double first = 0;
    syi_normal(8, 0, m * n, w);
    rounding g = solved(&l, 0, m, w, (syi_columns){.damp = 0, .block = 128, .exact = true}, l.d); /* nothing is rounded: W* itself */
    for (int64_t r = 0; r < m; r++)
        for (int64_t j = 0; j < n; j++) best[r * n + j] = g.value[j * m + r];
    for (int trial = 0; trial < 4; trial++) {
        double far = 0;
        syi_normal(80 + (uint64_t)trial, 0, m * n, any);
        for (int64_t r = 0; r < m; r++)
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < n; j++)
                    far += ((double)any[r * n + i] - (double)best[r * n + i]) * ((double)any[r * n + j] - (double)best[r * n + j]) * l.h[i * n + j];
        const double constant = objective(&l, w, any, m) - far;
        if (trial == 0) first = constant;
        if (!(fabs(constant - first) < 1e-4 * far)) fail_msg("%g, then %g (the objective is %g)", first, constant, far);
    }
    assert_true(objective(&l, w, best, m) < objective(&l, w, w, m));
    forget(&g);
    free(w);
    free(best);
    free(any);
    end(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(residual_coefficients), cmocka_unit_test(blocks_do_not_matter), cmocka_unit_test(error_of_the_original),
                                       cmocka_unit_test(steps_are_least_squares), cmocka_unit_test(exact_start)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
