/* SPDX-License-Identifier: Apache-2.0 */
/* DELLA followed by task arithmetic. See _delta.h. */
#include "_delta.h"

static const sy_option rows[] = {
    DELTA_WEIGHT,
    DELTA_DENSITY,
    DELTA_EPSILON,
    DELTA_RESCALE("on"),
    DELTA_SHARED("off"),
    { .name = NULL }
};

DELTA_MERGER(DELTA_RANKED, false);

static const sy_paper papers[] = {
    { "DELLA-Merging: reducing interference in model merging through magnitude-based sampling", "Deep et al.", "", "arXiv:2406.11617", 2024, "section 3" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_della_linear = {
    .abi = SY_METHOD_ABI, .name = "della_linear", .kind = SY_MERGER, .title = "drops small differences more often than large ones, adds up the rest", .papers = papers,
    .about = "Within each row of a difference, a number of rank u (0 smallest, 1 largest magnitude) is kept with probability density - epsilon + 2 epsilon u; the rest is enlarged (L1 norm, or 1/probability as in the paper), then task arithmetic.",
    .options = rows, .size = sizeof(delta_options), .free = finish, .merger = &merger,
};
