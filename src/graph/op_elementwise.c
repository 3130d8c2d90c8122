/* SPDX-License-Identifier: Apache-2.0 */
/* Op rows that work number by number, with or without a vector per column. */
#include "graph/op_row.h"

static int64_t count(const sy_op_call *c)
{
    return sy_tensor_count(c->out);
}

/* Scratch for gradients whose destination has another type. */
static int64_t via_scratch(const sy_op_call *c, bool backward)
{
    return backward ? syi_via_bytes(c, c->out->dtype) : 0;
}

static void case_same(sy_op_case *t, const char *what, int n_in)
{
    *t = (sy_op_case){.what = what, .n_in = n_in};
    for (int i = 0; i < n_in; i++) {
        t->in[i].dtype = CASE_ACT;
        t->in[i].rank = 2;
        t->in[i].dim[0] = 5, t->in[i].dim[1] = 19;
        t->in[i].grad = true;
    }
}

/* -- add, sub ----------------------------------------------------------------------- */

static sy_status add_scaled(sy_op_call *c, double a)
{
    sy_dtype dt = c->out->dtype;
    if (c->in_place) return syi_axpy(c->engine, dt, a, c->in[1]->data, true, c->out->data, count(c));
    return syi_add_scaled(c->engine, dt, c->in[0]->data, a, c->in[1]->data, c->out->data, count(c));
}

static sy_status add_forward(sy_op_call *c) { return add_scaled(c, 1); }
static sy_status sub_forward(sy_op_call *c) { return add_scaled(c, -1); }

static sy_status add_backward(sy_op_call *c)
{
    SYI_TRY(syi_pass_grad(c, 0, 1));
    return syi_pass_grad(c, 1, 1);
}

static sy_status sub_backward(sy_op_call *c)
{
    SYI_TRY(syi_pass_grad(c, 0, 1));
    return syi_pass_grad(c, 1, -1);
}

static bool two_test(int i, sy_op_case *t)
{
    case_same(t, "same shape", 2);
    return i == 0;
}

const sy_op syi_row_add = {
    .name = "add", .min_in = 2, .max_in = 2, .flags = SY_OP_IN_PLACE | SY_OP_PASSES, .shape = syi_shape_same, .forward = add_forward,
    .backward = add_backward, .keep = syi_keep_none, .scratch = via_scratch, .test = two_test,
};

const sy_op syi_row_sub = {
    .name = "sub", .min_in = 2, .max_in = 2, .flags = SY_OP_IN_PLACE | SY_OP_PASSES, .shape = syi_shape_same, .forward = sub_forward,
    .backward = sub_backward, .keep = syi_keep_none, .scratch = via_scratch, .test = two_test,
};

sy_node *syi_op_add(sy_graph *g, sy_node *x, sy_node *y) { return sy_call(g, &syi_row_add, (sy_node *[]){x, y}, 2, NULL, 0); }
sy_node *syi_op_sub(sy_graph *g, sy_node *x, sy_node *y) { return sy_call(g, &syi_row_sub, (sy_node *[]){x, y}, 2, NULL, 0); }

/* -- mul, div, sqrt, square ------------------------------------------------------------ */

/* din[i] (+)= a * (x op y) */
static sy_status give(sy_op_call *c, int i, syi_combination op, double a, const sy_tensor *x, const sy_tensor *y, const sy_tensor *w)
{
    if (!c->want[i]) return SY_OK;
    sy_dtype dt = c->out->dtype;
    syi_via via = syi_via_begin(c, i, dt);
    SYI_TRY(syi_combine(c->engine, dt, op, a, x->data, y ? y->data : NULL, w ? w->data : NULL, via.add, via.data, count(c)));
    return syi_via_done(c, i, dt, via);
}

static sy_status combine_forward(sy_op_call *c, syi_combination op)
{
    const void *y = c->n_in > 1 ? c->in[1]->data : NULL;
    return syi_combine(c->engine, c->out->dtype, op, 1, c->in[0]->data, y, NULL, false, c->out->data, count(c));
}

static sy_status mul_forward(sy_op_call *c) { return combine_forward(c, SYI_MUL); }
static sy_status div_forward(sy_op_call *c) { return combine_forward(c, SYI_DIV); }
static sy_status sqrt_forward(sy_op_call *c) { return combine_forward(c, SYI_SQRT); }
static sy_status square_forward(sy_op_call *c)
{
    return syi_combine(c->engine, c->out->dtype, SYI_MUL, 1, c->in[0]->data, c->in[0]->data, NULL, false, c->out->data, count(c));
}

static sy_status mul_backward(sy_op_call *c)
{
    SYI_TRY(give(c, 0, SYI_MUL, 1, c->dout, c->in[1], NULL));
    return give(c, 1, SYI_MUL, 1, c->dout, c->in[0], NULL);
}

