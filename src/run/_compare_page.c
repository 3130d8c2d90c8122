/* SPDX-License-Identifier: Apache-2.0 */
/* The page of a comparison: one HTML text with its own style and pictures (SVG inside), light
 * and dark by what the reader's system says, from narrow to wide. And the sentences above it,
 * each of which the numbers support by more than the spread over seeds. */
#include "run/compare.h"

#include "report/chart.h"

#include <math.h>
#include <stdarg.h>

static const char style[] =
    ":root{color-scheme:light dark;--bg:#fff;--card:#f6f7f9;--ink:#1b1f24;--soft:#5b6470;--line:#d5dae1;--rest:#b9c1cc;--mark:#0b63c5;--band:#0b63c533}"
    "@media(prefers-color-scheme:dark){:root{--bg:#14171b;--card:#1d2127;--ink:#e6e9ed;--soft:#a0a9b5;--line:#363d47;--rest:#566070;--mark:#6cb2ff;--band:#6cb2ff40}}"
    "body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif}main{max-width:1280px;margin:auto;padding:1.2rem}"
    "h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:1.8rem 0 .5rem}p.sub,.note{color:var(--soft);margin:.2rem 0 .8rem}li{margin:.25rem 0}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}th,td{padding:.35rem .5rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--bg)}th button{all:unset;cursor:pointer;font-weight:600}th button:focus-visible{outline:2px solid var(--mark)}"
    "td.best{font-weight:700}td small{color:var(--soft)}.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:.8rem}"
    ".wide{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:.8rem}figure{margin:0;background:var(--card);border-radius:8px;padding:.5rem}figcaption{font-size:.9rem;font-weight:600}"
    "svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font:11px system-ui,sans-serif}svg text.name{fill:var(--ink)}svg .axis{stroke:var(--line);fill:none}"
    "svg .rest{stroke:var(--rest);fill:none;stroke-width:1}svg .line{stroke:var(--mark);fill:none;stroke-width:2}svg .band{fill:var(--band);stroke:none}svg .dot{fill:var(--mark)}"
    "pre{background:var(--card);padding:.8rem;border-radius:8px;overflow-x:auto;font-size:.8rem}";

static const char script[] =
    "document.querySelectorAll('th button').forEach((b,i)=>b.onclick=()=>{const t=b.closest('table').tBodies[0],d=b.dataset.d==='1'?-1:1;b.dataset.d=d===1?'1':'0';"
    "[...t.rows].sort((x,y)=>{const p=x.cells[i].dataset.v,q=y.cells[i].dataset.v;if(p===''||q==='')return(p==='')-(q==='');const a=Number(p),c=Number(q);"
    "return d*(isNaN(a)||isNaN(c)?p.localeCompare(q):a-c)}).forEach(r=>t.append(r));"
    "b.closest('tr').querySelectorAll('th').forEach(h=>h.removeAttribute('aria-sort'));b.parentElement.setAttribute('aria-sort',d===1?'ascending':'descending')})";

/* -- numbers ------------------------------------------------------------------------------ */

