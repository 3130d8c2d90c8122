/* SPDX-License-Identifier: Apache-2.0 */
/* Stochastic gradient descent with momentum, dampening, Nesterov's variant and L2
 * decay, with the numbers of torch.optim.SGD: the decay is part of the gradient, and
 * the first step's momentum buffer is that gradient undampened. */
#include "base/base.h"
#include "steelyard/method.h"

typedef struct { double momentum, dampening, decay; bool nesterov; } sgd;

static const sy_option options[] = {
    { .name = "momentum", .type = SY_OPT_FLOAT, .offset = offsetof(sgd, momentum), .def = "0", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN,
      .help = "share of the last step's direction that is kept", .example = "0.9" },
    { .name = "dampening", .type = SY_OPT_FLOAT, .offset = offsetof(sgd, dampening), .def = "0", .min = 0, .max = 1, .flags = SY_OPT_ADVANCED,
      .help = "share of the gradient kept out of the momentum", .example = "0.1" },
    { .name = "nesterov", .type = SY_OPT_BOOL, .offset = offsetof(sgd, nesterov), .def = "off",
      .help = "look ahead along the momentum; needs momentum > 0 and no dampening", .example = "on" },
    { .name = "weight-decay", .type = SY_OPT_FLOAT, .offset = offsetof(sgd, decay), .def = "0", .min = 0, .max = 100,
      .help = "L2 penalty added to the gradient; matrices only", .example = "0.01" },
    { .name = NULL }
};

static const sy_slot slots[] = {
    { .name = "momentum_buffer", .shape = "=", .when = "momentum", .flags = SY_SLOT_STATE, .fill = SY_FILL_ZERO, .moment = 1 },
    { .name = NULL }
};

static sy_status init(void *self, sy_run *run)
{
    const sgd *o = self;
    if (o->nesterov && (o->momentum <= 0 || o->dampening != 0))
        return syi_fail(sy_run_context(run), SY_E_USAGE,
                        "sgd: nesterov needs momentum > 0 and dampening = 0; found momentum %g, dampening %g", o->momentum, o->dampening);
    return SY_OK;
}

/* One body for f32 and f64: elementwise, so no order of threads can change it. */
#define STEP(T)                                                                            \
    do {                                                                                   \
        T *w = p->value.data, *b = o->momentum > 0 ? p->state[0].data : NULL;              \
        const T *g = p->grad.data;                                                         \
        const T mu = (T)o->momentum, keep = (T)(1 - o->dampening), wd = (T)decay, eta = (T)lr; \
        _Pragma("omp parallel for num_threads(threads) schedule(static) if (n > 65536)")   \
        for (int64_t i = 0; i < n; i++) {                                                  \
            T d = g[i] + wd * w[i];                                                        \
            if (b) {                                                                       \
                b[i] = first ? d : mu * b[i] + keep * d;                                   \
                d = o->nesterov ? d + mu * b[i] : b[i];                                    \
            }                                                                              \
            w[i] -= eta * d;                                                               \
        }                                                                                  \
    } while (0)

static sy_status update(void *self, sy_run *run, sy_param *p, double lr)
{
    const sgd *o = self;
    const int64_t n = sy_tensor_count(&p->value);
    const bool first = sy_run_step(run) == 0;
    const double decay = p->decay ? o->decay : 0;
    const int threads = syi_omp(sy_run_context(run));
    if (p->value.dtype == SY_F64)
        STEP(double);
    else
        STEP(float);
    return SY_OK;
}

static const sy_paper papers[] = {
    { .title = "On the importance of initialization and momentum in deep learning", .authors = "Ilya Sutskever, James Martens, George Dahl, Geoffrey Hinton",
      .venue = "ICML 2013", .id = "PMLR 28:1139-1147", .year = 2013,
      .equations = "d = g + wd w;  b = mu b + (1-dampening) d (b = d at the first step)\n"
                   "w = w - lr b, or with nesterov w = w - lr (d + mu b)" },
    { .title = NULL }
};

const sy_method sy_method_sgd = {
    .abi = SY_METHOD_ABI, .name = "sgd", .kind = SY_OPTIMIZER,
    .title = "Stochastic gradient descent with momentum",
    .papers = papers,
    .about = "The plainest optimizer: no state at all without momentum, one f32 number a trained weight with it. "
             "The same numbers as torch.optim.SGD.",
    .options = options, .slots = slots, .size = sizeof(sgd),
    .init = init, .update = update,
};
