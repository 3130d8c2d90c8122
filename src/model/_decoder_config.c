/* SPDX-License-Identifier: Apache-2.0 */
/* What the decoder architectures check about a config, and their topology. */
#include "model/decoder_rows.h"

#include "base/base.h"
#include "tensor/kernels.h"

#include <jansson.h>
#include <math.h>

const sy_arch_edge syi_decoder_edges[] = {
    {SY_ROLE_NORM, SY_ROLE_Q, 0, true},    {SY_ROLE_NORM, SY_ROLE_K, 0, true},  {SY_ROLE_NORM, SY_ROLE_V, 0, true},
    {SY_ROLE_NORM, SY_ROLE_GATE, 0, true}, {SY_ROLE_NORM, SY_ROLE_UP, 0, true}, {SY_ROLE_UP, SY_ROLE_DOWN, 0, true},
    {SY_ROLE_V, SY_ROLE_O, 1, true},       {SY_ROLE_NORM, SY_ROLE_HEAD, 0, false}, {SY_ROLE_NONE, SY_ROLE_NONE, 0, false},
};

const sy_arch_perm syi_decoder_perms[] = {
    SYI_DECODER_PERMS,
    {NULL, NULL, NULL, 0, NULL, NULL},
};

static sy_status check_range(sy_context *ctx, const char *key, int64_t value, int64_t low, int64_t high)
{
    if (value >= low && value <= high) return SY_OK;
    return syi_fail(ctx, SY_E_INPUT, "config: %s is %lld; expected %lld to %lld", key, (long long)value, (long long)low, (long long)high);
}

static bool is_longrope(const syi_decoder_config *c) { return strcmp(c->rope_type, "longrope") == 0 || strcmp(c->rope_type, "su") == 0; }

/* The divisors of LongRoPE, one a frequency, and the factor of its cosines and sines. */
static sy_status check_longrope(sy_context *ctx, syi_decoder_config *c, const json_t *j)
{
    static const char *const keys[] = {"short_factor", "long_factor"};
    for (int k = 0; k < 2; k++) {
        const json_t *list = json_object_get(json_object_get(j, "rope_parameters"), keys[k]), *v;
        if (list == NULL) list = json_object_get(json_object_get(j, "rope_scaling"), keys[k]);
        float *out = k == 0 ? c->rope_short : c->rope_long;
        size_t i;
        if (!json_is_array(list) || (int64_t)json_array_size(list) != c->head_dim / 2 || c->head_dim / 2 > SYI_COUNT(c->rope_short))
            return syi_fail(ctx, SY_E_INPUT, "config: longrope needs %s, a list of %lld numbers", keys[k], (long long)c->head_dim / 2);
        json_array_foreach((json_t *)list, i, v) {
            out[i] = (float)json_number_value(v);
            if (!json_is_number(v) || !(out[i] > 0) || !isfinite(out[i])) return syi_fail(ctx, SY_E_INPUT, "config: %s[%d]: a number above 0 was expected", keys[k], (int)i);
        }
        *(k == 0 ? &c->n_short : &c->n_long) = (int)json_array_size(list);
    }
    SYI_TRY(check_range(ctx, "original_max_position_embeddings", c->rope_original_context, 2, INT64_C(1) << 40));
    const double factor = (double)c->context / (double)c->rope_original_context;
    if (c->rope_attention_factor <= 0) c->rope_attention_factor = factor > 1 ? sqrt(1 + log(factor) / log((double)c->rope_original_context)) : 1;
    return SY_OK;
}

