/* SPDX-License-Identifier: Apache-2.0 */
/* The Karcher mean of the directions of N tensors on the unit sphere, times their mean
 * length: from the normalised sum, the mean of the logarithms is followed until it is
 * shorter than tol. Every iterate lies in the span of the inputs, so one pass for their
 * inner products is all the reading there is. */
#include "_gram.h"

#include <math.h>

typedef struct { int64_t max_iter; double tol; } karcher;

static const sy_option rows[] = {
    { .name = "max-iter", .type = SY_OPT_INT, .offset = offsetof(karcher, max_iter), .def = "10", .min = 1, .max = 100000, .help = "most iterations", .example = "20" },
    { .name = "tol", .type = SY_OPT_FLOAT, .offset = offsetof(karcher, tol), .def = "1e-5", .min = 0, .max = 1, .flags = SY_OPT_MIN_OPEN, .help = "where iterating stops", .example = "1e-6" },
    { .name = NULL }
};

typedef struct { double c[SY_MERGE_INPUTS]; } own;

static sy_status begin(void *self, sy_merge *m)
{
    (void)self;
    m->passes = 1;
    m->sums = m->n * m->n;
    return SY_OK;
}

static void look(void *self, const sy_merge *m, int pass, sy_tile *t)
{
    (void)self, (void)pass;
    gram_look(m, t);
}

static void scale(double *c, int n, double by)
{
    for (int i = 0; i < n; i++) c[i] *= by;
}

/* One step; false: it stands still. */
static bool step(const sy_merge *m, const double *alpha, const double *unit, double tol, double *mean)
{
    double tangent[SY_MERGE_INPUTS] = { 0 };
    for (int i = 0; i < m->n; i++) {
        double dot = 0;
        if (alpha[i] == 0) continue;
        for (int j = 0; j < m->n; j++) dot += mean[j] * unit[i] * gram_at(m, i, j);
        dot = fmax(-1, fmin(1, dot));
        const double theta = acos(dot), by = alpha[i] * theta / sin(theta);
        if (theta < tol || !isfinite(by)) continue;
        for (int j = 0; j < m->n; j++) tangent[j] += by * ((j == i ? unit[i] : 0) - dot * mean[j]);
    }
    const double far = sqrt(fmax(0, gram_form(m, tangent, tangent)));
    if (far < tol) return false;
    for (int j = 0; j < m->n; j++) mean[j] = cos(far) * mean[j] + sin(far) / far * tangent[j];
    const double size = sqrt(fmax(0, gram_form(m, mean, mean)));
    if (size > tol) scale(mean, m->n, 1 / size);
    return true;
}

static sy_status sum(void *self, sy_merge *m, int pass)
{
    (void)self, (void)pass;
    own *o = m->own;
    const double tol = sy_merge_value(m, "tol", -1);
    double alpha[SY_MERGE_INPUTS], unit[SY_MERGE_INPUTS], *mean = o->c, length = 0;
    int valid = 0, first = 0;
    for (int i = m->n - 1; i >= 0; i--) {
        const double norm = sqrt(gram_at(m, i, i));
        length += norm / m->n;
        unit[i] = norm > 0 ? 1 / norm : 0;
        alpha[i] = norm > tol;
        mean[i] = 0;
        if (alpha[i] != 0) valid++, first = i;
    }
    if (m->n == 1) return mean[0] = 1, SY_OK;
    if (valid == 0) return SY_OK;
    for (int i = 0; i < m->n; i++) {
        alpha[i] /= valid;
        mean[i] = alpha[i] * unit[i];
    }
    const double size = sqrt(fmax(0, gram_form(m, mean, mean)));
    if (size < tol) {
        for (int i = 0; i < m->n; i++) mean[i] = i == first ? unit[i] : 0;
    } else {
        scale(mean, m->n, 1 / size);
    }
    const int64_t most = (int64_t)sy_merge_value(m, "max-iter", -1);
    for (int64_t k = 0; k < most && step(m, alpha, unit, tol, mean); k++) {}
    scale(mean, m->n, length);
    return SY_OK;
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    (void)self;
    gram_make(m, t, ((const own *)m->own)->c);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_NONE, .min_inputs = 1, .own = sizeof(own), .begin = begin, .look = look, .sum = sum, .make = make };

static const sy_paper papers[] = {
    { "Riemannian center of mass and mollifier smoothing", "Karcher", "Communications on Pure and Applied Mathematics", "doi:10.1002/cpa.3160300502", 1977, "section 1" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_karcher = {
    .abi = SY_METHOD_ABI, .name = "karcher", .kind = SY_MERGER, .title = "Karcher mean of the models' directions", .papers = papers,
    .about = "The point on the sphere with the least squared angles to all models, tensor by tensor, at their mean length; every model counts the same. One pass.",
    .options = rows, .size = sizeof(karcher), .merger = &merger,
};
