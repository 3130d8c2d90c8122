/* SPDX-License-Identifier: Apache-2.0 */
/* Normalizers: each rewrites a text and keeps, for every byte of the result, the
 * span of the input it stems from. A text that a normalizer would not change is
 * passed on as it is. Malformed bytes are copied. */
#include "text.h"

#include <stdlib.h>
#include <utf8proc.h>

/* -- NFC, NFD, NFKC, NFKD --------------------------------------------------------
 * A text is a row of segments: a character and the marks after it. Nothing
 * composes or is reordered across the beginning of one. */

typedef struct { uint32_t cp; int32_t order; uint8_t ccc; int16_t change; } letter;
typedef struct { syi_span *source; letter *l; int64_t n, cap, n_source, cap_source; } segment;

static utf8proc_option_t form_of(const syi_stage *s)
{
    return s->split ? UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT : UTF8PROC_DECOMPOSE;
}

static bool is_mark(uint32_t c)
{
    if (c < 0x300) return false;
    if (c >= 0x1160 && c <= 0x11FF) return true; /* Hangul vowels and finals */
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME || utf8proc_get_property((utf8proc_int32_t)c)->combining_class != 0;
}

/* A character that stands alone and that normalization leaves as it is. */
static bool is_inert(uint32_t c, bool compose)
{
    if (c < 0x80) return true;
    if (c >= 0xAC00 && c <= 0xD7A3) return compose;
    return utf8proc_get_property((utf8proc_int32_t)c)->decomp_seqindex == UINT16_MAX;
}

static int by_class(const void *a, const void *b)
{
    const letter *x = a, *y = b;
    return x->ccc != y->ccc ? (x->ccc < y->ccc ? -1 : 1) : (x->order > y->order) - (x->order < y->order);
}

/* The composition of two characters, or 0. */
static uint32_t compose_pair(uint32_t a, uint32_t b)
{
    utf8proc_int32_t pair[3] = {(utf8proc_int32_t)a, (utf8proc_int32_t)b, 0};
    return utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE) == 1 ? (uint32_t)pair[0] : 0;
}

static sy_status decompose(sy_context *ctx, segment *g, uint32_t cp, bool compat)
{
    utf8proc_int32_t out[32];
    int boundary = 0;
    utf8proc_ssize_t k = utf8proc_decompose_char((utf8proc_int32_t)cp, out, 32, compat ? UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT : UTF8PROC_DECOMPOSE, &boundary);
    if (k <= 0 || k > 32) {
        out[0] = (utf8proc_int32_t)cp;
        k = 1;
    }
    void *p = g->l;
    sy_status st = syi_grow(ctx, &p, &g->cap, g->n + k, sizeof *g->l, INT32_MAX);
    g->l = p;
    if (st != SY_OK) return st;
    for (utf8proc_ssize_t i = 0; i < k; i++) {
        g->l[g->n] = (letter){.cp = (uint32_t)out[i],
                              .order = (int32_t)g->n,
                              .ccc = (uint8_t)utf8proc_get_property(out[i])->combining_class,
                              .change = i > 0};
        g->n++;
    }
    return SY_OK;
}

static void reorder(segment *g)
{
    for (int64_t i = 0; i < g->n;) {
        if (g->l[i].ccc == 0) {
            i++;
            continue;
        }
        int64_t end = i;
        while (end < g->n && g->l[end].ccc != 0) end++;
        qsort(g->l + i, (size_t)(end - i), sizeof *g->l, by_class);
        i = end;
    }
}

static void compose(segment *g)
{
    int64_t base = -1, w = 0;
    int last = -1; /* class of the last character that stayed after the base, -1: none */
    for (int64_t i = 0; i < g->n; i++) {
        letter x = g->l[i];
        uint32_t whole;
        if (base >= 0 && last < x.ccc && (last != 0 || x.ccc != 0) && (whole = compose_pair(g->l[base].cp, x.cp)) != 0) {
            g->l[base].cp = whole;
            int change = g->l[base].change + x.change - 1;
            g->l[base].change = (int16_t)(change < INT16_MIN ? INT16_MIN : change);
            continue;
        }
        if (x.ccc == 0) {
            base = w;
            last = -1;
        } else {
            last = x.ccc;
        }
        g->l[w++] = x;
    }
    g->n = w;
}

/* Spans as "replace, insert after, remove after" steps give them: a composed
 * character stems from the first of its parts. */
