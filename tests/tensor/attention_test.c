/* SPDX-License-Identifier: Apache-2.0 */
/* Attention on every CPU path that this machine has, in f64, f32 and bf16, held
 * against a brute-force softmax over the whole T x T matrix in f64, whose own
 * gradients are held against central differences: grouped heads, document
 * boundaries, windows, padding, odd sizes, decoding over a cache, any number of
 * threads. */
#include "support/test.h"

#include "tensor/kernels.h"

#include <math.h>

/* -- helpers ----------------------------------------------------------------------- */

static const char *const cpus[] = {"plain", "avx2", "avx512", "avx512_bf16", "neon"};
static const char *const types[] = {"f32", "bf16"};

/* An engine on that path, NULL if this CPU does not have it. */
static syi_engine *engine_on(sy_context *ctx, const char *cpu)
{
    syi_engine *e = NULL;
    assert_int_equal(setenv("STEELYARD_CPU", cpu, 1), 0);
    sy_status st = syi_engine_new(ctx, &e);
    unsetenv("STEELYARD_CPU");
    if (st != SY_OK) assert_int_equal(st, SY_E_USAGE);
    else assert_string_equal(syi_engine_cpu(e), cpu);
    return st == SY_OK ? e : NULL;
}

/* A tensor in some type with its exact value in f64 beside it. */
typedef struct { sy_dtype dt; int64_t n; void *data; double *value; } array;

static void array_read(const array *a)
{
    for (int64_t i = 0; i < a->n; i++) {
        union { uint32_t u; float f; } x = {0};
        if (a->dt == SY_BF16) x.u = (uint32_t)((const uint16_t *)a->data)[i] << 16;
        else if (a->dt == SY_F32) x.f = ((const float *)a->data)[i];
        a->value[i] = a->dt == SY_F64 ? ((const double *)a->data)[i] : (double)x.f;
    }
}

static array array_new(sy_dtype dt, int64_t n, uint64_t key, double scale)
{
    array a = {dt, n, malloc((size_t)n * 8 + 8), malloc((size_t)n * 8 + 8)};
    float *normal = malloc((size_t)n * 4 + 4);
    syi_normal(key, 0, n, normal);
    for (int64_t i = 0; i < n; i++) {
        union { float f; uint32_t u; } x = {normal[i] * (float)scale};
        if (dt == SY_F64) ((double *)a.data)[i] = x.f;
        else if (dt == SY_F32) ((float *)a.data)[i] = x.f;
        else ((uint16_t *)a.data)[i] = (uint16_t)(x.u >> 16); /* some bf16 nearby: array_read says which */
    }
    free(normal);
    array_read(&a);
    return a;
}

static void array_free(array *a)
{
    free(a->data);
    free(a->value);
}

/* |x - y| / |y| over all numbers; 0/0 is 0. */
static double distance(const double *x, const double *y, int64_t n)
{
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        assert_true(isfinite(x[i]));
        diff += (x[i] - y[i]) * (x[i] - y[i]), norm += y[i] * y[i];
    }
    return diff == 0 ? 0 : sqrt(diff / (norm > 0 ? norm : 1e-30));
}

#define EXPECT_NEAR(x, y, n, tol, what, label) do { \
    double far_ = distance(x, y, n); \
    if (!(far_ <= (tol))) fail_msg("%s: %s is %.3g from the reference, at most %.3g expected", label, what, far_, (double)(tol)); \
} while (0)

/* Scratch of exactly the size asked for, full of NaN. */
static void *scratch_new(int64_t bytes)
{
    void *p = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64 + 64);
    memset(p, 0xff, (size_t)(bytes + 63) / 64 * 64 + 64);
    return p;
}

static void scratch_free(void *p, int64_t bytes)
{
    const unsigned char *c = p;
    for (int64_t i = bytes; i < (bytes + 63) / 64 * 64 + 64; i++) assert_int_equal(c[i], 0xff);
    free(p);
}

/* -- the reference -------------------------------------------------------------------- */

static int64_t lo_of(const syi_attention *a, int64_t t)
{
    int64_t lo = a->first ? a->first[t] : 0;
    return a->window > 0 && t - a->window + 1 > lo ? t - a->window + 1 : lo;
}

static int64_t hi_of(const syi_attention *a, int64_t t) { return a->last ? a->last[t] : t; }

/* Row t of head h: probabilities p[T] of every position (0 where it may not look),
 * returns log sum exp. */
