/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA's claims at small scale. One linear map: LoRA reaches any target of its rank, and
 * for a target of full rank exactly the best approximation of that rank (Eckart-Young);
 * VeRA gets further into such a target with fewer numbers. A small language model moved to
 * a text of which half the contexts are new: more rank learns more, full fine-tuning most. */
#include "_toy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call)                              \
    do {                                       \
        sy_status try_ = (call);               \
        if (try_ != SY_OK) return try_;        \
    } while (0)

/* -- one linear map ---------------------------------------------------------------------- */

static sy_status maps(sy_context *ctx, int seeds, sy_report *report)
{
    double low[TOY_SEEDS], haar[TOY_SEEDS], vera[TOY_SEEDS];
    static const char *const linear[] = { "target-modules=model.layers.0.self_attn.q_proj", "rank=8", "alpha=8", NULL };
    static const char *const shared[] = { "target-modules=model.layers.0.self_attn.q_proj", "rank=512", NULL };
    float *target = malloc(TOY_LINEAR * TOY_LINEAR * sizeof *target);
    int64_t n_lora = 0, n_vera = 0;
    sy_status st = target ? SY_OK : SY_E_MEMORY;
    for (int s = 0; s < seeds && st == SY_OK; s++) {
        toy_rng r = { 1000u + (uint64_t)s };
        sy_report_progress(report, s, 2 * seeds, "linear maps");
        toy_low_rank(&r, TOY_LINEAR, 4, target);
        st = toy_fit(ctx, "lora", linear, target, 1e-2, 4000, 1 + (uint64_t)s, &low[s], &n_lora);
        toy_orthogonal(&r, TOY_LINEAR, target);
        if (st == SY_OK) st = toy_fit(ctx, "lora", linear, target, 1e-2, 4000, 1 + (uint64_t)s, &haar[s], &n_lora);
        if (st == SY_OK) st = toy_fit(ctx, "vera", shared, target, 1e-2, 4000, 1 + (uint64_t)s, &vera[s], &n_vera);
    }
    free(target);
    TRY(st);
    TRY(sy_report_row(report, "linear map, target of rank 4: LoRA r=8, relative squared error", low, seeds, 0));
    TRY(sy_report_row(report, "linear map, orthogonal target: LoRA r=8 (1024 numbers)", haar, seeds, 0.875));
    TRY(sy_report_row(report, "linear map, orthogonal target: VeRA r=512 (576 numbers)", vera, seeds, 0.79));
    TRY(sy_report_check(report, n_lora == 1024 && n_vera == 576, "trained numbers: LoRA %lld (1024), VeRA %lld (576)", (long long)n_lora, (long long)n_vera));
    TRY(sy_report_check(report, toy_most(low, seeds) < 1e-6, "rank-4 target: LoRA r=8 ends below 1e-6 at every seed (worst %.2g)", toy_most(low, seeds)));
    TRY(sy_report_check(report, toy_least(haar, seeds) > 0.873 && toy_most(haar, seeds) < 0.877,
                        "orthogonal target: LoRA r=8 ends at the Eckart-Young floor 1 - 8/64 = 0.875 +- 0.002 (%.4f to %.4f)", toy_least(haar, seeds), toy_most(haar, seeds)));
    return sy_report_check(report, toy_most(vera, seeds) < 0.83 && toy_least(vera, seeds) > 0.75, "orthogonal target: VeRA r=512 ends near 0.79 (%.3f to %.3f)",
                           toy_least(vera, seeds), toy_most(vera, seeds));
}

/* -- a small language model ------------------------------------------------------------------ */

