/* SPDX-License-Identifier: Apache-2.0 */
/* See _rebasin_look.h. */
#include "_rebasin_look.h"

#include "report/chart.h"
#include "tensor/orth.h"

#include <math.h>

/* -- how well singular vectors align ---------------------------------------------------------------- */

sy_status rebasin_align(sy_context *ctx, int64_t m, int64_t n, const float *a, const float *b, const double *gamma, int n_gamma, double *sum, double *count)
{
    const int64_t q = syi_min(m, n), each = q * (m + n + 1);
    double *x = syi_alloc(ctx, (size_t)(m * n + 2 * each + 2 * q * q) * sizeof *x);
    if (!x) return SY_E_MEMORY;
    double *part[2] = { x + m * n, x + m * n + each }, *uu = part[1] + each, *vv = uu + q * q;
    sy_status st = SY_OK;
    for (int k = 0; k < 2 && st == SY_OK; k++) {
        for (int64_t i = 0; i < m * n; i++) x[i] = (double)(k ? b : a)[i];
        st = syi_leading(ctx, m, n, x, q, part[k], part[k] + q * (m + n), part[k] + q * m);
    }
    if (st == SY_OK) { /* all inner products once; thresholds take the leading ones */
        syi_mul_f64(false, true, q, q, m, 1, part[0], part[1], 0, uu);
        syi_mul_f64(false, true, q, q, n, 1, part[0] + q * m, part[1] + q * m, 0, vv);
    }
    for (int g = 0; g < n_gamma && st == SY_OK; g++) {
        int64_t kept[2] = { 0, 0 };
        for (int k = 0; k < 2; k++)
            while (kept[k] < q && part[k][q * (m + n) + kept[k]] >= gamma[g] * part[k][q * (m + n)]) kept[k]++;
        for (int64_t i = 0; i < kept[0]; i++)
            for (int64_t j = 0; j < kept[1]; j++) sum[g] += uu[i * q + j] * vv[i * q + j];
        count[g] += (double)syi_min(kept[0], kept[1]);
    }
    syi_free(ctx, x);
    return st;
}

sy_status rebasin_alignment(const rebasin *r, const float *const *a, const float *const *b, const double *gamma, int n, double *out)
{
    double *count = syi_calloc(r->ctx, (size_t)syi_max(1, n), sizeof *count);
    sy_status st = count ? SY_OK : SY_E_MEMORY;
    for (int i = 0; i < n; i++) out[i] = 0;
    for (int t = 0; t < r->n_tensors && st == SY_OK; t++) {
        const rebasin_tensor *x = &r->tensor[t];
        if (x->rank < 2 || strstr(x->name, "embed")) continue;
        st = rebasin_align(r->ctx, x->dim[0], x->count / x->dim[0], a[t], b[t], gamma, n, out, count);
    }
    for (int i = 0; i < n && st == SY_OK; i++) out[i] = count[i] > 0 ? out[i] / count[i] : 0;
    syi_free(r->ctx, count);
    return st;
}

/* -- the line between ------------------------------------------------------------------------------------ */

sy_status rebasin_line_measure(rebasin_net *n, const float *const *a, const float *const *b, int64_t points, int64_t batches, rebasin_line *out)
{
    float **x = NULL;
    *out = (rebasin_line){ .points = points, .t = syi_alloc(n->ctx, (size_t)(3 * points) * sizeof(double)) };
    if (!out->t) return SY_E_MEMORY;
    out->loss = out->t + points;
    out->accuracy = out->loss + points;
    out->middle_accuracy = NAN;
    sy_status st = rebasin_fresh(n->r, NULL, &x);
    for (int64_t i = -1; i < points && st == SY_OK; i++) { /* the midpoint first: an even grid has none */
        const double t = i < 0 ? 0.5 : (double)i / (double)(points - 1);
        syi_evaluation e;
        rebasin_between(n->r, t, a, b, x);
        if (t > 0 && t < 1) st = rebasin_net_statistics(n, x, batches);
        if (st == SY_OK) st = rebasin_net_loss(n, (const float *const *)x, &e);
        if (st != SY_OK) break;
        if (i < 0) {
            out->midpoint = e.loss;
            out->middle_accuracy = e.accuracy;
            continue;
        }
        out->t[i] = t;
        out->loss[i] = e.loss;
        out->accuracy[i] = e.accuracy;
    }
    rebasin_drop(n->r, x);
    if (st != SY_OK) return st;
    const double la = out->loss[0], lb = out->loss[points - 1];
    out->midpoint -= (la + lb) / 2;
    out->barrier = fmax(0, out->midpoint);
    for (int64_t i = 0; i < points; i++) out->barrier = fmax(out->barrier, out->loss[i] - (1 - out->t[i]) * la - out->t[i] * lb);
    return SY_OK;
}

void rebasin_line_free(sy_context *ctx, rebasin_line *l)
{
    syi_free(ctx, l->t);
    *l = (rebasin_line){ .points = 0 };
}

/* -- the barrier that derivatives predict ---------------------------------------------------------------- */