static double brute_row(const syi_attention *a, const double *q, const double *k, int64_t t, int64_t h, double *p, double *slope)
{
    const int64_t d = a->dim, H = a->heads, K = a->kv_heads, j = h / (H / K);
    double top = -INFINITY, sum = 0;
    for (int64_t s = 0; s < a->tokens; s++) {
        p[s] = -INFINITY;
        if (slope) slope[s] = 1;
        if (s > hi_of(a, t) || s < lo_of(a, t)) continue;
        double x = 0;
        for (int64_t c = 0; c < d; c++) x += q[(t * H + h) * d + c] * k[(s * K + j) * d + c];
        p[s] = x * a->scale;
        if (a->softcap > 0) {
            const double th = tanh(p[s] / a->softcap);
            p[s] = a->softcap * th;
            if (slope) slope[s] = 1 - th * th;
        }
        if (p[s] > top) top = p[s];
    }
    for (int64_t s = 0; s < a->tokens; s++) sum += exp(p[s] - top);
    for (int64_t s = 0; s < a->tokens; s++) p[s] = exp(p[s] - top) / sum;
    return top + log(sum);
}

/* Row t of head h of the result. */
static void brute_out(const syi_attention *a, const double *p, const double *v, int64_t t, int64_t h, double *out)
{
    const int64_t d = a->dim, K = a->kv_heads, j = h / (a->heads / K);
    for (int64_t c = 0; c < d; c++) out[c] = 0;
    for (int64_t s = 0; s <= hi_of(a, t); s++)
        for (int64_t c = 0; c < d; c++) out[c] += p[s] * v[(s * K + j) * d + c];
}

/* out, lse and, with dout, the gradients. */
static void brute(const syi_attention *a, const double *q, const double *k, const double *v, const double *dout,
                  double *out, double *lse, double *dq, double *dk, double *dv)
{
    const int64_t T = a->tokens, d = a->dim, H = a->heads, K = a->kv_heads;
    double *p = malloc((size_t)T * sizeof *p), *dp = malloc((size_t)T * sizeof *dp), *slope = malloc((size_t)T * sizeof *slope);
    if (dout) {
        memset(dq, 0, (size_t)(T * H * d) * 8);
        memset(dk, 0, (size_t)(T * K * d) * 8);
        memset(dv, 0, (size_t)(T * K * d) * 8);
    }
    for (int64_t t = 0; t < T; t++) {
        for (int64_t h = 0; h < H; h++) {
            const int64_t j = h / (H / K), row = (t * H + h) * d;
            double own = 0;
            lse[h * T + t] = brute_row(a, q, k, t, h, p, slope);
            brute_out(a, p, v, t, h, out + row);
            for (int64_t s = 0; dout && s <= hi_of(a, t); s++) {
                dp[s] = 0;
                for (int64_t c = 0; c < d; c++) dp[s] += dout[row + c] * v[(s * K + j) * d + c];
                own += p[s] * dp[s];
            }
            for (int64_t s = 0; dout && s <= hi_of(a, t); s++) {
                double ds = p[s] * (dp[s] - own) * a->scale * slope[s];
                for (int64_t c = 0; c < d; c++) {
                    dq[row + c] += ds * k[(s * K + j) * d + c];
                    dk[(s * K + j) * d + c] += ds * q[row + c];
                    dv[(s * K + j) * d + c] += p[s] * dout[row + c];
                }
            }
        }
    }
    free(p);
    free(dp);
    free(slope);
}

/* The reference's own gradients: d/dx sum(out * dout) by central differences. */
static void reference_gradients(void **state)
{
    (void)state;
    static const int32_t first[7] = {0, 0, 0, 3, 3, 3, 3};
    static const int32_t last[7] = {2, 2, 2, 6, 6, 6, 6};
    static const syi_attention rows[] = {{7, 4, 2, 3, 0.7, first, 3, 0, NULL}, {7, 4, 2, 3, 0.7, first, 0, 0.9, last}};
    for (int row = 0; row < 2; row++) {
    const syi_attention a = rows[row];
    enum { Q = 7 * 4 * 3, K = 7 * 2 * 3, L = 7 * 4 };
    double x[Q + 2 * K], dout[Q], out[Q], lse[L], grad[Q + 2 * K];
    for (int i = 0; i < Q + 2 * K; i++) x[i] = sin(1 + 3.7 * i);
    for (int i = 0; i < Q; i++) dout[i] = cos(2 + 1.3 * i);
    brute(&a, x, x + Q, x + Q + K, dout, out, lse, grad, grad + Q, grad + Q + K);
    for (int i = 0; i < Q + 2 * K; i++) {
        const double was = x[i], step = 1e-5;
        double value[2];
        for (int side = 0; side < 2; side++) {
            x[i] = was + (side ? step : -step);
            brute(&a, x, x + Q, x + Q + K, NULL, out, lse, NULL, NULL, NULL);
            value[side] = 0;
            for (int c = 0; c < Q; c++) value[side] += out[c] * dout[c];
        }
        x[i] = was;
        assert_true(fabs((value[1] - value[0]) / (2 * step) - grad[i]) < 1e-8);
    }
    }
}

