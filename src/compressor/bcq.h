/* SPDX-License-Identifier: Apache-2.0 */
/* Binary-coding fits: w ~ sum of +-alpha_b, for shiftaddllm.c and tests. Internal. */
#ifndef SYI_BCQ_H
#define SYI_BCQ_H

#include "base/base.h"

enum { SYI_BCQ_MAX = 8 };
/* Scales of a group, and its 2^bits values in rising order with the signs that make them (bit b
 * set: +alpha_b). */
typedef struct { int bits; float alpha[SYI_BCQ_MAX]; float level[1 << SYI_BCQ_MAX]; uint8_t sign[1 << SYI_BCQ_MAX]; } syi_bcq;

/* Alternates scales (least squares, then sums of `terms` powers of two; 0: rounded to f16) and
 * codes (the nearest value), at most `rounds` times or until nothing changes. w[n] with stride. */
void syi_bcq_fit(int bits, int terms, int rounds, const float *w, int64_t n, syi_bcq *out);
/* Values and signs from the alphas. */
void syi_bcq_levels(syi_bcq *q);
/* Index of the value nearest to w; of two equally near the lower. */
static inline int syi_bcq_nearest(const syi_bcq *q, float w)
{
    int at = 0;
    for (int i = 0; i + 1 < 1 << q->bits; i++) at += w > 0.5f * (q->level[i] + q->level[i + 1]);
    return at;
}

#endif
