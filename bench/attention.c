/* SPDX-License-Identifier: Apache-2.0 */
/* Attention, decoding and head loss in GF/s: one JSON line a shape, best of many.
 * Causal work is counted half: forward 4, backward 10 operations a pair of tokens,
 * head dimension and head. Built with -DSY_BENCH=ON; usage:
 *   taskset -c 0,1 build/bench/bench.attention [threads [seconds a row [attention|cached|head]]] */
#include "tensor/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void *numbers(sy_dtype dt, int64_t n, uint64_t key)
{
    float *f = malloc((size_t)n * 4);
    syi_normal(key, 0, n, f);
    if (dt == SY_F32) return f;
    uint16_t *h = malloc((size_t)n * 2);
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, f + i, 4);
        h[i] = (uint16_t)(u >> 16);
    }
    free(f);
    return h;
}

static void die(sy_context *ctx, sy_status st)
{
    if (st == SY_OK) return;
    fprintf(stderr, "%s\n", sy_error_message(ctx));
    exit(1);
}

/* Best time of `call` within `budget` seconds, at least 3 calls. */
#define BEST(best, call) do { \
    double end_ = syi_now() + budget; \
    (best) = INFINITY; \
    for (int i_ = 0; i_ < 3 || syi_now() < end_; i_++) { \
        double t_ = syi_now(); \
        die(ctx, (call)); \
        t_ = syi_now() - t_; \
        if (t_ < (best)) (best) = t_; \
    } \
} while (0)

static void attention(sy_context *ctx, syi_engine *e, double budget, sy_dtype dt, int64_t docs, int64_t length, int64_t heads, int64_t kv, int64_t dim)
{
    const int64_t n = docs * length, nq = n * heads * dim, nk = n * kv * dim;
    int32_t *first = malloc((size_t)n * 4);
    double pairs = 0;
    for (int64_t t = 0; t < n; t++) first[t] = (int32_t)(t / length * length), pairs += (double)(t % length) + 0.5;
    void *q = numbers(dt, nq, 1), *k = numbers(dt, nk, 2), *v = numbers(dt, nk, 3), *dout = numbers(dt, nq, 4), *out = malloc((size_t)nq * 4);
    void *dq = malloc((size_t)nq * 4), *dk = malloc((size_t)nk * 4), *dv = malloc((size_t)nk * 4), *lse = malloc((size_t)(n * heads) * 4);
    const syi_attention a = {n, heads, kv, dim, 1 / sqrt((double)dim), first, 0, 0, NULL};
    const int64_t bf = syi_attention_scratch(e, dt, &a, false), bb = syi_attention_scratch(e, dt, &a, true);
    void *scratch = aligned_alloc(64, (size_t)(syi_max(bf, bb) + 63) / 64 * 64 + 64);
    double forward, backward;
    BEST(forward, syi_attention_forward(e, dt, &a, q, k, v, out, lse, scratch));
    BEST(backward, syi_attention_backward(e, dt, &a, q, k, v, out, lse, dout, false, dq, false, dk, false, dv, scratch));
    const double work = pairs * (double)(heads * dim) * 1e-9;
    printf("{\"bench\":\"attention\",\"dtype\":\"%s\",\"documents\":%lld,\"length\":%lld,\"heads\":%lld,\"kv_heads\":%lld,\"dim\":%lld,"
           "\"threads\":%d,\"forward_ms\":%.3f,\"forward_gflops\":%.1f,\"backward_ms\":%.3f,\"backward_gflops\":%.1f,"
           "\"forward_scratch\":%lld,\"backward_scratch\":%lld}\n",
           sy_dtype_name(dt), (long long)docs, (long long)length, (long long)heads, (long long)kv, (long long)dim, sy_threads(ctx),
           forward * 1e3, 4 * work / forward, backward * 1e3, 10 * work / backward, (long long)bf, (long long)bb);
    fflush(stdout);
    void *all[] = {first, q, k, v, dout, out, dq, dk, dv, lse, scratch};
    for (int i = 0; i < SYI_COUNT(all); i++) free(all[i]);
}

static void cached(sy_context *ctx, syi_engine *e, double budget, sy_dtype dt, int64_t n, int64_t past, int64_t heads, int64_t kv, int64_t dim)
{
    const int64_t capacity = past + n, item = sy_dtype_block_bytes(dt);
    void *q = numbers(dt, n * heads * dim, 1), *k = numbers(dt, capacity * kv * dim, 2), *v = numbers(dt, capacity * kv * dim, 3);
    void *out = malloc((size_t)(n * heads * dim) * 4);
    double best;
    const syi_attention shape = {.tokens = n, .heads = heads, .kv_heads = kv, .dim = dim, .scale = 1 / sqrt((double)dim)};
    BEST(best, syi_attention_cached(e, dt, &shape, past, capacity, q, k, v, out));
    printf("{\"bench\":\"attention_cached\",\"dtype\":\"%s\",\"new\":%lld,\"past\":%lld,\"heads\":%lld,\"kv_heads\":%lld,\"dim\":%lld,"
           "\"threads\":%d,\"us\":%.2f,\"gbytes_per_second\":%.1f,\"gflops\":%.1f}\n",
           sy_dtype_name(dt), (long long)n, (long long)past, (long long)heads, (long long)kv, (long long)dim, sy_threads(ctx), best * 1e6,
           (double)(2 * capacity * kv * dim * item) / best * 1e-9,
           4e-9 * (double)(n * heads * dim) * ((double)past + (double)n / 2) / best);
    fflush(stdout);
    free(q), free(k), free(v), free(out);
}

