/* SPDX-License-Identifier: Apache-2.0 */
/* Look-up products with +-1 codes: part of cpu_impl.h. */

/* For patch p of rows: the 16 signed sums of each four inputs and bit plane, alphas in. */
static void signs_table(const syi_signs *s, int64_t p, int64_t across, const float *x, float *table)
{
    for (int64_t q = 0; q < s->quads; q++)
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
    const int64_t steps = s->quads * s->bits;
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
