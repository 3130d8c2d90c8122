/* SPDX-License-Identifier: Apache-2.0 */
/* AdaLoRA: LoRA in the form of a singular value decomposition, y = W x + c P diag(e) Q x, of
 * whose triplets the least important are pruned during training until a global budget over all
 * modules is met. PEFT's names: Q lora_A [r,in], P lora_B [out,r], e lora_E [r,1];
 * c = alpha / (init_r + 1e-5) for the whole life of the adapter.
 *
 * After every step each number w with gradient g has the sensitivity |w g|, smoothed, times the
 * smoothed distance from that; a triplet's score is e's plus the means over its row and column.
 * Between warm-up and the last phase the budget falls by a cubic; pruned e are set to 0 and may
 * come back. In the last phase the pattern is final and the parameters shrink to it, with their
 * optimizer state. An extra term of the loss keeps P and Q near orthogonal. */
#include "adapter/lora.h"
#include "graph/op_row.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

enum { IPT, MAG };
static const char *const scores[] = { "ipt", "mag", NULL };

typedef struct {
    sy_adapter_common common;
    int64_t init_r, target_r, tinit, tfinal, delta, total;
    double beta1, beta2, orth, alpha, dropout;
    int score;
    bool shrink;
    sy_context *ctx;
    json_t *pattern;     /* of the folder it was loaded from: the ranks are settled        */
    bool loaded;
} adalora;

enum { ROW_A, ROW_B, ROW_E, ROW_KEPT, ROW_IA, ROW_IB, ROW_IE, ROW_UA, ROW_UB, ROW_UE };

static const sy_option options[] = {
    SY_ADAPTER_ROWS(adalora),
    { .name = "init-r", .type = SY_OPT_INT, .offset = offsetof(adalora, init_r), .def = "0", .min = 0, .max = 65536, .peft = "init_r", .alias = "init_r",
      .help = "rank of every module at the start (0: 1.5 times target-r)", .example = "6" },
    { .name = "target-r", .type = SY_OPT_INT, .offset = offsetof(adalora, target_r), .def = "8", .min = 0, .max = 65536, .peft = "target_r", .alias = "target_r rank r",
      .help = "mean rank at the end", .example = "4" },
    { .name = "tinit", .type = SY_OPT_INT, .offset = offsetof(adalora, tinit), .def = "-1", .min = -1, .max = 1e12, .peft = "tinit",
      .help = "steps before pruning begins (-1: a tenth of all)", .example = "100" },
    { .name = "tfinal", .type = SY_OPT_INT, .offset = offsetof(adalora, tfinal), .def = "-1", .min = -1, .max = 1e12, .peft = "tfinal",
      .help = "steps at the end with the final pattern (-1: three tenths of all)", .example = "300" },
    { .name = "delta-t", .type = SY_OPT_INT, .offset = offsetof(adalora, delta), .def = "10", .min = 1, .max = 1e9, .peft = "deltaT", .alias = "deltaT delta_t",
      .help = "steps between prunings", .example = "1" },
    { .name = "beta1", .type = SY_OPT_FLOAT, .offset = offsetof(adalora, beta1), .def = "0.85", .min = 0, .max = 1, .flags = SY_OPT_MIN_OPEN | SY_OPT_MAX_OPEN | SY_OPT_ADVANCED,
      .peft = "beta1", .help = "smoothing of sensitivities", .example = "0.9" },
    { .name = "beta2", .type = SY_OPT_FLOAT, .offset = offsetof(adalora, beta2), .def = "0.85", .min = 0, .max = 1, .flags = SY_OPT_MIN_OPEN | SY_OPT_MAX_OPEN | SY_OPT_ADVANCED,
      .peft = "beta2", .help = "smoothing of their uncertainty", .example = "0.9" },
    { .name = "orth-reg-weight", .type = SY_OPT_FLOAT, .offset = offsetof(adalora, orth), .def = "0.1", .min = 0, .max = 1e6, .peft = "orth_reg_weight",
      .help = "weight of the term that keeps P and Q near orthogonal", .example = "0.5" },
    { .name = "alpha", .type = SY_OPT_FLOAT, .offset = offsetof(adalora, alpha), .def = "16", .min = 0, .max = 1e9, .peft = "lora_alpha", .alias = "lora_alpha",
      .help = "scale of the update: alpha/init-r (0: 1)", .example = "32" },
    { .name = "dropout", .type = SY_OPT_FLOAT, .offset = offsetof(adalora, dropout), .def = "0", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN,
      .peft = "lora_dropout", .alias = "lora_dropout", .help = "dropout on the update's input", .example = "0.05" },
    { .name = "score", .type = SY_OPT_ENUM, .offset = offsetof(adalora, score), .def = "ipt", .choices = scores, .flags = SY_OPT_ADVANCED,
      .help = "what a triplet is worth: smoothed sensitivity, or the magnitude of its singular value", .example = "mag" },
    { .name = "total-step", .type = SY_OPT_INT, .offset = offsetof(adalora, total), .def = "0", .min = 0, .max = 1e12, .flags = SY_OPT_ADVANCED, .peft = "total_step",
      .help = "steps that the schedule is made for (0: those of the training)", .example = "1000" },
    { .name = "shrink", .type = SY_OPT_BOOL, .offset = offsetof(adalora, shrink), .def = "on", .flags = SY_OPT_ADVANCED,
      .help = "drop pruned triplets in the last phase and in what is saved", .example = "off" },
    { .name = NULL }
};

