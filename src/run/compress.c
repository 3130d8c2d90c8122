/* SPDX-License-Identifier: Apache-2.0 */
/* The verb "compress": quantizes or factorises a model with a published method, says what
 * it cost in loss on held-out text, and writes it in a form that is asked for. */
#include "run/compress.h"

#include "io/io.h"
#include "report/chart.h"
#include "run/train.h"
#include "storage/weight.h"

#include <math.h>

static const char *const dtypes[] = {"f32", "bf16", NULL};
static const char *const forms[] = {"steelyard", "gptq", "awq", "dense", NULL};

typedef struct {
    char *model, *method, *calib, *out, *eval_data;
    sy_list targets, excluded;
    int64_t samples, seq, eval_samples;
    int dtype, form;
    bool svg;
    /* at work */
    syi_compress s;
    sy_dataset *set[2];
    int64_t windows[2];
} compress;

#define OFFSET(f) offsetof(compress, f)
static const sy_option rows[] = {
    {.name = "model", .type = SY_OPT_PATH, .offset = OFFSET(model), .flags = SY_OPT_REQUIRED, .alias = "base_model model_name_or_path",
     .help = "Hugging Face folder or GGUF file", .example = "models/tiny"},
    {.name = "method", .type = SY_OPT_STRING, .offset = OFFSET(method), .flags = SY_OPT_REQUIRED, .alias = "quant_method",
     .help = "compressor: rtn, rescomp (GPTQ, GPTAQ), quantlrm (AWQ), d2quant, shiftaddllm, rocket", .example = "rtn"},
    {.name = "calib", .type = SY_OPT_PATH, .offset = OFFSET(calib), .alias = "dataset calibration_data", .help = "text to calibrate on: .jsonl, .json or .txt, each also .gz",
     .example = "models/tiny/devil.jsonl"},
    {.name = "out", .type = SY_OPT_PATH, .offset = OFFSET(out), .flags = SY_OPT_REQUIRED | SY_OPT_RUNTIME, .help = "folder that does not exist yet, or a name that ends in .gguf", .example = "small"},
    {.name = "export", .type = SY_OPT_ENUM, .offset = OFFSET(form), .def = "steelyard", .choices = forms, .flags = SY_OPT_RUNTIME,
     .help = "form of the folder: packed as this program reads it, GPTQ's or AWQ's layout, or dense 16-bit weights", .example = "dense"},
    {.name = "samples", .type = SY_OPT_INT, .offset = OFFSET(samples), .def = "128", .min = 1, .max = 1e9, .alias = "nsamples n_samples num_calibration_samples",
     .help = "windows of calibration text", .example = "16"},
    {.name = "seq", .type = SY_OPT_INT, .offset = OFFSET(seq), .def = "512", .min = 2, .max = 1048576, .alias = "seqlen sequence_len max_seq_length",
     .help = "tokens of a window (at most the model's context)", .example = "128"},
    {.name = "eval-data", .type = SY_OPT_PATH, .offset = OFFSET(eval_data), .flags = SY_OPT_RUNTIME,
     .help = "held-out text for the loss before and after; without it: a tenth of the calibration text, which is then not calibrated on", .example = "models/tiny/devil-heldout.jsonl"},
    {.name = "eval-samples", .type = SY_OPT_INT, .offset = OFFSET(eval_samples), .def = "16", .min = 0, .max = 1e9, .flags = SY_OPT_RUNTIME,
     .help = "windows of held-out text (0: no loss)", .example = "8"},
    {.name = "target-modules", .type = SY_OPT_LIST, .offset = OFFSET(targets), .def = "all-linear", .help = "linears to compress: names, one regular expression, or all-linear", .example = "gate_proj,up_proj"},
    {.name = "exclude-modules", .type = SY_OPT_LIST, .offset = OFFSET(excluded), .alias = "ignore modules_to_not_convert", .help = "linears to leave as they are", .example = "v_proj"},
    {.name = "dtype", .type = SY_OPT_ENUM, .offset = OFFSET(dtype), .def = "bf16", .choices = dtypes, .help = "of activations during calibration; sums are f32 and f64 in any case", .example = "f32"},
    {.name = "svg", .type = SY_OPT_BOOL, .offset = OFFSET(svg), .flags = SY_OPT_RUNTIME, .help = "also draw the error of each layer: error.svg in the folder", .example = "on"},
    {.name = NULL}
};

