/* SPDX-License-Identifier: Apache-2.0 */
/* Op rows of layers in general: activations (alone, or times another value), layer norm,
 * slices of columns, chosen rows. SwiGLU has a row of its own in op_transformer.c. */
#include "graph/op_row.h"

/* -- activate -------------------------------------------------------------------------------- */

static sy_status act_forward(sy_op_call *c)
{
    return syi_activate(c->engine, c->out->dtype, *(const syi_act *)c->attr, c->in[0]->data, c->n_in > 1 ? c->in[1]->data : NULL, c->out->data,
                        sy_tensor_count(c->out));
}

static sy_status act_backward(sy_op_call *c)
{
    const syi_act kind = *(const syi_act *)c->attr;
    const sy_dtype dt = c->dout->dtype;
    const void *x = c->in[0]->data, *u = c->n_in > 1 ? c->in[1]->data : NULL;
    for (int i = 0; i < c->n_in; i++) {
        if (!c->want[i]) continue;
        const syi_via via = syi_via_begin(c, i, dt);
        SYI_TRY(syi_activate_grad(c->engine, dt, kind, c->dout->data, x, u, via.add, i == 0 ? via.data : NULL, via.add, i == 1 ? via.data : NULL,
                                  sy_tensor_count(c->dout)));
        SYI_TRY(syi_via_done(c, i, dt, via));
    }
    return SY_OK;
}

static int64_t act_scratch(const sy_op_call *c, bool backward) { return backward ? syi_via_bytes(c, c->out->dtype) : 0; }

static bool act_test(int i, sy_op_case *t)
{
#define KIND(k) k,
#define NAME_OF(k) #k,
    static const syi_act kinds[] = {SYI_ACT_EACH(KIND)};
    static const char *const names[] = {SYI_ACT_EACH(NAME_OF)};
    if (i >= 2 * SYI_COUNT(kinds)) return false;
    *t = (sy_op_case){.what = names[i / 2], .n_in = 1 + i % 2, .attr = &kinds[i / 2], .attr_size = sizeof kinds[0]};
    for (int k = 0; k < t->n_in; k++) syi_case_in(t, k, 2, (int64_t[]){5, 23}, true);
    t->in[0].scale = 2;
    t->in[0].shift = 0.01; /* no number at relu's corner */
    return true;
}

const sy_op syi_row_activate = {
    .name = "activate", .min_in = 1, .max_in = 2, .flags = SY_OP_CHEAP, .shape = syi_shape_same, .forward = act_forward, .backward = act_backward,
    .scratch = act_scratch, .test = act_test,
};

sy_node *syi_op_activate(sy_graph *g, syi_act kind, sy_node *x) { return sy_call(g, &syi_row_activate, &x, 1, &kind, sizeof kind); }

sy_node *syi_op_gated(sy_graph *g, syi_act kind, sy_node *gate, sy_node *up)
{
    if (kind == SYI_ACT_SILU) return syi_op_swiglu(g, gate, up);
    return sy_call(g, &syi_row_activate, (sy_node *[]){gate, up}, 2, &kind, sizeof kind);
}

/* -- layernorm ---------------------------------------------------------------------------------- */

enum { MEAN, RSTD };

static sy_status layernorm_shape(sy_op_call *c, int *n_aux)
{
    const sy_tensor *x = c->in[0];
    const sy_dtype vec = syi_sum_type(x->dtype);
    for (int i = 1; i < c->n_in; i++)
        if (c->in[i]->dtype != vec || sy_tensor_count(c->in[i]) != sy_tensor_cols(x)) return syi_shape_wrong(c, "layernorm", i, "one f32 (f64 beside f64) a feature of input 0");
    syi_shape_like(c->out, x);
    if (c->training) {
        syi_shape_1(c->aux[MEAN], vec, sy_tensor_rows(x));
        syi_shape_1(c->aux[RSTD], vec, sy_tensor_rows(x));
        *n_aux = 2;
    }
    return SY_OK;
}

static sy_status layernorm_forward(sy_op_call *c)
{
    const sy_tensor *x = c->in[0];
    return syi_layernorm(c->engine, x->dtype, x->data, c->in[1]->data, c->n_in > 2 ? c->in[2]->data : NULL, *(const double *)c->attr, c->out->data,
                         c->aux[MEAN] != NULL ? c->aux[MEAN]->data : NULL, c->aux[RSTD] != NULL ? c->aux[RSTD]->data : NULL, sy_tensor_rows(x), sy_tensor_cols(x));
}

