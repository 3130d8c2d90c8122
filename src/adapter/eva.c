/* SPDX-License-Identifier: Apache-2.0 */
/* EVA: LoRA whose A starts as the leading principal directions of a module's inputs, found by a
 * streaming PCA over the training data before the first step, and whose ranks go where inputs
 * have more directions: the components of all modules compete by the share of variance that
 * they explain. B starts at 0, so nothing changes at the start. After that it is plain LoRA and
 * is saved as such, with rank_pattern and alpha_pattern.
 *
 * Modules that share an input (q, k, v; gate, up) share one PCA. Parameters are made at the
 * largest rank and shrink to what they won; a module that won nothing is left out. */
#include "adapter/lora.h"
#include "graph/ops.h"
#include "run/observe.h"
#include "tensor/orth.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

enum { RANDOMIZED, EXACT, MOMENT };
enum { RATIO, RAW, SUM, MAX };
enum { MAJOR, MINOR, RANDOM_ROWS };
static const char *const solvers[] = { "randomized", "exact", "moment", NULL }, *const metrics[] = { "ratio", "raw", "sum", "max", NULL };
static const char *const row_kinds[] = { "major", "minor", "random", NULL };

/* The streaming PCA of one input. */
typedef struct {
    sy_site *site;           /* the first of those that have this input                 */
    int block, input_group;
    int64_t n, most, kept;   /* features; components that are kept at most, and are     */
    double count, *mean, *m2;/* [n]                                                     */
    float *v, *sigma;        /* [most, n], [most]                                       */
    sy_stats *stats;         /* solver "moment": sums over all rows so far              */
    bool done;               /* all of its modules have converged                       */
} group;

typedef struct { const sy_wrap *at; group *g; int64_t rank, settled; bool done; } module; /* settled: rank at which it was done */

typedef struct {
    struct syi_lora lora;    /* first: its hooks see this                                */
    double rho, tau;
    bool label_mask, whiten, adjust;
    int64_t svd_rows, max_batches;
    int metric, rows, solver;
    /* while the inputs are looked at */
    sy_run *run;
    group *groups;
    module *modules;
    int n_groups, n_modules;
    int64_t k, widest, round;
    uint8_t *mask;           /* tokens of the batch that count; NULL: all (images)       */
    int64_t counted;
    int to_see;              /* inputs that this forward has still to meet               */
    bool seen;               /* this round had rows enough for one of them               */
} eva;

