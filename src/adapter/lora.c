/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA and its close family, which differ in a start, a scale or a factor only:
 *
 *   LoRA     y = W x + s B (A drop(x)),  s = alpha / r
 *   rsLoRA   s = alpha / sqrt(r)
 *   DoRA     W' = diag(m / n) (W + s B A),  n = norms of its rows, constant in backward
 *   LoRA+    B and vectors learn at ratio * lr
 *   PiSSA    A, B start as the top of W's SVD, W becomes the rest
 *
 * Names, starts and files are PEFT's. A plain LoRA forward is one fused op: B A is never
 * formed, nothing of the size tokens x features is kept beyond x, which the layer has
 * anyway. A PiSSA adapter is saved as plain LoRA of twice the rank on the original
 * weights, [A; A0] and [B, -B0], so that any reader can use it (convert-pissa). */
#include "adapter/lora.h"
#include "graph/ops.h"

#include <math.h>
#include <stdlib.h>
#include <jansson.h>

typedef struct syi_lora lora;
typedef struct syi_lora_own own;
typedef struct syi_lora_block block;

enum { ROW_A = SYI_LORA_A, ROW_B = SYI_LORA_B, ROW_BIAS = SYI_LORA_BIAS, ROW_M = SYI_LORA_M, ROW_EA = SYI_LORA_EA, ROW_EB = SYI_LORA_EB };

static const sy_option options[] = {
    SY_ADAPTER_ROWS(lora),
    { .name = "rank", .type = SY_OPT_INT, .offset = offsetof(lora, rank), .def = "8", .min = 1, .max = 65536, .peft = "r", .alias = "r lora_r",
      .help = "rank of the update", .example = "16" },
    { .name = "alpha", .type = SY_OPT_FLOAT, .offset = offsetof(lora, alpha), .def = "8", .min = 0, .max = 1e9, .flags = SY_OPT_MIN_OPEN,
      .peft = "lora_alpha", .alias = "lora_alpha", .help = "scale of the update: alpha/rank (alpha/sqrt(rank) with use-rslora)", .example = "32" },
    { .name = "dropout", .type = SY_OPT_FLOAT, .offset = offsetof(lora, dropout), .def = "0", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN,
      .peft = "lora_dropout", .alias = "lora_dropout", .help = "dropout on the update's input", .example = "0.05" },
    { .name = "use-rslora", .type = SY_OPT_BOOL, .offset = offsetof(lora, use_rslora), .def = "off", .peft = "use_rslora", .alias = "peft_use_rslora",
      .help = "rsLoRA: divide alpha by the root of the rank", .example = "on" },
    { .name = "use-dora", .type = SY_OPT_BOOL, .offset = offsetof(lora, use_dora), .def = "off", .peft = "use_dora", .alias = "peft_use_dora",
      .help = "DoRA: train the length of each output row apart from its direction", .example = "on" },
    { .name = "init", .type = SY_OPT_STRING, .offset = offsetof(lora, init), .def = "true", .peft = "init_lora_weights",
      .alias = "init_lora_weights peft_init_lora_weights",
      .help = "start: true (A Kaiming-uniform, B zero), gaussian, pissa, pissa_niter_K (K subspace iterations), false (both random; for debugging)",
      .example = "gaussian" },
    { .name = "loraplus-lr-ratio", .type = SY_OPT_FLOAT, .offset = offsetof(lora, plus_ratio), .def = "0", .min = 0, .max = 1e6,
      .alias = "loraplus_lr_ratio", .help = "LoRA+: B and vectors learn this many times faster than A (0: off; 16 is the paper's)", .example = "16" },
    { .name = "loraplus-embedding-ratio", .type = SY_OPT_FLOAT, .offset = offsetof(lora, plus_embedding), .def = "0.005", .min = 0, .max = 1e6,
      .flags = SY_OPT_ADVANCED, .help = "LoRA+: learning rate of adapted embeddings over lr (0.005 is PEFT's 1e-6 at lr 2e-4)", .example = "0.01" },
    { .name = "rank-pattern", .type = SY_OPT_MAP, .offset = offsetof(lora, rank_pattern), .flags = SY_OPT_ADVANCED, .peft = "rank_pattern",
      .help = "rank of modules whose path ends with (or matches) a key", .example = "q_proj=16" },
    { .name = "alpha-pattern", .type = SY_OPT_MAP, .offset = offsetof(lora, alpha_pattern), .flags = SY_OPT_ADVANCED, .peft = "alpha_pattern",
      .help = "alpha of modules whose path ends with (or matches) a key", .example = "q_proj=32" },
    { .name = "lora-bias", .type = SY_OPT_BOOL, .offset = offsetof(lora, lora_bias), .def = "off", .flags = SY_OPT_ADVANCED, .peft = "lora_bias",
      .help = "a trained bias on B", .example = "on" },
    { .name = "convert-pissa", .type = SY_OPT_BOOL, .offset = offsetof(lora, convert), .def = "on", .flags = SY_OPT_ADVANCED,
      .help = "save PiSSA as plain LoRA of twice the rank, valid for the original weights", .example = "off" },
    { .name = NULL }
};

