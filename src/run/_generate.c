/* SPDX-License-Identifier: Apache-2.0 */
/* Generation: the prompt in one forward, then a token at a time over a key/value cache. */
#include "run/run.h"

#include "graph/ops.h"
#include "model/decoder.h"

#include <math.h>
#include <stdlib.h>

enum { PROMPT_PIECE = 512 }; /* tokens of the prompt a forward */

typedef struct { float logit; int32_t id; } candidate;

static int by_logit(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* The first of the largest; NaNs never win. */
static int32_t greedy(const float *logits, int64_t n)
{
    enum { LANES = 16 };
    float top[LANES];
    int64_t i = 0;
    for (int k = 0; k < LANES; k++) top[k] = -INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) top[k] = logits[i + k] > top[k] ? logits[i + k] : top[k];
    for (; i < n; i++) top[0] = logits[i] > top[0] ? logits[i] : top[0];
    for (int k = 1; k < LANES; k++) top[0] = top[k] > top[0] ? top[k] : top[0];
    for (i = 0; i < n; i++)
        if (logits[i] == top[0]) return (int32_t)i;
    return 0;
}

/* Temperature, then the top_k best, then the smallest set that holds top_p. */
static int32_t sample(const float *logits, int64_t n, const sy_sampling *how, candidate *c, int64_t index)
{
    for (int64_t i = 0; i < n; i++) c[i] = (candidate){logits[i], (int32_t)i};
    qsort(c, (size_t)n, sizeof *c, by_logit);
    int64_t keep = how->top_k > 0 ? syi_min(how->top_k, n) : n;
    double sum = 0, top = c[0].logit;
    for (int64_t i = 0; i < keep; i++) sum += exp((c[i].logit - top) / how->temperature);
    if (how->top_p > 0 && how->top_p < 1) {
        double part = 0;
        int64_t i = 0;
        while (i < keep && part < how->top_p * sum) part += exp((c[i++].logit - top) / how->temperature);
        keep = syi_max(1, i);
        sum = part;
    }
    float u;
    syi_uniform(syi_key(how->seed, "sample", "", 0), index, 1, &u);
    double at = u * sum, part = 0;
    for (int64_t i = 0; i < keep; i++) {
        part += exp((c[i].logit - top) / how->temperature);
        if (at < part) return c[i].id;
    }
    return c[keep - 1].id;
}

/* Runs n tokens through the model; the logits of the last one go to `logits`. */
static sy_status advance(sy_run *run, syi_kv_cache *kv, const int32_t *ids, int64_t n, bool last, float *logits)
{
    sy_model *m = run->model;
    int32_t pos[PROMPT_PIECE];
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= m->vocab)
            return syi_fail(run->ctx, SY_E_INPUT, "token id %d is outside the model's vocabulary of %lld", ids[i], (long long)m->vocab);
        pos[i] = (int32_t)(kv->past + i);
    }
    sy_batch batch = {.rows = 1, .seq = n, .tokens = n, .ids = ids, .positions = pos, .samples = 1};
    syi_graph_options o;
    SYI_TRY(syi_run_graph_options(run, false, false, &o));
    o.cache = kv;
    syi_graph_reset(run->graph, &o);
    sy_node *h = m->arch->build(run->graph, m, &batch);
    SYI_TRY(sy_graph_status(run->graph));
    kv->past += n;
    if (!last) return SY_OK;
    return syi_run_head(run, h, n - 1, 1, logits);
}

/* What was shown: the first `len` bytes of the text of the tokens from `from` on. Only so
 * many of them are looked at again that the next token's text comes out as it would after
 * all of them. */
typedef struct { int64_t from, len; } shown;
enum { SHOWN_MOST = 64, SHOWN_LEAST = 8 };

/* Hands the caller the characters that have become whole since the last token. */
static sy_status tell(sy_run *run, const int32_t *ids, int64_t n, shown *before, sy_token_fn *fn, void *self, bool *go_on)
{
    *go_on = true;
    if (!fn) return SY_OK;
    if (!run->tokenizer) {
        *go_on = fn(self, ids[n - 1], "", 0);
        return SY_OK;
    }
    char *text;
    int64_t len, whole;
    SYI_TRY(sy_detokenize(run->ctx, run->tokenizer, ids + before->from, n - before->from, true, &text, &len, &whole));
    int64_t fresh = syi_max(0, whole - before->len);
    *go_on = fn(self, ids[n - 1], text + whole - fresh, fresh);
    before->len = whole;
    sy_string_free(run->ctx, text);
    if (n - before->from < SHOWN_MOST || whole < len) return SY_OK;
    before->from = n - SHOWN_LEAST;
    SYI_TRY(sy_detokenize(run->ctx, run->tokenizer, ids + before->from, SHOWN_LEAST, true, &text, &len, &before->len));
    sy_string_free(run->ctx, text);
    return SY_OK;
}

