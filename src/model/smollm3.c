/* SPDX-License-Identifier: Apache-2.0 */
/* SmolLM3: Llama's shape; every fourth layer does not rotate q and k. */
#include "model/decoder_rows.h"

#include "base/base.h"

static const sy_arch_config config[] = {
    SYI_DECODER_SIZES,
    SYI_CONFIG_ROPE,
    SYI_CONFIG_TIED("true"),
    SYI_CONFIG_ACT("hidden_act", "silu"),
    SYI_CONFIG_HEAD_DIM("0"),
    SYI_CONFIG_CONTEXT("32768"),
    SYI_CONFIG_FLAG(qkv_bias, "attention_bias", "false"),
    SYI_CONFIG_FLAG(o_bias, "attention_bias", "false"),
    SYI_CONFIG_FLAG(mlp_bias, "mlp_bias", "false"),
    SYI_CONFIG_WINDOW("0"),
    SYI_CONFIG_FLAG(use_sliding_window, "use_sliding_window", "false"),
    {"no_rope_every", "no_rope_layer_interval", NULL, SY_OPT_INT, SYI_FIELD(no_rope_every), "4"},
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

static sy_status to_gguf(sy_context *ctx, void *values)
{
    const syi_decoder_config *c = values;
    SYI_TRY(syi_decoder_gguf_act(ctx, c, "silu", "smollm3"));
    syi_decoder_gguf_no_window(ctx, c, "smollm3");
    for (int64_t i = 0; i < c->layers; i++)
        if (((c->layer[i] & SYI_LAYER_NO_ROPE) != 0) != ((i + 1) % 4 == 0))
            return syi_fail(ctx, SY_E_UNSUPPORTED, "config: no_rope_layers: layer %lld; GGUF's smollm3 architecture leaves every fourth layer without rotation, and no other. Keep the model as a folder",
                            (long long)i);
    return SY_OK;
}

static const char *const model_types[] = {"smollm3", NULL};
static const char *const architectures[] = {"SmolLM3ForCausalLM", NULL};
static const char *const gguf_archs[] = {"smollm3", NULL};

const sy_arch sy_arch_smollm3 = {
    .name = "smollm3",
    .model_types = model_types,
    .architectures = architectures,
    .gguf_arch = "smollm3",
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
    .to_gguf = to_gguf,
};
