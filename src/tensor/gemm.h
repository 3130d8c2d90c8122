/* SPDX-License-Identifier: Apache-2.0 */
/* The ways a product can go (gemm.c chooses). */
#ifndef SYI_GEMM_H
#define SYI_GEMM_H

#include "tensor/engine.h"

/* gemm_outer.c: op(A) transposed, B not, min(m, n) small, k long. */
bool syi_outer_fits(int64_t m, int64_t n, int64_t k, syi_mat a, syi_mat b);
sy_status syi_outer(syi_engine *e, int64_t m, int64_t n, int64_t k, double alpha, syi_mat a, syi_mat b, double beta,
                    sy_dtype ct, void *c, int64_t ldc);

/* gemm_own.c: any shape, any mix of F32 and BF16, by our own kernels. */
sy_status syi_product_own(syi_engine *e, int64_t m, int64_t n, int64_t k, double alpha, syi_mat a, syi_mat b, double beta,
                          sy_dtype ct, void *c, int64_t ldc);

/* For libraries that take what they only read without const. */
static inline void *syi_unconst(const void *p)
{
    union { const void *from; void *to; } u = {p};
    return u.to;
}

/* One number, rounded to nearest even; a NaN stays a quiet NaN. */
static inline uint16_t syi_to_bf16(float x)
{
    union { float f; uint32_t u; } v = {x};
    if (x != x) return (uint16_t)(v.u >> 16 | 0x40);
    return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}

static inline float syi_from_bf16(uint16_t h)
{
    union { uint32_t u; float f; } v = {(uint32_t)h << 16};
    return v.f;
}

#endif
