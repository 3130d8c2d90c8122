/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA arithmetic against plain sums of products: concatenation is exact, SVD is the best
 * approximation of its rank, a LoRA extracted from two checkpoints is the one that was added,
 * resizing keeps energy shares; TIES and DARE on products; what is refused. */
#include "support/merging.h"

#include "io/io.h"
#include "tensor/kernels.h"

#include <math.h>

enum { OUT = 14, IN = 10, COUNT = OUT * IN, RANK = 3 };
static const char module[] = "model.layers.0.self_attn.q_proj";

static uint64_t state_ = 21;
static float noise(void)
{
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(state_ >> 11) * 0x1p-53 * 2 - 1);
}

/* A PEFT folder with one module; delta: alpha / r * B A. */
static void adapter(merging *m, const char *name, int rank, double alpha, float *delta)
{
    float a[IN * 8], b[OUT * 8];
    char names[2][120];
    for (int i = 0; i < IN * rank; i++) a[i] = noise();
    for (int i = 0; i < OUT * rank; i++) b[i] = noise();
    for (int o = 0; o < OUT; o++)
        for (int i = 0; i < IN; i++) {
            double s = 0;
            for (int r = 0; r < rank; r++) s += (double)b[o * rank + r] * a[r * IN + i];
            delta[o * IN + i] = (float)(alpha / rank * s);
        }
    snprintf(names[0], sizeof names[0], "base_model.model.%s.lora_A.weight", module);
    snprintf(names[1], sizeof names[1], "base_model.model.%s.lora_B.weight", module);
    const syi_named t[] = { { names[0], { SY_F32, 2, { rank, IN }, a } }, { names[1], { SY_F32, 2, { OUT, rank }, b } } };
    json_t *c = json_pack("{s:s, s:i, s:f, s:[s], s:s}", "peft_type", "LORA", "r", rank, "lora_alpha", alpha, "target_modules", "q_proj", "base_model_name_or_path", "base");
    char dir[300];
    snprintf(dir, sizeof dir, "%s", scratch_path(m->dir, name));
    assert_int_equal(syi_mkdirs(m->ctx, dir), SY_OK);
    assert_int_equal(syi_adapter_write(m->ctx, dir, c, NULL, t, 2), SY_OK);
    json_decref(c);
}

static sy_status lora(merging *m, const char *action, const char *adapters, const char *out, const char *const *settings)
{
    sy_job *job;
    char list[1000] = "", one[64];
    for (const char *p = adapters; *p; p += strcspn(p, ","), p += *p == ',') {
        snprintf(one, sizeof one, "%.*s", (int)strcspn(p, ","), p);
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", *list ? "," : "", scratch_path(m->dir, one));
    }
    assert_int_equal(sy_job_new(m->ctx, "adapters", &job), SY_OK);
    assert_int_equal(sy_job_set(job, "action", action), SY_OK);
    if (*list) assert_int_equal(sy_job_set(job, "adapters", list), SY_OK);
    assert_int_equal(sy_job_set(job, "out", scratch_path(m->dir, out)), SY_OK);
    for (; settings && *settings; settings += 2) assert_int_equal(sy_job_set(job, settings[0], settings[1]), SY_OK);
    const sy_status st = sy_job_run(job);
    sy_job_free(job);
    return st;
}

/* The update that the folder stands for. */
static int update(merging *m, const char *name, float *delta)
{
    char tensor[120];
    float a[IN * 16], b[OUT * 16];
    syi_adapter_dir *d;
    assert_int_equal(syi_adapter_open(m->ctx, scratch_path(m->dir, name), &d), SY_OK);
    snprintf(tensor, sizeof tensor, "base_model.model.%s.lora_A.weight", module);
    const sy_entry *ea = sy_checkpoint_find(d->tensors, tensor);
    snprintf(tensor, sizeof tensor, "base_model.model.%s.lora_B.weight", module);
    const sy_entry *eb = sy_checkpoint_find(d->tensors, tensor);
    assert_true(ea && eb);
    const int rank = (int)ea->dim[0];
    assert_int_equal(sy_entry_read_f32(m->ctx, ea, 0, rank, a), SY_OK);
    assert_int_equal(sy_entry_read_f32(m->ctx, eb, 0, OUT, b), SY_OK);
    assert_int_equal(json_integer_value(json_object_get(d->config, "r")), rank);
    assert_int_equal(json_integer_value(json_object_get(d->config, "lora_alpha")), rank);
    for (int o = 0; o < OUT; o++)
        for (int i = 0; i < IN; i++) {
            double s = 0;
            for (int r = 0; r < rank; r++) s += (double)b[o * rank + r] * a[r * IN + i];
            delta[o * IN + i] = (float)s;
        }
    syi_adapter_close(d);
    return rank;
}

