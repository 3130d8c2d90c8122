/* SPDX-License-Identifier: Apache-2.0 */
/* Llama (1 to 3.2) and what was trained in its shape: SmolLM, SmolLM2, TinyLlama,
 * Yi and many more. GGUF keeps rows of q and k in another order, see io.h. */
#include "model/decoder_rows.h"

static const sy_arch_config config[] = {
    SYI_DECODER_CONFIG,
    SYI_CONFIG_HEAD_DIM("0"),
    SYI_CONFIG_CONTEXT("2048"),
    SYI_CONFIG_FLAG(qkv_bias, "attention_bias", "false"),
    SYI_CONFIG_FLAG(o_bias, "attention_bias", "false"),
    SYI_CONFIG_FLAG(mlp_bias, "mlp_bias", "false"),
    SYI_CONFIG_DERIVED,
    {NULL, NULL, NULL, SY_OPT_INT, 0, NULL},
};

static const sy_arch_tensor tensors[] = {
    SYI_DECODER_OUTER,
    SYI_DECODER_ATTENTION(SY_TENSOR_PERMUTE_Q, SY_TENSOR_PERMUTE_K),
    SYI_DECODER_QKV_BIAS(SY_TENSOR_PERMUTE_Q, SY_TENSOR_PERMUTE_K),
    SYI_DECODER_O_BIAS,
    SYI_DECODER_FEED_FORWARD,
    SYI_DECODER_MLP_BIAS,
    {NULL, NULL, NULL, SY_ROLE_NONE, 0, NULL},
};

static const char *const model_types[] = {"llama", NULL};
static const char *const architectures[] = {"LlamaForCausalLM", NULL};
static const char *const gguf_archs[] = {"llama", NULL};

const sy_arch sy_arch_llama = {
    .name = "llama",
    .model_types = model_types,
    .architectures = architectures,
    .gguf_arch = "llama",
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
