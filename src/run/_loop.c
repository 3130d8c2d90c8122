/* SPDX-License-Identifier: Apache-2.0 */
/* The training loop. Step k reads rows [k * batch * accumulation, ...) of the data set and
 * everything else that it depends on is in the engine's state, so where a run stands is one
 * number. What is due at a step (evaluation, checkpoint) is decided from the state alone:
 * a resumed run takes up exactly what was left. */
#include "train.h"

double syi_train_epoch(const syi_train *t)
{
    double rows = (double)t->state.step * (double)(t->o.batch * t->o.accumulation);
    return rows / (double)syi_max(1, t->data_info.rows_per_epoch);
}

char *syi_train_title(const syi_train *t, char buf[160])
{
    const sy_use *adapter = sy_run_use(t->run, SY_ADAPTER), *optimizer = sy_run_use(t->run, SY_OPTIMIZER);
    snprintf(buf, 160, "%.90s: %.30s, %.30s", syi_basename(t->o.model), adapter ? adapter->method->name : "no adapter",
             optimizer ? optimizer->method->name : "no optimizer");
    return buf;
}

char *syi_train_summary(const syi_train *t, char buf[200])
{
    const syi_run_state *s = &t->state;
    int n = snprintf(buf, 200, "%lld steps, %lld tokens, loss %.4f -> %.4f", (long long)s->step, (long long)s->tokens,
                     s->first_loss, s->loss);
    if (isfinite(s->eval_loss)) n += snprintf(buf + n, 200 - (size_t)n, ", evaluation %.4f -> %.4f", s->first_eval, s->eval_loss);
    if (isfinite(s->eval_accuracy)) snprintf(buf + n, 200 - (size_t)n, ", accuracy %.2f %%", 100 * s->eval_accuracy);
    return buf;
}

static void put_real(json_t *j, const char *key, double v)
{
    json_object_set_new(j, key, isfinite(v) ? json_real(v) : json_null());
}

static sy_status log_line(syi_train *t)
{
    syi_run_state *s = &t->state;
    double rate = (double)s->window_tokens / syi_positive(s->window_seconds);
    double left = s->seconds / (double)s->step * (double)(t->schedule.total - s->step);
    json_t *j = json_object();
    if (j == NULL) return syi_nomem(t->ctx, 256);
    json_object_set_new(j, "step", json_integer(s->step));
    put_real(j, "epoch", syi_train_epoch(t));
    put_real(j, "loss", s->window_loss / (double)s->window_steps);
    put_real(j, "learning_rate", syi_schedule_lr(&t->schedule, s->step - 1));
    put_real(j, "grad_norm", s->grad_norm);
    put_real(j, "tokens_per_second", rate);
    json_object_set_new(j, "num_input_tokens_seen", json_integer(s->tokens));
    json_object_set_new(j, "current_steps", json_integer(s->step));
    json_object_set_new(j, "total_steps", json_integer(t->schedule.total));
    put_real(j, "percentage", 100.0 * (double)s->step / (double)t->schedule.total);
    put_real(j, "elapsed_time", s->seconds);
    put_real(j, "remaining_time", left);
    put_real(j, "throughput", rate);
    json_object_set_new(j, "total_tokens", json_integer(s->tokens));
    json_object_set_new(j, "memory_bytes", json_integer(syi_rss_now()));
    s->window_loss = s->window_seconds = 0;
    s->window_steps = s->window_tokens = 0;
    return syi_metrics_add(t->metrics, j);
}

/* "what happened; what is safe; what to do" */
static sy_status explain(syi_train *t, sy_status status)
{
    char safe[160], *message = syi_strdup(t->ctx, sy_error_message(t->ctx));
    if (message == NULL) return status;
    if (t->saved_step >= 0) snprintf(safe, sizeof safe, "checkpoint-%lld is untouched", (long long)t->saved_step);
    else snprintf(safe, sizeof safe, "no checkpoint had been saved yet");
    if (status == SY_E_NUMERIC)
        syi_fail(t->ctx, status, "step %lld of %lld: %s; %s in %s; lower --lr (now %g), add --warmup-steps, clip harder "
                 "(--clip, now %g) or use --dtype f32",
                 (long long)t->state.step + 1, (long long)t->schedule.total, message, safe, t->dir,
                 syi_schedule_lr(&t->schedule, t->state.step), t->o.clip);
    else
        syi_fail(t->ctx, status, "step %lld of %lld: %s; %s in %s", (long long)t->state.step + 1,
                 (long long)t->schedule.total, message, safe, t->dir);
    syi_free(t->ctx, message);
    return status;
}

static void show_progress(const syi_train *t)
{
    const syi_run_state *s = &t->state;
    double per_step = t->session_seconds / (double)(s->step - t->session_step);
    syi_progress(t->ctx, &(sy_progress){.what = "train", .done = s->step, .total = t->schedule.total, .unit = "step",
        .seconds = syi_now() - t->began, .eta = per_step * (double)(t->schedule.total - s->step),
        .rate = (double)t->session_tokens / syi_positive(t->session_seconds), .rate_unit = "tokens", .loss = s->loss,
        .bytes = syi_rss_now()});
}

