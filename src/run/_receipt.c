/* SPDX-License-Identifier: Apache-2.0 */
/* Receipts: what a verb found, did and wrote, as lines for people and as JSON. */
#include "io/io.h"
#include "train.h"

#include <sys/stat.h>

void syi_report_real(json_t *report, const char *key, double value)
{
    json_object_set_new(report, key, isfinite(value) ? json_real(value) : json_null());
}

static void set_int(json_t *report, const char *key, int64_t value)
{
    json_object_set_new(report, key, json_integer(value));
}

static void set_text(json_t *report, const char *key, const char *value)
{
    json_t *text = value != NULL ? json_string(value) : NULL; /* NULL too if it is not UTF-8 */
    json_object_set_new(report, key, text != NULL ? text : json_null());
}

sy_status syi_receipt_model(sy_job *job, sy_run *run, const char *path, char hash[33])
{
    json_t *j = json_object();
    sy_model *m = sy_run_model(run);
    if (hash != NULL) SYI_TRY(syi_source_hash(m->source, hash));
    set_text(j, "path", path);
    set_text(j, "architecture", m->arch->name);
    set_int(j, "parameters", sy_run_parameters(run));
    if (hash != NULL) set_text(j, "hash", hash);
    json_object_set_new(syi_job_report(job), "model", j);
    syi_job_receipt(job, "model     %s: %s, %lld parameters%s%s", path, m->arch->name, (long long)sy_run_parameters(run),
                    hash != NULL ? ", hash " : "", hash != NULL ? hash : "");
    return SY_OK;
}

sy_status syi_receipt_data(sy_job *job, const char *key, const char *path, const sy_dataset_info *info)
{
    double share = 100.0 * (double)info->trained_tokens / (double)syi_max(1, info->tokens);
    json_t *j = json_object();
    set_text(j, "path", path);
    set_text(j, "format", info->format);
    set_int(j, "documents", info->documents);
    set_int(j, "skipped_documents", info->skipped_documents);
    set_int(j, "truncated_documents", info->truncated_documents);
    set_int(j, "tokens", info->tokens);
    set_int(j, "trained_tokens", info->trained_tokens);
    set_int(j, "rows_per_epoch", info->rows_per_epoch);
    set_text(j, "hash", info->hash);
    json_object_set_new(syi_job_report(job), key, j);
    syi_job_receipt(job, "%-9s %s: %s, %lld documents, %lld tokens, %lld of them trained (%.1f %%), %lld rows an epoch", key, path,
                    info->format, (long long)info->documents, (long long)info->tokens, (long long)info->trained_tokens, share,
                    (long long)info->rows_per_epoch);
    if (info->truncated_documents > 0)
        syi_job_receipt(job, "          %lld documents were longer than a row and lost their ends; --seq makes rows longer",
                        (long long)info->truncated_documents);
    if (info->skipped_documents > 0)
        syi_job_receipt(job, "          %lld documents were left out: shorter than two tokens, or nothing in them to learn",
                        (long long)info->skipped_documents);
    return SY_OK;
}

sy_status syi_receipt_plan(sy_job *job, const sy_plan *plan)
{
    char total[32], model[32], parameters[32], optimizer[32], step[32], other[32];
    json_t *j = json_object();
    set_int(j, "model", plan->model);
    set_int(j, "parameters", plan->parameters);
    set_int(j, "optimizer", plan->optimizer);
    set_int(j, "step", plan->step);
    set_int(j, "other", plan->other);
    set_int(j, "total", plan->total);
    set_int(j, "recompute_blocks", plan->recompute_blocks);
    set_int(j, "micro_tokens", plan->micro_tokens);
    json_object_set_new(syi_job_report(job), "plan", j);
    syi_job_receipt(job, "memory    %s planned: weights %s, trained parameters %s, optimizer %s, step %s, program and data %s",
                    syi_human_bytes(total, plan->total), syi_human_bytes(model, plan->model),
                    syi_human_bytes(parameters, plan->parameters), syi_human_bytes(optimizer, plan->optimizer),
                    syi_human_bytes(step, plan->step), syi_human_bytes(other, plan->other));
    if (plan->recompute_blocks != 0)
        syi_job_receipt(job, "          activations of %s are computed again in the backward pass",
                        plan->recompute_blocks < 0 ? "all blocks" : "some blocks");
    if (plan->micro_tokens > 0)
        syi_job_receipt(job, "          a step is computed %lld tokens at a time", (long long)plan->micro_tokens);
    return SY_OK;
}

