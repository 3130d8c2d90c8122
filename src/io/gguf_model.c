/* SPDX-License-Identifier: Apache-2.0 */
/* An architecture between Hugging Face and GGUF, from its rows: names of tensors,
 * config values, RoPE's scaling. */
#include "source.h"

#include "base/registry.h"
#include "model/model.h"

#include <math.h>
#include <stdlib.h>

/* -- names ----------------------------------------------------------------------- */

/* `name` against a pattern with at most one %d: the number (-1: the pattern has
 * none), or -2 when it does not match. */
static int match(const char *pattern, const char *name)
{
    const char *hole = strstr(pattern, "%d");
    if (hole == NULL) return strcmp(pattern, name) == 0 ? -1 : -2;
    const size_t before = (size_t)(hole - pattern);
    if (strncmp(pattern, name, before) != 0) return -2;
    const char *digits = name + before;
    const size_t n = strspn(digits, "0123456789");
    if (n == 0 || n > 6 || (n > 1 && digits[0] == '0') || strcmp(hole + 2, digits + n) != 0) return -2;
    return (int)strtol(digits, NULL, 10);
}

/* The pattern with the number in it. */
static bool fill(const char *pattern, int number, char out[SYI_MODEL_NAME_MAX])
{
    const char *hole = strstr(pattern, "%d");
    const int n = hole == NULL ? snprintf(out, SYI_MODEL_NAME_MAX, "%s", pattern)
                               : snprintf(out, SYI_MODEL_NAME_MAX, "%.*s%d%s", (int)(hole - pattern), pattern, number, hole + 2);
    return n < SYI_MODEL_NAME_MAX;
}

const sy_arch_tensor *syi_name_from_gguf(const sy_arch *arch, const char *gguf, char out[SYI_MODEL_NAME_MAX])
{
    for (const sy_arch_tensor *r = arch->tensors; r->name != NULL; r++) {
        const int number = r->gguf != NULL ? match(r->gguf, gguf) : -2;
        if (number > -2) return fill(r->name, number, out) ? r : NULL;
    }
    return NULL;
}

const sy_arch_tensor *syi_name_to_gguf(const sy_arch *arch, const char *hf, char out[SYI_MODEL_NAME_MAX])
{
    for (const sy_arch_tensor *r = arch->tensors; r->name != NULL; r++) {
        const int number = r->gguf != NULL ? match(r->name, hf) : -2;
        if (number > -2) return fill(r->gguf, number, out) ? r : NULL;
    }
    return NULL;
}

const sy_arch_tensor *syi_name_row(const sy_arch *arch, const char *hf, char out[SYI_MODEL_NAME_MAX])
{
    for (const sy_arch_tensor *r = arch->tensors; r->name != NULL; r++) {
        const int number = match(r->name, hf);
        if (number > -2) return fill(r->name, number, out) ? r : NULL;
    }
    return NULL;
}

const sy_arch *syi_arch_of_gguf(const char *name)
{
    for (int i = 0; syi_archs[i] != NULL; i++)
        for (const char *const *g = syi_archs[i]->gguf_archs; g != NULL && *g != NULL; g++)
            if (strcmp(*g, name) == 0) return syi_archs[i];
    return NULL;
}

/* -- config from keys ---------------------------------------------------------------- */

/* GGUF has f32 where config.json had a decimal number: the shortest decimal that is
 * the same f32 (9.999999747e-06 becomes 1e-05 again). */
double syi_shortest_f32(double v)
{
    char text[40];
    if (!isfinite(v) || (double)(float)v != v) return v;
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if ((float)strtod(text, NULL) == (float)v) return strtod(text, NULL);
    }
    return v;
}

/* Of "rope_parameters.x rope_scaling.x" the spelling that all versions of
 * transformers read: the last without rope_parameters. false: no such key. */
