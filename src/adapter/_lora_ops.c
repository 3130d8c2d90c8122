/* SPDX-License-Identifier: Apache-2.0 */
/* Two ops that only the LoRA family needs: DoRA's row factors and the lookup of columns
 * (an embedding's A is stored [r, vocabulary], so a token is a column). */
#include "adapter/lora.h"
#include "graph/ops.h"
#include "tensor/convert.h"

#include <math.h>

/* Numbers of any float type as f64. */
static sy_status to_f64(sy_context *ctx, const sy_tensor *t, int64_t first, int64_t n, double *dst)
{
    float part[512];
    if (t->dtype == SY_F64) {
        memcpy(dst, (const double *)t->data + first, (size_t)n * sizeof *dst);
        return SY_OK;
    }
    int64_t size = sy_dtype_block_bytes(t->dtype);
    for (int64_t i = 0; i < n; i += SYI_COUNT(part)) {
        int64_t k = syi_min(SYI_COUNT(part), n - i);
        SYI_TRY(sy_to_f32(ctx, t->dtype, (const char *)t->data + (first + i) * size, part, k));
        for (int64_t j = 0; j < k; j++) dst[i + j] = part[j];
    }
    return SY_OK;
}

static double get(const sy_tensor *t, int64_t i)
{
    if (t->dtype == SY_F64) return ((const double *)t->data)[i];
    if (t->dtype == SY_F32) return (double)((const float *)t->data)[i];
    float v = 0;
    syi_to_f32(t->dtype, (const char *)t->data + i * sy_dtype_block_bytes(t->dtype), &v, 1);
    return v;
}

static void put(sy_tensor *t, int64_t i, double v, bool add)
{
    const float f = (float)(v += add ? get(t, i) : 0);
    if (t->dtype == SY_F64)
        ((double *)t->data)[i] = v;
    else if (t->dtype == SY_F32)
        ((float *)t->data)[i] = f;
    else
        syi_from_f32(t->dtype, &f, (char *)t->data + i * sy_dtype_block_bytes(t->dtype), 1);
}

static sy_dtype vector_type(sy_graph *g) { return sy_graph_dtype(g) == SY_F64 ? SY_F64 : SY_F32; }

/* -- dora_factor ------------------------------------------------------------------- */

typedef struct { const double *row_norms; double s; } dora_attr;

static sy_status dora_shape(sy_op_call *c, int *n_aux)
{
    const sy_tensor *m = c->in[0], *a = c->in[1], *b = c->in[2], *wa = c->in[3];
    if (m->rank != 1 || a->rank != 2 || b->rank != 2 || wa->rank != 2 || b->dim[0] != m->dim[0] || b->dim[1] != a->dim[0] ||
        wa->dim[0] != a->dim[0] || wa->dim[1] != m->dim[0])
        return syi_fail(c->ctx, SY_E_BUG, "dora_factor: m[out], A[r,in], B[out,r] and WA[r,out] do not fit together");
    sy_tensor out = { .dtype = vector_type(c->graph), .rank = 1, .dim = { m->dim[0] } };
    *c->out = out;
    *c->aux[0] = out;
    *n_aux = 1;
    return SY_OK;
}

/* A, A A^T, and B's rows and WA's as f64. */
static int64_t dora_scratch(const sy_op_call *c, bool backward)
{
    if (backward) return 0;
    int64_t r = c->in[1]->dim[0], in = c->in[1]->dim[1], out = c->in[0]->dim[0];
    return (r * in + r * r + 2 * out * r) * (int64_t)sizeof(double);
}

static sy_status dora_forward(sy_op_call *c)
{
    const dora_attr *attr = c->attr;
    const int64_t out = c->in[0]->dim[0], r = c->in[1]->dim[0], in = c->in[1]->dim[1];
    double *a = sy_scratch(c), *aa = a + r * in, *b = aa + r * r, *wa = b + out * r;
    const int threads = syi_omp(c->ctx);
    SYI_TRY(to_f64(c->ctx, c->in[1], 0, r * in, a));
    SYI_TRY(to_f64(c->ctx, c->in[2], 0, out * r, b));
    SYI_TRY(to_f64(c->ctx, c->in[3], 0, r * out, wa));
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (r * r * in > 1 << 18)
    for (int64_t i = 0; i < r; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0;
            for (int64_t k = 0; k < in; k++) sum += a[i * in + k] * a[j * in + k];
            aa[i * r + j] = aa[j * r + i] = sum;
        }
    #pragma omp parallel for num_threads(threads) schedule(static) if (out * r * r > 1 << 18)
    for (int64_t o = 0; o < out; o++) {
        const double *row = b + o * r;
        double cross = 0, square = 0;
        for (int64_t i = 0; i < r; i++) {
            double t = 0;
            for (int64_t j = 0; j < r; j++) t += aa[i * r + j] * row[j];
            square += row[i] * t;
            cross += row[i] * wa[i * out + o];
        }
        double n2 = attr->row_norms[o] + 2 * attr->s * cross + attr->s * attr->s * square;
        double n = n2 > 0 ? sqrt(n2) : 0;
        put(c->aux[0], o, n, false);
        put(c->out, o, n > 0 ? get(c->in[0], o) / n : 0, false);
    }
    return SY_OK;
}

