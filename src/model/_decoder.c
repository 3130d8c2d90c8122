/* SPDX-License-Identifier: Apache-2.0 */
/* The forward graph of the decoder-only transformers: blocks of grouped causal attention
 * and a feed-forward layer, put together as the layout says. */
#include "model/decoder.h"

#include "graph/ops.h"
#include "model/model.h"

#include <math.h>

const syi_decoder_layout syi_decoder_llama_layout = {
    .attention_norm = "model.layers.%d.input_layernorm", .ffn_norm = "model.layers.%d.post_attention_layernorm", .last_norm = "model.norm",
    .q_norm = "model.layers.%d.self_attn.q_norm", .k_norm = "model.layers.%d.self_attn.k_norm",
};

typedef struct { sy_model *m; const sy_batch *batch; int block; } layer;

static double bf16_rounded(double v)
{
    union { float f; uint32_t u; } x = {.f = (float)v};
    x.u = (x.u + 0x7fff + (x.u >> 16 & 1)) & 0xffff0000u;
    return (double)x.f;
}

/* The norm of that name; `heads` > 1: over each of so many parts of a row. */
static sy_node *norm(sy_graph *g, sy_model *m, const char *module, int block, sy_node *x, int64_t heads)
{
    const syi_decoder_config *c = m->config;
    char name[200];
    if (!module) return x;
    snprintf(name, sizeof name, "%s.weight", module);
    if (!c->layout->layer_norm) return syi_model_norm_rms(g, m, name, block, x, c->norm_eps, heads, c->layout->norm_from_one ? 1 : 0);
    return syi_model_norm_layer(g, m, module, block, x, c->norm_eps);
}

/* Three sites on one input, or the columns of one. */
static void queries(sy_graph *g, const layer *l, sy_node *x, sy_node *out[3])
{
    const syi_decoder_config *c = l->m->config;
    sy_site *fused = syi_model_role(l->m, l->block, SY_ROLE_QKV);
    if (!fused) {
        sy_site *sites[3] = {syi_model_role(l->m, l->block, SY_ROLE_Q), syi_model_role(l->m, l->block, SY_ROLE_K), syi_model_role(l->m, l->block, SY_ROLE_V)};
        sy_sites_apply(g, sites, 3, x, out);
        return;
    }
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    sy_node *y = sy_site_apply(g, fused, x);
    out[0] = syi_op_slice(g, y, 0, q);
    out[1] = syi_op_slice(g, y, q, kv);
    out[2] = syi_op_slice(g, y, q + kv, kv);
}

static sy_node *attention(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    (void)n;
    const layer *l = self;
    sy_model *m = l->m;
    const syi_decoder_config *c = m->config;
    sy_node *xn = norm(g, m, c->layout->attention_norm, l->block, in[0], 1), *qkv[3];
    queries(g, l, xn, qkv);
    if (c->qk_norm) {
        qkv[0] = norm(g, m, c->layout->q_norm, l->block, qkv[0], c->layout->whole_qk_norm ? 1 : c->heads);
        qkv[1] = norm(g, m, c->layout->k_norm, l->block, qkv[1], c->layout->whole_qk_norm ? 1 : c->kv_heads);
    }
    const int table = syi_decoder_rope_of(c, l->block, m->positions_used);
    if (table >= 0) {
        qkv[0] = syi_op_rope(g, qkv[0], l->batch->positions, &m->rope[table].cos, &m->rope[table].sin, c->heads);
        qkv[1] = syi_op_rope(g, qkv[1], l->batch->positions, &m->rope[table].cos, &m->rope[table].sin, c->kv_heads);
    }
    syi_attention shape = {.tokens = l->batch->tokens, .heads = c->heads, .kv_heads = c->kv_heads, .dim = c->head_dim,
                           .scale = 1 / sqrt(c->query_scale), .first = l->batch->first, .softcap = c->attention_cap};
    if (c->layer[l->block] & SYI_LAYER_WINDOW) shape.window = c->sliding_window;
    sy_node *a;
    if (syi_graph_cache(g)) a = syi_op_attention_cached(g, qkv[0], qkv[1], qkv[2], syi_graph_cache(g), l->block, &shape);
    else a = syi_op_attention(g, qkv[0], qkv[1], qkv[2], &shape);
    sy_node *o = sy_site_apply(g, syi_model_role(m, l->block, SY_ROLE_O), a);
    return syi_op_add(g, norm(g, m, c->layout->attention_post_norm, l->block, o, 1), in[0]);
}

