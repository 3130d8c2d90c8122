/* SPDX-License-Identifier: Apache-2.0 */
/* Packs the frozen weights of a model once methods are attached and nobody will train
 * or replace them: products then run about a sixth faster. No second copy stays: what
 * came from the mapped file is forgotten, what was owned is freed. */
#include "model/model.h"

#include "tensor/kernels.h"

extern const sy_storage sy_storage_dense, sy_storage_panels;

static void release(sy_model *m, const sy_tensor *t)
{
    for (int64_t i = 0; i < m->n_owned; i++) {
        if (m->owned[i] != t->data) continue;
        syi_pages_free(m->ctx, m->owned[i]);
        m->owned[i] = m->owned[--m->n_owned];
        return;
    }
    const sy_entry *e = NULL; /* mapped? then its pages need not stay in memory */
    for (int64_t i = 0; e == NULL && i < sy_checkpoint_count(m->source->tensors); i++) {
        const sy_entry *at = sy_checkpoint_at(m->source->tensors, i);
        if (at->data == t->data) e = at;
    }
    if (e != NULL) syi_mapped_forget(e->data, e->bytes);
}

static bool packable(const sy_model *m, syi_engine *e, const sy_site *s)
{
    const sy_weight *w = s->weight;
    for (int k = 0; k < m->n_sites; k++) { /* a table may serve the embedding and the head */
        const sy_site *other = &m->sites[k];
        if (other->weight != w) continue;
        for (int i = 0; i < other->n_wraps; i++)
            if (other->wraps[i].method->weight) return false; /* wants rows of the weight at each step */
    }
    return s->kind == SY_SITE_LINEAR && w->type == &sy_storage_dense && w->param == NULL &&
           w->slot[0].dtype == SY_BF16 && syi_panels_bytes(e, w->out, w->in) > 0;
}

static int64_t room(const sy_tensor *t) { return syi_ceil_div(sy_tensor_bytes(t), 64) * 64; }

sy_status syi_model_pack(sy_model *m, syi_engine *e)
{
    if (m->dtype != SY_BF16) return SY_OK;
    /* One buffer for all: pages are large, weights are not. */
    int64_t total = 0;
    for (int i = 0; i < m->n_sites; i++)
        if (packable(m, e, &m->sites[i])) total += room(&m->sites[i].weight->slot[0]);
    if (total == 0) return SY_OK;
    void *all;
    SYI_TRY(syi_model_pages(m, total, &all));
    char *at = all;
    for (int i = 0; i < m->n_sites; i++) {
        sy_weight *w = m->sites[i].weight;
        if (!packable(m, e, &m->sites[i])) continue;
        sy_tensor t = w->slot[0];
        t.data = at;
        if (at != NULL) {
            SYI_TRY(syi_panels_pack(e, w->out, w->in, w->slot[0].data, t.data));
            release(m, &w->slot[0]);
            at += room(&t);
        }
        w->slot[0] = t;
        w->type = &sy_storage_panels;
    }
    return SY_OK;
}
