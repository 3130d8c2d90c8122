/* SPDX-License-Identifier: Apache-2.0 */
/* Regular expressions of tokenizer.json. They are written for Oniguruma; here
 * PCRE2 runs them, after the few escapes whose meaning differs have been spelt
 * out. Malformed UTF-8 is never shown to PCRE2: it sees the well-formed runs
 * between such bytes. The number of steps of one match is bounded. */
#include "text.h"

struct syi_regex {
    sy_context *ctx;
    pcre2_code *code;
    bool jit;
    char *where;
};

struct syi_matcher {
    sy_context *ctx;
    pcre2_match_data *data;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack;
};

enum { MATCH_STEPS = 50000000, STACK_MAX = 8 << 20, PATTERN_MAX = 1 << 16 };

/* White_Space and \w of Oniguruma as the inside of a class. */
static const char space_class[] =
    "\\t-\\r \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
static const char word_class[] =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}";

/* One escape (s[0] is the letter after the backslash) into PCRE2's spelling;
 * 0: leave it as it is, -1: not expressible. */
static int escape(syi_text *t, char c, bool in_class)
{
    const char *set = c == 's' || c == 'S' ? space_class : c == 'w' || c == 'W' ? word_class : c == 'h' || c == 'H' ? "0-9A-Fa-f" : NULL;
    if (set == NULL) return 0;
    bool negative = c == 'S' || c == 'W' || c == 'H';
    if (in_class && negative) return c == 'S' ? 0 : -1;
    if (in_class) syi_text_puts(t, set);
    else syi_text_printf(t, "[%s%s]", negative ? "^" : "", set);
    return 1;
}

static sy_status translate(sy_context *ctx, const char *p, size_t len, const char *where, syi_text *t)
{
    bool in_class = false;
    size_t class_at = 0;
    for (size_t i = 0; i < len; i++) {
        char c = p[i];
        if (c == '\\' && i + 1 < len) {
            int done = escape(t, p[i + 1], in_class);
            if (done < 0)
                return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: the pattern uses \\%c inside a class, which is not supported", where, p[i + 1]);
            if (done == 0) syi_text_add(t, p + i, 2);
            i++;
            continue;
        }
        if (in_class && c == '[' && !(i + 1 < len && p[i + 1] == ':'))
            return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: the pattern has a class inside a class, which is not supported", where);
        if (in_class && c == '&' && i + 1 < len && p[i + 1] == '&')
            return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: the pattern intersects classes (&&), which is not supported", where);
        if (!in_class && c == '[') {
            in_class = true;
            class_at = i + 1;
            if (class_at < len && p[class_at] == '^') class_at++;
        } else if (in_class && c == '[') { /* [:alpha:] */
            const char *close = NULL;
            for (size_t k = i + 2; k + 1 < len && close == NULL; k++)
                if (p[k] == ':' && p[k + 1] == ']') close = p + k + 1;
            if (close != NULL) {
                syi_text_add(t, p + i, (size_t)(close - (p + i)) + 1);
                i = (size_t)(close - p);
                continue;
            }
        } else if (in_class && c == ']' && i > class_at) {
            in_class = false;
        }
        syi_text_add(t, &c, 1);
    }
    return t->failed ? sy_error_code(ctx) : SY_OK;
}

sy_status syi_regex_new(sy_context *ctx, const char *pattern, size_t len, bool literal, const char *where, syi_regex **out)
{
    *out = NULL;
    if (len > PATTERN_MAX)
        return syi_fail(ctx, SY_E_INPUT, "%s: a pattern of %zu bytes; at most %d are accepted", where, len, PATTERN_MAX);
    syi_text t;
    syi_text_init(&t, ctx, 64u * PATTERN_MAX);
    syi_regex *r = NULL;
    pcre2_compile_context *how = NULL;
    sy_status st = SY_OK;
    if (literal) syi_text_add(&t, pattern, len);
    else SYI_TRY_TO(done, st, translate(ctx, pattern, len, where, &t));
    if (!t.failed) r = syi_calloc(ctx, 1, sizeof *r);
    if (r != NULL) r->ctx = ctx;
    if (r == NULL || (r->where = syi_strdup(ctx, where)) == NULL) {
        st = SY_E_MEMORY;
        goto done;
    }
    how = pcre2_compile_context_create(NULL);
    if (how == NULL) {
        st = syi_nomem(ctx, 128);
        goto done;
    }
    pcre2_set_newline(how, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(how, 100);
    int error;
    PCRE2_SIZE at;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | (literal ? PCRE2_LITERAL : PCRE2_MULTILINE);
    if (literal) options &= ~(uint32_t)PCRE2_UCP;
    r->code = pcre2_compile((PCRE2_SPTR)(t.s ? t.s : ""), t.len, options, &error, &at, how);
    if (r->code == NULL) {
        PCRE2_UCHAR text[160];
        pcre2_get_error_message(error, text, sizeof text);
        st = syi_fail(ctx, SY_E_UNSUPPORTED, "%s: the pattern cannot be compiled: %s (at character %zu of '%.120s')", where,
                      (char *)text, (size_t)at, t.s ? t.s : "");
        goto done;
    }
    r->jit = pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE) == 0; /* some kernels forbid it: then it is interpreted */
done:
    if (how != NULL) pcre2_compile_context_free(how);
    syi_text_free(&t);
    if (st != SY_OK) {
        syi_regex_free(r);
        r = NULL;
    }
    *out = r;
    return st;
}

