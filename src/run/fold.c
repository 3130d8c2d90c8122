/* SPDX-License-Identifier: Apache-2.0 */
/* The verb "fold": an adapter into the weights of its model, as a Hugging Face folder, and
 * a comparison of logits that shows it was the right adapter on the right model. */
#include "run/job.h"
#include "run/run.h"

#include <math.h>

static const char *const dtype_choices[] = { "auto", "f32", "bf16", "f16", NULL };
static const int dtype_of[] = { -1, SY_F32, SY_BF16, SY_F16 };

typedef struct { char *model, *adapter, *out; int dtype; bool check; } fold_self;

static const sy_option rows[] = {
    { .name = "model", .type = SY_OPT_PATH, .offset = offsetof(fold_self, model), .flags = SY_OPT_REQUIRED, .alias = "base_model",
      .help = "Hugging Face folder or GGUF file that the adapter was trained on", .example = "models/tiny" },
    { .name = "adapter", .type = SY_OPT_PATH, .offset = offsetof(fold_self, adapter), .flags = SY_OPT_REQUIRED, .help = "adapter folder", .example = "models/tiny/devil-lora" },
    { .name = "out", .type = SY_OPT_PATH, .offset = offsetof(fold_self, out), .flags = SY_OPT_REQUIRED, .help = "folder that does not exist yet", .example = "folded" },
    { .name = "dtype", .type = SY_OPT_ENUM, .offset = offsetof(fold_self, dtype), .def = "auto", .choices = dtype_choices,
      .help = "type of the matrices; auto: as the model has them", .example = "bf16" },
    { .name = "check", .type = SY_OPT_BOOL, .offset = offsetof(fold_self, check), .def = "on",
      .help = "compare the logits of model + adapter and of the folded model", .example = "off" },
    { .name = NULL }
};

enum { PROBE = 24 }; /* tokens of the comparison */

typedef struct { float *at; int64_t vocab; } keeper;

static sy_status keep(void *self, int64_t row, int64_t n, const float *logits)
{
    keeper *k = self;
    memcpy(k->at + row * k->vocab, logits, (size_t)(n * k->vocab) * sizeof *logits);
    return SY_OK;
}

/* Logits of a fixed run of tokens. */
static sy_status probe(sy_run *run, float **out)
{
    int32_t ids[PROBE], positions[PROBE], first[PROBE] = { 0 }, target[PROBE], sample[PROBE] = { 0 };
    const int64_t vocab = sy_run_vocabulary(run);
    int n = (int)syi_min(PROBE, syi_max(1, sy_run_context_length(run)));
    for (int i = 0; i < n; i++) {
        ids[i] = (int32_t)((7919 * (int64_t)(i + 1)) % vocab);
        positions[i] = i;
        target[i] = -1;
    }
    target[0] = 0;
    sy_batch b = { .rows = 1, .seq = n, .tokens = n, .ids = ids, .positions = positions, .first = first, .target = target, .sample = sample, .samples = 1, .trained = 1 };
    sy_plan plan;
    *out = NULL;
    SYI_TRY(sy_run_plan(run, n, false, &plan));
    SYI_TRY(sy_run_reserve(run, &plan));
    keeper k = { syi_calloc(run->ctx, (size_t)(PROBE * vocab), sizeof(float)), vocab };
    if (!k.at) return SY_E_MEMORY;
    sy_status st = sy_run_logits(run, &b, keep, &k);
    if (st != SY_OK) syi_free(run->ctx, k.at);
    else *out = k.at;
    return st;
}

static sy_status open_run(sy_job *job, const char *model, const char *adapter, sy_run **out)
{
    const syi_common *c = syi_job_common(job);
    sy_run_options o;
    sy_run_options_init(&o);
    o.model = model;
    o.adapter = adapter;
    o.dtype = SY_F32; /* the sums are exact to f32 and rounded once */
    o.seed = (uint64_t)c->seed;
    o.memory_limit = c->memory_limit;
    o.plan_only = c->dry_run;
    return sy_run_open(syi_job_context(job), &o, out);
}

