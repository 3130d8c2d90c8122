/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers without a hidden position: Philox4x32-10 (Salmon, Moraes, Dror,
 * Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"). Number i of a
 * stream comes from counter (i/4, kind), lane i%4, so any slice can be made
 * again, by any thread, in any order. Normal numbers by Box and Muller. */
#include "rng_kernel.h"

void syi_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint64_t syi_key(uint64_t seed, const char *purpose, const char *tensor, int64_t step)
{
    uint64_t h = syi_hash64(purpose, strlen(purpose), seed);
    if (tensor != NULL) h = syi_hash64(tensor, strlen(tensor), h);
    return syi_hash64(&step, sizeof step, h);
}

uint64_t syi_random_u64(uint64_t key, int64_t index)
{
    uint32_t counter[4] = {(uint32_t)index, (uint32_t)((uint64_t)index >> 32), SYI_RNG_U64, 0}, w[4];
    uint32_t k[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
    syi_philox(counter, k, w);
    return (uint64_t)w[1] << 32 | w[0];
}

void syi_rng_uniform_plain(uint64_t key, uint64_t first, float *out)
{
    uniform_lanes(key, first, out);
}

void syi_rng_normal_plain(uint64_t key, uint64_t first, float *out)
{
    normal_lanes(key, first, out);
}

typedef void lanes_fn(uint64_t key, uint64_t first, float *out);

static void fill(uint64_t key, int64_t first, int64_t n, float *out, lanes_fn *lanes)
{
    float v[4 * LANES];
    while (n > 0) {
        int64_t skip = first & 3, take = syi_min(4 * LANES - skip, n);
        if (take == 4 * LANES) {
            lanes(key, (uint64_t)first >> 2, out);
        } else {
            lanes(key, (uint64_t)first >> 2, v);
            memcpy(out, v + skip, (size_t)take * sizeof *v);
        }
        first += take;
        out += take;
        n -= take;
    }
}

#if defined(__x86_64__)
static bool wide(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

void syi_uniform(uint64_t key, int64_t first, int64_t n, float *out)
{
    lanes_fn *lanes = syi_rng_uniform_plain;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) lanes = syi_rng_uniform_avx2;
    if (wide()) lanes = syi_rng_uniform_avx512;
#endif
    fill(key, first, n, out, lanes);
}

void syi_normal(uint64_t key, int64_t first, int64_t n, float *out)
{
    lanes_fn *lanes = syi_rng_normal_plain;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) lanes = syi_rng_normal_avx2;
    if (wide()) lanes = syi_rng_normal_avx512;
#endif
    fill(key, first, n, out, lanes);
}

void syi_permutation(uint64_t key, int64_t n, int64_t *out)
{
    for (int64_t i = 0; i < n; i++) out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        /* floor(u * (i+1) / 2^64): the bias is below (i+1) / 2^64. */
        unsigned __int128 wide = (unsigned __int128)syi_random_u64(key, i) * (uint64_t)(i + 1);
        int64_t j = (int64_t)(uint64_t)(wide >> 64), spare = out[i];
        out[i] = out[j];
        out[j] = spare;
    }
}
