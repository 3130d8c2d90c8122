/* SPDX-License-Identifier: Apache-2.0 */
/* Reinforced agent merging: where only one model moved away from the base its move is taken
 * whole (times a factor of that model), where several did their moves are averaged. */
#ifndef MERGER_RAM_H
#define MERGER_RAM_H

#include "steelyard/merge.h"

#include <math.h>

/* How many models moved number k by more than epsilon; *only: one of them. */
static inline int ram_movers(const sy_merge *m, const sy_tile *t, int64_t k, float epsilon, int *only)
{
    int n = 0;
    for (int i = 0; i < m->n; i++)
        if (fabsf(t->in[i][k] - t->base[k]) > epsilon) n++, *only = i;
    return n;
}

/* factor[i]: of what only model i moved. */
static inline void ram_make(const sy_merge *m, sy_tile *t, float epsilon, const double *factor)
{
    for (int64_t k = 0; k < t->n; k++) {
        int only = 0;
        const int n = ram_movers(m, t, k, epsilon, &only);
        const double base = (double)t->base[k];
        double sum = 0;
        for (int i = 0; i < m->n && n > 1; i++)
            if (fabsf(t->in[i][k] - t->base[k]) > epsilon) sum += ((double)t->in[i][k] - base) / n;
        if (n == 1) sum = factor[only] * ((double)t->in[only][k] - base);
        t->out[k] = (float)(base + sum);
    }
}

#define RAM_PAPERS                                                                                                                            \
    static const sy_paper papers[] = {                                                                                                        \
        { "Behavior Knowledge Merge in Reinforced Agentic Models", "Yuan et al.", "", "arXiv:2601.13572", 2026, "method: RAM and RAM+" },      \
        { NULL, NULL, NULL, NULL, 0, NULL }                                                                                                   \
    }

#endif
