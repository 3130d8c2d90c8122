/* SPDX-License-Identifier: Apache-2.0 */
/* Which type a tensor gets in a GGUF file that was asked for in one type.
 *
 * The rules that users of GGUF know: vectors (norms, biases) and small tables (positions)
 * stay F32; the embedding and the head keep at least 6 bits, because every token passes
 * them; where rows are no whole blocks of the type, the next larger type whose blocks fit
 * is taken: Q4_K -> Q5_0, Q6_K -> Q8_0, and below 32 numbers a row F16. */
#include "gguf.h"

static sy_dtype fitting(sy_dtype t, int64_t cols)
{
    while (cols % sy_dtype_block_len(t) != 0) {
        switch ((int)t) {
        case SY_Q2_K: case SY_Q3_K: case SY_Q4_K: t = SY_Q5_0; break;
        case SY_Q5_K: case SY_Q6_K: case SY_Q8_K: t = SY_Q8_0; break;
        default: t = SY_F16; /* plain types always fit */
        }
    }
    return t;
}

static double bits_of(sy_dtype t)
{
    return 8.0 * sy_dtype_block_bytes(t) / sy_dtype_block_len(t);
}

syi_gguf_choice syi_gguf_choose(int asked, const sy_entry *e, const sy_arch_tensor *row)
{
    const sy_dtype t = asked >= 0 ? (sy_dtype)asked : e->dtype;
    const int64_t cols = e->rank > 0 ? e->dim[e->rank - 1] : 1;
    const bool outer = row != NULL && (row->role == SY_ROLE_EMBED || row->role == SY_ROLE_HEAD);
    const bool matrix = row == NULL || outer || (row->flags & (SY_TENSOR_LINEAR | SY_TENSOR_EMBED)) != 0;
    const bool table = row != NULL && !outer && (row->flags & SY_TENSOR_EMBED) != 0; /* of positions or kinds: loaders add its rows to F32 */
    if (e->rank < 2 || t == SY_F64 || table) return (syi_gguf_choice){SY_F32, SYI_GGUF_VECTOR};
    if (sy_dtype_block_len(t) == 1 || asked < 0) return (syi_gguf_choice){t, SYI_GGUF_AS_ASKED};
    if (!matrix) return (syi_gguf_choice){SY_F32, SYI_GGUF_VECTOR};
    const sy_dtype want = outer && bits_of(t) < bits_of(SY_Q6_K) ? SY_Q6_K : t, fit = fitting(want, cols);
    return (syi_gguf_choice){fit, want != t ? SYI_GGUF_OUTER : fit != t ? SYI_GGUF_ROWS : SYI_GGUF_AS_ASKED};
}

const char *syi_gguf_why(syi_gguf_reason why)
{
    static const char *const text[] = {"as asked", "vectors and small tables", "embedding and head keep 6 bits or more",
                                       "rows are no whole blocks of the type asked for"};
    return text[why];
}

/* general.file_type: a label; tools show it, nothing depends on it. */
uint32_t syi_gguf_file_type(sy_dtype t)
{
    static const struct { sy_dtype dtype; uint32_t number; } rows[] = {
        {SY_F32, 0},   {SY_F16, 1},   {SY_Q4_0, 2},  {SY_Q4_1, 3},   {SY_Q8_0, 7},    {SY_Q5_0, 8},    {SY_Q5_1, 9},
        {SY_Q2_K, 10}, {SY_Q3_K, 11}, {SY_Q4_K, 14}, {SY_Q5_K, 16},  {SY_Q6_K, 18},   {SY_IQ4_NL, 25}, {SY_IQ4_XS, 30},
        {SY_BF16, 32}, {SY_TQ1_0, 36}, {SY_TQ2_0, 37}, {SY_MXFP4, 38}};
    for (int i = 0; i < SYI_COUNT(rows); i++)
        if (rows[i].dtype == t) return rows[i].number;
    return 0;
}
