/* SPDX-License-Identifier: Apache-2.0 */
/* YAML through libyaml's events, so that every message can say file:line. Only what
 * a configuration needs: anchors, aliases, tags, merge keys and several documents
 * are refused, which also keeps a small file from growing into a huge tree. */
#include "options.h"

#include <yaml.h>

enum { DEPTH_MAX = 64, FILE_MAX = 16 << 20 };

typedef struct {
    sy_context *ctx;
    const char *path;
    yaml_parser_t parser;
    yaml_event_t event;
    bool held; /* event is to be deleted */
} reader;

static int line_of(const reader *r)
{
    return (int)r->event.start_mark.line + 1;
}

static sy_status refuse(reader *r, const char *expected, const char *found)
{
    return syi_fail(r->ctx, SY_E_USAGE, "%s:%d: expected %s, found %s", r->path, line_of(r), expected, found);
}

/* The next event; anchors, aliases and tags end here. */
static sy_status next(reader *r)
{
    if (r->held) yaml_event_delete(&r->event);
    r->held = false;
    if (!yaml_parser_parse(&r->parser, &r->event)) {
        const yaml_parser_t *p = &r->parser;
        if (p->error == YAML_MEMORY_ERROR) return syi_nomem(r->ctx, 0);
        size_t line = p->error == YAML_READER_ERROR ? 0 : p->problem_mark.line + 1;
        if (line == 0)
            return syi_fail(r->ctx, SY_E_USAGE, "%s: not a YAML text (byte %zu): %s", r->path, p->problem_offset,
                            p->problem != NULL ? p->problem : "unreadable");
        return syi_fail(r->ctx, SY_E_USAGE, "%s:%zu: not valid YAML: %s%s%s", r->path, line,
                        p->problem != NULL ? p->problem : "unreadable", p->context != NULL ? " " : "",
                        p->context != NULL ? p->context : "");
    }
    r->held = true;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (r->event.type) {
    case YAML_ALIAS_EVENT:
        return refuse(r, "the value itself", "an alias (*name), which is not supported here");
    case YAML_SCALAR_EVENT:
        anchor = r->event.data.scalar.anchor;
        tag = r->event.data.scalar.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = r->event.data.sequence_start.anchor;
        tag = r->event.data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = r->event.data.mapping_start.anchor;
        tag = r->event.data.mapping_start.tag;
        break;
    default: break;
    }
    if (anchor != NULL) return refuse(r, "a plain value", "an anchor (&name), which is not supported here");
    if (tag != NULL) return refuse(r, "a plain value", "a tag (!name), which is not supported here");
    return SY_OK;
}

/* The scalar's text, without NUL characters inside. */
static sy_status scalar_text(reader *r, const char **out)
{
    *out = (const char *)r->event.data.scalar.value;
    if (strlen(*out) != r->event.data.scalar.length) return refuse(r, "text", "a NUL character in it");
    return SY_OK;
}

