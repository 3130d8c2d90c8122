/* SPDX-License-Identifier: Apache-2.0 */
/* Products with a weight that is stored coded (GGUF blocks, F16, another float type):
 * rows are decoded a tile at a time into working memory, then multiplied as usual. */
#include "tensor/gemm.h"
#include "tensor/pieces.h"

enum { TILE_BYTES = 4 << 20, FEW = 4 };

/* A few rows of x (decoding a text): each thread decodes one row of W into its cache
 * and multiplies it at once. */
static sy_status few(syi_engine *e, int64_t m, int64_t n, int64_t k, sy_dtype dt, const void *x, sy_dtype wt, const char *w, double beta, void *y)
{
    int threads = syi_omp(e->ctx);
    float *xf = syi_engine_work(e, SYI_WORK_DECODE, (m * k + threads * (k + 16)) * (int64_t)sizeof *xf);
    if (xf == NULL) return SY_E_MEMORY;
    SYI_TRY(syi_cast(e, dt, x, SY_F32, xf, m * k));
    float *rows = xf + m * k;
    int64_t bytes = k / sy_dtype_block_len(wt) * sy_dtype_block_bytes(wt), share = syi_max(1, syi_ceil_div(n, 4 * threads));
    sy_status status = SY_OK;
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (n * k > 16384)
    for (int64_t part = 0; part < syi_ceil_div(n, share); part++) {
        float *row = rows + syi_thread() * (k + 16), out[FEW];
        for (int64_t j = part * share; j < syi_min(n, (part + 1) * share); j++) {
            sy_status s = sy_to_f32(e->ctx, wt, w + j * bytes, row, k);
            if (s != SY_OK) {
#pragma omp atomic write
                status = s;
                break;
            }
            e->cpu->gemv_f32((int)m, 1, k, xf, k, row, k, out, 1);
            for (int64_t i = 0; i < m; i++) {
                if (dt == SY_F32) {
                    float *to = (float *)y + i * n + j;
                    *to = beta == 0 ? out[i] : (float)beta * *to + out[i];
                } else {
                    uint16_t *to = (uint16_t *)y + i * n + j;
                    *to = syi_to_bf16(beta == 0 ? out[i] : (float)beta * syi_from_bf16(*to) + out[i]);
                }
            }
        }
    }
    return status;
}

/* `count` rows of W from `first` in type `to`, in parallel. */
static sy_status decode(syi_engine *e, sy_dtype wt, const char *w, int64_t first, int64_t count, int64_t k, sy_dtype to, char *tile)
{
    int64_t bytes = k / sy_dtype_block_len(wt) * sy_dtype_block_bytes(wt), z = sy_dtype_block_bytes(to);
    int threads = syi_omp(e->ctx);
    float *rows = syi_engine_work(e, SYI_WORK_PIECES, threads * k * (int64_t)sizeof *rows);
    if (rows == NULL) return SY_E_MEMORY;
    sy_status status = SY_OK;
#pragma omp parallel for schedule(static) num_threads(threads) if (count * k > 16384)
    for (int64_t i = 0; i < count; i++) {
        float *row = to == SY_F32 ? (float *)(void *)(tile + i * k * z) : rows + syi_thread() * k;
        sy_status s = sy_to_f32(e->ctx, wt, w + (first + i) * bytes, row, k);
        if (s != SY_OK) {
#pragma omp atomic write
            status = s;
        } else if (to == SY_BF16) {
            e->cpu->to_bf16(row, (uint16_t *)(void *)(tile + i * k * z), k);
        } else if (to == SY_F64) {
            double *d = (double *)(void *)(tile + i * k * z);
            for (int64_t j = 0; j < k; j++) d[j] = row[j];
        }
    }
    return status;
}

sy_status syi_gemm_coded(syi_engine *e, int64_t m, int64_t n, int64_t k, sy_dtype dt, const void *x,
                         sy_dtype wt, const void *w, bool transposed, double beta, void *y)
{
    if (m <= 0 || n <= 0 || k <= 0) return SY_OK;
    if (k % sy_dtype_block_len(wt) != 0)
        return syi_fail(e->ctx, SY_E_BUG, "product with %s: rows of %lld numbers are not whole blocks of %d", sy_dtype_name(wt), (long long)k, sy_dtype_block_len(wt));
    if (syi_type(dt) < 0) return syi_no_type(e, "product with a coded weight", dt);
    if (wt == dt) {
        syi_mat a = {dt, x, transposed ? n : k, false}, b = {wt, w, k, !transposed};
        return syi_gemm(e, m, transposed ? k : n, transposed ? n : k, 1, a, b, beta, dt, y, transposed ? k : n);
    }
    if (m <= FEW && !transposed && dt != SY_F64) return few(e, m, n, k, dt, x, wt, w, beta, y);
    int64_t z = sy_dtype_block_bytes(dt), rows = syi_min(n, syi_max(64, TILE_BYTES / (k * z) / 64 * 64));
    char *tile = syi_engine_work(e, SYI_WORK_DECODE, rows * k * z);
    if (tile == NULL) return SY_E_MEMORY;
    for (int64_t first = 0; first < n; first += rows) {
        int64_t count = syi_min(rows, n - first);
        SYI_TRY(decode(e, wt, w, first, count, k, dt, tile));
        syi_mat b = {dt, tile, k, !transposed};
        if (transposed) {
            syi_mat a = {dt, syi_at(x, first, z), n, false};
            SYI_TRY(syi_gemm(e, m, k, count, 1, a, b, first == 0 ? beta : 1, dt, y, k));
        } else {
            syi_mat a = {dt, x, k, false};
            SYI_TRY(syi_gemm(e, m, count, k, 1, a, b, beta, dt, syi_to(y, first, z), n));
        }
    }
    return SY_OK;
}
