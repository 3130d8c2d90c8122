/* SPDX-License-Identifier: Apache-2.0 */
/* See _rebasin_net.h. The run is opened for full training, in f32: every tensor is then a
 * parameter of its own memory, running statistics included, that can be set. */
#include "_rebasin_net.h"

#include "graph/ops.h"

#include <cblas.h>
#include <omp.h>

/* -- opening ---------------------------------------------------------------------------------- */

static sy_status find_params(rebasin_net *n, const char *model)
{
    const rebasin *r = n->r;
    n->param = syi_calloc(n->ctx, (size_t)r->n_tensors, sizeof *n->param);
    if (!n->param) return SY_E_MEMORY;
    for (int t = 0; t < r->n_tensors; t++) {
        sy_param *p = syi_model_param(n->run->model, r->tensor[t].name);
        if (!p || sy_tensor_count(&p->value) != r->tensor[t].count)
            return syi_fail(n->ctx, SY_E_UNSUPPORTED, "%s: tensor %s is not one of a network that can be run with the recipe's result; data are for whole models of one shape", model,
                            r->tensor[t].name);
        n->param[t] = p;
        n->statistics |= p->buffer;
    }
    return SY_OK;
}

static sy_status open_data(rebasin_net *n, uint64_t seed, const rebasin_net_options *o)
{
    sy_dataset_info info;
    SYI_TRY(syi_template_text(n->ctx, n->run, NULL, &n->template_text));
    sy_dataset_options d = { .tokenizer = sy_run_tokenizer(n->run), .chat_template = n->template_text, .eos_id = sy_run_eos(n->run), .bos_id = -1, .seq = n->seq, .pack = true,
                             .shuffle = true, .seed = seed };
    SYI_TRY(syi_run_data(n->run, o->data, &d, &n->data));
    sy_dataset_stat(n->data, &info);
    n->rows = info.rows_per_epoch;
    d.shuffle = false;
    SYI_TRY(syi_run_data(n->run, o->eval_data ? o->eval_data : o->data, &d, &n->eval));
    n->batch = syi_min(n->rows, o->batch > 0 ? o->batch : n->text ? 8 : 64);
    n->step_rows = o->step_rows < 0 ? 0 : syi_min(n->rows, o->step_rows > 0 ? o->step_rows : n->text ? 16 : 1000);
    return SY_OK;
}

sy_status rebasin_net_open(rebasin_net *n, const rebasin *r, sy_merging *job, const rebasin_net_options *o)
{
    const char *model = job->models[job->donor].path;
    sy_use use;
    sy_run_options run;
    sy_plan plan;
    *n = (rebasin_net){ .r = r, .ctx = job->ctx, .seq = o->seq };
    SYI_TRY(sy_use_new(n->ctx, "full", SY_ADAPTER, NULL, 0, &use));
    sy_run_options_init(&run);
    run.model = model;
    run.dtype = SY_F32;
    run.training = true;
    run.seed = job->seed;
    run.memory_limit = job->memory_limit;
    run.micro_tokens = -1;
    run.use = &use;
    run.n_use = 1;
    SYI_TRY(sy_run_open(n->ctx, &run, &n->run));
    SYI_TRY(syi_run_needs_tokenizer(n->run, model));
    SYI_TRY(syi_run_seq(n->run, false, &n->seq));
    n->text = !syi_run_sees(n->run);
    if (!n->text) n->seq = 1;
    n->run->options.row_tokens = n->seq;
    SYI_TRY(find_params(n, model));
    SYI_TRY(open_data(n, job->seed, o));
    /* statistics of a batch are those of all of it; otherwise a gradient is summed piece by piece */
    SYI_TRY(sy_run_plan(n->run, (n->statistics ? syi_max(n->batch, n->step_rows) : n->batch) * n->seq, true, &plan));
    return sy_run_reserve(n->run, &plan);
}

void rebasin_net_close(rebasin_net *n)
{
    if (!n->ctx) return;
    sy_dataset_free(n->data);
    sy_dataset_free(n->eval);
    sy_run_close(n->run);
    syi_free(n->ctx, n->template_text);
    syi_free(n->ctx, n->param);
    *n = (rebasin_net){ .r = NULL };
}

/* -- weights in, gradients out ---------------------------------------------------------------------- */