static const sy_option options[] = {
    SY_ADAPTER_ROWS(struct syi_lora),
    { .name = "rank", .type = SY_OPT_INT, .offset = offsetof(struct syi_lora, rank), .def = "16", .min = 1, .max = 65536, .peft = "r", .alias = "r lora_r",
      .help = "mean rank of the update", .example = "8" },
    { .name = "alpha", .type = SY_OPT_FLOAT, .offset = offsetof(struct syi_lora, alpha), .def = "1", .min = 0, .max = 1e9, .flags = SY_OPT_MIN_OPEN,
      .peft = "lora_alpha", .alias = "lora_alpha", .help = "scale of the update: alpha/rank (alpha/sqrt(rank) with use-rslora)", .example = "16" },
    { .name = "dropout", .type = SY_OPT_FLOAT, .offset = offsetof(struct syi_lora, dropout), .def = "0", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN,
      .peft = "lora_dropout", .alias = "lora_dropout", .help = "dropout on the update's input", .example = "0.05" },
    { .name = "use-rslora", .type = SY_OPT_BOOL, .offset = offsetof(struct syi_lora, use_rslora), .def = "off", .peft = "use_rslora",
      .help = "rsLoRA: divide alpha by the root of the rank", .example = "on" },
    { .name = "use-dora", .type = SY_OPT_BOOL, .offset = offsetof(struct syi_lora, use_dora), .def = "off", .peft = "use_dora",
      .help = "DoRA: train the length of each output row apart from its direction", .example = "on" },
    { .name = "rho", .type = SY_OPT_FLOAT, .offset = offsetof(eva, rho), .def = "2", .min = 1, .max = 64, .help = "a module's rank is at most this times the mean; 1: all ranks are equal", .example = "1" },
    { .name = "tau", .type = SY_OPT_FLOAT, .offset = offsetof(eva, tau), .def = "0.99", .min = 0, .max = 1, .help = "a component has settled when its cosine with its last state is this much", .example = "0.95" },
    { .name = "use-label-mask", .type = SY_OPT_BOOL, .offset = offsetof(eva, label_mask), .def = "on", .help = "look only at tokens that carry loss", .example = "off" },
    { .name = "whiten", .type = SY_OPT_BOOL, .offset = offsetof(eva, whiten), .def = "off", .help = "divide each direction by the root of its singular value", .example = "on" },
    { .name = "adjust-scaling-factors", .type = SY_OPT_BOOL, .offset = offsetof(eva, adjust), .def = "on",
      .help = "alpha of a module follows its rank, so that all modules have one scale", .example = "off" },
    { .name = "svd-batch", .type = SY_OPT_INT, .offset = offsetof(eva, svd_rows), .def = "4", .min = 1, .max = 65536, .help = "rows of the data that are looked at together", .example = "8" },
    { .name = "max-batches", .type = SY_OPT_INT, .offset = offsetof(eva, max_batches), .def = "256", .min = 1, .max = 1e9, .help = "look at no more batches than this", .example = "16" },
    { .name = "redist-metric", .type = SY_OPT_ENUM, .offset = offsetof(eva, metric), .def = "ratio", .choices = metrics, .flags = SY_OPT_ADVANCED,
      .help = "what components compete by: share of variance, variance, that over its sum or its largest", .example = "raw" },
    { .name = "directions", .type = SY_OPT_ENUM, .offset = offsetof(eva, rows), .def = "major", .choices = row_kinds, .flags = SY_OPT_ADVANCED,
      .help = "controls: the least of the directions, or random ones", .example = "random" },
    { .name = "svd", .type = SY_OPT_ENUM, .offset = offsetof(eva, solver), .def = "randomized", .choices = solvers, .flags = SY_OPT_ADVANCED,
      .help = "how directions are found: batch by batch, randomised or exact; or from second moments of all rows (features squared of memory an input)", .example = "moment" },
    { .name = NULL }
};

static void forget(eva *e)
{
    for (int i = 0; i < e->n_groups; i++) {
        syi_free(e->lora.ctx, e->groups[i].mean);
        syi_free(e->lora.ctx, e->groups[i].v);
        syi_stats_free(e->lora.ctx, e->groups[i].stats);
        e->groups[i].site->see = NULL;
    }
    if (e->lora.ctx) {
        syi_free(e->lora.ctx, e->groups);
        syi_free(e->lora.ctx, e->modules);
        syi_free(e->lora.ctx, e->mask);
    }
    e->groups = NULL;
    e->modules = NULL;
    e->mask = NULL;
    e->n_groups = e->n_modules = 0;
}

static void release(void *self)
{
    forget(self);
    sy_method_lora.free(self);
}

/* -- before the tensors -------------------------------------------------------------------- */

static sy_status largest(void *self, sy_run *run, sy_site *site)
{
    eva *e = self;
    SYI_TRY(syi_linear_only(e->lora.ctx, "eva", site));
    if (e->lora.rank > site->in)
        return syi_fail(e->lora.ctx, SY_E_USAGE, "eva: rank %lld is above the %lld inputs of %s", (long long)e->lora.rank, (long long)site->in, site->name);
    e->widest = syi_max(e->widest, site->in);
    return sy_site_dim(run, site, "rank", syi_min(e->k, site->in));
}

static sy_status init(void *self, sy_run *run)
{
    eva *e = self;
    SYI_TRY(sy_method_lora.init(self, run));
    e->k = llround((double)e->lora.rank * e->rho);
    SYI_TRY(syi_each_site(run, largest, e));
    e->k = syi_min(e->k, e->widest); /* there are no more directions */
    return SY_OK;
}

