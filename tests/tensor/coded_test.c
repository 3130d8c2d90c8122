/* SPDX-License-Identifier: Apache-2.0 */
/* Weights in GGUF blocks: every kernel of every CPU path against block_decode.c's numbers
 * and sums in f64, products in every direction and type, the head's loss on a coded head. */
#include "support/test.h"

#include "tensor/convert.h"
#include "tensor/cpu.h"
#include "tensor/engine.h"

#include <math.h>

enum { ROWS = 37, K = 768, SHORT = 96, MOST = 5 };
static const char *const paths[] = {"plain", "neon", "avx2", "avx512", "avx512_bf16"};
static const sy_dtype types[] = {SY_Q4_0, SY_Q4_1, SY_Q5_0, SY_Q5_1, SY_Q8_0, SY_Q4_K, SY_Q5_K, SY_Q6_K, SY_Q2_K, SY_IQ4_NL, SY_F16};

/* Random bytes are blocks once their f16 units are numbers of usual size. */
static uint8_t *blocks(sy_dtype t, int64_t n, uint64_t key)
{
    const int64_t bytes = n / sy_dtype_block_len(t) * sy_dtype_block_bytes(t);
    uint8_t *w = malloc((size_t)bytes + 16384); /* kernels may ask for what lies behind */
    float *u = malloc((size_t)bytes * sizeof *u);
    syi_uniform(key, 0, bytes, u);
    for (int64_t i = 0; i < bytes; i++) w[i] = (uint8_t)(u[i] * 256);
    const int size = sy_dtype_block_bytes(t);
    for (int64_t b = 0; b < bytes / size; b++) {
        uint8_t *s = w + b * size;
        const int unit = t == SY_Q6_K ? 208 : t == SY_Q2_K ? 80 : 0, units = t == SY_Q4_1 || t == SY_Q5_1 || t == SY_Q4_K || t == SY_Q5_K || t == SY_Q2_K ? 2 : 1;
        for (int i = 0; i < units; i++) s[unit + 2 * i + 1] = (uint8_t)((s[unit + 2 * i + 1] & 0x83) | 0x20); /* 2^-7 .. 2^-6, either sign */
    }
    free(u);
    return w;
}

static float *decoded(sy_dtype t, const uint8_t *w)
{
    float *f = malloc(sizeof *f * ROWS * K);
    syi_to_f32(t, w, f, ROWS * K);
    return f;
}

static void kernels(void **state)
{
    (void)state;
    int32_t order[ROWS];
    for (int i = 0; i < ROWS; i++) order[i] = (i * 11 + 5) % ROWS;
    float *x = malloc(sizeof *x * 4 * K);
    syi_normal(3, 0, 4 * K, x);
    for (int p = 0; p < SYI_COUNT(paths); p++) {
        const syi_cpu *c = syi_cpu_find(paths[p]);
        for (int q = 0; c && q < SYI_COUNT(types); q++) {
            const syi_block_kernels *b = c->blocks(types[q]);
            if (!b) continue;
            uint8_t *w = blocks(types[q], ROWS * K, 7 + (uint64_t)q);
            float *f = decoded(types[q], w), row[K], out[4][ROWS];
            uint16_t half[K], expected[K];
            const int64_t pitch = K / sy_dtype_block_len(types[q]) * sy_dtype_block_bytes(types[q]);
            for (int r = 0; r < ROWS; r++) {
                b->to_f32(w + r * pitch, K, row);
                for (int i = 0; i < K; i++)
                    if (row[i] != f[r * K + i]) fail_msg("%s, %s: number %d of row %d is %.9g, expected %.9g", c->name, sy_dtype_name(types[q]), i, r, row[i], f[r * K + i]);
                b->to_bf16(w + r * pitch, K, half);
                c->to_bf16(f + r * K, expected, K);
                for (int i = 0; i < K; i++) assert_true(half[i] == expected[i] || ((half[i] | expected[i]) & 0x7fff) == 0); /* zeros may differ in sign */
            }
            for (int m = 1; m <= 4; m++)
                for (int ordered = 0; ordered < 2; ordered++) {
                    b->gemv(m, ROWS, K, x, K, w, pitch, ordered ? order : NULL, out[0], ROWS);
                    for (int i = 0; i < m; i++)
                        for (int r = 0; r < ROWS; r++) {
                            const float *wr = f + (ordered ? order[r] : r) * K;
                            double sum = 0, size = 0;
                            for (int k = 0; k < K; k++) sum += (double)wr[k] * x[i * K + k], size += fabs((double)wr[k] * x[i * K + k]);
                            if (!(fabs(out[i][r] - sum) <= 2e-6 * size))
                                fail_msg("%s, %s, %d rows of x: row %d is %.9g, expected %.9g", c->name, sy_dtype_name(types[q]), m, r, (double)out[i][r], sum);
                        }
                    if (b->dots)
                        for (int short_row = 0; short_row < 2; short_row++) { /* 24 groups, and 3: neither is whole chunks */
                            const int n = short_row ? SHORT : K;
                            const int64_t step = n / sy_dtype_block_len(types[q]) * sy_dtype_block_bytes(types[q]);
                            float some[4][ROWS], xs[4 * K];
                            for (int i = 0; i < m; i++) memcpy(xs + i * n, x + i * K, (size_t)n * sizeof *xs);
                            void *room = malloc((size_t)syi_digits_bytes(m, n));
                            syi_digits digits;
                            c->block_digits(m, n, xs, b->sums, room, &digits);
                            b->dots(m, ROWS, n, &digits, w, step, ordered ? order : NULL, some[0], ROWS);
                            for (int i = 0; i < m; i++)
                                for (int r = 0; r < ROWS; r++) {
                                    const float *wr = f + (ordered ? order[r] : r) * n;
                                    double sum = 0, size = 0;
                                    for (int k = 0; k < n; k++) sum += (double)wr[k] * xs[i * n + k], size += fabs((double)wr[k] * xs[i * n + k]);
                                    if (!(fabs(some[i][r] - sum) <= 2e-6 * size))
                                        fail_msg("%s, %s, digits of %d vectors of %d: row %d is %.9g, expected %.9g", c->name, sy_dtype_name(types[q]), m, n, r, (double)some[i][r], sum);
                                }
                            free(room);
                        }
                    float one[4]; /* a row's bits do not depend on its neighbours */
                    b->gemv(m, 1, K, x, K, ordered ? w : w + 2 * pitch, pitch, ordered ? order + 2 : NULL, one, 1);
                    for (int i = 0; i < m; i++) assert_true(one[i] == out[i][2]);
                }
            free(w), free(f);
        }
    }
    free(x);
}

