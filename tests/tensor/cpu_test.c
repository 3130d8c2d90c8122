/* SPDX-License-Identifier: Apache-2.0 */
/* Every CPU path that this processor has, every function of its row, against the f64
 * loops; a number's bits do not depend on where a piece begins or ends. */
#include "support/test.h"

#include "tensor/cpu.h"

#include <math.h>

static const char *const names[] = {"plain", "neon", "avx2", "avx512", "avx512_bf16"};
enum { N = 2000, PATHS = 5 };

typedef struct {
    float f[N];
    uint16_t h[N];
    double d[N];
} numbers;

static uint16_t round16(float x)
{
    union { float f; uint32_t u; } v = {x};
    return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}

static float wide(uint16_t h)
{
    union { uint32_t u; float f; } v = {(uint32_t)h << 16};
    return v.f;
}

/* Numbers that all three types hold. */
static numbers *make(uint64_t key, double scale, double shift)
{
    numbers *x = malloc(sizeof *x);
    syi_normal(key, 0, N, x->f);
    for (int i = 0; i < N; i++) {
        x->h[i] = round16((float)((double)x->f[i] * scale + shift));
        x->f[i] = wide(x->h[i]);
        x->d[i] = (double)x->f[i];
    }
    return x;
}

static const void *as(const numbers *x, int t) { return t == SYI_T_F32 ? (const void *)x->f : (const void *)x->h; }
static void *to(numbers *x, int t) { return t == SYI_T_F32 ? (void *)x->f : (void *)x->h; }
static double got(const numbers *x, int t, int i) { return t == SYI_T_F32 ? (double)x->f[i] : (double)wide(x->h[i]); }

static void near(const char *path, const char *what, int t, const numbers *y, const double *expected, int n, double scale)
{
    double tol = t == SYI_T_F32 ? 3e-6 : 5e-3;
    for (int i = 0; i < n; i++) {
        double bound = tol * (fabs(expected[i]) + scale);
        if (!(fabs(got(y, t, i) - expected[i]) <= bound))
            fail_msg("%s, %s, %s: number %d is %.9g, expected %.9g", path, what, t == SYI_T_F32 ? "f32" : "bf16", i, got(y, t, i), expected[i]);
    }
}

static void near_f32(const char *path, const char *what, const float *y, const double *expected, int n, double tol)
{
    for (int i = 0; i < n; i++)
        if (!(fabs((double)y[i] - expected[i]) <= tol * (fabs(expected[i]) + 1)))
            fail_msg("%s, %s: number %d is %.9g, expected %.9g", path, what, i, (double)y[i], expected[i]);
}

/* Lengths around the vectors' widths. */
static const int lengths[] = {1, 3, 8, 15, 16, 17, 31, 33, 63, 64, 65, 200, 1000};

static void elementwise(void **state)
{
    (void)state;
    for (int p = 0; p < PATHS; p++) {
        const syi_cpu *c = syi_cpu_find(names[p]);
        if (c == NULL) continue;
        for (int q = 0; q < SYI_COUNT(lengths) * 2; q++) {
            int n = lengths[q / 2], t = q % 2;
            for (int add = 0; add < 2; add++) {
                numbers *x = make(1, 1, 0), *y = make(2, 1, 0), *w = make(3, 0.2, 2), *z = make(4, 1, 0), *u = make(5, 1, 0);
#define SAME(what, scale)                                  \
    near(c->name, what, t, z, z->d, n, scale);             \
    if (n < N) assert_true(got(z, t, n) == z->d[n]) /* nothing beyond the end */
                c->axpy[t](-0.75, as(x, t), add, to(z, t), n);
                syi_axpy_f64(-0.75, x->d, add, z->d, n);
                SAME("axpy", 1);
                free(z), z = make(4, 1, 0);
                c->add[t](0.5, as(x, t), as(y, t), to(z, t), n);
                syi_add_f64(0.5, x->d, y->d, z->d, n);
                SAME("add", 1);
                for (int op = SYI_MUL; op <= SYI_SQRT; op++) {
                    const numbers *first = op == SYI_SQRT ? w : x, *den = op == SYI_DIV ? w : y;
                    free(z), z = make(4, 1, 0);
                    c->combine[t]((syi_combination)op, 1.5, as(first, t), as(den, t), as(w, t), add, to(z, t), n);
                    syi_combine_f64((syi_combination)op, 1.5, first->d, den->d, w->d, add, z->d, n);
                    SAME("combine", 2);
                }
                float noise[N];
                syi_uniform(9, 0, N, noise);
                free(z), z = make(4, 1, 0);
                c->dropout[t](noise, 0.3, as(x, t), add, to(z, t), n);
                syi_dropout_f64(noise, 0.3, x->d, add, z->d, n);
                SAME("dropout", 1);
                free(z), z = make(4, 1, 0);
                c->swiglu[t](as(x, t), as(y, t), to(z, t), n);
                syi_swiglu_f64(x->d, y->d, z->d, n);
                SAME("swiglu", 0.1);
                free(z), z = make(4, 1, 0);
                c->swiglu_grad[t](as(w, t), as(x, t), as(y, t), add, to(z, t), !add, to(u, t), n);
                syi_swiglu_grad_f64(w->d, x->d, y->d, add, z->d, !add, u->d, n);
                SAME("swiglu_grad", 1);
                near(c->name, "swiglu_grad", t, u, u->d, n, 1);
                double a = c->dot[t](as(x, t), as(y, t), n), b = syi_dot_f64(x->d, y->d, n);
                assert_true(fabs(a - b) <= 1e-12 * (fabs(b) + n));
                a = c->dot[t](as(x, t), NULL, n), b = syi_dot_f64(x->d, NULL, n);
                assert_true(fabs(a - b) <= 1e-12 * (fabs(b) + n));
                free(x), free(y), free(w), free(z), free(u);
            }
        }
    }
}

