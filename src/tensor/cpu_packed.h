/* SPDX-License-Identifier: Apache-2.0 */
/* Products with packed codes: part of cpu_impl.h. The grid's scale is applied once a
 * group, to the sums of its codes, and its offset through the sum of x over the group.
 *
 * With VNNI x becomes integers of 24 bits against the largest number of its group, in
 * three signed digits of 8 bits, and a code is a byte: 64 products an instruction, sums
 * exact, as close to the true product as f32 sums are. Elsewhere a row is decoded into the
 * first-level cache and multiplied there. */

/* One row: scale * code + offset, exact for scales of f16 and so the same on every path. */
static void unpack(const syi_packed *p, int64_t row, float *dst)
{
    const uint8_t *words = p->code + syi_packed_at(p, row, 0);
    const uint32_t mask = (1u << p->bits) - 1;
    float buffer[SYI_LANES];
    for (int64_t pos = 0; pos * SYI_LANES < p->in; pos++) {
        const int64_t left = p->in - pos * SYI_LANES, bit = pos * p->bits;
        const int shift = (int)(bit & 7);
        const uint8_t *w = words + (bit >> 3) * SYI_PITCH;
        float *to = left >= SYI_LANES ? dst + pos * SYI_LANES : buffer;
        const int64_t span = p->group % SYI_LANES == 0 || p->groups == 1 ? SYI_LANES : SYI_LANES / 2; /* of one group */
        for (int64_t l = 0; l < SYI_LANES; l += span) {
            const int64_t g = row * p->groups + syi_min((pos * SYI_LANES + l) / p->group, p->groups - 1);
            const float scale = p->scale[g], offset = p->offset[g];
            if (shift + p->bits <= 8)
                for (int64_t i = l; i < l + span; i++) to[i] = scale * (float)(int32_t)((uint32_t)w[i] >> shift & mask) + offset;
            else
                for (int64_t i = l; i < l + span; i++)
                    to[i] = scale * (float)(int32_t)(((uint32_t)w[i] >> shift | (uint32_t)w[SYI_PITCH + i] << (8 - shift)) & mask) + offset;
        }
        if (to == buffer) memcpy(dst + pos * SYI_LANES, buffer, (size_t)left * sizeof *dst);
    }
}

#if defined(__AVX512VNNI__)
#define PACKED_INLINE static inline __attribute__((always_inline))

/* Codes of 64 inputs as bytes, position i of a string of bits that begins at a byte. */
PACKED_INLINE __m512i packed_bytes(const uint8_t *w, int i, int bits)
{
    const int bit = i * bits, shift = bit & 7, have = 8 - shift;
    const uint8_t *at = w + (bit >> 3) * SYI_PITCH;
    __m512i v = _mm512_loadu_si512(at);
    if (bits == 8) return v;
    if (shift) v = _mm512_srli_epi16(v, (unsigned)shift);
    if (have >= bits) return _mm512_and_si512(v, _mm512_set1_epi8((char)((1 << bits) - 1)));
    /* the low bits of what follows into the place above: (v & low) | (next & ~low), then the mask */
    const __m512i next = _mm512_slli_epi16(_mm512_loadu_si512(at + SYI_PITCH), (unsigned)have);
    const __m512i low = _mm512_set1_epi8((char)((1 << have) - 1));
    return _mm512_and_si512(_mm512_ternarylogic_epi32(v, next, low, 0xE4), _mm512_set1_epi8((char)((1 << bits) - 1)));
}

