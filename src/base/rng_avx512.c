/* SPDX-License-Identifier: Apache-2.0 */
/* The loops of rng_kernel.h for processors with AVX-512: same bits, more at once. */
#include "rng_kernel.h"

void syi_rng_uniform_avx512(uint64_t key, uint64_t first, float *out)
{
    uniform_lanes(key, first, out);
}

void syi_rng_normal_avx512(uint64_t key, uint64_t first, float *out)
{
    normal_lanes(key, first, out);
}
