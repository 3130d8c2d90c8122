/* SPDX-License-Identifier: Apache-2.0 */
/* The verb `train`: rows, checks, and everything around the loop (_loop.c): which folder,
 * fresh or resumed, what is opened, what it will cost, and what is written at the end. */
#include "io/io.h"
#include "train.h"

#define OFFSET(field) offsetof(syi_train, o.field)

static const char *const schedules[] = {"constant", "linear", "cosine", NULL};
static const char *const dtypes[] = {"f32", "bf16", NULL};
static const char *const losses[] = {"default", "all", NULL};

static const sy_option rows[] = {
    {.name = "model", .type = SY_OPT_PATH, .offset = OFFSET(model), .flags = SY_OPT_RUNTIME, .alias = "base_model model_name_or_path",
     .help = "Hugging Face folder or GGUF file to start from", .example = "models/tiny"},
    {.name = "data", .type = SY_OPT_PATH, .offset = OFFSET(data), .flags = SY_OPT_RUNTIME, .alias = "dataset train_file",
     .help = "what to learn: .jsonl, .json or .txt, each also .gz", .example = "models/tiny/devil.jsonl"},
    {.name = "out", .type = SY_OPT_PATH, .offset = OFFSET(out), .flags = SY_OPT_RUNTIME, .alias = "output_dir",
     .help = "new folder for adapter or weights, checkpoints, metrics and curve", .example = "{tmp}/run"},
    {.name = "resume", .type = SY_OPT_PATH, .offset = OFFSET(resume), .flags = SY_OPT_RUNTIME, .alias = "resume_from_checkpoint",
     .help = "go on with the run in this folder, with its settings, bit for bit", .example = "{tmp}/run"},
    {.name = "auto-resume", .type = SY_OPT_BOOL, .offset = OFFSET(auto_resume), .flags = SY_OPT_RUNTIME | SY_OPT_ADVANCED,
     .alias = "auto_resume_from_checkpoints", .help = "go on if --out holds a run with these settings, else start one",
     .example = "on"},

    {.name = "adapter", .type = SY_OPT_STRING, .offset = OFFSET(adapter), .def = "lora", .alias = "peft_type finetuning_type",
     .help = "what is trained: an adapter's name, or full for all weights", .example = "lora"},
    {.name = "init-adapter", .type = SY_OPT_PATH, .offset = OFFSET(init_adapter), .alias = "lora_model_dir adapter_name_or_path",
     .help = "start from this adapter folder, with its settings", .example = "run"},
    {.name = "optimizer", .type = SY_OPT_STRING, .offset = OFFSET(optimizer), .def = "adamw", .alias = "optim",
     .help = "how gradients become steps", .example = "adamw"},
    {.name = "objective", .type = SY_OPT_STRING, .offset = OFFSET(objective), .help = "another loss than next-token prediction", .example = "none"},
    {.name = "trainer", .type = SY_OPT_STRING, .offset = OFFSET(trainer), .flags = SY_OPT_ADVANCED,
     .help = "another loop than batch, backward, step", .example = "none"},

    {.name = "batch", .type = SY_OPT_INT, .offset = OFFSET(batch), .def = "4", .min = 1, .max = 65536,
     .alias = "micro_batch_size per_device_train_batch_size", .help = "rows computed at once", .example = "8"},
    {.name = "accumulation", .type = SY_OPT_INT, .offset = OFFSET(accumulation), .def = "1", .min = 1, .max = 65536,
     .alias = "gradient_accumulation_steps", .help = "batches whose gradients are added up before a step", .example = "4"},
    {.name = "seq", .type = SY_OPT_INT, .offset = OFFSET(seq), .def = "512", .min = 2, .max = 1048576,
     .alias = "sequence_len max_length max_seq_length cutoff_len", .help = "tokens of a row (at most the model's context)", .example = "256"},
    {.name = "epochs", .type = SY_OPT_FLOAT, .offset = OFFSET(epochs), .def = "1", .min = 0, .max = 1e6, .flags = SY_OPT_MIN_OPEN,
     .alias = "num_epochs num_train_epochs", .help = "passes over the data, when --steps is 0", .example = "3"},
    {.name = "steps", .type = SY_OPT_INT, .offset = OFFSET(steps), .def = "0", .min = 0, .max = 1e9, .alias = "max_steps",
     .help = "optimizer steps (0: as many as --epochs take)", .example = "100"},

    {.name = "lr", .type = SY_OPT_FLOAT, .offset = OFFSET(lr), .def = "2e-4", .min = 0, .max = 1000, .alias = "learning_rate",
     .help = "peak learning rate (2e-5 when all weights are trained and none is given)", .example = "1e-4"},
    {.name = "schedule", .type = SY_OPT_ENUM, .offset = OFFSET(schedule), .def = "cosine", .choices = schedules,
     .alias = "lr_scheduler lr_scheduler_type", .help = "how the learning rate falls after the warm-up", .example = "linear"},
    {.name = "warmup-steps", .type = SY_OPT_INT, .offset = OFFSET(warmup_steps), .def = "0", .min = 0, .max = 1e9,
     .help = "steps in which the learning rate rises from 0", .example = "10"},
    {.name = "warmup-ratio", .type = SY_OPT_FLOAT, .offset = OFFSET(warmup_ratio), .def = "0", .min = 0, .max = 1,
     .help = "the same as a share of all steps, when --warmup-steps is 0", .example = "0.1"},
    {.name = "clip", .type = SY_OPT_FLOAT, .offset = OFFSET(clip), .def = "1", .min = 0, .max = 1e9, .alias = "max_grad_norm",
     .help = "largest norm of the gradient, longer ones are shortened (0: off)", .example = "0.5"},

    {.name = "dtype", .type = SY_OPT_ENUM, .offset = OFFSET(dtype), .def = "bf16", .choices = dtypes,
     .help = "of activations and products; trained weights are kept in f32", .example = "f32"},
    {.name = "recompute", .type = SY_OPT_STRING, .offset = OFFSET(recompute), .def = "off", .alias = "gradient_checkpointing",
     .help = "compute activations again in the backward pass to save memory: off, on, or for the first N blocks", .example = "on"},
    {.name = "shuffle", .type = SY_OPT_BOOL, .offset = OFFSET(shuffle), .def = "on", .help = "another order of the data in every epoch", .example = "off"},
    {.name = "pack", .type = SY_OPT_BOOL, .offset = OFFSET(pack), .def = "on", .alias = "sample_packing packing",
     .help = "several documents share a row; they never see each other", .example = "off"},
    {.name = "loss-on", .type = SY_OPT_ENUM, .offset = OFFSET(loss_on), .def = "default", .choices = losses,
     .help = "default: completions and assistant turns, all of plain text; all: every token", .example = "all"},
    {.name = "train-on-inputs", .type = SY_OPT_BOOL, .offset = OFFSET(train_on_inputs), .def = "off", .flags = SY_OPT_ADVANCED,
     .help = "the same as --loss-on all", .example = "on"},
    {.name = "chat-template", .type = SY_OPT_PATH, .offset = OFFSET(chat_template), .flags = SY_OPT_ADVANCED,
     .help = "built-in template (chatml, llama-3, mistral-v3, ...) or Jinja file to use instead of the model's own", .example = "chatml"},
    SYI_DATA_ROWS,

    {.name = "eval-data", .type = SY_OPT_PATH, .offset = OFFSET(eval_data), .flags = SY_OPT_RUNTIME, .alias = "test_datasets validation_file",
     .help = "data to evaluate on", .example = "valid.jsonl"},
    {.name = "eval-share", .type = SY_OPT_FLOAT, .offset = OFFSET(eval_share), .def = "0", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN,
     .alias = "val_set_size", .help = "share of --data that is kept aside to evaluate on", .example = "0.05"},
    {.name = "eval-steps", .type = SY_OPT_INT, .offset = OFFSET(eval_steps), .def = "0", .min = 0, .max = 1e9, .flags = SY_OPT_RUNTIME,
     .help = "evaluate every N steps (0: before the first and after the last)", .example = "50"},
    {.name = "eval-first", .type = SY_OPT_BOOL, .offset = OFFSET(eval_first), .def = "on", .flags = SY_OPT_RUNTIME | SY_OPT_ADVANCED,
     .alias = "eval_on_start", .help = "evaluate before the first step too", .example = "off"},
    {.name = "save-steps", .type = SY_OPT_INT, .offset = OFFSET(save_steps), .def = "500", .min = 0, .max = 1e9, .flags = SY_OPT_RUNTIME,
     .help = "save a checkpoint every N steps and at the end (0: none)", .example = "100"},
    {.name = "save-limit", .type = SY_OPT_INT, .offset = OFFSET(save_limit), .def = "2", .min = 0, .max = 1e6, .flags = SY_OPT_RUNTIME,
     .alias = "save_total_limit", .help = "checkpoints that are kept, the newest (0: all)", .example = "3"},
    {.name = "keep-best", .type = SY_OPT_BOOL, .offset = OFFSET(keep_best), .def = "off", .flags = SY_OPT_RUNTIME,
     .help = "evaluate at every checkpoint and keep the best one too", .example = "on"},
    {.name = "log-steps", .type = SY_OPT_INT, .offset = OFFSET(log_steps), .def = "1", .min = 1, .max = 1e9, .flags = SY_OPT_RUNTIME,
     .alias = "logging_steps", .help = "write a line of metrics every N steps", .example = "10"},
    {.name = "profile", .type = SY_OPT_PATH, .offset = OFFSET(profile), .flags = SY_OPT_RUNTIME | SY_OPT_ADVANCED,
     .help = "print a table of operations (time, GFLOP/s, share of what a plain product reaches) and write a trace of each to this file (chrome://tracing)", .example = "{tmp}/trace.json"},
    {.name = NULL}
};

