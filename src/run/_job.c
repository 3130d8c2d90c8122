/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs: from what the user typed to a verb at work. Which rows a job has is only known
 * once the methods that it names are known, so settings are resolved in two passes:
 * first the rows that name a method (adapter, optimizer, objective, trainer, method),
 * then the rows of the verb, the common rows and the rows of those methods at once. */
#include "run/job.h"
#include "base/registry.h"

#include <stdlib.h>

enum { MAX_USES = 4, MAX_TABLES = MAX_USES + 2 };

struct sy_job {
    sy_context *ctx;
    const sy_verb *verb;
    syi_arena *arena;
    syi_settings said;            /* as given, in order                          */
    syi_settings all;             /* with those of the run that is resumed below */
    void *self;                   /* the verb's context                          */
    syi_common common;
    sy_use use[MAX_USES]; bool taken[MAX_USES]; int n_use;
    syi_rows tables[MAX_TABLES]; int n_tables;
    json_t *report, *settings[2]; /* all of them, and those that change results */
    char *report_text;            /* malloc, by jansson */
    sy_print_fn *print; void *print_self;
    bool ran;
};

/* -- tables -------------------------------------------------------------------- */

static const sy_option common_rows[] = {
    { .name = "json", .type = SY_OPT_BOOL, .offset = offsetof(syi_common, json), .flags = SY_OPT_RUNTIME,
      .help = "print one JSON object on standard output, everything else on standard error", .example = "on" },
    { .name = "dry-run", .type = SY_OPT_BOOL, .offset = offsetof(syi_common, dry_run), .flags = SY_OPT_RUNTIME,
      .help = "check everything and print the memory plan, but do not work", .example = "on" },
    { .name = "memory-limit", .type = SY_OPT_SIZE, .offset = offsetof(syi_common, memory_limit), .flags = SY_OPT_RUNTIME,
      .help = "most memory to use; refuses early when the plan does not fit", .example = "2G" },
    { .name = "threads", .type = SY_OPT_INT, .offset = offsetof(syi_common, threads), .def = "0", .min = 0, .max = 256,
      .flags = SY_OPT_RUNTIME, .help = "worker threads (0: all); results do not depend on it", .example = "2" },
    { .name = "seed", .type = SY_OPT_INT, .offset = offsetof(syi_common, seed), .def = "42", .min = 0, .max = 9007199254740992.0,
      .help = "seed of everything random", .example = "7" },
    { .name = "quiet", .type = SY_OPT_BOOL, .offset = offsetof(syi_common, quiet), .flags = SY_OPT_RUNTIME,
      .help = "no progress and no receipts, only warnings and errors", .example = "on" },
    { .name = NULL }
};

const sy_option *sy_common_options(void) { return common_rows; }
const sy_verb *const *sy_verbs(void) { return syi_verbs; }

const sy_verb *sy_verb_find(const char *name)
{
    for (const sy_verb *const *v = syi_verbs; *v; v++)
        if (!strcmp((*v)->name, name)) return *v;
    return NULL;
}

const sy_option *syi_row_find(const sy_option *rows, const char *key)
{
    if (!rows) return NULL;
    for (const sy_option *r = rows; r->name; r++)
        if (!strcmp(r->name, key)) return r;
    for (const sy_option *r = rows; r->name; r++)
        if (syi_option_is(r, key)) return r;
    return NULL;
}

/* Rows that name a method; kind -1: the kind that the verb says. */
static const struct { const char *row; int kind; } naming[] = {
    { "adapter", SY_ADAPTER }, { "optimizer", SY_OPTIMIZER }, { "objective", SY_OBJECTIVE },
    { "trainer", SY_TRAINER }, { "method", -1 }
};

const sy_option *syi_verb_names(const sy_verb *verb, int i, int *kind)
{
    int seen = 0;
    for (int k = 0; k < SYI_COUNT(naming); k++) {
        const sy_option *row = syi_row_find(verb->options, naming[k].row);
        if (!row || row->type != SY_OPT_STRING || strcmp(row->name, naming[k].row)) continue;
        if (seen++ == i) { *kind = naming[k].kind < 0 ? verb->method : naming[k].kind; return row; }
    }
    return NULL;
}

/* -- uses: methods with their contexts --------------------------------------------- */

/* Lies before every context of a method, so that freeing needs nothing else. */
typedef struct { syi_arena *arena; char pad[64 - sizeof(syi_arena *)]; } use_head;

syi_arena *syi_use_arena(const sy_use *use) { return ((use_head *)use->self - 1)->arena; }

