/* SPDX-License-Identifier: Apache-2.0 */
/* Optimizer steps: one pass over value, gradient and state. */
#include "tensor/pieces.h"

#include <math.h>

sy_status syi_adamw_step(syi_engine *e, const syi_adamw *a, float *value, const float *grad, float *m, float *v, int64_t n)
{
    if (a->t < 1) return syi_fail(e->ctx, SY_E_BUG, "AdamW step %lld: steps count from 1", (long long)a->t);
    double root2 = sqrt(1 - pow(a->beta2, (double)a->t));
    const syi_adamw_factors f = {
        .keep = (float)(1 - a->lr * a->decay),
        .beta1 = (float)a->beta1,
        .beta2 = (float)a->beta2,
        .one_beta1 = (float)(1 - a->beta1),
        .one_beta2 = (float)(1 - a->beta2),
        .step = (float)(a->lr / (1 - pow(a->beta1, (double)a->t))),
        .root2 = (float)root2,
        .eps = (float)a->eps,
    };
    SYI_CUT(e, n, SYI_PIECE, i, count, e->cpu->adamw(&f, value + i, grad + i, m + i, v + i, count););
    return SY_OK;
}
