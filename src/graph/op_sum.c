/* SPDX-License-Identifier: Apache-2.0 */
/* Op rows that add up: over everything, over rows, over columns, a dot product. */
#include "graph/op_row.h"

static int64_t via_scratch(const sy_op_call *c, bool backward)
{
    return backward ? syi_via_bytes(c, c->in[0]->dtype) : 0;
}

static bool test(int i, int n_in, sy_op_case *t)
{
    if (i > 1) return false;
    *t = (sy_op_case){.what = i == 0 ? "few rows" : "many rows", .n_in = n_in};
    for (int j = 0; j < n_in; j++) {
        t->in[j].dtype = CASE_ACT;
        t->in[j].rank = 2;
        t->in[j].dim[0] = i == 0 ? 4 : 140, t->in[j].dim[1] = i == 0 ? 37 : 3;
        t->in[j].grad = true;
    }
    return true;
}

static bool one_test(int i, sy_op_case *t) { return test(i, 1, t); }
static bool two_test(int i, sy_op_case *t) { return test(i, 2, t); }

/* -- sum ------------------------------------------------------------------------------ */

static sy_status scalar_shape(sy_op_call *c, int *n_aux)
{
    SYI_TRY(syi_shape_same(c, n_aux));
    syi_shape_1(c->out, syi_sum_type(c->in[0]->dtype), 1);
    return SY_OK;
}

static sy_status sum_forward(sy_op_call *c)
{
    syi_scalar_set(c->out, syi_sum(c->engine, c->in[0]->dtype, c->in[0]->data, sy_tensor_count(c->in[0])));
    return SY_OK;
}

static sy_status sum_backward(sy_op_call *c)
{
    if (!c->want[0]) return SY_OK;
    sy_dtype dt = c->in[0]->dtype;
    syi_via via = syi_via_begin(c, 0, dt);
    SYI_TRY(syi_fill(c->engine, dt, syi_scalar_get(c->dout), via.add, via.data, sy_tensor_count(c->in[0])));
    return syi_via_done(c, 0, dt, via);
}

const sy_op syi_row_sum = {
    .name = "sum", .min_in = 1, .max_in = 1, .flags = SY_OP_ROOT, .shape = scalar_shape, .forward = sum_forward, .backward = sum_backward,
    .keep = syi_keep_none, .scratch = via_scratch, .test = one_test,
};

sy_node *syi_op_sum(sy_graph *g, sy_node *x) { return sy_call(g, &syi_row_sum, &x, 1, NULL, 0); }

/* -- sum_rows, sum_cols ------------------------------------------------------------------ */

static sy_status sum_rows_shape(sy_op_call *c, int *n_aux)
{
    SYI_TRY(syi_shape_same(c, n_aux));
    syi_shape_1(c->out, syi_sum_type(c->in[0]->dtype), sy_tensor_cols(c->in[0]));
    return SY_OK;
}

static sy_status sum_rows_forward(sy_op_call *c)
{
    const sy_tensor *x = c->in[0];
    memset(c->out->data, 0, (size_t)sy_tensor_bytes(c->out));
    return syi_sum_rows(c->engine, x->dtype, x->data, c->out->data, sy_tensor_rows(x), sy_tensor_cols(x));
}

static sy_status sum_rows_backward(sy_op_call *c)
{
    if (!c->want[0]) return SY_OK;
    sy_dtype dt = c->in[0]->dtype;
    int64_t n = sy_tensor_count(c->in[0]);
    syi_via via = syi_via_begin(c, 0, dt);
    if (!via.add) memset(via.data, 0, (size_t)(n * syi_dtype_size(dt)));
    SYI_TRY(syi_add_bias(c->engine, dt, c->dout->data, via.data, sy_tensor_rows(c->in[0]), sy_tensor_cols(c->in[0])));
    return syi_via_done(c, 0, dt, via);
}

const sy_op syi_row_sum_rows = {
    .name = "sum_rows", .min_in = 1, .max_in = 1, .shape = sum_rows_shape, .forward = sum_rows_forward, .backward = sum_rows_backward,
    .keep = syi_keep_none, .scratch = via_scratch, .test = one_test,
};

sy_node *syi_op_sum_rows(sy_graph *g, sy_node *x) { return sy_call(g, &syi_row_sum_rows, &x, 1, NULL, 0); }

static sy_status sum_cols_shape(sy_op_call *c, int *n_aux)
{
    SYI_TRY(syi_shape_same(c, n_aux));
    syi_shape_1(c->out, syi_sum_type(c->in[0]->dtype), sy_tensor_rows(c->in[0]));
    return SY_OK;
}

static sy_status sum_cols_forward(sy_op_call *c)
{
    const sy_tensor *x = c->in[0];
    return syi_row_sums(c->engine, x->dtype, x->data, NULL, c->out->data, sy_tensor_rows(x), sy_tensor_cols(x));
}

static sy_status sum_cols_backward(sy_op_call *c)
{
    if (!c->want[0]) return SY_OK;
    sy_dtype dt = c->in[0]->dtype;
    syi_via via = syi_via_begin(c, 0, dt);
    SYI_TRY(syi_fill_rows(c->engine, dt, c->dout->data, via.add, via.data, sy_tensor_rows(c->in[0]), sy_tensor_cols(c->in[0])));
    return syi_via_done(c, 0, dt, via);
}

const sy_op syi_row_sum_cols = {
    .name = "sum_cols", .min_in = 1, .max_in = 1, .shape = sum_cols_shape, .forward = sum_cols_forward, .backward = sum_cols_backward,
    .keep = syi_keep_none, .scratch = via_scratch, .test = one_test,
};

sy_node *syi_op_sum_cols(sy_graph *g, sy_node *x) { return sy_call(g, &syi_row_sum_cols, &x, 1, NULL, 0); }

/* -- dot ------------------------------------------------------------------------------------- */

static sy_status dot_forward(sy_op_call *c)
{
    syi_scalar_set(c->out, syi_dot(c->engine, c->in[0]->dtype, c->in[0]->data, c->in[1]->data, sy_tensor_count(c->in[0])));
    return SY_OK;
}

static sy_status dot_backward(sy_op_call *c)
{
    sy_dtype dt = c->in[0]->dtype;
    for (int i = 0; i < 2; i++) {
        if (!c->want[i]) continue;
        syi_via via = syi_via_begin(c, i, dt);
        SYI_TRY(syi_axpy(c->engine, dt, syi_scalar_get(c->dout), c->in[1 - i]->data, via.add, via.data, sy_tensor_count(c->in[i])));
        SYI_TRY(syi_via_done(c, i, dt, via));
    }
    return SY_OK;
}

static unsigned dot_keep(const sy_op_call *c, unsigned want)
{
    (void)c;
    return (want & 1 ? 2u : 0) | (want & 2 ? 1u : 0);
}

static double dot_flops(const sy_op_call *c, bool backward)
{
    double n = 2 * (double)sy_tensor_count(c->in[0]);
    return backward ? n * (c->want[0] + c->want[1]) : n;
}

const sy_op syi_row_dot = {
    .name = "dot", .min_in = 2, .max_in = 2, .flags = SY_OP_ROOT, .shape = scalar_shape, .forward = dot_forward, .backward = dot_backward,
    .keep = dot_keep, .scratch = via_scratch, .flops = dot_flops, .test = two_test,
};

sy_node *syi_op_dot(sy_graph *g, sy_node *x, sy_node *y) { return sy_call(g, &syi_row_dot, (sy_node *[]){x, y}, 2, NULL, 0); }
