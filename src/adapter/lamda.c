/* SPDX-License-Identifier: Apache-2.0 */
/* LaMDA and LaMDA++: the update s (B S - C0) A, A [r,in] frozen, S [r,r] trained for good, B
 * [out,r] trained at first and frozen column by column over the first share eta of training;
 * C0 = B0 S0 keeps the update zero at the start. A, B, S start as the leading singular triplets
 * of W. A has no gradient, so x is not kept for backward: r numbers a token instead of in.
 *
 * L = s (B S - C0) is formed once a forward in f32, from master copies, by the same product
 * that made C0: the update is exactly zero at step 0 in bf16 too. LaMDA++ shares the ranks out
 * before training so that all modules keep about one share of their energy. */
#include "adapter/lora.h"
#include "graph/ops.h"

#include <jansson.h>
#include <math.h>

enum { SVD_RESIDUAL, SVD_ZERO, LORA, RANDOM };
enum { DESC, ASC };
enum { LINEAR, NONE, ALL };
enum { RANDOMIZED, EXACT };
static const char *const inits[] = { "svd_residual", "svd_zero", "lora", "random", NULL }, *const orders[] = { "desc", "asc", NULL };
static const char *const schedules[] = { "linear", "none", "all", NULL }, *const solvers[] = { "randomized", "exact", NULL };

typedef struct block { struct block *next; } block;

typedef struct {
    sy_adapter_common common;
    int64_t rank, r_min, r_max;
    double alpha, eta, dropout;
    int init, order, schedule, solver;
    bool plus;
    sy_map rank_pattern;
    sy_context *ctx;
    block *blocks;
    /* LaMDA++ while ranks are shared out */
    struct spectrum { const sy_site *site; int64_t rank, least, most; double *energy; } *all;
    int n_all;
} lamda;

typedef struct { uint8_t *mask; } own;

enum { ROW_A, ROW_S, ROW_B, ROW_C };

static const sy_option options[] = {
    SY_ADAPTER_ROWS(lamda),
    { .name = "rank", .type = SY_OPT_INT, .offset = offsetof(lamda, rank), .def = "32", .min = 1, .max = 65536, .peft = "r", .alias = "r",
      .help = "rank of the update; at most the lesser side of a weight", .example = "8" },
    { .name = "alpha", .type = SY_OPT_FLOAT, .offset = offsetof(lamda, alpha), .def = "0", .min = 0, .max = 1e9, .peft = "alpha",
      .help = "scale of the update: alpha/rank (0: 1)", .example = "16" },
    { .name = "init", .type = SY_OPT_ENUM, .offset = offsetof(lamda, init), .def = "svd_residual", .choices = inits, .peft = "init",
      .help = "start: W's singular triplets with S at the singular values, with S at 0; LoRA's random start; orthonormal random matrices", .example = "svd_zero" },
    { .name = "eta", .type = SY_OPT_FLOAT, .offset = offsetof(lamda, eta), .def = "0.3", .min = 0, .max = 1, .help = "share of the steps after which B is frozen", .example = "0.5" },
    { .name = "freeze-order", .type = SY_OPT_ENUM, .offset = offsetof(lamda, order), .def = "desc", .choices = orders, .flags = SY_OPT_ADVANCED,
      .help = "which columns of B freeze first: those of the largest singular values, or of the smallest", .example = "asc" },
    { .name = "freeze-schedule", .type = SY_OPT_ENUM, .offset = offsetof(lamda, schedule), .def = "linear", .choices = schedules, .flags = SY_OPT_ADVANCED,
      .help = "linear; none: B is never frozen; all: from the start", .example = "none" },
    { .name = "plus", .type = SY_OPT_BOOL, .offset = offsetof(lamda, plus), .def = "off", .help = "LaMDA++: share the ranks out by the weights' spectra", .example = "on" },
    { .name = "r-min", .type = SY_OPT_INT, .offset = offsetof(lamda, r_min), .def = "0", .min = 0, .max = 65536, .flags = SY_OPT_ADVANCED,
      .help = "least rank of a module with plus (0: half the rank)", .example = "4" },
    { .name = "r-max", .type = SY_OPT_INT, .offset = offsetof(lamda, r_max), .def = "0", .min = 0, .max = 65536, .flags = SY_OPT_ADVANCED,
      .help = "largest rank of a module with plus (0: twice the rank)", .example = "16" },
    { .name = "dropout", .type = SY_OPT_FLOAT, .offset = offsetof(lamda, dropout), .def = "0.1", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN, .peft = "dropout",
      .help = "dropout on the update's input", .example = "0" },
    { .name = "svd", .type = SY_OPT_ENUM, .offset = offsetof(lamda, solver), .def = "randomized", .choices = solvers, .flags = SY_OPT_ADVANCED,
      .help = "how the singular triplets are found", .example = "exact" },
    { .name = "rank-pattern", .type = SY_OPT_MAP, .offset = offsetof(lamda, rank_pattern), .flags = SY_OPT_ADVANCED, .peft = "rank_pattern",
      .help = "rank of modules whose path ends with (or matches) a key", .example = "q_proj=16" },
    { .name = NULL }
};

