/* SPDX-License-Identifier: Apache-2.0 */
/* Rows as text: a value as it would be typed, and the lines of the help. */
#include "option_value.h"

/* -- values --------------------------------------------------------------------------- */

static bool is_trimmed(const char *s)
{
    size_t n = strlen(s);
    return n > 0 && s[0] != ' ' && s[n - 1] != ' ' && strchr(s, '\n') == NULL;
}

/* Would the item survive being joined by commas? A backslash before the end would
 * swallow the comma that follows; one before a comma says something else. */
static bool is_simple(const char *s, bool first)
{
    size_t n = strlen(s);
    if (!is_trimmed(s) || s[n - 1] == '\\' || strstr(s, "\\,") != NULL) return false;
    return !(first && (s[0] == '[' || s[0] == '{'));
}

static void add_escaped(syi_text *t, const char *s)
{
    for (; *s != '\0'; s++) {
        if (*s == ',') syi_text_add(t, "\\", 1);
        syi_text_add(t, s, 1);
    }
}

static void add_json(syi_text *t, const sy_option *row, const void *base)
{
    json_t *v = syi_option_json(row, base);
    char *text = v != NULL ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    json_decref(v);
    if (text == NULL) {
        syi_nomem(t->ctx, 0);
        t->failed = true;
        return;
    }
    syi_text_puts(t, text);
    syi_json_free_text(text);
}

static void add_list(syi_text *t, const sy_option *row, const void *base)
{
    const sy_list *list = (const void *)((const char *)base + row->offset);
    for (int i = 0; i < list->n; i++)
        if (!is_simple(list->item[i], i == 0)) {
            add_json(t, row, base);
            return;
        }
    for (int i = 0; i < list->n; i++) {
        if (i > 0) syi_text_puts(t, ",");
        add_escaped(t, list->item[i]);
    }
}

static void add_map(syi_text *t, const sy_option *row, const void *base)
{
    const sy_map *map = (const void *)((const char *)base + row->offset);
    char number[40];
    for (int i = 0; i < map->n; i++)
        if (!is_simple(map->key[i], i == 0)) {
            add_json(t, row, base);
            return;
        }
    for (int i = 0; i < map->n; i++) {
        if (i > 0) syi_text_puts(t, ",");
        add_escaped(t, map->key[i]);
        syi_text_printf(t, "=%s", syi_double_text(number, map->value[i]));
    }
}

char *syi_option_text(sy_context *ctx, const sy_option *row, const void *base)
{
    const void *field = (const char *)base + row->offset;
    char buf[64];
    syi_text t;
    syi_text_init(&t, ctx, (size_t)1 << 30);
    switch (row->type) {
    case SY_OPT_BOOL: syi_text_puts(&t, *(const bool *)field ? "on" : "off"); break;
    case SY_OPT_INT:
    case SY_OPT_SIZE: syi_text_printf(&t, "%lld", (long long)*(const int64_t *)field); break;
    case SY_OPT_FLOAT: syi_text_puts(&t, syi_double_text(buf, *(const double *)field)); break;
    case SY_OPT_STRING:
    case SY_OPT_PATH: {
        const char *s = *(char *const *)field;
        syi_text_puts(&t, s != NULL ? s : "");
        break;
    }
    case SY_OPT_ENUM: syi_text_puts(&t, syi_option_choice_name(buf, row, *(const int *)field)); break;
    case SY_OPT_LIST: add_list(&t, row, base); break;
    case SY_OPT_MAP: add_map(&t, row, base); break;
    }
    return syi_text_take(&t);
}

/* -- help ------------------------------------------------------------------------------- */

