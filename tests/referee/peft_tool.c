/* SPDX-License-Identifier: Apache-2.0 */
/* What the referee of adapters calls. IDS is a file of int32 token ids.
 *   peft_tool make MODEL OUT SIGMA SEED ADAPTER [k=v ...]   a new adapter, N(0, SIGMA^2) added to what is trained
 *   peft_tool logits MODEL ADAPTER|- IDS ROWS SEQ DTYPE OUT f32 logits, row after row
 *   peft_tool train MODEL ADAPTER|full IDS ROWS SEQ STEPS LR DTYPE OPTIMIZER[,k=v ...] OUT [NAME k=v ...]
 *       one batch of ROWS x SEQ a step; prints a loss a line; OUT: the trained adapter or model (- for none).
 *       With NAME the adapter's settings are the given ones and only its tensors come from the folder.
 *   peft_tool fold MODEL ADAPTER OUT DTYPE
 * PEFT_TOOL_THREADS: number of threads (all). */
#include "run/run.h"

#include <stdlib.h>

static void log_line(void *self, sy_log_level level, const char *line)
{
    (void)self;
    if (level <= SY_LOG_WARN) fprintf(stderr, "%s\n", line);
}

static sy_dtype dtype_of(const char *name) { return (sy_dtype)sy_dtype_find(name); }

/* -- batches ---------------------------------------------------------------------------- */

typedef struct { int32_t *all, *positions, *first, *target, *sample; sy_batch b; } batches;

static sy_status batches_new(sy_context *ctx, const char *path, int64_t rows, int64_t seq, batches *out)
{
    const int64_t n = rows * seq;
    syi_mapped file;
    SYI_TRY(syi_map_file(ctx, path, &file));
    out->all = syi_alloc(ctx, (size_t)file.size);
    int32_t *fixed = syi_alloc(ctx, (size_t)n * 4 * sizeof *fixed);
    if (!out->all || !fixed) return SY_E_MEMORY;
    memcpy(out->all, file.data, (size_t)file.size);
    syi_unmap_file(ctx, &file);
    out->positions = fixed;
    out->first = fixed + n;
    out->target = fixed + 2 * n;
    out->sample = fixed + 3 * n;
    for (int64_t t = 0; t < n; t++) {
        out->positions[t] = (int32_t)(t % seq);
        out->first[t] = (int32_t)(t / seq * seq);
        out->sample[t] = (int32_t)(t / seq);
    }
    out->b = (sy_batch){ .rows = rows, .seq = seq, .tokens = n, .positions = out->positions, .first = out->first, .target = out->target,
                         .sample = out->sample, .samples = rows, .trained = rows * (seq - 1) };
    return SY_OK;
}

static const sy_batch *batch_at(batches *b, int64_t step)
{
    b->b.ids = b->all + step * b->b.tokens;
    for (int64_t t = 0; t < b->b.tokens; t++) b->target[t] = (t + 1) % b->b.seq ? b->b.ids[t + 1] : -1;
    return &b->b;
}

static void batches_free(sy_context *ctx, batches *b)
{
    syi_free(ctx, b->all);
    syi_free(ctx, b->positions);
}

static sy_status reserve(sy_run *run, int64_t tokens, bool training)
{
    sy_plan plan;
    SYI_TRY(sy_run_plan(run, tokens, training, &plan));
    return sy_run_reserve(run, &plan);
}

/* -- commands ------------------------------------------------------------------------------ */

static sy_status make(sy_context *ctx, char **a, int n)
{
    sy_use use;
    sy_run_options o;
    sy_run *run;
    sy_run_options_init(&o);
    o.model = a[0];
    o.dtype = SY_F32;
    o.training = true; /* so that modules_to_save and biases are there as parameters */
    o.seed = strtoull(a[3], NULL, 10);
    o.use = &use;
    o.n_use = 1;
    SYI_TRY(sy_use_new(ctx, a[4], SY_ADAPTER, (const char *const *)a + 5, n - 5, &use));
    SYI_TRY(sy_run_open(ctx, &o, &run));
    const double sigma = strtod(a[2], NULL);
    for (int i = 0; i < run->n_params; i++) {
        sy_param *p = run->params[i];
        if (p->slot && !(p->slot->flags & SY_SLOT_TRAIN)) continue;
        for (int64_t k = 0; sigma > 0 && k < sy_tensor_count(&p->value); k++) {
            float v;
            syi_normal(syi_key(o.seed, "make", p->name, 0), k, 1, &v);
            ((float *)p->value.data)[k] += (float)(sigma * v);
        }
    }
    sy_status st = syi_mkdirs(ctx, a[1]);
    if (st == SY_OK) st = sy_run_save(run, a[1]);
    sy_run_close(run);
    return st;
}

static sy_status write_rows(void *self, int64_t row, int64_t n, const float *logits)
{
    struct { FILE *f; int64_t vocab; } *s = self;
    (void)row;
    return fwrite(logits, sizeof *logits, (size_t)(n * s->vocab), s->f) == (size_t)(n * s->vocab) ? SY_OK : SY_E_IO;
}

