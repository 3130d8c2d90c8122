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
#include "tensor/simd_exp2.h"

#include <math.h>

/* A tile of MR rows and NV vectors stays in registers while it is summed. */
#if defined(__AVX2__) && !defined(__AVX512F__)
enum { NV = 3, MR = 4 };
#else
enum { NV = 3, MR = 8 };
#endif
enum { LN = NV * VW, PER = TILE_PAIRS ? 2 : 1, GRAIN = 16 /* rows and keys are packed so many at a time */ };

typedef uint32_t word;

/* -- vectors ------------------------------------------------------------------------ */

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

/* The one product that attention is made of. For rows r < rows (a multiple of MR)
 * and nv vectors of lanes: out[r*LN + n*VW ..] (+)= sum over p < depth of
 * a[r/MR*panel + r%MR + p*step] * b[p*LN + n*VW ..]. */
INLINE void product_of(const int nv, const bool add, int64_t rows, int64_t depth, const word *a, int64_t panel, int64_t step,
                       const word *b, float *out)
{
    for (int64_t r = 0; r < rows; r += MR, a += panel, out += MR * LN) {
        vf acc[MR][NV];
        UNROLL for (int m = 0; m < MR; m++)
            UNROLL for (int n = 0; n < nv; n++) acc[m][n] = add ? vload_f32(out + m * LN + n * VW) : vset(0);
        const word *x = a, *y = b;
        for (int64_t p = 0; p < depth; p++, x += step, y += LN) {
            vf right[NV];
            UNROLL for (int n = 0; n < nv; n++) right[n] = wload(y + n * VW);
            UNROLL for (int m = 0; m < MR; m++) {
                vf left = wset(x + m);
                UNROLL for (int n = 0; n < nv; n++) acc[m][n] = dot(acc[m][n], left, right[n]);
            }
        }
        UNROLL for (int m = 0; m < MR; m++)
            UNROLL for (int n = 0; n < nv; n++) vstore_f32(out + m * LN + n * VW, acc[m][n]);
    }
}

/* One function each, never inlined: there the sums find registers. */
#define PRODUCT(name, nv, add) \
    static __attribute__((noinline)) void name(int64_t rows, int64_t depth, const word *a, int64_t panel, int64_t step, const word *b, float *out) \
    { \
        product_of(nv, add, rows, depth, a, panel, step, b, out); \
    }
PRODUCT(product_1, 1, false)
PRODUCT(product_2, 2, false)
PRODUCT(product_3, 3, false)
PRODUCT(product_add_1, 1, true)
PRODUCT(product_add_2, 2, true)
PRODUCT(product_add_3, 3, true)
typedef void product_fn(int64_t rows, int64_t depth, const word *a, int64_t panel, int64_t step, const word *b, float *out);
static product_fn *const product[NV + 1] = {NULL, product_1, product_2, product_3};
static product_fn *const product_add[NV + 1] = {NULL, product_add_1, product_add_2, product_add_3};

/* The other way round, numbers along the lanes: out[r][width] (+)= sum over p < depth
 * of a[r*stride + p] * b[p*width ..] for `rows` rows, a multiple of MQ. */
enum { MQ = 4, NQ = VW == 8 ? 2 : 4 };

INLINE void rows_product_of(const int nv, const bool add, int64_t rows, int64_t width, int64_t depth, const word *a, int64_t stride, const word *b, float *out)
{
    for (int64_t r = 0; r < rows; r += MQ, a += MQ * stride, out += MQ * width) {
        vf acc[MQ][NQ];
        UNROLL for (int m = 0; m < MQ; m++)
            UNROLL for (int n = 0; n < nv; n++) acc[m][n] = add ? vload_f32(out + m * width + n * VW) : vset(0);
        const word *y = b;
        for (int64_t p = 0; p < depth; p++, y += width) {
            vf right[NQ];
            UNROLL for (int n = 0; n < nv; n++) right[n] = wload(y + n * VW);
            UNROLL for (int m = 0; m < MQ; m++) {
                vf left = wset(a + m * stride + p);
                UNROLL for (int n = 0; n < nv; n++) acc[m][n] = dot(acc[m][n], left, right[n]);
            }
        }
        UNROLL for (int m = 0; m < MQ; m++)
            UNROLL for (int n = 0; n < nv; n++) vstore_f32(out + m * width + n * VW, acc[m][n]);
    }
}

