/* SPDX-License-Identifier: Apache-2.0 */
/* What text and JSON have in common on their way into a row's field. */
#ifndef SYI_OPTION_VALUE_H
#define SYI_OPTION_VALUE_H

#include "options.h"

/* Where a value came from and what to say if it is refused. */
typedef struct {
    sy_context *ctx;
    const sy_option *row;
    const char *where;   /* "--lr", "run.yaml:12", "adapter_config.json" */
    sy_status code;      /* SY_E_USAGE or SY_E_INPUT */
    const char *found;   /* the text, for the message */
    syi_arena *arena;
} syi_source;

/* "WHERE: NAME: expected WHAT, found "TEXT"; hint" */
sy_status syi_option_refuse(const syi_source *s, const char *expected, const char *hint);
/* Stores after checking the range of the row. */
sy_status syi_option_put_int(const syi_source *s, void *field, int64_t v);
sy_status syi_option_put_double(const syi_source *s, void *field, double v);
sy_status syi_option_put_list(const syi_source *s, void *field, const json_t *array);
sy_status syi_option_put_map(const syi_source *s, void *field, const json_t *object);
/* The choice of that name: our word, or with `json` the word after '='; -1. */
int syi_option_choice(const sy_option *row, const char *word, bool json);
/* Our word of choice i, in a buffer. */
char *syi_option_choice_name(char buf[64], const sy_option *row, int i);

#endif