/* -- cases ------------------------------------------------------------------------------- */

/* Where documents begin. */
enum { ONE, EVEN, RAGGED, SHORT, PADDED };

static void documents(int kind, int64_t tokens, int32_t *first)
{
    static const int ragged[] = {37, 1, 90, 16, 5, 200, 48, 3};
    int32_t at = 0;
    int64_t left = 0;
    for (int64_t t = 0, doc = 0; t < tokens; t++, left--) {
        if (left == 0) {
            at = (int32_t)t;
            left = kind == ONE ? tokens : kind == EVEN ? 64 : kind == SHORT ? 3 : ragged[doc++ % 8];
            if (kind == PADDED) left = t == 0 && tokens > 10 ? tokens - tokens / 3 : 1;
        }
        first[t] = at;
    }
}

static const struct { const char *what; int64_t tokens, heads, kv_heads, dim; int docs; int64_t window; double softcap; bool ahead; } cases[] = {
    {"one token", 1, 2, 1, 8, ONE, 0, 0, false},
    {"two tokens", 2, 3, 3, 16, ONE, 0, 0, false},
    {"SmolLM2's heads", 150, 9, 3, 64, ONE, 0, 0, false},
    {"SmolLM2's heads, packed", 413, 9, 3, 64, RAGGED, 0, 0, false},
    {"even documents", 192, 9, 3, 64, EVEN, 0, 0, false},
    {"head size 128", 131, 8, 2, 128, RAGGED, 0, 0, false},
    {"head size 128, long", 300, 4, 4, 128, ONE, 0, 0, false},
    {"head size 256", 70, 2, 1, 256, ONE, 0, 0, false},
    {"head size 80", 97, 4, 1, 80, RAGGED, 0, 0, false},
    {"odd head size", 61, 3, 1, 33, SHORT, 0, 0, false},
    {"head size 8", 203, 7, 1, 8, RAGGED, 0, 0, false},
    {"many heads share one", 66, 14, 2, 64, ONE, 0, 0, false},
    {"window", 260, 6, 2, 64, ONE, 40, 0, false},
    {"window of one", 33, 2, 2, 32, ONE, 1, 0, false},
    {"window and documents", 260, 6, 2, 64, RAGGED, 70, 0, false},
    {"padding", 180, 9, 3, 64, PADDED, 0, 0, false},
    {"documents of three", 100, 4, 2, 32, SHORT, 0, 0, false},
    {"soft cap", 150, 4, 2, 64, ONE, 0, 0.8, false},
    {"soft cap, window, documents", 260, 6, 2, 128, RAGGED, 50, 2, false},
    {"looking ahead", 197, 3, 3, 64, ONE, 0, 0, true},
    {"looking ahead in documents", 413, 6, 2, 32, RAGGED, 0, 0, true},
    {"looking ahead, short documents", 120, 4, 4, 64, SHORT, 0, 1.5, true},
    {"looking ahead, padding", 180, 9, 3, 64, PADDED, 0, 0, true},
};

/* The last token of each document. */
static void ends(const int32_t *first, int64_t tokens, int32_t *last)
{
    for (int64_t t = tokens - 1; t >= 0; t--) last[t] = t + 1 < tokens && first[t + 1] == first[t] ? last[t + 1] : (int32_t)t;
}

typedef struct { array q, k, v, dout, out, lse, dq, dk, dv; double *ref[5]; } setup;

static setup set_up(const syi_attention *a, sy_dtype dt, double size)
{
    const int64_t nq = a->tokens * a->heads * a->dim, nk = a->tokens * a->kv_heads * a->dim, nl = a->heads * a->tokens;
    setup s = {array_new(dt, nq, 1, size), array_new(dt, nk, 2, size), array_new(dt, nk, 3, 1), array_new(dt, nq, 4, 1),
               array_new(dt, nq, 5, 1), array_new(dt == SY_F64 ? SY_F64 : SY_F32, nl, 6, 1),
               array_new(dt, nq, 7, 1), array_new(dt, nk, 8, 1), array_new(dt, nk, 9, 1), {0}};
    const int64_t sizes[] = {nq, nl, nq, nk, nk};
    for (int i = 0; i < 5; i++) s.ref[i] = malloc((size_t)sizes[i] * 8 + 8);
    brute(a, s.q.value, s.k.value, s.v.value, s.dout.value, s.ref[0], s.ref[1], s.ref[2], s.ref[3], s.ref[4]);
    return s;
}

