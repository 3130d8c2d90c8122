/* SPDX-License-Identifier: Apache-2.0 */
/* Folders: made, listed, removed, and replaced as a whole. A work folder
 * ".NAME.tmp-PID-N" lies beside its place and holds a lock while its process
 * lives, so that what a killed process left can be told and removed. */
#include "private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __APPLE__
#include <sys/stdio.h>
#endif

sy_status syi_mkdirs(sy_context *ctx, const char *path)
{
    char *copy = syi_strdup(ctx, path);
    if (copy == NULL) return SY_E_MEMORY;
    sy_status status = SY_OK;
    for (char *p = copy; status == SY_OK && *p != '\0';) {
        while (*p == '/') p++;
        while (*p != '\0' && *p != '/') p++;
        char end = *p;
        *p = '\0';
        if (copy[0] != '\0' && !syi_is_dir(copy)) {
            if (syi_disk_trip(ctx, NULL) || (mkdir(copy, 0777) != 0 && !(errno == EEXIST && syi_is_dir(copy))))
                status = syi_fail_errno(ctx, SY_E_IO, "make folder", copy);
        }
        *p = end;
    }
    syi_free(ctx, copy);
    return status;
}

sy_status syi_rename(sy_context *ctx, const char *from, const char *to)
{
    if (syi_disk_trip(ctx, NULL) || rename(from, to) != 0) {
        char *place = syi_format(ctx, "%s to %s", from, to);
        if (place == NULL) return SY_E_MEMORY;
        sy_status status = syi_fail_errno(ctx, SY_E_IO, "rename", place);
        syi_free(ctx, place);
        return status;
    }
    return SY_OK;
}

/* -- listing ------------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void free_names(sy_context *ctx, char **names, int64_t n)
{
    for (int64_t i = 0; i < n; i++) syi_free(ctx, names[i]);
    syi_free(ctx, names);
}

sy_status syi_list_dir(sy_context *ctx, const char *path, char ***names, int *n)
{
    *names = NULL;
    *n = 0;
    DIR *dir = opendir(path);
    if (dir == NULL) return syi_fail_errno(ctx, SY_E_INPUT, "open folder", path);
    void *list = NULL;
    int64_t count = 0, cap = 0;
    sy_status status = SY_OK;
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(dir);
        if (e == NULL) {
            if (errno != 0) status = syi_fail_errno(ctx, SY_E_IO, "read folder", path);
            break;
        }
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        status = syi_grow(ctx, &list, &cap, count + 1, sizeof(char *), 1 << 24);
        if (status != SY_OK) break;
        char *copy = syi_strdup(ctx, e->d_name);
        if (copy == NULL) {
            status = SY_E_MEMORY;
            break;
        }
        ((char **)list)[count++] = copy;
    }
    closedir(dir);
    if (status != SY_OK) {
        free_names(ctx, list, count);
        return status;
    }
    if (list == NULL && (list = syi_alloc(ctx, sizeof(char *))) == NULL) return SY_E_MEMORY;
    qsort(list, (size_t)count, sizeof(char *), by_name);
    *names = list;
    *n = (int)count;
    return SY_OK;
}

/* -- removing ----------------------------------------------------------------- */

/* Removes `name` in the folder `at`, whatever it is; never follows a link.
 * False with errno set. */
static bool remove_at(int at, const char *name)
{
    if (unlinkat(at, name, 0) == 0 || errno == ENOENT) return true;
    if (errno != EISDIR && errno != EPERM) return false; /* Linux; POSIX */
    int error = errno;
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOTDIR) errno = error;
        return errno == ENOENT;
    }
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        error = errno;
        close(fd);
        errno = error;
        return false;
    }
    bool fine = true;
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(dir);
        if (e == NULL) {
            fine = errno == 0;
            break;
        }
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (!(fine = remove_at(dirfd(dir), e->d_name))) break;
    }
    error = errno;
    closedir(dir);
    errno = error;
    return fine && (unlinkat(at, name, AT_REMOVEDIR) == 0 || errno == ENOENT);
}

sy_status syi_remove_tree(sy_context *ctx, const char *path)
{
    if (!remove_at(AT_FDCWD, path)) return syi_fail_errno(ctx, SY_E_IO, "remove", path);
    return SY_OK;
}

