/* SPDX-License-Identifier: Apache-2.0 */
/* Qwen2 and Qwen2.5: Llama's shape with biases on q, k and v. */
#include "model/decoder_rows.h"

static const sy_arch_config config[] = {
    SYI_DECODER_CONFIG,
    SYI_CONFIG_HEAD_DIM("0"),
    SYI_CONFIG_CONTEXT("32768"),
    SYI_CONFIG_FLAG(qkv_bias, "", "true"),
    SYI_CONFIG_WINDOW("4096"),
    SYI_CONFIG_FLAG(use_sliding_window, "use_sliding_window", "false"),
    SYI_CONFIG_DERIVED,
    {NULL, NULL, NULL, SY_OPT_INT, 0, NULL},
};

static const sy_arch_tensor tensors[] = {
    SYI_DECODER_OUTER,
    SYI_DECODER_ATTENTION(0, 0),
    SYI_DECODER_QKV_BIAS(0, 0),
    SYI_DECODER_FEED_FORWARD,
    {NULL, NULL, NULL, SY_ROLE_NONE, 0, NULL},
};

static const char *const model_types[] = {"qwen2", NULL};
static const char *const architectures[] = {"Qwen2ForCausalLM", NULL};
static const char *const gguf_archs[] = {"qwen2", NULL};

const sy_arch sy_arch_qwen2 = {
    .name = "qwen2",
    .model_types = model_types,
    .architectures = architectures,
    .gguf_arch = "qwen2",
    .gguf_archs = gguf_archs,
    .config = config,
    .config_size = sizeof(syi_decoder_config),
    .tensors = tensors,
    .edges = syi_decoder_edges,
    .perms = syi_decoder_perms,
    .check = syi_decoder_check,
    .build = syi_decoder_build,
    .piece = syi_decoder_piece,
    .parts = SYI_DECODER_PARTS,
    .to_gguf = syi_decoder_to_gguf,
};
