/* SPDX-License-Identifier: Apache-2.0 */
/* DARE followed by the election and the disjoint merge of TIES. See _delta.h. */
#include "_delta.h"

static const sy_option rows[] = {
    DELTA_WEIGHT,
    DELTA_DENSITY,
    DELTA_RESCALE("on"),
    DELTA_CONSENSUS,
    DELTA_SHARED("off"),
    { .name = NULL }
};

DELTA_MERGER(DELTA_RANDOM, true);

static const sy_paper papers[] = {
    { "Language models are super Mario: absorbing abilities from homologous models as a free lunch", "Yu et al.", "ICML", "arXiv:2311.03099", 2024, "section 3" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_dare_ties = {
    .abi = SY_METHOD_ABI, .name = "dare_ties", .kind = SY_MERGER, .title = "drops differences at random, then elects signs as TIES does", .papers = papers,
    .about = "DARE (see dare_linear) followed by the election of signs and the sum of those that agree (see ties).",
    .options = rows, .size = sizeof(delta_options), .free = finish, .merger = &merger,
};
