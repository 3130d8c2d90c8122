/* SPDX-License-Identifier: Apache-2.0 */
/* Op rows on images, which are rows of channels [images*height*width, channels]: what a
 * window sees (a convolution is a product of it), pooling, batch norm. */
#include "graph/op_row.h"

#include <math.h>

static sy_status window_check(const sy_op_call *c, const char *op)
{
    const syi_window *w = c->attr;
    const sy_tensor *x = c->in[0];
    if (x->rank != 2 || x->dim[0] != w->images * w->height * w->width || x->dim[1] != w->channels)
        return syi_shape_wrong(c, op, 0, "[images*height*width, channels] of the window");
    return SY_OK;
}

static int64_t via_scratch(const sy_op_call *c, bool backward)
{
    const bool other = backward && c->want[0] && c->din[0] != NULL && c->din[0]->dtype != c->out->dtype;
    return other ? sy_tensor_count(c->in[0]) * syi_dtype_size(c->out->dtype) : 0;
}

static const syi_window windows[] = {
    {2, 4, 5, 3, 3, 3, 1, 1, 4, 5}, {1, 5, 4, 2, 2, 2, 2, 0, 2, 2}, {2, 5, 5, 3, 3, 3, 2, 1, 3, 3}, {1, 4, 4, 70, 4, 4, 4, 0, 1, 1},
};
static const char *const window_names[] = {"3 x 3 at every pixel", "2 x 2, side by side, an edge left over", "3 x 3 every second pixel", "one window, many channels"};

static bool window_test(int i, sy_op_case *t)
{
    if (i >= SYI_COUNT(windows)) return false;
    *t = (sy_op_case){.what = window_names[i], .n_in = 1, .attr = &windows[i], .attr_size = sizeof windows[i]};
    syi_case_in(t, 0, 2, (int64_t[]){windows[i].images * windows[i].height * windows[i].width, windows[i].channels}, true);
    return true;
}

/* -- patches ------------------------------------------------------------------------------ */

static sy_status patches_shape(sy_op_call *c, int *n_aux)
{
    const syi_window *w = c->attr;
    (void)n_aux;
    SYI_TRY(window_check(c, "patches"));
    syi_shape_2(c->out, c->in[0]->dtype, w->images * w->out_h * w->out_w, w->channels * w->kernel_h * w->kernel_w);
    return SY_OK;
}

static sy_status patches_forward(sy_op_call *c) { return syi_patches(c->engine, c->out->dtype, c->attr, c->in[0]->data, c->out->data); }

static sy_status patches_backward(sy_op_call *c)
{
    if (!c->want[0]) return SY_OK;
    const syi_via via = syi_via_begin(c, 0, c->dout->dtype);
    SYI_TRY(syi_patches_grad(c->engine, c->dout->dtype, c->attr, c->dout->data, via.add, via.data));
    return syi_via_done(c, 0, c->dout->dtype, via);
}

/* Nine times the image: made again rather than kept. */
const sy_op syi_row_patches = {
    .name = "patches", .min_in = 1, .max_in = 1, .flags = SY_OP_CHEAP, .shape = patches_shape, .forward = patches_forward,
    .backward = patches_backward, .keep = syi_keep_none, .scratch = via_scratch, .test = window_test,
};

sy_node *syi_op_patches(sy_graph *g, sy_node *x, const syi_window *w) { return sy_call(g, &syi_row_patches, &x, 1, w, sizeof *w); }

/* -- pooling -------------------------------------------------------------------------------- */

static sy_status pool_shape(sy_op_call *c, int *n_aux)
{
    const syi_window *w = c->attr;
    (void)n_aux;
    SYI_TRY(window_check(c, "pool"));
    syi_shape_2(c->out, c->in[0]->dtype, w->images * w->out_h * w->out_w, w->channels);
    return SY_OK;
}

static sy_status pool_max_shape(sy_op_call *c, int *n_aux)
{
    SYI_TRY(pool_shape(c, n_aux));
    if (2 * ((const syi_window *)c->attr)->pad > syi_min(((const syi_window *)c->attr)->kernel_h, ((const syi_window *)c->attr)->kernel_w))
        return syi_fail(c->ctx, SY_E_BUG, "max pooling: padding of more than half the window");
    if (c->training) {
        syi_shape_2(c->aux[0], SY_I32, c->out->dim[0], c->out->dim[1]);
        *n_aux = 1;
    }
    return SY_OK;
}

