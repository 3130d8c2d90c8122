/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines, progress, the clock, and what the system says about the memory of
 * this process. Nothing is printed here: callbacks decide. */
#include "private.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#ifdef __APPLE__
#include <mach/mach.h>
#endif

void sy_log_set(sy_context *ctx, sy_log_fn *fn, void *self)
{
    ctx->log = fn;
    ctx->log_self = self;
}

void sy_progress_set(sy_context *ctx, sy_progress_fn *fn, void *self)
{
    ctx->progress = fn;
    ctx->progress_self = self;
}

void syi_log(sy_context *ctx, sy_log_level level, const char *fmt, ...)
{
    if (ctx->log == NULL) return;
    char line[SYI_MESSAGE_MAX];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (n >= 0) ctx->log(ctx->log_self, level, line);
}

void syi_progress(sy_context *ctx, const sy_progress *progress)
{
    if (ctx->progress != NULL) ctx->progress(ctx->progress_self, progress);
}

double syi_now(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0) return 0;
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double syi_process_age(void)
{
    char text[1024];
    FILE *f = fopen("/proc/self/stat", "r");
    if (f == NULL) return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    /* The second field is the name in brackets, which may hold anything; 19 more follow up to the start time. */
    const char *at = strrchr(text, ')');
    for (int i = 0; at != NULL && i < 20; i++)
        if ((at = strchr(at, ' ')) != NULL) at++;
    double up = 0;
    if (at == NULL || (f = fopen("/proc/uptime", "r")) == NULL) return 0;
    unsigned long long ticks = strtoull(at, NULL, 10);
    int found = fscanf(f, "%lf", &up);
    fclose(f);
    double age = up - (double)ticks / (double)sysconf(_SC_CLK_TCK);
    return found == 1 && age > 0 ? age : 0;
}

int64_t syi_rss_now(void)
{
#ifdef __APPLE__
    struct mach_task_basic_info info;
    mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
    if (task_info(mach_task_self(), MACH_TASK_BASIC_INFO, (task_info_t)&info, &count) != KERN_SUCCESS) return 0;
    return (int64_t)info.resident_size;
#else
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL) return 0;
    long long total = 0, resident = 0;
    int found = fscanf(f, "%lld %lld", &total, &resident);
    fclose(f);
    return found == 2 ? (int64_t)resident * (int64_t)sysconf(_SC_PAGESIZE) : 0;
#endif
}

int64_t syi_rss_peak(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
    return (int64_t)usage.ru_maxrss;
#else
    return (int64_t)usage.ru_maxrss * 1024;
#endif
}
