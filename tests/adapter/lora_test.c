/* SPDX-License-Identifier: Apache-2.0 */
/* The LoRA family's exact checks on a tiny Llama: starts that change nothing, parameter
 * counts, gradients against central differences, rsLoRA against LoRA, PiSSA's identities. */
#include "run/run.h"
#include "support/folder.h"
#include "support/tiny_model.h"

#define LIST(...) ((const char *const[]){ __VA_ARGS__, NULL })

static const char *tiny(const test_folder *f, char buf[512], bool tied, bool bias)
{
    tiny_model m = TINY_MODEL;
    m.tied = tied;
    m.bias = bias;
    in_folder(f, buf, tied ? "tied" : bias ? "biased" : "model");
    tiny_model_write(f->ctx, &m, buf);
    return buf;
}

static float *base_logits(sy_context *ctx, const char *model, sy_dtype dtype, const sy_batch *batch)
{
    sy_run *run = tiny_run_open(ctx, &(tiny_run){ .model = model, .dtype = dtype, .evaluate = true });
    float *y = tiny_logits(ctx, run, batch);
    sy_run_close(run);
    return y;
}

/* -- 1: at the start nothing has changed --------------------------------------------------- */

static void start_changes_nothing(void **state)
{
    test_folder *f = *state;
    static const struct { const char *adapter, *settings[5]; double tolerance; } cases[] = {
        { "lora", { "rank=4", NULL }, 0 },
        { "lora", { "rank=4", "use-rslora=on", "init=gaussian", NULL }, 0 },
        { "lora", { "rank=3", "lora-bias=on", NULL }, 0 },
        { "lora", { "rank=4", "target-modules=q_proj,embed_tokens", NULL }, 0 },
        { "lora", { "rank=4", "use-dora=on", NULL }, 1e-6 },
        { "lora", { "rank=4", "alpha=4", "init=pissa", NULL }, 1e-5 },
        { "lora", { "rank=4", "alpha=6", "init=pissa_niter_8", NULL }, 1e-5 },
        { "lora", { "rank=4", "alpha=6", "init=pissa", "use-dora=on", NULL }, 1e-5 },
        { "vera", { "rank=8", NULL }, 0 },
    };
    char model[512];
    tiny(f, model, false, true);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    const int64_t n = TINY_TOKENS * TINY_MODEL.vocab;
    float *base = base_logits(f->ctx, model, SY_F32, &b.batch);
    for (int i = 0; i < SYI_COUNT(cases); i++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = cases[i].adapter, .settings = cases[i].settings, .dtype = SY_F32 });
        float *y = tiny_logits(f->ctx, run, &b.batch);
        const double d = tiny_relative(y, base, n);
        if (d > cases[i].tolerance) fail_msg("case %d: logits moved by %g", i, d);
        if (cases[i].tolerance == 0) assert_memory_equal(y, base, (size_t)n * sizeof *y);
        /* and the comparison can fail: a shaken adapter does change them */
        tiny_shake(run, 0.2, 5);
        TEST_OK(f->ctx, syi_run_refresh(run));
        float *z = tiny_logits(f->ctx, run, &b.batch);
        assert_true(tiny_relative(z, base, n) > 1e-3);
        free(y);
        free(z);
        sy_run_close(run);
    }
    free(base);
}

/* init false is no no-op. */
static void debug_start_changes(void **state)
{
    test_folder *f = *state;
    char model[512];
    tiny(f, model, true, false);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    float *base = base_logits(f->ctx, model, SY_F32, &b.batch);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lora", .settings = LIST("init=false"), .dtype = SY_F32 });
    float *y = tiny_logits(f->ctx, run, &b.batch);
    assert_true(tiny_relative(y, base, TINY_TOKENS * TINY_MODEL.vocab) > 1e-3);
    free(y);
    free(base);
    sy_run_close(run);
}

/* -- 2: parameter counts --------------------------------------------------------------------- */

