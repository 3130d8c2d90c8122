/* SPDX-License-Identifier: Apache-2.0 */
/* Values of chat templates with Python's meaning of truth, equality, order,
 * indexing, str(), repr() and json.dumps. Everything lies in the rendering's
 * arena and counts against its budget. */
#include "chat.h"

#include <math.h>
#include <stdlib.h>

enum { DEPTH = 60 };

value syi_v_fail(run *r, sy_status code, const char *fmt, ...)
{
    value none = {0};
    if (r->status != SY_OK) return none;
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    r->status = syi_fail(r->ctx, code, "%s:%d: %s", r->where, r->line, text);
    return none;
}

void *syi_v_alloc(run *r, size_t n)
{
    if (r->status != SY_OK) return NULL;
    if (n > RUN_BYTES || (r->bytes += (int64_t)n + 64) > RUN_BYTES) {
        syi_v_fail(r, SY_E_INPUT, "rendering took more than %d MiB of memory", RUN_BYTES >> 20);
        return NULL;
    }
    void *p = syi_arena_alloc(r->arena, n > 0 ? n : 1);
    if (p == NULL) r->status = SY_E_MEMORY;
    return p;
}

value syi_v_string(run *r, const char *s, int64_t n)
{
    char *copy = syi_v_alloc(r, (size_t)n + 1);
    if (copy == NULL) return (value){0};
    if (n > 0) memcpy(copy, s, (size_t)n);
    return (value){.kind = V_STRING, .u.str = {copy, n}};
}

value syi_v_list(run *r, value_kind kind)
{
    list *l = syi_v_alloc(r, sizeof *l);
    return l ? (value){.kind = kind, .u.list = l} : (value){0};
}

value syi_v_dict(run *r, value_kind kind)
{
    dict *d = syi_v_alloc(r, sizeof *d);
    return d ? (value){.kind = kind, .u.dict = d} : (value){0};
}

static void *more(run *r, void *old, int64_t n, int64_t *cap, size_t item)
{
    if (n < *cap) return old;
    int64_t grown = *cap ? *cap * 2 : 8;
    void *p = syi_v_alloc(r, (size_t)grown * item);
    if (p == NULL) return NULL;
    if (n > 0) memcpy(p, old, (size_t)n * item);
    *cap = grown;
    return p;
}

void syi_v_push(run *r, value l, value item)
{
    if (r->status != SY_OK) return;
    value *v = more(r, l.u.list->v, l.u.list->n, &l.u.list->cap, sizeof *v);
    if (v == NULL) return;
    l.u.list->v = v;
    v[l.u.list->n++] = item;
}

static int64_t find(run *r, const dict *d, value key)
{
    for (int64_t i = 0; i < d->n; i++)
        if (syi_v_equal(r, d->key[i], key, 0)) return i;
    return -1;
}

void syi_v_put(run *r, value d, value key, value item)
{
    if (r->status != SY_OK) return;
    dict *x = d.u.dict;
    r->steps += x->n / 8;
    int64_t i = find(r, x, key), cap = x->cap;
    if (i < 0) {
        value *k = more(r, x->key, x->n, &x->cap, sizeof *k), *v = more(r, x->v, x->n, &cap, sizeof *v);
        if (k == NULL || v == NULL) return;
        x->key = k;
        x->v = v;
        i = x->n++;
        k[i] = key;
    }
    x->v[i] = item;
}

bool syi_v_get(run *r, value d, value key, value *out)
{
    int64_t i = find(r, d.u.dict, key);
    if (i >= 0) *out = d.u.dict->v[i];
    return i >= 0;
}

