/* SPDX-License-Identifier: Apache-2.0 */
/* Sums over the inputs of a site. Products are made over at most 2048 tokens in f32 (of
 * bf16 inputs every single product is exact in f32) and added up in f64, tile by tile, in
 * an order that depends on shapes only. */
#include "run/observe.h"

#include <math.h>

enum { PIECE_TOKENS = 2048, TILE = 512 };

int64_t syi_stats_bytes(int64_t n, unsigned want, int64_t rows)
{
    int64_t bytes = (int64_t)sizeof(sy_stats);
    if (want & SY_STAT_XX) bytes += n * n * 8;
    if (want & SY_STAT_DX) bytes += n * n * 8;
    bytes += n * 8 * (((want & SY_STAT_ABS) != 0) + ((want & SY_STAT_MEAN) != 0) + ((want & SY_STAT_SQ) != 0));
    if (want & SY_STAT_ROWS) bytes += rows * n * 4;
    return bytes;
}

/* How rows are chosen lies behind the public part. */
typedef struct { sy_stats s; int64_t max_rows, every, seen; bool products; /* dx holds sum ref x^T still */ } stats;

sy_status syi_stats_new(sy_context *ctx, int64_t n, unsigned want, int64_t rows, int64_t tokens, sy_stats **out)
{
    *out = NULL;
    stats *t = syi_calloc(ctx, 1, sizeof *t);
    if (!t) return SY_E_MEMORY;
    sy_stats *s = &t->s;
    if (want & SY_STAT_DX) want |= SY_STAT_XX;
    s->have = want;
    s->n = n;
    t->max_rows = rows;
    t->every = syi_max(1, syi_ceil_div(tokens, syi_max(1, rows)));
    bool ok = true;
    if (want & SY_STAT_XX) ok = (s->xx = syi_pages(ctx, (size_t)(n * n) * sizeof *s->xx)) != NULL;
    if (ok && (want & SY_STAT_DX)) ok = (s->dx = syi_pages(ctx, (size_t)(n * n) * sizeof *s->dx)) != NULL;
    if (ok && (want & SY_STAT_ABS)) ok = (s->abs = syi_calloc(ctx, (size_t)n, sizeof *s->abs)) != NULL;
    if (ok && (want & SY_STAT_MEAN)) ok = (s->sum = syi_calloc(ctx, (size_t)n, sizeof *s->sum)) != NULL;
    if (ok && (want & SY_STAT_SQ)) ok = (s->sq = syi_calloc(ctx, (size_t)n, sizeof *s->sq)) != NULL;
    if (ok && (want & SY_STAT_ROWS)) ok = (s->rows = syi_alloc(ctx, (size_t)syi_max(1, rows * n) * sizeof *s->rows)) != NULL;
    if (!ok) {
        syi_stats_free(ctx, s);
        return SY_E_MEMORY;
    }
    *out = s;
    return SY_OK;
}

void syi_stats_free(sy_context *ctx, sy_stats *s)
{
    if (!s) return;
    syi_pages_free(ctx, s->xx);
    syi_pages_free(ctx, s->dx);
    syi_free(ctx, s->abs);
    syi_free(ctx, s->sum);
    syi_free(ctx, s->sq);
    syi_free(ctx, s->rows);
    syi_free(ctx, s);
}

static const void *at(const sy_tensor *x, int64_t row, int64_t col)
{
    return (const char *)x->data + (row * x->dim[1] + col) * sy_dtype_block_bytes(x->dtype);
}

/* to[rows, ldt] += tile[rows, cols] */
static void add_tile(const sy_context *ctx, double *to, int64_t ldt, sy_dtype dt, const void *tile, int64_t rows, int64_t cols)
{
#pragma omp parallel for num_threads(syi_omp(ctx)) schedule(static) if (rows * cols > 16384)
    for (int64_t i = 0; i < rows; i++) {
        double *row = to + i * ldt;
        if (dt == SY_F64)
            for (int64_t j = 0; j < cols; j++) row[j] += ((const double *)tile)[i * cols + j];
        else
            for (int64_t j = 0; j < cols; j++) row[j] += (double)((const float *)tile)[i * cols + j];
    }
}

