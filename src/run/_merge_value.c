/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters of a merge: scalars, gradients over layers and filtered lists, from the
 * recipe's four places (source or model, slice, module, whole recipe) and the method's own
 * defaults, resolved to one number per tensor and input. */
#include "run/_merge.h"

#include <math.h>

static const sy_option *row_of(const sy_merging *g, const char *key)
{
    char name[128];
    snprintf(name, sizeof name, "%s", key);
    for (char *c = name; *c; c++)
        if (*c == '_') *c = '-';
    return syi_row_find(g->use.method->options, name);
}

/* One scalar, checked by its row. */
static sy_status scalar(sy_merging *g, const sy_option *row, const json_t *v, const char *where, double *out)
{
    struct { union { double f; int64_t i; bool b; int e; char *s; sy_list l; sy_map m; } at; } box = { 0 };
    sy_option at_zero = *row;
    at_zero.offset = 0;
    json_t *number = NULL;
    double d;
    if (json_is_string(v) && (row->type == SY_OPT_FLOAT || row->type == SY_OPT_INT)) {
        if (syi_parse_double(json_string_value(v), &d)) number = json_real(d); /* "1e-3" is text to YAML 1.1 */
    } else if (json_is_integer(v) && row->type == SY_OPT_FLOAT) {
        number = json_real((double)json_integer_value(v));
    } else if (json_is_boolean(v) && row->type == SY_OPT_FLOAT) {
        number = json_real(json_is_true(v));
    } else if (json_is_number(v) && row->type == SY_OPT_BOOL) {
        number = json_boolean(json_number_value(v) != 0);
    }
    sy_status st = syi_option_from_json(g->ctx, &at_zero, &box, number ? number : v, where, g->arena);
    json_decref(number);
    if (st == SY_E_INPUT) { /* a recipe is configuration */
        char text[400];
        snprintf(text, sizeof text, "%s", sy_error_message(g->ctx));
        return syi_fail(g->ctx, SY_E_USAGE, "%s: %s", g->recipe.path, text);
    }
    SYI_TRY(st);
    *out = row->type == SY_OPT_FLOAT ? box.at.f : row->type == SY_OPT_BOOL ? box.at.b : row->type == SY_OPT_ENUM ? box.at.e : (double)box.at.i;
    return SY_OK;
}

static bool is_scalar(const json_t *v)
{
    return json_is_number(v) || json_is_boolean(v) || json_is_string(v);
}

/* Points at equal distances over the slice: numbers are interpolated, choices are not. */
static sy_status gradient(sy_merging *g, const sy_option *row, const json_t *v, double t, const char *where, double *out)
{
    const size_t n = json_array_size(v);
    const double at = t * (double)(n - 1);
    const size_t i = (size_t)at, j = i + 1 < n ? i + 1 : n - 1;
    double a, b;
    SYI_TRY(scalar(g, row, json_array_get(v, i), where, &a));
    SYI_TRY(scalar(g, row, json_array_get(v, j), where, &b));
    *out = row->type == SY_OPT_FLOAT ? (1 - (at - (double)i)) * a + (at - (double)i) * b : a;
    return SY_OK;
}

