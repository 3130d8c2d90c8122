/* SPDX-License-Identifier: Apache-2.0 */
/* Op rows of a transformer: RMS norm, SwiGLU, rotary embedding, attention, the
 * embedding table, the head with its loss. */
#include "graph/op_row.h"

static void case_in(sy_op_case *t, int i, sy_dtype role, int64_t rows, int64_t cols, bool grad)
{
    t->in[i].dtype = role;
    t->in[i].rank = rows > 0 ? 2 : 1;
    t->in[i].dim[0] = rows > 0 ? rows : cols;
    t->in[i].dim[1] = cols;
    t->in[i].grad = grad;
}

/* -- rmsnorm ---------------------------------------------------------------------------- */

/* Each row is `heads` rows to the norm; the weight counts as plus + w. */
typedef struct { double eps; int64_t heads; double plus; } rmsnorm_attr;

/* The weights as they count: themselves, or made in scratch. */
static const void *rmsnorm_weights(const sy_op_call *c)
{
    const double plus = ((const rmsnorm_attr *)c->attr)->plus;
    const sy_tensor *w = c->in[1];
    if (plus == 0) return w->data;
    void *made = sy_scratch(c);
    for (int64_t i = 0; i < sy_tensor_count(w); i++) {
        if (w->dtype == SY_F64) ((double *)made)[i] = ((const double *)w->data)[i] + plus;
        else ((float *)made)[i] = ((const float *)w->data)[i] + (float)plus;
    }
    return made;
}

static int64_t rmsnorm_weight_bytes(const sy_op_call *c)
{
    return ((const rmsnorm_attr *)c->attr)->plus == 0 ? 0 : syi_ceil_div(sy_tensor_bytes(c->in[1]), 64) * 64;
}

static sy_status rmsnorm_shape(sy_op_call *c, int *n_aux)
{
    const rmsnorm_attr *a = c->attr;
    const sy_tensor *x = c->in[0], *w = c->in[1];
    if (a->heads < 1 || sy_tensor_cols(x) % a->heads != 0 || sy_tensor_count(w) != sy_tensor_cols(x) / a->heads ||
        w->dtype != syi_sum_type(x->dtype))
        return syi_shape_wrong(c, "rmsnorm", 1, "one f32 (f64 beside f64) a feature of input 0");
    syi_shape_like(c->out, x);
    if (c->training) {
        syi_shape_1(c->aux[0], w->dtype, sy_tensor_rows(x) * a->heads);
        *n_aux = 1;
    }
    return SY_OK;
}

static sy_status rmsnorm_forward(sy_op_call *c)
{
    const rmsnorm_attr *a = c->attr;
    const sy_tensor *x = c->in[0], *w = c->in[1];
    void *rstd = c->aux[0] != NULL ? c->aux[0]->data : NULL;
    return syi_rmsnorm(c->engine, x->dtype, x->data, rmsnorm_weights(c), a->eps, c->out->data, rstd, sy_tensor_rows(x) * a->heads, sy_tensor_count(w));
}

static sy_status rmsnorm_backward(sy_op_call *c)
{
    const rmsnorm_attr *a = c->attr;
    const sy_tensor *x = c->in[0], *w = c->in[1];
    sy_dtype dt = c->dout->dtype;
    syi_via via = {NULL, false};
    const void *weights = rmsnorm_weights(c);
    if (c->want[0]) via = c->din[0]->dtype == dt ? syi_via_begin(c, 0, dt) : (syi_via){(char *)sy_scratch(c) + rmsnorm_weight_bytes(c), false};
    if (c->want[1]) syi_zero_unless_add(c, 1);
    SYI_TRY(syi_rmsnorm_grad(c->engine, dt, c->dout->data, x->data, weights, c->aux[0]->data, via.add, via.data, c->want[1] ? c->din[1]->data : NULL,
                             sy_tensor_rows(x) * a->heads, sy_tensor_count(w)));
    return c->want[0] ? syi_via_done(c, 0, dt, via) : SY_OK;
}

static int64_t rmsnorm_scratch(const sy_op_call *c, bool backward)
{
    bool other = backward && c->want[0] && c->din[0] != NULL && c->din[0]->dtype != c->out->dtype;
    return rmsnorm_weight_bytes(c) + (other ? sy_tensor_bytes(c->out) : 0);
}