/* -- settings ------------------------------------------------------------------------------- */

static sy_status need(syi_train *t, const char *row, const char *value)
{
    if (value != NULL && *value != '\0') return SY_OK;
    return syi_fail(t->ctx, SY_E_USAGE, "--%s is missing; for example: steelyard train --model models/tiny --data data.jsonl "
                    "--out run (or --resume run)", row);
}

static sy_status parse_recompute(syi_train *t, int *blocks)
{
    const char *s = t->o.recompute != NULL ? t->o.recompute : "off";
    char *end;
    long n = strtol(s, &end, 10);
    if (!strcmp(s, "off") || !strcmp(s, "false") || !strcmp(s, "no")) *blocks = 0;
    else if (!strcmp(s, "on") || !strcmp(s, "true") || !strcmp(s, "yes")) *blocks = -1;
    else if (end != s && *end == '\0' && n >= 0 && n <= 100000) *blocks = (int)n;
    else return syi_fail(t->ctx, SY_E_USAGE, "--recompute: expected off, on or a number of blocks, found \"%s\"", s);
    return SY_OK;
}

/* Settings of an adapter that are typed but not in force, because --init-adapter brings its own. */
static sy_status check_init_adapter(syi_train *t, const sy_method *named)
{
    for (const sy_option *r = named != NULL ? named->options : NULL; r != NULL && r->name != NULL; r++)
        if (syi_job_given(t->job, r->name))
            return syi_fail(t->ctx, SY_E_USAGE, "--%s cannot be given with --init-adapter: an adapter that is continued keeps the "
                            "settings in %s/adapter_config.json; leave it out", r->name, t->o.init_adapter);
    return SY_OK;
}

