/* SPDX-License-Identifier: Apache-2.0 */
/* Products: linear layers, free products, the low-rank branch, weights in blocks. */
#include "op_common.h"

static syi_mat mat(const sy_tensor *t, bool transposed) { return (syi_mat){t->dtype, t->data, t->dim[t->rank - 1], transposed}; }

static double product(double m, double n, double k) { return 2 * m * n * k; }

/* -- linear: y = x W^T, or x W ---------------------------------------------------------- */

typedef struct { bool transposed; } linear_attr;

static sy_status linear_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    const sy_tensor *x = c->in[0], *w = c->in[1];
    const linear_attr *a = c->attr;
    int from = a->transposed ? 0 : 1;
    if (x->rank != 2 || w->rank != 2 || x->dim[1] != w->dim[from])
        return syi_fail(c->ctx, SY_E_BUG, "linear: x[%lld, %lld] does not fit W[%lld, %lld]%s", (long long)x->dim[0], (long long)x->dim[1],
                        (long long)w->dim[0], (long long)w->dim[1], a->transposed ? " (transposed)" : "");
    return syi_out(c, x->dtype, 2, (int64_t[]){x->dim[0], w->dim[1 - from]});
}

static sy_status linear_forward(sy_op_call *c)
{
    const linear_attr *a = c->attr;
    const sy_tensor *x = c->in[0], *w = c->in[1], *y = c->out;
    return syi_gemm(c->engine, y->dim[0], y->dim[1], x->dim[1], 1, mat(x, false), mat(w, !a->transposed), 0, y->dtype, y->data, y->dim[1]);
}

static sy_status linear_backward(sy_op_call *c)
{
    const linear_attr *a = c->attr;
    const sy_tensor *x = c->in[0], *w = c->in[1], *dy = c->dout;
    if (c->want[0]) {
        sy_tensor *dx = c->din[0];
        SYI_TRY(syi_gemm(c->engine, dx->dim[0], dx->dim[1], dy->dim[1], 1, mat(dy, false), mat(w, a->transposed), c->add[0], dx->dtype, dx->data, dx->dim[1]));
    }
    if (c->want[1]) { /* dW[out,in] = dy^T x, or x^T dy */
        sy_tensor *dw = c->din[1];
        syi_mat left = a->transposed ? mat(x, true) : mat(dy, true), right = a->transposed ? mat(dy, false) : mat(x, false);
        SYI_TRY(syi_gemm(c->engine, dw->dim[0], dw->dim[1], dy->dim[0], 1, left, right, c->add[1], dw->dtype, dw->data, dw->dim[1]));
    }
    return SY_OK;
}

static unsigned linear_keep(const sy_op_call *c, unsigned want)
{
    (void)c;
    return (want & 1 ? 2u : 0) | (want & 2 ? 1u : 0); /* dx needs W, dW needs x: a frozen W keeps no x */
}

static double linear_flops(const sy_op_call *c, bool backward)
{
    double one = product((double)c->in[0]->dim[0], (double)c->in[0]->dim[1], (double)c->out->dim[1]);
    return backward ? one * (c->want[0] + c->want[1]) : one;
}

static bool linear_test(int i, sy_op_case *out)
{
    static const linear_attr attrs[] = {{false}, {true}, {false}, {true}};
    if (i >= SYI_COUNT(attrs)) return false;
    bool t = attrs[i].transposed;
    *out = (sy_op_case){.what = t ? "x W" : "x W^T", .n_in = 2, .attr = &attrs[i], .attr_size = sizeof attrs[i]};
    int64_t n = i < 2 ? 5 : 33, in = i < 2 ? 7 : 40, o = i < 2 ? 3 : 24;
    syi_case_in(out, 0, 2, (int64_t[]){n, t ? o : in}, true);
    syi_case_in(out, 1, 2, (int64_t[]){o, in}, i != 3);
    return true;
}

const sy_op syi_row_linear = {.name = "linear", .min_in = 2, .max_in = 2, .shape = linear_shape, .forward = linear_forward, .backward = linear_backward,
                              .keep = linear_keep, .flops = linear_flops, .test = linear_test};

