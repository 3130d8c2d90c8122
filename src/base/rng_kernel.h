/* SPDX-License-Identifier: Apache-2.0 */
/* The loops of the generator, compiled once for every processor (rng.c) and once
 * for AVX2 (rng_avx2.c). Only +, -, *, sqrt and conversions are used, and these
 * files are compiled without contraction, so both give the same bits: streams do
 * not depend on the machine or on the mathematical library. */
#include "rng.h"

#include <math.h>

enum { LANES = 64 }; /* blocks of Philox side by side */

/* w[lane][i]: word `lane` of block first + i. */
static inline void words(uint64_t key, uint64_t first, uint32_t kind, uint32_t w[4][LANES])
{
    for (int i = 0; i < LANES; i++) {
        uint64_t index = first + (uint64_t)i;
        w[0][i] = (uint32_t)index;
        w[1][i] = (uint32_t)(index >> 32);
        w[2][i] = kind;
        w[3][i] = 0;
    }
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < LANES; i++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * w[0][i], p1 = (uint64_t)0xCD9E8D57u * w[2][i];
            w[0][i] = (uint32_t)(p1 >> 32) ^ w[1][i] ^ k0;
            w[1][i] = (uint32_t)p1;
            w[2][i] = (uint32_t)(p0 >> 32) ^ w[3][i] ^ k1;
            w[3][i] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

static inline float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* sqrt(-2 ln((w + 1/2) / 2^32)). With x = 2^e (1 + t), 1 + t in [sqrt(1/2), sqrt(2)),
 * ln x = e ln 2 + ln(1 + t), the latter by s = t / (2 + t): 2 (s + s^3/3 + s^5/5 ...),
 * s^2 < 0.0295, so five terms leave less than 1e-9. */
static inline float radius(uint32_t w)
{
    /* w as a float in two halves: conversion of signed numbers is what SSE2 has.
     * Never 0, so the logarithm is finite; at most 2^32, where it is 0. */
    float x = ((float)(int32_t)(w >> 16) * 65536.0f + (float)(int32_t)(w & 0xffff)) + 0.5f;
    uint32_t bits = to_bits(x);
    int32_t e = (int32_t)(bits - 0x3f3504f3u) >> 23; /* floor, from sqrt(1/2) */
    float m = from_bits(bits - ((uint32_t)e << 23));
    float t = m - 1.0f, s = t / (2.0f + t), z = s * s;
    float tail = z * (0.66666667f + z * (0.4f + z * (0.28571429f + z * 0.22222222f)));
    /* 32 ln 2 - e ln 2, the difference of integers exact; ln 2 in two parts */
    float n = (float)(32 - e);
    float minus_ln = n * 0.693145752f + (n * 1.42860677e-6f - (2.0f * s + s * tail));
    float two = 2.0f * minus_ln;
    return sqrtf(two > 0.0f ? two : 0.0f);
}

/* cos and sin of 2 pi w / 2^32: two bits choose the quarter, the rest is an angle
 * in [-pi/4, pi/4), where short polynomials are exact to 1e-7. */
static inline void direction(uint32_t w, float *c, float *s)
{
    uint32_t shifted = w + 0x20000000u;
    uint32_t quarter = shifted >> 30;
    int32_t rest = (int32_t)(shifted & 0x3fffffffu) - 0x20000000;
    float a = (float)rest * 1.46291807926715968e-9f; /* pi/2 / 2^30 */
    float z = a * a;
    float sine = a + a * z * (-0.16666667f + z * (0.0083333333f + z * (-0.00019841270f + z * 2.7557319e-6f)));
    float cosine = 1.0f - 0.5f * z + z * z * (0.041666667f + z * (-0.0013888889f + z * 2.4801587e-5f));
    uint32_t swap = 0u - (quarter & 1); /* all ones or all zeros */
    uint32_t x = (to_bits(cosine) & ~swap) | (to_bits(sine) & swap);
    uint32_t y = (to_bits(sine) & ~swap) | (to_bits(cosine) & swap);
    x ^= ((quarter + 1) & 2) << 30;
    y ^= (quarter & 2) << 30;
    *c = from_bits(x);
    *s = from_bits(y);
}

/* out[4 LANES]: numbers 4 first ... of a stream. */
static inline void uniform_lanes(uint64_t key, uint64_t first, float *out)
{
    uint32_t w[4][LANES];
    words(key, first, SYI_RNG_UNIFORM, w);
    for (int i = 0; i < LANES; i++)
        for (int lane = 0; lane < 4; lane++) out[4 * i + lane] = (float)(int32_t)(w[lane][i] >> 8) * 0x1p-24f;
}

static inline void normal_lanes(uint64_t key, uint64_t first, float *out)
{
    uint32_t w[4][LANES];
    float v[4][LANES];
    words(key, first, SYI_RNG_NORMAL, w);
    for (int pair = 0; pair < 4; pair += 2) {
        for (int i = 0; i < LANES; i++) {
            float r = radius(w[pair][i]), c, s;
            direction(w[pair + 1][i], &c, &s);
            v[pair][i] = r * c;
            v[pair + 1][i] = r * s;
        }
    }
    for (int i = 0; i < LANES; i++)
        for (int lane = 0; lane < 4; lane++) out[4 * i + lane] = v[lane][i];
}
