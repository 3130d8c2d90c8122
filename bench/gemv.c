/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of coded weights times one vector, one thread and the team, against what reading
 * the same bytes takes: bench.gemv [threads]. */
#include "tensor/cpu.h"
#include "tensor/engine.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    sy_context *ctx = NULL;
    syi_engine *e = NULL;
    const int threads = argc > 1 ? atoi(argv[1]) : 2;
    const int64_t k = 576, rows = 200 * 1024;
    ctx = sy_context_new();
    if (!ctx || sy_threads_set(ctx, threads) != SY_OK) return 1;
    if (syi_engine_new(ctx, &e) != SY_OK) return 1;
    float *x = malloc((size_t)k * 4), *out = malloc((size_t)rows * 4);
    syi_normal(1, 0, k, x);
    syi_digits digits = {0};
    void *room = aligned_alloc(64, (size_t)syi_digits_bytes(1, k)); /* as the engine's memory is */
    const sy_dtype types[] = {SY_Q4_0, SY_Q4_1, SY_Q5_0, SY_Q5_1, SY_Q8_0, SY_BF16, SY_F32};
    for (int t = 0; t < SYI_COUNT(types); t++) {
        const int64_t pitch = k / sy_dtype_block_len(types[t]) * sy_dtype_block_bytes(types[t]), bytes = rows * pitch;
        uint8_t *w = syi_pages(ctx, (size_t)bytes);
        memset(w, 0x11, (size_t)bytes);
        const syi_block_kernels *b = e->cpu->blocks(types[t]);
        if (b && b->dots) e->cpu->block_digits(1, k, x, b->sums, room, &digits);
        for (int small = 1; small >= 0; small--) {
            double best = 1e9;
            const int64_t use = small ? 512 : rows, times = small ? 200 : 1;
            for (int rep = 0; rep < 5; rep++) {
                double begin = syi_now();
                for (int64_t again = 0; again < times; again++) {
#pragma omp parallel for num_threads(threads) schedule(static)
                    for (int64_t r = 0; r < use; r += 64) {
                        if (types[t] == SY_F32) e->cpu->gemv_f32(1, 64, k, x, k, (const float *)(void *)w + r * k, k, out + r, 64);
                        else if (types[t] == SY_BF16) e->cpu->gemv_bf16(1, 64, k, x, k, (const uint16_t *)(void *)w + r * k, k, out + r, 64);
                        else if (b->dots) b->dots(1, 64, k, &digits, w + r * pitch, pitch, NULL, out + r, 64);
                        else b->gemv(1, 64, k, x, k, w + r * pitch, pitch, NULL, out + r, 64);
                    }
                }
                double s = syi_now() - begin;
                best = s < best ? s : best;
            }
            printf("%s %s: %.1f GB/s, %.2f weights/ns a thread; ", sy_dtype_name(types[t]), small ? "in cache" : "in memory", (double)(use * pitch * times) / best * 1e-9,
                   (double)(use * k * times) / best * 1e-9 / threads);
        }
        printf("\n");
        syi_pages_free(ctx, w);
    }
    return 0;
}
