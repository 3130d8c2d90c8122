/* SPDX-License-Identifier: Apache-2.0 */
/* BERT and what has its shape (MiniLM and other sentence encoders): with a head it
 * classifies texts, without one it gives embeddings. */
#include "model/encoder.h"

#define BLOCK "bert.encoder.layer.%d."

static const syi_encoder_layout layout = {
    .attention_post_norm = BLOCK "attention.output.LayerNorm", .ffn_post_norm = BLOCK "output.LayerNorm", .first_norm = "bert.embeddings.LayerNorm",
    .words = "bert.embeddings.word_embeddings", .positions = "bert.embeddings.position_embeddings", .types = "bert.embeddings.token_type_embeddings",
    .pooler = "bert.pooler.dense",
};

static const sy_arch_config config[] = {
    SYI_ENCODER_CONFIG,
    {"vocab", "vocab_size", "%s.vocab_size", SY_OPT_INT, SYI_ENC(vocab), NULL},
    {"positions", "max_position_embeddings", "%s.context_length", SY_OPT_INT, SYI_ENC(positions), "512"},
    {"context", "", NULL, SY_OPT_INT, SYI_ENC(context), "0"},
    {"types", "type_vocab_size", "tokenizer.ggml.token_type_count", SY_OPT_INT, SYI_ENC(types), "2"},
    {NULL, NULL, NULL, SY_OPT_INT, 0, NULL},
};

static const sy_arch_tensor tensors[] = {
    {"bert.embeddings.word_embeddings.weight", "token_embd.weight", "vocab,hidden", SY_ROLE_EMBED, SY_TENSOR_EMBED, NULL},
    {"bert.embeddings.position_embeddings.weight", "position_embd.weight", "positions,hidden", SY_ROLE_POSITION, SY_TENSOR_EMBED, NULL},
    {"bert.embeddings.token_type_embeddings.weight", "token_types.weight", "types,hidden", SY_ROLE_NONE, SY_TENSOR_EMBED, NULL},
    {"bert.embeddings.position_ids", NULL, "1", SY_ROLE_NONE, SY_TENSOR_COUNTER, NULL},
    SYI_ENCODER_NORM("bert.embeddings.LayerNorm", "token_embd_norm"),
    SYI_ENCODER_LINEAR(BLOCK "attention.self.query", "blk.%d.attn_q", "hidden", "hidden", SY_ROLE_Q),
    SYI_ENCODER_LINEAR(BLOCK "attention.self.key", "blk.%d.attn_k", "hidden", "hidden", SY_ROLE_K),
    SYI_ENCODER_LINEAR(BLOCK "attention.self.value", "blk.%d.attn_v", "hidden", "hidden", SY_ROLE_V),
    SYI_ENCODER_LINEAR(BLOCK "attention.output.dense", "blk.%d.attn_output", "hidden", "hidden", SY_ROLE_O),
    SYI_ENCODER_NORM(BLOCK "attention.output.LayerNorm", "blk.%d.attn_output_norm"),
    SYI_ENCODER_LINEAR(BLOCK "intermediate.dense", "blk.%d.ffn_up", "ffn", "hidden", SY_ROLE_UP),
    SYI_ENCODER_LINEAR(BLOCK "output.dense", "blk.%d.ffn_down", "hidden", "ffn", SY_ROLE_DOWN),
    SYI_ENCODER_NORM(BLOCK "output.LayerNorm", "blk.%d.layer_output_norm"),
    {"bert.pooler.dense.weight", "cls.weight", "hidden,hidden", SY_ROLE_FC, SY_TENSOR_OPTIONAL | SY_TENSOR_LINEAR, NULL},
    {"bert.pooler.dense.bias", "cls.bias", "hidden", SY_ROLE_BIAS, SY_TENSOR_OPTIONAL, NULL},
    {"classifier.weight", "cls.output.weight", "labels,hidden", SY_ROLE_HEAD, SY_TENSOR_OPTIONAL | SY_TENSOR_LINEAR, NULL},
    {"classifier.bias", "cls.output.bias", "labels", SY_ROLE_BIAS, SY_TENSOR_OPTIONAL, NULL},
    {NULL, NULL, NULL, SY_ROLE_NONE, 0, NULL},
};

static sy_status check(sy_context *ctx, void *values, const void *config_json)
{
    ((syi_encoder_config *)values)->layout = &layout;
    return syi_encoder_check(ctx, values, config_json);
}

static const char *const model_types[] = {"bert", NULL};
static const char *const architectures[] = {"BertForSequenceClassification", "BertModel", NULL};
static const char *const gguf_archs[] = {"bert", NULL};

const sy_arch sy_arch_bert = {
    .name = "bert",
    .model_types = model_types,
    .architectures = architectures,
    .prefix = "bert.",
    .gguf_arch = "bert",
    .gguf_archs = gguf_archs,
    .config = config,
    .config_size = sizeof(syi_encoder_config),
    .tensors = tensors,
    .edges = syi_encoder_edges,
    .input = SY_INPUT_TOKENS,
    .head = SY_HEAD_CLASS,
    .check = check,
    .build = syi_encoder_build,
    .states = syi_encoder_states,
};
