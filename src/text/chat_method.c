/* SPDX-License-Identifier: Apache-2.0 */
/* Methods of texts and mappings, and the global functions, as templates use them.
 * What would change a list or mapping is refused, as Jinja's sandbox does. */
#include "chat.h"

#include <utf8proc.h>

typedef struct { const char *name; method *fn; } method_row;

static bool text_argument(run *r, const arguments *a, int i, const char *name, value *out)
{
    if (!syi_argument(a, i, name, out) || out->kind == V_NONE) return false;
    if (out->kind != V_STRING) syi_v_fail(r, SY_E_INPUT, "expected a text, found %s", syi_v_type(*out));
    return r->status == SY_OK;
}

static value part(value v, int64_t begin, int64_t end)
{
    return (value){.kind = V_STRING, .u.str = {v.u.str.s + begin, end - begin}};
}

static int decode(value v, int64_t at, uint32_t *cp)
{
    int k = syi_utf8_decode((const uint8_t *)v.u.str.s + at, v.u.str.n - at, cp);
    if (k == 0) *cp = 0xFFFD;
    return k > 0 ? k : 1;
}

/* -- strip ----------------------------------------------------------------------- */

static bool in_set(value v, int64_t at, int k, uint32_t cp, const value *set)
{
    if (set == NULL) return syi_is_space(cp) || (cp >= 0x1C && cp <= 0x1F);
    for (int64_t i = 0; i < set->u.str.n;) {
        uint32_t c;
        int n = decode(*set, i, &c);
        if (n == k && memcmp(set->u.str.s + i, v.u.str.s + at, (size_t)k) == 0) return true;
        i += n;
    }
    return false;
}

static value strip(run *r, value v, const arguments *a, bool left, bool right)
{
    value chars;
    bool given = text_argument(r, a, 0, "chars", &chars);
    int64_t begin = 0, end = v.u.str.n, b, f;
    uint32_t cp;
    if (r->status != SY_OK) return v;
    while (left && begin < end) {
        int k = decode(v, begin, &cp);
        if (!in_set(v, begin, k, cp, given ? &chars : NULL)) break;
        begin += k;
    }
    while (right && end > begin) {
        syi_utf8_cover((const uint8_t *)v.u.str.s, end, end - 1, &b, &f);
        decode(v, b, &cp);
        if (!in_set(v, b, (int)(f - b), cp, given ? &chars : NULL)) break;
        end = b;
    }
    return part(v, begin, end);
}

static value m_strip(run *r, value v, const arguments *a) { return strip(r, v, a, true, true); }
static value m_lstrip(run *r, value v, const arguments *a) { return strip(r, v, a, true, false); }
static value m_rstrip(run *r, value v, const arguments *a) { return strip(r, v, a, false, true); }

/* -- case ---------------------------------------------------------------------------- */

enum { LOWER, UPPER, TITLE, CAPITAL };

static value recase(run *r, value v, int how)
{
    syi_text t;
    syi_text_init(&t, r->ctx, RUN_BYTES);
    bool inside = false;
    for (int64_t i = 0; i < v.u.str.n;) {
        uint32_t cp;
        uint8_t utf8[4];
        int k = decode(v, i, &cp);
        int32_t c = (int32_t)cp;
        utf8proc_category_t kind = utf8proc_category(c);
        bool letter = kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LT;
        bool up = how == UPPER || (how == TITLE && !inside) || (how == CAPITAL && i == 0);
        if (up && cp == 0xDF) syi_text_puts(&t, how == UPPER ? "SS" : "Ss");
        else if (!up && cp == 0x130) syi_text_puts(&t, "i\xCC\x87");
        else {
            c = !up ? utf8proc_tolower(c) : how == UPPER ? utf8proc_toupper(c) : utf8proc_totitle(c);
            syi_text_add(&t, (const char *)utf8, (size_t)syi_utf8_encode((uint32_t)c, utf8));
        }
        inside = letter;
        i += k;
    }
    return syi_v_take(r, &t);
}

