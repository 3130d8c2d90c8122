/* SPDX-License-Identifier: Apache-2.0 */
/* Reads a merge recipe: mergekit's YAML. One table says which keys an object may have,
 * of what kind they are and where they go; anything else is an error that says where and
 * what was probably meant. */
#include "run/_merge.h"

typedef enum { TOP, MODEL, SLICE, SOURCE, MODULE, TOKENIZER, TOKEN, OBJECTS } object;
/* ONE is a list of at most one object, NAMED a mapping of names to objects. */
typedef enum { TEXT, BOOL, INT, RANGE, ANY, PARAMETERS, LIST, ONE, NAMED } kind;

#define AT(type, field) offsetof(type, field)
static const struct { object of; const char *key; kind kind; size_t offset, count; object item; bool required; } grammar[] = {
    { TOP, "merge_method", TEXT, AT(syi_recipe, merge_method), 0, TOP, true },
    { TOP, "base_model", TEXT, AT(syi_recipe, base_model), 0, TOP, false },
    { TOP, "models", LIST, AT(syi_recipe, models), AT(syi_recipe, n_models), MODEL, false },
    { TOP, "slices", LIST, AT(syi_recipe, slices), AT(syi_recipe, n_slices), SLICE, false },
    { TOP, "modules", NAMED, AT(syi_recipe, modules), AT(syi_recipe, n_modules), MODULE, false },
    { TOP, "parameters", PARAMETERS, AT(syi_recipe, parameters), 0, TOP, false },
    { TOP, "dtype", TEXT, AT(syi_recipe, dtype), 0, TOP, false },
    { TOP, "out_dtype", TEXT, AT(syi_recipe, out_dtype), 0, TOP, false },
    { TOP, "tokenizer_source", TEXT, AT(syi_recipe, tokenizer_source), 0, TOP, false },
    { TOP, "tokenizer", ONE, AT(syi_recipe, tokenizer), AT(syi_recipe, n_tokenizer), TOKENIZER, false },
    { TOP, "chat_template", TEXT, AT(syi_recipe, chat_template), 0, TOP, false },
    { MODEL, "model", TEXT, AT(syi_recipe_model, model), 0, TOP, true },
    { MODEL, "parameters", PARAMETERS, AT(syi_recipe_model, parameters), 0, TOP, false },
    { SLICE, "sources", LIST, AT(syi_recipe_slice, sources), AT(syi_recipe_slice, n_sources), SOURCE, true },
    { SLICE, "base_model", TEXT, AT(syi_recipe_slice, base_model), 0, TOP, false },
    { SLICE, "parameters", PARAMETERS, AT(syi_recipe_slice, parameters), 0, TOP, false },
    { SOURCE, "model", TEXT, AT(syi_recipe_source, model), 0, TOP, true },
    { SOURCE, "layer_range", RANGE, AT(syi_recipe_source, layer_range), 0, TOP, true },
    { SOURCE, "parameters", PARAMETERS, AT(syi_recipe_source, parameters), 0, TOP, false },
    { MODULE, "slices", LIST, AT(syi_recipe_module, slices), AT(syi_recipe_module, n_slices), SLICE, false },
    { MODULE, "models", LIST, AT(syi_recipe_module, models), AT(syi_recipe_module, n_models), MODEL, false },
    { MODULE, "parameters", PARAMETERS, AT(syi_recipe_module, parameters), 0, TOP, false },
    { TOKENIZER, "source", TEXT, AT(syi_recipe_tokenizer, source), 0, TOP, false },
    { TOKENIZER, "tokens", NAMED, AT(syi_recipe_tokenizer, tokens), AT(syi_recipe_tokenizer, n_tokens), TOKEN, false },
    { TOKENIZER, "pad_to_multiple_of", INT, AT(syi_recipe_tokenizer, pad_to_multiple_of), 0, TOP, false },
    { TOKEN, "source", ANY, AT(syi_recipe_token, source), 0, TOP, false },
    { TOKEN, "force", BOOL, AT(syi_recipe_token, force), 0, TOP, false },
};
/* The name of a NAMED item is its first member. */
static const size_t size_of[OBJECTS] = { sizeof(syi_recipe), sizeof(syi_recipe_model), sizeof(syi_recipe_slice), sizeof(syi_recipe_source),
                                         sizeof(syi_recipe_module), sizeof(syi_recipe_tokenizer), sizeof(syi_recipe_token) };

