/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary positions that are no single number, between config.json and GGUF.
 *
 * Of llama3's rule GGUF has only what it comes to: a divisor for each frequency, in the
 * tensor rope_freqs.weight. LongRoPE's two lists of divisors are the tensors
 * rope_factors_short.weight and rope_factors_long.weight; what else it needs is in keys. */
#include "source.h"

#include "model/model.h"

#include <math.h>

enum { FACTORS_MAX = 4096 };

/* -- llama3 ---------------------------------------------------------------------------- */

/* What the rule divides the frequency of a wavelength by: 1 for short ones, the factor for
 * long ones, and between them a share of both. */
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

static double rounded(double factor)
{
    return fabs(factor - round(factor)) < 1e-3 ? round(factor) : syi_shortest_f32((float)factor);
}

/* The factor follows from the last divisor; the rest is what all released models have, and
 * then the divisors must come out as they are in the file. */
static sy_status llama3_from(sy_context *ctx, const float *have, int64_t n, const char *path, json_t *config)
{
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

static void llama3_to(const sy_arch *arch, const void *config, int64_t n, float *out)
{
    int64_t context = 0;
    syi_arch_field(arch, config, "rope_original_context", &context);
    const double theta = syi_arch_float(arch, config, "rope_theta", 10000);
    const rope_rule rule = {syi_arch_float(arch, config, "rope_factor", 1), syi_arch_float(arch, config, "rope_low_freq", 1),
                            syi_arch_float(arch, config, "rope_high_freq", 4), (double)context};
    for (int64_t i = 0; i < n; i++) out[i] = (float)rope_divisor(&rule, wavelength_of(theta, i, n));
}

/* -- LongRoPE ---------------------------------------------------------------------------- */

static bool is_longrope(const char *type) { return strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0; }

/* The factor of cosines and sines that follows from the two lengths of context. */
static double attention_factor(int64_t context, int64_t original)
{
    return original > 1 && context > original ? sqrt(1 + log((double)context / (double)original) / log((double)original)) : 1;
}

static json_t *list_of(const float *v, int64_t n)
{
    json_t *list = json_array();
    for (int64_t i = 0; list != NULL && i < n; i++) json_array_append_new(list, json_real(syi_shortest_f32(v[i])));
    return list;
}

static sy_status longrope_from(sy_context *ctx, const syi_gguf *g, const char *arch, const float *near, const float *far, int64_t n, const char *path, json_t *config)
{
    char key[128];
    int64_t original = 0;
    double factor = 0;
    snprintf(key, sizeof key, "%.64s.rope.scaling.original_context_length", arch);
    if (!syi_gguf_int(g, key, &original)) return syi_fail(ctx, SY_E_INPUT, "%s: it has rope_factors_long.weight, but no key %s, which says from where on they count", path, key);
    const int64_t context = json_integer_value(json_object_get(config, "max_position_embeddings"));
    json_t *scaling = json_pack("{s:s,s:o,s:o}", "rope_type", "longrope", "short_factor", list_of(near, n), "long_factor", list_of(far, n));
    snprintf(key, sizeof key, "%.64s.rope.scaling.attn_factor", arch);
    if (syi_gguf_float(g, key, &factor) && fabs(factor - attention_factor(context, original)) > 1e-5 * factor)
        json_object_set_new(scaling, "attention_factor", json_real(syi_shortest_f32(factor)));
    json_object_set_new(config, "original_max_position_embeddings", json_integer(original));
    return scaling != NULL && json_object_set_new(config, "rope_scaling", scaling) == 0 ? SY_OK : syi_nomem(ctx, 0);
}

static sy_status longrope_to(sy_context *ctx, const json_t *config, const char *which, int64_t n, float *out)
{
    const json_t *list = json_object_get(json_object_get(config, "rope_parameters"), which), *v;
    if (list == NULL) list = json_object_get(json_object_get(config, "rope_scaling"), which);
    size_t i;
    if ((int64_t)json_array_size(list) != n) return syi_fail(ctx, SY_E_INPUT, "config: longrope needs %s, a list of %lld numbers", which, (long long)n);
    json_array_foreach((json_t *)list, i, v) out[i] = (float)json_number_value(v);
    return SY_OK;
}

/* -- both ---------------------------------------------------------------------------------- */

static sy_status read_vector(sy_context *ctx, const syi_gguf *g, const char *name, const char *path, int64_t want, float *out, int64_t *n)
{
    const sy_entry *e = syi_gguf_find(g, name);
    *n = 0;
    if (e == NULL) return SY_OK;
    *n = e->rank == 1 ? e->dim[0] : 0;
    if (*n < 1 || *n > FACTORS_MAX || (want > 0 && *n != want))
        return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s: a vector of %s%lld numbers was expected", path, name, want > 0 ? "" : "at most ", (long long)(want > 0 ? want : FACTORS_MAX));
    SYI_TRY(sy_entry_read_f32(ctx, e, 0, 1, out));
    for (int64_t i = 0; i < *n; i++)
        if (!(out[i] > 0) || !isfinite(out[i])) return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s: number %lld is %g; divisors above 0 were expected", path, name, (long long)i, (double)out[i]);
    return SY_OK;
}

bool syi_rope_is_part(const char *name)
{
    return strcmp(name, "rope_freqs.weight") == 0 || strcmp(name, "rope_factors_short.weight") == 0 || strcmp(name, "rope_factors_long.weight") == 0;
}

sy_status syi_rope_from_gguf(sy_context *ctx, const syi_gguf *g, const char *arch, const char *path, json_t *config)
{
    float near[FACTORS_MAX], far[FACTORS_MAX];
    int64_t n = 0, longs = 0;
    SYI_TRY(read_vector(ctx, g, "rope_freqs.weight", path, 0, near, &n));
    if (n > 0) return llama3_from(ctx, near, n, path, config);
    SYI_TRY(read_vector(ctx, g, "rope_factors_short.weight", path, 0, near, &n));
    SYI_TRY(read_vector(ctx, g, "rope_factors_long.weight", path, n, far, &longs));
    if (n != longs) return syi_fail(ctx, SY_E_INPUT, "%s: of rope_factors_short.weight and rope_factors_long.weight only one is there", path);
    return n > 0 ? longrope_from(ctx, g, arch, near, far, n, path, config) : SY_OK;
}

sy_status syi_rope_to_gguf(sy_context *ctx, const sy_arch *arch, const void *config, const json_t *json, syi_arena *arena, syi_rope_vector out[SYI_ROPE_VECTORS], int *n)
{
    const char *type = syi_arch_string(arch, config, "rope_type");
    const bool llama3 = strcmp(type, "llama3") == 0;
    int64_t dim = 0;
    *n = 0;
    if ((!llama3 && !is_longrope(type)) || !syi_arch_field(arch, config, "head_dim", &dim)) return SY_OK;
    for (*n = 0; *n < (llama3 ? 1 : SYI_ROPE_VECTORS); (*n)++) {
        float *v = syi_arena_alloc(arena, (size_t)(dim / 2) * sizeof *v);
        if (v == NULL) return sy_error_code(ctx);
        if (llama3) llama3_to(arch, config, dim / 2, v);
        else SYI_TRY(longrope_to(ctx, json, *n == 0 ? "short_factor" : "long_factor", dim / 2, v));
        out[*n] = (syi_rope_vector){llama3 ? "rope_freqs.weight" : *n == 0 ? "rope_factors_short.weight" : "rope_factors_long.weight", dim / 2, v};
    }
    return SY_OK;
}

sy_status syi_rope_keys(syi_gguf_writer *w, const sy_arch *arch, const void *config)
{
    const char *type = syi_arch_string(arch, config, "rope_type"), *name = arch->gguf_arch;
    char key[128];
    if (strcmp(type, "linear") == 0) {
        snprintf(key, sizeof key, "%s.rope.scaling.type", name);
        SYI_TRY(syi_gguf_put_str(w, key, "linear", -1));
        snprintf(key, sizeof key, "%s.rope.scaling.factor", name);
        SYI_TRY(syi_gguf_put_f32(w, key, (float)syi_arch_float(arch, config, "rope_factor", 1)));
    }
    if (!is_longrope(type)) return SY_OK;
    int64_t original = 0;
    syi_arch_field(arch, config, "rope_original_context", &original);
    snprintf(key, sizeof key, "%s.rope.scaling.original_context_length", name);
    SYI_TRY(syi_gguf_put_u32(w, key, (uint32_t)original));
    snprintf(key, sizeof key, "%s.rope.scaling.attn_factor", name);
    return syi_gguf_put_f32(w, key, (float)syi_arch_float(arch, config, "rope_attention_factor", 1));
}