static value m_lower(run *r, value v, const arguments *a) { (void)a; return recase(r, v, LOWER); }
static value m_upper(run *r, value v, const arguments *a) { (void)a; return recase(r, v, UPPER); }
static value m_title(run *r, value v, const arguments *a) { (void)a; return recase(r, v, TITLE); }
static value m_capitalize(run *r, value v, const arguments *a) { (void)a; return recase(r, v, CAPITAL); }

/* -- search ------------------------------------------------------------------------------ */

static int64_t search(value v, int64_t from, value what)
{
    if (what.u.str.n == 0) return from <= v.u.str.n ? from : -1;
    const char *p = from < v.u.str.n ? memmem(v.u.str.s + from, (size_t)(v.u.str.n - from), what.u.str.s, (size_t)what.u.str.n) : NULL;
    return p ? p - v.u.str.s : -1;
}

static int64_t search_back(value v, int64_t before, value what)
{
    for (int64_t i = before - what.u.str.n; i >= 0; i--)
        if (memcmp(v.u.str.s + i, what.u.str.s, (size_t)what.u.str.n) == 0) return i;
    return -1;
}

static bool at_end(value v, value what, bool end)
{
    return what.u.str.n <= v.u.str.n &&
           memcmp(v.u.str.s + (end ? v.u.str.n - what.u.str.n : 0), what.u.str.s, (size_t)what.u.str.n) == 0;
}

static value either_end(run *r, value v, const arguments *a, bool end)
{
    value what;
    if (a->n != 1) return syi_v_fail(r, SY_E_UNSUPPORTED, "startswith and endswith take one argument here");
    what = a->v[0];
    if (what.kind == V_TUPLE) {
        for (int64_t i = 0; i < what.u.list->n; i++)
            if (what.u.list->v[i].kind == V_STRING && at_end(v, what.u.list->v[i], end)) return BOOL(true);
        return BOOL(false);
    }
    if (what.kind != V_STRING) return syi_v_fail(r, SY_E_INPUT, "expected a text, found %s", syi_v_type(what));
    return BOOL(at_end(v, what, end));
}

static value m_startswith(run *r, value v, const arguments *a) { return either_end(r, v, a, false); }
static value m_endswith(run *r, value v, const arguments *a) { return either_end(r, v, a, true); }

static value m_removeprefix(run *r, value v, const arguments *a)
{
    value what;
    return text_argument(r, a, 0, "prefix", &what) && at_end(v, what, false) ? part(v, what.u.str.n, v.u.str.n) : v;
}

static value m_removesuffix(run *r, value v, const arguments *a)
{
    value what;
    return text_argument(r, a, 0, "suffix", &what) && at_end(v, what, true) ? part(v, 0, v.u.str.n - what.u.str.n) : v;
}

static value position(run *r, value v, const arguments *a, bool back)
{
    value what;
    if (!text_argument(r, a, 0, "sub", &what) || a->n != 1)
        return syi_v_fail(r, SY_E_UNSUPPORTED, "find and rfind take one text here");
    int64_t at = back ? search_back(v, v.u.str.n, what) : search(v, 0, what);
    return INT(at < 0 ? -1 : syi_v_length(r, part(v, 0, at)));
}

static value m_find(run *r, value v, const arguments *a) { return position(r, v, a, false); }
static value m_rfind(run *r, value v, const arguments *a) { return position(r, v, a, true); }

static value m_count(run *r, value v, const arguments *a)
{
    value what;
    int64_t n = 0;
    if (!text_argument(r, a, 0, "sub", &what)) return syi_v_fail(r, SY_E_INPUT, "count needs a text");
    if (what.u.str.n == 0) return INT(syi_v_length(r, v) + 1);
    for (int64_t at = 0; (at = search(v, at, what)) >= 0; at += what.u.str.n) n++;
    return INT(n);
}

/* -- cutting and joining ---------------------------------------------------------------------- */