#define STATE(name_, shape_) { .name = name_, .shape = shape_, .flags = SY_SLOT_STATE, .fill = SY_FILL_ZERO }
static const sy_slot slots[] = {
    [ROW_A] = { .name = ".lora_A", .shape = "rank,in", .flags = SY_SLOT_TRAIN, .fill = SY_FILL_NORMAL, .a = 0.02, .group = "lora_A" },
    [ROW_B] = { .name = ".lora_B", .shape = "out,rank", .flags = SY_SLOT_TRAIN, .fill = SY_FILL_NORMAL, .a = 0.02, .group = "lora_B" },
    [ROW_E] = { .name = ".lora_E", .shape = "rank,1", .flags = SY_SLOT_TRAIN | SY_SLOT_WIDE, .fill = SY_FILL_ZERO, .group = "lora_B" },
    [ROW_KEPT] = STATE(".kept", "init-r"),
    [ROW_IA] = STATE(".ipt_A", "rank,in"), [ROW_IB] = STATE(".ipt_B", "out,rank"), [ROW_IE] = STATE(".ipt_E", "rank,1"),
    [ROW_UA] = STATE(".unc_A", "rank,in"), [ROW_UB] = STATE(".unc_B", "out,rank"), [ROW_UE] = STATE(".unc_E", "rank,1"),
    { .name = NULL }
};
#undef STATE

static double scale_of(const adalora *q) { return (q->alpha > 0 ? q->alpha : (double)q->init_r) / ((double)q->init_r + 1e-5); }

extern const sy_method sy_method_adalora;

/* -- before the tensors -------------------------------------------------------------------- */

/* rank_pattern of a folder: "<module>.lora_E" -> a list of init_r booleans. -1: not in it. */
static sy_status pattern_rank(const adalora *q, const json_t *config, const sy_site *site, int64_t *rank)
{
    const json_t *pattern = json_object_get(config, "rank_pattern");
    char key[300];
    *rank = q->init_r;
    if (!json_is_object(pattern) || json_object_size(pattern) == 0) return SY_OK;
    snprintf(key, sizeof key, "%s.lora_E", site->name);
    const json_t *list = json_object_get(pattern, key);
    if (!json_is_array(list) || (int64_t)json_array_size(list) != q->init_r)
        return syi_fail(q->ctx, SY_E_INPUT, "adalora: rank_pattern has no list of %lld booleans for %s", (long long)q->init_r, key);
    *rank = 0;
    for (size_t i = 0; i < json_array_size(list); i++) *rank += json_is_true(json_array_get(list, i));
    return SY_OK;
}

