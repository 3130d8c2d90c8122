/* SPDX-License-Identifier: Apache-2.0 */
/* Look-up products with +-1 codes: part of cpu_impl.h. */

/* -- shared tables of integers ---------------------------------------------------------------- */

/* Tables of whole spans of x, which has zeros behind it. */
static void signs_digits(int64_t spans, const float *x, const syi_signs_in *in)
{
    enum { FOURS = SYI_SIGN_SPAN / 4, TOP = 127 * SYI_SIGN_HIGH + 127 };
    for (int64_t p = 0; p < spans; p++) {
        const float *v = x + p * SYI_SIGN_SPAN;
        float most = 0;
        for (int q = 0; q < FOURS; q++) {
            const float a = (__builtin_fabsf(v[q * 4]) + __builtin_fabsf(v[q * 4 + 1])) + (__builtin_fabsf(v[q * 4 + 2]) + __builtin_fabsf(v[q * 4 + 3]));
            most = a > most || !(a == a) ? a : most;
        }
        const float unit = most * (1.0f / TOP), per = unit > 0 ? 1 / unit : 0;
        const bool fine = most <= 3e38f && per <= 3e38f;
        in->unit[p] = most <= 3e38f ? unit : most; /* not finite: neither is the result */
        for (int q = 0; q < FOURS; q++) {
            int8_t *low = in->digit + (p * FOURS + q) * 32, *high = low + 16;
            for (int k = 0; k < 16; k++) {
                float t = k & 1 ? v[q * 4] : -v[q * 4];
                t += k & 2 ? v[q * 4 + 1] : -v[q * 4 + 1];
                t += k & 4 ? v[q * 4 + 2] : -v[q * 4 + 2];
                t += k & 8 ? v[q * 4 + 3] : -v[q * 4 + 3];
                const float n = fine ? __builtin_rintf(t * per) : 0, h = __builtin_rintf(n * (1.0f / SYI_SIGN_HIGH));
                high[k] = (int8_t)h;
                low[k] = (int8_t)(n - h * SYI_SIGN_HIGH);
            }
        }
    }
}

#if defined(__AVX512VBMI__) && defined(__AVX512VNNI__)
typedef struct { __m512i spread, pick[4], low, base, weight; } signs_constants;

/* have: planes that lie together; their bytes go to the eight 64-bit words of row pairs. */
static inline signs_constants signs_make(int have)
{
    uint8_t b[64];
    signs_constants c;
    for (int i = 0; i < 64; i++) b[i] = (uint8_t)(i / 8 * 2 * have + (i % 8 < 2 * have ? i % 8 : 0));
    c.spread = _mm512_loadu_si512(b);
    for (int plane = 0; plane < 4; plane++) { /* of both rows: first four inputs twice, last four twice */
        for (int i = 0; i < 64; i++) b[i] = (uint8_t)(plane * 16 + i % 8 / 4 * 8 + i % 4 / 2 * 4);
        c.pick[plane] = _mm512_loadu_si512(b);
    }
    c.low = _mm512_set1_epi8(15);
    c.base = _mm512_set1_epi32(0x30201000);
    c.weight = _mm512_set1_epi32((int)(0x00010001u | (unsigned)SYI_SIGN_HIGH << 8 | (unsigned)SYI_SIGN_HIGH << 24));
    return c;
}

/* Sums that 16 rows pick for one plane, added to s. */
static inline __m512i signs_plane(const signs_constants *c, __m512i codes, int plane, __m512i table, __m512i s)
{
    const __m512i at = _mm512_ternarylogic_epi32(_mm512_multishift_epi64_epi8(c->pick[plane], codes), c->low, c->base, 0xEA); /* (a & b) | c */
    return _mm512_dpbusd_epi32(s, c->weight, _mm512_permutexvar_epi8(at, table));
}

/* R tiles, planes [from, from+have): y += (or =) their part. each: alphas of a tile's patch and
 * plane, 1 or 16. */
