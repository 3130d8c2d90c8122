/* SPDX-License-Identifier: Apache-2.0 */
/* A trie over bytes: finds added tokens in a text, leftmost first, then the
 * longest. Most bytes cannot begin a token, so a table of first bytes decides
 * nearly always at once. */
#include "text.h"

typedef struct { int32_t child, sibling, value; uint8_t byte; } node;

struct syi_trie {
    sy_context *ctx;
    node *n;
    int64_t count, cap;
    int32_t first[256]; /* node of a token's first byte, -1: none */
};

enum { NODES_MAX = 1 << 26 };

sy_status syi_trie_new(sy_context *ctx, syi_trie **out)
{
    syi_trie *t = *out = syi_calloc(ctx, 1, sizeof *t);
    if (t == NULL) return SY_E_MEMORY;
    t->ctx = ctx;
    for (int i = 0; i < 256; i++) t->first[i] = -1;
    return SY_OK;
}

void syi_trie_free(syi_trie *t)
{
    if (t == NULL) return;
    syi_free(t->ctx, t->n);
    syi_free(t->ctx, t);
}

static sy_status fresh(syi_trie *t, uint8_t byte, int32_t sibling, int32_t *out)
{
    void *p = t->n;
    sy_status st = syi_grow(t->ctx, &p, &t->cap, t->count + 1, sizeof *t->n, NODES_MAX);
    t->n = p;
    if (st != SY_OK) return st;
    *out = (int32_t)t->count++;
    t->n[*out] = (node){.child = -1, .sibling = sibling, .value = -1, .byte = byte};
    return SY_OK;
}

static int32_t child_of(const syi_trie *t, int32_t at, uint8_t byte)
{
    int32_t c = t->n[at].child;
    while (c >= 0 && t->n[c].byte != byte) c = t->n[c].sibling;
    return c;
}

sy_status syi_trie_add(syi_trie *t, const uint8_t *s, int64_t n, int32_t value)
{
    if (n <= 0) return SY_OK;
    int32_t at = t->first[s[0]];
    if (at < 0) {
        SYI_TRY(fresh(t, s[0], -1, &at));
        t->first[s[0]] = at;
    }
    for (int64_t i = 1; i < n; i++) {
        int32_t next = child_of(t, at, s[i]);
        if (next < 0) {
            SYI_TRY(fresh(t, s[i], t->n[at].child, &next));
            t->n[at].child = next;
        }
        at = next;
    }
    t->n[at].value = value;
    return SY_OK;
}

bool syi_trie_next(const syi_trie *t, const uint8_t *s, int64_t n, int64_t from, int64_t *begin, int64_t *end, int32_t *value)
{
    for (int64_t i = from; i < n; i++) {
        int32_t at = t->first[s[i]];
        if (at < 0) continue;
        int64_t best = -1;
        for (int64_t k = i + 1; at >= 0; k++) {
            if (t->n[at].value >= 0) {
                best = k;
                *value = t->n[at].value;
            }
            if (k >= n) break;
            at = child_of(t, at, s[k]);
        }
        if (best < 0) continue;
        *begin = i;
        *end = best;
        return true;
    }
    return false;
}