static const sy_slot slots[] = {
    [ROW_A] = { .name = ".lamda_A", .shape = "rank,in", .flags = SY_SLOT_FROZEN, .fill = SY_FILL_OWN },
    [ROW_S] = { .name = ".lamda_S", .shape = "rank,rank", .flags = SY_SLOT_TRAIN | SY_SLOT_WIDE, .fill = SY_FILL_OWN, .group = "lamda" },
    [ROW_B] = { .name = ".lamda_B", .shape = "out,rank", .flags = SY_SLOT_TRAIN | SY_SLOT_WIDE, .fill = SY_FILL_OWN, .group = "lamda" },
    [ROW_C] = { .name = ".lamda_C", .shape = "out,rank", .flags = SY_SLOT_FROZEN | SY_SLOT_WIDE, .fill = SY_FILL_OWN },
    { .name = NULL }
};

static double scale_of(const lamda *l) { return l->alpha > 0 ? l->alpha / (double)l->rank : 1; }

static void *keep(lamda *l, size_t bytes)
{
    block *b = syi_calloc(l->ctx, 1, 64 + bytes);
    if (!b) return NULL;
    b->next = l->blocks;
    l->blocks = b;
    return (char *)b + 64;
}

static void release(void *self)
{
    lamda *l = self;
    for (block *b = l->blocks, *next; b; b = next) {
        next = b->next;
        syi_free(l->ctx, b);
    }
    l->blocks = NULL;
}

/* -- ranks --------------------------------------------------------------------------------- */

enum { ITERATIONS = 4 };

/* u[out,p], s[p], vt[p,in] of the weight, the first r triplets valid; *p is u's row length. */
static sy_status triplets(lamda *l, sy_run *run, const sy_site *site, int64_t r, float **u, float **s, float **vt, int64_t *p, double *energy)
{
    const int64_t in = site->in, out = site->out;
    float *w = NULL;
    *p = l->solver == EXACT ? syi_min(in, out) : r;
    *u = syi_alloc(l->ctx, (size_t)(out * *p) * sizeof **u);
    *s = syi_alloc(l->ctx, (size_t)*p * sizeof **s);
    *vt = syi_alloc(l->ctx, (size_t)(*p * in) * sizeof **vt);
    sy_status st = *u && *s && *vt ? syi_weight_dense(l->ctx, site->weight, &w) : SY_E_MEMORY;
    if (st == SY_OK && energy) {
        *energy = 0;
        for (int64_t i = 0; i < in * out; i++) *energy += (double)w[i] * w[i];
    }
    if (st == SY_OK)
        st = l->solver == EXACT ? syi_svd(l->ctx, out, in, w, *u, *s, *vt)
                                : syi_rsvd(sy_run_engine(run), out, in, w, r, ITERATIONS, syi_key(sy_run_seed(run), "lamda", site->name, 0), *u, *s, *vt);
    syi_free(l->ctx, w);
    if (st != SY_OK) {
        syi_free(l->ctx, *u);
        syi_free(l->ctx, *s);
        syi_free(l->ctx, *vt);
    }
    return st;
}