#define ROWS_PRODUCT(name, nv, add) \
    static __attribute__((noinline)) void name(int64_t rows, int64_t width, int64_t depth, const word *a, int64_t stride, const word *b, float *out) \
    { \
        rows_product_of(nv, add, rows, width, depth, a, stride, b, out); \
    }
ROWS_PRODUCT(rows_product_wide, NQ, false)
ROWS_PRODUCT(rows_product_one, 1, false)
ROWS_PRODUCT(rows_product_add_wide, NQ, true)
ROWS_PRODUCT(rows_product_add_one, 1, true)

static void rows_product(bool add, int64_t rows, int64_t width, int64_t depth, const word *a, int64_t stride, const word *b, float *out)
{
    int64_t c = 0;
    for (; c + NQ * VW <= width; c += NQ * VW) (add ? rows_product_add_wide : rows_product_wide)(rows, width, depth, a, stride, b + c, out + c);
    for (; c < width; c += VW) (add ? rows_product_add_one : rows_product_one)(rows, width, depth, a, stride, b + c, out + c);
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

/* All lanes added, in an order of its own. */
INLINE float vtotal(vf v)
{
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    return vsum(v);
#endif
}

/* -- soft caps ------------------------------------------------------------------------- */

/* softcap * tanh(s / softcap) of a score s = x * scale, as a raw score again. */
typedef struct { bool on; float in, out; } capping; /* 2 log2(e) scale / cap, cap / scale */

static inline capping capping_of(const syi_attend *a)
{
    if (!(a->softcap > 0)) return (capping){false, 0, 0};
    return (capping){true, (float)(2 * 1.44269504088896341 * a->scale / a->softcap), (float)(a->softcap / a->scale)};
}

INLINE vf vcap(vf x, float in) /* the tangent */
{
    const vf bound = vset(60), y = x * vset(in), e = vexp2(vselect((vi)(y > bound), bound, y));
    return vset(1) - vset(2) / (vset(1) + e);
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
INLINE void transpose16_in_place(__m512 a[16])
{
    __m512 b[16];
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
        a[i] = _mm512_shuffle_f32x4(b[i], b[i + 8], 0x88);
        a[i + 4] = _mm512_shuffle_f32x4(b[i + 4], b[i + 12], 0x88);
        a[i + 8] = _mm512_shuffle_f32x4(b[i], b[i + 8], 0xdd);
        a[i + 12] = _mm512_shuffle_f32x4(b[i + 4], b[i + 12], 0xdd);
    }
}

INLINE void transpose16_registers(const word *const *in, int64_t from, __m512 a[16])
{
    UNROLL for (int i = 0; i < 16; i++) a[i] = (__m512)wload(in[i] + from);
    transpose16_in_place(a);
}
#endif

/* out[c*os + r] = in[r][from + c] for 16 rows and 16 words. */
static void transpose16(const word *const *in, int64_t from, word *out, int64_t os)
{
#if defined(__AVX512F__)
    __m512 a[16];
    transpose16_registers(in, from, a);
    UNROLL for (int i = 0; i < 16; i++) wstore(out + i * os, (vf)a[i]);
#else
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 16; c++) out[c * os + r] = in[r][from + c];
#endif
}

