/* SPDX-License-Identifier: Apache-2.0 */
/* GPT-2: learned positions, layer norms, one matrix for q, k and v, no gate; matrices are
 * stored [in, out] in folders (Conv1D) and [out, in] in GGUF. */
#include "model/decoder_rows.h"

#include "base/base.h"

#include <jansson.h>

#define BLOCK "transformer.h.%d."
#define CONV1D (SY_TENSOR_LINEAR | SY_TENSOR_TRANSPOSED)

static const syi_decoder_layout layout = {
    .attention_norm = "transformer.h.%d.ln_1", .ffn_norm = "transformer.h.%d.ln_2", .last_norm = "transformer.ln_f", .layer_norm = true,
    .positions = "transformer.wpe",
};

static const sy_arch_config config[] = {
    {"hidden", "n_embd hidden_size", "%s.embedding_length", SY_OPT_INT, SYI_FIELD(hidden), NULL},
    {"layers", "n_layer num_hidden_layers", "%s.block_count", SY_OPT_INT, SYI_FIELD(layers), NULL},
    {"heads", "n_head num_attention_heads", "%s.attention.head_count", SY_OPT_INT, SYI_FIELD(heads), NULL},
    {"kv_heads", "", NULL, SY_OPT_INT, SYI_FIELD(kv_heads), "=heads"},
    {"head_dim", "", NULL, SY_OPT_INT, SYI_FIELD(head_dim), "0"},
    {"ffn", "n_inner", "%s.feed_forward_length", SY_OPT_INT, SYI_FIELD(ffn), "0"},
    {"vocab", "vocab_size", "%s.vocab_size", SY_OPT_INT, SYI_FIELD(vocab), NULL},
    {"context", "n_positions n_ctx max_position_embeddings", "%s.context_length", SY_OPT_INT, SYI_FIELD(context), "1024"},
    {"norm_eps", "layer_norm_epsilon", "%s.attention.layer_norm_epsilon", SY_OPT_FLOAT, SYI_FIELD(norm_eps), "1e-05"},
    SYI_CONFIG_TIED("true"),
    SYI_CONFIG_ACT("activation_function", "gelu_new"),
    SYI_CONFIG_DERIVED,
    {NULL, NULL, NULL, SY_OPT_INT, 0, NULL},
};

static const sy_arch_tensor tensors[] = {
    {"transformer.wte.weight", "token_embd.weight", "vocab,hidden", SY_ROLE_EMBED, SY_TENSOR_EMBED, NULL},
    {"transformer.wpe.weight", "position_embd.weight", "context,hidden", SY_ROLE_POSITION, SY_TENSOR_EMBED, NULL},
    {"transformer.ln_f.weight", "output_norm.weight", "hidden", SY_ROLE_NORM, 0, NULL},
    {"transformer.ln_f.bias", "output_norm.bias", "hidden", SY_ROLE_BIAS, 0, NULL},
    {"lm_head.weight", "output.weight", "vocab,hidden", SY_ROLE_HEAD, SY_TENSOR_LINEAR | SY_TENSOR_OPTIONAL | SY_TENSOR_TIED, NULL},
    {BLOCK "ln_1.weight", "blk.%d.attn_norm.weight", "hidden", SY_ROLE_NORM, 0, NULL},
    {BLOCK "ln_1.bias", "blk.%d.attn_norm.bias", "hidden", SY_ROLE_BIAS, 0, NULL},
    {BLOCK "attn.c_attn.weight", "blk.%d.attn_qkv.weight", "qkv_rows,hidden", SY_ROLE_QKV, CONV1D, NULL},
    {BLOCK "attn.c_attn.bias", "blk.%d.attn_qkv.bias", "qkv_rows", SY_ROLE_BIAS, 0, NULL},
    {BLOCK "attn.c_proj.weight", "blk.%d.attn_output.weight", "hidden,heads*head_dim", SY_ROLE_O, CONV1D, NULL},
    {BLOCK "attn.c_proj.bias", "blk.%d.attn_output.bias", "hidden", SY_ROLE_BIAS, 0, NULL},
    {BLOCK "attn.bias", NULL, "1", SY_ROLE_NONE, SY_TENSOR_COUNTER, NULL}, /* the causal mask, in old files */
    {BLOCK "ln_2.weight", "blk.%d.ffn_norm.weight", "hidden", SY_ROLE_NORM, 0, NULL},
    {BLOCK "ln_2.bias", "blk.%d.ffn_norm.bias", "hidden", SY_ROLE_BIAS, 0, NULL},
    {BLOCK "mlp.c_fc.weight", "blk.%d.ffn_up.weight", "ffn,hidden", SY_ROLE_UP, CONV1D, NULL},
    {BLOCK "mlp.c_fc.bias", "blk.%d.ffn_up.bias", "ffn", SY_ROLE_BIAS, 0, NULL},
    {BLOCK "mlp.c_proj.weight", "blk.%d.ffn_down.weight", "hidden,ffn", SY_ROLE_DOWN, CONV1D, NULL},
    {BLOCK "mlp.c_proj.bias", "blk.%d.ffn_down.bias", "hidden", SY_ROLE_BIAS, 0, NULL},
    {NULL, NULL, NULL, SY_ROLE_NONE, 0, NULL},
};

