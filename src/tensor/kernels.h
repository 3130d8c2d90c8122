/* SPDX-License-Identifier: Apache-2.0 */
/* Numerical kernels on raw memory: products, attention, fused elementwise,
 * cross-entropy, optimizer steps, decompositions. Internal.
 *
 * Conventions. Row-major. `dt` is the type of activations: F32, BF16 or F64; f64
 * is plain code, the reference that the fast paths are tested against. Sums are
 * f32 or wider. Results do not depend on the number of threads: work is cut into
 * pieces whose sizes depend on shapes only, each piece is done by one thread in
 * one order, partial sums are added in a fixed tree. `add`: accumulate into the
 * destination instead of overwriting. Per-feature weights (norms, biases) are
 * f32 (f64 for dt F64). All kernels use syi_omp(ctx) threads. */
#ifndef SYI_KERNELS_H
#define SYI_KERNELS_H

#include "base/base.h"

/* -- engine (engine.c) --------------------------------------------------------- */
/* oneDNN's engine and stream, the cache of primitives by shape, the table of CPU
 * paths, and scratch. One per run; not shared between threads. */
typedef struct syi_engine syi_engine;
sy_status syi_engine_new(sy_context *ctx, syi_engine **out);
void syi_engine_free(syi_engine *e);
sy_context *syi_engine_context(const syi_engine *e);
/* "avx512_bf16", "avx512", "avx2", "neon", "plain". STEELYARD_CPU forces one (an
 * unknown or unsupported name is SY_E_USAGE from syi_engine_new). */
const char *syi_engine_cpu(const syi_engine *e);
/* Bytes that the primitives' own scratchpads need at most so far. */
int64_t syi_engine_bytes(const syi_engine *e);

/* Runs fn(self) with the worker threads awake and waiting for its kernels' work all the
 * time (team.c): for long sequences of short kernels. fn may do anything but open parallel
 * regions that need the threads themselves: those run, on one thread. */
sy_status syi_team_run(syi_engine *e, sy_status (*fn)(void *self), void *self);

/* -- products (gemm.c) ------------------------------------------------------------ */
/* C[m,n] = alpha * op(A)[m,k] op(B)[k,n] + beta * C. op(A) is A[m,k] (lda) or, with
 * ta, A stored as [k,m]. Types: all F64; all F32; A,B BF16 with C BF16 or F32.
 * F32 A or B with BF16 partner is converted in scratch. Long inner dimensions with
 * small outputs (rank-r gradients) are cut into fixed pieces. m <= 4 (decoding)
 * takes a bandwidth-bound path of our own. */
typedef struct { sy_dtype dtype; const void *data; int64_t ld; bool t; } syi_mat;
sy_status syi_gemm(syi_engine *e, int64_t m, int64_t n, int64_t k, double alpha, syi_mat a, syi_mat b, double beta,
                   sy_dtype ct, void *c, int64_t ldc);
/* A matrix in GGUF blocks or any float type; row r is the one that lies at order[r] (NULL:
 * at r). */
typedef struct { sy_dtype dtype; const void *data; const int32_t *order; } syi_coded;
/* y[m,n] = x[m,k] W[n,k]^T (+ beta y), y of type yt (dt, or F32 beside BF16), W whatever dt
 * is: decoded tile by tile, never whole; m <= 4 straight from the blocks, with x in f32.
 * transposed: y[m,k] = x[m,n] W. */
sy_status syi_gemm_coded(syi_engine *e, int64_t m, int64_t n, int64_t k, sy_dtype dt, const void *x, const syi_coded *w, bool transposed,
                         double beta, sy_dtype yt, void *y);
/* Row `row` of [.., k] as F32, BF16 or F64: the same numbers as sy_to_f32's, rounded. */
void syi_coded_row(const syi_engine *e, const syi_coded *w, int64_t k, int64_t row, sy_dtype to, void *dst);

/* FLOP/s of a plain product of 2048 x 1536 x 576 in type dt, the best of some (limit.c). */
sy_status syi_product_limit(syi_engine *e, sy_dtype dt, double *flops);
/* The version of oneDNN that runs: major, minor, patch. */
void syi_product_version(int version[3]);

