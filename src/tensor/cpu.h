/* SPDX-License-Identifier: Apache-2.0 */
/* The table of CPU paths: one row of function pointers per instruction set, picked
 * once per engine. cpu_X.c each hold one row, made from the same source compiled
 * with other flags; cpu_plain.c is what the others are tested against.
 *
 * All functions here work on one thread over the range that they are given; who
 * calls them cuts the work (elementwise.c, norm.c, gemm.c). */
#ifndef SYI_CPU_H
#define SYI_CPU_H

#include "base/base.h"

typedef enum { SYI_ISA_PLAIN, SYI_ISA_NEON, SYI_ISA_AVX2, SYI_ISA_AVX512, SYI_ISA_AVX512_BF16 } syi_isa;

/* Rank-r gradients (gemm_outer.c): columns of a strip, largest rank. */
enum { SYI_OUTER_COLS = 48, SYI_OUTER_RANK = 64 };

typedef struct {
    const char *name; /* as in STEELYARD_CPU */
    syi_isa isa;
    /* out[i, r] = x[i,:] . w[r,:] for r < rows, i < m <= 4; f32 sums. */
    void (*gemv_f32)(int m, int64_t rows, int64_t k, const float *x, int64_t ldx, const float *w, int64_t ldw, float *out, int64_t ldo);
    void (*gemv_bf16)(int m, int64_t rows, int64_t k, const float *x, int64_t ldx, const uint16_t *w, int64_t ldw, float *out, int64_t ldo);
    void (*from_bf16)(const uint16_t *x, float *y, int64_t n);
    void (*to_bf16)(const float *x, uint16_t *y, int64_t n);
    /* out[r, 48] = S[k, r]^T X[k, cols <= 48]; S as outer_pack left it (k*r words). */
    void (*outer_pack_f32)(int64_t k, int64_t r, const float *s, int64_t lds, uint32_t *out);
    void (*outer_pack_bf16)(int64_t k, int64_t r, const uint16_t *s, int64_t lds, uint32_t *out);
    void (*outer_f32)(int64_t k, int64_t r, const uint32_t *s, const float *x, int64_t ldx, int64_t cols, float *out);
    void (*outer_bf16)(int64_t k, int64_t r, const uint32_t *s, const uint16_t *x, int64_t ldx, int64_t cols, float *out);
    void (*axpy_f32)(float a, const float *x, bool add, float *y, int64_t n);
    void (*axpy_bf16)(float a, const uint16_t *x, bool add, uint16_t *y, int64_t n);
} syi_cpu;

extern const syi_cpu syi_cpu_plain, syi_cpu_neon, syi_cpu_avx2, syi_cpu_avx512, syi_cpu_avx512_bf16;

/* The best row for this processor, or the one that STEELYARD_CPU names: unknown or
 * not possible here is SY_E_USAGE. */
sy_status syi_cpu_pick(sy_context *ctx, const syi_cpu **out, bool *forced);
/* NULL: not in this build, or this processor lacks it. */
const syi_cpu *syi_cpu_find(const char *name);

#endif
