/* SPDX-License-Identifier: Apache-2.0 */
/* The verb "convert": a model or an adapter from one form into another. What IN is says
 * its files; what OUT is says its name: ".gguf" or else a folder. */
#include "run/job.h"
#include "run/run.h"

enum { AS_IT_IS };
static const char *const dtype_choices[] = { "auto", "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q6_k", NULL };
static const int dtype_of[] = { -1, SY_F32, SY_F16, SY_BF16, SY_Q4_0, SY_Q4_1, SY_Q5_0, SY_Q5_1, SY_Q8_0, SY_Q4_K, SY_Q6_K };

typedef struct { char *in, *out, *base; int dtype, to; int64_t shard, split, rank; double energy; } convert_self;

static const char *const forms[] = { "auto", "lora", NULL };

static const sy_option rows[] = {
    { .name = "in", .type = SY_OPT_PATH, .offset = offsetof(convert_self, in), .flags = SY_OPT_POSITION | SY_OPT_REQUIRED,
      .help = "Hugging Face folder, GGUF model, adapter folder, LoRA GGUF, or a config.json", .example = "models/tiny" },
    { .name = "out", .type = SY_OPT_PATH, .offset = offsetof(convert_self, out), .flags = SY_OPT_POSITION | SY_OPT_REQUIRED,
      .help = "a name that ends in .gguf, or a folder that does not exist yet", .example = "tiny.gguf" },
    { .name = "dtype", .type = SY_OPT_ENUM, .offset = offsetof(convert_self, dtype), .def = "auto", .choices = dtype_choices, .alias = "outtype",
      .help = "type of the matrices (q...: GGUF only); auto: as they are, a GGUF's coded ones in a folder as f32", .example = "bf16" },
    { .name = "base", .type = SY_OPT_PATH, .offset = offsetof(convert_self, base), .alias = "base-model",
      .help = "the model that an adapter belongs to; without it: the one that its config names", .example = "models/tiny" },
    { .name = "to", .type = SY_OPT_ENUM, .offset = offsetof(convert_self, to), .def = "auto", .choices = forms,
      .help = "what OUT is to be; lora: any adapter that is a change of weights as a plain LoRA folder", .example = "lora" },
    { .name = "rank", .type = SY_OPT_INT, .offset = offsetof(convert_self, rank), .def = "0", .min = 0, .max = 65536, .alias = "r",
      .help = "with --to lora: at most this rank (0: what is exact, or --energy)", .example = "8" },
    { .name = "energy", .type = SY_OPT_FLOAT, .offset = offsetof(convert_self, energy), .def = "0", .min = 0, .max = 1,
      .help = "with --to lora: the least rank that keeps this share of each update's squared norm", .example = "0.95" },
    { .name = "shard-size", .type = SY_OPT_SIZE, .offset = offsetof(convert_self, shard), .def = "5G", .alias = "max_shard_size",
      .help = "largest safetensors file before the model is split; 0: one file", .example = "2G" },
    { .name = "split-max-size", .type = SY_OPT_SIZE, .offset = offsetof(convert_self, split), .def = "0",
      .help = "largest GGUF file before the model is split into NAME-00001-of-0000N.gguf; 0: one file", .example = "2G" },
    { .name = NULL }
};

static void report_sizes(sy_job *job, const char *from, const char *to, int64_t tensors, int64_t bytes, const char *out)
{
    char size[32];
    json_t *report = syi_job_report(job);
    json_object_set_new(report, "from", json_string(from));
    json_object_set_new(report, "to", json_string(to));
    json_object_set_new(report, "tensors", json_integer(tensors));
    json_object_set_new(report, "bytes", json_integer(bytes));
    syi_job_receipt(job, "%s -> %s: %lld tensors, %s%s%s", from, to, (long long)tensors, syi_human_bytes(size, bytes),
                    syi_job_common(job)->dry_run ? " (not written: --dry-run) " : " in ", out);
}

/* -- models ------------------------------------------------------------------------- */

static bool coded(sy_dtype t) { return sy_dtype_block_len(t) > 1; }
static bool asks_coded(const convert_self *self) { return self->dtype != AS_IT_IS && coded((sy_dtype)dtype_of[self->dtype]); }

static bool any_coded(const syi_source *s)
{
    for (int64_t i = 0; i < sy_checkpoint_count(s->tensors); i++)
        if (coded(sy_checkpoint_at(s->tensors, i)->dtype)) return true;
    return false;
}