static sy_status layernorm_backward(sy_op_call *c)
{
    const sy_tensor *x = c->in[0];
    const sy_dtype dt = c->dout->dtype;
    syi_via via = {NULL, false};
    if (c->want[0]) via = syi_via_begin(c, 0, dt);
    for (int i = 1; i < c->n_in; i++)
        if (c->want[i]) syi_zero_unless_add(c, i);
    SYI_TRY(syi_layernorm_grad(c->engine, dt, c->dout->data, x->data, c->in[1]->data, c->aux[MEAN]->data, c->aux[RSTD]->data, via.add, via.data,
                               c->want[1] ? c->din[1]->data : NULL, c->n_in > 2 && c->want[2] ? c->din[2]->data : NULL, sy_tensor_rows(x), sy_tensor_cols(x)));
    return c->want[0] ? syi_via_done(c, 0, dt, via) : SY_OK;
}

static unsigned layernorm_keep(const sy_op_call *c, unsigned want)
{
    (void)c, (void)want;
    return 1u | 2u;
}

static int64_t layernorm_scratch(const sy_op_call *c, bool backward)
{
    const bool other = backward && c->want[0] && c->din[0] != NULL && c->din[0]->dtype != c->out->dtype;
    return other ? sy_tensor_bytes(c->out) : 0;
}

static bool layernorm_test(int i, sy_op_case *t)
{
    static const double eps = 1e-5;
    static const char *const what[] = {"weight and bias", "no bias", "many rows"};
    if (i > 2) return false;
    *t = (sy_op_case){.what = what[i], .n_in = i == 1 ? 2 : 3, .attr = &eps, .attr_size = sizeof eps};
    syi_case_in(t, 0, 2, (int64_t[]){i == 2 ? 80 : 4, 21}, true);
    t->in[0].shift = 1;
    for (int k = 1; k < t->n_in; k++) t->in[k].dtype = CASE_VEC, t->in[k].rank = 1, t->in[k].dim[0] = 21, t->in[k].grad = true;
    return true;
}

const sy_op syi_row_layernorm = {
    .name = "layernorm", .min_in = 2, .max_in = 3, .flags = SY_OP_CHEAP, .shape = layernorm_shape, .forward = layernorm_forward,
    .backward = layernorm_backward, .keep = layernorm_keep, .scratch = layernorm_scratch, .test = layernorm_test,
};

sy_node *syi_op_layernorm(sy_graph *g, sy_node *x, sy_node *w, sy_node *b, double eps)
{
    return sy_call(g, &syi_row_layernorm, (sy_node *[]){x, w, b}, b ? 3 : 2, &eps, sizeof eps);
}

/* -- slice ------------------------------------------------------------------------------------------- */

typedef struct { int64_t first, n; } slice_attr;

static sy_status slice_shape(sy_op_call *c, int *n_aux)
{
    const slice_attr *a = c->attr;
    const sy_tensor *x = c->in[0];
    (void)n_aux;
    if (x->rank != 2 || a->first < 0 || a->n < 0 || a->first + a->n > x->dim[1]) return syi_shape_wrong(c, "slice", 0, "[rows, columns] with the columns that are asked for");
    syi_shape_2(c->out, x->dtype, x->dim[0], a->n);
    return SY_OK;
}

static sy_status slice_forward(sy_op_call *c)
{
    const slice_attr *a = c->attr;
    const int64_t z = syi_dtype_size(c->out->dtype), cols = c->in[0]->dim[1];
    for (int64_t r = 0; r < c->out->dim[0]; r++)
        memcpy((char *)c->out->data + r * a->n * z, (const char *)c->in[0]->data + (r * cols + a->first) * z, (size_t)(a->n * z));
    return SY_OK;
}

