/* SPDX-License-Identifier: Apache-2.0 */
/* Loss over a data set, for `eval` and for evaluations during training: the sum of the
 * tokens' losses over the number of tokens, whatever the batches were. */
#include "train.h"

/* Padding is a document of one token without a target. */
bool syi_batch_padding(const sy_batch *b, int64_t t)
{
    if (b->first == NULL) return false; /* images */
    bool alone = b->first[t] == t && ((t + 1) % b->seq == 0 || b->first[t + 1] == t + 1);
    return alone && b->target[t] < 0;
}

int64_t syi_batch_tokens(const sy_batch *b)
{
    int64_t n = 0;
    for (int64_t t = 0; t < b->tokens; t++) n += !syi_batch_padding(b, t);
    return n;
}

void syi_classified(const float *logits, int64_t rows, int64_t classes, const int32_t *target, double *loss, int64_t *right)
{
    for (int64_t r = 0; r < rows; r++) {
        const float *x = logits + r * classes;
        int64_t best = 0;
        double sum = 0;
        if (target[r] < 0) continue;
        for (int64_t c = 1; c < classes; c++)
            if (x[c] > x[best]) best = c;
        for (int64_t c = 0; c < classes; c++) sum += exp((double)x[c] - (double)x[best]);
        *loss += log(sum) + (double)x[best] - (double)x[target[r]];
        *right += best == target[r];
    }
}

typedef struct { const sy_batch *batch; int64_t classes, right; double loss; } judge;

static sy_status take(void *self, int64_t row, int64_t n, const float *logits)
{
    judge *j = self;
    syi_classified(logits, n, j->classes, j->batch->target + row, &j->loss, &j->right);
    return SY_OK;
}

sy_status syi_evaluate(sy_run *run, sy_dataset *data, int64_t rows, const char *what, syi_evaluation *out)
{
    sy_context *ctx = sy_run_context(run);
    sy_dataset_info info;
    sy_dataset_stat(data, &info);
    double began = syi_now(), sum = 0;
    int64_t right = 0;
    *out = (syi_evaluation){.accuracy = NAN};
    for (int64_t row = 0; row < info.rows_per_epoch;) {
        sy_batch batch;
        sy_loss loss;
        int64_t n = syi_min(rows, info.rows_per_epoch - row);
        if (sy_cancelled(ctx)) return syi_fail(ctx, SY_E_CANCELLED, "interrupted");
        SYI_TRY(sy_dataset_batch(data, row, n, 1, &batch));
        row += n;
        if (syi_run_classifies(run)) {
            judge j = {.batch = &batch, .classes = sy_run_vocabulary(run)};
            SYI_TRY(sy_run_logits(run, &batch, take, &j));
            loss = (sy_loss){j.loss, batch.trained};
            right += j.right;
        } else if (batch.trained > 0) SYI_TRY(sy_run_loss(run, &batch, &loss, NULL));
        else loss = (sy_loss){0, 0};
        sum += loss.loss_sum;
        out->trained += loss.trained;
        out->tokens += syi_batch_tokens(&batch);
        out->seconds = syi_now() - began;
        if (!isfinite(sum))
            return syi_fail(ctx, SY_E_NUMERIC, "evaluation: the loss of rows %lld to %lld is not a finite number; the weights "
                            "are damaged, or --dtype bf16 is too coarse for this model (try f32)",
                            (long long)(row - n), (long long)(row - 1));
        double rate = (double)out->tokens / syi_positive(out->seconds);
        syi_progress(ctx, &(sy_progress){.what = what, .done = row, .total = info.rows_per_epoch, .unit = "row",
            .seconds = out->seconds, .eta = out->seconds / (double)row * (double)(info.rows_per_epoch - row), .rate = rate,
            .rate_unit = syi_run_sees(run) ? "images" : "tokens", .loss = out->trained > 0 ? sum / (double)out->trained : NAN, .bytes = syi_rss_now()});
    }
    if (out->trained == 0)
        return syi_fail(ctx, SY_E_INPUT, "the evaluation data has no token to predict: each row is a single token or masked");
    out->loss = sum / (double)out->trained;
    if (syi_run_classifies(run)) out->accuracy = (double)right / (double)out->trained;
    return SY_OK;
}
