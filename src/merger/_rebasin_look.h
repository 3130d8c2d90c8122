/* SPDX-License-Identifier: Apache-2.0 */
/* What can be seen of a match: the loss on the line between two networks, the alignment of
 * their singular vectors, a prediction of the barrier from derivatives; as numbers and pictures. */
#ifndef MERGER_REBASIN_LOOK_H
#define MERGER_REBASIN_LOOK_H

#include "_rebasin_net.h"

/* R of (a, b) for each threshold: sum over matrices of <U_a V_a^T, U_b V_b^T> over the singular
 * vectors with s >= gamma s_1, divided by how many those are at most. */
sy_status rebasin_alignment(const rebasin *r, const float *const *a, const float *const *b, const double *gamma, int n, double *out);
/* ... of one matrix of each, added to sum[n] and count[n]. */
sy_status rebasin_align(sy_context *ctx, int64_t rows, int64_t cols, const float *a, const float *b, const double *gamma, int n, double *sum, double *count);

/* Loss (and accuracy; NAN of language models) at `points` equal steps from a to b. barrier: the
 * largest distance above the line between the ends' losses (not below 0); midpoint: that at 1/2. */
typedef struct { int64_t points; double *t, *loss, *accuracy, barrier, midpoint, middle_accuracy; } rebasin_line;
/* Running statistics of what lies between are estimated again over `batches`. */
sy_status rebasin_line_measure(rebasin_net *n, const float *const *a, const float *const *b, int64_t points, int64_t batches, rebasin_line *out);
void rebasin_line_free(sy_context *ctx, rebasin_line *l);
/* The barrier at 1/2 by the two networks' gradients and curvatures (a diagnosis: networks that
 * are far from each other do not keep to it). */
sy_status rebasin_predict(rebasin_net *n, const float *const *a, const float *const *b, double *out);

/* dir/barrier.svg (and accuracy.svg), dir/alignment.svg: before and after. */
sy_status rebasin_draw_lines(sy_context *ctx, const char *dir, const rebasin_line *before, const rebasin_line *after);
sy_status rebasin_draw_alignment(sy_context *ctx, const char *dir, const double *gamma, const double *before, const double *after, int n);

#endif
