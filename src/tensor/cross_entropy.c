/* SPDX-License-Identifier: Apache-2.0 */
/* Output head and cross-entropy in one: logits are products of the chosen rows
 * with the vocabulary, made a chunk of rows at a time in scratch. The vocabulary is
 * walked in blocks, twice: logits with their running maximum and sum, then the
 * gradient of a block of logits, which the two gradient products use up before the
 * next. Without gradients one block of logits is all there is. */
#include "tensor/attention_internal.h"
#include "tensor/cross_entropy_internal.h"

#include <math.h>

enum {
    LOGIT_BYTES = 24 << 20, /* of one chunk's f32 logits: 128 rows of 49152, which stay in a usual L3 */
    FEW_ROWS = 64,          /* below this the products lose more than the cache gains */
    MOST_BYTES = 56 << 20,  /* and this bounds the scratch all the same */
    MAX_ROWS = 512,         /* beyond this the products gain nothing */
    VOCAB_BLOCK = 4096      /* classes at a time: their logits are still in the cache when they are read */
};

static int64_t item_bytes(sy_dtype dt)
{
    return dt == SY_F64 ? 8 : dt == SY_F32 ? 4 : 2;
}

/* Rows of a chunk. A function of the vocabulary (and the type) alone, so that the
 * products and with them every bit of the result stay the same. */
static int64_t chunk_rows(sy_dtype dt, int64_t vocab)
{
    const int64_t row = vocab * (dt == SY_F64 ? 8 : 4);
    int64_t rows = syi_max(LOGIT_BYTES / row, syi_min(FEW_ROWS, MOST_BYTES / row));
    return syi_max(16, syi_min(rows / 16 * 16, MAX_ROWS));
}

static int64_t aligned(int64_t bytes)
{
    return syi_ceil_div(bytes, 64) * 64;
}

/* Where the parts of the scratch begin. */
typedef struct { int64_t rows, index, h, dh, sums, logits, grad, max, sum, nll, end; } layout;

static layout lay_out(sy_dtype dt, const syi_head *a)
{
    layout l = {.rows = syi_min(chunk_rows(dt, a->vocab), syi_max(a->tokens, 1))};
    const int64_t acc = dt == SY_F64 ? 8 : 4;
    l.h = l.index + aligned(a->tokens * (int64_t)sizeof(int32_t));
    l.dh = l.h + aligned(l.rows * a->hidden * item_bytes(dt));
    l.sums = l.dh + aligned(l.rows * a->hidden * item_bytes(dt));
    l.max = l.sums + aligned(dt == SY_BF16 ? l.rows * a->hidden * 4 : 0);
    l.sum = l.max + aligned(l.rows * 8);
    l.nll = l.sum + aligned(l.rows * 8);
    l.logits = l.nll + aligned(l.rows * 8);
    l.grad = l.logits + aligned(l.rows * a->vocab * acc);
    l.end = l.grad + aligned(dt == SY_BF16 ? l.rows * syi_min(a->vocab, VOCAB_BLOCK) * 2 : 0);
    return l;
}

int64_t syi_head_scratch(const syi_engine *e, sy_dtype dt, const syi_head *a)
{
    (void)e;
    return lay_out(dt, a).end;
}

static const syi_softmax_path *path_of(const syi_engine *e)
{
    const char *cpu = syi_engine_cpu(e);
#if defined(__x86_64__)
    if (strcmp(cpu, "avx512_bf16") == 0) return &syi_softmax_avx512bf16;
    if (strcmp(cpu, "avx512") == 0) return &syi_softmax_avx512;
    if (strcmp(cpu, "avx2") == 0) return &syi_softmax_avx2;
#elif defined(__aarch64__)
    if (strcmp(cpu, "neon") == 0) return &syi_softmax_neon;
#endif
    (void)cpu;
    return &syi_softmax_plain;
}

/* -- row passes ------------------------------------------------------------------ */

static void sum_plain(const float *x, int64_t n, float *max, double *sum)
{
    float top = *max;
    for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    double s = *max == top ? *sum : *sum * exp((double)*max - top);
    for (int64_t i = 0; i < n; i++) s += (double)expf(x[i] - top);
    *max = top, *sum = s;
}

