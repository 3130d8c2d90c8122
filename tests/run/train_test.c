/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs train, eval and generate as jobs on a tiny model: files and reports, learning,
 * interruption and resuming bit for bit, contradictions, bad input, a full disk at every
 * place. With arguments "make DIR" it writes model and data for the scripts beside it. */
#include "io/io.h"
#include "run/train.h"
#include "support/folder.h"
#include "support/tiny_text.h"

#include <errno.h>
#include <math.h>

typedef struct { char model[300], data[300], eval[300], out[300]; } paths;

static paths set_up(test_folder *f)
{
    paths p;
    snprintf(p.model, sizeof p.model, "%s/model", f->dir);
    snprintf(p.data, sizeof p.data, "%s/data.jsonl", f->dir);
    snprintf(p.eval, sizeof p.eval, "%s/eval.jsonl", f->dir);
    snprintf(p.out, sizeof p.out, "%s/run", f->dir);
    tiny_reader_write(f->ctx, p.model);
    tiny_jsonl_write(p.data, 24, 0);
    tiny_jsonl_write(p.eval, 6, 100);
    return p;
}

enum { MAX_SETTINGS = 40 };
typedef struct { char text[MAX_SETTINGS][600]; int n; } settings;

static void set(settings *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s->text[s->n], sizeof s->text[0], fmt, ap);
    va_end(ap);
    s->n++;
}

/* A small run: 8 steps of 2 rows, a checkpoint every 3, an evaluation every 4. */
static settings small(const paths *p, const char *out)
{
    settings s = {.n = 0};
    set(&s, "model=%s", p->model);
    set(&s, "data=%s", p->data);
    set(&s, "eval-data=%s", p->eval);
    set(&s, "out=%s", out);
    set(&s, "steps=8");
    set(&s, "batch=2");
    set(&s, "seq=32");
    set(&s, "save-steps=3");
    set(&s, "eval-steps=4");
    set(&s, "dtype=f32");
    set(&s, "lr=1e-2");
    set(&s, "rank=4");
    set(&s, "threads=1");
    return s;
}

/* Takes a key's last setting away. */
static void unset(settings *s, const char *key)
{
    for (int i = s->n - 1; i >= 0; i--)
        if (syi_starts(s->text[i], key) && s->text[i][strlen(key)] == '=') {
            memmove(s->text[i], s->text[i + 1], (size_t)(s->n - i - 1) * sizeof s->text[0]);
            s->n--;
            return;
        }
    fail_msg("%s was not set", key);
}

static sy_status run(sy_context *ctx, const char *verb, const settings *s, char **report)
{
    const char *at[MAX_SETTINGS + 1];
    for (int i = 0; i < s->n; i++) at[i] = s->text[i];
    at[s->n] = NULL;
    return tiny_job(ctx, verb, at, report);
}

static json_t *report_of(char *text)
{
    json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(j);
    free(text);
    return j;
}

static double number(const json_t *j, const char *key)
{
    const json_t *v = json_object_get(j, key);
    if (!json_is_number(v)) fail_msg("\"%s\" is not a number", key);
    return json_number_value(v);
}

static void run_ok(sy_context *ctx, const char *verb, const settings *s, json_t **report)
{
    char *text;
    if (run(ctx, verb, s, &text) != SY_OK) fail_msg("%s: %s", verb, sy_error_message(ctx));
    if (report != NULL) *report = report_of(text);
    else free(text);
}

/* Fails with this status and a message that holds `words`. */
static void run_fails(sy_context *ctx, const char *verb, const settings *s, sy_status want, const char *words)
{
    sy_status status = run(ctx, verb, s, NULL);
    if (status != want || strstr(sy_error_message(ctx), words) == NULL)
        fail_msg("expected %s with \"%s\", got %s: %s", sy_status_name(want), words, sy_status_name(status), sy_error_message(ctx));
}

static bool has(const char *dir, const char *name)
{
    char path[800];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return syi_exists(path);
}

