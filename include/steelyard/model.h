/* SPDX-License-Identifier: Apache-2.0 */
/* Models: what an architecture states, once per file in src/model/.
 *
 * An architecture is a descriptor: which config.json values it reads, what its
 * tensors are called (Hugging Face and GGUF), how its forward graph is built,
 * and its topology. All weight matrices run through sites (see method.h), where
 * methods meet the model. */
#ifndef STEELYARD_MODEL_H
#define STEELYARD_MODEL_H

#include "checkpoint.h"
#include "options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_model sy_model;
typedef struct sy_graph sy_graph;
typedef struct sy_node sy_node;
typedef struct sy_batch sy_batch;

/* What a tensor is for: methods select sites by role. */
typedef enum {
    SY_ROLE_NONE, SY_ROLE_EMBED, SY_ROLE_HEAD, SY_ROLE_NORM, SY_ROLE_Q, SY_ROLE_K, SY_ROLE_V, SY_ROLE_O,
    SY_ROLE_GATE, SY_ROLE_UP, SY_ROLE_DOWN, SY_ROLE_BIAS,
    SY_ROLE_QKV, SY_ROLE_GATE_UP, /* fused: rows of q, k, v; of gate and up           */
    SY_ROLE_CONV,                 /* kernels [out, in, height, width]                 */
    SY_ROLE_FC,                   /* a plain layer of a network without blocks        */
    SY_ROLE_POSITION,             /* a table of learned positions                     */
    SY_ROLE_STAT,                 /* running statistics: counted, not trained          */
    SY_ROLE_COUNT
} sy_role;

enum {
    SY_TENSOR_OPTIONAL = 1,   /* may be absent (biases, tied head)              */
    SY_TENSOR_LINEAR = 2,     /* a weight matrix [out,in] behind a linear site  */
    SY_TENSOR_PERMUTE_Q = 4,  /* GGUF stores its rows permuted by query heads   */
    SY_TENSOR_PERMUTE_K = 8,  /* ... by key/value heads                         */
    SY_TENSOR_EMBED = 16,     /* an embedding table [vocabulary, hidden]        */
    SY_TENSOR_TIED = 32,      /* absent: shares the embedding's values          */
    SY_TENSOR_COUNTER = 64,   /* a single integer that nobody here needs        */
    SY_TENSOR_TRANSPOSED = 128, /* folders store it [in,out] (GPT-2's Conv1D)     */
    SY_TENSOR_FROM_ONE = 256  /* a norm weight stored as its distance from 1 in
                                 folders, whole in GGUF                         */
};

/* One row a kind of tensor; "%d" is the block number. `shape` is made of the
 * names of config fields, as in "heads*head_dim,hidden". */
typedef struct {
    const char *name;   /* Hugging Face: "model.layers.%d.self_attn.q_proj.weight" */
    const char *gguf;   /* GGUF: "blk.%d.attn_q.weight"; NULL: not stored there    */
    const char *shape;
    sy_role role;
    unsigned flags;
    const char *when;   /* config field that must be true ("qkv_bias"), or NULL */
} sy_arch_tensor;

/* One row a config value. Filled from config.json by the first of `keys` that is there
 * and not null (separated by blanks; dots go into nested objects: "rope_theta
 * rope_parameters.rope_theta"), from a GGUF by `gguf` ("%s" stands for
 * general.architecture). `field` is the name that shapes and `when` use ("heads"). */
typedef struct {
    const char *field, *keys, *gguf;
    sy_option_type type;     /* INT FLOAT BOOL STRING */
    size_t offset;
    const char *def;         /* NULL: required; "=heads": that field's value */
} sy_arch_config;

/* Topology: a consumer that a producer's per-channel scale can be folded into. */
typedef struct { sy_role from, to; int repeat_heads; bool exact; } sy_arch_edge;
/* Permutation symmetry: rows/columns of these tensors move together. axis as in
 * the tensor's shape; block = rows a unit has; "hidden units of FF". first: where the
 * group begins on that axis, for tensors that hold several things (NULL: at 0). A group
 * with a parent permutes inside of each unit of the parent, and repeats until that unit
 * is filled (v's channels in o: once for each query head). */
typedef struct { const char *group, *tensor, *parent; int axis; const char *block, *first; } sy_arch_perm;

/* What a batch brings to the model, and what its head says. */
typedef enum { SY_INPUT_TOKENS, SY_INPUT_IMAGES } sy_arch_input;
typedef enum { SY_HEAD_CAUSAL, SY_HEAD_CLASS } sy_arch_head;
struct syi_arena;

typedef struct sy_arch {
    const char *name;                  /* "llama"                                 */
    const char *const *model_types;    /* config.json "model_type", NULL-ended    */
    const char *const *architectures;  /* config.json "architectures"[0]          */
    const char *prefix;                /* names of the whole model begin with it ("bert."), those
                                          of folders without a head do not; NULL: none */
    const char *gguf_arch;             /* general.architecture it is written as   */
    const char *const *gguf_archs;     /* ... and those that it reads             */
    const sy_arch_config *config;      /* rows, ended by field NULL               */
    size_t config_size;
    const sy_arch_tensor *tensors;     /* rows, ended by name NULL                */
    const sy_arch_edge *edges;
    const sy_arch_perm *perms;
    sy_arch_input input;
    sy_arch_head head;
    /* The states of all tokens [tokens, hidden], where build gives something else (pooled
     * rows): what embeddings are made of. NULL: build's.                                 */
    sy_node *(*states)(sy_graph *g, sy_model *m, const sy_batch *batch);
    /* What becomes of the head's output (a soft cap); NULL: nothing. */
    sy_node *(*logits)(sy_graph *g, sy_model *m, sy_node *y);
    /* Networks that are not rows times blocks: makes their rows (names without "%d") from
     * the config, in memory of the arena. NULL: `tensors` and `perms` are all.          */
    sy_status (*expand)(sy_context *ctx, const void *config, struct syi_arena *arena, const sy_arch_tensor **tensors,
                        const sy_arch_perm **perms);
    /* Checks and derives (after the rows are filled). */
    sy_status (*check)(sy_context *ctx, void *config, const void *config_json);
    /* The forward graph of a batch up to the last norm: hidden [tokens, hidden] (heads
     * that classify: [rows, hidden], one row a document or image). Logits and loss are
     * made by the engine from it and the head. */
    sy_node *(*build)(sy_graph *g, sy_model *m, const sy_batch *batch);
    /* The same forward in pieces between which nothing passes but x [tokens, hidden]: block
     * -1 makes x from the batch, the blocks have `parts` pieces each, and the piece after
     * the last block is the last norm. NULL: cannot be cut (no block-wise calibration).  */
    sy_node *(*piece)(sy_graph *g, sy_model *m, const sy_batch *batch, int block, int part, sy_node *x);
    int parts;
    /* GGUF says less than config.json: its runtimes know the architecture. from_gguf puts what
     * such a file leaves out into the config made from its keys (a json_t object). to_gguf
     * refuses values that such a file cannot say (SY_E_UNSUPPORTED, with what to do), warns of
     * what runtimes do not use, and may bring values into the form that keys are written from.
     * NULL: nothing of the kind.                                                           */
    sy_status (*from_gguf)(sy_context *ctx, void *config_json);
    sy_status (*to_gguf)(sy_context *ctx, void *config);
} sy_arch;

/* A folder (made if it is not there) with config.json and model.safetensors of random start
 * weights, for training from scratch. config: the text of a config.json of a known
 * architecture. The same seed gives the same bytes. */
sy_status sy_model_create(sy_context *ctx, const char *config, const char *dir, uint64_t seed, sy_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