/* -- the streaming PCA ----------------------------------------------------------------------- */

static group *group_of(eva *e, const sy_site *site)
{
    for (int i = 0; i < e->n_groups; i++)
        if (e->groups[i].block == site->block && e->groups[i].input_group == site->input_group && e->groups[i].n == site->in) return &e->groups[i];
    return NULL;
}

/* All modules, in the order of their sites, and the inputs they have. */
static sy_status collect(eva *e)
{
    sy_context *ctx = e->lora.ctx;
    int n;
    sy_param *const *params = sy_params(e->run, &n);
    e->groups = syi_calloc(ctx, (size_t)n + 1, sizeof *e->groups);
    e->modules = syi_calloc(ctx, (size_t)n + 1, sizeof *e->modules);
    if (!e->groups || !e->modules) return SY_E_MEMORY;
    for (int i = 0; i < n; i++) {
        if (params[i]->slot != &syi_lora_slots[SYI_LORA_A]) continue;
        sy_site *site = params[i]->site;
        const sy_wrap *at = NULL;
        for (int w = 0; w < site->n_wraps; w++)
            if (site->wraps[w].self == e) at = &site->wraps[w];
        group *g = group_of(e, site);
        if (!g) {
            g = &e->groups[e->n_groups++];
            *g = (group){ .site = site, .block = site->block, .input_group = site->input_group, .n = site->in };
            g->most = e->rows == MINOR ? g->n : syi_min(e->k, g->n); /* the least of all directions */
            g->mean = syi_calloc(ctx, (size_t)(2 * g->n), sizeof *g->mean);
            g->v = syi_calloc(ctx, (size_t)(g->most * g->n + g->most), sizeof *g->v);
            if (!g->mean || !g->v) return SY_E_MEMORY;
            g->m2 = g->mean + g->n;
            g->sigma = g->v + g->most * g->n;
            if (e->solver == MOMENT) SYI_TRY(syi_stats_new(ctx, g->n, SY_STAT_XX | SY_STAT_MEAN, 0, 0, &g->stats));
        }
        e->modules[e->n_modules++] = (module){ .at = at, .g = g, .rank = syi_min(e->k, site->in) };
    }
    return SY_OK;
}

/* The first g->kept of vt[kept, n] and sigma are the group's directions now; whether its modules
 * have settled. */
static sy_status take_directions(eva *e, group *g, const float *sigma, const float *vt)
{
    const int64_t n = g->n;
    double *cosine = syi_alloc(e->lora.ctx, (size_t)g->kept * sizeof *cosine + 1);
    if (!cosine) return SY_E_MEMORY;
    for (int64_t i = 0; i < g->kept; i++) {
        float *v = g->v + i * n;
        int64_t most = 0;
        for (int64_t j = 1; j < n; j++)
            if (fabsf(vt[i * n + j]) > fabsf(vt[i * n + most])) most = j;
        const float sign = vt[i * n + most] < 0 ? -1.0f : 1.0f;
        cosine[i] = 0; /* to its last state; 0 in the first round */
        for (int64_t j = 0; j < n; j++) {
            const float now = sign * vt[i * n + j];
            cosine[i] += (double)now * v[j];
            v[j] = now;
        }
        g->sigma[i] = sigma[i];
    }
    for (int m = 0; m < e->n_modules; m++) {
        module *o = &e->modules[m];
        if (o->g != g) continue;
        o->done = o->rank <= g->kept;
        for (int64_t i = 0; i < o->rank && o->done; i++) o->done = cosine[i] >= e->tau;
        if (o->done) o->settled = o->rank;
    }
    syi_free(e->lora.ctx, cosine);
    return SY_OK;
}