static void assert_same_file(sy_context *ctx, const char *a_dir, const char *b_dir, const char *name)
{
    char a[800], b[800], *x, *y;
    int64_t n, m;
    snprintf(a, sizeof a, "%s/%s", a_dir, name);
    snprintf(b, sizeof b, "%s/%s", b_dir, name);
    TEST_OK(ctx, syi_read_file(ctx, a, 1 << 26, &x, &n));
    TEST_OK(ctx, syi_read_file(ctx, b, 1 << 26, &y, &m));
    if (n != m || memcmp(x, y, (size_t)n) != 0) fail_msg("%s and %s differ", a, b);
    syi_free(ctx, x);
    syi_free(ctx, y);
}

/* (step, loss, eval_loss) of every line of metrics.jsonl. */
static int read_metrics(sy_context *ctx, const char *dir, double (*out)[3], int max)
{
    char path[800], *text;
    int n = 0;
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    TEST_OK(ctx, syi_read_file(ctx, path, 1 << 24, &text, NULL));
    for (char *line = strtok(text, "\n"); line != NULL && n < max; line = strtok(NULL, "\n")) {
        json_t *j = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        assert_non_null(j);
        if (json_object_get(j, "train_runtime") == NULL) {
            out[n][0] = number(j, "step");
            out[n][1] = json_number_value(json_object_get(j, "loss"));
            out[n++][2] = json_number_value(json_object_get(j, "eval_loss"));
        }
        json_decref(j);
    }
    syi_free(ctx, text);
    return n;
}

/* -- a whole run ---------------------------------------------------------------------- */

