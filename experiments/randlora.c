/* SPDX-License-Identifier: Apache-2.0 */
/* RandLoRA's claim at small scale: for its number of trained numbers its update has full rank, so
 * it gets further than LoRA into targets of a flat spectrum, and less far into targets of low
 * rank; on a language model it keeps most of what LoRA reaches. */
#include "_toy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call)                              \
    do {                                       \
        sy_status try_ = (call);               \
        if (try_ != SY_OK) return try_;        \
    } while (0)

#define Q "target-modules=model.layers.0.self_attn.q_proj"
enum { FLAT, LOW, GAUSS, TARGETS };
typedef struct { const char *what, *adapter, *settings[6]; double sheet[TARGETS]; int64_t trained; } fit;
static const fit fits[] = {
    { "LoRA r=8 (1024 numbers)", "lora", { Q, "rank=8", "alpha=8", NULL }, { 0.875, 0, 0.606 }, 1024 },
    { "RandLoRA r=4 (1088)", "randlora", { Q, "rank=4", "alpha=80", NULL }, { 0.68, 0.525, 0.665 }, 1088 },
    { "RandLoRA r=4, the paper's scale", "randlora", { Q, "rank=4", "alpha=8", "scale-rule=paper", NULL }, { 0.68, NAN, NAN }, 1088 },
};
enum { FITS = sizeof fits / sizeof *fits };

static void target(toy_rng *r, int which, float *out)
{
    if (which == FLAT) toy_orthogonal(r, TOY_LINEAR, out);
    else if (which == LOW) toy_low_rank(r, TOY_LINEAR, 4, out);
    else
        for (int i = 0; i < TOY_LINEAR * TOY_LINEAR; i++) out[i] = (float)(toy_normal(r) / sqrt(TOY_LINEAR));
}

static sy_status maps(sy_context *ctx, int seeds, sy_report *report)
{
    static const char *const names[] = { "orthogonal", "rank-4", "Gaussian" };
    static double error[FITS][TARGETS][TOY_SEEDS];
    float *want = malloc(TOY_LINEAR * TOY_LINEAR * sizeof *want);
    sy_status st = want ? SY_OK : SY_E_MEMORY;
    bool counts = true;
    for (int s = 0; s < seeds && st == SY_OK; s++) {
        toy_rng r = { 2000u + (uint64_t)s };
        sy_report_progress(report, s, 2 * seeds, "linear maps");
        for (int t = 0; t < TARGETS; t++) {
            target(&r, t, want);
            for (int f = 0; f < FITS && st == SY_OK; f++) {
                int64_t n = 0;
                if (f == 2 && t != FLAT) continue; /* both rules are compared where it matters */
                st = toy_fit(ctx, fits[f].adapter, fits[f].settings, want, 1e-2, 4000, 1 + (uint64_t)s, &error[f][t][s], &n);
                counts = counts && n == fits[f].trained;
            }
        }
    }
    free(want);
    TRY(st);
    double mean[FITS][TARGETS];
    for (int t = 0; t < TARGETS; t++)
        for (int f = 0; f < (t == FLAT ? FITS : 2); f++) {
            char what[120];
            snprintf(what, sizeof what, "%s target: %s, relative squared error", names[t], fits[f].what);
            mean[f][t] = toy_mean(error[f][t], seeds);
            TRY(sy_report_row(report, what, error[f][t], seeds, fits[f].sheet[t]));
        }
    TRY(sy_report_check(report, counts, "trained numbers are those of the formulas: LoRA 1024, RandLoRA 1088"));
    TRY(sy_report_check(report, toy_most(error[1][FLAT], seeds) < 0.72 && mean[1][FLAT] < mean[0][FLAT] - 0.12,
                        "orthogonal target: RandLoRA (%.3f) below 0.72 and at least 0.12 below LoRA (%.3f)", mean[1][FLAT], mean[0][FLAT]));
    TRY(sy_report_check(report, mean[0][LOW] < mean[1][LOW] - 0.3, "rank-4 target: LoRA (%.2g) below RandLoRA (%.3f) by more than 0.3", mean[0][LOW], mean[1][LOW]));
    TRY(sy_report_check(report, fabs(mean[1][FLAT] - mean[2][FLAT]) < 0.02, "orthogonal target: both rules for the scale end within 0.02 (%.3f and %.3f)", mean[1][FLAT], mean[2][FLAT]));
    return sy_report_check(report, mean[0][GAUSS] < mean[1][GAUSS], "Gaussian target: LoRA (%.3f) is slightly better than RandLoRA (%.3f), as its sheet of results says", mean[0][GAUSS],
                           mean[1][GAUSS]);
}