sy_status syi_use_find(sy_context *ctx, const char *name, int kind, const char *where, const sy_method **out)
{
    const char *names[256];
    int n = 0;
    *out = sy_method_find(name, kind);
    if (*out) return SY_OK;
    for (const sy_method *const *m = sy_methods(); *m; m++) {
        if ((int)(*m)->kind != kind) continue;
        if (n < SYI_COUNT(names)) names[n++] = (*m)->name;
        for (const sy_preset *p = (*m)->presets; p && p->name && n < SYI_COUNT(names); p++) names[n++] = p->name;
    }
    const char *near = syi_nearest(name, names, n), *what = sy_kind_name((sy_kind)kind);
    if (near) return syi_fail(ctx, SY_E_USAGE, "%s: there is no %s called \"%s\"; did you mean \"%s\"?", where, what, name, near);
    syi_text list;
    syi_text_init(&list, ctx, 4096);
    for (int i = 0; i < n; i++) syi_text_printf(&list, "%s%s", i ? ", " : "", names[i]);
    sy_status st = syi_fail(ctx, SY_E_USAGE, "%s: there is no %s called \"%s\"; there are: %s (see \"steelyard methods\")",
                            where, what, name, n && list.s ? list.s : "none");
    syi_text_free(&list);
    return st;
}

static const char *preset_settings(const sy_method *method, const char *name)
{
    const sy_preset *p = name ? sy_preset_find(method, name) : NULL;
    return p ? p->settings : NULL;
}

sy_status syi_use_make(sy_context *ctx, const sy_method *method, const char *name, sy_use *out)
{
    syi_arena *arena;
    out->method = NULL; out->self = NULL;
    SYI_TRY(syi_arena_new(ctx, 4096, &arena));
    use_head *head = syi_calloc(ctx, 1, sizeof *head + method->size);
    if (!head) { syi_arena_free(arena); return SY_E_MEMORY; }
    head->arena = arena;
    out->method = method;
    out->self = head + 1;
    if (!method->options) return SY_OK;
    syi_settings none;
    syi_settings_init(&none, ctx);
    syi_rows table = { method->options, out->self, method->name, preset_settings(method, name) };
    sy_status st = syi_options_fill(ctx, &none, &table, 1, arena);
    syi_settings_free(&none);
    if (st != SY_OK) sy_use_free(ctx, out);
    return st;
}

sy_status sy_use_new(sy_context *ctx, const char *name, sy_kind kind, const char *const *settings, int n, sy_use *out)
{
    const sy_method *method;
    out->method = NULL; out->self = NULL;
    SYI_TRY(syi_use_find(ctx, name, (int)kind, "sy_use_new", &method));
    SYI_TRY(syi_use_make(ctx, method, name, out));
    syi_settings s;
    syi_settings_init(&s, ctx);
    sy_status st = SY_OK;
    for (int i = 0; i < n && st == SY_OK; i++) {
        const char *eq = strchr(settings[i], '=');
        if (!eq) {
            st = syi_fail(ctx, SY_E_USAGE, "setting \"%s\" of %s is not of the form key=value", settings[i], name);
            break;
        }
        char *key = syi_strndup(ctx, settings[i], (size_t)(eq - settings[i]));
        st = key ? syi_settings_add(&s, key, eq + 1, settings[i], true) : SY_E_MEMORY;
        syi_free(ctx, key);
    }
    if (st == SY_OK && (n || method->options)) {
        static const sy_option nothing = { .name = NULL };
        syi_rows table = { method->options ? method->options : &nothing, out->self, name, preset_settings(method, name) };
        st = syi_options_fill(ctx, &s, &table, 1, syi_use_arena(out));
    }
    syi_settings_free(&s);
    if (st != SY_OK) sy_use_free(ctx, out);
    return st;
}

void sy_use_free(sy_context *ctx, sy_use *use)
{
    if (!use || !use->self) return;
    if (use->method->free) use->method->free(use->self);
    use_head *head = (use_head *)use->self - 1;
    syi_arena_free(head->arena);
    syi_free(ctx, head);
    use->method = NULL; use->self = NULL;
}

/* -- the job --------------------------------------------------------------------------- */

sy_status syi_job_new(sy_context *ctx, const sy_verb *verb, sy_job **out)
{
    *out = NULL;
    sy_job *job = syi_calloc(ctx, 1, sizeof *job);
    if (!job) return SY_E_MEMORY;
    job->ctx = ctx;
    job->verb = verb;
    syi_settings_init(&job->said, ctx);
    syi_settings_init(&job->all, ctx);
    job->report = json_object();
    sy_status st = job->report ? syi_arena_new(ctx, 16384, &job->arena) : syi_nomem(ctx, sizeof(void *));
    if (st != SY_OK) { sy_job_free(job); return st; }
    *out = job;
    return SY_OK;
}

