/* SPDX-License-Identifier: Apache-2.0 */
/* The table of data types, from its X-macro, and sizes of tensors. */
#include "base.h"

#include <strings.h>

static const struct { const char *name; int len, bytes; } table[SY_DTYPE_COUNT] = {
#define ROW(code, name, len, bytes) [code] = {name, len, bytes},
    SY_DTYPE_LIST(ROW)
#undef ROW
};

static bool known(sy_dtype dtype)
{
    return (int)dtype >= 0 && (int)dtype < SY_DTYPE_COUNT;
}

const char *sy_dtype_name(sy_dtype dtype)
{
    return known(dtype) ? table[dtype].name : "unknown";
}

int sy_dtype_find(const char *name)
{
    for (int i = 0; i < SY_DTYPE_COUNT; i++)
        if (strcasecmp(table[i].name, name) == 0) return i;
    return -1;
}

int sy_dtype_block_len(sy_dtype dtype)
{
    return known(dtype) ? table[dtype].len : 1;
}

int sy_dtype_block_bytes(sy_dtype dtype)
{
    return known(dtype) ? table[dtype].bytes : 0;
}

bool sy_dtype_is_float(sy_dtype dtype)
{
    return dtype == SY_F32 || dtype == SY_BF16 || dtype == SY_F16 || dtype == SY_F64;
}

int64_t sy_tensor_count(const sy_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->dim[i];
    return n;
}

int64_t sy_tensor_bytes(const sy_tensor *t)
{
    return sy_tensor_count(t) / sy_dtype_block_len(t->dtype) * sy_dtype_block_bytes(t->dtype);
}

int64_t sy_tensor_rows(const sy_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i + 1 < t->rank; i++) n *= t->dim[i];
    return n;
}

int64_t sy_tensor_cols(const sy_tensor *t)
{
    return t->rank > 0 ? t->dim[t->rank - 1] : 1;
}
