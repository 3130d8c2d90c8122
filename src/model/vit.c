/* SPDX-License-Identifier: Apache-2.0 */
/* ViT (Dosovitskiy and others, 2021): an image as patches behind a class token, whose last
 * state is classified. */
#include "model/encoder.h"

#define BLOCK "vit.encoder.layer.%d."

#define VIT_LINEAR(name, out, in, role) \
    {BLOCK name ".weight", NULL, out "," in, role, SY_TENSOR_LINEAR, NULL}, {BLOCK name ".bias", NULL, out, SY_ROLE_BIAS, 0, NULL}
#define VIT_NORM(name) {name ".weight", NULL, "hidden", SY_ROLE_NORM, 0, NULL}, {name ".bias", NULL, "hidden", SY_ROLE_BIAS, 0, NULL}

static const syi_encoder_layout layout = {
    .attention_norm = BLOCK "layernorm_before", .ffn_norm = BLOCK "layernorm_after", .last_norm = "vit.layernorm",
    .class_token = "vit.embeddings.cls_token", .image_positions = "vit.embeddings.position_embeddings",
    .patches = "vit.embeddings.patch_embeddings.projection",
};

static const sy_arch_config config[] = {
    SYI_ENCODER_CONFIG,
    {"image_size", "image_size", NULL, SY_OPT_INT, SYI_ENC(image), "224"},
    {"channels", "num_channels", NULL, SY_OPT_INT, SYI_ENC(channels), "3"},
    {"patch", "patch_size", NULL, SY_OPT_INT, SYI_ENC(patch), "16"},
    {"tokens", "", NULL, SY_OPT_INT, SYI_ENC(tokens), "0"},
    {NULL, NULL, NULL, SY_OPT_INT, 0, NULL},
};

static const sy_arch_tensor tensors[] = {
    {"vit.embeddings.cls_token", NULL, "1,1,hidden", SY_ROLE_NONE, 0, NULL},
    {"vit.embeddings.position_embeddings", NULL, "1,tokens,hidden", SY_ROLE_NONE, 0, NULL},
    {"vit.embeddings.patch_embeddings.projection.weight", NULL, "hidden,channels,patch,patch", SY_ROLE_CONV, SY_TENSOR_LINEAR, NULL},
    {"vit.embeddings.patch_embeddings.projection.bias", NULL, "hidden", SY_ROLE_BIAS, 0, NULL},
    VIT_LINEAR("attention.attention.query", "hidden", "hidden", SY_ROLE_Q),
    VIT_LINEAR("attention.attention.key", "hidden", "hidden", SY_ROLE_K),
    VIT_LINEAR("attention.attention.value", "hidden", "hidden", SY_ROLE_V),
    VIT_LINEAR("attention.output.dense", "hidden", "hidden", SY_ROLE_O),
    VIT_LINEAR("intermediate.dense", "ffn", "hidden", SY_ROLE_UP),
    VIT_LINEAR("output.dense", "hidden", "ffn", SY_ROLE_DOWN),
    VIT_NORM(BLOCK "layernorm_before"),
    VIT_NORM(BLOCK "layernorm_after"),
    VIT_NORM("vit.layernorm"),
    {"classifier.weight", NULL, "labels,hidden", SY_ROLE_HEAD, SY_TENSOR_LINEAR, NULL},
    {"classifier.bias", NULL, "labels", SY_ROLE_BIAS, 0, NULL},
    {NULL, NULL, NULL, SY_ROLE_NONE, 0, NULL},
};

static sy_status check(sy_context *ctx, void *values, const void *config_json)
{
    ((syi_encoder_config *)values)->layout = &layout;
    return syi_encoder_check(ctx, values, config_json);
}

static const char *const model_types[] = {"vit", NULL};
static const char *const architectures[] = {"ViTForImageClassification", NULL};
static const char *const gguf_archs[] = {NULL};

const sy_arch sy_arch_vit = {
    .name = "vit",
    .model_types = model_types,
    .architectures = architectures,
    .prefix = "vit.",
    .gguf_archs = gguf_archs,
    .config = config,
    .config_size = sizeof(syi_encoder_config),
    .tensors = tensors,
    .edges = syi_encoder_edges,
    .input = SY_INPUT_IMAGES,
    .head = SY_HEAD_CLASS,
    .check = check,
    .build = syi_encoder_build,
    .states = syi_encoder_states,
};
