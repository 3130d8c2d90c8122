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
 * rows are made when a block wants them. */
#include "compressor/solve.h"

#include <lapacke.h>
#include <math.h>
#include <omp.h>

enum { TILE_ROWS = 64 }; /* of a tile, where the grid does not want more together */

/* -- the factor -------------------------------------------------------------------------- */

/* H = V V^T with V upper is a Cholesky factorisation from the other end: of H with rows and
 * columns reversed. Then U = V^-1. */
sy_status syi_inverse_factor(sy_context *ctx, int64_t n, const double *xx, double damp, const int32_t *order, float *u, double *damped)
{
    double *a = syi_pages(ctx, (size_t)(n * n) * sizeof *a), mean = 0;
    if (!a) return SY_E_MEMORY;
    for (int64_t i = 0; i < n; i++) mean += xx[i * n + i] > 0 ? xx[i * n + i] / (double)n : 1.0 / (double)n;
    lapack_int info = -1;
    const int threads = omp_get_max_threads();
    for (int tries = 0; tries < 6; tries++, damp = damp > 0 ? damp * 10 : 1e-6) {
#pragma omp parallel for num_threads(syi_omp(ctx)) schedule(static)
        for (int64_t i = 0; i < n; i++) {
            const int64_t p = order ? order[n - 1 - i] : n - 1 - i;
            for (int64_t j = 0; j <= i; j++) a[i * n + j] = xx[p * n + (order ? order[n - 1 - j] : n - 1 - j)];
            a[i * n + i] = (xx[p * n + p] == 0 ? 1 : xx[p * n + p]) + damp * mean;
        }
        if (!omp_in_parallel()) omp_set_num_threads(1); /* its cuts would follow the number of threads */
        info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', (lapack_int)n, a, (lapack_int)n);
        if (info == 0) info = LAPACKE_dtrtri_work(LAPACK_COL_MAJOR, 'U', 'N', (lapack_int)n, a, (lapack_int)n);
        if (!omp_in_parallel()) omp_set_num_threads(threads);
        if (info == 0 && !isfinite(a[n * n - 1])) info = 1;
        *damped = damp;
        if (info == 0) break;
    }
    if (info == 0) {
#pragma omp parallel for num_threads(syi_omp(ctx)) schedule(static)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) u[i * n + j] = j >= i ? (float)a[(n - 1 - i) * n + n - 1 - j] : 0;
    }
    syi_pages_free(ctx, a);
    return info == 0 ? SY_OK : syi_fail(ctx, SY_E_NUMERIC, "the inputs' second moments cannot be factorised even with a damping of %g of their mean; more calibration text may help", *damped);
}

/* -- state ---------------------------------------------------------------------------------- */

typedef struct {
    syi_engine *e;
    const syi_columns *o;
    const syi_column_grid *grid;
    int64_t m, n;
    bool residual;             /* P or R                                                  */
    float *u;                  /* [n, n]                                                  */
    float *d, *c;              /* D, H + D in the order of work; NULL: not needed         */
    float *w, *w0, *value;     /* [m, n] in the order of work; w0 NULL: not needed        */
    float *p, *r;              /* rows of a block [block, n]; NULL                        */
    float *eb, *vb, *zb;       /* errors, V', W0 - V' of a block [m, block]               */
    int64_t tile;              /* rows of a tile                                          */
    double damped;
} solver;

static float *matrix(solver *s, int64_t rows, int64_t cols) { return syi_pages(syi_engine_context(s->e), (size_t)syi_max(1, rows * cols) * sizeof(float)); }

static void gather_columns(const solver *s, const float *from, float *to, const double *dead)
{
    const int32_t *order = s->o->order;
#pragma omp parallel for num_threads(syi_omp(syi_engine_context(s->e))) schedule(static)
    for (int64_t i = 0; i < s->m; i++)
        for (int64_t q = 0; q < s->n; q++) {
            const int64_t j = order ? order[q] : q;
            to[i * s->n + q] = dead[j * s->n + j] == 0 ? 0 : from[i * s->n + j];
        }
}

static void gather_square(const solver *s, const double *a, const double *b, float *to, const double *xx, bool edit)
{
    const int32_t *order = s->o->order;
    const int64_t n = s->n;
#pragma omp parallel for num_threads(syi_omp(syi_engine_context(s->e))) schedule(static)
    for (int64_t i = 0; i < n; i++)
        for (int64_t q = 0; q < n; q++) {
            const int64_t r = order ? order[i] : i, j = order ? order[q] : q;
            const double v = (a ? a[r * n + j] : 0) + (b ? b[r * n + j] : 0);
            to[i * n + q] = edit && xx[j * n + j] == 0 ? 0 : (float)v;
        }
}

