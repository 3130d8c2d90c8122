/* SPDX-License-Identifier: Apache-2.0 */
/* First fit: each window goes into the first row with room for it. A tree over
 * the rows holds the most room in each half, so that a million windows take a
 * moment. */
#include "dataset.h"

sy_status syi_first_fit(sy_context *ctx, const int32_t *n, const int64_t *order, int64_t count, int64_t seq, int64_t *row,
                        int64_t *rows)
{
    int64_t leaves = 1;
    while (leaves < count) leaves *= 2;
    int32_t *room = syi_alloc(ctx, (size_t)(2 * leaves) * sizeof *room);
    if (room == NULL) return SY_E_MEMORY;
    for (int64_t i = 0; i < 2 * leaves; i++) room[i] = (int32_t)seq;
    *rows = 0;
    for (int64_t k = 0; k < count; k++) {
        int64_t i = order ? order[k] : k, at = 1;
        while (at < leaves) at = room[2 * at] >= n[i] ? 2 * at : 2 * at + 1;
        room[at] -= n[i];
        row[i] = at - leaves;
        *rows = syi_max(*rows, row[i] + 1);
        for (at /= 2; at >= 1; at /= 2) room[at] = room[2 * at] > room[2 * at + 1] ? room[2 * at] : room[2 * at + 1];
    }
    syi_free(ctx, room);
    return SY_OK;
}
