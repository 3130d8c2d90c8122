/* SPDX-License-Identifier: Apache-2.0 */
/* One layer as dictionary times sparse coefficients, in closed form (ROCKET, steps 2 to 6):
 * whitening by the inputs' second moments, the basis of the whitened weight, which
 * coefficients stay, and the dictionary that is best for those. Sums that several
 * configurations share are made once; errors come from Gram matrices. */
#include "compressor/rocket.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <omp.h>

typedef struct { int before; } alone;

/* LAPACK and BLAS on one thread: their cuts would follow the number of threads. */
static alone begin_alone(void)
{
    const alone a = {omp_get_max_threads()};
    if (!omp_in_parallel()) omp_set_num_threads(1);
    return a;
}

static void end_alone(alone a)
{
    if (!omp_in_parallel()) omp_set_num_threads(a.before);
}

static double *square(sy_context *ctx, int64_t rows, int64_t cols) { return syi_pages(ctx, (size_t)syi_max(1, rows * cols) * sizeof(double)); }

/* C[m,n] = op(A) op(B): in f64, or in f32 on all threads when that is enough. */
static sy_status product(syi_engine *e, bool precise, int64_t m, int64_t n, int64_t k, const double *a, bool ta, const double *b, bool tb, double *c)
{
    const int64_t lda = ta ? m : k, ldb = tb ? k : n;
    if (precise) {
        const alone one = begin_alone();
        cblas_dgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, 1, a, (blasint)lda, b, (blasint)ldb, 0, c, (blasint)n);
        end_alone(one);
        return SY_OK;
    }
    sy_context *ctx = syi_engine_context(e);
    float *f = syi_pages(ctx, (size_t)(m * k + k * n + m * n) * sizeof *f);
    if (!f) return SY_E_MEMORY;
    float *fb = f + m * k, *fc = fb + k * n;
    for (int64_t i = 0; i < m * k; i++) f[i] = (float)a[i];
    for (int64_t i = 0; i < k * n; i++) fb[i] = (float)b[i];
    const sy_status st = syi_gemm(e, m, n, k, 1, (syi_mat){SY_F32, f, lda, ta}, (syi_mat){SY_F32, fb, ldb, tb}, 0, SY_F32, fc, n);
    for (int64_t i = 0; i < m * n; i++) c[i] = (double)fc[i];
    syi_pages_free(ctx, f);
    return st;
}

static double dot(const double *a, const double *b, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

/* -- the basis -------------------------------------------------------------------------------- */

static sy_status whiten(sy_context *ctx, syi_rocket_basis *x, const double *g)
{
    const int64_t n = x->d1;
    double mean = 0, ridge = 0;
    for (int64_t i = 0; i < n; i++) mean += g[i * n + i] / (double)n;
    if (mean <= 0) mean = 1; /* never active: plain weights count */
    for (int tries = 0; tries < 8; tries++) {
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) x->l[i * n + j] = 0.5 * (g[i * n + j] + g[j * n + i]) + (i == j ? ridge : 0);
        const alone one = begin_alone();
        const lapack_int info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'L', (lapack_int)n, x->l, (lapack_int)n); /* to us: upper */
        end_alone(one);
        double least = INFINITY;
        for (int64_t i = 0; info == 0 && i < n; i++) least = fmin(least, x->l[i * n + i]);
        if (info == 0 && least * least > 1e-9 * mean) break;
        ridge = ridge > 0 ? ridge * 10 : 1e-6 * mean;
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++) x->l[i * n + j] = 0;
    return isfinite(x->l[0]) ? SY_OK : syi_fail(ctx, SY_E_NUMERIC, "rocket: the inputs' second moments cannot be factorised");
}

