/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF's coded blocks, to f32 and back: the functions of each type. Internal. */
#ifndef SYI_BLOCKS_H
#define SYI_BLOCKS_H

#include "steelyard/tensor.h"

/* Whole blocks; the coded side may be unaligned. */
typedef void syi_decode_fn(const uint8_t *src, float *dst, int64_t blocks);
typedef void syi_encode_fn(const float *src, uint8_t *dst, int64_t blocks);

/* NULL: not a block type (decoder), not one that is written (encoder). */
syi_decode_fn *syi_block_decoder(sy_dtype dtype);
syi_encode_fn *syi_block_encoder(sy_dtype dtype);

/* Those that search (block_search.c). */
syi_encode_fn syi_encode_q4_k, syi_encode_q6_k;

#endif
