/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF blocks times a few vectors by integer products: part of cpu_impl.h, for the types
 * whose numbers are scale * (code - centre) or scale * code + low.
 *
 * x becomes integers of 24 bits against the largest number of its group of 32, in three
 * signed digits of 8 bits; codes are bytes. Sums of a group are exact, so the result is as
 * close to the true product as f32 sums are, at half the instructions of decoding to f32. */

#if defined(__AVX512VNNI__)
/* 16 numbers times `per`, rounded: one byte for each of three digits. */
static inline __attribute__((always_inline)) void split_digits(__m512 v, __m512 per, __mmask16 some, int8_t *high, int8_t *middle, int8_t *low)
{
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(v, per));
    const __m512i l = _mm512_srai_epi32(_mm512_slli_epi32(q, 24), 24), rest = _mm512_srai_epi32(_mm512_sub_epi32(q, l), 8);
    const __m512i m = _mm512_srai_epi32(_mm512_slli_epi32(rest, 24), 24), h = _mm512_srai_epi32(_mm512_sub_epi32(rest, m), 8);
    _mm512_mask_cvtepi32_storeu_epi8(high, some, h);
    _mm512_mask_cvtepi32_storeu_epi8(middle, some, m);
    _mm512_mask_cvtepi32_storeu_epi8(low, some, l);
}

enum { DOT_PAIR = 2 * GROUP, DOT_LANES = 8 /* of a group in f32 */, DOT_ROWS = 4 };

static void block_digits(int m, int64_t k, const float *x, float factor, void *work, syi_digits *out)
{
    const int64_t padded = syi_digits_padded(k);
    int8_t *d = work;
    float *unit = (float *)(void *)(d + 3 * padded * m), *sum = unit + padded / GROUP * DOT_LANES * m;
    *out = (syi_digits){d, unit, sum};
    for (int i = 0; i < m; i++, x += k, d += 3 * padded)
        for (int64_t g = 0; g < padded / GROUP; g++, unit += DOT_LANES, sum += DOT_LANES) {
            int8_t *to = d + g * GROUP;
            float worth = 0, all = 0, per = 0;
            __m512 a = _mm512_setzero_ps(), b = a;
            if (g * GROUP < k) {
                a = _mm512_loadu_ps(x + g * GROUP), b = _mm512_loadu_ps(x + g * GROUP + 16);
                const bool nan = (_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) | _mm512_cmp_ps_mask(b, b, _CMP_UNORD_Q)) != 0;
                const float most = nan ? __builtin_nanf("") : _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
                if (!(most <= 3e38f)) { /* not finite: neither is the result */
                    worth = __builtin_nanf("");
                    a = b = _mm512_setzero_ps();
                } else if (most > 1e-30f) { /* less is nothing */
                    worth = most * (1.0f / 8323072.0f), per = 8323072.0f / most; /* 127 * 65536 */
                    all = _mm512_reduce_add_ps(_mm512_add_ps(a, b)) * factor;
                }
            }
            split_digits(a, _mm512_set1_ps(per), 0xffff, to, to + padded, to + 2 * padded);
            split_digits(b, _mm512_set1_ps(per), 0xffff, to + 16, to + padded + 16, to + 2 * padded + 16);
            _mm256_storeu_ps(unit, _mm256_set1_ps(worth));
            _mm256_storeu_ps(sum, _mm256_set_ps(0, 0, 0, 0, 0, 0, 0, all));
        }
}

/* Two blocks of a row (past the end: the first one twice, where x is zero): their codes as
 * 64 bytes in their order, and for each lane of 4 numbers the scale and, if there is one,
 * what is added to each number. */
typedef struct { __m512i code; __m512 scale, low; } dot_pair;
typedef dot_pair pair_fn(const uint8_t *w, bool two);

