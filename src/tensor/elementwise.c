/* SPDX-License-Identifier: Apache-2.0 */
/* Elementwise kernels and sums: cut into pieces here, done by the loops of the CPU
 * table (cpu_elementwise.h for f32 and bf16, cpu_f64.c). */
#include "tensor/gemm.h"
#include "tensor/pieces.h"

#include <math.h>

sy_status syi_no_type(const syi_engine *e, const char *what, sy_dtype dt)
{
    return syi_fail(e->ctx, SY_E_BUG, "%s: no kernel for %s (F32, BF16, F64 have one)", what, sy_dtype_name(dt));
}

/* Looks up the type; leaves `t` (table index) and `z` (bytes of a number). */
#define TYPE(e, what, dt)                                 \
    const int t = syi_type(dt);                           \
    if (t < 0) return syi_no_type(e, what, dt);           \
    const int64_t z = sy_dtype_block_bytes(dt);           \
    (void)z

/* -- types ---------------------------------------------------------------------------- */

enum { CAST_STEP = 1024 };

/* By way of f32 for types that only convert.c knows. */
static sy_status cast_slowly(syi_engine *e, sy_dtype from, const char *src, sy_dtype to, char *dst, int64_t n)
{
    float t[CAST_STEP];
    int64_t fl = sy_dtype_block_len(from), fb = sy_dtype_block_bytes(from);
    int64_t tl = sy_dtype_block_len(to), tb = sy_dtype_block_bytes(to);
    for (int64_t i = 0; i < n; i += CAST_STEP) {
        int64_t count = syi_min(CAST_STEP, n - i);
        SYI_TRY(sy_to_f32(e->ctx, from, src + i / fl * fb, t, count));
        SYI_TRY(sy_from_f32(e->ctx, to, t, dst + i / tl * tb, count));
    }
    return SY_OK;
}

sy_status syi_cast(syi_engine *e, sy_dtype from, const void *src, sy_dtype to, void *dst, int64_t n)
{
    if (n <= 0) return SY_OK;
    if (from == to && sy_dtype_block_len(from) == 1) {
        int64_t z = sy_dtype_block_bytes(from);
        if (src != dst) SYI_CUT(e, n, SYI_PIECE, i, count, memcpy(syi_to(dst, i, z), syi_at(src, i, z), (size_t)(count * z)););
        return SY_OK;
    }
    if (from == SY_F32 && to == SY_BF16)
        SYI_CUT(e, n, SYI_PIECE, i, count, e->cpu->to_bf16((const float *)src + i, (uint16_t *)dst + i, count););
    else if (from == SY_BF16 && to == SY_F32)
        SYI_CUT(e, n, SYI_PIECE, i, count, e->cpu->from_bf16((const uint16_t *)src + i, (float *)dst + i, count););
    else if (from == SY_F32 && to == SY_F64)
        for (int64_t i = 0; i < n; i++) ((double *)dst)[i] = ((const float *)src)[i];
    else if (from == SY_F64 && to == SY_F32)
        for (int64_t i = 0; i < n; i++) ((float *)dst)[i] = (float)((const double *)src)[i];
    else if (from == SY_BF16 && to == SY_F64)
        for (int64_t i = 0; i < n; i++) ((double *)dst)[i] = syi_from_bf16(((const uint16_t *)src)[i]);
    else if (from == SY_F64 && to == SY_BF16)
        for (int64_t i = 0; i < n; i++) ((uint16_t *)dst)[i] = syi_to_bf16((float)((const double *)src)[i]);
    else if (to == SY_F64) {
        float step[CAST_STEP];
        int64_t fl = sy_dtype_block_len(from), fb = sy_dtype_block_bytes(from);
        for (int64_t i = 0; i < n; i += CAST_STEP) {
            int64_t count = syi_min(CAST_STEP, n - i);
            SYI_TRY(sy_to_f32(e->ctx, from, (const char *)src + i / fl * fb, step, count));
            for (int64_t j = 0; j < count; j++) ((double *)dst)[i + j] = step[j];
        }
    } else if (from == SY_F64)
        return syi_no_type(e, "cast from F64", to);
    else
        return cast_slowly(e, from, src, to, dst, n);
    return SY_OK;
}

/* -- elementwise ------------------------------------------------------------------------ */

sy_status syi_axpy(syi_engine *e, sy_dtype dt, double a, const void *x, bool add, void *y, int64_t n)
{
    TYPE(e, "axpy", dt);
    SYI_CUT(e, n, SYI_PIECE, i, count, e->cpu->axpy[t](a, syi_at(x, i, z), add, syi_to(y, i, z), count););
    return SY_OK;
}

