/* SPDX-License-Identifier: Apache-2.0 */
/* The op row of a frozen weight in the products' own layout. */
#include "graph/op_row.h"

typedef struct { sy_tensor w; bool transposed; } panels_attr;

static sy_status panels_shape(sy_op_call *c, int *n_aux)
{
    (void)n_aux;
    const panels_attr *a = c->attr;
    const sy_tensor *x = c->in[0];
    if (a->w.rank != 2 || a->w.dtype != SY_BF16 || x->rank < 1 || sy_tensor_cols(x) != a->w.dim[!a->transposed])
        return syi_shape_wrong(c, "linear_panels", 0, "as many columns as the packed weight takes");
    syi_shape_like(c->out, x);
    c->out->dim[x->rank - 1] = a->w.dim[a->transposed];
    return SY_OK;
}

static sy_status panels_forward(sy_op_call *c)
{
    const panels_attr *a = c->attr;
    return syi_gemm_panels(c->engine, sy_tensor_rows(c->in[0]), a->w.dim[0], a->w.dim[1], c->in[0]->dtype, c->in[0]->data, a->w.data, a->transposed,
                           0, c->out->dtype, c->out->data);
}

static sy_status panels_backward(sy_op_call *c)
{
    const panels_attr *a = c->attr;
    if (!c->want[0]) return SY_OK;
    sy_dtype dt = c->dout->dtype, to = c->din[0]->dtype;
    bool direct = to == dt || (dt == SY_BF16 && to == SY_F32);
    syi_via via = direct ? (syi_via){c->din[0]->data, c->add[0]} : syi_via_begin(c, 0, dt);
    SYI_TRY(syi_gemm_panels(c->engine, sy_tensor_rows(c->dout), a->w.dim[0], a->w.dim[1], dt, c->dout->data, a->w.data, !a->transposed, via.add,
                            direct ? to : dt, via.data));
    return direct ? SY_OK : syi_via_done(c, 0, dt, via);
}

static int64_t panels_scratch(const sy_op_call *c, bool backward)
{
    return backward ? syi_via_bytes(c, c->out->dtype) : 0;
}

static double panels_flops(const sy_op_call *c, bool backward)
{
    const panels_attr *a = c->attr;
    (void)backward;
    return 2 * (double)sy_tensor_count(&a->w) * (double)sy_tensor_rows(c->in[0]);
}

static double panels_traffic(const sy_op_call *c, bool backward)
{
    const panels_attr *a = c->attr;
    (void)backward;
    return (double)(sy_tensor_bytes(&a->w) + sy_tensor_bytes(c->in[0]) + sy_tensor_bytes(c->out));
}

static bool panels_test(int i, sy_op_case *t)
{
    /* 64 x 16 numbers between -2 and 2; any numbers are a packed weight. */
#define W4(a) 0x3f00 + (a), 0xbf10 + (a), 0x3e80 + (a), 0xbfa0 + (a)
#define W32(a) W4(a), W4(a + 9), W4(a + 3), W4(a + 77), W4(a + 21), W4(a + 50), W4(a + 31), W4(a + 13)
#define W256(a) W32(a), W32(a + 1), W32(a + 7), W32(a + 4), W32(a + 11), W32(a + 2), W32(a + 8), W32(a + 5)
    static const uint16_t w[1024] = {W256(0), W256(6), W256(14), W256(10)};
    static const panels_attr attr[] = {{{.dtype = SY_BF16, .rank = 2, .dim = {64, 16}, .data = (void *)w}, false},
                                       {{.dtype = SY_BF16, .rank = 2, .dim = {64, 16}, .data = (void *)w}, true}};
    if (i > 3) return false;
    *t = (sy_op_case){.what = i & 1 ? "x W" : "x W^T", .n_in = 1, .attr = &attr[i & 1], .attr_size = sizeof *attr};
    syi_case_in(t, 0, 2, (int64_t[]){i < 2 ? 3 : 40, i & 1 ? 64 : 16}, true);
    return true;
}

const sy_op syi_row_panels = {
    .name = "linear_panels", .min_in = 1, .max_in = 1, .shape = panels_shape, .forward = panels_forward, .backward = panels_backward,
    .keep = syi_keep_none, .scratch = panels_scratch, .flops = panels_flops, .traffic = panels_traffic, .test = panels_test,
};

sy_node *syi_op_panels(sy_graph *g, sy_node *x, const sy_tensor *w, bool transposed)
{
    panels_attr a = {*w, transposed};
    return sy_call(g, &syi_row_panels, &x, 1, &a, sizeof a);
}
