/* SPDX-License-Identifier: Apache-2.0 */
/* A loaded model: config, parameters, sites. Internal.
 *
 * The model owns its sites and the weights behind them. Weights that are not trained
 * stay where they are when they can (mapped bf16), are converted once otherwise.
 * Parameters (norms, biases, and in full fine-tuning everything) are sy_param. */
#ifndef SYI_MODEL_H
#define SYI_MODEL_H

#include "base/base.h"
#include "io/io.h"
#include "steelyard/method.h"

struct sy_model {
    sy_context *ctx;
    syi_source *source;         /* owned                                               */
    const sy_arch *arch;
    void *config;               /* arch->config_size bytes                              */
    syi_arena *arena;           /* names, sites, params                                 */
    sy_dtype dtype;             /* of activations                                       */
    sy_site *sites; int n_sites;
    sy_param *params; int n_params; /* norms, biases, embeddings, trained weights        */
    int64_t vocab, hidden, context_length;
    int64_t n_scalars;          /* of the base model                                    */
    int64_t bytes;              /* held or mapped for weights                           */
    const sy_weight *head, *embedding; /* equal when tied                                */
    sy_tensor rope_cos, rope_sin; /* [context, head_dim/2], made for as many positions as needed */
    void **owned; int n_owned, cap_owned; /* buffers from syi_pages                       */
};

typedef struct { sy_dtype dtype; bool train_all; bool keep_coded; bool plan_only; int64_t positions; } syi_model_options;
sy_status syi_model_load(sy_context *ctx, const char *path, const syi_model_options *options, sy_model **out);
void syi_model_free(sy_model *m);
/* By module path or NULL. */
sy_site *syi_model_site(sy_model *m, const char *name);
sy_param *syi_model_param(sy_model *m, const char *name);
/* Makes an existing weight or parameter trained (master copy, gradient by the run). */
sy_status syi_model_train(sy_model *m, sy_site *site);
/* f32 rows of the tensor called `name` as it is now (after training or replacing). */
sy_status syi_model_rows(sy_model *m, const char *name, int64_t row, int64_t n, float *dst, bool *changed);
/* config.c: the struct that an architecture's rows describe, from config.json; checked
 * (arch->check). Strings from `arena`. */
sy_status syi_arch_config(sy_context *ctx, const sy_arch *arch, const json_t *json, syi_arena *arena, void **config);
/* Value of a field as a number (bool: 0/1); false: no such field. */
bool syi_arch_field(const sy_arch *arch, const void *config, const char *field, int64_t *value);
/* "heads*head_dim,hidden" -> dims. */
sy_status syi_arch_shape(sy_context *ctx, const sy_arch *arch, const void *config, const char *shape, int *rank, int64_t *dim);
/* For builders: nodes of norms and embeddings. */
sy_node *syi_model_norm(sy_graph *g, sy_model *m, const char *fmt, int block, sy_node *x, double eps);

#endif