value syi_v_from_json(run *r, const json_t *j, int depth)
{
    if (depth > DEPTH) return syi_v_fail(r, SY_E_INPUT, "a value nested more than %d deep", DEPTH);
    switch (json_typeof(j)) {
    case JSON_NULL: return (value){.kind = V_NONE};
    case JSON_TRUE: return BOOL(true);
    case JSON_FALSE: return BOOL(false);
    case JSON_INTEGER: return INT(json_integer_value(j));
    case JSON_REAL: return (value){.kind = V_FLOAT, .u.f = json_real_value(j)};
    case JSON_STRING: /* borrowed: the JSON outlives the rendering */
        return (value){.kind = V_STRING, .u.str = {json_string_value(j), (int64_t)json_string_length(j)}};
    case JSON_ARRAY: {
        value l = syi_v_list(r, V_LIST);
        for (size_t i = 0; i < json_array_size(j); i++) syi_v_push(r, l, syi_v_from_json(r, json_array_get(j, i), depth + 1));
        return l;
    }
    case JSON_OBJECT: {
        value d = syi_v_dict(r, V_DICT);
        const char *key;
        size_t n;
        json_t *v;
        json_object_keylen_foreach((json_t *)(uintptr_t)j, key, n, v)
            syi_v_put(r, d, (value){.kind = V_STRING, .u.str = {key, (int64_t)n}}, syi_v_from_json(r, v, depth + 1));
        return d;
    }
    }
    return (value){0};
}

/* -- comparing ------------------------------------------------------------------ */

bool syi_v_true(value v)
{
    switch (v.kind) {
    case V_UNDEFINED:
    case V_NONE: return false;
    case V_BOOL: return v.u.b;
    case V_INT: return v.u.i != 0;
    case V_FLOAT: return v.u.f != 0;
    case V_STRING: return v.u.str.n > 0;
    case V_LIST:
    case V_TUPLE: return v.u.list->n > 0;
    case V_DICT: return v.u.dict->n > 0;
    default: return true;
    }
}

static bool number(value v, double *out)
{
    if (v.kind == V_BOOL) *out = v.u.b;
    else if (v.kind == V_INT) *out = (double)v.u.i;
    else if (v.kind == V_FLOAT) *out = v.u.f;
    else return false;
    return true;
}

bool syi_v_equal(run *r, value a, value b, int depth)
{
    double x, y;
    r->steps++;
    if (a.kind == V_STRING && b.kind == V_STRING)
        return a.u.str.n == b.u.str.n && (a.u.str.n == 0 || memcmp(a.u.str.s, b.u.str.s, (size_t)a.u.str.n) == 0);
    if (a.kind == V_INT && b.kind == V_INT) return a.u.i == b.u.i;
    if (number(a, &x) && number(b, &y)) return x == y;
    if (a.kind != b.kind || depth > DEPTH) return false;
    switch (a.kind) {
    case V_UNDEFINED:
    case V_NONE: return true;
    case V_LIST:
    case V_TUPLE:
        if (a.u.list->n != b.u.list->n) return false;
        for (int64_t i = 0; i < a.u.list->n; i++)
            if (!syi_v_equal(r, a.u.list->v[i], b.u.list->v[i], depth + 1)) return false;
        return true;
    case V_DICT:
        if (a.u.dict->n != b.u.dict->n) return false;
        for (int64_t i = 0; i < a.u.dict->n; i++) {
            int64_t k = find(r, b.u.dict, a.u.dict->key[i]);
            if (k < 0 || !syi_v_equal(r, a.u.dict->v[i], b.u.dict->v[k], depth + 1)) return false;
        }
        return true;
    case V_NAMESPACE: return a.u.dict == b.u.dict;
    default: return false;
    }
}

