/* SPDX-License-Identifier: Apache-2.0 */
/* RandLoRA: start, counts, its definition by loops in all orientations, rank, both paths,
 * gradients, the random matrices, files with and without them. */
#include "support/adapter_check.h"

#define LIST(...) ((const char *const[]){ __VA_ARGS__, NULL })
#define MODEL(f, buf) check_model(f, buf, "model", NULL)

static void start_changes_nothing(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    check_start(f, model, "randlora", LIST("rank=3", "path=factors", "alpha=3"), 0);
    check_start(f, model, "randlora", LIST("rank=3", "path=weight", "alpha=3"), 0);
    check_start(f, model, "randlora", LIST("rank=4", "use-dora=on", "alpha=4"), 1e-6);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    for (int path = 0; path < 2; path++) { /* lambda = 0: only lambda has a gradient */
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "randlora", .settings = LIST("rank=3", path ? "path=weight" : "path=factors"), .dtype = SY_F64 });
        sy_loss l;
        TEST_OK(f->ctx, sy_run_backward(run, &b.batch, 1, &l));
        const sy_param *lambda = tiny_param(run, "layers.1.mlp.down_proj.randlora_lambda"), *gamma = tiny_param(run, "layers.1.mlp.down_proj.randlora_gamma");
        double size = 0;
        for (int64_t i = 0; i < sy_tensor_count(&lambda->grad); i++) size += fabs(((double *)lambda->grad.data)[i]);
        assert_true(size > 0);
        for (int64_t i = 0; i < sy_tensor_count(&gamma->grad); i++) assert_float_equal(((double *)gamma->grad.data)[i], 0, 0);
        assert_float_equal(tiny_get(gamma, 0), 1.0f / 16, 1e-9); /* 1 / max(n, m) */
        sy_run_close(run);
    }
}

static void worked_counts(void **state)
{
    test_folder *f = *state;
    char model[512];
    const tiny_model llama32_3b = { .hidden = 3072, .layers = 28, .heads = 24, .kv_heads = 8, .head_dim = 128, .ffn = 64, .vocab = 64,
                                    .tied = true, .dtype = SY_BF16, .empty = true };
    check_model(f, model, "3b", &llama32_3b);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "randlora", .settings = LIST("rank=32", "target-modules=q_proj,v_proj"),
                                                     .dtype = SY_BF16, .plan_only = true });
    assert_int_equal(sy_run_trained(run), 9289728);
    sy_run_close(run);
    const tiny_model small = { .hidden = 64, .layers = 1, .heads = 4, .kv_heads = 4, .head_dim = 16, .ffn = 256, .vocab = 64, .tied = true, .dtype = SY_BF16, .empty = true };
    check_model(f, model, "small", &small);
    for (int up = 0; up < 2; up++) { /* 64 x 256 in both orientations */
        run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "randlora", .settings = LIST("rank=8", up ? "target-modules=up_proj" : "target-modules=down_proj"),
                                                 .dtype = SY_BF16, .plan_only = true });
        assert_int_equal(sy_run_trained(run), 576);
        sy_run_close(run);
    }
}

/* Folded weights against dW[i,j] = s sum_p B[i, p div r, p mod r] lambda[p div n, p mod n]
 * A[p div n, j] gamma[p mod n, j], transposed where in > out. */
