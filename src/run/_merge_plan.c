/* SPDX-License-Identifier: Apache-2.0 */
/* What each output tensor will be made of: layers of slices renumbered, tensors of the
 * same name looked up in every model, shapes and types compared, parameters resolved.
 * Everything that can be wrong is wrong here, before a byte is written. */
#include "run/_merge.h"

#include "io/source.h"
#include "run/run.h"

#include <math.h>

/* -- layers in names --------------------------------------------------------------------- */

/* "model.layers.12.mlp.weight": where the number is; false: the tensor is outside the layers. */
static bool number_in(const char *name, size_t *from, size_t *to)
{
    static const char *const words[] = { "layers.", "blocks.", "layer.", "block.", "h." };
    for (const char *at = name; *at; at++) {
        if (at != name && at[-1] != '.') continue;
        for (int w = 0; w < SYI_COUNT(words); w++) {
            if (!syi_starts(at, words[w])) continue;
            const char *d = at + strlen(words[w]);
            const size_t n = strspn(d, "0123456789");
            if (n == 0 || n > 6 || d[n] != '.') continue;
            *from = (size_t)(d - name);
            *to = *from + n;
            return true;
        }
    }
    return false;
}

static int block_of(const char *name)
{
    size_t from, to;
    int n = 0;
    if (!number_in(name, &from, &to)) return -1;
    for (size_t i = from; i < to; i++) n = 10 * n + (name[i] - '0');
    return n;
}

static char *with_block(sy_merging *g, const char *name, int64_t block)
{
    size_t from, to;
    if (!number_in(name, &from, &to)) return syi_arena_strdup(g->arena, name);
    return syi_arena_format(g->arena, "%.*s%lld%s", (int)from, name, (long long)block, name + to);
}

static int64_t layers_of(const sy_merging *g, int model)
{
    int64_t most = 0;
    const sy_checkpoint *ck = g->models[model].tensors;
    for (int64_t i = 0; i < sy_checkpoint_count(ck); i++) most = syi_max(most, block_of(sy_checkpoint_at(ck, i)->name) + 1);
    return most;
}

/* -- slices --------------------------------------------------------------------------------- */

typedef struct { int model; int64_t first; const json_t *parameters; } source;
typedef struct {
    const syi_recipe_slice *of; const syi_recipe_module *module;
    source *source; int n;      /* without the base                                          */
    source base;                /* model -1: none                                            */
    int64_t layers;
} slice;

static sy_status add_source(sy_merging *g, slice *s, const char *text, int64_t first, const json_t *parameters, int base)
{
    int model;
    SYI_TRY(syi_merge_open(g, text, &model));
    if (model == base && g->merger->base != SY_MERGE_BASE_NONE) {
        s->base = (source){ model, first, parameters };
        return SY_OK;
    }
    for (int i = 0; i < s->n; i++)
        if (s->source[i].model == model) return syi_fail(g->ctx, SY_E_USAGE, "%s: the model %s is given twice", g->recipe.path, text);
    s->source[s->n++] = (source){ model, first, parameters };
    return SY_OK;
}

static sy_status check_number(sy_merging *g, const slice *s)
{
    const sy_merger *k = g->merger;
    const char *name = g->use.method->name;
    if (k->base == SY_MERGE_BASE_REQUIRED && s->base.model < 0) return syi_fail(g->ctx, SY_E_USAGE, "%s: merge_method %s needs a base_model", g->recipe.path, name);
    if (s->n < k->min_inputs)
        return syi_fail(g->ctx, SY_E_USAGE, "%s: merge_method %s needs at least %d models%s, found %d", g->recipe.path, name, k->min_inputs,
                        k->base == SY_MERGE_BASE_REQUIRED ? " besides the base" : "", s->n);
    if (k->max_inputs && s->n > k->max_inputs)
        return syi_fail(g->ctx, SY_E_USAGE, "%s: merge_method %s takes at most %d model%s%s, found %d", g->recipe.path, name, k->max_inputs, k->max_inputs > 1 ? "s" : "",
                        k->base == SY_MERGE_BASE_REQUIRED ? " besides the base" : "", s->n);
    return SY_OK;
}

