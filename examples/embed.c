/* SPDX-License-Identifier: Apache-2.0 */
/* Fine-tunes a model from a C program, through the public headers only.
 *
 *     cc embed.c $(pkg-config --cflags --libs steelyard) -o embed
 *     ./embed MODEL DATA.jsonl OUT
 *
 * First the short way: a job is what the command does. Then the level below: a run whose
 * steps the program takes itself, on token ids of its own making. */
#include <steelyard/job.h>
#include <steelyard/run.h>

#include <stdio.h>

static void on_progress(void *self, const sy_progress *p)
{
    (void)self;
    if (p->done == p->total) printf("%s: %lld of %lld, loss %.3f\n", p->what, (long long)p->done, (long long)p->total, p->loss);
}

/* `steelyard train ...` as calls. */
static sy_status train(sy_context *ctx, const char *model, const char *data, const char *out)
{
    sy_job *job;
    sy_status st = sy_job_new(ctx, "train", &job);
    if (st != SY_OK) return st;
    const char *settings[][2] = { { "model", model }, { "data", data }, { "out", out }, { "adapter", "lora" }, { "rank", "8" },
                                  { "steps", "20" }, { "batch", "4" }, { "seq", "64" }, { "lr", "3e-3" } };
    for (size_t i = 0; i < sizeof settings / sizeof *settings && st == SY_OK; i++)
        st = sy_job_set(job, settings[i][0], settings[i][1]);
    if (st == SY_OK) st = sy_job_run(job);
    if (st == SY_OK) printf("report: %s\n", sy_job_report(job));
    sy_job_free(job);
    return st;
}

/* The same with the loop in our hands: ten steps that teach the model one sequence. */
static sy_status steps(sy_context *ctx, const char *model)
{
    enum { N = 32 };
    sy_use use[2];
    sy_status st = sy_use_new(ctx, "lora", SY_ADAPTER, (const char *[]){ "rank=4" }, 1, &use[0]);
    if (st != SY_OK) return st;
    st = sy_use_new(ctx, "adamw", SY_OPTIMIZER, NULL, 0, &use[1]);
    if (st != SY_OK) { sy_use_free(ctx, &use[0]); return st; }

    sy_run_options options;
    sy_run_options_init(&options);
    options.model = model;
    options.use = use; /* taken by the run, also when opening fails */
    options.n_use = 2;
    options.dtype = SY_F32;
    options.training = true;
    options.seed = 1;
    sy_run *run;
    st = sy_run_open(ctx, &options, &run);
    if (st != SY_OK) return st;

    int32_t ids[N], positions[N], first[N] = { 0 }, target[N], sample[N] = { 0 };
    for (int i = 0; i < N; i++) {
        ids[i] = 3 + i * 7 % 200;
        positions[i] = i;
        target[i] = i + 1 < N ? 3 + (i + 1) * 7 % 200 : -1;
    }
    sy_batch batch = { .rows = 1, .seq = N, .tokens = N, .ids = ids, .positions = positions, .first = first, .target = target,
                       .sample = sample, .samples = 1, .trained = N - 1 };
    sy_plan plan;
    st = sy_run_plan(run, N, true, &plan);
    if (st == SY_OK) st = sy_run_reserve(run, &plan);
    for (int step = 0; step < 10 && st == SY_OK; step++) {
        sy_step_result result;
        st = sy_run_step_once(run, &batch, 1e-2, 1.0, &result);
        if (st == SY_OK && (step == 0 || step == 9)) printf("step %d: loss %.3f\n", step + 1, result.loss);
    }
    sy_run_close(run);
    return st;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: embed MODEL DATA.jsonl OUT\n");
        return 2;
    }
    sy_context *ctx = sy_context_new();
    if (ctx == NULL) return 4;
    sy_progress_set(ctx, on_progress, NULL);
    sy_status st = train(ctx, argv[1], argv[2], argv[3]);
    if (st == SY_OK) st = steps(ctx, argv[1]);
    if (st != SY_OK) fprintf(stderr, "embed: %s\n", sy_error_message(ctx));
    sy_context_free(ctx);
    return sy_status_exit(st);
}
