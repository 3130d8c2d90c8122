/* SPDX-License-Identifier: Apache-2.0 */
/* Reading option rows: defaults, strings, YAML, JSON, help texts. Internal. */
#ifndef SYI_OPTIONS_H
#define SYI_OPTIONS_H

#include "base.h"
#include "steelyard/options.h"
#include <jansson.h>

/* What the user said, not yet interpreted: key -> text, in order, with where it
 * came from ("--lr", "run.yaml:12") for messages. Later sets of a key win over
 * earlier ones of the same source; flags win over YAML. */
typedef struct {
    char *key;      /* canonical: '_' became '-'; the alias is not yet resolved */
    char *value;    /* as typed; a YAML sequence/mapping as compact JSON        */
    char *where;
    bool flag;      /* from the command line or sy_job_set: wins over YAML      */
    bool used;
} syi_setting;
typedef struct { sy_context *ctx; syi_setting *at; int64_t n, cap; } syi_settings;

void syi_settings_init(syi_settings *s, sy_context *ctx);
void syi_settings_free(syi_settings *s);
sy_status syi_settings_add(syi_settings *s, const char *key, const char *value, const char *where, bool flag);
/* YAML: a mapping at the top; nested mappings become JSON text; duplicate keys,
 * anchors/aliases/tags and more than one document are errors with file:line. */
sy_status syi_settings_yaml(syi_settings *s, const char *path);
/* The text set for `row` (by name or alias), or NULL. */
const char *syi_settings_get(const syi_settings *s, const char *name);

/* A table of rows and the struct that its offsets are in. */
typedef struct { const sy_option *rows; void *base; const char *owner; } syi_rows;

/* Fills every row of every table: default, then the setting. Unknown keys,
 * out-of-range and malformed values are SY_E_USAGE with file:line or flag and a
 * "did you mean". A key that two tables share fills both. Strings, lists and
 * maps are allocated from `arena`. */
sy_status syi_options_fill(sy_context *ctx, syi_settings *s, const syi_rows *tables, int n, syi_arena *arena);
/* One row from text. `where` is for the message. */
sy_status syi_option_set(sy_context *ctx, const sy_option *row, void *base, const char *text, const char *where, syi_arena *arena);
/* The value of a row as it would be typed (caller syi_free()s). */
char *syi_option_text(sy_context *ctx, const sy_option *row, const void *base);
/* To and from JSON by `peft` keys: unknown keys stay with the caller. A row
 * with no key in `j` keeps its default. New reference / borrowed. */
json_t *syi_option_json(const sy_option *row, const void *base);
sy_status syi_option_from_json(sy_context *ctx, const sy_option *row, void *base, const json_t *v, const char *where, syi_arena *arena);
/* "steelyard help" lines of a table. */
void syi_options_help(syi_text *out, const sy_option *rows, bool advanced);
int syi_options_count(const sy_option *rows);

/* Parses "1.5G", "512M", "64 KiB", "123". */
bool syi_parse_size(const char *s, int64_t *out);

#endif