/* A frozen BF16 weight W[n,k] in the layout that products like best (18 % faster than
 * row-major on 2048 x 1536 x 576; one layout serves both directions and decoding).
 * Packed bytes depend on the shape only, not on the processor. */
/* Bytes of W packed, or 0: this shape or processor gains nothing, keep it row-major. */
int64_t syi_panels_bytes(syi_engine *e, int64_t n, int64_t k);
sy_status syi_panels_pack(syi_engine *e, int64_t n, int64_t k, const uint16_t *w, uint16_t *packed);
/* Rows first..first+count-1, row-major, in any of F32, BF16, F64. */
sy_status syi_panels_unpack(syi_engine *e, int64_t n, int64_t k, const uint16_t *packed, int64_t first, int64_t count, sy_dtype to, void *w);
/* One row as f32, without an engine. */
void syi_panels_row(int64_t k, const uint16_t *packed, int64_t row, float *dst);
/* y[m,n] = x[m,k] W^T (+ beta y), or transposed: y[m,k] = x[m,n] W. x of type dt, y of
 * type yt (dt, or F32 beside BF16). */
sy_status syi_gemm_panels(syi_engine *e, int64_t m, int64_t n, int64_t k, sy_dtype dt, const void *x, const uint16_t *packed,
                          bool transposed, double beta, sy_dtype yt, void *y);

/* -- elementwise, norms (elementwise.c, norm.c) --------------------------------------- */
sy_status syi_cast(syi_engine *e, sy_dtype from, const void *src, sy_dtype to, void *dst, int64_t n);
/* y = (add ? y : 0) + a*x ; z = x + y */
sy_status syi_axpy(syi_engine *e, sy_dtype dt, double a, const void *x, bool add, void *y, int64_t n);
/* y(dst type dy) += x(type dx) */
sy_status syi_accumulate(syi_engine *e, sy_dtype dx, const void *x, sy_dtype dy, void *y, int64_t n);
sy_status syi_add(syi_engine *e, sy_dtype dt, const void *x, const void *y, void *z, int64_t n);
/* out = x + a*y */
sy_status syi_add_scaled(syi_engine *e, sy_dtype dt, const void *x, double a, const void *y, void *out, int64_t n);
/* out = (add ? out : 0) + a * (x*y | x/y | x*y/w | sqrt x); unused operands NULL. */
typedef enum { SYI_MUL, SYI_DIV, SYI_MULDIV, SYI_SQRT } syi_combination;
sy_status syi_combine(syi_engine *e, sy_dtype dt, syi_combination op, double a, const void *x, const void *y, const void *w, bool add, void *out, int64_t n);
sy_status syi_mul(syi_engine *e, sy_dtype dt, const void *x, const void *y, bool add, void *z, int64_t n);
/* out[t, j] = (add ? out : 0) + sum over k of x[t, k r + j] for x[rows, cols] cut into shards of r. */
sy_status syi_shard_sum(syi_engine *e, sy_dtype dt, const void *x, int64_t rows, int64_t cols, int64_t r, bool add, sy_dtype ot, void *out);
/* y[t, c] += z[t, c mod q] for z[rows, q], y[rows, cols]. */
sy_status syi_repeat_add(syi_engine *e, sy_dtype dt, const void *z, int64_t rows, int64_t q, int64_t cols, sy_dtype yt, void *y);
/* y[t, c] = (add ? y : 0) + x[t, c]; strides in numbers. */
sy_status syi_copy_rows(syi_engine *e, sy_dtype dt, const void *x, int64_t ldx, bool add, sy_dtype yt, void *y, int64_t ldy, int64_t rows, int64_t cols);
/* y[r,c] = x[r,c] * s[c]; gradients: dx = dy*s, ds[c] += sum_r dy*x */
sy_status syi_scale_cols(syi_engine *e, sy_dtype dt, const void *x, const void *s, sy_dtype st, bool add, void *y, int64_t rows, int64_t cols);
sy_status syi_scale_cols_grad(syi_engine *e, sy_dtype dt, const void *dy, const void *x, void *ds, int64_t rows, int64_t cols);
/* y[r,c] += b[c] ; db[c] += sum_r dy[r,c] */
sy_status syi_add_bias(syi_engine *e, sy_dtype dt, const void *b, void *y, int64_t rows, int64_t cols);
sy_status syi_sum_rows(syi_engine *e, sy_dtype dt, const void *dy, void *db, int64_t rows, int64_t cols);
/* Dropout with replayable noise: y = x * mask / (1-p); backward is the same call. */
sy_status syi_dropout(syi_engine *e, sy_dtype dt, uint64_t key, double p, const void *x, bool add, void *y, int64_t n);
/* RMS norm over the last dimension: y = x * rstd * w, rstd[rows] f32 (f64) saved. */
sy_status syi_rmsnorm(syi_engine *e, sy_dtype dt, const void *x, const void *w, double eps, void *y, void *rstd, int64_t rows, int64_t cols);
sy_status syi_rmsnorm_grad(syi_engine *e, sy_dtype dt, const void *dy, const void *x, const void *w, const void *rstd,
                           bool add, void *dx, void *dw, int64_t rows, int64_t cols);
