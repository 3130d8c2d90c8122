/* SPDX-License-Identifier: Apache-2.0 */
/* What the experiments on compression share: single layers with correlated inputs, and a small
 * Llama that is trained on order-2 Markov text of letters, compressed by the verb and measured on
 * text that nothing has seen. Public headers only. */
#ifndef EXPERIMENT_SMALL_H
#define EXPERIMENT_SMALL_H

#include "_toy.h"

#include <stdbool.h>

/* -- one layer ---------------------------------------------------------------------------- */
/* Rows of x[t,n]: n features of variance 1/i through a random matrix, each channel scaled by a
 * log-normal number. */
typedef struct { int n; float *mix; } small_source;
bool small_source_new(small_source *s, int n, double channel_sd, toy_rng *r);
void small_source_free(small_source *s);
void small_draw(const small_source *s, toy_rng *r, int rows, float *x);
/* Sums of x[t,n]; ref (may be NULL): the other stream, for dx. Free with small_stats_free. */
bool small_stats(sy_stats *s, int t, int n, const float *x, const float *ref);
void small_stats_free(sy_stats *s);
/* |value x - w ref|^2 / |w ref|^2 over t rows. */
double small_output_error(int t, int out, int in, const float *w, const float *value, const float *x, const float *ref);
double small_weight_error(int count, const float *w, const float *value); /* |value - w|^2 / |w|^2 */
/* A run that lends its engine to sy_compress_layer (of a model in a folder that is gone again). */
sy_status small_engine(sy_context *ctx, sy_run **run);

/* -- a language model ------------------------------------------------------------------------ */
typedef struct {
    char dir[256];          /* model, calib.jsonl, heldout.jsonl                             */
    char model[300];
    toy_chain chain;
    double loss;            /* nats a symbol on its own text, after training                */
} small_lm;
/* hidden 128, 2 blocks, feed-forward 384; 1200 steps. Remove with small_lm_free. */
sy_status small_lm_make(sy_context *ctx, uint64_t seed, small_lm *lm);
void small_lm_free(small_lm *lm);
/* 33 letters as a tokenizer in the folder, so that the verbs can read text. */
sy_status small_tokenizer(const char *dir);
/* rows documents of `symbols` letters each as JSONL; the letters are symbol numbers. */
sy_status small_text(const char *path, const toy_chain *chain, uint64_t seed, int rows, int symbols);
char small_letter(int symbol);
/* `steelyard compress --model model ...settings` ("key=value", NULL-ended) into a folder that is removed. *before, *after: loss on
 * held-out text; report (may be NULL): its JSON, free with free(). */
sy_status small_compress(sy_context *ctx, const small_lm *lm, const char *model, const char *const *settings, double *before, double *after, char **report);
/* The number after the n-th `key": ` of the report, or NAN. */
double small_number(const char *report, const char *key, int n);

#endif
