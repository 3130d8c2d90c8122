/* SPDX-License-Identifier: Apache-2.0 */
/* The data set: documents as tokens in a store, cut into windows, laid into rows
 * once; a batch is any stretch of the endless sequence of rows. How documents come
 * to be is in dataset_make.c. */
#include "dataset.h"

#include "data/data.h"

enum { SLOTS = 4, FORGET_EVERY = 1024 };

typedef struct { int64_t at, document; int32_t n, trained; } window;
typedef struct { int32_t *ids, *positions, *first, *target, *sample; int64_t cap; } slot;

struct sy_dataset {
    sy_context *ctx;
    const syi_dataset_ops *ops; /* rows that are no texts: not NULL, and `self` has them */
    void *self;
    syi_store *store;
    window *window;
    int64_t windows, cap_window;
    int64_t *row_begin;    /* [rows + 1] into row_window; NULL: row i is window i */
    int64_t *row_window;   /* [windows] */
    int64_t rows, seq;
    bool shuffle, pack;
    uint64_t seed;
    int32_t padding;
    int64_t masked;        /* tokens of the texts that are not trained */
    int64_t ids;           /* of the tokenizer, 0: unknown */
    int64_t taken;         /* windows given out */
    int64_t *order[2];     /* of two epochs: a batch may touch both */
    int64_t order_of[2];
    slot slot[SLOTS];
    sy_dataset_info info;
};

static const uint32_t *window_tokens(const sy_dataset *d, int64_t w)
{
    return syi_store_tokens(d->store, d->window[w].at);
}

/* -- documents ------------------------------------------------------------------- */

/* The windows of a document that begins at `from` in the store. cut: all of it, in
 * windows; otherwise its first seq tokens. */
static sy_status cut_document(sy_dataset *d, int64_t from, int64_t n, bool cut)
{
    bool any = false;
    int64_t keep = cut ? n : syi_min(n, d->seq);
    for (int64_t at = 0; at < keep; at += d->seq) {
        const uint32_t *token = syi_store_tokens(d->store, from + at);
        window w = {.at = from + at, .document = d->info.documents, .n = (int32_t)syi_min(d->seq, keep - at)};
        for (int32_t i = 1; i < w.n; i++) w.trained += (token[i] & TRAINED) != 0;
        for (int32_t i = 0; i < w.n && d->ids > 0; i++) /* a cache is a file like any other */
            if ((token[i] & ~TRAINED) >= d->ids)
                return syi_fail(d->ctx, SY_E_INPUT, "the data cache holds a token %u, which the tokenizer does not have: remove the cache",
                                token[i] & ~TRAINED);
        if (w.trained == 0) continue;
        void *p = d->window;
        sy_status st = syi_grow(d->ctx, &p, &d->cap_window, d->windows + 1, sizeof *d->window, INT64_C(1) << 40);
        d->window = p;
        if (st != SY_OK) return st;
        d->window[d->windows++] = w;
        d->info.tokens += w.n;
        d->info.trained_tokens += w.trained;
        any = true;
    }
    d->info.truncated_documents += any && n > keep;
    d->info.documents += any;
    d->info.skipped_documents += !any;
    return SY_OK;
}

static sy_status cut_all(sy_dataset *d, bool cut)
{
    for (int64_t i = 0; i < syi_store_documents(d->store); i++) {
        int64_t end, begin = syi_store_document(d->store, i, &end);
        SYI_TRY(cut_document(d, begin, end - begin, cut));
        if (i % FORGET_EVERY == 0) syi_store_forget(d->store);
    }
    syi_store_forget(d->store);
    return SY_OK;
}

/* -- a part kept aside ------------------------------------------------------------------- */

/* Keeps the windows of one of the two parts: of documents chosen by the seed, or, when
 * there is one document only, its last windows. */
