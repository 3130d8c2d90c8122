/* SPDX-License-Identifier: Apache-2.0 */
/* What several compressors share: uniform grids with clip search, and the column-by-column
 * solver of the GPTQ family with room for any grid. Internal. */
#ifndef SYI_SOLVE_H
#define SYI_SOLVE_H

#include "run/run.h"
#include "storage/weight.h"

/* -- _grid.c ------------------------------------------------------------------------------ */

/* Per row and group. Symmetric: s = max|w| / (2^(b-1) - 1), zero 2^(b-1). Asymmetric:
 * lo = min(0, min w), hi = max(0, max w), s = (hi - lo) / (2^b - 1), zero = round(-lo / s).
 * clip: lo and hi shrunk by the p of 1, 0.99 .. 0.21 with the least sum |w^ - w|^2.4. Scales are
 * rounded to f16 before anything is coded. */
typedef struct { int bits; int64_t group; bool sym, clip; } syi_grid;
void syi_grid_fit(syi_engine *e, const syi_grid *g, const float *w, int64_t n, float *scale, float *zero);
/* code = clamp(round(w / scale) + zero, 0, 2^bits - 1) */
static inline float syi_grid_code(float w, float scale, float zero, float top)
{
    const float c = __builtin_rintf(w / scale) + zero;
    return c < 0 ? 0 : c > top ? top : c;
}
/* bits 2, 3, 4, 8; group -1 or a multiple of 32: else SY_E_USAGE. */
sy_status syi_grid_check(sy_context *ctx, const char *method, int64_t bits, int64_t group);
/* Rounding to nearest: the whole of w[out, in] into a packed weight. */
sy_status syi_grid_round(syi_engine *e, const syi_grid *g, int64_t out, int64_t in, const float *w, sy_weight **take);

/* -- _columns.c: the solver ---------------------------------------------------------------- */

/* A grid as the solver sees it. Columns are in the order of work; rows of a tile belong to
 * one thread. */
typedef struct {
    void *self;
    int64_t group;       /* columns that are fitted together, 0: all of them               */
    int64_t rows;        /* tiles are multiples of this (1: any)                           */
    /* The group's columns [first, first+n) as they are now, all rows: NULL, or called once
     * a group by one thread (groups are then at most a block).                             */
    sy_status (*begin_all)(void *self, int64_t first, int64_t n, const float *w, int64_t ld);
    /* The same for rows [row, row+rows): w points at the first of them. */
    void (*begin)(void *self, int64_t first, int64_t n, int64_t row, int64_t rows, const float *w, int64_t ld);
    /* Values of column `col` of rows [row, row+n): what is stored for v. */
    void (*column)(void *self, int64_t col, int64_t row, int64_t n, const float *v, float *value);
    /* The smallest and largest value that the column can have. NULL: not known. */
    void (*range)(const void *self, int64_t col, int64_t row, int64_t n, float *low, float *high);
} syi_column_grid;

typedef struct {
    double alpha1, alpha2;  /* of P and R: GPTAQ's and ResComp's residuals                  */
    bool org;               /* V' in the outer update: what is stored; else V within range   */
    bool exact;             /* start at the optimum of || W X - W0 X~ ||^2                   */
    double damp;            /* lambda as a share of mean(diag H)                            */
    int64_t block;          /* lazy block                                                  */
    const int32_t *order;   /* column q of the work is input order[q]; NULL: as they are     */
} syi_columns;

/* H = xx, D = dx (NULL: 0) as sums (a common factor cancels). w0[out, in]: in the order of
 * inputs; value[out, in] (or NULL): what is stored, in that order too. Dead inputs (H_jj = 0) become 0.
 * *damped: the damping that was needed. */
sy_status syi_columns_solve(syi_engine *e, const syi_columns *o, const syi_column_grid *grid, int64_t out, int64_t in, const float *w0, const double *xx,
                            const double *dx, float *value, double *damped);
/* Rows [first, end) of alpha ((X U^T) o M) U, columns from `first` on: P for X = D, R for X = H + D;
 * M keeps columns beyond the row. x, u [n, n], t and to [end - first, n - first], all of F32 or F64. */
sy_status syi_residual_rows(syi_engine *e, sy_dtype dt, int64_t n, const void *x, const void *u, double alpha, int64_t first, int64_t end, void *t, void *to);
/* -- _factor.c: U upper with (H + lambda I)^-1 = U^T U, f32 [n, n] row-major, zero below; lambda is
 * raised tenfold while the factorisation fails. order as above. */
sy_status syi_inverse_factor(sy_context *ctx, int64_t n, const double *xx, double damp, const int32_t *order, float *u, double *damped);
/* V = U^-1: H + lambda I = V V^T. A third of the work. */
sy_status syi_upper_factor(sy_context *ctx, int64_t n, const double *xx, double damp, const int32_t *order, float *v, double *damped);
/* The inverse u[n, n] of an upper triangle v[n, n], in f64 inside. */
sy_status syi_upper_inverse(sy_context *ctx, int64_t n, const float *v, int64_t ldv, float *u, int64_t ldu);

/* -- _gptq.c: uniform grids in the solver ------------------------------------------------------ */
typedef enum { SYI_ORDER_NONE, SYI_ORDER_ACT, SYI_ORDER_STATIC, SYI_ORDER_GROUPS } syi_order;
typedef struct {
    syi_grid grid;
    syi_columns columns;    /* order is made here                                          */
    syi_order order;
} syi_gptq;
/* note[120] (may be NULL) says what the report should. */
sy_status syi_gptq_solve(syi_engine *e, const syi_gptq *o, int64_t out, int64_t in, const float *w0, const double *xx, const double *dx, sy_weight **take, char *note);
/* Inputs by falling diag(H), ties in their order; GROUPS: inside of groups, and groups by their
 * largest. */
sy_status syi_order_make(sy_context *ctx, syi_order how, int64_t in, int64_t group, const double *xx, int32_t *order);

/* -- quantlrm.c: importance of updates, for its test ------------------------------------------- */
/* Least, median and largest of the positive bf16 numbers counted by their bits [32768]. */
void syi_update_statistics(const int64_t *histogram, double *least, double *middle, double *most);
double syi_update_importance(double x, double least, double middle, double most, double ratio);
/* F of a column of m updates (bits of bf16): mean importance, times 1 + the number of zeros. */
double syi_channel_importance(const uint16_t *update, int64_t m, double least, double middle, double most, double ratio, bool count_zeros);
/* tr(d G d^T) for d[m, n]: what differs in the outputs, by the inputs' Gram matrix. t[m, n]: room. */
sy_status syi_output_error(syi_engine *e, int64_t m, int64_t n, const float *d, const float *gram, float *t, double *error);

#endif
