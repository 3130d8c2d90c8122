/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary embedding, and rows of an embedding table with their gradient. */
#include "tensor/pieces.h"

sy_status syi_rope(syi_engine *e, sy_dtype dt, const void *x, const int32_t *pos, const void *cos_t, const void *sin_t,
                   bool inverse, bool add, void *y, int64_t tokens, int64_t heads, int64_t dim)
{
    const int t = syi_type(dt);
    if (t < 0) return syi_no_type(e, "rope", dt);
    if (dim % 2 != 0) return syi_fail(e->ctx, SY_E_BUG, "rope over %lld numbers a head: must be even", (long long)dim);
    const int64_t z = sy_dtype_block_bytes(dt), row = heads * dim;
    SYI_CUT(e, tokens, syi_piece_rows(row), i, count,
            e->cpu->rope[t](syi_at(x, i * row, z), pos + i, cos_t, sin_t, inverse, add, syi_to(y, i * row, z), count, heads, dim););
    return SY_OK;
}

static sy_status check_ids(syi_engine *e, const int32_t *ids, int64_t tokens, int64_t vocab)
{
    for (int64_t i = 0; i < tokens; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return syi_fail(e->ctx, SY_E_BUG, "token %lld has id %d, outside of the table's %lld rows", (long long)i, (int)ids[i], (long long)vocab);
    return SY_OK;
}

sy_status syi_embed(syi_engine *e, sy_dtype tt, const void *table, int64_t vocab, const int32_t *ids, sy_dtype dt, void *y, int64_t tokens, int64_t cols)
{
    if (syi_type(dt) < 0) return syi_no_type(e, "embed", dt);
    SYI_TRY(check_ids(e, ids, tokens, vocab));
    const int64_t z = sy_dtype_block_bytes(dt), row = cols / sy_dtype_block_len(tt) * sy_dtype_block_bytes(tt);
    sy_status status = SY_OK;
    if (tt == dt || (syi_type(tt) >= 0 && tt != SY_F64 && dt != SY_F64)) {
        SYI_CUT(e, tokens, syi_piece_rows(cols), first, count,
            for (int64_t i = first; i < first + count; i++) {
                const void *from = (const char *)table + ids[i] * row;
                void *to = syi_to(y, i * cols, z);
                if (tt == dt) memcpy(to, from, (size_t)row);
                else if (dt == SY_F32) e->cpu->from_bf16(from, to, cols);
                else e->cpu->to_bf16(from, to, cols);
            });
        return SY_OK;
    }
    for (int64_t i = 0; i < tokens && status == SY_OK; i++)
        status = syi_cast(e, tt, (const char *)table + ids[i] * row, dt, syi_to(y, i * cols, z), cols);
    return status;
}

/* Threads share the columns; each adds its columns of all rows in token order. */
sy_status syi_embed_grad(syi_engine *e, sy_dtype dt, const void *dy, const int32_t *ids, void *dtable, int64_t vocab, int64_t tokens, int64_t cols)
{
    const int t = syi_type(dt);
    if (t < 0) return syi_no_type(e, "embed", dt);
    SYI_TRY(check_ids(e, ids, tokens, vocab));
    const int64_t z = sy_dtype_block_bytes(dt), zs = t == SYI_T_F64 ? 8 : 4;
    SYI_CUT(e, cols, 64, c, count,
        for (int64_t i = 0; i < tokens; i++) {
            const void *from = syi_at(dy, i * cols + c, z);
            void *to = syi_to(dtable, ids[i] * cols + c, zs);
            if (t == SYI_T_F64) e->cpu->axpy[t](1, from, true, to, count);
            else e->cpu->accumulate[t][SYI_T_F32](from, to, count);
        });
    return SY_OK;
}