static sy_status hold_out(sy_dataset *d, const sy_dataset_options *o, const char *path)
{
    if (o->holdout <= 0) return SY_OK;
    bool one = d->info.documents == 1;
    int64_t n = one ? d->windows : d->info.documents, held = (int64_t)((double)n * o->holdout + 0.5);
    if (n < 2)
        return syi_fail(d->ctx, SY_E_INPUT, "%s: nothing can be kept aside of a single window of %lld tokens; give a file of its own to "
                        "evaluate on, or a smaller seq", path, (long long)d->seq);
    held = syi_max(1, syi_min(held, n - 1));
    uint8_t *aside = syi_calloc(d->ctx, (size_t)n, 1);
    int64_t *order = syi_alloc(d->ctx, (size_t)n * sizeof *order), kept = 0, last = -1;
    if (aside != NULL && order != NULL) {
        if (!one) syi_permutation(syi_key(d->seed, "holdout", "", 0), n, order);
        for (int64_t i = 0; i < held; i++) aside[one ? n - 1 - i : order[i]] = 1;
        d->info.documents = d->info.tokens = d->info.trained_tokens = 0;
        for (int64_t i = 0; i < d->windows; i++) {
            window w = d->window[i];
            if ((aside[one ? i : w.document] != 0) != o->heldout) continue;
            d->info.documents += w.document != last;
            last = w.document;
            d->info.tokens += w.n;
            d->info.trained_tokens += w.trained;
            d->window[kept++] = w;
        }
        d->windows = kept;
    }
    syi_free(d->ctx, aside);
    syi_free(d->ctx, order);
    return aside != NULL && order != NULL ? SY_OK : SY_E_MEMORY;
}

/* -- rows ------------------------------------------------------------------------------ */

static sy_status lay_rows(sy_dataset *d)
{
    d->info.rows_per_epoch = d->rows = d->windows;
    if (!d->pack) return SY_OK;
    int64_t n = d->windows, *row = syi_alloc(d->ctx, (size_t)n * sizeof *row), *order = NULL;
    int32_t *size = syi_alloc(d->ctx, (size_t)n * sizeof *size);
    d->row_window = syi_alloc(d->ctx, (size_t)n * sizeof *d->row_window);
    sy_status st = row && size && d->row_window ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK && d->shuffle) {
        order = syi_alloc(d->ctx, (size_t)n * sizeof *order);
        if (order == NULL) st = SY_E_MEMORY;
        else syi_permutation(syi_key(d->seed, "pack", "", 0), n, order);
    }
    if (st != SY_OK) goto done;
    for (int64_t i = 0; i < n; i++) size[i] = d->window[i].n;
    SYI_TRY_TO(done, st, syi_first_fit(d->ctx, size, order, n, d->seq, row, &d->rows));
    d->row_begin = syi_calloc(d->ctx, (size_t)d->rows + 2, sizeof *d->row_begin);
    if (d->row_begin == NULL) {
        st = SY_E_MEMORY;
        goto done;
    }
    /* Counting sort by row; inside a row, in the order of packing. */
    for (int64_t i = 0; i < n; i++) d->row_begin[row[i] + 2]++;
    for (int64_t i = 2; i <= d->rows; i++) d->row_begin[i] += d->row_begin[i - 1];
    for (int64_t k = 0; k < n; k++) {
        int64_t i = order ? order[k] : k;
        d->row_window[d->row_begin[row[i] + 1]++] = i;
    }
    d->info.rows_per_epoch = d->rows;
done:
    syi_free(d->ctx, row);
    syi_free(d->ctx, size);
    syi_free(d->ctx, order);
    return st;
}

static sy_status order_of_epoch(sy_dataset *d, int64_t epoch, const int64_t **out)
{
    int k = (int)(epoch & 1);
    if (d->order[k] == NULL) {
        d->order[k] = syi_alloc(d->ctx, (size_t)d->rows * sizeof *d->order[k]);
        d->order_of[k] = -1;
    }
    if (d->order[k] == NULL) return SY_E_MEMORY;
    if (d->order_of[k] != epoch) syi_permutation(syi_key(d->seed, "shuffle", "", epoch), d->rows, d->order[k]);
    d->order_of[k] = epoch;
    *out = d->order[k];
    return SY_OK;
}

/* -- opening ----------------------------------------------------------------------------- */

static sy_status create(sy_context *ctx, const sy_dataset_options *o, sy_dataset **out)
{
    *out = NULL;
    if (o->seq < 2 || o->seq > 1 << 24) return syi_fail(ctx, SY_E_USAGE, "seq is %lld; 2 to %d are accepted", (long long)o->seq, 1 << 24);
    sy_dataset *d = *out = syi_calloc(ctx, 1, sizeof *d);
    if (d == NULL) return SY_E_MEMORY;
    d->ctx = ctx;
    d->seq = o->seq;
    d->shuffle = o->shuffle;
    d->pack = o->pack;
    d->seed = o->seed;
    d->padding = o->eos_id >= 0 ? o->eos_id : 0;
    return SY_OK;
}

