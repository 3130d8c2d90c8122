/* SPDX-License-Identifier: Apache-2.0 */
/* Image kernels for one type, included by image.c with
 *   NUM       type in memory          REAL      type of sums and of per-channel vectors
 *   GET, PUT  conversions             NAME(f)   the function's name
 * Each works on `count` rows (pixels) from `first` on. */

static void NAME(patches)(int64_t first, int64_t count, const syi_window *w, const void *px, void *py)
{
    const NUM *x = px;
    const int64_t area = w->kernel_h * w->kernel_w, wide = w->channels * area;
    for (int64_t r = first; r < first + count; r++) {
        const pixel o = pixel_of(r, w->out_h, w->out_w);
        NUM *y = (NUM *)py + r * wide;
        for (int64_t i = 0; i < w->kernel_h; i++)
            for (int64_t j = 0; j < w->kernel_w; j++) {
                const int64_t iy = o.y * w->stride - w->pad + i, ix = o.x * w->stride - w->pad + j;
                NUM *to = y + i * w->kernel_w + j;
                if (iy < 0 || iy >= w->height || ix < 0 || ix >= w->width)
                    for (int64_t c = 0; c < w->channels; c++) to[c * area] = 0;
                else {
                    const NUM *from = x + ((o.n * w->height + iy) * w->width + ix) * w->channels;
                    for (int64_t c = 0; c < w->channels; c++) to[c * area] = from[c];
                }
            }
    }
}

enum { NAME(CHUNK) = 64 }; /* channels summed at a time */

/* Windows that see pixel (y): their rows o with o * stride - pad + i = y. */
static inline bool NAME(seen)(int64_t y, int64_t i, const syi_window *w, int64_t out, int64_t *o)
{
    const int64_t at = y + w->pad - i;
    *o = at / w->stride;
    return at >= 0 && at % w->stride == 0 && *o < out;
}

static void NAME(patches_grad)(int64_t first, int64_t count, const syi_window *w, const void *pdy, bool add, void *pdx)
{
    const NUM *dy = pdy;
    const int64_t area = w->kernel_h * w->kernel_w, wide = w->channels * area;
    for (int64_t r = first; r < first + count; r++) {
        const pixel p = pixel_of(r, w->height, w->width);
        NUM *dx = (NUM *)pdx + r * w->channels;
        for (int64_t c0 = 0; c0 < w->channels; c0 += NAME(CHUNK)) {
            const int64_t n = syi_min(NAME(CHUNK), w->channels - c0);
            REAL sum[NAME(CHUNK)] = {0};
            for (int64_t i = 0; i < w->kernel_h; i++)
                for (int64_t j = 0; j < w->kernel_w; j++) {
                    int64_t oy, ox;
                    if (!NAME(seen)(p.y, i, w, w->out_h, &oy) || !NAME(seen)(p.x, j, w, w->out_w, &ox)) continue;
                    const NUM *from = dy + ((p.n * w->out_h + oy) * w->out_w + ox) * wide + c0 * area + i * w->kernel_w + j;
                    for (int64_t c = 0; c < n; c++) sum[c] += GET(from[c * area]);
                }
            for (int64_t c = 0; c < n; c++) dx[c0 + c] = PUT(add ? GET(dx[c0 + c]) + sum[c] : sum[c]);
        }
    }
}

static void NAME(pool_max)(int64_t first, int64_t count, const syi_window *w, const void *px, void *py, int32_t *at)
{
    const NUM *x = px;
    for (int64_t r = first; r < first + count; r++) {
        const pixel o = pixel_of(r, w->out_h, w->out_w);
        NUM *y = (NUM *)py + r * w->channels;
        bool begun = false;
        for (int64_t i = 0; i < w->kernel_h; i++)
            for (int64_t j = 0; j < w->kernel_w; j++) {
                const int64_t iy = o.y * w->stride - w->pad + i, ix = o.x * w->stride - w->pad + j;
                if (iy < 0 || iy >= w->height || ix < 0 || ix >= w->width) continue;
                const NUM *from = x + ((o.n * w->height + iy) * w->width + ix) * w->channels;
                for (int64_t c = 0; c < w->channels; c++)
                    if (!begun || GET(from[c]) > GET(y[c])) {
                        y[c] = from[c];
                        if (at != NULL) at[r * w->channels + c] = (int32_t)(i * w->kernel_w + j);
                    }
                begun = true;
            }
    }
}

static void NAME(pool_mean)(int64_t first, int64_t count, const syi_window *w, const void *px, void *py)
{
    const NUM *x = px;
    const REAL over = 1 / (REAL)(w->kernel_h * w->kernel_w);
    for (int64_t r = first; r < first + count; r++) {
        const pixel o = pixel_of(r, w->out_h, w->out_w);
        NUM *y = (NUM *)py + r * w->channels;
        for (int64_t c0 = 0; c0 < w->channels; c0 += NAME(CHUNK)) {
            const int64_t n = syi_min(NAME(CHUNK), w->channels - c0);
            REAL sum[NAME(CHUNK)] = {0};
            for (int64_t i = 0; i < w->kernel_h; i++)
                for (int64_t j = 0; j < w->kernel_w; j++) {
                    const int64_t iy = o.y * w->stride - w->pad + i, ix = o.x * w->stride - w->pad + j;
                    if (iy < 0 || iy >= w->height || ix < 0 || ix >= w->width) continue;
                    const NUM *from = x + ((o.n * w->height + iy) * w->width + ix) * w->channels + c0;
                    for (int64_t c = 0; c < n; c++) sum[c] += GET(from[c]);
                }
            for (int64_t c = 0; c < n; c++) y[c0 + c] = PUT(sum[c] * over);
        }
    }
}

