/* SPDX-License-Identifier: Apache-2.0 */
/* Heat maps as SVG: cells of one size, colours from pale to dark blue (read by colour-blind
 * people and in print), a scale beside each map, and the numbers in the cells as long as
 * they fit. */
#include "report/chart.h"

#include <math.h>

enum { LEFT_MIN = 90, RIGHT = 96, HEAD = 64, TITLE = 34, FOOT = 34, GAP = 18, CELL_H = 22 };

/* Between four colours of rising darkness. */
static void color_of(double t, char out[8])
{
    static const int stops[4][3] = {{247, 251, 255}, {158, 202, 225}, {49, 130, 189}, {8, 48, 107}};
    t = t > 0 ? (t < 1 ? t : 1) : 0;
    const double x = t * 3;
    const int i = x < 3 ? (int)x : 2;
    int c[3];
    for (int k = 0; k < 3; k++) c[k] = (int)lround(stops[i][k] + (x - i) * (stops[i + 1][k] - stops[i][k]));
    snprintf(out, 8, "#%02x%02x%02x", (unsigned)c[0] & 255u, (unsigned)c[1] & 255u, (unsigned)c[2] & 255u);
}

typedef struct { double lo, hi; } range;

static bool shown(double v, bool logarithm) { return isfinite(v) && (!logarithm || v > 0); }

static range range_of(const syi_heat *m, int n)
{
    range r = {INFINITY, -INFINITY};
    for (int i = 0; i < n; i++) {
        if (!shown(m->value[i], m->log)) continue;
        r.lo = fmin(r.lo, m->value[i]);
        r.hi = fmax(r.hi, m->value[i]);
    }
    return r;
}

static double place(double v, range r, bool logarithm)
{
    if (!(r.hi > r.lo)) return 0.5;
    return logarithm ? log(v / r.lo) / log(r.hi / r.lo) : (v - r.lo) / (r.hi - r.lo);
}

/* Two digits, and no more than five characters. */
static void number_text(char buf[24], double v)
{
    if (v == 0) snprintf(buf, 24, "0");
    else if (fabs(v) < 1e-3 || fabs(v) >= 1e5) snprintf(buf, 24, "%.0e", v);
    else if (fabs(v) >= 9.95) snprintf(buf, 24, "%.0f", v);
    else snprintf(buf, 24, "%#.2g", v);
}

/* Has the row anything to show in this map? */
static bool has_row(const syi_heat_page *p, const syi_heat *m, int row)
{
    for (int k = 0; k < p->n_cols; k++)
        if (isfinite(m->value[row * p->n_cols + k])) return true;
    return false;
}

static int rows_of(const syi_heat_page *p, const syi_heat *m)
{
    int n = 0;
    for (int i = 0; i < p->n_rows; i++) n += has_row(p, m, i);
    return n;
}