static sy_status div_backward(sy_op_call *c)
{
    SYI_TRY(give(c, 0, SYI_DIV, 1, c->dout, c->in[1], NULL));
    return give(c, 1, SYI_MULDIV, -1, c->dout, c->out, c->in[1]);
}

static sy_status sqrt_backward(sy_op_call *c) { return give(c, 0, SYI_DIV, 0.5, c->dout, c->out, NULL); }
static sy_status square_backward(sy_op_call *c) { return give(c, 0, SYI_MUL, 2, c->dout, c->in[0], NULL); }

static unsigned mul_keep(const sy_op_call *c, unsigned want)
{
    (void)c;
    return (want & 1 ? 2u : 0) | (want & 2 ? 1u : 0);
}

static unsigned div_keep(const sy_op_call *c, unsigned want)
{
    (void)c;
    return 2u | (want & 2 ? (unsigned)SYI_KEEP_OUT : 0);
}

/* Denominators and radicands stay away from 0. */
static bool div_test(int i, sy_op_case *t)
{
    case_same(t, "denominator near 3", 2);
    t->in[1].scale = 0.3, t->in[1].shift = 3;
    return i == 0;
}

static bool sqrt_test(int i, sy_op_case *t)
{
    case_same(t, "near 4", 1);
    t->in[0].scale = 0.5, t->in[0].shift = 4;
    return i == 0;
}

static bool one_test(int i, sy_op_case *t)
{
    case_same(t, "any shape", 1);
    return i == 0;
}

const sy_op syi_row_mul = {
    .name = "mul", .min_in = 2, .max_in = 2, .shape = syi_shape_same, .forward = mul_forward, .backward = mul_backward, .keep = mul_keep,
    .scratch = via_scratch, .test = two_test,
};

const sy_op syi_row_div = {
    .name = "div", .min_in = 2, .max_in = 2, .shape = syi_shape_same, .forward = div_forward, .backward = div_backward, .keep = div_keep,
    .scratch = via_scratch, .test = div_test,
};

const sy_op syi_row_sqrt = {
    .name = "sqrt", .min_in = 1, .max_in = 1, .shape = syi_shape_same, .forward = sqrt_forward, .backward = sqrt_backward,
    .keep = syi_keep_out, .scratch = via_scratch, .test = sqrt_test,
};

const sy_op syi_row_square = {
    .name = "square", .min_in = 1, .max_in = 1, .shape = syi_shape_same, .forward = square_forward, .backward = square_backward,
    .scratch = via_scratch, .test = one_test,
};

sy_node *syi_op_mul(sy_graph *g, sy_node *x, sy_node *y) { return sy_call(g, &syi_row_mul, (sy_node *[]){x, y}, 2, NULL, 0); }
sy_node *syi_op_div(sy_graph *g, sy_node *x, sy_node *y) { return sy_call(g, &syi_row_div, (sy_node *[]){x, y}, 2, NULL, 0); }
sy_node *syi_op_sqrt(sy_graph *g, sy_node *x) { return sy_call(g, &syi_row_sqrt, &x, 1, NULL, 0); }
sy_node *syi_op_square(sy_graph *g, sy_node *x) { return sy_call(g, &syi_row_square, &x, 1, NULL, 0); }

/* -- scale ------------------------------------------------------------------------------- */

static sy_status scale_forward(sy_op_call *c)
{
    return syi_axpy(c->engine, c->out->dtype, *(const double *)c->attr, c->in[0]->data, false, c->out->data, count(c));
}

static sy_status scale_backward(sy_op_call *c) { return syi_pass_grad(c, 0, *(const double *)c->attr); }

static bool scale_test(int i, sy_op_case *t)
{
    static const double a = -1.75;
    case_same(t, "by -1.75", 1);
    t->attr = &a;
    t->attr_size = sizeof a;
    return i == 0;
}

const sy_op syi_row_scale = {
    .name = "scale", .min_in = 1, .max_in = 1, .flags = SY_OP_IN_PLACE, .shape = syi_shape_same, .forward = scale_forward,
    .backward = scale_backward, .keep = syi_keep_none, .scratch = via_scratch, .test = scale_test,
};

sy_node *syi_op_scale(sy_graph *g, sy_node *x, double a) { return sy_call(g, &syi_row_scale, &x, 1, &a, sizeof a); }

/* -- a vector per column -------------------------------------------------------------------- */

static sy_status vector_shape(sy_op_call *c, int *n_aux)
{
    (void)n_aux;
    const sy_tensor *x = c->in[0], *s = c->in[1];
    if (sy_tensor_count(s) != sy_tensor_cols(x) || s->dtype != syi_sum_type(x->dtype))
        return syi_shape_wrong(c, "on columns", 1, "one f32 (f64 beside f64) a column of input 0");
    syi_shape_like(c->out, x);
    return SY_OK;
}