/* rows [first, end) of alpha ((X L) o M) L^T, M keeps columns beyond the row; L = U^T. */
static sy_status residual_rows(solver *s, const float *x, double alpha, int64_t first, int64_t end, float *t, float *to)
{
    const int64_t n = s->n, rows = end - first, rest = n - first;
    /* L is lower triangular: columns from `first` on need rows from `first` on only */
    SYI_TRY(syi_gemm(s->e, rows, rest, rest, alpha, (syi_mat){SY_F32, x + first * n + first, n, false}, (syi_mat){SY_F32, s->u + first * n + first, n, true}, 0, SY_F32, t, rest));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j <= i; j++) t[i * rest + j] = 0;
    return syi_gemm(s->e, rows, rest, rest, 1, (syi_mat){SY_F32, t, rest, false}, (syi_mat){SY_F32, s->u + first * n + first, n, false}, 0, SY_F32, to, rest);
}

/* -- a tile of rows through a block of columns ----------------------------------------------------- */

typedef struct { float *t, *e, *v, *z, *row; } tile; /* [block][rows of a tile] each; row: three times as many numbers */

/* t[c] += sum over q in [from, to) of what columns q owe column c. */
static void catch_up(const solver *s, const tile *x, int64_t first, int64_t from, int64_t to, int64_t c)
{
    const int64_t n = s->n, n_rows = s->tile;
    float *t = x->t + c * s->tile;
    for (int64_t q = from; q < to; q++) {
        const float u = -s->u[(first + q) * n + first + c];
        const float *e = x->e + q * s->tile;
        for (int64_t i = 0; i < n_rows; i++) t[i] += u * e[i];
    }
    if (s->p)
        for (int64_t q = from; q < to; q++) {
            const float p = s->p[q * (n - first) + c], *v = x->v + q * s->tile;
            for (int64_t i = 0; i < n_rows; i++) t[i] += p * v[i];
        }
    if (s->r)
        for (int64_t q = from; q < to; q++) {
            const float r = s->r[q * (n - first) + c], *z = x->z + q * s->tile;
            for (int64_t i = 0; i < n_rows; i++) t[i] += r * z[i];
        }
}

/* Columns [first, end) of rows [row, row+rows). unit: columns that a fit looks at together. */
static void run_tile(solver *s, const tile *x, int64_t first, int64_t end, int64_t unit, int64_t row, int64_t rows)
{
    const syi_column_grid *g = s->grid;
    const int64_t n = s->n, b = end - first, high_rows = s->tile, group = g->group > 0 ? g->group : n;
    for (int64_t c = 0; c < b; c++)
        for (int64_t i = 0; i < high_rows; i++) x->t[c * s->tile + i] = i < rows ? s->w[(row + i) * n + first + c] : 0;
    for (int64_t at = 0; at < b; at += unit) {
        const int64_t stop = syi_min(b, at + unit);
        for (int64_t c = at; c < stop && at > 0; c++) catch_up(s, x, first, 0, at, c);
        if (g->begin && (first + at) % group == 0) {
            for (int64_t c = at; c < stop; c++)
                for (int64_t i = 0; i < rows; i++) s->w[(row + i) * n + first + c] = x->t[c * s->tile + i];
            g->begin(g->self, first + at, syi_min(group, n - first - at), row, rows, s->w + row * n + first + at, n);
        }
        for (int64_t c = at; c < stop; c++) {
            const int64_t q = first + c;
            catch_up(s, x, first, at, c, c);
            float *v = x->t + c * s->tile, *e = x->e + c * s->tile, *value = x->row;
            const float one = 1 / s->u[q * n + q];
            g->column(g->self, q, row, rows, v, value);
            for (int64_t i = 0; i < rows; i++) {
                e[i] = (v[i] - value[i]) * one;
                if (s->value) s->value[(row + i) * n + q] = value[i];
                s->eb[(row + i) * s->o->block + c] = e[i];
            }
            if (!s->residual) continue;
            for (int64_t i = 0; i < rows; i++) {
                x->v[c * s->tile + i] = v[i];
                x->z[c * s->tile + i] = s->w0 ? s->w0[(row + i) * n + q] - v[i] : 0;
            }
            float *low = x->row + high_rows, *high = low + high_rows;
            if (!s->o->org && g->range) g->range(g->self, q, row, rows, low, high);
            for (int64_t i = 0; i < rows; i++) {
                float out = s->o->org ? value[i] : v[i];
                if (!s->o->org && g->range) out = out < low[i] ? low[i] : out > high[i] ? high[i] : out;
                s->vb[(row + i) * s->o->block + c] = out;
                if (s->zb) s->zb[(row + i) * s->o->block + c] = s->w0[(row + i) * n + q] - out;
            }
        }
    }
}

