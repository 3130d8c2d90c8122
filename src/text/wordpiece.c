/* SPDX-License-Identifier: Apache-2.0 */
/* WordPiece (BERT) and WordLevel. A word of WordPiece is cut greedily: the longest
 * entry from its beginning, then the longest that continues, and so on; if one is
 * missing, the whole word is unknown. WordLevel has words whole or not at all. */
#include "text.h"

typedef struct {
    syi_trie *trie;
    int32_t inner;          /* the node that pieces inside of a word hang on          */
    int32_t unk;            /* -1: none                                              */
    int64_t max_chars;
} words;

static sy_status parse_unk(syi_load *l, const json_t *model, words *m)
{
    const json_t *unk = json_object_get(model, "unk_token");
    if (!json_is_string(unk)) return syi_fail(l->ctx, SY_E_INPUT, "%s: model.unk_token: expected the text of a token", l->where);
    if (!syi_find_id(l->t, json_string_value(unk), json_string_length(unk), &m->unk)) m->unk = -1;
    return SY_OK;
}

static sy_status parse_pieces(syi_load *l, const json_t *model, void **state)
{
    words *m = *state = syi_calloc(l->ctx, 1, sizeof *m);
    if (m == NULL) return SY_E_MEMORY;
    char *prefix = NULL;
    int64_t len = 0;
    const json_t *most = json_object_get(model, "max_input_chars_per_word");
    if (most != NULL && (!json_is_integer(most) || json_integer_value(most) < 0))
        return syi_fail(l->ctx, SY_E_INPUT, "%s: model.max_input_chars_per_word: expected a number of characters", l->where);
    m->max_chars = most != NULL ? json_integer_value(most) : 100;
    SYI_TRY(syi_vocab_object(l, json_object_get(model, "vocab")));
    SYI_TRY(parse_unk(l, model, m));
    SYI_TRY(syi_trie_new(l->ctx, &m->trie));
    const sy_tokenizer *t = l->t;
    for (int64_t id = 0; id < t->size; id++)
        if (t->entry[id].at >= 0) SYI_TRY(syi_trie_add(m->trie, (const uint8_t *)t->pool + t->entry[id].at, t->entry[id].len, (int32_t)id));
    SYI_TRY(syi_want_string(l, model, "model", "continuing_subword_prefix", "##", &prefix, &len));
    for (int64_t i = 0; i < len && m->inner >= 0; i++) m->inner = syi_trie_step(m->trie, m->inner, (uint8_t)prefix[i]);
    syi_free(l->ctx, prefix);
    return SY_OK;
}

static sy_status parse_words(syi_load *l, const json_t *model, void **state)
{
    words *m = *state = syi_calloc(l->ctx, 1, sizeof *m);
    if (m == NULL) return SY_E_MEMORY;
    SYI_TRY(syi_vocab_object(l, json_object_get(model, "vocab")));
    return parse_unk(l, model, m);
}

static void release(sy_context *ctx, void *state)
{
    words *m = state;
    if (m == NULL) return;
    syi_trie_free(m->trie);
    syi_free(ctx, m);
}

static sy_status unknown(syi_encoder *e, const words *m, const uint8_t *s, int64_t n)
{
    e->n_made = 0;
    return m->unk < 0 ? syi_no_unk(e, s, n) : syi_out(e, m->unk, 0, n);
}

static sy_status run_pieces(syi_encoder *e, const void *state, const uint8_t *s, int64_t n)
{
    const words *m = state;
    int64_t chars = 0;
    for (int64_t i = 0; i < n && chars <= m->max_chars; chars++) {
        uint32_t cp;
        int k = syi_utf8_decode(s + i, n - i, &cp);
        i += k > 0 ? k : 1;
    }
    if (chars > m->max_chars) return unknown(e, m, s, n);
    for (int64_t at = 0; at < n;) {
        int32_t node = at > 0 ? m->inner : 0, best = -1;
        int64_t end = at;
        for (int64_t i = at; i < n && node >= 0;) {
            node = syi_trie_step(m->trie, node, s[i++]);
            if (node < 0 || syi_trie_value(m->trie, node) < 0) continue;
            best = syi_trie_value(m->trie, node);
            end = i;
        }
        if (best < 0) return unknown(e, m, s, n);
        SYI_TRY(syi_out(e, best, at, end));
        at = end;
    }
    return SY_OK;
}

static sy_status run_words(syi_encoder *e, const void *state, const uint8_t *s, int64_t n)
{
    const words *m = state;
    int32_t id;
    return syi_find_id(e->t, (const char *)s, (size_t)n, &id) ? syi_out(e, id, 0, n) : unknown(e, m, s, n);
}

const syi_model syi_wordpiece = {"WordPiece", parse_pieces, release, run_pieces, NULL};
const syi_model syi_wordlevel = {"WordLevel", parse_words, release, run_words, NULL};