sy_status sy_job_new(sy_context *ctx, const char *verb, sy_job **out)
{
    *out = NULL;
    const sy_verb *v = sy_verb_find(verb);
    if (v) return syi_job_new(ctx, v, out);
    const char *names[64];
    int n = 0;
    for (const sy_verb *const *p = syi_verbs; *p && n < SYI_COUNT(names); p++) names[n++] = (*p)->name;
    const char *near = syi_nearest(verb, names, n);
    if (near) return syi_fail(ctx, SY_E_USAGE, "there is no verb \"%s\"; did you mean \"%s\"?", verb, near);
    return syi_fail(ctx, SY_E_USAGE, "there is no verb \"%s\"; \"steelyard help\" lists them", verb);
}

void sy_job_free(sy_job *job)
{
    if (!job) return;
    sy_context *ctx = job->ctx;
    for (int i = 0; i < job->n_use; i++)
        if (!job->taken[i]) sy_use_free(ctx, &job->use[i]);
    if (job->self && job->verb->free) job->verb->free(job->self);
    syi_free(ctx, job->self);
    syi_settings_free(&job->said);
    syi_settings_free(&job->all);
    json_decref(job->report);
    json_decref(job->settings[0]);
    json_decref(job->settings[1]);
    syi_json_free_text(job->report_text);
    syi_arena_free(job->arena);
    syi_free(ctx, job);
}

sy_status sy_job_set(sy_job *job, const char *key, const char *value)
{
    char *where = syi_format(job->ctx, "--%s", key);
    if (!where) return SY_E_MEMORY;
    sy_status st = syi_settings_add(&job->said, key, value, where, true);
    syi_free(job->ctx, where);
    return st;
}

sy_status sy_job_load(sy_job *job, const char *path) { return syi_settings_yaml(&job->said, path); }

static const syi_setting *setting_of(const syi_settings *s, const sy_option *row)
{
    const syi_setting *best = NULL;
    for (int64_t i = 0; i < s->n; i++)
        if (syi_option_is(row, s->at[i].key) && (!best || s->at[i].flag >= best->flag)) best = &s->at[i];
    return best;
}

/* A run that is resumed brings its settings, below YAML and flags. */
static sy_status gather(sy_job *job)
{
    const sy_option *resume = syi_row_find(job->verb->options, "resume");
    const syi_setting *run = resume ? setting_of(&job->said, resume) : NULL;
    if (run && *run->value) {
        char *path = syi_join(job->ctx, run->value, SYI_SETTINGS_FILE);
        if (!path) return SY_E_MEMORY;
        sy_status st;
        if (syi_exists(path)) st = syi_settings_yaml(&job->all, path);
        else st = syi_fail(job->ctx, SY_E_INPUT, "%s: \"%s\" is not the folder of a run (it has no %s); give the folder "
                           "that --out named", run->where, run->value, SYI_SETTINGS_FILE);
        syi_free(job->ctx, path);
        SYI_TRY(st);
    }
    for (int64_t i = 0; i < job->said.n; i++) {
        const syi_setting *s = &job->said.at[i];
        /* A setting under an alias must win over the resumed run's under the name. */
        const sy_option *row = syi_row_find(job->verb->options, s->key);
        if (!row) row = syi_row_find(common_rows, s->key);
        SYI_TRY(syi_settings_add(&job->all, row ? row->name : s->key, s->value, s->where, s->flag));
    }
    return SY_OK;
}

static sy_status find_methods(sy_job *job)
{
    int kind;
    const sy_option *row;
    for (int i = 0; (row = syi_verb_names(job->verb, i, &kind)); i++) {
        const syi_setting *set = setting_of(&job->all, row);
        const char *name = set ? set->value : row->def;
        if (!name || !*name || !strcmp(name, "none")) continue;
        const sy_method *method;
        SYI_TRY(syi_use_find(job->ctx, name, kind, set ? set->where : row->name, &method));
        sy_use *use = &job->use[job->n_use];
        SYI_TRY(syi_use_make(job->ctx, method, name, use));
        job->n_use++;
        if (method->options) job->tables[job->n_tables++] = (syi_rows){ method->options, use->self, method->name, preset_settings(method, name) };
    }
    return SY_OK;
}

/* An unknown key that another method has: say so rather than "unknown option". */
static sy_status belongs_elsewhere(sy_job *job)
{
    int kind;
    if (!syi_verb_names(job->verb, 0, &kind)) return SY_OK;
    for (int64_t i = 0; i < job->all.n; i++) {
        const syi_setting *s = &job->all.at[i];
        bool known = false;
        for (int t = 0; t < job->n_tables && !known; t++) known = syi_row_find(job->tables[t].rows, s->key) != NULL;
        if (known) continue;
        const sy_option *row;
        char owners[512] = ""; /* cut where a great many methods have it */
        size_t used = 0;
        for (int k = 0; (row = syi_verb_names(job->verb, k, &kind)); k++)
            for (const sy_method *const *m = sy_methods(); *m && used < sizeof owners; m++)
                if ((int)(*m)->kind == kind && syi_row_find((*m)->options, s->key))
                    used += (size_t)snprintf(owners + used, sizeof owners - used, "%s--%s %s", used ? ", " : "", row->name, (*m)->name);
        if (used)
            return syi_fail(job->ctx, SY_E_USAGE, "%s: \"%s\" is an option of a method that is not in use here; add what has it (%s) or leave it out",
                            s->where, s->key, owners);
    }
    return SY_OK;
}

