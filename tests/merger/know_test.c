/* SPDX-License-Identifier: Apache-2.0 */
/* KNOW: the predictor's gradient against central differences, no prediction without a head,
 * the linear rule on a straight line, recurrence as shift and append, training that learns
 * and does not depend on threads, what is kept and what is refused. */
#include "support/merging.h"

#include "merger/_known.h"

#include <math.h>

enum { ROWS = 9, COLS = 7, COUNT = ROWS * COLS };

static uint64_t state_ = 41;
static float noise(void)
{
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(state_ >> 11) * 0x1p-53 * 2 - 1);
}

static void gradient(void **state)
{
    merging *m = *state;
    (void)m;
    static float f[SYI_KNOWN_SIZE];
    static double w[SYI_KNOWN_SIZE], g[SYI_KNOWN_SIZE];
    double x[5];
    syi_known_init(5, f);
    for (int i = 0; i < SYI_KNOWN_SIZE; i++) w[i] = (double)f[i] + 0.05 * noise();
    for (int i = 0; i < 5; i++) x[i] = noise();
    const double v = syi_known_f64(w, x, 0.9, NULL);
    assert_true(v < 0.9);
    memset(g, 0, sizeof g);
    syi_known_f64(w, x, 0.9, g);
    int seen = 0;
    for (int i = 0; i < SYI_KNOWN_SIZE; i += 7) {
        const double keep = w[i], h = 1e-5;
        w[i] = keep + h;
        const double up = fabs(syi_known_f64(w, x, 0, NULL) - 0.9);
        w[i] = keep - h;
        const double down = fabs(syi_known_f64(w, x, 0, NULL) - 0.9);
        w[i] = keep;
        if (fabs((up - down) / (2 * h) - g[i]) > 1e-8) fail_msg("parameter %d: %.12g and %.12g", i, (up - down) / (2 * h), g[i]);
        seen += g[i] != 0;
    }
    assert_true(seen > 500);
    float x32[5];
    for (int i = 0; i < 5; i++) x32[i] = (float)x[i];
    for (int i = 0; i < SYI_KNOWN_SIZE; i++) f[i] = (float)w[i];
    assert_float_equal(syi_known_f32(f, x32, 0, NULL), v, 1e-5);
}

static float history[5][COUNT], bias[5][4], norm[5][4];

static void series(merging *m)
{
    for (int k = 0; k < 5; k++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", k);
        const merging_tensor t[] = { { "fc.weight", 2, { ROWS, COLS }, history[k] }, { "fc.bias", 1, { 4 }, bias[k] }, { "norm.weight", 1, { 4 }, norm[k] } };
        merging_model(m, name, SY_F32, t, 3);
    }
}

#define FIVE "merge_method: know\nmodels: [{model: s0}, {model: s1}, {model: s2}, {model: s3}, {model: s4}]\n"

static void rules(void **state)
{
    merging *m = *state;
    float x[COUNT], y[4];
    for (int i = 0; i < COUNT; i++) {
        const float a = noise(), d = 0.1f * noise();
        for (int k = 0; k < 5; k++) history[k][i] = a + (float)k * d;
    }
    for (int k = 0; k < 5; k++)
        for (int i = 0; i < 4; i++) bias[k][i] = noise(), norm[k][i] = noise();
    series(m);
    merging_ok(m, FIVE "parameters: {predictor: linear, recur: 3}\n", "line");
    merging_read(m, "line", "fc.weight", x, COUNT);
    for (int i = 0; i < COUNT; i++) assert_float_equal(x[i], history[4][i] + 3 * (history[4][i] - history[3][i]), 1e-5);
    merging_read(m, "line", "norm.weight", y, 4);
    assert_memory_equal(y, norm[4], sizeof y); /* norms are not predicted */
    merging_ok(m, FIVE "parameters: {predictor: shrink, shrink: 0.1, recur: 2}\n", "less");
    merging_read(m, "less", "fc.bias", y, 4);
    for (int i = 0; i < 4; i++) assert_float_equal(y[i], 0.81 * bias[4][i], 1e-6);
    merging_fails(m, FIVE, SY_E_USAGE, "needs a trained predictor");
    char recipe[600];
    snprintf(recipe, sizeof recipe, FIVE "parameters: {file: %s}\n", scratch_path(m->dir, "s0"));
    merging_fails(m, recipe, SY_E_INPUT, "is not a predictor");
    merging_fails(m, "merge_method: know\nmodels: [{model: s0}, {model: s1}]\n", SY_E_USAGE, "at least 5");
}

