/* SPDX-License-Identifier: Apache-2.0 */
/* Pictures as SVG text: charts of lines, points and bars, and the loss curve that every
 * training run leaves. Dark on white, no scripts, no external fonts. Internal. */
#ifndef SYI_CHART_H
#define SYI_CHART_H

#include "base/base.h"

typedef enum {
    SYI_CHART_LINE,   /* a line; a y that is not finite is a gap                        */
    SYI_CHART_FAINT,  /* the same, thin and light: raw values behind a smoothed line    */
    SYI_CHART_POINTS, /* a line with dots                                              */
    SYI_CHART_BARS    /* y over the chart's categories (x is not read)                 */
} syi_chart_kind;

typedef struct {
    const char *label;    /* in the legend; NULL: not listed                            */
    syi_chart_kind kind;
    int color;            /* 0..6 of a palette that colour-blind people can tell apart  */
    const double *x, *y;  /* [n], x ascending                                          */
    int64_t n;
} syi_series;

typedef struct {
    const char *title, *subtitle; /* subtitle may be NULL                               */
    const char *x_label, *y_label;
    const syi_series *series;
    int n_series;
    const char *const *categories; /* names under bars, NULL: a numeric x axis          */
    int n_categories;
    bool log_x, log_y;    /* values that are not positive are left out                  */
    int width, height;    /* 0: 800 x 450                                              */
} syi_chart;

/* Appends a whole SVG document. Any n is fine: lines of more points than the picture has
 * columns are drawn by each column's extremes. SY_E_MEMORY only. */
sy_status syi_chart_svg(sy_context *ctx, const syi_chart *chart, syi_text *out);

/* Text inside of an SVG element: escaped, what XML forbids replaced. */
void syi_svg_text(syi_text *out, const char *s);

/* Heat maps under each other that share their columns: a value per row and column. */
typedef struct {
    const char *title;
    const double *value;   /* [rows, cols]; not finite: no cell                        */
    bool log;              /* colours by the logarithm                                */
} syi_heat;
typedef struct {
    const char *title, *subtitle, *col_label;
    const char *const *rows, *const *cols;
    int n_rows, n_cols;
    const syi_heat *maps;
    int n_maps;
} syi_heat_page;
/* Appends a whole SVG document. SY_E_MEMORY only. */
sy_status syi_heat_svg(sy_context *ctx, const syi_heat_page *page, syi_text *out);

/* Ticks of an axis from lo to hi (lo < hi): about `want` round numbers inside, ascending,
 * into at[max]; returns how many. */
int syi_chart_ticks(double lo, double hi, bool log, int want, double *at, int max);

/* y smoothed without lag: weights k^distance to both sides, k = 1 - 2/(window+1), which sum
 * to 1 at every point. Values that are not finite are left out; out: NAN where none is. */
sy_status syi_chart_smooth(sy_context *ctx, const double *y, int64_t n, double window, double *out);

/* The loss curve of a run: raw and smoothed training loss, evaluations as points. */
sy_status syi_loss_svg(sy_context *ctx, const char *title, const char *subtitle, const double *step, const double *loss,
                       int64_t n, const double *eval_step, const double *eval_loss, int64_t n_eval, syi_text *out);

#endif
