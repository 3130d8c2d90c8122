/* SPDX-License-Identifier: Apache-2.0 */
/* OPCM's claim at small scale: eight fine-tunings of one base arrive one by one; merging
 * them by projection needs no strength and is better than averaging and than task
 * arithmetic at its best strength (chosen on the test score, which favours it). */
#include "_nets.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TRY(call)                              \
    do {                                       \
        sy_status try_ = (call);               \
        if (try_ != SY_OK) return try_;        \
    } while (0)

enum { SEEDS = 16, TASKS = 8, ORDERS = 4 };

static const struct { const char *what, *recipe; bool ordered; double sheet; } arms[] = {
    { "averaging", "merge_method: linear\nmodels: [%s]\n", false, 0.926 },
    { "task arithmetic, 0.1", "merge_method: task_arithmetic\nbase_model: base\nmodels: [%s]\nparameters: {lambda: 0.1}\n", false, NAN },
    { "task arithmetic, 0.2", "merge_method: task_arithmetic\nbase_model: base\nmodels: [%s]\nparameters: {lambda: 0.2}\n", false, NAN },
    { "task arithmetic, 0.3", "merge_method: task_arithmetic\nbase_model: base\nmodels: [%s]\nparameters: {lambda: 0.3}\n", false, NAN },
    { "task arithmetic, 0.5", "merge_method: task_arithmetic\nbase_model: base\nmodels: [%s]\nparameters: {lambda: 0.5}\n", false, NAN },
    { "task arithmetic, 1", "merge_method: task_arithmetic\nbase_model: base\nmodels: [%s]\nparameters: {lambda: 1}\n", false, NAN },
    { "sum at the mean length", "merge_method: opcm\nbase_model: base\nmodels: [%s]\nparameters: {alpha: 0, diag: false}\n", true, 0.930 },
    { "OPCM, inner block, alpha 0.5", "merge_method: opcm\nbase_model: base\nmodels: [%s]\n", true, 0.947 },
    { "OPCM, diagonal only", "merge_method: opcm\nbase_model: base\nmodels: [%s]\nparameters: {alpha: 0}\n", true, 0.942 },
    { "OPCM, outer block, alpha 0.5", "merge_method: opcm\nbase_model: base\nmodels: [%s]\nparameters: {block: outer}\n", true, 0.932 },
    { "OPCM, outer block, alpha 0.8", "merge_method: opcm\nbase_model: base\nmodels: [%s]\nparameters: {block: outer, alpha: 0.8}\n", true, NAN },
};
enum { ARMS = sizeof arms / sizeof *arms, AVERAGE = 0, FIRST_ARITHMETIC = 1, LAST_ARITHMETIC = 5, PLAIN = 6, INNER = 7 };

static sy_status score(sy_context *ctx, const nets_tasks *t, const char *dir, int arm, double *out)
{
    *out = 0;
    const int orders = arms[arm].ordered ? ORDERS : 1;
    for (int o = 0; o < orders; o++) {
        char list[800] = "", recipe[1200];
        for (int k = 0; k < TASKS; k++) /* four cyclic orders, two of them backwards */
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s{model: task%d, parameters: {%s}}", k ? ", " : "", (o * 2 + (o % 2 ? TASKS - k : k)) % TASKS,
                     arms[arm].ordered ? "" : "weight: 1");
        snprintf(recipe, sizeof recipe, arms[arm].recipe, list);
        double one;
        TRY(nets_merge(ctx, dir, recipe, "merged"));
        TRY(nets_tasks_score(ctx, t, dir, "merged", &one));
        *out += one / orders;
    }
    return SY_OK;
}

static sy_status run(sy_context *ctx, int seeds, sy_report *report)
{
    static double value[ARMS][SEEDS], alone[SEEDS], best[SEEDS];
    if (seeds > SEEDS) seeds = SEEDS;
    int beats_average = 0, beats_arithmetic = 0;
    for (int s = 0; s < seeds; s++) {
        char dir[256];
        nets_tasks t;
        TRY(toy_folder(dir));
        sy_report_progress(report, s, seeds, "eight tasks");
        sy_status st = nets_tasks_make(ctx, &t, TASKS, dir, 100 + (uint64_t)s);
        for (int a = 0; a < ARMS && st == SY_OK; a++) st = score(ctx, &t, dir, a, &value[a][s]);
        alone[s] = best[s] = 0;
        for (int k = 0; k < TASKS; k++) alone[s] += t.alone[k] / TASKS;
        for (int a = FIRST_ARITHMETIC; a <= LAST_ARITHMETIC; a++) best[s] = fmax(best[s], value[a][s]);
        beats_average += value[INNER][s] > value[AVERAGE][s] + 0.01;
        beats_arithmetic += value[INNER][s] >= best[s];
        nets_tasks_free(&t);
        toy_folder_remove(dir);
        TRY(st);
    }
    TRY(sy_report_row(report, "each task with its own model", alone, seeds, 0.988));
    for (int a = 0; a < ARMS; a++) TRY(sy_report_row(report, arms[a].what, value[a], seeds, arms[a].sheet));
    TRY(sy_report_row(report, "task arithmetic, best strength (chosen on the test score)", best, seeds, 0.934));
    TRY(sy_report_check(report, beats_average == seeds, "OPCM is better than averaging by at least 0.01: %d of %d seeds", beats_average, seeds));
    return sy_report_check(report, 3 * beats_arithmetic >= 2 * seeds, "OPCM is at least as good as task arithmetic at its best strength: %d of %d seeds", beats_arithmetic, seeds);
}

const sy_experiment sy_experiment_opcm = {
    .name = "opcm",
    .claim = "Merging fine-tuned models one at a time, each newcomer's update projected away from the sum so far and the result held at the mean length, "
             "beats averaging and task arithmetic without a strength to tune.",
    .paper = "OPCM (arXiv:2501.09522): ViT-B/32, 8 tasks: averaging 66.3 %, continual task arithmetic 67.5 %, OPCM 75.5 %",
    .seeds = 3,
    .run = run,
};