static bool written_key(const char *keys, char out[128])
{
    bool found = false;
    for (const char *p = keys; *p != '\0';) {
        const size_t n = strcspn(p, " ");
        if (n > 0 && n < 128 && strncmp(p, "rope_parameters.", 16) != 0 && !found) {
            memcpy(out, p, n);
            out[n] = '\0';
            found = true;
        }
        p += n;
        p += strspn(p, " ");
    }
    return found;
}

static bool set_path(json_t *root, const char *path, json_t *take)
{
    const char *dot = strchr(path, '.');
    if (take == NULL) return false;
    if (dot == NULL) return json_object_set_new(root, path, take) == 0;
    char head[128];
    snprintf(head, sizeof head, "%.*s", (int)(dot - path), path);
    json_t *inner = json_object_get(root, head);
    if (inner == NULL) {
        json_object_set_new(root, head, json_object());
        inner = json_object_get(root, head);
    }
    return set_path(inner, dot + 1, take);
}

static bool value_of(const syi_gguf *g, const sy_arch_config *r, const char *key, json_t **out)
{
    int64_t i;
    double d;
    bool b;
    const char *s;
    *out = NULL;
    switch ((int)r->type) {
    case SY_OPT_INT: if (syi_gguf_int(g, key, &i)) *out = json_integer(i); break;
    case SY_OPT_FLOAT: if (syi_gguf_float(g, key, &d)) *out = json_real(syi_shortest_f32(d)); break;
    case SY_OPT_BOOL: if (syi_gguf_bool(g, key, &b)) *out = json_boolean(b); break;
    case SY_OPT_STRING: if (syi_gguf_str(g, key, &s)) *out = json_string(s); break;
    default: break;
    }
    return *out != NULL;
}

/* The key of a config row for this file's architecture. */
static void arch_key(const char *pattern, const char *arch, char out[256])
{
    const char *hole = strstr(pattern, "%s");
    if (hole == NULL) snprintf(out, 256, "%s", pattern);
    else snprintf(out, 256, "%.*s%s%s", (int)(hole - pattern), pattern, arch, hole + 2);
}

static const sy_arch_config *config_row(const sy_arch *arch, const char *field)
{
    for (const sy_arch_config *r = arch->config; r->field != NULL; r++)
        if (strcmp(r->field, field) == 0) return r;
    return NULL;
}

/* Switches that GGUF has no keys for: the tensors tell. */
static void flags_from_tensors(const sy_arch *arch, const syi_gguf *g, json_t *config)
{
    char name[SYI_MODEL_NAME_MAX], key[128];
    for (const sy_arch_tensor *t = arch->tensors; t->name != NULL; t++) {
        const sy_arch_config *r = t->when != NULL && t->gguf != NULL ? config_row(arch, t->when) : NULL;
        if (r == NULL || !written_key(r->keys, key) || !fill(t->gguf, 0, name)) continue;
        const bool there = syi_gguf_find(g, name) != NULL;
        if (there || json_object_get(config, key) == NULL) json_object_set_new(config, key, json_boolean(there));
    }
    if (config_row(arch, "tied") != NULL) json_object_set_new(config, "tie_word_embeddings", json_boolean(syi_gguf_find(g, "output.weight") == NULL));
}

/* What the config made so far says for a row's field; 0: nothing. */
static int64_t integer_of(const sy_arch *arch, const json_t *config, const char *field)
{
    char key[128];
    const sy_arch_config *r = config_row(arch, field);
    return r != NULL && written_key(r->keys, key) ? json_integer_value(json_object_get(config, key)) : 0;
}