/* *found false: no entry of a filtered list is for this tensor. */
static sy_status setting(sy_merging *g, const sy_option *row, const json_t *v, const char *tensor, double t, const char *where, bool *found, double *out)
{
    size_t i;
    json_t *x, *one = NULL;
    sy_status st = SY_OK;
    *found = false;
    if (is_scalar(v)) return *found = true, scalar(g, row, v, where, out);
    if (json_is_object(v)) v = one = json_pack("[O]", v);
    if (!json_is_array(v) || json_array_size(v) == 0) {
        st = syi_fail(g->ctx, SY_E_USAGE, "%s: %s: expected a number, a list of numbers, or a list of {filter, value}", g->recipe.path, where);
    } else if (is_scalar(json_array_get(v, 0))) {
        *found = true;
        st = gradient(g, row, v, t, where, out);
    } else {
        json_array_foreach((json_t *)(uintptr_t)v, i, x) {
            const char *key, *filter = json_string_value(json_object_get(x, "filter"));
            const json_t *value = json_object_get(x, "value");
            json_t *unused;
            json_object_foreach(x, key, unused)
                if (strcmp(key, "filter") != 0 && strcmp(key, "value") != 0) value = NULL;
            if (!json_is_object(x) || !value) {
                st = syi_fail(g->ctx, SY_E_USAGE, "%s: %s[%d]: expected {filter: part of a tensor's name, value: number or list}", g->recipe.path, where, (int)i);
                break;
            }
            if (filter && strcmp(filter, "*") != 0 && !strstr(tensor, filter)) continue;
            st = setting(g, row, value, tensor, t, where, found, out);
            break;
        }
    }
    json_decref(one);
    return st;
}

/* `parameter` in one place, under any spelling its row answers to. */
static const json_t *look(const json_t *parameters, const sy_option *row)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)parameters, key, v) {
        char name[128];
        snprintf(name, sizeof name, "%s", key);
        for (char *c = name; *c; c++)
            if (*c == '_') *c = '-';
        if (syi_option_is(row, name)) return v;
    }
    return NULL;
}

static double default_of(const sy_merging *g, const sy_option *row)
{
    const char *at = (const char *)g->use.self + row->offset;
    switch (row->type) {
    case SY_OPT_FLOAT: return *(const double *)(const void *)at;
    case SY_OPT_BOOL: return *(const bool *)(const void *)at;
    case SY_OPT_ENUM: return *(const int *)(const void *)at;
    case SY_OPT_INT:
    case SY_OPT_SIZE: return (double)*(const int64_t *)(const void *)at;
    default: return NAN;
    }
}

static bool numeric(const sy_option *row)
{
    return row->type == SY_OPT_FLOAT || row->type == SY_OPT_BOOL || row->type == SY_OPT_ENUM || row->type == SY_OPT_INT || row->type == SY_OPT_SIZE;
}

static sy_status resolve(sy_merging *g, const sy_option *row, const syi_merge_tensor *t, const char *tensor, const json_t *own, const char *model, double *out)
{
    const json_t *places[] = { own, t->slice ? t->slice->parameters : NULL, t->module ? t->module->parameters : NULL, g->recipe.parameters };
    for (int i = 0; i < SYI_COUNT(places); i++) {
        const json_t *v = places[i] ? look(places[i], row) : NULL;
        bool found;
        if (!v || json_is_null(v)) continue;
        SYI_TRY(setting(g, row, v, tensor, t->t, row->name, &found, out));
        if (found) return SY_OK;
    }
    *out = default_of(g, row);
    if (model && (row->flags & SY_OPT_PER_MODEL) && !row->def)
        return syi_fail(g->ctx, SY_E_USAGE, "%s: model %s, tensor %s: the parameter \"%s\" is missing; merge_method %s needs it of every model", g->recipe.path,
                        model, tensor, row->name, g->use.method->name);
    return SY_OK;
}

sy_status syi_merge_values(sy_merging *g, syi_merge_tensor *t, const json_t *const *own)
{
    t->value = syi_arena_alloc(g->arena, (size_t)syi_max(1, g->n_rows * (t->n + 1)) * sizeof *t->value);
    if (!t->value) return SY_E_MEMORY;
    for (int r = 0; r < g->n_rows; r++) {
        const sy_option *row = &g->use.method->options[r];
        double *v = t->value + r * (t->n + 1);
        if (!numeric(row)) continue;
        for (int i = 0; i < t->n && (row->flags & SY_OPT_PER_MODEL); i++)
            SYI_TRY(resolve(g, row, t, t->in[i].entry->name, own[i], g->models[t->model[i]].text, &v[i]));
        SYI_TRY(resolve(g, row, t, t->name, NULL, NULL, &v[t->n]));
    }
    return SY_OK;
}