const sy_slot syi_lora_slots[] = {
    [ROW_A] = { .name = ".lora_A.weight", .shape = "rank,in", .when = "site=linear", .flags = SY_SLOT_TRAIN, .fill = SY_FILL_KAIMING, .group = "lora_A" },
    [ROW_B] = { .name = ".lora_B.weight", .shape = "out,rank", .when = "site=linear", .flags = SY_SLOT_TRAIN, .fill = SY_FILL_ZERO, .group = "lora_B" },
    [ROW_BIAS] = { .name = ".lora_B.bias", .shape = "out", .when = "site=linear lora-bias", .flags = SY_SLOT_TRAIN | SY_SLOT_NO_DECAY,
                   .fill = SY_FILL_ZERO, .group = "lora_B" },
    [ROW_M] = { .name = ".lora_magnitude_vector", .shape = "out", .when = "site=linear use-dora", .flags = SY_SLOT_TRAIN | SY_SLOT_NO_DECAY,
                .fill = SY_FILL_OWN, .group = "lora_B" },
    [ROW_EA] = { .name = ".lora_embedding_A", .shape = "rank,in", .when = "site=embed", .flags = SY_SLOT_TRAIN, .fill = SY_FILL_ZERO, .group = "lora_embedding" },
    [ROW_EB] = { .name = ".lora_embedding_B", .shape = "out,rank", .when = "site=embed", .flags = SY_SLOT_TRAIN, .fill = SY_FILL_NORMAL, .a = 1,
                 .group = "lora_embedding" },
    { .name = NULL }
};

static void *keep(lora *l, size_t bytes)
{
    block *b = syi_calloc(l->ctx, 1, 64 + bytes);
    if (!b) return NULL;
    b->next = l->blocks;
    l->blocks = b;
    return (char *)b + 64;
}

static void release(void *self)
{
    lora *l = self;
    for (block *b = l->blocks, *next; b; b = next) {
        next = b->next;
        syi_free(l->ctx, b);
    }
    l->blocks = NULL;
}

/* -- before the tensors ------------------------------------------------------------------- */

static sy_status parse_start(lora *l)
{
    l->niter = -1;
    if (!l->init || strcmp(l->init, "true") == 0) l->start = INIT_TRUE;
    else if (strcmp(l->init, "false") == 0) l->start = INIT_FALSE;
    else if (strcmp(l->init, "gaussian") == 0) l->start = INIT_GAUSSIAN;
    else if (strcmp(l->init, "pissa") == 0) l->start = INIT_PISSA;
    else {
        char *end = NULL;
        long k = -1;
        if (syi_starts(l->init, "pissa_niter_")) k = strtol(l->init + strlen("pissa_niter_"), &end, 10);
        if (k < 0 || k > 1000 || !end || *end || end == l->init + strlen("pissa_niter_"))
            return syi_fail(l->ctx, SY_E_USAGE, "lora: init must be true, false, gaussian, pissa or pissa_niter_K with K in 0..1000; found \"%s\"", l->init);
        l->start = INIT_PISSA;
        l->niter = (int)k;
    }
    return SY_OK;
}

