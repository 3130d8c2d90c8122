/* SPDX-License-Identifier: Apache-2.0 */
/* The context and its error message. The message lies in a fixed buffer, so
 * that running out of memory can be reported too. */
#include "private.h"

#include <omp.h>
#include <stdlib.h>

sy_context *sy_context_new(void)
{
    sy_context *ctx = syi_context_alloc();
    if (ctx == NULL) return NULL;
    atomic_init(&ctx->cancelled, 0);
    atomic_init(&ctx->memory_now, 0);
    atomic_init(&ctx->memory_peak, 0);
    atomic_init(&ctx->memory_fail, 0);
    ctx->processors = syi_processors();
    return ctx;
}

void sy_context_free(sy_context *ctx)
{
    if (ctx != NULL) syi_context_release(ctx);
}

const char *sy_version(void)
{
    return SY_VERSION;
}

/* -- errors ---------------------------------------------------------------- */

sy_status sy_error_code(const sy_context *ctx)
{
    return ctx->code;
}

const char *sy_error_message(const sy_context *ctx)
{
    return ctx->message;
}

void sy_error_clear(sy_context *ctx)
{
    ctx->code = SY_OK;
    ctx->message[0] = '\0';
}

/* Cuts at a character of UTF-8, never inside one. */
static void cut_utf8(char *s, size_t at)
{
    while (at > 0 && ((unsigned char)s[at] & 0xC0) == 0x80) at--;
    s[at] = '\0';
}

static void format_cut(char out[SYI_MESSAGE_MAX], const char *fmt, va_list args)
{
    int n = vsnprintf(out, SYI_MESSAGE_MAX, fmt, args);
    if (n < 0) out[0] = '\0';
    else if (n >= SYI_MESSAGE_MAX) {
        cut_utf8(out, SYI_MESSAGE_MAX - 4);
        memcpy(out + strlen(out), "...", 4);
    }
}

sy_status syi_fail(sy_context *ctx, sy_status code, const char *fmt, ...)
{
    char text[SYI_MESSAGE_MAX]; /* the arguments may point into the message */
    va_list args;
    va_start(args, fmt);
    format_cut(text, fmt, args);
    va_end(args);
    ctx->code = code;
    memcpy(ctx->message, text, strlen(text) + 1);
    return code;
}

sy_status syi_fail_at(sy_context *ctx, sy_status code, const char *fmt, ...)
{
    char prefix[SYI_MESSAGE_MAX], whole[SYI_MESSAGE_MAX];
    va_list args;
    va_start(args, fmt);
    format_cut(prefix, fmt, args);
    va_end(args);
    if (ctx->code == SY_OK) return syi_fail(ctx, code, "%s", prefix);
    int n = snprintf(whole, sizeof whole, "%s: %s", prefix, ctx->message);
    if (n >= (int)sizeof whole) cut_utf8(whole, sizeof whole - 1);
    memcpy(ctx->message, whole, strlen(whole) + 1);
    return ctx->code;
}

sy_status syi_nomem(sy_context *ctx, size_t bytes)
{
    char want[32], have[32];
    return syi_fail(ctx, SY_E_MEMORY,
                    "out of memory: %s wanted while holding %s; take a smaller batch, a shorter "
                    "sequence or a machine with more memory",
                    syi_human_bytes(want, bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes),
                    syi_human_bytes(have, sy_memory_now(ctx)));
}

/* -- cancellation ---------------------------------------------------------- */

void sy_cancel(sy_context *ctx)
{
    atomic_store(&ctx->cancelled, 1); /* lock-free: fine in a signal handler */
}

bool sy_cancelled(const sy_context *ctx)
{
    return atomic_load(&((sy_context *)(uintptr_t)ctx)->cancelled) != 0;
}

void sy_cancel_clear(sy_context *ctx)
{
    atomic_store(&ctx->cancelled, 0);
}

/* -- threads --------------------------------------------------------------- */

sy_status sy_threads_set(sy_context *ctx, int threads)
{
    if (threads < 0 || threads > 256)
        return syi_fail(ctx, SY_E_USAGE, "threads: %d is not in 0..256 (0: as many as may run)", threads);
    ctx->threads = threads;
    return SY_OK;
}

int sy_threads(const sy_context *ctx)
{
    return ctx->threads > 0 ? ctx->threads : ctx->processors;
}

int syi_omp(const sy_context *ctx)
{
    /* oneDNN and OpenBLAS ask OpenMP for the number on each call. */
    int n = sy_threads(ctx);
    if (!omp_in_parallel() && omp_get_max_threads() != n) omp_set_num_threads(n);
    return n;
}

/* CPUs that a control group (v2, then v1) lets this process use, 0: no limit.
 * OpenMP knows the affinity mask but not the quota of a container. */
static int quota_processors(void)
{
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    long long quota = 0, period = 0;
    if (f != NULL) {
        if (fscanf(f, "%lld %lld", &quota, &period) != 2) quota = 0;
        fclose(f);
    } else {
        f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r");
        if (f != NULL) {
            if (fscanf(f, "%lld", &quota) != 1) quota = 0;
            fclose(f);
        }
        f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r");
        if (f != NULL) {
            if (fscanf(f, "%lld", &period) != 1) period = 0;
            fclose(f);
        }
    }
    if (quota <= 0 || period <= 0) return 0;
    return (int)syi_min(256, syi_max(1, syi_ceil_div(quota, period)));
}

int syi_processors(void)
{
    int n = omp_get_num_procs(), quota = quota_processors();
    if (quota > 0 && quota < n) n = quota;
    return n < 1 ? 1 : n > 256 ? 256 : n;
}
