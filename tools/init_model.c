/* SPDX-License-Identifier: Apache-2.0 */
/* Makes a Llama model with random weights: config.json, generation_config.json and
 * model.safetensors in an existing folder that has a tokenizer.json.
 *
 *     init_model DIR [key=value ...]      hidden layers heads kv_heads ffn context seed
 *
 * Matrices are N(0, 0.02), those that write into the residual stream divided by
 * sqrt(2 * layers) as in GPT-2; norms are 1. Stored as bf16, tied embedding. */
#include "base/base.h"
#include "base/rng.h"
#include "io/io.h"
#include "steelyard/text.h"

#include <math.h>
#include <stdlib.h>

typedef struct { int64_t hidden, layers, heads, kv_heads, ffn, context, seed, vocab; } sizes;

static bool set(sizes *s, const char *arg)
{
    const struct { const char *key; int64_t *value; } keys[] = {
        { "hidden=", &s->hidden }, { "layers=", &s->layers }, { "heads=", &s->heads }, { "kv_heads=", &s->kv_heads },
        { "ffn=", &s->ffn }, { "context=", &s->context }, { "seed=", &s->seed }
    };
    for (int i = 0; i < SYI_COUNT(keys); i++)
        if (syi_starts(arg, keys[i].key)) {
            *keys[i].value = atoll(arg + strlen(keys[i].key));
            return *keys[i].value > 0 || keys[i].value == &s->seed;
        }
    return false;
}

/* Rows of one tensor: declared in the first pass, filled in the second. */
typedef struct { sy_context *ctx; sy_writer *w; uint64_t seed; bool fill; int64_t scalars; } maker;

static sy_status tensor(maker *m, const char *name, int64_t rows, int64_t cols, double deviation)
{
    int64_t dim[2] = { rows, cols };
    if (!m->fill) {
        m->scalars += (rows ? rows : 1) * cols;
        return sy_writer_declare(m->w, name, SY_BF16, rows ? 2 : 1, rows ? dim : dim + 1);
    }
    int64_t n = (rows ? rows : 1) * cols;
    float *x = syi_alloc(m->ctx, (size_t)n * 4);
    uint16_t *y = syi_alloc(m->ctx, (size_t)n * 2);
    sy_status st = x && y ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK) {
        syi_normal(syi_key(m->seed, "init", name, 0), 0, n, x);
        for (int64_t i = 0; i < n; i++) x[i] = deviation > 0 ? (float)(x[i] * deviation) : 1.0f;
        st = sy_from_f32(m->ctx, SY_BF16, x, y, n);
    }
    if (st == SY_OK) st = sy_writer_put(m->w, name, 0, rows ? rows : 1, y);
    syi_free(m->ctx, x);
    syi_free(m->ctx, y);
    return st;
}

static sy_status all_tensors(maker *m, const sizes *s)
{
    char name[128];
    int64_t head = s->hidden / s->heads;
    double deviation = 0.02, out = 0.02 / sqrt(2.0 * (double)s->layers);
    SYI_TRY(tensor(m, "model.embed_tokens.weight", s->vocab, s->hidden, deviation));
    for (int64_t l = 0; l < s->layers; l++) {
        const struct { const char *name; int64_t rows, cols; double deviation; } rows[] = {
            { "input_layernorm", 0, s->hidden, 0 }, { "mlp.down_proj", s->hidden, s->ffn, out },
            { "mlp.gate_proj", s->ffn, s->hidden, deviation }, { "mlp.up_proj", s->ffn, s->hidden, deviation },
            { "post_attention_layernorm", 0, s->hidden, 0 }, { "self_attn.k_proj", s->kv_heads * head, s->hidden, deviation },
            { "self_attn.o_proj", s->hidden, s->hidden, out }, { "self_attn.q_proj", s->hidden, s->hidden, deviation },
            { "self_attn.v_proj", s->kv_heads * head, s->hidden, deviation }
        };
        for (int i = 0; i < SYI_COUNT(rows); i++) {
            snprintf(name, sizeof name, "model.layers.%lld.%s.weight", (long long)l, rows[i].name);
            SYI_TRY(tensor(m, name, rows[i].rows, rows[i].cols, rows[i].deviation));
        }
    }
    return tensor(m, "model.norm.weight", 0, s->hidden, 0);
}

