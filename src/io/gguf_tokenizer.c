/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenizers between tokenizer.json and GGUF's keys. What is the same for all is here,
 * with byte-level BPE ("gpt2"); SentencePiece's scores ("llama") and WordPiece
 * ("bert") are rows of vocabularies.c.
 *
 * GGUF keeps tokens, their types and merges or scores as arrays, and only a name for
 * what happens before (pretokenizers.c). Other vocabularies are refused by name. */
#include "vocabularies.h"

/* -- from GGUF -------------------------------------------------------------------- */

typedef syi_vocab_reader reader;

/* The text of token id, NUL-terminated in a buffer that the next call overwrites. */
static sy_status token_text(reader *r, syi_text *buffer, int64_t id, const char **out)
{
    const char *s;
    int64_t len;
    if (!syi_gguf_array_str(r->g, KEY "tokens", id, &s, &len))
        return syi_fail(r->ctx, SY_E_INPUT, "%s: there is no token %lld in " KEY "tokens", r->path, (long long)id);
    if (len == 0 || !syi_utf8_ok(s, (size_t)len))
        return syi_fail(r->ctx, SY_E_INPUT, "%s: token %lld is %s", r->path, (long long)id, len == 0 ? "empty" : "not UTF-8 text");
    buffer->len = 0;
    syi_text_add(buffer, s, (size_t)len);
    if (buffer->failed) return sy_error_code(r->ctx);
    *out = buffer->s;
    return SY_OK;
}

static int type_of(const reader *r, int64_t id)
{
    double type;
    return syi_gguf_array_num(r->g, KEY "token_type", id, &type) ? (int)type : NORMAL;
}

/* Fillers up to a round number of rows are tokens in GGUF only. */
static bool is_filler(const reader *r, int64_t id, const char *text)
{
    return type_of(r, id) == UNUSED && (syi_starts(text, "[PAD") || syi_starts(text, "<pad"));
}

static sy_status read_vocab(reader *r, const syi_vocabulary *kind, json_t *vocab, json_t *added)
{
    sy_context *ctx = r->ctx;
    const int64_t n = syi_gguf_array(r->g, KEY "tokens", NULL), types = syi_gguf_array(r->g, KEY "token_type", NULL);
    if (n < 1 || n > INT32_MAX) return syi_fail(ctx, SY_E_INPUT, "%s: " KEY "tokens is not a list of texts", r->path);
    if (types >= 0 && types != n)
        return syi_fail(ctx, SY_E_INPUT, "%s: %lld tokens but %lld token types", r->path, (long long)n, (long long)types);
    syi_text buffer;
    syi_text_init(&buffer, ctx, 1 << 20);
    sy_status status = SY_OK;
    for (int64_t id = 0; id < n && status == SY_OK; id++) {
        const char *text = NULL;
        status = token_text(r, &buffer, id, &text);
        if (status != SY_OK || is_filler(r, id, text)) continue;
        char *ours = kind != NULL && kind->text_from != NULL ? kind->text_from(ctx, text, type_of(r, id)) : NULL;
        if (kind != NULL && kind->text_from != NULL && (text = ours) == NULL) {
            status = sy_error_code(ctx);
            break;
        }
        if (json_object_get(vocab, text) != NULL)
            status = syi_fail(ctx, SY_E_INPUT, "%s: token %lld, \"%s\", is there twice", r->path, (long long)id, text);
        else if (json_object_set_new(vocab, text, json_integer(id)) != 0)
            status = syi_nomem(ctx, 0);
        const int type = type_of(r, id);
        if (status == SY_OK && (type == CONTROL || type == USER_DEFINED || type == UNKNOWN) &&
            json_array_append_new(added, json_pack("{s:I,s:s,s:b,s:b,s:b,s:b,s:b}", "id", (json_int_t)id, "content", text, "single_word", 0,
                                                   "lstrip", 0, "rstrip", 0, "normalized", 0, "special", type != USER_DEFINED)) != 0)
            status = syi_nomem(ctx, 0);
        syi_free(ctx, ours);
    }
    syi_text_free(&buffer);
    return status;
}

