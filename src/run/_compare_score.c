/* SPDX-License-Identifier: Apache-2.0 */
/* What a trained model is worth on a data set: loss, share of right tokens, share of answers
 * that are right to the last token. One forward over the data. */
#include "run/compare.h"
#include "run/train.h"

#include <math.h>

typedef struct {
    sy_context *ctx;
    const sy_batch *batch;
    int64_t vocab;
    double *nll;              /* [tokens] of the batch, 0 without loss   */
    uint8_t *right;           /* [tokens]                                */
} scoring;

static sy_status take(void *self, int64_t row, int64_t n, const float *logits)
{
    scoring *s = self;
#pragma omp parallel for num_threads(syi_omp(s->ctx)) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const int64_t t = row + i;
        const float *z = logits + i * s->vocab;
        const int32_t target = s->batch->target[t];
        int64_t best = 0;
        double sum = 0;
        s->nll[t] = 0;
        s->right[t] = 0;
        if (target < 0) continue;
        for (int64_t v = 1; v < s->vocab; v++)
            if (z[v] > z[best]) best = v;
        for (int64_t v = 0; v < s->vocab; v++) sum += exp((double)z[v] - z[best]);
        s->nll[t] = log(sum) + z[best] - z[target];
        s->right[t] = best == target;
    }
    return SY_OK;
}

static void add(const scoring *s, syi_score *out, double *loss, int64_t *right, int64_t *whole)
{
    const sy_batch *b = s->batch;
    for (int64_t t = 0; t < b->tokens;) {
        const int32_t sample = b->sample[t];
        bool all = true;
        int64_t n = 0;
        for (; t < b->tokens && b->sample[t] == sample; t++) {
            if (b->target[t] < 0) continue;
            n++;
            *loss += s->nll[t];
            *right += s->right[t];
            all = all && s->right[t];
        }
        out->tokens += n;
        out->answers += n > 0;
        *whole += n > 0 && all;
    }
}

static sy_status score_all(sy_run *run, sy_dataset *set, int64_t rows, syi_score *out)
{
    sy_context *ctx = sy_run_context(run);
    sy_dataset_info info;
    double loss = 0;
    int64_t right = 0, whole = 0;
    sy_status st = SY_OK;
    scoring s = {.ctx = ctx, .vocab = sy_run_vocabulary(run)};
    sy_dataset_stat(set, &info);
    for (int64_t row = 0; row < info.rows_per_epoch && st == SY_OK; row += rows) {
        sy_batch batch;
        if (sy_cancelled(ctx)) return syi_fail(ctx, SY_E_CANCELLED, "interrupted");
        st = sy_dataset_batch(set, row, syi_min(rows, info.rows_per_epoch - row), 0, &batch);
        if (st != SY_OK) break;
        s.batch = &batch;
        s.nll = syi_alloc(ctx, (size_t)batch.tokens * sizeof *s.nll);
        s.right = syi_alloc(ctx, (size_t)batch.tokens);
        st = s.nll && s.right ? sy_run_logits(run, &batch, take, &s) : SY_E_MEMORY;
        if (st == SY_OK) add(&s, out, &loss, &right, &whole);
        syi_free(ctx, s.nll);
        syi_free(ctx, s.right);
    }
    SYI_TRY(st);
    if (out->tokens == 0) return syi_fail(ctx, SY_E_INPUT, "the data to score has no token to predict");
    out->loss = loss / (double)out->tokens;
    out->token_accuracy = (double)right / (double)out->tokens;
    out->exact = (double)whole / (double)out->answers;
    out->has_answers = strcmp(info.format, "plain") != 0 && strcmp(info.format, "text") != 0 && strcmp(info.format, "ids") != 0;
    return SY_OK;
}

sy_status syi_compare_score(sy_context *ctx, const syi_scored *what, syi_score *out)
{
    sy_run_options o;
    sy_run *run = NULL;
    sy_dataset *set = NULL;
    char *template_text = NULL;
    int64_t seq = what->seq;
    *out = (syi_score){0};
    sy_run_options_init(&o);
    o.model = what->model;
    o.adapter = what->adapter;
    o.dtype = what->dtype;
    SYI_TRY(sy_run_open(ctx, &o, &run));
    sy_status st = syi_run_seq(run, false, &seq);
    if (st == SY_OK) st = syi_template_text(ctx, run, NULL, &template_text);
    sy_dataset_options d = {.tokenizer = sy_run_tokenizer(run), .chat_template = template_text, .eos_id = sy_run_eos(run), .bos_id = -1, .bos_token = syi_run_bos_text(run), .loss_on = SY_LOSS_DEFAULT, .seq = seq};
    if (st == SY_OK) st = sy_dataset_open(ctx, what->data, &d, &set);
    sy_plan plan;
    if (st == SY_OK) st = sy_run_plan(run, what->batch * seq, false, &plan);
    if (st == SY_OK) st = sy_run_reserve(run, &plan);
    if (st == SY_OK) st = score_all(run, set, what->batch, out);
    sy_dataset_free(set);
    sy_run_close(run);
    syi_free(ctx, template_text);
    return st;
}
