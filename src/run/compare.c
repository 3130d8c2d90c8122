/* SPDX-License-Identifier: Apache-2.0 */
/* The verb "compare": several methods on the same work. Reads what is asked for, settles ranks
 * for equal parameters or bytes, trains every method with every seed (the learning rate chosen
 * on the validation split with the first seed), measures, and writes compare.json and
 * report.html. Every run is a run folder of its own; one whose result is there is not run
 * again, one that was cut short is resumed. */
#include "run/compare.h"
#include "run/train.h"

#include "base/base.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    char *spec, *out;
    /* the rest is set by run */
    sy_job *job;
    sy_context *ctx;
    json_t *asked, *result;
    int64_t done, planned;
} compare;

#define OFFSET(field) offsetof(compare, field)
static const sy_option rows[] = {
    {.name = "spec", .type = SY_OPT_PATH, .offset = OFFSET(spec), .flags = SY_OPT_POSITION | SY_OPT_REQUIRED, .help = "YAML file: model, data, methods, seeds, budget", .example = "compare.yaml"},
    {.name = "out", .type = SY_OPT_PATH, .offset = OFFSET(out), .def = "comparison", .help = "folder for runs, compare.json and report.html; what is there already is not run again", .example = "comparison"},
    {.name = NULL}
};

/* -- what is asked for ---------------------------------------------------------------------- */

static const char *const top_keys[] = {"title", "model", "data", "eval-data", "test-data", "control-data", "seeds", "lr", "match", "budget", "tokens", "choose-tokens", "time-steps", "train", "methods"};
static const char *const method_keys[] = {"name", "adapter", "optimizer", "objective", "trainer", "lr", "match", "settings", "train"};

/* Mappings with '_' and '-' alike: keys are brought to '-'. */
static sy_status canonical(sy_context *ctx, const json_t *in, const char *const *known, int n, const char *where, json_t **out)
{
    const char *key;
    json_t *value;
    *out = json_object();
    if (!json_is_object(in)) return syi_fail(ctx, SY_E_USAGE, "%s must be a mapping of keys and values", where);
    json_object_foreach((json_t *)(uintptr_t)in, key, value) {
        char name[64];
        size_t k = 0;
        for (; key[k] && k + 1 < sizeof name; k++) name[k] = key[k] == '_' ? '-' : key[k];
        name[k] = '\0';
        bool ok = n == 0;
        for (int i = 0; i < n; i++) ok |= strcmp(name, known[i]) == 0;
        if (!ok) {
            const char *near = syi_nearest(name, known, n);
            return syi_fail(ctx, SY_E_USAGE, "%s: there is no key \"%s\"%s%s%s", where, key, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
        }
        json_object_set(*out, name, value);
    }
    return SY_OK;
}

static const char *text(const json_t *j, const char *key) { return json_string_value(json_object_get(j, key)); }

/* A JSON value as it would be typed. */
static char *typed(sy_context *ctx, const json_t *v)
{
    if (json_is_string(v)) return syi_strdup(ctx, json_string_value(v));
    if (json_is_boolean(v)) return syi_strdup(ctx, json_is_true(v) ? "on" : "off");
    if (json_is_integer(v)) return syi_format(ctx, "%lld", (long long)json_integer_value(v));
    if (json_is_real(v)) return syi_format(ctx, "%.17g", json_real_value(v));
    char *raw = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY), *out = raw ? syi_strdup(ctx, raw) : NULL;
    syi_json_free_text(raw);
    return out;
}

/* A number or a list of numbers as a list (new reference). */
static sy_status numbers(sy_context *ctx, const json_t *v, const char *where, json_t **out)
{
    *out = json_array();
    if (json_is_number(v)) json_array_append(*out, (json_t *)(uintptr_t)v);
    else if (json_is_array(v)) json_array_extend(*out, (json_t *)(uintptr_t)v);
    for (size_t i = 0; i < json_array_size(*out); i++)
        if (!json_is_number(json_array_get(*out, i))) return syi_fail(ctx, SY_E_USAGE, "%s must be a number or a list of numbers", where);
    return json_array_size(*out) ? SY_OK : syi_fail(ctx, SY_E_USAGE, "%s must be a number or a list of numbers", where);
}