static value m_replace(run *r, value v, const arguments *a)
{
    value old, with, count = INT(-1);
    if (!text_argument(r, a, 0, "old", &old) || !text_argument(r, a, 1, "new", &with))
        return syi_v_fail(r, SY_E_INPUT, "replace needs two texts");
    syi_argument(a, 2, "count", &count);
    int64_t left = count.kind == V_INT && count.u.i >= 0 ? count.u.i : INT64_MAX, done = 0;
    syi_text t;
    syi_text_init(&t, r->ctx, RUN_BYTES);
    for (int64_t at = 0; left > 0 && (at = search(v, at, old)) >= 0; left--) {
        syi_text_add(&t, v.u.str.s + done, (size_t)(at - done));
        syi_text_add(&t, with.u.str.s, (size_t)with.u.str.n);
        done = at + old.u.str.n;
        at = done;
        if (old.u.str.n > 0) continue;
        if (at >= v.u.str.n) break; /* between all characters */
        uint32_t cp;
        at += decode(v, at, &cp);
    }
    syi_text_add(&t, v.u.str.s + done, (size_t)(v.u.str.n - done));
    return syi_v_take(r, &t);
}

static value split_spaces(run *r, value v, int64_t most)
{
    value out = syi_v_list(r, V_LIST);
    int64_t i = 0;
    uint32_t cp;
    while (r->status == SY_OK) {
        while (i < v.u.str.n) {
            int k = decode(v, i, &cp);
            if (!in_set(v, i, k, cp, NULL)) break;
            i += k;
        }
        if (i >= v.u.str.n) break;
        if (most-- == 0) {
            arguments none = {0};
            syi_v_push(r, out, strip(r, part(v, i, v.u.str.n), &none, false, true));
            break;
        }
        int64_t begin = i;
        while (i < v.u.str.n) {
            int k = decode(v, i, &cp);
            if (in_set(v, i, k, cp, NULL)) break;
            i += k;
        }
        syi_v_push(r, out, part(v, begin, i));
    }
    return out;
}

static value m_split(run *r, value v, const arguments *a)
{
    value by, most = INT(-1), out;
    bool given = text_argument(r, a, 0, "sep", &by);
    syi_argument(a, 1, "maxsplit", &most);
    int64_t left = most.kind == V_INT && most.u.i >= 0 ? most.u.i : INT64_MAX, done = 0;
    if (r->status != SY_OK) return v;
    if (!given) return split_spaces(r, v, left);
    if (by.u.str.n == 0) return syi_v_fail(r, SY_E_INPUT, "split by an empty text");
    out = syi_v_list(r, V_LIST);
    for (int64_t at; left > 0 && r->status == SY_OK && (at = search(v, done, by)) >= 0; left--) {
        syi_v_push(r, out, part(v, done, at));
        done = at + by.u.str.n;
    }
    syi_v_push(r, out, part(v, done, v.u.str.n));
    return out;
}

static value m_rsplit(run *r, value v, const arguments *a)
{
    value by, most = INT(-1), out = syi_v_list(r, V_LIST), back[3] = {{.kind = V_NONE}, {.kind = V_NONE}, INT(-1)};
    if (!text_argument(r, a, 0, "sep", &by) || by.u.str.n == 0) return syi_v_fail(r, SY_E_UNSUPPORTED, "rsplit needs a text to split by here");
    syi_argument(a, 1, "maxsplit", &most);
    int64_t left = most.kind == V_INT && most.u.i >= 0 ? most.u.i : INT64_MAX, end = v.u.str.n;
    for (int64_t at; left > 0 && r->status == SY_OK && (at = search_back(v, end, by)) >= 0; left--) {
        syi_v_push(r, out, part(v, at + by.u.str.n, end));
        end = at;
    }
    syi_v_push(r, out, part(v, 0, end));
    return r->status == SY_OK ? syi_v_slice(r, out, back) : out;
}

static value m_splitlines(run *r, value v, const arguments *a)
{
    (void)a;
    value out = syi_v_list(r, V_LIST);
    int64_t begin = 0;
    for (int64_t i = 0; i < v.u.str.n && r->status == SY_OK; i++) {
        char c = v.u.str.s[i];
        if (c != '\n' && c != '\r') continue;
        syi_v_push(r, out, part(v, begin, i));
        if (c == '\r' && i + 1 < v.u.str.n && v.u.str.s[i + 1] == '\n') i++;
        begin = i + 1;
    }
    if (begin < v.u.str.n) syi_v_push(r, out, part(v, begin, v.u.str.n));
    return out;
}