static void definition(void **state)
{
    test_folder *f = *state;
    static const char *const sites[] = { "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.up_proj" };
    char model[512];
    MODEL(f, model);
    for (int k = 0; k < 6; k++) {
        const bool paper = k >= 3;
        const int r = k % 3 == 0 ? 3 : k % 3 == 1 ? 4 : 1;
        const char *const settings[] = { r == 3 ? "rank=3" : r == 4 ? "rank=4" : "rank=1", "alpha=6", paper ? "scale-rule=paper" : "scale-rule=peft", NULL };
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "randlora", .settings = settings, .dtype = SY_F64 });
        tiny_shake(run, 0.3, 7);
        const sy_param *pa = tiny_param(run, "randlora_A"), *pb = tiny_param(run, "randlora_B");
        for (int i = 0; i < SYI_COUNT(sites); i++) {
            const sy_site *s = syi_model_site(run->model, sites[i]);
            const int64_t in = s->in, out = s->out, m = syi_min(in, out), n = syi_ceil_div(m, r), all = pb->value.dim[1], m_all = pa->value.dim[2];
            const double scale = 6.0 / r / (paper ? sqrt((double)n) : 1);
            const sy_param *l = s->wraps[0].slot[0], *y = s->wraps[0].slot[1];
            float *w0, *w = check_folded(f->ctx, run, sites[i], &w0);
            for (int64_t o = 0; o < out; o++)
                for (int64_t x = 0; x < in; x++) {
                    const int64_t big = in <= out ? o : x, j = in <= out ? x : o;
                    double v = 0;
                    for (int64_t p = 0; p < n * r; p++)
                        v += tiny_get(pb, (big * all + p / r) * r + p % r) * tiny_get(l, p / n * n + p % n) * tiny_get(pa, p / n * m_all + j) * tiny_get(y, p % n * m + j);
                    const double want = w0[o * in + x] + scale * v;
                    if (fabs(want - w[o * in + x]) > 1e-6 * fmax(1, fabs(want))) fail_msg("rank %d %s [%d,%d]: %g, not %g", r, sites[i], (int)o, (int)x, w[o * in + x], want);
                }
            free(w);
            free(w0);
        }
        sy_run_close(run);
    }
}

static void both_paths(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    double loss[3];
    for (int k = 0; k < 3; k++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "randlora",
                                                         .settings = LIST("rank=3", "alpha=4", k == 0 ? "path=factors" : k == 1 ? "path=weight" : "path=auto"), .dtype = SY_F64 });
        tiny_shake(run, 0.2, 4);
        loss[k] = check_loss(f->ctx, run, &b.batch);
        sy_run_close(run);
    }
    assert_true(fabs(loss[0] - loss[1]) < 1e-10 * loss[0]);
    assert_true(loss[2] == loss[1]); /* 18 tokens are more than 16 / 2 */
}

/* Random lambda, gamma: the update has the full rank. */
static void full_rank(void **state)
{
    test_folder *f = *state;
    char empty[512];
    tiny_model zero = TINY_MODEL;
    zero.empty = true;
    check_model(f, empty, "zero", &zero);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = empty, .adapter = "randlora", .settings = LIST("rank=3", "alpha=3"), .dtype = SY_F64 });
    tiny_shake(run, 0.5, 3);
    float *w = check_folded(f->ctx, run, "model.layers.0.mlp.up_proj", NULL), u[24 * 16], s[16], vt[16 * 16];
    TEST_OK(f->ctx, syi_svd(f->ctx, 24, 16, w, u, s, vt));
    assert_true(s[13] > 1e-6 * s[0]);
    free(w);
    sy_run_close(run);
}

static void gradients(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    check_all_gradients(f, model, "randlora", LIST("rank=3", "alpha=2", "path=factors"), 0.2);
    check_all_gradients(f, model, "randlora", LIST("rank=3", "alpha=2", "path=weight"), 0.2);
    check_all_gradients(f, model, "randlora", LIST("rank=4", "alpha=2", "sparse=on", "bias=all"), 0.2);
}

/* RandDoRA: m's gradient by differences; the factor m / n of an unmoved m and W is 1. */
static void dora(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 11);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "randlora", .settings = LIST("rank=3", "alpha=2", "use-dora=on"), .dtype = SY_F64 });
    tiny_shake(run, 0.1, 4);
    sy_loss l;
    TEST_OK(f->ctx, sy_run_backward(run, &b.batch, 1, &l));
    sy_param *p = tiny_param(run, "layers.0.mlp.up_proj.randlora_magnitude");
    for (int64_t k = 0; k < 24; k += 5) {
        const double keep = tiny_get(p, k), h = 1e-5;
        tiny_put(p, k, keep + h);
        double up = check_loss(f->ctx, run, &b.batch);
        tiny_put(p, k, keep - h);
        double down = check_loss(f->ctx, run, &b.batch);
        tiny_put(p, k, keep);
        assert_true(fabs((up - down) / (2 * h) - ((double *)p->grad.data)[k]) < 1e-6 * fmax(1, fabs(up)));
    }
    float *w = check_folded(f->ctx, run, "model.layers.0.mlp.up_proj", NULL); /* rows have the lengths m */
    for (int o = 0; o < 24; o++) {
        double n = 0;
        for (int i = 0; i < 16; i++) n += (double)w[o * 16 + i] * w[o * 16 + i];
        assert_float_equal((float)sqrt(n), (float)fabs(tiny_get(p, o)), 1e-5);
    }
    free(w);
    sy_run_close(run);
}