static sy_status site_rank(const lora *l, const sy_run *run, const sy_site *site, int64_t *rank)
{
    double r = (double)l->rank;
    SYI_TRY(syi_pattern_value(l->ctx, &l->rank_pattern, site, sy_run_adapter_config(run) != NULL, &r));
    if (r < 1 || r > 65536 || r != floor(r))
        return syi_fail(l->ctx, SY_E_USAGE, "lora: rank-pattern gives %s the rank %g; a rank is a whole number from 1 to 65536", site->name, r);
    *rank = (int64_t)r;
    return SY_OK;
}

static sy_status site_scale(const lora *l, const sy_run *run, const sy_site *site, double *scale)
{
    int64_t r = 1;
    double alpha = l->alpha;
    SYI_TRY(site_rank(l, run, site, &r));
    SYI_TRY(syi_pattern_value(l->ctx, &l->alpha_pattern, site, sy_run_adapter_config(run) != NULL, &alpha));
    *scale = alpha / (l->use_rslora ? sqrt((double)r) : (double)r);
    return SY_OK;
}

static sy_status init(void *self, sy_run *run)
{
    lora *l = self;
    l->ctx = sy_run_context(run);
    SYI_TRY(parse_start(l));
    if (l->start == INIT_PISSA && l->dropout > 0)
        return syi_fail(l->ctx, SY_E_USAGE, "lora: PiSSA needs dropout 0, found %g: the start is part of the weight", l->dropout);
    if (l->lora_bias && l->use_dora) return syi_fail(l->ctx, SY_E_USAGE, "lora: lora-bias and use-dora exclude each other");
    if (l->lora_bias && l->start != INIT_TRUE && l->start != INIT_FALSE)
        return syi_fail(l->ctx, SY_E_USAGE, "lora: lora-bias needs init true or false, found \"%s\"", l->init);
    if (l->plus_ratio > 0 && l->plus_ratio < 1)
        return syi_fail(l->ctx, SY_E_USAGE, "lora: loraplus-lr-ratio must be 0 (off) or at least 1, found %g", l->plus_ratio);
    int n = sy_sites(run, NULL, 0);
    if (n < 0) return sy_error_code(l->ctx);
    sy_site **sites = syi_calloc(l->ctx, (size_t)n + 1, sizeof *sites);
    if (!sites) return SY_E_MEMORY;
    sy_status st = SY_OK;
    if (sy_sites(run, sites, n) < 0) st = sy_error_code(l->ctx);
    for (int i = 0; i < n && st == SY_OK; i++) {
        int64_t r = 0;
        if (sites[i]->kind == SY_SITE_EMBED && (l->use_dora || l->lora_bias || l->start == INIT_PISSA))
            st = syi_fail(l->ctx, SY_E_UNSUPPORTED, "lora: %s is an embedding, which %s does not work on; leave it out of target-modules", sites[i]->name,
                          l->use_dora ? "use-dora" : l->lora_bias ? "lora-bias" : "init pissa");
        if (st == SY_OK) st = site_rank(l, run, sites[i], &r);
        if (st == SY_OK && l->start == INIT_PISSA && r > syi_min(sites[i]->in, sites[i]->out))
            st = syi_fail(l->ctx, SY_E_USAGE, "lora: PiSSA of rank %lld needs a weight with at least that many rows and columns; %s is %lld x %lld",
                          (long long)r, sites[i]->name, (long long)sites[i]->out, (long long)sites[i]->in);
        if (st == SY_OK) st = sy_site_dim(run, sites[i], "rank", r);
    }
    syi_free(l->ctx, sites);
    if (st == SY_OK && l->plus_ratio > 0) {
        st = sy_run_group(run, "lora_B", l->plus_ratio);
        if (st == SY_OK) st = sy_run_group(run, "lora_embedding", l->plus_embedding);
    }
    return st;
}