static value m_join(run *r, value v, const arguments *a)
{
    value l = a->n == 1 ? syi_v_items(r, a->v[0]) : syi_v_fail(r, SY_E_INPUT, "join needs a list");
    syi_text t;
    syi_text_init(&t, r->ctx, RUN_BYTES);
    for (int64_t i = 0; r->status == SY_OK && i < l.u.list->n; i++) {
        if (i > 0) syi_text_add(&t, v.u.str.s, (size_t)v.u.str.n);
        if (l.u.list->v[i].kind != V_STRING) syi_v_fail(r, SY_E_INPUT, "join: expected texts, found %s", syi_v_type(l.u.list->v[i]));
        else syi_text_add(&t, l.u.list->v[i].u.str.s, (size_t)l.u.list->v[i].u.str.n);
    }
    return syi_v_take(r, &t);
}

static bool all_of(value v, bool (*is)(uint32_t))
{
    for (int64_t i = 0; i < v.u.str.n;) {
        uint32_t cp;
        i += decode(v, i, &cp);
        if (!is(cp)) return false;
    }
    return v.u.str.n > 0;
}

static bool is_digit(uint32_t c) { return utf8proc_category((int32_t)c) == UTF8PROC_CATEGORY_ND; }
static bool is_alpha(uint32_t c) { return utf8proc_category((int32_t)c) >= UTF8PROC_CATEGORY_LU && utf8proc_category((int32_t)c) <= UTF8PROC_CATEGORY_LO; }
static value m_isdigit(run *r, value v, const arguments *a) { (void)r, (void)a; return BOOL(all_of(v, is_digit)); }
static value m_isspace(run *r, value v, const arguments *a) { (void)r, (void)a; return BOOL(all_of(v, syi_is_space)); }
static value m_isalpha(run *r, value v, const arguments *a) { (void)r, (void)a; return BOOL(all_of(v, is_alpha)); }

/* -- mappings ------------------------------------------------------------------------------------ */

static value m_keys(run *r, value v, const arguments *a) { (void)a; return syi_v_items(r, v); }

static value m_values(run *r, value v, const arguments *a)
{
    (void)a;
    value out = syi_v_list(r, V_LIST);
    for (int64_t i = 0; i < v.u.dict->n; i++) syi_v_push(r, out, v.u.dict->v[i]);
    return out;
}

static value m_items(run *r, value v, const arguments *a)
{
    (void)a;
    value out = syi_v_list(r, V_LIST);
    for (int64_t i = 0; i < v.u.dict->n && r->status == SY_OK; i++) {
        value pair = syi_v_list(r, V_TUPLE);
        syi_v_push(r, pair, v.u.dict->key[i]);
        syi_v_push(r, pair, v.u.dict->v[i]);
        syi_v_push(r, out, pair);
    }
    return out;
}

static value m_get(run *r, value v, const arguments *a)
{
    value out = {.kind = V_NONE};
    if (a->n < 1) return syi_v_fail(r, SY_E_INPUT, "get needs a key");
    if (a->n > 1) out = a->v[1];
    syi_v_get(r, v, a->v[0], &out);
    return out;
}

static value m_index(run *r, value v, const arguments *a)
{
    for (int64_t i = 0; a->n == 1 && i < v.u.list->n; i++)
        if (syi_v_equal(r, v.u.list->v[i], a->v[0], 0)) return INT(i);
    return syi_v_fail(r, SY_E_INPUT, "index: the value is not in the list");
}

static value m_change(run *r, value v, const arguments *a)
{
    (void)v, (void)a;
    return syi_v_fail(r, SY_E_INPUT, "a template must not change lists and mappings in place; build a new one");
}

