/* SPDX-License-Identifier: Apache-2.0 */
/* Files: read whole or mapped; written beside their place and renamed when
 * complete; logs that only grow. Whatever changes the disk goes through
 * syi_disk_trip, so that tests can fill the disk at any write, cut a write
 * short, or kill the process. */
#include "private.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* -- the layer that can be made to fail -------------------------------------- */

void syi_file_fail_after(sy_context *ctx, int64_t n, int error)
{
    ctx->write_fail = n > 0 ? n : 0;
    ctx->write_error = error;
}

bool syi_disk_trip(sy_context *ctx, size_t *n)
{
    if (ctx->write_fail == 0 || --ctx->write_fail > 0) return false;
    if (ctx->write_error == SYI_DISK_DIE) raise(SIGKILL);
    if (ctx->write_error == SYI_DISK_SHORT) {
        if (n != NULL && *n > 1) *n /= 2;
        return false;
    }
    errno = ctx->write_error;
    return true;
}

sy_status syi_fail_errno(sy_context *ctx, sy_status code, const char *verb, const char *path)
{
    int error = errno;
    const char *advice = "";
    if (error == ENOSPC || error == EDQUOT) advice = "; free some space or choose another place";
    else if (error == EACCES || error == EPERM || error == EROFS) advice = "; check its permissions or choose another place";
    else if (error == ENOENT) advice = "; check the path";
    else if (error == EMFILE || error == ENFILE) advice = "; raise the limit of open files (ulimit -n)";
    return syi_fail(ctx, code, "cannot %s %s: %s%s", verb, path, strerror(error), advice);
}

/* write() until all is written; at < 0: at the file's position. */
static bool write_all(sy_context *ctx, int fd, const char *p, int64_t n, int64_t at)
{
    while (n > 0) {
        size_t part = (size_t)syi_min(n, 1 << 30);
        if (syi_disk_trip(ctx, &part)) return false;
        ssize_t done = at < 0 ? write(fd, p, part) : pwrite(fd, p, part, (off_t)at);
        if (done < 0) {
            if (errno == EINTR) continue;
            return false;
        }
        if (done == 0) {
            errno = ENOSPC;
            return false;
        }
        p += done;
        n -= done;
        if (at >= 0) at += done;
    }
    return true;
}

static bool sync_fd(sy_context *ctx, int fd)
{
    if (syi_disk_trip(ctx, NULL)) return false;
    int rc;
    do rc = fsync(fd);
    while (rc != 0 && errno == EINTR);
    /* Some file systems cannot sync (EINVAL, ENOTSUP): nothing to be done. */
    return rc == 0 || errno == EINVAL || errno == ENOTSUP;
}

/* -- paths ------------------------------------------------------------------- */

