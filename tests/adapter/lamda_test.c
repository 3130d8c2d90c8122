/* SPDX-License-Identifier: Apache-2.0 */
/* LaMDA and LaMDA++: start, the identities of its singular triplets, the freezing schedule and
 * what it leaves untouched, counts, gradients, what is kept for backward, how ranks are shared
 * out, resuming in the middle of it, export as LoRA. */
#include "support/adapter_check.h"

#define LIST(...) ((const char *const[]){ __VA_ARGS__, NULL })
#define MODEL(f, buf) check_model(f, buf, "model", NULL)

static void start_changes_nothing(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    static const char *const inits[] = { "init=svd_residual", "init=svd_zero", "init=lora", "init=random" };
    for (int i = 0; i < 4; i++) check_start(f, model, "lamda", LIST("rank=5", inits[i], "alpha=8"), 0);
    check_start(f, model, "lamda", LIST("rank=4", "plus=on", "svd=exact"), 0);
    /* in bf16 too */
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    float *y[2];
    for (int k = 0; k < 2; k++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = k ? "lamda" : NULL, .settings = LIST("rank=5"), .dtype = SY_BF16, .evaluate = true });
        y[k] = tiny_logits(f->ctx, run, &b.batch);
        sy_run_close(run);
    }
    assert_memory_equal(y[0], y[1], (size_t)(TINY_TOKENS * TINY_MODEL.vocab) * sizeof(float));
    free(y[0]);
    free(y[1]);
}

/* A A^T = I, B0^T B0 = I, |W - s B0 S0 A|^2 = the rest of the spectrum. */
static void triplets(void **state)
{
    test_folder *f = *state;
    static const char *const sites[] = { "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.up_proj" };
    char model[512];
    MODEL(f, model);
    for (int exact = 0; exact < 2; exact++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lamda", .settings = LIST("rank=3", "alpha=6", exact ? "svd=exact" : "svd=randomized"), .dtype = SY_F64 });
        for (int i = 0; i < SYI_COUNT(sites); i++) {
            const sy_site *s = syi_model_site(run->model, sites[i]);
            const int64_t in = s->in, out = s->out, p = syi_min(in, out);
            const sy_param *a = s->wraps[0].slot[0], *c = s->wraps[0].slot[1], *b = s->wraps[0].slot[2];
            float w[24 * 24], u[24 * 24], sv[24], vt[24 * 24];
            double rest = 0, tail = 0;
            TEST_OK(f->ctx, s->weight->type->dense(f->ctx, s->weight, 0, out, w));
            TEST_OK(f->ctx, syi_svd(f->ctx, out, in, w, u, sv, vt));
            for (int k = 0; k < 3; k++)
                for (int j = 0; j < 3; j++) {
                    double aa = 0, bb = 0;
                    for (int64_t x = 0; x < in; x++) aa += tiny_get(a, k * in + x) * tiny_get(a, j * in + x);
                    for (int64_t o = 0; o < out; o++) bb += tiny_get(b, o * 3 + k) * tiny_get(b, o * 3 + j);
                    assert_true(fabs(aa - (k == j)) < 1e-5 && fabs(bb - (k == j)) < 1e-5);
                }
            for (int64_t o = 0; o < out; o++)
                for (int64_t x = 0; x < in; x++) {
                    double v = w[o * in + x];
                    for (int k = 0; k < 3; k++)
                        for (int j = 0; j < 3; j++) v -= 2 * tiny_get(b, o * 3 + k) * tiny_get(c, k * 3 + j) * tiny_get(a, j * in + x); /* s = 6/3 */
                    rest += v * v;
                }
            for (int64_t k = 3; k < p; k++) tail += (double)sv[k] * sv[k];
            assert_true(fabs(rest - tail) < 1e-4 * tail);
        }
        sy_run_close(run);
    }
}

static const char *const FREEZING[] = { "rank=8", "dropout=0", "target-modules=q_proj,up_proj", NULL };

/* k_t for r = 8, T = 100, eta = 0.3; a column's bits stay from its step to the end, with AdamW
 * and weight decay; the mean number of trained scalars is the formula's. */
