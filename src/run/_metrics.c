/* SPDX-License-Identifier: Apache-2.0 */
/* What a run records as it goes: metrics.jsonl (one object a line, Hugging Face's and
 * LLaMA-Factory's names), the same numbers for TensorBoard, and the loss curve. Lines are
 * appended with one write each; at a checkpoint the files are synced and their sizes are
 * stored with it, so that a resumed run cuts them to exactly what it had seen. */
#include "io/io.h"
#include "report/chart.h"
#include "train.h"

#include <math.h>
#include <time.h>
#include <unistd.h>

typedef struct { double *x, *y; int64_t n, cap_x, cap_y; } curve;

struct syi_metrics {
    sy_context *ctx;
    char *dir, *jsonl_path, *events_path;
    char events_name[256];
    syi_appender *jsonl;
    syi_tfevents *events;
    curve train, eval;
};

enum { MAX_LOG = 1 << 30 };

static double wall_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static sy_status curve_add(sy_context *ctx, curve *c, double x, double y)
{
    SYI_TRY(syi_grow(ctx, (void **)&c->x, &c->cap_x, c->n + 1, sizeof *c->x, INT64_MAX / 16));
    SYI_TRY(syi_grow(ctx, (void **)&c->y, &c->cap_y, c->n + 1, sizeof *c->y, INT64_MAX / 16));
    c->x[c->n] = x;
    c->y[c->n++] = y;
    return SY_OK;
}

static sy_status remember(syi_metrics *m, const json_t *line)
{
    const json_t *step = json_object_get(line, "step"), *loss = json_object_get(line, "loss"),
                 *eval = json_object_get(line, "eval_loss");
    if (!json_is_number(step)) return SY_OK;
    if (json_is_number(loss)) SYI_TRY(curve_add(m->ctx, &m->train, json_number_value(step), json_number_value(loss)));
    if (json_is_number(eval)) SYI_TRY(curve_add(m->ctx, &m->eval, json_number_value(step), json_number_value(eval)));
    return SY_OK;
}

/* The lines that the cut left. */
static sy_status read_back(syi_metrics *m)
{
    char *text = NULL;
    int64_t size = 0, line = 1;
    SYI_TRY(syi_read_file(m->ctx, m->jsonl_path, MAX_LOG, &text, &size));
    sy_status status = SY_OK;
    for (char *p = text; status == SY_OK && p < text + size; line++) {
        char *end = memchr(p, '\n', (size_t)(text + size - p));
        size_t n = end != NULL ? (size_t)(end - p) : (size_t)(text + size - p);
        char where[320];
        snprintf(where, sizeof where, "%.280s:%lld", m->jsonl_path, (long long)line);
        json_t *j = NULL;
        status = syi_json_parse(m->ctx, p, n, where, &j);
        if (status == SY_OK) status = remember(m, j);
        json_decref(j);
        p += n + 1;
    }
    syi_free(m->ctx, text);
    return status;
}

/* Event files of attempts that never reached a checkpoint; all but `keep`. */
static sy_status remove_events(sy_context *ctx, const char *dir, const char *keep)
{
    char **names = NULL;
    int n = 0;
    SYI_TRY(syi_list_dir(ctx, dir, &names, &n));
    sy_status status = SY_OK;
    for (int i = 0; i < n; i++) {
        if (status == SY_OK && syi_starts(names[i], "events.out.tfevents.") && strcmp(names[i], keep) != 0) {
            char *path = syi_join(ctx, dir, names[i]);
            status = path != NULL ? syi_remove_tree(ctx, path) : SY_E_MEMORY;
            syi_free(ctx, path);
        }
        syi_free(ctx, names[i]);
    }
    syi_free(ctx, names);
    return status;
}

sy_status syi_metrics_remove_events(sy_context *ctx, const char *dir)
{
    return remove_events(ctx, dir, "");
}

static int64_t keep_of(syi_metrics *m, const char *path, int64_t size)
{
    if (size == 0 || syi_exists(path)) return size;
    syi_log(m->ctx, SY_LOG_WARN, "%s is gone (it had %lld bytes at the last checkpoint); it is begun anew", path,
            (long long)size);
    return 0;
}

sy_status syi_metrics_open(sy_context *ctx, const char *dir, const syi_log_sizes *at, syi_metrics **out)
{
    *out = NULL;
    syi_metrics *m = syi_calloc(ctx, 1, sizeof *m);
    if (m == NULL) return SY_E_MEMORY;
    m->ctx = ctx;
    sy_status status = SY_E_MEMORY;
    if (at->events_name[0] != '\0') snprintf(m->events_name, sizeof m->events_name, "%s", at->events_name);
    else {
        char host[65] = "localhost";
        if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0') snprintf(host, sizeof host, "localhost");
        for (char *p = host; *p != '\0'; p++)
            if (*p == '/' || (unsigned char)*p <= ' ') *p = '_';
        snprintf(m->events_name, sizeof m->events_name, "events.out.tfevents.%lld.%s.%ld.0", (long long)wall_time(), host,
                 (long)getpid());
    }
    if ((m->dir = syi_strdup(ctx, dir)) == NULL || (m->jsonl_path = syi_join(ctx, dir, "metrics.jsonl")) == NULL ||
        (m->events_path = syi_join(ctx, dir, m->events_name)) == NULL)
        goto fail;
    SYI_TRY_TO(fail, status, remove_events(ctx, dir, m->events_name));
    SYI_TRY_TO(fail, status, syi_append_open(ctx, m->jsonl_path, keep_of(m, m->jsonl_path, at->jsonl), &m->jsonl));
    SYI_TRY_TO(fail, status,
               syi_tfevents_open(ctx, m->events_path, keep_of(m, m->events_path, at->events), wall_time(), &m->events));
    SYI_TRY_TO(fail, status, read_back(m));
    *out = m;
    return SY_OK;
fail:
    syi_metrics_close(m);
    return status;
}