/* y = silu(gate) * up and its gradients */
sy_status syi_swiglu(syi_engine *e, sy_dtype dt, const void *gate, const void *up, void *y, int64_t n);
sy_status syi_swiglu_grad(syi_engine *e, sy_dtype dt, const void *dy, const void *gate, const void *up,
                          bool add_gate, void *dgate, bool add_up, void *dup, int64_t n);
/* Activations by name as config.json has them (syi_act_find). y = f(x) * u, u may be NULL;
 * gradients of both. */
#define SYI_ACT_EACH(X) X(SYI_ACT_SILU) X(SYI_ACT_GELU) X(SYI_ACT_GELU_TANH) X(SYI_ACT_QUICK_GELU) X(SYI_ACT_RELU) X(SYI_ACT_TANH)
typedef enum { SYI_ACT_SILU, SYI_ACT_GELU, SYI_ACT_GELU_TANH, SYI_ACT_QUICK_GELU, SYI_ACT_RELU, SYI_ACT_TANH } syi_act;
/* "gelu_new", "silu", ...: the activation, or -1. */
int syi_act_find(const char *name);
sy_status syi_activate(syi_engine *e, sy_dtype dt, syi_act kind, const void *x, const void *u, void *y, int64_t n);
sy_status syi_activate_grad(syi_engine *e, sy_dtype dt, syi_act kind, const void *dy, const void *x, const void *u, bool add_x, void *dx, bool add_u,
                            void *du, int64_t n);
/* Layer norm: y = (x - mean) * rstd * w + b (b may be NULL); mean, rstd [rows] saved. dw, db
 * [cols] added to; dx, dw, db may be NULL. */
sy_status syi_layernorm(syi_engine *e, sy_dtype dt, const void *x, const void *w, const void *b, double eps, void *y, void *mean, void *rstd,
                        int64_t rows, int64_t cols);
sy_status syi_layernorm_grad(syi_engine *e, sy_dtype dt, const void *dy, const void *x, const void *w, const void *mean, const void *rstd, bool add,
                             void *dx, void *dw, void *db, int64_t rows, int64_t cols);
/* Rotary embedding, halves convention (HF): x[tokens, heads, dim], cos/sin tables
 * f32 [positions, dim/2] (f64 for dt F64). inverse: rotates back (the gradient). */
sy_status syi_rope(syi_engine *e, sy_dtype dt, const void *x, const int32_t *pos, const void *cos_t, const void *sin_t,
                   bool inverse, bool add, void *y, int64_t tokens, int64_t heads, int64_t dim);
/* rows of a table [vocab, cols] (type tt) by id; the gradient adds rows in token
 * order whatever the threads. Ids out of range: SY_E_BUG. */
