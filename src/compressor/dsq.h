/* SPDX-License-Identifier: Apache-2.0 */
/* D2Quant's dual-scale fit of one group, for d2quant.c and its test. Internal. */
#ifndef SYI_DSQ_H
#define SYI_DSQ_H

#include "base/base.h"

/* x[m, g] (pitch ld) ~ c_j (+-r_1i +-r_2i ..): row scales r[m, bits] > 0 and column scales c[g] > 0 by
 * `rounds` alternations of rows, columns and codes; code[m, g] (may be NULL) gets the signs, bit b
 * set: +r_b. error (may be NULL) [1 + 3 rounds]: sum of squares after each step. */
sy_status syi_dsq_fit(sy_context *ctx, int bits, int rounds, const float *x, int64_t ld, int64_t m, int64_t g, double *r, double *c, uint8_t *code, double *error);

#endif