/* What is trained: by which method, where, how much of the model. */
static void receipt_trained(syi_train *t)
{
    sy_run *run = t->run;
    const sy_use *adapter = sy_run_use(run, SY_ADAPTER), *optimizer = sy_run_use(run, SY_OPTIMIZER);
    int64_t trained = sy_run_trained(run), sites = 0;
    double share = 100.0 * (double)trained / (double)syi_max(1, sy_run_parameters(run));
    for (int i = 0; i < run->n_active; i++)
        if (run->active[i].method->kind == SY_ADAPTER) sites += run->active[i].n_wraps;
    json_t *report = syi_job_report(t->job), *j = json_object();
    set_text(j, "name", adapter != NULL ? adapter->method->name : NULL);
    set_int(j, "sites", sites);
    set_int(j, "trained_parameters", trained);
    json_object_set_new(report, "adapter", j);
    set_int(report, "trained_parameters", trained);
    if (sites > 0)
        syi_job_receipt(t->job, "adapter   %s on %lld modules: %lld trained parameters (%.3f %% of the model's)",
                        adapter->method->name, (long long)sites, (long long)trained, share);
    else
        syi_job_receipt(t->job, "adapter   %s: %lld trained parameters (%.3f %% of the model's)",
                        adapter != NULL ? adapter->method->name : "none", (long long)trained, share);
    syi_job_receipt(t->job, "steps     %lld of %lld x %lld tokens with %s: learning rate %g, %s, %lld steps of warm-up",
                    (long long)t->schedule.total, (long long)(t->o.batch * t->o.accumulation), (long long)t->o.seq,
                    optimizer != NULL ? optimizer->method->name : "no optimizer", t->o.lr,
                    t->schedule.kind == SYI_COSINE ? "cosine" : t->schedule.kind == SYI_LINEAR ? "linear" : "constant",
                    (long long)t->schedule.warmup);
}

sy_status syi_train_model_hash(syi_train *t)
{
    if (t->state.model[0] != '\0') return SY_OK;
    SYI_TRY(syi_source_hash(sy_run_model(t->run)->source, t->state.model));
    set_text(json_object_get(syi_job_report(t->job), "model"), "hash", t->state.model);
    syi_job_receipt(t->job, "model     %s: hash %s", t->o.model, t->state.model);
    return SY_OK;
}

sy_status syi_train_receipt_open(syi_train *t)
{
    bool dry = syi_job_common(t->job)->dry_run;
    SYI_TRY(syi_receipt_model(t->job, t->run, t->o.model, NULL));
    SYI_TRY(syi_receipt_data(t->job, "data", t->o.data, &t->data_info));
    if (t->eval != NULL)
        SYI_TRY(syi_receipt_data(t->job, "eval_data", t->o.eval_data != NULL ? t->o.eval_data : t->o.data, &t->eval_info));
    receipt_trained(t);
    SYI_TRY(syi_receipt_plan(t->job, &t->plan));
    json_t *report = syi_job_report(t->job);
    json_object_set(report, "settings", t->settings);
    set_int(report, "steps", syi_job_common(t->job)->dry_run ? 0 : t->schedule.total);
    static const char *const later[] = {"loss", "eval_loss", "tokens", "tokens_per_second", "peak_bytes", "seconds", NULL};
    for (int i = 0; dry && later[i] != NULL; i++) json_object_set_new(report, later[i], json_null());
    return SY_OK;
}

/* -- the end ---------------------------------------------------------------------------- */

static sy_status hash_file(sy_context *ctx, const char *path, char text[33])
{
    syi_mapped m;
    SYI_TRY(syi_map_file(ctx, path, &m));
    syi_hash_text(text, syi_hash_bytes(m.data, (size_t)m.size));
    syi_unmap_file(ctx, &m);
    return SY_OK;
}

