/* SPDX-License-Identifier: Apache-2.0 */
/* JSON files: strict reading, atomic writing, and edits that leave the rest of
 * a file byte for byte as it was.
 *
 * Jansson parses and holds the values. Numbers are written here, as the shortest
 * text that reads back to the same double (1e-05, not 1.0000000000000001e-05). */
#include "io.h"

#include <ctype.h>
#include <stdlib.h>

enum { JSON_FILE_MAX = 512 * 1024 * 1024, JSON_DEPTH_MAX = 2048 };

/* -- reading ------------------------------------------------------------------ */

/* Integers beyond 64 bits (tokenizer_config.json's model_max_length is often
 * 1000000000000000019884624838656) are legal JSON that Jansson refuses. A copy of
 * the text in which such numbers, of 19 digits and more, end in ".0". */
static char *with_big_integers_as_reals(sy_context *ctx, const char *s, size_t len, size_t *out_len)
{
    syi_text t;
    syi_text_init(&t, ctx, (size_t)JSON_FILE_MAX * 2);
    bool string = false;
    size_t i = 0;
    while (i < len) {
        if (string) {
            size_t n = s[i] == '\\' && i + 1 < len ? 2 : 1;
            if (s[i] == '"') string = false;
            syi_text_add(&t, s + i, n);
            i += n;
        } else if (s[i] == '-' || isdigit((unsigned char)s[i])) {
            size_t end = i + 1;
            bool real = false;
            for (; end < len && (isalnum((unsigned char)s[end]) || strchr("+-.", s[end]) != NULL) && s[end] != '\0'; end++)
                if (s[end] == '.' || s[end] == 'e' || s[end] == 'E') real = true;
            syi_text_add(&t, s + i, end - i);
            if (!real && end - i >= 19) syi_text_puts(&t, ".0");
            i = end;
        } else {
            if (s[i] == '"') string = true;
            syi_text_add(&t, s + i, 1);
            i++;
        }
    }
    *out_len = t.len;
    char *copy = syi_text_take(&t);
    if (copy == NULL) syi_text_free(&t);
    return copy;
}

sy_status syi_json_parse(sy_context *ctx, const char *text, size_t len, const char *where, json_t **out)
{
    json_error_t error;
    *out = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    if (*out != NULL) return SY_OK;
    if (json_error_code(&error) == json_error_numeric_overflow) {
        size_t n = 0;
        char *copy = with_big_integers_as_reals(ctx, text, len, &n);
        if (copy == NULL) return sy_error_code(ctx);
        *out = json_loadb(copy, n, JSON_REJECT_DUPLICATES, &error);
        syi_free(ctx, copy);
        if (*out != NULL) return SY_OK;
    }
    if (json_error_code(&error) == json_error_out_of_memory) return syi_nomem(ctx, len);
    return syi_fail(ctx, SY_E_INPUT, "%s:%d:%d: not valid JSON: %s", where, error.line, error.column, error.text);
}

sy_status syi_json_read(sy_context *ctx, const char *path, json_t **out)
{
    char *text = NULL;
    int64_t size = 0;
    *out = NULL;
    SYI_TRY(syi_read_file(ctx, path, JSON_FILE_MAX, &text, &size));
    sy_status status = syi_json_parse(ctx, text, (size_t)size, path, out);
    syi_free(ctx, text);
    return status;
}

/* -- writing ------------------------------------------------------------------ */

void syi_json_quote(syi_text *t, const char *s, size_t n)
{
    syi_text_puts(t, "\"");
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        syi_text_add(t, s + from, i - from);
        from = i + 1;
        switch (c) {
        case '"': syi_text_puts(t, "\\\""); break;
        case '\\': syi_text_puts(t, "\\\\"); break;
        case '\n': syi_text_puts(t, "\\n"); break;
        case '\r': syi_text_puts(t, "\\r"); break;
        case '\t': syi_text_puts(t, "\\t"); break;
        case '\b': syi_text_puts(t, "\\b"); break;
        case '\f': syi_text_puts(t, "\\f"); break;
        default: syi_text_printf(t, "\\u%04x", c); break;
        }
    }
    syi_text_add(t, s + from, n - from);
    syi_text_puts(t, "\"");
}

static void dump_real(syi_text *t, double v)
{
    char buf[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(buf, sizeof buf, "%.*g", digits, v);
        if (strtod(buf, NULL) == v) break;
    }
    syi_text_puts(t, buf);
    if (strpbrk(buf, ".e") == NULL) syi_text_puts(t, ".0"); /* stays a real when read */
}

