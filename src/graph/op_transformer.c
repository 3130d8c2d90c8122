/* SPDX-License-Identifier: Apache-2.0 */
/* The ops of a transformer: embedding, RMS norm, rotary positions, attention, SwiGLU, and
 * the output head with its cross-entropy. */
#include "op_common.h"

static unsigned keep_none(const sy_op_call *c, unsigned want) { return (void)c, (void)want, 0; }
static sy_dtype wide(sy_dtype t) { return t == SY_F64 ? SY_F64 : SY_F32; }

/* -- embed ------------------------------------------------------------------------------ */

typedef struct { const int32_t *ids; int64_t tokens; sy_dtype dtype; } embed_attr;

static sy_status embed_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    const embed_attr *a = c->attr;
    if (c->in[0]->rank != 2) return syi_fail(c->ctx, SY_E_BUG, "embed: a table has two dimensions");
    return syi_out(c, a->dtype, 2, (int64_t[]){a->tokens, c->in[0]->dim[1]});
}
static sy_status embed_forward(sy_op_call *c)
{
    const embed_attr *a = c->attr;
    return syi_embed(c->engine, c->in[0]->dtype, c->in[0]->data, c->in[0]->dim[0], a->ids, a->dtype, c->out->data, a->tokens, c->out->dim[1]);
}
static sy_status embed_backward(sy_op_call *c)
{
    const embed_attr *a = c->attr;
    if (!c->add[0]) memset(c->din[0]->data, 0, (size_t)sy_tensor_bytes(c->din[0]));
    return syi_embed_grad(c->engine, c->dout->dtype, c->dout->data, a->ids, c->din[0]->data, c->in[0]->dim[0], a->tokens, c->out->dim[1]);
}
static double embed_traffic(const sy_op_call *c, bool backward)
{
    (void)backward; /* rows that are read, not the table */
    return 2.0 * (double)sy_tensor_bytes(c->out);
}
static bool embed_test(int i, sy_op_case *out)
{
    static const int32_t ids[] = {3, 0, 3, 6, 1, 3};
    static const embed_attr a = {ids, 6, SY_F64};
    if (i > 0) return false;
    *out = (sy_op_case){.what = "rows more than once", .n_in = 1, .attr = &a, .attr_size = sizeof a};
    syi_case_in(out, 0, 2, (int64_t[]){7, 5}, true);
    return true;
}
const sy_op syi_row_embed = {.name = "embed", .min_in = 1, .max_in = 1, .shape = embed_shape, .forward = embed_forward, .backward = embed_backward,
                             .keep = keep_none, .traffic = embed_traffic, .test = embed_test};
sy_node *syi_op_embed(sy_graph *g, sy_node *table, const int32_t *ids, int64_t tokens)
{
    embed_attr a = {ids, tokens, sy_graph_dtype(g)};
    return sy_call(g, &syi_row_embed, &table, 1, &a, sizeof a);
}

/* -- RMS norm, over features or over each head ------------------------------------------------ */

typedef struct { double eps; int64_t heads; } norm_attr; /* heads 1: the whole row */