static sy_status check(void *self, sy_run *run, sy_site *s)
{
    adalora *q = self;
    int64_t rank = q->init_r;
    SYI_TRY(syi_linear_only(q->ctx, "adalora", s));
    if (sy_run_adapter_config(run)) SYI_TRY(pattern_rank(q, sy_run_adapter_config(run), s, &rank));
    if (q->init_r > syi_min(s->in, s->out))
        return syi_fail(q->ctx, SY_E_USAGE, "adalora: init-r %lld is above the lesser side of %s (%lld x %lld)", (long long)q->init_r, s->name, (long long)s->out, (long long)s->in);
    return sy_site_dim(run, s, "rank", rank);
}

static sy_status init(void *self, sy_run *run)
{
    adalora *q = self;
    q->ctx = sy_run_context(run);
    const json_t *config = sy_run_adapter_config(run);
    if (config) {
        q->loaded = true;
        if (json_is_object(json_object_get(config, "rank_pattern"))) q->pattern = json_deep_copy(json_object_get(config, "rank_pattern"));
    }
    if (q->init_r == 0) q->init_r = syi_max(1, (3 * q->target_r + 1) / 2);
    if (q->target_r > q->init_r)
        return syi_fail(q->ctx, SY_E_USAGE, "adalora: target-r %lld is above init-r %lld; ranks only fall", (long long)q->target_r, (long long)q->init_r);
    return syi_each_site(run, check, q);
}

/* The schedule of this run. */
typedef struct { int64_t total, first, last, b0, bt; } plan;

static sy_status plan_of(adalora *q, sy_run *run, plan *p)
{
    int n, modules = 0;
    sy_param *const *params = sy_params(run, &n);
    for (int i = 0; i < n; i++) modules += params[i]->slot == &slots[ROW_E];
    p->total = q->total > 0 ? q->total : sy_run_total(run);
    p->first = q->tinit >= 0 ? q->tinit : p->total / 10;
    p->last = p->total - (q->tfinal >= 0 ? q->tfinal : p->total * 3 / 10);
    p->b0 = modules * q->init_r;
    p->bt = modules * q->target_r;
    if (p->total > 0 && p->first >= p->last && q->target_r < q->init_r && !q->loaded)
        return syi_fail(q->ctx, SY_E_USAGE, "adalora: %lld steps do not have room for tinit %lld and tfinal %lld; pruning happens in between", (long long)p->total,
                        (long long)p->first, (long long)(p->total - p->last));
    return SY_OK;
}

static int64_t budget(const plan *p, int64_t t)
{
    if (t <= p->first) return p->b0;
    if (t >= p->last) return p->bt;
    const double left = 1 - (double)(t - p->first) / (double)(p->last - p->first);
    return (int64_t)floor((double)p->bt + (double)(p->b0 - p->bt) * left * left * left);
}

/* -- scores ---------------------------------------------------------------------------------- */

static double at_value(const sy_tensor *t, int64_t i) { return t->dtype == SY_F64 ? ((const double *)t->data)[i] : ((const float *)t->data)[i]; }

static void smooth_one(const adalora *q, const sy_param *p, sy_param *ipt, sy_param *unc)
{
    const int64_t n = sy_tensor_count(&p->value);
#define SMOOTH(T)                                                                                                          \
    do {                                                                                                                   \
        const T *w = p->value.data, *g = p->grad.data, b1 = (T)q->beta1, b2 = (T)q->beta2, c1 = (T)(1 - q->beta1), c2 = (T)(1 - q->beta2); \
        T *i = ipt->value.data, *u = unc->value.data;                                                                      \
        _Pragma("omp parallel for num_threads(threads) schedule(static)")                                                  \
        for (int64_t k = 0; k < n; k++) {                                                                                  \
            const T now = w[k] * g[k] < 0 ? -(w[k] * g[k]) : w[k] * g[k];                                                  \
            const T smooth = b1 * i[k] + c1 * now, away = now - smooth;                                                    \
            i[k] = smooth;                                                                                                 \
            u[k] = b2 * u[k] + c2 * (away < 0 ? -away : away);                                                             \
        }                                                                                                                  \
    } while (0)
    const int threads = n > 1 << 14 ? syi_omp(q->ctx) : 1;
    if (p->value.dtype == SY_F64) SMOOTH(double);
    else SMOOTH(float);
#undef SMOOTH
}

