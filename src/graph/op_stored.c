/* SPDX-License-Identifier: Apache-2.0 */
/* Products with a weight in a storage of its own (packed grids, signs, sparse): decoded by
 * tile or multiplied as it is, never whole. Frozen; the gradient passes through to x. */
#include "graph/op_row.h"

#include "tensor/packed.h"

typedef struct { syi_stored w; bool transposed; } stored_attr;

static sy_status stored_shape(sy_op_call *c, int *n_aux)
{
    (void)n_aux;
    const stored_attr *a = c->attr;
    if (sy_tensor_cols(c->in[0]) != (a->transposed ? a->w.out : a->w.in))
        return syi_shape_wrong(c, "linear_stored", 0, "as many columns as the stored weight takes");
    syi_shape_like(c->out, c->in[0]);
    c->out->dim[c->in[0]->rank - 1] = a->transposed ? a->w.in : a->w.out;
    return SY_OK;
}

static sy_status stored_forward(sy_op_call *c)
{
    const stored_attr *a = c->attr;
    return syi_gemm_stored(c->engine, sy_tensor_rows(c->in[0]), c->out->dtype, c->in[0]->data, &a->w, a->transposed, 0, c->out->data);
}

static sy_status stored_backward(sy_op_call *c)
{
    const stored_attr *a = c->attr;
    const sy_dtype dt = c->dout->dtype;
    if (!c->want[0]) return SY_OK;
    syi_via via = syi_via_begin(c, 0, dt);
    SYI_TRY(syi_gemm_stored(c->engine, sy_tensor_rows(c->dout), dt, c->dout->data, &a->w, !a->transposed, via.add, via.data));
    return syi_via_done(c, 0, dt, via);
}

static int64_t stored_scratch(const sy_op_call *c, bool backward) { return backward ? syi_via_bytes(c, c->out->dtype) : 0; }

static double stored_flops(const sy_op_call *c, bool backward)
{
    const stored_attr *a = c->attr;
    (void)backward;
    return 2 * (double)(a->w.out * a->w.in) * (double)sy_tensor_rows(c->in[0]);
}

/* A 6 x 32 matrix of small numbers for the gradient test. */
static sy_status test_rows(syi_engine *e, const void *self, int64_t row, int64_t n, float *dst)
{
    (void)e, (void)self;
    for (int64_t i = 0; i < n * 32; i++) dst[i] = (float)((row * 32 + i) * 7 % 23 - 11) / 16;
    return SY_OK;
}

static bool stored_test(int i, sy_op_case *t)
{
    static const stored_attr attr[] = {{{.out = 6, .in = 32, .rows = test_rows}, false}, {{.out = 6, .in = 32, .rows = test_rows}, true}};
    if (i > 1) return false;
    *t = (sy_op_case){.what = "rows on demand", .n_in = 1, .attr = &attr[i], .attr_size = sizeof *attr};
    syi_case_in(t, 0, 2, (const int64_t[]){5, i == 1 ? 6 : 32}, true);
    return true;
}

const sy_op syi_row_stored = {
    .name = "linear_stored", .min_in = 1, .max_in = 1, .shape = stored_shape, .forward = stored_forward, .backward = stored_backward,
    .keep = syi_keep_none, .scratch = stored_scratch, .flops = stored_flops, .test = stored_test,
};

sy_node *syi_op_stored(sy_graph *g, sy_node *x, const syi_stored *w, bool transposed)
{
    stored_attr a = {*w, transposed};
    return sy_call(g, &syi_row_stored, &x, 1, &a, sizeof a);
}
