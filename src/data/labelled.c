/* SPDX-License-Identifier: Apache-2.0 */
/* Which item comes when: the part that is held out, the order of an epoch. */
#include "data/data.h"

#include "base/rng.h"

#include <stdlib.h>

sy_status syi_labelled_init(sy_context *ctx, int64_t all, const sy_dataset_options *o, syi_labelled *l)
{
    *l = (syi_labelled){.ctx = ctx, .shuffle = o->shuffle, .seed = o->seed, .order_of = {-1, -1}};
    if (o->max_documents > 0) all = syi_min(all, o->max_documents);
    int64_t aside = o->holdout > 0 ? syi_max(1, (int64_t)((double)all * o->holdout + 0.5)) : 0;
    int64_t *order = syi_alloc(ctx, (size_t)syi_max(1, all) * sizeof *order);
    l->item = syi_alloc(ctx, (size_t)syi_max(1, all) * sizeof *l->item);
    for (int i = 0; i < 2; i++) l->order[i] = syi_alloc(ctx, (size_t)syi_max(1, all) * sizeof *order);
    if (order == NULL || l->item == NULL || l->order[0] == NULL || l->order[1] == NULL) {
        syi_free(ctx, order);
        return SY_E_MEMORY;
    }
    syi_permutation(syi_key(o->seed, "holdout", "", 0), all, order);
    for (int64_t i = 0; i < all; i++) l->item[i] = 0;
    for (int64_t i = 0; i < aside && i < all; i++) l->item[order[i]] = 1;
    for (int64_t i = 0; i < all; i++) order[i] = l->item[i];
    for (int64_t i = 0; i < all; i++)
        if ((order[i] != 0) == (o->heldout && aside > 0)) l->item[l->n++] = i;
    syi_free(ctx, order);
    if (l->n > 0) return SY_OK;
    return syi_fail(ctx, SY_E_INPUT, "the data set has %lld items, of which none is left%s", (long long)all, aside > 0 ? " beside what is held out" : "");
}

void syi_labelled_free(syi_labelled *l)
{
    if (l->ctx == NULL) return;
    syi_free(l->ctx, l->item);
    syi_free(l->ctx, l->order[0]);
    syi_free(l->ctx, l->order[1]);
}

sy_status syi_labelled_at(syi_labelled *l, int64_t row, int64_t *item)
{
    const int64_t epoch = row / l->n;
    int64_t i = row % l->n;
    if (l->shuffle) {
        const int k = (int)(epoch % 2);
        if (l->order_of[k] != epoch) syi_permutation(syi_key(l->seed, "shuffle", "", epoch), l->n, l->order[k]);
        l->order_of[k] = epoch;
        i = l->order[k][i];
    }
    *item = l->item[i];
    return SY_OK;
}

int64_t syi_class_of(sy_context *ctx, const char *text, const json_t *labels, int64_t classes, const char *where)
{
    const json_t *v = json_object_get(labels, text);
    char *end;
    int64_t k = json_is_integer(v) ? json_integer_value(v) : strtoll(text, &end, 10);
    const bool number = json_is_integer(v) || (end != text && *end == '\0');
    if (number && k >= 0 && k < classes) return k;
    if (number) syi_fail(ctx, SY_E_INPUT, "%s: class %s; the model tells %lld apart, numbered from 0", where, text, (long long)classes);
    else syi_fail(ctx, SY_E_INPUT, "%s: class \"%s\" is neither a number nor in the model's label2id", where, text);
    return -1;
}
