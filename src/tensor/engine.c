/* SPDX-License-Identifier: Apache-2.0 */
/* The engine: which CPU path, oneDNN's objects, working memory. One per run. */
#include "tensor/engine.h"

sy_status syi_engine_new(sy_context *ctx, syi_engine **out)
{
    *out = NULL;
    syi_engine *e = syi_calloc(ctx, 1, sizeof *e);
    if (e == NULL) return SY_E_MEMORY;
    e->ctx = ctx;
    bool forced = false;
    sy_status s = syi_cpu_pick(ctx, &e->cpu, &forced);
    if (s == SY_OK) {
        (void)syi_omp(ctx); /* oneDNN sizes its pool when it starts */
        s = syi_products_new(ctx, e->cpu->isa, forced, &e->products);
    }
    if (s != SY_OK) {
        syi_engine_free(e);
        return s;
    }
    *out = e;
    return SY_OK;
}

void syi_engine_free(syi_engine *e)
{
    if (e == NULL) return;
    syi_products_free(e->products);
    for (int i = 0; i < SYI_WORK_COUNT; i++) syi_free(e->ctx, e->work[i]);
    syi_free(e->ctx, e);
}

sy_context *syi_engine_context(const syi_engine *e)
{
    return e->ctx;
}

const char *syi_engine_cpu(const syi_engine *e)
{
    return e->cpu->name;
}

int64_t syi_engine_bytes(const syi_engine *e)
{
    int64_t sum = 0;
    for (int i = 0; i < SYI_WORK_COUNT; i++) sum += e->work_bytes[i];
    return sum;
}

void *syi_engine_work(syi_engine *e, int slot, int64_t bytes)
{
    if (e->work_bytes[slot] < bytes || e->work[slot] == NULL) {
        syi_free(e->ctx, e->work[slot]);
        e->work[slot] = syi_alloc(e->ctx, (size_t)bytes);
        e->work_bytes[slot] = e->work[slot] != NULL ? bytes : 0;
    }
    return e->work[slot];
}
