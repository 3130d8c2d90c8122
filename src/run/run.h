/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of a run. Internal to src/run. */
#ifndef SYI_RUN_H
#define SYI_RUN_H

#include "graph/graph.h"
#include "model/model.h"
#include "steelyard/run.h"
#include "tensor/kernels.h"

/* A method in force. */
typedef struct {
    const sy_method *method;
    void *self;
    sy_use use;                       /* method and self again, as owner                 */
    sy_wrap **wraps; int n_wraps;     /* adapters: one a site                           */
    sy_param **shared;                /* by slot row: tensors shared over sites          */
} syi_active;

typedef struct { const char *name; double factor; } syi_group;
typedef struct { const sy_method *method; const sy_site *site; const char *var; int64_t value; } syi_dim;

struct sy_run {
    sy_context *ctx;
    sy_run_options options;           /* strings owned by arena                          */
    syi_arena *arena;
    syi_engine *engine;
    sy_model *model;
    sy_tokenizer *tokenizer;          /* may be NULL                                     */
    int32_t eos, bos;             /* -1: none                                        */
    int32_t ends[17];             /* each of these ends an answer                    */
    int n_ends;
    syi_active *active; int n_active;
    sy_param **params; int n_params;  /* the model's and the methods'                    */
    int64_t cap_params;
    syi_group *groups; int n_groups;
    syi_dim *dims; int64_t n_dims, cap_dims;
    sy_graph *graph;
    syi_heap *heap;
    sy_plan plan;
    syi_profile *profile;
    int64_t step, total;
    int64_t micro;                    /* micro-batch inside the step: part of noise keys  */
    bool reserved;
    sy_feed *feed; void *feed_self;   /* the text of the training, or NULL               */
    bool terms_done;                  /* this step has its extra terms of the loss       */
    double task_loss;                 /* of the last forward: the loss without them      */
    void *grads;                      /* all gradients, in order of params               */
    int64_t grad_bytes;
    syi_active *current;              /* the method whose init or attach is running      */
    int32_t *micro_first, *micro_sample; int64_t micro_cap; /* a micro-batch's own indices */
    syi_adapter_dir *adapter_dir;     /* while an adapter is being loaded                */
};

/* _methods.c */
syi_active *syi_run_active(const sy_run *run, sy_kind kind); /* the first of that kind, or NULL */
/* Attaches every method: sites, slots, fills, hooks. */
sy_status syi_run_attach(sy_run *run);
/* Does that token end an answer? */
bool syi_run_is_end(const sy_run *run, int32_t id);
/* The text of BOS, for templates; NULL: none. */
const char *syi_run_bos_text(const sy_run *run);
/* A trained parameter of the model (a site's weight, a norm, a bias) joins the run. */
sy_status syi_run_add_param(sy_run *run, sy_param *p);
/* The optimizer's state tensors of every trained parameter. */
sy_status syi_run_make_states(sy_run *run);
/* _step.c: one forward (and backward) over a batch that fits in the plan. */
sy_status syi_run_graph_options(const sy_run *run, bool training, bool planning, syi_graph_options *out);
/* Loss of hidden states h through the head and whatever is around it. */
sy_node *syi_run_head_loss(sy_run *run, sy_graph *g, sy_node *h, const sy_batch *batch, double scale, float *nll);
sy_node *syi_run_build_loss(sy_run *run, sy_graph *g, const sy_batch *batch, double scale, float *nll);
/* Checks a batch against the model; makes what its positions need. */
sy_status syi_run_prepare(sy_run *run, const sy_batch *batch);
/* Rows that the head reads: the batch's tokens, or the rows that are classified. */
int64_t syi_run_targets(const sy_run *run, const sy_batch *batch);
sy_node *syi_run_logits_node(sy_run *run, sy_graph *g, sy_node *h);
/* f32 logits of rows of the hidden states, through the head and whatever is around it. */
sy_status syi_run_head(sy_run *run, sy_node *h, int64_t row, int64_t n, float *logits);
/* Compute copies of parameters whose master has changed. */
sy_status syi_run_refresh(sy_run *run);
/* _params.c: makes the parameters of a wrap's slot rows (and the shared ones). */
sy_status syi_run_make_slots(sy_run *run, syi_active *a, sy_wrap *w);
/* Value of a shape text for a slot ("r,in"). */
sy_status syi_slot_shape(sy_run *run, const syi_active *a, const sy_site *site, const sy_slot *slot, int *rank, int64_t *dim);
/* Does the row exist at this site (NULL: a shared row)? */
bool syi_slot_when(const syi_active *a, const sy_site *site, const sy_slot *slot);
/* _resize.c: new dimensions in the room that the parameter has; contents are the caller's. */
sy_status syi_param_shape(sy_run *run, sy_param *p, int rank, const int64_t *dim);
double syi_run_group_factor(const sy_run *run, const char *group);
/* _adapter.c: a PEFT folder around the run's model; strict. */
/* Method and options from adapter_config.json. */
sy_status syi_run_adapter_use(sy_context *ctx, const char *dir, sy_use *out);
/* After attach: the folder's tensors into slots, trained biases and modules_to_save.
 * Missing, unexpected or misshapen tensors are SY_E_INPUT that names them. */
sy_status syi_run_adapter_load(sy_run *run, syi_active *a, const char *dir);
/* Into an existing folder. */
sy_status syi_run_adapter_save(sy_run *run, syi_active *a, const char *dir);
/* The adapter as a LoRA GGUF (F32, F16 or BF16); SY_E_UNSUPPORTED with the reason when it
 * is no plain LoRA. Without a file only what it would hold. */
sy_status syi_run_adapter_to_gguf(sy_run *run, const char *file, sy_dtype dtype, int64_t *tensors, int64_t *bytes);
/* _as_lora.c: any adapter that is a linear change of weights as a plain LoRA folder: exactly where it
 * is one and `rank` and `energy` are 0, otherwise by the leading singular directions of the
 * update. rank: at most (0: any); energy: the least rank that keeps this share of its squared
 * norm. dir NULL: only what it would be. */
typedef struct { int64_t rank; double energy; int64_t tensors, bytes, largest; double kept; } syi_as_lora;
sy_status syi_run_adapter_to_lora(sy_run *run, const char *dir, syi_as_lora *how);
/* The name of a slot's, trained bias' or saved module's tensor in PEFT's file. */
const char *syi_adapter_tensor_name(sy_run *run, const sy_param *p);
/* _fold.c: the weight of a site with its adapters folded in. w: f32, as the weight is
 * stored ([out,in]; an embedding's table [vocabulary,hidden]), in: the file's, out: folded.
 * constant[site->out]: what the chain adds whatever its input. *delta: max |difference|. */
sy_status syi_run_fold_site(sy_run *run, sy_site *site, float *w, double *constant, double *delta);

#endif