/* Eigenvectors of the smaller of WL WL^T and WL^T WL give B and C = B^T WL. */
static sy_status basis(sy_context *ctx, syi_rocket_basis *x)
{
    const int64_t d1 = x->d1, d2 = x->d2, n = x->r;
    const bool left = d1 <= d2;
    double *s = square(ctx, n, n), *value = square(ctx, n, 1);
    sy_status st = s && value ? SY_OK : SY_E_MEMORY;
    const alone one = begin_alone();
    if (st == SY_OK) {
        if (left) cblas_dsyrk(CblasRowMajor, CblasUpper, CblasNoTrans, (blasint)d1, (blasint)d2, 1, x->wl, (blasint)d2, 0, s, (blasint)n);
        else cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, (blasint)d2, (blasint)d1, 1, x->wl, (blasint)d2, 0, s, (blasint)n);
        if (LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'U', (lapack_int)n, s, (lapack_int)n, value) != 0)
            st = syi_fail(ctx, SY_E_NUMERIC, "rocket: the eigenvalues of the whitened weight did not converge");
    }
    double *vt = st == SY_OK ? square(ctx, n, n) : NULL; /* rows: eigenvectors, falling */
    if (st == SY_OK && !vt) st = SY_E_MEMORY;
    for (int64_t i = 0; st == SY_OK && i < n; i++)
        for (int64_t j = 0; j < n; j++) vt[i * n + j] = s[j * n + (n - 1 - i)];
    if (st == SY_OK && left) {
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) x->b[j * n + i] = vt[i * n + j];
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)n, (blasint)d2, (blasint)d1, 1, vt, (blasint)d1, x->wl, (blasint)d2, 0, x->c, (blasint)d2);
    } else if (st == SY_OK) {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)d1, (blasint)n, (blasint)d2, 1, x->wl, (blasint)d2, vt, (blasint)d2, 0, x->b, (blasint)n);
        for (int64_t i = 0; i < n; i++) {
            double size = 0;
            for (int64_t j = 0; j < d1; j++) size += x->b[j * n + i] * x->b[j * n + i];
            size = sqrt(size);
            for (int64_t j = 0; j < d1; j++) x->b[j * n + i] = size > 0 ? x->b[j * n + i] / size : 0;
            for (int64_t j = 0; j < d2; j++) x->c[i * d2 + j] = size * vt[i * n + j];
        }
    }
    end_alone(one);
    syi_pages_free(ctx, s);
    syi_pages_free(ctx, value);
    syi_pages_free(ctx, vt);
    return st;
}

sy_status syi_rocket_begin(sy_context *ctx, int64_t d1, int64_t d2, const double *g, const float *weight, syi_rocket_basis *x)
{
    *x = (syi_rocket_basis){.d1 = d1, .d2 = d2, .r = syi_min(d1, d2)};
    const int64_t r = x->r;
    bool ok = (x->l = square(ctx, d1, d1)) && (x->w = square(ctx, d1, d2)) && (x->wl = square(ctx, d1, d2)) && (x->b = square(ctx, d1, r)) && (x->c = square(ctx, r, d2)) &&
              (x->nu = square(ctx, r, 1));
    sy_status st = ok ? whiten(ctx, x, g) : SY_E_MEMORY;
    double *t = NULL;
    if (st == SY_OK) {
        for (int64_t j = 0; j < d2; j++)
            for (int64_t i = 0; i < d1; i++) x->w[i * d2 + j] = (double)weight[j * d1 + i];
        memcpy(x->wl, x->w, (size_t)(d1 * d2) * sizeof *x->wl);
        const alone one = begin_alone();
        cblas_dtrmm(CblasRowMajor, CblasLeft, CblasUpper, CblasNoTrans, CblasNonUnit, (blasint)d1, (blasint)d2, 1, x->l, (blasint)d1, x->wl, (blasint)d2);
        end_alone(one);
        x->weight = dot(x->w, x->w, d1 * d2);
        x->output = dot(x->wl, x->wl, d1 * d2);
        st = basis(ctx, x);
    }
    if (st == SY_OK && !(t = square(ctx, d1, r))) st = SY_E_MEMORY;
    if (st == SY_OK) {
        memcpy(t, x->b, (size_t)(d1 * r) * sizeof *t);
        const alone one = begin_alone();
        cblas_dtrsm(CblasRowMajor, CblasLeft, CblasUpper, CblasNoTrans, CblasNonUnit, (blasint)d1, (blasint)r, 1, x->l, (blasint)d1, t, (blasint)r);
        end_alone(one);
        for (int64_t i = 0; i < r; i++) {
            double s = 0;
            for (int64_t j = 0; j < d1; j++) s += t[j * r + i] * t[j * r + i];
            x->nu[i] = sqrt(s);
        }
    }
    syi_pages_free(ctx, t);
    if (st != SY_OK) syi_rocket_end(ctx, x);
    return st;
}

