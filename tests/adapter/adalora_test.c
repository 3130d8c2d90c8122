/* SPDX-License-Identifier: Apache-2.0 */
/* AdaLoRA: start, the budget's schedule, scores by hand, the final pattern and what it leaves,
 * gradients with the orthogonality term, resuming in the middle of a cut, files. */
#include "support/adapter_check.h"

#define LIST(...) ((const char *const[]){ __VA_ARGS__, NULL })
#define MODEL(f, buf) check_model(f, buf, "model", NULL)

static void start_changes_nothing(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    check_start(f, model, "adalora", LIST("target-r=4"), 0);
}

static void step(test_folder *f, sy_run *run, int t, double lr)
{
    tiny_batch b;
    sy_step_result r;
    tiny_batch_make(&b, TINY_MODEL.vocab, 100 + (uint64_t)t);
    TEST_OK(f->ctx, sy_run_step_once(run, &b.batch, lr, 0, &r));
}

static int alive(sy_run *run)
{
    int n, k = 0;
    sy_param *const *p = sy_params(run, &n);
    for (int i = 0; i < n; i++)
        for (int64_t j = 0; syi_ends(p[i]->name, ".lora_E") && j < sy_tensor_count(&p[i]->value); j++) k += tiny_get(p[i], j) != 0;
    return k;
}

/* N = 4, r0 = 6, target 3, T = 1500, tinit 150, tfinal 500, as far as it shows in the number of
 * values that are not zero right after a pruning: b(575) = 13, b(1000) = 12. */
static void schedule(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "adalora", .dtype = SY_F32, .total = 1500,
                                                     .settings = LIST("init-r=6", "target-r=3", "tinit=150", "tfinal=500", "delta-t=5", "target-modules=q_proj,up_proj", "orth-reg-weight=0") });
    int last = 24;
    for (int t = 1; t <= 1010; t++) {
        step(f, run, t, 1e-3);
        if (t <= 150) assert_int_equal(alive(run), 24);
        if (t > 150 && t % 5 == 0) {
            const double left = t >= 1000 ? 0 : 1 - (t - 150) / 850.0;
            const int now = alive(run);
            assert_int_equal(now, (int)floor(12 + 12 * left * left * left));
            assert_true(now <= last);
            last = now;
        }
        if (t == 575) assert_int_equal(alive(run), 13);
    }
    assert_int_equal(alive(run), 12);
    /* shrunk: sum r_k (m + n + 1) numbers are left, modules of rank 0 are out */
    int64_t expected = 0;
    static const struct { const char *name; int m, n; } modules[] = { { "layers.0.self_attn.q_proj", 16, 16 }, { "layers.0.mlp.up_proj", 24, 16 },
                                                                      { "layers.1.self_attn.q_proj", 16, 16 }, { "layers.1.mlp.up_proj", 24, 16 } };
    int ranks = 0;
    for (int i = 0; i < 4; i++) {
        char name[96];
        snprintf(name, sizeof name, "%s.kept", modules[i].name);
        const sy_param *kept = tiny_param(run, name);
        int r = 0;
        for (int k = 0; k < 6; k++) r += tiny_get(kept, k) != 0;
        ranks += r;
        expected += r * (modules[i].m + modules[i].n + 1);
    }
    assert_int_equal(ranks, 12);
    assert_int_equal(sy_run_trained(run), expected);
    sy_run_close(run);
}

/* Scores against the three lines of the definition: the values after some steps, gradients by
 * a run of plain SGD whose steps give them away. */
