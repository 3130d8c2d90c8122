/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of the verb `train`: schedule, logs, run folder, checkpoints. Internal to src/run. */
#ifndef SYI_TRAIN_H
#define SYI_TRAIN_H

#include "run/job.h"
#include "run/run.h"

#include <math.h>

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
/* Removes event files from a folder whose run never took a step. */
sy_status syi_metrics_remove_events(sy_context *ctx, const char *dir);
sy_status syi_metrics_close(syi_metrics *m); /* syncs, frees; NULL is fine */

/* -- _evaluate.c ------------------------------------------------------------------------------ */

/* _data.c: what the model reads, and whether rows are classified. */
bool syi_run_classifies(const sy_run *run);
bool syi_run_sees(const sy_run *run); /* images */
sy_status syi_run_data(sy_run *run, const char *path, const sy_dataset_options *o, sy_dataset **out);
sy_status syi_run_needs_tokenizer(sy_run *run, const char *model);

/* _embed.c: texts as vectors, pooled as the model's files say. */
/* out[rows, hidden] f32: one vector a row of the batch (one text each). */
sy_status syi_run_embed(sy_run *run, const sy_batch *batch, const syi_pooling *how, float *out);

typedef struct { double loss; int64_t trained, tokens; double seconds, accuracy; /* NAN: not a classifier */ } syi_evaluation;
/* Loss and hits of logits [rows, classes] against their targets (-1: none). */
void syi_classified(const float *logits, int64_t rows, int64_t classes, const int32_t *target, double *loss, int64_t *right);
/* Is token t padding? */
bool syi_batch_padding(const sy_batch *b, int64_t t);
/* Tokens of the batch that are not padding. */
int64_t syi_batch_tokens(const sy_batch *b);
/* For dividing by a time or a count that may be 0. */
static inline double syi_positive(double v) { return v > 1e-9 ? v : 1e-9; }
/* Mean loss over one epoch of `data`, `rows` rows at a time, forward only; progress is
 * reported as `what`. SY_E_NUMERIC if it is not a finite number. */
sy_status syi_evaluate(sy_run *run, sy_dataset *data, int64_t rows, const char *what, syi_evaluation *out);

/* -- train.c, _loop.c: the verb --------------------------------------------------------------- */

/* Options of data that several verbs have: fields of a struct that has a member
 * `data_rows` of type syi_data_rows, and the rows for them. */
