/* SPDX-License-Identifier: Apache-2.0 */
/* The run folder. Whatever moment a process dies at, the folder is one that can be
 * resumed: run.yaml appears before the first step, checkpoints appear whole, what a dead
 * process left is removed by the next one, and logs are cut to the sizes that the
 * checkpoint knows. */
#include "io/io.h"
#include "train.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#define STATE_FILE "run_state.json"
#define TENSORS_FILE "state.safetensors"
#define CHECKPOINT "checkpoint-"

/* -- the folder ----------------------------------------------------------------------- */

sy_status syi_folder_lock(sy_context *ctx, const char *dir, int *lock)
{
    *lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*lock < 0)
        return syi_fail(ctx, SY_E_IO, "cannot open the run folder %s: %s; give a folder that you may read and write", dir,
                        strerror(errno));
    if (flock(*lock, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return SY_OK; /* no locks on this file system */
    close(*lock);
    *lock = -1;
    return syi_fail(ctx, SY_E_USAGE, "%s: another process is training in this folder; wait for it, or choose another --out",
                    dir);
}

void syi_folder_unlock(int lock)
{
    if (lock >= 0) close(lock);
}

/* Calls fn on every name in the folder until one call fails; absent folder: nothing. */
static sy_status each_name(sy_context *ctx, const char *dir, sy_status (*fn)(sy_context *, const char *, const char *, void *),
                           void *self)
{
    char **names = NULL;
    int n = 0;
    if (!syi_exists(dir)) return SY_OK;
    sy_status status = syi_list_dir(ctx, dir, &names, &n);
    for (int i = 0; i < n; i++) {
        if (status == SY_OK) status = fn(ctx, dir, names[i], self);
        syi_free(ctx, names[i]);
    }
    syi_free(ctx, names);
    return status;
}

static sy_status note_used(sy_context *ctx, const char *dir, const char *name, void *self)
{
    (void)ctx;
    (void)dir;
    if (name[0] != '.') *(bool *)self = true; /* our own temporaries begin with a dot */
    return SY_OK;
}

sy_status syi_folder_used(sy_context *ctx, const char *dir, bool *used)
{
    *used = false;
    return each_name(ctx, dir, note_used, used);
}

static sy_status remove_name(sy_context *ctx, const char *dir, const char *name)
{
    char *path = syi_join(ctx, dir, name);
    sy_status status = path != NULL ? syi_remove_tree(ctx, path) : SY_E_MEMORY;
    syi_free(ctx, path);
    return status;
}

static sy_status clean_name(sy_context *ctx, const char *dir, const char *name, void *self)
{
    (void)self;
    if (name[0] != '.' || (strstr(name, ".tmp-") == NULL && !syi_starts(name, ".trash-"))) return SY_OK;
    return remove_name(ctx, dir, name);
}

sy_status syi_folder_clean(sy_context *ctx, const char *dir)
{
    return each_name(ctx, dir, clean_name, NULL);
}

/* -- settings ---------------------------------------------------------------------------- */

/* Plain YAML scalars that no reader takes for anything but this text. */
static bool is_plain(const char *s)
{
    if (*s == '\0' || strlen(s) > 200) return false;
    for (const char *p = s; *p != '\0'; p++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/+-", *p)) return false;
    return s[0] != '-' && s[0] != '.' && s[0] != '+';
}

sy_status syi_settings_write(sy_context *ctx, const char *dir, const json_t *settings)
{
    syi_text text;
    syi_text_init(&text, ctx, 1 << 20);
    syi_text_puts(&text, "# Settings of this run, defaults included. To go on: steelyard train --resume FOLDER\n"
                         "# To do the same again: steelyard train run.yaml --out ANOTHER\n");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)settings, key, value) {
        const char *s = json_string_value(value);
        char *quoted = is_plain(s) ? NULL : json_dumps(value, JSON_ENCODE_ANY);
        syi_text_printf(&text, "%s: %s\n", key, quoted != NULL ? quoted : s);
        syi_json_free_text(quoted);
    }
    char *path = syi_join(ctx, dir, SYI_SETTINGS_FILE);
    sy_status status = path == NULL || text.failed ? syi_nomem(ctx, text.len)
                                                   : syi_write_file(ctx, path, text.s, (int64_t)text.len);
    syi_free(ctx, path);
    syi_text_free(&text);
    return status;
}

