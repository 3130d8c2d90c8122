/* SPDX-License-Identifier: Apache-2.0 */
/* Vector kernels of merging: weighted sums of checkpoints and of their differences from a
 * base, in f64 between f32 inputs and one f32 result. One table per instruction set, from
 * one source (mix_body.h). All work on one thread over the range given; sums run in eight
 * fixed lanes, so a table's results depend on the range only. Internal. */
#ifndef SYI_MIX_H
#define SYI_MIX_H

#include <stdbool.h>
#include <stdint.h>

/* Joined: their sum, over the sum of their d (if that is not 0), or the largest of them. */
typedef enum { SYI_JOIN_SUM, SYI_JOIN_MEAN, SYI_JOIN_MAX } syi_join_by;
typedef struct {
    const double *w, *d;
    const float *from, *to;
    bool count;
    syi_join_by join;
    double lambda, zero;
} syi_election;

typedef struct syi_mix {
    const char *name;
    /* From and to files: pointers to bf16 may be unaligned. */
    void (*from_bf16)(const void *x, float *y, int64_t n);
    void (*to_bf16)(const float *x, void *y, int64_t n);
    bool (*finite)(const float *x, int64_t n);
    /* acc = w*x, acc += w*x, acc += w*(x - base) */
    void (*set)(double w, const float *x, double *acc, int64_t n);
    void (*add)(double w, const float *x, double *acc, int64_t n);
    void (*add_delta)(double w, const float *x, const float *base, double *acc, int64_t n);
    /* y = base + a*acc; base NULL: a*acc */
    void (*finish)(double a, const double *acc, const float *base, float *y, int64_t n);
    /* y = a*x + b*z */
    void (*pair)(double a, const float *x, double b, const float *z, float *y, int64_t n);
    /* s[3] += (x.x, z.z, x.z); with base: of x - base and z - base */
    void (*dots)(const float *x, const float *z, const float *base, double *s, int64_t n);
    /* s[0] += sum of |x - base|, s[1] += the same of those with m != 0; differences in f32 */
    void (*abs_sums)(const float *x, const float *base, const float *m, double *s, int64_t n);
    /* Bits of |x - base| in f32: the order of these integers is that of the magnitudes. */
    void (*keys)(const float *x, const float *base, uint32_t *key, int64_t n);
    /* Keys within [lo, hi] to `out` (room for n + 16), in their order; returns how many.
     * *above += those greater than hi. */
    int64_t (*pick)(const float *x, const float *base, uint32_t lo, uint32_t hi, uint32_t *out, int64_t *above, int64_t n);
    /* m = key > limit ? 1 : 0; returns how many keys equal the limit. */
    int64_t (*above)(const uint32_t *key, uint32_t limit, float *m, int64_t n);
    /* How many keys are smaller than `key`; equal ones count where i < at. */
    int64_t (*rank)(const uint32_t *keys, uint32_t key, int64_t at, int64_t n);
    /* Places i with from <= u[i] < to, in their order; returns how many (room for n + 16). */
    int64_t (*between)(const float *u, float from, float to, int32_t *at, int64_t n);
    /* acc += w * (x - base) where from <= |x - base| < to (the difference rounded to f32) */
    void (*add_range)(double w, float from, float to, const float *x, const float *base, double *acc, int64_t n);
    /* acc += w * m * (x - base) */
    void (*add_masked)(double w, const float *m, const float *x, const float *base, double *acc, int64_t n);
    /* TIES: with e_k = w[k] m[k] (x[k] - base), the sign of sum e_k is elected (count: of the
     * sum of their signs; a sum of 0 has the sign of `zero`) and y = base + lambda * the agreeing
     * e_k joined. m[k] NULL: 1 where from[k] <= |x[k] - base| < to[k], else 0. */
    void (*elect)(const syi_election *how, int k, const float *const *x, const float *const *m, const float *base, float *y, int64_t n);
    /* m = u < p ? 1 : 0, p[i] per element or (p NULL) all `one` */
    void (*below)(const float *u, const float *p, float one, float *m, int64_t n);
    /* Masks of 0 and 1 as bits, (n + 7) / 8 bytes, and back. */
    void (*pack)(const float *m, uint8_t *bits, int64_t n);
    void (*unpack)(const uint8_t *bits, float *m, int64_t n);
} syi_mix;

/* The best table for this processor. */
const syi_mix *syi_mix_pick(void);
extern const syi_mix syi_mix_plain, syi_mix_avx2, syi_mix_avx512;

#endif
