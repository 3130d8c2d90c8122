/* SPDX-License-Identifier: Apache-2.0 */
/* Rank-r gradients: C[r, n] = S^T X with a long common dimension (tokens) and few
 * rows (dA = dH^T x; dB^T = H^T dy). oneDNN reaches a third of its rate on these and
 * cuts the tokens by the number of threads, so the bits would depend on it. Here
 * tokens are cut into pieces of 256, columns into strips of 48; each pair is one
 * thread's work and the pieces are added in a fixed tree. */
#include "tensor/gemm.h"

enum { PIECE = 256 };

bool syi_outer_fits(int64_t m, int64_t n, int64_t k, syi_mat a, syi_mat b)
{
    return a.t && !b.t && k >= 64 && syi_min(m, n) <= SYI_OUTER_RANK && a.dtype == b.dtype;
}

sy_status syi_outer(syi_engine *e, int64_t m, int64_t n, int64_t k, double alpha, syi_mat a, syi_mat b, double beta,
                    sy_dtype ct, void *c, int64_t ldc)
{
    bool swapped = n < m; /* the small side is what S is */
    syi_mat s = swapped ? b : a, x = swapped ? a : b;
    int64_t r = swapped ? n : m, cols = swapped ? m : n;
    int64_t pieces = syi_ceil_div(k, PIECE), strips = syi_ceil_div(cols, SYI_OUTER_COLS);
    int64_t sums = r * SYI_OUTER_COLS; /* of one strip of one piece */
    float *part = syi_engine_work(e, SYI_WORK_OUTER, (pieces * strips * sums + k * r) * (int64_t)sizeof *part);
    if (part == NULL) return SY_E_MEMORY;
    uint32_t *packed = (uint32_t *)(void *)(part + pieces * strips * sums);
    const syi_cpu *cpu = e->cpu;
    bool f32 = s.dtype == SY_F32;
    int threads = syi_omp(e->ctx);
#pragma omp parallel num_threads(threads) if (r * cols * k > 65536)
    {
#pragma omp for schedule(static)
        for (int64_t p = 0; p < pieces; p++) {
            int64_t t = p * PIECE, count = syi_min(PIECE, k - t);
            if (f32) cpu->outer_pack_f32(count, r, (const float *)s.data + t * s.ld, s.ld, packed + t * r);
            else cpu->outer_pack_bf16(count, r, (const uint16_t *)s.data + t * s.ld, s.ld, packed + t * r);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < pieces * strips; i++) {
            int64_t t = i / strips * PIECE, count = syi_min(PIECE, k - t);
            int64_t first = i % strips * SYI_OUTER_COLS, width = syi_min(SYI_OUTER_COLS, cols - first);
            float *out = part + i * sums;
            if (f32) cpu->outer_f32(count, r, packed + t * r, (const float *)x.data + t * x.ld + first, x.ld, width, out);
            else cpu->outer_bf16(count, r, packed + t * r, (const uint16_t *)x.data + t * x.ld + first, x.ld, width, out);
        }
#pragma omp for schedule(static)
        for (int64_t q = 0; q < strips; q++) {
            float *sum = part + q * sums;
            for (int64_t step = 1; step < pieces; step *= 2)
                for (int64_t p = 0; p + step < pieces; p += 2 * step)
                    cpu->axpy[SYI_T_F32](1, sum + (p + step) * strips * sums, true, sum + p * strips * sums, sums);
            int64_t first = q * SYI_OUTER_COLS, width = syi_min(SYI_OUTER_COLS, cols - first);
            for (int64_t i = 0; i < r; i++) {
                for (int64_t j = 0; j < width; j++) {
                    int64_t at = swapped ? (first + j) * ldc + i : i * ldc + first + j;
                    float v = (float)alpha * sum[i * SYI_OUTER_COLS + j];
                    if (ct == SY_F32) {
                        float *y = (float *)c + at;
                        *y = beta == 0 ? v : (float)beta * *y + v;
                    } else {
                        uint16_t *y = (uint16_t *)c + at;
                        *y = syi_to_bf16(beta == 0 ? v : (float)beta * syi_from_bf16(*y) + v);
                    }
                }
            }
        }
    }
    return SY_OK;
}