/* What is in force, as text; without what --resume may change. */
static sy_status collect_settings(syi_train *t, const sy_method *unused)
{
    static const char *const session[] = {"json", "dry-run", "quiet", "threads", "resume", "auto-resume", "profile", NULL};
    char lr[40], seq[32];
    for (int digits = 6; digits <= 17; digits++) { /* the shortest text that reads back as the same number */
        snprintf(lr, sizeof lr, "%.*g", digits, t->o.lr);
        if (strtod(lr, NULL) == t->o.lr) break;
    }
    snprintf(seq, sizeof seq, "%lld", (long long)t->o.seq);
    t->settings = syi_job_settings(t->job, false);
    t->fingerprint = syi_job_settings(t->job, true);
    json_t *both[] = {t->settings, t->fingerprint};
    for (int i = 0; i < 2; i++) {
        if (both[i] == NULL) return syi_nomem(t->ctx, 1024);
        json_object_set_new(both[i], "lr", json_string(lr));
        json_object_set_new(both[i], "seq", json_string(seq));
        for (int k = 0; session[k] != NULL; k++) json_object_del(both[i], session[k]);
        if (unused == NULL) continue;
        json_object_del(both[i], "adapter");
        for (const sy_option *r = unused->options; r != NULL && r->name != NULL; r++) json_object_del(both[i], r->name);
    }
    char *text = json_dumps(t->fingerprint, JSON_COMPACT | JSON_SORT_KEYS);
    if (text == NULL) return syi_nomem(t->ctx, 1024);
    syi_hash_text(t->state.settings, syi_hash_bytes(text, strlen(text)));
    syi_json_free_text(text);
    return SY_OK;
}

