/* SPDX-License-Identifier: Apache-2.0 */
/* Phi-3 and Phi-4: Llama's shape with one matrix for q, k and v and one for gate and up;
 * LongRoPE for texts beyond the first context. */
#include "model/decoder_rows.h"

#include "base/base.h"

static const sy_arch_config config[] = {
    SYI_DECODER_SIZES,
    SYI_CONFIG_ROPE,
    SYI_CONFIG_TIED("false"),
    SYI_CONFIG_ACT("hidden_act", "silu"),
    SYI_CONFIG_HEAD_DIM("0"),
    SYI_CONFIG_CONTEXT("4096"),
    {"window", "sliding_window", "%s.attention.sliding_window", SY_OPT_INT, SYI_FIELD(sliding_window), "0"},
    SYI_CONFIG_FLAG(use_sliding_window, "", "true"),
    SYI_CONFIG_DERIVED,
    {NULL, NULL, NULL, SY_OPT_INT, 0, NULL},
};

static const sy_arch_tensor tensors[] = {
    SYI_DECODER_OUTER,
    {SYI_BLOCK "input_layernorm.weight", "blk.%d.attn_norm.weight", "hidden", SY_ROLE_NORM, 0, NULL},
    {SYI_BLOCK "self_attn.qkv_proj.weight", "blk.%d.attn_qkv.weight", "qkv_rows,hidden", SY_ROLE_QKV, SY_TENSOR_LINEAR, NULL},
    {SYI_BLOCK "self_attn.o_proj.weight", "blk.%d.attn_output.weight", "hidden,heads*head_dim", SY_ROLE_O, SY_TENSOR_LINEAR, NULL},
    {SYI_BLOCK "post_attention_layernorm.weight", "blk.%d.ffn_norm.weight", "hidden", SY_ROLE_NORM, 0, NULL},
    {SYI_BLOCK "mlp.gate_up_proj.weight", "blk.%d.ffn_up.weight", "gate_up_rows,hidden", SY_ROLE_GATE_UP, SY_TENSOR_LINEAR, NULL},
    {SYI_BLOCK "mlp.down_proj.weight", "blk.%d.ffn_down.weight", "hidden,ffn", SY_ROLE_DOWN, SY_TENSOR_LINEAR, NULL},
    {NULL, NULL, NULL, SY_ROLE_NONE, 0, NULL},
};

static const sy_arch_edge edges[] = {
    {SY_ROLE_NORM, SY_ROLE_QKV, 0, true}, {SY_ROLE_NORM, SY_ROLE_GATE_UP, 0, true}, {SY_ROLE_NORM, SY_ROLE_HEAD, 0, false}, {SY_ROLE_NONE, SY_ROLE_NONE, 0, false},
};

#define QKV SYI_BLOCK "self_attn.qkv_proj.weight"
#define O SYI_BLOCK "self_attn.o_proj.weight"
#define GATE_UP SYI_BLOCK "mlp.gate_up_proj.weight"
#define DOWN SYI_BLOCK "mlp.down_proj.weight"
static const sy_arch_perm perms[] = {
    {"FF", DOWN, NULL, 1, "1", NULL},
    {"FF", GATE_UP, NULL, 0, "1", "0"},
    {"FF", GATE_UP, NULL, 0, "1", "ffn"},
    {"KV", O, NULL, 1, "query_heads*head_dim", NULL},
    {"KV", QKV, NULL, 0, "query_heads*head_dim", "0"},
    {"KV", QKV, NULL, 0, "head_dim", "k_row"},
    {"KV", QKV, NULL, 0, "head_dim", "v_row"},
    {"QG", QKV, "KV", 0, "head_dim", "0"},
    {"QG", O, "KV", 1, "head_dim", NULL},
    {"VO", QKV, "KV", 0, "1", "v_row"},
    {"VO", O, "KV", 1, "1", NULL},
    {"RES", "model.embed_tokens.weight", NULL, 1, "1", NULL},
    {"RES", SYI_BLOCK "input_layernorm.weight", NULL, 0, "1", NULL},
    {"RES", QKV, NULL, 1, "1", NULL},
    {"RES", O, NULL, 0, "1", NULL},
    {"RES", SYI_BLOCK "post_attention_layernorm.weight", NULL, 0, "1", NULL},
    {"RES", GATE_UP, NULL, 1, "1", NULL},
    {"RES", DOWN, NULL, 0, "1", NULL},
    {"RES", "model.norm.weight", NULL, 0, "1", NULL},
    {"RES", "lm_head.weight", NULL, 1, "1", NULL},
    {NULL, NULL, NULL, 0, NULL, NULL},
};

static sy_status to_gguf(sy_context *ctx, void *values)
{
    SYI_TRY(syi_decoder_gguf_act(ctx, values, "silu", "phi3"));
    syi_decoder_gguf_no_window(ctx, values, "phi3");
    return SY_OK;
}

static const char *const model_types[] = {"phi3", NULL};
static const char *const architectures[] = {"Phi3ForCausalLM", NULL};
static const char *const gguf_archs[] = {"phi3", NULL};

const sy_arch sy_arch_phi3 = {
    .name = "phi3",
    .model_types = model_types,
    .architectures = architectures,
    .gguf_arch = "phi3",
    .gguf_archs = gguf_archs,
    .config = config,
    .config_size = sizeof(syi_decoder_config),
    .tensors = tensors,
    .edges = edges,
    .perms = perms,
    .check = syi_decoder_check,
    .build = syi_decoder_build,
    .piece = syi_decoder_piece,
    .parts = SYI_DECODER_PARTS,
    .to_gguf = to_gguf,
};
