/* SPDX-License-Identifier: Apache-2.0 */
/* ROCKET: each weight becomes a dense dictionary times sparse coefficients, with budgets per
 * layer that an exact knapsack hands out. Two passes over the original model: one profiles
 * every layer, one builds it.
 *
 * Where the sheet leaves room: the profile tries ks near the best one of the rate before
 * (errors are unimodal in ks) in f32 products; the chosen configuration is made in f64. A
 * coefficient that is exactly 0 counts as pruned. `count_mask` counts the bitmap's bits as
 * removed less, at 16 bits a value. */
#include "compressor/rocket.h"
#include "compressor/solve.h"

#include <math.h>

enum { KNAPSACK, UNIFORM };
enum { WEIGHT, OUTPUT };
static const char *const allocs[] = {"knapsack", "uniform", NULL};
static const char *const costs[] = {"weight", "output", NULL};
static const char *const quants[] = {"none", "int8", NULL};

typedef struct {
    double target, lambda, beta, mu, cap, ks;
    int alloc, cost, quant;
    int64_t refine, precision;
    bool count_mask;
    int64_t parameters;      /* of the layers that were profiled                          */
} rocket;

enum { RATES = 14, STEPS = 21 }; /* cr = 0.05 .. 0.70; ks = 1.0 .. 3.0 */
static double rate_of(int i) { return 0.05 * (i + 1); }
static double step_of(int i) { return 1 + 0.1 * i; }

#define OFFSET(f) offsetof(rocket, f)
static const sy_option options[] = {
    {.name = "target", .type = SY_OPT_FLOAT, .offset = OFFSET(target), .def = "0.2", .min = 0, .max = 0.65, .alias = "ratio compression_ratio", .help = "share of the linears' parameters to remove", .example = "0.3"},
    {.name = "alloc", .type = SY_OPT_ENUM, .offset = OFFSET(alloc), .def = "knapsack", .choices = allocs, .help = "budgets of layers: by knapsack, or the same for all", .example = "uniform"},
    {.name = "ks", .type = SY_OPT_FLOAT, .offset = OFFSET(ks), .def = "0", .min = 0, .max = 3, .help = "dictionary size over non-zeros a column; 1: low rank (with --alloc uniform: SVD-LLM); 0: the best of 1.0 to 3.0", .example = "1"},
    {.name = "cost", .type = SY_OPT_ENUM, .offset = OFFSET(cost), .def = "weight", .choices = costs, .help = "error that budgets and ks are chosen by", .example = "output"},
    {.name = "lambda", .type = SY_OPT_FLOAT, .offset = OFFSET(lambda), .def = "0.5", .min = 0, .max = 1, .help = "mix of whitened (0) and plain (1) importance", .example = "1"},
    {.name = "beta", .type = SY_OPT_FLOAT, .offset = OFFSET(beta), .def = "0.005", .min = 0, .max = 0.05, .flags = SY_OPT_ADVANCED, .help = "over-pruning of columns before the global round", .example = "0.01"},
    {.name = "mu", .type = SY_OPT_FLOAT, .offset = OFFSET(mu), .def = "1e-3", .min = 0, .max = 1, .flags = SY_OPT_ADVANCED, .help = "ridge of the dictionary, of the mean diagonal", .example = "1e-4"},
    {.name = "alpha-cap", .type = SY_OPT_FLOAT, .offset = OFFSET(cap), .def = "0", .min = 0, .max = 1e9, .flags = SY_OPT_ADVANCED,
     .help = "largest error of a layer over the mean error at the target rate (0: the least factor that works)", .example = "2"},
    {.name = "precision", .type = SY_OPT_INT, .offset = OFFSET(precision), .def = "50000", .min = 100, .max = 1e7, .flags = SY_OPT_ADVANCED, .help = "parts into which the budget is cut", .example = "10000"},
    {.name = "refine", .type = SY_OPT_INT, .offset = OFFSET(refine), .def = "0", .min = 0, .max = 10000, .alias = "refine_steps", .help = "steps of Adam on factors after the closed form", .example = "100"},
    {.name = "quant", .type = SY_OPT_ENUM, .offset = OFFSET(quant), .def = "none", .choices = quants, .help = "round both factors to 8 bits a row (symmetric) as well", .example = "int8"},
    {.name = "count-mask", .type = SY_OPT_BOOL, .offset = OFFSET(count_mask), .def = "off", .help = "count the positions' bitmap as parameters too", .example = "on"},
    {.name = NULL}
};

static unsigned needs(void *self, sy_run *run, const sy_site *site)
{
    (void)self, (void)run, (void)site;
    return SY_STAT_XX;
}

/* Parameters that a configuration leaves, as the paper counts them or with the bitmap. */
static int64_t kept_parameters(const rocket *o, int64_t d1, int64_t d2, int64_t k, int64_t s)
{
    return d1 * k + s * d2 + (o->count_mask && s < k ? syi_ceil_div(k * d2, 16) : 0);
}