/* -- starts ---------------------------------------------------------------------------------- */

/* W <- W - s B A, and its parts as the start. */
static sy_status start_pissa(lora *l, sy_run *run, sy_wrap *at)
{
    own *o = at->own;
    sy_param *pa = at->slot[ROW_A], *pb = at->slot[ROW_B];
    const int64_t r = pa->value.dim[0], in = pa->value.dim[1], out = pb->value.dim[0], p = l->niter < 0 ? syi_min(in, out) : r;
    float *w = NULL, *u = NULL, *s = NULL, *vt = NULL;
    sy_status st = syi_weight_dense(l->ctx, at->site->weight, &w);
    o->a0 = keep(l, (size_t)(r * in) * sizeof(float));
    o->b0 = keep(l, (size_t)(out * r) * sizeof(float));
    u = syi_alloc(l->ctx, (size_t)(out * p) * sizeof *u);
    s = syi_alloc(l->ctx, (size_t)p * sizeof *s);
    vt = syi_alloc(l->ctx, (size_t)(p * in) * sizeof *vt);
    if (st == SY_OK && (!o->a0 || !o->b0 || !u || !s || !vt)) st = SY_E_MEMORY;
    if (st == SY_OK)
        st = l->niter < 0 ? syi_svd(l->ctx, out, in, w, u, s, vt)
                          : syi_rsvd(sy_run_engine(run), out, in, w, r, l->niter, sy_run_key(run, "pissa", at->site->name), u, s, vt);
    for (int64_t k = 0; k < r && st == SY_OK; k++) {
        double root = sqrt(s[k] > 0 ? s[k] / o->scale : 0);
        for (int64_t j = 0; j < in; j++) o->a0[k * in + j] = (float)(root * vt[k * in + j]);
        for (int64_t i = 0; i < out; i++) o->b0[i * r + k] = (float)(root * u[i * p + k]);
    }
    if (st == SY_OK) {
        syi_param_put(pa, 0, r * in, o->a0);
        syi_param_put(pb, 0, out * r, o->b0);
        st = syi_gemm(sy_run_engine(run), out, in, r, -o->scale, (syi_mat){ SY_F32, o->b0, r, false }, (syi_mat){ SY_F32, o->a0, in, false }, 1, SY_F32, w, in);
    }
    syi_free(l->ctx, u);
    syi_free(l->ctx, s);
    syi_free(l->ctx, vt);
    if (st != SY_OK) {
        syi_free(l->ctx, w);
        return st;
    }
    return sy_site_replace(run, at->site, w);
}

/* m_i = || W_i + s B_i A || for the start's A and B, by tiles of rows. */
static sy_status start_magnitude(lora *l, sy_run *run, sy_wrap *at)
{
    const own *o = at->own;
    const sy_weight *w = at->site->weight;
    const sy_param *pa = at->slot[ROW_A], *pb = at->slot[ROW_B];
    const int64_t r = pa->value.dim[0], tile = syi_min(w->out, syi_max(1, 262144 / w->in));
    float *a = syi_alloc(l->ctx, (size_t)(r * w->in) * sizeof *a), *b = syi_alloc(l->ctx, (size_t)(tile * r) * sizeof *b);
    float *rows = syi_alloc(l->ctx, (size_t)(tile * w->in) * sizeof *rows);
    sy_status st = a && b && rows ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK) syi_param_get(pa, 0, r * w->in, a);
    for (int64_t row = 0; row < w->out && st == SY_OK; row += tile) {
        int64_t n = syi_min(tile, w->out - row);
        st = w->type->dense(l->ctx, w, row, n, rows);
        if (st != SY_OK) break;
        syi_param_get(pb, row * r, n * r, b);
        st = syi_gemm(sy_run_engine(run), n, w->in, r, o->scale, (syi_mat){ SY_F32, b, r, false }, (syi_mat){ SY_F32, a, w->in, false }, 1, SY_F32, rows, w->in);
        for (int64_t i = 0; i < n && st == SY_OK; i++) {
            double sum = 0;
            for (int64_t j = 0; j < w->in; j++) sum += (double)rows[i * w->in + j] * rows[i * w->in + j];
            float m = (float)sqrt(sum);
            syi_param_put(at->slot[ROW_M], row + i, 1, &m);
        }
    }
    syi_free(l->ctx, a);
    syi_free(l->ctx, b);
    syi_free(l->ctx, rows);
    return st;
}