static void worked_counts(void **state)
{
    test_folder *f = *state;
    static const struct { const char *adapter, *settings[4]; int64_t count; } cases[] = {
        { "lora", { "rank=32", "target-modules=q_proj,v_proj", NULL }, 9175040 },
        { "lora", { "rank=32", "target-modules=q_proj,v_proj", "use-dora=on", NULL }, 9289728 },
        { "vera", { "target-modules=q_proj,v_proj", NULL }, 129024 },
    };
    char model[512];
    const tiny_model llama32_3b = { .hidden = 3072, .layers = 28, .heads = 24, .kv_heads = 8, .head_dim = 128, .ffn = 64, .vocab = 64,
                                    .tied = true, .dtype = SY_BF16, .empty = true };
    in_folder(f, model, "3b");
    tiny_model_write(f->ctx, &llama32_3b, model);
    for (int i = 0; i < SYI_COUNT(cases); i++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = cases[i].adapter, .settings = cases[i].settings, .dtype = SY_BF16, .plan_only = true });
        assert_int_equal(sy_run_trained(run), cases[i].count);
        sy_run_close(run);
    }
}

static void patterns(void **state)
{
    test_folder *f = *state;
    char model[512];
    tiny(f, model, false, false);
    const char *const settings[] = { "rank=2", "alpha=6", "target-modules=q_proj,v_proj,down_proj", "rank-pattern={\"q_proj\":5,\"layers\\\\.1\\\\.mlp\\\\.down_proj\":3}",
                                     "alpha-pattern={\"v_proj\":1}", NULL };
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lora", .settings = settings, .dtype = SY_F32 });
    assert_int_equal(tiny_param(run, "layers.0.self_attn.q_proj.lora_A.weight")->value.dim[0], 5);
    assert_int_equal(tiny_param(run, "layers.1.self_attn.q_proj.lora_B.weight")->value.dim[1], 5);
    assert_int_equal(tiny_param(run, "layers.0.self_attn.v_proj.lora_A.weight")->value.dim[0], 2);
    assert_int_equal(tiny_param(run, "layers.0.mlp.down_proj.lora_A.weight")->value.dim[0], 2);
    assert_int_equal(tiny_param(run, "layers.1.mlp.down_proj.lora_A.weight")->value.dim[0], 3);
    assert_null(tiny_param(run, "layers.0.self_attn.k_proj.lora_A.weight"));
    tiny_shake(run, 0.1, 1);
    static const struct { const char *site; double scale; } scales[] = {
        { "model.layers.0.self_attn.q_proj", 6.0 / 5 }, { "model.layers.1.self_attn.v_proj", 0.5 }, { "model.layers.1.mlp.down_proj", 2 },
    };
    for (int i = 0; i < SYI_COUNT(scales); i++) {
        const sy_site *site = syi_model_site(run->model, scales[i].site);
        sy_tensor a, b;
        double s;
        TEST_OK(f->ctx, site->wraps[0].method->to_lora(site->wraps[0].self, &site->wraps[0], &a, &b, &s));
        assert_float_equal(s, scales[i].scale, 0);
        syi_free(f->ctx, a.data);
        syi_free(f->ctx, b.data);
    }
    sy_run_close(run);
}

static void wrong_settings(void **state)
{
    test_folder *f = *state;
    static const struct { const char *adapter, *settings[4]; sy_status status; const char *says; } cases[] = {
        { "lora", { "init=pissa", "dropout=0.1", NULL }, SY_E_USAGE, "PiSSA needs dropout 0" },
        { "lora", { "init=psisa", NULL }, SY_E_USAGE, "psisa" },
        { "lora", { "init=pissa_niter_x", NULL }, SY_E_USAGE, "pissa_niter_K" },
        { "lora", { "init=pissa", "rank=17", NULL }, SY_E_USAGE, "17" },
        { "lora", { "lora-bias=on", "use-dora=on", NULL }, SY_E_USAGE, "exclude each other" },
        { "lora", { "rank-pattern=q_proj=1.5", NULL }, SY_E_USAGE, "q_proj" },
        { "lora", { "rank-pattern={\"q_proj\":3,\"layers.1.self_attn.q_proj\":4}", NULL }, SY_E_USAGE, "two keys" },
        { "lora", { "alpha-pattern={\"v_proj\":3,\".*v_proj\":4}", NULL }, SY_E_USAGE, "two keys" },
        { "lora", { "loraplus-lr-ratio=0.5", NULL }, SY_E_USAGE, "at least 1" },
        { "lora", { "use-dora=on", "target-modules=embed_tokens", NULL }, SY_E_UNSUPPORTED, "embed_tokens" },
        { "lora", { "target-modules=q_prj", NULL }, SY_E_USAGE, "q_prj" },
        { "vera", { "target-modules=embed_tokens", NULL }, SY_E_UNSUPPORTED, "embed_tokens" },
    };
    char model[512];
    tiny(f, model, false, false);
    for (int i = 0; i < SYI_COUNT(cases); i++) {
        sy_run *run;
        sy_status st = tiny_run_try(f->ctx, &(tiny_run){ .model = model, .adapter = cases[i].adapter, .settings = cases[i].settings, .dtype = SY_F32 }, &run);
        if (st != cases[i].status || !strstr(sy_error_message(f->ctx), cases[i].says))
            fail_msg("case %d: status %s, message '%s'", i, sy_status_name(st), sy_error_message(f->ctx));
    }
}

