/* SPDX-License-Identifier: Apache-2.0 */
/* Hidden states of many windows, moved through a model piece by piece. Weights stay in the
 * mapped file and leave memory when their block is done; hidden states beyond the memory
 * limit lie in a file that has no name, where the system may put them out of memory. */
#include "run/calibrate.h"

#include "graph/ops.h"
#include "run/train.h"
#include "storage/weight.h"


enum { FORWARD_TOKENS = 1024 };

/* -- memory for hidden states -------------------------------------------------------------- */

static sy_status make_states(sy_calibration *c, const syi_calibration_options *o)
{
    const int64_t row = c->seq * c->hidden * sy_dtype_block_bytes(c->model->dtype);
    int64_t total = 0;
    for (int s = 0; s < 2; s++)
        for (int k = 0; k < 2; k++) total += c->runs[s][k] ? c->windows[k] * row : 0;
    /* A quarter of the limit may be hidden states; the rest is a block's weights and work. */
    const bool out = o->memory_limit > 0 && total > o->memory_limit / 4;
    for (int s = 0; s < 2; s++)
        for (int k = 0; k < 2; k++) {
            if (!c->runs[s][k] || c->windows[k] == 0) continue;
            c->bytes[s][k] = c->windows[k] * row;
            c->spilled[s][k] = out;
            if (out) {
                SYI_TRY(syi_spill(c->ctx, o->spill, c->bytes[s][k], (void **)&c->at[s][k]));
            } else {
                c->at[s][k] = syi_pages(c->ctx, (size_t)c->bytes[s][k]);
                if (!c->at[s][k]) return SY_E_MEMORY;
            }
        }
    return SY_OK;
}

/* -- opening ----------------------------------------------------------------------------------- */

static sy_status first_states(sy_calibration *c)
{
    for (int s = 0; s < 2; s++)
        for (int k = 0; k < 2; k++)
            if (c->at[s][k]) SYI_TRY(syi_calibration_pass(c, &(syi_piece){.set = k, .stream = s, .whose = s, .block = -1, .push = true}));
    return SY_OK;
}

sy_status syi_calibration_open(sy_run *run, sy_dataset *const set[2], const int64_t windows[2], int64_t seq, const syi_calibration_options *o, sy_calibration **out)
{
    *out = NULL;
    sy_context *ctx = run->ctx;
    sy_model *m = run->model;
    if (!m->arch->piece)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "the %s architecture cannot be run block by block, which calibration needs", m->arch->name);
    sy_calibration *c = syi_calloc(ctx, 1, sizeof *c);
    if (!c) return SY_E_MEMORY;
    *c = (sy_calibration){.ctx = ctx, .run = run, .model = m, .seq = seq, .hidden = m->hidden, .block = -1, .rows = syi_max(1, FORWARD_TOKENS / seq)};
    memcpy(c->runs, o->runs, sizeof c->runs);
    for (int k = 0; k < 2; k++) {
        c->set[k] = set[k];
        c->windows[k] = set[k] ? windows[k] : 0;
    }
    sy_status st = syi_model_positions(m, seq);
    if (st == SY_OK) st = syi_heap_new(ctx, &c->heap);
    if (st == SY_OK) st = syi_graph_new(ctx, run->engine, c->heap, &c->graph);
    c->pair = syi_calloc(ctx, (size_t)m->n_sites + 1, sizeof *c->pair);
    if (st == SY_OK && !c->pair) st = SY_E_MEMORY;
    if (st == SY_OK) st = make_states(c, o);
    if (st == SY_OK) st = first_states(c);
    if (st != SY_OK) {
        syi_calibration_close(c);
        return st;
    }
    *out = c;
    return SY_OK;
}

static void let_go(sy_calibration *c)
{
    for (int i = 0; i < c->n_pairs; i++) {
        syi_pair *p = &c->pair[i];
        p->site->weight = p->original;
        syi_free(c->ctx, p->student.slot[0].data);
        const sy_entry *e = p->original->name ? sy_checkpoint_find(c->model->source->tensors, p->original->name) : NULL;
        if (e && e->data == p->original->slot[0].data) syi_mapped_forget(e->data, e->bytes); /* only what lies in the file comes back */
        *p = (syi_pair){0};
    }
    c->n_pairs = 0;
}

