/* SPDX-License-Identifier: Apache-2.0 */
/* An architecture's config struct from config.json, by its rows, and the arithmetic of
 * shape texts ("heads*head_dim,hidden") over it. */
#include "model/model.h"

#include <math.h>

static const json_t *walk(const json_t *j, const char *path, size_t len)
{
    while (j && len) {
        const char *dot = memchr(path, '.', len);
        size_t n = dot ? (size_t)(dot - path) : len;
        char key[128];
        if (n >= sizeof key || !json_is_object(j)) return NULL;
        memcpy(key, path, n);
        key[n] = 0;
        j = json_object_get(j, key);
        path += dot ? n + 1 : n;
        len -= dot ? n + 1 : n;
    }
    return j && !json_is_null(j) ? j : NULL;
}

/* The first of the row's keys that is there. */
static const json_t *find(const json_t *json, const char *keys)
{
    for (const char *p = keys; *p;) {
        size_t n = strcspn(p, " ");
        const json_t *v = walk(json, p, n);
        if (v) return v;
        p += n;
        p += strspn(p, " ");
    }
    return NULL;
}

static const sy_arch_config *row_of(const sy_arch *arch, const char *field)
{
    for (const sy_arch_config *r = arch->config; r->field; r++)
        if (strcmp(r->field, field) == 0) return r;
    return NULL;
}

static sy_status set(sy_context *ctx, const sy_arch *arch, const sy_arch_config *r, char *base, const json_t *v, syi_arena *arena)
{
    void *at = base + r->offset;
    switch ((int)r->type) {
    case SY_OPT_INT:
        if (json_is_integer(v)) return *(int64_t *)at = json_integer_value(v), SY_OK;
        if (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)) && fabs(json_real_value(v)) < 9e15)
            return *(int64_t *)at = (int64_t)json_real_value(v), SY_OK;
        return syi_fail(ctx, SY_E_INPUT, "config.json: %s: expected an integer (%s)", r->keys, arch->name);
    case SY_OPT_FLOAT:
        if (json_is_number(v)) return *(double *)at = json_number_value(v), SY_OK;
        return syi_fail(ctx, SY_E_INPUT, "config.json: %s: expected a number (%s)", r->keys, arch->name);
    case SY_OPT_BOOL:
        if (json_is_boolean(v)) return *(bool *)at = json_is_true(v), SY_OK;
        return syi_fail(ctx, SY_E_INPUT, "config.json: %s: expected true or false (%s)", r->keys, arch->name);
    case SY_OPT_STRING:
        if (json_is_string(v)) {
            *(char **)at = syi_arena_strdup(arena, json_string_value(v));
            return *(char **)at ? SY_OK : SY_E_MEMORY;
        }
        return syi_fail(ctx, SY_E_INPUT, "config.json: %s: expected a string (%s)", r->keys, arch->name);
    default:
        return syi_fail(ctx, SY_E_BUG, "architecture %s: field %s has a type that config rows do not have", arch->name, r->field);
    }
}

static sy_status set_default(sy_context *ctx, const sy_arch *arch, const sy_arch_config *r, char *base, syi_arena *arena)
{
    void *at = base + r->offset;
    if (r->def[0] == '=') {
        const sy_arch_config *o = row_of(arch, r->def + 1);
        if (!o || o->type != r->type) return syi_fail(ctx, SY_E_BUG, "architecture %s: field %s: bad default %s", arch->name, r->field, r->def);
        static const size_t size[] = {[SY_OPT_INT] = 8, [SY_OPT_FLOAT] = 8, [SY_OPT_BOOL] = 1, [SY_OPT_STRING] = sizeof(char *)};
        memcpy(at, base + o->offset, size[r->type]);
        return SY_OK;
    }
    if (r->type == SY_OPT_STRING) {
        *(char **)at = syi_arena_strdup(arena, r->def);
        return *(char **)at ? SY_OK : SY_E_MEMORY;
    }
    json_t *v = json_loads(r->def, JSON_DECODE_ANY, NULL);
    sy_status s = v ? set(ctx, arch, r, base, v, arena) : syi_fail(ctx, SY_E_BUG, "architecture %s: field %s: bad default", arch->name, r->field);
    json_decref(v);
    return s;
}

sy_status syi_arch_config(sy_context *ctx, const sy_arch *arch, const json_t *json, syi_arena *arena, void **config)
{
    char *base = syi_arena_alloc(arena, arch->config_size);
    if (!base) return SY_E_MEMORY;
    for (const sy_arch_config *r = arch->config; r->field; r++) {
        const json_t *v = find(json, r->keys);
        if (v) SYI_TRY(set(ctx, arch, r, base, v, arena));
        else if (r->def) SYI_TRY(set_default(ctx, arch, r, base, arena));
        else return syi_fail(ctx, SY_E_INPUT, "config.json: %s is missing; the %s architecture needs it", r->keys, arch->name);
    }
    if (arch->check) SYI_TRY(arch->check(ctx, base, json));
    *config = base;
    return SY_OK;
}

bool syi_arch_field(const sy_arch *arch, const void *config, const char *field, int64_t *value)
{
    const sy_arch_config *r = row_of(arch, field);
    if (!r) return false;
    const char *at = (const char *)config + r->offset;
    if (r->type == SY_OPT_INT) *value = *(const int64_t *)at;
    else if (r->type == SY_OPT_BOOL) *value = *(const bool *)at;
    else return false;
    return true;
}

sy_status syi_arch_shape(sy_context *ctx, const sy_arch *arch, const void *config, const char *shape, int *rank, int64_t *dim)
{
    *rank = 0;
    for (const char *p = shape; *p;) {
        if (*rank == SY_MAX_RANK) return syi_fail(ctx, SY_E_BUG, "architecture %s: shape %s: too many dimensions", arch->name, shape);
        int64_t d = 1;
        for (;;) {
            size_t n = strcspn(p, "*,");
            char word[64];
            if (n == 0 || n >= sizeof word) return syi_fail(ctx, SY_E_BUG, "architecture %s: bad shape %s", arch->name, shape);
            memcpy(word, p, n);
            word[n] = 0;
            int64_t v;
            if (word[0] >= '0' && word[0] <= '9') {
                v = 0;
                for (char *q = word; *q; q++) v = v * 10 + (*q - '0');
            } else if (!syi_arch_field(arch, config, word, &v)) {
                return syi_fail(ctx, SY_E_BUG, "architecture %s: shape %s: no field %s", arch->name, shape, word);
            }
            if (!syi_size_mul(d, v, &d)) return syi_fail(ctx, SY_E_INPUT, "config.json: the product %s is too large", shape);
            p += n;
            if (*p != '*') break;
            p++;
        }
        dim[(*rank)++] = d;
        if (*p == ',') p++;
    }
    return SY_OK;
}
