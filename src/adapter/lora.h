/* SPDX-License-Identifier: Apache-2.0 */
/* What the LoRA family shares: ops of its own, filling parameters, rank and alpha
 * patterns. Internal to src/adapter. */
#ifndef SYI_LORA_H
#define SYI_LORA_H

#include "base/base.h"
#include "steelyard/method.h"

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
 * which PEFT's re.match("(.*\.)?(KEY)$", path) holds; *value is left alone otherwise. */
sy_status syi_pattern_value(sy_context *ctx, const sy_map *pattern, const sy_site *site, double *value);
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
