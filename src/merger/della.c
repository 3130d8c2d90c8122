/* SPDX-License-Identifier: Apache-2.0 */
/* DELLA followed by the election and the disjoint merge of TIES. See _delta.h. */
#include "_delta.h"

static const sy_option rows[] = {
    DELTA_WEIGHT,
    DELTA_DENSITY,
    DELTA_EPSILON,
    DELTA_RESCALE("on"),
    DELTA_CONSENSUS,
    DELTA_SHARED("on"),
    { .name = NULL }
};

DELTA_MERGER(DELTA_RANKED, true);

static const sy_paper papers[] = {
    { "DELLA-Merging: reducing interference in model merging through magnitude-based sampling", "Deep et al.", "", "arXiv:2406.11617", 2024, "section 3" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_della = {
    .abi = SY_METHOD_ABI, .name = "della", .kind = SY_MERGER, .title = "drops small differences more often than large ones, then elects signs", .papers = papers,
    .about = "The thinning of della_linear, followed by the election of signs and the average of those that agree (see ties).",
    .options = rows, .size = sizeof(delta_options), .free = finish, .merger = &merger,
};
