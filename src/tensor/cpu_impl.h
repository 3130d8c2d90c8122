/* SPDX-License-Identifier: Apache-2.0 */
/* The row of the CPU table: included by each cpu_X.c, which defines CPU_ROW (the
 * row's symbol), CPU_NAME and CPU_ISA and is compiled with that set's flags. */
#include "tensor/cpu.h"
#include "tensor/simd_exp2.h"

static float bf16_value(bf16 h)
{
    union { uint32_t u; float f; } x = {(uint32_t)h << 16};
    return x.f;
}

/* -- rows of a weight times a few vectors (decoding) --------------------------------- */
/* out[i, r] = x[i,:] . w[r,:]. Memory-bound: one pass over w, several sums per row so
 * that loads overlap. */
#define GEMV_BODY(M, T, LOAD, VALUE)                                                                   \
    for (int64_t r = 0; r < rows; r++) {                                                                \
        const T *wr = w + r * ldw;                                                                      \
        vf s[M][4];                                                                                     \
        for (int i = 0; i < M; i++)                                                                     \
            for (int j = 0; j < 4; j++) s[i][j] = vset(0);                                              \
        int64_t c = 0;                                                                                  \
        for (; c + 4 * VW <= k; c += 4 * VW) {                                                          \
            for (int j = 0; j < 4; j++) {                                                               \
                vf v = LOAD(wr + c + j * VW);                                                           \
                for (int i = 0; i < M; i++) s[i][j] += v * vload_f32(x + i * ldx + c + j * VW);         \
            }                                                                                           \
        }                                                                                               \
        for (; c + VW <= k; c += VW) {                                                                  \
            vf v = LOAD(wr + c);                                                                        \
            for (int i = 0; i < M; i++) s[i][0] += v * vload_f32(x + i * ldx + c);                      \
        }                                                                                               \
        for (int i = 0; i < M; i++) {                                                                   \
            float sum = vsum((s[i][0] + s[i][1]) + (s[i][2] + s[i][3]));                                \
            for (int64_t t = c; t < k; t++) sum += VALUE(wr[t]) * x[i * ldx + t];                       \
            out[i * ldo + r] = sum;                                                                     \
        }                                                                                               \
    }
#define SAME(x) (x)

static void gemv_f32(int m, int64_t rows, int64_t k, const float *x, int64_t ldx, const float *w, int64_t ldw, float *out, int64_t ldo)
{
    switch (m) {
    case 1: GEMV_BODY(1, float, vload_f32, SAME) break;
    case 2: GEMV_BODY(2, float, vload_f32, SAME) break;
    case 3: GEMV_BODY(3, float, vload_f32, SAME) break;
    default: GEMV_BODY(4, float, vload_f32, SAME) break;
    }
}

static void gemv_bf16(int m, int64_t rows, int64_t k, const float *x, int64_t ldx, const bf16 *w, int64_t ldw, float *out, int64_t ldo)
{
    switch (m) {
    case 1: GEMV_BODY(1, bf16, vload_bf16, bf16_value) break;
    case 2: GEMV_BODY(2, bf16, vload_bf16, bf16_value) break;
    case 3: GEMV_BODY(3, bf16, vload_bf16, bf16_value) break;
    default: GEMV_BODY(4, bf16, vload_bf16, bf16_value) break;
    }
}

/* Packed: pairs of k (low, high half of a 32-bit lane) of 64 rows follow each other. */
#define PANELS_BODY(M)                                                                                  \
    for (int half = 0; half < 64; half += PANELS_V * VW) {                                              \
        vf s[M][PANELS_V];                                                                              \
        for (int i = 0; i < M; i++)                                                                     \
            for (int j = 0; j < PANELS_V; j++) s[i][j] = vset(0);                                       \
        for (int64_t c = 0; c < k; c += 2) {                                                            \
            for (int j = 0; j < PANELS_V; j++) {                                                        \
                vu pair;                                                                                \
                memcpy(&pair, w + c * 64 + (half + j * VW) * 2, sizeof pair);                           \
                vf low = (vf)(pair << 16), high = (vf)(pair & 0xffff0000u);                             \
                for (int i = 0; i < M; i++)                                                             \
                    s[i][j] += low * vset(x[i * ldx + c]) + high * vset(x[i * ldx + c + 1]);            \
            }                                                                                           \
        }                                                                                               \
        for (int i = 0; i < M; i++)                                                                     \
            for (int j = 0; j < PANELS_V; j++) vstore_f32(out + i * ldo + half + j * VW, s[i][j]);      \
    }
