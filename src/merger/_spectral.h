/* SPDX-License-Identifier: Apache-2.0 */
/* What the mergers of singular spaces share: weight matrices go through a decomposition,
 * everything else is the mean of the differences. */
#ifndef MERGER_SPECTRAL_H
#define MERGER_SPECTRAL_H

#include "base/base.h"
#include "steelyard/merge.h"
#include "tensor/mix.h"
#include "tensor/orth.h"

/* The difference of input i, in f64. */
void spectral_delta(const sy_merge *m, const float *base, const float *in, double *d);
/* out = base + scale * d */
void spectral_finish(const sy_merge *m, const float *base, double scale, const double *d, float *out);
/* out = base + scale * mean of differences, tile by tile. */
void spectral_mean(const sy_merge *m, sy_tile *t, double scale);
/* A decomposition that failed, as the merge's error. */
sy_status spectral_fail(const sy_merge *m, sy_status st);

#endif