static void writes_everything(void **state)
{
    test_folder *f = *state;
    paths p = set_up(f);
    settings s = small(&p, p.out);
    json_t *report;
    run_ok(f->ctx, "train", &s, &report);
    static const char *const promised[] = {"steps", "loss", "eval_loss", "tokens", "tokens_per_second", "peak_bytes", "seconds",
                                           "trained_parameters"};
    for (size_t i = 0; i < sizeof promised / sizeof *promised; i++) assert_true(number(report, promised[i]) > 0);
    assert_true(number(report, "steps") == 8);
    /* rank 4 on q,k,v,o,gate,up,down of 2 blocks of 32, kv width 16, ffn 64 */
    assert_true(number(report, "trained_parameters") == 2 * 4 * (64 + 48 + 48 + 64 + 96 + 96 + 96));
    assert_true(number(report, "eval_loss") < number(report, "first_eval_loss") - 0.1);
    static const char *const files[] = {"adapter_model.safetensors", "adapter_config.json", "README.md", "run.yaml", "metrics.jsonl",
        "trainer_state.json", "loss.svg", "receipt.json", "checkpoint-6/state.safetensors", "checkpoint-8/run_state.json",
        "checkpoint-8/adapter_model.safetensors", "checkpoint-8/trainer_state.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (!has(p.out, files[i])) fail_msg("%s is missing", files[i]);
    assert_false(has(p.out, "checkpoint-3")); /* save-limit 2 */
    double m[64][3];
    int n = read_metrics(f->ctx, p.out, m, 64), steps = 0, evals = 0;
    for (int i = 0; i < n; i++) {
        if (m[i][2] > 0) assert_true(m[i][0] == 4 * evals++); /* before, at 4, at the end */
        else assert_true(m[i][0] == ++steps);
    }
    assert_int_equal(steps, 8);
    assert_int_equal(evals, 3);
    assert_true(fabs(m[n - 1][2] - number(report, "eval_loss")) < 1e-6);
    char path[800];
    json_t *j;
    snprintf(path, sizeof path, "%s/trainer_state.json", p.out);
    TEST_OK(f->ctx, syi_json_read(f->ctx, path, &j));
    assert_true(number(j, "global_step") == 8 && number(j, "max_steps") == 8);
    assert_int_equal(json_array_size(json_object_get(j, "log_history")), 12); /* 8 steps, 3 evaluations, the summary */
    json_decref(j);
    snprintf(path, sizeof path, "%s/receipt.json", p.out);
    TEST_OK(f->ctx, syi_json_read(f->ctx, path, &j));
    const json_t *list = json_object_get(j, "files");
    for (size_t i = 0; i < json_array_size(list); i++) { /* sizes as they are on disk */
        const json_t *file = json_array_get(list, i);
        snprintf(path, sizeof path, "%s/%s", p.out, json_string_value(json_object_get(file, "name")));
        assert_true(number(file, "bytes") == (double)syi_file_size(path));
    }
    assert_true(json_array_size(list) >= 8);
    json_decref(j);

    /* what `eval` finds with the adapter is what the run found at its end; the logits too */
    settings e = {.n = 0};
    json_t *found;
    set(&e, "model=%s", p.model);
    set(&e, "adapter=%s", p.out);
    set(&e, "data=%s", p.eval);
    set(&e, "seq=32");
    set(&e, "dtype=f32");
    run_ok(f->ctx, "eval", &e, &found);
    assert_true(fabs(number(found, "loss") / number(report, "eval_loss") - 1) < 1e-5);
    assert_true(fabs(log(number(found, "perplexity")) / number(found, "loss") - 1) < 1e-9);
    double tokens = number(found, "tokens");
    json_decref(found);
    set(&e, "dump-logits=%s/logits.safetensors", f->dir);
    run_ok(f->ctx, "eval", &e, &found);
    assert_true(fabs(number(found, "loss") / number(report, "eval_loss") - 1) < 1e-4);
    assert_true(number(found, "tokens") == tokens);
    json_decref(found);
    sy_checkpoint *ck;
    snprintf(path, sizeof path, "%s/logits.safetensors", f->dir);
    TEST_OK(f->ctx, sy_checkpoint_open(f->ctx, path, &ck));
    const sy_entry *logits = sy_checkpoint_find(ck, "logits"), *ids = sy_checkpoint_find(ck, "input_ids");
    assert_true(logits->dim[0] == (int64_t)tokens && logits->dim[1] == TINY_VOCABULARY && logits->dtype == SY_F32);
    int32_t first[3];
    memcpy(first, ids->data, sizeof first);
    assert_true(first[0] == 'T' && first[1] == 'h' && first[2] == 'e');
    sy_checkpoint_close(ck);

    settings g = {.n = 0};
    set(&g, "model=%s", p.model);
    set(&g, "adapter=%s", p.out);
    set(&g, "prompt=The cat");
    set(&g, "max-new=7");
    set(&g, "ignore-eos=on");
    run_ok(f->ctx, "generate", &g, &found);
    assert_int_equal(json_array_size(json_object_get(found, "token_ids")), 7);
    assert_true(json_is_string(json_object_get(found, "text")) && number(found, "tokens_per_second") > 0);
    json_decref(found);

    /* a run that is complete has nothing left to do */
    settings r = {.n = 0};
    set(&r, "resume=%s", p.out);
    run_ok(f->ctx, "train", &r, &found);
    assert_true(number(found, "steps") == 8 && number(found, "loss") == number(report, "loss"));
    json_decref(found);
    json_decref(report);
}

static void full_and_dry(void **state)
{
    test_folder *f = *state;
    paths p = set_up(f);
    settings s = small(&p, p.out);
    unset(&s, "rank");
    set(&s, "adapter=full");
    set(&s, "lr=3e-3");
    settings dry = s;
    json_t *report;
    set(&dry, "dry-run=on");
    run_ok(f->ctx, "train", &dry, &report);
    assert_true(number(json_object_get(report, "plan"), "total") > 0);
    assert_true(json_is_null(json_object_get(report, "loss")));
    assert_false(syi_exists(p.out));
    json_decref(report);
    run_ok(f->ctx, "train", &s, &report);
    assert_true(number(report, "loss") < number(report, "first_loss"));
    assert_true(has(p.out, "model.safetensors") && has(p.out, "config.json") && has(p.out, "tokenizer.json"));
    settings e = {.n = 0};
    json_t *found;
    set(&e, "model=%s", p.out);
    set(&e, "data=%s", p.eval);
    set(&e, "seq=32");
    set(&e, "dtype=f32");
    run_ok(f->ctx, "eval", &e, &found);
    assert_true(fabs(number(found, "loss") / number(report, "eval_loss") - 1) < 1e-4);
    json_decref(found);
    json_decref(report);
}

/* -- resuming ----------------------------------------------------------------------------- */

typedef struct { sy_context *ctx; int64_t at; } stopper;

static void stop_at(void *self, const sy_progress *p)
{
    stopper *s = self;
    if (!strcmp(p->what, "train") && p->done == s->at) sy_cancel(s->ctx);
}

static void check_same_run(sy_context *ctx, const char *a, const char *b)
{
    double x[64][3], y[64][3];
    assert_same_file(ctx, a, b, "adapter_model.safetensors");
    assert_same_file(ctx, a, b, "adapter_config.json");
    assert_same_file(ctx, a, b, "checkpoint-8/state.safetensors");
    int n = read_metrics(ctx, a, x, 64);
    assert_int_equal(read_metrics(ctx, b, y, 64), n);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < 3; k++) assert_true(x[i][k] == y[i][k]);
}

