/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the config.json of a model folder, beside the weights of a small Llama:
 * refused with a message, or the model is planned. */
#include "fuzz.h"

#include "io/io.h"
#include "steelyard/run.h"

enum { HIDDEN = 16, KV = 8, FFN = 24, VOCAB = 10 };

static char folder[256];

static void make_weights(void)
{
    static const struct { const char *name; int rank; int64_t dim[2]; } t[] = {
        {"model.embed_tokens.weight", 2, {VOCAB, HIDDEN}}, {"model.norm.weight", 1, {HIDDEN, 0}},
        {"model.layers.0.input_layernorm.weight", 1, {HIDDEN, 0}}, {"model.layers.0.post_attention_layernorm.weight", 1, {HIDDEN, 0}},
        {"model.layers.0.self_attn.q_proj.weight", 2, {HIDDEN, HIDDEN}}, {"model.layers.0.self_attn.k_proj.weight", 2, {KV, HIDDEN}},
        {"model.layers.0.self_attn.v_proj.weight", 2, {KV, HIDDEN}}, {"model.layers.0.self_attn.o_proj.weight", 2, {HIDDEN, HIDDEN}},
        {"model.layers.0.mlp.gate_proj.weight", 2, {FFN, HIDDEN}}, {"model.layers.0.mlp.up_proj.weight", 2, {FFN, HIDDEN}},
        {"model.layers.0.mlp.down_proj.weight", 2, {HIDDEN, FFN}},
    };
    const char *tmp = getenv("TMPDIR");
    sy_context *ctx = sy_context_new();
    sy_writer *w = NULL;
    char path[320];
    float x[512] = {0};
    snprintf(folder, sizeof folder, "%s/steelyard-fuzz-%ld-model", tmp != NULL ? tmp : "/tmp", (long)getpid());
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    if (syi_mkdirs(ctx, folder) != SY_OK || sy_writer_new(ctx, path, 0, &w) != SY_OK) abort();
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
    syi_remove_tree(ctx, folder);
    sy_context_free(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[320];
    if (folder[0] == '\0') {
        make_weights();
        atexit(clean);
    }
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(data, 1, size, f) != size || fclose(f) != 0) abort();
    sy_context *ctx = sy_context_new();
    sy_run *run = NULL;
    sy_run_options o;
    sy_plan plan;
    if (ctx == NULL) abort();
    sy_threads_set(ctx, 1);
    sy_run_options_init(&o);
    o.model = folder;
    o.dtype = SY_F32;
    o.plan_only = true;
    sy_status status = sy_run_open(ctx, &o, &run);
    if ((status == SY_OK) != (run != NULL)) abort();
    if (status == SY_OK) status = sy_run_plan(run, 8, false, &plan);
    sy_run_close(run);
    fuzz_end(ctx, status);
    return 0;
}
