/* SPDX-License-Identifier: Apache-2.0 */
/* MiSS, Bone and BAT: starts, counts, the shard form against dense formulas, blocks against
 * loops, the closed form of the best update, conversion to LoRA, gradients, and the tiles of
 * an effective weight. */
#include "support/adapter_check.h"

#define LIST(...) ((const char *const[]){ __VA_ARGS__, NULL })

static const char *const MISS[] = { "rank=5", NULL }, *const MINI[] = { "mode=mini", "rank=5", "mini-r=4", NULL }, *const BAT[] = { "mode=bat", "rank=4", NULL };
#define ALL ((const char *const *const[]){ MISS, MINI, BAT })

static void start_changes_nothing(void **state)
{
    test_folder *f = *state;
    char model[512];
    check_model(f, model, "model", NULL);
    for (int i = 0; i < 3; i++) {
        check_start(f, model, "miss", ALL[i], 0);
        tiny_batch b;
        tiny_batch_make(&b, TINY_MODEL.vocab, 3);
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "miss", .settings = ALL[i], .dtype = SY_F32 });
        sy_loss l;
        TEST_OK(f->ctx, sy_run_backward(run, &b.batch, 1, &l)); /* and learns from the first step on */
        const sy_param *p = tiny_param(run, "layers.0.self_attn.q_proj.miss_block");
        double size = 0;
        for (int64_t k = 0; k < sy_tensor_count(&p->grad); k++) size += fabs(((const float *)p->grad.data)[k]);
        assert_true(size > 0);
        sy_run_close(run);
    }
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "miss", .settings = LIST("mode=random", "rank=4"), .dtype = SY_F32 });
    const sy_param *p = tiny_param(run, "layers.0.mlp.up_proj.miss_block");
    for (int64_t k = 0; k < sy_tensor_count(&p->value); k++) {
        assert_true(fabs(tiny_get(p, k)) <= 1 / sqrt(24.0));
        assert_true(tiny_get(p, k) != 0);
    }
    sy_run_close(run);
}

static void worked_counts(void **state)
{
    test_folder *f = *state;
    static const struct { const char *settings[5]; int64_t count; } cases[] = {
        { { "rank=64", "target-modules=q_proj,v_proj", NULL }, 7340032 },
        { { "rank=64", "target-modules=q_proj,v_proj", "mode=bat", NULL }, 7340032 },
        { { "rank=64", "target-modules=q_proj,v_proj", "mode=mini", "mini-r=64", NULL }, 229376 },
    };
    char model[512];
    const tiny_model llama32_3b = { .hidden = 3072, .layers = 28, .heads = 24, .kv_heads = 8, .head_dim = 128, .ffn = 64, .vocab = 64,
                                    .tied = true, .dtype = SY_BF16, .empty = true };
    check_model(f, model, "3b", &llama32_3b);
    for (int i = 0; i < SYI_COUNT(cases); i++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "miss", .settings = cases[i].settings, .dtype = SY_BF16, .plan_only = true });
        assert_int_equal(sy_run_trained(run), cases[i].count);
        sy_run_close(run);
    }
}

/* Folded weights are W + update by the definitions: D[i mod r, o], D[i mod r, o mod q], and the
 * block formula by four loops. f64, so the fold's only rounding is to f32 at its end. */
static void formulas(void **state)
{
    test_folder *f = *state;
    static const char *const sites[] = { "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.up_proj" };
    char model[512];
    check_model(f, model, "model", NULL);
    for (int mode = 0; mode < 3; mode++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "miss", .settings = ALL[mode], .dtype = SY_F64 });
        tiny_shake(run, 0.3, 7);
        for (int k = 0; k < SYI_COUNT(sites); k++) {
            const sy_site *s = syi_model_site(run->model, sites[k]);
            const int64_t in = s->in, out = s->out, r = mode == 2 ? 4 : 5, q = mode == 1 ? 4 : out;
            char name[128];
            snprintf(name, sizeof name, "%s.miss_block", sites[k]);
            const sy_param *p = tiny_param(run, name);
            float *w0, *w = check_folded(f->ctx, run, sites[k], &w0);
            for (int64_t o = 0; o < out; o++)
                for (int64_t i = 0; i < in; i++) {
                    double want = w0[o * in + i];
                    if (mode < 2) {
                        want += tiny_get(p, i % r * q + o % q);
                    } else {
                        const int64_t block = o / r, first = i / r * r;
                        want += tiny_get(p, (block * r + o % r) * r + i % r);
                        for (int64_t j = 0; j < r; j++) want += w0[o * in + first + j] * tiny_get(p, (block * r + j) * r + i % r);
                    }
                    if (fabs(want - w[o * in + i]) > 1e-6 * fmax(1, fabs(want))) fail_msg("mode %d %s [%d,%d]: %g, not %g", mode, sites[k], (int)o, (int)i, w[o * in + i], want);
                }
            free(w);
            free(w0);
        }
        sy_run_close(run);
        check_fold(f, model, "miss", ALL[mode], 1e-5);
        check_round_trip(f, model, "miss", ALL[mode], 0);
    }
}

