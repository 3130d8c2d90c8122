/* SPDX-License-Identifier: Apache-2.0 */
/* Filters (x | name) and tests (x is name) of chat templates, a row each. */
#include "chat.h"

#include <math.h>
#include <stdlib.h>
#include <utf8proc.h>

typedef struct { const char *name; value (*fn)(run *r, value in, const arguments *a); } filter_row;
typedef struct { const char *name; bool (*fn)(run *r, value in, const arguments *a); } test_row;

/* -- texts: the methods of strings do the work -------------------------------------- */

static value by_method(run *r, value in, const arguments *a, const char *name)
{
    value s = syi_v_str(r, in);
    if (r->status != SY_OK) return s;
    method *m = syi_method(s, name, (int64_t)strlen(name));
    return m ? m(r, s, a) : syi_v_fail(r, SY_E_BUG, "texts have no method '%s'", name);
}

static value f_trim(run *r, value in, const arguments *a) { return by_method(r, in, a, "strip"); }
static value f_upper(run *r, value in, const arguments *a) { return by_method(r, in, a, "upper"); }
static value f_lower(run *r, value in, const arguments *a) { return by_method(r, in, a, "lower"); }
static value f_title(run *r, value in, const arguments *a) { return by_method(r, in, a, "title"); }
static value f_capitalize(run *r, value in, const arguments *a) { return by_method(r, in, a, "capitalize"); }
static value f_replace(run *r, value in, const arguments *a) { return by_method(r, in, a, "replace"); }

static value f_string(run *r, value in, const arguments *a)
{
    (void)a;
    return syi_v_str(r, in);
}

static value f_escape(run *r, value in, const arguments *a)
{
    (void)a;
    value s = syi_v_str(r, in);
    syi_text t;
    syi_text_init(&t, r->ctx, RUN_BYTES);
    for (int64_t i = 0; r->status == SY_OK && i < s.u.str.n; i++) {
        char c = s.u.str.s[i];
        if (c == '&') syi_text_puts(&t, "&amp;");
        else if (c == '<') syi_text_puts(&t, "&lt;");
        else if (c == '>') syi_text_puts(&t, "&gt;");
        else if (c == '\'') syi_text_puts(&t, "&#39;");
        else if (c == '"') syi_text_puts(&t, "&#34;");
        else syi_text_add(&t, &c, 1);
    }
    return syi_v_take(r, &t);
}

/* indent(width=4, first=False, blank=False) */
static value f_indent(run *r, value in, const arguments *a)
{
    value width = INT(4), first = BOOL(false), blank = BOOL(false), s = syi_v_str(r, in);
    syi_argument(a, 0, "width", &width);
    syi_argument(a, 1, "first", &first);
    syi_argument(a, 2, "blank", &blank);
    value pad = width.kind == V_STRING ? width : STR("                                                                ");
    if (width.kind == V_INT) pad.u.str.n = syi_max(0, syi_min(width.u.i, pad.u.str.n));
    syi_text t;
    syi_text_init(&t, r->ctx, RUN_BYTES);
    for (int64_t i = 0, line = 0; r->status == SY_OK && i <= s.u.str.n; line++) {
        const char *end = i < s.u.str.n ? memchr(s.u.str.s + i, '\n', (size_t)(s.u.str.n - i)) : NULL;
        int64_t stop = end ? end - s.u.str.s : s.u.str.n;
        bool put = line == 0 ? syi_v_true(first) : stop > i || syi_v_true(blank);
        if (put) syi_text_add(&t, pad.u.str.s, (size_t)pad.u.str.n);
        syi_text_add(&t, s.u.str.s + i, (size_t)(stop - i));
        if (end == NULL) break;
        syi_text_puts(&t, "\n");
        i = stop + 1;
    }
    return syi_v_take(r, &t);
}

/* tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False) */
static value f_tojson(run *r, value in, const arguments *a)
{
    value ascii = BOOL(false), indent = {.kind = V_NONE}, separators = {.kind = V_NONE}, sort = BOOL(false), item = {0}, colon = {0};
    syi_argument(a, 0, "ensure_ascii", &ascii);
    syi_argument(a, 1, "indent", &indent);
    syi_argument(a, 2, "separators", &separators);
    syi_argument(a, 3, "sort_keys", &sort);
    if (syi_v_true(ascii)) return syi_v_fail(r, SY_E_UNSUPPORTED, "tojson with ensure_ascii is not supported");
    item = indent.kind == V_INT ? STR(",") : STR(", ");
    colon = STR(": ");
    if (separators.kind == V_TUPLE || separators.kind == V_LIST) {
        if (separators.u.list->n != 2) return syi_v_fail(r, SY_E_INPUT, "tojson: separators are two texts");
        item = syi_v_str(r, separators.u.list->v[0]);
        colon = syi_v_str(r, separators.u.list->v[1]);
        if (r->status == SY_OK) item = syi_v_string(r, item.u.str.s, item.u.str.n), colon = syi_v_string(r, colon.u.str.s, colon.u.str.n);
        if (r->status != SY_OK) return item;
    }
    syi_text t;
    syi_text_init(&t, r->ctx, RUN_BYTES);
    syi_v_json(r, &t, in, indent.kind == V_INT ? syi_max(0, indent.u.i) : -1, item.u.str.s, colon.u.str.s, syi_v_true(sort), 0);
    return syi_v_take(r, &t);
}

/* -- numbers ------------------------------------------------------------------------------ */

static value f_int(run *r, value in, const arguments *a)
{
    value other = INT(0);
    (void)r;
    syi_argument(a, 0, "default", &other);
    if (in.kind == V_INT) return in;
    if (in.kind == V_BOOL) return INT(in.u.b);
    if (in.kind == V_FLOAT && fabs(in.u.f) < 9e18) return INT((int64_t)in.u.f);
    if (in.kind == V_STRING && in.u.str.n > 0 && in.u.str.n < 40) {
        char s[48], *end;
        memcpy(s, in.u.str.s, (size_t)in.u.str.n);
        s[in.u.str.n] = '\0';
        long long i = strtoll(s, &end, 10);
        while (*end == ' ' || *end == '\n') end++;
        if (end != s && *end == '\0') return INT(i);
        double f = strtod(s, &end);
        if (end != s && *end == '\0' && fabs(f) < 9e18) return INT((int64_t)f);
    }
    return other;
}

static value f_float(run *r, value in, const arguments *a)
{
    value other = {.kind = V_FLOAT, .u.f = 0};
    (void)r;
    syi_argument(a, 0, "default", &other);
    if (in.kind == V_FLOAT) return in;
    if (in.kind == V_INT) return (value){.kind = V_FLOAT, .u.f = (double)in.u.i};
    if (in.kind == V_STRING && in.u.str.n > 0 && in.u.str.n < 40) {
        char s[48], *end;
        memcpy(s, in.u.str.s, (size_t)in.u.str.n);
        s[in.u.str.n] = '\0';
        double f = strtod(s, &end);
        if (end != s && *end == '\0') return (value){.kind = V_FLOAT, .u.f = f};
    }
    return other;
}

static value f_abs(run *r, value in, const arguments *a)
{
    (void)a;
    if (in.kind == V_INT) return INT(in.u.i < 0 && in.u.i != INT64_MIN ? -in.u.i : in.u.i);
    if (in.kind == V_FLOAT) return (value){.kind = V_FLOAT, .u.f = fabs(in.u.f)};
    return syi_v_fail(r, SY_E_INPUT, "abs of %s", syi_v_type(in));
}

static value f_round(run *r, value in, const arguments *a)
{
    value digits = INT(0), how = STR("common");
    syi_argument(a, 0, "precision", &digits);
    syi_argument(a, 1, "method", &how);
    double x = in.kind == V_INT ? (double)in.u.i : in.u.f;
    if ((in.kind != V_INT && in.kind != V_FLOAT) || digits.kind != V_INT || how.kind != V_STRING)
        return syi_v_fail(r, SY_E_INPUT, "round of %s", syi_v_type(in));
    double scale = pow(10, (double)syi_max(-300, syi_min(digits.u.i, 300)));
    bool up = how.u.str.n == 4 && memcmp(how.u.str.s, "ceil", 4) == 0, down = how.u.str.n == 5 && memcmp(how.u.str.s, "floor", 5) == 0;
    return (value){.kind = V_FLOAT, .u.f = (up ? ceil(x * scale) : down ? floor(x * scale) : nearbyint(x * scale)) / scale};
}

/* -- lists --------------------------------------------------------------------------------- */

static value f_length(run *r, value in, const arguments *a)
{
    (void)a;
    int64_t n = syi_v_length(r, in);
    return n < 0 ? syi_v_fail(r, SY_E_INPUT, "%s has no length", syi_v_type(in)) : INT(n);
}