static sy_status norm_shape(sy_op_call *c, int *n_aux)
{
    const norm_attr *a = c->attr;
    const sy_tensor *x = c->in[0], *w = c->in[1];
    if (x->rank != 2 || w->rank != 1 || x->dim[1] != a->heads * w->dim[0] || w->dtype != wide(x->dtype))
        return syi_fail(c->ctx, SY_E_BUG, "rmsnorm: x[.., %lld] does not fit %lld x w[%lld]", (long long)x->dim[1], (long long)a->heads, (long long)w->dim[0]);
    *n_aux = 1; /* 1/rms of each row */
    *c->aux[0] = (sy_tensor){.dtype = w->dtype, .rank = 1, .dim = {x->dim[0] * a->heads}};
    return syi_out(c, x->dtype, 2, x->dim);
}
static sy_status norm_forward(sy_op_call *c)
{
    const norm_attr *a = c->attr;
    return syi_rmsnorm(c->engine, c->out->dtype, c->in[0]->data, c->in[1]->data, a->eps, c->out->data, c->aux[0]->data, c->out->dim[0] * a->heads, c->in[1]->dim[0]);
}
static sy_status norm_backward(sy_op_call *c)
{
    const norm_attr *a = c->attr;
    if (c->want[1] && !c->add[1]) memset(c->din[1]->data, 0, (size_t)sy_tensor_bytes(c->din[1]));
    return syi_rmsnorm_grad(c->engine, c->dout->dtype, c->dout->data, c->in[0]->data, c->in[1]->data, c->aux[0]->data, c->add[0],
                            c->want[0] ? c->din[0]->data : NULL, c->want[1] ? c->din[1]->data : NULL, c->dout->dim[0] * a->heads, c->in[1]->dim[0]);
}
static bool norm_test(int i, sy_op_case *out)
{
    static const norm_attr attrs[] = {{1e-5, 1}, {1e-6, 3}};
    if (i >= SYI_COUNT(attrs)) return false;
    *out = (sy_op_case){.what = i ? "three heads" : "rows", .n_in = 2, .attr = &attrs[i], .attr_size = sizeof attrs[i]};
    syi_case_in(out, 0, 2, (int64_t[]){7, 24}, true);
    syi_case_in(out, 1, 1, (int64_t[]){24 / attrs[i].heads}, true);
    return true;
}
const sy_op syi_row_rmsnorm = {.name = "rmsnorm", .min_in = 2, .max_in = 2, .flags = SY_OP_CHEAP, .shape = norm_shape, .forward = norm_forward, .backward = norm_backward, .test = norm_test};

sy_node *syi_op_rmsnorm_heads(sy_graph *g, sy_node *x, sy_node *w, double eps, int64_t heads)
{
    norm_attr a = {eps, heads};
    return sy_call(g, &syi_row_rmsnorm, (sy_node *[]){x, w}, 2, &a, sizeof a);
}
sy_node *syi_op_rmsnorm(sy_graph *g, sy_node *x, sy_node *w, double eps) { return syi_op_rmsnorm_heads(g, x, w, eps, 1); }

/* -- SwiGLU: silu(gate) * up ------------------------------------------------------------------------ */

static sy_status swiglu_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    if (!syi_same_shape(c->in[0], c->in[1])) return syi_fail(c->ctx, SY_E_BUG, "swiglu: shapes differ");
    return syi_out(c, c->in[0]->dtype, c->in[0]->rank, c->in[0]->dim);
}
static sy_status swiglu_forward(sy_op_call *c) { return syi_swiglu(c->engine, c->out->dtype, c->in[0]->data, c->in[1]->data, c->out->data, sy_tensor_count(c->out)); }
static sy_status swiglu_backward(sy_op_call *c)
{
    return syi_swiglu_grad(c->engine, c->dout->dtype, c->dout->data, c->in[0]->data, c->in[1]->data, c->add[0], c->want[0] ? c->din[0]->data : NULL,
                           c->add[1], c->want[1] ? c->din[1]->data : NULL, sy_tensor_count(c->dout));
}
static bool swiglu_test(int i, sy_op_case *out)
{
    if (i > 0) return false;
    *out = (sy_op_case){.what = "[6,11]", .n_in = 2};
    syi_case_in(out, 0, 2, (int64_t[]){6, 11}, true);
    syi_case_in(out, 1, 2, (int64_t[]){6, 11}, true);
    out->in[0].scale = 3;
    return true;
}
const sy_op syi_row_swiglu = {.name = "swiglu", .min_in = 2, .max_in = 2, .flags = SY_OP_CHEAP, .shape = swiglu_shape, .forward = swiglu_forward, .backward = swiglu_backward, .test = swiglu_test};
sy_node *syi_op_swiglu(sy_graph *g, sy_node *gate, sy_node *up) { return sy_call(g, &syi_row_swiglu, (sy_node *[]){gate, up}, 2, NULL, 0); }