const char *syi_basename(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

char *syi_dirname(sy_context *ctx, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return syi_strdup(ctx, ".");
    return syi_strndup(ctx, path, slash == path ? 1 : (size_t)(slash - path));
}

char *syi_join(sy_context *ctx, const char *dir, const char *name)
{
    size_t n = strlen(dir);
    if (n == 0 || name[0] == '/') return syi_strdup(ctx, name);
    return syi_format(ctx, dir[n - 1] == '/' ? "%s%s" : "%s/%s", dir, name);
}

bool syi_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool syi_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int64_t syi_file_size(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
}

sy_status syi_sync_parent(sy_context *ctx, const char *path)
{
    char *dir = syi_dirname(ctx, path);
    if (dir == NULL) return SY_E_MEMORY;
    sy_status status = SY_OK;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* A folder that may be written but not read (mode -wx) cannot be synced. */
    if (fd < 0 && errno != EACCES) status = syi_fail_errno(ctx, SY_E_IO, "open folder", dir);
    if (fd >= 0) {
        if (!sync_fd(ctx, fd)) status = syi_fail_errno(ctx, SY_E_IO, "sync folder", dir);
        close(fd);
    }
    syi_free(ctx, dir);
    return status;
}

/* -- reading ----------------------------------------------------------------- */

/* Opens a regular file for reading. */
static sy_status open_regular(sy_context *ctx, const char *path, int *out, int64_t *size)
{
    /* O_NONBLOCK: a FIFO without a writer must not hang us. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return syi_fail_errno(ctx, SY_E_INPUT, "open", path);
    struct stat st;
    if (fstat(fd, &st) != 0) {
        sy_status status = syi_fail_errno(ctx, SY_E_IO, "look at", path);
        close(fd);
        return status;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return syi_fail(ctx, SY_E_INPUT, "%s: expected a file, found %s", path,
                        S_ISDIR(st.st_mode) ? "a folder" : "a device or pipe");
    }
    *out = fd;
    *size = (int64_t)st.st_size;
    return SY_OK;
}

sy_status syi_map_file(sy_context *ctx, const char *path, syi_mapped *out)
{
    static const uint8_t nothing[1];
    int fd = -1;
    int64_t size = 0;
    *out = (syi_mapped){0};
    SYI_TRY(open_regular(ctx, path, &fd, &size));
    char *copy = syi_strdup(ctx, path);
    if (copy == NULL) {
        close(fd);
        return SY_E_MEMORY;
    }
    void *data = NULL;
    if (size > 0) {
        data = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            sy_status status = syi_fail_errno(ctx, SY_E_IO, "map", path);
            close(fd);
            syi_free(ctx, copy);
            return status;
        }
    }
    close(fd);
    *out = (syi_mapped){.data = size > 0 ? data : nothing, .size = size, .handle = data, .path = copy};
    return SY_OK;
}

void syi_mapped_forget(const void *p, int64_t n)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)p + page - 1) / page * page, to = ((uintptr_t)p + (uintptr_t)syi_max(0, n)) / page * page;
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}

void syi_mapped_want(const void *p, int64_t n)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)p / page * page, to = (uintptr_t)p + (uintptr_t)syi_max(0, n);
    if (to > from) madvise((void *)from, to - from, MADV_WILLNEED);
}

void syi_unmap_file(sy_context *ctx, syi_mapped *m)
{
    if (m->handle != NULL) munmap(m->handle, (size_t)m->size);
    syi_free(ctx, m->path);
    *m = (syi_mapped){0};
}

sy_status syi_read_file(sy_context *ctx, const char *path, int64_t max, char **out, int64_t *size)
{
    int fd = -1;
    int64_t total = 0, done = 0;
    *out = NULL;
    if (size != NULL) *size = 0;
    SYI_TRY(open_regular(ctx, path, &fd, &total));
    if (total > max) {
        char found[32], limit[32];
        close(fd);
        return syi_fail(ctx, SY_E_INPUT, "%s: expected at most %s, found %s", path,
                        syi_human_bytes(limit, max), syi_human_bytes(found, total));
    }
    char *text = syi_alloc(ctx, (size_t)total + 1);
    if (text == NULL) {
        close(fd);
        return SY_E_MEMORY;
    }
    while (done < total) {
        ssize_t n = read(fd, text + done, (size_t)syi_min(total - done, 1 << 30));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            sy_status status = syi_fail_errno(ctx, SY_E_IO, "read", path);
            close(fd);
            syi_free(ctx, text);
            return status;
        }
        if (n == 0) break; /* became shorter meanwhile */
        done += n;
    }
    close(fd);
    text[done] = '\0';
    *out = text;
    if (size != NULL) *size = done;
    return SY_OK;
}

