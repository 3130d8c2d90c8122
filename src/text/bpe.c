/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-pair encoding. A piece begins as its characters (or bytes); the adjacent
 * pair with the lowest rank, leftmost first, is merged until none is left. Short
 * pieces do that by scanning, long ones with a heap: n log n at worst. */
#include "text.h"

enum { SHORT = 48, FIX_MAX = 64, PIECE_MAX = 1 << 26, MERGES_MAX = 1 << 24 };

/* -- loading ------------------------------------------------------------------- */

static uint64_t hash_pair(uint64_t key)
{
    key *= 0x9E3779B97F4A7C15u;
    return key ^ key >> 29;
}

static const syi_merge *merge_of(const syi_bpe *m, int32_t a, int32_t b)
{
    uint64_t key = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    for (uint64_t i = hash_pair(key) & m->mask;; i = (i + 1) & m->mask) {
        const syi_merge *x = &m->merge[i];
        if (x->key == key) return x;
        if (x->key == UINT64_MAX) return NULL;
    }
}

static bool find_id(const sy_tokenizer *t, const char *s, size_t n, int32_t *id)
{
    int64_t v;
    if (!syi_map_get(t->ids, s, n, &v)) return false;
    *id = (int32_t)v;
    return true;
}

/* Both parts of merges[i]: a pair, or one text with a space in it. */
static bool merge_parts(const json_t *j, const char *part[2], size_t len[2])
{
    if (json_is_array(j)) {
        if (json_array_size(j) != 2) return false;
        for (size_t k = 0; k < 2; k++) {
            part[k] = json_string_value(json_array_get(j, k));
            if (part[k] == NULL) return false;
            len[k] = json_string_length(json_array_get(j, k));
        }
        return true;
    }
    const char *s = json_string_value(j);
    if (s == NULL) return false;
    size_t n = json_string_length(j);
    const char *space = memchr(s, ' ', n);
    if (space == NULL || memchr(space + 1, ' ', n - (size_t)(space + 1 - s)) != NULL) return false;
    part[0] = s;
    len[0] = (size_t)(space - s);
    part[1] = space + 1;
    len[1] = n - len[0] - 1;
    return true;
}

static sy_status add_merge(syi_load *l, size_t i, int32_t rank, const json_t *j, syi_text *whole)
{
    syi_bpe *m = &l->t->bpe;
    const char *part[2];
    size_t len[2];
    int32_t id[3];
    if (!merge_parts(j, part, len))
        return syi_fail(l->ctx, SY_E_INPUT, "%s: model.merges[%zu]: expected a pair of tokens or one text \"a b\"", l->where, i);
    for (int k = 0; k < 2; k++)
        if (!find_id(l->t, part[k], len[k], &id[k]))
            return syi_fail(l->ctx, SY_E_INPUT, "%s: model.merges[%zu] uses '%.*s', which is not in model.vocab", l->where, i,
                            (int)syi_min((int64_t)len[k], 60), part[k]);
    size_t skip = len[1] < (size_t)m->prefix_len ? len[1] : (size_t)m->prefix_len;
    whole->len = 0;
    syi_text_add(whole, part[0], len[0]);
    syi_text_add(whole, part[1] + skip, len[1] - skip);
    if (whole->failed) return SY_E_MEMORY;
    if (!find_id(l->t, whole->s, whole->len, &id[2]))
        return syi_fail(l->ctx, SY_E_INPUT, "%s: model.merges[%zu] makes '%.60s', which is not in model.vocab", l->where, i, whole->s);
    uint64_t key = (uint64_t)(uint32_t)id[0] << 32 | (uint32_t)id[1], at = hash_pair(key) & m->mask;
    while (m->merge[at].key != UINT64_MAX && m->merge[at].key != key) at = (at + 1) & m->mask;
    m->merge[at] = (syi_merge){key, rank, id[2]}; /* of equal pairs the last counts */
    return SY_OK;
}

