/* SPDX-License-Identifier: Apache-2.0 */
/* One side of a comparison. A model gives its weights under Hugging Face's names; an
 * adapter gives the update that it makes to each weight: a plain LoRA as its two factors,
 * read from the file alone; any other by folding it around its model, one site at a time. */
#include "run/diff.h"

#include <math.h>

bool syi_diff_is_adapter(sy_context *ctx, const char *path)
{
    if (syi_is_dir(path)) {
        char *config = syi_join(ctx, path, "adapter_config.json");
        const bool yes = config != NULL && syi_exists(config);
        syi_free(ctx, config);
        return yes;
    }
    char magic[4];
    syi_gguf *g = NULL;
    const char *type = "";
    if (syi_peek_file(path, magic, 4) != 4 || memcmp(magic, "GGUF", 4) != 0) return false;
    if (syi_gguf_open(ctx, path, &g) != SY_OK) {
        sy_error_clear(ctx);
        return false; /* whoever opens it next says what is wrong */
    }
    const bool yes = syi_gguf_str(g, "general.type", &type) && strcmp(type, "adapter") == 0;
    syi_gguf_close(g);
    return yes;
}

static sy_status add(syi_diff_side *s, const syi_diff_item *item)
{
    syi_diff_item *to = &s->items[s->n];
    *to = *item;
    to->name = syi_arena_strdup(s->arena, item->name);
    if (to->name == NULL) return sy_error_code(s->ctx);
    SYI_TRY(syi_map_set(s->names, to->name, strlen(to->name), s->n));
    s->n++;
    return SY_OK;
}

static sy_status room(syi_diff_side *s, int64_t n)
{
    s->items = syi_calloc(s->ctx, (size_t)n + 1, sizeof *s->items);
    return s->items != NULL ? SY_OK : sy_error_code(s->ctx);
}

/* -- models ---------------------------------------------------------------------------- */

static sy_status open_model(syi_diff_side *s)
{
    if (syi_is_dir(s->path)) { /* a folder of tensors without config.json is fine too */
        SYI_TRY(syi_source_open(s->ctx, s->path, false, &s->source));
        s->kind = "folder";
    } else {
        SYI_TRY(syi_source_open(s->ctx, s->path, false, &s->source));
        s->kind = s->source->gguf ? "GGUF" : "safetensors file";
    }
    const sy_checkpoint *ck = s->source->tensors;
    SYI_TRY(room(s, sy_checkpoint_count(ck)));
    for (int64_t i = 0; i < sy_checkpoint_count(ck); i++) {
        const sy_entry *e = sy_checkpoint_at(ck, i);
        syi_diff_item item = {.name = e->name, .dtype = e->dtype, .rows = e->rank > 1 ? e->dim[0] : 1, .cols = 1, .entry = e};
        for (int d = e->rank > 1 ? 1 : 0; d < e->rank; d++) item.cols *= e->dim[d];
        SYI_TRY(add(s, &item));
    }
    return SY_OK;
}

/* -- plain LoRA -------------------------------------------------------------------------- */

static sy_status add_pairs(syi_diff_side *s, const syi_lora_pair *pairs, int64_t n)
{
    SYI_TRY(room(s, n));
    for (int64_t i = 0; i < n; i++) {
        char *name = syi_arena_format(s->arena, "%s.weight", pairs[i].module);
        if (name == NULL) return sy_error_code(s->ctx);
        SYI_TRY(add(s, &(syi_diff_item){.name = name, .dtype = SY_F32, .rows = pairs[i].b.dim[0], .cols = pairs[i].a.dim[1], .pair = &pairs[i]}));
    }
    return SY_OK;
}

static bool says_nothing(const json_t *v)
{
    return v == NULL || json_is_null(v) || json_is_false(v) || (json_is_object(v) && json_object_size(v) == 0) ||
           (json_is_array(v) && json_array_size(v) == 0) || (json_is_string(v) && strcmp(json_string_value(v), "none") == 0);
}

/* A folder whose factors and one scale say all. */
static bool is_plain(const syi_adapter_dir *a)
{
    static const char *const more[] = {"use_dora", "alpha_pattern", "modules_to_save", "lora_bias", "bias", "fan_in_fan_out",
                                       "trainable_token_indices", "target_parameters", "use_qalora", "alora_invocation_tokens"};
    const json_t *alpha = json_object_get(a->config, "lora_alpha");
    if (strcmp(json_string_value(json_object_get(a->config, "peft_type")), "LORA") != 0 || !json_is_number(alpha)) return false;
    for (int i = 0; i < SYI_COUNT(more); i++)
        if (!says_nothing(json_object_get(a->config, more[i]))) return false;
    for (int64_t i = 0; i < sy_checkpoint_count(a->tensors); i++) {
        const sy_entry *e = sy_checkpoint_at(a->tensors, i);
        if (!syi_starts(e->name, "base_model.model.") || e->rank != 2) return false;
        if (!syi_ends(e->name, ".lora_A.weight") && !syi_ends(e->name, ".lora_B.weight")) return false;
    }
    return true;
}