static void newline(syi_text *t, int depth)
{
    static const char blanks[] = "\n                                ";
    const size_t n = (size_t)depth * 2;
    syi_text_add(t, blanks, n < sizeof blanks - 2 ? n + 1 : sizeof blanks - 1);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static sy_status dump(syi_text *t, const json_t *j, bool sorted, int depth);

static sy_status dump_object(syi_text *t, const json_t *j, bool sorted, int depth)
{
    const size_t n = json_object_size(j);
    const char **keys = syi_calloc(t->ctx, n + 1, sizeof *keys);
    if (keys == NULL) return sy_error_code(t->ctx);
    size_t i = 0;
    for (void *it = json_object_iter((json_t *)j); it != NULL && i < n; it = json_object_iter_next((json_t *)j, it))
        keys[i++] = json_object_iter_key(it);
    if (sorted) qsort(keys, n, sizeof *keys, by_key);
    sy_status status = SY_OK;
    syi_text_puts(t, "{");
    for (i = 0; i < n && status == SY_OK; i++) {
        if (i > 0) syi_text_puts(t, ",");
        newline(t, depth + 1);
        syi_json_quote(t, keys[i], strlen(keys[i]));
        syi_text_puts(t, ": ");
        status = dump(t, json_object_get(j, keys[i]), sorted, depth + 1);
    }
    if (n > 0) newline(t, depth);
    syi_text_puts(t, "}");
    syi_free(t->ctx, keys);
    return status;
}

static sy_status dump(syi_text *t, const json_t *j, bool sorted, int depth)
{
    if (depth > JSON_DEPTH_MAX) return syi_fail(t->ctx, SY_E_INPUT, "JSON is nested too deeply to be written");
    switch (json_typeof(j)) {
    case JSON_OBJECT: return dump_object(t, j, sorted, depth);
    case JSON_ARRAY:
        syi_text_puts(t, "[");
        for (size_t i = 0; i < json_array_size(j); i++) {
            if (i > 0) syi_text_puts(t, ",");
            newline(t, depth + 1);
            SYI_TRY(dump(t, json_array_get(j, i), sorted, depth + 1));
        }
        if (json_array_size(j) > 0) newline(t, depth);
        syi_text_puts(t, "]");
        break;
    case JSON_STRING: syi_json_quote(t, json_string_value(j), json_string_length(j)); break;
    case JSON_INTEGER: syi_text_printf(t, "%" JSON_INTEGER_FORMAT, json_integer_value(j)); break;
    case JSON_REAL: dump_real(t, json_real_value(j)); break;
    case JSON_TRUE: syi_text_puts(t, "true"); break;
    case JSON_FALSE: syi_text_puts(t, "false"); break;
    case JSON_NULL: syi_text_puts(t, "null"); break;
    }
    return t->failed ? sy_error_code(t->ctx) : SY_OK;
}

sy_status syi_json_dump(sy_context *ctx, const json_t *j, bool sorted, char **text)
{
    syi_text t;
    syi_text_init(&t, ctx, (size_t)JSON_FILE_MAX);
    sy_status status = dump(&t, j, sorted, 0);
    syi_text_puts(&t, "\n");
    *text = status == SY_OK ? syi_text_take(&t) : NULL;
    if (*text != NULL) return SY_OK;
    syi_text_free(&t);
    return status != SY_OK ? status : sy_error_code(ctx);
}

sy_status syi_json_write(sy_context *ctx, const char *path, const json_t *j, bool sorted)
{
    char *text = NULL;
    SYI_TRY(syi_json_dump(ctx, j, sorted, &text));
    sy_status status = syi_write_file(ctx, path, text, (int64_t)strlen(text));
    syi_free(ctx, text);
    return status;
}

/* -- edits in place -------------------------------------------------------------- */

static size_t skip_blank(const char *s, size_t i)
{
    while (s[i] == ' ' || s[i] == '\t' || s[i] == '\n' || s[i] == '\r') i++;
    return i;
}

static size_t skip_string(const char *s, size_t i)
{
    for (i++; s[i] != '"' && s[i] != '\0'; i++)
        if (s[i] == '\\' && s[i + 1] != '\0') i++;
    return s[i] == '"' ? i + 1 : i;
}

static size_t skip_value(const char *s, size_t i)
{
    int depth = 0;
    while (s[i] != '\0') {
        if (s[i] == '"') {
            i = skip_string(s, i);
        } else if (s[i] == '{' || s[i] == '[') {
            depth++, i++;
        } else if (s[i] == '}' || s[i] == ']') {
            if (depth == 0) return i;
            depth--, i++;
        } else if (depth == 0 && (s[i] == ',' || strchr(" \t\n\r", s[i]) != NULL)) {
            return i;
        } else {
            i++;
            continue;
        }
        if (depth == 0) return i;
    }
    return i;
}

sy_status syi_json_set(sy_context *ctx, char **text, const char *key, const char *value)
{
    const char *s = *text;
    size_t i = skip_blank(s, 0), last = 0, from = 0, to = 0;
    if (s[i] != '{') return syi_fail(ctx, SY_E_INPUT, "a JSON object was expected");
    i++;
    for (;;) {
        i = skip_blank(s, i);
        if (s[i] != '"') break; /* the end of the object */
        const size_t name = i + 1, end = skip_string(s, i);
        i = skip_blank(s, end);
        if (s[i] == ':') i = skip_blank(s, i + 1);
        const size_t begin = i;
        last = i = skip_value(s, i);
        if (end - 1 - name == strlen(key) && memcmp(s + name, key, end - 1 - name) == 0) {
            from = begin;
            to = i;
        }
        i = skip_blank(s, i);
        if (s[i] != ',') break;
        i++;
    }
    syi_text t;
    syi_text_init(&t, ctx, (size_t)JSON_FILE_MAX);
    if (to > 0) {
        syi_text_add(&t, s, from);
        syi_text_puts(&t, value);
        syi_text_puts(&t, s + to);
    } else {
        const size_t at = last > 0 ? last : skip_blank(s, 0) + 1;
        syi_text_add(&t, s, at);
        syi_text_printf(&t, "%s\n  \"%s\": %s%s", last > 0 ? "," : "", key, value, last > 0 ? "" : "\n");
        syi_text_puts(&t, s + at);
    }
    char *edited = syi_text_take(&t);
    if (edited == NULL) {
        syi_text_free(&t);
        return sy_error_code(ctx);
    }
    syi_free(ctx, *text);
    *text = edited;
    return SY_OK;
}
