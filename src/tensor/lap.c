/* SPDX-License-Identifier: Apache-2.0 */
/* See lap.h. Rows are added one at a time: a shortest path in reduced costs from the new
 * row to a free column, along columns that are taken, after which the path is flipped. */
#include "tensor/lap.h"

#include <math.h>

sy_status syi_lap(sy_context *ctx, int64_t n, const double *score, int64_t *p, double *value)
{
    if (value) *value = 0;
    for (int64_t i = 0; i < n * n; i++)
        if (!isfinite(score[i])) return syi_fail(ctx, SY_E_NUMERIC, "an assignment of %lld: a score is not finite", (long long)n);
    double *u = syi_calloc(ctx, (size_t)(3 * (n + 1)), sizeof *u), *v = u ? u + n + 1 : NULL, *far = u ? v + n + 1 : NULL;
    int64_t *row = syi_calloc(ctx, (size_t)(2 * (n + 1)), sizeof *row), *from = row ? row + n + 1 : NULL; /* 1-based; 0: free */
    bool *seen = syi_calloc(ctx, (size_t)(n + 1), 1);
    const bool ok = u && row && seen;
    for (int64_t i = 1; ok && i <= n; i++) {
        int64_t at = 0;
        row[0] = i;
        for (int64_t j = 0; j <= n; j++) {
            far[j] = INFINITY;
            seen[j] = false;
        }
        do {
            seen[at] = true;
            const int64_t r = row[at];
            int64_t next = 0;
            double least = INFINITY;
            for (int64_t j = 1; j <= n; j++) {
                if (seen[j]) continue;
                const double cost = -score[(r - 1) * n + j - 1] - u[r] - v[j];
                if (cost < far[j]) {
                    far[j] = cost;
                    from[j] = at;
                }
                if (far[j] < least) {
                    least = far[j];
                    next = j;
                }
            }
            for (int64_t j = 0; j <= n; j++) {
                if (seen[j]) {
                    u[row[j]] += least;
                    v[j] -= least;
                } else {
                    far[j] -= least;
                }
            }
            at = next;
        } while (row[at] != 0);
        do {
            const int64_t before = from[at];
            row[at] = row[before];
            at = before;
        } while (at != 0);
    }
    for (int64_t j = 1; ok && j <= n; j++) {
        p[row[j] - 1] = j - 1;
        if (value) *value += score[(row[j] - 1) * n + j - 1];
    }
    syi_free(ctx, u);
    syi_free(ctx, row);
    syi_free(ctx, seen);
    return ok ? SY_OK : SY_E_MEMORY;
}