/* -- 5: gradients against central differences ---------------------------------------------------- */

static double loss_of(sy_context *ctx, sy_run *run, const sy_batch *b)
{
    sy_loss l;
    TEST_OK(ctx, sy_run_loss(run, b, &l, NULL));
    return l.loss_sum;
}

/* DoRA's n of every row of a site, from its definition. */
static void dora_norms(sy_context *ctx, sy_run *run, const sy_site *site, double s, double *n)
{
    const sy_weight *w = site->weight;
    char name[200];
    snprintf(name, sizeof name, "%s.lora_A.weight", site->name);
    const sy_param *a = tiny_param(run, name);
    snprintf(name, sizeof name, "%s.lora_B.weight", site->name);
    const sy_param *b = tiny_param(run, name);
    const int64_t r = a->value.dim[0];
    float *row = malloc((size_t)w->in * sizeof *row);
    for (int64_t o = 0; o < w->out; o++) {
        TEST_OK(ctx, w->type->dense(ctx, w, o, 1, row));
        double sum = 0;
        for (int64_t j = 0; j < w->in; j++) {
            double v = row[j];
            for (int64_t k = 0; k < r; k++) v += s * ((const double *)b->value.data)[o * r + k] * ((const double *)a->value.data)[k * w->in + j];
            sum += v * v;
        }
        n[o] = sqrt(sum);
    }
    free(row);
}

/* Central differences of some elements of every trained parameter. With `dora`, n is held:
 * m moves with n so that m / n stays. Scale is s. */
static void check_gradients(sy_context *ctx, sy_run *run, const sy_batch *b, bool dora, double s)
{
    int n, checked = 0;
    sy_loss l;
    TEST_OK(ctx, sy_run_backward(run, b, 1, &l));
    sy_param *const *params = sy_params(run, &n);
    for (int i = 0; i < n; i++) {
        sy_param *p = params[i];
        if (!p->trained) continue;
        assert_int_equal(p->value.dtype, SY_F64);
        double *v = p->value.data, error = 0, size = 0;
        const int64_t count = sy_tensor_count(&p->value), stride = syi_max(1, count / 12);
        char name[200] = "";
        sy_param *m = NULL;
        double *n0 = NULL, *n1 = NULL, *m0 = NULL;
        if (dora && p->site && !syi_ends(p->name, "magnitude_vector")) {
            snprintf(name, sizeof name, "%s.lora_magnitude_vector", p->site->name);
            m = tiny_param(run, name);
        }
        const int64_t out = m ? m->value.dim[0] : 0;
        if (m) {
            n0 = malloc((size_t)out * 3 * sizeof *n0);
            n1 = n0 + out;
            m0 = n1 + out;
            memcpy(m0, m->value.data, (size_t)out * sizeof *m0);
            dora_norms(ctx, run, p->site, s, n0);
        }
        for (int64_t k = 0; k < count; k += stride) {
            const double keep = v[k], h = 1e-5 * fmax(1, fabs(keep));
            double side[2];
            for (int d = 0; d < 2; d++) {
                v[k] = d ? keep + h : keep - h;
                if (m) {
                    dora_norms(ctx, run, p->site, s, n1);
                    for (int64_t o = 0; o < out; o++) ((double *)m->value.data)[o] = m0[o] * n1[o] / n0[o];
                }
                side[d] = loss_of(ctx, run, b);
            }
            v[k] = keep;
            if (m) memcpy(m->value.data, m0, (size_t)out * sizeof *m0);
            const double numeric = (side[1] - side[0]) / (2 * h), analytic = ((const double *)p->grad.data)[k];
            error += (numeric - analytic) * (numeric - analytic);
            size += numeric * numeric;
        }
        if (sqrt(error) > 1e-6 * sqrt(size) + 1e-11) fail_msg("%s: relative error %g of a gradient of size %g", p->name, sqrt(error / size), sqrt(size));
        checked += size > 0;
        free(n0);
    }
    assert_true(checked > 3);
}

