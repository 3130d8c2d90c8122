/* SPDX-License-Identifier: Apache-2.0 */
/* Forward, backward, update: the ordinary step. */
#include "run/run.h"

#include "graph/ops.h"

#include <math.h>

sy_status syi_run_graph_options(const sy_run *run, bool training, bool planning, syi_graph_options *out)
{
    *out = (syi_graph_options){.dtype = run->options.dtype, .training = training, .planning = planning,
                               .recompute_blocks = run->options.recompute_blocks, .seed = run->options.seed,
                               .step = run->step * 65536 + run->micro, .profile = planning ? NULL : run->profile, .user = (void *)(uintptr_t)run};
    return SY_OK;
}

extern const sy_storage sy_storage_panels;

static sy_node *head_node(sy_run *run, sy_graph *g)
{
    const sy_weight *w = run->model->head;
    return w->param ? sy_leaf(g, w->param) : sy_const(g, &w->slot[0]);
}

/* A head with something around it: logits by chunks of rows, each made again in backward so
 * that only one chunk's are there at a time. */
typedef struct { sy_site *site; int64_t row, n; const int32_t *target; const float *weight; double scale; float *nll; } head_chunk;

static sy_node *chunk_loss(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    (void)n;
    const head_chunk *c = self;
    sy_node *logits = syi_run_logits_node(syi_graph_user(g), g, syi_op_rows(g, in[0], c->row, c->n));
    return syi_op_cross_entropy(g, logits, c->target, c->weight, c->scale, c->nll);
}

/* The head and what comes after it on rows of hidden states. */
sy_node *syi_run_logits_node(sy_run *run, sy_graph *g, sy_node *h)
{
    const sy_model *m = run->model;
    sy_node *y = sy_site_apply(g, syi_model_role(m, -1, SY_ROLE_HEAD), h);
    return m->arch->logits ? m->arch->logits(g, run->model, y) : y;
}

/* Rows of logits that are there at once: 256, or fewer of a large vocabulary. */
static int64_t head_rows(const sy_run *run) { return syi_max(16, syi_min(256, (48 << 20) / (run->model->outputs * 4))); }

static sy_node *wrapped_head(sy_graph *g, sy_site *site, sy_node *h, const sy_batch *b, double scale, float *nll)
{
    sy_node *total = NULL;
    const int64_t rows = syi_run_targets(syi_graph_user(g), b), at_once = head_rows(syi_graph_user(g));
    for (int64_t row = 0; row < rows; row += at_once) {
        head_chunk c = {site, row, syi_min(at_once, rows - row), b->target ? b->target + row : NULL, b->weight ? b->weight + row : NULL, scale, nll ? nll + row : NULL};
        sy_node *part = sy_block(g, chunk_loss, &c, sizeof c, &h, 1, SY_BLOCK_RECOMPUTE);
        total = total ? syi_op_add(g, part, total) : part;
    }
    return total;
}

static double scalar(const sy_node *n)
{
    const sy_tensor *t = sy_value(n);
    if (!t || !t->data) return 0;
    return t->dtype == SY_F64 ? *(const double *)t->data : *(const float *)t->data;
}

sy_node *syi_run_head_loss(sy_run *run, sy_graph *g, sy_node *h, const sy_batch *batch, double scale, float *nll)
{
    sy_model *m = run->model;
    sy_site *site = syi_model_role(m, -1, SY_ROLE_HEAD);
    if (!m->head && sy_graph_planning(g)) return syi_op_sum(g, h); /* embeddings only */
    if (site && (site->n_wraps || site->bias || m->arch->logits)) return wrapped_head(g, site, h, batch, scale, nll);
    const int64_t rows = syi_run_targets(run, batch);
    syi_head shape = {.tokens = rows, .hidden = m->hidden, .vocab = m->outputs, .target = batch->target, .weight = batch->weight, .scale = scale,
                      .panels = m->head->type == &sy_storage_panels};
    sy_node *total = syi_op_head_loss(g, h, head_node(run, g), &shape);
    const sy_tensor *each = nll && total ? syi_node_aux(total, 0) : NULL;
    for (int64_t t = 0; each && t < rows; t++) nll[t] = each->dtype == SY_F64 ? (float)((const double *)each->data)[t] : ((const float *)each->data)[t];
    return total;
}

