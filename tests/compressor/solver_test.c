/* SPDX-License-Identifier: Apache-2.0 */
/* The column solver against plain loops in f64 that follow the papers line by line, and
 * against closed forms: GPTQ's step is the constrained least-squares minimum, residual
 * coefficients are D H^-1 of the trailing inputs, the "exact" variant's objective differs
 * from its own by a constant. */
#include "support/test.h"

#include "compressor/solve.h"

#include <math.h>

typedef struct { sy_context *ctx; syi_engine *e; int64_t n; double *h, *d; } layer;

static void inputs(layer *l, int64_t n, int64_t tokens, double shift, uint64_t seed)
{
    float *x = malloc((size_t)(tokens * n) * sizeof *x), *noise = malloc((size_t)(tokens * n) * sizeof *x), *mix = malloc((size_t)(n * n) * sizeof *mix);
    double *y = calloc((size_t)(tokens * n), sizeof *y);
    syi_normal(seed, 0, tokens * n, x);
    syi_normal(seed + 1, 0, tokens * n, noise);
    syi_normal(seed + 2, 0, n * n, mix);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) y[t * n + j] += (double)x[t * n + i] / sqrt((double)i + 1) * (double)mix[i * n + j] / sqrt((double)n);
    l->n = n;
    l->h = calloc((size_t)(n * n), sizeof *l->h);
    l->d = calloc((size_t)(n * n), sizeof *l->d);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) {
                const double ref = y[t * n + i] * (1 + shift) + shift * (double)noise[t * n + i];
                l->h[i * n + j] += y[t * n + i] * y[t * n + j];
                l->d[i * n + j] += (ref - y[t * n + i]) * y[t * n + j];
            }
    free(x);
    free(noise);
    free(mix);
    free(y);
}

static int setup(void **state)
{
    layer *l = calloc(1, sizeof *l);
    l->ctx = sy_context_new();
    assert_int_equal(syi_engine_new(l->ctx, &l->e), SY_OK);
    inputs(l, 96, 300, 0.05, 11);
    *state = l;
    return 0;
}

static int teardown(void **state)
{
    layer *l = *state;
    syi_engine_free(l->e);
    assert_int_equal(sy_memory_now(l->ctx), 0);
    sy_context_free(l->ctx);
    free(l->h);
    free(l->d);
    free(l);
    return 0;
}

/* Inverse of the trailing block [q, n) of a, by Gauss and Jordan. */
static void inverse(const double *a, int64_t n, int64_t q, double *out)
{
    const int64_t m = n - q;
    double *t = malloc((size_t)(m * 2 * m) * sizeof *t);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < 2 * m; j++) t[i * 2 * m + j] = j < m ? a[(q + i) * n + q + j] : j - m == i;
    for (int64_t i = 0; i < m; i++) {
        const double p = t[i * 2 * m + i];
        for (int64_t j = 0; j < 2 * m; j++) t[i * 2 * m + j] /= p;
        for (int64_t r = 0; r < m; r++) {
            const double f = t[r * 2 * m + i];
            for (int64_t j = 0; r != i && j < 2 * m; j++) t[r * 2 * m + j] -= f * t[i * 2 * m + j];
        }
    }
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < m; j++) out[i * m + j] = t[i * 2 * m + m + j];
    free(t);
}

static double damped(const layer *l, double damp, double *h)
{
    double mean = 0;
    for (int64_t i = 0; i < l->n; i++) mean += l->h[i * l->n + i] / (double)l->n;
    memcpy(h, l->h, (size_t)(l->n * l->n) * sizeof *h);
    for (int64_t i = 0; i < l->n; i++) h[i * l->n + i] += damp * mean;
    return damp * mean;
}