static sy_status one_step(syi_train *t)
{
    syi_run_state *s = &t->state;
    int64_t rows = t->o.batch * t->o.accumulation;
    double began = syi_now();
    sy_batch batch;
    sy_step_result r;
    SYI_TRY(sy_dataset_batch(t->data, s->step * rows, rows, 0, &batch));
    if (batch.trained == 0)
        return syi_fail(t->ctx, SY_E_INPUT, "no token of this batch has a loss: documents are cut before their completions "
                        "begin; raise --seq (now %lld) or --batch", (long long)t->o.seq);
    SYI_TRY(sy_run_step_once(t->run, &batch, syi_schedule_lr(&t->schedule, s->step), t->o.clip, &r));
    if (!isfinite(r.loss)) return syi_fail(t->ctx, SY_E_NUMERIC, "the loss is not a finite number (%g)", r.loss);
    if (!isfinite(r.grad_norm))
        return syi_fail(t->ctx, SY_E_NUMERIC, "the gradient is not a finite number (norm %g, loss %g)", r.grad_norm, r.loss);
    double seconds = syi_now() - began;
    int64_t tokens = syi_batch_tokens(&batch);
    if (s->step++ == 0) s->first_loss = r.loss;
    s->loss = r.loss;
    s->loss_sum += r.loss;
    s->grad_norm = r.grad_norm;
    s->tokens += tokens;
    s->trained += r.trained;
    s->seconds += seconds;
    s->window_loss += r.loss;
    s->window_steps++;
    s->window_tokens += tokens;
    s->window_seconds += seconds;
    t->session_tokens += tokens;
    t->session_seconds += seconds;
    return SY_OK;
}

static bool every(int64_t step, int64_t n)
{
    return n > 0 && step > 0 && step % n == 0;
}

static bool save_due(const syi_train *t)
{
    int64_t step = t->state.step;
    bool last = step == t->schedule.total && t->o.save_steps > 0;
    return step > 0 && t->saved_step != step && (last || every(step, t->o.save_steps));
}

static bool eval_due(const syi_train *t)
{
    int64_t step = t->state.step;
    if (t->eval == NULL || t->state.eval_step == step) return false;
    if (step == 0) return t->o.eval_first;
    return step == t->schedule.total || every(step, t->o.eval_steps) || (t->o.keep_best && save_due(t));
}

static sy_status evaluate(syi_train *t)
{
    syi_run_state *s = &t->state;
    syi_evaluation e;
    int64_t rows = t->o.batch; /* no more at once than the plan has room for */
    if (t->plan.micro_tokens > 0) rows = syi_max(1, syi_min(rows, t->plan.micro_tokens / t->o.seq));
    SYI_TRY(syi_evaluate(t->run, t->eval, rows, "eval", &e));
    if (s->eval_step < 0) s->first_eval = e.loss;
    s->eval_loss = e.loss;
    s->eval_accuracy = e.accuracy;
    s->eval_step = s->step;
    if (s->step > 0 && !(s->best_loss <= e.loss)) {
        s->best_loss = e.loss;
        s->best_step = s->step;
    }
    json_t *j = json_object();
    if (j == NULL) return syi_nomem(t->ctx, 256);
    json_object_set_new(j, "step", json_integer(s->step));
    put_real(j, "epoch", syi_train_epoch(t));
    put_real(j, "eval_loss", e.loss);
    put_real(j, "eval_perplexity", exp(e.loss));
    if (isfinite(e.accuracy)) put_real(j, "eval_accuracy", e.accuracy);
    put_real(j, "eval_runtime", e.seconds);
    put_real(j, "eval_tokens_per_second", (double)e.tokens / syi_positive(e.seconds));
    syi_log(t->ctx, SY_LOG_INFO, "step %lld: evaluation loss %.5f, perplexity %.4f over %lld tokens", (long long)s->step,
            e.loss, exp(e.loss), (long long)e.trained);
    return syi_metrics_add(t->metrics, j);
}

/* Ctrl-C: what has been done is saved before the verb returns. */
static sy_status interrupted(syi_train *t)
{
    const syi_run_state *s = &t->state;
    sy_cancel_clear(t->ctx);
    if (s->step == 0) return syi_fail(t->ctx, SY_E_CANCELLED, "interrupted before the first step; nothing to save");
    if (t->saved_step != s->step) SYI_TRY(syi_checkpoint_save(t));
    return syi_fail(t->ctx, SY_E_CANCELLED, "interrupted after step %lld of %lld; saved as %s/checkpoint-%lld; go on with: "
                    "steelyard train --resume %s", (long long)s->step, (long long)t->schedule.total, t->dir,
                    (long long)s->step, t->dir);
}

sy_status syi_train_loop(syi_train *t)
{
    syi_run_state *s = &t->state;
    t->session_step = s->step;
    for (;;) {
        sy_status status = SY_OK;
        if (eval_due(t)) status = evaluate(t);
        if (status == SY_OK && save_due(t)) status = syi_checkpoint_save(t);
        if (status == SY_OK && s->step >= t->schedule.total) return SY_OK;
        if (status == SY_OK && sy_cancelled(t->ctx)) status = SY_E_CANCELLED;
        if (s->step == t->session_step) t->start_seconds = syi_process_age();
        if (status == SY_OK) status = one_step(t);
        if (status == SY_E_CANCELLED) return interrupted(t);
        if (status != SY_OK) return explain(t, status);
        if (every(s->step, t->o.log_steps) || s->step == t->schedule.total) {
            status = log_line(t);
            if (status != SY_OK) return explain(t, status);
        }
        show_progress(t);
    }
}