sy_node *syi_run_build_loss(sy_run *run, sy_graph *g, const sy_batch *batch, double scale, float *nll)
{
    sy_model *m = run->model;
    /* An objective may build the loss; others may add to it. */
    sy_node *total = NULL;
    for (int i = 0; i < run->n_active; i++) {
        syi_active *a = &run->active[i];
        if (a->method->kind != SY_OBJECTIVE || !a->method->loss) continue;
        sy_status s = a->method->loss(a->self, run, g, batch, &total);
        if (s != SY_OK) sy_graph_fail(g, s);
    }
    if (!total) total = syi_run_head_loss(run, g, m->arch->build(g, m, batch), batch, scale, nll);
    if (!sy_graph_planning(g)) run->task_loss = scalar(total);
    if (!sy_graph_training(g) || (run->terms_done && !sy_graph_planning(g))) return total;
    for (int i = 0; i < run->n_active; i++) {
        syi_active *a = &run->active[i];
        if (a->method->kind == SY_OBJECTIVE || !a->method->loss) continue;
        sy_status s = a->method->loss(a->self, run, g, batch, &total);
        if (s != SY_OK) sy_graph_fail(g, s);
    }
    if (!sy_graph_planning(g)) run->terms_done = true;
    return total;
}

/* Rows that the head reads: tokens, or what is classified. */
int64_t syi_run_targets(const sy_run *run, const sy_batch *b) { return run->model->arch->head == SY_HEAD_CLASS ? b->rows : b->tokens; }

static sy_status check_head(const sy_run *run)
{
    if (run->model->head) return SY_OK;
    return syi_fail(run->ctx, SY_E_UNSUPPORTED, "%s has no head (classifier): it gives embeddings only (eval --dump-embeddings)", run->model->source->path);
}

static sy_status check_targets(const sy_run *run, const sy_batch *batch)
{
    for (int64_t r = 0; batch->target && r < batch->rows; r++)
        if (batch->target[r] >= run->model->outputs)
            return syi_fail(run->ctx, SY_E_INPUT, "class %d is not among the %lld that the model tells apart", batch->target[r], (long long)run->model->outputs);
    return SY_OK;
}

static sy_status prepare(sy_run *run, const sy_batch *batch)
{
    if (!run->reserved) return syi_fail(run->ctx, SY_E_BUG, "run: sy_run_reserve comes before work");
    int64_t most = 0;
    const bool images = run->model->arch->input == SY_INPUT_IMAGES;
    if (images != (batch->pixels != NULL))
        return syi_fail(run->ctx, SY_E_INPUT, "the model reads %s, the data are %s", images ? "images" : "tokens", images ? "tokens" : "images");
    if (images) return check_targets(run, batch);
    if (run->model->arch->head == SY_HEAD_CLASS) SYI_TRY(check_targets(run, batch));
    for (int64_t t = 0; t < batch->tokens; t++) {
        if (batch->ids[t] < 0 || batch->ids[t] >= run->model->vocab)
            return syi_fail(run->ctx, SY_E_INPUT, "token id %d is outside the model's vocabulary of %lld; the tokenizer and the model do not belong together", batch->ids[t], (long long)run->model->vocab);
        most = syi_max(most, batch->positions[t]);
    }
    return syi_model_positions(run->model, most + 1);
}

sy_status syi_run_prepare(sy_run *run, const sy_batch *batch) { return prepare(run, batch); }

static sy_status forward(sy_run *run, const sy_batch *batch, bool training, double scale, sy_loss *out, float *nll)
{
    SYI_TRY(check_head(run));
    SYI_TRY(prepare(run, batch));
    syi_graph_options o;
    SYI_TRY(syi_run_graph_options(run, training, false, &o));
    syi_graph_reset(run->graph, &o);
    sy_node *loss = syi_run_build_loss(run, run->graph, batch, scale, nll);
    SYI_TRY(sy_graph_status(run->graph));
    out->loss_sum = run->task_loss / scale;
    out->trained = batch->trained;
    return training ? syi_graph_backward(run->graph, loss, 1) : SY_OK;
}

sy_status sy_run_loss(sy_run *run, const sy_batch *batch, sy_loss *out, float *nll)
{
    return forward(run, batch, false, 1, out, nll);
}

sy_status sy_run_backward(sy_run *run, const sy_batch *batch, double scale, sy_loss *out)
{
    return forward(run, batch, true, scale, out, NULL);
}

