/* SPDX-License-Identifier: Apache-2.0 */
/* Linear assignment: a permutation p that makes sum_i score[i, p[i]] largest, exactly.
 * Shortest augmenting paths with dual variables in f64 (Jonker and Volgenant 1987),
 * O(n^3); equal scores are decided by the order of the columns. Internal. */
#ifndef SYI_LAP_H
#define SYI_LAP_H

#include "base/base.h"

/* score[n, n]; p[n]. *value (may be NULL): the sum. SY_E_NUMERIC: not finite. */
sy_status syi_lap(sy_context *ctx, int64_t n, const double *score, int64_t *p, double *value);

#endif
