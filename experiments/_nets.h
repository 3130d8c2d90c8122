/* SPDX-License-Identifier: Apache-2.0 */
/* What the experiments on merging share: small ReLU networks trained with Adam, images of
 * smooth random prototypes, saving and loading networks as safetensors, merging by recipe.
 * Public headers only. */
#ifndef EXPERIMENT_NETS_H
#define EXPERIMENT_NETS_H

#include "_toy.h"

/* -- images ----------------------------------------------------------------------------------- */
/* `count` pictures of side x side: noise smoothed by a Gaussian of width sigma, unit variance. */
void nets_prototypes(toy_rng *r, int count, int side, double sigma, float *out);
typedef struct { int n, dim; float *x; int *y; } nets_data;
/* n samples: a prototype of a random class (prototypes are dealt out to classes in turn), moved
 * by up to `shift` pixels each way, plus noise. Free with nets_data_free. */
bool nets_samples(toy_rng *r, const float *prototypes, int count, int classes, int side, int shift, double noise, int n, nets_data *out);
void nets_data_free(nets_data *d);
/* As `steelyard train` reads pictures: PREFIX-images-idx3-ubyte and its labels. The samples
 * themselves become what a byte can hold, (byte - 128) / 20, which the preprocessor_config.json
 * of nets_save_mlp's folders gives back. */
sy_status nets_save_idx(nets_data *d, int side, const char *prefix);

/* -- networks ---------------------------------------------------------------------------------- */
enum { NETS_LAYERS = 6 };
/* Fully connected, ReLU between: w[l][size[l+1], size[l]], b[l][size[l+1]]. */
typedef struct { int layers, size[NETS_LAYERS + 1]; float *w[NETS_LAYERS], *b[NETS_LAYERS]; } nets_net;
bool nets_new(nets_net *n, int layers, const int *size, toy_rng *r);   /* He's initialisation */
bool nets_copy(nets_net *to, const nets_net *from);                   /* to: fresh           */
void nets_set(nets_net *to, const nets_net *from);                    /* same shape          */
void nets_free(nets_net *n);
int nets_count(const nets_net *n);
typedef struct { int epochs, batch, first, last; double lr, l2; bool cosine; uint64_t seed; } nets_training; /* layers [first, last) are trained */
bool nets_train(nets_net *n, const nets_data *d, const nets_training *how);
double nets_accuracy(const nets_net *n, const nets_data *d);
double nets_loss(const nets_net *n, const nets_data *d, double *accuracy);
/* Layers [0, layers) as dir/model.safetensors: fcN.weight, fcN.bias. */
sy_status nets_save(sy_context *ctx, const nets_net *n, int layers, const char *dir);
sy_status nets_load(sy_context *ctx, nets_net *n, int layers, const char *dir);
/* All of it as a model folder of the architecture "mlp" (layers.N.weight, config.json); back. */
sy_status nets_save_mlp(sy_context *ctx, const nets_net *n, const char *dir);
sy_status nets_load_mlp(sy_context *ctx, nets_net *n, const char *dir);
/* Post-activation values of layer l (1 ..) for all samples, [n, size[l]]; caller frees. */
float *nets_activations(const nets_net *n, const nets_data *d, int l);
/* The matrix a[n,k] b[m,k]^T (+ c) that all of the above is made of. */
void nets_matmul(int n, int m, int k, const float *a, const float *b, float *c);

/* -- merging -------------------------------------------------------------------------------------- */
/* Writes the recipe (model names are folders in `dir`) and merges into dir/out; an existing
 * dir/out is replaced. */
sy_status nets_merge(sy_context *ctx, const char *dir, const char *recipe, const char *out);
/* The same; *report: what `steelyard merge --json` would print (free with free), or NULL. */
sy_status nets_merge_report(sy_context *ctx, const char *dir, const char *recipe, const char *out, char **report);
/* A number of such a report, NAN: not there. */
double nets_number(const char *report, const char *key);

/* -- eight tasks from one base -------------------------------------------------------------------- */
/* Pictures of 12 x 12 with noise of 2.2, chosen such that single models reach 0.99 and their average
 * loses several points, as in the pilot that the expected numbers come from. */
/* Bodies 144-128-128-128 in dir: "base", "task0" ..; heads frozen after a linear probe. */
enum { TASKS_MAX = 16, TASK_CLASSES = 5 };
typedef struct { int n; nets_net base, head[TASKS_MAX]; nets_data test[TASKS_MAX]; double alone[TASKS_MAX]; } nets_tasks;
sy_status nets_tasks_make(sy_context *ctx, nets_tasks *t, int n, const char *dir, uint64_t seed);
void nets_tasks_free(nets_tasks *t);
/* Mean accuracy over the tasks with the body dir/out. */
sy_status nets_tasks_score(sy_context *ctx, const nets_tasks *t, const char *dir, const char *out, double *mean);

#endif