static double relative(const float *x, const float *y, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        s += (double)x[i] * x[i];
    }
    return s > 0 ? sqrt(d / s) : sqrt(d);
}

static sy_status work(void *self, sy_job *job)
{
    fold_self *f = self;
    sy_context *ctx = syi_job_context(job);
    json_t *report = syi_job_report(job);
    sy_run *run;
    char size[32];
    if (!syi_job_common(job)->dry_run && syi_exists(f->out)) {
        char **names;
        int n = 0;
        if (!syi_is_dir(f->out)) return syi_fail(ctx, SY_E_USAGE, "--out %s is there already and is no folder", f->out);
        SYI_TRY(syi_list_dir(ctx, f->out, &names, &n));
        for (int i = 0; i < n; i++) syi_free(ctx, names[i]);
        syi_free(ctx, names);
        if (n) return syi_fail(ctx, SY_E_USAGE, "--out %s is there already and is not empty; give a folder that does not exist yet", f->out);
    }
    SYI_TRY(open_run(job, f->model, f->adapter, &run));
    if (syi_job_common(job)->dry_run) {
        const sy_plan *p;
        sy_plan plan;
        sy_status st = sy_run_plan(run, PROBE, false, &plan);
        p = &plan;
        if (st == SY_OK) {
            json_object_set_new(report, "tensors_changed", json_integer(0));
            json_object_set_new(report, "max_delta", json_real(0));
            json_object_set_new(report, "bytes", json_integer(0));
            json_object_set_new(report, "plan_bytes", json_integer(p->total));
            syi_job_receipt(job, "nothing written (--dry-run); the work would need about %s", syi_human_bytes(size, p->total));
        }
        sy_run_close(run);
        return st;
    }
    sy_fold out = { .tensors = 0 };
    float *before = NULL, *after = NULL;
    const int64_t vocab = sy_run_vocabulary(run);
    sy_status st = f->check ? probe(run, &before) : SY_OK;
    if (st == SY_OK) st = sy_run_fold(run, f->out, (sy_dtype)dtype_of[f->dtype], &out);
    sy_run_close(run);
    if (st == SY_OK) {
        json_object_set_new(report, "tensors", json_integer(out.tensors));
        json_object_set_new(report, "tensors_changed", json_integer(out.tensors_changed));
        json_object_set_new(report, "max_delta", json_real(out.max_delta));
        json_object_set_new(report, "bytes", json_integer(out.bytes));
        syi_job_receipt(job, "%lld of %lld tensors changed, by at most %.3g; %s in %s", (long long)out.tensors_changed, (long long)out.tensors, out.max_delta,
                        syi_human_bytes(size, out.bytes), f->out);
        if (out.tensors_changed == 0) syi_job_receipt(job, "no weight changed: the adapter is at its start");
    }
    if (st == SY_OK && f->check) {
        st = open_run(job, f->out, NULL, &run);
        if (st == SY_OK) {
            st = probe(run, &after);
            sy_run_close(run);
        }
        if (st == SY_OK) {
            double d = relative(before, after, PROBE * vocab);
            json_object_set_new(report, "logits_difference", json_real(d));
            syi_job_receipt(job, "logits of the folded model against model + adapter: %.2g relative difference", d);
        }
    }
    syi_free(ctx, before);
    syi_free(ctx, after);
    return st;
}

const sy_verb sy_verb_fold = {
    .name = "fold",
    .title = "merges an adapter into the weights of its model",
    .about = "Writes a Hugging Face folder in which the adapter is part of the weights: any tool that reads the model reads the result. "
             "Sums are made in f32 and rounded once. The report says how many tensors changed, the largest change, and how far the "
             "logits of the result lie from those of model + adapter (rounding to the file's type included). An adapter that is no "
             "linear map of its input cannot be folded and is refused.",
    .example = "fold --model models/tiny --adapter {tmp}/run --out {tmp}/merged",
    .options = rows, .size = sizeof(fold_self),
    .run = work,
};