/* Adds the rows x[b, n] (centred here) to a group's PCA. */
static sy_status absorb(eva *e, group *g, float *x, int64_t b)
{
    sy_context *ctx = e->lora.ctx;
    const int64_t n = g->n, k = g->most, old = g->kept, extra = g->count > 0 ? 1 : 0, rows = old + b + extra;
    double *mean = syi_calloc(ctx, (size_t)n, sizeof *mean);
    float *s = syi_alloc(ctx, (size_t)(rows * n) * sizeof *s);
    const bool exact = e->solver == EXACT || e->rows == MINOR;
    const int64_t p = exact ? syi_min(rows, n) : k;
    float *u = syi_alloc(ctx, (size_t)(rows * p) * sizeof *u), *sigma = syi_alloc(ctx, (size_t)p * sizeof *sigma), *vt = syi_alloc(ctx, (size_t)(p * n) * sizeof *vt);
    sy_status st = mean && s && u && sigma && vt ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK) {
        for (int64_t i = 0; i < b; i++)
            for (int64_t j = 0; j < n; j++) mean[j] += x[i * n + j];
        for (int64_t j = 0; j < n; j++) mean[j] /= (double)b;
        const double together = g->count * (double)b / (g->count + (double)b), root = sqrt(together);
        for (int64_t i = 0; i < old; i++)
            for (int64_t j = 0; j < n; j++) s[i * n + j] = g->sigma[i] * g->v[i * n + j];
        for (int64_t i = 0; i < b; i++)
            for (int64_t j = 0; j < n; j++) {
                const double d = x[i * n + j] - mean[j];
                s[(old + i) * n + j] = (float)d;
                g->m2[j] += d * d;
            }
        for (int64_t j = 0; j < n; j++) {
            const double d = g->mean[j] - mean[j];
            if (extra) {
                s[(old + b) * n + j] = (float)(root * d);
                g->m2[j] += together * d * d;
            }
            g->mean[j] = (g->count * g->mean[j] + (double)b * mean[j]) / (g->count + (double)b);
        }
        g->count += (double)b;
        st = exact ? syi_svd(ctx, rows, n, s, u, sigma, vt)
                   : syi_rsvd(sy_run_engine(e->run), rows, n, s, k, 4, syi_key(42, "eva", g->site->name, 0), u, sigma, vt);
    }
    if (st == SY_OK) {
        g->kept = syi_min(k, syi_min(rows, n));
        st = take_directions(e, g, sigma, vt);
    }
    syi_free(ctx, mean);
    syi_free(ctx, s);
    syi_free(ctx, u);
    syi_free(ctx, sigma);
    syi_free(ctx, vt);
    return st;
}

/* Principal directions of all rows so far from their sums: eigenvectors of the centred second
 * moments, by subspace iteration where there are many features. */
static sy_status decompose(eva *e, group *g)
{
    enum { SMALL = 384, ITERATIONS = 6 };
    sy_context *ctx = e->lora.ctx;
    const int64_t n = g->n, k = g->most;
    const bool whole = n <= SMALL || 2 * k >= n;
    const sy_stats *s = g->stats;
    double *c = syi_alloc(ctx, (size_t)(n * n) * sizeof *c), *w = syi_alloc(ctx, (size_t)n * sizeof *w), *v = whole ? syi_alloc(ctx, (size_t)(n * n) * sizeof *v) : NULL;
    float *f = syi_alloc(ctx, (size_t)(n * n) * sizeof *f), *u = whole ? NULL : syi_alloc(ctx, (size_t)(n * k) * sizeof *u), *sigma = syi_alloc(ctx, (size_t)n * sizeof *sigma),
          *vt = syi_alloc(ctx, (size_t)(k * n) * sizeof *vt);
    sy_status st = c && w && f && sigma && vt && (whole ? v != NULL : u != NULL) ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK) {
        g->count = (double)s->tokens;
        for (int64_t i = 0; i < n; i++) g->mean[i] = s->sum[i] / g->count;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = i; j < n; j++) {
                c[i * n + j] = c[j * n + i] = s->xx[i * n + j] - g->count * g->mean[i] * g->mean[j];
                f[i * n + j] = f[j * n + i] = (float)c[i * n + j];
            }
        for (int64_t i = 0; i < n; i++) g->m2[i] = fmax(0, c[i * n + i]);
        if (whole) st = syi_eigh(ctx, n, c, w, v);
        else st = syi_rsvd(sy_run_engine(e->run), n, n, f, k, ITERATIONS, syi_key(42, "eva", g->site->name, 0), u, sigma, vt);
        if (st == SY_E_NUMERIC) syi_fail(ctx, st, "eva: the inputs of %s are not finite", g->site->name);
    }
    if (st == SY_OK) {
        g->kept = syi_min(k, s->tokens);
        for (int64_t i = 0; i < g->kept; i++) {
            sigma[i] = (float)sqrt(fmax(0, whole ? w[i] : (double)sigma[i]));
            for (int64_t j = 0; whole && j < n; j++) vt[i * n + j] = (float)v[i * n + j];
        }
        st = take_directions(e, g, sigma, vt);
    }
    syi_free(ctx, c);
    syi_free(ctx, w);
    syi_free(ctx, v);
    syi_free(ctx, f);
    syi_free(ctx, u);
    syi_free(ctx, sigma);
    syi_free(ctx, vt);
    return st;
}

