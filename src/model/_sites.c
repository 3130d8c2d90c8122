/* SPDX-License-Identifier: Apache-2.0 */
/* Running sites: the chain of wraps around a weight, and what builders ask of a model
 * (norms, rotary tables). */
#include "model/model.h"

#include "graph/ops.h"
#include "model/decoder.h"

#include <math.h>

extern const sy_storage sy_storage_panels;

sy_node *sy_base(sy_graph *g, sy_next next, sy_node *x)
{
    const sy_site *s = next.site;
    for (int d = next.depth - 1; d >= 0; d--) {
        const sy_wrap *w = &s->wraps[d];
        if (w->active && w->method->forward) return w->method->forward(w->self, g, w, (sy_next){s, d}, x);
        if (w->active && w->method->weight) return sy_tiled(g, (sy_next){s, d + 1}, x, false);
    }
    const sy_weight *w = s->weight;
    if (s->kind == SY_SITE_EMBED) {
        const sy_tensor *ids = sy_shape(x);
        if (!ids) return NULL;
        sy_node *table = w->param ? sy_leaf(g, w->param) : sy_const(g, &w->slot[0]);
        return syi_op_embed(g, table, w->type == &sy_storage_panels, ids->data, ids->dim[0]);
    }
    return w->type->apply(g, w, x, false);
}

static void show(sy_graph *g, const sy_site *site, const sy_node *x)
{
    const sy_tensor *v = sy_value(x);
    if (v == NULL || sy_graph_replay(g)) return;
    sy_status s = site->see(site->see_self, site, v);
    if (s != SY_OK) sy_graph_fail(g, s);
}

sy_node *sy_site_apply(sy_graph *g, sy_site *site, sy_node *x)
{
    if (site->see) show(g, site, x);
    sy_node *y = sy_base(g, (sy_next){site, site->n_wraps}, x);
    return site->bias ? syi_op_add_bias(g, y, sy_leaf(g, site->bias)) : y;
}

/* Have the sites one method's wrap as their outermost, and does it take them together? */
static bool together(sy_graph *g, sy_site *const *sites, int n, sy_node *x, sy_node **out)
{
    enum { MOST = 4 };
    const sy_wrap *at[MOST];
    sy_next next[MOST];
    if (n < 2 || n > MOST) return false;
    for (int i = 0; i < n; i++) {
        int d = sites[i]->n_wraps - 1;
        while (d >= 0 && !(sites[i]->wraps[d].active && (sites[i]->wraps[d].method->forward || sites[i]->wraps[d].method->weight))) d--;
        if (d < 0) return false;
        at[i] = &sites[i]->wraps[d];
        next[i] = (sy_next){sites[i], d};
        if (at[i]->self != at[0]->self || at[i]->method != at[0]->method || !at[i]->method->forward_many) return false;
    }
    return at[0]->method->forward_many(at[0]->self, g, at, next, n, x, out);
}

void sy_sites_apply(sy_graph *g, sy_site *const *sites, int n, sy_node *x, sy_node **out)
{
    for (int i = 0; i < n; i++)
        if (sites[i]->see) show(g, sites[i], x);
    const bool done = together(g, sites, n, x, out);
    for (int i = 0; i < n; i++) {
        if (!done) out[i] = sy_base(g, (sy_next){sites[i], sites[i]->n_wraps}, x);
        if (sites[i]->bias) out[i] = syi_op_add_bias(g, out[i], sy_leaf(g, sites[i]->bias));
    }
}

static sy_param *norm_of(sy_graph *g, sy_model *m, const char *fmt, int block)
{
    char name[256];
    snprintf(name, sizeof name, fmt, block);
    sy_param *p = syi_model_param(m, name);
    if (!p) sy_graph_fail(g, syi_fail(m->ctx, SY_E_BUG, "architecture %s: no parameter %s", m->arch->name, name));
    return p;
}

