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
    int rescale_by, consensus, scope, zero_sign, merge_func;
    struct delta_world *world;   /* scope model: what the survey found */
} delta_options;

typedef enum { DELTA_ALL, DELTA_LARGEST, DELTA_MIDDLE, DELTA_RANDOM, DELTA_RANKED } delta_thinning;

extern const char *const delta_rescale_choices[], *const delta_consensus_choices[], *const delta_scope_choices[], *const delta_zero_choices[], *const delta_join_choices[];

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

/* The form of TIES' paper: one ranking over the whole model, other ways of joining. */
#define DELTA_PAPER                                                                                                                                 \
    { .name = "scope", .type = SY_OPT_ENUM, .offset = offsetof(delta_options, scope), .def = "tensor", .choices = delta_scope_choices,              \
      .flags = SY_OPT_ADVANCED, .help = "density is of each tensor, or of the whole model (the paper's form)", .example = "model" },                \
    { .name = "zero-sign", .type = SY_OPT_ENUM, .offset = offsetof(delta_options, zero_sign), .def = "plus", .choices = delta_zero_choices,         \
      .flags = SY_OPT_ADVANCED, .help = "sign where the sum is 0: plus, or that of most elected signs", .example = "majority" },                    \
    { .name = "merge-func", .type = SY_OPT_ENUM, .offset = offsetof(delta_options, merge_func), .def = "auto", .choices = delta_join_choices,       \
      .flags = SY_OPT_ADVANCED, .help = "differences that agree: their mean, sum, or largest; auto: as normalize says", .example = "sum" }

sy_status delta_begin(delta_options *self, sy_merge *m, delta_thinning how);
void delta_sample(sy_merge *m, const sy_tile *t);
void delta_look(const sy_merge *m, int pass, sy_tile *t);
sy_status delta_sum(const delta_options *self, sy_merge *m, int pass);
int64_t delta_survey(delta_options *self, const sy_merging *job, int walk, const int64_t *counted);
void delta_glance(const delta_options *self, const sy_merge *m, sy_tile *t);
void delta_free(delta_options *self);
/* elect: signs are elected (TIES); otherwise differences are added up. */
void delta_make(const sy_merge *m, sy_tile *t, bool elect);

/* A method of the family: its file says thinning, election, rows and words. */
#define DELTA_MERGER(thinning, elects)                                                                                                              \
    static sy_status begin(void *self, sy_merge *m) { return delta_begin(self, m, thinning); }                                                      \
    static void sample(void *self, sy_merge *m, const sy_tile *t) { (void)self; delta_sample(m, t); }                                               \
    static void look(void *self, const sy_merge *m, int pass, sy_tile *t) { (void)self; delta_look(m, pass, t); }                                   \
    static sy_status sum(void *self, sy_merge *m, int pass) { return delta_sum(self, m, pass); }                                                    \
    static void make(void *self, const sy_merge *m, sy_tile *t) { (void)self; delta_make(m, t, elects); }                                           \
    static int64_t survey(void *self, const sy_merging *job, int walk, const int64_t *counted) { return delta_survey(self, job, walk, counted); }   \
    static void glance(void *self, const sy_merge *m, int walk, sy_tile *t) { (void)walk; delta_glance(self, m, t); }                               \
    static void finish(void *self) { delta_free(self); }                                                                                            \
    static const sy_merger merger = { .base = SY_MERGE_BASE_REQUIRED, .min_inputs = 1, .own = DELTA_OWN, .spare = true, .survey = survey,           \
                                      .glance = glance, .begin = begin, .sample = sample, .look = look, .sum = sum, .make = make }

enum { DELTA_OWN = 160 * SY_MERGE_INPUTS + 128 };

#endif