static void interrupted_and_resumed(void **state)
{
    test_folder *f = *state;
    paths p = set_up(f);
    settings whole = small(&p, p.out);
    set(&whole, "lora-dropout=0.1"); /* noise must be made again too */
    run_ok(f->ctx, "train", &whole, NULL);
    char other[400];
    snprintf(other, sizeof other, "%s/other", f->dir);
    for (int at = 1; at < 8; at += 2) {
        settings s = small(&p, other), r = {.n = 0};
        set(&s, "lora-dropout=0.1");
        stopper stop = {f->ctx, at};
        sy_progress_set(f->ctx, stop_at, &stop);
        char words[64], checkpoint[64];
        snprintf(words, sizeof words, "after step %d of 8", at);
        run_fails(f->ctx, "train", &s, SY_E_CANCELLED, words);
        sy_progress_set(f->ctx, NULL, NULL);
        snprintf(checkpoint, sizeof checkpoint, "checkpoint-%d", at);
        assert_true(has(other, checkpoint));
        assert_false(has(other, "adapter_model.safetensors"));
        set(&r, "resume=%s", other);
        set(&r, "threads=%d", at % 4 + 1);
        if (at == 5) { /* once more interrupted on the way, and moved */
            stop.at = 7;
            sy_progress_set(f->ctx, stop_at, &stop);
            run_fails(f->ctx, "train", &r, SY_E_CANCELLED, "after step 7");
            sy_progress_set(f->ctx, NULL, NULL);
            char moved[400];
            snprintf(moved, sizeof moved, "%s/moved", f->dir);
            TEST_OK(f->ctx, syi_rename(f->ctx, other, moved));
            snprintf(r.text[0], sizeof r.text[0], "resume=%s", moved);
            run_ok(f->ctx, "train", &r, NULL);
            TEST_OK(f->ctx, syi_rename(f->ctx, moved, other));
        } else run_ok(f->ctx, "train", &r, NULL);
        check_same_run(f->ctx, p.out, other);
        TEST_OK(f->ctx, syi_remove_tree(f->ctx, other));
    }
}

/* The disk fails at the n-th change; what is left can always be gone on with. */
static void full_disk(void **state)
{
    test_folder *f = *state;
    paths p = set_up(f);
    settings whole = small(&p, p.out);
    run_ok(f->ctx, "train", &whole, NULL);
    char other[400];
    snprintf(other, sizeof other, "%s/other", f->dir);
    settings s = small(&p, other);
    set(&s, "auto-resume=on");
    int failures = 0;
    for (int64_t n = 1;; n += n < 30 ? 1 : 9) {
        syi_file_fail_after(f->ctx, n, n % 2 ? ENOSPC : EIO);
        sy_status status = run(f->ctx, "train", &s, NULL);
        syi_file_fail_after(f->ctx, 0, 0);
        if (status == SY_OK) break;
        failures++;
        assert_int_equal(status, SY_E_IO);
        assert_non_null(strstr(sy_error_message(f->ctx), "other"));
        run_ok(f->ctx, "train", &s, NULL);
        check_same_run(f->ctx, p.out, other);
        TEST_OK(f->ctx, syi_remove_tree(f->ctx, other));
    }
    assert_true(failures > 35);
}