static void by_rows(void **state)
{
    (void)state;
    static const int shapes[][2] = {{1, 1}, {3, 5}, {4, 16}, {7, 33}, {9, 64}, {2, 100}, {5, 130}};
    for (int p = 0; p < PATHS; p++) {
        const syi_cpu *c = syi_cpu_find(names[p]);
        if (c == NULL) continue;
        for (int q = 0; q < SYI_COUNT(shapes) * 4; q++) {
            int rows = shapes[q / 4][0], cols = shapes[q / 4][1], n = rows * cols, t = q & 1;
            bool add = q & 2;
            numbers *x = make(1, 1, 0), *y = make(2, 1, 0), *w = make(3, 0.3, 1), *z = make(4, 1, 0), *s = make(5, 1, 0), *v = make(6, 1, 0);
            c->scale_cols[t](as(x, t), w->f, add, to(z, t), rows, cols);
            syi_scale_cols_f64(x->d, w->d, add, z->d, rows, cols);
            SAME("scale_cols", 1);
            free(z), z = make(4, 1, 0);
            c->add_bias[t](w->f, to(z, t), rows, cols);
            syi_add_bias_f64(w->d, z->d, rows, cols);
            SAME("add_bias", 1);
            c->col_sums[t](as(x, t), add ? as(y, t) : NULL, s->f, rows, cols);
            syi_col_sums_f64(x->d, add ? y->d : NULL, s->d, rows, cols);
            near_f32(c->name, "col_sums", s->f, s->d, cols, 1e-5);
            free(z), z = make(4, 1, 0);
            c->rmsnorm[t](as(x, t), w->f, 1e-5, to(z, t), s->f, rows, cols);
            syi_rmsnorm_f64(x->d, w->d, 1e-5, z->d, s->d, rows, cols);
            SAME("rmsnorm", 1);
            near_f32(c->name, "rstd", s->f, s->d, rows, 1e-5);
            free(z), z = make(4, 1, 0);
            for (int i = 0; i < rows; i++) s->f[i] = (float)s->d[i];
            c->rmsnorm_grad[t](as(y, t), as(x, t), w->f, s->f, add, to(z, t), v->f, rows, cols);
            syi_rmsnorm_grad_f64(y->d, x->d, w->d, s->d, add, z->d, v->d, rows, cols);
            near(c->name, "rmsnorm_grad", t, z, z->d, n, 3);
            near_f32(c->name, "rmsnorm_grad dw", v->f, v->d, cols, 3e-5);
            if (cols % 2 == 0) {
                int32_t pos[16];
                for (int i = 0; i < rows; i++) pos[i] = (i * 5) % 7;
                for (int inverse = 0; inverse < 2; inverse++) {
                    free(z), z = make(4, 1, 0);
                    c->rope[t](as(x, t), pos, w->f, y->f, inverse, add, to(z, t), rows, 1, cols);
                    syi_rope_f64(x->d, pos, w->d, y->d, inverse, add, z->d, rows, 1, cols);
                    SAME("rope", 3);
                }
            }
            free(x), free(y), free(w), free(z), free(s), free(v);
        }
    }
}

/* e^x as the sigmoid sees it, over the whole range, to two units in the last place of
 * the result's type; beyond it 0 and x. */
