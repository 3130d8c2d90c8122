/* SPDX-License-Identifier: Apache-2.0 */
/* Factors of the damped second moments H + lambda I, for the column solver. Rows and columns
 * reversed, a Cholesky factorisation from the other end: H = V V^T with V upper; U = V^-1.
 *
 * The factorisation looks back, panel by panel: a tile of rows takes one product with all
 * finished panels. Tiles follow the shape only and each is one thread's, so the bits do
 * not depend on the number of threads; in f64, since f32 loses too much of H's small
 * eigenvalues. */
#include "compressor/solve.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <omp.h>

enum { PANEL = 128, TILE = 256 };

/* BLAS and LAPACK on one thread here: their own cuts would follow the number of threads. */
static int alone_begin(void)
{
    const int threads = omp_get_max_threads();
    if (!omp_in_parallel()) omp_set_num_threads(1);
    return threads;
}

static void alone_end(int threads)
{
    if (!omp_in_parallel()) omp_set_num_threads(threads);
}

/* Rows [i, i+rows) of the panel [k, k+cols): minus what the panels before give, then divided
 * by the panel's own triangle. */
static void panel_tile(int64_t n, double *a, int64_t k, int64_t cols, int64_t i, int64_t rows, bool divide)
{
    if (!divide && k > 0)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)cols, (blasint)k, -1, a + i * n, (blasint)n, a + k * n, (blasint)n, 1, a + i * n + k, (blasint)n);
    if (divide)
        cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (blasint)rows, (blasint)cols, 1, a + k * n + k, (blasint)n, a + i * n + k, (blasint)n);
}

/* a[n,n], lower triangle row by row: A = L L^T in place. false: not positive definite. */
static bool cholesky(sy_context *ctx, int64_t n, double *a)
{
    const int threads = syi_omp(ctx), before = alone_begin();
    bool ok = true;
    for (int64_t k = 0; k < n && ok; k += PANEL) {
        const int64_t cols = syi_min(PANEL, n - k), tiles = syi_ceil_div(n - k, TILE), rest = n - k - cols;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (tiles > 1)
        for (int64_t t = 0; t < tiles; t++) panel_tile(n, a, k, cols, k + t * TILE, syi_min(TILE, n - k - t * TILE), false);
        ok = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', (lapack_int)cols, a + k * n + k, (lapack_int)n) == 0; /* our rows are its columns */
        if (!ok) break;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (rest > TILE)
        for (int64_t t = 0; t < syi_ceil_div(rest, TILE); t++) panel_tile(n, a, k, cols, k + cols + t * TILE, syi_min(TILE, rest - t * TILE), true);
    }
    alone_end(before);
    return ok && isfinite(a[n * n - 1]);
}

/* L of the reversed H + lambda I, lambda raised until it exists. */
static sy_status factorise(sy_context *ctx, int64_t n, const double *xx, double damp, const int32_t *order, double *a, double *damped)
{
    double mean = 0;
    for (int64_t i = 0; i < n; i++) mean += xx[i * n + i] > 0 ? xx[i * n + i] / (double)n : 1.0 / (double)n;
    for (int tries = 0; tries < 6; tries++, damp = damp > 0 ? damp * 10 : 1e-6) {
#pragma omp parallel for num_threads(syi_omp(ctx)) schedule(static)
        for (int64_t i = 0; i < n; i++) {
            const int64_t p = order ? order[n - 1 - i] : n - 1 - i;
            for (int64_t j = 0; j <= i; j++) a[i * n + j] = xx[p * n + (order ? order[n - 1 - j] : n - 1 - j)];
            a[i * n + i] = (xx[p * n + p] == 0 ? 1 : xx[p * n + p]) + damp * mean;
        }
        *damped = damp;
        if (cholesky(ctx, n, a)) return SY_OK;
    }
    return syi_fail(ctx, SY_E_NUMERIC, "the inputs' second moments cannot be factorised even with a damping of %g of their mean; more calibration text may help", *damped);
}

/* to = J A J of a lower triangle, zero below the diagonal. */
static void reverse(sy_context *ctx, int64_t n, const double *a, float *to)
{
#pragma omp parallel for num_threads(syi_omp(ctx)) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const double *row = a + (n - 1 - i) * n + n - 1;
        for (int64_t j = 0; j < i; j++) to[i * n + j] = 0;
        for (int64_t j = i; j < n; j++) to[i * n + j] = (float)row[-j];
    }
}

sy_status syi_upper_factor(sy_context *ctx, int64_t n, const double *xx, double damp, const int32_t *order, float *v, double *damped)
{
    double *a = syi_pages(ctx, (size_t)(n * n) * sizeof *a);
    if (!a) return SY_E_MEMORY;
    const sy_status st = factorise(ctx, n, xx, damp, order, a, damped);
    if (st == SY_OK) reverse(ctx, n, a, v);
    syi_pages_free(ctx, a);
    return st;
}

sy_status syi_inverse_factor(sy_context *ctx, int64_t n, const double *xx, double damp, const int32_t *order, float *u, double *damped)
{
    double *a = syi_pages(ctx, (size_t)(n * n) * sizeof *a);
    if (!a) return SY_E_MEMORY;
    sy_status st = factorise(ctx, n, xx, damp, order, a, damped);
    if (st == SY_OK) {
        const int before = alone_begin();
        const lapack_int info = LAPACKE_dtrtri_work(LAPACK_COL_MAJOR, 'U', 'N', (lapack_int)n, a, (lapack_int)n);
        alone_end(before);
        if (info != 0 || !isfinite(a[n * n - 1])) st = syi_fail(ctx, SY_E_NUMERIC, "the factor of the inputs' second moments cannot be inverted; raise the damping");
    }
    if (st == SY_OK) reverse(ctx, n, a, u);
    syi_pages_free(ctx, a);
    return st;
}

sy_status syi_upper_inverse(sy_context *ctx, int64_t n, const float *v, int64_t ldv, float *u, int64_t ldu)
{
    double *a = syi_alloc(ctx, (size_t)(n * n) * sizeof *a);
    if (!a) return SY_E_MEMORY;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) a[i * n + j] = j >= i ? (double)v[i * ldv + j] : 0;
    const int before = alone_begin();
    const lapack_int info = LAPACKE_dtrtri_work(LAPACK_COL_MAJOR, 'L', 'N', (lapack_int)n, a, (lapack_int)n); /* our rows are its columns */
    alone_end(before);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) u[i * ldu + j] = j >= i ? (float)a[i * n + j] : 0;
    syi_free(ctx, a);
    return info == 0 ? SY_OK : syi_fail(ctx, SY_E_NUMERIC, "the factor of the inputs' second moments cannot be inverted; raise the damping");
}
