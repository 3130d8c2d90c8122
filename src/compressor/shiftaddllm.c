/* SPDX-License-Identifier: Apache-2.0 */
/* ShiftAddLLM: weights as sums of +-1 matrices with power-of-two scales, fitted group by
 * group while the solver of the GPTQ family spreads each column's error.
 *
 * Where the sheet leaves room: groups are 128 weights unless asked otherwise (with one set of
 * scales for m/8 rows 2 bits collapse on small models); fits stop when nothing changes any
 * more; a last group may be shorter. */
#include "compressor/bcq.h"
#include "compressor/solve.h"

#include <math.h>
#include <stdlib.h>

enum { ACC, LAT, ROWWISE };
static const char *const modes[] = {"acc", "lat", "rowwise", NULL};

typedef struct {
    int mode;
    int64_t bits, group, rounds, terms;
    double damp, average;
    bool order;
    double weights;          /* of the layers that were profiled */
} shiftadd;

#define OFFSET(f) offsetof(shiftadd, f)
static const sy_option options[] = {
    {.name = "mode", .type = SY_OPT_ENUM, .offset = OFFSET(mode), .def = "lat", .choices = modes,
     .help = "what shares scales: acc (one input, a group of rows), lat (8 inputs by group/8 rows: fast), rowwise (plain fits, no calibration)", .example = "acc"},
    {.name = "bits", .type = SY_OPT_INT, .offset = OFFSET(bits), .def = "3", .min = 1, .max = 8, .alias = "wbits", .help = "+-1 matrices", .example = "2"},
    {.name = "group", .type = SY_OPT_INT, .offset = OFFSET(group), .def = "128", .min = -1, .max = 65536, .alias = "groupsize group_size",
     .help = "weights that share scales, a multiple of 128 (acc: of 16); -1: whole columns (lat: m/8 rows)", .example = "-1"},
    {.name = "rounds", .type = SY_OPT_INT, .offset = OFFSET(rounds), .def = "50", .min = 0, .max = 1000, .help = "alternations of scales and codes at most", .example = "20"},
    {.name = "apot-terms", .type = SY_OPT_INT, .offset = OFFSET(terms), .def = "3", .min = 0, .max = 4, .help = "powers of two a scale is a sum of; 0: f16 scales", .example = "2"},
    {.name = "damp", .type = SY_OPT_FLOAT, .offset = OFFSET(damp), .def = "0.01", .min = 0, .max = 1, .alias = "percdamp", .help = "damping as a share of the mean second moment", .example = "0.05"},
    {.name = "act-order", .type = SY_OPT_BOOL, .offset = OFFSET(order), .def = "on", .help = "inputs (lat: blocks of 8) by falling activity", .example = "off"},
    {.name = "mixed", .type = SY_OPT_FLOAT, .offset = OFFSET(average), .def = "0", .min = 0, .max = 4,
     .help = "average bits, handed out over layers as 2, 3 or 4 by a knapsack on the paper's criterion; 0: the same for all", .example = "2.2"},
    {.name = NULL}
};

static sy_status init(void *self, sy_run *run)
{
    const shiftadd *o = self;
    if (o->group != -1 && (o->group < 16 || o->group % (o->mode == LAT ? 128 : 16) != 0))
        return syi_fail(sy_run_context(run), SY_E_USAGE, "shiftaddllm: --group %lld: give a multiple of %d, or -1", (long long)o->group, o->mode == LAT ? 128 : 16);
    if (o->average > 0 && (o->average < 2 || o->mode == ROWWISE))
        return syi_fail(sy_run_context(run), SY_E_USAGE, "shiftaddllm: --mixed %g: averages from 2 to 4 bits are handed out, in modes acc and lat", o->average);
    return SY_OK;
}

static unsigned needs(void *self, sy_run *run, const sy_site *site)
{
    const shiftadd *o = self;
    (void)run, (void)site;
    return o->mode == ROWWISE ? 0 : SY_STAT_XX;
}

/* -- which layer gets how many bits --------------------------------------------------------------- */

/* C = |IS|_F std(W / diag U)^2 with IS = |W| / diag U. */
static sy_status criterion(sy_run *run, const sy_layer *layer, double damp, double *c)
{
    sy_context *ctx = sy_run_context(run);
    const int64_t n = layer->in;
    double damped, norm = 0, sum = 0, count = (double)(layer->out * n);
    float *u = syi_pages(ctx, (size_t)(n * n) * sizeof *u);
    if (!u) return SY_E_MEMORY;
    sy_status st = syi_inverse_factor(ctx, n, layer->stats->xx, damp, NULL, u, &damped);
    for (int64_t r = 0; r < layer->out && st == SY_OK; r++)
        for (int64_t j = 0; j < n; j++) {
            const double v = (double)layer->w[r * n + j] / (double)u[j * n + j];
            norm += v * v;
            sum += v;
        }
    *c = sqrt(norm) * (norm / count - sum / count * (sum / count));
    syi_pages_free(ctx, u);
    return st;
}

