/* SPDX-License-Identifier: Apache-2.0 */
/* Files: contents, atomicity under every failing write, short writes and death,
 * appended logs, left-over temporaries. */
#include "support/folder.h"
#include "support/torture.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void read_all(sy_context *ctx, const char *path, const char *expected, int64_t n)
{
    char *text = NULL;
    int64_t size = 0;
    assert_int_equal(syi_read_file(ctx, path, 1 << 26, &text, &size), SY_OK);
    assert_int_equal(size, n);
    assert_memory_equal(text, expected, (size_t)n);
    assert_int_equal(text[n], 0);
    syi_free(ctx, text);
}

/* A file of 1 MiB and some, written in pieces of many sizes, then patched. */
enum { BIG = (1 << 20) + 4321 };

static void big_bytes(char *out)
{
    for (int i = 0; i < BIG; i++) out[i] = (char)(i * 7 + i / 300);
}

static sy_status write_big(sy_context *ctx, const char *path)
{
    static char bytes[BIG];
    big_bytes(bytes);
    syi_file *f = NULL;
    SYI_TRY(syi_file_create(ctx, path, &f));
    sy_status status = syi_file_reserve(f, BIG);
    int64_t at = 0;
    for (int64_t i = 0; status == SY_OK && at < BIG; i++) {
        int64_t n = syi_min(BIG - at, (int64_t)(syi_random_u64(3, i) % (i % 5 == 0 ? 400000 : 3000)));
        if (i == 3) { /* written wrong first, corrected below */
            char wrong[4000] = {1, 2, 3};
            status = syi_file_write(f, wrong, syi_min(n, 4000));
            if (status == SY_OK) status = syi_file_write_at(f, at, bytes + at, syi_min(n, 4000));
            n = syi_min(n, 4000);
        } else {
            status = syi_file_write(f, bytes + at, n);
        }
        at += n;
    }
    if (status == SY_OK) return syi_file_commit(f);
    syi_file_abort(f);
    return status;
}

static void check_big(sy_context *ctx, const char *path)
{
    static char bytes[BIG];
    big_bytes(bytes);
    read_all(ctx, path, bytes, BIG);
}

static void writes(void **state)
{
    test_folder *f = *state;
    char path[512];
    in_folder(f, path, "big");
    assert_int_equal(write_big(f->ctx, path), SY_OK);
    check_big(f->ctx, path);
    assert_int_equal(count_entries(f->ctx, f->dir), 1);
    assert_int_equal(syi_write_file(f->ctx, path, "small", 5), SY_OK); /* replaces */
    read_all(f->ctx, path, "small", 5);
    assert_int_equal(syi_write_file(f->ctx, path, NULL, 0), SY_OK);
    assert_int_equal(syi_file_size(path), 0);
    struct stat st;
    mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0666 & ~mask); /* readable as any file */
}

/* More reserved than written: the file does not keep the blocks. */
static void reserved(void **state)
{
    test_folder *f = *state;
    char path[512];
    struct stat st;
    syi_file *w = NULL;
    in_folder(f, path, "x");
    assert_int_equal(syi_file_create(f->ctx, path, &w), SY_OK);
    assert_int_equal(syi_file_reserve(w, 8 << 20), SY_OK);
    assert_int_equal(syi_file_write(w, "abc", 3), SY_OK);
    assert_int_equal(syi_file_commit(w), SY_OK);
    read_all(f->ctx, path, "abc", 3);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_blocks * 512 < 1 << 20);
    /* more than any disk has */
    assert_int_equal(syi_file_create(f->ctx, path, &w), SY_OK);
    assert_int_equal(syi_file_reserve(w, INT64_C(1) << 60), SY_E_IO);
    assert_non_null(strstr(sy_error_message(f->ctx), "reserve 1.0 EiB"));
    syi_file_abort(w);
    read_all(f->ctx, path, "abc", 3);
}

