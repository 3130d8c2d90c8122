/* SPDX-License-Identifier: Apache-2.0 */
/* The column-by-column solver of the GPTQ family (GPTQ: Frantar et al. 2023; GPTAQ: Li et
 * al. 2025; ResComp: Li et al. 2026), for any grid. Column q goes to its grid, and later
 * columns take up its error e through U, GPTAQ's residual v through P and ResComp's
 * (w0 - v) through R:
 *
 *   w_j += -e U_qj + v P_qj + (w0_q - v) R_qj,   j > q
 *
 * Within a block of columns this is done looking back: a column gathers what its
 * predecessors owe it just before its turn, in registers, with a tile of rows in the cache
 * column by column. Later blocks get one product per block. P and R are never whole: their
 * rows are made when a block wants them.
 *
 * Without residuals U is not needed either. H = V V^T with V = U^-1, and what GPTQ reaches for
 * columns that are not stored yet is the least-squares answer to the errors E = W0 - Q of
 * those that are: before a block its columns are W0 + (E V)_block U_block, and U's block on the
 * diagonal is the inverse of V's. One product with all errors so far replaces the updates of
 * all that is to come, and the factorisation costs a third. */
#include "compressor/solve.h"

#include "tensor/engine.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>

enum { TILE_ROWS = 64 }; /* of a tile, where the grid does not want more together */

/* -- state ---------------------------------------------------------------------------------- */

typedef struct {
    syi_engine *e;
    const syi_columns *o;
    const syi_column_grid *grid;
    int64_t m, n;
    bool residual;             /* P or R                                                  */
    bool direct;               /* V instead of U                                          */
    float *u;                  /* [n, n]: U, or V                                          */
    const float *near;         /* U's block on the diagonal, rows near_ld apart            */
    int64_t near_ld;
    float *ub;                 /* direct: memory for it [block, block]                      */
    float *d, *c;              /* D, H + D in the order of work; NULL: not needed         */
    float *w, *w0, *value;     /* [m, n] in the order of work; w0 NULL: not needed; direct: w
                                  has W0, and errors where columns are done               */
    float *p, *r;              /* rows of a block [block, n]; NULL                        */
    float *eb, *vb, *zb;       /* errors, V', W0 - V' of a block [m, block]; direct: eb is E V and
                                  then the block's columns as they are                     */
    int64_t tile;              /* rows of a tile                                          */
    uint8_t *dead;             /* [n] inputs that were never active                        */
    double damped;
} solver;

static float *matrix(solver *s, int64_t rows, int64_t cols) { return syi_pages(syi_engine_context(s->e), (size_t)syi_max(1, rows * cols) * sizeof(float)); }

static void gather_columns(const solver *s, const float *from, float *to)
{
    const int32_t *order = s->o->order;
#pragma omp parallel for num_threads(syi_omp(syi_engine_context(s->e))) schedule(static)
    for (int64_t i = 0; i < s->m; i++)
        for (int64_t q = 0; q < s->n; q++) {
            const int64_t j = order ? order[q] : q;
            to[i * s->n + q] = s->dead[j] ? 0 : from[i * s->n + j];
        }
}

static void gather_square(const solver *s, const double *a, const double *b, float *to, bool edit)
{
    const int32_t *order = s->o->order;
    const int64_t n = s->n;
#pragma omp parallel for num_threads(syi_omp(syi_engine_context(s->e))) schedule(static)
    for (int64_t i = 0; i < n; i++)
        for (int64_t q = 0; q < n; q++) {
            const int64_t r = order ? order[i] : i, j = order ? order[q] : q;
            const double v = (a ? a[r * n + j] : 0) + (b ? b[r * n + j] : 0);
            to[i * n + q] = edit && s->dead[j] ? 0 : (float)v;
        }
}

