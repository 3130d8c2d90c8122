/* SPDX-License-Identifier: Apache-2.0 */
/* The table of CPU paths: one row of function pointers per instruction set, picked
 * once per engine. cpu_X.c each hold one row, made from the same source compiled
 * with other flags; cpu_plain.c is what the others are tested against.
 *
 * All functions here work on one thread over the range that they are given; who
 * calls them cuts the work (elementwise.c, norm.c, gemm.c). Functions that come by
 * type are indexed by syi_type: f32, bf16, f64 (f64: plain code in cpu_f64.c, the
 * same in every row). Sums and per-feature vectors are f32 for f32 and bf16, f64 for
 * f64. */
#ifndef SYI_CPU_H
#define SYI_CPU_H

#include "tensor/kernels.h"
#include "tensor/packed.h"
#include "tensor/signs.h"

typedef enum { SYI_ISA_PLAIN, SYI_ISA_NEON, SYI_ISA_AVX2, SYI_ISA_AVX512, SYI_ISA_AVX512_BF16 } syi_isa;

enum { SYI_T_F32, SYI_T_BF16, SYI_T_F64, SYI_T_COUNT };

/* Rank-r gradients (gemm_outer.c): columns of a strip, largest rank. */
enum { SYI_OUTER_COLS = 48, SYI_OUTER_RANK = 64 };

/* Factors of one AdamW step, as the loop wants them. */
typedef struct { float keep, beta1, beta2, one_beta1, one_beta2, step, root2, eps; } syi_adamw_factors;

/* A few vectors as integers (cpu_dots.h): three digits of each number, and for eight lanes of
 * a group of 32 what one unit is worth, and the sum times `sums` of the type's kernels. In
 * memory of syi_digits_bytes that the caller has. */
typedef struct { const void *digits; const float *unit, *sum; } syi_digits;
static inline int64_t syi_digits_padded(int64_t k) { return (k + 63) / 64 * 64; }
static inline int64_t syi_digits_bytes(int64_t m, int64_t k) { return m * 5 * syi_digits_padded(k); }

/* GGUF blocks of one type (cpu_blocks.h). Row r lies `pitch` * (order ? order[r] : r) bytes
 * behind w; gemv: out[i, r] = x[i,:] . row r for i < m <= 4, f32 sums; k is a multiple of
 * the block's length. Memory some KiB behind a row may be asked for, never read. */
typedef struct {
    void (*gemv)(int m, int64_t rows, int64_t k, const float *x, int64_t ldx, const uint8_t *w, int64_t pitch, const int32_t *order, float *out,
                 int64_t ldo);
    /* The same from the digits of x; NULL: this type or path has none. */
    void (*dots)(int m, int64_t rows, int64_t k, const syi_digits *x, const uint8_t *w, int64_t pitch, const int32_t *order, float *out, int64_t ldo);
    float sums; /* minus the code that stands for zero; 1 where a number is added instead */
    void (*to_f32)(const uint8_t *row, int64_t k, void *dst);
    void (*to_bf16)(const uint8_t *row, int64_t k, void *dst);
} syi_block_kernels;

