/* SPDX-License-Identifier: Apache-2.0 */
/* Charts as SVG. One pass finds the ranges, one draws: frame, grid and round ticks, then
 * the series in the order given, then the legend under the title where it can hide
 * nothing. Numbers are written with two decimals, so equal data give equal files. */
#include "chart.h"

#include <math.h>

static const char *const palette[] = {"#0b61a4", "#d1490c", "#00795a", "#8f3f97", "#b8860b", "#3f8fb5", "#555555"};

enum { LEFT = 74, RIGHT = 24, BOTTOM = 56 };

typedef struct {
    const syi_chart *c;
    syi_text *out;
    double x0, x1, y0, y1;               /* ranges of the axes (logarithms if log) */
    double left, right, top, bottom;     /* of the frame, in pixels                */
} plot;

static bool usable(double v, bool log)
{
    return isfinite(v) && (!log || v > 0);
}

static double px(const plot *p, double x)
{
    double v = p->c->log_x ? log10(x) : x;
    return p->left + (v - p->x0) / (p->x1 - p->x0) * (p->right - p->left);
}

static double py(const plot *p, double y)
{
    double v = p->c->log_y ? log10(y) : y;
    return p->bottom - (v - p->y0) / (p->y1 - p->y0) * (p->bottom - p->top);
}

/* Bytes of the well-formed UTF-8 character at s, 0 if there is none. */
static int utf8_length(const unsigned char *s)
{
    int n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if (n == 3 && ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xef && s[1] == 0xbf && s[2] > 0xbd)))
        return 0;
    if (n == 4 && ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))) return 0;
    return n;
}

/* Text that any XML parser takes: markup escaped, what XML forbids replaced. */
void syi_svg_text(syi_text *t, const char *s)
{
    while (*s != '\0') {
        int n = utf8_length((const unsigned char *)s);
        if (*s == '<') syi_text_puts(t, "&lt;");
        else if (*s == '>') syi_text_puts(t, "&gt;");
        else if (*s == '&') syi_text_puts(t, "&amp;");
        else if (*s == '"') syi_text_puts(t, "&quot;");
        else if (n == 0 || (n == 1 && ((unsigned char)*s < 0x20 || *s == 0x7f))) syi_text_puts(t, "?");
        else syi_text_add(t, s, (size_t)n);
        s += n > 0 ? n : 1;
    }
}

/* -- axes ------------------------------------------------------------------------- */

int syi_chart_ticks(double lo, double hi, bool log, int want, double *at, int max)
{
    int n = 0;
    if (!(isfinite(lo) && isfinite(hi)) || hi <= lo || want < 1) return 0;
    if (log) {
        /* Powers of ten; with 2 and 5 between them when they are few. */
        static const double fine[] = {1, 2, 5};
        if (lo <= 0) return 0;
        int first = (int)floor(log10(lo)), last = (int)ceil(log10(hi));
        int parts = last - first <= want / 2 ? 3 : 1;
        int stride = parts == 1 ? (last - first) / (want + 1) + 1 : 1;
        for (int e = first; e <= last; e += stride)
            for (int k = 0; k < parts; k++) {
                double v = fine[k] * pow(10, e);
                if (v >= lo * (1 - 1e-9) && v <= hi * (1 + 1e-9) && n < max) at[n++] = v;
            }
        return n;
    }
    double raw = (hi - lo) / want, unit = pow(10, floor(log10(raw))), step = raw / unit;
    step = (step < 1.5 ? 1 : step < 3 ? 2 : step < 7 ? 5 : 10) * unit; /* the nearest round one */
    for (double i = ceil(lo / step - 1e-9); i * step <= hi + step * 1e-9 && n < max; i++) {
        double v = i * step;
        at[n++] = fabs(v) < step * 1e-9 ? 0 : v;
    }
    return n;
}

