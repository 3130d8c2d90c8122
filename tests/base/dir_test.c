/* SPDX-License-Identifier: Apache-2.0 */
/* Folders: made, listed, removed, and replaced as a whole: at no moment, also
 * not for a process that dies, is there half a folder in the place. */
#include "support/folder.h"
#include "support/torture.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void put(sy_context *ctx, const char *dir, const char *name, const char *text)
{
    char *path = syi_join(ctx, dir, name);
    assert_int_equal(syi_write_file(ctx, path, text, (int64_t)strlen(text)), SY_OK);
    syi_free(ctx, path);
}

static bool holds(sy_context *ctx, const char *dir, const char *name, const char *text)
{
    char *path = syi_join(ctx, dir, name), *found = NULL;
    bool same = syi_exists(path) && syi_read_file(ctx, path, 1 << 20, &found, NULL) == SY_OK && strcmp(found, text) == 0;
    syi_free(ctx, found);
    syi_free(ctx, path);
    return same;
}

static void mkdirs(void **state)
{
    test_folder *f = *state;
    char path[512];
    assert_int_equal(syi_mkdirs(f->ctx, in_folder(f, path, "a/b//c/")), SY_OK);
    assert_true(syi_is_dir(in_folder(f, path, "a/b/c")));
    assert_int_equal(syi_mkdirs(f->ctx, path), SY_OK);
    assert_int_equal(syi_mkdirs(f->ctx, "."), SY_OK);
    assert_int_equal(syi_mkdirs(f->ctx, "/"), SY_OK);
    put(f->ctx, path, "file", "x");
    assert_int_equal(syi_mkdirs(f->ctx, in_folder(f, path, "a/b/c/file/d")), SY_E_IO);
    assert_non_null(strstr(sy_error_message(f->ctx), "a/b/c/file"));
}

static void lists(void **state)
{
    test_folder *f = *state;
    static const char *const sorted[] = {".hidden", "B", "a", "b", "sub"};
    char path[512], **names = NULL;
    int n = 0;
    put(f->ctx, f->dir, "b", "");
    put(f->ctx, f->dir, "a", "");
    put(f->ctx, f->dir, ".hidden", "");
    put(f->ctx, f->dir, "B", "");
    assert_int_equal(syi_mkdirs(f->ctx, in_folder(f, path, "sub")), SY_OK);
    assert_int_equal(syi_list_dir(f->ctx, f->dir, &names, &n), SY_OK);
    assert_int_equal(n, SYI_COUNT(sorted));
    for (int i = 0; i < n; i++) {
        assert_string_equal(names[i], sorted[i]);
        syi_free(f->ctx, names[i]);
    }
    syi_free(f->ctx, names);
    assert_int_equal(syi_list_dir(f->ctx, path, &names, &n), SY_OK);
    assert_int_equal(n, 0);
    syi_free(f->ctx, names);
    assert_int_equal(syi_list_dir(f->ctx, in_folder(f, path, "none"), &names, &n), SY_E_INPUT);
    assert_null(names);
}

static void removes(void **state)
{
    test_folder *f = *state;
    char tree[512], path[512], outside[512];
    assert_int_equal(syi_mkdirs(f->ctx, in_folder(f, path, "t/u/v")), SY_OK);
    assert_int_equal(syi_mkdirs(f->ctx, in_folder(f, outside, "outside")), SY_OK);
    put(f->ctx, outside, "precious", "x");
    put(f->ctx, path, "file", "x");
    assert_int_equal(symlink(outside, in_folder(f, path, "t/link")), 0); /* not followed */
    assert_int_equal(symlink("nowhere", in_folder(f, path, "t/u/dangling")), 0);
    assert_int_equal(syi_remove_tree(f->ctx, in_folder(f, tree, "t")), SY_OK);
    assert_false(syi_exists(tree));
    assert_true(holds(f->ctx, outside, "precious", "x"));
    assert_int_equal(syi_remove_tree(f->ctx, tree), SY_OK); /* absent is fine */
    assert_int_equal(syi_remove_tree(f->ctx, outside), SY_OK);
    assert_int_equal(count_entries(f->ctx, f->dir), 0);
}

static sy_status make(sy_context *ctx, const char *place, bool replace, const char *text)
{
    syi_dir d;
    char *a = NULL, *sub = NULL, *b = NULL;
    SYI_TRY(syi_dir_begin(ctx, place, replace, &d));
    sy_status status = SY_E_MEMORY;
    if ((a = syi_join(ctx, d.work, "a")) == NULL || (sub = syi_join(ctx, d.work, "sub")) == NULL ||
        (b = syi_join(ctx, sub, "b")) == NULL)
        goto end;
    SYI_TRY_TO(end, status, syi_write_file(ctx, a, text, (int64_t)strlen(text)));
    SYI_TRY_TO(end, status, syi_mkdirs(ctx, sub));
    SYI_TRY_TO(end, status, syi_write_file(ctx, b, text, (int64_t)strlen(text)));
end:
    syi_free(ctx, a);
    syi_free(ctx, sub);
    syi_free(ctx, b);
    if (status == SY_OK) return syi_dir_commit(&d);
    syi_dir_abort(&d);
    return status;
}

/* Complete, with one text in both files? */
static bool whole(sy_context *ctx, const char *place, const char *text)
{
    return holds(ctx, place, "a", text) && holds(ctx, place, "sub/b", text);
}