static sy_status logits(sy_context *ctx, char **a)
{
    sy_run_options o;
    sy_run *run;
    batches b = { 0 };
    sy_run_options_init(&o);
    o.model = a[0];
    o.adapter = strcmp(a[1], "-") ? a[1] : NULL;
    o.dtype = dtype_of(a[5]);
    SYI_TRY(sy_run_open(ctx, &o, &run));
    sy_status st = batches_new(ctx, a[2], atoll(a[3]), atoll(a[4]), &b);
    if (st == SY_OK) st = reserve(run, b.b.tokens, false);
    struct { FILE *f; int64_t vocab; } s = { fopen(a[6], "wb"), sy_run_vocabulary(run) };
    if (!s.f) return SY_E_IO;
    if (st == SY_OK) st = sy_run_logits(run, batch_at(&b, 0), write_rows, &s);
    fclose(s.f);
    batches_free(ctx, &b);
    sy_run_close(run);
    return st;
}

static sy_status optimizer_of(sy_context *ctx, char *text, sy_use *out)
{
    const char *settings[16];
    int n = 0;
    char *name = strtok(text, ",");
    for (char *s; n < 16 && (s = strtok(NULL, ","));) settings[n++] = s;
    return sy_use_new(ctx, name, SY_OPTIMIZER, settings, n, out);
}

static sy_status feed(void *self, int64_t index, int64_t rows, sy_batch *out)
{
    (void)rows;
    *out = *batch_at(self, index);
    return SY_OK;
}

static sy_status train(sy_context *ctx, char **a, int n)
{
    sy_use use[2];
    sy_run_options o;
    sy_run *run;
    batches b = { 0 };
    const bool full = strcmp(a[1], "full") == 0;
    const int64_t steps = atoll(a[5]);
    sy_run_options_init(&o);
    o.model = a[0];
    o.dtype = dtype_of(a[7]);
    o.training = true;
    o.total_steps = steps;
    o.use = use;
    if (full) SYI_TRY(sy_use_new(ctx, "full", SY_ADAPTER, NULL, 0, &use[o.n_use++]));
    else if (n > 10) SYI_TRY(sy_use_new(ctx, a[10], SY_ADAPTER, (const char *const *)a + 11, n - 11, &use[o.n_use++]));
    else o.adapter = a[1];
    SYI_TRY(optimizer_of(ctx, a[8], &use[o.n_use++]));
    SYI_TRY(sy_run_open(ctx, &o, &run));
    sy_status st = SY_OK;
    if (!full && n > 10 && strcmp(a[1], "-")) st = syi_run_adapter_load(run, syi_run_active(run, SY_ADAPTER), a[1]);
    if (st == SY_OK) st = batches_new(ctx, a[2], atoll(a[3]), atoll(a[4]), &b);
    if (st == SY_OK) st = reserve(run, b.b.tokens, true);
    sy_run_feed(run, feed, &b);
    if (st == SY_OK) st = sy_run_event(run, SY_START);
    for (int64_t k = 0; k < steps && st == SY_OK; k++) {
        sy_step_result r;
        st = sy_run_step_once(run, batch_at(&b, k), strtod(a[6], NULL), 0, &r);
        if (st == SY_OK) printf("%.9g\n", r.loss);
    }
    if (st == SY_OK) st = sy_run_event(run, SY_STOP);
    if (st == SY_OK && strcmp(a[9], "-")) st = syi_mkdirs(ctx, a[9]);
    if (st == SY_OK && strcmp(a[9], "-")) st = sy_run_save(run, a[9]);
    batches_free(ctx, &b);
    sy_run_close(run);
    return st;
}

static sy_status fold(sy_context *ctx, char **a)
{
    sy_run_options o;
    sy_run *run;
    sy_fold out;
    sy_run_options_init(&o);
    o.model = a[0];
    o.adapter = a[1];
    o.dtype = SY_F32;
    SYI_TRY(sy_run_open(ctx, &o, &run));
    sy_status st = sy_run_fold(run, a[2], strcmp(a[3], "-") ? dtype_of(a[3]) : (sy_dtype)-1, &out);
    sy_run_close(run);
    if (st == SY_OK) printf("%lld %g\n", (long long)out.tensors_changed, out.max_delta);
    return st;
}

int main(int argc, char **argv)
{
    char **a = argv + 2;
    const int n = argc - 2;
    sy_context *ctx = sy_context_new();
    if (!ctx) return 1;
    sy_log_set(ctx, log_line, NULL);
    const char *threads = getenv("PEFT_TOOL_THREADS");
    sy_status st = sy_threads_set(ctx, threads ? atoi(threads) : 0);
    if (st == SY_OK) st = SY_E_USAGE;
    if (argc > 1 && strcmp(argv[1], "make") == 0 && n >= 5) st = make(ctx, a, n);
    else if (argc > 1 && strcmp(argv[1], "logits") == 0 && n == 7) st = logits(ctx, a);
    else if (argc > 1 && strcmp(argv[1], "train") == 0 && n >= 10) st = train(ctx, a, n);
    else if (argc > 1 && strcmp(argv[1], "fold") == 0 && n == 4) st = fold(ctx, a);
    else fprintf(stderr, "peft_tool: see the head of tests/referee/peft_tool.c\n");
    if (st != SY_OK) fprintf(stderr, "%s: %s\n", sy_status_name(st), sy_error_message(ctx));
    sy_context_free(ctx);
    return sy_status_exit(st);
}