typedef struct { sy_context *ctx; syi_recipe *r; } reader;

static const char *kind_of(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "a mapping";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return "text";
    case JSON_INTEGER: return "a whole number";
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "true or false";
    default: return "nothing";
    }
}

static sy_status wrong(reader *p, const char *where, const char *wanted, const json_t *v)
{
    return syi_fail(p->ctx, SY_E_USAGE, "%s: %s: expected %s, found %s", p->r->path, where, wanted, kind_of(v));
}

static sy_status read_object(reader *p, object what, const json_t *j, const char *where, void *out);

static sy_status read_text(reader *p, const char *where, const json_t *v, char **out)
{
    char number[64];
    if (json_is_integer(v)) snprintf(number, sizeof number, "%lld", (long long)json_integer_value(v));
    else if (!json_is_string(v)) return wrong(p, where, "text", v);
    *out = syi_arena_strdup(p->r->arena, json_is_string(v) ? json_string_value(v) : number);
    return *out ? SY_OK : SY_E_MEMORY;
}

static sy_status read_range(reader *p, const char *where, const json_t *v, int64_t *out)
{
    if (!json_is_array(v) || json_array_size(v) != 2) return wrong(p, where, "[first, end) as a list of two whole numbers", v);
    for (size_t i = 0; i < 2; i++) {
        const json_t *x = json_array_get(v, i);
        if (!json_is_integer(x)) return wrong(p, where, "two whole numbers", x);
        out[i] = json_integer_value(x);
    }
    if (out[0] < 0 || out[1] <= out[0] || out[1] > 1 << 20)
        return syi_fail(p->ctx, SY_E_USAGE, "%s: %s: [%lld, %lld] holds no layers; expected first < end", p->r->path, where, (long long)out[0], (long long)out[1]);
    return SY_OK;
}

/* `n` objects behind each other in the arena. */
static sy_status read_items(reader *p, object item, const json_t *v, const char *where, bool named, void **out, int64_t *count)
{
    const int64_t n = named ? (int64_t)json_object_size(v) : (int64_t)json_array_size(v);
    char *items = syi_arena_alloc(p->r->arena, (size_t)(n + 1) * size_of[item]);
    if (!items) return SY_E_MEMORY;
    *out = items;
    *count = n;
    char inner[256];
    const char *key;
    json_t *x, *walk = (json_t *)(uintptr_t)v;
    size_t i = 0;
    if (named) {
        json_object_foreach(walk, key, x) {
            snprintf(inner, sizeof inner, "%s.%s", where, key);
            char **name = (char **)(void *)(items + i * size_of[item]);
            *name = syi_arena_strdup(p->r->arena, key);
            if (!*name) return SY_E_MEMORY;
            SYI_TRY(read_object(p, item, x, inner, items + i++ * size_of[item]));
        }
        return SY_OK;
    }
    json_array_foreach(walk, i, x) {
        snprintf(inner, sizeof inner, "%s[%d]", where, (int)i);
        SYI_TRY(read_object(p, item, x, inner, items + i * size_of[item]));
    }
    return SY_OK;
}

static sy_status read_value(reader *p, int row, const json_t *v, const char *where, char *out)
{
    void *at = out + grammar[row].offset;
    switch (grammar[row].kind) {
    case TEXT: return read_text(p, where, v, at);
    case BOOL:
        if (!json_is_boolean(v)) return wrong(p, where, "true or false", v);
        *(bool *)at = json_is_true(v);
        return SY_OK;
    case INT:
        if (!json_is_integer(v)) return wrong(p, where, "a whole number", v);
        *(int64_t *)at = json_integer_value(v);
        return SY_OK;
    case RANGE: return read_range(p, where, v, at);
    case PARAMETERS:
        if (!json_is_object(v)) return wrong(p, where, "a mapping of parameters", v);
        *(const json_t **)at = v;
        return SY_OK;
    case ANY: *(const json_t **)at = v; return SY_OK;
    case ONE: {
        void *one = syi_arena_alloc(p->r->arena, size_of[grammar[row].item]);
        if (!one) return SY_E_MEMORY;
        *(void **)at = one;
        *(int64_t *)(void *)(out + grammar[row].count) = 1;
        return read_object(p, grammar[row].item, v, where, one);
    }
    case NAMED:
        if (!json_is_object(v)) return wrong(p, where, "a mapping", v);
        return read_items(p, grammar[row].item, v, where, true, at, (int64_t *)(void *)(out + grammar[row].count));
    default:
        if (!json_is_array(v) || json_array_size(v) == 0) return wrong(p, where, "a list that is not empty", v);
        return read_items(p, grammar[row].item, v, where, false, at, (int64_t *)(void *)(out + grammar[row].count));
    }
}

