/* SPDX-License-Identifier: Apache-2.0 */
/* Adapters when memory or the disk runs out: every allocation and every change of the disk
 * fails once while an adapter is made, trained a step, saved, read back and folded. */
#include "run/run.h"
#include "support/folder.h"
#include "support/tiny_model.h"
#include "support/torture.h"

typedef struct { const test_folder *f; char model[512]; const char *adapter, *const *settings; int round; } work;

static sy_status step(sy_run *run)
{
    tiny_batch b;
    sy_step_result r;
    sy_plan plan;
    tiny_batch_make(&b, 40, 3);
    SYI_TRY(sy_run_plan(run, TINY_TOKENS, true, &plan));
    SYI_TRY(sy_run_reserve(run, &plan));
    return sy_run_step_once(run, &b.batch, 1e-2, 1, &r);
}

static sy_status make_and_save(work *w, sy_context *ctx, const char *dir)
{
    sy_use use[2];
    sy_run *run;
    sy_run_options o;
    sy_run_options_init(&o);
    o.model = w->model;
    o.dtype = SY_F32;
    o.training = true;
    o.use = use;
    o.n_use = 2;
    SYI_TRY(sy_use_new(ctx, w->adapter, SY_ADAPTER, w->settings, tiny_count(w->settings), &use[0]));
    sy_status st = sy_use_new(ctx, "adamw", SY_OPTIMIZER, NULL, 0, &use[1]);
    if (st != SY_OK) {
        sy_use_free(ctx, &use[0]);
        return st;
    }
    SYI_TRY(sy_run_open(ctx, &o, &run));
    st = step(run);
    if (st == SY_OK) st = syi_mkdirs(ctx, dir);
    if (st == SY_OK) st = sy_run_save(run, dir);
    sy_run_close(run);
    return st;
}

static sy_status read_and_fold(work *w, sy_context *ctx, const char *dir, const char *out)
{
    sy_run *run;
    sy_run_options o;
    sy_fold fold;
    sy_run_options_init(&o);
    o.model = w->model;
    o.adapter = dir;
    o.dtype = SY_F32;
    SYI_TRY(sy_run_open(ctx, &o, &run));
    sy_status st = sy_run_fold(run, out, (sy_dtype)-1, &fold);
    sy_run_close(run);
    return st;
}

static sy_status all(sy_context *ctx, void *self)
{
    work *w = self;
    char dir[600], out[600];
    snprintf(dir, sizeof dir, "%s/adapter", w->f->dir);
    snprintf(out, sizeof out, "%s/folded", w->f->dir);
    sy_status st = make_and_save(w, ctx, dir);
    if (st == SY_OK) st = read_and_fold(w, ctx, dir, out);
    return st;
}

/* What is in the way of the next try. A folding that failed leaves nothing, or (when only
 * making the new name durable failed) the whole folder. */
static void clean(sy_context *ctx, void *self)
{
    work *w = self;
    char path[600];
    snprintf(path, sizeof path, "%s/folded", w->f->dir);
    if (syi_exists(path)) {
        sy_checkpoint *ck;
        TEST_OK(ctx, sy_checkpoint_open(ctx, path, &ck));
        assert_true(sy_checkpoint_count(ck) > 10);
        sy_checkpoint_close(ck);
        assert_int_equal(syi_remove_tree(ctx, path), SY_OK);
    }
    snprintf(path, sizeof path, "%s/adapter", w->f->dir);
    assert_int_equal(syi_remove_tree(ctx, path), SY_OK);
    assert_int_equal(count_entries(ctx, w->f->dir), 1); /* the model */
}

static sy_status cleaned(sy_context *ctx, void *self)
{
    const sy_status st = all(ctx, self);
    /* not part of the work: cannot fail here */
    sy_memory_fail_after(ctx, 0);
    char *message = strdup(sy_error_message(ctx));
    clean(ctx, self);
    if (st != SY_OK) syi_fail(ctx, st, "%s", message);
    free(message);
    return st;
}

static void torture(void **state)
{
    test_folder *f = *state;
    static const struct { const char *adapter, *settings[5]; } cases[] = {
        { "lora", { "rank=2", "target-modules=q_proj,embed_tokens", NULL } },
        { "lora", { "rank=2", "target-modules=v_proj", "use-dora=on", "modules-to-save=norm", NULL } },
        { "lora", { "rank=2", "target-modules=v_proj", "init=pissa", NULL } },
        { "vera", { "rank=2", "target-modules=v_proj,down_proj", NULL } },
    };
    work w = { .f = f };
    tiny_model m = TINY_MODEL;
    m.layers = 1;
    m.tied = true;
    sy_threads_set(f->ctx, 1);
    in_folder(f, w.model, "model");
    tiny_model_write(f->ctx, &m, w.model);
    for (int i = 0; i < SYI_COUNT(cases); i++) {
        w.adapter = cases[i].adapter;
        w.settings = cases[i].settings;
        assert_true(torture_memory(f->ctx, cleaned, &w) > 50);
        assert_true(torture_disk(f->ctx, all, clean, &w) > 8);
        clean(f->ctx, &w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { folder_test(torture) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