static sy_status new_slice(sy_merging *g, slice *s, int64_t sources)
{
    if (sources > SY_MERGE_INPUTS - 1) return syi_fail(g->ctx, SY_E_UNSUPPORTED, "%s: at most %d models at once, found %lld", g->recipe.path, SY_MERGE_INPUTS - 1, (long long)sources);
    s->source = syi_arena_alloc(g->arena, (size_t)(sources + 2) * sizeof *s->source);
    s->base.model = -1;
    return s->source ? SY_OK : SY_E_MEMORY;
}

static sy_status slice_of_models(sy_merging *g, const syi_recipe_model *models, int64_t n, slice *s)
{
    SYI_TRY(new_slice(g, s, n));
    for (int64_t i = 0; i < n; i++) SYI_TRY(add_source(g, s, models[i].model, 0, models[i].parameters, g->base));
    const bool listed = s->base.model >= 0;
    if (g->base >= 0 && !listed && g->merger->base != SY_MERGE_BASE_NONE) s->base = (source){ g->base, 0, NULL };
    if (g->base >= 0 && g->merger->base == SY_MERGE_BASE_NONE && !(g->merger->max_inputs && s->n >= g->merger->max_inputs)) {
        bool there = false;
        for (int i = 0; i < s->n; i++) there |= s->source[i].model == g->base;
        if (!there) s->source[s->n++] = (source){ g->base, 0, NULL }; /* a base that is not listed is one more model */
    }
    for (int i = 0; i < s->n + (s->base.model >= 0); i++) {
        const int model = i < s->n ? s->source[i].model : s->base.model;
        const int64_t layers = layers_of(g, model);
        if (i == 0) s->layers = layers;
        if (layers != s->layers)
            return syi_fail(g->ctx, SY_E_INPUT, "%s: %s has %lld layers, %s has %lld; say with \"slices\" which layers go together", g->recipe.path,
                            g->models[s->n ? s->source[0].model : s->base.model].text, (long long)s->layers, g->models[model].text, (long long)layers);
    }
    return check_number(g, s);
}

static sy_status slice_of_layers(sy_merging *g, const syi_recipe_slice *from, slice *s)
{
    int base = g->base;
    SYI_TRY(new_slice(g, s, from->n_sources));
    if (from->base_model) SYI_TRY(syi_merge_open(g, from->base_model, &base));
    s->of = from;
    s->layers = from->sources[0].layer_range[1] - from->sources[0].layer_range[0];
    for (int64_t i = 0; i < from->n_sources; i++) {
        const syi_recipe_source *x = &from->sources[i];
        SYI_TRY(add_source(g, s, x->model, x->layer_range[0], x->parameters, base));
        if (x->layer_range[1] - x->layer_range[0] != s->layers)
            return syi_fail(g->ctx, SY_E_USAGE, "%s: sources of one slice need as many layers each: [%lld, %lld] of %s has %lld, the first has %lld", g->recipe.path,
                            (long long)x->layer_range[0], (long long)x->layer_range[1], x->model, (long long)(x->layer_range[1] - x->layer_range[0]), (long long)s->layers);
        int model;
        SYI_TRY(syi_merge_open(g, x->model, &model));
        if (x->layer_range[1] > layers_of(g, model))
            return syi_fail(g->ctx, SY_E_USAGE, "%s: layer_range [%lld, %lld]: %s has %lld layers", g->recipe.path, (long long)x->layer_range[0], (long long)x->layer_range[1],
                            x->model, (long long)layers_of(g, model));
    }
    if (base >= 0 && s->base.model < 0 && g->merger->base != SY_MERGE_BASE_NONE) s->base = (source){ base, from->sources[0].layer_range[0], NULL };
    return check_number(g, s);
}

