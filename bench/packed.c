/* SPDX-License-Identifier: Apache-2.0 */
/* Products for decoding, one core: y = x W^T of one row of x with a 4096 x 4096 weight in f32, packed in 2, 3, 4 and
 * 8 bits, and as sums of +-1 codes with the three ways of sharing alphas. Median of many, taken in turn. */
#include "base/base.h"
#include "storage/weight.h"
#include "tensor/packed.h"
#include "tensor/signs.h"

#include <stdlib.h>

enum { N = 4096, REPEAT = 31 };

/* bits 0: f32; rows > 0: +-1 codes with patches of rows x cols. */
static const struct { const char *name; int bits; int64_t rows, cols; } work[] = {
    {"f32", 0, 0, 0}, {"packed_2", 2, 0, 0}, {"packed_3", 3, 0, 0}, {"packed_4", 4, 0, 0}, {"packed_8", 8, 0, 0},
    {"signs_2_lat", 2, 16, 8}, {"signs_3_lat", 3, 16, 8}, {"signs_3_rows", 3, 1, 128}, {"signs_3_acc", 3, 128, 1}, {"signs_4_lat", 4, 16, 8},
};

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static sy_status make(sy_context *ctx, int i, sy_weight **w)
{
    const int bits = work[i].bits;
    uint8_t codes[N];
    if (work[i].rows > 0) {
        const syi_binary_shape shape = {.bits = bits, .terms = 0, .rows = work[i].rows, .cols = work[i].cols};
        SYI_TRY(syi_weight_binary(ctx, N, N, &shape, w));
        for (int64_t p = 0; p < syi_binary_patches(&shape, N, N); p++)
            for (int b = 0; b < bits; b++) SYI_TRY(syi_binary_alpha(ctx, *w, p, b, 0.5f + (float)(syi_random_u64(4, p * bits + b) % 100) * 0.01f));
        for (int b = 0; b < bits; b++)
            for (int64_t r = 0; r < N; r++)
                for (int64_t k = 0; k < N; k++) syi_binary_put(*w, b, r, k, syi_random_u64(3, (b * N + r) * (N / 64) + k / 64) >> (k % 64) & 1);
    } else {
        SYI_TRY(syi_weight_packed(ctx, N, N, bits, 128, false, w));
        for (int64_t r = 0; r < N; r++) {
            for (int64_t k = 0; k < N; k++) codes[k] = (uint8_t)(syi_random_u64(3, r * N + k) >> (64 - bits));
            syi_packed_put(*w, r, codes);
        }
    }
    return (*w)->type->prepare(ctx, *w);
}

int main(void)
{
    enum { ROWS = SYI_COUNT(work) };
    sy_context *ctx = sy_context_new();
    syi_engine *e;
    sy_threads_set(ctx, 1);
    if (syi_engine_new(ctx, &e) != SY_OK) return 1;
    float *w = syi_pages(ctx, (size_t)N * N * 4), *x = syi_alloc(ctx, N * 4), *y = syi_alloc(ctx, N * 4);
    syi_normal(1, 0, (int64_t)N * N, w);
    syi_normal(2, 0, N, x);
    sy_weight *p[ROWS] = {NULL};
    for (int i = 1; i < ROWS; i++)
        if (make(ctx, i, &p[i]) != SY_OK) return 1;
    double t[ROWS][REPEAT];
    for (int k = 0; k < REPEAT; k++)
        for (int i = 0; i < ROWS; i++) {
            const double began = syi_now();
            if (i == 0) (void)syi_gemm(e, 1, N, N, 1, (syi_mat){SY_F32, x, N, false}, (syi_mat){SY_F32, w, N, true}, 0, SY_F32, y, N);
            else if (work[i].rows == 0) (void)syi_packed_few(e, p[i]->fast, 1, x, y); /* the lanes come first in it */
            else (void)syi_signs_few(e, p[i]->fast, 1, x, y);
            t[i][k] = syi_now() - began;
        }
    printf("{\"shape\": \"%dx%d\", \"cpu\": \"%s\", \"threads\": 1", N, N, syi_engine_cpu(e));
    for (int i = 0; i < ROWS; i++) {
        qsort(t[i], REPEAT, sizeof(double), by_value);
        printf(", \"%s_ms\": %.3f", work[i].name, t[i][REPEAT / 2] * 1e3);
        if (i > 0) printf(", \"%s_ratio\": %.2f", work[i].name, t[0][REPEAT / 2] / t[i][REPEAT / 2]);
    }
    printf("}\n");
    for (int i = 1; i < ROWS; i++) syi_weight_free(ctx, p[i]);
    syi_pages_free(ctx, w);
    syi_free(ctx, x);
    syi_free(ctx, y);
    syi_engine_free(e);
    sy_context_free(ctx);
    return 0;
}