sy_node *syi_op_linear(sy_graph *g, sy_node *x, sy_node *w, bool transposed)
{
    linear_attr a = {transposed};
    return sy_call(g, &syi_row_linear, (sy_node *[]){x, w}, 2, &a, sizeof a);
}

/* -- matmul: alpha op(a) op(b) ------------------------------------------------------------------ */

typedef struct { bool ta, tb; double alpha; } matmul_attr;

static sy_status matmul_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    const sy_tensor *x = c->in[0], *y = c->in[1];
    const matmul_attr *a = c->attr;
    if (x->rank != 2 || y->rank != 2 || x->dim[!a->ta] != y->dim[a->tb])
        return syi_fail(c->ctx, SY_E_BUG, "matmul: [%lld, %lld]%s does not fit [%lld, %lld]%s", (long long)x->dim[0], (long long)x->dim[1], a->ta ? "^T" : "",
                        (long long)y->dim[0], (long long)y->dim[1], a->tb ? "^T" : "");
    return syi_out(c, x->dtype, 2, (int64_t[]){x->dim[a->ta], y->dim[!a->tb]});
}

static sy_status matmul_forward(sy_op_call *c)
{
    const matmul_attr *a = c->attr;
    return syi_gemm(c->engine, c->out->dim[0], c->out->dim[1], c->in[0]->dim[!a->ta], a->alpha, mat(c->in[0], a->ta), mat(c->in[1], a->tb), 0,
                    c->out->dtype, c->out->data, c->out->dim[1]);
}

static sy_status matmul_backward(sy_op_call *c)
{
    const matmul_attr *a = c->attr;
    const sy_tensor *x = c->in[0], *y = c->in[1], *d = c->dout;
    if (c->want[0]) { /* op(a) = d op(b)^T alpha; with ta the other way round */
        sy_tensor *g = c->din[0];
        syi_mat left = a->ta ? mat(y, a->tb) : mat(d, false), right = a->ta ? mat(d, true) : mat(y, !a->tb);
        SYI_TRY(syi_gemm(c->engine, g->dim[0], g->dim[1], d->dim[1], a->alpha, left, right, c->add[0], g->dtype, g->data, g->dim[1]));
    }
    if (c->want[1]) {
        sy_tensor *g = c->din[1];
        syi_mat left = a->tb ? mat(d, true) : mat(x, !a->ta), right = a->tb ? mat(x, a->ta) : mat(d, false);
        SYI_TRY(syi_gemm(c->engine, g->dim[0], g->dim[1], d->dim[0], a->alpha, left, right, c->add[1], g->dtype, g->data, g->dim[1]));
    }
    return SY_OK;
}

static unsigned matmul_keep(const sy_op_call *c, unsigned want)
{
    (void)c;
    return (want & 1 ? 2u : 0) | (want & 2 ? 1u : 0);
}

static double matmul_flops(const sy_op_call *c, bool backward)
{
    const matmul_attr *a = c->attr;
    double one = product((double)c->out->dim[0], (double)c->out->dim[1], (double)c->in[0]->dim[!a->ta]);
    return backward ? one * (c->want[0] + c->want[1]) : one;
}

static bool matmul_test(int i, sy_op_case *out)
{
    static const matmul_attr attrs[] = {{false, false, 1.5}, {true, false, 1}, {false, true, -2}, {true, true, 0.5}};
    if (i >= SYI_COUNT(attrs)) return false;
    const matmul_attr *a = &attrs[i];
    *out = (sy_op_case){.what = "alpha op(a) op(b)", .n_in = 2, .attr = a, .attr_size = sizeof *a};
    syi_case_in(out, 0, 2, a->ta ? (int64_t[]){6, 4} : (int64_t[]){4, 6}, true);
    syi_case_in(out, 1, 2, a->tb ? (int64_t[]){5, 6} : (int64_t[]){6, 5}, true);
    return true;
}

