/* SPDX-License-Identifier: Apache-2.0 */
/* Op rows that cut rows of numbers into shards: sums over shards, shards repeated, matrices
 * laid side by side; and the product that is added to a base in place. What adapters that
 * share one small matrix over pieces of a weight are made of. */
#include "graph/op_row.h"
#include "steelyard/method.h"

static syi_mat mat(const sy_tensor *t, bool transposed) { return (syi_mat){t->dtype, t->data, sy_tensor_cols(t), transposed}; }

/* -- shard_sum ------------------------------------------------------------------------ */

typedef struct { int64_t r; } shard_attr;

static sy_status shard_sum_shape(sy_op_call *c, int *n_aux)
{
    const shard_attr *a = c->attr;
    (void)n_aux;
    if (a->r < 1) return syi_fail(c->ctx, SY_E_BUG, "op shard_sum: shards of width %lld", (long long)a->r);
    syi_shape_2(c->out, c->in[0]->dtype, sy_tensor_rows(c->in[0]), a->r);
    return SY_OK;
}

static sy_status shard_sum_forward(sy_op_call *c)
{
    const sy_tensor *x = c->in[0];
    return syi_shard_sum(c->engine, x->dtype, x->data, sy_tensor_rows(x), sy_tensor_cols(x), c->out->dim[1], false, c->out->dtype, c->out->data);
}

static sy_status shard_sum_backward(sy_op_call *c)
{
    const sy_tensor *x = c->in[0];
    if (!c->want[0]) return SY_OK;
    syi_zero_unless_add(c, 0);
    return syi_repeat_add(c->engine, c->dout->dtype, c->dout->data, sy_tensor_rows(x), c->dout->dim[1], sy_tensor_cols(x), c->din[0]->dtype, c->din[0]->data);
}

static bool shard_sum_test(int i, sy_op_case *t)
{
    static const shard_attr attr[] = {{4}, {5}, {40}};
    if (i > 2) return false;
    *t = (sy_op_case){.what = i == 0 ? "whole shards" : i == 1 ? "a ragged last shard" : "one shard, wider than the rows", .n_in = 1,
                      .attr = &attr[i], .attr_size = sizeof *attr};
    syi_case_in(t, 0, 2, (const int64_t[]){9, 28}, true);
    return true;
}

const sy_op syi_row_shard_sum = {
    .name = "shard_sum", .min_in = 1, .max_in = 1, .shape = shard_sum_shape, .forward = shard_sum_forward, .backward = shard_sum_backward,
    .keep = syi_keep_none, .test = shard_sum_test,
};

sy_node *syi_op_shard_sum(sy_graph *g, sy_node *x, int64_t r) { return sy_call(g, &syi_row_shard_sum, &x, 1, &(shard_attr){r}, sizeof(shard_attr)); }

/* -- repeat_add ------------------------------------------------------------------------- */

static sy_status repeat_add_shape(sy_op_call *c, int *n_aux)
{
    const sy_tensor *base = c->in[0], *z = c->in[1];
    (void)n_aux;
    if (z->rank != 2 || z->dtype != base->dtype || z->dim[1] < 1 || sy_tensor_rows(z) != sy_tensor_rows(base))
        return syi_shape_wrong(c, "repeat_add", 1, "a matrix of input 0's type with as many rows");
    syi_shape_like(c->out, base);
    return SY_OK;
}

static sy_status repeat_add_forward(sy_op_call *c)
{
    const sy_tensor *z = c->in[1];
    sy_dtype dt = c->out->dtype;
    if (!c->in_place) SYI_TRY(syi_cast(c->engine, dt, c->in[0]->data, dt, c->out->data, sy_tensor_count(c->out)));
    return syi_repeat_add(c->engine, dt, z->data, sy_tensor_rows(z), z->dim[1], sy_tensor_cols(c->out), dt, c->out->data);
}

static sy_status repeat_add_backward(sy_op_call *c)
{
    if (c->want[1])
        SYI_TRY(syi_shard_sum(c->engine, c->dout->dtype, c->dout->data, sy_tensor_rows(c->dout), sy_tensor_cols(c->dout), c->in[1]->dim[1], c->add[1],
                              c->din[1]->dtype, c->din[1]->data));
    return syi_pass_grad(c, 0, 1);
}

