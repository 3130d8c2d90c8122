/* SPDX-License-Identifier: Apache-2.0 */
/* Pre-tokenizers: each cuts a piece into smaller ones and hands them to the next
 * stage as it finds them, so that memory does not grow with the text. */
#include "text.h"

/* -- what to do with the matches --------------------------------------------- */

typedef struct {
    syi_encoder *e;
    const syi_piece *in;
    syi_behavior behavior;
    int next;              /* stage */
    bool have, last_match; /* a segment is held back, and what it was */
    int64_t begin, end;
} splitter;

static sy_status pass(const splitter *sp, int64_t begin, int64_t end)
{
    if (begin == end) return SY_OK;
    syi_piece p = syi_piece_cut(sp->in, begin, end);
    return syi_encode_piece(sp->e, sp->next, &p);
}

static sy_status hold(splitter *sp, int64_t begin, int64_t end)
{
    if (sp->have) SYI_TRY(pass(sp, sp->begin, sp->end));
    sp->have = true;
    sp->begin = begin;
    sp->end = end;
    return SY_OK;
}

/* Segments arrive in order and cover the piece. */
static sy_status segment(splitter *sp, int64_t begin, int64_t end, bool match)
{
    bool last = sp->last_match;
    sp->last_match = match;
    switch (sp->behavior) {
    case SYI_ISOLATED:
        return pass(sp, begin, end);
    case SYI_REMOVED:
        return match ? SY_OK : pass(sp, begin, end);
    case SYI_CONTIGUOUS:
        if (sp->have && match == last) {
            sp->end = end;
            return SY_OK;
        }
        return hold(sp, begin, end);
    case SYI_MERGED_PREVIOUS:
        if (sp->have && match && !last) {
            sp->end = end;
            return SY_OK;
        }
        return hold(sp, begin, end);
    case SYI_MERGED_NEXT:
        if (sp->have && last && !match) {
            sp->have = false;
            return pass(sp, sp->begin, end);
        }
        return hold(sp, begin, end);
    }
    return SY_OK;
}

static sy_status flush(splitter *sp)
{
    if (!sp->have) return SY_OK;
    sp->have = false;
    return pass(sp, sp->begin, sp->end);
}

static sy_status split_regex(syi_encoder *e, const syi_regex *r, syi_behavior behavior, bool invert, int at, const syi_piece *in)
{
    splitter sp = {.e = e, .in = in, .behavior = behavior, .next = at + 1};
    syi_matches it;
    int64_t done = 0, begin, end;
    bool found;
    syi_matches_begin(&it, e->matcher, r, in->s, in->n, e->valid);
    for (;;) {
        SYI_TRY(syi_matches_next(&it, &found, &begin, &end));
        if (!found) break;
        if (begin > done) SYI_TRY(segment(&sp, done, begin, invert));
        SYI_TRY(segment(&sp, begin, end, !invert));
        done = end;
    }
    if (done < in->n) SYI_TRY(segment(&sp, done, in->n, invert));
    return flush(&sp);
}

static sy_status split_chars(syi_encoder *e, bool (*is)(uint32_t, uint32_t), uint32_t arg, syi_behavior behavior, int at,
                             const syi_piece *in)
{
    splitter sp = {.e = e, .in = in, .behavior = behavior, .next = at + 1};
    int64_t done = 0;
    for (int64_t i = 0; i < in->n;) {
        uint32_t cp;
        int k = syi_utf8_decode(in->s + i, in->n - i, &cp);
        if (k > 0 && is(cp, arg)) {
            if (i > done) SYI_TRY(segment(&sp, done, i, false));
            SYI_TRY(segment(&sp, i, i + k, true));
            done = i + k;
        }
        i += k > 0 ? k : 1;
    }
    if (done < in->n) SYI_TRY(segment(&sp, done, in->n, false));
    return flush(&sp);
}

/* -- ByteLevel ------------------------------------------------------------------ */

