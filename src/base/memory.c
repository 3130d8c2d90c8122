/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the library: the only file that calls the C allocator. Each block
 * carries its size 64 bytes before itself, so that the context always knows how
 * much is held; a countdown makes the n-th allocation fail, for tests. */
#include "poison.h"
#include "private.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN = 64, HUGE = 2 << 20 };
static const uint64_t magic_block = 0x53594d454d424c4bu; /* "SYMEMBLK" */
static const uint64_t magic_pages = 0x53594d454d504753u; /* "SYMEMPGS" */

typedef struct {
    uint64_t magic;
    size_t bytes;  /* asked for */
    void *map;     /* of pages: what to unmap */
    size_t mapped;
} header;

static header *header_of(void *p)
{
    return (header *)(void *)((char *)p - ALIGN);
}

sy_context *syi_context_alloc(void)
{
    return calloc(1, sizeof(sy_context));
}

void syi_context_release(sy_context *ctx)
{
    free(ctx);
}

/* -- accounting ------------------------------------------------------------ */

int64_t sy_memory_now(const sy_context *ctx)
{
    return atomic_load(&((sy_context *)(uintptr_t)ctx)->memory_now);
}

int64_t sy_memory_peak(const sy_context *ctx)
{
    return atomic_load(&((sy_context *)(uintptr_t)ctx)->memory_peak);
}

void sy_memory_fail_after(sy_context *ctx, int64_t n)
{
    atomic_store(&ctx->memory_fail, n > 0 ? n : 0);
}

/* True if this allocation is the one that must fail. */
static bool trip(sy_context *ctx)
{
    if (atomic_load(&ctx->memory_fail) == 0) return false;
    return atomic_fetch_sub(&ctx->memory_fail, 1) == 1;
}

static void count(sy_context *ctx, int64_t bytes)
{
    int_least64_t now = atomic_fetch_add(&ctx->memory_now, bytes) + bytes;
    int_least64_t peak = atomic_load(&ctx->memory_peak);
    while (now > peak && !atomic_compare_exchange_weak(&ctx->memory_peak, &peak, now)) {}
}

/* -- blocks ---------------------------------------------------------------- */

static void *block(sy_context *ctx, size_t bytes, bool zero)
{
    void *whole = NULL;
    if (trip(ctx) || bytes > (size_t)INT64_MAX - ALIGN ||
        posix_memalign(&whole, ALIGN, ALIGN + (bytes ? bytes : 1)) != 0) {
        syi_nomem(ctx, bytes);
        return NULL;
    }
    header *h = whole;
    *h = (header){.magic = magic_block, .bytes = bytes};
    char *p = (char *)whole + ALIGN;
    if (zero) memset(p, 0, bytes ? bytes : 1);
    count(ctx, (int64_t)bytes);
    return p;
}

void *syi_alloc(sy_context *ctx, size_t bytes)
{
    return block(ctx, bytes, false);
}

void *syi_calloc(sy_context *ctx, size_t n, size_t size)
{
    if (size != 0 && n > SIZE_MAX / size) {
        syi_nomem(ctx, SIZE_MAX);
        return NULL;
    }
    return block(ctx, n * size, true);
}

void syi_free(sy_context *ctx, void *p)
{
    if (p == NULL) return;
    header *h = header_of(p);
    if (h->magic == magic_pages) {
        syi_pages_free(ctx, p);
        return;
    }
    count(ctx, -(int64_t)h->bytes);
    h->magic = 0;
    free(h);
}

void *syi_realloc(sy_context *ctx, void *p, size_t bytes)
{
    if (p == NULL) return syi_alloc(ctx, bytes);
    void *q = block(ctx, bytes, false);
    if (q == NULL) return NULL;
    size_t old = header_of(p)->bytes;
    memcpy(q, p, old < bytes ? old : bytes);
    syi_free(ctx, p);
    return q;
}

char *syi_strndup(sy_context *ctx, const char *s, size_t n)
{
    size_t len = 0;
    while (len < n && s[len] != '\0') len++;
    char *copy = syi_alloc(ctx, len + 1);
    if (copy == NULL) return NULL;
    memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

char *syi_strdup(sy_context *ctx, const char *s)
{
    return syi_strndup(ctx, s, SIZE_MAX);
}

void syi_json_free_text(char *text)
{
    free(text);
}

char *syi_format(sy_context *ctx, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *s = NULL;
    if (n < 0) syi_fail(ctx, SY_E_BUG, "format '%s' cannot be written", fmt);
    else s = syi_alloc(ctx, (size_t)n + 1);
    if (s != NULL) vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}

sy_status syi_grow(sy_context *ctx, void **p, int64_t *cap, int64_t need, size_t item, int64_t max)
{
    if (need <= *cap) return SY_OK;
    if (need > max)
        return syi_fail(ctx, SY_E_INPUT, "a list of %lld items is longer than the %lld that are allowed here",
                        (long long)need, (long long)max);
    int64_t more = *cap > max / 2 ? max : syi_min(max, syi_max(16, *cap * 2)), bytes;
    if (more < need) more = need;
    if (!syi_size_mul(more, (int64_t)item, &bytes)) return syi_nomem(ctx, SIZE_MAX);
    void *q = syi_realloc(ctx, *p, (size_t)bytes);
    if (q == NULL) return SY_E_MEMORY;
    *p = q;
    *cap = more;
    return SY_OK;
}

/* -- pages ----------------------------------------------------------------- */

void *syi_pages(sy_context *ctx, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    /* From 2 MiB on, the data begin at a huge page, one page after the header;
     * what lies around them is given back at once. */
    size_t align = bytes >= HUGE ? HUGE : page;
    if (trip(ctx) || bytes > (size_t)INT64_MAX - 2 * HUGE - 2 * page) {
        syi_nomem(ctx, bytes);
        return NULL;
    }
    size_t body = (bytes + page - 1) / page * page, whole = body + align + page;
    char *map = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        syi_nomem(ctx, bytes);
        return NULL;
    }
    char *p = (char *)(((uintptr_t)map + page + align - 1) / align * align);
    char *first = p - page, *end = p + body;
    if (first > map) munmap(map, (size_t)(first - map));
    if (end < map + whole) munmap(end, (size_t)(map + whole - end));
#ifdef MADV_HUGEPAGE
    if (align == HUGE) madvise(p, body, MADV_HUGEPAGE);
#endif
    *header_of(p) = (header){.magic = magic_pages, .bytes = bytes, .map = first, .mapped = body + page};
    SYI_POISON(p + bytes, body - bytes);
    count(ctx, (int64_t)bytes);
    return p;
}

void syi_pages_free(sy_context *ctx, void *p)
{
    if (p == NULL) return;
    header h = *header_of(p);
    count(ctx, -(int64_t)h.bytes);
    SYI_UNPOISON(h.map, h.mapped);
    munmap(h.map, h.mapped);
}