sy_status syi_settings_same(sy_context *ctx, const char *dir, const json_t *fingerprint)
{
    syi_settings stored;
    syi_settings_init(&stored, ctx);
    char *path = syi_join(ctx, dir, SYI_SETTINGS_FILE);
    sy_status status = path != NULL ? syi_settings_yaml(&stored, path) : SY_E_MEMORY;
    syi_text list;
    syi_text_init(&list, ctx, 1 << 16);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)fingerprint, key, value) {
        if (status != SY_OK) break;
        const char *now = json_string_value(value), *then = syi_settings_get(&stored, key);
        if (then == NULL || strcmp(now, then) != 0)
            syi_text_printf(&list, "%s--%s %s (the run: %s)", list.len > 0 ? ", " : "", key, now, then != NULL ? then : "not set");
    }
    if (status == SY_OK && list.len > 0)
        status = syi_fail(ctx, SY_E_USAGE, "%s cannot be resumed with other settings: %s; leave these out, or start a new run "
                          "with another --out (and --init-adapter to go on from these weights)", dir, list.s);
    syi_text_free(&list);
    syi_free(ctx, path);
    syi_settings_free(&stored);
    return status;
}

/* -- trainer_state.json --------------------------------------------------------------------- */

sy_status syi_trainer_state_write(syi_train *t, const char *dir)
{
    const syi_run_state *s = &t->state;
    char best[64] = "", *head = NULL, *path = syi_join(t->ctx, dir, "trainer_state.json");
    if (s->best_step >= 0) snprintf(best, sizeof best, CHECKPOINT "%lld", (long long)s->best_step);
    json_t *j = json_object();
    syi_text text;
    syi_text_init(&text, t->ctx, 1u << 31);
    sy_status status = j == NULL || path == NULL ? syi_nomem(t->ctx, 1024) : SY_OK;
    if (status == SY_OK) {
        bool best_kept = best[0] != '\0' && t->o.keep_best;
        json_object_set_new(j, "best_global_step", s->best_step >= 0 ? json_integer(s->best_step) : json_null());
        json_object_set_new(j, "best_metric", isfinite(s->best_loss) ? json_real(s->best_loss) : json_null());
        json_object_set_new(j, "best_model_checkpoint", best_kept ? json_string(best) : json_null());
        json_object_set_new(j, "epoch", json_real(syi_train_epoch(t)));
        json_object_set_new(j, "eval_steps", json_integer(t->o.eval_steps));
        json_object_set_new(j, "global_step", json_integer(s->step));
        json_object_set_new(j, "is_hyper_param_search", json_false());
        json_object_set_new(j, "is_local_process_zero", json_true());
        json_object_set_new(j, "is_world_process_zero", json_true());
        json_object_set_new(j, "logging_steps", json_integer(t->o.log_steps));
        json_object_set_new(j, "max_steps", json_integer(t->schedule.total));
        json_object_set_new(j, "num_input_tokens_seen", json_integer(s->tokens));
        double rows = (double)t->schedule.total * (double)(t->o.batch * t->o.accumulation);
        json_object_set_new(j, "num_train_epochs",
                            json_integer((json_int_t)ceil(rows / (double)syi_max(1, t->data_info.rows_per_epoch))));
        json_object_set_new(j, "save_steps", json_integer(t->o.save_steps));
        json_object_set_new(j, "stateful_callbacks", json_object());
        json_object_set_new(j, "total_flos", json_real(0));
        json_object_set_new(j, "train_batch_size", json_integer(t->o.batch));
        json_object_set_new(j, "trial_name", json_null());
        json_object_set_new(j, "trial_params", json_null());
        head = json_dumps(j, JSON_INDENT(2));
        if (head == NULL) status = syi_nomem(t->ctx, 1024);
    }
    if (status == SY_OK) { /* the history is lines already: it is put in as text */
        size_t n = strlen(head);
        while (n > 0 && head[n - 1] != '"' && head[n - 1] != 'l') n--; /* before the closing brace */
        syi_text_add(&text, head, n);
        syi_text_puts(&text, ",\n  \"log_history\": [\n    ");
        status = syi_metrics_history(t->metrics, &text);
        syi_text_puts(&text, "\n  ]\n}\n");
        if (status == SY_OK && text.failed) status = syi_nomem(t->ctx, text.len);
    }
    if (status == SY_OK) status = syi_write_file(t->ctx, path, text.s, (int64_t)text.len);
    syi_json_free_text(head);
    json_decref(j);
    syi_free(t->ctx, path);
    syi_text_free(&text);
    return status;
}

