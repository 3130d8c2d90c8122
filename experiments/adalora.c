/* SPDX-License-Identifier: Apache-2.0 */
/* AdaLoRA's claim at small scale: where only some layers need to change, ranks move there and the
 * same final budget reaches far more than equal ranks. Control: with a learning rate that is too
 * low for the number of steps there is nothing to score by, and the two are alike. */
#include "_student.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call)                              \
    do {                                       \
        sy_status try_ = (call);               \
        if (try_ != SY_OK) return try_;        \
    } while (0)

#define ALL "target-modules=layers.0,layers.1,layers.2,layers.3"
enum { LORA, ADA, ARMS, RATES = 3, RANK = 6 };
static const struct { const char *what, *adapter, *settings[10]; double sheet[RATES]; } arms[ARMS] = {
    { "LoRA r=3", "lora", { ALL, "rank=3", "alpha=3", NULL }, { 0.0471, 0.0475, 0.056 } },
    { "AdaLoRA 6 to 3", "adalora", { ALL, "init-r=6", "target-r=3", "alpha=0", "tinit=150", "tfinal=500", "delta-t=10", "orth-reg-weight=0.1", NULL }, { 0.0046, 0.015, 0.049 } },
};
static const double rates[RATES] = { 1e-2, 5e-3, 2e-3 };
typedef struct { double loss[ARMS][RATES][TOY_SEEDS], idle[TOY_SEEDS]; int64_t rank[TOY_SEEDS][4]; } measured;

/* U diag(1.5 * 0.85^i) V^T of rank 6 on a layer. */
static bool add_update(student_net *n, int l, toy_rng *r)
{
    const int in = n->size[l], out = n->size[l + 1];
    float *u = malloc((size_t)(out * out + in * in) * sizeof *u), *v = u + out * out;
    if (!u) return false;
    toy_orthogonal(r, out, u);
    toy_orthogonal(r, in, v);
    for (int k = 0; k < RANK; k++)
        for (int o = 0; o < out; o++)
            for (int i = 0; i < in; i++) n->w[l][o * in + i] += (float)(1.5 * pow(0.85, k)) * u[k * out + o] * v[k * in + i];
    free(u);
    return true;
}

static sy_status one_seed(sy_context *ctx, int s, measured *m)
{
    static const int size[] = { 48, 48, 48, 48, 16 };
    toy_rng r = { 7000u + (uint64_t)s };
    student_net base = { 0 }, teacher = { 0 };
    student_inputs in = { 0, NULL, NULL };
    char dir[256] = "";
    bool ok = student_new(&base, 4, size, &r) && student_moved(&teacher, &base, 0, &r) && add_update(&teacher, 1, &r) && add_update(&teacher, 3, &r) && student_inputs_new(&in, 48, false, &r);
    sy_status st = ok ? toy_folder(dir) : SY_E_MEMORY;
    if (st == SY_OK) st = student_write(ctx, &base, dir);
    for (int a = 0; a < ARMS; a++)
        for (int k = 0; k < RATES && st == SY_OK; k++) {
            student_result out;
            const student_training t = { .model = dir, .adapter = arms[a].adapter, .settings = arms[a].settings, .lr = rates[k], .linear = true, .steps = 1500, .layers = 4,
                                         .seed = 80 + (uint64_t)s, .teacher = &teacher, .inputs = &in };
            st = student_train(ctx, &t, &out);
            m->loss[a][k][s] = out.loss;
            if (a == ADA && k == 0) {
                for (int l = 0; l < 4; l++) m->rank[s][l] = out.rank[l];
                m->idle[s] = (double)(out.rank[0] + out.rank[2]);
            }
        }
    student_free(&base);
    student_free(&teacher);
    student_inputs_free(&in);
    if (*dir) toy_folder_remove(dir);
    return st;
}

static sy_status rows(sy_report *report, const measured *m, int seeds)
{
    bool budget = true, quarter = true;
    for (int k = 0; k < RATES; k++)
        for (int a = 0; a < ARMS; a++) {
            char what[120];
            snprintf(what, sizeof what, "error at lr %g: %s", rates[k], arms[a].what);
            TRY(sy_report_row(report, what, m->loss[a][k], seeds, arms[a].sheet[k]));
        }
    TRY(sy_report_row(report, "rank of the two layers that need no change, lr 0.01", m->idle, seeds, 0));
    for (int s = 0; s < seeds; s++) {
        budget = budget && m->rank[s][0] + m->rank[s][1] + m->rank[s][2] + m->rank[s][3] == 12;
        quarter = quarter && m->loss[ADA][0][s] <= m->loss[LORA][0][s] / 4;
    }
    TRY(sy_report_check(report, budget, "the final ranks add up to the budget of 12 at every seed (first: %lld, %lld, %lld, %lld)", (long long)m->rank[0][0], (long long)m->rank[0][1],
                        (long long)m->rank[0][2], (long long)m->rank[0][3]));
    TRY(sy_report_check(report, quarter, "lr 0.01: AdaLoRA is at most a quarter of LoRA at every seed (means %.4f and %.4f)", toy_mean(m->loss[ADA][0], seeds), toy_mean(m->loss[LORA][0], seeds)));
    TRY(sy_report_check(report, toy_most(m->idle, seeds) <= 1, "lr 0.01: the two layers that need no change keep at most one rank (most: %.0f)", toy_most(m->idle, seeds)));
    return sy_report_check(report, toy_mean(m->loss[ADA][2], seeds) > 0.5 * toy_mean(m->loss[LORA][2], seeds), "lr 0.002, too low for 1500 steps: no such lead (%.4f and %.4f)",
                           toy_mean(m->loss[ADA][2], seeds), toy_mean(m->loss[LORA][2], seeds));
}

static sy_status run(sy_context *ctx, int seeds, sy_report *report)
{
    const int threads = sy_threads(ctx);
    if (seeds > TOY_SEEDS) seeds = TOY_SEEDS;
    measured *m = calloc(1, sizeof *m);
    sy_status st = m ? sy_threads_set(ctx, 1) : SY_E_MEMORY;
    for (int s = 0; s < seeds && st == SY_OK; s++) {
        sy_report_progress(report, s, seeds, "networks");
        st = one_seed(ctx, s, m);
    }
    if (st == SY_OK) st = rows(report, m, seeds);
    sy_threads_set(ctx, threads);
    free(m);
    return st;
}

const sy_experiment sy_experiment_adalora = {
    .name = "adalora",
    .claim = "With one budget over all layers and pruning by sensitivity, ranks move to the layers that need them: far less error than equal ranks of the same total.",
    .paper = "AdaLoRA (arXiv:2303.10512)",
    .seeds = 4,
    .run = run,
};