static const method_row string_methods[] = {
    {"strip", m_strip}, {"lstrip", m_lstrip}, {"rstrip", m_rstrip}, {"lower", m_lower}, {"upper", m_upper}, {"title", m_title},
    {"capitalize", m_capitalize}, {"startswith", m_startswith}, {"endswith", m_endswith}, {"removeprefix", m_removeprefix},
    {"removesuffix", m_removesuffix}, {"find", m_find}, {"rfind", m_rfind}, {"count", m_count}, {"replace", m_replace}, {"split", m_split},
    {"rsplit", m_rsplit}, {"splitlines", m_splitlines}, {"join", m_join}, {"isdigit", m_isdigit}, {"isspace", m_isspace}, {"isalpha", m_isalpha},
    {NULL, NULL},
};
static const method_row dict_methods[] = {
    {"keys", m_keys}, {"values", m_values}, {"items", m_items}, {"get", m_get}, {"update", m_change}, {"pop", m_change},
    {"setdefault", m_change}, {"clear", m_change}, {NULL, NULL},
};
static const method_row list_methods[] = {
    {"index", m_index}, {"append", m_change}, {"extend", m_change}, {"insert", m_change}, {"pop", m_change}, {"remove", m_change},
    {"clear", m_change}, {"sort", m_change}, {"reverse", m_change}, {NULL, NULL},
};

method *syi_method(value self, const char *name, int64_t n)
{
    const method_row *row = self.kind == V_STRING ? string_methods : self.kind == V_DICT ? dict_methods
                            : self.kind == V_LIST || self.kind == V_TUPLE ? list_methods : NULL;
    for (; row != NULL && row->name != NULL; row++)
        if ((int64_t)strlen(row->name) == n && memcmp(row->name, name, (size_t)n) == 0) return row->fn;
    return NULL;
}

/* -- global functions --------------------------------------------------------------------------------- */

static value g_raise(run *r, const arguments *a)
{
    value s = a->n > 0 ? syi_v_str(r, a->v[0]) : STR("");
    return syi_v_fail(r, SY_E_INPUT, "the template refuses these messages: %.*s", (int)syi_min(s.u.str.n, 300), s.u.str.s ? s.u.str.s : "");
}

static value keywords(run *r, const arguments *a, value_kind kind)
{
    value d = syi_v_dict(r, kind);
    for (int n = 0; n < a->n && r->status == SY_OK; n++) {
        if (a->v[n].kind != V_DICT) return syi_v_fail(r, SY_E_INPUT, "expected a mapping, found %s", syi_v_type(a->v[n]));
        for (int64_t i = 0; i < a->v[n].u.dict->n; i++) syi_v_put(r, d, a->v[n].u.dict->key[i], a->v[n].u.dict->v[i]);
    }
    for (int i = 0; i < a->keys; i++)
        syi_v_put(r, d, (value){.kind = V_STRING, .u.str = {a->key[i], (int64_t)strlen(a->key[i])}}, a->key_value[i]);
    return d;
}

static value g_namespace(run *r, const arguments *a) { return keywords(r, a, V_NAMESPACE); }
static value g_dict(run *r, const arguments *a) { return keywords(r, a, V_DICT); }

static value g_range(run *r, const arguments *a)
{
    enum { RANGE_MAX = 100000 };
    int64_t v[3] = {0, 0, 1};
    for (int i = 0; i < a->n && i < 3; i++) {
        if (a->v[i].kind != V_INT) return syi_v_fail(r, SY_E_INPUT, "range of %s", syi_v_type(a->v[i]));
        v[i] = a->v[i].u.i;
    }
    if (a->n == 1) v[1] = v[0], v[0] = 0;
    if (a->n < 1 || v[2] == 0) return syi_v_fail(r, SY_E_INPUT, "range needs one to three numbers, and a step that is not 0");
    value out = syi_v_list(r, V_LIST);
    int64_t i = v[0];
    for (int64_t n = 0; r->status == SY_OK && (v[2] > 0 ? i < v[1] : i > v[1]); n++) {
        if (n == RANGE_MAX) return syi_v_fail(r, SY_E_INPUT, "a range of more than %d numbers", RANGE_MAX);
        syi_v_push(r, out, INT(i));
        if (__builtin_add_overflow(i, v[2], &i)) break;
    }
    return out;
}

value syi_global(const char *name, int64_t n)
{
    static const struct { const char *name; function *fn; } row[] = {
        {"raise_exception", g_raise}, {"namespace", g_namespace}, {"range", g_range}, {"dict", g_dict}};
    for (int i = 0; i < SYI_COUNT(row); i++)
        if ((int64_t)strlen(row[i].name) == n && memcmp(row[i].name, name, (size_t)n) == 0)
            return (value){.kind = V_FUNCTION, .u.fn = row[i].fn};
    return (value){0};
}
