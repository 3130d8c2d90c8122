/* SPDX-License-Identifier: Apache-2.0 */
/* A record becomes a document: tokens, each marked if it is to be predicted. The
 * whole text is tokenized once, as inference would see it, and what is trained is
 * found by offsets. */
#include "dataset.h"

typedef struct { int64_t begin, end; } range;

const char *syi_kind_name(syi_kind kind)
{
    static const char *const name[KIND_COUNT] = {"none", "text", "prompt-completion", "messages", "plain", "ids", "alpaca", "sharegpt", "preference"};
    return name[kind];
}

/* -- tokens ---------------------------------------------------------------------------- */

/* The encoder's tokens as the document's, with bos and eos as the rules say. */
static sy_status take(syi_worker *w, syi_document *d, bool bos, bool eos, const bool *trained, bool eos_trained)
{
    const syi_encoder *e = w->encoder;
    int64_t n = 0;
    bos = bos && w->o->bos_id >= 0 && !(e->n > 0 && e->id[0] == w->o->bos_id);
    eos = eos && w->o->eos_id >= 0 && !(e->n > 0 && e->id[e->n - 1] == w->o->eos_id);
    d->token = syi_alloc(w->ctx, (size_t)(e->n + 2) * sizeof *d->token);
    if (d->token == NULL) return SY_E_MEMORY;
    bool all = w->o->loss_on == SY_LOSS_ALL;
    if (bos) d->token[n++] = (uint32_t)w->o->bos_id | (all ? TRAINED : 0);
    for (int64_t i = 0; i < e->n; i++) {
        bool yes = all || trained == NULL || trained[i];
        d->token[n++] = (uint32_t)e->id[i] | (yes ? TRAINED : 0);
        d->masked += !yes && e->end[i] > e->begin[i];
    }
    if (eos) d->token[n++] = (uint32_t)w->o->eos_id | (all || eos_trained ? TRAINED : 0);
    d->n = n;
    return SY_OK;
}

static sy_status make_text(syi_worker *w, const char *s, int64_t n, syi_document *d)
{
    SYI_TRY(syi_encode(w->encoder, s, n, true, true, false, false));
    return take(w, d, true, true, NULL, true);
}

static sy_status make_prompt(syi_worker *w, const syi_record *r, const json_t *j, syi_document *d)
{
    const json_t *prompt = json_object_get(j, "prompt"), *completion = json_object_get(j, "completion");
    if (!json_is_string(prompt) || !json_is_string(completion))
        return syi_record_bad(w, r, SY_E_INPUT, "\"prompt\" and \"completion\" are texts; for conversations use {\"messages\"}");
    syi_text both;
    syi_text_init(&both, w->ctx, 2u * RECORD_MAX);
    syi_text_add(&both, json_string_value(prompt), json_string_length(prompt));
    syi_text_add(&both, json_string_value(completion), json_string_length(completion));
    int64_t split = (int64_t)json_string_length(prompt);
    sy_status st = both.failed ? SY_E_MEMORY : syi_encode(w->encoder, both.s, (int64_t)both.len, true, true, true, false);
    syi_text_free(&both);
    if (st != SY_OK) return st;
    const syi_encoder *e = w->encoder;
    bool *trained = syi_calloc(w->ctx, (size_t)e->n + 1, sizeof *trained);
    if (trained == NULL) return SY_E_MEMORY;
    for (int64_t i = 0; i < e->n; i++) trained[i] = e->end[i] > split && e->end[i] > e->begin[i];
    if (e->n > 0 && e->id[e->n - 1] == w->o->eos_id) trained[e->n - 1] = true; /* the post-processor's own eos */
    st = take(w, d, true, true, trained, true);
    syi_free(w->ctx, trained);
    return st;
}

/* -- messages --------------------------------------------------------------------------- */

static bool is_role(const json_t *message, const char *role)
{
    const char *s = json_string_value(json_object_get(message, "role"));
    return s != NULL && strcmp(s, role) == 0;
}

static sy_status render(syi_worker *w, const json_t *messages, size_t n, bool generate, syi_text *out)
{
    out->len = 0;
    SYI_TRY(syi_chat_run(w->ctx, w->chat, w->variables, messages, n, generate, out));
    if (out->s == NULL) syi_text_add(out, "", 0);
    return out->failed ? SY_E_MEMORY : SY_OK;
}

static bool begins(const syi_text *whole, const syi_text *part)
{
    return part->len <= whole->len && memcmp(whole->s, part->s, part->len) == 0;
}

/* For templates that write earlier turns differently once more messages follow:
 * where the whole changes when only the words of message i do. */
