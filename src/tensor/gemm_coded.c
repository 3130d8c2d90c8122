/* SPDX-License-Identifier: Apache-2.0 */
/* Products with a weight that is stored coded (GGUF blocks, F16, another float type). A few
 * rows of x (decoding a text) are multiplied straight with the blocks, whose numbers exist
 * only in registers; for more, rows are decoded a tile at a time into working memory that
 * stays in the cache, then multiplied as usual. */
#include "tensor/gemm.h"
#include "tensor/convert.h"
#include "tensor/pieces.h"

enum { TILE_BYTES = 2 << 20, FEW = 4, SHARE = 16 /* output columns of a part */ };

static int64_t row_bytes(sy_dtype t, int64_t k) { return k / sy_dtype_block_len(t) * sy_dtype_block_bytes(t); }

static const uint8_t *row_at(const syi_coded *w, int64_t k, int64_t row)
{
    return (const uint8_t *)w->data + (w->order ? w->order[row] : row) * row_bytes(w->dtype, k);
}

void syi_coded_row(const syi_engine *e, const syi_coded *w, int64_t k, int64_t row, sy_dtype to, void *dst)
{
    const syi_block_kernels *b = e->cpu->blocks(w->dtype);
    const uint8_t *from = row_at(w, k, row);
    if (to == SY_F32) {
        if (b) b->to_f32(from, k, dst);
        else syi_to_f32(w->dtype, from, dst, k);
    } else if (to == SY_BF16 && b) {
        b->to_bf16(from, k, dst);
    } else {
        float part[256]; /* whole blocks of every type */
        for (int64_t c = 0; c < k; c += 256) {
            const int64_t n = syi_min(256, k - c);
            syi_to_f32(w->dtype, from + row_bytes(w->dtype, c), part, n);
            if (to == SY_BF16) e->cpu->to_bf16(part, (uint16_t *)dst + c, n);
            else
                for (int64_t j = 0; j < n; j++) ((double *)dst)[c + j] = part[j];
        }
    }
}

static void put(const syi_engine *e, const float *from, int64_t n, double beta, sy_dtype yt, void *y)
{
    if (yt == SY_F32) {
        float *to = y;
        for (int64_t j = 0; j < n; j++) to[j] = beta == 0 ? from[j] : (float)beta * to[j] + from[j];
    } else {
        float sum[SHARE];
        if (beta != 0) {
            e->cpu->from_bf16(y, sum, n);
            for (int64_t j = 0; j < n; j++) sum[j] = (float)beta * sum[j] + from[j];
            from = sum;
        }
        e->cpu->to_bf16(from, y, n);
    }
}

typedef struct {
    const syi_engine *e;
    const syi_block_kernels *b;
    int64_t m, n, k;
    const syi_coded *w;
    const float *x;
    float *rows; /* [threads, k]: decoded, for types without a kernel */
    syi_digits digits;
    double beta;
    sy_dtype yt;
    void *y;
} few_job;

static void few_part(void *self, int64_t part, int thread)
{
    const few_job *f = self;
    const int64_t first = part * SHARE, count = syi_min(SHARE, f->n - first), pitch = row_bytes(f->w->dtype, f->k);
    float out[FEW][SHARE];
    if (f->b) {
        const int32_t *order = f->w->order ? f->w->order + first : NULL;
        const uint8_t *rows = (const uint8_t *)f->w->data + (order ? 0 : first * pitch);
        if (f->b->dots) f->b->dots((int)f->m, count, f->k, &f->digits, rows, pitch, order, out[0], SHARE);
        else f->b->gemv((int)f->m, count, f->k, f->x, f->k, rows, pitch, order, out[0], SHARE);
    } else {
        float *row = f->rows + thread * f->k;
        for (int64_t j = 0; j < count; j++) {
            syi_coded_row(f->e, f->w, f->k, first + j, SY_F32, row);
            f->e->cpu->gemv_f32((int)f->m, 1, f->k, f->x, f->k, row, f->k, &out[0][j], SHARE);
        }
    }
    for (int64_t i = 0; i < f->m; i++) put(f->e, out[i], count, f->beta, f->yt, syi_to(f->y, i * f->n + first, sy_dtype_block_bytes(f->yt)));
}

