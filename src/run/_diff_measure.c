/* SPDX-License-Identifier: Apache-2.0 */
/* Norms, cosine and spectrum of the difference of two tensors, read in slices of rows.
 *
 * Sums are f64, over pieces of a fixed size added in their order, so they do not depend on
 * the threads. Singular values: from the factors where the difference is one plain LoRA;
 * all of them from the Gram matrix (tensor/gram.c) where the short side allows; else the
 * leading ones by randomised SVD, and then the effective rank is an upper bound, as the
 * rest of the squared norm is spread evenly over the values that are not known. */
#include "run/diff.h"

#include <math.h>

enum { SLICE = 1 << 22, PIECE = 1 << 15, AUTO_SIDE = 2048, LEADING = 128 };

typedef struct { double a2, b2, d2, ab, max; int64_t changed, not_finite; } piece;

/* d = b - a (add: d = b, b = a + b) and the sums of one piece. */
static piece measure_piece(const float *a, float *b, float *d, int64_t n, bool add)
{
    piece p = {0};
    for (int64_t i = 0; i < n; i++) {
        const double x = a != NULL ? (double)a[i] : 0, u = b != NULL ? (double)b[i] : 0;
        const double y = add ? x + u : u, v = add ? u : y - x;
        d[i] = (float)v;
        if (!isfinite(x) || !isfinite(y)) {
            p.not_finite++;
            d[i] = 0;
            continue;
        }
        p.a2 += x * x;
        p.b2 += y * y;
        p.ab += x * y;
        p.d2 += v * v;
        p.max = fabs(v) > p.max ? fabs(v) : p.max;
        p.changed += v != 0;
    }
    return p;
}

static sy_status measure_slice(sy_context *ctx, const float *a, float *b, float *d, int64_t n, bool add, syi_diff_result *out)
{
    const int64_t pieces = syi_ceil_div(n, PIECE);
    const int threads = syi_omp(ctx);
    piece *p = syi_alloc(ctx, (size_t)pieces * sizeof *p);
    if (p == NULL) return SY_E_MEMORY;
#pragma omp parallel for num_threads(threads) if (pieces > 4)
    for (int64_t k = 0; k < pieces; k++) {
        const int64_t at = k * PIECE;
        p[k] = measure_piece(a != NULL ? a + at : NULL, b != NULL ? b + at : NULL, d + at, syi_min(PIECE, n - at), add);
    }
    for (int64_t k = 0; k < pieces; k++) {
        out->a2 += p[k].a2;
        out->b2 += p[k].b2;
        out->d2 += p[k].d2;
        out->ab += p[k].ab;
        out->max = fmax(out->max, p[k].max);
        out->changed += p[k].changed;
        out->not_finite += p[k].not_finite;
    }
    out->count += n;
    syi_free(ctx, p);
    return SY_OK;
}

/* -- spectrum ------------------------------------------------------------------------------ */

/* Ranks from the n largest of `full` singular values. */
static void rank_it(const double *s, int64_t n, int64_t full, double d2, syi_diff_result *out)
{
    double sum = 0, square = 0, entropy = 0;
    out->n_sigma = n;
    out->full_rank = full;
    for (int64_t i = 0; i < n && i < SYI_DIFF_TOP; i++) out->sigma[i] = s[i];
    for (int64_t i = 0; i < n; i++) {
        sum += s[i];
        square += s[i] * s[i];
    }
    const int64_t unknown = full - n;
    const double rest = unknown > 0 ? fmax(0, d2 - square) : 0, each = unknown > 0 ? sqrt(rest / (double)unknown) : 0;
    const double all = square + rest, total = sum + each * (double)unknown;
    if (!(total > 0)) return;
    for (int64_t i = 0; i < n; i++)
        if (s[i] > 0) entropy -= s[i] / total * log(s[i] / total);
    if (each > 0) entropy -= (double)unknown * (each / total) * log(each / total);
    out->effective_rank = exp(entropy);
    out->stable_rank = all / (s[0] * s[0]);
    out->rank90 = out->rank99 = -1;
    double so_far = 0;
    for (int64_t i = 0; i < n; i++) {
        so_far += s[i] * s[i];
        if (out->rank90 < 0 && so_far >= 0.9 * all) out->rank90 = i + 1;
        if (out->rank99 < 0 && so_far >= 0.99 * all) out->rank99 = i + 1;
    }
}

