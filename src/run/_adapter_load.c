/* SPDX-License-Identifier: Apache-2.0 */
/* Reading PEFT's adapter folders: which method and options adapter_config.json asks for,
 * and its tensors into slots. Strict, because a key that is passed over in silence is an
 * adapter that was never applied: a missing, unexpected or misshapen tensor is an error,
 * and so is a setting that changes the function and that we do not honour. */
#include "run/run.h"

#include "base/options.h"
#include "run/job.h"

#include <ctype.h>
#include <math.h>

/* -- adapter_config.json ------------------------------------------------------------------ */

/* Settings that change what the adapter computes. They must be absent, null, false or
 * empty. */
static const struct { const char *key, *why; } refused[] = {
    { "use_qalora", "QA-LoRA pools the input, which is not supported" },
    { "use_bdlora", "block-diagonal LoRA is not supported" },
    { "megatron_config", "Megatron's parallel layers are not supported" },
    { "layer_replication", "replicated layers are not supported" },
    { "trainable_token_indices", "single trained token rows are not supported" },
    { "alora_invocation_tokens", "activated LoRA is not supported" },
    { "target_parameters", "adapters on parameters rather than modules are not supported" },
    { "arrow_config", "Arrow routing is not supported" },
    { "kasa_config", "KaSA is not supported" },
    { "monteclora_config", "MonteCLoRA is not supported" },
};
/* Starts of LoRA that replace the base weights by something only PEFT can make again. */
static const char *const edits_base[] = { "olora", "loftq", "corda", "lora_ga" };
/* Starts that only fill A and B: the file has what they became. */
static const char *const fills_only[] = { "eva", "orthogonal", "mica" };
/* Keys that say nothing about the function. */
static const char *const silent[] = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type", "megatron_core", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "velora_config", "qalora_group_size", "layers_pattern", "fan_in_fan_out", "runtime_config",
    "ensure_weight_tying", "init_weights", "rank_pattern"
};

static bool says_nothing(const json_t *v)
{
    return !v || json_is_null(v) || json_is_false(v) || (json_is_object(v) && json_object_size(v) == 0) || (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_string(v) && !*json_string_value(v));
}

static bool among(const char *word, const char *const *list, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(word, list[i]) == 0) return true;
    return false;
}

static const sy_method *method_of(const char *type)
{
    const sy_method *found = NULL;
    for (const sy_method *const *m = sy_methods(); *m; m++) {
        if ((*m)->kind != SY_ADAPTER) continue;
        if (strcmp((*m)->peft_type ? (*m)->peft_type : (*m)->name, type) != 0) {
            if ((*m)->also && syi_has_word((*m)->also, type)) found = *m;
            continue;
        }
        size_t i = 0; /* "LORA" is method "lora" before it is one that extends it */
        while (type[i] && tolower((unsigned char)type[i]) == (*m)->name[i]) i++;
        if (!type[i] && !(*m)->name[i]) return *m;
        if (!found) found = *m;
    }
    return found;
}

static sy_status check_values(sy_context *ctx, const json_t *config, const char *where)
{
    for (int i = 0; i < SYI_COUNT(refused); i++)
        if (!says_nothing(json_object_get(config, refused[i].key)))
            return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: %s is set: %s", where, refused[i].key, refused[i].why);
    const json_t *pattern = json_object_get(config, "layers_pattern");
    const json_t *one = json_is_array(pattern) && json_array_size(pattern) == 1 ? json_array_get(pattern, 0) : pattern;
    if (!says_nothing(pattern) && (!json_is_string(one) || strcmp(json_string_value(one), "layers") != 0))
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: layers_pattern must be null or \"layers\", which is what blocks are called here", where);
    if (json_is_true(json_object_get(config, "ensure_weight_tying")) && !says_nothing(json_object_get(config, "modules_to_save")))
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: ensure_weight_tying is set: a saved module that stays tied to another is not supported", where);
    if (json_is_true(json_object_get(config, "fan_in_fan_out")))
        syi_log(ctx, SY_LOG_INFO, "%s: fan_in_fan_out is true, but this model's weights are [out, in]; ignored, as PEFT does", where);
    return SY_OK;
}