static void smooth(const adalora *q, const sy_wrap *at)
{
    for (int k = 0; k < 3; k++) smooth_one(q, at->slot[ROW_A + k], at->slot[ROW_IA + k], at->slot[ROW_UA + k]);
}

/* Scores of a module's triplets, r of them. */
static void score(const adalora *q, const sy_wrap *at, double *out)
{
    const int64_t r = at->slot[ROW_E]->value.dim[0], in = at->site->in, rows = at->site->out;
    for (int64_t i = 0; i < r; i++) {
        if (q->score == MAG) {
            out[i] = fabs(at_value(&at->slot[ROW_E]->value, i));
            continue;
        }
        const sy_tensor *ia = &at->slot[ROW_IA]->value, *ua = &at->slot[ROW_UA]->value, *ib = &at->slot[ROW_IB]->value, *ub = &at->slot[ROW_UB]->value;
        double a = 0, b = 0;
        for (int64_t j = 0; j < in; j++) a += at_value(ia, i * in + j) * at_value(ua, i * in + j);
        for (int64_t j = 0; j < rows; j++) b += at_value(ib, j * r + i) * at_value(ub, j * r + i);
        out[i] = at_value(&at->slot[ROW_IE]->value, i) * at_value(&at->slot[ROW_UE]->value, i) + a / (double)in + b / (double)rows;
    }
}

/* Every module's wrap, in order. */
static sy_status wraps_of(adalora *q, sy_run *run, const sy_wrap ***out, int *n)
{
    int count;
    sy_param *const *params = sy_params(run, &count);
    *n = 0;
    *out = syi_alloc(q->ctx, (size_t)(count + 1) * sizeof **out);
    if (!*out) return SY_E_MEMORY;
    for (int i = 0; i < count; i++)
        if (params[i]->slot == &slots[ROW_E])
            for (int w = 0; w < params[i]->site->n_wraps; w++)
                if (params[i]->site->wraps[w].method == &sy_method_adalora) (*out)[(*n)++] = &params[i]->site->wraps[w];
    return SY_OK;
}

typedef struct { double score; int64_t at; } ranked;

static int by_score(const void *x, const void *y)
{
    const ranked *a = x, *b = y;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return a->at < b->at ? -1 : 1; /* ties: module order, then triplet */
}

/* Marks the best `b` triplets of all modules: won[module * init_r + i]. False: there is nothing
 * to go by yet (all scores are 0). */
static sy_status choose(adalora *q, const sy_wrap *const *at, int n, int64_t b, uint8_t *won, bool *any)
{
    const int64_t r = q->init_r;
    ranked *all = syi_alloc(q->ctx, (size_t)(n * r) * sizeof *all);
    double *one = syi_alloc(q->ctx, (size_t)r * sizeof *one);
    sy_status st = all && one ? SY_OK : SY_E_MEMORY;
    *any = false;
    for (int m = 0; m < n && st == SY_OK; m++) {
        score(q, at[m], one);
        for (int64_t i = 0; i < r; i++) {
            all[m * r + i] = (ranked){ one[i], m * r + i };
            *any |= one[i] != 0;
        }
    }
    if (st == SY_OK) {
        qsort(all, (size_t)(n * r), sizeof *all, by_score);
        memset(won, 0, (size_t)(n * r));
        for (int64_t k = 0; k < b && k < n * r; k++) won[all[k].at] = 1;
    }
    syi_free(q->ctx, all);
    syi_free(q->ctx, one);
    return st;
}

static void zero_lost(const sy_wrap *at, const uint8_t *won, int64_t r)
{
    const float zero = 0;
    for (int64_t i = 0; i < r; i++)
        if (!won[i]) syi_param_put(at->slot[ROW_E], i, 1, &zero);
}