/* U from the solver: (H_T)^-1 = U_TT^T U_TT for every trailing block. */
static void factor(void **state)
{
    layer *l = *state;
    const int64_t n = l->n;
    float *u = malloc((size_t)(n * n) * sizeof *u);
    double *h = malloc((size_t)(n * n) * sizeof *h), *inv = malloc((size_t)(n * n) * sizeof *inv), used;
    assert_int_equal(syi_inverse_factor(l->ctx, n, l->h, 0.01, NULL, u, &used), SY_OK);
    damped(l, 0.01, h);
    for (int64_t q = 0; q < n; q += 31) {
        const int64_t m = n - q;
        inverse(h, n, q, inv);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < m; j++) {
                double s = 0;
                for (int64_t k = 0; k <= (i < j ? i : j); k++) s += (double)u[(q + k) * n + q + i] * (double)u[(q + k) * n + q + j];
                assert_true(fabs(s - inv[i * m + j]) < 2e-6 * sqrt(inv[i * m + i] * inv[j * m + j]));
            }
    }
    free(u);
    free(h);
    free(inv);
}

/* The papers' loop in f64: one row, any variant, columns one by one, scales of groups fitted
 * like the library's. `residual` 0: GPTQ, 1: with P, 2: with R too. */
static void reference(const layer *l, const syi_gptq *o, int64_t in, const float *w0, uint8_t *codes)
{
    const int64_t n = in, group = o->grid.group > 0 && o->grid.group < n ? o->grid.group : n;
    double *h = malloc((size_t)(n * n) * sizeof *h), *inv = malloc((size_t)(n * n) * sizeof *inv), *w = malloc((size_t)n * sizeof *w);
    const float top = (float)((1 << o->grid.bits) - 1);
    float scale = 1, zero = 0, *now = malloc((size_t)n * sizeof *now);
    damped(l, o->columns.damp, h);
    for (int64_t j = 0; j < n; j++) w[j] = (double)w0[j];
    for (int64_t q = 0; q < n; q++) {
        if (q % group == 0) {
            const int64_t count = n - q < group ? n - q : group;
            for (int64_t j = 0; j < count; j++) now[j] = (float)w[q + j];
            syi_grid_fit(l->e, &o->grid, now, count, &scale, &zero);
        }
        const float code = syi_grid_code((float)w[q], scale, zero, top);
        const double v = w[q], err = v - (double)(scale * (code - zero));
        codes[q] = (uint8_t)code;
        inverse(h, n, q, inv); /* of what is left, q first */
        const int64_t m = n - q;
        double *next = m > 1 ? malloc((size_t)((m - 1) * (m - 1)) * sizeof *next) : NULL;
        if (next) inverse(h, n, q + 1, next);
        for (int64_t j = 1; j < m; j++) {
            double p = 0, r = 0;
            for (int64_t k = 1; k < m; k++) {
                p += l->d[q * n + q + k] * next[(k - 1) * (m - 1) + j - 1];
                r += (l->h[q * n + q + k] + l->d[q * n + q + k]) * next[(k - 1) * (m - 1) + j - 1];
            }
            w[q + j] += -err / inv[0] * inv[j] + o->columns.alpha1 * p * v + o->columns.alpha2 * r * ((double)w0[q] - v);
        }
        free(next);
    }
    free(h);
    free(inv);
    free(w);
    free(now);
}

static void variants(void **state)
{
    layer *l = *state;
    const int64_t n = l->n, m = 6;
    float *w = malloc((size_t)(m * n) * sizeof *w);
    uint8_t want[96], got[96];
    syi_normal(5, 0, m * n, w);
    static const struct { double a1, a2; int64_t group, block; bool sym, clip; } cases[] = {
        {0, 0, -1, 128, false, false}, {0, 0, 32, 32, true, true}, {0.25, 0, 32, 128, false, true}, {0.25, 0.25, -1, 128, false, false}, {1, 1, 32, 32, true, false},
    };
    for (int c = 0; c < SYI_COUNT(cases); c++) {
        /* one block: V' of the outer update plays no part */
        syi_gptq o = {.grid = {.bits = 3, .group = cases[c].group, .sym = cases[c].sym, .clip = cases[c].clip},
                      .columns = {.alpha1 = cases[c].a1, .alpha2 = cases[c].a2, .damp = 0.01, .block = 128}};
        sy_weight *take;
        assert_int_equal(syi_gptq_solve(l->e, &o, m, n, w, l->h, l->d, &take, NULL), SY_OK);
        int same = 0;
        for (int64_t r = 0; r < m; r++) {
            reference(l, &o, n, w + r * n, want);
            syi_packed_get(take, r, got);
            for (int64_t j = 0; j < n; j++) same += want[j] == got[j];
        }
        if (same < m * n * 995 / 1000) fail_msg("case %d: %d of %d codes are those of the plain loop", c, same, (int)(m * n));
        syi_weight_free(l->ctx, take);
    }
    free(w);
}

