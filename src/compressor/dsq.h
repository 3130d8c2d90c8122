/* SPDX-License-Identifier: Apache-2.0 */
/* D2Quant's dual-scale fit of one group, for d2quant.c and its test. Internal. */
#ifndef SYI_DSQ_H
#define SYI_DSQ_H

#include "base/base.h"
#include "steelyard/method.h"

/* x[m, g] (pitch ld) ~ c_j (+-r_1i +-r_2i ..): row scales r[m, bits] > 0 and column scales c[g] > 0 by
 * `rounds` alternations of rows, columns and codes; code[m, g] (may be NULL) gets the signs, bit b
 * set: +r_b. error (may be NULL) [1 + 3 rounds]: sum of squares after each step. */
sy_status syi_dsq_fit(sy_context *ctx, int bits, int rounds, const float *x, int64_t ld, int64_t m, int64_t g, double *r, double *c, uint8_t *code, double *error);
/* Its steps: the start, scales of rows for these codes and c, scales of columns for these codes and r. */
void syi_dsq_begin(int bits, const float *x, int64_t ld, int64_t m, int64_t g, double *r, double *c, uint8_t *code);
void syi_dsq_rows(sy_context *ctx, int bits, const float *x, int64_t ld, int64_t m, int64_t g, double *r, const double *c, uint8_t *code);
void syi_dsq_columns(sy_context *ctx, int bits, const float *x, int64_t ld, int64_t m, int64_t g, const double *r, double *c, const uint8_t *code);

/* The same for a symmetric uniform grid, x[m, g] ~ c_j r_i q with q of -2^(bits-1) .. 2^(bits-1) - 1: r[m], c[g].
 * Steps may raise the error a little, since codes are made anew before each. */
void syi_dsq_uniform(sy_context *ctx, int bits, int rounds, const float *x, int64_t ld, int64_t m, int64_t g, double *r, double *c);

/* Rows of a packed weight times c[out], through its groups' scales (rounded to f16); codes and zeros stay. */
sy_status syi_dsq_absorb(sy_context *ctx, sy_weight *w, const double *c);

/* A norm's bias from sums of deviations teacher - student and of their squares [2 n] over `tokens`:
 * lambda times their mean, clipped to +-limit, in the channels that `select` picks. mse: mean squared
 * deviation without and with it. */
enum { DAC_ALL, DAC_EXPLAIN, DAC_SNR, DAC_TOP };
sy_status syi_dac_bias(sy_context *ctx, int select, double threshold, double lambda, double limit, int64_t n, int64_t tokens, const double *sum, float *beta, double mse[2]);

#endif