static void replaces(void **state)
{
    test_folder *f = *state;
    char place[512], path[512];
    in_folder(f, place, "new/run");
    assert_int_equal(make(f->ctx, place, false, "1"), SY_OK);
    assert_true(whole(f->ctx, place, "1"));
    assert_int_equal(make(f->ctx, place, false, "2"), SY_E_USAGE);
    assert_non_null(strstr(sy_error_message(f->ctx), "found one with files in it"));
    put(f->ctx, place, "extra", "x");
    assert_int_equal(make(f->ctx, place, true, "2"), SY_OK);
    assert_true(whole(f->ctx, place, "2"));
    assert_false(holds(f->ctx, place, "extra", "x")); /* the old folder is gone */
    assert_int_equal(count_entries(f->ctx, in_folder(f, path, "new")), 1);
    /* an empty folder in the place, a trailing slash */
    assert_int_equal(syi_mkdirs(f->ctx, in_folder(f, path, "empty")), SY_OK);
    assert_int_equal(make(f->ctx, in_folder(f, path, "empty/"), false, "3"), SY_OK);
    assert_true(whole(f->ctx, path, "3"));
    /* never over a file; never without a name */
    put(f->ctx, f->dir, "file", "x");
    assert_int_equal(make(f->ctx, in_folder(f, path, "file"), true, "4"), SY_E_USAGE);
    assert_int_equal(make(f->ctx, "", true, "4"), SY_E_USAGE);
    assert_int_equal(make(f->ctx, in_folder(f, path, "."), true, "4"), SY_E_USAGE);
    assert_int_equal(make(f->ctx, "/", true, "4"), SY_E_USAGE);
    assert_int_equal(count_entries(f->ctx, f->dir), 3);
}

static void aborts(void **state)
{
    test_folder *f = *state;
    char place[512];
    syi_dir d, zero = {0};
    in_folder(f, place, "run");
    assert_int_equal(syi_dir_begin(f->ctx, place, false, &d), SY_OK);
    put(f->ctx, d.work, "a", "x");
    assert_false(syi_exists(place));
    syi_dir_abort(&d);
    syi_dir_abort(&d);
    syi_dir_abort(&zero);
    assert_int_equal(syi_dir_commit(&zero), SY_OK);
    assert_int_equal(count_entries(f->ctx, f->dir), 0);
    assert_int_equal(syi_dir_begin(f->ctx, place, false, &d), SY_OK);
    assert_int_equal(syi_dir_commit(&d), SY_OK);
    syi_dir_abort(&d);
    assert_true(syi_is_dir(place));
    /* somebody else fills the place while we work */
    assert_int_equal(syi_dir_begin(f->ctx, place, false, &d), SY_OK);
    put(f->ctx, place, "theirs", "x");
    assert_int_equal(syi_dir_commit(&d), SY_E_USAGE);
    assert_true(holds(f->ctx, place, "theirs", "x"));
    assert_int_equal(count_entries(f->ctx, f->dir), 1);
}

typedef struct { char path[512]; const char *dir, *next; } target;

static sy_status replace(sy_context *ctx, void *self)
{
    return make(ctx, ((target *)self)->path, true, ((target *)self)->next);
}

static void never_half(sy_context *ctx, void *self)
{
    target *t = self;
    assert_true(whole(ctx, t->path, "old") || whole(ctx, t->path, t->next));
    assert_int_equal(count_entries(ctx, t->dir), 1); /* no temporaries */
}

static void torture(void **state)
{
    test_folder *f = *state;
    target t = {.dir = f->dir, .next = "new"};
    in_folder(f, t.path, "run");
    assert_int_equal(make(f->ctx, t.path, false, "old"), SY_OK);
    assert_true(torture_disk(f->ctx, replace, never_half, &t) >= 10);
    assert_true(whole(f->ctx, t.path, "new"));
    assert_int_equal(make(f->ctx, t.path, true, "old"), SY_OK);
    assert_true(torture_memory(f->ctx, replace, &t) >= 15);
    never_half(f->ctx, &t);
}

static void death(void **state)
{
    test_folder *f = *state;
    target t = {.dir = f->dir, .next = "new"};
    int died = 0;
    in_folder(f, t.path, "run");
    assert_int_equal(make(f->ctx, t.path, false, "old"), SY_OK);
    for (int n = 1; n < 60; n++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            syi_file_fail_after(f->ctx, n, SYI_DISK_DIE);
            _exit(replace(f->ctx, &t) == SY_OK ? 0 : 1);
        }
        int how = 0;
        assert_int_equal(waitpid(child, &how, 0), child);
        if (WIFEXITED(how)) {
            assert_int_equal(WEXITSTATUS(how), 0);
            break;
        }
        assert_int_equal(WTERMSIG(how), SIGKILL);
        died++;
        assert_true(whole(f->ctx, t.path, "old") || whole(f->ctx, t.path, "new"));
        assert_int_equal(make(f->ctx, t.path, true, "old"), SY_OK); /* cleans up */
        assert_int_equal(count_entries(f->ctx, f->dir), 1);
    }
    assert_in_range(died, 10, 58);
}

/* Killed between the two renames (systems without an exchange): the old folder
 * is brought back by the next begin, or removed if the new one is there. */
static void recovers(void **state)
{
    test_folder *f = *state;
    char place[512], old[512];
    syi_dir d;
    in_folder(f, place, "run");
    in_folder(f, old, ".run.old-99999999-3");
    assert_int_equal(make(f->ctx, old, false, "saved"), SY_OK);
    assert_int_equal(syi_dir_begin(f->ctx, place, true, &d), SY_OK);
    assert_true(whole(f->ctx, place, "saved"));
    syi_dir_abort(&d);
    assert_int_equal(make(f->ctx, old, false, "older"), SY_OK);
    assert_int_equal(make(f->ctx, place, true, "new"), SY_OK);
    assert_true(whole(f->ctx, place, "new"));
    assert_int_equal(count_entries(f->ctx, f->dir), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(mkdirs), folder_test(lists),   folder_test(removes), folder_test(replaces),
        folder_test(aborts), folder_test(torture), folder_test(death),   folder_test(recovers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
