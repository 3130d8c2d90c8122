/* SPDX-License-Identifier: Apache-2.0 */
/* The solver with uniform grids: orders of work, groups fitted on the way or beforehand,
 * and the packed weight that comes out. */
#include "compressor/solve.h"

#include "tensor/engine.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

/* -- orders ------------------------------------------------------------------------------ */

typedef struct { double key; int32_t index; } ranked;

static int falling(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

sy_status syi_order_make(sy_context *ctx, syi_order how, int64_t in, int64_t group, const double *xx, int32_t *order)
{
    ranked *r = syi_alloc(ctx, (size_t)in * 2 * sizeof *r);
    if (!r) return SY_E_MEMORY;
    for (int64_t j = 0; j < in; j++) order[j] = (int32_t)j;
    for (int64_t j = 0; j < in; j++) r[j] = (ranked){xx[j * in + j], (int32_t)j};
    if (how == SYI_ORDER_ACT || how == SYI_ORDER_STATIC) {
        qsort(r, (size_t)in, sizeof *r, falling);
        for (int64_t q = 0; q < in; q++) order[q] = r[q].index;
    } else if (how == SYI_ORDER_GROUPS) {
        /* whole groups by their largest; a short last one stays last, or groups would not begin at multiples */
        if (group <= 0 || group > in) group = in;
        const int64_t whole = in / group;
        ranked *g = r + in;
        for (int64_t k = 0; k * group < in; k++) qsort(r + k * group, (size_t)syi_min(group, in - k * group), sizeof *r, falling);
        for (int64_t k = 0; k < whole; k++) g[k] = (ranked){r[k * group].key, (int32_t)k};
        qsort(g, (size_t)whole, sizeof *g, falling);
        for (int64_t k = 0; k < whole; k++)
            for (int64_t j = 0; j < group; j++) order[k * group + j] = r[g[k].index * group + j].index;
        for (int64_t q = whole * group; q < in; q++) order[q] = r[q].index;
    }
    syi_free(ctx, r);
    return SY_OK;
}

/* -- the grid ------------------------------------------------------------------------------- */

typedef struct {
    syi_engine *e;
    const syi_grid *grid;
    int64_t out, in, group, groups;
    const int32_t *order;    /* column of work -> input, NULL: the same                    */
    bool by_input;           /* groups are of inputs (fitted beforehand), not of columns   */
    float top;
    float *scale, *zero;     /* [groups, out]                                              */
    uint8_t *code;           /* [in, out], column of work by column                        */
} uniform;

static int64_t group_of(const uniform *u, int64_t col) { return (u->by_input && u->order ? u->order[col] : col) / u->group; }

static void begin(void *self, int64_t first, int64_t n, int64_t row, int64_t rows, const float *w, int64_t ld)
{
    uniform *u = self;
    const int64_t g = first / u->group;
    for (int64_t i = 0; i < rows; i++) syi_grid_fit(u->e, u->grid, w + i * ld, n, &u->scale[g * u->out + row + i], &u->zero[g * u->out + row + i]);
}

static void column(void *self, int64_t col, int64_t row, int64_t n, const float *v, float *value)
{
    uniform *u = self;
    const int64_t g = group_of(u, col) * u->out + row;
    u->e->cpu->grid_round(n, v, u->scale + g, u->zero + g, u->top, u->code + col * u->out + row, value);
}

static void range(const void *self, int64_t col, int64_t row, int64_t n, float *low, float *high)
{
    const uniform *u = self;
    const int64_t g = group_of(u, col);
    for (int64_t i = 0; i < n; i++) {
        const float s = u->scale[g * u->out + row + i], z = u->zero[g * u->out + row + i];
        low[i] = -s * z;
        high[i] = s * (u->top - z);
    }
}

/* -- from codes to a packed weight ------------------------------------------------------------- */

/* How code k of a row and group g are found among columns of work. */
static sy_status pack(sy_context *ctx, const uniform *u, syi_order how, sy_weight **take)
{
    enum { ROWS = 64 }; /* codes lie column by column: rows are gathered a cache line at a time */
    const bool keep = how == SYI_ORDER_ACT; /* groups follow the order of work, which is stored */
    const int threads = syi_omp(ctx);
    SYI_TRY(syi_weight_packed(ctx, u->out, u->in, u->grid->bits, u->group, keep, take));
    uint8_t *codes = syi_alloc(ctx, (size_t)(threads * ROWS * u->in));
    int64_t *place = syi_alloc(ctx, (size_t)u->in * sizeof *place); /* column of work of stored code k */
    if (!codes || !place) {
        syi_free(ctx, codes);
        syi_free(ctx, place);
        return SY_E_MEMORY;
    }
    for (int64_t q = 0; q < u->in; q++) place[keep || !u->order ? q : u->order[q]] = q;
    if (keep) memcpy((*take)->slot[SYI_PACKED_ORDER].data, u->order, (size_t)u->in * sizeof *u->order);
    uint16_t *scales = (*take)->slot[SYI_PACKED_SCALES].data;
    uint8_t *zeros = (*take)->slot[SYI_PACKED_ZEROS].data;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < u->out; first += ROWS) {
        uint8_t *own = codes + omp_get_thread_num() * ROWS * u->in;
        const int64_t rows = syi_min(ROWS, u->out - first);
        for (int64_t k = 0; k < u->in; k++)
            for (int64_t i = 0; i < rows; i++) own[i * u->in + k] = u->code[place[k] * u->out + first + i];
        for (int64_t i = 0; i < rows; i++) {
            const int64_t r = first + i;
            syi_packed_put(*take, r, own + i * u->in);
            for (int64_t g = 0; g < u->groups; g++) { /* stored group g was group at / group of the work */
                const int64_t from = u->by_input ? g : place[g * u->group] / u->group;
                (void)sy_from_f32(ctx, SY_F16, &u->scale[from * u->out + r], scales + r * u->groups + g, 1);
                zeros[r * u->groups + g] = (uint8_t)u->zero[from * u->out + r];
            }
        }
    }
    syi_free(ctx, codes);
    syi_free(ctx, place);
    return SY_OK;
}