/* scale * B A: the values of S V^T A, where B = U S V^T. */
static sy_status of_factors(sy_context *ctx, const syi_lora_pair *p, syi_diff_result *out)
{
    const int64_t m = p->b.dim[0], r = p->a.dim[0], n = p->a.dim[1], k = syi_min(m, r), l = syi_min(k, n);
    float *u = syi_alloc(ctx, (size_t)(m * k + k + k * r + k * n + k * l + l + l * n) * sizeof *u);
    double *s = syi_alloc(ctx, (size_t)l * sizeof *s);
    sy_status status = u != NULL && s != NULL ? SY_OK : sy_error_code(ctx);
    if (status == SY_OK) {
        float *sb = u + m * k, *v = sb + k, *c = v + k * r, *uc = c + k * n, *sc = uc + k * l, *vc = sc + l;
        const float *a = p->a.data;
        status = syi_svd(ctx, m, r, p->b.data, u, sb, v);
        for (int64_t i = 0; status == SY_OK && i < k; i++)
            for (int64_t j = 0; j < n; j++) {
                double x = 0;
                for (int64_t t = 0; t < r; t++) x += (double)v[i * r + t] * (double)a[t * n + j];
                c[i * n + j] = (float)(x * (double)sb[i]);
            }
        if (status == SY_OK) status = syi_svd(ctx, k, n, c, uc, sc, vc);
        for (int64_t i = 0; status == SY_OK && i < l; i++) s[i] = fabs(p->scale) * (double)sc[i];
    }
    if (status == SY_OK) {
        out->exact = true;
        rank_it(s, l, l, out->d2, out);
        out->full_rank = syi_min(m, n);
    }
    syi_free(ctx, u);
    syi_free(ctx, s);
    return status;
}

static sy_status of_gram(sy_context *ctx, int64_t n, double *g, syi_diff_result *out)
{
    double *s = syi_alloc(ctx, (size_t)n * sizeof *s);
    if (s == NULL) return SY_E_MEMORY;
    sy_status status = syi_gram_values(ctx, n, g, s);
    if (status == SY_OK) {
        for (int64_t i = 0; i < n; i++)
            if (s[i] < 1e-7 * s[0]) s[i] = 0; /* rounding of the squares */
        out->exact = true;
        rank_it(s, n, n, out->d2, out);
    }
    syi_free(ctx, s);
    return status;
}

static sy_status of_leading(sy_context *ctx, syi_engine *e, int64_t rows, int64_t cols, const float *d, uint64_t seed, syi_diff_result *out)
{
    const int64_t full = syi_min(rows, cols), k = syi_min(LEADING, full);
    float *u = syi_alloc(ctx, (size_t)(rows * k + k + k * cols) * sizeof *u);
    double *s = syi_alloc(ctx, (size_t)k * sizeof *s);
    sy_status status = u != NULL && s != NULL ? SY_OK : sy_error_code(ctx);
    if (status == SY_OK) status = syi_rsvd(e, rows, cols, d, k, 2, syi_key(seed, "diff", "spectrum", 0), u, u + rows * k, u + rows * k + k);
    for (int64_t i = 0; status == SY_OK && i < k; i++) s[i] = (double)u[rows * k + i];
    if (status == SY_OK) {
        out->exact = k == full;
        rank_it(s, k, full, out->d2, out);
    }
    syi_free(ctx, u);
    syi_free(ctx, s);
    return status;
}

/* -- one pair -------------------------------------------------------------------------------- */

typedef struct { float *a, *b, *d; double *gram; bool whole, wide; int64_t slice; } work;

