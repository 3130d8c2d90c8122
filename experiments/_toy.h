/* SPDX-License-Identifier: Apache-2.0 */
/* What the experiments on adapters share: random numbers, a tiny causal transformer on
 * order-2 Markov text that is pretrained once a seed, adaptation to a chain of which half
 * the contexts are new, and single linear maps. Public headers only. */
#ifndef EXPERIMENT_TOY_H
#define EXPERIMENT_TOY_H

#include "steelyard/experiment.h"

/* -- random numbers (SplitMix64) ------------------------------------------------------ */
typedef struct { uint64_t state; } toy_rng;
uint64_t toy_next(toy_rng *r);
double toy_uniform(toy_rng *r);
double toy_normal(toy_rng *r);

/* -- values of the seeds --------------------------------------------------------------- */
enum { TOY_SEEDS = 64 };                /* at most                                           */
double toy_mean(const double *v, int n);
double toy_least(const double *v, int n);
double toy_most(const double *v, int n);

/* -- a scratch folder ------------------------------------------------------------------- */
sy_status toy_folder(char dir[256]);    /* new and empty; SY_E_IO                           */
void toy_folder_remove(const char *dir);

/* -- models ------------------------------------------------------------------------------- */
typedef struct { int hidden, layers, heads, ffn, vocab; uint64_t seed; } toy_shape;
/* A Llama with random weights as a Hugging Face folder. */
sy_status toy_model_write(sy_context *ctx, const toy_shape *shape, const char *dir);

/* -- order-2 Markov text ------------------------------------------------------------------ */
enum { TOY_SYMBOLS = 32, TOY_ROWS = 16, TOY_SEQ = 48, TOY_TOKENS = TOY_ROWS * TOY_SEQ };
typedef struct { float p[TOY_SYMBOLS * TOY_SYMBOLS][TOY_SYMBOLS]; } toy_chain; /* cumulative */
void toy_chain_make(toy_chain *chain, uint64_t seed);
/* Half of the contexts get new probabilities. */
void toy_chain_change(toy_chain *chain, uint64_t seed);
/* Nats a symbol that the chain itself cannot know, over its own text. */
double toy_chain_entropy(const toy_chain *chain, uint64_t seed);
typedef struct {
    int32_t ids[TOY_TOKENS], positions[TOY_TOKENS], first[TOY_TOKENS], target[TOY_TOKENS], sample[TOY_TOKENS];
    sy_batch batch;
} toy_batch;
void toy_batch_make(toy_batch *b, const toy_chain *chain, toy_rng *rng);

/* -- training -------------------------------------------------------------------------------- */
typedef struct {
    const char *model;                /* folder                                              */
    const char *adapter;              /* method, NULL: none (frozen)                         */
    const char *const *settings;      /* of the adapter, NULL-ended                          */
    double lr;                        /* cosine to 0                                         */
    int steps;
    uint64_t seed;
    const char *save;                 /* folder for the trained whole model, NULL: none      */
    double *gradient;                 /* NULL, or where the first step's gradient norm goes  */
} toy_training;
/* AdamW on fresh text of `chain`; validation loss (nats a symbol) on held-out text. */
sy_status toy_train(sy_context *ctx, const toy_training *t, const toy_chain *chain, double *loss, int64_t *trained);

/* A chain, the same with half of its contexts new, and a Llama (hidden 64, 2 blocks) pretrained
 * for 3000 steps on the first, in the folder `dir` (new; its loss on its own text in *start). */
sy_status toy_pretrained(sy_context *ctx, uint64_t seed, toy_chain *old, toy_chain *now, char dir[256], double *start);

/* -- one linear map ---------------------------------------------------------------------------- */
/* Fits the update of one TOY_LINEAR x TOY_LINEAR layer to `target` by Adam on the squared
 * error: *error = |update - target|^2 / |target|^2. */
enum { TOY_LINEAR = 64 };
sy_status toy_fit(sy_context *ctx, const char *adapter, const char *const *settings, const float *target, double lr, int steps,
                  uint64_t seed, double *error, int64_t *trained);
/* out[n,n] = U[n,r] V[n,r]^T / sqrt(r), U and V normal. */
void toy_low_rank(toy_rng *r, int n, int rank, float *out);
/* A Haar-distributed orthogonal matrix. */
void toy_orthogonal(toy_rng *r, int n, float *out);

#endif
