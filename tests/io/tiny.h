/* SPDX-License-Identifier: Apache-2.0 */
/* A very small Llama, as GGUF and as a folder, for the tests of src/io. Element i of
 * a tensor is its number in the list * 1000 + i, in Hugging Face's order. */
#ifndef TEST_TINY_H
#define TEST_TINY_H

#include "support/test.h"

#include "io/checkpoint.h"

enum { TINY_HIDDEN = 8, TINY_HEADS = 2, TINY_KV = 1, TINY_DIM = 4, TINY_FFN = 12, TINY_VOCAB = 6 };

typedef struct { const char *hf, *gguf; int rank; int64_t dim[2]; int heads; } tiny_tensor;
static const tiny_tensor tiny[] = {
    {"model.embed_tokens.weight", "token_embd.weight", 2, {TINY_VOCAB, TINY_HIDDEN}, 0},
    {"model.norm.weight", "output_norm.weight", 1, {TINY_HIDDEN, 0}, 0},
    {"model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight", 1, {TINY_HIDDEN, 0}, 0},
    {"model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", 2, {TINY_HEADS * TINY_DIM, TINY_HIDDEN}, TINY_HEADS},
    {"model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", 2, {TINY_KV * TINY_DIM, TINY_HIDDEN}, TINY_KV},
    {"model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight", 2, {TINY_KV * TINY_DIM, TINY_HIDDEN}, 0},
    {"model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight", 2, {TINY_HIDDEN, TINY_HEADS * TINY_DIM}, 0},
    {"model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight", 1, {TINY_HIDDEN, 0}, 0},
    {"model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight", 2, {TINY_FFN, TINY_HIDDEN}, 0},
    {"model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight", 2, {TINY_FFN, TINY_HIDDEN}, 0},
    {"model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight", 2, {TINY_HIDDEN, TINY_FFN}, 0},
};

static inline int64_t tiny_cols(const tiny_tensor *t) { return t->dim[t->rank - 1]; }
static inline int64_t tiny_count(const tiny_tensor *t) { return t->rank == 1 ? t->dim[0] : t->dim[0] * t->dim[1]; }
static inline float tiny_value(int tensor, int64_t i) { return (float)(tensor * 1000 + i); }

/* Row `row` of GGUF's order is this row of Hugging Face's: written out, not computed
 * as the library does: pairs (0, 2), (1, 3) of a head of 4. */
static inline int64_t tiny_row(const tiny_tensor *t, int64_t row)
{
    static const int64_t from[TINY_DIM] = {0, 2, 1, 3};
    return t->heads == 0 ? row : row / TINY_DIM * TINY_DIM + from[row % TINY_DIM];
}

typedef struct {
    const char *pre;          /* NULL: no tokenizer                                 */
    const char *rename;       /* this GGUF tensor is called "blk.0.strange.weight"  */
    bool no_heads, head, rope, wrong_rope, duplicate;
} tiny_options;

static inline void tiny_put_tokens(syi_gguf_writer *w, const tiny_options *o)
{
    static const char *const tokens[] = {"<s>", "a", "b", "ab", "<tool>", "[PAD5]"}, *const twice[] = {"<s>", "a", "b", "a", "<tool>", "[PAD5]"};
    static const char *const merges[] = {"a b"};
    static const int32_t types[] = {3, 1, 1, 1, 4, 5};
    assert_int_equal(syi_gguf_put_str(w, "tokenizer.ggml.model", "gpt2", -1), SY_OK);
    assert_int_equal(syi_gguf_put_str(w, "tokenizer.ggml.pre", o->pre, -1), SY_OK);
    assert_int_equal(syi_gguf_put_strs(w, "tokenizer.ggml.tokens", TINY_VOCAB, o->duplicate ? twice : tokens, NULL), SY_OK);
    assert_int_equal(syi_gguf_put_i32s(w, "tokenizer.ggml.token_type", TINY_VOCAB, types), SY_OK);
    assert_int_equal(syi_gguf_put_strs(w, "tokenizer.ggml.merges", 1, merges, NULL), SY_OK);
    assert_int_equal(syi_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 0), SY_OK);
    assert_int_equal(syi_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2), SY_OK);
    assert_int_equal(syi_gguf_put_u32(w, "tokenizer.ggml.eot_token_id", 3), SY_OK);
    assert_int_equal(syi_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true), SY_OK);
    assert_int_equal(syi_gguf_put_str(w, "tokenizer.chat_template", "{{ messages }}", -1), SY_OK);
}

