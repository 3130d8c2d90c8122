/* SPDX-License-Identifier: Apache-2.0 */
/* Products: which way each shape goes. oneDNN for whole products, a pass over the
 * weights of our own for a few rows (decoding), and plain loops in f64.
 *
 * Bits never depend on the number of threads. oneDNN keeps them except where op(A) is
 * transposed or its rows lie apart, k is long (2048 was seen) and n small (192 was
 * seen): there it cuts k by the number of threads. Such products are cut here, into pieces of fixed length. */
#include "tensor/gemm.h"

/* -- f64: the reference ------------------------------------------------------------- */

static void gemm_f64(const syi_engine *e, int64_t m, int64_t n, int64_t k, double alpha, syi_mat a, syi_mat b, double beta,
                     double *c, int64_t ldc)
{
    const double *pa = a.data, *pb = b.data;
#pragma omp parallel for schedule(static) num_threads(syi_omp(e->ctx)) if (m * n * k > 32768)
    for (int64_t i = 0; i < m; i++) {
        double *row = c + i * ldc;
        for (int64_t j = 0; j < n; j++) row[j] = beta == 0 ? 0 : beta * row[j];
        if (b.t) {
            for (int64_t j = 0; j < n; j++) {
                double s = 0;
                for (int64_t p = 0; p < k; p++) s += (a.t ? pa[p * a.ld + i] : pa[i * a.ld + p]) * pb[j * b.ld + p];
                row[j] += alpha * s;
            }
        } else {
            for (int64_t p = 0; p < k; p++) {
                double s = alpha * (a.t ? pa[p * a.ld + i] : pa[i * a.ld + p]);
                for (int64_t j = 0; j < n; j++) row[j] += s * pb[p * b.ld + j];
            }
        }
    }
}

/* -- other types ------------------------------------------------------------------------ */

static int64_t stored_rows(syi_mat a, int64_t rows, int64_t cols) { return a.t ? cols : rows; }
static int64_t stored_cols(syi_mat a, int64_t rows, int64_t cols) { return a.t ? rows : cols; }

/* The matrix op(x)[rows, cols] in type `to`, in working memory if it is not already. */
static sy_status in_type(syi_engine *e, int slot, sy_dtype to, int64_t rows, int64_t cols, syi_mat *x)
{
    if (x->dtype == to) return SY_OK;
    int64_t r = stored_rows(*x, rows, cols), c = stored_cols(*x, rows, cols), size = sy_dtype_block_bytes(to);
    char *y = syi_engine_work(e, slot, r * c * size);
    if (y == NULL) return SY_E_MEMORY;
    if (x->ld == c) {
        SYI_TRY(syi_cast(e, x->dtype, x->data, to, y, r * c));
    } else {
        const char *from = x->data;
        int64_t pitch = x->ld * sy_dtype_block_bytes(x->dtype);
        for (int64_t i = 0; i < r; i++) SYI_TRY(syi_cast(e, x->dtype, from + i * pitch, to, y + i * c * size, c));
    }
    *x = (syi_mat){to, y, c, x->t};
    return SY_OK;
}

/* What oneDNN has no whole product for: once more in f32 (working memory for C, with
 * C's values if beta needs them, then rounded), or by our own kernels. */
static sy_status otherwise(syi_engine *e, int64_t m, int64_t n, int64_t k, double alpha, syi_mat a, syi_mat b, double beta,
                           sy_dtype ct, void *c, int64_t ldc)
{
    bool done = false, f32 = a.dtype == SY_F32 && b.dtype == SY_F32 && ct == SY_F32;
    if (!f32) SYI_TRY(syi_product_exists(e, &done));
    if (!done) return syi_product_own(e, m, n, k, alpha, a, b, beta, ct, c, ldc);
    SYI_TRY(in_type(e, SYI_WORK_WIDE_A, SY_F32, m, k, &a));
    SYI_TRY(in_type(e, SYI_WORK_WIDE_B, SY_F32, k, n, &b));
    if (ct == SY_F32) return syi_gemm(e, m, n, k, alpha, a, b, beta, ct, c, ldc);
    float *t = syi_engine_work(e, SYI_WORK_C, m * n * (int64_t)sizeof *t);
    if (t == NULL) return SY_E_MEMORY;
    uint16_t *h = c;
    if (beta != 0)
        for (int64_t i = 0; i < m; i++) SYI_TRY(syi_cast(e, SY_BF16, h + i * ldc, SY_F32, t + i * n, n));
    SYI_TRY(syi_gemm(e, m, n, k, alpha, a, b, beta, SY_F32, t, n));
    if (ldc == n) return syi_cast(e, SY_F32, t, SY_BF16, h, m * n);
    for (int64_t i = 0; i < m; i++) SYI_TRY(syi_cast(e, SY_F32, t + i * n, SY_BF16, h + i * ldc, n));
    return SY_OK;
}

