/* SPDX-License-Identifier: Apache-2.0 */
/* Singular value decompositions through LAPACK, in f64 inside.
 *
 * LAPACK's columns are our rows: a row-major A[m,n] is A^T to it, so U and V change
 * places and nothing is ever transposed. It runs on one thread: OpenBLAS cuts its work
 * by the number of threads and the bits would follow. (Who has many matrices runs
 * them side by side; large ones take the randomised way, whose products are ours.) */
#include "tensor/kernels.h"

#include <lapacke.h>
#include <math.h>
#include <omp.h>

static sy_status check_size(sy_context *ctx, int64_t m, int64_t n)
{
    if (m < 0 || n < 0 || m > INT32_MAX / 4 || n > INT32_MAX / 4)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "a decomposition of %lld x %lld is beyond LAPACK's integers", (long long)m, (long long)n);
    return SY_OK;
}

static sy_status lapack_status(sy_context *ctx, const char *what, lapack_int info, int64_t m, int64_t n)
{
    if (info == 0) return SY_OK;
    if (info == LAPACK_WORK_MEMORY_ERROR || info == LAPACK_TRANSPOSE_MEMORY_ERROR) return syi_nomem(ctx, (size_t)(m * n) * sizeof(double));
    if (info < 0) return syi_fail(ctx, SY_E_NUMERIC, "%s of %lld x %lld: the matrix holds NaN or infinity", what, (long long)m, (long long)n);
    return syi_fail(ctx, SY_E_NUMERIC, "%s of %lld x %lld did not converge", what, (long long)m, (long long)n);
}

/* Thin SVD of row-major a[m,n] (destroyed) into u[m,p], s[p], vt[p,n]. */
static sy_status svd_f64(sy_context *ctx, int64_t m, int64_t n, double *a, double *u, double *s, double *vt)
{
    int64_t p = syi_min(m, n);
    for (int64_t i = 0; i < m * n; i++)
        if (!isfinite(a[i])) return lapack_status(ctx, "SVD", -4, m, n);
    int threads = omp_get_max_threads();
    if (!omp_in_parallel()) omp_set_num_threads(1);
    lapack_int info = LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'S', (lapack_int)n, (lapack_int)m, a, (lapack_int)n, s, vt, (lapack_int)n, u, (lapack_int)p);
    if (!omp_in_parallel()) omp_set_num_threads(threads);
    return lapack_status(ctx, "SVD", info, m, n);
}

sy_status syi_svd(sy_context *ctx, int64_t m, int64_t n, const float *a, float *u, float *s, float *vt)
{
    int64_t p = syi_min(m, n);
    if (p <= 0) return SY_OK;
    SYI_TRY(check_size(ctx, m, n));
    double *work = syi_calloc(ctx, (size_t)(m * n + m * p + p + p * n), sizeof *work);
    if (work == NULL) return SY_E_MEMORY;
    double *wu = work + m * n, *ws = wu + m * p, *wv = ws + p;
    for (int64_t i = 0; i < m * n; i++) work[i] = (double)a[i];
    sy_status status = svd_f64(ctx, m, n, work, wu, ws, wv);
    if (status == SY_OK) {
        for (int64_t i = 0; i < m * p; i++) u[i] = (float)wu[i];
        for (int64_t i = 0; i < p; i++) s[i] = (float)ws[i];
        for (int64_t i = 0; i < p * n; i++) vt[i] = (float)wv[i];
    }
    syi_free(ctx, work);
    return status;
}

/* Orthonormal columns for y[rows, l] (rows >= l) in place, by way of f64 `work`
 * [rows*l + l]: to LAPACK y is l x rows, so this is an LQ factorisation. */