/* The value for a row, in the types the row takes. New reference or NULL. */
static json_t *value_for(const sy_option *row, json_t *v)
{
    if (strcmp(row->peft, "bias") == 0 && json_is_string(v) && syi_ends(json_string_value(v), "_only")) return json_string("lora_only");
    if (row->type == SY_OPT_STRING && json_is_boolean(v)) return json_string(json_is_true(v) ? "true" : "false");
    return json_incref(v);
}

static sy_status fill_rows(sy_context *ctx, const json_t *config, const char *where, sy_use *use)
{
    for (const sy_option *row = use->method->options; row && row->name; row++) {
        json_t *v = row->peft ? json_object_get(config, row->peft) : NULL;
        if (!v || json_is_null(v)) continue;
        if (strcmp(row->peft, "init_lora_weights") == 0 && json_is_string(v)) {
            const char *start = json_string_value(v);
            if (among(start, edits_base, SYI_COUNT(edits_base)))
                return syi_fail(ctx, SY_E_UNSUPPORTED,
                                "%s: init_lora_weights is \"%s\", which changed the base weights; convert the adapter with PEFT "
                                "(save_pretrained with path_initial_model_for_weight_conversion) and use the result", where, start);
            if (among(start, fills_only, SYI_COUNT(fills_only))) continue;
            if (syi_starts(start, "pissa_niter_"))
                syi_log(ctx, SY_LOG_WARN, "%s: init_lora_weights is \"%s\": the base weights depend on random numbers of whoever wrote it; "
                        "only what this library wrote is reproduced exactly", where, start);
        }
        json_t *mine = value_for(row, v);
        sy_status st = mine ? syi_option_from_json(ctx, row, use->self, mine, where, syi_use_arena(use)) : syi_nomem(ctx, 0);
        json_decref(mine);
        if (st != SY_OK) return syi_fail_at(ctx, st, "%s: %s", where, row->peft);
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)config, key, value) {
        bool known = among(key, silent, SYI_COUNT(silent));
        for (int i = 0; i < SYI_COUNT(refused) && !known; i++) known = strcmp(refused[i].key, key) == 0;
        for (const sy_option *row = use->method->options; row && row->name && !known; row++) known = row->peft && strcmp(row->peft, key) == 0;
        if (!known && !says_nothing(value)) syi_log(ctx, SY_LOG_WARN, "%s: the key \"%s\" is not known here and was ignored", where, key);
    }
    return SY_OK;
}

static sy_status use_of(syi_adapter_dir *d, sy_use *out)
{
    sy_context *ctx = d->ctx;
    const json_t *type = json_object_get(d->config, "peft_type");
    if (!json_is_string(type)) return syi_fail(ctx, SY_E_INPUT, "%s/adapter_config.json: peft_type must be a text such as \"LORA\"", d->path);
    const sy_method *m = method_of(json_string_value(type));
    if (!m) {
        syi_text t;
        syi_text_init(&t, ctx, 4096);
        for (const sy_method *const *i = sy_methods(); *i; i++)
            if ((*i)->kind == SY_ADAPTER && (*i)->peft_type) syi_text_printf(&t, "%s%s", t.len ? ", " : "", (*i)->peft_type);
        sy_status st = syi_fail(ctx, SY_E_UNSUPPORTED, "%s/adapter_config.json: peft_type \"%s\" is not supported; known: %s", d->path,
                                json_string_value(type), t.s ? t.s : "none");
        syi_text_free(&t);
        return st;
    }
    char *where = syi_join(ctx, d->path, "adapter_config.json");
    if (!where) return SY_E_MEMORY;
    sy_status st = check_values(ctx, d->config, where);
    if (st == SY_OK && json_is_null(json_object_get(d->config, "target_modules")))
        st = syi_fail(ctx, SY_E_INPUT, "%s: target_modules is null; write the names of the adapted modules there", where);
    if (st == SY_OK) st = syi_use_make(ctx, m, NULL, out);
    if (st == SY_OK) {
        st = fill_rows(ctx, d->config, where, out);
        if (st != SY_OK) sy_use_free(ctx, out);
    }
    syi_free(ctx, where);
    return st;
}