static sy_status pool_max_forward(sy_op_call *c)
{
    return syi_pool_max(c->engine, c->out->dtype, c->attr, c->in[0]->data, c->out->data, c->aux[0] != NULL ? c->aux[0]->data : NULL);
}

static sy_status pool_mean_forward(sy_op_call *c) { return syi_pool_mean(c->engine, c->out->dtype, c->attr, c->in[0]->data, c->out->data); }

static sy_status pool_backward(sy_op_call *c, const int32_t *at)
{
    if (!c->want[0]) return SY_OK;
    const syi_via via = syi_via_begin(c, 0, c->dout->dtype);
    SYI_TRY(syi_pool_grad(c->engine, c->dout->dtype, c->attr, c->dout->data, at, via.add, via.data));
    return syi_via_done(c, 0, c->dout->dtype, via);
}

static sy_status pool_max_backward(sy_op_call *c) { return pool_backward(c, c->aux[0]->data); }
static sy_status pool_mean_backward(sy_op_call *c) { return pool_backward(c, NULL); }

const sy_op syi_row_pool_max = {
    .name = "pool_max", .min_in = 1, .max_in = 1, .shape = pool_max_shape, .forward = pool_max_forward, .backward = pool_max_backward,
    .keep = syi_keep_none, .scratch = via_scratch, .test = window_test,
};
const sy_op syi_row_pool_mean = {
    .name = "pool_mean", .min_in = 1, .max_in = 1, .shape = pool_shape, .forward = pool_mean_forward, .backward = pool_mean_backward,
    .keep = syi_keep_none, .scratch = via_scratch, .test = window_test,
};

sy_node *syi_op_pool(sy_graph *g, sy_node *x, const syi_window *w, bool max)
{
    return sy_call(g, max ? &syi_row_pool_max : &syi_row_pool_mean, &x, 1, w, sizeof *w);
}

/* -- batch norm --------------------------------------------------------------------------------- */

enum { MEAN, RSTD };
typedef struct { double eps, momentum; void *mean, *var; } batchnorm_attr; /* running statistics to bring up to date */

/* Three inputs: the batch's own statistics; five: given mean and variance. */
static sy_status batchnorm_shape(sy_op_call *c, int *n_aux)
{
    const sy_tensor *x = c->in[0];
    const sy_dtype vec = syi_sum_type(x->dtype);
    for (int i = 1; i < c->n_in; i++)
        if (c->in[i]->dtype != vec || sy_tensor_count(c->in[i]) != sy_tensor_cols(x)) return syi_shape_wrong(c, "batch_norm", i, "one f32 (f64 beside f64) a channel of input 0");
    if (c->n_in == 4) return syi_fail(c->ctx, SY_E_BUG, "batch norm: a mean without a variance");
    syi_shape_like(c->out, x);
    syi_shape_1(c->aux[MEAN], vec, sy_tensor_cols(x));
    syi_shape_1(c->aux[RSTD], vec, sy_tensor_cols(x));
    *n_aux = 2;
    return SY_OK;
}

static double at(const sy_tensor *t, int64_t i) { return t->dtype == SY_F64 ? ((const double *)t->data)[i] : (double)((const float *)t->data)[i]; }

static void step_to(sy_dtype dt, void *to, int64_t i, double v, double momentum)
{
    if (dt == SY_F64) ((double *)to)[i] += momentum * (v - ((double *)to)[i]);
    else ((float *)to)[i] = (float)((1 - momentum) * (double)((float *)to)[i] + momentum * v);
}