static void tear_down(setup *s)
{
    array *all[] = {&s->q, &s->k, &s->v, &s->dout, &s->out, &s->lse, &s->dq, &s->dk, &s->dv};
    for (int i = 0; i < 9; i++) array_free(all[i]);
    for (int i = 0; i < 5; i++) free(s->ref[i]);
}

static void forward(syi_engine *e, const syi_attention *a, sy_dtype dt, const setup *s)
{
    int64_t bytes = syi_attention_scratch(e, dt, a, false);
    void *scratch = scratch_new(bytes);
    assert_int_equal(syi_attention_forward(e, dt, a, s->q.data, s->k.data, s->v.data, s->out.data, s->lse.data, scratch), SY_OK);
    scratch_free(scratch, bytes);
}

static void backward(syi_engine *e, const syi_attention *a, sy_dtype dt, const setup *s, bool add)
{
    int64_t bytes = syi_attention_scratch(e, dt, a, true);
    void *scratch = scratch_new(bytes);
    assert_int_equal(syi_attention_backward(e, dt, a, s->q.data, s->k.data, s->v.data, s->out.data, s->lse.data, s->dout.data,
                                            add, s->dq.data, add, s->dk.data, add, s->dv.data, scratch), SY_OK);
    scratch_free(scratch, bytes);
}

/* One case in one type on one path; s holds the reference. */
static void check_case(syi_engine *e, const syi_attention *a, sy_dtype dt, setup *s, const char *label)
{
    /* bf16's bounds are those of its rounding of P, dS and the results */
    const double tol = dt == SY_F64 ? 1e-13 : dt == SY_F32 ? 4e-6 : 6e-3;
    const double tol_grad = dt == SY_F64 ? 1e-12 : dt == SY_F32 ? 1e-5 : 1.2e-2;
    forward(e, a, dt, s);
    array_read(&s->out), array_read(&s->lse);
    EXPECT_NEAR(s->out.value, s->ref[0], s->out.n, tol, "out", label);
    EXPECT_NEAR(s->lse.value, s->ref[1], s->lse.n, dt == SY_F64 ? 1e-14 : 1e-5, "lse", label);
    for (int add = 0; add < 2; add++) {
        array *grads[] = {&s->dq, &s->dk, &s->dv};
        static const char *const names[2][3] = {{"dq", "dk", "dv"}, {"added dq", "added dk", "added dv"}};
        double *before[3];
        for (int i = 0; i < 3; i++) {
            before[i] = malloc((size_t)grads[i]->n * 8);
            memcpy(before[i], grads[i]->value, (size_t)grads[i]->n * 8);
        }
        backward(e, a, dt, s, add);
        for (int i = 0; i < 3; i++) {
            array_read(grads[i]);
            for (int64_t x = 0; x < grads[i]->n; x++) before[i][x] = s->ref[2 + i][x] + (add ? before[i][x] : 0);
            /* dq and dk are exactly 0 where a token sees only itself: then bf16 and
             * f32 leave rounding noise, measured against the size of dout */
            double norm = 0, far = 0;
            for (int64_t x = 0; x < grads[i]->n; x++) {
                norm += before[i][x] * before[i][x] + 1e-2;
                far += (grads[i]->value[x] - before[i][x]) * (grads[i]->value[x] - before[i][x]);
            }
            far = sqrt(far / norm);
            if (!(far <= tol_grad)) fail_msg("%s: %s is %.3g from the reference, at most %.3g expected", label, names[add][i], far, tol_grad);
            free(before[i]);
        }
    }
}