static syi_rocket_how how_of(const rocket *o, bool precise)
{
    return (syi_rocket_how){.lambda = o->lambda, .beta = o->beta, .mu = o->mu, .precise = precise, .refine = precise ? (int)o->refine : 0};
}

/* The error at ks step `i`; INFINITY where there is none. */
static sy_status try_step(rocket *o, syi_engine *e, const syi_rocket_basis *x, double cr, int i, double *tried)
{
    double weight, output;
    int64_t k, s;
    if (i < 0 || i >= STEPS || !isnan(tried[i])) return SY_OK;
    tried[i] = INFINITY;
    if (!syi_rocket_sizes(x->d1, x->d2, cr, step_of(i), &k, &s)) return SY_OK;
    const syi_rocket_how how = how_of(o, false);
    SYI_TRY(syi_rocket_factor(e, x, &how, k, s, NULL, NULL, &weight, &output));
    tried[i] = o->cost == OUTPUT ? output : weight;
    return SY_OK;
}

static sy_status profile(void *self, sy_run *run, sy_layer *layer, sy_choice *out, int max, int *n)
{
    rocket *o = self;
    syi_engine *e = sy_run_engine(run);
    syi_rocket_basis x;
    const int64_t all = layer->out * layer->in;
    if (layer->index == 0) o->parameters = 0;
    o->parameters += all;
    *n = 0;
    out[(*n)++] = (sy_choice){.tag = 0, .cost = all, .error = 0}; /* as it is */
    if (o->target <= 0) return SY_OK;
    SYI_TRY(syi_rocket_begin(sy_run_context(run), layer->in, layer->out, layer->stats->xx, layer->w, &x));
    sy_status st = SY_OK;
    int at = o->ks > 0 ? (int)lround((o->ks - 1) * 10) : 5;
    for (int r = 0; r < RATES && st == SY_OK && *n < max; r++) {
        const double cr = rate_of(r);
        if (o->alloc == UNIFORM && fabs(cr - o->target) > 0.026) continue;
        double tried[STEPS];
        for (int i = 0; i < STEPS; i++) tried[i] = NAN;
        for (;;) { /* downhill from the best of the rate before */
            st = try_step(o, e, &x, cr, at, tried);
            if (o->ks > 0) break;
            if (st == SY_OK) st = try_step(o, e, &x, cr, at - 2, tried);
            if (st == SY_OK) st = try_step(o, e, &x, cr, at + 2, tried);
            if (st != SY_OK) break;
            const double here = tried[at], below = at >= 2 ? tried[at - 2] : INFINITY, above = at + 2 < STEPS ? tried[at + 2] : INFINITY;
            if (below < here && below <= above) at -= 2;
            else if (above < here) at += 2;
            else if (isinf(here) && at + 2 < STEPS) at += 2; /* larger dictionaries have room for fewer parameters */
            else break;
        }
        int64_t k, s;
        if (st == SY_OK && isfinite(tried[at]) && syi_rocket_sizes(x.d1, x.d2, cr, step_of(at), &k, &s))
            out[(*n)++] = (sy_choice){.tag = 1 + r * 64 + at, .cost = kept_parameters(o, x.d1, x.d2, k, s), .error = tried[at]};
        if (at < 0) at = 0;
    }
    syi_rocket_end(sy_run_context(run), &x);
    return st;
}

/* The mean error at the rate nearest the target, and the least factor of it that every layer may
 * have such that the target can be met. */
static double error_cap(const rocket *o, const sy_choice *all, int n, int items, int64_t budget)
{
    double mean = 0;
    int found = 0;
    for (int i = 0; i < n; i++)
        if (all[i].tag > 0 && fabs(rate_of((all[i].tag - 1) / 64) - o->target) < 0.0251) {
            mean += all[i].error;
            found++;
        }
    if (!found) return INFINITY;
    mean /= found;
    if (o->cap > 0) return o->cap * mean;
    for (double alpha = 1; alpha < 1e6; alpha = alpha < 2 ? alpha + 0.1 : alpha * 2) {
        int64_t least = 0;
        for (int item = 0; item < items; item++) {
            int64_t best = INT64_MAX;
            for (int i = 0; i < n; i++)
                if (all[i].item == item && (all[i].tag == 0 || all[i].error <= alpha * mean)) best = syi_min(best, all[i].cost);
            least += best;
        }
        if (least <= budget) return alpha * mean;
    }
    return INFINITY;
}