static sy_status parse_merges(syi_load *l, const json_t *merges)
{
    syi_bpe *m = &l->t->bpe;
    if (!json_is_array(merges) || json_array_size(merges) > MERGES_MAX)
        return syi_fail(l->ctx, SY_E_INPUT, "%s: model.merges: expected an array of at most %d pairs", l->where, MERGES_MAX);
    size_t n = json_array_size(merges), slots = 16;
    while (slots < 2 * n) slots *= 2;
    m->merge = syi_alloc(l->ctx, slots * sizeof *m->merge);
    if (m->merge == NULL) return SY_E_MEMORY;
    for (size_t i = 0; i < slots; i++) m->merge[i] = (syi_merge){UINT64_MAX, 0, 0};
    m->mask = slots - 1;
    syi_text whole;
    syi_text_init(&whole, l->ctx, 1 << 24);
    sy_status st = SY_OK;
    int32_t rank = 0;
    for (size_t i = 0; i < n && st == SY_OK; i++) {
        const json_t *j = json_array_get(merges, i);
        if (json_is_string(j) && syi_starts(json_string_value(j), "#version")) continue;
        st = add_merge(l, i, rank++, j, &whole);
    }
    syi_text_free(&whole);
    return st;
}

static sy_status parse_vocab(syi_load *l, const json_t *vocab)
{
    if (!json_is_object(vocab))
        return syi_fail(l->ctx, SY_E_INPUT, "%s: model.vocab: expected an object of token: id", l->where);
    const char *key;
    size_t len;
    json_t *v;
    json_object_keylen_foreach((json_t *)(uintptr_t)vocab, key, len, v)
    {
        if (!json_is_integer(v))
            return syi_fail(l->ctx, SY_E_INPUT, "%s: model.vocab['%.60s']: expected an id", l->where, key);
        SYI_TRY(syi_tokenizer_add_entry(l, key, len, json_integer_value(v)));
    }
    return SY_OK;
}

/* prefix and suffix: NULL if absent or empty. */
static sy_status parse_fix(syi_load *l, const json_t *model, const char *key, char **out, int64_t *len)
{
    const json_t *j = json_object_get(model, key);
    if (j == NULL || json_is_null(j) || (json_is_string(j) && json_string_length(j) == 0)) return SY_OK;
    if (!json_is_string(j) || json_string_length(j) > FIX_MAX)
        return syi_fail(l->ctx, SY_E_INPUT, "%s: model.%s: expected a text of at most %d bytes", l->where, key, FIX_MAX);
    *len = (int64_t)json_string_length(j);
    *out = syi_strdup(l->ctx, json_string_value(j));
    return *out == NULL ? SY_E_MEMORY : SY_OK;
}

/* What a byte-level model needs: the id of each byte, and with ignore_merges
 * the tokens by their bytes. */
static sy_status byte_tables(syi_load *l)
{
    sy_tokenizer *t = l->t;
    syi_bpe *m = &t->bpe;
    m->bytewise = m->prefix == NULL && m->suffix == NULL;
    for (int b = 0; b < 256; b++) {
        uint8_t utf8[4];
        int k = syi_utf8_encode(syi_byte_char((uint8_t)b), utf8);
        if (!find_id(t, (const char *)utf8, (size_t)k, &m->byte[b])) {
            m->byte[b] = -1; /* some vocabularies lack bytes that UTF-8 never or hardly has */
        }
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", b);
        if (!find_id(t, name, 6, &m->fallback[b])) m->fallback[b] = -1;
    }
    if (!m->ignore_merges || !t->byte_level) return SY_OK;
    SYI_TRY(syi_map_new(l->ctx, &m->raw));
    syi_text raw;
    syi_text_init(&raw, l->ctx, 1 << 24);
    sy_status st = SY_OK;
    for (int64_t id = 0; id < t->size && st == SY_OK; id++) {
        if (t->entry[id].at < 0) continue;
        const uint8_t *s = (const uint8_t *)t->pool + t->entry[id].at;
        raw.len = 0;
        bool whole = t->entry[id].len > 0;
        for (int64_t i = 0; i < t->entry[id].len && whole;) {
            uint32_t cp = 0;
            int k = syi_utf8_decode(s + i, t->entry[id].len - i, &cp), byte = k > 0 ? syi_char_byte(cp) : -1;
            char c = (char)byte;
            whole = byte >= 0;
            syi_text_add(&raw, &c, 1);
            i += k;
        }
        if (whole && !raw.failed) st = syi_map_set(m->raw, raw.s, raw.len, id);
        if (raw.failed) st = SY_E_MEMORY;
    }
    syi_text_free(&raw);
    return st;
}

