/* SPDX-License-Identifier: Apache-2.0 */
/* Fusion of two models by importance: a number's importance is its difference times the
 * Kullback-Leibler divergence of its row (softmax of the other model's row against the base's);
 * numbers whose importance reaches median + 1.5 (q3 - q1) of the tensor are taken from the other
 * model, the rest stays with the base. Quartiles are exact: the numbers at places floor(q (n-1))
 * of the ordered importances, found by counting bits in two passes (mergekit draws a sample of a
 * million from larger tensors). */
#include "steelyard/merge.h"

#include <math.h>
#include <string.h>

enum { HIGH = 1 << 16, LOW = 1 << 15, QUARTILES = 3 };
typedef struct { int64_t less[QUARTILES]; uint32_t key[QUARTILES]; float limit; } own;

static float as_float(uint32_t key)
{
    float f;
    memcpy(&f, &key, sizeof f);
    return f;
}

/* log of the sum of exp(x), and the largest of x. */
static double log_sum(const float *x, int64_t n, double *top)
{
    double sum = 0;
    *top = -INFINITY;
    for (int64_t k = 0; k < n; k++) *top = fmax(*top, (double)x[k]);
    for (int64_t k = 0; k < n; k++) sum += exp((double)x[k] - *top);
    return *top + log(sum);
}

static double divergence(const float *x, const float *base, int64_t n)
{
    double top, kl = 0;
    const double a = log_sum(x, n, &top), b = log_sum(base, n, &top);
    for (int64_t k = 0; k < n; k++) {
        const double p = exp((double)x[k] - a) + 1e-8, q = exp((double)base[k] - b) + 1e-8;
        kl += p * log(p / q);
    }
    return kl;
}

/* Importances of the tile, rounded to f32 as they are ordered, in spare[0]. */
static const float *importances(const sy_merge *m, const sy_tile *t)
{
    for (int64_t r = 0; r < t->rows; r++) {
        const float *x = t->in[0] + r * m->cols, *b = t->base + r * m->cols;
        const double kl = divergence(x, b, m->cols);
        for (int64_t k = 0; k < m->cols; k++) t->spare[0][r * m->cols + k] = (float)fmax(0, fabs((double)x[k] - (double)b[k]) * kl);
    }
    return t->spare[0];
}

static sy_status begin(void *self, sy_merge *m)
{
    (void)self;
    m->passes = 2;
    m->counts = HIGH + QUARTILES * LOW;
    return SY_OK;
}

static void look(void *self, const sy_merge *m, int pass, sy_tile *t)
{
    const own *o = m->own;
    const float *importance = importances(m, t);
    (void)self;
    for (int64_t k = 0; k < t->n; k++) {
        uint32_t key;
        memcpy(&key, &importance[k], sizeof key);
        if (pass == 0) t->counts[key >> 15]++;
        for (int q = 0; q < QUARTILES && pass == 1; q++)
            if (key >> 15 == o->key[q]) t->counts[HIGH + q * LOW + (int)(key & (LOW - 1))]++;
    }
}

static uint32_t find(const int64_t *counted, int64_t n, int64_t rank, int64_t *less)
{
    uint32_t b = 0;
    while (b + 1 < n && *less + counted[b] <= rank) *less += counted[b++];
    return b;
}

static sy_status sum(void *self, sy_merge *m, int pass)
{
    own *o = m->own;
    (void)self;
    for (int q = 0; q < QUARTILES; q++) {
        const int64_t rank = (int64_t)(0.25 * (q + 1) * (double)(m->count - 1));
        if (pass == 0) o->key[q] = find(m->counted, HIGH, rank, &o->less[q]);
        else o->key[q] = o->key[q] << 15 | find(m->counted + HIGH + q * LOW, LOW, rank, &o->less[q]);
    }
    if (pass == 1) o->limit = as_float(o->key[1]) + 1.5f * (as_float(o->key[2]) - as_float(o->key[0]));
    return SY_OK;
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    const own *o = m->own;
    const float *importance = importances(m, t);
    (void)self;
    for (int64_t k = 0; k < t->n; k++) t->out[k] = importance[k] >= o->limit ? t->in[0][k] : t->base[k];
}

static const sy_merger merger = { .base = SY_MERGE_BASE_REQUIRED, .min_inputs = 1, .max_inputs = 1, .own = sizeof(own), .spare = true, .begin = begin, .look = look, .sum = sum, .make = make };

static const sy_paper papers[] = {
    { "Arcee Fusion (mergekit documentation)", "Arcee AI", "", "url:https://github.com/arcee-ai/mergekit", 2025, NULL },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_arcee_fusion = {
    .abi = SY_METHOD_ABI, .name = "arcee_fusion", .kind = SY_MERGER, .title = "takes over the numbers that matter most", .papers = papers,
    .about = "Of two models: numbers whose difference from the base times their row's divergence is an outlier of the tensor (median + 1.5 interquartile ranges) come from the other model, all others "
             "stay. Three passes, each with two exponentials a number.",
    .size = 1, .merger = &merger,
};