/* -- a long inner dimension -------------------------------------------------------------- */

enum { LONG_PIECE = 1024, LONG_COLS = 512, LONG_MOST = 8 << 20 };

/* Pieces of k, one after the other, added up in f32. Gradients of whole weights (op(A)
 * transposed, B not) go a sixth faster this way too: a piece of both stays near the cores. */
static sy_status in_pieces(syi_engine *e, int64_t m, int64_t n, int64_t k, double alpha, syi_mat a, syi_mat b, double beta,
                           sy_dtype ct, void *c, int64_t ldc)
{
    float *sum = c;
    int64_t ld = ldc;
    if (ct != SY_F32) {
        sum = syi_engine_work(e, SYI_WORK_C, m * n * (int64_t)sizeof *sum);
        if (sum == NULL) return SY_E_MEMORY;
        ld = n;
        if (beta != 0)
            for (int64_t i = 0; i < m; i++) SYI_TRY(syi_cast(e, ct, (uint16_t *)c + i * ldc, SY_F32, sum + i * n, n));
    }
    int64_t as = sy_dtype_block_bytes(a.dtype) * (a.t ? a.ld : 1), bs = sy_dtype_block_bytes(b.dtype) * (b.t ? 1 : b.ld);
    for (int64_t p = 0; p < k; p += LONG_PIECE) {
        int64_t count = syi_min(LONG_PIECE, k - p);
        syi_mat pa = a, pb = b;
        pa.data = (const char *)a.data + p * as;
        pb.data = (const char *)b.data + p * bs;
        bool done = false;
        SYI_TRY(syi_product(e, m, n, count, alpha, pa, pb, p == 0 ? beta : 1, SY_F32, sum, ld, &done));
        if (!done && p == 0) return otherwise(e, m, n, k, alpha, a, b, beta, ct, c, ldc);
        if (!done) return syi_fail(e->ctx, SY_E_BUG, "oneDNN has a product without, but not with, accumulation");
    }
    if (ct != SY_F32 && ldc == n) return syi_cast(e, SY_F32, sum, ct, c, m * n);
    if (ct != SY_F32)
        for (int64_t i = 0; i < m; i++) SYI_TRY(syi_cast(e, SY_F32, sum + i * n, ct, (uint16_t *)c + i * ldc, n));
    return SY_OK;
}

/* -- a few rows ---------------------------------------------------------------------------- */

enum { GEMV_ROWS = 4, GEMV_SHARE = 16 }; /* output columns of a part */

typedef struct { const syi_engine *e; int64_t m, n, k; double alpha; syi_mat a, b; double beta; sy_dtype ct; void *c; int64_t ldc; } gemv_job;

