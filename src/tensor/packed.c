/* SPDX-License-Identifier: Apache-2.0 */
/* Laying packed weights out for products, and products with weights that are stored in
 * any way: a few rows of x against the codes themselves, many against decoded tiles. */
#include "tensor/packed.h"

#include "tensor/gemm.h"
#include "tensor/pieces.h"

sy_status syi_packed_new(sy_context *ctx, int64_t out, int64_t in, int bits, int64_t group, syi_packed *p)
{
    *p = (syi_packed){.bits = bits, .out = out, .in = in, .group = group <= 0 || group > in ? syi_ceil_div(in, SYI_LANES) * SYI_LANES : group};
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "packed weights have 2, 3, 4 or 8 bits, not %d", bits);
    if (p->group % 32 != 0)
        return syi_fail(ctx, SY_E_USAGE, "packed weights: groups of %lld inputs; a multiple of 32 is needed (64 and 128 are usual)", (long long)group);
    p->groups = syi_ceil_div(in, p->group);
    p->padded = syi_ceil_div(in, SYI_LANES) * SYI_LANES;
    p->words = syi_ceil_div(p->padded / SYI_LANES * bits, 8) * SYI_LANES;
    p->code = syi_pages(ctx, (size_t)(syi_ceil_div(out, 4) * 4 * p->words) * sizeof *p->code);
    p->scale = syi_pages(ctx, (size_t)(2 * out * p->groups) * sizeof *p->scale);
    p->offset = p->scale ? p->scale + out * p->groups : NULL;
    if (p->code && p->scale) return SY_OK;
    syi_packed_free(ctx, p);
    return SY_E_MEMORY;
}

void syi_packed_free(sy_context *ctx, syi_packed *p)
{
    syi_pages_free(ctx, p->code);
    syi_pages_free(ctx, p->scale);
    *p = (syi_packed){0};
}

void syi_packed_row(syi_packed *p, int64_t row, const uint8_t *codes)
{
    for (int64_t word = 0; word < p->words; word += SYI_LANES) memset(p->code + syi_packed_at(p, row, word), 0, SYI_LANES);
    for (int64_t k = 0; k < p->in; k++) {
        const int64_t bit = k / SYI_LANES * p->bits;
        const int shift = (int)(bit % 8);
        uint8_t *to = p->code + syi_packed_at(p, row, bit / 8 * SYI_LANES) + k % SYI_LANES;
        to[0] = (uint8_t)(to[0] | codes[k] << shift);
        if (shift + p->bits > 8) to[SYI_PITCH] = (uint8_t)(to[SYI_PITCH] | codes[k] >> (8 - shift));
    }
}

void syi_packed_dense(syi_engine *e, const syi_packed *p, int64_t row, int64_t n, float *dst)
{
    for (int64_t r = 0; r < n; r++) e->cpu->unpack(p, row + r, dst + r * p->in);
}

enum { SHARE = 16 }; /* rows a thread takes at a time */

typedef struct { const syi_engine *e; const syi_packed *p; const syi_packed_in *in; bool fast; int64_t m, row; const float *x; float *decoded, *y; } few_job;

static void few_part(void *self, int64_t part, int thread)
{
    const few_job *f = self;
    const syi_packed *p = f->p;
    const syi_cpu *cpu = f->e->cpu;
    const int64_t first = part * SHARE, end = syi_min(p->out, first + SHARE);
    if (f->fast) cpu->gemv_packed(p, (int)f->m, first, end - first, f->in, f->y, p->out);
    for (int64_t r = first; !f->fast && r < end; r++) {
        float *w = f->decoded + thread * f->row, out[SYI_FEW];
        cpu->unpack(p, r, w);
        cpu->gemv_f32((int)f->m, 1, p->in, f->x, p->in, w, p->in, out, 1);
        for (int64_t i = 0; i < f->m; i++) f->y[i * p->out + r] = out[i];
    }
}

sy_status syi_packed_few(syi_engine *e, const void *self, int64_t m, const float *x, float *y)
{
    const syi_packed *p = self;
    const int threads = syi_omp(e->ctx);
    const int64_t room = syi_ceil_div(m * p->padded * 3, 64) * 64, row = syi_ceil_div(p->in, 16) * 16;
    char *work = syi_engine_work(e, SYI_WORK_PACKED, room + (2 * m * p->groups + threads * row) * (int64_t)sizeof(float));
    if (!work) return SY_E_MEMORY;
    syi_packed_in in = {.sums = (float *)(void *)(work + room)};
    in.unit = in.sums + m * p->groups;
    float *decoded = in.unit + m * p->groups;
    const bool fast = e->cpu->packed_in(p, (int)m, x, work, &in);
    few_job job = {e, p, &in, fast, m, row, x, decoded, y};
    syi_share(e, syi_ceil_div(p->out, SHARE), few_part, &job);
    return SY_OK;
}