static inline __attribute__((always_inline)) void signs_tiles(const int R, const int have, const bool single, const syi_signs *s, const syi_signs_in *in, int64_t tile, int from, float *y)
{
    const signs_constants c = signs_make(have);
    const int64_t pitch = s->steps * s->bits * SYI_SIGN_TILE, patches = (s->in + s->cols - 1) / s->cols, each = s->rows == 1 ? SYI_SIGN_TILE : 1;
    const uint8_t *code = s->code + tile * pitch + from * SYI_SIGN_TILE;
    const float *scale = s->scale + (tile * patches * s->bits + from) * each;
    const int64_t across = patches * s->bits * each, wide = s->cols >= s->in ? s->steps : s->cols / SYI_SIGN_STEP;
    __m512 total[4];
    __m512i sum[4][4];
    for (int r = 0; r < R; r++) total[r] = _mm512_setzero_ps();
    int64_t patch = 0, left = wide;
    for (int64_t span = 0; span * (SYI_SIGN_SPAN / SYI_SIGN_STEP) < s->steps; span++) {
        const int64_t end = syi_min(s->steps, (span + 1) * (SYI_SIGN_SPAN / SYI_SIGN_STEP));
        __m512 part[4];
        for (int r = 0; r < R; r++) part[r] = _mm512_setzero_ps();
        for (int64_t q = span * (SYI_SIGN_SPAN / SYI_SIGN_STEP); q < end;) {
            int64_t run = single ? 1 : syi_min(left, end - q);
            left -= run;
            if (!single)
                for (int r = 0; r < R; r++)
                    for (int b = 0; b < have; b++) sum[r][b] = _mm512_setzero_si512();
            for (; run > 0; run--, q++) {
                const __m512i table = _mm512_loadu_si512(in->digit + q * 64);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) {
                    __m512i v = _mm512_loadu_si512(code + r * pitch + q * s->bits * SYI_SIGN_TILE);
                    if (have < 4) v = _mm512_permutexvar_epi8(c.spread, v);
#pragma GCC unroll 4
                    for (int b = 0; b < have; b++) {
                        if (!single) {
                            sum[r][b] = signs_plane(&c, v, b, table, sum[r][b]);
                        } else {
                            const __m512i got = signs_plane(&c, v, b, table, _mm512_setzero_si512());
                            part[r] = _mm512_fmadd_ps(_mm512_set1_ps(scale[r * across + patch * s->bits + b]), _mm512_cvtepi32_ps(got), part[r]);
                        }
                    }
                }
            }
            if (!single)
#pragma GCC unroll 4
                for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                    for (int b = 0; b < have; b++) {
                        const float *a = scale + r * across + (patch * s->bits + b) * each;
                        part[r] = _mm512_fmadd_ps(each == 1 ? _mm512_set1_ps(a[0]) : _mm512_loadu_ps(a), _mm512_cvtepi32_ps(sum[r][b]), part[r]);
                    }
            if (single || left == 0) {
                patch++;
                left = wide;
            }
        }
        for (int r = 0; r < R; r++) total[r] = _mm512_fmadd_ps(_mm512_set1_ps(in->unit[span]), part[r], total[r]);
    }
    for (int r = 0; r < R; r++) {
        const int64_t row = (tile + r) * SYI_SIGN_TILE, rows = syi_min(SYI_SIGN_TILE, s->out - row);
        const __mmask16 some = (__mmask16)((1u << rows) - 1);
        if (from > 0) total[r] = _mm512_add_ps(total[r], _mm512_maskz_loadu_ps(some, y + row));
        _mm512_mask_storeu_ps(y + row, some, total[r]);
    }
}

#define SIGNS_HAVE(HAVE)                                                                                                                                  \
    static void signs_pick_##HAVE(const syi_signs *s, const syi_signs_in *in, int64_t first, int64_t end, int from, float *y)                              \
    {                                                                                                                                                     \
        const bool single = s->cols == SYI_SIGN_STEP && s->rows > 1;                                                                                      \
        for (; single && first + 4 <= end; first += 4) signs_tiles(4, HAVE, true, s, in, first, from, y);                                                 \
        for (; single && first < end; first++) signs_tiles(1, HAVE, true, s, in, first, from, y);                                                         \
        for (; first + 2 <= end; first += 2) signs_tiles(2, HAVE, false, s, in, first, from, y);                                                          \
        for (; first < end; first++) signs_tiles(1, HAVE, false, s, in, first, from, y);                                                                  \
    }
SIGNS_HAVE(1)
SIGNS_HAVE(2)
SIGNS_HAVE(3)
SIGNS_HAVE(4)

