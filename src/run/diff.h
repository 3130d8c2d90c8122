/* SPDX-License-Identifier: Apache-2.0 */
/* What diff compares: two sides, each a list of named matrices that give rows as f32,
 * whatever they come from. Internal to src/run. */
#ifndef SYI_DIFF_H
#define SYI_DIFF_H

#include "run/run.h"

/* -- _diff_side.c ------------------------------------------------------------------ */

/* A tensor seen as a matrix: its first dimension, and the rest. A vector is one row. */
typedef struct {
    const char *name;
    sy_dtype dtype;
    int64_t rows, cols;
    const sy_entry *entry;        /* of a model                                        */
    const syi_lora_pair *pair;    /* of a plain LoRA: its update is scale * B A         */
    sy_site *site;                /* of another adapter: folded and subtracted          */
} syi_diff_item;

typedef struct {
    sy_context *ctx;
    const char *path, *kind;      /* "Hugging Face folder" ... for people               */
    bool update;                  /* items are updates of weights, not weights          */
    syi_arena *arena;
    syi_diff_item *items;
    int64_t n;
    syi_map *names;
    syi_source *source;           /* of a model                                        */
    sy_run *run;                  /* of an adapter that is no plain LoRA                */
    syi_engine *engine;           /* borrowed                                          */
    const syi_diff_item *held;    /* the item whose values are in `values`              */
    float *values;
} syi_diff_side;

/* Model folder or GGUF, .safetensors, adapter folder, LoRA GGUF. base: the model of an
 * adapter that is no plain LoRA (NULL: the one its config names). */
sy_status syi_diff_open(sy_context *ctx, syi_engine *e, const char *path, const char *base, syi_diff_side **out);
void syi_diff_close(syi_diff_side *s);
const syi_diff_item *syi_diff_find(const syi_diff_side *s, const char *name);
sy_status syi_diff_rows(syi_diff_side *s, const syi_diff_item *item, int64_t row, int64_t n, float *dst);
/* Its bytes will not be read again soon. */
void syi_diff_forget(const syi_diff_item *item);
bool syi_diff_is_adapter(sy_context *ctx, const char *path);

/* -- _diff_measure.c ---------------------------------------------------------------- */

enum { SYI_DIFF_TOP = 16 };
typedef enum { SYI_SPECTRUM_AUTO, SYI_SPECTRUM_EXACT, SYI_SPECTRUM_FAST, SYI_SPECTRUM_OFF } syi_spectrum_how;

typedef struct {
    double a2, b2, d2, ab;        /* sums of squares of A, B, B - A, and of A B          */
    double max;                   /* of |B - A|                                        */
    int64_t count, changed, not_finite;
    /* of B - A (n_sigma 0: not computed): */
    bool exact;                   /* all singular values, or only the leading ones      */
    int64_t n_sigma, full_rank;   /* known, and min(rows, cols)                        */
    double sigma[SYI_DIFF_TOP];
    double effective_rank, stable_rank;
    int64_t rank90, rank99;       /* singular values that hold that share of d2; -1: more than known */
} syi_diff_result;

/* One pair of tensors; either may be NULL (zeros). add: b is an update of a (B = A + b).
 * Memory: a slice of rows, and for the spectrum a matrix or its Gram matrix. */
sy_status syi_diff_measure(sy_context *ctx, syi_engine *e, syi_diff_side *sa, const syi_diff_item *a, syi_diff_side *sb,
                           const syi_diff_item *b, bool add, syi_spectrum_how how, uint64_t seed, syi_diff_result *out);

#endif