sy_status syi_embed(syi_engine *e, sy_dtype tt, const void *table, int64_t vocab, const int32_t *ids, sy_dtype dt, void *y, int64_t tokens, int64_t cols);
/* The same from panels, into BF16 or F32. */
sy_status syi_embed_panels(syi_engine *e, const uint16_t *panels, int64_t vocab, const int32_t *ids, sy_dtype dt, void *y, int64_t tokens, int64_t cols);
sy_status syi_embed_grad(syi_engine *e, sy_dtype dt, const void *dy, const int32_t *ids, void *dtable, int64_t vocab, int64_t tokens, int64_t cols);
/* Sum of squares in f64, fixed tree. *finite: false if any NaN/Inf. */
double syi_sumsq(syi_engine *e, sy_dtype dt, const void *x, int64_t n, bool *finite);
/* y = (add ? y : 0) + v; of each row its own v[r] (f32, f64). */
sy_status syi_fill(syi_engine *e, sy_dtype dt, double v, bool add, void *y, int64_t n);
sy_status syi_fill_rows(syi_engine *e, sy_dtype dt, const void *v, bool add, void *y, int64_t rows, int64_t cols);
double syi_sum(syi_engine *e, sy_dtype dt, const void *x, int64_t n);
/* sum[r] = sum over columns of x[r,c] (* y[r,c]; NULL: of x), f32 (f64). */
sy_status syi_row_sums(syi_engine *e, sy_dtype dt, const void *x, const void *y, void *sum, int64_t rows, int64_t cols);
double syi_dot(syi_engine *e, sy_dtype dt, const void *x, const void *y, int64_t n);

/* -- images (image.c) ----------------------------------------------------------------------- */
/* Images are rows of channels: x[images, height, width, channels]. A window of kernel_h x
 * kernel_w pixels moves by `stride` over the image with `pad` pixels around it. */
typedef struct { int64_t images, height, width, channels, kernel_h, kernel_w, stride, pad, out_h, out_w; } syi_window;
/* Sets out_h, out_w; false: nothing fits. */
bool syi_window_size(syi_window *w);
/* y[images*out_h*out_w, channels*kernel_h*kernel_w]: what each window sees, columns in the
 * order of a kernel's numbers (channel, row, column); 0 beyond the edge. */
sy_status syi_patches(syi_engine *e, sy_dtype dt, const syi_window *w, const void *x, void *y);
sy_status syi_patches_grad(syi_engine *e, sy_dtype dt, const syi_window *w, const void *dy, bool add, void *dx);
/* The largest (at: where in the window, int32 [out], the first of equals) or the mean of each
 * window (edges count as 0, as torch's count_include_pad). */
sy_status syi_pool_max(syi_engine *e, sy_dtype dt, const syi_window *w, const void *x, void *y, int32_t *at);
sy_status syi_pool_mean(syi_engine *e, sy_dtype dt, const syi_window *w, const void *x, void *y);
sy_status syi_pool_grad(syi_engine *e, sy_dtype dt, const syi_window *w, const void *dy, const int32_t *at, bool add, void *dx);
/* Mean and (biased) variance of each column, f32 (f64), summed in f64. */
sy_status syi_column_moments(syi_engine *e, sy_dtype dt, const void *x, void *mean, void *var, int64_t rows, int64_t cols);
/* y = (x - mean) * rstd * w + b by column; gradients. fixed: mean and rstd are constants. */
sy_status syi_batchnorm(syi_engine *e, sy_dtype dt, const void *x, const void *mean, const void *rstd, const void *w, const void *b, void *y,
                        int64_t rows, int64_t cols);
sy_status syi_batchnorm_grad(syi_engine *e, sy_dtype dt, const void *dy, const void *x, const void *mean, const void *rstd, const void *w, bool fixed,
                             bool add, void *dx, void *dw, void *db, int64_t rows, int64_t cols);

/* -- attention (attention.c) -------------------------------------------------------------- */
/* Attention inside documents with grouped heads. q[tokens, heads, dim],
 * k,v[tokens, kv_heads, dim]; token t sees tokens first[t]..t, or first[t]..last[t] (the last
 * of its document) if `last` is not NULL. out like q;
 * lse[heads, tokens] f32 (f64). Tiled, online softmax, causal blocks skipped; no
 * T x T, memory linear in tokens. window > 0: t sees only the last `window`.
 * softcap > 0: a scaled score s counts as softcap * tanh(s / softcap). */
