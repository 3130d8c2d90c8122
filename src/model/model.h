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
    sy_tensor rope_cos, rope_sin; /* [positions, head_dim/2]: syi_model_positions          */
    sy_site **by_role;          /* [blocks][SY_ROLE_COUNT]                                */
    int blocks;
    syi_map *names;             /* param and site names -> index                          */
    void **owned; int64_t n_owned, cap_owned; /* buffers from syi_pages                   */
    bool plan_only;
};

typedef struct { sy_dtype dtype; bool train_all; bool keep_coded; bool plan_only; int64_t positions; } syi_model_options;
sy_status syi_model_load(sy_context *ctx, const char *path, const syi_model_options *options, sy_model **out);
void syi_model_free(sy_model *m);
/* Rotary tables for positions 0..n-1 (grows; the step must not be running). */
sy_status syi_model_positions(sy_model *m, int64_t n);
/* The site of that role in a block (-1: outside the blocks), or NULL. */
sy_site *syi_model_role(const sy_model *m, int block, sy_role role);
/* Memory of the model: fresh zeroed pages, freed with it. NULL data when plan_only. */
sy_status syi_model_pages(sy_model *m, int64_t bytes, void **out);
/* By module path or NULL. */
sy_site *syi_model_site(sy_model *m, const char *name);
sy_param *syi_model_param(sy_model *m, const char *name);
/* Makes a site's weight a trained parameter (f32 master; the run makes the gradient). */
sy_status syi_model_train_site(sy_model *m, sy_site *site);
/* A weight that the embedding and the head share becomes this site's own. */
sy_status syi_model_untie(sy_model *m, sy_site *site);
/* The site's weight gets these values (f32 [out,in]); rounded to the compute type. */
sy_status syi_model_set_weight(sy_model *m, sy_site *site, const float *values);
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
sy_node *syi_model_norm_heads(sy_graph *g, sy_model *m, const char *fmt, int block, sy_node *x, double eps, int64_t heads);

/* -- decoding -------------------------------------------------------------------------- */
/* Keys and values of the tokens so far: per block [kv_heads, capacity, head_dim]. */
typedef struct syi_kv_cache {
    sy_dtype dtype;
    int64_t blocks, kv_heads, head_dim, capacity, past; /* past: tokens already in it */
    void *keys, *values;
} syi_kv_cache;
/* Attention over the cache; appends k and v of block `block` first. The caller advances
 * `past` after all blocks have run. */
sy_node *syi_op_attention_cached(sy_graph *g, sy_node *q, sy_node *k, sy_node *v, syi_kv_cache *cache, int block, int64_t heads, double scale);

#endif
