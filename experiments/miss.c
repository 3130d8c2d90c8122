/* SPDX-License-Identifier: Apache-2.0 */
/* The claim of MiSS (Bone) and BAT at small scale: from a zero start the first gradient is several
 * times LoRA's, so that at a low learning rate both are ahead after few steps; and the control:
 * with every method's own best rate the advantage is gone. */
#include "_toy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call)                              \
    do {                                       \
        sy_status try_ = (call);               \
        if (try_ != SY_OK) return try_;        \
    } while (0)

#define SIX "target-modules=q_proj,k_proj,v_proj,o_proj,up_proj,down_proj"
enum { LORA, MISS, BAT, METHODS };
static const struct { const char *what, *adapter, *settings[5]; double gradient, low, tuned120, tuned400; } methods[METHODS] = {
    { "LoRA r=4", "lora", { SIX, "rank=4", "alpha=4", NULL }, 0.29, 2.989, 2.858, 2.720 },
    { "MiSS r=8", "miss", { SIX, "rank=8", NULL }, 1.18, 2.922, 2.878, 2.765 },
    { "BAT r=8", "miss", { SIX, "rank=8", "mode=bat", NULL }, 1.38, 2.911, 2.887, 2.753 },
};
static const double rates[] = { 3e-3, 1e-2, 3e-2 };
enum { RATES = 3, LENGTHS = 2 };
static const int lengths[LENGTHS] = { 120, 400 };

typedef struct { double frozen[TOY_SEEDS], full[TOY_SEEDS], full_gradient[TOY_SEEDS], gradient[METHODS][TOY_SEEDS], loss[METHODS][LENGTHS][RATES][TOY_SEEDS]; } measured;

static sy_status one_seed(sy_context *ctx, int s, toy_chain *old, toy_chain *now, measured *m, bool *counts)
{
    const uint64_t seed = 11 + (uint64_t)s;
    char trained[256] = "";
    double start;
    sy_status st = toy_pretrained(ctx, seed, old, now, trained, &start);
    toy_training t = { .model = trained, .seed = seed + 1000 };
    if (st == SY_OK) st = toy_train(ctx, &t, now, &m->frozen[s], NULL);
    t.adapter = "full";
    t.lr = rates[0];
    t.steps = lengths[0];
    t.gradient = &m->full_gradient[s];
    if (st == SY_OK) st = toy_train(ctx, &t, now, &m->full[s], NULL);
    for (int k = 0; k < METHODS; k++)
        for (int l = 0; l < LENGTHS; l++)
            for (int r = 0; r < RATES && st == SY_OK; r++) {
                int64_t n = 0;
                t.adapter = methods[k].adapter;
                t.settings = methods[k].settings;
                t.gradient = &m->gradient[k][s];
                t.lr = rates[r];
                t.steps = lengths[l];
                st = toy_train(ctx, &t, now, &m->loss[k][l][r][s], &n);
                *counts = *counts && n == 9216;
            }
    if (*trained) toy_folder_remove(trained);
    return st;
}

static sy_status rows(sy_report *report, const measured *m, int seeds, bool counts)
{
    double mean[METHODS][LENGTHS], low[METHODS], gradient[METHODS];
    char what[120];
    TRY(sy_report_row(report, "gradient norm of the first step: full fine-tuning", m->full_gradient, seeds, 1.37));
    for (int k = 0; k < METHODS; k++) {
        snprintf(what, sizeof what, "gradient norm of the first step: %s", methods[k].what);
        TRY(sy_report_row(report, what, m->gradient[k], seeds, methods[k].gradient));
        gradient[k] = toy_mean(m->gradient[k], seeds);
    }
    TRY(sy_report_row(report, "loss on the new text: frozen", m->frozen, seeds, 3.441));
    TRY(sy_report_row(report, "loss after 120 steps at 3e-3: full fine-tuning", m->full, seeds, 2.704));
    for (int k = 0; k < METHODS; k++) {
        snprintf(what, sizeof what, "loss after 120 steps at 3e-3: %s", methods[k].what);
        TRY(sy_report_row(report, what, m->loss[k][0][0], seeds, methods[k].low));
        low[k] = toy_mean(m->loss[k][0][0], seeds);
    }
    for (int l = 0; l < LENGTHS; l++)
        for (int k = 0; k < METHODS; k++) {
            int best = 0;
            for (int r = 1; r < RATES; r++)
                if (toy_mean(m->loss[k][l][r], seeds) < toy_mean(m->loss[k][l][best], seeds)) best = r;
            snprintf(what, sizeof what, "loss after %d steps at the best rate (%g): %s", lengths[l], rates[best], methods[k].what);
            TRY(sy_report_row(report, what, m->loss[k][l][best], seeds, l ? methods[k].tuned400 : methods[k].tuned120));
            mean[k][l] = toy_mean(m->loss[k][l][best], seeds);
        }
    const double frozen = toy_mean(m->frozen, seeds), full = toy_mean(m->full_gradient, seeds);
    TRY(sy_report_check(report, counts, "all three train 9216 numbers"));
    for (int k = MISS; k < METHODS; k++)
        TRY(sy_report_check(report, gradient[k] >= 2.5 * gradient[LORA] && gradient[k] > full / 3 && gradient[k] < 3 * full,
                            "%s: first gradient %.2f is at least 2.5 times LoRA's (%.2f) and of the order of full fine-tuning's (%.2f)", methods[k].what, gradient[k], gradient[LORA], full));
    for (int k = MISS; k < METHODS; k++)
        TRY(sy_report_check(report, low[k] <= low[LORA] - 0.03, "120 steps at the low rate: %s (%.3f) below LoRA (%.3f) by 0.03", methods[k].what, low[k], low[LORA]));
    for (int k = MISS; k < METHODS; k++)
        for (int l = 0; l < LENGTHS; l++) {
            const double share = (frozen - mean[k][l]) / (frozen - mean[LORA][l]);
            TRY(sy_report_check(report, share >= 0.9, "%d steps at each one's best rate: %s takes %.0f %% of LoRA's way down (at least 90 %%)", lengths[l], methods[k].what, 100 * share));
        }
    return SY_OK;
}

static sy_status run(sy_context *ctx, int seeds, sy_report *report)
{
    const int threads = sy_threads(ctx);
    bool counts = true;
    if (seeds > TOY_SEEDS) seeds = TOY_SEEDS;
    measured *m = calloc(1, sizeof *m);
    toy_chain *old = malloc(sizeof *old), *now = malloc(sizeof *now);
    sy_status st = m && old && now ? sy_threads_set(ctx, 1) : SY_E_MEMORY; /* products of 64 x 64 */
    for (int s = 0; s < seeds && st == SY_OK; s++) {
        sy_report_progress(report, s, seeds, "language model");
        st = one_seed(ctx, s, old, now, m, &counts);
    }
    if (st == SY_OK) st = rows(report, m, seeds, counts);
    sy_threads_set(ctx, threads);
    free(old);
    free(now);
    free(m);
    return st;
}

const sy_experiment sy_experiment_miss = {
    .name = "miss",
    .claim = "From a zero start MiSS and BAT have a first gradient several times LoRA's and are ahead after few steps at a low learning rate; with each one's best rate LoRA is "
             "as good or better at this scale.",
    .paper = "MiSS, earlier Bone and DiSHA (arXiv:2409.15371)",
    .seeds = 3,
    .run = run,
};