void syi_calibration_close(sy_calibration *c)
{
    if (!c) return;
    if (c->pair) let_go(c);
    for (int64_t i = 0; i < c->n_changed; i++) {
        c->changed[i].param->value = c->changed[i].param->compute = c->changed[i].original;
        syi_free(c->ctx, c->changed[i].student);
    }
    for (int s = 0; s < 2; s++)
        for (int k = 0; k < 2; k++) {
            if (c->at[s][k] && c->spilled[s][k]) syi_spill_free(c->at[s][k], c->bytes[s][k]);
            else syi_pages_free(c->ctx, c->at[s][k]);
        }
    syi_graph_free(c->graph);
    syi_heap_free(c->heap);
    syi_free(c->ctx, c->pair);
    syi_free(c->ctx, c->changed);
    syi_free(c->ctx, c);
}

/* -- weights --------------------------------------------------------------------------------------- */

sy_status syi_calibration_block(sy_calibration *c, int block)
{
    let_go(c);
    c->block = block;
    for (int i = 0; i < c->model->n_sites; i++) {
        sy_site *s = &c->model->sites[i];
        if (s->block == block && s->kind == SY_SITE_LINEAR) c->pair[c->n_pairs++] = (syi_pair){.site = s, .original = s->weight};
    }
    return SY_OK;
}

syi_pair *syi_calibration_pair(sy_calibration *c, const sy_site *site)
{
    for (int i = 0; i < c->n_pairs; i++)
        if (c->pair[i].site == site) return &c->pair[i];
    return NULL;
}

sy_status syi_calibration_put(sy_calibration *c, const sy_site *site, const float *w)
{
    syi_pair *p = syi_calibration_pair(c, site);
    if (!p) return syi_fail(c->ctx, SY_E_BUG, "calibration: %s is not of the block at hand", site->name);
    const int64_t n = site->out * site->in;
    if (!p->student.type) {
        p->student = (sy_weight){.type = &sy_storage_dense, .out = site->out, .in = site->in, .name = p->original->name};
        p->student.slot[0] = (sy_tensor){.dtype = c->model->dtype, .rank = 2, .dim = {site->out, site->in}};
        p->student.slot[0].data = syi_alloc(c->ctx, (size_t)sy_tensor_bytes(&p->student.slot[0]));
        if (!p->student.slot[0].data) {
            p->student.type = NULL;
            return SY_E_MEMORY;
        }
    }
    if (c->model->dtype == SY_F64) {
        for (int64_t i = 0; i < n; i++) ((double *)p->student.slot[0].data)[i] = w[i];
        return SY_OK;
    }
    return syi_cast(c->run->engine, SY_F32, w, c->model->dtype, p->student.slot[0].data, n);
}

sy_status syi_calibration_put_vector(sy_calibration *c, sy_param *param, const float *v)
{
    const int64_t n = sy_tensor_count(&param->value);
    syi_changed *at = NULL;
    if (param->value.dtype != SY_F32) return syi_fail(c->ctx, SY_E_UNSUPPORTED, "%s: vectors change in f32 and bf16 runs only", param->name);
    for (int64_t i = 0; i < c->n_changed && !at; i++)
        if (c->changed[i].param == param) at = &c->changed[i];
    if (!at) {
        SYI_TRY(syi_grow(c->ctx, (void **)&c->changed, &c->cap_changed, c->n_changed + 1, sizeof *c->changed, 1 << 20));
        float *copy = syi_alloc(c->ctx, (size_t)n * sizeof *copy);
        if (!copy) return SY_E_MEMORY;
        at = &c->changed[c->n_changed++];
        *at = (syi_changed){param, param->value, copy};
    }
    memcpy(at->student, v, (size_t)n * sizeof *v);
    return SY_OK;
}

static void use_weights(sy_calibration *c, int whose)
{
    for (int i = 0; i < c->n_pairs; i++) {
        syi_pair *p = &c->pair[i];
        p->site->weight = whose == SYI_STUDENT && p->student.type ? &p->student : p->original;
    }
    for (int64_t i = 0; i < c->n_changed; i++) {
        syi_changed *x = &c->changed[i];
        x->param->value = x->original;
        bool of_linear = false; /* a bias belongs to its linear */
        for (int k = 0; k < c->n_pairs; k++) of_linear |= c->pair[k].site->bias == x->param;
        if (whose == SYI_STUDENT || (whose == SYI_LINEARS_ORIGINAL && !of_linear)) x->param->value.data = x->student;
        x->param->compute = x->param->value;
    }
}

/* -- forwards ------------------------------------------------------------------------------------------ */

