/* SPDX-License-Identifier: Apache-2.0 */
/* Op rows around products: a weight matrix, a general product, a low-rank branch
 * added to a base, a block-coded weight. */
#include "graph/op_row.h"

static syi_mat mat(const sy_tensor *t, bool transposed)
{
    return (syi_mat){t->dtype, t->data, sy_tensor_cols(t), transposed};
}

static bool mixes(sy_dtype a, sy_dtype b)
{
    return (a == SY_F64) == (b == SY_F64) && sy_dtype_is_float(a) && sy_dtype_is_float(b) && a != SY_F16 && b != SY_F16;
}

/* -- linear ------------------------------------------------------------------------- */

typedef struct { bool transposed; } linear_attr;

static sy_status linear_shape(sy_op_call *c, int *n_aux)
{
    (void)n_aux;
    const linear_attr *a = c->attr;
    const sy_tensor *x = c->in[0], *w = c->in[1];
    if (w->rank != 2 || x->rank < 1) return syi_shape_wrong(c, "linear", 1, "a matrix [out, in]");
    if (sy_tensor_cols(x) != w->dim[a->transposed ? 0 : 1] || !mixes(x->dtype, w->dtype))
        return syi_shape_wrong(c, "linear", 1, a->transposed ? "a matrix with as many rows as input 0 has columns" : "a matrix with as many columns as input 0 has");
    syi_shape_like(c->out, x);
    c->out->dim[x->rank - 1] = w->dim[a->transposed ? 1 : 0];
    return SY_OK;
}

/* A weight that is made anew (effective weights, copies of trained ones) is laid into panels
 * first where there are rows enough to pay for it: a hundredth of the product's time. */
enum { PANEL_ROWS = 256, PANEL_MOST = 8 << 20, PANEL_PIECE = 1024 };

static bool linear_by_panels(const sy_op_call *c)
{
    const sy_tensor *w = c->in[1];
    return !((const linear_attr *)c->attr)->transposed && c->in[0]->dtype == SY_BF16 && w->dtype == SY_BF16 && sy_tensor_rows(c->in[0]) >= PANEL_ROWS &&
           w->dim[0] % 64 == 0 && w->dim[1] % 16 == 0 && sy_tensor_count(w) <= PANEL_MOST;
}

static int64_t linear_scratch(const sy_op_call *c, bool backward)
{
    return linear_by_panels(c) && (!backward || c->want[0]) ? sy_tensor_bytes(c->in[1]) : 0;
}

/* y (+)= x W^T or x W; rows in pieces that stay near the cores. *done false: no such product here. */
static sy_status linear_panels(sy_op_call *c, const sy_tensor *x, bool transposed, bool add, sy_tensor *y, bool *done)
{
    const sy_tensor *w = c->in[1];
    uint16_t *packed = sy_scratch(c);
    *done = linear_by_panels(c) && syi_panels_bytes(c->engine, w->dim[0], w->dim[1]) > 0;
    if (!*done) return SY_OK;
    SYI_TRY(syi_panels_pack(c->engine, w->dim[0], w->dim[1], w->data, packed));
    const int64_t rows = sy_tensor_rows(x), zx = sy_tensor_cols(x) * syi_dtype_size(x->dtype), zy = sy_tensor_cols(y) * syi_dtype_size(y->dtype);
    for (int64_t i = 0; i < rows; i += PANEL_PIECE)
        SYI_TRY(syi_gemm_panels(c->engine, syi_min(PANEL_PIECE, rows - i), w->dim[0], w->dim[1], x->dtype, (const char *)x->data + i * zx, packed, transposed, add,
                                y->dtype, (char *)y->data + i * zy));
    return SY_OK;
}

