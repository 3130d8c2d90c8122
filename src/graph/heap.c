/* SPDX-License-Identifier: Apache-2.0 */
/* The step heap: best-fit over one range of addresses.
 *
 * Activations come and go in the same order at every step, so the allocator is run
 * once without memory (plan) and its high-water mark is what the real run needs. The
 * real run maps a larger range of addresses than planned, of which only touched pages
 * cost anything: a batch that happens to fragment differently cannot fail. */
#include "graph/graph.h"

#include <errno.h>
#include <sys/mman.h>

enum { ALIGN = 64, HUGE = 2 << 20 };

typedef struct { int64_t at, bytes; bool used; } block;

struct syi_heap {
    sy_context *ctx;
    block *blocks; /* by address, gapless; the last one is free and open-ended */
    int64_t n, cap;
    char *base;
    int64_t reserved, mapped;
    int64_t used, peak;
};

static const int64_t OPEN_END = INT64_MAX / 2;

sy_status syi_heap_new(sy_context *ctx, syi_heap **out)
{
    *out = NULL;
    syi_heap *h = syi_calloc(ctx, 1, sizeof *h);
    if (!h) return SY_E_MEMORY;
    h->ctx = ctx;
    sy_status s = syi_grow(ctx, (void **)&h->blocks, &h->cap, 64, sizeof(block), 1 << 24);
    if (s != SY_OK) {
        syi_free(ctx, h);
        return s;
    }
    syi_heap_reset(h);
    h->peak = 0;
    *out = h;
    return SY_OK;
}

static void unmap(syi_heap *h)
{
    if (h->base) munmap(h->base, (size_t)h->mapped);
    h->base = NULL;
    h->mapped = h->reserved = 0;
}

void syi_heap_free(syi_heap *h)
{
    if (!h) return;
    unmap(h);
    syi_free(h->ctx, h->blocks);
    syi_free(h->ctx, h);
}

sy_status syi_heap_reserve(syi_heap *h, int64_t bytes)
{
    if (h->base && bytes <= h->reserved) return SY_OK;
    unmap(h);
    int64_t want = (bytes + bytes / 2 + 64 * (int64_t)HUGE) / HUGE * HUGE;
    void *p = mmap(NULL, (size_t)want, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return syi_nomem(h->ctx, (size_t)want);
#ifdef MADV_HUGEPAGE
    /* Page faults on fresh 4 KiB pages cost several per cent of a step. */
    madvise(p, (size_t)want, MADV_HUGEPAGE);
#endif
    h->base = p;
    h->mapped = want;
    h->reserved = bytes;
    return SY_OK;
}

void syi_heap_reset(syi_heap *h)
{
    h->blocks[0] = (block){0, OPEN_END, false};
    h->n = 1;
    h->used = 0;
}

int64_t syi_heap_take(syi_heap *h, int64_t bytes)
{
    if (bytes < 0 || bytes > OPEN_END / 4) {
        syi_fail(h->ctx, SY_E_BUG, "step heap: a block of %lld bytes was asked for", (long long)bytes);
        return -1;
    }
    bytes = syi_max(ALIGN, syi_ceil_div(bytes, ALIGN) * ALIGN);
    int64_t best = -1;
    for (int64_t i = 0; i < h->n; i++) {
        const block *b = &h->blocks[i];
        if (!b->used && b->bytes >= bytes && (best < 0 || b->bytes < h->blocks[best].bytes)) best = i;
    }
    block *b = &h->blocks[best]; /* the open end always fits */
    if (b->bytes > bytes) {
        if (syi_grow(h->ctx, (void **)&h->blocks, &h->cap, h->n + 1, sizeof(block), 1 << 24) != SY_OK) return -1;
        b = &h->blocks[best];
        memmove(b + 1, b, (size_t)(h->n - best) * sizeof(block));
        h->n++;
        b[1].at += bytes;
        b[1].bytes -= bytes;
        b->bytes = bytes;
    }
    if (h->base && b->at + bytes > h->mapped) {
        syi_fail(h->ctx, SY_E_MEMORY, "step memory: %lld bytes were planned, %lld would be needed; use a smaller --batch or --seq",
                 (long long)h->reserved, (long long)(b->at + bytes));
        return -1;
    }
    b->used = true;
    h->used += bytes;
    h->peak = syi_max(h->peak, b->at + bytes);
    return b->at;
}

void syi_heap_give(syi_heap *h, int64_t offset)
{
    int64_t lo = 0, hi = h->n - 1;
    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;
        if (h->blocks[mid].at < offset) lo = mid + 1;
        else hi = mid;
    }
    block *b = &h->blocks[lo];
    if (b->at != offset || !b->used) return; /* not one of ours: nothing to give */
    b->used = false;
    h->used -= b->bytes;
    int64_t first = lo, last = lo;
    if (lo + 1 < h->n && !h->blocks[lo + 1].used) last++;
    if (lo > 0 && !h->blocks[lo - 1].used) first--;
    if (first == last) return;
    block *f = &h->blocks[first];
    for (int64_t i = first + 1; i <= last; i++) f->bytes += h->blocks[i].bytes;
    memmove(f + 1, &h->blocks[last + 1], (size_t)(h->n - last - 1) * sizeof(block));
    h->n -= last - first;
}

void *syi_heap_at(const syi_heap *h, int64_t offset)
{
    return h->base && offset >= 0 ? h->base + offset : NULL;
}

int64_t syi_heap_peak(const syi_heap *h) { return h->peak; }
int64_t syi_heap_used(const syi_heap *h) { return h->used; }
int64_t syi_heap_size(const syi_heap *h) { return h->reserved; }
