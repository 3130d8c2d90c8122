/* SPDX-License-Identifier: Apache-2.0 */
/* Dense weights: slot 0 is [out, in] in the compute type (f32, bf16, f64), mapped from
 * the file or owned; with a parameter behind it, trained. */
#include "graph/ops.h"
#include "steelyard/method.h"

static sy_node *apply(sy_graph *g, const sy_weight *w, sy_node *x, bool transposed)
{
    return syi_op_linear(g, x, w->param ? sy_leaf(g, w->param) : sy_const(g, &w->slot[0]), transposed);
}

static sy_status dense(sy_context *ctx, const sy_weight *w, int64_t row, int64_t n, float *dst)
{
    const sy_tensor *t = w->param ? &w->param->value : &w->slot[0];
    int64_t count = n * w->in;
    if (t->dtype == SY_F64) {
        const double *src = (const double *)t->data + row * w->in;
        for (int64_t i = 0; i < count; i++) dst[i] = (float)src[i];
        return SY_OK;
    }
    return sy_to_f32(ctx, t->dtype, (const char *)t->data + row * w->in * sy_dtype_block_bytes(t->dtype), dst, count);
}

static double bits(const sy_weight *w) { return 8.0 * sy_dtype_block_bytes(w->slot[0].dtype); }

const sy_storage sy_storage_dense = {.name = "dense", .title = "one number a weight", .apply = apply, .dense = dense, .bits = bits};