static sy_status make_slices(sy_merging *g, slice **out, int64_t *n)
{
    const syi_recipe *r = &g->recipe;
    const syi_recipe_module *module = r->n_modules ? &r->modules[0] : NULL;
    const syi_recipe_slice *slices = module ? module->slices : r->slices;
    const int64_t n_slices = module ? module->n_slices : r->n_slices;
    *n = n_slices ? n_slices : 1;
    *out = syi_arena_alloc(g->arena, (size_t)*n * sizeof **out);
    if (!*out) return SY_E_MEMORY;
    for (int64_t i = 0; i < n_slices; i++) {
        SYI_TRY(slice_of_layers(g, &slices[i], &(*out)[i]));
        (*out)[i].module = module;
    }
    if (n_slices) return SY_OK;
    (*out)[0].module = module;
    return slice_of_models(g, module ? module->models : r->models, module ? module->n_models : r->n_models, &(*out)[0]);
}

/* -- one tensor ------------------------------------------------------------------------------------ */

static bool mergeable(sy_dtype t)
{
    return sy_dtype_is_float(t) || sy_dtype_block_len(t) > 1 || t == SY_F8_E4M3 || t == SY_F8_E5M2;
}

static const sy_arch_tensor *arch_row(const sy_merging *g, const char *name)
{
    char gguf[SYI_MODEL_NAME_MAX];
    return g->arch ? syi_name_to_gguf(g->arch, name, gguf) : NULL;
}

static bool is_head(const char *name) { return strcmp(name, "lm_head.weight") == 0; }
static bool is_embedding(const char *name) { return strcmp(name, "model.embed_tokens.weight") == 0; }

/* The tensor in a model; a head that shares the embedding's table is that table. */
static const sy_entry *entry_of(const sy_merging *g, int model, const char *name)
{
    const sy_entry *e = sy_checkpoint_find(g->models[model].tensors, name);
    if (!e && is_head(name)) e = sy_checkpoint_find(g->models[model].tensors, "model.embed_tokens.weight");
    return e;
}

static sy_status fill_in(sy_merging *g, syi_merge_tensor *t, syi_merge_in *in, const source *s, const char *name)
{
    syi_merge_model *m = &g->models[s->model];
    in->model = s->model;
    in->entry = entry_of(g, s->model, name);
    if (!in->entry) return syi_fail(g->ctx, SY_E_INPUT, "%s: %s has no tensor %s, which another model of the merge has", g->recipe.path, m->text, name);
    for (int i = 0; m->run && i < m->run->model->n_sites; i++) {
        sy_site *site = &m->run->model->sites[i];
        const size_t n = strlen(site->name);
        if (strncmp(in->entry->name, site->name, n) != 0 || strcmp(in->entry->name + n, ".weight") != 0) continue;
        if (site->n_wraps || (site->weight->param && site->weight->param->trained)) in->fold = site;
    }
    if (t->vocab && m->take) in->take = m->take;
    return SY_OK;
}

static sy_status shapes(sy_merging *g, syi_merge_tensor *t)
{
    const syi_merge_in *first = t->base ? t->base : &t->in[0];
    char a[128], b[128];
    t->rank = first->entry->rank;
    memcpy(t->dim, first->entry->dim, sizeof t->dim);
    for (int i = 0; i < t->n; i++) {
        const sy_entry *e = t->in[i].entry;
        bool same = e->rank == t->rank;
        for (int d = 0; same && d < t->rank; d++) same = e->dim[d] == t->dim[d] || (d == 0 && t->in[i].take);
        if (same) continue;
        return syi_fail(g->ctx, SY_E_INPUT, "%s: tensor %s is %s in %s and %s in %s%s", g->recipe.path, t->name, syi_shape_text(a, t->rank, t->dim),
                        g->models[first->model].text, syi_shape_text(b, e->rank, e->dim), g->models[t->in[i].model].text,
                        t->vocab && e->rank == t->rank && e->dim[t->rank - 1] == t->dim[t->rank - 1]
                            ? "; their vocabularies differ: say with \"tokenizer: {source: union}\" (or base) which tokens the result has"
                            : "; only models of one shape can be merged");
    }
    if (t->vocab && first->take) t->dim[0] = g->models[first->model].n_take;
    t->cols = t->rank ? t->dim[t->rank - 1] : 1;
    t->rows = 1;
    for (int d = 0; d + 1 < t->rank; d++) t->rows *= t->dim[d];
    t->count = t->rows * t->cols;
    return SY_OK;
}

