/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels on images (rows of channels): what a moving window sees, pooling, batch norm.
 * A convolution is a product of what its window sees, so it needs no kernel of its own
 * and every way of storing or adapting a matrix works on it. Sums run in one order
 * whatever the threads: gradients are gathered by the pixel that they go to. */
#include "tensor/pieces.h"

#include <math.h>

static inline float bf16_get(uint16_t h)
{
    union { uint32_t u; float f; } x = {(uint32_t)h << 16};
    return x.f;
}
static inline uint16_t bf16_put(float f)
{
    union { float f; uint32_t u; } x = {f};
    if (f != f) return (uint16_t)(x.u >> 16 | 0x40);
    return (uint16_t)((x.u + 0x7fff + (x.u >> 16 & 1)) >> 16);
}

bool syi_window_size(syi_window *w)
{
    const int64_t h = w->height + 2 * w->pad - w->kernel_h, v = w->width + 2 * w->pad - w->kernel_w;
    if (w->stride < 1 || w->kernel_h < 1 || w->kernel_w < 1 || w->pad < 0 || h < 0 || v < 0) return false;
    w->out_h = h / w->stride + 1;
    w->out_w = v / w->stride + 1;
    return true;
}

/* A pixel (of all images) as image, row, column. */
typedef struct { int64_t n, y, x; } pixel;
static inline pixel pixel_of(int64_t i, int64_t h, int64_t w) { return (pixel){i / (h * w), i / w % h, i % w}; }

#define NUM float
#define REAL float
#define GET(x) (x)
#define PUT(x) (x)
#define NAME(f) f##_f32
#include "tensor/image_body.h"

#define NUM uint16_t
#define REAL float
#define GET(x) bf16_get(x)
#define PUT(x) bf16_put(x)
#define NAME(f) f##_bf16
#include "tensor/image_body.h"

#define NUM double
#define REAL double
#define GET(x) (x)
#define PUT(x) (x)
#define NAME(f) f##_f64
#include "tensor/image_body.h"