static void scores(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    enum { R = 3, STEPS = 4 };
    const double lr = 0.5;
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "adalora", .optimizer = "sgd", .dtype = SY_F64, .total = 1000,
                                                     .settings = LIST("init-r=3", "target-r=1", "target-modules=model.layers.0.self_attn.v_proj", "beta1=0.8", "beta2=0.6") });
    tiny_shake(run, 0.3, 2);
    static const char *const names[] = { "lora_A", "lora_B", "lora_E" };
    double before[3][64], ipt[3][64] = { { 0 } }, unc[3][64] = { { 0 } };
    for (int t = 0; t < STEPS; t++) {
        for (int k = 0; k < 3; k++) {
            const sy_param *p = tiny_param(run, names[k]);
            for (int64_t i = 0; i < sy_tensor_count(&p->value); i++) before[k][i] = tiny_get(p, i);
        }
        step(f, run, t, lr);
        for (int k = 0; k < 3; k++) {
            const sy_param *p = tiny_param(run, names[k]);
            for (int64_t i = 0; i < sy_tensor_count(&p->value); i++) {
                const double w = tiny_get(p, i), g = (before[k][i] - w) / lr, now = fabs(w * g);
                ipt[k][i] = 0.8 * ipt[k][i] + 0.2 * now;
                unc[k][i] = 0.6 * unc[k][i] + 0.4 * fabs(now - ipt[k][i]);
            }
        }
    }
    for (int k = 0; k < 3; k++) {
        char name[32];
        snprintf(name, sizeof name, "ipt_%c", names[k][5]);
        const sy_param *p = tiny_param(run, name);
        for (int64_t i = 0; i < sy_tensor_count(&p->value); i++) assert_true(fabs(tiny_get(p, i) - ipt[k][i]) < 1e-9 * fmax(1e-3, ipt[k][i]));
        snprintf(name, sizeof name, "unc_%c", names[k][5]);
        p = tiny_param(run, name);
        for (int64_t i = 0; i < sy_tensor_count(&p->value); i++) assert_true(fabs(tiny_get(p, i) - unc[k][i]) < 1e-9 * fmax(1e-3, unc[k][i]));
    }
    /* the next pruning keeps the triplet with the best s(e) + mean s(P) + mean s(Q) */
    double best = -1;
    int which = 0;
    for (int i = 0; i < R; i++) {
        double a = 0, b = 0;
        for (int j = 0; j < 16; j++) a += ipt[0][i * 16 + j] * unc[0][i * 16 + j] / 16;
        for (int j = 0; j < 8; j++) b += ipt[1][j * R + i] * unc[1][j * R + i] / 8;
        const double s = ipt[2][i] * unc[2][i] + a + b;
        if (s > best) best = s, which = i;
    }
    TEST_OK(f->ctx, sy_run_event(run, SY_STOP)); /* ended early: pruned to the budget of 1 now */
    const sy_param *kept = tiny_param(run, ".kept");
    for (int i = 0; i < R; i++) assert_int_equal((int)tiny_get(kept, i), i == which);
    assert_int_equal(tiny_param(run, "lora_E")->value.dim[0], 1);
    sy_run_close(run);
}

/* The orthogonality term's gradient is part of the gradient: with it, minus without it, against
 * differences of its formula. */
static double term(sy_run *run)
{
    int n, count = 0;
    double sum = 0;
    sy_param *const *p = sy_params(run, &n);
    for (int i = 0; i < n; i++) {
        const bool wide = syi_ends(p[i]->name, ".lora_A");
        if (!wide && !syi_ends(p[i]->name, ".lora_B")) continue;
        const int64_t rows = p[i]->value.dim[0], cols = p[i]->value.dim[1], r = wide ? rows : cols;
        double f = 0;
        for (int64_t a = 0; a < r; a++)
            for (int64_t b = 0; b < r; b++) {
                double v = a == b ? -1 : 0;
                for (int64_t k = 0; k < (wide ? cols : rows); k++)
                    v += wide ? tiny_get(p[i], a * cols + k) * tiny_get(p[i], b * cols + k) : tiny_get(p[i], k * cols + a) * tiny_get(p[i], k * cols + b);
                f += v * v;
            }
        sum += sqrt(f);
        count++;
    }
    return sum / count;
}

static void gradients(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    check_all_gradients(f, model, "adalora", LIST("target-r=3", "alpha=6", "orth-reg-weight=0"), 0.3);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 11);
    double *g[2] = { NULL, NULL };
    sy_run *run = NULL;
    sy_loss l[2];
    for (int k = 0; k < 2; k++) {
        run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "adalora", .settings = LIST("target-r=3", k ? "orth-reg-weight=0.7" : "orth-reg-weight=0"), .dtype = SY_F64 });
        tiny_shake(run, 0.3, 9);
        TEST_OK(f->ctx, sy_run_backward(run, &b.batch, 1, &l[k]));
        const sy_param *p = tiny_param(run, "layers.1.mlp.up_proj.lora_B");
        g[k] = malloc((size_t)sy_tensor_count(&p->value) * sizeof(double));
        memcpy(g[k], p->grad.data, (size_t)sy_tensor_count(&p->value) * sizeof(double));
        if (k == 0) sy_run_close(run);
    }
    assert_true(l[0].loss_sum == l[1].loss_sum); /* what is reported is the text's loss */
    sy_param *p = tiny_param(run, "layers.1.mlp.up_proj.lora_B");
    for (int64_t i = 0; i < sy_tensor_count(&p->value); i += 7) {
        const double keep = tiny_get(p, i), h = 1e-6;
        tiny_put(p, i, keep + h);
        const double up = term(run);
        tiny_put(p, i, keep - h);
        const double down = term(run);
        tiny_put(p, i, keep);
        assert_true(fabs(0.7 * (up - down) / (2 * h) - (g[1][i] - g[0][i])) < 1e-7);
    }
    /* once a step, not once a micro-batch */
    TEST_OK(f->ctx, sy_run_backward(run, &b.batch, 1, &l[1]));
    const double *twice = p->grad.data;
    for (int64_t i = 0; i < sy_tensor_count(&p->value); i++) assert_true(fabs(twice[i] - (g[1][i] + g[0][i])) < 1e-9 * fmax(1, fabs(twice[i])));
    sy_run_close(run);
    free(g[0]);
    free(g[1]);
}

