/* SPDX-License-Identifier: Apache-2.0 */
/* Charts: ticks against their definition (round, ascending, evenly spaced), smoothing
 * against the closed form, and pictures of all kinds, with hostile text and numbers, read
 * by a small strict XML reader; no coordinate may leave the picture. */
#include "support/test.h"

#include "report/chart.h"

#include <ctype.h>
#include <math.h>

/* Well-formed elements with quoted attributes and matching ends, nothing after the root.
 * Checks "x"/"y"-like attributes of shapes to lie inside width x height. */
static void check_xml(const char *s, double width, double height)
{
    char stack[32][32];
    int depth = 0;
    bool root = false;
    while (*s != '\0') {
        if (*s != '<') {
            assert_false((unsigned char)*s < 0x20 && !isspace((unsigned char)*s));
            assert_true(depth > 0 || isspace((unsigned char)*s));
            assert_int_not_equal(*s, '>');
            if (*s == '&') {
                assert_true(!strncmp(s, "&lt;", 4) || !strncmp(s, "&gt;", 4) || !strncmp(s, "&amp;", 5) || !strncmp(s, "&quot;", 6));
            }
            s++;
            continue;
        }
        char name[32];
        int n = 0;
        bool end = s[1] == '/';
        s += end ? 2 : 1;
        while (isalnum((unsigned char)*s) && n < 31) name[n++] = *s++;
        name[n] = '\0';
        assert_true(n > 0);
        if (end) {
            assert_int_equal(*s++, '>');
            assert_true(depth > 0);
            assert_string_equal(stack[--depth], name);
            continue;
        }
        assert_true(depth > 0 || !root);
        root = true;
        while (*s == ' ') {
            while (*s == ' ') s++;
            char key[32];
            int k = 0;
            while ((isalnum((unsigned char)*s) || *s == '-') && k < 31) key[k++] = *s++;
            key[k] = '\0';
            assert_int_equal(*s++, '=');
            assert_int_equal(*s++, '"');
            const char *value = s;
            while (*s != '"') {
                assert_true(*s != '\0' && *s != '<');
                s++;
            }
            double v = atof(value);
            if (!strcmp(key, "x") || !strcmp(key, "x1") || !strcmp(key, "x2") || !strcmp(key, "cx"))
                assert_true(v >= 0 && v <= width);
            if (!strcmp(key, "y") || !strcmp(key, "y1") || !strcmp(key, "y2") || !strcmp(key, "cy"))
                assert_true(v >= 0 && v <= height);
            if (!strcmp(key, "d")) { /* every pair of a path */
                const char *p = value;
                while (p < s && (*p == 'M' || *p == 'L')) {
                    char *next;
                    double x = strtod(p + 1, &next), y = strtod(next, &next);
                    assert_true(x >= 0 && x <= width && y >= 0 && y <= height);
                    p = next;
                }
                assert_true(p == s || *p == 'V');
            }
            s++;
        }
        if (*s == '/') s++;
        else {
            assert_true(depth < 32);
            strcpy(stack[depth++], name);
        }
        assert_int_equal(*s++, '>');
    }
    assert_int_equal(depth, 0);
    assert_true(root);
}

static void ticks_are_round(void **state)
{
    (void)state;
    static const double range[][2] = {{0, 1}, {0, 10}, {-3.2, 7.7}, {1.9231, 1.9239}, {0, 123456}, {-1e-7, 2e-7}, {99.5, 100.4}};
    for (size_t i = 0; i < sizeof range / sizeof *range; i++) {
        double at[64], lo = range[i][0], hi = range[i][1];
        int n = syi_chart_ticks(lo, hi, false, 6, at, 64);
        assert_true(n >= 3 && n <= 10);
        double step = at[1] - at[0], digit = step / pow(10, floor(log10(step) + 1e-9));
        assert_true(fabs(digit - 1) < 1e-6 || fabs(digit - 2) < 1e-6 || fabs(digit - 5) < 1e-6);
        for (int k = 0; k < n; k++) {
            assert_true(at[k] >= lo - step * 1e-6 && at[k] <= hi + step * 1e-6);
            assert_true(fabs(at[k] / step - round(at[k] / step)) < 1e-6);
            if (k > 0) assert_true(fabs(at[k] - at[k - 1] - step) < step * 1e-6);
        }
        assert_true(at[0] - lo < step && hi - at[n - 1] < step);
    }
    double at[64];
    int n = syi_chart_ticks(1e-3, 1e3, true, 6, at, 64);
    assert_int_equal(n, 7);
    for (int k = 0; k < n; k++) assert_true(fabs(at[k] / pow(10, k - 3) - 1) < 1e-9);
    n = syi_chart_ticks(1.5, 60, true, 6, at, 64);
    static const double few[] = {2, 5, 10, 20, 50};
    assert_int_equal(n, 5);
    for (int k = 0; k < n; k++) assert_true(fabs(at[k] / few[k] - 1) < 1e-9);
    assert_int_equal(syi_chart_ticks(1, 1, false, 6, at, 64), 0);
    assert_int_equal(syi_chart_ticks(NAN, 1, false, 6, at, 64), 0);
    assert_int_equal(syi_chart_ticks(0, 1, false, 6, at, 2), 2); /* never past max */
}