/* A norm of a kind without a bias may have one nevertheless: what a compressor put there. */
static sy_node *shifted(sy_graph *g, sy_model *m, const char *fmt, int block, sy_node *y)
{
    char name[256];
    const int n = snprintf(name, sizeof name, fmt, block);
    if (n < 7 || n >= (int)sizeof name || strcmp(name + n - 7, ".weight") != 0) return y;
    memcpy(name + n - 7, ".bias", 6);
    sy_param *b = syi_model_param(m, name);
    return b ? syi_op_add_bias(g, y, sy_leaf(g, b)) : y;
}

sy_node *syi_model_norm_rms(sy_graph *g, sy_model *m, const char *fmt, int block, sy_node *x, double eps, int64_t heads, double plus)
{
    sy_param *p = norm_of(g, m, fmt, block);
    return p ? shifted(g, m, fmt, block, syi_op_rmsnorm_heads(g, x, sy_leaf(g, p), eps, heads, plus)) : NULL;
}

sy_node *syi_model_norm_layer(sy_graph *g, sy_model *m, const char *module, int block, sy_node *x, double eps)
{
    char name[256];
    snprintf(name, sizeof name, "%s.weight", module);
    sy_param *w = norm_of(g, m, name, block);
    snprintf(name, sizeof name, "%s.bias", module);
    sy_param *b = w ? norm_of(g, m, name, block) : NULL;
    return b ? syi_op_layernorm(g, x, sy_leaf(g, w), sy_leaf(g, b), eps) : NULL;
}

static void free_rope(sy_model *m, syi_rope_table *t)
{
    syi_free(m->ctx, t->cos.data);
    syi_free(m->ctx, t->sin.data);
    *t = (syi_rope_table){0};
}

void syi_model_positions_free(sy_model *m)
{
    for (int i = 0; i < SYI_ROPES; i++) free_rope(m, &m->rope[i]);
}

/* One table of cosines and sines for positions 0..n-1. */
static sy_status fill_rope(sy_model *m, syi_rope_table *table, const float *inverse, float factor, int64_t half, int64_t n)
{
    const bool f64 = m->dtype == SY_F64;
    sy_tensor t = {.dtype = f64 ? SY_F64 : SY_F32, .rank = 2, .dim = {n, half}};
    void *cos_t = syi_alloc(m->ctx, (size_t)sy_tensor_bytes(&t)), *sin_t = syi_alloc(m->ctx, (size_t)sy_tensor_bytes(&t));
    free_rope(m, table);
    table->cos = table->sin = t;
    table->cos.data = cos_t;
    table->sin.data = sin_t;
    if (!cos_t || !sin_t) return SY_E_MEMORY;
#pragma omp parallel for num_threads(syi_omp(m->ctx)) schedule(static)
    for (int64_t p = 0; p < n; p++)
        for (int64_t i = 0; i < half; i++) {
            float angle = (float)p * inverse[i];
            if (f64) {
                ((double *)cos_t)[p * half + i] = cos(angle) * (double)factor;
                ((double *)sin_t)[p * half + i] = sin(angle) * (double)factor;
            } else {
                ((float *)cos_t)[p * half + i] = (float)cos(angle) * factor;
                ((float *)sin_t)[p * half + i] = (float)sin(angle) * factor;
            }
        }
    return SY_OK;
}

sy_status syi_model_positions(sy_model *m, int64_t n)
{
    m->positions_used = n;
    if (m->arch->build != syi_decoder_build) return SY_OK; /* no rotary positions */
    const syi_decoder_config *c = m->config;
    int64_t half = c->head_dim / 2;
    float *inverse = syi_alloc(m->ctx, (size_t)half * sizeof *inverse), factor;
    sy_status s = inverse ? SY_OK : SY_E_MEMORY;
    for (int i = 0; i < SYI_ROPES && s == SY_OK; i++)
        if (!(m->rope[i].cos.data && m->rope[i].cos.dim[0] >= n) && syi_decoder_rope(c, i, inverse, &factor))
            s = fill_rope(m, &m->rope[i], inverse, factor, half, n);
    syi_free(m->ctx, inverse);
    return s;
}
