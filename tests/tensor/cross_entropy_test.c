/* SPDX-License-Identifier: Apache-2.0 */
/* Head and cross-entropy against the formula with whole logits in f64, whose
 * gradient is held against central differences: chosen positions only, weights
 * and scale, several chunks, every CPU path, any number of threads. */
#include "support/test.h"

#include "tensor/kernels.h"

#include <math.h>

/* The best first, and the test of threads before others: oneDNN can be restricted
 * for the whole process only, before its first product, and its products on older
 * instruction sets are not what is tested here. */
static const char *const cpus[] = {"avx512_bf16", "avx512", "neon", "avx2", "plain"};
enum { CPUS = 5, PLAIN = 4 };

static syi_engine *engine_on(sy_context *ctx, const char *cpu)
{
    syi_engine *e = NULL;
    assert_int_equal(setenv("STEELYARD_CPU", cpu, 1), 0);
    sy_status st = syi_engine_new(ctx, &e);
    unsetenv("STEELYARD_CPU");
    if (st != SY_OK) assert_int_equal(st, SY_E_USAGE);
    return st == SY_OK ? e : NULL;
}

/* h, W and the results in their types, exact values in f64, and the reference. */
typedef struct {
    sy_dtype dt, wt;
    int64_t tokens, hidden, vocab;
    double *h, *w, *nll, *dh, *dw; /* the reference */
    void *h_in, *w_in, *nll_out, *dh_out, *dw_out;
    uint16_t *panels; /* the same weights, packed; used when there */
    int32_t *target;
    float *weight;
    double scale, loss;
} setup;

static double value(sy_dtype dt, const void *p, int64_t i)
{
    union { uint32_t u; float f; } x = {0};
    if (dt == SY_F64) return ((const double *)p)[i];
    if (dt == SY_BF16) x.u = (uint32_t)((const uint16_t *)p)[i] << 16;
    else x.f = ((const float *)p)[i];
    return x.f;
}

static void *fill(sy_dtype dt, int64_t n, uint64_t key, double size, double *exact)
{
    void *p = malloc((size_t)n * 8);
    float *normal = malloc((size_t)n * 4);
    syi_normal(key, 0, n, normal);
    for (int64_t i = 0; i < n; i++) {
        union { float f; uint32_t u; } x = {normal[i] * (float)size};
        if (dt == SY_F64) ((double *)p)[i] = x.f;
        else if (dt == SY_F32) ((float *)p)[i] = x.f;
        else ((uint16_t *)p)[i] = (uint16_t)(x.u >> 16);
        exact[i] = value(dt, p, i);
    }
    free(normal);
    return p;
}

static double *numbers(int64_t n)
{
    return calloc((size_t)n, sizeof(double));
}

/* The loss by the formula; with dh the gradients too. */
static double formula(const setup *s, const double *h, const double *w, double *nll, double *dh, double *dw)
{
    double loss = 0, *x = numbers(s->vocab);
    for (int64_t t = 0; t < s->tokens; t++) {
        nll[t] = 0;
        if (s->target[t] < 0) continue;
        double top = -INFINITY, sum = 0, own = s->scale * (s->weight ? (double)s->weight[t] : 1);
        for (int64_t v = 0; v < s->vocab; v++) {
            x[v] = 0;
            for (int64_t c = 0; c < s->hidden; c++) x[v] += h[t * s->hidden + c] * w[v * s->hidden + c];
            if (x[v] > top) top = x[v];
        }
        for (int64_t v = 0; v < s->vocab; v++) sum += exp(x[v] - top);
        nll[t] = top + log(sum) - x[s->target[t]];
        loss += own * nll[t];
        for (int64_t v = 0; dh && v < s->vocab; v++) {
            double g = own * (exp(x[v] - top) / sum - (v == s->target[t]));
            for (int64_t c = 0; c < s->hidden; c++) {
                dh[t * s->hidden + c] += g * w[v * s->hidden + c];
                dw[v * s->hidden + c] += g * h[t * s->hidden + c];
            }
        }
    }
    free(x);
    return loss;
}