static sy_status turn_by_change(syi_worker *w, const json_t *messages, size_t i, const syi_text *whole, syi_text *other, range *out)
{
    static const char mark[] = "\xEE\x80\x80 a turn \xEE\x80\x81"; /* U+E000, U+E001: nobody's */
    size_t n = json_array_size(messages);
    json_t *copy = json_copy((json_t *)(uintptr_t)messages), *m = json_copy(json_array_get(messages, i)), *s = json_string(mark);
    sy_status st = copy && m && s && json_object_set_new(m, "content", s) == 0 && json_array_set_new(copy, i, m) == 0
                       ? SY_OK : syi_nomem(w->ctx, 64);
    if (st == SY_OK) st = render(w, copy, n, false, other);
    json_decref(copy);
    if (st != SY_OK) return st;
    size_t a = whole->len, b = other->len, begin = 0, end = 0;
    while (begin < a && begin < b && whole->s[begin] == other->s[begin]) begin++;
    while (end < a - begin && end < b - begin && whole->s[a - 1 - end] == other->s[b - 1 - end]) end++;
    *out = (range){(int64_t)begin, (int64_t)(a - end)};
    return SY_OK;
}

/* The part of `whole` that the model says as message i: what follows the
 * generation prompt. Templates that have none, or that write earlier turns in
 * another way later, are asked by a change of words. */
static sy_status turn(syi_worker *w, const json_t *messages, size_t i, const syi_text *whole, syi_text *to, syi_text *from, range *out,
                      bool *by_change)
{
    size_t without = 0;
    sy_status st = i > 0 ? render(w, messages, i, false, from) : SY_E_INPUT;
    if (st == SY_OK) {
        without = from->len;
        st = render(w, messages, i, true, from);
    }
    if (st == SY_OK) st = render(w, messages, i + 1, false, to);
    if (st == SY_E_MEMORY) return st;
    *by_change = !(st == SY_OK && begins(whole, to) && begins(to, from) && from->len > without);
    sy_error_clear(w->ctx); /* some templates refuse a beginning, though not the whole */
    if (*by_change) return turn_by_change(w, messages, i, whole, to, out);
    *out = (range){(int64_t)from->len, (int64_t)to->len};
    return SY_OK;
}

static bool only_spaces(const char *s, int64_t begin, int64_t end)
{
    uint32_t cp;
    for (int64_t i = begin; i < end;) {
        int k = syi_utf8_decode((const uint8_t *)s + i, end - i, &cp);
        if (k == 0 || !syi_is_space(cp)) return false;
        i += k;
    }
    return true;
}

/* Marks the tokens of the turn up to and with its end-of-turn token: white space
 * that the template writes after a special token is not the model's. */
static void mark_turn(const syi_worker *w, const char *text, range t, bool by_change, bool *trained)
{
    const syi_encoder *e = w->encoder;
    int64_t last = -1;
    for (int64_t i = 0; i < e->n; i++) {
        if (e->end[i] <= t.begin || e->begin[i] >= t.end || e->begin[i] == e->end[i]) continue;
        trained[i] = true;
        last = i;
    }
    if (by_change) { /* what was found are the words: the token that ends them follows */
        int64_t next = last + 1;
        if (last < 0)
            while (next < e->n && e->begin[next] < t.end) next++;
        while (next < e->n && only_spaces(text, e->begin[next], e->end[next])) next++;
        if (next < e->n && w->encoder->t->entry[e->id[next]].special)
            for (int64_t i = last < 0 ? next : last + 1; i <= next; i++) trained[i] = true;
        return;
    }
    int64_t stop = last;
    while (stop >= 0 && trained[stop] && !e->t->entry[e->id[stop]].special && only_spaces(text, e->begin[stop], e->end[stop])) stop--;
    if (stop >= 0 && trained[stop] && e->t->entry[e->id[stop]].special)
        for (int64_t i = stop + 1; i <= last; i++) trained[i] = false;
}

static bool ends_special(const syi_worker *w, const char *text)
{
    const syi_encoder *e = w->encoder;
    int64_t i = e->n - 1;
    while (i >= 0 && !e->t->entry[e->id[i]].special && only_spaces(text, e->begin[i], e->end[i])) i--;
    return i >= 0 && e->t->entry[e->id[i]].special;
}

/* "train": false or "weight": 0 on a message: context, not to be learnt. */
static bool is_trained(const json_t *message)
{
    const json_t *train = json_object_get(message, "train"), *weight = json_object_get(message, "weight");
    return !json_is_false(train) && !(json_is_number(weight) && json_number_value(weight) == 0);
}

