/* SPDX-License-Identifier: Apache-2.0 */
/* Rounding to nearest: the baseline of every other quantizer. No calibration. */
#include "compressor/solve.h"

typedef struct { int64_t bits, group; bool sym, clip; } rtn;

#define OFFSET(f) offsetof(rtn, f)
static const sy_option options[] = {
    {.name = "bits", .type = SY_OPT_INT, .offset = OFFSET(bits), .def = "4", .min = 2, .max = 8, .alias = "wbits w_bit", .help = "bits a code: 2, 3, 4 or 8", .example = "3"},
    {.name = "group", .type = SY_OPT_INT, .offset = OFFSET(group), .def = "128", .min = -1, .max = 8192, .alias = "group_size groupsize q_group_size",
     .help = "inputs that share a scale, a multiple of 32; -1: a whole row", .example = "64"},
    {.name = "sym", .type = SY_OPT_BOOL, .offset = OFFSET(sym), .def = "off", .help = "symmetric grid: no zero points", .example = "on"},
    {.name = "clip", .type = SY_OPT_BOOL, .offset = OFFSET(clip), .def = "off", .alias = "w_clip", .help = "search the range of each group instead of taking its extremes", .example = "on"},
    {.name = NULL}
};

static sy_status init(void *self, sy_run *run)
{
    const rtn *o = self;
    return syi_grid_check(sy_run_context(run), "rtn", o->bits, o->group);
}

static sy_status solve(void *self, sy_run *run, sy_layer *layer)
{
    const rtn *o = self;
    const syi_grid g = {.bits = (int)o->bits, .group = o->group, .sym = o->sym, .clip = o->clip};
    return syi_grid_round(sy_run_engine(run), &g, layer->out, layer->in, layer->w, &layer->take);
}

static const sy_paper papers[] = {{.title = NULL}};

const sy_method sy_method_rtn = {
    .abi = SY_METHOD_ABI, .name = "rtn", .kind = SY_COMPRESSOR,
    .title = "Rounding to nearest on a uniform grid",
    .papers = papers,
    .about = "Each weight goes to the nearest point of its group's grid. Needs no text and takes seconds; the baseline that any other "
             "quantizer has to beat. At 4 bits it is often good enough, at 3 bits and below it is not.",
    .options = options, .size = sizeof(rtn), .init = init, .solve = solve,
};
