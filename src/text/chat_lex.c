/* SPDX-License-Identifier: Apache-2.0 */
/* Cuts a template into tokens, with the whitespace rules that transformers turns
 * on (trim_blocks, lstrip_blocks) and the marks that override them. */
#include "chat_lex.h"

static sy_status fail(lexer *x, const char *what)
{
    return syi_fail(x->ctx, SY_E_INPUT, "%s:%d: %s", x->where, x->line, what);
}

static sy_status emit(lexer *x, token_kind kind, const char *s, int64_t n)
{
    void *p = x->token;
    sy_status st = syi_grow(x->ctx, &p, &x->cap, x->count + 1, sizeof *x->token, 1 << 22);
    x->token = p;
    if (st == SY_OK) x->token[x->count++] = (token){kind, x->line, s, n, 0, 0};
    return st;
}

static void advance(lexer *x, int64_t to)
{
    for (; x->at < to; x->at++)
        if (x->s[x->at] == '\n') x->line++;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* -- inside a tag --------------------------------------------------------------- */

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Python's escapes; one that is not known keeps its backslash. */
static sy_status string_token(lexer *x)
{
    char quote = x->s[x->at];
    int64_t i = x->at + 1, w = 0;
    while (i < x->n && x->s[i] != quote) i += x->s[i] == '\\' ? 2 : 1;
    if (i >= x->n) return fail(x, "a text in quotes that does not end");
    char *out = syi_arena_alloc(x->arena, (size_t)(i - x->at) * 2 + 8);
    if (out == NULL) return SY_E_MEMORY;
    for (int64_t k = x->at + 1; k < i; k++) {
        char c = x->s[k];
        if (c != '\\') {
            out[w++] = c;
            continue;
        }
        c = x->s[++k];
        static const char from[] = "nrtabfv\\'\"", to[] = "\n\r\t\a\b\f\v\\'\"";
        const char *known = strchr(from, c);
        if (known != NULL && c != '\0') {
            out[w++] = to[known - from];
        } else if (c == '\n') {
            continue;
        } else if (c >= '0' && c <= '7') {
            uint32_t v = 0;
            int d = 0;
            for (; d < 3 && k < i && x->s[k] >= '0' && x->s[k] <= '7'; d++) v = v * 8 + (uint32_t)(x->s[k++] - '0');
            k--;
            w += syi_utf8_encode(v, (uint8_t *)out + w);
        } else if (c == 'x' || c == 'u' || c == 'U') {
            int want = c == 'x' ? 2 : c == 'u' ? 4 : 8;
            uint32_t v = 0;
            for (int d = 0; d < want; d++) {
                int h = k + 1 < i ? hex_value(x->s[k + 1]) : -1;
                if (h < 0) return fail(x, "an escape in a text has too few hexadecimal digits");
                v = v << 4 | (uint32_t)h;
                k++;
            }
            if (v > 0x10FFFF || (v >= 0xD800 && v < 0xE000)) return fail(x, "an escape in a text is not a character");
            w += syi_utf8_encode(v, (uint8_t *)out + w);
        } else {
            out[w++] = '\\';
            out[w++] = c;
        }
    }
    SYI_TRY(emit(x, T_STRING, out, w));
    advance(x, i + 1);
    return SY_OK;
}

static sy_status number_token(lexer *x)
{
    char text[64];
    int n = 0;
    int64_t i = x->at;
    bool real = false;
    for (; i < x->n && n < 60; i++) {
        char c = x->s[i];
        bool digit = c >= '0' && c <= '9';
        if (c == '_') continue;
        if (c == '.' && !real && i + 1 < x->n && x->s[i + 1] >= '0' && x->s[i + 1] <= '9') real = true;
        else if ((c == 'e' || c == 'E') && i + 1 < x->n && (hex_value(x->s[i + 1]) >= 0 || x->s[i + 1] == '-' || x->s[i + 1] == '+')) {
            real = true;
            text[n++] = c;
            c = x->s[++i];
        } else if (!digit) break;
        text[n++] = c;
    }
    text[n] = '\0';
    if (n >= 60) return fail(x, "a number with too many digits");
    SYI_TRY(emit(x, real ? T_FLOAT : T_INT, x->s + x->at, i - x->at));
    token *t = &x->token[x->count - 1];
    errno = 0;
    if (real) t->f = strtod(text, NULL);
    else t->i = strtoll(text, NULL, 10);
    if (!real && errno == ERANGE) return fail(x, "a number that is too large");
    advance(x, i);
    return SY_OK;
}

static bool is_name(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (!first && c >= '0' && c <= '9');
}

/* Tokens up to the end of the tag; *minus: it ends in "-%}"; *plus: in "+%}". */
static sy_status tag(lexer *x, const char *end, token_kind end_kind, bool *minus, bool *plus)
{
    static const char *const op[] = {"//", "**", "==", "!=", "<=", ">=", "<", ">", "=", "+", "-", "*", "/", "%", "~", "|", ".", ",", ":",
                                     "(", ")", "[", "]", "{", "}"};
    int open = 0;
    for (;;) {
        while (x->at < x->n && is_blank(x->s[x->at])) advance(x, x->at + 1);
        const char *s = x->s + x->at;
        int64_t left = x->n - x->at;
        if (left <= 0) return fail(x, "a tag that does not end");
        char mark = (s[0] == '-' || s[0] == '+') && left >= 3 ? s[0] : 0;
        if (open == 0 && left >= 2 + (mark != 0) && memcmp(s + (mark != 0), end, 2) == 0) {
            *minus = mark == '-';
            *plus = mark == '+';
            SYI_TRY(emit(x, end_kind, s, 0));
            advance(x, x->at + 2 + (mark != 0));
            return SY_OK;
        }
        if (*s == '\'' || *s == '"') {
            SYI_TRY(string_token(x));
        } else if (*s >= '0' && *s <= '9') {
            SYI_TRY(number_token(x));
        } else if (is_name(*s, true)) {
            int64_t n = 1;
            while (n < left && is_name(s[n], false)) n++;
            SYI_TRY(emit(x, T_NAME, s, n));
            advance(x, x->at + n);
        } else {
            int k = 0;
            while (k < SYI_COUNT(op) && !(left >= (int64_t)strlen(op[k]) && memcmp(s, op[k], strlen(op[k])) == 0)) k++;
            if (k == SYI_COUNT(op)) return fail(x, "a character that means nothing inside a tag");
            if (strchr("([{", *s) != NULL) open++;
            if (strchr(")]}", *s) != NULL && open > 0) open--;
            SYI_TRY(emit(x, T_OPERATOR, op[k], (int64_t)strlen(op[k])));
            advance(x, x->at + (int64_t)strlen(op[k]));
        }
    }
}

/* -- between tags ------------------------------------------------------------------ */

/* Where the next "{{", "{%" or "{#" is, or the end. */
static int64_t next_tag(const lexer *x, int64_t from)
{
    for (int64_t i = from; i + 1 < x->n; i++)
        if (x->s[i] == '{' && (x->s[i + 1] == '{' || x->s[i + 1] == '%' || x->s[i + 1] == '#')) return i;
    return x->n;
}

/* Text [from,to) before a tag of the given kind, whitespace rules applied. */
static sy_status text(lexer *x, int64_t from, int64_t to, char kind, char mark, bool line_start)
{
    int64_t end = to;
    if (mark == '-') {
        while (end > from && is_blank(x->s[end - 1])) end--;
    } else if (mark != '+' && (kind == '%' || kind == '#')) {
        int64_t i = to;
        while (i > from && x->s[i - 1] != '\n' && is_blank(x->s[i - 1])) i--;
        if (i > from ? x->s[i - 1] == '\n' : line_start) end = i;
    }
    return end > from ? emit(x, T_TEXT, x->s + from, end - from) : SY_OK;
}

static bool word_at(const lexer *x, int64_t i, const char *word, int64_t *after)
{
    int64_t n = (int64_t)strlen(word);
    while (i < x->n && is_blank(x->s[i])) i++;
    if (i + n > x->n || memcmp(x->s + i, word, (size_t)n) != 0) return false;
    *after = i + n;
    return true;
}

/* "{% raw %}": text up to "{% endraw %}". At the "{%"; body: after "raw". */
static sy_status raw(lexer *x, int64_t body, bool *minus)
{
    int64_t i = body, after;
    while (i < x->n && is_blank(x->s[i])) i++;
    bool strip = i < x->n && x->s[i] == '-';
    i += strip;
    if (i + 1 >= x->n || x->s[i] != '%' || x->s[i + 1] != '}') return fail(x, "expected \"{% raw %}\"");
    int64_t from = i + 2;
    if (strip) while (from < x->n && is_blank(x->s[from])) from++;
    else if (from < x->n && x->s[from] == '\n') from++;
    for (int64_t k = from; k + 1 < x->n; k++) {
        if (x->s[k] != '{' || x->s[k + 1] != '%') continue;
        char mark = k + 2 < x->n && (x->s[k + 2] == '-' || x->s[k + 2] == '+') ? x->s[k + 2] : 0;
        if (!word_at(x, k + 2 + (mark != 0), "endraw", &after)) continue;
        SYI_TRY(text(x, from, k, '%', mark, true));
        while (after < x->n && is_blank(x->s[after])) after++;
        *minus = after < x->n && x->s[after] == '-';
        after += *minus;
        if (after + 1 >= x->n || x->s[after] != '%' || x->s[after + 1] != '}') return fail(x, "expected \"{% endraw %}\"");
        advance(x, after + 2);
        return SY_OK;
    }
    return fail(x, "\"{% raw %}\" without \"{% endraw %}\"");
}

sy_status syi_chat_lex(lexer *x)
{
    bool line_start = true, minus = false, plus = false;
    while (x->at < x->n) {
        int64_t from = x->at, to = next_tag(x, from), after;
        char kind = to < x->n ? x->s[to + 1] : 0;
        char mark = to + 2 < x->n && (x->s[to + 2] == '-' || x->s[to + 2] == '+') ? x->s[to + 2] : 0;
        if (kind == '{' && mark == '+') mark = 0; /* {{+x}}: a sign */
        SYI_TRY(text(x, from, to, kind, mark, line_start));
        advance(x, to);
        if (kind == 0) break;
        int64_t inside = to + 2 + (mark != 0);
        minus = plus = false;
        if (kind == '#') {
            int64_t end = inside;
            while (end + 1 < x->n && !(x->s[end] == '#' && x->s[end + 1] == '}')) end++;
            if (end + 1 >= x->n) return fail(x, "a comment that does not end");
            minus = end > inside && x->s[end - 1] == '-';
            plus = end > inside && x->s[end - 1] == '+';
            advance(x, end + 2);
        } else if (kind == '%' && word_at(x, inside, "raw", &after) && after < x->n && !is_name(x->s[after], false)) {
            SYI_TRY(raw(x, after, &minus));
        } else {
            SYI_TRY(emit(x, kind == '%' ? T_BLOCK : T_VARIABLE, "", 0));
            advance(x, inside);
            SYI_TRY(tag(x, kind == '%' ? "%}" : "}}", T_END, &minus, &plus));
        }
        int64_t next = x->at;
        if (minus) while (next < x->n && is_blank(x->s[next])) next++;
        else if (kind != '{' && !plus && next < x->n && x->s[next] == '\n') next++;
        line_start = next > to && x->s[next - 1] == '\n';
        advance(x, next);
    }
    return emit(x, T_EOF, "", 0);
}