/* init-r = target-r, no term: three factors trained plainly, nothing is ever pruned. */
static void nothing_to_prune(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    syi_hash h[2];
    for (int k = 0; k < 2; k++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "adalora", .dtype = SY_F32, .total = k ? 0 : 12, /* 0: no schedule at all */
                                                         .settings = LIST("init-r=4", "target-r=4", "orth-reg-weight=0", "delta-t=1") });
        syi_hasher *all;
        for (int t = 0; t < 12; t++) step(f, run, t, 1e-2);
        TEST_OK(f->ctx, syi_hasher_new(f->ctx, &all));
        for (int i = 0; i < run->n_params; i++)
            if (run->params[i]->trained) syi_hasher_add(all, run->params[i]->value.data, (size_t)sy_tensor_bytes(&run->params[i]->value));
        h[k] = syi_hasher_end(all);
        assert_int_equal(alive(run), 4 * 14);
        sy_run_close(run);
    }
    assert_true(h[0].lo == h[1].lo && h[0].hi == h[1].hi);
}

static void resumes(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    static const int cuts[] = { 2, 7, 8, 13, 14, 15, 18, 0 };
    check_resume(f, model, "adalora", LIST("init-r=5", "target-r=2", "tinit=3", "tfinal=6", "delta-t=2"), SY_F32, 20, cuts);
    check_resume(f, model, "adalora", LIST("init-r=5", "target-r=1", "tinit=3", "tfinal=6", "delta-t=3", "shrink=off"), SY_BF16, 20, cuts);
}

/* Pruned, saved, opened: the same function, also as a LoRA; also with modules that lost all. */
static void files(void **state)
{
    test_folder *f = *state;
    char model[512], dir[512], again[512];
    MODEL(f, model);
    check_round_trip(f, model, "adalora", LIST("target-r=3"), 0);
    check_fold(f, model, "adalora", LIST("target-r=3", "alpha=5"), 1e-5);
    in_folder(f, dir, "pruned");
    in_folder(f, again, "again");
    TEST_OK(f->ctx, syi_mkdirs(f->ctx, dir));
    TEST_OK(f->ctx, syi_mkdirs(f->ctx, again));
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "adalora", .dtype = SY_F32, .total = 20, .settings = LIST("init-r=4", "target-r=1", "tinit=2", "tfinal=5", "delta-t=1") });
    for (int t = 0; t < 20; t++) step(f, run, t, 2e-2);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    float *y = tiny_logits(f->ctx, run, &b.batch);
    TEST_OK(f->ctx, sy_run_save(run, dir));
    sy_run_close(run);
    for (int k = 0; k < 2; k++) { /* opened, saved again, opened */
        run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .folder = k ? again : dir, .dtype = SY_F32, .evaluate = true });
        float *z = tiny_logits(f->ctx, run, &b.batch);
        assert_true(tiny_relative(z, y, TINY_TOKENS * TINY_MODEL.vocab) < 1e-6);
        free(z);
        if (!k) TEST_OK(f->ctx, sy_run_save(run, again));
        sy_run_close(run);
    }
    free(y);
}

static void refusals(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    check_refused(f, model, "adalora", LIST("init-r=3", "target-r=4"), SY_E_USAGE, "ranks only fall");
    check_refused(f, model, "adalora", LIST("init-r=17", "target-r=4"), SY_E_USAGE, "above the lesser side");
    check_refused(f, model, "adalora", LIST("target-modules=q_prj", "target-r=2"), SY_E_USAGE, "q_prj");
    check_refused(f, model, "adalora", LIST("target-modules=embed_tokens", "target-r=2"), SY_E_UNSUPPORTED, "embed_tokens");
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "adalora", .dtype = SY_F32, .total = 10, .settings = LIST("target-r=4", "tinit=6", "tfinal=4") });
    assert_int_equal(sy_run_event(run, SY_START), SY_E_USAGE);
    assert_non_null(strstr(sy_error_message(f->ctx), "do not have room"));
    sy_run_close(run);
}

static void threads_change_nothing(void **state)
{
    check_threads(*state, "adalora", LIST("init-r=12", "target-r=8", "dropout=0.1", "total-step=10", "tinit=0", "tfinal=8", "delta-t=1"), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(start_changes_nothing), folder_test(schedule), folder_test(scores), folder_test(gradients), folder_test(nothing_to_prune),
        folder_test(resumes), folder_test(files), folder_test(refusals), folder_test(threads_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
