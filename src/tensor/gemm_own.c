/* SPDX-License-Identifier: Apache-2.0 */
/* Products where oneDNN has none whose bits are independent of the threads (its
 * general products on processors before AVX-512 cut the inner dimension among them):
 * tiles of 64 x 48 by the outer-product kernels of the CPU table, f32 inside, any mix
 * of F32 and BF16. */
#include "tensor/gemm.h"
#include "tensor/pieces.h"

enum { TM = SYI_OUTER_RANK, TN = SYI_OUTER_COLS, TK = 256 };

/* to[j][i] = op(x)[first + j or i]: `rows` of the inner dimension from p, `cols` of the
 * outer one from q, as f32 with `ld` numbers a row. inner: which index of the stored
 * matrix the inner dimension is. */
static void panel(const syi_cpu *cpu, const syi_mat *x, bool inner_is_row, int64_t p, int64_t rows, int64_t q, int64_t cols, float *to, int64_t ld)
{
    if (inner_is_row) {
        for (int64_t i = 0; i < rows; i++) {
            int64_t at = (p + i) * x->ld + q;
            if (x->dtype == SY_F32) memcpy(to + i * ld, (const float *)x->data + at, (size_t)cols * sizeof *to);
            else cpu->from_bf16((const uint16_t *)x->data + at, to + i * ld, cols);
        }
        return;
    }
    for (int64_t j = 0; j < cols; j++) {
        int64_t at = (q + j) * x->ld + p;
        if (x->dtype == SY_F32)
            for (int64_t i = 0; i < rows; i++) to[i * ld + j] = ((const float *)x->data)[at + i];
        else
            for (int64_t i = 0; i < rows; i++) to[i * ld + j] = syi_from_bf16(((const uint16_t *)x->data)[at + i]);
    }
}

sy_status syi_product_own(syi_engine *e, int64_t m, int64_t n, int64_t k, double alpha, syi_mat a, syi_mat b, double beta,
                          sy_dtype ct, void *c, int64_t ldc)
{
    const syi_cpu *cpu = e->cpu;
    int64_t across = syi_ceil_div(n, TN), tiles = syi_ceil_div(m, TM) * across;
    enum { SPACE = TK * TM * 2 + TK * TN + 2 * TM * TN }; /* numbers a thread needs */
    int threads = (int)syi_min(syi_omp(e->ctx), tiles);
    float *space = syi_engine_work(e, SYI_WORK_OUTER, threads * (int64_t)SPACE * (int64_t)sizeof *space);
    if (space == NULL) return SY_E_MEMORY;
#pragma omp parallel for schedule(static) num_threads(threads) if (m * n * k > 32768)
    for (int64_t tile = 0; tile < tiles; tile++) {
        float *left = space + syi_thread() * (int64_t)SPACE, *right = left + TK * TM, *part = right + TK * TN, *sum = part + TM * TN;
        uint32_t *packed = (uint32_t *)(void *)(sum + TM * TN);
        int64_t i0 = tile / across * TM, j0 = tile % across * TN, rows = syi_min(TM, m - i0), cols = syi_min(TN, n - j0);
        for (int64_t p = 0; p < k; p += TK) {
            int64_t some = syi_min(TK, k - p);
            panel(cpu, &a, a.t, p, some, i0, rows, left, rows);
            panel(cpu, &b, !b.t, p, some, j0, cols, right, TN);
            cpu->outer_pack_f32(some, rows, left, rows, packed);
            cpu->outer_f32(some, rows, packed, right, TN, cols, p == 0 ? sum : part);
            if (p > 0) cpu->axpy[SYI_T_F32](1, part, true, sum, rows * TN);
        }
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < cols; j++) {
                int64_t at = (i0 + i) * ldc + j0 + j;
                float v = (float)alpha * sum[i * TN + j];
                if (ct == SY_F32) {
                    float *y = (float *)c + at;
                    *y = beta == 0 ? v : (float)beta * *y + v;
                } else {
                    uint16_t *y = (uint16_t *)c + at;
                    *y = syi_to_bf16(beta == 0 ? v : (float)beta * syi_from_bf16(*y) + v);
                }
            }
    }
    return SY_OK;
}
