/* SPDX-License-Identifier: Apache-2.0 */
/* TSV-Merge: of each difference's weight matrix the leading 1/K of its singular triplets is
 * kept; the singular vectors of all K, side by side, are made orthonormal (nearest such
 * matrix), which takes the interference out; U diag(S) V^T is added to the base. Columns
 * that the reference pads with zeros do not exist here. Other tensors: mean. */
#include "_spectral.h"

typedef struct { double alpha; } tsv;

static const sy_option rows[] = {
    { .name = "alpha", .type = SY_OPT_FLOAT, .offset = offsetof(tsv, alpha), .def = "1", .help = "factor of the merged difference", .example = "0.8" },
    { .name = NULL }
};

static sy_status begin(void *self, sy_merge *m)
{
    (void)self;
    m->whole = m->linear && m->n > 1 && syi_min(m->rows, m->cols) >= m->n;
    return SY_OK;
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    (void)self;
    spectral_mean(m, t, sy_merge_value(m, "alpha", -1));
}

static sy_status whole(void *self, const sy_merge *m, const float *base, const float *const *in, float *out)
{
    (void)self;
    sy_context *ctx = sy_merge_context(m);
    const int64_t r = syi_min(m->rows, m->cols) / m->n, k = r * m->n;
    double *d = syi_alloc(ctx, (size_t)(m->count + k * (m->rows + m->cols + 1)) * sizeof *d);
    if (!d) return spectral_fail(m, SY_E_MEMORY);
    double *ut = d + m->count, *vt = ut + k * m->rows, *s = vt + k * m->cols;
    sy_status st = SY_OK;
    for (int i = 0; i < m->n && st == SY_OK; i++) {
        spectral_delta(m, base, in[i], d);
        double any = 0;
        for (int64_t j = 0; j < m->count; j++) any += d[j] * d[j];
        if (any == 0) { /* nothing changed here: nothing to keep */
            memset(ut + i * r * m->rows, 0, (size_t)(r * m->rows) * sizeof *ut);
            memset(vt + i * r * m->cols, 0, (size_t)(r * m->cols) * sizeof *vt);
            memset(s + i * r, 0, (size_t)r * sizeof *s);
            continue;
        }
        st = syi_leading(ctx, m->rows, m->cols, d, r, ut + i * r * m->rows, s + i * r, vt + i * r * m->cols);
    }
    if (st == SY_OK) st = syi_polar(ctx, k, m->rows, ut, NULL);
    if (st == SY_OK) st = syi_polar(ctx, k, m->cols, vt, NULL);
    for (int64_t i = 0; i < k && st == SY_OK; i++)
        for (int64_t j = 0; j < m->cols; j++) vt[i * m->cols + j] *= s[i];
    if (st == SY_OK) {
        syi_mul_f64(true, false, m->rows, m->cols, k, 1, ut, vt, 0, d);
        spectral_finish(m, base, sy_merge_value(m, "alpha", -1), d, out);
    }
    syi_free(ctx, d);
    return spectral_fail(m, st);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_REQUIRED, .min_inputs = 1, .begin = begin, .make = make, .whole = whole };

static const sy_paper papers[] = {
    { "Task Singular Vectors: reducing task interference in model merging", "Gargiulo et al.", "CVPR", "arXiv:2412.00081", 2025, "section 4" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_tsv = {
    .abi = SY_METHOD_ABI, .name = "tsv", .kind = SY_MERGER, .title = "leading singular vectors of each task, made orthogonal to each other's", .papers = papers,
    .about = "Keeps the leading singular triplets of each difference, as many of each as fit side by side, and makes them orthonormal together. A decomposition of every weight matrix of every model.",
    .options = rows, .size = sizeof(tsv), .merger = &merger,
};