static sy_status read_method(compare *c, size_t i, json_t *defaults_lr, json_t *methods)
{
    char where[300];
    json_t *m = NULL;
    snprintf(where, sizeof where, "%.200s: method %zu", c->spec, i + 1);
    const json_t *in = json_array_get(json_object_get(c->asked, "methods"), i);
    json_t *short_form = json_is_string(in) ? json_pack("{s:O, s:O}", "name", in, "adapter", in) : NULL;
    sy_status st = canonical(c->ctx, short_form ? short_form : in, method_keys, SYI_COUNT(method_keys), where, &m);
    json_decref(short_form);
    json_array_append_new(methods, m);
    SYI_TRY(st);
    if (!text(m, "adapter")) json_object_set_new(m, "adapter", json_string("lora"));
    if (!text(m, "name")) json_object_set(m, "name", json_object_get(m, "adapter"));
    for (const char *p = text(m, "name"); *p; p++)
        if (strchr("/\\\"<>", *p) || (unsigned char)*p < 32) return syi_fail(c->ctx, SY_E_USAGE, "%s: the name \"%s\" cannot be a folder's", where, text(m, "name"));
    for (size_t k = 0; k < i; k++)
        if (strcmp(text(json_array_get(methods, k), "name"), text(m, "name")) == 0)
            return syi_fail(c->ctx, SY_E_USAGE, "%s: two methods are called \"%s\"; give them names of their own", where, text(m, "name"));
    if (!json_object_get(m, "settings")) json_object_set_new(m, "settings", json_object());
    if (!json_object_get(m, "train")) json_object_set_new(m, "train", json_object());
    if (!json_is_object(json_object_get(m, "settings")) || !json_is_object(json_object_get(m, "train")))
        return syi_fail(c->ctx, SY_E_USAGE, "%s: settings and train are mappings of options", where);
    json_t *lr = NULL;
    st = numbers(c->ctx, json_object_get(m, "lr") ? json_object_get(m, "lr") : defaults_lr, "lr", &lr);
    json_object_set_new(m, "lr", lr);
    return st == SY_OK ? SY_OK : syi_fail_at(c->ctx, st, "%s", where);
}

static sy_status read_spec(compare *c)
{
    json_t *raw = NULL;
    SYI_TRY(syi_yaml_load(c->ctx, c->spec, &raw));
    sy_status st = canonical(c->ctx, raw, top_keys, SYI_COUNT(top_keys), c->spec, &c->asked);
    json_decref(raw);
    SYI_TRY(st);
    static const char *const needed[] = {"model", "data", "eval-data"};
    for (int i = 0; i < 3; i++)
        if (!text(c->asked, needed[i])) return syi_fail(c->ctx, SY_E_USAGE, "%s: \"%s\" is needed: a path", c->spec, needed[i]);
    if (!text(c->asked, "test-data")) json_object_set(c->asked, "test-data", json_object_get(c->asked, "eval-data"));
    if (!json_object_get(c->asked, "lr")) json_object_set_new(c->asked, "lr", json_real(1e-4));
    if (!json_object_get(c->asked, "seeds")) json_object_set_new(c->asked, "seeds", json_pack("[i]", 42));
    if (!json_object_get(c->asked, "train")) json_object_set_new(c->asked, "train", json_object());
    if (!json_is_object(json_object_get(c->asked, "train"))) return syi_fail(c->ctx, SY_E_USAGE, "%s: train is a mapping of options of the verb train", c->spec);
    json_t *list = NULL;
    st = numbers(c->ctx, json_object_get(c->asked, "seeds"), "seeds", &list);
    json_object_set_new(c->asked, "seeds", list);
    SYI_TRY(st);
    const char *match = text(c->asked, "match");
    if (match && strcmp(match, "parameters") && strcmp(match, "bytes") && strcmp(match, "none"))
        return syi_fail(c->ctx, SY_E_USAGE, "%s: match is parameters, bytes or none, not \"%s\"", c->spec, match);
    if (match && strcmp(match, "none") && json_number_value(json_object_get(c->asked, "budget")) <= 0)
        return syi_fail(c->ctx, SY_E_USAGE, "%s: match %s needs a budget: a number of %s", c->spec, match, match);
    const size_t n = json_array_size(json_object_get(c->asked, "methods"));
    if (n == 0) return syi_fail(c->ctx, SY_E_USAGE, "%s: \"methods\" is needed: a list of adapters or mappings", c->spec);
    json_t *methods = json_array();
    for (size_t i = 0; i < n && st == SY_OK; i++) st = read_method(c, i, json_object_get(c->asked, "lr"), methods);
    json_object_set_new(c->asked, "methods", methods);
    return st;
}

/* -- equal parameters or bytes ------------------------------------------------------------------ */

