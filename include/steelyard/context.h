/* SPDX-License-Identifier: Apache-2.0 */
/* The context: error message, memory accounting, threads, log, cancellation.
 *
 * There are no globals. Every object is made from a context and lives at most
 * as long; two contexts in one process do not disturb each other. A context is
 * used by one thread at a time, except sy_cancel, which may be called from
 * anywhere, a signal handler included.
 *
 * Ownership, once for the whole library: the creator frees; pointers you
 * receive are borrowed until the object that gave them is freed; a parameter
 * named `take` moves. */
#ifndef STEELYARD_CONTEXT_H
#define STEELYARD_CONTEXT_H

#include "status.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_context sy_context;

/* NULL only when there is no memory. */
sy_context *sy_context_new(void);
void sy_context_free(sy_context *ctx);

/* The last error: its code (SY_OK if none) and its message ("" if none).
 * The text is valid until the next call on the context. */
sy_status sy_error_code(const sy_context *ctx);
const char *sy_error_message(const sy_context *ctx);
void sy_error_clear(sy_context *ctx);

/* Worker threads, 1..256; 0 = as many as the process may run on (also the
 * default). Results never depend on this number. */
sy_status sy_threads_set(sy_context *ctx, int threads);
int sy_threads(const sy_context *ctx);

/* Asks running work to stop at the next step: it saves what it can and
 * returns SY_E_CANCELLED. Async-signal-safe. */
void sy_cancel(sy_context *ctx);
bool sy_cancelled(const sy_context *ctx);
void sy_cancel_clear(sy_context *ctx);

/* Log lines and progress go to callbacks; without one they go nowhere. */
typedef enum { SY_LOG_ERROR, SY_LOG_WARN, SY_LOG_INFO, SY_LOG_DEBUG } sy_log_level;
typedef void sy_log_fn(void *self, sy_log_level level, const char *line);
void sy_log_set(sy_context *ctx, sy_log_fn *fn, void *self);

typedef struct {
    const char *what;       /* "train", "eval", "convert"; never NULL */
    int64_t done, total;    /* in `unit`; total 0: unknown */
    const char *unit;       /* "step", "tensor", "token" */
    double seconds;         /* since this work began */
    double eta;             /* seconds left; negative: unknown */
    double rate;            /* per second, of what `rate_unit` says */
    const char *rate_unit;  /* "tokens", "tensors"; NULL: no rate */
    double loss;            /* NAN: none */
    int64_t bytes;          /* resident memory of the process now */
} sy_progress;
typedef void sy_progress_fn(void *self, const sy_progress *progress);
void sy_progress_set(sy_context *ctx, sy_progress_fn *fn, void *self);

/* Memory that the library holds through this context, in bytes, now and at
 * most so far (mapped files not counted). */
int64_t sy_memory_now(const sy_context *ctx);
int64_t sy_memory_peak(const sy_context *ctx);

/* For tests: the n-th allocation from now fails (0 = never). */
void sy_memory_fail_after(sy_context *ctx, int64_t n);

/* "1.2.3" */
const char *sy_version(void);

#ifdef __cplusplus
}
#endif
#endif