/* -- opening ------------------------------------------------------------------------------- */

static sy_status open_run(compress *f, sy_job *job)
{
    syi_compress *s = &f->s;
    const syi_common *common = syi_job_common(job);
    sy_run_options o;
    sy_run_options_init(&o);
    o.model = f->model;
    o.dtype = f->dtype == 0 ? SY_F32 : SY_BF16;
    o.seed = (uint64_t)common->seed;
    o.memory_limit = common->memory_limit;
    o.plan_only = common->dry_run;
    SYI_TRY(sy_run_open(s->ctx, &o, &s->run));
    s->model = s->run->model;
    SYI_TRY(syi_run_seq(s->run, syi_job_given(job, "seq"), &f->seq));
    s->use = syi_job_take(job, SY_COMPRESSOR);
    if (!s->use.method) return syi_fail(s->ctx, SY_E_USAGE, "--method %s is no compressor; \"steelyard methods\" lists them by kind", f->method);
    return s->use.method->init ? s->use.method->init(s->use.self, s->run) : SY_OK;
}

static sy_status open_set(compress *f, int which, const char *path, double holdout, bool heldout, int64_t want)
{
    syi_compress *s = &f->s;
    if (!sy_run_tokenizer(s->run))
        return syi_fail(s->ctx, SY_E_INPUT, "%s has no tokenizer (tokenizer.json), so text cannot be read with it", f->model);
    const sy_dataset_options d = {.tokenizer = sy_run_tokenizer(s->run), .chat_template = sy_run_chat_template(s->run), .eos_id = sy_run_eos(s->run), .bos_id = -1, .bos_token = syi_run_bos_text(s->run),
                                  .loss_on = SY_LOSS_ALL, .seq = f->seq, .pack = true, .shuffle = which == SYI_CALIB, .seed = s->run->options.seed,
                                  .holdout = holdout, .heldout = heldout};
    SYI_TRY(sy_dataset_open(s->ctx, path, &d, &f->set[which]));
    sy_dataset_info info;
    sy_dataset_stat(f->set[which], &info);
    SYI_TRY(syi_receipt_data(s->job, which == SYI_CALIB ? "calib" : "heldout", path, &info));
    f->windows[which] = syi_min(want, info.rows_per_epoch);
    if (which == SYI_CALIB && info.tokens < 128)
        return syi_fail(s->ctx, SY_E_INPUT, "%s: %lld tokens are too few to calibrate on; some thousands are needed, 128 windows of 512 are usual", path, (long long)info.tokens);
    if (f->windows[which] < want && which == SYI_CALIB) {
        syi_log(s->ctx, SY_LOG_WARN, "%s fills %lld windows of %lld tokens, %lld were asked for: calibrating on what there is", path, (long long)f->windows[which],
                (long long)f->seq, (long long)want);
        snprintf(s->report_note, sizeof s->report_note, "calibrated on %lld windows instead of %lld: the text is short", (long long)f->windows[which], (long long)want);
    }
    return SY_OK;
}

static sy_status open_sets(compress *f)
{
    const char *heldout = f->eval_data ? f->eval_data : f->calib;
    const bool split = !f->eval_data && f->calib && f->eval_samples > 0;
    if (f->calib) SYI_TRY(open_set(f, SYI_CALIB, f->calib, split ? 0.1 : 0, false, f->samples));
    if (heldout && f->eval_samples > 0) SYI_TRY(open_set(f, SYI_HELDOUT, heldout, split ? 0.1 : 0, split, f->eval_samples));
    return SY_OK;
}

