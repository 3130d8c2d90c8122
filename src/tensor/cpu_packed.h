/* SPDX-License-Identifier: Apache-2.0 */
/* Products with packed codes: part of cpu_impl.h. A code becomes a number by a shift, a
 * mask and a conversion; the grid's scale is applied once a group, to the vector of its
 * sums, and its offset through the sum of x over the group. */

/* Words of four positions from `quad` on, shifted so that their codes begin at bit 0. */
static inline vu quad_words(const uint32_t *w, int64_t quad, int bits)
{
    const int64_t bit = quad * 4 * bits;
    const int shift = (int)(bit & 31);
    vu v;
    memcpy(&v, w + (bit >> 5) * SYI_LANES, sizeof v);
    v >>= (uint32_t)shift;
    if (shift + 4 * bits > 32) {
        vu next;
        memcpy(&next, w + ((bit >> 5) + 1) * SYI_LANES, sizeof next);
        v |= next << (uint32_t)(32 - shift);
    }
    return v;
}

static inline vf code_values(vu v, int shift, uint32_t mask)
{
    return __builtin_convertvector((vi)((v >> (uint32_t)shift) & mask), vf);
}

/* Of one row: sum += (codes of quads [first, end)) . x, vector-wise, for m rows of x. */
#define PACKED_QUADS(M, BITS, first, end)                                                                     \
    do {                                                                                                      \
        for (int64_t q_ = (first); q_ < (end); q_++)                                                           \
            for (int h_ = 0; h_ < SYI_LANES / VW; h_++) {                                                      \
                const vu v_ = quad_words(words + h_ * VW, q_, BITS);                                           \
                for (int p_ = 0; p_ < 4; p_++) {                                                               \
                    const vf c_ = code_values(v_, p_ * (BITS), (1u << (BITS)) - 1);                            \
                    for (int i_ = 0; i_ < (M); i_++)                                                           \
                        s[i_][p_] += c_ * vload_f32(x + i_ * p->padded + q_ * SYI_QUAD + p_ * SYI_LANES + h_ * VW); \
                }                                                                                              \
            }                                                                                                  \
    } while (0)

/* Single positions [first, end): for groups that are not whole quads. */
#define PACKED_POSITIONS(M, BITS, first, end)                                                                 \
    do {                                                                                                      \
        for (int64_t p_ = (first); p_ < (end); p_++)                                                           \
            for (int h_ = 0; h_ < SYI_LANES / VW; h_++) {                                                      \
                const vu v_ = quad_words(words + h_ * VW, p_ >> 2, BITS) >> (uint32_t)((p_ & 3) * (BITS));     \
                const vf c_ = code_values(v_, 0, (1u << (BITS)) - 1);                                          \
                for (int i_ = 0; i_ < (M); i_++)                                                               \
                    s[i_][0] += c_ * vload_f32(x + i_ * p->padded + p_ * SYI_LANES + h_ * VW);                 \
            }                                                                                                  \
    } while (0)

#define PACKED_ROWS(M, BITS)                                                                                  \
    for (int64_t r = row; r < row + rows; r++) {                                                              \
        const uint32_t *words = p->code + r * p->words;                                                       \
        const float *scale = p->scale + r * p->groups, *offset = p->offset + r * p->groups;                   \
        vf total[M];                                                                                          \
        float rest[M];                                                                                        \
        for (int i = 0; i < (M); i++) {                                                                       \
            total[i] = vset(0);                                                                               \
            rest[i] = 0;                                                                                      \
        }                                                                                                     \
        for (int64_t g = 0; g < p->groups; g++) {                                                             \
            const int64_t from = g * p->group, to = from + p->group < p->padded ? from + p->group : p->padded; \
            vf s[M][4];                                                                                       \
            for (int i = 0; i < (M); i++)                                                                     \
                for (int j = 0; j < 4; j++) s[i][j] = vset(0);                                                \
            if (whole) PACKED_QUADS(M, BITS, from / SYI_QUAD, (to + SYI_QUAD - 1) / SYI_QUAD);                \
            else PACKED_POSITIONS(M, BITS, from / SYI_LANES, to / SYI_LANES);                                 \
            const vf sg = vset(scale[g]);                                                                     \
            for (int i = 0; i < (M); i++) {                                                                   \
                total[i] += sg * ((s[i][0] + s[i][1]) + (s[i][2] + s[i][3]));                                 \
                rest[i] += offset[g] * sums[i * p->groups + g];                                               \
            }                                                                                                 \
        }                                                                                                     \
        for (int i = 0; i < (M); i++) out[i * ldo + r] = vsum(total[i]) + rest[i];                            \
    }

#define PACKED_BITS(BITS)                                                                                     \
    static void packed_##BITS(const syi_packed *p, int m, int64_t row, int64_t rows, const float *x,          \
                              const float *sums, float *out, int64_t ldo)                                     \
    {                                                                                                         \
        const bool whole = p->group % SYI_QUAD == 0 || p->groups == 1;                                        \
        switch (m) {                                                                                          \
        case 1: PACKED_ROWS(1, BITS) break;                                                                   \
        case 2: PACKED_ROWS(2, BITS) break;                                                                   \
        case 3: PACKED_ROWS(3, BITS) break;                                                                   \
        default: PACKED_ROWS(4, BITS) break;                                                                  \
        }                                                                                                     \
    }
PACKED_BITS(2)
PACKED_BITS(3)
PACKED_BITS(4)
PACKED_BITS(8)

static void gemv_packed(const syi_packed *p, int m, int64_t row, int64_t rows, const float *x, const float *sums, float *out, int64_t ldo)
{
    switch (p->bits) {
    case 2: packed_2(p, m, row, rows, x, sums, out, ldo); break;
    case 3: packed_3(p, m, row, rows, x, sums, out, ldo); break;
    case 4: packed_4(p, m, row, rows, x, sums, out, ldo); break;
    default: packed_8(p, m, row, rows, x, sums, out, ldo); break;
    }
}

/* The same numbers as scale * code + offset, each rounded once, whatever the path. */
static void unpack(const syi_packed *p, int64_t row, float *dst)
{
    const uint32_t *words = p->code + row * p->words;
    const uint32_t mask = (1u << p->bits) - 1;
    float buffer[SYI_LANES];
    for (int64_t pos = 0; pos * SYI_LANES < p->in; pos++) {
        const int64_t g = pos * SYI_LANES / p->group, left = p->in - pos * SYI_LANES;
        const float scale = p->scale[row * p->groups + g], offset = p->offset[row * p->groups + g];
        float *to = left >= SYI_LANES ? dst + pos * SYI_LANES : buffer;
        for (int h = 0; h < SYI_LANES / VW; h++) {
            const vu v = quad_words(words + h * VW, pos >> 2, p->bits) >> (uint32_t)((pos & 3) * p->bits);
            vstore_f32(to + h * VW, vset(scale) * code_values(v, 0, mask) + vset(offset));
        }
        if (to == buffer) memcpy(dst + pos * SYI_LANES, buffer, (size_t)left * sizeof *dst);
    }
}