static sy_status site_rank(lamda *l, sy_run *run, const sy_site *site, int64_t *rank)
{
    double r = (double)l->rank;
    SYI_TRY(syi_pattern_value(l->ctx, &l->rank_pattern, site, sy_run_adapter_config(run) != NULL, &r));
    if (r < 1 || r != floor(r) || r > 65536)
        return syi_fail(l->ctx, SY_E_USAGE, "lamda: rank-pattern gives %s the rank %g; a rank is a whole number from 1 to 65536", site->name, r);
    *rank = syi_min((int64_t)r, syi_min(site->in, site->out));
    if (*rank < (int64_t)r) syi_log(l->ctx, SY_LOG_WARN, "lamda: %s has no more than rank %lld; %lld was asked for", site->name, (long long)*rank, (long long)r);
    return SY_OK;
}

static sy_status add_site(void *self, sy_run *run, sy_site *site)
{
    lamda *l = self;
    int64_t r = 1;
    SYI_TRY(syi_linear_only(l->ctx, "lamda", site));
    SYI_TRY(site_rank(l, run, site, &r));
    struct spectrum *q = &l->all[l->n_all++];
    const int64_t p = syi_min(site->in, site->out);
    *q = (struct spectrum){ .site = site, .rank = r };
    q->least = syi_min(p, l->r_min > 0 ? l->r_min : syi_max(1, l->rank / 2));
    q->most = syi_min(p, l->r_max > 0 ? l->r_max : 2 * l->rank);
    if (!l->plus || sy_run_planning(run) || sy_run_adapter_config(run)) return SY_OK;
    if (q->least > q->most)
        return syi_fail(l->ctx, SY_E_USAGE, "lamda: r-min %lld is above r-max %lld", (long long)q->least, (long long)q->most);
    float *u, *s, *vt;
    double all = 0;
    int64_t row;
    SYI_TRY(triplets(l, run, site, q->most, &u, &s, &vt, &row, &all));
    q->energy = syi_alloc(l->ctx, (size_t)(q->most + 1) * sizeof *q->energy);
    if (q->energy) {
        q->energy[0] = 0;
        for (int64_t k = 0; k < q->most; k++) q->energy[k + 1] = q->energy[k] + (all > 0 ? (double)s[k] * s[k] / all : 0);
        q->rank = q->least;
    }
    syi_free(l->ctx, u);
    syi_free(l->ctx, s);
    syi_free(l->ctx, vt);
    return q->energy ? SY_OK : SY_E_MEMORY;
}

/* One rank after the other to the module that keeps the smallest share of its energy. */
static void share_out(lamda *l)
{
    int64_t left = 0;
    for (int i = 0; i < l->n_all; i++) left += l->rank - l->all[i].rank;
    for (; left > 0; left--) {
        struct spectrum *worst = NULL;
        for (int i = 0; i < l->n_all; i++) {
            struct spectrum *q = &l->all[i];
            if (q->rank < q->most && (!worst || q->energy[q->rank] < worst->energy[worst->rank])) worst = q;
        }
        if (!worst) break;
        worst->rank++;
    }
}

static sy_status init(void *self, sy_run *run)
{
    lamda *l = self;
    l->ctx = sy_run_context(run);
    const int n = sy_sites(run, NULL, 0);
    l->all = syi_calloc(l->ctx, (size_t)syi_max(1, n), sizeof *l->all);
    l->n_all = 0;
    sy_status st = l->all ? syi_each_site(run, add_site, l) : SY_E_MEMORY;
    if (st == SY_OK && l->n_all && l->all[0].energy) share_out(l);
    for (int i = 0; i < l->n_all; i++) {
        if (st == SY_OK) st = sy_site_dim(run, l->all[i].site, "rank", l->all[i].rank);
        syi_free(l->ctx, l->all[i].energy);
    }
    syi_free(l->ctx, l->all);
    l->all = NULL;
    return st;
}

