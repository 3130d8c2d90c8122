/* SPDX-License-Identifier: Apache-2.0 */
/* Weighted mean of many models on the sphere: unit vectors of the tensors (of their
 * differences, with a base) are averaged, the sum of their tangents at that mean is
 * followed along the sphere, and the result gets the mean length. By inner products only,
 * one pass. */
#include "_gram.h"

#include <math.h>

typedef struct { double weight, eps; bool normalize_weights; } multislerp;

static const sy_option rows[] = {
    { .name = "weight", .type = SY_OPT_FLOAT, .offset = offsetof(multislerp, weight), .flags = SY_OPT_PER_MODEL, .help = "share of each model", .example = "0.5" },
    { .name = "normalize-weights", .type = SY_OPT_BOOL, .offset = offsetof(multislerp, normalize_weights), .def = "on", .help = "divide the weights by their sum", .example = "off" },
    { .name = "eps", .type = SY_OPT_FLOAT, .offset = offsetof(multislerp, eps), .def = "1e-8", .min = 0, .max = 1, .flags = SY_OPT_ADVANCED, .help = "what counts as zero length", .example = "1e-8" },
    { .name = NULL }
};

typedef struct { double c[SY_MERGE_INPUTS]; } own;

static sy_status begin(void *self, sy_merge *m)
{
    (void)self;
    double sum = 0;
    for (int i = 0; i < m->n; i++) sum += sy_merge_value(m, "weight", i);
    if (sum == 0 && sy_merge_value(m, "normalize-weights", -1) != 0)
        return sy_merge_fail(m, SY_E_USAGE, "the weights add up to 0, so they cannot be normalised; change them or set normalize_weights: false");
    m->passes = 1;
    m->sums = m->n * m->n;
    return SY_OK;
}

static void look(void *self, const sy_merge *m, int pass, sy_tile *t)
{
    (void)self, (void)pass;
    gram_look(m, t);
}

static sy_status sum(void *self, sy_merge *m, int pass)
{
    (void)self, (void)pass;
    own *o = m->own;
    const int n = m->n;
    const double eps = sy_merge_value(m, "eps", -1);
    double w[SY_MERGE_INPUTS], norm[SY_MERGE_INPUTS], mean[SY_MERGE_INPUTS], tangent[SY_MERGE_INPUTS], all = 0, length = 0;
    for (int i = 0; i < n; i++) all += w[i] = sy_merge_value(m, "weight", i);
    for (int i = 0; i < n; i++) {
        if (sy_merge_value(m, "normalize-weights", -1) != 0) w[i] /= all;
        norm[i] = sqrt(gram_at(m, i, i));
        mean[i] = w[i] / (norm[i] + eps);
        length += w[i] * norm[i];
    }
    if (n == 1) return o->c[0] = 1, SY_OK;
    const double size = sqrt(fmax(0, gram_form(m, mean, mean)));
    if (size < eps || length == 0) {
        if (n > 2 && length != 0) return sy_merge_fail(m, SY_E_NUMERIC, "the weighted models cancel each other out on the sphere; change their weights");
        for (int i = 0; i < n; i++) o->c[i] = w[i];
        return SY_OK;
    }
    for (int i = 0; i < n; i++) mean[i] /= size;
    double along = 0; /* sum w_i u_i . mean */
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) along += w[i] / (norm[i] + eps) * mean[j] * gram_at(m, i, j);
    for (int i = 0; i < n; i++) tangent[i] = w[i] / (norm[i] + eps) - along * mean[i];
    const double far = sqrt(fmax(0, gram_form(m, tangent, tangent))) + eps;
    for (int i = 0; i < n; i++) o->c[i] = length * (mean[i] * cos(far) + tangent[i] * sin(far) / far);
    return SY_OK;
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    (void)self;
    gram_make(m, t, ((const own *)m->own)->c);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_OPTIONAL, .min_inputs = 1, .own = sizeof(own), .begin = begin, .look = look, .sum = sum, .make = make };

static const sy_paper papers[] = {
    { "Spherical averages and applications to spherical splines and interpolation", "Buss and Fillmore", "ACM Transactions on Graphics", "doi:10.1145/502122.502124", 2001, "section 2" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_multislerp = {
    .abi = SY_METHOD_ABI, .name = "multislerp", .kind = SY_MERGER, .title = "weighted mean of many models on the sphere", .papers = papers,
    .about = "Like slerp for more than two models: directions are averaged, lengths too. With a base, differences from it are. One pass.",
    .options = rows, .size = sizeof(multislerp), .merger = &merger,
};
