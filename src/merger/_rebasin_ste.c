/* SPDX-License-Identifier: Apache-2.0 */
/* Straight-through matching: pi is what weight matching finds for a throw-away network W (at
 * first a itself); the loss is that of the midpoint of a and pi(b). pi has no gradient, so the
 * gradient with respect to pi(b) is given to W, which moves by SGD with momentum. b is moved
 * in place as matches are found, so each match starts from the last. */
#include "_rebasin_net.h"

/* W -= lr * m, m = momentum * m + half the midpoint's gradient. */
static void follow(const rebasin *r, const rebasin_ste_options *o, float *const *g, float **m, float **w)
{
    for (int t = 0; t < r->n_tensors; t++)
        for (int64_t i = 0; i < r->tensor[t].count; i++) {
            m[t][i] = (float)(o->momentum * (double)m[t][i] + 0.5 * (double)g[t][i]);
            w[t][i] -= (float)(o->lr * (double)m[t][i]);
        }
}

static void copy(const rebasin *r, float *const *from, float **to)
{
    for (int t = 0; t < r->n_tensors; t++) memcpy(to[t], from[t], (size_t)r->tensor[t].count * sizeof **to);
}

sy_status rebasin_ste(rebasin_net *n, const float *const *a, float **b, const rebasin_ste_options *o, uint64_t key, rebasin_perm *perm, int64_t *steps)
{
    const rebasin *r = n->r;
    const int64_t total = o->epochs * syi_max(1, n->rows / syi_max(1, n->step_rows));
    enum { W, M, G, MID, BEST, N };
    float **x[N] = { NULL };
    double least = INFINITY, loss = 0;
    const double began = syi_now();
    rebasin_perm best;
    sy_status st = rebasin_identity(r, &best);
    for (int k = 0; k < N && st == SY_OK; k++) st = rebasin_fresh(r, k == W ? a : k == BEST ? (const float *const *)b : NULL, &x[k]);
    if (st == SY_OK) rebasin_perm_copy(r, perm, &best);
    for (*steps = 0; *steps < total && st == SY_OK; ++*steps) {
        int64_t sweeps;
        st = rebasin_match(r, (const float *const *)x[W], b, o->max_sweeps, syi_key(key, "ste", NULL, *steps), perm, &sweeps);
        if (st != SY_OK) break;
        rebasin_between(r, 0.5, a, (const float *const *)b, x[MID]);
        st = rebasin_net_gradient(n, (const float *const *)x[MID], *steps, x[G], &loss);
        if (st != SY_OK) break;
        if (loss < least) {
            least = loss;
            copy(r, b, x[BEST]);
            rebasin_perm_copy(r, perm, &best);
        }
        follow(r, o, x[G], x[M], x[W]);
        syi_progress(n->ctx, &(sy_progress){ .what = "straight-through matching", .done = *steps + 1, .total = total, .unit = "step", .seconds = syi_now() - began, .eta = -1, .loss = loss,
                                             .bytes = syi_rss_now() });
    }
    if (st == SY_OK) {
        copy(r, x[BEST], b);
        rebasin_perm_copy(r, &best, perm);
    }
    for (int k = 0; k < N; k++) rebasin_drop(r, x[k]);
    return st;
}