/* -- starts -------------------------------------------------------------------------------- */

/* Orthonormal rows [r,n], random (Gram-Schmidt in f64). */
static sy_status orthonormal_rows(lamda *l, uint64_t key, int64_t r, int64_t n, float *out)
{
    double *q = syi_alloc(l->ctx, (size_t)(r * n) * sizeof *q);
    if (!q) return SY_E_MEMORY;
    syi_normal(key, 0, r * n, out);
    for (int64_t k = 0; k < r; k++) {
        double *row = q + k * n, norm = 0;
        for (int64_t j = 0; j < n; j++) row[j] = out[k * n + j];
        for (int twice = 0; twice < 2; twice++)
            for (int64_t i = 0; i < k; i++) {
                double dot = 0;
                for (int64_t j = 0; j < n; j++) dot += row[j] * q[i * n + j];
                for (int64_t j = 0; j < n; j++) row[j] -= dot * q[i * n + j];
            }
        for (int64_t j = 0; j < n; j++) norm += row[j] * row[j];
        norm = sqrt(norm);
        for (int64_t j = 0; j < n; j++) out[k * n + j] = (float)(row[j] /= norm > 0 ? norm : 1);
    }
    syi_free(l->ctx, q);
    return SY_OK;
}

static sy_status start_random(lamda *l, sy_run *run, sy_wrap *at)
{
    sy_param *pa = at->slot[ROW_A], *pb = at->slot[ROW_B];
    const int64_t r = pa->value.dim[0], in = pa->value.dim[1], out = pb->value.dim[0];
    float *v = syi_alloc(l->ctx, (size_t)(r * syi_max(in, out)) * sizeof *v);
    sy_status st = v ? orthonormal_rows(l, sy_run_key(run, "lamda_A", at->site->name), r, in, v) : SY_E_MEMORY;
    if (st == SY_OK) {
        syi_param_put(pa, 0, r * in, v);
        st = orthonormal_rows(l, sy_run_key(run, "lamda_B", at->site->name), r, out, v);
    }
    for (int64_t o = 0; o < out && st == SY_OK; o++)
        for (int64_t k = 0; k < r; k++) syi_param_put(pb, o * r + k, 1, &v[k * out + o]);
    syi_free(l->ctx, v);
    return st;
}

static sy_status start_svd(lamda *l, sy_run *run, sy_wrap *at)
{
    sy_param *pa = at->slot[ROW_A], *pb = at->slot[ROW_B], *ps = at->slot[ROW_S];
    const int64_t r = pa->value.dim[0], in = pa->value.dim[1], out = pb->value.dim[0];
    float *u, *s, *vt;
    int64_t p;
    SYI_TRY(triplets(l, run, at->site, r, &u, &s, &vt, &p, NULL));
    for (int64_t k = 0; k < r; k++) {
        int64_t most = 0;
        for (int64_t j = 1; j < in; j++)
            if (fabsf(vt[k * in + j]) > fabsf(vt[k * in + most])) most = j;
        const float sign = vt[k * in + most] < 0 ? -1.0f : 1.0f, value = (float)(s[k] / scale_of(l));
        for (int64_t j = 0; j < in; j++) vt[k * in + j] *= sign;
        for (int64_t o = 0; o < out; o++) u[o * p + k] *= sign;
        if (l->init == SVD_RESIDUAL) syi_param_put(ps, k * r + k, 1, &value);
    }
    syi_param_put(pa, 0, r * in, vt);
    for (int64_t o = 0; o < out; o++) syi_param_put(pb, o * r, r, u + o * p);
    syi_free(l->ctx, u);
    syi_free(l->ctx, s);
    syi_free(l->ctx, vt);
    return SY_OK;
}

