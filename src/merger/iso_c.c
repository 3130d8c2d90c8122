/* SPDX-License-Identifier: Apache-2.0 */
/* Iso-C: the sum of the differences of a weight matrix gets all its singular values
 * replaced by their mean: s U V^T is added to the base. Other tensors: mean. */
#include "_spectral.h"

typedef struct { double lambda; } iso_c;

static const sy_option rows[] = {
    { .name = "lambda", .type = SY_OPT_FLOAT, .offset = offsetof(iso_c, lambda), .def = "1", .help = "factor of the merged difference (tune it)", .example = "1.2" },
    { .name = NULL }
};

static sy_status begin(void *self, sy_merge *m)
{
    (void)self;
    m->whole = m->linear;
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
    double *d = syi_calloc(ctx, (size_t)m->count, sizeof *d), nuclear = 0, any = 0;
    if (!d) return spectral_fail(m, SY_E_MEMORY);
    for (int i = 0; i < m->n; i++) m->mix->add_delta(1, in[i], base, d, m->count);
    for (int64_t i = 0; i < m->count; i++) any += d[i] * d[i];
    sy_status st = any > 0 ? syi_polar(ctx, m->rows, m->cols, d, &nuclear) : SY_OK;
    if (st == SY_OK) spectral_finish(m, base, sy_merge_value(m, "lambda", -1) * nuclear / (double)syi_min(m->rows, m->cols), d, out);
    syi_free(ctx, d);
    return spectral_fail(m, st);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_REQUIRED, .min_inputs = 1, .begin = begin, .make = make, .whole = whole };

static const sy_paper papers[] = {
    { "No task left behind: isotropic model merging with common and task-specific subspaces", "Marczak et al.", "ICML", "arXiv:2502.04959", 2025, "section 4.1" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_iso_c = {
    .abi = SY_METHOD_ABI, .name = "iso_c", .kind = SY_MERGER, .title = "sum of differences with all singular values made equal", .papers = papers,
    .about = "What few directions dominate after adding up the tasks is spread evenly over all of them. One decomposition of every weight matrix.",
    .options = rows, .size = sizeof(iso_c), .merger = &merger,
};