/* to += a^T b over rows [first, first+count); upper: only columns from the tile's own on. */
static sy_status add_product(syi_engine *e, double *to, const sy_tensor *a, const sy_tensor *b, int64_t first, int64_t count, bool upper)
{
    sy_context *ctx = syi_engine_context(e);
    const int64_t n = a->dim[1];
    const sy_dtype dt = a->dtype == SY_F64 ? SY_F64 : SY_F32;
    void *tile = syi_alloc(ctx, (size_t)(syi_min(TILE, n) * n * sy_dtype_block_bytes(dt)));
    if (!tile) return SY_E_MEMORY;
    sy_status st = SY_OK;
    for (int64_t i = 0; i < n && st == SY_OK; i += TILE) {
        const int64_t rows = syi_min(TILE, n - i), from = upper ? i : 0, cols = n - from;
        st = syi_gemm(e, rows, cols, count, 1, (syi_mat){a->dtype, at(a, first, i), n, true}, (syi_mat){b->dtype, at(b, first, from), n, false}, 0, dt, tile, cols);
        if (st == SY_OK) add_tile(ctx, to + i * n + from, n, dt, tile, rows, cols);
    }
    syi_free(ctx, tile);
    return st;
}

/* sum (ref - x) x^T. Differences of f32 inputs are formed first; of bf16 inputs, whose
 * products are exact, the two sums are formed and subtracted (sum x x^T was just added to
 * xx, so that only ref x^T is new: the caller takes xx off at the end). */
static sy_status add_cross(syi_engine *e, sy_stats *s, const sy_tensor *x, const sy_tensor *ref, int64_t first, int64_t count)
{
    sy_context *ctx = syi_engine_context(e);
    if (x->dtype == SY_BF16) {
        ((stats *)s)->products = true;
        return add_product(e, s->dx, ref, x, first, count, false);
    }
    sy_tensor d = {.dtype = x->dtype, .rank = 2, .dim = {count, s->n}};
    d.data = syi_alloc(ctx, (size_t)sy_tensor_bytes(&d));
    if (!d.data) return SY_E_MEMORY;
    sy_status st = syi_add_scaled(e, x->dtype, at(ref, first, 0), -1, at(x, first, 0), d.data, count * s->n);
    sy_tensor rows = {.dtype = x->dtype, .rank = 2, .dim = {count, s->n}, .data = (void *)(uintptr_t)at(x, first, 0)};
    if (st == SY_OK) st = add_product(e, s->dx, &d, &rows, 0, count, false);
    syi_free(ctx, d.data);
    return st;
}

static double number(const sy_tensor *x, int64_t i)
{
    if (x->dtype == SY_F64) return ((const double *)x->data)[i];
    if (x->dtype == SY_F32) return (double)((const float *)x->data)[i];
    union { uint32_t u; float f; } v = {(uint32_t)((const uint16_t *)x->data)[i] << 16};
    return (double)v.f;
}

static void add_moments(const sy_context *ctx, sy_stats *s, const sy_tensor *x)
{
    const int64_t rows = x->dim[0], n = s->n, strips = syi_ceil_div(n, 64);
    if (!s->abs && !s->sum && !s->sq) return;
#pragma omp parallel for num_threads(syi_omp(ctx)) schedule(static) if (rows * n > 16384)
    for (int64_t strip = 0; strip < strips; strip++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = strip * 64; j < syi_min(n, strip * 64 + 64); j++) {
                const double v = number(x, r * n + j);
                if (s->abs) s->abs[j] += fabs(v);
                if (s->sum) s->sum[j] += v;
                if (s->sq) s->sq[j] += v * v;
            }
}

