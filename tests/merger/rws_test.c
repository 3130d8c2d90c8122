/* SPDX-License-Identifier: Apache-2.0 */
/* Robust weight signatures: orthogonal to the clean update, linear in alpha, zero where
 * nothing changed, the robust model itself without projection, taken off to the byte, only
 * in the first layers, quantised within half a step. */
#include "support/merging.h"

#include <math.h>

enum { SIDE = 8, COUNT = SIDE * SIDE, LAYERS = 12 };

static uint64_t state_ = 31;
static float noise(void)
{
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(state_ >> 11) * 0x1p-53 * 2 - 1);
}

static float start[LAYERS][COUNT], standard[LAYERS][COUNT], robust[LAYERS][COUNT], other[LAYERS][COUNT], target[LAYERS][COUNT];
static char names[LAYERS][32];

static void write(merging *m, const char *name, float (*x)[COUNT])
{
    merging_tensor t[LAYERS];
    for (int l = 0; l < LAYERS; l++) t[l] = (merging_tensor){ names[l], 2, { SIDE, SIDE }, x[l] };
    merging_model(m, name, SY_F32, t, LAYERS);
}

static void models(merging *m)
{
    for (int l = 0; l < LAYERS; l++) {
        snprintf(names[l], sizeof names[l], "features.%d.weight", l);
        for (int i = 0; i < COUNT; i++) {
            start[l][i] = noise();
            standard[l][i] = start[l][i] + 0.1f * noise();
            robust[l][i] = start[l][i] + 0.1f * noise() + 0.5f * (standard[l][i] - start[l][i]);
            other[l][i] = start[l][i] + 0.1f * noise();
            target[l][i] = start[l][i] + 0.1f * noise();
        }
    }
    write(m, "start", start);
    write(m, "standard", standard);
    write(m, "robust", robust);
    write(m, "other", other);
    write(m, "target", target);
}

#define HEAD "merge_method: rws\nbase_model: start\nmodels: [{model: standard, parameters: {role: standard}}, {model: robust, parameters: {alpha: %g}}, {model: target, parameters: {role: target}}]\n"

static void properties(void **state)
{
    merging *m = *state;
    float x[COUNT], y[COUNT], z[COUNT], s[COUNT];
    char recipe[900], file[300], undo[300];
    models(m);
    snprintf(file, sizeof file, "%s", scratch_path(m->dir, "signature.safetensors"));
    snprintf(undo, sizeof undo, "%s", scratch_path(m->dir, "undo.safetensors"));
    snprintf(recipe, sizeof recipe, HEAD "parameters: {keep_layers: 11, save: %s, undo: %s}\n", 1.0, file, undo);
    merging_ok(m, recipe, "patched");
    for (int l = 0; l < LAYERS; l++) {
        merging_read(m, "patched", names[l], x, COUNT);
        if (l == 11) { /* beyond the first 11 in natural order (10 comes after 9) */
            assert_memory_equal(x, target[l], sizeof x);
            continue;
        }
        merging_read(m, "signature.safetensors", names[l], s, COUNT);
        double dot = 0, n1 = 0, n2 = 0;
        for (int i = 0; i < COUNT; i++) {
            const double a = (double)standard[l][i] - start[l][i];
            dot += a * s[i];
            n1 += a * a;
            n2 += (double)s[i] * s[i];
            assert_float_equal(x[i], target[l][i] + s[i], 1e-6);
        }
        assert_true(n2 > 0.01 && fabs(dot) < 1e-6 * sqrt(n1 * n2));
    }
    /* off again, to the byte */
    snprintf(recipe, sizeof recipe, "merge_method: rws\nmodels: [{model: patched}]\nparameters: {restore: %s}\n", undo);
    merging_ok(m, recipe, "back");
    for (int l = 0; l < LAYERS; l++) {
        merging_read(m, "back", names[l], x, COUNT);
        assert_memory_equal(x, target[l], sizeof x);
    }
    /* by the file: the same patch; linear in alpha */
    snprintf(recipe, sizeof recipe, "merge_method: rws\nmodels: [{model: target}]\nparameters: {signatures: [%s], alpha: 0.25}\n", file);
    merging_ok(m, recipe, "quarter");
    snprintf(recipe, sizeof recipe, "merge_method: rws\nmodels: [{model: target}]\nparameters: {signatures: [%s, %s], alpha: 0.75}\n", file, file);
    merging_ok(m, recipe, "more"); /* the mean of two: 0.75 */
    for (int l = 0; l < LAYERS; l++) {
        merging_read(m, "quarter", names[l], x, COUNT);
        merging_read(m, "more", names[l], y, COUNT);
        merging_read(m, "patched", names[l], z, COUNT);
        for (int i = 0; i < COUNT; i++) assert_float_equal(x[i] + y[i] - target[l][i], z[i], 1e-6);
    }
    snprintf(recipe, sizeof recipe, "merge_method: rws\nmodels: [{model: target}]\nparameters: {signatures: [%s]}\n", undo);
    merging_fails(m, recipe, SY_E_INPUT, "is not a saved signature");
    merging_fails(m, "merge_method: rws\nmodels: [{model: target}]\n", SY_E_USAGE, "role: standard");
}