static sy_status linear_forward(sy_op_call *c)
{
    const linear_attr *a = c->attr;
    const sy_tensor *x = c->in[0], *w = c->in[1];
    int64_t n = sy_tensor_cols(c->out);
    bool done;
    SYI_TRY(linear_panels(c, x, false, false, c->out, &done));
    if (done) return SY_OK;
    return syi_gemm(c->engine, sy_tensor_rows(x), n, sy_tensor_cols(x), 1, mat(x, false), mat(w, !a->transposed), 0, c->out->dtype, c->out->data, n);
}

static sy_status linear_backward(sy_op_call *c)
{
    const linear_attr *a = c->attr;
    const sy_tensor *x = c->in[0], *w = c->in[1], *dy = c->dout;
    int64_t t = sy_tensor_rows(dy);
    if (c->want[0]) {
        int64_t in = sy_tensor_cols(c->in[0]);
        bool done = false;
        if (dy->dtype == SY_BF16) SYI_TRY(linear_panels(c, dy, true, c->add[0], c->din[0], &done));
        if (!done)
            SYI_TRY(syi_gemm(c->engine, t, in, sy_tensor_cols(dy), 1, mat(dy, false), mat(w, a->transposed), c->add[0], c->din[0]->dtype,
                             c->din[0]->data, in));
    }
    if (c->want[1]) {
        const sy_tensor *left = a->transposed ? x : dy, *right = a->transposed ? dy : x;
        int64_t rows = sy_tensor_cols(left), cols = sy_tensor_cols(right);
        SYI_TRY(syi_gemm(c->engine, rows, cols, t, 1, mat(left, true), mat(right, false), c->add[1], c->din[1]->dtype, c->din[1]->data, cols));
    }
    return SY_OK;
}

static unsigned linear_keep(const sy_op_call *c, unsigned want)
{
    (void)c;
    return (want & 1 ? 2u : 0) | (want & 2 ? 1u : 0);
}

static double linear_flops(const sy_op_call *c, bool backward)
{
    double one = 2 * (double)sy_tensor_count(c->in[1]) * (double)sy_tensor_rows(c->in[0]);
    return backward ? one * (c->want[0] + c->want[1]) : one;
}

static bool linear_test(int i, sy_op_case *t)
{
    static const linear_attr attr[] = {{false}, {true}};
    if (i > 4) return false;
    *t = (sy_op_case){.what = i & 1 ? "x W" : "x W^T", .n_in = 2, .attr = &attr[i & 1], .attr_size = sizeof *attr};
    int64_t rows = i < 2 ? 6 : 70, in = i < 2 ? 5 : 96, out = i < 2 ? 7 : 80;
    if (i == 4) rows = PANEL_ROWS, in = 16, out = 64; /* by way of panels */
    t->in[0].dtype = t->in[1].dtype = CASE_ACT;
    t->in[0].rank = t->in[1].rank = 2;
    t->in[0].dim[0] = rows, t->in[0].dim[1] = i & 1 ? out : in;
    t->in[1].dim[0] = out, t->in[1].dim[1] = in;
    t->in[0].grad = t->in[1].grad = true;
    return true;
}

const sy_op syi_row_linear = {
    .name = "linear", .min_in = 2, .max_in = 2, .shape = linear_shape, .forward = linear_forward, .backward = linear_backward,
    .keep = linear_keep, .scratch = linear_scratch, .flops = linear_flops, .test = linear_test,
};

sy_node *syi_op_linear(sy_graph *g, sy_node *x, sy_node *w, bool transposed)
{
    return sy_call(g, &syi_row_linear, (sy_node *[]){x, w}, 2, &(linear_attr){transposed}, sizeof(linear_attr));
}

/* -- matmul ------------------------------------------------------------------------- */

typedef struct { bool ta, tb; double alpha; } matmul_attr;