enum { PANELS_V = 4 };

static void gemv_panels(int m, int64_t k, const float *x, int64_t ldx, const bf16 *w, float *out, int64_t ldo)
{
    switch (m) {
    case 1: PANELS_BODY(1) break;
    case 2: PANELS_BODY(2) break;
    case 3: PANELS_BODY(3) break;
    default: PANELS_BODY(4) break;
    }
}

static void from_bf16(const bf16 *x, float *y, int64_t n)
{
    int64_t i = 0;
    for (; i + VW <= n; i += VW) vstore_f32(y + i, vload_bf16(x + i));
    if (i < n) vstore_f32_part(y + i, vload_bf16_part(x + i, n - i), n - i);
}

static void to_bf16(const float *x, bf16 *y, int64_t n)
{
    int64_t i = 0;
    for (; i + VW <= n; i += VW) vstore_bf16(y + i, vload_f32(x + i));
    if (i < n) vstore_bf16_part(y + i, vload_f32_part(x + i, n - i), n - i);
}

/* Value and derivative of an activation. erf to 1.5e-7 by Abramowitz and Stegun 7.1.26. */
static inline __attribute__((always_inline)) vf vact(const int kind, vf x, vf *derivative)
{
    const vf one = vset(1), half = vset(0.5f), zero = vset(0);
    if (kind == SYI_ACT_RELU) {
        const vi on = (vi)(x > zero);
        *derivative = vselect(on, one, zero);
        return vselect(on, x, zero);
    }
    if (kind == SYI_ACT_TANH) {
        const vf t = one - vset(2) / (one + vexp(x + x));
        *derivative = one - t * t;
        return t;
    }
    if (kind == SYI_ACT_GELU_TANH) {
        const vf c = vset(0.7978845608028654f), k = vset(0.044715f), xx = x * x;
        const vf t = one - vset(2) / (one + vexp(vset(2) * c * x * (one + k * xx)));
        *derivative = half * (one + t) + half * x * (one - t * t) * c * (one + vset(3) * k * xx);
        return half * x * (one + t);
    }
    if (kind == SYI_ACT_GELU) {
        const vf a = vselect(x < zero, -x, x) * vset(0.7071067811865476f), t = one / (one + vset(0.3275911f) * a), e = vexp(-a * a);
        const vf p = t * (vset(0.254829592f) + t * (vset(-0.284496736f) + t * (vset(1.421413741f) + t * (vset(-1.453152027f) + t * vset(1.061405429f)))));
        const vf tail = half * p * e; /* of the normal distribution beyond |x| */
        const vf phi = vselect(x < zero, tail, one - tail);
        *derivative = phi + x * e * vset(0.3989422804014327f);
        return x * phi;
    }
    const vf k = kind == SYI_ACT_QUICK_GELU ? vset(1.702f) : one, s = one / (one + vexp(-k * x)), y = x * s;
    *derivative = s + k * y * (one - s);
    return y;
}

/* 1 / (1 + e^-x): f32 to the last digits, for bf16 to 2e-6. */
static inline vf logistic(vf x)
{
    return vset(1) / (vset(1) + vexp(-x));
}

#define T float
#define LOGISTIC logistic
#define NAME(f) f##_f32
#define LOAD vload_f32
#define STORE vstore_f32
#define LOAD_PART vload_f32_part
#define STORE_PART vstore_f32_part
#include "tensor/cpu_elementwise.h"
#undef T
#undef LOGISTIC
#undef NAME
#undef LOAD
#undef STORE
#undef LOAD_PART
#undef STORE_PART
#define T bf16
#define LOGISTIC vlogistic
#define NAME(f) f##_bf16
#define LOAD vload_bf16
#define STORE vstore_bf16
#define LOAD_PART vload_bf16_part
#define STORE_PART vstore_bf16_part
#include "tensor/cpu_elementwise.h"

