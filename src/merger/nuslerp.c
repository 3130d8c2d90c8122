/* SPDX-License-Identifier: Apache-2.0 */
/* Spherical interpolation of two models by their weights (t = w2 / (w1 + w2)), of their
 * differences where a base is given: each tensor as one vector, or row by row, or column
 * by column. */
#include "steelyard/merge.h"
#include "tensor/mix.h"

#include <math.h>

typedef struct { double weight; bool flatten, row_wise; } nuslerp;

static const sy_option rows[] = {
    { .name = "weight", .type = SY_OPT_FLOAT, .offset = offsetof(nuslerp, weight), .flags = SY_OPT_PER_MODEL, .help = "share of each of the two models", .example = "0.5" },
    { .name = "nuslerp-flatten", .type = SY_OPT_BOOL, .offset = offsetof(nuslerp, flatten), .def = "on", .help = "a tensor is one vector; off: each row is one", .example = "off" },
    { .name = "nuslerp-row-wise", .type = SY_OPT_BOOL, .offset = offsetof(nuslerp, row_wise), .def = "off", .help = "with flatten off: each column is a vector instead", .example = "on" },
    { .name = NULL }
};

typedef enum { FLAT, ROWS, COLUMNS } way;
typedef struct { double t, a, b; way how; } own;

static sy_status begin(void *self, sy_merge *m)
{
    (void)self;
    own *o = m->own;
    const double w = sy_merge_value(m, "weight", 0), v = sy_merge_value(m, "weight", 1);
    o->t = fabs(w + v) < 1e-6 ? 0.5 : v / (w + v);
    o->how = sy_merge_value(m, "nuslerp-flatten", -1) != 0 || m->rank < 2 ? FLAT : sy_merge_value(m, "nuslerp-row-wise", -1) != 0 ? COLUMNS : ROWS;
    if (o->how == COLUMNS && m->rank > 2)
        return sy_merge_fail(m, SY_E_UNSUPPORTED, "nuslerp_row_wise works on matrices; this tensor has %d dimensions", m->rank);
    m->passes = o->how != ROWS;
    m->sums = o->how == COLUMNS ? 3 * (int)m->cols : 3;
    return SY_OK;
}

static void look(void *self, const sy_merge *m, int pass, sy_tile *t)
{
    (void)self, (void)pass;
    const own *o = m->own;
    if (o->how == FLAT) {
        m->mix->dots(t->in[0], t->in[1], t->base, t->sum, t->n);
        return;
    }
    for (int64_t r = 0; r < t->rows; r++)
        for (int64_t c = 0; c < m->cols; c++) {
            const int64_t k = r * m->cols + c;
            const double b = t->base ? (double)t->base[k] : 0, x = (double)t->in[0][k] - b, y = (double)t->in[1][k] - b;
            t->sum[3 * c] += x * x;
            t->sum[3 * c + 1] += y * y;
            t->sum[3 * c + 2] += x * y;
        }
}

/* Factors of the two from |x|^2, |y|^2, x.y */
static void factors(double t, const double *d, double *a, double *b)
{
    const double c = fmax(-1, fmin(1, d[2] / (fmax(sqrt(d[0]), 1e-7) * fmax(sqrt(d[1]), 1e-7))));
    *a = 1 - t;
    *b = t;
    if (1 - c * c <= 1e-16) return;
    const double phi = acos(c);
    *a = sin((1 - t) * phi) / sin(phi);
    *b = sin(t * phi) / sin(phi);
}

static sy_status sum(void *self, sy_merge *m, int pass)
{
    (void)self, (void)pass;
    own *o = m->own;
    if (o->how == FLAT) factors(o->t, m->total, &o->a, &o->b);
    for (int64_t c = 0; o->how == COLUMNS && c < m->cols; c++) {
        double a, b;
        factors(o->t, m->total + 3 * c, &a, &b);
        m->total[3 * c] = a;
        m->total[3 * c + 1] = b;
    }
    return SY_OK;
}

static void blend(const sy_merge *m, const sy_tile *t, int64_t at, int64_t n, double a, double b)
{
    if (t->base) {
        for (int64_t k = 0; k < n; k++) t->wide[0][k] = 0;
        m->mix->add_delta(a, t->in[0] + at, t->base + at, t->wide[0], n);
        m->mix->add_delta(b, t->in[1] + at, t->base + at, t->wide[0], n);
        m->mix->finish(1, t->wide[0], t->base + at, t->out + at, n);
    } else {
        m->mix->pair(a, t->in[0] + at, b, t->in[1] + at, t->out + at, n);
    }
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    (void)self;
    const own *o = m->own;
    if (o->how == FLAT) {
        blend(m, t, 0, t->n, o->a, o->b);
        return;
    }
    for (int64_t r = 0; r < t->rows; r++) {
        const int64_t at = r * m->cols;
        if (o->how == ROWS) {
            double d[3] = { 0 }, a, b;
            m->mix->dots(t->in[0] + at, t->in[1] + at, t->base ? t->base + at : NULL, d, m->cols);
            factors(o->t, d, &a, &b);
            blend(m, t, at, m->cols, a, b);
            continue;
        }
        for (int64_t c = 0; c < m->cols; c++) {
            const double z = t->base ? (double)t->base[at + c] : 0;
            t->out[at + c] = (float)(z + m->total[3 * c] * ((double)t->in[0][at + c] - z) + m->total[3 * c + 1] * ((double)t->in[1][at + c] - z));
        }
    }
}

static const sy_merger merger = { .base = SY_MERGE_BASE_OPTIONAL, .min_inputs = 2, .max_inputs = 2, .own = sizeof(own), .begin = begin, .look = look, .sum = sum, .make = make };

static const sy_paper papers[] = {
    { "Animating rotation with quaternion curves", "Shoemake", "SIGGRAPH", "doi:10.1145/325165.325242", 1985, "section 3.3" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_nuslerp = {
    .abi = SY_METHOD_ABI, .name = "nuslerp", .kind = SY_MERGER, .title = "spherical interpolation by weights, of differences if a base is given", .papers = papers,
    .about = "slerp of two models with t from their weights; with a third model as base, their differences from it are interpolated. Tensors, rows or columns are the vectors.",
    .options = rows, .size = sizeof(nuslerp), .merger = &merger,
};