static sy_status matmul_shape(sy_op_call *c, int *n_aux)
{
    (void)n_aux;
    const matmul_attr *m = c->attr;
    const sy_tensor *a = c->in[0], *b = c->in[1];
    if (a->rank != 2) return syi_shape_wrong(c, "matmul", 0, "a matrix");
    if (b->rank != 2 || a->dim[!m->ta] != b->dim[m->tb] || a->dtype != b->dtype)
        return syi_shape_wrong(c, "matmul", 1, "a matrix of input 0's type that fits it");
    syi_shape_2(c->out, a->dtype, a->dim[m->ta], b->dim[!m->tb]);
    return SY_OK;
}

static sy_status matmul_forward(sy_op_call *c)
{
    const matmul_attr *m = c->attr;
    const sy_tensor *a = c->in[0], *b = c->in[1];
    return syi_gemm(c->engine, c->out->dim[0], c->out->dim[1], a->dim[!m->ta], m->alpha, mat(a, m->ta), mat(b, m->tb), 0, c->out->dtype,
                    c->out->data, c->out->dim[1]);
}

static sy_status matmul_backward(sy_op_call *c)
{
    const matmul_attr *q = c->attr;
    const sy_tensor *a = c->in[0], *b = c->in[1], *dc = c->dout;
    int64_t m = dc->dim[0], n = dc->dim[1], k = a->dim[!q->ta];
    if (c->want[0]) {
        if (!q->ta) SYI_TRY(syi_gemm(c->engine, m, k, n, q->alpha, mat(dc, false), mat(b, !q->tb), c->add[0], c->din[0]->dtype, c->din[0]->data, k));
        else SYI_TRY(syi_gemm(c->engine, k, m, n, q->alpha, mat(b, q->tb), mat(dc, true), c->add[0], c->din[0]->dtype, c->din[0]->data, m));
    }
    if (c->want[1]) {
        if (!q->tb) SYI_TRY(syi_gemm(c->engine, k, n, m, q->alpha, mat(a, !q->ta), mat(dc, false), c->add[1], c->din[1]->dtype, c->din[1]->data, n));
        else SYI_TRY(syi_gemm(c->engine, n, k, m, q->alpha, mat(dc, true), mat(a, q->ta), c->add[1], c->din[1]->dtype, c->din[1]->data, k));
    }
    return SY_OK;
}

static double matmul_flops(const sy_op_call *c, bool backward)
{
    const matmul_attr *m = c->attr;
    double one = 2 * (double)sy_tensor_count(c->out) * (double)c->in[0]->dim[!m->ta];
    return backward ? one * (c->want[0] + c->want[1]) : one;
}

static bool matmul_test(int i, sy_op_case *t)
{
    static const matmul_attr attr[] = {{false, false, 1}, {true, false, -0.5}, {false, true, 2}, {true, true, 1}};
    if (i > 3) return false;
    bool ta = attr[i].ta, tb = attr[i].tb;
    *t = (sy_op_case){.what = "product", .n_in = 2, .attr = &attr[i], .attr_size = sizeof *attr};
    t->in[0].dtype = t->in[1].dtype = CASE_ACT;
    t->in[0].rank = t->in[1].rank = 2;
    t->in[0].dim[ta] = 6, t->in[0].dim[!ta] = 9;
    t->in[1].dim[tb] = 9, t->in[1].dim[!tb] = 4;
    t->in[0].grad = t->in[1].grad = true;
    return true;
}

const sy_op syi_row_matmul = {
    .name = "matmul", .min_in = 2, .max_in = 2, .shape = matmul_shape, .forward = matmul_forward, .backward = matmul_backward,
    .keep = linear_keep, .flops = matmul_flops, .test = matmul_test,
};

sy_node *syi_op_matmul(sy_graph *g, sy_node *a, bool ta, sy_node *b, bool tb, double alpha)
{
    return sy_call(g, &syi_row_matmul, (sy_node *[]){a, b}, 2, &(matmul_attr){ta, tb, alpha}, sizeof(matmul_attr));
}

/* -- lowrank_add ------------------------------------------------------------------------ */

/* out = base + s (drop(x) A^T) B^T. Gradients: dB = s dy^T H, dH = s dy B, dA = dH^T
 * drop(x), dx = drop'(dH A); base's passes. */