/* LN rows of `words` words become lanes: out[words][LN]. */
static void rows_to_lanes(const word *const in[LN], int64_t words, word *out)
{
    int l = 0;
    for (; l + 16 <= LN; l += 16)
        for (int64_t w = 0; w < words; w += 16) transpose16(in + l, w, out + w * LN + l, LN);
    for (; l < LN; l++)
        for (int64_t w = 0; w < words; w++) out[w * LN + l] = in[l][w];
}

/* sums[width][LN] become LN rows of `width` numbers. */
static void lanes_to_rows(const float *sums, int64_t width, float *rows)
{
    int l = 0;
    for (; l + 16 <= LN; l += 16)
        for (int64_t r = 0; r < width; r += 16) {
            const word *in[16];
            for (int i = 0; i < 16; i++) in[i] = (const word *)(const void *)(sums + (r + i) * LN + l);
            transpose16(in, 0, (word *)(void *)(rows + l * width + r), width);
        }
    for (int64_t r = 0; r < width; r++)
        for (int i = l; i < LN; i++) rows[i * width + r] = sums[r * LN + i];
}

/* 16 rows of `words` words become panels of MR rows: out[r/MR][words][MR]. */
static void rows_to_panels(const word *const in[16], int64_t words, word *out)
{
#if defined(__AVX512F__)
    for (int64_t w = 0; w < words; w += 16) {
        __m512 a[16];
        transpose16_registers(in, w, a);
        UNROLL for (int i = 0; i < 16; i++) {
            _mm256_storeu_si256((__m256i *)(void *)(out + (w + i) * MR), _mm512_castsi512_si256(_mm512_castps_si512(a[i])));
            _mm256_storeu_si256((__m256i *)(void *)(out + (words + w + i) * MR), _mm512_extracti64x4_epi64(_mm512_castps_si512(a[i]), 1));
        }
    }
#else
    for (int r = 0; r < 16; r++)
        for (int64_t w = 0; w < words; w++) out[(r / MR * words + w) * MR + r % MR] = in[r][w];
#endif
}

/* PER neighbouring rows of `width` numbers become one row of `width` words. */
INLINE void rows_to_pairs(const word *const in[PER], int64_t width, word *out)
{
#if TILE_PAIRS
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2,
                                         33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t c = 0; c < width; c += 32) {
        __m512i a = (__m512i)wload(in[0] + c / 2), b = (__m512i)wload(in[1] + c / 2);
        wstore(out + c, (vf)_mm512_permutex2var_epi16(a, low, b));
        wstore(out + c + 16, (vf)_mm512_permutex2var_epi16(a, high, b));
    }
#else
    memcpy(out, in[0], (size_t)width * sizeof *out);
#endif
}

/* -- segments ------------------------------------------------------------------------- */

/* Documents, short neighbours together: queries q0..q1-1, keys k0..k1-1, none of
 * which has to do with any other segment. Its keys are packed from `pack`, its
 * blocks of LN query rows are numbered from `block`. */
typedef struct { int64_t q0, q1, k0, k1, pack, block; } segment;

enum { SHORT = 64 /* documents together up to this many tokens */ };

typedef struct {
    const syi_attend *a;
    int64_t n_seg, group, words /* a row, a multiple of 16 */, width /* words * PER: the padded head size */;
    bool direct; /* rows in memory are rows of words as they are */
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

static inline int64_t padded_width(int64_t dim)
{
    return syi_ceil_div(dim, 16 * PER) * 16 * PER;
}

static inline plan make_plan(const syi_attend *a, segment *seg)
{
    plan p = {.a = a, .group = a->heads / a->kv_heads, .width = padded_width(a->dim), .seg = seg};
    p.words = p.width / PER;
    p.direct = p.width == a->dim && (TILE_PAIRS || a->dt == SY_F32);
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

/* The words of a row: where it stands, if it needs no filling up, else in `spare`. */
static inline const word *words_of(const plan *p, const void *row, word *spare)
{
    if (p->direct) return row;
    row_words(p->a->dt, row, p->a->dim, spare, p->words);
    return spare;
}

#endif