/* L = U^T is lower triangular: columns from `first` on need rows from `first` on only. */
sy_status syi_residual_rows(syi_engine *e, sy_dtype dt, int64_t n, const void *x, const void *u, double alpha, int64_t first, int64_t end, void *t, void *to)
{
    const int64_t rows = end - first, rest = n - first, size = sy_dtype_block_bytes(dt), at = (first * n + first) * size;
    const char *xs = x, *us = u;
    SYI_TRY(syi_gemm(e, rows, rest, rest, alpha, (syi_mat){dt, xs + at, n, false}, (syi_mat){dt, us + at, n, true}, 0, dt, t, rest));
    for (int64_t i = 0; i < rows; i++) memset((char *)t + i * rest * size, 0, (size_t)((i + 1) * size));
    return syi_gemm(e, rows, rest, rest, 1, (syi_mat){dt, t, rest, false}, (syi_mat){dt, us + at, n, false}, 0, dt, to, rest);
}

/* -- a tile of rows through a block of columns ----------------------------------------------------- */

typedef struct { float *t, *e, *v, *z, *q, *row; } tile; /* [block][rows of a tile] each (q: what is stored); row: two rows more */

/* t[c] += sum over q in [from, to) of what columns q owe column c. */
static void catch_up(const solver *s, const tile *x, int64_t first, int64_t from, int64_t to, int64_t c)
{
    const syi_cpu *cpu = s->e->cpu;
    const int64_t rows = s->tile, at = from * rows, rest = s->n - first;
    float *t = x->t + c * rows;
    if (to == from) return;
    cpu->columns_owe(rows, to - from, -1, s->near + from * s->near_ld + c, s->near_ld, x->e + at, t);
    if (s->p) cpu->columns_owe(rows, to - from, 1, s->p + from * rest + c, rest, x->v + at, t);
    if (s->r) cpu->columns_owe(rows, to - from, 1, s->r + from * rest + c, rest, x->z + at, t);
}

/* Columns [first, end) of rows [row, row+rows). unit: columns that a fit looks at together. */
static void run_tile(solver *s, const tile *x, int64_t first, int64_t end, int64_t unit, int64_t row, int64_t rows)
{
    const syi_column_grid *g = s->grid;
    const int64_t n = s->n, b = end - first, high_rows = s->tile, group = g->group > 0 ? g->group : n, ldw = s->direct ? s->o->block : n;
    float *w = s->direct ? s->eb + row * ldw : s->w + row * n + first; /* the block's columns as they are */
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < b; c++) x->t[c * s->tile + i] = w[i * ldw + c];
    for (int64_t c = 0; c < b && rows < high_rows; c++) memset(x->t + c * s->tile + rows, 0, (size_t)(high_rows - rows) * sizeof(float));
    for (int64_t at = 0; at < b; at += unit) {
        const int64_t stop = syi_min(b, at + unit);
        for (int64_t c = at; c < stop && at > 0; c++) catch_up(s, x, first, 0, at, c);
        if (g->begin && (first + at) % group == 0) {
            for (int64_t i = 0; i < rows && at > 0; i++)
                for (int64_t c = at; c < stop; c++) w[i * ldw + c] = x->t[c * s->tile + i];
            const int64_t count = syi_min(group, n - first - at);
            if (count > b) g->begin(g->self, first, count, row, rows, s->w + row * n + first, n); /* longer than a block: nothing has changed in it yet */
            else g->begin(g->self, first + at, count, row, rows, w + at, ldw);
        }
        for (int64_t c = at; c < stop; c++) {
            const int64_t q = first + c;
            catch_up(s, x, first, at, c, c);
            float *v = x->t + c * s->tile, *e = x->e + c * s->tile, *value = x->q + c * s->tile;
            const float one = 1 / s->near[c * s->near_ld + c];
            g->column(g->self, q, row, rows, v, value);
            for (int64_t i = 0; i < rows; i++) e[i] = (v[i] - value[i]) * one;
            if (!s->residual) continue;
            for (int64_t i = 0; i < rows; i++) {
                x->v[c * s->tile + i] = v[i];
                x->z[c * s->tile + i] = s->w0 ? s->w0[(row + i) * n + q] - v[i] : 0;
            }
            float *low = x->row, *high = low + high_rows;
            if (!s->o->org && g->range) g->range(g->self, q, row, rows, low, high);
            for (int64_t i = 0; i < rows; i++) {
                float out = s->o->org ? value[i] : v[i];
                if (!s->o->org && g->range) out = out < low[i] ? low[i] : out > high[i] ? high[i] : out;
                s->vb[(row + i) * s->o->block + c] = out;
                if (s->zb) s->zb[(row + i) * s->o->block + c] = s->w0[(row + i) * n + q] - out;
            }
        }
    }
    for (int64_t i = 0; i < rows; i++) { /* back to rows: W0 becomes the error, or the block's errors go where the product reads them */
        float *to = s->direct ? s->w + (row + i) * n + first : s->eb + (row + i) * s->o->block, *value = s->value ? s->value + (row + i) * n + first : NULL;
        for (int64_t c = 0; c < b; c++) to[c] = s->direct ? to[c] - x->q[c * s->tile + i] : x->e[c * s->tile + i];
        for (int64_t c = 0; c < b && value; c++) value[c] = x->q[c * s->tile + i];
    }
}

