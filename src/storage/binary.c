/* SPDX-License-Identifier: Apache-2.0 */
/* Binary codes: w = sum over b of +-alpha_b, the alphas shared by a patch of rows and
 * inputs. One row by 128 inputs is D2Quant's grid, one input by 128 rows ShiftAddLLM's
 * accurate one, 8 inputs by 16 rows its fast one. Alphas are f16, or sums of signed powers
 * of two. Products look sums of x up instead of multiplying (tensor/signs.h). */
#include "storage/weight.h"

#include "graph/ops.h"
#include "tensor/signs.h"

#include <math.h>

enum { PLANES, ALPHA, EXPONENTS, SIGNS, PATCH };

typedef struct { syi_signs signs; float *alpha; } fast;

int64_t syi_binary_patches(const syi_binary_shape *s, int64_t out, int64_t in)
{
    return syi_ceil_div(in, s->cols) * syi_ceil_div(out, s->rows);
}

sy_status syi_weight_binary(sy_context *ctx, int64_t out, int64_t in, const syi_binary_shape *s, sy_weight **w)
{
    const int64_t patches = syi_binary_patches(s, out, in), six = 6;
    SYI_TRY(syi_weight_new(ctx, &sy_storage_binary, out, in, w));
    sy_status st = syi_weight_slot(ctx, *w, PLANES, SY_U8, 3, (const int64_t[]){s->bits, out, syi_ceil_div(in, 8)});
    if (st == SY_OK && s->terms == 0) st = syi_weight_slot(ctx, *w, ALPHA, SY_F16, 2, (const int64_t[]){patches, s->bits});
    if (st == SY_OK && s->terms > 0) st = syi_weight_slot(ctx, *w, EXPONENTS, SY_I8, 3, (const int64_t[]){patches, s->bits, s->terms});
    if (st == SY_OK && s->terms > 0) st = syi_weight_slot(ctx, *w, SIGNS, SY_U8, 2, (const int64_t[]){patches, syi_ceil_div(s->bits * s->terms, 8)});
    if (st == SY_OK) st = syi_weight_slot(ctx, *w, PATCH, SY_I32, 1, &six);
    if (st != SY_OK) {
        syi_weight_free(ctx, *w);
        *w = NULL;
        return st;
    }
    int32_t *p = (*w)->slot[PATCH].data;
    p[0] = s->bits;
    p[1] = (int32_t)s->rows;
    p[2] = (int32_t)s->cols;
    p[3] = s->terms;
    p[4] = (int32_t)in;
    return SY_OK;
}

syi_binary_shape syi_binary_shape_of(const sy_weight *w)
{
    const int32_t *p = w->slot[PATCH].data;
    return (syi_binary_shape){.bits = p[0], .rows = p[1], .cols = p[2], .terms = p[3]};
}

void syi_binary_put(sy_weight *w, int bit, int64_t row, int64_t col, bool plus)
{
    if (plus) ((uint8_t *)w->slot[PLANES].data)[(bit * w->out + row) * syi_ceil_div(w->in, 8) + col / 8] |= (uint8_t)(1 << (col % 8));
}

/* v as up to `terms` signed powers of two: what is left is approached again. */
double syi_apot(double v, int terms, int8_t *exponent, bool *minus)
{
    double sum = 0;
    for (int i = 0; i < terms; i++) {
        const double left = v - sum;
        exponent[i] = -128; /* nothing */
        minus[i] = left < 0;
        if (left == 0) continue;
        const double e = rint(log2(fabs(left)));
        if (e < -126 || e > 126) continue;
        exponent[i] = (int8_t)e;
        sum += (left < 0 ? -1 : 1) * ldexp(1, (int)e);
    }
    return sum;
}

