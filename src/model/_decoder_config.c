/* SPDX-License-Identifier: Apache-2.0 */
/* What the decoder architectures check about a config, and their topology. */
#include "model/decoder_rows.h"

#include "base/base.h"

#include <jansson.h>
#include <math.h>

const sy_arch_edge syi_decoder_edges[] = {
    {SY_ROLE_NORM, SY_ROLE_Q, 0, true},    {SY_ROLE_NORM, SY_ROLE_K, 0, true},  {SY_ROLE_NORM, SY_ROLE_V, 0, true},
    {SY_ROLE_NORM, SY_ROLE_GATE, 0, true}, {SY_ROLE_NORM, SY_ROLE_UP, 0, true}, {SY_ROLE_UP, SY_ROLE_DOWN, 0, true},
    {SY_ROLE_V, SY_ROLE_O, 1, true},       {SY_ROLE_NORM, SY_ROLE_HEAD, 0, false}, {SY_ROLE_NONE, SY_ROLE_NONE, 0, false},
};

#define ATTN SYI_BLOCK "self_attn."
/* Rows for biases too: an architecture without that tensor has no such row. */
const sy_arch_perm syi_decoder_perms[] = {
    {"FF", SYI_BLOCK "mlp.gate_proj.weight", NULL, 0, "1", NULL},
    {"FF", SYI_BLOCK "mlp.gate_proj.bias", NULL, 0, "1", NULL},
    {"FF", SYI_BLOCK "mlp.up_proj.weight", NULL, 0, "1", NULL},
    {"FF", SYI_BLOCK "mlp.up_proj.bias", NULL, 0, "1", NULL},
    {"FF", SYI_BLOCK "mlp.down_proj.weight", NULL, 1, "1", NULL},
    {"KV", ATTN "k_proj.weight", NULL, 0, "head_dim", NULL},
    {"KV", ATTN "k_proj.bias", NULL, 0, "head_dim", NULL},
    {"KV", ATTN "v_proj.weight", NULL, 0, "head_dim", NULL},
    {"KV", ATTN "v_proj.bias", NULL, 0, "head_dim", NULL},
    {"KV", ATTN "q_proj.weight", NULL, 0, "query_heads*head_dim", NULL},
    {"KV", ATTN "q_proj.bias", NULL, 0, "query_heads*head_dim", NULL},
    {"KV", ATTN "o_proj.weight", NULL, 1, "query_heads*head_dim", NULL},
    {"QG", ATTN "q_proj.weight", "KV", 0, "head_dim", NULL},
    {"QG", ATTN "q_proj.bias", "KV", 0, "head_dim", NULL},
    {"QG", ATTN "o_proj.weight", "KV", 1, "head_dim", NULL},
    {"VO", ATTN "v_proj.weight", "KV", 0, "1", NULL},
    {"VO", ATTN "v_proj.bias", "KV", 0, "1", NULL},
    {"VO", ATTN "o_proj.weight", "KV", 1, "1", NULL},
    {"RES", "model.embed_tokens.weight", NULL, 1, "1", NULL},
    {"RES", SYI_BLOCK "input_layernorm.weight", NULL, 0, "1", NULL},
    {"RES", ATTN "q_proj.weight", NULL, 1, "1", NULL},
    {"RES", ATTN "k_proj.weight", NULL, 1, "1", NULL},
    {"RES", ATTN "v_proj.weight", NULL, 1, "1", NULL},
    {"RES", ATTN "o_proj.weight", NULL, 0, "1", NULL},
    {"RES", ATTN "o_proj.bias", NULL, 0, "1", NULL},
    {"RES", SYI_BLOCK "post_attention_layernorm.weight", NULL, 0, "1", NULL},
    {"RES", SYI_BLOCK "mlp.gate_proj.weight", NULL, 1, "1", NULL},
    {"RES", SYI_BLOCK "mlp.up_proj.weight", NULL, 1, "1", NULL},
    {"RES", SYI_BLOCK "mlp.down_proj.weight", NULL, 0, "1", NULL},
    {"RES", SYI_BLOCK "mlp.down_proj.bias", NULL, 0, "1", NULL},
    {"RES", "model.norm.weight", NULL, 0, "1", NULL},
    {"RES", "lm_head.weight", NULL, 1, "1", NULL},
    {NULL, NULL, NULL, 0, NULL, NULL},
};

static sy_status check_range(sy_context *ctx, const char *key, int64_t value, int64_t low, int64_t high)
{
    if (value >= low && value <= high) return SY_OK;
    return syi_fail(ctx, SY_E_INPUT, "config: %s is %lld; expected %lld to %lld", key, (long long)value, (long long)low, (long long)high);
}

