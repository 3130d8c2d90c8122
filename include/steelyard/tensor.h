/* SPDX-License-Identifier: Apache-2.0 */
/* Data types and tensors.
 *
 * Shapes are in Hugging Face order, row-major and contiguous; the last
 * dimension runs fastest. Block types (GGUF's) code `block_len` consecutive
 * numbers of a row, so their last dimension is a multiple of it. */
#ifndef STEELYARD_TENSOR_H
#define STEELYARD_TENSOR_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* X(enum, name in safetensors or in GGUF, numbers a block, bytes a block) */
#define SY_DTYPE_LIST(X)                                                      \
    X(SY_F32, "F32", 1, 4)                                                    \
    X(SY_BF16, "BF16", 1, 2)                                                  \
    X(SY_F16, "F16", 1, 2)                                                    \
    X(SY_F64, "F64", 1, 8)                                                    \
    X(SY_I8, "I8", 1, 1)                                                      \
    X(SY_U8, "U8", 1, 1)                                                      \
    X(SY_I16, "I16", 1, 2)                                                    \
    X(SY_U16, "U16", 1, 2)                                                    \
    X(SY_I32, "I32", 1, 4)                                                    \
    X(SY_U32, "U32", 1, 4)                                                    \
    X(SY_I64, "I64", 1, 8)                                                    \
    X(SY_U64, "U64", 1, 8)                                                    \
    X(SY_BOOL, "BOOL", 1, 1)                                                  \
    X(SY_F8_E4M3, "F8_E4M3", 1, 1)                                            \
    X(SY_F8_E5M2, "F8_E5M2", 1, 1)                                            \
    X(SY_Q4_0, "Q4_0", 32, 18)                                                \
    X(SY_Q4_1, "Q4_1", 32, 20)                                                \
    X(SY_Q5_0, "Q5_0", 32, 22)                                                \
    X(SY_Q5_1, "Q5_1", 32, 24)                                                \
    X(SY_Q8_0, "Q8_0", 32, 34)                                                \
    X(SY_Q2_K, "Q2_K", 256, 84)                                               \
    X(SY_Q3_K, "Q3_K", 256, 110)                                              \
    X(SY_Q4_K, "Q4_K", 256, 144)                                              \
    X(SY_Q5_K, "Q5_K", 256, 176)                                              \
    X(SY_Q6_K, "Q6_K", 256, 210)                                              \
    X(SY_Q8_K, "Q8_K", 256, 292)                                              \
    X(SY_IQ4_NL, "IQ4_NL", 32, 18)                                            \
    X(SY_IQ4_XS, "IQ4_XS", 256, 136)                                          \
    X(SY_TQ1_0, "TQ1_0", 256, 54)                                             \
    X(SY_TQ2_0, "TQ2_0", 256, 66)                                             \
    X(SY_MXFP4, "MXFP4", 32, 17)

typedef enum {
#define SY_X_(code, name, len, bytes) code,
    SY_DTYPE_LIST(SY_X_)
#undef SY_X_
    SY_DTYPE_COUNT
} sy_dtype;

const char *sy_dtype_name(sy_dtype dtype);
/* The type of that name (any letter case), or -1. */
int sy_dtype_find(const char *name);
int sy_dtype_block_len(sy_dtype dtype);
int sy_dtype_block_bytes(sy_dtype dtype);
/* F32, BF16, F16, F64: types that arithmetic is done in. */
bool sy_dtype_is_float(sy_dtype dtype);

enum { SY_MAX_RANK = 6 };

/* A view: who made the memory frees it. rank 0 is one number. */
typedef struct {
    sy_dtype dtype;
    int rank;
    int64_t dim[SY_MAX_RANK];
    void *data;
} sy_tensor;

int64_t sy_tensor_count(const sy_tensor *t); /* numbers */
int64_t sy_tensor_bytes(const sy_tensor *t);
/* dim[0..rank-2] multiplied: rows of length dim[rank-1]. */
int64_t sy_tensor_rows(const sy_tensor *t);
int64_t sy_tensor_cols(const sy_tensor *t);

/* n consecutive numbers from any type to f32, and back with one rounding (to
 * nearest even). For block types n is a multiple of the block length and `from`
 * writes blocks: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 with the bits of GGUF's reference
 * quantiser; Q4_K and Q6_K with the scales that give the least squared error of
 * those tried; others: SY_E_UNSUPPORTED. Source and destination may be unaligned. */
sy_status sy_to_f32(sy_context *ctx, sy_dtype dtype, const void *src, float *dst, int64_t n);
sy_status sy_from_f32(sy_context *ctx, sy_dtype dtype, const float *src, void *dst, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