/* -- what must be refused ---------------------------------------------------------------------- */

static void contradictions(void **state)
{
    test_folder *f = *state;
    paths p = set_up(f);
    settings s = small(&p, p.out), r = {.n = 0}, t;
    stopper stop = {f->ctx, 4};
    sy_progress_set(f->ctx, stop_at, &stop);
    run_fails(f->ctx, "train", &s, SY_E_CANCELLED, "--resume");
    sy_progress_set(f->ctx, NULL, NULL);
    run_fails(f->ctx, "train", &s, SY_E_USAGE, "holds a run already");
    set(&r, "resume=%s", p.out);
    t = r;
    set(&t, "lr=1");
    set(&t, "batch=3");
    run_fails(f->ctx, "train", &t, SY_E_USAGE, "--batch 3 (the run: 2)");
    run_fails(f->ctx, "train", &t, SY_E_USAGE, "--lr 1 (the run: 0.01)");
    t = r;
    set(&t, "rank=8");
    run_fails(f->ctx, "train", &t, SY_E_USAGE, "--rank 8 (the run: 4)");
    t = s;
    set(&t, "auto-resume=on");
    set(&t, "seed=7");
    run_fails(f->ctx, "train", &t, SY_E_USAGE, "--seed 7 (the run: 42)");
    t = r;
    set(&t, "data=%s", p.eval); /* another content */
    run_fails(f->ctx, "train", &t, SY_E_INPUT, "another data set");
    t = r;
    set(&t, "log-steps=2"); /* changes no weight: allowed */
    set(&t, "save-steps=0");
    run_ok(f->ctx, "train", &t, NULL);
    t = (settings){.n = 0};
    set(&t, "resume=%s", f->dir);
    run_fails(f->ctx, "train", &t, SY_E_INPUT, "run.yaml");
    t = small(&p, f->dir); /* somebody's folder */
    run_fails(f->ctx, "train", &t, SY_E_USAGE, "not empty");
    t = small(&p, p.data);
    run_fails(f->ctx, "train", &t, SY_E_USAGE, "is a file");
}