static void invisible_until_commit(void **state)
{
    test_folder *f = *state;
    char path[512];
    syi_file *w = NULL;
    in_folder(f, path, "x");
    assert_int_equal(syi_write_file(f->ctx, path, "old", 3), SY_OK);
    assert_int_equal(syi_file_create(f->ctx, path, &w), SY_OK);
    assert_int_equal(syi_file_write(w, "new", 3), SY_OK);
    read_all(f->ctx, path, "old", 3);
    syi_file_abort(w);
    read_all(f->ctx, path, "old", 3);
    assert_int_equal(count_entries(f->ctx, f->dir), 1);
    syi_file_abort(NULL);
    /* two writers of one name: the last commit wins, both are whole */
    syi_file *v = NULL;
    assert_int_equal(syi_file_create(f->ctx, path, &w), SY_OK);
    assert_int_equal(syi_file_create(f->ctx, path, &v), SY_OK);
    assert_int_equal(syi_file_write(w, "one", 3), SY_OK);
    assert_int_equal(syi_file_write(v, "second", 6), SY_OK);
    assert_int_equal(syi_file_commit(w), SY_OK);
    assert_int_equal(syi_file_commit(v), SY_OK);
    read_all(f->ctx, path, "second", 6);
    assert_int_equal(count_entries(f->ctx, f->dir), 1);
}

typedef struct { char path[512]; const char *dir; } place;

static sy_status work(sy_context *ctx, void *self)
{
    return write_big(ctx, ((place *)self)->path);
}

/* After a failure nothing but the old file is there. */
static void untouched(sy_context *ctx, void *self)
{
    place *p = self;
    assert_int_equal(count_entries(ctx, p->dir), 1);
    read_all(ctx, p->path, "old", 3);
}

static void disk_torture(void **state)
{
    test_folder *f = *state;
    place p = {.dir = f->dir};
    in_folder(f, p.path, "x");
    assert_int_equal(syi_write_file(f->ctx, p.path, "old", 3), SY_OK);
    /* The last change is the sync of the folder: the new file is in its place
     * by then, complete, and the caller learns that it may not be durable. */
    int changes = 0;
    for (int n = 1;; n++) {
        syi_file_fail_after(f->ctx, n, ENOSPC);
        sy_status status = work(f->ctx, &p);
        syi_file_fail_after(f->ctx, 0, 0);
        assert_int_equal(count_entries(f->ctx, f->dir), 1);
        if (status == SY_OK) break;
        assert_int_equal(status, SY_E_IO);
        assert_non_null(strstr(sy_error_message(f->ctx), "free some space"));
        if (syi_file_size(p.path) == 3) untouched(f->ctx, &p);
        else check_big(f->ctx, p.path);
        changes = n;
    }
    assert_true(changes >= 8);
    assert_int_equal(syi_write_file(f->ctx, p.path, "old", 3), SY_OK);
    assert_true(torture_memory(f->ctx, work, &p) >= 6);
    check_big(f->ctx, p.path);
    assert_int_equal(count_entries(f->ctx, f->dir), 1);
}

static void short_writes(void **state)
{
    test_folder *f = *state;
    char path[512];
    in_folder(f, path, "x");
    for (int n = 1; n < 12; n++) {
        syi_file_fail_after(f->ctx, n, SYI_DISK_SHORT);
        assert_int_equal(write_big(f->ctx, path), SY_OK);
        check_big(f->ctx, path);
    }
    syi_file_fail_after(f->ctx, 0, 0);
}

/* A process that dies at the n-th change leaves the old file or the new one,
 * and its temporary goes away with the next write. */
static void death(void **state)
{
    test_folder *f = *state;
    char path[512];
    in_folder(f, path, "x");
    int died = 0;
    for (int n = 1; n < 40; n++) {
        assert_int_equal(syi_write_file(f->ctx, path, "old", 3), SY_OK);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            syi_file_fail_after(f->ctx, n, SYI_DISK_DIE);
            _exit(write_big(f->ctx, path) == SY_OK ? 0 : 1);
        }
        int how = 0;
        assert_int_equal(waitpid(child, &how, 0), child);
        if (WIFEXITED(how)) {
            assert_int_equal(WEXITSTATUS(how), 0);
            break;
        }
        assert_int_equal(WTERMSIG(how), SIGKILL);
        died++;
        if (syi_file_size(path) == 3) read_all(f->ctx, path, "old", 3);
        else check_big(f->ctx, path);
        assert_in_range(count_entries(f->ctx, f->dir), 1, 2);
        assert_int_equal(syi_write_file(f->ctx, path, "next", 4), SY_OK);
        assert_int_equal(count_entries(f->ctx, f->dir), 1);
    }
    assert_in_range(died, 8, 38);
}

