/* SPDX-License-Identifier: Apache-2.0 */
/* What mergers must give exactly or in law, by closed forms: one model with full density
 * comes back unchanged, hand-made cases, laws of random masks, ranks, ties, gradients. */
#include "support/merging.h"

#include <math.h>

enum { BIG = 40000 };

static uint64_t random_state = 1;
static float noise(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(random_state >> 11) * 0x1p-53 * 2 - 1);
}

static void fill(float *x, int n, float scale)
{
    for (int i = 0; i < n; i++) x[i] = scale * noise();
}

/* Two tensors: a matrix and a vector. */
static void pair_model(merging *m, const char *name, const float *w, int64_t rows, int64_t cols, const float *v, int64_t n)
{
    const merging_tensor t[] = { { "layers.0.w.weight", 2, { rows, cols }, w }, { "v", 1, { n }, v } };
    merging_model(m, name, SY_F32, t, 2);
}

static void one_model_comes_back(void **state)
{
    merging *m = *state;
    static const char *const methods[] = { "task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties" };
    static float base[600], one[600], out[600];
    fill(base, 600, 1);
    for (int i = 0; i < 600; i++) one[i] = base[i] + 0.01f * noise();
    pair_model(m, "base", base, 20, 30, base, 7);
    pair_model(m, "one", one, 20, 30, one, 7);
    for (int k = 0; k < SYI_COUNT(methods); k++) {
        char recipe[400], dir[40];
        snprintf(recipe, sizeof recipe, "merge_method: %s\nbase_model: base\nmodels: [{model: one, parameters: {weight: 1%s}}]\n", methods[k], k ? ", density: 1" : "");
        snprintf(dir, sizeof dir, "out%d", k);
        merging_ok(m, recipe, dir);
        merging_read(m, dir, "layers.0.w.weight", out, 600);
        assert_memory_equal(out, one, sizeof one);
        merging_read(m, dir, "v", out, 7);
        assert_memory_equal(out, one, 7 * sizeof(float));
    }
    merging_ok(m, "merge_method: linear\nmodels: [{model: one, parameters: {weight: 0.3}}]\n", "outl");
    merging_read(m, "outl", "layers.0.w.weight", out, 600);
    assert_memory_equal(out, one, sizeof one);
}

static void slerp_cases(void **state)
{
    merging *m = *state;
    static const float x[3] = { 1, 0, 0 }, y[3] = { 0, 1, 0 }, far[3] = { 3, 0, 0 };
    float out[3];
    pair_model(m, "x", x, 1, 3, x, 3);
    pair_model(m, "y", y, 1, 3, far, 3);
    merging_ok(m, "merge_method: slerp\nbase_model: x\nmodels: [{model: x}, {model: y}]\nparameters: {t: 0}\n", "t0");
    merging_read(m, "t0", "layers.0.w.weight", out, 3);
    assert_memory_equal(out, x, sizeof x);
    merging_ok(m, "merge_method: slerp\nbase_model: x\nmodels: [{model: y}]\nparameters: {t: 1}\n", "t1");
    merging_read(m, "t1", "layers.0.w.weight", out, 3);
    for (int i = 0; i < 3; i++) assert_float_equal(out[i], y[i], 1e-7);
    merging_ok(m, "merge_method: slerp\nbase_model: x\nmodels: [{model: y}]\nparameters: {t: 0.5}\n", "half");
    merging_read(m, "half", "layers.0.w.weight", out, 3);
    assert_float_equal(out[0], sqrt(0.5), 1e-7);
    assert_float_equal(out[1], sqrt(0.5), 1e-7);
    merging_read(m, "half", "v", out, 3); /* collinear: linear */
    assert_float_equal(out[0], 2, 1e-7);
}

