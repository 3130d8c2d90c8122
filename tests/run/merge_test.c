/* SPDX-License-Identifier: Apache-2.0 */
/* The merging engine: bytes do not depend on threads or shards; a full disk or a killed
 * process loses nothing and the same command goes on; recipes and models that are wrong
 * are refused with where and why; GGUF and adapters as inputs; tokenizers. */
#include "support/merging.h"

#include <errno.h>
#include <math.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TENSORS = 20, SIDE = 300, NUMBERS = SIDE * SIDE };

static uint64_t state_ = 9;
static float noise(void)
{
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(state_ >> 11) * 0x1p-53 * 2 - 1);
}

static float numbers[3][TENSORS][NUMBERS];
static char names[TENSORS][48];

/* base, a, b: enough numbers for several batches. */
static void models(merging *m, sy_dtype dtype)
{
    static const char *const folders[] = { "base", "a", "b" };
    merging_tensor t[TENSORS];
    for (int i = 0; i < TENSORS; i++) {
        snprintf(names[i], sizeof names[i], "model.layers.%d.mlp.weight", i);
        for (int k = 0; k < NUMBERS; k++) {
            numbers[0][i][k] = noise();
            numbers[1][i][k] = numbers[0][i][k] + 0.1f * noise();
            numbers[2][i][k] = numbers[0][i][k] + 0.1f * noise();
        }
    }
    for (int f = 0; f < 3; f++) {
        for (int i = 0; i < TENSORS; i++) t[i] = (merging_tensor){ names[i], 2, { SIDE, SIDE }, numbers[f][i] };
        merging_model(m, folders[f], dtype, t, TENSORS);
    }
}

#define TWO(parameters) "base_model: base\nmodels: [{model: a, parameters: {" parameters "}}, {model: b, parameters: {" parameters "}}]\n"

static void same_file(merging *m, const char *a, const char *b, const char *file)
{
    char path[256];
    size_t n, k;
    snprintf(path, sizeof path, "%s/%s", a, file);
    uint8_t *x = scratch_read(scratch_path(m->dir, path), &n);
    snprintf(path, sizeof path, "%s/%s", b, file);
    uint8_t *y = scratch_read(scratch_path(m->dir, path), &k);
    assert_int_equal(n, k);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

static void threads_do_not_matter(void **state)
{
    merging *m = *state;
    static const char *const recipes[] = { "merge_method: ties\n" TWO("weight: 0.7, density: 0.4"), "merge_method: dare_ties\n" TWO("weight: 0.7, density: 0.4"),
                                           "merge_method: della\n" TWO("weight: 0.7, density: 0.4"), "merge_method: karcher\nmodels: [{model: a}, {model: b}, {model: base}]\n" };
    models(m, SY_BF16);
    for (int r = 0; r < SYI_COUNT(recipes); r++) {
        char a[16], b[16];
        snprintf(a, sizeof a, "one%d", r);
        snprintf(b, sizeof b, "five%d", r);
        assert_int_equal(merging_run(m, recipes[r], a, (const char *const[]){ "threads=1", NULL }), SY_OK);
        assert_int_equal(merging_run(m, recipes[r], b, (const char *const[]){ "threads=5", NULL }), SY_OK);
        same_file(m, a, b, "model.safetensors");
    }
}

static void shards(void **state)
{
    merging *m = *state;
    static float whole[NUMBERS], part[NUMBERS];
    models(m, SY_F32);
    merging_ok(m, "merge_method: task_arithmetic\n" TWO("weight: 0.5"), "whole");
    assert_int_equal(merging_run(m, "merge_method: task_arithmetic\n" TWO("weight: 0.5"), "parts", (const char *const[]){ "shard-size=1M", NULL }), SY_OK);
    assert_true(syi_exists(scratch_path(m->dir, "parts/model.safetensors.index.json")));
    assert_false(syi_exists(scratch_path(m->dir, "parts/journal")));
    for (int i = 0; i < TENSORS; i++) {
        merging_read(m, "whole", names[i], whole, NUMBERS);
        merging_read(m, "parts", names[i], part, NUMBERS);
        assert_memory_equal(whole, part, sizeof whole);
        for (int k = 0; k < NUMBERS; k += 1234)
            assert_float_equal(whole[k], numbers[0][i][k] + 0.5 * ((double)numbers[1][i][k] - numbers[0][i][k] + numbers[2][i][k] - numbers[0][i][k]), 1e-6);
    }
}

static int goes_on(merging *m, const char *recipe, int after)
{
    /* the process dies at its n-th change of the disk */
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        syi_file_fail_after(m->ctx, after, SYI_DISK_DIE);
        merging_run(m, recipe, "killed", (const char *const[]){ "threads=1", NULL });
        _exit(0);
    }
    int code, resumed = 0;
    waitpid(child, &code, 0);
    if (WIFEXITED(code)) { /* it was done before that */
        assert_true(syi_exists(scratch_path(m->dir, "killed/model.safetensors")));
    } else {
        assert_false(syi_exists(scratch_path(m->dir, "killed/model.safetensors")));
        if (merging_run(m, recipe, "killed", (const char *const[]){ "threads=1", NULL }) != SY_OK) fail_msg("%s", sy_error_message(m->ctx));
        resumed = m->resumed;
    }
    same_file(m, "whole", "killed", "model.safetensors");
    assert_false(syi_exists(scratch_path(m->dir, ".killed.merging")));
    assert_int_equal(syi_remove_tree(m->ctx, scratch_path(m->dir, "killed")), SY_OK);
    return resumed;
}