static void smoothing_closed_form(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    double y[50], out[50];
    for (int i = 0; i < 50; i++) y[i] = 3;
    assert_int_equal(syi_chart_smooth(ctx, y, 50, 9, out), SY_OK);
    for (int i = 0; i < 50; i++) assert_true(fabs(out[i] - 3) < 1e-12); /* no bias at the ends */
    for (int i = 0; i < 50; i++) y[i] = sin(i * 1.7);
    y[3] = NAN; /* left out, not spread */
    assert_int_equal(syi_chart_smooth(ctx, y, 50, 9, out), SY_OK);
    for (int i = 0; i < 50; i++) { /* the definition: weights 0.8^distance */
        double sum = 0, weight = 0;
        for (int j = 0; j < 50; j++) {
            if (j == 3) continue;
            sum += pow(0.8, abs(i - j)) * y[j];
            weight += pow(0.8, abs(i - j));
        }
        assert_true(fabs(out[i] - sum / weight) < 1e-12);
    }
    for (int i = 0; i < 50; i++) y[i] = NAN;
    assert_int_equal(syi_chart_smooth(ctx, y, 50, 9, out), SY_OK);
    assert_true(isnan(out[0]) && isnan(out[49]));
    sy_context_free(ctx);
}

static void pictures_are_well_formed(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    enum { N = 20000 };
    double *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
    for (int i = 0; i < N; i++) {
        x[i] = i + 1;
        y[i] = 2 + 8 * exp(-i / 3000.0) + 0.5 * sin(i * 12.9898);
    }
    y[100] = NAN;
    y[101] = INFINITY;
    static const int64_t counts[] = {0, 1, 2, 40, N};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        syi_text out;
        syi_text_init(&out, ctx, 1 << 24);
        assert_int_equal(syi_loss_svg(ctx, "a<b> & \"c\" \x01\xff\xc3\xa9", "sub & title", x, y, counts[i], x, y,
                                      counts[i] > 3 ? 3 : counts[i], &out), SY_OK);
        assert_non_null(out.s);
        check_xml(out.s, 800, 450);
        assert_non_null(strstr(out.s, "a&lt;b&gt; &amp; &quot;c&quot; ??\xc3\xa9"));
        assert_true(out.len < 300000); /* however many steps */
        syi_text_free(&out);
    }
    static const char *const names[] = {"lora", "dora", "full"};
    static const double up[] = {3, 2, 1}, down[] = {-1, 2, NAN}, zero[] = {0, -1, 1e-300};
    const syi_series bars[] = {{"before", SYI_CHART_BARS, 0, NULL, up, 3}, {"after", SYI_CHART_BARS, 1, NULL, down, 3}};
    const syi_series line[] = {{"spectrum", SYI_CHART_LINE, 2, x, y, 500}, {"zeros", SYI_CHART_POINTS, 9, up, zero, 3}};
    const syi_chart charts[] = {
        {.title = "bars", .x_label = "method", .y_label = "loss", .series = bars, .n_series = 2, .categories = names, .n_categories = 3},
        {.title = "log", .x_label = "index", .y_label = "value", .series = line, .n_series = 2, .log_x = true, .log_y = true},
        {.title = NULL, .series = NULL, .n_series = 0, .width = 300, .height = 200},
    };
    for (size_t i = 0; i < sizeof charts / sizeof *charts; i++) {
        syi_text out;
        syi_text_init(&out, ctx, 1 << 24);
        assert_int_equal(syi_chart_svg(ctx, &charts[i], &out), SY_OK);
        check_xml(out.s, charts[i].width ? charts[i].width : 800, charts[i].height ? charts[i].height : 450);
        syi_text_free(&out);
    }
    /* a constant, and a huge range */
    static const double flat[] = {5, 5, 5}, huge[] = {-1e300, 0, 1e300};
    for (int i = 0; i < 2; i++) {
        syi_text out;
        syi_text_init(&out, ctx, 1 << 24);
        assert_int_equal(syi_loss_svg(ctx, "t", NULL, up, i ? huge : flat, 0, x, i ? huge : flat, 3, &out), SY_OK);
        check_xml(out.s, 800, 450);
        syi_text_free(&out);
    }
    assert_int_equal(sy_memory_now(ctx), 0);
    free(x);
    free(y);
    sy_context_free(ctx);
}