typedef struct { double s, dropout; uint64_t key; } lowrank_attr;
enum { BASE, X, A, B };

static sy_status lowrank_shape(sy_op_call *c, int *n_aux)
{
    const sy_tensor *base = c->in[BASE], *x = c->in[X], *a = c->in[A], *b = c->in[B];
    if (a->rank != 2 || a->dim[1] != sy_tensor_cols(x)) return syi_shape_wrong(c, "lowrank_add", A, "[r, columns of input 1]");
    if (b->rank != 2 || b->dim[1] != a->dim[0] || b->dim[0] != sy_tensor_cols(base))
        return syi_shape_wrong(c, "lowrank_add", B, "[columns of input 0, r]");
    if (x->dtype != base->dtype || sy_tensor_rows(x) != sy_tensor_rows(base)) return syi_shape_wrong(c, "lowrank_add", X, "as many rows as input 0");
    syi_shape_like(c->out, base);
    if (c->training) { /* H */
        syi_shape_2(c->aux[0], x->dtype, sy_tensor_rows(x), a->dim[0]);
        *n_aux = 1;
    }
    return SY_OK;
}

static int64_t lowrank_scratch(const sy_op_call *c, bool backward)
{
    const lowrank_attr *q = c->attr;
    int64_t z = syi_dtype_size(c->out->dtype), h = sy_tensor_rows(c->out) * c->in[A]->dim[0] * z;
    bool own_h = backward || c->aux[0] == NULL || c->aux[0]->rank == 0;
    return (own_h ? syi_ceil_div(h, 64) * 64 : 0) + (q->dropout > 0 ? sy_tensor_count(c->in[X]) * z : 0);
}

static sy_status lowrank_forward(sy_op_call *c)
{
    const lowrank_attr *q = c->attr;
    sy_dtype dt = c->out->dtype;
    int64_t t = sy_tensor_rows(c->out), in = sy_tensor_cols(c->in[X]), out = sy_tensor_cols(c->out), r = c->in[A]->dim[0];
    char *scratch = sy_scratch(c);
    void *h = c->aux[0] != NULL ? c->aux[0]->data : NULL;
    if (h == NULL) {
        h = scratch;
        scratch += syi_ceil_div(t * r * syi_dtype_size(dt), 64) * 64;
    }
    syi_mat x = mat(c->in[X], false);
    if (q->dropout > 0) {
        SYI_TRY(syi_dropout(c->engine, dt, q->key, q->dropout, x.data, false, scratch, t * in));
        x.data = scratch;
    }
    SYI_TRY(syi_gemm(c->engine, t, r, in, 1, x, mat(c->in[A], true), 0, dt, h, r));
    if (!c->in_place) SYI_TRY(syi_cast(c->engine, dt, c->in[BASE]->data, dt, c->out->data, t * out));
    return syi_gemm(c->engine, t, out, r, q->s, (syi_mat){dt, h, r, false}, mat(c->in[B], true), 1, dt, c->out->data, out);
}