/* -- where the run is ------------------------------------------------------------------------- */

enum { AS_INT, AS_REAL, AS_HASH };
#define ROW(field, type) {#field, type, offsetof(syi_run_state, field)}
static const struct { const char *key; int type; size_t offset; } rows[] = {
    ROW(step, AS_INT), ROW(tokens, AS_INT), ROW(trained, AS_INT), ROW(seconds, AS_REAL), ROW(first_loss, AS_REAL),
    ROW(loss, AS_REAL), ROW(loss_sum, AS_REAL), ROW(grad_norm, AS_REAL), ROW(window_loss, AS_REAL), ROW(window_steps, AS_INT),
    ROW(window_tokens, AS_INT), ROW(window_seconds, AS_REAL), ROW(eval_loss, AS_REAL), ROW(first_eval, AS_REAL),
    ROW(best_loss, AS_REAL), ROW(eval_accuracy, AS_REAL), ROW(eval_step, AS_INT), ROW(best_step, AS_INT), ROW(micro_tokens, AS_INT),
    ROW(settings, AS_HASH), ROW(model, AS_HASH), ROW(data, AS_HASH), ROW(eval, AS_HASH),
};
#undef ROW

static sy_status state_write(syi_train *t, const char *dir)
{
    const syi_run_state *s = &t->state;
    json_t *j = json_object(), *logs = json_object();
    char *path = syi_join(t->ctx, dir, STATE_FILE);
    sy_status status = j == NULL || logs == NULL || path == NULL ? syi_nomem(t->ctx, 1024) : SY_OK;
    for (int i = 0; status == SY_OK && i < SYI_COUNT(rows); i++) {
        const char *at = (const char *)s + rows[i].offset;
        double real = 0;
        int64_t whole = 0;
        if (rows[i].type == AS_REAL) memcpy(&real, at, sizeof real);
        if (rows[i].type == AS_INT) memcpy(&whole, at, sizeof whole);
        json_object_set_new(j, rows[i].key,
                            rows[i].type == AS_INT  ? json_integer(whole)
                            : rows[i].type == AS_REAL ? (isfinite(real) ? json_real(real) : json_null())
                                                      : json_string(at));
    }
    if (status == SY_OK) {
        json_object_set_new(j, "next_row", json_integer(s->step * t->o.batch * t->o.accumulation));
        json_object_set_new(logs, "metrics.jsonl", json_integer(s->logs.jsonl));
        json_object_set_new(logs, s->logs.events_name, json_integer(s->logs.events));
        json_object_set(j, "log_sizes", logs);
        status = syi_json_write(t->ctx, path, j, false);
    }
    json_decref(logs);
    json_decref(j);
    syi_free(t->ctx, path);
    return status;
}