/* -- rotary positions ----------------------------------------------------------------------------------- */

typedef struct { const int32_t *pos; sy_tensor cos_t, sin_t; int64_t heads; } rope_attr;

static sy_status rope_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    const rope_attr *a = c->attr;
    const sy_tensor *x = c->in[0];
    if (x->rank != 2 || a->heads < 1 || x->dim[1] % (2 * a->heads))
        return syi_fail(c->ctx, SY_E_BUG, "rope: %lld features in %lld heads", (long long)x->dim[1], (long long)a->heads);
    return syi_out(c, x->dtype, 2, x->dim);
}
static sy_status rope_run(sy_op_call *c, const sy_tensor *x, bool inverse, bool add, sy_tensor *y)
{
    const rope_attr *a = c->attr;
    return syi_rope(c->engine, x->dtype, x->data, a->pos, a->cos_t.data, a->sin_t.data, inverse, add, y->data, x->dim[0], a->heads, x->dim[1] / a->heads);
}
static sy_status rope_forward(sy_op_call *c) { return rope_run(c, c->in[0], false, false, c->out); }
static sy_status rope_backward(sy_op_call *c) { return rope_run(c, c->dout, true, c->add[0], c->din[0]); }
static bool rope_test(int i, sy_op_case *out)
{
    static const int32_t pos[] = {0, 1, 2, 0, 1};
    static double cos_t[3 * 2] = {1, 1, 0.5403023058681398, 0.9950041652780258, -0.4161468365471424, 0.9800665778412416};
    static double sin_t[3 * 2] = {0, 0, 0.8414709848078965, 0.09983341664682815, 0.9092974268256817, 0.19866933079506122};
    static const rope_attr a = {pos, {.dtype = SY_F64, .rank = 2, .dim = {3, 2}, .data = cos_t}, {.dtype = SY_F64, .rank = 2, .dim = {3, 2}, .data = sin_t}, 3};
    if (i > 0) return false;
    *out = (sy_op_case){.what = "three heads of four", .n_in = 1, .attr = &a, .attr_size = sizeof a};
    syi_case_in(out, 0, 2, (int64_t[]){5, 12}, true);
    return true;
}
const sy_op syi_row_rope = {.name = "rope", .min_in = 1, .max_in = 1, .flags = SY_OP_IN_PLACE, .shape = rope_shape, .forward = rope_forward, .backward = rope_backward, .keep = keep_none, .test = rope_test};
sy_node *syi_op_rope(sy_graph *g, sy_node *x, const int32_t *pos, const sy_tensor *cos_t, const sy_tensor *sin_t, int64_t heads)
{
    rope_attr a = {pos, *cos_t, *sin_t, heads};
    return sy_call(g, &syi_row_rope, &x, 1, &a, sizeof a);
}

/* -- attention ------------------------------------------------------------------------------------------------ */
/* in: q, k, v; aux 0: log-sum-exp [heads, tokens]. */