static void turned(const rebasin_tensor *t, const float *from, float *to, bool add)
{
    const bool turn = t->transposed && t->rank == 2;
    const int64_t rows = turn ? t->dim[0] : t->count, cols = turn ? t->dim[1] : 1;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) to[j * rows + i] = from[i * cols + j] + (add ? to[j * rows + i] : 0);
}

sy_status rebasin_net_set(rebasin_net *n, const float *const *x)
{
    for (int t = 0; t < n->r->n_tensors; t++) turned(&n->r->tensor[t], x[t], n->param[t]->value.data, false);
    return SY_OK;
}

/* The gradient of a transposed tensor is transposed back. */
static void take_gradient(const rebasin_net *n, double scale, float **g)
{
    for (int t = 0; t < n->r->n_tensors; t++) {
        const rebasin_tensor *x = &n->r->tensor[t];
        rebasin_tensor back = *x;
        back.dim[0] = x->dim[1];
        back.dim[1] = x->dim[0];
        if (n->param[t]->grad.data) turned(x->transposed && x->rank == 2 ? &back : x, n->param[t]->grad.data, g[t], false);
        else memset(g[t], 0, (size_t)x->count * sizeof **g);
        for (int64_t i = 0; i < x->count; i++) g[t][i] = (float)((double)g[t][i] * scale);
    }
}

sy_status rebasin_net_gradient(rebasin_net *n, const float *const *x, int64_t step, float **g, double *loss)
{
    const int64_t piece = n->statistics ? n->step_rows : n->batch;
    sy_loss sum = { 0 }, one;
    SYI_TRY(rebasin_net_set(n, x));
    memset(n->run->grads, 0, (size_t)n->run->grad_bytes);
    for (int64_t row = 0; row < n->step_rows; row += piece) {
        sy_batch batch;
        SYI_TRY(sy_dataset_batch(n->data, step * n->step_rows + row, syi_min(piece, n->step_rows - row), 0, &batch));
        if (batch.trained == 0) continue;
        SYI_TRY(sy_run_backward(n->run, &batch, 1, &one));
        sum.loss_sum += one.loss_sum;
        sum.trained += one.trained;
    }
    if (sum.trained == 0) return syi_fail(n->ctx, SY_E_INPUT, "no row of the data has something to predict");
    *loss = sum.loss_sum / (double)sum.trained;
    if (!isfinite(*loss)) return syi_fail(n->ctx, SY_E_NUMERIC, "step %lld of matching: the loss between the networks is not finite; try a lower ste_lr", (long long)step + 1);
    take_gradient(n, 1 / (double)sum.trained, g);
    return SY_OK;
}

sy_status rebasin_net_loss(rebasin_net *n, const float *const *x, syi_evaluation *out)
{
    SYI_TRY(rebasin_net_set(n, x));
    return syi_evaluate(n->run, n->eval, n->batch, "merge: loss", out);
}

/* The forward of a batch up to the last hidden state. */
static sy_status forward(rebasin_net *n, const sy_batch *batch, bool training, const sy_tensor **hidden)
{
    syi_graph_options o;
    SYI_TRY(syi_run_prepare(n->run, batch));
    SYI_TRY(syi_run_graph_options(n->run, training, false, &o));
    syi_graph_reset(n->run->graph, &o);
    const sy_node *h = n->run->model->arch->build(n->run->graph, n->run->model, batch);
    SYI_TRY(sy_graph_status(n->run->graph));
    if (hidden) *hidden = sy_value(h);
    return sy_cancelled(n->ctx) ? syi_fail(n->ctx, SY_E_CANCELLED, "interrupted while matching") : SY_OK;
}

sy_status rebasin_net_statistics(rebasin_net *n, float **x, int64_t batches)
{
    const int64_t most = syi_min(batches, syi_max(1, n->rows / n->batch));
    if (!n->statistics || batches < 1) return SY_OK;
    SYI_TRY(rebasin_net_set(n, (const float *const *)x));
    sy_status st = SY_OK;
    for (int64_t k = 0; k < most && st == SY_OK; k++) {
        sy_batch batch;
        n->run->model->norm_momentum = 1 / (double)(k + 1); /* the first replaces what was there */
        st = sy_dataset_batch(n->data, k * n->batch, n->batch, 0, &batch);
        if (st == SY_OK) st = forward(n, &batch, true, NULL);
    }
    n->run->model->norm_momentum = 0;
    for (int t = 0; t < n->r->n_tensors && st == SY_OK; t++)
        if (n->param[t]->buffer) memcpy(x[t], n->param[t]->value.data, (size_t)n->r->tensor[t].count * sizeof **x);
    return st;
}

