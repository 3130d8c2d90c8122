/* SPDX-License-Identifier: Apache-2.0 */
/* All singular values of a matrix that need not be in memory at once: the square roots of
 * the eigenvalues of X^T X, gathered over its rows, in f64. What f64 keeps of a square is
 * half of its digits: values below 1e-8 of the largest are rounding. The work is cut into
 * tiles by size, each done by one thread in one order. */
#include "tensor/kernels.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <omp.h>

enum { TILE = 256, DEPTH = 512 };

/* g[i0.., j0..] += part of x, for one tile of the lower triangle. */
static void tile(bool wide, int64_t n, int64_t depth, const double *x, int64_t ld, int64_t i0, int64_t j0, double *g)
{
    const int ni = (int)syi_min(TILE, n - i0), nj = (int)syi_min(TILE, n - j0);
    if (wide)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, ni, nj, (int)depth, 1, x + i0 * ld, (int)ld, x + j0 * ld, (int)ld, 1, g + i0 * n + j0, (int)n);
    else
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, ni, nj, (int)depth, 1, x + i0, (int)ld, x + j0, (int)ld, 1, g + i0 * n + j0, (int)n);
}

sy_status syi_gram_add(sy_context *ctx, bool wide, int64_t rows, int64_t cols, const float *x, double *g)
{
    const int64_t n = wide ? rows : cols, all = wide ? cols : rows, step = syi_min(DEPTH, all), tiles = syi_ceil_div(n, TILE);
    if (n == 0 || all == 0) return SY_OK;
    double *d = syi_alloc(ctx, (size_t)(n * step) * sizeof *d);
    if (d == NULL) return SY_E_MEMORY;
    const int threads = syi_omp(ctx);
    for (int64_t at = 0; at < all; at += step) {
        const int64_t depth = syi_min(step, all - at);
        /* wide: d[n, depth], columns at..; else d[depth, n], rows at.. */
        if (wide) {
#pragma omp parallel for num_threads(threads) if (n * depth > 1 << 16)
            for (int64_t i = 0; i < n; i++)
                for (int64_t k = 0; k < depth; k++) d[i * depth + k] = (double)x[i * cols + at + k];
        } else {
#pragma omp parallel for num_threads(threads) if (n * depth > 1 << 16)
            for (int64_t k = 0; k < depth; k++)
                for (int64_t j = 0; j < n; j++) d[k * n + j] = (double)x[(at + k) * cols + j];
        }
        /* inside of a parallel region OpenBLAS works on one thread */
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads > 1 ? threads : 2)
        for (int64_t t = 0; t < tiles * tiles; t++) {
            const int64_t i = t / tiles, j = t % tiles;
            if (j <= i) tile(wide, n, depth, d, wide ? depth : n, i * TILE, j * TILE, g);
        }
    }
    syi_free(ctx, d);
    return SY_OK;
}

sy_status syi_gram_values(sy_context *ctx, int64_t n, double *g, double *s)
{
    if (n > INT32_MAX / 4) return syi_fail(ctx, SY_E_UNSUPPORTED, "singular values of %lld columns are beyond LAPACK's integers", (long long)n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++)
            if (!isfinite(g[i * n + j])) return syi_fail(ctx, SY_E_NUMERIC, "the matrix holds NaN or infinity");
    if (n == 0) return SY_OK;
    const int threads = omp_get_max_threads();
    if (!omp_in_parallel()) omp_set_num_threads(1);
    /* our lower triangle, row by row, is LAPACK's upper one, column by column */
    const lapack_int info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'N', 'U', (lapack_int)n, g, (lapack_int)n, s);
    if (!omp_in_parallel()) omp_set_num_threads(threads);
    if (info == LAPACK_WORK_MEMORY_ERROR) return syi_nomem(ctx, (size_t)n * sizeof *s);
    if (info != 0) return syi_fail(ctx, SY_E_NUMERIC, "the eigenvalues of %lld x %lld did not converge", (long long)n, (long long)n);
    for (int64_t i = 0; i < n; i++) s[i] = s[i] > 0 ? sqrt(s[i]) : 0;
    for (int64_t i = 0; i < n / 2; i++) { /* the largest first */
        const double t = s[i];
        s[i] = s[n - 1 - i];
        s[n - 1 - i] = t;
    }
    return SY_OK;
}