/* Half `word` of a block and of the next, which is `next` halves further on. */
BLOCK_INLINE __m512 pair_halves(__m512i v, int word, int next)
{
    const __m256i first = _mm256_set1_epi16((short)word);
    const __m256i at = _mm256_add_epi16(first, _mm256_set_m128i(_mm_set1_epi16((short)next), _mm_setzero_si128()));
    return _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutexvar_epi16(_mm512_castsi256_si512(at), v)));
}

/* 16 bytes at `head`: the low halves are numbers 0 to 15, the high ones 16 to 31. */
BLOCK_INLINE dot_pair pair_fours(const uint8_t *w, bool two, int size, int head, bool low, bool fifth)
{
    const __m512i lane = _mm512_set_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,
                                         15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i at = _mm512_mask_add_epi64(_mm512_add_epi8(lane, _mm512_set1_epi8((char)head)), 0xf0, _mm512_add_epi8(lane, _mm512_set1_epi8((char)head)),
                                             _mm512_set1_epi8((char)size));
    const __m512i v = _mm512_maskz_loadu_epi8(two ? (UINT64_C(1) << (2 * size)) - 1 : (UINT64_C(1) << size) - 1, w);
    const __m512i bytes = _mm512_permutexvar_epi8(at, v);
    dot_pair p;
    p.code = _mm512_and_si512(_mm512_mask_srli_epi64(bytes, 0xcc, bytes, 4), _mm512_set1_epi8(15));
    if (fifth) {
        const __mmask64 high = (uint64_t)syi_load32(w + head - 4) | (two ? (uint64_t)syi_load32(w + size + head - 4) << 32 : 0);
        p.code = _mm512_mask_add_epi8(p.code, high, p.code, _mm512_set1_epi8(16));
    }
    p.scale = pair_halves(v, 0, size / 2);
    if (low) p.low = pair_halves(v, 1, size / 2);
    return p;
}
BLOCK_INLINE dot_pair pair_q4_0(const uint8_t *w, bool two) { return pair_fours(w, two, 18, 2, false, false); }
BLOCK_INLINE dot_pair pair_q4_1(const uint8_t *w, bool two) { return pair_fours(w, two, 20, 4, true, false); }
BLOCK_INLINE dot_pair pair_q5_0(const uint8_t *w, bool two) { return pair_fours(w, two, 22, 6, false, true); }
BLOCK_INLINE dot_pair pair_q5_1(const uint8_t *w, bool two) { return pair_fours(w, two, 24, 8, true, true); }

BLOCK_INLINE dot_pair pair_q8_0(const uint8_t *w, bool two)
{
    const uint8_t *next = two ? w + 34 : w;
    const __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(w + 2)), y = _mm256_loadu_si256((const __m256i *)(const void *)(next + 2));
    const __m256i half = _mm256_set_m128i(_mm_set1_epi16((short)syi_load16(next)), _mm_set1_epi16((short)syi_load16(w)));
    dot_pair p;
    p.code = _mm512_xor_si512(_mm512_inserti64x4(_mm512_castsi256_si512(x), y, 1), _mm512_set1_epi8((char)0x80));
    p.scale = _mm512_cvtph_ps(half);
    return p;
}

/* Two groups of x. */
typedef struct { __m512i digit[3]; __m512 unit, sum; } dot_x;

BLOCK_INLINE dot_x dot_load(const int8_t *d, int64_t padded, const float *unit, const float *sum)
{
    return (dot_x){{_mm512_loadu_si512(d), _mm512_loadu_si512(d + padded), _mm512_loadu_si512(d + 2 * padded)}, _mm512_loadu_ps(unit), _mm512_loadu_ps(sum)};
}

