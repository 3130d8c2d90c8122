/* SPDX-License-Identifier: Apache-2.0 */
/* Gemma 3, its text part: Gemma 2 without caps, with norms over each head of q and k, five
 * layers with a window and another rotation for each one without. */
#include "model/decoder_rows.h"

#include "base/base.h"

static const syi_decoder_layout layout = {
    .attention_norm = "model.layers.%d.input_layernorm", .attention_post_norm = "model.layers.%d.post_attention_layernorm",
    .ffn_norm = "model.layers.%d.pre_feedforward_layernorm", .ffn_post_norm = "model.layers.%d.post_feedforward_layernorm", .last_norm = "model.norm",
    .q_norm = "model.layers.%d.self_attn.q_norm", .k_norm = "model.layers.%d.self_attn.k_norm",
    .norm_from_one = true, .scaled_embedding = true,
};

static const sy_arch_config config[] = {
    SYI_DECODER_SIZES,
    {"rope_theta", "rope_parameters.full_attention.rope_theta rope_theta", "%s.rope.freq_base", SY_OPT_FLOAT, SYI_FIELD(rope_theta), "1000000.0"},
    {"rope_local", "rope_parameters.sliding_attention.rope_theta rope_local_base_freq", "%s.rope.freq_base_swa", SY_OPT_FLOAT, SYI_FIELD(rope_local_theta), "10000.0"},
    SYI_CONFIG_ROPE_RULE("rope_parameters.full_attention.rope_type rope_scaling.rope_type rope_scaling.type",
                         "rope_parameters.full_attention.factor rope_scaling.factor"),
    SYI_CONFIG_TIED("true"),
    SYI_CONFIG_ACT("hidden_activation hidden_act", "gelu_pytorch_tanh"),
    SYI_CONFIG_HEAD_DIM("256"),
    SYI_CONFIG_CONTEXT("131072"),
    {"window", "sliding_window", "%s.attention.sliding_window", SY_OPT_INT, SYI_FIELD(sliding_window), "4096"},
    SYI_CONFIG_FLAG(use_sliding_window, "", "true"),
    {"sliding_every", "sliding_window_pattern _sliding_window_pattern", "%s.attention.sliding_window_pattern", SY_OPT_INT, SYI_FIELD(sliding_every), "6"},
    {"query_scale", "query_pre_attn_scalar", NULL, SY_OPT_FLOAT, SYI_FIELD(query_scale), "256.0"},
    {"attention_cap", "attn_logit_softcapping", NULL, SY_OPT_FLOAT, SYI_FIELD(attention_cap), "0.0"},
    {"logit_cap", "final_logit_softcapping", "%s.final_logit_softcapping", SY_OPT_FLOAT, SYI_FIELD(logit_cap), "0.0"},
    SYI_CONFIG_FLAG(qk_norm, "", "true"),
    SYI_CONFIG_DERIVED,
    {NULL, NULL, NULL, SY_OPT_INT, 0, NULL},
};

static const sy_arch_tensor tensors[] = {
    {"model.embed_tokens.weight", "token_embd.weight", "vocab,hidden", SY_ROLE_EMBED, SY_TENSOR_EMBED, NULL},
    {"model.norm.weight", "output_norm.weight", "hidden", SY_ROLE_NORM, SY_TENSOR_FROM_ONE, NULL},
    {"lm_head.weight", "output.weight", "vocab,hidden", SY_ROLE_HEAD, SY_TENSOR_LINEAR | SY_TENSOR_OPTIONAL | SY_TENSOR_TIED, NULL},
    SYI_DECODER_POST_NORM("input_layernorm", "attn_norm", SY_TENSOR_FROM_ONE),
    SYI_DECODER_PROJECTIONS(0, 0),
    {SYI_BLOCK "self_attn.q_norm.weight", "blk.%d.attn_q_norm.weight", "head_dim", SY_ROLE_NORM, SY_TENSOR_FROM_ONE, NULL},
    {SYI_BLOCK "self_attn.k_norm.weight", "blk.%d.attn_k_norm.weight", "head_dim", SY_ROLE_NORM, SY_TENSOR_FROM_ONE, NULL},
    SYI_DECODER_POST_NORM("post_attention_layernorm", "post_attention_norm", SY_TENSOR_FROM_ONE),
    SYI_DECODER_POST_NORM("pre_feedforward_layernorm", "ffn_norm", SY_TENSOR_FROM_ONE),
    SYI_DECODER_GATED,
    SYI_DECODER_POST_NORM("post_feedforward_layernorm", "post_ffw_norm", SY_TENSOR_FROM_ONE),
    {NULL, NULL, NULL, SY_ROLE_NONE, 0, NULL},
};


/* A norm behind a layer stands between it and the stream, so scales pass into the norm's
 * readers only. */
static const sy_arch_edge edges[] = {
    {SY_ROLE_NORM, SY_ROLE_Q, 0, true},  {SY_ROLE_NORM, SY_ROLE_K, 0, true},   {SY_ROLE_NORM, SY_ROLE_V, 0, true},  {SY_ROLE_NORM, SY_ROLE_GATE, 0, true},
    {SY_ROLE_NORM, SY_ROLE_UP, 0, true}, {SY_ROLE_UP, SY_ROLE_DOWN, 0, true}, {SY_ROLE_V, SY_ROLE_O, 1, true},   {SY_ROLE_NONE, SY_ROLE_NONE, 0, false},
};

static sy_status check(sy_context *ctx, void *values, const void *config_json)
{
    ((syi_decoder_config *)values)->layout = &layout;
    return syi_decoder_check(ctx, values, config_json);
}

enum { LARGEST = 62 }; /* layers of the 27B model */

static sy_status from_gguf(sy_context *ctx, void *config_json)
{
    return syi_gemma_from_gguf(ctx, config_json, LARGEST);
}

static sy_status to_gguf(sy_context *ctx, void *values)
{
    syi_decoder_config *c = values;
    SYI_TRY(syi_decoder_gguf_act(ctx, c, "gelu_pytorch_tanh", "gemma3"));
    SYI_TRY(syi_gemma_gguf_scale(ctx, c, LARGEST));
    if (c->attention_cap > 0) return syi_fail(ctx, SY_E_UNSUPPORTED, "config: attn_logit_softcapping is %g; GGUF's gemma3 architecture has no such cap. Keep the model as a folder", c->attention_cap);
    c->sliding_every = syi_decoder_window_period(c); /* layer_types may say it instead */
    if (c->sliding_every == 1) c->sliding_window = 0;
    if (c->sliding_every > 0) return SY_OK;
    return syi_fail(ctx, SY_E_UNSUPPORTED, "config: layer_types: GGUF has one number for this, every so many layers one without a window. Keep the model as a folder");
}

static const char *const model_types[] = {"gemma3_text", NULL};
static const char *const architectures[] = {"Gemma3ForCausalLM", NULL};
static const char *const gguf_archs[] = {"gemma3", NULL};

const sy_arch sy_arch_gemma3 = {
    .name = "gemma3",
    .model_types = model_types,
    .architectures = architectures,
    .gguf_arch = "gemma3",
    .gguf_archs = gguf_archs,
    .config = config,
    .config_size = sizeof(syi_decoder_config),
    .tensors = tensors,
    .edges = edges,
    .perms = syi_decoder_perms,
    .check = check,
    .build = syi_decoder_build,
    .piece = syi_decoder_piece,
    .parts = SYI_DECODER_PARTS,
    .logits = syi_decoder_logits,
    .from_gguf = from_gguf,
    .to_gguf = to_gguf,
};