sy_status syi_metrics_add(syi_metrics *m, json_t *line)
{
    if (line == NULL) return syi_nomem(m->ctx, 256);
    char *text = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9));
    syi_text row;
    syi_text_init(&row, m->ctx, 1 << 20);
    if (text != NULL) syi_text_printf(&row, "%s\n", text);
    syi_json_free_text(text);
    sy_status status = text == NULL || row.failed ? syi_nomem(m->ctx, 256) : syi_append(m->jsonl, row.s, (int64_t)row.len);
    syi_text_free(&row);
    if (status == SY_OK) status = remember(m, line);
    int64_t step = json_integer_value(json_object_get(line, "step"));
    double now = wall_time();
    const char *key;
    json_t *value;
    json_object_foreach(line, key, value) {
        char tag[128];
        if (status != SY_OK || !json_is_number(value) || strcmp(key, "step") == 0 || strcmp(key, "current_steps") == 0 ||
            strcmp(key, "total_steps") == 0 || strcmp(key, "percentage") == 0)
            continue;
        if (syi_starts(key, "eval_")) snprintf(tag, sizeof tag, "eval/%.100s", key + 5);
        else snprintf(tag, sizeof tag, "train/%.100s", key);
        status = syi_tfevents_scalar(m->events, now, step, tag, json_number_value(value));
    }
    json_decref(line);
    return status;
}

sy_status syi_metrics_sync(syi_metrics *m, syi_log_sizes *out)
{
    *out = (syi_log_sizes){.jsonl = syi_append_size(m->jsonl), .events = syi_tfevents_size(m->events)};
    snprintf(out->events_name, sizeof out->events_name, "%s", m->events_name);
    syi_appender *jsonl = m->jsonl;
    syi_tfevents *events = m->events;
    m->jsonl = NULL;
    m->events = NULL;
    sy_status status = syi_append_close(jsonl, true);
    sy_status other = syi_tfevents_close(events);
    if (status == SY_OK) status = other;
    if (status == SY_OK) status = syi_append_open(m->ctx, m->jsonl_path, -1, &m->jsonl);
    if (status == SY_OK) status = syi_tfevents_open(m->ctx, m->events_path, -1, wall_time(), &m->events);
    return status;
}

sy_status syi_metrics_picture(syi_metrics *m, const char *title, const char *subtitle)
{
    syi_text svg;
    syi_text_init(&svg, m->ctx, 1 << 26);
    char *path = syi_join(m->ctx, m->dir, "loss.svg");
    sy_status status = path == NULL ? SY_E_MEMORY : SY_OK;
    if (status == SY_OK)
        status = syi_loss_svg(m->ctx, title, subtitle, m->train.x, m->train.y, m->train.n, m->eval.x, m->eval.y, m->eval.n,
                              &svg);
    if (status == SY_OK) status = syi_write_file(m->ctx, path, svg.s, (int64_t)svg.len);
    syi_free(m->ctx, path);
    syi_text_free(&svg);
    return status;
}

sy_status syi_metrics_history(syi_metrics *m, syi_text *out)
{
    char *text = NULL;
    int64_t size = 0;
    SYI_TRY(syi_read_file(m->ctx, m->jsonl_path, MAX_LOG, &text, &size));
    while (size > 0 && text[size - 1] == '\n') size--;
    for (int64_t from = 0; from < size;) {
        const char *end = memchr(text + from, '\n', (size_t)(size - from));
        int64_t n = end != NULL ? end - (text + from) : size - from;
        syi_text_add(out, text + from, (size_t)n);
        from += n + 1;
        if (from < size) syi_text_puts(out, ",\n    ");
    }
    syi_free(m->ctx, text);
    return out->failed ? syi_nomem(m->ctx, (size_t)size) : SY_OK;
}

sy_status syi_metrics_close(syi_metrics *m)
{
    if (m == NULL) return SY_OK;
    sy_status status = syi_append_close(m->jsonl, true), other = syi_tfevents_close(m->events);
    syi_free(m->ctx, m->train.x);
    syi_free(m->ctx, m->train.y);
    syi_free(m->ctx, m->eval.x);
    syi_free(m->ctx, m->eval.y);
    syi_free(m->ctx, m->dir);
    syi_free(m->ctx, m->jsonl_path);
    syi_free(m->ctx, m->events_path);
    syi_free(m->ctx, m);
    return status != SY_OK ? status : other;
}