static sy_status orthonormal(sy_context *ctx, int64_t rows, int64_t l, float *y, double *work)
{
    double *tau = work + rows * l;
    for (int64_t i = 0; i < rows * l; i++) {
        if (!isfinite(y[i])) return lapack_status(ctx, "QR", -4, rows, l);
        work[i] = (double)y[i];
    }
    int threads = omp_get_max_threads();
    if (!omp_in_parallel()) omp_set_num_threads(1);
    lapack_int info = LAPACKE_dgelqf(LAPACK_COL_MAJOR, (lapack_int)l, (lapack_int)rows, work, (lapack_int)l, tau);
    if (info == 0) info = LAPACKE_dorglq(LAPACK_COL_MAJOR, (lapack_int)l, (lapack_int)rows, (lapack_int)l, work, (lapack_int)l, tau);
    if (!omp_in_parallel()) omp_set_num_threads(threads);
    for (int64_t i = 0; info == 0 && i < rows * l; i++) y[i] = (float)work[i];
    return lapack_status(ctx, "QR", info, rows, l);
}

enum { OVERSAMPLE = 10 }; /* Halko, Martinsson, Tropp 2011 propose 5 to 10 */

sy_status syi_rsvd(syi_engine *e, int64_t m, int64_t n, const float *a, int64_t r, int niter, uint64_t key, float *u, float *s, float *vt)
{
    sy_context *ctx = syi_engine_context(e);
    int64_t p = syi_min(m, n), l = syi_min(r + OVERSAMPLE, p), long_side = syi_max(m, n);
    if (r < 0 || r > p) return syi_fail(ctx, SY_E_BUG, "randomised SVD of rank %lld from %lld x %lld", (long long)r, (long long)m, (long long)n);
    if (r == 0) return SY_OK;
    SYI_TRY(check_size(ctx, m, n));
    float *y = syi_calloc(ctx, (size_t)(m * l + 2 * n * l + l * l), sizeof *y);
    double *work = syi_calloc(ctx, (size_t)(syi_max(long_side * l, n * l) + l + l * l + l + l * n + n * l), sizeof *work);
    sy_status status = y != NULL && work != NULL ? SY_OK : SY_E_MEMORY;
    if (status == SY_OK) {
        float *z = y + m * l, *b = z + n * l, *ub = b + l * n; /* y[m,l], z[n,l], b[l,n], ub[l,l] */
        const syi_mat ma = {SY_F32, a, n, false}, mat_t = {SY_F32, a, n, true};
        syi_normal(key, 0, n * l, z);
        SYI_TRY_TO(done, status, syi_gemm(e, m, l, n, 1, ma, (syi_mat){SY_F32, z, l, false}, 0, SY_F32, y, l));
        SYI_TRY_TO(done, status, orthonormal(ctx, m, l, y, work));
        for (int i = 0; i < niter; i++) {
            SYI_TRY_TO(done, status, syi_gemm(e, n, l, m, 1, mat_t, (syi_mat){SY_F32, y, l, false}, 0, SY_F32, z, l));
            SYI_TRY_TO(done, status, orthonormal(ctx, n, l, z, work));
            SYI_TRY_TO(done, status, syi_gemm(e, m, l, n, 1, ma, (syi_mat){SY_F32, z, l, false}, 0, SY_F32, y, l));
            SYI_TRY_TO(done, status, orthonormal(ctx, m, l, y, work));
        }
        /* A ~ Q (Q^T A): a small SVD gives the rest. */
        SYI_TRY_TO(done, status, syi_gemm(e, l, n, m, 1, (syi_mat){SY_F32, y, l, true}, ma, 0, SY_F32, b, n));
        double *wb = work, *wu = wb + l * n, *ws = wu + l * l, *wv = ws + l;
        for (int64_t i = 0; i < l * n; i++) wb[i] = (double)b[i];
        SYI_TRY_TO(done, status, svd_f64(ctx, l, n, wb, wu, ws, wv));
        for (int64_t i = 0; i < l * l; i++) ub[i] = (float)wu[i];
        for (int64_t i = 0; i < r; i++) s[i] = (float)ws[i];
        for (int64_t i = 0; i < r * n; i++) vt[i] = (float)wv[i];
        SYI_TRY_TO(done, status, syi_gemm(e, m, r, l, 1, (syi_mat){SY_F32, y, l, false}, (syi_mat){SY_F32, ub, l, false}, 0, SY_F32, u, r));
    }
done:
    syi_free(ctx, y);
    syi_free(ctx, work);
    return status;
}