/* Bars stand on zero, and their heights are in proportion. */
static void bars_in_proportion(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    static const double v[] = {1, 2, 4};
    static const char *const names[] = {"a", "b", "c"};
    const syi_series bars = {NULL, SYI_CHART_BARS, 0, NULL, v, 3};
    const syi_chart c = {.title = "t", .series = &bars, .n_series = 1, .categories = names, .n_categories = 3};
    syi_text out;
    syi_text_init(&out, ctx, 1 << 24);
    assert_int_equal(syi_chart_svg(ctx, &c, &out), SY_OK);
    double h[3];
    const char *p = strstr(out.s, "<g fill=\"#0b61a4\">");
    for (int i = 0; i < 3; i++) {
        assert_non_null(p = strstr(p, "height=\""));
        h[i] = atof(p += 8);
    }
    assert_true(fabs(h[1] / h[0] - 2) < 0.01 && fabs(h[2] / h[0] - 4) < 0.02);
    syi_text_free(&out);
    sy_context_free(ctx);
}

static void memory_runs_out(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    static const double x[] = {1, 2, 3, 4, 5};
    for (int n = 1; n < 12; n++) {
        syi_text out;
        syi_text_init(&out, ctx, 1 << 24);
        sy_memory_fail_after(ctx, n);
        sy_status status = syi_loss_svg(ctx, "t", NULL, x, x, 5, x, x, 2, &out);
        assert_true(status == SY_OK || status == SY_E_MEMORY);
        if (n < 5) assert_int_equal(status, SY_E_MEMORY);
        sy_memory_fail_after(ctx, 0);
        syi_text_free(&out);
        assert_int_equal(sy_memory_now(ctx), 0);
    }
    sy_context_free(ctx);
}

static void heat_maps(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    enum { R = 3, C = 40 };
    double a[R * C], b[R * C];
    static const char *const rows[R] = {"q<p>", "a \"long\" name & more", "\xff"};
    const char *cols[C];
    char names[C][16];
    for (int k = 0; k < C; k++) {
        snprintf(names[k], sizeof names[k], "%d", k);
        cols[k] = names[k];
        for (int i = 0; i < R; i++) {
            a[i * C + k] = i == 2 ? NAN : i == 1 && k == 3 ? 0 : exp(k - 20);
            b[i * C + k] = k % 5 ? i + k : k % 2 ? INFINITY : -1;
        }
    }
    const syi_heat maps[] = {{"logarithmic", a, true}, {"plain", b, false}};
    syi_heat_page page = {.title = "t & t", .subtitle = "<s>", .col_label = "block", .rows = rows, .cols = cols, .n_rows = R, .n_cols = C, .maps = maps, .n_maps = 2};
    syi_text t;
    syi_text_init(&t, ctx, 1 << 22);
    assert_int_equal(syi_heat_svg(ctx, &page, &t), SY_OK);
    double width = 0, height = 0;
    const char *size = strstr(t.s, "width=\"");
    width = atof(size + 7);
    height = atof(strstr(size, "height=\"") + 8);
    assert_true(width > 100 && height > 100);
    check_xml(t.s, width, height);
    assert_non_null(strstr(t.s, "logarithmic"));
    assert_non_null(strstr(t.s, "#eeeeee")); /* the zero */
    int cells = 0;
    for (const char *p = t.s; (p = strstr(p, "</title></rect>")) != NULL; p++) cells++;
    int want = 2 * C; /* the row of NAN is left out; of the other map what is not finite */
    for (int i = 0; i < R * C; i++) want += isfinite(b[i]);
    assert_int_equal(cells, want);
    syi_text_free(&t);
    syi_text_init(&t, ctx, 1 << 22);
    page.n_cols = page.n_rows = 0; /* nothing at all is a picture too */
    assert_int_equal(syi_heat_svg(ctx, &page, &t), SY_OK);
    check_xml(t.s, 10000, 10000);
    syi_text_free(&t);
    sy_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ticks_are_round),      cmocka_unit_test(smoothing_closed_form),
        cmocka_unit_test(pictures_are_well_formed), cmocka_unit_test(bars_in_proportion),
        cmocka_unit_test(memory_runs_out), cmocka_unit_test(heat_maps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
