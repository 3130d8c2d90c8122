/* SPDX-License-Identifier: Apache-2.0 */
/* The ops: one builder a row. A row (`const sy_op syi_row_NAME`, in op_*.c) holds shape
 * rule, forward, backward and test shapes; the builder fills its attributes. Internal.
 *
 * Activations are [tokens, features] of the graph's dtype; vectors (norm weights, biases,
 * scales) are f32 (f64 in f64 graphs). Builders return NULL after a failure. */
#ifndef SYI_OPS_H
#define SYI_OPS_H

#include "graph/graph.h"
#include "tensor/kernels.h"
#include "tensor/packed.h"

/* Every row of the library, NULL-terminated: tests and `steelyard` list them. */
extern const sy_op *const syi_ops[];

/* -- op_matmul.c -------------------------------------------------------------------- */
/* y[t,out] = x[t,in] W[out,in]^T; transposed: y[t,in] = x[t,out] W. W: const or leaf. */
sy_node *syi_op_linear(sy_graph *g, sy_node *x, sy_node *w, bool transposed);
/* alpha * op(a) op(b), both differentiable; a, b rank 2. */
sy_node *syi_op_matmul(sy_graph *g, sy_node *a, bool ta, sy_node *b, bool tb, double alpha);
/* base + s * (x A^T) B^T in one op, in place on base; A[r,in], B[out,r]. dropout > 0:
 * on x, replayable by key (never stored). Keeps x and H = x A^T only. */
sy_node *syi_op_lowrank_add(sy_graph *g, sy_node *base, sy_node *x, sy_node *a, sy_node *b, double s, double dropout, uint64_t key);
/* [x A_1^T, ..., x A_n^T] side by side, n < 8: matrices on one input, which is read once. */
sy_node *syi_op_linears(sy_graph *g, sy_node *x, sy_node *const *a, int n);
/* W in GGUF blocks, F16 or another type than the graph's; decoded by tile. order: see
 * syi_coded. */
sy_node *syi_op_coded(sy_graph *g, sy_node *x, const sy_tensor *w, const int32_t *order, bool transposed);
/* W frozen, BF16, packed by syi_panels_pack ([out, in] as ever); borrowed. */
sy_node *syi_op_panels(sy_graph *g, sy_node *x, const sy_tensor *w, bool transposed);
/* -- op_stored.c: W in a storage of its own; `w` is copied, what it points to lives as long as
 * the graph. */
sy_node *syi_op_stored(sy_graph *g, sy_node *x, const syi_stored *w, bool transposed);

/* -- op_shards.c -------------------------------------------------------------------- */
/* out[t, j] = sum over shards k of x[t, k r + j]: rows cut into shards of r numbers, the last
 * one may be shorter. */
sy_node *syi_op_shard_sum(sy_graph *g, sy_node *x, int64_t r);
/* base[t, c] + z[t, c mod columns of z], in place on base. */
sy_node *syi_op_repeat_add(sy_graph *g, sy_node *base, sy_node *z);
/* base + s * h d, d[k, out] (t: d[out, k]), in place on base; h: k columns of its input from
 * column `from` on. */
sy_node *syi_op_product_add(sy_graph *g, sy_node *base, sy_node *h, int64_t from, sy_node *d, bool t, double s);
/* n matrices with as many rows each, side by side. */
sy_node *syi_op_beside(sy_graph *g, sy_node *const *in, int n);
/* Rows [first, first + n) of a frozen weight, decoded into the graph's type. */
struct sy_weight;
sy_node *syi_op_decoded(sy_graph *g, const struct sy_weight *w, int64_t first, int64_t n);

/* -- op_elementwise.c ------------------------------------------------------------------ */
sy_node *syi_op_add(sy_graph *g, sy_node *x, sy_node *y);   /* in place on x when it may  */
sy_node *syi_op_sub(sy_graph *g, sy_node *x, sy_node *y);
sy_node *syi_op_mul(sy_graph *g, sy_node *x, sy_node *y);   /* same shape                 */
sy_node *syi_op_div(sy_graph *g, sy_node *x, sy_node *y);
sy_node *syi_op_scale(sy_graph *g, sy_node *x, double a);
sy_node *syi_op_scale_cols(sy_graph *g, sy_node *x, sy_node *s); /* x[t,c] * s[c]         */
sy_node *syi_op_add_bias(sy_graph *g, sy_node *x, sy_node *b);   /* x[t,c] + b[c], in place */
sy_node *syi_op_dropout(sy_graph *g, sy_node *x, double p, uint64_t key);
sy_node *syi_op_cast(sy_graph *g, sy_node *x, sy_dtype to);
sy_node *syi_op_reshape(sy_graph *g, sy_node *x, int rank, const int64_t *dim);
sy_node *syi_op_sqrt(sy_graph *g, sy_node *x);
sy_node *syi_op_square(sy_graph *g, sy_node *x);
/* Sum over all (to f32/f64 [1]), over rows (to [cols]), over columns (to [rows]). */
sy_node *syi_op_sum(sy_graph *g, sy_node *x);
sy_node *syi_op_sum_rows(sy_graph *g, sy_node *x);
sy_node *syi_op_sum_cols(sy_graph *g, sy_node *x);
sy_node *syi_op_dot(sy_graph *g, sy_node *x, sy_node *y);   /* sum of x*y, a loss may start here */