static sy_status spell(syi_encoder *e, const syi_stage *s, int at, const syi_piece *in);
static const syi_component spelling = {"ByteLevel's characters", NULL, {.split = spell}};

static sy_status parse_byte_level(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    SYI_TRY(syi_want_bool(l, j, path, "add_prefix_space", -1, &s->prefix_space));
    SYI_TRY(syi_want_bool(l, j, path, "use_regex", 1, &s->use_regex));
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    if (s->use_regex) SYI_TRY(syi_regex_new(l->ctx, gpt2, sizeof gpt2 - 1, false, path, &s->regex));
    syi_stage *after = syi_stage_add(l, path, &spelling); /* left out where the model takes bytes */
    if (after == NULL) return SY_E_UNSUPPORTED;
    after->spell = true;
    return SY_OK;
}

/* The piece with `text` before it, which stems from its first character. */
static sy_status prepend(syi_encoder *e, int at, const char *text, int64_t len, const syi_piece *in, syi_piece *out)
{
    syi_buffer *b = &e->rewrite[at];
    b->n = 0;
    SYI_TRY(syi_buffer_add(e->ctx, b, (const uint8_t *)text, len, syi_piece_span(in, 0)));
    SYI_TRY(syi_buffer_copy(e->ctx, b, in));
    *out = (syi_piece){b->s, b->n, b->map, in->base};
    return SY_OK;
}

static sy_status spell(syi_encoder *e, const syi_stage *s, int at, const syi_piece *in)
{
    (void)s;
    syi_buffer *b = &e->rewrite[at];
    b->n = 0;
    SYI_TRY(syi_bytes_to_chars(e->ctx, in, b));
    syi_piece p = {b->s, b->n, b->map, in->base};
    return syi_encode_piece(e, at + 1, &p);
}

static sy_status split_byte_level(syi_encoder *e, const syi_stage *s, int at, const syi_piece *in)
{
    syi_piece p = *in;
    if (s->prefix_space && in->s[0] != ' ') SYI_TRY(prepend(e, at, " ", 1, in, &p));
    if (s->use_regex) return split_regex(e, s->regex, SYI_ISOLATED, false, at, &p);
    return syi_encode_piece(e, at + 1, &p);
}

/* -- Split ---------------------------------------------------------------------- */

static sy_status parse_split(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    SYI_TRY(syi_want_pattern(l, j, path, &s->regex));
    SYI_TRY(syi_want_behavior(l, j, path, NULL, &s->behavior));
    return syi_want_bool(l, j, path, "invert", 0, &s->invert);
}

static sy_status split_split(syi_encoder *e, const syi_stage *s, int at, const syi_piece *in)
{
    return split_regex(e, s->regex, s->behavior, s->invert, at, in);
}

/* -- by classes of characters ------------------------------------------------------ */

static bool is_numeric(uint32_t c, uint32_t arg)
{
    (void)arg;
    return syi_is_numeric(c);
}

static bool is_punctuation(uint32_t c, uint32_t arg)
{
    (void)arg;
    return syi_is_punctuation(c);
}

static bool is_space(uint32_t c, uint32_t arg)
{
    (void)arg;
    return syi_is_space(c);
}

static bool is_equal(uint32_t c, uint32_t arg)
{
    return c == arg;
}

static sy_status parse_digits(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    bool each;
    SYI_TRY(syi_want_bool(l, j, path, "individual_digits", 0, &each));
    s->behavior = each ? SYI_ISOLATED : SYI_CONTIGUOUS;
    return SY_OK;
}

static sy_status split_digits(syi_encoder *e, const syi_stage *s, int at, const syi_piece *in)
{
    return split_chars(e, is_numeric, 0, s->behavior, at, in);
}

static sy_status parse_punctuation(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    return syi_want_behavior(l, j, path, "Isolated", &s->behavior);
}

static sy_status split_punctuation(syi_encoder *e, const syi_stage *s, int at, const syi_piece *in)
{
    return split_chars(e, is_punctuation, 0, s->behavior, at, in);
}