static sy_status write_segment(sy_context *ctx, syi_buffer *b, const segment *g)
{
    int64_t at = 0;
    for (int64_t i = 0; i < g->n; i++) {
        const letter *x = &g->l[i];
        int64_t from = x->change > 0 ? at - 1 : at;
        syi_span span = g->source[from < 0 ? 0 : from >= g->n_source ? g->n_source - 1 : from];
        uint8_t utf8[4];
        SYI_TRY(syi_buffer_add(ctx, b, utf8, syi_utf8_encode(x->cp, utf8), span));
        if (x->change <= 0) at += 1 - x->change;
    }
    return SY_OK;
}

static sy_status add_source(sy_context *ctx, segment *g, syi_span span)
{
    void *p = g->source;
    sy_status st = syi_grow(ctx, &p, &g->cap_source, g->n_source + 1, sizeof *g->source, INT32_MAX);
    g->source = p;
    if (st == SY_OK) g->source[g->n_source++] = span;
    return st;
}

/* The first byte from which the text is not known to be normalized. */
static int64_t first_change(const syi_piece *in, bool compose_too)
{
    int64_t safe = 0; /* of a character that marks may follow */
    for (int64_t i = 0; i < in->n;) {
        uint32_t cp = 0;
        int k = syi_utf8_decode(in->s + i, in->n - i, &cp);
        if (k > 0 && cp >= 0x80) {
            if (is_mark(cp)) return safe;
            if (!is_inert(cp, compose_too)) return i;
        }
        safe = i;
        i += k > 0 ? k : 1;
    }
    return in->n;
}

static sy_status normalize_unicode(syi_encoder *e, const syi_stage *s, const syi_piece *in, syi_buffer *out, bool *changed)
{
    bool composed = s->left, compat = (form_of(s) & UTF8PROC_COMPAT) != 0;
    int64_t i = first_change(in, composed);
    if (i == in->n) return SY_OK;
    *changed = true;
    segment g = {0};
    syi_piece head = {in->s, i, in->map, in->base};
    sy_status st = syi_buffer_copy(e->ctx, out, &head);
    while (st == SY_OK && i < in->n) {
        uint32_t cp, next = 0;
        int k = syi_utf8_decode(in->s + i, in->n - i, &cp);
        int64_t size = k > 0 ? k : 1;
        bool more = i + size < in->n && syi_utf8_decode(in->s + i + size, in->n - i - size, &next) > 0 && is_mark(next);
        if (k == 0 || (!more && is_inert(cp, composed))) {
            st = syi_buffer_add(e->ctx, out, in->s + i, size, syi_piece_span(in, i));
            i += size;
            continue;
        }
        g.n = g.n_source = 0;
        bool first = true;
        while (st == SY_OK && i < in->n && (k = syi_utf8_decode(in->s + i, in->n - i, &cp)) > 0 && (first || is_mark(cp))) {
            st = add_source(e->ctx, &g, syi_piece_span(in, i));
            if (st == SY_OK) st = decompose(e->ctx, &g, cp, compat);
            first = false;
            i += k;
        }
        if (st != SY_OK) break;
        reorder(&g);
        if (composed) compose(&g);
        st = write_segment(e->ctx, out, &g);
    }
    syi_free(e->ctx, g.l);
    syi_free(e->ctx, g.source);
    return st;
}

/* left: compose; split: compatibility. */
static sy_status parse_form(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    (void)l, (void)path;
    const char *type = json_string_value(json_object_get(j, "type"));
    s->left = type[strlen(type) - 1] == 'C';
    s->split = strchr(type, 'K') != NULL;
    return SY_OK;
}

/* -- Lowercase ----------------------------------------------------------------------- */

static sy_status parse_nothing(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    (void)l, (void)j, (void)path, (void)s;
    return SY_OK;
}