sy_status syi_accumulate(syi_engine *e, sy_dtype dx, const void *x, sy_dtype dy, void *y, int64_t n)
{
    TYPE(e, "accumulate", dx);
    const int ty = syi_type(dy);
    if (ty < 0) return syi_no_type(e, "accumulate", dy);
    if (t == SYI_T_F64 || ty == SYI_T_F64) {
        for (int64_t i = 0; i < n; i++) {
            double v = t == SYI_T_F64 ? ((const double *)x)[i] : t == SYI_T_F32 ? (double)((const float *)x)[i] : (double)syi_from_bf16(((const uint16_t *)x)[i]);
            if (ty == SYI_T_F64) ((double *)y)[i] += v;
            else if (ty == SYI_T_F32) ((float *)y)[i] = (float)((double)((float *)y)[i] + v);
            else ((uint16_t *)y)[i] = syi_to_bf16((float)((double)syi_from_bf16(((uint16_t *)y)[i]) + v));
        }
        return SY_OK;
    }
    const int64_t zy = sy_dtype_block_bytes(dy);
    SYI_CUT(e, n, SYI_PIECE, i, count, e->cpu->accumulate[t][ty](syi_at(x, i, z), syi_to(y, i, zy), count););
    return SY_OK;
}

sy_status syi_add_scaled(syi_engine *e, sy_dtype dt, const void *x, double a, const void *y, void *out, int64_t n)
{
    TYPE(e, "add", dt);
    SYI_CUT(e, n, SYI_PIECE, i, count, e->cpu->add[t](a, syi_at(x, i, z), syi_at(y, i, z), syi_to(out, i, z), count););
    return SY_OK;
}

sy_status syi_add(syi_engine *e, sy_dtype dt, const void *x, const void *y, void *out, int64_t n)
{
    return syi_add_scaled(e, dt, x, 1, y, out, n);
}

sy_status syi_combine(syi_engine *e, sy_dtype dt, syi_combination op, double a, const void *x, const void *y, const void *w, bool add, void *out, int64_t n)
{
    TYPE(e, "combine", dt);
    SYI_CUT(e, n, SYI_PIECE, i, count,
            e->cpu->combine[t](op, a, syi_at(x, i, z), syi_at(y, i, z), syi_at(w, i, z), add, syi_to(out, i, z), count););
    return SY_OK;
}

sy_status syi_mul(syi_engine *e, sy_dtype dt, const void *x, const void *y, bool add, void *out, int64_t n)
{
    return syi_combine(e, dt, SYI_MUL, 1, x, y, NULL, add, out, n);
}

enum { NOISE = 1024 }; /* uniform numbers made at a time */

sy_status syi_dropout(syi_engine *e, sy_dtype dt, uint64_t key, double p, const void *x, bool add, void *y, int64_t n)
{
    TYPE(e, "dropout", dt);
    if (!(p >= 0 && p < 1)) return syi_fail(e->ctx, SY_E_BUG, "dropout of %g: must be in [0, 1)", p);
    SYI_CUT(e, n, SYI_PIECE, first, count,
        float u[NOISE];
        for (int64_t i = first; i < first + count; i += NOISE) {
            int64_t some = syi_min(NOISE, first + count - i);
            syi_uniform(key, i, some, u);
            e->cpu->dropout[t](u, p, syi_at(x, i, z), add, syi_to(y, i, z), some);
        });
    return SY_OK;
}

sy_status syi_swiglu(syi_engine *e, sy_dtype dt, const void *gate, const void *up, void *y, int64_t n)
{
    TYPE(e, "swiglu", dt);
    SYI_CUT(e, n, SYI_PIECE, i, count, e->cpu->swiglu[t](syi_at(gate, i, z), syi_at(up, i, z), syi_to(y, i, z), count););
    return SY_OK;
}

sy_status syi_swiglu_grad(syi_engine *e, sy_dtype dt, const void *dy, const void *gate, const void *up, bool add_gate, void *dgate,
                          bool add_up, void *dup, int64_t n)
{
    TYPE(e, "swiglu", dt);
    SYI_CUT(e, n, SYI_PIECE, i, count,
            e->cpu->swiglu_grad[t](syi_at(dy, i, z), syi_at(gate, i, z), syi_at(up, i, z), add_gate, syi_to(dgate, i, z), add_up,
                                   syi_to(dup, i, z), count););
    return SY_OK;
}

/* -- per column ---------------------------------------------------------------------------- */