/* "a b" to ["a", "b"]; a token never begins with the blank that separates. */
static sy_status read_merges(reader *r, json_t *merges)
{
    const int64_t n = syi_gguf_array(r->g, KEY "merges", NULL);
    if (n < 0) return syi_fail(r->ctx, SY_E_INPUT, "%s: there is no " KEY "merges", r->path);
    for (int64_t i = 0; i < n; i++) {
        const char *s = "";
        int64_t len = 0;
        syi_gguf_array_str(r->g, KEY "merges", i, &s, &len);
        const char *blank = len > 2 ? memchr(s + 1, ' ', (size_t)len - 2) : NULL;
        json_t *pair = blank == NULL ? NULL : json_array();
        if (pair == NULL || json_array_append_new(pair, json_stringn(s, (size_t)(blank - s))) != 0 ||
            json_array_append_new(pair, json_stringn(blank + 1, (size_t)(s + len - blank - 1))) != 0) {
            json_decref(pair);
            return syi_fail(r->ctx, SY_E_INPUT, "%s: merge %lld is not two texts with a blank between", r->path, (long long)i);
        }
        if (json_array_append_new(merges, pair) != 0) return syi_nomem(r->ctx, 0);
    }
    return SY_OK;
}

/* Adds BOS in front (and EOS behind) of a text: a template of tokenizer.json. */
static json_t *post_processor(const char *bos, int64_t bos_id, const char *eos, int64_t eos_id)
{
    if (bos == NULL && eos == NULL) return json_null();
    json_t *special = json_object(), *lists[2];
    for (int pair = 0; pair < 2; pair++) {
        json_t *list = lists[pair] = json_array();
        for (int part = 0; part <= pair; part++) {
            if (bos != NULL) json_array_append_new(list, json_pack("{s:{s:s,s:i}}", "SpecialToken", "id", bos, "type_id", part));
            json_array_append_new(list, json_pack("{s:{s:s,s:i}}", "Sequence", "id", part == 0 ? "A" : "B", "type_id", part));
            if (eos != NULL) json_array_append_new(list, json_pack("{s:{s:s,s:i}}", "SpecialToken", "id", eos, "type_id", part));
        }
    }
    if (bos != NULL)
        json_object_set_new(special, bos, json_pack("{s:s,s:[I],s:[s]}", "id", bos, "ids", (json_int_t)bos_id, "tokens", bos));
    if (eos != NULL)
        json_object_set_new(special, eos, json_pack("{s:s,s:[I],s:[s]}", "id", eos, "ids", (json_int_t)eos_id, "tokens", eos));
    return json_pack("{s:s,s:o,s:o,s:o}", "type", "TemplateProcessing", "single", lists[0], "pair", lists[1], "special_tokens", special);
}

typedef struct { const char *name, *key; int64_t id; char *text; } special;

/* tokenizer_config.json: the special tokens by name. */
static sy_status special_tokens(reader *r, special *at, int n, json_t *config)
{
    syi_text buffer;
    syi_text_init(&buffer, r->ctx, 1 << 20);
    sy_status status = SY_OK;
    for (int i = 0; i < n && status == SY_OK; i++) {
        const char *text = NULL;
        at[i].id = -1;
        if (!syi_gguf_int(r->g, at[i].key, &at[i].id)) continue;
        status = token_text(r, &buffer, at[i].id, &text);
        if (status != SY_OK) break;
        at[i].text = syi_strdup(r->ctx, text);
        if (at[i].text == NULL) status = sy_error_code(r->ctx);
        else if (json_object_set_new(config, at[i].name, json_string(text)) != 0) status = syi_nomem(r->ctx, 0);
    }
    syi_text_free(&buffer);
    return status;
}

/* Byte-level BPE: what the name of its pre-tokenizer stands for. */
static sy_status bytes_parts(reader *r, const json_t *vocab, syi_vocab_parts *out)
{
    (void)vocab;
    const syi_pre_row *pre = r->pre;
    json_t *merges = json_array();
    out->normalizer = pre->normalizer != NULL ? json_loads(pre->normalizer, 0, NULL) : json_null();
    out->pre_tokenizer = json_loads(pre->pre_tokenizer, 0, NULL);
    out->decoder = json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1);
    out->model = json_pack("{s:s,s:n,s:n,s:s,s:s,s:b,s:b,s:b,s:O}", "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix", "",
                           "end_of_word_suffix", "", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", (int)pre->ignore_merges, "merges", merges);
    const sy_status status = merges == NULL ? syi_nomem(r->ctx, 0) : read_merges(r, merges);
    json_decref(merges);
    return status;
}

