/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs: the verbs of the command as calls. What `steelyard train --lr 2e-4 ...` does
 * is a job "train" with the setting lr = 2e-4; the command is a thin printer around
 * this header, so a program gets exactly the same work, files and report.
 *
 *     sy_job_new(ctx, "train", &job); sy_job_set(job, "model", "smollm2"); ...
 *     if (sy_job_run(job) != SY_OK) puts(sy_error_message(ctx));
 *     puts(sy_job_report(job)); sy_job_free(job);
 */
#ifndef STEELYARD_JOB_H
#define STEELYARD_JOB_H

#include "options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_job sy_job;

/* A verb: its rows and its work (src/run/NAME.c). */
typedef struct sy_verb {
    const char *name;         /* "train"                                              */
    const char *title;        /* one line                                             */
    const char *about;        /* paragraphs of the help and man page                  */
    const char *example;      /* a command line without "steelyard ", run by a test in
                                 the source tree; {tmp} is an empty folder            */
    const sy_option *options;
    size_t size;
    unsigned flags;
    int method;               /* the sy_kind that its row "method" names, if it has that */
    sy_status (*run)(void *self, sy_job *job);
    void (*free)(void *self);
} sy_verb;
enum {
    SY_VERB_NO_MODEL = 1,
    SY_VERB_RAW_OUTPUT = 2, /* its result are lines through sy_job_print_to; the command
                               shows them unless --json asks for the report instead     */
    SY_VERB_JSON_LINES = 4  /* those lines are JSON: with --json they stay the output    */
};

const sy_verb *const *sy_verbs(void); /* NULL-terminated */
const sy_verb *sy_verb_find(const char *name);
/* The rows that every verb has: json, dry-run, memory-limit, threads, seed, quiet. */
const sy_option *sy_common_options(void);

sy_status sy_job_new(sy_context *ctx, const char *verb, sy_job **out);
/* Keys as on the command line without dashes; checked when the job runs. */
sy_status sy_job_set(sy_job *job, const char *key, const char *value);
/* A YAML file of settings; sy_job_set wins over it. */
sy_status sy_job_load(sy_job *job, const char *path);
sy_status sy_job_run(sy_job *job);
/* One JSON object with the keys that DESIGN promises for the verb; "{}" before. Borrowed. */
const char *sy_job_report(const sy_job *job);
/* Lines that the verb prints as its result (tokenize, generate): default drops them. */
typedef void sy_print_fn(void *self, const char *text, size_t len);
void sy_job_print_to(sy_job *job, sy_print_fn *fn, void *self);
void sy_job_free(sy_job *job);

#ifdef __cplusplus
}
#endif
#endif