static sy_status state_read(sy_context *ctx, const char *path, syi_run_state *s)
{
    json_t *j = NULL;
    SYI_TRY(syi_json_read(ctx, path, &j));
    sy_status status = SY_OK;
    for (int i = 0; status == SY_OK && i < SYI_COUNT(rows); i++) {
        const json_t *v = json_object_get(j, rows[i].key);
        char *at = (char *)s + rows[i].offset;
        const char *text = json_string_value(v);
        if (rows[i].type == AS_INT && json_is_integer(v)) *(int64_t *)(void *)at = json_integer_value(v);
        else if (rows[i].type == AS_REAL && (json_is_number(v) || json_is_null(v)))
            *(double *)(void *)at = json_is_null(v) ? NAN : json_number_value(v);
        else if (rows[i].type == AS_HASH && text != NULL && strlen(text) < 33) memcpy(at, text, strlen(text) + 1);
        else status = syi_fail(ctx, SY_E_INPUT, "%s: expected \"%s\" as train wrote it, found something else; remove this "
                               "checkpoint to go on from an earlier one", path, rows[i].key);
    }
    const char *name;
    json_t *size;
    json_object_foreach(json_object_get(j, "log_sizes"), name, size) {
        if (strcmp(name, "metrics.jsonl") == 0) s->logs.jsonl = json_integer_value(size);
        else {
            s->logs.events = json_integer_value(size);
            snprintf(s->logs.events_name, sizeof s->logs.events_name, "%s", syi_basename(name));
        }
    }
    if (status == SY_OK && (s->step < 1 || s->logs.jsonl < 0 || s->logs.events < 0))
        status = syi_fail(ctx, SY_E_INPUT, "%s: expected step >= 1 and sizes >= 0, found others; remove this checkpoint", path);
    json_decref(j);
    return status;
}

/* -- checkpoints -------------------------------------------------------------------------------- */

/* N of "checkpoint-N", -1 for other names. */
static int64_t step_of(const char *name)
{
    if (!syi_starts(name, CHECKPOINT)) return -1;
    const char *digits = name + strlen(CHECKPOINT);
    size_t n = strspn(digits, "0123456789");
    return n == 0 || n > 18 || digits[n] != '\0' ? -1 : strtoll(digits, NULL, 10);
}

typedef struct { int64_t *at, n, cap; } steps;

static sy_status note_step(sy_context *ctx, const char *dir, const char *name, void *self)
{
    (void)dir;
    steps *s = self;
    int64_t step = step_of(name);
    if (step < 0) return SY_OK;
    SYI_TRY(syi_grow(ctx, (void **)&s->at, &s->cap, s->n + 1, sizeof *s->at, 1 << 24));
    s->at[s->n++] = step;
    return SY_OK;
}

sy_status syi_checkpoint_newest(sy_context *ctx, const char *dir, int64_t *step)
{
    steps s = {0};
    sy_status status = each_name(ctx, dir, note_step, &s);
    *step = -1;
    for (int64_t i = 0; i < s.n; i++) *step = syi_max(*step, s.at[i]);
    syi_free(ctx, s.at);
    return status;
}

/* Renamed before it is removed: half a checkpoint never bears a checkpoint's name. */
static sy_status remove_checkpoint(sy_context *ctx, const char *dir, int64_t step)
{
    char *from = syi_format(ctx, "%s/" CHECKPOINT "%lld", dir, (long long)step);
    char *to = syi_format(ctx, "%s/.trash-%lld", dir, (long long)step);
    sy_status status = from == NULL || to == NULL ? SY_E_MEMORY : SY_OK;
    if (status == SY_OK) status = syi_rename(ctx, from, to);
    if (status == SY_OK) status = syi_remove_tree(ctx, to);
    syi_free(ctx, from);
    syi_free(ctx, to);
    return status;
}

