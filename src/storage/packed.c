/* SPDX-License-Identifier: Apache-2.0 */
/* Uniform grids of 2, 3, 4 or 8 bits with a scale and a zero for each group of inputs:
 * what rounding, GPTQ and AWQ make. Files hold plain strings of bits; products read codes
 * from lanes (tensor/packed.h), which prepare lays out once. */
#include "storage/weight.h"

#include "graph/ops.h"
#include "tensor/packed.h"

typedef struct { syi_packed lanes; int32_t *order; sy_context *ctx; } fast;

syi_packed_shape syi_packed_shape_of(const sy_weight *w)
{
    const int32_t *p = w->slot[SYI_PACKED_PACKING].data;
    syi_packed_shape s = {.bits = p[0], .group = p[1]};
    s.groups = syi_ceil_div(w->in, s.group);
    s.row_bytes = syi_ceil_div(w->in * s.bits, 8);
    return s;
}

sy_status syi_weight_packed(sy_context *ctx, int64_t out, int64_t in, int bits, int64_t group, bool order, sy_weight **w)
{
    SYI_TRY(syi_weight_new(ctx, &sy_storage_packed, out, in, w));
    if (group <= 0 || group > in) group = in;
    const int64_t groups = syi_ceil_div(in, group), four = 4;
    sy_status st = syi_weight_slot(ctx, *w, SYI_PACKED_CODES, SY_U8, 2, (const int64_t[]){out, syi_ceil_div(in * bits, 8)});
    if (st == SY_OK) st = syi_weight_slot(ctx, *w, SYI_PACKED_SCALES, SY_F16, 2, (const int64_t[]){out, groups});
    if (st == SY_OK) st = syi_weight_slot(ctx, *w, SYI_PACKED_ZEROS, SY_U8, 2, (const int64_t[]){out, groups});
    if (st == SY_OK) st = syi_weight_slot(ctx, *w, SYI_PACKED_PACKING, SY_I32, 1, &four);
    if (st == SY_OK && order) st = syi_weight_slot(ctx, *w, SYI_PACKED_ORDER, SY_I32, 1, &in);
    if (st != SY_OK) {
        syi_weight_free(ctx, *w);
        *w = NULL;
        return st;
    }
    int32_t *p = (*w)->slot[SYI_PACKED_PACKING].data, *o = (*w)->slot[SYI_PACKED_ORDER].data;
    p[0] = bits;
    p[1] = (int32_t)group;
    p[2] = (int32_t)in;
    for (int64_t k = 0; o && k < in; k++) o[k] = (int32_t)k;
    return SY_OK;
}

void syi_packed_put(sy_weight *w, int64_t row, const uint8_t *codes)
{
    const syi_packed_shape s = syi_packed_shape_of(w);
    uint8_t *to = (uint8_t *)w->slot[SYI_PACKED_CODES].data + row * s.row_bytes;
    uint32_t held = 0;
    int n = 0;
    for (int64_t k = 0; k < w->in; k++) {
        held |= (uint32_t)codes[k] << n;
        for (n += s.bits; n >= 8; n -= 8, held >>= 8) *to++ = (uint8_t)held;
    }
    if (n > 0) *to = (uint8_t)held;
}

void syi_packed_get(const sy_weight *w, int64_t row, uint8_t *codes)
{
    const syi_packed_shape s = syi_packed_shape_of(w);
    const uint8_t *from = (const uint8_t *)w->slot[SYI_PACKED_CODES].data + row * s.row_bytes;
    const uint32_t mask = (1u << s.bits) - 1;
    uint32_t held = 0;
    int n = 0;
    for (int64_t k = 0; k < w->in; k++) {
        if (n < s.bits) {
            held |= (uint32_t)*from++ << n;
            n += 8;
        }
        codes[k] = (uint8_t)(held & mask);
        held >>= s.bits;
        n -= s.bits;
    }
}

/* -- checking and laying out ------------------------------------------------------------- */