/* LoRA+ in PEFT's sense: whatever else is trained and 1-D learns as B does. */
static void group_vectors(lora *l, sy_run *run)
{
    int n;
    sy_param *const *params = sy_params(run, &n);
    for (int i = 0; i < n; i++)
        if (params[i]->trained && params[i]->value.rank == 1) params[i]->group = "lora_B";
    l->grouped = true;
}

static sy_status attach(void *self, sy_run *run, sy_wrap *at)
{
    lora *l = self;
    own *o = at->own;
    const bool loading = sy_run_adapter_config(run) != NULL; /* the folder's tensors follow */
    if (l->plus_ratio > 0 && !l->grouped) group_vectors(l, run);
    SYI_TRY(site_scale(l, run, at->site, &o->scale));
    if (at->site->kind == SY_SITE_EMBED) {
        if (l->start == INIT_FALSE && !loading) syi_param_normal(at->slot[ROW_EA], sy_run_key(run, "lora_embedding_A", at->site->name), 1);
        return SY_OK;
    }
    const int64_t r = at->slot[ROW_A]->value.dim[0];
    if (l->start == INIT_GAUSSIAN && !loading) syi_param_normal(at->slot[ROW_A], sy_run_key(run, "lora_A", at->site->name), 1.0 / (double)r);
    if (l->start == INIT_FALSE && !loading) {
        syi_param_uniform(at->slot[ROW_B], sy_run_key(run, "lora_B", at->site->name), 1 / sqrt((double)r));
        if (at->slot[ROW_BIAS]) syi_param_uniform(at->slot[ROW_BIAS], sy_run_key(run, "lora_B.bias", at->site->name), 1 / sqrt((double)r));
    }
    if (l->start == INIT_PISSA) SYI_TRY(start_pissa(l, run, at));
    if (l->use_dora) {
        if (at->site->n_wraps > 1)
            return syi_fail(l->ctx, SY_E_UNSUPPORTED, "lora: use-dora needs the plain weight below it, but %s has another method around it", at->site->name);
        o->row_norms = keep(l, (size_t)at->site->weight->out * sizeof(double));
        if (!o->row_norms) return SY_E_MEMORY;
        SYI_TRY(syi_row_norms(l->ctx, at->site->weight, o->row_norms));
        if (!loading) SYI_TRY(start_magnitude(l, run, at));
    }
    return SY_OK;
}

/* -- forward ------------------------------------------------------------------------------------ */

static sy_node *forward_embedding(sy_graph *g, const sy_wrap *at, sy_next next, sy_node *ids)
{
    const own *o = at->own;
    const sy_tensor *value = sy_value(ids), *shape = sy_shape(ids);
    sy_node *base = sy_base(g, next, ids);
    if (!shape) return NULL;
    sy_node *h = syi_op_columns(g, sy_leaf(g, at->slot[ROW_EA]), value ? value->data : NULL, shape->dim[0]);
    return syi_op_add(g, base, syi_op_matmul(g, h, false, sy_leaf(g, at->slot[ROW_EB]), true, o->scale));
}

