/* SPDX-License-Identifier: Apache-2.0 */
/* The op row of the output head with its loss.
 *
 * Logits exist only inside one chunk, so the gradients are made while they are there:
 * in forward. dh is kept (aux 1) and handed out, times the loss' gradient, in backward.
 * A trained head's gradient goes straight to the parameter, which is only right if the
 * loss' gradient is the promised 1: backward checks that. A head that is trained but
 * not a parameter (something computed) keeps its gradient as aux 2. */
#include "graph/op_row.h"

enum { NLL, DH, DW };

static sy_status head_shape(sy_op_call *c, int *n_aux)
{
    const syi_head *a = c->attr;
    const sy_tensor *h = c->in[0], *w = c->in[1];
    if (sy_tensor_rows(h) != a->tokens || sy_tensor_cols(h) != a->hidden) return syi_shape_wrong(c, "head_loss", 0, "[tokens, hidden] of the head");
    if (w->rank != 2 || w->dim[0] != a->vocab || w->dim[1] != a->hidden) return syi_shape_wrong(c, "head_loss", 1, "[vocabulary, hidden] of the head");
    sy_dtype sum = syi_sum_type(h->dtype);
    syi_shape_1(c->out, sum, 1);
    syi_shape_1(c->aux[NLL], sum, a->tokens);
    *n_aux = 1;
    if (c->training) {
        syi_shape_2(c->aux[DH], h->dtype, c->want[0] ? a->tokens : 0, a->hidden);
        bool computed = c->want[1] && c->din[1] == NULL;
        syi_shape_2(c->aux[DW], sum, computed ? a->vocab : 0, a->hidden);
        *n_aux = 3;
    }
    return SY_OK;
}

static int64_t head_scratch(const sy_op_call *c, bool backward)
{
    return backward ? 0 : syi_head_scratch(c->engine, c->in[0]->dtype, c->attr, c->training && c->want[1]);
}

static sy_status head_forward(sy_op_call *c)
{
    const syi_head *a = c->attr;
    const sy_tensor *h = c->in[0], *w = c->in[1];
    void *dh = NULL, *dw = NULL;
    if (c->training && c->want[0]) dh = c->aux[DH]->data;
    if (c->training && c->want[1]) {
        dw = c->din[1] != NULL ? c->din[1]->data : c->aux[DW]->data;
        if (c->din[1] == NULL) memset(dw, 0, (size_t)sy_tensor_bytes(c->aux[DW]));
    }
    double loss = 0;
    SYI_TRY(syi_head_loss(c->engine, h->dtype, a, h->data, w->dtype, w->data, &loss, c->aux[NLL]->data, dh, dw, sy_scratch(c)));
    syi_scalar_set(c->out, loss);
    return SY_OK;
}

static sy_status head_backward(sy_op_call *c)
{
    double d = syi_scalar_get(c->dout);
    bool direct = c->want[1] && c->aux[DW]->dim[0] == 0;
    if (direct && d != 1)
        return syi_fail(c->ctx, SY_E_BUG, "head_loss: the gradient of the loss is %g, but a trained head's gradient was made for 1; "
                        "put factors into the head's scale or weights", d);
    if (c->want[0]) {
        sy_dtype dt = c->in[0]->dtype;
        int64_t n = sy_tensor_count(c->in[0]);
        if (c->din[0]->dtype == dt) SYI_TRY(syi_axpy(c->engine, dt, d, c->aux[DH]->data, c->add[0], c->din[0]->data, n));
        else {
            SYI_TRY(syi_axpy(c->engine, dt, d, c->aux[DH]->data, false, c->aux[DH]->data, n));
            SYI_TRY(syi_via_done(c, 0, dt, (syi_via){c->aux[DH]->data, false}));
        }
    }
    if (c->want[1] && !direct) {
        sy_dtype dt = c->aux[DW]->dtype;
        int64_t n = sy_tensor_count(c->in[1]);
        if (c->din[1]->dtype == dt) return syi_axpy(c->engine, dt, d, c->aux[DW]->data, c->add[1], c->din[1]->data, n);
        SYI_TRY(syi_axpy(c->engine, dt, d, c->aux[DW]->data, false, c->aux[DW]->data, n));
        return syi_via_done(c, 1, dt, (syi_via){c->aux[DW]->data, false});
    }
    return SY_OK;
}

/* Logits and their two gradients, all made in forward, at positions with a loss. */
static double head_flops(const sy_op_call *c, bool backward)
{
    const syi_head *a = c->attr;
    double rows = 0;
    if (backward) return 0;
    for (int64_t t = 0; t < a->tokens; t++) rows += a->target[t] >= 0;
    return rows * 2 * (double)(a->vocab * a->hidden) * (1 + (c->training ? c->want[0] + c->want[1] : 0));
}

static bool head_test(int i, sy_op_case *t)
{
    static const int32_t target[] = {3, -1, 0, 10, 3, -1};
    static const float weight[] = {1, 1, 0.5f, 2, 1, 1};
    static const syi_head attr = {.tokens = 6, .hidden = 9, .vocab = 11, .target = target, .weight = weight, .scale = 0.25};
    if (i > 1) return false;
    *t = (sy_op_case){.what = i == 0 ? "trained head" : "frozen head", .n_in = 2, .attr = &attr, .attr_size = sizeof attr, .tol_bf16 = 3e-2};
    for (int j = 0; j < 2; j++) {
        t->in[j].dtype = CASE_ACT;
        t->in[j].rank = 2;
        t->in[j].dim[0] = j == 0 ? 6 : 11, t->in[j].dim[1] = 9;
        t->in[j].grad = j == 0 || i == 0;
    }
    return true;
}

const sy_op syi_row_head_loss = {
    .name = "head_loss", .min_in = 2, .max_in = 2, .flags = SY_OP_ROOT, .shape = head_shape, .forward = head_forward, .backward = head_backward,
    .keep = syi_keep_none, .scratch = head_scratch, .flops = head_flops, .test = head_test,
};

sy_node *syi_op_head_loss(sy_graph *g, sy_node *h, sy_node *w, const syi_head *head)
{
    return sy_call(g, &syi_row_head_loss, (sy_node *[]){h, w}, 2, head, sizeof *head);
}
