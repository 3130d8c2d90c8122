/* SPDX-License-Identifier: Apache-2.0 */
/* The forward graph of the encoders, for texts (rows of tokens, padding a document of its
 * own) and for images (patches behind a class token). */
#include "model/encoder.h"

#include "graph/graph.h"
#include "graph/ops.h"
#include "model/model.h"

#include <math.h>

/* A layer norm can be folded into what reads it; v's channels into o's; no scale passes the
 * activation between up and down. */
const sy_arch_edge syi_encoder_edges[] = {{SY_ROLE_V, SY_ROLE_O, 0, true}, {SY_ROLE_NONE, SY_ROLE_NONE, 0, false}};

sy_status syi_encoder_check(sy_context *ctx, void *config, const void *config_json)
{
    syi_encoder_config *c = config;
    const json_t *labels = json_object_get(config_json, "id2label");
    if (c->hidden < 1 || c->hidden > 1 << 20 || c->layers < 0 || c->layers > 4096 || c->heads < 1 || c->ffn < 1 || c->ffn > 1 << 24 || c->hidden % c->heads != 0)
        return syi_fail(ctx, SY_E_INPUT, "config: hidden_size %lld, %lld layers, %lld heads, intermediate_size %lld do not make an encoder", (long long)c->hidden,
                        (long long)c->layers, (long long)c->heads, (long long)c->ffn);
    c->head_dim = c->hidden / c->heads;
    if (!(c->norm_eps >= 0 && c->norm_eps < 1)) return syi_fail(ctx, SY_E_INPUT, "config: layer_norm_eps is %g; a number from 0 to 1 was expected", c->norm_eps);
    if (syi_act_find(c->act) < 0) return syi_fail(ctx, SY_E_UNSUPPORTED, "config: hidden_act \"%s\" is not supported", c->act);
    const json_t *kind = json_object_get(config_json, "position_embedding_type");
    if (json_is_string(kind) && strcmp(json_string_value(kind), "absolute") != 0)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "config: position_embedding_type \"%s\" is not supported; absolute is", json_string_value(kind));
    if (json_is_object(json_object_get(config_json, "quantization_config"))) return syi_fail(ctx, SY_E_UNSUPPORTED, "config: the checkpoint is quantised, which is not read");
    if (c->labels == 0) c->labels = json_is_object(labels) ? (int64_t)json_object_size(labels) : 2;
    if (c->labels < 1 || c->labels > 1 << 20) return syi_fail(ctx, SY_E_INPUT, "config: %lld labels", (long long)c->labels);
    if (c->layout->class_token) {
        if (c->image < 1 || c->image > 1 << 14 || c->channels < 1 || c->channels > 64 || c->patch < 1 || c->image % c->patch != 0)
            return syi_fail(ctx, SY_E_INPUT, "config: image_size %lld, num_channels %lld, patch_size %lld: whole patches were expected", (long long)c->image, (long long)c->channels,
                            (long long)c->patch);
        c->tokens = (c->image / c->patch) * (c->image / c->patch) + 1;
        return SY_OK;
    }
    if (c->vocab < 1 || c->vocab > INT32_MAX || c->types < 1 || c->types > 1 << 16 || c->positions <= c->layout->first_position || c->positions > 1 << 24)
        return syi_fail(ctx, SY_E_INPUT, "config: vocab_size %lld, type_vocab_size %lld, max_position_embeddings %lld are out of range", (long long)c->vocab, (long long)c->types,
                        (long long)c->positions);
    c->first_position = c->layout->first_position;
    c->context = c->positions - c->first_position;
    return SY_OK;
}

/* -- blocks ------------------------------------------------------------------------------ */

typedef struct { sy_model *m; const int32_t *first, *last; int64_t tokens; int block; } layer;

static sy_node *norm(sy_graph *g, sy_model *m, const char *module, int block, sy_node *x)
{
    const syi_encoder_config *c = m->config;
    return module ? syi_model_norm_layer(g, m, module, block, x, c->norm_eps) : x;
}

static sy_node *attention(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    (void)n;
    const layer *l = self;
    sy_model *m = l->m;
    const syi_encoder_config *c = m->config;
    sy_site *sites[3] = {syi_model_role(m, l->block, SY_ROLE_Q), syi_model_role(m, l->block, SY_ROLE_K), syi_model_role(m, l->block, SY_ROLE_V)};
    sy_node *qkv[3];
    sy_sites_apply(g, sites, 3, norm(g, m, c->layout->attention_norm, l->block, in[0]), qkv);
    const syi_attention shape = {.tokens = l->tokens, .heads = c->heads, .kv_heads = c->heads, .dim = c->head_dim, .scale = 1 / sqrt((double)c->head_dim),
                                 .first = l->first, .last = l->last};
    sy_node *o = sy_site_apply(g, syi_model_role(m, l->block, SY_ROLE_O), syi_op_attention(g, qkv[0], qkv[1], qkv[2], &shape));
    return norm(g, m, c->layout->attention_post_norm, l->block, syi_op_add(g, o, in[0]));
}

static sy_node *feed_forward(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    (void)n;
    const layer *l = self;
    sy_model *m = l->m;
    const syi_encoder_config *c = m->config;
    sy_node *x = norm(g, m, c->layout->ffn_norm, l->block, in[0]);
    sy_node *act = syi_op_activate(g, (syi_act)syi_act_find(c->act), sy_site_apply(g, syi_model_role(m, l->block, SY_ROLE_UP), x));
    sy_node *d = sy_site_apply(g, syi_model_role(m, l->block, SY_ROLE_DOWN), act);
    return norm(g, m, c->layout->ffn_post_norm, l->block, syi_op_add(g, d, in[0]));
}