static sy_weight *solved(layer *l, syi_gptq o, const float *w, int64_t m, const double *dx)
{
    sy_weight *take;
    assert_int_equal(syi_gptq_solve(l->e, &o, m, l->n, w, l->h, dx, &take, NULL), SY_OK);
    return take;
}

/* Settings that must not change a bit: alpha 0, D = 0, the size of lazy blocks where V' is V. */
static void identities(void **state)
{
    layer *l = *state;
    const int64_t n = l->n, m = 40;
    float *w = malloc((size_t)(m * n) * sizeof *w);
    double *zero = calloc((size_t)(n * n), sizeof *zero);
    syi_normal(6, 0, m * n, w);
    syi_gptq gptq = {.grid = {.bits = 4, .group = 32}, .columns = {.damp = 0.01, .block = 128}}, gptaq = gptq, none = gptq;
    gptaq.columns.alpha1 = 0.25;
    none.columns.org = true;
    sy_weight *a = solved(l, gptq, w, m, l->d), *b = solved(l, none, w, m, l->d), *c = solved(l, gptaq, w, m, zero);
    const size_t bytes = (size_t)sy_tensor_bytes(&a->slot[SYI_PACKED_CODES]);
    assert_memory_equal(a->slot[SYI_PACKED_CODES].data, b->slot[SYI_PACKED_CODES].data, bytes);
    assert_memory_equal(a->slot[SYI_PACKED_CODES].data, c->slot[SYI_PACKED_CODES].data, bytes);
    /* threads change nothing */
    sy_threads_set(l->ctx, 3);
    sy_weight *d = solved(l, gptq, w, m, l->d);
    sy_threads_set(l->ctx, 1);
    sy_weight *e = solved(l, gptq, w, m, l->d);
    sy_threads_set(l->ctx, 0);
    assert_memory_equal(d->slot[SYI_PACKED_CODES].data, e->slot[SYI_PACKED_CODES].data, bytes);
    sy_weight *all[] = {a, b, c, d, e};
    for (int i = 0; i < 5; i++) syi_weight_free(l->ctx, all[i]);
    free(w);
    free(zero);
}

/* || W^ X - W0 X~ ||^2 (up to a constant of the data) and || (W^ - W*) X ||^2 differ by the same
 * number for any W^; and errors fall from rtn to gptq to gptaq to exact. */
static double objective(const layer *l, const float *w0, const float *w, int64_t m)
{
    double sum = 0; /* tr(W^ H W^T) - 2 tr(W^ C^T W0^T), C = H + D: sum x~ x^T */
    for (int64_t r = 0; r < m; r++)
        for (int64_t i = 0; i < l->n; i++)
            for (int64_t j = 0; j < l->n; j++)
                sum += (double)w[r * l->n + i] * (double)w[r * l->n + j] * l->h[i * l->n + j] -
                       2 * (double)w[r * l->n + j] * (double)w0[r * l->n + i] * (l->h[i * l->n + j] + l->d[i * l->n + j]);
    return sum;
}