static sy_status lowercase(syi_encoder *e, const syi_stage *s, const syi_piece *in, syi_buffer *out, bool *changed)
{
    (void)s;
    *changed = true;
    for (int64_t i = 0; i < in->n;) {
        uint32_t cp;
        uint8_t utf8[4];
        int k = syi_utf8_decode(in->s + i, in->n - i, &cp);
        syi_span span = syi_piece_span(in, i);
        if (k == 0) {
            SYI_TRY(syi_buffer_add(e->ctx, out, in->s + i, 1, span));
            i++;
            continue;
        }
        if (cp == 0x130) { /* the one that becomes two: i and a dot above */
            SYI_TRY(syi_buffer_add(e->ctx, out, (const uint8_t *)"i\xCC\x87", 3, span));
        } else {
            uint32_t low = cp < 0x80 ? (cp >= 'A' && cp <= 'Z' ? cp + 32 : cp) : (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
            SYI_TRY(syi_buffer_add(e->ctx, out, utf8, syi_utf8_encode(low, utf8), span));
        }
        i += k;
    }
    return SY_OK;
}

/* -- Replace ------------------------------------------------------------------------------ */

static sy_status parse_replace(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    SYI_TRY(syi_want_pattern(l, j, path, &s->regex));
    return syi_want_string(l, j, path, "content", NULL, &s->text, &s->text_len);
}

static sy_status replace(syi_encoder *e, const syi_stage *s, const syi_piece *in, syi_buffer *out, bool *changed)
{
    syi_matches it;
    int64_t done = 0, begin, end;
    bool found;
    syi_matches_begin(&it, e->matcher, s->regex, in->s, in->n, e->valid);
    for (;;) {
        SYI_TRY(syi_matches_next(&it, &found, &begin, &end));
        if (!found) break;
        *changed = true;
        SYI_TRY(syi_buffer_part(e->ctx, out, in, done, begin));
        syi_span span = end > 0 ? syi_piece_span(in, end - 1) : (syi_span){0, 0};
        SYI_TRY(syi_buffer_add(e->ctx, out, (const uint8_t *)s->text, s->text_len, span));
        done = end;
    }
    return *changed ? syi_buffer_part(e->ctx, out, in, done, in->n) : SY_OK;
}

/* -- Prepend, Strip -------------------------------------------------------------------------- */

static sy_status parse_prepend(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    return syi_want_string(l, j, path, "prepend", NULL, &s->text, &s->text_len);
}

static sy_status prepend(syi_encoder *e, const syi_stage *s, const syi_piece *in, syi_buffer *out, bool *changed)
{
    if (in->n == 0 || s->text_len == 0) return SY_OK;
    *changed = true;
    SYI_TRY(syi_buffer_add(e->ctx, out, (const uint8_t *)s->text, s->text_len, syi_piece_span(in, 0)));
    return syi_buffer_copy(e->ctx, out, in);
}

static sy_status parse_strip(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    SYI_TRY(syi_want_bool(l, j, path, "strip_left", -1, &s->left));
    return syi_want_bool(l, j, path, "strip_right", -1, &s->right);
}

static sy_status strip(syi_encoder *e, const syi_stage *s, const syi_piece *in, syi_buffer *out, bool *changed)
{
    uint32_t cp;
    int64_t begin = 0, end = in->n, b, f;
    for (int k; s->left && begin < end && (k = syi_utf8_decode(in->s + begin, end - begin, &cp)) > 0 && syi_is_space(cp);) begin += k;
    while (s->right && end > begin) {
        syi_utf8_cover(in->s, end, end - 1, &b, &f);
        if (syi_utf8_decode(in->s + b, f - b, &cp) == 0 || !syi_is_space(cp)) break;
        end = b;
    }
    if (begin == 0 && end == in->n) return SY_OK;
    *changed = true;
    return syi_buffer_part(e->ctx, out, in, begin, end);
}

static sy_status spell(syi_encoder *e, const syi_stage *s, const syi_piece *in, syi_buffer *out, bool *changed)
{
    (void)s;
    *changed = true;
    return syi_bytes_to_chars(e->ctx, in, out);
}

const syi_component syi_normalizers[] = {
    {"NFC", parse_form, {.normalize = normalize_unicode}},
    {"NFD", parse_form, {.normalize = normalize_unicode}},
    {"NFKC", parse_form, {.normalize = normalize_unicode}},
    {"NFKD", parse_form, {.normalize = normalize_unicode}},
    {"Lowercase", parse_nothing, {.normalize = lowercase}},
    {"Replace", parse_replace, {.normalize = replace}},
    {"Prepend", parse_prepend, {.normalize = prepend}},
    {"Strip", parse_strip, {.normalize = strip}},
    {"BertNormalizer", syi_bert_parse, {.normalize = syi_map_chars}},
    {"StripAccents", syi_strip_accents_parse, {.normalize = syi_map_chars}},
    {"Nmt", syi_nmt_parse, {.normalize = syi_map_chars}},
    {"ByteLevel", parse_nothing, {.normalize = spell}},
    {"Precompiled", syi_charsmap_parse, {.normalize = syi_charsmap_run}},
    {NULL, NULL, {.normalize = NULL}},
};