static sy_status attention_shape(sy_op_call *c, int *n_aux)
{
    const syi_attention *a = c->attr;
    const sy_tensor *q = c->in[0], *k = c->in[1], *v = c->in[2];
    if (q->rank != 2 || q->dim[0] != a->tokens || q->dim[1] != a->heads * a->dim || k->dim[0] != a->tokens || k->dim[1] != a->kv_heads * a->dim || !syi_same_shape(k, v) || a->heads % a->kv_heads)
        return syi_fail(c->ctx, SY_E_BUG, "attention: %lld heads over %lld of %lld do not fit q[.., %lld], k[.., %lld]", (long long)a->heads, (long long)a->kv_heads, (long long)a->dim, (long long)q->dim[1], (long long)k->dim[1]);
    *n_aux = 1;
    *c->aux[0] = (sy_tensor){.dtype = wide(q->dtype), .rank = 2, .dim = {a->heads, a->tokens}};
    return syi_out(c, q->dtype, 2, q->dim);
}
static int64_t attention_scratch(const sy_op_call *c, bool backward) { return syi_attention_scratch(c->engine, c->in[0]->dtype, c->attr, backward); }
static sy_status attention_forward(sy_op_call *c)
{
    return syi_attention_forward(c->engine, c->out->dtype, c->attr, c->in[0]->data, c->in[1]->data, c->in[2]->data, c->out->data, c->aux[0]->data, sy_scratch(c));
}
static sy_status attention_backward(sy_op_call *c)
{
    return syi_attention_backward(c->engine, c->dout->dtype, c->attr, c->in[0]->data, c->in[1]->data, c->in[2]->data, c->out->data, c->aux[0]->data, c->dout->data,
                                  c->add[0], c->want[0] ? c->din[0]->data : NULL, c->add[1], c->want[1] ? c->din[1]->data : NULL, c->add[2],
                                  c->want[2] ? c->din[2]->data : NULL, sy_scratch(c));
}
static unsigned attention_keep(const sy_op_call *c, unsigned want) { return (void)c, (void)want, 7u | 256u; }
static double attention_flops(const sy_op_call *c, bool backward)
{
    const syi_attention *a = c->attr;
    double pairs = 0; /* query-key pairs that are needed: causal inside documents */
    for (int64_t t = 0; t < a->tokens; t++) {
        double seen = (double)(t - (a->first ? a->first[t] : 0) + 1);
        pairs += a->window > 0 && seen > (double)a->window ? (double)a->window : seen;
    }
    return (backward ? 10 : 4) * pairs * (double)(a->heads * a->dim);
}
static bool attention_test(int i, sy_op_case *out)
{
    static const int32_t first[] = {0, 0, 0, 3, 3, 5, 6, 6, 6};
    static const syi_attention attrs[] = {{9, 4, 2, 8, 0.35, first, 0}, {9, 2, 2, 8, 0.5, first, 2}};
    if (i >= SYI_COUNT(attrs)) return false;
    const syi_attention *a = &attrs[i];
    *out = (sy_op_case){.what = i ? "window of two" : "grouped heads, documents", .n_in = 3, .attr = a, .attr_size = sizeof *a};
    syi_case_in(out, 0, 2, (int64_t[]){9, a->heads * a->dim}, true);
    syi_case_in(out, 1, 2, (int64_t[]){9, a->kv_heads * a->dim}, true);
    syi_case_in(out, 2, 2, (int64_t[]){9, a->kv_heads * a->dim}, true);
    return true;
}
const sy_op syi_row_attention = {.name = "attention", .min_in = 3, .max_in = 3, .shape = attention_shape, .forward = attention_forward, .backward = attention_backward,
                                 .keep = attention_keep, .scratch = attention_scratch, .flops = attention_flops, .test = attention_test};
sy_node *syi_op_attention(sy_graph *g, sy_node *q, sy_node *k, sy_node *v, const syi_attention *shape)
{
    return sy_call(g, &syi_row_attention, (sy_node *[]){q, k, v}, 3, shape, sizeof *shape);
}

/* -- head and cross-entropy -------------------------------------------------------------------------------------- */
/* in: h[tokens, hidden], W[vocab, hidden]; out: the loss; aux 0: nll[tokens]; aux 1, when a
 * gradient of h is wanted: dh for a loss gradient of 1, made while the logits were there. A
 * trained W's gradient is added right then, which is why the loss gradient must be 1. */