static sy_status batchnorm_forward(sy_op_call *c)
{
    const batchnorm_attr *a = c->attr;
    const sy_tensor *x = c->in[0];
    const int64_t rows = sy_tensor_rows(x), cols = sy_tensor_cols(x);
    sy_tensor *mean = c->aux[MEAN], *rstd = c->aux[RSTD];
    const bool own = c->n_in == 3;
    if (own) SYI_TRY(syi_column_moments(c->engine, x->dtype, x->data, mean->data, rstd->data, rows, cols));
    else memcpy(mean->data, c->in[3]->data, (size_t)sy_tensor_bytes(mean));
    for (int64_t i = 0; i < cols; i++) {
        const double var = at(own ? rstd : c->in[4], i), s = 1 / sqrt(var + a->eps);
        if (own && a->mean != NULL && !sy_graph_replay(c->graph)) { /* torch keeps the unbiased variance */
            step_to(mean->dtype, a->mean, i, at(mean, i), a->momentum);
            step_to(mean->dtype, a->var, i, rows > 1 ? var * (double)rows / (double)(rows - 1) : var, a->momentum);
        }
        if (rstd->dtype == SY_F64) ((double *)rstd->data)[i] = s;
        else ((float *)rstd->data)[i] = (float)s;
    }
    return syi_batchnorm(c->engine, x->dtype, x->data, mean->data, rstd->data, c->in[1]->data, c->in[2]->data, c->out->data, rows, cols);
}

static sy_status batchnorm_backward(sy_op_call *c)
{
    const sy_tensor *x = c->in[0];
    const sy_dtype dt = c->dout->dtype;
    syi_via via = {NULL, false};
    if (c->n_in == 5 && (c->want[3] || c->want[4])) return syi_fail(c->ctx, SY_E_UNSUPPORTED, "batch norm: given statistics have no gradient");
    if (c->want[0]) via = syi_via_begin(c, 0, dt);
    for (int i = 1; i < 3; i++)
        if (c->want[i]) syi_zero_unless_add(c, i);
    SYI_TRY(syi_batchnorm_grad(c->engine, dt, c->dout->data, x->data, c->aux[MEAN]->data, c->aux[RSTD]->data, c->in[1]->data, c->n_in == 5, via.add, via.data,
                               c->want[1] ? c->din[1]->data : NULL, c->want[2] ? c->din[2]->data : NULL, sy_tensor_rows(x), sy_tensor_cols(x)));
    return c->want[0] ? syi_via_done(c, 0, dt, via) : SY_OK;
}

static unsigned batchnorm_keep(const sy_op_call *c, unsigned want)
{
    (void)c, (void)want;
    return 1u | 2u;
}

static bool batchnorm_test(int i, sy_op_case *t)
{
    static const batchnorm_attr attr = {1e-5, 0.1, NULL, NULL};
    static const int64_t rows[] = {6, 150, 7};
    if (i > 2) return false;
    *t = (sy_op_case){.what = i == 2 ? "given statistics" : "the batch's statistics", .n_in = i == 2 ? 5 : 3, .attr = &attr, .attr_size = sizeof attr, .tol_bf16 = 4e-2};
    syi_case_in(t, 0, 2, (int64_t[]){rows[i], 5}, true);
    for (int k = 1; k < t->n_in; k++) {
        t->in[k].dtype = CASE_VEC, t->in[k].rank = 1, t->in[k].dim[0] = 5;
        t->in[k].grad = k < 3;
    }
    t->in[4].scale = 0.25, t->in[4].shift = 2;
    return true;
}

const sy_op syi_row_batch_norm = {
    .name = "batch_norm", .min_in = 3, .max_in = 5, .shape = batchnorm_shape, .forward = batchnorm_forward, .backward = batchnorm_backward,
    .keep = batchnorm_keep, .scratch = via_scratch, .test = batchnorm_test,
};

sy_node *syi_op_batch_norm(sy_graph *g, sy_node *x, sy_node *w, sy_node *b, sy_node *mean, sy_node *var, double eps)
{
    return sy_call(g, &syi_row_batch_norm, (sy_node *[]){x, w, b, mean, var}, 5, &(batchnorm_attr){.eps = eps}, sizeof(batchnorm_attr));
}

sy_node *syi_op_batch_norm_own(sy_graph *g, sy_node *x, sy_node *w, sy_node *b, double eps, double momentum, void *mean, void *var)
{
    return sy_call(g, &syi_row_batch_norm, (sy_node *[]){x, w, b}, 3, &(batchnorm_attr){eps, momentum, mean, var}, sizeof(batchnorm_attr));
}