#define SIX "target-modules=q_proj,k_proj,v_proj,o_proj,up_proj,down_proj"
typedef struct { const char *what, *adapter, *settings[5]; double lr, sheet; int64_t trained; } arm;
static const arm arms[] = {
    { "frozen", NULL, { NULL }, 0, 3.441, 0 },
    { "VeRA r=64 (1920 numbers)", "vera", { SIX, "rank=64", NULL }, 1e-1, 2.944, 1920 },
    { "LoRA r=1 (2304)", "lora", { SIX, "rank=1", "alpha=1", NULL }, 3e-2, 2.923, 2304 },
    { "LoRA r=3 (6912)", "lora", { SIX, "rank=3", "alpha=3", NULL }, 3e-2, 2.769, 6912 },
    { "LoRA r=4 (9216)", "lora", { SIX, "rank=4", "alpha=4", NULL }, 3e-2, 2.720, 9216 },
    { "full fine-tuning", "full", { NULL }, 3e-3, 2.502, 0 },
};
enum { ARMS = sizeof arms / sizeof *arms };

static sy_status language(sy_context *ctx, int seeds, sy_report *report)
{
    double loss[ARMS][TOY_SEEDS], start[TOY_SEEDS], floor[TOY_SEEDS];
    toy_chain *old = malloc(sizeof *old), *now = malloc(sizeof *now);
    char trained[256] = "";
    sy_status st = old && now ? SY_OK : SY_E_MEMORY;
    bool counts = true;
    for (int s = 0; s < seeds && st == SY_OK; s++) {
        const uint64_t seed = 11 + (uint64_t)s;
        sy_report_progress(report, seeds + s, 2 * seeds, "language model");
        st = toy_pretrained(ctx, seed, old, now, trained, &start[s]);
        floor[s] = toy_chain_entropy(now, seed);
        for (int a = 0; a < ARMS && st == SY_OK; a++) {
            const toy_training t = { .model = trained, .adapter = arms[a].adapter, .settings = arms[a].settings, .lr = arms[a].lr, .steps = 400, .seed = seed + 1000 };
            int64_t n = 0;
            st = toy_train(ctx, &t, now, &loss[a][s], &n);
            if (arms[a].trained && n != arms[a].trained) counts = false;
        }
        if (*trained) toy_folder_remove(trained);
        *trained = '\0';
    }
    free(old);
    free(now);
    TRY(st);
    TRY(sy_report_row(report, "language model: pretrained, on its own text", start, seeds, NAN));
    for (int a = 0; a < ARMS; a++) {
        char what[120];
        snprintf(what, sizeof what, "language model on the new text: %s", arms[a].what);
        TRY(sy_report_row(report, what, loss[a], seeds, arms[a].sheet));
    }
    TRY(sy_report_row(report, "language model: what the new text itself leaves open", floor, seeds, NAN));
    TRY(sy_report_check(report, counts, "trained numbers of the adapters are those of the formulas"));
    for (int a = 1; a < ARMS; a++)
        TRY(sy_report_check(report, toy_mean(loss[a], seeds) < toy_mean(loss[a - 1], seeds), "%s (%.3f) is better than %s (%.3f)", arms[a].what, toy_mean(loss[a], seeds),
                            arms[a - 1].what, toy_mean(loss[a - 1], seeds)));
    return SY_OK;
}

static sy_status run(sy_context *ctx, int seeds, sy_report *report)
{
    const int threads = sy_threads(ctx);
    if (seeds > TOY_SEEDS) seeds = TOY_SEEDS;
    TRY(sy_threads_set(ctx, 1)); /* products of 64 x 64: more threads only wait for each other */
    sy_status st = maps(ctx, seeds, report);
    if (st == SY_OK) st = language(ctx, seeds, report);
    sy_threads_set(ctx, threads);
    return st;
}

const sy_experiment sy_experiment_lora = {
    .name = "lora",
    .claim = "A low-rank update reaches every target of its rank and, for a target of full rank, exactly the best approximation of that rank; "
             "adapting a language model, more rank learns more, VeRA learns most for its few numbers, and full fine-tuning stays the upper bound.",
    .paper = "LoRA (arXiv:2106.09685), VeRA (arXiv:2310.11454); floors by Eckart and Young (1936)",
    .seeds = 3,
    .run = run,
};
