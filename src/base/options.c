/* SPDX-License-Identifier: Apache-2.0 */
/* Option rows at work: defaults, values from text, and a whole set of tables from
 * what the user said. */
#include "option_value.h"

#include <math.h>
#include <strings.h>

int syi_options_count(const sy_option *rows)
{
    int n = 0;
    while (rows != NULL && rows[n].name != NULL) n++;
    return n;
}

static char fold(char c)
{
    return c == '_' ? '-' : c;
}

static bool same_key(const char *a, size_t n, const char *b)
{
    for (size_t i = 0; i < n; i++)
        if (b[i] == '\0' || fold(a[i]) != fold(b[i])) return false;
    return b[n] == '\0';
}

int syi_option_is(const sy_option *row, const char *key)
{
    if (same_key(row->name, strlen(row->name), key)) return 1;
    for (const char *a = row->alias; a != NULL && *a != '\0';) {
        size_t n = strcspn(a, " ");
        if (n > 0 && same_key(a, n, key)) return 2;
        a += n + strspn(a + n, " ");
    }
    return 0;
}

/* -- one value ------------------------------------------------------------------- */

sy_status syi_option_refuse(const syi_source *s, const char *expected, const char *hint)
{
    /* "--lr: expected" needs no second name; "run.yaml:3" does, "--lora-r" too. */
    bool named = strncmp(s->where, "--", 2) == 0 && strcmp(s->where + 2, s->row->name) == 0;
    bool cut = strlen(s->found) > 120;
    return syi_fail(s->ctx, s->code, "%s%s%s: expected %s, found %s%.120s%s%s%s%s", s->where, named ? "" : ": ",
                    named ? "" : s->row->name, expected, s->found[0] == '\0' ? "nothing" : "\"", s->found,
                    cut ? "..." : "", s->found[0] == '\0' ? "" : "\"", hint[0] ? "; " : "", hint);
}

char *syi_option_range(char buf[96], const sy_option *row)
{
    buf[0] = '\0';
    bool numeric = row->type == SY_OPT_INT || row->type == SY_OPT_FLOAT || row->type == SY_OPT_SIZE || row->type == SY_OPT_MAP;
    if (!numeric || (row->min == 0 && row->max == 0)) return buf;
    char lo[40], hi[40];
    if (row->type == SY_OPT_SIZE) {
        syi_human_bytes(lo, (int64_t)row->min);
        syi_human_bytes(hi, row->max >= 0x1p63 ? INT64_MAX : (int64_t)row->max);
    } else if (row->type == SY_OPT_INT && fabs(row->min) < 1e15 && fabs(row->max) < 1e15) {
        snprintf(lo, sizeof lo, "%lld", (long long)row->min); /* not 1e+06 */
        snprintf(hi, sizeof hi, "%lld", (long long)row->max);
    } else {
        syi_double_text(lo, row->min);
        syi_double_text(hi, row->max);
    }
    bool open_min = (row->flags & SY_OPT_MIN_OPEN) != 0, open_max = (row->flags & SY_OPT_MAX_OPEN) != 0;
    bool no_max = row->max >= 1e15, no_min = row->min <= -1e15;
    if (no_max && (no_min || (row->type == SY_OPT_SIZE && row->min == 0 && !open_min))) return buf;
    if (no_max) snprintf(buf, 96, "%s %s", open_min ? "more than" : "at least", lo);
    else if (no_min) snprintf(buf, 96, "%s %s", open_max ? "less than" : "at most", hi);
    else if (open_min && open_max) snprintf(buf, 96, "between %.36s and %.36s, excluded", lo, hi);
    else if (open_min) snprintf(buf, 96, "more than %.36s, at most %.36s", lo, hi);
    else if (open_max) snprintf(buf, 96, "from %.30s to less than %.30s", lo, hi);
    else snprintf(buf, 96, "from %.36s to %.36s", lo, hi);
    return buf;
}

static bool in_range(const sy_option *row, double v)
{
    if (row->min == 0 && row->max == 0) return true;
    if ((row->flags & SY_OPT_MIN_OPEN) ? v <= row->min : v < row->min) return false;
    return (row->flags & SY_OPT_MAX_OPEN) ? v < row->max : v <= row->max;
}

static sy_status refuse_number(const syi_source *s)
{
    char range[96], expected[160];
    const char *what = s->row->type == SY_OPT_INT    ? "a whole number"
                       : s->row->type == SY_OPT_SIZE ? "a size (\"512M\", \"1.5G\", bytes)"
                       : s->row->type == SY_OPT_MAP  ? "numbers"
                                                     : "a number";
    syi_option_range(range, s->row);
    snprintf(expected, sizeof expected, "%s%s%s", what, range[0] ? " " : "", range);
    return syi_option_refuse(s, expected, "");
}

