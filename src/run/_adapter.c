/* SPDX-License-Identifier: Apache-2.0 */
/* Adapter folders as PEFT writes and reads them: adapter_config.json from option rows and
 * back, tensors from slot rows. Writing; reading is in _adapter_load.c. */
#include "run/run.h"

#include "base/options.h"

#include <ctype.h>
#include <math.h>

/* Is `key` one that PEFT's config of this method does not have? */
static bool unknown_to_peft(const sy_method *m, const char *key) { return m->peft_lacks && syi_has_word(m->peft_lacks, key); }

static const char *last_part(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

static bool wrapped(const syi_active *a, const sy_site *site)
{
    for (int i = 0; i < a->n_wraps; i++)
        if (a->wraps[i]->site == site && a->wraps[i]->active) return true;
    return false;
}

/* The adapted modules as a list that means the same to any reader: last names when they
 * catch exactly these modules, otherwise whole paths. */
static json_t *target_modules(const sy_run *run, const syi_active *a)
{
    json_t *names = json_object(), *list = json_array();
    bool exact = true;
    for (int i = 0; i < a->n_wraps; i++)
        if (a->wraps[i]->active) json_object_set_new(names, last_part(a->wraps[i]->site->name), json_true());
    for (int i = 0; i < run->model->n_sites && exact; i++) {
        const sy_site *s = &run->model->sites[i];
        if ((s->kind == SY_SITE_LINEAR || s->kind == SY_SITE_EMBED) && json_object_get(names, last_part(s->name)) && !wrapped(a, s)) exact = false;
    }
    if (exact) {
        const char *key;
        json_t *value;
        json_object_foreach(names, key, value) json_array_append_new(list, json_string(key));
    } else {
        for (int i = 0; i < a->n_wraps; i++)
            if (a->wraps[i]->active) json_array_append_new(list, json_string(a->wraps[i]->site->name));
    }
    json_decref(names);
    return list;
}

/* A row's value in the words of adapter_config.json. */
static json_t *config_value(const sy_option *row, const void *self, const char *peft_type)
{
    json_t *v = syi_option_json(row, self);
    if (json_is_array(v) && json_array_size(v) == 0) {
        json_decref(v);
        return json_null();
    }
    if (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)) && fabs(json_real_value(v)) < 1e9 && strcmp(row->peft, "lora_alpha") == 0) {
        json_t *whole = json_integer((json_int_t)json_real_value(v));
        json_decref(v);
        return whole;
    }
    if (strcmp(row->peft, "bias") == 0 && json_is_string(v) && strcmp(json_string_value(v), "lora_only") == 0) {
        char word[64]; /* "vera_only" */
        size_t n = 0;
        for (; peft_type[n] && n < 40; n++) word[n] = (char)tolower((unsigned char)peft_type[n]);
        snprintf(word + n, sizeof word - n, "_only");
        json_decref(v);
        return json_string(word);
    }
    return v;
}

static sy_status config_of(sy_run *run, syi_active *a, json_t **out)
{
    const sy_method *m = a->method;
    const char *type = m->peft_type ? m->peft_type : m->name;
    json_t *j = json_object();
    if (!j) return syi_nomem(run->ctx, 0);
    if (m->peft_defaults) {
        json_t *d = json_loads(m->peft_defaults, 0, NULL);
        json_object_update(j, d);
        json_decref(d);
    }
    json_object_set_new(j, "auto_mapping", json_null());
    json_object_set_new(j, "base_model_name_or_path", run->options.model ? json_string(run->options.model) : json_null());
    json_object_set_new(j, "inference_mode", json_true());
    json_object_set_new(j, "peft_type", json_string(type));
    json_object_set_new(j, "peft_version", json_string("0.21.0"));
    json_object_set_new(j, "revision", json_null());
    json_object_set_new(j, "task_type", json_string("CAUSAL_LM"));
    for (const sy_option *row = m->options; row && row->name; row++)
        if (row->peft && !unknown_to_peft(m, row->peft)) json_object_set_new(j, row->peft, config_value(row, a->self, type));
    /* The choice is spelt out as the modules that were in fact adapted. */
    json_object_set_new(j, "target_modules", target_modules(run, a));
    if (!unknown_to_peft(m, "exclude_modules")) json_object_set_new(j, "exclude_modules", json_null());
    json_object_set_new(j, "layers_to_transform", json_null());
    sy_status st = m->config_out ? m->config_out(a->self, run, j) : SY_OK;
    if (st != SY_OK) {
        json_decref(j);
        return st;
    }
    *out = j;
    return SY_OK;
}