/* W = 0: bat is B_p in every block. B_p = -I: every block is -I. And W comes back from W' by
 * (W' - B_p)(I + B_p)^-1. */
static void bat_identities(void **state)
{
    test_folder *f = *state;
    const char *site = "model.layers.0.self_attn.q_proj";
    char empty[512], model[512];
    tiny_model zero = TINY_MODEL;
    zero.empty = true;
    check_model(f, empty, "zero", &zero);
    check_model(f, model, "model", NULL);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = empty, .adapter = "miss", .settings = BAT, .dtype = SY_F64 });
    sy_param *p = tiny_param(run, "layers.0.self_attn.q_proj.miss_block");
    tiny_shake(run, 0.5, 3);
    float *w = check_folded(f->ctx, run, site, NULL);
    for (int o = 0; o < 16; o++)
        for (int i = 0; i < 16; i++) assert_float_equal(w[o * 16 + i], (float)tiny_get(p, (o / 4 * 4 + o % 4) * 4 + i % 4), 0);
    free(w);
    sy_run_close(run);

    run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "miss", .settings = BAT, .dtype = SY_F64 });
    p = tiny_param(run, "layers.0.self_attn.q_proj.miss_block");
    for (int k = 0; k < 64; k++) tiny_put(p, k, k / 4 % 4 == k % 4 ? -1 : 0); /* -I, block after block */
    w = check_folded(f->ctx, run, site, NULL);
    for (int o = 0; o < 16; o++)
        for (int i = 0; i < 16; i++) assert_float_equal(w[o * 16 + i], (o % 4 == i % 4 ? -1 : 0), 1e-6);
    free(w);
    for (int k = 0; k < 64; k++) tiny_put(p, k, 0.01 * (k % 7 - 3));
    float *w0;
    w = check_folded(f->ctx, run, site, &w0);
    double error = 0, size = 0;
    for (int o = 0; o < 16; o++)
        for (int g = 0; g < 4; g++) { /* solve y (I + B) = W' - B by Gauss-Seidel: I + B is near I */
            double y[4] = { 0 };
            const int64_t block = o / 4;
            for (int round = 0; round < 60; round++)
                for (int j = 0; j < 4; j++) {
                    double v = w[o * 16 + g * 4 + j] - tiny_get(p, (block * 4 + o % 4) * 4 + j);
                    for (int k = 0; k < 4; k++) v -= y[k] * (tiny_get(p, (block * 4 + k) * 4 + j) + (k == j)) - (k == j) * y[k];
                    y[j] = v;
                }
            for (int j = 0; j < 4; j++) {
                error += (y[j] - w0[o * 16 + g * 4 + j]) * (y[j] - w0[o * 16 + g * 4 + j]);
                size += (double)w0[o * 16 + g * 4 + j] * w0[o * 16 + g * 4 + j];
            }
        }
    assert_true(sqrt(error / size) < 1e-4);
    free(w);
    free(w0);
    sy_run_close(run);
}

/* The best D for a target T is the mean of T over the shards; for an orthogonal T what is left
 * is 1 - r/d of it. Both through the fold of a model whose weights are zero. */
static void closed_form(void **state)
{
    test_folder *f = *state;
    enum { D = 16, R = 4 };
    char empty[512];
    tiny_model zero = TINY_MODEL;
    zero.empty = true;
    check_model(f, empty, "zero", &zero);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = empty, .adapter = "miss", .settings = LIST("rank=4"), .dtype = SY_F64 });
    sy_param *p = tiny_param(run, "layers.0.self_attn.q_proj.miss_block");
    float seed[D * D], u[D * D], s[D], t[D * D];
    syi_normal(4, 0, D * D, seed);
    TEST_OK(f->ctx, syi_svd(f->ctx, D, D, seed, u, s, t)); /* t: orthogonal */
    for (int j = 0; j < R; j++)
        for (int o = 0; o < D; o++) {
            double mean = 0;
            for (int g = 0; g < D / R; g++) mean += t[o * D + g * R + j];
            tiny_put(p, j * D + o, mean / (D / R));
        }
    double left[3] = { 0 };
    for (int k = 0; k < 3; k++) { /* at the means, and a little to both sides of them */
        const double move = k == 0 ? 0 : k == 1 ? 1e-2 : -2e-2;
        for (int j = 0; j < R * D; j++) tiny_put(p, j, tiny_get(p, j) + move * ((j * 7 % 5) - 2));
        float *w = check_folded(f->ctx, run, "model.layers.0.self_attn.q_proj", NULL);
        for (int i = 0; i < D * D; i++) left[k] += ((double)w[i] - t[i]) * ((double)w[i] - t[i]) / D;
        free(w);
    }
    assert_float_equal(left[0], 1 - (double)R / D, 1e-6);
    assert_true(left[1] > left[0] && left[2] > left[0]);
    sy_run_close(run);
}

