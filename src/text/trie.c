/* SPDX-License-Identifier: Apache-2.0 */
/* A trie over bytes: added tokens in a text (leftmost first, then the longest) and
 * the pieces of WordPiece and Unigram vocabularies. Edges lie in one hash table, so
 * that a node with thousands of children costs no more than another; most bytes
 * cannot begin an added token, so a table of first bytes decides nearly always. */
#include "text.h"

typedef struct { uint64_t key; int32_t to; } edge; /* key: node << 8 | byte */

struct syi_trie {
    sy_context *ctx;
    edge *edge;
    uint64_t mask;
    int64_t edges;
    int32_t *value;     /* [nodes], -1: nothing ends here                       */
    int64_t nodes, cap;
    int32_t first[256]; /* node of an entry's first byte, -1: none              */
};

enum { NODES_MAX = 1 << 27, NO_EDGE = -1 };

static sy_status fresh(syi_trie *t, int32_t *out)
{
    void *p = t->value;
    sy_status st = syi_grow(t->ctx, &p, &t->cap, t->nodes + 1, sizeof *t->value, NODES_MAX);
    t->value = p;
    if (st != SY_OK) return st;
    t->value[t->nodes] = -1;
    *out = (int32_t)t->nodes++;
    return SY_OK;
}

sy_status syi_trie_new(sy_context *ctx, syi_trie **out)
{
    int32_t root;
    syi_trie *t = *out = syi_calloc(ctx, 1, sizeof *t);
    if (t == NULL) return SY_E_MEMORY;
    t->ctx = ctx;
    for (int i = 0; i < 256; i++) t->first[i] = -1;
    return fresh(t, &root);
}

void syi_trie_free(syi_trie *t)
{
    if (t == NULL) return;
    syi_free(t->ctx, t->edge);
    syi_free(t->ctx, t->value);
    syi_free(t->ctx, t);
}

static edge *slot_of(edge *table, uint64_t mask, uint64_t key)
{
    uint64_t h = key * 0x9E3779B97F4A7C15u;
    uint64_t i = (h ^ h >> 32) & mask;
    while (table[i].to != NO_EDGE && table[i].key != key) i = (i + 1) & mask;
    return &table[i];
}

int32_t syi_trie_step(const syi_trie *t, int32_t at, uint8_t byte)
{
    if (at == 0) return t->first[byte];
    return slot_of(t->edge, t->mask, (uint64_t)(uint32_t)at << 8 | byte)->to;
}

int32_t syi_trie_value(const syi_trie *t, int32_t at)
{
    return t->value[at];
}

static sy_status edge_room(syi_trie *t)
{
    uint64_t slots = t->edge != NULL ? t->mask + 1 : 0;
    if (t->edges * 2 < (int64_t)slots) return SY_OK;
    uint64_t more = slots > 0 ? slots * 2 : 64;
    edge *table = syi_alloc(t->ctx, (size_t)more * sizeof *table);
    if (table == NULL) return SY_E_MEMORY;
    for (uint64_t i = 0; i < more; i++) table[i].to = NO_EDGE;
    for (uint64_t i = 0; i < slots; i++)
        if (t->edge[i].to != NO_EDGE) *slot_of(table, more - 1, t->edge[i].key) = t->edge[i];
    syi_free(t->ctx, t->edge);
    t->edge = table;
    t->mask = more - 1;
    return SY_OK;
}

sy_status syi_trie_add(syi_trie *t, const uint8_t *s, int64_t n, int32_t value)
{
    if (n <= 0) return SY_OK;
    if (t->first[s[0]] < 0) SYI_TRY(fresh(t, &t->first[s[0]]));
    int32_t at = t->first[s[0]];
    SYI_TRY(edge_room(t));
    for (int64_t i = 1; i < n; i++) {
        SYI_TRY(edge_room(t));
        edge *e = slot_of(t->edge, t->mask, (uint64_t)(uint32_t)at << 8 | s[i]);
        if (e->to == NO_EDGE) {
            int32_t to;
            SYI_TRY(fresh(t, &to));
            *e = (edge){(uint64_t)(uint32_t)at << 8 | s[i], to};
            t->edges++;
        }
        at = e->to;
    }
    t->value[at] = value;
    return SY_OK;
}

bool syi_trie_next(const syi_trie *t, const uint8_t *s, int64_t n, int64_t from, int64_t *begin, int64_t *end, int32_t *value)
{
    for (int64_t i = from; i < n; i++) {
        int32_t at = t->first[s[i]];
        if (at < 0) continue;
        int64_t best = -1;
        for (int64_t k = i + 1; at >= 0; k++) {
            if (t->value[at] >= 0) {
                best = k;
                *value = t->value[at];
            }
            if (k >= n) break;
            at = syi_trie_step(t, at, s[k]);
        }
        if (best < 0) continue;
        *begin = i;
        *end = best;
        return true;
    }
    return false;
}