/* 0.25, 12, 20k, 1.5M; as many decimals as the distance between ticks asks for. */
static void tick_text(char buf[32], double v, double step)
{
    double size = fabs(v), big = fabs(v) > 0 ? size : step;
    if (v == 0) snprintf(buf, 32, "0");
    else if (big >= 1e13 || big < 1e-4) snprintf(buf, 32, "%.3g", v);
    else if (big >= 1e10) snprintf(buf, 32, "%gG", round(v / 1e9 * 1e6) / 1e6);
    else if (big >= 1e7) snprintf(buf, 32, "%gM", round(v / 1e6 * 1e6) / 1e6);
    else if (big >= 1e4) snprintf(buf, 32, "%gk", round(v / 1e3 * 1e6) / 1e6);
    else {
        int decimals = step > 0 && step < 1 ? (int)ceil(-log10(step) - 1e-9) : 0;
        snprintf(buf, 32, "%.*f", decimals > 8 ? 8 : decimals, v);
    }
}

static void widen(double *lo, double *hi, double by)
{
    if (!(*lo <= *hi)) { /* no value at all */
        *lo = 0;
        *hi = 1;
    }
    double span = *hi - *lo;
    if (span <= 0 || span < 1e-12 * fabs(*hi)) span = *lo == 0 ? 1 : fabs(*lo) * 0.1;
    else span *= by;
    *lo -= span;
    *hi += span;
}

static void find_ranges(plot *p)
{
    const syi_chart *c = p->c;
    double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
    bool bars = false;
    for (int s = 0; s < c->n_series; s++) {
        const syi_series *r = &c->series[s];
        bars |= r->kind == SYI_CHART_BARS;
        for (int64_t i = 0; i < r->n; i++) {
            if (!usable(r->y[i], c->log_y)) continue;
            double y = c->log_y ? log10(r->y[i]) : r->y[i];
            if (r->kind != SYI_CHART_BARS) {
                if (!usable(r->x[i], c->log_x)) continue;
                double x = c->log_x ? log10(r->x[i]) : r->x[i];
                if (x < x0) x0 = x;
                if (x > x1) x1 = x;
            }
            if (y < y0) y0 = y;
            if (y > y1) y1 = y;
        }
    }
    if (bars && !c->log_y) { /* lengths of bars are compared: they start at 0 */
        if (y0 > 0) y0 = 0;
        if (y1 < 0) y1 = 0;
    }
    bool at_zero = bars && y0 == 0, at_top = bars && y1 == 0;
    widen(&x0, &x1, 0.015);
    widen(&y0, &y1, 0.06);
    if (at_zero && y1 > 0) y0 = 0;
    if (at_top && y0 < 0) y1 = 0;
    p->x0 = x0;
    p->x1 = x1;
    p->y0 = y0;
    p->y1 = y1;
}

