/* SPDX-License-Identifier: Apache-2.0 */
/* The two large parts of a tokenizer.json, model.vocab and model.merges, read as they lie in
 * the text. As a tree of JSON values they are hundreds of thousands of small blocks, which
 * take longer to make and to free than all the rest of opening a tokenizer. Only the plain
 * form is read here (texts, ids, pairs of texts); of anything else the caller is told, and
 * reads the whole file as a tree, which also knows what to say about it. */
#include "text.h"

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

static void skip_space(syi_scan *s)
{
    while (s->at < s->end && is_space(*s->at)) s->at++;
}

bool syi_scan_char(syi_scan *s, char c)
{
    skip_space(s);
    if (s->at >= s->end || *s->at != c) return false;
    s->at++;
    return true;
}

/* Past a string, whose first quote has been read. */
static bool skip_string(syi_scan *s)
{
    for (; s->at < s->end; s->at++) {
        if (*s->at == '"') {
            s->at++;
            return true;
        }
        if (*s->at == '\\') s->at++;
    }
    return false;
}

/* Past a value; *items: how many a list or object has, or none. Not a check. */
static bool skip_value(syi_scan *s, int64_t *items)
{
    int64_t depth = 0, commas = 0, first = 0;
    skip_space(s);
    for (; s->at < s->end;) {
        const char c = *s->at;
        if (depth == 0 && (c == ',' || c == '}' || c == ']')) break;
        if (depth == 1 && first == 0 && !is_space(c) && c != ']' && c != '}') first = 1;
        s->at++;
        if (c == '"') {
            if (!skip_string(s)) return false;
        } else if (c == '{' || c == '[') depth++;
        else if (c == '}' || c == ']') depth--;
        else if (c == ',' && depth == 1) commas++;
        if (depth == 0 && (c == '}' || c == ']' || c == '"')) break;
    }
    if (items != NULL) *items = commas + first;
    return depth == 0;
}

static int hex(const char *p, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++) {
        const char c = p[i];
        const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) return 0;
        *out = *out * 16 + (uint32_t)digit;
    }
    return 4;
}

static bool escape(syi_scan *s, syi_text *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (s->at >= s->end) return false;
    const char c = *s->at++, *plain = c != '\0' ? strchr(from, c) : NULL;
    if (plain != NULL) {
        syi_text_add(out, to + (plain - from), 1);
        return true;
    }
    uint32_t cp = 0, low = 0;
    if (c != 'u' || s->end - s->at < 4 || !hex(s->at, &cp)) return false;
    s->at += 4;
    if (cp >= 0xd800 && cp < 0xdc00) { /* the first half of a pair */
        if (s->end - s->at < 6 || s->at[0] != '\\' || s->at[1] != 'u' || !hex(s->at + 2, &low) || low < 0xdc00 || low > 0xdfff) return false;
        s->at += 6;
        cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
    } else if (cp == 0 || (cp >= 0xdc00 && cp < 0xe000)) {
        return false;
    }
    uint8_t utf8[4];
    const int n = syi_utf8_encode(cp, utf8);
    syi_text_add(out, (const char *)utf8, (size_t)n);
    return true;
}

bool syi_scan_string(syi_scan *s, syi_text *out)
{
    if (!syi_scan_char(s, '"')) return false;
    for (;;) {
        const char *from = s->at;
        while (s->at < s->end && *s->at != '"' && *s->at != '\\') {
            const uint8_t c = (uint8_t)*s->at;
            uint32_t cp;
            const int n = c < 0x80 ? c >= 0x20 : syi_utf8_decode((const uint8_t *)s->at, s->end - s->at, &cp);
            if (n <= 0) return false;
            s->at += n;
        }
        if (s->at >= s->end) return false;
        syi_text_add(out, from, (size_t)(s->at - from));
        if (*s->at++ == '"') return !out->failed;
        if (!escape(s, out)) return false;
    }
}

bool syi_scan_id(syi_scan *s, int64_t *id)
{
    skip_space(s);
    const char *from = s->at;
    for (*id = 0; s->at < s->end && *s->at >= '0' && *s->at <= '9' && s->at - from < 10; s->at++) *id = *id * 10 + (*s->at - '0');
    const int64_t digits = s->at - from;
    return digits > 0 && digits < 10 && !(digits > 1 && *from == '0');
}

/* The value of `key` in the object that s begins at, and how many items it has. A key with
 * escapes is not found. */
static bool find(syi_scan s, const char *key, syi_scan *value, int64_t *items)
{
    if (!syi_scan_char(&s, '{')) return false;
    for (;;) {
        if (!syi_scan_char(&s, '"')) return false;
        const char *name = s.at;
        if (!skip_string(&s)) return false;
        const size_t len = (size_t)(s.at - 1 - name);
        if (!syi_scan_char(&s, ':')) return false;
        skip_space(&s);
        value->at = s.at;
        if (!skip_value(&s, items)) return false;
        value->end = s.at;
        if (len == strlen(key) && memcmp(name, key, len) == 0) return true;
        if (!syi_scan_char(&s, ',')) return false;
    }
}

sy_status syi_scan_split(sy_context *ctx, const char *json, size_t len, syi_parts *p, char **rest, size_t *rest_len)
{
    syi_scan model;
    *p = (syi_parts){.taken = false};
    *rest = NULL;
    if (!find((syi_scan){json, json + len}, "model", &model, NULL) || !find(model, "vocab", &p->vocab, &p->n_vocab) || *p->vocab.at != '{') return SY_OK;
    const bool merges = find(model, "merges", &p->merges, &p->n_merges) && *p->merges.at == '[';
    /* What is left, with the brackets of what was taken. */
    if (!merges) p->merges = (syi_scan){json + len, json + len};
    const bool order = p->vocab.at < p->merges.at;
    const syi_scan first = order ? p->vocab : p->merges, second = order ? p->merges : p->vocab;
    char *to = *rest = syi_alloc(ctx, len + 1);
    if (to == NULL) return SY_E_MEMORY;
    const syi_scan cut[] = {first, second};
    const char *from = json;
    for (int i = 0; i < 2; i++) {
        if (cut[i].at >= cut[i].end) continue;
        const size_t n = (size_t)(cut[i].at + 1 - from);
        memcpy(to, from, n);
        to += n;
        from = cut[i].end - 1;
    }
    memcpy(to, from, (size_t)(json + len - from));
    *rest_len = (size_t)(to - *rest) + (size_t)(json + len - from);
    p->taken = true;
    p->has_merges = merges;
    return SY_OK;
}