static sy_node *forward(void *self, sy_graph *g, const sy_wrap *at, sy_next next, sy_node *x)
{
    const lora *l = self;
    const own *o = at->own;
    if (at->site->kind == SY_SITE_EMBED) return forward_embedding(g, at, next, x);
    const bool noisy = l->dropout > 0 && sy_graph_training(g);
    const uint64_t key = noisy ? sy_graph_key(g, "lora_dropout", at->site->name) : 0;
    sy_node *a = sy_leaf(g, at->slot[ROW_A]), *b = sy_leaf(g, at->slot[ROW_B]);
    if (!l->use_dora) {
        sy_node *y = syi_op_lowrank_add(g, sy_base(g, next, x), x, a, b, o->scale, noisy ? l->dropout : 0, key);
        if (at->slot[ROW_BIAS]) y = syi_op_add_bias(g, y, syi_op_scale(g, sy_leaf(g, at->slot[ROW_BIAS]), o->scale));
        return y;
    }
    /* W A^T by sending A's rows through the base: works over any storage. */
    sy_node *c = syi_op_dora_factor(g, sy_leaf(g, at->slot[ROW_M]), a, b, sy_base(g, next, sy_detach(g, a)), o->row_norms, o->scale);
    if (!noisy) return syi_op_scale_cols(g, syi_op_lowrank_add(g, sy_base(g, next, x), x, a, b, o->scale, 0, 0), c);
    /* W x + (c - 1) * W drop(x) + c * s B A drop(x) */
    sy_node *plain = sy_base(g, next, x), *dropped = syi_op_dropout(g, x, l->dropout, key), *inner = sy_base(g, next, dropped);
    plain = syi_op_sub(g, plain, inner);
    return syi_op_add(g, plain, syi_op_scale_cols(g, syi_op_lowrank_add(g, inner, dropped, a, b, o->scale, 0, 0), c));
}

/* Plain branches on one input: their A's are one product, and one in each gradient. */
static bool forward_many(void *self, sy_graph *g, const sy_wrap *const *at, const sy_next *next, int n, sy_node *x, sy_node **out)
{
    const lora *l = self;
    sy_node *a[4];
    int64_t from = 0;
    if (l->use_dora || (l->dropout > 0 && sy_graph_training(g)) || n > SYI_COUNT(a)) return false;
    for (int i = 0; i < n; i++) a[i] = sy_leaf(g, at[i]->slot[ROW_A]);
    sy_node *h = syi_op_linears(g, x, a, n);
    for (int i = 0; i < n; i++) {
        const double s = ((const own *)at[i]->own)->scale;
        out[i] = syi_op_product_add(g, sy_base(g, next[i], x), h, from, sy_leaf(g, at[i]->slot[ROW_B]), true, s);
        if (at[i]->slot[ROW_BIAS]) out[i] = syi_op_add_bias(g, out[i], syi_op_scale(g, sy_leaf(g, at[i]->slot[ROW_BIAS]), s));
        from += at[i]->slot[ROW_A]->value.dim[0];
    }
    sy_done(g, h);
    return true;
}

/* -- out ------------------------------------------------------------------------------------------ */

static sy_status values_of(sy_context *ctx, const sy_param *p, sy_tensor *t)
{
    *t = p->value;
    t->dtype = SY_F32;
    t->data = syi_alloc(ctx, (size_t)sy_tensor_count(&p->value) * sizeof(float));
    if (!t->data) return SY_E_MEMORY;
    syi_param_get(p, 0, sy_tensor_count(&p->value), t->data);
    return SY_OK;
}