sy_status syi_run_refresh(sy_run *run)
{
    for (int i = 0; i < run->n_params; i++) {
        sy_param *p = run->params[i];
        if (!p->stale) continue;
        if (p->compute.data != p->value.data)
            SYI_TRY(syi_cast(run->engine, p->value.dtype, p->value.data, p->compute.dtype, p->compute.data, sy_tensor_count(&p->value)));
        p->stale = false;
    }
    return SY_OK;
}

sy_status sy_run_event(sy_run *run, sy_when when)
{
    for (int i = 0; i < run->n_active; i++)
        if (run->active[i].method->on) SYI_TRY(run->active[i].method->on(run->active[i].self, run, when));
    return SY_OK;
}

/* -- before training ------------------------------------------------------------------------------- */

void sy_run_feed(sy_run *run, sy_feed *fn, void *self)
{
    run->feed = fn;
    run->feed_self = self;
}

sy_status sy_run_batch(sy_run *run, int64_t index, int64_t rows, sy_batch *out)
{
    if (!run->feed) return syi_fail(run->ctx, SY_E_USAGE, "this method looks at the data before training, but the run has none (sy_run_feed)");
    return run->feed(run->feed_self, index, rows, out);
}

sy_status sy_run_observe(sy_run *run, const sy_batch *batch)
{
    SYI_TRY(prepare(run, batch));
    SYI_TRY(syi_run_refresh(run));
    syi_graph_options o;
    SYI_TRY(syi_run_graph_options(run, false, false, &o));
    syi_graph_reset(run->graph, &o);
    run->model->arch->build(run->graph, run->model, batch);
    const sy_status st = sy_graph_status(run->graph);
    return (int)st == SY_SEEN_ENOUGH ? SY_OK : st;
}

/* -- masks: what a method froze keeps its bits ----------------------------------------------------- */

/* Calls fn(self, first, n) on every run of numbers that the mask freezes. */
#define EACH_MASKED(p, first, n, ...)                                                                          \
    do {                                                                                                       \
        const int axis_ = (p)->mask_axis;                                                                      \
        int64_t inner_ = 1, dim_ = axis_ < 0 ? sy_tensor_count(&(p)->value) : (p)->value.dim[axis_];           \
        for (int k_ = axis_ + 1; axis_ >= 0 && k_ < (p)->value.rank; k_++) inner_ *= (p)->value.dim[k_];       \
        const int64_t outer_ = sy_tensor_count(&(p)->value) / syi_max(1, dim_ * inner_);                       \
        for (int64_t o_ = 0; o_ < outer_; o_++)                                                                \
            for (int64_t from_ = 0, to_; from_ < dim_; from_ = to_) {                                          \
                to_ = from_ + 1;                                                                               \
                while (to_ < dim_ && !(p)->mask[to_] == !(p)->mask[from_]) to_++;                              \
                if ((p)->mask[from_]) continue;                                                                \
                const int64_t first = (o_ * dim_ + from_) * inner_, n = (to_ - from_) * inner_;                \
                __VA_ARGS__                                                                                    \
            }                                                                                                  \
    } while (0)

static void clear_masked(const sy_param *p)
{
    const size_t one = p->grad.dtype == SY_F64 ? 8 : 4;
    EACH_MASKED(p, first, n, memset((char *)p->grad.data + (size_t)first * one, 0, (size_t)n * one););
}

static sy_status masked_update(sy_run *run, const syi_active *o, sy_param *p, double lr)
{
    size_t bytes = (size_t)sy_tensor_bytes(&p->value), one = p->value.dtype == SY_F64 ? 8 : 4;
    char *before = syi_alloc(run->ctx, bytes);
    if (!before) return SY_E_MEMORY;
    memcpy(before, p->value.data, bytes);
    sy_status s = o->method->update(o->self, run, p, lr);
    EACH_MASKED(p, first, n, memcpy((char *)p->value.data + (size_t)first * one, before + (size_t)first * one, (size_t)n * one););
    syi_free(run->ctx, before);
    return s;
}

/* -- update -------------------------------------------------------------------------------------------- */

