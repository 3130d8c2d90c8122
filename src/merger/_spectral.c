/* SPDX-License-Identifier: Apache-2.0 */
/* See _spectral.h. */
#include "_spectral.h"

void spectral_delta(const sy_merge *m, const float *base, const float *in, double *d)
{
    for (int64_t i = 0; i < m->count; i++) d[i] = (double)in[i] - (double)base[i];
}

void spectral_finish(const sy_merge *m, const float *base, double scale, const double *d, float *out)
{
    m->mix->finish(scale, d, base, out, m->count);
}

void spectral_mean(const sy_merge *m, sy_tile *t, double scale)
{
    for (int64_t i = 0; i < t->n; i++) t->wide[0][i] = 0;
    for (int i = 0; i < m->n; i++) m->mix->add_delta(1, t->in[i], t->base, t->wide[0], t->n);
    m->mix->finish(scale / m->n, t->wide[0], t->base, t->out, t->n);
}

sy_status spectral_fail(const sy_merge *m, sy_status st)
{
    if (st == SY_OK) return SY_OK;
    if (st == SY_E_MEMORY) return sy_merge_fail(m, st, "no memory for the decomposition of a %lld x %lld matrix", (long long)m->rows, (long long)m->cols);
    return sy_merge_fail(m, st, "the decomposition of a %lld x %lld matrix failed: it holds numbers that are not finite, or did not converge", (long long)m->rows, (long long)m->cols);
}