/* Rows that the mask lets through, one after the other. */
static sy_status gather(sy_context *ctx, const sy_tensor *x, const uint8_t *mask, int64_t kept, sy_tensor *out)
{
    const size_t bytes = (size_t)(x->dim[1] * sy_dtype_block_bytes(x->dtype));
    *out = *x;
    out->dim[0] = kept;
    out->data = syi_alloc(ctx, (size_t)kept * bytes + 1);
    if (!out->data) return SY_E_MEMORY;
    char *to = out->data;
    for (int64_t r = 0; r < x->dim[0]; r++)
        if (mask[r]) {
            memcpy(to, at(x, r, 0), bytes);
            to += bytes;
        }
    return SY_OK;
}

static sy_status add_all(syi_engine *e, sy_stats *s, const sy_tensor *x, const sy_tensor *ref)
{
    stats *t = (stats *)s;
    for (int64_t first = 0; first < x->dim[0]; first += PIECE_TOKENS) {
        const int64_t count = syi_min(PIECE_TOKENS, x->dim[0] - first);
        if (s->xx) SYI_TRY(add_product(e, s->xx, x, x, first, count, true));
        if (s->dx) SYI_TRY(add_cross(e, s, x, ref, first, count));
    }
    add_moments(syi_engine_context(e), s, x);
    if (s->rows)
        for (int64_t r = 0; r < x->dim[0]; r++, t->seen++)
            if (t->seen % t->every == 0 && s->n_rows < t->max_rows) {
                for (int64_t j = 0; j < s->n; j++) s->rows[s->n_rows * s->n + j] = (float)number(x, r * s->n + j);
                s->n_rows++;
            }
    s->tokens += x->dim[0];
    return SY_OK;
}

sy_status syi_stats_add(syi_engine *e, sy_stats *s, const sy_tensor *x, const sy_tensor *ref, const uint8_t *mask)
{
    sy_context *ctx = syi_engine_context(e);
    if (sy_tensor_cols(x) != s->n || (s->dx && (!ref || ref->dtype != x->dtype || sy_tensor_count(ref) != sy_tensor_count(x))))
        return syi_fail(ctx, SY_E_BUG, "statistics of %lld features were given %lld, or another stream that does not fit", (long long)s->n, (long long)sy_tensor_cols(x));
    sy_tensor flat = {.dtype = x->dtype, .rank = 2, .dim = {sy_tensor_rows(x), s->n}, .data = x->data}, other = flat;
    if (ref) other.data = ref->data;
    int64_t kept = flat.dim[0];
    for (int64_t r = 0; mask && r < flat.dim[0]; r++) kept -= !mask[r];
    if (kept == 0) return SY_OK;
    if (kept == flat.dim[0]) return add_all(e, s, &flat, ref ? &other : NULL);
    sy_tensor some = {0}, some_ref = {0};
    sy_status st = gather(ctx, &flat, mask, kept, &some);
    if (st == SY_OK && ref) st = gather(ctx, &other, mask, kept, &some_ref);
    if (st == SY_OK) st = add_all(e, s, &some, ref ? &some_ref : NULL);
    syi_free(ctx, some.data);
    syi_free(ctx, some_ref.data);
    return st;
}

sy_status syi_stats_finish(sy_context *ctx, sy_stats *s, const char *what)
{
    stats *t = (stats *)s;
    const int64_t n = s->n;
    double sum = 0;
    for (int64_t i = 0; s->xx && i < n; i++)
        for (int64_t j = 0; j < i; j++) s->xx[i * n + j] = s->xx[j * n + i];
    if (t->products && s->dx) /* once */
        for (int64_t i = 0; i < n * n; i++) s->dx[i] -= s->xx[i];
    t->products = false;
    for (int64_t i = 0; s->xx && i < n; i++) sum += s->xx[i * n + i];
    for (int64_t i = 0; s->dx && i < n; i++) sum += s->dx[i * n + i];
    for (int64_t i = 0; i < n; i++) sum += (s->abs ? s->abs[i] : 0) + (s->sum ? s->sum[i] : 0) + (s->sq ? s->sq[i] : 0);
    if (!isfinite(sum))
        return syi_fail(ctx, SY_E_NUMERIC, "%s: its inputs on the calibration text are not finite numbers; the weights before it hold NaN or infinity, "
                        "or --dtype bf16 is too coarse for this model (try f32)", what);
    return SY_OK;
}