static void grad_plain(const float *x, int64_t n, float lse, float factor, sy_dtype dt, void *out)
{
    for (int64_t i = 0; i < n; i++) {
        float g = expf(x[i] - lse) * factor;
        uint16_t b = syi_bf16_put(g);
        if (dt == SY_F32) memcpy((char *)out + 4 * i, &g, 4);
        else memcpy((char *)out + 2 * i, &b, 2);
    }
}

const syi_softmax_path syi_softmax_plain = {sum_plain, grad_plain};

static void sum_f64(const double *x, int64_t n, double *max, double *sum)
{
    double top = *max;
    for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    double s = *max == top ? *sum : *sum * exp(*max - top);
    for (int64_t i = 0; i < n; i++) s += exp(x[i] - top);
    *max = top, *sum = s;
}

/* -- one chunk --------------------------------------------------------------------- */

typedef struct {
    syi_engine *e;
    const syi_head *a;
    const syi_softmax_path *path;
    sy_dtype dt, wt;
    const void *w;
    const int32_t *index; /* token of each row of the chunk */
    int64_t rows;
    const char *h;
    char *dh, *sums;      /* [rows, hidden]: result, sums (f32, f64; for F32 and F64 the same) */
    char *logits, *grad;  /* of block v0..v1-1: [rows, v1-v0] from logits + rows*v0; its gradient of type dt */
    double *max, *sum, *nll; /* [rows] */
    int threads;
} chunk;

static char *block_at(const chunk *c, int64_t v0, bool all)
{
    return c->logits + (all ? c->rows * v0 * (c->dt == SY_F64 ? 8 : 4) : 0);
}

/* logits[rows, v1-v0] = h W[v0:v1]^T */
static sy_status product(const chunk *c, int64_t v0, int64_t v1, char *logits)
{
    const sy_dtype lt = c->dt == SY_F64 ? SY_F64 : SY_F32;
    const int64_t hidden = c->a->hidden;
    const char *w = (const char *)c->w + v0 * (hidden / sy_dtype_block_len(c->wt)) * sy_dtype_block_bytes(c->wt);
    if (sy_dtype_block_len(c->wt) > 1)
        return syi_gemm_coded(c->e, c->rows, v1 - v0, hidden, c->dt, c->h, &(syi_coded){c->wt, w, NULL}, false, 0, lt, logits);
    if (c->a->panels) return syi_gemm_panels(c->e, c->rows, v1 - v0, hidden, c->dt, c->h, (const uint16_t *)(const void *)w, false, 0, lt, logits);
    return syi_gemm(c->e, c->rows, v1 - v0, hidden, 1, (syi_mat){c->dt, c->h, hidden, false}, (syi_mat){c->wt, w, hidden, true}, 0, lt, logits, v1 - v0);
}

/* Takes logits of classes v0..v1-1 of row r into max, sum, and -logit[target] into
 * nll. */
static void take_row(const chunk *c, int64_t r, int64_t v0, int64_t v1, const char *logits)
{
    const int64_t n = v1 - v0, target = c->a->target[c->index[r]];
    if (c->dt == SY_F64) {
        const double *x = (const double *)(const void *)logits + r * n;
        sum_f64(x, n, &c->max[r], &c->sum[r]);
        if (target >= v0 && target < v1) c->nll[r] = -x[target - v0];
    } else {
        const float *x = (const float *)(const void *)logits + r * n;
        float max = (float)c->max[r];
        c->path->sum(x, n, &max, &c->sum[r]);
        c->max[r] = max;
        if (target >= v0 && target < v1) c->nll[r] = -(double)x[target - v0];
    }
}

