/* SPDX-License-Identifier: Apache-2.0 */
/* The row of the CPU table: included by each cpu_X.c, which defines CPU_ROW (the
 * row's symbol), CPU_NAME and CPU_ISA and is compiled with that set's flags. */
#include "tensor/cpu.h"
#include "tensor/simd.h"

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

#define T float
#define NAME(f) f##_f32
#define LOAD vload_f32
#define STORE vstore_f32
#define LOAD_PART vload_f32_part
#define STORE_PART vstore_f32_part
#include "tensor/cpu_elementwise.h"
#undef T
#undef NAME
#undef LOAD
#undef STORE
#undef LOAD_PART
#undef STORE_PART
#define T bf16
#define NAME(f) f##_bf16
#define LOAD vload_bf16
#define STORE vstore_bf16
#define LOAD_PART vload_bf16_part
#define STORE_PART vstore_bf16_part
#include "tensor/cpu_elementwise.h"

#include "tensor/cpu_outer.h"

const syi_cpu CPU_ROW = {
    .name = CPU_NAME,
    .isa = CPU_ISA,
    .gemv_f32 = gemv_f32,
    .gemv_bf16 = gemv_bf16,
    .from_bf16 = from_bf16,
    .to_bf16 = to_bf16,
    .outer_pack_f32 = outer_pack_f32,
    .outer_pack_bf16 = outer_pack_bf16,
    .outer_f32 = outer_f32,
    .outer_bf16 = outer_bf16,
    .axpy_f32 = axpy_f32,
    .axpy_bf16 = axpy_bf16,
};
