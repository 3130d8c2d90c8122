/* SPDX-License-Identifier: Apache-2.0 */
/* Products against a double loop, and equal bits for any number of threads over all
 * shapes of a Llama step. */
#include "support/test.h"

#include "tensor/kernels.h"

#include <math.h>

typedef struct { sy_context *ctx; syi_engine *e; } fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->ctx = sy_context_new();
    assert_non_null(f->ctx);
    assert_int_equal(syi_engine_new(f->ctx, &f->e), SY_OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    syi_engine_free(f->e);
    assert_int_equal(sy_memory_now(f->ctx), 0);
    sy_context_free(f->ctx);
    free(f);
    return 0;
}

static float from_bf16(uint16_t h)
{
    union { uint32_t u; float f; } v = {(uint32_t)h << 16};
    return v.f;
}

static uint16_t to_bf16(float x)
{
    union { float f; uint32_t u; } v = {x};
    return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}

static double get(sy_dtype t, const void *p, int64_t i)
{
    return t == SY_F64 ? ((const double *)p)[i] : t == SY_F32 ? ((const float *)p)[i] : from_bf16(((const uint16_t *)p)[i]);
}

static void *fill(sy_dtype t, int64_t n, uint64_t key)
{
    float *x = malloc((size_t)(n + 1) * sizeof *x);
    syi_normal(key, 0, n, x);
    void *p = malloc((size_t)(n + 1) * 8);
    for (int64_t i = 0; i < n; i++) {
        if (t == SY_F64) ((double *)p)[i] = x[i];
        else if (t == SY_F32) ((float *)p)[i] = x[i];
        else ((uint16_t *)p)[i] = to_bf16(x[i]);
    }
    free(x);
    return p;
}

/* One product with padding between rows, compared element by element; what lies
 * between the rows of C must not change. */
static void check(fixture *f, int64_t m, int64_t n, int64_t k, sy_dtype at, bool ta, sy_dtype bt, bool tb, sy_dtype ct,
                  double alpha, double beta, int64_t pad)
{
    int64_t lda = (ta ? m : k) + pad, ldb = (tb ? k : n) + pad, ldc = n + pad;
    void *a = fill(at, (ta ? k : m) * lda, 1), *b = fill(bt, (tb ? n : k) * ldb, 2);
    void *c = fill(ct, m * ldc, 3), *c0 = fill(ct, m * ldc, 3);
    sy_status s = syi_gemm(f->e, m, n, k, alpha, (syi_mat){at, a, lda, ta}, (syi_mat){bt, b, ldb, tb}, beta, ct, c, ldc);
    if (s != SY_OK) fail_msg("%s", sy_error_message(f->ctx));
    bool inputs_rounded = ct == SY_BF16 && (at == SY_F32 || bt == SY_F32);
    double tol = ct == SY_F64 ? 1e-13 : ct == SY_F32 ? 4e-6 : 6e-3;
    if (inputs_rounded) tol = 1.5e-2;
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = 0, size = 0;
            for (int64_t p = 0; p < k; p++) {
                double v = get(at, a, ta ? p * lda + i : i * lda + p) * get(bt, b, tb ? j * ldb + p : p * ldb + j);
                sum += v;
                size += v * v;
            }
            double expected = alpha * sum + beta * get(ct, c0, i * ldc + j);
            double got = get(ct, c, i * ldc + j);
            double scale = fabs(alpha) * sqrt(size) + fabs(expected) + 1e-3;
            if (!(fabs(got - expected) <= tol * scale))
                fail_msg("%lldx%lldx%lld %s%s %s%s -> %s alpha %g beta %g at %lld,%lld: %g, expected %g", (long long)m,
                         (long long)n, (long long)k, sy_dtype_name(at), ta ? "T" : "", sy_dtype_name(bt), tb ? "T" : "",
                         sy_dtype_name(ct), alpha, beta, (long long)i, (long long)j, got, expected);
        }
        for (int64_t j = n; j < ldc && i < m - 1; j++)
            assert_true(get(ct, c, i * ldc + j) == get(ct, c0, i * ldc + j));
    }
    free(a), free(b), free(c), free(c0);
}