/* The gradient of row r of a block of logits; F32 and F64 in their place. */
static void grad_row(const chunk *c, int64_t r, int64_t v0, int64_t v1, char *logits, double factor)
{
    const int64_t n = v1 - v0, target = c->a->target[c->index[r]] - v0;
    const double lse = c->max[r] + log(c->sum[r]);
    const bool own_block = target >= 0 && target < n;
    if (c->dt == SY_F64) {
        double *x = (double *)(void *)logits + r * n;
        for (int64_t i = 0; i < n; i++) x[i] = exp(x[i] - lse) * factor;
        if (own_block) x[target] -= factor;
        return;
    }
    const char *x = logits + r * n * 4;
    char *g = c->dt == SY_F32 ? logits + r * n * 4 : c->grad + r * n * 2;
    c->path->grad((const float *)(const void *)x, n, (float)lse, (float)factor, c->dt, g);
    if (!own_block) return;
    /* (p - 1) * factor with its own rounding, not that of p * factor */
    float own = (float)((exp(-c->nll[r]) - 1) * factor);
    uint16_t own16 = syi_bf16_put(own);
    if (c->dt == SY_F32) memcpy(g + target * 4, &own, 4);
    else memcpy(g + target * 2, &own16, 2);
}

/* The two gradient products of a block. */
static sy_status grad_products(const chunk *c, int64_t v0, int64_t v1, const char *grad, bool dh, void *dw)
{
    const syi_head *a = c->a;
    const sy_dtype acc = c->dt == SY_F64 ? SY_F64 : SY_F32;
    const int64_t n = v1 - v0;
    if (dw)
        SYI_TRY(syi_gemm(c->e, n, a->hidden, c->rows, 1, (syi_mat){c->dt, grad, n, true}, (syi_mat){c->dt, c->h, a->hidden, false}, 1, acc,
                         (char *)dw + v0 * a->hidden * item_bytes(acc), a->hidden));
    if (!dh) return SY_OK;
    const char *w = (const char *)c->w + v0 * (a->hidden / sy_dtype_block_len(c->wt)) * sy_dtype_block_bytes(c->wt);
    if (sy_dtype_block_len(c->wt) > 1)
        return syi_gemm_coded(c->e, c->rows, n, a->hidden, c->dt, grad, &(syi_coded){c->wt, w, NULL}, true, v0 > 0, acc, c->sums);
    if (a->panels)
        return syi_gemm_panels(c->e, c->rows, n, a->hidden, c->dt, grad, (const uint16_t *)(const void *)w, true, v0 > 0, acc, c->sums);
    return syi_gemm(c->e, c->rows, a->hidden, n, 1, (syi_mat){c->dt, grad, n, false}, (syi_mat){c->wt, w, a->hidden, false}, v0 > 0, acc,
                    c->sums, a->hidden);
}

static sy_status run_chunk(const chunk *c, void *dh, void *dw)
{
    const syi_head *a = c->a;
    const int64_t row = a->hidden * item_bytes(c->dt);
    const bool grads = dh || dw;
    for (int64_t r = 0; r < c->rows; r++) c->max[r] = -INFINITY, c->sum[r] = 0, c->nll[r] = 0;
    for (int64_t v0 = 0; v0 < a->vocab; v0 += VOCAB_BLOCK) {
        const int64_t v1 = syi_min(v0 + VOCAB_BLOCK, a->vocab);
        char *logits = block_at(c, v0, grads);
        SYI_TRY(product(c, v0, v1, logits));
#pragma omp parallel for schedule(static) num_threads(c->threads)
        for (int64_t r = 0; r < c->rows; r++) {
            take_row(c, r, v0, v1, logits);
            if (v1 == a->vocab) c->nll[r] += c->max[r] + log(c->sum[r]);
        }
    }
    if (!grads) return SY_OK;
    for (int64_t v0 = 0; v0 < a->vocab; v0 += VOCAB_BLOCK) {
        const int64_t v1 = syi_min(v0 + VOCAB_BLOCK, a->vocab);
        char *logits = block_at(c, v0, true);
#pragma omp parallel for schedule(static) num_threads(c->threads)
        for (int64_t r = 0; r < c->rows; r++)
            grad_row(c, r, v0, v1, logits, a->scale * (a->weight ? (double)a->weight[c->index[r]] : 1.0));
        SYI_TRY(grad_products(c, v0, v1, c->dt == SY_BF16 ? c->grad : logits, dh != NULL, dw));
    }
    if (!dh) return SY_OK;
    if (c->dt == SY_BF16) SYI_TRY(syi_cast(c->e, SY_F32, c->sums, SY_BF16, c->dh, c->rows * a->hidden));
    for (int64_t r = 0; r < c->rows; r++) memcpy((char *)dh + c->index[r] * row, c->dh + r * row, (size_t)row);
    return SY_OK;
}