static void draw_axes(plot *p)
{
    const syi_chart *c = p->c;
    double at[32];
    char text[32];
    double lo = c->log_y ? pow(10, p->y0) : p->y0, hi = c->log_y ? pow(10, p->y1) : p->y1;
    int n = syi_chart_ticks(lo, hi, c->log_y, 6, at, SYI_COUNT(at));
    syi_text_puts(p->out, "<g stroke=\"#e4e4e4\" stroke-width=\"1\">\n");
    for (int i = 0; i < n; i++)
        syi_text_printf(p->out, "<line x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\"/>\n", p->left, py(p, at[i]),
                        p->right, py(p, at[i]));
    syi_text_puts(p->out, "</g>\n<g font-size=\"13\" fill=\"#333333\" text-anchor=\"end\">\n");
    for (int i = 0; i < n; i++) {
        tick_text(text, at[i], c->log_y ? at[i] : n > 1 ? at[1] - at[0] : at[i]);
        syi_text_printf(p->out, "<text x=\"%.2f\" y=\"%.2f\">%s</text>\n", p->left - 9, py(p, at[i]) + 4.5, text);
    }
    syi_text_puts(p->out, "</g>\n<g font-size=\"13\" fill=\"#333333\" text-anchor=\"middle\">\n");
    if (c->categories != NULL) {
        for (int i = 0; i < c->n_categories; i++) {
            double x = p->left + (i + 0.5) * (p->right - p->left) / c->n_categories;
            syi_text_printf(p->out, "<text x=\"%.2f\" y=\"%.2f\">", x, p->bottom + 20);
            syi_svg_text(p->out, c->categories[i]);
            syi_text_puts(p->out, "</text>\n");
        }
    } else {
        lo = c->log_x ? pow(10, p->x0) : p->x0;
        hi = c->log_x ? pow(10, p->x1) : p->x1;
        n = syi_chart_ticks(lo, hi, c->log_x, 8, at, SYI_COUNT(at));
        for (int i = 0; i < n; i++) {
            tick_text(text, at[i], c->log_x ? at[i] : n > 1 ? at[1] - at[0] : at[i]);
            syi_text_printf(p->out, "<line x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\" stroke=\"#333333\"/>\n",
                            px(p, at[i]), p->bottom, px(p, at[i]), p->bottom + 5);
            syi_text_printf(p->out, "<text x=\"%.2f\" y=\"%.2f\">%s</text>\n", px(p, at[i]), p->bottom + 20, text);
        }
    }
    syi_text_puts(p->out, "</g>\n");
    syi_text_printf(p->out, "<path d=\"M%.2f %.2fV%.2fH%.2f\" fill=\"none\" stroke=\"#333333\" stroke-width=\"1.2\"/>\n",
                    p->left, p->top, p->bottom, p->right);
    syi_text_puts(p->out, "<g font-size=\"14\" fill=\"#111111\" text-anchor=\"middle\">\n");
    if (c->x_label != NULL) {
        syi_text_printf(p->out, "<text x=\"%.2f\" y=\"%.2f\">", (p->left + p->right) / 2, p->bottom + 43);
        syi_svg_text(p->out, c->x_label);
        syi_text_puts(p->out, "</text>\n");
    }
    if (c->y_label != NULL) {
        double y = (p->top + p->bottom) / 2;
        syi_text_printf(p->out, "<text x=\"20\" y=\"%.2f\" transform=\"rotate(-90 20 %.2f)\">", y, y);
        syi_svg_text(p->out, c->y_label);
        syi_text_puts(p->out, "</text>\n");
    }
    syi_text_puts(p->out, "</g>\n");
}

/* -- series ------------------------------------------------------------------------ */

static void line_to(plot *p, bool *pen, double x, double y)
{
    syi_text_printf(p->out, "%c%.2f %.2f", *pen ? 'L' : 'M', x, y);
    *pen = true;
}

/* The path of one line. Where a column of pixels holds several points, its first, lowest,
 * highest and last one are drawn: the picture is the same and the file stays small. */
static void draw_line(plot *p, const syi_series *r, double width, double opacity)
{
    bool pen = false;
    syi_text_printf(p->out,
                    "<path fill=\"none\" stroke=\"%s\" stroke-width=\"%g\" stroke-opacity=\"%g\" "
                    "stroke-linejoin=\"round\" stroke-linecap=\"round\" d=\"",
                    palette[r->color % SYI_COUNT(palette)], width, opacity);
    for (int64_t i = 0; i < r->n;) {
        if (!usable(r->y[i], p->c->log_y) || !usable(r->x[i], p->c->log_x)) {
            pen = false;
            i++;
            continue;
        }
        double x = px(p, r->x[i]), first = py(p, r->y[i]), low = first, high = first, last = first, to = x;
        int64_t end = i + 1;
        for (; end < r->n && usable(r->y[end], p->c->log_y) && usable(r->x[end], p->c->log_x); end++) {
            double next = px(p, r->x[end]);
            if (floor(next) != floor(x)) break;
            last = py(p, r->y[end]);
            if (last < low) low = last;
            if (last > high) high = last;
            to = next;
        }
        line_to(p, &pen, x, first);
        if (end - i > 2) {
            line_to(p, &pen, x, low);
            line_to(p, &pen, x, high);
        }
        if (end - i > 1) line_to(p, &pen, to, last);
        else if (r->n == 1) line_to(p, &pen, x, first); /* a dot, by the round cap */
        i = end;
    }
    syi_text_puts(p->out, "\"/>\n");
}