/* Seven snapshots that go on by half of the last step each time. */
static void trajectory(merging *m, const char *name)
{
    static float w[7][COUNT], b[7][4];
    char path[64];
    for (int i = 0; i < COUNT + 4; i++) {
        double at = noise(), step = 0.2 * noise();
        for (int s = 6; s >= 0; s--) {
            *(i < COUNT ? &w[s][i] : &b[s][i - COUNT]) = (float)at;
            at += step;
            step *= 0.5;
        }
    }
    assert_int_equal(syi_mkdirs(m->ctx, scratch_path(m->dir, name)), SY_OK);
    for (int s = 0; s < 7; s++) {
        snprintf(path, sizeof path, "%s/tmp", name);
        const merging_tensor t[] = { { "fc.weight", 2, { ROWS, COLS }, w[s] }, { "fc.bias", 1, { 4 }, b[s] } };
        merging_model(m, path, SY_F32, t, 2);
        char from[300], to[300];
        snprintf(from, sizeof from, "%s/tmp/model.safetensors", scratch_path(m->dir, name));
        snprintf(to, sizeof to, "%s/s%d.safetensors", scratch_path(m->dir, name), s);
        assert_int_equal(syi_rename(m->ctx, from, to), SY_OK);
    }
}

static void training(void **state)
{
    merging *m = *state;
    float x[COUNT], y[COUNT], b[4];
    char recipe[1200], list[700] = "";
    for (int k = 0; k < 3; k++) {
        char name[16];
        snprintf(name, sizeof name, "run%d", k);
        trajectory(m, name);
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", k ? ", " : "", scratch_path(m->dir, name));
    }
    for (int i = 0; i < COUNT + 4; i++) {
        double at = noise(), step = 0.2 * noise();
        for (int k = 0; k < 5; k++, at += step, step *= 0.5) *(i < COUNT ? &history[k][i] : &bias[k][i - COUNT]) = (float)at;
    }
    series(m);
    snprintf(recipe, sizeof recipe, FIVE "parameters: {trajectories: [%s], steps: 60, batch: 64, save: %s}\n", list, scratch_path(m->dir, "known.safetensors"));
    assert_int_equal(merging_run(m, recipe, "one", (const char *const[]){ "threads=1", NULL }), SY_OK);
    assert_int_equal(merging_run(m, recipe, "four", (const char *const[]){ "threads=4", NULL }), SY_OK);
    merging_read(m, "one", "fc.weight", x, COUNT);
    merging_read(m, "four", "fc.weight", y, COUNT);
    assert_memory_equal(x, y, sizeof x);
    snprintf(recipe, sizeof recipe, FIVE "parameters: {file: %s}\n", scratch_path(m->dir, "known.safetensors"));
    merging_ok(m, recipe, "file");
    merging_read(m, "file", "fc.weight", y, COUNT);
    assert_memory_equal(x, y, sizeof x);
    /* twice is once, then once more on the shifted series */
    snprintf(recipe, sizeof recipe, FIVE "parameters: {file: %s, recur: 2}\n", scratch_path(m->dir, "known.safetensors"));
    merging_ok(m, recipe, "twice");
    merging_read(m, "twice", "fc.weight", y, COUNT);
    merging_read(m, "file", "fc.bias", b, 4);
    for (int k = 0; k < 4; k++) memcpy(history[k], history[k + 1], sizeof *history), memcpy(bias[k], bias[k + 1], sizeof *bias);
    memcpy(history[4], x, sizeof x);
    memcpy(bias[4], b, sizeof b);
    series(m);
    snprintf(recipe, sizeof recipe, FIVE "parameters: {file: %s}\n", scratch_path(m->dir, "known.safetensors"));
    merging_ok(m, recipe, "again");
    merging_read(m, "again", "fc.weight", x, COUNT);
    assert_memory_equal(x, y, sizeof x);
    /* the linear fit finds the rule: the last difference halved */
    snprintf(recipe, sizeof recipe, FIVE "parameters: {predictor: fitted5, trajectories: [%s]}\n", list);
    merging_ok(m, recipe, "fitted");
    merging_read(m, "fitted", "fc.weight", x, COUNT);
    for (int i = 0; i < COUNT; i++) assert_float_equal(x[i], history[4][i] + 0.5 * ((double)history[4][i] - history[3][i]), 2e-2);
}

/* Without its last layer the predictor changes nothing. */
static void silent_head(void **state)
{
    (void)state;
    static float w[SYI_KNOWN_SIZE];
    syi_known_init(9, w);
    for (int i = 0; i < 65; i++) w[SYI_KNOWN_SIZE - 65 + i] = 0;
    for (int k = 0; k < 50; k++) {
        float x[5];
        for (int i = 0; i < 5; i++) x[i] = noise();
        assert_true(syi_known_f32(w, x, 0, NULL) == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { merging_test(gradient), merging_test(rules), merging_test(training), merging_test(silent_head) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
