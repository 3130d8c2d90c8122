/* SPDX-License-Identifier: Apache-2.0 */
/* Reads tokenizer.json. Each part of a pipeline is looked up by its "type" in the
 * tables of its kind; sequences are flattened, which changes nothing, as every
 * part works on one piece at a time. What is not in a table is refused by name. */
#include "text.h"

enum { ID_MAX = 1 << 24, DEPTH_MAX = 8, ADDED_MAX = 1 << 20, POOL_MAX = 1 << 30 };

/* -- values ----------------------------------------------------------------------- */

static sy_status wrong(syi_load *l, const char *path, const char *key, const char *expected)
{
    return syi_fail(l->ctx, SY_E_INPUT, "%s: %s.%s: expected %s", l->where, path, key, expected);
}

/* def: 0 or 1, or -1: must be there. */
sy_status syi_want_bool(syi_load *l, const json_t *j, const char *path, const char *key, int def, bool *out)
{
    const json_t *v = json_object_get(j, key);
    if (json_is_boolean(v)) *out = json_is_true(v);
    else if (def >= 0 && (v == NULL || json_is_null(v))) *out = def;
    else return wrong(l, path, key, "true or false");
    return SY_OK;
}

sy_status syi_want_string(syi_load *l, const json_t *j, const char *path, const char *key, const char *def, char **out,
                          int64_t *len)
{
    const json_t *v = json_object_get(j, key);
    if (!json_is_string(v) && (def == NULL || (v != NULL && !json_is_null(v)))) return wrong(l, path, key, "a text");
    const char *s = json_is_string(v) ? json_string_value(v) : def;
    size_t n = json_is_string(v) ? json_string_length(v) : strlen(def);
    *out = syi_alloc(l->ctx, n + 1);
    if (*out == NULL) return SY_E_MEMORY;
    memcpy(*out, s, n);
    (*out)[n] = '\0';
    if (len != NULL) *len = (int64_t)n;
    return SY_OK;
}

sy_status syi_want_char(syi_load *l, const json_t *j, const char *path, const char *key, uint32_t *out)
{
    const json_t *v = json_object_get(j, key);
    const uint8_t *s = (const uint8_t *)json_string_value(v);
    int64_t n = (int64_t)json_string_length(v);
    if (s == NULL || n == 0 || syi_utf8_decode(s, n, out) != n) return wrong(l, path, key, "one character");
    return SY_OK;
}

sy_status syi_want_pattern(syi_load *l, const json_t *j, const char *path, syi_regex **out)
{
    const json_t *p = json_object_get(j, "pattern"), *text = json_object_get(p, "String"), *regex = json_object_get(p, "Regex");
    const json_t *v = regex ? regex : text;
    if (!json_is_string(v)) return wrong(l, path, "pattern", "{\"String\": text} or {\"Regex\": text}");
    char *where = syi_format(l->ctx, "%s: %s", l->where, path);
    if (where == NULL) return SY_E_MEMORY;
    sy_status st = syi_regex_new(l->ctx, json_string_value(v), json_string_length(v), regex == NULL, where, out);
    syi_free(l->ctx, where);
    return st;
}