static void matrices(void **state)
{
    test_folder *f = *state;
    static const struct { const char *kind; int values; double zeros; } cases[] = { { "sparse=on", 3, 2.0 / 3 }, { "very-sparse=on", 3, /* m: the lesser of the largest in and out, 96 */ 1 - 1 / 9.797959 }, { "dist=normal", 0, 0 }, { "dist=uniform", 0, 0 } };
    char model[512];
    const tiny_model wide = { .hidden = 64, .layers = 1, .heads = 4, .kv_heads = 4, .head_dim = 16, .ffn = 96, .vocab = 40, .tied = true, .dtype = SY_F32, .seed = 3 };
    check_model(f, model, "wide", &wide);
    for (int i = 0; i < SYI_COUNT(cases); i++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "randlora", .settings = LIST("rank=8", cases[i].kind), .dtype = SY_F32 });
        const sy_param *b = tiny_param(run, "randlora_B");
        const int64_t n = sy_tensor_count(&b->value);
        double sum = 0, square = 0, largest = 0;
        int64_t zeros = 0;
        for (int64_t k = 0; k < n; k++) {
            const double v = tiny_get(b, k);
            sum += v;
            square += v * v;
            zeros += v == 0;
            largest = fmax(largest, fabs(v));
        }
        const double std = sqrt((square - sum * sum / (double)n) / (double)(n - 1));
        if (cases[i].values) {
            assert_true(fabs(std - 1) < 1e-6);
            if (fabs((double)zeros / (double)n - cases[i].zeros) > 0.02) fail_msg("%s: %g zeros, not %g", cases[i].kind, (double)zeros / (double)n, cases[i].zeros);
            for (int64_t k = 0; k < n; k++) assert_true(tiny_get(b, k) == 0 || fabs(tiny_get(b, k)) == largest); /* three values */
        } else {
            assert_true(fabs(std - 1) < 3e-3); /* bf16 numbers divided by a bf16 deviation */
            assert_true(i == 2 ? largest > 3 : largest < 1.75);
        }
        sy_run_close(run);
    }
}

static void files(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    check_round_trip(f, model, "randlora", LIST("rank=3", "alpha=3"), 0);
    check_round_trip(f, model, "randlora", LIST("rank=3", "alpha=3", "save-copies=on"), 0);
    check_round_trip(f, model, "randlora", LIST("rank=3", "alpha=3", "save-projection=off", "projection-prng-key=9"), 0);
    check_round_trip(f, model, "randlora", LIST("rank=4", "alpha=3", "very-sparse=on", "save-projection=off"), 0);
    check_round_trip(f, model, "randlora", LIST("rank=4", "alpha=8", "scale-rule=paper", "use-dora=on"), 0);
    check_fold(f, model, "randlora", LIST("rank=3", "alpha=3"), 1e-5);
    check_fold(f, model, "randlora", LIST("rank=3", "alpha=3", "use-dora=on"), 1e-5);
}

static void refusals(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    check_refused(f, model, "randlora", LIST("rank=17"), SY_E_USAGE, "above the lesser side");
    check_refused(f, model, "randlora", LIST("rank=4", "dist=normal", "save-projection=off"), SY_E_USAGE, "save-projection");
    check_refused(f, model, "randlora", LIST("rank=4", "dropout=0.1", "use-dora=on"), SY_E_UNSUPPORTED, "dropout");
    check_refused(f, model, "randlora", LIST("rank=4", "target-modules=q_prj"), SY_E_USAGE, "q_prj");
    check_refused(f, model, "randlora", LIST("rank=4", "target-modules=embed_tokens"), SY_E_UNSUPPORTED, "embed_tokens");
}

static void threads_change_nothing(void **state)
{
    check_threads(*state, "randlora", LIST("rank=16", "alpha=8", "path=weight"), 2);
    check_threads(*state, "randlora", LIST("rank=16", "alpha=8", "dropout=0.1"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(start_changes_nothing), folder_test(worked_counts), folder_test(definition), folder_test(both_paths), folder_test(full_rank),
        folder_test(gradients), folder_test(dora), folder_test(matrices), folder_test(files), folder_test(refusals), folder_test(threads_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
