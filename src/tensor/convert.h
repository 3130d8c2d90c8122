/* SPDX-License-Identifier: Apache-2.0 */
/* Conversion between stored numbers and f32, without a context: for loops that
 * run in parallel. sy_to_f32 and sy_from_f32 are these with checks. Internal. */
#ifndef SYI_CONVERT_H
#define SYI_CONVERT_H

#include "steelyard/tensor.h"

/* n numbers; block types: n is a multiple of the block length. Pointers may be
 * unaligned (dst of to_f32 must be a proper float pointer). */
void syi_to_f32(sy_dtype dtype, const void *src, float *dst, int64_t n);
/* false (nothing written) when this type cannot be written. */
bool syi_from_f32(sy_dtype dtype, const float *src, void *dst, int64_t n);
/* From types that hold more than f32 (F64, 32 and 64 bit integers): rounded to
 * odd, so that a second rounding to BF16 or F16 gives what one rounding would. */
void syi_to_f32_odd(sy_dtype dtype, const void *src, float *dst, int64_t n);
/* Can sy_from_f32 write this type? */
bool syi_can_write(sy_dtype dtype);

#endif
