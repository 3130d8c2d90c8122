/* SPDX-License-Identifier: Apache-2.0 */
/* Runs: a model with methods around it, ready to compute. This is the level below
 * the verbs: what an embedding program uses when a job (job.h) is too coarse.
 *
 *     sy_run_open -> sy_run_reserve -> sy_run_loss / sy_run_step ... -> sy_run_close
 */
#ifndef STEELYARD_RUN_H
#define STEELYARD_RUN_H

#include "method.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A method and its context, options filled (sy_use_new). */
typedef struct { const sy_method *method; void *self; } sy_use;

/* Finds a method and fills its context from "key=value" texts (n of them; unknown keys
 * are SY_E_USAGE). The run that gets it calls the method's free; otherwise sy_use_free. */
sy_status sy_use_new(sy_context *ctx, const char *name, sy_kind kind, const char *const *settings, int n, sy_use *out);
/* A method of the program's own (not in the registry): out->self is its context, zeroed,
 * options at their defaults, for the caller to fill. */
sy_status sy_use_own(sy_context *ctx, const sy_method *method, sy_use *out);
void sy_use_free(sy_context *ctx, sy_use *use);

typedef struct {
    const char *model;        /* Hugging Face folder or GGUF file                      */
    const char *adapter;      /* PEFT folder to load around it, or NULL                */
    sy_use *use;              /* methods, taken (also when the call fails)              */
    int n_use;
    sy_dtype dtype;           /* of activations and products: BF16, F32 (F64 in tests)  */
    bool training;            /* parameters get gradients and optimizer state           */
    bool merged_only;         /* adapter must fold exactly (checks only)                */
    int recompute_blocks;     /* 0 none, -1 all, N the first N                          */
    uint64_t seed;
    int64_t total_steps;      /* for schedules that methods own; 0 unknown              */
    int64_t memory_limit;     /* bytes, 0: none                                         */
    int64_t row_tokens;       /* tokens of a row of a batch: batches are cut between rows
                                 only (0: anywhere)                                     */
    int64_t micro_tokens;     /* tokens a forward of a training step (in whole rows): 0
                                 picks 1024 where cutting costs nothing, -1 never cuts
                                 unless the memory limit asks for it                    */
    bool keep_coded;          /* GGUF blocks stay blocks, multiplied as they are (default);
                                 off: expanded to dtype when the model is opened         */
    bool plan_only;           /* nothing is read or allocated beyond headers             */
} sy_run_options;

void sy_run_options_init(sy_run_options *options);
sy_status sy_run_open(sy_context *ctx, const sy_run_options *options, sy_run **out);
void sy_run_close(sy_run *run);

/* What it will hold, in bytes. step: for batches of `tokens` tokens. */
typedef struct {
    int64_t model;        /* weights, mapped or copied                                */
    int64_t parameters;   /* masters, compute copies and gradients of what is trained  */
    int64_t optimizer;    /* its state                                                */
    int64_t step;         /* activations, gradients, scratch                          */
    int64_t other;        /* tokenizer, data, library overhead                        */
    int64_t total;
    int recompute_blocks;
    int64_t micro_tokens; /* tokens a forward, when a batch is cut (0: not)           */
} sy_plan;
/* With a memory limit: halves micro_tokens, then raises recompute_blocks, until the plan
 * fits, or SY_E_MEMORY that says what would be needed. */
sy_status sy_run_plan(sy_run *run, int64_t tokens, bool training, sy_plan *out);
/* Allocates what the plan says. */
sy_status sy_run_reserve(sy_run *run, const sy_plan *plan);

/* Sum over trained tokens of weight * nll (natural log) and their number. */
typedef struct { double loss_sum; int64_t trained; } sy_loss;
/* Forward only. nll[tokens] may be NULL. */
sy_status sy_run_loss(sy_run *run, const sy_batch *batch, sy_loss *out, float *nll);

/* One optimizer step over the batch (cut into micro-batches as planned; the loss is the
 * mean over all trained tokens of the batch whatever the cut): forward, backward, clip,
 * update. clip <= 0: off. */
typedef struct { double loss; int64_t trained; double grad_norm; } sy_step_result;
sy_status sy_run_step_once(sy_run *run, const sy_batch *batch, double lr, double clip, sy_step_result *out);
/* Tells the methods: SY_START before the first step of a training (when it is resumed too),
 * SY_STOP after the last and before saving, SY_BOUNDARY between tasks. */
