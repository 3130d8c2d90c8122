/* SPDX-License-Identifier: Apache-2.0 */
/* Precompiled: SentencePiece's normalization as data. The map is a double array
 * (darts) over UTF-8 bytes whose leaves are places in a list of replacements, each
 * ended by NUL. Base64 in tokenizer.json: u32 bytes of the array, the array (u32,
 * little-endian), the replacements. A short cluster of characters that the eye sees
 * as one (UAX #29) is looked up whole, then character by character; of the entries
 * that begin a text, the shortest counts. */
#include "text.h"

#include <utf8proc.h>

enum { MAP_MAX = 1 << 26, CLUSTER_MAX = 6 };

static int sixbits(char c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* In place; -1: not base64. */
static int64_t from_base64(char *s, int64_t n)
{
    int64_t out = 0;
    uint32_t bits = 0;
    int have = 0;
    while (n > 0 && s[n - 1] == '=') n--;
    for (int64_t i = 0; i < n; i++) {
        int v = sixbits(s[i]);
        if (v < 0) return -1;
        bits = bits << 6 | (uint32_t)v;
        have += 6;
        if (have < 8) continue;
        have -= 8;
        s[out++] = (char)(bits >> have & 0xFF);
    }
    return out;
}

sy_status syi_charsmap_parse(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    const json_t *map = json_object_get(j, "precompiled_charsmap");
    if (json_is_null(map) || (json_is_string(map) && json_string_length(map) == 0)) return SY_OK; /* changes nothing */
    if (!json_is_string(map) || json_string_length(map) > MAP_MAX)
        return syi_fail(l->ctx, SY_E_INPUT, "%s: %s.precompiled_charsmap: expected base64 of at most %d bytes", l->where, path, MAP_MAX);
    SYI_TRY(syi_want_string(l, j, path, "precompiled_charsmap", NULL, &s->text, &s->text_len));
    int64_t n = from_base64(s->text, s->text_len), bytes = 0;
    if (n >= 4)
        for (int i = 3; i >= 0; i--) bytes = bytes << 8 | (uint8_t)s->text[i];
    if (n < 4 || bytes % 4 != 0 || bytes == 0 || bytes > n - 4)
        return syi_fail(l->ctx, SY_E_INPUT, "%s: %s.precompiled_charsmap: expected a size, an array of that many bytes and a list, found %lld bytes "
                        "with an array of %lld", l->where, path, (long long)n, (long long)bytes);
    s->n_units = bytes / 4;
    s->units = syi_alloc(l->ctx, (size_t)bytes);
    if (s->units == NULL) return SY_E_MEMORY;
    for (int64_t i = 0; i < s->n_units; i++) {
        const uint8_t *b = (const uint8_t *)s->text + 4 + 4 * i;
        s->units[i] = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    }
    s->text_len = n - 4 - bytes;
    memmove(s->text, s->text + 4 + bytes, (size_t)s->text_len);
    s->text[s->text_len] = '\0';
    return SY_OK;
}

/* A unit of the array: bit 31 marks a leaf, whose value is the rest; others hold the
 * byte that leads to them, whether a leaf hangs on them, and where children lie. */
static int64_t offset_of(uint32_t unit)
{
    return unit >> 10 << ((unit & 1u << 9) >> 6);
}

/* What the shortest entry that begins the text becomes; NULL: there is none. */
static const char *look_up(const syi_stage *s, const uint8_t *key, int64_t n)
{
    int64_t at = offset_of(s->units[0]);
    for (int64_t i = 0; i < n && key[i] != 0; i++) {
        at ^= key[i];
        if (at >= s->n_units) return NULL;
        uint32_t unit = s->units[at];
        if ((unit & 0x800000FFu) != key[i]) return NULL;
        at ^= offset_of(unit);
        if (!(unit >> 8 & 1)) continue;
        if (at >= s->n_units) return NULL;
        int64_t place = s->units[at] & 0x7FFFFFFF;
        return place < s->text_len ? s->text + place : NULL;
    }
    return NULL;
}

/* Spans: each new character stems from the old one at its place; more new ones stem
 * from the last old one. */
static sy_status put(syi_encoder *e, const syi_piece *in, int64_t begin, int64_t end, const char *to, syi_buffer *out)
{
    int64_t from = begin, n = (int64_t)strlen(to);
    uint32_t cp;
    for (int64_t i = 0; i < n;) {
        int k = syi_utf8_decode((const uint8_t *)to + i, n - i, &cp), old = syi_utf8_decode(in->s + from, end - from, &cp);
        int64_t size = k > 0 ? k : 1;
        SYI_TRY(syi_buffer_add(e->ctx, out, (const uint8_t *)to + i, size, syi_piece_span(in, from)));
        if (old > 0 && from + old < end) from += old;
        i += size;
    }
    return SY_OK;
}

typedef struct { int64_t from; bool *changed; syi_buffer *out; } writer;

static sy_status try(syi_encoder *e, const syi_stage *s, const syi_piece *in, int64_t begin, int64_t end, writer *w, bool *done)
{
    const char *to = look_up(s, in->s + begin, end - begin);
    *done = to != NULL;
    if (to == NULL) return SY_OK;
    SYI_TRY(syi_buffer_part(e->ctx, w->out, in, w->from, begin));
    SYI_TRY(put(e, in, begin, end, to, w->out));
    w->from = end;
    *w->changed = true;
    return SY_OK;
}

/* The end of the cluster that begins at `at`. */
static int64_t cluster(const syi_piece *in, int64_t at)
{
    uint32_t last, cp;
    utf8proc_int32_t state = 0;
    int k = syi_utf8_decode(in->s + at, in->n - at, &last);
    if (k == 0) return at + 1;
    for (at += k; at < in->n; at += k, last = cp) {
        k = syi_utf8_decode(in->s + at, in->n - at, &cp);
        if (k == 0 || utf8proc_grapheme_break_stateful((utf8proc_int32_t)last, (utf8proc_int32_t)cp, &state)) break;
    }
    return at;
}

sy_status syi_charsmap_run(syi_encoder *e, const syi_stage *s, const syi_piece *in, syi_buffer *out, bool *changed)
{
    if (s->units == NULL) return SY_OK;
    writer w = {0, changed, out};
    for (int64_t at = 0; at < in->n;) {
        /* Printable ASCII before printable ASCII is a cluster, and stays. */
        if (in->s[at] >= 0x20 && in->s[at] < 0x7F && (at + 1 == in->n || (in->s[at + 1] < 0x80)) && look_up(s, in->s + at, 1) == NULL) {
            at++;
            continue;
        }
        int64_t end = cluster(in, at);
        bool done = false;
        if (end - at < CLUSTER_MAX) SYI_TRY(try(e, s, in, at, end, &w, &done));
        while (!done && at < end) {
            uint32_t cp;
            int k = syi_utf8_decode(in->s + at, end - at, &cp);
            bool one;
            if (k > 0) SYI_TRY(try(e, s, in, at, at + k, &w, &one));
            at += k > 0 ? k : 1;
        }
        at = end;
    }
    return *changed ? syi_buffer_part(e->ctx, out, in, w.from, in->n) : SY_OK;
}