/* A vector of another type than the kernel's (s of scale_cols): converted in working
 * memory. */
static sy_status vector_in(syi_engine *e, sy_dtype from, sy_dtype to, int64_t n, const void **x)
{
    if (from == to) return SY_OK;
    void *y = syi_engine_work(e, SYI_WORK_PIECES, n * sy_dtype_block_bytes(to));
    if (y == NULL) return SY_E_MEMORY;
    SYI_TRY(syi_cast(e, from, *x, to, y, n));
    *x = y;
    return SY_OK;
}

sy_status syi_scale_cols(syi_engine *e, sy_dtype dt, const void *x, const void *s, sy_dtype st, bool add, void *y, int64_t rows, int64_t cols)
{
    TYPE(e, "scale_cols", dt);
    SYI_TRY(vector_in(e, st, dt == SY_F64 ? SY_F64 : SY_F32, cols, &s));
    SYI_CUT(e, rows, syi_piece_rows(cols), r, count, e->cpu->scale_cols[t](syi_at(x, r * cols, z), s, add, syi_to(y, r * cols, z), count, cols););
    return SY_OK;
}

sy_status syi_add_bias(syi_engine *e, sy_dtype dt, const void *b, void *y, int64_t rows, int64_t cols)
{
    TYPE(e, "add_bias", dt);
    SYI_CUT(e, rows, syi_piece_rows(cols), r, count, e->cpu->add_bias[t](b, syi_to(y, r * cols, z), count, cols););
    return SY_OK;
}

void syi_tree_add(syi_engine *e, int t, void *part, int64_t pieces, int64_t cols, void *sum)
{
    const int64_t z = t == SYI_T_F64 ? 8 : 4;
    const int type = t == SYI_T_F64 ? SYI_T_F64 : SYI_T_F32;
    SYI_CUT(e, cols, 512, c, count,
        for (int64_t step = 1; step < pieces; step *= 2)
            for (int64_t p = 0; p + step < pieces; p += 2 * step)
                e->cpu->axpy[type](1, syi_at(part, (p + step) * cols + c, z), true, syi_to(part, p * cols + c, z), count);
        e->cpu->axpy[type](1, syi_at(part, c, z), true, syi_to(sum, c, z), count););
}

int syi_act_find(const char *name)
{
    static const struct { const char *name; syi_act kind; } rows[] = {
        {"silu", SYI_ACT_SILU}, {"swish", SYI_ACT_SILU}, {"gelu", SYI_ACT_GELU}, {"gelu_python", SYI_ACT_GELU}, {"gelu_new", SYI_ACT_GELU_TANH},
        {"gelu_fast", SYI_ACT_GELU_TANH}, {"gelu_pytorch_tanh", SYI_ACT_GELU_TANH}, {"quick_gelu", SYI_ACT_QUICK_GELU}, {"relu", SYI_ACT_RELU},
        {"tanh", SYI_ACT_TANH},
    };
    for (int i = 0; i < SYI_COUNT(rows); i++)
        if (strcmp(rows[i].name, name) == 0) return (int)rows[i].kind;
    return -1;
}

sy_status syi_activate(syi_engine *e, sy_dtype dt, syi_act kind, const void *x, const void *u, void *y, int64_t n)
{
    TYPE(e, "activation", dt);
    SYI_CUT(e, n, SYI_PIECE, i, count, e->cpu->act[t](kind, syi_at(x, i, z), syi_at(u, i, z), syi_to(y, i, z), count););
    return SY_OK;
}

sy_status syi_activate_grad(syi_engine *e, sy_dtype dt, syi_act kind, const void *dy, const void *x, const void *u, bool add_x, void *dx, bool add_u,
                            void *du, int64_t n)
{
    TYPE(e, "activation gradient", dt);
    SYI_CUT(e, n, SYI_PIECE, i, count,
            e->cpu->act_grad[t](kind, syi_at(dy, i, z), syi_at(x, i, z), syi_at(u, i, z), add_x, syi_to(dx, i, z), add_u, syi_to(du, i, z), count););
    return SY_OK;
}

/* sum[c] += sum_r x[r,c] (* y[r,c]) */
static sy_status col_sums(syi_engine *e, sy_dtype dt, const void *x, const void *y, void *sum, int64_t rows, int64_t cols)
{
    TYPE(e, "sums of columns", dt);
    const int64_t zs = t == SYI_T_F64 ? 8 : 4, size = syi_sum_rows_piece(rows), pieces = syi_ceil_div(rows, size);
    if (rows <= 0) return SY_OK;
    void *part = syi_engine_work(e, SYI_WORK_PIECES, pieces * cols * zs);
    if (part == NULL) return SY_E_MEMORY;
    SYI_CUT(e, rows, size, r, count,
            e->cpu->col_sums[t](syi_at(x, r * cols, z), syi_at(y, r * cols, z), syi_to(part, r / size * cols, zs), count, cols););
    syi_tree_add(e, t, part, pieces, cols, sum);
    return SY_OK;
}

