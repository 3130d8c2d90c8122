/* SPDX-License-Identifier: Apache-2.0 */
/* Weight matching: the assignment against all permutations, a permuted network found again,
 * the function of a Llama (grouped heads, RoPE) unchanged by what was found, distances never
 * larger, three models. */
#include "support/merging.h"
#include "support/tiny_model.h"

#include "tensor/lap.h"

#include <math.h>

static uint64_t state_ = 3;
static double noise(void)
{
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (double)(state_ >> 11) * 0x1p-53 * 2 - 1;
}

static double brute(const double *s, int n, int row, unsigned used)
{
    double best = -INFINITY;
    if (row == n) return 0;
    for (int j = 0; j < n; j++)
        if (!(used >> j & 1)) best = fmax(best, s[row * n + j] + brute(s, n, row + 1, used | 1u << j));
    return best;
}

static void assignment(void **state)
{
    merging *m = *state;
    for (int k = 0; k < 100; k++) {
        const int n = 1 + k % 8;
        double s[64], value, sum = 0;
        int64_t p[8];
        unsigned seen = 0;
        for (int i = 0; i < n * n; i++) s[i] = k % 3 ? noise() : floor(3 * noise()); /* ties too */
        assert_int_equal(syi_lap(m->ctx, n, s, p, &value), SY_OK);
        for (int i = 0; i < n; i++) {
            seen |= 1u << p[i];
            sum += s[i * n + p[i]];
        }
        assert_int_equal(seen, (1u << n) - 1);
        assert_float_equal(sum, value, 1e-12);
        assert_float_equal(value, brute(s, n, 0, 0), 1e-12);
    }
    double bad[4] = { 1, NAN, 0, 1 };
    int64_t p[2];
    assert_int_equal(syi_lap(m->ctx, 2, bad, p, NULL), SY_E_NUMERIC);
}

enum { IN = 6, HIDDEN = 20, OUT = 4 };

static void mlp(merging *m, const char *name, const float *w0, const float *b0, const float *w1, const float *b1)
{
    static const char config[] = "{\"model_type\": \"mlp\", \"architectures\": [\"MLP\"], \"hidden_sizes\": [20], \"num_labels\": 4, \"image_size\": 1, \"num_channels\": 6}";
    char path[64];
    const merging_tensor t[] = { { "layers.0.weight", 2, { HIDDEN, IN }, w0 }, { "layers.0.bias", 1, { HIDDEN }, b0 },
                                 { "layers.1.weight", 2, { OUT, HIDDEN }, w1 }, { "layers.1.bias", 1, { OUT }, b1 } };
    merging_model(m, name, SY_F32, t, 4);
    snprintf(path, sizeof path, "%s/config.json", name);
    scratch_write(scratch_path(m->dir, path), config, sizeof config - 1);
}

static void known_permutation(void **state)
{
    merging *m = *state;
    float w0[HIDDEN * IN], b0[HIDDEN], w1[OUT * HIDDEN], b1[OUT], v0[HIDDEN * IN], c0[HIDDEN], v1[OUT * HIDDEN], out[HIDDEN * IN];
    for (int i = 0; i < HIDDEN * IN; i++) w0[i] = (float)noise();
    for (int i = 0; i < HIDDEN; i++) b0[i] = (float)noise();
    for (int i = 0; i < OUT * HIDDEN; i++) w1[i] = (float)noise();
    for (int i = 0; i < OUT; i++) b1[i] = (float)noise();
    for (int u = 0; u < HIDDEN; u++) { /* unit u of the other is unit 7 u + 3 of this one */
        const int from = (7 * u + 3) % HIDDEN;
        memcpy(v0 + u * IN, w0 + from * IN, IN * sizeof *v0);
        c0[u] = b0[from];
        for (int o = 0; o < OUT; o++) v1[o * HIDDEN + u] = w1[o * HIDDEN + from];
    }
    mlp(m, "a", w0, b0, w1, b1);
    mlp(m, "b", v0, c0, v1, b1);
    char recipe[400];
    snprintf(recipe, sizeof recipe, "merge_method: weight-matching\nmodels: [{model: a}, {model: b}]\nparameters: {lambda: 1, max_iter: 1, permutations: %s}\n", scratch_path(m->dir, "perms"));
    merging_ok(m, recipe, "found");
    merging_read(m, "found", "layers.0.weight", out, HIDDEN * IN);
    assert_memory_equal(out, w0, sizeof w0);
    merging_read(m, "found", "layers.1.weight", out, OUT * HIDDEN);
    assert_memory_equal(out, w1, sizeof w1);
    float p[HIDDEN];
    sy_checkpoint *ck;
    assert_int_equal(sy_checkpoint_open(m->ctx, scratch_path(m->dir, "perms/model1.safetensors"), &ck), SY_OK);
    const sy_entry *e = sy_checkpoint_find(ck, "P0");
    assert_non_null(e);
    assert_int_equal(e->dtype, SY_I64);
    assert_int_equal(sy_entry_read_f32(m->ctx, e, 0, 1, p), SY_OK);
    for (int i = 0; i < HIDDEN; i++) assert_int_equal((7 * (int)p[i] + 3) % HIDDEN, i); /* slot i gets unit p[i] of b */
    sy_checkpoint_close(ck);
    /* three of them: the mean is a again */
    mlp(m, "c", w0, b0, w1, b1);
    merging_ok(m, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}, {model: c}]\nparameters: {many: anchor}\n", "anchor");
    merging_read(m, "anchor", "layers.0.weight", out, HIDDEN * IN);
    for (int i = 0; i < HIDDEN * IN; i++) assert_float_equal(out[i], w0[i], 1e-6);
    merging_ok(m, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}, {model: c}]\n", "many");
    merging_read(m, "many", "layers.1.weight", out, OUT * HIDDEN);
    double sum = 0, other = 0;
    for (int i = 0; i < OUT * HIDDEN; i++) sum += fabs(out[i]), other += fabs(w1[i]);
    assert_float_equal(sum, other, 1e-4);
    merging_fails(m, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\nparameters: {scores: nowhere.safetensors}\n", SY_E_INPUT, "nowhere");
}