static void killed(void **state)
{
    merging *m = *state;
    static const char recipe[] = "merge_method: ties\n" TWO("weight: 0.7, density: 0.4");
    int most = 0;
    models(m, SY_BF16);
    merging_ok(m, recipe, "whole");
    for (int after = 1; after < 340; after += after < 10 ? 3 : 41) {
        const int resumed = goes_on(m, recipe, after);
        if (resumed > most) most = resumed;
    }
    assert_true(most >= TENSORS / 2); /* not all of the work was done again */
}

static void full_disk(void **state)
{
    merging *m = *state;
    static const char recipe[] = "merge_method: ties\n" TWO("weight: 0.7, density: 0.4");
    models(m, SY_BF16);
    merging_ok(m, recipe, "whole");
    for (int after = 2; after < 400; after += 97) {
        syi_file_fail_after(m->ctx, after, ENOSPC);
        const sy_status st = merging_run(m, recipe, "full", NULL);
        syi_file_fail_after(m->ctx, 0, 0);
        if (st == SY_OK) break;
        assert_int_equal(st, SY_E_IO);
        assert_non_null(strstr(sy_error_message(m->ctx), "space"));
        assert_false(syi_exists(scratch_path(m->dir, "full")));
        merging_ok(m, recipe, "full");
        same_file(m, "whole", "full", "model.safetensors");
        assert_int_equal(syi_remove_tree(m->ctx, scratch_path(m->dir, "full")), SY_OK);
    }
    /* another recipe does not go on with what is there */
    syi_file_fail_after(m->ctx, 200, ENOSPC);
    assert_int_not_equal(merging_run(m, recipe, "other", NULL), SY_OK);
    syi_file_fail_after(m->ctx, 0, 0);
    merging_ok(m, "merge_method: ties\n" TWO("weight: 0.7, density: 0.5"), "other");
    merging_ok(m, "merge_method: ties\n" TWO("weight: 0.7, density: 0.5"), "fresh");
    same_file(m, "other", "fresh", "model.safetensors");
}

static void recipes_refused(void **state)
{
    merging *m = *state;
    static const float x[4] = { 1, 2, 3, 4 };
    const merging_tensor t[] = { { "w.weight", 2, { 2, 2 }, x } };
    merging_model(m, "a", SY_F32, t, 1);
    merging_model(m, "b", SY_F32, t, 1);
    static const struct { const char *recipe; sy_status status; const char *says; } cases[] = {
        { "merge_method: tiess\nmodels: [{model: a}]\n", SY_E_USAGE, "did you mean \"ties\"" },
        { "merge_method: linear\nmodel: [{model: a}]\n", SY_E_USAGE, "did you mean \"models\"" },
        { "merge_method: linear\nmodels: [{modell: a}]\n", SY_E_USAGE, "models[0]: there is no key \"modell\" here; did you mean \"model\"" },
        { "merge_method: linear\nmodels: [{model: a, parameters: {wieght: 1}}]\n", SY_E_USAGE, "did you mean \"weight\"" },
        { "merge_method: linear\nmodels: [{model: a}]\n", SY_E_USAGE, "\"weight\" is missing" },
        { "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1, normalize: true}}]\n", SY_E_USAGE, "one for all models" },
        { "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: -1}}]\n", SY_E_USAGE, "add up to 0" },
        { "merge_method: linear\nmodels: [{model: a, parameters: {weight: high}}]\n", SY_E_USAGE, "weight" },
        { "merge_method: linear\nmodels: [{model: a, parameters: {weight: [{filtr: x, value: 1}]}}]\n", SY_E_USAGE, "{filter:" },
        { "merge_method: linear\n", SY_E_USAGE, "exactly one of" },
        { "models: [{model: a}]\n", SY_E_USAGE, "\"merge_method\" is missing" },
        { "merge_method: linear\nmodels: []\n", SY_E_USAGE, "not empty" },
        { "merge_method: linear\nmodels: {model: a}\n", SY_E_USAGE, "expected a list" },
        { "merge_method: linear\nmodels: [{model: nowhere, parameters: {weight: 1}}]\n", SY_E_INPUT, "no model nowhere" },
        { "merge_method: ties\nmodels: [{model: a, parameters: {weight: 1}}]\n", SY_E_USAGE, "needs a base_model" },
        { "merge_method: ties\nbase_model: b\nmodels: [{model: a, parameters: {weight: 1, density: 1.5}}]\n", SY_E_USAGE, "density" },
        { "merge_method: slerp\nbase_model: a\nmodels: [{model: a}]\n", SY_E_USAGE, "at least 1 models besides the base" },
        { "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\ndtype: float31\n", SY_E_USAGE, "float31" },
        { "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 3]}]}]\n", SY_E_USAGE, "has 0 layers" },
        { "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [3, 3]}]}]\n", SY_E_USAGE, "holds no layers" },
        { "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\ntokenizer_source: union\n", SY_E_UNSUPPORTED, "embeddings" },
    };
    for (int i = 0; i < SYI_COUNT(cases); i++) merging_fails(m, cases[i].recipe, cases[i].status, cases[i].says);
}