/* -- folder ------------------------------------------------------------------------------------ */

/* Is the run in the folder finished? receipt.json is the last file that is written. */
static bool is_complete(syi_train *t)
{
    char *path = syi_join(t->ctx, t->dir, "receipt.json");
    bool yes = path != NULL && syi_exists(path);
    syi_free(t->ctx, path);
    return yes;
}

static sy_status choose_folder(syi_train *t)
{
    bool resume = t->o.resume != NULL, dry = syi_job_common(t->job)->dry_run, used;
    if (resume) {
        t->dir = syi_strdup(t->ctx, t->o.resume);
        t->resuming = true;
        return t->dir != NULL ? SY_OK : SY_E_MEMORY;
    }
    if (dry && t->o.out == NULL) return SY_OK;
    SYI_TRY(need(t, "out", t->o.out));
    if ((t->dir = syi_strdup(t->ctx, t->o.out)) == NULL) return SY_E_MEMORY;
    if (syi_exists(t->dir) && !syi_is_dir(t->dir))
        return syi_fail(t->ctx, SY_E_USAGE, "--out: %s is a file; give a new folder", t->dir);
    SYI_TRY(syi_folder_used(t->ctx, t->dir, &used));
    if (!used) return SY_OK;
    char *path = syi_join(t->ctx, t->dir, SYI_SETTINGS_FILE);
    if (path == NULL) return SY_E_MEMORY;
    bool run = syi_exists(path);
    syi_free(t->ctx, path);
    if (run && t->o.auto_resume) t->resuming = true;
    else if (run)
        return syi_fail(t->ctx, SY_E_USAGE, "--out: %s holds a run already; go on with it by --resume %s, or choose another folder",
                        t->dir, t->dir);
    else
        return syi_fail(t->ctx, SY_E_USAGE, "--out: %s is not empty and no run is in it; choose a new folder", t->dir);
    return SY_OK;
}

/* The first thing on disk: made only when nothing else can be wrong. */
static sy_status make_folder(syi_train *t)
{
    if (!t->resuming) {
        t->fresh = !syi_exists(t->dir);
        SYI_TRY(syi_mkdirs(t->ctx, t->dir));
        SYI_TRY(syi_folder_lock(t->ctx, t->dir, &t->lock));
        SYI_TRY(syi_folder_clean(t->ctx, t->dir));
        return syi_settings_write(t->ctx, t->dir, t->settings);
    }
    return syi_folder_clean(t->ctx, t->dir);
}

/* -- opening ------------------------------------------------------------------------------------- */