/* R rows of codes times M rows of x: x and its digits are loaded once for R rows. */
PACKED_INLINE void packed_rows(const int R, const int M, const int bits, const syi_packed *p, int64_t row, const syi_packed_in *in, float *out, int64_t ldo)
{
    const int cycle = bits == 8 ? 1 : bits == 4 ? 2 : bits == 2 ? 4 : 8; /* positions until a byte begins again */
    /* Three digits' sums fit one integer for so many positions (4 products a lane, 128 * 65793 * top each). */
    const int64_t n = p->padded / SYI_LANES, whole = p->groups > 1 ? p->group / SYI_LANES : n, most = bits == 8 ? whole : 63 / ((1 << bits) - 1);
    const int8_t *x = in->x;
    const uint8_t *w = p->code + syi_packed_at(p, row, 0);
    __m512i s[4][4][3];
    __m512 total[4][4];
    int64_t group = 0, left = whole, until = syi_min(whole, most);
    for (int r = 0; r < R; r++)
        for (int i = 0; i < M; i++) {
            total[r][i] = _mm512_setzero_ps();
            for (int d = 0; d < 3; d++) s[r][i][d] = _mm512_setzero_si512();
        }
    for (int64_t pos = 0; pos < n; pos += cycle, w += bits * cycle / 8 * SYI_PITCH) {
#pragma GCC unroll 8
        for (int k = 0; k < cycle; k++) {
            if (pos + k >= n) break;
            __m512i c[4];
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) c[r] = packed_bytes(w + r * SYI_LANES, k, bits);
#pragma GCC unroll 4
            for (int i = 0; i < M; i++)
#pragma GCC unroll 3
                for (int d = 0; d < 3; d++) {
                    const __m512i v = _mm512_loadu_si512(x + (i * 3 + d) * p->padded + (pos + k) * SYI_LANES);
#pragma GCC unroll 4
                    for (int r = 0; r < R; r++) s[r][i][d] = _mm512_dpbusd_epi32(s[r][i][d], c[r], v);
                }
            until--;
            left--;
            if (until > 0 && pos + k + 1 < n) continue;
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int i = 0; i < M; i++) {
                    const __m512 f = _mm512_set1_ps(p->scale[(row + r) * p->groups + group] * in->unit[i * p->groups + group]);
                    __m512i *t = s[r][i];
                    if (bits == 8) {
                        const __m512 high = _mm512_fmadd_ps(_mm512_cvtepi32_ps(t[0]), _mm512_set1_ps(65536), _mm512_cvtepi32_ps(t[2]));
                        total[r][i] = _mm512_fmadd_ps(f, _mm512_fmadd_ps(_mm512_cvtepi32_ps(t[1]), _mm512_set1_ps(256), high), total[r][i]);
                    } else {
                        const __m512i all = _mm512_add_epi32(_mm512_slli_epi32(t[0], 16), _mm512_add_epi32(_mm512_slli_epi32(t[1], 8), t[2]));
                        total[r][i] = _mm512_fmadd_ps(f, _mm512_cvtepi32_ps(all), total[r][i]);
                    }
                    for (int d = 0; d < 3; d++) t[d] = _mm512_setzero_si512();
                }
            if (left == 0) {
                group++;
                left = whole;
            }
            until = syi_min(left, most);
        }
    }
    for (int r = 0; r < R; r++)
        for (int i = 0; i < M; i++) {
            const float *offset = p->offset + (row + r) * p->groups, *sums = in->sums + i * p->groups;
            __m512 rest = total[r][i];
            for (int64_t g = 0; g < p->groups; g += 16) {
                const __mmask16 some = (__mmask16)(p->groups - g >= 16 ? 0xffff : (1 << (p->groups - g)) - 1);
                rest = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(some, offset + g), _mm512_maskz_loadu_ps(some, sums + g), rest);
            }
            out[i * ldo + row + r] = vsum((vf)rest);
        }
}

