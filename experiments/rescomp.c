/* SPDX-License-Identifier: Apache-2.0 */
/* GPTQ, GPTAQ and ResComp: a layer whose inputs have drifted, and a small language model. */
#include "_small.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call)                              \
    do {                                       \
        sy_status try_ = (call);               \
        if (try_ != SY_OK) return try_;        \
    } while (0)

enum { SEEDS = 16, IN = 256, OUT = 48, TOKENS = 2048, WIDTHS = 3 };
enum { RTN, GPTQ, GPTQ_R, GPTAQ, RESCOMP, GPTAQ_1, EXACT, ARMS };
static const struct { const char *what, *method, *variant, *alpha; double sheet[WIDTHS]; } arm[ARMS] = {
    { "RTN", "rtn", NULL, NULL, { .0197, .0428, .133 } },
    { "GPTQ", "rescomp", "variant=gptq", NULL, { .0139, .0198, .0484 } },
    { "GPTQ+R", "rescomp", "variant=gptq+r", NULL, { NAN, NAN, NAN } },
    { "GPTAQ", "rescomp", "variant=gptaq", NULL, { .0105, .0164, .0469 } },
    { "ResComp", "rescomp", "variant=rescomp", NULL, { NAN, NAN, NAN } },
    { "GPTAQ, alpha 1", "rescomp", "variant=gptaq", "alpha1=1", { .0055, .0120, .0431 } },
    { "exact", "rescomp", "variant=exact", NULL, { .0035, .0099, .0418 } },
};
static const int width[WIDTHS] = { 4, 3, 2 };
enum { LM_RTN, LM_GPTQ, LM_GPTQ_R, LM_GPTAQ, LM_RESCOMP, LM_EXACT, LM };
static const int lm_arm[LM] = { RTN, GPTQ, GPTQ_R, GPTAQ, RESCOMP, EXACT };

/* Inputs of the original model, and what arrives: 0.97 of it and 8 % that other inputs leak in. */
static void drift(const float *leak, int rows, const float *ref, float *x)
{
    for (int t = 0; t < rows; t++)
        for (int j = 0; j < IN; j++) {
            float s = 0;
            for (int i = 0; i < IN; i++) s += ref[t * IN + i] * leak[j * IN + i];
            x[t * IN + j] = 0.97f * ref[t * IN + j] + s;
        }
}

static sy_status layer(sy_context *ctx, uint64_t seed, double v[WIDTHS][ARMS])
{
    toy_rng r = { seed * 1000 + 3 };
    small_source source;
    sy_stats stats = { 0 };
    sy_run *run = NULL;
    float *memory = malloc((size_t)(4 * TOKENS * IN + 2 * OUT * IN + IN * IN) * sizeof *memory);
    if (!memory || !small_source_new(&source, IN, 0.8, &r)) return SY_E_MEMORY;
    float *ref = memory, *x = ref + TOKENS * IN, *held_ref = x + TOKENS * IN, *held = held_ref + TOKENS * IN, *w = held + TOKENS * IN, *value = w + OUT * IN, *leak = value + OUT * IN;
    double rms[IN] = { 0 };
    small_draw(&source, &r, TOKENS, ref);
    small_draw(&source, &r, TOKENS, held_ref);
    for (int t = 0; t < TOKENS; t++)
        for (int j = 0; j < IN; j++) rms[j] += (double)ref[t * IN + j] * (double)ref[t * IN + j] / TOKENS;
    for (int j = 0; j < IN; j++)
        for (int i = 0; i < IN; i++) leak[j * IN + i] = (float)(0.08 * toy_normal(&r) * sqrt(rms[j] / rms[i] / IN)); /* in units of the channels */
    drift(leak, TOKENS, ref, x);
    drift(leak, TOKENS, held_ref, held);
    for (int i = 0; i < OUT * IN; i++) w[i] = (float)toy_normal(&r);
    sy_status st = small_stats(&stats, TOKENS, IN, x, ref) ? small_engine(ctx, &run) : SY_E_MEMORY;
    for (int b = 0; b < WIDTHS && st == SY_OK; b++)
        for (int a = 0; a < ARMS && st == SY_OK; a++) {
            char bits[16];
            snprintf(bits, sizeof bits, "bits=%d", width[b]);
            const char *const settings[] = { bits, "group=128", "sym=off", "clip=on", arm[a].variant, arm[a].alpha, NULL };
            st = sy_compress_layer(run, arm[a].method, settings, &stats, OUT, IN, w, value, NULL);
            v[b][a] = small_output_error(TOKENS, OUT, IN, w, value, held, held_ref);
        }
    sy_run_close(run);
    small_stats_free(&stats);
    small_source_free(&source);
    free(memory);
    return st;
}