char *syi_option_value_word(char buf[64], const sy_option *row)
{
    static const char *const words[] = {
        [SY_OPT_BOOL] = "",      [SY_OPT_INT] = "N",      [SY_OPT_FLOAT] = "X", [SY_OPT_SIZE] = "SIZE", [SY_OPT_STRING] = "TEXT",
        [SY_OPT_PATH] = "PATH",  [SY_OPT_ENUM] = "WORD",  [SY_OPT_LIST] = "A,B,...", [SY_OPT_MAP] = "KEY=X,..."};
    snprintf(buf, 64, "%s", words[row->type]);
    if (row->type != SY_OPT_ENUM || row->choices == NULL) return buf;
    char all[64] = "", name[64];
    for (int i = 0; row->choices[i] != NULL; i++) {
        size_t at = strlen(all);
        int n = snprintf(all + at, sizeof all - at, "%s%s", i > 0 ? "|" : "", syi_option_choice_name(name, row, i));
        if (n < 0 || (size_t)n >= sizeof all - at) return buf; /* too long: the help lists them */
    }
    if (strlen(all) <= 20) memcpy(buf, all, strlen(all) + 1);
    return buf;
}

enum { INDENT = 30, WIDTH = 100 };

/* Words of `s` after `column`, broken at WIDTH and indented. Returns the column. */
static size_t wrap(syi_text *out, size_t column, const char *s)
{
    while (*s != '\0') {
        size_t n = strcspn(s, " ");
        if (column > INDENT && column + 1 + n > WIDTH) {
            syi_text_printf(out, "\n%*s", INDENT, "");
            column = INDENT;
        } else if (column > INDENT) {
            syi_text_puts(out, " ");
            column++;
        }
        syi_text_add(out, s, n);
        column += n;
        s += n + strspn(s + n, " ");
    }
    return column;
}

/* "(default 8; from 1 to 64; also lora_r)" */
static void notes(syi_text *t, const sy_option *row)
{
    char range[96], word[64], name[64];
    const char *open = "(";
    bool off = row->type == SY_OPT_BOOL && row->def != NULL && (strcmp(row->def, "off") == 0 || strcmp(row->def, "false") == 0);
    if (row->flags & SY_OPT_REQUIRED) {
        syi_text_printf(t, "%srequired", open);
        open = "; ";
    }
    if (row->def != NULL && row->def[0] != '\0' && !off) {
        syi_text_printf(t, "%sdefault %s", open, row->def);
        open = "; ";
    }
    if (row->type == SY_OPT_ENUM && strcmp(syi_option_value_word(word, row), "WORD") == 0) {
        syi_text_printf(t, "%sone of", open);
        for (int i = 0; row->choices != NULL && row->choices[i] != NULL; i++)
            syi_text_printf(t, "%s %s", i > 0 ? "," : "", syi_option_choice_name(name, row, i));
        open = "; ";
    }
    if (syi_option_range(range, row)[0] != '\0') {
        syi_text_printf(t, "%s%s", open, range);
        open = "; ";
    }
    if (row->alias != NULL && row->alias[0] != '\0') {
        syi_text_printf(t, "%salso", open);
        for (const char *a = row->alias; *a != '\0';) {
            size_t n = strcspn(a, " ");
            syi_text_printf(t, "%s %.*s", a != row->alias ? "," : "", (int)n, a);
            a += n + strspn(a + n, " ");
        }
        open = "; ";
    }
    if (open[0] == ';') syi_text_puts(t, ")");
}

void syi_options_help(syi_text *out, const sy_option *rows, bool advanced)
{
    for (const sy_option *row = rows; row != NULL && row->name != NULL; row++) {
        if ((row->flags & SY_OPT_ADVANCED) && !advanced) continue;
        char word[64], left[160];
        syi_option_value_word(word, row);
        bool on = row->type == SY_OPT_BOOL && row->def != NULL && row->def[0] == 'o' && row->def[1] == 'n';
        snprintf(left, sizeof left, "  --%s%s%s%s", on ? "[no-]" : "", row->name, word[0] ? " " : "", word);
        syi_text_puts(out, left);
        size_t column = strlen(left);
        if (column + 2 > INDENT) syi_text_printf(out, "\n%*s", INDENT, "");
        else syi_text_printf(out, "%*s", (int)(INDENT - column), "");
        column = wrap(out, INDENT, row->help != NULL ? row->help : "");
        syi_text t;
        syi_text_init(&t, out->ctx, 1 << 16);
        notes(&t, row);
        if (t.s != NULL) wrap(out, column, t.s);
        if (t.failed) out->failed = true;
        syi_text_free(&t);
        syi_text_puts(out, "\n");
    }
}