void syi_rocket_end(sy_context *ctx, syi_rocket_basis *x)
{
    double *all[] = {x->l, x->w, x->wl, x->b, x->c, x->nu};
    for (int i = 0; i < SYI_COUNT(all); i++) syi_pages_free(ctx, all[i]);
    *x = (syi_rocket_basis){0};
}

bool syi_rocket_sizes(int64_t d1, int64_t d2, double cr, double ks, int64_t *k, int64_t *s)
{
    *k = (int64_t)floor((1 - cr) * (double)d1 * (double)d2 / ((double)d1 + (double)d2 / ks) + 1e-9);
    *s = (int64_t)floor((double)*k / ks + 1e-9);
    return *k >= 1 && *s >= 1 && *k <= syi_min(d1, d2);
}

/* -- which coefficients stay ---------------------------------------------------------------------- */

typedef struct { float score; int32_t index; } scored;

static bool before(scored a, scored b) { return a.score != b.score ? a.score > b.score : a.index < b.index; }

/* The `keep` first in order come to the front. */
static void select_first(scored *x, int64_t n, int64_t keep)
{
    int64_t lo = 0, hi = n - 1;
    while (lo < hi && keep > 0 && keep < n) {
        const scored pivot = x[lo + (hi - lo) / 2];
        int64_t i = lo, j = hi;
        while (i <= j) {
            while (before(x[i], pivot)) i++;
            while (before(pivot, x[j])) j--;
            if (i > j) break;
            const scored t = x[i];
            x[i++] = x[j];
            x[j--] = t;
        }
        if (keep - 1 <= j) hi = j;
        else if (keep - 1 >= i) lo = i;
        else break;
    }
}

/* cs[k, d2] = C with s d2 entries left: over-pruned column by column, the rest re-activated
 * globally, largest first. */
static sy_status thin(sy_context *ctx, const syi_rocket_basis *x, const syi_rocket_how *how, int64_t k, int64_t s, double *cs)
{
    const int64_t d2 = x->d2, each = syi_max(1, (int64_t)floor((double)k * ((double)s / (double)k - how->beta)));
    scored *column = syi_alloc(ctx, (size_t)k * sizeof *column), *rest = syi_pages(ctx, (size_t)(k * d2) * sizeof *rest);
    double *weight = syi_alloc(ctx, (size_t)k * sizeof *weight);
    if (!column || !rest || !weight) {
        syi_free(ctx, column);
        syi_pages_free(ctx, rest);
        syi_free(ctx, weight);
        return SY_E_MEMORY;
    }
    for (int64_t i = 0; i < k; i++) weight[i] = pow(x->nu[i], how->lambda);
    memset(cs, 0, (size_t)(k * d2) * sizeof *cs);
    int64_t n = 0, kept = 0;
    for (int64_t j = 0; j < d2; j++) {
        for (int64_t i = 0; i < k; i++) column[i] = (scored){(float)(fabs(x->c[i * d2 + j]) * weight[i]), (int32_t)i};
        select_first(column, k, syi_min(each, k));
        for (int64_t i = 0; i < k; i++) {
            if (i < each) {
                cs[column[i].index * d2 + j] = x->c[column[i].index * d2 + j];
                kept++;
            } else {
                rest[n++] = (scored){column[i].score, (int32_t)(column[i].index * d2 + j)};
            }
        }
    }
    const int64_t more = syi_min(n, s * d2 - kept);
    if (more > 0) select_first(rest, n, more);
    for (int64_t i = 0; i < more; i++) cs[rest[i].index] = x->c[rest[i].index];
    syi_free(ctx, column);
    syi_pages_free(ctx, rest);
    syi_free(ctx, weight);
    return SY_OK;
}

