/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as an adapter: a LoRA GGUF when they begin as one, or else two bytes that say
 * how long adapter_config.json is, its text, and the rest as adapter_model.safetensors,
 * loaded around a model. */
#include "fuzz.h"

#include "io/io.h"
#include "steelyard/run.h"

enum { HIDDEN = 16, HEADS = 4, DIM = 4, FFN = 24, VOCAB = 10 };

static char base[256], folder[256], made[256];

static void write_file(const char *dir, const char *name, const void *p, size_t n)
{
    char path[320];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(p, 1, n, f) != n || fclose(f) != 0) abort();
}

/* A Llama of one block. */
static void make_base(void)
{
    static const struct { const char *name; int rank; int64_t dim[2]; } t[] = {
        {"model.embed_tokens.weight", 2, {VOCAB, HIDDEN}}, {"model.norm.weight", 1, {HIDDEN, 0}},
        {"model.layers.0.input_layernorm.weight", 1, {HIDDEN, 0}}, {"model.layers.0.post_attention_layernorm.weight", 1, {HIDDEN, 0}},
        {"model.layers.0.self_attn.q_proj.weight", 2, {HEADS * DIM, HIDDEN}}, {"model.layers.0.self_attn.k_proj.weight", 2, {HEADS * DIM, HIDDEN}},
        {"model.layers.0.self_attn.v_proj.weight", 2, {HEADS * DIM, HIDDEN}}, {"model.layers.0.self_attn.o_proj.weight", 2, {HIDDEN, HEADS * DIM}},
        {"model.layers.0.mlp.gate_proj.weight", 2, {FFN, HIDDEN}}, {"model.layers.0.mlp.up_proj.weight", 2, {FFN, HIDDEN}},
        {"model.layers.0.mlp.down_proj.weight", 2, {HIDDEN, FFN}},
    };
    static const char config[] =
        "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":16,\"num_hidden_layers\":1,\"num_attention_heads\":4,"
        "\"num_key_value_heads\":4,\"head_dim\":4,\"intermediate_size\":24,\"vocab_size\":10,\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,"
        "\"rope_theta\":10000.0,\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,\"torch_dtype\":\"float32\"}";
    const char *tmp = getenv("TMPDIR");
    sy_context *ctx = sy_context_new();
    sy_writer *w = NULL;
    char path[320];
    float x[512];
    for (int i = 0; i < 512; i++) x[i] = (float)(i % 7) / 8;
    snprintf(base, sizeof base, "%s/steelyard-fuzz-%ld-base", tmp != NULL ? tmp : "/tmp", (long)getpid());
    snprintf(folder, sizeof folder, "%s/steelyard-fuzz-%ld-adapter", tmp != NULL ? tmp : "/tmp", (long)getpid());
    snprintf(made, sizeof made, "%s/steelyard-fuzz-%ld-made", tmp != NULL ? tmp : "/tmp", (long)getpid());
    snprintf(path, sizeof path, "%s/model.safetensors", base);
    if (syi_mkdirs(ctx, base) != SY_OK || syi_mkdirs(ctx, folder) != SY_OK || sy_writer_new(ctx, path, 0, &w) != SY_OK) abort();
    write_file(base, "config.json", config, sizeof config - 1);
    for (int i = 0; i < SYI_COUNT(t); i++)
        if (sy_writer_declare(w, t[i].name, SY_F32, t[i].rank, t[i].dim) != SY_OK) abort();
    if (sy_writer_begin(w) != SY_OK) abort();
    for (int i = 0; i < SYI_COUNT(t); i++)
        if (sy_writer_put(w, t[i].name, 0, t[i].rank > 1 ? t[i].dim[0] : 1, x) != SY_OK) abort();
    if (sy_writer_end(w) != SY_OK) abort();
    sy_context_free(ctx);
}

static void clean(void)
{
    sy_context *ctx = sy_context_new();
    syi_remove_tree(ctx, base);
    syi_remove_tree(ctx, folder);
    sy_context_free(ctx);
}

static sy_status from_gguf(sy_context *ctx, const uint8_t *data, size_t size)
{
    const sy_status status = syi_lora_from_gguf(ctx, fuzz_file(data, size, ".gguf"), made);
    if (syi_exists(made) != (status == SY_OK) || syi_remove_tree(ctx, made) != SY_OK) abort();
    return status;
}

static sy_status around_model(sy_context *ctx, const uint8_t *data, size_t size)
{
    const size_t all = size - 2, n = data[0] | (size_t)data[1] << 8, config = n < all ? n : all;
    sy_run *run = NULL;
    sy_run_options o;
    write_file(folder, "adapter_config.json", data + 2, config);
    write_file(folder, "adapter_model.safetensors", data + 2 + config, all - config);
    sy_run_options_init(&o);
    o.model = base;
    o.adapter = folder;
    o.dtype = SY_F32;
    const sy_status status = sy_run_open(ctx, &o, &run);
    if ((status == SY_OK) != (run != NULL)) abort();
    sy_run_close(run);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (base[0] == '\0') {
        make_base();
        atexit(clean);
    }
    if (size < 4) return 0;
    sy_context *ctx = sy_context_new();
    if (ctx == NULL) abort();
    sy_threads_set(ctx, 1);
    fuzz_end(ctx, memcmp(data, "GGUF", 4) == 0 ? from_gguf(ctx, data, size) : around_model(ctx, data, size));
    return 0;
}