/* Trained numbers, or bytes that are saved, of a method with its rank at r; -1: not possible. */
static double size_at(compare *c, const json_t *m, const char *rank_key, int64_t r, bool bytes)
{
    const char *settings[64], *key;
    char *made[64];
    int n = 0;
    json_t *value;
    double size = -1;
    json_object_foreach((json_t *)json_object_get(m, "settings"), key, value) {
        char *v = n < 60 ? typed(c->ctx, value) : NULL;
        if (v && strcmp(key, rank_key) != 0) {
            made[n] = syi_format(c->ctx, "%s=%s", key, v);
            settings[n] = made[n];
            n++;
        }
        syi_free(c->ctx, v);
    }
    made[n] = syi_format(c->ctx, "%s=%lld", rank_key, (long long)r);
    settings[n] = made[n];
    n++;
    sy_use use;
    sy_run *run = NULL;
    sy_run_options o;
    sy_run_options_init(&o);
    o.model = text(c->asked, "model");
    o.plan_only = o.training = true;
    o.dtype = SY_F32;
    if (sy_use_new(c->ctx, text(m, "adapter"), SY_ADAPTER, settings, n, &use) == SY_OK) {
        o.use = &use;
        o.n_use = 1;
        if (sy_run_open(c->ctx, &o, &run) == SY_OK) {
            int params;
            sy_param *const *p = sy_params(run, &params);
            size = 0;
            for (int i = 0; i < params; i++)
                if (bytes ? !p[i]->slot || !(p[i]->slot->flags & (SY_SLOT_STATE | SY_SLOT_NOT_SAVED)) : p[i]->trained)
                    size += (double)sy_tensor_count(&p[i]->value) * (bytes ? 4 : 1);
            sy_run_close(run);
        }
    }
    sy_error_clear(c->ctx);
    for (int i = 0; i < n; i++) syi_free(c->ctx, made[i]);
    return size;
}

/* The rank whose size is nearest to the budget becomes the method's setting. */
static sy_status match_rank(compare *c, json_t *m)
{
    static const int64_t ranks[] = {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80, 96, 112, 128, 144, 160, 192, 224, 256, 320, 384, 512, 768, 1024};
    const char *match = text(m, "match") ? text(m, "match") : text(c->asked, "match");
    const sy_method *method = sy_method_find(text(m, "adapter"), SY_ADAPTER);
    if (!match || strcmp(match, "none") == 0 || !method || (method->caps & SY_CAP_TRAINS_MODEL)) return SY_OK;
    const sy_option *row = NULL;
    for (const sy_option *o = method->options; o && o->name && !row; o++)
        if (strcmp(o->name, "rank") == 0 || syi_option_is(o, "rank")) row = o;
    if (!row || row->type != SY_OPT_INT) return SY_OK;
    const bool bytes = strcmp(match, "bytes") == 0;
    const double budget = json_number_value(json_object_get(c->asked, "budget"));
    double best = INFINITY, size = 0;
    int64_t rank = 0;
    for (int i = 0; i < SYI_COUNT(ranks); i++) {
        const double now = size_at(c, m, row->name, ranks[i], bytes), off = now > 0 ? fabs(log(now / budget)) : INFINITY;
        if (off < best) {
            best = off;
            size = now;
            rank = ranks[i];
        }
        if (rank && off > best + log(4)) break; /* sizes go one way with the rank: only farther from here */
    }
    if (!rank) return syi_fail(c->ctx, SY_E_USAGE, "%s: method %s works with no rank that was tried", c->spec, text(m, "name"));
    json_object_set_new(json_object_get(m, "settings"), row->name, json_integer((json_int_t)rank));
    if (best > log(1.25))
        syi_log(c->ctx, SY_LOG_WARN, "%s: the nearest that %s comes to %.4g %s is %.4g, at %s %lld", c->spec, text(m, "name"), budget, match, size, row->name, (long long)rank);
    return SY_OK;
}

/* -- one run ------------------------------------------------------------------------------------ */

/* The kernel's record of the largest resident size begins anew (Linux; elsewhere it stays the
 * process's). */
static void reset_peak(void)
{
    const int f = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (f < 0) return;
    const ssize_t n = write(f, "5", 1);
    (void)n;
    close(f);
}

static sy_status set_all(compare *c, sy_job *train, const json_t *settings)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)settings, key, value) {
        char *v = typed(c->ctx, value);
        sy_status st = v ? sy_job_set(train, key, v) : SY_E_MEMORY;
        syi_free(c->ctx, v);
        SYI_TRY(st);
    }
    return SY_OK;
}

static sy_status set_one(compare *c, sy_job *train, const char *key, double v)
{
    char buf[48];
    (void)c;
    snprintf(buf, sizeof buf, "%.17g", v);
    return sy_job_set(train, key, buf);
}