sy_status syi_option_put_int(const syi_source *s, void *field, int64_t v)
{
    if (!in_range(s->row, (double)v)) return refuse_number(s);
    *(int64_t *)field = v;
    return SY_OK;
}

sy_status syi_option_put_double(const syi_source *s, void *field, double v)
{
    if (!isfinite(v) || !in_range(s->row, v)) return refuse_number(s);
    *(double *)field = v;
    return SY_OK;
}

/* A JSON scalar as the item of a list. */
static char *item_text(const syi_source *s, const json_t *v)
{
    char number[40];
    if (json_is_string(v)) return syi_arena_strdup(s->arena, json_string_value(v));
    if (json_is_integer(v)) return syi_arena_format(s->arena, "%lld", (long long)json_integer_value(v));
    if (json_is_real(v)) return syi_arena_strdup(s->arena, syi_double_text(number, json_real_value(v)));
    return syi_arena_strdup(s->arena, json_is_true(v) ? "true" : "false");
}

sy_status syi_option_put_list(const syi_source *s, void *field, const json_t *array)
{
    size_t n = json_array_size(array);
    if (n > 1 << 20) return syi_option_refuse(s, "at most 1048576 items", "");
    sy_list list = {.n = (int)n};
    if (n > 0 && (list.item = syi_arena_alloc(s->arena, n * sizeof *list.item)) == NULL) return SY_E_MEMORY;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(array, i);
        if (json_is_array(v) || json_is_object(v) || json_is_null(v)) return syi_option_refuse(s, "a list of words", "");
        if ((list.item[i] = item_text(s, v)) == NULL) return SY_E_MEMORY;
    }
    *(sy_list *)field = list;
    return SY_OK;
}

sy_status syi_option_put_map(const syi_source *s, void *field, const json_t *object)
{
    size_t n = json_object_size(object);
    sy_map map = {0};
    if (n > 1 << 20) return syi_option_refuse(s, "at most 1048576 keys", "");
    if (n > 0) {
        map.key = syi_arena_alloc(s->arena, n * sizeof *map.key);
        map.value = syi_arena_alloc(s->arena, n * sizeof *map.value);
        if (map.key == NULL || map.value == NULL) return SY_E_MEMORY;
    }
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)object, key, v) {
        if (!json_is_number(v)) return syi_option_refuse(s, "a number for each key", "");
        double d = json_number_value(v);
        if (!in_range(s->row, d)) return refuse_number(s);
        if ((map.key[map.n] = syi_arena_strdup(s->arena, key)) == NULL) return SY_E_MEMORY;
        map.value[map.n++] = d;
    }
    *(sy_map *)field = map;
    return SY_OK;
}

char *syi_option_choice_name(char buf[64], const sy_option *row, int i)
{
    snprintf(buf, 64, "%.*s", (int)strcspn(row->choices[i], "="), row->choices[i]);
    return buf;
}

int syi_option_choice(const sy_option *row, const char *word, bool json)
{
    for (int i = 0; row->choices != NULL && row->choices[i] != NULL; i++) {
        const char *c = row->choices[i], *equals = strchr(c, '=');
        if (json && equals != NULL) {
            if (strcmp(equals + 1, word) == 0) return i;
            continue;
        }
        size_t n = equals != NULL ? (size_t)(equals - c) : strlen(c);
        bool same = strlen(word) == n;
        for (size_t j = 0; same && j < n; j++) same = fold(c[j]) == fold(word[j]) || strncasecmp(c + j, word + j, 1) == 0;
        if (same) return i;
    }
    return -1;
}

static sy_status put_choice(const syi_source *s, void *field, const char *word)
{
    int i = syi_option_choice(s->row, word, false);
    if (i >= 0) {
        *(int *)field = i;
        return SY_OK;
    }
    char expected[1024] = "one of ", hint[160] = "", buf[64];
    char names[64][64];
    const char *pointers[64];
    int n = 0;
    for (; s->row->choices != NULL && s->row->choices[n] != NULL && n < 64; n++) {
        pointers[n] = syi_option_choice_name(names[n], s->row, n);
        size_t at = strlen(expected);
        snprintf(expected + at, sizeof expected - at, "%s%s", n > 0 ? ", " : "", syi_option_choice_name(buf, s->row, n));
    }
    const char *near = syi_nearest(word, pointers, n);
    if (near != NULL) snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
    return syi_option_refuse(s, expected, hint);
}

