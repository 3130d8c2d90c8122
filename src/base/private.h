/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the context: for src/base only. Counters of memory are atomic, so
 * that worker threads of a parallel region may allocate. */
#ifndef SYI_PRIVATE_H
#define SYI_PRIVATE_H

#include "base.h"

#include <stdatomic.h>

enum { SYI_MESSAGE_MAX = 4096 };

struct sy_context {
    sy_status code;
    char message[SYI_MESSAGE_MAX]; /* fixed: also when memory is out */
    int threads;                   /* 0: as many as may run */
    int processors;                /* what 0 means, measured once */
    atomic_int cancelled;
    sy_log_fn *log;
    void *log_self;
    sy_progress_fn *progress;
    void *progress_self;
    atomic_int_least64_t memory_now, memory_peak, memory_fail;
    int64_t write_fail;            /* countdown; 0: never */
    int write_error;
    int64_t temporaries;           /* number of the next one */
};

/* CPUs that this process may use: affinity and quota, 1..256. */
int syi_processors(void);

/* Zeroed, outside of the accounting: the context itself. */
sy_context *syi_context_alloc(void);
void syi_context_release(sy_context *ctx);

/* file.c: the hook in front of each operation that changes the disk. True if
 * it must fail: errno is set. `n` is the size of a write (may be cut), or NULL. */
bool syi_disk_trip(sy_context *ctx, size_t *n);
/* "cannot VERB PATH: reason; advice" from errno, as SY_E_IO or SY_E_INPUT. */
sy_status syi_fail_errno(sy_context *ctx, sy_status code, const char *verb, const char *path);
/* Makes renames and new names in the folder of `path` durable. */
sy_status syi_sync_parent(sy_context *ctx, const char *path);
/* Folder of a path ("." if none); caller syi_free()s. */
char *syi_dirname(sy_context *ctx, const char *path);
/* Removes ".NAME.tmp-PID-N" beside `path` whose process is gone. */
void syi_remove_stale(const char *path);

#endif
