/* SPDX-License-Identifier: Apache-2.0 */
/* Decoders: ids to text. A decoder turns the list of pieces into another one; the
 * text is what the last one leaves. Bytes come out as they are: what is not
 * UTF-8 is not replaced, so that text -> ids -> text gives the same bytes. */
#include "text.h"

static sy_status add(sy_context *ctx, syi_pieces *p, const uint8_t *s, int64_t n)
{
    void *q = p->s;
    sy_status st = syi_grow(ctx, &q, &p->cap_s, p->len + n, 1, INT64_MAX / 4);
    p->s = q;
    if (st == SY_OK && n > 0) {
        memcpy(p->s + p->len, s, (size_t)n);
        p->len += n;
    }
    return st;
}

static sy_status close_piece(sy_context *ctx, syi_pieces *p)
{
    void *q = p->end;
    sy_status st = syi_grow(ctx, &q, &p->cap_end, p->n + 1, sizeof *p->end, INT64_MAX / 16);
    p->end = q;
    if (st == SY_OK) p->end[p->n++] = p->len;
    return st;
}

static sy_status add_piece(sy_context *ctx, syi_pieces *p, const uint8_t *s, int64_t n)
{
    SYI_TRY(add(ctx, p, s, n));
    return close_piece(ctx, p);
}

static void get(const syi_pieces *p, int64_t i, const uint8_t **s, int64_t *n)
{
    int64_t begin = i > 0 ? p->end[i - 1] : 0;
    *s = p->s + begin;
    *n = p->end[i] - begin;
}

static void pieces_free(sy_context *ctx, syi_pieces *p)
{
    syi_free(ctx, p->s);
    syi_free(ctx, p->end);
    *p = (syi_pieces){0};
}

/* -- ByteLevel: characters back to bytes; a piece that has others stays --------- */

static sy_status parse_nothing(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    (void)l, (void)j, (void)path, (void)s;
    return SY_OK;
}

static sy_status add_bytes(sy_context *ctx, syi_pieces *out, const uint8_t *s, int64_t n)
{
    int64_t before = out->len;
    for (int64_t i = 0; i < n;) {
        uint32_t cp = 0;
        int k = syi_utf8_decode(s + i, n - i, &cp), byte = k > 0 ? syi_char_byte(cp) : -1;
        uint8_t c = (uint8_t)byte;
        if (byte < 0) {
            out->len = before;
            return add(ctx, out, s, n);
        }
        SYI_TRY(add(ctx, out, &c, 1));
        i += k;
    }
    return SY_OK;
}

static sy_status byte_level(sy_context *ctx, const syi_stage *st, const syi_pieces *in, syi_pieces *out)
{
    (void)st;
    for (int64_t i = 0; i < in->n; i++) {
        const uint8_t *s;
        int64_t n;
        get(in, i, &s, &n);
        SYI_TRY(add_bytes(ctx, out, s, n));
    }
    return close_piece(ctx, out);
}

/* -- ByteFallback: <0xNN> to the byte --------------------------------------------- */