int64_t syi_peek_file(const char *path, void *out, int64_t n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return -1;
    int64_t done = 0;
    while (done < n) {
        ssize_t got = read(fd, (char *)out + done, (size_t)(n - done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && done == 0) done = -1; /* a folder, say */
        if (got <= 0) break;
        done += got;
    }
    close(fd);
    return done;
}

/* -- files that appear complete or not at all ---------------------------------- */

enum { BUFFER = 256 << 10 };

struct syi_file {
    sy_context *ctx;
    int fd;
    char *path, *tmp;
    int64_t size;   /* of the file, the buffer included */
    int64_t held;   /* bytes in the buffer */
    bool reserved;  /* blocks beyond the end may belong to it */
    char *buffer;
};

static void file_free(syi_file *f)
{
    sy_context *ctx = f->ctx;
    if (f->fd >= 0) close(f->fd);
    syi_free(ctx, f->path);
    syi_free(ctx, f->tmp);
    syi_free(ctx, f->buffer);
    syi_free(ctx, f);
}

sy_status syi_file_create(sy_context *ctx, const char *path, syi_file **out)
{
    *out = NULL;
    if (syi_basename(path)[0] == '\0' || syi_is_dir(path))
        return syi_fail(ctx, SY_E_IO, "cannot write %s: expected the name of a file, found a folder",
                        path[0] ? path : "''");
    syi_remove_stale(path);
    syi_file *f = syi_calloc(ctx, 1, sizeof *f);
    if (f == NULL) return SY_E_MEMORY;
    f->ctx = ctx;
    f->fd = -1;
    sy_status status = SY_E_MEMORY;
    char *dir = syi_dirname(ctx, path);
    if (dir == NULL) goto fail;
    if ((f->path = syi_strdup(ctx, path)) == NULL || (f->buffer = syi_alloc(ctx, BUFFER)) == NULL) goto fail;
    for (;;) {
        char *name = syi_format(ctx, ".%s.tmp-%ld-%lld", syi_basename(path), (long)getpid(),
                                (long long)ctx->temporaries++);
        if (name == NULL) goto fail;
        syi_free(ctx, f->tmp);
        f->tmp = syi_join(ctx, dir, name);
        syi_free(ctx, name);
        if (f->tmp == NULL) goto fail;
        f->fd = syi_disk_trip(ctx, NULL) ? -1 : open(f->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (f->fd >= 0) break;
        if (errno != EEXIST) {
            status = syi_fail_errno(ctx, SY_E_IO, "write", path);
            goto fail;
        }
    }
    flock(f->fd, LOCK_EX | LOCK_NB); /* syi_remove_stale sees that we live */
    syi_free(ctx, dir);
    *out = f;
    return SY_OK;
fail:
    syi_free(ctx, dir);
    file_free(f);
    return status;
}

static sy_status flush(syi_file *f)
{
    if (f->held == 0) return SY_OK;
    int64_t n = f->held;
    f->held = 0;
    if (!write_all(f->ctx, f->fd, f->buffer, n, f->size - n)) return syi_fail_errno(f->ctx, SY_E_IO, "write", f->path);
    return SY_OK;
}

sy_status syi_file_write(syi_file *f, const void *p, int64_t n)
{
    if (n < 0) return syi_fail(f->ctx, SY_E_BUG, "%s: a write of %lld bytes", f->path, (long long)n);
    if (n <= BUFFER - f->held) {
        if (n > 0) memcpy(f->buffer + f->held, p, (size_t)n);
        f->held += n;
        f->size += n;
        return SY_OK;
    }
    SYI_TRY(flush(f));
    if (n < BUFFER) {
        memcpy(f->buffer, p, (size_t)n);
        f->held = n;
    } else if (!write_all(f->ctx, f->fd, p, n, f->size)) {
        return syi_fail_errno(f->ctx, SY_E_IO, "write", f->path);
    }
    f->size += n;
    return SY_OK;
}

sy_status syi_file_write_at(syi_file *f, int64_t at, const void *p, int64_t n)
{
    if (n < 0 || at < 0 || at > INT64_MAX - n)
        return syi_fail(f->ctx, SY_E_BUG, "%s: a write of %lld bytes at %lld", f->path, (long long)n, (long long)at);
    SYI_TRY(flush(f));
    if (!write_all(f->ctx, f->fd, p, n, at)) return syi_fail_errno(f->ctx, SY_E_IO, "write", f->path);
    if (at + n > f->size) f->size = at + n;
    return SY_OK;
}

sy_status syi_file_reserve(syi_file *f, int64_t bytes)
{
    if (bytes <= 0) return SY_OK;
    int error = 0;
    if (syi_disk_trip(f->ctx, NULL)) error = errno;
#ifdef __linux__
    /* Not posix_fallocate: where the file system cannot, that writes zeros. */
    else if (fallocate(f->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes) != 0) error = errno;
    else f->reserved = true;
#endif
    if (error == 0 || error == EOPNOTSUPP || error == ENOSYS || error == EINVAL || error == EINTR) return SY_OK;
    errno = error;
    char want[32], verb[64];
    snprintf(verb, sizeof verb, "reserve %s for", syi_human_bytes(want, bytes));
    return syi_fail_errno(f->ctx, SY_E_IO, verb, f->path);
}

sy_status syi_file_in_place(sy_context *ctx, const char *path, int64_t bytes, syi_file **out)
{
    *out = NULL;
    syi_file *f = syi_calloc(ctx, 1, sizeof *f);
    if (f == NULL) return SY_E_MEMORY;
    f->ctx = ctx;
    f->fd = -1;
    sy_status status = SY_E_MEMORY;
    if ((f->path = syi_strdup(ctx, path)) == NULL || (f->buffer = syi_alloc(ctx, BUFFER)) == NULL) goto fail;
    f->fd = syi_disk_trip(ctx, NULL) ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (f->fd < 0) status = syi_fail_errno(ctx, SY_E_IO, "write", path);
    else status = syi_file_reserve(f, bytes);
    if (status == SY_OK && ftruncate(f->fd, (off_t)bytes) != 0) status = syi_fail_errno(ctx, SY_E_IO, "lengthen", path);
    if (status != SY_OK) goto fail;
    f->size = bytes;
    *out = f;
    return SY_OK;
fail:
    file_free(f);
    return status;
}

int syi_file_put(syi_file *f, int64_t at, const void *p, int64_t n)
{
    const char *from = p;
    while (n > 0) {
        size_t part = (size_t)syi_min(n, 1 << 30);
        int error = 0;
        if (f->ctx->write_fail != 0) { /* tests only */
#pragma omp critical(syi_file_put_trip)
            if (syi_disk_trip(f->ctx, &part)) error = errno;
        }
        if (error != 0) return error;
        ssize_t done = pwrite(f->fd, from, part, (off_t)at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return done < 0 ? errno : ENOSPC;
        from += done;
        at += done;
        n -= done;
    }
    return 0;
}

sy_status syi_file_put_fail(syi_file *f, int error)
{
    errno = error;
    return syi_fail_errno(f->ctx, SY_E_IO, "write", f->path);
}

void syi_file_start(syi_file *f, int64_t at, int64_t n)
{
#ifdef __linux__
    sync_file_range(f->fd, (off_t)at, (off_t)n, SYNC_FILE_RANGE_WRITE);
#else
    (void)f;
    (void)at;
    (void)n;
#endif
}

sy_status syi_file_sync(syi_file *f)
{
    return sync_fd(f->ctx, f->fd) ? SY_OK : syi_fail_errno(f->ctx, SY_E_IO, "sync", f->path);
}

void syi_file_abort(syi_file *f)
{
    if (f == NULL) return;
    if (f->tmp != NULL) unlink(f->tmp);
    file_free(f);
}

sy_status syi_file_commit(syi_file *f)
{
    sy_context *ctx = f->ctx;
    sy_status status = flush(f);
    /* What was reserved and not needed goes back. */
    if (status == SY_OK && f->reserved && ftruncate(f->fd, (off_t)f->size) != 0)
        status = syi_fail_errno(ctx, SY_E_IO, "shorten", f->path);
    if (status == SY_OK && !sync_fd(ctx, f->fd)) status = syi_fail_errno(ctx, SY_E_IO, "sync", f->path);
    if (status == SY_OK) {
        int fd = f->fd;
        f->fd = -1;
        if (close(fd) != 0 && errno != EINTR) status = syi_fail_errno(ctx, SY_E_IO, "close", f->path);
    }
    if (status == SY_OK && f->tmp != NULL) status = syi_rename(ctx, f->tmp, f->path);
    if (status != SY_OK) {
        syi_file_abort(f);
        return status;
    }
    status = syi_sync_parent(ctx, f->path);
    file_free(f);
    return status;
}

sy_status syi_write_file(sy_context *ctx, const char *path, const void *p, int64_t n)
{
    syi_file *f = NULL;
    SYI_TRY(syi_file_create(ctx, path, &f));
    sy_status status = syi_file_write(f, p, n);
    if (status == SY_OK) return syi_file_commit(f);
    syi_file_abort(f);
    return status;
}

sy_status syi_copy_file(sy_context *ctx, const char *from, const char *to)
{
    syi_mapped m;
    syi_file *f = NULL;
    SYI_TRY(syi_map_file(ctx, from, &m));
    sy_status status = syi_file_create(ctx, to, &f);
    if (status == SY_OK) status = syi_file_write(f, m.data, m.size);
    if (status == SY_OK) status = syi_file_commit(f);
    else syi_file_abort(f);
    syi_unmap_file(ctx, &m);
    return status;
}

/* -- logs that grow -------------------------------------------------------------- */

struct syi_appender {
    sy_context *ctx;
    int fd;
    char *path;
    int64_t size;
};

sy_status syi_append_open(sy_context *ctx, const char *path, int64_t keep, syi_appender **out)
{
    *out = NULL;
    syi_appender *a = syi_calloc(ctx, 1, sizeof *a);
    if (a == NULL) return SY_E_MEMORY;
    a->ctx = ctx;
    a->fd = -1;
    sy_status status = SY_E_MEMORY;
    struct stat st;
    if ((a->path = syi_strdup(ctx, path)) == NULL) goto fail;
    a->fd = syi_disk_trip(ctx, NULL) ? -1 : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (a->fd < 0 || fstat(a->fd, &st) != 0) {
        status = syi_fail_errno(ctx, SY_E_IO, "append to", path);
        goto fail;
    }
    a->size = (int64_t)st.st_size;
    if (keep > a->size) {
        status = syi_fail(ctx, SY_E_INPUT, "%s: expected at least %lld bytes (written before), found %lld", path,
                          (long long)keep, (long long)a->size);
        goto fail;
    }
    if (keep >= 0 && keep < a->size) {
        if (syi_disk_trip(ctx, NULL) || ftruncate(a->fd, (off_t)keep) != 0) {
            status = syi_fail_errno(ctx, SY_E_IO, "shorten", path);
            goto fail;
        }
        a->size = keep;
    }
    *out = a;
    return SY_OK;
fail:
    if (a->fd >= 0) close(a->fd);
    syi_free(ctx, a->path);
    syi_free(ctx, a);
    return status;
}

sy_status syi_append(syi_appender *a, const void *p, int64_t n)
{
    if (write_all(a->ctx, a->fd, p, n, -1)) {
        a->size += n;
        return SY_OK;
    }
    sy_status status = syi_fail_errno(a->ctx, SY_E_IO, "append to", a->path);
    /* No half a line stays behind; if even that fails, the message stands. */
    if (ftruncate(a->fd, (off_t)a->size) != 0) return status;
    return status;
}

int64_t syi_append_size(const syi_appender *a)
{
    return a->size;
}

sy_status syi_append_close(syi_appender *a, bool sync)
{
    if (a == NULL) return SY_OK;
    sy_context *ctx = a->ctx;
    sy_status status = SY_OK;
    if (sync && !sync_fd(ctx, a->fd)) status = syi_fail_errno(ctx, SY_E_IO, "sync", a->path);
    if (close(a->fd) != 0 && errno != EINTR && status == SY_OK)
        status = syi_fail_errno(ctx, SY_E_IO, "close", a->path);
    syi_free(ctx, a->path);
    syi_free(ctx, a);
    return status;
}