static sy_status read_factor(syi_diff_side *s, const sy_entry *e, sy_tensor *out)
{
    *out = (sy_tensor){.dtype = SY_F32, .rank = 2, .dim = {e->dim[0], e->dim[1]}};
    out->data = syi_arena_alloc(s->arena, (size_t)(e->dim[0] * e->dim[1]) * sizeof(float));
    if (out->data == NULL) return sy_error_code(s->ctx);
    return sy_entry_read_f32(s->ctx, e, 0, e->dim[0], out->data);
}

static sy_status open_plain(syi_diff_side *s, const syi_adapter_dir *a)
{
    const int64_t n = sy_checkpoint_count(a->tensors);
    const double alpha = json_number_value(json_object_get(a->config, "lora_alpha"));
    const bool root = json_is_true(json_object_get(a->config, "use_rslora"));
    syi_lora_pair *pairs = syi_arena_alloc(s->arena, ((size_t)n / 2 + 1) * sizeof *pairs);
    int64_t count = 0;
    if (pairs == NULL) return sy_error_code(s->ctx);
    for (int64_t i = 0; i < n; i++) {
        const sy_entry *ea = sy_checkpoint_at(a->tensors, i);
        const size_t begin = strlen("base_model.model."), tail = strlen(".lora_A.weight"), len = strlen(ea->name);
        if (!syi_ends(ea->name, ".lora_A.weight")) continue;
        char *other = syi_arena_format(s->arena, "%.*s.lora_B.weight", (int)(len - tail), ea->name);
        char *module = syi_arena_format(s->arena, "%.*s", (int)(len - tail - begin), ea->name + begin);
        const sy_entry *eb = other != NULL ? sy_checkpoint_find(a->tensors, other) : NULL;
        if (other == NULL || module == NULL) return sy_error_code(s->ctx);
        if (eb == NULL || eb->dim[1] != ea->dim[0] || ea->dim[0] < 1)
            return syi_fail(s->ctx, SY_E_INPUT, "%s: tensor %s [%lld, %lld] has no %s that fits", s->path, ea->name, (long long)ea->dim[0],
                            (long long)ea->dim[1], other);
        syi_lora_pair *p = &pairs[count++];
        p->module = module;
        p->scale = alpha / (root ? sqrt((double)ea->dim[0]) : (double)ea->dim[0]);
        SYI_TRY(read_factor(s, ea, &p->a));
        SYI_TRY(read_factor(s, eb, &p->b));
    }
    if (2 * count != n) return syi_fail(s->ctx, SY_E_INPUT, "%s: %lld tensors are not pairs of lora_A and lora_B", s->path, (long long)n);
    return add_pairs(s, pairs, count);
}

/* -- any other adapter, around its model --------------------------------------------------- */

static sy_status open_around(syi_diff_side *s, const char *base)
{
    sy_run_options o;
    sy_run_options_init(&o);
    o.model = base;
    o.adapter = s->path;
    o.dtype = SY_F32; /* as fold does it */
    o.keep_coded = true;
    SYI_TRY(sy_run_open(s->ctx, &o, &s->run));
    const sy_model *m = s->run->model;
    SYI_TRY(room(s, m->n_sites));
    for (int i = 0; i < m->n_sites; i++) {
        sy_site *site = &m->sites[i];
        if (site->n_wraps == 0) continue;
        const sy_weight *w = site->weight;
        const sy_entry *e = sy_checkpoint_find(m->source->tensors, w->name);
        char *name = syi_arena_format(s->arena, "%s.weight", site->name);
        if (name == NULL) return sy_error_code(s->ctx);
        if (e == NULL) return syi_fail(s->ctx, SY_E_UNSUPPORTED, "%s: %s has no weight of its own in %s to compare with", s->path, site->name, base);
        const int64_t rows = e->rank > 1 ? e->dim[0] : 1;
        SYI_TRY(add(s, &(syi_diff_item){.name = name, .dtype = SY_F32, .rows = rows, .cols = w->out * w->in / syi_max(1, rows), .entry = e, .site = site}));
    }
    return SY_OK;
}

static sy_status open_adapter(syi_diff_side *s, const char *base)
{
    syi_adapter_dir *a = NULL;
    SYI_TRY(syi_adapter_open(s->ctx, s->path, &a));
    sy_status status;
    if (is_plain(a)) {
        s->kind = "LoRA adapter";
        status = open_plain(s, a);
    } else {
        const char *named = json_string_value(json_object_get(a->config, "base_model_name_or_path"));
        s->kind = syi_arena_format(s->arena, "%s adapter", json_string_value(json_object_get(a->config, "peft_type")));
        if (base == NULL && named != NULL && *named != '\0' && syi_exists(named)) base = named;
        if (s->kind == NULL) status = sy_error_code(s->ctx);
        else if (base == NULL)
            status = syi_fail(s->ctx, SY_E_USAGE, "%s: what this adapter (%s) does to a weight depends on the weight; its model \"%s\" is not a path here: give it with --base PATH",
                              s->path, s->kind, named != NULL ? named : "");
        else status = open_around(s, base);
    }
    syi_adapter_close(a);
    return status;
}