void syi_regex_free(syi_regex *r)
{
    if (r == NULL) return;
    if (r->code != NULL) pcre2_code_free(r->code);
    syi_free(r->ctx, r->where);
    syi_free(r->ctx, r);
}

sy_status syi_matcher_new(sy_context *ctx, syi_matcher **out)
{
    syi_matcher *m = *out = syi_calloc(ctx, 1, sizeof *m);
    if (m == NULL) return SY_E_MEMORY;
    m->ctx = ctx;
    m->data = pcre2_match_data_create(1, NULL);
    m->limits = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create(64 << 10, STACK_MAX, NULL);
    if (m->data == NULL || m->limits == NULL) {
        syi_matcher_free(m);
        *out = NULL;
        return syi_nomem(ctx, 1024);
    }
    pcre2_set_match_limit(m->limits, MATCH_STEPS);
    if (m->stack != NULL) pcre2_jit_stack_assign(m->limits, NULL, m->stack);
    return SY_OK;
}

void syi_matcher_free(syi_matcher *m)
{
    if (m == NULL) return;
    if (m->data != NULL) pcre2_match_data_free(m->data);
    if (m->limits != NULL) pcre2_match_context_free(m->limits);
    if (m->stack != NULL) pcre2_jit_stack_free(m->stack);
    syi_free(m->ctx, m);
}

/* The next well-formed run at or after `from`. */
static void valid_run(syi_matches *it, int64_t from)
{
    uint32_t cp;
    int64_t i = from;
    int k;
    while (i < it->n && syi_utf8_decode(it->s + i, it->n - i, &cp) == 0) i++;
    it->run_begin = i;
    while (i < it->n && (k = syi_utf8_decode(it->s + i, it->n - i, &cp)) > 0) i += k;
    it->run_end = i;
}

void syi_matches_begin(syi_matches *it, syi_matcher *m, const syi_regex *r, const uint8_t *s, int64_t n, bool valid)
{
    *it = (syi_matches){.m = m, .r = r, .s = s, .n = n, .last = -1, .run_end = n};
    if (!valid) valid_run(it, 0);
}

static sy_status match_error(const syi_matches *it, int rc)
{
    PCRE2_UCHAR text[160];
    pcre2_get_error_message(rc, text, sizeof text);
    return syi_fail(it->m->ctx, SY_E_INPUT, "%s: matching the pattern %lld bytes into a piece of %lld bytes: %s", it->r->where,
                    (long long)it->at, (long long)it->n, (char *)text);
}

sy_status syi_matches_next(syi_matches *it, bool *found, int64_t *begin, int64_t *end)
{
    *found = false;
    for (;;) {
        if (it->at < it->run_begin) it->at = it->run_begin;
        if (it->at > it->run_end || (it->run_begin == it->run_end && it->n > 0)) {
            if (it->run_end >= it->n) return SY_OK;
            valid_run(it, it->run_end);
            continue;
        }
        const uint8_t *subject = it->s + it->run_begin;
        PCRE2_SIZE length = (PCRE2_SIZE)(it->run_end - it->run_begin), start = (PCRE2_SIZE)(it->at - it->run_begin);
        syi_matcher *m = it->m;
        int rc = it->r->jit ? pcre2_jit_match(it->r->code, subject, length, start, 0, m->data, m->limits) : PCRE2_ERROR_JIT_STACKLIMIT;
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
            rc = pcre2_match(it->r->code, subject, length, start, PCRE2_NO_JIT | PCRE2_NO_UTF_CHECK, m->data, m->limits);
        if (rc == PCRE2_ERROR_NOMATCH) {
            it->at = it->run_end + 1; /* on to the next run */
            continue;
        }
        if (rc < 0) return match_error(it, rc);
        const PCRE2_SIZE *o = pcre2_get_ovector_pointer(m->data);
        if (o[0] > o[1] || o[0] < start) /* \K can do that */
            return syi_fail(m->ctx, SY_E_UNSUPPORTED, "%s: the pattern moves the beginning of its match, which is not supported",
                            it->r->where);
        *begin = it->run_begin + (int64_t)o[0];
        *end = it->run_begin + (int64_t)o[1];
        it->at = *end;
        if (*begin == *end) { /* go on one character later; not twice at one place */
            uint32_t cp;
            int k = syi_utf8_decode(it->s + *end, it->run_end - *end, &cp);
            it->at = *end + (k > 0 ? k : 1);
            if (*end == it->last) continue;
        }
        it->last = *end;
        *found = true;
        return SY_OK;
    }
}