static void sigmoid_range(void **state)
{
    (void)state;
    for (int p = 0; p < PATHS; p++) {
        const syi_cpu *c = syi_cpu_find(names[p]);
        if (c == NULL) continue;
        enum { STEPS = 4096 };
        static float x[STEPS], one[STEPS], y[STEPS];
        for (int i = 0; i < STEPS; i++) x[i] = (float)(i - STEPS / 2) * 0.0487f, one[i] = 1;
        c->swiglu[SYI_T_F32](x, one, y, STEPS);
        double worst = 0;
        for (int i = 0; i < STEPS; i++) {
            double expected = (double)x[i] / (1 + exp(-(double)x[i]));
            if (fabs(expected) > 1e-36) worst = fmax(worst, fabs((double)y[i] - expected) / fabs(expected));
            else assert_true(fabs((double)y[i]) <= 1e-35);
        }
        if (!(worst < 4.5e-7)) fail_msg("%s: silu is off by %g relative", c->name, worst);
        float special[4] = {NAN, INFINITY, -1000, 1000}, ones[4] = {1, 1, 1, 1}, out[4];
        c->swiglu[SYI_T_F32](special, ones, out, 4);
        assert_true(isnan(out[0]) && isinf(out[1]) && out[2] == 0 && out[3] == 1000);
    }
}

static void conversions(void **state)
{
    (void)state;
    for (int p = 0; p < PATHS; p++) {
        const syi_cpu *c = syi_cpu_find(names[p]);
        if (c == NULL) continue;
        /* All bf16 values there and back; halves round to even; NaN stays NaN. */
        enum { ALL = 65536 };
        uint16_t *h = malloc(ALL * 2), *back = malloc(ALL * 2);
        float *f = malloc(ALL * 4);
        for (int i = 0; i < ALL; i++) h[i] = (uint16_t)i;
        c->from_bf16(h, f, ALL);
        c->to_bf16(f, back, ALL);
        for (int i = 0; i < ALL; i++) {
            bool nan = (i & 0x7f80) == 0x7f80 && (i & 0x7f) != 0, tiny = (i & 0x7f80) == 0;
            if (nan) assert_true((back[i] & 0x7f80) == 0x7f80 && (back[i] & 0x7f) != 0);
            else if (!(tiny && p == 4)) assert_int_equal(back[i], i); /* the bf16 instructions flush subnormals */
        }
        const float values[] = {1.00390625f, 1.01171875f, -1.00390625f, 1.0039064f, 3.3895314e38f, 3.4e38f};
        const uint16_t expected[] = {0x3f80, 0x3f82, 0xbf80, 0x3f81, 0x7f7f, 0x7f80};
        c->to_bf16(values, back, 6);
        for (int i = 0; i < 6; i++) assert_int_equal(back[i], expected[i]);
        /* Sums into the other type. */
        float a[37], y[37];
        uint16_t b[37], z[37];
        syi_normal(3, 0, 37, a);
        for (int i = 0; i < 37; i++) b[i] = round16(a[i]), a[i] = wide(b[i]), y[i] = 1, z[i] = 0x3f80;
        c->accumulate[SYI_T_BF16][SYI_T_F32](b, y, 36);
        c->accumulate[SYI_T_F32][SYI_T_BF16](a, z, 36);
        for (int i = 0; i < 37; i++) {
            assert_true(y[i] == (i < 36 ? 1 + a[i] : 1));
            assert_int_equal(z[i], i < 36 ? round16(1 + a[i]) : 0x3f80);
        }
        free(h), free(back), free(f);
    }
}

