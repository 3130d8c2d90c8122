/* SPDX-License-Identifier: Apache-2.0 */
/* The small network that predicts a weight from its last five values (KNOWN): two branches
 * (the values; their four differences) of 64-8-64-32 with an input-dependent activation, one
 * tanh. 9,425 numbers. */
#ifndef MERGER_KNOWN_H
#define MERGER_KNOWN_H

#include "base/base.h"

enum { SYI_KNOWN_SIZE = 9425, SYI_KNOWN_HISTORY = 5 };

/* What is to be added to x[4] (the newest; x[0] is the oldest). grad (or NULL) += gradient of
 * |value - target| by the parameters. */
float syi_known_f32(const float *w, const float *x, float target, float *grad);
double syi_known_f64(const double *w, const double *x, double target, double *grad);
void syi_known_init(uint64_t key, float *w);
/* Examples: history[n][5] oldest first, target[n] = what to add. Adam, cosine to 0, gradients
 * clipped to 1 number by number, mean absolute error. `start`: where to begin (NULL: fresh). */
typedef struct { int64_t steps, batch; double lr; uint64_t key; } syi_known_training;
sy_status syi_known_train(sy_context *ctx, const float *history, const float *target, int64_t n, const syi_known_training *how, const float *start, float *w);
/* The best linear rule on the five values: c[5], by least squares. */
sy_status syi_known_fit(sy_context *ctx, const float *history, const float *target, int64_t n, double *c);

#endif
