/* SPDX-License-Identifier: Apache-2.0 */
/* What the experiments on adapters of small networks share: a ReLU network without biases as a
 * teacher, a student that the engine adapts to it by any adapter, inputs of a chosen spectrum.
 * Public headers only. */
#ifndef EXPERIMENT_STUDENT_H
#define EXPERIMENT_STUDENT_H

#include "_toy.h"

enum { STUDENT_LAYERS = 4, STUDENT_BATCH = 64 };
/* w[l][size[l+1], size[l]], ReLU between. */
typedef struct { int layers, size[STUDENT_LAYERS + 1]; float *w[STUDENT_LAYERS]; } student_net;
bool student_new(student_net *n, int layers, const int *size, toy_rng *r); /* N(0, 2/fan_in); NULL: zeros */
void student_free(student_net *n);
/* to: fresh, from + noise N(0, (scale^2)/fan_in) on every weight. */
bool student_moved(student_net *to, const student_net *from, double scale, toy_rng *r);
/* As a model folder of the architecture "mlp" (the layers, then a head that nobody uses). */
sy_status student_write(sy_context *ctx, const student_net *n, const char *dir);

/* Rows x = z diag(scale) Q^T, z normal; Q NULL: x = z. */
typedef struct { int n; float *q, *scale; } student_inputs;
/* Spectrum 1/j^2 (`decay`) in a random basis, or isotropic. */
bool student_inputs_new(student_inputs *in, int n, bool decay, toy_rng *r);
void student_inputs_free(student_inputs *in);

enum { STUDENT_POINTS = 4 };
typedef struct {
    const char *model;              /* folder                                            */
    const char *adapter;            /* or "full"                                         */
    const char *const *settings;
    double lr;
    bool linear;                    /* lr falls to 0                                     */
    int steps, layers;              /* layers: of the network                            */
    uint64_t seed;
    const student_net *teacher;
    const student_inputs *inputs;
    int at[STUDENT_POINTS];         /* steps after which the loss is measured, 0: none   */
    const char *save;               /* folder for the trained model, NULL: none          */
} student_training;
typedef struct {
    double loss;                    /* held-out squared error over that before training  */
    double points[STUDENT_POINTS];
    double gradient;                /* norm at the first step                            */
    double updated;                 /* mean numbers updated a step                       */
    int64_t trained;                /* at the start                                      */
    int64_t parameters;             /* trained numbers at the end                        */
    int64_t rank[STUDENT_LAYERS];   /* of each layer at the end, by the adapter's A      */
} student_result;
sy_status student_train(sy_context *ctx, const student_training *t, student_result *out);

#endif