/* "auto" for this source: the type in which nothing is lost. */
static int auto_dtype(const syi_source *s, bool to_gguf)
{
    return !to_gguf && any_coded(s) ? SY_F32 : -1;
}

/* Which types the tensors got and why: in the report, and a line when not all are as asked. */
static sy_status report_types(sy_job *job, const syi_export *how)
{
    json_t *types = json_object();
    syi_text line;
    syi_text_init(&line, syi_job_context(job), 4096);
    for (int t = 0; t < SY_DTYPE_COUNT; t++) {
        json_t *row = json_object();
        int64_t all = 0;
        for (int why = 0; why < SYI_GGUF_REASONS; why++) {
            const int64_t n = how->types[t][why];
            all += n;
            if (n == 0) continue;
            json_object_set_new(row, syi_gguf_why((syi_gguf_reason)why), json_integer(n));
            syi_text_printf(&line, "%s%lld %s%s%s%s", line.len ? ", " : "", (long long)n, sy_dtype_name((sy_dtype)t), why ? " (" : "",
                            why ? syi_gguf_why((syi_gguf_reason)why) : "", why ? ")" : "");
        }
        if (all > 0) {
            json_object_set_new(row, "tensors", json_integer(all));
            json_object_set_new(types, sy_dtype_name((sy_dtype)t), row);
        } else json_decref(row);
    }
    json_object_set_new(syi_job_report(job), "types", types);
    json_object_set_new(syi_job_report(job), "files", json_integer(how->files));
    if (line.len) syi_job_receipt(job, "types: %s", line.s);
    const sy_status st = line.failed ? sy_error_code(syi_job_context(job)) : SY_OK;
    syi_text_free(&line);
    return st;
}

static sy_status planned_bytes(const syi_source *s, int dtype, syi_export *how)
{
    for (int64_t i = 0; i < sy_checkpoint_count(s->tensors); i++) {
        const sy_entry *e = sy_checkpoint_at(s->tensors, i);
        sy_tensor t = { .dtype = dtype >= 0 && e->rank > 1 ? (sy_dtype)dtype : e->dtype, .rank = e->rank };
        memcpy(t.dim, e->dim, sizeof t.dim);
        how->tensors++;
        how->bytes += sy_tensor_bytes(&t);
    }
    return SY_OK;
}

static sy_status convert_model(sy_job *job, const convert_self *self, bool to_gguf)
{
    sy_context *ctx = syi_job_context(job);
    syi_source *s;
    SYI_TRY(syi_source_open(ctx, self->in, true, &s));
    int dtype = self->dtype == AS_IT_IS ? auto_dtype(s, to_gguf) : dtype_of[self->dtype];
    syi_export how = { .dtype = (sy_dtype)dtype, .shard_bytes = self->shard };
    sy_status st;
    how.dry = syi_job_common(job)->dry_run;
    if (to_gguf) how.shard_bytes = self->split;
    if (to_gguf) st = syi_source_to_gguf(s, self->out, &how);
    else if (how.dry) st = planned_bytes(s, dtype, &how);
    else st = syi_source_to_folder(s, self->out, &how);
    if (st == SY_OK)
        report_sizes(job, s->gguf ? "GGUF model" : "Hugging Face folder", to_gguf ? "GGUF model" : "Hugging Face folder", how.tensors, how.bytes, self->out);
    if (st == SY_OK && to_gguf) st = report_types(job, &how);
    if (st == SY_OK && to_gguf && dtype >= 0 && coded((sy_dtype)dtype) && any_coded(s))
        syi_job_receipt(job, "%s was coded already: the errors of both codings add up; better start from its 16-bit weights", self->in);
    syi_source_close(s);
    return st;
}

/* -- adapters ------------------------------------------------------------------------- */

/* The base that the adapter names, if it is a path that exists. */
static sy_status base_of(sy_job *job, const convert_self *self, const char **out)
{
    sy_context *ctx = syi_job_context(job);
    syi_adapter_dir *a;
    *out = self->base;
    if (self->base) return SY_OK;
    SYI_TRY(syi_adapter_open(ctx, self->in, &a));
    const char *name = json_string_value(json_object_get(a->config, "base_model_name_or_path"));
    if (name && *name && syi_exists(name)) *out = syi_arena_strdup(syi_job_arena(job), name);
    sy_status st = SY_OK;
    if (!*out) st = syi_fail(ctx, SY_E_USAGE, "%s belongs to the base model \"%s\", which is not a path here; say where it is with --base PATH",
                             self->in, name ? name : "");
    syi_adapter_close(a);
    return st;
}

