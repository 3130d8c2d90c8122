/* SPDX-License-Identifier: Apache-2.0 */
/* Merging in a test: small checkpoints in a scratch folder, a recipe as text, the result
 * read back. Models are lists of f32 tensors under any names. */
#ifndef TEST_MERGING_H
#define TEST_MERGING_H

#include "support/scratch.h"
#include "support/test.h"

#include "base/base.h"
#include "steelyard/checkpoint.h"
#include "steelyard/job.h"
#include <jansson.h>

typedef struct { sy_context *ctx; char *dir; int resumed; } merging; /* tensors that the last merge found done */

static inline int merging_setup(void **state)
{
    merging *m = calloc(1, sizeof *m);
    m->ctx = sy_context_new();
    m->dir = scratch_new();
    *state = m;
    return 0;
}

static inline int merging_teardown(void **state)
{
    merging *m = *state;
    assert_int_equal(sy_memory_now(m->ctx), 0);
    sy_context_free(m->ctx);
    scratch_remove(m->dir);
    free(m);
    return 0;
}

typedef struct { const char *name; int rank; int64_t dim[4]; const float *data; } merging_tensor;

/* dir/NAME/model.safetensors of n tensors, stored as `dtype`. */
static inline void merging_model(merging *m, const char *name, sy_dtype dtype, const merging_tensor *t, int n)
{
    sy_writer *w;
    char *dir = syi_join(m->ctx, m->dir, name), *path;
    assert_int_equal(syi_mkdirs(m->ctx, dir), SY_OK);
    path = syi_join(m->ctx, dir, "model.safetensors");
    assert_int_equal(sy_writer_new(m->ctx, path, 0, &w), SY_OK);
    for (int i = 0; i < n; i++) assert_int_equal(sy_writer_declare(w, t[i].name, dtype, t[i].rank, t[i].dim), SY_OK);
    assert_int_equal(sy_writer_begin(w), SY_OK);
    for (int i = 0; i < n; i++) {
        int64_t count = 1, rows = 1;
        for (int d = 0; d < t[i].rank; d++) count *= t[i].dim[d];
        for (int d = 0; d + 1 < t[i].rank; d++) rows *= t[i].dim[d];
        void *data = malloc((size_t)count * 8);
        assert_int_equal(sy_from_f32(m->ctx, dtype, t[i].data, data, count), SY_OK);
        assert_int_equal(sy_writer_put(w, t[i].name, 0, rows, data), SY_OK);
        free(data);
    }
    assert_int_equal(sy_writer_end(w), SY_OK);
    syi_free(m->ctx, path);
    syi_free(m->ctx, dir);
}

/* Writes the recipe (NAMES of models are folders beside it), merges into dir/OUT.
 * `settings`: further flags as "key=value", NULL-ended, or NULL. */
static inline sy_status merging_run(merging *m, const char *recipe, const char *out, const char *const *settings)
{
    sy_job *job;
    char path[600], key[64];
    static int number;
    snprintf(path, sizeof path, "%s/recipe%d.yaml", m->dir, number++);
    scratch_write(path, recipe, strlen(recipe));
    sy_status st = sy_job_new(m->ctx, "merge", &job);
    if (st != SY_OK) return st;
    st = sy_job_set(job, "recipe", path);
    if (st == SY_OK) st = sy_job_set(job, "out", scratch_path(m->dir, out));
    for (; settings && *settings && st == SY_OK; settings++) {
        const char *eq = strchr(*settings, '=');
        snprintf(key, sizeof key, "%.*s", (int)(eq - *settings), *settings);
        st = sy_job_set(job, key, eq + 1);
    }
    if (st == SY_OK) st = sy_job_run(job);
    const char *resumed = strstr(sy_job_report(job), "\"resumed\":");
    m->resumed = resumed ? atoi(resumed + 10) : 0;
    sy_job_free(job);
    return st;
}

static inline void merging_ok(merging *m, const char *recipe, const char *out)
{
    if (merging_run(m, recipe, out, NULL) != SY_OK) fail_msg("%s\n%s", sy_error_message(m->ctx), recipe);
}

/* A tensor of dir/OUT as f32. */
static inline void merging_read(merging *m, const char *out, const char *name, float *dst, int64_t count)
{
    sy_checkpoint *ck;
    assert_int_equal(sy_checkpoint_open(m->ctx, scratch_path(m->dir, out), &ck), SY_OK);
    const sy_entry *e = sy_checkpoint_find(ck, name);
    if (!e) fail_msg("%s has no tensor %s", out, name);
    int64_t n = 1, rows = 1;
    for (int d = 0; d < e->rank; d++) n *= e->dim[d];
    for (int d = 0; d + 1 < e->rank; d++) rows *= e->dim[d];
    assert_int_equal(n, count);
    assert_int_equal(sy_entry_read_f32(m->ctx, e, 0, rows, dst), SY_OK);
    sy_checkpoint_close(ck);
}

/* Fails unless merging ends with this status and its message holds `text`. */
static inline void merging_fails(merging *m, const char *recipe, sy_status expected, const char *text)
{
    sy_status st = merging_run(m, recipe, "refused", NULL);
    if (st != expected || !strstr(sy_error_message(m->ctx), text))
        fail_msg("expected %s with \"%s\", found %s: %s\n%s", sy_status_name(expected), text, sy_status_name(st), sy_error_message(m->ctx), recipe);
    assert_false(syi_exists(scratch_path(m->dir, "refused")));
}

#define merging_test(f) cmocka_unit_test_setup_teardown(f, merging_setup, merging_teardown)

#endif