static sy_status add_rows(eva *e, group *g, const sy_tensor *x, int64_t counted)
{
    const int64_t n = g->n, tokens = sy_tensor_rows(x), z = sy_dtype_block_bytes(x->dtype);
    if (e->solver == MOMENT) return syi_stats_add(sy_run_engine(e->run), g->stats, x, NULL, e->mask);
    float *rows = syi_alloc(e->lora.ctx, (size_t)(counted * n) * sizeof *rows);
    sy_status st = rows ? SY_OK : SY_E_MEMORY;
    int64_t b = 0;
    for (int64_t t = 0; t < tokens && st == SY_OK; t++) {
        if (e->mask && !e->mask[t]) continue;
        st = syi_cast(sy_run_engine(e->run), x->dtype, (const char *)x->data + t * n * z, SY_F32, rows + b++ * n, n);
    }
    if (st == SY_OK) st = absorb(e, g, rows, b);
    syi_free(e->lora.ctx, rows);
    return st;
}

static sy_status see(void *self, const sy_site *site, const sy_tensor *x)
{
    eva *e = self;
    group *g = group_of(e, site);
    const int64_t counted = e->mask ? e->counted : sy_tensor_rows(x);
    if (counted >= g->most) { /* else too few rows to tell so many directions apart */
        e->seen = true;
        SYI_TRY(add_rows(e, g, x, counted));
    }
    return --e->to_see > 0 ? SY_OK : (sy_status)SY_SEEN_ENOUGH; /* what lies above is not needed */
}

/* -- ranks ------------------------------------------------------------------------------------- */

typedef struct { double share; int module; int64_t component; } claim;

static int by_share(const void *x, const void *y)
{
    const claim *a = x, *b = y;
    if (a->share != b->share) return a->share > b->share ? -1 : 1;
    if (a->module != b->module) return a->module < b->module ? -1 : 1;
    return a->component < b->component ? -1 : a->component > b->component;
}

static double share(const eva *e, const group *g, int64_t i)
{
    double total = 0, sum = 0;
    const double v = (double)g->sigma[i] * g->sigma[i];
    for (int64_t j = 0; j < g->n; j++) total += g->m2[j];
    for (int64_t j = 0; j < g->kept; j++) sum += (double)g->sigma[j] * g->sigma[j];
    switch (e->metric) {
    case RAW: return g->count > 1 ? v / (g->count - 1) : 0;
    case SUM: return sum > 0 ? v / sum : 0;
    case MAX: return g->sigma[0] > 0 ? v / ((double)g->sigma[0] * g->sigma[0]) : 0;
    default: return total > 0 ? v / total : 0;
    }
}

