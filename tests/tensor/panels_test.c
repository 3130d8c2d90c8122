/* SPDX-License-Identifier: Apache-2.0 */
/* Packed and block-coded weights: the same products as row-major ones, both
 * directions, added or not, any number of rows; equal bits for any threads. */
#include "support/test.h"

#include "tensor/kernels.h"

#include <math.h>

static uint16_t to_bf16(float x)
{
    union { float f; uint32_t u; } v = {x};
    return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}

static double number(sy_dtype t, const void *p, int64_t i)
{
    union { uint32_t u; float f; } v;
    if (t == SY_F64) return ((const double *)p)[i];
    if (t == SY_F32) return (double)((const float *)p)[i];
    v.u = (uint32_t)((const uint16_t *)p)[i] << 16;
    return (double)v.f;
}

static void *fill(sy_dtype t, int64_t n, uint64_t key)
{
    float *x = malloc((size_t)n * 4);
    void *p = malloc((size_t)n * 8);
    syi_normal(key, 0, n, x);
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = to_bf16(x[i]);
        if (t == SY_BF16) ((uint16_t *)p)[i] = h;
        else if (t == SY_F32) ((float *)p)[i] = (float)number(SY_BF16, &h, 0);
        else ((double *)p)[i] = number(SY_BF16, &h, 0);
    }
    free(x);
    return p;
}

/* y against x W^T or x W in f64; size: root of the sum of squares of what is added. */
static void check(const char *what, int64_t m, int64_t n, int64_t k, bool transposed, sy_dtype dt, const void *x, const float *w, double beta,
                  sy_dtype yt, const void *y0, const void *y)
{
    int64_t out = transposed ? k : n, in = transposed ? n : k;
    double tol = yt == SY_F64 ? 1e-12 : yt == SY_F32 ? 4e-6 : 6e-3;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < out; j++) {
            double sum = 0, size = 0;
            for (int64_t p = 0; p < in; p++) {
                double v = number(dt, x, i * in + p) * (double)(transposed ? w[p * k + j] : w[j * k + p]);
                sum += v, size += v * v;
            }
            double expected = sum + beta * number(yt, y0, i * out + j), got = number(yt, y, i * out + j);
            if (!(fabs(got - expected) <= tol * (sqrt(size) + fabs(expected)) + 1e-6))
                fail_msg("%s %lldx%lldx%lld %s %s -> %s beta %g at %lld,%lld: %g, expected %g", what, (long long)m, (long long)n, (long long)k,
                         transposed ? "x W" : "x W^T", sy_dtype_name(dt), sy_dtype_name(yt), beta, (long long)i, (long long)j, got, expected);
        }
}