const char *syi_adapter_tensor_name(sy_run *run, const sy_param *p)
{
    if (p->owner) return p->name;
    const size_t n = strlen(p->name);
    if (p->site && p->site->n_wraps && n > 5 && syi_ends(p->name, ".bias"))
        return syi_arena_format(run->arena, "base_model.model.%.*s.base_layer.bias", (int)(n - 5), p->name);
    return syi_arena_format(run->arena, "base_model.model.%s", p->name);
}

/* -- tensors to be written ------------------------------------------------------------- */

typedef struct { syi_named *at; int64_t n, cap; void **made; int64_t n_made, cap_made; } tensors;

static sy_status add(sy_run *run, tensors *t, const char *name, sy_tensor value)
{
    if (!name) return SY_E_MEMORY;
    SYI_TRY(syi_grow(run->ctx, (void **)&t->at, &t->cap, t->n + 1, sizeof *t->at, 1 << 24));
    t->at[t->n++] = (syi_named){ name, value };
    return SY_OK;
}

/* As f32, whatever the run's type is. */
static sy_status add_param(sy_run *run, tensors *t, const sy_param *p)
{
    sy_tensor v = p->value;
    if (v.dtype != SY_F32) {
        int64_t n = sy_tensor_count(&v);
        float *f = syi_alloc(run->ctx, (size_t)n * sizeof *f);
        if (!f) return SY_E_MEMORY;
        for (int64_t i = 0; i < n; i++) f[i] = (float)((const double *)v.data)[i];
        v.dtype = SY_F32;
        v.data = f;
        sy_status st = syi_grow(run->ctx, (void **)&t->made, &t->cap_made, t->n_made + 1, sizeof *t->made, 1 << 24);
        if (st != SY_OK) {
            syi_free(run->ctx, f);
            return st;
        }
        t->made[t->n_made++] = f;
    }
    return add(run, t, syi_adapter_tensor_name(run, p), v);
}

static sy_status collect(sy_run *run, syi_active *a, tensors *t)
{
    const sy_method *m = a->method;
    for (int w = 0; w < a->n_wraps; w++)
        for (int i = 0; i < a->wraps[w]->n_slots && a->wraps[w]->active; i++) {
            const sy_param *p = a->wraps[w]->slot[i];
            if (!p || (m->slots[i].flags & (SY_SLOT_STATE | SY_SLOT_NOT_SAVED | SY_SLOT_SHARE_ALL))) continue;
            if (p->site != a->wraps[w]->site) continue; /* shared with a site that has it already */
            sy_tensor own = { .data = NULL };
            if (m->save_slot) SYI_TRY(m->save_slot(a->self, a->wraps[w], i, &own));
            if (!own.data) {
                SYI_TRY(add_param(run, t, p));
                continue;
            }
            sy_status st = syi_grow(run->ctx, (void **)&t->made, &t->cap_made, t->n_made + 1, sizeof *t->made, 1 << 24);
            if (st != SY_OK) {
                syi_free(run->ctx, own.data);
                return st;
            }
            t->made[t->n_made++] = own.data;
            SYI_TRY(add(run, t, p->name, own));
        }
    for (int i = 0; a->shared && m->slots[i].name; i++)
        if (a->shared[i] && !(m->slots[i].flags & (SY_SLOT_STATE | SY_SLOT_NOT_SAVED))) SYI_TRY(add_param(run, t, a->shared[i]));
    for (int i = 0; a->shared && m->slots[i].name; i++) /* the same numbers, which the file holds many times */
        for (int w = 0; a->shared[i] && (m->slots[i].flags & SY_SLOT_REPEATED) && w < a->n_wraps; w++)
            if (a->wraps[w]->active)
                SYI_TRY(add(run, t, syi_arena_format(run->arena, "base_model.model.%s.%s", a->wraps[w]->site->name, last_part(m->slots[i].name)), a->shared[i]->value));
    for (int i = 0; i < run->n_params; i++)
        if (!run->params[i]->owner) SYI_TRY(add_param(run, t, run->params[i]));
    return SY_OK;
}