/* The first modules * rank claims win. */
static sy_status redistribute(eva *e)
{
    claim *all = syi_alloc(e->lora.ctx, (size_t)(e->n_modules * e->k) * sizeof *all);
    int64_t n = 0, budget = e->n_modules * e->lora.rank;
    if (!all) return SY_E_MEMORY;
    for (int m = 0; m < e->n_modules; m++) {
        const group *g = e->modules[m].g;
        for (int64_t i = 0; i < syi_min(g->kept, syi_min(e->k, g->n)); i++) all[n++] = (claim){ share(e, g, i), m, i };
        e->modules[m].rank = 0;
    }
    qsort(all, (size_t)n, sizeof *all, by_share);
    for (int64_t i = 0; i < n && i < budget; i++) e->modules[all[i].module].rank++;
    syi_free(e->lora.ctx, all);
    for (int g = 0; g < e->n_groups; g++) e->groups[g].done = true;
    for (int m = 0; m < e->n_modules; m++) {
        if (e->modules[m].rank > e->modules[m].settled) e->modules[m].done = false; /* it has grown since */
        if (!e->modules[m].done) e->modules[m].g->done = false;
    }
    return SY_OK;
}

/* Which tokens of a batch are looked at; of images every row that a module sees. */
static void choose_tokens(eva *e, const sy_batch *b, bool labels)
{
    e->counted = 0;
    if (!e->mask) return;
    for (int64_t t = 0; t < b->tokens; t++) {
        const bool begins = b->first[t] == t, padding = begins && b->target[t] < 0 && (t + 1 == b->tokens || b->first[t + 1] == t + 1);
        bool yes = !padding;
        if (labels) yes = yes && (begins ? b->target[t] >= 0 : b->target[t - 1] >= 0); /* the label of a token is the target before it */
        e->mask[t] = yes;
        e->counted += yes;
    }
}

static int open_components(const eva *e)
{
    int n = 0;
    for (int m = 0; m < e->n_modules; m++) n += !e->modules[m].done;
    return n;
}

static sy_status look(eva *e)
{
    sy_context *ctx = e->lora.ctx;
    bool labels = e->label_mask, wide = false;
    int64_t seen = 0;
    for (e->round = 0; e->round < e->max_batches; e->round++) {
        sy_batch b;
        SYI_TRY(sy_run_batch(e->run, e->round, e->svd_rows, &b));
        syi_free(ctx, e->mask);
        e->mask = b.pixels ? NULL : syi_alloc(ctx, (size_t)b.tokens);
        if (!e->mask && !b.pixels) return SY_E_MEMORY;
        choose_tokens(e, &b, labels);
        if (labels && e->mask && e->counted < e->k) {
            if (!wide) syi_log(ctx, SY_LOG_WARN, "eva: %lld tokens of a batch carry loss, fewer than the %lld directions that are looked for; all tokens are used", (long long)e->counted, (long long)e->k);
            wide = true;
            choose_tokens(e, &b, false);
        }
        e->seen = false;
        e->to_see = 0;
        for (int g = 0; g < e->n_groups; g++) {
            e->to_see += !e->groups[g].done;
            e->groups[g].site->see = e->groups[g].done ? NULL : see;
            e->groups[g].site->see_self = e;
        }
        SYI_TRY(sy_run_observe(e->run, &b));
        seen += e->seen;
        const int64_t rounds = e->round + 1;
        if (e->solver == MOMENT) { /* looked at after 1, 2, 4, 8 ... batches, and at the end */
            if ((rounds & (rounds - 1)) != 0 && rounds < e->max_batches) continue;
            for (int g = 0; g < e->n_groups && seen; g++)
                if (!e->groups[g].done) SYI_TRY(decompose(e, &e->groups[g]));
        }
        SYI_TRY(redistribute(e));
        syi_progress(ctx, &(sy_progress){ .what = "eva", .done = e->round + 1, .total = e->max_batches, .unit = "batch" });
        if (seen > 1 && open_components(e) == 0) {
            e->round++;
            break;
        }
    }
    if (seen == 0)
        return syi_fail(ctx, SY_E_INPUT, "eva: no batch of %lld rows has the %lld tokens that as many directions need; raise --svd-batch or --seq, or lower --rank", (long long)e->svd_rows, (long long)e->k);
    if (open_components(e))
        syi_log(ctx, SY_LOG_WARN, "eva: after %lld batches the directions of %d of %d modules still move; the last state is used", (long long)e->round, open_components(e), e->n_modules);
    else
        syi_log(ctx, SY_LOG_INFO, "eva: directions of %d modules (%d inputs) settled after %lld batches", e->n_modules, e->n_groups, (long long)e->round);
    return SY_OK;
}