const sy_op syi_row_matmul = {.name = "matmul", .min_in = 2, .max_in = 2, .shape = matmul_shape, .forward = matmul_forward, .backward = matmul_backward,
                              .keep = matmul_keep, .flops = matmul_flops, .test = matmul_test};

sy_node *syi_op_matmul(sy_graph *g, sy_node *a, bool ta, sy_node *b, bool tb, double alpha)
{
    matmul_attr at = {ta, tb, alpha};
    return sy_call(g, &syi_row_matmul, (sy_node *[]){a, b}, 2, &at, sizeof at);
}

/* -- lowrank_add: base + s (drop(x) A^T) B^T --------------------------------------------------------- */
/* LoRA's branch (Hu et al. 2021, eq. 3) in one op, so that nothing of size tokens x out is
 * made besides the base's output. in: base, x, A[r,in], B[out,r]; aux 0: H = drop(x) A^T. */

typedef struct { double s, dropout; uint64_t key; } lowrank_attr;

static sy_status lowrank_shape(sy_op_call *c, int *n_aux)
{
    const sy_tensor *y = c->in[0], *x = c->in[1], *a = c->in[2], *b = c->in[3];
    if (x->rank != 2 || y->rank != 2 || a->rank != 2 || b->rank != 2 || y->dim[0] != x->dim[0] || a->dim[1] != x->dim[1] || b->dim[0] != y->dim[1] || a->dim[0] != b->dim[1])
        return syi_fail(c->ctx, SY_E_BUG, "lowrank_add: base[%lld, %lld], x[%lld, %lld], A[%lld, %lld], B[%lld, %lld] do not fit", (long long)y->dim[0], (long long)y->dim[1],
                        (long long)x->dim[0], (long long)x->dim[1], (long long)a->dim[0], (long long)a->dim[1], (long long)b->dim[0], (long long)b->dim[1]);
    *n_aux = 1;
    *c->aux[0] = (sy_tensor){.dtype = x->dtype, .rank = 2, .dim = {x->dim[0], a->dim[0]}};
    return syi_out(c, y->dtype, 2, y->dim);
}

static int64_t lowrank_scratch(const sy_op_call *c, bool backward)
{
    const lowrank_attr *t = c->attr;
    int64_t size = sy_dtype_block_bytes(c->in[1]->dtype);
    int64_t h = backward ? syi_ceil_div(c->in[1]->dim[0] * c->in[2]->dim[0] * size, 64) * 64 : 0; /* dH */
    return h + (t->dropout > 0 ? c->in[1]->dim[0] * c->in[1]->dim[1] * size : 0);                 /* drop(x), then d drop(x) */
}

static sy_status lowrank_forward(sy_op_call *c)
{
    const lowrank_attr *t = c->attr;
    const sy_tensor *x = c->in[1], *a = c->in[2], *b = c->in[3], *y = c->out;
    sy_tensor *h = c->aux[0];
    syi_mat from = mat(x, false);
    if (t->dropout > 0) {
        void *dropped = sy_scratch(c);
        SYI_TRY(syi_dropout(c->engine, x->dtype, t->key, t->dropout, x->data, false, dropped, sy_tensor_count(x)));
        from.data = dropped;
    }
    SYI_TRY(syi_gemm(c->engine, h->dim[0], h->dim[1], x->dim[1], 1, from, mat(a, true), 0, h->dtype, h->data, h->dim[1]));
    if (!c->in_place) memcpy(y->data, c->in[0]->data, (size_t)sy_tensor_bytes(y));
    return syi_gemm(c->engine, y->dim[0], y->dim[1], h->dim[1], t->s, mat(h, false), mat(b, true), 1, y->dtype, y->data, y->dim[1]);
}

