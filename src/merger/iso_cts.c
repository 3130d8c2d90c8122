/* SPDX-License-Identifier: Apache-2.0 */
/* Iso-CTS: the leading part of the sum's singular space is common; the rest is shared out
 * among the tasks, each with the leading directions of its difference outside the common
 * space. All of them together are made orthonormal and get the mean of their singular
 * values. Other tensors: mean. */
#include "_spectral.h"

#include <math.h>

typedef struct { double lambda, common; } iso_cts;

static const sy_option rows[] = {
    { .name = "lambda", .type = SY_OPT_FLOAT, .offset = offsetof(iso_cts, lambda), .def = "1", .help = "factor of the merged difference (tune it)", .example = "1.2" },
    { .name = "common-space-fraction", .type = SY_OPT_FLOAT, .offset = offsetof(iso_cts, common), .def = "0.8", .min = 0, .max = 1, .help = "share of directions that are common", .example = "0.8" },
    { .name = NULL }
};

/* Directions each task gets besides the common ones. */
static int64_t each(const sy_merge *m)
{
    const int64_t q = syi_min(m->rows, m->cols);
    const int64_t common = (int64_t)(sy_merge_value(m, "common-space-fraction", -1) * (double)q);
    return (int64_t)lround((double)(q - common) / m->n);
}

static sy_status begin(void *self, sy_merge *m)
{
    (void)self;
    m->whole = m->linear && each(m) * m->n <= syi_min(m->rows, m->cols);
    return SY_OK;
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    (void)self;
    spectral_mean(m, t, sy_merge_value(m, "lambda", -1));
}

static sy_status whole(void *self, const sy_merge *m, const float *base, const float *const *in, float *out)
{
    (void)self;
    sy_context *ctx = sy_merge_context(m);
    const int64_t q = syi_min(m->rows, m->cols), r = each(m), common = q - r * m->n;
    double *d = syi_calloc(ctx, (size_t)(m->count + q * (m->rows + m->cols + 1) + common * m->cols), sizeof *d), any = 0;
    if (!d) return spectral_fail(m, SY_E_MEMORY);
    double *ut = d + m->count, *vt = ut + q * m->rows, *s = vt + q * m->cols, *part = s + q;
    double *uc = ut + r * m->n * m->rows, *vc = vt + r * m->n * m->cols; /* tasks first, then the common part */
    for (int i = 0; i < m->n; i++) m->mix->add_delta(1, in[i], base, d, m->count);
    for (int64_t i = 0; i < m->count; i++) any += d[i] * d[i];
    sy_status st = any > 0 ? syi_leading(ctx, m->rows, m->cols, d, common, uc, s + r * m->n, vc) : SY_OK;
    for (int i = 0; i < m->n && st == SY_OK && any > 0 && r > 0; i++) {
        spectral_delta(m, base, in[i], d);
        syi_mul_f64(false, false, common, m->cols, m->rows, 1, uc, d, 0, part); /* d -= Uc Uc^T d */
        syi_mul_f64(true, false, m->rows, m->cols, common, -1, uc, part, 1, d);
        st = syi_leading(ctx, m->rows, m->cols, d, r, ut + i * r * m->rows, s + i * r, vt + i * r * m->cols);
    }
    if (st == SY_OK && any > 0) st = syi_polar(ctx, q, m->rows, ut, NULL);
    if (st == SY_OK && any > 0) st = syi_polar(ctx, q, m->cols, vt, NULL);
    if (st == SY_OK) {
        double mean = 0;
        for (int64_t i = 0; i < q; i++) mean += s[i] / (double)q;
        syi_mul_f64(true, false, m->rows, m->cols, q, mean, ut, vt, 0, d);
        spectral_finish(m, base, sy_merge_value(m, "lambda", -1), d, out);
    }
    syi_free(ctx, d);
    return spectral_fail(m, st);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_REQUIRED, .min_inputs = 1, .begin = begin, .make = make, .whole = whole };

static const sy_paper papers[] = {
    { "No task left behind: isotropic model merging with common and task-specific subspaces", "Marczak et al.", "ICML", "arXiv:2502.04959", 2025, "section 4.2" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_iso_cts = {
    .abi = SY_METHOD_ABI, .name = "iso_cts", .kind = SY_MERGER, .title = "common and task-specific directions with equal singular values", .papers = papers,
    .about = "Iso-C with room kept for directions that only one task has. K + 1 decompositions of every weight matrix.",
    .options = rows, .size = sizeof(iso_cts), .merger = &merger,
};