static bool rmsnorm_test(int i, sy_op_case *t)
{
    static const rmsnorm_attr attr[] = {{1e-5, 1, 0}, {1e-6, 3, 0}, {1e-5, 1, 0}, {1e-5, 1, 1}};
    if (i > 3) return false;
    *t = (sy_op_case){.what = i == 3 ? "1 + w" : i == 1 ? "over heads" : "over rows", .n_in = 2, .attr = &attr[i], .attr_size = sizeof *attr};
    case_in(t, 0, CASE_ACT, i == 2 ? 80 : 4, i == 1 ? 21 : 18, true);
    case_in(t, 1, CASE_VEC, 0, i == 1 ? 7 : 18, true);
    return true;
}

const sy_op syi_row_rmsnorm = {
    .name = "rmsnorm", .min_in = 2, .max_in = 2, .flags = SY_OP_CHEAP, .shape = rmsnorm_shape, .forward = rmsnorm_forward,
    .backward = rmsnorm_backward, .scratch = rmsnorm_scratch, .test = rmsnorm_test,
};

sy_node *syi_op_rmsnorm(sy_graph *g, sy_node *x, sy_node *w, double eps) { return syi_op_rmsnorm_heads(g, x, w, eps, 1, 0); }

sy_node *syi_op_rmsnorm_heads(sy_graph *g, sy_node *x, sy_node *w, double eps, int64_t heads, double plus)
{
    return sy_call(g, &syi_row_rmsnorm, (sy_node *[]){x, w}, 2, &(rmsnorm_attr){eps, heads, plus}, sizeof(rmsnorm_attr));
}

/* -- swiglu ------------------------------------------------------------------------------- */

static sy_status swiglu_forward(sy_op_call *c)
{
    return syi_swiglu(c->engine, c->out->dtype, c->in[0]->data, c->in[1]->data, c->out->data, sy_tensor_count(c->out));
}

static sy_status swiglu_backward(sy_op_call *c)
{
    sy_dtype dt = c->dout->dtype;
    int64_t n = sy_tensor_count(c->dout);
    const void *gate = c->in[0]->data, *up = c->in[1]->data;
    bool same = true; /* both destinations can be written directly */
    for (int i = 0; i < 2; i++) same = same && (!c->want[i] || c->din[i]->dtype == dt);
    if (same)
        return syi_swiglu_grad(c->engine, dt, c->dout->data, gate, up, c->add[0], c->want[0] ? c->din[0]->data : NULL, c->add[1],
                               c->want[1] ? c->din[1]->data : NULL, n);
    for (int i = 0; i < 2; i++) {
        if (!c->want[i]) continue;
        syi_via via = syi_via_begin(c, i, dt);
        SYI_TRY(syi_swiglu_grad(c->engine, dt, c->dout->data, gate, up, via.add, i == 0 ? via.data : NULL, via.add, i == 1 ? via.data : NULL, n));
        SYI_TRY(syi_via_done(c, i, dt, via));
    }
    return SY_OK;
}

static int64_t swiglu_scratch(const sy_op_call *c, bool backward)
{
    return backward ? syi_via_bytes(c, c->out->dtype) : 0;
}

static bool swiglu_test(int i, sy_op_case *t)
{
    if (i > 1) return false;
    *t = (sy_op_case){.what = i == 0 ? "usual" : "large gates", .n_in = 2};
    case_in(t, 0, CASE_ACT, 5, 23, true);
    case_in(t, 1, CASE_ACT, 5, 23, true);
    t->in[0].scale = i == 0 ? 1 : 6;
    return true;
}

const sy_op syi_row_swiglu = {
    .name = "swiglu", .min_in = 2, .max_in = 2, .flags = SY_OP_CHEAP, .shape = syi_shape_same, .forward = swiglu_forward,
    .backward = swiglu_backward, .scratch = swiglu_scratch, .test = swiglu_test,
};

sy_node *syi_op_swiglu(sy_graph *g, sy_node *gate, sy_node *up) { return sy_call(g, &syi_row_swiglu, (sy_node *[]){gate, up}, 2, NULL, 0); }

/* -- rope -------------------------------------------------------------------------------------- */

typedef struct { const int32_t *pos; int64_t heads; } rope_attr;

