/* SPDX-License-Identifier: Apache-2.0 */
/* DARE followed by task arithmetic. See _delta.h. */
#include "_delta.h"

static const sy_option rows[] = {
    DELTA_WEIGHT,
    DELTA_DENSITY,
    DELTA_RESCALE("on"),
    DELTA_SHARED("off"),
    { .name = NULL }
};

DELTA_MERGER(DELTA_RANDOM, false);

static const sy_paper papers[] = {
    { "Language models are super Mario: absorbing abilities from homologous models as a free lunch", "Yu et al.", "ICML", "arXiv:2311.03099", 2024, "section 3" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_dare_linear = {
    .abi = SY_METHOD_ABI, .name = "dare_linear", .kind = SY_MERGER, .title = "drops differences at random, enlarges the rest, adds them up", .papers = papers,
    .about = "Each number of a difference is kept with probability `density`, the rest is enlarged (to the same L1 norm as mergekit does, or by 1/density as in the paper), then task arithmetic. The mask of a number depends on seed, model, tensor and place only.",
    .options = rows, .size = sizeof(delta_options), .free = finish, .merger = &merger,
};