static sy_status lowrank_backward(sy_op_call *c)
{
    const lowrank_attr *q = c->attr;
    sy_dtype dt = c->out->dtype;
    int64_t t = sy_tensor_rows(c->out), in = sy_tensor_cols(c->in[X]), out = sy_tensor_cols(c->out), r = c->in[A]->dim[0];
    char *dh = sy_scratch(c), *wide = dh + syi_ceil_div(t * r * syi_dtype_size(dt), 64) * 64;
    syi_mat dy = mat(c->dout, false), mat_dh = {dt, dh, r, false};
    if (c->want[B]) {
        syi_mat dyt = dy, h = {dt, c->aux[0]->data, r, false};
        dyt.t = true;
        SYI_TRY(syi_gemm(c->engine, out, r, t, q->s, dyt, h, c->add[B], c->din[B]->dtype, c->din[B]->data, r));
    }
    if (c->want[A] || c->want[X]) SYI_TRY(syi_gemm(c->engine, t, r, out, q->s, dy, mat(c->in[B], false), 0, dt, dh, r));
    if (c->want[A]) {
        syi_mat x = mat(c->in[X], false), dht = mat_dh;
        dht.t = true;
        if (q->dropout > 0) {
            SYI_TRY(syi_dropout(c->engine, dt, q->key, q->dropout, x.data, false, wide, t * in));
            x.data = wide;
        }
        SYI_TRY(syi_gemm(c->engine, r, in, t, 1, dht, x, c->add[A], c->din[A]->dtype, c->din[A]->data, in));
    }
    if (c->want[X]) {
        if (q->dropout > 0) {
            SYI_TRY(syi_gemm(c->engine, t, in, r, 1, mat_dh, mat(c->in[A], false), 0, dt, wide, in));
            bool same = c->din[X]->dtype == dt;
            SYI_TRY(syi_dropout(c->engine, dt, q->key, q->dropout, wide, same && c->add[X], same ? c->din[X]->data : wide, t * in));
            if (!same) SYI_TRY(syi_via_done(c, X, dt, (syi_via){wide, false}));
        } else {
            SYI_TRY(syi_gemm(c->engine, t, in, r, 1, mat_dh, mat(c->in[A], false), c->add[X], c->din[X]->dtype, c->din[X]->data, in));
        }
    }
    return syi_pass_grad(c, BASE, 1);
}

static unsigned lowrank_keep(const sy_op_call *c, unsigned want)
{
    (void)c;
    unsigned keep = 0;
    if (want & (1u << A)) keep |= 1u << X | 1u << B;
    if (want & (1u << X)) keep |= 1u << A | 1u << B;
    return keep;
}

static double lowrank_flops(const sy_op_call *c, bool backward)
{
    double t = (double)sy_tensor_rows(c->out), r = (double)c->in[A]->dim[0];
    double in = 2 * t * r * (double)sy_tensor_cols(c->in[X]), out = 2 * t * r * (double)sy_tensor_cols(c->out);
    if (!backward) return in + out;
    return c->want[B] * out + (c->want[A] || c->want[X]) * out + c->want[A] * in + c->want[X] * in;
}

static bool lowrank_test(int i, sy_op_case *t)
{
    static const lowrank_attr attr[] = {{0.5, 0, 0}, {2, 0.25, 77}, {1.5, 0, 0}};
    if (i > 2) return false;
    *t = (sy_op_case){.what = i == 1 ? "with dropout" : "low-rank branch", .n_in = 4, .attr = &attr[i], .attr_size = sizeof *attr, .tol_bf16 = 3e-2};
    int64_t rows = i == 2 ? 90 : 7, in = i == 2 ? 72 : 6, out = i == 2 ? 100 : 5, r = i == 2 ? 8 : 3;
    const int64_t dim[4][2] = {{rows, out}, {rows, in}, {r, in}, {out, r}};
    for (int j = 0; j < 4; j++) {
        t->in[j].dtype = CASE_ACT;
        t->in[j].rank = 2;
        t->in[j].dim[0] = dim[j][0], t->in[j].dim[1] = dim[j][1];
        t->in[j].grad = true;
    }
    return true;
}

const sy_op syi_row_lowrank_add = {
    .name = "lowrank_add", .min_in = 4, .max_in = 4, .flags = SY_OP_IN_PLACE | SY_OP_PASSES, .shape = lowrank_shape, .forward = lowrank_forward,
    .backward = lowrank_backward, .keep = lowrank_keep, .scratch = lowrank_scratch, .flops = lowrank_flops, .test = lowrank_test,
};