/* The pattern is final: what it leaves out goes for good. */
static sy_status finish(adalora *q, sy_run *run, const sy_wrap *const *at, int n, const uint8_t *won)
{
    const int64_t r = q->init_r;
    int64_t *keep = syi_alloc(q->ctx, (size_t)r * sizeof *keep);
    sy_status st = keep ? SY_OK : SY_E_MEMORY;
    for (int m = 0; m < n && st == SY_OK; m++) {
        int64_t k = 0;
        for (int64_t i = 0; i < r; i++) {
            const float kept = won[m * r + i];
            syi_param_put(at[m]->slot[ROW_KEPT], i, 1, &kept);
            if (won[m * r + i]) keep[k++] = i;
        }
        zero_lost(at[m], won + m * r, r);
        for (int row = ROW_IA; row <= ROW_UE && st == SY_OK; row++) st = sy_param_train(run, at[m]->slot[row], false);
        if (!q->shrink || k == r) continue;
        if (k == 0) { /* one triplet of nothing, that is no longer trained */
            for (int row = ROW_A; row <= ROW_E && st == SY_OK; row++) st = sy_param_train(run, at[m]->slot[row], false);
            keep[k++] = 0;
        }
        for (int row = ROW_A; row <= ROW_E && st == SY_OK; row++) st = sy_param_resize(run, at[m]->slot[row], row == ROW_B, keep, k);
    }
    syi_free(q->ctx, keep);
    return st;
}

static bool finished(const sy_wrap *const *at, int n) { return n > 0 && at[0]->slot[ROW_IE] && at[0]->slot[ROW_IE]->retired; }

static sy_status updated(adalora *q, sy_run *run, const sy_wrap *const *at, int n, bool last)
{
    plan p;
    uint8_t *won = NULL;
    bool any = false;
    SYI_TRY(plan_of(q, run, &p));
    const int64_t t = last ? p.last : sy_run_step(run), r = q->init_r;
    if (p.total <= 0 || q->loaded) return SY_OK;
    if (finished(at, n)) { /* not shrunk: what is out of the pattern stays at 0 */
        for (int m = 0; m < n; m++)
            for (int64_t i = 0; i < r && !q->shrink; i++) {
                const float zero = 0;
                if (at_value(&at[m]->slot[ROW_KEPT]->value, i) == 0) syi_param_put(at[m]->slot[ROW_E], i, 1, &zero);
            }
        return SY_OK;
    }
    if (t < p.last)
        for (int m = 0; m < n; m++) smooth(q, at[m]);
    const int64_t b = budget(&p, t);
    if (b >= p.b0) return SY_OK;
    if (t < p.last && (t <= p.first || t % q->delta)) return SY_OK;
    won = syi_alloc(q->ctx, (size_t)(n * r));
    if (!won) return SY_E_MEMORY;
    sy_status st = choose(q, at, n, b, won, &any);
    if (st == SY_OK && any && t >= p.last) st = finish(q, run, at, n, won);
    else if (st == SY_OK && any)
        for (int m = 0; m < n; m++) zero_lost(at[m], won + m * r, r);
    syi_free(q->ctx, won);
    return st;
}

static sy_status on(void *self, sy_run *run, sy_when when)
{
    adalora *q = self;
    const sy_wrap **at;
    int n;
    plan p;
    if (when == SY_START) {
        SYI_TRY(plan_of(q, run, &p));
        if (q->loaded) syi_log(q->ctx, SY_LOG_INFO, "adalora: goes on from a folder: its ranks stay as they are");
        else if (p.total <= 0) syi_log(q->ctx, SY_LOG_WARN, "adalora: the number of steps is not known, so nothing is pruned; set total-step");
        return SY_OK;
    }
    if (when != SY_UPDATED && when != SY_STOP) return SY_OK;
    SYI_TRY(wraps_of(q, run, &at, &n));
    sy_status st = SY_OK;
    if (when == SY_UPDATED) st = updated(q, run, at, n, false);
    else if (q->target_r < q->init_r && !q->loaded && !finished(at, n)) {
        syi_log(q->ctx, SY_LOG_WARN, "adalora: training ended before the last phase; pruned to the budget now, without training after it");
        st = updated(q, run, at, n, true);
    }
    syi_free(q->ctx, at);
    return st;
}