static bool has(const sy_weight *w, int slot, sy_dtype dtype, int rank, int64_t d0, int64_t d1)
{
    const sy_tensor *t = &w->slot[slot];
    return t->dtype == dtype && t->rank == rank && t->dim[0] == d0 && (rank < 2 || t->dim[1] == d1);
}

static sy_status wrong(sy_context *ctx, const sy_weight *w, const char *what)
{
    return syi_fail(ctx, SY_E_INPUT, "%s: packed weight of [%lld, %lld]: %s; the file is damaged or of another version", w->name ? w->name : "weight",
                    (long long)w->out, (long long)w->in, what);
}

static sy_status check(sy_context *ctx, const sy_weight *w)
{
    if (!has(w, SYI_PACKED_PACKING, SY_I32, 1, 4, 0) || !w->slot[SYI_PACKED_PACKING].data) return wrong(ctx, w, ".packing is not I32 [4]");
    const int32_t *p = w->slot[SYI_PACKED_PACKING].data;
    if (p[0] != 2 && p[0] != 3 && p[0] != 4 && p[0] != 8) return wrong(ctx, w, "bits are not 2, 3, 4 or 8");
    if (p[1] < 1 || p[1] > w->in || (p[1] % 32 != 0 && p[1] != w->in)) return wrong(ctx, w, "groups are no multiple of 32 inputs");
    if (p[2] != w->in) return wrong(ctx, w, "it has another number of inputs");
    const syi_packed_shape s = syi_packed_shape_of(w);
    if (!has(w, SYI_PACKED_CODES, SY_U8, 2, w->out, s.row_bytes)) return wrong(ctx, w, ".codes has another shape");
    if (!has(w, SYI_PACKED_SCALES, SY_F16, 2, w->out, s.groups)) return wrong(ctx, w, ".scales has another shape");
    if (!has(w, SYI_PACKED_ZEROS, SY_U8, 2, w->out, s.groups)) return wrong(ctx, w, ".zeros has another shape");
    const sy_tensor *o = &w->slot[SYI_PACKED_ORDER];
    if (!o->data) return SY_OK;
    if (!has(w, SYI_PACKED_ORDER, SY_I32, 1, w->in, 0)) return wrong(ctx, w, ".order has another shape");
    uint8_t *seen = syi_calloc(ctx, (size_t)w->in, 1);
    if (!seen) return SY_E_MEMORY;
    bool ok = true;
    for (int64_t k = 0; k < w->in; k++) {
        const int32_t at = ((const int32_t *)o->data)[k];
        if (at < 0 || at >= w->in || seen[at]++) ok = false;
        if (!ok) break;
    }
    syi_free(ctx, seen);
    return ok ? SY_OK : wrong(ctx, w, ".order is no permutation");
}

static void release(sy_context *ctx, sy_weight *w)
{
    fast *f = w->fast;
    if (!f) return;
    syi_packed_free(ctx, &f->lanes);
    syi_free(ctx, f);
    w->fast = NULL;
}

static sy_status prepare(sy_context *ctx, sy_weight *w)
{
    SYI_TRY(check(ctx, w));
    const syi_packed_shape s = syi_packed_shape_of(w);
    fast *f = w->fast = syi_calloc(ctx, 1, sizeof *f);
    uint8_t *codes = syi_alloc(ctx, (size_t)w->in);
    sy_status st = f && codes ? syi_packed_new(ctx, w->out, w->in, s.bits, s.group == w->in ? 0 : s.group, &f->lanes) : SY_E_MEMORY;
    for (int64_t r = 0; r < w->out && st == SY_OK; r++) {
        syi_packed_get(w, r, codes);
        syi_packed_row(&f->lanes, r, codes);
        const uint8_t *zero = (const uint8_t *)w->slot[SYI_PACKED_ZEROS].data + r * s.groups;
        float *scale = f->lanes.scale + r * s.groups, *offset = f->lanes.offset + r * s.groups;
        st = sy_to_f32(ctx, SY_F16, (const uint16_t *)w->slot[SYI_PACKED_SCALES].data + r * s.groups, scale, s.groups);
        for (int64_t g = 0; g < s.groups; g++) offset[g] = -scale[g] * (float)zero[g]; /* exact: 11 + 8 bits */
    }
    syi_free(ctx, codes);
    if (st != SY_OK) {
        release(ctx, w);
        return st;
    }
    f->order = w->slot[SYI_PACKED_ORDER].data;
    f->ctx = ctx;
    return SY_OK;
}

