/* SPDX-License-Identifier: Apache-2.0 */
/* Running experiments and collecting what they measured. */
#include "steelyard/experiment.h"

#include "base/registry.h"
#include "run/job.h"

#include <math.h>
#include <stdarg.h>

struct sy_report {
    sy_context *ctx;
    const sy_experiment *experiment;
    json_t *rows, *checks;
    int held, failed;
    double start;
};

const sy_experiment *const *sy_experiments(void) { return syi_experiments; }

const sy_experiment *sy_experiment_find(const char *name)
{
    for (const sy_experiment *const *e = syi_experiments; *e; e++)
        if (strcmp((*e)->name, name) == 0) return *e;
    return NULL;
}

sy_status sy_use_own(sy_context *ctx, const sy_method *method, sy_use *out) { return syi_use_make(ctx, method, NULL, out); }

static json_t *real(double v) { return isfinite(v) ? json_real(v) : json_null(); }

sy_status sy_report_row(sy_report *r, const char *what, const double *values, int n, double expected)
{
    double sum = 0, squares = 0;
    json_t *row = json_object(), *list = json_array();
    if (!row || !list) {
        json_decref(row);
        json_decref(list);
        return syi_nomem(r->ctx, 0);
    }
    for (int i = 0; i < n; i++) {
        sum += values[i];
        json_array_append_new(list, real(values[i]));
    }
    for (int i = 0; i < n; i++) squares += (values[i] - sum / n) * (values[i] - sum / n);
    json_object_set_new(row, "what", json_string(what));
    json_object_set_new(row, "mean", real(n > 0 ? sum / n : NAN));
    json_object_set_new(row, "sd", real(n > 1 ? sqrt(squares / (n - 1)) : 0));
    json_object_set_new(row, "expected", real(expected));
    json_object_set_new(row, "values", list);
    if (json_array_append_new(r->rows, row) != 0) return syi_nomem(r->ctx, 0);
    syi_log(r->ctx, SY_LOG_INFO, "%s: %s = %.6g", r->experiment->name, what, n > 0 ? sum / n : NAN);
    return SY_OK;
}

sy_status sy_report_check(sy_report *r, bool held, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    json_t *check = json_pack("{s:s, s:b}", "text", text, "held", (int)held);
    if (!check || json_array_append_new(r->checks, check) != 0) return syi_nomem(r->ctx, 0);
    if (held) r->held++;
    else r->failed++;
    return SY_OK;
}

void sy_report_progress(sy_report *r, int64_t done, int64_t total, const char *what)
{
    const double seconds = syi_now() - r->start;
    syi_progress(r->ctx, &(sy_progress){ .what = what, .done = done, .total = total, .unit = "run", .seconds = seconds,
                                         .eta = done > 0 ? seconds / (double)done * (double)(total - done) : -1, .loss = NAN, .bytes = syi_rss_now() });
}

sy_status sy_experiment_run(sy_context *ctx, const sy_experiment *e, int seeds, char **json)
{
    sy_report r = { .ctx = ctx, .experiment = e, .rows = json_array(), .checks = json_array(), .start = syi_now() };
    json_t *all = json_object();
    *json = NULL;
    sy_status st = r.rows && r.checks && all ? SY_OK : syi_nomem(ctx, 0);
    if (seeds <= 0) seeds = e->seeds;
    if (st == SY_OK) st = e->run(ctx, seeds, &r);
    if (st == SY_OK && r.held + r.failed == 0) st = syi_fail(ctx, SY_E_BUG, "experiment %s checks nothing", e->name);
    if (st == SY_OK) {
        const char *verdict = r.failed == 0 ? "reproduced" : r.held > 0 ? "partly" : "not reproduced";
        json_object_set_new(all, "name", json_string(e->name));
        json_object_set_new(all, "claim", json_string(e->claim));
        json_object_set_new(all, "paper", json_string(e->paper));
        json_object_set_new(all, "seeds", json_integer(seeds));
        json_object_set(all, "rows", r.rows);
        json_object_set(all, "checks", r.checks);
        json_object_set_new(all, "verdict", json_string(verdict));
        json_object_set_new(all, "seconds", json_real(syi_now() - r.start));
        char *text = json_dumps(all, JSON_INDENT(2));
        *json = text ? syi_strdup(ctx, text) : NULL;
        if (!*json) st = syi_nomem(ctx, 0);
        syi_json_free_text(text);
    }
    json_decref(r.rows);
    json_decref(r.checks);
    json_decref(all);
    return st;
}