static sy_status unknown(reader *p, object what, const char *where, const char *key)
{
    const char *names[SYI_COUNT(grammar)];
    int n = 0;
    syi_text list;
    for (int i = 0; i < SYI_COUNT(grammar); i++)
        if (grammar[i].of == what) names[n++] = grammar[i].key;
    const char *near = syi_nearest(key, names, n), *dot = *where ? ": " : "";
    if (near) return syi_fail(p->ctx, SY_E_USAGE, "%s: %s%sthere is no key \"%s\" here; did you mean \"%s\"?", p->r->path, where, dot, key, near);
    syi_text_init(&list, p->ctx, 1024);
    for (int i = 0; i < n; i++) syi_text_printf(&list, "%s%s", i ? ", " : "", names[i]);
    sy_status st = syi_fail(p->ctx, SY_E_USAGE, "%s: %s%sthere is no key \"%s\" here; there are: %s", p->r->path, where, dot, key, list.s ? list.s : "");
    syi_text_free(&list);
    return st;
}

static sy_status read_object(reader *p, object what, const json_t *j, const char *where, void *out)
{
    const char *key;
    json_t *v, *walk = (json_t *)(uintptr_t)j;
    char inner[256];
    if (!json_is_object(j)) return wrong(p, *where ? where : "the recipe", "a mapping", j);
    json_object_foreach(walk, key, v) {
        int row = 0;
        while (row < SYI_COUNT(grammar) && (grammar[row].of != what || strcmp(grammar[row].key, key) != 0)) row++;
        if (row == SYI_COUNT(grammar)) return unknown(p, what, where, key);
        if (json_is_null(v)) continue;
        snprintf(inner, sizeof inner, "%s%s%s", where, *where ? "." : "", key);
        SYI_TRY(read_value(p, row, v, inner, out));
    }
    for (int row = 0; row < SYI_COUNT(grammar); row++)
        if (grammar[row].of == what && grammar[row].required && (!(v = json_object_get(j, grammar[row].key)) || json_is_null(v)))
            return syi_fail(p->ctx, SY_E_USAGE, "%s: %s%s\"%s\" is missing", p->r->path, where, *where ? ": " : "", grammar[row].key);
    return SY_OK;
}

static sy_status check(sy_context *ctx, const syi_recipe *r)
{
    const int given = (r->n_models > 0) + (r->n_slices > 0) + (r->n_modules > 0);
    if (given != 1)
        return syi_fail(ctx, SY_E_USAGE, "%s: exactly one of \"models\", \"slices\" and \"modules\" is needed; found %d of them", r->path, given);
    if (r->tokenizer && r->tokenizer_source)
        return syi_fail(ctx, SY_E_USAGE, "%s: \"tokenizer\" and \"tokenizer_source\" say the same thing; give one of them", r->path);
    if (r->n_modules > 1)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: modules: %lld of them; the architectures known here have one", r->path, (long long)r->n_modules);
    for (int64_t i = 0; i < r->n_modules; i++)
        if ((r->modules[i].n_models > 0) == (r->modules[i].n_slices > 0))
            return syi_fail(ctx, SY_E_USAGE, "%s: modules.%s: either \"models\" or \"slices\" is needed", r->path, r->modules[i].name);
    return SY_OK;
}

sy_status syi_recipe_read(sy_context *ctx, const char *path, syi_recipe *out)
{
    *out = (syi_recipe){ .path = path };
    SYI_TRY(syi_arena_new(ctx, 8192, &out->arena));
    reader p = { ctx, out };
    sy_status st = syi_yaml_load(ctx, path, &out->json);
    if (st == SY_OK) st = read_object(&p, TOP, out->json, "", out);
    if (st == SY_OK) st = check(ctx, out);
    if (st != SY_OK) syi_recipe_free(out);
    return st;
}

void syi_recipe_free(syi_recipe *r)
{
    syi_arena_free(r->arena);
    json_decref(r->json);
    *r = (syi_recipe){ .path = NULL };
}