static setup set_up(sy_dtype dt, sy_dtype wt, int64_t tokens, int64_t hidden, int64_t vocab, bool weighted)
{
    setup s = {.dt = dt, .wt = wt, .tokens = tokens, .hidden = hidden, .vocab = vocab, .scale = weighted ? 0.125 : 1};
    s.h = numbers(tokens * hidden), s.w = numbers(vocab * hidden), s.nll = numbers(tokens);
    s.dh = numbers(tokens * hidden), s.dw = numbers(vocab * hidden);
    s.h_in = fill(dt, tokens * hidden, 1, 1, s.h);
    s.w_in = fill(wt, vocab * hidden, 2, 2 / sqrt((double)hidden), s.w);
    s.nll_out = malloc((size_t)tokens * 8), s.dh_out = malloc((size_t)(tokens * hidden) * 8), s.dw_out = malloc((size_t)(vocab * hidden) * 8);
    s.target = malloc((size_t)tokens * sizeof *s.target);
    s.weight = weighted ? malloc((size_t)tokens * sizeof *s.weight) : NULL;
    for (int64_t t = 0; t < tokens; t++) {
        s.target[t] = t % 3 == 1 ? -1 - (int32_t)t : (int32_t)(syi_random_u64(3, t) % (uint64_t)vocab);
        if (weighted) s.weight[t] = t % 5 == 0 ? 0.0f : (float)(t % 7) * 0.5f;
    }
    if (tokens > 4) s.target[0] = 0, s.target[3] = (int32_t)vocab - 1;
    s.loss = formula(&s, s.h, s.w, s.nll, s.dh, s.dw);
    return s;
}

static void tear_down(setup *s)
{
    void *all[] = {s->h, s->w, s->nll, s->dh, s->dw, s->h_in, s->w_in, s->nll_out, s->dh_out, s->dw_out, s->target, s->weight, s->panels};
    for (int i = 0; i < SYI_COUNT(all); i++) free(all[i]);
}

/* Runs it with scratch of exactly the size asked for, full of NaN; returns the loss. */
static double run(syi_engine *e, const setup *s, bool dh, bool dw)
{
    const syi_head a = {s->tokens, s->hidden, s->vocab, s->target, s->weight, s->scale, s->panels != NULL};
    const int64_t bytes = syi_head_scratch(e, s->dt, &a, dw);
    unsigned char *scratch = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64 + 64);
    memset(scratch, 0xff, (size_t)(bytes + 63) / 64 * 64 + 64);
    memset(s->nll_out, 0xff, (size_t)s->tokens * 8);
    memset(s->dh_out, 0xff, (size_t)(s->tokens * s->hidden) * 8);
    double loss = NAN;
    assert_int_equal(syi_head_loss(e, s->dt, &a, s->h_in, s->wt, s->panels ? s->panels : s->w_in, &loss, s->nll_out, dh ? s->dh_out : NULL, dw ? s->dw_out : NULL, scratch), SY_OK);
    for (int i = 0; i < 64; i++) assert_int_equal(scratch[(bytes + 63) / 64 * 64 + i], 0xff);
    free(scratch);
    return loss;
}

static void expect_near(const char *label, const char *what, sy_dtype dt, const void *got, const double *ref, int64_t n, double tol)
{
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double x = value(dt, got, i);
        assert_true(isfinite(x));
        diff += (x - ref[i]) * (x - ref[i]), norm += ref[i] * ref[i];
    }
    if (!(sqrt(diff) <= tol * sqrt(norm))) fail_msg("%s: %s is %.3g from the reference, at most %.3g expected", label, what, sqrt(diff / norm), tol);
}

static void pack(syi_engine *e, setup *s)
{
    s->panels = malloc((size_t)(s->vocab * s->hidden) * 2);
    assert_int_equal(syi_panels_pack(e, s->vocab, s->hidden, s->w_in, s->panels), SY_OK);
}

static void reference_gradient(void **state)
{
    (void)state;
    setup s = set_up(SY_F64, SY_F64, 5, 3, 7, true);
    double nll[5];
    for (int i = 0; i < 5 * 3 + 7 * 3; i++) {
        double *x = i < 15 ? s.h + i : s.w + i - 15, was = *x, step = 1e-5, side[2];
        for (int j = 0; j < 2; j++) {
            *x = was + (j ? step : -step);
            side[j] = formula(&s, s.h, s.w, nll, NULL, NULL);
        }
        *x = was;
        assert_true(fabs((side[1] - side[0]) / (2 * step) - (i < 15 ? s.dh[i] : s.dw[i - 15])) < 1e-9);
    }
    tear_down(&s);
}

