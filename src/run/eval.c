/* SPDX-License-Identifier: Apache-2.0 */
/* The verb `eval`: loss and perplexity of a model on a data set, and, for comparing with
 * other tools, every logit. */
#include "data/data.h"
#include "train.h"

static const char *const dtypes[] = {"f32", "bf16", NULL};
static const char *const losses[] = {"default", "all", NULL};

typedef struct {
    char *model, *adapter, *data, *dump, *embeddings, *chat_template;
    int64_t seq, batch, max_documents;
    int dtype, loss_on;
    bool pack;
    syi_data_rows data_rows;
    /* at work */
    sy_context *ctx;
    sy_run *run;
    sy_dataset *set;
    char *template_text;
} eval;

#define OFFSET(field) offsetof(eval, field)
static const sy_option rows[] = {
    {.name = "model", .type = SY_OPT_PATH, .offset = OFFSET(model), .flags = SY_OPT_REQUIRED, .alias = "base_model model_name_or_path",
     .help = "Hugging Face folder or GGUF file", .example = "models/tiny"},
    {.name = "adapter", .type = SY_OPT_PATH, .offset = OFFSET(adapter), .alias = "lora_model_dir adapter_name_or_path",
     .help = "adapter folder to put around the model", .example = "run"},
    {.name = "data", .type = SY_OPT_PATH, .offset = OFFSET(data), .flags = SY_OPT_REQUIRED, .alias = "dataset",
     .help = ".jsonl, .json or .txt, each also .gz; images: a folder for each class, an IDX file, a .csv list", .example = "valid.jsonl"},
    {.name = "seq", .type = SY_OPT_INT, .offset = OFFSET(seq), .def = "512", .min = 2, .max = 1048576,
     .alias = "sequence_len max_length max_seq_length", .help = "tokens of a window (at most the model's context)", .example = "256"},
    {.name = "batch", .type = SY_OPT_INT, .offset = OFFSET(batch), .def = "4", .min = 1, .max = 65536,
     .alias = "per_device_eval_batch_size", .help = "windows computed at once", .example = "8"},
    SYI_DATA_ROWS,
    {.name = "max-documents", .type = SY_OPT_INT, .offset = OFFSET(max_documents), .def = "0", .min = 0, .max = 1e15,
     .help = "read only the first N documents (0: all)", .example = "100"},
    {.name = "dtype", .type = SY_OPT_ENUM, .offset = OFFSET(dtype), .def = "bf16", .choices = dtypes,
     .help = "of activations and products", .example = "f32"},
    {.name = "pack", .type = SY_OPT_BOOL, .offset = OFFSET(pack), .def = "on", .help = "several documents share a row; the loss is the same",
     .example = "off"},
    {.name = "loss-on", .type = SY_OPT_ENUM, .offset = OFFSET(loss_on), .def = "default", .choices = losses,
     .help = "default: completions and assistant turns, all of plain text; all: every token", .example = "all"},
    {.name = "chat-template", .type = SY_OPT_PATH, .offset = OFFSET(chat_template), .flags = SY_OPT_ADVANCED,
     .help = "built-in template (chatml, llama-3, mistral-v3, ...) or Jinja file to use instead of the model's own", .example = "chatml"},
    {.name = "dump-logits", .type = SY_OPT_PATH, .offset = OFFSET(dump), .flags = SY_OPT_ADVANCED,
     .help = "write the logits of every token: safetensors, logits f32 [tokens, vocabulary] and input_ids", .example = "{tmp}/logits.safetensors"},
    {.name = "dump-embeddings", .type = SY_OPT_PATH, .offset = OFFSET(embeddings), .flags = SY_OPT_ADVANCED,
     .help = "write one vector a text instead: safetensors, embeddings f32 [texts, hidden], pooled as modules.json says (else the mean)",
     .example = "{tmp}/embeddings.safetensors"},
    {.name = NULL}
};

/* -- the dump ---------------------------------------------------------------------------- */

typedef struct {
    sy_context *ctx;
    sy_writer *writer;
    const sy_batch *batch;
    int64_t vocabulary, written, right;
    double loss;
    bool by_row; /* a classifier's: one row of logits a row of the data */
} dump;

static double token_loss(const float *logits, int64_t n, int32_t target)
{
    double top = logits[0], sum = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > top) top = logits[i];
    for (int64_t i = 0; i < n; i++) sum += exp(logits[i] - top);
    return log(sum) + top - logits[target];
}