static sy_status to_lora(void *self, const sy_wrap *at, sy_tensor *a, sy_tensor *b, double *scale)
{
    lora *l = self;
    const own *o = at->own;
    const bool embed = at->site->kind == SY_SITE_EMBED;
    a->data = b->data = NULL;
    if (l->use_dora)
        return syi_fail(l->ctx, SY_E_UNSUPPORTED, "%s: a DoRA update has full rank, so it is no plain LoRA; fold it into the weights instead", at->site->name);
    if (l->lora_bias)
        return syi_fail(l->ctx, SY_E_UNSUPPORTED, "%s: a LoRA with a bias on B is no plain LoRA; fold it into the weights instead", at->site->name);
    *scale = o->scale;
    sy_status st = values_of(l->ctx, at->slot[embed ? ROW_EA : ROW_A], a);
    if (st == SY_OK) st = values_of(l->ctx, at->slot[embed ? ROW_EB : ROW_B], b);
    if (st == SY_OK && l->start == INIT_PISSA && !embed) { /* [A; A0], [B, -B0]: on the original weight */
        const int64_t r = a->dim[0], in = a->dim[1], out = b->dim[0];
        float *a2 = syi_alloc(l->ctx, (size_t)(2 * r * in) * sizeof *a2), *b2 = syi_alloc(l->ctx, (size_t)(2 * r * out) * sizeof *b2);
        if (a2 && b2) {
            memcpy(a2, a->data, (size_t)(r * in) * sizeof *a2);
            memcpy(a2 + r * in, o->a0, (size_t)(r * in) * sizeof *a2);
            for (int64_t i = 0; i < out; i++)
                for (int64_t k = 0; k < r; k++) {
                    b2[i * 2 * r + k] = ((const float *)b->data)[i * r + k];
                    b2[i * 2 * r + r + k] = -o->b0[i * r + k];
                }
        } else {
            st = SY_E_MEMORY;
        }
        syi_free(l->ctx, a->data);
        syi_free(l->ctx, b->data);
        a->data = a2;
        b->data = b2;
        a->dim[0] = b->dim[1] = 2 * r;
    }
    if (st != SY_OK) {
        syi_free(l->ctx, a->data);
        syi_free(l->ctx, b->data);
        a->data = b->data = NULL;
    }
    return st;
}

static sy_status save_slot(void *self, const sy_wrap *at, int slot, sy_tensor *out)
{
    lora *l = self;
    sy_tensor a, b;
    double scale;
    if (l->start != INIT_PISSA || !l->convert || l->use_dora || (slot != ROW_A && slot != ROW_B)) return SY_OK;
    SYI_TRY(to_lora(l, at, &a, &b, &scale));
    *out = slot == ROW_A ? a : b;
    syi_free(l->ctx, slot == ROW_A ? b.data : a.data);
    return SY_OK;
}

static json_t *number(double v) { return v == floor(v) && fabs(v) < 1e15 ? json_integer((json_int_t)v) : json_real(v); }

/* r, alpha and the start as the file has them: a converted PiSSA is LoRA of rank 2r at the
 * same scale. */
static sy_status config_out(void *self, sy_run *run, void *json)
{
    lora *l = self;
    json_t *j = json;
    (void)run;
    json_object_set_new(j, "init_lora_weights", l->start == INIT_TRUE ? json_true() : l->start == INIT_FALSE ? json_false() : json_string(l->init));
    if (l->start != INIT_PISSA) return SY_OK;
    if (!l->convert || l->use_dora) {
        syi_log(l->ctx, SY_LOG_INFO, "PiSSA saved as it is (init_lora_weights = %s): a reader must repeat the decomposition of the base weights", l->init);
        return SY_OK;
    }
    const double factor = l->use_rslora ? sqrt(2.0) : 2.0;
    json_t *ranks = json_object(), *alphas = json_object();
    for (int i = 0; i < l->rank_pattern.n; i++) json_object_set_new(ranks, l->rank_pattern.key[i], number(2 * l->rank_pattern.value[i]));
    for (int i = 0; i < l->alpha_pattern.n; i++) json_object_set_new(alphas, l->alpha_pattern.key[i], number(factor * l->alpha_pattern.value[i]));
    json_object_set_new(j, "r", json_integer(2 * l->rank));
    json_object_set_new(j, "lora_alpha", number(factor * l->alpha));
    json_object_set_new(j, "rank_pattern", ranks);
    json_object_set_new(j, "alpha_pattern", alphas);
    json_object_set_new(j, "init_lora_weights", json_true());
    syi_log(l->ctx, SY_LOG_INFO, "PiSSA of rank %lld saved as plain LoRA of rank %lld: it belongs to the original weights", (long long)l->rank, (long long)(2 * l->rank));
    return SY_OK;
}

