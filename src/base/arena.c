/* SPDX-License-Identifier: Apache-2.0 */
/* The arena: a list of chunks that are filled one after the other. Rewinding
 * keeps the chunks for the next step; memory that comes fresh from the system
 * is zero already and is not cleared again. */
#include "base.h"
#include "poison.h"

enum { ALIGN = 64, PAGES_FROM = 1 << 20 };

typedef struct chunk {
    struct chunk *next;
    size_t size, used;
    size_t dirty; /* bytes from here on are zero */
    bool pages;
} chunk;

struct syi_arena {
    sy_context *ctx;
    chunk *first, *at;
    size_t chunk_bytes;
};

static size_t round_up(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static char *body(chunk *c)
{
    return (char *)c + round_up(sizeof(chunk));
}

sy_status syi_arena_new(sy_context *ctx, size_t chunk_bytes, syi_arena **out)
{
    *out = NULL;
    syi_arena *a = syi_calloc(ctx, 1, sizeof *a);
    if (a == NULL) return SY_E_MEMORY;
    a->ctx = ctx;
    a->chunk_bytes = chunk_bytes < 4096 ? 4096 : chunk_bytes;
    *out = a;
    return SY_OK;
}

void syi_arena_free(syi_arena *a)
{
    if (a == NULL) return;
    for (chunk *c = a->first, *next; c != NULL; c = next) {
        next = c->next;
        SYI_UNPOISON(body(c), c->size);
        if (c->pages) syi_pages_free(a->ctx, c);
        else syi_free(a->ctx, c);
    }
    syi_free(a->ctx, a);
}

/* A new chunk after `at` (or at the front) that holds `bytes`. */
static chunk *insert(syi_arena *a, size_t bytes)
{
    size_t size = bytes > a->chunk_bytes ? bytes : a->chunk_bytes;
    size_t whole = round_up(sizeof(chunk)) + size;
    bool pages = whole >= PAGES_FROM;
    chunk *c = pages ? syi_pages(a->ctx, whole) : syi_alloc(a->ctx, whole);
    if (c == NULL) return NULL;
    chunk **link = a->at != NULL ? &a->at->next : &a->first;
    *c = (chunk){.next = *link, .size = size, .dirty = pages ? 0 : size, .pages = pages};
    *link = c;
    SYI_POISON(body(c), size);
    return c;
}

void *syi_arena_alloc(syi_arena *a, size_t bytes)
{
    if (bytes > (size_t)INT64_MAX) {
        syi_nomem(a->ctx, bytes);
        return NULL;
    }
    size_t asked = bytes;
    bytes = round_up(bytes ? bytes : 1);
    if (a->at == NULL || a->at->size - a->at->used < bytes) {
        /* The next chunk is empty: what lies behind `at` was rewound. */
        chunk *next = a->at != NULL ? a->at->next : a->first;
        if (next == NULL || next->size < bytes) next = insert(a, bytes);
        if (next == NULL) return NULL;
        next->used = 0;
        a->at = next;
    }
    chunk *c = a->at;
    size_t from = c->used, to = from + bytes;
    char *p = body(c) + from;
    SYI_UNPOISON(p, asked);
    if (from < c->dirty) memset(p, 0, from + asked < c->dirty ? asked : c->dirty - from);
    if (to > c->dirty) c->dirty = to;
    c->used = to;
    return p;
}

char *syi_arena_strdup(syi_arena *a, const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = syi_arena_alloc(a, n);
    if (p != NULL) memcpy(p, s, n);
    return p;
}

char *syi_arena_format(syi_arena *a, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *s = NULL;
    if (n < 0) syi_fail(a->ctx, SY_E_BUG, "format '%s' cannot be written", fmt);
    else s = syi_arena_alloc(a, (size_t)n + 1);
    if (s != NULL) vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}

syi_mark syi_arena_mark(const syi_arena *a)
{
    return (syi_mark){.chunk = a->at, .used = a->at != NULL ? a->at->used : 0};
}

void syi_arena_rewind(syi_arena *a, syi_mark mark)
{
    chunk *to = mark.chunk;
    for (chunk *c = to != NULL ? to->next : a->first; a->at != NULL && a->at != to && c != NULL; c = c->next) {
        SYI_POISON(body(c), c->used);
        if (c == a->at) break;
    }
    a->at = to;
    if (to == NULL) return;
    SYI_POISON(body(to) + mark.used, to->used - mark.used);
    to->used = mark.used;
}

size_t syi_arena_bytes(const syi_arena *a)
{
    size_t n = 0;
    if (a->at == NULL) return 0;
    for (const chunk *c = a->first; c != NULL; c = c->next) {
        n += c->used;
        if (c == a->at) break;
    }
    return n;
}
