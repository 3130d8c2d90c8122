/* SPDX-License-Identifier: Apache-2.0 */
/* The boundary test that every table of option rows gets for free: well-formed rows;
 * defaults, examples and each choice accepted; below the minimum, above the maximum
 * and the wrong type refused with a message that names the option; values come back
 * the same from text and from JSON. */
#ifndef TEST_OPTION_ROWS_H
#define TEST_OPTION_ROWS_H

#include "base/options.h"
#include "support/test.h"

#include <math.h>

typedef struct {
    sy_context *ctx;
    syi_arena *arena;
    const char *owner;
    const sy_option *row;
    size_t size;      /* of the struct that the rows point into */
    char *base;       /* such a struct */
    char *other;      /* another one */
} option_rows_test;

static inline size_t option_rows_field_size(const sy_option *row)
{
    switch (row->type) {
    case SY_OPT_BOOL: return sizeof(bool);
    case SY_OPT_INT:
    case SY_OPT_SIZE: return sizeof(int64_t);
    case SY_OPT_FLOAT: return sizeof(double);
    case SY_OPT_STRING:
    case SY_OPT_PATH: return sizeof(char *);
    case SY_OPT_ENUM: return sizeof(int);
    case SY_OPT_LIST: return sizeof(sy_list);
    case SY_OPT_MAP: return sizeof(sy_map);
    }
    fail_msg("row %s has an unknown type", row->name);
    return 0;
}

static inline sy_status option_rows_set(option_rows_test *t, const char *text)
{
    sy_error_clear(t->ctx);
    return syi_option_set(t->ctx, t->row, t->base, text, "test.yaml:1", t->arena);
}

static inline void option_rows_accepts(option_rows_test *t, const char *text)
{
    if (option_rows_set(t, text) != SY_OK)
        fail_msg("%s --%s %s: refused: %s", t->owner, t->row->name, text, sy_error_message(t->ctx));
    /* text and JSON give the value back */
    char *out = syi_option_text(t->ctx, t->row, t->base);
    assert_non_null(out);
    memset(t->other, 0, t->size);
    if (syi_option_set(t->ctx, t->row, t->other, out, "again", t->arena) != SY_OK)
        fail_msg("%s --%s %s: written as '%s', which is refused: %s", t->owner, t->row->name, text, out,
                 sy_error_message(t->ctx));
    char *out2 = syi_option_text(t->ctx, t->row, t->other);
    assert_string_equal(out, out2);
    json_t *j = syi_option_json(t->row, t->base);
    assert_non_null(j);
    memset(t->other, 0, t->size);
    if (syi_option_from_json(t->ctx, t->row, t->other, j, "test.json", t->arena) != SY_OK)
        fail_msg("%s --%s %s: its own JSON is refused: %s", t->owner, t->row->name, text, sy_error_message(t->ctx));
    char *out3 = syi_option_text(t->ctx, t->row, t->other);
    assert_string_equal(out, out3);
    json_decref(j);
    syi_free(t->ctx, out);
    syi_free(t->ctx, out2);
    syi_free(t->ctx, out3);
}

static inline void option_rows_refuses(option_rows_test *t, const char *text)
{
    sy_status status = option_rows_set(t, text);
    if (status != SY_E_USAGE)
        fail_msg("%s --%s %s: expected SY_E_USAGE, got %s", t->owner, t->row->name, text, sy_status_name(status));
    const char *message = sy_error_message(t->ctx);
    if (strstr(message, t->row->name) == NULL || strstr(message, "expected") == NULL || strstr(message, "test.yaml:1") == NULL)
        fail_msg("%s --%s %s: the message is no help: %s", t->owner, t->row->name, text, message);
}

/* v as text; for maps as the value of a key. */
static inline const char *option_rows_number(char out[64], const sy_option *row, double v)
{
    char number[40];
    const char *prefix = row->type == SY_OPT_MAP ? "k=" : "";
    if (row->type == SY_OPT_INT || row->type == SY_OPT_SIZE) snprintf(out, 64, "%s%.0f", prefix, v);
    else snprintf(out, 64, "%s%s", prefix, syi_double_text(number, v));
    return out;
}