static sy_status scale_cols_forward(sy_op_call *c)
{
    const sy_tensor *x = c->in[0], *s = c->in[1];
    return syi_scale_cols(c->engine, x->dtype, x->data, s->data, s->dtype, false, c->out->data, sy_tensor_rows(x), sy_tensor_cols(x));
}

static sy_status scale_cols_backward(sy_op_call *c)
{
    const sy_tensor *x = c->in[0], *s = c->in[1];
    int64_t rows = sy_tensor_rows(c->out), cols = sy_tensor_cols(c->out);
    sy_dtype dt = c->dout->dtype;
    if (c->want[0]) {
        syi_via via = syi_via_begin(c, 0, dt);
        SYI_TRY(syi_scale_cols(c->engine, dt, c->dout->data, s->data, s->dtype, via.add, via.data, rows, cols));
        SYI_TRY(syi_via_done(c, 0, dt, via));
    }
    if (c->want[1]) {
        syi_zero_unless_add(c, 1);
        SYI_TRY(syi_scale_cols_grad(c->engine, dt, c->dout->data, x->data, c->din[1]->data, rows, cols));
    }
    return SY_OK;
}

/* Only input 0 can have a gradient of another type: the vector's is its own. */
static int64_t vector_scratch(const sy_op_call *c, bool backward)
{
    bool other = backward && c->want[0] && c->din[0] != NULL && c->din[0]->dtype != c->out->dtype;
    return other ? sy_tensor_bytes(c->out) : 0;
}

static bool vector_test(int i, sy_op_case *t)
{
    if (i > 1) return false;
    *t = (sy_op_case){.what = i == 0 ? "few rows" : "many rows", .n_in = 2};
    t->in[0].dtype = CASE_ACT, t->in[0].rank = 2, t->in[0].grad = true;
    t->in[0].dim[0] = i == 0 ? 5 : 150, t->in[0].dim[1] = i == 0 ? 19 : 3;
    t->in[1].dtype = CASE_VEC, t->in[1].rank = 1, t->in[1].grad = true;
    t->in[1].dim[0] = t->in[0].dim[1];
    return true;
}

const sy_op syi_row_scale_cols = {
    .name = "scale_cols", .min_in = 2, .max_in = 2, .shape = vector_shape, .forward = scale_cols_forward, .backward = scale_cols_backward,
    .keep = mul_keep, .scratch = vector_scratch, .test = vector_test,
};

sy_node *syi_op_scale_cols(sy_graph *g, sy_node *x, sy_node *s) { return sy_call(g, &syi_row_scale_cols, (sy_node *[]){x, s}, 2, NULL, 0); }

static sy_status add_bias_forward(sy_op_call *c)
{
    if (!c->in_place) SYI_TRY(syi_cast(c->engine, c->out->dtype, c->in[0]->data, c->out->dtype, c->out->data, count(c)));
    return syi_add_bias(c->engine, c->out->dtype, c->in[1]->data, c->out->data, sy_tensor_rows(c->out), sy_tensor_cols(c->out));
}

static sy_status add_bias_backward(sy_op_call *c)
{
    SYI_TRY(syi_pass_grad(c, 0, 1));
    if (!c->want[1]) return SY_OK;
    syi_zero_unless_add(c, 1);
    return syi_sum_rows(c->engine, c->dout->dtype, c->dout->data, c->din[1]->data, sy_tensor_rows(c->dout), sy_tensor_cols(c->dout));
}

const sy_op syi_row_add_bias = {
    .name = "add_bias", .min_in = 2, .max_in = 2, .flags = SY_OP_IN_PLACE | SY_OP_PASSES, .shape = vector_shape, .forward = add_bias_forward,
    .backward = add_bias_backward, .keep = syi_keep_none, .test = vector_test,
};

sy_node *syi_op_add_bias(sy_graph *g, sy_node *x, sy_node *b) { return sy_call(g, &syi_row_add_bias, (sy_node *[]){x, b}, 2, NULL, 0); }

/* -- dropout ------------------------------------------------------------------------------------ */

typedef struct { double p; uint64_t key; } dropout_attr;

static sy_status dropout_forward(sy_op_call *c)
{
    const dropout_attr *a = c->attr;
    return syi_dropout(c->engine, c->out->dtype, a->key, a->p, c->in[0]->data, false, c->out->data, count(c));
}

