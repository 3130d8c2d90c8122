/* SPDX-License-Identifier: Apache-2.0 */
/* Elementwise ops, biases and scales by column, sums. */
#include "op_common.h"

static unsigned keep_none(const sy_op_call *c, unsigned want) { return (void)c, (void)want, 0; }

static sy_status like_first(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    for (int i = 1; i < c->n_in; i++)
        if (!syi_same_shape(c->in[0], c->in[i])) return syi_fail(c->ctx, SY_E_BUG, "graph: elementwise op: shapes differ (%lld and %lld numbers)", (long long)sy_tensor_count(c->in[0]), (long long)sy_tensor_count(c->in[i]));
    return syi_out(c, c->in[0]->dtype, c->in[0]->rank, c->in[0]->dim);
}

static bool two_equal(int i, sy_op_case *out)
{
    if (i > 0) return false;
    *out = (sy_op_case){.what = "two of a shape", .n_in = 2};
    syi_case_in(out, 0, 2, (int64_t[]){7, 5}, true);
    syi_case_in(out, 1, 2, (int64_t[]){7, 5}, true);
    return true;
}

/* d (+)= a * dy */
static sy_status pass(sy_op_call *c, int i, double a)
{
    return c->want[i] ? syi_axpy(c->engine, c->dout->dtype, a, c->dout->data, c->add[i], c->din[i]->data, sy_tensor_count(c->dout)) : SY_OK;
}

/* -- add, sub ------------------------------------------------------------------------------ */

static sy_status add_forward(sy_op_call *c) { return syi_add(c->engine, c->out->dtype, c->in[0]->data, c->in[1]->data, c->out->data, sy_tensor_count(c->out)); }
static sy_status add_backward(sy_op_call *c)
{
    SYI_TRY(pass(c, 0, 1));
    return pass(c, 1, 1);
}
static sy_status sub_forward(sy_op_call *c)
{
    int64_t n = sy_tensor_count(c->out);
    if (!c->in_place) memcpy(c->out->data, c->in[0]->data, (size_t)sy_tensor_bytes(c->out));
    return syi_axpy(c->engine, c->out->dtype, -1, c->in[1]->data, true, c->out->data, n);
}
static sy_status sub_backward(sy_op_call *c)
{
    SYI_TRY(pass(c, 0, 1));
    return pass(c, 1, -1);
}
const sy_op syi_row_add = {.name = "add", .min_in = 2, .max_in = 2, .flags = SY_OP_IN_PLACE, .shape = like_first, .forward = add_forward, .backward = add_backward, .keep = keep_none, .test = two_equal};
const sy_op syi_row_sub = {.name = "sub", .min_in = 2, .max_in = 2, .flags = SY_OP_IN_PLACE, .shape = like_first, .forward = sub_forward, .backward = sub_backward, .keep = keep_none, .test = two_equal};

sy_node *syi_op_add(sy_graph *g, sy_node *x, sy_node *y) { return sy_call(g, &syi_row_add, (sy_node *[]){x, y}, 2, NULL, 0); }
sy_node *syi_op_sub(sy_graph *g, sy_node *x, sy_node *y) { return sy_call(g, &syi_row_sub, (sy_node *[]){x, y}, 2, NULL, 0); }

/* -- mul ------------------------------------------------------------------------------------- */

static sy_status mul_forward(sy_op_call *c) { return syi_mul(c->engine, c->out->dtype, c->in[0]->data, c->in[1]->data, false, c->out->data, sy_tensor_count(c->out)); }
static sy_status mul_backward(sy_op_call *c)
{
    for (int i = 0; i < 2; i++)
        if (c->want[i]) SYI_TRY(syi_mul(c->engine, c->dout->dtype, c->dout->data, c->in[1 - i]->data, c->add[i], c->din[i]->data, sy_tensor_count(c->dout)));
    return SY_OK;
}
static unsigned mul_keep(const sy_op_call *c, unsigned want)
{
    (void)c;
    return (want & 1 ? 2u : 0) | (want & 2 ? 1u : 0);
}
const sy_op syi_row_mul = {.name = "mul", .min_in = 2, .max_in = 2, .shape = like_first, .forward = mul_forward, .backward = mul_backward, .keep = mul_keep, .test = two_equal};
sy_node *syi_op_mul(sy_graph *g, sy_node *x, sy_node *y) { return sy_call(g, &syi_row_mul, (sy_node *[]){x, y}, 2, NULL, 0); }

