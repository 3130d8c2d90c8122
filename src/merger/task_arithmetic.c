/* SPDX-License-Identifier: Apache-2.0 */
/* Task arithmetic: base + lambda * sum of weighted differences. One pass, three numbers a tensor. See _delta.h. */
#include "_delta.h"

static const sy_option rows[] = {
    DELTA_WEIGHT,
    DELTA_SHARED("off"),
    { .name = NULL }
};

DELTA_MERGER(DELTA_ALL, false);

static const sy_paper papers[] = {
    { "Editing models with task arithmetic", "Ilharco et al.", "ICLR", "arXiv:2212.04089", 2023, "section 2" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_task_arithmetic = {
    .abi = SY_METHOD_ABI, .name = "task_arithmetic", .kind = SY_MERGER, .title = "adds scaled differences from a base", .papers = papers,
    .about = "theta = base + lambda sum_k w_k (theta_k - base). Negative weights take a task away. One pass.",
    .options = rows, .size = sizeof(delta_options), .free = finish, .merger = &merger,
};