static sy_status open_run(syi_train *t)
{
    const syi_common *common = syi_job_common(t->job);
    sy_run_options o;
    sy_use uses[4], adapter = {NULL, NULL};
    const sy_method *unused = NULL; /* stays with the job, whose settings speak of it */
    sy_run_options_init(&o);
    SYI_TRY(parse_recompute(t, &o.recompute_blocks));
    if (t->o.init_adapter != NULL) {
        unused = t->o.adapter != NULL ? sy_method_find(t->o.adapter, SY_ADAPTER) : NULL;
        SYI_TRY(check_init_adapter(t, unused));
    } else {
        adapter = syi_job_take(t->job, SY_ADAPTER);
        if (adapter.method == NULL)
            return syi_fail(t->ctx, SY_E_USAGE, "--adapter none: nothing would be trained; use --adapter full for all weights");
        if ((adapter.method->caps & SY_CAP_TRAINS_MODEL) && !syi_job_given(t->job, "lr")) t->o.lr = 2e-5;
    }
    o.n_use = 0;
    if (adapter.method != NULL) uses[o.n_use++] = adapter;
    for (sy_kind kind = SY_OPTIMIZER; kind <= SY_TRAINER; kind++) {
        sy_use use = syi_job_take(t->job, kind);
        if (use.method != NULL) uses[o.n_use++] = use;
    }
    o.use = uses;
    o.model = t->o.model;
    o.adapter = t->o.init_adapter;
    o.dtype = t->o.dtype == 0 ? SY_F32 : SY_BF16;
    o.training = true;
    o.seed = (uint64_t)common->seed;
    o.total_steps = t->o.steps;
    o.memory_limit = common->memory_limit;
    o.row_tokens = t->o.seq;
    o.plan_only = common->dry_run;
    SYI_TRY(sy_run_open(t->ctx, &o, &t->run));
    const sy_use *loaded = sy_run_use(t->run, SY_ADAPTER);
    if (unused != NULL && loaded != NULL && unused != loaded->method && syi_job_given(t->job, "adapter"))
        return syi_fail(t->ctx, SY_E_USAGE, "--adapter %s: the adapter in %s is of the kind %s; leave --adapter out", unused->name,
                        t->o.init_adapter, loaded->method->name);
    SYI_TRY(syi_run_seq(t->run, syi_job_given(t->job, "seq"), &t->o.seq));
    if (syi_run_sees(t->run)) t->o.seq = t->run->options.row_tokens = 1; /* an image is a row of one */
    return collect_settings(t, unused);
}

sy_status syi_run_seq(sy_run *run, bool given, int64_t *seq)
{
    int64_t context = sy_run_context_length(run);
    if (context <= 0 || *seq <= context) return SY_OK;
    if (given)
        return syi_fail(sy_run_context(run), SY_E_USAGE, "--seq: the model's context is %lld tokens, %lld were asked for; lower --seq",
                        (long long)context, (long long)*seq);
    *seq = context;
    return SY_OK;
}

const char *const syi_preferences[] = {"refuse", "chosen", "rejected", NULL};

void syi_data_options(const syi_data_rows *r, sy_dataset_options *out)
{
    out->fields = (sy_dataset_fields){r->text,  r->prompt, r->completion, r->messages, r->instruction, r->input,
                                      r->output, r->system, r->role,       r->content,  r->chosen,      r->rejected};
    out->preference = (sy_preference)r->preference;
    out->cache = r->cache;
}

sy_status syi_template_text(sy_context *ctx, sy_run *run, const char *option, char **text)
{
    const char *own = option == NULL ? sy_run_chat_template(run) : sy_chat_named(option), *name;
    *text = NULL;
    if (own != NULL) {
        *text = syi_strdup(ctx, own);
        return *text != NULL ? SY_OK : SY_E_MEMORY;
    }
    if (option == NULL) return SY_OK;
    if (syi_exists(option)) return syi_read_file(ctx, option, 1 << 20, text, NULL);
    syi_text known;
    syi_text_init(&known, ctx, 4096);
    for (int i = 0; (name = sy_chat_name(i, NULL)) != NULL; i++) syi_text_printf(&known, "%s%s", i > 0 ? ", " : "", name);
    sy_status st = syi_fail(ctx, SY_E_USAGE, "--chat-template %s: neither a file nor one of the built-in templates: %s", option, known.s ? known.s : "");
    syi_text_free(&known);
    return st;
}