double sy_merge_value(const sy_merge *m, const char *parameter, int i)
{
    const sy_option *rows = m->job->use.method->options;
    for (int r = 0; r < m->job->n_rows; r++)
        if (strcmp(rows[r].name, parameter) == 0) return m->value[r * (m->n + 1) + (i < 0 ? m->n : i)];
    return NAN;
}

/* -- keys nobody reads ------------------------------------------------------------------------- */

static sy_status check_keys(sy_merging *g, const json_t *parameters, const char *where, bool of_model)
{
    const char *key, *names[128];
    json_t *v;
    int n = 0;
    for (int r = 0; r < g->n_rows && n < SYI_COUNT(names); r++)
        if (!of_model || (g->use.method->options[r].flags & SY_OPT_PER_MODEL)) names[n++] = g->use.method->options[r].name;
    json_object_foreach((json_t *)(uintptr_t)parameters, key, v) {
        const sy_option *row = row_of(g, key);
        if (row && (!of_model || (row->flags & SY_OPT_PER_MODEL))) continue;
        if (row)
            return syi_fail(g->ctx, SY_E_USAGE, "%s: %s: \"%s\" is one for all models; give it under \"parameters\" of the recipe, not of a model", g->recipe.path, where, key);
        const char *near = syi_nearest(key, names, n);
        if (near) return syi_fail(g->ctx, SY_E_USAGE, "%s: %s: merge_method %s has no parameter \"%s\"; did you mean \"%s\"?", g->recipe.path, where, g->use.method->name, key, near);
        syi_text list;
        syi_text_init(&list, g->ctx, 4096);
        for (int i = 0; i < n; i++) syi_text_printf(&list, "%s%s", i ? ", " : "", names[i]);
        sy_status st = syi_fail(g->ctx, SY_E_USAGE, "%s: %s: merge_method %s has no parameter \"%s\"; it has: %s", g->recipe.path, where, g->use.method->name, key,
                                n && list.s ? list.s : "none");
        syi_text_free(&list);
        return st;
    }
    return SY_OK;
}

static sy_status check_slices(sy_merging *g, const syi_recipe_slice *slices, int64_t n, const char *where)
{
    char at[256];
    for (int64_t i = 0; i < n; i++) {
        snprintf(at, sizeof at, "%s[%lld].parameters", where, (long long)i);
        SYI_TRY(check_keys(g, slices[i].parameters, at, false));
        for (int64_t k = 0; k < slices[i].n_sources; k++) {
            snprintf(at, sizeof at, "%s[%lld].sources[%lld].parameters", where, (long long)i, (long long)k);
            SYI_TRY(check_keys(g, slices[i].sources[k].parameters, at, true));
        }
    }
    return SY_OK;
}

static sy_status check_models(sy_merging *g, const syi_recipe_model *models, int64_t n, const char *where)
{
    char at[256];
    for (int64_t i = 0; i < n; i++) {
        snprintf(at, sizeof at, "%s[%lld].parameters", where, (long long)i);
        SYI_TRY(check_keys(g, models[i].parameters, at, true));
    }
    return SY_OK;
}

sy_status syi_merge_check_parameters(sy_merging *g)
{
    const syi_recipe *r = &g->recipe;
    SYI_TRY(check_keys(g, r->parameters, "parameters", false));
    SYI_TRY(check_models(g, r->models, r->n_models, "models"));
    SYI_TRY(check_slices(g, r->slices, r->n_slices, "slices"));
    for (int64_t i = 0; i < r->n_modules; i++) {
        char at[200];
        snprintf(at, sizeof at, "modules.%.150s", r->modules[i].name);
        SYI_TRY(check_keys(g, r->modules[i].parameters, at, false));
        SYI_TRY(check_models(g, r->modules[i].models, r->modules[i].n_models, at));
        SYI_TRY(check_slices(g, r->modules[i].slices, r->modules[i].n_slices, at));
    }
    return SY_OK;
}
