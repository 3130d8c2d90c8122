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
    const uint8_t *words = p->code + row * p->words;
    const uint32_t mask = (1u << p->bits) - 1;
    float buffer[SYI_LANES];
    for (int64_t pos = 0; pos * SYI_LANES < p->in; pos++) {
        const int64_t left = p->in - pos * SYI_LANES, bit = pos * p->bits;
        const int shift = (int)(bit & 7);
        const uint8_t *w = words + (bit >> 3) * SYI_LANES;
        float *to = left >= SYI_LANES ? dst + pos * SYI_LANES : buffer;
        const int64_t span = p->group % SYI_LANES == 0 || p->groups == 1 ? SYI_LANES : SYI_LANES / 2; /* of one group */
        for (int64_t l = 0; l < SYI_LANES; l += span) {
            const int64_t g = row * p->groups + syi_min((pos * SYI_LANES + l) / p->group, p->groups - 1);
            const float scale = p->scale[g], offset = p->offset[g];
            if (shift + p->bits <= 8)
                for (int64_t i = l; i < l + span; i++) to[i] = scale * (float)(int32_t)((uint32_t)w[i] >> shift & mask) + offset;
            else
                for (int64_t i = l; i < l + span; i++)
                    to[i] = scale * (float)(int32_t)(((uint32_t)w[i] >> shift | (uint32_t)w[SYI_LANES + i] << (8 - shift)) & mask) + offset;
        }
        if (to == buffer) memcpy(dst + pos * SYI_LANES, buffer, (size_t)left * sizeof *dst);
    }
}

#if defined(__AVX512VNNI__)
/* Codes of 64 inputs as bytes. */
static inline __m512i packed_bytes(const uint8_t *w, int64_t pos, int bits)
{
    const int64_t bit = pos * bits;
    const int shift = (int)(bit & 7);
    const uint8_t *at = w + (bit >> 3) * SYI_LANES;
    __m512i v = _mm512_loadu_si512(at);
    if (shift) v = _mm512_srl_epi16(v, _mm_cvtsi32_si128(shift));
    if (bits == 8) return v;
    v = _mm512_and_si512(v, _mm512_set1_epi8((char)(shift + bits > 8 ? (1 << (8 - shift)) - 1 : (1 << bits) - 1)));
    if (shift + bits <= 8) return v;
    const int have = 8 - shift;
    const __m512i next = _mm512_sll_epi16(_mm512_loadu_si512(at + SYI_LANES), _mm_cvtsi32_si128(have));
    return _mm512_or_si512(v, _mm512_and_si512(next, _mm512_set1_epi8((char)(((1 << bits) - 1) & ~((1 << have) - 1)))));
}

#define PACKED_ROWS(M, BITS)                                                                             \
    for (int64_t r = row; r < row + rows; r++) {                                                              \
        const uint8_t *words = p->code + r * p->words;                                                        \
        const float *scale = p->scale + r * p->groups, *offset = p->offset + r * p->groups;                   \
        __m512 total[M][3];                                                                                   \
        float rest[M];                                                                                        \
        for (int i = 0; i < (M); i++) {                                                                       \
            for (int d = 0; d < 3; d++) total[i][d] = _mm512_setzero_ps();                                    \
            rest[i] = 0;                                                                                      \
        }                                                                                                     \
        for (int64_t g = 0; g < p->groups; g++) {                                                             \
            const int64_t first = g * per, end = g + 1 < p->groups ? first + per : p->padded / SYI_LANES;     \
            __m512i s[M][3];                                                                                  \
            for (int i = 0; i < (M); i++)                                                                     \
                for (int d = 0; d < 3; d++) s[i][d] = _mm512_setzero_si512();                                 \
            for (int64_t pos = first; pos < end; pos++) {                                                     \
                const __m512i c = packed_bytes(words, pos, BITS);                                             \
                for (int i = 0; i < (M); i++)                                                                 \
                    for (int d = 0; d < 3; d++)                                                               \
                        s[i][d] = _mm512_dpbusd_epi32(s[i][d], c, _mm512_loadu_si512(x + (i * 3 + d) * p->padded + pos * SYI_LANES)); \
            }                                                                                                 \
            for (int i = 0; i < (M); i++) {                                                                   \
                const __m512 f = _mm512_set1_ps(scale[g] * in->unit[i * p->groups + g]);                      \
                for (int d = 0; d < 3; d++) total[i][d] = _mm512_fmadd_ps(f, _mm512_cvtepi32_ps(s[i][d]), total[i][d]); \
                rest[i] += offset[g] * in->sums[i * p->groups + g];                                           \
            }                                                                                                 \
        }                                                                                                     \
        for (int i = 0; i < (M); i++) {                                                                       \
            const vf sum = (vf)total[i][0] * vset(65536) + ((vf)total[i][1] * vset(256) + (vf)total[i][2]);   \
            out[i * ldo + r] = vsum(sum) + rest[i];                                                           \
        }                                                                                                     \
    }

#define PACKED_BITS(BITS)                                                                                     \
    static void packed_##BITS(const syi_packed *p, int m, int64_t row, int64_t rows, const syi_packed_in *in, \
                              float *out, int64_t ldo)                                                        \
    {                                                                                                         \
        const int8_t *x = in->x;                                                                              \
        const int64_t per = p->group / SYI_LANES;                                                             \
        switch (m) {                                                                                          \
        case 1: PACKED_ROWS(1, BITS) break;                                                                   \
        case 2: PACKED_ROWS(2, BITS) break;                                                              \
        case 3: PACKED_ROWS(3, BITS) break;                                                              \
        default: PACKED_ROWS(4, BITS) break;                                                             \
        }                                                                                                     \
    }
PACKED_BITS(2)
PACKED_BITS(3)
PACKED_BITS(4)
PACKED_BITS(8)

/* Digits of x, 3 a row of it, and the unit of each group. */
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
            float most = 0;
            for (int64_t k = first; k < end; k++) {
                const float a = __builtin_fabsf(x[i * p->in + k]);
                most = a > most || !(a == a) ? a : most;
            }
            const float unit = most * (1 / 8323072.0f), per = unit > 0 ? 1 / unit : 0; /* 127 * 65536 */
            in->unit[i * p->groups + g] = most <= 3e38f ? unit : most; /* not finite: neither is the result */
            if (!(most <= 3e38f) || !(per <= 3e38f)) continue;
            for (int64_t k = first; k < end; k++) {
                int32_t q = (int32_t)__builtin_rintf(x[i * p->in + k] * per);
                const int32_t low = (int8_t)(q & 255);
                q = (q - low) >> 8;
                const int32_t middle = (int8_t)(q & 255);
                d[2 * p->padded + k] = (int8_t)low;
                d[p->padded + k] = (int8_t)middle;
                d[k] = (int8_t)((q - middle) >> 8);
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
