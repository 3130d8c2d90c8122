/* SPDX-License-Identifier: Apache-2.0 */
/* The row passes of the cross-entropy, one table a CPU path. Internal to
 * cross_entropy*.c. */
#ifndef SYI_CROSS_ENTROPY_INTERNAL_H
#define SYI_CROSS_ENTROPY_INTERNAL_H

#include "tensor/kernels.h"

typedef struct {
    /* Continues a running maximum and sum of exp(x - max) over n more logits; begins with max
     * = -INFINITY, sum = 0. out (NULL: not wanted): exp(x[i] - max) with the maximum after
     * these n, of type F32 or BF16; it may be x itself (F32), else they do not overlap. */
    void (*exp)(const float *x, int64_t n, float *max, double *sum, sy_dtype dt, void *out);
    /* sum[i] = sum[i] * scale + part[i] */
    void (*add)(const float *part, int64_t n, float scale, float *sum);
} syi_softmax_path;

extern const syi_softmax_path syi_softmax_plain, syi_softmax_avx2, syi_softmax_avx512, syi_softmax_avx512bf16, syi_softmax_neon;

#endif