sy_status syi_run_adapter_use(sy_context *ctx, const char *dir, sy_use *out)
{
    syi_adapter_dir *d;
    *out = (sy_use){ NULL, NULL };
    SYI_TRY(syi_adapter_open(ctx, dir, &d));
    sy_status st = use_of(d, out);
    syi_adapter_close(d);
    return st;
}

/* -- tensors ---------------------------------------------------------------------------------- */

typedef struct { const char *name, *other; sy_param *p; bool found; } wanted;
typedef struct { wanted *at; int64_t n, cap; } wants;

static sy_status want(sy_run *run, wants *w, sy_param *p)
{
    for (int64_t i = 0; i < w->n && !p->site; i++)
        if (w->at[i].p == p) return SY_OK;
    SYI_TRY(syi_grow(run->ctx, (void **)&w->at, &w->cap, w->n + 1, sizeof *w->at, 1 << 24));
    const char *name = syi_adapter_tensor_name(run, p), *other = NULL;
    /* Old versions of PEFT kept a trained bias of an adapted layer under its plain name. */
    if (!p->owner) other = syi_arena_format(run->arena, "base_model.model.%s", p->name);
    const bool renamed = p->site && p->slot && p->slot->was;
    if (renamed) other = syi_arena_format(run->arena, "base_model.model.%s%s", p->site->name, p->slot->was);
    if (!name || ((!p->owner || renamed) && !other)) return SY_E_MEMORY;
    w->at[w->n++] = (wanted){ name, other, p, false };
    return SY_OK;
}

static sy_status want_all(sy_run *run, syi_active *a, wants *w)
{
    for (int k = 0; k < a->n_wraps; k++)
        for (int i = 0; i < a->wraps[k]->n_slots; i++)
            if (a->wraps[k]->slot[i] && a->wraps[k]->slot[i]->site == a->wraps[k]->site &&
                !(a->method->slots[i].flags & (SY_SLOT_STATE | SY_SLOT_NOT_SAVED | SY_SLOT_SHARE_ALL)))
                SYI_TRY(want(run, w, a->wraps[k]->slot[i]));
    for (int i = 0; a->shared && a->method->slots[i].name; i++)
        if (a->shared[i] && !(a->method->slots[i].flags & (SY_SLOT_STATE | SY_SLOT_NOT_SAVED))) SYI_TRY(want(run, w, a->shared[i]));
    for (int i = 0; i < run->n_params; i++)
        if (!run->params[i]->owner) SYI_TRY(want(run, w, run->params[i]));
    return SY_OK;
}

static void shape_text(char buf[96], int rank, const int64_t *dim)
{
    size_t n = (size_t)snprintf(buf, 96, "[");
    for (int i = 0; i < rank && n < 80; i++) n += (size_t)snprintf(buf + n, 96 - n, "%s%lld", i ? ", " : "", (long long)dim[i]);
    snprintf(buf + n, 96 - n, "]");
}