static sy_status put_bool(const syi_source *s, void *field, const char *text)
{
    static const char *const yes[] = {"", "on", "true", "yes", "1"}, *const no[] = {"off", "false", "no", "0"};
    for (int i = 0; i < SYI_COUNT(yes); i++)
        if (strcasecmp(text, yes[i]) == 0) return *(bool *)field = true, SY_OK;
    for (int i = 0; i < SYI_COUNT(no); i++)
        if (strcasecmp(text, no[i]) == 0) return *(bool *)field = false, SY_OK;
    return syi_option_refuse(s, "on or off", "");
}

/* -- lists and maps as text ---------------------------------------------------------- */

/* The next piece up to a comma without a backslash, trimmed, "\," as ",".
 * False at the end; *out NULL: no memory (the caller frees). */
static bool next_piece(sy_context *ctx, const char **at, char **out)
{
    const char *s = *at;
    *out = NULL;
    if (s == NULL) return false;
    size_t n = 0, m = 0;
    while (s[n] != '\0' && s[n] != ',') n += s[n] == '\\' && s[n + 1] == ',' ? 2 : 1;
    *at = s[n] == ',' ? s + n + 1 : NULL;
    while (n > 0 && s[0] == ' ') s++, n--;
    while (n > 0 && s[n - 1] == ' ') n--;
    char *piece = syi_strndup(ctx, s, n);
    if (piece == NULL) return true;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\\' && i + 1 < n && s[i + 1] == ',') i++;
        piece[m++] = s[i];
    }
    piece[m] = '\0';
    *out = piece;
    return true;
}

/* The text as JSON, if it is that kind of it; Jansson's nesting limit holds. */
static json_t *bracketed(const char *text, char open)
{
    text += strspn(text, " \t\n");
    if (*text != open) return NULL;
    return json_loads(text, JSON_REJECT_DUPLICATES, NULL);
}

static sy_status put_list_text(const syi_source *s, void *field, const char *text)
{
    json_t *array = bracketed(text, '[');
    sy_status status = SY_OK;
    if (!json_is_array(array)) { /* "[qv]_proj" is a word, too */
        json_decref(array);
        array = json_array();
        if (array == NULL) return syi_nomem(s->ctx, 0);
        const char *at = text[strspn(text, " ")] != '\0' ? text : NULL;
        char *piece;
        while (status == SY_OK && next_piece(s->ctx, &at, &piece)) {
            if (piece == NULL) status = SY_E_MEMORY;
            else if (piece[0] == '\0') status = syi_option_refuse(s, "words with single commas between them", "");
            else if (json_array_append_new(array, json_string(piece)) != 0)
                status = syi_option_refuse(s, "words in UTF-8", "");
            syi_free(s->ctx, piece);
        }
    }
    if (status == SY_OK) status = syi_option_put_list(s, field, array);
    json_decref(array);
    return status;
}

static sy_status put_map_piece(const syi_source *s, json_t *object, char *piece)
{
    char *equals = strrchr(piece, '='); /* the key may hold one (a regular expression) */
    double v;
    if (equals == NULL || equals == piece) return syi_option_refuse(s, "key=number,key=number", "");
    *equals = '\0';
    for (char *end = equals; end > piece && end[-1] == ' ';) *--end = '\0';
    const char *number = equals + 1 + strspn(equals + 1, " ");
    if (!syi_parse_double(number, &v)) return syi_option_refuse(s, "key=number,key=number", "");
    if (json_object_get(object, piece) != NULL) return syi_option_refuse(s, "each key once", "");
    if (json_object_set_new(object, piece, json_real(v)) != 0) return syi_option_refuse(s, "keys in UTF-8", "");
    return SY_OK;
}

static sy_status put_map_text(const syi_source *s, void *field, const char *text)
{
    json_t *object = bracketed(text, '{');
    sy_status status = SY_OK;
    if (object == NULL) {
        object = json_object();
        if (object == NULL) return syi_nomem(s->ctx, 0);
        const char *at = text[strspn(text, " ")] != '\0' ? text : NULL;
        char *piece;
        while (status == SY_OK && next_piece(s->ctx, &at, &piece)) {
            status = piece == NULL ? SY_E_MEMORY : put_map_piece(s, object, piece);
            syi_free(s->ctx, piece);
        }
    }
    if (status == SY_OK) status = syi_option_put_map(s, field, object);
    json_decref(object);
    return status;
}

/* -- rows ------------------------------------------------------------------------------ */