sy_status syi_bpe_parse(syi_load *l, const json_t *model)
{
    syi_bpe *m = &l->t->bpe;
    m->unk = -1;
    SYI_TRY(parse_fix(l, model, "continuing_subword_prefix", &m->prefix, &m->prefix_len));
    SYI_TRY(parse_fix(l, model, "end_of_word_suffix", &m->suffix, &m->suffix_len));
    SYI_TRY(syi_want_bool(l, model, "model", "byte_fallback", 0, &m->byte_fallback));
    SYI_TRY(syi_want_bool(l, model, "model", "fuse_unk", 0, &m->fuse_unk));
    SYI_TRY(syi_want_bool(l, model, "model", "ignore_merges", 0, &m->ignore_merges));
    SYI_TRY(parse_vocab(l, json_object_get(model, "vocab")));
    SYI_TRY(parse_merges(l, json_object_get(model, "merges")));
    const json_t *unk = json_object_get(model, "unk_token");
    if (json_is_string(unk) && !find_id(l->t, json_string_value(unk), json_string_length(unk), &m->unk))
        syi_log(l->ctx, SY_LOG_WARN, "%s: model.unk_token '%s' is not in model.vocab: unknown characters are left out", l->where,
                json_string_value(unk));
    const json_t *dropout = json_object_get(model, "dropout");
    if (json_is_number(dropout) && json_number_value(dropout) != 0)
        syi_log(l->ctx, SY_LOG_INFO, "%s: model.dropout is not used: the same text always gives the same tokens", l->where);
    return byte_tables(l);
}

void syi_bpe_free(sy_context *ctx, syi_bpe *m)
{
    syi_free(ctx, m->merge);
    syi_map_free(m->raw);
    syi_free(ctx, m->prefix);
    syi_free(ctx, m->suffix);
}

/* -- merging ---------------------------------------------------------------------- */

/* In place on at most SHORT ids; lens, if given, adds up along. Returns how many
 * are left. */
static int merge_short(const syi_bpe *m, int32_t *id, int32_t *len, int n)
{
    int32_t rank[SHORT], made[SHORT];
    for (int i = 0; i + 1 < n; i++) {
        const syi_merge *x = merge_of(m, id[i], id[i + 1]);
        rank[i] = x ? x->rank : INT32_MAX;
        made[i] = x ? x->id : 0;
    }
    while (n > 1) {
        int best = 0;
        for (int i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == INT32_MAX) break;
        id[best] = made[best];
        if (len) len[best] += len[best + 1];
        n--;
        for (int i = best + 1; i < n; i++) {
            id[i] = id[i + 1];
            if (len) len[i] = len[i + 1];
        }
        for (int i = best + 1; i + 1 < n; i++) {
            rank[i] = rank[i + 1];
            made[i] = made[i + 1];
        }
        for (int i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const syi_merge *x = merge_of(m, id[i], id[i + 1]);
            rank[i] = x ? x->rank : INT32_MAX;
            made[i] = x ? x->id : 0;
        }
    }
    return n;
}

static void sift_down(syi_candidate *h, int64_t n, int64_t i)
{
    syi_candidate x = h[i];
    for (int64_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && h[c + 1].order < h[c].order) c++;
        if (x.order <= h[c].order) break;
        h[i] = h[c];
    }
    h[i] = x;
}

static sy_status offer(syi_encoder *e, const syi_bpe *m, int64_t *n, int32_t at)
{
    const syi_symbol *s = e->symbol;
    if (s[at].next < 0) return SY_OK;
    const syi_merge *x = merge_of(m, s[at].id, s[s[at].next].id);
    if (x == NULL) return SY_OK;
    void *p = e->heap;
    sy_status st = syi_grow(e->ctx, &p, &e->cap_heap, *n + 1, sizeof *e->heap, INT32_MAX);
    e->heap = p;
    if (st != SY_OK) return st;
    int64_t i = (*n)++;
    uint64_t order = (uint64_t)(uint32_t)x->rank << 32 | (uint32_t)at;
    for (; i > 0 && e->heap[(i - 1) / 2].order > order; i = (i - 1) / 2) e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = (syi_candidate){order, x->id, at};
    return SY_OK;
}