static void order_of_variants(void **state)
{
    layer *l = *state;
    const int64_t n = l->n, m = 32;
    float *w = malloc((size_t)(m * n) * sizeof *w), *now = malloc((size_t)(m * n) * sizeof *now);
    double value[4];
    syi_normal(7, 0, m * n, w);
    for (int v = 0; v < 4; v++) {
        syi_gptq o = {.grid = {.bits = 3, .group = 32, .clip = true}, .columns = {.damp = 0.01, .block = 128, .org = true, .alpha1 = v == 2 ? 1 : 0, .exact = v == 3}};
        sy_weight *take;
        if (v == 0) assert_int_equal(syi_grid_round(l->e, &o.grid, m, n, w, &take), SY_OK);
        else take = solved(l, o, w, m, l->d);
        assert_int_equal(take->type->dense(l->ctx, take, 0, m, now), SY_OK);
        value[v] = objective(l, w, now, m);
        syi_weight_free(l->ctx, take);
    }
    assert_true(value[1] < value[0]); /* all share one constant that is not computed */
    assert_true(value[2] < value[1]);
    assert_true(value[3] < value[2]);
    free(w);
    free(now);
}

/* Dead inputs, a singular matrix, nothing active at all, damage. */
static void hard_cases(void **state)
{
    layer *l = *state;
    const int64_t n = 64, m = 8;
    double *h = calloc((size_t)(n * n), sizeof *h);
    float *w = malloc((size_t)(m * n) * sizeof *w), *now = malloc((size_t)(m * n) * sizeof *now);
    char note[120] = "";
    syi_normal(8, 0, m * n, w);
    syi_gptq o = {.grid = {.bits = 4, .group = 32}, .columns = {.damp = 0.01, .block = 128}};
    sy_weight *take;
    assert_int_equal(syi_gptq_solve(l->e, &o, m, n, w, h, NULL, &take, note), SY_OK);
    assert_non_null(strstr(note, "rounded to nearest"));
    syi_weight_free(l->ctx, take);
    for (int64_t i = 0; i < n; i++) h[i * n + i] = i % 4 ? 1 : 0;
    assert_int_equal(syi_gptq_solve(l->e, &o, m, n, w, h, NULL, &take, note), SY_OK);
    assert_non_null(strstr(note, "never active"));
    assert_int_equal(take->type->dense(l->ctx, take, 0, m, now), SY_OK);
    for (int64_t i = 0; i < m * n; i += 4) assert_true(now[i] == 0);
    syi_weight_free(l->ctx, take);
    for (int64_t i = 0; i < n * n; i++) h[i] = 1; /* rank one */
    o.columns.damp = 0;
    assert_int_equal(syi_gptq_solve(l->e, &o, m, n, w, h, NULL, &take, note), SY_OK);
    assert_non_null(strstr(note, "damping raised"));
    syi_weight_free(l->ctx, take);
    free(h);
    free(w);
    free(now);
}

/* Every order of work stores the same function as its codes say: dense values are reachable
 * and close to the weight. */
static void orders(void **state)
{
    layer *l = *state;
    const int64_t n = l->n, m = 12;
    float *w = malloc((size_t)(m * n) * sizeof *w), *now = malloc((size_t)(m * n) * sizeof *now);
    syi_normal(9, 0, m * n, w);
    for (int how = SYI_ORDER_NONE; how <= SYI_ORDER_GROUPS; how++) {
        syi_gptq o = {.grid = {.bits = 8, .group = 32}, .order = (syi_order)how, .columns = {.damp = 0.01, .block = 128}};
        sy_weight *take = solved(l, o, w, m, NULL);
        assert_int_equal(take->type->prepare(l->ctx, take), SY_OK);
        assert_int_equal(take->type->dense(l->ctx, take, 0, m, now), SY_OK);
        for (int64_t i = 0; i < m * n; i++) assert_true(fabsf(now[i] - w[i]) < 0.2f);
        assert_true((take->slot[SYI_PACKED_ORDER].data != NULL) == (how == SYI_ORDER_ACT));
        syi_weight_free(l->ctx, take);
    }
    free(w);
    free(now);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(factor, setup, teardown),       cmocka_unit_test_setup_teardown(variants, setup, teardown),
        cmocka_unit_test_setup_teardown(identities, setup, teardown),   cmocka_unit_test_setup_teardown(order_of_variants, setup, teardown),
        cmocka_unit_test_setup_teardown(hard_cases, setup, teardown),   cmocka_unit_test_setup_teardown(orders, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