static void products(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    int32_t order[ROWS];
    for (int i = 0; i < ROWS; i++) order[i] = (i * 11 + 5) % ROWS;
    float *x = malloc(sizeof *x * MOST * K), y[MOST * K], kept[MOST * K];
    uint16_t *x16 = malloc(sizeof *x16 * MOST * K), y16[MOST * K];
    syi_normal(4, 0, MOST * K, x);
    assert_int_equal(sy_from_f32(ctx, SY_BF16, x, x16, MOST * K), SY_OK);
    assert_int_equal(sy_to_f32(ctx, SY_BF16, x16, x, MOST * K), SY_OK);
    for (int q = 0; q < SYI_COUNT(types); q++) {
        uint8_t *w = blocks(types[q], ROWS * K, 90 + (uint64_t)q);
        float *f = decoded(types[q], w);
        for (int kind = 0; kind < 24; kind++) {
            const bool bf16 = kind & 1, back = kind & 2, ordered = kind & 4;
            const int64_t m = kind / 8 == 0 ? 1 : kind / 8 == 1 ? 4 : MOST, in = back ? ROWS : K, out = back ? K : ROWS;
            const double beta = kind % 3 == 0 ? 1 : 0;
            for (int threads = 1; threads <= 3; threads++) {
                syi_engine *e = NULL;
                assert_int_equal(sy_threads_set(ctx, threads), SY_OK);
                assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
                for (int i = 0; i < MOST * K; i++) y[i] = 1;
                const syi_coded c = {types[q], w, ordered ? order : NULL};
                assert_int_equal(syi_gemm_coded(e, m, ROWS, K, bf16 ? SY_BF16 : SY_F32, bf16 ? (const void *)x16 : x, &c, back, beta, SY_F32, y), SY_OK);
                if (threads == 1) {
                    memcpy(kept, y, sizeof y);
                    for (int64_t i = 0; i < m; i++)
                        for (int64_t j = 0; j < out; j++) {
                            double sum = beta, size = 1;
                            for (int64_t k = 0; k < in; k++) {
                                const int64_t r = back ? k : j, col = back ? j : k;
                                const double v = (double)x[i * in + k] * f[(ordered ? order[r] : r) * K + col];
                                sum += v, size += fabs(v);
                            }
                            /* decoded tiles are rounded to bf16 beside bf16 activations */
                            if (!(fabs(y[i * out + j] - sum) <= (bf16 && (m > 4 || back) ? 4e-3 : 2e-6) * size))
                                fail_msg("%s, case %d: [%d, %d] is %.9g, expected %.9g", sy_dtype_name(types[q]), kind, (int)i, (int)j, (double)y[i * out + j], sum);
                        }
                } else {
                    assert_memory_equal(kept, y, (size_t)(m * out) * sizeof *y);
                }
                if (bf16) { /* the same into bf16: rounded once */
                    uint16_t expected[MOST * K];
                    for (int i = 0; i < MOST * K; i++) y16[i] = 0x3f80;
                    assert_int_equal(syi_gemm_coded(e, m, ROWS, K, SY_BF16, x16, &c, back, beta, SY_BF16, y16), SY_OK);
                    assert_int_equal(sy_from_f32(ctx, SY_BF16, kept, expected, m * out), SY_OK);
                    for (int64_t i = 0; i < m * out; i++)
                        if (abs((int)y16[i] - (int)expected[i]) > 1) fail_msg("%s, case %d: number %d in bf16", sy_dtype_name(types[q]), kind, (int)i);
                }
                syi_engine_free(e);
            }
        }
        free(w), free(f);
    }
    free(x), free(x16);
    sy_context_free(ctx);
}

