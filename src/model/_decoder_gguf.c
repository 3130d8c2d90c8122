/* SPDX-License-Identifier: Apache-2.0 */
/* What the runtimes of GGUF (llama.cpp and its relatives) take for granted about decoders:
 * a config that says otherwise is refused when it is written, rather than run wrongly. */
#include "model/decoder.h"

#include "base/base.h"
#include "tensor/kernels.h"

#include <jansson.h>

sy_status syi_decoder_gguf_act(sy_context *ctx, const syi_decoder_config *c, const char *act, const char *arch)
{
    if (syi_act_find(c->act) == syi_act_find(act)) return SY_OK; /* by whatever name */
    return syi_fail(ctx, SY_E_UNSUPPORTED, "config: the activation is \"%s\"; GGUF's %s architecture always has %s. Keep the model as a folder", c->act, arch, act);
}

static bool has_window(const syi_decoder_config *c, int64_t layer) { return (c->layer[layer] & SYI_LAYER_WINDOW) != 0; }

void syi_decoder_gguf_no_window(sy_context *ctx, const syi_decoder_config *c, const char *arch)
{
    int64_t n = 0;
    for (int64_t i = 0; i < c->layers; i++) n += has_window(c, i);
    if (n > 0)
        syi_log(ctx, SY_LOG_WARN, "%lld of %lld layers see the last %lld tokens only; llama.cpp gives GGUF's %s architecture no window: texts longer than that will differ there",
                (long long)n, (long long)c->layers, (long long)c->sliding_window, arch);
}

int64_t syi_decoder_window_period(const syi_decoder_config *c)
{
    for (int64_t p = 1; p <= c->layers + 1; p++) {
        int64_t i = 0;
        while (i < c->layers && has_window(c, i) == ((i + 1) % p != 0)) i++;
        if (i == c->layers) return p;
    }
    return 0;
}

sy_status syi_decoder_to_gguf(sy_context *ctx, void *config)
{
    SYI_TRY(syi_decoder_gguf_act(ctx, config, "silu", "llama"));
    syi_decoder_gguf_no_window(ctx, config, "llama");
    return SY_OK;
}

/* Gemma's scale of scores is in no key: it follows from the other sizes, and by the number of
 * layers from other ones in the largest model of the family. */
static int64_t gemma_scale(int64_t layers, int64_t largest, int64_t hidden, int64_t heads, int64_t head_dim)
{
    return layers == largest && heads > 0 ? hidden / heads : head_dim;
}

sy_status syi_gemma_from_gguf(sy_context *ctx, json_t *j, int64_t largest)
{
    const char *const keys[] = {"num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim"};
    int64_t v[4];
    for (int i = 0; i < 4; i++) v[i] = json_integer_value(json_object_get(j, keys[i]));
    if (v[2] < 1 || v[3] < 1) return SY_OK; /* missing: the rows say so */
    return json_object_set_new(j, "query_pre_attn_scalar", json_integer(gemma_scale(v[0], largest, v[1], v[2], v[3]))) == 0 ? SY_OK : syi_nomem(ctx, 0);
}

sy_status syi_gemma_gguf_scale(sy_context *ctx, const syi_decoder_config *c, int64_t largest)
{
    const double want = (double)gemma_scale(c->layers, largest, c->hidden, c->heads, c->head_dim);
    if (c->query_scale == want) return SY_OK;
    return syi_fail(ctx, SY_E_UNSUPPORTED, "config: query_pre_attn_scalar is %g; GGUF has no key for it, and a model of this size is run with %g. Keep the model as a folder",
                    c->query_scale, want);
}
