/* SPDX-License-Identifier: Apache-2.0 */
/* AdamW: Adam with weight decay taken straight off the weights. The numbers are
 * torch.optim.AdamW's: bias-corrected moments, eps added to the corrected root, decay
 * p *= 1 - lr * weight_decay before the step. Which parameters decay is the engine's
 * knowledge (sy_param.decay: not 1-D tensors, not rows flagged NO_DECAY), as Hugging
 * Face's Trainer groups them. */
#include "steelyard/method.h"
#include "tensor/kernels.h"

#include <math.h>

typedef struct { double beta1, beta2, eps, decay; } adamw;

static const sy_option options[] = {
    { .name = "beta1", .type = SY_OPT_FLOAT, .offset = offsetof(adamw, beta1), .def = "0.9", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN,
      .alias = "adam_beta1", .help = "decay of the mean of gradients", .example = "0.9" },
    { .name = "beta2", .type = SY_OPT_FLOAT, .offset = offsetof(adamw, beta2), .def = "0.999", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN,
      .alias = "adam_beta2", .help = "decay of the mean of squared gradients", .example = "0.95" },
    { .name = "eps", .type = SY_OPT_FLOAT, .offset = offsetof(adamw, eps), .def = "1e-8", .min = 0, .max = 1,
      .alias = "adam_epsilon", .help = "added to the root of the second moment", .example = "1e-8" },
    { .name = "weight-decay", .type = SY_OPT_FLOAT, .offset = offsetof(adamw, decay), .def = "0", .min = 0, .max = 100,
      .help = "share of the weights taken off a step, times the learning rate; matrices only", .example = "0.01" },
    { .name = NULL }
};

static const sy_slot slots[] = {
    { .name = "exp_avg", .shape = "=", .flags = SY_SLOT_STATE, .fill = SY_FILL_ZERO, .moment = 1 },
    { .name = "exp_avg_sq", .shape = "=", .flags = SY_SLOT_STATE, .fill = SY_FILL_ZERO, .moment = 2 },
    { .name = NULL }
};

/* f64 runs (exact checks): the same formulas in plain code. */
static void step64(const syi_adamw *a, double *w, const double *g, double *m, double *v, int64_t n)
{
    double c1 = 1 - pow(a->beta1, (double)a->t), c2 = 1 - pow(a->beta2, (double)a->t);
    for (int64_t i = 0; i < n; i++) {
        w[i] *= 1 - a->lr * a->decay;
        m[i] = a->beta1 * m[i] + (1 - a->beta1) * g[i];
        v[i] = a->beta2 * v[i] + (1 - a->beta2) * g[i] * g[i];
        w[i] -= a->lr / c1 * m[i] / (sqrt(v[i] / c2) + a->eps);
    }
}

static sy_status update(void *self, sy_run *run, sy_param *p, double lr)
{
    const adamw *o = self;
    syi_adamw a = { .lr = lr, .beta1 = o->beta1, .beta2 = o->beta2, .eps = o->eps, .decay = p->decay ? o->decay : 0,
                    .t = sy_run_step(run) + 1 };
    int64_t n = sy_tensor_count(&p->value);
    if (p->value.dtype == SY_F64) {
        step64(&a, p->value.data, p->grad.data, p->state[0].data, p->state[1].data, n);
        return SY_OK;
    }
    return syi_adamw_step(sy_run_engine(run), &a, p->value.data, p->grad.data, p->state[0].data, p->state[1].data, n);
}

static const sy_paper papers[] = {
    { .title = "Decoupled Weight Decay Regularization", .authors = "Ilya Loshchilov, Frank Hutter", .venue = "ICLR 2019", .id = "arXiv:1711.05101", .year = 2017,
      .equations = "m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2\n"
                   "w = w (1 - lr wd) - lr * m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps)" },
    { .title = NULL }
};

const sy_method sy_method_adamw = {
    .abi = SY_METHOD_ABI, .name = "adamw", .kind = SY_OPTIMIZER,
    .title = "Adam with decoupled weight decay",
    .papers = papers,
    .about = "The default optimizer. A step of each weight is its mean gradient over the root of its mean squared gradient. "
             "Keeps two f32 numbers a trained weight. The same numbers as torch.optim.AdamW.",
    .options = options, .slots = slots, .size = sizeof(adamw),
    .update = update,
};
