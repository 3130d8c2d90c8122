/* SPDX-License-Identifier: Apache-2.0 */
/* Labelled texts: a record becomes one row, the text with the tokenizer's special tokens and
 * padding behind it (each a document of its own, which nothing sees). Rows are as long as the
 * longest text, at most seq. */
#include "data/data.h"

#include "io/io.h"
#include "text/dataset.h"

enum { SLOTS = 4 };

typedef struct { int32_t *ids, *positions, *first, *sample, *target; int64_t cap; } slot;

typedef struct {
    sy_context *ctx;
    syi_labelled labelled;
    int32_t *token; int64_t n_token, cap_token; /* of all texts                            */
    int64_t *begin; int64_t cap_begin;  /* [n + 1]                                         */
    int32_t *label; int64_t cap_label;
    int64_t n, seq, cut;
    bool labels;
    slot slot[SLOTS];
} sentences;

static void sentences_free(void *self)
{
    sentences *m = self;
    for (int i = 0; i < SLOTS; i++) syi_free(m->ctx, m->slot[i].ids);
    syi_labelled_free(&m->labelled);
    syi_free(m->ctx, m->token);
    syi_free(m->ctx, m->begin);
    syi_free(m->ctx, m->label);
    syi_free(m->ctx, m);
}

static const json_t *first_of(const json_t *j, const char *const *keys)
{
    for (; *keys != NULL; keys++)
        if (json_object_get(j, *keys) != NULL) return json_object_get(j, *keys);
    return NULL;
}

static sy_status add(sentences *m, const json_t *j, const char *where, const json_t *labels, int64_t classes, const sy_dataset_options *o)
{
    static const char *const texts[] = {"text", "sentence", "content", "input", NULL}, *const seconds[] = {"text_pair", "sentence2", "hypothesis", NULL},
                      *const names[] = {"label", "labels", "class", NULL};
    const json_t *text = first_of(j, texts), *label = first_of(j, names);
    char number[32];
    if (first_of(j, seconds) != NULL) return syi_fail(m->ctx, SY_E_UNSUPPORTED, "%s: pairs of texts are not classified yet; one text a record is", where);
    if (!json_is_string(text) || (classes > 0 && !json_is_string(label) && !json_is_integer(label)))
        return syi_fail(m->ctx, SY_E_INPUT, "%s: a record with \"text\"%s was expected", where, classes > 0 ? " and \"label\"" : "");
    snprintf(number, sizeof number, "%lld", (long long)json_integer_value(label));
    const int64_t k = classes > 0 ? syi_class_of(m->ctx, json_is_string(label) ? json_string_value(label) : number, labels, classes, where) : -1;
    if (k < 0 && classes > 0) return SY_E_INPUT;
    sy_token *t = NULL;
    int64_t n = 0;
    SYI_TRY(sy_tokenize(m->ctx, o->tokenizer, json_string_value(text), (int64_t)json_string_length(text), false, true, &t, &n));
    sy_status s = n > 0 ? SY_OK : syi_fail(m->ctx, SY_E_INPUT, "%s: the text has no tokens", where);
    const int64_t keep = syi_min(n, o->seq);
    if (s == SY_OK) s = syi_grow(m->ctx, (void **)&m->token, &m->cap_token, m->n_token + keep, sizeof *m->token, INT64_C(1) << 36);
    if (s == SY_OK) s = syi_grow(m->ctx, (void **)&m->begin, &m->cap_begin, m->n + 2, sizeof *m->begin, INT64_C(1) << 34);
    if (s == SY_OK) s = syi_grow(m->ctx, (void **)&m->label, &m->cap_label, m->n + 1, sizeof *m->label, INT64_C(1) << 34);
    if (s == SY_OK) {
        for (int64_t i = 0; i < keep; i++) m->token[m->n_token + i] = t[i].id;
        if (keep < n) m->token[m->n_token + keep - 1] = t[n - 1].id; /* what ends a text ([SEP]) ends a cut one, too */
        m->cut += keep < n;
        m->begin[m->n] = m->n_token;
        m->label[m->n++] = (int32_t)k;
        m->n_token += keep;
        m->begin[m->n] = m->n_token;
        m->seq = syi_max(m->seq, keep);
    }
    sy_tokens_free(m->ctx, t);
    return s;
}

