/* SPDX-License-Identifier: Apache-2.0 */
/* Vocabularies of GGUF beyond byte-level BPE.
 *
 * "llama": SentencePiece's BPE. GGUF has a score for each token and merges whichever
 * neighbours make the token with the highest score; tokenizer.json has a list of
 * merges. From scores: every way to make a token of two others, best score first.
 * To scores: the place of the first merge that makes a token, negated.
 * "bert": uncased WordPiece. GGUF marks the beginning of a word ("\u2581") where
 * tokenizer.json marks what continues one ("##"). */
#include "vocabularies.h"

#include <stdlib.h>

#define SPACE "\xE2\x96\x81" /* U+2581 */

static const char *text_of(const json_t *j, const char *key)
{
    const char *s = json_string_value(json_object_get(j, key));
    return s != NULL ? s : "";
}

static bool is_type(const json_t *j, const char *type)
{
    return strcmp(text_of(j, "type"), type) == 0;
}

/* -- llama: to tokenizer.json ------------------------------------------------------- */

typedef struct { double score; int32_t left, right, left_len, right_len; const char *whole; size_t cut; } pair;
typedef struct { sy_context *ctx; pair *p; int64_t n, cap; } pairs;

static int best_first(const void *a, const void *b)
{
    const pair *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->left_len != y->left_len) return x->left_len > y->left_len ? -1 : 1;
    if (x->right_len != y->right_len) return x->right_len > y->right_len ? -1 : 1;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

static int type_at(const syi_vocab_reader *r, int64_t id)
{
    double type;
    return syi_gguf_array_num(r->g, KEY "token_type", id, &type) ? (int)type : NORMAL;
}

static bool can_merge(const syi_vocab_reader *r, int64_t id)
{
    int type = type_at(r, id);
    return type == NORMAL || type == USER_DEFINED || type == UNUSED;
}

static int32_t characters(const char *s, size_t n)
{
    int32_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((uint8_t)s[i] & 0xC0) != 0x80;
    return count;
}

/* Every way to make the token of two others. */
static sy_status ways(syi_vocab_reader *r, const syi_map *ids, const char *text, int64_t id, pairs *out)
{
    const size_t n = strlen(text);
    double score = 0;
    syi_gguf_array_num(r->g, KEY "scores", id, &score);
    for (size_t cut = 1; cut < n; cut++) {
        int64_t left, right;
        if (((uint8_t)text[cut] & 0xC0) == 0x80 || !syi_map_get(ids, text, cut, &left) || !syi_map_get(ids, text + cut, n - cut, &right)) continue;
        void *p = out->p;
        sy_status st = syi_grow(r->ctx, &p, &out->cap, out->n + 1, sizeof *out->p, INT64_C(1) << 26);
        out->p = p;
        if (st != SY_OK) return st;
        out->p[out->n++] = (pair){score, (int32_t)left, (int32_t)right, characters(text, cut), characters(text + cut, n - cut), text, cut};
    }
    return SY_OK;
}

static sy_status merges_of(syi_vocab_reader *r, const json_t *vocab, json_t *merges)
{
    pairs all = {.ctx = r->ctx};
    syi_map *ids;
    const char *text;
    json_t *id;
    SYI_TRY(syi_map_new(r->ctx, &ids));
    sy_status st = SY_OK;
    if (syi_gguf_array(r->g, KEY "scores", NULL) != syi_gguf_array(r->g, KEY "tokens", NULL))
        st = syi_fail(r->ctx, SY_E_INPUT, "%s: " KEY "scores is not a score for each token", r->path);
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id)
        if (st == SY_OK && can_merge(r, json_integer_value(id))) st = syi_map_set(ids, text, strlen(text), json_integer_value(id));
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id)
        if (st == SY_OK && can_merge(r, json_integer_value(id))) st = ways(r, ids, text, json_integer_value(id), &all);
    if (st == SY_OK && all.n > 0) qsort(all.p, (size_t)all.n, sizeof *all.p, best_first);
    for (int64_t i = 0; i < all.n && st == SY_OK; i++) {
        const pair *p = &all.p[i];
        json_t *two = json_pack("[s%s]", p->whole, p->cut, p->whole + p->cut);
        if (two == NULL || json_array_append_new(merges, two) != 0) st = syi_nomem(r->ctx, 64);
    }
    syi_free(r->ctx, all.p);
    syi_map_free(ids);
    return st;
}