typedef struct {
    const char *name; /* as in STEELYARD_CPU */
    syi_isa isa;

    /* gemm.c: out[i, r] = x[i,:] . w[r,:] for r < rows, i < m <= 4; f32 sums. */
    void (*gemv_f32)(int m, int64_t rows, int64_t k, const float *x, int64_t ldx, const float *w, int64_t ldw, float *out, int64_t ldo);
    void (*gemv_bf16)(int m, int64_t rows, int64_t k, const float *x, int64_t ldx, const uint16_t *w, int64_t ldw, float *out, int64_t ldo);
    /* packed.c: out[i, r] = x[i,:] . w[r,:] for rows [row, row+rows), m <= 4, x as packed_in
     * made it in `work` (3 m p->padded bytes); false: no such product here. unpack: one row
     * as f32. */
    bool (*packed_in)(const syi_packed *p, int m, const float *x, void *work, syi_packed_in *in);
    void (*gemv_packed)(const syi_packed *p, int m, int64_t row, int64_t rows, const syi_packed_in *in, float *out, int64_t ldo);
    void (*unpack)(const syi_packed *p, int64_t row, float *dst);
    /* gemm_panels.c: out[i, 0..63] = x[i,:] . 64 packed rows; k a multiple of 16,
     * i < m <= 4. */
    void (*gemv_panels)(int m, int64_t k, const float *x, int64_t ldx, const uint16_t *w, float *out, int64_t ldo);
    /* signs.c: tables of whole spans of x; tiles [first, end) of y from them (not more than
     * one rounding away from what the plain path gives). */
    void (*signs_digits)(int64_t spans, const float *x, const syi_signs_in *in);
    void (*signs_pick)(const syi_signs *s, const syi_signs_in *in, int64_t first, int64_t end, float *y);
    /* Tables of a patch of rows; half tiles of 16 rows [first, end) from them. */
    void (*signs_table)(const syi_signs *s, int64_t patch, int64_t across, const float *x, float *table);
    void (*signs_sum)(const syi_signs *s, const float *table, int64_t first, int64_t end, float *y);
    /* Sum of |w^ - w|^2.4, w^ = scale * (clamp(round(w / scale) + zero, 0, top) - zero). */
    double (*grid_error)(const float *w, int64_t n, float scale, float zero, float top);
    /* code[i] = clamp(round(w / scale) + zero, 0, top), value[i] = scale * (code - zero); each number its own grid. */
    void (*grid_round)(int64_t n, const float *w, const float *scale, const float *zero, float top, uint8_t *code, float *value);
    /* t[i] += sign * sum over q < n of u[q ldu] e[q rows + i], in the order of q. */
    void (*columns_owe)(int64_t rows, int64_t n, float sign, const float *u, int64_t ldu, const float *e, float *t);
    /* NULL: this type has none, block_decode.c does it. */
    const syi_block_kernels *(*blocks)(sy_dtype type);
    void (*block_digits)(int m, int64_t k, const float *x, float sums, void *work, syi_digits *out); /* for their dots; NULL: no type has any */
    /* gemm_outer.c: out[r, 48] = S[k, r]^T X[k, cols <= 48]; S as outer_pack left it
     * (k*r words). */
    void (*outer_pack_f32)(int64_t k, int64_t r, const float *s, int64_t lds, uint32_t *out);
    void (*outer_pack_bf16)(int64_t k, int64_t r, const uint16_t *s, int64_t lds, uint32_t *out);
    void (*outer_f32)(int64_t k, int64_t r, const uint32_t *s, const float *x, int64_t ldx, int64_t cols, float *out);
    void (*outer_bf16)(int64_t k, int64_t r, const uint32_t *s, const uint16_t *x, int64_t ldx, int64_t cols, float *out);

    void (*from_bf16)(const uint16_t *x, float *y, int64_t n);
    void (*to_bf16)(const float *x, uint16_t *y, int64_t n);
    void (*adamw)(const syi_adamw_factors *f, float *value, const float *grad, float *m, float *v, int64_t n);

    /* y = (add ? y : 0) + a*x */
    void (*axpy[SYI_T_COUNT])(double a, const void *x, bool add, void *y, int64_t n);
    /* y += x; [type of x][type of y], f32 and bf16 */
    void (*accumulate[2][2])(const void *x, void *y, int64_t n);
    /* sum[r] += shards of r of x[cols], in order; every shard of y[cols] += z[r] (one type) */
    void (*shard_sum[2])(const void *x, int64_t cols, int64_t r, float *sum);
    void (*repeat_add[2])(const void *z, int64_t r, int64_t cols, void *y);
    /* z = x + a*y */
    void (*add[SYI_T_COUNT])(double a, const void *x, const void *y, void *z, int64_t n);
    void (*combine[SYI_T_COUNT])(syi_combination op, double a, const void *x, const void *y, const void *w, bool add, void *z, int64_t n);
    /* y[r,c] = (add ? y : 0) + x[r,c] * s[c] */
    void (*scale_cols[SYI_T_COUNT])(const void *x, const void *s, bool add, void *y, int64_t rows, int64_t cols);
    void (*add_bias[SYI_T_COUNT])(const void *b, void *y, int64_t rows, int64_t cols);
    /* sum[c] = sum over rows of x[r,c] (* y[r,c]); y may be NULL. */
    void (*col_sums[SYI_T_COUNT])(const void *x, const void *y, void *sum, int64_t rows, int64_t cols);
    /* y = (add ? y : 0) + (u >= p ? x / (1-p) : 0), u uniform numbers */
    void (*dropout[SYI_T_COUNT])(const float *u, double p, const void *x, bool add, void *y, int64_t n);
    void (*rmsnorm[SYI_T_COUNT])(const void *x, const void *w, double eps, void *y, void *rstd, int64_t rows, int64_t cols);
    /* dw (may be NULL): partial sums of these rows, overwritten; dx may be NULL. */
    void (*rmsnorm_grad[SYI_T_COUNT])(const void *dy, const void *x, const void *w, const void *rstd, bool add, void *dx, void *dw,
                                      int64_t rows, int64_t cols);
    void (*swiglu[SYI_T_COUNT])(const void *gate, const void *up, void *y, int64_t n);
    void (*swiglu_grad[SYI_T_COUNT])(const void *dy, const void *gate, const void *up, bool add_gate, void *dgate, bool add_up, void *dup,
                                     int64_t n);
    void (*act[SYI_T_COUNT])(syi_act kind, const void *x, const void *u, void *y, int64_t n);
    void (*act_grad[SYI_T_COUNT])(syi_act kind, const void *dy, const void *x, const void *u, bool add_x, void *dx, bool add_u, void *du, int64_t n);
    void (*layernorm[SYI_T_COUNT])(const void *x, const void *w, const void *b, double eps, void *y, void *mean, void *rstd, int64_t rows,
                                   int64_t cols);
    /* dw, db (may be NULL): as dw of rmsnorm_grad */
    void (*layernorm_grad[SYI_T_COUNT])(const void *dy, const void *x, const void *w, const void *mean, const void *rstd, bool add, void *dx,
                                        void *dw, void *db, int64_t rows, int64_t cols);
    void (*rope[SYI_T_COUNT])(const void *x, const int32_t *pos, const void *cos_t, const void *sin_t, bool inverse, bool add, void *y,
                              int64_t tokens, int64_t heads, int64_t dim);
    /* Sum of x*y in f64; y NULL: of x. */
    double (*dot[SYI_T_COUNT])(const void *x, const void *y, int64_t n);
} syi_cpu;

