/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-pair encoding. A piece begins as its characters (or bytes); the adjacent
 * pair with the lowest rank, leftmost first, is merged until none is left. Short
 * pieces do that by scanning, long ones rank by rank. */
#include "text.h"

#include <stdlib.h>

/* U+2581, which stands for a space before a word */
#define MARK "\xE2\x96\x81"
enum { MARK_LEN = 3, SHORT = 48, FIX_MAX = 64, MERGES_MAX = 1 << 24, GLUE_MAX = 16 };

typedef struct { uint64_t key; int32_t rank, id; } merge;
typedef struct {
    merge *merge;           /* open addressing                                       */
    uint64_t mask;
    int64_t ranks;
    syi_map *raw;           /* ignore_merges of a byte-level model: bytes -> id       */
    int32_t byte[256];      /* id of each byte alone; byte-level models               */
    int32_t fallback[256];  /* id of <0xNN>, or -1                                    */
    bool bytewise;          /* the plain byte-level case: bytes are symbols           */
    bool byte_fallback, fuse_unk, ignore_merges;
    int32_t unk;            /* -1: none                                              */
    char *prefix, *suffix;  /* NULL if empty                                         */
    int64_t prefix_len, suffix_len;
    bool cuts;              /* see cut()                                             */
    uint32_t glue[GLUE_MAX]; /* what no cut may follow                               */
    int glues;
} bpe;

/* -- loading ------------------------------------------------------------------- */

static uint64_t hash_pair(uint64_t key)
{
    key *= 0x9E3779B97F4A7C15u;
    return key ^ key >> 29;
}

static const merge *merge_of(const bpe *m, int32_t a, int32_t b)
{
    uint64_t key = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    for (uint64_t i = hash_pair(key) & m->mask;; i = (i + 1) & m->mask) {
        const merge *x = &m->merge[i];
        if (x->key == key) return x;
        if (x->key == UINT64_MAX) return NULL;
    }
}

/* Both parts of merges[i]: a pair, or one text with a space in it. */
/* "a b": cut at its only space. */
static bool merge_text(const char *s, size_t n, const char *part[2], size_t len[2])
{
    const char *space = memchr(s, ' ', n);
    if (space == NULL || memchr(space + 1, ' ', n - (size_t)(space + 1 - s)) != NULL) return false;
    part[0] = s;
    len[0] = (size_t)(space - s);
    part[1] = space + 1;
    len[1] = n - len[0] - 1;
    return true;
}

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
    return merge_text(s, json_string_length(j), part, len);
}

static sy_status add_merge(syi_load *l, bpe *m, size_t i, int32_t rank, const char *const part[2], const size_t len[2], syi_text *whole)
{
    int32_t id[3];
    for (int k = 0; k < 2; k++)
        if (!syi_find_id(l->t, part[k], len[k], &id[k]))
            return syi_fail(l->ctx, SY_E_INPUT, "%s: model.merges[%zu] uses '%.*s', which is not in model.vocab", l->where, i,
                            (int)syi_min((int64_t)len[k], 60), part[k]);
    size_t skip = len[1] < (size_t)m->prefix_len ? len[1] : (size_t)m->prefix_len;
    whole->len = 0;
    syi_text_add(whole, part[0], len[0]);
    syi_text_add(whole, part[1] + skip, len[1] - skip);
    if (whole->failed) return SY_E_MEMORY;
    if (!syi_find_id(l->t, whole->s, whole->len, &id[2]))
        return syi_fail(l->ctx, SY_E_INPUT, "%s: model.merges[%zu] makes '%.60s', which is not in model.vocab", l->where, i, whole->s);
    uint64_t key = (uint64_t)(uint32_t)id[0] << 32 | (uint32_t)id[1], at = hash_pair(key) & m->mask;
    while (m->merge[at].key != UINT64_MAX && m->merge[at].key != key) at = (at + 1) & m->mask;
    m->merge[at] = (merge){key, rank, id[2]}; /* of equal pairs the last counts */
    return SY_OK;
}

