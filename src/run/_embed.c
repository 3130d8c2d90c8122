/* SPDX-License-Identifier: Apache-2.0 */
/* Embeddings of texts: states of the tokens, pooled as the model's files say (src/io/pooling.c). */
#include "train.h"

#include "graph/ops.h"

static float state(const sy_tensor *t, int64_t i)
{
    if (t->dtype == SY_F64) return (float)((const double *)t->data)[i];
    if (t->dtype == SY_F32) return ((const float *)t->data)[i];
    union { uint32_t u; float f; } x = {(uint32_t)((const uint16_t *)t->data)[i] << 16};
    return x.f;
}

static void pool(const syi_pooling *how, const sy_tensor *states, int64_t from, int64_t n, int64_t hidden, float *out)
{
    double square = 0;
    for (int64_t c = 0; c < hidden; c++) {
        double v = how->kind == SYI_POOL_CLS ? state(states, from * hidden + c) : how->kind == SYI_POOL_LAST ? state(states, (from + n - 1) * hidden + c) : 0;
        if (how->kind == SYI_POOL_MAX) v = -INFINITY;
        for (int64_t t = 0; how->kind != SYI_POOL_CLS && how->kind != SYI_POOL_LAST && t < n; t++) {
            const double x = state(states, (from + t) * hidden + c);
            v = how->kind == SYI_POOL_MAX ? fmax(v, x) : v + x / (double)n;
        }
        out[c] = (float)v;
        square += v * v;
    }
    if (how->normalize)
        for (int64_t c = 0; c < hidden; c++) out[c] = (float)(out[c] / fmax(sqrt(square), 1e-12));
}

sy_status syi_run_embed(sy_run *run, const sy_batch *batch, const syi_pooling *how, float *out)
{
    sy_model *m = run->model;
    syi_graph_options o;
    if (m->arch->input != SY_INPUT_TOKENS) return syi_fail(run->ctx, SY_E_UNSUPPORTED, "embeddings are made of texts; this model reads images");
    SYI_TRY(syi_run_prepare(run, batch));
    SYI_TRY(syi_run_graph_options(run, false, false, &o));
    syi_graph_reset(run->graph, &o);
    sy_node *x = (m->arch->states != NULL ? m->arch->states : m->arch->build)(run->graph, m, batch);
    SYI_TRY(sy_graph_status(run->graph));
    const sy_tensor *states = sy_value(x);
    for (int64_t r = 0; r < batch->rows; r++) {
        int64_t n = 0;
        while (n < batch->seq && batch->first[r * batch->seq + n] == r * batch->seq) n++;
        pool(how, states, r * batch->seq, n, m->hidden, out + r * m->hidden);
    }
    return SY_OK;
}