static sy_status read_into(sy_run *run, const sy_entry *e, sy_param *p)
{
    bool same = e->rank == p->value.rank;
    for (int i = 0; same && i < e->rank; i++) same = e->dim[i] == p->value.dim[i];
    if (!same) {
        char need[96], have[96];
        shape_text(need, p->value.rank, p->value.dim);
        shape_text(have, e->rank, e->dim);
        return syi_fail(run->ctx, SY_E_INPUT, "%s: tensor %s has the shape %s; the model and adapter_config.json ask for %s", e->file, e->name, have, need);
    }
    if (!sy_dtype_is_float(e->dtype))
        return syi_fail(run->ctx, SY_E_INPUT, "%s: tensor %s is %s; an adapter's tensors are F32, F16, BF16 or F64", e->file, e->name, sy_dtype_name(e->dtype));
    if (run->options.plan_only) return SY_OK;
    const int64_t rows = sy_tensor_rows(&p->value), cols = sy_tensor_cols(&p->value), piece = syi_max(1, 65536 / syi_max(1, cols));
    float *buf = syi_alloc(run->ctx, (size_t)(syi_min(piece, rows) * cols) * sizeof *buf);
    if (!buf) return SY_E_MEMORY;
    sy_status st = SY_OK;
    for (int64_t r = 0; r < rows && st == SY_OK; r += piece) {
        const int64_t k = syi_min(piece, rows - r), n = k * cols;
        st = sy_entry_read_f32(run->ctx, e, r, k, buf);
        for (int64_t i = 0; i < n && st == SY_OK; i++) {
            if (!isfinite(buf[i])) st = syi_fail(run->ctx, SY_E_INPUT, "%s: tensor %s holds a number that is not finite, at row %lld", e->file, e->name, (long long)(r + i / cols));
            if (p->value.dtype == SY_F64)
                ((double *)p->value.data)[r * cols + i] = buf[i];
            else
                ((float *)p->value.data)[r * cols + i] = buf[i];
        }
    }
    syi_free(run->ctx, buf);
    p->stale = true;
    return st;
}

/* PEFT stores the base table beside an adapted embedding: it must be the model's. */
static sy_status base_table(sy_run *run, const sy_entry *e, bool *taken)
{
    char site[256];
    const size_t head = strlen("base_model.model."), tail = strlen(".base_layer.weight"), n = strlen(e->name);
    *taken = false;
    if (!syi_starts(e->name, "base_model.model.") || !syi_ends(e->name, ".base_layer.weight") || n <= head + tail || n - head - tail >= sizeof site) return SY_OK;
    memcpy(site, e->name + head, n - head - tail);
    site[n - head - tail] = '\0';
    sy_site *s = syi_model_site(run->model, site);
    if (!s || !s->n_wraps || !s->weight) return SY_OK;
    const sy_weight *w = s->weight;
    if (e->rank != 2 || e->dim[0] != w->out || e->dim[1] != w->in)
        return syi_fail(run->ctx, SY_E_INPUT, "%s: tensor %s is [%lld, %lld], but the model's is [%lld, %lld]; use the base model that the adapter was made for", e->file,
                        e->name, (long long)e->dim[0], (long long)e->dim[1], (long long)w->out, (long long)w->in);
    *taken = true;
    if (run->options.plan_only) return SY_OK;
    const int64_t count = w->out * w->in;
    float *theirs = syi_alloc(run->ctx, (size_t)count * sizeof *theirs), *ours = syi_alloc(run->ctx, (size_t)count * sizeof *ours);
    sy_status st = theirs && ours ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK) st = sy_entry_read_f32(run->ctx, e, 0, w->out, theirs);
    if (st == SY_OK) st = w->type->dense(run->ctx, w, 0, w->out, ours);
    bool same = st == SY_OK && memcmp(theirs, ours, (size_t)count * sizeof *ours) == 0;
    syi_free(run->ctx, ours);
    syi_free(run->ctx, theirs);
    if (st == SY_OK && !same)
        return syi_fail(run->ctx, SY_E_UNSUPPORTED, "%s: %s is not the model's table; use the base model that the adapter was made for", e->file, e->name);
    return st;
}

/* Shared tensors that are made from a seed, and those that older versions of PEFT repeat
 * under every layer. */