static sy_status take_logits(void *self, int64_t row, int64_t n, const float *logits)
{
    dump *d = self;
    for (int64_t i = 0; i < n; i++) {
        const float *at = logits + i * d->vocabulary;
        int64_t t = row + i;
        if (!d->by_row && syi_batch_padding(d->batch, t)) continue;
        if (d->batch->target[t] >= 0) d->loss += token_loss(at, d->vocabulary, d->batch->target[t]);
        if (d->by_row) syi_classified(at, 1, d->vocabulary, d->batch->target + t, &(double){0}, &d->right);
        SYI_TRY(sy_writer_put(d->writer, "logits", d->written, 1, at));
        SYI_TRY(sy_writer_put(d->writer, d->by_row ? "labels" : "input_ids", d->written, 1, d->by_row ? d->batch->target + t : d->batch->ids + t));
        d->written++;
    }
    return SY_OK;
}

static sy_status count_tokens(eval *e, int64_t rows_per_epoch, int64_t *tokens)
{
    *tokens = 0;
    for (int64_t row = 0; row < rows_per_epoch; row++) {
        sy_batch batch;
        SYI_TRY(sy_dataset_batch(e->set, row, 1, 1, &batch));
        *tokens += syi_batch_tokens(&batch);
    }
    return SY_OK;
}

/* The loss is taken from the very logits that are written. */
static sy_status evaluate_with_dump(eval *e, int64_t batch_rows, syi_evaluation *out)
{
    sy_dataset_info info;
    sy_dataset_stat(e->set, &info);
    dump d = {.ctx = e->ctx, .vocabulary = sy_run_vocabulary(e->run), .by_row = syi_run_classifies(e->run)};
    double began = syi_now();
    int64_t tokens = 0;
    if (d.by_row) tokens = info.rows_per_epoch;
    else SYI_TRY(count_tokens(e, info.rows_per_epoch, &tokens));
    SYI_TRY(sy_writer_new(e->ctx, e->dump, 0, &d.writer));
    sy_status status = sy_writer_declare(d.writer, "logits", SY_F32, 2, (const int64_t[]){tokens, d.vocabulary});
    if (status == SY_OK) status = sy_writer_declare(d.writer, d.by_row ? "labels" : "input_ids", SY_I32, 2, (const int64_t[]){tokens, 1});
    if (status == SY_OK) status = sy_writer_begin(d.writer);
    *out = (syi_evaluation){.tokens = tokens, .accuracy = NAN};
    for (int64_t row = 0; status == SY_OK && row < info.rows_per_epoch;) {
        sy_batch batch;
        int64_t n = syi_min(batch_rows, info.rows_per_epoch - row);
        status = sy_cancelled(e->ctx) ? syi_fail(e->ctx, SY_E_CANCELLED, "interrupted") : SY_OK;
        if (status == SY_OK) status = sy_dataset_batch(e->set, row, n, 1, &batch);
        d.batch = &batch;
        if (status == SY_OK) status = sy_run_logits(e->run, &batch, take_logits, &d);
        if (status != SY_OK) break;
        row += n;
        out->trained += batch.trained;
        syi_progress(e->ctx, &(sy_progress){.what = "eval", .done = row, .total = info.rows_per_epoch, .unit = "row",
            .seconds = syi_now() - began, .eta = -1, .loss = d.loss / (double)syi_max(1, out->trained), .bytes = syi_rss_now()});
    }
    out->seconds = syi_now() - began;
    out->loss = d.loss / (double)syi_max(1, out->trained);
    if (d.by_row) out->accuracy = (double)d.right / (double)syi_max(1, out->trained);
    if (status == SY_OK && !isfinite(out->loss)) status = syi_fail(e->ctx, SY_E_NUMERIC, "the loss is not a finite number");
    if (status == SY_OK) return sy_writer_end(d.writer);
    sy_writer_abort(d.writer);
    return status;
}

/* -- embeddings -------------------------------------------------------------------------- */

