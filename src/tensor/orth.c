/* SPDX-License-Identifier: Apache-2.0 */
/* See orth.h. */
#include "tensor/orth.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <omp.h>

/* OpenBLAS would cut its work by the number of threads, and the bits would follow. Inside
 * of a parallel region it has one anyway. */
static int one_thread(void)
{
    const int n = omp_get_max_threads();
    if (!omp_in_parallel()) omp_set_num_threads(1);
    return n;
}

static void threads_back(int n)
{
    if (!omp_in_parallel()) omp_set_num_threads(n);
}

void syi_mul_f64(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const double *a, const double *b, double beta, double *c)
{
    const int threads = one_thread();
    if (m > 0 && n > 0)
        cblas_dgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, alpha, a, (int)(ta ? m : k), b, (int)(tb ? k : n), beta,
                    c, (int)n);
    threads_back(threads);
}

sy_status syi_eigh(sy_context *ctx, int64_t n, double *a, double *w, double *v)
{
    for (int64_t i = 0; i < n * n; i++)
        if (!isfinite(a[i])) return SY_E_NUMERIC;
    const int threads = one_thread();
    /* Row-major symmetric is column-major symmetric; its columns are our rows. */
    const lapack_int info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'U', (lapack_int)n, a, (lapack_int)n, w);
    threads_back(threads);
    (void)ctx;
    if (info == LAPACK_WORK_MEMORY_ERROR) return SY_E_MEMORY;
    if (info != 0) return SY_E_NUMERIC;
    for (int64_t i = 0; i < n; i++) memcpy(v + i * n, a + (n - 1 - i) * n, (size_t)n * sizeof *v);
    for (int64_t i = 0; i < n / 2; i++) {
        const double t = w[i];
        w[i] = w[n - 1 - i];
        w[n - 1 - i] = t;
    }
    return SY_OK;
}

/* LAPACK's thin SVD of a copy: ut[p,m], s[p], vt[p,n], p = min(m,n). */
static sy_status full_svd(sy_context *ctx, int64_t m, int64_t n, const double *a, double *ut, double *s, double *vt)
{
    const int64_t p = syi_min(m, n);
    double *copy = syi_alloc(ctx, (size_t)(m * n + m * p) * sizeof *copy), *u = copy ? copy + m * n : NULL;
    if (!copy) return SY_E_MEMORY;
    memcpy(copy, a, (size_t)(m * n) * sizeof *copy);
    const int threads = one_thread();
    const lapack_int info = LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'S', (lapack_int)n, (lapack_int)m, copy, (lapack_int)n, s, vt, (lapack_int)n, u, (lapack_int)p);
    threads_back(threads);
    /* column-major of a^T = (vt^T) s (u^T): `vt` came out as p rows of n already, u as m rows of p */
    for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k < p; k++) ut[k * m + i] = u[i * p + k];
    syi_free(ctx, copy);
    return info == 0 ? SY_OK : info == LAPACK_WORK_MEMORY_ERROR ? SY_E_MEMORY : SY_E_NUMERIC;
}

sy_status syi_leading(sy_context *ctx, int64_t m, int64_t n, const double *a, int64_t r, double *ut, double *s, double *vt)
{
    const int64_t q = syi_min(m, n);
    if (r == 0) return SY_OK;
    for (int64_t i = 0; i < m * n; i++)
        if (!isfinite(a[i])) return SY_E_NUMERIC;
    double *g = syi_alloc(ctx, (size_t)(2 * q * q + q) * sizeof *g), *v = g ? g + q * q : NULL, *w = g ? v + q * q : NULL;
    if (!g) return SY_E_MEMORY;
    const bool tall = m >= n;
    syi_mul_f64(tall, !tall, q, q, tall ? m : n, 1, a, a, 0, g);
    sy_status st = syi_eigh(ctx, q, g, w, v);
    /* The squares hold half of the digits: below 1e-5 of the largest, LAPACK does better. */
    const bool fine = st == SY_OK && w[0] > 0 && w[r - 1] > 1e-10 * w[0];
    if (fine) {
        double *mine = tall ? vt : ut, *other = tall ? ut : vt;
        const int64_t len = tall ? m : n;
        memcpy(mine, v, (size_t)(r * q) * sizeof *mine);
        syi_mul_f64(false, tall, r, len, q, 1, mine, a, 0, other);
        for (int64_t i = 0; i < r; i++) {
            double norm = 0;
            for (int64_t k = 0; k < len; k++) norm += other[i * len + k] * other[i * len + k];
            s[i] = sqrt(norm);
            for (int64_t k = 0; k < len; k++) other[i * len + k] /= s[i];
        }
    }
    syi_free(ctx, g);
    if (st != SY_OK || fine) return st;
    double *all = syi_alloc(ctx, (size_t)(q * (m + n) + q) * sizeof *all);
    if (!all) return SY_E_MEMORY;
    st = full_svd(ctx, m, n, a, all, all + q * (m + n), all + q * m);
    if (st == SY_OK) {
        memcpy(ut, all, (size_t)(r * m) * sizeof *ut);
        memcpy(vt, all + q * m, (size_t)(r * n) * sizeof *vt);
        memcpy(s, all + q * (m + n), (size_t)r * sizeof *s);
    }
    syi_free(ctx, all);
    return st;
}