/* -- products --------------------------------------------------------------------------------- */

static sy_status rows(syi_engine *e, const void *self, int64_t row, int64_t n, float *dst)
{
    const fast *f = self;
    if (!f->order) {
        syi_packed_dense(e, &f->lanes, row, n, dst);
        return SY_OK;
    }
    float *stored = syi_alloc(f->ctx, (size_t)f->lanes.in * sizeof *stored);
    if (!stored) return SY_E_MEMORY;
    for (int64_t r = 0; r < n; r++) {
        syi_packed_dense(e, &f->lanes, row + r, 1, stored);
        for (int64_t k = 0; k < f->lanes.in; k++) dst[r * f->lanes.in + f->order[k]] = stored[k];
    }
    syi_free(f->ctx, stored);
    return SY_OK;
}

static sy_status few(syi_engine *e, const void *self, int64_t m, const float *x, float *y)
{
    const fast *f = self;
    if (!f->order) return syi_packed_few(e, &f->lanes, m, x, y);
    const int64_t in = f->lanes.in;
    float *sorted = syi_alloc(f->ctx, (size_t)(m * in) * sizeof *sorted);
    if (!sorted) return SY_E_MEMORY;
    for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k < in; k++) sorted[i * in + k] = x[i * in + f->order[k]];
    const sy_status st = syi_packed_few(e, &f->lanes, m, sorted, y);
    syi_free(f->ctx, sorted);
    return st;
}

static sy_node *apply(sy_graph *g, const sy_weight *w, sy_node *x, bool transposed)
{
    return syi_op_stored(g, x, &(syi_stored){.self = w->fast, .out = w->out, .in = w->in, .rows = rows, .few = few}, transposed);
}

static sy_status dense(sy_context *ctx, const sy_weight *w, int64_t row, int64_t n, float *dst)
{
    const syi_packed_shape s = syi_packed_shape_of(w);
    const int32_t *order = w->slot[SYI_PACKED_ORDER].data;
    uint8_t *codes = syi_alloc(ctx, (size_t)w->in);
    float *scale = syi_alloc(ctx, (size_t)s.groups * sizeof *scale);
    sy_status st = codes && scale ? SY_OK : SY_E_MEMORY;
    for (int64_t r = row; r < row + n && st == SY_OK; r++) {
        const uint8_t *zero = (const uint8_t *)w->slot[SYI_PACKED_ZEROS].data + r * s.groups;
        syi_packed_get(w, r, codes);
        st = sy_to_f32(ctx, SY_F16, (const uint16_t *)w->slot[SYI_PACKED_SCALES].data + r * s.groups, scale, s.groups);
        for (int64_t k = 0; k < w->in; k++)
            dst[(r - row) * w->in + (order ? order[k] : k)] = scale[k / s.group] * (float)(codes[k] - zero[k / s.group]);
    }
    syi_free(ctx, codes);
    syi_free(ctx, scale);
    return st;
}

static double bits(const sy_weight *w) { return 8.0 * (double)syi_weight_bytes(w) / (double)syi_max(1, w->out * w->in); }

static const char *const suffixes[] = {".codes", ".scales", ".zeros", ".packing", ".order", NULL};

const sy_storage sy_storage_packed = {.name = "packed", .title = "codes of 2, 3, 4 or 8 bits with a scale and a zero a group", .apply = apply,
    .dense = dense, .bits = bits, .suffixes = suffixes, .prepare = prepare, .release = release};