static void packed(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    syi_engine *e = NULL;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    static const int shapes[][2] = {{64, 16}, {192, 64}, {64, 144}, {320, 208}, {4224, 32}};
    static const int ms[] = {1, 2, 3, 4, 5, 33, 128};
    static const sy_dtype types[][2] = {{SY_BF16, SY_BF16}, {SY_BF16, SY_F32}, {SY_F32, SY_F32}, {SY_F64, SY_F64}};
    for (int q = 0; q < SYI_COUNT(shapes); q++) {
        int64_t n = shapes[q][0], k = shapes[q][1];
        uint16_t *w = fill(SY_BF16, n * k, 3), *p = malloc((size_t)(n * k) * 2), *back = malloc((size_t)(n * k) * 2);
        float *wf = malloc((size_t)(n * k) * 4);
        for (int64_t i = 0; i < n * k; i++) wf[i] = (float)number(SY_BF16, w, i);
        int64_t bytes = syi_panels_bytes(e, n, k);
        assert_true(bytes == 0 || bytes == n * k * 2);
        assert_int_equal(syi_panels_pack(e, n, k, w, p), SY_OK);
        assert_int_equal(syi_panels_unpack(e, n, k, p, 0, n, SY_BF16, back), SY_OK);
        assert_memory_equal(w, back, (size_t)(n * k) * 2);
        float *some = malloc((size_t)k * 3 * 4);
        assert_int_equal(syi_panels_unpack(e, n, k, p, 7, 3, SY_F32, some), SY_OK);
        assert_memory_equal(some, wf + 7 * k, (size_t)k * 3 * 4);
        assert_int_equal(syi_panels_unpack(e, n, k, p, n - 1, 2, SY_F32, some), SY_E_BUG);
        const int32_t ids[3] = {(int32_t)n - 1, 0, 5}, out_of_range = (int32_t)n;
        uint16_t *rows16 = malloc((size_t)k * 3 * 2);
        assert_int_equal(syi_embed_panels(e, p, n, ids, SY_F32, some, 3, k), SY_OK);
        assert_int_equal(syi_embed_panels(e, p, n, ids, SY_BF16, rows16, 3, k), SY_OK);
        for (int i = 0; i < 3; i++) {
            assert_memory_equal(some + i * k, wf + ids[i] * k, (size_t)k * 4);
            assert_memory_equal(rows16 + i * k, w + ids[i] * k, (size_t)k * 2);
        }
        assert_int_equal(syi_embed_panels(e, p, n, &out_of_range, SY_F32, some, 1, k), SY_E_BUG);
        free(some), free(rows16);
        for (int i = 0; i < SYI_COUNT(ms); i++)
            for (int t = 0; t < SYI_COUNT(types); t++)
                for (int v = 0; v < 4; v++) {
                    bool transposed = v & 1;
                    double beta = v >> 1;
                    int64_t m = ms[i], in = transposed ? n : k, out = transposed ? k : n;
                    sy_dtype dt = types[t][0], yt = types[t][1];
                    void *x = fill(dt, m * in, 1), *y0 = fill(yt, m * out, 2), *y = NULL;
                    uint64_t bits = 0;
                    for (int threads = 1; threads <= 4; threads++) {
                        free(y), y = fill(yt, m * out, 2);
                        assert_int_equal(sy_threads_set(ctx, threads), SY_OK);
                        sy_status s = syi_gemm_panels(e, m, n, k, dt, x, p, transposed, beta, yt, y);
                        if (s != SY_OK) fail_msg("%s", sy_error_message(ctx));
                        uint64_t h = syi_hash64(y, (size_t)(m * out * sy_dtype_block_bytes(yt)), 0);
                        if (threads == 1) bits = h;
                        if (h != bits) fail_msg("packed %lldx%lldx%lld: other bits with %d threads", (long long)m, (long long)n, (long long)k, threads);
                    }
                    check("packed", m, n, k, transposed, dt, x, wf, beta, yt, y0, y);
                    free(x), free(y), free(y0);
                }
        free(w), free(p), free(back), free(wf);
    }
    assert_int_equal(syi_panels_bytes(e, 63, 16), 0);
    assert_int_equal(syi_panels_bytes(e, 64, 15), 0);
    assert_int_equal(syi_panels_pack(e, 63, 16, NULL, NULL), SY_E_BUG);
    syi_engine_free(e);
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

static void coded(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    syi_engine *e = NULL;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    static const sy_dtype codes[] = {SY_F32, SY_BF16, SY_F16, SY_Q8_0};
    static const int ms[] = {1, 4, 5, 40};
    static const sy_dtype types[] = {SY_BF16, SY_F32, SY_F64};
    enum { NN = 70, K = 96 };
    float *wf = fill(SY_F32, NN * K, 3);
    for (int q = 0; q < SYI_COUNT(codes); q++) {
        /* What the code holds is what the product must use. */
        char *w = malloc(NN * K * 4);
        float *held = malloc(NN * K * 4);
        assert_int_equal(sy_from_f32(ctx, codes[q], wf, w, NN * K), SY_OK);
        assert_int_equal(sy_to_f32(ctx, codes[q], w, held, NN * K), SY_OK);
        for (int i = 0; i < SYI_COUNT(ms); i++)
            for (int t = 0; t < SYI_COUNT(types); t++)
                for (int v = 0; v < 4; v++) {
                    bool transposed = v & 1;
                    double beta = v >> 1;
                    int64_t m = ms[i], in = transposed ? NN : K, out = transposed ? K : NN;
                    sy_dtype dt = types[t];
                    if ((codes[q] == SY_F32 || codes[q] == SY_BF16) && dt == SY_F64) continue; /* dense types beside f64 */
                    void *x = fill(dt, m * in, 1), *y0 = fill(dt, m * out, 2), *y = NULL;
                    uint64_t bits = 0;
                    for (int threads = 1; threads <= 4; threads++) {
                        free(y), y = fill(dt, m * out, 2);
                        assert_int_equal(sy_threads_set(ctx, threads), SY_OK);
                        sy_status s = syi_gemm_coded(e, m, NN, K, dt, x, &(syi_coded){codes[q], w, NULL}, transposed, beta, dt, y);
                        if (s != SY_OK) fail_msg("%s", sy_error_message(ctx));
                        uint64_t h = syi_hash64(y, (size_t)(m * out * sy_dtype_block_bytes(dt)), 0);
                        if (threads == 1) bits = h;
                        if (h != bits) fail_msg("coded: other bits with %d threads", threads);
                    }
                    /* bf16 products round the decoded weight too */
                    float *used = malloc(NN * K * 4);
                    for (int64_t j = 0; j < NN * K; j++) {
                        uint16_t h = to_bf16(held[j]);
                        used[j] = dt == SY_BF16 && (m > 4 || transposed) ? (float)number(SY_BF16, &h, 0) : held[j];
                    }
                    check(sy_dtype_name(codes[q]), m, NN, K, transposed, dt, x, used, beta, dt, y0, y);
                    free(used), free(x), free(y), free(y0);
                }
        free(w), free(held);
    }
    free(wf);
    float x[33] = {0}, y[4];
    assert_int_equal(syi_gemm_coded(e, 1, 2, 33, SY_F32, x, &(syi_coded){SY_Q8_0, x, NULL}, false, 0, SY_F32, y), SY_E_BUG);
    assert_non_null(strstr(sy_error_message(ctx), "Q8_0"));
    syi_engine_free(e);
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(packed), cmocka_unit_test(coded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
