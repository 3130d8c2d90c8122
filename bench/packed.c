/* SPDX-License-Identifier: Apache-2.0 */
/* Products for decoding, one core: y = x W^T of one row of x with a 4096 x 4096 weight in
 * f32 and packed in 2, 3, 4 and 8 bits. Median of many, taken in turn. */
#include "base/base.h"
#include "storage/weight.h"
#include "tensor/packed.h"

#include <stdlib.h>

enum { N = 4096, REPEAT = 31 };

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(void)
{
    sy_context *ctx = sy_context_new();
    syi_engine *e;
    sy_threads_set(ctx, 1);
    if (syi_engine_new(ctx, &e) != SY_OK) return 1;
    float *w = syi_pages(ctx, (size_t)N * N * 4), *x = syi_alloc(ctx, N * 4), *y = syi_alloc(ctx, N * 4);
    syi_normal(1, 0, (int64_t)N * N, w);
    syi_normal(2, 0, N, x);
    static const int bits[] = {0, 2, 3, 4, 8};
    sy_weight *p[5] = {NULL};
    uint8_t codes[N];
    for (int b = 1; b < 5; b++) {
        if (syi_weight_packed(ctx, N, N, bits[b], 128, false, &p[b]) != SY_OK) return 1;
        for (int64_t r = 0; r < N; r++) {
            for (int64_t k = 0; k < N; k++) codes[k] = (uint8_t)(syi_random_u64(3, r * N + k) >> (64 - bits[b]));
            syi_packed_put(p[b], r, codes);
        }
        if (p[b]->type->prepare(ctx, p[b]) != SY_OK) return 1;
    }
    double t[5][REPEAT];
    for (int i = 0; i < REPEAT; i++)
        for (int b = 0; b < 5; b++) {
            const double began = syi_now();
            if (b == 0) syi_gemm(e, 1, N, N, 1, (syi_mat){SY_F32, x, N, false}, (syi_mat){SY_F32, w, N, true}, 0, SY_F32, y, N);
            else syi_packed_few(e, p[b]->fast, 1, x, y);
            t[b][i] = syi_now() - began;
        }
    printf("{\"shape\": \"%dx%d\", \"cpu\": \"%s\", \"threads\": 1", N, N, syi_engine_cpu(e));
    for (int b = 0; b < 5; b++) {
        qsort(t[b], REPEAT, sizeof(double), by_value);
        if (b == 0) printf(", \"f32_ms\": %.3f", t[0][REPEAT / 2] * 1e3);
        else printf(", \"packed_%d_ms\": %.3f, \"ratio_%d\": %.2f", bits[b], t[b][REPEAT / 2] * 1e3, bits[b], t[0][REPEAT / 2] / t[b][REPEAT / 2]);
    }
    printf("}\n");
    for (int b = 1; b < 5; b++) syi_weight_free(ctx, p[b]);
    syi_pages_free(ctx, w);
    syi_free(ctx, x);
    syi_free(ctx, y);
    syi_engine_free(e);
    sy_context_free(ctx);
    return 0;
}