static void freezing(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    for (int ascending = 0; ascending < 2; ascending++) {
        const char *const settings[] = { "rank=8", "dropout=0", "target-modules=q_proj,up_proj", ascending ? "freeze-order=asc" : "freeze-order=desc", NULL };
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lamda", .settings = settings, .dtype = SY_F32, .total = 100,
                                                         .optimizer_settings = LIST("weight-decay=0.1") });
        sy_param *b = tiny_param(run, "layers.1.mlp.up_proj.lamda_B");
        float before[24 * 8];
        double sum = 0;
        for (int t = 0; t < 100; t++) {
            const int k = t >= 30 ? 8 : 8 * t / 30;
            assert_true(k == (t < 4 ? 0 : t == 4 ? 1 : t == 15 ? 4 : k));
            memcpy(before, b->value.data, sizeof before);
            tiny_batch batch;
            tiny_batch_make(&batch, TINY_MODEL.vocab, (uint64_t)t + 50);
            sy_step_result r;
            TEST_OK(f->ctx, sy_run_step_once(run, &batch.batch, 1e-2, 1, &r));
            int moved = 0;
            for (int j = 0; j < 8; j++) {
                bool same = true;
                for (int o = 0; o < 24; o++) same &= memcmp(&before[o * 8 + j], (float *)b->value.data + o * 8 + j, 4) == 0;
                const bool is_frozen = ascending ? j >= 8 - k : j < k;
                if (same != is_frozen) fail_msg("step %d, column %d: %s", t, j, same ? "did not move" : "moved though frozen");
                moved += !same;
            }
            sum += 64 + 24 * moved;
            assert_true(b->trained == (t < 30));
        }
        double formula = 64;
        for (int t = 0; t < 100; t++) formula += 24 * (8 - (t >= 30 ? 8 : 8 * t / 30)) / 100.0;
        assert_float_equal((float)(sum / 100), (float)formula, 1e-4);
        assert_int_equal(sy_run_trained(run), 4 * 64); /* S of four modules */
        sy_run_close(run);
    }
}

static void resumes(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    static const int cuts[] = { 3, 4, 5, 6, 9, 0 }; /* eta 0.3 of 20 steps: a column or two at every step, then B goes */
    check_resume(f, model, "lamda", FREEZING, SY_F32, 20, cuts);
    check_resume(f, model, "lamda", LIST("rank=4", "plus=on", "eta=0.4"), SY_BF16, 10, (const int[]){ 2, 4, 7, 0 });
}

static void gradients(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    check_all_gradients(f, model, "lamda", LIST("rank=4", "alpha=8", "dropout=0"), 0.05);
    check_all_gradients(f, model, "lamda", LIST("rank=3", "init=random", "dropout=0", "bias=all"), 0.2);
}

/* What a step keeps: LaMDA r numbers a token and module, LoRA in as well. */
static void keeps_less(void **state)
{
    test_folder *f = *state;
    char model[512];
    const tiny_model wide = { .hidden = 128, .layers = 2, .heads = 8, .kv_heads = 8, .head_dim = 16, .ffn = 512, .vocab = 40, .tied = true, .dtype = SY_F32, .seed = 2 };
    check_model(f, model, "wide", &wide);
    int64_t step[2];
    for (int k = 0; k < 2; k++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = k ? "lamda" : "lora", .settings = LIST("rank=4", "dropout=0"), .dtype = SY_F32 });
        sy_plan plan;
        TEST_OK(f->ctx, sy_run_plan(run, 512, true, &plan));
        step[k] = plan.step;
        sy_run_close(run);
    }
    assert_true(step[1] < step[0]);
}

/* Where in a file these bytes are. */
static int64_t find_in(const syi_mapped *map, const void *bytes, int64_t n)
{
    for (int64_t i = 0; i + n <= map->size; i += 4)
        if (memcmp(map->data + i, bytes, (size_t)n) == 0) return i;
    fail_msg("not in the file");
    return 0;
}

/* LaMDA++: the budget is met, within the clamps; equal spectra get equal ranks; a weight of rank
 * one gets the least. */
static void shares(void **state)
{
    test_folder *f = *state;
    enum { D = 32, R = 4, LAYERS = 6 };
    char model[512];
    const tiny_model m = { .hidden = D, .layers = LAYERS, .heads = 4, .kv_heads = 4, .head_dim = 8, .ffn = 40, .vocab = 40, .tied = true, .dtype = SY_F32, .seed = 9 };
    /* layer 0's q_proj is of rank one plus noise, layer 2's is layer 1's with rows in another order */
    check_model(f, model, "spectra", &m);
    char path[600];
    snprintf(path, sizeof path, "%s/model.safetensors", model);
    sy_checkpoint *ck;
    TEST_OK(f->ctx, sy_checkpoint_open(f->ctx, path, &ck));
    float one[D * D], noise[D * D], u[2 * D], copy[D * D];
    syi_normal(1, 0, 2 * D, u);
    syi_normal(2, 0, D * D, noise);
    for (int i = 0; i < D * D; i++) one[i] = u[i / D] * u[D + i % D] + 1e-6f * noise[i];
    const sy_entry *first = sy_checkpoint_find(ck, "model.layers.1.self_attn.q_proj.weight"), *e0 = sy_checkpoint_find(ck, "model.layers.0.self_attn.q_proj.weight"),
                   *e2 = sy_checkpoint_find(ck, "model.layers.2.self_attn.q_proj.weight");
    for (int o = 0; o < D; o++) memcpy(copy + o * D, (const float *)first->data + (D - 1 - o) * D, D * sizeof(float));
    syi_mapped map;
    TEST_OK(f->ctx, syi_map_file(f->ctx, path, &map));
    const int64_t at0 = find_in(&map, e0->data, D * D * 4), at2 = find_in(&map, e2->data, D * D * 4);
    syi_unmap_file(f->ctx, &map);
    sy_checkpoint_close(ck);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, at0, SEEK_SET);
    assert_int_equal(fwrite(one, 4, D * D, file), D * D);
    fseek(file, at2, SEEK_SET);
    assert_int_equal(fwrite(copy, 4, D * D, file), D * D);
    fclose(file);
    for (int exact = 0; exact < 2; exact++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lamda", .settings = LIST("rank=4", "plus=on", exact ? "svd=exact" : "svd=randomized", "target-modules=q_proj"),
                                                         .dtype = SY_F32 });
        int64_t sum = 0, rank[LAYERS];
        for (int l = 0; l < LAYERS; l++) {
            char name[64];
            snprintf(name, sizeof name, "layers.%d.self_attn.q_proj.lamda_A", l);
            rank[l] = tiny_param(run, name)->value.dim[0];
            sum += rank[l];
            assert_true(rank[l] >= R / 2 && rank[l] <= 2 * R);
        }
        assert_int_equal(sum, LAYERS * R);
        assert_int_equal(rank[0], R / 2);
        assert_true(llabs((long long)(rank[1] - rank[2])) <= 1);
        sy_run_close(run);
    }
}

