/* SPDX-License-Identifier: Apache-2.0 */
/* The verb "merge": checkpoints into one, by a recipe in mergekit's YAML. */
#include "run/_merge.h"

typedef struct { char *recipe, *out; int64_t shard; bool unrelated; sy_merging g; } merge_self;

static const sy_option rows[] = {
    { .name = "recipe", .type = SY_OPT_PATH, .offset = offsetof(merge_self, recipe), .flags = SY_OPT_POSITION | SY_OPT_REQUIRED,
      .help = "the recipe, a YAML file as mergekit has them", .example = "recipe.yaml" },
    { .name = "out", .type = SY_OPT_PATH, .offset = offsetof(merge_self, out), .flags = SY_OPT_POSITION, .help = "folder that does not exist yet", .example = "merged" },
    { .name = "shard-size", .type = SY_OPT_SIZE, .offset = offsetof(merge_self, shard), .def = "5G", .alias = "out_shard_size",
      .help = "largest safetensors file before the model is split; 0: one file", .example = "2G" },
    { .name = "unrelated", .type = SY_OPT_BOOL, .offset = offsetof(merge_self, unrelated), .alias = "allow_crimes",
      .help = "go on when a model does not seem to come from base_model", .example = "on" },
    { .name = NULL }
};

/* -- what will be made of what ------------------------------------------------------------------ */

