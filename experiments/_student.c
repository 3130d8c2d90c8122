/* SPDX-License-Identifier: Apache-2.0 */
/* See _student.h. The loss is an objective of our own: it sends its inputs through the sites of
 * the network, with ReLU between, and measures the squared distance to the teacher's answers. */
#include "_student.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call)                              \
    do {                                       \
        sy_status try_ = (call);               \
        if (try_ != SY_OK) return try_;        \
    } while (0)

enum { HELD = 32 }; /* batches that are never trained on */

/* -- networks ------------------------------------------------------------------------------ */

bool student_new(student_net *n, int layers, const int *size, toy_rng *r)
{
    memset(n, 0, sizeof *n);
    n->layers = layers;
    memcpy(n->size, size, (size_t)(layers + 1) * sizeof *size);
    for (int l = 0; l < layers; l++) {
        n->w[l] = calloc((size_t)(size[l] * size[l + 1]), sizeof(float));
        if (!n->w[l]) return false;
        for (int i = 0; r && i < size[l] * size[l + 1]; i++) n->w[l][i] = (float)(toy_normal(r) * sqrt(2.0 / size[l]));
    }
    return true;
}

void student_free(student_net *n)
{
    for (int l = 0; l < n->layers; l++) free(n->w[l]);
    memset(n, 0, sizeof *n);
}

bool student_moved(student_net *to, const student_net *from, double scale, toy_rng *r)
{
    if (!student_new(to, from->layers, from->size, NULL)) return false;
    for (int l = 0; l < to->layers; l++)
        for (int i = 0; i < to->size[l] * to->size[l + 1]; i++) to->w[l][i] = from->w[l][i] + (float)(scale / sqrt(to->size[l]) * toy_normal(r));
    return true;
}

/* y[rows, out] of x[rows, in]; `a` and `b` hold the widest layer. */
static void answers(const student_net *n, int rows, const float *x, float *a, float *b, float *y)
{
    const float *from = x;
    for (int l = 0; l < n->layers; l++) {
        float *to = l == n->layers - 1 ? y : l % 2 ? b : a;
        for (int i = 0; i < rows; i++)
            for (int o = 0; o < n->size[l + 1]; o++) {
                float sum = 0;
                for (int j = 0; j < n->size[l]; j++) sum += from[i * n->size[l] + j] * n->w[l][o * n->size[l] + j];
                to[i * n->size[l + 1] + o] = l < n->layers - 1 && sum < 0 ? 0 : sum;
            }
        from = to;
    }
}

sy_status student_write(sy_context *ctx, const student_net *n, const char *dir)
{
    char path[600], name[32];
    int side = (int)sqrt(n->size[0]);
    while (n->size[0] % (side * side)) side--;
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "w");
    if (!f) return SY_E_IO;
    fprintf(f, "{\"model_type\": \"mlp\", \"architectures\": [\"MLP\"], \"image_size\": %d, \"num_channels\": %d, \"num_labels\": 1, \"hidden_sizes\": [", side,
            n->size[0] / (side * side));
    for (int l = 1; l <= n->layers; l++) fprintf(f, "%s%d", l > 1 ? ", " : "", n->size[l]);
    fputs("]}\n", f);
    if (fclose(f) != 0) return SY_E_IO;
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    sy_writer *w;
    TRY(sy_writer_new(ctx, path, 0, &w));
    sy_status st = SY_OK;
    for (int put = 0; put < 2 && st == SY_OK; put++) {
        for (int l = 0; l <= n->layers && st == SY_OK; l++) {
            const int64_t in = n->size[l], out = l < n->layers ? n->size[l + 1] : 1;
            float *zero = calloc((size_t)(in + out), sizeof *zero);
            st = zero ? SY_OK : SY_E_MEMORY;
            for (int bias = 0; bias < 2 && st == SY_OK; bias++) {
                snprintf(name, sizeof name, "layers.%d.%s", l, bias ? "bias" : "weight");
                if (put) st = sy_writer_put(w, name, 0, bias ? 1 : out, bias || l == n->layers ? zero : n->w[l]);
                else st = sy_writer_declare(w, name, SY_F32, bias ? 1 : 2, bias ? &out : (const int64_t[]){ out, in });
            }
            free(zero);
        }
        if (!put && st == SY_OK) st = sy_writer_begin(w);
    }
    if (st == SY_OK) return sy_writer_end(w);
    sy_writer_abort(w);
    return st;
}

