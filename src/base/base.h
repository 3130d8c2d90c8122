/* SPDX-License-Identifier: Apache-2.0 */
/* Services that every other folder stands on. Internal. */
#ifndef SYI_BASE_H
#define SYI_BASE_H

#include "steelyard/context.h"
#include "steelyard/tensor.h"

#include <stdio.h>
#include <string.h>

/* -- errors (context.c) ------------------------------------------------- */

#if defined(__GNUC__)
#define SYI_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define SYI_PRINTF(f, a)
#endif

/* Sets the context's error and returns `code`: `return syi_fail(...)`. Say what
 * was expected, what was found, where, and what to do. */
sy_status syi_fail(sy_context *ctx, sy_status code, const char *fmt, ...) SYI_PRINTF(3, 4);
/* Puts "prefix: " before the message that is there; returns its code. */
sy_status syi_fail_at(sy_context *ctx, sy_status code, const char *fmt, ...) SYI_PRINTF(3, 4);
sy_status syi_nomem(sy_context *ctx, size_t bytes);

#define SYI_TRY(call)                                                         \
    do {                                                                      \
        sy_status syi_try_ = (call);                                          \
        if (syi_try_ != SY_OK) return syi_try_;                               \
    } while (0)
#define SYI_TRY_TO(label, status, call)                                       \
    do {                                                                      \
        (status) = (call);                                                    \
        if ((status) != SY_OK) goto label;                                    \
    } while (0)

/* -- log and progress (log.c) ------------------------------------------- */

void syi_log(sy_context *ctx, sy_log_level level, const char *fmt, ...) SYI_PRINTF(3, 4);
void syi_progress(sy_context *ctx, const sy_progress *progress);
double syi_now(void);          /* monotonic seconds */
double syi_process_age(void);  /* seconds since this process was started, to about 0.01; 0 unknown */
int64_t syi_rss_now(void);     /* resident bytes of this process, 0 unknown */
int64_t syi_rss_peak(void);    /* peak resident bytes, 0 unknown */

/* -- memory (memory.c) --------------------------------------------------- */
/* Accounted on the context, 64-byte aligned. NULL with the error set. Sizes of
 * 0 give a valid pointer. syi_calloc checks n*size for overflow. */
void *syi_alloc(sy_context *ctx, size_t bytes);
void *syi_calloc(sy_context *ctx, size_t n, size_t size);
void *syi_realloc(sy_context *ctx, void *p, size_t bytes);
void syi_free(sy_context *ctx, void *p);
char *syi_strdup(sy_context *ctx, const char *s);
char *syi_strndup(sy_context *ctx, const char *s, size_t n);
char *syi_format(sy_context *ctx, const char *fmt, ...) SYI_PRINTF(2, 3);
/* Frees what json_dumps returned (Jansson has an allocator of its own). */
void syi_json_free_text(char *text);
/* Big buffers (>= 1 MiB): page-aligned fresh zero pages, huge pages advised;
 * returned to the system at once. */
void *syi_pages(sy_context *ctx, size_t bytes);
void syi_pages_free(sy_context *ctx, void *p);

/* Grows *p to hold at least `need` items; doubles; fails above `max`. */
sy_status syi_grow(sy_context *ctx, void **p, int64_t *cap, int64_t need, size_t item, int64_t max);

/* A bump allocator: everything in it dies together (or back to a mark). */
typedef struct syi_arena syi_arena;
typedef struct { void *chunk; size_t used; } syi_mark;
sy_status syi_arena_new(sy_context *ctx, size_t chunk_bytes, syi_arena **out);
void syi_arena_free(syi_arena *a);
void *syi_arena_alloc(syi_arena *a, size_t bytes); /* zeroed, 64-byte aligned */
char *syi_arena_strdup(syi_arena *a, const char *s);
char *syi_arena_format(syi_arena *a, const char *fmt, ...) SYI_PRINTF(2, 3);
syi_mark syi_arena_mark(const syi_arena *a);
void syi_arena_rewind(syi_arena *a, syi_mark mark);
size_t syi_arena_bytes(const syi_arena *a);        /* handed out now */

/* -- strings (string.c) -------------------------------------------------- */

/* A growable text, always NUL-terminated after the first append. Sticky: after
 * a failed append `failed` stays true and later appends do nothing. */
