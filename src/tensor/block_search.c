/* SPDX-License-Identifier: Apache-2.0 */
/* The encoders of block_search.h for any processor, and which one this machine takes. */
#include "block_search.h"

#if defined(__x86_64__)
syi_encode_fn syi_encode_q4_k_avx2, syi_encode_q6_k_avx2;
#endif

void syi_encode_q4_k(const float *src, uint8_t *dst, int64_t blocks)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        syi_encode_q4_k_avx2(src, dst, blocks);
        return;
    }
#endif
    for (int64_t b = 0; b < blocks; b++) block_q4_k(src + b * BLOCK, dst + b * 144);
}

void syi_encode_q6_k(const float *src, uint8_t *dst, int64_t blocks)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        syi_encode_q6_k_avx2(src, dst, blocks);
        return;
    }
#endif
    for (int64_t b = 0; b < blocks; b++) block_q6_k(src + b * BLOCK, dst + b * 210);
}