sy_node *syi_op_lowrank_add(sy_graph *g, sy_node *base, sy_node *x, sy_node *a, sy_node *b, double s, double dropout, uint64_t key)
{
    lowrank_attr q = {s, dropout, key};
    return sy_call(g, &syi_row_lowrank_add, (sy_node *[]){base, x, a, b}, 4, &q, sizeof q);
}

/* -- linears --------------------------------------------------------------------------------- */

/* out = x [A_1; A_2; ...]^T: the matrices are few rows each and are copied together, so
 * that x, dout and dx pass once. */
static sy_status linears_shape(sy_op_call *c, int *n_aux)
{
    const sy_tensor *x = c->in[0];
    int64_t cols = 0;
    (void)n_aux;
    for (int i = 1; i < c->n_in; i++) {
        if (c->in[i]->rank != 2 || c->in[i]->dim[1] != sy_tensor_cols(x) || c->in[i]->dtype != x->dtype)
            return syi_shape_wrong(c, "linears", i, "a matrix of input 0's type with as many columns");
        cols += c->in[i]->dim[0];
    }
    syi_shape_2(c->out, x->dtype, sy_tensor_rows(x), cols);
    return SY_OK;
}

enum { LINEARS_FEW = 4 /* rows: then each matrix is read where it lies */ };

/* Scratch: the matrices; in backward their gradients too. */
static int64_t linears_together(const sy_op_call *c) { return syi_ceil_div(c->out->dim[1] * sy_tensor_cols(c->in[0]) * syi_dtype_size(c->out->dtype), 64) * 64; }

static int64_t linears_scratch(const sy_op_call *c, bool backward)
{
    return linears_together(c) + (backward ? c->out->dim[1] * sy_tensor_cols(c->in[0]) * syi_dtype_size(syi_sum_type(c->out->dtype)) : 0);
}

static syi_mat linears_matrices(const sy_op_call *c, bool transposed)
{
    char *all = sy_scratch(c), *to = all;
    for (int i = 1; i < c->n_in; i++) {
        const size_t bytes = (size_t)sy_tensor_bytes(c->in[i]);
        memcpy(to, c->in[i]->data, bytes);
        to += bytes;
    }
    return (syi_mat){c->out->dtype, all, sy_tensor_cols(c->in[0]), transposed};
}

static sy_status linears_forward(sy_op_call *c)
{
    const sy_tensor *x = c->in[0];
    const int64_t rows = sy_tensor_rows(x), in = sy_tensor_cols(x), cols = c->out->dim[1], z = syi_dtype_size(c->out->dtype);
    if (rows > LINEARS_FEW) return syi_gemm(c->engine, rows, cols, in, 1, mat(x, false), linears_matrices(c, true), 0, c->out->dtype, c->out->data, cols);
    char *to = c->out->data;
    for (int i = 1; i < c->n_in; i++) {
        const int64_t n = c->in[i]->dim[0];
        SYI_TRY(syi_gemm(c->engine, rows, n, in, 1, mat(x, false), mat(c->in[i], true), 0, c->out->dtype, to, cols));
        to += n * z;
    }
    return SY_OK;
}

static sy_status linears_backward(sy_op_call *c)
{
    const sy_tensor *x = c->in[0], *dy = c->dout;
    const sy_dtype sum = syi_sum_type(dy->dtype);
    const int64_t rows = sy_tensor_rows(x), in = sy_tensor_cols(x), cols = dy->dim[1];
    bool any = false;
    for (int i = 1; i < c->n_in; i++) any |= c->want[i];
    if (c->want[0])
        SYI_TRY(syi_gemm(c->engine, rows, in, cols, 1, mat(dy, false), linears_matrices(c, false), c->add[0], c->din[0]->dtype, c->din[0]->data, in));
    if (!any) return SY_OK;
    char *da = (char *)sy_scratch(c) + linears_together(c);
    SYI_TRY(syi_gemm(c->engine, cols, in, rows, 1, mat(dy, true), mat(x, false), 0, sum, da, in));
    for (int i = 1; i < c->n_in; i++) {
        const int64_t count = sy_tensor_count(c->in[i]);
        if (c->want[i] && c->add[i]) SYI_TRY(syi_accumulate(c->engine, sum, da, c->din[i]->dtype, c->din[i]->data, count));
        else if (c->want[i]) SYI_TRY(syi_cast(c->engine, sum, da, c->din[i]->dtype, c->din[i]->data, count));
        da += count * syi_dtype_size(sum);
    }
    return SY_OK;
}