static void ties_by_hand(void **state)
{
    merging *m = *state;
    static const float base[3] = { 10, 20, 30 }, a[3] = { 11, 18, 30.1f }, b[3] = { 9.5f, 19, 30.3f };
    static const float zero[4] = { 0 }, p[4] = { 1, -2, 4, 0 }, q[4] = { -1, -1, -3, 0 };
    float out[4];
    pair_model(m, "base", base, 1, 3, zero, 4);
    pair_model(m, "a", a, 1, 3, p, 4);
    pair_model(m, "b", b, 1, 3, q, 4);
    merging_ok(m, "merge_method: ties\nbase_model: base\nmodels:\n  - {model: a, parameters: {weight: 1, density: 0.6667}}\n  - {model: b, parameters: {weight: 1, density: 0.6667}}\n", "ties");
    merging_read(m, "ties", "layers.0.w.weight", out, 3);
    assert_float_equal(out[0], 11, 1e-6);   /* + is elected: 1 */
    assert_float_equal(out[1], 18.5, 1e-6); /* both: -1.5      */
    assert_float_equal(out[2], 30, 1e-6);   /* trimmed          */
    /* full density: a sum of exactly 0 elects +; weights count in the election and the divisor */
    merging_ok(m, "merge_method: ties\nbase_model: base\nmodels:\n  - {model: a, parameters: {weight: 1}}\n  - {model: b, parameters: {weight: 1}}\n", "full");
    merging_read(m, "full", "v", out, 4);
    assert_float_equal(out[0], 1, 0);
    assert_float_equal(out[1], -1.5, 0);
    assert_float_equal(out[2], 4, 0);
    assert_float_equal(out[3], 0, 0);
    merging_ok(m, "merge_method: ties\nbase_model: base\nmodels:\n  - {model: a, parameters: {weight: 1}}\n  - {model: b, parameters: {weight: 3}}\nparameters: {lambda: 0.5}\n", "heavy");
    merging_read(m, "heavy", "v", out, 4);
    assert_float_equal(out[0], -0.5, 0);
    assert_float_equal(out[1], 0.5 * (-2 - 3) / 4, 0);
    assert_float_equal(out[2], 0.5 * -3, 0);
    merging_ok(m, "merge_method: ties\nbase_model: base\nmodels:\n  - {model: a, parameters: {weight: 1}}\n  - {model: b, parameters: {weight: 3}}\nparameters: {consensus: count}\n", "count");
    merging_read(m, "count", "v", out, 4);
    assert_float_equal(out[0], 1, 0); /* one head each: 0 elects + */
}

static int by_size(const void *a, const void *b)
{
    const float x = fabsf(*(const float *)a), y = fabsf(*(const float *)b);
    return x < y ? -1 : x > y;
}

/* The k largest of a random tensor with many equal magnitudes, by sorting. */
static void selection_is_exact(void **state)
{
    merging *m = *state;
    static float zero[BIG], x[BIG], sorted[BIG], out[BIG];
    for (int i = 0; i < BIG; i++) x[i] = roundf(20 * noise()) * 0.125f + (i % 3 ? 0 : 1e-3f * noise());
    memcpy(sorted, x, sizeof x);
    qsort(sorted, BIG, sizeof *sorted, by_size);
    pair_model(m, "base", zero, 200, 200, zero, 1);
    pair_model(m, "x", x, 200, 200, x, 1);
    static const double densities[] = { 0.5, 0.1, 0.01, 0.00003, 0.9999 };
    for (int k = 0; k < SYI_COUNT(densities); k++) {
        char recipe[300], dir[40];
        snprintf(recipe, sizeof recipe, "merge_method: ties\nbase_model: base\nmodels: [{model: x, parameters: {weight: 1, density: %g}}]\n", densities[k]);
        snprintf(dir, sizeof dir, "k%d", k);
        merging_ok(m, recipe, dir);
        merging_read(m, dir, "layers.0.w.weight", out, BIG);
        const int keep = (int)(densities[k] * BIG) > 1 ? (int)(densities[k] * BIG) : 1;
        const float limit = fabsf(sorted[BIG - keep]);
        int kept = 0, zeros = 0, equal_dropped = 0;
        for (int i = 0; i < BIG; i++) {
            const bool in = out[i] != 0;
            zeros += x[i] == 0;
            if (in) assert_float_equal(out[i], x[i], 0);
            if (fabsf(x[i]) > limit) assert_true(in);
            if (fabsf(x[i]) < limit) assert_false(in);
            if (fabsf(x[i]) == limit && limit > 0) { /* the first ones */
                if (!in) equal_dropped++;
                else assert_int_equal(equal_dropped, 0);
            }
            kept += in;
        }
        if (limit > 0) assert_int_equal(kept, keep);
        else assert_true(kept <= keep && kept + zeros >= keep);
    }
}

