/* SPDX-License-Identifier: Apache-2.0 */
/* Takes numbers over from another model where they are near to the base's: the share of
 * the other is t / |difference|, at most 1. */
#include "steelyard/merge.h"

#include <math.h>

typedef struct { double t; } nearswap;

static const sy_option rows[] = {
    { .name = "t", .type = SY_OPT_FLOAT, .offset = offsetof(nearswap, t), .def = "0.001", .min = 0, .max = 1e9, .help = "distance up to which a number is taken over whole", .example = "0.0001" },
    { .name = NULL }
};

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    (void)self;
    const double limit = sy_merge_value(m, "t", -1);
    for (int64_t i = 0; i < t->n; i++) {
        const double a = (double)t->base[i], b = (double)t->in[0][i], w = fmin(1, limit / fmax(fabs(a - b), 1e-6));
        t->out[i] = (float)(w * b + (1 - w) * a);
    }
}

static const sy_merger merger = { .base = SY_MERGE_BASE_REQUIRED, .min_inputs = 1, .max_inputs = 1, .make = make };

static const sy_paper papers[] = {
    { "NearSwap (QuartetAnemoi-70B-t0.0001, model card)", "alchemonaut", "Hugging Face", "hf:alchemonaut/QuartetAnemoi-70B-t0.0001", 2024, NULL },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_nearswap = {
    .abi = SY_METHOD_ABI, .name = "nearswap", .kind = SY_MERGER, .title = "takes over numbers that are near to the base's", .papers = papers,
    .about = "Each number moves from the base towards the other model by at most t: what both nearly agree on is taken from the other, what differs much stays with the base.",
    .options = rows, .size = sizeof(nearswap), .merger = &merger,
};