static sy_status language(sy_context *ctx, uint64_t seed, double v[LM])
{
    small_lm lm;
    double before = 0;
    sy_status st = small_lm_make(ctx, seed, &lm);
    for (int a = 0; a < LM && st == SY_OK; a++) {
        char method[64], variant[64] = "";
        snprintf(method, sizeof method, "method=%s", arm[lm_arm[a]].method);
        if (arm[lm_arm[a]].variant) snprintf(variant, sizeof variant, "%s", arm[lm_arm[a]].variant);
        const char *const settings[] = { method, "bits=3", "group=64", "sym=on", "clip=on", *variant ? variant : NULL, NULL };
        st = small_compress(ctx, &lm, lm.model, settings, &before, &v[a], NULL);
        v[a] -= before;
    }
    small_lm_free(&lm);
    return st;
}

static sy_status run(sy_context *ctx, int seeds, sy_report *report)
{
    static double one[WIDTHS][ARMS], value[WIDTHS][ARMS][SEEDS], lm[LM][SEEDS];
    double mean[WIDTHS][ARMS], excess[LM];
    if (seeds > SEEDS) seeds = SEEDS;
    for (int s = 0; s < seeds; s++) {
        double v[LM];
        sy_report_progress(report, s, seeds, "a layer and a language model");
        TRY(layer(ctx, 7 + (uint64_t)s, one));
        for (int b = 0; b < WIDTHS; b++)
            for (int a = 0; a < ARMS; a++) value[b][a][s] = one[b][a];
        TRY(language(ctx, 7 + (uint64_t)s, v));
        for (int a = 0; a < LM; a++) lm[a][s] = v[a];
    }
    for (int b = 0; b < WIDTHS; b++)
        for (int a = 0; a < ARMS; a++) {
            char what[120];
            snprintf(what, sizeof what, "layer, %d bits, held-out output error: %s", width[b], arm[a].what);
            mean[b][a] = toy_mean(value[b][a], seeds);
            TRY(sy_report_row(report, what, value[b][a], seeds, arm[a].sheet[b]));
        }
    for (int a = 0; a < LM; a++) {
        char what[120];
        snprintf(what, sizeof what, "language model, 3 bits, added nats: %s", arm[lm_arm[a]].what);
        excess[a] = toy_mean(lm[a], seeds);
        TRY(sy_report_row(report, what, lm[a], seeds, NAN));
    }
    for (int b = 0; b < 2; b++) {
        const int order[] = { RTN, GPTQ, GPTAQ, EXACT };
        for (int k = 1; k < 4; k++) {
            const double more = mean[b][order[k - 1]], less = mean[b][order[k]];
            TRY(sy_report_check(report, less <= 0.92 * more, "layer, %d bits: %s is at least 8 %% below %s: %.4f, %.4f", width[b], arm[order[k]].what, arm[order[k - 1]].what, less, more));
        }
    }
    TRY(sy_report_check(report, excess[LM_GPTQ] < 0.8 * excess[LM_RTN], "language model: GPTQ adds less than 0.8 of what RTN adds: %.4f, %.4f nats", excess[LM_GPTQ], excess[LM_RTN]));
    TRY(sy_report_check(report, excess[LM_GPTAQ] <= excess[LM_GPTQ], "language model: GPTAQ is no worse than GPTQ: %.4f, %.4f nats", excess[LM_GPTAQ], excess[LM_GPTQ]));
    return sy_report_check(report, excess[LM_RESCOMP] <= excess[LM_GPTAQ] + log(1.005), "language model: ResComp's perplexity is at most 1.005 of GPTAQ's: %.4f, %.4f nats", excess[LM_RESCOMP],
                           excess[LM_GPTAQ]);
}

const sy_experiment sy_experiment_rescomp = {
    .name = "rescomp",
    .claim = "Column-by-column quantization that lets later columns take up the error (GPTQ) beats rounding; taking up what earlier layers left (GPTAQ) beats that; re-anchoring "
             "to the untouched layer (ResComp) is no worse.",
    .paper = "arXiv:2604.07955: Llama2-7B at 3 bits, WikiText perplexity 6.73 GPTQ, 6.53 GPTAQ, 6.25 ResComp",
    .seeds = 3,
    .run = run,
};