/* -- inputs ----------------------------------------------------------------------------------- */

bool student_inputs_new(student_inputs *in, int n, bool decay, toy_rng *r)
{
    *in = (student_inputs){ n, NULL, NULL };
    if (!decay) return true;
    in->q = malloc((size_t)(n * n + n) * sizeof *in->q);
    if (!in->q) return false;
    in->scale = in->q + n * n;
    toy_orthogonal(r, n, in->q);
    for (int j = 0; j < n; j++) in->scale[j] = 1 / (float)(j + 1);
    return true;
}

void student_inputs_free(student_inputs *in)
{
    free(in->q);
    in->q = in->scale = NULL;
}

static void rows_of(const student_inputs *in, toy_rng *r, int rows, float *x)
{
    float z[4096];
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < in->n; j++) z[j] = (float)toy_normal(r);
        for (int j = 0; j < in->n; j++) {
            float sum = 0;
            for (int k = 0; in->q && k < in->n; k++) sum += z[k] * in->scale[k] * in->q[k * in->n + j];
            x[i * in->n + j] = in->q ? sum : z[j];
        }
    }
}

/* -- ops of our own ------------------------------------------------------------------------------ */

static sy_status relu_shape(sy_op_call *c, int *n_aux)
{
    *c->out = *c->in[0];
    *n_aux = 0;
    return SY_OK;
}

static sy_status relu_forward(sy_op_call *c)
{
    const float *x = c->in[0]->data;
    float *y = c->out->data;
    for (int64_t i = 0; i < sy_tensor_count(c->out); i++) y[i] = x[i] > 0 ? x[i] : 0;
    return SY_OK;
}

static sy_status relu_backward(sy_op_call *c)
{
    const float *x = c->in[0]->data, *g = c->dout->data;
    float *d = c->din[0]->data;
    for (int64_t i = 0; i < sy_tensor_count(c->in[0]); i++) d[i] = (c->add[0] ? d[i] : 0) + (x[i] > 0 ? g[i] : 0);
    return SY_OK;
}

static const sy_op relu_row = { .name = "relu_of_student", .min_in = 1, .max_in = 1, .shape = relu_shape, .forward = relu_forward, .backward = relu_backward };

static sy_status square_shape(sy_op_call *c, int *n_aux)
{
    *c->out = (sy_tensor){ .dtype = SY_F32, .rank = 1, .dim = { 1 } };
    *n_aux = 0;
    return SY_OK;
}

static sy_status square_forward(sy_op_call *c)
{
    const float *t = *(const float *const *)c->attr, *y = c->in[0]->data;
    const int64_t n = sy_tensor_count(c->in[0]);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += ((double)y[i] - t[i]) * ((double)y[i] - t[i]);
    *(float *)c->out->data = (float)(sum / (double)n);
    return SY_OK;
}

static sy_status square_backward(sy_op_call *c)
{
    const float *t = *(const float *const *)c->attr, *y = c->in[0]->data;
    const int64_t n = sy_tensor_count(c->in[0]);
    const float g = 2 * *(const float *)c->dout->data / (float)n;
    float *d = c->din[0]->data;
    for (int64_t i = 0; i < n; i++) d[i] = (c->add[0] ? d[i] : 0) + g * (y[i] - t[i]);
    return SY_OK;
}

static const sy_op square_row = { .name = "mean_squared_distance", .min_in = 1, .max_in = 1, .flags = SY_OP_ROOT, .shape = square_shape, .forward = square_forward, .backward = square_backward };

/* -- training --------------------------------------------------------------------------------------- */

typedef struct { const float *x, *y; int n, layers; } teaching;