static sy_status check_head_dims(sy_context *ctx, const sy_arch *arch, const syi_gguf *g, const char *name, const char *path, json_t *config)
{
    char key[256], head_dim[128];
    int64_t rope = 0, k = 0, v = 0;
    arch_key("%s.rope.dimension_count", name, key);
    const bool has_rope = syi_gguf_int(g, key, &rope) && config_row(arch, "rope_theta") != NULL;
    arch_key("%s.attention.key_length", name, key);
    const bool has_k = syi_gguf_int(g, key, &k);
    arch_key("%s.attention.value_length", name, key);
    const bool has_v = syi_gguf_int(g, key, &v);
    const int64_t hidden = integer_of(arch, config, "hidden"), heads = integer_of(arch, config, "heads");
    if (heads < 1) return SY_OK; /* missing: the rows say so */
    if (!has_k && hidden % heads == 0) k = hidden / heads;
    if ((has_v && v != k) || (has_rope && rope != k))
        return syi_fail(ctx, SY_E_UNSUPPORTED,
                        "%s: heads of %lld channels with values of %lld and positions on %lld: only equal numbers are supported", path,
                        (long long)k, (long long)(has_v ? v : k), (long long)(has_rope ? rope : k));
    const sy_arch_config *r = config_row(arch, "head_dim");
    if (r != NULL && written_key(r->keys, head_dim)) return json_object_set_new(config, head_dim, json_integer(k)) == 0 ? SY_OK : syi_nomem(ctx, 0);
    if (heads * k == hidden) return SY_OK;
    return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: %lld heads of %lld channels on %lld: the %s architecture has hidden / heads", path, (long long)heads, (long long)k, (long long)hidden,
                    arch->name);
}

/* Names of the classes, for heads that have some. */
static sy_status labels_from(sy_context *ctx, const syi_gguf *g, const char *name, const char *path, json_t *config)
{
    char key[256], number[24];
    arch_key("%s.classifier.output_labels", name, key);
    const int64_t n = syi_gguf_array(g, key, NULL);
    json_t *labels = n > 0 ? json_object() : NULL;
    for (int64_t i = 0; i < n; i++) {
        const char *s = NULL;
        int64_t len = 0;
        json_t *text = syi_gguf_array_str(g, key, i, &s, &len) ? json_stringn(s, (size_t)len) : NULL;
        snprintf(number, sizeof number, "%lld", (long long)i);
        if (text == NULL || json_object_set_new(labels, number, text) != 0) {
            json_decref(labels);
            return syi_fail(ctx, SY_E_INPUT, "%s: label %lld of %s is not UTF-8 text", path, (long long)i, key);
        }
    }
    return labels == NULL || json_object_set_new(config, "id2label", labels) == 0 ? SY_OK : syi_nomem(ctx, 0);
}

static void token_ids(const syi_gguf *g, json_t *config, json_t *generation)
{
    static const struct { const char *key, *gguf; } ids[] = {{"bos_token_id", "tokenizer.ggml.bos_token_id"},
                                                             {"eos_token_id", "tokenizer.ggml.eos_token_id"},
                                                             {"pad_token_id", "tokenizer.ggml.padding_token_id"}};
    int64_t id, eot;
    for (int i = 0; i < SYI_COUNT(ids); i++) {
        if (!syi_gguf_int(g, ids[i].gguf, &id)) continue;
        json_object_set_new(config, ids[i].key, json_integer(id));
        json_object_set_new(generation, ids[i].key, json_integer(id));
        if (i == 1 && syi_gguf_int(g, "tokenizer.ggml.eot_token_id", &eot) && eot != id) /* either ends a turn */
            json_object_set_new(generation, ids[i].key, json_pack("[I,I]", (json_int_t)id, (json_int_t)eot));
    }
}

