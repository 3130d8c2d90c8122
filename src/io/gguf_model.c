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
static double shortest(double v)
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
    case SY_OPT_FLOAT: if (syi_gguf_float(g, key, &d)) *out = json_real(shortest(d)); break;
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
    json_object_set_new(config, "tie_word_embeddings", json_boolean(syi_gguf_find(g, "output.weight") == NULL));
}

/* What llama3's rule divides the frequency of a wavelength by: 1 for short ones, the
 * factor for long ones, and between them a share of both. */
typedef struct { double factor, low, high, context; } rope_rule;

static double rope_divisor(const rope_rule *r, double wavelength)
{
    const double share = (r->context / wavelength - r->low) / (r->high - r->low);
    if (wavelength < r->context / r->high) return 1;
    return wavelength > r->context / r->low ? r->factor : 1 / ((1 - share) / r->factor + share);
}

static double wavelength_of(double theta, int64_t i, int64_t n)
{
    return 2 * 3.14159265358979323846 * pow(theta, (double)i / (double)n);
}

/* llama3's rule is not in the keys: only its divisors are there, as a tensor. The
 * factor follows from the last one; the rest is what all released models have, and
 * then the divisors must come out as they are in the file. */
static double rounded(double factor)
{
    return fabs(factor - round(factor)) < 1e-3 ? round(factor) : shortest((float)factor);
}

static sy_status rope_from_factors(sy_context *ctx, const sy_entry *e, const char *path, json_t *config)
{
    float have[4096];
    const int64_t n = e->rank == 1 ? e->dim[0] : 0;
    if (n < 1 || n > SYI_COUNT(have)) return syi_fail(ctx, SY_E_INPUT, "%s: tensor rope_freqs.weight is not a vector", path);
    SYI_TRY(sy_entry_read_f32(ctx, e, 0, 1, have));
    const double theta = json_number_value(json_object_get(config, "rope_theta")), longest = wavelength_of(theta, n - 1, n);
    rope_rule rule = {.factor = have[n - 1], .low = 1, .high = 4, .context = 8192};
    const double share = (rule.context / longest - rule.low) / (rule.high - rule.low);
    if (share > 0 && share < 1) rule.factor = (1 - share) / (1 / rule.factor - share);
    for (int64_t i = 0; i < n; i++) {
        const double want = rope_divisor(&rule, wavelength_of(theta, i, n));
        if (!(fabs(want - have[i]) <= 1e-3 * want))
            return syi_fail(ctx, SY_E_UNSUPPORTED,
                            "%s: rope_freqs.weight[%lld] is %g; the llama3 rule with factor %g, low 1, high 4 and 8192 positions gives %g: "
                            "this scaling is not known",
                            path, (long long)i, (double)have[i], rule.factor, want);
    }
    json_t *scaling = json_pack("{s:s,s:f,s:f,s:f,s:i}", "rope_type", "llama3", "factor", rounded(rule.factor), "low_freq_factor",
                                rule.low, "high_freq_factor", rule.high, "original_max_position_embeddings", (int)rule.context);
    return json_object_set_new(config, "rope_scaling", scaling) == 0 ? SY_OK : syi_nomem(ctx, 0);
}

static sy_status check_head_dims(sy_context *ctx, const syi_gguf *g, const char *arch, const char *path, json_t *config)
{
    char key[256];
    int64_t rope = 0, k = 0, v = 0, hidden = 0, heads = 1;
    arch_key("%s.rope.dimension_count", arch, key);
    const bool has_rope = syi_gguf_int(g, key, &rope);
    arch_key("%s.attention.key_length", arch, key);
    const bool has_k = syi_gguf_int(g, key, &k);
    arch_key("%s.attention.value_length", arch, key);
    const bool has_v = syi_gguf_int(g, key, &v);
    hidden = json_integer_value(json_object_get(config, "hidden_size"));
    heads = json_integer_value(json_object_get(config, "num_attention_heads"));
    if (heads < 1) return SY_OK; /* missing: the rows say so */
    if (!has_k && hidden % heads == 0) k = hidden / heads;
    if ((has_v && v != k) || (has_rope && rope != k))
        return syi_fail(ctx, SY_E_UNSUPPORTED,
                        "%s: heads of %lld channels with values of %lld and positions on %lld: only equal numbers are supported", path,
                        (long long)k, (long long)(has_v ? v : k), (long long)(has_rope ? rope : k));
    return json_object_set_new(config, "head_dim", json_integer(k)) == 0 ? SY_OK : syi_nomem(ctx, 0);
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
        if (r->gguf == NULL || !written_key(r->keys, path_key)) continue;
        arch_key(r->gguf, name, key);
        if (!value_of(g, r, key, &value)) continue;
        if (!set_path(config, path_key, value)) return syi_nomem(ctx, 0);
    }
    json_t *scaling = json_object_get(config, "rope_scaling");
    const char *type = json_string_value(json_object_get(scaling, "rope_type"));
    if (type == NULL || strcmp(type, "none") == 0) json_object_del(config, "rope_scaling");
    const sy_entry *table = syi_gguf_find(g, "token_embd.weight"), *factors = syi_gguf_find(g, "rope_freqs.weight");
    if (json_object_get(config, "vocab_size") == NULL && table != NULL && table->rank == 2)
        json_object_set_new(config, "vocab_size", json_integer(table->dim[0]));
    const sy_arch_config *theta = config_row(arch, "rope_theta");
    if (json_object_get(config, "rope_theta") == NULL && theta != NULL) json_object_set_new(config, "rope_theta", json_real(strtod(theta->def, NULL)));
    SYI_TRY(check_head_dims(ctx, g, name, path, config));
    flags_from_tensors(arch, g, config);
    return factors != NULL ? rope_from_factors(ctx, factors, path, config) : SY_OK;
}