static const struct { const char *what; sy_dtype dt, wt; int64_t tokens, hidden, vocab; bool weighted; } cases[] = {
    {"f64", SY_F64, SY_F64, 37, 24, 501, true},
    {"f64, one token", SY_F64, SY_F64, 1, 5, 3, false},
    {"f64, several chunks", SY_F64, SY_F64, 900, 8, 40, true},
    {"f32", SY_F32, SY_F32, 37, 24, 501, false},
    {"f32, a block and a bit", SY_F32, SY_F32, 70, 16, 4103, true},
    {"f32, several chunks", SY_F32, SY_F32, 900, 8, 40, true},
    {"f32, large vocabulary", SY_F32, SY_F32, 60, 8, 300007, true},
    {"f32 with bf16 weights", SY_F32, SY_BF16, 37, 32, 501, true},
    {"bf16", SY_BF16, SY_BF16, 37, 64, 501, true},
    {"bf16, a block and a bit", SY_BF16, SY_BF16, 70, 32, 4103, false},
    {"bf16, several chunks", SY_BF16, SY_BF16, 900, 32, 48, true},
    {"bf16, a block and panels", SY_BF16, SY_BF16, 70, 32, 4160, true},
    {"bf16, odd sizes", SY_BF16, SY_BF16, 13, 33, 1001, true},
};

static void every_path(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    syi_engine *e[CPUS];
    assert_int_equal(sy_threads_set(ctx, 2), SY_OK);
    for (int p = 0; p < CPUS; p++) e[p] = engine_on(ctx, cpus[p]);
    assert_non_null(e[PLAIN]);
    for (int c = 0; c < SYI_COUNT(cases); c++) {
        setup s = set_up(cases[c].dt, cases[c].wt, cases[c].tokens, cases[c].hidden, cases[c].vocab, cases[c].weighted);
        const sy_dtype acc = s.dt == SY_F64 ? SY_F64 : SY_F32;
        const double tol = s.dt == SY_F64 ? 1e-12 : s.dt == SY_F32 ? 2e-5 : 8e-3;
        const double tol_loss = s.dt == SY_F64 ? 1e-13 : 1e-5; /* bf16 inputs are exact: f32 sums */
        if (strstr(cases[c].what, "panels")) pack(e[PLAIN], &s);
        for (int p = s.dt == SY_F64 ? PLAIN : 0; p < CPUS; p++) { /* f64 is the same code on all */
            if (!e[p]) continue;
            char label[128];
            snprintf(label, sizeof label, "%s, %s", cpus[p], cases[c].what);
            double loss = run(e[p], &s, false, false);
            assert_true(fabs(loss - s.loss) <= tol_loss * fabs(s.loss));
            expect_near(label, "nll", acc, s.nll_out, s.nll, s.tokens, tol_loss);
            for (int64_t i = 0; i < s.vocab * s.hidden; i++) { /* dw is added to */
                if (acc == SY_F64) ((double *)s.dw_out)[i] = 0.25;
                else ((float *)s.dw_out)[i] = 0.25f;
            }
            loss = run(e[p], &s, true, true);
            assert_true(fabs(loss - s.loss) <= tol_loss * fabs(s.loss));
            expect_near(label, "nll", acc, s.nll_out, s.nll, s.tokens, tol_loss);
            expect_near(label, "dh", s.dt, s.dh_out, s.dh, s.tokens * s.hidden, tol);
            for (int64_t t = 0; t < s.tokens; t++)
                for (int64_t i = 0; s.target[t] < 0 && i < s.hidden; i++) assert_true(value(s.dt, s.dh_out, t * s.hidden + i) == 0);
            for (int64_t i = 0; i < s.vocab * s.hidden; i++) {
                if (acc == SY_F64) ((double *)s.dw_out)[i] -= 0.25;
                else ((float *)s.dw_out)[i] -= 0.25f;
            }
            expect_near(label, "dw", acc, s.dw_out, s.dw, s.vocab * s.hidden, s.dt == SY_F32 ? 1e-4 : tol);
            double only_h = run(e[p], &s, true, false); /* what LoRA asks for */
            assert_true(only_h == loss);
            expect_near(label, "dh alone", s.dt, s.dh_out, s.dh, s.tokens * s.hidden, tol);
        }
        tear_down(&s);
    }
    for (int p = 0; p < CPUS; p++) syi_engine_free(e[p]);
    sy_context_free(ctx);
}