static bool is_regular(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* Files at the top of the run folder, with sizes and hashes; weights get a line each. */
static sy_status receipt_files(syi_train *t, json_t *files)
{
    char **names = NULL;
    int n = 0;
    SYI_TRY(syi_list_dir(t->ctx, t->dir, &names, &n));
    sy_status status = SY_OK;
    for (int i = 0; i < n; i++) {
        char *path = syi_join(t->ctx, t->dir, names[i]), hash[33], size[32];
        if (path == NULL) status = SY_E_MEMORY;
        if (status == SY_OK && names[i][0] != '.' && strcmp(names[i], "receipt.json") != 0 && is_regular(path)) {
            status = hash_file(t->ctx, path, hash);
            if (status == SY_OK) {
                json_t *j = json_object();
                set_text(j, "name", names[i]);
                set_int(j, "bytes", syi_file_size(path));
                set_text(j, "xxh3_128", hash);
                json_array_append_new(files, j);
                if (syi_ends(names[i], ".safetensors"))
                    syi_job_receipt(t->job, "wrote     %s: %s, hash %s", path, syi_human_bytes(size, syi_file_size(path)), hash);
            }
        }
        syi_free(t->ctx, path);
        syi_free(t->ctx, names[i]);
    }
    syi_free(t->ctx, names);
    return status;
}

static sy_status write_profile(syi_train *t)
{
    if (t->run->profile == NULL) return SY_OK;
    syi_text table;
    syi_text_init(&table, t->ctx, 1 << 20);
    double limit = 0;
    sy_status s = syi_product_limit(t->run->engine, t->run->options.dtype, &limit);
    if (s != SY_OK) {
        syi_text_free(&table);
        return s;
    }
    syi_profile_table(t->run->profile, limit, &table);
    double seconds = 0;
    const double flops = syi_profile_flops(t->run->profile, &seconds), share = seconds > 0 ? flops / seconds / limit : 0;
    syi_report_real(syi_job_report(t->job), "limit_gflops", limit * 1e-9);
    syi_report_real(syi_job_report(t->job), "counted_gflop", flops * 1e-9);
    syi_report_real(syi_job_report(t->job), "share_of_limit", share);
    syi_log(t->ctx, SY_LOG_INFO, "limit: a plain product of 2048 x 1536 x 576 reached %.1f GFLOP/s in this run; %.1f %% of it were reached from "
            "the first operation to the last", limit * 1e-9, 100 * share);
    for (char *line = table.s, *end; line != NULL && *line != '\0'; line = end) {
        end = line + strcspn(line, "\n");
        syi_log(t->ctx, SY_LOG_INFO, "%.*s", (int)(end - line), line);
        end += *end == '\n';
    }
    syi_text_free(&table);
    return syi_profile_trace(t->run->profile, t->o.profile);
}

/* The last line of the log, under the names of Hugging Face's summary. */
static json_t *summary_line(const syi_train *t)
{
    json_t *j = json_object();
    if (j == NULL) return NULL;
    set_int(j, "step", t->state.step);
    syi_report_real(j, "epoch", syi_train_epoch(t));
    syi_report_real(j, "train_loss", t->state.loss_sum / (double)syi_max(1, t->state.step));
    syi_report_real(j, "train_runtime", t->state.seconds);
    syi_report_real(j, "train_steps_per_second", (double)t->state.step / syi_positive(t->state.seconds));
    syi_report_real(j, "train_tokens_per_second", (double)t->state.tokens / syi_positive(t->state.seconds));
    return j;
}

static const char *const result_keys[] = {"steps", "loss", "first_loss", "train_loss", "eval_loss", "eval_accuracy", "first_eval_loss", "best_step",
    "perplexity", "tokens", "trained_tokens", "tokens_per_second", "peak_bytes", "seconds", "trained_parameters", NULL};

sy_status syi_train_receipt_end(syi_train *t)
{
    const syi_run_state *s = &t->state;
    json_t *report = syi_job_report(t->job), *files = json_array(), *receipt = json_object();
    char title[160], summary[200], *path = syi_join(t->ctx, t->dir, "receipt.json");
    double seconds = syi_now() - t->began;
    set_int(report, "steps", s->step);
    syi_report_real(report, "loss", s->loss);
    syi_report_real(report, "first_loss", s->first_loss);
    syi_report_real(report, "train_loss", s->loss_sum / (double)syi_max(1, s->step));
    syi_report_real(report, "eval_loss", s->eval_loss);
    if (syi_run_classifies(t->run)) syi_report_real(report, "eval_accuracy", s->eval_accuracy);
    syi_report_real(report, "first_eval_loss", s->first_eval);
    syi_report_real(report, "perplexity", exp(s->eval_loss));
    json_object_set_new(report, "best_step", s->best_step >= 0 ? json_integer(s->best_step) : json_null());
    set_int(report, "tokens", s->tokens);
    set_int(report, "trained_tokens", s->trained);
    syi_report_real(report, "tokens_per_second", (double)s->tokens / syi_positive(s->seconds));
    set_int(report, "peak_bytes", syi_rss_peak());
    syi_report_real(report, "seconds", seconds);
    syi_report_real(report, "start_seconds", t->start_seconds);
    set_text(report, "out", t->dir);
    sy_status status = path == NULL || files == NULL || receipt == NULL ? syi_nomem(t->ctx, 1024) : SY_OK;
    if (status == SY_OK) status = syi_train_model_hash(t);
    if (status == SY_OK) status = sy_run_save(t->run, t->dir);
    if (status == SY_OK) status = syi_metrics_add(t->metrics, summary_line(t));
    if (status == SY_OK) status = syi_trainer_state_write(t, t->dir);
    if (status == SY_OK) status = syi_metrics_picture(t->metrics, syi_train_title(t, title), syi_train_summary(t, summary));
    if (status == SY_OK) status = syi_metrics_close(t->metrics);
    else syi_metrics_close(t->metrics);
    t->metrics = NULL;
    if (status == SY_OK) status = receipt_files(t, files);
    if (status == SY_OK) {
        char speed[48], peak[32], took[32];
        snprintf(speed, sizeof speed, "%.0f tokens/s", (double)s->tokens / syi_positive(s->seconds));
        syi_job_receipt(t->job, "done      %s; %s, peak memory %s, %s", summary, speed, syi_human_bytes(peak, syi_rss_peak()),
                        syi_human_time(took, seconds));
        set_text(receipt, "steelyard", sy_version());
        set_text(receipt, "verb", "train");
        json_object_set(receipt, "settings", t->settings);
        static const char *const parts[] = {"model", "data", "eval_data", "adapter", "plan", NULL};
        for (int i = 0; parts[i] != NULL; i++) {
            json_t *part = json_object_get(report, parts[i]);
            if (part != NULL) json_object_set(receipt, parts[i], part);
        }
        json_t *result = json_object();
        for (int i = 0; result != NULL && result_keys[i] != NULL; i++)
            json_object_set(result, result_keys[i], json_object_get(report, result_keys[i]));
        json_object_set_new(receipt, "result", result);
        json_object_set(receipt, "files", files);
        json_object_set(report, "files", files);
    }
    if (status == SY_OK) status = write_profile(t);
    if (status == SY_OK) status = syi_json_write(t->ctx, path, receipt, false);
    json_decref(receipt);
    json_decref(files);
    syi_free(t->ctx, path);
    return status;
}

sy_status syi_train_receipt_again(syi_train *t)
{
    json_t *receipt = NULL, *report = syi_job_report(t->job);
    char *path = syi_join(t->ctx, t->dir, "receipt.json");
    sy_status status = path != NULL ? syi_json_read(t->ctx, path, &receipt) : SY_E_MEMORY;
    if (status == SY_OK) {
        const json_t *result = json_object_get(receipt, "result");
        for (int i = 0; result_keys[i] != NULL; i++) {
            json_t *v = json_object_get(result, result_keys[i]);
            json_object_set_new(report, result_keys[i], v != NULL ? json_incref(v) : json_null());
        }
        set_text(report, "out", t->dir);
        syi_job_receipt(t->job, "done      %s was complete already (%lld steps): nothing to do", t->dir,
                        (long long)json_integer_value(json_object_get(report, "steps")));
    }
    json_decref(receipt);
    syi_free(t->ctx, path);
    return status;
}
