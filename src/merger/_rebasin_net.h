/* SPDX-License-Identifier: Apache-2.0 */
/* The networks of a re-basin on data: one run whose weights are set to those of either
 * network, or to anything between them. Losses, gradients, activations, running statistics. */
#ifndef MERGER_REBASIN_NET_H
#define MERGER_REBASIN_NET_H

#include "_rebasin.h"

#include "run/_merge.h"
#include "run/train.h"

typedef struct {
    const char *data, *eval_data;  /* eval_data NULL: data                                */
    int64_t seq, batch;            /* batch: rows a forward, 0: 64, or 8 of text           */
    int64_t step_rows;             /* rows of a gradient, 0: 1000, or 16 of text; -1: none */
} rebasin_net_options;
typedef struct {
    const rebasin *r;
    sy_context *ctx;
    sy_run *run;
    sy_dataset *data, *eval;
    sy_param **param;              /* by tensor                                           */
    char *template_text;
    int64_t seq, batch, step_rows, rows; /* rows: of an epoch                              */
    bool text, statistics;         /* statistics: batch norm's running ones                */
} rebasin_net;

/* Closed with rebasin_net_close, also after a failure. */
sy_status rebasin_net_open(rebasin_net *n, const rebasin *r, sy_merging *job, const rebasin_net_options *o);
void rebasin_net_close(rebasin_net *n);
sy_status rebasin_net_set(rebasin_net *n, const float *const *x);
/* The mean loss of step number `step` (step_rows rows of the shuffled data) with the weights x,
 * and its gradient. */
sy_status rebasin_net_gradient(rebasin_net *n, const float *const *x, int64_t step, float **g, double *loss);
/* Loss (and accuracy) on the evaluation data with the weights x. */
sy_status rebasin_net_loss(rebasin_net *n, const float *const *x, syi_evaluation *out);
/* Running statistics of x become those of its own activations: means over at most `batches`. */
sy_status rebasin_net_statistics(rebasin_net *n, float **x, int64_t batches);
/* Matches b to a by second moments of activations (or their correlations) over `batches`. */
sy_status rebasin_net_match(rebasin_net *n, const float *const *a, float **b, int64_t batches, bool pearson, rebasin_perm *perm);

/* -- searches with gradients (_rebasin_ste.c, _rebasin_sinkhorn.c) ------------------------------- */
typedef struct { double lr, momentum; int64_t epochs, max_sweeps; } rebasin_ste_options;
/* Straight-through: b is matched to a throw-away network that follows the midpoint's gradient;
 * the match with the lowest loss seen is kept. */
sy_status rebasin_ste(rebasin_net *n, const float *const *a, float **b, const rebasin_ste_options *o, uint64_t key, rebasin_perm *perm, int64_t *steps);

typedef struct { double lr; int64_t steps; } rebasin_soft_options;
/* Soft permutations by Sinkhorn's normalisations, trained by AdamW, then hardened. net NULL: on
 * the distance of the weights, otherwise on the loss at the midpoint. Flat groups only. */
sy_status rebasin_sinkhorn(const rebasin *r, rebasin_net *net, const float *const *a, float **b, const rebasin_soft_options *o, uint64_t key, rebasin_perm *perm);
/* z[(2 * iterations + 1) * n * n]: x and what each normalisation of rows, then columns made of
 * it, in logarithms; p = exp of the last. */
enum { REBASIN_SINKHORN = 20 };
void rebasin_soft(int64_t n, const float *x, float *z, float *p);
/* dp (destroyed) becomes the gradient with respect to x. */
void rebasin_soft_back(int64_t n, const float *z, float *dp);

#endif