typedef struct {
    int preference;
    char *cache, *text, *prompt, *completion, *messages, *instruction, *input, *output, *system, *role, *content, *chosen, *rejected;
} syi_data_rows;
extern const char *const syi_preferences[];
/* OFFSET is the file's macro for its rows. */
#define SYI_FIELD_ROW(what, also)                                                                                                  \
    {.name = "field-" #what, .type = SY_OPT_STRING, .offset = OFFSET(data_rows.what), .alias = also, .flags = SY_OPT_ADVANCED,       \
     .help = "what the file calls \"" #what "\"", .example = #what}
#define SYI_DATA_ROWS                                                                                                              \
    {.name = "preference", .type = SY_OPT_ENUM, .offset = OFFSET(data_rows.preference), .def = "refuse", .choices = syi_preferences, \
     .flags = SY_OPT_ADVANCED, .help = "of records with two answers (chosen, rejected) or a label: the answers to take",            \
     .example = "chosen"},                                                                                                         \
    {.name = "data-cache", .type = SY_OPT_PATH, .offset = OFFSET(data_rows.cache), .alias = "dataset_prepared_path",                 \
     .flags = SY_OPT_RUNTIME | SY_OPT_ADVANCED,                                                                                    \
     .help = "folder for tokens, found again when file, tokenizer, template and options are the same", .example = "{tmp}/tokens"}, \
    SYI_FIELD_ROW(text, NULL), SYI_FIELD_ROW(prompt, NULL), SYI_FIELD_ROW(completion, NULL), SYI_FIELD_ROW(messages, NULL),         \
    SYI_FIELD_ROW(role, "message_field_role"), SYI_FIELD_ROW(content, "message_field_content"), SYI_FIELD_ROW(instruction, NULL),   \
    SYI_FIELD_ROW(input, NULL), SYI_FIELD_ROW(output, NULL), SYI_FIELD_ROW(system, NULL), SYI_FIELD_ROW(chosen, NULL),              \
    SYI_FIELD_ROW(rejected, NULL)
void syi_data_options(const syi_data_rows *rows, sy_dataset_options *out);
typedef struct {
    char *model, *data, *out, *adapter, *optimizer, *objective, *trainer;
    int64_t batch, seq, accumulation, steps;
    double epochs, lr, warmup_ratio, clip;
    int schedule, dtype, loss_on;
    int64_t warmup_steps, save_steps, eval_steps, save_limit, log_steps;
    char *eval_data;
    double eval_share;
    bool eval_first, keep_best, shuffle, pack, train_on_inputs, auto_resume;
    char *recompute, *init_adapter, *resume, *profile, *chat_template;
    syi_data_rows data_rows;
} syi_train_options;

/* Where a run is: stored with each checkpoint beside the engine's own state. */
typedef struct {
    int64_t step, tokens, trained;     /* done; trained: tokens that had a loss         */
    double seconds;                    /* of steps, over all sessions                   */
    double first_loss, loss, loss_sum; /* of the first and last step; over all steps    */
    double grad_norm;                  /* of the last step                              */
    double window_loss;                /* since the last line of the log                */
    int64_t window_steps, window_tokens;
    double window_seconds;
    double eval_loss, first_eval, best_loss; /* NAN: none                               */
    double eval_accuracy;              /* of the last evaluation; NAN: no classifier      */
    int64_t eval_step, best_step;      /* -1: none                                      */
    int64_t micro_tokens;              /* how the plan cut the batch                    */
    syi_log_sizes logs;
    char settings[33], model[33], data[33], eval[33]; /* hashes                         */
} syi_run_state;

typedef struct {
    syi_train_options o;               /* the verb's rows                               */
    sy_job *job;
    sy_context *ctx;
    sy_run *run;
    sy_dataset *data, *eval;
    sy_dataset_info data_info, eval_info;
    sy_plan plan;
    syi_schedule schedule;
    char *dir;                         /* the run folder                                */
    int lock;                          /* held on it, -1: not                           */
    bool fresh, resuming;              /* fresh: this session made the folder           */
    int64_t saved_step;                /* of the newest checkpoint, -1: none            */
    syi_metrics *metrics;
    syi_run_state state;
    json_t *settings, *fingerprint;    /* in force; without what may change             */
    char *template_text;
    double began;                      /* of this session                               */
    double start_seconds; /* from the start of the process to the first step's beginning */
    int64_t session_step, session_tokens;
    double session_seconds;
} syi_train;

/* Steps, evaluations and checkpoints until the last step is done. SY_E_CANCELLED after
 * a checkpoint was saved; SY_E_NUMERIC when loss or gradient are not finite. */
sy_status syi_train_loop(syi_train *t);
double syi_train_epoch(const syi_train *t);
/* --seq against the model's context: longer is SY_E_USAGE if it was given, else shortened. */
sy_status syi_run_seq(sy_run *run, bool given, int64_t *seq);
/* The chat template in force: --chat-template's file, NULL for ChatML, or the model's own.
 * The caller syi_free()s it. */
sy_status syi_template_text(sy_context *ctx, sy_run *run, const char *option, char **text);
char *syi_train_title(const syi_train *t, char buf[160]);
/* "loss 3.1 -> 2.4 over 200 steps" for people. */
char *syi_train_summary(const syi_train *t, char buf[200]);

/* -- _checkpoint.c: the run folder -------------------------------------------------------------- */

/* Takes the folder for this process; SY_E_USAGE if another one works in it. */
sy_status syi_folder_lock(sy_context *ctx, const char *dir, int *lock);
void syi_folder_unlock(int lock);
/* Is there anything in it that a user would miss? Absent: no. */
sy_status syi_folder_used(sy_context *ctx, const char *dir, bool *used);
/* Removes what killed processes left: work folders, half-removed checkpoints. */
sy_status syi_folder_clean(sy_context *ctx, const char *dir);
/* run.yaml: the settings as a file that `steelyard train` takes. */
sy_status syi_settings_write(sy_context *ctx, const char *dir, const json_t *settings);
/* SY_E_USAGE that lists every setting in force that differs from run.yaml's. */
sy_status syi_settings_same(sy_context *ctx, const char *dir, const json_t *fingerprint);
/* dir/checkpoint-STEP appears complete or not at all; then old ones beyond `save-limit` go
 * (never the newest or the best), and trainer_state.json and loss.svg are brought up to date. */
sy_status syi_checkpoint_save(syi_train *t);
/* The newest checkpoint's step, -1 if there is none. */
sy_status syi_checkpoint_newest(sy_context *ctx, const char *dir, int64_t *step);
/* Puts run and state back as they were at checkpoint-STEP; checks model, data and settings. */
sy_status syi_checkpoint_load(syi_train *t, int64_t step);
/* trainer_state.json into `dir`. */
sy_status syi_trainer_state_write(syi_train *t, const char *dir);

/* -- _receipt.c ------------------------------------------------------------------------------------ */

/* Receipt lines and report keys of what was opened: model, adapter, data, plan. */
sy_status syi_train_receipt_open(syi_train *t);
/* state.model, into the report too, when first needed: it takes as long as reading the files, so not before the
 * first step. */
sy_status syi_train_model_hash(syi_train *t);
/* ... and of what was done and written; writes receipt.json, which marks a run complete. */
sy_status syi_train_receipt_end(syi_train *t);
/* The report of a run that was complete when it was resumed, from its receipt. */
sy_status syi_train_receipt_again(syi_train *t);
/* A plan as a report object and a line. */
sy_status syi_receipt_plan(sy_job *job, const sy_plan *plan);
/* What the model is; with its hash when `hash` is not NULL. */
sy_status syi_receipt_model(sy_job *job, sy_run *run, const char *path, char hash[33]);
sy_status syi_receipt_data(sy_job *job, const char *key, const char *path, const sy_dataset_info *info);
/* Sets a key of the report to a number; not finite: null. */
void syi_report_real(json_t *report, const char *key, double value);

#endif
