/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF blocks as operands: rows of coded numbers times a few vectors, and rows decoded to
 * f32 or bf16. Part of cpu_impl.h.
 *
 * A group is 32 consecutive numbers of a row. Each type says how a group becomes vectors
 * of f32 (the numbers that block_decode.c makes, bit for bit: products of a scale and a
 * code are exact in f32, so fusing their sum changes nothing); one loop multiplies, one
 * stores. Activations stay f32: nothing is rounded to 8 bits. */
#include "tensor/half.h"

enum { GROUP = 32, GROUP_VECTORS = GROUP / VW, HALF_VECTORS = GROUP_VECTORS / 2, BLOCK_ROWS = 4, BLOCK_AHEAD = 4096 };

#define BLOCK_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define BLOCK_UNROLL _Pragma("unroll")
#else
#define BLOCK_UNROLL _Pragma("GCC unroll 32")
#endif

/* Group g of the row that begins at `row`. */
typedef void group_fn(const uint8_t *row, int64_t g, vf *v);

BLOCK_INLINE vf block_half(const uint8_t *p)
{
#if defined(__AVX512F__)
    return (vf)_mm512_cvtph_ps(_mm256_set1_epi16((short)syi_load16(p)));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtph_ps(_mm_set1_epi16((short)syi_load16(p)));
#else
    return vset(syi_half_to_float(syi_load16(p)));
#endif
}

/* VW bytes as unsigned, as signed integers. */
BLOCK_INLINE vu block_bytes(const uint8_t *p)
{
#if defined(__AVX512F__)
    return (vu)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
#elif defined(__AVX2__)
    return (vu)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
#else
    typedef uint8_t four __attribute__((vector_size(4)));
    four b;
    memcpy(&b, p, sizeof b);
    return __builtin_convertvector(b, vu);
#endif
}

BLOCK_INLINE vi block_signed(const uint8_t *p)
{
    return ((vi)(block_bytes(p) << 24)) >> 24;
}

BLOCK_INLINE vf block_float(vu codes) { return __builtin_convertvector((vi)codes, vf); }

/* scale * code + low of 4-bit codes: the low 4 bits of each number. */
BLOCK_INLINE vf block_levels(vu codes, vf scale, vf low)
{
#if defined(__AVX512F__)
    const vf level = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (vf)_mm512_permutexvar_ps((__m512i)codes, (__m512)(level * scale + low));
#else
    return block_float(codes & 15) * scale + low;
#endif
}

/* scale * (code - 8) */
BLOCK_INLINE vf block_centred(vu codes, vf scale)
{
#if defined(__AVX512F__)
    const vf level = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    return (vf)_mm512_permutexvar_ps((__m512i)codes, (__m512)(level * scale));
#else
    return block_float((codes & 15) - 8) * scale;
#endif
}

/* Bit `from` + lane of `bits`, as 0 or 16. */
BLOCK_INLINE vu block_fifth(uint32_t bits, int from)
{
    vu lane;
    for (int i = 0; i < VW; i++) lane[i] = (uint32_t)i;
    vu all = (vu)vseti((int32_t)(bits >> from));
    return ((all >> lane) & 1) << 4;
}

BLOCK_INLINE void group_q4_0(const uint8_t *row, int64_t g, vf *v)
{
    const uint8_t *s = row + g * 18;
    const vf scale = block_half(s);
    BLOCK_UNROLL for (int i = 0; i < HALF_VECTORS; i++) {
        const vu b = block_bytes(s + 2 + i * VW);
        v[i] = block_centred(b, scale);
        v[i + HALF_VECTORS] = block_centred(b >> 4, scale);
    }
}

BLOCK_INLINE void group_q4_1(const uint8_t *row, int64_t g, vf *v)
{
    const uint8_t *s = row + g * 20;
    const vf scale = block_half(s), low = block_half(s + 2);
    BLOCK_UNROLL for (int i = 0; i < HALF_VECTORS; i++) {
        const vu b = block_bytes(s + 4 + i * VW);
        v[i] = block_levels(b, scale, low);
        v[i + HALF_VECTORS] = block_levels(b >> 4, scale, low);
    }
}

BLOCK_INLINE void group_q5_0(const uint8_t *row, int64_t g, vf *v)
{
    const uint8_t *s = row + g * 22;
    const vf scale = block_half(s);
    const uint32_t high = syi_load32(s + 2);
    BLOCK_UNROLL for (int i = 0; i < HALF_VECTORS; i++) {
        const vu b = block_bytes(s + 6 + i * VW);
        v[i] = block_float(((b & 15) | block_fifth(high, i * VW)) - 16) * scale;
        v[i + HALF_VECTORS] = block_float(((b >> 4) | block_fifth(high, 16 + i * VW)) - 16) * scale;
    }
}

