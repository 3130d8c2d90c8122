/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics of the inputs of sites: sums over tokens that calibration, EVA and activation
 * statistics share. Internal. */
#ifndef SYI_OBSERVE_H
#define SYI_OBSERVE_H

#include "steelyard/compress.h"
#include "tensor/kernels.h"

/* Zeroed sums of n features. rows: how many x to keep at most (SY_STAT_ROWS), of `tokens`
 * that are to come: evenly strided. */
sy_status syi_stats_new(sy_context *ctx, int64_t n, unsigned want, int64_t rows, int64_t tokens, sy_stats **out);
void syi_stats_free(sy_context *ctx, sy_stats *s);
/* Adds x[tokens, n] (F32, BF16, F64). ref: the same rows in the other stream (SY_STAT_DX).
 * mask[tokens]: 0 leaves a token out; NULL: none. */
sy_status syi_stats_add(syi_engine *e, sy_stats *s, const sy_tensor *x, const sy_tensor *ref, const uint8_t *mask);
/* After the last add: both triangles of xx are filled. SY_E_NUMERIC when a sum is not finite. */
sy_status syi_stats_finish(sy_context *ctx, sy_stats *s, const char *what);
/* What it holds, in bytes. */
int64_t syi_stats_bytes(int64_t n, unsigned want, int64_t rows);

#endif
