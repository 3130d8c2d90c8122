/* SPDX-License-Identifier: Apache-2.0 */
/* Making, reading and measuring weights of any storage. */
#include "storage/weight.h"

#include "base/registry.h"

sy_status syi_weight_new(sy_context *ctx, const sy_storage *type, int64_t out, int64_t in, sy_weight **w)
{
    *w = syi_calloc(ctx, 1, sizeof **w);
    if (!*w) return SY_E_MEMORY;
    (*w)->type = type;
    (*w)->out = out;
    (*w)->in = in;
    return SY_OK;
}

sy_status syi_weight_slot(sy_context *ctx, sy_weight *w, int slot, sy_dtype dtype, int rank, const int64_t *dim)
{
    sy_tensor *t = &w->slot[slot];
    *t = (sy_tensor){.dtype = dtype, .rank = rank};
    for (int i = 0; i < rank; i++) t->dim[i] = dim[i];
    t->data = syi_calloc(ctx, (size_t)syi_max(1, sy_tensor_bytes(t)), 1);
    return t->data ? SY_OK : SY_E_MEMORY;
}

void syi_weight_free(sy_context *ctx, sy_weight *w)
{
    if (!w) return;
    if (w->type->release) w->type->release(ctx, w);
    for (int i = 0; i < SY_MAX_WEIGHT_SLOTS; i++) syi_free(ctx, w->slot[i].data);
    syi_free(ctx, w);
}

int64_t syi_weight_bytes(const sy_weight *w)
{
    int64_t bytes = 0;
    for (int i = 0; i < SY_MAX_WEIGHT_SLOTS; i++)
        if (w->slot[i].data) bytes += sy_tensor_bytes(&w->slot[i]);
    return bytes;
}

int syi_storage_slots(const sy_storage *s)
{
    int n = 0;
    while (s->suffixes && s->suffixes[n] && n < SY_MAX_WEIGHT_SLOTS) n++;
    return n;
}

static const sy_entry *slot_entry(const sy_checkpoint *tensors, const char *module, const char *suffix)
{
    char name[512];
    const int n = snprintf(name, sizeof name, "%s%s", module, suffix);
    return n > 0 && n < (int)sizeof name ? sy_checkpoint_find(tensors, name) : NULL;
}

const sy_storage *syi_storage_find(const sy_checkpoint *tensors, const char *module)
{
    for (int i = 0; syi_storages[i]; i++)
        if (syi_storage_slots(syi_storages[i]) > 0 && slot_entry(tensors, module, syi_storages[i]->suffixes[0])) return syi_storages[i];
    return NULL;
}

sy_status syi_weight_load(sy_context *ctx, const sy_checkpoint *tensors, const char *module, const sy_storage *type, int64_t out, int64_t in,
                          sy_status (*copy)(void *self, int64_t bytes, void **out), void *self, sy_weight *w, int64_t *used)
{
    *w = (sy_weight){.type = type, .out = out, .in = in};
    *used = 0;
    for (int i = 0; i < syi_storage_slots(type); i++) {
        const sy_entry *e = slot_entry(tensors, module, type->suffixes[i]);
        if (!e) continue;
        sy_tensor *t = &w->slot[i];
        *t = (sy_tensor){.dtype = e->dtype, .rank = e->rank, .data = (void *)(uintptr_t)e->data};
        memcpy(t->dim, e->dim, sizeof t->dim);
        (*used)++;
        const int size = sy_dtype_block_bytes(e->dtype);
        if (size > 1 && (uintptr_t)e->data % (size_t)size != 0) {
            SYI_TRY(copy(self, e->bytes, &t->data));
            if (t->data) memcpy(t->data, e->data, (size_t)e->bytes);
        }
    }
    (void)ctx;
    return SY_OK;
}
