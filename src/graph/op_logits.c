/* SPDX-License-Identifier: Apache-2.0 */
/* Cross-entropy from logits, and slices of rows: what an output head with an adapter
 * around it needs. The fused head_loss is for all others. */
#include "graph/op_row.h"

#include <math.h>

/* -- rows ------------------------------------------------------------------------------ */

typedef struct { int64_t row, n; } rows_attr;

static sy_status rows_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    const rows_attr *a = c->attr;
    const sy_tensor *x = c->in[0];
    if (x->rank != 2 || a->row < 0 || a->n < 0 || a->row + a->n > x->dim[0]) return syi_fail(c->ctx, SY_E_BUG, "rows: %lld + %lld of %lld", (long long)a->row, (long long)a->n, (long long)x->dim[0]);
    syi_shape_2(c->out, x->dtype, a->n, x->dim[1]);
    return SY_OK;
}
static sy_status rows_forward(sy_op_call *c)
{
    const rows_attr *a = c->attr;
    int64_t row_bytes = sy_dtype_block_bytes(c->out->dtype) * c->out->dim[1];
    memcpy(c->out->data, (const char *)c->in[0]->data + a->row * row_bytes, (size_t)(a->n * row_bytes));
    return SY_OK;
}
static sy_status rows_backward(sy_op_call *c)
{
    const rows_attr *a = c->attr;
    sy_dtype dt = c->din[0]->dtype;
    syi_zero_unless_add(c, 0);
    void *to = (char *)c->din[0]->data + a->row * c->out->dim[1] * syi_dtype_size(dt);
    return syi_accumulate(c->engine, c->dout->dtype, c->dout->data, dt, to, sy_tensor_count(c->dout));
}
static bool rows_test(int i, sy_op_case *out)
{
    static const rows_attr a = {2, 3};
    if (i > 0) return false;
    *out = (sy_op_case){.what = "3 of 7", .n_in = 1, .attr = &a, .attr_size = sizeof a};
    syi_case_in(out, 0, 2, (int64_t[]){7, 4}, true);
    return true;
}
const sy_op syi_row_rows = {.name = "rows", .min_in = 1, .max_in = 1, .shape = rows_shape, .forward = rows_forward, .backward = rows_backward, .keep = syi_keep_none, .test = rows_test};
sy_node *syi_op_rows(sy_graph *g, sy_node *x, int64_t row, int64_t n)
{
    rows_attr a = {row, n};
    return sy_call(g, &syi_row_rows, &x, 1, &a, sizeof a);
}

/* -- cross-entropy ------------------------------------------------------------------------- */

typedef struct { const int32_t *target; const float *weight; double scale; float *nll; } xent_attr;

static double logit(const sy_tensor *x, int64_t at)
{
    if (x->dtype == SY_F64) return ((const double *)x->data)[at];
    if (x->dtype == SY_F32) return ((const float *)x->data)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)x->data)[at] << 16;
    float v;
    memcpy(&v, &bits, 4);
    return v;
}

static sy_status xent_shape(sy_op_call *c, int *n_aux)
{
    const sy_tensor *x = c->in[0];
    sy_dtype wide = x->dtype == SY_F64 ? SY_F64 : SY_F32;
    if (x->rank != 2) return syi_fail(c->ctx, SY_E_BUG, "cross_entropy: logits have two dimensions");
    *n_aux = 1; /* log of the sum of exponentials of each row */
    *c->aux[0] = (sy_tensor){.dtype = SY_F64, .rank = 1, .dim = {x->dim[0]}};
    syi_shape_1(c->out, wide, 1);
    return SY_OK;
}
static sy_status xent_forward(sy_op_call *c)
{
    const xent_attr *a = c->attr;
    const sy_tensor *x = c->in[0];
    int64_t rows = x->dim[0], cols = x->dim[1];
    double *lse = c->aux[0]->data, total = 0;
    for (int64_t r = 0; r < rows; r++)
        if (a->target[r] >= cols) return syi_fail(c->ctx, SY_E_BUG, "cross_entropy: target %d of %lld classes", a->target[r], (long long)cols);
#pragma omp parallel for num_threads(syi_omp(c->ctx)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        double top = -INFINITY, sum = 0;
        for (int64_t v = 0; v < cols; v++) top = fmax(top, logit(x, r * cols + v));
        for (int64_t v = 0; v < cols; v++) sum += exp(logit(x, r * cols + v) - top);
        lse[r] = top + log(sum);
    }
    for (int64_t r = 0; r < rows; r++) {
        double nll = a->target[r] < 0 ? 0 : lse[r] - logit(x, r * cols + a->target[r]);
        if (a->nll) a->nll[r] = (float)nll;
        total += nll * (a->weight ? a->weight[r] : 1);
    }
    if (c->out->dtype == SY_F64) *(double *)c->out->data = total * a->scale;
    else *(float *)c->out->data = (float)(total * a->scale);
    return SY_OK;
}
static sy_status xent_backward(sy_op_call *c)
{
    const xent_attr *a = c->attr;
    const sy_tensor *x = c->in[0];
    sy_tensor *dx = c->din[0];
    int64_t rows = x->dim[0], cols = x->dim[1];
    const double *lse = c->aux[0]->data;
    double d = (c->dout->dtype == SY_F64 ? *(const double *)c->dout->data : *(const float *)c->dout->data) * a->scale;
    sy_status status = SY_OK;
#pragma omp parallel for num_threads(syi_omp(c->ctx)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        double w = a->target[r] < 0 ? 0 : d * (a->weight ? a->weight[r] : 1);
        for (int64_t v = 0; v < cols; v++) {
            int64_t at = r * cols + v;
            double g = w == 0 ? 0 : w * (exp(logit(x, at) - lse[r]) - (v == a->target[r]));
            if (c->add[0]) g += logit(dx, at);
            float f = (float)g;
            if (dx->dtype == SY_F64) ((double *)dx->data)[at] = g;
            else if (dx->dtype == SY_F32) ((float *)dx->data)[at] = f;
            else if (sy_from_f32(c->ctx, dx->dtype, &f, (uint16_t *)dx->data + at, 1) != SY_OK) {
#pragma omp atomic write
                status = SY_E_BUG;
            }
        }
    }
    return status;
}
static bool xent_test(int i, sy_op_case *out)
{
    static const int32_t target[] = {1, -1, 4, 0};
    static const float weight[] = {1, 2, 0.5f, 1};
    static const xent_attr attrs[] = {{target, NULL, 1, NULL}, {target, weight, 0.25, NULL}};
    if (i >= SYI_COUNT(attrs)) return false;
    *out = (sy_op_case){.what = i ? "weights" : "plain", .n_in = 1, .attr = &attrs[i], .attr_size = sizeof attrs[i]};
    syi_case_in(out, 0, 2, (int64_t[]){4, 5}, true);
    return true;
}
static unsigned xent_keep(const sy_op_call *c, unsigned want) { return (void)c, want & 1; }
const sy_op syi_row_cross_entropy = {.name = "cross_entropy", .min_in = 1, .max_in = 1, .flags = SY_OP_ROOT, .shape = xent_shape, .forward = xent_forward, .backward = xent_backward,
                                     .keep = xent_keep, .test = xent_test};
sy_node *syi_op_cross_entropy(sy_graph *g, sy_node *logits, const int32_t *target, const float *weight, double scale, float *nll_out)
{
    xent_attr a = {target, weight, scale, nll_out};
    return sy_call(g, &syi_row_cross_entropy, &logits, 1, &a, sizeof a);
}