static void gradients(void **state)
{
    test_folder *f = *state;
    static const struct { const char *adapter, *settings[6]; bool dora; double s; } cases[] = {
        { "lora", { "rank=3", "alpha=5", "init=false", NULL }, false, 0 },
        { "lora", { "rank=3", "alpha=5", "lora-bias=on", "bias=all", "modules-to-save=norm", NULL }, false, 0 },
        { "lora", { "rank=3", "alpha=5", "target-modules=embed_tokens,o_proj", NULL }, false, 0 },
        { "lora", { "rank=3", "alpha=6", "use-dora=on", "bias=lora_only", NULL }, true, 2 },
        { "lora", { "rank=4", "alpha=4", "use-rslora=on", "init=pissa", NULL }, false, 0 },
        { "vera", { "rank=6", NULL }, false, 0 },
        { "full", { NULL }, false, 0 },
    };
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 11);
    for (int tied = 0; tied < 2; tied++) {
        char model[512];
        tiny(f, model, tied, !tied);
        for (int i = 0; i < SYI_COUNT(cases); i++) {
            sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = cases[i].adapter, .settings = cases[i].settings, .dtype = SY_F64 });
            tiny_shake(run, 0.05, 9);
            check_gradients(f->ctx, run, &b.batch, cases[i].dora, cases[i].s);
            sy_run_close(run);
        }
    }
}

/* Dropout is noise that can be made again: a fixed step is a fixed function. */
static void dropout_replays(void **state)
{
    test_folder *f = *state;
    static const struct { const char *adapter, *settings[6]; } cases[] = {
        { "lora", { "rank=3", "dropout=0.3", NULL } }, { "lora", { "rank=3", "dropout=0.3", "use-dora=on", NULL } }, { "vera", { "rank=6", "dropout=0.3", NULL } },
    };
    char model[512];
    tiny(f, model, false, false);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 11);
    for (int i = 0; i < SYI_COUNT(cases); i++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = cases[i].adapter, .settings = cases[i].settings, .dtype = SY_F64 });
        tiny_shake(run, 0.3, 9);
        sy_loss one, two, none;
        TEST_OK(f->ctx, sy_run_backward(run, &b.batch, 1, &one));
        TEST_OK(f->ctx, sy_run_backward(run, &b.batch, 1, &two));
        TEST_OK(f->ctx, sy_run_loss(run, &b.batch, &none, NULL));
        assert_float_equal(one.loss_sum, two.loss_sum, 0);
        assert_true(fabs(one.loss_sum - none.loss_sum) > 1e-6); /* evaluation has none */
        run->step = 1;
        TEST_OK(f->ctx, sy_run_backward(run, &b.batch, 1, &two));
        assert_true(fabs(one.loss_sum - two.loss_sum) > 1e-6);
        sy_run_close(run);
    }
}

/* -- 6: rsLoRA --------------------------------------------------------------------------------------- */

static void rslora_is_lora_of_another_alpha(void **state)
{
    test_folder *f = *state;
    char model[512];
    tiny(f, model, false, false);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 2);
    float *y[2];
    const char *const settings[2][4] = { { "rank=4", "alpha=3", "use-rslora=on", NULL }, { "rank=4", "alpha=6", NULL } }; /* 6 = 3 sqrt(4) */
    for (int i = 0; i < 2; i++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lora", .settings = settings[i], .dtype = SY_F32 });
        tiny_shake(run, 0.2, 4);
        TEST_OK(f->ctx, syi_run_refresh(run));
        y[i] = tiny_logits(f->ctx, run, &b.batch);
        sy_run_close(run);
    }
    assert_memory_equal(y[0], y[1], (size_t)(TINY_TOKENS * TINY_MODEL.vocab) * sizeof(float));
    free(y[0]);
    free(y[1]);
}

/* -- 4: PiSSA's identities ------------------------------------------------------------------------------ */

