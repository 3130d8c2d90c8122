/* SPDX-License-Identifier: Apache-2.0 */
/* TIES: the largest share of every difference from the base is kept, a sign is elected for each number, and those differences that have it are averaged. See _delta.h. */
#include "_delta.h"

static const sy_option rows[] = {
    DELTA_WEIGHT,
    DELTA_DENSITY,
    DELTA_RESCALE("off"),
    DELTA_CONSENSUS,
    DELTA_PAPER,
    DELTA_SHARED("on"),
    { .name = NULL }
};

DELTA_MERGER(DELTA_LARGEST, true);

static const sy_paper papers[] = {
    { "TIES-Merging: resolving interference when merging models", "Yadav et al.", "NeurIPS", "arXiv:2306.01708", 2023, "section 4, algorithm 1" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_ties = {
    .abi = SY_METHOD_ABI, .name = "ties", .kind = SY_MERGER, .title = "trims differences, elects signs, averages those that agree", .papers = papers,
    .about = "Keeps the share `density` of largest magnitudes of every difference, elects a sign for every number by the weighted sum (0 counts as +), and averages the differences that have it. Ties in magnitude: exactly floor(density n) numbers are kept, the first ones of equal size.",
    .options = rows, .size = sizeof(delta_options), .free = finish, .merger = &merger,
};