static bool repeat_add_test(int i, sy_op_case *t)
{
    if (i > 1) return false;
    *t = (sy_op_case){.what = i == 0 ? "whole shards" : "a ragged last shard", .n_in = 2};
    syi_case_in(t, 0, 2, (const int64_t[]){6, 24}, true);
    syi_case_in(t, 1, 2, (const int64_t[]){6, i == 0 ? 8 : 7}, true);
    return true;
}

const sy_op syi_row_repeat_add = {
    .name = "repeat_add", .min_in = 2, .max_in = 2, .flags = SY_OP_IN_PLACE, .shape = repeat_add_shape, .forward = repeat_add_forward,
    .backward = repeat_add_backward, .keep = syi_keep_none, .test = repeat_add_test,
};

sy_node *syi_op_repeat_add(sy_graph *g, sy_node *base, sy_node *z) { return sy_call(g, &syi_row_repeat_add, (sy_node *[]){base, z}, 2, NULL, 0); }

/* -- product_add ------------------------------------------------------------------------ */

/* out = base + s h op(d): h is k columns of input 1 from column `from` on, op(d) is d[k, out],
 * or with `t` d[out, k] transposed. */
typedef struct { double s; bool t; int64_t from; } product_attr;

static int64_t product_inner(const sy_op_call *c)
{
    return c->in[2]->dim[((const product_attr *)c->attr)->t];
}

/* Some columns of a wider matrix are copied together: products want rows that lie side by side. */
static int64_t product_add_scratch(const sy_op_call *c, bool backward)
{
    const int64_t k = product_inner(c), cols = sy_tensor_cols(c->in[1]), bytes = syi_ceil_div(sy_tensor_rows(c->in[1]) * k * syi_dtype_size(c->in[1]->dtype), 64) * 64;
    return cols == k ? 0 : backward ? 2 * bytes : bytes;
}

static char *product_columns(const sy_op_call *c, const sy_tensor *h)
{
    return (char *)h->data + ((const product_attr *)c->attr)->from * syi_dtype_size(h->dtype);
}

static sy_status product_h(const sy_op_call *c, syi_mat *h)
{
    const sy_dtype dt = c->in[1]->dtype;
    const int64_t k = product_inner(c), cols = sy_tensor_cols(c->in[1]), rows = sy_tensor_rows(c->in[1]);
    *h = (syi_mat){dt, c->in[1]->data, k, false};
    if (cols == k) return SY_OK;
    h->data = sy_scratch(c);
    return syi_copy_rows(c->engine, dt, product_columns(c, c->in[1]), cols, false, dt, sy_scratch(c), k, rows, k);
}

static sy_status product_add_shape(sy_op_call *c, int *n_aux)
{
    const product_attr *a = c->attr;
    const sy_tensor *base = c->in[0], *h = c->in[1], *d = c->in[2];
    (void)n_aux;
    if (h->dtype != base->dtype || sy_tensor_rows(h) != sy_tensor_rows(base)) return syi_shape_wrong(c, "product_add", 1, "as many rows as input 0");
    if (d->rank != 2 || a->from < 0 || a->from + d->dim[a->t] > sy_tensor_cols(h) || d->dim[!a->t] != sy_tensor_cols(base))
        return syi_shape_wrong(c, "product_add", 2, "a matrix between (some) columns of input 1 and those of input 0");
    syi_shape_like(c->out, base);
    return SY_OK;
}

static sy_status product_add_forward(sy_op_call *c)
{
    const product_attr *a = c->attr;
    sy_dtype dt = c->out->dtype;
    const int64_t rows = sy_tensor_rows(c->out), out = sy_tensor_cols(c->out), k = product_inner(c);
    syi_mat h;
    SYI_TRY(product_h(c, &h));
    if (!c->in_place) SYI_TRY(syi_cast(c->engine, dt, c->in[0]->data, dt, c->out->data, rows * out));
    return syi_gemm(c->engine, rows, out, k, a->s, h, mat(c->in[2], a->t), 1, dt, c->out->data, out);
}

