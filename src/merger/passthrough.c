/* SPDX-License-Identifier: Apache-2.0 */
/* One model's tensors as they are, or times a factor: for putting layers of models one
 * behind the other with slices. */
#include "steelyard/merge.h"
#include "tensor/mix.h"

#include <string.h>

typedef struct { double scale; } passthrough;

static const sy_option rows[] = {
    { .name = "scale", .type = SY_OPT_FLOAT, .offset = offsetof(passthrough, scale), .def = "1", .flags = SY_OPT_PER_MODEL, .help = "factor of the tensor", .example = "0.9" },
    { .name = NULL }
};

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    (void)self;
    const double scale = sy_merge_value(m, "scale", 0);
    if (scale == 1) {
        memcpy(t->out, t->in[0], (size_t)t->n * sizeof *t->out);
        return;
    }
    m->mix->set(scale, t->in[0], t->wide[0], t->n);
    m->mix->finish(1, t->wide[0], NULL, t->out, t->n);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_NONE, .min_inputs = 1, .max_inputs = 1, .make = make };

static const sy_paper papers[] = {
    { "SOLAR 10.7B: scaling large language models with simple yet effective depth up-scaling", "Kim et al.", "NAACL", "arXiv:2312.15166", 2024, "section 2" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_passthrough = {
    .abi = SY_METHOD_ABI, .name = "passthrough", .kind = SY_MERGER, .title = "takes layers over as they are", .papers = papers,
    .about = "Makes a model of slices: layers of one model or of several, in any order and number. scale multiplies a tensor.",
    .options = rows, .size = sizeof(passthrough), .merger = &merger,
};