static bool repeats_shared(const syi_active *a, const char *name)
{
    for (int i = 0; a->shared && a->method->slots[i].name; i++) {
        const char *dot = strrchr(a->method->slots[i].name, '.');
        if (a->shared[i] && (a->method->slots[i].flags & SY_SLOT_NOT_SAVED) && strcmp(name, a->method->slots[i].name) == 0) return true;
        if (a->shared[i] && dot && syi_starts(name, "base_model.model.") && syi_ends(name, dot)) return true;
    }
    return false;
}

static sy_status load_tensors(sy_run *run, syi_active *a, const syi_adapter_dir *d)
{
    wants w = { .n = 0 };
    syi_map *index = NULL;
    sy_status st = syi_map_new(run->ctx, &index);
    if (st == SY_OK) st = want_all(run, a, &w);
    for (int64_t i = 0; i < w.n && st == SY_OK; i++) {
        st = syi_map_set(index, w.at[i].name, strlen(w.at[i].name), i);
        if (st == SY_OK && w.at[i].other) st = syi_map_set(index, w.at[i].other, strlen(w.at[i].other), i);
    }
    int64_t strange = 0, missing = 0;
    syi_text list;
    syi_text_init(&list, run->ctx, 1 << 16);
    for (int64_t i = 0; i < sy_checkpoint_count(d->tensors) && st == SY_OK; i++) {
        const sy_entry *e = sy_checkpoint_at(d->tensors, i);
        int64_t k;
        if (syi_map_get(index, e->name, strlen(e->name), &k)) {
            if (w.at[k].found) st = syi_fail(run->ctx, SY_E_INPUT, "%s: tensor %s is there twice, under two names", e->file, e->name);
            else st = read_into(run, e, w.at[k].p);
            w.at[k].found = true;
            continue;
        }
        bool taken = false;
        st = base_table(run, e, &taken);
        if (st != SY_OK || taken || repeats_shared(a, e->name) || e->bytes == 0) continue; /* no numbers: a module that was left out */
        if (strange++ < 5) syi_text_printf(&list, "%s%s", strange > 1 ? ", " : "", e->name);
    }
    if (st == SY_OK && strange)
        st = syi_fail(run->ctx, SY_E_INPUT, "%s: %lld tensors have no place in this model with this adapter_config.json: %s%s", d->path, (long long)strange,
                      list.s ? list.s : "", strange > 5 ? ", ..." : "");
    syi_text_free(&list);
    syi_text_init(&list, run->ctx, 1 << 16);
    for (int64_t i = 0; i < w.n && st == SY_OK; i++)
        if (!w.at[i].found && missing++ < 5) syi_text_printf(&list, "%s%s", missing > 1 ? ", " : "", w.at[i].name);
    if (st == SY_OK && missing)
        st = syi_fail(run->ctx, SY_E_INPUT, "%s: %lld of %lld tensors are missing: %s%s", d->path, (long long)missing, (long long)w.n, list.s ? list.s : "",
                      missing > 5 ? ", ..." : "");
    if (st == SY_OK) syi_log(run->ctx, SY_LOG_INFO, "adapter %s: %s, %lld tensors on %d modules, all matched", d->path, a->method->name, (long long)w.n, a->n_wraps);
    syi_text_free(&list);
    syi_free(run->ctx, w.at);
    syi_map_free(index);
    return st;
}

sy_status syi_run_adapter_load(sy_run *run, syi_active *a, const char *dir)
{
    syi_adapter_dir *d = run->adapter_dir;
    if (!d) SYI_TRY(syi_adapter_open(run->ctx, dir, &d));
    sy_status st = a->method->config_in ? a->method->config_in(a->self, run, d->config) : SY_OK;
    if (st == SY_OK) st = load_tensors(run, a, d);
    if (d != run->adapter_dir) syi_adapter_close(d);
    return st;
}
