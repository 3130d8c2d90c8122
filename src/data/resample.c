/* SPDX-License-Identifier: Apache-2.0 */
/* Resizing to the very bytes that Pillow gives, which is what the models were trained on: a
 * horizontal pass, then a vertical one, each with the filter stretched over the pixels that
 * it shrinks, weights in fixed point with 22 bits, results rounded to 8 bits in between. */
#include "data/data.h"

#include <math.h>

enum { BITS = 32 - 8 - 2 };

static double filter_at(syi_filter f, double x)
{
    const double pi = 3.14159265358979323846;
    x = fabs(x);
    switch ((int)f) {
    case SYI_BOX: return x <= 0.5;
    case SYI_BILINEAR: return x < 1 ? 1 - x : 0;
    case SYI_HAMMING: return x == 0 ? 1 : x >= 1 ? 0 : sin(pi * x) / (pi * x) * (0.54 + 0.46 * cos(pi * x));
    case SYI_BICUBIC: return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
    default: return x == 0 ? 1 : x >= 3 ? 0 : sin(pi * x) / (pi * x) * sin(pi * x / 3) / (pi * x / 3);
    }
}

static double support_of(syi_filter f)
{
    static const double support[] = {[SYI_LANCZOS] = 3, [SYI_BILINEAR] = 1, [SYI_BICUBIC] = 2, [SYI_BOX] = 0.5, [SYI_HAMMING] = 1};
    return support[f];
}

/* For each place of the result: where its window begins, how long it is, its weights. */
typedef struct { int64_t size, *begin, *n; int32_t *weight; } weights;

static void weights_free(sy_context *ctx, weights *w)
{
    syi_free(ctx, w->begin);
    syi_free(ctx, w->n);
    syi_free(ctx, w->weight);
}

static sy_status weights_make(sy_context *ctx, int64_t in, int64_t out, syi_filter filter, weights *w)
{
    const double scale = (double)in / (double)out, stretch = scale < 1 ? 1 : scale, support = support_of(filter) * stretch;
    w->size = (int64_t)ceil(support) * 2 + 1;
    w->begin = syi_alloc(ctx, (size_t)out * sizeof *w->begin);
    w->n = syi_alloc(ctx, (size_t)out * sizeof *w->n);
    w->weight = syi_alloc(ctx, (size_t)(out * w->size) * sizeof *w->weight);
    double *k = syi_alloc(ctx, (size_t)w->size * sizeof *k);
    if (w->begin == NULL || w->n == NULL || w->weight == NULL || k == NULL) {
        syi_free(ctx, k);
        return SY_E_MEMORY;
    }
    for (int64_t x = 0; x < out; x++) {
        const double center = ((double)x + 0.5) * scale, over = 1 / stretch;
        int64_t from = (int64_t)(center - support + 0.5), to = (int64_t)(center + support + 0.5);
        from = syi_max(0, from), to = syi_min(in, to);
        double sum = 0;
        for (int64_t i = from; i < to; i++) sum += k[i - from] = filter_at(filter, ((double)i - center + 0.5) * over);
        for (int64_t i = 0; i < to - from; i++) {
            const double v = sum != 0 ? k[i] / sum : k[i];
            w->weight[x * w->size + i] = (int32_t)((v < 0 ? -0.5 : 0.5) + v * (1 << BITS));
        }
        w->begin[x] = from;
        w->n[x] = to - from;
    }
    syi_free(ctx, k);
    return SY_OK;
}

static uint8_t clipped(int32_t v)
{
    v >>= BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Along rows whose places are `stride` bytes apart; lines are `line` bytes apart. */
static void pass(const weights *w, const uint8_t *from, int64_t lines, int64_t from_line, int64_t stride, int64_t lane, uint8_t *to, int64_t out, int64_t to_line)
{
    for (int64_t l = 0; l < lines; l++)
        for (int64_t x = 0; x < out; x++)
            for (int64_t c = 0; c < lane; c++) {
                int32_t sum = 1 << (BITS - 1);
                const uint8_t *at = from + l * from_line + w->begin[x] * stride + c;
                for (int64_t i = 0; i < w->n[x]; i++) sum += at[i * stride] * w->weight[x * w->size + i];
                to[l * to_line + x * stride + c] = clipped(sum);
            }
}

static void nearest(const syi_image *from, syi_image *to)
{
    const double sy = (double)from->height / (double)to->height, sx = (double)from->width / (double)to->width;
    for (int64_t y = 0; y < to->height; y++)
        for (int64_t x = 0; x < to->width; x++) {
            const int64_t iy = syi_min((int64_t)(((double)y + 0.5) * sy), from->height - 1), ix = syi_min((int64_t)(((double)x + 0.5) * sx), from->width - 1);
            memcpy(to->data + (y * to->width + x) * to->channels, from->data + (iy * from->width + ix) * from->channels, (size_t)to->channels);
        }
}

sy_status syi_image_resize(sy_context *ctx, const syi_image *from, int64_t height, int64_t width, syi_filter filter, syi_image *to)
{
    const int64_t c = from->channels;
    weights across = {0}, down = {0};
    uint8_t *middle = NULL;
    *to = (syi_image){height, width, c, syi_alloc(ctx, (size_t)(height * width * c))};
    sy_status s = to->data != NULL ? SY_OK : SY_E_MEMORY;
    if (s == SY_OK && from->height == height && from->width == width) memcpy(to->data, from->data, (size_t)(height * width * c));
    else if (s == SY_OK && filter == SYI_NEAREST) nearest(from, to);
    else if (s == SY_OK) {
        middle = syi_alloc(ctx, (size_t)(from->height * width * c));
        s = middle != NULL ? weights_make(ctx, from->width, width, filter, &across) : SY_E_MEMORY;
        if (s == SY_OK) s = weights_make(ctx, from->height, height, filter, &down);
        if (s == SY_OK) { /* a pass that changes nothing is left out, as there */
            if (from->width == width) memcpy(middle, from->data, (size_t)(from->height * width * c));
            else pass(&across, from->data, from->height, from->width * c, c, c, middle, width, width * c);
            if (from->height == height) memcpy(to->data, middle, (size_t)(height * width * c));
            else pass(&down, middle, 1, 0, width * c, width * c, to->data, height, 0);
        }
    }
    syi_free(ctx, middle);
    weights_free(ctx, &across);
    weights_free(ctx, &down);
    if (s != SY_OK) {
        syi_free(ctx, to->data);
        to->data = NULL;
    }
    return s;
}