static sy_status adapter_to_gguf(sy_job *job, const convert_self *self)
{
    sy_context *ctx = syi_job_context(job);
    const char *base;
    SYI_TRY(base_of(job, self, &base));
    if (asks_coded(self))
        return syi_fail(ctx, SY_E_USAGE, "--dtype %s is for models; a LoRA GGUF holds f32, f16 or bf16", dtype_choices[self->dtype]);
    sy_run_options options;
    sy_run_options_init(&options);
    options.model = base;
    options.adapter = self->in;
    options.dtype = SY_F32;
    options.seed = (uint64_t)syi_job_common(job)->seed;
    sy_run *run;
    SYI_TRY(sy_run_open(ctx, &options, &run));
    int64_t tensors, bytes;
    sy_status st = syi_run_adapter_to_gguf(run, syi_job_common(job)->dry_run ? NULL : self->out,
                                           self->dtype == AS_IT_IS ? SY_F32 : (sy_dtype)dtype_of[self->dtype], &tensors, &bytes);
    if (st == SY_OK) report_sizes(job, "adapter folder", "LoRA GGUF", tensors, bytes, self->out);
    sy_run_close(run);
    return st;
}

static sy_status adapter_to_lora(sy_job *job, const convert_self *self)
{
    sy_context *ctx = syi_job_context(job);
    const char *base;
    SYI_TRY(base_of(job, self, &base));
    sy_run_options options;
    sy_run_options_init(&options);
    options.model = base;
    options.adapter = self->in;
    options.dtype = SY_F32;
    options.seed = (uint64_t)syi_job_common(job)->seed;
    sy_run *run;
    SYI_TRY(sy_run_open(ctx, &options, &run));
    syi_as_lora r = { .rank = self->rank, .energy = self->energy };
    sy_status st = syi_run_adapter_to_lora(run, syi_job_common(job)->dry_run ? NULL : self->out, &r);
    if (st == SY_OK) {
        report_sizes(job, "adapter folder", "LoRA folder", r.tensors, r.bytes, self->out);
        json_object_set_new(syi_job_report(job), "largest_rank", json_integer((json_int_t)r.largest));
        json_object_set_new(syi_job_report(job), "kept_energy", json_real(r.kept));
        syi_job_receipt(job, "kept %.4f %% of the updates' squared norm with ranks up to %lld", 100 * r.kept, (long long)r.largest);
    }
    sy_run_close(run);
    return st;
}

static sy_status adapter_from_gguf(sy_job *job, const convert_self *self)
{
    sy_context *ctx = syi_job_context(job);
    sy_checkpoint *ck;
    SYI_TRY(sy_checkpoint_open(ctx, self->in, &ck));
    int64_t tensors = sy_checkpoint_count(ck), bytes = 0;
    for (int64_t i = 0; i < tensors; i++) {
        sy_tensor t = { .dtype = SY_F32, .rank = sy_checkpoint_at(ck, i)->rank };
        memcpy(t.dim, sy_checkpoint_at(ck, i)->dim, sizeof t.dim);
        bytes += sy_tensor_bytes(&t);
    }
    sy_checkpoint_close(ck);
    if (!syi_job_common(job)->dry_run) SYI_TRY(syi_lora_from_gguf(ctx, self->in, self->out));
    report_sizes(job, "LoRA GGUF", "adapter folder", tensors, bytes, self->out);
    return SY_OK;
}

/* -- a config becomes a model --------------------------------------------------------------- */

/* Start weights, and what lies beside the config that a model needs as well. */
static sy_status start_model(sy_job *job, const convert_self *self)
{
    static const char *const beside[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja",
                                         "preprocessor_config.json"};
    sy_context *ctx = syi_job_context(job);
    const int dtype = self->dtype == AS_IT_IS ? SY_F32 : dtype_of[self->dtype];
    char *text = NULL, from[4096];
    sy_checkpoint *ck = NULL;
    syi_dir out = {0};
    SYI_TRY(syi_read_file(ctx, self->in, 16 << 20, &text, NULL));
    sy_status s = syi_dir_begin(ctx, self->out, false, &out);
    if (s == SY_OK) s = sy_model_create(ctx, text, out.work, (uint64_t)syi_job_common(job)->seed, (sy_dtype)dtype);
    for (int i = 0; s == SY_OK && i < SYI_COUNT(beside); i++) {
        snprintf(from, sizeof from, "%.*s%s", (int)(syi_basename(self->in) - self->in), self->in, beside[i]);
        char *to = syi_join(ctx, out.work, beside[i]);
        if (to == NULL) s = SY_E_MEMORY;
        else if (syi_exists(from)) s = syi_copy_file(ctx, from, to);
        syi_free(ctx, to);
    }
    if (s == SY_OK) s = sy_checkpoint_open(ctx, out.work, &ck);
    int64_t bytes = 0;
    for (int64_t i = 0; s == SY_OK && i < sy_checkpoint_count(ck); i++) bytes += sy_checkpoint_at(ck, i)->bytes;
    if (s == SY_OK) report_sizes(job, "config.json", "model folder with random start weights", sy_checkpoint_count(ck), bytes, self->out);
    sy_checkpoint_close(ck);
    if (s == SY_OK && !syi_job_common(job)->dry_run) s = syi_dir_commit(&out);
    syi_dir_abort(&out);
    syi_free(ctx, text);
    return s;
}

