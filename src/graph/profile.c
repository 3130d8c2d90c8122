/* SPDX-License-Identifier: Apache-2.0 */
/* The profiler behind `--profile`: every op call with its time, counted FLOPs and
 * bytes, as a table by op and as a Chrome trace. */
#include "graph/graph.h"

#include <stdlib.h>

typedef struct { const char *op; bool backward; double begin, seconds, flops, bytes; } event;
struct syi_profile { sy_context *ctx; event *at; int64_t n, cap; int64_t dropped; };

sy_status syi_profile_new(sy_context *ctx, syi_profile **out)
{
    *out = syi_calloc(ctx, 1, sizeof **out);
    if (!*out) return SY_E_MEMORY;
    (*out)->ctx = ctx;
    return SY_OK;
}

void syi_profile_free(syi_profile *p)
{
    if (!p) return;
    syi_free(p->ctx, p->at);
    syi_free(p->ctx, p);
}

void syi_profile_add(syi_profile *p, const char *op, bool backward, double begin, double seconds, double flops, double bytes)
{
    if (syi_grow(p->ctx, (void **)&p->at, &p->cap, p->n + 1, sizeof(event), 1 << 22) != SY_OK) {
        sy_error_clear(p->ctx); /* a full profile is no reason to lose the run */
        p->dropped++;
        return;
    }
    p->at[p->n++] = (event){op, backward, begin, seconds, flops, bytes};
}

typedef struct { const char *op; bool backward; int64_t calls; double seconds, flops, bytes; } line;

static int by_time(const void *a, const void *b)
{
    double x = ((const line *)a)->seconds, y = ((const line *)b)->seconds;
    return (x < y) - (x > y);
}

void syi_profile_table(const syi_profile *p, double limit, syi_text *out)
{
    enum { MAX = 256 };
    line lines[MAX];
    int n = 0;
    double total = 0, flops = 0;
    for (int64_t i = 0; i < p->n; i++) {
        const event *e = &p->at[i];
        int k = 0;
        while (k < n && (strcmp(lines[k].op, e->op) != 0 || lines[k].backward != e->backward)) k++;
        if (k == n) {
            if (n == MAX) continue;
            lines[n++] = (line){e->op, e->backward, 0, 0, 0, 0};
        }
        lines[k].calls++;
        lines[k].seconds += e->seconds;
        lines[k].flops += e->flops;
        lines[k].bytes += e->bytes;
        total += e->seconds;
        flops += e->flops;
    }
    qsort(lines, (size_t)n, sizeof lines[0], by_time);
    syi_text_printf(out, "%-28s %8s %10s %7s %9s %9s", "op", "calls", "ms", "share", "GFLOP/s", "GB/s");
    if (limit > 0) syi_text_printf(out, " %9s", "of limit");
    syi_text_puts(out, "\n");
    for (int k = 0; k < n; k++) {
        const line *l = &lines[k];
        double s = l->seconds > 0 ? l->seconds : 1e-12;
        syi_text_printf(out, "%-19s %-8s %8lld %10.2f %6.1f%% %9.1f %9.1f", l->op, l->backward ? "backward" : "", (long long)l->calls,
                        l->seconds * 1e3, 100 * l->seconds / (total > 0 ? total : 1), l->flops / s * 1e-9, l->bytes / s * 1e-9);
        if (limit > 0) syi_text_printf(out, " %8.1f%%", 100 * l->flops / s / limit);
        syi_text_puts(out, "\n");
    }
    syi_text_printf(out, "%-28s %8lld %10.2f %6.1f%% %9.1f", "all", (long long)p->n, total * 1e3, 100.0,
                    total > 0 ? flops / total * 1e-9 : 0.0);
    if (limit > 0) syi_text_printf(out, " %9s %8.1f%%", "", total > 0 ? 100 * flops / total / limit : 0.0);
    syi_text_puts(out, "\n");
    if (p->dropped) syi_text_printf(out, "(%lld calls were not recorded: the profile was full)\n", (long long)p->dropped);
}

double syi_profile_flops(const syi_profile *p, double *seconds)
{
    double flops = 0;
    *seconds = 0;
    for (int64_t i = 0; i < p->n; i++) flops += p->at[i].flops;
    if (p->n > 0) *seconds = p->at[p->n - 1].begin + p->at[p->n - 1].seconds - p->at[0].begin;
    return flops;
}

sy_status syi_profile_trace(const syi_profile *p, const char *path)
{
    syi_text t;
    syi_text_init(&t, p->ctx, (size_t)1 << 31);
    syi_text_puts(&t, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
    double first = p->n ? p->at[0].begin : 0;
    for (int64_t i = 0; i < p->n; i++) {
        const event *e = &p->at[i];
        syi_text_printf(&t, "%s{\"name\":\"%s\",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":%.3f,\"dur\":%.3f,"
                        "\"args\":{\"gflop\":%.6g,\"mbyte\":%.6g}}", i ? ",\n" : "", e->op, e->backward ? "backward" : "forward",
                        (e->begin - first) * 1e6, e->seconds * 1e6, e->flops * 1e-9, e->bytes * 1e-6);
    }
    syi_text_puts(&t, "\n]}\n");
    sy_status s = t.failed ? syi_nomem(p->ctx, t.len) : syi_write_file(p->ctx, path, t.s, (int64_t)t.len);
    syi_text_free(&t);
    return s;
}