sy_status syi_scale_cols_grad(syi_engine *e, sy_dtype dt, const void *dy, const void *x, void *ds, int64_t rows, int64_t cols)
{
    return col_sums(e, dt, dy, x, ds, rows, cols);
}

sy_status syi_sum_rows(syi_engine *e, sy_dtype dt, const void *dy, void *db, int64_t rows, int64_t cols)
{
    return col_sums(e, dt, dy, NULL, db, rows, cols);
}

static void fill(sy_dtype dt, double v, bool add, void *y, int64_t n)
{
    if (dt == SY_F64)
        for (int64_t i = 0; i < n; i++) ((double *)y)[i] = (add ? ((double *)y)[i] : 0) + v;
    else if (dt == SY_F32)
        for (int64_t i = 0; i < n; i++) ((float *)y)[i] = (add ? ((float *)y)[i] : 0) + (float)v;
    else
        for (int64_t i = 0; i < n; i++) ((uint16_t *)y)[i] = syi_to_bf16((add ? syi_from_bf16(((uint16_t *)y)[i]) : 0) + (float)v);
}

sy_status syi_fill(syi_engine *e, sy_dtype dt, double v, bool add, void *y, int64_t n)
{
    TYPE(e, "fill", dt);
    SYI_CUT(e, n, SYI_PIECE, i, count, fill(dt, v, add, syi_to(y, i, z), count););
    return SY_OK;
}

sy_status syi_fill_rows(syi_engine *e, sy_dtype dt, const void *v, bool add, void *y, int64_t rows, int64_t cols)
{
    TYPE(e, "fill", dt);
    SYI_CUT(e, rows, syi_piece_rows(cols), first, count,
        for (int64_t r = first; r < first + count; r++)
            fill(dt, dt == SY_F64 ? ((const double *)v)[r] : (double)((const float *)v)[r], add, syi_to(y, r * cols, z), cols););
    return SY_OK;
}

/* -- sums -------------------------------------------------------------------------------------- */

enum { SUM_PIECES = 256 }; /* partial sums on the stack */

double syi_dot(syi_engine *e, sy_dtype dt, const void *x, const void *y, int64_t n)
{
    const int t = syi_type(dt);
    if (t < 0 || n <= 0) return 0;
    const int64_t z = sy_dtype_block_bytes(dt), size = syi_max(SYI_PIECE, syi_ceil_div(n, SUM_PIECES)), pieces = syi_ceil_div(n, size);
    double part[SUM_PIECES];
    SYI_CUT(e, n, size, i, count, part[i / size] = e->cpu->dot[t](syi_at(x, i, z), syi_at(y, i, z), count););
    for (int64_t step = 1; step < pieces; step *= 2)
        for (int64_t p = 0; p + step < pieces; p += 2 * step) part[p] += part[p + step];
    return part[0];
}

double syi_sum(syi_engine *e, sy_dtype dt, const void *x, int64_t n)
{
    return syi_dot(e, dt, x, NULL, n);
}

/* Squares of finite f32 cannot overflow f64, so the sum tells. */
double syi_sumsq(syi_engine *e, sy_dtype dt, const void *x, int64_t n, bool *finite)
{
    double sum = syi_dot(e, dt, x, x, n);
    if (finite != NULL) {
        *finite = isfinite(sum);
        if (!*finite && dt == SY_F64) {
            *finite = true;
            for (int64_t i = 0; i < n; i++) *finite = *finite && isfinite(((const double *)x)[i]);
        }
    }
    return sum;
}

sy_status syi_row_sums(syi_engine *e, sy_dtype dt, const void *x, const void *y, void *sum, int64_t rows, int64_t cols)
{
    TYPE(e, "sums of rows", dt);
    SYI_CUT(e, rows, syi_piece_rows(cols), first, count,
        for (int64_t r = first; r < first + count; r++) {
            double v = e->cpu->dot[t](syi_at(x, r * cols, z), syi_at(y, r * cols, z), cols);
            if (t == SYI_T_F64) ((double *)sum)[r] = v;
            else ((float *)sum)[r] = (float)v;
        });
    return SY_OK;
}