static sy_status open_data(syi_train *t)
{
    SYI_TRY(syi_run_needs_tokenizer(t->run, t->o.model));
    SYI_TRY(syi_template_text(t->ctx, t->run, t->o.chat_template, &t->template_text));
    bool all = t->o.loss_on == 1 || t->o.train_on_inputs;
    sy_dataset_options o = {.tokenizer = sy_run_tokenizer(t->run), .chat_template = t->template_text,
                            .eos_id = sy_run_eos(t->run), .bos_id = -1, .bos_token = syi_run_bos_text(t->run),
                            .loss_on = all ? SY_LOSS_ALL : SY_LOSS_DEFAULT, .seq = t->o.seq, .pack = t->o.pack,
                            .shuffle = t->o.shuffle, .seed = (uint64_t)syi_job_common(t->job)->seed};
    syi_data_options(&t->o.data_rows, &o);
    if (t->o.eval_share > 0 && t->o.eval_data != NULL)
        return syi_fail(t->ctx, SY_E_USAGE, "--eval-share and --eval-data both say what to evaluate on; give one of them");
    o.holdout = t->o.eval_share;
    SYI_TRY(syi_run_data(t->run, t->o.data, &o, &t->data));
    sy_dataset_stat(t->data, &t->data_info);
    snprintf(t->state.data, sizeof t->state.data, "%s", t->data_info.hash);
    if (t->o.eval_data == NULL && t->o.eval_share <= 0) {
        if (t->o.keep_best || t->o.eval_steps > 0)
            return syi_fail(t->ctx, SY_E_USAGE, "--%s needs data to evaluate on; give --eval-data or --eval-share",
                            t->o.keep_best ? "keep-best" : "eval-steps");
        return SY_OK;
    }
    o.shuffle = false;
    o.heldout = t->o.eval_share > 0;
    SYI_TRY(syi_run_data(t->run, t->o.eval_data != NULL ? t->o.eval_data : t->o.data, &o, &t->eval));
    sy_dataset_stat(t->eval, &t->eval_info);
    snprintf(t->state.eval, sizeof t->state.eval, "%s", t->eval_info.hash);
    return SY_OK;
}

static sy_status make_plan(syi_train *t)
{
    int64_t step_rows = t->o.batch * t->o.accumulation, total = t->o.steps;
    double wanted = t->o.epochs * (double)t->data_info.rows_per_epoch / (double)step_rows;
    if (total == 0) total = wanted >= 1e9 ? 1000000000 : (int64_t)ceil(wanted - 1e-9);
    total = syi_max(1, total);
    int64_t warmup = t->o.warmup_steps > 0 ? t->o.warmup_steps : (int64_t)ceil(t->o.warmup_ratio * (double)total - 1e-9);
    t->schedule = (syi_schedule){.kind = t->o.schedule, .peak = t->o.lr, .total = total, .warmup = syi_min(warmup, total)};
    t->run->total = t->run->options.total_steps = total;
    SYI_TRY(sy_run_plan(t->run, t->o.batch * t->o.seq, true, &t->plan));
    if (t->plan.micro_tokens == 0 && t->o.accumulation > 1) t->plan.micro_tokens = t->o.batch * t->o.seq;
    t->state.micro_tokens = t->plan.micro_tokens;
    return SY_OK;
}

/* -- the verb --------------------------------------------------------------------------------------- */

/* What methods look at before the first step: the data from its first row on. */
static sy_status feed(void *self, int64_t index, int64_t count, sy_batch *out)
{
    syi_train *t = self;
    return sy_dataset_batch(t->data, index * count, count, 1, out);
}

static sy_status work(syi_train *t)
{
    int64_t newest = -1;
    SYI_TRY(sy_run_reserve(t->run, &t->plan));
    SYI_TRY(make_folder(t));
    if (t->resuming) SYI_TRY(syi_checkpoint_newest(t->ctx, t->dir, &newest));
    if (newest >= 0) {
        SYI_TRY(syi_checkpoint_load(t, newest));
        syi_job_receipt(t->job, "resume    %s: goes on after step %lld of %lld", t->dir, (long long)newest, (long long)t->schedule.total);
    } else if (t->resuming)
        syi_job_receipt(t->job, "resume    %s: no checkpoint had been saved; begins at the first step", t->dir);
    if (t->o.profile != NULL) SYI_TRY(syi_profile_new(t->ctx, &t->run->profile));
    SYI_TRY(syi_metrics_open(t->ctx, t->dir, &t->state.logs, &t->metrics));
    sy_run_feed(t->run, feed, t);
    SYI_TRY(sy_run_event(t->run, SY_START));
    const sy_use *trainer = sy_run_use(t->run, SY_TRAINER);
    if (trainer != NULL && trainer->method->train != NULL) SYI_TRY(trainer->method->train(trainer->self, t->run));
    else SYI_TRY(syi_train_loop(t));
    SYI_TRY(sy_run_event(t->run, SY_STOP));
    return syi_train_receipt_end(t);
}