static sy_node *block(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    sy_node *x = sy_block(g, attention, self, 0, in, n, SY_BLOCK_SCOPE);
    return sy_block(g, feed_forward, self, 0, &x, 1, SY_BLOCK_SCOPE);
}

/* -- how tokens begin ---------------------------------------------------------------------- */

static sy_node *looked_up(sy_graph *g, sy_model *m, const char *table, const int32_t *ids, int64_t n)
{
    sy_site *s = syi_model_site(m, table);
    sy_tensor t = {.dtype = SY_I32, .rank = 1, .dim = {n}, .data = (void *)(uintptr_t)ids};
    if (s) return sy_site_apply(g, s, sy_const(g, &t));
    sy_graph_fail(g, syi_fail(m->ctx, SY_E_BUG, "architecture %s: no table %s", m->arch->name, table));
    return NULL;
}

static sy_node *words(sy_graph *g, sy_model *m, const sy_batch *batch)
{
    const syi_encoder_config *c = m->config;
    const int64_t n = batch->tokens;
    int32_t *types = syi_graph_ints(g, n), *at = syi_graph_ints(g, n);
    if (!types || !at) return NULL;
    for (int64_t i = 0; batch->positions && i < n; i++) at[i] = (int32_t)(batch->positions[i] + c->layout->first_position);
    sy_node *x = syi_op_add(g, looked_up(g, m, c->layout->words, batch->ids, n), looked_up(g, m, c->layout->types, types, n));
    return syi_op_add(g, x, looked_up(g, m, c->layout->positions, at, n));
}

/* A parameter of any rank as rows of `hidden`. */
static sy_node *table(sy_graph *g, sy_model *m, const char *name, int64_t rows)
{
    const syi_encoder_config *c = m->config;
    sy_param *p = syi_model_param(m, name);
    if (p) return syi_op_reshape(g, sy_leaf(g, p), 2, (int64_t[]){rows, c->hidden});
    sy_graph_fail(g, syi_fail(m->ctx, SY_E_BUG, "architecture %s: no parameter %s", m->arch->name, name));
    return NULL;
}

static sy_node *patches(sy_graph *g, sy_model *m, const sy_batch *batch)
{
    const syi_encoder_config *c = m->config;
    const int64_t n = batch->rows * c->tokens;
    int32_t *patch = syi_graph_ints(g, n), *class = syi_graph_ints(g, n), *place = syi_graph_ints(g, n);
    syi_window at;
    if (!patch || !class || !place) return NULL;
    for (int64_t i = 0; i < n; i++) {
        const int64_t k = i % c->tokens;
        patch[i] = (int32_t)(k ? i / c->tokens * (c->tokens - 1) + k - 1 : -1);
        class[i] = k ? -1 : 0;
        place[i] = (int32_t)k;
    }
    sy_node *x = syi_image_input(g, batch, c->image, c->image, c->channels, &at);
    x = syi_op_gather(g, syi_image_conv(g, m, c->layout->patches, x, &at, c->patch, c->patch, 0), patch, n);
    sy_node *first = syi_op_gather(g, table(g, m, c->layout->class_token, 1), class, n), *where = syi_op_gather(g, table(g, m, c->layout->image_positions, c->tokens), place, n);
    return syi_op_add(g, x, syi_op_cast(g, syi_op_add(g, first, where), sy_graph_dtype(g)));
}

/* -- whole --------------------------------------------------------------------------------------- */

sy_node *syi_encoder_states(sy_graph *g, sy_model *m, const sy_batch *batch)
{
    const syi_encoder_config *c = m->config;
    const bool images = c->layout->class_token != NULL;
    layer l = {.m = m, .tokens = images ? batch->rows * c->tokens : batch->tokens};
    int32_t *first = syi_graph_ints(g, l.tokens), *last = syi_graph_ints(g, l.tokens);
    if (!first || !last) return NULL;
    for (int64_t i = 0; i < l.tokens; i++) first[i] = images ? (int32_t)(i / c->tokens * c->tokens) : batch->first ? batch->first[i] : 0;
    for (int64_t i = l.tokens - 1; i >= 0; i--) last[i] = i + 1 < l.tokens && first[i + 1] == first[i] ? last[i + 1] : (int32_t)i;
    l.first = first, l.last = last;
    sy_node *x = norm(g, m, c->layout->first_norm, -1, images ? patches(g, m, batch) : words(g, m, batch));
    for (l.block = 0; l.block < m->blocks; l.block++) {
        sy_node *y = sy_block(g, block, &l, sizeof l, &x, 1, SY_BLOCK_MAY_RECOMPUTE);
        sy_done(g, x);
        x = y;
    }
    return norm(g, m, c->layout->last_norm, -1, x);
}

sy_node *syi_encoder_build(sy_graph *g, sy_model *m, const sy_batch *batch)
{
    const syi_encoder_config *c = m->config;
    sy_node *x = syi_encoder_states(g, m, batch);
    const int64_t each = c->layout->class_token ? c->tokens : batch->seq;
    int32_t *at = syi_graph_ints(g, batch->rows);
    if (!at) return NULL;
    for (int64_t r = 0; r < batch->rows; r++) at[r] = (int32_t)(r * each);
    x = syi_op_gather(g, x, at, batch->rows);
    if (c->layout->pooler && !m->head && !syi_model_site(m, c->layout->pooler)) return x; /* states only */
    return c->layout->pooler ? syi_op_activate(g, SYI_ACT_TANH, syi_model_linear(g, m, c->layout->pooler, x)) : x;
}
