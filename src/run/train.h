/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of the verb `train`: schedule, logs, run folder, checkpoints. Internal to src/run. */
#ifndef SYI_TRAIN_H
#define SYI_TRAIN_H

#include "run/job.h"
#include "run/run.h"

/* -- _schedule.c ----------------------------------------------------------------------- */

typedef enum { SYI_CONSTANT, SYI_LINEAR, SYI_COSINE } syi_schedule_kind;
typedef struct { int kind; double peak; int64_t total, warmup; } syi_schedule;
/* Learning rate of step `step`, counted from 0: the formulas of Hugging Face's constant,
 * linear and cosine schedules with warm-up (whose first warm-up step has rate 0). */
double syi_schedule_lr(const syi_schedule *s, int64_t step);

/* -- _tfevents.c ------------------------------------------------------------------------- */

typedef struct syi_tfevents syi_tfevents;
/* An event file that TensorBoard reads. New (or cut to 0): begins with the version
 * record. keep: as in syi_append_open. */
sy_status syi_tfevents_open(sy_context *ctx, const char *path, int64_t keep, double wall_time, syi_tfevents **out);
sy_status syi_tfevents_scalar(syi_tfevents *t, double wall_time, int64_t step, const char *tag, double value);
int64_t syi_tfevents_size(const syi_tfevents *t);
sy_status syi_tfevents_close(syi_tfevents *t); /* NULL is fine */

/* -- _metrics.c ---------------------------------------------------------------------------- */
/* What a run records: metrics.jsonl, the event file, trainer_state.json, loss.svg. */

typedef struct syi_metrics syi_metrics;
/* Sizes of the append-only files, stored with each checkpoint; zero for a new run. */
typedef struct { int64_t jsonl, events; char events_name[256]; } syi_log_sizes;

/* Opens the logs of the run in `dir`, cut to `at` (lines written after the checkpoint
 * that the run resumes from go); what is kept is read back for the curve. A log that
 * somebody removed is begun anew, with a warning. */
sy_status syi_metrics_open(sy_context *ctx, const char *dir, const syi_log_sizes *at, syi_metrics **out);
/* One line: `line` (taken) is a flat object of numbers with "step"; its numbers become
 * scalars under train/ or, for keys that begin with "eval_", eval/. */
sy_status syi_metrics_add(syi_metrics *m, json_t *line);
/* Reached so far, durable. */
sy_status syi_metrics_sync(syi_metrics *m, syi_log_sizes *out);
/* loss.svg, complete or not at all. */
sy_status syi_metrics_picture(syi_metrics *m, const char *title, const char *subtitle);
/* Appends the lines so far, separated by commas: trainer_state.json's log_history. */
sy_status syi_metrics_history(syi_metrics *m, syi_text *out);
sy_status syi_metrics_close(syi_metrics *m); /* frees; NULL is fine */

#endif