BLOCK_INLINE void group_q5_1(const uint8_t *row, int64_t g, vf *v)
{
    const uint8_t *s = row + g * 24;
    const vf scale = block_half(s), low = block_half(s + 2);
    const uint32_t high = syi_load32(s + 4);
    BLOCK_UNROLL for (int i = 0; i < HALF_VECTORS; i++) {
        const vu b = block_bytes(s + 8 + i * VW);
        v[i] = block_float((b & 15) | block_fifth(high, i * VW)) * scale + low;
        v[i + HALF_VECTORS] = block_float((b >> 4) | block_fifth(high, 16 + i * VW)) * scale + low;
    }
}

BLOCK_INLINE void group_q8_0(const uint8_t *row, int64_t g, vf *v)
{
    const uint8_t *s = row + g * 34;
    const vf scale = block_half(s);
    BLOCK_UNROLL for (int i = 0; i < GROUP_VECTORS; i++) v[i] = __builtin_convertvector(block_signed(s + 2 + i * VW), vf) * scale;
}

/* Scale and minimum of 6 bits: see six_bits in block_decode.c. */
BLOCK_INLINE void block_six(const uint8_t *k, int g, int *scale, int *low)
{
    *scale = g < 4 ? k[g] & 63 : (k[g + 4] & 15) | ((k[g - 4] >> 6) << 4);
    *low = g < 4 ? k[g + 4] & 63 : (k[g + 4] >> 4) | ((k[g] >> 6) << 4);
}

BLOCK_INLINE void group_q4_k(const uint8_t *row, int64_t g, vf *v)
{
    const uint8_t *s = row + (g >> 3) * 144;
    const int at = (int)(g & 7);
    int sc, mn;
    block_six(s + 4, at, &sc, &mn);
    const vf scale = block_half(s) * vset((float)sc), low = block_half(s + 2) * vset((float)-mn);
    const uint8_t *q = s + 16 + 32 * (at / 2);
    const uint32_t shift = (uint32_t)(at & 1) * 4;
    BLOCK_UNROLL for (int i = 0; i < GROUP_VECTORS; i++) v[i] = block_levels(block_bytes(q + i * VW) >> shift, scale, low);
}

BLOCK_INLINE void group_q5_k(const uint8_t *row, int64_t g, vf *v)
{
    const uint8_t *s = row + (g >> 3) * 176;
    const int at = (int)(g & 7);
    int sc, mn;
    block_six(s + 4, at, &sc, &mn);
    const vf scale = block_half(s) * vset((float)sc), low = block_half(s + 2) * vset((float)-mn);
    const uint8_t *q = s + 48 + 32 * (at / 2);
    const uint32_t shift = (uint32_t)(at & 1) * 4;
    BLOCK_UNROLL for (int i = 0; i < GROUP_VECTORS; i++) {
        const vu high = ((block_bytes(s + 16 + i * VW) >> (uint32_t)at) & 1) << 4;
        v[i] = block_float(((block_bytes(q + i * VW) >> shift) & 15) | high) * scale + low;
    }
}

BLOCK_INLINE void group_q6_k(const uint8_t *row, int64_t g, vf *v)
{
    const uint8_t *s = row + (g >> 3) * 210;
    const int half = (int)(g >> 2) & 1, at = (int)g & 3;
    const uint8_t *nibbles = s + 64 * half + 32 * (at & 1), *high = s + 128 + 32 * half, *sc = s + 192 + 8 * half + 2 * at;
    const uint32_t shift = at < 2 ? 0 : 4, pair = 2 * (uint32_t)at;
    const vf d = block_half(s + 208);
    BLOCK_UNROLL for (int i = 0; i < GROUP_VECTORS; i++) {
        const vf scale = d * vset((float)(int8_t)sc[i / HALF_VECTORS]);
        const vu q = ((block_bytes(nibbles + i * VW) >> shift) & 15) | (((block_bytes(high + i * VW) >> pair) & 3) << 4);
        v[i] = scale * block_float(q - 32);
    }
}

/* out[i, r] for R rows and M vectors of x, row after row as they lie: processors fetch one
 * stream ahead better than four. The order of a row's sums does not depend on R. */
BLOCK_INLINE void block_rows(group_fn *decode, int M, int R, int64_t groups, const float *x, int64_t ldx, const uint8_t *const *row, float *out, int64_t ldo)
{
    vf sum[4][BLOCK_ROWS];
    BLOCK_UNROLL for (int r = 0; r < BLOCK_ROWS; r++) {
        vf s[4][2];
        BLOCK_UNROLL for (int i = 0; i < M; i++) s[i][0] = s[i][1] = vset(0);
        for (int64_t g = 0; r < R && g < groups; g++) {
            vf v[GROUP_VECTORS];
            decode(row[r], g, v);
            BLOCK_UNROLL for (int i = 0; i < M; i++)
                BLOCK_UNROLL for (int j = 0; j < GROUP_VECTORS; j++) s[i][j & 1] += v[j] * vload_f32(x + i * ldx + g * GROUP + j * VW);
        }
        BLOCK_UNROLL for (int i = 0; i < M; i++) sum[i][r] = s[i][0] + s[i][1];
    }
    BLOCK_UNROLL for (int i = 0; i < M; i++) {
        float t[BLOCK_ROWS];
        vsum4(sum[i], t);
        for (int r = 0; r < R; r++) out[i * ldo + r] = t[r];
    }
}