static unsigned linears_keep(const sy_op_call *c, unsigned want)
{
    const unsigned all = (1u << c->n_in) - 1;
    return (want & 1 ? all & ~1u : 0) | (want & ~1u ? 1u : 0);
}

static double linears_flops(const sy_op_call *c, bool backward)
{
    double all = 0;
    for (int i = 1; i < c->n_in; i++) all += (double)sy_tensor_count(c->in[i]) * (backward ? c->want[0] + c->want[i] : 1);
    return 2 * all * (double)sy_tensor_rows(c->in[0]);
}

static bool linears_test(int i, sy_op_case *t)
{
    if (i > 2) return false;
    *t = (sy_op_case){.what = i == 2 ? "few rows" : "three matrices", .n_in = 4};
    const int64_t rows = i == 0 ? 7 : i == 1 ? 90 : 3, in = i == 1 ? 72 : 6;
    syi_case_in(t, 0, 2, (const int64_t[]){rows, in}, true);
    for (int j = 1; j < 4; j++) syi_case_in(t, j, 2, (const int64_t[]){i == 1 ? 8 : 1 + j, in}, j != 2);
    return true;
}

const sy_op syi_row_linears = {
    .name = "linears", .min_in = 2, .max_in = SY_OP_MAX_IN, .shape = linears_shape, .forward = linears_forward, .backward = linears_backward,
    .keep = linears_keep, .scratch = linears_scratch, .flops = linears_flops, .test = linears_test,
};

sy_node *syi_op_linears(sy_graph *g, sy_node *x, sy_node *const *a, int n)
{
    sy_node *in[SY_OP_MAX_IN] = {x};
    for (int i = 0; i < n && i + 1 < SY_OP_MAX_IN; i++) in[i + 1] = a[i];
    return sy_call(g, &syi_row_linears, in, n + 1, NULL, 0);
}

/* -- coded ----------------------------------------------------------------------------------- */

typedef struct { sy_tensor w; bool transposed; const int32_t *order; } coded_attr;

static syi_coded coded_of(const coded_attr *a) { return (syi_coded){a->w.dtype, a->w.data, a->order}; }

static sy_status coded_shape(sy_op_call *c, int *n_aux)
{
    (void)n_aux;
    const coded_attr *a = c->attr;
    if (a->w.rank != 2 || sy_tensor_cols(c->in[0]) != a->w.dim[a->transposed ? 0 : 1])
        return syi_shape_wrong(c, "coded", 0, "as many columns as the coded weight takes");
    syi_shape_like(c->out, c->in[0]);
    c->out->dim[c->in[0]->rank - 1] = a->w.dim[a->transposed ? 1 : 0];
    return SY_OK;
}

static sy_status coded_forward(sy_op_call *c)
{
    const coded_attr *a = c->attr;
    const syi_coded w = coded_of(a);
    return syi_gemm_coded(c->engine, sy_tensor_rows(c->in[0]), a->w.dim[0], a->w.dim[1], c->out->dtype, c->in[0]->data, &w, a->transposed, 0,
                          c->out->dtype, c->out->data);
}

static sy_status coded_backward(sy_op_call *c)
{
    const coded_attr *a = c->attr;
    sy_dtype dt = c->dout->dtype;
    if (!c->want[0]) return SY_OK;
    syi_via via = syi_via_begin(c, 0, dt);
    const syi_coded w = coded_of(a);
    SYI_TRY(syi_gemm_coded(c->engine, sy_tensor_rows(c->in[0]), a->w.dim[0], a->w.dim[1], dt, c->dout->data, &w, !a->transposed, via.add, dt, via.data));
    return syi_via_done(c, 0, dt, via);
}

