/* SPDX-License-Identifier: Apache-2.0 */
/* OPCM by its own properties: the length of the result, newcomers orthogonal to the sum,
 * the rank rule and both blocks on a matrix whose singular vectors are the axes, one model,
 * the same model twice, plain sums, and arrivals one by one as all at once. */
#include "support/merging.h"

#include <math.h>

enum { ROWS = 12, COLS = 9, COUNT = ROWS * COLS };

static uint64_t state_ = 11;
static float noise(void)
{
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(state_ >> 11) * 0x1p-53 * 2 - 1);
}

static float base[COUNT], bias[4], w[3][COUNT], b[3][4];

static void write(merging *m, const char *name, const float *x, const float *y)
{
    const merging_tensor t[2] = { { "x.weight", 2, { ROWS, COLS }, x }, { "x.bias", 1, { 4 }, y } };
    merging_model(m, name, SY_F32, t, 2);
}

static void models(merging *m)
{
    static const char *const names[] = { "a", "b", "c" };
    for (int i = 0; i < COUNT; i++) base[i] = noise();
    for (int i = 0; i < 4; i++) bias[i] = noise();
    write(m, "base", base, bias);
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < COUNT; i++) w[k][i] = base[i] + 0.1f * (noise() + (float)(i % 3));
        for (int i = 0; i < 4; i++) b[k][i] = bias[i] + 0.1f * noise();
        write(m, names[k], w[k], b[k]);
    }
}

static double norm(const float *x, const float *y)
{
    double s = 0;
    for (int i = 0; i < COUNT; i++) s += ((double)x[i] - base[i]) * ((double)x[i] - base[i]);
    for (int i = 0; i < 4; i++) s += ((double)y[i] - bias[i]) * ((double)y[i] - bias[i]);
    return sqrt(s);
}

static void state_of(merging *m, const char *out, float *s)
{
    char path[64];
    snprintf(path, sizeof path, "%s/merge_state.safetensors", out);
    merging_read(m, path, "x.weight", s, COUNT);
}

#define RECIPE(list, parameters) "merge_method: opcm\nbase_model: base\nmodels: [" list "]\nparameters: {" parameters "}\n"

static void properties(void **state)
{
    merging *m = *state;
    static const char *const blocks[] = { "inner", "outer" };
    static const double alphas[] = { 0, 0.3, 0.5, 0.95 };
    float x[COUNT], y[4], s1[COUNT], s2[COUNT];
    models(m);
    merging_ok(m, RECIPE("{model: a}", ""), "one");
    merging_read(m, "one", "x.weight", x, COUNT);
    for (int i = 0; i < COUNT; i++) assert_float_equal(x[i], w[0][i], 1e-6);
    state_of(m, "one", s1);
    const double mean = (norm(w[0], b[0]) + norm(w[1], b[1])) / 2;
    for (int k = 0; k < 2; k++)
        for (int a = 0; a < 4; a++) {
            char recipe[200], dir[32];
            double dot = 0, n1 = 0, n2 = 0;
            snprintf(recipe, sizeof recipe, RECIPE("{model: a}, {model: b}", "alpha: %g, block: %s"), alphas[a], blocks[k]);
            snprintf(dir, sizeof dir, "two%d%d", k, a);
            merging_ok(m, recipe, dir);
            merging_read(m, dir, "x.weight", x, COUNT);
            merging_read(m, dir, "x.bias", y, 4);
            assert_float_equal(norm(x, y) / mean, 1, 1e-6);
            state_of(m, dir, s2);
            for (int i = 0; i < COUNT; i++) {
                const double d = (double)s2[i] - s1[i];
                dot += d * s1[i];
                n1 += (double)s1[i] * s1[i];
                n2 += d * d;
            }
            assert_true(n2 > 0);
            assert_true(fabs(dot) < 1e-6 * sqrt(n1 * n2));
        }
}

