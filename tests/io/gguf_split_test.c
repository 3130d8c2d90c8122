/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF in several files: written below a size, read from any part, refused when the parts
 * do not belong together. */
#include "support/scratch.h"
#include "support/torture.h"

#include "io/gguf.h"

static sy_context *ctx;
static char *dir;

static int set_up(void **state)
{
    (void)state;
    ctx = sy_context_new();
    dir = scratch_new();
    return ctx == NULL || dir == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
    scratch_remove(dir);
    return 0;
}

enum { TENSORS = 9, COLS = 64 };
static int64_t rows_of(int i) { return i == 4 ? 40 : 4 + i; } /* one is larger than a file may be */

static sy_status write_model(sy_context *c, const char *path, int64_t split, int *files)
{
    syi_gguf_writer *w = NULL;
    sy_status status;
    char name[16];
    float row[COLS];
    SYI_TRY(syi_gguf_writer_new(c, path, &w));
    SYI_TRY_TO(fail, status, syi_gguf_put_str(w, "general.architecture", "test", -1));
    SYI_TRY_TO(fail, status, syi_gguf_put_u32(w, "test.number", 7));
    for (int i = 0; i < TENSORS; i++) {
        snprintf(name, sizeof name, "t%d", i);
        SYI_TRY_TO(fail, status, syi_gguf_declare(w, name, i % 2 ? SY_F16 : SY_F32, 2, (const int64_t[]){rows_of(i), COLS}));
    }
    syi_gguf_split(w, split);
    SYI_TRY_TO(fail, status, syi_gguf_begin(w));
    if (files != NULL) *files = syi_gguf_files(w);
    for (int i = TENSORS - 1; i >= 0; i--)
        for (int64_t r = 0; r < rows_of(i); r++) {
            snprintf(name, sizeof name, "t%d", i);
            for (int k = 0; k < COLS; k++) row[k] = (float)(i * 100 + r * 2 + k);
            SYI_TRY_TO(fail, status, syi_gguf_put_rows(w, name, r, 1, row));
        }
    return syi_gguf_end(w);
fail:
    syi_gguf_writer_abort(w);
    return status;
}

static void check_model(const char *path)
{
    syi_gguf *g = NULL;
    int64_t n = 0;
    char name[16];
    float row[COLS];
    if (syi_gguf_open(ctx, path, &g) != SY_OK) fail_msg("%s", sy_error_message(ctx));
    assert_int_equal(syi_gguf_tensors(g), TENSORS);
    assert_true(syi_gguf_int(g, "test.number", &n) && n == 7);
    for (int i = 0; i < TENSORS; i++) {
        snprintf(name, sizeof name, "t%d", i);
        const sy_entry *e = syi_gguf_find(g, name);
        assert_ptr_equal(e, syi_gguf_tensor(g, i)); /* in their order */
        for (int64_t r = 0; r < rows_of(i); r++) {
            assert_int_equal(sy_entry_read_f32(ctx, e, r, 1, row), SY_OK);
            for (int k = 0; k < COLS; k++) assert_true(row[k] == (float)(i * 100 + r * 2 + k));
        }
    }
    syi_gguf_close(g);
}

static const char *part(const char *stem, int i, int n)
{
    char name[64];
    snprintf(name, sizeof name, "%s-%05d-of-%05d.gguf", stem, i, n);
    return scratch_path(dir, name);
}

static void there_and_back(void **state)
{
    (void)state;
    int files = 0;
    assert_int_equal(write_model(ctx, scratch_path(dir, "one.gguf"), 0, &files), SY_OK);
    assert_int_equal(files, 1);
    check_model(scratch_path(dir, "one.gguf"));
    assert_int_equal(write_model(ctx, scratch_path(dir, "big.gguf"), 1 << 20, &files), SY_OK);
    assert_int_equal(files, 1); /* all of it fits: the plain name */
    check_model(scratch_path(dir, "big.gguf"));
    assert_int_equal(write_model(ctx, scratch_path(dir, "m.gguf"), 4096, &files), SY_OK);
    assert_true(files > 3 && files < TENSORS);
    assert_false(syi_exists(scratch_path(dir, "m.gguf")));
    int64_t large = 0;
    for (int i = 1; i <= files; i++) {
        large += syi_file_size(part("m", i, files)) > 4096;
        check_model(part("m", i, files)); /* whichever part is named */
    }
    assert_int_equal(large, 1); /* the tensor that is larger alone */
}

static void refused(const char *path, const char *says)
{
    syi_gguf *g = NULL;
    assert_int_equal(syi_gguf_open(ctx, path, &g), SY_E_INPUT);
    assert_null(g);
    if (strstr(sy_error_message(ctx), says) == NULL) fail_msg("\"%s\" does not say \"%s\"", sy_error_message(ctx), says);
}

static void broken(void **state)
{
    (void)state;
    int files = 0, other = 0;
    assert_int_equal(write_model(ctx, scratch_path(dir, "b.gguf"), 4096, &files), SY_OK);
    char first[600], second[600], third[600], aside[600];
    snprintf(first, sizeof first, "%s", part("b", 1, files));
    snprintf(second, sizeof second, "%s", part("b", 2, files));
    snprintf(third, sizeof third, "%s", part("b", 3, files));
    snprintf(aside, sizeof aside, "%s", scratch_path(dir, "aside"));
    assert_int_equal(syi_rename(ctx, second, aside), SY_OK);
    refused(first, "this part is missing");
    refused(third, "this part is missing");
    assert_int_equal(syi_copy_file(ctx, third, second), SY_OK);
    refused(first, "do not belong together");
    assert_int_equal(syi_copy_file(ctx, aside, second), SY_OK);
    assert_int_equal(syi_rename(ctx, first, scratch_path(dir, "first.gguf")), SY_OK);
    refused(second, "this part is missing");
    refused(scratch_path(dir, "first.gguf"), "was expected");
    assert_int_equal(write_model(ctx, scratch_path(dir, "c.gguf"), 3000, &other), SY_OK);
    assert_true(other > files);
    assert_int_equal(syi_copy_file(ctx, part("c", 1, other), first), SY_OK); /* says another number of parts than its name */
    refused(first, "was expected");
}

typedef struct { const char *path; int64_t split; } work;
static sy_status write_and_read(sy_context *c, void *self)
{
    const work *w = self;
    int files = 1;
    syi_gguf *g = NULL;
    SYI_TRY(write_model(c, w->path, w->split, &files));
    SYI_TRY(syi_gguf_open(c, part("t", 1, files), &g));
    syi_gguf_close(g);
    return SY_OK;
}

static void torture(void **state)
{
    (void)state;
    char path[600];
    snprintf(path, sizeof path, "%s", scratch_path(dir, "t.gguf"));
    work w = {path, 4096};
    assert_true(torture_memory(ctx, write_and_read, &w) > 10);
    assert_true(torture_disk(ctx, write_and_read, NULL, &w) > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(there_and_back), cmocka_unit_test(broken), cmocka_unit_test(torture)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