static sy_status attach(void *self, sy_run *run, sy_wrap *at)
{
    lamda *l = self;
    own *o = at->own;
    sy_param *pa = at->slot[ROW_A], *pb = at->slot[ROW_B], *ps = at->slot[ROW_S], *pc = at->slot[ROW_C];
    const int64_t r = pa->value.dim[0], out = pb->value.dim[0];
    o->mask = keep(l, (size_t)r);
    if (!o->mask) return SY_E_MEMORY;
    if (sy_run_adapter_config(run)) return SY_OK;
    if (l->init == LORA) {
        syi_param_uniform(pa, sy_run_key(run, "lamda_A", at->site->name), 1 / sqrt((double)at->site->in));
        syi_param_uniform(ps, sy_run_key(run, "lamda_S", at->site->name), 1 / sqrt((double)r));
        return SY_OK;
    }
    SYI_TRY(l->init == RANDOM ? start_random(l, run, at) : start_svd(l, run, at));
    const sy_dtype dt = pb->value.dtype; /* the product that forward makes */
    return syi_gemm(sy_run_engine(run), out, r, r, 1, (syi_mat){ dt, pb->value.data, r, false }, (syi_mat){ dt, ps->value.data, r, false }, 0, dt, pc->value.data, r);
}

/* -- the schedule ---------------------------------------------------------------------------- */

/* Frozen columns of a B of rank r before step t (from 0). */
static int64_t frozen(const lamda *l, sy_run *run, int64_t r)
{
    const int64_t total = sy_run_total(run), t = sy_run_step(run);
    if (l->schedule == NONE || (l->schedule == LINEAR && total <= 0)) return 0;
    if (l->schedule == ALL) return r;
    const int64_t until = syi_max(1, (int64_t)llround(l->eta * (double)total));
    return syi_min(r, r * t / until);
}

extern const sy_method sy_method_lamda;

static sy_status on(void *self, sy_run *run, sy_when when)
{
    lamda *l = self;
    int n;
    if (when == SY_START && l->schedule == LINEAR && sy_run_total(run) <= 0)
        syi_log(l->ctx, SY_LOG_WARN, "lamda: the number of steps is not known, so B is never frozen");
    if (when != SY_STEP) return SY_OK;
    sy_param *const *params = sy_params(run, &n);
    for (int i = 0; i < n; i++) {
        sy_param *p = params[i];
        if (p->slot != &slots[ROW_B] || !p->trained) continue;
        const int64_t r = p->value.dim[1], k = frozen(l, run, r);
        if (k == r) { /* its gradient and moments go */
            SYI_TRY(sy_param_train(run, p, false));
            continue;
        }
        own *o = NULL;
        for (int w = 0; w < p->site->n_wraps; w++)
            if (p->site->wraps[w].method == &sy_method_lamda) o = p->site->wraps[w].own;
        if (k == 0 || !o) continue;
        for (int64_t j = 0; j < r; j++) o->mask[j] = l->order == DESC ? j >= k : j < r - k;
        p->mask = o->mask;
        p->mask_axis = 1;
    }
    return SY_OK;
}

/* -- forward and out ---------------------------------------------------------------------------- */

static sy_node *forward(void *self, sy_graph *g, const sy_wrap *at, sy_next next, sy_node *x)
{
    const lamda *l = self;
    const bool noisy = l->dropout > 0 && sy_graph_training(g);
    sy_node *update = syi_op_sub(g, syi_op_matmul(g, sy_leaf(g, at->slot[ROW_B]), false, sy_leaf(g, at->slot[ROW_S]), false, 1), sy_leaf(g, at->slot[ROW_C]));
    if (sy_graph_dtype(g) == SY_BF16 && sy_shape(update) && sy_shape(update)->dtype != SY_BF16) update = syi_op_cast(g, update, SY_BF16);
    return syi_op_lowrank_add(g, sy_base(g, next, x), x, sy_leaf(g, at->slot[ROW_A]), update, scale_of(l), noisy ? l->dropout : 0,
                              noisy ? sy_graph_key(g, "lamda_dropout", at->site->name) : 0);
}

