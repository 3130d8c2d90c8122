/* SPDX-License-Identifier: Apache-2.0 */
/* A weight as a product of two: W = V U, U [k, in] dense, V [out, k] dense (low rank) or
 * sparse (a bitmap and the values that it marks, row by row). */
#include "storage/weight.h"

#include "graph/ops.h"

enum { U, V, VALUES, BITMAP };

/* Where the values of each row of V begin. */
typedef struct { int64_t out, k; const sy_tensor *values; const uint8_t *bitmap; int64_t row_bytes; int64_t *first; } fast;

sy_status syi_weight_factored(sy_context *ctx, int64_t out, int64_t in, int64_t k, int64_t nnz, sy_dtype dtype, sy_weight **w)
{
    SYI_TRY(syi_weight_new(ctx, &sy_storage_factored, out, in, w));
    sy_status st = syi_weight_slot(ctx, *w, U, dtype, 2, (const int64_t[]){k, in});
    if (st == SY_OK && nnz < 0) st = syi_weight_slot(ctx, *w, V, dtype, 2, (const int64_t[]){out, k});
    if (st == SY_OK && nnz >= 0) st = syi_weight_slot(ctx, *w, VALUES, dtype, 1, &nnz);
    if (st == SY_OK && nnz >= 0) st = syi_weight_slot(ctx, *w, BITMAP, SY_U8, 2, (const int64_t[]){out, syi_ceil_div(k, 8)});
    if (st == SY_OK) return SY_OK;
    syi_weight_free(ctx, *w);
    *w = NULL;
    return st;
}

sy_status syi_factored_fill(sy_context *ctx, sy_weight *w, const float *u, const float *v)
{
    const int64_t k = w->slot[U].dim[0], row_bytes = syi_ceil_div(k, 8);
    SYI_TRY(sy_from_f32(ctx, w->slot[U].dtype, u, w->slot[U].data, k * w->in));
    if (w->slot[V].data) return sy_from_f32(ctx, w->slot[V].dtype, v, w->slot[V].data, w->out * k);
    uint8_t *bits = w->slot[BITMAP].data;
    const int size = sy_dtype_block_bytes(w->slot[VALUES].dtype);
    int64_t n = 0;
    for (int64_t r = 0; r < w->out; r++)
        for (int64_t i = 0; i < k; i++) {
            if (v[r * k + i] == 0) continue;
            if (n == w->slot[VALUES].dim[0]) return syi_fail(ctx, SY_E_BUG, "sparse factor: more values than announced");
            bits[r * row_bytes + i / 8] |= (uint8_t)(1 << (i % 8));
            SYI_TRY(sy_from_f32(ctx, w->slot[VALUES].dtype, &v[r * k + i], (char *)w->slot[VALUES].data + n++ * size, 1));
        }
    return SY_OK;
}

static sy_status wrong(sy_context *ctx, const sy_weight *w, const char *what)
{
    return syi_fail(ctx, SY_E_INPUT, "%s: factored weight of [%lld, %lld]: %s; the file is damaged or of another version", w->name ? w->name : "weight", (long long)w->out,
                    (long long)w->in, what);
}

static void release(sy_context *ctx, sy_weight *w)
{
    fast *f = w->fast;
    if (f) syi_free(ctx, f->first);
    syi_free(ctx, f);
    w->fast = NULL;
}

static bool plain(sy_dtype t) { return t == SY_F32 || t == SY_BF16; }

static sy_status count_rows(sy_context *ctx, sy_weight *w, fast *f)
{
    f->first = syi_alloc(ctx, (size_t)(w->out + 1) * sizeof *f->first);
    if (!f->first) return SY_E_MEMORY;
    int64_t n = 0;
    for (int64_t r = 0; r < w->out; r++) {
        f->first[r] = n;
        for (int64_t i = 0; i < f->row_bytes; i++) n += __builtin_popcount(f->bitmap[r * f->row_bytes + i]);
        if (f->k % 8 && f->bitmap[(r + 1) * f->row_bytes - 1] >> (f->k % 8)) return wrong(ctx, w, ".v_bitmap marks what is beyond the last row of .u");
    }
    f->first[w->out] = n;
    return n == f->values->dim[0] ? SY_OK : wrong(ctx, w, ".v_bitmap does not mark as many values as there are");
}

static sy_status prepare(sy_context *ctx, sy_weight *w)
{
    const sy_tensor *u = &w->slot[U], *v = &w->slot[V], *values = &w->slot[VALUES], *bitmap = &w->slot[BITMAP];
    if (!u->data || u->rank != 2 || u->dim[1] != w->in || !plain(u->dtype)) return wrong(ctx, w, ".u is not [k, in] of F32 or BF16");
    fast *f = w->fast = syi_calloc(ctx, 1, sizeof *f);
    if (!f) return SY_E_MEMORY;
    *f = (fast){.out = w->out, .k = u->dim[0], .values = values, .bitmap = bitmap->data, .row_bytes = syi_ceil_div(u->dim[0], 8)};
    sy_status st = SY_OK;
    if (v->data) {
        if (v->rank != 2 || v->dim[0] != w->out || v->dim[1] != f->k || !plain(v->dtype)) st = wrong(ctx, w, ".v is not [out, k]");
    } else if (!values->data || values->rank != 1 || !plain(values->dtype) || !bitmap->data || bitmap->dtype != SY_U8 || bitmap->rank != 2 || bitmap->dim[0] != w->out || bitmap->dim[1] != f->row_bytes) {
        st = wrong(ctx, w, "neither .v nor .v_values with .v_bitmap fits");
    } else {
        st = count_rows(ctx, w, f);
    }
    if (st != SY_OK) release(ctx, w);
    return st;
}