static void gemv_part(void *self, int64_t part, int thread)
{
    const gemv_job *g = self;
    const int64_t first = part * GEMV_SHARE, count = syi_min(GEMV_SHARE, g->n - first);
    const syi_cpu *cpu = g->e->cpu;
    float out[GEMV_ROWS][GEMV_SHARE];
    (void)thread;
    if (g->b.dtype == SY_F32)
        cpu->gemv_f32((int)g->m, count, g->k, g->a.data, g->a.ld, (const float *)g->b.data + first * g->b.ld, g->b.ld, out[0], GEMV_SHARE);
    else
        cpu->gemv_bf16((int)g->m, count, g->k, g->a.data, g->a.ld, (const uint16_t *)g->b.data + first * g->b.ld, g->b.ld, out[0], GEMV_SHARE);
    for (int64_t i = 0; i < g->m; i++) {
        float *row = out[i];
        if (g->alpha != 1)
            for (int64_t j = 0; j < count; j++) row[j] *= (float)g->alpha;
        if (g->ct == SY_F32) {
            float *y = (float *)g->c + i * g->ldc + first;
            for (int64_t j = 0; j < count; j++) y[j] = g->beta == 0 ? row[j] : (float)g->beta * y[j] + row[j];
        } else {
            uint16_t *y = (uint16_t *)g->c + i * g->ldc + first;
            if (g->beta != 0) {
                float old[GEMV_SHARE];
                cpu->from_bf16(y, old, count);
                for (int64_t j = 0; j < count; j++) row[j] += (float)g->beta * old[j];
            }
            cpu->to_bf16(row, y, count);
        }
    }
}

static sy_status gemv(syi_engine *e, int64_t m, int64_t n, int64_t k, double alpha, syi_mat a, syi_mat b, double beta,
                      sy_dtype ct, void *c, int64_t ldc)
{
    SYI_TRY(in_type(e, SYI_WORK_A, SY_F32, m, k, &a));
    gemv_job job = {e, m, n, k, alpha, a, b, beta, ct, c, ldc};
    syi_share(e, syi_ceil_div(n, GEMV_SHARE), gemv_part, &job);
    return SY_OK;
}

/* -- the way in ------------------------------------------------------------------------------ */

static sy_status scale_only(syi_engine *e, int64_t m, int64_t n, double beta, sy_dtype ct, void *c, int64_t ldc)
{
    int64_t size = sy_dtype_block_bytes(ct);
    for (int64_t i = 0; i < m; i++) {
        char *row = (char *)c + i * ldc * size;
        if (beta == 0) memset(row, 0, (size_t)(n * size));
        else if (beta != 1) SYI_TRY(syi_axpy(e, ct, beta, row, false, row, n));
    }
    return SY_OK;
}

sy_status syi_gemm(syi_engine *e, int64_t m, int64_t n, int64_t k, double alpha, syi_mat a, syi_mat b, double beta,
                   sy_dtype ct, void *c, int64_t ldc)
{
    if (m <= 0 || n <= 0) return SY_OK;
    if (k <= 0 || alpha == 0) return scale_only(e, m, n, beta, ct, c, ldc);
    bool f64 = ct == SY_F64;
    bool known = f64 ? a.dtype == SY_F64 && b.dtype == SY_F64
                     : (ct == SY_F32 || ct == SY_BF16) && (a.dtype == SY_F32 || a.dtype == SY_BF16) &&
                           (b.dtype == SY_F32 || b.dtype == SY_BF16);
    if (!known)
        return syi_fail(e->ctx, SY_E_BUG, "no product of %s with %s into %s", sy_dtype_name(a.dtype), sy_dtype_name(b.dtype),
                        sy_dtype_name(ct));
    if (f64) {
        gemm_f64(e, m, n, k, alpha, a, b, beta, c, ldc);
        return SY_OK;
    }
    if (m <= GEMV_ROWS && !a.t && b.t)
        return gemv(e, m, n, k, alpha, a, b, beta, ct, c, ldc);
    if (a.dtype != b.dtype || (a.dtype == SY_F32 && ct == SY_BF16)) {
        sy_dtype common = ct;
        SYI_TRY(in_type(e, SYI_WORK_A, common, m, k, &a));
        SYI_TRY(in_type(e, SYI_WORK_B, common, k, n, &b));
    }
    if (syi_outer_fits(m, n, k, a, b)) return syi_outer(e, m, n, k, alpha, a, b, beta, ct, c, ldc);
    if ((a.t || a.ld != k) && k > LONG_PIECE && (n <= LONG_COLS || (a.t && !b.t && m * n <= LONG_MOST))) return in_pieces(e, m, n, k, alpha, a, b, beta, ct, c, ldc);
    bool done = false;
    SYI_TRY(syi_product(e, m, n, k, alpha, a, b, beta, ct, c, ldc, &done));
    return done ? SY_OK : otherwise(e, m, n, k, alpha, a, b, beta, ct, c, ldc);
}
