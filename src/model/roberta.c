/* SPDX-License-Identifier: Apache-2.0 */
/* RoBERTa: BERT whose positions begin at 2 and whose head has a layer of its own. */
#include "model/encoder.h"

#define BLOCK "roberta.encoder.layer.%d."

static const syi_encoder_layout layout = {
    .attention_post_norm = BLOCK "attention.output.LayerNorm", .ffn_post_norm = BLOCK "output.LayerNorm", .first_norm = "roberta.embeddings.LayerNorm",
    .words = "roberta.embeddings.word_embeddings", .positions = "roberta.embeddings.position_embeddings", .types = "roberta.embeddings.token_type_embeddings",
    .first_position = 2, .pooler = "classifier.dense",
};

static const sy_arch_config config[] = {
    SYI_ENCODER_CONFIG,
    {"vocab", "vocab_size", "%s.vocab_size", SY_OPT_INT, SYI_ENC(vocab), NULL},
    {"positions", "max_position_embeddings", NULL, SY_OPT_INT, SYI_ENC(positions), "512"},
    {"context", "", "%s.context_length", SY_OPT_INT, SYI_ENC(context), "0"},
    {"first_position", "", NULL, SY_OPT_INT, SYI_ENC(first_position), "0"},
    {"types", "type_vocab_size", "tokenizer.ggml.token_type_count", SY_OPT_INT, SYI_ENC(types), "2"},
    {NULL, NULL, NULL, SY_OPT_INT, 0, NULL},
};

static const sy_arch_tensor tensors[] = {
    {"roberta.embeddings.word_embeddings.weight", "token_embd.weight", "vocab,hidden", SY_ROLE_EMBED, SY_TENSOR_EMBED, NULL},
    {"roberta.embeddings.position_embeddings.weight", "position_embd.weight", "positions,hidden", SY_ROLE_POSITION, SY_TENSOR_EMBED, NULL},
    {"roberta.embeddings.token_type_embeddings.weight", "token_types.weight", "types,hidden", SY_ROLE_NONE, SY_TENSOR_EMBED, NULL},
    {"roberta.embeddings.position_ids", NULL, "1", SY_ROLE_NONE, SY_TENSOR_COUNTER, NULL},
    SYI_ENCODER_NORM("roberta.embeddings.LayerNorm", "token_embd_norm"),
    SYI_ENCODER_LINEAR(BLOCK "attention.self.query", "blk.%d.attn_q", "hidden", "hidden", SY_ROLE_Q),
    SYI_ENCODER_LINEAR(BLOCK "attention.self.key", "blk.%d.attn_k", "hidden", "hidden", SY_ROLE_K),
    SYI_ENCODER_LINEAR(BLOCK "attention.self.value", "blk.%d.attn_v", "hidden", "hidden", SY_ROLE_V),
    SYI_ENCODER_LINEAR(BLOCK "attention.output.dense", "blk.%d.attn_output", "hidden", "hidden", SY_ROLE_O),
    SYI_ENCODER_NORM(BLOCK "attention.output.LayerNorm", "blk.%d.attn_output_norm"),
    SYI_ENCODER_LINEAR(BLOCK "intermediate.dense", "blk.%d.ffn_up", "ffn", "hidden", SY_ROLE_UP),
    SYI_ENCODER_LINEAR(BLOCK "output.dense", "blk.%d.ffn_down", "hidden", "ffn", SY_ROLE_DOWN),
    SYI_ENCODER_NORM(BLOCK "output.LayerNorm", "blk.%d.layer_output_norm"),
    {"classifier.dense.weight", "cls.weight", "hidden,hidden", SY_ROLE_FC, SY_TENSOR_OPTIONAL | SY_TENSOR_LINEAR, NULL},
    {"classifier.dense.bias", "cls.bias", "hidden", SY_ROLE_BIAS, SY_TENSOR_OPTIONAL, NULL},
    {"classifier.out_proj.weight", "cls.output.weight", "labels,hidden", SY_ROLE_HEAD, SY_TENSOR_OPTIONAL | SY_TENSOR_LINEAR, NULL},
    {"classifier.out_proj.bias", "cls.output.bias", "labels", SY_ROLE_BIAS, SY_TENSOR_OPTIONAL, NULL},
    {"roberta.pooler.dense.weight", NULL, "hidden,hidden", SY_ROLE_NONE, SY_TENSOR_COUNTER, NULL},
    {"roberta.pooler.dense.bias", NULL, "hidden", SY_ROLE_NONE, SY_TENSOR_COUNTER, NULL},
    {NULL, NULL, NULL, SY_ROLE_NONE, 0, NULL},
};

static sy_status check(sy_context *ctx, void *values, const void *config_json)
{
    ((syi_encoder_config *)values)->layout = &layout;
    return syi_encoder_check(ctx, values, config_json);
}

static const char *const model_types[] = {"roberta", "xlm-roberta", NULL};
static const char *const architectures[] = {"RobertaForSequenceClassification", "RobertaModel", NULL};
static const char *const gguf_archs[] = {NULL}; /* GGUF has it as a bert whose positions begin at 0, and so it is read */

const sy_arch sy_arch_roberta = {
    .name = "roberta",
    .model_types = model_types,
    .architectures = architectures,
    .prefix = "roberta.",
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