sy_status sy_run_event(sy_run *run, sy_when when);
/* Where methods get the text of a training from before it begins (EVA's pass over inputs): batch
 * `index` of `rows` rows, counted from the first row of the data; its arrays are valid until the
 * next call. Set before SY_START. */
typedef sy_status sy_feed(void *self, int64_t index, int64_t rows, sy_batch *out);
void sy_run_feed(sy_run *run, sy_feed *fn, void *self);
/* The pieces of it, for trainers: gradients are added to the parameters', scaled by
 * `scale`; then clip + update + clear. */
sy_status sy_run_backward(sy_run *run, const sy_batch *batch, double scale, sy_loss *out);
sy_status sy_run_update(sy_run *run, double lr, double clip, double *grad_norm);

/* Logits [tokens, vocabulary] f32, given to `sink` in chunks of rows, in order. */
typedef sy_status sy_logits_sink(void *self, int64_t row, int64_t rows, const float *logits);
sy_status sy_run_logits(sy_run *run, const sy_batch *batch, sy_logits_sink *sink, void *self);

/* -- generation ---------------------------------------------------------------------- */
typedef struct {
    int64_t max_new;
    double temperature;      /* 0: greedy (first of equals)                            */
    int64_t top_k; double top_p; /* 0 / 1: off                                         */
    uint64_t seed;
    bool ignore_eos;
} sy_sampling;
/* Called with every new token; returning false stops. text: whole characters only. */
typedef bool sy_token_fn(void *self, int32_t id, const char *text, int64_t len);
typedef struct { int64_t prompt_tokens, new_tokens; double prompt_seconds, seconds; bool eos; } sy_generated;
sy_status sy_run_generate(sy_run *run, const int32_t *prompt, int64_t n, const sy_sampling *how,
                          int32_t *out_ids /* [max_new] */, sy_token_fn *fn, void *self, sy_generated *result);

/* -- one layer ------------------------------------------------------------------------ */
/* What `steelyard compress --method METHOD` would store for the weight w[out,in] alone, given
 * `stats` of its inputs (fields as in compress.h; `have` says which are there): value[out,in] is the
 * stored weight, dense; *bits (may be NULL) what it takes, stored bits a weight. settings: "key=value",
 * NULL-ended, or NULL. The run lends its engine; its model is not looked at. SY_E_UNSUPPORTED for methods that
 * work on whole blocks; SY_E_USAGE when the method wants statistics that are not there. */
sy_status sy_compress_layer(sy_run *run, const char *method, const char *const *settings, const sy_stats *stats, int64_t out, int64_t in, const float *w, float *value,
                            double *bits);

/* -- what is in it ------------------------------------------------------------------------ */
const sy_tokenizer *sy_run_tokenizer(const sy_run *run); /* NULL: the model has none */
const char *sy_run_chat_template(const sy_run *run);
int32_t sy_run_eos(const sy_run *run), sy_run_bos(const sy_run *run); /* -1: none */
int64_t sy_run_trained(const sy_run *run);   /* trained scalars                        */
int64_t sy_run_parameters(const sy_run *run);/* all scalars of the base model          */
int64_t sy_run_context_length(const sy_run *run);
int64_t sy_run_vocabulary(const sy_run *run);
sy_use *sy_run_use(sy_run *run, sy_kind kind); /* the method of that kind, or NULL     */

/* -- saving -------------------------------------------------------------------------------- */
/* Into an existing folder. adapter: adapter_config.json, adapter_model.safetensors, README.md;
 * without an adapter (full): config.json, model.safetensors, tokenizer files. */
sy_status sy_run_save(sy_run *run, const char *dir);
/* The model with its adapters folded into the weights, as a Hugging Face folder (atomic). */
typedef struct { int64_t tensors, tensors_changed, bytes; double max_delta; } sy_fold;
sy_status sy_run_fold(sy_run *run, const char *dir, sy_dtype dtype, sy_fold *out);
/* Parameters, optimizer and method state, step: everything that the next step depends on,
 * as one safetensors file; restored bit for bit. */
sy_status sy_run_state_save(sy_run *run, const char *file);
sy_status sy_run_state_load(sy_run *run, const char *file);

#ifdef __cplusplus
}
#endif
#endif