static void against_loops(void **state)
{
    fixture *f = *state;
    static const int64_t shapes[][3] = {{1, 1, 1}, {1, 7, 5}, {2, 33, 70}, {3, 130, 129}, {4, 64, 200}, {5, 3, 9}, {17, 16, 65},
                                        {16, 50, 300}, {70, 16, 515}, {1, 96, 64}, {64, 96, 32}, {33, 1, 40}, {48, 65, 127}, {8, 200, 1030}};
    static const sy_dtype types[][3] = {{SY_F64, SY_F64, SY_F64}, {SY_F32, SY_F32, SY_F32}, {SY_BF16, SY_BF16, SY_BF16}, {SY_BF16, SY_BF16, SY_F32},
                                        {SY_F32, SY_BF16, SY_BF16}, {SY_BF16, SY_F32, SY_F32}, {SY_F32, SY_BF16, SY_F32}, {SY_F32, SY_F32, SY_BF16}};
    static const double factors[][2] = {{1, 0}, {1, 1}, {0.5, 0}, {-2, 1}, {1.5, 0.25}, {0, 0.5}};
    for (int i = 0; i < SYI_COUNT(shapes); i++)
        for (int t = 0; t < SYI_COUNT(types); t++)
            for (int q = 0; q < 4; q++)
                for (int x = 0; x < SYI_COUNT(factors); x++)
                    check(f, shapes[i][0], shapes[i][1], shapes[i][2], types[t][0], q & 1, types[t][1], q >> 1, types[t][2],
                          factors[x][0], factors[x][1], (x + q) % 3);
}

/* C may hold NaN when beta is 0; k = 0 leaves beta C. */
static void edges(void **state)
{
    fixture *f = *state;
    float a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 0, 2, -1, 1, 1}, c[4] = {NAN, NAN, NAN, NAN};
    syi_mat ma = {SY_F32, a, 3, false}, mb = {SY_F32, b, 3, true};
    assert_int_equal(syi_gemm(f->e, 2, 2, 3, 1, ma, mb, 0, SY_F32, c, 2), SY_OK);
    assert_true(c[0] == 7 && c[1] == 4 && c[2] == 16 && c[3] == 7);
    assert_int_equal(syi_gemm(f->e, 2, 2, 0, 1, ma, mb, 0.5, SY_F32, c, 2), SY_OK);
    assert_true(c[0] == 3.5f && c[3] == 3.5f);
    assert_int_equal(syi_gemm(f->e, 2, 2, 0, 1, ma, mb, 0, SY_F32, c, 2), SY_OK);
    assert_true(c[0] == 0 && c[3] == 0);
    assert_int_equal(syi_gemm(f->e, 0, 2, 3, 1, ma, mb, 0, SY_F32, c, 2), SY_OK);
    ma.dtype = SY_I8;
    assert_int_equal(syi_gemm(f->e, 2, 2, 3, 1, ma, mb, 0, SY_F32, c, 2), SY_E_BUG);
    assert_non_null(strstr(sy_error_message(f->ctx), "I8"));
}

/* -- equal bits for any number of threads ------------------------------------------------ */

static int64_t apart = 1; /* rows of A lie this many times their length apart */

static uint64_t run(fixture *f, int64_t m, int64_t n, int64_t k, sy_dtype t, bool ta, bool tb, sy_dtype ct, double beta, const void *a,
                    const void *b, void *c)
{
    int64_t bytes = m * n * sy_dtype_block_bytes(ct);
    for (int64_t i = 0; i < m * n; i++) {
        if (ct == SY_F32) ((float *)c)[i] = (float)(i % 7);
        else ((uint16_t *)c)[i] = to_bf16((float)(i % 7));
    }
    sy_status s = syi_gemm(f->e, m, n, k, 1, (syi_mat){t, a, ta ? m : apart * k, ta}, (syi_mat){t, b, tb ? k : n, tb}, beta, ct, c, n);
    if (s != SY_OK) fail_msg("%s", sy_error_message(f->ctx));
    return syi_hash64(c, (size_t)bytes, 0);
}