static sy_status merge_room(syi_load *l, bpe *m, size_t n)
{
    size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    m->merge = syi_alloc(l->ctx, slots * sizeof *m->merge);
    if (m->merge == NULL) return SY_E_MEMORY;
    for (size_t i = 0; i < slots; i++) m->merge[i] = (merge){UINT64_MAX, 0, 0};
    m->mask = slots - 1;
    return SY_OK;
}

/* The next of the list in the text, as two parts of `pair`. */
static bool scan_merge(syi_scan *s, syi_text *pair, const char *part[2], size_t len[2])
{
    pair->len = 0;
    if (!syi_scan_char(s, '['))
        return syi_scan_string(s, pair) && !syi_starts(pair->s, "#version") && merge_text(pair->s, pair->len, part, len);
    if (!syi_scan_string(s, pair)) return false;
    len[0] = pair->len;
    if (!syi_scan_char(s, ',') || !syi_scan_string(s, pair) || !syi_scan_char(s, ']')) return false;
    part[0] = pair->s;
    part[1] = pair->s + len[0];
    len[1] = pair->len - len[0];
    return true;
}

static sy_status scan_merges(syi_load *l, bpe *m)
{
    syi_scan s = l->parts->merges;
    syi_text whole, pair;
    sy_status st = SY_OK;
    const char *part[2];
    size_t len[2];
    if (l->parts->n_merges > MERGES_MAX) return syi_scan_odd(l);
    SYI_TRY(merge_room(l, m, (size_t)l->parts->n_merges));
    if (!syi_scan_char(&s, '[')) return syi_scan_odd(l);
    if (syi_scan_char(&s, ']')) return SY_OK;
    syi_text_init(&whole, l->ctx, 1 << 24);
    syi_text_init(&pair, l->ctx, 1 << 24);
    do {
        if (m->ranks >= l->parts->n_merges || !scan_merge(&s, &pair, part, len)) st = syi_scan_odd(l);
        else st = add_merge(l, m, (size_t)m->ranks, (int32_t)m->ranks, part, len, &whole);
        m->ranks++;
    } while (st == SY_OK && syi_scan_char(&s, ','));
    syi_text_free(&whole);
    syi_text_free(&pair);
    if (st == SY_OK && (!syi_scan_char(&s, ']') || s.at != s.end)) st = syi_scan_odd(l);
    return st;
}