static void signs_pick(const syi_signs *s, const syi_signs_in *in, int64_t first, int64_t end, float *y)
{
    for (int from = 0; from < s->bits; from += 4)
        switch (s->bits - from) {
        case 1: signs_pick_1(s, in, first, end, from, y); break;
        case 2: signs_pick_2(s, in, first, end, from, y); break;
        case 3: signs_pick_3(s, in, first, end, from, y); break;
        default: signs_pick_4(s, in, first, end, from, y); break;
        }
}
#else
static void signs_pick(const syi_signs *s, const syi_signs_in *in, int64_t first, int64_t end, float *y)
{
    const int64_t patches = (s->in + s->cols - 1) / s->cols, each = s->rows == 1 ? SYI_SIGN_TILE : 1, spans = SYI_SIGN_SPAN / SYI_SIGN_STEP;
    for (int64_t t = first; t < end; t++)
        for (int64_t i = 0; i < syi_min(SYI_SIGN_TILE, s->out - t * SYI_SIGN_TILE); i++) {
            float total = 0, part = 0;
            int32_t sum[8] = {0};
            for (int64_t q = 0; q < s->steps; q++) {
                const int8_t *table = in->digit + q * 64;
                const int64_t patch = q * SYI_SIGN_STEP / s->cols;
                const bool last = q + 1 == s->steps || (q + 1) % spans == 0;
                for (int b = 0; b < s->bits; b++) {
                    const int from = b / 4 * 4, have = (int)syi_min(4, s->bits - from);
                    const uint8_t *code = s->code + ((t * s->steps + q) * s->bits + from) * SYI_SIGN_TILE;
                    const int byte = code[i / 2 * 2 * have + (b - from) * 2 + i % 2], lo = byte & 15, hi = byte >> 4;
                    sum[b] += table[lo] + SYI_SIGN_HIGH * table[16 + lo] + table[32 + hi] + SYI_SIGN_HIGH * table[48 + hi];
                    if (!last && (q + 1) * SYI_SIGN_STEP / s->cols == patch) continue;
                    part += s->scale[((t * patches + patch) * s->bits + b) * each + (each > 1 ? i : 0)] * (float)sum[b];
                    sum[b] = 0;
                }
                if (!last) continue;
                total += in->unit[q / spans] * part;
                part = 0;
            }
            y[t * SYI_SIGN_TILE + i] = total;
        }
}
#endif

/* -- tables with alphas in them ------------------------------------------------------------------ */

/* For patch p of rows: the 16 signed sums of each four inputs and bit plane, alphas in. */
static void signs_table(const syi_signs *s, int64_t p, int64_t across, const float *x, float *table)
{
    for (int64_t q = 0; q < s->steps; q++)
        for (int b = 0; b < s->bits; b++) {
            float *t = table + (q * s->bits + b) * 16, v[4];
            for (int64_t i = 0; i < 4; i++) {
                const int64_t k = q * 4 + i, patch = (k < s->in ? k : s->in - 1) / s->cols;
                v[i] = s->alpha[(patch * across + p) * s->bits + b] * x[k];
            }
            t[0] = -((v[0] + v[1]) + (v[2] + v[3]));
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 1 << i; j++) t[j + (1 << i)] = t[j] + 2 * v[i];
        }
}

/* Half tiles (16 rows) [first, end): y[rows] = sums of what the codes pick. */
static void signs_sum(const syi_signs *s, const float *table, int64_t first, int64_t end, float *y)
{
    const int64_t steps = s->steps * s->bits;
    for (int64_t h = first; h < end; h++) {
        const uint8_t *code = s->code + h / 2 * steps * 16;
        const int64_t rows = syi_min(16, s->out - h * 16);
#if defined(__AVX512F__)
        if ((h & 1) == 0 && h + 1 < end) { /* a whole tile at once */
            __m512 a0 = _mm512_setzero_ps(), a1 = a0, b0 = a0, b1 = a0;
            int64_t i = 0;
            for (; i + 1 < steps; i += 2) {
                const __m512i c = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(code + i * 16)));
                const __m512i d = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(code + i * 16 + 16)));
                const __m512 t = _mm512_loadu_ps(table + i * 16), u = _mm512_loadu_ps(table + i * 16 + 16);
                a0 = _mm512_add_ps(a0, _mm512_permutexvar_ps(c, t));
                b0 = _mm512_add_ps(b0, _mm512_permutexvar_ps(_mm512_srli_epi32(c, 4), t));
                a1 = _mm512_add_ps(a1, _mm512_permutexvar_ps(d, u));
                b1 = _mm512_add_ps(b1, _mm512_permutexvar_ps(_mm512_srli_epi32(d, 4), u));
            }
            for (; i < steps; i++) {
                const __m512i c = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(code + i * 16)));
                const __m512 t = _mm512_loadu_ps(table + i * 16);
                a0 = _mm512_add_ps(a0, _mm512_permutexvar_ps(c, t));
                b0 = _mm512_add_ps(b0, _mm512_permutexvar_ps(_mm512_srli_epi32(c, 4), t));
            }
            const vf a = (vf)_mm512_add_ps(a0, a1), b = (vf)_mm512_add_ps(b0, b1);
            vstore_f32(y + h * 16, a);
            h++;
            const int64_t more = syi_min(16, s->out - h * 16);
            if (more == 16) vstore_f32(y + h * 16, b);
            else vstore_f32_part(y + h * 16, b, more);
            continue;
        }
#endif
        float sum[16] = {0};
        const int shift = h & 1 ? 4 : 0;
        for (int64_t i = 0; i < steps; i++)
            for (int r = 0; r < 16; r++) sum[r] += table[i * 16 + (code[i * 16 + r] >> shift & 15)];
        for (int64_t r = 0; r < rows; r++) y[h * 16 + r] = sum[r];
    }
}
