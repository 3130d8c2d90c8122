/* SPDX-License-Identifier: Apache-2.0 */
/* Experiments: a method's published claim measured again at small scale, with baselines,
 * several seeds and a verdict computed from the numbers. One file a method
 * (experiments/NAME.c defines sy_experiment_NAME); `steelyard repro NAME` runs it. They
 * use public headers only: what they do, a program can do. */
#ifndef STEELYARD_EXPERIMENT_H
#define STEELYARD_EXPERIMENT_H

#include "run.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_report sy_report;

typedef struct sy_experiment {
    const char *name;     /* the method's                                              */
    const char *claim;    /* what is claimed, in a sentence or two                     */
    const char *paper;    /* where, with the paper's numbers if they have any          */
    int seeds;            /* repetitions by default                                    */
    sy_status (*run)(sy_context *ctx, int seeds, sy_report *report);
} sy_experiment;

const sy_experiment *const *sy_experiments(void); /* NULL-terminated */
const sy_experiment *sy_experiment_find(const char *name);

/* A row of the table: n values (one a seed), and what is expected (NAN: nothing). */
sy_status sy_report_row(sy_report *report, const char *what, const double *values, int n, double expected);
/* Something that the claim says and that held, or did not. Any number of them; the
 * verdict is "reproduced" when all held, "partly" when some did, else "not reproduced". */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
sy_status sy_report_check(sy_report *report, bool held, const char *fmt, ...);
/* Shown while it works. */
void sy_report_progress(sy_report *report, int64_t done, int64_t total, const char *what);

/* Runs it. *json: one object with name, claim, paper, seeds, rows (what, mean, sd, values,
 * expected), checks (text, held) and verdict; free with sy_string_free. */
sy_status sy_experiment_run(sy_context *ctx, const sy_experiment *experiment, int seeds, char **json);

#ifdef __cplusplus
}
#endif
#endif