typedef struct { const syi_piece *p; const uint8_t *mask; } seeing;

static sy_status see(void *self, const sy_site *site, const sy_tensor *x)
{
    const seeing *s = self;
    for (int i = 0; i < s->p->n_watch; i++) {
        const syi_watch *w = &s->p->watch[i];
        if (w->site != site) continue;
        if (w->fn) SYI_TRY(w->fn(w->self, site, x, s->mask));
        if (w->stop) return (sy_status)SY_SEEN_ENOUGH;
    }
    return SY_OK;
}

static sy_status piece_node(sy_calibration *c, const syi_piece *p, const sy_batch *batch, const sy_tensor *x, bool planning, sy_node **y)
{
    syi_graph_options o = {.dtype = c->model->dtype, .planning = planning, .seed = c->run->options.seed, .user = c->run, .profile = planning ? NULL : c->run->profile};
    syi_graph_reset(c->graph, &o);
    *y = c->model->arch->piece(c->graph, c->model, batch, p->block, p->part, p->block < 0 ? NULL : sy_const(c->graph, x));
    return sy_graph_status(c->graph);
}

sy_status syi_calibration_forward(sy_calibration *c, const syi_piece *p, int64_t first, int64_t n)
{
    sy_context *ctx = c->ctx;
    if (sy_cancelled(ctx)) return syi_fail(ctx, SY_E_CANCELLED, "interrupted");
    const double began = syi_now();
    sy_batch batch;
    SYI_TRY(sy_dataset_batch(c->set[p->set], first, n, p->set, &batch));
    const int64_t row = c->seq * c->hidden * sy_dtype_block_bytes(c->model->dtype);
    sy_tensor x = {.dtype = c->model->dtype, .rank = 2, .dim = {batch.tokens, c->hidden}};
    x.data = p->x ? (void *)(uintptr_t)p->x : c->at[p->stream][p->set] + first * row;
    uint8_t *mask = syi_alloc(ctx, (size_t)batch.tokens);
    if (!mask) return SY_E_MEMORY;
    for (int64_t t = 0; t < batch.tokens; t++) mask[t] = !syi_batch_padding(&batch, t);
    use_weights(c, p->whose);
    seeing s = {p, mask};
    sy_node *y = NULL;
    sy_status st = piece_node(c, p, &batch, &x, true, &y);
    if (st == SY_OK && syi_heap_peak(c->heap) > syi_heap_size(c->heap)) st = syi_heap_reserve(c->heap, syi_heap_peak(c->heap));
    for (int i = 0; i < p->n_watch; i++) {
        p->watch[i].site->see = see;
        p->watch[i].site->see_self = &s;
    }
    if (st == SY_OK) st = piece_node(c, p, &batch, &x, false, &y);
    for (int i = 0; i < p->n_watch; i++) p->watch[i].site->see = NULL;
    if ((int)st == SY_SEEN_ENOUGH) {
        st = SY_OK;
    } else if (st == SY_OK) {
        const sy_tensor *v = sy_value(y);
        if (p->out) st = p->out(p->out_self, first, v, mask);
        if (st == SY_OK && p->push) memcpy(x.data, v->data, (size_t)sy_tensor_bytes(v));
    }
    use_weights(c, SYI_ORIGINAL);
    syi_free(ctx, mask);
    if (c->spilled[p->stream][p->set] && !p->x) syi_mapped_forget(x.data, n * row);
    c->busy += syi_now() - began;
    return st;
}

sy_status syi_calibration_pass(sy_calibration *c, const syi_piece *p)
{
    for (int64_t w = 0; w < c->windows[p->set]; w += c->rows) SYI_TRY(syi_calibration_forward(c, p, w, syi_min(c->rows, c->windows[p->set] - w)));
    return SY_OK;
}

sy_status syi_calibration_push(sy_calibration *c, int block, int part)
{
    for (int s = 0; s < 2; s++)
        for (int k = 0; k < 2; k++)
            if (c->at[s][k]) SYI_TRY(syi_calibration_pass(c, &(syi_piece){.set = k, .stream = s, .whose = s, .block = block, .part = part, .push = true}));
    return SY_OK;
}

/* -- loss ------------------------------------------------------------------------------------------------ */

