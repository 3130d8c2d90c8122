/* SPDX-License-Identifier: Apache-2.0 */
/* Normalizers that treat characters one by one: what BERT does to a text (a row of
 * such steps), StripAccents, Nmt, and ByteLevel's characters. */
#include "text.h"

#include <utf8proc.h>

static utf8proc_category_t category(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c);
}

sy_status syi_map_chars(syi_encoder *e, const syi_stage *s, const syi_piece *in, syi_buffer *out, bool *changed)
{
    int64_t from = 0;
    for (int64_t i = 0; i < in->n;) {
        uint32_t cp = 0, to;
        int k = syi_utf8_decode(in->s + i, in->n - i, &cp);
        int64_t size = k > 0 ? k : 1;
        bool gone = k > 0 && s->drop != NULL && s->drop(cp);
        to = k > 0 && !gone && s->change != NULL ? s->change(cp) : cp;
        if (gone || to != cp) {
            uint8_t utf8[4];
            SYI_TRY(syi_buffer_part(e->ctx, out, in, from, i));
            if (!gone) SYI_TRY(syi_buffer_add(e->ctx, out, utf8, syi_utf8_encode(to, utf8), syi_piece_span(in, i)));
            from = i + size;
            *changed = true;
        }
        i += size;
    }
    return *changed ? syi_buffer_part(e->ctx, out, in, from, in->n) : SY_OK;
}

/* -- BERT ------------------------------------------------------------------------- */

static bool is_unwanted(uint32_t c)
{
    if (c >= 0x20 && c < 0x7F) return false;
    if (c == '\t' || c == '\n' || c == '\r') return false;
    utf8proc_category_t k = category(c);
    if (syi_unicode8(c) != 0) return false;
    return c == 0xFFFD || k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CO;
}

static uint32_t space_to_blank(uint32_t c)
{
    return syi_is_space(c) ? ' ' : c;
}

static bool is_ideograph(uint32_t c)
{
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
           (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

static sy_status space_ideographs(syi_encoder *e, const syi_stage *s, const syi_piece *in, syi_buffer *out, bool *changed)
{
    (void)s;
    int64_t from = 0;
    for (int64_t i = 0; i < in->n;) {
        uint32_t cp = 0;
        int k = syi_utf8_decode(in->s + i, in->n - i, &cp);
        if (k > 2 && is_ideograph(cp)) {
            syi_span span = syi_piece_span(in, i);
            SYI_TRY(syi_buffer_part(e->ctx, out, in, from, i));
            SYI_TRY(syi_buffer_add(e->ctx, out, (const uint8_t *)" ", 1, span));
            SYI_TRY(syi_buffer_add(e->ctx, out, in->s + i, k, span));
            SYI_TRY(syi_buffer_add(e->ctx, out, (const uint8_t *)" ", 1, span));
            from = i + k;
            *changed = true;
        }
        i += k > 0 ? k : 1;
    }
    return *changed ? syi_buffer_part(e->ctx, out, in, from, in->n) : SY_OK;
}

static bool is_nonspacing(uint32_t c)
{
    if (c < 0x300) return false;
    char was = syi_unicode8(c);
    return was != 0 ? was == 'M' : category(c) == UTF8PROC_CATEGORY_MN;
}

static const syi_component characters = {"characters", NULL, {.normalize = syi_map_chars}};
static const syi_component ideographs = {"handle_chinese_chars", NULL, {.normalize = space_ideographs}};

static const syi_component *known(const char *type)
{
    const syi_component *row = syi_normalizers;
    while (strcmp(row->type, type) != 0) row++;
    return row;
}

sy_status syi_bert_parse(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    bool clean, chinese, lower, accents;
    SYI_TRY(syi_want_bool(l, j, path, "clean_text", -1, &clean));
    SYI_TRY(syi_want_bool(l, j, path, "handle_chinese_chars", -1, &chinese));
    SYI_TRY(syi_want_bool(l, j, path, "lowercase", -1, &lower));
    SYI_TRY(syi_want_bool(l, j, path, "strip_accents", lower, &accents));
    s->kind = &characters;
    if (clean) s->drop = is_unwanted, s->change = space_to_blank;
    if (chinese && syi_stage_add(l, path, &ideographs) == NULL) return SY_E_UNSUPPORTED;
    if (accents) {
        syi_stage *apart = syi_stage_add(l, path, known("NFD")), *strip = apart ? syi_stage_add(l, path, &characters) : NULL;
        if (strip == NULL) return SY_E_UNSUPPORTED;
        strip->drop = is_nonspacing;
    }
    return lower && syi_stage_add(l, path, known("Lowercase")) == NULL ? SY_E_UNSUPPORTED : SY_OK;
}

/* -- StripAccents, Nmt --------------------------------------------------------------- */

static bool is_mark(uint32_t c)
{
    return c >= 0x300 && category(c) >= UTF8PROC_CATEGORY_MN && category(c) <= UTF8PROC_CATEGORY_ME;
}

sy_status syi_strip_accents_parse(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    (void)l, (void)j, (void)path;
    s->drop = is_mark;
    return SY_OK;
}

static bool nmt_drops(uint32_t c)
{
    return (c >= 1 && c <= 8) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
}

static uint32_t nmt_changes(uint32_t c)
{
    bool blank = c == '\t' || c == '\n' || c == 0x0C || c == '\r' || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 ||
                 c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
    return blank ? ' ' : c;
}

sy_status syi_nmt_parse(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    (void)l, (void)j, (void)path;
    s->drop = nmt_drops;
    s->change = nmt_changes;
    return SY_OK;
}

/* -- ByteLevel -------------------------------------------------------------------------- */

sy_status syi_bytes_to_chars(sy_context *ctx, const syi_piece *in, syi_buffer *out)
{
    for (int64_t i = 0; i < in->n; i++) {
        uint8_t utf8[4];
        SYI_TRY(syi_buffer_add(ctx, out, utf8, syi_utf8_encode(syi_byte_char(in->s[i]), utf8), syi_piece_span(in, i)));
    }
    return SY_OK;
}
