/* SPDX-License-Identifier: Apache-2.0 */
/* What the tiled attention is made of: vectors, the product of a small tile, the
 * packing of rows, and the cutting of tokens into segments. Included by the files
 * attention_X.c, one an instruction set, before attention_forward.h and
 * attention_backward.h; TILE_PAIRS 1 asks for bf16 pairs (vdpbf16ps).
 *
 * A "word" is what one lane multiplies at a time: one f32, or a pair of bf16 that
 * stand side by side along the summed dimension. With that the code for f32 and
 * bf16 is the same; PER is how many numbers a word holds. Where the instruction
 * set has no bf16 products, bf16 becomes f32 words when it is packed. */
#ifndef SYI_ATTENTION_TILE_H
#define SYI_ATTENTION_TILE_H

#include "tensor/attention_internal.h"
#include "tensor/simd.h"

#include <math.h>

#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

/* A tile of MR rows and NV vectors stays in registers while it is summed. */
#if defined(__AVX2__) && !defined(__AVX512F__)
enum { NV = 3, MR = 4 };
#else
enum { NV = 3, MR = 8 };
#endif
enum { LN = NV * VW, PER = TILE_PAIRS ? 2 : 1, GRAIN = 8 /* keys of a segment are padded to this */ };

typedef uint32_t word;

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* -- vectors ------------------------------------------------------------------------ */

INLINE vf vmax(vf a, vf b) /* b if either is NaN */
{
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vselect((vi)(a > b), a, b);
#endif
}

INLINE bool any_above(vf a, vf b)
{
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)) != 0;
#else
    vi m = (vi)(a > b);
    return (m[0] | m[1] | m[2] | m[3]) != 0;
#endif
}

/* 2^x for x <= 100 to 1e-7, never below 2^-126: x = n + f, |f| <= 1/2, a minimax
 * polynomial for 2^f, n added to the exponent. */
INLINE vf vexp2(vf x)
{
    const vf magic = vset(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    x = vmax(vset(-126.0f), x);
    vf t = x + magic;
    vf f = x - (t - magic);
    vf p = vset(0.00132764725f);
    p = p * f + vset(0.00967554096f);
    p = p * f + vset(0.0555071309f);
    p = p * f + vset(0.240221202f);
    p = p * f + vset(0.693146944f);
    p = p * f + vset(1.00000012f);
    return (vf)((vu)p + ((vu)t << 23));
}

INLINE vf wload(const word *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void wstore(word *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

INLINE vf wset(const word *p)
{
    float f;
    memcpy(&f, p, sizeof f);
    return vset(f);
}

/* acc + a*b, a pair of products a lane with TILE_PAIRS. */
INLINE vf dot(vf acc, vf a, vf b)
{
#if TILE_PAIRS
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)(__m512i)a, (__m512bh)(__m512i)b);
#else
    return acc + a * b;
#endif
}

/* acc[m][n] += sum over p < depth of a[m*am + p*ap] * b[p*bs + n*VW ..]: the one
 * product that all of attention is made of. mr and nv are constants where it is
 * called, so that acc stays in registers. */
INLINE void multiply(const int mr, const int nv, int64_t depth, const word *a, int64_t am, int64_t ap, const word *b, int64_t bs,
                     vf acc[MR][NV])
{
    for (int64_t p = 0; p < depth; p++) {
        vf x[NV];
        UNROLL for (int n = 0; n < nv; n++) x[n] = wload(b + p * bs + n * VW);
        UNROLL for (int m = 0; m < mr; m++) {
            vf y = wset(a + m * am + p * ap);
            UNROLL for (int n = 0; n < nv; n++) acc[m][n] = dot(acc[m][n], y, x[n]);
        }
    }
}

/* out[m*stride + n*VW ..] += the same sum, for rows m < rows (a multiple of MR). */
INLINE void accumulate(const int nv, int64_t rows, int64_t depth, const word *a, int64_t am, int64_t ap, const word *b, int64_t bs,
                       float *out, int64_t stride)
{
    for (int64_t r = 0; r < rows; r += MR) {
        vf acc[MR][NV];
        UNROLL for (int m = 0; m < MR; m++)
            UNROLL for (int n = 0; n < nv; n++) acc[m][n] = vload_f32(out + (r + m) * stride + n * VW);
        multiply(MR, nv, depth, a + r * am, am, ap, b, bs, acc);
        UNROLL for (int m = 0; m < MR; m++)
            UNROLL for (int n = 0; n < nv; n++) vstore_f32(out + (r + m) * stride + n * VW, acc[m][n]);
    }
}

/* Two rows (of the summed dimension) become one row of words. */
INLINE vf pair_up(vf first, vf second)
{
#if TILE_PAIRS
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first); /* first | second */
    const __m512i zip = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                                         18, 2, 17, 1, 16, 0);
    return (vf)_mm512_permutexvar_epi16(zip, both);