static void twice_and_plain(void **state)
{
    merging *m = *state;
    float x[COUNT], y[4], s1[COUNT], s2[COUNT];
    models(m);
    write(m, "again", w[0], b[0]);
    merging_ok(m, RECIPE("{model: a}", ""), "one");
    merging_ok(m, RECIPE("{model: a}, {model: again}", ""), "same");
    state_of(m, "one", s1);
    state_of(m, "same", s2);
    for (int i = 0; i < COUNT; i++) assert_float_equal(s1[i], s2[i], 1e-6);
    /* nothing taken out: the sum, at the mean length */
    merging_ok(m, RECIPE("{model: a}, {model: b}, {model: c}", "alpha: 0, diag: false"), "plain");
    merging_read(m, "plain", "x.weight", x, COUNT);
    merging_read(m, "plain", "x.bias", y, 4);
    double sum = 0, mean = 0;
    for (int k = 0; k < 3; k++) mean += norm(w[k], b[k]) / 3;
    for (int i = 0; i < COUNT; i++) {
        const double d = (double)w[0][i] + w[1][i] + w[2][i] - 3 * (double)base[i];
        sum += d * d;
    }
    for (int i = 0; i < 4; i++) {
        const double d = (double)b[0][i] + b[1][i] + b[2][i] - 3 * (double)bias[i];
        sum += d * d;
    }
    for (int i = 0; i < COUNT; i++) {
        const double d = (double)w[0][i] + w[1][i] + w[2][i] - 3 * (double)base[i];
        assert_float_equal(x[i], base[i] + d * mean / sqrt(sum), 1e-6);
    }
    /* one by one is all at once, to the bit */
    char recipe[800];
    float z[COUNT];
    merging_ok(m, RECIPE("{model: a}, {model: b}, {model: c}", ""), "all");
    merging_ok(m, RECIPE("{model: a}, {model: b}", ""), "first");
    snprintf(recipe, sizeof recipe, RECIPE("{model: c}", "state: %s"), scratch_path(m->dir, "first"));
    merging_ok(m, recipe, "then");
    merging_read(m, "all", "x.weight", x, COUNT);
    merging_read(m, "then", "x.weight", z, COUNT);
    assert_memory_equal(x, z, sizeof x);
    state_of(m, "all", s1);
    state_of(m, "then", s2);
    assert_memory_equal(s1, s2, sizeof s1);
    /* the order counts, and shuffling it is repeatable */
    merging_ok(m, RECIPE("{model: c}, {model: b}, {model: a}", ""), "back");
    merging_read(m, "back", "x.weight", z, COUNT);
    assert_memory_not_equal(x, z, sizeof x);
    assert_int_equal(merging_run(m, RECIPE("{model: a}", "state: base"), "none", NULL), SY_E_INPUT);
}

/* The sum is diag(4, 3, 2, 1): shares .4 .7 .9 1. A newcomer of ones shows what is removed. */
static void rank_rule(void **state)
{
    merging *m = *state;
    static const struct { double alpha; int r; } cases[] = { { 0, 0 }, { 0.3, 0 }, { 0.5, 1 }, { 0.8, 2 }, { 0.95, 3 } };
    float zero[16] = { 0 }, first[16] = { 0 }, ones[16], s[16];
    for (int i = 0; i < 16; i++) ones[i] = 1;
    for (int i = 0; i < 4; i++) first[5 * i] = 4 - (float)i;
    const char *const names[] = { "base", "first", "ones" };
    const float *const data[] = { zero, first, ones };
    for (int k = 0; k < 3; k++) {
        const merging_tensor t = { "x.weight", 2, { 4, 4 }, data[k] };
        merging_model(m, names[k], SY_F32, &t, 1);
    }
    for (int c = 0; c < SYI_COUNT(cases); c++)
        for (int outer = 0; outer < 2; outer++) {
            char recipe[200], dir[64];
            snprintf(recipe, sizeof recipe, RECIPE("{model: first}, {model: ones}", "alpha: %g, block: %s"), cases[c].alpha, outer ? "outer" : "inner");
            snprintf(dir, sizeof dir, "rank%d%d", c, outer);
            merging_ok(m, recipe, dir);
            strcat(dir, "/merge_state.safetensors");
            merging_read(m, dir, "x.weight", s, 16);
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) {
                    const bool low_i = i < cases[c].r, low_j = j < cases[c].r, kept = i != j && (outer ? !low_i && !low_j : !(low_i && low_j));
                    assert_float_equal(s[4 * i + j] - first[4 * i + j], kept ? 1 : 0, 1e-5);
                }
        }
    merging_fails(m, RECIPE("{model: first}", "alpha: 1"), SY_E_USAGE, "alpha");
}

int main(void)
{
    const struct CMUnitTest tests[] = { merging_test(properties), merging_test(twice_and_plain), merging_test(rank_rule) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
