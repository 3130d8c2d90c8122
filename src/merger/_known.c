/* SPDX-License-Identifier: Apache-2.0 */
/* See _known.h. A batch is cut into fixed pieces whose gradients are added in order, so the
 * trained numbers do not depend on the threads. */
#include "_known.h"

#include <lapacke.h>
#include <math.h>

enum { WIDE = 64, NECK = 8, TAIL = 32, PIECES = 16 };
#define BRANCH(m) (WIDE * (m) + WIDE + NECK * WIDE + NECK + 3 * (NECK + 1) * WIDE + TAIL * WIDE + TAIL)
_Static_assert(BRANCH(5) + BRANCH(4) + 2 * TAIL + 1 == SYI_KNOWN_SIZE, "the network has 9,425 parameters");

#define NUM float
#define NAME(x) x##_f32
#define EXP expf
#define TANH_ tanhf
#include "_known_body.h"
#undef NUM
#undef NAME
#undef EXP
#undef TANH_
#define NUM double
#define NAME(x) x##_f64
#define EXP exp
#define TANH_ tanh
#include "_known_body.h"

static void spread(uint64_t key, int64_t *at, int64_t n, double range, float *w)
{
    float u[64];
    for (int64_t i = 0; i < n; i += 64) {
        const int64_t m = syi_min(64, n - i);
        syi_uniform(key, *at + i, m, u);
        for (int64_t k = 0; k < m; k++) w[*at + i + k] = (float)(range * (2 * (double)u[k] - 1));
    }
    *at += n;
}

void syi_known_init(uint64_t key, float *w)
{
    int64_t at = 0;
    memset(w, 0, SYI_KNOWN_SIZE * sizeof *w);
    for (int m = 5; m >= 4; m--) {
        spread(key, &at, WIDE * m, sqrt(0.3 / m), w);
        at += WIDE;
        spread(key, &at, NECK * WIDE, sqrt(6.0 / (WIDE + NECK)), w);
        at += NECK;
        for (int q = 0; q < 3; q++) {
            spread(key, &at, NECK * WIDE, sqrt(6.0 / (WIDE + NECK)), w);
            at += WIDE;
        }
        spread(key, &at, TAIL * WIDE, sqrt(0.3 / WIDE), w);
        at += TAIL;
    }
    spread(key, &at, 2 * TAIL, sqrt(6.0 / (2 * TAIL + 1)), w);
}

/* L1 penalties: kernels A and E weakly, their biases strongly. */
static void penalise(const float *w, float *g)
{
    for (int m = 5, at = 0; m >= 4; at += BRANCH(m), m--) {
        const int a = at + WIDE * m, e = at + BRANCH(m) - TAIL * WIDE - TAIL, eb = at + BRANCH(m) - TAIL;
        for (int i = at; i < at + BRANCH(m); i++) {
            const double by = i < a ? 1e-6 : i < a + WIDE ? 0.1 : i >= eb ? 0.1 : i >= e ? 1e-6 : 0;
            g[i] += (float)(by * ((w[i] > 0) - (w[i] < 0)));
        }
    }
}

sy_status syi_known_train(sy_context *ctx, const float *history, const float *target, int64_t n, const syi_known_training *how, const float *start, float *w)
{
    float *all = syi_calloc(ctx, (size_t)(PIECES + 2) * SYI_KNOWN_SIZE, sizeof *all);
    if (!all) return SY_E_MEMORY;
    float *m = all + PIECES * SYI_KNOWN_SIZE, *v = m + SYI_KNOWN_SIZE;
    if (start) memcpy(w, start, SYI_KNOWN_SIZE * sizeof *w);
    else syi_known_init(syi_key(how->key, "known", "init", 0), w);
    const int threads = syi_omp(ctx);
    sy_status st = SY_OK;
    for (int64_t s = 0; s < how->steps && st == SY_OK; s++) {
        const double lr = how->lr * 0.5 * (1 + cos(3.14159265358979323846 * (double)s / (double)how->steps));
        const uint64_t key = syi_key(how->key, "known", "batch", s);
        memset(all, 0, PIECES * SYI_KNOWN_SIZE * sizeof *all);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
        for (int p = 0; p < PIECES; p++)
            for (int64_t i = p; i < how->batch; i += PIECES) {
                const int64_t k = (int64_t)(syi_random_u64(key, i) % (uint64_t)n);
                syi_known_f32(w, history + k * SYI_KNOWN_HISTORY, target[k], all + p * SYI_KNOWN_SIZE);
            }
        for (int i = 0; i < SYI_KNOWN_SIZE; i++) {
            for (int p = 1; p < PIECES; p++) all[i] += all[p * SYI_KNOWN_SIZE + i];
            all[i] /= (float)how->batch;
        }
        penalise(w, all);
        const double step = lr * sqrt(1 - pow(0.999, (double)(s + 1))) / (1 - pow(0.9, (double)(s + 1)));
        for (int i = 0; i < SYI_KNOWN_SIZE; i++) {
            const float g = all[i] > 1 ? 1 : all[i] < -1 ? -1 : all[i];
            m[i] += 0.1f * (g - m[i]);
            v[i] += 0.001f * (g * g - v[i]);
            w[i] -= (float)(step * (double)m[i] / (sqrt((double)v[i]) + 1e-8));
        }
        if (sy_cancelled(ctx)) st = syi_fail(ctx, SY_E_CANCELLED, "interrupted while training the predictor");
    }
    for (int i = 0; i < SYI_KNOWN_SIZE && st == SY_OK; i++)
        if (!isfinite(w[i])) st = syi_fail(ctx, SY_E_NUMERIC, "the predictor's training diverged");
    syi_free(ctx, all);
    return st;
}

sy_status syi_known_fit(sy_context *ctx, const float *history, const float *target, int64_t n, double *c)
{
    double g[25] = { 0 };
    memset(c, 0, 5 * sizeof *c);
    for (int64_t i = 0; i < n; i++)
        for (int a = 0; a < 5; a++) {
            const double x = (double)history[i * 5 + a];
            c[a] += x * (double)target[i];
            for (int b = 0; b <= a; b++) g[a * 5 + b] += x * (double)history[i * 5 + b];
        }
    for (int a = 0; a < 5; a++) g[a * 6] += 1e-12 * (g[0] + 1e-30);
    return LAPACKE_dposv(LAPACK_ROW_MAJOR, 'L', 5, 1, g, 5, c, 1) == 0 ? SY_OK : syi_fail(ctx, SY_E_NUMERIC, "the histories are too much alike for a linear fit");
}
