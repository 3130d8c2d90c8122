/* SPDX-License-Identifier: Apache-2.0 */
/* String -> int64: open addressing over XXH3, keys kept in one pool. A table
 * of 150,000 token pieces costs two blocks, not 150,000. */
#include "base.h"

typedef struct {
    int64_t key;   /* offset into the pool, -1: empty */
    uint32_t len;
    uint32_t hash; /* high half: most comparisons end here */
    int64_t value;
} entry;

struct syi_map {
    sy_context *ctx;
    entry *slot;
    int64_t slots, count; /* slots: a power of two, or 0 */
    void *pool;
    int64_t used, cap;
};

sy_status syi_map_new(sy_context *ctx, syi_map **out)
{
    *out = syi_calloc(ctx, 1, sizeof **out);
    if (*out == NULL) return SY_E_MEMORY;
    (*out)->ctx = ctx;
    return SY_OK;
}

void syi_map_free(syi_map *m)
{
    if (m == NULL) return;
    syi_free(m->ctx, m->slot);
    syi_free(m->ctx, m->pool);
    syi_free(m->ctx, m);
}

/* The entry of the key, or the empty one where it belongs. */
static entry *find(const syi_map *m, const char *key, size_t len, uint64_t hash)
{
    uint64_t mask = (uint64_t)m->slots - 1;
    for (uint64_t i = hash & mask;; i = (i + 1) & mask) {
        entry *e = &m->slot[i];
        if (e->key < 0) return e;
        if (e->hash == (uint32_t)(hash >> 32) && e->len == len &&
            (len == 0 || memcmp((char *)m->pool + e->key, key, len) == 0))
            return e;
    }
}

static sy_status enlarge(syi_map *m, int64_t slots)
{
    entry *fresh = syi_calloc(m->ctx, (size_t)slots, sizeof *fresh), *old = m->slot;
    if (fresh == NULL) return SY_E_MEMORY;
    for (int64_t i = 0; i < slots; i++) fresh[i].key = -1;
    int64_t n = m->slots;
    m->slot = fresh;
    m->slots = slots;
    for (int64_t i = 0; i < n; i++) {
        if (old[i].key < 0) continue;
        const char *key = (char *)m->pool + old[i].key;
        *find(m, key, old[i].len, syi_hash64(key, old[i].len, 0)) = old[i];
    }
    syi_free(m->ctx, old);
    return SY_OK;
}

sy_status syi_map_room(syi_map *m, int64_t keys)
{
    int64_t slots = syi_max(16, m->slots);
    while (slots < INT64_MAX / 64 && keys >= slots - slots / 3) slots *= 2;
    return slots > m->slots ? enlarge(m, slots) : SY_OK;
}

sy_status syi_map_set(syi_map *m, const char *key, size_t len, int64_t value)
{
    if (len > UINT32_MAX) return syi_fail(m->ctx, SY_E_INPUT, "a key of %zu bytes is too long", len);
    if (m->count >= m->slots - m->slots / 3) SYI_TRY(enlarge(m, m->slots == 0 ? 16 : m->slots * 2));
    uint64_t hash = syi_hash64(key, len, 0);
    entry *e = find(m, key, len, hash);
    if (e->key < 0) {
        SYI_TRY(syi_grow(m->ctx, &m->pool, &m->cap, m->used + (int64_t)len, 1, INT64_MAX / 2));
        if (len > 0) memcpy((char *)m->pool + m->used, key, len);
        *e = (entry){.key = m->used, .len = (uint32_t)len, .hash = (uint32_t)(hash >> 32)};
        m->used += (int64_t)len;
        m->count++;
    }
    e->value = value;
    return SY_OK;
}

bool syi_map_get(const syi_map *m, const char *key, size_t len, int64_t *value)
{
    if (m->slots == 0 || len > UINT32_MAX) return false;
    const entry *e = find(m, key, len, syi_hash64(key, len, 0));
    if (e->key < 0) return false;
    if (value != NULL) *value = e->value;
    return true;
}

int64_t syi_map_count(const syi_map *m)
{
    return m->count;
}