/* Direct: the columns [first, end) of some rows as GPTQ has them now, into eb: W0 + (E V)_block
 * U_block. memory: rows * b numbers. */
static void enter_rows(const solver *s, int64_t first, int64_t end, int64_t row, int64_t rows, float *memory)
{
    const int64_t n = s->n, b = end - first, ld = s->o->block;
    float *to = s->eb + row * ld;
    for (int64_t i = 0; i < rows; i++) memcpy(to + i * ld, s->w + (row + i) * n + first, (size_t)b * sizeof *to);
    if (first == 0) return;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)b, (blasint)first, 1, s->w + row * n, (blasint)n, s->u + first, (blasint)n, 0, memory, (blasint)b);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)b, (blasint)b, 1, memory, (blasint)b, s->ub, (blasint)ld, 1, to, (blasint)ld);
}

/* Some tiles of rows, one after the other. Their number follows from the shape, so that products have the
 * same cuts whatever the threads. */
typedef struct { solver *s; int64_t first, end, unit, tiles; bool enter, run; float *memory; int64_t each; } stretch;

static void run_rows(const stretch *x, int64_t k)
{
    solver *s = x->s;
    float *own = x->memory + omp_get_thread_num() * x->each;
    const int64_t size = s->o->block * s->tile, row = k * x->tiles * s->tile, rows = syi_min(x->tiles * s->tile, s->m - row);
    const tile t = {own, own + size, own + 2 * size, own + 3 * size, own + 4 * size, own + 5 * size};
    if (x->enter) enter_rows(s, x->first, x->end, row, rows, own + 5 * size + 2 * s->tile);
    for (int64_t i = 0; x->run && i < rows; i += s->tile) run_tile(s, &t, x->first, x->end, x->unit, row + i, syi_min(s->tile, rows - i));
}

static void run_all(const stretch *x)
{
    const solver *s = x->s;
    const int64_t parts = syi_ceil_div(s->m, x->tiles * s->tile);
    const int threads = syi_omp(syi_engine_context(s->e)), before = omp_get_max_threads();
    if (!omp_in_parallel()) omp_set_num_threads(1); /* products of a part are one thread's */
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t k = 0; k < parts; k++) run_rows(x, k);
    if (!omp_in_parallel()) omp_set_num_threads(before);
}

