/* SPDX-License-Identifier: Apache-2.0 */
/* Rows that the decoder architectures have in common: config values, tensors,
 * topology. An architecture file puts its table together from these and adds what
 * is its own. Internal. */
#ifndef SYI_DECODER_ROWS_H
#define SYI_DECODER_ROWS_H

#include "model/decoder.h"

#include <stddef.h>

#define SYI_FIELD(field) offsetof(syi_decoder_config, field)

/* Both ways of writing RoPE: `rope_theta` + `rope_scaling`, and `rope_parameters`. */
#define SYI_DECODER_CONFIG SYI_DECODER_SIZES, SYI_CONFIG_ROPE, SYI_CONFIG_TIED("false"), SYI_CONFIG_ACT("hidden_act", "silu")

#define SYI_DECODER_SIZES                                                                                             \
    {"hidden", "hidden_size", "%s.embedding_length", SY_OPT_INT, SYI_FIELD(hidden), NULL},                            \
    {"layers", "num_hidden_layers", "%s.block_count", SY_OPT_INT, SYI_FIELD(layers), NULL},                           \
    {"heads", "num_attention_heads", "%s.attention.head_count", SY_OPT_INT, SYI_FIELD(heads), NULL},                  \
    {"kv_heads", "num_key_value_heads", "%s.attention.head_count_kv", SY_OPT_INT, SYI_FIELD(kv_heads), "=heads"},     \
    {"ffn", "intermediate_size", "%s.feed_forward_length", SY_OPT_INT, SYI_FIELD(ffn), NULL},                         \
    {"vocab", "vocab_size", "%s.vocab_size", SY_OPT_INT, SYI_FIELD(vocab), NULL},                                     \
    {"norm_eps", "rms_norm_eps", "%s.attention.layer_norm_rms_epsilon", SY_OPT_FLOAT, SYI_FIELD(norm_eps), "1e-06"}

#define SYI_CONFIG_TIED(def) {"tied", "tie_word_embeddings", NULL, SY_OPT_BOOL, SYI_FIELD(tied), def}
#define SYI_CONFIG_ACT(keys, def) {"act", keys, NULL, SY_OPT_STRING, SYI_FIELD(act), def}
#define SYI_CONFIG_ROPE                                                                                               \
    {"rope_theta", "rope_parameters.rope_theta rope_theta", "%s.rope.freq_base", SY_OPT_FLOAT, SYI_FIELD(rope_theta), \
     "10000.0"},                                                                                                      \
    SYI_CONFIG_ROPE_RULE("rope_parameters.rope_type rope_scaling.rope_type rope_scaling.type", "rope_parameters.factor rope_scaling.factor")
#define SYI_CONFIG_ROPE_RULE(type, factor)                                                                            \
    {"rope_type", type, "%s.rope.scaling.type", SY_OPT_STRING, SYI_FIELD(rope_type), "default"},                      \
    {"rope_factor", factor, "%s.rope.scaling.factor", SY_OPT_FLOAT, SYI_FIELD(rope_factor), "1.0"},                   \
    {"rope_low_freq", "rope_parameters.low_freq_factor rope_scaling.low_freq_factor", NULL, SY_OPT_FLOAT,             \
     SYI_FIELD(rope_low_freq), "1.0"},                                                                                \
    {"rope_high_freq", "rope_parameters.high_freq_factor rope_scaling.high_freq_factor", NULL, SY_OPT_FLOAT,          \
     SYI_FIELD(rope_high_freq), "4.0"},                                                                               \
    {"rope_attention_factor", "rope_parameters.attention_factor rope_scaling.attention_factor", "%s.rope.scaling.attn_factor", \
     SY_OPT_FLOAT, SYI_FIELD(rope_attention_factor), "0.0"},                                                          \
    {"rope_original_context",                                                                                         \
     "rope_parameters.original_max_position_embeddings rope_scaling.original_max_position_embeddings "                \
     "original_max_position_embeddings",                                                                              \
     "%s.rope.scaling.original_context_length", SY_OPT_INT, SYI_FIELD(rope_original_context), "0"}

#define SYI_CONFIG_HEAD_DIM(def) \
    {"head_dim", "head_dim", "%s.attention.key_length", SY_OPT_INT, SYI_FIELD(head_dim), def}
#define SYI_CONFIG_CONTEXT(def) \
    {"context", "max_position_embeddings", "%s.context_length", SY_OPT_INT, SYI_FIELD(context), def}
#define SYI_CONFIG_FLAG(field, keys, def) {#field, keys, NULL, SY_OPT_BOOL, SYI_FIELD(field), def}
#define SYI_CONFIG_WINDOW(def) \
    {"sliding_window", "sliding_window", "%s.attention.sliding_window", SY_OPT_INT, SYI_FIELD(sliding_window), def}

