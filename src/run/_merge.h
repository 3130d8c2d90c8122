/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of a merge: recipe, models, plan, work, output. Internal. */
#ifndef SYI_MERGE_H
#define SYI_MERGE_H

#include "io/checkpoint.h"
#include "io/io.h"
#include "model/model.h"
#include "run/job.h"
#include "steelyard/merge.h"
#include "tensor/mix.h"

/* -- the recipe (_merge_recipe.c): mergekit's YAML as it was written --------------------- */

typedef struct { char *model; const json_t *parameters; } syi_recipe_model;
typedef struct { char *model; int64_t layer_range[2]; const json_t *parameters; } syi_recipe_source;
typedef struct { syi_recipe_source *sources; int64_t n_sources; char *base_model; const json_t *parameters; } syi_recipe_slice;
typedef struct {
    char *name;
    syi_recipe_slice *slices; int64_t n_slices;
    syi_recipe_model *models; int64_t n_models;
    const json_t *parameters;
} syi_recipe_module;
typedef struct { char *token; const json_t *source; bool force; } syi_recipe_token;
typedef struct { char *source; syi_recipe_token *tokens; int64_t n_tokens; int64_t pad_to_multiple_of; } syi_recipe_tokenizer;
typedef struct {
    syi_arena *arena;              /* owns everything; json is a reference of its own       */
    json_t *json;
    const char *path;
    char *merge_method, *base_model, *dtype, *out_dtype, *tokenizer_source, *chat_template;
    syi_recipe_module *modules; int64_t n_modules;
    syi_recipe_slice *slices; int64_t n_slices;
    syi_recipe_model *models; int64_t n_models;
    syi_recipe_tokenizer *tokenizer; int64_t n_tokenizer;
    const json_t *parameters;
} syi_recipe;

sy_status syi_recipe_read(sy_context *ctx, const char *path, syi_recipe *out);
void syi_recipe_free(syi_recipe *r);

/* -- models (_merge_input.c) ----------------------------------------------------------------- */

typedef struct {
    char *text, *path, *adapter;   /* "model+lora" as written, and its two parts            */
    syi_source *source;            /* NULL where only a safetensors file is there            */
    sy_checkpoint *tensors;        /* source's, or its own                                   */
    sy_run *run;                   /* with an adapter: model + adapter, to fold              */
    int64_t vocab;                 /* rows of the embedding, 0 unknown                       */
    int64_t *take; int64_t n_take; /* output token -> row here, -1: none (_merge_vocab.c)    */
} syi_merge_model;

/* Where rows of one input tensor come from. */
typedef struct {
    int model;
    const sy_entry *entry;
    sy_site *fold;                 /* the adapter changes it: made whole before its batch     */
    float *made;                   /* that, [rows, cols], while its batch is worked on        */
    const int64_t *take;           /* row r of the output is row take[r] here                */
    const struct syi_merge_vocab *vocab; /* what stands for take[r] < 0                       */
} syi_merge_in;

sy_status syi_merge_open(sy_merging *g, const char *text, int *model);
void syi_merge_models_free(sy_merging *g);
/* Prepares folded weights; frees them. */
sy_status syi_merge_in_make(sy_merging *g, syi_merge_in *in);
void syi_merge_in_forget(sy_merging *g, syi_merge_in *in);
/* Rows as f32: a pointer into what is there, or `dst` filled. From any thread. */
const float *syi_merge_in_rows(const sy_merging *g, const syi_merge_in *in, int64_t row, int64_t n, float *dst);
/* Numbers [first, first + n) to dst; `row`: scratch of a whole row. */
void syi_merge_in_run(const sy_merging *g, const syi_merge_in *in, int64_t first, int64_t n, float *dst, float *row);

/* -- the plan (_merge_plan.c) ------------------------------------------------------------------ */

