/* SPDX-License-Identifier: Apache-2.0 */
/* The list of op rows, and what they share. */
#include "graph/op_row.h"

/* One line a row; each is defined beside its functions in op_*.c. */
#define ROWS(X)                                                                             \
    X(linear) X(matmul) X(lowrank_add) X(linears) X(coded) X(stored) X(panels)                        \
    X(add) X(sub) X(mul) X(div) X(scale) X(scale_cols) X(add_bias) X(dropout) X(cast)       \
    X(reshape) X(sqrt) X(square) X(sum) X(sum_rows) X(sum_cols) X(dot)                      \
    X(rmsnorm) X(swiglu) X(rope) X(attention) X(embed) X(head_loss) \
    X(rows) X(cross_entropy) X(dora_factor) X(columns)                                      \
    X(shard_sum) X(repeat_add) X(product_add) X(beside) X(decoded)                         \
    X(activate) X(layernorm) X(patches) X(pool_max) X(pool_mean) X(batch_norm) X(slice) X(gather)

#define X(name) extern const sy_op syi_row_##name;
ROWS(X)
#undef X

#define X(name) &syi_row_##name,
const sy_op *const syi_ops[] = {ROWS(X) NULL};
#undef X

void syi_shape_like(sy_tensor *out, const sy_tensor *x)
{
    void *data = out->data;
    *out = *x;
    out->data = data;
}

void syi_shape_1(sy_tensor *out, sy_dtype dt, int64_t n)
{
    out->dtype = dt;
    out->rank = 1;
    out->dim[0] = n;
}

void syi_shape_2(sy_tensor *out, sy_dtype dt, int64_t rows, int64_t cols)
{
    out->dtype = dt;
    out->rank = 2;
    out->dim[0] = rows;
    out->dim[1] = cols;
}

static void describe(const sy_tensor *t, char *to, size_t size)
{
    size_t at = (size_t)snprintf(to, size, "%s [", sy_dtype_name(t->dtype));
    for (int i = 0; i < t->rank && at < size; i++)
        at += (size_t)snprintf(to + at, size - at, "%s%lld", i > 0 ? ", " : "", (long long)t->dim[i]);
    if (at < size) snprintf(to + at, size - at, "]");
}

sy_status syi_shape_wrong(const sy_op_call *c, const char *op, int i, const char *expected)
{
    char found[128], first[128];
    describe(c->in[i], found, sizeof found);
    describe(c->in[0], first, sizeof first);
    return syi_fail(c->ctx, SY_E_BUG, "op %s: input %d is %s, expected %s (input 0 is %s)", op, i, found, expected, first);
}

sy_status syi_shape_same(sy_op_call *c, int *n_aux)
{
    (void)n_aux;
    for (int i = 1; i < c->n_in; i++) {
        bool same = c->in[i]->dtype == c->in[0]->dtype && c->in[i]->rank == c->in[0]->rank;
        for (int d = 0; same && d < c->in[0]->rank; d++) same = c->in[i]->dim[d] == c->in[0]->dim[d];
        if (!same) return syi_shape_wrong(c, "elementwise", i, "the type and shape of input 0");
    }
    if (!sy_dtype_is_float(c->in[0]->dtype) || c->in[0]->dtype == SY_F16)
        return syi_shape_wrong(c, "elementwise", 0, "F32, BF16 or F64");
    syi_shape_like(c->out, c->in[0]);
    return SY_OK;
}

/* -- gradients ---------------------------------------------------------------------- */

static bool needs_via(const sy_op_call *c, int i, sy_dtype dt)
{
    return c->want[i] && c->din[i] != NULL && c->din[i]->dtype != dt;
}

int64_t syi_via_bytes(const sy_op_call *c, sy_dtype dt)
{
    int64_t most = 0;
    for (int i = 0; i < c->n_in; i++)
        if (needs_via(c, i, dt)) most = syi_max(most, sy_tensor_count(c->in[i]) * syi_dtype_size(dt));
    return most;
}

syi_via syi_via_begin(const sy_op_call *c, int i, sy_dtype dt)
{
    if (needs_via(c, i, dt)) return (syi_via){sy_scratch(c), false};
    return (syi_via){c->din[i]->data, c->add[i]};
}

sy_status syi_via_done(const sy_op_call *c, int i, sy_dtype dt, syi_via via)
{
    if (!needs_via(c, i, dt)) return SY_OK;
    int64_t n = sy_tensor_count(c->in[i]);
    if (c->add[i]) return syi_accumulate(c->engine, dt, via.data, c->din[i]->dtype, c->din[i]->data, n);
    return syi_cast(c->engine, dt, via.data, c->din[i]->dtype, c->din[i]->data, n);
}

sy_status syi_pass_grad(const sy_op_call *c, int i, double a)
{
    if (!c->want[i] || (a == 1 && c->din[i]->data == c->dout->data)) return SY_OK;
    sy_dtype dt = c->dout->dtype;
    int64_t n = sy_tensor_count(c->dout);
    if (a == 1 && c->add[i]) return syi_accumulate(c->engine, dt, c->dout->data, c->din[i]->dtype, c->din[i]->data, n);
    if (a == 1) return syi_cast(c->engine, dt, c->dout->data, c->din[i]->dtype, c->din[i]->data, n);
    syi_via via = syi_via_begin(c, i, dt);
    SYI_TRY(syi_axpy(c->engine, dt, a, c->dout->data, via.add, via.data, n));
    return syi_via_done(c, i, dt, via);
}

void syi_zero_unless_add(const sy_op_call *c, int i)
{
    if (!c->add[i]) memset(c->din[i]->data, 0, (size_t)sy_tensor_bytes(c->din[i]));
}

double syi_scalar_get(const sy_tensor *t)
{
    return t->dtype == SY_F64 ? *(const double *)t->data : (double)*(const float *)t->data;
}

void syi_scalar_set(sy_tensor *t, double v)
{
    if (t->dtype == SY_F64) *(double *)t->data = v;
    else *(float *)t->data = (float)v;
}

unsigned syi_keep_none(const sy_op_call *c, unsigned want)
{
    (void)c, (void)want;
    return 0;
}

unsigned syi_keep_out(const sy_op_call *c, unsigned want)
{
    (void)c, (void)want;
    return SYI_KEEP_OUT;
}
