/* SPDX-License-Identifier: Apache-2.0 */
/* The encoders of block_search.h for processors with AVX2: same bits, more at once. */
#include "block_search.h"

syi_encode_fn syi_encode_q4_k_avx2, syi_encode_q6_k_avx2;

void syi_encode_q4_k_avx2(const float *src, uint8_t *dst, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++) block_q4_k(src + b * BLOCK, dst + b * 144);
}

void syi_encode_q6_k_avx2(const float *src, uint8_t *dst, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++) block_q6_k(src + b * BLOCK, dst + b * 210);
}