static void types(sy_merging *g, syi_merge_tensor *t)
{
    const sy_dtype own = (t->base ? t->base : &t->in[0])->entry->dtype;
    t->copy = !mergeable(own);
    for (int i = 0; i < t->n; i++) t->copy |= !mergeable(t->in[i].entry->dtype);
    t->dtype = t->copy ? own : g->dtype >= 0 ? (sy_dtype)g->dtype : sy_dtype_is_float(own) ? own : SY_BF16;
    t->bytes = t->count * sy_dtype_block_bytes(t->dtype);
}

/* `name` in the first source's numbering; block: the output's. */
static sy_status add_tensor(sy_merging *g, const slice *s, const char *name, int64_t offset, int64_t block)
{
    SYI_TRY(syi_grow(g->ctx, (void **)&g->tensors, &g->cap, g->n + 1, sizeof *g->tensors, 1 << 24));
    syi_merge_tensor *t = &g->tensors[g->n];
    const json_t *own[SY_MERGE_INPUTS];
    *t = (syi_merge_tensor){ .block = (int)block, .slice = s->of, .module = s->module, .n = s->n };
    t->name = block >= 0 ? with_block(g, name, block) : syi_arena_strdup(g->arena, name);
    t->in = syi_arena_alloc(g->arena, (size_t)(s->n + 1) * sizeof *t->in);
    t->model = syi_arena_alloc(g->arena, (size_t)(s->n + 1) * sizeof *t->model);
    if (!t->name || !t->in || !t->model) return SY_E_MEMORY;
    t->row = arch_row(g, t->name);
    t->vocab = is_head(t->name) || is_embedding(t->name);
    t->t = block < 0 ? 0 : s->layers > 1 ? (double)offset / (double)(s->layers - 1) : 1;
    for (int i = 0; i < s->n; i++) {
        const char *there = block >= 0 ? with_block(g, name, s->source[i].first + offset) : name;
        if (!there) return SY_E_MEMORY;
        SYI_TRY(fill_in(g, t, &t->in[i], &s->source[i], there));
        t->model[i] = s->source[i].model;
        own[i] = s->source[i].parameters;
    }
    if (s->base.model >= 0) {
        const char *there = block >= 0 ? with_block(g, name, s->base.first + offset) : name;
        if (!there) return SY_E_MEMORY;
        t->base = &t->in[s->n];
        SYI_TRY(fill_in(g, t, t->base, &s->base, there));
    }
    SYI_TRY(shapes(g, t));
    types(g, t);
    SYI_TRY(syi_merge_values(g, t, own));
    g->n++;
    return SY_OK;
}

/* Every name that some source of the slice has, in the order of the files: those of one
 * layer (block >= 0: of the first source's numbering), or those outside (-1). */
