/* SPDX-License-Identifier: Apache-2.0 */
/* The growable text: sticky, so that a long text is built without checks and
 * checked once at the end. */
#include "base.h"

void syi_text_init(syi_text *t, sy_context *ctx, size_t max)
{
    *t = (syi_text){.ctx = ctx, .max = max};
}

void syi_text_free(syi_text *t)
{
    syi_free(t->ctx, t->s);
    t->s = NULL;
    t->len = t->cap = 0;
}

/* Room for n more bytes and the NUL. */
static bool room(syi_text *t, size_t n)
{
    if (t->failed) return false;
    if (n > t->max || t->len > t->max - n) {
        char limit[32];
        syi_fail(t->ctx, SY_E_INPUT, "a text grew past its limit of %s",
                 syi_human_bytes(limit, t->max > INT64_MAX ? INT64_MAX : (int64_t)t->max));
        t->failed = true;
        return false;
    }
    size_t need = t->len + n + 1;
    if (need <= t->cap) return true;
    size_t cap = t->cap < 32 ? 64 : t->cap * 2;
    if (cap < need) cap = need;
    char *s = syi_realloc(t->ctx, t->s, cap);
    if (s == NULL) {
        t->failed = true;
        return false;
    }
    t->s = s;
    t->cap = cap;
    return true;
}

void syi_text_add(syi_text *t, const char *s, size_t n)
{
    if (!room(t, n)) return;
    if (n > 0) memcpy(t->s + t->len, s, n);
    t->len += n;
    t->s[t->len] = '\0';
}

void syi_text_puts(syi_text *t, const char *s)
{
    syi_text_add(t, s, strlen(s));
}

void syi_text_printf(syi_text *t, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) {
        syi_fail(t->ctx, SY_E_BUG, "format '%s' cannot be written", fmt);
        t->failed = true;
    } else if (room(t, (size_t)n)) {
        vsnprintf(t->s + t->len, (size_t)n + 1, fmt, again);
        t->len += (size_t)n;
    }
    va_end(again);
}

char *syi_text_take(syi_text *t)
{
    if (!t->failed && t->s == NULL) syi_text_add(t, "", 0);
    char *s = NULL;
    if (t->failed) syi_text_free(t);
    else s = t->s;
    t->s = NULL;
    t->len = t->cap = 0;
    return s;
}