/* -- both ------------------------------------------------------------------------------------ */

static sy_status open_gguf_adapter(syi_diff_side *s)
{
    syi_lora_pair *pairs = NULL;
    int64_t n = 0;
    s->kind = "LoRA GGUF";
    SYI_TRY(syi_lora_gguf_read(s->ctx, s->path, s->arena, &pairs, &n));
    return add_pairs(s, pairs, n);
}

sy_status syi_diff_open(sy_context *ctx, syi_engine *e, const char *path, const char *base, syi_diff_side **out)
{
    *out = NULL;
    if (!syi_exists(path)) return syi_fail(ctx, SY_E_INPUT, "%s: no such file or folder", path);
    syi_diff_side *s = syi_calloc(ctx, 1, sizeof *s);
    if (s == NULL) return sy_error_code(ctx);
    s->ctx = ctx;
    s->engine = e;
    sy_status status = syi_arena_new(ctx, 1 << 16, &s->arena);
    if (status == SY_OK) status = syi_map_new(ctx, &s->names);
    if (status == SY_OK && (s->path = syi_arena_strdup(s->arena, path)) == NULL) status = sy_error_code(ctx);
    if (status == SY_OK) {
        s->update = syi_diff_is_adapter(ctx, path);
        status = !s->update ? open_model(s) : syi_is_dir(path) ? open_adapter(s, base) : open_gguf_adapter(s);
    }
    if (status == SY_OK) *out = s;
    else syi_diff_close(s);
    return status;
}

void syi_diff_close(syi_diff_side *s)
{
    if (s == NULL) return;
    syi_free(s->ctx, s->values);
    sy_run_close(s->run);
    syi_source_close(s->source);
    if (s->names != NULL) syi_map_free(s->names);
    if (s->arena != NULL) syi_arena_free(s->arena);
    syi_free(s->ctx, s->items);
    syi_free(s->ctx, s);
}

const syi_diff_item *syi_diff_find(const syi_diff_side *s, const char *name)
{
    int64_t i;
    return syi_map_get(s->names, name, strlen(name), &i) ? &s->items[i] : NULL;
}

void syi_diff_forget(const syi_diff_item *item)
{
    if (item != NULL && item->entry != NULL) syi_mapped_forget(item->entry->data, item->entry->bytes);
}

/* The whole update of a site into s->values. */
static sy_status hold(syi_diff_side *s, const syi_diff_item *item)
{
    const int64_t n = item->rows * item->cols;
    double delta;
    if (s->held == item) return SY_OK;
    s->held = NULL;
    syi_free(s->ctx, s->values);
    s->values = syi_alloc(s->ctx, (size_t)n * sizeof *s->values);
    float *before = syi_alloc(s->ctx, (size_t)n * sizeof *before);
    double *constant = syi_calloc(s->ctx, (size_t)item->site->out, sizeof *constant);
    sy_status status = s->values != NULL && before != NULL && constant != NULL ? SY_OK : sy_error_code(s->ctx);
    if (status == SY_OK) status = sy_entry_read_f32(s->ctx, item->entry, 0, n / syi_max(1, syi_entry_width(item->entry)), before);
    if (status == SY_OK) {
        memcpy(s->values, before, (size_t)n * sizeof *before);
        status = syi_run_fold_site(s->run, item->site, s->values, constant, &delta);
    }
    for (int64_t i = 0; status == SY_OK && i < n; i++) s->values[i] -= before[i];
    syi_free(s->ctx, before);
    syi_free(s->ctx, constant);
    if (status == SY_OK) s->held = item;
    return status;
}

sy_status syi_diff_rows(syi_diff_side *s, const syi_diff_item *item, int64_t row, int64_t n, float *dst)
{
    if (item->pair != NULL) {
        const syi_lora_pair *p = item->pair;
        const int64_t r = p->a.dim[0];
        return syi_gemm(s->engine, n, item->cols, r, p->scale, (syi_mat){SY_F32, (const float *)p->b.data + row * r, r, false},
                        (syi_mat){SY_F32, p->a.data, item->cols, false}, 0, SY_F32, dst, item->cols);
    }
    if (item->site != NULL) {
        SYI_TRY(hold(s, item));
        memcpy(dst, s->values + row * item->cols, (size_t)(n * item->cols) * sizeof *dst);
        return SY_OK;
    }
    const int64_t per = item->entry->rank > 1 ? item->cols / syi_max(1, syi_entry_width(item->entry)) : 1; /* rows as the file counts them */
    return sy_entry_read_f32(s->ctx, item->entry, row * per, n * per, dst);
}
