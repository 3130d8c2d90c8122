/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder: takes a text through added tokens, normalizers, pre-tokenizers,
 * the model and post-processors. Everything it writes on is its own, so any
 * number of encoders share one tokenizer. */
#include "text.h"

enum { PIECE_MAX = 1 << 26, FLUSH = 1 << 18 };

/* -- buffers ------------------------------------------------------------------ */

static sy_status buffer_room(sy_context *ctx, syi_buffer *b, int64_t n)
{
    void *s = b->s, *map = b->map;
    sy_status st = syi_grow(ctx, &s, &b->cap_s, b->n + n, 1, INT32_MAX);
    b->s = s;
    if (st == SY_OK) st = syi_grow(ctx, &map, &b->cap_map, b->n + n, sizeof *b->map, INT32_MAX);
    b->map = map;
    return st;
}

sy_status syi_buffer_add(sy_context *ctx, syi_buffer *b, const uint8_t *s, int64_t n, syi_span span)
{
    if (b->n + n > b->cap_s || b->n + n > b->cap_map) SYI_TRY(buffer_room(ctx, b, n));
    for (int64_t i = 0; i < n; i++) {
        b->s[b->n + i] = s[i];
        b->map[b->n + i] = span;
    }
    b->n += n;
    return SY_OK;
}

syi_span syi_piece_span(const syi_piece *p, int64_t i)
{
    if (p->map != NULL) return p->map[i];
    int64_t begin, end;
    syi_utf8_cover(p->s, p->n, i, &begin, &end);
    return (syi_span){(int32_t)begin, (int32_t)end};
}

sy_status syi_buffer_copy(sy_context *ctx, syi_buffer *b, const syi_piece *p)
{
    SYI_TRY(buffer_room(ctx, b, p->n));
    if (p->n == 0) return SY_OK;
    memcpy(b->s + b->n, p->s, (size_t)p->n);
    if (p->map != NULL) {
        memcpy(b->map + b->n, p->map, (size_t)p->n * sizeof *p->map);
    } else {
        for (int64_t i = 0; i < p->n;) {
            uint32_t cp;
            int k = syi_utf8_decode(p->s + i, p->n - i, &cp);
            int64_t end = i + (k > 0 ? k : 1);
            for (int64_t c = i; c < end; c++) b->map[b->n + c] = (syi_span){(int32_t)i, (int32_t)end};
            i = end;
        }
    }
    b->n += p->n;
    return SY_OK;
}

sy_status syi_buffer_part(sy_context *ctx, syi_buffer *b, const syi_piece *in, int64_t from, int64_t to)
{
    int64_t at = b->n;
    syi_piece part = syi_piece_cut(in, from, to);
    SYI_TRY(syi_buffer_copy(ctx, b, &part));
    if (in->map == NULL)
        for (int64_t i = at; i < b->n; i++) {
            b->map[i].begin += (int32_t)from;
            b->map[i].end += (int32_t)from;
        }
    return SY_OK;
}

void syi_buffer_free(sy_context *ctx, syi_buffer *b)
{
    syi_free(ctx, b->s);
    syi_free(ctx, b->map);
    *b = (syi_buffer){0};
}

/* -- life ------------------------------------------------------------------------ */

sy_status syi_encoder_new(sy_context *ctx, const sy_tokenizer *t, syi_encoder **out)
{
    syi_encoder *e = *out = syi_calloc(ctx, 1, sizeof *e);
    if (e == NULL) return SY_E_MEMORY;
    e->ctx = ctx;
    e->t = t;
    sy_status st = syi_matcher_new(ctx, &e->matcher);
    if (st != SY_OK) {
        syi_encoder_free(e);
        *out = NULL;
    }
    return st;
}

void syi_encoder_free(syi_encoder *e)
{
    if (e == NULL) return;
    sy_context *ctx = e->ctx;
    syi_matcher_free(e->matcher);
    for (int i = 0; i < 2; i++) syi_buffer_free(ctx, &e->buffer[i]);
    for (int i = 0; i < SYI_MAX_STAGES; i++) syi_buffer_free(ctx, &e->rewrite[i]);
    syi_free(ctx, e->id);
    syi_free(ctx, e->begin);
    syi_free(ctx, e->end);
    syi_free(ctx, e->cache);
    syi_free(ctx, e->made);
    syi_free(ctx, e->work);
    syi_free(ctx, e->symbol);
    syi_free(ctx, e->queue.pool);
    syi_free(ctx, e->queue.head);
    syi_free(ctx, e->queue.tail);
    syi_free(ctx, e->queue.heap);
    syi_free(ctx, e->queue.turn);
    syi_free(ctx, e);
}