static sy_status slice_backward(sy_op_call *c)
{
    const slice_attr *a = c->attr;
    sy_tensor *d = c->din[0];
    if (!c->want[0]) return SY_OK;
    const int64_t cols = c->in[0]->dim[1], zd = syi_dtype_size(d->dtype), z = syi_dtype_size(c->dout->dtype);
    syi_zero_unless_add(c, 0);
    for (int64_t r = 0; r < c->dout->dim[0]; r++)
        SYI_TRY(syi_accumulate(c->engine, c->dout->dtype, (const char *)c->dout->data + r * a->n * z, d->dtype, (char *)d->data + (r * cols + a->first) * zd, a->n));
    return SY_OK;
}

static bool slice_test(int i, sy_op_case *t)
{
    static const slice_attr attr = {3, 5};
    if (i > 0) return false;
    *t = (sy_op_case){.what = "5 of 11 columns", .n_in = 1, .attr = &attr, .attr_size = sizeof attr};
    syi_case_in(t, 0, 2, (int64_t[]){6, 11}, true);
    return true;
}

const sy_op syi_row_slice = {
    .name = "slice", .min_in = 1, .max_in = 1, .shape = slice_shape, .forward = slice_forward, .backward = slice_backward, .keep = syi_keep_none,
    .test = slice_test,
};

sy_node *syi_op_slice(sy_graph *g, sy_node *x, int64_t first, int64_t n) { return sy_call(g, &syi_row_slice, &x, 1, &(slice_attr){first, n}, sizeof(slice_attr)); }

/* -- gather ------------------------------------------------------------------------------------------ */

typedef struct { const int32_t *index; int64_t n; } gather_attr;

static sy_status gather_shape(sy_op_call *c, int *n_aux)
{
    const gather_attr *a = c->attr;
    (void)n_aux;
    if (c->in[0]->rank != 2) return syi_shape_wrong(c, "gather", 0, "[rows, columns]");
    syi_shape_2(c->out, c->in[0]->dtype, a->n, c->in[0]->dim[1]);
    return SY_OK;
}

static sy_status gather_forward(sy_op_call *c)
{
    const gather_attr *a = c->attr;
    const size_t bytes = (size_t)(c->out->dim[1] * syi_dtype_size(c->out->dtype));
    for (int64_t i = 0; i < a->n; i++) {
        if (a->index[i] >= c->in[0]->dim[0]) return syi_fail(c->ctx, SY_E_BUG, "gather: row %d of %lld", a->index[i], (long long)c->in[0]->dim[0]);
        if (a->index[i] < 0) memset((char *)c->out->data + (size_t)i * bytes, 0, bytes);
        else memcpy((char *)c->out->data + (size_t)i * bytes, (const char *)c->in[0]->data + (size_t)a->index[i] * bytes, bytes);
    }
    return SY_OK;
}

static sy_status gather_backward(sy_op_call *c)
{
    const gather_attr *a = c->attr;
    sy_tensor *d = c->din[0];
    if (!c->want[0]) return SY_OK;
    const int64_t cols = c->in[0]->dim[1], zd = syi_dtype_size(d->dtype), z = syi_dtype_size(c->dout->dtype);
    syi_zero_unless_add(c, 0);
    for (int64_t i = 0; i < a->n; i++) /* one after the other: a row may be taken twice */
        if (a->index[i] >= 0)
            SYI_TRY(syi_accumulate(c->engine, c->dout->dtype, (const char *)c->dout->data + i * cols * z, d->dtype, (char *)d->data + a->index[i] * cols * zd, cols));
    return SY_OK;
}

static bool gather_test(int i, sy_op_case *t)
{
    static const int32_t index[] = {4, 0, -1, 4};
    static const gather_attr attr = {index, 4};
    if (i > 0) return false;
    *t = (sy_op_case){.what = "a row twice, one of zeros", .n_in = 1, .attr = &attr, .attr_size = sizeof attr};
    syi_case_in(t, 0, 2, (int64_t[]){6, 9}, true);
    return true;
}

const sy_op syi_row_gather = {
    .name = "gather", .min_in = 1, .max_in = 1, .shape = gather_shape, .forward = gather_forward, .backward = gather_backward, .keep = syi_keep_none,
    .test = gather_test,
};

sy_node *syi_op_gather(sy_graph *g, sy_node *x, const int32_t *index, int64_t n)
{
    return sy_call(g, &syi_row_gather, &x, 1, &(gather_attr){index, n}, sizeof(gather_attr));
}
