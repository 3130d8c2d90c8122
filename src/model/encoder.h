/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder transformer that bert, roberta and vit share: blocks of attention in both
 * directions and a feed-forward layer, layer norms before (vit) or behind (bert). An
 * architecture file says its rows, its layout and how tokens begin. Internal. */
#ifndef SYI_ENCODER_H
#define SYI_ENCODER_H

#include "steelyard/model.h"

#include <stddef.h>

/* Modules by name; NULL: there is none. */
typedef struct {
    const char *attention_norm, *attention_post_norm, *ffn_norm, *ffn_post_norm, *first_norm, *last_norm;
    const char *words, *positions, *types;  /* tables                                       */
    int64_t first_position;                 /* of the table's row for position 0 (RoBERTa: 2) */
    const char *pooler;                     /* a layer with tanh between the first token and the head */
    const char *class_token, *image_positions, *patches; /* images                           */
} syi_encoder_layout;

typedef struct {
    int64_t hidden, layers, heads, head_dim, ffn, vocab, positions, context, types, labels;
    int64_t first_position;      /* derived: the layout's                                     */
    int64_t image, channels, patch, tokens; /* tokens: an image's, the class token too        */
    double norm_eps;
    char *act;
    const syi_encoder_layout *layout;
} syi_encoder_config;

#define SYI_ENC(field) offsetof(syi_encoder_config, field)
#define SYI_ENCODER_CONFIG                                                                                            \
    {"hidden", "hidden_size", "%s.embedding_length", SY_OPT_INT, SYI_ENC(hidden), NULL},                              \
    {"layers", "num_hidden_layers", "%s.block_count", SY_OPT_INT, SYI_ENC(layers), NULL},                             \
    {"heads", "num_attention_heads", "%s.attention.head_count", SY_OPT_INT, SYI_ENC(heads), NULL},                    \
    {"head_dim", "", NULL, SY_OPT_INT, SYI_ENC(head_dim), "0"},                                                       \
    {"ffn", "intermediate_size", "%s.feed_forward_length", SY_OPT_INT, SYI_ENC(ffn), NULL},                           \
    {"norm_eps", "layer_norm_eps", "%s.attention.layer_norm_epsilon", SY_OPT_FLOAT, SYI_ENC(norm_eps), "1e-12"},      \
    {"act", "hidden_act", NULL, SY_OPT_STRING, SYI_ENC(act), "gelu"},                                                 \
    {"labels", "num_labels", NULL, SY_OPT_INT, SYI_ENC(labels), "0"}

/* A layer with its bias: "%d" in the name is the block. */
#define SYI_ENCODER_LINEAR(name, gguf, out, in, role)                                                                 \
    {name ".weight", gguf ".weight", out "," in, role, SY_TENSOR_LINEAR, NULL},                                       \
    {name ".bias", gguf ".bias", out, SY_ROLE_BIAS, 0, NULL}
#define SYI_ENCODER_NORM(name, gguf)                                                                                  \
    {name ".weight", gguf ".weight", "hidden", SY_ROLE_NORM, 0, NULL},                                                \
    {name ".bias", gguf ".bias", "hidden", SY_ROLE_BIAS, 0, NULL}

/* States of all tokens; what the head reads: [rows, hidden]. */
sy_node *syi_encoder_states(sy_graph *g, sy_model *m, const sy_batch *batch);
sy_node *syi_encoder_build(sy_graph *g, sy_model *m, const sy_batch *batch);
sy_status syi_encoder_check(sy_context *ctx, void *config, const void *config_json);
extern const sy_arch_edge syi_encoder_edges[];

#endif