static sy_status rope_shape(sy_op_call *c, int *n_aux)
{
    (void)n_aux;
    const rope_attr *a = c->attr;
    const sy_tensor *x = c->in[0];
    int64_t dim = a->heads > 0 ? sy_tensor_cols(x) / a->heads : 0;
    if (dim <= 0 || sy_tensor_cols(x) % a->heads != 0 || dim % 2 != 0) return syi_shape_wrong(c, "rope", 0, "heads of even size");
    for (int i = 1; i < 3; i++)
        if (c->in[i]->rank != 2 || c->in[i]->dim[1] != dim / 2 || c->in[i]->dtype != syi_sum_type(x->dtype))
            return syi_shape_wrong(c, "rope", i, "a table [positions, half of a head] in f32 (f64 beside f64)");
    syi_shape_like(c->out, x);
    return SY_OK;
}

static sy_status rope_run(sy_op_call *c, const sy_tensor *x, bool inverse, bool add, void *y)
{
    const rope_attr *a = c->attr;
    int64_t positions = c->in[1]->dim[0], tokens = sy_tensor_rows(x);
    for (int64_t i = 0; i < tokens; i++)
        if (a->pos[i] < 0 || a->pos[i] >= positions)
            return syi_fail(c->ctx, SY_E_BUG, "rope: token %lld is at position %d, the table has %lld", (long long)i, (int)a->pos[i], (long long)positions);
    return syi_rope(c->engine, x->dtype, x->data, a->pos, c->in[1]->data, c->in[2]->data, inverse, add, y, tokens, a->heads,
                    sy_tensor_cols(x) / a->heads);
}

static sy_status rope_forward(sy_op_call *c) { return rope_run(c, c->in[0], false, false, c->out->data); }

static sy_status rope_backward(sy_op_call *c)
{
    if (!c->want[0]) return SY_OK;
    syi_via via = syi_via_begin(c, 0, c->dout->dtype);
    SYI_TRY(rope_run(c, c->dout, true, via.add, via.data));
    return syi_via_done(c, 0, c->dout->dtype, via);
}

static unsigned rope_keep(const sy_op_call *c, unsigned want)
{
    (void)c, (void)want;
    return 2u | 4u;
}

static bool rope_test(int i, sy_op_case *t)
{
    static const int32_t pos[] = {0, 3, 1, 5, 2};
    static const rope_attr attr = {pos, 2};
    if (i > 0) return false;
    /* Any tables will do: the op is linear in x. */
    *t = (sy_op_case){.what = "two heads", .n_in = 3, .attr = &attr, .attr_size = sizeof attr};
    case_in(t, 0, CASE_ACT, 5, 12, true);
    case_in(t, 1, CASE_VEC, 6, 3, false);
    case_in(t, 2, CASE_VEC, 6, 3, false);
    return true;
}

const sy_op syi_row_rope = {
    .name = "rope", .min_in = 3, .max_in = 3, .flags = SY_OP_IN_PLACE, .shape = rope_shape, .forward = rope_forward, .backward = rope_backward,
    .keep = rope_keep, .scratch = swiglu_scratch, .test = rope_test,
};

sy_node *syi_op_rope(sy_graph *g, sy_node *x, const int32_t *pos, const sy_tensor *cos_t, const sy_tensor *sin_t, int64_t heads)
{
    sy_node *in[] = {x, sy_const(g, cos_t), sy_const(g, sin_t)};
    return sy_call(g, &syi_row_rope, in, 3, &(rope_attr){pos, heads}, sizeof(rope_attr));
}

/* -- attention ------------------------------------------------------------------------------------ */

static sy_status attention_shape(sy_op_call *c, int *n_aux)
{
    const syi_attention *a = c->attr;
    for (int i = 0; i < 3; i++) {
        const sy_tensor *x = c->in[i];
        if (sy_tensor_count(x) != a->tokens * (i == 0 ? a->heads : a->kv_heads) * a->dim || x->dtype != c->in[0]->dtype)
            return syi_shape_wrong(c, "attention", i, "tokens x heads x dim of the attention's shape, of input 0's type");
    }
    syi_shape_like(c->out, c->in[0]);
    if (c->training) {
        syi_shape_2(c->aux[0], syi_sum_type(c->in[0]->dtype), a->heads, a->tokens);
        *n_aux = 1;
    }
    return SY_OK;
}