/* -- scale by a constant ------------------------------------------------------------------------ */

static sy_status scale_forward(sy_op_call *c)
{
    return syi_axpy(c->engine, c->out->dtype, *(const double *)c->attr, c->in[0]->data, false, c->out->data, sy_tensor_count(c->out));
}
static sy_status scale_backward(sy_op_call *c) { return pass(c, 0, *(const double *)c->attr); }
static bool scale_test(int i, sy_op_case *out)
{
    static const double a = -1.75;
    if (i > 0) return false;
    *out = (sy_op_case){.what = "-1.75 x", .n_in = 1, .attr = &a, .attr_size = sizeof a};
    syi_case_in(out, 0, 1, (int64_t[]){37}, true);
    return true;
}
const sy_op syi_row_scale = {.name = "scale", .min_in = 1, .max_in = 1, .flags = SY_OP_IN_PLACE, .shape = like_first, .forward = scale_forward, .backward = scale_backward, .keep = keep_none, .test = scale_test};
sy_node *syi_op_scale(sy_graph *g, sy_node *x, double a) { return sy_call(g, &syi_row_scale, &x, 1, &a, sizeof a); }

/* -- by column: x[t,c] * s[c], x[t,c] + b[c] -------------------------------------------------------- */

static sy_status cols_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    const sy_tensor *x = c->in[0], *s = c->in[1];
    sy_dtype vector = x->dtype == SY_F64 ? SY_F64 : SY_F32;
    if (s->rank != 1 || s->dim[0] != sy_tensor_cols(x) || s->dtype != vector)
        return syi_fail(c->ctx, SY_E_BUG, "graph: a vector of %lld (%s) does not fit %lld columns", (long long)sy_tensor_count(s), sy_dtype_name(s->dtype), (long long)sy_tensor_cols(x));
    return syi_out(c, x->dtype, x->rank, x->dim);
}
static sy_status scale_cols_forward(sy_op_call *c)
{
    return syi_scale_cols(c->engine, c->out->dtype, c->in[0]->data, c->in[1]->data, c->in[1]->dtype, false, c->out->data, sy_tensor_rows(c->out), sy_tensor_cols(c->out));
}
static sy_status scale_cols_backward(sy_op_call *c)
{
    int64_t rows = sy_tensor_rows(c->dout), cols = sy_tensor_cols(c->dout);
    if (c->want[0]) SYI_TRY(syi_scale_cols(c->engine, c->dout->dtype, c->dout->data, c->in[1]->data, c->in[1]->dtype, c->add[0], c->din[0]->data, rows, cols));
    if (c->want[1]) {
        if (!c->add[1]) memset(c->din[1]->data, 0, (size_t)sy_tensor_bytes(c->din[1]));
        SYI_TRY(syi_scale_cols_grad(c->engine, c->dout->dtype, c->dout->data, c->in[0]->data, c->din[1]->data, rows, cols));
    }
    return SY_OK;
}
static bool cols_test(int i, sy_op_case *out)
{
    if (i > 0) return false;
    *out = (sy_op_case){.what = "[9,6] and a vector", .n_in = 2};
    syi_case_in(out, 0, 2, (int64_t[]){9, 6}, true);
    syi_case_in(out, 1, 1, (int64_t[]){6}, true);
    return true;
}
const sy_op syi_row_scale_cols = {.name = "scale_cols", .min_in = 2, .max_in = 2, .shape = cols_shape, .forward = scale_cols_forward, .backward = scale_cols_backward, .keep = mul_keep, .test = cols_test};
sy_node *syi_op_scale_cols(sy_graph *g, sy_node *x, sy_node *s) { return sy_call(g, &syi_row_scale_cols, (sy_node *[]){x, s}, 2, NULL, 0); }