static sy_status check_rope(sy_context *ctx, syi_decoder_config *c, const json_t *j)
{
    if (!isfinite(c->rope_theta) || c->rope_theta <= 1)
        return syi_fail(ctx, SY_E_INPUT, "config: rope_theta is %g; a number above 1 was expected", c->rope_theta);
    if (c->rope_local_theta != 0 && (!isfinite(c->rope_local_theta) || c->rope_local_theta <= 1))
        return syi_fail(ctx, SY_E_INPUT, "config: the rope_theta of local layers is %g; a number above 1 was expected", c->rope_local_theta);
    if (c->head_dim % 2 != 0)
        return syi_fail(ctx, SY_E_INPUT, "config: head_dim %lld is odd; rotary positions turn pairs", (long long)c->head_dim);
    if (strcmp(c->rope_type, "default") == 0) return SY_OK;
    if (is_longrope(c)) return check_longrope(ctx, c, j);
    const bool llama3 = strcmp(c->rope_type, "llama3") == 0;
    if (!llama3 && strcmp(c->rope_type, "linear") != 0)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "config: rope type \"%s\" is not supported; default, linear, llama3 and longrope are", c->rope_type);
    if (!isfinite(c->rope_factor) || c->rope_factor < 1)
        return syi_fail(ctx, SY_E_INPUT, "config: the rope factor is %g; a number from 1 on was expected", c->rope_factor);
    if (!llama3) return SY_OK;
    if (!isfinite(c->rope_high_freq) || c->rope_low_freq <= 0 || c->rope_high_freq <= c->rope_low_freq)
        return syi_fail(ctx, SY_E_INPUT, "config: low_freq_factor %g and high_freq_factor %g: 0 < low < high was expected", c->rope_low_freq,
                        c->rope_high_freq);
    return check_range(ctx, "original_max_position_embeddings", c->rope_original_context, 1, INT64_C(1) << 40);
}

/* What is different from layer to layer: windows, rotation. */
static sy_status check_layers(sy_context *ctx, syi_decoder_config *c, const json_t *j)
{
    const json_t *types = json_object_get(j, "layer_types"), *rope = json_object_get(j, "no_rope_layers");
    if (!c->use_sliding_window) c->sliding_window = 0;
    SYI_TRY(check_range(ctx, "sliding_window", c->sliding_window, 0, INT64_MAX));
    if (json_is_array(types) && (int64_t)json_array_size(types) != c->layers)
        return syi_fail(ctx, SY_E_INPUT, "config: layer_types has %d entries for %lld layers", (int)json_array_size(types), (long long)c->layers);
    if (json_is_array(rope) && (int64_t)json_array_size(rope) != c->layers)
        return syi_fail(ctx, SY_E_INPUT, "config: no_rope_layers has %d entries for %lld layers", (int)json_array_size(rope), (long long)c->layers);
    for (int64_t i = 0; i < c->layers; i++) {
        bool window = i >= c->full_layers && !(c->sliding_every > 0 && (i + 1) % c->sliding_every == 0);
        bool turned = !(c->no_rope_every > 0 && (i + 1) % c->no_rope_every == 0);
        if (json_is_array(types)) {
            const char *type = json_string_value(json_array_get(types, (size_t)i));
            window = type != NULL && strcmp(type, "sliding_attention") == 0;
            if (!window && (type == NULL || strcmp(type, "full_attention") != 0))
                return syi_fail(ctx, SY_E_UNSUPPORTED, "config: layer_types[%lld] is \"%s\"; full_attention and sliding_attention are supported", (long long)i,
                                type != NULL ? type : "no text");
        }
        if (json_is_array(rope)) turned = json_integer_value(json_array_get(rope, (size_t)i)) != 0;
        c->layer[i] = (uint8_t)((window && c->sliding_window > 0 ? SYI_LAYER_WINDOW : 0) | (turned ? 0 : SYI_LAYER_NO_ROPE)
                                | (window && c->rope_local_theta > 0 ? SYI_LAYER_LOCAL_ROPE : 0));
    }
    return SY_OK;
}

