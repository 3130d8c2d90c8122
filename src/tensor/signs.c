/* SPDX-License-Identifier: Apache-2.0 */
/* Laying +-1 codes out in tiles and running the look-up products over them. */
#include "tensor/signs.h"

#include "tensor/pieces.h"

static sy_status lay_shared(sy_context *ctx, const uint8_t *planes, const float *alpha, syi_signs *s)
{
    const int64_t row_bytes = syi_ceil_div(s->in, 8), across = syi_ceil_div(s->out, s->rows), patches = syi_ceil_div(s->in, s->cols), each = s->rows == 1 ? SYI_SIGN_TILE : 1;
    const int bits = s->bits;
    s->shared = true;
    s->tiles = syi_ceil_div(s->out, SYI_SIGN_TILE);
    s->steps = syi_ceil_div(s->in, SYI_SIGN_STEP);
    s->code = syi_pages(ctx, (size_t)(s->tiles * s->steps * bits * SYI_SIGN_TILE) + 64); /* a register's worth may be read at its end */
    s->scale = syi_pages(ctx, (size_t)(s->tiles * patches * bits * each) * sizeof *s->scale);
    if (!s->code || !s->scale) return SY_E_MEMORY;
    for (int64_t t = 0; t < s->tiles; t++) {
        for (int64_t q = 0; q < s->steps; q++)
            for (int b = 0; b < bits; b++) {
                const int from = b / 4 * 4, have = (int)syi_min(4, bits - from);
                uint8_t *to = s->code + ((t * s->steps + q) * bits + from) * SYI_SIGN_TILE + (b - from) * 2;
                for (int64_t i = 0; i < SYI_SIGN_TILE && t * SYI_SIGN_TILE + i < s->out; i++)
                    to[i / 2 * 2 * have + i % 2] = planes[(b * s->out + t * SYI_SIGN_TILE + i) * row_bytes + q];
            }
        for (int64_t p = 0; p < patches; p++)
            for (int b = 0; b < bits; b++)
                for (int64_t i = 0; i < each; i++) {
                    const int64_t row = syi_min(s->out - 1, t * SYI_SIGN_TILE + i);
                    s->scale[((t * patches + p) * bits + b) * each + i] = alpha[(p * across + row / s->rows) * bits + b];
                }
    }
    return SY_OK;
}

static sy_status lay_scaled(sy_context *ctx, const uint8_t *planes, syi_signs *s)
{
    const int64_t row_bytes = syi_ceil_div(s->in, 8);
    const int bits = s->bits;
    s->tiles = syi_ceil_div(s->out, SYI_SIGN_ROWS);
    s->steps = syi_ceil_div(s->in, SYI_SIGN_COLS);
    s->code = syi_pages(ctx, (size_t)(s->tiles * s->steps * bits * 16));
    if (!s->code) return SY_E_MEMORY;
    for (int64_t t = 0; t < s->tiles; t++)
        for (int64_t q = 0; q < s->steps; q++)
            for (int b = 0; b < bits; b++) {
                uint8_t *to = s->code + ((t * s->steps + q) * bits + b) * 16;
                for (int i = 0; i < SYI_SIGN_ROWS; i++) {
                    const int64_t r = t * SYI_SIGN_ROWS + i;
                    if (r >= s->out) continue;
                    const uint8_t *row = planes + (b * s->out + r) * row_bytes;
                    const int four = row[q * 4 / 8] >> (q * 4 % 8) & 15;
                    to[i % 16] |= (uint8_t)(four << (i < 16 ? 0 : 4));
                }
            }
    return SY_OK;
}

sy_status syi_signs_new(sy_context *ctx, int64_t out, int64_t in, int bits, int64_t rows, int64_t cols, const uint8_t *planes, const float *alpha, syi_signs *s)
{
    *s = (syi_signs){.bits = bits, .out = out, .in = in, .rows = rows, .cols = cols, .alpha = alpha};
    /* a register holds 16 rows: they have one alpha, or each its own */
    const bool tiles = rows % SYI_SIGN_TILE == 0 || rows >= out;
    if ((cols % SYI_SIGN_STEP == 0 || cols >= in) && (tiles || rows == 1)) return lay_shared(ctx, planes, alpha, s);
    if (!tiles || (cols > 1 && cols % SYI_SIGN_COLS != 0)) return SY_OK;
    return lay_scaled(ctx, planes, s);
}

void syi_signs_free(sy_context *ctx, syi_signs *s)
{
    syi_pages_free(ctx, s->code);
    syi_pages_free(ctx, s->scale);
    *s = (syi_signs){0};
}

/* -- products -------------------------------------------------------------------------------- */

enum { SHARE = 4 }; /* tiles a thread takes at a time */

typedef struct { const syi_engine *e; const syi_signs *s; int64_t m; const float *x; float *table; int64_t tables; const syi_signs_in *in; float *y; } job;

static void shared_part(void *self, int64_t part, int thread)
{
    const job *j = self;
    (void)thread;
    for (int64_t i = 0; i < j->m; i++) j->e->cpu->signs_pick(j->s, &j->in[i], part * SHARE, syi_min(j->s->tiles, (part + 1) * SHARE), j->y + i * j->s->out);
}

/* Half tiles by patches of rows: those of one patch share their tables. */
static void scaled_part(void *self, int64_t p, int thread)
{
    const job *j = self;
    const syi_signs *s = j->s;
    const int64_t across = syi_ceil_div(s->out, s->rows), halves = syi_ceil_div(s->out, 16);
    const int64_t first = p * s->rows / 16, end = syi_min(halves, p + 1 < across ? (p + 1) * s->rows / 16 : halves);
    float *table = j->table + thread * j->tables;
    for (int64_t i = 0; i < j->m; i++) {
        j->e->cpu->signs_table(s, p, across, j->x + i * s->steps * SYI_SIGN_COLS, table);
        j->e->cpu->signs_sum(s, table, first, end, j->y + i * s->out);
    }
}

sy_status syi_signs_few(syi_engine *e, const syi_signs *s, int64_t m, const float *x, float *y)
{
    /* x with zeros behind it, then either its own tables or those of one patch of rows for each thread */
    const int64_t padded = s->shared ? syi_ceil_div(s->in, SYI_SIGN_SPAN) * SYI_SIGN_SPAN : s->steps * SYI_SIGN_COLS, spans = syi_ceil_div(s->in, SYI_SIGN_SPAN);
    const int64_t tables = s->steps * s->bits * 16, numbers = m * padded + (s->shared ? m * (padded * 2 + spans) : syi_omp(e->ctx) * tables) + 64;
    float *work = syi_engine_work(e, SYI_WORK_PACKED, numbers * (int64_t)sizeof *work), *rest = work ? work + m * padded : NULL;
    if (!work) return SY_E_MEMORY;
    syi_signs_in in[4];
    job j = {.e = e, .s = s, .m = m, .x = work, .table = rest, .tables = tables, .in = in, .y = y};
    for (int64_t i = 0; i < m; i++) {
        memcpy(work + i * padded, x + i * s->in, (size_t)s->in * sizeof *work);
        memset(work + i * padded + s->in, 0, (size_t)(padded - s->in) * sizeof *work);
        if (!s->shared) continue;
        in[i] = (syi_signs_in){(int8_t *)(rest + i * padded * 2), rest + m * padded * 2 + i * spans};
        e->cpu->signs_digits(spans, work + i * padded, &in[i]);
    }
    if (s->shared) syi_share(e, syi_ceil_div(s->tiles, SHARE), shared_part, &j);
    else syi_share(e, syi_ceil_div(s->out, s->rows), scaled_part, &j);
    return SY_OK;
}