static sy_status head_shape(sy_op_call *c, int *n_aux)
{
    const syi_head *a = c->attr;
    const sy_tensor *h = c->in[0], *w = c->in[1];
    if (h->rank != 2 || w->rank != 2 || h->dim[0] != a->tokens || h->dim[1] != a->hidden || w->dim[0] != a->vocab || w->dim[1] != a->hidden)
        return syi_fail(c->ctx, SY_E_BUG, "head: h[%lld, %lld] does not fit W[%lld, %lld]", (long long)h->dim[0], (long long)h->dim[1], (long long)w->dim[0], (long long)w->dim[1]);
    *c->aux[0] = (sy_tensor){.dtype = wide(h->dtype), .rank = 1, .dim = {a->tokens}};
    *n_aux = 1;
    if (c->want[0] || c->want[1]) {
        *c->aux[1] = (sy_tensor){.dtype = h->dtype, .rank = 2, .dim = {a->tokens, a->hidden}};
        *n_aux = 2;
    }
    return syi_out(c, wide(h->dtype), 1, (int64_t[]){1});
}
static int64_t head_scratch(const sy_op_call *c, bool backward) { return backward ? 0 : syi_head_scratch(c->engine, c->in[0]->dtype, c->attr); }
static sy_status head_forward(sy_op_call *c)
{
    const sy_tensor *h = c->in[0], *w = c->in[1];
    double loss = 0;
    sy_tensor *dw = c->want[1] ? c->din[1] : NULL;
    if (c->want[1] && !dw) return syi_fail(c->ctx, SY_E_BUG, "head: a trained W must be a parameter");
    SYI_TRY(syi_head_loss(c->engine, h->dtype, c->attr, h->data, w->dtype, w->data, &loss, c->aux[0]->data, c->want[0] || c->want[1] ? c->aux[1]->data : NULL,
                          dw && !sy_graph_replay(c->graph) ? dw->data : NULL, sy_scratch(c)));
    if (c->out->dtype == SY_F64) *(double *)c->out->data = loss;
    else *(float *)c->out->data = (float)loss;
    return SY_OK;
}
static sy_status head_backward(sy_op_call *c)
{
    double d = c->dout->dtype == SY_F64 ? *(const double *)c->dout->data : *(const float *)c->dout->data;
    if (c->want[1] && d != 1) return syi_fail(c->ctx, SY_E_BUG, "head: the gradient of W was made for a loss gradient of 1, not %g", d);
    if (!c->want[0]) return SY_OK;
    return syi_axpy(c->engine, c->in[0]->dtype, d, c->aux[1]->data, c->add[0], c->din[0]->data, sy_tensor_count(c->din[0]));
}
static double head_flops(const sy_op_call *c, bool backward)
{
    const syi_head *a = c->attr;
    double n = 0;
    for (int64_t t = 0; a->target && t < a->tokens; t++) n += a->target[t] >= 0;
    return backward ? 0 : 2 * n * (double)a->hidden * (double)a->vocab * (1 + c->want[0] + c->want[1]);
}
static bool head_test(int i, sy_op_case *out)
{
    static const int32_t target[] = {2, -1, 10, 0, 5, -1, 3};
    static const float weight[] = {1, 1, 0.5f, 2, 1, 1, 0.25f};
    static const syi_head attrs[] = {{7, 6, 11, target, NULL, 1.0 / 5}, {7, 6, 11, target, weight, 1}};
    if (i >= SYI_COUNT(attrs)) return false;
    *out = (sy_op_case){.what = i ? "weights" : "mean", .n_in = 2, .attr = &attrs[i], .attr_size = sizeof attrs[i]};
    syi_case_in(out, 0, 2, (int64_t[]){7, 6}, true);
    syi_case_in(out, 1, 2, (int64_t[]){11, 6}, true);
    return true;
}
const sy_op syi_row_head_loss = {.name = "head_loss", .min_in = 2, .max_in = 2, .flags = SY_OP_ROOT, .shape = head_shape, .forward = head_forward, .backward = head_backward,
                                 .keep = keep_none, .scratch = head_scratch, .flops = head_flops, .test = head_test};
sy_node *syi_op_head_loss(sy_graph *g, sy_node *h, sy_node *w, const syi_head *head)
{
    return sy_call(g, &syi_row_head_loss, (sy_node *[]){h, w}, 2, head, sizeof *head);
}