static void breadcrumbs_counts(void **state)
{
    merging *m = *state;
    static float zero[1000], x[1000], out[1000];
    for (int i = 0; i < 1000; i++) x[i] = (float)(i % 2 ? -1 : 1) * (float)((i * 617) % 1000 + 1);
    pair_model(m, "base", zero, 10, 100, zero, 1);
    pair_model(m, "x", x, 10, 100, x, 1);
    static const struct { double density, gamma; int from, to; } cases[] = { { 0.5, 0.01, 490, 990 }, { 0.995, 0.02, 0, 995 }, { 0.3, 0.0001, 700, 1000 } };
    for (int k = 0; k < SYI_COUNT(cases); k++) {
        char recipe[300], dir[40];
        snprintf(recipe, sizeof recipe, "merge_method: breadcrumbs\nbase_model: base\nmodels: [{model: x, parameters: {weight: 1, density: %g, gamma: %g}}]\n", cases[k].density, cases[k].gamma);
        snprintf(dir, sizeof dir, "b%d", k);
        merging_ok(m, recipe, dir);
        merging_read(m, dir, "layers.0.w.weight", out, 1000);
        for (int i = 0; i < 1000; i++) {
            const int rank = (i * 617) % 1000;
            assert_float_equal(out[i], rank >= cases[k].from && rank < cases[k].to ? x[i] : 0, 0);
        }
    }
}

static void dare_laws(void **state)
{
    merging *m = *state;
    static float zero[BIG], x[BIG], out[BIG], again[BIG];
    fill(x, BIG, 1);
    pair_model(m, "base", zero, 200, 200, zero, 1);
    pair_model(m, "x", x, 200, 200, x, 1);
    double l1 = 0, sum = 0, square = 0, after = 0, inverse = 0;
    int kept = 0;
    for (int i = 0; i < BIG; i++) l1 += fabs(x[i]), sum += x[i], square += (double)x[i] * x[i];
    merging_ok(m, "merge_method: dare_linear\nbase_model: base\nmodels: [{model: x, parameters: {weight: 1, density: 0.3}}]\n", "l1");
    merging_read(m, "l1", "layers.0.w.weight", out, BIG);
    for (int i = 0; i < BIG; i++) after += fabs(out[i]), kept += out[i] != 0;
    assert_float_equal(after / l1, 1, 1e-6);
    assert_true(fabs(kept - 0.3 * BIG) < 3 * sqrt(0.3 * 0.7 * BIG));
    /* 1/density: the mean over masks is the difference itself; variance x^2 (1-p)/p a number */
    merging_ok(m, "merge_method: dare_linear\nbase_model: base\nmodels: [{model: x, parameters: {weight: 1, density: 0.3}}]\nparameters: {rescale_by: inv_density}\n", "inv");
    merging_read(m, "inv", "layers.0.w.weight", again, BIG);
    for (int i = 0; i < BIG; i++) {
        inverse += again[i];
        assert_true((again[i] != 0) == (out[i] != 0)); /* the same seed: the same mask */
        if (again[i] != 0) assert_float_equal(again[i], x[i] / 0.3, 1e-6);
    }
    assert_true(fabs(inverse - sum) < 3 * sqrt(square * 0.7 / 0.3));
    static const char *const seed[] = { "seed=7", "threads=1", NULL };
    assert_int_equal(merging_run(m, "merge_method: dare_linear\nbase_model: base\nmodels: [{model: x, parameters: {weight: 1, density: 0.3}}]\n", "seed", seed), SY_OK);
    merging_read(m, "seed", "layers.0.w.weight", again, BIG);
    int same = 0;
    for (int i = 0; i < BIG; i++) same += (again[i] != 0) == (out[i] != 0);
    assert_true(fabs(same - 0.58 * BIG) < 4 * sqrt(0.58 * 0.42 * BIG)); /* 0.3^2 + 0.7^2 */
}