/* A temporary of a living process, or a file that only looks like one, stays. */
static void foreign_names(void **state)
{
    test_folder *f = *state;
    char path[512], other[512], name[64];
    in_folder(f, path, "x");
    static const char *const kept[] = {".x.tmp-", ".x.tmp-1", ".x.tmp-0-1", ".x.tmp-99999999-", ".x.tmp-99999999-1a",
                                       ".y.tmp-99999999-1", "x.tmp-99999999-1", ".xx.tmp-99999999-1"};
    for (int i = 0; i < SYI_COUNT(kept); i++) fclose(fopen(in_folder(f, other, kept[i]), "w"));
    snprintf(name, sizeof name, ".x.tmp-%ld-0", (long)getppid());
    fclose(fopen(in_folder(f, other, name), "w"));
    fclose(fopen(in_folder(f, other, ".x.tmp-99999999-1"), "w")); /* beyond pid_max: dead */
    assert_int_equal(syi_write_file(f->ctx, path, "x", 1), SY_OK);
    assert_int_equal(count_entries(f->ctx, f->dir), SYI_COUNT(kept) + 2);
    assert_false(syi_exists(other));
}

static void refuses(void **state)
{
    test_folder *f = *state;
    sy_context *ctx = f->ctx;
    char path[512], *text = NULL;
    syi_mapped m;
    assert_int_equal(syi_write_file(ctx, f->dir, "x", 1), SY_E_IO);
    assert_int_equal(syi_write_file(ctx, "", "x", 1), SY_E_IO);
    assert_int_equal(syi_write_file(ctx, in_folder(f, path, "no/such/x"), "x", 1), SY_E_IO);
    assert_non_null(strstr(sy_error_message(ctx), path));
    assert_int_equal(syi_read_file(ctx, path, 10, &text, NULL), SY_E_INPUT);
    assert_int_equal(syi_map_file(ctx, path, &m), SY_E_INPUT);
    assert_non_null(strstr(sy_error_message(ctx), "No such file"));
    assert_int_equal(syi_map_file(ctx, f->dir, &m), SY_E_INPUT);
    assert_non_null(strstr(sy_error_message(ctx), "found a folder"));
    assert_int_equal(mkfifo(in_folder(f, path, "pipe"), 0600), 0);
    assert_int_equal(syi_read_file(ctx, path, 10, &text, NULL), SY_E_INPUT); /* and does not hang */
    assert_int_equal(syi_write_file(ctx, in_folder(f, path, "x"), "0123456789", 10), SY_OK);
    assert_int_equal(syi_read_file(ctx, path, 9, &text, NULL), SY_E_INPUT);
    assert_null(text);
    assert_non_null(strstr(sy_error_message(ctx), "at most 9 B, found 10 B"));
    if (geteuid() != 0) { /* root may read everything */
        assert_int_equal(chmod(path, 0), 0);
        assert_int_equal(syi_map_file(ctx, path, &m), SY_E_INPUT);
        assert_non_null(strstr(sy_error_message(ctx), "permissions"));
    }
}

static void maps(void **state)
{
    test_folder *f = *state;
    char path[512];
    syi_mapped m;
    in_folder(f, path, "x");
    assert_int_equal(syi_write_file(f->ctx, path, "abc", 3), SY_OK);
    char head[8] = "-------";
    assert_int_equal(syi_peek_file(path, head, 2), 2);
    assert_string_equal(head, "ab-----");
    assert_int_equal(syi_peek_file(path, head, 7), 3);
    assert_int_equal(syi_peek_file(f->dir, head, 2), -1);
    assert_int_equal(syi_peek_file("/no/such/file", head, 2), -1);
    assert_int_equal(syi_map_file(f->ctx, path, &m), SY_OK);
    assert_int_equal(m.size, 3);
    assert_memory_equal(m.data, "abc", 3);
    assert_string_equal(m.path, path);
    /* a new file under the name does not change what is mapped */
    assert_int_equal(syi_write_file(f->ctx, path, "xyz!", 4), SY_OK);
    assert_memory_equal(m.data, "abc", 3);
    syi_unmap_file(f->ctx, &m);
    syi_unmap_file(f->ctx, &m);
    assert_int_equal(syi_write_file(f->ctx, path, "", 0), SY_OK);
    assert_int_equal(syi_map_file(f->ctx, path, &m), SY_OK);
    assert_int_equal(m.size, 0);
    assert_non_null(m.data);
    syi_unmap_file(f->ctx, &m);
    sy_memory_fail_after(f->ctx, 1);
    assert_int_equal(syi_map_file(f->ctx, path, &m), SY_E_MEMORY);
}