/* -- any stored weight ---------------------------------------------------------------- */

enum { TILE_BYTES = 4 << 20 };

static sy_status few(syi_engine *e, int64_t m, sy_dtype dt, const void *x, const syi_stored *w, double beta, void *y)
{
    float *xf = syi_engine_work(e, SYI_WORK_DECODE, m * (w->in + w->out) * (int64_t)sizeof *xf);
    if (!xf) return SY_E_MEMORY;
    float *yf = xf + m * w->in;
    SYI_TRY(syi_cast(e, dt, x, SY_F32, xf, m * w->in));
    SYI_TRY(w->few(e, w->self, m, xf, yf));
    if (beta != 0) {
        if (dt == SY_F32) return syi_add_scaled(e, dt, yf, beta, y, y, m * w->out);
        float *old = syi_engine_work(e, SYI_WORK_C, m * w->out * (int64_t)sizeof *old);
        if (!old) return SY_E_MEMORY;
        SYI_TRY(syi_cast(e, dt, y, SY_F32, old, m * w->out));
        SYI_TRY(syi_add_scaled(e, SY_F32, yf, beta, old, yf, m * w->out));
    }
    return syi_cast(e, SY_F32, yf, dt, y, m * w->out);
}

/* Rows [first, first+count) of W in type `to`. */
static sy_status decode(syi_engine *e, const syi_stored *w, int64_t first, int64_t count, sy_dtype to, void *tile)
{
    const int threads = syi_omp(e->ctx);
    float *rows = syi_engine_work(e, SYI_WORK_PIECES, threads * w->in * (int64_t)sizeof *rows);
    if (!rows) return SY_E_MEMORY;
    sy_status status = SY_OK;
#pragma omp parallel for schedule(static) num_threads(threads) if (count * w->in > 16384)
    for (int64_t i = 0; i < count; i++) {
        float *row = to == SY_F32 ? (float *)tile + i * w->in : rows + syi_thread() * w->in;
        const sy_status s = w->rows(e, w->self, first + i, 1, row);
        if (s != SY_OK) {
#pragma omp atomic write
            status = s;
        } else if (to == SY_BF16) {
            e->cpu->to_bf16(row, (uint16_t *)tile + i * w->in, w->in);
        } else if (to == SY_F64) {
            for (int64_t j = 0; j < w->in; j++) ((double *)tile)[i * w->in + j] = row[j];
        }
    }
    return status;
}

sy_status syi_gemm_stored(syi_engine *e, int64_t m, sy_dtype dt, const void *x, const syi_stored *w, bool transposed, double beta, void *y)
{
    const int64_t n = w->out, k = w->in, z = sy_dtype_block_bytes(dt);
    if (m <= 0 || n <= 0 || k <= 0) return SY_OK;
    if (syi_type(dt) < 0) return syi_no_type(e, "product with a stored weight", dt);
    if (w->few && m <= SYI_FEW && !transposed && dt != SY_F64) return few(e, m, dt, x, w, beta, y);
    const int64_t rows = syi_min(n, syi_max(64, TILE_BYTES / (k * z) / 64 * 64));
    char *tile = syi_engine_work(e, SYI_WORK_DECODE, rows * k * z);
    if (!tile) return SY_E_MEMORY;
    for (int64_t first = 0; first < n; first += rows) {
        const int64_t count = syi_min(rows, n - first);
        SYI_TRY(decode(e, w, first, count, dt, tile));
        const syi_mat b = {dt, tile, k, !transposed};
        if (transposed)
            SYI_TRY(syi_gemm(e, m, k, count, 1, (syi_mat){dt, syi_at(x, first, z), n, false}, b, first == 0 ? beta : 1, dt, y, k));
        else
            SYI_TRY(syi_gemm(e, m, count, k, 1, (syi_mat){dt, x, k, false}, b, beta, dt, syi_to(y, first, z), n));
    }
    return SY_OK;
}