/* -- into the parameters ------------------------------------------------------------------------- */

static double scale_for(const eva *e, int64_t rank)
{
    const double r = (double)(e->adjust ? e->lora.rank : rank);
    return e->lora.alpha / (e->lora.use_rslora ? sqrt(r) : r);
}

static sy_status settle(eva *e, const module *m)
{
    sy_context *ctx = e->lora.ctx;
    sy_param *pa = m->at->slot[SYI_LORA_A], *pb = m->at->slot[SYI_LORA_B];
    const int64_t n = m->g->n, r = syi_max(1, m->rank);
    int64_t *keep = syi_alloc(ctx, (size_t)r * sizeof *keep);
    float *v = syi_alloc(ctx, (size_t)(r * n) * sizeof *v);
    sy_status st = keep && v ? SY_OK : SY_E_MEMORY;
    for (int64_t i = 0; i < r && st == SY_OK; i++) {
        const int64_t from = e->rows == MINOR ? syi_max(0, m->g->kept - 1 - i) : i;
        const float *row = m->g->v + from * n;
        keep[i] = i;
        float f = e->whiten && m->g->sigma[from] > 0 ? (float)(1 / sqrt((double)m->g->sigma[from])) : 1;
        if (e->rows == RANDOM_ROWS) {
            double norm = 0;
            syi_normal(syi_key(sy_run_seed(e->run), "eva", m->at->site->name, i), 0, n, v + i * n);
            for (int64_t j = 0; j < n; j++) norm += (double)v[i * n + j] * v[i * n + j];
            f = (float)(1 / sqrt(norm));
            row = v + i * n;
        }
        for (int64_t j = 0; j < n; j++) v[i * n + j] = f * row[j];
    }
    if (st == SY_OK) st = sy_param_resize(e->run, pa, 0, keep, r);
    if (st == SY_OK) st = sy_param_resize(e->run, pb, 1, keep, r);
    if (st == SY_OK && m->rank > 0) syi_param_put(pa, 0, r * n, v);
    if (st == SY_OK && m->rank == 0)
        for (int i = 0; i < m->at->n_slots && st == SY_OK; i++)
            if (m->at->slot[i]) st = sy_param_train(e->run, m->at->slot[i], false);
    syi_free(ctx, keep);
    syi_free(ctx, v);
    return st;
}

/* Scales by rank; modules without one are out. Also when a run is resumed. */
static void finish(eva *e)
{
    int n;
    sy_param *const *params = sy_params(e->run, &n);
    for (int i = 0; i < n; i++) {
        if (params[i]->slot != &syi_lora_slots[SYI_LORA_A]) continue;
        sy_site *site = params[i]->site;
        for (int w = 0; w < site->n_wraps; w++)
            if (site->wraps[w].self == e) {
                ((struct syi_lora_own *)site->wraps[w].own)->scale = scale_for(e, params[i]->value.dim[0]);
                site->wraps[w].active = !params[i]->retired;
            }
    }
}

static sy_status on(void *self, sy_run *run, sy_when when)
{
    eva *e = self;
    if (when != SY_START) return SY_OK;
    e->run = run;
    if (sy_run_step(run) == 0) {
        sy_status st = collect(e);
        if (st == SY_OK) st = look(e);
        for (int m = 0; m < e->n_modules && st == SY_OK; m++) st = settle(e, &e->modules[m]);
        forget(e);
        SYI_TRY(st);
    }
    finish(e);
    return SY_OK;
}