static sy_status embed_all(eval *e, int64_t batch_rows, const syi_pooling *how, syi_evaluation *out)
{
    sy_dataset_info info;
    sy_dataset_stat(e->set, &info);
    const int64_t hidden = e->run->model->hidden;
    double began = syi_now();
    sy_writer *w = NULL;
    float *x = syi_alloc(e->ctx, (size_t)(batch_rows * hidden) * sizeof *x);
    if (x == NULL) return SY_E_MEMORY;
    sy_status s = sy_writer_new(e->ctx, e->embeddings, 0, &w);
    if (s == SY_OK) s = sy_writer_declare(w, "embeddings", SY_F32, 2, (const int64_t[]){info.rows_per_epoch, hidden});
    if (s == SY_OK) s = sy_writer_begin(w);
    *out = (syi_evaluation){.loss = NAN, .accuracy = NAN, .tokens = info.tokens};
    for (int64_t row = 0; s == SY_OK && row < info.rows_per_epoch; row += batch_rows) {
        const int64_t n = syi_min(batch_rows, info.rows_per_epoch - row);
        sy_batch batch;
        s = sy_cancelled(e->ctx) ? syi_fail(e->ctx, SY_E_CANCELLED, "interrupted") : sy_dataset_batch(e->set, row, n, 1, &batch);
        if (s == SY_OK) s = syi_run_embed(e->run, &batch, how, x);
        if (s == SY_OK) s = sy_writer_put(w, "embeddings", row, n, x);
        out->trained += n;
    }
    out->seconds = syi_now() - began;
    syi_free(e->ctx, x);
    if (s == SY_OK) return sy_writer_end(w);
    if (w != NULL) sy_writer_abort(w);
    return s;
}

/* -- the verb ------------------------------------------------------------------------------- */

static sy_status open_all(eval *e, sy_job *job, const syi_pooling *pooling, sy_plan *plan, int64_t *batch_rows)
{
    const syi_common *common = syi_job_common(job);
    sy_run_options o;
    sy_run_options_init(&o);
    o.model = e->model;
    o.adapter = e->adapter;
    o.dtype = e->dtype == 0 ? SY_F32 : SY_BF16;
    o.seed = (uint64_t)common->seed;
    o.memory_limit = common->memory_limit;
    o.plan_only = common->dry_run;
    SYI_TRY(sy_run_open(e->ctx, &o, &e->run));
    SYI_TRY(syi_run_seq(e->run, syi_job_given(job, "seq"), &e->seq));
    SYI_TRY(syi_run_needs_tokenizer(e->run, e->model));
    if (e->embeddings != NULL && pooling->tokens > 0 && !syi_job_given(job, "seq")) e->seq = syi_min(e->seq, pooling->tokens);
    if (syi_run_sees(e->run)) e->seq = 1; /* an image is a row of one */
    e->run->options.row_tokens = e->seq;
    if (syi_run_classifies(e->run) && !syi_job_given(job, "batch")) e->batch = 32;
    SYI_TRY(syi_template_text(e->ctx, e->run, e->chat_template, &e->template_text));
    sy_dataset_options d = {.tokenizer = sy_run_tokenizer(e->run), .chat_template = e->template_text, .eos_id = sy_run_eos(e->run),
                            .bos_id = -1, .bos_token = syi_run_bos_text(e->run), .loss_on = e->loss_on == 1 ? SY_LOSS_ALL : SY_LOSS_DEFAULT, .seq = e->seq,
                            .pack = e->pack && e->dump == NULL, .max_documents = e->max_documents};
    syi_data_options(&e->data_rows, &d);
    if (e->embeddings != NULL) SYI_TRY(syi_sentences_open(e->ctx, e->data, NULL, 0, &d, &e->set));
    else SYI_TRY(syi_run_data(e->run, e->data, &d, &e->set));
    sy_dataset_info info;
    sy_dataset_stat(e->set, &info);
    *batch_rows = syi_min(e->batch, info.rows_per_epoch);
    for (;;) { /* sums do not care how rows are grouped */
        sy_status status = sy_run_plan(e->run, *batch_rows * e->seq, false, plan);
        if (status != SY_E_MEMORY || *batch_rows == 1) return status;
        *batch_rows = *batch_rows / 2;
    }
}