static const sy_paper papers[] = {
    { .title = "LoRA: Low-Rank Adaptation of Large Language Models", .authors = "Edward J. Hu, Yelong Shen, Phillip Wallis, Zeyuan Allen-Zhu, Yuanzhi Li, Shean Wang, Lu Wang, Weizhu Chen",
      .venue = "ICLR 2022", .id = "arXiv:2106.09685", .year = 2021, .equations = "y = W x + (alpha/r) B (A drop(x));  A[r,in], B[out,r] trained" },
    { .title = "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", .authors = "Damjan Kalajdzievski", .venue = "arXiv", .id = "arXiv:2312.03732", .year = 2023,
      .equations = "scale = alpha/sqrt(r)" },
    { .title = "DoRA: Weight-Decomposed Low-Rank Adaptation", .authors = "Shih-Yang Liu, Chien-Yi Wang, Hongxu Yin, Pavlo Molchanov, Yu-Chiang Frank Wang, Kwang-Ting Cheng, Min-Hung Chen",
      .venue = "ICML 2024", .id = "arXiv:2402.09353", .year = 2024, .equations = "W' = diag(m/n) (W + s B A);  n_i = |row i of W + s B A|, constant in backward" },
    { .title = "LoRA+: Efficient Low Rank Adaptation of Large Models", .authors = "Soufiane Hayou, Nikhil Ghosh, Bin Yu", .venue = "ICML 2024", .id = "arXiv:2402.12354", .year = 2024,
      .equations = "lr(B) = ratio * lr(A)" },
    { .title = "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models", .authors = "Fanxu Meng, Zhaohui Wang, Muhan Zhang",
      .venue = "NeurIPS 2024", .id = "arXiv:2404.02948", .year = 2024, .equations = "W = U S V^T;  A = sqrt(S_r/s) V_r^T, B = U_r sqrt(S_r/s);  base = W - s B A" },
    { .title = NULL }
};

static const sy_preset presets[] = {
    {"rslora", "scaled by alpha over the square root of the rank", "use-rslora=on"},
    {"dora", "magnitudes trained apart from directions", "use-dora=on"},
    {"pissa", "starts at the leading singular vectors of the weight", "init=pissa_niter_4"},
    {NULL, NULL, NULL}
};

const sy_method sy_method_lora = {
    .abi = SY_METHOD_ABI, .name = "lora", .kind = SY_ADAPTER,
    .title = "LoRA: a trained low-rank update of frozen weights (rsLoRA, DoRA, LoRA+, PiSSA)",
    .presets = presets, .papers = papers,
    .about = "The default cheap fine-tune: two thin matrices a layer, r(in+out) trained numbers, mergeable. use-rslora keeps large ranks "
             "useful, use-dora trains each row's length apart (closer to full fine-tuning, about a third slower), init pissa starts at "
             "the weight's own top directions (faster first steps), loraplus-lr-ratio lets B learn faster.",
    .peft_type = "LORA",
    .peft_defaults = SYI_LORA_PEFT_DEFAULTS,
    .caps = SY_CAP_LINEAR_IN_X | SY_CAP_EDITS_BASE,
    .options = options, .slots = syi_lora_slots, .size = sizeof(lora), .at_size = sizeof(own),
    .init = init, .attach = attach, .free = release, .forward = forward, .forward_many = forward_many,
    .to_lora = to_lora, .save_slot = save_slot, .config_out = config_out,
};