/* The process number in ".NAME.tmp-PID-N" (or ".old-"), 0: another name. */
static long owner_of(const char *entry, const char *name, const char *kind)
{
    size_t n = strlen(name), k = strlen(kind);
    if (entry[0] != '.' || strncmp(entry + 1, name, n) != 0 || strncmp(entry + 1 + n, kind, k) != 0) return 0;
    char *end = NULL;
    long pid = strtol(entry + 1 + n + k, &end, 10);
    if (pid <= 0 || *end != '-' || end[1] == '\0' || end[1 + strspn(end + 1, "0123456789")] != '\0') return 0;
    return pid;
}

/* Nobody has the number and nobody holds the lock: it is left over. The lock
 * also tells processes of other PID namespaces apart. */
static bool is_stale(int at, const char *entry, long pid)
{
    if (kill((pid_t)pid, 0) == 0 || errno != ESRCH) return false;
    int fd = openat(at, entry, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return false;
    bool free = flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    return free;
}

/* Removing what others left is a courtesy: failures are not reported, and no
 * memory is taken. */
void syi_remove_stale(const char *path)
{
    const char *slash = strrchr(path, '/');
    char parent[4096] = ".";
    if (slash != NULL) {
        size_t n = slash == path ? 1 : (size_t)(slash - path);
        if (n >= sizeof parent) return;
        memcpy(parent, path, n);
        parent[n] = '\0';
    }
    DIR *dir = opendir(parent);
    if (dir == NULL) return;
    const char *name = syi_basename(path);
    struct dirent *e;
    while ((e = readdir(dir)) != NULL) {
        long pid = owner_of(e->d_name, name, ".tmp-");
        if (pid != 0 && is_stale(dirfd(dir), e->d_name, pid)) remove_at(dirfd(dir), e->d_name);
        pid = owner_of(e->d_name, name, ".old-");
        if (pid != 0 && is_stale(dirfd(dir), e->d_name, pid)) {
            /* Killed between the two renames of a replacement: the old folder
             * is the only complete one, and goes back to its place. */
            if (faccessat(dirfd(dir), name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) remove_at(dirfd(dir), e->d_name);
            else renameat(dirfd(dir), e->d_name, dirfd(dir), name);
        }
    }
    closedir(dir);
}

/* -- replacing ----------------------------------------------------------------- */

static bool is_empty(const char *path)
{
    DIR *dir = opendir(path);
    if (dir == NULL) return false;
    struct dirent *e;
    bool empty = true;
    while (empty && (e = readdir(dir)) != NULL) empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
    closedir(dir);
    return empty;
}

static bool any(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static sy_status check_place(sy_context *ctx, const char *place, bool replace)
{
    if (!any(place)) return SY_OK;
    if (!syi_is_dir(place))
        return syi_fail(ctx, SY_E_USAGE, "%s: expected a new folder, found a file there; choose another place", place);
    if (!replace && !is_empty(place))
        return syi_fail(ctx, SY_E_USAGE,
                        "%s: expected a new or empty folder, found one with files in it; remove it, or choose another "
                        "place",
                        place);
    return SY_OK;
}

/* dir/.NAME.KIND-PID-N for the next N */
static char *beside(sy_context *ctx, const char *place, const char *kind)
{
    char *dir = syi_dirname(ctx, place);
    if (dir == NULL) return NULL;
    char *path = syi_format(ctx, "%s/.%s.%s-%ld-%lld", strcmp(dir, "/") == 0 ? "" : dir, syi_basename(place), kind,
                            (long)getpid(), (long long)ctx->temporaries++);
    syi_free(ctx, dir);
    return path;
}

sy_status syi_dir_begin(sy_context *ctx, const char *place, bool replace, syi_dir *out)
{
    *out = (syi_dir){0};
    syi_dir d = {.ctx = ctx, .replace = replace};
    size_t n = strlen(place);
    while (n > 1 && place[n - 1] == '/') n--;
    d.place = syi_strndup(ctx, place, n);
    if (d.place == NULL) return SY_E_MEMORY;
    const char *name = syi_basename(d.place);
    sy_status status = SY_E_MEMORY;
    char *parent = NULL;
    if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        status = syi_fail(ctx, SY_E_USAGE, "'%s': expected the name of a folder to make", place);
        goto fail;
    }
    if ((parent = syi_dirname(ctx, d.place)) == NULL) goto fail;
    SYI_TRY_TO(fail, status, syi_mkdirs(ctx, parent));
    syi_remove_stale(d.place);
    SYI_TRY_TO(fail, status, check_place(ctx, d.place, replace));
    for (;;) {
        status = SY_E_MEMORY;
        syi_free(ctx, d.work);
        if ((d.work = beside(ctx, d.place, "tmp")) == NULL) goto fail;
        if (!syi_disk_trip(ctx, NULL) && mkdir(d.work, 0777) == 0) break;
        if (errno != EEXIST) {
            status = syi_fail_errno(ctx, SY_E_IO, "make folder", d.work);
            goto fail;
        }
    }
    int fd = open(d.work, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) flock(fd, LOCK_EX | LOCK_NB);
    d.lock = fd + 1;
    syi_free(ctx, parent);
    *out = d;
    return SY_OK;
fail:
    syi_free(ctx, parent);
    syi_free(ctx, d.work);
    syi_free(ctx, d.place);
    return status;
}

static void dir_free(syi_dir *d)
{
    if (d->lock > 0) close(d->lock - 1);
    syi_free(d->ctx, d->work);
    syi_free(d->ctx, d->place);
    *d = (syi_dir){0};
}

void syi_dir_abort(syi_dir *d)
{
    if (d->ctx == NULL) return;
    remove_at(AT_FDCWD, d->work);
    dir_free(d);
}

/* New names inside of the folder and of its subfolders become durable. */
static sy_status sync_tree(sy_context *ctx, const char *path)
{
    char **names = NULL;
    int n = 0;
    SYI_TRY(syi_list_dir(ctx, path, &names, &n));
    sy_status status = SY_OK;
    for (int i = 0; i < n && status == SY_OK; i++) {
        char *sub = syi_join(ctx, path, names[i]);
        struct stat st;
        if (sub == NULL) status = SY_E_MEMORY;
        else if (lstat(sub, &st) == 0 && S_ISDIR(st.st_mode)) status = sync_tree(ctx, sub);
        syi_free(ctx, sub);
    }
    free_names(ctx, names, n);
    if (status != SY_OK) return status;
    char *inside = syi_join(ctx, path, ".");
    if (inside == NULL) return SY_E_MEMORY;
    status = syi_sync_parent(ctx, inside);
    syi_free(ctx, inside);
    return status;
}

/* Swaps two folders in one step; false where the system cannot. */
static bool exchange(const char *a, const char *b)
{
#if defined(__APPLE__)
    return renamex_np(a, b, RENAME_SWAP) == 0;
#elif defined(RENAME_EXCHANGE)
    return renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0;
#else
    (void)a;
    (void)b;
    return false;
#endif
}

static sy_status put(syi_dir *d)
{
    sy_context *ctx = d->ctx;
    SYI_TRY(sync_tree(ctx, d->work));
    SYI_TRY(check_place(ctx, d->place, d->replace)); /* it may have come up meanwhile */
    if (!any(d->place) || is_empty(d->place)) {
        SYI_TRY(syi_rename(ctx, d->work, d->place));
        return syi_sync_parent(ctx, d->place);
    }
    if (syi_disk_trip(ctx, NULL)) return syi_fail_errno(ctx, SY_E_IO, "replace", d->place);
    if (exchange(d->work, d->place)) {
        sy_status status = syi_sync_parent(ctx, d->place);
        remove_at(AT_FDCWD, d->work); /* the old folder */
        return status;
    }
    char *old = beside(ctx, d->place, "old");
    if (old == NULL) return SY_E_MEMORY;
    sy_status status = syi_rename(ctx, d->place, old);
    if (status == SY_OK) {
        status = syi_rename(ctx, d->work, d->place);
        if (status != SY_OK) rename(old, d->place);
        else {
            status = syi_sync_parent(ctx, d->place);
            remove_at(AT_FDCWD, old);
        }
    }
    syi_free(ctx, old);
    return status;
}

sy_status syi_dir_commit(syi_dir *d)
{
    if (d->ctx == NULL) return SY_OK;
    sy_status status = put(d);
    if (status != SY_OK) {
        syi_dir_abort(d);
        return status;
    }
    dir_free(d);
    return SY_OK;
}