static sy_status profile(void *self, sy_run *run, sy_layer *layer, sy_choice *out, int max, int *n)
{
    shiftadd *o = self;
    const double weights = (double)(layer->out * layer->in);
    double c = 0;
    (void)max;
    *n = 0;
    if (o->average <= 0) {
        out[(*n)++] = (sy_choice){.tag = (int)o->bits, .cost = 0};
        return SY_OK;
    }
    if (layer->index == 0) o->weights = 0;
    o->weights += weights;
    SYI_TRY(criterion(run, layer, o->damp, &c));
    for (int bits = 2; bits <= 4; bits++) out[(*n)++] = (sy_choice){.tag = bits, .cost = (int64_t)weights * bits, .error = c * weights * pow(4, -bits)};
    return SY_OK;
}

static sy_status allocate(void *self, sy_run *run, const sy_choice *all, int n, int items, int *pick)
{
    const shiftadd *o = self;
    if (o->average > 0) return sy_knapsack(sy_run_context(run), all, n, items, (int64_t)(o->average * o->weights), pick);
    for (int i = 0; i < n; i++) pick[all[i].item] = i;
    return SY_OK;
}

/* -- the grid in the solver -------------------------------------------------------------------------- */

typedef struct {
    const shiftadd *o;
    int bits;
    int64_t out, in, rows, cols;   /* of a patch                                       */
    const int32_t *order;
    sy_weight *weight;
    syi_bcq *fit;                  /* by row group: of the columns at hand             */
    float *gathered;               /* by row group: the weights of a fit               */
} grid;

static void store_fit(grid *g, int64_t col, int64_t k)
{
    const int64_t input = g->order ? g->order[col] : col, patch = input / g->cols * syi_ceil_div(g->out, g->rows) + k;
    for (int b = 0; b < g->bits; b++) (void)syi_binary_alpha(NULL, g->weight, patch, b, g->fit[k].alpha[b]);
}

static void store_codes(grid *g, int64_t col, int64_t row, int64_t n, const float *v, float *value)
{
    const int64_t input = g->order ? g->order[col] : col;
    for (int64_t i = 0; i < n; i++) {
        const syi_bcq *q = &g->fit[(row + i) / g->rows];
        const int at = syi_bcq_nearest(q, v[i]);
        value[i] = q->level[at];
        for (int b = 0; b < g->bits; b++)
            if (q->sign[at] >> b & 1) syi_binary_put(g->weight, b, row + i, input, true);
    }
}

static void acc_column(void *self, int64_t col, int64_t row, int64_t n, const float *v, float *value)
{
    grid *g = self;
    for (int64_t i = 0; i < n; i += g->rows) {
        const int64_t k = (row + i) / g->rows;
        syi_bcq_fit(g->bits, (int)g->o->terms, (int)g->o->rounds, v + i, syi_min(g->rows, n - i), &g->fit[k]);
        store_fit(g, col, k);
    }
    store_codes(g, col, row, n, v, value);
}

static void lat_begin(void *self, int64_t first, int64_t n, int64_t row, int64_t rows, const float *w, int64_t ld)
{
    grid *g = self;
    for (int64_t i = 0; i < rows; i += g->rows) {
        const int64_t k = (row + i) / g->rows, count = syi_min(g->rows, rows - i);
        float *all = g->gathered + k * g->rows * g->cols;
        for (int64_t r = 0; r < count; r++) memcpy(all + r * n, w + (i + r) * ld, (size_t)n * sizeof *all);
        syi_bcq_fit(g->bits, (int)g->o->terms, (int)g->o->rounds, all, count * n, &g->fit[k]);
        store_fit(g, first, k);
    }
}

static void lat_column(void *self, int64_t col, int64_t row, int64_t n, const float *v, float *value) { store_codes(self, col, row, n, v, value); }

/* Blocks of 8 by the sum of their second moments; a short last one stays last. */
typedef struct { double key; int32_t index; } ranked;
static int falling(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

static sy_status make_order(sy_context *ctx, int64_t in, int64_t cols, const double *xx, int32_t *order)
{
    const int64_t blocks = in / cols;
    ranked *r = syi_alloc(ctx, (size_t)(blocks + 1) * sizeof *r);
    if (!r) return SY_E_MEMORY;
    for (int64_t b = 0; b < blocks; b++) {
        r[b] = (ranked){0, (int32_t)b};
        for (int64_t j = b * cols; j < (b + 1) * cols; j++) r[b].key += xx[j * in + j];
    }
    qsort(r, (size_t)blocks, sizeof *r, falling);
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t j = 0; j < cols; j++) order[b * cols + j] = (int32_t)(r[b].index * cols + j);
    for (int64_t j = blocks * cols; j < in; j++) order[j] = (int32_t)j;
    syi_free(ctx, r);
    return SY_OK;
}

/* -- solving ------------------------------------------------------------------------------------------- */