static sy_status to_lora(void *self, const sy_wrap *at, sy_tensor *a, sy_tensor *b, double *scale)
{
    lamda *l = self;
    const sy_param *pa = at->slot[ROW_A], *pb = at->slot[ROW_B], *ps = at->slot[ROW_S], *pc = at->slot[ROW_C];
    const int64_t r = pa->value.dim[0], in = at->site->in, out = at->site->out;
    *a = (sy_tensor){ .dtype = SY_F32, .rank = 2, .dim = { r, in }, .data = syi_alloc(l->ctx, (size_t)(r * in) * sizeof(float)) };
    *b = (sy_tensor){ .dtype = SY_F32, .rank = 2, .dim = { out, r }, .data = syi_alloc(l->ctx, (size_t)(out * r) * sizeof(float)) };
    float *s = syi_alloc(l->ctx, (size_t)(r * r) * sizeof *s), *row = syi_alloc(l->ctx, (size_t)(2 * r) * sizeof *row);
    sy_status st = a->data && b->data && s && row ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK) {
        syi_param_get(pa, 0, r * in, a->data);
        syi_param_get(ps, 0, r * r, s);
    }
    for (int64_t o = 0; o < out && st == SY_OK; o++) {
        syi_param_get(pb, o * r, r, row);
        syi_param_get(pc, o * r, r, row + r);
        for (int64_t k = 0; k < r; k++) {
            double v = -(double)row[r + k];
            for (int64_t j = 0; j < r; j++) v += (double)row[j] * s[j * r + k];
            ((float *)b->data)[o * r + k] = (float)v;
        }
    }
    syi_free(l->ctx, s);
    syi_free(l->ctx, row);
    if (st != SY_OK) {
        syi_free(l->ctx, a->data);
        syi_free(l->ctx, b->data);
        a->data = b->data = NULL;
    }
    *scale = scale_of(l);
    return st;
}

/* Ranks that differ from the nominal one, by whole path. */
static sy_status config_out(void *self, sy_run *run, void *json)
{
    lamda *l = self;
    int n;
    json_t *ranks = json_object();
    sy_param *const *params = sy_params(run, &n);
    for (int i = 0; i < n; i++)
        if (params[i]->slot == &slots[ROW_A] && params[i]->value.dim[0] != l->rank)
            json_object_set_new(ranks, params[i]->site->name, json_integer((json_int_t)params[i]->value.dim[0]));
    json_object_set_new(json, "rank_pattern", ranks);
    json_object_set_new(json, "alpha", json_real(scale_of(l) * (double)l->rank));
    return SY_OK;
}

static const sy_paper papers[] = {
    { .title = "LaMDA: Large Model Fine-Tuning via Spectrally Decomposed Low-Dimensional Adaptation", .authors = "Seyedarmin Azizi, Souvik Kundu, Massoud Pedram",
      .venue = "Findings of EMNLP 2024", .id = "arXiv:2406.12832", .year = 2024,
      .equations = "W' = W + s (B S - B0 S0) A;  A = V_r^T, B0 = U_r, S0 = diag(sigma)/s;  B frozen column by column over the first eta of training" },
    { .title = NULL }
};

static const sy_preset presets[] = {
    {"lamda++", "ranks shared out by the weights' spectra", "plus=on"},
    {NULL, NULL, NULL}
};

const sy_method sy_method_lamda = {
    .abi = SY_METHOD_ABI, .name = "lamda", .kind = SY_ADAPTER,
    .title = "LaMDA: a trained r x r core between the weight's own singular directions (LaMDA++)",
    .presets = presets, .papers = papers,
    .about = "For when LoRA's trained state or kept activations are too big: after the first part of training only r*r numbers a module are trained, "
             "and r numbers a token are kept for backward instead of the whole input. plus shares the ranks out by the weights' spectra. Per trained "
             "number and per byte it beats LoRA; at equal rank LoRA is better.",
    .caps = SY_CAP_LINEAR_IN_X,
    .options = options, .slots = slots, .size = sizeof(lamda), .at_size = sizeof(own),
    .init = init, .attach = attach, .on = on, .free = release, .forward = forward, .to_lora = to_lora, .config_out = config_out,
};
