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
/* A YAML file as JSON (new reference): mappings and sequences, plain scalars by YAML
 * 1.2's core schema (null, true, 12, 1e-3), quoted ones as strings. The same things
 * are refused as below. For recipes; options go through syi_settings_yaml. */
sy_status syi_yaml_load(sy_context *ctx, const char *path, json_t **out);
/* YAML: a mapping at the top; nested mappings become JSON text; duplicate keys,
 * anchors/aliases/tags and more than one document are errors with file:line. */
sy_status syi_settings_yaml(syi_settings *s, const char *path);
/* The last text set for the key `name` itself ('-' and '_' alike), flags before
 * YAML; NULL: not set. Aliases are not looked at: settings do not know the rows. */
const char *syi_settings_get(const syi_settings *s, const char *name);

/* A table of rows and the struct that its offsets are in. `preset`: NULL, or other defaults
 * for some of them, "key=value" separated by blanks. */
typedef struct { const sy_option *rows; void *base; const char *owner, *preset; } syi_rows;

/* Fills every row of every table: default, then the setting. Unknown keys,
 * out-of-range and malformed values and missing SY_OPT_REQUIRED rows are SY_E_USAGE
 * with file:line or flag and a "did you mean". A key that two tables share fills both;
 * a name wins over an alias. "no-X" is X = off for a BOOL row. A value that YAML leaves
 * empty or null is the default. Strings, lists and maps are allocated from `arena`. */
sy_status syi_options_fill(sy_context *ctx, syi_settings *s, const syi_rows *tables, int n, syi_arena *arena);
/* Does the row answer to this key, by name (1) or alias (2)? 0: no. */
int syi_option_is(const sy_option *row, const char *key);
/* One row from text: BOOL on off true false yes no 1 0 and "" (on); numbers; LIST
 * a,b,c ("\\," is a comma in an item) or a JSON array; MAP k=1,k=2 or a JSON object. `where` is for the message. */
sy_status syi_option_set(sy_context *ctx, const sy_option *row, void *base, const char *text, const char *where, syi_arena *arena);
/* The row at its default (zero without one). */
sy_status syi_option_default(sy_context *ctx, const sy_option *row, void *base, syi_arena *arena);
/* The value of a row as it would be typed, "" if absent: syi_option_set reads the same
 * value from it (caller syi_free()s). NULL: no memory. */
char *syi_option_text(sy_context *ctx, const sy_option *row, const void *base);
/* To and from JSON values, new reference / borrowed; which key, the caller knows
 * (`peft`). JSON null keeps what is there. Lists are arrays (a lone string is read as
 * a list of one, commas and all); whole numbers in maps are integers. A choice
 * written "miss=true" is "miss" for people and true in JSON. Out of range or of the
 * wrong type: SY_E_INPUT. */
json_t *syi_option_json(const sy_option *row, const void *base);
sy_status syi_option_from_json(sy_context *ctx, const sy_option *row, void *base, const json_t *v, const char *where, syi_arena *arena);
/* "steelyard help" lines of a table, at most 100 columns. */
void syi_options_help(syi_text *out, const sy_option *rows, bool advanced);
int syi_options_count(const sy_option *rows);
/* "N", "SIZE", "a|b" ...: what stands for a value in a synopsis. Writes at most 64
 * bytes; "" for BOOL. */
char *syi_option_value_word(char buf[64], const sy_option *row);
/* "from 1 to 8", "more than 0": the row's range for people; "" without limits. */
char *syi_option_range(char buf[96], const sy_option *row);

/* Parses "1.5G", "512M", "64 KiB", "123": K M G T P are powers of 1024, with or
 * without B or iB, in any letter case. */
bool syi_parse_size(const char *s, int64_t *out);
/* The whole text as an integer ("1e4" and "2.0" too, if exact) or a finite number,
 * whatever the locale. */
bool syi_parse_int(const char *s, int64_t *out);
bool syi_parse_double(const char *s, double *out);
/* The shortest text that reads back as the same number, with a '.', whatever the
 * locale. */
char *syi_double_text(char buf[40], double v);

#endif