static sy_status fill_config(sy_context *ctx, const sy_arch *arch, const syi_gguf *g, const char *name, const char *path, json_t *config)
{
    char key[256], path_key[128];
    for (const sy_arch_config *r = arch->config; r->field != NULL; r++) {
        json_t *value;
        if (!written_key(r->keys, path_key)) continue;
        if (strcmp(r->field, "act") == 0 && !set_path(config, path_key, json_string(r->def))) return syi_nomem(ctx, 0); /* of the architecture: no key says it */
        if (r->gguf == NULL) continue;
        arch_key(r->gguf, name, key);
        if (!value_of(g, r, key, &value)) continue;
        if (r->def != NULL && strcmp(r->def, "0") == 0 && json_is_integer(value) && json_integer_value(value) == 0) { /* no window: other readers know that as a key that is missing */
            json_decref(value);
            continue;
        }
        if (!set_path(config, path_key, value)) return syi_nomem(ctx, 0);
    }
    json_t *scaling = json_object_get(config, "rope_scaling");
    const char *type = json_string_value(json_object_get(scaling, "rope_type"));
    if (type == NULL || strcmp(type, "none") == 0) json_object_del(config, "rope_scaling");
    const sy_entry *table = syi_gguf_find(g, "token_embd.weight");
    if (json_object_get(config, "vocab_size") == NULL && table != NULL && table->rank == 2)
        json_object_set_new(config, "vocab_size", json_integer(table->dim[0]));
    const sy_arch_config *theta = config_row(arch, "rope_theta");
    if (json_object_get(config, "rope_theta") == NULL && theta != NULL) json_object_set_new(config, "rope_theta", json_real(strtod(theta->def, NULL)));
    SYI_TRY(check_head_dims(ctx, arch, g, name, path, config));
    flags_from_tensors(arch, g, config);
    if (arch->head == SY_HEAD_CLASS) SYI_TRY(labels_from(ctx, g, name, path, config));
    SYI_TRY(syi_rope_from_gguf(ctx, g, name, path, config));
    return arch->from_gguf != NULL ? arch->from_gguf(ctx, config) : SY_OK;
}

/* transformers' class: the second of the list where the head of the first is missing. */
static const char *class_name(const sy_arch *arch, const syi_gguf *g)
{
    char name[SYI_MODEL_NAME_MAX];
    for (const sy_arch_tensor *r = arch->tensors; r->name != NULL; r++)
        if (r->role == SY_ROLE_HEAD && !(r->flags & SY_TENSOR_TIED) && arch->architectures[1] != NULL && r->gguf != NULL && fill(r->gguf, 0, name) && syi_gguf_find(g, name) == NULL)
            return arch->architectures[1];
    return arch->architectures[0];
}

sy_status syi_config_from_gguf(sy_context *ctx, const sy_arch *arch, const syi_gguf *g, const char *path, json_t **config, json_t **generation)
{
    const char *name = arch->gguf_arch;
    syi_gguf_str(g, "general.architecture", &name);
    *config = json_pack("{s:[s],s:s,s:f}", "architectures", class_name(arch, g), "model_type", arch->model_types[0], "initializer_range", 0.02);
    *generation = json_object();
    if (*config == NULL || *generation == NULL) return syi_nomem(ctx, 0);
    SYI_TRY(fill_config(ctx, arch, g, name, path, *config));
    token_ids(g, *config, *generation);
    return SY_OK;
}

/* -- keys from config ---------------------------------------------------------------------- */

double syi_arch_float(const sy_arch *arch, const void *config, const char *field, double def)
{
    const sy_arch_config *r = config_row(arch, field);
    return r != NULL && r->type == SY_OPT_FLOAT ? *(const double *)((const char *)config + r->offset) : def;
}

const char *syi_arch_string(const sy_arch *arch, const void *config, const char *field)
{
    const sy_arch_config *r = config_row(arch, field);
    return r != NULL && r->type == SY_OPT_STRING ? *(char *const *)((const char *)config + r->offset) : "";
}

/* Fields whose keys depend on others: gguf_rope.c has them, or they are written below. */
static bool written_by_hand(const char *field)
{
    static const char *const fields[] = {"rope_theta", "rope_type", "rope_factor", "rope_attention_factor", "rope_original_context", "head_dim", "sliding_window"};
    for (int i = 0; i < SYI_COUNT(fields); i++)
        if (strcmp(field, fields[i]) == 0) return true;
    return false;
}