static sy_status check(sy_context *ctx, sy_dtype dt, const syi_head *a, sy_dtype wt)
{
    if (dt != SY_F64 && dt != SY_F32 && dt != SY_BF16)
        return syi_fail(ctx, SY_E_BUG, "head: type %s; F64, F32 and BF16 can be computed in", sy_dtype_name(dt));
    const bool coded = sy_dtype_block_len(wt) > 1 && a->hidden % sy_dtype_block_len(wt) == 0;
    if (!coded && ((dt == SY_F64) != (wt == SY_F64) || (wt != SY_F64 && wt != SY_F32 && wt != SY_BF16)))
        return syi_fail(ctx, SY_E_BUG, "head: weights of type %s with activations of type %s; F64 goes with F64, F32 and BF16 with either, whole blocks with all",
                        sy_dtype_name(wt), sy_dtype_name(dt));
    if (a->panels && (wt != SY_BF16 || a->vocab % 64 != 0)) return syi_fail(ctx, SY_E_BUG, "head: panels are of BF16, a multiple of 64 classes");
    if (a->tokens < 0 || a->tokens > INT32_MAX || a->hidden < 1 || a->vocab < 1)
        return syi_fail(ctx, SY_E_BUG, "head: %lld tokens, hidden size %lld, vocabulary %lld", (long long)a->tokens, (long long)a->hidden,
                        (long long)a->vocab);
    for (int64_t t = 0; t < a->tokens; t++)
        if (a->target[t] >= a->vocab)
            return syi_fail(ctx, SY_E_BUG, "head: target[%lld] = %lld lies outside the vocabulary of %lld", (long long)t,
                            (long long)a->target[t], (long long)a->vocab);
    return SY_OK;
}

sy_status syi_head_loss(syi_engine *e, sy_dtype dt, const syi_head *a, const void *h, sy_dtype wt, const void *w,
                        double *loss, void *nll, void *dh, void *dw, void *scratch)
{
    sy_context *ctx = syi_engine_context(e);
    SYI_TRY(check(ctx, dt, a, wt));
    const layout l = lay_out(dt, a);
    const int64_t row = a->hidden * item_bytes(dt);
    char *s = scratch;
    int32_t *index = (int32_t *)(void *)(s + l.index);
    int64_t count = 0;
    for (int64_t t = 0; t < a->tokens; t++)
        if (a->target[t] >= 0) index[count++] = (int32_t)t;
    if (dh) memset(dh, 0, (size_t)(a->tokens * row));
    if (nll) memset(nll, 0, (size_t)a->tokens * (dt == SY_F64 ? 8 : 4));

    double total = 0;
    for (int64_t at = 0; at < count; at += l.rows) {
        chunk c = {.e = e, .a = a, .path = path_of(e), .dt = dt, .wt = wt, .w = w, .index = index + at,
                   .rows = syi_min(l.rows, count - at), .h = s + l.h, .dh = s + l.dh, .logits = s + l.logits,
                   .grad = s + l.grad, .sums = s + (dt == SY_BF16 ? l.sums : l.dh),
                   .max = (double *)(void *)(s + l.max), .sum = (double *)(void *)(s + l.sum), .nll = (double *)(void *)(s + l.nll),
                   .threads = syi_omp(ctx)};
        for (int64_t r = 0; r < c.rows; r++) memcpy(s + l.h + r * row, (const char *)h + c.index[r] * row, (size_t)row);
        SYI_TRY(run_chunk(&c, dh, dw));
        for (int64_t r = 0; r < c.rows; r++) {
            const int32_t t = c.index[r];
            total += (a->weight ? (double)a->weight[t] : 1.0) * c.nll[r];
            if (!nll) continue;
            if (dt == SY_F64) ((double *)nll)[t] = c.nll[r];
            else ((float *)nll)[t] = (float)c.nll[r];
        }
    }
    *loss = total * a->scale;
    return SY_OK;
}