static inline float value(const sy_tensor *t, int64_t i)
{
    if (t->dtype == SY_F32) return ((const float *)t->data)[i];
    union { uint32_t u; float f; } x = {(uint32_t)((const uint16_t *)t->data)[i] << 16};
    return x.f;
}

/* Rows of the sparse V. */
static sy_status v_rows(syi_engine *e, const void *self, int64_t row, int64_t n, float *dst)
{
    const fast *f = self;
    (void)e;
    memset(dst, 0, (size_t)(n * f->k) * sizeof *dst);
    for (int64_t r = row; r < row + n; r++) {
        int64_t at = f->first[r];
        for (int64_t b = 0; b < f->row_bytes; b++)
            for (unsigned bits = f->bitmap[r * f->row_bytes + b]; bits; bits &= bits - 1) dst[(r - row) * f->k + b * 8 + __builtin_ctz(bits)] = value(f->values, at++);
    }
    return SY_OK;
}

/* A few rows of x against the marked values only. */
static sy_status v_few(syi_engine *e, const void *self, int64_t m, const float *x, float *y)
{
    const fast *f = self;
#pragma omp parallel for schedule(static) num_threads(syi_omp(syi_engine_context(e))) if (f->out * f->k > 65536)
    for (int64_t r = 0; r < f->out; r++) {
        int64_t at = f->first[r];
        float sum[SYI_FEW] = {0};
        for (int64_t b = 0; b < f->row_bytes; b++)
            for (unsigned bits = f->bitmap[r * f->row_bytes + b]; bits; bits &= bits - 1) {
                const float v = value(f->values, at++);
                const int64_t i = b * 8 + __builtin_ctz(bits);
                for (int64_t j = 0; j < m; j++) sum[j] += v * x[j * f->k + i];
            }
        for (int64_t j = 0; j < m; j++) y[j * f->out + r] = sum[j];
    }
    return SY_OK;
}

static sy_node *apply(sy_graph *g, const sy_weight *w, sy_node *x, bool transposed)
{
    const fast *f = w->fast;
    const syi_stored v = {.self = f, .out = w->out, .in = w->slot[U].dim[0], .rows = v_rows, .few = v_few};
    for (int i = transposed ? 1 : 0, step = 0; step < 2; step++, i = 1 - i) {
        if (i == 0) x = syi_op_linear(g, x, sy_const(g, &w->slot[U]), transposed);
        else x = w->slot[V].data ? syi_op_linear(g, x, sy_const(g, &w->slot[V]), transposed) : syi_op_stored(g, x, &v, transposed);
    }
    return x;
}

static sy_status dense(sy_context *ctx, const sy_weight *w, int64_t row, int64_t n, float *dst)
{
    const sy_tensor *u = &w->slot[U], *v = &w->slot[V], *values = &w->slot[VALUES];
    const int64_t k = u->dim[0], in = w->in, row_bytes = syi_ceil_div(k, 8);
    const uint8_t *bitmap = w->slot[BITMAP].data;
    float *uf = syi_alloc(ctx, (size_t)(k * in) * sizeof *uf);
    int64_t *first = syi_alloc(ctx, (size_t)(n + 1) * sizeof *first);
    sy_status st = uf && first ? sy_to_f32(ctx, u->dtype, u->data, uf, k * in) : SY_E_MEMORY;
    int64_t at = 0;
    for (int64_t r = 0; st == SY_OK && !v->data && r < row + n; r++) {
        if (r >= row) first[r - row] = at;
        for (int64_t i = 0; i < row_bytes; i++) at += __builtin_popcount(bitmap[r * row_bytes + i]);
    }
#pragma omp parallel for schedule(static) num_threads(syi_omp(ctx)) if (n * k > 65536)
    for (int64_t r = 0; r < (st == SY_OK ? n : 0); r++) {
        float *to = dst + r * in;
        int64_t next = v->data ? 0 : first[r];
        memset(to, 0, (size_t)in * sizeof *to);
        for (int64_t i = 0; i < k; i++) {
            float a;
            if (v->data) a = value(v, (row + r) * k + i);
            else if (bitmap[(row + r) * row_bytes + i / 8] >> (i % 8) & 1) a = value(values, next++);
            else continue;
            for (int64_t j = 0; j < in; j++) to[j] += a * uf[i * in + j];
        }
    }
    syi_free(ctx, uf);
    syi_free(ctx, first);
    return st;
}

static double bits(const sy_weight *w) { return 8.0 * (double)syi_weight_bytes(w) / (double)syi_max(1, w->out * w->in); }

static const char *const suffixes[] = {".u", ".v", ".v_values", ".v_bitmap", NULL};

const sy_storage sy_storage_factored = {.name = "factored", .title = "a product of a dense and a dense or sparse matrix", .apply = apply, .dense = dense, .bits = bits,
    .suffixes = suffixes, .prepare = prepare, .release = release};