static sy_node *feed_forward(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    (void)n;
    const layer *l = self;
    sy_model *m = l->m;
    const syi_decoder_config *c = m->config;
    const syi_act kind = (syi_act)syi_act_find(c->act);
    sy_node *xn = norm(g, m, c->layout->ffn_norm, l->block, in[0], 1), *act;
    sy_site *sites[2] = {syi_model_role(m, l->block, SY_ROLE_GATE), syi_model_role(m, l->block, SY_ROLE_UP)};
    sy_site *fused = syi_model_role(m, l->block, SY_ROLE_GATE_UP);
    if (fused) {
        sy_node *y = sy_site_apply(g, fused, xn);
        act = syi_op_gated(g, kind, syi_op_slice(g, y, 0, c->ffn), syi_op_slice(g, y, c->ffn, c->ffn));
    } else if (sites[0]) {
        sy_node *gu[2];
        sy_sites_apply(g, sites, 2, xn, gu);
        act = syi_op_gated(g, kind, gu[0], gu[1]);
    } else {
        act = syi_op_activate(g, kind, sy_site_apply(g, sites[1], xn));
    }
    sy_node *d = sy_site_apply(g, syi_model_role(m, l->block, SY_ROLE_DOWN), act);
    return syi_op_add(g, norm(g, m, c->layout->ffn_post_norm, l->block, d, 1), in[0]);
}

static sy_node *block(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    sy_node *x = sy_block(g, attention, self, 0, in, n, SY_BLOCK_SCOPE);
    return sy_block(g, feed_forward, self, 0, &x, 1, SY_BLOCK_SCOPE);
}

static sy_node *embed(sy_graph *g, sy_model *m, const sy_batch *batch)
{
    const syi_decoder_config *c = m->config;
    sy_tensor ids = {.dtype = SY_I32, .rank = 1, .dim = {batch->tokens}, .data = (void *)(uintptr_t)batch->ids};
    sy_node *x = sy_site_apply(g, syi_model_role(m, -1, SY_ROLE_EMBED), sy_const(g, &ids));
    if (c->layout->scaled_embedding) {
        double root = (double)sqrtf((float)c->hidden);
        if (sy_graph_dtype(g) == SY_BF16) root = bf16_rounded(root); /* the factor is a bf16 tensor in Hugging Face */
        x = syi_op_scale(g, x, root);
    }
    if (!c->layout->positions) return x;
    sy_site *table = syi_model_site(m, c->layout->positions);
    if (!table) {
        sy_graph_fail(g, syi_fail(m->ctx, SY_E_BUG, "architecture %s: no site %s", m->arch->name, c->layout->positions));
        return NULL;
    }
    sy_tensor at = {.dtype = SY_I32, .rank = 1, .dim = {batch->tokens}, .data = (void *)(uintptr_t)batch->positions};
    return syi_op_add(g, x, sy_site_apply(g, table, sy_const(g, &at)));
}

sy_node *syi_decoder_piece(sy_graph *g, sy_model *m, const sy_batch *batch, int b, int part, sy_node *x)
{
    const syi_decoder_config *c = m->config;
    if (b < 0) return embed(g, m, batch);
    if (b >= m->blocks) return norm(g, m, c->layout->last_norm, -1, x, 1);
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

sy_node *syi_decoder_logits(sy_graph *g, sy_model *m, sy_node *y)
{
    const double cap = ((const syi_decoder_config *)m->config)->logit_cap;
    return cap > 0 ? syi_op_scale(g, syi_op_activate(g, SYI_ACT_TANH, syi_op_scale(g, y, 1 / cap)), cap) : y;
}