static sy_status add_names(sy_merging *g, const slice *s, int64_t offset, int64_t out_block, int outside)
{
    syi_map *seen;
    SYI_TRY(syi_map_new(g->ctx, &seen));
    sy_status st = SY_OK;
    for (int k = s->base.model >= 0 ? -1 : 0; k < s->n && st == SY_OK; k++) { /* the base first */
        const source *x = k < 0 ? &s->base : &s->source[k];
        const sy_checkpoint *ck = g->models[x->model].tensors;
        for (int64_t e = 0; e < sy_checkpoint_count(ck) && st == SY_OK; e++) {
            const char *name = sy_checkpoint_at(ck, e)->name;
            const int b = block_of(name);
            int64_t unused;
            if (out_block >= 0 ? b != x->first + offset : b >= 0) continue;
            if (out_block < 0 && outside >= 0 && is_embedding(name) != (outside == 0)) continue;
            char *common = out_block >= 0 ? with_block(g, name, out_block) : syi_arena_strdup(g->arena, name);
            if (!common) st = SY_E_MEMORY;
            else if (!syi_map_get(seen, common, strlen(common), &unused)) {
                st = syi_map_set(seen, common, strlen(common), 1);
                if (st == SY_OK) st = add_tensor(g, s, name, offset, out_block);
            }
        }
    }
    syi_map_free(seen);
    return st;
}

static sy_status add_all(sy_merging *g, const slice *s, int64_t n)
{
    int64_t block = 0;
    SYI_TRY(add_names(g, &s[0], 0, -1, n > 1 ? 0 : -1)); /* with several slices: embeddings of the first, the rest of the last */
    for (int64_t i = 0; i < n; i++)
        for (int64_t l = 0; l < s[i].layers; l++) SYI_TRY(add_names(g, &s[i], l, block++, -1));
    if (n > 1) SYI_TRY(add_names(g, &s[n - 1], 0, -1, 1));
    g->layers = block;
    return SY_OK;
}

/* -- is the base the base? ----------------------------------------------------------------------------- */

enum { PROBE = 16384 };

/* A fine-tuned model points the way its base does (cosines of 0.9 and more); an unrelated
 * one stands at a right angle to it. Looks at the first rows of up to 8 matrices. */
static sy_status check_base(sy_merging *g, const slice *s)
{
    if (s->base.model < 0 || g->unrelated) return SY_OK;
    float *x = syi_alloc(g->ctx, 2 * PROBE * sizeof *x);
    if (!x) return SY_E_MEMORY;
    sy_status st = SY_OK;
    for (int i = 0; i < s->n && st == SY_OK; i++) {
        double cosine = 0;
        int seen = 0;
        for (int64_t k = 0; k < g->n && seen < 8; k++) {
            const syi_merge_tensor *t = &g->tensors[k];
            if (t->rank != 2 || t->vocab || t->copy || !t->base || t->cols > PROBE || i >= t->n || t->model[i] != s->source[i].model) continue;
            if (t->in[i].fold || t->base->fold) continue;
            const int64_t rows = syi_min(t->rows, PROBE / t->cols);
            double d[3] = { 0 };
            const float *a = syi_merge_in_rows(g, &t->in[i], 0, rows, x), *b = syi_merge_in_rows(g, t->base, 0, rows, x + PROBE);
            g->mix->dots(a, b, NULL, d, rows * t->cols);
            if (!(d[0] > 0 && d[1] > 0)) continue;
            cosine += d[2] / sqrt(d[0] * d[1]);
            seen++;
        }
        if (seen >= 4 && cosine / seen < 0.5)
            st = syi_fail(g->ctx, SY_E_INPUT, "%s: %s does not seem to come from the base %s (their weights have a mean cosine of %.2f): give the model that both were "
                          "fine-tuned from, or --unrelated if this is meant", g->recipe.path, g->models[s->source[i].model].text, g->models[s->base.model].text, cosine / seen);
    }
    syi_free(g->ctx, x);
    return st;
}

/* -- the output's config --------------------------------------------------------------------------------- */