/* Fewer rows at a time where there are more rows of x: sums stay in registers. */
#define PACKED_BITS(BITS)                                                                                      \
    static void packed_##BITS(const syi_packed *p, int m, int64_t row, int64_t rows, const syi_packed_in *in,  \
                              float *out, int64_t ldo)                                                         \
    {                                                                                                          \
        const int64_t end = row + rows;                                                                        \
        for (; m == 1 && row + 4 <= end; row += 4) packed_rows(4, 1, BITS, p, row, in, out, ldo);              \
        for (; m == 2 && row + 2 <= end; row += 2) packed_rows(2, 2, BITS, p, row, in, out, ldo);              \
        for (; row < end; row++) {                                                                             \
            if (m == 1) packed_rows(1, 1, BITS, p, row, in, out, ldo);                                         \
            else if (m == 2) packed_rows(1, 2, BITS, p, row, in, out, ldo);                                    \
            else if (m == 3) packed_rows(1, 3, BITS, p, row, in, out, ldo);                                    \
            else packed_rows(1, 4, BITS, p, row, in, out, ldo);                                                \
        }                                                                                                      \
    }
PACKED_BITS(2)
PACKED_BITS(3)
PACKED_BITS(4)
PACKED_BITS(8)

/* Digits of x, 3 a row of it, the unit and the sum of each group. */
static bool packed_in(const syi_packed *p, int m, const float *x, void *work, syi_packed_in *in)
{
    if (p->groups > 1 && p->group % SYI_LANES != 0) return false;
    int8_t *digits = work;
    in->x = work;
    for (int i = 0; i < m; i++) {
        int8_t *d = digits + i * 3 * p->padded;
        memset(d, 0, (size_t)(3 * p->padded));
        for (int64_t g = 0; g < p->groups; g++) {
            const int64_t first = g * p->group, end = syi_min(p->in, first + p->group);
            const float *v = x + i * p->in;
            __m512 most16 = _mm512_setzero_ps(), sum = most16;
            __mmask16 nan = 0;
            for (int64_t k = first; k < end; k += 16) {
                const __m512 a = _mm512_maskz_loadu_ps((__mmask16)(end - k >= 16 ? 0xffff : (1 << (end - k)) - 1), v + k);
                nan |= _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
                most16 = _mm512_max_ps(most16, _mm512_abs_ps(a));
                sum = _mm512_add_ps(sum, a);
            }
            const float most = nan ? __builtin_nanf("") : _mm512_reduce_max_ps(most16);
            const float unit = most * (1.0f / 8323072.0f), per = unit > 0 ? 1 / unit : 0; /* 127 * 65536 */
            in->sums[i * p->groups + g] = vsum((vf)sum);
            in->unit[i * p->groups + g] = most <= 3e38f ? unit : most; /* not finite: neither is the result */
            if (!(most <= 3e38f) || !(per <= 3e38f)) continue;
            for (int64_t k = first; k < end; k += 16) {
                const __mmask16 some = (__mmask16)(end - k >= 16 ? 0xffff : (1 << (end - k)) - 1);
                split_digits(_mm512_maskz_loadu_ps(some, v + k), _mm512_set1_ps(per), some, d + k, d + p->padded + k, d + 2 * p->padded + k);
            }
        }
    }
    return true;
}

static void gemv_packed(const syi_packed *p, int m, int64_t row, int64_t rows, const syi_packed_in *in, float *out, int64_t ldo)
{
    switch (p->bits) {
    case 2: packed_2(p, m, row, rows, in, out, ldo); break;
    case 3: packed_3(p, m, row, rows, in, out, ldo); break;
    case 4: packed_4(p, m, row, rows, in, out, ldo); break;
    default: packed_8(p, m, row, rows, in, out, ldo); break;
    }
}
#else
static bool packed_in(const syi_packed *p, int m, const float *x, void *work, syi_packed_in *in)
{
    (void)p, (void)m, (void)x, (void)work, (void)in;
    return false;
}

static void gemv_packed(const syi_packed *p, int m, int64_t row, int64_t rows, const syi_packed_in *in, float *out, int64_t ldo)
{
    (void)p, (void)m, (void)row, (void)rows, (void)in, (void)out, (void)ldo;
}
#endif