static sy_status teaching_loss(void *self, sy_run *run, sy_graph *g, const sy_batch *batch, sy_node **total)
{
    const teaching *t = self;
    sy_site *sites[STUDENT_LAYERS + 1];
    (void)batch;
    if (sy_sites(run, sites, STUDENT_LAYERS + 1) <= t->layers) return SY_E_BUG;
    const sy_tensor x = { .dtype = SY_F32, .rank = 2, .dim = { STUDENT_BATCH, t->n }, .data = (void *)(uintptr_t)t->x };
    sy_node *h = sy_const(g, &x);
    for (int l = 0; l < t->layers; l++) {
        h = sy_site_apply(g, sites[l], h);
        if (l < t->layers - 1) h = sy_call(g, &relu_row, &h, 1, NULL, 0);
    }
    *total = sy_call(g, &square_row, &h, 1, &t->y, sizeof t->y);
    return sy_graph_status(g);
}

static const sy_method teaching_method = {
    .abi = SY_METHOD_ABI, .name = "teacher", .kind = SY_OBJECTIVE, .title = "squared distance to a teacher's answers", .size = sizeof(teaching), .loss = teaching_loss,
};

typedef struct {
    sy_context *ctx;
    const student_training *t;
    float *x, *y, *a, *b;      /* a batch, its answers, room                          */
    int32_t target[STUDENT_BATCH];
    sy_batch batch;
} work;

static void fill(work *w, uint64_t key)
{
    toy_rng r = { key };
    rows_of(w->t->inputs, &r, STUDENT_BATCH, w->x);
    answers(w->t->teacher, STUDENT_BATCH, w->x, w->a, w->b, w->y);
}

/* Inputs before training, for methods that look at them. */
static sy_status feed(void *self, int64_t index, int64_t rows, sy_batch *out)
{
    work *w = self;
    if (rows != STUDENT_BATCH) return SY_E_USAGE;
    fill(w, w->t->seed * 1000003 + 99 + (uint64_t)index * 7919);
    *out = w->batch;
    return SY_OK;
}

static sy_status held_out(sy_run *run, work *w, double *loss)
{
    *loss = 0;
    for (int k = 0; k < HELD; k++) {
        sy_loss one;
        fill(w, w->t->seed * 1000003 + 500000 + (uint64_t)k);
        TRY(sy_run_loss(run, &w->batch, &one, NULL));
        *loss += one.loss_sum / HELD;
    }
    return SY_OK;
}

/* Numbers that the next step may change. */
static int64_t live(const sy_run *run)
{
    int n;
    int64_t sum = 0;
    sy_param *const *p = sy_params(run, &n);
    for (int i = 0; i < n; i++) {
        if (!p[i]->trained || p[i]->retired) continue;
        const int64_t count = sy_tensor_count(&p[i]->value);
        int64_t open = 1, all = 1;
        if (p[i]->mask) {
            all = p[i]->mask_axis < 0 ? count : p[i]->value.dim[p[i]->mask_axis];
            open = 0;
            for (int64_t k = 0; k < all; k++) open += p[i]->mask[k] != 0;
        }
        sum += count / all * open;
    }
    return sum;
}

/* Remembers how many numbers each update may change: just before it, masks are set. */
typedef struct { double sum; } counting;

static sy_status counting_on(void *self, sy_run *run, sy_when when)
{
    if (when == SY_UPDATED) ((counting *)self)->sum += (double)live(run);
    return SY_OK;
}

static const sy_method counting_method = { .abi = SY_METHOD_ABI, .name = "count-updates", .kind = SY_OBJECTIVE, .title = "counts", .size = sizeof(counting), .on = counting_on };

static void ranks(const sy_run *run, student_result *out)
{
    int n;
    sy_param *const *p = sy_params(run, &n);
    for (int i = 0; i < n; i++) {
        if (!p[i]->slot || !p[i]->site || !strstr(p[i]->slot->name, "_A") || p[i]->value.rank != 2 || (p[i]->slot->flags & SY_SLOT_STATE)) continue;
        const int l = strrchr(p[i]->site->name, '.')[1] - '0'; /* "layers.N", N of one digit */
        if (l >= 0 && l < STUDENT_LAYERS) out->rank[l] = p[i]->retired ? 0 : p[i]->value.dim[0];
    }
}