static void bad_input(void **state)
{
    test_folder *f = *state;
    paths p = set_up(f);
    char empty[400], sub[400];
    snprintf(empty, sizeof empty, "%s/empty.jsonl", f->dir);
    TEST_OK(f->ctx, syi_write_file(f->ctx, empty, "", 0));
    const struct { const char *setting; sy_status status; const char *words; } cases[] = {
        {"model=", SY_E_USAGE, "--model is missing"}, {"data=", SY_E_USAGE, "--data is missing"},
        {"out=", SY_E_USAGE, "--out is missing"}, {"model=/nowhere", SY_E_INPUT, "/nowhere"},
        {"data=/nowhere.jsonl", SY_E_INPUT, "/nowhere.jsonl"}, {"seq=1000", SY_E_USAGE, "context is 256"},
        {"recompute=maybe", SY_E_USAGE, "--recompute"}, {"adapter=lorra", SY_E_USAGE, "\"lora\""},
        {"optimizer=adamm", SY_E_USAGE, "adamw"}, {"adapter=none", SY_E_USAGE, "nothing would be trained"},
        {"eval-share=0.5", SY_E_USAGE, "one of them"}, {"learning_rat=1", SY_E_USAGE, "did you mean"},
        {"memory-limit=100K", SY_E_MEMORY, "memory-limit"},
        {"init-adapter=/nowhere", SY_E_USAGE, "--rank cannot be given"}, {"trainer=any", SY_E_USAGE, "no trainer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        settings s = small(&p, p.out);
        set(&s, "optimizer=sgd");
        if (strstr(cases[i].setting, "optimizer")) unset(&s, "optimizer");
        if (strstr(cases[i].setting, "adapter=none")) unset(&s, "rank");
        set(&s, "%s", cases[i].setting);
        run_fails(f->ctx, "train", &s, cases[i].status, cases[i].words);
        assert_false(syi_exists(p.out));
    }
    settings s = small(&p, p.out);
    set(&s, "data=%s", empty);
    run_fails(f->ctx, "train", &s, SY_E_INPUT, "empty.jsonl");
    assert_false(syi_exists(p.out));
    /* keep-best without data to judge by */
    s = small(&p, p.out);
    set(&s, "eval-data=");
    run_fails(f->ctx, "train", &s, SY_E_USAGE, "needs data to evaluate on");
    /* a model whose weights are not numbers: refused in the first step, nothing left */
    snprintf(sub, sizeof sub, "%s/model/model.safetensors", f->dir);
    sy_checkpoint *ck;
    TEST_OK(f->ctx, sy_checkpoint_open(f->ctx, sub, &ck));
    const sy_entry *norm = sy_checkpoint_find(ck, "model.norm.weight");
    assert_non_null(norm);
    char *bytes;
    int64_t size;
    TEST_OK(f->ctx, syi_read_file(f->ctx, sub, 1 << 26, &bytes, &size));
    int64_t at = 0;
    for (; at + norm->bytes <= size; at++)
        if (memcmp(bytes + at, norm->data, (size_t)norm->bytes) == 0) break;
    sy_checkpoint_close(ck);
    float nan = NAN;
    memcpy(bytes + at, &nan, sizeof nan);
    TEST_OK(f->ctx, syi_write_file(f->ctx, sub, bytes, size));
    syi_free(f->ctx, bytes);
    s = small(&p, p.out);
    set(&s, "eval-first=off");
    run_fails(f->ctx, "train", &s, SY_E_NUMERIC, "step 1");
    assert_false(syi_exists(p.out));
    s = small(&p, p.out);
    run_fails(f->ctx, "train", &s, SY_E_NUMERIC, "evaluation");
    assert_false(syi_exists(p.out));
}

/* A blow-up in the middle: the checkpoint before it is kept and said. */
static void diverges(void **state)
{
    test_folder *f = *state;
    paths p = set_up(f);
    settings s = small(&p, p.out);
    set(&s, "adapter=full");
    set(&s, "optimizer=sgd");
    unset(&s, "rank");
    set(&s, "eval-steps=0");
    set(&s, "schedule=linear");
    set(&s, "warmup-steps=6"); /* small steps first, enormous ones later */
    set(&s, "clip=0");
    set(&s, "lr=900");
    set(&s, "save-steps=1");
    sy_status status = run(f->ctx, "train", &s, NULL);
    assert_int_equal(status, SY_E_NUMERIC);
    const char *message = sy_error_message(f->ctx), *kept = strstr(message, "checkpoint-");
    if (kept == NULL) fail_msg("%s", message);
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(kept, " ;,"), kept);
    assert_true(has(p.out, name));
    assert_non_null(strstr(message, "--lr"));
}

