/* SPDX-License-Identifier: Apache-2.0 */
/* From a file to tokens in a store: records are read in batches, made into documents
 * in parallel and stored in their order; a plain text goes through the tokenizer as
 * one and leaves it in pieces. What was made before of the same contents is found. */
#include "dataset.h"

#include <omp.h>

enum { BATCH_RECORDS = 1024, BATCH_BYTES = 16 << 20, HASH_BYTES = 16 << 20 };

typedef struct {
    sy_context *ctx;
    const sy_dataset_options *o;
    const char *path;
    syi_reader reader;
    syi_store *store;
    syi_worker *worker;
    int workers;
    syi_kind kind;
    int64_t masked, usable;
} maker;

/* -- the crew ------------------------------------------------------------------------ */

static void crew_free(maker *m)
{
    for (int i = 0; m->worker != NULL && i < m->workers; i++) {
        syi_encoder_free(m->worker[i].encoder);
        sy_context_free(m->worker[i].ctx);
    }
    syi_free(m->ctx, m->worker);
}

static sy_status crew_new(maker *m, const syi_chat *chat, const json_t *variables)
{
    m->workers = m->reader.whole ? 1 : syi_omp(m->ctx);
    m->worker = syi_calloc(m->ctx, (size_t)m->workers, sizeof *m->worker);
    if (m->worker == NULL) return SY_E_MEMORY;
    for (int i = 0; i < m->workers; i++) {
        syi_worker *w = &m->worker[i];
        *w = (syi_worker){.ctx = sy_context_new(), .o = m->o, .chat = chat, .variables = variables, .path = m->path};
        if (w->ctx == NULL || syi_encoder_new(w->ctx, m->o->tokenizer, &w->encoder) != SY_OK) return syi_nomem(m->ctx, 4096);
    }
    return SY_OK;
}

/* -- records ------------------------------------------------------------------------- */

static void note(maker *m, const char *key)
{
    char(*notes)[48] = syi_store_notes(m->store);
    for (int i = 0; key[0] != '\0' && i < SYI_NOTES; i++) {
        if (strcmp(notes[i], key) == 0) return;
        if (notes[i][0] != '\0') continue;
        snprintf(notes[i], sizeof notes[i], "%s", key);
        return;
    }
}

/* Will some token of it be trained, of those that are kept? */
static bool is_usable(const maker *m, const syi_document *d)
{
    bool cut = d->kind == KIND_TEXT || d->kind == KIND_PLAIN;
    int64_t n = cut ? d->n : syi_min(d->n, m->o->seq);
    for (int64_t i = 1; i < n; i++)
        if (i % m->o->seq != 0 && (d->token[i] & TRAINED)) return true;
    return false;
}

static sy_status take_document(maker *m, const syi_record *r, syi_document *d)
{
    if (d->status != SY_OK) return syi_fail(m->ctx, d->status, "%s", d->message ? d->message : sy_status_text(d->status));
    if (m->kind != KIND_NONE && m->kind != d->kind)
        return syi_fail(m->ctx, SY_E_INPUT, "%s:%lld: a %s record after %s records; a data set is of one kind", m->path, (long long)r->line,
                        syi_kind_name(d->kind), syi_kind_name(m->kind));
    if (m->kind == KIND_NONE && d->kind != KIND_TEXT && d->kind != KIND_PROMPT && m->o->chat_template == NULL)
        syi_log(m->ctx, SY_LOG_INFO, "%s: the model has no chat template: ChatML is used; --chat-template NAME for another", m->path);
    m->kind = d->kind;
    m->masked += d->masked;
    m->usable += is_usable(m, d);
    note(m, d->extra);
    SYI_TRY(syi_store_add(m->store, d->token, d->n));
    return syi_store_end(m->store);
}

static bool is_enough(const maker *m)
{
    return m->o->max_documents > 0 && m->usable >= m->o->max_documents;
}

/* One batch: documents are made in parallel, then taken in their order. */
static sy_status take_batch(maker *m, const syi_record *record, int n)
{
    syi_document *doc = syi_calloc(m->ctx, (size_t)n, sizeof *doc);
    int *who = syi_calloc(m->ctx, (size_t)n, sizeof *who);
    sy_status st = doc && who ? SY_OK : SY_E_MEMORY;
    int threads = (int)syi_min(m->workers, (n + 3) / 4);
    if (st == SY_OK) {
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
        for (int i = 0; i < n; i++) {
            who[i] = omp_get_thread_num();
            syi_document_make(&m->worker[who[i]], &record[i], &doc[i]);
        }
    }
    for (int i = 0; i < n && st == SY_OK && !is_enough(m); i++) st = take_document(m, &record[i], &doc[i]);
    for (int i = 0; doc && who && i < n; i++) {
        sy_context *mine = m->worker[who[i]].ctx;
        syi_free(mine, doc[i].token);
        syi_free(mine, doc[i].message);
    }
    syi_free(m->ctx, doc);
    syi_free(m->ctx, who);
    return st;
}