static int64_t attention_scratch(const sy_op_call *c, bool backward)
{
    int64_t own = syi_attention_scratch(c->engine, c->in[0]->dtype, c->attr, backward);
    const syi_attention *a = c->attr;
    /* A forward without a backward still needs a place for lse. */
    int64_t lse = !backward && !c->training ? a->heads * a->tokens * syi_dtype_size(syi_sum_type(c->in[0]->dtype)) : 0;
    int64_t via = 0;
    for (int i = 0; backward && i < 3; i++)
        if (c->want[i] && c->din[i] != NULL && c->din[i]->dtype != c->in[0]->dtype) via += syi_ceil_div(sy_tensor_bytes(c->in[i]), 64) * 64;
    return syi_ceil_div(own, 64) * 64 + lse + via;
}

static sy_status attention_forward(sy_op_call *c)
{
    const syi_attention *a = c->attr;
    sy_dtype dt = c->in[0]->dtype;
    void *lse = c->aux[0] != NULL ? c->aux[0]->data : NULL;
    char *scratch = sy_scratch(c);
    if (lse == NULL) lse = scratch + syi_ceil_div(syi_attention_scratch(c->engine, dt, a, false), 64) * 64;
    return syi_attention_forward(c->engine, dt, a, c->in[0]->data, c->in[1]->data, c->in[2]->data, c->out->data, lse, scratch);
}

static sy_status attention_backward(sy_op_call *c)
{
    const syi_attention *a = c->attr;
    sy_dtype dt = c->in[0]->dtype;
    char *scratch = sy_scratch(c), *next = scratch + syi_ceil_div(syi_attention_scratch(c->engine, dt, a, true), 64) * 64;
    void *d[3] = {NULL, NULL, NULL};
    bool add[3] = {false, false, false};
    for (int i = 0; i < 3; i++) {
        if (!c->want[i]) continue;
        if (c->din[i]->dtype == dt) {
            d[i] = c->din[i]->data;
            add[i] = c->add[i];
        } else {
            d[i] = next;
            next += syi_ceil_div(sy_tensor_bytes(c->in[i]), 64) * 64;
        }
    }
    SYI_TRY(syi_attention_backward(c->engine, dt, a, c->in[0]->data, c->in[1]->data, c->in[2]->data, c->out->data, c->aux[0]->data, c->dout->data,
                                   add[0], d[0], add[1], d[1], add[2], d[2], scratch));
    for (int i = 0; i < 3; i++)
        if (d[i] != NULL) SYI_TRY(syi_via_done(c, i, dt, (syi_via){d[i], add[i]}));
    return SY_OK;
}

static unsigned attention_keep(const sy_op_call *c, unsigned want)
{
    (void)c, (void)want;
    return 7u | SYI_KEEP_OUT;
}

/* Pairs of tokens that see each other, products of q with k and of p with v; the
 * backward has five such products. */
static double attention_flops(const sy_op_call *c, bool backward)
{
    const syi_attention *a = c->attr;
    double pairs = 0;
    for (int64_t t = 0; t < a->tokens; t++) {
        int64_t first = a->first[t];
        if (a->window > 0) first = syi_max(first, t - a->window + 1);
        pairs += (double)((a->last ? a->last[t] : t) - first + 1);
    }
    return pairs * 2 * (double)(a->heads * a->dim) * (backward ? 4 : 2); /* scores made again in backward are not counted */
}

static bool attention_test(int i, sy_op_case *t)
{
    static const int32_t first[] = {0, 0, 0, 3, 3, 3, 3, 3, 8};
    static const int32_t last[] = {2, 2, 2, 7, 7, 7, 7, 7, 8};
    static const syi_attention attr[] = {{9, 2, 2, 4, 0.5, first, 0, 0, NULL}, {9, 4, 2, 6, 0.4, first, 0, 0, NULL}, {9, 2, 1, 4, 0.5, first, 2, 0, NULL},
                                         {9, 2, 1, 4, 0.5, first, 3, 0.7, NULL}, {9, 2, 2, 4, 0.5, first, 0, 0, last}};
    static const char *const what[] = {"documents", "grouped heads", "window", "window and soft cap", "looking ahead"};
    if (i >= SYI_COUNT(attr)) return false;
    *t = (sy_op_case){.what = what[i], .n_in = 3, .attr = &attr[i], .attr_size = sizeof *attr, .tol_bf16 = 3e-2};
    case_in(t, 0, CASE_ACT, 9, attr[i].heads * attr[i].dim, true);
    case_in(t, 1, CASE_ACT, 9, attr[i].kv_heads * attr[i].dim, true);
    case_in(t, 2, CASE_ACT, 9, attr[i].kv_heads * attr[i].dim, true);
    return true;
}