static int differ;
static void same_bits(fixture *f, int64_t m, int64_t n, int64_t k, bool ta, bool tb)
{
    static float *fa, *fb;
    static uint16_t *ha, *hb;
    static void *c;
    enum { BIG = 2048 * 4096 };
    if (fa == NULL) {
        fa = fill(SY_F32, BIG, 5), fb = fill(SY_F32, BIG, 6);
        ha = fill(SY_BF16, BIG, 5), hb = fill(SY_BF16, BIG, 6);
        c = malloc((size_t)BIG * 8);
    }
    for (int v = 0; v < 4; v++) {
        sy_dtype t = v == 0 ? SY_F32 : SY_BF16, ct = v == 1 ? SY_BF16 : SY_F32;
        double beta = v == 3;
        uint64_t first = 0;
        for (int threads = 1; threads <= 4; threads++) {
            assert_int_equal(sy_threads_set(f->ctx, threads), SY_OK);
            uint64_t h = run(f, m, n, k, t, ta, tb, ct, beta, t == SY_F32 ? (void *)fa : (void *)ha, t == SY_F32 ? (void *)fb : (void *)hb, c);
            if (threads == 1) first = h;
            else if (h != first) {
                print_error("%lldx%lldx%lld %s%s %s%s -> %s beta %g: other bits with %d threads\n", (long long)m, (long long)n, (long long)k,
                            sy_dtype_name(t), ta ? "T" : "", sy_dtype_name(t), tb ? "T" : "", sy_dtype_name(ct), beta, threads);
                differ++;
            }
        }
    }
}

static void threads_llama(void **state)
{
    fixture *f = *state;
    static const int64_t tokens[] = {17, 64, 512, 2048};
    static const int64_t layers[][2] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}};
    static const int64_t ranks[] = {1, 4, 8, 16, 64};
    differ = 0;
    for (int i = 0; i < SYI_COUNT(tokens); i++) {
        int64_t t = tokens[i];
        for (int l = 0; l < SYI_COUNT(layers); l++) {
            int64_t out = layers[l][0], in = layers[l][1];
            if (t == 512 || l == 0) {
                same_bits(f, t, out, in, false, true);  /* y = x W^T    */
                same_bits(f, t, in, out, false, false); /* dx = dy W    */
                same_bits(f, out, in, t, true, false);  /* dW = dy^T x  */
            }
            for (int q = 0; q < SYI_COUNT(ranks); q++) {
                int64_t r = ranks[q];
                if (t < 2048 && (r == 4 || r == 8 || l > 1)) continue; /* making a primitive costs more than running it */
                same_bits(f, t, r, in, false, true);   /* H = x A^T     */
                same_bits(f, t, out, r, false, true);  /* y += H B^T    */
                same_bits(f, t, r, out, false, false); /* dH = dy B     */
                same_bits(f, t, in, r, false, false);  /* dx += dH A    */
                same_bits(f, r, in, t, true, false);   /* dA = dH^T x   */
                same_bits(f, out, r, t, true, false);  /* dB = dy^T H   */
            }
        }
    }
    for (int64_t t = 64; t <= 512; t *= 8) {
        same_bits(f, t, 4096, 576, false, true); /* a chunk of the head */
        same_bits(f, t, 576, 4096, false, false);
        same_bits(f, 4096, 576, t, true, false);
    }
    assert_int_equal(differ, 0);
}

static void threads_odd(void **state)
{
    fixture *f = *state;
    static const int64_t s[] = {1, 3, 8, 31, 67, 200, 777};
    differ = 0;
    for (int i = 0; i < SYI_COUNT(s); i++)
        for (int j = 0; j < SYI_COUNT(s); j++)
            for (int l = 0; l < SYI_COUNT(s); l++)
                for (int q = 0; q < 4; q++)
                    if ((i + 2 * j + 3 * l + q) % 9 == 0) same_bits(f, s[i], s[j], s[l], q & 1, q >> 1);
    assert_int_equal(differ, 0);
}

/* The head's gradient is such a product: bf16 rows in the first halves of rows of f32. */
static void threads_apart(void **state)
{
    static const int64_t rows[] = {5, 47, 255}, cols[] = {31, 63, 192, 900};
    differ = 0;
    apart = 2;
    for (int i = 0; i < SYI_COUNT(rows); i++)
        for (int j = 0; j < SYI_COUNT(cols); j++) same_bits(*state, rows[i], cols[j], 2048, false, false);
    apart = 1;
    assert_int_equal(differ, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(against_loops, setup, teardown),
        cmocka_unit_test_setup_teardown(edges, setup, teardown),
        cmocka_unit_test_setup_teardown(threads_llama, setup, teardown),
        cmocka_unit_test_setup_teardown(threads_odd, setup, teardown),
        cmocka_unit_test_setup_teardown(threads_apart, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
