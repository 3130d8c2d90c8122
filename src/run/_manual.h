/* SPDX-License-Identifier: Apache-2.0 */
/* Pages about verbs and methods, all made from their rows and descriptors. Internal
 * to src/run/help.c. */
#ifndef SYI_MANUAL_H
#define SYI_MANUAL_H

#include "run/job.h"

typedef enum { SYI_PAGE_TEXT, SYI_PAGE_MAN, SYI_PAGE_MARKDOWN } syi_page;

/* The page of the command (both NULL), of a verb or of a method. advanced: all rows
 * (man and Markdown have them always). */
void syi_manual(syi_text *out, syi_page page, const sy_verb *verb, const sy_method *method, bool advanced);
/* A bash script that completes verbs, options, choices, method names and files. */
void syi_completion_bash(syi_text *out);
/* Rows as JSON: name, type, default, choices, range, help, aliases. New reference. */
json_t *syi_rows_json(const sy_option *rows);

#endif