static int64_t int_of(const json_t *a, const json_t *b, const char *key, int64_t otherwise)
{
    const json_t *v = json_object_get(a, key) ? json_object_get(a, key) : json_object_get(b, key);
    return json_is_number(v) ? (int64_t)json_number_value(v) : otherwise;
}

static sy_status set_training(compare *c, const json_t *m, double lr, int64_t seed, double tokens, bool timed, const char *dir, sy_job *train)
{
    const json_t *shared = json_object_get(c->asked, "train"), *own = json_object_get(m, "train");
    static const char *const kinds[] = {"adapter", "optimizer", "objective", "trainer"};
    SYI_TRY(sy_job_set(train, "model", text(c->asked, "model")));
    SYI_TRY(sy_job_set(train, "data", text(c->asked, "data")));
    if (!timed) SYI_TRY(sy_job_set(train, "eval-data", text(c->asked, "eval-data")));
    SYI_TRY(sy_job_set(train, "out", dir));
    for (int i = 0; i < SYI_COUNT(kinds); i++)
        if (text(m, kinds[i])) SYI_TRY(sy_job_set(train, kinds[i], text(m, kinds[i])));
    SYI_TRY(set_all(c, train, shared));
    SYI_TRY(set_all(c, train, own));
    SYI_TRY(set_all(c, train, json_object_get(m, "settings")));
    if (tokens > 0) {
        const double step = (double)(int_of(own, shared, "batch", 4) * int_of(own, shared, "seq", 512) * int_of(own, shared, "accumulation", 1));
        SYI_TRY(set_one(c, train, "steps", ceil(tokens / step)));
    }
    SYI_TRY(set_one(c, train, "lr", lr));
    SYI_TRY(set_one(c, train, "seed", (double)seed));
    SYI_TRY(set_one(c, train, "threads", (double)syi_job_common(c->job)->threads));
    if (syi_job_common(c->job)->memory_limit > 0) SYI_TRY(set_one(c, train, "memory-limit", (double)syi_job_common(c->job)->memory_limit));
    return sy_job_set(train, "log-steps", "1");
}

/* [[step, loss], ...] of a run's log. */
static json_t *curve_of(sy_context *ctx, const char *dir)
{
    json_t *curve = json_array();
    char *path = syi_join(ctx, dir, "metrics.jsonl"), *log = NULL;
    int64_t n = 0;
    if (path && syi_read_file(ctx, path, 1 << 28, &log, &n) == SY_OK)
        for (char *line = log; line && *line;) {
            char *end = strchr(line, '\n');
            json_t *j = json_loadb(line, end ? (size_t)(end - line) : strlen(line), 0, NULL);
            const json_t *loss = json_object_get(j, "loss"), *step = json_object_get(j, "step");
            if (json_is_number(loss) && json_is_number(step)) json_array_append_new(curve, json_pack("[O, O]", step, loss));
            json_decref(j);
            line = end ? end + 1 : NULL;
        }
    syi_free(ctx, log);
    syi_free(ctx, path);
    return curve;
}

static void copy_number(json_t *to, const char *name, const json_t *from, const char *key)
{
    const json_t *v = json_object_get(from, key);
    if (v) json_object_set(to, name, (json_t *)(uintptr_t)v);
}

static void put_score(json_t *j, const char *prefix, const syi_score *s)
{
    char key[64];
    snprintf(key, sizeof key, "%s_loss", prefix);
    json_object_set_new(j, key, json_real(s->loss));
    snprintf(key, sizeof key, "%s_token_accuracy", prefix);
    json_object_set_new(j, key, json_real(s->token_accuracy));
    snprintf(key, sizeof key, "%s_exact_match", prefix);
    if (s->has_answers) json_object_set_new(j, key, json_real(s->exact));
}

static sy_status score(compare *c, const char *model, const char *adapter, const json_t *m, json_t *into)
{
    const json_t *shared = json_object_get(c->asked, "train");
    const char *dtype = text(json_object_get(m, "train"), "dtype") ? text(json_object_get(m, "train"), "dtype") : text(shared, "dtype");
    syi_scored what = {.model = model, .adapter = adapter, .data = text(c->asked, "test-data"), .seq = int_of(json_object_get(m, "train"), shared, "seq", 512), .batch = 4,
                       .dtype = dtype && strcmp(dtype, "f32") == 0 ? SY_F32 : SY_BF16};
    syi_score s;
    SYI_TRY(syi_compare_score(c->ctx, &what, &s));
    put_score(into, "test", &s);
    what.data = text(c->asked, "control-data");
    if (!what.data) return SY_OK;
    SYI_TRY(syi_compare_score(c->ctx, &what, &s));
    put_score(into, "control", &s);
    return SY_OK;
}