static void products(void **state)
{
    (void)state;
    for (int p = 0; p < PATHS; p++) {
        const syi_cpu *c = syi_cpu_find(names[p]);
        if (c == NULL) continue;
        static const int ks[] = {1, 7, 16, 65, 130, 300};
        for (int q = 0; q < SYI_COUNT(ks); q++) {
            int k = ks[q];
            numbers *x = make(1, 1, 0), *w = make(2, 1, 0);
            for (int m = 1; m <= 4; m++)
                for (int bf = 0; bf < 2; bf++) {
                    float out[4][8];
                    int ldx = 310, ldw = k;
                    if (bf) c->gemv_bf16(m, 5, k, x->f, ldx, w->h, ldw, out[0], 8);
                    else c->gemv_f32(m, 5, k, x->f, ldx, w->f, ldw, out[0], 8);
                    for (int i = 0; i < m; i++)
                        for (int r = 0; r < 5; r++) {
                            double sum = 0;
                            for (int j = 0; j < k; j++) sum += x->d[i * ldx + j] * w->d[r * ldw + j];
                            if (!(fabs((double)out[i][r] - sum) < 1e-5 * sqrt(k))) fail_msg("%s: gemv %d of %d: %g, expected %g", c->name, r, k, (double)out[i][r], sum);
                        }
                }
            free(x), free(w);
        }
        static const int shapes[][3] = {{1, 1, 1}, {5, 3, 7}, {64, 16, 48}, {100, 9, 48}, {129, 64, 20}, {33, 15, 47}};
        for (int q = 0; q < SYI_COUNT(shapes) * 2; q++) {
            int k = shapes[q / 2][0], r = shapes[q / 2][1], cols = shapes[q / 2][2];
            float *s = malloc((size_t)(k * r) * 4), *x = malloc((size_t)(k * cols) * 4), *out = malloc((size_t)r * SYI_OUTER_COLS * 4);
            uint16_t *sh = malloc((size_t)(k * r) * 2), *xh = malloc((size_t)(k * cols) * 2);
            uint32_t *packed = malloc((size_t)(k * r) * 4);
            syi_normal(1, 0, k * r, s);
            syi_normal(2, 0, k * cols, x);
            for (int i = 0; i < k * r; i++) sh[i] = round16(s[i]), s[i] = wide(sh[i]);
            for (int i = 0; i < k * cols; i++) xh[i] = round16(x[i]), x[i] = wide(xh[i]);
            if (q & 1) {
                c->outer_pack_bf16(k, r, sh, r, packed);
                c->outer_bf16(k, r, packed, xh, cols, cols, out);
            } else {
                c->outer_pack_f32(k, r, s, r, packed);
                c->outer_f32(k, r, packed, x, cols, cols, out);
            }
            for (int i = 0; i < r; i++)
                for (int j = 0; j < cols; j++) {
                    double sum = 0;
                    for (int t = 0; t < k; t++) sum += (double)s[t * r + i] * (double)x[t * cols + j];
                    if (!(fabs((double)out[i * SYI_OUTER_COLS + j] - sum) < 2e-5 * sqrt(k)))
                        fail_msg("%s: outer %dx%dx%d at %d,%d: %g, expected %g", c->name, k, r, cols, i, j, (double)out[i * SYI_OUTER_COLS + j], sum);
                }
            free(s), free(x), free(out), free(sh), free(xh), free(packed);
        }
    }
}

static void same_bits_anywhere(void **state)
{
    (void)state;
    for (int p = 0; p < PATHS; p++) {
        const syi_cpu *c = syi_cpu_find(names[p]);
        if (c == NULL) continue;
        numbers *x = make(1, 1, 0), *y = make(2, 1, 0), *z = make(3, 1, 0);
        for (int t = 0; t < 2; t++) {
            int size = t == SYI_T_F32 ? 4 : 2;
            char *whole = malloc(300 * 4), *part = malloc(300 * 4);
            c->swiglu[t](as(x, t), as(y, t), whole, 300);
            for (int first = 0; first < 40; first++)
                for (int n = 1; n < 40; n++) {
                    c->swiglu[t]((const char *)as(x, t) + first * size, (const char *)as(y, t) + first * size, part, n);
                    assert_memory_equal(part, whole + first * size, (size_t)(n * size));
                }
            free(whole), free(part);
        }
        free(x), free(y), free(z);
    }
}

static void forced(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    const syi_cpu *c = NULL;
    bool is_forced = false;
    char *old = getenv("STEELYARD_CPU") ? strdup(getenv("STEELYARD_CPU")) : NULL;
    setenv("STEELYARD_CPU", "plain", 1);
    assert_int_equal(syi_cpu_pick(ctx, &c, &is_forced), SY_OK);
    assert_true(is_forced && strcmp(c->name, "plain") == 0);
    setenv("STEELYARD_CPU", "sse9", 1);
    assert_int_equal(syi_cpu_pick(ctx, &c, &is_forced), SY_E_USAGE);
    assert_non_null(strstr(sy_error_message(ctx), "sse9"));
    assert_non_null(strstr(sy_error_message(ctx), "plain"));
    unsetenv("STEELYARD_CPU");
    assert_int_equal(syi_cpu_pick(ctx, &c, &is_forced), SY_OK);
    assert_false(is_forced);
    if (old != NULL) setenv("STEELYARD_CPU", old, 1);
    free(old);
    sy_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elementwise), cmocka_unit_test(by_rows), cmocka_unit_test(sigmoid_range), cmocka_unit_test(conversions),
        cmocka_unit_test(products), cmocka_unit_test(same_bits_anywhere), cmocka_unit_test(forced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