#else
    (void)second;
    return first;
#endif
}

/* -- rows --------------------------------------------------------------------------- */

/* d numbers of type dt as words; the rest up to `words` words is 0. */
static inline void row_words(sy_dtype dt, const void *row, int64_t d, word *out, int64_t words)
{
    if (TILE_PAIRS || dt == SY_F32) memcpy(out, row, (size_t)d * (TILE_PAIRS ? 2 : 4));
    else
        for (int64_t i = 0; i < d; i++) {
            uint16_t h;
            memcpy(&h, (const char *)row + 2 * i, 2);
            out[i] = (word)h << 16;
        }
    const int64_t bytes = d * 4 / PER;
    memset((char *)out + bytes, 0, (size_t)(words * 4 - bytes));
}

/* d numbers of f32 into a row of type dt, or added to it. */
static inline void row_store(sy_dtype dt, const float *x, int64_t d, bool add, void *row)
{
    float *f = row;
    uint16_t *h = row;
    int64_t i = 0;
    for (; i + VW <= d; i += VW) {
        vf v = vload_f32(x + i);
        if (dt == SY_F32) vstore_f32(f + i, add ? v + vload_f32(f + i) : v);
        else vstore_bf16(h + i, add ? v + vload_bf16(h + i) : v);
    }
    for (; i < d; i++) {
        if (dt == SY_F32) f[i] = add ? f[i] + x[i] : x[i];
        else h[i] = syi_bf16_put(add ? syi_bf16_get(h[i]) + x[i] : x[i]);
    }
}

#if defined(__AVX512F__)
/* 16 x 16 words: out[c*os + r] = in[r*is + c]. */
INLINE void transpose16(const word *in, int64_t is, word *out, int64_t os)
{
    __m512 a[16], b[16];
    UNROLL for (int i = 0; i < 16; i++) a[i] = (__m512)wload(in + i * is);
    UNROLL for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b[i]), _mm512_castps_pd(b[i + 2])));
        a[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b[i]), _mm512_castps_pd(b[i + 2])));
        a[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
        a[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
    }
    UNROLL for (int i = 0; i < 4; i++) {
        b[i] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
        b[i + 4] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
        b[i + 8] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
        b[i + 12] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        wstore(out + i * os, (vf)_mm512_shuffle_f32x4(b[i], b[i + 8], 0x88));
        wstore(out + (i + 4) * os, (vf)_mm512_shuffle_f32x4(b[i + 4], b[i + 12], 0x88));
        wstore(out + (i + 8) * os, (vf)_mm512_shuffle_f32x4(b[i], b[i + 8], 0xdd));
        wstore(out + (i + 12) * os, (vf)_mm512_shuffle_f32x4(b[i + 4], b[i + 12], 0xdd));
    }
}
#endif

/* out[c*os + r] = in[r*is + c] for r < rows, c < cols. */
static inline void transpose(int rows, int cols, const word *in, int64_t is, word *out, int64_t os)
{
    int done = 0;
#if defined(__AVX512F__)
    if (rows % 16 == 0 && cols % 16 == 0) {
        for (int r = 0; r < rows; r += 16)
            for (int c = 0; c < cols; c += 16) transpose16(in + r * is + c, is, out + c * os + r, os);
        done = rows;
    }
#endif
    for (int r = done; r < rows; r++)
        for (int c = 0; c < cols; c++) out[c * os + r] = in[r * is + c];
}

/* -- segments ------------------------------------------------------------------------- */

/* Documents, short neighbours together: queries q0..q1-1, keys k0..k1-1, none of
 * which has to do with any other segment. Its keys are packed from `pack`, its
 * blocks of LN query rows are numbered from `block`. */
typedef struct { int64_t q0, q1, k0, k1, pack, block; } segment;

enum { SHORT = 64 /* documents together up to this many tokens */ };

typedef struct {
    const syi_attend *a;
    int64_t n_seg, group, words /* a row */, width /* words * PER: the padded head size */;
    int64_t pack, blocks; /* packed keys in all, blocks of query rows in all */
    segment *seg;         /* [n_seg + 1], the last one closes pack and block */
} plan;