typedef struct { sy_context *ctx; char *s; size_t len, cap, max; bool failed; } syi_text;
void syi_text_init(syi_text *t, sy_context *ctx, size_t max);
void syi_text_free(syi_text *t);
void syi_text_add(syi_text *t, const char *s, size_t n);
void syi_text_puts(syi_text *t, const char *s);
void syi_text_printf(syi_text *t, const char *fmt, ...) SYI_PRINTF(2, 3);
char *syi_text_take(syi_text *t); /* caller syi_free()s; NULL if failed */

bool syi_starts(const char *s, const char *prefix);
bool syi_ends(const char *s, const char *suffix);
/* Is `word` one of the words of `list`, which blanks separate? */
bool syi_has_word(const char *list, const char *word);
/* The name of `names` nearest to `word` (edit distance <= 1 + len/3), or NULL. */
const char *syi_nearest(const char *word, const char *const *names, int n);
/* "1.5 GiB"; writes at most 32 bytes, returns buf. */
char *syi_human_bytes(char buf[32], int64_t bytes);
char *syi_human_time(char buf[32], double seconds); /* "1:02:03", "4.2 s" */

/* String -> int64 hash map that keeps its own copies of the keys. */
typedef struct syi_map syi_map;
sy_status syi_map_new(sy_context *ctx, syi_map **out);
void syi_map_free(syi_map *m);
sy_status syi_map_room(syi_map *m, int64_t keys); /* makes room for so many at once */
/* Adds or overwrites. */
sy_status syi_map_set(syi_map *m, const char *key, size_t len, int64_t value);
bool syi_map_get(const syi_map *m, const char *key, size_t len, int64_t *value);
int64_t syi_map_count(const syi_map *m);

/* -- hashing (hash.c) ---------------------------------------------------- */

typedef struct { uint64_t lo, hi; } syi_hash;        /* XXH3, 128 bits */
syi_hash syi_hash_bytes(const void *p, size_t n);
typedef struct syi_hasher syi_hasher;                /* streaming */
sy_status syi_hasher_new(sy_context *ctx, syi_hasher **out);
void syi_hasher_add(syi_hasher *h, const void *p, size_t n);
syi_hash syi_hasher_end(syi_hasher *h);              /* frees h */
char *syi_hash_text(char buf[33], syi_hash h);       /* 32 hex digits */
uint64_t syi_hash64(const void *p, size_t n, uint64_t seed);
uint32_t syi_crc32c(const void *p, size_t n);        /* for TensorBoard */

/* -- random numbers (rng.c) ---------------------------------------------- */
/* Counter-based (Philox4x32-10): number i of a stream is a function of
 * (key, i) only, so any slice can be made again, by any thread, in any order. */
uint64_t syi_key(uint64_t seed, const char *purpose, const char *tensor, int64_t step);
void syi_uniform(uint64_t key, int64_t first, int64_t n, float *out);  /* [0,1) */
void syi_normal(uint64_t key, int64_t first, int64_t n, float *out);   /* N(0,1) */
uint64_t syi_random_u64(uint64_t key, int64_t index);
/* A permutation of 0..n-1 (Fisher-Yates on the stream). */
void syi_permutation(uint64_t key, int64_t n, int64_t *out);

/* -- files (file.c): the replaceable layer -------------------------------- */
/* All reads and writes of the library pass through here, so that tests can
 * make the n-th write fail (ENOSPC), be cut short, or the process die. */

typedef struct { const uint8_t *data; int64_t size; void *handle; char *path; } syi_mapped;
/* Read-only map of a whole file (empty file: size 0, data non-NULL). */
sy_status syi_map_file(sy_context *ctx, const char *path, syi_mapped *out);
void syi_unmap_file(sy_context *ctx, syi_mapped *m);
/* A range of a mapped file will not be read again soon: its whole pages leave memory (they
 * come back from the file when touched). */
void syi_mapped_forget(const void *p, int64_t n);
/* A range will be read soon: the system may fetch it meanwhile. */
void syi_mapped_want(const void *p, int64_t n);
/* Zeroed memory behind a file without a name in `dir`: the system may put it out of memory
 * (syi_mapped_forget helps). A full disk is SY_E_IO here, not a signal later. */
sy_status syi_spill(sy_context *ctx, const char *dir, int64_t bytes, void **out);
void syi_spill_free(void *p, int64_t bytes); /* NULL is fine */
/* Whole file as NUL-terminated text; refuses more than `max` bytes. */
sy_status syi_read_file(sy_context *ctx, const char *path, int64_t max, char **out, int64_t *size);

/* The first bytes of a file, at most n, to tell its kind: how many were read, -1: none. */
int64_t syi_peek_file(const char *path, void *out, int64_t n);