static int newest_first(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

static sy_status rotate(syi_train *t)
{
    if (t->o.save_limit <= 0) return SY_OK;
    steps s = {0};
    sy_status status = each_name(t->ctx, t->dir, note_step, &s);
    if (s.n > 1) qsort(s.at, (size_t)s.n, sizeof *s.at, newest_first);
    for (int64_t i = t->o.save_limit; status == SY_OK && i < s.n; i++)
        if (!(t->o.keep_best && s.at[i] == t->state.best_step)) status = remove_checkpoint(t->ctx, t->dir, s.at[i]);
    syi_free(t->ctx, s.at);
    return status;
}

sy_status syi_checkpoint_save(syi_train *t)
{
    sy_context *ctx = t->ctx;
    syi_dir work = {0};
    char title[160], summary[200];
    SYI_TRY(syi_train_model_hash(t));
    SYI_TRY(syi_metrics_sync(t->metrics, &t->state.logs));
    char *place = syi_format(ctx, "%s/" CHECKPOINT "%lld", t->dir, (long long)t->state.step), *tensors = NULL;
    sy_status status = place != NULL ? syi_dir_begin(ctx, place, false, &work) : SY_E_MEMORY;
    bool begun = status == SY_OK;
    if (status == SY_OK) status = sy_run_save(t->run, work.work);
    if (status == SY_OK) tensors = syi_join(ctx, work.work, TENSORS_FILE);
    if (status == SY_OK) status = tensors != NULL ? sy_run_state_save(t->run, tensors) : SY_E_MEMORY;
    if (status == SY_OK) status = syi_trainer_state_write(t, work.work);
    if (status == SY_OK) status = state_write(t, work.work);
    if (status == SY_OK) status = syi_dir_commit(&work);
    else if (begun) syi_dir_abort(&work);
    syi_free(ctx, tensors);
    syi_free(ctx, place);
    SYI_TRY(status);
    t->saved_step = t->state.step;
    syi_log(ctx, SY_LOG_DEBUG, "step %lld: checkpoint saved", (long long)t->saved_step);
    SYI_TRY(rotate(t));
    SYI_TRY(syi_trainer_state_write(t, t->dir));
    return syi_metrics_picture(t->metrics, syi_train_title(t, title), syi_train_summary(t, summary));
}

static sy_status same_hash(syi_train *t, int64_t step, const char *what, const char *path, const char *now, const char *then)
{
    if (strcmp(now, then) == 0) return SY_OK;
    return syi_fail(t->ctx, SY_E_INPUT, "%s/" CHECKPOINT "%lld was made with another %s (hash %s) than %s is now (hash %s); "
                    "put the old one back, or start a new run with another --out", t->dir, (long long)step, what, then,
                    path != NULL ? path : "the one given", now);
}

sy_status syi_checkpoint_load(syi_train *t, int64_t step)
{
    SYI_TRY(syi_train_model_hash(t));
    syi_run_state loaded = t->state;
    char *dir = syi_format(t->ctx, "%s/" CHECKPOINT "%lld", t->dir, (long long)step);
    char *state = dir != NULL ? syi_join(t->ctx, dir, STATE_FILE) : NULL;
    char *tensors = dir != NULL ? syi_join(t->ctx, dir, TENSORS_FILE) : NULL;
    sy_status status = state == NULL || tensors == NULL ? SY_E_MEMORY : state_read(t->ctx, state, &loaded);
    const syi_run_state *now = &t->state;
    if (status == SY_OK) status = same_hash(t, step, "model", t->o.model, now->model, loaded.model);
    if (status == SY_OK) status = same_hash(t, step, "data set", t->o.data, now->data, loaded.data);
    if (status == SY_OK) status = same_hash(t, step, "evaluation set", t->o.eval_data, now->eval, loaded.eval);
    if (status == SY_OK && strcmp(now->settings, loaded.settings) != 0)
        status = syi_fail(t->ctx, SY_E_USAGE, "%s/" SYI_SETTINGS_FILE " was changed after " CHECKPOINT "%lld was saved; put the "
                          "old settings back, or start a new run with another --out", t->dir, (long long)step);
    if (status == SY_OK && now->micro_tokens != loaded.micro_tokens)
        status = syi_fail(t->ctx, SY_E_USAGE, "--memory-limit: with this limit a batch is computed %lld tokens at a time, the "
                          "run did %lld, which changes the last bits of its sums; give the limit that it was started with",
                          (long long)now->micro_tokens, (long long)loaded.micro_tokens);
    if (status == SY_OK && step != loaded.step)
        status = syi_fail(t->ctx, SY_E_INPUT, "%s: expected step %lld, found %lld; remove this checkpoint to go on from an "
                          "earlier one", state, (long long)step, (long long)loaded.step);
    if (status == SY_OK) status = sy_run_state_load(t->run, tensors);
    if (status == SY_OK && sy_run_step(t->run) != step)
        status = syi_fail(t->ctx, SY_E_INPUT, "%s: expected the state after step %lld, found step %lld; remove this checkpoint "
                          "to go on from an earlier one", tensors, (long long)step, (long long)sy_run_step(t->run));
    if (status == SY_OK) {
        t->state = loaded;
        t->saved_step = step;
    }
    syi_free(t->ctx, dir);
    syi_free(t->ctx, state);
    syi_free(t->ctx, tensors);
    return status;
}