static sy_status dropout_backward(sy_op_call *c)
{
    const dropout_attr *a = c->attr;
    if (!c->want[0]) return SY_OK;
    syi_via via = syi_via_begin(c, 0, c->dout->dtype);
    SYI_TRY(syi_dropout(c->engine, c->dout->dtype, a->key, a->p, c->dout->data, via.add, via.data, count(c)));
    return syi_via_done(c, 0, c->dout->dtype, via);
}

static bool dropout_test(int i, sy_op_case *t)
{
    static const dropout_attr a = {0.3, 4321};
    case_same(t, "p 0.3", 1);
    t->attr = &a;
    t->attr_size = sizeof a;
    return i == 0;
}

const sy_op syi_row_dropout = {
    .name = "dropout", .min_in = 1, .max_in = 1, .shape = syi_shape_same, .forward = dropout_forward, .backward = dropout_backward,
    .keep = syi_keep_none, .scratch = via_scratch, .test = dropout_test,
};

sy_node *syi_op_dropout(sy_graph *g, sy_node *x, double p, uint64_t key)
{
    return p > 0 ? sy_call(g, &syi_row_dropout, &x, 1, &(dropout_attr){p, key}, sizeof(dropout_attr)) : x;
}

/* -- cast, reshape --------------------------------------------------------------------------------- */

static sy_status cast_shape(sy_op_call *c, int *n_aux)
{
    (void)n_aux;
    syi_shape_like(c->out, c->in[0]);
    c->out->dtype = *(const sy_dtype *)c->attr;
    if (!sy_dtype_is_float(c->out->dtype) || c->out->dtype == SY_F16 || !sy_dtype_is_float(c->in[0]->dtype) || c->in[0]->dtype == SY_F16)
        return syi_shape_wrong(c, "cast", 0, "F32, BF16 or F64, and so the result");
    return SY_OK;
}

static sy_status cast_forward(sy_op_call *c)
{
    return syi_cast(c->engine, c->in[0]->dtype, c->in[0]->data, c->out->dtype, c->out->data, count(c));
}

static sy_status pass_backward(sy_op_call *c) { return syi_pass_grad(c, 0, 1); }

static bool cast_test(int i, sy_op_case *t)
{
    static const sy_dtype to = SY_F64;
    case_same(t, "to F64", 1);
    t->attr = &to;
    t->attr_size = sizeof to;
    return i == 0;
}

const sy_op syi_row_cast = {
    .name = "cast", .min_in = 1, .max_in = 1, .shape = cast_shape, .forward = cast_forward, .backward = pass_backward, .keep = syi_keep_none,
    .test = cast_test,
};

sy_node *syi_op_cast(sy_graph *g, sy_node *x, sy_dtype to)
{
    const sy_tensor *t = sy_shape(x);
    return t != NULL && t->dtype == to ? x : sy_call(g, &syi_row_cast, &x, 1, &to, sizeof to);
}

typedef struct { int rank; int64_t dim[SY_MAX_RANK]; } reshape_attr;

static sy_status reshape_shape(sy_op_call *c, int *n_aux)
{
    (void)n_aux;
    const reshape_attr *a = c->attr;
    int64_t n = 1;
    syi_shape_like(c->out, c->in[0]);
    c->out->rank = a->rank;
    for (int i = 0; i < a->rank; i++) n *= c->out->dim[i] = a->dim[i];
    return n == sy_tensor_count(c->in[0]) ? SY_OK : syi_shape_wrong(c, "reshape", 0, "as many numbers as the new shape has");
}

static sy_status reshape_forward(sy_op_call *c)
{
    return c->in_place ? SY_OK : syi_cast(c->engine, c->out->dtype, c->in[0]->data, c->out->dtype, c->out->data, count(c));
}

static bool reshape_test(int i, sy_op_case *t)
{
    static const reshape_attr a = {3, {19, 1, 5}};
    case_same(t, "5 x 19 to 19 x 1 x 5", 1);
    t->attr = &a;
    t->attr_size = sizeof a;
    return i == 0;
}

const sy_op syi_row_reshape = {
    .name = "reshape", .min_in = 1, .max_in = 1, .flags = SY_OP_IN_PLACE | SY_OP_PASSES, .shape = reshape_shape, .forward = reshape_forward,
    .backward = pass_backward, .keep = syi_keep_none, .test = reshape_test,
};

sy_node *syi_op_reshape(sy_graph *g, sy_node *x, int rank, const int64_t *dim)
{
    reshape_attr a = {rank, {0}};
    if (rank < 0 || rank > SY_MAX_RANK) {
        sy_graph_fail(g, syi_fail(sy_graph_context(g), SY_E_BUG, "reshape to rank %d: at most %d", rank, (int)SY_MAX_RANK));
        return NULL;
    }
    for (int i = 0; i < rank; i++) a.dim[i] = dim[i];
    return sy_call(g, &syi_row_reshape, &x, 1, &a, sizeof a);
}