/* at NULL: the mean's. */
static void NAME(pool_grad)(int64_t first, int64_t count, const syi_window *w, const void *pdy, const int32_t *at, bool add, void *pdx)
{
    const NUM *dy = pdy;
    const REAL over = 1 / (REAL)(w->kernel_h * w->kernel_w);
    for (int64_t r = first; r < first + count; r++) {
        const pixel p = pixel_of(r, w->height, w->width);
        NUM *dx = (NUM *)pdx + r * w->channels;
        for (int64_t c0 = 0; c0 < w->channels; c0 += NAME(CHUNK)) {
            const int64_t n = syi_min(NAME(CHUNK), w->channels - c0);
            REAL sum[NAME(CHUNK)] = {0};
            for (int64_t i = 0; i < w->kernel_h; i++)
                for (int64_t j = 0; j < w->kernel_w; j++) {
                    int64_t oy, ox;
                    if (!NAME(seen)(p.y, i, w, w->out_h, &oy) || !NAME(seen)(p.x, j, w, w->out_w, &ox)) continue;
                    const int64_t row = ((p.n * w->out_h + oy) * w->out_w + ox) * w->channels + c0;
                    if (at == NULL)
                        for (int64_t c = 0; c < n; c++) sum[c] += GET(dy[row + c]) * over;
                    else
                        for (int64_t c = 0; c < n; c++)
                            if (at[row + c] == i * w->kernel_w + j) sum[c] += GET(dy[row + c]);
                }
            for (int64_t c = 0; c < n; c++) dx[c0 + c] = PUT(add ? GET(dx[c0 + c]) + sum[c] : sum[c]);
        }
    }
}

/* sum[c] += x, or (x - about)^2 */
static void NAME(moments)(int64_t first, int64_t count, const void *px, const void *about, double *sum, int64_t cols)
{
    const REAL *mean = about;
    for (int64_t r = first; r < first + count; r++) {
        const NUM *x = (const NUM *)px + r * cols;
        if (mean == NULL)
            for (int64_t c = 0; c < cols; c++) sum[c] += (double)GET(x[c]);
        else
            for (int64_t c = 0; c < cols; c++) {
                const double d = (double)GET(x[c]) - (double)mean[c];
                sum[c] += d * d;
            }
    }
}

static void NAME(norm)(int64_t first, int64_t count, const void *px, const void *pm, const void *ps, const void *pw, const void *pb, void *py, int64_t cols)
{
    const REAL *mean = pm, *rstd = ps, *weight = pw, *bias = pb;
    for (int64_t r = first; r < first + count; r++) {
        const NUM *x = (const NUM *)px + r * cols;
        NUM *y = (NUM *)py + r * cols;
        for (int64_t c = 0; c < cols; c++) y[c] = PUT((GET(x[c]) - mean[c]) * rstd[c] * weight[c] + bias[c]);
    }
}

static void NAME(norm_sums)(int64_t first, int64_t count, const void *pdy, const void *px, const void *pm, const void *ps, double *sum, int64_t cols)
{
    const REAL *mean = pm, *rstd = ps;
    for (int64_t r = first; r < first + count; r++) {
        const NUM *x = (const NUM *)px + r * cols, *dy = (const NUM *)pdy + r * cols;
        for (int64_t c = 0; c < cols; c++) {
            const REAL d = GET(dy[c]);
            sum[c] += (double)d;
            sum[cols + c] += (double)(d * ((GET(x[c]) - mean[c]) * rstd[c]));
        }
    }
}

static void NAME(norm_grad)(int64_t first, int64_t count, const void *pdy, const void *px, const void *pm, const void *ps, const void *pw,
                            const double *means, bool add, void *pdx, int64_t cols)
{
    const REAL *mean = pm, *rstd = ps, *weight = pw;
    for (int64_t r = first; r < first + count; r++) {
        const NUM *x = (const NUM *)px + r * cols, *dy = (const NUM *)pdy + r * cols;
        NUM *dx = (NUM *)pdx + r * cols;
        for (int64_t c = 0; c < cols; c++) {
            const REAL h = (GET(x[c]) - mean[c]) * rstd[c];
            const REAL d = weight[c] * rstd[c] * (GET(dy[c]) - (REAL)means[c] - h * (REAL)means[cols + c]);
            dx[c] = PUT(add ? GET(dx[c]) + d : d);
        }
    }
}

#undef NUM
#undef REAL
#undef GET
#undef PUT
#undef NAME