int syi_v_order(run *r, value a, value b)
{
    double x, y;
    r->steps++;
    if (a.kind == V_INT && b.kind == V_INT) return (a.u.i > b.u.i) - (a.u.i < b.u.i);
    if (number(a, &x) && number(b, &y)) return (x > y) - (x < y);
    if (a.kind == V_STRING && b.kind == V_STRING) { /* bytes of UTF-8 are ordered as code points are */
        int64_t n = syi_min(a.u.str.n, b.u.str.n);
        int c = n > 0 ? memcmp(a.u.str.s, b.u.str.s, (size_t)n) : 0;
        return c ? (c > 0) - (c < 0) : (a.u.str.n > b.u.str.n) - (a.u.str.n < b.u.str.n);
    }
    if (a.kind == b.kind && (a.kind == V_LIST || a.kind == V_TUPLE)) {
        for (int64_t i = 0; i < a.u.list->n && i < b.u.list->n && r->status == SY_OK; i++)
            if (!syi_v_equal(r, a.u.list->v[i], b.u.list->v[i], 0)) return syi_v_order(r, a.u.list->v[i], b.u.list->v[i]);
        return (a.u.list->n > b.u.list->n) - (a.u.list->n < b.u.list->n);
    }
    syi_v_fail(r, SY_E_INPUT, "%s and %s cannot be ordered", syi_v_type(a), syi_v_type(b));
    return 0;
}

bool syi_v_contains(run *r, value whole, value part)
{
    if (whole.kind == V_STRING) {
        if (part.kind != V_STRING) return syi_v_fail(r, SY_E_INPUT, "'in' a text needs a text, not %s", syi_v_type(part)), false;
        return part.u.str.n == 0 || memmem(whole.u.str.s, (size_t)whole.u.str.n, part.u.str.s, (size_t)part.u.str.n) != NULL;
    }
    if (whole.kind == V_LIST || whole.kind == V_TUPLE) {
        for (int64_t i = 0; i < whole.u.list->n; i++)
            if (syi_v_equal(r, whole.u.list->v[i], part, 0)) return true;
        return false;
    }
    if (whole.kind == V_DICT) return find(r, whole.u.dict, part) >= 0;
    if (whole.kind == V_UNDEFINED) return false;
    return syi_v_fail(r, SY_E_INPUT, "'in' does not work on %s", syi_v_type(whole)), false;
}

const char *syi_v_type(value v)
{
    static const char *const name[] = {"an undefined value", "none", "a boolean", "a number", "a number", "a text", "a list", "a tuple", "a mapping",
                                       "a namespace", "a function", "a method", "a macro"};
    return name[v.kind];
}

/* -- writing -------------------------------------------------------------------------- */