static double mean_of(const json_t *entry, const char *key)
{
    const json_t *v = json_object_get(json_object_get(entry, key), "mean");
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static double sd_of(const json_t *entry, const char *key)
{
    const json_t *v = json_object_get(json_object_get(entry, key), "sd");
    return json_is_number(v) ? json_number_value(v) : 0;
}

static const char *name_of(const json_t *entry) { return json_string_value(json_object_get(entry, "name")); }

static size_t seeds_of(const json_t *entry) { return json_array_size(json_object_get(entry, "runs")); }

typedef enum { LOSS, SHARE, COUNT, SECONDS, RATE, BYTES, SIGNED, PLAIN } format;

static void show(char buf[48], double v, format f)
{
    char text[32];
    if (!isfinite(v)) snprintf(buf, 48, "–");
    else if (f == LOSS) snprintf(buf, 48, "%.4f", v);
    else if (f == SIGNED) snprintf(buf, 48, "%+.4f", v);
    else if (f == SHARE) snprintf(buf, 48, "%.1f %%", 100 * v);
    else if (f == COUNT) snprintf(buf, 48, v >= 1e6 ? "%.2f M" : "%.0f", v >= 1e6 ? v / 1e6 : v);
    else if (f == SECONDS) snprintf(buf, 48, "%s", syi_human_time(text, v));
    else if (f == RATE) snprintf(buf, 48, "%.0f", v);
    else if (f == BYTES) snprintf(buf, 48, "%s", syi_human_bytes(text, (int64_t)v));
    else snprintf(buf, 48, "%g", v);
}

static const struct { const char *key, *title; format form; int better; /* -1 less, 1 more, 0 neither */ } columns[] = {
    {"test_loss", "test loss", LOSS, -1}, {"test_exact_match", "exact match", SHARE, 1}, {"test_token_accuracy", "right tokens", SHARE, 1},
    {"trained_parameters", "trained parameters", COUNT, -1}, {"seconds", "training time", SECONDS, -1}, {"tokens_per_second", "tokens/s", RATE, 1},
    {"peak_bytes", "peak memory", BYTES, -1}, {"file_bytes", "file size", BYTES, -1}, {"forgetting", "forgetting", SIGNED, -1},
};

/* -- what the numbers say ---------------------------------------------------------------------- */

static void say(json_t *list, const char *fmt, ...)
{
    char buf[600];
    va_list args;
    va_start(args, fmt);
    vsnprintf(buf, sizeof buf, fmt, args);
    va_end(args);
    json_array_append_new(list, json_string(buf));
}

/* Standard error of a difference of two means, from the spread over seeds. */
static double error_of(const json_t *a, const json_t *b, const char *key)
{
    const double x = sd_of(a, key), y = sd_of(b, key);
    return sqrt(x * x / (double)syi_max(1, (int64_t)seeds_of(a)) + y * y / (double)syi_max(1, (int64_t)seeds_of(b)));
}

static const json_t *extreme(const json_t *methods, const char *key, int better)
{
    const json_t *best = NULL;
    for (size_t i = 0; i < json_array_size(methods); i++) {
        const json_t *m = json_array_get(methods, i);
        const double v = mean_of(m, key);
        if (isfinite(v) && (!best || better * v > better * mean_of(best, key))) best = m;
    }
    return best;
}

json_t *syi_compare_summary(const json_t *result)
{
    const json_t *methods = json_object_get(result, "methods"), *base = json_object_get(result, "base"), *best = extreme(methods, "test_loss", -1);
    json_t *list = json_array();
    char a[48], b[48];
    if (!best) return list;
    const double top = mean_of(best, "test_loss");
    if (seeds_of(best) < 2) say(list, "One seed: differences below are not known to be more than chance.");
    say(list, "Lowest test loss: %s, %.4f (the model before training: %.4f).", name_of(best), top, json_number_value(json_object_get(base, "test_loss")));
    int close = 0;
    char names[400] = "";
    for (size_t i = 0; i < json_array_size(methods); i++) {
        const json_t *m = json_array_get(methods, i);
        const double off = mean_of(m, "test_loss") - top, error = error_of(m, best, "test_loss");
        if (m == best || !isfinite(off) || seeds_of(best) < 2 || off > 2 * error) continue;
        const size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", close++ ? ", " : "", name_of(m));
    }
    if (close) say(list, "Not told apart from it by these seeds (within two standard errors): %s.", names);
    const json_t *exact = extreme(methods, "test_exact_match", 1);
    if (exact && mean_of(exact, "test_exact_match") > 0)
        say(list, "Most answers right to the last token: %s, %.1f %%.", name_of(exact), 100 * mean_of(exact, "test_exact_match"));
    else if (exact) say(list, "No method had an answer right to the last token.");
    const json_t *quick = extreme(methods, "seconds", -1), *slow = extreme(methods, "seconds", 1);
    if (quick && slow && quick != slow) {
        show(a, mean_of(quick, "seconds"), SECONDS);
        show(b, mean_of(slow, "seconds"), SECONDS);
        say(list, "Fastest training: %s (%s); slowest: %s (%s).", name_of(quick), a, name_of(slow), b);
    }
    const json_t *lean = extreme(methods, "peak_bytes", -1), *fat = extreme(methods, "peak_bytes", 1);
    if (lean && fat && lean != fat) {
        show(a, mean_of(lean, "peak_bytes"), BYTES);
        show(b, mean_of(fat, "peak_bytes"), BYTES);
        say(list, "Least peak memory: %s (%s); most: %s (%s).", name_of(lean), a, name_of(fat), b);
    }
    const json_t *kept = extreme(methods, "forgetting", -1), *lost = extreme(methods, "forgetting", 1);
    if (kept && lost && kept != lost)
        say(list, "On the control text %s changed least for the worse (%+.4f), %s most (%+.4f).", name_of(kept), mean_of(kept, "forgetting"), name_of(lost), mean_of(lost, "forgetting"));
    for (size_t i = 0; i < json_array_size(methods); i++) { /* rates at the edge of what was tried */
        const json_t *m = json_array_get(methods, i), *tried = json_object_get(m, "lrs");
        const size_t n = json_array_size(tried);
        if (n < 2) continue;
        double low = INFINITY, high = 0;
        for (size_t k = 0; k < n; k++) {
            const double v = json_number_value(json_object_get(json_array_get(tried, k), "lr"));
            low = fmin(low, v);
            high = fmax(high, v);
        }
        const double lr = json_number_value(json_object_get(m, "lr"));
        if (lr == low || lr == high) say(list, "%s did best at %g, the %s learning rate that was tried: another might do better.", name_of(m), lr, lr == low ? "lowest" : "highest");
    }
    return list;
}

/* -- pictures ---------------------------------------------------------------------------------- */

typedef struct { double *step, *mean, *low, *high; int64_t n; } curve;

/* Smoothed losses of all seeds: their mean, least and largest at every step. */
static sy_status curve_of(sy_context *ctx, const json_t *entry, curve *out)
{
    const json_t *runs = json_object_get(entry, "runs"), *first = json_object_get(json_array_get(runs, 0), "curve");
    const int64_t n = (int64_t)json_array_size(first);
    *out = (curve){.n = n};
    out->step = syi_calloc(ctx, (size_t)(6 * n + 6), sizeof(double));
    if (!out->step) return SY_E_MEMORY;
    out->mean = out->step + n;
    out->low = out->mean + n;
    out->high = out->low + n;
    double *raw = out->high + n, *smooth = raw + n;
    for (size_t r = 0; r < json_array_size(runs); r++) {
        const json_t *c = json_object_get(json_array_get(runs, r), "curve");
        for (int64_t i = 0; i < n; i++) raw[i] = i < (int64_t)json_array_size(c) ? json_number_value(json_array_get(json_array_get(c, (size_t)i), 1)) : NAN;
        SYI_TRY(syi_chart_smooth(ctx, raw, n, fmax(1, (double)n / 20), smooth));
        for (int64_t i = 0; i < n; i++) {
            out->step[i] = json_number_value(json_array_get(json_array_get(first, (size_t)i), 0));
            out->mean[i] += smooth[i] / (double)json_array_size(runs);
            out->low[i] = r ? fmin(out->low[i], smooth[i]) : smooth[i];
            out->high[i] = r ? fmax(out->high[i], smooth[i]) : smooth[i];
        }
    }
    return SY_OK;
}

typedef struct { double x0, x1, y0, y1; bool log_x; int width, height, left, bottom; } frame;

static double px(const frame *f, double x)
{
    const double t = f->log_x ? (log(x) - log(f->x0)) / (log(f->x1) - log(f->x0)) : (x - f->x0) / (f->x1 - f->x0);
    return f->left + t * (f->width - f->left - 12);
}

static double py(const frame *f, double y) { return f->height - f->bottom - (y - f->y0) / (f->y1 - f->y0) * (f->height - f->bottom - 10); }

static void widen(double *lo, double *hi, double share)
{
    if (!(*hi > *lo)) {
        const double d = fabs(*lo) > 0 ? fabs(*lo) * 0.05 : 1;
        *lo -= d;
        *hi += d;
        return;
    }
    const double d = (*hi - *lo) * share;
    *lo -= d;
    *hi += d;
}

static void axes(syi_text *t, const frame *f, const char *x_label, const char *y_label, format xf)
{
    double at[16];
    char buf[48];
    syi_text_printf(t, "<path class=\"axis\" d=\"M%d 6V%dH%d\"/>", f->left, f->height - f->bottom, f->width - 8);
    int n = syi_chart_ticks(f->y0, f->y1, false, 4, at, 16);
    for (int i = 0; i < n; i++)
        syi_text_printf(t, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g</text><path class=\"axis\" d=\"M%d %.1fh-4\"/>", f->left - 6, py(f, at[i]) + 4, at[i], f->left, py(f, at[i]));
    n = syi_chart_ticks(f->x0, f->x1, f->log_x, 4, at, 16);
    if (n < 2) n = syi_chart_ticks(f->x0, f->x1, false, 3, at, 16); /* less than a decade */
    for (int i = 0; i < n; i++) {
        show(buf, at[i], xf);
        syi_text_printf(t, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text><path class=\"axis\" d=\"M%.1f %dv4\"/>", px(f, at[i]), f->height - f->bottom + 16, buf, px(f, at[i]), f->height - f->bottom);
    }
    syi_text_printf(t, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text><text x=\"%d\" y=\"12\">%s</text>", (f->left + f->width) / 2, f->height - 4, x_label, f->left + 6, y_label);
}

static void path_of(syi_text *t, const frame *f, const curve *c, const double *y, const char *class)
{
    const int64_t stride = syi_max(1, c->n / 200);
    syi_text_printf(t, "<path class=\"%s\" d=\"", class);
    for (int64_t i = 0; i < c->n; i += stride)
        if (isfinite(y[i])) syi_text_printf(t, "%s%.1f %.1f", i ? "L" : "M", px(f, c->step[i]), py(f, y[i]));
    syi_text_puts(t, "\"/>");
}

static void panel(syi_text *t, const frame *f, const curve *all, int n, int which, const char *name)
{
    const curve *c = &all[which];
    const int64_t stride = syi_max(1, c->n / 200);
    syi_text_puts(t, "<figure><figcaption>");
    syi_svg_text(t, name);
    syi_text_printf(t, "</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"training loss\">", f->width, f->height);
    axes(t, f, "step", "loss", PLAIN);
    for (int k = 0; k < n; k++)
        if (k != which) path_of(t, f, &all[k], all[k].mean, "rest");
    syi_text_puts(t, "<path class=\"band\" d=\"");
    for (int64_t i = 0; i < c->n; i += stride) syi_text_printf(t, "%s%.1f %.1f", i ? "L" : "M", px(f, c->step[i]), py(f, c->high[i]));
    for (int64_t i = (c->n - 1) / stride * stride; i >= 0; i -= stride) syi_text_printf(t, "L%.1f %.1f", px(f, c->step[i]), py(f, c->low[i]));
    syi_text_puts(t, "Z\"/>");
    path_of(t, f, c, c->mean, "line");
    syi_text_puts(t, "</svg></figure>");
}

static sy_status curves(sy_context *ctx, const json_t *methods, syi_text *t)
{
    const int n = (int)json_array_size(methods);
    curve *all = syi_calloc(ctx, (size_t)syi_max(1, n), sizeof *all);
    frame f = {.x0 = INFINITY, .x1 = -INFINITY, .y0 = INFINITY, .y1 = -INFINITY, .width = 300, .height = 190, .left = 46, .bottom = 34};
    sy_status st = all ? SY_OK : SY_E_MEMORY;
    for (int i = 0; i < n && st == SY_OK; i++) {
        st = curve_of(ctx, json_array_get(methods, (size_t)i), &all[i]);
        for (int64_t k = 0; st == SY_OK && k < all[i].n; k++) {
            if (!isfinite(all[i].mean[k])) continue;
            f.x0 = fmin(f.x0, all[i].step[k]);
            f.x1 = fmax(f.x1, all[i].step[k]);
            f.y0 = fmin(f.y0, all[i].low[k]);
            f.y1 = fmax(f.y1, all[i].high[k]);
        }
    }
    if (st == SY_OK && isfinite(f.x0)) {
        widen(&f.x0, &f.x1, 0);
        widen(&f.y0, &f.y1, 0.04);
        syi_text_puts(t, "<h2>Training loss</h2><p class=\"note\">Smoothed; the band is the range over seeds, thin lines are the other methods.</p><div class=\"grid\">");
        for (int i = 0; i < n; i++) panel(t, &f, all, n, i, name_of(json_array_get(methods, (size_t)i)));
        syi_text_puts(t, "</div>");
    }
    for (int i = 0; all && i < n; i++) syi_free(ctx, all[i].step);
    syi_free(ctx, all);
    return st;
}

/* Test loss against a cost. Labels go where they do not cover each other: below the last one
 * when it is near. */
static void scatter(syi_text *t, const json_t *methods, const char *key, const char *label, format xf, bool log_x)
{
    frame f = {.x0 = INFINITY, .x1 = -INFINITY, .y0 = INFINITY, .y1 = -INFINITY, .width = 400, .height = 280, .left = 50, .bottom = 36, .log_x = log_x};
    double placed[64][2];
    int n = 0;
    for (size_t i = 0; i < json_array_size(methods); i++) {
        const json_t *m = json_array_get(methods, i);
        const double x = mean_of(m, key), y = mean_of(m, "test_loss"), sd = sd_of(m, "test_loss");
        if (!isfinite(x) || !isfinite(y) || x <= 0) continue;
        f.x0 = fmin(f.x0, x);
        f.x1 = fmax(f.x1, x);
        f.y0 = fmin(f.y0, y - sd);
        f.y1 = fmax(f.y1, y + sd);
    }
    if (!isfinite(f.x0)) return;
    if (log_x) {
        double lo = log(f.x0), hi = log(f.x1);
        widen(&lo, &hi, 0.1);
        f.x0 = exp(lo);
        f.x1 = exp(hi);
    } else {
        widen(&f.x0, &f.x1, 0.1);
        f.x0 = fmax(0, f.x0);
    }
    widen(&f.y0, &f.y1, 0.1);
    syi_text_printf(t, "<figure><figcaption>Test loss against %s</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"test loss against %s\">", label, f.width, f.height, label);
    axes(t, &f, label, "test loss", xf);
    for (size_t i = 0; i < json_array_size(methods); i++) {
        const json_t *m = json_array_get(methods, i);
        const double x = mean_of(m, key), y = mean_of(m, "test_loss"), sd = sd_of(m, "test_loss");
        if (!isfinite(x) || !isfinite(y) || x <= 0 || n == 64) continue;
        const bool right = px(&f, x) > f.width - 90;
        double ty = py(&f, y) + 4;
        for (int tries = 0; tries < 64; tries++) {
            bool hit = false;
            for (int k = 0; k < n; k++) hit |= fabs(placed[k][1] - ty) < 11 && fabs(placed[k][0] - px(&f, x)) < 85;
            if (!hit) break;
            ty += 11.5;
        }
        placed[n][0] = px(&f, x);
        placed[n++][1] = ty;
        syi_text_printf(t, "<path class=\"line\" style=\"stroke-width:1\" d=\"M%.1f %.1fV%.1f\"/><circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/><text class=\"name\" x=\"%.1f\" y=\"%.1f\"%s>",
                        px(&f, x), py(&f, y - sd), py(&f, y + sd), px(&f, x), py(&f, y), px(&f, x) + (right ? -8 : 8), ty, right ? " text-anchor=\"end\"" : "");
        syi_svg_text(t, name_of(m));
        syi_text_puts(t, "</text>");
    }
    syi_text_puts(t, "</svg></figure>");
}

/* -- the table ----------------------------------------------------------------------------------- */

static void table(syi_text *t, const json_t *methods)
{
    syi_text_puts(t, "<div class=\"scroll\"><table><thead><tr><th scope=\"col\"><button>method</button></th>");
    for (int k = 0; k < SYI_COUNT(columns); k++)
        if (extreme(methods, columns[k].key, 1)) syi_text_printf(t, "<th scope=\"col\"><button>%s</button></th>", columns[k].title);
    syi_text_puts(t, "<th scope=\"col\"><button>learning rate</button></th></tr></thead><tbody>");
    for (size_t i = 0; i < json_array_size(methods); i++) {
        const json_t *m = json_array_get(methods, i);
        char buf[48], spread[48];
        syi_text_puts(t, "<tr><td data-v=\"");
        syi_svg_text(t, name_of(m));
        syi_text_puts(t, "\">");
        syi_svg_text(t, name_of(m));
        syi_text_puts(t, "</td>");
        for (int k = 0; k < SYI_COUNT(columns); k++) {
            if (!extreme(methods, columns[k].key, 1)) continue;
            const double v = mean_of(m, columns[k].key), sd = sd_of(m, columns[k].key);
            const bool differ = mean_of(extreme(methods, columns[k].key, 1), columns[k].key) != mean_of(extreme(methods, columns[k].key, -1), columns[k].key);
            const bool best = columns[k].better && differ && extreme(methods, columns[k].key, columns[k].better) == m;
            show(buf, v, columns[k].form);
            if (isfinite(v)) syi_text_printf(t, "<td%s data-v=\"%.9g\">%s", best ? " class=\"best\"" : "", v, buf);
            else syi_text_puts(t, "<td data-v=\"\">–");
            if (isfinite(v) && seeds_of(m) > 1 && sd > 0 && (columns[k].form == LOSS || columns[k].form == SHARE || columns[k].form == SIGNED)) {
                show(spread, sd, columns[k].form == SIGNED ? LOSS : columns[k].form);
                syi_text_printf(t, " <small>±%s</small>", spread);
            }
            syi_text_puts(t, "</td>");
        }
        const double lr = json_number_value(json_object_get(m, "lr"));
        syi_text_printf(t, "<td data-v=\"%.9g\">%g</td></tr>", lr, lr);
    }
    syi_text_puts(t, "</tbody></table></div><p class=\"note\">Means over seeds, ± standard deviation; the best of a column is bold. Forgetting: loss on the control text after training minus before. "
                     "A heading sorts.</p>");
}

static void dump(syi_text *t, const json_t *j)
{
    char *s = json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    syi_text_puts(t, "<pre>");
    if (s) syi_svg_text(t, s);
    syi_text_puts(t, "</pre>");
    syi_json_free_text(s);
}

sy_status syi_compare_page(sy_context *ctx, const json_t *result, syi_text *t)
{
    const json_t *asked = json_object_get(result, "asked"), *methods = json_object_get(result, "methods"), *summary = json_object_get(result, "summary");
    const char *title = json_string_value(json_object_get(asked, "title")), *model = json_string_value(json_object_get(asked, "model")), *data = json_string_value(json_object_get(asked, "data"));
    if (!title) title = "Comparison of methods";
    syi_text_puts(t, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>");
    syi_svg_text(t, title);
    syi_text_printf(t, "</title><style>%s</style></head><body><main><h1>", style);
    syi_svg_text(t, title);
    syi_text_puts(t, "</h1><p class=\"sub\">");
    syi_svg_text(t, model ? model : "");
    syi_text_puts(t, " on ");
    syi_svg_text(t, data ? data : "");
    const json_t *first = json_array_get(json_object_get(json_array_get(methods, 0), "runs"), 0);
    syi_text_printf(t, "; %zu methods, %zu seeds, %lld steps, %lld tokens a run</p><h2>What the numbers say</h2><ul>", json_array_size(methods), json_array_size(json_object_get(asked, "seeds")),
                    (long long)json_integer_value(json_object_get(first, "steps")), (long long)json_integer_value(json_object_get(first, "tokens")));
    for (size_t i = 0; i < json_array_size(summary); i++) {
        syi_text_puts(t, "<li>");
        syi_svg_text(t, json_string_value(json_array_get(summary, i)));
        syi_text_puts(t, "</li>");
    }
    syi_text_puts(t, "</ul><h2>All methods</h2>");
    table(t, methods);
    const json_t *steps = json_object_get(asked, "time-steps");
    const size_t repeats = json_array_size(json_object_get(json_array_get(methods, 0), "timed"));
    syi_text_puts(t, "<p class=\"note\">");
    if (json_is_integer(steps) && repeats)
        syi_text_printf(t, "Times and peak memory were measured apart from the runs: %lld steps of each method in turn, %zu times over; medians. Training time is a run's number of steps "
                        "times the step, and the start (opening the model, decompositions, passes over the data) and saving added.", (long long)json_integer_value(steps), repeats);
    else
        syi_text_puts(t, "Times are those of the runs themselves, with whatever else the machine was doing.");
    syi_text_puts(t, "</p>");
    SYI_TRY(curves(ctx, methods, t));
    syi_text_puts(t, "<h2>Quality and cost</h2><div class=\"wide\">");
    scatter(t, methods, "trained_parameters", "trained parameters", COUNT, true);
    scatter(t, methods, "peak_bytes", "peak memory", BYTES, false);
    scatter(t, methods, "seconds", "training time", SECONDS, false);
    syi_text_puts(t, "</div><h2>Settings</h2><details><summary>What was asked for</summary>");
    dump(t, asked);
    syi_text_printf(t, "</details></main><script>%s</script></body></html>\n", script);
    return t->failed ? syi_nomem(ctx, t->len) : SY_OK;
}