/* Taken once the rows are filled: a method that was taken may be gone when it is asked for. */
static sy_status keep_settings(sy_job *job, bool fingerprint)
{
    json_t *out = job->settings[fingerprint] = json_object();
    if (!out) return syi_nomem(job->ctx, 0);
    for (int t = 0; t < job->n_tables; t++)
        for (const sy_option *row = job->tables[t].rows; row->name; row++) {
            if (fingerprint && (row->flags & SY_OPT_RUNTIME)) continue;
            char *text = syi_option_text(job->ctx, row, job->tables[t].base);
            if (!text) return SY_E_MEMORY;
            if (*text) json_object_set_new(out, row->name, json_string(text));
            syi_free(job->ctx, text);
        }
    return SY_OK;
}

sy_status sy_job_run(sy_job *job)
{
    sy_context *ctx = job->ctx;
    static const sy_option nothing = { .name = NULL };
    if (job->ran) return syi_fail(ctx, SY_E_USAGE, "this job has run; make a new one with sy_job_new");
    job->ran = true;
    job->self = syi_calloc(ctx, 1, job->verb->size ? job->verb->size : 1);
    if (!job->self) return SY_E_MEMORY;
    job->tables[job->n_tables++] = (syi_rows){ job->verb->options ? job->verb->options : &nothing, job->self, job->verb->name, NULL };
    job->tables[job->n_tables++] = (syi_rows){ common_rows, &job->common, "steelyard", NULL };
    SYI_TRY(gather(job));
    SYI_TRY(find_methods(job));
    SYI_TRY(belongs_elsewhere(job));
    SYI_TRY(syi_options_fill(ctx, &job->all, job->tables, job->n_tables, job->arena));
    SYI_TRY(keep_settings(job, false));
    SYI_TRY(keep_settings(job, true));
    if (job->common.threads) SYI_TRY(sy_threads_set(ctx, (int)job->common.threads));
    return job->verb->run(job->self, job);
}

const char *sy_job_report(const sy_job *job)
{
    sy_job *j = (sy_job *)(uintptr_t)job; /* the text is a cache */
    char *text = json_dumps(j->report, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    if (!text) return "{}";
    syi_json_free_text(j->report_text);
    j->report_text = text;
    return text;
}

void sy_job_print_to(sy_job *job, sy_print_fn *fn, void *self) { job->print = fn; job->print_self = self; }

/* -- what a verb sees ------------------------------------------------------------------- */

sy_context *syi_job_context(sy_job *job) { return job->ctx; }
const syi_common *syi_job_common(const sy_job *job) { return &job->common; }
syi_arena *syi_job_arena(sy_job *job) { return job->arena; }
json_t *syi_job_report(sy_job *job) { return job->report; }

sy_use syi_job_take(sy_job *job, sy_kind kind)
{
    for (int i = 0; i < job->n_use; i++)
        if (!job->taken[i] && job->use[i].method->kind == kind) {
            job->taken[i] = true;
            return job->use[i];
        }
    return (sy_use){ NULL, NULL };
}

bool syi_job_given(const sy_job *job, const char *key)
{
    for (int t = 0; t < job->n_tables; t++) {
        const sy_option *row = syi_row_find(job->tables[t].rows, key);
        if (row) return setting_of(&job->all, row) != NULL;
    }
    return false;
}

json_t *syi_job_settings(sy_job *job, bool fingerprint) { return json_copy(job->settings[fingerprint]); }

void syi_job_print(sy_job *job, const char *fmt, ...)
{
    if (!job->print) return;
    va_list ap;
    char small[512], *text = small;
    va_start(ap, fmt);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    if (n >= (int)sizeof small) {
        text = syi_alloc(job->ctx, (size_t)n + 1);
        if (!text) return;
        va_start(ap, fmt);
        vsnprintf(text, (size_t)n + 1, fmt, ap);
        va_end(ap);
    }
    if (n > 0) job->print(job->print_self, text, (size_t)n);
    if (text != small) syi_free(job->ctx, text);
}

void syi_job_receipt(sy_job *job, const char *fmt, ...)
{
    char line[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    syi_log(job->ctx, SY_LOG_INFO, "%s", line);
    json_t *list = json_object_get(job->report, "receipt");
    if (!list) {
        list = json_array();
        json_object_set_new(job->report, "receipt", list);
    }
    json_array_append_new(list, json_string(line));
}