/* Ten steps from checkpoint to checkpoint by --init-adapter; best checkpoint kept. */
static void init_and_best(void **state)
{
    test_folder *f = *state;
    paths p = set_up(f);
    settings s = small(&p, p.out);
    set(&s, "save-limit=1");
    set(&s, "keep-best=on");
    set(&s, "lr=0.5"); /* gets worse again: the best is not the last */
    set(&s, "save-steps=1");
    json_t *report, *again;
    run_ok(f->ctx, "train", &s, &report);
    char best[64], next[400];
    snprintf(best, sizeof best, "checkpoint-%d", (int)number(report, "best_step"));
    assert_true(has(p.out, best) && has(p.out, "checkpoint-8"));
    char **names;
    int n, checkpoints = 0;
    TEST_OK(f->ctx, syi_list_dir(f->ctx, p.out, &names, &n));
    for (int i = 0; i < n; i++) {
        checkpoints += syi_starts(names[i], "checkpoint-");
        assert_false(names[i][0] == '.');
        syi_free(f->ctx, names[i]);
    }
    syi_free(f->ctx, names);
    assert_int_equal(checkpoints, strcmp(best, "checkpoint-8") ? 2 : 1);
    snprintf(next, sizeof next, "%s/next", f->dir);
    s = small(&p, next);
    unset(&s, "rank"); /* the adapter brings it */
    set(&s, "init-adapter=%s", p.out);
    set(&s, "lr=1e-3");
    run_ok(f->ctx, "train", &s, &again);
    assert_true(fabs(number(again, "first_eval_loss") / number(report, "eval_loss") - 1) < 1e-5);
    assert_true(number(again, "trained_parameters") == number(report, "trained_parameters"));
    json_decref(report);
    json_decref(again);
}

/* Accumulation and memory: k batches of n rows are one batch of k n rows. */
static void accumulation(void **state)
{
    test_folder *f = *state;
    paths p = set_up(f);
    char other[400];
    json_t *a, *b;
    snprintf(other, sizeof other, "%s/other", f->dir);
    settings s = small(&p, p.out), t = small(&p, other);
    set(&s, "batch=6");
    set(&t, "batch=2");
    set(&t, "gradient_accumulation_steps=3");
    run_ok(f->ctx, "train", &s, &a);
    run_ok(f->ctx, "train", &t, &b);
    assert_true(fabs(number(a, "loss") / number(b, "loss") - 1) < 1e-4);
    assert_true(number(a, "tokens") == number(b, "tokens"));
    assert_true(number(json_object_get(b, "plan"), "step") < number(json_object_get(a, "plan"), "step"));
    json_decref(a);
    json_decref(b);
}

/* A limit between the smallest plan and the usual one: the batch is cut, the work is done,
 * and resuming under another limit is refused. */
static void memory_limit(void **state)
{
    test_folder *f = *state;
    paths p = set_up(f);
    settings s = small(&p, p.out), dry;
    json_t *report;
    set(&s, "batch=16");
    dry = s;
    set(&dry, "dry-run=on");
    run_ok(f->ctx, "train", &dry, &report);
    const json_t *plan = json_object_get(report, "plan");
    double most = number(plan, "total"), step = number(plan, "step");
    json_decref(report);
    set(&s, "memory-limit=%.0f", most - 0.6 * step);
    stopper stop = {f->ctx, 2};
    sy_progress_set(f->ctx, stop_at, &stop);
    run_fails(f->ctx, "train", &s, SY_E_CANCELLED, "after step 2");
    sy_progress_set(f->ctx, NULL, NULL);
    settings r = {.n = 0};
    set(&r, "resume=%s", p.out);
    settings other = r;
    set(&other, "memory-limit=%.0f", 2 * most);
    run_fails(f->ctx, "train", &other, SY_E_USAGE, "--memory-limit");
    run_ok(f->ctx, "train", &r, &report);
    plan = json_object_get(report, "plan");
    assert_true(number(plan, "micro_tokens") > 0 && number(plan, "micro_tokens") < 16 * 32);
    assert_true(number(plan, "total") <= most - 0.6 * step);
    json_decref(report);
}

/* Memory runs out at one place after another: an error that says so, nothing leaks (the
 * folder's teardown looks), and no half a run stays. */
static void out_of_memory(void **state)
{
    test_folder *f = *state;
    paths p = set_up(f);
    settings s = small(&p, p.out);
    int failures = 0;
    for (int64_t n = 80;; n += 1 + n / 8) { /* the first make the job */
        sy_memory_fail_after(f->ctx, n);
        sy_status status = run(f->ctx, "train", &s, NULL);
        sy_memory_fail_after(f->ctx, 0);
        if (status == SY_OK && has(p.out, "receipt.json")) {
            if (failures > 20) break; /* past the last allocation */
        } else if (status != SY_E_MEMORY)
            fail_msg("allocation %lld: %s: %s", (long long)n, sy_status_name(status), sy_error_message(f->ctx));
        failures += status != SY_OK;
        TEST_OK(f->ctx, syi_remove_tree(f->ctx, p.out));
    }
}