static sy_status put_text(const syi_source *s, void *field, const char *text)
{
    int64_t i;
    double d;
    switch (s->row->type) {
    case SY_OPT_BOOL: return put_bool(s, field, text);
    case SY_OPT_INT: return syi_parse_int(text, &i) ? syi_option_put_int(s, field, i) : refuse_number(s);
    case SY_OPT_SIZE: return syi_parse_size(text, &i) ? syi_option_put_int(s, field, i) : refuse_number(s);
    case SY_OPT_FLOAT: return syi_parse_double(text, &d) ? syi_option_put_double(s, field, d) : refuse_number(s);
    case SY_OPT_STRING:
    case SY_OPT_PATH:
        *(char **)field = syi_arena_strdup(s->arena, text);
        return *(char **)field != NULL ? SY_OK : SY_E_MEMORY;
    case SY_OPT_ENUM: return put_choice(s, field, text);
    case SY_OPT_LIST: return put_list_text(s, field, text);
    case SY_OPT_MAP: return put_map_text(s, field, text);
    }
    return syi_fail(s->ctx, SY_E_BUG, "option %s has the unknown type %d", s->row->name, (int)s->row->type);
}

sy_status syi_option_set(sy_context *ctx, const sy_option *row, void *base, const char *text, const char *where, syi_arena *arena)
{
    syi_source s = {.ctx = ctx, .row = row, .where = where, .code = SY_E_USAGE, .found = text, .arena = arena};
    return put_text(&s, (char *)base + row->offset, text);
}

sy_status syi_option_default(sy_context *ctx, const sy_option *row, void *base, syi_arena *arena)
{
    static const size_t sizes[] = {
        [SY_OPT_BOOL] = sizeof(bool),     [SY_OPT_INT] = sizeof(int64_t),   [SY_OPT_FLOAT] = sizeof(double),
        [SY_OPT_SIZE] = sizeof(int64_t),  [SY_OPT_STRING] = sizeof(char *), [SY_OPT_PATH] = sizeof(char *),
        [SY_OPT_ENUM] = sizeof(int),      [SY_OPT_LIST] = sizeof(sy_list),  [SY_OPT_MAP] = sizeof(sy_map)};
    memset((char *)base + row->offset, 0, sizes[row->type]);
    if (row->def == NULL) return SY_OK;
    if (syi_option_set(ctx, row, base, row->def, "default", arena) == SY_OK) return SY_OK;
    if (sy_error_code(ctx) != SY_E_USAGE) return sy_error_code(ctx);
    return syi_fail(ctx, SY_E_BUG, "the table of options is wrong: %s", sy_error_message(ctx));
}

/* -- all of it --------------------------------------------------------------------------- */

/* 1: some row has the name, 2: some row has the alias, 0: nobody. */
static int who_answers(const syi_rows *tables, int n, const char *key)
{
    int best = 0;
    for (int t = 0; t < n; t++)
        for (const sy_option *row = tables[t].rows; row != NULL && row->name != NULL; row++) {
            int is = syi_option_is(row, key);
            if (is == 1) return 1;
            if (is == 2) best = 2;
        }
    return best;
}

/* "no-shuffle": the rest is a switch, and nobody has the whole name. */
static bool is_negation(const syi_rows *tables, int n, const char *key)
{
    if (strncmp(key, "no-", 3) != 0 || who_answers(tables, n, key) != 0) return false;
    for (int t = 0; t < n; t++)
        for (const sy_option *row = tables[t].rows; row != NULL && row->name != NULL; row++)
            if (row->type == SY_OPT_BOOL && syi_option_is(row, key + 3)) return true;
    return false;
}

static sy_status unknown(sy_context *ctx, const syi_rows *tables, int n, const syi_setting *setting)
{
    enum { NAMES_MAX = 1024 };
    const char *names[NAMES_MAX] = {NULL};
    int count = 0;
    for (int t = 0; t < n; t++)
        for (const sy_option *row = tables[t].rows; row != NULL && row->name != NULL && count < NAMES_MAX; row++)
            names[count++] = row->name;
    const char *near = syi_nearest(setting->key, names, count);
    char alias[64] = "", hint[200];
    /* An alias that was mistyped leads to the name as well. */
    for (int t = 0; near == NULL && t < n; t++)
        for (const sy_option *row = tables[t].rows; near == NULL && row != NULL && row->name != NULL; row++)
            for (const char *a = row->alias; near == NULL && a != NULL && *a != '\0';) {
                size_t len = strcspn(a, " ");
                snprintf(alias, sizeof alias, "%.*s", (int)len, a);
                const char *one = alias;
                if (syi_nearest(setting->key, &one, 1) != NULL) near = row->name;
                a += len + strspn(a + len, " ");
            }
    bool flag = strncmp(setting->where, "--", 2) == 0;
    if (near != NULL) snprintf(hint, sizeof hint, "did you mean \"%s%s\"?", flag ? "--" : "", near);
    else snprintf(hint, sizeof hint, "\"steelyard help %s\" lists the options", n > 0 ? tables[0].owner : "");
    if (flag) return syi_fail(ctx, SY_E_USAGE, "unknown option \"%s\"; %s", setting->where, hint);
    return syi_fail(ctx, SY_E_USAGE, "%s: unknown option \"%s\"; %s", setting->where, setting->key, hint);
}