static sy_status readme(sy_run *run, syi_active *a, char **out)
{
    syi_text t;
    syi_text_init(&t, run->ctx, 1 << 16);
    const char *base = run->options.model ? run->options.model : "";
    syi_text_printf(&t, "---\nbase_model: \"%s\"\nlibrary_name: peft\ntags:\n- %s\n---\n\n# %s\n\n", base, a->method->name, a->method->title);
    syi_text_printf(&t, "An adapter for `%s`, trained %lld steps with Steelyard.\n\n", base, (long long)run->step);
    int64_t trained = 0;
    for (int i = 0; i < run->n_params; i++)
        if (!run->params[i]->slot || (run->params[i]->slot->flags & SY_SLOT_TRAIN)) trained += sy_tensor_count(&run->params[i]->value);
    syi_text_printf(&t, "- %d adapted modules, %lld trained parameters\n", a->n_wraps, (long long)trained);
    syi_text_puts(&t, "- open it with `steelyard eval --model BASE --adapter DIR`");
    syi_text_puts(&t, a->method->peft_type ? " or with PEFT: `PeftModel.from_pretrained(model, DIR)`\n" : "; PEFT does not know this method\n");
    *out = syi_text_take(&t);
    return *out ? SY_OK : SY_E_MEMORY;
}

sy_status syi_run_adapter_save(sy_run *run, syi_active *a, const char *dir)
{
    tensors t = { .n = 0 };
    json_t *config = NULL;
    char *text = NULL;
    sy_status st = config_of(run, a, &config);
    if (st == SY_OK) st = collect(run, a, &t);
    if (st == SY_OK) st = readme(run, a, &text);
    if (st == SY_OK) st = syi_adapter_write(run->ctx, dir, config, text, t.at, t.n);
    for (int64_t i = 0; i < t.n_made; i++) syi_free(run->ctx, t.made[i]);
    syi_free(run->ctx, t.made);
    syi_free(run->ctx, t.at);
    syi_free(run->ctx, text);
    json_decref(config);
    return st;
}

/* -- GGUF --------------------------------------------------------------------------------- */

sy_status syi_run_adapter_to_gguf(sy_run *run, const char *file, sy_dtype dtype, int64_t *tensor_count, int64_t *bytes)
{
    *tensor_count = *bytes = 0;
    syi_active *a = syi_run_active(run, SY_ADAPTER);
    if (!a || a->n_wraps == 0) return syi_fail(run->ctx, SY_E_USAGE, "there is no adapter to write as a LoRA GGUF");
    if (!a->method->to_lora)
        return syi_fail(run->ctx, SY_E_UNSUPPORTED, "adapter %s is no plain LoRA, which is all that a LoRA GGUF can hold; fold it into the model instead",
                        a->method->name);
    for (int i = 0; i < run->n_params; i++)
        if (!run->params[i]->owner)
            return syi_fail(run->ctx, SY_E_UNSUPPORTED,
                            "the adapter holds %s, a tensor of the model itself, which a LoRA GGUF cannot; fold it into the model instead", run->params[i]->name);
    syi_lora_pair *pairs = syi_calloc(run->ctx, (size_t)a->n_wraps, sizeof *pairs);
    if (!pairs) return SY_E_MEMORY;
    sy_status st = SY_OK;
    int n = 0;
    for (; n < a->n_wraps && st == SY_OK; n++) {
        pairs[n].module = a->wraps[n]->site->name;
        st = a->method->to_lora(a->self, a->wraps[n], &pairs[n].a, &pairs[n].b, &pairs[n].scale);
        if (st == SY_OK) {
            *tensor_count += 2;
            *bytes += (sy_tensor_count(&pairs[n].a) + sy_tensor_count(&pairs[n].b)) * sy_dtype_block_bytes(dtype);
        }
    }
    if (st == SY_OK && file) st = syi_lora_to_gguf(run->ctx, run->model->source, file, dtype, pairs, n);
    for (int i = 0; i < n; i++) {
        syi_free(run->ctx, pairs[i].a.data);
        syi_free(run->ctx, pairs[i].b.data);
    }
    syi_free(run->ctx, pairs);
    return st;
}

/* -- saving a run ---------------------------------------------------------------------------- */

static sy_status trained_rows(void *self, const sy_entry *e, int64_t row, int64_t n, float *dst)
{
    bool changed;
    return syi_model_rows(((sy_run *)self)->model, e->name, row, n, dst, &changed);
}

sy_status sy_run_save(sy_run *run, const char *dir)
{
    syi_active *a = syi_run_active(run, SY_ADAPTER);
    if (run->options.plan_only) return syi_fail(run->ctx, SY_E_USAGE, "%s: a run that only plans has nothing to save", dir);
    if (a && !(a->method->caps & SY_CAP_TRAINS_MODEL)) return syi_run_adapter_save(run, a, dir);
    syi_export how = { .dtype = (sy_dtype)-1, .rows = trained_rows, .self = run, .into = true };
    return syi_source_to_folder(run->model->source, dir, &how);
}
