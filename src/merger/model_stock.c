/* SPDX-License-Identifier: Apache-2.0 */
/* Model Stock: between the base and the mean of K fine-tuned models, at the place that
 * their angles say: with c the mean cosine between their differences, t = K c / (1 + (K-1) c)
 * and theta = t mean + (1-t) base, per tensor or per row. */
#include "_gram.h"

#include <math.h>

typedef struct { bool filter_wise; } model_stock;

static const sy_option rows[] = {
    { .name = "filter-wise", .type = SY_OPT_BOOL, .offset = offsetof(model_stock, filter_wise), .def = "off", .help = "an angle for each row instead of each tensor", .example = "on" },
    { .name = NULL }
};

typedef struct { double t; bool rows; } own;

static double place(int n, const double *cosine)
{
    double sum = 0;
    for (int i = 0; i < n * (n - 1) / 2; i++) sum += cosine[i];
    const double c = sum / (n * (n - 1) / 2), d = 1 + (n - 1) * c;
    return fabs(d) < 1e-6 ? 0 : n * c / d;
}

static double cosine(double xx, double yy, double xy)
{
    return fmax(-1, fmin(1, xy / fmax(sqrt(xx) * sqrt(yy), 1e-6)));
}

static sy_status begin(void *self, sy_merge *m)
{
    (void)self;
    own *o = m->own;
    o->rows = sy_merge_value(m, "filter-wise", -1) != 0;
    m->passes = !o->rows;
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
    double c[SY_MERGE_INPUTS * SY_MERGE_INPUTS / 2];
    int k = 0;
    for (int i = 0; i < m->n; i++)
        for (int j = i + 1; j < m->n; j++) c[k++] = cosine(gram_at(m, i, i), gram_at(m, j, j), gram_at(m, i, j));
    ((own *)m->own)->t = place(m->n, c);
    return SY_OK;
}

static void between(const sy_merge *m, const sy_tile *t, int64_t at, int64_t n, double where)
{
    for (int64_t k = 0; k < n; k++) t->wide[0][k] = 0;
    for (int i = 0; i < m->n; i++) m->mix->add_delta(1.0 / m->n, t->in[i] + at, t->base + at, t->wide[0], n);
    m->mix->finish(where, t->wide[0], t->base + at, t->out + at, n);
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    (void)self;
    const own *o = m->own;
    if (!o->rows) {
        between(m, t, 0, t->n, o->t);
        return;
    }
    for (int64_t r = 0; r < t->rows; r++) {
        double c[SY_MERGE_INPUTS * SY_MERGE_INPUTS / 2];
        const int64_t at = r * m->cols;
        int k = 0;
        for (int i = 0; i < m->n; i++)
            for (int j = i + 1; j < m->n; j++) {
                double d[3] = { 0 };
                m->mix->dots(t->in[i] + at, t->in[j] + at, t->base + at, d, m->cols);
                c[k++] = cosine(d[0], d[1], d[2]);
            }
        between(m, t, at, m->cols, place(m->n, c));
    }
}

static const sy_merger merger = { .base = SY_MERGE_BASE_REQUIRED, .min_inputs = 2, .own = sizeof(own), .begin = begin, .look = look, .sum = sum, .make = make };

static const sy_paper papers[] = {
    { "Model Stock: all we need is just a few fine-tuned models", "Jang, Yun and Han", "ECCV", "arXiv:2403.19522", 2024, "section 4" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_model_stock = {
    .abi = SY_METHOD_ABI, .name = "model_stock", .kind = SY_MERGER, .title = "between base and mean, as far as the models' angles say", .papers = papers,
    .about = "Fine-tuned models lie on a thin shell; the point of their span nearest to its centre follows from the angles between them. No weights to choose. Two models and a base at least.",
    .options = rows, .size = sizeof(model_stock), .merger = &merger,
};