/* Squared error that is left by the best approximation of a rank. */
static double tail(merging *m, const float *x, int rank, double *all)
{
    float u[OUT * IN], s[IN], v[IN * IN];
    double rest = 0;
    assert_int_equal(syi_svd(m->ctx, OUT, IN, x, u, s, v), SY_OK);
    *all = 0;
    for (int i = 0; i < IN; i++) {
        *all += (double)s[i] * s[i];
        rest += i >= rank ? (double)s[i] * s[i] : 0;
    }
    return rest;
}

static double distance(const float *x, const float *y)
{
    double d = 0;
    for (int i = 0; i < COUNT; i++) d += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    return d;
}

static void merging_adapters(void **state)
{
    merging *m = *state;
    float x[COUNT], y[COUNT], sum[COUNT], got[COUNT];
    double all;
    adapter(m, "x", RANK, 6, x);
    adapter(m, "y", 5, 5, y);
    for (int i = 0; i < COUNT; i++) sum[i] = 0.7f * x[i] - 0.2f * y[i];
    assert_int_equal(lora(m, "merge", "x,y", "cat", (const char *const[]){ "weights", "0.7,-0.2", NULL }), SY_OK);
    assert_int_equal(update(m, "cat", got), RANK + 5);
    assert_true(distance(got, sum) < 1e-9);
    assert_int_equal(lora(m, "merge", "x,y", "svd", (const char *const[]){ "weights", "0.7,-0.2", "combine", "svd", "rank", "4", NULL }), SY_OK);
    assert_int_equal(update(m, "svd", got), 4);
    const double rest = tail(m, sum, 4, &all);
    assert_float_equal(distance(got, sum) / all, rest / all, 1e-5);
    assert_int_equal(lora(m, "merge", "x", "linear", (const char *const[]){ "weights", "-0.5", "combine", "linear", NULL }), SY_OK);
    update(m, "linear", got);
    for (int i = 0; i < COUNT; i++) assert_float_equal(got[i], -0.5 * x[i], 1e-5);
    assert_int_equal(lora(m, "merge", "x,y", "ties", (const char *const[]){ "combine", "ties", "rank", "10", "density", "1", NULL }), SY_OK);
    update(m, "ties", got);
    for (int i = 0; i < COUNT; i++) { /* the mean of those that have the sign of the sum */
        const double s = (double)x[i] + y[i], agree = (x[i] * s > 0 ? x[i] : 0) + (y[i] * s > 0 ? y[i] : 0), n = (x[i] * s > 0) + (y[i] * s > 0);
        assert_float_equal(got[i], agree / n, 1e-4);
    }
    assert_int_equal(lora(m, "merge", "x,y", "dare", (const char *const[]){ "combine", "dare", "rank", "10", "density", "1", NULL }), SY_OK);
    update(m, "dare", got);
    for (int i = 0; i < COUNT; i++) assert_float_equal(got[i], x[i] + y[i], 1e-4);
    assert_int_equal(lora(m, "merge", "x,y", "no", (const char *const[]){ "combine", "linear", NULL }), SY_E_USAGE);
    assert_int_equal(lora(m, "merge", "x,y", "no", (const char *const[]){ "weights", "1", NULL }), SY_E_USAGE);
    assert_int_equal(lora(m, "merge", "x,y", "no", (const char *const[]){ "combine", "svd", NULL }), SY_E_USAGE);
    assert_int_equal(lora(m, "merge", "x,nowhere", "no", NULL), SY_E_INPUT);
}

