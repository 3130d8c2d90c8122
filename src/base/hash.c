/* SPDX-License-Identifier: Apache-2.0 */
/* Content hashes (XXH3 of 128 bits, for receipts and comparisons) and CRC-32C
 * (Castagnoli), which TensorBoard's event files ask for. */
#define XXH_STATIC_LINKING_ONLY /* the size of the streaming state */
#include "base.h"

#include <xxhash.h>

static syi_hash from_xxh(XXH128_hash_t h)
{
    return (syi_hash){.lo = h.low64, .hi = h.high64};
}

syi_hash syi_hash_bytes(const void *p, size_t n)
{
    return from_xxh(XXH3_128bits(p, n));
}

uint64_t syi_hash64(const void *p, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(p, n, seed);
}

struct syi_hasher {
    XXH3_state_t state; /* wants 64-byte alignment, which syi_alloc gives */
    sy_context *ctx;
};

sy_status syi_hasher_new(sy_context *ctx, syi_hasher **out)
{
    *out = syi_calloc(ctx, 1, sizeof **out);
    if (*out == NULL) return SY_E_MEMORY;
    (*out)->ctx = ctx;
    XXH3_128bits_reset(&(*out)->state);
    return SY_OK;
}

void syi_hasher_add(syi_hasher *h, const void *p, size_t n)
{
    if (n > 0) XXH3_128bits_update(&h->state, p, n);
}

syi_hash syi_hasher_end(syi_hasher *h)
{
    syi_hash hash = from_xxh(XXH3_128bits_digest(&h->state));
    syi_free(h->ctx, h);
    return hash;
}

char *syi_hash_text(char buf[33], syi_hash h)
{
    snprintf(buf, 33, "%016llx%016llx", (unsigned long long)h.hi, (unsigned long long)h.lo);
    return buf;
}

uint32_t syi_crc32c(const void *p, size_t n)
{
    /* crc of each half byte, polynomial 0x82f63b78 (reflected 0x1edc6f41) */
    static const uint32_t nibble[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    const unsigned char *s = p;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        crc ^= s[i];
        crc = crc >> 4 ^ nibble[crc & 15];
        crc = crc >> 4 ^ nibble[crc & 15];
    }
    return crc ^ 0xffffffffu;
}
