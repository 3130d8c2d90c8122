/* SPDX-License-Identifier: Apache-2.0 */
/* Packs the frozen weights of a model once methods are attached and nobody will train
 * or replace them: products then run about a sixth faster. Weights that keep their form
 * (GGUF blocks, f32) move from the mapped file into large pages, side by side: through the
 * file's small ones decoding reads about half as fast. No second copy stays: what came from
 * the mapped file is forgotten, what was owned is freed. */
#include "model/model.h"

#include "tensor/kernels.h"

extern const sy_storage sy_storage_dense, sy_storage_panels, sy_storage_coded;

/* The tensor of the mapped file that lies there, or NULL. */
static const sy_entry *mapped(const sy_model *m, const sy_tensor *t)
{
    for (int64_t i = 0; t->data && i < sy_checkpoint_count(m->source->tensors); i++) {
        const sy_entry *at = sy_checkpoint_at(m->source->tensors, i);
        if (at->data == t->data) return at;
    }
    return NULL;
}

static void release(sy_model *m, const sy_tensor *t)
{
    for (int64_t i = 0; i < m->n_owned; i++) {
        if (m->owned[i] != t->data) continue;
        syi_pages_free(m->ctx, m->owned[i]);
        m->owned[i] = m->owned[--m->n_owned];
        return;
    }
    const sy_entry *e = mapped(m, t); /* its pages need not stay in memory */
    if (e != NULL) syi_mapped_forget(e->data, e->bytes);
}

bool syi_wrap_reweights(const sy_wrap *w)
{
    return w->method->weight && !(w->method->tile && w->method->tile(w->self, w) == 0);
}

static bool packable(const sy_model *m, syi_engine *e, const sy_site *s)
{
    const sy_weight *w = s->weight;
    for (int k = 0; k < m->n_sites; k++) { /* a table may serve the embedding and the head */
        const sy_site *other = &m->sites[k];
        if (other->weight != w) continue;
        for (int i = 0; i < other->n_wraps; i++)
            if (syi_wrap_reweights(&other->wraps[i])) return false;
    }
    return s->kind == SY_SITE_LINEAR && w->type == &sy_storage_dense && w->param == NULL &&
           w->slot[0].dtype == SY_BF16 && syi_panels_bytes(e, w->out, w->in) > 0;
}

static int64_t room(const sy_tensor *t) { return syi_ceil_div(sy_tensor_bytes(t), 64) * 64; }

static sy_status panels(sy_model *m, syi_engine *e)
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

/* Is the weight of site i (the first that has it) to be moved out of the file? */
static bool moves(const sy_model *m, int i)
{
    const sy_weight *w = m->sites[i].weight;
    if (!w || !w->type || w->param || (w->type != &sy_storage_coded && w->type != &sy_storage_dense)) return false;
    for (int k = 0; k < i; k++)
        if (m->sites[k].weight == w) return false;
    return mapped(m, &w->slot[0]) != NULL;
}

static sy_status gather(sy_model *m)
{
    int64_t total = 0;
    for (int i = 0; i < m->n_sites; i++)
        if (moves(m, i)) total += room(&m->sites[i].weight->slot[0]);
    if (total == 0 || m->plan_only) return SY_OK;
    void *all;
    SYI_TRY(syi_model_pages(m, total, &all));
    char *at = all;
    for (int i = 0; i < m->n_sites; i++) {
        if (!moves(m, i)) continue;
        sy_tensor *t = &m->sites[i].weight->slot[0], old = *t;
        memcpy(at, old.data, (size_t)sy_tensor_bytes(t));
        t->data = at;
        release(m, &old);
        at += room(t);
    }
    return SY_OK;
}

sy_status syi_model_pack(sy_model *m, syi_engine *e)
{
    SYI_TRY(panels(m, e));
    return gather(m);
}