static sy_status eval_run(void *self, sy_job *job)
{
    eval *e = self;
    e->ctx = syi_job_context(job);
    double began = syi_now();
    sy_plan plan;
    int64_t batch_rows = 1;
    char hash[33];
    sy_dataset_info info;
    syi_evaluation r = {.loss = NAN, .seconds = NAN, .accuracy = NAN};
    bool dry = syi_job_common(job)->dry_run;
    json_t *report = syi_job_report(job);
    syi_pooling pooling = {0};
    if (e->embeddings != NULL && e->dump != NULL) return syi_fail(e->ctx, SY_E_USAGE, "--dump-logits and --dump-embeddings: one of them");
    if (e->embeddings != NULL) SYI_TRY(syi_pooling_read(e->ctx, e->model, &pooling));
    SYI_TRY(open_all(e, job, &pooling, &plan, &batch_rows));
    SYI_TRY(syi_receipt_model(job, e->run, e->model, dry ? NULL : hash));
    if (e->adapter != NULL) {
        const sy_use *use = sy_run_use(e->run, SY_ADAPTER);
        syi_job_receipt(job, "adapter   %s: %s", e->adapter, use != NULL ? use->method->name : "none");
    }
    sy_dataset_stat(e->set, &info);
    SYI_TRY(syi_receipt_data(job, "data", e->data, &info));
    SYI_TRY(syi_receipt_plan(job, &plan));
    if (!dry) {
        SYI_TRY(sy_run_reserve(e->run, &plan));
        if (e->embeddings != NULL) SYI_TRY(embed_all(e, batch_rows, &pooling, &r));
        else if (e->dump != NULL) SYI_TRY(evaluate_with_dump(e, batch_rows, &r));
        else SYI_TRY(syi_evaluate(e->run, e->set, batch_rows, "eval", &r));
    }
    syi_report_real(report, "loss", r.loss);
    syi_report_real(report, "perplexity", exp(r.loss));
    if (syi_run_classifies(e->run)) syi_report_real(report, "accuracy", r.accuracy);
    json_object_set_new(report, "tokens", json_integer(r.tokens));
    json_object_set_new(report, "predicted_tokens", json_integer(r.trained));
    syi_report_real(report, "tokens_per_second", (double)r.tokens / r.seconds);
    json_object_set_new(report, "peak_bytes", json_integer(syi_rss_peak()));
    syi_report_real(report, "seconds", syi_now() - began);
    if (dry) return SY_OK;
    if (e->dump != NULL) {
        char size[32];
        syi_job_receipt(job, "wrote     %s: %s", e->dump, syi_human_bytes(size, syi_file_size(e->dump)));
    }
    char peak[32];
    if (e->embeddings != NULL) syi_job_receipt(job, "wrote     %s: %lld vectors of %lld numbers in %.2f s", e->embeddings, (long long)r.trained,
                                               (long long)e->run->model->hidden, r.seconds);
    else if (syi_run_classifies(e->run))
        syi_job_receipt(job, "done      accuracy %.2f %%, loss %.5f over %lld rows; %.0f rows/s, peak memory %s", 100 * r.accuracy, r.loss, (long long)r.trained,
                        (double)r.trained / syi_positive(r.seconds), syi_human_bytes(peak, syi_rss_peak()));
    else syi_job_receipt(job, "done      loss %.5f, perplexity %.4f over %lld predicted tokens; %.0f tokens/s, peak memory %s", r.loss,
                    exp(r.loss), (long long)r.trained, (double)r.tokens / syi_positive(r.seconds), syi_human_bytes(peak, syi_rss_peak()));
    return SY_OK;
}

static void eval_free(void *self)
{
    eval *e = self;
    if (e->ctx == NULL) return;
    sy_dataset_free(e->set);
    sy_run_close(e->run);
    syi_free(e->ctx, e->template_text);
}

const sy_verb sy_verb_eval = {
    .name = "eval",
    .title = "measures loss and perplexity on a text file",
    .about =
        "The loss is the mean over all predicted tokens of -ln p(token | tokens before it in its window); the perplexity is its "
        "exponential.\n\n"
        "The rule of windows, for reproducing the number elsewhere: each document is tokenized and ended with the end-of-text "
        "token; plain text is cut into windows of --seq tokens that do not overlap (the last one is shorter); the tokens 2, 3, ... "
        "of a window are predicted from those before them in it, its first token is not. Prompts with completions and chats are "
        "one window each, cut at --seq, and only completions and assistant turns are predicted.\n\n"
        "Models that classify: a row of the data is an image or a text with a label; the loss is the mean of -ln p(label), and the "
        "accuracy is the share of rows whose label has the highest logit.\n\n"
        "--dump-logits writes one row per token of every window, in the order of the file, the window's last token included "
        "(predicting what lies beyond it), and the token ids beside them.",
    .example = "eval --model models/tiny --data models/tiny/kjv-heldout.jsonl --seq 128 --max-documents 2",
    .options = rows,
    .size = sizeof(eval),
    .run = eval_run,
    .free = eval_free,
};