static void held_out_share(void **state)
{
    test_folder *f = *state;
    paths p = set_up(f);
    settings s = small(&p, p.out);
    json_t *report;
    unset(&s, "eval-data");
    set(&s, "val_set_size=0.25");
    run_ok(f->ctx, "train", &s, &report);
    const json_t *data = json_object_get(report, "data"), *eval = json_object_get(report, "eval_data");
    assert_true(number(data, "documents") + number(eval, "documents") == 24);
    assert_true(number(eval, "documents") >= 5 && number(eval, "documents") <= 7);
    assert_true(number(report, "eval_loss") > 0);
    json_decref(report);
}

/* A Chrome trace: one complete event ("ph":"X") an operation, one after the other, whose
 * work adds up to what the report counts, and the head's to what its tokens need. */
static void profile(void **state)
{
    test_folder *f = *state;
    paths p = set_up(f);
    settings s = small(&p, p.out);
    char path[400], *text;
    int64_t n;
    unset(&s, "eval-data");
    unset(&s, "eval-steps");
    snprintf(path, sizeof path, "%s/trace.json", f->dir);
    set(&s, "profile=%s", path);
    json_t *report, *trace;
    run_ok(f->ctx, "train", &s, &report);
    TEST_OK(f->ctx, syi_read_file(f->ctx, path, 1 << 26, &text, &n));
    json_error_t error;
    if (!(trace = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &error))) fail_msg("the trace is not JSON: line %d: %s", error.line, error.text);
    const json_t *events = json_object_get(trace, "traceEvents");
    assert_true(json_is_array(events) && json_array_size(events) > 100);
    double end = 0, gflop = 0, head = 0;
    int backward = 0;
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *e = json_array_get(events, i), *args = json_object_get(e, "args");
        const char *name = json_string_value(json_object_get(e, "name")), *cat = json_string_value(json_object_get(e, "cat"));
        assert_non_null(name);
        assert_non_null(cat);
        assert_string_equal(json_string_value(json_object_get(e, "ph")), "X");
        assert_true(number(e, "pid") >= 0 && number(e, "tid") >= 0);
        /* microseconds, rounded to thousandths */
        assert_true(number(e, "ts") >= end - 0.01 && number(e, "dur") >= 0);
        end = number(e, "ts") + number(e, "dur");
        gflop += number(args, "gflop");
        if (!strcmp(name, "head_loss")) head += number(args, "gflop");
        backward += !strcmp(cat, "backward");
    }
    assert_true(backward > 0 && end * 1e-6 < number(report, "seconds"));
    const double counted = number(report, "counted_gflop"), wanted = number(report, "trained_tokens") * 4e-9 * TINY_VOCABULARY * 32;
    if (fabs(gflop / counted - 1) > 1e-4) fail_msg("the trace has %g GFLOP, the report %g", gflop, counted);
    if (fabs(head / wanted - 1) > 1e-4) fail_msg("the head has %g GFLOP, its tokens need %g", head, wanted);
    assert_true(number(report, "limit_gflops") > 0 && number(report, "share_of_limit") > 0);
    json_decref(trace);
    json_decref(report);
    syi_free(f->ctx, text);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "make")) {
        test_folder f = {.ctx = sy_context_new()};
        snprintf(f.dir, sizeof f.dir, "%s", argv[2]);
        set_up(&f);
        sy_context_free(f.ctx);
        return 0;
    }
    if (argc == 2) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        folder_test(writes_everything), folder_test(full_and_dry),  folder_test(interrupted_and_resumed),
        folder_test(full_disk),         folder_test(contradictions), folder_test(bad_input),
        folder_test(diverges),          folder_test(init_and_best), folder_test(accumulation),
        folder_test(held_out_share),    folder_test(memory_limit),   folder_test(out_of_memory),
        folder_test(profile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