static sy_status build(reader *r, const syi_vocabulary *kind, json_t **tokenizer, json_t **config)
{
    special at[] = {{"bos_token", KEY "bos_token_id", -1, NULL},       {"eos_token", KEY "eos_token_id", -1, NULL},
                    {"pad_token", KEY "padding_token_id", -1, NULL},   {"unk_token", KEY "unknown_token_id", -1, NULL},
                    {"cls_token", KEY "cls_token_id", -1, NULL},       {"sep_token", KEY "seperator_token_id", -1, NULL},
                    {"mask_token", KEY "mask_token_id", -1, NULL}};
    json_t *vocab = json_object(), *added = json_array(), *post;
    syi_vocab_parts parts = {0};
    bool add_bos = kind != NULL ? kind->add_bos : r->pre->add_bos, add_eos = kind != NULL && kind->add_eos;
    int64_t context = 0;
    const char *arch = "", *text;
    char key[256];
    sy_status status;
    *config = json_pack("{s:b,s:s}", "clean_up_tokenization_spaces", 0, "tokenizer_class", "PreTrainedTokenizerFast");
    syi_gguf_bool(r->g, KEY "add_bos_token", &add_bos);
    syi_gguf_bool(r->g, KEY "add_eos_token", &add_eos);
    SYI_TRY_TO(done, status, read_vocab(r, kind, vocab, added));
    SYI_TRY_TO(done, status, special_tokens(r, at, SYI_COUNT(at), *config));
    r->unk = at[3].text;
    SYI_TRY_TO(done, status, kind != NULL ? kind->parts(r, vocab, &parts) : bytes_parts(r, vocab, &parts));
    syi_gguf_str(r->g, "general.architecture", &arch);
    snprintf(key, sizeof key, "%s.context_length", arch);
    if (syi_gguf_int(r->g, key, &context)) json_object_set_new(*config, "model_max_length", json_integer(context));
    if (syi_gguf_str(r->g, "tokenizer.chat_template", &text)) json_object_set_new(*config, "chat_template", json_string(text));
    json_object_set_new(*config, "add_bos_token", json_boolean(add_bos && at[0].text != NULL));
    json_object_set_new(*config, "add_eos_token", json_boolean(add_eos && at[1].text != NULL));
    int front = at[0].text == NULL && at[4].text != NULL ? 4 : 0, back = kind != NULL && kind->add_eos && at[5].text != NULL ? 5 : 1;
    post = post_processor(add_bos ? at[front].text : NULL, at[front].id, add_eos ? at[back].text : NULL, at[back].id);
    if (parts.model != NULL) json_object_set(parts.model, "vocab", vocab);
    *tokenizer = json_pack("{s:s,s:n,s:n,s:O,s:O,s:O,s:o,s:O,s:O}", "version", "1.0", "truncation", "padding", "added_tokens", added, "normalizer",
                           parts.normalizer, "pre_tokenizer", parts.pre_tokenizer, "post_processor", post, "decoder", parts.decoder, "model", parts.model);
    status = *tokenizer != NULL && *config != NULL ? SY_OK : syi_nomem(r->ctx, 0);
done:
    for (int i = 0; i < SYI_COUNT(at); i++) syi_free(r->ctx, at[i].text);
    json_decref(parts.normalizer);
    json_decref(parts.pre_tokenizer);
    json_decref(parts.decoder);
    json_decref(parts.model);
    json_decref(vocab);
    json_decref(added);
    return status;
}