/* One said value into every row that answers to its key. */
static sy_status apply(sy_context *ctx, const syi_rows *tables, int n, syi_setting *setting, syi_arena *arena)
{
    const char *key = setting->key, *value = setting->value;
    if (is_negation(tables, n, key)) {
        key += 3;
        if (value[0] != '\0' && strcmp(value, "on") != 0 && strcmp(value, "true") != 0)
            return syi_fail(ctx, SY_E_USAGE, "%s: expected no value, found \"%.120s\"; write %s: off instead", setting->where,
                            value, key);
        value = "off";
    }
    int how = who_answers(tables, n, key);
    if (how == 0) return unknown(ctx, tables, n, setting);
    setting->used = true;
    for (int t = 0; t < n; t++)
        for (const sy_option *row = tables[t].rows; row != NULL && row->name != NULL; row++) {
            if (syi_option_is(row, key) != how) continue;
            if (value[0] == '\0' && !setting->flag) SYI_TRY(syi_option_default(ctx, row, tables[t].base, arena));
            else SYI_TRY(syi_option_set(ctx, row, tables[t].base, value, setting->where, arena));
        }
    return SY_OK;
}

static bool is_given(const syi_settings *s, const syi_rows *tables, int n, const sy_option *row)
{
    for (int64_t i = 0; i < s->n; i++) {
        if (s->at[i].value[0] == '\0' && row->type != SY_OPT_BOOL) continue;
        int is = syi_option_is(row, s->at[i].key);
        if (is != 0 && is == who_answers(tables, n, s->at[i].key)) return true;
    }
    return false;
}

static sy_status check_required(sy_context *ctx, const syi_settings *s, const syi_rows *tables, int n)
{
    for (int t = 0; t < n; t++)
        for (const sy_option *row = tables[t].rows; row != NULL && row->name != NULL; row++) {
            if (!(row->flags & SY_OPT_REQUIRED) || is_given(s, tables, n, row)) continue;
            return syi_fail(ctx, SY_E_USAGE, "%s: --%s is missing (%s); for example: --%s %s", tables[t].owner, row->name,
                            row->help != NULL ? row->help : "required", row->name, row->example != NULL ? row->example : "...");
        }
    return SY_OK;
}

/* A table's other defaults: only its own rows, whatever other tables call theirs. */
static sy_status apply_preset(sy_context *ctx, const syi_rows *table, syi_arena *arena)
{
    for (const char *at = table->preset; at != NULL && *at != '\0';) {
        const size_t all = strcspn(at, " "), key = strcspn(at, "= ");
        const sy_option *row = table->rows;
        while (row->name != NULL && (strlen(row->name) != key || strncmp(row->name, at, key) != 0)) row++;
        if (row->name == NULL || key == all) return syi_fail(ctx, SY_E_BUG, "%s: its preset \"%s\" names no option", table->owner, table->preset);
        char *value = syi_strndup(ctx, at + key + 1, all - key - 1);
        if (value == NULL) return SY_E_MEMORY;
        const sy_status st = syi_option_set(ctx, row, table->base, value, table->owner, arena);
        syi_free(ctx, value);
        SYI_TRY(st);
        at += all + strspn(at + all, " ");
    }
    return SY_OK;
}

sy_status syi_options_fill(sy_context *ctx, syi_settings *s, const syi_rows *tables, int n, syi_arena *arena)
{
    for (int t = 0; t < n; t++) {
        for (const sy_option *row = tables[t].rows; row != NULL && row->name != NULL; row++)
            SYI_TRY(syi_option_default(ctx, row, tables[t].base, arena));
        SYI_TRY(apply_preset(ctx, &tables[t], arena));
    }
    for (int pass = 0; pass < 2; pass++) /* flags win over YAML */
        for (int64_t i = 0; i < s->n; i++)
            if (s->at[i].flag == (pass == 1)) SYI_TRY(apply(ctx, tables, n, &s->at[i], arena));
    return check_required(ctx, s, tables, n);
}