/* A run that failed before its first step leaves nothing behind. */
static void clear_up(syi_train *t, sy_status status)
{
    if (status == SY_OK || t->lock < 0 || t->resuming || t->state.step > 0) return;
    char *message = syi_strdup(t->ctx, sy_error_message(t->ctx));
    syi_metrics_close(t->metrics);
    t->metrics = NULL;
    if (t->fresh) syi_remove_tree(t->ctx, t->dir);
    else { /* the folder was there, empty: it stays */
        static const char *const ours[] = {SYI_SETTINGS_FILE, "metrics.jsonl", NULL};
        for (int i = 0; ours[i] != NULL; i++) {
            char *path = syi_join(t->ctx, t->dir, ours[i]);
            if (path != NULL) syi_remove_tree(t->ctx, path);
            syi_free(t->ctx, path);
        }
        syi_metrics_remove_events(t->ctx, t->dir);
        syi_folder_clean(t->ctx, t->dir);
    }
    if (message != NULL) syi_fail(t->ctx, status, "%s", message);
    syi_free(t->ctx, message);
}

static sy_status train_run(void *self, sy_job *job)
{
    syi_train *t = self;
    t->job = job;
    t->ctx = syi_job_context(job);
    t->began = syi_now();
    t->lock = -1;
    t->saved_step = -1;
    t->state.eval_step = t->state.best_step = -1;
    t->state.eval_loss = t->state.eval_accuracy = t->state.first_eval = t->state.best_loss = t->state.first_loss = t->state.loss = NAN;
    char **const optional[] = {&t->o.out, &t->o.resume, &t->o.eval_data, &t->o.init_adapter, &t->o.profile, &t->o.chat_template};
    for (int i = 0; i < SYI_COUNT(optional); i++) /* "" takes a file's setting back */
        if (*optional[i] != NULL && **optional[i] == '\0') *optional[i] = NULL;
    SYI_TRY(need(t, "model", t->o.model));
    SYI_TRY(need(t, "data", t->o.data));
    SYI_TRY(choose_folder(t));
    bool dry = syi_job_common(job)->dry_run;
    if (t->resuming && !dry) SYI_TRY(syi_folder_lock(t->ctx, t->dir, &t->lock));
    SYI_TRY(open_run(t));
    if (t->resuming) {
        SYI_TRY(syi_settings_same(t->ctx, t->dir, t->fingerprint));
        if (is_complete(t)) return syi_train_receipt_again(t);
    }
    SYI_TRY(open_data(t));
    SYI_TRY(make_plan(t));
    SYI_TRY(syi_train_receipt_open(t));
    if (dry) return SY_OK;
    sy_status status = work(t);
    clear_up(t, status);
    return status;
}

static void train_free(void *self)
{
    syi_train *t = self;
    if (t->ctx == NULL) return;
    syi_metrics_close(t->metrics);
    sy_dataset_free(t->data);
    sy_dataset_free(t->eval);
    sy_run_close(t->run);
    syi_folder_unlock(t->lock);
    syi_free(t->ctx, t->dir);
    syi_free(t->ctx, t->template_text);
    json_decref(t->settings);
    json_decref(t->fingerprint);
}

const sy_verb sy_verb_train = {
    .name = "train",
    .title = "fine-tunes a model on a text file, with an adapter or all of its weights",
    .about =
        "Trains on the documents of --data and leaves in --out: the adapter (adapter_model.safetensors, adapter_config.json) or "
        "the weights, checkpoint-N folders, metrics.jsonl, a TensorBoard event file, trainer_state.json, loss.svg, run.yaml (all "
        "settings) and receipt.json (what was matched, trained and written, with hashes).\n\n"
        "Step k reads rows [k * batch * accumulation, ...) of the data, so a run is a function of its settings: the same files "
        "and settings give the same bytes, for any number of threads. Ctrl-C saves a checkpoint and ends with 130; --resume "
        "goes on as if nothing had happened, after a kill or a power cut too.\n\n"
        "Every option may come from a YAML file (steelyard train run.yaml --lr 1e-4: flags win), and the names that axolotl, "
        "transformers and LLaMA-Factory use for the same thing are understood.",
    .example = "train --model models/tiny --data models/tiny/devil.jsonl --out {tmp}/run --steps 4 --batch 2 --seq 64",
    .options = rows,
    .size = sizeof(syi_train),
    .run = train_run,
    .free = train_free,
};
