/* SPDX-License-Identifier: Apache-2.0 */
/* What a verb sees of its job: common options, methods asked for, the report. Internal. */
#ifndef SYI_JOB_H
#define SYI_JOB_H

#include "base/options.h"
#include "steelyard/job.h"
#include "steelyard/run.h"

/* Rows of sy_common_options. */
typedef struct {
    bool json, dry_run, quiet;
    int64_t memory_limit; /* 0: none */
    int64_t threads;      /* 0: all  */
    int64_t seed;
} syi_common;

/* The file in the folder of a run that holds its settings: syi_job_settings(job, false)
 * as YAML. When a verb has a row "resume" and it is given, the job reads
 * RESUME/run.yaml itself, below YAML and flags, before any row is filled. */
#define SYI_SETTINGS_FILE "run.yaml"

/* A job of any verb, also one that is not in the registry (tests). */
sy_status syi_job_new(sy_context *ctx, const sy_verb *verb, sy_job **out);
sy_context *syi_job_context(sy_job *job);
const syi_common *syi_job_common(const sy_job *job);
syi_arena *syi_job_arena(sy_job *job); /* strings that live as long as the job */
/* A verb whose rows include "adapter", "optimizer", "objective", "trainer" or "method"
 * has the named method's rows among its flags. The job finds the method, fills its
 * context and keeps it here; taken by the caller (once). method NULL: none asked for. */
sy_use syi_job_take(sy_job *job, sy_kind kind);
/* Was this key given by the user (flag or YAML), not a default? */
bool syi_job_given(const sy_job *job, const char *key);
/* All settings as the job began, defaults included, as typed: for receipts and resume. With
 * fingerprint: rows flagged SY_OPT_RUNTIME left out. New reference. */
json_t *syi_job_settings(sy_job *job, bool fingerprint);
/* The report that is being made (borrowed): set keys on it. */
json_t *syi_job_report(sy_job *job);
void syi_job_print(sy_job *job, const char *fmt, ...) SYI_PRINTF(2, 3);
/* A line of the receipt: what matched, what changed, sizes, hashes. Goes to the log as
 * INFO and into report["receipt"] (array). */
void syi_job_receipt(sy_job *job, const char *fmt, ...) SYI_PRINTF(2, 3);

/* Does the folder hold a file of that name? */
static inline bool syi_dir_holds(sy_context *ctx, const char *dir, const char *name)
{
    char *path = syi_join(ctx, dir, name);
    bool yes = path && syi_exists(path);
    syi_free(ctx, path);
    return yes;
}

/* -- rows and methods by name ------------------------------------------------------- */
/* The row called `key` (dashes; an alias counts) or NULL. rows may be NULL. */
const sy_option *syi_row_find(const sy_option *rows, const char *key);
/* The i-th row of a verb that names a method ("adapter"), and its kind; NULL: no more. */
const sy_option *syi_verb_names(const sy_verb *verb, int i, int *kind);
/* By name; SY_E_USAGE with "did you mean" and `where` in front. */
sy_status syi_use_find(sy_context *ctx, const char *name, int kind, const char *where, const sy_method **out);
/* A method with a zeroed context and its defaults filled; `name` is what it was found by (NULL:
 * its own): a preset has other defaults. sy_use_free calls the method's
 * free and releases the context: whoever holds a use at the end calls it, a run too. */
sy_status syi_use_make(sy_context *ctx, const sy_method *method, const char *name, sy_use *out);
syi_arena *syi_use_arena(const sy_use *use); /* for strings that its options point to */

#endif
