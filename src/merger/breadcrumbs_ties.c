/* SPDX-License-Identifier: Apache-2.0 */
/* Model Breadcrumbs followed by the election and the disjoint merge of TIES. See _delta.h. */
#include "_delta.h"

static const sy_option rows[] = {
    DELTA_WEIGHT,
    DELTA_DENSITY,
    DELTA_GAMMA,
    DELTA_RESCALE("off"),
    DELTA_CONSENSUS,
    DELTA_SHARED("off"),
    { .name = NULL }
};

DELTA_MERGER(DELTA_MIDDLE, true);

static const sy_paper papers[] = {
    { "Model Breadcrumbs: scaling multi-task model merging with sparse masks", "Davari and Belilovsky", "ECCV", "arXiv:2312.06795", 2024, "section 3" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_breadcrumbs_ties = {
    .abi = SY_METHOD_ABI, .name = "breadcrumbs_ties", .kind = SY_MERGER, .title = "drops the smallest and the very largest differences, then elects signs", .papers = papers,
    .about = "The thinning of breadcrumbs, followed by the election of signs and the sum of those that agree (see ties).",
    .options = rows, .size = sizeof(delta_options), .free = finish, .merger = &merger,
};