/* -- the report ---------------------------------------------------------------------------------- */

static int64_t model_bytes(const sy_model *m)
{
    int64_t bytes = 0;
    for (int64_t i = 0; i < sy_checkpoint_count(m->source->tensors); i++) bytes += sy_checkpoint_at(m->source->tensors, i)->bytes;
    return bytes;
}

static json_t *real(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static void report_layers(compress *f)
{
    syi_compress *s = &f->s;
    json_t *list = json_array();
    double bits = 0, weights = 0, seconds = 0, most = 0;
    const char *worst = NULL;
    for (int i = 0; i < s->n_sites; i++) {
        const syi_layer_report *r = &s->report[i];
        const double n = (double)(r->out * r->in);
        bits += r->bits * n;
        weights += n;
        seconds += r->seconds;
        const double e = isfinite(r->output_error) ? r->output_error : r->weight_error;
        if (e > most) {
            most = e;
            worst = r->name;
        }
        json_t *o = json_pack("{s:s, s:[I,I], s:o, s:I, s:o, s:o, s:o}", "name", r->name, "shape", (json_int_t)r->out, (json_int_t)r->in, "bits", real(r->bits), "bytes",
                              (json_int_t)r->bytes, "weight_error", real(r->weight_error), "output_error", real(r->output_error), "seconds", real(r->seconds));
        if (r->note[0]) json_object_set_new(o, "note", json_string(r->note));
        json_array_append_new(list, o);
        if (r->note[0]) syi_log(s->ctx, SY_LOG_INFO, "%s: %s", r->name, r->note);
    }
    json_t *report = syi_job_report(s->job);
    json_object_set_new(report, "method", json_string(s->use.method->name));
    syi_report_real(report, "bits_per_weight", weights > 0 ? bits / weights : NAN);
    json_object_set_new(report, "layers_compressed", json_integer(s->n_sites));
    json_object_set_new(report, "layers_from_journal", json_integer(s->reused));
    syi_report_real(report, "solve_seconds", seconds);
    json_object_set_new(report, "layers", list);
    syi_job_receipt(s->job, "layers    %d compressed with %s to %.3f bits a weight%s%s", s->n_sites, s->use.method->name, weights > 0 ? bits / weights : NAN,
                    worst ? "; largest error: " : "", worst ? worst : "");
    if (s->reused) syi_job_receipt(s->job, "          %d of them were solved by an earlier run and taken from its journal", s->reused);
    if (s->report_note[0]) syi_job_receipt(s->job, "          %s", s->report_note);
}

static sy_status draw(compress *f, const char *dir)
{
    syi_compress *s = &f->s;
    syi_text text;
    double *x = syi_calloc(s->ctx, (size_t)(3 * s->n_sites), sizeof *x);
    if (!x) return SY_E_MEMORY;
    double *weight = x + s->n_sites, *output = weight + s->n_sites;
    for (int i = 0; i < s->n_sites; i++) {
        x[i] = i;
        weight[i] = s->report[i].weight_error;
        output[i] = s->report[i].output_error;
    }
    const syi_series series[] = {{.label = "weights", .kind = SYI_CHART_POINTS, .color = 0, .x = x, .y = weight, .n = s->n_sites},
                                 {.label = "outputs on the calibration text", .kind = SYI_CHART_POINTS, .color = 1, .x = x, .y = output, .n = s->n_sites}};
    const bool outputs = s->n_sites > 0 && isfinite(output[0]);
    char title[200];
    snprintf(title, sizeof title, "%s: relative squared error of each layer", s->use.method->name);
    const syi_chart chart = {.title = title, .x_label = "layer, in order of the model", .y_label = "squared error", .series = series, .n_series = outputs ? 2 : 1, .log_y = true};
    syi_text_init(&text, s->ctx, 64 << 20);
    sy_status st = syi_chart_svg(s->ctx, &chart, &text);
    char *path = syi_join(s->ctx, dir, "error.svg");
    if (st == SY_OK && path) st = syi_write_file(s->ctx, path, text.s, (int64_t)text.len);
    syi_free(s->ctx, path);
    syi_text_free(&text);
    syi_free(s->ctx, x);
    return st;
}

static void report_rest(compress *f, double began, int64_t bytes_after)
{
    syi_compress *s = &f->s;
    json_t *report = syi_job_report(s->job);
    char before[32], after[32], peak[32];
    const int64_t bytes_before = model_bytes(s->model);
    json_object_set_new(report, "bytes_before", json_integer(bytes_before));
    json_object_set_new(report, "bytes_after", json_integer(bytes_after));
    syi_report_real(report, "loss_before", s->loss_before);
    syi_report_real(report, "loss_after", s->loss_after);
    syi_report_real(report, "perplexity_before", exp(s->loss_before));
    syi_report_real(report, "perplexity_after", exp(s->loss_after));
    json_object_set_new(report, "heldout_tokens", json_integer(s->heldout_tokens));
    syi_report_real(report, "seconds", syi_now() - began);
    json_object_set_new(report, "peak_bytes", json_integer(syi_rss_peak()));
    if (isfinite(s->loss_before))
        syi_job_receipt(s->job, "loss      %.5f before, %.5f after (perplexity %.3f, %.3f) on %lld held-out tokens", s->loss_before, s->loss_after, exp(s->loss_before),
                        exp(s->loss_after), (long long)s->heldout_tokens);
    syi_job_receipt(s->job, "done      %s before, %s after; %.1f s, peak memory %s", syi_human_bytes(before, bytes_before), syi_human_bytes(after, bytes_after), syi_now() - began,
                    syi_human_bytes(peak, syi_rss_peak()));
}

/* -- the verb ------------------------------------------------------------------------------------------- */

static sy_status fingerprint(compress *f, json_t **out)
{
    syi_compress *s = &f->s;
    char hash[33];
    sy_dataset_info info;
    *out = syi_job_settings(s->job, true);
    SYI_TRY(syi_receipt_model(s->job, s->run, f->model, hash));
    json_object_set_new(*out, "model", json_string(hash));
    if (f->set[SYI_CALIB]) {
        sy_dataset_stat(f->set[SYI_CALIB], &info);
        char text[96];
        snprintf(text, sizeof text, "%s, %lld windows", info.hash, (long long)f->windows[SYI_CALIB]);
        json_object_set_new(*out, "calib", json_string(text));
        json_object_set_new(*out, "heldout", json_string(f->eval_data || f->eval_samples == 0 ? "elsewhere" : "a tenth"));
    }
    return SY_OK;
}

/* Bytes of a file or of a folder's files. */
static int64_t size_of(sy_context *ctx, const char *path)
{
    if (!syi_is_dir(path)) return syi_file_size(path);
    char **names = NULL;
    int n = 0;
    int64_t bytes = 0;
    if (syi_list_dir(ctx, path, &names, &n) != SY_OK) return 0;
    for (int i = 0; i < n; i++) {
        char *file = syi_ends(names[i], ".safetensors") ? syi_join(ctx, path, names[i]) : NULL;
        if (file) bytes += syi_max(0, syi_file_size(file));
        syi_free(ctx, file);
        syi_free(ctx, names[i]);
    }
    syi_free(ctx, names);
    return bytes;
}

static sy_status finish(compress *f, double began, const json_t *settings)
{
    syi_compress *s = &f->s;
    const bool gguf = syi_ends(f->out, ".gguf");
    int64_t bytes = 0;
    report_layers(f);
    SYI_TRY(syi_compress_write(s, f->out, gguf ? SYI_OUT_GGUF : (syi_out_form)f->form, settings, &bytes));
    report_rest(f, began, size_of(s->ctx, f->out));
    syi_job_receipt(s->job, "wrote     %s", f->out);
    if (!gguf) { /* once more, with sizes and times */
        char *path = syi_join(s->ctx, f->out, "report.json");
        if (path) SYI_TRY(syi_json_write(s->ctx, path, syi_job_report(s->job), false));
        syi_free(s->ctx, path);
        if (f->svg) SYI_TRY(draw(f, f->out));
    }
    return syi_journal_remove(s);
}

static sy_status check_out(compress *f)
{
    sy_context *ctx = f->s.ctx;
    bool used = false;
    if (syi_ends(f->out, ".gguf")) {
        if (f->form != 0) return syi_fail(ctx, SY_E_USAGE, "--export is about folders, but --out %s is a GGUF file; leave one of them out", f->out);
        return syi_exists(f->out) ? syi_fail(ctx, SY_E_USAGE, "--out %s is there already", f->out) : SY_OK;
    }
    if (syi_exists(f->out) && !syi_is_dir(f->out)) return syi_fail(ctx, SY_E_USAGE, "--out %s is there already and is no folder", f->out);
    SYI_TRY(syi_folder_used(ctx, f->out, &used));
    return used ? syi_fail(ctx, SY_E_USAGE, "--out %s is there already and is not empty; give a folder that does not exist yet", f->out) : SY_OK;
}

static sy_status work(void *self, sy_job *job)
{
    compress *f = self;
    syi_compress *s = &f->s;
    const double began = syi_now();
    json_t *print = NULL;
    s->ctx = syi_job_context(job);
    s->job = job;
    s->arena = syi_job_arena(job);
    s->lock = -1;
    s->loss_before = s->loss_after = NAN;
    s->targets = f->targets;
    s->excluded = f->excluded;
    SYI_TRY(check_out(f));
    SYI_TRY(open_run(f, job));
    SYI_TRY(open_sets(f));
    if (syi_job_common(job)->dry_run) {
        SYI_TRY(syi_receipt_model(job, s->run, f->model, NULL));
        SYI_TRY(syi_compress_plan(s, f->windows, f->seq));
        report_rest(f, began, 0);
        return SY_OK;
    }
    sy_status st = fingerprint(f, &print);
    if (st == SY_OK) st = syi_journal_open(s, f->out, print);
    if (st == SY_OK) st = syi_compress_all(s, f->set, f->windows, f->seq, syi_job_common(job)->memory_limit);
    if (st == SY_OK) st = finish(f, began, print);
    if (st != SY_OK && s->lock >= 0)
        syi_log(s->ctx, SY_LOG_INFO, "what is solved so far is kept in %s; the same command goes on from there", s->journal);
    json_decref(print);
    return st;
}

static void release(void *self)
{
    compress *f = self;
    if (!f->s.ctx) return;
    for (int k = 0; k < 2; k++) sy_dataset_free(f->set[k]);
    sy_use_free(f->s.ctx, &f->s.use);
    sy_run_close(f->s.run);
    syi_folder_unlock(f->s.lock);
}

const sy_verb sy_verb_compress = {
    .name = "compress",
    .title = "makes a model small: quantizes or factorises its linears",
    .about =
        "Works block by block: memory is that of one block and of the hidden states of the calibration text (beyond --memory-limit they lie "
        "in a file). Each layer that is solved is kept in OUT.unfinished until the end: a run that is killed goes on where it was when the "
        "same command is given again, with the same bits.\n\n"
        "Loss and perplexity before and after are measured on held-out text in the same pass, by the rule of windows of \"steelyard help "
        "eval\" with several documents sharing a window. report.json in the folder has the error, bits and time of every layer.\n\n"
        "The folder is read by every verb: eval, generate, and train with an adapter on top. --export writes GPTQ's or AWQ's layout for other "
        "tools, or dense 16-bit weights; a name that ends in .gguf writes the smallest block type that holds exactly the same numbers, or says "
        "that there is none.",
    .example = "compress --model models/tiny --method rtn --bits 4 --eval-data models/tiny/devil-heldout.jsonl --eval-samples 2 --seq 64 --out {tmp}/small",
    .options = rows,
    .size = sizeof(compress),
    .method = SY_COMPRESSOR,
    .run = work,
    .free = release,
};
