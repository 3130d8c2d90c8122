/* SPDX-License-Identifier: Apache-2.0 */
/* Output head and cross-entropy in one: logits are products of the chosen rows with the
 * vocabulary, a block of classes at a time, and no block is made twice.
 *
 * The softmax is online: after each block every row has the maximum m so far, the sum of
 * e = exp(logit - m) and, for the gradient, the sum of e W over the classes so far; when m
 * grows, both sums are scaled down. A block's logits, its e and its piece of W are used up
 * while they are in the cache. At the end
 *     dh = factor (sum of e W / sum of e - (1 - p) W[target]),
 * where the target's own e was left out of the sum, so that 1 - p has a rounding of its own.
 * A trained head needs all e of a chunk until the sums are known: its gradient is made
 * in a second walk, with e scaled by way of the rows of h. */
#include "tensor/attention_internal.h"
#include "tensor/cross_entropy_internal.h"
#include "tensor/pieces.h"

#include <math.h>

enum {
    VOCAB_BLOCK = 2048,      /* classes at a time; 512 rows of their f32 logits are 4 MB */
    MAX_ROWS = 512,          /* tokens at a time: beyond this the products gain nothing */
    SUM_NUMBERS = 2 << 20,   /* but no more than this in [rows, hidden] */
    MOST_BYTES = 56 << 20    /* of the e that a trained head keeps */
};

static int64_t item_bytes(sy_dtype dt)
{
    return dt == SY_F64 ? 8 : dt == SY_F32 ? 4 : 2;
}

/* Rows of a chunk. A function of shape and type alone, so that the products and with them
 * every bit of the result stay the same. */
static int64_t chunk_rows(sy_dtype dt, const syi_head *a, bool dw)
{
    int64_t rows = syi_min(MAX_ROWS, SUM_NUMBERS / a->hidden);
    if (dw) rows = syi_min(rows, MOST_BYTES / (a->vocab * item_bytes(dt)));
    return syi_max(16, rows / 16 * 16);
}

static int64_t aligned(int64_t bytes)
{
    return syi_ceil_div(bytes, 64) * 64;
}

static int64_t blocks_of(const syi_head *a)
{
    return syi_ceil_div(a->vocab, VOCAB_BLOCK);
}

/* Where the parts of the scratch begin. */
typedef struct { int64_t rows, index, h, dh, sums, part, row, max, logits, e, end; } layout;

static layout lay_out(sy_dtype dt, const syi_head *a, bool dw)
{
    layout l = {.rows = syi_min(chunk_rows(dt, a, dw), syi_max(a->tokens, 1))};
    const int64_t acc = dt == SY_F64 ? 8 : 4, block = syi_min(a->vocab, VOCAB_BLOCK), kept = dw ? a->vocab : block;
    l.h = l.index + aligned(a->tokens * (int64_t)sizeof(int32_t));
    l.dh = l.h + aligned(l.rows * a->hidden * item_bytes(dt));
    l.sums = l.dh + aligned(l.rows * a->hidden * item_bytes(dt));
    l.part = l.sums + aligned(l.rows * a->hidden * acc);
    l.row = l.part + aligned(l.rows * a->hidden * acc);
    l.max = l.row + aligned(l.rows * 4 * (int64_t)sizeof(double));
    l.logits = l.max + aligned(dw ? l.rows * blocks_of(a) * (int64_t)sizeof(double) : 0);
    l.e = l.logits + aligned(l.rows * (dt == SY_BF16 ? block : kept) * acc);
    l.end = l.e + aligned(dt == SY_BF16 ? l.rows * kept * 2 : 0);
    return l;
}