static sy_status parse_merges(syi_load *l, bpe *m, const json_t *merges)
{
    if (l->parts != NULL && l->parts->has_merges) return scan_merges(l, m);
    if (!json_is_array(merges) || json_array_size(merges) > MERGES_MAX)
        return syi_fail(l->ctx, SY_E_INPUT, "%s: model.merges: expected an array of at most %d pairs", l->where, MERGES_MAX);
    const size_t n = json_array_size(merges);
    SYI_TRY(merge_room(l, m, n));
    syi_text whole;
    syi_text_init(&whole, l->ctx, 1 << 24);
    sy_status st = SY_OK;
    int32_t rank = 0;
    for (size_t i = 0; i < n && st == SY_OK; i++) {
        const json_t *j = json_array_get(merges, i);
        const char *part[2];
        size_t len[2];
        if (json_is_string(j) && syi_starts(json_string_value(j), "#version")) continue;
        if (merge_parts(j, part, len)) st = add_merge(l, m, i, rank++, part, len, &whole);
        else st = syi_fail(l->ctx, SY_E_INPUT, "%s: model.merges[%zu]: expected a pair of tokens or one text \"a b\"", l->where, i);
    }
    syi_text_free(&whole);
    m->ranks = rank;
    return st;
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
static sy_status byte_tables(syi_load *l, bpe *m)
{
    sy_tokenizer *t = l->t;
    m->bytewise = m->prefix == NULL && m->suffix == NULL;
    for (int b = 0; b < 256; b++) {
        uint8_t utf8[4];
        int k = syi_utf8_encode(syi_byte_char((uint8_t)b), utf8);
        if (!syi_find_id(t, (const char *)utf8, (size_t)k, &m->byte[b])) {
            m->byte[b] = -1; /* some vocabularies lack bytes that UTF-8 never or hardly has */
        }
    }
    syi_byte_tokens(t, m->fallback);
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

/* Which characters stand before the mark of a word's beginning inside of a merge:
 * few, or the text is never cut. */
static void find_glue(const sy_tokenizer *t, bpe *m)
{
    int32_t mark;
    m->cuts = !t->byte_level && !m->ignore_merges && m->prefix == NULL && m->suffix == NULL && syi_find_id(t, MARK, MARK_LEN, &mark);
    for (uint64_t i = 0; m->cuts && i <= m->mask; i++) {
        if (m->merge[i].key == UINT64_MAX) continue;
        const syi_entry *a = &t->entry[m->merge[i].key >> 32], *b = &t->entry[(uint32_t)m->merge[i].key];
        const uint8_t *left = (const uint8_t *)t->pool + a->at;
        if (b->len < MARK_LEN || memcmp(t->pool + b->at, MARK, MARK_LEN) != 0 || a->len == 0) continue;
        int64_t begin, end;
        uint32_t cp = 0;
        syi_utf8_cover(left, a->len, a->len - 1, &begin, &end);
        if (syi_utf8_decode(left + begin, a->len - begin, &cp) == 0) m->cuts = false;
        int k = 0;
        while (k < m->glues && m->glue[k] != cp) k++;
        if (k == GLUE_MAX) m->cuts = false;
        else if (k == m->glues) m->glue[m->glues++] = cp;
    }
}

static sy_status parse(syi_load *l, const json_t *model, void **state)
{
    bpe *m = *state = syi_calloc(l->ctx, 1, sizeof *m);
    if (m == NULL) return SY_E_MEMORY;
    m->unk = -1;
    SYI_TRY(parse_fix(l, model, "continuing_subword_prefix", &m->prefix, &m->prefix_len));
    SYI_TRY(parse_fix(l, model, "end_of_word_suffix", &m->suffix, &m->suffix_len));
    SYI_TRY(syi_want_bool(l, model, "model", "byte_fallback", 0, &m->byte_fallback));
    SYI_TRY(syi_want_bool(l, model, "model", "fuse_unk", 0, &m->fuse_unk));
    SYI_TRY(syi_want_bool(l, model, "model", "ignore_merges", 0, &m->ignore_merges));
    SYI_TRY(syi_vocab_object(l, json_object_get(model, "vocab")));
    SYI_TRY(parse_merges(l, m, json_object_get(model, "merges")));
    const json_t *unk = json_object_get(model, "unk_token");
    if (json_is_string(unk) && !syi_find_id(l->t, json_string_value(unk), json_string_length(unk), &m->unk))
        syi_log(l->ctx, SY_LOG_WARN, "%s: model.unk_token '%s' is not in model.vocab: unknown characters are left out", l->where,
                json_string_value(unk));
    const json_t *dropout = json_object_get(model, "dropout");
    if (json_is_number(dropout) && json_number_value(dropout) != 0)
        syi_log(l->ctx, SY_LOG_INFO, "%s: model.dropout is not used: the same text always gives the same tokens", l->where);
    find_glue(l->t, m);
    return byte_tables(l, m);
}

static void release(sy_context *ctx, void *state)
{
    bpe *m = state;
    if (m == NULL) return;
    syi_free(ctx, m->merge);
    syi_map_free(m->raw);
    syi_free(ctx, m->prefix);
    syi_free(ctx, m->suffix);
    syi_free(ctx, m);
}

/* -- merging ---------------------------------------------------------------------- */

/* In place on at most SHORT ids; lens, if given, adds up along. Returns how many
 * are left. */
static int merge_short(const bpe *m, int32_t *id, int32_t *len, int n)
{
    int32_t rank[SHORT], made[SHORT];
    for (int i = 0; i + 1 < n; i++) {
        const merge *x = merge_of(m, id[i], id[i + 1]);
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
            const merge *x = merge_of(m, id[i], id[i + 1]);
            rank[i] = x ? x->rank : INT32_MAX;
            made[i] = x ? x->id : 0;
        }
    }
    return n;
}

/* -- long words ------------------------------------------------------------------- */

static void heap_push(syi_queue *q, int32_t rank)
{
    int64_t i = q->n_heap++;
    for (; i > 0 && q->heap[(i - 1) / 2] > rank; i = (i - 1) / 2) q->heap[i] = q->heap[(i - 1) / 2];
    q->heap[i] = rank;
}

static void heap_pop(syi_queue *q)
{
    int32_t x = q->heap[--q->n_heap];
    int64_t i = 0;
    for (int64_t c; (c = 2 * i + 1) < q->n_heap; i = c) {
        if (c + 1 < q->n_heap && q->heap[c + 1] < q->heap[c]) c++;
        if (x <= q->heap[c]) break;
        q->heap[i] = q->heap[c];
    }
    q->heap[i] = x;
}

static sy_status queue_add(syi_encoder *e, int32_t rank, int32_t at)
{
    syi_queue *q = &e->queue;
    if (q->n == q->cap) {
        void *p = q->pool;
        sy_status st = syi_grow(e->ctx, &p, &q->cap, q->n + 1, sizeof *q->pool, INT32_MAX);
        q->pool = p;
        if (st != SY_OK) return st;
    }
    q->pool[q->n++] = (syi_candidate){at, 0};
    if (q->head[rank] != 0) {
        q->pool[q->tail[rank] - 1].next = (int32_t)q->n;
    } else {
        void *p = q->heap;
        sy_status st = syi_grow(e->ctx, &p, &q->cap_heap, q->n_heap + 1, sizeof *q->heap, INT32_MAX);
        q->heap = p;
        if (st != SY_OK) return st;
        heap_push(q, rank);
        q->head[rank] = (int32_t)q->n;
    }
    q->tail[rank] = (int32_t)q->n;
    return SY_OK;
}

static sy_status offer(syi_encoder *e, const bpe *m, int32_t at)
{
    const syi_symbol *s = e->symbol;
    if (s[at].next < 0) return SY_OK;
    const merge *x = merge_of(m, s[at].id, s[s[at].next].id);
    return x != NULL ? queue_add(e, x->rank, at) : SY_OK;
}

static int ascending(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Takes all candidates of the lowest rank, in the order of their places. */
static sy_status take_turn(syi_encoder *e, int32_t *rank, int64_t *n)
{
    syi_queue *q = &e->queue;
    bool sorted = true;
    *rank = q->heap[0];
    *n = 0;
    heap_pop(q);
    for (int32_t i = q->head[*rank]; i != 0; i = q->pool[i - 1].next) {
        if (*n == q->cap_turn) {
            void *p = q->turn;
            sy_status st = syi_grow(e->ctx, &p, &q->cap_turn, *n + 1, sizeof *q->turn, INT32_MAX);
            q->turn = p;
            if (st != SY_OK) return st;
        }
        q->turn[(*n)++] = q->pool[i - 1].at;
        sorted &= *n < 2 || q->turn[*n - 2] <= q->turn[*n - 1];
    }
    q->head[*rank] = 0;
    if (!sorted) qsort(q->turn, (size_t)*n, sizeof *q->turn, ascending);
    return SY_OK;
}

/* On e->symbol[0..n), linked; merged ones have length 0 after. */
static sy_status merge_all(syi_encoder *e, const bpe *m, int64_t count)
{
    syi_queue *q = &e->queue;
    syi_symbol *s = e->symbol;
    for (int64_t i = 0; i + 1 < count; i++) SYI_TRY(offer(e, m, (int32_t)i));
    while (q->n_heap > 0) {
        int32_t rank;
        int64_t n;
        SYI_TRY(take_turn(e, &rank, &n));
        for (int64_t i = 0; i < n; i++) {
            syi_symbol *a = &s[q->turn[i]];
            if (a->len == 0 || a->next < 0) continue;
            syi_symbol *b = &s[a->next];
            const merge *x = merge_of(m, a->id, b->id);
            if (x == NULL || x->rank != rank) continue; /* its parts are no longer there */
            a->id = x->id;
            a->len += b->len;
            b->len = 0;
            a->next = b->next;
            if (a->next >= 0) s[a->next].prev = q->turn[i];
            if (a->prev >= 0) SYI_TRY(offer(e, m, a->prev));
            SYI_TRY(offer(e, m, q->turn[i]));
            /* Something new comes before the rest: they wait together. */
            if (q->n_heap > 0 && q->heap[0] <= rank) {
                for (i++; i < n; i++) SYI_TRY(queue_add(e, rank, q->turn[i]));
            }
        }
    }
    return SY_OK;
}

static sy_status merge_long(syi_encoder *e, const bpe *m, int64_t count)
{
    syi_queue *q = &e->queue;
    if (q->ranks == 0) {
        q->head = syi_calloc(e->ctx, (size_t)m->ranks + 1, sizeof *q->head);
        q->tail = syi_calloc(e->ctx, (size_t)m->ranks + 1, sizeof *q->tail);
        if (q->head == NULL || q->tail == NULL) {
            syi_free(e->ctx, q->head);
            syi_free(e->ctx, q->tail);
            q->head = q->tail = NULL;
            return SY_E_MEMORY;
        }
        q->ranks = m->ranks + 1;
    }
    q->n = q->n_heap = 0;
    sy_status st = merge_all(e, m, count);
    if (st != SY_OK) memset(q->head, 0, (size_t)q->ranks * sizeof *q->head); /* left in the middle */
    return st;
}

static sy_status symbols(syi_encoder *e, int64_t n)
{
    void *p = e->symbol;
    sy_status st = syi_grow(e->ctx, &p, &e->cap_symbol, n, sizeof *e->symbol, INT32_MAX);
    e->symbol = p;
    return st;
}

/* e->symbol[0..n) with id and len set: links, merges, writes; `at` bytes at the
 * beginning of the piece belong to none. */
static sy_status merge_and_write(syi_encoder *e, const bpe *m, int64_t n, int64_t at)
{
    for (int64_t i = 0; i < n; i++) {
        e->symbol[i].prev = (int32_t)i - 1;
        e->symbol[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
    }
    SYI_TRY(merge_long(e, m, n));
    for (int64_t i = 0; i < n; i++) {
        if (e->symbol[i].len == 0) continue;
        SYI_TRY(syi_out(e, e->symbol[i].id, at, at + e->symbol[i].len));
        at += e->symbol[i].len;
    }
    return SY_OK;
}

static sy_status merge_short_and_write(syi_encoder *e, const bpe *m, int32_t *id, int32_t *len, int n)
{
    int32_t at = 0;
    n = merge_short(m, id, len, n);
    for (int i = 0; i < n; at += len[i++]) SYI_TRY(syi_out(e, id[i], at, at + len[i]));
    return SY_OK;
}

/* -- the plain byte-level case ------------------------------------------------------ */

static sy_status run_characters(syi_encoder *e, const bpe *m, const uint8_t *s, int64_t n);

static sy_status run_bytes(syi_encoder *e, const bpe *m, const uint8_t *s, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (m->byte[s[i]] < 0) return run_characters(e, m, s, n);
    int64_t whole;
    if (m->raw != NULL && syi_map_get(m->raw, (const char *)s, (size_t)n, &whole)) return syi_out(e, (int32_t)whole, 0, n);
    if (n <= SHORT) {
        int32_t id[SHORT], len[SHORT];
        for (int64_t i = 0; i < n; i++) {
            id[i] = m->byte[s[i]];
            len[i] = 1;
        }
        return merge_short_and_write(e, m, id, len, (int)n);
    }
    SYI_TRY(symbols(e, n));
    for (int64_t i = 0; i < n; i++) e->symbol[i] = (syi_symbol){.id = m->byte[s[i]], .len = 1};
    return merge_and_write(e, m, n, 0);
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
static void put_character(syi_encoder *e, const bpe *m, builder *b, const uint8_t *s, int size, bool first, bool last)
{
    char name[2 * FIX_MAX + 8];
    int64_t n = 0;
    int32_t id;
    if (!first && m->prefix) memcpy(name, m->prefix, (size_t)m->prefix_len), n = m->prefix_len;
    if (e->t->byte_level) n += syi_utf8_encode(syi_byte_char(s[0]), (uint8_t *)name + n);
    else memcpy(name + n, s, (size_t)size), n += size;
    if (last && m->suffix) memcpy(name + n, m->suffix, (size_t)m->suffix_len), n += m->suffix_len;
    if (syi_find_id(e->t, name, (size_t)n, &id)) {
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

static sy_status run_characters(syi_encoder *e, const bpe *m, const uint8_t *s, int64_t n)
{
    if (m->ignore_merges) {
        int32_t id;
        int64_t whole;
        if (!e->t->byte_level && syi_find_id(e->t, (const char *)s, (size_t)n, &id)) return syi_out(e, id, 0, n);
        if (e->t->byte_level && syi_map_get(m->raw, (const char *)s, (size_t)n, &whole)) return syi_out(e, (int32_t)whole, 0, n);
    }
    SYI_TRY(symbols(e, n));
    builder b = {0};
    for (int64_t i = 0; i < n;) {
        uint32_t cp;
        int k = e->t->byte_level ? 1 : syi_utf8_decode(s + i, n - i, &cp);
        if (k == 0) k = 1;
        put_character(e, m, &b, s + i, k, i == 0, i + k == n);
        i += k;
    }
    flush_unknown(e, &b);
    if (b.n > SHORT || b.skipped > 0) return merge_and_write(e, m, b.n, b.skipped);
    int32_t id[SHORT], len[SHORT];
    for (int64_t i = 0; i < b.n; i++) {
        id[i] = e->symbol[i].id;
        len[i] = e->symbol[i].len;
    }
    return merge_short_and_write(e, m, id, len, (int)b.n);
}

static sy_status run(syi_encoder *e, const void *state, const uint8_t *s, int64_t n)
{
    const bpe *m = state;
    return m->bytewise && e->t->byte_level ? run_bytes(e, m, s, n) : run_characters(e, m, s, n);
}

/* Models without a pre-tokenizer take a whole text as one word. Before the mark of a
 * word's beginning it can be cut unless some merge joins what comes before to it: no
 * merge ever crosses such a place, so both sides merge as they would together. */
static int64_t cut(const void *state, const uint8_t *s, int64_t n, int64_t from)
{
    const bpe *m = state;
    if (!m->cuts) return n;
    for (int64_t at = from + 1; at + MARK_LEN <= n; at++) {
        const uint8_t *mark = memchr(s + at, (uint8_t)MARK[0], (size_t)(n - at - MARK_LEN + 1));
        if (mark == NULL) return n;
        at = mark - s;
        if (memcmp(mark, MARK, MARK_LEN) != 0) continue;
        int64_t begin, end;
        uint32_t cp = 0;
        syi_utf8_cover(s, at, at - 1, &begin, &end);
        if (syi_utf8_decode(s + begin, at - begin, &cp) == 0) return at;
        int k = 0;
        while (k < m->glues && m->glue[k] != cp) k++;
        if (k == m->glues) return at;
    }
    return n;
}

const syi_model syi_bpe = {"BPE", parse, release, run, cut};