/* -- the dictionary ------------------------------------------------------------------------------------ */

typedef struct { double *cs, *gram, *factor, *p, *u, *d, *uu; } work;

/* d[d1, k] = P (Gram + mu I)^-1 for P = WL Cs^T. */
static sy_status dictionary(syi_engine *e, const syi_rocket_basis *x, const syi_rocket_how *how, int64_t k, work *t)
{
    const int64_t d1 = x->d1, d2 = x->d2;
    double trace = 0;
    SYI_TRY(product(e, how->precise, k, k, d2, t->cs, false, t->cs, true, t->gram));
    SYI_TRY(product(e, how->precise, d1, k, d2, x->wl, false, t->cs, true, t->p));
    for (int64_t i = 0; i < k; i++) trace += t->gram[i * k + i];
    const double mu = fmax(1e-6, how->mu * trace / (double)k);
    memcpy(t->factor, t->gram, (size_t)(k * k) * sizeof *t->gram);
    for (int64_t i = 0; i < k; i++) t->factor[i * k + i] += mu;
    memcpy(t->d, t->p, (size_t)(d1 * k) * sizeof *t->d);
    const alone one = begin_alone();
    lapack_int info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', (lapack_int)k, t->factor, (lapack_int)k);
    /* rows of d are columns to LAPACK */
    if (info == 0) info = LAPACKE_dpotrs_work(LAPACK_COL_MAJOR, 'U', (lapack_int)k, (lapack_int)d1, t->factor, (lapack_int)k, t->d, (lapack_int)k);
    end_alone(one);
    return info == 0 ? SY_OK : syi_fail(syi_engine_context(e), SY_E_NUMERIC, "rocket: the coefficients' Gram matrix cannot be factorised; raise mu");
}

/* Adam on the dictionary and the entries that are left, mask fixed; the better of both stays. */
static sy_status refine(syi_engine *e, const syi_rocket_basis *x, const syi_rocket_how *how, int64_t k, work *t)
{
    sy_context *ctx = syi_engine_context(e);
    const int64_t d1 = x->d1, d2 = x->d2, nd = d1 * k, nc = k * d2;
    double *memory = square(ctx, 4 * (nd + nc) + d1 * d2, 1);
    if (!memory) return SY_E_MEMORY;
    double *d = memory, *c = d + nd, *m = c + nc, *v = m + nd + nc, *g = v + nd + nc, *res = g + nd + nc, first = -1, last = 0;
    memcpy(d, t->d, (size_t)nd * sizeof *d);
    memcpy(c, t->cs, (size_t)nc * sizeof *c);
    sy_status st = SY_OK;
    for (int step = 0; step <= how->refine && st == SY_OK; step++) {
        st = product(e, how->precise, d1, d2, k, d, false, c, false, res);
        for (int64_t i = 0; i < d1 * d2; i++) res[i] -= x->wl[i];
        last = dot(res, res, d1 * d2);
        if (first < 0) first = last;
        if (step == how->refine || st != SY_OK) break;
        st = product(e, how->precise, d1, k, d2, res, false, c, true, g);
        if (st == SY_OK) st = product(e, how->precise, k, d2, d1, d, true, res, false, g + nd);
        const double correct1 = 1 - pow(0.9, step + 1), correct2 = 1 - pow(0.999, step + 1);
        for (int64_t i = 0; i < nd + nc && st == SY_OK; i++) {
            const double gi = i >= nd && t->cs[i - nd] == 0 ? 0 : 2 * g[i] / x->output;
            m[i] = 0.9 * m[i] + 0.1 * gi;
            v[i] = 0.999 * v[i] + 0.001 * gi * gi;
            const double by = 1e-3 * (m[i] / correct1) / (sqrt(v[i] / correct2) + 1e-8);
            if (i < nd) d[i] -= by;
            else c[i - nd] -= by;
        }
    }
    if (st == SY_OK && last < first) {
        memcpy(t->d, d, (size_t)nd * sizeof *d);
        memcpy(t->cs, c, (size_t)nc * sizeof *c);
        st = product(e, how->precise, k, k, d2, t->cs, false, t->cs, true, t->gram);
        if (st == SY_OK) st = product(e, how->precise, d1, k, d2, x->wl, false, t->cs, true, t->p);
    }
    syi_pages_free(ctx, memory);
    return st;
}