static sy_status read_all(sentences *m, const char *path, const json_t *labels, int64_t classes, const sy_dataset_options *o)
{
    syi_reader r = {0};
    bool found = true;
    SYI_TRY(syi_reader_open(m->ctx, path, &r));
    sy_status s = SY_OK;
    while (s == SY_OK && found && !(o->max_documents > 0 && m->n >= o->max_documents)) {
        syi_record one;
        char where[4200];
        json_t *j = NULL;
        s = syi_reader_next(&r, &one, &found);
        if (s != SY_OK || !found) break;
        snprintf(where, sizeof where, "%s:%lld", path, (long long)one.line);
        s = syi_json_parse(m->ctx, one.s, (size_t)one.n, where, &j);
        if (s == SY_OK) s = add(m, j, where, labels, classes, o);
        json_decref(j);
        if (one.owned) syi_free(m->ctx, one.s);
    }
    syi_reader_close(&r);
    return s;
}

static sy_status sentences_batch(void *self, int64_t row, int64_t rows, int which, sy_batch *out)
{
    sentences *m = self;
    const int64_t tokens = rows * m->seq;
    if (row < 0 || rows < 1 || rows > INT32_MAX / m->seq || row > INT64_MAX - rows || which < 0 || which >= SLOTS)
        return syi_fail(m->ctx, SY_E_USAGE, "a batch of %lld rows from row %lld in slot %d", (long long)rows, (long long)row, which);
    slot *s = &m->slot[which];
    if (s->cap < tokens) {
        syi_free(m->ctx, s->ids);
        *s = (slot){.ids = syi_alloc(m->ctx, (size_t)(tokens * 5) * sizeof *s->ids), .cap = tokens};
        if (s->ids == NULL) return s->cap = 0, SY_E_MEMORY;
        s->positions = s->ids + tokens, s->first = s->positions + tokens, s->sample = s->first + tokens, s->target = s->sample + tokens;
    }
    for (int64_t i = 0; i < rows; i++) {
        int64_t item;
        SYI_TRY(syi_labelled_at(&m->labelled, row + i, &item));
        const int64_t n = m->begin[item + 1] - m->begin[item];
        s->target[i] = m->label[item];
        for (int64_t t = 0; t < m->seq; t++) {
            const int64_t at = i * m->seq + t;
            s->ids[at] = t < n ? m->token[m->begin[item] + t] : 0;
            s->positions[at] = t < n ? (int32_t)t : 0;
            s->first[at] = (int32_t)(t < n ? i * m->seq : at);
            s->sample[at] = (int32_t)i;
        }
    }
    *out = (sy_batch){.rows = rows, .seq = m->seq, .tokens = tokens, .ids = s->ids, .positions = s->positions, .first = s->first, .target = s->target,
                      .sample = s->sample, .samples = rows, .trained = m->labels ? rows : 0};
    return SY_OK;
}

sy_status syi_sentences_open(sy_context *ctx, const char *path, const json_t *labels, int64_t classes, const sy_dataset_options *o, sy_dataset **out)
{
    static const syi_dataset_ops ops = {sentences_batch, sentences_free};
    sy_dataset_options whole = *o;
    sy_dataset_info info = {.format = "labelled texts"};
    *out = NULL;
    sentences *m = syi_calloc(ctx, 1, sizeof *m);
    if (m == NULL) return SY_E_MEMORY;
    m->ctx = ctx;
    m->labels = classes > 0;
    syi_mapped file;
    sy_status s = o->tokenizer != NULL ? read_all(m, path, labels, classes, o) : syi_fail(ctx, SY_E_USAGE, "a data set of texts needs a tokenizer");
    if (s == SY_OK) s = syi_map_file(ctx, path, &file);
    if (s == SY_OK) {
        syi_hash_text(info.hash, syi_hash_bytes(file.data, (size_t)file.size));
        syi_unmap_file(ctx, &file);
        whole.max_documents = 0;
        s = syi_labelled_init(ctx, m->n, &whole, &m->labelled);
    }
    info.documents = info.rows_per_epoch = info.trained_tokens = m->labelled.n;
    info.truncated_documents = m->cut;
    for (int64_t i = 0; s == SY_OK && i < m->labelled.n; i++) info.tokens += m->begin[m->labelled.item[i] + 1] - m->begin[m->labelled.item[i]];
    if (s == SY_OK) s = syi_dataset_of(ctx, &ops, m, &info, out);
    if (s != SY_OK) sentences_free(m);
    return s;
}