extern const syi_cpu syi_cpu_plain, syi_cpu_neon, syi_cpu_avx2, syi_cpu_avx512, syi_cpu_avx512_bf16;

/* The best row for this processor, or the one that STEELYARD_CPU names: unknown or
 * not possible here is SY_E_USAGE. */
sy_status syi_cpu_pick(sy_context *ctx, const syi_cpu **out, bool *forced);
/* NULL: not in this build, or this processor lacks it. */
const syi_cpu *syi_cpu_find(const char *name);

/* cpu_f64.c */
void syi_axpy_f64(double a, const void *x, bool add, void *y, int64_t n);
void syi_add_f64(double a, const void *x, const void *y, void *z, int64_t n);
void syi_combine_f64(syi_combination op, double a, const void *x, const void *y, const void *w, bool add, void *z, int64_t n);
void syi_scale_cols_f64(const void *x, const void *s, bool add, void *y, int64_t rows, int64_t cols);
void syi_add_bias_f64(const void *b, void *y, int64_t rows, int64_t cols);
void syi_col_sums_f64(const void *x, const void *y, void *sum, int64_t rows, int64_t cols);
void syi_dropout_f64(const float *u, double p, const void *x, bool add, void *y, int64_t n);
void syi_rmsnorm_f64(const void *x, const void *w, double eps, void *y, void *rstd, int64_t rows, int64_t cols);
void syi_rmsnorm_grad_f64(const void *dy, const void *x, const void *w, const void *rstd, bool add, void *dx, void *dw, int64_t rows,
                          int64_t cols);
void syi_swiglu_f64(const void *gate, const void *up, void *y, int64_t n);
void syi_swiglu_grad_f64(const void *dy, const void *gate, const void *up, bool add_gate, void *dgate, bool add_up, void *dup, int64_t n);
void syi_act_f64(syi_act kind, const void *x, const void *u, void *y, int64_t n);
void syi_act_grad_f64(syi_act kind, const void *dy, const void *x, const void *u, bool add_x, void *dx, bool add_u, void *du, int64_t n);
void syi_layernorm_f64(const void *x, const void *w, const void *b, double eps, void *y, void *mean, void *rstd, int64_t rows, int64_t cols);
void syi_layernorm_grad_f64(const void *dy, const void *x, const void *w, const void *mean, const void *rstd, bool add, void *dx, void *dw,
                            void *db, int64_t rows, int64_t cols);
void syi_rope_f64(const void *x, const int32_t *pos, const void *cos_t, const void *sin_t, bool inverse, bool add, void *y, int64_t tokens,
                  int64_t heads, int64_t dim);
double syi_dot_f64(const void *x, const void *y, int64_t n);

#endif