sy_status sy_run_update(sy_run *run, double lr, double clip, double *grad_norm)
{
    const syi_active *o = syi_run_active(run, SY_OPTIMIZER);
    if (!o || !o->method->update) return syi_fail(run->ctx, SY_E_USAGE, "no optimizer given: a step needs one");
    for (int i = 0; i < run->n_params; i++)
        if (run->params[i]->trained && run->params[i]->mask) clear_masked(run->params[i]);
    double sum = 0;
    bool finite = true;
    for (int i = 0; i < run->n_params; i++) {
        const sy_param *p = run->params[i];
        bool ok = true;
        if (p->trained) sum += syi_sumsq(run->engine, p->grad.dtype, p->grad.data, sy_tensor_count(&p->grad), &ok);
        finite = finite && ok;
        if (!ok)
            return syi_fail(run->ctx, SY_E_NUMERIC, "step %lld: the gradient of %s is not finite; try a lower --lr, --clip 1, or --dtype f32", (long long)run->step + 1, p->name);
    }
    double norm = sqrt(sum);
    if (grad_norm) *grad_norm = norm;
    if (clip > 0 && norm > clip) { /* as torch.nn.utils.clip_grad_norm_ */
        double a = clip / (norm + 1e-6);
        for (int i = 0; i < run->n_params; i++) {
            sy_param *p = run->params[i];
            if (p->trained) SYI_TRY(syi_axpy(run->engine, p->grad.dtype, a, p->grad.data, false, p->grad.data, sy_tensor_count(&p->grad)));
        }
    }
    SYI_TRY(sy_run_event(run, SY_GRAD));
    for (int i = 0; i < run->n_params; i++) {
        sy_param *p = run->params[i];
        if (!p->trained) continue;
        double rate = lr * syi_run_group_factor(run, p->group);
        SYI_TRY(p->mask ? masked_update(run, o, p, rate) : o->method->update(o->self, run, p, rate));
        p->stale = p->compute.data != p->value.data;
    }
    run->step++;
    SYI_TRY(sy_run_event(run, SY_UPDATED));
    for (int i = 0; i < run->n_params; i++)
        if (run->params[i]->trained) memset(run->params[i]->grad.data, 0, (size_t)sy_tensor_bytes(&run->params[i]->grad));
    run->terms_done = false;
    return syi_run_refresh(run);
}

/* Rows [from, from+rows) of a batch as a batch of its own. */
static sy_status micro_batch(sy_run *run, const sy_batch *b, int64_t from, int64_t rows, sy_batch *out)
{
    int64_t t0 = from * b->seq, n = rows * b->seq;
    if (run->micro_cap < n) {
        syi_free(run->ctx, run->micro_first);
        syi_free(run->ctx, run->micro_sample);
        run->micro_cap = 0;
        run->micro_first = syi_alloc(run->ctx, (size_t)n * sizeof *run->micro_first);
        run->micro_sample = syi_alloc(run->ctx, (size_t)n * sizeof *run->micro_sample);
        if (!run->micro_first || !run->micro_sample) return SY_E_MEMORY;
        run->micro_cap = n;
    }
    *out = *b;
    out->rows = rows;
    out->tokens = n;
    const int64_t targets = syi_run_targets(run, out), k0 = targets == rows ? from : t0;
    if (b->pixels) out->pixels += from * b->height * b->width * b->channels;
    if (b->ids) out->ids += t0;
    if (b->positions) out->positions += t0;
    out->target += k0;
    if (out->weight) out->weight += k0;
    out->trained = 0;
    for (int64_t k = 0; k < targets; k++) out->trained += out->target[k] >= 0;
    if (!b->first) return SY_OK;
    int32_t base = b->sample ? b->sample[t0] : 0, last = base;
    for (int64_t t = 0; t < n; t++) {
        run->micro_first[t] = b->first[t0 + t] - (int32_t)t0;
        if (b->sample) {
            last = b->sample[t0 + t] > last ? b->sample[t0 + t] : last;
            run->micro_sample[t] = b->sample[t0 + t] - base;
        }
    }
    out->first = run->micro_first;
    if (b->sample) out->sample = run->micro_sample;
    out->samples = last - base + 1;
    return SY_OK;
}

