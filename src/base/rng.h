/* SPDX-License-Identifier: Apache-2.0 */
/* The bare generator, for its known-answer test, and what rng.c and its AVX2
 * twin share. */
#ifndef SYI_RNG_H
#define SYI_RNG_H

#include "base.h"

/* Third word of the counter: one key may serve all kinds at once. */
enum { SYI_RNG_UNIFORM = 0, SYI_RNG_U64 = 1, SYI_RNG_NORMAL = 2 };

/* One block of Philox4x32-10. */
void syi_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* 256 numbers, from number 4*first of a stream: portable, AVX2, AVX-512. */
void syi_rng_uniform_plain(uint64_t key, uint64_t first, float *out);
void syi_rng_normal_plain(uint64_t key, uint64_t first, float *out);
#if defined(__x86_64__)
void syi_rng_uniform_avx2(uint64_t key, uint64_t first, float *out);
void syi_rng_normal_avx2(uint64_t key, uint64_t first, float *out);
void syi_rng_uniform_avx512(uint64_t key, uint64_t first, float *out);
void syi_rng_normal_avx512(uint64_t key, uint64_t first, float *out);
#endif

#endif