static void draw_map(const syi_heat_page *p, const syi_heat *m, double left, double top, double cell_w, syi_text *t)
{
    const range r = range_of(m, p->n_rows * p->n_cols);
    char color[8], text[24];
    syi_text_printf(t, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"14\" font-weight=\"bold\" fill=\"#222222\">", left, top - 10);
    syi_svg_text(t, m->title);
    syi_text_puts(t, "</text>\n<g font-size=\"11\">\n");
    for (int i = 0, line = 0; i < p->n_rows; i++) {
        if (!has_row(p, m, i)) continue;
        const double y = top + line++ * CELL_H;
        syi_text_printf(t, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\" fill=\"#222222\">", left - 8, y + CELL_H * 0.68);
        syi_svg_text(t, p->rows[i]);
        syi_text_puts(t, "</text>\n");
        for (int k = 0; k < p->n_cols; k++) {
            const double v = m->value[i * p->n_cols + k];
            if (!isfinite(v)) continue;
            const double at = shown(v, m->log) ? place(v, r, m->log) : 0;
            if (shown(v, m->log)) color_of(at, color);
            else snprintf(color, sizeof color, "#eeeeee"); /* zero, where colours are logarithms */
            syi_text_printf(t, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%d\" fill=\"%s\"><title>", left + k * cell_w, y, cell_w - 1, CELL_H - 1, color);
            syi_svg_text(t, p->rows[i]);
            syi_text_puts(t, ", ");
            syi_svg_text(t, p->cols[k]);
            syi_text_printf(t, ": %.4g</title></rect>\n", v);
            number_text(text, v);
            if (cell_w < 6.2 * (double)strlen(text) + 3) continue;
            syi_text_printf(t, "<text x=\"%.2f\" y=\"%.2f\" text-anchor=\"middle\" fill=\"%s\">%s</text>\n", left + (k + 0.5) * cell_w - 0.5,
                            y + CELL_H * 0.68, at > 0.5 ? "#ffffff" : "#222222", text);
        }
    }
    const double x = left + p->n_cols * cell_w + 14, high = rows_of(p, m) * CELL_H - 1;
    for (int i = 0; i < 24 && r.hi >= r.lo; i++) {
        color_of(1 - (i + 0.5) / 24, color);
        syi_text_printf(t, "<rect x=\"%.2f\" y=\"%.2f\" width=\"12\" height=\"%.2f\" fill=\"%s\"/>\n", x, top + high * i / 24, high / 24 + 0.5, color);
    }
    for (int end = 0; end < 2 && r.hi >= r.lo; end++) {
        number_text(text, end ? r.lo : r.hi);
        syi_text_printf(t, "<text x=\"%.2f\" y=\"%.2f\" fill=\"#222222\">%s</text>\n", x + 17, end ? top + high : top + 9, text);
    }
    syi_text_puts(t, "</g>\n");
}

sy_status syi_heat_svg(sy_context *ctx, const syi_heat_page *p, syi_text *out)
{
    double left = LEFT_MIN;
    for (int i = 0; i < p->n_rows; i++) left = fmax(left, 6.4 * (double)strlen(p->rows[i]) + 20);
    const double cell_w = fmax(6, fmin(46, 1120.0 / (p->n_cols > 0 ? p->n_cols : 1)));
    double height = HEAD;
    for (int m = 0; m < p->n_maps; m++) height += TITLE + rows_of(p, &p->maps[m]) * CELL_H + FOOT + GAP;
    const double width = fmax(left + p->n_cols * cell_w + RIGHT, 560);
    syi_text_printf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" "
                    "font-family=\"Helvetica, Arial, sans-serif\">\n<title>", width, height, width, height);
    syi_svg_text(out, p->title);
    syi_text_printf(out, "</title>\n<rect width=\"%.0f\" height=\"%.0f\" fill=\"#ffffff\"/>\n<text x=\"20\" y=\"28\" font-size=\"18\" font-weight=\"bold\" fill=\"#111111\">", width, height);
    syi_svg_text(out, p->title);
    syi_text_puts(out, "</text>\n<text x=\"20\" y=\"48\" font-size=\"13\" fill=\"#555555\">");
    syi_svg_text(out, p->subtitle != NULL ? p->subtitle : "");
    syi_text_puts(out, "</text>\n");
    const int every = cell_w >= 22 ? 1 : (int)ceil(22 / cell_w);
    double top = HEAD + TITLE;
    for (int m = 0; m < p->n_maps; m++) {
        const double under = top + rows_of(p, &p->maps[m]) * CELL_H;
        draw_map(p, &p->maps[m], left, top, cell_w, out);
        syi_text_puts(out, "<g font-size=\"11\" fill=\"#222222\" text-anchor=\"middle\">\n");
        for (int k = 0; k < p->n_cols; k += every) {
            syi_text_printf(out, "<text x=\"%.2f\" y=\"%.2f\">", left + (k + 0.5) * cell_w, under + 13);
            syi_svg_text(out, p->cols[k]);
            syi_text_puts(out, "</text>\n");
        }
        syi_text_printf(out, "<text x=\"%.2f\" y=\"%.2f\" fill=\"#555555\">", left + p->n_cols * cell_w / 2, under + 28);
        syi_svg_text(out, p->col_label != NULL ? p->col_label : "");
        syi_text_puts(out, "</text>\n</g>\n");
        top = under + FOOT + GAP + TITLE;
    }
    syi_text_puts(out, "</svg>\n");
    return out->failed ? syi_nomem(ctx, out->len) : SY_OK;
}
