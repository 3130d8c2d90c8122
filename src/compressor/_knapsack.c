/* SPDX-License-Identifier: Apache-2.0 */
/* One choice an item, least error within a budget: dynamic programming over the states that
 * no other state beats in both cost and error. Lists stay sorted by cost, so that adding an
 * item is a merge of shifted copies; every item keeps where its states came from. */
#include "base/base.h"
#include "steelyard/compress.h"

typedef struct { int64_t cost; double error; int32_t parent, choice; } state;

/* Two lists, cost rising and error falling, into one of that kind. */
static int64_t merge(const state *a, int64_t na, const state *b, int64_t nb, state *out)
{
    int64_t n = 0, i = 0, j = 0;
    while (i < na || j < nb) {
        const bool left = j >= nb || (i < na && (a[i].cost < b[j].cost || (a[i].cost == b[j].cost && a[i].error <= b[j].error)));
        const state s = left ? a[i++] : b[j++];
        if (n == 0 || s.error < out[n - 1].error) out[n++] = s;
    }
    return n;
}

/* The list after item `item`: from prev, over its choices. *out from syi_alloc. */
static sy_status add_item(sy_context *ctx, const sy_choice *all, int n, int item, int64_t budget, const state *prev, int64_t n_prev, state **out, int64_t *n_out)
{
    state *now = NULL, *shifted = syi_alloc(ctx, (size_t)syi_max(1, n_prev) * sizeof *shifted);
    int64_t n_now = 0;
    if (!shifted) return SY_E_MEMORY;
    for (int c = 0; c < n; c++) {
        if (all[c].item != item || all[c].cost < 0) continue;
        int64_t k = 0;
        for (int64_t i = 0; i < n_prev && prev[i].cost <= budget - all[c].cost; i++)
            shifted[k++] = (state){prev[i].cost + all[c].cost, prev[i].error + all[c].error, (int32_t)i, c};
        if (k == 0) continue;
        state *both = syi_alloc(ctx, (size_t)(n_now + k) * sizeof *both);
        if (!both) {
            syi_free(ctx, shifted);
            syi_free(ctx, now);
            return SY_E_MEMORY;
        }
        n_now = merge(now, n_now, shifted, k, both);
        syi_free(ctx, now);
        now = both;
    }
    syi_free(ctx, shifted);
    *out = now;
    *n_out = n_now;
    return SY_OK;
}

sy_status sy_knapsack(sy_context *ctx, const sy_choice *all, int n, int items, int64_t budget, int *pick)
{
    state **list = syi_calloc(ctx, (size_t)items + 1, sizeof *list);
    int64_t *count = syi_calloc(ctx, (size_t)items + 1, sizeof *count);
    sy_status st = list && count ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK) {
        list[0] = syi_calloc(ctx, 1, sizeof **list);
        if (!list[0]) st = SY_E_MEMORY;
        count[0] = 1;
    }
    for (int i = 0; i < items && st == SY_OK; i++) {
        st = add_item(ctx, all, n, i, budget, list[i], count[i], &list[i + 1], &count[i + 1]);
        if (st == SY_OK && count[i + 1] == 0)
            st = syi_fail(ctx, SY_E_USAGE, "the budget of %lld cannot be met: item %d has no choice that fits; ask for less", (long long)budget, i);
    }
    if (st == SY_OK) {
        int64_t at = count[items] - 1; /* the last state has the least error */
        for (int i = items; i > 0; i--) {
            pick[i - 1] = list[i][at].choice;
            at = list[i][at].parent;
        }
    }
    for (int i = 0; list && i <= items; i++) syi_free(ctx, list[i]);
    syi_free(ctx, list);
    syi_free(ctx, count);
    return st;
}