static value f_first(run *r, value in, const arguments *a)
{
    (void)a;
    value l = syi_v_items(r, in);
    return r->status == SY_OK && l.u.list->n > 0 ? l.u.list->v[0] : (value){0};
}

static value f_last(run *r, value in, const arguments *a)
{
    (void)a;
    value l = syi_v_items(r, in);
    return r->status == SY_OK && l.u.list->n > 0 ? l.u.list->v[l.u.list->n - 1] : (value){0};
}

static value f_list(run *r, value in, const arguments *a)
{
    (void)a;
    value l = syi_v_items(r, in), out = syi_v_list(r, V_LIST);
    for (int64_t i = 0; r->status == SY_OK && i < l.u.list->n; i++) syi_v_push(r, out, l.u.list->v[i]);
    return out;
}

static value f_reverse(run *r, value in, const arguments *a)
{
    (void)a;
    value part[3] = {{.kind = V_NONE}, {.kind = V_NONE}, INT(-1)};
    return syi_v_slice(r, in.kind == V_DICT ? syi_v_items(r, in) : in, part);
}

/* The value at "a.b.0" of each item, or the item. */
static value at_path(run *r, value v, value path)
{
    if (path.kind == V_INT) return syi_v_index(r, v, path);
    for (int64_t i = 0; path.kind == V_STRING && i <= path.u.str.n && r->status == SY_OK;) {
        const char *dot = i < path.u.str.n ? memchr(path.u.str.s + i, '.', (size_t)(path.u.str.n - i)) : NULL;
        int64_t end = dot ? dot - path.u.str.s : path.u.str.n;
        value key = {.kind = V_STRING, .u.str = {path.u.str.s + i, end - i}};
        char *stop;
        if (end > i && end - i < 10 && path.u.str.s[i] >= '0' && path.u.str.s[i] <= '9') key = INT(strtol(path.u.str.s + i, &stop, 10));
        v = syi_v_index(r, v, key);
        i = end + 1;
    }
    return v;
}

static value f_join(run *r, value in, const arguments *a)
{
    value glue = STR(""), path = {.kind = V_NONE}, l = syi_v_items(r, in);
    syi_argument(a, 0, "d", &glue);
    syi_argument(a, 1, "attribute", &path);
    glue = syi_v_str(r, glue);
    syi_text t;
    syi_text_init(&t, r->ctx, RUN_BYTES);
    for (int64_t i = 0; r->status == SY_OK && i < l.u.list->n; i++) {
        if (i > 0) syi_text_add(&t, glue.u.str.s, (size_t)glue.u.str.n);
        syi_v_write(r, &t, at_path(r, l.u.list->v[i], path));
    }
    return syi_v_take(r, &t);
}

static value f_items(run *r, value in, const arguments *a)
{
    if (in.kind == V_UNDEFINED) return syi_v_list(r, V_LIST);
    method *m = in.kind == V_DICT ? syi_method(in, "items", 5) : NULL;
    return m ? m(r, in, a) : syi_v_fail(r, SY_E_INPUT, "items of %s", syi_v_type(in));
}

/* Insertion into place: stable, and lists in templates are short. */
static value sorted(run *r, value l, value path, bool reverse, bool fold)
{
    value out = syi_v_list(r, V_LIST), key = syi_v_list(r, V_LIST);
    arguments none = {0};
    for (int64_t i = 0; r->status == SY_OK && i < l.u.list->n; i++) {
        value k = at_path(r, l.u.list->v[i], path), at;
        if (fold && k.kind == V_STRING) k = f_lower(r, k, &none);
        syi_v_push(r, out, l.u.list->v[i]);
        syi_v_push(r, key, k);
        for (int64_t n = i; n > 0 && r->status == SY_OK && r->steps < RUN_STEPS; n--) {
            int c = syi_v_order(r, key.u.list->v[n - 1], key.u.list->v[n]);
            if (reverse ? c >= 0 : c <= 0) break;
            at = key.u.list->v[n], key.u.list->v[n] = key.u.list->v[n - 1], key.u.list->v[n - 1] = at;
            at = out.u.list->v[n], out.u.list->v[n] = out.u.list->v[n - 1], out.u.list->v[n - 1] = at;
        }
    }
    return out;
}

/* sort(reverse=False, case_sensitive=False, attribute=None) */
static value f_sort(run *r, value in, const arguments *a)
{
    value reverse = BOOL(false), sensitive = BOOL(false), path = {.kind = V_NONE}, l = syi_v_items(r, in);
    syi_argument(a, 0, "reverse", &reverse);
    syi_argument(a, 1, "case_sensitive", &sensitive);
    syi_argument(a, 2, "attribute", &path);
    return r->status == SY_OK ? sorted(r, l, path, syi_v_true(reverse), !syi_v_true(sensitive)) : l;
}