/* -- the orthogonality term ---------------------------------------------------------------------- */

/* || M^T M - I ||_F of a tall M, || M M^T - I ||_F of a wide one (`wide`). Un-squared: its
 * gradient is 2 M D / f, or 2 D M / f, D the difference. */
typedef struct { bool wide; } gram_attr;

static sy_status gram_shape(sy_op_call *c, int *n_aux)
{
    const gram_attr *a = c->attr;
    if (c->in[0]->rank != 2) return syi_shape_wrong(c, "gram_distance", 0, "a matrix");
    const int64_t r = c->in[0]->dim[!a->wide];
    const sy_dtype dt = syi_sum_type(c->in[0]->dtype);
    syi_shape_1(c->out, dt, 1);
    syi_shape_2(c->aux[0], dt, r, r);
    *n_aux = 1;
    return SY_OK;
}

static syi_mat plain(const sy_tensor *t, bool transposed) { return (syi_mat){ t->dtype, t->data, t->dim[1], transposed }; }

static sy_status gram_forward(sy_op_call *c)
{
    const gram_attr *a = c->attr;
    const sy_tensor *m = c->in[0];
    sy_tensor *d = c->aux[0];
    const int64_t r = d->dim[0];
    double sum = 0;
    SYI_TRY(syi_gemm(c->engine, r, r, m->dim[a->wide], 1, plain(m, !a->wide), plain(m, a->wide), 0, d->dtype, d->data, r));
    for (int64_t i = 0; i < r; i++) {
        if (d->dtype == SY_F64) ((double *)d->data)[i * r + i] -= 1;
        else ((float *)d->data)[i * r + i] -= 1;
    }
    for (int64_t i = 0; i < r * r; i++) sum += at_value(d, i) * at_value(d, i);
    syi_scalar_set(c->out, sqrt(sum));
    return SY_OK;
}

static sy_status gram_backward(sy_op_call *c)
{
    const gram_attr *a = c->attr;
    const sy_tensor *m = c->in[0], *d = c->aux[0];
    const int64_t r = d->dim[0];
    const double f = fmax(syi_scalar_get(c->out), 1e-12), s = 2 * syi_scalar_get(c->dout) / f;
    if (!c->want[0]) return SY_OK;
    if (a->wide) return syi_gemm(c->engine, r, m->dim[1], r, s, plain(d, false), plain(m, false), c->add[0], c->din[0]->dtype, c->din[0]->data, m->dim[1]);
    return syi_gemm(c->engine, m->dim[0], r, r, s, plain(m, false), plain(d, false), c->add[0], c->din[0]->dtype, c->din[0]->data, r);
}

static unsigned gram_keep(const sy_op_call *c, unsigned want)
{
    (void)c;
    (void)want;
    return 1u | SYI_KEEP_OUT;
}

static bool gram_test(int i, sy_op_case *t)
{
    static const gram_attr attr[] = { { false }, { true } };
    if (i > 1) return false;
    *t = (sy_op_case){ .what = i ? "M M^T" : "M^T M", .n_in = 1, .attr = &attr[i], .attr_size = sizeof *attr };
    syi_case_in(t, 0, 2, i ? (const int64_t[]){ 3, 11 } : (const int64_t[]){ 11, 3 }, true);
    return true;
}

static const sy_op gram_row = {
    .name = "gram_distance", .min_in = 1, .max_in = 1, .flags = SY_OP_ROOT, .shape = gram_shape, .forward = gram_forward, .backward = gram_backward,
    .keep = gram_keep, .test = gram_test,
};
static const sy_op *const ops[] = { &gram_row, NULL };