/* -- activations ---------------------------------------------------------------------------------------- */

/* A place where a group is read: the inputs of a site, of both networks. */
typedef struct reader {
    int group, axis;
    sy_site *site;
    int64_t first, step, len, cap, rows; /* column first + i * step is index i               */
    const sy_batch *batch;
    float *x[2];                   /* [rows, len] of either network                        */
    double *c, *sum[2], *square[2];
    int which;
    sy_context *ctx;
} reader;

static sy_status see(void *self, const sy_site *site, const sy_tensor *x)
{
    reader *r = self;
    (void)site;
    const int64_t rows = sy_tensor_rows(x), cols = sy_tensor_cols(x);
    const bool tokens = r->batch->first && rows == r->batch->tokens;
    if (x->dtype != SY_F32) return syi_fail(r->ctx, SY_E_BUG, "activations of %s are not f32", r->site->name);
    if (r->cap < rows)
        for (int k = 0; k < 2; k++) {
            float *more = syi_realloc(r->ctx, r->x[k], (size_t)(rows * r->len) * sizeof *more);
            if (!more) return SY_E_MEMORY;
            r->x[k] = more;
        }
    r->cap = syi_max(r->cap, rows);
    r->rows = 0;
    for (int64_t i = 0; i < rows; i++) {
        if (tokens && syi_batch_padding(r->batch, i)) continue;
        float *to = r->x[r->which] + r->rows++ * r->len;
        for (int64_t k = 0; k < r->len; k++) to[k] = ((const float *)x->data)[i * cols + r->first + k * r->step];
    }
    return SY_OK;
}

/* Does the group act on what the site of this tensor reads, where no earlier reader sees the same? */
static bool reads(const rebasin_net *n, int group, int axis, const reader *all, int n_all, reader *out)
{
    const rebasin_axis *x = &n->r->group[group].axis[axis];
    const rebasin_tensor *t = &n->r->tensor[x->tensor];
    sy_model *m = n->run->model;
    sy_site *s = n->param[x->tensor]->site, *head = syi_model_role(m, -1, SY_ROLE_HEAD);
    const bool table = head && head->weight && head->weight->param == n->param[x->tensor] && t->rank == 2; /* the head, or a tied embedding */
    if (table) s = head;
    if (!s || s->kind != SY_SITE_LINEAR || t->rank < 2 || x->axis != (t->transposed ? 0 : 1)) return false;
    const int64_t taps = t->rank == 4 ? t->dim[2] * t->dim[3] : 1; /* of a window its middle: the unit itself */
    *out = (reader){ .group = group, .axis = axis, .site = s, .first = x->first * taps + taps / 2, .step = taps, .len = n->r->group[group].units * x->block, .ctx = n->ctx };
    for (int i = 0; i < n_all; i++)
        if (all[i].group == group && (all[i].site == s || (s->input_group >= 0 && all[i].site->block == s->block && all[i].site->input_group == s->input_group))) return false;
    return true;
}

static sy_status find_readers(rebasin_net *n, reader **out, int *count)
{
    int most = 0;
    for (int g = 0; g < n->r->n_groups; g++) most += n->r->group[g].n;
    reader *all = *out = syi_calloc(n->ctx, (size_t)syi_max(1, most), sizeof *all);
    if (!all) return SY_E_MEMORY;
    for (int g = 0; g < n->r->n_groups; g++)
        for (int i = 0; i < n->r->group[g].n && n->r->group[g].parent < 0; i++) {
            reader *x = &all[*count];
            if (!reads(n, g, i, all, *count, x)) continue;
            ++*count;
            x->c = syi_calloc(n->ctx, (size_t)(x->len * x->len + 4 * x->len), sizeof *x->c);
            if (!x->c) return SY_E_MEMORY;
            for (int k = 0; k < 2; k++) {
                x->sum[k] = x->c + x->len * x->len + k * x->len;
                x->square[k] = x->sum[k] + 2 * x->len;
            }
        }
    return SY_OK;
}