/* -- output ------------------------------------------------------------------------ */

sy_status syi_encoder_room(syi_encoder *e, int64_t more)
{
    if (e->n + more <= e->cap_id && (!e->offsets || (e->n + more <= e->cap_begin && e->n + more <= e->cap_end))) return SY_OK;
    const int64_t max = INT64_MAX / 16;
    void *p = e->id;
    sy_status st = syi_grow(e->ctx, &p, &e->cap_id, e->n + more, sizeof *e->id, max);
    e->id = p;
    if (!e->offsets) return st;
    if (st == SY_OK) {
        p = e->begin;
        st = syi_grow(e->ctx, &p, &e->cap_begin, e->n + more, sizeof *e->begin, max);
        e->begin = p;
    }
    if (st == SY_OK) {
        p = e->end;
        st = syi_grow(e->ctx, &p, &e->cap_end, e->n + more, sizeof *e->end, max);
        e->end = p;
    }
    return st;
}

/* Offsets are those of whole characters: a token that holds part of a character
 * covers it. */
static void place(const syi_encoder *e, const syi_piece *p, int64_t begin, int64_t end, int64_t at)
{
    int64_t b, f, unused;
    if (p->map != NULL) {
        b = p->base + p->map[begin].begin;
        f = p->base + p->map[end - 1].end;
    } else {
        b = p->base + begin;
        f = p->base + end;
        if ((e->text[b] & 0xC0) == 0x80) syi_utf8_cover(e->text, e->len, b, &b, &unused);
        if (f < e->len && (e->text[f] & 0xC0) == 0x80) syi_utf8_cover(e->text, e->len, f - 1, &unused, &f);
    }
    e->begin[at] = b;
    e->end[at] = f;
}

static sy_status emit(syi_encoder *e, int32_t id, const syi_piece *p, int64_t begin, int64_t end)
{
    SYI_TRY(syi_encoder_room(e, 1));
    e->id[e->n] = id;
    if (e->offsets) place(e, p, begin, end, e->n);
    e->n++;
    return SY_OK;
}

/* -- the model --------------------------------------------------------------------- */

sy_status syi_out(syi_encoder *e, int32_t id, int64_t begin, int64_t end)
{
    if (e->n_made == e->cap_made) {
        void *p = e->made;
        sy_status st = syi_grow(e->ctx, &p, &e->cap_made, e->n_made + 1, sizeof *e->made, INT64_MAX / 32);
        e->made = p;
        if (st != SY_OK) return st;
    }
    e->made[e->n_made++] = (syi_made){id, (int32_t)begin, (int32_t)end};
    return SY_OK;
}

sy_status syi_no_unk(syi_encoder *e, const uint8_t *s, int64_t n)
{
    return syi_fail(e->ctx, SY_E_INPUT, "'%.*s' has no token, and the tokenizer has no token for the unknown (model.unk_token)",
                    (int)syi_min(n, 60), (const char *)s);
}

static sy_status emit_cached(syi_encoder *e, const syi_cached *c, const syi_piece *p)
{
    SYI_TRY(syi_encoder_room(e, SYI_CACHE_IDS));
    for (int i = 0; i < SYI_CACHE_IDS; i++) e->id[e->n + i] = c->id[i];
    if (e->offsets)
        for (int64_t i = 0, at = 0; i < c->n; at += c->size[i++]) place(e, p, at, at + c->size[i], e->n + i);
    e->n += c->n;
    return SY_OK;
}