/* On e->symbol[0..n), linked; merged ones have length 0 after. */
static sy_status merge_long(syi_encoder *e, const syi_bpe *m, int64_t count)
{
    int64_t n = 0;
    syi_symbol *s = e->symbol;
    for (int64_t i = 0; i + 1 < count; i++) SYI_TRY(offer(e, m, &n, (int32_t)i));
    while (n > 0) {
        syi_candidate top = e->heap[0];
        e->heap[0] = e->heap[--n];
        if (n > 0) sift_down(e->heap, n, 0);
        syi_symbol *a = &s[top.at];
        if (a->len == 0 || a->next < 0) continue;
        syi_symbol *b = &s[a->next];
        const syi_merge *x = merge_of(m, a->id, b->id);
        if (x == NULL || x->id != top.id) continue; /* made from what is no longer there */
        a->id = top.id;
        a->len += b->len;
        b->len = 0;
        a->next = b->next;
        if (a->next >= 0) s[a->next].prev = top.at;
        if (a->prev >= 0) SYI_TRY(offer(e, m, &n, a->prev));
        SYI_TRY(offer(e, m, &n, top.at));
    }
    return SY_OK;
}

static sy_status symbols(syi_encoder *e, int64_t n)
{
    void *p = e->symbol;
    sy_status st = syi_grow(e->ctx, &p, &e->cap_symbol, n, sizeof *e->symbol, INT32_MAX);
    e->symbol = p;
    return st;
}

/* e->symbol[0..n) with id and len set: links, merges, emits; `at` bytes at the
 * beginning of the piece belong to none. */
