/* SPDX-License-Identifier: Apache-2.0 */
/* OLMo 2: norms only behind attention and the feed-forward layer, and over all of q and all
 * of k. */
#include "model/decoder_rows.h"

#include "base/base.h"

static const syi_decoder_layout layout = {
    .attention_post_norm = "model.layers.%d.post_attention_layernorm", .ffn_post_norm = "model.layers.%d.post_feedforward_layernorm",
    .last_norm = "model.norm", .q_norm = "model.layers.%d.self_attn.q_norm", .k_norm = "model.layers.%d.self_attn.k_norm", .whole_qk_norm = true,
};

static const sy_arch_config config[] = {
    SYI_DECODER_CONFIG,
    SYI_CONFIG_HEAD_DIM("0"),
    SYI_CONFIG_CONTEXT("2048"),
    SYI_CONFIG_FLAG(qk_norm, "", "true"),
    SYI_CONFIG_FLAG(qkv_bias, "attention_bias", "false"),
    SYI_CONFIG_FLAG(o_bias, "attention_bias", "false"),
    SYI_CONFIG_DERIVED,
    {NULL, NULL, NULL, SY_OPT_INT, 0, NULL},
};

static const sy_arch_tensor tensors[] = {
    SYI_DECODER_OUTER,
    SYI_DECODER_PROJECTIONS(0, 0),
    SYI_DECODER_QKV_BIAS(0, 0),
    SYI_DECODER_O_BIAS,
    {SYI_BLOCK "self_attn.q_norm.weight", "blk.%d.attn_q_norm.weight", "heads*head_dim", SY_ROLE_NORM, 0, NULL},
    {SYI_BLOCK "self_attn.k_norm.weight", "blk.%d.attn_k_norm.weight", "kv_heads*head_dim", SY_ROLE_NORM, 0, NULL},
    SYI_DECODER_POST_NORM("post_attention_layernorm", "post_attention_norm", 0),
    SYI_DECODER_GATED,
    SYI_DECODER_POST_NORM("post_feedforward_layernorm", "post_ffw_norm", 0),
    {NULL, NULL, NULL, SY_ROLE_NONE, 0, NULL},
};

static const sy_arch_edge edges[] = {
    {SY_ROLE_UP, SY_ROLE_DOWN, 0, true}, {SY_ROLE_V, SY_ROLE_O, 1, true}, {SY_ROLE_NORM, SY_ROLE_HEAD, 0, false}, {SY_ROLE_NONE, SY_ROLE_NONE, 0, false},
};

/* Llama's, and the norms of q and k move with the heads. */
static const sy_arch_perm perms[] = {
    SYI_DECODER_PERMS,
    {"KV", SYI_BLOCK "self_attn.q_norm.weight", NULL, 0, "query_heads*head_dim", NULL},
    {"QG", SYI_BLOCK "self_attn.q_norm.weight", "KV", 0, "head_dim", NULL},
    {"KV", SYI_BLOCK "self_attn.k_norm.weight", NULL, 0, "head_dim", NULL},
    {NULL, NULL, NULL, 0, NULL, NULL},
};

static sy_status check(sy_context *ctx, void *values, const void *config_json)
{
    ((syi_decoder_config *)values)->layout = &layout;
    return syi_decoder_check(ctx, values, config_json);
}

static sy_status to_gguf(sy_context *ctx, void *values)
{
    const syi_decoder_config *c = values;
    SYI_TRY(syi_decoder_gguf_act(ctx, c, "silu", "olmo2"));
    if (c->qkv_bias || c->o_bias) return syi_fail(ctx, SY_E_UNSUPPORTED, "config: attention_bias is true; GGUF's olmo2 architecture has no biases. Keep the model as a folder");
    if (c->tied) return syi_fail(ctx, SY_E_UNSUPPORTED, "config: tie_word_embeddings is true; GGUF's olmo2 architecture needs a head of its own. Keep the model as a folder");
    return SY_OK;
}

static const char *const model_types[] = {"olmo2", NULL};
static const char *const architectures[] = {"Olmo2ForCausalLM", NULL};
static const char *const gguf_archs[] = {"olmo2", NULL};

const sy_arch sy_arch_olmo2 = {
    .name = "olmo2",
    .model_types = model_types,
    .architectures = architectures,
    .gguf_arch = "olmo2",
    .gguf_archs = gguf_archs,
    .config = config,
    .config_size = sizeof(syi_decoder_config),
    .tensors = tensors,
    .edges = edges,
    .perms = perms,
    .check = check,
    .build = syi_decoder_build,
    .piece = syi_decoder_piece,
    .parts = SYI_DECODER_PARTS,
    .to_gguf = to_gguf,
};