static sy_status factor(syi_engine *e, const syi_rocket_basis *x, const syi_rocket_how *how, int64_t k, int64_t s, work *t, double *weight_error, double *output_error)
{
    const int64_t d1 = x->d1, d2 = x->d2;
    SYI_TRY(thin(syi_engine_context(e), x, how, k, s, t->cs));
    SYI_TRY(dictionary(e, x, how, k, t));
    if (s == k) /* nothing was pruned: the basis itself is best, without a ridge */
        for (int64_t i = 0; i < d1; i++)
            for (int64_t j = 0; j < k; j++) t->d[i * k + j] = x->b[i * x->r + j];
    if (how->refine > 0 && s < k) SYI_TRY(refine(e, x, how, k, t));
    /* |WL - D Cs|^2 = |WL|^2 - 2 <D, P> + <D^T D, Gram> */
    SYI_TRY(product(e, how->precise, k, k, d1, t->d, true, t->d, false, t->uu));
    const double out = x->output - 2 * dot(t->d, t->p, d1 * k) + dot(t->uu, t->gram, k * k);
    memcpy(t->u, t->d, (size_t)(d1 * k) * sizeof *t->u);
    const alone one = begin_alone();
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasUpper, CblasNoTrans, CblasNonUnit, (blasint)d1, (blasint)k, 1, x->l, (blasint)d1, t->u, (blasint)k);
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasUpper, CblasNoTrans, CblasNonUnit, (blasint)d1, (blasint)k, 1, x->l, (blasint)d1, t->p, (blasint)k);
    end_alone(one);
    SYI_TRY(product(e, how->precise, k, k, d1, t->u, true, t->u, false, t->uu));
    const double weight = x->weight - 2 * dot(t->u, t->p, d1 * k) + dot(t->uu, t->gram, k * k);
    (void)d2;
    *output_error = x->output > 0 ? sqrt(fmax(0, out) / x->output) : 0;
    *weight_error = x->weight > 0 ? sqrt(fmax(0, weight) / x->weight) : 0;
    return SY_OK;
}

/* to[cols, rows] of a[rows, cols] */
static void put_transposed(const double *a, int64_t rows, int64_t cols, bool wide, void *to)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            if (wide) ((double *)to)[j * rows + i] = a[i * cols + j];
            else ((float *)to)[j * rows + i] = (float)a[i * cols + j];
        }
}

sy_status syi_rocket_factor(syi_engine *e, const syi_rocket_basis *x, const syi_rocket_how *how, int64_t k, int64_t s, void *u, void *v, double *weight_error, double *output_error)
{
    sy_context *ctx = syi_engine_context(e);
    const int64_t d1 = x->d1, d2 = x->d2;
    double *memory = square(ctx, k * d2 + 3 * k * k + 3 * d1 * k, 1);
    if (!memory) return SY_E_MEMORY;
    work t = {.cs = memory};
    t.gram = t.cs + k * d2;
    t.factor = t.gram + k * k;
    t.uu = t.factor + k * k;
    t.p = t.uu + k * k;
    t.u = t.p + d1 * k;
    t.d = t.u + d1 * k;
    const sy_status st = factor(e, x, how, k, s, &t, weight_error, output_error);
    if (st == SY_OK && u) put_transposed(t.u, d1, k, how->wide, u);
    if (st == SY_OK && v) put_transposed(t.cs, k, d2, how->wide, v);
    syi_pages_free(ctx, memory);
    return st;
}