/* Loss and gradient with the head in blocks are those with its decoded numbers. */
static void head(void **state)
{
    (void)state;
    enum { TOKENS = 6, HIDDEN = 256, VOCAB = 64 };
    sy_context *ctx = sy_context_new();
    syi_engine *e = NULL;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    const int32_t target[TOKENS] = {3, -1, 60, 7, 0, 63};
    const syi_head a = {.tokens = TOKENS, .hidden = HIDDEN, .vocab = VOCAB, .target = target, .scale = 0.5};
    uint8_t *w = blocks(SY_Q8_0, VOCAB * HIDDEN, 5);
    float *f = malloc(sizeof *f * VOCAB * HIDDEN), h[TOKENS * HIDDEN], dh[2][TOKENS * HIDDEN], nll[TOKENS];
    syi_to_f32(SY_Q8_0, w, f, VOCAB * HIDDEN);
    syi_normal(6, 0, TOKENS * HIDDEN, h);
    void *scratch = malloc((size_t)syi_head_scratch(e, SY_F32, &a, true));
    double loss[2];
    assert_int_equal(syi_head_loss(e, SY_F32, &a, h, SY_Q8_0, w, &loss[0], nll, dh[0], NULL, scratch), SY_OK);
    assert_int_equal(syi_head_loss(e, SY_F32, &a, h, SY_F32, f, &loss[1], nll, dh[1], NULL, scratch), SY_OK);
    assert_true(fabs(loss[0] - loss[1]) <= 1e-6 * fabs(loss[1]));
    for (int i = 0; i < TOKENS * HIDDEN; i++) assert_true(fabsf(dh[0][i] - dh[1][i]) <= 1e-5f);
    free(scratch), free(w), free(f);
    syi_engine_free(e);
    sy_context_free(ctx);
}

/* Work handed to a team is done once, whatever the team's size; kernels inside it give the
 * bits that they give outside. */
typedef struct { syi_engine *e; int count[1000]; int64_t parts; float *y; const float *x; const uint8_t *w; } shared;

static void count_part(void *self, int64_t part, int thread)
{
    shared *s = self;
    assert_true(thread >= 0 && thread < 8);
    s->count[part]++;
}

static sy_status in_team(void *self)
{
    shared *s = self;
    for (int round = 0; round < 300; round++) syi_share(s->e, s->parts, count_part, s);
    return syi_gemm_coded(s->e, 1, ROWS, K, SY_F32, s->x, &(syi_coded){SY_Q4_0, s->w, NULL}, false, 0, SY_F32, s->y);
}

static void team(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    float x[K], y[ROWS], expected[ROWS];
    uint8_t *w = blocks(SY_Q4_0, ROWS * K, 1);
    syi_normal(2, 0, K, x);
    for (int threads = 1; threads <= 4; threads++) {
        syi_engine *e = NULL;
        assert_int_equal(sy_threads_set(ctx, threads), SY_OK);
        assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
        for (int64_t parts = 0; parts <= 1000; parts = parts * 3 + 1) {
            shared s = {.e = e, .parts = parts, .y = y, .x = x, .w = w};
            assert_int_equal(syi_team_run(e, in_team, &s), SY_OK);
            for (int64_t i = 0; i < 1000; i++) assert_int_equal(s.count[i], i < parts ? 300 : 0);
            if (threads == 1) memcpy(expected, y, sizeof y);
            assert_memory_equal(expected, y, sizeof y);
        }
        syi_engine_free(e);
    }
    free(w);
    sy_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kernels), cmocka_unit_test(products), cmocka_unit_test(head), cmocka_unit_test(team)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