static void draw_dots(plot *p, const syi_series *r)
{
    double before = -INFINITY;
    syi_text_printf(p->out, "<g fill=\"%s\" stroke=\"#ffffff\" stroke-width=\"1\">\n",
                    palette[r->color % SYI_COUNT(palette)]);
    for (int64_t i = 0; i < r->n; i++) {
        if (!usable(r->y[i], p->c->log_y) || !usable(r->x[i], p->c->log_x)) continue;
        double x = px(p, r->x[i]);
        if (x - before < 3 && i + 1 < r->n) continue; /* dots that would cover each other */
        before = x;
        syi_text_printf(p->out, "<circle cx=\"%.2f\" cy=\"%.2f\" r=\"4\"/>\n", x, py(p, r->y[i]));
    }
    syi_text_puts(p->out, "</g>\n");
}

static void draw_bars(plot *p, const syi_series *r, int index, int groups)
{
    int n = p->c->n_categories > 0 ? p->c->n_categories : (int)syi_max(r->n, 1);
    double slot = (p->right - p->left) / n, width = slot * 0.76 / groups;
    double base = p->c->log_y ? p->bottom : py(p, 0);
    syi_text_printf(p->out, "<g fill=\"%s\">\n", palette[r->color % SYI_COUNT(palette)]);
    for (int64_t i = 0; i < r->n && i < n; i++) {
        if (!usable(r->y[i], p->c->log_y)) continue;
        double x = p->left + (double)i * slot + slot * 0.12 + index * width, y = py(p, r->y[i]);
        syi_text_printf(p->out, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"/>\n", x, y < base ? y : base,
                        width * 0.94, fabs(y - base));
    }
    syi_text_puts(p->out, "</g>\n");
}

static void draw_legend(plot *p, double y)
{
    double x = p->left;
    syi_text_puts(p->out, "<g font-size=\"13\" fill=\"#333333\">\n");
    for (int s = 0; s < p->c->n_series; s++) {
        const syi_series *r = &p->c->series[s];
        if (r->label == NULL) continue;
        const char *color = palette[r->color % SYI_COUNT(palette)];
        if (r->kind == SYI_CHART_BARS)
            syi_text_printf(p->out, "<rect x=\"%.2f\" y=\"%.2f\" width=\"14\" height=\"11\" fill=\"%s\"/>\n", x + 4, y - 10,
                            color);
        else
            syi_text_printf(p->out,
                            "<line x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\" stroke=\"%s\" stroke-width=\"%s\" "
                            "stroke-opacity=\"%s\"/>\n",
                            x, y - 4.5, x + 22, y - 4.5, color, r->kind == SYI_CHART_FAINT ? "1.5" : "2.4",
                            r->kind == SYI_CHART_FAINT ? "0.35" : "1");
        if (r->kind == SYI_CHART_POINTS)
            syi_text_printf(p->out, "<circle cx=\"%.2f\" cy=\"%.2f\" r=\"4\" fill=\"%s\"/>\n", x + 11, y - 4.5, color);
        syi_text_printf(p->out, "<text x=\"%.2f\" y=\"%.2f\">", x + 28, y);
        syi_svg_text(p->out, r->label);
        syi_text_puts(p->out, "</text>\n");
        x += 28 + 7.3 * (double)strlen(r->label) + 22;
    }
    syi_text_puts(p->out, "</g>\n");
}