static void resizing(void **state)
{
    merging *m = *state;
    float x[COUNT], got[COUNT];
    double all;
    adapter(m, "x", 6, 12, x);
    assert_int_equal(lora(m, "resize", "x", "two", (const char *const[]){ "rank", "2", NULL }), SY_OK);
    assert_int_equal(update(m, "two", got), 2);
    const double rest = tail(m, x, 2, &all);
    assert_float_equal(distance(got, x), rest, 1e-4 * all);
    assert_int_equal(lora(m, "resize", "x", "most", (const char *const[]){ "energy", "0.9", NULL }), SY_OK);
    const int rank = update(m, "most", got);
    assert_true(tail(m, x, rank, &all) <= 0.1 * all + 1e-9 && tail(m, x, rank - 1, &all) > 0.1 * all);
}

static void extracting(void **state)
{
    merging *m = *state;
    static const char config[] = "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 16, \"num_hidden_layers\": 1, \"num_attention_heads\": 4,"
                                 "\"num_key_value_heads\": 2, \"head_dim\": 4, \"intermediate_size\": 24, \"vocab_size\": 40, \"tie_word_embeddings\": true}";
    static float w[9][40 * 24];
    static const struct { const char *name; int64_t out, in; } t[] = { { "model.embed_tokens.weight", 40, 16 }, { "model.norm.weight", 16, 0 },
        { "model.layers.0.input_layernorm.weight", 16, 0 }, { "model.layers.0.post_attention_layernorm.weight", 16, 0 }, { "model.layers.0.self_attn.q_proj.weight", 16, 16 },
        { "model.layers.0.mlp.up_proj.weight", 24, 16 } };
    merging_tensor all[6];
    for (int k = 0; k < 6; k++) {
        for (int i = 0; i < 40 * 24; i++) w[k][i] = noise();
        all[k] = (merging_tensor){ t[k].name, t[k].in ? 2 : 1, { t[k].out, t[k].in }, w[k] };
    }
    merging_model(m, "base", SY_F32, all, 6);
    float added[256] = { 0 };
    for (int r = 0; r < 2; r++) {
        float u[16], v[16];
        for (int i = 0; i < 16; i++) u[i] = noise(), v[i] = noise();
        for (int i = 0; i < 256; i++) added[i] += 0.1f * u[i / 16] * v[i % 16];
    }
    for (int i = 0; i < 256; i++) w[4][i] += added[i];
    merging_model(m, "tuned", SY_F32, all, 6);
    scratch_write(scratch_path(m->dir, "base/config.json"), config, sizeof config - 1);
    scratch_write(scratch_path(m->dir, "tuned/config.json"), config, sizeof config - 1);
    char model[300], base[300];
    snprintf(model, sizeof model, "%s", scratch_path(m->dir, "tuned"));
    snprintf(base, sizeof base, "%s", scratch_path(m->dir, "base"));
    for (int k = 0; k < 2; k++) {
        const char *out = k ? "energy" : "rank";
        assert_int_equal(lora(m, "extract", "", out, (const char *const[]){ "model", model, "base", base, out, k ? "0.999999" : "2", NULL }), SY_OK);
        syi_adapter_dir *d;
        assert_int_equal(syi_adapter_open(m->ctx, scratch_path(m->dir, out), &d), SY_OK);
        assert_int_equal(sy_checkpoint_count(d->tensors), 2);
        float a[32], b[32];
        assert_int_equal(sy_entry_read_f32(m->ctx, sy_checkpoint_find(d->tensors, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"), 0, 2, a), SY_OK);
        assert_int_equal(sy_entry_read_f32(m->ctx, sy_checkpoint_find(d->tensors, "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"), 0, 16, b), SY_OK);
        for (int i = 0; i < 256; i++) assert_float_equal(b[i / 16 * 2] * a[i % 16] + b[i / 16 * 2 + 1] * a[16 + i % 16], added[i], 1e-5);
        syi_adapter_close(d);
    }
    assert_int_equal(lora(m, "extract", "", "no", (const char *const[]){ "model", base, "base", base, "rank", "2", NULL }), SY_E_INPUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = { merging_test(merging_adapters), merging_test(resizing), merging_test(extracting) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