sy_status syi_want_behavior(syi_load *l, const json_t *j, const char *path, const char *def, syi_behavior *out)
{
    static const char *const name[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *s = json_string_value(json_object_get(j, "behavior"));
    if (s == NULL) s = def;
    for (int i = 0; s != NULL && i < SYI_COUNT(name); i++)
        if (strcmp(s, name[i]) == 0) {
            *out = (syi_behavior)i;
            return SY_OK;
        }
    return wrong(l, path, "behavior", "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

/* -- pipelines ---------------------------------------------------------------------- */

static sy_status unknown(syi_load *l, const char *path, const char *type, const syi_component *rows)
{
    char known[256];
    size_t n = 0;
    known[0] = '\0';
    for (const syi_component *r = rows; r->type != NULL && n < sizeof known; r++)
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", r->type);
    return syi_fail(l->ctx, SY_E_UNSUPPORTED, "%s: %s: the component '%.60s' is not supported; known here: Sequence, %s", l->where,
                    path, type, known);
}

/* `list`: the key under which a Sequence of this kind has its parts. */
static sy_status add_stage(syi_load *l, const json_t *j, const char *path, const syi_component *rows, const char *list,
                           syi_pipeline *out)
{
    if (j == NULL || json_is_null(j)) return SY_OK;
    const char *type = json_string_value(json_object_get(j, "type"));
    if (type == NULL) return wrong(l, path, "type", "the name of a component");
    if (strcmp(type, "Sequence") == 0) {
        const json_t *parts = json_object_get(j, list);
        if (!json_is_array(parts)) return wrong(l, path, list, "a list");
        if (++l->depth > DEPTH_MAX) return syi_fail(l->ctx, SY_E_INPUT, "%s: %s: sequences nested too deeply", l->where, path);
        for (size_t i = 0; i < json_array_size(parts); i++) {
            char *inner = syi_format(l->ctx, "%s.%s[%zu]", path, list, i);
            if (inner == NULL) return SY_E_MEMORY;
            sy_status st = add_stage(l, json_array_get(parts, i), inner, rows, list, out);
            syi_free(l->ctx, inner);
            if (st != SY_OK) return st;
        }
        l->depth--;
        return SY_OK;
    }
    const syi_component *row = rows;
    while (row->type != NULL && strcmp(row->type, type) != 0) row++;
    if (row->type == NULL) return unknown(l, path, type, rows);
    l->line = out;
    syi_stage *s = syi_stage_add(l, path, row);
    return s != NULL ? row->parse(l, j, path, s) : SY_E_UNSUPPORTED;
}

syi_stage *syi_stage_add(syi_load *l, const char *path, const syi_component *kind)
{
    if (l->line->n == SYI_MAX_STAGES) {
        syi_fail(l->ctx, SY_E_UNSUPPORTED, "%s: %s: more than %d steps", l->where, path, SYI_MAX_STAGES);
        return NULL;
    }
    syi_stage *s = &l->line->stage[l->line->n++];
    s->kind = kind;
    return s;
}

static void free_pipeline(sy_context *ctx, syi_pipeline *p)
{
    for (int i = 0; i < p->n; i++) {
        syi_regex_free(p->stage[i].regex);
        syi_free(ctx, p->stage[i].text);
        syi_free(ctx, p->stage[i].text2);
        syi_free(ctx, p->stage[i].added.before);
        syi_free(ctx, p->stage[i].added.after);
        syi_free(ctx, p->stage[i].units);
    }
}

/* -- the vocabulary ------------------------------------------------------------------- */

static sy_status enlarge_entries(sy_tokenizer *t, int64_t size)
{
    void *p = t->entry;
    sy_status st = syi_grow(t->ctx, &p, &t->cap_entry, size, sizeof *t->entry, ID_MAX);
    t->entry = p;
    if (st != SY_OK) return st;
    for (; t->size < size; t->size++) t->entry[t->size] = (syi_entry){.at = -1};
    return SY_OK;
}

sy_status syi_tokenizer_add_entry(syi_load *l, const char *content, size_t len, int64_t id)
{
    sy_tokenizer *t = l->t;
    if (id < 0 || id >= ID_MAX)
        return syi_fail(l->ctx, SY_E_INPUT, "%s: the token '%.60s' has id %lld; ids from 0 to %d are accepted", l->where, content,
                        (long long)id, ID_MAX - 1);
    SYI_TRY(enlarge_entries(t, syi_max(t->size, id + 1)));
    if (t->entry[id].at >= 0)
        return syi_fail(l->ctx, SY_E_INPUT, "%s: the tokens '%.60s' and '%.60s' have the same id %lld", l->where,
                        t->pool + t->entry[id].at, content, (long long)id);
    void *p = t->pool;
    sy_status st = syi_grow(t->ctx, &p, &t->cap_pool, t->pool_len + (int64_t)len + 1, 1, POOL_MAX);
    t->pool = p;
    if (st != SY_OK) return st;
    syi_entry *x = &t->entry[id];
    *x = (syi_entry){.at = t->pool_len, .len = (int32_t)len};
    memcpy(t->pool + x->at, content, len);
    t->pool[x->at + (int64_t)len] = '\0';
    t->pool_len += (int64_t)len + 1;
    const uint8_t *s = (const uint8_t *)t->pool + x->at;
    bool only_spaces = true;
    const uint32_t blank = syi_byte_char(' ');
    for (int64_t i = 0; i < (int64_t)len; x->chars++) {
        uint32_t cp = 0;
        int k = syi_utf8_decode(s + i, (int64_t)len - i, &cp);
        bool space = k > 0 && (cp == blank || syi_is_space(cp));
        if (only_spaces && space && x->lead < UINT16_MAX) x->lead++;
        if (!space) only_spaces = false, x->trail = 0;
        else if (x->trail < UINT16_MAX) x->trail++;
        i += k > 0 ? k : 1;
    }
    return syi_map_set(t->ids, content, len, id);
}

/* The parts were not in their plain form: the tree will tell. */
sy_status syi_scan_odd(syi_load *l)
{
    l->odd = true;
    return SY_E_INPUT;
}

static sy_status vocab_text(syi_load *l)
{
    syi_scan s = l->parts->vocab;
    syi_text token;
    sy_status st = SY_OK;
    int64_t id;
    if (!syi_scan_char(&s, '{')) return syi_scan_odd(l);
    if (syi_scan_char(&s, '}')) return SY_OK;
    SYI_TRY(syi_map_room(l->t->ids, l->parts->n_vocab));
    syi_text_init(&token, l->ctx, 1 << 24);
    do {
        const int64_t known = syi_map_count(l->t->ids);
        token.len = 0;
        if (!syi_scan_string(&s, &token) || !syi_scan_char(&s, ':') || !syi_scan_id(&s, &id)) st = syi_scan_odd(l);
        else st = syi_tokenizer_add_entry(l, token.s, token.len, id);
        if (st == SY_OK && syi_map_count(l->t->ids) == known) st = syi_scan_odd(l); /* twice */
    } while (st == SY_OK && syi_scan_char(&s, ','));
    syi_text_free(&token);
    if (st == SY_OK && (!syi_scan_char(&s, '}') || s.at != s.end)) st = syi_scan_odd(l);
    return st;
}

sy_status syi_vocab_object(syi_load *l, const json_t *vocab)
{
    if (l->parts != NULL) return vocab_text(l);
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

bool syi_find_id(const sy_tokenizer *t, const char *s, size_t n, int32_t *id)
{
    int64_t v;
    if (!syi_map_get(t->ids, s, n, &v)) return false;
    *id = (int32_t)v;
    return true;
}

void syi_byte_tokens(const sy_tokenizer *t, int32_t id[256])
{
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", b);
        if (!syi_find_id(t, name, 6, &id[b])) id[b] = -1;
    }
}

static sy_status parse_added(syi_load *l, const json_t *list)
{
    sy_tokenizer *t = l->t;
    if (list == NULL || json_is_null(list)) return SY_OK;
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > ADDED_MAX)
        return syi_fail(l->ctx, SY_E_INPUT, "%s: added_tokens: expected a list of at most %d tokens", l->where, ADDED_MAX);
    t->added = syi_calloc(l->ctx, n, sizeof *t->added);
    if (t->added == NULL) return SY_E_MEMORY;
    for (size_t i = 0; i < n; i++) {
        char path[48];
        snprintf(path, sizeof path, "added_tokens[%zu]", i);
        const json_t *j = json_array_get(list, i), *id = json_object_get(j, "id"), *content = json_object_get(j, "content");
        syi_added *a = &t->added[t->n_added];
        if (!json_is_integer(id) || !json_is_string(content)) return wrong(l, path, "id", "a number, and \"content\": a text");
        if (json_string_length(content) == 0) continue;
        t->n_added++;
        a->len = (int64_t)json_string_length(content);
        a->content = syi_alloc(l->ctx, (size_t)a->len + 1);
        if (a->content == NULL) return SY_E_MEMORY;
        memcpy(a->content, json_string_value(content), (size_t)a->len + 1);
        SYI_TRY(syi_want_bool(l, j, path, "single_word", 0, &a->single_word));
        SYI_TRY(syi_want_bool(l, j, path, "lstrip", 0, &a->lstrip));
        SYI_TRY(syi_want_bool(l, j, path, "rstrip", 0, &a->rstrip));
        SYI_TRY(syi_want_bool(l, j, path, "special", 0, &a->special));
        SYI_TRY(syi_want_bool(l, j, path, "normalized", !a->special, &a->normalized));
        /* A token that the vocabulary has keeps the id it has there. */
        int64_t there;
        if (!syi_map_get(t->ids, a->content, (size_t)a->len, &there)) {
            there = json_integer_value(id);
            SYI_TRY(syi_tokenizer_add_entry(l, a->content, (size_t)a->len, there));
        } else if (there != json_integer_value(id)) {
            syi_log(l->ctx, SY_LOG_WARN, "%s: %s: '%.60s' is said to be %lld but has the id %lld in the vocabulary, which counts",
                    l->where, path, a->content, (long long)json_integer_value(id), (long long)there);
        }
        a->id = (int32_t)there;
        t->entry[there].added = true;
        t->entry[there].special |= a->special;
    }
    return SY_OK;
}

/* Tokens found after normalization are looked for in their normalized form. */
static sy_status build_tries(syi_load *l)
{
    sy_tokenizer *t = l->t;
    syi_encoder *e = NULL;
    sy_status st = SY_OK;
    for (int64_t i = 0; i < t->n_added && st == SY_OK; i++) {
        syi_added *a = &t->added[i];
        syi_trie **trie = a->normalized ? &t->normalized : &t->raw;
        if (*trie == NULL) st = syi_trie_new(l->ctx, trie);
        syi_piece p = {(const uint8_t *)a->content, a->len, NULL, 0};
        int next = 0;
        if (st == SY_OK && a->normalized && t->normalizer.n > 0 && e == NULL) st = syi_encoder_new(l->ctx, t, &e);
        for (int k = 0; st == SY_OK && a->normalized && k < t->normalizer.n; k++) {
            syi_buffer *b = &e->buffer[next];
            bool changed = false;
            b->n = 0;
            e->valid = true;
            st = t->normalizer.stage[k].kind->run.normalize(e, &t->normalizer.stage[k], &p, b, &changed);
            if (!changed) continue;
            p = (syi_piece){b->s, b->n, b->map, 0};
            next = !next;
        }
        if (st == SY_OK) st = syi_trie_add(*trie, p.s, p.n, (int32_t)i);
    }
    syi_encoder_free(e);
    return st;
}

/* -- the whole ---------------------------------------------------------------------------- */

static const syi_model *const models[] = {&syi_bpe, &syi_wordpiece, &syi_wordlevel, &syi_unigram};

/* Files from before "type" was written say it by their keys. */
static const char *type_of(const json_t *model)
{
    const char *type = json_string_value(json_object_get(model, "type"));
    if (type != NULL) return type;
    if (json_object_get(model, "merges") != NULL) return "BPE";
    if (json_is_array(json_object_get(model, "vocab"))) return "Unigram";
    if (json_object_get(model, "continuing_subword_prefix") != NULL) return "WordPiece";
    return json_object_get(model, "vocab") != NULL ? "WordLevel" : NULL;
}

static sy_status parse_model(syi_load *l, const json_t *model)
{
    const char *type = type_of(model);
    if (type == NULL) return wrong(l, "model", "type", "the name of a model");
    for (int i = 0; i < SYI_COUNT(models); i++)
        if (strcmp(models[i]->type, type) == 0) {
            l->t->model = models[i];
            return models[i]->parse(l, model, &l->t->state);
        }
    return syi_fail(l->ctx, SY_E_UNSUPPORTED, "%s: model: the type '%.60s' is not supported; known: BPE, WordPiece, WordLevel, Unigram",
                    l->where, type);
}

/* ByteLevel as the last step before BPE need not write characters for bytes: the
 * model knows the ids of bytes. */
static void settle_bytes(sy_tokenizer *t, const json_t *model)
{
    syi_pipeline *p = &t->pretokenizer;
    const char *type = type_of(model);
    if (p->n == 0 || !p->stage[p->n - 1].spell || type == NULL || strcmp(type, "BPE") != 0) return;
    t->byte_level = true;
    p->n--;
}

static sy_status parse_all(syi_load *l, const json_t *j)
{
    sy_tokenizer *t = l->t;
    if (!json_is_object(j)) return syi_fail(l->ctx, SY_E_INPUT, "%s: expected a JSON object with \"model\"", l->where);
    SYI_TRY(add_stage(l, json_object_get(j, "pre_tokenizer"), "pre_tokenizer", syi_pretokenizers, "pretokenizers", &t->pretokenizer));
    settle_bytes(t, json_object_get(j, "model"));
    SYI_TRY(add_stage(l, json_object_get(j, "normalizer"), "normalizer", syi_normalizers, "normalizers", &t->normalizer));
    SYI_TRY(parse_model(l, json_object_get(j, "model")));
    SYI_TRY(parse_added(l, json_object_get(j, "added_tokens")));
    if (t->size == 0) return syi_fail(l->ctx, SY_E_INPUT, "%s: the vocabulary is empty", l->where);
    SYI_TRY(build_tries(l));
    SYI_TRY(add_stage(l, json_object_get(j, "post_processor"), "post_processor", syi_postprocessors, "processors", &t->processor));
    SYI_TRY(add_stage(l, json_object_get(j, "decoder"), "decoder", syi_decoders, "decoders", &t->decoder));
    t->has_decoder = t->decoder.n > 0;
    static const char *const unused[] = {"truncation", "padding"};
    for (int i = 0; i < SYI_COUNT(unused); i++)
        if (json_is_object(json_object_get(j, unused[i])))
            syi_log(l->ctx, SY_LOG_INFO, "%s: %s is not used: texts are tokenized whole", l->where, unused[i]);
    return SY_OK;
}

static int hash_some(const char *text, size_t n, void *hasher)
{
    syi_hasher_add(hasher, text, n);
    return 0;
}

static sy_status hash_json(sy_tokenizer *t, const json_t *j)
{
    syi_hasher *h;
    SYI_TRY(syi_hasher_new(t->ctx, &h));
    bool failed = json_dump_callback(j, hash_some, h, JSON_COMPACT) != 0;
    t->hash = syi_hasher_end(h);
    return failed ? syi_nomem(t->ctx, 4096) : SY_OK;
}

static sy_status load(sy_context *ctx, const json_t *j, const syi_parts *parts, const char *where, sy_tokenizer **out, bool *odd)
{
    sy_tokenizer *t = *out = syi_calloc(ctx, 1, sizeof *t);
    if (t == NULL) return SY_E_MEMORY;
    t->ctx = ctx;
    syi_load l = {.ctx = ctx, .t = t, .where = where, .parts = parts};
    sy_status st = syi_map_new(ctx, &t->ids);
    if (st == SY_OK) st = parse_all(&l, j);
    *odd = l.odd;
    if (st != SY_OK) {
        sy_tokenizer_free(t);
        *out = NULL;
    }
    return st;
}

sy_status syi_tokenizer_from_json(sy_context *ctx, const json_t *j, const char *where, sy_tokenizer **out)
{
    bool odd;
    sy_status st = load(ctx, j, NULL, where, out, &odd);
    if (st == SY_OK) st = hash_json(*out, j);
    if (st == SY_OK || *out == NULL) return st;
    sy_tokenizer_free(*out);
    *out = NULL;
    return st;
}

/* Without a tree of the vocabulary and the merges; *done false: that is not how they are. */
static sy_status parse_quickly(sy_context *ctx, const char *json, size_t len, const char *where, sy_tokenizer **out, bool *done)
{
    syi_parts parts;
    char *rest;
    size_t rest_len;
    *done = false;
    SYI_TRY(syi_scan_split(ctx, json, len, &parts, &rest, &rest_len));
    if (!parts.taken) return SY_OK;
    json_t *j = json_loadb(rest, rest_len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    syi_free(ctx, rest);
    if (j == NULL) return SY_OK;
    bool odd;
    sy_status st = load(ctx, j, &parts, where, out, &odd);
    json_decref(j);
    *done = !odd;
    return odd ? SY_OK : st;
}

sy_status sy_tokenizer_parse(sy_context *ctx, const char *json, size_t len, const char *where, sy_tokenizer **out)
{
    json_error_t error;
    bool done, odd;
    *out = NULL;
    sy_status st = parse_quickly(ctx, json, len, where, out, &done);
    if (st == SY_OK && !done) {
        json_t *j = json_loadb(json, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
        if (j == NULL)
            return syi_fail(ctx, SY_E_INPUT, "%s:%d:%d: not valid JSON: %s", where, error.line, error.column, error.text);
        st = load(ctx, j, NULL, where, out, &odd);
        json_decref(j);
    }
    if (st == SY_OK) (*out)->hash = syi_hash_bytes(json, len);
    return st;
}

void sy_tokenizer_free(sy_tokenizer *t)
{
    if (t == NULL) return;
    sy_context *ctx = t->ctx;
    free_pipeline(ctx, &t->normalizer);
    free_pipeline(ctx, &t->pretokenizer);
    free_pipeline(ctx, &t->processor);
    free_pipeline(ctx, &t->decoder);
    for (int64_t i = 0; i < t->n_added; i++) syi_free(ctx, t->added[i].content);
    syi_free(ctx, t->added);
    syi_trie_free(t->raw);
    syi_trie_free(t->normalized);
    if (t->model != NULL) t->model->free(ctx, t->state);
    syi_map_free(t->ids);
    syi_free(ctx, t->entry);
    syi_free(ctx, t->pool);
    syi_free(ctx, t);
}
