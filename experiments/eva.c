/* SPDX-License-Identifier: Apache-2.0 */
/* EVA's claim at small scale: with A at the principal directions of the inputs LoRA's first
 * gradient is largest and it learns fastest; the end is the same. Controls: A of unit rows at
 * random, the least directions, isotropic inputs. */
#include "_student.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call)                              \
    do {                                       \
        sy_status try_ = (call);               \
        if (try_ != SY_OK) return try_;        \
    } while (0)

#define ALL "target-modules=layers.0,layers.1,layers.2"
#define EVA ALL, "rank=4", "alpha=4", "svd-batch=64", "svd=exact", "max-batches=32", "use-label-mask=off"
enum { LORA, UNIT, MINOR, MAJOR, SPREAD, ARMS, POINTS = 4 };
static const struct { const char *what, *adapter, *settings[11]; double sheet[POINTS], gradient; } arms[ARMS] = {
    [LORA] = { "LoRA", "lora", { ALL, "rank=4", "alpha=4", NULL }, { 0.183, 0.132, 0.080, 0.058 }, 0.45 },
    [UNIT] = { "random rows of length 1", "eva", { EVA, "rho=1", "directions=random", NULL }, { 0.179, 0.129, 0.082, 0.060 }, 0.88 },
    [MINOR] = { "least directions", "eva", { EVA, "rho=1", "directions=minor", NULL }, { 0.222, 0.159, 0.090, 0.060 }, 0.02 },
    [MAJOR] = { "EVA, equal ranks", "eva", { EVA, "rho=1", NULL }, { 0.137, 0.107, 0.074, 0.058 }, 4.14 },
    [SPREAD] = { "EVA, rho 2", "eva", { EVA, "rho=2", NULL }, { 0.141, 0.109, 0.075, 0.059 }, NAN },
};
static const int at[POINTS] = { 50, 100, 300, 1000 };
typedef struct { double loss[2][ARMS][POINTS][TOY_SEEDS], gradient[ARMS][TOY_SEEDS]; int64_t rank[3], parameters; } measured;

static sy_status one_seed(sy_context *ctx, int s, bool isotropic, measured *m)
{
    static const int size[] = { 64, 128, 128, 16 };
    toy_rng r = { 6000u + (uint64_t)s };
    student_net base = { 0 }, teacher = { 0 };
    student_inputs in = { 0, NULL, NULL };
    char dir[256] = "";
    sy_status st = student_new(&base, 3, size, &r) && student_moved(&teacher, &base, 0.5, &r) && student_inputs_new(&in, 64, !isotropic, &r) ? toy_folder(dir) : SY_E_MEMORY;
    if (st == SY_OK) st = student_write(ctx, &base, dir);
    for (int a = 0; a < ARMS && st == SY_OK; a++) {
        student_result out;
        student_training t = { .model = dir, .adapter = arms[a].adapter, .settings = arms[a].settings, .lr = 3e-3, .steps = isotropic ? 300 : 1000, .layers = 3, .seed = 60 + (uint64_t)s,
                               .teacher = &teacher, .inputs = &in };
        if (isotropic && a != LORA && a != MAJOR) continue;
        memcpy(t.at, at, sizeof at);
        st = student_train(ctx, &t, &out);
        for (int p = 0; p < POINTS; p++) m->loss[isotropic][a][p][s] = out.points[p];
        if (!isotropic) m->gradient[a][s] = out.gradient;
        if (a == SPREAD) {
            memcpy(m->rank, out.rank, sizeof m->rank);
            m->parameters = out.parameters;
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
    char what[160];
    double mean[ARMS][POINTS], gradient[ARMS], even[2];
    for (int a = 0; a < ARMS; a++) {
        snprintf(what, sizeof what, "first gradient: %s", arms[a].what);
        TRY(sy_report_row(report, what, m->gradient[a], seeds, arms[a].gradient));
        gradient[a] = toy_mean(m->gradient[a], seeds);
    }
    for (int p = 0; p < POINTS; p++)
        for (int a = 0; a < ARMS; a++) {
            snprintf(what, sizeof what, "error after %d steps: %s", at[p], arms[a].what);
            TRY(sy_report_row(report, what, m->loss[0][a][p], seeds, arms[a].sheet[p]));
            mean[a][p] = toy_mean(m->loss[0][a][p], seeds);
        }
    for (int k = 0; k < 2; k++) {
        snprintf(what, sizeof what, "isotropic inputs, after 50 steps: %s", k ? "EVA, equal ranks" : "LoRA");
        TRY(sy_report_row(report, what, m->loss[1][k ? MAJOR : LORA][0], seeds, k ? 0.522 : 0.558));
        even[k] = toy_mean(m->loss[1][k ? MAJOR : LORA][0], seeds);
    }
    TRY(sy_report_check(report, gradient[MAJOR] >= 3 * gradient[UNIT], "EVA's first gradient (%.2f) is at least 3 times that of random rows (%.2f)", gradient[MAJOR], gradient[UNIT]));
    TRY(sy_report_check(report, mean[MAJOR][0] <= 0.85 * mean[LORA][0], "after 50 steps EVA (%.3f) is at most 0.85 of LoRA (%.3f)", mean[MAJOR][0], mean[LORA][0]));
    TRY(sy_report_check(report, mean[MINOR][0] > mean[UNIT][0], "the least directions (%.3f) are worse than random ones (%.3f)", mean[MINOR][0], mean[UNIT][0]));
    TRY(sy_report_check(report, fabs(mean[MAJOR][3] / mean[LORA][3] - 1) <= 0.05, "after 1000 steps EVA (%.3f) is within 5 %% of LoRA (%.3f): it is faster, not larger", mean[MAJOR][3],
                        mean[LORA][3]));
    TRY(sy_report_check(report, m->rank[0] + m->rank[1] + m->rank[2] == 12, "rho 2: ranks %lld, %lld, %lld add up to 12 (%lld numbers)", (long long)m->rank[0], (long long)m->rank[1],
                        (long long)m->rank[2], (long long)m->parameters));
    return sy_report_check(report, 1 - even[1] / even[0] < 0.5 * (1 - mean[MAJOR][0] / mean[LORA][0]), "with isotropic inputs the lead at 50 steps (%.0f %%) is less than half of that with "
                           "decaying ones (%.0f %%)", 100 * (1 - even[1] / even[0]), 100 * (1 - mean[MAJOR][0] / mean[LORA][0]));
}

static sy_status run(sy_context *ctx, int seeds, sy_report *report)
{
    const int threads = sy_threads(ctx);
    if (seeds > TOY_SEEDS) seeds = TOY_SEEDS;
    measured *m = calloc(1, sizeof *m);
    sy_status st = m ? sy_threads_set(ctx, 1) : SY_E_MEMORY;
    for (int s = 0; s < 2 * seeds && st == SY_OK; s++) {
        sy_report_progress(report, s, 2 * seeds, "networks");
        st = one_seed(ctx, s / 2, s % 2, m);
    }
    if (st == SY_OK) st = rows(report, m, seeds);
    sy_threads_set(ctx, threads);
    free(m);
    return st;
}

const sy_experiment sy_experiment_eva = {
    .name = "eva",
    .claim = "A that starts at the principal directions of the inputs has the largest first gradient and learns fastest; after long training nothing is left of the lead.",
    .paper = "EVA (arXiv:2410.07170)",
    .seeds = 4,
    .run = run,
};