static sy_status run_block(solver *s, int64_t first, int64_t end, int64_t unit)
{
    sy_context *ctx = syi_engine_context(s->e);
    const syi_column_grid *g = s->grid;
    const int64_t n = s->n, b = end - first, rest = n - first, tiles = s->m >= 2048 ? 4 : s->m >= 1024 ? 2 : 1;
    s->near = s->direct ? s->ub : s->u + first * n + first;
    s->near_ld = s->direct ? s->o->block : n;
    if (s->direct) SYI_TRY(syi_upper_inverse(ctx, b, s->u + first * n + first, n, s->ub, s->o->block));
    if (s->residual) {
        float *t = matrix(s, b, rest);
        sy_status st = t ? SY_OK : SY_E_MEMORY;
        if (st == SY_OK && s->p) st = syi_residual_rows(s->e, SY_F32, n, s->d, s->u, s->o->alpha1, first, end, t, s->p);
        if (st == SY_OK && s->r) st = syi_residual_rows(s->e, SY_F32, n, s->c, s->u, s->o->alpha2, first, end, t, s->r);
        syi_pages_free(ctx, t);
        SYI_TRY(st);
    }
    stretch x = {.s = s, .first = first, .end = end, .unit = unit, .tiles = tiles, .each = s->o->block * s->tile * (5 + tiles) + 2 * s->tile};
    x.memory = syi_alloc(ctx, (size_t)(syi_omp(ctx) * x.each) * sizeof *x.memory);
    if (!x.memory) return SY_E_MEMORY;
    memset(x.memory, 0, (size_t)(syi_omp(ctx) * x.each) * sizeof *x.memory);
    sy_status st = SY_OK;
    if (g->begin_all && first % g->group == 0) { /* sees all rows */
        x.enter = s->direct;
        if (x.enter) run_all(&x);
        st = g->begin_all(g->self, first, syi_min(g->group, n - first), s->direct ? s->eb : s->w + first, s->direct ? s->o->block : n);
    }
    x.enter = s->direct && !x.enter;
    x.run = true;
    if (st == SY_OK) run_all(&x);
    syi_free(ctx, x.memory);
    if (st != SY_OK || end >= n || s->direct) return st;
    const int64_t ld = s->o->block, after = n - end;
    SYI_TRY(syi_gemm(s->e, s->m, after, b, -1, (syi_mat){SY_F32, s->eb, ld, false}, (syi_mat){SY_F32, s->u + first * n + end, n, false}, 1, SY_F32, s->w + end, n));
    if (s->p) SYI_TRY(syi_gemm(s->e, s->m, after, b, 1, (syi_mat){SY_F32, s->vb, ld, false}, (syi_mat){SY_F32, s->p + b, rest, false}, 1, SY_F32, s->w + end, n));
    if (s->r) SYI_TRY(syi_gemm(s->e, s->m, after, b, 1, (syi_mat){SY_F32, s->zb, ld, false}, (syi_mat){SY_F32, s->r + b, rest, false}, 1, SY_F32, s->w + end, n));
    return SY_OK;
}

/* -- the optimum of the redefined objective ------------------------------------------------------------ */

/* W* = (W0 C + lambda W0) H_l^-1 = W0 + W0 D H_l^-1, the inverse being U^T U. */
static sy_status start_at_optimum(solver *s)
{
    const int64_t m = s->m, n = s->n;
    float *a = matrix(s, m, n), *b = matrix(s, m, n);
    const syi_mat u = {SY_F32, s->u, n, false}, ut = {SY_F32, s->u, n, true};
    sy_status st = a && b ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK) st = syi_gemm(s->e, m, n, n, 1, (syi_mat){SY_F32, s->w, n, false}, (syi_mat){SY_F32, s->d, n, false}, 0, SY_F32, a, n);
    if (st == SY_OK) st = syi_gemm(s->e, m, n, n, 1, (syi_mat){SY_F32, a, n, false}, ut, 0, SY_F32, b, n);
    if (st == SY_OK) st = syi_gemm(s->e, m, n, n, 1, (syi_mat){SY_F32, b, n, false}, u, 1, SY_F32, s->w, n);
    syi_pages_free(syi_engine_context(s->e), a);
    syi_pages_free(syi_engine_context(s->e), b);
    return st;
}

/* -- all --------------------------------------------------------------------------------------------------- */

static bool all_zero(const double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (x[i] != 0) return false;
    return true;
}

