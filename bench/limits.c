/* SPDX-License-Identifier: Apache-2.0 */
/* What these cores can do at most, measured: bytes read from memory and operations of a
 * plain product of 2048 x 1536 x 576, a second. bench.limits [threads] prints JSON. */
#include "tensor/engine.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct { const uint64_t *x; int64_t words, parts; uint64_t sum[64]; } reading;

static void read_part(void *self, int64_t part, int thread)
{
    reading *r = self;
    const int64_t from = r->words * part / r->parts, to = r->words * (part + 1) / r->parts;
    uint64_t s[8] = {0};
    for (int64_t i = from; i + 8 <= to; i += 8)
        for (int k = 0; k < 8; k++) s[k] ^= r->x[i + k];
    r->sum[thread % 64] += s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7];
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static sy_status product(syi_engine *e, sy_dtype t, double *rate)
{
    enum { M = 2048, N = 1536, K = 576, TIMES = 20 };
    const int64_t z = sy_dtype_block_bytes(t);
    sy_context *ctx = syi_engine_context(e);
    char *a = syi_pages(ctx, (size_t)(M * K * z)), *b = syi_pages(ctx, (size_t)(K * N * z)), *c = syi_pages(ctx, (size_t)(M * N * z));
    *rate = 0;
    for (int i = 0; i < TIMES; i++) {
        const double begin = syi_now();
        SYI_TRY(syi_gemm(e, M, N, K, 1, (syi_mat){t, a, K, false}, (syi_mat){t, b, N, false}, 0, t, c, N));
        const double now = 2.0 * M * N * K / (syi_now() - begin);
        *rate = now > *rate ? now : *rate;
    }
    syi_pages_free(ctx, a);
    syi_pages_free(ctx, b);
    syi_pages_free(ctx, c);
    return SY_OK;
}

int main(int argc, char **argv)
{
    const int threads = argc > 1 ? atoi(argv[1]) : 2;
    const int64_t bytes = 512 << 20;
    sy_context *ctx = sy_context_new();
    syi_engine *e = NULL;
    double bf16, f32, read = 0, rates[10];
    if (!ctx || sy_threads_set(ctx, threads) != SY_OK || syi_engine_new(ctx, &e) != SY_OK) return 1;
    if (product(e, SY_BF16, &bf16) != SY_OK || product(e, SY_F32, &f32) != SY_OK) return 1;
    void *x = syi_pages(ctx, (size_t)bytes);
    if (!x) return 1;
    memset(x, 1, (size_t)bytes);
    reading r = {.x = x, .words = bytes / 8, .parts = 64};
    for (int i = 0; i < 10; i++) {
        const double begin = syi_now();
        syi_share(e, r.parts, read_part, &r);
        rates[i] = (double)bytes / (syi_now() - begin);
    }
    qsort(rates, 10, sizeof *rates, by_size); /* what neighbours leave changes: the middle */
    read = (rates[4] + rates[5]) / 2;
    int version[3];
    syi_product_version(version);
    printf("{\"threads\":%d,\"cpu\":\"%s\",\"onednn\":\"%d.%d.%d\",\"read\":%.4g,\"bf16\":%.4g,\"f32\":%.4g}\n", threads, syi_engine_cpu(e),
           version[0], version[1], version[2], read, bf16, f32);
    return 0;
}