static bool is_plain(const reader *r)
{
    return r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

static bool one_of(const char *s, const char *const *words)
{
    for (; *words != NULL; words++)
        if (strcmp(s, *words) == 0) return true;
    return false;
}

static bool is_null(const char *s)
{
    static const char *const words[] = {"", "~", "null", "Null", "NULL", NULL};
    return one_of(s, words);
}

static json_t *plain_json(const char *s)
{
    static const char *const yes[] = {"true", "True", "TRUE", NULL}, *const no[] = {"false", "False", "FALSE", NULL};
    int64_t i;
    double d;
    if (is_null(s)) return json_null();
    if (one_of(s, yes)) return json_true();
    if (one_of(s, no)) return json_false();
    if (strpbrk(s, ".eE") == NULL && syi_parse_int(s, &i)) return json_integer((json_int_t)i);
    if (syi_parse_double(s, &d)) return json_real(d);
    return json_string(s);
}

/* The value that begins with the present event. */
static sy_status value(reader *r, int depth, json_t **out);

static sy_status sequence(reader *r, int depth, json_t *list)
{
    for (;;) {
        json_t *item = NULL;
        SYI_TRY(next(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT) return SY_OK;
        SYI_TRY(value(r, depth, &item));
        if (json_array_append_new(list, item) != 0) return syi_nomem(r->ctx, 0);
    }
}

/* A key (the present event is it), which `seen` must not hold yet. */
static sy_status key_text(reader *r, const json_t *seen, const char **out)
{
    if (r->event.type != YAML_SCALAR_EVENT) return refuse(r, "a key", "a list or mapping in its place");
    SYI_TRY(scalar_text(r, out));
    if (strcmp(*out, "<<") == 0) return refuse(r, "a key", "a merge key (<<), which is not supported here");
    if (json_object_get(seen, *out) != NULL)
        return syi_fail(r->ctx, SY_E_USAGE, "%s:%d: \"%s\" is given twice; remove one of the two", r->path, line_of(r), *out);
    return SY_OK;
}

static sy_status mapping(reader *r, int depth, json_t *object)
{
    for (;;) {
        const char *text = NULL;
        SYI_TRY(next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) return SY_OK;
        SYI_TRY(key_text(r, object, &text));
        char *key = syi_strdup(r->ctx, text); /* the event goes away */
        if (key == NULL) return SY_E_MEMORY;
        json_t *item = NULL;
        sy_status status = next(r);
        if (status == SY_OK) status = value(r, depth, &item);
        if (status == SY_OK && json_object_set_new(object, key, item) != 0) status = syi_nomem(r->ctx, 0);
        syi_free(r->ctx, key);
        SYI_TRY(status);
    }
}

static sy_status value(reader *r, int depth, json_t **out)
{
    sy_status status = SY_OK;
    json_t *v = NULL;
    *out = NULL;
    if (depth >= DEPTH_MAX) return refuse(r, "at most 64 levels of lists and mappings", "more");
    if (r->event.type == YAML_SEQUENCE_START_EVENT) {
        if ((v = json_array()) != NULL) status = sequence(r, depth + 1, v);
    } else if (r->event.type == YAML_MAPPING_START_EVENT) {
        if ((v = json_object()) != NULL) status = mapping(r, depth + 1, v);
    } else {
        const char *text = NULL;
        SYI_TRY(scalar_text(r, &text));
        v = is_plain(r) ? plain_json(text) : json_string(text);
    }
    if (v == NULL) return syi_nomem(r->ctx, 0);
    if (status != SY_OK) {
        json_decref(v);
        return status;
    }
    *out = v;
    return SY_OK;
}

/* Up to the first event of the document; *empty: there is none. */
static sy_status start(reader *r, bool *empty)
{
    SYI_TRY(next(r)); /* stream start */
    SYI_TRY(next(r));
    *empty = r->event.type == YAML_STREAM_END_EVENT;
    if (*empty) return SY_OK;
    return next(r);
}

static sy_status finish(reader *r)
{
    SYI_TRY(next(r)); /* document end */
    SYI_TRY(next(r));
    if (r->event.type != YAML_STREAM_END_EVENT) return refuse(r, "one document", "a second one (---)");
    return SY_OK;
}

typedef sy_status body_fn(reader *r, void *self);

/* Opens the file, runs `body` on the first event of the document, closes. */
static sy_status with_file(sy_context *ctx, const char *path, body_fn *body, void *self)
{
    char *text = NULL;
    int64_t size = 0;
    bool empty = false;
    SYI_TRY(syi_read_file(ctx, path, FILE_MAX, &text, &size));
    reader r = {.ctx = ctx, .path = path};
    sy_status status = SY_OK;
    if (!yaml_parser_initialize(&r.parser)) status = syi_nomem(ctx, sizeof r);
    else {
        yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, (size_t)size);
        status = start(&r, &empty);
        if (status == SY_OK && !empty) status = body(&r, self);
        if (status == SY_OK && !empty) status = finish(&r);
        if (r.held) yaml_event_delete(&r.event);
        yaml_parser_delete(&r.parser);
    }
    syi_free(ctx, text);
    return status;
}

static sy_status load_body(reader *r, void *self)
{
    return value(r, 0, self);
}

sy_status syi_yaml_load(sy_context *ctx, const char *path, json_t **out)
{
    *out = NULL;
    sy_status status = with_file(ctx, path, load_body, out);
    if (status == SY_OK && *out == NULL) *out = json_null(); /* an empty file */
    if (status != SY_OK) {
        json_decref(*out);
        *out = NULL;
    }
    return status;
}

/* One key of the top mapping, the present event its value. */
static sy_status setting(reader *r, syi_settings *s, const char *key, int line)
{
    char *where = syi_format(r->ctx, "%s:%d", r->path, line), *json = NULL;
    if (where == NULL) return SY_E_MEMORY;
    sy_status status = SY_OK;
    if (r->event.type == YAML_SCALAR_EVENT) {
        const char *text = NULL;
        status = scalar_text(r, &text);
        if (status == SY_OK) status = syi_settings_add(s, key, is_plain(r) && is_null(text) ? "" : text, where, false);
    } else {
        json_t *v = NULL;
        status = value(r, 1, &v);
        if (status == SY_OK && (json = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY)) == NULL) status = syi_nomem(r->ctx, 0);
        if (status == SY_OK) status = syi_settings_add(s, key, json, where, false);
        syi_json_free_text(json);
        json_decref(v);
    }
    syi_free(r->ctx, where);
    return status;
}

typedef struct { syi_settings *settings; json_t *seen; } settings_body_self;

static sy_status settings_body(reader *r, void *self)
{
    settings_body_self *b = self;
    if (r->event.type == YAML_SCALAR_EVENT && is_plain(r) && is_null((const char *)r->event.data.scalar.value)) return SY_OK;
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return refuse(r, "\"option: value\" lines", r->event.type == YAML_SCALAR_EVENT ? "a single value" : "a list");
    for (;;) {
        const char *text = NULL;
        SYI_TRY(next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) return SY_OK;
        if (r->event.type != YAML_SCALAR_EVENT) return refuse(r, "the name of an option", "a list or mapping in its place");
        SYI_TRY(scalar_text(r, &text));
        char *key = syi_strdup(r->ctx, text);
        if (key == NULL) return SY_E_MEMORY;
        for (char *c = key; *c != '\0'; c++)
            if (*c == '_') *c = '-'; /* lora_r and lora-r are one key */
        sy_status status = SY_OK;
        int line = line_of(r);
        const json_t *before = json_object_get(b->seen, key);
        if (strcmp(key, "<<") == 0) status = refuse(r, "the name of an option", "a merge key (<<), which is not supported here");
        else if (before != NULL)
            status = syi_fail(r->ctx, SY_E_USAGE, "%s:%d: \"%s\" is given twice (first in line %lld); remove one of the two",
                              r->path, line, text, (long long)json_integer_value(before));
        else if (json_object_set_new(b->seen, key, json_integer(line)) != 0) status = syi_nomem(r->ctx, 0);
        if (status == SY_OK) status = next(r);
        if (status == SY_OK) status = setting(r, b->settings, key, line);
        syi_free(r->ctx, key);
        SYI_TRY(status);
    }
}

sy_status syi_settings_yaml(syi_settings *s, const char *path)
{
    settings_body_self self = {.settings = s, .seen = json_object()};
    if (self.seen == NULL) return syi_nomem(s->ctx, 0);
    sy_status status = with_file(s->ctx, path, settings_body, &self);
    json_decref(self.seen);
    return status;
}
