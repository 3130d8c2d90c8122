/* SPDX-License-Identifier: Apache-2.0 */
/* A team of threads that stays awake: for work that comes in hundreds of small pieces one
 * after the other (a token takes about ten products a block, of some microseconds each),
 * where opening a parallel region for each costs as much as the work.
 *
 * syi_team opens one region. The caller's function runs in its first thread, the others
 * watch a counter; syi_share hands them work by raising it and waits until all are done. */
#include "tensor/pieces.h"

#include <sched.h>
#include <stdatomic.h>

struct syi_team {
    _Alignas(64) atomic_uint posted; /* works handed out so far */
    _Alignas(64) atomic_int left;    /* threads that still work */
    _Alignas(64) atomic_llong taken; /* parts that somebody has */
    _Alignas(64) int threads;
    bool end;
    syi_share_fn *fn;
    void *self;
    int64_t parts;
};

enum { SPINS = 1 << 14 }; /* some ten microseconds of watching before others get the core */

static void rest(int *spins)
{
    if (++*spins > SPINS) (void)sched_yield();
}

/* Parts are taken some at a time, so that who began late or reads slowly takes fewer; but
 * not too few, since memory is fast only to who reads on where he was. */
static void own_share(syi_team *t, int thread)
{
    const int64_t parts = t->parts, some = syi_max(parts / (t->threads * 8), syi_min(syi_ceil_div(parts, t->threads), 24));
    for (;;) {
        const int64_t first = atomic_fetch_add_explicit(&t->taken, some, memory_order_relaxed), end = syi_min(parts, first + some);
        for (int64_t i = first; i < end; i++) t->fn(t->self, i, thread);
        if (end >= parts) return;
    }
}

static void help(syi_team *t, int thread)
{
    unsigned seen = 0;
    for (;;) {
        int spins = 0;
        while (atomic_load_explicit(&t->posted, memory_order_acquire) == seen) rest(&spins);
        seen++;
        if (t->end) return;
        own_share(t, thread);
        atomic_fetch_sub_explicit(&t->left, 1, memory_order_release);
    }
}

sy_status syi_team_run(syi_engine *e, sy_status (*fn)(void *self), void *self)
{
    const int threads = syi_omp(e->ctx);
    if (threads == 1 || e->team) return fn(self);
    syi_team team = {.threads = threads};
    sy_status s = SY_OK;
#pragma omp parallel num_threads(threads)
    {
        const int thread = omp_get_thread_num(), here = omp_get_num_threads();
        if (thread == 0) {
            team.threads = here; /* fewer than asked for: the system's limit */
            e->team = here > 1 ? &team : NULL;
            s = fn(self);
            e->team = NULL;
            team.end = true;
            atomic_fetch_add_explicit(&team.posted, 1, memory_order_release);
        } else {
            help(&team, thread);
        }
    }
    return s;
}

void syi_share(syi_engine *e, int64_t parts, syi_share_fn *fn, void *self)
{
    syi_team *t = e->team;
    if (!t || parts < 2) {
        const int threads = (int)syi_min(syi_omp(e->ctx), parts);
        if (t || threads < 2) {
            for (int64_t i = 0; i < parts; i++) fn(self, i, 0);
            return;
        }
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t i = 0; i < parts; i++) fn(self, i, omp_get_thread_num());
        return;
    }
    t->fn = fn;
    t->self = self;
    t->parts = parts;
    atomic_store_explicit(&t->taken, 0, memory_order_relaxed);
    atomic_store_explicit(&t->left, t->threads - 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&t->posted, 1, memory_order_release);
    own_share(t, 0);
    int spins = 0;
    while (atomic_load_explicit(&t->left, memory_order_acquire) > 0) rest(&spins);
}