static sy_status lowrank_backward(sy_op_call *c)
{
    const lowrank_attr *t = c->attr;
    const sy_tensor *x = c->in[1], *a = c->in[2], *b = c->in[3], *dy = c->dout, *h = c->aux[0];
    int64_t tokens = dy->dim[0], r = a->dim[0], n = tokens * x->dim[1];
    if (c->want[0]) SYI_TRY(syi_axpy(c->engine, dy->dtype, 1, dy->data, c->add[0], c->din[0]->data, sy_tensor_count(dy)));
    if (c->want[3]) { /* dB = s dY^T H */
        sy_tensor *g = c->din[3];
        SYI_TRY(syi_gemm(c->engine, g->dim[0], g->dim[1], tokens, t->s, mat(dy, true), mat(h, false), c->add[3], g->dtype, g->data, g->dim[1]));
    }
    if (!c->want[1] && !c->want[2]) return SY_OK;
    sy_tensor dh = *h;
    dh.data = sy_scratch(c);
    char *dropped = (char *)dh.data + syi_ceil_div(sy_tensor_bytes(&dh), 64) * 64;
    SYI_TRY(syi_gemm(c->engine, tokens, r, dy->dim[1], t->s, mat(dy, false), mat(b, false), 0, dh.dtype, dh.data, r));
    if (c->want[2]) { /* dA = dH^T drop(x) */
        sy_tensor *g = c->din[2];
        syi_mat from = mat(x, false);
        if (t->dropout > 0) {
            SYI_TRY(syi_dropout(c->engine, x->dtype, t->key, t->dropout, x->data, false, dropped, n));
            from.data = dropped;
        }
        SYI_TRY(syi_gemm(c->engine, r, x->dim[1], tokens, 1, mat(&dh, true), from, c->add[2], g->dtype, g->data, g->dim[1]));
    }
    if (!c->want[1]) return SY_OK;
    sy_tensor *dx = c->din[1];
    if (t->dropout > 0) {
        SYI_TRY(syi_gemm(c->engine, tokens, x->dim[1], r, 1, mat(&dh, false), mat(a, false), 0, x->dtype, dropped, x->dim[1]));
        return syi_dropout(c->engine, x->dtype, t->key, t->dropout, dropped, c->add[1], dx->data, n);
    }
    return syi_gemm(c->engine, tokens, x->dim[1], r, 1, mat(&dh, false), mat(a, false), c->add[1], dx->dtype, dx->data, x->dim[1]);
}

static unsigned lowrank_keep(const sy_op_call *c, unsigned want)
{
    (void)c;
    /* x only for dA: with A frozen (LaMDA, VeRA-like) it is not kept. */
    return (want & 4 ? 2u : 0) | (want & 2 ? 4u : 0) | (want & 6 ? 8u : 0);
}

static double lowrank_flops(const sy_op_call *c, bool backward)
{
    double r = (double)c->in[2]->dim[0], t = (double)c->in[1]->dim[0], in = (double)c->in[1]->dim[1], out = (double)c->out->dim[1];
    if (!backward) return product(t, r, in) + product(t, out, r);
    return (c->want[3] ? product(out, r, t) : 0) + (c->want[1] || c->want[2] ? product(t, r, out) : 0) + (c->want[2] + c->want[1]) * product(t, r, in);
}

static bool lowrank_test(int i, sy_op_case *out)
{
    static const lowrank_attr attrs[] = {{2, 0, 0}, {0.5, 0.3, 77}, {1, 0, 0}};
    if (i >= SYI_COUNT(attrs)) return false;
    *out = (sy_op_case){.what = i == 1 ? "with dropout" : i == 2 ? "A frozen" : "plain", .n_in = 4, .attr = &attrs[i], .attr_size = sizeof attrs[i]};
    int64_t n = 9, in = 12, o = 10, r = 3;
    syi_case_in(out, 0, 2, (int64_t[]){n, o}, true);
    syi_case_in(out, 1, 2, (int64_t[]){n, in}, true);
    syi_case_in(out, 2, 2, (int64_t[]){r, in}, i != 2);
    syi_case_in(out, 3, 2, (int64_t[]){o, r}, true);
    return true;
}

const sy_op syi_row_lowrank_add = {.name = "lowrank_add", .min_in = 4, .max_in = 4, .flags = SY_OP_IN_PLACE, .shape = lowrank_shape, .forward = lowrank_forward,
                                   .backward = lowrank_backward, .keep = lowrank_keep, .scratch = lowrank_scratch, .flops = lowrank_flops, .test = lowrank_test};