static sy_status merge_and_emit(syi_encoder *e, const syi_bpe *m, int64_t n, int64_t at, const syi_piece *p)
{
    for (int64_t i = 0; i < n; i++) {
        e->symbol[i].prev = (int32_t)i - 1;
        e->symbol[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
    }
    SYI_TRY(merge_long(e, m, n));
    for (int64_t i = 0; i < n; i++) {
        if (e->symbol[i].len == 0) continue;
        SYI_TRY(syi_emit(e, e->symbol[i].id, p, at, at + e->symbol[i].len));
        at += e->symbol[i].len;
    }
    return SY_OK;
}

/* -- the plain byte-level case ------------------------------------------------------ */

static sy_status run_characters(syi_encoder *e, const syi_bpe *m, const syi_piece *p);

static sy_status run_bytes(syi_encoder *e, const syi_bpe *m, const syi_piece *p)
{
    int64_t n = p->n;
    if (n == 1 && m->byte[p->s[0]] >= 0) return syi_emit_many(e, &m->byte[p->s[0]], 1, p);
    syi_cached *c = NULL;
    if (n <= SYI_CACHE_KEY) {
        c = &e->cache[syi_hash64(p->s, (size_t)n, 0) & (uint64_t)(e->cache_slots - 1)];
        if (c->len == n && memcmp(c->key, p->s, (size_t)n) == 0) return syi_emit_many(e, c->id, c->n, p);
    }
    for (int64_t i = 0; i < n; i++)
        if (m->byte[p->s[i]] < 0) return run_characters(e, m, p);
    int32_t id[SHORT];
    int64_t whole;
    int k = 0;
    if (m->raw != NULL && syi_map_get(m->raw, (const char *)p->s, (size_t)n, &whole)) {
        id[0] = (int32_t)whole;
        k = 1;
    } else if (n <= SHORT) {
        for (int64_t i = 0; i < n; i++) id[i] = m->byte[p->s[i]];
        k = merge_short(m, id, NULL, (int)n);
    } else {
        SYI_TRY(symbols(e, n));
        for (int64_t i = 0; i < n; i++) e->symbol[i] = (syi_symbol){.id = m->byte[p->s[i]], .len = 1};
        return merge_and_emit(e, m, n, 0, p);
    }
    if (c != NULL && k <= SYI_CACHE_IDS) {
        c->len = (uint8_t)n;
        c->n = (uint8_t)k;
        memcpy(c->key, p->s, (size_t)n);
        memcpy(c->id, id, (size_t)k * sizeof *id);
    }
    return syi_emit_many(e, id, k, p);
}

/* -- the general case ----------------------------------------------------------------- */

typedef struct { int64_t n, skipped; int32_t unk, unk_len; } builder;

static void put(syi_encoder *e, builder *b, int32_t id, int64_t len)
{
    e->symbol[b->n++] = (syi_symbol){.id = id, .len = (int32_t)len};
}

static void flush_unknown(syi_encoder *e, builder *b)
{
    if (b->unk_len > 0) put(e, b, b->unk, b->unk_len);
    b->unk_len = 0;
}

/* One character of the piece (`size` bytes of it) as ids. */
static void put_character(syi_encoder *e, const syi_bpe *m, builder *b, const uint8_t *s, int size, bool first, bool last)
{
    char name[2 * FIX_MAX + 8];
    int64_t n = 0;
    int32_t id;
    if (!first && m->prefix) memcpy(name, m->prefix, (size_t)m->prefix_len), n = m->prefix_len;
    if (e->t->byte_level) n += syi_utf8_encode(syi_byte_char(s[0]), (uint8_t *)name + n);
    else memcpy(name + n, s, (size_t)size), n += size;
    if (last && m->suffix) memcpy(name + n, m->suffix, (size_t)m->suffix_len), n += m->suffix_len;
    if (find_id(e->t, name, (size_t)n, &id)) {
        flush_unknown(e, b);
        put(e, b, id, size);
        return;
    }
    bool whole = m->byte_fallback && m->prefix == NULL && m->suffix == NULL && !e->t->byte_level;
    for (int i = 0; i < size && whole; i++) whole = m->fallback[s[i]] >= 0;
    if (whole) {
        flush_unknown(e, b);
        for (int i = 0; i < size; i++) put(e, b, m->fallback[s[i]], 1);
        return;
    }
    if (m->unk < 0) { /* left out; its bytes go to the token before, if there is one */
        if (b->n > 0) e->symbol[b->n - 1].len += size;
        else b->skipped += size;
        return;
    }
    if (!m->fuse_unk) flush_unknown(e, b);
    b->unk = m->unk;
    b->unk_len += size;
}

static sy_status run_characters(syi_encoder *e, const syi_bpe *m, const syi_piece *p)
{
    if (m->ignore_merges) {
        int32_t id;
        int64_t whole;
        if (!e->t->byte_level && find_id(e->t, (const char *)p->s, (size_t)p->n, &id)) return syi_emit(e, id, p, 0, p->n);
        if (e->t->byte_level && syi_map_get(m->raw, (const char *)p->s, (size_t)p->n, &whole))
            return syi_emit(e, (int32_t)whole, p, 0, p->n);
    }
    SYI_TRY(symbols(e, p->n));
    builder b = {0};
    for (int64_t i = 0; i < p->n;) {
        uint32_t cp;
        int k = e->t->byte_level ? 1 : syi_utf8_decode(p->s + i, p->n - i, &cp);
        if (k == 0) k = 1;
        put_character(e, m, &b, p->s + i, k, i == 0, i + k == p->n);
        i += k;
    }
    flush_unknown(e, &b);
    return merge_and_emit(e, m, b.n, b.skipped, p);
}

sy_status syi_bpe_run(syi_encoder *e, const syi_piece *p)
{
    const syi_bpe *m = &e->t->bpe;
    if (p->n > PIECE_MAX)
        return syi_fail(e->ctx, SY_E_INPUT, "a word of %lld bytes; the pre-tokenizer leaves at most %d together here",
                        (long long)p->n, PIECE_MAX);
    return m->bytewise && e->t->byte_level ? run_bytes(e, m, p) : run_characters(e, m, p);
}