static sy_status read_batch(maker *m, syi_record *record, int *n, bool *more)
{
    int64_t bytes = 0;
    sy_status st = SY_OK;
    *n = 0;
    while (*more && *n < BATCH_RECORDS && bytes < BATCH_BYTES) {
        st = syi_reader_next(&m->reader, &record[*n], more);
        if (st != SY_OK || !*more) break;
        bytes += record[(*n)++].n;
    }
    return sy_cancelled(m->ctx) && st == SY_OK ? syi_fail(m->ctx, SY_E_CANCELLED, "interrupted while reading %s", m->path) : st;
}

static sy_status read_records(maker *m)
{
    syi_record *record = syi_calloc(m->ctx, BATCH_RECORDS, sizeof *record);
    if (record == NULL) return SY_E_MEMORY;
    sy_status st = SY_OK;
    bool more = true;
    while (st == SY_OK && more && !is_enough(m)) {
        int n;
        st = read_batch(m, record, &n, &more);
        /* What came before the trouble is looked at first: its errors come first. */
        if (n > 0 && st != SY_E_MEMORY && st != SY_E_CANCELLED) {
            char *message = st != SY_OK ? syi_strdup(m->ctx, sy_error_message(m->ctx)) : NULL;
            sy_status later = st;
            st = take_batch(m, record, n);
            if (st == SY_OK && later != SY_OK) st = syi_fail(m->ctx, later, "%s", message ? message : "");
            syi_free(m->ctx, message);
        }
        for (int i = 0; i < n; i++)
            if (record[i].owned) syi_free(m->ctx, record[i].s);
        syi_mapped_forget(m->reader.file.data, m->reader.file.size);
    }
    syi_free(m->ctx, record);
    return st;
}

/* -- a plain text ---------------------------------------------------------------------- */

typedef struct { maker *m; int64_t n; int32_t last; sy_status status; } pour;

static sy_status pour_ids(pour *p, const int32_t *id, int64_t n)
{
    enum { STRIP = 4096 };
    uint32_t token[STRIP];
    for (int64_t at = 0; at < n;) {
        int64_t k = syi_min(STRIP, n - at);
        for (int64_t i = 0; i < k; i++) token[i] = (uint32_t)id[at + i] | TRAINED;
        p->status = syi_store_add(p->m->store, token, k);
        if (p->status != SY_OK) return p->status;
        at += k;
    }
    if (n > 0) p->last = id[n - 1];
    p->n += n;
    return SY_OK;
}

/* Called by the encoder each time that it has many ids. */
static sy_status pour_some(void *self, const int32_t *id, int64_t n)
{
    pour *p = self;
    const sy_dataset_options *o = p->m->o;
    if (sy_cancelled(p->m->ctx)) return p->status = syi_fail(p->m->ctx, SY_E_CANCELLED, "interrupted while reading %s", p->m->path);
    if (p->n == 0 && n > 0 && o->bos_id >= 0 && id[0] != o->bos_id) SYI_TRY(pour_ids(p, &o->bos_id, 1));
    syi_mapped_forget(p->m->reader.file.data, p->m->reader.file.size);
    return pour_ids(p, id, n);
}

static sy_status read_plain(maker *m)
{
    syi_worker *w = &m->worker[0];
    syi_record r;
    bool found;
    SYI_TRY(syi_reader_next(&m->reader, &r, &found));
    m->kind = KIND_PLAIN;
    if (!found) return SY_OK;
    pour p = {.m = m, .last = -1};
    w->encoder->flush = pour_some;
    w->encoder->flush_to = &p;
    sy_status st = syi_encode(w->encoder, r.s, r.n, true, true, false, false);
    if (st == SY_OK) st = pour_some(&p, w->encoder->id, w->encoder->n);
    if (st == SY_OK && m->o->eos_id >= 0 && p.last != m->o->eos_id) st = pour_ids(&p, &m->o->eos_id, 1);
    if (st != SY_OK && p.status == SY_OK) st = syi_fail(m->ctx, st, "%s: %s", m->path, sy_error_message(w->ctx));
    if (r.owned) syi_free(m->ctx, r.s);
    return st == SY_OK ? syi_store_end(m->store) : st;
}

/* -- what the tokens depend on ----------------------------------------------------------- */

static void add_text(syi_hasher *h, const char *s)
{
    int64_t n = s != NULL ? (int64_t)strlen(s) : -1;
    syi_hasher_add(h, &n, sizeof n);
    if (n > 0) syi_hasher_add(h, s, (size_t)n);
}