/* At most this many for n queries: two neighbours are more than SHORT tokens. */
static inline int64_t segments_max(int64_t n)
{
    return 2 * (n / SHORT) + 3;
}

static inline int64_t pack_max(int64_t n, int64_t n_keys)
{
    return n_keys + GRAIN * segments_max(n);
}

static inline int64_t padded(int64_t bytes)
{
    return syi_ceil_div(bytes, 64) * 64;
}

static inline plan make_plan(const syi_attend *a, segment *seg)
{
    plan p = {.a = a, .group = a->heads / a->kv_heads, .width = syi_ceil_div(a->dim, 16) * 16, .seg = seg};
    p.words = p.width / PER;
    for (int64_t t = 0, next; t < a->n; t = next) {
        if (!a->first) next = a->n;
        else for (next = t + 1; next < a->n && a->first[next] == t;) next++;
        segment *last = &seg[p.n_seg - 1];
        if (p.n_seg > 0 && next - last->q0 <= SHORT) last->q1 = next;
        else seg[p.n_seg++] = (segment){.q0 = t, .q1 = next};
    }
    for (int64_t s = 0; s < p.n_seg; s++) {
        seg[s].k0 = a->past > 0 ? 0 : seg[s].q0;
        seg[s].k1 = a->past + seg[s].q1;
        seg[s].pack = p.pack, seg[s].block = p.blocks;
        p.pack += syi_ceil_div(seg[s].k1 - seg[s].k0, GRAIN) * GRAIN;
        p.blocks += syi_ceil_div((seg[s].q1 - seg[s].q0) * p.group, LN);
    }
    seg[p.n_seg] = (segment){.pack = p.pack, .block = p.blocks};
    return p;
}

/* The segment that holds packed key `key`. */
static inline int64_t segment_of_key(const plan *p, int64_t key)
{
    int64_t lo = 0, hi = p->n_seg;
    while (hi - lo > 1) {
        int64_t mid = (lo + hi) / 2;
        if (p->seg[mid].pack <= key) lo = mid;
        else hi = mid;
    }
    return lo;
}

static inline int64_t segment_of_block(const plan *p, int64_t block)
{
    int64_t lo = 0, hi = p->n_seg;
    while (hi - lo > 1) {
        int64_t mid = (lo + hi) / 2;
        if (p->seg[mid].block <= block) lo = mid;
        else hi = mid;
    }
    return lo;
}

static inline int64_t segment_of_query(const plan *p, int64_t query)
{
    int64_t lo = 0, hi = p->n_seg;
    while (hi - lo > 1) {
        int64_t mid = (lo + hi) / 2;
        if (p->seg[mid].q0 <= query) lo = mid;
        else hi = mid;
    }
    return lo;
}

/* Row r of segment s for key head j is query q0 + r / group of head j*group + r % group. */
static inline int64_t row_at(const plan *p, const segment *s, int64_t j, int64_t r)
{
    return ((s->q0 + r / p->group) * p->a->heads + j * p->group + r % p->group) * p->a->dim;
}

static inline int64_t item_size(sy_dtype dt)
{
    return dt == SY_F32 ? 4 : 2;
}

/* MR rows x[m] (NULL: zeros) as a panel out[p*MR + m], words p of each row. */
static inline void pack_panel(const plan *p, const void *const x[MR], word *out)
{
    word row[SYI_ATTENTION_TILE_DIM];
    for (int m = 0; m < MR; m++) {
        if (x[m]) row_words(p->a->dt, x[m], p->a->dim, row, p->words);
        else memset(row, 0, (size_t)p->words * sizeof *row);
        for (int64_t w = 0; w < p->words; w++) out[w * MR + m] = row[w];
    }
}

/* PER neighbouring rows (NULL: zeros) as one row of words along the head: out[c],
 * c < width. */
static inline void pack_pairs(const plan *p, const void *const x[PER], word *out)
{
#if TILE_PAIRS
    uint16_t two[2][SYI_ATTENTION_TILE_DIM] = {{0}};
    for (int i = 0; i < 2; i++)
        if (x[i]) memcpy(two[i], x[i], (size_t)p->a->dim * 2);
    for (int64_t c = 0; c < p->width; c++) out[c] = (word)two[0][c] | (word)two[1][c] << 16;
#else
    if (x[0]) row_words(p->a->dt, x[0], p->a->dim, out, p->words);
    else memset(out, 0, (size_t)p->words * sizeof *out);
#endif
}

#endif
