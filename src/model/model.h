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
#include "model/decoder.h"
#include "steelyard/method.h"
#include "tensor/kernels.h"

/* [positions, head_dim/2] */
typedef struct { sy_tensor cos, sin; } syi_rope_table;

struct sy_model {
    sy_context *ctx;
    syi_source *source;         /* owned                                               */
    const sy_arch *arch;
    void *config;               /* arch->config_size bytes                              */
    syi_arena *arena;           /* names, sites, params                                 */
    sy_dtype dtype;             /* of activations                                       */
    sy_site *sites; int n_sites;
    sy_param *params; int n_params; /* norms, biases, embeddings, trained weights        */
    const sy_arch_tensor *rows; /* the architecture's, or what it made of the config       */
    int64_t vocab;              /* rows of the embedding (none: of the head)               */
    int64_t outputs, hidden;    /* of the head: logits a row, width of what it reads        */
    int64_t context_length;
    int64_t n_scalars;          /* of the base model                                    */
    int64_t bytes;              /* held or mapped for weights                           */
    const sy_weight *head, *embedding; /* equal when tied                                */
    syi_rope_table rope[SYI_ROPES]; /* syi_model_positions                                */
    int64_t positions_used;     /* ... as it was last asked: of the text that is computed   */
    sy_site **by_role;          /* [blocks][SY_ROLE_COUNT]                                */
    int blocks;
    syi_map *names;             /* param and site names -> index                          */
    void **owned; int64_t n_owned, cap_owned; /* buffers from syi_pages                   */
    bool plan_only;
    double norm_momentum;       /* of running statistics; 0: as the config says           */
};

typedef struct { sy_dtype dtype; bool train_all; bool keep_coded; bool plan_only; int64_t positions; } syi_model_options;
sy_status syi_model_load(sy_context *ctx, const char *path, const syi_model_options *options, sy_model **out);
void syi_model_free(sy_model *m);
/* Rotary tables for positions 0..n-1 (grows; the step must not be running). */
sy_status syi_model_positions(sy_model *m, int64_t n);
void syi_model_positions_free(sy_model *m);
/* The site of that role in a block (-1: outside the blocks), or NULL. */
sy_site *syi_model_role(const sy_model *m, int block, sy_role role);
/* Memory of the model: fresh zeroed pages, freed with it. NULL data when plan_only. */
sy_status syi_model_pages(sy_model *m, int64_t bytes, void **out);
/* Frozen BF16 linears go into the products' own layout, in place of what they were. */
sy_status syi_model_pack(sy_model *m, syi_engine *e);
/* Does the method make an effective weight here, from rows of the one below, at every forward? Such weights stay as
 * they are in the file: tiles read rows. */
bool syi_wrap_reweights(const sy_wrap *w);
/* By module path or NULL. */
sy_site *syi_model_site(sy_model *m, const char *name);
sy_param *syi_model_param(sy_model *m, const char *name);
/* The vector of that name; made of zeros if there is none (there is room for those that an
 * architecture's optional rows name). */
sy_status syi_model_vector(sy_model *m, const char *name, int64_t n, sy_param **out);
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
/* _topology.c: a permutation symmetry, resolved for one config. Unit i of `group` is
 * indices first + i*block ... of `axis` of `tensor` (as the file has it). A group with a
 * parent has a permutation of its own inside of each unit of the parent (`first` is then
 * where the parent's units begin), whose units repeat until the parent's unit is filled. */
typedef struct {
    const char *group;      /* "RES", "FF_3" (block 3), "layer2.0"                          */
    const char *parent;     /* "KV_3", or NULL                                             */
    const char *tensor;     /* Hugging Face's name                                         */
    int axis;
    int64_t units, first, block;
    sy_role role;           /* of the tensor: SY_ROLE_STAT moves along but says nothing     */
} syi_perm;
/* Memory from `arena`. SY_E_UNSUPPORTED: the architecture states none. */
sy_status syi_arch_perms(sy_context *ctx, const sy_arch *arch, const void *config, syi_arena *arena, syi_perm **out, int *n);
/* Rows of an architecture for one config: its own, or what it makes of it. */
sy_status syi_arch_rows(sy_context *ctx, const sy_arch *arch, const void *config, syi_arena *arena, const sy_arch_tensor **tensors,
                        const sy_arch_perm **perms);
