/* SPDX-License-Identifier: Apache-2.0 */
/* Laying +-1 codes out in tiles and running the look-up products over them. */
#include "tensor/signs.h"

#include "tensor/pieces.h"

sy_status syi_signs_new(sy_context *ctx, int64_t out, int64_t in, int bits, int64_t rows, int64_t cols, const uint8_t *planes, const float *alpha, syi_signs *s)
{
    const int64_t row_bytes = syi_ceil_div(in, 8);
    *s = (syi_signs){.bits = bits, .out = out, .in = in, .rows = rows, .cols = cols, .alpha = alpha, .tiles = syi_ceil_div(out, SYI_SIGN_ROWS), .quads = syi_ceil_div(in, SYI_SIGN_COLS)};
    /* half tiles (16 rows) have alphas of their own; a register holds one half at a time */
    if (rows % 16 != 0 && rows < out) return SY_OK;
    if (cols > 1 && cols % SYI_SIGN_COLS != 0 && cols < in) return SY_OK;
    s->code = syi_pages(ctx, (size_t)(s->tiles * s->quads * bits * 16));
    if (!s->code) return SY_E_MEMORY;
    for (int64_t t = 0; t < s->tiles; t++)
        for (int64_t q = 0; q < s->quads; q++)
            for (int b = 0; b < bits; b++) {
                uint8_t *to = s->code + ((t * s->quads + q) * bits + b) * 16;
                for (int i = 0; i < SYI_SIGN_ROWS; i++) {
                    const int64_t r = t * SYI_SIGN_ROWS + i;
                    if (r >= out) continue;
                    const uint8_t *row = planes + (b * out + r) * row_bytes;
                    const int four = row[q * 4 / 8] >> (q * 4 % 8) & 15;
                    to[i % 16] |= (uint8_t)(four << (i < 16 ? 0 : 4));
                }
            }
    return SY_OK;
}

void syi_signs_free(sy_context *ctx, syi_signs *s)
{
    syi_pages_free(ctx, s->code);
    *s = (syi_signs){0};
}

sy_status syi_signs_few(syi_engine *e, const syi_signs *s, int64_t m, const float *x, float *y)
{
    const int64_t padded = s->quads * SYI_SIGN_COLS, across = syi_ceil_div(s->out, s->rows);
    const int threads = syi_omp(e->ctx);
    /* x with zeros behind it, and the tables of one patch of rows for each thread */
    const int64_t tables = s->quads * s->bits * 16;
    float *work = syi_engine_work(e, SYI_WORK_PACKED, (m * padded + threads * tables + 64) * (int64_t)sizeof *work);
    if (!work) return SY_E_MEMORY;
    for (int64_t i = 0; i < m; i++) {
        memcpy(work + i * padded, x + i * s->in, (size_t)s->in * sizeof *work);
        memset(work + i * padded + s->in, 0, (size_t)(padded - s->in) * sizeof *work);
    }
    /* half tiles by patches of rows: those of one patch share their tables */
    const int64_t patches = across, halves = syi_ceil_div(s->out, 16);
#pragma omp parallel for schedule(static) num_threads(threads) if (s->out * s->in > 65536)
    for (int64_t p = 0; p < patches; p++) {
        float *table = work + m * padded + syi_thread() * tables;
        const int64_t first = p * s->rows / 16, end = syi_min(halves, p + 1 < patches ? (p + 1) * s->rows / 16 : halves);
        for (int64_t i = 0; i < m; i++) {
            e->cpu->signs_table(s, p, across, work + i * padded, table);
            e->cpu->signs_sum(s, table, first, end, y + i * s->out);
        }
    }
    return SY_OK;
}
