/* SPDX-License-Identifier: Apache-2.0 */
/* Effective weights by tiles: a method that changes the weight itself says what becomes of
 * some of its rows; here those rows are made, multiplied and dropped, and in backward made
 * again together with the same rows of the weight's gradient. So neither the effective weight
 * nor the gradient of a frozen one is ever whole. */
#include "model/model.h"

#include "graph/ops.h"

extern const sy_storage sy_storage_dense;

enum { TILE_NUMBERS = 1 << 20 };

typedef struct { sy_next top; int64_t first, n; } tile;

/* Rows of the weight that the chain below `top` stands on, in the graph's type. */
static sy_node *stored_rows(sy_graph *g, const sy_weight *w, int64_t first, int64_t n)
{
    if (w->param) return syi_op_rows(g, sy_leaf(g, w->param), first, n);
    sy_tensor rows = w->slot[0];
    if (w->type != &sy_storage_dense || rows.rank != 2 || rows.dtype != sy_graph_dtype(g) || rows.dim[0] != w->out || rows.dim[1] != w->in) return syi_op_decoded(g, w, first, n);
    rows.dim[0] = n;
    if (rows.data) rows.data = (char *)rows.data + first * w->in * sy_dtype_block_bytes(rows.dtype);
    return sy_const(g, &rows);
}

static sy_node *effective_rows(sy_graph *g, sy_next top, int64_t first, int64_t n)
{
    const sy_site *s = top.site;
    for (int d = top.depth - 1; d >= 0; d--) {
        const sy_wrap *w = &s->wraps[d];
        if (!w->active) continue;
        if (!w->method->weight) {
            sy_graph_fail(g, syi_fail(sy_graph_context(g), SY_E_UNSUPPORTED,
                                      "%s: %s is below a method that changes the weight itself, which it does not do; use one adapter", s->name, w->method->name));
            return NULL;
        }
        sy_node *below = effective_rows(g, (sy_next){s, d}, first, n);
        return below ? w->method->weight(w->self, g, w, below, first) : NULL;
    }
    return stored_rows(g, s->weight, first, n);
}

static sy_node *tile_product(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    const tile *t = self;
    (void)n;
    return syi_op_linear(g, in[0], effective_rows(g, t->top, t->first, t->n), false);
}

sy_node *sy_tiled(sy_graph *g, sy_next top, sy_node *x, bool keep)
{
    const sy_site *s = top.site;
    int64_t multiple = 1;
    for (int d = 0; d < top.depth; d++) {
        const sy_wrap *w = &s->wraps[d];
        if (w->active && w->method->tile) multiple = syi_max(multiple, w->method->tile(w->self, w));
    }
    const int64_t most = syi_max(multiple, TILE_NUMBERS / syi_max(1, s->in) / multiple * multiple), tiles = syi_ceil_div(s->out, most);
    const int64_t rows = syi_ceil_div(syi_ceil_div(s->out, tiles), multiple) * multiple; /* tiles of about one size */
    sy_node *part[1024];
    int n = 0;
    if (syi_ceil_div(s->out, rows) > 1024) {
        sy_graph_fail(g, syi_fail(sy_graph_context(g), SY_E_UNSUPPORTED, "%s: a weight of %lld x %lld needs more than 1024 tiles", s->name, (long long)s->out, (long long)s->in));
        return NULL;
    }
    for (int64_t first = 0; first < s->out; first += rows) {
        const tile t = {top, first, syi_min(rows, s->out - first)};
        part[n++] = sy_block(g, tile_product, &t, sizeof t, &x, 1, keep ? SY_BLOCK_SCOPE : SY_BLOCK_RECOMPUTE);
        if (!part[n - 1]) return NULL;
    }
    return syi_op_beside(g, part, n);
}