typedef struct { int64_t tokens, heads, kv_heads, dim; double scale; const int32_t *first; int64_t window; double softcap; const int32_t *last; } syi_attention;
int64_t syi_attention_scratch(const syi_engine *e, sy_dtype dt, const syi_attention *a, bool backward);
sy_status syi_attention_forward(syi_engine *e, sy_dtype dt, const syi_attention *a, const void *q, const void *k, const void *v,
                                void *out, void *lse, void *scratch);
sy_status syi_attention_backward(syi_engine *e, sy_dtype dt, const syi_attention *a, const void *q, const void *k, const void *v,
                                 const void *out, const void *lse, const void *dout, bool add_q, void *dq, bool add_k, void *dk,
                                 bool add_v, void *dv, void *scratch);
/* Decoding: a->tokens new ones (positions past, past + 1, ...) of one sequence over a cache of
 * keys and values kc, vc [kv_heads, capacity, dim] that already hold past + tokens rows.
 * first and last are not used. */
sy_status syi_attention_cached(syi_engine *e, sy_dtype dt, const syi_attention *a, int64_t past, int64_t capacity, const void *q, const void *kc,
                               const void *vc, void *out);

/* -- head and cross-entropy (cross_entropy.c) --------------------------------------------------- */
/* loss = sum_t weight[t] * -log softmax(h[t] W^T)[target[t]] over t with target >= 0,
 * times scale, in chunks: logits are never whole (scratch < 72 MiB; dw: is it asked for). h[tokens, hidden] dt, W[vocab, hidden] type wt.
 * nll[tokens] f32 (f64), 0 where there is no loss (may be NULL). With dh / dw non-NULL
 * the gradients for a loss gradient of 1 are made in the same pass: dh[tokens, hidden]
 * dt overwritten (zero rows without loss), dw f32 (f64) [vocab, hidden] added to. */
typedef struct { int64_t tokens, hidden, vocab; const int32_t *target; const float *weight; double scale; bool panels; /* W as syi_panels_pack left it */ } syi_head;
int64_t syi_head_scratch(const syi_engine *e, sy_dtype dt, const syi_head *a, bool dw);
sy_status syi_head_loss(syi_engine *e, sy_dtype dt, const syi_head *a, const void *h, sy_dtype wt, const void *w,
                        double *loss, void *nll, void *dh, void *dw, void *scratch);

/* -- optimizer steps (step.c) ---------------------------------------------------------------------- */
/* AdamW as torch does it: m, v, bias correction by t (from 1), decoupled decay. */
typedef struct { double lr, beta1, beta2, eps, decay; int64_t t; } syi_adamw;
sy_status syi_adamw_step(syi_engine *e, const syi_adamw *a, float *value, const float *grad, float *m, float *v, int64_t n);

/* -- decompositions (decomp.c) -------------------------------------------------------------- */
/* Thin SVD of a[m,n] f32: u[m,p], s[p], vt[p,n], p = min(m,n). In f64 inside. */
sy_status syi_svd(sy_context *ctx, int64_t m, int64_t n, const float *a, float *u, float *s, float *vt);
/* Randomised: rank r, `niter` subspace iterations, key for the test matrix. u[m,r], s[r], vt[r,n]. */
sy_status syi_rsvd(syi_engine *e, int64_t m, int64_t n, const float *a, int64_t r, int niter, uint64_t key, float *u, float *s, float *vt);
/* Singular values alone (gram.c), of x[rows, cols] given in slices of rows: the lower
 * triangle of g[cols, cols] += x^T x; wide: of g[rows, rows] += x x^T, all rows at once.
 * Then g (destroyed) to s[n], the largest first; right to 1e-8 of the largest. */
sy_status syi_gram_add(sy_context *ctx, bool wide, int64_t rows, int64_t cols, const float *x, double *g);
sy_status syi_gram_values(sy_context *ctx, int64_t n, double *g, double *s);

#endif