#include "tensor/cpu_outer.h"
#include "tensor/cpu_blocks.h" /* with cpu_dots.h */
#include "tensor/cpu_packed.h"
#include "tensor/cpu_grid.h"
#include "tensor/cpu_signs.h"

/* value *= keep; m += (g - m)(1 - b1); v = b2 v + (1 - b2) g g; value -= step m /
 * (sqrt(v)/root2 + eps): torch.optim.AdamW's operations in its order. */
static void adamw(const syi_adamw_factors *f, float *value, const float *grad, float *m, float *v, int64_t n)
{
    vf keep = vset(f->keep), beta2 = vset(f->beta2), d1 = vset(f->one_beta1), d2 = vset(f->one_beta2);
    vf step = vset(-f->step), root2 = vset(f->root2), eps = vset(f->eps);
    for (int64_t i = 0; i < n; i += VW) {
        int64_t rest = n - i;
        bool full = rest >= VW;
        vf g = full ? vload_f32(grad + i) : vload_f32_part(grad + i, rest);
        vf w = full ? vload_f32(value + i) : vload_f32_part(value + i, rest);
        vf a = full ? vload_f32(m + i) : vload_f32_part(m + i, rest);
        vf b = full ? vload_f32(v + i) : vload_f32_part(v + i, rest);
        a += (g - a) * d1;
        b = b * beta2 + d2 * g * g;
        w = w * keep + step * a / (vsqrt(b) / root2 + eps);
        if (full) {
            vstore_f32(value + i, w);
            vstore_f32(m + i, a);
            vstore_f32(v + i, b);
        } else {
            vstore_f32_part(value + i, w, rest);
            vstore_f32_part(m + i, a, rest);
            vstore_f32_part(v + i, b, rest);
        }
    }
}

#define BY_TYPE(f) {f##_f32, f##_bf16, syi_##f##_f64}
const syi_cpu CPU_ROW = {
    .name = CPU_NAME,
    .isa = CPU_ISA,
    .gemv_f32 = gemv_f32,
    .gemv_bf16 = gemv_bf16,
    .grid_error = grid_error,
    .grid_round = grid_round,
    .columns_owe = columns_owe,
    .signs_digits = signs_digits,
    .signs_pick = signs_pick,
    .signs_table = signs_table,
    .signs_sum = signs_sum,
    .packed_in = packed_in,
    .gemv_packed = gemv_packed,
    .unpack = unpack,
    .gemv_panels = gemv_panels,
    .blocks = block_kernels,
    .block_digits = BLOCK_DIGITS,
    .outer_pack_f32 = outer_pack_f32,
    .outer_pack_bf16 = outer_pack_bf16,
    .outer_f32 = outer_f32,
    .outer_bf16 = outer_bf16,
    .from_bf16 = from_bf16,
    .to_bf16 = to_bf16,
    .adamw = adamw,
    .axpy = BY_TYPE(axpy),
    .accumulate = {{accumulate_f32_f32, accumulate_bf16_f32}, {accumulate_f32_bf16, accumulate_bf16_bf16}},
    .shard_sum = {shard_sum_f32, shard_sum_bf16}, .repeat_add = {repeat_add_f32, repeat_add_bf16},
    .add = BY_TYPE(add),
    .combine = BY_TYPE(combine),
    .scale_cols = BY_TYPE(scale_cols),
    .add_bias = BY_TYPE(add_bias),
    .col_sums = BY_TYPE(col_sums),
    .dropout = BY_TYPE(dropout),
    .rmsnorm = BY_TYPE(rmsnorm),
    .rmsnorm_grad = BY_TYPE(rmsnorm_grad),
    .swiglu = BY_TYPE(swiglu),
    .swiglu_grad = BY_TYPE(swiglu_grad),
    .act = BY_TYPE(act),
    .act_grad = BY_TYPE(act_grad),
    .layernorm = BY_TYPE(layernorm),
    .layernorm_grad = BY_TYPE(layernorm_grad),
    .rope = BY_TYPE(rope),
    .dot = BY_TYPE(dot),
};