/* Not in files: the check fills them in. */
#define SYI_CONFIG_DERIVED                                                                                            \
    {"query_heads", "", NULL, SY_OPT_INT, SYI_FIELD(query_heads), "0"},                                               \
    {"qkv_rows", "", NULL, SY_OPT_INT, SYI_FIELD(qkv_rows), "0"},                                                     \
    {"k_row", "", NULL, SY_OPT_INT, SYI_FIELD(k_row), "0"},                                                           \
    {"v_row", "", NULL, SY_OPT_INT, SYI_FIELD(v_row), "0"},                                                           \
    {"gate_up_rows", "", NULL, SY_OPT_INT, SYI_FIELD(gate_up_rows), "0"}

#define SYI_BLOCK "model.layers.%d."

#define SYI_DECODER_OUTER                                                                                             \
    {"model.embed_tokens.weight", "token_embd.weight", "vocab,hidden", SY_ROLE_EMBED, SY_TENSOR_EMBED, NULL},         \
    {"model.norm.weight", "output_norm.weight", "hidden", SY_ROLE_NORM, 0, NULL},                                     \
    {"lm_head.weight", "output.weight", "vocab,hidden", SY_ROLE_HEAD,                                                 \
     SY_TENSOR_LINEAR | SY_TENSOR_OPTIONAL | SY_TENSOR_TIED, NULL}

/* pq, pk: SY_TENSOR_PERMUTE_Q and _K where GGUF keeps rotated pairs side by side. */
#define SYI_DECODER_ATTENTION(pq, pk)                                                                                 \
    {SYI_BLOCK "input_layernorm.weight", "blk.%d.attn_norm.weight", "hidden", SY_ROLE_NORM, 0, NULL},                 \
    SYI_DECODER_PROJECTIONS(pq, pk)
#define SYI_DECODER_PROJECTIONS(pq, pk)                                                                               \
    {SYI_BLOCK "self_attn.q_proj.weight", "blk.%d.attn_q.weight", "heads*head_dim,hidden", SY_ROLE_Q,                 \
     SY_TENSOR_LINEAR | (pq), NULL},                                                                                  \
    {SYI_BLOCK "self_attn.k_proj.weight", "blk.%d.attn_k.weight", "kv_heads*head_dim,hidden", SY_ROLE_K,              \
     SY_TENSOR_LINEAR | (pk), NULL},                                                                                  \
    {SYI_BLOCK "self_attn.v_proj.weight", "blk.%d.attn_v.weight", "kv_heads*head_dim,hidden", SY_ROLE_V,              \
     SY_TENSOR_LINEAR, NULL},                                                                                         \
    {SYI_BLOCK "self_attn.o_proj.weight", "blk.%d.attn_output.weight", "hidden,heads*head_dim", SY_ROLE_O,            \
     SY_TENSOR_LINEAR, NULL}

/* Norms on what attention and the feed-forward layer give (Gemma, OLMo 2). */
#define SYI_DECODER_POST_NORM(name, gguf, flags) {SYI_BLOCK name ".weight", "blk.%d." gguf ".weight", "hidden", SY_ROLE_NORM, flags, NULL}

#define SYI_DECODER_QKV_BIAS(pq, pk)                                                                                  \
    {SYI_BLOCK "self_attn.q_proj.bias", "blk.%d.attn_q.bias", "heads*head_dim", SY_ROLE_BIAS, (pq), "qkv_bias"},      \
    {SYI_BLOCK "self_attn.k_proj.bias", "blk.%d.attn_k.bias", "kv_heads*head_dim", SY_ROLE_BIAS, (pk), "qkv_bias"},   \
    {SYI_BLOCK "self_attn.v_proj.bias", "blk.%d.attn_v.bias", "kv_heads*head_dim", SY_ROLE_BIAS, 0, "qkv_bias"}

#define SYI_DECODER_O_BIAS                                                                                            \
    {SYI_BLOCK "self_attn.o_proj.bias", "blk.%d.attn_output.bias", "hidden", SY_ROLE_BIAS, 0, "o_bias"}

#define SYI_DECODER_QK_NORM                                                                                           \
    {SYI_BLOCK "self_attn.q_norm.weight", "blk.%d.attn_q_norm.weight", "head_dim", SY_ROLE_NORM, 0, "qk_norm"},       \
    {SYI_BLOCK "self_attn.k_norm.weight", "blk.%d.attn_k_norm.weight", "head_dim", SY_ROLE_NORM, 0, "qk_norm"}

#define SYI_DECODER_FEED_FORWARD                                                                                      \
    {SYI_BLOCK "post_attention_layernorm.weight", "blk.%d.ffn_norm.weight", "hidden", SY_ROLE_NORM, 0, NULL},         \
    SYI_DECODER_GATED
#define SYI_DECODER_GATED                                                                                             \
    {SYI_BLOCK "mlp.gate_proj.weight", "blk.%d.ffn_gate.weight", "ffn,hidden", SY_ROLE_GATE, SY_TENSOR_LINEAR, NULL}, \
    {SYI_BLOCK "mlp.up_proj.weight", "blk.%d.ffn_up.weight", "ffn,hidden", SY_ROLE_UP, SY_TENSOR_LINEAR, NULL},       \
    {SYI_BLOCK "mlp.down_proj.weight", "blk.%d.ffn_down.weight", "hidden,ffn", SY_ROLE_DOWN, SY_TENSOR_LINEAR, NULL}