static sy_status add_bias_forward(sy_op_call *c)
{
    if (!c->in_place) memcpy(c->out->data, c->in[0]->data, (size_t)sy_tensor_bytes(c->out));
    return syi_add_bias(c->engine, c->out->dtype, c->in[1]->data, c->out->data, sy_tensor_rows(c->out), sy_tensor_cols(c->out));
}
static sy_status add_bias_backward(sy_op_call *c)
{
    SYI_TRY(pass(c, 0, 1));
    if (!c->want[1]) return SY_OK;
    if (!c->add[1]) memset(c->din[1]->data, 0, (size_t)sy_tensor_bytes(c->din[1]));
    return syi_sum_rows(c->engine, c->dout->dtype, c->dout->data, c->din[1]->data, sy_tensor_rows(c->dout), sy_tensor_cols(c->dout));
}
const sy_op syi_row_add_bias = {.name = "add_bias", .min_in = 2, .max_in = 2, .flags = SY_OP_IN_PLACE, .shape = cols_shape, .forward = add_bias_forward, .backward = add_bias_backward, .keep = keep_none, .test = cols_test};
sy_node *syi_op_add_bias(sy_graph *g, sy_node *x, sy_node *b) { return sy_call(g, &syi_row_add_bias, (sy_node *[]){x, b}, 2, NULL, 0); }

/* -- dropout -------------------------------------------------------------------------------------------- */

typedef struct { double p; uint64_t key; } dropout_attr;
static sy_status dropout_forward(sy_op_call *c)
{
    const dropout_attr *a = c->attr;
    return syi_dropout(c->engine, c->out->dtype, a->key, a->p, c->in[0]->data, false, c->out->data, sy_tensor_count(c->out));
}
static sy_status dropout_backward(sy_op_call *c)
{
    const dropout_attr *a = c->attr;
    return syi_dropout(c->engine, c->dout->dtype, a->key, a->p, c->dout->data, c->add[0], c->din[0]->data, sy_tensor_count(c->dout));
}
static bool dropout_test(int i, sy_op_case *out)
{
    static const dropout_attr a = {0.4, 99};
    if (i > 0) return false;
    *out = (sy_op_case){.what = "p 0.4", .n_in = 1, .attr = &a, .attr_size = sizeof a};
    syi_case_in(out, 0, 2, (int64_t[]){20, 11}, true);
    return true;
}
const sy_op syi_row_dropout = {.name = "dropout", .min_in = 1, .max_in = 1, .shape = like_first, .forward = dropout_forward, .backward = dropout_backward, .keep = keep_none, .test = dropout_test};
sy_node *syi_op_dropout(sy_graph *g, sy_node *x, double p, uint64_t key)
{
    dropout_attr a = {p, key};
    return p > 0 ? sy_call(g, &syi_row_dropout, &x, 1, &a, sizeof a) : x;
}

/* -- cast, reshape ------------------------------------------------------------------------------------------ */

static sy_status cast_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    return syi_out(c, *(const sy_dtype *)c->attr, c->in[0]->rank, c->in[0]->dim);
}
static sy_status cast_forward(sy_op_call *c) { return syi_cast(c->engine, c->in[0]->dtype, c->in[0]->data, c->out->dtype, c->out->data, sy_tensor_count(c->out)); }
static sy_status cast_backward(sy_op_call *c)
{
    int64_t n = sy_tensor_count(c->dout);
    return c->add[0] ? syi_accumulate(c->engine, c->dout->dtype, c->dout->data, c->din[0]->dtype, c->din[0]->data, n)
                     : syi_cast(c->engine, c->dout->dtype, c->dout->data, c->din[0]->dtype, c->din[0]->data, n);
}
static bool cast_test(int i, sy_op_case *out)
{
    static const sy_dtype to = SY_F64;
    if (i > 0) return false;
    *out = (sy_op_case){.what = "to f64", .n_in = 1, .attr = &to, .attr_size = sizeof to};
    syi_case_in(out, 0, 2, (int64_t[]){3, 5}, true);
    return true;
}
const sy_op syi_row_cast = {.name = "cast", .min_in = 1, .max_in = 1, .shape = cast_shape, .forward = cast_forward, .backward = cast_backward, .keep = keep_none, .test = cast_test};
sy_node *syi_op_cast(sy_graph *g, sy_node *x, sy_dtype to)
{
    const sy_tensor *t = sy_shape(x);
    return t && t->dtype == to ? x : sy_call(g, &syi_row_cast, &x, 1, &to, sizeof to);
}