static sy_status run_block(solver *s, int64_t first, int64_t end, int64_t unit)
{
    sy_context *ctx = syi_engine_context(s->e);
    const syi_column_grid *g = s->grid;
    const int64_t n = s->n, b = end - first, rest = n - first, size = s->o->block * s->tile;
    if (s->residual) {
        float *t = matrix(s, b, rest);
        sy_status st = t ? SY_OK : SY_E_MEMORY;
        if (st == SY_OK && s->p) st = residual_rows(s, s->d, s->o->alpha1, first, end, t, s->p);
        if (st == SY_OK && s->r) st = residual_rows(s, s->c, s->o->alpha2, first, end, t, s->r);
        syi_pages_free(ctx, t);
        SYI_TRY(st);
    }
    if (g->begin_all && first % g->group == 0) SYI_TRY(g->begin_all(g->self, first, syi_min(g->group, n - first), s->w + first, n));
    const int threads = syi_omp(ctx);
    float *memory = syi_alloc(ctx, (size_t)threads * (size_t)(4 * size + 3 * s->tile) * sizeof *memory);
    if (!memory) return SY_E_MEMORY;
    memset(memory, 0, (size_t)threads * (size_t)(4 * size + 3 * s->tile) * sizeof *memory);
    /* tiles of whole units of rows that the grid wants together */
    const int64_t step = s->tile, tiles = syi_ceil_div(s->m, step);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t k = 0; k < tiles; k++) {
        float *own = memory + omp_get_thread_num() * (4 * size + 3 * s->tile);
        const tile x = {own, own + size, own + 2 * size, own + 3 * size, own + 4 * size};
        run_tile(s, &x, first, end, unit, k * step, syi_min(step, s->m - k * step));
    }
    syi_free(ctx, memory);
    if (end >= n) return SY_OK;
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

static sy_status solve(solver *s, const float *w0, const double *xx, const double *dx, bool values)
{
    const syi_columns *o = s->o;
    const int64_t m = s->m, n = s->n;
    sy_context *ctx = syi_engine_context(s->e);
    const bool p = dx && o->alpha1 > 0 && !o->exact, r = o->alpha2 > 0 && !o->exact, optimum = o->exact && dx;
    s->residual = p || r;
    s->u = matrix(s, n, n);
    if (!s->u) return SY_E_MEMORY;
    SYI_TRY(syi_inverse_factor(ctx, n, xx, o->damp, o->order, s->u, &s->damped));
    bool ok = (s->w = matrix(s, m, n)) && (!values || (s->value = matrix(s, m, n))) && (s->eb = matrix(s, m, o->block));
    if (ok && (p || optimum)) ok = (s->d = matrix(s, n, n)) != NULL;
    if (ok && r) ok = (s->c = matrix(s, n, n)) && (s->w0 = matrix(s, m, n)) && (s->zb = matrix(s, m, o->block)) && (s->r = matrix(s, o->block, n));
    if (ok && p) ok = (s->p = matrix(s, o->block, n)) != NULL;
    if (ok && s->residual) ok = (s->vb = matrix(s, m, o->block)) != NULL;
    if (!ok) return SY_E_MEMORY;
    gather_columns(s, w0, s->w, xx);
    if (s->w0) memcpy(s->w0, s->w, (size_t)(m * n) * sizeof *s->w0);
    if (s->d) gather_square(s, NULL, dx, s->d, xx, true);
    if (s->c) gather_square(s, xx, dx, s->c, xx, false);
    if (optimum) SYI_TRY(start_at_optimum(s));
    const int64_t group = s->grid->group > 0 ? s->grid->group : n, block = syi_min(o->block, n);
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
    float *all[] = {s.u, s.d, s.c, s.w, s.w0, s.value, s.p, s.r, s.eb, s.vb, s.zb};
    for (int i = 0; i < SYI_COUNT(all); i++) syi_pages_free(ctx, all[i]);
    return st;
}