static sy_status few(syi_engine *e, int64_t m, int64_t n, int64_t k, sy_dtype dt, const void *x, const syi_coded *w, double beta, sy_dtype yt, void *y)
{
    const int threads = syi_omp(e->ctx);
    const syi_block_kernels *b = e->cpu->blocks(w->dtype);
    const bool dots = b && b->dots;
    float *xf = syi_engine_work(e, SYI_WORK_A, (m * k + threads * k) * (int64_t)sizeof *xf + (dots ? syi_digits_bytes(m, k) : 0));
    if (xf == NULL) return SY_E_MEMORY;
    SYI_TRY(syi_cast(e, dt, x, SY_F32, xf, m * k));
    float *rows = xf + m * k;
    few_job job = {.e = e, .b = b, .m = m, .n = n, .k = k, .w = w, .x = xf, .rows = rows, .beta = beta, .yt = yt, .y = y};
    if (dots) e->cpu->block_digits((int)m, k, xf, b->sums, rows + threads * k, &job.digits);
    syi_share(e, syi_ceil_div(n, SHARE), few_part, &job);
    return SY_OK;
}

sy_status syi_gemm_coded(syi_engine *e, int64_t m, int64_t n, int64_t k, sy_dtype dt, const void *x, const syi_coded *w, bool transposed,
                         double beta, sy_dtype yt, void *y)
{
    if (m <= 0 || n <= 0 || k <= 0) return SY_OK;
    if (k % sy_dtype_block_len(w->dtype) != 0)
        return syi_fail(e->ctx, SY_E_BUG, "product with %s: rows of %lld numbers are not whole blocks of %d", sy_dtype_name(w->dtype), (long long)k, sy_dtype_block_len(w->dtype));
    if (syi_type(dt) < 0) return syi_no_type(e, "product with a coded weight", dt);
    if (w->dtype == dt && !w->order) {
        syi_mat a = {dt, x, transposed ? n : k, false}, b = {dt, w->data, k, !transposed};
        return syi_gemm(e, m, transposed ? k : n, transposed ? n : k, 1, a, b, beta, yt, y, transposed ? k : n);
    }
    if (m <= FEW && !transposed && dt != SY_F64) return few(e, m, n, k, dt, x, w, beta, yt, y);
    const int64_t z = sy_dtype_block_bytes(dt), zy = sy_dtype_block_bytes(yt), rows = syi_min(n, syi_max(64, TILE_BYTES / (k * z) / 64 * 64));
    char *tile = syi_engine_work(e, SYI_WORK_DECODE, rows * k * z);
    if (tile == NULL) return SY_E_MEMORY;
    /* More than one tile adds up: not in 16 bits. */
    const bool wide = transposed && rows < n && yt == SY_BF16;
    float *sum = wide ? syi_engine_work(e, SYI_WORK_SUM, m * k * (int64_t)sizeof *sum) : y;
    if (sum == NULL) return SY_E_MEMORY;
    if (wide && beta != 0) SYI_TRY(syi_cast(e, yt, y, SY_F32, sum, m * k));
    for (int64_t first = 0; first < n; first += rows) {
        const int64_t count = syi_min(rows, n - first);
        SYI_CUT(e, count, 8, r, some,
            for (int64_t i = r; i < r + some; i++) syi_coded_row(e, w, k, first + i, dt, tile + i * k * z););
        syi_mat b = {dt, tile, k, !transposed};
        if (transposed)
            SYI_TRY(syi_gemm(e, m, k, count, 1, (syi_mat){dt, syi_at(x, first, z), n, false}, b, first == 0 ? beta : 1, wide ? SY_F32 : yt, sum, k));
        else
            SYI_TRY(syi_gemm(e, m, count, k, 1, (syi_mat){dt, x, k, false}, b, beta, yt, syi_to(y, first, zy), n));
    }
    if (wide) SYI_TRY(syi_cast(e, SY_F32, sum, yt, y, m * k));
    return SY_OK;
}