static sy_status parse_nothing(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    (void)l, (void)j, (void)path, (void)s;
    return SY_OK;
}

static sy_status split_whitespace(syi_encoder *e, const syi_stage *s, int at, const syi_piece *in)
{
    (void)s;
    return split_chars(e, is_space, 0, SYI_REMOVED, at, in);
}

/* BERT: white space goes, punctuation stands alone. */
static sy_status split_bert(syi_encoder *e, const syi_stage *s, int at, const syi_piece *in)
{
    (void)s;
    int64_t begin = 0;
    for (int64_t i = 0; i <= in->n;) {
        uint32_t cp = 0;
        int k = syi_utf8_decode(in->s + i, in->n - i, &cp);
        int64_t size = k > 0 ? k : 1;
        bool space = k > 0 && syi_is_space(cp), alone = k > 0 && !space && syi_is_punctuation(cp);
        if (i == in->n || space || alone) {
            syi_piece word = syi_piece_cut(in, begin, i), mark = syi_piece_cut(in, i, syi_min(i + size, in->n));
            SYI_TRY(syi_encode_piece(e, at + 1, &word));
            if (alone) SYI_TRY(syi_encode_piece(e, at + 1, &mark));
            begin = i + size;
        }
        i += size;
    }
    return SY_OK;
}

static sy_status parse_length(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    const json_t *length = json_object_get(j, "length");
    s->start = length == NULL ? 5 : json_integer_value(length);
    return s->start > 0 ? SY_OK : syi_fail(l->ctx, SY_E_INPUT, "%s: %s.length: expected a number of characters", l->where, path);
}

static sy_status split_length(syi_encoder *e, const syi_stage *s, int at, const syi_piece *in)
{
    int64_t begin = 0, chars = 0;
    for (int64_t i = 0; i < in->n;) {
        uint32_t cp;
        int k = syi_utf8_decode(in->s + i, in->n - i, &cp);
        i += k > 0 ? k : 1;
        if (++chars < s->start && i < in->n) continue;
        syi_piece p = syi_piece_cut(in, begin, i);
        SYI_TRY(syi_encode_piece(e, at + 1, &p));
        begin = i;
        chars = 0;
    }
    return SY_OK;
}

/* Runs of one script, kana counting as Han. What has no script, and the space, goes
 * with what it follows; in front of everything it is left out, as SentencePiece's
 * rule has it. A pattern says all of that. */
static const char *const scripts[] = {
    "Latin", "Common", "Cyrillic", "Arabic", "Inherited", "Hangul", "Greek", "Hebrew", "Devanagari", "Thai", "Adlam", "Ahom",
    "Anatolian_Hieroglyphs", "Armenian", "Avestan", "Balinese", "Bamum", "Bassa_Vah", "Batak", "Bengali", "Bhaiksuki", "Bopomofo", "Brahmi",
    "Braille", "Buginese", "Buhid", "Canadian_Aboriginal", "Carian", "Caucasian_Albanian", "Chakma", "Cham", "Cherokee", "Coptic",
    "Cuneiform", "Cypriot", "Deseret", "Duployan", "Egyptian_Hieroglyphs", "Elbasan", "Ethiopic", "Georgian", "Glagolitic", "Gothic",
    "Grantha", "Gujarati", "Gurmukhi", "Hanunoo", "Hatran", "Imperial_Aramaic", "Inscriptional_Pahlavi", "Inscriptional_Parthian",
    "Javanese", "Kaithi", "Kannada", "Kayah_Li", "Kharoshthi", "Khmer", "Khojki", "Khudawadi", "Lao", "Lepcha", "Limbu", "Linear_A",
    "Linear_B", "Lisu", "Lycian", "Lydian", "Mahajani", "Malayalam", "Mandaic", "Manichaean", "Marchen", "Meetei_Mayek", "Mende_Kikakui",
    "Meroitic_Cursive", "Meroitic_Hieroglyphs", "Miao", "Modi", "Mongolian", "Mro", "Multani", "Myanmar", "Nabataean", "New_Tai_Lue",
    "Newa", "Nko", "Ogham", "Ol_Chiki", "Old_Hungarian", "Old_Italic", "Old_North_Arabian", "Old_Permic", "Old_Persian",
    "Old_South_Arabian", "Old_Turkic", "Oriya", "Osage", "Osmanya", "Pahawh_Hmong", "Palmyrene", "Pau_Cin_Hau", "Phags_Pa", "Phoenician",
    "Psalter_Pahlavi", "Rejang", "Runic", "Samaritan", "Saurashtra", "Sharada", "Shavian", "Siddham", "SignWriting", "Sinhala",
    "Sora_Sompeng", "Sundanese", "Syloti_Nagri", "Syriac", "Tagalog", "Tagbanwa", "Tai_Le", "Tai_Tham", "Tai_Viet", "Takri", "Tamil",
    "Tangut", "Telugu", "Thaana", "Tibetan", "Tifinagh", "Tirhuta", "Ugaritic", "Vai", "Warang_Citi", "Yi"};