BLOCK_INLINE __m512 dot_step(pair_fn *pair, bool low, bool wide, const uint8_t *w, bool two, const dot_x *x, __m512 total)
{
    const dot_pair p = pair(w, two);
    const __m512 u = x->unit, s = x->sum;
    /* three sums at once: one after the other their latencies would add up */
    const __m512i zero = _mm512_setzero_si512();
    const __m512i high = _mm512_dpbusd_epi32(zero, p.code, x->digit[0]), middle = _mm512_dpbusd_epi32(zero, p.code, x->digit[1]);
    const __m512i last = _mm512_dpbusd_epi32(zero, p.code, x->digit[2]);
    const __m512i upper = _mm512_add_epi32(_mm512_slli_epi32(high, 8), middle);
    __m512 f;
    if (wide) /* four products of codes of 8 bits and x do not fit an integer */
        f = _mm512_fmadd_ps(_mm512_cvtepi32_ps(upper), _mm512_set1_ps(256), _mm512_cvtepi32_ps(last));
    else
        f = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(upper, 8), last));
    if (!low) return _mm512_fmadd_ps(p.scale, _mm512_fmadd_ps(f, u, s), total);
    return _mm512_fmadd_ps(p.low, s, _mm512_fmadd_ps(p.scale, _mm512_mul_ps(f, u), total));
}

/* R rows, which follow one another where there is no order, times vector i. */
BLOCK_INLINE void dots_rows(pair_fn *pair, int size, bool low, bool wide, int R, int64_t k, const syi_digits *x, int i, const uint8_t *const *row, float *out)
{
    const int64_t padded = syi_digits_padded(k), groups = k / GROUP;
    const int8_t *d = (const int8_t *)x->digits + 3 * padded * i;
    const float *unit = x->unit + padded / GROUP * DOT_LANES * i, *sum = x->sum + padded / GROUP * DOT_LANES * i;
    __m512 total[DOT_ROWS];
    BLOCK_UNROLL for (int r = 0; r < DOT_ROWS; r++) total[r] = _mm512_setzero_ps();
    BLOCK_UNROLL for (int r = 0; r < R; r++) { /* as they lie in memory, like block_rows */
        int64_t g = 0;
        for (; g + 2 <= groups; g += 2) {
            const dot_x part = dot_load(d + g * GROUP, padded, unit + g * DOT_LANES, sum + g * DOT_LANES);
            total[r] = dot_step(pair, low, wide, row[r] + g * size, true, &part, total[r]);
        }
        if (g < groups) {
            const dot_x part = dot_load(d + g * GROUP, padded, unit + g * DOT_LANES, sum + g * DOT_LANES);
            total[r] = dot_step(pair, low, wide, row[r] + g * size, false, &part, total[r]);
        }
    }
    float t[4];
    vsum4((const vf *)total, t);
    memcpy(out, t, (size_t)R * sizeof *t);
}

#define DOTS_TYPE(name, size, low, wide)                                                                                            \
    static void dots_##name(int m, int64_t rows, int64_t k, const syi_digits *x, const uint8_t *w, int64_t pitch,                   \
                            const int32_t *order, float *out, int64_t ldo)                                                          \
    {                                                                                                                               \
        int64_t r = 0;                                                                                                              \
        for (; r + DOT_ROWS <= rows; r += DOT_ROWS) {                                                                               \
            const uint8_t *row[DOT_ROWS];                                                                                           \
            for (int j = 0; j < DOT_ROWS; j++) row[j] = w + (order ? order[r + j] : r + j) * pitch;                                 \
            for (int i = 0; i < m; i++) dots_rows(pair_##name, size, low, wide, DOT_ROWS, k, x, i, row, out + i * ldo + r);         \
        }                                                                                                                           \
        for (; r < rows; r++) {                                                                                                     \
            const uint8_t *row = w + (order ? order[r] : r) * pitch;                                                                \
            for (int i = 0; i < m; i++) dots_rows(pair_##name, size, low, wide, 1, k, x, i, &row, out + i * ldo + r);               \
        }                                                                                                                           \
    }
DOTS_TYPE(q4_0, 18, false, false)
DOTS_TYPE(q4_1, 20, true, false)
DOTS_TYPE(q5_0, 22, false, false)
DOTS_TYPE(q5_1, 24, true, false)
DOTS_TYPE(q8_0, 34, false, true)
#define DOTS(name) dots_##name
#define BLOCK_DIGITS block_digits
#else
#define DOTS(name) NULL
#define BLOCK_DIGITS NULL
#endif
