/* SPDX-License-Identifier: Apache-2.0 */
/* The command around the library: arguments in, progress and results out. Everything
 * that prints is here; the library itself never does. */
#ifndef CLI_H
#define CLI_H

#include "run/job.h"

/* -- arguments.c -------------------------------------------------------------- */
/* argv after the verb, as settings of the job. SY_E_USAGE with a message on ctx. */
sy_status cli_arguments(sy_context *ctx, sy_job *job, const sy_verb *verb, int argc, char **argv);
/* Was the flag given as --name or --name=on? Before any parsing, for what must be
 * known also when parsing fails (--json). Arguments after "--" do not count. */
bool cli_has(int argc, char **argv, const char *flag);

/* -- progress.c: standard error ------------------------------------------------ */
typedef struct {
    sy_job *job;       /* for --quiet; may be NULL         */
    bool live;         /* one line that is written anew    */
    bool shown;        /* such a line is on the screen     */
    bool echo_lines;   /* results appear on the same terminal */
    bool no_lines_in_json; /* --json wants the report, not lines */
    double drawn;      /* when the last line was made      */
    int64_t last;      /* `done` of the last line          */
    char what[32];     /* of the last line                 */
} cli_screen;
void cli_screen_init(cli_screen *s);
void cli_log(void *screen, sy_log_level level, const char *line);
void cli_progress(void *screen, const sy_progress *p);
void cli_screen_clear(cli_screen *s);
/* "steelyard: message", with the live line out of the way. */
void cli_error(cli_screen *s, const char *message);

/* -- print.c: standard output --------------------------------------------------- */
/* The report of a verb for people. */
void cli_print(const char *verb, const json_t *report);

#endif