static sy_status vocabulary(sy_context *ctx, const char *path, int64_t *out, int *eos)
{
    char *text;
    int64_t size;
    sy_tokenizer *t;
    SYI_TRY(syi_read_file(ctx, path, (int64_t)1 << 28, &text, &size));
    sy_status st = sy_tokenizer_parse(ctx, text, (size_t)size, path, &t);
    syi_free(ctx, text);
    if (st != SY_OK) return st;
    *out = sy_tokenizer_size(t);
    *eos = sy_token_find(t, "<|endoftext|>");
    sy_tokenizer_free(t);
    return SY_OK;
}

static sy_status configs(sy_context *ctx, const char *config, const char *generation, const sizes *s, int eos)
{
    json_t *j = json_pack("{s:[s], s:b, s:f, s:i, s:i, s:I, s:s, s:I, s:f, s:I, s:I, s:b, s:s, s:I, s:I, s:I, s:f, s:n, s:f, s:b, s:s, s:b, s:I}",
        "architectures", "LlamaForCausalLM", "attention_bias", 0, "attention_dropout", 0.0, "bos_token_id", eos, "eos_token_id", eos,
        "head_dim", (json_int_t)(s->hidden / s->heads), "hidden_act", "silu", "hidden_size", (json_int_t)s->hidden, "initializer_range", 0.02,
        "intermediate_size", (json_int_t)s->ffn, "max_position_embeddings", (json_int_t)s->context, "mlp_bias", 0, "model_type", "llama",
        "num_attention_heads", (json_int_t)s->heads, "num_hidden_layers", (json_int_t)s->layers, "num_key_value_heads", (json_int_t)s->kv_heads,
        "rms_norm_eps", 1e-5, "rope_scaling", "rope_theta", 10000.0, "tie_word_embeddings", 1, "torch_dtype", "bfloat16", "use_cache", 1,
        "vocab_size", (json_int_t)s->vocab);
    json_t *g = json_pack("{s:i, s:i}", "bos_token_id", eos, "eos_token_id", eos);
    sy_status st = j && g ? SY_OK : syi_nomem(ctx, 0);
    if (st == SY_OK) st = syi_json_write(ctx, config, j, true);
    if (st == SY_OK) st = syi_json_write(ctx, generation, g, true);
    json_decref(j);
    json_decref(g);
    return st;
}

static sy_status make(sy_context *ctx, const char *dir, sizes *s, int64_t *scalars)
{
    int eos = 0;
    char *path[4] = { syi_join(ctx, dir, "tokenizer.json"), syi_join(ctx, dir, "config.json"),
                      syi_join(ctx, dir, "generation_config.json"), syi_join(ctx, dir, "model.safetensors") };
    maker m = { .ctx = ctx, .seed = (uint64_t)s->seed };
    sy_status st = path[0] && path[1] && path[2] && path[3] ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK) st = vocabulary(ctx, path[0], &s->vocab, &eos);
    if (st == SY_OK) st = configs(ctx, path[1], path[2], s, eos);
    if (st == SY_OK) st = sy_writer_new(ctx, path[3], 0, &m.w);
    if (st == SY_OK) st = all_tensors(&m, s);
    if (st == SY_OK) st = sy_writer_begin(m.w);
    m.fill = true;
    if (st == SY_OK) st = all_tensors(&m, s);
    if (st == SY_OK) { st = sy_writer_end(m.w); m.w = NULL; }
    sy_writer_abort(m.w);
    for (int i = 0; i < 4; i++) syi_free(ctx, path[i]);
    *scalars = m.scalars;
    return st;
}

int main(int argc, char **argv)
{
    sizes s = { .hidden = 192, .layers = 4, .heads = 6, .kv_heads = 2, .ffn = 512, .context = 512, .seed = 1 };
    bool good = argc > 1;
    for (int i = 2; i < argc; i++) good = good && set(&s, argv[i]);
    if (!good || s.hidden % s.heads || s.heads % s.kv_heads || s.hidden / s.heads % 2) {
        fputs("usage: init_model DIR [hidden=192 layers=4 heads=6 kv_heads=2 ffn=512 context=512 seed=1]\n"
              "heads divide hidden into even parts, kv_heads divide heads\n", stderr);
        return 2;
    }
    sy_context *ctx = sy_context_new();
    if (!ctx) return 4;
    int64_t scalars = 0;
    sy_status st = make(ctx, argv[1], &s, &scalars);
    if (st == SY_OK) printf("%s: %lld parameters\n", argv[1], (long long)scalars);
    else fprintf(stderr, "init_model: %s\n", sy_error_message(ctx));
    sy_context_free(ctx);
    return sy_status_exit(st);
}
