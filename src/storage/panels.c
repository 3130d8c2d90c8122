/* SPDX-License-Identifier: Apache-2.0 */
/* Frozen BF16 weights in the layout that products like best: slot 0 is [out, in] with
 * the numbers as syi_panels_pack lays them. The same bytes serve both directions. */
#include "graph/ops.h"
#include "steelyard/method.h"

static sy_node *apply(sy_graph *g, const sy_weight *w, sy_node *x, bool transposed)
{
    return syi_op_panels(g, x, &w->slot[0], transposed);
}

static sy_status dense(sy_context *ctx, const sy_weight *w, int64_t row, int64_t n, float *dst)
{
    (void)ctx;
    for (int64_t i = 0; i < n; i++) syi_panels_row(w->in, w->slot[0].data, row + i, dst + i * w->in);
    return SY_OK;
}

static double bits(const sy_weight *w)
{
    (void)w;
    return 16;
}

const sy_storage sy_storage_panels = {.name = "panels", .title = "BF16 in the products' own layout", .apply = apply, .dense = dense, .bits = bits};