static sy_status dtype_of(sy_merging *g)
{
    static const struct { const char *name; sy_dtype t; } names[] = { { "float32", SY_F32 }, { "bfloat16", SY_BF16 }, { "float16", SY_F16 }, { "float64", SY_F64 },
                                                                     { "f32", SY_F32 }, { "bf16", SY_BF16 }, { "f16", SY_F16 }, { "f64", SY_F64 } };
    const char *asked = g->recipe.out_dtype ? g->recipe.out_dtype : g->recipe.dtype;
    g->dtype = -1;
    for (int k = 0; k < 2; k++) {
        const char *text = k ? asked : g->recipe.dtype;
        if (!text || strcmp(text, "auto") == 0) continue;
        if (syi_starts(text, "torch.")) text += 6;
        int found = -1;
        for (int i = 0; i < SYI_COUNT(names); i++)
            if (strcmp(names[i].name, text) == 0) found = (int)names[i].t;
        if (found < 0) return syi_fail(g->ctx, SY_E_USAGE, "%s: dtype: expected float32, bfloat16, float16 or float64, found \"%s\"", g->recipe.path, text);
        if (k) g->dtype = found;
    }
    return SY_OK;
}

/* Options of the method that are one for the whole merge. */
static sy_status global_options(sy_merging *g)
{
    const sy_option *row = g->use.method->options;
    for (g->n_rows = 0; row && row[g->n_rows].name; g->n_rows++) {}
    SYI_TRY(syi_merge_check_parameters(g));
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)g->recipe.parameters, key, v) {
        char name[128], where[200];
        snprintf(name, sizeof name, "%s", key);
        for (char *c = name; *c; c++)
            if (*c == '_') *c = '-';
        const sy_option *r = syi_row_find(row, name);
        if (!r || (r->flags & SY_OPT_PER_MODEL) || json_is_null(v)) continue;
        const bool texts = r->type == SY_OPT_LIST || r->type == SY_OPT_MAP;
        if (!texts && (json_is_array(v) || json_is_object(v))) continue; /* differs from tensor to tensor */
        snprintf(where, sizeof where, "%.100s: parameters.%.60s", g->recipe.path, key);
        json_t *real = r->type == SY_OPT_FLOAT && json_is_integer(v) ? json_real((double)json_integer_value(v))
                       : r->type == SY_OPT_BOOL && json_is_number(v) ? json_boolean(json_number_value(v) != 0) : NULL;
        sy_status st = syi_option_from_json(g->ctx, r, g->use.self, real ? real : v, where, g->arena);
        json_decref(real);
        if (st != SY_OK && json_is_string(v) && r->type == SY_OPT_FLOAT) st = syi_option_set(g->ctx, r, g->use.self, json_string_value(v), where, g->arena);
        if (st == SY_E_INPUT) {
            char text[400];
            snprintf(text, sizeof text, "%s", sy_error_message(g->ctx));
            return syi_fail(g->ctx, SY_E_USAGE, "merge_method %s: %s", g->use.method->name, text);
        }
        SYI_TRY(st);
    }
    return SY_OK;
}

sy_status syi_merge_plan(sy_merging *g)
{
    const syi_recipe *r = &g->recipe;
    slice *s;
    int64_t n;
    g->base = -1;
    SYI_TRY(dtype_of(g));
    SYI_TRY(global_options(g));
    if (r->base_model) SYI_TRY(syi_merge_open(g, r->base_model, &g->base));
    SYI_TRY(make_slices(g, &s, &n));
    g->donor = g->base >= 0 ? g->base : s[0].n ? s[0].source[0].model : s[0].base.model;
    const syi_source *donor = g->models[g->donor].source;
    g->arch = donor->arch;
    for (int i = 0; i < g->n_models; i++)
        if (g->models[i].source->arch != g->arch)
            return syi_fail(g->ctx, SY_E_INPUT, "%s: %s is of architecture %s, %s of %s; only models of one architecture can be merged", r->path, g->models[g->donor].text,
                            g->arch ? g->arch->name : "unknown", g->models[i].text, g->models[i].source->arch ? g->models[i].source->arch->name : "unknown");
    SYI_TRY(syi_merge_tokens(g));
    SYI_TRY(add_all(g, s, n));
    if (g->n == 0) return syi_fail(g->ctx, SY_E_INPUT, "%s: the models hold no tensors", r->path);
    return check_base(g, &s[0]);
}