static inline void option_rows_limits(option_rows_test *t)
{
    const sy_option *row = t->row;
    char text[64];
    bool whole = row->type == SY_OPT_INT || row->type == SY_OPT_SIZE;
    bool open_min = (row->flags & SY_OPT_MIN_OPEN) != 0, open_max = (row->flags & SY_OPT_MAX_OPEN) != 0;
    if (row->min == 0 && row->max == 0) return;
    if (!(row->min < row->max || (row->min == row->max && !open_min && !open_max)))
        fail_msg("%s --%s: the range from %g to %g is empty", t->owner, row->name, row->min, row->max);
    double span = row->max - row->min, up = whole ? 1 : fmax(span, fabs(row->max)) * 1e-9,
           down = whole ? 1 : fmax(span, fabs(row->min)) * 1e-9;
    if (fabs(row->min) < 1e15) {
        option_rows_number(text, row, row->min);
        if (open_min) option_rows_refuses(t, text);
        else option_rows_accepts(t, text);
        option_rows_refuses(t, option_rows_number(text, row, row->min - down));
        if (open_min) option_rows_accepts(t, option_rows_number(text, row, fmin(row->min + down, row->max)));
    }
    if (fabs(row->max) < 1e15) {
        option_rows_number(text, row, row->max);
        if (open_max) option_rows_refuses(t, text);
        else option_rows_accepts(t, text);
        option_rows_refuses(t, option_rows_number(text, row, row->max + up));
    }
}

static inline void option_rows_wrong_types(option_rows_test *t)
{
    static const char *const numbers[] = {"x", "", "1x", "--", "nan", "inf", "1e999", "[1]", "1,2"};
    switch (t->row->type) {
    case SY_OPT_INT:
        option_rows_refuses(t, "1.5");
        option_rows_refuses(t, "99999999999999999999");
        for (int i = 0; i < SYI_COUNT(numbers); i++) option_rows_refuses(t, numbers[i]);
        break;
    case SY_OPT_SIZE: option_rows_refuses(t, "5 apples"); option_rows_refuses(t, "-1");
        for (int i = 0; i < SYI_COUNT(numbers); i++) option_rows_refuses(t, numbers[i]);
        break;
    case SY_OPT_FLOAT:
        for (int i = 0; i < SYI_COUNT(numbers); i++) option_rows_refuses(t, numbers[i]);
        break;
    case SY_OPT_BOOL: option_rows_refuses(t, "maybe"); option_rows_refuses(t, "2"); break;
    case SY_OPT_ENUM: option_rows_refuses(t, "no-such-choice"); option_rows_refuses(t, ""); break;
    case SY_OPT_MAP: option_rows_refuses(t, "word"); option_rows_refuses(t, "k=x"); option_rows_refuses(t, "=1"); break;
    case SY_OPT_LIST: option_rows_refuses(t, "a,,b"); option_rows_refuses(t, "[[1]]"); break;
    case SY_OPT_STRING:
    case SY_OPT_PATH: break; /* any text is one */
    }
}

static inline bool option_rows_is_key(const char *s, size_t n, bool underscore)
{
    for (size_t i = 0; i < n; i++) {
        bool fine = (s[i] >= 'a' && s[i] <= 'z') || (i > 0 && ((s[i] >= '0' && s[i] <= '9') || s[i] == '-')) ||
                    (underscore && (s[i] == '_' || (s[i] >= 'A' && s[i] <= 'Z')));
        if (!fine) return false;
    }
    return n > 0;
}

