/* SPDX-License-Identifier: Apache-2.0 */
/* What the LoRA family shares: ops of its own, filling parameters, rank and alpha
 * patterns. Internal to src/adapter. */
#ifndef SYI_LORA_H
#define SYI_LORA_H

#include "base/base.h"
#include "steelyard/method.h"

/* -- lora.c ------------------------------------------------------------------------- */
/* The family's context and what a site owns, for methods that are LoRA with another start: a
 * context that begins with it may call sy_method_lora's hooks. */
enum syi_lora_start { INIT_TRUE, INIT_FALSE, INIT_GAUSSIAN, INIT_PISSA };
struct syi_lora_block { struct syi_lora_block *next; };
struct syi_lora {
    sy_adapter_common common;
    int64_t rank;
    double alpha, dropout, plus_ratio, plus_embedding;
    bool use_rslora, use_dora, lora_bias, convert;
    char *init;
    sy_map rank_pattern, alpha_pattern;
    /* derived */
    sy_context *ctx;
    struct syi_lora_block *blocks; /* arrays that sites own                             */
    enum syi_lora_start start;
    bool grouped;            /* LoRA+ has sorted the 1-D parameters                     */
    int niter;               /* PiSSA by randomised SVD; -1: exact                     */
};
struct syi_lora_own {
    double scale;
    double *row_norms;       /* DoRA: |W_i|^2, [out]                                   */
    float *a0, *b0;          /* PiSSA: the start, [r,in] and [out,r]                   */
};
enum { SYI_LORA_A, SYI_LORA_B, SYI_LORA_BIAS, SYI_LORA_M, SYI_LORA_EA, SYI_LORA_EB };
extern const sy_slot syi_lora_slots[];
extern const sy_method sy_method_lora;
/* Keys of PEFT's LoraConfig beyond our option rows. */
#define SYI_LORA_PEFT_DEFAULTS \
    "{\"alora_invocation_tokens\":null,\"alpha_pattern\":{},\"arrow_config\":null,\"corda_config\":null,\"ensure_weight_tying\":false," \
    "\"eva_config\":null,\"exclude_modules\":null,\"fan_in_fan_out\":false,\"kasa_config\":null,\"layer_replication\":null," \
    "\"layers_pattern\":null,\"layers_to_transform\":null,\"loftq_config\":{},\"lora_bias\":false,\"lora_ga_config\":null," \
    "\"megatron_config\":null,\"megatron_core\":\"megatron.core\",\"modules_to_save\":null,\"monteclora_config\":null," \
    "\"qalora_group_size\":16,\"rank_pattern\":{},\"target_parameters\":null,\"trainable_token_indices\":null,\"use_bdlora\":null," \
    "\"use_dora\":false,\"use_qalora\":false,\"use_rslora\":false,\"velora_config\":null}"

/* -- _lora_ops.c ------------------------------------------------------------------ */
/* DoRA's factor of every output row: c[out] = m / n with
 * n_i = || W_i + s B_i A || = sqrt(|W_i|^2 + 2 s <W_i, B_i A> + s^2 B_i (A A^T) B_i^T),
 * from m[out], A[r,in], B[out,r], WA[r,out] = A W^T and row_norms[out] = |W_i|^2 (f64,
 * outlives the step). n is a constant: the only gradient is m's, dm = dc / n. */
sy_node *syi_op_dora_factor(sy_graph *g, sy_node *m, sy_node *a, sy_node *b, sy_node *wa, const double *row_norms, double s);
/* Columns of a table[r, vocabulary] by id: out[tokens, r]. ids outlive the step. */
sy_node *syi_op_columns(sy_graph *g, sy_node *table, const int32_t *ids, int64_t tokens);

/* -- _lora_fill.c ------------------------------------------------------------------- */
/* Numbers of a parameter, whatever its type (f32, or f64 in f64 runs). */
void syi_param_put(sy_param *p, int64_t first, int64_t n, const float *v);
void syi_param_get(const sy_param *p, int64_t first, int64_t n, float *v);
void syi_param_fill(sy_param *p, double v);
/* N(0, sigma^2) or U(-bound, bound), replayable by key. */
void syi_param_normal(sy_param *p, uint64_t key, double sigma);
void syi_param_uniform(sy_param *p, uint64_t key, double bound);
/* U(-bound, bound) as torch.Tensor.uniform_ draws it on the CPU from a generator seeded
 * with `seed`, for tensors drawn one after the other from it. */
typedef struct { uint32_t state[624]; int at; } syi_torch_rng;
void syi_torch_seed(syi_torch_rng *rng, uint64_t seed);
void syi_torch_uniform(syi_torch_rng *rng, float bound, int64_t n, float *out);
/* The value that a pattern (rank_pattern, alpha_pattern) gives a site: the first key for
 * which PEFT's re.match("(.*\.)?(KEY)$", path) holds; *value is left alone otherwise. Unless only
 * the `first` is asked for (a folder, read as PEFT reads it), a second key that says something else
 * is SY_E_USAGE. */
sy_status syi_pattern_value(sy_context *ctx, const sy_map *pattern, const sy_site *site, bool first, double *value);
/* The first `rows` rows and `cols` columns of a frozen shared tensor (seen as [dim 0, rest]):
 * itself where that is a whole run of numbers, otherwise a copy in the cache, made at the first
 * forward (after a folder's tensors have been loaded) and kept as long as the method. */
typedef struct syi_slice syi_slice;
sy_node *syi_shared_slice(sy_context *ctx, syi_slice **cache, sy_graph *g, const sy_param *p, int64_t rows, int64_t cols);
void syi_slices_free(sy_context *ctx, syi_slice **cache);
/* Calls fn on every site that the method's options choose (in init). */
sy_status syi_each_site(sy_run *run, sy_status (*fn)(void *self, sy_run *run, sy_site *site), void *self);
/* SY_E_UNSUPPORTED unless the site is a linear layer. */
sy_status syi_linear_only(sy_context *ctx, const char *method, const sy_site *site);
/* Sum of squares of each row of the site's weight, f64 [out]. */
sy_status syi_row_norms(sy_context *ctx, const sy_weight *w, double *out);
/* Whole weight of a site as f32 [out,in], from syi_alloc. */
sy_status syi_weight_dense(sy_context *ctx, const sy_weight *w, float **out);

#endif