static sy_status check(const sy_dataset *d, const char *path, syi_kind kind, const sy_dataset_options *o)
{
    const sy_dataset_info *i = &d->info;
    bool whole = kind == KIND_TEXT || kind == KIND_PLAIN || kind == KIND_IDS, masked = !whole && o->loss_on == SY_LOSS_DEFAULT;
    if (i->documents + i->skipped_documents == 0) return syi_fail(d->ctx, SY_E_INPUT, "%s: the data set is empty", path);
    if (i->documents == 0)
        return syi_fail(d->ctx, SY_E_INPUT, "%s: nothing to train on: in none of %lld %s documents is there a token to predict%s", path,
                        (long long)i->skipped_documents, syi_kind_name(kind),
                        whole ? " (all are shorter than two tokens)" : kind == KIND_PROMPT ? " (no completion within the first seq tokens)"
                        : " (no assistant's turn within the first seq tokens)");
    if (masked && d->masked == 0)
        return syi_fail(d->ctx, SY_E_INPUT, "%s: every token would be trained, prompts as well: the prompts are empty or the chat template does "
                        "not tell turns apart; if all tokens are to be trained, ask for the loss on all", path);
    return SY_OK;
}

sy_status sy_dataset_open(sy_context *ctx, const char *path, const sy_dataset_options *o, sy_dataset **out)
{
    sy_dataset *d = NULL;
    *out = NULL;
    sy_status st;
    if (o->tokenizer == NULL) return syi_fail(ctx, SY_E_USAGE, "a data set of texts needs a tokenizer");
    SYI_TRY_TO(done, st, create(ctx, o, &d));
    if (o->eos_id >= sy_tokenizer_size(o->tokenizer) || o->bos_id >= sy_tokenizer_size(o->tokenizer)) {
        st = syi_fail(ctx, SY_E_USAGE, "eos id %d or bos id %d is not one of the tokenizer's %lld ids", o->eos_id, o->bos_id,
                      (long long)sy_tokenizer_size(o->tokenizer));
        goto done;
    }
    SYI_TRY_TO(done, st, syi_documents_make(ctx, path, o, &d->store, d->info.hash, &d->info.cached));
    const syi_kind kind = syi_store_kind(d->store, &d->masked);
    d->ids = sy_tokenizer_size(o->tokenizer);
    d->info.format = syi_kind_name(kind);
    SYI_TRY_TO(done, st, cut_all(d, kind == KIND_TEXT || kind == KIND_PLAIN));
    SYI_TRY_TO(done, st, check(d, path, kind, o));
    SYI_TRY_TO(done, st, hold_out(d, o, path));
    st = lay_rows(d);
done:
    if (st == SY_OK) *out = d;
    else sy_dataset_free(d);
    return st;
}

sy_status sy_dataset_from_ids(sy_context *ctx, const int32_t *ids, int64_t n, const sy_dataset_options *o, sy_dataset **out)
{
    sy_dataset *d = NULL;
    uint32_t *token = NULL;
    *out = NULL;
    sy_status st;
    SYI_TRY_TO(done, st, create(ctx, o, &d));
    token = syi_alloc(ctx, (size_t)syi_max(n, 0) * sizeof *token);
    if (token == NULL) st = SY_E_MEMORY;
    for (int64_t i = 0; i < n && st == SY_OK; i++) {
        if (ids[i] < 0) st = syi_fail(ctx, SY_E_INPUT, "token %lld has the id %d", (long long)i, ids[i]);
        else token[i] = (uint32_t)ids[i] | TRAINED;
    }
    if (st != SY_OK) goto done;
    syi_hash_text(d->info.hash, syi_hash_bytes(ids, (size_t)syi_max(n, 0) * sizeof *ids));
    d->info.format = syi_kind_name(KIND_IDS);
    SYI_TRY_TO(done, st, syi_store_new(ctx, NULL, (syi_hash){0}, &d->store));
    if (n > 0) SYI_TRY_TO(done, st, syi_store_add(d->store, token, n));
    SYI_TRY_TO(done, st, syi_store_end(d->store));
    SYI_TRY_TO(done, st, syi_store_done(d->store));
    if (n > 0) SYI_TRY_TO(done, st, cut_all(d, true));
    SYI_TRY_TO(done, st, check(d, "token ids", KIND_IDS, o));
    st = lay_rows(d);
done:
    syi_free(ctx, token);
    if (st == SY_OK) *out = d;
    else sy_dataset_free(d);
    return st;
}