/* gamma times the mean of the 2N distances. */
static sy_status orthogonality(void *self, sy_run *run, sy_graph *g, const sy_batch *batch, sy_node **total)
{
    adalora *q = self;
    int n, matrices = 0;
    sy_node *sum = NULL;
    (void)batch;
    if (q->orth <= 0) return SY_OK;
    sy_param *const *params = sy_params(run, &n);
    for (int i = 0; i < n; i++) matrices += params[i]->slot == &slots[ROW_A] || params[i]->slot == &slots[ROW_B];
    for (int i = 0; i < n; i++) {
        const gram_attr a = { params[i]->slot == &slots[ROW_A] };
        if ((!a.wide && params[i]->slot != &slots[ROW_B]) || !params[i]->trained) continue;
        sy_node *leaf = sy_leaf(g, params[i]), *f = sy_call(g, &gram_row, &leaf, 1, &a, sizeof a);
        sum = sum ? syi_op_add(g, f, sum) : f;
    }
    if (sum) *total = syi_op_add(g, *total, syi_op_scale(g, sum, q->orth / matrices));
    return sy_graph_status(g);
}

/* -- forward and out ------------------------------------------------------------------------------- */

static sy_node *forward(void *self, sy_graph *g, const sy_wrap *at, sy_next next, sy_node *x)
{
    adalora *q = self;
    const int64_t r = at->slot[ROW_E]->value.dim[0];
    sy_node *base = sy_base(g, next, x), *u = x;
    if (q->dropout > 0 && sy_graph_training(g)) u = syi_op_dropout(g, u, q->dropout, sy_graph_key(g, "adalora_dropout", at->site->name));
    sy_node *h = syi_op_linear(g, u, sy_leaf(g, at->slot[ROW_A]), false), *e = syi_op_reshape(g, sy_leaf(g, at->slot[ROW_E]), 1, &r);
    return syi_op_product_add(g, base, syi_op_scale_cols(g, h, e), 0, sy_leaf(g, at->slot[ROW_B]), true, scale_of(q));
}

/* Which triplets are saved: the final pattern's, or all. */
static int64_t saved(const adalora *q, const sy_wrap *at, int64_t *which)
{
    const int64_t r = at->slot[ROW_E]->value.dim[0];
    const sy_param *kept = at->slot[ROW_KEPT];
    int64_t n = 0;
    bool final = kept && at->slot[ROW_IE]->retired;
    if (final && q->shrink) { /* the parameters have shrunk; a module may have nothing left */
        int64_t alive = 0;
        for (int64_t i = 0; i < q->init_r; i++) alive += at_value(&kept->value, i) != 0;
        for (int64_t i = 0; i < alive && i < r; i++) which[n++] = i;
        return n;
    }
    for (int64_t i = 0; i < r; i++) which[n++] = i;
    return n;
}

static sy_status save_slot(void *self, const sy_wrap *at, int slot, sy_tensor *out)
{
    adalora *q = self;
    const sy_param *p = at->slot[slot];
    const int64_t r = at->slot[ROW_E]->value.dim[0];
    int64_t *which = syi_alloc(q->ctx, (size_t)r * sizeof *which);
    if (!which) return SY_E_MEMORY;
    const int64_t n = slot <= ROW_E ? saved(q, at, which) : r, cols = p->value.dim[1];
    sy_status st = SY_OK;
    if (n < r) { /* none left: tensors without numbers */
        *out = p->value;
        out->dtype = SY_F32;
        out->dim[slot == ROW_B] = n;
        out->data = syi_alloc(q->ctx, 4 * (size_t)syi_max(1, n * syi_max(cols, p->value.dim[0])));
        if (!out->data) st = SY_E_MEMORY;
    }
    syi_free(q->ctx, which);
    return st;
}

static sy_status to_lora(void *self, const sy_wrap *at, sy_tensor *a, sy_tensor *b, double *scale)
{
    adalora *q = self;
    const sy_param *pa = at->slot[ROW_A], *pb = at->slot[ROW_B], *pe = at->slot[ROW_E];
    const int64_t r = pa->value.dim[0], in = at->site->in, out = at->site->out;
    *a = (sy_tensor){ .dtype = SY_F32, .rank = 2, .dim = { r, in }, .data = syi_alloc(q->ctx, (size_t)(r * in) * sizeof(float)) };
    *b = (sy_tensor){ .dtype = SY_F32, .rank = 2, .dim = { out, r }, .data = syi_alloc(q->ctx, (size_t)(out * r) * sizeof(float)) };
    *scale = scale_of(q);
    if (!a->data || !b->data) {
        syi_free(q->ctx, a->data);
        syi_free(q->ctx, b->data);
        a->data = b->data = NULL;
        return SY_E_MEMORY;
    }
    syi_param_get(pa, 0, r * in, a->data);
    syi_param_get(pb, 0, out * r, b->data);
    for (int64_t k = 0; k < r; k++) {
        float e;
        syi_param_get(pe, k, 1, &e);
        for (int64_t j = 0; j < in; j++) ((float *)a->data)[k * in + j] *= e;
    }
    return SY_OK;
}

