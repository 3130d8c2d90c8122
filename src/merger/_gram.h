/* SPDX-License-Identifier: Apache-2.0 */
/* Inner products of the inputs (of their differences from the base, if there is one): what
 * the spherical means are made from, since all that they do stays in the span of their
 * inputs. */
#ifndef MERGER_GRAM_H
#define MERGER_GRAM_H

#include "steelyard/merge.h"
#include "tensor/mix.h"

/* sums[i * n + j], i <= j. */
static inline void gram_look(const sy_merge *m, sy_tile *t)
{
    for (int i = 0; i < m->n; i++)
        for (int j = m->n > 1 ? i + 1 : i; j < m->n; j++) {
            double s[3] = { 0 };
            m->mix->dots(t->in[i], t->in[j], t->base, s, t->n);
            if (j == i + 1 || m->n == 1) t->sum[i * m->n + i] = s[0];
            if (j == m->n - 1 && i == m->n - 2) t->sum[j * m->n + j] = s[1];
            if (j != i) t->sum[i * m->n + j] = s[2];
        }
}

static inline double gram_at(const sy_merge *m, int i, int j)
{
    return m->total[i < j ? i * m->n + j : j * m->n + i];
}

/* a^T G b */
static inline double gram_form(const sy_merge *m, const double *a, const double *b)
{
    double s = 0;
    for (int i = 0; i < m->n; i++)
        for (int j = 0; j < m->n; j++) s += a[i] * b[j] * gram_at(m, i, j);
    return s;
}

/* out = base + sum c_i (x_i - base), or sum c_i x_i */
static inline void gram_make(const sy_merge *m, sy_tile *t, const double *c)
{
    for (int64_t k = 0; k < t->n; k++) t->wide[0][k] = 0;
    for (int i = 0; i < m->n; i++) {
        if (t->base) m->mix->add_delta(c[i], t->in[i], t->base, t->wide[0], t->n);
        else m->mix->add(c[i], t->in[i], t->wide[0], t->n);
    }
    m->mix->finish(1, t->wide[0], t->base, t->out, t->n);
}

#endif
