/* SPDX-License-Identifier: Apache-2.0 */
/* D2Quant's two parts alone: the dual-scale fit (each step a least-squares minimum, matrices of
 * its form recovered), input scales that vanish into the rows of another weight, and the
 * mean correction of a norm. */
#include "support/test.h"

#include "compressor/dsq.h"
#include "compressor/solve.h"

#include <math.h>

enum { M = 64, G = 128, ROUNDS = 15 };

/* A number with so few bits that products and sums of three of them are exact in f32. */
static double coarse(double v)
{
    int e;
    const double m = frexp(v, &e);
    return ldexp(rint(m * 64) / 64, e);
}

static void recovers(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    for (uint64_t seed = 0; seed < 10; seed++) {
        float x[M * G], noise[G];
        double r[M * 2], c[G], error[1 + 3 * ROUNDS], size = 0, far = 0;
        uint8_t code[M * G];
        syi_normal(seed + 50, 0, G, noise);
        for (int i = 0; i < M; i++)
            for (int j = 0; j < G; j++) {
                const double r1 = coarse(2 + (double)(syi_random_u64(seed, i) % 1000) / 1000), r2 = coarse(2 + (double)(syi_random_u64(seed + 9, i) % 1000) / 1000);
                const uint64_t signs = syi_random_u64(seed + 99, i * G + j);
                x[i * G + j] = (float)(coarse(exp(0.4 * (double)noise[j])) * ((signs & 1 ? r1 : -r1) + (signs & 2 ? r2 : -r2)));
                size += (double)x[i * G + j] * (double)x[i * G + j];
            }
        assert_int_equal(syi_dsq_fit(ctx, 2, ROUNDS, x, G, M, G, r, c, code, error), SY_OK);
        for (int k = 1; k < 1 + 3 * ROUNDS; k++) assert_true(error[k] <= error[k - 1] * (1 + 1e-6) + 1e-12 * size);
        assert_true(error[0] > 1e-2 * size);
        for (int i = 0; i < M; i++)
            for (int j = 0; j < G; j++) {
                const double v = c[j] * ((code[i * G + j] & 1 ? r[2 * i] : -r[2 * i]) + (code[i * G + j] & 2 ? r[2 * i + 1] : -r[2 * i + 1]));
                far += (v - (double)x[i * G + j]) * (v - (double)x[i * G + j]);
            }
        if (!(sqrt(far / size) < 1e-10)) fail_msg("seed %d: %g", (int)seed, sqrt(far / size));
    }
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

/* Residuals are orthogonal to what was just fitted. */
static void orthogonal(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    for (int bits = 2; bits <= 3; bits++) {
        float x[M * G];
        double r[M * 3], c[G], rest[M * G], norm = 0;
        uint8_t code[M * G];
        syi_normal(7, 0, M * G, x);
        syi_dsq_begin(bits, x, G, M, G, r, c, code);
        for (int step = 0; step < 2; step++) {
            if (step == 0) syi_dsq_rows(ctx, bits, x, G, M, G, r, c, code);
            else syi_dsq_columns(ctx, bits, x, G, M, G, r, c, code);
            for (int i = 0; i < M; i++)
                for (int j = 0; j < G; j++) {
                    double s = 0;
                    for (int b = 0; b < bits; b++) s += code[i * G + j] >> b & 1 ? r[i * bits + b] : -r[i * bits + b];
                    rest[i * G + j] = (double)x[i * G + j] - c[j] * s;
                    norm += rest[i * G + j] * rest[i * G + j];
                }
            for (int i = 0; step == 0 && i < M; i++)
                for (int b = 0; b < bits; b++) {
                    double dot = 0, a = 0, e = 0;
                    for (int j = 0; j < G; j++) {
                        const double v = c[j] * (code[i * G + j] >> b & 1 ? 1 : -1);
                        dot += rest[i * G + j] * v;
                        a += v * v;
                        e += rest[i * G + j] * rest[i * G + j];
                    }
                    assert_true(fabs(dot) < 1e-5 * sqrt(a * e));
                }
            for (int j = 0; step == 1 && j < G; j++) {
                double dot = 0, a = 0, e = 0;
                for (int i = 0; i < M; i++) {
                    double s = 0;
                    for (int b = 0; b < bits; b++) s += code[i * G + j] >> b & 1 ? r[i * bits + b] : -r[i * bits + b];
                    dot += rest[i * G + j] * s;
                    a += s * s;
                    e += rest[i * G + j] * rest[i * G + j];
                }
                assert_true(fabs(dot) < 1e-5 * sqrt(a * e));
            }
        }
        assert_true(norm > 0);
    }
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

/* down (c h) = (down diag(c)) h when the rows of up carry c: codes of up stay. */
static void absorbed(void **state)
{
    (void)state;
    enum { H = 64, F = 96, T = 7 };
    sy_context *ctx = sy_context_new();
    syi_engine *e;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    float up[F * H], gate[F * H], down[H * F], x[T * H], now[F * H], before[F * H];
    syi_normal(1, 0, F * H, up);
    syi_normal(2, 0, F * H, gate);
    syi_normal(3, 0, H * F, down);
    syi_normal(4, 0, T * H, x);
    sy_weight *w;
    const syi_grid grid = {.bits = 2, .group = 32};
    assert_int_equal(syi_grid_round(e, &grid, F, H, up, &w), SY_OK);
    assert_int_equal(w->type->dense(ctx, w, 0, F, before), SY_OK);
    double c[F];
    for (int j = 0; j < F; j++) c[j] = ldexp(1, (int)(syi_random_u64(5, j) % 5) - 2); /* f16 scales times these are exact */
    const int64_t bytes = sy_tensor_bytes(&w->slot[SYI_PACKED_CODES]), zeros = sy_tensor_bytes(&w->slot[SYI_PACKED_ZEROS]);
    uint8_t *codes = malloc((size_t)(bytes + zeros));
    memcpy(codes, w->slot[SYI_PACKED_CODES].data, (size_t)bytes);
    memcpy(codes + bytes, w->slot[SYI_PACKED_ZEROS].data, (size_t)zeros);
    assert_int_equal(syi_dsq_absorb(ctx, w, c), SY_OK);
    assert_memory_equal(codes, w->slot[SYI_PACKED_CODES].data, (size_t)bytes);
    assert_memory_equal(codes + bytes, w->slot[SYI_PACKED_ZEROS].data, (size_t)zeros);
    assert_int_equal(w->type->dense(ctx, w, 0, F, now), SY_OK);
    for (int t = 0; t < T; t++) {
        float h[2][F];
        for (int j = 0; j < F; j++) {
            float g = 0, a = 0, b = 0;
            for (int k = 0; k < H; k++) {
                g += gate[j * H + k] * x[t * H + k];
                a += before[j * H + k] * x[t * H + k];
                b += now[j * H + k] * x[t * H + k];
            }
            g = g / (1 + expf(-g));
            h[0][j] = g * a;
            h[1][j] = g * b;
        }
        for (int i = 0; i < H; i++) {
            float with = 0, without = 0, size = 0;
            for (int j = 0; j < F; j++) {
                with += down[i * F + j] * (float)c[j] * h[0][j];
                without += down[i * F + j] * h[1][j];
                size += fabsf(down[i * F + j] * h[1][j]);
            }
            assert_true(fabsf(with - without) <= 1e-5f * size);
        }
    }
    free(codes);
    syi_weight_free(ctx, w);
    syi_engine_free(e);
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

/* A student that is off by -0.2 and noise: the bias is 0.2, the mean deviation goes and takes mu^2
 * with it; channels are picked by their signal to noise. */
static void mean_correction(void **state)
{
    (void)state;
    enum { N = 12, T = 500 };
    sy_context *ctx = sy_context_new();
    double sum[2 * N] = {0}, after[N] = {0}, mse[2], before_mse = 0, mu2 = 0;
    float beta[N], *noise = malloc(N * T * sizeof *noise);
    syi_normal(3, 0, N * T, noise);
    for (int j = 0; j < N; j++) { /* noise without a mean, wider by the channel */
        double mean = 0;
        for (int t = 0; t < T; t++) mean += (double)noise[t * N + j] / T;
        for (int t = 0; t < T; t++) {
            const double d = 0.2 + (double)(j + 1) * 0.1 * ((double)noise[t * N + j] - mean);
            sum[j] += d;
            sum[N + j] += d * d;
            before_mse += d * d / (N * T);
        }
    }
    assert_int_equal(syi_dac_bias(ctx, DAC_ALL, 0, 1, 10, N, T, sum, beta, mse), SY_OK);
    for (int j = 0; j < N; j++) {
        assert_true(fabsf(beta[j] - 0.2f) < 1e-5f);
        after[j] = sum[j] / T - (double)beta[j];
        assert_true(fabs(after[j]) < 1e-6);
        mu2 += 0.04 / N;
    }
    assert_true(fabs(mse[0] - before_mse) < 1e-9 && fabs(mse[0] - mse[1] - mu2) < 1e-6);
    assert_int_equal(syi_dac_bias(ctx, DAC_ALL, 0, 0.5, 0.05, N, T, sum, beta, mse), SY_OK);
    assert_true(fabsf(beta[0] - 0.025f) < 1e-6f); /* clipped, then scaled */
    assert_int_equal(syi_dac_bias(ctx, DAC_TOP, 0.25, 1, 10, N, T, sum, beta, mse), SY_OK);
    for (int j = 0; j < N; j++) assert_true((beta[j] != 0) == (j < 3)); /* the least noise comes first */
    assert_int_equal(syi_dac_bias(ctx, DAC_SNR, 0.5, 1, 10, N, T, sum, beta, mse), SY_OK);
    assert_true(beta[2] != 0 && beta[4] == 0); /* snr 0.67 and 0.4 */
    assert_int_equal(syi_dac_bias(ctx, DAC_EXPLAIN, 0.5, 1, 10, N, T, sum, beta, mse), SY_OK);
    assert_true(beta[0] != 0 && beta[4] == 0); /* snr 2: 0.8 of the square; snr 0.4: 0.14 */
    free(noise);
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(recovers), cmocka_unit_test(orthogonal), cmocka_unit_test(absorbed), cmocka_unit_test(mean_correction)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
