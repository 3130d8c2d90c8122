/* SPDX-License-Identifier: Apache-2.0 */
/* Mergers: how one tensor is made from the same tensor of N checkpoints.
 *
 * A merger is a method of kind SY_MERGER whose descriptor points to a sy_merger. The
 * engine (src/run/merge.c) reads the recipe, opens the models, and walks the output
 * tensor by tensor: nothing is held but a few tiles, so memory does not grow with the
 * models. A tensor is cut into tiles of whole rows; tiles are worked on in any order by
 * any thread, partial sums are added in the order of the tiles, so results do not depend
 * on the number of threads. Inputs are f32 (exact for F16, BF16 and F32 files), sums f64,
 * the result is rounded once to the type of the output.
 *
 * For each tensor: begin, then for each pass p: look (every tile), sum (once), and at last
 * make (every tile). A merger that needs a matrix at once (decompositions) sets
 * m->whole in begin: then `whole` is called instead, several tensors side by side.
 *
 * A merger that needs a number of the whole model (a norm) before it can finish goes over it
 * twice: `rounds` 2. The first round then makes f32 tensors that are kept beside the model
 * (the state), with `globals` numbers a tensor, which are added up and given to `between`;
 * the second round reads the state. A state of an earlier merge can be taken up.
 *
 * A merger that needs counts of the whole model before its first tensor (one threshold for all)
 * has a survey: walks over all tensors that only count. Nothing is written in them.
 *
 * Parameters are option rows of the method. Their names are mergekit's; a recipe may give
 * each as a number, a gradient over layers or a list with filters, per model where the row
 * has SY_OPT_PER_MODEL; a per-model row without default must be given. */
#ifndef STEELYARD_MERGE_H
#define STEELYARD_MERGE_H

#include "method.h"