#define HAN "\\p{sc:Han}\\p{sc:Hiragana}\\p{sc:Katakana}"
static sy_status parse_scripts(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    (void)j;
    syi_text t;
    syi_text_init(&t, l->ctx, 1 << 16);
    syi_text_puts(&t, "(?(DEFINE)( |[^" HAN);
    for (int i = 0; i < SYI_COUNT(scripts); i++) syi_text_printf(&t, "\\p{sc:%s}", scripts[i]);
    syi_text_puts(&t, "]))(?:[" HAN "\\x{30FC}](?1)*+)++");
    for (int i = 0; i < SYI_COUNT(scripts); i++) syi_text_printf(&t, "|(?:(?![ \\x{30FC}])\\p{sc:%s}(?1)*+)++", scripts[i]);
    sy_status st = t.failed ? SY_E_MEMORY : syi_regex_new(l->ctx, t.s, t.len, false, path, &s->regex);
    syi_text_free(&t);
    s->behavior = SYI_REMOVED;
    s->invert = true;
    return st;
}

static sy_status parse_delimiter(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    return syi_want_char(l, j, path, "delimiter", &s->cp);
}

static sy_status split_delimiter(syi_encoder *e, const syi_stage *s, int at, const syi_piece *in)
{
    return split_chars(e, is_equal, s->cp, SYI_REMOVED, at, in);
}

/* \w+|[^\w\s]+ : runs of word characters and runs of other ones. */
static sy_status split_words(syi_encoder *e, const syi_stage *s, int at, const syi_piece *in)
{
    (void)s;
    int64_t begin = 0;
    int kind = 0; /* 0 space, 1 word, 2 other */
    for (int64_t i = 0; i <= in->n;) {
        uint32_t cp;
        int k = syi_utf8_decode(in->s + i, in->n - i, &cp), now = 0;
        if (i < in->n) now = k == 0 ? 2 : syi_is_word(cp) ? 1 : syi_is_space(cp) ? 0 : 2;
        if (i == in->n || now != kind) {
            if (kind != 0 && i > begin) {
                syi_piece p = syi_piece_cut(in, begin, i);
                SYI_TRY(syi_encode_piece(e, at + 1, &p));
            }
            begin = i;
            kind = now;
        }
        i += k > 0 ? k : 1;
    }
    return SY_OK;
}

/* -- Metaspace ------------------------------------------------------------------------ */