/* dictsort(case_sensitive=False, by="key", reverse=False) */
static value f_dictsort(run *r, value in, const arguments *a)
{
    value sensitive = BOOL(false), by = STR("key"), reverse = BOOL(false), l = f_items(r, in, &(arguments){0});
    syi_argument(a, 0, "case_sensitive", &sensitive);
    syi_argument(a, 1, "by", &by);
    syi_argument(a, 2, "reverse", &reverse);
    bool by_value = by.kind == V_STRING && by.u.str.n == 5;
    return r->status == SY_OK ? sorted(r, l, INT(by_value), syi_v_true(reverse), !syi_v_true(sensitive)) : l;
}

static value f_unique(run *r, value in, const arguments *a)
{
    (void)a;
    value l = syi_v_items(r, in), out = syi_v_list(r, V_LIST);
    for (int64_t i = 0; r->status == SY_OK && i < l.u.list->n && r->steps < RUN_STEPS; i++)
        if (!syi_v_contains(r, out, l.u.list->v[i])) syi_v_push(r, out, l.u.list->v[i]);
    return out;
}

static value best(run *r, value in, const arguments *a, int sign)
{
    value l = syi_v_items(r, in), path = {.kind = V_NONE}, found = {0}, key = {0};
    syi_argument(a, 1, "attribute", &path);
    for (int64_t i = 0; r->status == SY_OK && i < l.u.list->n; i++) {
        value k = at_path(r, l.u.list->v[i], path);
        if (i > 0 && sign * syi_v_order(r, k, key) <= 0) continue;
        key = k;
        found = l.u.list->v[i];
    }
    return found;
}

static value f_max(run *r, value in, const arguments *a) { return best(r, in, a, 1); }
static value f_min(run *r, value in, const arguments *a) { return best(r, in, a, -1); }

static value f_sum(run *r, value in, const arguments *a)
{
    value l = syi_v_items(r, in), path = {.kind = V_NONE}, start = INT(0);
    syi_argument(a, 0, "attribute", &path);
    syi_argument(a, 1, "start", &start);
    bool real = start.kind == V_FLOAT;
    int64_t whole = start.kind == V_INT ? start.u.i : 0;
    double sum = real ? start.u.f : (double)whole;
    for (int64_t i = 0; r->status == SY_OK && i < l.u.list->n; i++) {
        value v = at_path(r, l.u.list->v[i], path);
        if (v.kind == V_FLOAT) real = true, sum += v.u.f;
        else if (v.kind != V_INT) return syi_v_fail(r, SY_E_INPUT, "sum of %s", syi_v_type(v));
        else if (sum += (double)v.u.i, __builtin_add_overflow(whole, v.u.i, &whole)) return syi_v_fail(r, SY_E_INPUT, "a number of more than 64 bits");
    }
    return real ? (value){.kind = V_FLOAT, .u.f = sum} : INT(whole);
}

/* select(test, ...), selectattr(attribute, test, ...) and their opposites; map. */
static value choose(run *r, value in, const arguments *a, bool by_attribute, bool wanted)
{
    value l = syi_v_items(r, in), out = syi_v_list(r, V_LIST);
    int at = by_attribute;
    if (a->n < at) return syi_v_fail(r, SY_E_INPUT, "selectattr needs the name of an attribute");
    arguments rest = {.v = a->n > at ? a->v + at + 1 : a->v, .n = a->n > at + 1 ? a->n - at - 1 : 0};
    if (a->n > at && a->v[at].kind != V_STRING) return syi_v_fail(r, SY_E_INPUT, "the name of a test is a text");
    for (int64_t i = 0; r->status == SY_OK && i < l.u.list->n; i++) {
        value v = by_attribute ? at_path(r, l.u.list->v[i], a->v[0]) : l.u.list->v[i];
        bool yes = a->n > at ? syi_test(r, a->v[at].u.str.s, a->v[at].u.str.n, v, &rest) : syi_v_true(v);
        if (yes == wanted) syi_v_push(r, out, l.u.list->v[i]);
    }
    return out;
}