static void head(sy_context *ctx, syi_engine *e, double budget, sy_dtype dt, int64_t tokens, int64_t hidden, int64_t vocab, int grads)
{
    void *h = numbers(dt, tokens * hidden, 1), *w = numbers(dt, vocab * hidden, 2), *dh = malloc((size_t)(tokens * hidden) * 4);
    float *dw = calloc((size_t)(vocab * hidden), 4);
    int32_t *target = malloc((size_t)tokens * 4);
    for (int64_t t = 0; t < tokens; t++) target[t] = (int32_t)(t * 7919 % vocab);
    void *packed = NULL;
    if (dt == SY_BF16 && grads < 2 && syi_panels_bytes(e, vocab, hidden) > 0) { /* a frozen table, as models have it */
        packed = malloc((size_t)syi_panels_bytes(e, vocab, hidden));
        die(ctx, syi_panels_pack(e, vocab, hidden, w, packed));
    }
    const syi_head a = {.tokens = tokens, .hidden = hidden, .vocab = vocab, .target = target, .scale = 1, .panels = packed != NULL};
    void *scratch = aligned_alloc(64, (size_t)(syi_head_scratch(e, dt, &a, grads > 1) + 63) / 64 * 64);
    double best, loss;
    BEST(best, syi_head_loss(e, dt, &a, h, dt, packed ? packed : w, &loss, NULL, grads > 0 ? dh : NULL, grads > 1 ? dw : NULL, scratch));
    static const char *const what[] = {"loss", "loss and dh", "loss, dh and dw"};
    printf("{\"bench\":\"head\",\"dtype\":\"%s\",\"what\":\"%s\",\"tokens\":%lld,\"hidden\":%lld,\"vocab\":%lld,\"threads\":%d,\"ms\":%.2f,"
           "\"gflops\":%.1f,\"scratch\":%lld}\n",
           sy_dtype_name(dt), what[grads], (long long)tokens, (long long)hidden, (long long)vocab, sy_threads(ctx), best * 1e3,
           2e-9 * (double)(tokens * hidden) * (double)vocab * (grads + 1) / best, (long long)syi_head_scratch(e, dt, &a, grads > 1));
    fflush(stdout);
    free(h), free(w), free(dh), free(dw), free(target), free(scratch), free(packed);
}

int main(int argc, char **argv)
{
    sy_context *ctx = sy_context_new();
    syi_engine *e = NULL;
    if (!ctx) return 1;
    die(ctx, sy_threads_set(ctx, argc > 1 ? atoi(argv[1]) : 2));
    const double budget = argc > 2 ? atof(argv[2]) : 1;
    const char *only = argc > 3 ? argv[3] : "";
    die(ctx, syi_engine_new(ctx, &e));
    for (int i = 0; i < 2 && (!*only || strcmp(only, "attention") == 0); i++) {
        const sy_dtype dt = i ? SY_F32 : SY_BF16;
        attention(ctx, e, budget, dt, 4, 512, 9, 3, 64);
        attention(ctx, e, budget, dt, 8, 256, 9, 3, 64);
        attention(ctx, e, budget, dt, 1, 2048, 9, 3, 64);
        attention(ctx, e, budget, dt, 1, 512, 9, 3, 64);
        attention(ctx, e, budget, dt, 16, 100, 9, 3, 64);
        attention(ctx, e, budget, dt, 2, 512, 16, 8, 128);
        attention(ctx, e, budget, dt, 2, 512, 8, 8, 64);
    }
    for (int i = 0; i < 2 && (!*only || strcmp(only, "cached") == 0); i++) {
        const sy_dtype dt = i ? SY_F32 : SY_BF16;
        cached(ctx, e, budget / 4, dt, 1, 511, 9, 3, 64);
        cached(ctx, e, budget / 4, dt, 1, 32767, 9, 3, 64);
        cached(ctx, e, budget / 4, dt, 4, 8000, 9, 3, 64);
        cached(ctx, e, budget / 4, dt, 1, 8191, 32, 8, 128);
        cached(ctx, e, budget / 4, dt, 512, 0, 9, 3, 64);
        cached(ctx, e, budget / 4, dt, 512, 2048, 9, 3, 64);
    }
    for (int i = 0; i < 6 && (!*only || strcmp(only, "head") == 0); i++) head(ctx, e, budget, i < 3 ? SY_BF16 : SY_F32, 2048, 576, 49152, i % 3);
    syi_engine_free(e);
    sy_context_free(ctx);
    return 0;
}