static void converts_to_lora(void **state)
{
    test_folder *f = *state;
    char model[512];
    check_model(f, model, "model", NULL);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 2);
    const char *const settings[2][5] = { { "rank=4", "target-modules=q_proj,o_proj", NULL }, { "rank=4", "target-modules=q_proj,o_proj", "mode=mini", "mini-r=16", NULL } };
    float *y[2];
    for (int i = 0; i < 2; i++) { /* mini with q = out is miss */
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "miss", .settings = settings[i], .dtype = SY_F32 });
        tiny_shake(run, 0.2, 4);
        TEST_OK(f->ctx, syi_run_refresh(run));
        y[i] = tiny_logits(f->ctx, run, &b.batch);
        sy_run_close(run);
    }
    assert_true(tiny_relative(y[0], y[1], TINY_TOKENS * TINY_MODEL.vocab) < 1e-6);
    free(y[0]);
    free(y[1]);
    for (int mode = 0; mode < 2; mode++) { /* A = [I I ..], B = D^T */
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "miss", .settings = ALL[mode], .dtype = SY_F64 });
        tiny_shake(run, 0.2, 4);
        const sy_site *s = syi_model_site(run->model, "model.layers.1.mlp.down_proj");
        sy_tensor a, bb;
        double scale;
        TEST_OK(f->ctx, s->wraps[0].method->to_lora(s->wraps[0].self, &s->wraps[0], &a, &bb, &scale));
        const sy_param *p = s->wraps[0].slot[mode == 0 ? 0 : 2];
        const int64_t q = p->value.dim[1];
        for (int64_t o = 0; o < s->out; o++)
            for (int64_t i = 0; i < s->in; i++) {
                double v = 0;
                for (int k = 0; k < 5; k++) v += scale * ((float *)bb.data)[o * 5 + k] * ((float *)a.data)[k * s->in + i];
                assert_float_equal((float)v, (float)tiny_get(p, i % 5 * q + o % q), 1e-7);
            }
        syi_free(f->ctx, a.data);
        syi_free(f->ctx, bb.data);
        sy_run_close(run);
    }
}

static void gradients(void **state)
{
    test_folder *f = *state;
    const char *const *const more[] = { MISS, MINI, BAT, LIST("mode=bat", "rank=2", "modules-to-save=norm"), LIST("mode=random", "rank=16"),
                                               LIST("mode=bat", "rank=8", "target-modules=lm_head,v_proj") };
    char model[512];
    check_model(f, model, "model", NULL);
    for (int i = 0; i < SYI_COUNT(more); i++) check_all_gradients(f, model, "miss", more[i], 0.05);
}

/* Weights wider than a tile: bat's product and gradient by several tiles are those of the
 * weight as a whole. */
static void several_tiles(void **state)
{
    test_folder *f = *state;
    char model[512], folded[512];
    tiny_model wide = { .hidden = 1024, .layers = 1, .heads = 8, .kv_heads = 8, .head_dim = 128, .ffn = 2304, .vocab = 40, .tied = true, .dtype = SY_F32, .seed = 2 };
    const char *const settings[] = { "mode=bat", "rank=128", "target-modules=q_proj,up_proj,down_proj", NULL };
    check_model(f, model, "wide", &wide);
    tiny_batch b;
    tiny_batch_make(&b, wide.vocab, 2);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "miss", .settings = settings, .dtype = SY_F32, .threads = 2 });
    tiny_shake(run, 0.02, 4);
    TEST_OK(f->ctx, syi_run_refresh(run));
    float *y = tiny_logits(f->ctx, run, &b.batch);
    in_folder(f, folded, "wide-folded");
    sy_fold out;
    TEST_OK(f->ctx, sy_run_fold(run, folded, (sy_dtype)-1, &out));
    sy_run *plain = tiny_run_open(f->ctx, &(tiny_run){ .model = folded, .dtype = SY_F32, .evaluate = true, .threads = 2 });
    float *z = tiny_logits(f->ctx, plain, &b.batch);
    assert_true(tiny_relative(y, z, TINY_TOKENS * wide.vocab) < 1e-5);
    sy_run_close(plain);
    free(y);
    free(z);
    /* one direction per tensor: the gradient against the difference of losses */
    sy_loss l;
    TEST_OK(f->ctx, sy_run_backward(run, &b.batch, 1, &l));
    static const char *const names[] = { "q_proj.miss_block", "up_proj.miss_block", "down_proj.miss_block" };
    for (int i = 0; i < 3; i++) {
        sy_param *p = tiny_param(run, names[i]);
        const int64_t n = sy_tensor_count(&p->value);
        const float *g = p->grad.data;
        double slope = 0, size = 0;
        for (int64_t k = 0; k < n; k++) size += (double)g[k] * g[k];
        size = sqrt(size);
        float *keep = malloc((size_t)n * sizeof *keep), *v = p->value.data;
        memcpy(keep, v, (size_t)n * sizeof *keep);
        const double h = 0.02;
        for (int side = -1; side <= 1; side += 2) {
            for (int64_t k = 0; k < n; k++) v[k] = (float)(keep[k] + side * h * g[k] / size);
            slope += side * check_loss(f->ctx, run, &b.batch) / (2 * h);
        }
        memcpy(v, keep, (size_t)n * sizeof *keep);
        if (fabs(slope - size) > 0.02 * size) fail_msg("%s: slope %g along a gradient of length %g", names[i], slope, size);
        free(keep);
    }
    sy_run_close(run);
}