BLOCK_INLINE void block_gemv(group_fn *decode, int M, int64_t rows, int64_t k, const float *x, int64_t ldx, const uint8_t *w, int64_t pitch,
                             const int32_t *order, float *out, int64_t ldo)
{
    const int64_t groups = k / GROUP;
    int64_t r = 0;
    for (; r + BLOCK_ROWS <= rows; r += BLOCK_ROWS) {
        const uint8_t *row[BLOCK_ROWS];
        for (int i = 0; i < BLOCK_ROWS; i++) row[i] = w + (order ? order[r + i] : r + i) * pitch;
        block_rows(decode, M, BLOCK_ROWS, groups, x, ldx, row, out + r, ldo);
    }
    for (; r < rows; r++) {
        const uint8_t *row = w + (order ? order[r] : r) * pitch;
        block_rows(decode, M, 1, groups, x, ldx, &row, out + r, ldo);
    }
}

BLOCK_INLINE void block_row(group_fn *decode, const uint8_t *row, int64_t k, bool to16, void *dst)
{
    for (int64_t g = 0; g < k / GROUP; g++) {
        vf v[GROUP_VECTORS];
        decode(row, g, v);
        BLOCK_UNROLL for (int j = 0; j < GROUP_VECTORS; j++) {
            if (to16) vstore_bf16((bf16 *)dst + g * GROUP + j * VW, v[j]);
            else vstore_f32((float *)dst + g * GROUP + j * VW, v[j]);
        }
    }
}

#define BLOCK_TYPE(name)                                                                                                     \
    static void gemv_##name(int m, int64_t rows, int64_t k, const float *x, int64_t ldx, const uint8_t *w, int64_t pitch,    \
                            const int32_t *order, float *out, int64_t ldo)                                                   \
    {                                                                                                                        \
        switch (m) {                                                                                                         \
        case 1: block_gemv(group_##name, 1, rows, k, x, ldx, w, pitch, order, out, ldo); break;                              \
        case 2: block_gemv(group_##name, 2, rows, k, x, ldx, w, pitch, order, out, ldo); break;                              \
        case 3: block_gemv(group_##name, 3, rows, k, x, ldx, w, pitch, order, out, ldo); break;                              \
        default: block_gemv(group_##name, 4, rows, k, x, ldx, w, pitch, order, out, ldo); break;                             \
        }                                                                                                                    \
    }                                                                                                                        \
    static void to_f32_##name(const uint8_t *row, int64_t k, void *dst) { block_row(group_##name, row, k, false, dst); }     \
    static void to_bf16_##name(const uint8_t *row, int64_t k, void *dst) { block_row(group_##name, row, k, true, dst); }
BLOCK_TYPE(q4_0)
BLOCK_TYPE(q4_1)
BLOCK_TYPE(q5_0)
BLOCK_TYPE(q5_1)
BLOCK_TYPE(q8_0)
BLOCK_TYPE(q4_k)
BLOCK_TYPE(q5_k)
BLOCK_TYPE(q6_k)

#include "tensor/cpu_dots.h"

#define BLOCK_ROW(name, dots, sums) {gemv_##name, dots, sums, to_f32_##name, to_bf16_##name}
static const syi_block_kernels *block_kernels(sy_dtype t)
{
    static const syi_block_kernels q4_0 = BLOCK_ROW(q4_0, DOTS(q4_0), -8), q4_1 = BLOCK_ROW(q4_1, DOTS(q4_1), 1), q5_0 = BLOCK_ROW(q5_0, DOTS(q5_0), -16),
                                   q5_1 = BLOCK_ROW(q5_1, DOTS(q5_1), 1), q8_0 = BLOCK_ROW(q8_0, DOTS(q8_0), -128), q4_k = BLOCK_ROW(q4_k, NULL, 0),
                                   q5_k = BLOCK_ROW(q5_k, NULL, 0), q6_k = BLOCK_ROW(q6_k, NULL, 0);
    switch ((int)t) {
    case SY_Q4_0: return &q4_0;
    case SY_Q4_1: return &q4_1;
    case SY_Q5_0: return &q5_0;
    case SY_Q5_1: return &q5_1;
    case SY_Q8_0: return &q8_0;
    case SY_Q4_K: return &q4_k;
    case SY_Q5_K: return &q5_k;
    case SY_Q6_K: return &q6_k;
    default: return NULL;
    }
}
