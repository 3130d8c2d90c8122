/* SPDX-License-Identifier: Apache-2.0 */
/* What attention.c and the paths behind it (plain, AVX2, AVX-512, AVX-512-BF16,
 * NEON) share: one description of the work that fits training and decoding, and
 * the table of functions that a path fills. Internal to attention*.c. */
#ifndef SYI_ATTENTION_INTERNAL_H
#define SYI_ATTENTION_INTERNAL_H

#include "tensor/engine.h"

enum {
    SYI_ATTENTION_MAX_DIM = 1024, /* of a head, plain path                            */
    SYI_ATTENTION_TILE_DIM = 256  /* of a head, tiled paths: their tiles fit the L2   */
};

/* Query i (0..n-1) stands at position past+i and sees positions lo(i)..hi(i).
 * q, out, dout, dq are [n, heads, dim]; key s of head j is at
 * k + s*k_token + j*k_head (numbers, not bytes), v the same. */
typedef struct {
    sy_dtype dt;
    int64_t n, past, heads, kv_heads, dim;
    double scale;
    const int32_t *first; /* [n], positions; NULL: one document from position 0 */
    const int32_t *last;  /* [n], positions; NULL: causal, nothing after itself */
    int64_t window;       /* 0: none */
    double softcap;       /* 0: none */
    bool cached;          /* decoding: no lse, no documents */
    int64_t k_token, k_head;
    const void *q, *k, *v, *dout;
    void *out, *lse, *dq, *dk, *dv; /* lse may be NULL in forward; dq, dk, dv in backward */
    bool add_q, add_k, add_v;
    char *scratch;
    int threads;
    syi_engine *engine; /* decoding */
} syi_attend;

/* The first position that query i sees. */
static inline int64_t syi_attend_lo(const syi_attend *a, int64_t i)
{
    int64_t lo = a->first ? a->first[i] : 0;
    if (a->window > 0 && a->past + i - a->window + 1 > lo) lo = a->past + i - a->window + 1;
    return lo;
}

/* The last one. */
static inline int64_t syi_attend_hi(const syi_attend *a, int64_t i)
{
    return a->last ? a->last[i] : a->past + i;
}

typedef struct {
    /* Bytes of scratch for n queries over n_keys keys; depends on shapes only. */
    int64_t (*scratch)(const syi_attend *a, int64_t n_keys, bool backward);
    void (*forward)(const syi_attend *a);
    void (*backward)(const syi_attend *a);
} syi_attend_path;

extern const syi_attend_path syi_attend_plain, syi_attend_avx2, syi_attend_avx512, syi_attend_avx512bf16, syi_attend_neon;

static inline float syi_bf16_get(uint16_t b)
{
    union { uint32_t u; float f; } x = {.u = (uint32_t)b << 16};
    return x.f;
}
/* To nearest even; NaN stays NaN. */
static inline uint16_t syi_bf16_put(float f)
{
    union { float f; uint32_t u; } x = {.f = f};
    if (f != f) return (uint16_t)(x.u >> 16 | 0x40);
    return (uint16_t)((x.u + 0x7fff + (x.u >> 16 & 1)) >> 16);
}

#endif