/* Things that would change the numbers and that the graph does not have. */
static sy_status check_foreign(sy_context *ctx, const json_t *j)
{
    const json_t *q = json_object_get(j, "quantization_config");
    if (json_is_object(q)) {
        const char *method = json_string_value(json_object_get(q, "quant_method"));
        if (method == NULL || strcmp(method, "steelyard") != 0) /* ours: the tensors themselves say what they are */
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
    if (c->layout == NULL) c->layout = &syi_decoder_llama_layout;
    SYI_TRY(check_range(ctx, "hidden_size", c->hidden, 1, 1 << 20));
    SYI_TRY(check_range(ctx, "num_hidden_layers", c->layers, 0, SYI_DECODER_LAYERS));
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
    c->query_heads = c->heads / c->kv_heads;
    c->k_row = c->heads * c->head_dim;
    c->v_row = c->k_row + c->kv_heads * c->head_dim;
    c->qkv_rows = c->v_row + c->kv_heads * c->head_dim;
    c->gate_up_rows = 2 * c->ffn;
    if (c->query_scale == 0) c->query_scale = (double)c->head_dim;
    if (!isfinite(c->norm_eps) || c->norm_eps < 0 || c->norm_eps >= 1)
        return syi_fail(ctx, SY_E_INPUT, "config: rms_norm_eps is %g; a number from 0 to 1 was expected", c->norm_eps);
    if (!isfinite(c->query_scale) || c->query_scale <= 0 || !(c->attention_cap >= 0) || !isfinite(c->attention_cap) || !(c->logit_cap >= 0) || !isfinite(c->logit_cap))
        return syi_fail(ctx, SY_E_INPUT, "config: query_pre_attn_scalar %g, attn_logit_softcapping %g, final_logit_softcapping %g: positive numbers were expected",
                        c->query_scale, c->attention_cap, c->logit_cap);
    if (syi_act_find(c->act) < 0) return syi_fail(ctx, SY_E_UNSUPPORTED, "config: hidden_act \"%s\" is not supported; silu, gelu and its approximations, relu are", c->act);
    SYI_TRY(check_layers(ctx, c, config_json));
    if (c->layout->positions == NULL) SYI_TRY(check_rope(ctx, c, config_json));
    return check_foreign(ctx, config_json);
}

/* -- rotation -------------------------------------------------------------------------------- */

int syi_decoder_rope_of(const syi_decoder_config *c, int block, int64_t positions)
{
    if (c->layout->positions != NULL || (c->layer[block] & SYI_LAYER_NO_ROPE)) return -1;
    if (c->layer[block] & SYI_LAYER_LOCAL_ROPE) return SYI_ROPE_LOCAL;
    return c->n_long > 0 && positions > c->rope_original_context ? SYI_ROPE_LONG : SYI_ROPE_MAIN;
}

/* Inverse frequencies as Hugging Face computes them: in f32, so that positions in the
 * thousands turn by the same angles there and here. */
bool syi_decoder_rope(const syi_decoder_config *c, int table, float *inverse, float *factor)
{
    const bool local = table == SYI_ROPE_LOCAL, longer = c->n_long > 0;
    if (c->layout->positions != NULL || (local && !(c->rope_local_theta > 0)) || (table == SYI_ROPE_LONG && !longer)) return false;
    const bool llama3 = !local && strcmp(c->rope_type, "llama3") == 0, linear = !local && strcmp(c->rope_type, "linear") == 0;
    *factor = longer ? (float)c->rope_attention_factor : 1;
    for (int64_t i = 0; i < c->head_dim / 2; i++) {
        const double theta = local ? c->rope_local_theta : c->rope_theta;
        float f = (float)pow((double)(float)theta, (double)((float)(2 * i) / (float)c->head_dim));
        if (longer && !local) f *= table == SYI_ROPE_LONG ? c->rope_long[i] : c->rope_short[i];
        f = 1.0f / f;
        if (linear) f = f / (float)c->rope_factor;
        if (llama3) { /* Llama 3.1: long wavelengths are slowed down by `factor`, smoothly in between */
            double original = (double)c->rope_original_context, wavelength = 2 * 3.14159265358979323846 / f;
            double low = original / c->rope_low_freq, high = original / c->rope_high_freq;
            if (wavelength > low) f = (float)(f / c->rope_factor);
            else if (wavelength >= high) {
                double smooth = (original / wavelength - c->rope_low_freq) / (c->rope_high_freq - c->rope_low_freq);
                f = (float)((1 - smooth) * f / c->rope_factor + smooth * f);
            }
        }
        inverse[i] = f;
    }
    return true;
}
