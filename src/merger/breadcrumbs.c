/* SPDX-License-Identifier: Apache-2.0 */
/* Model Breadcrumbs followed by task arithmetic. See _delta.h. */
#include "_delta.h"

static const sy_option rows[] = {
    DELTA_WEIGHT,
    DELTA_DENSITY,
    DELTA_GAMMA,
    DELTA_RESCALE("off"),
    DELTA_SHARED("off"),
    { .name = NULL }
};

DELTA_MERGER(DELTA_MIDDLE, false);

static const sy_paper papers[] = {
    { "Model Breadcrumbs: scaling multi-task model merging with sparse masks", "Davari and Belilovsky", "ECCV", "arXiv:2312.06795", 2024, "section 3" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_breadcrumbs = {
    .abi = SY_METHOD_ABI, .name = "breadcrumbs", .kind = SY_MERGER, .title = "drops the smallest and the very largest differences, adds up the rest", .papers = papers,
    .about = "Of every difference the share `gamma` of largest magnitudes is dropped as outliers, and the smallest ones until the share `density` is left; then task arithmetic.",
    .options = rows, .size = sizeof(delta_options), .free = finish, .merger = &merger,
};