sy_status syi_calibration_loss(sy_calibration *c, int stream, double *loss, int64_t *tokens)
{
    double sum = 0;
    *tokens = 0;
    *loss = __builtin_nan("");
    if (!c->at[stream][SYI_HELDOUT]) return SY_OK;
    const int64_t row = c->seq * c->hidden * sy_dtype_block_bytes(c->model->dtype);
    use_weights(c, stream);
    sy_status st = SY_OK;
    for (int64_t w = 0; w < c->windows[SYI_HELDOUT] && st == SY_OK; w++) {
        sy_batch batch;
        st = sy_dataset_batch(c->set[SYI_HELDOUT], w, 1, SYI_HELDOUT, &batch);
        if (st != SY_OK || batch.trained == 0) continue;
        sy_tensor x = {.dtype = c->model->dtype, .rank = 2, .dim = {batch.tokens, c->hidden}, .data = c->at[stream][SYI_HELDOUT] + w * row};
        for (int planning = 1; planning >= 0 && st == SY_OK; planning--) {
            sy_node *h;
            st = piece_node(c, &(syi_piece){.block = c->model->blocks}, &batch, &x, planning, &h);
            sy_node *total = st == SY_OK ? syi_run_head_loss(c->run, c->graph, h, &batch, 1, NULL) : NULL;
            if (st == SY_OK) st = sy_graph_status(c->graph);
            if (st == SY_OK && planning && syi_heap_peak(c->heap) > syi_heap_size(c->heap)) st = syi_heap_reserve(c->heap, syi_heap_peak(c->heap));
            const sy_tensor *v = planning || st != SY_OK ? NULL : sy_value(total);
            if (v) sum += v->dtype == SY_F64 ? *(const double *)v->data : (double)*(const float *)v->data;
        }
        *tokens += batch.trained;
    }
    use_weights(c, SYI_ORIGINAL);
    if (*tokens > 0) *loss = sum / (double)*tokens;
    return st;
}

/* -- statistics -------------------------------------------------------------------------------------------- */

int syi_site_part(const sy_model *m, const sy_site *site)
{
    return m->arch->parts < 2 ? 0 : site->input_group >= 2;
}

typedef struct { sy_stats *stats; syi_engine *engine; sy_context *ctx; sy_tensor ref; bool lockstep; } counting;

static sy_status keep_reference(void *self, const sy_site *site, const sy_tensor *x, const uint8_t *mask)
{
    counting *k = self;
    (void)site, (void)mask;
    syi_free(k->ctx, k->ref.data);
    k->ref = *x;
    k->ref.data = syi_alloc(k->ctx, (size_t)sy_tensor_bytes(x));
    if (!k->ref.data) return SY_E_MEMORY;
    memcpy(k->ref.data, x->data, (size_t)sy_tensor_bytes(x));
    return SY_OK;
}

static sy_status count(void *self, const sy_site *site, const sy_tensor *x, const uint8_t *mask)
{
    counting *k = self;
    (void)site;
    return syi_stats_add(k->engine, k->stats, x, k->lockstep ? &k->ref : NULL, mask);
}

sy_status syi_calibration_stats(sy_calibration *c, sy_site *site, int part, unsigned want, int64_t rows, bool original, sy_stats **out)
{
    counting k = {.engine = c->run->engine, .ctx = c->ctx, .lockstep = (want & SY_STAT_DX) != 0};
    *out = NULL;
    SYI_TRY(syi_stats_new(c->ctx, site->in, want, rows, c->windows[SYI_CALIB] * c->seq, &k.stats));
    const int whose = original ? SYI_ORIGINAL : SYI_STUDENT;
    const syi_watch reference = {site, keep_reference, &k, true}, watch = {site, count, &k, true};
    sy_status st = SY_OK;
    for (int64_t w = 0; w < c->windows[SYI_CALIB] && st == SY_OK; w += c->rows) {
        const int64_t n = syi_min(c->rows, c->windows[SYI_CALIB] - w);
        if (k.lockstep) st = syi_calibration_forward(c, &(syi_piece){.stream = SYI_ORIGINAL, .whose = SYI_ORIGINAL, .block = site->block, .part = part, .watch = &reference, .n_watch = 1}, w, n);
        if (st == SY_OK) st = syi_calibration_forward(c, &(syi_piece){.stream = whose, .whose = whose, .block = site->block, .part = part, .watch = &watch, .n_watch = 1}, w, n);
    }
    syi_free(c->ctx, k.ref.data);
    if (st == SY_OK) st = syi_stats_finish(c->ctx, k.stats, site->name);
    if (st != SY_OK) syi_stats_free(c->ctx, k.stats);
    else *out = k.stats;
    return st;
}