static sy_status put_value(syi_gguf_writer *w, const sy_arch *arch, const void *config, const sy_arch_config *r)
{
    char key[256];
    int64_t i = 0;
    arch_key(r->gguf, arch->gguf_arch, key);
    if (r->type == SY_OPT_FLOAT) {
        const double v = syi_arch_float(arch, config, r->field, 0);
        return v == 0 ? SY_OK : syi_gguf_put_f32(w, key, (float)v); /* 0 (of caps): there is none */
    }
    if (r->type == SY_OPT_STRING) return syi_gguf_put_str(w, key, syi_arch_string(arch, config, r->field), -1);
    syi_arch_field(arch, config, r->field, &i);
    if (r->type == SY_OPT_BOOL) return syi_gguf_put_bool(w, key, i != 0);
    return syi_gguf_put_u32(w, key, (uint32_t)i);
}

static sy_status put_labels(sy_context *ctx, syi_gguf_writer *w, const sy_arch *arch, const void *config, const json_t *json)
{
    char key[256], number[24], none[32];
    int64_t n = 0;
    syi_text all;
    if (!syi_arch_field(arch, config, "labels", &n) || n < 1) return SY_OK;
    const char **label = syi_calloc(ctx, (size_t)n, sizeof *label);
    int64_t *len = syi_calloc(ctx, (size_t)n, sizeof *len);
    syi_text_init(&all, ctx, (int64_t)1 << 30);
    for (int64_t i = 0; label != NULL && len != NULL && i < n; i++) { /* one text; pointers once it moves no more */
        snprintf(number, sizeof number, "%lld", (long long)i);
        snprintf(none, sizeof none, "LABEL_%lld", (long long)i);
        const char *text = json_string_value(json_object_get(json_object_get(json, "id2label"), number));
        if (text == NULL) text = none;
        len[i] = (int64_t)strlen(text);
        syi_text_puts(&all, text);
    }
    sy_status st = label == NULL || len == NULL || all.failed ? sy_error_code(ctx) : SY_OK;
    for (int64_t i = 0, at = 0; st == SY_OK && i < n; at += len[i++]) label[i] = all.s + at;
    arch_key("%s.classifier.output_labels", arch->gguf_arch, key);
    if (st == SY_OK) st = syi_gguf_put_strs(w, key, n, label, len);
    syi_text_free(&all);
    syi_free(ctx, label);
    syi_free(ctx, len);
    return st;
}

sy_status syi_config_to_gguf(sy_context *ctx, syi_gguf_writer *w, const sy_arch *arch, void *config, const json_t *json, bool classes)
{
    char key[256];
    int64_t head = 0;
    if (arch->to_gguf != NULL) SYI_TRY(arch->to_gguf(ctx, config));
    for (const sy_arch_config *r = arch->config; r->field != NULL; r++)
        if (r->gguf != NULL && !written_by_hand(r->field)) SYI_TRY(put_value(w, arch, config, r));
    if (classes) SYI_TRY(put_labels(ctx, w, arch, config, json));
    if (config_row(arch, "rope_theta") == NULL) return SY_OK;
    syi_arch_field(arch, config, "head_dim", &head);
    static const char *const lengths[] = {"%s.rope.dimension_count", "%s.attention.key_length", "%s.attention.value_length"};
    for (int k = 0; k < SYI_COUNT(lengths); k++) {
        arch_key(lengths[k], arch->gguf_arch, key);
        SYI_TRY(syi_gguf_put_u32(w, key, (uint32_t)head));
    }
    arch_key("%s.rope.freq_base", arch->gguf_arch, key);
    SYI_TRY(syi_gguf_put_f32(w, key, (float)syi_arch_float(arch, config, "rope_theta", 10000)));
    return syi_rope_keys(w, arch, config);
}