/* -- op_layer.c -------------------------------------------------------------------------- */
sy_node *syi_op_activate(sy_graph *g, syi_act kind, sy_node *x);
sy_node *syi_op_gated(sy_graph *g, syi_act kind, sy_node *gate, sy_node *up); /* f(gate) * up */
sy_node *syi_op_layernorm(sy_graph *g, sy_node *x, sy_node *w, sy_node *b, double eps); /* b may be NULL */

sy_node *syi_op_slice(sy_graph *g, sy_node *x, int64_t first, int64_t n); /* columns of x[t, c] */
/* Row i of the result is row index[i] of x (-1: zeros); index lives as long as the step. */
sy_node *syi_op_gather(sy_graph *g, sy_node *x, const int32_t *index, int64_t n);

/* -- op_image.c: images are rows of channels [images*height*width, channels] ---------------- */
/* What each window sees: [windows, channels*kernel_h*kernel_w]. A convolution is a linear
 * map of it, whose weight is the kernels in torch's order. */
sy_node *syi_op_patches(sy_graph *g, sy_node *x, const syi_window *w);
sy_node *syi_op_pool(sy_graph *g, sy_node *x, const syi_window *w, bool max);
/* With given statistics (evaluation), or with the batch's own, which also move the running
 * ones (`mean`, `var` in the type of w, or NULL) by `momentum`. */
sy_node *syi_op_batch_norm(sy_graph *g, sy_node *x, sy_node *w, sy_node *b, sy_node *mean, sy_node *var, double eps);
sy_node *syi_op_batch_norm_own(sy_graph *g, sy_node *x, sy_node *w, sy_node *b, double eps, double momentum, void *mean, void *var);

/* -- op_transformer.c -------------------------------------------------------------------- */
sy_node *syi_op_rmsnorm(sy_graph *g, sy_node *x, sy_node *w, double eps);
/* Norm over each head: x[t, heads*dim], w[dim] (Qwen3); the weight counts as plus + w (Gemma). */
sy_node *syi_op_rmsnorm_heads(sy_graph *g, sy_node *x, sy_node *w, double eps, int64_t heads, double plus);
sy_node *syi_op_swiglu(sy_graph *g, sy_node *gate, sy_node *up);
/* cos/sin tables [positions, dim/2]; pos[tokens] lives as long as the step. */
sy_node *syi_op_rope(sy_graph *g, sy_node *x, const int32_t *pos, const sy_tensor *cos_t, const sy_tensor *sin_t, int64_t heads);
/* Causal inside documents; shape->first lives as long as the step. */
sy_node *syi_op_attention(sy_graph *g, sy_node *q, sy_node *k, sy_node *v, const syi_attention *shape);
/* Rows of table[vocab, cols] (const of any float type, or leaf) as the graph's dtype. ids
 * live as long as the step. */
sy_node *syi_op_embed(sy_graph *g, sy_node *table, bool panels, const int32_t *ids, int64_t tokens);
/* Scalar loss: see syi_head_loss. The gradients are made in forward for a loss gradient of
 * exactly head->scale's promise (1); aux 0 is nll[tokens]. */
sy_node *syi_op_head_loss(sy_graph *g, sy_node *h, sy_node *w, const syi_head *head);
/* Rows [row, row+n) of x. */
sy_node *syi_op_rows(sy_graph *g, sy_node *x, int64_t row, int64_t n);
/* The same loss from logits that are there (a head with an adapter around it): sum over rows
 * of scale * weight * nll. target, weight (or NULL), nll_out (or NULL: [rows], written by
 * forward) live as long as the step. */
sy_node *syi_op_cross_entropy(sy_graph *g, sy_node *logits, const int32_t *target, const float *weight, double scale, float *nll_out);

#endif