/* Calls f of the type for pieces of `total` rows of `cols` numbers. */
#define BY_TYPE(e, what, dt, total, cols, f, ...)                                              \
    do {                                                                                       \
        const int t_ = syi_type(dt);                                                           \
        if (t_ < 0) return syi_no_type(e, what, dt);                                           \
        SYI_CUT(e, total, syi_piece_rows(cols), first, count,                                  \
                if (t_ == SYI_T_F32) f##_f32(first, count, __VA_ARGS__);                       \
                else if (t_ == SYI_T_BF16) f##_bf16(first, count, __VA_ARGS__);                \
                else f##_f64(first, count, __VA_ARGS__););                                     \
        return SY_OK;                                                                          \
    } while (0)

sy_status syi_patches(syi_engine *e, sy_dtype dt, const syi_window *w, const void *x, void *y)
{
    BY_TYPE(e, "patches", dt, w->images * w->out_h * w->out_w, w->channels * w->kernel_h * w->kernel_w, patches, w, x, y);
}

sy_status syi_patches_grad(syi_engine *e, sy_dtype dt, const syi_window *w, const void *dy, bool add, void *dx)
{
    BY_TYPE(e, "patches gradient", dt, w->images * w->height * w->width, w->channels * w->kernel_h * w->kernel_w, patches_grad, w, dy, add, dx);
}

sy_status syi_pool_max(syi_engine *e, sy_dtype dt, const syi_window *w, const void *x, void *y, int32_t *at)
{
    BY_TYPE(e, "max pooling", dt, w->images * w->out_h * w->out_w, w->channels * w->kernel_h * w->kernel_w, pool_max, w, x, y, at);
}

sy_status syi_pool_mean(syi_engine *e, sy_dtype dt, const syi_window *w, const void *x, void *y)
{
    BY_TYPE(e, "mean pooling", dt, w->images * w->out_h * w->out_w, w->channels * w->kernel_h * w->kernel_w, pool_mean, w, x, y);
}

sy_status syi_pool_grad(syi_engine *e, sy_dtype dt, const syi_window *w, const void *dy, const int32_t *at, bool add, void *dx)
{
    BY_TYPE(e, "pooling gradient", dt, w->images * w->height * w->width, w->channels * w->kernel_h, pool_grad, w, dy, at, add, dx);
}

sy_status syi_batchnorm(syi_engine *e, sy_dtype dt, const void *x, const void *mean, const void *rstd, const void *w, const void *b, void *y,
                        int64_t rows, int64_t cols)
{
    BY_TYPE(e, "batch norm", dt, rows, cols, norm, x, mean, rstd, w, b, y, cols);
}

/* Partial sums of pieces of rows, [pieces][n], added in their order. */
static double *pieces_new(syi_engine *e, int64_t pieces, int64_t n)
{
    double *p = syi_engine_work(e, SYI_WORK_PIECES, pieces * n * (int64_t)sizeof *p);
    if (p != NULL) memset(p, 0, (size_t)(pieces * n) * sizeof *p);
    return p;
}

static void pieces_add(double *part, int64_t pieces, int64_t n)
{
    for (int64_t p = 1; p < pieces; p++)
        for (int64_t i = 0; i < n; i++) part[i] += part[p * n + i];
}

static double get(sy_dtype dt, const void *x, int64_t i) { return dt == SY_F64 ? ((const double *)x)[i] : (double)((const float *)x)[i]; }
static void put(sy_dtype dt, void *x, int64_t i, double v)
{
    if (dt == SY_F64) ((double *)x)[i] = v;
    else ((float *)x)[i] = (float)v;
}

sy_status syi_column_moments(syi_engine *e, sy_dtype dt, const void *x, void *mean, void *var, int64_t rows, int64_t cols)
{
    const int t = syi_type(dt);
    if (t < 0) return syi_no_type(e, "batch norm", dt);
    const int64_t size = syi_sum_rows_piece(rows), pieces = syi_max(1, syi_ceil_div(rows, size));
    for (int pass = 0; pass < 2; pass++) {
        double *part = pieces_new(e, pieces, cols);
        if (part == NULL) return SY_E_MEMORY;
        const void *about = pass == 0 ? NULL : mean;
        SYI_CUT(e, rows, size, first, count,
                double *to = part + first / size * cols;
                if (t == SYI_T_F32) moments_f32(first, count, x, about, to, cols);
                else if (t == SYI_T_BF16) moments_bf16(first, count, x, about, to, cols);
                else moments_f64(first, count, x, about, to, cols););
        pieces_add(part, pieces, cols);
        for (int64_t c = 0; c < cols; c++) put(dt, pass == 0 ? mean : var, c, part[c] / (double)rows);
    }
    return SY_OK;
}

sy_status syi_batchnorm_grad(syi_engine *e, sy_dtype dt, const void *dy, const void *x, const void *mean, const void *rstd, const void *w, bool fixed,
                             bool add, void *dx, void *dw, void *db, int64_t rows, int64_t cols)
{
    const int t = syi_type(dt);
    if (t < 0) return syi_no_type(e, "batch norm gradient", dt);
    const int64_t size = syi_sum_rows_piece(rows), pieces = syi_max(1, syi_ceil_div(rows, size));
    double *part = pieces_new(e, pieces, 2 * cols); /* sums of dy, of dy * normed x */
    if (part == NULL) return SY_E_MEMORY;
    SYI_CUT(e, rows, size, first, count,
            double *to = part + first / size * 2 * cols;
            if (t == SYI_T_F32) norm_sums_f32(first, count, dy, x, mean, rstd, to, cols);
            else if (t == SYI_T_BF16) norm_sums_bf16(first, count, dy, x, mean, rstd, to, cols);
            else norm_sums_f64(first, count, dy, x, mean, rstd, to, cols););
    pieces_add(part, pieces, 2 * cols);
    for (int64_t c = 0; c < cols; c++) {
        if (db != NULL) put(dt, db, c, get(dt, db, c) + part[c]);
        if (dw != NULL) put(dt, dw, c, get(dt, dw, c) + part[cols + c]);
        part[c] = fixed ? 0 : part[c] / (double)rows;
        part[cols + c] = fixed ? 0 : part[cols + c] / (double)rows;
    }
    if (dx == NULL) return SY_OK;
    BY_TYPE(e, "batch norm gradient", dt, rows, cols, norm_grad, dy, x, mean, rstd, w, part, add, dx, cols);
}