static int64_t dead_inputs(int64_t in, const double *xx)
{
    int64_t n = 0;
    for (int64_t j = 0; j < in; j++) n += xx[j * in + j] == 0;
    return n;
}

sy_status syi_gptq_solve(syi_engine *e, const syi_gptq *o, int64_t out, int64_t in, const float *w0, const double *xx, const double *dx, sy_weight **take, char *note)
{
    sy_context *ctx = syi_engine_context(e);
    const int64_t dead = dead_inputs(in, xx);
    *take = NULL;
    if (dead == in) { /* nothing is known about what matters */
        if (note) snprintf(note, 120, "no input was ever active on the calibration text: rounded to nearest");
        return syi_grid_round(e, &o->grid, out, in, w0, take);
    }
    uniform u = {.e = e, .grid = &o->grid, .out = out, .in = in, .group = o->grid.group <= 0 || o->grid.group > in ? in : o->grid.group, .by_input = o->order == SYI_ORDER_STATIC,
                 .top = (float)((1 << o->grid.bits) - 1)};
    u.groups = syi_ceil_div(in, u.group);
    int32_t *order = o->order != SYI_ORDER_NONE ? syi_alloc(ctx, (size_t)in * sizeof *order) : NULL;
    u.scale = syi_alloc(ctx, (size_t)(out * u.groups) * sizeof *u.scale);
    u.zero = syi_alloc(ctx, (size_t)(out * u.groups) * sizeof *u.zero);
    u.code = syi_alloc(ctx, (size_t)(out * in));
    sy_status st = u.scale && u.zero && u.code && (order || o->order == SYI_ORDER_NONE) ? SY_OK : SY_E_MEMORY;
    double damped = o->columns.damp;
    if (st == SY_OK) {
        syi_columns c = o->columns;
        if (order) st = syi_order_make(ctx, o->order, in, u.group, xx, order);
        c.order = u.order = order;
        if (u.by_input) {
#pragma omp parallel for num_threads(syi_omp(ctx)) schedule(static)
            for (int64_t r = 0; r < out; r++)
                for (int64_t g = 0; g < u.groups; g++)
                    syi_grid_fit(e, &o->grid, w0 + r * in + g * u.group, syi_min(u.group, in - g * u.group), &u.scale[g * out + r], &u.zero[g * out + r]);
        }
        const syi_column_grid grid = {.self = &u, .group = u.group, .begin = u.by_input ? NULL : begin, .column = column, .range = range};
        if (st == SY_OK) st = syi_columns_solve(e, &c, &grid, out, in, w0, xx, dx, NULL, &damped);
    }
    if (st == SY_OK) st = pack(ctx, &u, o->order, take);
    if (st == SY_OK && note) {
        if (damped > o->columns.damp) snprintf(note, 120, "damping raised from %g to %g of the mean: the inputs' second moments were singular", o->columns.damp, damped);
        else if (dead) snprintf(note, 120, "%lld of %lld inputs were never active: their weights are 0", (long long)dead, (long long)in);
    }
    syi_free(ctx, order);
    syi_free(ctx, u.scale);
    syi_free(ctx, u.zero);
    syi_free(ctx, u.code);
    return st;
}
