/* SPDX-License-Identifier: Apache-2.0 */
/* Rows to and from JSON values, as adapter_config.json holds them. */
#include "option_value.h"

#include <math.h>

/* The JSON of choice i: the word after '=' may be true, false, null or a number. */
static json_t *choice_json(const sy_option *row, int i)
{
    int count = 0;
    char name[64];
    while (row->choices != NULL && row->choices[count] != NULL) count++;
    if (i < 0 || i >= count) return json_null();
    const char *equals = strchr(row->choices[i], '=');
    if (equals == NULL) return json_string(syi_option_choice_name(name, row, i));
    json_t *v = json_loads(equals + 1, JSON_DECODE_ANY, NULL);
    return v != NULL ? v : json_string(equals + 1);
}

json_t *syi_option_json(const sy_option *row, const void *base)
{
    const void *field = (const char *)base + row->offset;
    json_t *out = NULL;
    switch (row->type) {
    case SY_OPT_BOOL: return json_boolean(*(const bool *)field);
    case SY_OPT_INT:
    case SY_OPT_SIZE: return json_integer((json_int_t) * (const int64_t *)field);
    case SY_OPT_FLOAT: return json_real(*(const double *)field);
    case SY_OPT_STRING:
    case SY_OPT_PATH: {
        const char *s = *(char *const *)field;
        return s != NULL ? json_string(s) : json_null();
    }
    case SY_OPT_ENUM: return choice_json(row, *(const int *)field);
    case SY_OPT_LIST: {
        const sy_list *list = field;
        out = json_array();
        for (int i = 0; out != NULL && i < list->n; i++)
            if (json_array_append_new(out, json_string(list->item[i])) != 0) goto fail;
        return out;
    }
    case SY_OPT_MAP: {
        const sy_map *map = field;
        out = json_object();
        for (int i = 0; out != NULL && i < map->n; i++) {
            double v = map->value[i];
            bool whole = v == floor(v) && fabs(v) < 0x1p53; /* PEFT wants integer ranks */
            if (json_object_set_new(out, map->key[i], whole ? json_integer((json_int_t)v) : json_real(v)) != 0) goto fail;
        }
        return out;
    }
    }
fail:
    json_decref(out);
    return NULL;
}

static sy_status put_json(const syi_source *s, void *field, const json_t *v)
{
    const sy_option *row = s->row;
    double d = json_number_value(v);
    switch (row->type) {
    case SY_OPT_BOOL:
        if (!json_is_boolean(v)) return syi_option_refuse(s, "true or false", "");
        *(bool *)field = json_is_true(v);
        return SY_OK;
    case SY_OPT_INT:
    case SY_OPT_SIZE:
        if (json_is_integer(v)) return syi_option_put_int(s, field, (int64_t)json_integer_value(v));
        if (json_is_real(v) && d == floor(d) && fabs(d) <= 0x1p53) return syi_option_put_int(s, field, (int64_t)d);
        return syi_option_refuse(s, "a whole number", "");
    case SY_OPT_FLOAT:
        if (!json_is_number(v)) return syi_option_refuse(s, "a number", "");
        return syi_option_put_double(s, field, d);
    case SY_OPT_STRING:
    case SY_OPT_PATH:
        if (!json_is_string(v)) return syi_option_refuse(s, "a text", "");
        *(char **)field = syi_arena_strdup(s->arena, json_string_value(v));
        return *(char **)field != NULL ? SY_OK : SY_E_MEMORY;
    case SY_OPT_ENUM: {
        int i = syi_option_choice(row, json_is_string(v) ? json_string_value(v) : s->found, true);
        if (i < 0) return syi_option_refuse(s, "a value that is known here", "write another one, or use a newer version");
        *(int *)field = i;
        return SY_OK;
    }
    case SY_OPT_LIST: {
        if (json_is_array(v)) return syi_option_put_list(s, field, v);
        if (json_is_object(v)) return syi_option_refuse(s, "a list", "");
        json_t *one = json_pack("[O]", v);
        if (one == NULL) return syi_nomem(s->ctx, 0);
        sy_status status = syi_option_put_list(s, field, one);
        json_decref(one);
        return status;
    }
    case SY_OPT_MAP:
        if (!json_is_object(v)) return syi_option_refuse(s, "an object of numbers", "");
        return syi_option_put_map(s, field, v);
    }
    return syi_fail(s->ctx, SY_E_BUG, "option %s has the unknown type %d", row->name, (int)row->type);
}

sy_status syi_option_from_json(sy_context *ctx, const sy_option *row, void *base, const json_t *v, const char *where, syi_arena *arena)
{
    if (v == NULL || json_is_null(v)) return SY_OK;
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    if (text == NULL) return syi_nomem(ctx, 0);
    syi_source s = {.ctx = ctx, .row = row, .where = where, .code = SY_E_INPUT, .found = text, .arena = arena};
    sy_status status = put_json(&s, (char *)base + row->offset, v);
    syi_json_free_text(text);
    return status;
}