/* -- which of them ------------------------------------------------------------------------ */

typedef enum { MODEL_FOLDER, MODEL_GGUF, ADAPTER_FOLDER, ADAPTER_GGUF } form;

static sy_status form_of(sy_context *ctx, const char *path, form *out)
{
    if (!syi_exists(path)) return syi_fail(ctx, SY_E_INPUT, "%s does not exist; convert wants a Hugging Face folder, a GGUF or an adapter folder", path);
    if (syi_is_dir(path)) {
        *out = syi_dir_holds(ctx, path, "adapter_config.json") ? ADAPTER_FOLDER : MODEL_FOLDER;
        return SY_OK;
    }
    syi_gguf *g;
    const char *type = "model";
    SYI_TRY(syi_gguf_open(ctx, path, &g));
    syi_gguf_str(g, "general.type", &type);
    *out = strcmp(type, "adapter") ? MODEL_GGUF : ADAPTER_GGUF;
    syi_gguf_close(g);
    return SY_OK;
}

static sy_status run(void *self_, sy_job *job)
{
    convert_self *self = self_;
    sy_context *ctx = syi_job_context(job);
    form from;
    if (strcmp(syi_basename(self->in), "config.json") == 0 && syi_exists(self->in)) return start_model(job, self);
    SYI_TRY(form_of(ctx, self->in, &from));
    bool to_gguf = syi_ends(self->out, ".gguf");
    if (!to_gguf && asks_coded(self))
        return syi_fail(ctx, SY_E_USAGE, "--dtype %s is a GGUF type, but \"%s\" is a folder; give OUT a name that ends in .gguf",
                        dtype_choices[self->dtype], self->out);
    if (self->base && (from == MODEL_FOLDER || from == MODEL_GGUF))
        return syi_fail(ctx, SY_E_USAGE, "--base is for adapters, but %s is a model", self->in);
    if (from == ADAPTER_GGUF && to_gguf)
        return syi_fail(ctx, SY_E_USAGE, "%s is a LoRA GGUF already; give a folder as OUT", self->in);
    if (from == ADAPTER_GGUF) return adapter_from_gguf(job, self);
    if (self->to == 1 && (from != ADAPTER_FOLDER || to_gguf))
        return syi_fail(ctx, SY_E_USAGE, "--to lora makes a LoRA folder of an adapter folder; %s is not an adapter folder, or OUT ends in .gguf", self->in);
    if (self->to != 1 && (self->rank || self->energy > 0)) return syi_fail(ctx, SY_E_USAGE, "--rank and --energy are for --to lora");
    if (self->to == 1) return adapter_to_lora(job, self);
    if (from == ADAPTER_FOLDER && !to_gguf)
        return syi_fail(ctx, SY_E_USAGE, "%s is an adapter folder already; give OUT a name that ends in .gguf, or --to lora", self->in);
    if (from == ADAPTER_FOLDER) return adapter_to_gguf(job, self);
    return convert_model(job, self, to_gguf);
}

const sy_verb sy_verb_convert = {
    .name = "convert", .title = "a model or adapter in another form",
    .about = "Hugging Face folder to GGUF and back, GGUF to GGUF of another type, PEFT adapter folder to LoRA GGUF and back; tokenizer and "
             "chat template come along. Memory does not grow with the model. OUT appears complete or not at all.\n\n"
             "A file called config.json becomes a model folder with random start weights (--seed, --dtype), for training from scratch.",
    .example = "convert models/tiny {tmp}/tiny.gguf --dtype f32", .options = rows, .size = sizeof(convert_self), .run = run
};