int64_t syi_head_scratch(const syi_engine *e, sy_dtype dt, const syi_head *a, bool dw)
{
    (void)e;
    return lay_out(dt, a, dw).end;
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

static void exp_plain(const float *x, int64_t n, float *max, double *sum, sy_dtype dt, void *out)
{
    float top = *max;
    for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    double s = *max == top ? *sum : *sum * exp((double)*max - top);
    for (int64_t i = 0; i < n; i++) {
        float e = expf(x[i] - top);
        uint16_t b = syi_bf16_put(e);
        s += (double)e;
        if (out && dt == SY_F32) memcpy((char *)out + 4 * i, &e, 4);
        else if (out) memcpy((char *)out + 2 * i, &b, 2);
    }
    *max = top, *sum = s;
}

static void add_plain(const float *part, int64_t n, float scale, float *sum)
{
    for (int64_t i = 0; i < n; i++) sum[i] = sum[i] * scale + part[i];
}

const syi_softmax_path syi_softmax_plain = {exp_plain, add_plain};

static void exp_f64(const double *x, int64_t n, double *max, double *sum, double *out)
{
    double top = *max;
    for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    double s = *max == top ? *sum : *sum * exp(*max - top);
    for (int64_t i = 0; i < n; i++) {
        const double e = exp(x[i] - top);
        s += e;
        if (out) out[i] = e;
    }
    *max = top, *sum = s;
}

/* -- one chunk --------------------------------------------------------------------- */

/* Of one row, after the classes so far: maximum, sum of exp(logit - max), the target's logit;
 * what the sums of earlier blocks are to be multiplied by. */
typedef struct { double max, sum, own, scale; } row_state;

typedef struct {
    syi_engine *e;
    const syi_head *a;
    const syi_softmax_path *path;
    sy_dtype dt, acc, wt;
    const void *w;
    const int32_t *index; /* token of each row of the chunk */
    int64_t rows;
    bool dh;
    float *dw;                /* or f64; NULL: not asked for */
    const char *h;
    char *result;             /* [rows, hidden]: dh; before that, h in another scale */
    char *sums, *part;        /* [rows, hidden] of type acc: sums of e W; those of one block */
    char *logits, *exps;      /* see block_logits, block_exps */
    row_state *row;           /* [rows] */
    double *max;              /* [rows, blocks]: what e of a block is relative to; for dw */
    int threads;
} chunk;

/* Logits [rows, n] of the block from class v0, type acc, and its e of type dt, in their place
 * for F32 and F64. For dw all blocks are kept. */
static char *block_logits(const chunk *c, int64_t v0)
{
    return c->logits + (c->dw && c->dt != SY_BF16 ? c->rows * v0 * item_bytes(c->acc) : 0);
}

static char *block_exps(const chunk *c, int64_t v0)
{
    return c->dt != SY_BF16 ? block_logits(c, v0) : c->exps + (c->dw ? c->rows * v0 * 2 : 0);
}

static const void *weights_from(const chunk *c, int64_t v0)
{
    return (const char *)c->w + v0 * (c->a->hidden / sy_dtype_block_len(c->wt)) * sy_dtype_block_bytes(c->wt);
}

/* transposed false: y[rows, n] = x[rows, hidden] W^T of classes v0..v0+n-1; true:
 * y[rows, hidden] = x[rows, n] W. y is of type acc. */
static sy_status product(const chunk *c, int64_t v0, int64_t n, bool transposed, const void *x, void *y)
{
    const int64_t hidden = c->a->hidden;
    const void *w = weights_from(c, v0);
    if (sy_dtype_block_len(c->wt) > 1) return syi_gemm_coded(c->e, c->rows, n, hidden, c->dt, x, &(syi_coded){c->wt, w, NULL}, transposed, 0, c->acc, y);
    if (c->a->panels) return syi_gemm_panels(c->e, c->rows, n, hidden, c->dt, x, w, transposed, 0, c->acc, y);
    if (transposed)
        return syi_gemm(c->e, c->rows, hidden, n, 1, (syi_mat){c->dt, x, n, false}, (syi_mat){c->wt, w, hidden, false}, 0, c->acc, y, hidden);
    return syi_gemm(c->e, c->rows, n, hidden, 1, (syi_mat){c->dt, x, hidden, false}, (syi_mat){c->wt, w, hidden, true}, 0, c->acc, y, n);
}

/* Takes logits of classes v0..v0+n-1 into row r's state; makes e if there is a gradient to
 * come, that of the target 0. */
static void take_row(const chunk *c, int64_t r, int64_t v0, int64_t n)
{
    const int64_t target = c->a->target[c->index[r]] - v0;
    const bool own_block = target >= 0 && target < n, grads = c->dh || c->dw;
    row_state *s = &c->row[r];
    const double before = s->max;
    char *e = grads ? block_exps(c, v0) + r * n * item_bytes(c->dt) : NULL;
    if (c->dt == SY_F64) {
        const double *x = (const double *)(const void *)block_logits(c, v0) + r * n;
        if (own_block) s->own = x[target];
        exp_f64(x, n, &s->max, &s->sum, (double *)(void *)e);
    } else {
        const float *x = (const float *)(const void *)block_logits(c, v0) + r * n;
        float max = (float)s->max;
        if (own_block) s->own = (double)x[target];
        c->path->exp(x, n, &max, &s->sum, c->dt, e);
        s->max = max;
    }
    if (!grads) return;
    if (own_block) memset(e + target * item_bytes(c->dt), 0, (size_t)item_bytes(c->dt));
    s->scale = exp(before - s->max);
    if (c->dw) c->max[r * blocks_of(c->a) + v0 / VOCAB_BLOCK] = s->max;
}

/* sums = sums scale + part, of row r. */
static void add_row(const chunk *c, int64_t r)
{
    const int64_t hidden = c->a->hidden;
    if (c->dt != SY_F64) {
        c->path->add((const float *)(const void *)c->part + r * hidden, hidden, (float)c->row[r].scale, (float *)(void *)c->sums + r * hidden);
        return;
    }
    const double *part = (const double *)(const void *)c->part + r * hidden;
    double *sum = (double *)(void *)c->sums + r * hidden;
    for (int64_t i = 0; i < hidden; i++) sum[i] = sum[i] * c->row[r].scale + part[i];
}

static double lse(const row_state *s)
{
    return s->max + log(s->sum);
}

static double factor(const chunk *c, int64_t r)
{
    return c->a->scale * (c->a->weight ? (double)c->a->weight[c->index[r]] : 1);
}

/* The target's row of W as type acc. */
static void target_row(const chunk *c, int64_t r, void *to)
{
    const int64_t v = c->a->target[c->index[r]], hidden = c->a->hidden;
    if (c->a->panels) syi_panels_row(hidden, c->w, v, to);
    else if (c->wt == c->acc) memcpy(to, weights_from(c, v), (size_t)(hidden * item_bytes(c->acc)));
    else syi_coded_row(c->e, &(syi_coded){c->wt, c->w, NULL}, hidden, v, c->acc, to);
}

/* Row r of dh, into the sums. */
static void finish_row(const chunk *c, int64_t r)
{
    const row_state *s = &c->row[r];
    const int64_t hidden = c->a->hidden;
    const double f = factor(c, r), of_sum = f / s->sum, of_target = f * (exp(s->own - lse(s)) - 1);
    char *part = c->part + r * hidden * item_bytes(c->acc), *sums = c->sums + r * hidden * item_bytes(c->acc);
    target_row(c, r, part);
    if (c->dt == SY_F64) {
        double *y = (double *)(void *)sums;
        for (int64_t i = 0; i < hidden; i++) y[i] = y[i] * of_sum + ((double *)(void *)part)[i] * of_target;
    } else {
        float *y = (float *)(void *)sums, *w = (float *)(void *)part;
        const float by = (float)of_sum, own = (float)of_target;
        for (int64_t i = 0; i < hidden; i++) w[i] *= own;
        c->path->add(w, hidden, by, y);
    }
}

/* Row r of h times `by`, into c->result; bf16 is rounded. */
static void scale_row(const chunk *c, int64_t r, double by)
{
    const int64_t hidden = c->a->hidden;
    for (int64_t i = r * hidden; i < (r + 1) * hidden; i++) {
        if (c->dt == SY_F64) ((double *)(void *)c->result)[i] = ((const double *)(const void *)c->h)[i] * by;
        else if (c->dt == SY_F32) ((float *)(void *)c->result)[i] = ((const float *)(const void *)c->h)[i] * (float)by;
        else ((uint16_t *)(void *)c->result)[i] = syi_bf16_put(syi_bf16_get(((const uint16_t *)(const void *)c->h)[i]) * (float)by);
    }
}

/* dw += e^T h, each row scaled to its probabilities; then the targets' own parts. */
static sy_status head_gradient(const chunk *c)
{
    const syi_head *a = c->a;
    const int64_t hidden = a->hidden, blocks = blocks_of(a);
    for (int64_t v0 = 0; v0 < a->vocab; v0 += VOCAB_BLOCK) {
        const int64_t n = syi_min(VOCAB_BLOCK, a->vocab - v0);
#pragma omp parallel for schedule(static) num_threads(c->threads)
        for (int64_t r = 0; r < c->rows; r++) scale_row(c, r, factor(c, r) * exp(c->max[r * blocks + v0 / VOCAB_BLOCK] - lse(&c->row[r])));
        SYI_TRY(syi_gemm(c->e, n, hidden, c->rows, 1, (syi_mat){c->dt, block_exps(c, v0), n, true}, (syi_mat){c->dt, c->result, hidden, false}, 1, c->acc,
                         (char *)c->dw + v0 * hidden * item_bytes(c->acc), hidden));
    }
    /* Several rows may have one target: columns are cut, rows go in order. */
    SYI_CUT(c->e, hidden, 64, first, count,
        for (int64_t r = 0; r < c->rows; r++) {
            const int64_t from = r * hidden + first, to = a->target[c->index[r]] * hidden + first;
            const double by = factor(c, r) * (exp(c->row[r].own - lse(&c->row[r])) - 1);
            for (int64_t i = 0; i < count; i++) {
                if (c->dt == SY_F64) ((double *)(void *)c->dw)[to + i] += by * ((const double *)(const void *)c->h)[from + i];
                else c->dw[to + i] += (float)by * (c->dt == SY_F32 ? ((const float *)(const void *)c->h)[from + i] : syi_bf16_get(((const uint16_t *)(const void *)c->h)[from + i]));
            }
        });
    return SY_OK;
}

static sy_status run_chunk(const chunk *c, void *dh)
{
    const syi_head *a = c->a;
    const int64_t row = a->hidden * item_bytes(c->dt);
    for (int64_t r = 0; r < c->rows; r++) c->row[r] = (row_state){.max = -INFINITY};
    for (int64_t v0 = 0; v0 < a->vocab; v0 += VOCAB_BLOCK) {
        const int64_t n = syi_min(VOCAB_BLOCK, a->vocab - v0);
        const bool add = c->dh && v0 > VOCAB_BLOCK; /* the block before this one */
        SYI_TRY(product(c, v0, n, false, c->h, block_logits(c, v0)));
#pragma omp parallel for schedule(static) num_threads(c->threads)
        for (int64_t r = 0; r < c->rows; r++) {
            if (add) add_row(c, r);
            take_row(c, r, v0, n);
        }
        if (c->dh) SYI_TRY(product(c, v0, n, true, block_exps(c, v0), v0 == 0 ? c->sums : c->part));
    }
    if (c->dw) SYI_TRY(head_gradient(c));
    if (!dh) return SY_OK;
#pragma omp parallel for schedule(static) num_threads(c->threads)
    for (int64_t r = 0; r < c->rows; r++) {
        if (a->vocab > VOCAB_BLOCK) add_row(c, r);
        finish_row(c, r);
    }
    SYI_TRY(syi_cast(c->e, c->acc, c->sums, c->dt, c->result, c->rows * a->hidden));
    for (int64_t r = 0; r < c->rows; r++) memcpy((char *)dh + c->index[r] * row, c->result + r * row, (size_t)row);
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
    const layout l = lay_out(dt, a, dw != NULL);
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
        chunk c = {.e = e, .a = a, .path = path_of(e), .dt = dt, .acc = dt == SY_F64 ? SY_F64 : SY_F32, .wt = wt, .w = w, .index = index + at,
                   .rows = syi_min(l.rows, count - at), .dh = dh != NULL, .dw = dw, .h = s + l.h, .result = s + l.dh, .sums = s + l.sums,
                   .part = s + l.part, .logits = s + l.logits, .exps = s + l.e, .row = (row_state *)(void *)(s + l.row),
                   .max = (double *)(void *)(s + l.max), .threads = syi_omp(ctx)};
        for (int64_t r = 0; r < c.rows; r++) memcpy(s + l.h + r * row, (const char *)h + c.index[r] * row, (size_t)row);
        SYI_TRY(run_chunk(&c, dh));
        for (int64_t r = 0; r < c.rows; r++) {
            const int32_t t = c.index[r];
            const double lost = lse(&c.row[r]) - c.row[r].own;
            total += (a->weight ? (double)a->weight[t] : 1.0) * lost;
            if (!nll) continue;
            if (dt == SY_F64) ((double *)nll)[t] = lost;
            else ((float *)nll)[t] = (float)lost;
        }
    }
    *loss = total * a->scale;
    return SY_OK;
}