static int64_t saved_bytes(sy_context *ctx, const char *dir, bool whole)
{
    char *path = syi_join(ctx, dir, whole ? "model.safetensors" : "adapter_model.safetensors");
    const int64_t n = path ? syi_file_size(path) : -1;
    syi_free(ctx, path);
    return n;
}

/* Trains (or resumes) and, unless it is only to choose a learning rate, measures; the result lies
 * beside the run as result.json. A choice of a budget of its own is a run of its own; else the
 * chosen run is also the first seed's. */
static sy_status one_run(compare *c, const json_t *m, double lr, int64_t seed, bool measure, json_t **out)
{
    char name[400];
    const double all = json_number_value(json_object_get(c->asked, "tokens")), few = json_number_value(json_object_get(c->asked, "choose-tokens"));
    const bool choice = !measure && few > 0;
    const sy_method *method = sy_method_find(text(m, "adapter"), SY_ADAPTER);
    const bool whole = method && (method->caps & SY_CAP_TRAINS_MODEL);
    snprintf(name, sizeof name, "%s/runs/%.100s/%slr%g-seed%lld", c->out, text(m, "name"), choice ? "choose-" : "", lr, (long long)seed);
    char *file = syi_join(c->ctx, name, "result.json"), *old = NULL;
    json_t *result = NULL;
    int64_t n;
    if (file && syi_exists(file) && syi_read_file(c->ctx, file, 1 << 28, &old, &n) == SY_OK) result = json_loads(old, 0, NULL);
    syi_free(c->ctx, old);
    if (result && json_object_get(result, "settings") && !json_equal(json_object_get(result, "settings"), json_object_get(m, "settings"))) {
        syi_fail(c->ctx, SY_E_USAGE, "%s was made with other settings of %s; choose another --out, or remove that folder", name, text(m, "name"));
        json_decref(result);
        syi_free(c->ctx, file);
        return SY_E_USAGE;
    }
    sy_status st = file ? SY_OK : SY_E_MEMORY;
    if (!result && st == SY_OK) {
        sy_job *train = NULL;
        const bool begun = syi_dir_holds(c->ctx, name, SYI_SETTINGS_FILE);
        syi_log(c->ctx, SY_LOG_INFO, "compare: %s, lr %g, seed %lld", text(m, "name"), lr, (long long)seed);
        reset_peak();
        st = sy_job_new(c->ctx, "train", &train);
        if (st == SY_OK) st = set_training(c, m, lr, seed, choice ? few : all, false, name, train);
        if (st == SY_OK && begun) st = sy_job_set(train, "resume", name);
        if (st == SY_OK) st = sy_job_run(train);
        json_t *report = st == SY_OK ? json_loads(sy_job_report(train), 0, NULL) : NULL;
        sy_job_free(train);
        if (st == SY_OK && report) {
            static const char *const keys[] = {"loss", "eval_loss", "tokens", "tokens_per_second", "seconds", "peak_bytes", "trained_parameters", "steps", NULL};
            result = json_object();
            json_object_set(result, "settings", json_object_get(m, "settings"));
            json_object_set_new(result, "lr", json_real(lr));
            json_object_set_new(result, "seed", json_integer((json_int_t)seed));
            for (int i = 0; keys[i]; i++) copy_number(result, keys[i], report, keys[i]);
            json_object_set_new(result, "file_bytes", json_integer((json_int_t)saved_bytes(c->ctx, name, whole)));
            json_object_set_new(result, "curve", curve_of(c->ctx, name));
        }
        json_decref(report);
    }
    if (st == SY_OK && measure && !json_object_get(result, "test_loss")) {
        st = score(c, whole ? name : text(c->asked, "model"), whole ? NULL : name, m, result);
        if (st == SY_OK) st = syi_json_write(c->ctx, file, result, false);
    } else if (st == SY_OK && !syi_exists(file)) {
        st = syi_json_write(c->ctx, file, result, false);
    }
    if (st == SY_OK && whole && (measure || choice)) { /* a whole model a run would fill the disk */
        char *weights = syi_join(c->ctx, name, "model.safetensors");
        if (weights) syi_remove_tree(c->ctx, weights);
        syi_free(c->ctx, weights);
    }
    syi_free(c->ctx, file);
    c->done++;
    syi_progress(c->ctx, &(sy_progress){.what = "compare", .done = c->done, .total = c->planned, .unit = "run"});
    if (st == SY_OK) *out = result;
    else json_decref(result);
    return st;
}

/* -- times --------------------------------------------------------------------------------------- */

enum { TIME_REPEATS = 3 };