static sy_status llama_parts(syi_vocab_reader *r, const json_t *vocab, syi_vocab_parts *out)
{
    static const char decoder[] = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"" SPACE "\"},\"content\":\" \"},"
                                  "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]}";
    static const char blank[] = "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" SPACE "\"}";
    static const char prepend[] = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"" SPACE "\"},"
                                  "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" SPACE "\"}]}";
    bool space = true;
    syi_gguf_bool(r->g, KEY "add_space_prefix", &space);
    json_t *merges = json_array();
    out->normalizer = json_loads(space ? prepend : blank, 0, NULL);
    out->pre_tokenizer = json_null();
    out->decoder = json_loads(decoder, 0, NULL);
    if (space)
        json_array_append_new(json_object_get(out->decoder, "decoders"), json_pack("{s:s,s:s,s:i,s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
    out->model = json_pack("{s:s,s:n,s:s?,s:n,s:n,s:b,s:b,s:b,s:O}", "type", "BPE", "dropout", "unk_token", r->unk, "continuing_subword_prefix",
                           "end_of_word_suffix", "fuse_unk", 1, "byte_fallback", 1, "ignore_merges", 0, "merges", merges);
    const sy_status st = merges == NULL ? syi_nomem(r->ctx, 64) : merges_of(r, vocab, merges);
    json_decref(merges);
    return st;
}

/* -- llama: from tokenizer.json --------------------------------------------------------- */

/* Is it {"type": "Replace", " " by "\u2581"}? */
static bool is_blank_rule(const json_t *j)
{
    return is_type(j, "Replace") && strcmp(text_of(json_object_get(j, "pattern"), "String"), " ") == 0 && strcmp(text_of(j, "content"), SPACE) == 0;
}

static bool is_prepend(const json_t *j)
{
    return is_type(j, "Prepend") && strcmp(text_of(j, "prepend"), SPACE) == 0;
}

static bool llama_is(const json_t *t)
{
    const json_t *model = json_object_get(t, "model"), *norm = json_object_get(t, "normalizer"), *pre = json_object_get(t, "pre_tokenizer");
    const json_t *list = json_object_get(norm, "normalizers");
    if (!json_is_true(json_object_get(model, "byte_fallback")) || json_object_get(model, "merges") == NULL) return false;
    if (is_type(pre, "Metaspace")) /* newer files of the same */
        return (norm == NULL || json_is_null(norm)) && json_is_false(json_object_get(pre, "split")) && strcmp(text_of(pre, "replacement"), SPACE) == 0;
    bool blanks = is_blank_rule(norm) || (json_array_size(list) == 1 && is_blank_rule(json_array_get(list, 0))) ||
                  (json_array_size(list) == 2 && is_prepend(json_array_get(list, 0)) && is_blank_rule(json_array_get(list, 1)));
    /* a Split at blanks, of which none are left, does nothing */
    bool idle = pre == NULL || json_is_null(pre) || (is_type(pre, "Split") && strcmp(text_of(json_object_get(pre, "pattern"), "String"), " ") == 0);
    return blanks && idle;
}

static bool llama_adds_space(const json_t *t)
{
    const json_t *pre = json_object_get(t, "pre_tokenizer"), *list = json_object_get(json_object_get(t, "normalizer"), "normalizers");
    if (is_type(pre, "Metaspace")) return strcmp(text_of(pre, "prepend_scheme"), "never") != 0;
    return is_prepend(json_array_get(list, 0));
}

static sy_status llama_put(syi_gguf_writer *w, syi_vocab_table *t, syi_arena *arena)
{
    const json_t *model = json_object_get(t->s->tokenizer, "model"), *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges"), *m;
    const char *unk = text_of(model, "unk_token");
    float *score = syi_arena_alloc(arena, (size_t)t->n * sizeof *score); /* zeros */
    size_t i;
    if (score == NULL) return sy_error_code(t->ctx);
    const float last = (float)json_array_size(merges);
    for (int64_t id = 0; id < t->n; id++) {
        const char *s = t->token[id];
        if (strlen(s) == 6 && syi_starts(s, "<0x") && s[5] == '>' && t->type[id] == NORMAL) t->type[id] = BYTE;
        if (strcmp(s, unk) == 0 && *unk != '\0') t->type[id] = UNKNOWN;
        if (t->type[id] == NORMAL) score[id] = -last - (float)id - 1;
    }
    syi_text whole;
    syi_text_init(&whole, t->ctx, 1 << 20);
    sy_status st = SY_OK;
    json_array_foreach((json_t *)(uintptr_t)merges, i, m) {
        const char *s = json_string_value(m), *blank = s != NULL ? strchr(s, ' ') : NULL;
        whole.len = 0;
        if (blank != NULL) {
            syi_text_add(&whole, s, (size_t)(blank - s));
            syi_text_puts(&whole, blank + 1);
        } else {
            const char *a = json_string_value(json_array_get(m, 0)), *b = json_string_value(json_array_get(m, 1));
            syi_text_puts(&whole, a != NULL ? a : "");
            syi_text_puts(&whole, b != NULL ? b : "");
        }
        const json_t *id = whole.s != NULL ? json_object_get(vocab, whole.s) : NULL;
        const int64_t at = json_is_integer(id) ? json_integer_value(id) : -1;
        if (at < 0 || at >= t->n) {
            st = whole.failed ? SY_E_MEMORY : syi_fail(t->ctx, SY_E_INPUT, "%s: tokenizer.json: merge %zu makes no token", t->s->path, i);
            break;
        }
        if (t->type[at] == NORMAL && score[at] < -last) score[at] = -(float)i;
    }
    syi_text_free(&whole);
    return st == SY_OK ? syi_gguf_put_f32s(w, KEY "scores", t->n, score) : st;
}

/* -- bert ------------------------------------------------------------------------------------ */

static char *bert_text(sy_context *ctx, const char *text, int type)
{
    const size_t n = strlen(text);
    if (type == CONTROL || type == UNKNOWN || (text[0] == '[' && text[n - 1] == ']')) return syi_strdup(ctx, text);
    if (syi_starts(text, SPACE)) return syi_strdup(ctx, text + sizeof SPACE - 1);
    return syi_format(ctx, "##%s", text);
}

static sy_status bert_parts(syi_vocab_reader *r, const json_t *vocab, syi_vocab_parts *out)
{
    const char *unk = r->unk != NULL ? r->unk : "[UNK]";
    out->normalizer = json_pack("{s:s,s:b,s:b,s:n,s:b}", "type", "BertNormalizer", "clean_text", 1, "handle_chinese_chars", 1, "strip_accents", "lowercase", 1);
    out->pre_tokenizer = json_pack("{s:s}", "type", "BertPreTokenizer");
    out->decoder = json_pack("{s:s,s:s,s:b}", "type", "WordPiece", "prefix", "##", "cleanup", 1);
    out->model = json_pack("{s:s,s:s,s:s,s:i}", "type", "WordPiece", "unk_token", unk, "continuing_subword_prefix", "##", "max_input_chars_per_word", 100);
    if (json_object_get(vocab, unk) == NULL) return syi_fail(r->ctx, SY_E_INPUT, "%s: no token for unknown words (%s)", r->path, unk);
    return out->model != NULL ? SY_OK : syi_nomem(r->ctx, 64);
}

static bool bert_is(const json_t *t)
{
    const json_t *model = json_object_get(t, "model"), *norm = json_object_get(t, "normalizer");
    const json_t *most = json_object_get(model, "max_input_chars_per_word");
    return is_type(model, "WordPiece") && strcmp(text_of(model, "continuing_subword_prefix"), "##") == 0 && is_type(norm, "BertNormalizer") &&
           json_is_true(json_object_get(norm, "lowercase")) && !json_is_false(json_object_get(norm, "strip_accents")) &&
           json_is_true(json_object_get(norm, "handle_chinese_chars")) && json_is_true(json_object_get(norm, "clean_text")) &&
           is_type(json_object_get(t, "pre_tokenizer"), "BertPreTokenizer") && (most == NULL || json_integer_value(most) >= 100);
}

static bool never(const json_t *t)
{
    (void)t;
    return false;
}

static sy_status bert_put(syi_gguf_writer *w, syi_vocab_table *t, syi_arena *arena)
{
    const json_t *types = json_object_get(t->s->config, "type_vocab_size");
    for (int64_t id = 0; id < t->n; id++) {
        const char *s = t->token[id];
        const size_t n = strlen(s);
        if (t->type[id] == CONTROL || n == 0 || (s[0] == '[' && s[n - 1] == ']')) continue;
        t->token[id] = syi_starts(s, "##") && n > 2 ? s + 2 : syi_arena_format(arena, SPACE "%s", s);
        if (t->token[id] == NULL) return sy_error_code(t->ctx);
    }
    if (!json_is_integer(types) || syi_gguf_has_key(w, KEY "token_type_count")) return SY_OK;
    return syi_gguf_put_u32(w, KEY "token_type_count", (uint32_t)json_integer_value(types));
}

/* -- the rows ---------------------------------------------------------------------------------- */

static const syi_vocabulary rows[] = {
    {"llama", true, false, NULL, llama_parts, llama_is, llama_adds_space, llama_put},
    {"bert", true, true, bert_text, bert_parts, bert_is, never, bert_put},
};

const syi_vocabulary *syi_vocabulary_by_name(const char *model)
{
    for (int i = 0; i < SYI_COUNT(rows); i++)
        if (strcmp(rows[i].model, model) == 0) return &rows[i];
    return NULL;
}

const syi_vocabulary *syi_vocabulary_of(const json_t *tokenizer)
{
    for (int i = 0; i < SYI_COUNT(rows); i++)
        if (rows[i].is(tokenizer)) return &rows[i];
    return NULL;
}