static sy_status make_messages(syi_worker *w, const syi_record *r, const json_t *j, syi_document *d)
{
    const json_t *messages = json_object_get(j, "messages");
    char where[512];
    snprintf(where, sizeof where, "%.400s:%lld: ", w->path, (long long)r->line);
    SYI_TRY(syi_chat_messages(w->ctx, messages, where));
    size_t n = json_array_size(messages);
    syi_text whole, a, b;
    bool *trained = NULL;
    syi_text_init(&whole, w->ctx, 2u * RECORD_MAX);
    syi_text_init(&a, w->ctx, 2u * RECORD_MAX);
    syi_text_init(&b, w->ctx, 2u * RECORD_MAX);
    sy_status st;
    SYI_TRY_TO(done, st, render(w, messages, n, false, &whole));
    SYI_TRY_TO(done, st, syi_encode(w->encoder, whole.s, (int64_t)whole.len, true, false, true, false));
    trained = syi_calloc(w->ctx, (size_t)w->encoder->n + 1, sizeof *trained);
    if (trained == NULL) st = SY_E_MEMORY;
    for (size_t i = 0; i < n && st == SY_OK && w->o->loss_on == SY_LOSS_DEFAULT; i++) {
        range t;
        bool by_change;
        if (!is_role(json_array_get(messages, i), "assistant") || !is_trained(json_array_get(messages, i))) continue;
        st = turn(w, messages, i, &whole, &a, &b, &t, &by_change);
        if (st == SY_OK) mark_turn(w, whole.s, t, by_change, trained);
    }
    if (st == SY_OK) st = take(w, d, false, !ends_special(w, whole.s), trained, is_role(json_array_get(messages, n - 1), "assistant"));
done:
    syi_free(w->ctx, trained);
    syi_text_free(&whole);
    syi_text_free(&a);
    syi_text_free(&b);
    return st;
}

/* -- the call ---------------------------------------------------------------------------- */

static sy_status make_any(syi_worker *w, const syi_record *r, const json_t *j, syi_document *d)
{
    const json_t *text = json_object_get(j, "text"), *shared = w->variables;
    if (text != NULL)
        return json_is_string(text) ? make_text(w, json_string_value(text), (int64_t)json_string_length(text), d)
                                    : syi_record_bad(w, r, SY_E_INPUT, "\"text\" is not a text");
    if (json_object_get(j, "messages") == NULL) return make_prompt(w, r, j, d);
    json_t *own = NULL, *tools = json_object_get(j, "tools");
    if (tools != NULL) { /* the record's own variables of the template */
        own = json_copy((json_t *)(uintptr_t)shared);
        if (own == NULL || json_object_set(own, "tools", tools) != 0) {
            json_decref(own);
            return syi_nomem(w->ctx, 64);
        }
        w->variables = own;
    }
    sy_status st = make_messages(w, r, j, d);
    w->variables = shared;
    json_decref(own);
    if (st != SY_OK && !syi_starts(sy_error_message(w->ctx), w->path)) st = syi_fail_at(w->ctx, st, "%s:%lld", w->path, (long long)r->line);
    return st;
}

static sy_status make(syi_worker *w, const syi_record *r, syi_document *d)
{
    json_error_t error;
    const size_t how = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY;
    json_t *j = json_loadb(r->s, (size_t)r->n, how, &error), *ours = NULL;
    if (j == NULL && json_error_code(&error) == json_error_numeric_overflow) /* an id of 20 digits in a key nobody reads */
        j = json_loadb(r->s, (size_t)r->n, how | JSON_DECODE_INT_AS_REAL, &error);
    if (j == NULL)
        return syi_fail(w->ctx, SY_E_INPUT, "%s:%lld:%d: not valid JSON: %s", w->path, (long long)(r->line + error.line - 1), error.column,
                        error.text);
    sy_status st = json_is_object(j) ? syi_record_convert(w, r, j, d, &ours) : syi_record_bad(w, r, SY_E_INPUT, "a record is a JSON object");
    if (st == SY_OK && ours != NULL) st = make_any(w, r, ours, d);
    json_decref(ours);
    json_decref(j);
    return st;
}

void syi_document_make(syi_worker *w, const syi_record *r, syi_document *d)
{
    *d = (syi_document){.kind = KIND_NONE};
    d->status = make(w, r, d);
    if (d->status == SY_OK) return;
    d->message = syi_strdup(w->ctx, sy_error_message(w->ctx));
    sy_error_clear(w->ctx);
}