/* S differs by a constant only: under Adam without decay, with B frozen from the start, both
 * starts walk the same way. */
static void zero_and_residual(void **state)
{
    test_folder *f = *state;
    const char *site = "model.layers.0.self_attn.q_proj";
    char model[512];
    MODEL(f, model);
    float *w[2], *w0 = NULL;
    for (int k = 0; k < 2; k++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lamda", .dtype = SY_F64, .total = 20,
                                                         .settings = LIST("rank=4", "dropout=0", "freeze-schedule=all", k ? "init=svd_zero" : "init=svd_residual") });
        for (int t = 0; t < 20; t++) {
            tiny_batch b;
            sy_step_result r;
            tiny_batch_make(&b, TINY_MODEL.vocab, 9 + (uint64_t)t);
            TEST_OK(f->ctx, sy_run_step_once(run, &b.batch, 1e-2, 0, &r));
        }
        free(w0);
        w[k] = check_folded(f->ctx, run, site, &w0);
        sy_run_close(run);
    }
    double difference = 0, update = 0;
    for (int i = 0; i < 256; i++) {
        difference += ((double)w[0][i] - w[1][i]) * ((double)w[0][i] - w[1][i]);
        update += ((double)w[0][i] - w0[i]) * ((double)w[0][i] - w0[i]);
    }
    assert_true(update > 0 && sqrt(difference / update) < 1e-4);
    free(w[0]);
    free(w[1]);
    free(w0);
}

static void files(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    check_round_trip(f, model, "lamda", LIST("rank=4", "alpha=6"), 0);
    check_round_trip(f, model, "lamda", LIST("rank=4", "plus=on", "alpha=6"), 0);
    check_fold(f, model, "lamda", LIST("rank=4", "alpha=6"), 1e-5);
    check_fold(f, model, "lamda", LIST("rank=5", "plus=on"), 1e-5);
}

static void refusals(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    check_refused(f, model, "lamda", LIST("plus=on", "r-min=9", "r-max=3", "rank=4"), SY_E_USAGE, "r-min 9");
    check_refused(f, model, "lamda", LIST("rank-pattern=q_proj=1.5"), SY_E_USAGE, "q_proj");
    check_refused(f, model, "lamda", LIST("rank-pattern=q_proj=2,.*q_proj=3"), SY_E_USAGE, "two keys");
    check_refused(f, model, "lamda", LIST("target-modules=q_prj"), SY_E_USAGE, "q_prj");
    check_refused(f, model, "lamda", LIST("target-modules=embed_tokens"), SY_E_UNSUPPORTED, "embed_tokens");
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lamda", .settings = LIST("rank=64"), .dtype = SY_F32 }); /* clamped */
    assert_int_equal(tiny_param(run, "layers.0.self_attn.v_proj.lamda_S")->value.dim[0], 8);
    assert_int_equal(tiny_param(run, "layers.0.mlp.up_proj.lamda_S")->value.dim[0], 16);
    sy_run_close(run);
}

static void threads_change_nothing(void **state)
{
    check_threads(*state, "lamda", LIST("rank=8", "plus=on"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(start_changes_nothing), folder_test(triplets), folder_test(freezing), folder_test(resumes), folder_test(gradients), folder_test(keeps_less),
        folder_test(shares), folder_test(zero_and_residual), folder_test(files), folder_test(refusals), folder_test(threads_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
