/* SPDX-License-Identifier: Apache-2.0 */
/* The shared toy of the adapters' experiments; see _toy.h. */
#include "_toy.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TRY(call)                              \
    do {                                       \
        sy_status try_ = (call);               \
        if (try_ != SY_OK) return try_;        \
    } while (0)

/* -- random numbers -------------------------------------------------------------------- */

uint64_t toy_next(toy_rng *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double toy_uniform(toy_rng *r) { return ((double)(toy_next(r) >> 11) + 0.5) * 0x1p-53; }

double toy_normal(toy_rng *r)
{
    const double u = toy_uniform(r), v = toy_uniform(r);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

double toy_mean(const double *v, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += v[i];
    return sum / n;
}

double toy_least(const double *v, int n)
{
    double m = v[0];
    for (int i = 1; i < n; i++) m = fmin(m, v[i]);
    return m;
}

double toy_most(const double *v, int n)
{
    double m = v[0];
    for (int i = 1; i < n; i++) m = fmax(m, v[i]);
    return m;
}

/* -- folders ------------------------------------------------------------------------------ */

sy_status toy_folder(char dir[256])
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, 256, "%s/steelyard-repro-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    return mkdtemp(dir) ? SY_OK : SY_E_IO;
}

void toy_folder_remove(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[600];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (unlink(path) != 0) toy_folder_remove(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}

/* -- models --------------------------------------------------------------------------------- */

typedef struct { char name[80]; int rank; int64_t dim[2]; double sigma; } tensor;

static int tensors_of(const toy_shape *s, tensor *t)
{
    int n = 0;
    const int64_t h = s->hidden, f = s->ffn;
    const struct { const char *name; int64_t out, in; } linear[] = {
        { "self_attn.q_proj", h, h }, { "self_attn.k_proj", h, h }, { "self_attn.v_proj", h, h }, { "self_attn.o_proj", h, h },
        { "mlp.gate_proj", f, h }, { "mlp.up_proj", f, h }, { "mlp.down_proj", h, f },
    };
    t[n++] = (tensor){ "model.embed_tokens.weight", 2, { s->vocab, h }, 0.5 };
    for (int l = 0; l < s->layers; l++) {
        for (int i = 0; i < 7; i++) {
            t[n] = (tensor){ "", 2, { linear[i].out, linear[i].in }, 1 / sqrt((double)linear[i].in) };
            snprintf(t[n++].name, sizeof t->name, "model.layers.%d.%s.weight", l, linear[i].name);
        }
        t[n] = (tensor){ "", 1, { h, 0 }, 0 };
        snprintf(t[n++].name, sizeof t->name, "model.layers.%d.input_layernorm.weight", l);
        t[n] = (tensor){ "", 1, { h, 0 }, 0 };
        snprintf(t[n++].name, sizeof t->name, "model.layers.%d.post_attention_layernorm.weight", l);
    }
    t[n++] = (tensor){ "model.norm.weight", 1, { h, 0 }, 0 };
    t[n++] = (tensor){ "lm_head.weight", 2, { s->vocab, h }, 1 / sqrt((double)h) };
    return n;
}

sy_status toy_model_write(sy_context *ctx, const toy_shape *s, const char *dir)
{
    char path[600];
    tensor t[64];
    toy_rng rng = { s->seed };
    const int n = tensors_of(s, t);
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "w");
    if (!f) return SY_E_IO;
    fprintf(f, "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":%d,\"num_hidden_layers\":%d,"
            "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"intermediate_size\":%d,\"vocab_size\":%d,\"max_position_embeddings\":%d,"
            "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"torch_dtype\":\"float32\"}\n",
            s->hidden, s->layers, s->heads, s->heads, s->ffn, s->vocab, TOY_SEQ);
    if (fclose(f) != 0) return SY_E_IO;
    sy_writer *w;
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    TRY(sy_writer_new(ctx, path, 0, &w));
    sy_status st = SY_OK;
    for (int i = 0; i < n && st == SY_OK; i++) st = sy_writer_declare(w, t[i].name, SY_F32, t[i].rank, t[i].dim);
    if (st == SY_OK) st = sy_writer_begin(w);
    for (int i = 0; i < n && st == SY_OK; i++) {
        const int64_t rows = t[i].rank > 1 ? t[i].dim[0] : 1, count = t[i].dim[0] * (t[i].rank > 1 ? t[i].dim[1] : 1);
        float *v = malloc((size_t)count * sizeof *v);
        for (int64_t k = 0; v && k < count; k++) v[k] = (float)(t[i].sigma > 0 ? t[i].sigma * toy_normal(&rng) : 1);
        st = v ? sy_writer_put(w, t[i].name, 0, rows, v) : SY_E_MEMORY;
        free(v);
    }
    if (st == SY_OK) return sy_writer_end(w);
    sy_writer_abort(w);
    return st;
}

/* -- text -------------------------------------------------------------------------------------- */

static void context_make(float *cumulative, toy_rng *r)
{
    double p[TOY_SYMBOLS], sum = 0, at = 0;
    for (int k = 0; k < TOY_SYMBOLS; k++) sum += p[k] = exp(2 * toy_normal(r));
    for (int k = 0; k < TOY_SYMBOLS; k++) cumulative[k] = (float)((at += p[k]) / sum);
}

void toy_chain_make(toy_chain *c, uint64_t seed)
{
    toy_rng r = { seed };
    for (int i = 0; i < TOY_SYMBOLS * TOY_SYMBOLS; i++) context_make(c->p[i], &r);
}

void toy_chain_change(toy_chain *c, uint64_t seed)
{
    toy_rng r = { seed };
    for (int i = 0; i < TOY_SYMBOLS * TOY_SYMBOLS; i++)
        if (toy_uniform(&r) < 0.5) context_make(c->p[i], &r);
}

static int draw(const float *cumulative, toy_rng *r)
{
    const double u = toy_uniform(r);
    for (int k = 0; k < TOY_SYMBOLS - 1; k++)
        if (u < cumulative[k]) return k;
    return TOY_SYMBOLS - 1;
}

double toy_chain_entropy(const toy_chain *c, uint64_t seed)
{
    toy_rng r = { seed };
    int a = 0, b = 1;
    double sum = 0;
    for (int i = 0; i < 20000; i++) {
        const float *p = c->p[a * TOY_SYMBOLS + b];
        const int k = draw(p, &r);
        sum -= log((double)p[k] - (k ? (double)p[k - 1] : 0) + 1e-9);
        a = b;
        b = k;
    }
    return sum / 20000;
}

void toy_batch_make(toy_batch *b, const toy_chain *c, toy_rng *r)
{
    b->batch = (sy_batch){ .rows = TOY_ROWS, .seq = TOY_SEQ, .tokens = TOY_TOKENS, .ids = b->ids, .positions = b->positions, .first = b->first,
                           .target = b->target, .sample = b->sample, .samples = TOY_ROWS, .trained = TOY_TOKENS };
    for (int row = 0; row < TOY_ROWS; row++) {
        int before = (int)(toy_next(r) % TOY_SYMBOLS), now = (int)(toy_next(r) % TOY_SYMBOLS);
        for (int t = 0; t < TOY_SEQ; t++) {
            const int i = row * TOY_SEQ + t, next = draw(c->p[before * TOY_SYMBOLS + now], r);
            b->ids[i] = now;
            b->positions[i] = t;
            b->first[i] = row * TOY_SEQ;
            b->sample[i] = row;
            b->target[i] = next;
            before = now;
            now = next;
        }
    }
}

/* -- training ------------------------------------------------------------------------------------ */

static int count(const char *const *s)
{
    int n = 0;
    while (s && s[n]) n++;
    return n;
}

static double cosine(double lr, int step, int steps) { return lr * 0.5 * (1 + cos(3.14159265358979323846 * step / steps)); }

static sy_status open_run(sy_context *ctx, const char *model, const char *adapter, const char *const *settings, const sy_use *objective, uint64_t seed,
                          int64_t tokens, sy_run **out)
{
    sy_use use[3];
    sy_run_options o;
    sy_run_options_init(&o);
    o.model = model;
    o.use = use;
    o.dtype = SY_F32;
    o.training = adapter != NULL;
    o.seed = seed;
    *out = NULL;
    if (objective) use[o.n_use++] = *objective;
    if (adapter) {
        sy_status st = sy_use_new(ctx, adapter, SY_ADAPTER, settings, count(settings), &use[o.n_use]);
        if (st == SY_OK) st = sy_use_new(ctx, "adamw", SY_OPTIMIZER, NULL, 0, &use[++o.n_use]);
        if (st != SY_OK) {
            for (int i = 0; i < o.n_use; i++) sy_use_free(ctx, &use[i]);
            return st;
        }
        o.n_use++;
    }
    TRY(sy_run_open(ctx, &o, out));
    sy_plan plan;
    sy_status st = sy_run_plan(*out, tokens, o.training, &plan);
    if (st == SY_OK) st = sy_run_reserve(*out, &plan);
    if (st == SY_OK) return SY_OK;
    sy_run_close(*out);
    *out = NULL;
    return st;
}

static sy_status steps(sy_run *run, const toy_training *t, const toy_chain *chain, toy_batch *b)
{
    toy_rng text = { t->seed * 1000003 + 17 };
    for (int k = 0; k < t->steps && t->adapter; k++) {
        sy_step_result r;
        toy_batch_make(b, chain, &text);
        TRY(sy_run_step_once(run, &b->batch, cosine(t->lr, k, t->steps), 1.0, &r));
        if (k == 0 && t->gradient) *t->gradient = r.grad_norm;
    }
    return SY_OK;
}

static sy_status validate(sy_run *run, const toy_training *t, const toy_chain *chain, toy_batch *b, double *loss)
{
    toy_rng held = { t->seed * 1000003 + 777777 }; /* text that training never sees */
    double sum = 0;
    int64_t n = 0;
    for (int k = 0; k < 16; k++) {
        sy_loss one;
        toy_batch_make(b, chain, &held);
        TRY(sy_run_loss(run, &b->batch, &one, NULL));
        sum += one.loss_sum;
        n += one.trained;
    }
    *loss = sum / (double)n;
    return SY_OK;
}

sy_status toy_train(sy_context *ctx, const toy_training *t, const toy_chain *chain, double *loss, int64_t *trained)
{
    sy_run *run;
    toy_batch *b = malloc(sizeof *b);
    if (!b) return SY_E_MEMORY;
    sy_status st = open_run(ctx, t->model, t->adapter, t->settings, NULL, t->seed, TOY_TOKENS, &run);
    if (st == SY_OK) {
        st = steps(run, t, chain, b);
        if (st == SY_OK) st = validate(run, t, chain, b, loss);
        if (st == SY_OK && t->save) st = sy_run_save(run, t->save);
        if (trained) *trained = sy_run_trained(run);
        sy_run_close(run);
    }
    free(b);
    return st;
}

sy_status toy_pretrained(sy_context *ctx, uint64_t seed, toy_chain *old, toy_chain *now, char dir[256], double *start)
{
    const toy_shape shape = { .hidden = 64, .layers = 2, .heads = 4, .ffn = 256, .vocab = TOY_SYMBOLS, .seed = seed };
    char random[256];
    toy_chain_make(old, seed * 7919);
    *now = *old;
    toy_chain_change(now, seed * 104729);
    TRY(toy_folder(random));
    sy_status st = toy_folder(dir);
    if (st == SY_OK) st = toy_model_write(ctx, &shape, random);
    const toy_training t = { .model = random, .adapter = "full", .lr = 3e-3, .steps = 3000, .seed = seed, .save = dir };
    if (st == SY_OK) st = toy_train(ctx, &t, old, start, NULL);
    toy_folder_remove(random);
    return st;
}

/* -- one linear map --------------------------------------------------------------------------------- */

/* The loss sum (y - t)^2 over all elements, as an op of our own. */
static sy_status square_shape(sy_op_call *c, int *n_aux)
{
    *c->out = (sy_tensor){ .dtype = SY_F32, .rank = 1, .dim = { 1 } };
    *n_aux = 0;
    return SY_OK;
}

static sy_status square_forward(sy_op_call *c)
{
    const float *t = *(const float *const *)c->attr, *y = c->in[0]->data;
    double sum = 0;
    for (int64_t i = 0; i < sy_tensor_count(c->in[0]); i++) sum += ((double)y[i] - t[i]) * ((double)y[i] - t[i]);
    *(float *)c->out->data = (float)sum;
    return SY_OK;
}

static sy_status square_backward(sy_op_call *c)
{
    const float *t = *(const float *const *)c->attr, *y = c->in[0]->data;
    const float g = *(const float *)c->dout->data;
    float *d = c->din[0]->data;
    for (int64_t i = 0; i < sy_tensor_count(c->in[0]); i++) d[i] = (c->add[0] ? d[i] : 0) + 2 * g * (y[i] - t[i]);
    return SY_OK;
}

static const sy_op square_row = {
    .name = "squared_distance", .min_in = 1, .max_in = 1, .flags = SY_OP_ROOT, .shape = square_shape, .forward = square_forward, .backward = square_backward
};

/* An objective that looks at one layer instead of the model: its answers to unit vectors. */
typedef struct { const float *target, *unit; } distance;

static sy_status distance_loss(void *self, sy_run *run, sy_graph *g, const sy_batch *batch, sy_node **total)
{
    const distance *d = self;
    sy_site *sites[64];
    (void)batch;
    const int n = sy_sites(run, sites, 64);
    for (int i = 0; i < n; i++)
        if (strcmp(sites[i]->name, "model.layers.0.self_attn.q_proj") == 0) {
            const sy_tensor unit = { .dtype = SY_F32, .rank = 2, .dim = { TOY_LINEAR, TOY_LINEAR }, .data = (void *)(uintptr_t)d->unit };
            sy_node *y = sy_site_apply(g, sites[i], sy_const(g, &unit));
            *total = sy_call(g, &square_row, &y, 1, &d->target, sizeof d->target);
            return SY_OK;
        }
    return SY_E_BUG;
}

static const sy_method distance_method = {
    .abi = SY_METHOD_ABI, .name = "squared-distance", .kind = SY_OBJECTIVE, .title = "squared distance of one layer to a target",
    .size = sizeof(distance), .loss = distance_loss,
};

sy_status toy_fit(sy_context *ctx, const char *adapter, const char *const *settings, const float *target, double lr, int n_steps, uint64_t seed,
                  double *error, int64_t *trained)
{
    enum { N = TOY_LINEAR };
    char dir[256];
    const toy_shape shape = { .hidden = N, .layers = 1, .heads = 4, .ffn = 16, .vocab = 8, .seed = seed };
    float *unit = calloc(2 * N * N, sizeof *unit), *want = unit + N * N;
    double norm = 0;
    if (!unit) return SY_E_MEMORY;
    sy_status st = toy_folder(dir);
    if (st == SY_OK) st = toy_model_write(ctx, &shape, dir);
    sy_use use = { NULL, NULL };
    sy_run *run = NULL;
    if (st == SY_OK) st = sy_use_own(ctx, &distance_method, &use);
    if (st == SY_OK) {
        distance *d = use.self;
        d->target = want;
        d->unit = unit;
        st = open_run(ctx, dir, adapter, settings, &use, seed, 2, &run);
    }
    if (st == SY_OK) { /* want = (W + target)^T: row j is the answer to unit vector j */
        sy_site *sites[64];
        const int n = sy_sites(run, sites, 64);
        for (int i = 0; i < n; i++) {
            const sy_weight *w = sites[i]->weight;
            float row[N];
            if (strcmp(sites[i]->name, "model.layers.0.self_attn.q_proj") != 0) continue;
            for (int o = 0; o < N && st == SY_OK; o++) {
                st = w->type->dense(ctx, w, o, 1, row);
                for (int j = 0; j < N; j++) {
                    want[j * N + o] = row[j] + target[o * N + j];
                    norm += (double)target[o * N + j] * target[o * N + j];
                }
            }
        }
        for (int i = 0; i < N; i++) unit[i * N + i] = 1;
        *trained = sy_run_trained(run);
    }
    int32_t ids[2] = { 0, 1 }, positions[2] = { 0, 1 }, first[2] = { 0, 0 }, next[2] = { 1, -1 }, sample[2] = { 0, 0 };
    const sy_batch batch = { .rows = 1, .seq = 2, .tokens = 2, .ids = ids, .positions = positions, .first = first, .target = next, .sample = sample,
                             .samples = 1, .trained = 1 };
    for (int k = 0; k < n_steps && st == SY_OK; k++) {
        sy_step_result r;
        st = sy_run_step_once(run, &batch, cosine(lr, k, n_steps), 0, &r);
    }
    if (st == SY_OK) {
        sy_loss last;
        st = sy_run_loss(run, &batch, &last, NULL);
        *error = last.loss_sum / norm;
    }
    sy_run_close(run);
    toy_folder_remove(dir);
    free(unit);
    return st;
}

void toy_low_rank(toy_rng *r, int n, int rank, float *out)
{
    double *u = malloc((size_t)(2 * n * rank) * sizeof *u);
    for (int i = 0; u && i < 2 * n * rank; i++) u[i] = toy_normal(r);
    for (int i = 0; u && i < n; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int k = 0; k < rank; k++) sum += u[i * rank + k] * u[(n + j) * rank + k];
            out[i * n + j] = (float)(sum / sqrt(rank * (double)n));
        }
    free(u);
}

/* Gram-Schmidt on a Gaussian matrix, twice over for orthogonality to the last bits. */
void toy_orthogonal(toy_rng *r, int n, float *out)
{
    double *q = malloc((size_t)(n * n) * sizeof *q);
    for (int i = 0; q && i < n; i++) {
        for (int j = 0; j < n; j++) q[i * n + j] = toy_normal(r);
        for (int again = 0; again < 2; again++)
            for (int k = 0; k < i; k++) {
                double dot = 0;
                for (int j = 0; j < n; j++) dot += q[i * n + j] * q[k * n + j];
                for (int j = 0; j < n; j++) q[i * n + j] -= dot * q[k * n + j];
            }
        double norm = 0;
        for (int j = 0; j < n; j++) norm += q[i * n + j] * q[i * n + j];
        for (int j = 0; j < n; j++) q[i * n + j] /= sqrt(norm);
    }
    for (int i = 0; q && i < n * n; i++) out[i] = (float)q[i];
    free(q);
}