static void every_path(void **state)
{
    (void)state;
    int paths = 0;
    sy_context *ctx = sy_context_new();
    syi_engine *e[SYI_COUNT(cpus)];
    assert_int_equal(sy_threads_set(ctx, 2), SY_OK);
    for (int p = 0; p < SYI_COUNT(cpus); p++) paths += (e[p] = engine_on(ctx, cpus[p])) != NULL;
    assert_true(e[0] != NULL);
    for (int i = 0; i < 3 * SYI_COUNT(cases); i++) {
        const int c = i / 3;
        const sy_dtype dt = i % 3 == 0 ? SY_F64 : i % 3 == 1 ? SY_F32 : SY_BF16;
        int32_t *first = malloc((size_t)cases[c].tokens * sizeof *first);
        int32_t *last = malloc((size_t)cases[c].tokens * sizeof *last);
        documents(cases[c].docs, cases[c].tokens, first);
        ends(first, cases[c].tokens, last);
        const syi_attention a = {cases[c].tokens, cases[c].heads, cases[c].kv_heads, cases[c].dim, 1 / sqrt((double)cases[c].dim),
                                 cases[c].docs == ONE && c % 2 ? NULL : first, cases[c].window, cases[c].softcap, cases[c].ahead ? last : NULL};
        setup s = set_up(&a, dt, 1.5);
        for (int p = 0; p < (dt == SY_F64 ? 1 : SYI_COUNT(cpus)); p++) { /* f64 is the same code on all */
            char label[128];
            snprintf(label, sizeof label, "%s, %s, %s", cpus[p], sy_dtype_name(dt), cases[c].what);
            if (e[p]) check_case(e[p], &a, dt, &s, label);
        }
        tear_down(&s);
        free(first), free(last);
    }
    for (int p = 0; p < SYI_COUNT(cpus); p++) syi_engine_free(e[p]);
    sy_context_free(ctx);
    assert_true(paths >= 1);
}

/* Random heads, sizes, documents and windows. */
static void random_shapes(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    syi_engine *e[SYI_COUNT(cpus)];
    assert_int_equal(sy_threads_set(ctx, 2), SY_OK);
    for (int p = 0; p < SYI_COUNT(cpus); p++) e[p] = engine_on(ctx, cpus[p]);
    for (int i = 0; i < 60; i++) {
        int64_t r[8];
        for (int x = 0; x < 8; x++) r[x] = (int64_t)(syi_random_u64(77, i * 8 + x) >> 1);
        static const int64_t dims[] = {8, 16, 24, 40, 64, 72};
        const int64_t tokens = 1 + r[0] % 260, kv = 1 + r[1] % 3, heads = kv * (1 + r[2] % 5), dim = dims[r[3] % 6];
        const int64_t most = r[4] % 4 == 0 ? tokens : 1 + r[5] % 120;
        int32_t *first = malloc((size_t)tokens * sizeof *first);
        int64_t left = 0, doc = 0;
        for (int64_t t = 0; t < tokens; t++, left--) {
            if (left == 0) left = 1 + (int64_t)(syi_random_u64(78, i * 1000 + doc++) >> 1) % most, first[t] = (int32_t)t;
            else first[t] = first[t - 1];
        }
        int32_t *last = malloc((size_t)tokens * sizeof *last);
        ends(first, tokens, last);
        const bool ahead = r[7] % 5 == 0;
        const syi_attention a = {tokens, heads, kv, dim, 0.3, first, r[6] % 3 || ahead ? 0 : 1 + r[7] % 90, r[6] % 4 == 1 ? 1.2 : 0, ahead ? last : NULL};
        const sy_dtype dt = i % 2 ? SY_BF16 : SY_F32;
        setup s = set_up(&a, dt, 1);
        for (int p = 0; p < SYI_COUNT(cpus); p++) {
            char label[128];
            snprintf(label, sizeof label, "%s, %s, random shape %d", cpus[p], sy_dtype_name(dt), i);
            if (e[p]) check_case(e[p], &a, dt, &s, label);
        }
        tear_down(&s);
        free(first), free(last);
    }
    for (int p = 0; p < SYI_COUNT(cpus); p++) syi_engine_free(e[p]);
    sy_context_free(ctx);
}

/* Scores far apart: the running maximum jumps, weights underflow. */
static void large_scores(void **state)
{
    (void)state;
    for (int p = 0; p < SYI_COUNT(cpus); p++) {
        sy_context *ctx = sy_context_new();
        syi_engine *e = engine_on(ctx, cpus[p]);
        for (int t = 0; e && t < 2; t++) {
            const sy_dtype dt = t ? SY_BF16 : SY_F32;
            const syi_attention a = {140, 6, 2, 64, 1, NULL, 0, 0, NULL};
            char label[64];
            snprintf(label, sizeof label, "%s, %s, large scores", cpus[p], types[t]);
            setup s = set_up(&a, dt, 8);
            forward(e, &a, dt, &s);
            array_read(&s.out), array_read(&s.lse);
            EXPECT_NEAR(s.lse.value, s.ref[1], s.lse.n, 1e-6, "lse", label);
            EXPECT_NEAR(s.out.value, s.ref[0], s.out.n, dt == SY_F32 ? 3e-4 : 6e-3, "out", label);
            backward(e, &a, dt, &s, false);
            array_read(&s.dv);
            EXPECT_NEAR(s.dv.value, s.ref[4], s.dv.n, dt == SY_F32 ? 3e-4 : 1e-2, "dv", label);
            tear_down(&s);
        }
        syi_engine_free(e);
        sy_context_free(ctx);
    }
}

