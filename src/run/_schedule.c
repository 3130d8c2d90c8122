/* SPDX-License-Identifier: Apache-2.0 */
/* Learning-rate schedules: a function of the step alone, so that resuming needs no state. */
#include "train.h"

#include <math.h>

double syi_schedule_lr(const syi_schedule *s, int64_t step)
{
    static const double pi = 3.14159265358979323846;
    if (step < s->warmup) return s->peak * (double)step / (double)syi_max(1, s->warmup);
    if (s->kind == SYI_CONSTANT) return s->peak;
    double left = (double)syi_max(1, s->total - s->warmup), done = (double)(step - s->warmup) / left;
    if (done > 1) done = 1;
    return s->kind == SYI_LINEAR ? s->peak * (1 - done) : s->peak * 0.5 * (1 + cos(pi * done));
}