/* A file that appears complete or not at all: written beside its place as
 * ".NAME.tmp-PID-N", fsynced, renamed by syi_file_commit. syi_file_abort (also
 * after a failed commit) removes the temporary. */
typedef struct syi_file syi_file;
sy_status syi_file_create(sy_context *ctx, const char *path, syi_file **out);
sy_status syi_file_write(syi_file *f, const void *p, int64_t n);              /* append */
sy_status syi_file_write_at(syi_file *f, int64_t at, const void *p, int64_t n);
sy_status syi_file_reserve(syi_file *f, int64_t bytes); /* disk full shows now */
sy_status syi_file_commit(syi_file *f);                 /* frees f, also on error */
void syi_file_abort(syi_file *f);                       /* frees f; NULL is fine */
/* The file itself, opened or made with `bytes` bytes, for work that is resumed inside of a
 * folder that is renamed as a whole: commit syncs, abort only closes. */
sy_status syi_file_in_place(sy_context *ctx, const char *path, int64_t bytes, syi_file **out);
/* From any thread, beside the buffer: 0, or an errno (syi_file_put_fail makes the error). */
int syi_file_put(syi_file *f, int64_t at, const void *p, int64_t n);
sy_status syi_file_put_fail(syi_file *f, int error);
/* Asks the system to begin writing a range out / waits until all of it is on disk. */
void syi_file_start(syi_file *f, int64_t at, int64_t n);
sy_status syi_file_sync(syi_file *f);
/* All of it in one call. */
sy_status syi_write_file(sy_context *ctx, const char *path, const void *p, int64_t n);

/* Append-only logs (metrics.jsonl, events): open for append, truncated to
 * `keep` bytes first (negative: keep everything). */
typedef struct syi_appender syi_appender;
sy_status syi_append_open(sy_context *ctx, const char *path, int64_t keep, syi_appender **out);
sy_status syi_append(syi_appender *a, const void *p, int64_t n); /* one write */
int64_t syi_append_size(const syi_appender *a);
sy_status syi_append_close(syi_appender *a, bool sync);

/* A folder that appears complete or not at all: write into dir.work, then
 * commit renames it to its place. `replace`: an existing folder there is moved
 * aside first and removed after; otherwise an existing non-empty one is an error
 * (checked at begin, before any work). Left-over temporaries of dead processes
 * are removed by begin. commit frees `d` also on error (nothing is left then). */
typedef struct { sy_context *ctx; char *work, *place; bool replace; int lock; } syi_dir;
sy_status syi_dir_begin(sy_context *ctx, const char *place, bool replace, syi_dir *out);
sy_status syi_dir_commit(syi_dir *d);
void syi_dir_abort(syi_dir *d); /* removes dir.work; fine after commit or on zero */

sy_status syi_mkdirs(sy_context *ctx, const char *path);
sy_status syi_remove_tree(sy_context *ctx, const char *path); /* absent is fine */
sy_status syi_rename(sy_context *ctx, const char *from, const char *to);
sy_status syi_copy_file(sy_context *ctx, const char *from, const char *to);
bool syi_exists(const char *path);
bool syi_is_dir(const char *path);
int64_t syi_file_size(const char *path); /* -1: absent */
char *syi_join(sy_context *ctx, const char *dir, const char *name); /* dir/name */
const char *syi_basename(const char *path);
/* Names in a folder, sorted; caller frees each and the array. */
sy_status syi_list_dir(sy_context *ctx, const char *path, char ***names, int *n);

/* For tests: the n-th operation from now that changes the disk (create, write,
 * truncate, sync, rename, new folder) fails with the errno `error`, or a write
 * is cut short (the caller goes on with the rest: nothing may be lost), or the
 * process is killed. n = 0: never. */
enum { SYI_DISK_SHORT = 0, SYI_DISK_DIE = -1 };
void syi_file_fail_after(sy_context *ctx, int64_t n, int error);

/* -- threads ------------------------------------------------------------- */
/* In `#pragma omp parallel for num_threads(syi_omp(ctx))`; also tells oneDNN's
 * and OpenBLAS' OpenMP how many to use. */
int syi_omp(const sy_context *ctx);

/* -- small helpers -------------------------------------------------------- */
#define SYI_COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))
static inline int64_t syi_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t syi_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t syi_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
/* *out = a*b for non-negative sizes; false on overflow. */
static inline bool syi_size_mul(int64_t a, int64_t b, int64_t *out)
{
    if (a < 0 || b < 0 || (b != 0 && a > INT64_MAX / b)) return false;
    *out = a * b;
    return true;
}

#endif