static sy_status check_rope(sy_context *ctx, const syi_decoder_config *c)
{
    if (!isfinite(c->rope_theta) || c->rope_theta <= 1)
        return syi_fail(ctx, SY_E_INPUT, "config: rope_theta is %g; a number above 1 was expected", c->rope_theta);
    if (strcmp(c->rope_type, "default") == 0) return SY_OK;
    const bool llama3 = strcmp(c->rope_type, "llama3") == 0;
    if (!llama3 && strcmp(c->rope_type, "linear") != 0)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "config: rope type \"%s\" is not supported; default, linear and llama3 are", c->rope_type);
    if (!isfinite(c->rope_factor) || c->rope_factor < 1)
        return syi_fail(ctx, SY_E_INPUT, "config: the rope factor is %g; a number from 1 on was expected", c->rope_factor);
    if (!llama3) return SY_OK;
    if (!isfinite(c->rope_high_freq) || c->rope_low_freq <= 0 || c->rope_high_freq <= c->rope_low_freq)
        return syi_fail(ctx, SY_E_INPUT, "config: low_freq_factor %g and high_freq_factor %g: 0 < low < high was expected", c->rope_low_freq,
                        c->rope_high_freq);
    return check_range(ctx, "original_max_position_embeddings", c->rope_original_context, 1, INT64_C(1) << 40);
}

/* Things that would change the numbers and that the graph does not have. */
static sy_status check_foreign(sy_context *ctx, const json_t *j)
{
    const json_t *q = json_object_get(j, "quantization_config");
    if (json_is_object(q)) {
        const char *method = json_string_value(json_object_get(q, "quant_method"));
        return syi_fail(ctx, SY_E_UNSUPPORTED, "config: the checkpoint is quantised (quantization_config: %s), which is not read yet",
                        method != NULL ? method : "unknown method");
    }
    const json_t *part = json_object_get(j, "partial_rotary_factor");
    if (part == NULL) part = json_object_get(json_object_get(j, "rope_parameters"), "partial_rotary_factor");
    if (json_is_number(part) && json_number_value(part) != 1.0)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "config: partial_rotary_factor %g is not supported", json_number_value(part));
    return SY_OK;
}

sy_status syi_decoder_check(sy_context *ctx, void *config, const void *config_json)
{
    syi_decoder_config *c = config;
    SYI_TRY(check_range(ctx, "hidden_size", c->hidden, 1, 1 << 20));
    SYI_TRY(check_range(ctx, "num_hidden_layers", c->layers, 0, 4096));
    SYI_TRY(check_range(ctx, "num_attention_heads", c->heads, 1, 1 << 16));
    SYI_TRY(check_range(ctx, "num_key_value_heads", c->kv_heads, 1, c->heads));
    SYI_TRY(check_range(ctx, "intermediate_size", c->ffn, 1, 1 << 24));
    SYI_TRY(check_range(ctx, "vocab_size", c->vocab, 1, INT32_MAX));
    SYI_TRY(check_range(ctx, "max_position_embeddings", c->context, 1, INT32_MAX));
    if (c->heads % c->kv_heads != 0)
        return syi_fail(ctx, SY_E_INPUT, "config: %lld attention heads cannot share %lld key/value heads evenly", (long long)c->heads,
                        (long long)c->kv_heads);
    if (c->head_dim == 0) {
        if (c->hidden % c->heads != 0)
            return syi_fail(ctx, SY_E_INPUT, "config: hidden_size %lld is not a multiple of %lld heads, and there is no head_dim",
                            (long long)c->hidden, (long long)c->heads);
        c->head_dim = c->hidden / c->heads;
    }
    SYI_TRY(check_range(ctx, "head_dim", c->head_dim, 2, 1 << 16));
    if (c->head_dim % 2 != 0)
        return syi_fail(ctx, SY_E_INPUT, "config: head_dim %lld is odd; rotary positions turn pairs", (long long)c->head_dim);
    c->query_heads = c->heads / c->kv_heads;
    if (!isfinite(c->norm_eps) || c->norm_eps < 0 || c->norm_eps >= 1)
        return syi_fail(ctx, SY_E_INPUT, "config: rms_norm_eps is %g; a number from 0 to 1 was expected", c->norm_eps);
    if (strcmp(c->act, "silu") != 0 && strcmp(c->act, "swish") != 0)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "config: hidden_act \"%s\" is not supported; silu is", c->act);
    if (!c->use_sliding_window) c->sliding_window = 0;
    SYI_TRY(check_range(ctx, "sliding_window", c->sliding_window, 0, INT64_MAX));
    SYI_TRY(check_rope(ctx, c));
    return check_foreign(ctx, config_json);
}