static inline void tiny_gguf(sy_context *ctx, const char *path, const tiny_options *o)
{
    syi_gguf_writer *w = NULL;
    assert_int_equal(syi_gguf_writer_new(ctx, path, &w), SY_OK);
    assert_int_equal(syi_gguf_put_str(w, "general.architecture", "llama", -1), SY_OK);
    assert_int_equal(syi_gguf_put_str(w, "general.name", "Tiny", -1), SY_OK);
    static const struct { const char *key; uint32_t value; } ints[] = {
        {"llama.embedding_length", TINY_HIDDEN}, {"llama.block_count", 1}, {"llama.attention.head_count_kv", TINY_KV},
        {"llama.feed_forward_length", TINY_FFN}, {"llama.context_length", 32}, {"llama.rope.dimension_count", TINY_DIM}};
    for (int i = 0; i < SYI_COUNT(ints); i++) assert_int_equal(syi_gguf_put_u32(w, ints[i].key, ints[i].value), SY_OK);
    if (!o->no_heads) assert_int_equal(syi_gguf_put_u32(w, "llama.attention.head_count", TINY_HEADS), SY_OK);
    assert_int_equal(syi_gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f), SY_OK);
    assert_int_equal(syi_gguf_put_f32(w, "llama.rope.freq_base", 500000), SY_OK);
    if (o->pre != NULL) tiny_put_tokens(w, o);
    for (int k = 0; k < SYI_COUNT(tiny); k++) {
        const char *name = o->rename != NULL && strcmp(o->rename, tiny[k].gguf) == 0 ? "blk.0.strange.weight" : tiny[k].gguf;
        assert_int_equal(syi_gguf_declare(w, name, SY_F32, tiny[k].rank, tiny[k].dim), SY_OK);
    }
    if (o->head) assert_int_equal(syi_gguf_declare(w, "output.weight", SY_F32, 2, tiny[0].dim), SY_OK);
    if (o->rope) assert_int_equal(syi_gguf_declare(w, "rope_freqs.weight", SY_F32, 1, (const int64_t[]){TINY_DIM / 2}), SY_OK);
    assert_int_equal(syi_gguf_begin(w), SY_OK);
    for (int k = 0; k < SYI_COUNT(tiny); k++) {
        const tiny_tensor *t = &tiny[k];
        const char *name = o->rename != NULL && strcmp(o->rename, t->gguf) == 0 ? "blk.0.strange.weight" : t->gguf;
        const int64_t rows = t->rank == 1 ? 1 : t->dim[0], cols = tiny_cols(t);
        for (int64_t r = 0; r < rows; r++) {
            float row[64];
            for (int64_t c = 0; c < cols; c++) row[c] = tiny_value(k, tiny_row(t, r) * cols + c);
            assert_int_equal(syi_gguf_put_rows(w, name, r, 1, row), SY_OK);
        }
    }
    float head[TINY_VOCAB * TINY_HIDDEN];
    for (int i = 0; i < TINY_VOCAB * TINY_HIDDEN; i++) head[i] = tiny_value(20, i);
    if (o->head) assert_int_equal(syi_gguf_put_rows(w, "output.weight", 0, TINY_VOCAB, head), SY_OK);
    /* theta 500000, head of 4: wavelengths 6.3 (divisor 1) and 4443 (in between) */
    const float smooth = (8192.0f / 4442.8829f - 1) / 3, factors[] = {1, 1 / ((1 - smooth) / 32 + smooth), 32};
    if (o->rope) assert_int_equal(syi_gguf_put_rows(w, "rope_freqs.weight", 0, 1, factors + o->wrong_rope), SY_OK);
    assert_int_equal(syi_gguf_end(w), SY_OK);
}

/* Every tensor of a checkpoint under Hugging Face's names and in its order? */
static inline void tiny_check(sy_context *ctx, const sy_checkpoint *ck)
{
    for (int k = 0; k < SYI_COUNT(tiny); k++) {
        const sy_entry *e = sy_checkpoint_find(ck, tiny[k].hf);
        if (e == NULL) fail_msg("no tensor %s", tiny[k].hf);
        assert_int_equal(e->rank, tiny[k].rank);
        for (int d = 0; d < e->rank; d++) assert_int_equal(e->dim[d], tiny[k].dim[d]);
        const int64_t rows = e->rank == 1 ? 1 : e->dim[0], cols = tiny_cols(&tiny[k]);
        float f[256];
        assert_int_equal(sy_entry_read_f32(ctx, e, 0, rows, f), SY_OK);
        for (int64_t i = 0; i < tiny_count(&tiny[k]); i++)
            if (f[i] != tiny_value(k, i)) fail_msg("%s[%d] is %g", tiny[k].hf, (int)i, (double)f[i]);
        assert_int_equal(sy_entry_read_f32(ctx, e, rows - 1, 1, f), SY_OK); /* one row alone */
        for (int64_t c = 0; c < cols; c++) assert_true(f[c] == tiny_value(k, (rows - 1) * cols + c));
    }
}

#endif