/* The smaller side's Gram matrix of x. */
static void gram(int64_t m, int64_t n, const double *x, double *g)
{
    const bool tall = m >= n;
    const int64_t q = tall ? n : m;
    syi_mul_f64(tall, !tall, q, q, tall ? m : n, 1, x, x, 0, g);
}

/* y = (small side's q x q matrix) applied to x */
static void apply(int64_t m, int64_t n, const double *x, const double *by, double *y)
{
    if (m >= n) syi_mul_f64(false, false, m, n, n, 1, x, by, 0, y);
    else syi_mul_f64(false, false, m, n, m, 1, by, x, 0, y);
}

sy_status syi_polar(sy_context *ctx, int64_t m, int64_t n, double *x, double *nuclear)
{
    const int64_t q = syi_min(m, n), count = m * n;
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(x[i])) return SY_E_NUMERIC;
    double *g = syi_alloc(ctx, (size_t)(3 * q * q + q + count) * sizeof *g);
    if (!g) return SY_E_MEMORY;
    double *v = g + q * q, *h = v + q * q, *w = h + q * q, *y = w + q;
    gram(m, n, x, g);
    sy_status st = syi_eigh(ctx, q, g, w, v);
    const bool fine = st == SY_OK && w[0] > 0 && w[q - 1] > 1e-10 * w[0];
    if (fine) {
        for (int64_t i = 0; i < q; i++)
            for (int64_t k = 0; k < q; k++) g[i * q + k] = v[i * q + k] / sqrt(w[i]);
        syi_mul_f64(true, false, q, q, q, 1, v, g, 0, h); /* V Lambda^-1/2 V^T */
        apply(m, n, x, h, y);
        if (nuclear) *nuclear = 0;
        for (int64_t i = 0; nuclear && i < count; i++) *nuclear += x[i] * y[i];
        for (int step = 0; step < 2; step++) { /* Newton and Schulz: the error is squared each time */
            gram(m, n, y, g);
            for (int64_t i = 0; i < q; i++)
                for (int64_t k = 0; k < q; k++) g[i * q + k] = (i == k ? 1.5 : 0) - 0.5 * g[i * q + k];
            apply(m, n, y, g, x);
            memcpy(y, x, (size_t)count * sizeof *y);
        }
    } else if (st == SY_OK) {
        double *ut = syi_alloc(ctx, (size_t)(q * (m + n) + q) * sizeof *ut);
        st = ut ? full_svd(ctx, m, n, x, ut, ut + q * (m + n), ut + q * m) : SY_E_MEMORY;
        if (st == SY_OK) {
            syi_mul_f64(true, false, m, n, q, 1, ut, ut + q * m, 0, x);
            if (nuclear) *nuclear = 0;
            for (int64_t i = 0; nuclear && i < q; i++) *nuclear += ut[q * (m + n) + i];
        }
        syi_free(ctx, ut);
    }
    syi_free(ctx, g);
    return st;
}

/* q[m,k] with orthonormal columns and r[k,k] upper triangular of x[m,k] (row-major). */
static sy_status qr(int64_t m, int64_t k, double *x, double *tau, double *r)
{
    const int threads = one_thread();
    lapack_int info = LAPACKE_dgeqrf(LAPACK_ROW_MAJOR, (lapack_int)m, (lapack_int)k, x, (lapack_int)k, tau);
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < k; j++) r[i * k + j] = j < i ? 0 : x[i * k + j];
    if (info == 0) info = LAPACKE_dorgqr(LAPACK_ROW_MAJOR, (lapack_int)m, (lapack_int)k, (lapack_int)k, x, (lapack_int)k, tau);
    threads_back(threads);
    return info == 0 ? SY_OK : info == LAPACK_WORK_MEMORY_ERROR || info == LAPACK_TRANSPOSE_MEMORY_ERROR ? SY_E_MEMORY : SY_E_NUMERIC;
}

sy_status syi_factored_svd(sy_context *ctx, int64_t m, int64_t n, int64_t k, const double *b, const double *a, double *ut, double *s, double *vt)
{
    if (k == 0) return SY_OK;
    double *q = syi_alloc(ctx, (size_t)(m * k + n * k + 5 * k * k + k) * sizeof *q);
    if (!q) return SY_E_MEMORY;
    double *p = q + m * k, *rb = p + n * k, *ra = rb + k * k, *core = ra + k * k, *cu = core + k * k, *cv = cu + k * k, *tau = cv + k * k;
    memcpy(q, b, (size_t)(m * k) * sizeof *q);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < k; j++) p[i * k + j] = a[j * n + i];
    sy_status st = SY_OK;
    for (int64_t i = 0; i < m * k + n * k; i++)
        if (!isfinite(q[i])) st = SY_E_NUMERIC;
    if (st == SY_OK) st = qr(m, k, q, tau, rb);
    if (st == SY_OK) st = qr(n, k, p, tau, ra);
    if (st == SY_OK) {
        syi_mul_f64(false, true, k, k, k, 1, rb, ra, 0, core);
        st = full_svd(ctx, k, k, core, cu, s, cv);
    }
    if (st == SY_OK) {
        syi_mul_f64(false, true, k, m, k, 1, cu, q, 0, ut);
        syi_mul_f64(false, true, k, n, k, 1, cv, p, 0, vt);
    }
    syi_free(ctx, q);
    return st;
}