static sy_status parse_metaspace(syi_load *l, const json_t *j, const char *path, syi_stage *s)
{
    char *scheme = NULL;
    uint8_t utf8[4];
    SYI_TRY(syi_want_char(l, j, path, "replacement", &s->cp));
    SYI_TRY(syi_want_string(l, j, path, "prepend_scheme", "always", &scheme, NULL));
    s->scheme = strcmp(scheme, "always") == 0 ? SYI_PREPEND_ALWAYS : strcmp(scheme, "first") == 0 ? SYI_PREPEND_FIRST : SYI_PREPEND_NEVER;
    bool known = s->scheme != SYI_PREPEND_NEVER || strcmp(scheme, "never") == 0;
    syi_free(l->ctx, scheme);
    if (!known) return syi_fail(l->ctx, SY_E_UNSUPPORTED, "%s: %s.prepend_scheme: expected always, first or never", l->where, path);
    if (json_is_false(json_object_get(j, "add_prefix_space"))) s->scheme = SYI_PREPEND_NEVER; /* older files */
    SYI_TRY(syi_want_bool(l, j, path, "split", 1, &s->split));
    s->text_len = syi_utf8_encode(s->cp, utf8);
    s->text = syi_strndup(l->ctx, (const char *)utf8, (size_t)s->text_len);
    return s->text == NULL ? SY_E_MEMORY : SY_OK;
}

static sy_status split_metaspace(syi_encoder *e, const syi_stage *s, int at, const syi_piece *in)
{
    syi_buffer *b = &e->rewrite[at];
    const uint8_t *text = (const uint8_t *)s->text;
    uint32_t cp;
    b->n = 0;
    bool there = in->s[0] == ' ' || (syi_utf8_decode(in->s, in->n, &cp) > 0 && cp == s->cp);
    bool first = in->base + syi_piece_span(in, 0).begin == 0;
    if (!there && (s->scheme == SYI_PREPEND_ALWAYS || (s->scheme == SYI_PREPEND_FIRST && first)))
        SYI_TRY(syi_buffer_add(e->ctx, b, text, s->text_len, syi_piece_span(in, 0)));
    for (int64_t i = 0; i < in->n;) {
        const uint8_t *space = memchr(in->s + i, ' ', (size_t)(in->n - i));
        int64_t stop = space ? space - in->s : in->n;
        syi_piece part = syi_piece_cut(in, i, stop);
        /* Parts of an unmapped piece move their base; the map counts from in's. */
        if (in->map == NULL) {
            for (int64_t k = 0, size; k < part.n; k += size) {
                int c = syi_utf8_decode(part.s + k, part.n - k, &cp);
                size = c > 0 ? c : 1;
                SYI_TRY(syi_buffer_add(e->ctx, b, part.s + k, size, (syi_span){(int32_t)(i + k), (int32_t)(i + k + size)}));
            }
        } else {
            SYI_TRY(syi_buffer_copy(e->ctx, b, &part));
        }
        if (space) SYI_TRY(syi_buffer_add(e->ctx, b, text, s->text_len, syi_piece_span(in, stop)));
        i = stop + 1;
    }
    syi_piece p = {b->s, b->n, b->map, in->base};
    if (s->split) return split_chars(e, is_equal, s->cp, SYI_MERGED_NEXT, at, &p);
    return syi_encode_piece(e, at + 1, &p);
}

const syi_component syi_pretokenizers[] = {
    {"ByteLevel", parse_byte_level, {.split = split_byte_level}},
    {"Split", parse_split, {.split = split_split}},
    {"Digits", parse_digits, {.split = split_digits}},
    {"Punctuation", parse_punctuation, {.split = split_punctuation}},
    {"Whitespace", parse_nothing, {.split = split_words}},
    {"WhitespaceSplit", parse_nothing, {.split = split_whitespace}},
    {"CharDelimiterSplit", parse_delimiter, {.split = split_delimiter}},
    {"Metaspace", parse_metaspace, {.split = split_metaspace}},
    {"BertPreTokenizer", parse_nothing, {.split = split_bert}},
    {"UnicodeScripts", parse_scripts, {.split = split_split}},
    {"FixedLength", parse_length, {.split = split_length}},
    {NULL, NULL, {.split = NULL}},
};