/* -- a small language model ------------------------------------------------------------------ */

#define SIX "target-modules=q_proj,k_proj,v_proj,o_proj,up_proj,down_proj"
static const double rates[] = { 3e-3, 1e-2, 3e-2 };
enum { RATES = 3 };

static sy_status language(sy_context *ctx, int seeds, sy_report *report)
{
    static const char *const lora[] = { SIX, "rank=3", "alpha=3", NULL }, *const rand_[] = { SIX, "rank=8", "alpha=160", NULL };
    double frozen[TOY_SEEDS], low[TOY_SEEDS], full[TOY_SEEDS], start, lr[2] = { 0, 0 };
    toy_chain *old = malloc(sizeof *old), *now = malloc(sizeof *now);
    sy_status st = old && now ? SY_OK : SY_E_MEMORY;
    int64_t n_low = 0, n_full = 0;
    for (int s = 0; s < seeds && st == SY_OK; s++) {
        const uint64_t seed = 11 + (uint64_t)s;
        char trained[256] = "";
        sy_report_progress(report, seeds + s, 2 * seeds, "language model");
        st = toy_pretrained(ctx, seed, old, now, trained, &start);
        toy_training t = { .model = trained, .steps = 400, .seed = seed + 1000 };
        if (st == SY_OK) st = toy_train(ctx, &t, now, &frozen[s], NULL);
        for (int m = 0; m < 2 && st == SY_OK; m++) {
            double *to = m ? full : low;
            t.adapter = m ? "randlora" : "lora";
            t.settings = m ? rand_ : lora;
            for (int k = 0; k < RATES && s == 0 && st == SY_OK; k++) { /* the rate is chosen with the first seed */
                double loss;
                t.lr = rates[k];
                st = toy_train(ctx, &t, now, &loss, m ? &n_full : &n_low);
                if (k == 0 || loss < to[0]) {
                    to[0] = loss;
                    lr[m] = rates[k];
                }
            }
            t.lr = lr[m];
            if (s && st == SY_OK) st = toy_train(ctx, &t, now, &to[s], NULL);
        }
        if (*trained) toy_folder_remove(trained);
    }
    free(old);
    free(now);
    TRY(st);
    char what[120];
    TRY(sy_report_row(report, "language model on new text: frozen", frozen, seeds, 3.441));
    snprintf(what, sizeof what, "language model: LoRA r=3 (6912 numbers), lr %g", lr[0]);
    TRY(sy_report_row(report, what, low, seeds, 2.769));
    snprintf(what, sizeof what, "language model: RandLoRA r=8 (6912 numbers), lr %g", lr[1]);
    TRY(sy_report_row(report, what, full, seeds, 2.819));
    const double f = toy_mean(frozen, seeds), share = (f - toy_mean(full, seeds)) / (f - toy_mean(low, seeds));
    TRY(sy_report_check(report, n_low == 6912 && n_full == 6912, "both train 6912 numbers (%lld, %lld)", (long long)n_low, (long long)n_full));
    return sy_report_check(report, share >= 0.88, "language model: RandLoRA takes %.0f %% of LoRA's way down (at least 88 %%)", 100 * share);
}

static sy_status run(sy_context *ctx, int seeds, sy_report *report)
{
    const int threads = sy_threads(ctx);
    if (seeds > TOY_SEEDS) seeds = TOY_SEEDS;
    TRY(sy_threads_set(ctx, 1)); /* products of 64 x 64 */
    sy_status st = maps(ctx, seeds, report);
    if (st == SY_OK) st = language(ctx, seeds, report);
    sy_threads_set(ctx, threads);
    return st;
}

const sy_experiment sy_experiment_randlora = {
    .name = "randlora",
    .claim = "With as many trained numbers as LoRA, a sum of scaled random matrices has full rank: it gets further into a target of flat spectrum, less far into one of "
             "low rank, and learns almost as much on a small language model.",
    .paper = "RandLoRA (arXiv:2502.00987)",
    .seeds = 3,
    .run = run,
};