static sy_status begin(sy_context *ctx, work *w, int64_t rows, int64_t cols, bool spectrum, bool leading, bool two)
{
    w->wide = spectrum && !leading && rows < cols;
    w->whole = spectrum && (leading || w->wide);
    w->slice = syi_max(1, syi_min(rows, SLICE / syi_max(1, cols)));
    const int64_t side = syi_min(rows, cols), n = w->slice * cols;
    w->b = syi_alloc(ctx, (size_t)n * sizeof *w->b);
    w->a = two ? syi_alloc(ctx, (size_t)n * sizeof *w->a) : NULL;
    w->d = syi_alloc(ctx, (size_t)(w->whole ? rows * cols : n) * sizeof *w->d);
    w->gram = spectrum && !leading ? syi_calloc(ctx, (size_t)side * (size_t)side, sizeof *w->gram) : NULL;
    return w->b != NULL && w->d != NULL && (w->a != NULL || !two) && (w->gram != NULL || !spectrum || leading) ? SY_OK : sy_error_code(ctx);
}

static sy_status go(sy_context *ctx, work *w, syi_diff_side *sa, const syi_diff_item *a, syi_diff_side *sb, const syi_diff_item *b, bool add,
                    syi_diff_result *out)
{
    const syi_diff_item *any = a != NULL ? a : b;
    const int64_t rows = any->rows, cols = any->cols;
    for (int64_t row = 0; row < rows; row += w->slice) {
        const int64_t n = syi_min(w->slice, rows - row);
        float *d = w->whole ? w->d + row * cols : w->d, *va = a != NULL ? (b != NULL ? w->a : w->b) : NULL, *vb = b != NULL ? w->b : NULL;
        if (a != NULL) SYI_TRY(syi_diff_rows(sa, a, row, n, va));
        if (b != NULL) SYI_TRY(syi_diff_rows(sb, b, row, n, vb));
        SYI_TRY(measure_slice(ctx, va, vb, d, n * cols, add, out));
        if (w->gram != NULL && !w->wide) SYI_TRY(syi_gram_add(ctx, false, n, cols, d, w->gram));
        if (sy_cancelled(ctx)) return syi_fail(ctx, SY_E_CANCELLED, "interrupted");
    }
    return SY_OK;
}

sy_status syi_diff_measure(sy_context *ctx, syi_engine *e, syi_diff_side *sa, const syi_diff_item *a, syi_diff_side *sb,
                           const syi_diff_item *b, bool add, syi_spectrum_how how, uint64_t seed, syi_diff_result *out)
{
    const syi_diff_item *any = a != NULL ? a : b;
    const int64_t rows = any->rows, cols = any->cols, side = syi_min(rows, cols);
    *out = (syi_diff_result){.count = 0};
    if (a != NULL && b != NULL && (a->rows != b->rows || a->cols != b->cols))
        return syi_fail(ctx, SY_E_BUG, "diff: %s has other shapes", a->name);
    if (rows * cols == 0) return SY_OK;
    /* one plain LoRA and nothing else: its factors say it */
    const syi_lora_pair *pair = b != NULL && b->pair != NULL && (a == NULL || add) ? b->pair : b == NULL ? a->pair : NULL;
    const bool matrix = how != SYI_SPECTRUM_OFF && side > 1, dense = matrix && pair == NULL;
    const bool leading = dense && (how == SYI_SPECTRUM_FAST || (how == SYI_SPECTRUM_AUTO && side > AUTO_SIDE)) && side > LEADING;
    work w = {0};
    sy_status status = begin(ctx, &w, rows, cols, dense, leading, a != NULL && b != NULL);
    if (status == SY_OK) status = go(ctx, &w, sa, a, sb, b, add, out);
    if (status == SY_OK && matrix && out->d2 > 0) {
        if (pair != NULL) status = of_factors(ctx, pair, out);
        else if (leading) status = of_leading(ctx, e, rows, cols, w.d, seed, out);
        else {
            if (w.wide) status = syi_gram_add(ctx, true, rows, cols, w.d, w.gram);
            if (status == SY_OK) status = of_gram(ctx, side, w.gram, out);
        }
    }
    syi_free(ctx, w.a);
    syi_free(ctx, w.b);
    syi_free(ctx, w.d);
    syi_free(ctx, w.gram);
    syi_diff_forget(a);
    syi_diff_forget(b);
    return status;
}
