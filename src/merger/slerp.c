/* SPDX-License-Identifier: Apache-2.0 */
/* Spherical interpolation of two models, each tensor as one vector: with phi the angle
 * between base and other, [sin((1-t) phi) base + sin(t phi) other] / sin phi on the vectors
 * as they are. Nearly parallel ones (|cos| > 0.9995) are interpolated linearly. Two passes. */
#include "steelyard/merge.h"
#include "tensor/mix.h"

#include <math.h>

typedef struct { double t; } slerp;

static const sy_option rows[] = {
    { .name = "t", .type = SY_OPT_FLOAT, .offset = offsetof(slerp, t), .def = "0.5", .help = "0 is the base, 1 the other model", .example = "0.3" },
    { .name = NULL }
};

typedef struct { double a, b; } own;

static sy_status begin(void *self, sy_merge *m)
{
    (void)self;
    m->passes = 1;
    m->sums = 3;
    return SY_OK;
}

static void look(void *self, const sy_merge *m, int pass, sy_tile *t)
{
    (void)self, (void)pass;
    m->mix->dots(t->base, t->in[0], NULL, t->sum, t->n);
}

static sy_status sum(void *self, sy_merge *m, int pass)
{
    (void)self, (void)pass;
    own *o = m->own;
    const double t = sy_merge_value(m, "t", -1), x = sqrt(m->total[0]), y = sqrt(m->total[1]);
    const double c = fmax(-1, fmin(1, m->total[2] / ((x > 1e-8 ? x : 1) * (y > 1e-8 ? y : 1))));
    o->a = 1 - t;
    o->b = t;
    if (fabs(c) > 0.9995) return SY_OK;
    const double phi = acos(c);
    o->a = sin((1 - t) * phi) / sin(phi);
    o->b = sin(t * phi) / sin(phi);
    return SY_OK;
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    (void)self;
    const own *o = m->own;
    m->mix->pair(o->a, t->base, o->b, t->in[0], t->out, t->n);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_REQUIRED, .min_inputs = 1, .max_inputs = 1, .own = sizeof(own), .begin = begin, .look = look, .sum = sum, .make = make };

static const sy_paper papers[] = {
    { "Animating rotation with quaternion curves", "Shoemake", "SIGGRAPH", "doi:10.1145/325165.325242", 1985, "section 3.3" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_slerp = {
    .abi = SY_METHOD_ABI, .name = "slerp", .kind = SY_MERGER, .title = "spherical interpolation of two models", .papers = papers,
    .about = "Goes from the base (t = 0) to the other model (t = 1) along the arc instead of the chord, tensor by tensor. t is often a gradient over layers.",
    .options = rows, .size = sizeof(slerp), .merger = &merger,
};
