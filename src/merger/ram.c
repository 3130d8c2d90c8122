/* SPDX-License-Identifier: Apache-2.0 */
/* RAM, for models trained by reinforcement, which move few weights each. See _ram.h. One pass. */
#include "_ram.h"

typedef struct { double epsilon; } ram;

static const sy_option rows[] = {
    { .name = "epsilon", .type = SY_OPT_FLOAT, .offset = offsetof(ram, epsilon), .def = "1e-5", .min = 0, .max = 1, .help = "differences up to this size count as none", .example = "1e-4" },
    { .name = NULL }
};

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    double one[SY_MERGE_INPUTS];
    (void)self;
    for (int i = 0; i < m->n; i++) one[i] = 1;
    ram_make(m, t, (float)sy_merge_value(m, "epsilon", -1), one);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_REQUIRED, .min_inputs = 1, .make = make };

RAM_PAPERS;

const sy_method sy_method_ram = {
    .abi = SY_METHOD_ABI, .name = "ram", .kind = SY_MERGER, .title = "moves of one model are kept whole, shared ones averaged", .papers = papers,
    .about = "For models fine-tuned by reinforcement, whose differences from the base are sparse: averaging would shrink what only one model learned. One pass.",
    .options = rows, .size = sizeof(ram), .merger = &merger,
};