static double dot(const rebasin *r, float *const *x, float *const *y)
{
    double s = 0;
    for (int t = 0; t < r->n_tensors; t++)
        for (int64_t i = 0; i < r->tensor[t].count; i++) s += (double)x[t][i] * (double)y[t][i];
    return s;
}

/* mu . gradient at x, over an epoch (16 steps at most). */
static sy_status slope(rebasin_net *n, float *const *x, float *const *mu, float **g, double *out)
{
    const int64_t steps = syi_min(16, syi_max(1, n->rows / syi_max(1, n->step_rows)));
    double loss;
    *out = 0;
    for (int64_t k = 0; k < steps; k++) {
        SYI_TRY(rebasin_net_gradient(n, (const float *const *)x, k, g, &loss));
        *out += dot(n->r, mu, g) / (double)steps;
    }
    return SY_OK;
}

sy_status rebasin_predict(rebasin_net *n, const float *const *a, const float *const *b, double *out)
{
    enum { MU, X, G, N };
    const rebasin *r = n->r;
    const double h = 1e-2; /* of the way between: central differences of the slope give mu^T H mu */
    float **x[N] = { NULL };
    double at[2] = { 0 }, low, high, curve = 0;
    sy_status st = SY_OK;
    for (int k = 0; k < N && st == SY_OK; k++) st = rebasin_fresh(r, NULL, &x[k]);
    for (int t = 0; t < r->n_tensors && st == SY_OK; t++)
        for (int64_t i = 0; i < r->tensor[t].count; i++) x[MU][t][i] = r->tensor[t].silent ? 0 : b[t][i] - a[t][i];
    for (int end = 0; end < 2 && st == SY_OK; end++) {
        rebasin_between(r, end, a, b, x[X]);
        st = slope(n, x[X], x[MU], x[G], &at[end]);
        if (st == SY_OK) {
            rebasin_between(r, end - h, a, b, x[X]);
            st = slope(n, x[X], x[MU], x[G], &low);
        }
        if (st == SY_OK) {
            rebasin_between(r, end + h, a, b, x[X]);
            st = slope(n, x[X], x[MU], x[G], &high);
        }
        if (st == SY_OK) curve += 0.5 * (high - low) / (2 * h);
    }
    if (st == SY_OK) *out = 0.25 * (at[0] - at[1] + 0.5 * curve);
    for (int k = 0; k < N; k++) rebasin_drop(r, x[k]);
    return st;
}

/* -- pictures ---------------------------------------------------------------------------------------------- */

static sy_status draw(sy_context *ctx, const char *dir, const char *name, const syi_chart *chart)
{
    syi_text svg;
    SYI_TRY(syi_mkdirs(ctx, dir));
    char *path = syi_join(ctx, dir, name);
    syi_text_init(&svg, ctx, 1 << 22);
    sy_status st = path ? syi_chart_svg(ctx, chart, &svg) : SY_E_MEMORY;
    if (st == SY_OK) st = syi_write_file(ctx, path, svg.s, (int64_t)svg.len);
    syi_text_free(&svg);
    syi_free(ctx, path);
    return st;
}

sy_status rebasin_draw_lines(sy_context *ctx, const char *dir, const rebasin_line *before, const rebasin_line *after)
{
    char text[160];
    snprintf(text, sizeof text, "barrier %.4f as they are, %.4f after one's units were moved onto the other's", before->barrier, after->barrier);
    const syi_series loss[] = { { "as they are", SYI_CHART_POINTS, 1, before->t, before->loss, before->points }, { "matched", SYI_CHART_POINTS, 0, after->t, after->loss, after->points } };
    const syi_series hits[] = { { "as they are", SYI_CHART_POINTS, 1, before->t, before->accuracy, before->points }, { "matched", SYI_CHART_POINTS, 0, after->t, after->accuracy, after->points } };
    SYI_TRY(draw(ctx, dir, "barrier.svg", &(syi_chart){ .title = "Loss on the line between two networks", .subtitle = text, .x_label = "share of the second network", .y_label = "loss",
                                                        .series = loss, .n_series = 2 }));
    if (!isfinite(before->middle_accuracy)) return SY_OK;
    return draw(ctx, dir, "accuracy.svg", &(syi_chart){ .title = "Accuracy on the line between two networks", .x_label = "share of the second network", .y_label = "accuracy", .series = hits,
                                                        .n_series = 2 });
}

sy_status rebasin_draw_alignment(sy_context *ctx, const char *dir, const double *gamma, const double *before, const double *after, int n)
{
    const syi_series r[] = { { "as they are", SYI_CHART_POINTS, 1, gamma, before, n }, { "matched", SYI_CHART_POINTS, 0, gamma, after, n } };
    return draw(ctx, dir, "alignment.svg", &(syi_chart){ .title = "Alignment of singular vectors", .subtitle = "of those whose singular value is at least this share of their matrix' first",
                                                         .x_label = "threshold", .y_label = "R", .series = r, .n_series = 2 });
}