/* Remembers what the model made if its tokens cover the piece one after another. */
static void remember(const syi_encoder *e, syi_cached *c, const uint8_t *s, int64_t n)
{
    int64_t at = 0, i = 0;
    if (e->n_made > SYI_CACHE_IDS) return;
    for (; i < e->n_made && e->made[i].begin == at; i++) at = e->made[i].end;
    if (at != n || i != e->n_made) return;
    c->len = (uint8_t)n;
    c->n = (uint8_t)e->n_made;
    memcpy(c->key, s, (size_t)n);
    for (i = 0; i < e->n_made; i++) {
        c->id[i] = e->made[i].id;
        c->size[i] = (uint8_t)(e->made[i].end - e->made[i].begin);
    }
}

static sy_status run_model(syi_encoder *e, const syi_piece *p)
{
    syi_cached *c = NULL;
    if (p->n <= SYI_CACHE_KEY) {
        c = &e->cache[syi_hash64(p->s, (size_t)p->n, 0) & (uint64_t)(e->cache_slots - 1)];
        if (c->len == p->n && memcmp(c->key, p->s, (size_t)p->n) == 0) return emit_cached(e, c, p);
    } else if (p->n > PIECE_MAX) {
        return syi_fail(e->ctx, SY_E_INPUT, "a word of %lld bytes; the pre-tokenizer leaves at most %d together here", (long long)p->n,
                        PIECE_MAX);
    }
    if (e->flush != NULL && e->n > FLUSH) {
        SYI_TRY(e->flush(e->flush_to, e->id, e->n));
        e->n = 0;
    }
    e->n_made = 0;
    SYI_TRY(e->t->model->run(e, e->t->state, p->s, p->n));
    if (c != NULL) remember(e, c, p->s, p->n);
    SYI_TRY(syi_encoder_room(e, e->n_made));
    for (int64_t i = 0; i < e->n_made; i++) {
        e->id[e->n + i] = e->made[i].id;
        if (e->offsets) place(e, p, e->made[i].begin, e->made[i].end, e->n + i);
    }
    e->n += e->n_made;
    return SY_OK;
}

/* Cut where that changes nothing: shorter words are quicker, and met again. */
static sy_status to_model(syi_encoder *e, const syi_piece *p)
{
    const syi_model *m = e->t->model;
    if (m->cut == NULL) return run_model(e, p);
    for (int64_t at = 0; at < p->n;) {
        int64_t end = m->cut(e->t->state, p->s, p->n, at);
        syi_piece part = syi_piece_cut(p, at, end);
        SYI_TRY(run_model(e, &part));
        at = end;
    }
    return SY_OK;
}

/* -- the way through -------------------------------------------------------------------- */

sy_status syi_encode_piece(syi_encoder *e, int at, const syi_piece *p)
{
    if (p->n == 0) return SY_OK;
    const syi_pipeline *line = &e->t->pretokenizer;
    if (at == line->n) return to_model(e, p);
    const syi_stage *s = &line->stage[at];
    return s->kind->run.split(e, s, at, p);
}

static int64_t spaces_before(const uint8_t *s, int64_t at)
{
    while (at > 0) {
        int64_t b, f;
        uint32_t cp;
        syi_utf8_cover(s, at, at - 1, &b, &f);
        if (syi_utf8_decode(s + b, f - b, &cp) == 0 || !syi_is_space(cp)) break;
        at = b;
    }
    return at;
}

static int64_t spaces_after(const uint8_t *s, int64_t n, int64_t at)
{
    uint32_t cp;
    for (int k; at < n && (k = syi_utf8_decode(s + at, n - at, &cp)) > 0 && syi_is_space(cp);) at += k;
    return at;
}

static bool word_touches(const uint8_t *s, int64_t n, int64_t begin, int64_t end)
{
    uint32_t cp;
    int64_t b, f;
    if (begin > 0) {
        syi_utf8_cover(s, begin, begin - 1, &b, &f);
        if (syi_utf8_decode(s + b, f - b, &cp) > 0 && syi_is_word(cp)) return true;
    }
    return syi_utf8_decode(s + end, n - end, &cp) > 0 && syi_is_word(cp);
}

