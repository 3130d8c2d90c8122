/* SPDX-License-Identifier: Apache-2.0 */
/* Weights that stay in GGUF's blocks (or another type than the compute type): decoded
 * tile by tile inside the products, never whole. Frozen; gradients pass through to x, so
 * an adapter trains on top. Slot 0 is [out, in] in that type, slot 1, if there is one,
 * I32 [out]: where among the stored rows each row lies (GGUF interleaves the halves of
 * query and key heads). */
#include "graph/ops.h"
#include "steelyard/method.h"

static sy_node *apply(sy_graph *g, const sy_weight *w, sy_node *x, bool transposed)
{
    return syi_op_coded(g, x, &w->slot[0], w->slot[1].data, transposed);
}

static sy_status dense(sy_context *ctx, const sy_weight *w, int64_t row, int64_t n, float *dst)
{
    const sy_tensor *t = &w->slot[0];
    const int32_t *order = w->slot[1].data;
    const int64_t row_bytes = w->in / sy_dtype_block_len(t->dtype) * sy_dtype_block_bytes(t->dtype);
    if (!order) return sy_to_f32(ctx, t->dtype, (const char *)t->data + row * row_bytes, dst, n * w->in);
    for (int64_t r = 0; r < n; r++) SYI_TRY(sy_to_f32(ctx, t->dtype, (const char *)t->data + order[row + r] * row_bytes, dst + r * w->in, w->in));
    return SY_OK;
}

static double bits(const sy_weight *w)
{
    sy_dtype t = w->slot[0].dtype;
    return 8.0 * sy_dtype_block_bytes(t) / sy_dtype_block_len(t);
}

const sy_storage sy_storage_coded = {.name = "coded", .title = "GGUF blocks, decoded on the way", .apply = apply, .dense = dense, .bits = bits};