static sy_status product_add_backward(sy_op_call *c)
{
    const product_attr *a = c->attr;
    const int64_t rows = sy_tensor_rows(c->out), out = sy_tensor_cols(c->out), k = product_inner(c);
    if (c->want[1]) {
        const int64_t cols = sy_tensor_cols(c->in[1]);
        const sy_tensor *dh = c->din[1];
        if (cols == k) {
            SYI_TRY(syi_gemm(c->engine, rows, k, out, a->s, mat(c->dout, false), mat(c->in[2], !a->t), c->add[1], dh->dtype, dh->data, k));
        } else {
            char *some = (char *)sy_scratch(c) + product_add_scratch(c, false);
            const sy_dtype dt = c->out->dtype;
            SYI_TRY(syi_gemm(c->engine, rows, k, out, a->s, mat(c->dout, false), mat(c->in[2], !a->t), 0, dt, some, k));
            syi_zero_unless_add(c, 1); /* others bring the other columns */
            SYI_TRY(syi_copy_rows(c->engine, dt, some, k, c->add[1], dh->dtype, product_columns(c, dh), cols, rows, k));
        }
    }
    if (c->want[2]) {
        syi_mat h, dy = mat(c->dout, false);
        SYI_TRY(product_h(c, &h));
        *(a->t ? &dy.t : &h.t) = true;
        SYI_TRY(syi_gemm(c->engine, a->t ? out : k, a->t ? k : out, rows, a->s, a->t ? dy : h, a->t ? h : dy, c->add[2], c->din[2]->dtype, c->din[2]->data,
                         a->t ? k : out));
    }
    return syi_pass_grad(c, 0, 1);
}

static unsigned product_add_keep(const sy_op_call *c, unsigned want)
{
    (void)c;
    return (want & 2u ? 4u : 0) | (want & 4u ? 2u : 0);
}

static double product_add_flops(const sy_op_call *c, bool backward)
{
    const double one = 2 * (double)sy_tensor_count(c->in[2]) * (double)sy_tensor_rows(c->out);
    return backward ? one * (c->want[1] + c->want[2]) : one;
}

static bool product_add_test(int i, sy_op_case *t)
{
    static const product_attr attr[] = {{0.5, false, 0}, {2, true, 0}, {0.5, true, 3}, {0.5, true, 8}};
    if (i > 3) return false;
    *t = (sy_op_case){.what = i == 0 ? "h d" : i == 1 ? "h d^T" : "columns of h", .n_in = 3, .attr = &attr[i], .attr_size = sizeof *attr};
    const int64_t rows = i == 3 ? 90 : 7, out = i == 3 ? 100 : 11, k = i == 3 ? 16 : 5, cols = i < 2 ? k : i == 2 ? 9 : 40;
    syi_case_in(t, 0, 2, (const int64_t[]){rows, out}, true);
    syi_case_in(t, 1, 2, (const int64_t[]){rows, cols}, true);
    syi_case_in(t, 2, 2, i == 0 ? (const int64_t[]){k, out} : (const int64_t[]){out, k}, true);
    return true;
}

const sy_op syi_row_product_add = {
    .name = "product_add", .min_in = 3, .max_in = 3, .flags = SY_OP_IN_PLACE | SY_OP_PASSES, .shape = product_add_shape, .forward = product_add_forward,
    .backward = product_add_backward, .keep = product_add_keep, .scratch = product_add_scratch, .flops = product_add_flops, .test = product_add_test,
};

sy_node *syi_op_product_add(sy_graph *g, sy_node *base, sy_node *h, int64_t from, sy_node *d, bool t, double s)
{
    return sy_call(g, &syi_row_product_add, (sy_node *[]){base, h, d}, 3, &(product_attr){s, t, from}, sizeof(product_attr));
}

/* -- beside ----------------------------------------------------------------------------- */

static sy_status beside_shape(sy_op_call *c, int *n_aux)
{
    int64_t cols = 0;
    (void)n_aux;
    for (int i = 0; i < c->n_in; i++) {
        if (c->in[i]->rank != 2 || c->in[i]->dtype != c->in[0]->dtype || c->in[i]->dim[0] != c->in[0]->dim[0])
            return syi_shape_wrong(c, "beside", i, "a matrix of input 0's type with as many rows");
        cols += c->in[i]->dim[1];
    }
    syi_shape_2(c->out, c->in[0]->dtype, c->in[0]->dim[0], cols);
    return SY_OK;
}

static sy_status beside_forward(sy_op_call *c)
{
    const sy_dtype dt = c->out->dtype;
    int64_t first = 0;
    for (int i = 0; i < c->n_in; first += c->in[i++]->dim[1])
        SYI_TRY(syi_copy_rows(c->engine, dt, c->in[i]->data, c->in[i]->dim[1], false, dt, (char *)c->out->data + first * syi_dtype_size(dt), c->out->dim[1],
                              c->out->dim[0], c->in[i]->dim[1]));
    return SY_OK;
}

