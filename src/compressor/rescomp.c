/* SPDX-License-Identifier: Apache-2.0 */
/* ResComp and its parents: column-by-column quantization that compensates toward the output
 * of the layer (GPTQ), of the original model (GPTAQ), or of the original weight in the
 * original model (ResComp). One solver, one switch.
 *
 * Where the papers are silent: dead inputs stay 0; a factorisation that fails gets ten times
 * the damping and says so; blocks never straddle groups, so that scales are always fitted on
 * up-to-date columns. Variant "exact" is this project's own: || W X - W0 X~ || is || (W - W*) X ||
 * plus a constant, so plain GPTQ started at W* minimises it directly. */
#include "compressor/solve.h"

enum { GPTQ, GPTQ_R, GPTAQ, RESCOMP, EXACT };
static const char *const variants[] = {"gptq", "gptq+r", "gptaq", "rescomp", "exact", NULL};
static const char *const orders[] = {"none", "act", "static", "groups", NULL};
static const char *const outers[] = {"auto", "org", "allw", NULL};

typedef struct {
    int variant, order, outer;
    int64_t bits, group, block;
    bool sym, clip;
    double damp, alpha1, alpha2;
} rescomp;

#define OFFSET(f) offsetof(rescomp, f)
static const sy_option options[] = {
    {.name = "variant", .type = SY_OPT_ENUM, .offset = OFFSET(variant), .def = "rescomp", .choices = variants,
     .help = "which residuals are compensated: gptq, gptq+r, gptaq, rescomp, or exact (starts at the optimum of GPTAQ's objective)", .example = "gptq"},
    {.name = "bits", .type = SY_OPT_INT, .offset = OFFSET(bits), .def = "3", .min = 2, .max = 8, .alias = "wbits w_bit", .help = "bits a code: 2, 3, 4 or 8", .example = "4"},
    {.name = "group", .type = SY_OPT_INT, .offset = OFFSET(group), .def = "128", .min = -1, .max = 8192, .alias = "group_size groupsize w_groupsize",
     .help = "inputs that share a scale, a multiple of 32; -1: a whole row", .example = "64"},
    {.name = "sym", .type = SY_OPT_BOOL, .offset = OFFSET(sym), .def = "on", .help = "symmetric grid: no zero points", .example = "off"},
    {.name = "clip", .type = SY_OPT_BOOL, .offset = OFFSET(clip), .def = "on", .alias = "w_clip mse", .help = "search the range of each group instead of taking its extremes", .example = "off"},
    {.name = "damp", .type = SY_OPT_FLOAT, .offset = OFFSET(damp), .def = "0.01", .min = 0, .max = 1, .alias = "percdamp damp_percent",
     .help = "damping as a share of the mean second moment", .example = "0.05"},
    {.name = "order", .type = SY_OPT_ENUM, .offset = OFFSET(order), .def = "none", .choices = orders, .alias = "act_order desc_act",
     .help = "inputs by falling activity: act (groups follow, stored with an index), static (groups fixed before), groups (inside groups, then groups)", .example = "groups"},
    {.name = "alpha1", .type = SY_OPT_FLOAT, .offset = OFFSET(alpha1), .def = "0.25", .min = 0, .max = 1, .flags = SY_OPT_ADVANCED,
     .help = "strength of GPTAQ's residual (the papers' formula: 1; every released code: 0.25)", .example = "1"},
    {.name = "alpha2", .type = SY_OPT_FLOAT, .offset = OFFSET(alpha2), .def = "0.25", .min = 0, .max = 1, .flags = SY_OPT_ADVANCED,
     .help = "strength of ResComp's residual", .example = "0.5"},
    {.name = "outer", .type = SY_OPT_ENUM, .offset = OFFSET(outer), .def = "auto", .choices = outers, .flags = SY_OPT_ADVANCED,
     .help = "what residuals use between blocks: org (stored values), allw (weights within range), auto (org at 2 bits and for gptaq)", .example = "org"},
    {.name = "block", .type = SY_OPT_INT, .offset = OFFSET(block), .def = "128", .min = 1, .max = 1024, .flags = SY_OPT_ADVANCED, .alias = "blocksize",
     .help = "columns between two updates of the rest", .example = "64"},
    {.name = NULL}
};

static sy_status init(void *self, sy_run *run)
{
    const rescomp *o = self;
    return syi_grid_check(sy_run_context(run), variants[o->variant], o->bits, o->group);
}

static unsigned needs(void *self, sy_run *run, const sy_site *site)
{
    const rescomp *o = self;
    (void)run, (void)site;
    return o->variant == GPTQ || o->variant == GPTQ_R ? SY_STAT_XX : SY_STAT_XX | SY_STAT_DX;
}

static sy_status solve(void *self, sy_run *run, sy_layer *layer)
{
    const rescomp *o = self;
    syi_gptq g = {.grid = {.bits = (int)o->bits, .group = o->group, .sym = o->sym, .clip = o->clip}, .order = (syi_order)o->order};
    g.columns = (syi_columns){.damp = o->damp, .block = o->block, .exact = o->variant == EXACT};
    if (o->variant == GPTAQ || o->variant == RESCOMP) g.columns.alpha1 = o->alpha1;
    if (o->variant == GPTQ_R || o->variant == RESCOMP) g.columns.alpha2 = o->alpha2;
    g.columns.org = o->outer == 1 || (o->outer == 0 && (o->bits == 2 || o->variant == GPTAQ));
    return syi_gptq_solve(sy_run_engine(run), &g, layer->out, layer->in, layer->w, layer->stats->xx, layer->stats->dx, &layer->take, layer->note);
}

static const sy_paper papers[] = {
    {.title = "Rethinking Residual Errors in Compensation-based LLM Quantization", .authors = "Li et al.", .venue = "ICLR", .id = "arXiv 2604.07955", .year = 2026},
    {.title = "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", .authors = "Li et al.", .venue = "ICML", .id = "arXiv 2504.02692", .year = 2025},
    {.title = "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", .authors = "Frantar et al.", .venue = "ICLR", .id = "arXiv 2210.17323", .year = 2023},
    {.title = NULL}
};

static const sy_preset presets[] = {
    {"gptq", "rounding errors of a layer compensated", "variant=gptq"},
    {"gptaq", "those of the layers before it too", "variant=gptaq"},
    {NULL, NULL, NULL}
};

const sy_method sy_method_rescomp = {
    .abi = SY_METHOD_ABI, .name = "rescomp", .kind = SY_COMPRESSOR,
    .title = "ResComp, GPTAQ, GPTQ: quantization with error compensation, column by column",
    .presets = presets, .papers = papers,
    .about = "Rounds one input column after another and lets the columns that follow take up the error, weighted by the second moments of "
             "the inputs on a calibration text. GPTQ repairs rounding within a layer, GPTAQ also what arrives from layers before it, ResComp "
             "re-anchors both to the untouched layer. A few hundred windows of text and no training; a minute for a model of 100 million parameters.",
    .options = options, .size = sizeof(rescomp), .init = init, .needs = needs, .solve = solve,
};