typedef struct { int rank; int64_t dim[SY_MAX_RANK]; } reshape_attr;
static sy_status reshape_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    const reshape_attr *a = c->attr;
    SYI_TRY(syi_out(c, c->in[0]->dtype, a->rank, a->dim));
    if (sy_tensor_count(c->out) != sy_tensor_count(c->in[0])) return syi_fail(c->ctx, SY_E_BUG, "reshape: %lld numbers into %lld", (long long)sy_tensor_count(c->in[0]), (long long)sy_tensor_count(c->out));
    return SY_OK;
}
static sy_status reshape_forward(sy_op_call *c)
{
    if (!c->in_place) memcpy(c->out->data, c->in[0]->data, (size_t)sy_tensor_bytes(c->out));
    return SY_OK;
}
static sy_status reshape_backward(sy_op_call *c) { return pass(c, 0, 1); }
static bool reshape_test(int i, sy_op_case *out)
{
    static const reshape_attr a = {2, {6, 5}};
    if (i > 0) return false;
    *out = (sy_op_case){.what = "[2,3,5] to [6,5]", .n_in = 1, .attr = &a, .attr_size = sizeof a};
    syi_case_in(out, 0, 3, (int64_t[]){2, 3, 5}, true);
    return true;
}
const sy_op syi_row_reshape = {.name = "reshape", .min_in = 1, .max_in = 1, .flags = SY_OP_IN_PLACE, .shape = reshape_shape, .forward = reshape_forward, .backward = reshape_backward, .keep = keep_none, .test = reshape_test};
sy_node *syi_op_reshape(sy_graph *g, sy_node *x, int rank, const int64_t *dim)
{
    reshape_attr a = {.rank = rank};
    for (int i = 0; i < rank && i < SY_MAX_RANK; i++) a.dim[i] = dim[i];
    return sy_call(g, &syi_row_reshape, &x, 1, &a, sizeof a);
}

/* -- sums ------------------------------------------------------------------------------------------------------ */

static sy_dtype wide(const sy_tensor *x) { return x->dtype == SY_F64 ? SY_F64 : SY_F32; }

static sy_status scalar_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    if (c->n_in == 2 && !syi_same_shape(c->in[0], c->in[1])) return syi_fail(c->ctx, SY_E_BUG, "dot: shapes differ");
    return syi_out(c, wide(c->in[0]), 1, (int64_t[]){1});
}
static void put(sy_tensor *t, double v)
{
    if (t->dtype == SY_F64) *(double *)t->data = v;
    else *(float *)t->data = (float)v;
}
static double get(const sy_tensor *t) { return t->dtype == SY_F64 ? *(const double *)t->data : *(const float *)t->data; }

