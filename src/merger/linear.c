/* SPDX-License-Identifier: Apache-2.0 */
/* Weighted average of checkpoints ("model soup"): sum w_k theta_k, divided by sum w_k
 * unless normalize is off. Two numbers a tensor, no base. */
#include "steelyard/merge.h"
#include "tensor/mix.h"

#include <math.h>

typedef struct { double weight; bool normalize; } linear;

static const sy_option rows[] = {
    { .name = "weight", .type = SY_OPT_FLOAT, .offset = offsetof(linear, weight), .flags = SY_OPT_PER_MODEL, .help = "share of each model", .example = "0.5" },
    { .name = "normalize", .type = SY_OPT_BOOL, .offset = offsetof(linear, normalize), .def = "on", .help = "divide by the sum of the weights", .example = "off" },
    { .name = NULL }
};

typedef struct { double w[SY_MERGE_INPUTS], scale; } own;

static sy_status begin(void *self, sy_merge *m)
{
    (void)self;
    own *o = m->own;
    double sum = 0;
    for (int i = 0; i < m->n; i++) sum += o->w[i] = sy_merge_value(m, "weight", i);
    o->scale = 1;
    if (sy_merge_value(m, "normalize", -1) == 0) return SY_OK;
    if (sum == 0) return sy_merge_fail(m, SY_E_USAGE, "the weights add up to 0, so they cannot be normalised; change them or set normalize: false");
    o->scale = 1 / sum;
    for (int i = 0; i < m->n; i++) /* exact where one model has all the weight */
        if (o->w[i] == sum && m->n == 1) o->w[i] = o->scale = 1;
    return SY_OK;
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    (void)self;
    const own *o = m->own;
    m->mix->set(o->w[0], t->in[0], t->wide[0], t->n);
    for (int i = 1; i < m->n; i++) m->mix->add(o->w[i], t->in[i], t->wide[0], t->n);
    m->mix->finish(o->scale, t->wide[0], NULL, t->out, t->n);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_NONE, .min_inputs = 1, .own = sizeof(own), .begin = begin, .make = make };

static const sy_paper papers[] = {
    { "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time", "Wortsman et al.", "ICML", "arXiv:2203.05482", 2022, "section 3" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_linear = {
    .abi = SY_METHOD_ABI, .name = "linear", .kind = SY_MERGER, .title = "weighted average of checkpoints", .papers = papers,
    .about = "Adds up the models, each times its weight, and divides by the sum of the weights. What fine-tunings of one base agree on stays, noise averages out. One pass.",
    .options = rows, .size = sizeof(linear), .merger = &merger,
};
