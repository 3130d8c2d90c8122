/* SPDX-License-Identifier: Apache-2.0 */
/* Unigram (SentencePiece): of all ways to cut a piece into entries, the one with the
 * greatest sum of scores, found from left to right (Viterbi). A character that begins
 * no entry of its own length may stand as unknown, at a score below all others;
 * unknown neighbours are one token, or bytes where the vocabulary has them.
 * Kudo (2018), Subword Regularization, section 3.2. */
#include "text.h"

#include <float.h>

typedef struct {
    syi_trie *trie;
    double *score;          /* [size of the vocabulary]                               */
    double unknown;         /* score of an unknown character                          */
    int32_t unk;            /* -1: none                                              */
    int32_t fallback[256];
    bool bytes;
} unigram;

/* The best way to here. */
typedef struct { double score; int32_t from, id; } node;

static const double UNKNOWN_BELOW = 10; /* SentencePiece's penalty */

static sy_status parse_piece(syi_load *l, unigram *m, const json_t *j, size_t i, double *least)
{
    const json_t *piece = json_array_get(j, 0), *score = json_array_get(j, 1);
    if (!json_is_array(j) || !json_is_string(piece) || !json_is_number(score))
        return syi_fail(l->ctx, SY_E_INPUT, "%s: model.vocab[%zu]: expected [piece, score]", l->where, i);
    m->score[i] = json_number_value(score);
    if (m->score[i] < *least) *least = m->score[i];
    SYI_TRY(syi_tokenizer_add_entry(l, json_string_value(piece), json_string_length(piece), (int64_t)i));
    return syi_trie_add(m->trie, (const uint8_t *)json_string_value(piece), (int64_t)json_string_length(piece), (int32_t)i);
}

static sy_status parse(syi_load *l, const json_t *model, void **state)
{
    unigram *m = *state = syi_calloc(l->ctx, 1, sizeof *m);
    if (m == NULL) return SY_E_MEMORY;
    const json_t *vocab = json_object_get(model, "vocab"), *unk = json_object_get(model, "unk_id");
    size_t n = json_array_size(vocab);
    if (!json_is_array(vocab)) return syi_fail(l->ctx, SY_E_INPUT, "%s: model.vocab: expected an array of [piece, score]", l->where);
    if (unk != NULL && !json_is_null(unk) && (!json_is_integer(unk) || json_integer_value(unk) < 0 || (size_t)json_integer_value(unk) >= n))
        return syi_fail(l->ctx, SY_E_INPUT, "%s: model.unk_id: expected the index of a piece below %zu, or null", l->where, n);
    m->unk = json_is_integer(unk) ? (int32_t)json_integer_value(unk) : -1;
    SYI_TRY(syi_want_bool(l, model, "model", "byte_fallback", 0, &m->bytes));
    SYI_TRY(syi_trie_new(l->ctx, &m->trie));
    m->score = syi_alloc(l->ctx, n * sizeof *m->score);
    if (m->score == NULL) return SY_E_MEMORY;
    double least = DBL_MAX;
    for (size_t i = 0; i < n; i++) SYI_TRY(parse_piece(l, m, json_array_get(vocab, i), i, &least));
    m->unknown = least - UNKNOWN_BELOW;
    syi_byte_tokens(l->t, m->fallback);
    return SY_OK;
}

static void release(sy_context *ctx, void *state)
{
    unigram *m = state;
    if (m == NULL) return;
    syi_trie_free(m->trie);
    syi_free(ctx, m->score);
    syi_free(ctx, m);
}

static void offer(node *at, double score, int64_t from, int32_t id)
{
    if (at->from < 0 || score > at->score) *at = (node){score, (int32_t)from, id};
}

/* What the entries that begin at `from` reach. */
static sy_status reach(syi_encoder *e, const unigram *m, const uint8_t *s, int64_t n, int64_t from, int64_t size, node *way)
{
    double here = way[from].score;
    bool alone = false;
    int32_t at = 0;
    for (int64_t i = from; i < n;) {
        at = syi_trie_step(m->trie, at, s[i++]);
        if (at < 0) break;
        int32_t id = syi_trie_value(m->trie, at);
        if (id < 0) continue;
        offer(&way[i], here + m->score[id], from, id);
        alone |= i == from + size;
    }
    if (alone) return SY_OK;
    if (m->unk < 0) return syi_no_unk(e, s + from, size);
    offer(&way[from + size], here + m->unknown, from, m->unk);
    return SY_OK;
}

static sy_status write_unknown(syi_encoder *e, const unigram *m, const uint8_t *s, int64_t begin, int64_t end)
{
    int32_t id;
    bool all = m->bytes;
    if (syi_find_id(e->t, (const char *)s + begin, (size_t)(end - begin), &id)) return syi_out(e, id, begin, end);
    for (int64_t i = begin; i < end && all; i++) all = m->fallback[s[i]] >= 0;
    if (!all) return syi_out(e, m->unk, begin, end);
    /* As Hugging Face does it, each byte's token stands for all of the bytes. */
    for (int64_t i = begin; i < end; i++) SYI_TRY(syi_out(e, m->fallback[s[i]], begin, end));
    return SY_OK;
}

static sy_status run(syi_encoder *e, const void *state, const uint8_t *s, int64_t n)
{
    const unigram *m = state;
    SYI_TRY(syi_grow(e->ctx, &e->work, &e->cap_work, n + 1, sizeof(node), INT64_MAX / 32));
    node *way = e->work;
    for (int64_t i = 0; i <= n; i++) way[i].from = -1;
    way[0].score = 0;
    for (int64_t i = 0, size; i < n; i += size) {
        uint32_t cp;
        int k = syi_utf8_decode(s + i, n - i, &cp);
        size = k > 0 ? k : 1;
        SYI_TRY(reach(e, m, s, n, i, size, way));
    }
    /* Turn the way round: way[i] becomes the entry that begins at i and where it ends. */
    node after = {0, -1, -1};
    for (int64_t at = n;;) {
        node before = way[at];
        way[at] = after;
        if (at == 0) break;
        after = (node){0, (int32_t)at, before.id};
        at = before.from;
    }
    for (int64_t at = 0; at < n;) {
        int64_t to = way[at].from;
        int32_t id = way[at].id;
        if (id != m->unk) {
            SYI_TRY(syi_out(e, id, at, to));
        } else {
            while (to < n && way[to].id == m->unk) to = way[to].from;
            SYI_TRY(write_unknown(e, m, s, at, to));
        }
        at = to;
    }
    return SY_OK;
}

const syi_model syi_unigram = {"Unigram", parse, release, run, NULL};