static void copies(void **state)
{
    test_folder *f = *state;
    char from[512], to[512];
    in_folder(f, from, "a");
    in_folder(f, to, "b");
    assert_int_equal(write_big(f->ctx, from), SY_OK);
    assert_int_equal(syi_copy_file(f->ctx, from, to), SY_OK);
    check_big(f->ctx, to);
    assert_int_equal(syi_copy_file(f->ctx, in_folder(f, to, "none"), from), SY_E_INPUT);
    check_big(f->ctx, from);
}

static void appends(void **state)
{
    test_folder *f = *state;
    sy_context *ctx = f->ctx;
    char path[512];
    syi_appender *a = NULL;
    in_folder(f, path, "log");
    assert_int_equal(syi_append_open(ctx, path, -1, &a), SY_OK);
    assert_int_equal(syi_append(a, "one\n", 4), SY_OK);
    assert_int_equal(syi_append(a, "two\n", 4), SY_OK);
    assert_int_equal(syi_append_size(a), 8);
    assert_int_equal(syi_append_close(a, true), SY_OK);
    assert_int_equal(syi_append_open(ctx, path, 4, &a), SY_OK); /* resume after "one" */
    assert_int_equal(syi_append(a, "three\n", 6), SY_OK);
    syi_file_fail_after(ctx, 1, SYI_DISK_SHORT);
    assert_int_equal(syi_append(a, "four\n", 5), SY_OK);
    syi_file_fail_after(ctx, 1, ENOSPC);
    assert_int_equal(syi_append(a, "lost\n", 5), SY_E_IO);
    assert_int_equal(syi_append_size(a), 15);
    assert_int_equal(syi_append(a, "five\n", 5), SY_OK);
    assert_int_equal(syi_append_close(a, false), SY_OK);
    read_all(ctx, path, "one\nthree\nfour\nfive\n", 20);
    assert_int_equal(syi_append_open(ctx, path, 21, &a), SY_E_INPUT);
    assert_null(a);
    assert_int_equal(syi_append_open(ctx, f->dir, -1, &a), SY_E_IO);
    assert_int_equal(syi_append_close(NULL, true), SY_OK);
}

static sy_status append_work(sy_context *ctx, void *self)
{
    syi_appender *a = NULL;
    SYI_TRY(syi_append_open(ctx, self, 0, &a));
    sy_status status = syi_append(a, "x", 1), closed = syi_append_close(a, true);
    return status != SY_OK ? status : closed;
}

static void append_torture(void **state)
{
    test_folder *f = *state;
    char path[512];
    in_folder(f, path, "log");
    assert_int_equal(torture_memory(f->ctx, append_work, path), 2);
    assert_true(torture_disk(f->ctx, append_work, NULL, path) >= 3);
}

static void paths(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    static const struct { const char *dir, *name, *joined; } rows[] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}, {"a", "/b", "/b"}};
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        char *s = syi_join(ctx, rows[i].dir, rows[i].name);
        assert_string_equal(s, rows[i].joined);
        syi_free(ctx, s);
    }
    assert_string_equal(syi_basename("a/b.txt"), "b.txt");
    assert_string_equal(syi_basename("b.txt"), "b.txt");
    assert_string_equal(syi_basename("a/"), "");
    assert_int_equal(syi_file_size("/no/such/file"), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(writes), folder_test(reserved),      folder_test(invisible_until_commit), folder_test(disk_torture),
        folder_test(short_writes), folder_test(death),                  folder_test(foreign_names),
        folder_test(refuses),      folder_test(maps),                   folder_test(copies),
        folder_test(appends),      folder_test(append_torture),         folder_test(paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