static void models_refused(void **state)
{
    merging *m = *state;
    static float x[4096], y[4096], bad[4096];
    for (int i = 0; i < 4096; i++) {
        x[i] = noise();
        y[i] = noise();
        bad[i] = i == 77 ? NAN : x[i];
    }
    merging_tensor t[] = { { "m0.weight", 2, { 64, 16 }, x },        { "m1.weight", 2, { 64, 16 }, x + 1024 }, { "m2.weight", 2, { 64, 16 }, x + 2048 },
                           { "m3.weight", 2, { 64, 16 }, x + 3072 }, { "m4.weight", 1, { 64 }, x } };
    merging_model(m, "a", SY_F32, t, 5);
    merging_model(m, "missing", SY_F32, t, 4);
    t[0].data = bad;
    merging_model(m, "nan", SY_F32, t, 5);
    for (int i = 0; i < 4; i++) t[i].data = y + 1024 * i;
    merging_model(m, "stranger", SY_F32, t, 5);
    t[1].dim[0] = 16;
    t[1].dim[1] = 64;
    merging_model(m, "turned", SY_F32, t, 5);
    merging_fails(m, "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: missing, parameters: {weight: 1}}]\n", SY_E_INPUT, "missing has no tensor m4.weight");
    merging_fails(m, "merge_method: linear\nmodels: [{model: missing, parameters: {weight: 1}}, {model: a, parameters: {weight: 1}}]\n", SY_E_INPUT, "missing has no tensor m4.weight");
    merging_fails(m, "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: turned, parameters: {weight: 1}}]\n", SY_E_INPUT, "m1.weight is [64, 16] in a and [16, 64]");
    merging_fails(m, "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: nan, parameters: {weight: 1}}]\n", SY_E_NUMERIC, "number 77 in nan is not finite");
    merging_fails(m, "merge_method: task_arithmetic\nbase_model: stranger\nmodels: [{model: a, parameters: {weight: 1}}]\n", SY_E_INPUT, "does not seem to come from the base");
    assert_int_equal(merging_run(m, "merge_method: task_arithmetic\nbase_model: stranger\nmodels: [{model: a, parameters: {weight: 1}}]\n", "crime", (const char *const[]){ "unrelated=on", NULL }), SY_OK);
    t[1].dim[0] = 64;
    t[1].dim[1] = 16;
    for (int i = 0; i < 4096; i++) y[i] = 60000;
    merging_model(m, "large", SY_F32, t, 5);
    merging_fails(m, "merge_method: linear\nmodels: [{model: large, parameters: {weight: 2}}]\nparameters: {normalize: false}\ndtype: float16\n", SY_E_NUMERIC, "does not fit into F16");
}

static void takes_no_memory(void **state)
{
    merging *m = *state;
    models(m, SY_BF16);
    for (int64_t n = 1; n < 4000; n = n * 5 / 4 + 1) {
        sy_memory_fail_after(m->ctx, n);
        const sy_status st = merging_run(m, "merge_method: ties\n" TWO("weight: 0.7, density: 0.4"), "out", (const char *const[]){ "threads=1", NULL });
        sy_memory_fail_after(m->ctx, 0);
        if (st == SY_OK) break;
        assert_int_equal(st, SY_E_MEMORY);
    }
    const sy_status st = merging_run(m, "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n", "small", (const char *const[]){ "memory-limit=1M", NULL });
    assert_int_equal(st, SY_E_MEMORY);
    assert_non_null(strstr(sy_error_message(m->ctx), "--memory-limit"));
}

int main(void)
{
    const struct CMUnitTest tests[] = { merging_test(threads_do_not_matter), merging_test(shards), merging_test(killed), merging_test(full_disk),
                                        merging_test(recipes_refused), merging_test(models_refused), merging_test(takes_no_memory) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
