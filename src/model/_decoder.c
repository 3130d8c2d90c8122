/* SPDX-License-Identifier: Apache-2.0 */
/* The forward graph of llama, mistral, qwen2 and qwen3: pre-norm blocks of grouped
 * causal attention with rotary positions and a gated feed-forward layer. */
#include "model/decoder.h"

#include "graph/ops.h"
#include "model/model.h"

#include <math.h>

typedef struct { sy_model *m; const sy_batch *batch; int block; } layer;

static sy_node *attention(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    (void)n;
    const layer *l = self;
    sy_model *m = l->m;
    const syi_decoder_config *c = m->config;
    sy_node *xn = syi_model_norm(g, m, "model.layers.%d.input_layernorm.weight", l->block, in[0], c->norm_eps);
    sy_site *sites[3] = {syi_model_role(m, l->block, SY_ROLE_Q), syi_model_role(m, l->block, SY_ROLE_K), syi_model_role(m, l->block, SY_ROLE_V)};
    sy_node *qkv[3];
    sy_sites_apply(g, sites, 3, xn, qkv);
    if (c->qk_norm) {
        qkv[0] = syi_model_norm_heads(g, m, "model.layers.%d.self_attn.q_norm.weight", l->block, qkv[0], c->norm_eps, c->heads);
        qkv[1] = syi_model_norm_heads(g, m, "model.layers.%d.self_attn.k_norm.weight", l->block, qkv[1], c->norm_eps, c->kv_heads);
    }
    sy_node *q = syi_op_rope(g, qkv[0], l->batch->positions, &m->rope_cos, &m->rope_sin, c->heads);
    sy_node *k = syi_op_rope(g, qkv[1], l->batch->positions, &m->rope_cos, &m->rope_sin, c->kv_heads);
    double scale = 1 / sqrt((double)c->head_dim);
    sy_node *a;
    syi_attention shape = {.tokens = l->batch->tokens, .heads = c->heads, .kv_heads = c->kv_heads, .dim = c->head_dim,
                           .scale = scale, .first = l->batch->first};
    if (syi_graph_cache(g)) a = syi_op_attention_cached(g, q, k, qkv[2], syi_graph_cache(g), l->block, &shape);
    else a = syi_op_attention(g, q, k, qkv[2], &shape);
    sy_node *o = sy_site_apply(g, syi_model_role(m, l->block, SY_ROLE_O), a);
    return syi_op_add(g, o, in[0]);
}

static sy_node *feed_forward(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    (void)n;
    const layer *l = self;
    sy_model *m = l->m;
    const syi_decoder_config *c = m->config;
    sy_node *xn = syi_model_norm(g, m, "model.layers.%d.post_attention_layernorm.weight", l->block, in[0], c->norm_eps);
    sy_site *sites[2] = {syi_model_role(m, l->block, SY_ROLE_GATE), syi_model_role(m, l->block, SY_ROLE_UP)};
    sy_node *gu[2];
    sy_sites_apply(g, sites, 2, xn, gu);
    sy_node *act = syi_op_swiglu(g, gu[0], gu[1]);
    sy_node *d = sy_site_apply(g, syi_model_role(m, l->block, SY_ROLE_DOWN), act);
    return syi_op_add(g, d, in[0]);
}

static sy_node *block(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    sy_node *x = sy_block(g, attention, self, 0, in, n, SY_BLOCK_SCOPE);
    return sy_block(g, feed_forward, self, 0, &x, 1, SY_BLOCK_SCOPE);
}

sy_node *syi_decoder_piece(sy_graph *g, sy_model *m, const sy_batch *batch, int b, int part, sy_node *x)
{
    const syi_decoder_config *c = m->config;
    if (b < 0) {
        sy_tensor ids = {.dtype = SY_I32, .rank = 1, .dim = {batch->tokens}, .data = (void *)(uintptr_t)batch->ids};
        return sy_site_apply(g, syi_model_role(m, -1, SY_ROLE_EMBED), sy_const(g, &ids));
    }
    if (b >= m->blocks) return syi_model_norm(g, m, "model.norm.weight", -1, x, c->norm_eps);
    layer l = {m, batch, b};
    return sy_block(g, part == 0 ? attention : feed_forward, &l, sizeof l, &x, 1, SY_BLOCK_SCOPE);
}

sy_node *syi_decoder_build(sy_graph *g, sy_model *m, const sy_batch *batch)
{
    sy_node *x = syi_decoder_piece(g, m, batch, -1, 0, NULL);
    for (int b = 0; b < m->blocks; b++) {
        layer l = {m, batch, b};
        sy_node *y = sy_block(g, block, &l, sizeof l, &x, 1, SY_BLOCK_MAY_RECOMPUTE);
        sy_done(g, x);
        x = y;
    }
    return syi_decoder_piece(g, m, batch, m->blocks, 0, x);
}