sy_status syi_tokenizer_from_gguf(sy_context *ctx, const syi_gguf *g, const char *path, json_t **tokenizer, json_t **config, char **chat_template)
{
    reader r = {.ctx = ctx, .g = g, .path = path};
    const char *model, *pre = NULL, *text;
    if (!syi_gguf_str(g, KEY "model", &model) || strcmp(model, "no_vocab") == 0 || strcmp(model, "none") == 0) return SY_OK;
    if (syi_gguf_str(g, "tokenizer.chat_template", &text)) {
        *chat_template = syi_strdup(ctx, text);
        if (*chat_template == NULL) return sy_error_code(ctx);
    }
    if (strcmp(model, "gpt2") != 0) {
        const syi_vocabulary *kind = syi_vocabulary_by_name(model);
        if (kind != NULL) return build(&r, kind, tokenizer, config);
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: its tokenizer is of kind \"%s\" (" KEY "model), which is not supported; gpt2 (byte-level BPE), llama "
                        "(SentencePiece) and bert (WordPiece) are", path, model);
    }
    if (!syi_gguf_str(g, KEY "pre", &pre)) {
        syi_log(ctx, SY_LOG_WARN, "%s: has no " KEY "pre: GPT-2's pre-tokenizer is assumed, which may be wrong", path);
        pre = "gpt-2";
    }
    const syi_pre_row *row = syi_pre_by_name(pre);
    if (row == NULL) {
        syi_text known;
        syi_text_init(&known, ctx, 4096);
        syi_pre_list(&known);
        const sy_status status = syi_fail(ctx, SY_E_UNSUPPORTED, "%s: the pre-tokenizer \"%s\" (" KEY "pre) is not known; these are: %s", path, pre,
                                          known.s != NULL ? known.s : "");
        syi_text_free(&known);
        return status;
    }
    r.pre = row;
    return build(&r, NULL, tokenizer, config);
}

/* -- to GGUF --------------------------------------------------------------------------- */

typedef syi_vocab_table table;

static sy_status put_token(table *t, const char *text, int64_t id, int type)
{
    if (id < 0 || id >= t->n)
        return syi_fail(t->ctx, SY_E_INPUT, "%s: tokenizer.json: token \"%s\" has id %lld, but the embedding has %lld rows", t->s->path, text,
                        (long long)id, (long long)t->n);
    if (t->token[id] != NULL && strcmp(t->token[id], text) != 0)
        return syi_fail(t->ctx, SY_E_INPUT, "%s: tokenizer.json: \"%s\" and \"%s\" have the same id %lld", t->s->path, t->token[id], text,
                        (long long)id);
    t->token[id] = text;
    t->type[id] = type;
    return SY_OK;
}

static sy_status fill_table(table *t, syi_arena *arena)
{
    const json_t *model = json_object_get(t->s->tokenizer, "model"), *added = json_object_get(t->s->tokenizer, "added_tokens"), *one;
    const char *text;
    json_t *id;
    size_t i;
    json_object_foreach(json_object_get(model, "vocab"), text, id) SYI_TRY(put_token(t, text, json_integer_value(id), NORMAL));
    json_array_foreach((json_t *)added, i, one) {
        text = json_string_value(json_object_get(one, "content"));
        if (text == NULL) return syi_fail(t->ctx, SY_E_INPUT, "%s: tokenizer.json: added token %zu has no content", t->s->path, i);
        SYI_TRY(put_token(t, text, json_integer_value(json_object_get(one, "id")),
                          json_is_true(json_object_get(one, "special")) ? CONTROL : USER_DEFINED));
    }
    for (int64_t k = 0; k < t->n; k++) {
        if (t->token[k] != NULL) continue;
        t->type[k] = UNUSED;
        t->token[k] = syi_arena_format(arena, "[PAD%lld]", (long long)k);
        if (t->token[k] == NULL) return sy_error_code(t->ctx);
    }
    return SY_OK;
}

/* One side of a merge; a blank inside of it would separate, so it is written as the
 * byte-level alphabet writes it. */
static void add_side(syi_text *out, const char *s)
{
    for (; *s != '\0'; s++) syi_text_add(out, *s == ' ' ? "\xc4\xa0" : s, *s == ' ' ? 2 : 1);
}