sy_status sy_run_step_once(sy_run *run, const sy_batch *batch, double lr, double clip, sy_step_result *out)
{
    if (!run->options.training) return syi_fail(run->ctx, SY_E_BUG, "run: opened without training");
    if (batch->trained <= 0) return syi_fail(run->ctx, SY_E_INPUT, "step %lld: no token of the batch carries loss", (long long)run->step + 1);
    run->micro = 0;
    SYI_TRY(sy_run_event(run, SY_STEP));
    SYI_TRY(syi_run_refresh(run));
    int64_t rows = run->plan.micro_tokens > 0 ? syi_max(1, run->plan.micro_tokens / batch->seq) : batch->rows;
    sy_loss sum = {0};
    for (int64_t r = 0; r < batch->rows; r += rows, run->micro++) {
        sy_batch part;
        if (rows >= batch->rows) part = *batch;
        else SYI_TRY(micro_batch(run, batch, r, syi_min(rows, batch->rows - r), &part));
        if (part.trained == 0) continue;
        sy_loss one;
        SYI_TRY(sy_run_backward(run, &part, 1 / (double)batch->trained, &one));
        sum.loss_sum += one.loss_sum;
        sum.trained += one.trained;
    }
    run->micro = 0;
    out->loss = sum.loss_sum / (double)batch->trained;
    out->trained = sum.trained;
    if (!isfinite(out->loss))
        return syi_fail(run->ctx, SY_E_NUMERIC, "step %lld: the loss is not finite; try a lower --lr, --clip 1, or --dtype f32", (long long)run->step + 1);
    return sy_run_update(run, lr, clip, &out->grad_norm);
}

/* -- logits ------------------------------------------------------------------------------------------------ */

sy_status syi_run_head(sy_run *run, sy_node *h, int64_t row, int64_t n, float *logits)
{
    sy_model *m = run->model;
    sy_site *site = syi_model_role(m, -1, SY_ROLE_HEAD);
    const sy_tensor *x = sy_value(h), *w = &m->head->slot[0];
    if (!x) return sy_graph_status(run->graph);
    int64_t count = n * m->outputs;
    if (!site->n_wraps && !site->bias && !m->arch->logits && x->dtype != SY_F64) {
        const char *rows = (const char *)x->data + row * m->hidden * sy_dtype_block_bytes(x->dtype);
        if (m->head->type == &sy_storage_panels)
            return syi_gemm_panels(run->engine, n, m->outputs, m->hidden, x->dtype, rows, w->data, false, 0, SY_F32, logits);
        if (sy_dtype_block_len(w->dtype) > 1)
            return syi_gemm_coded(run->engine, n, m->outputs, m->hidden, x->dtype, rows, &(syi_coded){w->dtype, w->data, m->head->slot[1].data}, false, 0, SY_F32, logits);
        return syi_gemm(run->engine, n, m->outputs, m->hidden, 1, (syi_mat){x->dtype, rows, m->hidden, false}, (syi_mat){w->dtype, w->data, m->hidden, true}, 0, SY_F32, logits, m->outputs);
    }
    sy_node *y = syi_run_logits_node(run, run->graph, syi_op_rows(run->graph, h, row, n));
    SYI_TRY(sy_graph_status(run->graph));
    const sy_tensor *v = sy_value(y);
    SYI_TRY(syi_cast(run->engine, v->dtype, v->data, SY_F32, logits, count));
    sy_done(run->graph, y);
    return SY_OK;
}

sy_status sy_run_logits(sy_run *run, const sy_batch *batch, sy_logits_sink *sink, void *self)
{
    SYI_TRY(check_head(run));
    SYI_TRY(prepare(run, batch));
    syi_graph_options o;
    SYI_TRY(syi_run_graph_options(run, false, false, &o));
    syi_graph_reset(run->graph, &o);
    sy_model *m = run->model;
    sy_node *h = m->arch->build(run->graph, m, batch);
    SYI_TRY(sy_graph_status(run->graph));
    const int64_t rows = syi_run_targets(run, batch);
    int64_t piece = syi_max(1, syi_min(rows, (32 << 20) / (m->outputs * 4)));
    float *logits = syi_alloc(run->ctx, (size_t)(piece * m->outputs) * sizeof *logits);
    if (!logits) return SY_E_MEMORY;
    sy_status s = SY_OK;
    for (int64_t r = 0; s == SY_OK && r < rows; r += piece) {
        int64_t n = syi_min(piece, rows - r);
        s = syi_run_head(run, h, r, n, logits);
        if (s == SY_OK) s = sink(self, r, n, logits);
    }
    syi_free(run->ctx, logits);
    return s;
}