/* A row that sees only itself: what others hold, NaN included, must not matter. */
static void documents_are_apart(void **state)
{
    (void)state;
    for (int p = 0; p < SYI_COUNT(cpus); p++) {
        sy_context *ctx = sy_context_new();
        syi_engine *e = engine_on(ctx, cpus[p]);
        for (int t = 0; e && t < 2; t++) {
            const sy_dtype dt = t ? SY_BF16 : SY_F32;
            const size_t item = t ? 2 : 4;
            int32_t first[150];
            for (int i = 0; i < 150; i++) first[i] = i < 71 ? 0 : 71;
            const syi_attention a = {150, 3, 1, 64, 0.125, first, 0, 0, NULL};
            setup s = set_up(&a, dt, 1);
            forward(e, &a, dt, &s);
            backward(e, &a, dt, &s, false);
            array *all[] = {&s.out, &s.dq, &s.dk, &s.dv};
            void *was[4];
            for (int i = 0; i < 4; i++) {
                was[i] = malloc((size_t)all[i]->n * item);
                memcpy(was[i], all[i]->data, (size_t)all[i]->n * item);
            }
            for (int64_t i = 0; i < s.k.n; i++) { /* other numbers in the first document */
                if (i >= 71 * 64) break;
                memcpy((char *)s.k.data + (size_t)i * item, (char *)s.k.data + (size_t)(i + 71 * 64) * item, item);
                memcpy((char *)s.v.data + (size_t)i * item, (char *)s.v.data + (size_t)(i + 72 * 64) * item, item);
            }
            forward(e, &a, dt, &s);
            backward(e, &a, dt, &s, false);
            for (int i = 0; i < 4; i++) {
                const size_t from = 71 * (size_t)(i < 2 ? 3 : 1) * 64 * item;
                assert_memory_equal((char *)all[i]->data + from, (char *)was[i] + from, (size_t)all[i]->n * item - from);
                assert_memory_not_equal(all[i]->data, was[i], from);
                free(was[i]);
            }
            tear_down(&s);
        }
        syi_engine_free(e);
        sy_context_free(ctx);
    }
}

static void any_number_of_threads(void **state)
{
    (void)state;
    static const int shapes[] = {3, 6, 14, 15, 18, 20};
    for (int p = 0; p < SYI_COUNT(cpus); p++) {
        sy_context *ctx = sy_context_new();
        syi_engine *e = engine_on(ctx, cpus[p]);
        for (int i = 0; e && i < 2 * SYI_COUNT(shapes); i++) {
            const int c = shapes[i / 2];
            const sy_dtype dt = i % 2 ? SY_BF16 : SY_F32;
            int32_t first[512];
            documents(cases[c].docs, cases[c].tokens, first);
            int32_t last[512];
            ends(first, cases[c].tokens, last);
            const syi_attention a = {cases[c].tokens, cases[c].heads, cases[c].kv_heads, cases[c].dim, 0.1, first, cases[c].window, cases[c].softcap,
                                     cases[c].ahead ? last : NULL};
            setup s = set_up(&a, dt, 1);
            array *all[] = {&s.out, &s.lse, &s.dq, &s.dk, &s.dv};
            syi_hash hash[5] = {{0, 0}};
            for (int threads = 1; threads <= 3; threads += 2) {
                assert_int_equal(sy_threads_set(ctx, threads), SY_OK);
                forward(e, &a, dt, &s);
                backward(e, &a, dt, &s, false);
                for (int x = 0; x < 5; x++) {
                    syi_hash now = syi_hash_bytes(all[x]->data, (size_t)all[x]->n * (all[x]->dt == SY_BF16 ? 2 : 4));
                    if (threads == 1) hash[x] = now;
                    assert_true(now.lo == hash[x].lo && now.hi == hash[x].hi);
                }
            }
            tear_down(&s);
        }
        syi_engine_free(e);
        sy_context_free(ctx);
    }
}