static sy_status put_merges(syi_gguf_writer *w, const table *t, syi_arena *arena)
{
    const json_t *merges = json_object_get(json_object_get(t->s->tokenizer, "model"), "merges"), *one;
    const size_t n = json_array_size(merges);
    const char **list = syi_arena_alloc(arena, (n + 1) * sizeof *list);
    size_t i;
    if (list == NULL) return sy_error_code(t->ctx);
    syi_text text;
    syi_text_init(&text, t->ctx, 1 << 20);
    sy_status status = SY_OK;
    json_array_foreach((json_t *)merges, i, one) {
        const char *a = json_string_value(json_array_get(one, 0)), *b = json_string_value(json_array_get(one, 1));
        list[i] = json_string_value(one); /* old files: "a b" */
        if (list[i] != NULL) continue;
        if (a == NULL || b == NULL) {
            status = syi_fail(t->ctx, SY_E_INPUT, "%s: tokenizer.json: merge %zu is not a pair of texts", t->s->path, i);
            break;
        }
        text.len = 0;
        add_side(&text, a);
        syi_text_puts(&text, " ");
        add_side(&text, b);
        list[i] = text.failed ? NULL : syi_arena_strdup(arena, text.s);
        if (list[i] == NULL) {
            status = sy_error_code(t->ctx);
            break;
        }
    }
    syi_text_free(&text);
    return status == SY_OK ? syi_gguf_put_strs(w, KEY "merges", (int64_t)n, list, NULL) : status;
}

static int64_t find_token(const syi_source *s, const char *content)
{
    const json_t *one;
    size_t i;
    json_array_foreach(json_object_get(s->tokenizer, "added_tokens"), i, one) {
        const char *text = json_string_value(json_object_get(one, "content"));
        if (text != NULL && strcmp(text, content) == 0) return json_integer_value(json_object_get(one, "id"));
    }
    const json_t *id = json_object_get(json_object_get(json_object_get(s->tokenizer, "model"), "vocab"), content);
    return json_is_integer(id) ? json_integer_value(id) : -1;
}

/* By tokenizer_config.json's text, or else by config.json's id (the first of several). */
static int64_t special_id(const syi_source *s, const char *token_key, const char *id_key)
{
    const json_t *token = json_object_get(s->tokenizer_config, token_key), *id;
    const char *text = json_is_object(token) ? json_string_value(json_object_get(token, "content")) : json_string_value(token);
    if (text != NULL) return find_token(s, text);
    id = json_object_get(s->config, id_key);
    if (json_is_array(id)) id = json_array_get(id, 0);
    return json_is_integer(id) ? json_integer_value(id) : -1;
}

/* The template of a post-processor, alone or within a sequence. */
static const json_t *template_of(const json_t *post)
{
    const char *type = json_string_value(json_object_get(post, "type"));
    const json_t *one;
    size_t i;
    if (type != NULL && strcmp(type, "TemplateProcessing") == 0) return json_object_get(post, "single");
    json_array_foreach(json_object_get(post, "processors"), i, one) {
        const json_t *found = template_of(one);
        if (found != NULL) return found;
    }
    return NULL;
}

/* Does encoding add a token at that end? */
static bool adds(const syi_source *s, const char *key, bool front)
{
    const json_t *post = json_object_get(s->tokenizer, "post_processor"), *single = template_of(post);
    const char *type = json_string_value(json_object_get(post, "type"));
    const size_t n = json_array_size(single);
    if (type != NULL && (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)) return true; /* both ends, always */
    if (n > 0) return json_object_get(json_array_get(single, front ? 0 : n - 1), "SpecialToken") != NULL;
    return json_is_true(json_object_get(s->tokenizer_config, key));
}

static sy_status put_ids(syi_gguf_writer *w, const syi_source *s)
{
    static const struct { const char *key, *token, *id; } rows[] = {{KEY "bos_token_id", "bos_token", "bos_token_id"},
                                                                    {KEY "eos_token_id", "eos_token", "eos_token_id"},
                                                                    {KEY "unknown_token_id", "unk_token", "unk_token_id"},
                                                                    {KEY "padding_token_id", "pad_token", "pad_token_id"},
                                                                    {KEY "cls_token_id", "cls_token", "cls_token_id"},
                                                                    {KEY "seperator_token_id", "sep_token", "sep_token_id"},
                                                                    {KEY "mask_token_id", "mask_token", "mask_token_id"}};
    int64_t eos = -1;
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        const int64_t id = special_id(s, rows[i].token, rows[i].id);
        if (i == 1) eos = id;
        if (id >= 0) SYI_TRY(syi_gguf_put_u32(w, rows[i].key, (uint32_t)id));
    }
    const json_t *ends = json_object_get(s->generation, "eos_token_id"), *one;
    size_t i;
    json_array_foreach((json_t *)ends, i, one)
        if (json_integer_value(one) != eos) return syi_gguf_put_u32(w, KEY "eot_token_id", (uint32_t)json_integer_value(one));
    return SY_OK;
}