sy_node *syi_op_lowrank_add(sy_graph *g, sy_node *base, sy_node *x, sy_node *a, sy_node *b, double s, double dropout, uint64_t key)
{
    lowrank_attr t = {s, dropout, key};
    return sy_call(g, &syi_row_lowrank_add, (sy_node *[]){base, x, a, b}, 4, &t, sizeof t);
}

/* -- coded: W in blocks --------------------------------------------------------------------------------- */

typedef struct { sy_tensor w; bool transposed; } coded_attr;

static sy_status coded_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    const coded_attr *a = c->attr;
    const sy_tensor *x = c->in[0];
    int from = a->transposed ? 0 : 1;
    if (x->rank != 2 || x->dim[1] != a->w.dim[from]) return syi_fail(c->ctx, SY_E_BUG, "coded linear: x[.., %lld] does not fit W[%lld, %lld]", (long long)x->dim[1], (long long)a->w.dim[0], (long long)a->w.dim[1]);
    return syi_out(c, x->dtype, 2, (int64_t[]){x->dim[0], a->w.dim[1 - from]});
}

static sy_status coded_forward(sy_op_call *c)
{
    const coded_attr *a = c->attr;
    const sy_tensor *x = c->in[0];
    return syi_gemm_coded(c->engine, x->dim[0], a->w.dim[0], a->w.dim[1], x->dtype, x->data, a->w.dtype, a->w.data, a->transposed, 0, c->out->data);
}

static sy_status coded_backward(sy_op_call *c)
{
    const coded_attr *a = c->attr;
    const sy_tensor *dy = c->dout;
    return syi_gemm_coded(c->engine, dy->dim[0], a->w.dim[0], a->w.dim[1], dy->dtype, dy->data, a->w.dtype, a->w.data, !a->transposed, c->add[0], c->din[0]->data);
}

static unsigned keep_none(const sy_op_call *c, unsigned want) { return (void)c, (void)want, 0; }
static double coded_flops(const sy_op_call *c, bool backward)
{
    const coded_attr *a = c->attr;
    (void)backward;
    return product((double)c->in[0]->dim[0], (double)a->w.dim[0], (double)a->w.dim[1]);
}
static double coded_traffic(const sy_op_call *c, bool backward)
{
    const coded_attr *a = c->attr;
    (void)backward;
    return (double)(sy_tensor_bytes(&a->w) + sy_tensor_bytes(c->in[0]) + sy_tensor_bytes(c->out));
}

static bool coded_test(int i, sy_op_case *out)
{
    /* f16 1.0, -2.0, 0.5 in a fixed pattern, as a [3, 4] weight */
    static uint16_t w[12] = {0x3c00, 0xc000, 0x3800, 0x3c00, 0x3800, 0x3800, 0xc000, 0x3c00, 0x3c00, 0x3c00, 0xc000, 0x3800};
    static const coded_attr attrs[] = {{{.dtype = SY_F16, .rank = 2, .dim = {3, 4}, .data = w}, false}, {{.dtype = SY_F16, .rank = 2, .dim = {3, 4}, .data = w}, true}};
    if (i >= SYI_COUNT(attrs)) return false;
    *out = (sy_op_case){.what = "f16 weight", .n_in = 1, .attr = &attrs[i], .attr_size = sizeof attrs[i]};
    syi_case_in(out, 0, 2, (int64_t[]){5, attrs[i].transposed ? 3 : 4}, true);
    return true;
}

const sy_op syi_row_coded = {.name = "linear_coded", .min_in = 1, .max_in = 1, .shape = coded_shape, .forward = coded_forward, .backward = coded_backward,
                             .keep = keep_none, .flops = coded_flops, .traffic = coded_traffic, .test = coded_test};

sy_node *syi_op_coded(sy_graph *g, sy_node *x, const sy_tensor *w, bool transposed)
{
    coded_attr a = {*w, transposed};
    return sy_call(g, &syi_row_coded, &x, 1, &a, sizeof a);
}