static void pissa_identities(void **state)
{
    test_folder *f = *state;
    char model[512];
    tiny(f, model, false, false);
    for (int niter = 0; niter < 2; niter++) {
        const char *const settings[] = { "rank=5", "alpha=10", niter ? "init=pissa_niter_16" : "init=pissa", NULL };
        sy_run *plain = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .dtype = SY_F32, .evaluate = true });
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lora", .settings = settings, .dtype = SY_F32 });
        static const char *const sites[] = { "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj" };
        for (int i = 0; i < SYI_COUNT(sites); i++) {
            const sy_site *was = syi_model_site(plain->model, sites[i]), *is = syi_model_site(run->model, sites[i]);
            const int64_t in = is->in, out = is->out, p = syi_min(in, out), n = in * out, r = 5;
            float *w = malloc((size_t)n * 4), *res = malloc((size_t)n * 4), *u = malloc((size_t)(out * p) * 4), *s = malloc((size_t)p * 4), *vt = malloc((size_t)(p * in) * 4);
            TEST_OK(f->ctx, was->weight->type->dense(f->ctx, was->weight, 0, out, w));
            TEST_OK(f->ctx, is->weight->type->dense(f->ctx, is->weight, 0, out, res));
            TEST_OK(f->ctx, syi_svd(f->ctx, out, in, w, u, s, vt));
            const float *a = is->wraps[0].slot[0]->value.data, *b = is->wraps[0].slot[1]->value.data;
            double rest = 0, tail = 0, error = 0, total = 0;
            for (int64_t k = r; k < p; k++) tail += (double)s[k] * s[k];
            for (int64_t o = 0; o < out; o++)
                for (int64_t j = 0; j < in; j++) {
                    double v = res[o * in + j];
                    rest += v * v;
                    for (int64_t k = 0; k < r; k++) v += 2.0 * b[o * r + k] * a[k * in + j]; /* s = alpha / r = 2 */
                    error += (v - w[o * in + j]) * (v - w[o * in + j]);
                    total += (double)w[o * in + j] * w[o * in + j];
                }
            assert_true(sqrt(error / total) < 1e-5);                          /* W_res + s B A = W */
            assert_true(fabs(rest - tail) <= 1e-5 * tail);                    /* what is left: the rest of the spectrum */
            for (int64_t k = 0; k < r; k++) {                                 /* |A_k|^2 = |B_k|^2 = sigma_k / s */
                double na = 0, nb = 0;
                for (int64_t j = 0; j < in; j++) na += (double)a[k * in + j] * a[k * in + j];
                for (int64_t o = 0; o < out; o++) nb += (double)b[o * r + k] * b[o * r + k];
                assert_true(fabs(na - s[k] / 2) < 1e-4 * s[k] && fabs(nb - s[k] / 2) < 1e-4 * s[k]);
            }
            free(w);
            free(res);
            free(u);
            free(s);
            free(vt);
        }
        sy_run_close(run);
        sy_run_close(plain);
    }
}

/* -- training moves only what it should -------------------------------------------------------------------- */

static void first_step(void **state)
{
    test_folder *f = *state;
    char model[512];
    tiny(f, model, false, false);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 2);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lora", .settings = LIST("rank=4"), .optimizer = "sgd", .dtype = SY_F32 });
    sy_param *a = tiny_param(run, "layers.0.self_attn.q_proj.lora_A.weight"), *bb = tiny_param(run, "layers.0.self_attn.q_proj.lora_B.weight");
    float *before = malloc((size_t)sy_tensor_bytes(&a->value));
    memcpy(before, a->value.data, (size_t)sy_tensor_bytes(&a->value));
    sy_step_result r;
    TEST_OK(f->ctx, sy_run_step_once(run, &b.batch, 0.5, 0, &r));
    assert_memory_equal(before, a->value.data, (size_t)sy_tensor_bytes(&a->value)); /* B = 0: no gradient for A yet */
    double moved = 0;
    for (int64_t i = 0; i < sy_tensor_count(&bb->value); i++) moved += fabs(((float *)bb->value.data)[i]);
    assert_true(moved > 0);
    TEST_OK(f->ctx, sy_run_step_once(run, &b.batch, 0.5, 0, &r));
    assert_true(memcmp(before, a->value.data, (size_t)sy_tensor_bytes(&a->value)) != 0);
    free(before);
    sy_run_close(run);
}

