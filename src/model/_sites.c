/* SPDX-License-Identifier: Apache-2.0 */
/* Running sites: the chain of wraps around a weight, and what builders ask of a model
 * (norms, rotary tables). */
#include "model/model.h"

#include "graph/ops.h"
#include "model/decoder.h"

#include <math.h>

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
        return syi_op_embed(g, table, ids->data, ids->dim[0]);
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

void sy_sites_apply(sy_graph *g, sy_site *const *sites, int n, sy_node *x, sy_node **out)
{
    for (int i = 0; i < n; i++) out[i] = sy_site_apply(g, sites[i], x);
}

static sy_param *norm_of(sy_graph *g, sy_model *m, const char *fmt, int block)
{
    char name[256];
    snprintf(name, sizeof name, fmt, block);
    sy_param *p = syi_model_param(m, name);
    if (!p) sy_graph_fail(g, syi_fail(m->ctx, SY_E_BUG, "architecture %s: no parameter %s", m->arch->name, name));
    return p;
}

sy_node *syi_model_norm(sy_graph *g, sy_model *m, const char *fmt, int block, sy_node *x, double eps)
{
    sy_param *p = norm_of(g, m, fmt, block);
    return p ? syi_op_rmsnorm(g, x, sy_leaf(g, p), eps) : NULL;
}

sy_node *syi_model_norm_heads(sy_graph *g, sy_model *m, const char *fmt, int block, sy_node *x, double eps, int64_t heads)
{
    sy_param *p = norm_of(g, m, fmt, block);
    return p ? syi_op_rmsnorm_heads(g, x, sy_leaf(g, p), eps, heads) : NULL;
}

/* Inverse frequencies as Hugging Face computes them: in f32, so that positions in the
 * thousands turn by the same angles there and here. */
static void inverse_frequencies(const syi_decoder_config *c, float *inv)
{
    int64_t half = c->head_dim / 2;
    bool llama3 = strcmp(c->rope_type, "llama3") == 0, linear = strcmp(c->rope_type, "linear") == 0;
    for (int64_t i = 0; i < half; i++) {
        float f = 1.0f / (float)pow((double)(float)c->rope_theta, (double)((float)(2 * i) / (float)c->head_dim));
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
        inv[i] = f;
    }
}

sy_status syi_model_positions(sy_model *m, int64_t n)
{
    if (m->arch->build != syi_decoder_build) return SY_OK; /* no rotary positions */
    const syi_decoder_config *c = m->config;
    if (m->rope_cos.data && m->rope_cos.dim[0] >= n) return SY_OK;
    int64_t half = c->head_dim / 2;
    bool f64 = m->dtype == SY_F64;
    sy_tensor t = {.dtype = f64 ? SY_F64 : SY_F32, .rank = 2, .dim = {n, half}};
    float *inv = syi_alloc(m->ctx, (size_t)half * sizeof *inv);
    void *cos_t = syi_alloc(m->ctx, (size_t)sy_tensor_bytes(&t)), *sin_t = syi_alloc(m->ctx, (size_t)sy_tensor_bytes(&t));
    if (!inv || !cos_t || !sin_t) {
        syi_free(m->ctx, inv);
        syi_free(m->ctx, cos_t);
        syi_free(m->ctx, sin_t);
        return SY_E_MEMORY;
    }
    inverse_frequencies(c, inv);
#pragma omp parallel for num_threads(syi_omp(m->ctx)) schedule(static)
    for (int64_t p = 0; p < n; p++)
        for (int64_t i = 0; i < half; i++) {
            float angle = (float)p * inv[i];
            if (f64) {
                ((double *)cos_t)[p * half + i] = cos(angle);
                ((double *)sin_t)[p * half + i] = sin(angle);
            } else {
                ((float *)cos_t)[p * half + i] = (float)cos(angle);
                ((float *)sin_t)[p * half + i] = (float)sin(angle);
            }
        }
    syi_free(m->ctx, inv);
    syi_free(m->ctx, m->rope_cos.data);
    syi_free(m->ctx, m->rope_sin.data);
    m->rope_cos = m->rope_sin = t;
    m->rope_cos.data = cos_t;
    m->rope_sin.data = sin_t;
    return SY_OK;
}
