/* SPDX-License-Identifier: Apache-2.0 */
/* Compression: what compressors see of a layer and of the calibration text.
 *
 * A model is compressed block by block. For every group of linears that share an input
 * the engine runs the calibration windows up to it, hands the inputs to a statistic, and
 * asks the method to solve each linear; the next group then sees inputs that come from
 * what has been compressed so far. `see` (method.h) is the general hook below that. */
#ifndef STEELYARD_COMPRESS_H
#define STEELYARD_COMPRESS_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_site sy_site;
typedef struct sy_weight sy_weight;
typedef struct sy_calibration sy_calibration;

/* Statistics of a site's inputs x[n], over all calibration tokens that are no padding:
 * sums, made in f32 products over at most 2048 tokens and added up in f64, in an order
 * that does not depend on threads. */
enum {
    SY_STAT_XX = 1,    /* sum x x^T                                       [n,n]          */
    SY_STAT_DX = 2,    /* sum (x~ - x) x^T; x~ from the original model    [n,n]          */
    SY_STAT_ABS = 4,   /* sum |x|                                         [n]            */
    SY_STAT_MEAN = 8,  /* sum x                                           [n]            */
    SY_STAT_SQ = 16,   /* sum x^2                                         [n]            */
    SY_STAT_ROWS = 32  /* every k-th x, at most as many as were asked for [n_rows, n]    */
};
typedef struct {
    unsigned have;
    int64_t n, tokens, n_rows;
    double *xx, *dx, *abs, *sum, *sq;
    float *rows;
} sy_stats;

/* A linear on its way. */
typedef struct sy_layer {
    const sy_site *site;
    int64_t out, in;
    int index;             /* number of the layer in the model, in order of work         */
    const float *original; /* [out, in]: the weight to be stored                             */
    float *w;              /* a copy of it, the solver's to change                         */
    sy_stats *stats;       /* of its input, shared with the layers that have the same; NULL:
                              the method asked for none                                  */
    int choice;            /* tag of the way that was allocated, -1: nobody was asked     */
    sy_weight *take;       /* out: what replaces the weight (syi_weight_new)              */
    const float *absorbed; /* out, or NULL: [in] factors that went out of the weight into what
                              makes its inputs; errors are those of take diag(absorbed)      */
    bool keep;             /* out, without take: the weight stays as it is                */
    char note[120];        /* out: for the report, "" nothing                            */
} sy_layer;

/* A way to compress layer `item`: what it costs and what it spoils. */
typedef struct { int item, tag; int64_t cost; double error; } sy_choice;
/* Exactly one choice per item such that the sum of costs is at most `budget` and the sum of
 * errors least: exact dynamic programme on states that nothing else beats in both. Choices
 * in any order; pick[items] gets indices into `all`. SY_E_USAGE if the cheapest choices
 * exceed the budget, or an item has none. */
sy_status sy_knapsack(sy_context *ctx, const sy_choice *all, int n, int items, int64_t budget, int *pick);

#ifdef __cplusplus
}
#endif
#endif
