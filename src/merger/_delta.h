/* SPDX-License-Identifier: Apache-2.0 */
/* The family of task arithmetic: the differences of N models from a base, each thinned out
 * in some way, added up with or without an election of signs, and added to the base. The
 * files of the methods say which way, which defaults, and which parameters there are. */
#ifndef MERGER_DELTA_H
#define MERGER_DELTA_H

#include "steelyard/merge.h"

typedef struct {
    double weight, density, gamma, epsilon, lambda;
    bool normalize, rescale, int8_mask;
    int rescale_by, consensus;
} delta_options;

typedef enum { DELTA_ALL, DELTA_LARGEST, DELTA_MIDDLE, DELTA_RANDOM, DELTA_RANKED } delta_thinning;

extern const char *const delta_rescale_choices[], *const delta_consensus_choices[];

#define DELTA_WEIGHT                                                                                                                          \
    { .name = "weight", .type = SY_OPT_FLOAT, .offset = offsetof(delta_options, weight), .flags = SY_OPT_PER_MODEL,                              \
      .help = "factor of each model's difference from the base", .example = "0.5" }
#define DELTA_DENSITY                                                                                                                            \
    { .name = "density", .type = SY_OPT_FLOAT, .offset = offsetof(delta_options, density), .def = "1", .min = 0, .max = 1,                         \
      .flags = SY_OPT_PER_MODEL | SY_OPT_MIN_OPEN, .help = "share of each difference that is kept", .example = "0.5" }
#define DELTA_SHARED(normalized)                                                                                                                   \
    { .name = "normalize", .type = SY_OPT_BOOL, .offset = offsetof(delta_options, normalize), .def = normalized,                                 \
      .help = "divide by the sum of the weights (of those that agree)", .example = "on" },                                                            \
    { .name = "lambda", .type = SY_OPT_FLOAT, .offset = offsetof(delta_options, lambda), .def = "1", .help = "factor of the merged difference",    \
      .example = "0.8" },                                                                                                                           \
    { .name = "int8-mask", .type = SY_OPT_BOOL, .offset = offsetof(delta_options, int8_mask), .def = "off", .flags = SY_OPT_ADVANCED,              \
      .help = "accepted for mergekit's recipes; masks take one bit here anyway", .example = "on" }
#define DELTA_RESCALE(on)                                                                                                                         \
    { .name = "rescale", .type = SY_OPT_BOOL, .offset = offsetof(delta_options, rescale), .def = on,                                              \
      .help = "enlarge what is kept to make up for what is dropped", .example = "on" },                                                            \
    { .name = "rescale-by", .type = SY_OPT_ENUM, .offset = offsetof(delta_options, rescale_by), .def = "l1", .choices = delta_rescale_choices,     \
      .flags = SY_OPT_ADVANCED, .help = "l1: the tensor's L1 norm stays (mergekit); inv_density: 1/probability (papers)", .example = "l1" }
#define DELTA_EPSILON                                                                                                                              \
    { .name = "epsilon", .type = SY_OPT_FLOAT, .offset = offsetof(delta_options, epsilon), .def = "0.15", .min = 0, .max = 0.5,                    \
      .flags = SY_OPT_PER_MODEL, .help = "how far the probability of being kept goes below and above density", .example = "0.1" }
#define DELTA_GAMMA                                                                                                                                \
    { .name = "gamma", .type = SY_OPT_FLOAT, .offset = offsetof(delta_options, gamma), .def = "0.01", .min = 0, .max = 1,                          \
      .flags = SY_OPT_PER_MODEL, .help = "share of largest magnitudes that is dropped", .example = "0.02" }
#define DELTA_CONSENSUS                                                                                                                            \
    { .name = "consensus", .type = SY_OPT_ENUM, .offset = offsetof(delta_options, consensus), .def = "sum", .choices = delta_consensus_choices,     \
      .flags = SY_OPT_ADVANCED, .help = "elect signs by the sum of the differences or by counting heads", .example = "count" }

sy_status delta_begin(sy_merge *m, delta_thinning how);
void delta_look(const sy_merge *m, int pass, sy_tile *t);
sy_status delta_sum(sy_merge *m, int pass);
/* elect: signs are elected (TIES); otherwise differences are added up. */
void delta_make(const sy_merge *m, sy_tile *t, bool elect);

/* A method of the family: its file says thinning, election, rows and words. */
#define DELTA_MERGER(thinning, elects)                                                                                                              \
    static sy_status begin(void *self, sy_merge *m) { (void)self; return delta_begin(m, thinning); }                                                \
    static void look(void *self, const sy_merge *m, int pass, sy_tile *t) { (void)self; delta_look(m, pass, t); }                                   \
    static sy_status sum(void *self, sy_merge *m, int pass) { (void)self; return delta_sum(m, pass); }                                              \
    static void make(void *self, const sy_merge *m, sy_tile *t) { (void)self; delta_make(m, t, elects); }                                           \
    static const sy_merger merger = { .base = SY_MERGE_BASE_REQUIRED, .min_inputs = 1, .own = DELTA_OWN, .spare = true, .begin = begin, .look = look, .sum = sum, .make = make }

enum { DELTA_OWN = 128 * SY_MERGE_INPUTS + 64 };

#endif