static sy_status beside_backward(sy_op_call *c)
{
    const sy_dtype dt = c->dout->dtype;
    int64_t first = 0;
    for (int i = 0; i < c->n_in; first += c->in[i++]->dim[1])
        if (c->want[i])
            SYI_TRY(syi_copy_rows(c->engine, dt, (const char *)c->dout->data + first * syi_dtype_size(dt), c->out->dim[1], c->add[i], c->din[i]->dtype,
                                  c->din[i]->data, c->in[i]->dim[1], c->out->dim[0], c->in[i]->dim[1]));
    return SY_OK;
}

static bool beside_test(int i, sy_op_case *t)
{
    if (i > 0) return false;
    *t = (sy_op_case){.what = "three matrices", .n_in = 3};
    for (int k = 0; k < 3; k++) syi_case_in(t, k, 2, (const int64_t[]){5, 3 + 4 * k}, true);
    return true;
}

const sy_op syi_row_beside = {
    .name = "beside", .min_in = 1, .max_in = SY_OP_MAX_IN, .shape = beside_shape, .forward = beside_forward, .backward = beside_backward,
    .keep = syi_keep_none, .test = beside_test,
};

sy_node *syi_op_beside(sy_graph *g, sy_node *const *in, int n)
{
    sy_node *pair[SY_OP_MAX_IN];
    if (n <= SY_OP_MAX_IN) return n == 1 ? in[0] : sy_call(g, &syi_row_beside, in, n, NULL, 0);
    const int part = (n + SY_OP_MAX_IN - 1) / SY_OP_MAX_IN;
    int k = 0;
    for (int i = 0; i < n; i += part) pair[k++] = syi_op_beside(g, in + i, n - i < part ? n - i : part);
    return syi_op_beside(g, pair, k);
}

/* -- decoded ---------------------------------------------------------------------------- */

/* Rows of a stored weight as numbers of the graph's type: a constant that is made when it is
 * asked for. */
typedef struct { const sy_weight *w; int64_t first, n; } decoded_attr;

static sy_status decoded_shape(sy_op_call *c, int *n_aux)
{
    const decoded_attr *a = c->attr;
    (void)n_aux;
    syi_shape_2(c->out, sy_graph_dtype(c->graph), a->n, a->w->in);
    return SY_OK;
}

static int64_t decoded_scratch(const sy_op_call *c, bool backward)
{
    const decoded_attr *a = c->attr;
    return backward || c->out->dtype == SY_F32 ? 0 : a->n * a->w->in * (int64_t)sizeof(float);
}

static sy_status decoded_forward(sy_op_call *c)
{
    const decoded_attr *a = c->attr;
    float *rows = c->out->dtype == SY_F32 ? c->out->data : sy_scratch(c);
    SYI_TRY(a->w->type->dense(c->ctx, a->w, a->first, a->n, rows));
    return rows == c->out->data ? SY_OK : syi_cast(c->engine, SY_F32, rows, c->out->dtype, c->out->data, sy_tensor_count(c->out));
}

static bool decoded_test(int i, sy_op_case *t)
{
    extern const sy_storage sy_storage_coded;
    static const float numbers[4][3] = {{1, -2, 3}, {0.5f, 0.25f, 4}, {-1, 7, 2}, {5, 6, -8}};
    static const sy_weight w = {.type = &sy_storage_coded, .out = 4, .in = 3, .slot = {{.dtype = SY_F32, .rank = 2, .dim = {4, 3}, .data = (void *)numbers}}};
    static const decoded_attr attr = {&w, 1, 2};
    if (i > 0) return false;
    *t = (sy_op_case){.what = "rows of a weight", .n_in = 0, .attr = &attr, .attr_size = sizeof attr};
    return true;
}

const sy_op syi_row_decoded = {
    .name = "decoded", .no_grad = "a stored weight is frozen", .min_in = 0, .max_in = 0, .shape = decoded_shape, .forward = decoded_forward,
    .scratch = decoded_scratch, .test = decoded_test,
};

sy_node *syi_op_decoded(sy_graph *g, const sy_weight *w, int64_t first, int64_t n)
{
    return sy_call(g, &syi_row_decoded, NULL, 0, &(decoded_attr){w, first, n}, sizeof(decoded_attr));
}