/* -- out ------------------------------------------------------------------------------------------ */

static json_t *number(double v) { return v == floor(v) ? json_integer((json_int_t)v) : json_real(v); }

static sy_status config_out(void *self, sy_run *run, void *json)
{
    eva *e = self;
    json_t *ranks = json_object(), *alphas = json_object(), *how = json_object();
    int n;
    SYI_TRY(sy_method_lora.config_out(self, run, json));
    sy_param *const *params = sy_params(run, &n);
    for (int i = 0; i < n; i++) {
        if (params[i]->slot != &syi_lora_slots[SYI_LORA_A] || params[i]->retired) continue;
        const int64_t r = params[i]->value.dim[0];
        const double s = scale_for(e, r), alpha = s * (e->lora.use_rslora ? sqrt((double)r) : (double)r);
        if (r != e->lora.rank) json_object_set_new(ranks, params[i]->site->name, json_integer((json_int_t)r));
        if (alpha != e->lora.alpha) json_object_set_new(alphas, params[i]->site->name, number(alpha));
    }
    json_object_set_new(how, "rho", json_real(e->rho));
    json_object_set_new(how, "tau", json_real(e->tau));
    json_object_set_new(how, "use_label_mask", json_boolean(e->label_mask));
    json_object_set_new(how, "label_mask_value", json_integer(-100));
    json_object_set_new(how, "whiten", json_boolean(e->whiten));
    json_object_set_new(how, "adjust_scaling_factors", json_boolean(e->adjust));
    json_object_set_new(json, "init_lora_weights", json_string("eva"));
    json_object_set_new(json, "eva_config", how);
    json_object_set_new(json, "rank_pattern", ranks);
    json_object_set_new(json, "alpha_pattern", alphas);
    return SY_OK;
}

static sy_status attach(void *self, sy_run *run, sy_wrap *at) { return sy_method_lora.attach(self, run, at); }
static sy_node *forward(void *self, sy_graph *g, const sy_wrap *at, sy_next next, sy_node *x) { return sy_method_lora.forward(self, g, at, next, x); }
static bool forward_many(void *self, sy_graph *g, const sy_wrap *const *at, const sy_next *next, int n, sy_node *x, sy_node **out)
{
    return sy_method_lora.forward_many(self, g, at, next, n, x, out);
}
static sy_status to_lora(void *self, const sy_wrap *at, sy_tensor *a, sy_tensor *b, double *s) { return sy_method_lora.to_lora(self, at, a, b, s); }

static const sy_paper papers[] = {
    { .title = "Parameter Efficient Fine-tuning via Explained Variance Adaptation", .authors = "Fabian Paischer, Lukas Hauzenberger, Thomas Schmied, Benedikt Alkin, "
      "Marc Peter Deisenroth, Sepp Hochreiter", .venue = "NeurIPS 2025", .id = "arXiv:2410.07170", .year = 2024,
      .equations = "A = leading principal directions of the inputs, B = 0;  ranks by sigma_j^2 / total variance over all modules" },
    { .title = NULL }
};

const sy_method sy_method_eva = {
    .abi = SY_METHOD_ABI, .name = "eva", .kind = SY_ADAPTER,
    .title = "EVA: LoRA that starts at the principal directions of the inputs, with ranks where they vary",
    .papers = papers,
    .about = "A pass over the data before the first step finds the directions in which each module's inputs vary most; LoRA's A starts there, and "
             "modules with more such directions get more rank. Faster first steps for a fixed rank budget; with long training it ends where LoRA does.",
    .peft_type = "LORA", .peft_defaults = SYI_LORA_PEFT_DEFAULTS, .caps = SY_CAP_LINEAR_IN_X,
    .options = options, .slots = syi_lora_slots, .size = sizeof(eva), .at_size = sizeof(struct syi_lora_own),
    .init = init, .attach = attach, .on = on, .free = release, .forward = forward, .forward_many = forward_many, .to_lora = to_lora, .config_out = config_out,
};