/* Does the row exist under this config (its `when`)? */
bool syi_arch_row_active(const sy_arch *arch, const void *config, const sy_arch_tensor *row);
/* For builders: nodes of norms and embeddings. */
/* RMS norm by a weight (its name with "%d" for the block), over each of `heads` parts of a row;
 * the weight counts as plus + what is stored. Layer norm by a module's weight and bias. */
sy_node *syi_model_norm_rms(sy_graph *g, sy_model *m, const char *fmt, int block, sy_node *x, double eps, int64_t heads, double plus);
sy_node *syi_model_norm_layer(sy_graph *g, sy_model *m, const char *module, int block, sy_node *x, double eps);

/* -- images, networks without blocks (_network.c) ---------------------------------------- */
/* An integer array of config.json, each number (or the word `word`, which counts as 0) from 1 to
 * `high`; absent: *n = -1. */
sy_status syi_config_list(sy_context *ctx, const json_t *config, const char *key, const char *word, int64_t high, int64_t *out, int max, int *n);
/* Tensor and permutation rows that an architecture makes from its config. */
typedef struct {
    sy_context *ctx;
    syi_arena *arena;
    sy_arch_tensor *tensors; int64_t n_tensors, cap_tensors;
    sy_arch_perm *perms; int64_t n_perms, cap_perms;
    bool failed;
} syi_row_list;
/* shape, name: printf texts; the name is returned (NULL after a failure). */
const char *syi_rows_tensor(syi_row_list *r, sy_role role, unsigned flags, const char *shape, const char *name);
void syi_rows_perm(syi_row_list *r, const char *group, const char *tensor, int axis, int64_t block);
/* weight (and bias) of a layer with groups of its rows and columns (NULL: none); block: of columns. */
void syi_rows_linear(syi_row_list *r, sy_role role, const char *name, int64_t out, int64_t in, bool bias, const char *rows, const char *columns, int64_t block);
void syi_rows_conv(syi_row_list *r, const char *name, int64_t out, int64_t in, int64_t kernel, bool bias, const char *rows, const char *columns);
void syi_rows_batch_norm(syi_row_list *r, const char *name, int64_t channels, const char *group);
/* Ends both tables; the arena owns them. */
sy_status syi_rows_end(syi_row_list *r, const sy_arch_tensor **tensors, const sy_arch_perm **perms);
char *syi_rows_format(syi_row_list *r, const char *fmt, ...) SYI_PRINTF(2, 3);

/* The batch's images [rows*height*width, channels] in the graph's type; *at gets their size. */
sy_node *syi_image_input(sy_graph *g, const sy_batch *batch, int64_t height, int64_t width, int64_t channels, syi_window *at);
/* A site on what a window sees; *at becomes the size of the result. */
sy_node *syi_image_conv(sy_graph *g, sy_model *m, const char *name, sy_node *x, syi_window *at, int64_t kernel, int64_t stride, int64_t pad);
sy_node *syi_image_pool(sy_graph *g, sy_node *x, syi_window *at, int64_t kernel, int64_t stride, int64_t pad, bool max);
/* Each image as one row, channel by channel as torch's flatten. */
sy_node *syi_image_flatten(sy_graph *g, sy_node *x, const syi_window *at);
/* "NAME.weight", .bias, .running_mean, .running_var. With the batch's statistics while its
 * model is trained, with the running ones otherwise. */
sy_node *syi_image_norm(sy_graph *g, sy_model *m, const char *name, sy_node *x, double eps, double momentum);
sy_node *syi_model_linear(sy_graph *g, sy_model *m, const char *name, sy_node *x);

/* -- decoding -------------------------------------------------------------------------- */
/* Keys and values of the tokens so far: per block [kv_heads, capacity, head_dim]. */
typedef struct syi_kv_cache {
    sy_dtype dtype;
    int64_t blocks, kv_heads, head_dim, capacity, past; /* past: tokens already in it */
    void *keys, *values;
} syi_kv_cache;
/* Attention over the cache; appends k and v of block `block` first. The caller advances
 * `past` after all blocks have run. */
sy_node *syi_op_attention_cached(sy_graph *g, sy_node *q, sy_node *k, sy_node *v, syi_kv_cache *cache, int block, const syi_attention *shape);

#endif