#define SYI_DECODER_MLP_BIAS                                                                                          \
    {SYI_BLOCK "mlp.gate_proj.bias", "blk.%d.ffn_gate.bias", "ffn", SY_ROLE_BIAS, 0, "mlp_bias"},                     \
    {SYI_BLOCK "mlp.up_proj.bias", "blk.%d.ffn_up.bias", "ffn", SY_ROLE_BIAS, 0, "mlp_bias"},                         \
    {SYI_BLOCK "mlp.down_proj.bias", "blk.%d.ffn_down.bias", "hidden", SY_ROLE_BIAS, 0, "mlp_bias"}

/* Rows for biases and norms that not all have: an architecture without that tensor has no
 * such row. */
#define SYI_DECODER_PERMS                                        \
    {"FF", SYI_BLOCK "mlp.gate_proj.weight", NULL, 0, "1", NULL}, \
    {"FF", SYI_BLOCK "mlp.gate_proj.bias", NULL, 0, "1", NULL}, \
    {"FF", SYI_BLOCK "mlp.up_proj.weight", NULL, 0, "1", NULL}, \
    {"FF", SYI_BLOCK "mlp.up_proj.bias", NULL, 0, "1", NULL}, \
    {"FF", SYI_BLOCK "mlp.down_proj.weight", NULL, 1, "1", NULL}, \
    {"KV", SYI_BLOCK "self_attn.k_proj.weight", NULL, 0, "head_dim", NULL}, \
    {"KV", SYI_BLOCK "self_attn.k_proj.bias", NULL, 0, "head_dim", NULL}, \
    {"KV", SYI_BLOCK "self_attn.v_proj.weight", NULL, 0, "head_dim", NULL}, \
    {"KV", SYI_BLOCK "self_attn.v_proj.bias", NULL, 0, "head_dim", NULL}, \
    {"KV", SYI_BLOCK "self_attn.q_proj.weight", NULL, 0, "query_heads*head_dim", NULL}, \
    {"KV", SYI_BLOCK "self_attn.q_proj.bias", NULL, 0, "query_heads*head_dim", NULL}, \
    {"KV", SYI_BLOCK "self_attn.o_proj.weight", NULL, 1, "query_heads*head_dim", NULL}, \
    {"QG", SYI_BLOCK "self_attn.q_proj.weight", "KV", 0, "head_dim", NULL}, \
    {"QG", SYI_BLOCK "self_attn.q_proj.bias", "KV", 0, "head_dim", NULL}, \
    {"QG", SYI_BLOCK "self_attn.o_proj.weight", "KV", 1, "head_dim", NULL}, \
    {"VO", SYI_BLOCK "self_attn.v_proj.weight", "KV", 0, "1", NULL}, \
    {"VO", SYI_BLOCK "self_attn.v_proj.bias", "KV", 0, "1", NULL}, \
    {"VO", SYI_BLOCK "self_attn.o_proj.weight", "KV", 1, "1", NULL}, \
    {"RES", "model.embed_tokens.weight", NULL, 1, "1", NULL}, \
    {"RES", SYI_BLOCK "input_layernorm.weight", NULL, 0, "1", NULL}, \
    {"RES", SYI_BLOCK "self_attn.q_proj.weight", NULL, 1, "1", NULL}, \
    {"RES", SYI_BLOCK "self_attn.k_proj.weight", NULL, 1, "1", NULL}, \
    {"RES", SYI_BLOCK "self_attn.v_proj.weight", NULL, 1, "1", NULL}, \
    {"RES", SYI_BLOCK "self_attn.o_proj.weight", NULL, 0, "1", NULL}, \
    {"RES", SYI_BLOCK "self_attn.o_proj.bias", NULL, 0, "1", NULL}, \
    {"RES", SYI_BLOCK "post_attention_layernorm.weight", NULL, 0, "1", NULL}, \
    {"RES", SYI_BLOCK "mlp.gate_proj.weight", NULL, 1, "1", NULL}, \
    {"RES", SYI_BLOCK "mlp.up_proj.weight", NULL, 1, "1", NULL}, \
    {"RES", SYI_BLOCK "mlp.down_proj.weight", NULL, 0, "1", NULL}, \
    {"RES", SYI_BLOCK "mlp.down_proj.bias", NULL, 0, "1", NULL}, \
    {"RES", "model.norm.weight", NULL, 0, "1", NULL}, \
    {"RES", "lm_head.weight", NULL, 1, "1", NULL}, \
    {"RES", SYI_BLOCK "pre_feedforward_layernorm.weight", NULL, 0, "1", NULL}, \
    {"RES", SYI_BLOCK "post_feedforward_layernorm.weight", NULL, 0, "1", NULL}

/* A norm's gain goes into what reads it; up's rows into down's columns (the gate
 * sits between, but multiplies each channel); v's channels into o's, once for
 * each query head that shares them. The last norm's reader may be tied. */
extern const sy_arch_edge syi_decoder_edges[];
/* Hidden units of the feed-forward layer; key/value heads with the query heads that
 * go with them; query heads within such a group; channels of v within a head; the
 * residual stream. */
extern const sy_arch_perm syi_decoder_perms[];

#endif