static void any_number_of_threads(void **state)
{
    (void)state;
    for (int p = 0; p < CPUS; p++) {
        sy_context *ctx = sy_context_new();
        syi_engine *e = engine_on(ctx, cpus[p]);
        for (int t = 0; e && t < 4; t++) {
            const sy_dtype dt = t % 3 ? SY_BF16 : SY_F32;
            setup s = set_up(dt, dt, t > 1 ? 200 : 700, 32, t > 1 ? 9216 : 900, true);
            if (t == 2) pack(e, &s);
            double loss = 0;
            syi_hash dh = {0, 0}, dw = {0, 0};
            for (int threads = 1; threads <= 4; threads += threads < 3 ? 2 : 1) {
                assert_int_equal(sy_threads_set(ctx, threads), SY_OK);
                memset(s.dw_out, 0, (size_t)(s.vocab * s.hidden) * 4);
                double now = run(e, &s, true, true);
                syi_hash h1 = syi_hash_bytes(s.dh_out, (size_t)(s.tokens * s.hidden) * (t % 3 ? 2 : 4));
                syi_hash h2 = syi_hash_bytes(s.dw_out, (size_t)(s.vocab * s.hidden) * 4);
                if (threads == 1) loss = now, dh = h1, dw = h2;
                assert_true(now == loss);
                assert_true(h1.lo == dh.lo && h1.hi == dh.hi);
                assert_true(h2.lo == dw.lo && h2.hi == dw.hi);
            }
            tear_down(&s);
        }
        syi_engine_free(e);
        sy_context_free(ctx);
    }
}

/* Logits far apart: nothing overflows, the loss is exact. */
static void large_logits(void **state)
{
    (void)state;
    for (int p = 0; p < CPUS; p++) {
        sy_context *ctx = sy_context_new();
        syi_engine *e = engine_on(ctx, cpus[p]);
        if (e) {
            setup s = set_up(SY_F32, SY_F32, 50, 16, 5000, false);
            for (int64_t i = 0; i < s.tokens * s.hidden; i++) s.h[i] = ((float *)s.h_in)[i] *= 100;
            s.loss = formula(&s, s.h, s.w, s.nll, NULL, NULL);
            double loss = run(e, &s, true, false);
            assert_true(fabs(loss - s.loss) <= 1e-5 * s.loss);
            for (int64_t i = 0; i < s.tokens * s.hidden; i++) assert_true(isfinite(((float *)s.dh_out)[i]));
            tear_down(&s);
        }
        syi_engine_free(e);
        sy_context_free(ctx);
    }
}

static void wrong_calls(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    syi_engine *e = NULL;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    setup s = set_up(SY_F32, SY_F32, 9, 4, 11, false);
    const syi_head a = {s.tokens, s.hidden, s.vocab, s.target, NULL, 1, false};
    double loss;
    void *scratch = malloc((size_t)syi_head_scratch(e, SY_F32, &a, false));
    s.target[5] = 11;
    assert_int_equal(syi_head_loss(e, SY_F32, &a, s.h_in, SY_F32, s.w_in, &loss, NULL, NULL, NULL, scratch), SY_E_BUG);
    assert_non_null(strstr(sy_error_message(ctx), "target[5] = 11"));
    s.target[5] = 1;
    assert_int_equal(syi_head_loss(e, SY_F32, &a, s.h_in, SY_F64, s.w_in, &loss, NULL, NULL, NULL, scratch), SY_E_BUG);
    for (int i = 0; i < 9; i++) s.target[i] = -1; /* nothing to learn from */
    assert_int_equal(syi_head_loss(e, SY_F32, &a, s.h_in, SY_F32, s.w_in, &loss, s.nll_out, s.dh_out, NULL, scratch), SY_OK);
    assert_true(loss == 0);
    for (int i = 0; i < 36; i++) assert_true(((float *)s.dh_out)[i] == 0);
    free(scratch);
    tear_down(&s);
    /* what the scratch may cost at SmolLM2's and Qwen's vocabularies */
    const syi_head big[] = {{1 << 20, 576, 49152, NULL, NULL, 1, false}, {1 << 20, 1024, 151936, NULL, NULL, 1, false}};
    for (int i = 0; i < 2; i++) {
        assert_true(syi_head_scratch(e, SY_BF16, &big[i], false) - big[i].tokens * 4 < 16 << 20);
        assert_true(syi_head_scratch(e, SY_BF16, &big[i], true) - big[i].tokens * 4 < 72 << 20);
    }
    syi_engine_free(e);
    sy_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_gradient), cmocka_unit_test(any_number_of_threads), cmocka_unit_test(every_path),
        cmocka_unit_test(large_logits), cmocka_unit_test(wrong_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