typedef struct syi_merge_tensor {
    char *name;
    const sy_arch_tensor *row;     /* NULL: not known to the architecture                    */
    int block;                     /* output layer                                           */
    double t;                      /* place in the slice, for gradients                      */
    const syi_recipe_slice *slice;
    const syi_recipe_module *module;
    int rank;
    int64_t dim[SY_MAX_RANK], rows, cols, count;
    sy_dtype dtype;                /* of the output                                          */
    bool copy;                     /* whole numbers, or one source only: taken over           */
    bool vocab;                    /* its rows are tokens                                    */
    int n;                         /* inputs without the base                                */
    syi_merge_in *in;              /* [n]                                                    */
    syi_merge_in *base;            /* NULL: none                                             */
    int *model;                    /* [n]                                                    */
    double *value;                 /* [rows of the method][n + 1], the shared one last        */
    syi_file *file;                /* where it lies in the output                            */
    int64_t at, bytes;
    syi_file *state_file;          /* where its state lies                                   */
    int64_t state_at;
    double *global;                /* its numbers of round 0                                 */
    bool done;
} syi_merge_tensor;

struct sy_merging {
    sy_context *ctx;
    syi_arena *arena;
    syi_recipe recipe;
    sy_use use;                    /* the method                                             */
    const sy_merger *merger;
    int n_rows;                    /* of its option table                                    */
    syi_merge_model *models; int n_models; int64_t cap_models;
    int base;                      /* index of base_model, -1                                */
    int donor;                     /* whose config and tokenizer the output gets              */
    const sy_arch *arch;
    int64_t layers;                /* of the output, 0 unknown                               */
    int dtype;                     /* asked for, -1: the base's own                          */
    syi_merge_tensor *tensors; int64_t n, cap;
    struct syi_merge_vocab *vocab;
    const syi_mix *mix;
    uint64_t seed;
    int64_t memory_limit, shard_bytes;
    bool unrelated;                /* do not ask whether the base is the base                */
    bool counting;                 /* some tensor needs counters                             */
    int64_t largest_kept;          /* bytes that passes leave of one tensor at most            */
    int64_t largest_whole;         /* numbers that `whole` holds for one tensor at most      */
    json_t *config;                /* of the output                                          */
    /* the work */
    int round, globals;
    sy_writer *state_writer;
    sy_checkpoint *state;          /* that of an earlier merge, then that of round 0         */
    char *note, *noted;            /* texts beside the new state and the earlier one         */
    json_t *numbers;               /* for the report                                         */
    sy_writer *writer;
    char *work;                    /* folder                                                 */
    syi_appender *journal;
    int lock;
    int64_t resumed;               /* tensors that were there already                        */
    int failed;                    /* status of the first thread that failed                  */
    char why[512];
};

sy_status syi_merge_plan(sy_merging *g);
/* Does "model.layers.%d.x" match the name, and for which number (-1: no %d)? */
bool syi_merge_block(const char *pattern, const char *name, int *block);
/* Parameters of a tensor by precedence: source, slice, module, recipe, default. */
sy_status syi_merge_values(sy_merging *g, syi_merge_tensor *t, const json_t *const *own);
/* Keys under every "parameters" that no row answers to are errors. */
sy_status syi_merge_check_parameters(sy_merging *g);

/* -- tokens (_merge_vocab.c) --------------------------------------------------------------------- */

sy_status syi_merge_tokens(sy_merging *g);
sy_status syi_merge_tokens_write(sy_merging *g, const char *dir);
void syi_merge_tokens_free(sy_merging *g);
/* Row `r` (an output token that this input does not have) as f32. */
void syi_merge_token_default(const sy_merging *g, const syi_merge_in *in, int64_t r, float *dst);

/* -- work (_merge_work.c) and output (_merge_out.c) ------------------------------------------------ */

/* Has the method look at every tensor's parameters before anything is written. */
sy_status syi_merge_check(sy_merging *g);
/* What it will hold beyond mapped files. */
int64_t syi_merge_memory(const sy_merging *g);
sy_status syi_merge_work(sy_merging *g);
sy_status syi_merge_begin(sy_merging *g, const char *out);  /* folder, files, journal     */
sy_status syi_merge_mark(sy_merging *g, int64_t first, int64_t n); /* tensors are there   */
sy_status syi_merge_next(sy_merging *g);                    /* round 0 is over            */
sy_status syi_merge_end(sy_merging *g, const char *out);    /* everything under its name   */
void syi_merge_close(sy_merging *g);

#endif