/* Layer norm's gain goes into what reads it; v's channels into o's. */
static const sy_arch_edge edges[] = {
    {SY_ROLE_NORM, SY_ROLE_QKV, 0, true}, {SY_ROLE_NORM, SY_ROLE_UP, 0, true}, {SY_ROLE_NORM, SY_ROLE_HEAD, 0, false}, {SY_ROLE_NONE, SY_ROLE_NONE, 0, false},
};

/* Without rotation the channels of a head's q and k move together as well. */
static const sy_arch_perm perms[] = {
    {"FF", BLOCK "mlp.c_fc.weight", NULL, 0, "1", NULL},
    {"FF", BLOCK "mlp.c_fc.bias", NULL, 0, "1", NULL},
    {"FF", BLOCK "mlp.c_proj.weight", NULL, 1, "1", NULL},
    {"KV", BLOCK "attn.c_attn.weight", NULL, 0, "head_dim", "0"},
    {"KV", BLOCK "attn.c_attn.weight", NULL, 0, "head_dim", "k_row"},
    {"KV", BLOCK "attn.c_attn.weight", NULL, 0, "head_dim", "v_row"},
    {"KV", BLOCK "attn.c_attn.bias", NULL, 0, "head_dim", "0"},
    {"KV", BLOCK "attn.c_attn.bias", NULL, 0, "head_dim", "k_row"},
    {"KV", BLOCK "attn.c_attn.bias", NULL, 0, "head_dim", "v_row"},
    {"KV", BLOCK "attn.c_proj.weight", NULL, 1, "head_dim", NULL},
    {"QK", BLOCK "attn.c_attn.weight", "KV", 0, "1", "0"},
    {"QK", BLOCK "attn.c_attn.weight", "KV", 0, "1", "k_row"},
    {"QK", BLOCK "attn.c_attn.bias", "KV", 0, "1", "0"},
    {"QK", BLOCK "attn.c_attn.bias", "KV", 0, "1", "k_row"},
    {"VO", BLOCK "attn.c_attn.weight", "KV", 0, "1", "v_row"},
    {"VO", BLOCK "attn.c_attn.bias", "KV", 0, "1", "v_row"},
    {"VO", BLOCK "attn.c_proj.weight", "KV", 1, "1", NULL},
    {"RES", "transformer.wte.weight", NULL, 1, "1", NULL},
    {"RES", "transformer.wpe.weight", NULL, 1, "1", NULL},
    {"RES", BLOCK "ln_1.weight", NULL, 0, "1", NULL},
    {"RES", BLOCK "ln_1.bias", NULL, 0, "1", NULL},
    {"RES", BLOCK "attn.c_attn.weight", NULL, 1, "1", NULL},
    {"RES", BLOCK "attn.c_proj.weight", NULL, 0, "1", NULL},
    {"RES", BLOCK "attn.c_proj.bias", NULL, 0, "1", NULL},
    {"RES", BLOCK "ln_2.weight", NULL, 0, "1", NULL},
    {"RES", BLOCK "ln_2.bias", NULL, 0, "1", NULL},
    {"RES", BLOCK "mlp.c_fc.weight", NULL, 1, "1", NULL},
    {"RES", BLOCK "mlp.c_proj.weight", NULL, 0, "1", NULL},
    {"RES", BLOCK "mlp.c_proj.bias", NULL, 0, "1", NULL},
    {"RES", "transformer.ln_f.weight", NULL, 0, "1", NULL},
    {"RES", "transformer.ln_f.bias", NULL, 0, "1", NULL},
    {"RES", "lm_head.weight", NULL, 1, "1", NULL},
    {NULL, NULL, NULL, 0, NULL, NULL},
};

static sy_status check(sy_context *ctx, void *values, const void *config_json)
{
    syi_decoder_config *c = values;
    c->layout = &layout;
    if (c->ffn == 0) c->ffn = 4 * c->hidden;
    if (json_is_false(json_object_get(config_json, "scale_attn_weights")) || json_is_true(json_object_get(config_json, "scale_attn_by_inverse_layer_idx")))
        return syi_fail(ctx, SY_E_UNSUPPORTED, "config: scale_attn_weights false and scale_attn_by_inverse_layer_idx true are not supported");
    return syi_decoder_check(ctx, values, config_json);
}

static sy_status to_gguf(sy_context *ctx, void *values)
{
    return syi_decoder_gguf_act(ctx, values, "gelu_new", "gpt2");
}

static const char *const model_types[] = {"gpt2", NULL};
static const char *const architectures[] = {"GPT2LMHeadModel", NULL};
static const char *const gguf_archs[] = {"gpt2", NULL};

const sy_arch sy_arch_gpt2 = {
    .name = "gpt2",
    .model_types = model_types,
    .architectures = architectures,
    .prefix = "transformer.",
    .gguf_arch = "gpt2",
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