static void refusals(void **state)
{
    test_folder *f = *state;
    char model[512];
    check_model(f, model, "model", NULL);
    check_refused(f, model, "miss", LIST("rank=17"), SY_E_USAGE, "17");
    check_refused(f, model, "miss", LIST("rank=3", "mode=bat"), SY_E_USAGE, "divides both");
    check_refused(f, model, "miss", LIST("rank=4", "mode=mini", "mini-r=5"), SY_E_USAGE, "mini-r 5");
    check_refused(f, model, "miss", LIST("target-modules=embed_tokens"), SY_E_UNSUPPORTED, "embed_tokens");
    check_refused(f, model, "miss", LIST("target-modules=q_prj"), SY_E_USAGE, "q_prj");
}

/* An old BONE folder: other names, the same adapter. */
static void reads_bone(void **state)
{
    test_folder *f = *state;
    char model[512], dir[512], path[600];
    check_model(f, model, "model", NULL);
    in_folder(f, dir, "bone");
    TEST_OK(f->ctx, syi_mkdirs(f->ctx, dir));
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 2);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "bone", .settings = LIST("rank=4", "mode=bat", "target-modules=q_proj"), .dtype = SY_F32 });
    tiny_shake(run, 0.2, 4);
    TEST_OK(f->ctx, syi_run_refresh(run));
    float *y = tiny_logits(f->ctx, run, &b.batch);
    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    const char *config = "{\"peft_type\":\"BONE\",\"r\":4,\"init_weights\":\"bat\",\"target_modules\":[\"q_proj\"],\"bias\":\"none\"}";
    TEST_OK(f->ctx, syi_write_file(f->ctx, path, config, (int64_t)strlen(config)));
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    sy_writer *w;
    TEST_OK(f->ctx, sy_writer_new(f->ctx, path, 0, &w));
    for (int put = 0; put < 2; put++) {
        for (int l = 0; l < 2; l++) {
            char name[128], ours[128];
            snprintf(name, sizeof name, "base_model.model.model.layers.%d.self_attn.q_proj.bone_block", l);
            snprintf(ours, sizeof ours, "layers.%d.self_attn.q_proj.miss_block", l);
            const sy_param *p = tiny_param(run, ours);
            if (put) TEST_OK(f->ctx, sy_writer_put(w, name, 0, sy_tensor_rows(&p->value), p->value.data));
            else TEST_OK(f->ctx, sy_writer_declare(w, name, SY_F32, 3, p->value.dim));
        }
        if (!put) TEST_OK(f->ctx, sy_writer_begin(w));
    }
    TEST_OK(f->ctx, sy_writer_end(w));
    sy_run_close(run);
    run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .folder = dir, .dtype = SY_F32, .evaluate = true });
    float *z = tiny_logits(f->ctx, run, &b.batch);
    assert_memory_equal(y, z, (size_t)(TINY_TOKENS * TINY_MODEL.vocab) * sizeof *y);
    free(y);
    free(z);
    sy_run_close(run);
}

static void threads_change_nothing(void **state)
{
    for (int i = 0; i < 2; i++) check_threads(*state, "miss", i ? LIST("rank=16", "mode=bat") : LIST("rank=7", "dropout=0.1"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(start_changes_nothing), folder_test(worked_counts), folder_test(formulas), folder_test(bat_identities), folder_test(closed_form),
        folder_test(converts_to_lora), folder_test(gradients), folder_test(several_tiles), folder_test(refusals), folder_test(reads_bone),
        folder_test(threads_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