sy_status syi_config_from_gguf(sy_context *ctx, const sy_arch *arch, const syi_gguf *g, const char *path, json_t **config, json_t **generation)
{
    const char *name = arch->gguf_arch;
    syi_gguf_str(g, "general.architecture", &name);
    *config = json_pack("{s:[s],s:s,s:s,s:f,s:b}", "architectures", arch->architectures[0], "model_type", arch->model_types[0], "hidden_act",
                        "silu", "initializer_range", 0.02, "use_cache", 1);
    *generation = json_object();
    if (*config == NULL || *generation == NULL) return syi_nomem(ctx, 0);
    SYI_TRY(fill_config(ctx, arch, g, name, path, *config));
    token_ids(g, *config, *generation);
    return SY_OK;
}

/* -- keys from config ---------------------------------------------------------------------- */

static double float_field(const sy_arch *arch, const void *config, const char *field, double def)
{
    const sy_arch_config *r = config_row(arch, field);
    return r != NULL && r->type == SY_OPT_FLOAT ? *(const double *)((const char *)config + r->offset) : def;
}

static const char *string_field(const sy_arch *arch, const void *config, const char *field)
{
    const sy_arch_config *r = config_row(arch, field);
    return r != NULL && r->type == SY_OPT_STRING ? *(char *const *)((const char *)config + r->offset) : "";
}

bool syi_rope_factors(const sy_arch *arch, const void *config, float *out)
{
    int64_t dim = 0, context = 0;
    if (strcmp(string_field(arch, config, "rope_type"), "llama3") != 0 || !syi_arch_field(arch, config, "head_dim", &dim)) return false;
    syi_arch_field(arch, config, "rope_original_context", &context);
    const double theta = float_field(arch, config, "rope_theta", 10000);
    const rope_rule rule = {float_field(arch, config, "rope_factor", 1), float_field(arch, config, "rope_low_freq", 1),
                            float_field(arch, config, "rope_high_freq", 4), (double)context};
    for (int64_t i = 0; i < dim / 2; i++) out[i] = (float)rope_divisor(&rule, wavelength_of(theta, i, dim / 2));
    return true;
}

/* Fields whose keys depend on others, or that loaders derive. */
static bool written_by_hand(const char *field)
{
    return syi_starts(field, "rope_") || strcmp(field, "head_dim") == 0 || strcmp(field, "sliding_window") == 0;
}

sy_status syi_config_to_gguf(syi_gguf_writer *w, const sy_arch *arch, const void *config)
{
    char key[256];
    int64_t i = 0;
    for (const sy_arch_config *r = arch->config; r->field != NULL; r++) {
        if (r->gguf == NULL || written_by_hand(r->field)) continue;
        arch_key(r->gguf, arch->gguf_arch, key);
        if (r->type == SY_OPT_FLOAT) SYI_TRY(syi_gguf_put_f32(w, key, (float)float_field(arch, config, r->field, 0)));
        else if (r->type == SY_OPT_STRING) SYI_TRY(syi_gguf_put_str(w, key, string_field(arch, config, r->field), -1));
        else if (syi_arch_field(arch, config, r->field, &i) && r->type == SY_OPT_BOOL) SYI_TRY(syi_gguf_put_bool(w, key, i != 0));
        else SYI_TRY(syi_gguf_put_u32(w, key, (uint32_t)i));
    }
    if (syi_arch_field(arch, config, "head_dim", &i)) {
        static const char *const lengths[] = {"%s.rope.dimension_count", "%s.attention.key_length", "%s.attention.value_length"};
        for (int k = 0; k < SYI_COUNT(lengths); k++) {
            arch_key(lengths[k], arch->gguf_arch, key);
            SYI_TRY(syi_gguf_put_u32(w, key, (uint32_t)i));
        }
    }
    arch_key("%s.rope.freq_base", arch->gguf_arch, key);
    SYI_TRY(syi_gguf_put_f32(w, key, (float)float_field(arch, config, "rope_theta", 10000)));
    if (strcmp(string_field(arch, config, "rope_type"), "linear") == 0) {
        arch_key("%s.rope.scaling.type", arch->gguf_arch, key);
        SYI_TRY(syi_gguf_put_str(w, key, "linear", -1));
        arch_key("%s.rope.scaling.factor", arch->gguf_arch, key);
        SYI_TRY(syi_gguf_put_f32(w, key, (float)float_field(arch, config, "rope_factor", 1)));
    }
    return SY_OK;
}