static float *logits_of(sy_context *ctx, const char *dir, const tiny_batch *b)
{
    tiny_run r = { .model = dir, .dtype = SY_F32, .evaluate = true };
    sy_run *run = tiny_run_open(ctx, &r);
    float *x = tiny_logits(ctx, run, &b->batch);
    sy_run_close(run);
    return x;
}

/* b moved onto a is still b, whatever was found; and it is nearer to a. */
static void llama_keeps_its_function(void **state)
{
    merging *m = *state;
    tiny_model a = TINY_MODEL, b = TINY_MODEL;
    a.seed = 5;
    b.seed = 6;
    char da[300], db[300];
    snprintf(da, sizeof da, "%s", scratch_path(m->dir, "a"));
    snprintf(db, sizeof db, "%s", scratch_path(m->dir, "b"));
    assert_int_equal(syi_mkdirs(m->ctx, da), SY_OK);
    assert_int_equal(syi_mkdirs(m->ctx, db), SY_OK);
    tiny_model_write(m->ctx, &a, da);
    tiny_model_write(m->ctx, &b, db);
    merging_ok(m, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\nparameters: {lambda: 1, restarts: 2}\n", "moved");
    tiny_batch batch;
    tiny_batch_make(&batch, a.vocab, 1);
    float *x = logits_of(m->ctx, db, &batch), *y = logits_of(m->ctx, scratch_path(m->dir, "moved"), &batch);
    assert_true(tiny_relative(x, y, batch.batch.tokens * a.vocab) < 1e-5);
    free(x);
    free(y);
    sy_checkpoint *ca, *cb, *cm;
    assert_int_equal(sy_checkpoint_open(m->ctx, da, &ca), SY_OK);
    assert_int_equal(sy_checkpoint_open(m->ctx, db, &cb), SY_OK);
    assert_int_equal(sy_checkpoint_open(m->ctx, scratch_path(m->dir, "moved"), &cm), SY_OK);
    double before = 0, after = 0, moved = 0;
    for (int64_t i = 0; i < sy_checkpoint_count(ca); i++) {
        const sy_entry *e = sy_checkpoint_at(ca, i);
        const int64_t n = e->bytes / 4, rows = e->rank > 1 ? e->dim[0] : 1;
        float *f = malloc((size_t)(3 * n) * sizeof *f);
        assert_int_equal(sy_entry_read_f32(m->ctx, e, 0, rows, f), SY_OK);
        assert_int_equal(sy_entry_read_f32(m->ctx, sy_checkpoint_find(cb, e->name), 0, rows, f + n), SY_OK);
        assert_int_equal(sy_entry_read_f32(m->ctx, sy_checkpoint_find(cm, e->name), 0, rows, f + 2 * n), SY_OK);
        for (int64_t k = 0; k < n; k++) {
            before += pow((double)f[k] - f[n + k], 2);
            after += pow((double)f[k] - f[2 * n + k], 2);
            moved += f[n + k] != f[2 * n + k];
        }
        free(f);
    }
    assert_true(after < before && moved > 0);
    sy_checkpoint_close(ca);
    sy_checkpoint_close(cb);
    sy_checkpoint_close(cm);
    /* matched to itself: nothing to do */
    merging_ok(m, "merge_method: weight_matching\nmodels: [{model: a}, {model: moved}]\nparameters: {lambda: 0}\n", "same");
}

int main(void)
{
    const struct CMUnitTest tests[] = { merging_test(assignment), merging_test(known_permutation), merging_test(llama_keeps_its_function) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
