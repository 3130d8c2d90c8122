/* SPDX-License-Identifier: Apache-2.0 */
/* SCE: select, calculate, erase. Of the numbers in which the models differ at all, the share
 * select_topk with the largest variance over the models is selected; each model's weight is its
 * share of the squares of what is selected; differences against the elected sign are erased, the
 * others averaged by these weights. The place of the selection's limit is counted by the bits of
 * the variance as f32, in two passes; of equal ones the first in the tensor are selected. */
#include "steelyard/merge.h"

#include <math.h>
#include <string.h>

typedef struct { double topk; bool int8_mask; } sce;

static const sy_option rows[] = {
    { .name = "select-topk", .type = SY_OPT_FLOAT, .offset = offsetof(sce, topk), .def = "1", .min = 0, .max = 1, .help = "share of numbers with the largest variance that is selected", .example = "0.1" },
    { .name = "int8-mask", .type = SY_OPT_BOOL, .offset = offsetof(sce, int8_mask), .def = "off", .flags = SY_OPT_ADVANCED, .help = "accepted for mergekit's recipes", .example = "on" },
    { .name = NULL }
};

enum { HIGH = 1 << 16, LOW = 1 << 15 };
enum { COUNT_HIGH, COUNT_LOW, TIES, SQUARES };
typedef struct {
    int first;               /* pass 0 is this one                                       */
    bool none;
    int64_t keep, more;      /* selected; of them above the limit                        */
    uint32_t limit;
    double weight[SY_MERGE_INPUTS];
} own;

static uint32_t key_of(const sy_merge *m, const sy_tile *t, int64_t k)
{
    double mean = 0, v = 0;
    for (int i = 0; i < m->n; i++) mean += ((double)t->in[i][k] - (double)t->base[k]) / m->n;
    for (int i = 0; i < m->n; i++) {
        const double d = (double)t->in[i][k] - (double)t->base[k] - mean;
        v += d * d / m->n;
    }
    const float f = (float)v;
    uint32_t key;
    memcpy(&key, &f, sizeof key);
    return key;
}

static sy_status begin(void *self, sy_merge *m)
{
    own *o = m->own;
    (void)self;
    o->first = sy_merge_value(m, "select-topk", -1) < 1 ? COUNT_HIGH : SQUARES;
    m->passes = SQUARES + 1 - o->first;
    m->sums = m->n;
    m->counts = o->first == SQUARES ? 0 : HIGH;
    m->kept = o->first == SQUARES ? 0 : m->tiles * (int64_t)sizeof(double);
    return SY_OK;
}

/* Calls of `see` would be slow: the selection as a mask in wide[0]. */
static const double *select(const sy_merge *m, sy_tile *t)
{
    const own *o = m->own;
    double *mask = t->wide[0];
    for (int64_t k = 0; k < t->n; k++) mask[k] = !o->none;
    if (o->first == SQUARES || o->none) return mask;
    double before = ((double *)(void *)m->keep)[t->index];
    for (int64_t k = 0; k < t->n; k++) {
        const uint32_t key = key_of(m, t, k);
        mask[k] = key > o->limit || (key == o->limit && before++ < (double)(o->keep - o->more));
    }
    return mask;
}

static void look(void *self, const sy_merge *m, int pass, sy_tile *t)
{
    const own *o = m->own;
    (void)self;
    pass += o->first;
    if (pass == SQUARES) {
        const double *mask = select(m, t);
        for (int i = 0; i < m->n; i++)
            for (int64_t k = 0; k < t->n; k++) {
                const double d = (double)t->in[i][k] - (double)t->base[k];
                t->sum[i] += mask[k] * d * d;
            }
        return;
    }
    for (int64_t k = 0; k < t->n; k++) {
        const uint32_t key = key_of(m, t, k);
        if (pass == COUNT_HIGH) {
            t->counts[key >> 15]++;
            t->sum[0] += key != 0;
        } else if (pass == COUNT_LOW) {
            if (key >> 15 == o->limit) t->counts[key & (LOW - 1)]++;
        } else {
            t->sum[0] += key == o->limit;
        }
    }
}

/* From above: the bucket in which the keep-th largest lies; *more: how many are above it. */
static uint32_t find(const int64_t *counted, int64_t n, int64_t keep, int64_t *more)
{
    int64_t b = n - 1;
    while (b > 0 && *more + counted[b] < keep) *more += counted[b--];
    return (uint32_t)b;
}

static sy_status sum(void *self, sy_merge *m, int pass)
{
    own *o = m->own;
    (void)self;
    switch (pass + o->first) {
    case COUNT_HIGH:
        o->keep = (int64_t)(m->total[0] * sy_merge_value(m, "select-topk", -1));
        o->none = o->keep == 0;
        o->limit = find(m->counted, HIGH, o->keep, &o->more);
        break;
    case COUNT_LOW: o->limit = o->limit << 15 | find(m->counted, LOW, o->keep, &o->more); break;
    case TIES: {
        double *before = (double *)(void *)m->keep, n = 0;
        for (int64_t i = 0; i < m->tiles; i++) {
            before[i] = n;
            n += m->part[i * m->sums];
        }
        break;
    }
    default: {
        double all = 0;
        for (int i = 0; i < m->n; i++) all += m->total[i] / (double)m->count;
        for (int i = 0; i < m->n; i++) o->weight[i] = all < 1e-6 ? 1.0 / m->n : m->total[i] / (double)m->count / all;
    }
    }
    return SY_OK;
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    const own *o = m->own;
    const double *mask = select(m, t);
    (void)self;
    for (int64_t k = 0; k < t->n; k++) {
        const double base = (double)t->base[k];
        double sum_ = 0, top = 0, down = 0;
        for (int i = 0; i < m->n; i++) sum_ += (double)t->in[i][k] - base;
        for (int i = 0; i < m->n; i++) {
            const double d = (double)t->in[i][k] - base;
            if (d == 0 || (d > 0) != (sum_ >= 0)) continue;
            top += o->weight[i] * d;
            down += o->weight[i];
        }
        t->out[k] = (float)(base + mask[k] * top / fmax(down, 1e-6));
    }
}

static const sy_merger merger = { .base = SY_MERGE_BASE_REQUIRED, .min_inputs = 1, .own = sizeof(own), .begin = begin, .look = look, .sum = sum, .make = make };

static const sy_paper papers[] = {
    { "FuseChat: knowledge fusion of chat models", "Wan et al.", "", "arXiv:2408.07990", 2024, "section on SCE" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_sce = {
    .abi = SY_METHOD_ABI, .name = "sce", .kind = SY_MERGER, .title = "selects by variance, weighs by squares, erases minority signs", .papers = papers,
    .about = "Differences from the base are selected where the models disagree most, each model is weighed by the squares of its own, and differences against the sign of the sum are left out. "
             "No weights to choose.",
    .options = rows, .size = sizeof(sce), .merger = &merger,
};