#ifdef __cplusplus
extern "C" {
#endif

struct syi_mix;
typedef struct sy_merging sy_merging; /* the whole merge */

enum { SY_MERGE_INPUTS = 64 };

typedef struct sy_merge {
    const char *name;            /* of the output tensor                                   */
    sy_role role;                /* SY_ROLE_NONE where the architecture is unknown         */
    bool linear;                 /* a weight matrix that multiplies activations            */
    int block;                   /* output layer, -1: outside the layers                   */
    int rank;
    int64_t dim[SY_MAX_RANK], rows, cols, count;
    int n;                       /* inputs, the base not among them                        */
    bool based;                  /* there is a base                                        */
    const int *model;            /* [n] which model of the recipe an input is              */
    const struct syi_mix *mix;   /* vector kernels of this processor (tensor/mix.h)        */
    void *own;                   /* merger->own bytes, zeroed before begin                 */
    int64_t index;               /* of the tensor in the merge                             */
    /* set by begin (and sum may raise `passes` and `counts`) */
    bool whole;
    int64_t sample;              /* numbers that the hook `sample` sees first, 0: none     */
    int passes;                  /* how often look is called                               */
    int sums;                    /* doubles a tile adds up in a pass, <= any number        */
    int64_t counts;              /* counters that look adds to (whole numbers: their order
                                    does not matter), zeroed before each pass              */
    int64_t kept;                /* bytes that look leaves for make (masks)                */
    /* the engine's answers */
    int round;                   /* 0, 1                                                   */
    double *global;              /* [merger->globals], to be filled in round 0             */
    const float *state;          /* for whole: the state of this tensor, NULL: none        */
    double *total;               /* [sums] of the pass that ended                          */
    double *part;                /* [tiles][sums]: the same tile by tile, kept until the next
                                    pass; sum may change it for make to read               */
    int64_t *counted;            /* [counts] of the pass that ended                        */
    uint8_t *keep;               /* [kept]                                                 */
    int64_t tiles, per_tile;     /* numbers of a full tile                                 */
    const double *value;         /* see sy_merge_value                                     */
    sy_merging *job;
    struct syi_merge_tensor *of;
} sy_merge;

/* Rows [row, row + rows): the numbers [first, first + n) of the tensor. */
typedef struct sy_tile {
    int64_t index, row, rows, first, n;
    const float *base;           /* [n], NULL without base                                 */
    const float *const *in;      /* m->n of [n]                                            */
    const float *state;          /* [n], NULL: there is none                               */
    float *out;                  /* [n], to be filled by make                              */
    double *sum;                 /* [m->sums], zeroed                                      */
    uint32_t *counts;            /* [m->counts], shared by the tiles of a thread           */
    double *wide[3];             /* scratch, [n] each, one behind the other                */
    float *spare[SY_MERGE_INPUTS];/* scratch, m->n of [n] each                             */
} sy_tile;

typedef enum { SY_MERGE_BASE_NONE, SY_MERGE_BASE_OPTIONAL, SY_MERGE_BASE_REQUIRED } sy_merge_base;

typedef struct sy_merger {
    sy_merge_base base;          /* NONE: a base_model is an input like any other          */
    int min_inputs, max_inputs;  /* the base not counted; max 0: any number                */
    size_t own;                  /* bytes a tensor                                         */
    bool spare;                  /* tiles need the scratch `spare`                         */
    bool holds;                  /* prepare holds all inputs as f32                        */
    int rounds;                  /* 2: see above                                           */
    int (*globals)(void *self, const sy_merging *job); /* numbers a tensor in round 0      */
    sy_status (*between)(void *self, sy_merging *job, const double *sums);
    /* Once, before the first tensor: checks, work that needs other tensors.              */
    sy_status (*prepare)(void *self, sy_merging *job);
    /* Before the first tensor, once a walk: how many counters the walk has (0: no further
     * walk); counted: those of the walk before. glance sees every tile of every tensor and
     * adds to t->counts. */
    int64_t (*survey)(void *self, const sy_merging *job, int walk, const int64_t *counted);
    void (*glance)(void *self, const sy_merge *m, int walk, sy_tile *t);
    sy_status (*begin)(void *self, sy_merge *m);
    /* Numbers from all over the tensor, about m->sample of them (all, if there are fewer). */
    void (*sample)(void *self, sy_merge *m, const sy_tile *t);
    void (*look)(void *self, const sy_merge *m, int pass, sy_tile *t);
    sy_status (*sum)(void *self, sy_merge *m, int pass); /* of several tensors side by side */
    void (*make)(void *self, const sy_merge *m, sy_tile *t);
    /* base (or NULL), in[n], out: whole tensors. Called by several threads at once.       */
    sy_status (*whole)(void *self, const sy_merge *m, const float *base, const float *const *in, float *out);
} sy_merger;

/* In prepare: the state that a merge left in `folder` is there in round 0. */
sy_status sy_merge_state(sy_merging *job, const char *folder);
/* Models of the merge that are not the base, in the recipe's order. */
int sy_merge_models(const sy_merging *job);
int64_t sy_merge_tensors(const sy_merging *job);
/* Numbers of all tensors that are merged together. */
int64_t sy_merge_numbers(const sy_merging *job);
sy_context *sy_merging_context(const sy_merging *job);
uint64_t sy_merging_seed(const sy_merging *job);
/* A text that goes with the state (JSON), from round 0; the one of an earlier state. */
sy_status sy_merge_note(sy_merging *job, const char *text);
const char *sy_merge_noted(const sy_merging *job);
/* A line of the report, and a number under `key` in --json. */
sy_status sy_merge_report(sy_merging *job, const char *key, double value);

/* A parameter of this tensor: of input i, or (i = -1) the shared one; booleans 0 and 1,
 * choices their index. Unknown names give NAN. */
double sy_merge_value(const sy_merge *m, const char *parameter, int i);
/* Key of the random stream of an input: depends on (seed, purpose, model, tensor) only.
 * Number k of it belongs to element k of the tensor. */
uint64_t sy_merge_key(const sy_merge *m, const char *purpose, int i);
/* Sets the error (threads may do it: the first one wins) and returns `code`. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
sy_status sy_merge_fail(const sy_merge *m, sy_status code, const char *fmt, ...);
sy_context *sy_merge_context(const sy_merge *m);

#ifdef __cplusplus
}
#endif
#endif