static value f_select(run *r, value in, const arguments *a) { return choose(r, in, a, false, true); }
static value f_reject(run *r, value in, const arguments *a) { return choose(r, in, a, false, false); }
static value f_selectattr(run *r, value in, const arguments *a) { return choose(r, in, a, true, true); }
static value f_rejectattr(run *r, value in, const arguments *a) { return choose(r, in, a, true, false); }

static value f_map(run *r, value in, const arguments *a)
{
    value l = syi_v_items(r, in), out = syi_v_list(r, V_LIST), path = {.kind = V_NONE}, other = {0};
    bool attribute = syi_argument(a, -1, "attribute", &path);
    syi_argument(a, -1, "default", &other);
    if (!attribute && (a->n == 0 || a->v[0].kind != V_STRING)) return syi_v_fail(r, SY_E_INPUT, "map needs a filter or an attribute");
    arguments rest = {.v = a->n > 0 ? a->v + 1 : a->v, .n = a->n > 1 ? a->n - 1 : 0, .key = a->key, .key_value = a->key_value, .keys = a->keys};
    for (int64_t i = 0; r->status == SY_OK && i < l.u.list->n; i++) {
        value v = attribute ? at_path(r, l.u.list->v[i], path) : syi_filter(r, a->v[0].u.str.s, a->v[0].u.str.n, l.u.list->v[i], &rest);
        syi_v_push(r, out, v.kind == V_UNDEFINED ? other : v);
    }
    return out;
}

static value f_default(run *r, value in, const arguments *a)
{
    value other = STR(""), falsy = BOOL(false);
    (void)r;
    syi_argument(a, 0, "default_value", &other);
    syi_argument(a, 1, "boolean", &falsy);
    return in.kind == V_UNDEFINED || (syi_v_true(falsy) && !syi_v_true(in)) ? other : in;
}

static value f_safe(run *r, value in, const arguments *a)
{
    (void)r, (void)a;
    return in;
}

static const filter_row filters[] = {
    {"abs", f_abs}, {"capitalize", f_capitalize}, {"count", f_length}, {"d", f_default}, {"default", f_default}, {"dictsort", f_dictsort},
    {"e", f_escape}, {"escape", f_escape}, {"first", f_first}, {"float", f_float}, {"indent", f_indent}, {"int", f_int}, {"items", f_items},
    {"join", f_join}, {"last", f_last}, {"length", f_length}, {"list", f_list}, {"lower", f_lower}, {"map", f_map}, {"max", f_max},
    {"min", f_min}, {"reject", f_reject}, {"rejectattr", f_rejectattr}, {"replace", f_replace}, {"reverse", f_reverse}, {"round", f_round},
    {"safe", f_safe}, {"select", f_select}, {"selectattr", f_selectattr}, {"sort", f_sort}, {"string", f_string}, {"sum", f_sum},
    {"title", f_title}, {"tojson", f_tojson}, {"trim", f_trim}, {"unique", f_unique}, {"upper", f_upper},
};

value syi_filter(run *r, const char *name, int64_t n, value in, const arguments *a)
{
    for (int i = 0; i < SYI_COUNT(filters); i++)
        if ((int64_t)strlen(filters[i].name) == n && memcmp(filters[i].name, name, (size_t)n) == 0) return filters[i].fn(r, in, a);
    return syi_v_fail(r, SY_E_UNSUPPORTED, "the filter '%.*s' is not supported", (int)syi_min(n, 60), name);
}

/* -- tests --------------------------------------------------------------------------------------- */

static value argument(run *r, const arguments *a)
{
    return a->n > 0 ? a->v[0] : syi_v_fail(r, SY_E_INPUT, "this test needs a value");
}