sy_status syi_binary_alpha(sy_context *ctx, sy_weight *w, int64_t patch, int bit, float alpha)
{
    const syi_binary_shape s = syi_binary_shape_of(w);
    if (s.terms == 0) return sy_from_f32(ctx, SY_F16, &alpha, (uint16_t *)w->slot[ALPHA].data + patch * s.bits + bit, 1);
    int8_t *e = (int8_t *)w->slot[EXPONENTS].data + (patch * s.bits + bit) * s.terms;
    uint8_t *signs = (uint8_t *)w->slot[SIGNS].data + patch * syi_ceil_div(s.bits * s.terms, 8);
    bool minus[8] = {false};
    (void)syi_apot((double)alpha, s.terms, e, minus);
    for (int i = 0; i < s.terms; i++) {
        const int at = bit * s.terms + i;
        signs[at / 8] = (uint8_t)((signs[at / 8] & ~(1 << (at % 8))) | minus[i] << (at % 8));
    }
    return SY_OK;
}

static float alpha_of(sy_context *ctx, const sy_weight *w, const syi_binary_shape *s, int64_t patch, int bit)
{
    float a = 0;
    if (s->terms == 0) {
        (void)sy_to_f32(ctx, SY_F16, (const uint16_t *)w->slot[ALPHA].data + patch * s->bits + bit, &a, 1);
        return a;
    }
    const int8_t *e = (const int8_t *)w->slot[EXPONENTS].data + (patch * s->bits + bit) * s->terms;
    const uint8_t *signs = (const uint8_t *)w->slot[SIGNS].data + patch * syi_ceil_div(s->bits * s->terms, 8);
    for (int i = 0; i < s->terms; i++) {
        const int at = bit * s->terms + i;
        if (e[i] != -128) a += (signs[at / 8] >> (at % 8) & 1 ? -1.0f : 1.0f) * ldexpf(1, e[i]);
    }
    return a;
}

/* -- checking and laying out ---------------------------------------------------------------- */

static sy_status wrong(sy_context *ctx, const sy_weight *w, const char *what)
{
    return syi_fail(ctx, SY_E_INPUT, "%s: binary-coded weight of [%lld, %lld]: %s; the file is damaged or of another version", w->name ? w->name : "weight", (long long)w->out,
                    (long long)w->in, what);
}

static bool has(const sy_weight *w, int slot, sy_dtype dtype, int rank, int64_t d0, int64_t d1, int64_t d2)
{
    const sy_tensor *t = &w->slot[slot];
    return t->data && t->dtype == dtype && t->rank == rank && t->dim[0] == d0 && (rank < 2 || t->dim[1] == d1) && (rank < 3 || t->dim[2] == d2);
}

static sy_status check(sy_context *ctx, const sy_weight *w)
{
    if (!has(w, PATCH, SY_I32, 1, 6, 0, 0)) return wrong(ctx, w, ".patch is not I32 [6]");
    const int32_t *p = w->slot[PATCH].data;
    if (p[0] < 1 || p[0] > 8 || p[1] < 1 || p[2] < 1 || p[3] < 0 || p[3] > 8 || p[4] != w->in) return wrong(ctx, w, ".patch holds impossible sizes");
    const syi_binary_shape s = syi_binary_shape_of(w);
    const int64_t patches = syi_binary_patches(&s, w->out, w->in);
    if (!has(w, PLANES, SY_U8, 3, s.bits, w->out, syi_ceil_div(w->in, 8))) return wrong(ctx, w, ".planes has another shape");
    if (s.terms == 0 && !has(w, ALPHA, SY_F16, 2, patches, s.bits, 0)) return wrong(ctx, w, ".alpha has another shape");
    if (s.terms > 0 && (!has(w, EXPONENTS, SY_I8, 3, patches, s.bits, s.terms) || !has(w, SIGNS, SY_U8, 2, patches, syi_ceil_div(s.bits * s.terms, 8), 0)))
        return wrong(ctx, w, ".alpha_exp or .alpha_sign has another shape");
    return SY_OK;
}

static void release(sy_context *ctx, sy_weight *w)
{
    fast *f = w->fast;
    if (f) {
        syi_signs_free(ctx, &f->signs);
        syi_pages_free(ctx, f->alpha);
    }
    syi_free(ctx, f);
    w->fast = NULL;
}

