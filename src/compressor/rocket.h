/* SPDX-License-Identifier: Apache-2.0 */
/* The factorisation of one layer, for rocket.c and its test. Internal. */
#ifndef SYI_ROCKET_H
#define SYI_ROCKET_H

#include "run/run.h"

/* W [d1, d2] (inputs, outputs) in the coordinates that calibration gives. All row-major f64. */
typedef struct {
    int64_t d1, d2, r;     /* r = min(d1, d2): rows of the basis that exist                */
    double *l;             /* [d1, d1] upper, G = L^T L                                    */
    double *w;             /* [d1, d2]                                                    */
    double *wl;            /* L W                                                         */
    double *b;             /* [d1, r] left singular vectors of L W, strongest first         */
    double *c;             /* [r, d2] B^T L W                                             */
    double *nu;            /* [r] |L^-1 b_i|                                              */
    double weight, output; /* |W|^2, |L W|^2                                              */
} syi_rocket_basis;

/* precise: products in f64; wide: u and v are f64 too. */
typedef struct { double lambda, beta, mu; bool precise, wide; int refine; } syi_rocket_how;

/* g: sum x x^T [d1, d1] (f64); weight: [d2, d1] f32. */
sy_status syi_rocket_begin(sy_context *ctx, int64_t d1, int64_t d2, const double *g, const float *weight, syi_rocket_basis *out);
void syi_rocket_end(sy_context *ctx, syi_rocket_basis *basis);
/* Sizes of a configuration: cr of the parameters removed, k/s = ks. false: there is none. */
bool syi_rocket_sizes(int64_t d1, int64_t d2, double cr, double ks, int64_t *k, int64_t *s);
/* U [k, d1] (transposed) and V [d2, k] with s d2 values that are not zero, f32; NULL: only the errors, which
 * are relative and not squared: of the weight, and of the outputs. */
sy_status syi_rocket_factor(syi_engine *e, const syi_rocket_basis *basis, const syi_rocket_how *how, int64_t k, int64_t s, void *u, void *v, double *weight_error,
                            double *output_error);

#endif