static sy_status allocate(void *self, sy_run *run, const sy_choice *all, int n, int items, int *pick)
{
    rocket *o = self;
    sy_context *ctx = sy_run_context(run);
    const int64_t budget = (int64_t)floor((1 - o->target) * (double)o->parameters + 0.5);
    if (o->target <= 0 || o->alloc == UNIFORM) {
        for (int item = 0; item < items; item++) {
            double nearest = INFINITY;
            for (int i = 0; i < n; i++) {
                if (all[i].item != item) continue;
                const double far = o->target <= 0 ? all[i].tag : all[i].tag == 0 ? 2 : fabs(rate_of((all[i].tag - 1) / 64) - o->target);
                if (far < nearest) {
                    nearest = far;
                    pick[item] = i;
                }
            }
        }
        return SY_OK;
    }
    const double cap = error_cap(o, all, n, items, budget);
    sy_choice *some = syi_alloc(ctx, (size_t)n * sizeof *some);
    int *from = syi_alloc(ctx, (size_t)n * sizeof *from), count = 0;
    if (!some || !from) {
        syi_free(ctx, some);
        syi_free(ctx, from);
        return SY_E_MEMORY;
    }
    const double unit = (double)o->parameters / (double)o->precision;
    for (int i = 0; i < n; i++)
        if (all[i].tag == 0 || all[i].error <= cap * (1 + 1e-12)) {
            some[count] = all[i];
            some[count].cost = (int64_t)ceil((double)all[i].cost / unit - 1e-9); /* up: the target is never missed */
            from[count++] = i;
        }
    sy_status st = sy_knapsack(ctx, some, count, items, (int64_t)floor((double)budget / unit), pick);
    for (int item = 0; item < items && st == SY_OK; item++) pick[item] = from[pick[item]];
    syi_free(ctx, some);
    syi_free(ctx, from);
    return st;
}

/* Rows to 8-bit symmetric grids and back. */
static void round_rows(float *x, int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++) {
        float most = 0;
        for (int64_t j = 0; j < cols; j++) most = fmaxf(most, fabsf(x[r * cols + j]));
        for (int64_t j = 0; j < cols && most > 0; j++) {
            const float q = rintf(x[r * cols + j] / most * 127);
            x[r * cols + j] = q * most / 127;
        }
    }
}

static sy_status solve(void *self, sy_run *run, sy_layer *layer)
{
    rocket *o = self;
    sy_context *ctx = sy_run_context(run);
    if (layer->choice <= 0) {
        layer->keep = true;
        snprintf(layer->note, sizeof layer->note, "left as it is");
        return SY_OK;
    }
    const int r = (layer->choice - 1) / 64, i = (layer->choice - 1) % 64;
    int64_t k, s, nnz = 0;
    if (!syi_rocket_sizes(layer->in, layer->out, rate_of(r), step_of(i), &k, &s)) return syi_fail(ctx, SY_E_BUG, "rocket: a choice that does not exist");
    syi_rocket_basis x;
    SYI_TRY(syi_rocket_begin(ctx, layer->in, layer->out, layer->stats->xx, layer->w, &x));
    float *u = syi_pages(ctx, (size_t)(k * layer->in) * sizeof *u), *v = syi_pages(ctx, (size_t)(k * layer->out) * sizeof *v);
    const syi_rocket_how how = how_of(o, true);
    double weight = 0, output = 0;
    sy_status st = u && v ? syi_rocket_factor(sy_run_engine(run), &x, &how, k, s, u, v, &weight, &output) : SY_E_MEMORY;
    syi_rocket_end(ctx, &x);
    if (st == SY_OK && o->quant) {
        round_rows(u, k, layer->in);
        round_rows(v, layer->out, k);
    }
    for (int64_t j = 0; st == SY_OK && j < k * layer->out; j++) nnz += v[j] != 0;
    const sy_dtype dtype = layer->site->weight->slot[0].dtype == SY_F32 ? SY_F32 : SY_BF16;
    if (st == SY_OK) st = syi_weight_factored(ctx, layer->out, layer->in, k, s < k ? nnz : -1, dtype, &layer->take);
    if (st == SY_OK) st = syi_factored_fill(ctx, layer->take, u, v);
    snprintf(layer->note, sizeof layer->note, "removed %.0f %%: dictionary %lld, %lld values a column", 100 * rate_of(r), (long long)k, (long long)s);
    syi_pages_free(ctx, u);
    syi_pages_free(ctx, v);
    return st;
}

static const sy_paper papers[] = {
    {.title = "ROCKET: Rapid Optimization via Calibration-guided Knapsack Enhanced Truncation for Efficient Model Compression", .authors = "Ali et al.", .venue = "arXiv", .id = "arXiv 2602.11008", .year = 2026},
    {.title = NULL}
};

const sy_method sy_method_rocket = {
    .abi = SY_METHOD_ABI, .name = "rocket", .kind = SY_COMPRESSOR,
    .title = "ROCKET: dense dictionary times sparse coefficients, budgets by knapsack",
    .papers = papers,
    .about = "Removes a fifth to a half of the parameters of the linears: each output combines its own few vectors of a dictionary, both in closed "
             "form from the inputs' second moments; a knapsack says how much each layer gives. ks 1 is plain low rank. Minutes for small models; a "
             "layer whose parameters are worth keeping stays as it is.",
    .caps = SY_CAP_SEES_ORIGINAL,
    .options = options, .size = sizeof(rocket), .needs = needs, .profile = profile, .allocate = allocate, .solve = solve,
};
