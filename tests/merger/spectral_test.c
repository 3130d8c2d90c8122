/* SPDX-License-Identifier: Apache-2.0 */
/* Mergers of singular spaces: Iso-C's result has all singular values equal to the mean of
 * the sum's; TSV's directions are orthonormal and one model comes back; Iso-CTS spans the
 * space; the decompositions behind them against LAPACK. */
#include "support/merging.h"

#include "tensor/kernels.h"
#include "tensor/orth.h"

#include <math.h>

enum { ROWS = 24, COLS = 17, COUNT = ROWS * COLS };

static uint64_t state_ = 5;
static float noise(void)
{
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(state_ >> 11) * 0x1p-53 * 2 - 1);
}

static float base[COUNT], one[3][COUNT], vector[5], moved[3][5];

static void models(merging *m)
{
    for (int i = 0; i < COUNT; i++) {
        base[i] = noise();
        for (int k = 0; k < 3; k++) one[k][i] = base[i] + 0.1f * noise();
    }
    for (int i = 0; i < 5; i++) {
        vector[i] = noise();
        for (int k = 0; k < 3; k++) moved[k][i] = vector[i] + 0.1f * noise();
    }
    static const char *const names[] = { "a", "b", "c" };
    merging_tensor t[2] = { { "x.weight", 2, { ROWS, COLS }, base }, { "x.bias", 1, { 5 }, vector } };
    merging_model(m, "base", SY_F32, t, 2);
    for (int k = 0; k < 3; k++) {
        t[0].data = one[k];
        t[1].data = moved[k];
        merging_model(m, names[k], SY_F32, t, 2);
    }
}

static void singular_values(merging *m, const double *x, double *s)
{
    float a[COUNT], u[ROWS * COLS], v[COLS * COLS], f[COLS];
    for (int i = 0; i < COUNT; i++) a[i] = (float)x[i];
    assert_int_equal(syi_svd(m->ctx, ROWS, COLS, a, u, f, v), SY_OK);
    for (int i = 0; i < COLS; i++) s[i] = f[i];
}

static void result(merging *m, const char *out, double *d)
{
    float w[COUNT], b[5];
    merging_read(m, out, "x.weight", w, COUNT);
    merging_read(m, out, "x.bias", b, 5);
    for (int i = 0; i < COUNT; i++) d[i] = (double)w[i] - base[i];
    for (int i = 0; i < 5; i++) assert_float_equal(b[i], (moved[0][i] + moved[1][i] + moved[2][i]) / 3, 1e-6);
}

#define THREE "base_model: base\nmodels: [{model: a}, {model: b}, {model: c}]\n"

static void iso_c(void **state)
{
    merging *m = *state;
    double d[COUNT], sum[COUNT] = { 0 }, s[COLS], t[COLS], nuclear = 0;
    models(m);
    merging_ok(m, "merge_method: iso_c\n" THREE, "out");
    result(m, "out", d);
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < COUNT; i++) sum[i] += (double)one[k][i] - base[i];
    singular_values(m, sum, s);
    singular_values(m, d, t);
    for (int i = 0; i < COLS; i++) nuclear += s[i];
    for (int i = 0; i < COLS; i++) assert_float_equal(t[i], nuclear / COLS, 1e-6);
    /* the same directions: <d, sum> = mean singular value times their sum */
    double dot = 0;
    for (int i = 0; i < COUNT; i++) dot += d[i] * sum[i];
    assert_float_equal(dot, nuclear * nuclear / COLS, 1e-5);
}

static void tsv(void **state)
{
    merging *m = *state;
    double d[COUNT], s[COLS], t[COLS];
    float w[COUNT];
    models(m);
    merging_ok(m, "merge_method: tsv\nbase_model: base\nmodels: [{model: a}]\n", "one");
    merging_read(m, "one", "x.weight", w, COUNT);
    assert_memory_equal(w, one[0], sizeof w);
    merging_ok(m, "merge_method: tsv\n" THREE, "out");
    result(m, "out", d);
    singular_values(m, d, t);
    /* U and V are orthonormal, so the singular values are the kept ones of the three */
    double kept[15];
    int n = 0;
    for (int k = 0; k < 3; k++) {
        double x[COUNT];
        for (int i = 0; i < COUNT; i++) x[i] = (double)one[k][i] - base[i];
        singular_values(m, x, s);
        for (int i = 0; i < 5; i++) kept[n++] = s[i];
    }
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j < n; j++)
            if (kept[j] > kept[i]) {
                const double x = kept[i];
                kept[i] = kept[j];
                kept[j] = x;
            }
    for (int i = 0; i < n; i++) assert_float_equal(t[i], kept[i], 1e-5);
    for (int i = n; i < COLS; i++) assert_float_equal(t[i], 0, 1e-6);
}

static void iso_cts(void **state)
{
    merging *m = *state;
    double d[COUNT], t[COLS];
    models(m);
    merging_ok(m, "merge_method: iso_cts\n" THREE "parameters: {common_space_fraction: 0.6}\n", "out");
    result(m, "out", d);
    singular_values(m, d, t);
    for (int i = 1; i < COLS; i++) assert_float_equal(t[i], t[0], 1e-6);
    assert_true(t[0] > 0.05);
    /* with everything common it is Iso-C */
    double e[COUNT];
    merging_ok(m, "merge_method: iso_cts\n" THREE "parameters: {common_space_fraction: 1}\n", "all");
    merging_ok(m, "merge_method: iso_c\n" THREE, "iso_c");
    result(m, "all", d);
    result(m, "iso_c", e);
    for (int i = 0; i < COUNT; i++) assert_float_equal(d[i], e[i], 1e-6);
}

/* Both routes (Gram matrix; LAPACK for what is nearly singular) give orthonormal factors. */
static void factors(void **state)
{
    merging *m = *state;
    for (int kind = 0; kind < 3; kind++) {
        const int64_t rows = kind == 1 ? 9 : 21, cols = kind == 1 ? 30 : 12, q = rows < cols ? rows : cols;
        double x[270], a[270], nuclear, ut[30 * 12], s[12], vt[30 * 12];
        for (int64_t i = 0; i < rows * cols; i++) a[i] = x[i] = noise();
        if (kind == 2)
            for (int64_t i = 0; i < rows; i++) a[i * cols] = x[i * cols] = x[i * cols + 1]; /* singular */
        assert_int_equal(syi_polar(m->ctx, rows, cols, x, &nuclear), SY_OK);
        const bool tall = rows >= cols;
        for (int64_t i = 0; i < q; i++)
            for (int64_t j = 0; j < q; j++) {
                double dot = 0;
                for (int64_t k = 0; k < (tall ? rows : cols); k++) dot += tall ? x[k * cols + i] * x[k * cols + j] : x[i * cols + k] * x[j * cols + k];
                assert_float_equal(dot, i == j, 1e-12);
            }
        assert_int_equal(syi_leading(m->ctx, rows, cols, a, q, ut, s, vt), SY_OK);
        double sum = 0;
        for (int64_t i = 0; i < q; i++) sum += s[i];
        assert_float_equal(nuclear, sum, 1e-10);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < cols; j++) {
                double v = 0;
                for (int64_t k = 0; k < q; k++) v += ut[k * rows + i] * s[k] * vt[k * cols + j];
                assert_float_equal(v, a[i * cols + j], 1e-10);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { merging_test(iso_c), merging_test(tsv), merging_test(iso_cts), merging_test(factors) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