static sy_status put_all(syi_gguf_writer *w, table *t, const syi_vocabulary *kind, const syi_pre_row *pre, syi_arena *arena)
{
    char name[32] = "default";
    if (kind == NULL) syi_pre_name(pre, name);
    SYI_TRY(syi_gguf_put_str(w, KEY "model", kind != NULL ? kind->model : "gpt2", -1));
    SYI_TRY(syi_gguf_put_str(w, KEY "pre", name, -1));
    t->token = syi_arena_alloc(arena, (size_t)t->n * sizeof *t->token);
    t->type = syi_arena_alloc(arena, (size_t)t->n * sizeof *t->type);
    if (t->token == NULL || t->type == NULL) return sy_error_code(t->ctx);
    SYI_TRY(fill_table(t, arena));
    if (kind != NULL) SYI_TRY(kind->put(w, t, arena));
    SYI_TRY(syi_gguf_put_strs(w, KEY "tokens", t->n, t->token, NULL));
    SYI_TRY(syi_gguf_put_i32s(w, KEY "token_type", t->n, t->type));
    if (kind == NULL) SYI_TRY(put_merges(w, t, arena));
    SYI_TRY(put_ids(w, t->s));
    SYI_TRY(syi_gguf_put_bool(w, KEY "add_bos_token", adds(t->s, "add_bos_token", true)));
    SYI_TRY(syi_gguf_put_bool(w, KEY "add_eos_token", adds(t->s, "add_eos_token", false)));
    SYI_TRY(syi_gguf_put_bool(w, KEY "add_space_prefix", kind != NULL && kind->adds_space(t->s->tokenizer)));
    if (t->s->chat_template != NULL) SYI_TRY(syi_gguf_put_str(w, "tokenizer.chat_template", t->s->chat_template, -1));
    return SY_OK;
}

sy_status syi_tokenizer_to_gguf(syi_gguf_writer *w, const syi_source *s, int64_t vocab)
{
    sy_context *ctx = s->ctx;
    const syi_gguf *g = s->gguf ? s->tensors->gguf : NULL;
    if (g != NULL) { /* from GGUF to GGUF: as they are */
        for (int64_t i = 0; i < syi_gguf_keys(g); i++) {
            const char *key = syi_gguf_key(g, i, NULL);
            if (syi_starts(key, "tokenizer.") && !syi_gguf_has_key(w, key)) SYI_TRY(syi_gguf_copy_key(w, g, key));
        }
        return SY_OK;
    }
    if (s->tokenizer == NULL) {
        syi_log(ctx, SY_LOG_WARN, "%s: has no tokenizer.json: the GGUF will have no vocabulary", s->path);
        return syi_gguf_put_str(w, KEY "model", "no_vocab", -1);
    }
    const syi_vocabulary *kind = syi_vocabulary_of(s->tokenizer);
    const json_t *model = json_object_get(s->tokenizer, "model");
    const char *type = json_string_value(json_object_get(model, "type"));
    if (kind == NULL && (type != NULL ? strcmp(type, "BPE") != 0 : json_object_get(model, "merges") == NULL))
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tokenizer.json: GGUF has no such tokenizer: a model of type %s with this normalizer; byte-level BPE, "
                        "SentencePiece's BPE (byte_fallback, \"\xE2\x96\x81\" for spaces) and uncased BERT's WordPiece can be written", s->path, type != NULL ? type : "(none)");
    const syi_pre_row *pre = kind == NULL ? syi_pre_of(s->tokenizer) : NULL;
    if (kind == NULL && pre == NULL) {
        syi_text known;
        syi_text_init(&known, ctx, 4096);
        syi_pre_list(&known);
        const sy_status status = syi_fail(ctx, SY_E_UNSUPPORTED,
                                          "%s: tokenizer.json: GGUF has a name for a pre-tokenizer where this file has its own, and it is none of "
                                          "those known: %s",
                                          s->path, known.s != NULL ? known.s : "");
        syi_text_free(&known);
        return status;
    }
    table t = {ctx, s, vocab, NULL, NULL};
    syi_arena *arena = NULL;
    SYI_TRY(syi_arena_new(ctx, 256 * 1024, &arena));
    const sy_status status = put_all(w, &t, kind, pre, arena);
    syi_arena_free(arena);
    return status;
}