static sy_status solve(solver *s, const float *w0, const double *xx, const double *dx, bool values)
{
    const syi_columns *o = s->o;
    const int64_t m = s->m, n = s->n, group = s->grid->group > 0 ? s->grid->group : n;
    sy_context *ctx = syi_engine_context(s->e);
    if (dx && all_zero(dx, n * n)) dx = NULL; /* the streams are the same: GPTQ, to the bit */
    const bool p = dx && o->alpha1 > 0 && !o->exact, r = o->alpha2 > 0 && !o->exact, optimum = o->exact && dx;
    s->residual = p || r;
    s->direct = !s->residual && !optimum && (group <= o->block || group >= n); /* scales of a longer group need U beyond the block */
    s->u = matrix(s, n, n);
    s->dead = syi_alloc(ctx, (size_t)n);
    if (!s->u || !s->dead) return SY_E_MEMORY;
    for (int64_t j = 0; j < n; j++) s->dead[j] = xx[j * n + j] == 0;
    SYI_TRY((s->direct ? syi_upper_factor : syi_inverse_factor)(ctx, n, xx, o->damp, o->order, s->u, &s->damped));
    bool ok = (s->w = matrix(s, m, n)) && (!values || (s->value = matrix(s, m, n))) && (s->eb = matrix(s, m, o->block));
    if (ok && s->direct) ok = (s->ub = matrix(s, o->block, o->block)) != NULL;
    if (ok && (p || optimum)) ok = (s->d = matrix(s, n, n)) != NULL;
    if (ok && r) ok = (s->c = matrix(s, n, n)) && (s->w0 = matrix(s, m, n)) && (s->zb = matrix(s, m, o->block)) && (s->r = matrix(s, o->block, n));
    if (ok && p) ok = (s->p = matrix(s, o->block, n)) != NULL;
    if (ok && s->residual) ok = (s->vb = matrix(s, m, o->block)) != NULL;
    if (!ok) return SY_E_MEMORY;
    gather_columns(s, w0, s->w);
    if (s->w0) memcpy(s->w0, s->w, (size_t)(m * n) * sizeof *s->w0);
    if (s->d) gather_square(s, NULL, dx, s->d, true);
    if (s->c) gather_square(s, xx, dx, s->c, false);
    if (optimum) SYI_TRY(start_at_optimum(s));
    const int64_t block = syi_min(o->block, n);
    for (int64_t first = 0; first < n;) { /* blocks do not cross the ends of groups that are longer */
        const int64_t stop = group >= block ? syi_min(n, (first / group + 1) * group) : n;
        const int64_t end = syi_min(stop, first + (group < block ? block / group * group : block));
        if (sy_cancelled(ctx)) return syi_fail(ctx, SY_E_CANCELLED, "interrupted");
        SYI_TRY(run_block(s, first, end, group < block ? group : end - first));
        first = end;
    }
    return SY_OK;
}

sy_status syi_columns_solve(syi_engine *e, const syi_columns *o, const syi_column_grid *grid, int64_t out, int64_t in, const float *w0, const double *xx,
                            const double *dx, float *value, double *damped)
{
    sy_context *ctx = syi_engine_context(e);
    solver s = {.e = e, .o = o, .grid = grid, .m = out, .n = in};
    s.tile = grid->rows <= 1 ? TILE_ROWS : syi_max(1, TILE_ROWS / grid->rows) * grid->rows;
    sy_status st = solve(&s, w0, xx, dx, value != NULL);
    *damped = s.damped;
#pragma omp parallel for num_threads(syi_omp(ctx)) schedule(static)
    for (int64_t i = 0; i < (st == SY_OK && value ? out : 0); i++)
        for (int64_t q = 0; q < in; q++) value[i * in + (o->order ? o->order[q] : q)] = s.value[i * in + q];
    float *all[] = {s.u, s.ub, s.d, s.c, s.w, s.w0, s.value, s.p, s.r, s.eb, s.vb, s.zb};
    for (int i = 0; i < SYI_COUNT(all); i++) syi_pages_free(ctx, all[i]);
    syi_free(ctx, s.dead);
    return st;
}