static void without_projection(void **state)
{
    merging *m = *state;
    float x[COUNT];
    models(m);
    merging_ok(m, "merge_method: rws\nbase_model: start\nmodels: [{model: standard, parameters: {role: standard}}, {model: robust}]\nparameters: {keep_layers: 100, project: false}\n", "all");
    for (int l = 0; l < LAYERS; l++) {
        merging_read(m, "all", names[l], x, COUNT);
        for (int i = 0; i < COUNT; i++) assert_float_equal(x[i], robust[l][i], 1e-6);
    }
    write(m, "copy", standard); /* as robust as the standard one: nothing to add */
    merging_ok(m, "merge_method: rws\nbase_model: start\nmodels: [{model: standard, parameters: {role: standard}}, {model: copy}]\n", "none");
    for (int l = 0; l < LAYERS; l++) {
        merging_read(m, "none", names[l], x, COUNT);
        for (int i = 0; i < COUNT; i++) assert_float_equal(x[i], standard[l][i], 1e-6);
    }
}

static void quantised(void **state)
{
    merging *m = *state;
    float exact[COUNT], coded[COUNT];
    char recipe[900];
    models(m);
    snprintf(recipe, sizeof recipe, HEAD "parameters: {save: %s}\n", 1.0, scratch_path(m->dir, "exact.safetensors"));
    merging_ok(m, recipe, "a");
    snprintf(recipe, sizeof recipe, HEAD "parameters: {quant: linear, levels: 16, save: %s}\n", 1.0, scratch_path(m->dir, "coded.safetensors"));
    merging_ok(m, recipe, "b");
    merging_read(m, "exact.safetensors", names[0], exact, COUNT);
    merging_read(m, "coded.safetensors", names[0], coded, COUNT);
    float low = exact[0], high = exact[0];
    int lowest = 0, highest = 0, kinds = 0;
    for (int i = 0; i < COUNT; i++) {
        if (exact[i] < low) low = exact[lowest = i];
        if (exact[i] > high) high = exact[highest = i];
    }
    for (int i = 0; i < COUNT; i++) {
        bool seen = false;
        assert_true(fabs(coded[i] - exact[i]) <= (high - low) / 30 * 1.0001);
        for (int k = 0; k < i && !seen; k++) seen = coded[k] == coded[i];
        kinds += !seen;
    }
    assert_true(kinds <= 16);
    assert_float_equal(coded[lowest], low, 0);
    assert_float_equal(coded[highest], high, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { merging_test(properties), merging_test(without_projection), merging_test(quantised) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