static void della_ranks(void **state)
{
    merging *m = *state;
    static float zero[BIG], x[BIG], out[BIG];
    /* row r holds the magnitudes 1..200 in some order */
    for (int r = 0; r < 200; r++)
        for (int c = 0; c < 200; c++) x[r * 200 + c] = (float)((c * 77 + r * 13) % 200 + 1) * (c % 2 ? 1 : -1);
    pair_model(m, "base", zero, 200, 200, zero, 1);
    pair_model(m, "x", x, 200, 200, x, 1);
    merging_ok(m, "merge_method: della_linear\nbase_model: base\nmodels: [{model: x, parameters: {weight: 1, density: 0.5, epsilon: 0.4}}]\nparameters: {rescale: false}\n", "della");
    merging_read(m, "della", "layers.0.w.weight", out, BIG);
    int kept = 0, by[4] = { 0 };
    for (int i = 0; i < BIG; i++) {
        const int rank = (int)fabsf(x[i]) - 1;
        kept += out[i] != 0;
        by[rank / 50] += out[i] != 0;
        if (out[i] != 0) assert_float_equal(out[i], x[i], 0);
    }
    assert_true(fabs(kept - 0.5 * BIG) < 3 * sqrt(0.25 * BIG));
    for (int q = 0; q < 4; q++) { /* mean probability of a quarter of the ranks */
        const double p = 0.1 + 0.8 * (q * 50 + 24.5) / 199;
        assert_true(fabs(by[q] - p * BIG / 4) < 4 * sqrt(p * (1 - p) * BIG / 4));
    }
    merging_ok(m, "merge_method: della_linear\nbase_model: base\nmodels: [{model: x, parameters: {weight: 1, density: 0.5, epsilon: 0.4}}]\nparameters: {rescale_by: inv_density}\n", "inv");
    merging_read(m, "inv", "layers.0.w.weight", out, BIG);
    for (int i = 0; i < BIG; i++)
        if (out[i] != 0) assert_float_equal(out[i] * (0.1 + 0.8 * (fabs(x[i]) - 1) / 199) / x[i], 1, 1e-6);
    merging_fails(m, "merge_method: della\nbase_model: base\nmodels: [{model: x, parameters: {weight: 1, density: 0.9, epsilon: 0.2}}]\n", SY_E_USAGE, "epsilon");
}

static void gradients(void **state)
{
    merging *m = *state;
    static const float zero[1] = { 0 }, one[1] = { 1 };
    static const char *const names[] = { "model.layers.0.a", "model.layers.1.a", "model.layers.2.a", "model.layers.3.a", "model.layers.4.a", "model.norm.weight" };
    merging_tensor t[6];
    for (int i = 0; i < 6; i++) t[i] = (merging_tensor){ names[i], 1, { 1 }, zero };
    merging_model(m, "zero", SY_F32, t, 6);
    for (int i = 0; i < 6; i++) t[i].data = one;
    merging_model(m, "one", SY_F32, t, 6);
    merging_ok(m, "merge_method: task_arithmetic\nbase_model: zero\nmodels: [{model: one, parameters: {weight: [0, 1]}}]\n", "g");
    for (int i = 0; i < 6; i++) {
        float v;
        merging_read(m, "g", names[i], &v, 1);
        assert_float_equal(v, i < 5 ? 0.25 * i : 0, 0);
    }
    /* the first filter that fits wins, within a model's own parameters; then the recipe's */
    merging_ok(m, "merge_method: task_arithmetic\nbase_model: zero\nmodels: [{model: one, parameters: {weight: [{filter: layers.3, value: 0.5}, {filter: norm, value: [0.125, 9]}]}}]\n"
                  "parameters: {weight: [{filter: '*', value: 0.25}]}\n", "f");
    for (int i = 0; i < 6; i++) {
        float v;
        merging_read(m, "f", names[i], &v, 1);
        assert_float_equal(v, i == 3 ? 0.5 : i == 5 ? 0.125 : 0.25, 0);
    }
    /* slices renumber layers: 1, 2 then 2, 3, 4 */
    merging_ok(m, "merge_method: passthrough\nslices:\n  - sources: [{model: zero, layer_range: [1, 3]}]\n  - sources: [{model: one, layer_range: [2, 5]}]\n", "s");
    for (int i = 0; i < 6; i++) {
        float v;
        merging_read(m, "s", names[i], &v, 1);
        assert_float_equal(v, i < 2 ? 0 : 1, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { merging_test(one_model_comes_back), merging_test(slerp_cases), merging_test(ties_by_hand), merging_test(selection_is_exact),
                                        merging_test(breadcrumbs_counts), merging_test(dare_laws), merging_test(della_ranks), merging_test(gradients) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