sy_status syi_chart_svg(sy_context *ctx, const syi_chart *c, syi_text *out)
{
    int width = c->width > 0 ? c->width : 800, height = c->height > 0 ? c->height : 450;
    int labels = 0, groups = 0;
    for (int s = 0; s < c->n_series; s++) {
        labels += c->series[s].label != NULL;
        groups += c->series[s].kind == SYI_CHART_BARS;
    }
    plot p = {.c = c, .out = out, .left = LEFT, .right = width - RIGHT, .bottom = height - BOTTOM};
    p.top = 36 + (c->subtitle != NULL ? 20 : 0) + (labels > 0 ? 26 : 0) + 6;
    find_ranges(&p);
    syi_text_printf(out,
                    "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
                    "role=\"img\" font-family=\"Helvetica, Arial, sans-serif\">\n<title>",
                    width, height, width, height);
    syi_svg_text(out, c->title != NULL ? c->title : "");
    syi_text_printf(out, "</title>\n<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n", width, height);
    if (c->title != NULL) {
        syi_text_printf(out, "<text x=\"%d\" y=\"28\" font-size=\"18\" font-weight=\"bold\" fill=\"#111111\">", LEFT);
        syi_svg_text(out, c->title);
        syi_text_puts(out, "</text>\n");
    }
    if (c->subtitle != NULL) {
        syi_text_printf(out, "<text x=\"%d\" y=\"48\" font-size=\"13\" fill=\"#555555\">", LEFT);
        syi_svg_text(out, c->subtitle);
        syi_text_puts(out, "</text>\n");
    }
    draw_axes(&p);
    for (int s = 0, bar = 0; s < c->n_series; s++) {
        const syi_series *r = &c->series[s];
        switch (r->kind) {
        case SYI_CHART_BARS: draw_bars(&p, r, bar++, groups); break;
        case SYI_CHART_FAINT: draw_line(&p, r, 1.2, 0.35); break;
        case SYI_CHART_LINE: draw_line(&p, r, 2.2, 1); break;
        case SYI_CHART_POINTS:
            draw_line(&p, r, 1.6, 0.8);
            draw_dots(&p, r);
            break;
        }
    }
    if (labels > 0) draw_legend(&p, p.top - 14);
    syi_text_puts(out, "</svg>\n");
    return out->failed ? syi_nomem(ctx, out->len) : SY_OK;
}

/* -- the loss curve ----------------------------------------------------------------- */

sy_status syi_chart_smooth(sy_context *ctx, const double *y, int64_t n, double window, double *out)
{
    double keep = 1 - 2 / (window + 1), sum = 0, weight = 0;
    double *weights = syi_calloc(ctx, (size_t)syi_max(n, 1), sizeof *weights);
    if (weights == NULL) return SY_E_MEMORY;
    for (int64_t i = 0; i < n; i++) { /* this value and those before it */
        bool fine = isfinite(y[i]);
        out[i] = sum = keep * sum + (fine ? y[i] : 0);
        weights[i] = weight = keep * weight + fine;
    }
    sum = weight = 0;
    for (int64_t i = n - 1; i >= 0; i--) { /* and those after it */
        weights[i] += keep * weight;
        out[i] = weights[i] > 0 ? (out[i] + keep * sum) / weights[i] : NAN;
        bool fine = isfinite(y[i]);
        sum = keep * sum + (fine ? y[i] : 0);
        weight = keep * weight + fine;
    }
    syi_free(ctx, weights);
    return SY_OK;
}

sy_status syi_loss_svg(sy_context *ctx, const char *title, const char *subtitle, const double *step, const double *loss,
                       int64_t n, const double *eval_step, const double *eval_loss, int64_t n_eval, syi_text *out)
{
    double *smooth = syi_calloc(ctx, (size_t)syi_max(n, 1), sizeof *smooth);
    if (smooth == NULL) return SY_E_MEMORY;
    sy_status status = syi_chart_smooth(ctx, loss, n, n / 25.0 < 3 ? 3 : (double)n / 25.0, smooth);
    syi_series series[3];
    int used = 0;
    if (n > 1) series[used++] = (syi_series){"training loss", SYI_CHART_FAINT, 0, step, loss, n};
    if (n > 0) series[used++] = (syi_series){n > 1 ? "smoothed" : "training loss", SYI_CHART_LINE, 0, step, smooth, n};
    if (n_eval > 0) series[used++] = (syi_series){"evaluation loss", SYI_CHART_POINTS, 1, eval_step, eval_loss, n_eval};
    syi_chart chart = {.title = title, .subtitle = subtitle, .x_label = "step", .y_label = "loss (nats per token)",
                       .series = series, .n_series = used};
    if (status == SY_OK) status = syi_chart_svg(ctx, &chart, out);
    syi_free(ctx, smooth);
    return status;
}