/* Seconds of the steps but the first, on average, by the run's own log. */
static double step_seconds(compare *c, const char *dir, double *all)
{
    char *path = syi_join(c->ctx, dir, "metrics.jsonl"), *log = NULL;
    int64_t size = 0, n = 0;
    double first = 0, last = 0;
    if (path && syi_read_file(c->ctx, path, 1 << 28, &log, &size) == SY_OK)
        for (char *line = log; line && *line;) {
            char *end = strchr(line, '\n');
            json_t *j = json_loadb(line, end ? (size_t)(end - line) : strlen(line), 0, NULL);
            if (json_object_get(j, "loss") && json_object_get(j, "elapsed_time")) {
                last = json_number_value(json_object_get(j, "elapsed_time"));
                if (n++ == 0) first = last;
            }
            json_decref(j);
            line = end ? end + 1 : NULL;
        }
    syi_free(c->ctx, log);
    syi_free(c->ctx, path);
    *all = last;
    return n > 1 ? (last - first) / (double)(n - 1) : NAN;
}

/* A few steps of a method and nothing else; what they took lies in OUT/times. */
static sy_status time_once(compare *c, const json_t *m, double lr, int64_t steps, int repeat, json_t **out)
{
    char *file = syi_format(c->ctx, "%s/times/%.100s-%d.json", c->out, text(m, "name"), repeat), *dir = syi_format(c->ctx, "%s/times/run", c->out), *old = NULL;
    const int64_t seed = (int64_t)json_number_value(json_array_get(json_object_get(c->asked, "seeds"), 0));
    int64_t n;
    *out = NULL;
    if (file && dir && syi_exists(file) && syi_read_file(c->ctx, file, 1 << 20, &old, &n) == SY_OK) *out = json_loads(old, 0, NULL);
    syi_free(c->ctx, old);
    sy_status st = file && dir ? SY_OK : SY_E_MEMORY;
    if (!*out && st == SY_OK) {
        sy_job *train = NULL;
        st = syi_remove_tree(c->ctx, dir);
        syi_log(c->ctx, SY_LOG_INFO, "compare: the time of %s", text(m, "name"));
        reset_peak();
        const double begin = syi_now();
        if (st == SY_OK) st = sy_job_new(c->ctx, "train", &train);
        if (st == SY_OK) st = set_training(c, m, lr, seed, 0, true, dir, train);
        if (st == SY_OK) st = set_one(c, train, "steps", (double)(steps + 1));
        if (st == SY_OK) st = sy_job_run(train);
        json_t *report = st == SY_OK ? json_loads(sy_job_report(train), 0, NULL) : NULL;
        const double wall = syi_now() - begin;
        double all = 0;
        sy_job_free(train);
        const double one = report ? step_seconds(c, dir, &all) : NAN;
        if (isfinite(one)) *out = json_pack("{s:f, s:f, s:O}", "step", one, "around", wall - all, "peak_bytes", json_object_get(report, "peak_bytes"));
        json_decref(report);
        if (st == SY_OK) st = syi_remove_tree(c->ctx, dir);
        if (st == SY_OK && *out) st = syi_json_write(c->ctx, file, *out, false);
    }
    syi_free(c->ctx, file);
    syi_free(c->ctx, dir);
    return st;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of(const json_t *list, const char *key)
{
    double v[TIME_REPEATS];
    int n = 0;
    for (size_t i = 0; i < json_array_size(list) && n < TIME_REPEATS; i++) v[n++] = json_number_value(json_object_get(json_array_get(list, i), key));
    qsort(v, (size_t)n, sizeof *v, by_size);
    return n ? v[n / 2] : NAN;
}

/* The runs may have shared the machine with other work. With time-steps every method's step is
 * measured again, all methods in turn and that a few times over, and the medians take the place
 * of the runs' own times and peaks. */
static sy_status times(compare *c)
{
    const int64_t steps = int_of(c->asked, NULL, "time-steps", 0);
    json_t *entries = json_object_get(c->result, "methods"), *methods = json_object_get(c->asked, "methods");
    if (steps < 1) return SY_OK;
    char *dir = syi_join(c->ctx, c->out, "times");
    sy_status st = dir ? syi_mkdirs(c->ctx, dir) : SY_E_MEMORY;
    syi_free(c->ctx, dir);
    json_t *got = json_array();
    for (size_t i = 0; i < json_array_size(entries); i++) json_array_append_new(got, json_array());
    for (int k = 0; k < TIME_REPEATS; k++)
        for (size_t i = 0; i < json_array_size(entries) && st == SY_OK; i++) {
            json_t *one = NULL;
            st = time_once(c, json_array_get(methods, i), json_number_value(json_object_get(json_array_get(entries, i), "lr")), steps, k + 1, &one);
            if (one) json_array_append_new(json_array_get(got, i), one);
        }
    for (size_t i = 0; i < json_array_size(entries) && st == SY_OK; i++) {
        json_t *e = json_array_get(entries, i), *list = json_array_get(got, i), *run = json_array_get(json_object_get(e, "runs"), 0);
        const double step = median_of(list, "step"), n = json_number_value(json_object_get(run, "steps")), tokens = json_number_value(json_object_get(run, "tokens"));
        if (json_array_size(list) == 0 || n < 1) continue;
        json_object_set_new(e, "seconds", json_pack("{s:f, s:f}", "mean", median_of(list, "around") + n * step, "sd", 0.0));
        json_object_set_new(e, "tokens_per_second", json_pack("{s:f, s:f}", "mean", tokens / n / step, "sd", 0.0));
        json_object_set_new(e, "peak_bytes", json_pack("{s:f, s:f}", "mean", median_of(list, "peak_bytes"), "sd", 0.0));
        json_object_set(e, "timed", list);
    }
    json_decref(got);
    return st;
}

/* -- all runs -------------------------------------------------------------------------------------- */

static void statistics(json_t *entry)
{
    static const char *const keys[] = {"eval_loss", "test_loss", "test_token_accuracy", "test_exact_match", "control_loss", "forgetting", "seconds", "tokens_per_second", "peak_bytes",
                                       "file_bytes", "trained_parameters", NULL};
    const json_t *runs = json_object_get(entry, "runs");
    for (int k = 0; keys[k]; k++) {
        double sum = 0, square = 0;
        size_t n = 0, i;
        json_t *r;
        json_array_foreach(runs, i, r) {
            const json_t *v = json_object_get(r, keys[k]);
            if (!json_is_number(v)) continue;
            sum += json_number_value(v);
            n++;
        }
        if (!n) continue;
        const double mean = sum / (double)n;
        json_array_foreach(runs, i, r) {
            const json_t *v = json_object_get(r, keys[k]);
            if (json_is_number(v)) square += (json_number_value(v) - mean) * (json_number_value(v) - mean);
        }
        json_object_set_new(entry, keys[k], json_pack("{s:f, s:f}", "mean", mean, "sd", n > 1 ? sqrt(square / (double)(n - 1)) : 0.0));
    }
}

static sy_status one_method(compare *c, json_t *m, const json_t *base, json_t *entry)
{
    const json_t *lrs = json_object_get(m, "lr"), *seeds = json_object_get(c->asked, "seeds");
    json_t *tried = json_array(), *runs = json_array();
    double best = INFINITY, lr = json_number_value(json_array_get(lrs, 0));
    const int64_t first = (int64_t)json_number_value(json_array_get(seeds, 0));
    json_object_set(entry, "name", json_object_get(m, "name"));
    json_object_set(entry, "adapter", json_object_get(m, "adapter"));
    json_object_set(entry, "settings", json_object_get(m, "settings"));
    json_object_set_new(entry, "lrs", tried);
    json_object_set_new(entry, "runs", runs);
    for (size_t i = 0; i < json_array_size(lrs) && json_array_size(lrs) > 1; i++) {
        json_t *r = NULL;
        const double rate = json_number_value(json_array_get(lrs, i));
        sy_status st = one_run(c, m, rate, first, false, &r);
        if (st == SY_E_NUMERIC) { /* this rate is too high: a result */
            json_array_append_new(tried, json_pack("{s:f, s:n}", "lr", rate, "eval_loss"));
            sy_error_clear(c->ctx);
            continue;
        }
        SYI_TRY(st);
        const double loss = json_number_value(json_object_get(r, "eval_loss"));
        json_array_append_new(tried, json_pack("{s:f, s:f}", "lr", rate, "eval_loss", loss));
        if (loss < best) best = loss, lr = rate;
        json_decref(r);
    }
    json_object_set_new(entry, "lr", json_real(lr));
    for (size_t i = 0; i < json_array_size(seeds); i++) {
        json_t *r = NULL;
        SYI_TRY(one_run(c, m, lr, (int64_t)json_number_value(json_array_get(seeds, i)), true, &r));
        const json_t *now = json_object_get(r, "control_loss"), *was = json_object_get(base, "control_loss");
        if (now && was) json_object_set_new(r, "forgetting", json_real(json_number_value(now) - json_number_value(was)));
        json_array_append_new(runs, r);
    }
    statistics(entry);
    return SY_OK;
}

static sy_status write_out(compare *c)
{
    char *json = syi_join(c->ctx, c->out, "compare.json"), *html = syi_join(c->ctx, c->out, "report.html");
    syi_text page;
    syi_text_init(&page, c->ctx, 1u << 28);
    json_object_set_new(c->result, "summary", syi_compare_summary(c->result));
    sy_status st = json && html ? syi_json_write(c->ctx, json, c->result, false) : SY_E_MEMORY;
    if (st == SY_OK) st = syi_compare_page(c->ctx, c->result, &page);
    if (st == SY_OK) st = syi_write_file(c->ctx, html, page.s, (int64_t)page.len);
    syi_text_free(&page);
    syi_free(c->ctx, json);
    syi_free(c->ctx, html);
    return st;
}

static sy_status compare_run(void *self, sy_job *job)
{
    compare *c = self;
    c->job = job;
    c->ctx = syi_job_context(job);
    SYI_TRY(read_spec(c));
    json_t *methods = json_object_get(c->asked, "methods"), *m;
    size_t i;
    json_array_foreach(methods, i, m) {
        const size_t lrs = json_array_size(json_object_get(m, "lr"));
        const sy_method *found;
        SYI_TRY(syi_use_find(c->ctx, text(m, "adapter"), SY_ADAPTER, c->spec, &found));
        SYI_TRY(match_rank(c, m));
        c->planned += (int64_t)(json_array_size(json_object_get(c->asked, "seeds")) + (lrs > 1 ? lrs : 0));
        char *s = json_dumps(json_object_get(m, "settings"), JSON_COMPACT);
        syi_job_receipt(job, "method    %s: adapter %s, %s", text(m, "name"), text(m, "adapter"), s ? s : "");
        syi_json_free_text(s);
    }
    json_t *list = json_array();
    c->result = json_pack("{s:s, s:O, s:o}", "steelyard", sy_version(), "asked", c->asked, "methods", list);
    if (!c->result) return syi_nomem(c->ctx, 1024);
    json_t *report = syi_job_report(job);
    json_object_set_new(report, "runs", json_integer((json_int_t)c->planned));
    json_object_set_new(report, "out", json_string(c->out));
    if (syi_job_common(job)->dry_run) return SY_OK;
    SYI_TRY(syi_mkdirs(c->ctx, c->out));
    json_t *base = json_object();
    json_object_set_new(c->result, "base", base);
    SYI_TRY(score(c, text(c->asked, "model"), NULL, NULL, base));
    json_array_foreach(methods, i, m) {
        json_t *entry = json_object();
        json_array_append_new(list, entry);
        sy_status st = one_method(c, m, base, entry);
        if (st != SY_OK) return syi_fail_at(c->ctx, st, "compare: %s", text(m, "name"));
        SYI_TRY(write_out(c)); /* what is there so far can be read */
    }
    SYI_TRY(times(c));
    SYI_TRY(write_out(c));
    json_object_set(report, "base", base);
    json_object_set(report, "summary", json_object_get(c->result, "summary"));
    json_t *table = json_array();
    json_array_foreach(list, i, m) {
        json_t *row = json_copy(m);
        json_object_del(row, "runs");
        json_array_append_new(table, row);
    }
    json_object_set_new(report, "methods", table);
    syi_job_receipt(job, "wrote     %s/compare.json and %s/report.html", c->out, c->out);
    return SY_OK;
}

static void compare_free(void *self)
{
    compare *c = self;
    json_decref(c->asked);
    json_decref(c->result);
}

const sy_verb sy_verb_compare = {
    .name = "compare",
    .title = "several methods on the same work, one page",
    .about =
        "Runs every method of a YAML file on one model and data set with the same number of tokens, several seeds, and a learning rate "
        "chosen on the validation data; with match: parameters (or bytes) and a budget, ranks are chosen so that all train (or store) "
        "about as much. Writes compare.json and report.html (no external files): loss curves with seed bands, quality against "
        "parameters, memory and time, a table, and what the numbers say. Stop it at any time: the same command goes on.\n\n"
        "Keys of the file: model, data, eval-data, test-data, control-data (a text to see what was forgotten), seeds, lr (one or several), "
        "tokens, choose-tokens (of each run that chooses a rate; otherwise it is a whole one), time-steps (times are then measured apart: "
        "that many steps of every method in turn, three times), match, budget, train (options of the verb train), methods (name, adapter, optimizer, lr, settings, train).",
    .example = "compare tests/data/compare.yaml --out {tmp}/comparison",
    .options = rows, .size = sizeof(compare), .flags = SY_VERB_NO_MODEL, .run = compare_run, .free = compare_free,
};