static sy_status dora_backward(sy_op_call *c)
{
    if (!c->want[0]) return SY_OK;
    for (int64_t o = 0; o < c->out->dim[0]; o++) {
        double n = get(c->aux[0], o);
        put(c->din[0], o, n > 0 ? get(c->dout, o) / n : 0, c->add[0]);
    }
    return SY_OK;
}

static unsigned dora_keep(const sy_op_call *c, unsigned want)
{
    (void)c;
    (void)want;
    return 0; /* n is in aux */
}

static bool dora_test(int i, sy_op_case *out)
{
    static const double norms[5] = { 40, 50, 60, 45, 55 };
    static const dora_attr attr = { norms, 0.5 };
    if (i > 0) return false;
    *out = (sy_op_case){ .what = "r 3, in 7, out 5", .n_in = 4, .attr = &attr, .attr_size = sizeof attr };
    const int64_t dim[4][2] = { { 5, 0 }, { 3, 7 }, { 5, 3 }, { 3, 5 } };
    for (int k = 0; k < 4; k++) {
        out->in[k].dtype = k == 0 ? SY_F32 : SY_F64; /* m is a vector; the others have the graph's type */
        out->in[k].rank = k == 0 ? 1 : 2;
        out->in[k].dim[0] = dim[k][0];
        out->in[k].dim[1] = dim[k][1];
        out->in[k].grad = k == 0; /* n is a constant by definition */
        out->in[k].scale = 1;
    }
    return true;
}

const sy_op syi_row_dora_factor = {
    .name = "dora_factor", .min_in = 4, .max_in = 4,
    .shape = dora_shape, .forward = dora_forward, .backward = dora_backward, .keep = dora_keep,
    .scratch = dora_scratch, .test = dora_test,
};

sy_node *syi_op_dora_factor(sy_graph *g, sy_node *m, sy_node *a, sy_node *b, sy_node *wa, const double *row_norms, double s)
{
    sy_node *in[] = { m, sy_detach(g, a), sy_detach(g, b), sy_detach(g, wa) };
    dora_attr attr = { row_norms, s };
    return sy_call(g, &syi_row_dora_factor, in, 4, &attr, sizeof attr);
}

/* -- columns ------------------------------------------------------------------------- */

typedef struct { const int32_t *ids; int64_t tokens; } columns_attr;

static sy_status columns_shape(sy_op_call *c, int *n_aux)
{
    const columns_attr *attr = c->attr;
    if (c->in[0]->rank != 2) return syi_fail(c->ctx, SY_E_BUG, "columns: the table must have rank 2, found %d", c->in[0]->rank);
    *c->out = (sy_tensor){ .dtype = sy_graph_dtype(c->graph), .rank = 2, .dim = { attr->tokens, c->in[0]->dim[0] } };
    *n_aux = 0;
    return SY_OK;
}

static sy_status columns_forward(sy_op_call *c)
{
    const columns_attr *attr = c->attr;
    const int64_t r = c->in[0]->dim[0], vocab = c->in[0]->dim[1];
    for (int64_t t = 0; t < attr->tokens; t++) {
        if (attr->ids[t] < 0 || attr->ids[t] >= vocab)
            return syi_fail(c->ctx, SY_E_BUG, "columns: id %d of token %lld is not in 0..%lld", attr->ids[t], (long long)t, (long long)vocab - 1);
        for (int64_t k = 0; k < r; k++) put(c->out, t * r + k, get(c->in[0], k * vocab + attr->ids[t]), false);
    }
    return SY_OK;
}

static sy_status columns_backward(sy_op_call *c)
{
    const columns_attr *attr = c->attr;
    const int64_t r = c->in[0]->dim[0], vocab = c->in[0]->dim[1];
    if (!c->want[0]) return SY_OK;
    sy_tensor *d = c->din[0];
    if (!c->add[0]) memset(d->data, 0, (size_t)sy_tensor_bytes(d));
    for (int64_t t = 0; t < attr->tokens; t++) /* token order, whatever the threads */
        for (int64_t k = 0; k < r; k++) put(d, k * vocab + attr->ids[t], get(c->dout, t * r + k), true);
    return SY_OK;
}

static unsigned columns_keep(const sy_op_call *c, unsigned want)
{
    (void)c;
    (void)want;
    return 0;
}

static bool columns_test(int i, sy_op_case *out)
{
    static const int32_t ids[5] = { 0, 3, 3, 5, 1 };
    static const columns_attr attr = { ids, 5 };
    if (i > 0) return false;
    *out = (sy_op_case){ .what = "table 2x6, a token twice", .n_in = 1, .attr = &attr, .attr_size = sizeof attr };
    out->in[0].dtype = SY_F64; /* the type under test */
    out->in[0].rank = 2;
    out->in[0].dim[0] = 2;
    out->in[0].dim[1] = 6;
    out->in[0].grad = true;
    out->in[0].scale = 1;
    return true;
}

const sy_op syi_row_columns = {
    .name = "columns", .min_in = 1, .max_in = 1,
    .shape = columns_shape, .forward = columns_forward, .backward = columns_backward, .keep = columns_keep, .test = columns_test,
};

sy_node *syi_op_columns(sy_graph *g, sy_node *table, const int32_t *ids, int64_t tokens)
{
    columns_attr attr = { ids, tokens };
    return sy_call(g, &syi_row_columns, &table, 1, &attr, sizeof attr);
}