/* Cuts the piece at added tokens; what lies between goes to `rest`. */
static sy_status cut(syi_encoder *e, const syi_trie *trie, bool special, const syi_piece *in,
                     sy_status (*rest)(syi_encoder *, bool, const syi_piece *))
{
    int64_t done = 0, from = 0, begin, end;
    int32_t which;
    while (trie != NULL && syi_trie_next(trie, in->s, in->n, from, &begin, &end, &which)) {
        const syi_added *a = &e->t->added[which];
        from = end;
        if (a->special && !special) continue;
        if (a->single_word && word_touches(in->s, in->n, begin, end)) continue;
        if (a->lstrip) begin = syi_max(spaces_before(in->s, begin), done);
        if (a->rstrip) from = end = spaces_after(in->s, in->n, end);
        if (begin > done) {
            syi_piece p = syi_piece_cut(in, done, begin);
            SYI_TRY(rest(e, special, &p));
        }
        SYI_TRY(emit(e, a->id, in, begin, end));
        done = end;
    }
    if (done < in->n) {
        syi_piece p = syi_piece_cut(in, done, in->n);
        SYI_TRY(rest(e, special, &p));
    }
    return SY_OK;
}

static sy_status to_pretokenizer(syi_encoder *e, bool special, const syi_piece *p)
{
    (void)special;
    return syi_encode_piece(e, 0, p);
}

static sy_status normalize(syi_encoder *e, bool special, const syi_piece *in)
{
    syi_piece p = *in;
    int next = 0;
    for (int i = 0; i < e->t->normalizer.n; i++) {
        const syi_stage *s = &e->t->normalizer.stage[i];
        syi_buffer *b = &e->buffer[next];
        bool changed = false;
        b->n = 0;
        SYI_TRY(s->kind->run.normalize(e, s, &p, b, &changed));
        if (!changed) continue;
        p = (syi_piece){b->s, b->n, b->map, p.base};
        next = !next;
        if (p.n == 0) return SY_OK;
    }
    return cut(e, e->t->normalized, special, &p, to_pretokenizer);
}

/* Grows with the bytes seen: a call on a short text must not clear a megabyte. */
static sy_status cache_for(syi_encoder *e, int64_t len)
{
    enum { LEAST = 128, MOST = 16384 };
    e->seen = e->seen > INT64_MAX - len ? INT64_MAX : e->seen + len;
    int64_t want = LEAST;
    while (want < MOST && want * 16 < e->seen) want *= 2;
    if (want <= e->cache_slots) return SY_OK;
    if (e->cache_slots > 0 && want < MOST && want < e->cache_slots * 8) return SY_OK; /* not too often */
    syi_free(e->ctx, e->cache);
    e->cache_slots = 0;
    e->cache = syi_calloc(e->ctx, (size_t)want, sizeof *e->cache);
    if (e->cache == NULL) return SY_E_MEMORY;
    e->cache_slots = want;
    return SY_OK;
}

/* What post-processors put before or after a text; the last of them is outermost. */
static sy_status add_around(syi_encoder *e, bool add, bool before)
{
    const syi_pipeline *p = &e->t->processor;
    for (int k = 0; add && k < p->n; k++) {
        const syi_stage *s = &p->stage[before ? p->n - 1 - k : k];
        int64_t n = before ? s->added.n_before : s->added.n_after;
        SYI_TRY(syi_encoder_room(e, n));
        for (int64_t i = 0; i < n; i++) e->id[e->n++] = before ? s->added.before[i] : s->added.after[i];
    }
    return SY_OK;
}

sy_status syi_encode(syi_encoder *e, const char *text, int64_t len, bool special, bool add, bool offsets, bool trim)
{
    const sy_tokenizer *t = e->t;
    e->text = (const uint8_t *)text;
    e->len = len;
    e->n = 0;
    e->offsets = offsets;
    e->valid = syi_utf8_valid(e->text, len);
    SYI_TRY(cache_for(e, len));
    SYI_TRY(syi_encoder_room(e, syi_min(len / 4 + 16, INT64_C(1) << 20)));
    syi_piece whole = {e->text, len, NULL, 0};
    if (e->flush != NULL) SYI_TRY(add_around(e, add, true));
    if (len > 0) SYI_TRY(cut(e, t->raw, special, &whole, normalize));
    if (e->flush != NULL) return add_around(e, add, false);
    for (int i = 0; i < t->processor.n; i++) {
        const syi_stage *s = &t->processor.stage[i];
        if (s->trim && !trim) continue;
        SYI_TRY(s->kind->run.process(e, s, add));
    }
    return SY_OK;
}