/* Python's repr(float): the shortest digits that give the number back. */
static void write_float(syi_text *t, double f)
{
    char s[40];
    if (isnan(f) || isinf(f)) {
        syi_text_puts(t, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    int digits = 1;
    do snprintf(s, sizeof s, "%.*e", digits - 1, f);
    while (strtod(s, NULL) != f && ++digits <= 17);
    int exponent = (int)strtol(strchr(s, 'e') + 1, NULL, 10);
    if (exponent >= -4 && exponent < 16) {
        snprintf(s, sizeof s, "%.*f", digits - 1 - exponent > 1 ? digits - 1 - exponent : 1, f);
        syi_text_puts(t, s);
        return;
    }
    char *e = strchr(s, 'e');
    syi_text_add(t, s, (size_t)(e - s));
    syi_text_printf(t, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
}

static void repr_string(syi_text *t, value v)
{
    bool single = memchr(v.u.str.s, '\'', (size_t)v.u.str.n) != NULL, dbl = memchr(v.u.str.s, '"', (size_t)v.u.str.n) != NULL;
    char q = single && !dbl ? '"' : '\'';
    syi_text_add(t, &q, 1);
    for (int64_t i = 0; i < v.u.str.n; i++) {
        char c = v.u.str.s[i];
        if (c == '\n') syi_text_puts(t, "\\n");
        else if (c == '\r') syi_text_puts(t, "\\r");
        else if (c == '\t') syi_text_puts(t, "\\t");
        else if (c == '\\') syi_text_puts(t, "\\\\");
        else if (c == q) syi_text_printf(t, "\\%c", c);
        else if ((unsigned char)c < 32 || c == 127) syi_text_printf(t, "\\x%02x", (unsigned)c);
        else syi_text_add(t, &c, 1);
    }
    syi_text_add(t, &q, 1);
}

void syi_v_repr(run *r, syi_text *t, value v, int depth)
{
    if (depth > DEPTH) {
        syi_v_fail(r, SY_E_INPUT, "a value nested more than %d deep", DEPTH);
        return;
    }
    switch (v.kind) {
    case V_STRING:
        repr_string(t, v);
        return;
    case V_LIST:
    case V_TUPLE:
        syi_text_puts(t, v.kind == V_LIST ? "[" : "(");
        for (int64_t i = 0; i < v.u.list->n && r->status == SY_OK; i++) {
            if (i > 0) syi_text_puts(t, ", ");
            syi_v_repr(r, t, v.u.list->v[i], depth + 1);
        }
        syi_text_puts(t, v.kind == V_LIST ? "]" : v.u.list->n == 1 ? ",)" : ")");
        return;
    case V_DICT:
        syi_text_puts(t, "{");
        for (int64_t i = 0; i < v.u.dict->n && r->status == SY_OK; i++) {
            if (i > 0) syi_text_puts(t, ", ");
            syi_v_repr(r, t, v.u.dict->key[i], depth + 1);
            syi_text_puts(t, ": ");
            syi_v_repr(r, t, v.u.dict->v[i], depth + 1);
        }
        syi_text_puts(t, "}");
        return;
    case V_UNDEFINED:
        syi_text_puts(t, "Undefined");
        return;
    default:
        syi_v_write(r, t, v);
    }
}

void syi_v_write(run *r, syi_text *t, value v)
{
    switch (v.kind) {
    case V_UNDEFINED: return;
    case V_NONE: syi_text_puts(t, "None"); break;
    case V_BOOL: syi_text_puts(t, v.u.b ? "True" : "False"); break;
    case V_INT: syi_text_printf(t, "%lld", (long long)v.u.i); break;
    case V_FLOAT: write_float(t, v.u.f); break;
    case V_STRING: syi_text_add(t, v.u.str.s, (size_t)v.u.str.n); break;
    case V_LIST:
    case V_TUPLE:
    case V_DICT: syi_v_repr(r, t, v, 0); break;
    default: syi_v_fail(r, SY_E_INPUT, "%s cannot be printed", syi_v_type(v));
    }
    if (t->failed && r->status == SY_OK) r->status = sy_error_code(r->ctx) == SY_OK ? SY_E_MEMORY : sy_error_code(r->ctx);
}

static void json_string_to(syi_text *t, value v)
{
    syi_text_puts(t, "\"");
    for (int64_t i = 0; i < v.u.str.n; i++) {
        unsigned char c = (unsigned char)v.u.str.s[i];
        static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
        const char *k = c ? strchr(from, c) : NULL;
        if (k != NULL) syi_text_printf(t, "\\%c", to[k - from]);
        else if (c < 32) syi_text_printf(t, "\\u%04x", c);
        else syi_text_add(t, (const char *)&c, 1);
    }
    syi_text_puts(t, "\"");
}

static void new_line(syi_text *t, int64_t indent, int depth)
{
    if (indent < 0) return;
    syi_text_puts(t, "\n");
    for (int64_t i = 0; i < indent * depth; i++) syi_text_puts(t, " ");
}

static int by_key(const void *a, const void *b)
{
    const value *x = a, *y = b;
    int64_t n = syi_min(x->u.str.n, y->u.str.n);
    int c = n > 0 ? memcmp(x->u.str.s, y->u.str.s, (size_t)n) : 0;
    return c ? c : (x->u.str.n > y->u.str.n) - (x->u.str.n < y->u.str.n);
}

/* indent < 0: on one line. */
void syi_v_json(run *r, syi_text *t, value v, int64_t indent, const char *item, const char *colon, bool sort, int depth)
{
    if (depth > DEPTH || indent > 64) {
        syi_v_fail(r, SY_E_INPUT, "tojson: too deep");
        return;
    }
    if (r->status != SY_OK) return;
    switch (v.kind) {
    case V_NONE: syi_text_puts(t, "null"); return;
    case V_BOOL: syi_text_puts(t, v.u.b ? "true" : "false"); return;
    case V_INT: syi_v_write(r, t, v); return;
    case V_FLOAT:
        if (isfinite(v.u.f)) write_float(t, v.u.f);
        else syi_text_puts(t, isnan(v.u.f) ? "NaN" : v.u.f > 0 ? "Infinity" : "-Infinity");
        return;
    case V_STRING: json_string_to(t, v); return;
    case V_LIST:
    case V_TUPLE:
        syi_text_puts(t, "[");
        for (int64_t i = 0; i < v.u.list->n && r->status == SY_OK; i++) {
            if (i > 0) syi_text_puts(t, item);
            new_line(t, indent, depth + 1);
            syi_v_json(r, t, v.u.list->v[i], indent, item, colon, sort, depth + 1);
        }
        if (v.u.list->n > 0) new_line(t, indent, depth);
        syi_text_puts(t, "]");
        return;
    case V_DICT: {
        value keys = syi_v_list(r, V_LIST), found;
        for (int64_t i = 0; i < v.u.dict->n; i++) syi_v_push(r, keys, syi_v_str(r, v.u.dict->key[i]));
        if (r->status != SY_OK) return;
        if (sort && keys.u.list->n > 1) qsort(keys.u.list->v, (size_t)keys.u.list->n, sizeof *keys.u.list->v, by_key);
        syi_text_puts(t, "{");
        for (int64_t i = 0; i < keys.u.list->n && r->status == SY_OK; i++) {
            found = v.u.dict->v[i];
            if (sort) syi_v_get(r, v, keys.u.list->v[i], &found);
            if (i > 0) syi_text_puts(t, item);
            new_line(t, indent, depth + 1);
            json_string_to(t, keys.u.list->v[i]);
            syi_text_puts(t, colon);
            syi_v_json(r, t, found, indent, item, colon, sort, depth + 1);
        }
        if (keys.u.list->n > 0) new_line(t, indent, depth);
        syi_text_puts(t, "}");
        return;
    }
    default: syi_v_fail(r, SY_E_INPUT, "tojson: %s has no JSON form", syi_v_type(v));
    }
}

value syi_v_take(run *r, syi_text *t)
{
    value v = {0};
    if (t->failed && r->status == SY_OK) r->status = sy_error_code(r->ctx) == SY_OK ? SY_E_MEMORY : sy_error_code(r->ctx);
    if (r->status == SY_OK) v = syi_v_string(r, t->s ? t->s : "", (int64_t)t->len);
    syi_text_free(t);
    return v;
}

value syi_v_str(run *r, value v)
{
    if (v.kind == V_STRING) return v;
    syi_text t;
    syi_text_init(&t, r->ctx, RUN_BYTES);
    syi_v_write(r, &t, v);
    return syi_v_take(r, &t);
}

/* -- walking and indexing ------------------------------------------------------------------ */

static int64_t next_char(value v, int64_t at)
{
    uint32_t cp;
    int k = syi_utf8_decode((const uint8_t *)v.u.str.s + at, v.u.str.n - at, &cp);
    return at + (k > 0 ? k : 1);
}

int64_t syi_v_length(run *r, value v)
{
    if (v.kind == V_STRING) {
        int64_t n = 0;
        for (int64_t i = 0; i < v.u.str.n; i = next_char(v, i)) n++;
        r->steps += n / 64;
        return n;
    }
    if (v.kind == V_LIST || v.kind == V_TUPLE) return v.u.list->n;
    if (v.kind == V_DICT) return v.u.dict->n;
    return v.kind == V_UNDEFINED ? 0 : -1;
}

value syi_v_items(run *r, value v)
{
    if (v.kind == V_LIST || v.kind == V_TUPLE) return v;
    value l = syi_v_list(r, V_LIST);
    if (v.kind == V_DICT)
        for (int64_t i = 0; i < v.u.dict->n; i++) syi_v_push(r, l, v.u.dict->key[i]);
    else if (v.kind == V_STRING)
        for (int64_t i = 0, next; i < v.u.str.n && r->status == SY_OK; i = next) {
            next = next_char(v, i);
            syi_v_push(r, l, (value){.kind = V_STRING, .u.str = {v.u.str.s + i, next - i}});
        }
    else if (v.kind != V_UNDEFINED) return syi_v_fail(r, SY_E_INPUT, "%s cannot be walked through", syi_v_type(v));
    return l;
}

value syi_v_index(run *r, value v, value key)
{
    value out = {0};
    if (v.kind == V_UNDEFINED)
        return syi_v_fail(r, SY_E_INPUT, "'%.*s' is undefined", (int)syi_min(v.u.str.n, 60), v.u.str.s ? v.u.str.s : "");
    if ((v.kind == V_DICT || v.kind == V_NAMESPACE) && syi_v_get(r, v, key, &out)) return out;
    if (key.kind == V_INT && (v.kind == V_LIST || v.kind == V_TUPLE || v.kind == V_STRING)) {
        value l = syi_v_items(r, v);
        if (r->status != SY_OK) return out;
        int64_t i = key.u.i < 0 ? key.u.i + l.u.list->n : key.u.i;
        if (i >= 0 && i < l.u.list->n) return l.u.list->v[i];
    }
    if (key.kind == V_STRING) out.u.str = key.u.str;
    else out.u.str.s = "an element", out.u.str.n = 10;
    return out;
}

/* part: start, stop, step; none: left out. */
value syi_v_slice(run *r, value v, const value part[3])
{
    if (v.kind == V_UNDEFINED) return syi_v_index(r, v, v);
    if (v.kind != V_LIST && v.kind != V_TUPLE && v.kind != V_STRING) return syi_v_fail(r, SY_E_INPUT, "%s cannot be sliced", syi_v_type(v));
    for (int i = 0; i < 3; i++)
        if (part[i].kind != V_NONE && part[i].kind != V_INT) return syi_v_fail(r, SY_E_INPUT, "a slice of %s", syi_v_type(part[i]));
    value l = syi_v_items(r, v), out = syi_v_list(r, v.kind == V_STRING ? V_LIST : v.kind);
    if (r->status != SY_OK) return out;
    int64_t n = l.u.list->n, step = part[2].kind == V_NONE ? 1 : part[2].u.i;
    if (step == 0) return syi_v_fail(r, SY_E_INPUT, "a slice with step 0");
    int64_t bound[2] = {step > 0 ? 0 : n - 1, step > 0 ? n : -1};
    for (int i = 0; i < 2; i++) {
        if (part[i].kind == V_NONE) continue;
        int64_t k = part[i].u.i;
        if (k < 0) k = k < -n ? -1 : k + n;
        bound[i] = step > 0 ? syi_max(0, syi_min(k, n)) : syi_max(-1, syi_min(k, n - 1));
    }
    if (step > n) step = n + 1;
    if (step < -n) step = -n - 1;
    for (int64_t i = bound[0]; step > 0 ? i < bound[1] : i > bound[1]; i += step) syi_v_push(r, out, l.u.list->v[i]);
    if (v.kind != V_STRING || r->status != SY_OK) return out;
    syi_text t;
    syi_text_init(&t, r->ctx, RUN_BYTES);
    for (int64_t i = 0; i < out.u.list->n; i++) syi_text_add(&t, out.u.list->v[i].u.str.s, (size_t)out.u.list->v[i].u.str.n);
    return syi_v_take(r, &t);
}
