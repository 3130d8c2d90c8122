/* SPDX-License-Identifier: Apache-2.0 */
/* The standard merges on eight fine-tunings of one base, each over a few settings: what
 * beats the plain average, and by how much at its best (chosen on the test score). */
#include "_nets.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TRY(call)                              \
    do {                                       \
        sy_status try_ = (call);               \
        if (try_ != SY_OK) return try_;        \
    } while (0)

enum { SEEDS = 16, TASKS = 8, TRIES = 5 };

/* One recipe a method; the number goes to the first %g. */
#define DELTA(method, per, more) "merge_method: " method "\nbase_model: base\nmodels: [%s]\nparameters: {lambda: %g" more "}\n", per
static const struct { const char *what, *recipe, *per; double tries[TRIES]; int n; } arms[] = {
    { "average", "merge_method: linear\nmodels: [%s]\nparameters: {normalize: %g}\n", "weight: 1", { 1 }, 1 },
    { "task arithmetic", DELTA("task_arithmetic", "weight: 1", ""), { 0.1, 0.2, 0.3, 0.5, 1 }, 5 },
    { "TIES (density 0.2)", DELTA("ties", "weight: 1, density: 0.2", ", normalize: false"), { 0.2, 0.3, 0.5, 0.7, 1 }, 5 },
    { "TIES (density 0.5, averaged)", DELTA("ties", "weight: 1, density: 0.5", ""), { 0.5, 1, 1.5, 2, 3 }, 5 },
    { "DARE (density 0.5)", DELTA("dare_linear", "weight: 1, density: 0.5", ""), { 0.1, 0.2, 0.3, 0.5, 1 }, 5 },
    { "DARE-TIES (density 0.5)", DELTA("dare_ties", "weight: 1, density: 0.5", ""), { 0.1, 0.2, 0.3, 0.5, 1 }, 5 },
    { "DELLA (density 0.5)", DELTA("della", "weight: 1, density: 0.5, epsilon: 0.2", ", normalize: false"), { 0.1, 0.2, 0.3, 0.5, 1 }, 5 },
    { "Breadcrumbs (density 0.85)", DELTA("breadcrumbs", "weight: 1, density: 0.85, gamma: 0.02", ""), { 0.1, 0.2, 0.3, 0.5, 1 }, 5 },
    { "Model Stock", "merge_method: model_stock\nbase_model: base\nmodels: [%s]\nparameters: {filter_wise: %g}\n", "", { 0, 1 }, 2 },
    { "Karcher mean", "merge_method: karcher\nmodels: [%s]\nparameters: {tol: %g}\n", "", { 1e-5 }, 1 },
    { "TSV-M", "merge_method: tsv\nbase_model: base\nmodels: [%s]\nparameters: {alpha: %g}\n", "", { 0.3, 0.5, 0.7, 1, 1.5 }, 5 },
    { "Iso-C", "merge_method: iso_c\nbase_model: base\nmodels: [%s]\nparameters: {lambda: %g}\n", "", { 0.2, 0.3, 0.5, 0.7, 1 }, 5 },
    { "Iso-CTS", "merge_method: iso_cts\nbase_model: base\nmodels: [%s]\nparameters: {lambda: %g}\n", "", { 0.2, 0.3, 0.5, 0.7, 1 }, 5 },
};
enum { ARMS = sizeof arms / sizeof *arms, AVERAGE = 0, ARITHMETIC = 1 };

static sy_status score(sy_context *ctx, const nets_tasks *t, const char *dir, int arm, double setting, double *out)
{
    char list[1000] = "", recipe[1400];
    for (int k = 0; k < TASKS; k++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s{model: task%d%s%s%s}", k ? ", " : "", k, *arms[arm].per ? ", parameters: {" : "", arms[arm].per, *arms[arm].per ? "}" : "");
    snprintf(recipe, sizeof recipe, arms[arm].recipe, list, setting);
    TRY(nets_merge(ctx, dir, recipe, "merged"));
    return nets_tasks_score(ctx, t, dir, "merged", out);
}

static sy_status run(sy_context *ctx, int seeds, sy_report *report)
{
    static double value[ARMS][TRIES][SEEDS], best[ARMS][SEEDS], gain[ARMS][SEEDS];
    if (seeds > SEEDS) seeds = SEEDS;
    for (int s = 0; s < seeds; s++) {
        char dir[256];
        nets_tasks t;
        TRY(toy_folder(dir));
        sy_report_progress(report, s, seeds, "eight tasks");
        sy_status st = nets_tasks_make(ctx, &t, TASKS, dir, 100 + (uint64_t)s);
        for (int a = 0; a < ARMS && st == SY_OK; a++) {
            best[a][s] = 0;
            for (int k = 0; k < arms[a].n && st == SY_OK; k++) {
                st = score(ctx, &t, dir, a, arms[a].tries[k], &value[a][k][s]);
                best[a][s] = fmax(best[a][s], value[a][k][s]);
            }
            gain[a][s] = best[a][s] - best[AVERAGE][s];
        }
        nets_tasks_free(&t);
        toy_folder_remove(dir);
        TRY(st);
    }
    double mean[ARMS] = { 0 }, average = 0, collapsed = 0, arithmetic = 0;
    int better = 0;
    for (int a = 0; a < ARMS; a++) {
        char what[120];
        for (int s = 0; s < seeds; s++) mean[a] += gain[a][s] / seeds;
        for (int k = 0; k < arms[a].n && a == ARITHMETIC; k++) {
            snprintf(what, sizeof what, "task arithmetic, lambda %g", arms[a].tries[k]);
            TRY(sy_report_row(report, what, value[a][k], seeds, NAN));
        }
        snprintf(what, sizeof what, "%s%s", arms[a].what, arms[a].n > 1 ? ", best setting" : "");
        TRY(sy_report_row(report, what, best[a], seeds, a == AVERAGE ? 0.926 : a == ARITHMETIC ? 0.934 : NAN));
        if (a > AVERAGE) better += mean[a] > 0;
    }
    for (int s = 0; s < seeds; s++) {
        average += best[AVERAGE][s] / seeds;
        arithmetic += best[ARITHMETIC][s] / seeds;
        collapsed += value[ARITHMETIC][4][s] / seeds;
    }
    TRY(sy_report_check(report, arithmetic > average, "task arithmetic at its best (%.3f) is better than the average (%.3f)", arithmetic, average));
    TRY(sy_report_check(report, collapsed < average - 0.05, "task arithmetic at full strength collapses (%.3f)", collapsed));
    for (int a = 2; a < ARMS; a++) TRY(sy_report_check(report, mean[a] > 0, "%s beats the average by its own best setting (%+.4f)", arms[a].what, mean[a]));
    (void)better;
    return SY_OK;
}

const sy_experiment sy_experiment_merge_baselines = {
    .name = "merge-baselines",
    .claim = "The standard merges beat the plain average of fine-tuned models when each is used at its best setting; task arithmetic at full strength collapses.",
    .paper = "arXiv:2203.05482, 2212.04089, 2306.01708, 2311.03099, 2312.06795, 2406.11617, 2403.19522, 2412.00081, 2502.04959",
    .seeds = 3,
    .run = run,
};