static sy_status rowwise(const shiftadd *o, sy_context *ctx, sy_layer *layer)
{
    const int64_t g = o->group > 0 ? syi_min(o->group, layer->in) : layer->in, groups = syi_ceil_div(layer->in, g);
    const syi_binary_shape shape = {.bits = (int)o->bits, .terms = (int)o->terms, .rows = 1, .cols = g};
    SYI_TRY(syi_weight_binary(ctx, layer->out, layer->in, &shape, &layer->take));
#pragma omp parallel for schedule(static) num_threads(syi_omp(ctx))
    for (int64_t r = 0; r < layer->out; r++)
        for (int64_t k = 0; k < groups; k++) {
            syi_bcq q;
            const int64_t first = k * g, n = syi_min(g, layer->in - first);
            const float *w = layer->w + r * layer->in + first;
            syi_bcq_fit((int)o->bits, (int)o->terms, (int)o->rounds, w, n, &q);
            for (int b = 0; b < q.bits; b++) (void)syi_binary_alpha(NULL, layer->take, k * layer->out + r, b, q.alpha[b]);
            for (int64_t j = 0; j < n; j++) {
                const int at = syi_bcq_nearest(&q, w[j]);
                for (int b = 0; b < q.bits; b++)
                    if (q.sign[at] >> b & 1) syi_binary_put(layer->take, b, r, first + j, true);
            }
        }
    return SY_OK;
}

static sy_status solve(void *self, sy_run *run, sy_layer *layer)
{
    const shiftadd *o = self;
    sy_context *ctx = sy_run_context(run);
    if (o->mode == ROWWISE) return rowwise(o, ctx, layer);
    grid g = {.o = o, .bits = layer->choice > 0 ? layer->choice : (int)o->bits, .out = layer->out, .in = layer->in, .cols = o->mode == LAT ? 8 : 1};
    g.rows = o->group > 0 ? o->group / g.cols : o->mode == LAT ? syi_max(1, layer->out / 8) : layer->out;
    if (g.rows > layer->out) g.rows = layer->out;
    const int64_t groups = syi_ceil_div(layer->out, g.rows);
    int32_t *order = o->order ? syi_alloc(ctx, (size_t)layer->in * sizeof *order) : NULL;
    g.fit = syi_pages(ctx, (size_t)groups * sizeof *g.fit);
    g.gathered = syi_pages(ctx, (size_t)(groups * g.rows * g.cols) * sizeof *g.gathered);
    const syi_binary_shape shape = {.bits = g.bits, .terms = (int)o->terms, .rows = g.rows, .cols = g.cols};
    sy_status st = g.fit && g.gathered && (order || !o->order) ? syi_weight_binary(ctx, layer->out, layer->in, &shape, &g.weight) : SY_E_MEMORY;
    if (st == SY_OK && order) st = make_order(ctx, layer->in, g.cols, layer->stats->xx, order);
    if (st == SY_OK) {
        g.order = order;
        const syi_columns c = {.damp = o->damp, .block = 128, .order = order};
        syi_column_grid columns = {.self = &g, .group = o->mode == LAT ? 8 : 128, .rows = g.rows, .column = acc_column};
        if (o->mode == LAT) {
            columns.begin = lat_begin;
            columns.column = lat_column;
        }
        double damped;
        st = syi_columns_solve(sy_run_engine(run), &c, &columns, layer->out, layer->in, layer->w, layer->stats->xx, NULL, NULL, &damped);
        if (st == SY_OK && damped > o->damp) snprintf(layer->note, sizeof layer->note, "damping raised to %g of the mean: the inputs' second moments were singular", damped);
    }
    syi_free(ctx, order);
    syi_pages_free(ctx, g.fit);
    syi_pages_free(ctx, g.gathered);
    if (st == SY_OK) layer->take = g.weight;
    else syi_weight_free(ctx, g.weight);
    return st;
}

static const sy_paper papers[] = {
    {.title = "ShiftAddLLM: Accelerating Pretrained LLMs via Post-Training Multiplication-Less Reparameterization", .authors = "You et al.", .venue = "NeurIPS", .id = "arXiv 2406.05981", .year = 2024},
    {.title = NULL}
};

const sy_method sy_method_shiftaddllm = {
    .abi = SY_METHOD_ABI, .name = "shiftaddllm", .kind = SY_COMPRESSOR,
    .title = "ShiftAddLLM: sums of +-1 matrices with power-of-two scales, products by look-up",
    .papers = papers,
    .about = "Each weight is a sum of two to four signed scales that a group shares, and each scale a sum of powers of two: products become additions "
             "of looked-up sums. acc fits one input's column at a time (best quality), lat patches of 8 inputs (fast products), rowwise is the plain fit "
             "without calibration. --mixed hands out 2, 3 and 4 bits over the layers.",
    .options = options, .size = sizeof(shiftadd), .init = init, .needs = needs, .profile = profile, .allocate = allocate, .solve = solve,
};
