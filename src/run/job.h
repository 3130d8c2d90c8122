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

sy_context *syi_job_context(sy_job *job);
const syi_common *syi_job_common(const sy_job *job);
syi_arena *syi_job_arena(sy_job *job); /* strings that live as long as the job */
/* A verb whose rows include "adapter", "optimizer", "objective", "trainer" or "method"
 * has the named method's rows among its flags. The job finds the method, fills its
 * context and keeps it here; taken by the caller (once). method NULL: none asked for. */
sy_use syi_job_take(sy_job *job, sy_kind kind);
/* Was this key given by the user (flag or YAML), not a default? */
bool syi_job_given(const sy_job *job, const char *key);
/* All settings in force, defaults included, as typed: for receipts and resume. With
 * fingerprint: rows flagged SY_OPT_RUNTIME left out. New reference. */
json_t *syi_job_settings(sy_job *job, bool fingerprint);
/* The report that is being made (borrowed): set keys on it. */
json_t *syi_job_report(sy_job *job);
void syi_job_print(sy_job *job, const char *fmt, ...) SYI_PRINTF(2, 3);
/* A line of the receipt: what matched, what changed, sizes, hashes. Goes to the log as
 * INFO and into report["receipt"] (array). */
void syi_job_receipt(sy_job *job, const char *fmt, ...) SYI_PRINTF(2, 3);

#endif