static sy_status observe(rebasin_net *n, reader *all, int count, const sy_batch *batch, int which)
{
    const sy_tensor *h;
    for (int i = 0; i < count; i++) {
        all[i].batch = batch;
        all[i].which = which;
        all[i].site->see = see;
        all[i].site->see_self = &all[i];
    }
    sy_status st = forward(n, batch, false, &h);
    for (int i = 0; i < count; i++) all[i].site->see = NULL;
    for (int i = 0; i < count && st == SY_OK; i++)
        if (all[i].site->role == SY_ROLE_HEAD) st = see(&all[i], all[i].site, h);
    return st;
}

static sy_status add_up(reader *r, int64_t *rows)
{
    float *c = syi_alloc(r->ctx, (size_t)(r->len * r->len) * sizeof *c);
    if (!c) return SY_E_MEMORY;
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1); /* the same sums whatever the threads */
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)r->len, (int)r->len, (int)r->rows, 1, r->x[0], (int)r->len, r->x[1], (int)r->len, 0, c, (int)r->len);
    omp_set_num_threads(threads);
    for (int64_t i = 0; i < r->len * r->len; i++) r->c[i] += (double)c[i];
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; i < r->rows * r->len; i++) {
            const double v = (double)r->x[k][i];
            r->sum[k][i % r->len] += v;
            r->square[k][i % r->len] += v * v;
        }
    *rows += r->rows;
    syi_free(r->ctx, c);
    return SY_OK;
}

/* Second moments become correlations; of units that never change, 0. */
static void correlate(reader *r, double rows)
{
    double *scale[2] = { r->square[0], r->square[1] };
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; i < r->len; i++) {
            const double mean = r->sum[k][i] / rows, var = r->square[k][i] / rows - mean * mean;
            scale[k][i] = var > 1e-12 * (1 + mean * mean) ? 1 / sqrt(var) : 0;
        }
    for (int64_t i = 0; i < r->len; i++)
        for (int64_t j = 0; j < r->len; j++)
            r->c[i * r->len + j] = (r->c[i * r->len + j] / rows - r->sum[0][i] / rows * (r->sum[1][j] / rows)) * scale[0][i] * scale[1][j];
}

sy_status rebasin_net_match(rebasin_net *n, const float *const *a, float **b, int64_t batches, bool pearson, rebasin_perm *perm)
{
    const int64_t most = syi_min(batches, syi_max(1, n->rows / n->batch));
    reader *all = NULL;
    int count = 0;
    sy_status st = find_readers(n, &all, &count);
    int64_t *rows = syi_calloc(n->ctx, (size_t)syi_max(1, count), sizeof *rows);
    if (!rows) st = SY_E_MEMORY;
    for (int64_t k = 0; k < most && st == SY_OK; k++) {
        sy_batch batch;
        st = sy_dataset_batch(n->data, k * n->batch, n->batch, 0, &batch);
        for (int which = 0; which < 2 && st == SY_OK; which++) {
            st = rebasin_net_set(n, which ? (const float *const *)b : a);
            if (st == SY_OK) st = observe(n, all, count, &batch, which);
        }
        for (int i = 0; i < count && st == SY_OK; i++) st = add_up(&all[i], &rows[i]);
    }
    for (int g = 0; g < n->r->n_groups && st == SY_OK; g++) { /* every place that reads a group counts */
        reader *first = NULL;
        for (int i = 0; i < count; i++) {
            if (all[i].group != g || rows[i] == 0) continue;
            if (pearson) correlate(&all[i], (double)rows[i]);
            else
                for (int64_t k = 0; k < all[i].len * all[i].len; k++) all[i].c[k] /= (double)rows[i];
            if (first && first->len == all[i].len)
                for (int64_t k = 0; k < first->len * first->len; k++) first->c[k] += all[i].c[k];
            else if (!first) first = &all[i];
        }
        if (first) st = rebasin_match_moments(n->r, g, first->axis, first->c, b, perm);
    }
    for (int i = 0; i < count; i++) {
        syi_free(n->ctx, all[i].x[0]);
        syi_free(n->ctx, all[i].x[1]);
        syi_free(n->ctx, all[i].c);
    }
    syi_free(n->ctx, all);
    syi_free(n->ctx, rows);
    return st;
}