typedef struct {
    sy_run *run;
    syi_kv_cache *kv;
    const sy_sampling *how;
    float *logits;
    candidate *sorted;
    int32_t *ids;
    sy_token_fn *fn;
    void *self;
    sy_generated *result;
} continuation;

/* A token at a time, from the logits of the prompt's last one. */
static sy_status go_on(void *self)
{
    const continuation *c = self;
    const sy_sampling *how = c->how;
    sy_context *ctx = c->run->ctx;
    const int64_t vocab = c->run->model->vocab;
    shown before = {0};
    for (bool more = true; more && c->result->new_tokens < how->max_new;) {
        if (sy_cancelled(ctx)) return syi_fail(ctx, SY_E_CANCELLED, "interrupted");
        int32_t id = how->temperature > 0 ? sample(c->logits, vocab, how, c->sorted, c->result->new_tokens) : greedy(c->logits, vocab);
        if (!isfinite(c->logits[id])) return syi_fail(ctx, SY_E_NUMERIC, "generate: the model's logits are not finite");
        if (!how->ignore_eos && syi_run_is_end(c->run, id)) {
            c->result->eos = true;
            break;
        }
        c->ids[c->result->new_tokens++] = id;
        SYI_TRY(tell(c->run, c->ids, c->result->new_tokens, &before, c->fn, c->self, &more));
        if (more && c->result->new_tokens < how->max_new) SYI_TRY(advance(c->run, c->kv, &id, 1, true, c->logits));
    }
    return SY_OK;
}

sy_status sy_run_generate(sy_run *run, const int32_t *prompt, int64_t n, const sy_sampling *how, int32_t *out_ids, sy_token_fn *fn, void *self, sy_generated *result)
{
    sy_model *m = run->model;
    const syi_decoder_config *shape = m->config;
    *result = (sy_generated){.prompt_tokens = n};
    if (n <= 0) return syi_fail(run->ctx, SY_E_USAGE, "generate: the prompt has no tokens");
    if (how->max_new <= 0) return SY_OK;
    if (m->dtype == SY_F64) return syi_fail(run->ctx, SY_E_UNSUPPORTED, "generate: f32 or bf16, not f64");
    int64_t total = n + how->max_new;
    if (m->context_length > 0 && total > m->context_length)
        return syi_fail(run->ctx, SY_E_USAGE, "generate: %lld prompt and %lld new tokens exceed the model's context of %lld; use a shorter prompt or --max-new", (long long)n, (long long)how->max_new, (long long)m->context_length);
    SYI_TRY(syi_model_positions(m, total));
    SYI_TRY(syi_run_refresh(run));
    syi_kv_cache kv = {.dtype = m->dtype, .blocks = m->blocks, .kv_heads = shape->kv_heads, .head_dim = shape->head_dim, .capacity = total};
    size_t bytes = (size_t)(kv.blocks * kv.kv_heads * kv.capacity * kv.head_dim * sy_dtype_block_bytes(kv.dtype));
    float *logits = syi_alloc(run->ctx, (size_t)m->vocab * sizeof *logits);
    candidate *sorted = how->temperature > 0 ? syi_alloc(run->ctx, (size_t)m->vocab * sizeof *sorted) : NULL;
    kv.keys = syi_pages(run->ctx, bytes);
    kv.values = syi_pages(run->ctx, bytes);
    sy_status s = logits && kv.keys && kv.values && (sorted || !(how->temperature > 0)) ? SY_OK : SY_E_MEMORY;
    if (s == SY_OK) s = syi_heap_reserve(run->heap, syi_max(run->plan.step, 64 << 20));

    double begin = syi_now();
    for (int64_t at = 0; s == SY_OK && at < n; at += PROMPT_PIECE) {
        int64_t piece = syi_min(PROMPT_PIECE, n - at);
        s = advance(run, &kv, prompt + at, piece, at + piece == n, logits);
        if (s == SY_OK && sy_cancelled(run->ctx)) s = syi_fail(run->ctx, SY_E_CANCELLED, "interrupted");
    }
    double ready = syi_now();
    result->prompt_seconds = ready - begin;
    continuation c = {run, &kv, how, logits, sorted, out_ids, fn, self, result};
    if (s == SY_OK) s = syi_team_run(run->engine, go_on, &c);
    result->seconds = syi_now() - ready;
    syi_pages_free(run->ctx, kv.keys);
    syi_pages_free(run->ctx, kv.values);
    syi_free(run->ctx, logits);
    syi_free(run->ctx, sorted);
    return s;
}