static json_t *sources_of(const sy_merging *g, const syi_merge_tensor *t)
{
    json_t *list = json_array();
    for (int i = 0; i < t->n; i++) {
        json_t *one = json_pack("{s:s, s:s}", "model", g->models[t->model[i]].text, "tensor", t->in[i].entry->name);
        for (int r = 0; r < g->n_rows; r++)
            if (g->use.method->options[r].flags & SY_OPT_PER_MODEL) json_object_set_new(one, g->use.method->options[r].name, json_real(t->value[r * (t->n + 1) + i]));
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *plan_of(const sy_merging *g, const syi_merge_tensor *t)
{
    json_t *shape = json_array(), *shared = json_object();
    for (int d = 0; d < t->rank; d++) json_array_append_new(shape, json_integer(t->dim[d]));
    for (int r = 0; r < g->n_rows; r++)
        if (!(g->use.method->options[r].flags & SY_OPT_PER_MODEL)) json_object_set_new(shared, g->use.method->options[r].name, json_real(t->value[r * (t->n + 1) + t->n]));
    json_t *one = json_pack("{s:s, s:o, s:s, s:o, s:o}", "name", t->name, "shape", shape, "dtype", sy_dtype_name(t->dtype), "from", sources_of(g, t), "parameters", shared);
    if (t->base) json_object_set_new(one, "base", json_pack("{s:s, s:s}", "model", g->models[t->base->model].text, "tensor", t->base->entry->name));
    return one;
}

static void describe(sy_job *job, const sy_merging *g, const syi_merge_tensor *t)
{
    char shape[128], number[40];
    syi_text line;
    syi_text_init(&line, g->ctx, 1 << 16);
    syi_text_printf(&line, "%s %s %s = %s(", t->name, syi_shape_text(shape, t->rank, t->dim), sy_dtype_name(t->dtype), t->copy ? "copy" : g->use.method->name);
    if (t->base) syi_text_printf(&line, "base %s", g->models[t->base->model].text);
    for (int i = 0; i < t->n; i++) {
        syi_text_printf(&line, "%s%s", i || t->base ? ", " : "", g->models[t->model[i]].text);
        if (strcmp(t->in[i].entry->name, t->name) != 0) syi_text_printf(&line, ":%s", t->in[i].entry->name);
        for (int r = 0; r < g->n_rows; r++)
            if (g->use.method->options[r].flags & SY_OPT_PER_MODEL)
                syi_text_printf(&line, " %s=%s", g->use.method->options[r].name, syi_double_text(number, t->value[r * (t->n + 1) + i]));
    }
    for (int r = 0; r < g->n_rows; r++) {
        const sy_option *row = &g->use.method->options[r];
        const double v = t->value[r * (t->n + 1) + t->n];
        if (row->flags & SY_OPT_PER_MODEL) continue;
        if (row->type == SY_OPT_BOOL) syi_text_printf(&line, ", %s=%s", row->name, v != 0 ? "on" : "off");
        else if (row->type == SY_OPT_ENUM) syi_text_printf(&line, ", %s=%s", row->name, row->choices[(int)v]);
        else if (row->type == SY_OPT_FLOAT || row->type == SY_OPT_INT) syi_text_printf(&line, ", %s=%s", row->name, syi_double_text(number, v));
    }
    syi_text_puts(&line, ")");
    if (line.s) syi_job_receipt(job, "%s", line.s);
    syi_text_free(&line);
}

static sy_status begin(merge_self *self, sy_job *job)
{
    sy_merging *g = &self->g;
    const syi_common *c = syi_job_common(job);
    *g = (sy_merging){ .ctx = syi_job_context(job), .seed = (uint64_t)c->seed, .memory_limit = c->memory_limit, .shard_bytes = self->shard, .unrelated = self->unrelated,
                       .mix = syi_mix_pick() };
    SYI_TRY(syi_arena_new(g->ctx, 1 << 16, &g->arena));
    SYI_TRY(syi_recipe_read(g->ctx, self->recipe, &g->recipe));
    char name[128];
    const sy_method *method;
    snprintf(name, sizeof name, "%s", g->recipe.merge_method);
    for (char *d = name; *d; d++)
        if (*d == '-') *d = '_';
    char *where = syi_arena_format(g->arena, "%s: merge_method", self->recipe);
    if (!where) return SY_E_MEMORY;
    SYI_TRY(syi_use_find(g->ctx, name, SY_MERGER, where, &method));
    SYI_TRY(syi_use_make(g->ctx, method, name, &g->use));
    g->merger = method->merger;
    SYI_TRY(syi_merge_plan(g));
    return syi_merge_check(g);
}

static sy_status work(void *self_, sy_job *job)
{
    merge_self *self = self_;
    sy_merging *g = &self->g;
    sy_context *ctx = syi_job_context(job);
    const syi_common *c = syi_job_common(job);
    json_t *report = syi_job_report(job);
    const double began = syi_now();
    char size[32], limit[32];
    if (!self->out && !c->dry_run) return syi_fail(ctx, SY_E_USAGE, "merge: --out is missing: the folder that the result goes to");
    SYI_TRY(begin(self, job));
    int64_t bytes = 0;
    for (int64_t i = 0; i < g->n; i++) bytes += g->tensors[i].bytes;
    const int64_t need = syi_merge_memory(g);
    if (c->memory_limit && need > c->memory_limit)
        return syi_fail(ctx, SY_E_MEMORY, "this merge needs about %s beyond the mapped inputs; --memory-limit is %s (fewer --threads need less)", syi_human_bytes(size, need),
                        syi_human_bytes(limit, c->memory_limit));
    json_object_set_new(report, "tensors", json_integer(g->n));
    json_object_set_new(report, "bytes", json_integer(bytes));
    if (c->dry_run) {
        json_t *plan = json_array();
        for (int64_t i = 0; i < g->n; i++) {
            describe(job, g, &g->tensors[i]);
            json_array_append_new(plan, plan_of(g, &g->tensors[i]));
        }
        json_object_set_new(report, "plan", plan);
        json_object_set_new(report, "plan_bytes", json_integer(need));
        json_object_set_new(report, "seconds", json_real(syi_now() - began));
        json_object_set_new(report, "peak_bytes", json_integer(0));
        syi_job_receipt(job, "%lld tensors, %s (not written: --dry-run); the work would need about %s beyond the mapped inputs", (long long)g->n,
                        syi_human_bytes(size, bytes), syi_human_bytes(limit, need));
        return SY_OK;
    }
    if (g->merger->prepare) SYI_TRY(g->merger->prepare(g->use.self, g));
    SYI_TRY(syi_merge_begin(g, self->out));
    if (g->resumed) syi_job_receipt(job, "taken up again: %lld of %lld tensors were there already", (long long)g->resumed, (long long)g->n);
    SYI_TRY(syi_merge_work(g));
    SYI_TRY(syi_merge_end(g, self->out));
    json_object_set_new(report, "method", json_string(g->use.method->name));
    if (g->numbers) json_object_update(report, g->numbers);
    json_object_set_new(report, "resumed", json_integer(g->resumed));
    json_object_set_new(report, "held_bytes", json_integer(sy_memory_peak(ctx)));
    json_object_set_new(report, "peak_bytes", json_integer(syi_rss_peak()));
    json_object_set_new(report, "seconds", json_real(syi_now() - began));
    syi_job_receipt(job, "%s of %d models: %lld tensors, %s in %s, %s", g->use.method->name, g->n_models, (long long)g->n, syi_human_bytes(size, bytes), self->out,
                    syi_human_time(limit, syi_now() - began));
    return SY_OK;
}

/* -- what mergers ask ---------------------------------------------------------------------------- */

int sy_merge_models(const sy_merging *job)
{
    int most = 0;
    for (int64_t i = 0; i < job->n; i++)
        if (job->tensors[i].n > most) most = job->tensors[i].n;
    return most;
}

int64_t sy_merge_tensors(const sy_merging *job) { return job->n; }

int64_t sy_merge_numbers(const sy_merging *job)
{
    int64_t numbers = 0;
    for (int64_t i = 0; i < job->n; i++)
        if (!job->tensors[i].copy) numbers += job->tensors[i].count;
    return numbers;
}

sy_context *sy_merging_context(const sy_merging *job) { return job->ctx; }
uint64_t sy_merging_seed(const sy_merging *job) { return job->seed; }
const char *sy_merge_noted(const sy_merging *job) { return job->noted; }

sy_status sy_merge_note(sy_merging *job, const char *text)
{
    job->note = syi_arena_strdup(job->arena, text);
    return job->note ? SY_OK : SY_E_MEMORY;
}

sy_status sy_merge_report(sy_merging *job, const char *key, double value)
{
    if (!job->numbers) job->numbers = json_object();
    return job->numbers && json_object_set_new(job->numbers, key, json_real(value)) == 0 ? SY_OK : syi_nomem(job->ctx, 0);
}

static void finish(void *self) { syi_merge_close(&((merge_self *)self)->g); }

const sy_verb sy_verb_merge = {
    .name = "merge",
    .title = "merges checkpoints by a recipe",
    .about = "Reads a recipe in mergekit's YAML (models, slices or modules, base_model, parameters with gradients and filters, dtype, tokenizer) and makes one model of "
             "several: Hugging Face folders, GGUF files, or \"model+adapter\". Tensors stream through a few megabytes of memory; sums are made in f32 and f64 and rounded "
             "once. A merge that was interrupted goes on where it stopped when the same command is given again. --dry-run shows what every tensor would be made of. "
             "\"steelyard methods merger\" lists the methods, \"steelyard help ties\" shows one with its parameters.",
    .example = "merge docs/recipes/linear.yaml --out {tmp}/merged",
    .options = rows, .size = sizeof(merge_self), .flags = SY_VERB_NO_MODEL,
    .run = work, .free = finish,
};