static sy_status config_out(void *self, sy_run *run, void *json)
{
    adalora *q = self;
    const sy_wrap **at;
    plan p;
    int n;
    SYI_TRY(plan_of(q, run, &p));
    SYI_TRY(wraps_of(q, run, &at, &n));
    json_t *pattern = NULL;
    if (q->pattern) {
        pattern = json_incref(q->pattern);
    } else if (finished(at, n) && q->shrink) {
        pattern = json_object();
        for (int m = 0; m < n; m++) {
            char key[300];
            json_t *list = json_array();
            snprintf(key, sizeof key, "%s.lora_E", at[m]->site->name);
            for (int64_t i = 0; i < q->init_r; i++) json_array_append_new(list, json_boolean(at_value(&at[m]->slot[ROW_KEPT]->value, i) != 0));
            json_object_set_new(pattern, key, list);
        }
    }
    syi_free(q->ctx, at);
    json_object_set_new(json, "rank_pattern", pattern ? pattern : json_null());
    json_object_set_new(json, "total_step", json_integer((json_int_t)syi_max(1, p.total)));
    json_object_set_new(json, "tinit", json_integer((json_int_t)(p.total > 0 ? p.first : 0)));
    json_object_set_new(json, "tfinal", json_integer((json_int_t)(p.total > 0 ? p.total - p.last : 0)));
    const double alpha = q->alpha > 0 ? q->alpha : (double)q->init_r;
    json_object_set_new(json, "lora_alpha", alpha == floor(alpha) ? json_integer((json_int_t)alpha) : json_real(alpha));
    return SY_OK;
}

static void release(void *self)
{
    json_decref(((adalora *)self)->pattern);
}

static const sy_paper papers[] = {
    { .title = "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", .authors = "Qingru Zhang, Minshuo Chen, Alexander Bukharin, Nikos Karampatziakis, "
      "Pengcheng He, Yu Cheng, Weizhu Chen, Tuo Zhao", .venue = "ICLR 2023", .id = "arXiv:2303.10512", .year = 2023,
      .equations = "y = W x + alpha/(r0 + 1e-5) P diag(e) Q x;  loss + gamma/(2N) sum (|P^T P - I|_F + |Q Q^T - I|_F);  triplets pruned by smoothed |w dL/dw|" },
    { .title = NULL }
};

const sy_method sy_method_adalora = {
    .abi = SY_METHOD_ABI, .name = "adalora", .kind = SY_ADAPTER,
    .title = "AdaLoRA: LoRA whose ranks move during training to the modules that need them",
    .papers = papers,
    .about = "For a fixed, small budget of adapter parameters when it is not known which weights deserve them: starts above the budget, scores every "
             "rank-one piece by its smoothed sensitivity and prunes the least important on a cubic schedule. Wants enough steps: with a few hundred, "
             "or a low learning rate, it is LoRA at best. Needs twice LoRA's state until the last phase.",
    .peft_type = "ADALORA",
    .peft_defaults = "{\"fan_in_fan_out\":false,\"init_lora_weights\":true,\"layers_pattern\":null,\"layers_to_transform\":null,\"modules_to_save\":null,\"r\":8}",
    .caps = SY_CAP_LINEAR_IN_X,
    .options = options, .slots = slots, .size = sizeof(adalora), .ops = ops,
    .init = init, .on = on, .free = release, .loss = orthogonality, .forward = forward, .to_lora = to_lora, .save_slot = save_slot, .config_out = config_out,
};