/* n tokens over a cache, at its beginning, middle and end, on all paths. */
static void check_cached(sy_context *ctx, syi_engine *const *e, sy_dtype dt, const syi_attention *a, int64_t n, int row_no)
{
    const int64_t total = a->tokens, H = a->heads, K = a->kv_heads, d = a->dim, capacity = total + 5;
    const size_t row = (size_t)d * (dt == SY_F64 ? 8 : dt == SY_F32 ? 4 : 2);
    array q = array_new(dt, total * H * d, 1, 1.5), k = array_new(dt, total * K * d, 2, 1.5), v = array_new(dt, total * K * d, 3, 1);
    array out = array_new(dt, n * H * d, 4, 1);
    double *ref = malloc((size_t)(n * H * d) * 8), *p = malloc((size_t)total * 8);
    char *kc = malloc((size_t)(K * capacity) * row), *vc = malloc((size_t)(K * capacity) * row);
    for (int x = 0; x < 3; x++) {
        const int64_t past = x * (total - n) / 2, held = past + n;
        memset(kc, 0xff, (size_t)(K * capacity) * row); /* rows past the end: NaN */
        memset(vc, 0xff, (size_t)(K * capacity) * row);
        for (int64_t t = 0; t < held; t++)
            for (int64_t j = 0; j < K; j++) {
                memcpy(kc + (size_t)(j * capacity + t) * row, (char *)k.data + (size_t)(t * K + j) * row, row);
                memcpy(vc + (size_t)(j * capacity + t) * row, (char *)v.data + (size_t)(t * K + j) * row, row);
            }
        for (int64_t i = 0; i < n * H; i++) {
            brute_row(a, q.value, k.value, past + i / H, i % H, p, NULL);
            brute_out(a, p, v.value, past + i / H, i % H, ref + i * d);
        }
        for (int c = 0; c < (dt == SY_F64 ? 1 : SYI_COUNT(cpus)); c++) {
            char label[96];
            syi_hash hash = {0, 0};
            for (int threads = 1; e[c] && threads <= 3; threads += 2) {
                assert_int_equal(sy_threads_set(ctx, threads), SY_OK);
                syi_attention fresh = *a;
                fresh.tokens = n;
                assert_int_equal(syi_attention_cached(e[c], dt, &fresh, past, capacity,
                                                      (char *)q.data + (size_t)(past * H) * row, kc, vc, out.data), SY_OK);
                syi_hash now = syi_hash_bytes(out.data, (size_t)(n * H) * row);
                if (threads == 1) hash = now;
                assert_true(now.lo == hash.lo && now.hi == hash.hi);
            }
            if (!e[c]) continue;
            snprintf(label, sizeof label, "%s, %s, cache row %d, past %lld", cpus[c], sy_dtype_name(dt), row_no, (long long)past);
            array_read(&out);
            EXPECT_NEAR(out.value, ref, out.n, dt == SY_F64 ? 1e-13 : dt == SY_F32 ? 4e-6 : 6e-3, "out", label);
        }
    }
    free(kc), free(vc), free(ref), free(p);
    array_free(&q), array_free(&k), array_free(&v), array_free(&out);
}

static void cached(void **state)
{
    (void)state;
    static const struct { int64_t total, n, heads, kv_heads, dim, window; double softcap; } rows[] = {
        {40, 1, 9, 3, 64, 0, 0}, {77, 7, 9, 3, 64, 0, 0}, {200, 90, 9, 3, 64, 0, 0}, {2100, 1, 9, 3, 64, 0, 0}, {700, 40, 4, 4, 32, 0, 0}, {1300, 2, 6, 6, 64, 0, 0},
        {61, 3, 14, 2, 128, 0, 0}, {30, 1, 2, 1, 33, 0, 0}, {1400, 2, 4, 1, 80, 0, 0}, {1300, 5, 8, 8, 128, 0, 0}, {90, 90, 2, 1, 256, 0, 0}, {1, 1, 1, 1, 8, 0, 0},
        {600, 1, 2, 1, 256, 0, 0}, {515, 1, 16, 1, 64, 0, 0}, {515, 4, 4, 2, 64, 0, 0},
        {700, 1, 8, 4, 64, 100, 0}, {700, 3, 4, 2, 64, 5, 0}, {900, 80, 4, 2, 64, 130, 3}, {515, 1, 8, 4, 128, 0, 2}, {600, 4, 4, 2, 32, 1, 1},
    };
    sy_context *ctx = sy_context_new();
    syi_engine *e[SYI_COUNT(cpus)];
    for (int p = 0; p < SYI_COUNT(cpus); p++) e[p] = engine_on(ctx, cpus[p]);
    for (int i = 0; i < 3 * SYI_COUNT(rows); i++) {
        const int r = i / 3;
        const syi_attention a = {rows[r].total, rows[r].heads, rows[r].kv_heads, rows[r].dim, 1 / sqrt((double)rows[r].dim), NULL, rows[r].window, rows[r].softcap, NULL};
        check_cached(ctx, e, i % 3 == 0 ? SY_F32 : i % 3 == 1 ? SY_BF16 : SY_F64, &a, rows[r].n, r);
    }
    for (int p = 0; p < SYI_COUNT(cpus); p++) syi_engine_free(e[p]);
    sy_context_free(ctx);
}