/* sum x = dot(x, 1): a vector of ones in a fixed piece, summed in order of pieces. */
static sy_status sum_forward(sy_op_call *c)
{
    const sy_tensor *x = c->in[0];
    int64_t n = sy_tensor_count(x);
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
        if (x->dtype == SY_F64) total += ((const double *)x->data)[i];
        else if (x->dtype == SY_F32) total += ((const float *)x->data)[i];
        else {
            float v;
            SYI_TRY(sy_to_f32(c->ctx, x->dtype, (const char *)x->data + i * sy_dtype_block_bytes(x->dtype), &v, 1));
            total += v;
        }
    }
    put(c->out, total);
    return SY_OK;
}
static sy_status sum_backward(sy_op_call *c)
{
    sy_tensor *d = c->din[0];
    int64_t n = sy_tensor_count(d);
    double v = get(c->dout);
    if (d->dtype == SY_F64)
        for (int64_t i = 0; i < n; i++) ((double *)d->data)[i] = (c->add[0] ? ((double *)d->data)[i] : 0) + v;
    else
        for (int64_t i = 0; i < n; i++) {
            char *at = (char *)d->data + i * sy_dtype_block_bytes(d->dtype);
            float old = 0;
            if (c->add[0]) SYI_TRY(sy_to_f32(c->ctx, d->dtype, at, &old, 1));
            old += (float)v;
            SYI_TRY(sy_from_f32(c->ctx, d->dtype, &old, at, 1));
        }
    return SY_OK;
}
static bool sum_test(int i, sy_op_case *out)
{
    if (i > 0) return false;
    *out = (sy_op_case){.what = "[4,9]", .n_in = 1};
    syi_case_in(out, 0, 2, (int64_t[]){4, 9}, true);
    return true;
}
const sy_op syi_row_sum = {.name = "sum", .min_in = 1, .max_in = 1, .flags = SY_OP_ROOT, .shape = scalar_shape, .forward = sum_forward, .backward = sum_backward, .keep = keep_none, .test = sum_test};
sy_node *syi_op_sum(sy_graph *g, sy_node *x) { return sy_call(g, &syi_row_sum, &x, 1, NULL, 0); }

static sy_status sum_rows_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    return syi_out(c, wide(c->in[0]), 1, (int64_t[]){sy_tensor_cols(c->in[0])});
}
static sy_status sum_rows_forward(sy_op_call *c)
{
    memset(c->out->data, 0, (size_t)sy_tensor_bytes(c->out));
    return syi_sum_rows(c->engine, c->in[0]->dtype, c->in[0]->data, c->out->data, sy_tensor_rows(c->in[0]), sy_tensor_cols(c->in[0]));
}
static sy_status sum_rows_backward(sy_op_call *c)
{
    /* every row gets dy: a bias added to zeros, or to what is there */
    if (!c->add[0]) memset(c->din[0]->data, 0, (size_t)sy_tensor_bytes(c->din[0]));
    return syi_add_bias(c->engine, c->din[0]->dtype, c->dout->data, c->din[0]->data, sy_tensor_rows(c->din[0]), sy_tensor_cols(c->din[0]));
}
const sy_op syi_row_sum_rows = {.name = "sum_rows", .min_in = 1, .max_in = 1, .shape = sum_rows_shape, .forward = sum_rows_forward, .backward = sum_rows_backward, .keep = keep_none, .test = sum_test};
sy_node *syi_op_sum_rows(sy_graph *g, sy_node *x) { return sy_call(g, &syi_row_sum_rows, &x, 1, NULL, 0); }

static sy_status dot_forward(sy_op_call *c)
{
    put(c->out, syi_dot(c->engine, c->in[0]->dtype, c->in[0]->data, c->in[1]->data, sy_tensor_count(c->in[0])));
    return SY_OK;
}
static sy_status dot_backward(sy_op_call *c)
{
    for (int i = 0; i < 2; i++)
        if (c->want[i]) SYI_TRY(syi_axpy(c->engine, c->in[0]->dtype, get(c->dout), c->in[1 - i]->data, c->add[i], c->din[i]->data, sy_tensor_count(c->in[0])));
    return SY_OK;
}
const sy_op syi_row_dot = {.name = "dot", .min_in = 2, .max_in = 2, .flags = SY_OP_ROOT, .shape = scalar_shape, .forward = dot_forward, .backward = dot_backward, .keep = mul_keep, .test = two_equal};
sy_node *syi_op_dot(sy_graph *g, sy_node *x, sy_node *y) { return sy_call(g, &syi_row_dot, (sy_node *[]){x, y}, 2, NULL, 0); }