static sy_status hash_file(maker *m, syi_hash *out)
{
    syi_hasher *h;
    SYI_TRY(syi_hasher_new(m->ctx, &h));
    for (int64_t at = 0; at < m->reader.file.size; at += HASH_BYTES) {
        int64_t n = syi_min(HASH_BYTES, m->reader.file.size - at);
        syi_hasher_add(h, m->reader.file.data + at, (size_t)n);
        syi_mapped_forget(m->reader.file.data + at, n);
    }
    *out = syi_hasher_end(h);
    return SY_OK;
}

static sy_status key_of(maker *m, syi_hash file, const char *bos, const char *eos, syi_hash *out)
{
    const sy_dataset_options *o = m->o;
    const char *const field[] = {o->fields.text, o->fields.prompt, o->fields.completion, o->fields.messages, o->fields.instruction, o->fields.input,
                                 o->fields.output, o->fields.system, o->fields.role, o->fields.content, o->fields.chosen, o->fields.rejected};
    const int64_t number[] = {o->eos_id, o->bos_id, o->loss_on, o->preference, o->max_documents, o->max_documents > 0 ? o->seq : 0,
                              m->reader.whole, m->reader.gz};
    syi_hasher *h;
    SYI_TRY(syi_hasher_new(m->ctx, &h));
    add_text(h, SY_VERSION);
    syi_hasher_add(h, &file, sizeof file);
    syi_hasher_add(h, &o->tokenizer->hash, sizeof o->tokenizer->hash);
    syi_hasher_add(h, number, sizeof number);
    add_text(h, o->chat_template);
    add_text(h, bos);
    add_text(h, eos);
    for (int i = 0; i < SYI_COUNT(field); i++) add_text(h, field[i]);
    *out = syi_hasher_end(h);
    return SY_OK;
}

/* -- the whole ----------------------------------------------------------------------------- */

/* What the template prints as bos_token and eos_token. */
static const char *token_text(const char *given, const sy_tokenizer *t, int32_t id)
{
    return given ? given : id >= 0 ? sy_token_text(t, id, NULL, NULL) : NULL;
}

static sy_status make(maker *m, const char *bos, const char *eos)
{
    syi_chat *chat = NULL;
    json_t *variables = json_object();
    sy_status st = variables != NULL ? SY_OK : syi_nomem(m->ctx, 64);
    if (bos != NULL) json_object_set_new(variables, "bos_token", json_string(bos));
    if (eos != NULL) json_object_set_new(variables, "eos_token", json_string(eos));
    if (st == SY_OK) st = syi_chat_parse(m->ctx, m->o->chat_template, m->o->chat_template ? strlen(m->o->chat_template) : 0, "chat template", &chat);
    if (st == SY_OK) st = crew_new(m, chat, variables);
    if (st == SY_OK) st = m->reader.whole ? read_plain(m) : read_records(m);
    syi_store_about(m->store, m->kind, m->masked);
    if (st == SY_OK) st = syi_store_done(m->store);
    crew_free(m);
    syi_chat_free(chat);
    json_decref(variables);
    return st;
}

sy_status syi_documents_make(sy_context *ctx, const char *path, const sy_dataset_options *o, syi_store **out, char hash[33], bool *cached)
{
    maker m = {.ctx = ctx, .o = o, .path = path};
    const char *bos = token_text(o->bos_token, o->tokenizer, o->bos_id), *eos = token_text(o->eos_token, o->tokenizer, o->eos_id);
    char *file = NULL, name[40] = "";
    syi_hash content, key = {0};
    sy_status st;
    *out = NULL;
    *cached = false;
    SYI_TRY_TO(done, st, syi_reader_open(ctx, path, &m.reader));
    SYI_TRY_TO(done, st, hash_file(&m, &content));
    syi_hash_text(hash, content);
    if (o->cache != NULL) {
        SYI_TRY_TO(done, st, key_of(&m, content, bos, eos, &key));
        SYI_TRY_TO(done, st, syi_mkdirs(ctx, o->cache));
        syi_hash_text(name, key);
        if ((file = syi_format(ctx, "%s/%s.tokens", o->cache, name)) == NULL) st = SY_E_MEMORY;
    }
    if (st == SY_OK) st = syi_store_new(ctx, file, key, &m.store);
    if (st == SY_OK) st = syi_store_find(m.store, cached);
    if (st == SY_OK && !*cached) st = make(&m, bos, eos);
    for (int i = 0; st == SY_OK && i < SYI_NOTES && syi_store_notes(m.store)[i][0] != '\0'; i++)
        syi_log(ctx, SY_LOG_INFO, "%s: the key \"%s\" of the records is not used", path, syi_store_notes(m.store)[i]);
done:
    syi_reader_close(&m.reader);
    syi_free(ctx, file);
    if (st == SY_OK) *out = m.store;
    else syi_store_free(m.store);
    return st;
}