static bool t_defined(run *r, value v, const arguments *a) { (void)r, (void)a; return v.kind != V_UNDEFINED; }
static bool t_undefined(run *r, value v, const arguments *a) { (void)r, (void)a; return v.kind == V_UNDEFINED; }
static bool t_none(run *r, value v, const arguments *a) { (void)r, (void)a; return v.kind == V_NONE; }
static bool t_string(run *r, value v, const arguments *a) { (void)r, (void)a; return v.kind == V_STRING; }
static bool t_boolean(run *r, value v, const arguments *a) { (void)r, (void)a; return v.kind == V_BOOL; }
static bool t_true(run *r, value v, const arguments *a) { (void)r, (void)a; return v.kind == V_BOOL && v.u.b; }
static bool t_false(run *r, value v, const arguments *a) { (void)r, (void)a; return v.kind == V_BOOL && !v.u.b; }
static bool t_integer(run *r, value v, const arguments *a) { (void)r, (void)a; return v.kind == V_INT; }
static bool t_float(run *r, value v, const arguments *a) { (void)r, (void)a; return v.kind == V_FLOAT; }
static bool t_number(run *r, value v, const arguments *a) { (void)r, (void)a; return v.kind == V_INT || v.kind == V_FLOAT || v.kind == V_BOOL; }
static bool t_mapping(run *r, value v, const arguments *a) { (void)r, (void)a; return v.kind == V_DICT; }
static bool t_callable(run *r, value v, const arguments *a) { (void)r, (void)a; return v.kind == V_FUNCTION || v.kind == V_METHOD || v.kind == V_MACRO; }
static bool t_sequence(run *r, value v, const arguments *a) { (void)r, (void)a; return v.kind == V_LIST || v.kind == V_TUPLE || v.kind == V_DICT || v.kind == V_STRING || v.kind == V_UNDEFINED; }
static bool t_in(run *r, value v, const arguments *a) { return syi_v_contains(r, argument(r, a), v); }
static bool t_eq(run *r, value v, const arguments *a) { return syi_v_equal(r, v, argument(r, a), 0); }
static bool t_ne(run *r, value v, const arguments *a) { return !syi_v_equal(r, v, argument(r, a), 0); }
static bool t_lt(run *r, value v, const arguments *a) { return syi_v_order(r, v, argument(r, a)) < 0; }
static bool t_le(run *r, value v, const arguments *a) { return syi_v_order(r, v, argument(r, a)) <= 0; }
static bool t_gt(run *r, value v, const arguments *a) { return syi_v_order(r, v, argument(r, a)) > 0; }
static bool t_ge(run *r, value v, const arguments *a) { return syi_v_order(r, v, argument(r, a)) >= 0; }

static bool divisible(run *r, value v, int64_t by)
{
    if (v.kind != V_INT || by == 0) return syi_v_fail(r, SY_E_INPUT, "divisibility of %s", syi_v_type(v)), false;
    return by == -1 || v.u.i % by == 0;
}

static bool t_even(run *r, value v, const arguments *a) { (void)a; return divisible(r, v, 2); }
static bool t_odd(run *r, value v, const arguments *a) { (void)a; return !divisible(r, v, 2); }

static bool t_divisibleby(run *r, value v, const arguments *a)
{
    value by = argument(r, a);
    return divisible(r, v, by.kind == V_INT ? by.u.i : 0);
}

static bool cased(run *r, value v, const char *method_name)
{
    value s = syi_v_str(r, v);
    method *m = r->status == SY_OK ? syi_method(s, method_name, 5) : NULL;
    arguments none = {0};
    return m != NULL && syi_v_equal(r, s, m(r, s, &none), 0);
}

static bool t_lower(run *r, value v, const arguments *a) { (void)a; return cased(r, v, "lower"); }
static bool t_upper(run *r, value v, const arguments *a) { (void)a; return cased(r, v, "upper"); }

static const test_row tests[] = {
    {"defined", t_defined}, {"undefined", t_undefined}, {"none", t_none}, {"string", t_string}, {"boolean", t_boolean}, {"true", t_true},
    {"false", t_false}, {"integer", t_integer}, {"float", t_float}, {"number", t_number}, {"mapping", t_mapping}, {"sequence", t_sequence},
    {"iterable", t_sequence}, {"callable", t_callable}, {"in", t_in}, {"eq", t_eq}, {"equalto", t_eq}, {"==", t_eq}, {"sameas", t_eq},
    {"ne", t_ne}, {"!=", t_ne}, {"lt", t_lt}, {"lessthan", t_lt}, {"<", t_lt}, {"le", t_le}, {"<=", t_le}, {"gt", t_gt}, {"greaterthan", t_gt},
    {">", t_gt}, {"ge", t_ge}, {">=", t_ge}, {"even", t_even}, {"odd", t_odd}, {"divisibleby", t_divisibleby}, {"lower", t_lower},
    {"upper", t_upper},
};

bool syi_test(run *r, const char *name, int64_t n, value in, const arguments *a)
{
    for (int i = 0; i < SYI_COUNT(tests); i++)
        if ((int64_t)strlen(tests[i].name) == n && memcmp(tests[i].name, name, (size_t)n) == 0) return tests[i].fn(r, in, a);
    syi_v_fail(r, SY_E_UNSUPPORTED, "the test '%.*s' is not supported", (int)syi_min(n, 60), name);
    return false;
}