static int hex(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static sy_status byte_fallback(sy_context *ctx, const syi_stage *st, const syi_pieces *in, syi_pieces *out)
{
    (void)st;
    bool open = false;
    for (int64_t i = 0; i < in->n; i++) {
        const uint8_t *s;
        int64_t n;
        get(in, i, &s, &n);
        if (n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>' && hex(s[3]) >= 0 && hex(s[4]) >= 0) {
            uint8_t byte = (uint8_t)(hex(s[3]) * 16 + hex(s[4]));
            SYI_TRY(add(ctx, out, &byte, 1));
            open = true;
            continue;
        }
        if (open) SYI_TRY(close_piece(ctx, out));
        open = false;
        SYI_TRY(add_piece(ctx, out, s, n));
    }
    return open ? close_piece(ctx, out) : SY_OK;
}

/* -- Fuse, Strip, Replace, Metaspace, BPEDecoder ------------------------------------- */

static sy_status fuse(sy_context *ctx, const syi_stage *st, const syi_pieces *in, syi_pieces *out)
{
    (void)st;
    return add_piece(ctx, out, in->s, in->len);
}

static sy_status parse_strip(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    const json_t *start = json_object_get(j, "start"), *stop = json_object_get(j, "stop");
    SYI_TRY(syi_want_char(l, j, path, "content", &s->cp));
    if (!json_is_integer(start) || !json_is_integer(stop) || json_integer_value(start) < 0 || json_integer_value(stop) < 0)
        return syi_fail(l->ctx, SY_E_INPUT, "%s: %s: expected \"start\" and \"stop\": numbers of characters", l->where, path);
    s->start = json_integer_value(start);
    s->stop = json_integer_value(stop);
    return SY_OK;
}

static sy_status strip(sy_context *ctx, const syi_stage *st, const syi_pieces *in, syi_pieces *out)
{
    for (int64_t i = 0; i < in->n; i++) {
        const uint8_t *s;
        int64_t n, begin = 0, b, f;
        uint32_t cp;
        get(in, i, &s, &n);
        for (int64_t left = st->start; left > 0; left--) {
            int k = syi_utf8_decode(s + begin, n - begin, &cp);
            if (k == 0 || cp != st->cp) break;
            begin += k;
        }
        for (int64_t left = st->stop; left > 0 && n > begin; left--) {
            syi_utf8_cover(s, n, n - 1, &b, &f);
            if (syi_utf8_decode(s + b, f - b, &cp) == 0 || cp != st->cp) break;
            n = b;
        }
        SYI_TRY(add_piece(ctx, out, s + begin, n - begin));
    }
    return SY_OK;
}

static sy_status parse_replace(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    SYI_TRY(syi_want_pattern(l, j, path, &s->regex));
    return syi_want_string(l, j, path, "content", NULL, &s->text, &s->text_len);
}

static sy_status replace(sy_context *ctx, const syi_stage *st, const syi_pieces *in, syi_pieces *out)
{
    syi_matcher *m;
    SYI_TRY(syi_matcher_new(ctx, &m));
    sy_status status = SY_OK;
    for (int64_t i = 0; i < in->n && status == SY_OK; i++) {
        const uint8_t *s;
        int64_t n, done = 0, begin, end;
        get(in, i, &s, &n);
        syi_matches it;
        syi_matches_begin(&it, m, st->regex, s, n, syi_utf8_valid(s, n));
        for (bool found = true; status == SY_OK;) {
            status = syi_matches_next(&it, &found, &begin, &end);
            if (status != SY_OK || !found) break;
            status = add(ctx, out, s + done, begin - done);
            if (status == SY_OK) status = add(ctx, out, (const uint8_t *)st->text, st->text_len);
            done = end;
        }
        if (status == SY_OK) status = add_piece(ctx, out, s + done, n - done);
    }
    syi_matcher_free(m);
    return status;
}

static sy_status parse_metaspace(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    char *scheme = NULL;
    SYI_TRY(syi_want_char(l, j, path, "replacement", &s->cp));
    SYI_TRY(syi_want_string(l, j, path, "prepend_scheme", "always", &scheme, NULL));
    s->left = strcmp(scheme, "never") != 0 && !json_is_false(json_object_get(j, "add_prefix_space"));
    syi_free(l->ctx, scheme);
    return SY_OK;
}

static sy_status metaspace(sy_context *ctx, const syi_stage *st, const syi_pieces *in, syi_pieces *out)
{
    for (int64_t i = 0; i < in->n; i++) {
        const uint8_t *s;
        int64_t n;
        get(in, i, &s, &n);
        for (int64_t at = 0; at < n;) {
            uint32_t cp = 0;
            int k = syi_utf8_decode(s + at, n - at, &cp);
            if (k > 0 && cp == st->cp) {
                if (i > 0 || !st->left) SYI_TRY(add(ctx, out, (const uint8_t *)" ", 1));
            } else {
                SYI_TRY(add(ctx, out, s + at, k > 0 ? k : 1));
            }
            at += k > 0 ? k : 1;
        }
        SYI_TRY(close_piece(ctx, out));
    }
    return SY_OK;
}

static sy_status parse_suffix(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    return syi_want_string(l, j, path, "suffix", "</w>", &s->text, &s->text_len);
}

static sy_status suffix(sy_context *ctx, const syi_stage *st, const syi_pieces *in, syi_pieces *out)
{
    for (int64_t i = 0; i < in->n; i++) {
        const uint8_t *s;
        int64_t n, at = 0;
        get(in, i, &s, &n);
        while (at < n) {
            if (st->text_len > 0 && n - at >= st->text_len && memcmp(s + at, st->text, (size_t)st->text_len) == 0) {
                if (i + 1 < in->n) SYI_TRY(add(ctx, out, (const uint8_t *)" ", 1));
                at += st->text_len;
            } else {
                SYI_TRY(add(ctx, out, s + at++, 1));
            }
        }
        SYI_TRY(close_piece(ctx, out));
    }
    return SY_OK;
}

/* -- WordPiece, CTC ------------------------------------------------------------------------- */

/* Every `from` in bytes [begin, out->len) of the last piece becomes `to`. */
static sy_status swap(sy_context *ctx, syi_pieces *out, int64_t begin, const char *from, int64_t n, const char *to)
{
    int64_t at = begin, m = (int64_t)strlen(to);
    while (n > 0 && at + n <= out->len) {
        const uint8_t *found = memmem(out->s + at, (size_t)(out->len - at), from, (size_t)n);
        if (found == NULL) break;
        at = found - out->s;
        int64_t rest = out->len - at - n;
        if (m > n) SYI_TRY(add(ctx, out, (const uint8_t *)to, m - n)); /* room only */
        memmove(out->s + at + m, out->s + at + n, (size_t)rest);
        memcpy(out->s + at, to, (size_t)m);
        out->len = at + m + rest;
        at += m;
    }
    return SY_OK;
}

static sy_status clean_up(sy_context *ctx, syi_pieces *out, int64_t begin)
{
    static const char *const pair[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},     {" ' ", "'"},  {" n't", "n't"},
                                          {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (int i = 0; i < SYI_COUNT(pair); i++) SYI_TRY(swap(ctx, out, begin, pair[i][0], (int64_t)strlen(pair[i][0]), pair[i][1]));
    return SY_OK;
}

static sy_status parse_word_piece(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    SYI_TRY(syi_want_bool(l, j, path, "cleanup", 1, &s->trim));
    return syi_want_string(l, j, path, "prefix", "##", &s->text, &s->text_len);
}

static sy_status word_piece(sy_context *ctx, const syi_stage *st, const syi_pieces *in, syi_pieces *out)
{
    for (int64_t i = 0; i < in->n; i++) {
        const uint8_t *s;
        int64_t n, begin = out->len;
        get(in, i, &s, &n);
        bool inner = n >= st->text_len && memcmp(s, st->text, (size_t)st->text_len) == 0;
        if (i > 0 && inner) s += st->text_len, n -= st->text_len;
        else if (i > 0) SYI_TRY(add(ctx, out, (const uint8_t *)" ", 1));
        SYI_TRY(add(ctx, out, s, n));
        if (st->trim) SYI_TRY(clean_up(ctx, out, begin));
        SYI_TRY(close_piece(ctx, out));
    }
    return SY_OK;
}

static sy_status parse_ctc(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    SYI_TRY(syi_want_bool(l, j, path, "cleanup", 1, &s->trim));
    SYI_TRY(syi_want_string(l, j, path, "pad_token", "<pad>", &s->text, &s->text_len));
    return syi_want_string(l, j, path, "word_delimiter_token", "|", &s->text2, &s->text2_len);
}

static sy_status ctc(sy_context *ctx, const syi_stage *st, const syi_pieces *in, syi_pieces *out)
{
    const uint8_t *last = NULL;
    int64_t last_n = -1;
    for (int64_t i = 0; i < in->n; i++) {
        const uint8_t *s;
        int64_t n, begin = out->len;
        get(in, i, &s, &n);
        bool again = n == last_n && memcmp(s, last, (size_t)n) == 0;
        last = s;
        last_n = n;
        if (again) continue;
        SYI_TRY(add(ctx, out, s, n));
        SYI_TRY(swap(ctx, out, begin, st->text, st->text_len, ""));
        if (st->trim) {
            SYI_TRY(clean_up(ctx, out, begin));
            SYI_TRY(swap(ctx, out, begin, st->text2, st->text2_len, " "));
        }
        if (out->len > begin) SYI_TRY(close_piece(ctx, out));
    }
    return SY_OK;
}

const syi_component syi_decoders[] = {
    {"ByteLevel", parse_nothing, {.decode = byte_level}},
    {"ByteFallback", parse_nothing, {.decode = byte_fallback}},
    {"Fuse", parse_nothing, {.decode = fuse}},
    {"Strip", parse_strip, {.decode = strip}},
    {"Replace", parse_replace, {.decode = replace}},
    {"Metaspace", parse_metaspace, {.decode = metaspace}},
    {"BPEDecoder", parse_suffix, {.decode = suffix}},
    {"WordPiece", parse_word_piece, {.decode = word_piece}},
    {"CTC", parse_ctc, {.decode = ctc}},
    {NULL, NULL, {.decode = NULL}},
};

/* -- the call --------------------------------------------------------------------------- */

static sy_status gather(sy_context *ctx, const sy_tokenizer *t, const int32_t *ids, int64_t n, bool skip_special, syi_pieces *out)
{
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->size || t->entry[ids[i]].at < 0) continue;
        const syi_entry *x = &t->entry[ids[i]];
        if (skip_special && x->special) continue;
        if (!t->has_decoder && out->n > 0) SYI_TRY(add(ctx, out, (const uint8_t *)" ", 1));
        SYI_TRY(add_piece(ctx, out, (const uint8_t *)t->pool + x->at, x->len));
    }
    return SY_OK;
}

sy_status sy_detokenize(sy_context *ctx, const sy_tokenizer *t, const int32_t *ids, int64_t n, bool skip_special,
                        char **text, int64_t *len, int64_t *complete)
{
    *text = NULL;
    syi_pieces p[2] = {{0}, {0}};
    int now = 0;
    const uint8_t nul = 0;
    sy_status st;
    SYI_TRY_TO(done, st, gather(ctx, t, ids, n, skip_special, &p[0]));
    for (int i = 0; i < t->decoder.n; i++) {
        const syi_stage *s = &t->decoder.stage[i];
        p[!now].n = p[!now].len = 0;
        SYI_TRY_TO(done, st, s->kind->run.decode(ctx, s, &p[now], &p[!now]));
        now = !now;
    }
    int64_t bytes = p[now].len;
    SYI_TRY_TO(done, st, add(ctx, &p[now], &nul, 1));
    if (len != NULL) *len = bytes;
    if (complete != NULL) *complete = syi_utf8_complete(p[now].s, bytes);
    *text = (char *)p[now].s;
    p[now].s = NULL;
done:
    pieces_free(ctx, &p[0]);
    pieces_free(ctx, &p[1]);
    return st;
}