static void long_context(void **state)
{
    (void)state;
    /* Memory linear in tokens: scratch for twice the tokens is at most twice as big
     * (and a constant), and far from T x T. */
    sy_context *ctx = sy_context_new();
    syi_engine *e = NULL;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    for (int backwards = 0; backwards < 2; backwards++) {
        syi_attention a = {16384, 9, 3, 64, 0.125, NULL, 0, 0, NULL};
        int64_t half = syi_attention_scratch(e, SY_BF16, &a, backwards);
        a.tokens = 32768;
        int64_t whole = syi_attention_scratch(e, SY_BF16, &a, backwards);
        assert_true(whole <= 2 * half + (1 << 16));
        assert_true(whole <= 32768 * (int64_t)(9 * 64 * 4) * 16);
    }
    /* and a few rows of a long document are right */
    const syi_attention a = {6000, 1, 1, 64, 0.125, NULL, 0, 0, NULL};
    array q = array_new(SY_BF16, 6000 * 64, 1, 1), k = array_new(SY_BF16, 6000 * 64, 2, 1), v = array_new(SY_BF16, 6000 * 64, 3, 1);
    array out = array_new(SY_BF16, 6000 * 64, 4, 1);
    double *p = malloc(6000 * sizeof *p), ref[64];
    int64_t bytes = syi_attention_scratch(e, SY_BF16, &a, false);
    void *scratch = scratch_new(bytes);
    assert_int_equal(syi_attention_forward(e, SY_BF16, &a, q.data, k.data, v.data, out.data, NULL, scratch), SY_OK);
    scratch_free(scratch, bytes);
    array_read(&out);
    for (int64_t t = 5999; t >= 0; t -= 857) {
        brute_row(&a, q.value, k.value, t, 0, p, NULL);
        brute_out(&a, p, v.value, t, 0, ref);
        EXPECT_NEAR(out.value + t * 64, ref, 64, 1e-2, "out", "a row of a long document");
    }
    free(p);
    array_free(&q), array_free(&k), array_free(&v), array_free(&out);
    syi_engine_free(e);
    sy_context_free(ctx);
}

static void wrong_calls(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    syi_engine *e = NULL;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    float x[256] = {0};
    char scratch[1 << 16];
    int32_t first[4] = {0, 0, 1, 1};
    syi_attention a = {4, 2, 2, 8, 1, first, 0, 0, NULL};
    assert_int_equal(syi_attention_forward(e, SY_F32, &a, x, x, x, x, x, scratch), SY_E_BUG);
    assert_non_null(strstr(sy_error_message(ctx), "first[2] = 1"));
    a.first = NULL, a.heads = 3;
    assert_int_equal(syi_attention_forward(e, SY_F32, &a, x, x, x, x, x, scratch), SY_E_BUG);
    a.heads = 2;
    assert_int_equal(syi_attention_forward(e, SY_I32, &a, x, x, x, x, x, scratch), SY_E_BUG);
    a.dim = 4096;
    assert_int_equal(syi_attention_forward(e, SY_F32, &a, x, x, x, x, x, scratch), SY_E_UNSUPPORTED);
    assert_int_equal(syi_attention_cached(e, SY_F32, &(syi_attention){.tokens = 3, .heads = 1, .kv_heads = 1, .dim = 8, .scale = 1}, 2, 4, x, x, x, x), SY_E_BUG);
    assert_non_null(strstr(sy_error_message(ctx), "cache of 4"));
    a.dim = 8, a.tokens = 0;
    assert_int_equal(syi_attention_forward(e, SY_F32, &a, x, x, x, x, x, scratch), SY_OK);
    syi_engine_free(e);
    sy_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_gradients), cmocka_unit_test(every_path), cmocka_unit_test(random_shapes),
        cmocka_unit_test(large_scores), cmocka_unit_test(documents_are_apart),
        cmocka_unit_test(any_number_of_threads), cmocka_unit_test(cached),
        cmocka_unit_test(long_context), cmocka_unit_test(wrong_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
