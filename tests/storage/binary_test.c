/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of +-1 codes: look-up products agree with the dense matrix on every CPU path, for every
 * way of sharing alphas, ragged shapes and numbers of planes; the wide paths agree with the
 * plain one to rounding. */
#include "support/test.h"

#include "storage/weight.h"
#include "tensor/cpu.h"
#include "tensor/signs.h"

#include <math.h>

static sy_weight *make(sy_context *ctx, int64_t out, int64_t in, const syi_binary_shape *s, uint64_t seed)
{
    sy_weight *w;
    assert_int_equal(syi_weight_binary(ctx, out, in, s, &w), SY_OK);
    for (int64_t p = 0; p < syi_binary_patches(s, out, in); p++)
        for (int b = 0; b < s->bits; b++)
            assert_int_equal(syi_binary_alpha(ctx, w, p, b, 0.01f + (float)(syi_random_u64(seed, p * 8 + b) % 1000) / 3000), SY_OK);
    for (int b = 0; b < s->bits; b++)
        for (int64_t r = 0; r < out; r++)
            for (int64_t k = 0; k < in; k++) syi_binary_put(w, b, r, k, syi_random_u64(seed + 1, (b * out + r) * in + k) & 1);
    return w;
}

static const struct { int64_t out, in, rows, cols; bool shared; } shape[] = {
    {37, 200, 16, 8, true}, {64, 576, 16, 8, true}, {80, 137, 32, 8, true}, {19, 300, 1, 128, true}, {48, 64, 1, 64, true}, {33, 400, 1, 96, true},
    {7, 50, 1, 50, true}, {40, 256, 40, 8, true}, {70, 1000, 16, 24, true}, {35, 130, 128, 1, false}, {64, 61, 32, 1, false}, {24, 40, 24, 1, false},
};

/* y against sums over the dense matrix. What the tables round is 2^-16 of a span's largest sum
 * of four inputs. */
static void compare(sy_context *ctx, const sy_weight *w, int m, const float *x, const float *y, bool shared)
{
    const int64_t in = w->in;
    float *d = malloc((size_t)(w->out * in) * sizeof *d);
    assert_int_equal(w->type->dense(ctx, w, 0, w->out, d), SY_OK);
    for (int i = 0; i < m; i++)
        for (int64_t r = 0; r < w->out; r++) {
            double s = 0, size = 0;
            for (int64_t k = 0; k < in; k++) {
                s += (double)d[r * in + k] * (double)x[i * in + k];
                size += fabs((double)d[r * in + k] * (double)x[i * in + k]);
            }
            const double limit = (shared ? 1e-4 : 2e-6) * size + 1e-6;
            if (!(fabs(s - (double)y[i * w->out + r]) <= limit)) fail_msg("[%d x %d] row %d of %d: %g, expected %g", (int)w->out, (int)in, (int)r, m, (double)y[i * w->out + r], s);
        }
    free(d);
}

static void all_shapes(void **state)
{
    (void)state;
    static const char *const paths[] = {"plain", "avx2", "avx512", "avx512_bf16", "neon"};
    float *x = malloc(4 * 1000 * sizeof *x), *y = malloc(4 * 80 * sizeof *y), *plain = malloc(sizeof(float) * 320 * SYI_COUNT(shape) * 6);
    syi_normal(7, 0, 4000, x);
    for (int p = 0; p < SYI_COUNT(paths); p++) {
        if (!syi_cpu_find(paths[p])) continue;
        setenv("STEELYARD_CPU", paths[p], 1);
        for (int threads = 1; threads < 4; threads += 2) {
            sy_context *ctx = sy_context_new();
            syi_engine *e;
            assert_int_equal(sy_threads_set(ctx, threads), SY_OK);
            assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
            for (int i = 0; i < SYI_COUNT(shape); i++)
                for (int bits = 1; bits <= 6; bits++) {
                    const syi_binary_shape s = {.bits = bits, .rows = shape[i].rows, .cols = shape[i].cols};
                    sy_weight *w = make(ctx, shape[i].out, shape[i].in, &s, (uint64_t)(i * 10 + bits));
                    assert_int_equal(w->type->prepare(ctx, w), SY_OK);
                    const syi_signs *codes = w->fast; /* they come first in it */
                    assert_non_null(codes->code);
                    assert_int_equal(codes->shared, shape[i].shared);
                    for (int m = 1; m <= 4; m += 3) {
                        assert_int_equal(syi_signs_few(e, codes, m, x, y), SY_OK);
                        compare(ctx, w, m, x, y, shape[i].shared);
                    }
                    float *first = plain + 320 * (i * 6 + bits - 1);
                    const int64_t n = 4 * w->out;
                    if (p == 0 && threads == 1) memcpy(first, y, (size_t)n * sizeof *y);
                    for (int64_t k = 0; k < n; k++)
                        if (!(fabsf(first[k] - y[k]) <= 1e-5f * (fabsf(first[k]) + 3))) fail_msg("%s: %g, the plain path has %g", paths[p], (double)y[k], (double)first[k]);
                    syi_weight_free(ctx, w);
                }
            syi_engine_free(e);
            assert_int_equal(sy_memory_now(ctx), 0);
            sy_context_free(ctx);
        }
    }
    unsetenv("STEELYARD_CPU");
    free(x);
    free(y);
    free(plain);
}

/* A number that is not finite reaches the outputs that see it; zeros give zeros. */
static void not_finite(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    syi_engine *e;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    const syi_binary_shape s = {.bits = 3, .rows = 16, .cols = 8};
    sy_weight *w = make(ctx, 32, 256, &s, 3);
    assert_int_equal(w->type->prepare(ctx, w), SY_OK);
    float x[256] = {0}, y[32];
    assert_int_equal(syi_signs_few(e, w->fast, 1, x, y), SY_OK);
    for (int r = 0; r < 32; r++) assert_true(y[r] == 0);
    x[200] = NAN;
    assert_int_equal(syi_signs_few(e, w->fast, 1, x, y), SY_OK);
    for (int r = 0; r < 32; r++) assert_true(isnan(y[r]));
    x[200] = INFINITY;
    assert_int_equal(syi_signs_few(e, w->fast, 1, x, y), SY_OK);
    for (int r = 0; r < 32; r++) assert_false(isfinite(y[r]));
    syi_weight_free(ctx, w);
    syi_engine_free(e);
    sy_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_shapes), cmocka_unit_test(not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
