/* SPDX-License-Identifier: Apache-2.0 */
/* IEEE halves to f32 and back, and loads that need no alignment: for files that go
 * through stored numbers one by one. Branch-free, so that loops over them vectorise. */
#ifndef SYI_HALF_H
#define SYI_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint16_t syi_load16(const void *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t syi_load32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline float syi_as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t syi_as_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

/* Of the subnormals: m | 0x3f000000 is 0.5 + m * 2^-24, exact for m < 2^10, since
 * the last place of numbers from 0.5 on is 2^-24, half's smallest step. Adding
 * 0.5 to round into it is the same thing backwards. */
static inline float syi_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, m = h & 0x7fffu;
    uint32_t normal = (m << 13) + (112u << 23);
    uint32_t top = (m << 13) | 0x7f800000u;                       /* inf, NaN */
    uint32_t tiny = syi_as_bits(syi_as_float(m | 0x3f000000u) - 0.5f);    /* m * 2^-24 */
    uint32_t u = m >= 0x7c00u ? top : m < 0x0400u ? tiny : normal;
    return syi_as_float(u | sign);
}

static inline uint16_t syi_float_to_half(float f)
{
    uint32_t u = syi_as_bits(f), sign = (u >> 16) & 0x8000u, m = u & 0x7fffffffu;
    uint32_t normal = (m - (112u << 23) + 0x0fffu + ((m >> 13) & 1u)) >> 13;
    uint32_t tiny = syi_as_bits(syi_as_float(m) + 0.5f) - 0x3f000000u;    /* the addition rounds */
    uint32_t nan = 0x7e00u | ((m >> 13) & 0x03ffu);
    uint32_t h = m > 0x7f800000u ? nan : m >= 0x47800000u ? 0x7c00u : m < 0x38800000u ? tiny : normal;
    return (uint16_t)(h | sign);
}

#endif