static inline void option_rows_form(option_rows_test *t, const sy_option *rows)
{
    const sy_option *row = t->row;
    if (!option_rows_is_key(row->name, strlen(row->name), false))
        fail_msg("%s --%s: names are lower case with dashes", t->owner, row->name);
    if (row->offset + option_rows_field_size(row) > t->size) fail_msg("%s --%s: lies outside of its struct", t->owner, row->name);
    if (row->offset % (row->type == SY_OPT_BOOL ? 1 : row->type == SY_OPT_ENUM ? sizeof(int) : 8) != 0)
        fail_msg("%s --%s: a field of another type?", t->owner, row->name);
    if (row->help == NULL || strlen(row->help) < 4) fail_msg("%s --%s: no help", t->owner, row->name);
    size_t n = strlen(row->help);
    if (row->help[n - 1] == '.' || strchr(row->help, '\n') != NULL)
        fail_msg("%s --%s: the help is one line without a full stop", t->owner, row->name);
    if (row->type != SY_OPT_BOOL && row->example == NULL) fail_msg("%s --%s: no example", t->owner, row->name);
    if ((row->type == SY_OPT_ENUM) != (row->choices != NULL)) fail_msg("%s --%s: choices belong to words", t->owner, row->name);
    if ((row->flags & SY_OPT_REQUIRED) && row->def != NULL) fail_msg("%s --%s: required, yet has a default", t->owner, row->name);
    for (const char *a = row->alias; a != NULL && *a != '\0';) {
        size_t len = strcspn(a, " ");
        if (!option_rows_is_key(a, len, true)) fail_msg("%s --%s: an odd alias", t->owner, row->name);
        for (const sy_option *r = rows; r->name != NULL; r++) {
            char alias[128];
            snprintf(alias, sizeof alias, "%.*s", (int)len, a);
            if (r != row && syi_option_is(r, alias)) fail_msg("%s: --%s and --%s both answer to %s", t->owner, row->name, r->name, alias);
        }
        a += len + strspn(a + len, " ");
    }
    for (const sy_option *r = rows; r->name != NULL; r++) {
        if (r == row) continue;
        if (syi_option_is(r, row->name)) fail_msg("%s: two rows answer to %s", t->owner, row->name);
        if (r->offset < row->offset + option_rows_field_size(row) && row->offset < r->offset + option_rows_field_size(r))
            fail_msg("%s: --%s and --%s share their field", t->owner, row->name, r->name);
        if (r->peft != NULL && row->peft != NULL && strcmp(r->peft, row->peft) == 0)
            fail_msg("%s: --%s and --%s share PEFT's key %s", t->owner, row->name, r->name, row->peft);
    }
}

/* The whole test of a table whose rows lie in a struct of `size` bytes. */
static inline void check_option_rows(sy_context *ctx, const char *owner, const sy_option *rows, size_t size)
{
    option_rows_test t = {.ctx = ctx, .owner = owner, .size = size};
    if (rows == NULL) return;
    assert_int_equal(syi_arena_new(ctx, 0, &t.arena), SY_OK);
    t.base = syi_calloc(ctx, 1, size + 1);
    t.other = syi_calloc(ctx, 1, size + 1);
    for (t.row = rows; t.row->name != NULL; t.row++) {
        option_rows_form(&t, rows);
        if (syi_option_default(ctx, t.row, t.base, t.arena) != SY_OK)
            fail_msg("%s --%s: the default: %s", owner, t.row->name, sy_error_message(ctx));
        if (t.row->def != NULL) option_rows_accepts(&t, t.row->def);
        if (t.row->example != NULL) option_rows_accepts(&t, t.row->example);
        for (int i = 0; t.row->choices != NULL && t.row->choices[i] != NULL; i++) {
            char word[64];
            snprintf(word, sizeof word, "%.*s", (int)strcspn(t.row->choices[i], "="), t.row->choices[i]);
            option_rows_accepts(&t, word);
            assert_int_equal(*(int *)(void *)(t.base + t.row->offset), i);
        }
        option_rows_limits(&t);
        option_rows_wrong_types(&t);
        assert_int_equal(t.base[size], 0);
    }
    syi_text help;
    syi_text_init(&help, ctx, 1 << 20);
    syi_options_help(&help, rows, true);
    assert_false(help.failed);
    for (const sy_option *r = rows; r->name != NULL; r++) assert_non_null(strstr(help.s, r->name));
    for (const char *line = help.s; line != NULL && *line != '\0';) {
        size_t n = strcspn(line, "\n");
        if (n > 100) fail_msg("%s: a line of the help is too long: %.*s", owner, (int)n, line);
        line += n + (line[n] == '\n');
    }
    syi_text_free(&help);
    syi_free(ctx, t.base);
    syi_free(ctx, t.other);
    syi_arena_free(t.arena);
}

#endif