static sy_status prepare(sy_context *ctx, sy_weight *w)
{
    SYI_TRY(check(ctx, w));
    const syi_binary_shape s = syi_binary_shape_of(w);
    const int64_t patches = syi_binary_patches(&s, w->out, w->in);
    fast *f = w->fast = syi_calloc(ctx, 1, sizeof *f);
    if (!f) return SY_E_MEMORY;
    f->alpha = syi_pages(ctx, (size_t)(patches * s.bits) * sizeof *f->alpha);
    sy_status st = f->alpha ? SY_OK : SY_E_MEMORY;
    for (int64_t p = 0; p < patches && st == SY_OK; p++)
        for (int b = 0; b < s.bits; b++) f->alpha[p * s.bits + b] = alpha_of(ctx, w, &s, p, b);
    if (st == SY_OK) st = syi_signs_new(ctx, w->out, w->in, s.bits, s.rows, s.cols, w->slot[PLANES].data, f->alpha, &f->signs);
    if (st != SY_OK) release(ctx, w);
    return st;
}

/* -- products ------------------------------------------------------------------------------------ */

static void decode_row(const sy_weight *w, const syi_binary_shape *s, const float *alpha, int64_t row, float *dst)
{
    const uint8_t *planes = w->slot[PLANES].data;
    const int64_t row_bytes = syi_ceil_div(w->in, 8), across = syi_ceil_div(w->out, s->rows);
    memset(dst, 0, (size_t)w->in * sizeof *dst);
    for (int b = 0; b < s->bits; b++) {
        const uint8_t *p = planes + (b * w->out + row) * row_bytes;
        for (int64_t k = 0; k < w->in; k++) {
            const float a = alpha[(k / s->cols * across + row / s->rows) * s->bits + b];
            dst[k] += p[k / 8] >> (k % 8) & 1 ? a : -a;
        }
    }
}

static sy_status rows(syi_engine *e, const void *self, int64_t row, int64_t n, float *dst)
{
    const sy_weight *w = self;
    const syi_binary_shape s = syi_binary_shape_of(w);
    (void)e;
    for (int64_t r = 0; r < n; r++) decode_row(w, &s, ((const fast *)w->fast)->alpha, row + r, dst + r * w->in);
    return SY_OK;
}

static sy_status few(syi_engine *e, const void *self, int64_t m, const float *x, float *y)
{
    const sy_weight *w = self;
    return syi_signs_few(e, &((const fast *)w->fast)->signs, m, x, y);
}

static sy_node *apply(sy_graph *g, const sy_weight *w, sy_node *x, bool transposed)
{
    const fast *f = w->fast;
    return syi_op_stored(g, x, &(syi_stored){.self = w, .out = w->out, .in = w->in, .rows = rows, .few = f && f->signs.code ? few : NULL}, transposed);
}

static sy_status dense(sy_context *ctx, const sy_weight *w, int64_t row, int64_t n, float *dst)
{
    const syi_binary_shape s = syi_binary_shape_of(w);
    const int64_t patches = syi_binary_patches(&s, w->out, w->in);
    float *alpha = syi_pages(ctx, (size_t)(patches * s.bits) * sizeof *alpha);
    if (!alpha) return SY_E_MEMORY;
    for (int64_t p = 0; p < patches; p++)
        for (int b = 0; b < s.bits; b++) alpha[p * s.bits + b] = alpha_of(ctx, w, &s, p, b);
#pragma omp parallel for schedule(static) num_threads(syi_omp(ctx)) if (n * w->in > 65536)
    for (int64_t r = 0; r < n; r++) decode_row(w, &s, alpha, row + r, dst + r * w->in);
    syi_pages_free(ctx, alpha);
    return SY_OK;
}

static double bits(const sy_weight *w) { return 8.0 * (double)syi_weight_bytes(w) / (double)syi_max(1, w->out * w->in); }

static const char *const suffixes[] = {".planes", ".alpha", ".alpha_exp", ".alpha_sign", ".patch", NULL};

const sy_storage sy_storage_binary = {.name = "binary", .title = "sums of +-1 codes with shared scales, f16 or sums of powers of two", .apply = apply, .dense = dense, .bits = bits,
    .suffixes = suffixes, .prepare = prepare, .release = release};