static int64_t coded_scratch(const sy_op_call *c, bool backward)
{
    return backward ? syi_via_bytes(c, c->out->dtype) : 0;
}

static double coded_flops(const sy_op_call *c, bool backward)
{
    const coded_attr *a = c->attr;
    (void)backward;
    return 2 * (double)sy_tensor_count(&a->w) * (double)sy_tensor_rows(c->in[0]);
}

/* Bytes are read coded: that is the point of it. */
static double coded_traffic(const sy_op_call *c, bool backward)
{
    const coded_attr *a = c->attr;
    (void)backward;
    return (double)(sy_tensor_bytes(&a->w) + sy_tensor_bytes(c->in[0]) + sy_tensor_bytes(c->out));
}

static bool coded_test(int i, sy_op_case *t)
{
    /* Q8_0: a block is an f16 scale (here 2^-6, 0x2400) and 32 signed bytes. */
    static const uint8_t blocks[6][34] = {
        {0, 0x24, 1, 2, 3, 250, 5, 6, 7, 8, 9, 10, 200, 12, 13, 14, 15, 16, 17, 180, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32},
        {0, 0x24, 9, 90, 33, 25, 55, 66, 77, 88, 99, 100, 20, 112, 113, 114, 115, 116, 117, 18, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 129, 130, 131, 132},
        {0, 0x28, 1, 255, 1, 255, 2, 254, 2, 254, 3, 253, 3, 253, 4, 252, 4, 252, 5, 251, 5, 251, 6, 250, 6, 250, 7, 249, 7, 249, 8, 248, 8, 248},
        {0, 0x24, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71},
        {0, 0xa4, 4, 8, 15, 16, 23, 42, 4, 8, 15, 16, 23, 42, 4, 8, 15, 16, 23, 42, 4, 8, 15, 16, 23, 42, 4, 8, 15, 16, 23, 42, 4, 8},
        {0, 0x24, 200, 201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211, 212, 213, 214, 215, 216, 217, 218, 219, 220, 221, 222, 223, 224, 225, 226, 227, 228, 229, 230, 231},
    };
    static const int32_t order[] = {4, 2, 0, 5, 3, 1};
    static const coded_attr attr[] = {{{.dtype = SY_Q8_0, .rank = 2, .dim = {6, 32}, .data = (void *)blocks}, false, NULL},
                                      {{.dtype = SY_Q8_0, .rank = 2, .dim = {6, 32}, .data = (void *)blocks}, true, NULL},
                                      {{.dtype = SY_Q8_0, .rank = 2, .dim = {6, 32}, .data = (void *)blocks}, false, order}};
    if (i > 2) return false;
    *t = (sy_op_case){.what = i < 2 ? "Q8_0" : "Q8_0, rows in another order", .n_in = 1, .attr = &attr[i], .attr_size = sizeof *attr};
    t->in[0].dtype = CASE_ACT;
    t->in[0].rank = 2;
    t->in[0].dim[0] = 5, t->in[0].dim[1] = i == 1 ? 6 : 32;
    t->in[0].grad = true;
    return true;
}

const sy_op syi_row_coded = {
    .name = "linear_coded", .min_in = 1, .max_in = 1, .shape = coded_shape, .forward = coded_forward, .backward = coded_backward,
    .keep = syi_keep_none, .scratch = coded_scratch, .flops = coded_flops, .traffic = coded_traffic, .test = coded_test,
};

sy_node *syi_op_coded(sy_graph *g, sy_node *x, const sy_tensor *w, const int32_t *order, bool transposed)
{
    coded_attr a = {*w, transposed, order};
    return sy_call(g, &syi_row_coded, &x, 1, &a, sizeof a);
}