const sy_op syi_row_attention = {
    .name = "attention", .min_in = 3, .max_in = 3, .shape = attention_shape, .forward = attention_forward, .backward = attention_backward,
    .keep = attention_keep, .scratch = attention_scratch, .flops = attention_flops, .test = attention_test,
};

sy_node *syi_op_attention(sy_graph *g, sy_node *q, sy_node *k, sy_node *v, const syi_attention *shape)
{
    return sy_call(g, &syi_row_attention, (sy_node *[]){q, k, v}, 3, shape, sizeof *shape);
}

/* -- embed -------------------------------------------------------------------------------------------- */

typedef struct { const int32_t *ids; int64_t tokens; sy_dtype dtype; bool follow, panels; } embed_attr;

static sy_status embed_shape(sy_op_call *c, int *n_aux)
{
    (void)n_aux;
    const embed_attr *a = c->attr;
    if (c->in[0]->rank != 2) return syi_shape_wrong(c, "embed", 0, "a table [vocabulary, features]");
    syi_shape_2(c->out, a->follow ? c->in[0]->dtype : a->dtype, a->tokens, c->in[0]->dim[1]);
    return SY_OK;
}

static sy_status embed_forward(sy_op_call *c)
{
    const embed_attr *a = c->attr;
    const sy_tensor *w = c->in[0];
    if (a->panels) return syi_embed_panels(c->engine, w->data, w->dim[0], a->ids, c->out->dtype, c->out->data, a->tokens, w->dim[1]);
    return syi_embed(c->engine, w->dtype, w->data, w->dim[0], a->ids, c->out->dtype, c->out->data, a->tokens, w->dim[1]);
}

static sy_status embed_backward(sy_op_call *c)
{
    const embed_attr *a = c->attr;
    const sy_tensor *w = c->in[0];
    sy_dtype dt = c->dout->dtype, sum = syi_sum_type(dt);
    if (!c->want[0]) return SY_OK;
    syi_via via = syi_via_begin(c, 0, sum);
    if (!via.add) memset(via.data, 0, (size_t)(sy_tensor_count(w) * syi_dtype_size(sum)));
    SYI_TRY(syi_embed_grad(c->engine, dt, c->dout->data, a->ids, via.data, w->dim[0], a->tokens, w->dim[1]));
    return syi_via_done(c, 0, sum, via);
}

static int64_t embed_scratch(const sy_op_call *c, bool backward)
{
    return backward ? syi_via_bytes(c, syi_sum_type(c->out->dtype)) : 0;
}

static double embed_traffic(const sy_op_call *c, bool backward)
{
    return (double)sy_tensor_bytes(c->out) * (backward ? 3 : 2);
}

static bool embed_test(int i, sy_op_case *t)
{
    static const int32_t ids[] = {3, 0, 3, 6, 3, 1};
    static const embed_attr attr = {ids, 6, SY_F32, true, false};
    if (i > 0) return false;
    *t = (sy_op_case){.what = "repeated ids", .n_in = 1, .attr = &attr, .attr_size = sizeof attr};
    case_in(t, 0, CASE_ACT, 7, 21, true);
    return true;
}

const sy_op syi_row_embed = {
    .name = "embed", .min_in = 1, .max_in = 1, .shape = embed_shape, .forward = embed_forward, .backward = embed_backward,
    .keep = syi_keep_none, .scratch = embed_scratch, .traffic = embed_traffic, .test = embed_test,
};

sy_node *syi_op_embed(sy_graph *g, sy_node *table, bool panels, const int32_t *ids, int64_t tokens)
{
    return sy_call(g, &syi_row_embed, &table, 1, &(embed_attr){ids, tokens, sy_graph_dtype(g), false, panels}, sizeof(embed_attr));
}