/* LoRA+: B and vectors take ratio * lr, A takes lr, adapted embeddings their own. */
static void loraplus_rates(void **state)
{
    test_folder *f = *state;
    char model[512];
    tiny(f, model, false, true);
    const char *const settings[] = { "rank=2", "loraplus-lr-ratio=16", "loraplus-embedding-ratio=0.25", "target-modules=q_proj,embed_tokens", "bias=all",
                                     "modules-to-save=o_proj", NULL };
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lora", .settings = settings, .optimizer = "sgd", .dtype = SY_F64 });
    tiny_shake(run, 0.1, 3);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 2);
    static const struct { const char *name; double factor; } rates[] = {
        { "q_proj.lora_A.weight", 1 }, { "q_proj.lora_B.weight", 16 }, { "lora_embedding_A", 0.25 }, { "lora_embedding_B", 0.25 },
        { "layers.0.self_attn.k_proj.bias", 16 }, { "layers.0.self_attn.o_proj.weight", 1 },
    };
    sy_loss l;
    TEST_OK(f->ctx, sy_run_backward(run, &b.batch, 1, &l));
    double before[6], gradient[6];
    int64_t at[6];
    for (int i = 0; i < SYI_COUNT(rates); i++) {
        const sy_param *p = tiny_param(run, rates[i].name);
        if (!p) fail_msg("no parameter %s", rates[i].name);
        const double *g = p->grad.data;
        at[i] = 0;
        for (int64_t k = 0; k < sy_tensor_count(&p->grad); k++)
            if (fabs(g[k]) > fabs(g[at[i]])) at[i] = k;
        gradient[i] = g[at[i]];
        before[i] = ((const double *)p->value.data)[at[i]];
        assert_true(fabs(gradient[i]) > 1e-9);
    }
    TEST_OK(f->ctx, sy_run_update(run, 1e-3, 0, NULL));
    for (int i = 0; i < SYI_COUNT(rates); i++) {
        const sy_param *p = tiny_param(run, rates[i].name);
        const double step = before[i] - ((const double *)p->value.data)[at[i]];
        if (fabs(step - 1e-3 * rates[i].factor * gradient[i]) > 1e-9 * fabs(step)) fail_msg("%s: step %g for gradient %g", rates[i].name, step, gradient[i]);
    }
    sy_run_close(run);
}

/* The same bits after some steps whatever the number of threads, decompositions included. */
static void threads_change_nothing(void **state)
{
    test_folder *f = *state;
    static const struct { const char *adapter, *settings[6]; } cases[] = {
        { "lora", { "rank=5", "dropout=0.1", "target-modules=q_proj,down_proj,embed_tokens", NULL } },
        { "lora", { "rank=5", "use-dora=on", NULL } },
        { "lora", { "rank=5", "init=pissa", NULL } },
        { "lora", { "rank=5", "init=pissa_niter_3", NULL } },
        { "vera", { "rank=24", NULL } },
        { "full", { NULL } },
    };
    char model[512];
    const tiny_model m = { .hidden = 96, .layers = 1, .heads = 6, .kv_heads = 2, .head_dim = 16, .ffn = 160, .vocab = 300, .tied = true, .dtype = SY_F32, .seed = 3 };
    in_folder(f, model, "wider");
    tiny_model_write(f->ctx, &m, model);
    tiny_batch b;
    tiny_batch_make(&b, m.vocab, 2);
    for (int i = 0; i < SYI_COUNT(cases); i++)
        for (int bf16 = 0; bf16 < 2 - (i > 1); bf16++) {
            syi_hash first = { 0, 0 };
            for (int threads = 1; threads < 4; threads += 2) {
                sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = cases[i].adapter, .settings = cases[i].settings,
                                                                 .dtype = bf16 ? SY_BF16 : SY_F32, .threads = threads });
                sy_step_result r;
                for (int k = 0; k < 2; k++) TEST_OK(f->ctx, sy_run_step_once(run, &b.batch, 1e-2, 1, &r));
                syi_hasher *h;
                TEST_OK(f->ctx, syi_hasher_new(f->ctx, &h));
                for (int k = 0; k < run->n_params; k++) syi_hasher_add(h, run->params[k]->value.data, (size_t)sy_tensor_bytes(&run->params[k]->value));
                const syi_hash all = syi_hasher_end(h);
                if (threads == 1) first = all;
                else if (all.lo != first.lo || all.hi != first.hi) fail_msg("case %d, bf16 %d: other bits with %d threads", i, bf16, threads);
                sy_run_close(run);
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(start_changes_nothing), folder_test(debug_start_changes), folder_test(worked_counts), folder_test(patterns),
        folder_test(wrong_settings), folder_test(gradients), folder_test(dropout_replays), folder_test(rslora_is_lora_of_another_alpha),
        folder_test(pissa_identities), folder_test(first_step), folder_test(loraplus_rates),
        folder_test(threads_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
