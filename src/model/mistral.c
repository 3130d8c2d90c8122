/* SPDX-License-Identifier: Apache-2.0 */
/* Mistral 7B and its family: Llama's shape without biases and with a sliding window
 * (4096 where config.json is silent, none where it says null). GGUF knows it as
 * llama, so GGUF files of it are read by llama.c. */
#include "model/decoder_rows.h"

#include <jansson.h>

static const sy_arch_config config[] = {
    SYI_DECODER_CONFIG,
    SYI_CONFIG_HEAD_DIM("0"),
    SYI_CONFIG_CONTEXT("131072"),
    SYI_CONFIG_WINDOW("0"),
    SYI_CONFIG_FLAG(use_sliding_window, "", "true"),
    SYI_CONFIG_DERIVED,
    {NULL, NULL, NULL, SY_OPT_INT, 0, NULL},
};

static const sy_arch_tensor tensors[] = {
    SYI_DECODER_OUTER,
    SYI_DECODER_ATTENTION(SY_TENSOR_PERMUTE_Q, SY_TENSOR_PERMUTE_K),
    SYI_DECODER_FEED_FORWARD,
    {NULL, NULL, NULL, SY_ROLE_NONE, 0, NULL},
};

static sy_status check(sy_context *ctx, void *values, const void *config_json)
{
    syi_decoder_config *c = values;
    if (json_object_get(config_json, "sliding_window") == NULL) c->sliding_window = 4096;
    return syi_decoder_check(ctx, values, config_json);
}

static const char *const model_types[] = {"mistral", NULL};
static const char *const architectures[] = {"MistralForCausalLM", NULL};
static const char *const gguf_archs[] = {NULL};

const sy_arch sy_arch_mistral = {
    .name = "mistral",
    .model_types = model_types,
    .architectures = architectures,
    .gguf_arch = "llama",
    .gguf_archs = gguf_archs,
    .config = config,
    .config_size = sizeof(syi_decoder_config),
    .tensors = tensors,
    .edges = syi_decoder_edges,
    .perms = syi_decoder_perms,
    .check = check,
    .build = syi_decoder_build,
    .piece = syi_decoder_piece,
    .parts = SYI_DECODER_PARTS,
    .to_gguf = syi_decoder_to_gguf,
};