void sy_dataset_free(sy_dataset *d)
{
    if (d == NULL) return;
    sy_context *ctx = d->ctx;
    if (d->ops != NULL) d->ops->free(d->self);
    for (int i = 0; i < SLOTS; i++) syi_free(ctx, d->slot[i].ids);
    syi_free(ctx, d->order[0]);
    syi_free(ctx, d->order[1]);
    syi_free(ctx, d->row_begin);
    syi_free(ctx, d->row_window);
    syi_free(ctx, d->window);
    syi_store_free(d->store);
    syi_free(ctx, d);
}

sy_status syi_dataset_of(sy_context *ctx, const syi_dataset_ops *ops, void *self, const sy_dataset_info *info, sy_dataset **out)
{
    *out = syi_calloc(ctx, 1, sizeof **out);
    if (*out == NULL) return SY_E_MEMORY;
    (*out)->ctx = ctx;
    (*out)->ops = ops;
    (*out)->self = self;
    (*out)->info = *info;
    return SY_OK;
}

void sy_dataset_stat(const sy_dataset *d, sy_dataset_info *out)
{
    *out = d->info;
}

/* -- batches ----------------------------------------------------------------------------------- */

/* One block for the five arrays. */
static sy_status slot_room(sy_dataset *d, slot *s, int64_t tokens)
{
    if (tokens <= s->cap) return SY_OK;
    int32_t *p = syi_alloc(d->ctx, (size_t)tokens * 5 * sizeof *p);
    if (p == NULL) return SY_E_MEMORY;
    syi_free(d->ctx, s->ids);
    *s = (slot){p, p + tokens, p + 2 * tokens, p + 3 * tokens, p + 4 * tokens, tokens};
    return SY_OK;
}

typedef struct { int64_t at, samples, trained; } fill;

static void put_window(const sy_dataset *d, slot *s, int64_t w, fill *f)
{
    const uint32_t *token = window_tokens(d, w);
    int32_t n = d->window[w].n;
    for (int32_t i = 0; i < n; i++) {
        int64_t at = f->at + i;
        bool more = i + 1 < n && (token[i + 1] & TRAINED);
        s->ids[at] = (int32_t)(token[i] & ~TRAINED);
        s->positions[at] = i;
        s->first[at] = (int32_t)f->at;
        s->target[at] = more ? (int32_t)(token[i + 1] & ~TRAINED) : -1;
        s->sample[at] = (int32_t)f->samples;
    }
    f->at += n;
    f->samples++;
    f->trained += d->window[w].trained;
}

sy_status sy_dataset_batch(sy_dataset *d, int64_t row, int64_t rows, int which, sy_batch *out)
{
    if (d->ops != NULL) return d->ops->batch(d->self, row, rows, which, out);
    if (row < 0 || rows < 1 || rows > INT32_MAX / d->seq || row > INT64_MAX - rows || which < 0 || which >= SLOTS)
        return syi_fail(d->ctx, SY_E_USAGE, "a batch of %lld rows from row %lld in slot %d: expected rows >= 1 and 0 <= slot < %d, and at "
                        "most 2^31 tokens", (long long)rows, (long long)row, which, SLOTS);
    slot *s = &d->slot[which];
    int64_t tokens = rows * d->seq;
    SYI_TRY(slot_room(d, s, tokens));
    fill f = {0};
    for (int64_t k = 0; k < rows; k++) {
        int64_t epoch = (row + k) / d->rows, i = (row + k) % d->rows, end = f.at + d->seq;
        const int64_t *order;
        if (d->shuffle) {
            SYI_TRY(order_of_epoch(d, epoch, &order));
            i = order[i];
        }
        if (d->row_begin == NULL) put_window(d, s, i, &f);
        for (int64_t j = d->row_begin ? d->row_begin[i] : 0; d->row_begin && j < d->row_begin[i + 1]; j++) put_window(d, s, d->row_window[j], &f);
        for (; f.at < end; f.at++) { /* each a document of its own, without loss */
            s->ids[f.at] = d->padding;
            s->positions[f.at] = 0;
            s->first[f.at] = (int32_t)f.at;
            s->target[f.at] = -1;
            s->sample[f.at] = (int32_t)(f.samples - 1);
        }
    }
    d->taken += f.samples;
    if (d->taken > FORGET_EVERY) {
        d->taken = 0;
        syi_store_forget(d->store);
    }
    *out = (sy_batch){.rows = rows, .seq = d->seq, .tokens = tokens, .ids = s->ids, .positions = s->positions, .first = s->first,
                      .target = s->target, .weight = NULL, .sample = s->sample, .samples = f.samples, .trained = f.trained};
    return SY_OK;
}