static sy_status open_run(work *w, sy_run **out, counting **counts)
{
    const student_training *t = w->t;
    sy_use use[4];
    sy_run_options o;
    int n_settings = 0;
    sy_run_options_init(&o);
    o.model = t->model;
    o.use = use;
    o.dtype = SY_F32;
    o.training = true;
    o.seed = t->seed;
    o.total_steps = t->steps;
    o.row_tokens = 1;
    *out = NULL;
    while (t->settings && t->settings[n_settings]) n_settings++;
    TRY(sy_use_own(w->ctx, &teaching_method, &use[0]));
    *(teaching *)use[0].self = (teaching){ w->x, w->y, w->t->inputs->n, t->layers };
    o.n_use = 1;
    sy_status st = sy_use_own(w->ctx, &counting_method, &use[o.n_use]);
    if (st == SY_OK) {
        *counts = use[o.n_use++].self;
        st = sy_use_new(w->ctx, t->adapter, SY_ADAPTER, t->settings, n_settings, &use[o.n_use]);
    }
    if (st == SY_OK) st = sy_use_new(w->ctx, "adamw", SY_OPTIMIZER, NULL, 0, &use[++o.n_use]);
    if (st != SY_OK) {
        for (int i = 0; i < o.n_use; i++) sy_use_free(w->ctx, &use[i]);
        return st;
    }
    o.n_use++;
    TRY(sy_run_open(w->ctx, &o, out));
    sy_plan plan;
    st = sy_run_plan(*out, STUDENT_BATCH, true, &plan);
    return st == SY_OK ? sy_run_reserve(*out, &plan) : st;
}

static sy_status train(work *w, sy_run *run, counting *counts, student_result *out)
{
    const student_training *t = w->t;
    double before, now;
    sy_run_feed(run, feed, w);
    out->trained = sy_run_trained(run);
    TRY(held_out(run, w, &before));
    TRY(sy_run_event(run, SY_START));
    for (int k = 0; k < t->steps; k++) {
        sy_step_result r;
        fill(w, t->seed * 1000003 + 1000000 + (uint64_t)k);
        TRY(sy_run_step_once(run, &w->batch, t->linear ? t->lr * (1 - (double)k / t->steps) : t->lr, 0, &r));
        if (k == 0) out->gradient = r.grad_norm;
        for (int i = 0; i < STUDENT_POINTS; i++) {
            if (t->at[i] != k + 1) continue;
            TRY(held_out(run, w, &now));
            out->points[i] = now / before;
        }
    }
    TRY(sy_run_event(run, SY_STOP));
    TRY(held_out(run, w, &now));
    out->loss = now / before;
    out->updated = t->steps ? counts->sum / t->steps : 0;
    out->parameters = live(run);
    ranks(run, out);
    return t->save ? sy_run_save(run, t->save) : SY_OK;
}

sy_status student_train(sy_context *ctx, const student_training *t, student_result *out)
{
    int widest = 1;
    const student_net *n = t->teacher;
    sy_run *run = NULL;
    counting *counts = NULL;
    memset(out, 0, sizeof *out);
    for (int l = 0; l <= n->layers; l++) widest = n->size[l] > widest ? n->size[l] : widest;
    work w = { .ctx = ctx, .t = t, .x = calloc((size_t)(4 * STUDENT_BATCH * widest), sizeof(float)) };
    if (!w.x) return SY_E_MEMORY;
    w.y = w.x + STUDENT_BATCH * widest;
    w.a = w.y + STUDENT_BATCH * widest;
    w.b = w.a + STUDENT_BATCH * widest;
    int side = (int)sqrt(n->size[0]);
    while (n->size[0] % (side * side)) side--;
    w.batch = (sy_batch){ .rows = STUDENT_BATCH, .seq = 1, .tokens = STUDENT_BATCH, .target = w.target, .samples = STUDENT_BATCH, .trained = STUDENT_BATCH, .pixels = w.x,
                          .height = side, .width = side, .channels = n->size[0] / (side * side) };
    sy_status st = open_run(&w, &run, &counts);
    if (st == SY_OK) st = train(&w, run, counts, out);
    sy_run_close(run);
    free(w.x);
    return st;
}
