/* SPDX-License-Identifier: Apache-2.0 */
/* RAM+ tensor by tensor: what only model i moved is enlarged by 1 + r min(alpha, shared_i / unique_i),
 * with the numbers of places in this tensor that i moved together with others and alone: sharing
 * shrinks a model's moves, this makes up for it. See _ram.h. Two passes. */
#include "_ram.h"

typedef struct { double epsilon, r, alpha; } ramplus;

static const sy_option rows[] = {
    { .name = "epsilon", .type = SY_OPT_FLOAT, .offset = offsetof(ramplus, epsilon), .def = "1e-5", .min = 0, .max = 1, .help = "differences up to this size count as none", .example = "1e-4" },
    { .name = "r", .type = SY_OPT_FLOAT, .offset = offsetof(ramplus, r), .def = "0.1", .min = 0, .max = 100, .help = "how much is made up for", .example = "0.2" },
    { .name = "alpha", .type = SY_OPT_FLOAT, .offset = offsetof(ramplus, alpha), .def = "0.2", .min = 0, .max = 100, .help = "largest ratio of shared to unique places that counts", .example = "0.5" },
    { .name = NULL }
};

typedef struct { double factor[SY_MERGE_INPUTS]; } own;

static sy_status begin(void *self, sy_merge *m)
{
    (void)self;
    m->passes = 1;
    m->sums = 2 * m->n;
    return SY_OK;
}

static void look(void *self, const sy_merge *m, int pass, sy_tile *t)
{
    const float epsilon = (float)sy_merge_value(m, "epsilon", -1);
    (void)self, (void)pass;
    for (int64_t k = 0; k < t->n; k++) {
        int only = 0;
        const int n = ram_movers(m, t, k, epsilon, &only);
        for (int i = 0; i < m->n && n > 0; i++)
            if (fabsf(t->in[i][k] - t->base[k]) > epsilon) t->sum[2 * i + (n == 1)]++;
    }
}

static sy_status sum(void *self, sy_merge *m, int pass)
{
    own *o = m->own;
    (void)self, (void)pass;
    for (int i = 0; i < m->n; i++) /* no place alone: the ratio is as large as it can be */
        o->factor[i] = 1 + sy_merge_value(m, "r", -1) * fmin(sy_merge_value(m, "alpha", -1), m->total[2 * i] / fmax(m->total[2 * i + 1], 1e-5));
    return SY_OK;
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    (void)self;
    ram_make(m, t, (float)sy_merge_value(m, "epsilon", -1), ((const own *)m->own)->factor);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_REQUIRED, .min_inputs = 1, .own = sizeof(own), .begin = begin, .look = look, .sum = sum, .make = make };

RAM_PAPERS;

const sy_method sy_method_ramplus_tl = {
    .abi = SY_METHOD_ABI, .name = "ramplus_tl", .kind = SY_MERGER, .title = "ram with moves of one model enlarged by what it shares", .papers = papers,
    .about = "RAM with the factor of RAM+, counted tensor by tensor: models that share many places with others have what is theirs alone enlarged a little. Two passes.",
    .options = rows, .size = sizeof(ramplus), .merger = &merger,
};
