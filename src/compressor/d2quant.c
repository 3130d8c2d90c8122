/* SPDX-License-Identifier: Apache-2.0 */
/* D2Quant: GPTAQ with two additions. DSQ: the down projection gets a scale for each input
 * beside its rows' scales; the input scales go into the rows of the up projection, so that
 * they cost nothing. DAC: what attention's quantization moved the mean of the norm's output
 * after it by is added back as a bias of that norm (and of the last norm).
 *
 * Where the sheet leaves room: c is divided by its geometric mean in each group; biases are
 * stored as NORM.bias and read by this program's models; --rotate of the paper (a Hadamard
 * basis of the residual stream) is not offered. */
#include "compressor/dsq.h"
#include "compressor/solve.h"
#include "run/compress.h"

#include <math.h>
#include <stdlib.h>

enum { GPTAQ, GPTQ, RTN };
static const char *const backends[] = {"gptaq", "gptq", "rtn", NULL};
static const char *const orders[] = {"none", "groups", NULL};
static const char *const selects[] = {"all", "explain", "snr", "top", NULL};

typedef struct {
    int64_t bits, group, rounds;
    int backend, order;
    int select;
    bool dsq, dac, clip, asym;
    double damp, lambda, limit, threshold;
} d2quant;

#define OFFSET(f) offsetof(d2quant, f)
static const sy_option options[] = {
    {.name = "bits", .type = SY_OPT_INT, .offset = OFFSET(bits), .def = "2", .min = 2, .max = 8, .alias = "wbits", .help = "bits a code: 2, 3, 4 or 8 (beyond 3 the down projection's grid is uniform)", .example = "3"},
    {.name = "group", .type = SY_OPT_INT, .offset = OFFSET(group), .def = "128", .min = 32, .max = 128, .alias = "group_size groupsize", .help = "inputs that share scales: 32, 64, 96 or 128", .example = "64"},
    {.name = "backend", .type = SY_OPT_ENUM, .offset = OFFSET(backend), .def = "gptaq", .choices = backends, .help = "what spreads errors over columns", .example = "gptq"},
    {.name = "dsq", .type = SY_OPT_BOOL, .offset = OFFSET(dsq), .def = "on", .help = "row and input scales for the down projection", .example = "off"},
    {.name = "dac", .type = SY_OPT_BOOL, .offset = OFFSET(dac), .def = "on", .help = "mean corrections after attention and before the head", .example = "off"},
    {.name = "rounds", .type = SY_OPT_INT, .offset = OFFSET(rounds), .def = "15", .min = 1, .max = 50, .alias = "num_iters", .help = "alternations of the dual-scale fit", .example = "5"},
    {.name = "order", .type = SY_OPT_ENUM, .offset = OFFSET(order), .def = "groups", .choices = orders, .help = "inputs by falling activity inside groups, groups by their largest", .example = "none"},
    {.name = "asym", .type = SY_OPT_BOOL, .offset = OFFSET(asym), .def = "on", .help = "grids with zero points (other layers than down)", .example = "off"},
    {.name = "clip", .type = SY_OPT_BOOL, .offset = OFFSET(clip), .def = "on", .help = "search the range of each group (other layers than down)", .example = "off"},
    {.name = "damp", .type = SY_OPT_FLOAT, .offset = OFFSET(damp), .def = "0.01", .min = 0, .max = 1, .alias = "percdamp", .help = "damping as a share of the mean second moment", .example = "0.05"},
    {.name = "dac-lambda", .type = SY_OPT_FLOAT, .offset = OFFSET(lambda), .def = "1", .min = 0, .max = 2, .flags = SY_OPT_ADVANCED, .help = "share of the mean deviation that is corrected", .example = "0.5"},
    {.name = "dac-clip", .type = SY_OPT_FLOAT, .offset = OFFSET(limit), .def = "10", .min = 0, .max = 1e6, .flags = SY_OPT_ADVANCED, .help = "largest correction", .example = "1"},
    {.name = "dac-select", .type = SY_OPT_ENUM, .offset = OFFSET(select), .def = "all", .choices = selects, .flags = SY_OPT_ADVANCED,
     .help = "channels that are corrected, by snr = |mean| / deviation: all, those whose mean explains a share of at least --dac-threshold, those of an snr of at least it, or that share of them with the largest", .example = "top"},
    {.name = "dac-threshold", .type = SY_OPT_FLOAT, .offset = OFFSET(threshold), .def = "0.1", .min = 0, .max = 1e6, .flags = SY_OPT_ADVANCED, .help = "of --dac-select", .example = "0.25"},
    {.name = NULL}
};

static sy_status init(void *self, sy_run *run)
{
    const d2quant *o = self;
    return syi_grid_check(sy_run_context(run), "d2quant", o->bits, o->group);
}

/* What the ordinary layers see; the schedule itself is in the block hook. */
static unsigned needs(void *self, sy_run *run, const sy_site *site)
{
    const d2quant *o = self;
    (void)run, (void)site;
    return o->backend == RTN ? SY_STAT_XX : o->backend == GPTQ ? SY_STAT_XX : SY_STAT_XX | SY_STAT_DX;
}

/* -- the ordinary layers ----------------------------------------------------------------------- */

typedef struct {
    const d2quant *o;
    sy_run *run;
    sy_calibration *c;
    int block;
    sy_site *site[SY_ROLE_COUNT];
    double deviation[2];    /* mean squares after attention, without the bias and with it   */
} at;

static syi_gptq solver_of(const d2quant *o)
{
    syi_gptq g = {.grid = {.bits = (int)o->bits, .group = o->group, .clip = o->clip, .sym = !o->asym}, .order = o->order ? SYI_ORDER_GROUPS : SYI_ORDER_NONE};
    g.columns = (syi_columns){.damp = o->damp, .block = 128, .org = true, .alpha1 = o->backend == GPTAQ ? 0.25 : 0};
    return g;
}

static sy_status ordinary(const at *b, const sy_site *site, sy_stats *stats)
{
    sy_layer layer;
    const syi_gptq g = solver_of(b->o);
    SYI_TRY(syi_layer_begin(b->c, site, stats, NULL, &layer));
    sy_status st = b->o->backend == RTN ? syi_grid_round(sy_run_engine(b->run), &g.grid, layer.out, layer.in, layer.w, &layer.take)
                                        : syi_gptq_solve(sy_run_engine(b->run), &g, layer.out, layer.in, layer.w, stats->xx, stats->dx, &layer.take, layer.note);
    if (site->role == SY_ROLE_GATE && b->deviation[0] > 0)
        snprintf(layer.note, sizeof layer.note, "the norm's bias takes attention's mean squared deviation from %.4g to %.4g", b->deviation[0], b->deviation[1]);
    if (st == SY_OK) return syi_layer_end(b->c, &layer);
    syi_layer_free(b->c, &layer);
    return st;
}

static sy_status group_stats(const at *b, sy_site *site, sy_stats **out)
{
    return syi_calibration_stats(b->c, site, syi_site_part(b->c->model, site), needs((void *)(uintptr_t)b->o, b->run, site), 0, false, out);
}

static sy_status ordinary_group(const at *b, const sy_role *role, int n)
{
    sy_stats *stats = NULL;
    sy_status st = SY_OK;
    for (int i = 0; i < n && st == SY_OK; i++) {
        if (!b->site[role[i]]) continue;
        if (!stats) st = group_stats(b, b->site[role[i]], &stats);
        if (st == SY_OK) st = ordinary(b, b->site[role[i]], stats);
    }
    syi_stats_free(b->c->ctx, stats);
    return st;
}

/* -- DSQ in the solver -------------------------------------------------------------------------------- */

typedef struct {
    sy_context *ctx;
    const d2quant *o;
    int64_t out, in, group;
    const int32_t *order;
    sy_weight *weight;
    double *r, *c;          /* [out, bits] of the group at hand; [in] by column of work    */
    uint8_t *codes;         /* of a uniform grid: [in, out]; NULL: binary                   */
} dual;

enum { BINARY_BITS = 3 };  /* more bits go to a uniform grid with the same two kinds of scales */

static sy_status dual_begin(void *self, int64_t first, int64_t n, const float *w, int64_t ld)
{
    dual *d = self;
    const bool uniform = d->codes != NULL;
    const int bits = (int)d->o->bits, scales = uniform ? 1 : bits;
    if (uniform) syi_dsq_uniform(d->ctx, bits, (int)d->o->rounds, w, ld, d->out, n, d->r, d->c + first);
    else SYI_TRY(syi_dsq_fit(d->ctx, bits, (int)d->o->rounds, w, ld, d->out, n, d->r, d->c + first, NULL, NULL));
    double mean = 0; /* c keeps its shape only: the geometric mean goes into r */
    for (int64_t j = 0; j < n; j++) mean += log(d->c[first + j]) / (double)n;
    const double gamma = exp(mean);
    const int64_t input = d->order ? d->order[first] : first;
    for (int64_t j = 0; j < n; j++) d->c[first + j] /= gamma;
    for (int64_t i = 0; i < d->out; i++)
        for (int b = 0; b < scales; b++) {
            float r = (float)(d->r[i * scales + b] * gamma);
            uint16_t h;
            (void)sy_from_f32(NULL, SY_F16, &r, &h, 1);
            (void)sy_to_f32(NULL, SY_F16, &h, &r, 1);
            d->r[i * scales + b] = (double)r;
            const int64_t g = input / d->group;
            if (uniform) ((uint16_t *)d->weight->slot[SYI_PACKED_SCALES].data)[i * syi_ceil_div(d->in, d->group) + g] = h;
            else SYI_TRY(syi_binary_alpha(d->ctx, d->weight, g * d->out + i, b, r));
        }
    return SY_OK;
}

static void dual_column(void *self, int64_t col, int64_t row, int64_t n, const float *v, float *value)
{
    dual *d = self;
    const int bits = (int)d->o->bits;
    const int64_t input = d->order ? d->order[col] : col;
    const double c = d->c[col];
    for (int64_t i = 0; i < n; i++) {
        const double *r = d->r + (row + i) * bits;
        double least = INFINITY, best = 0;
        int code = 0;
        for (int p = 0; p < 1 << bits; p++) {
            double s = 0;
            for (int b = 0; b < bits; b++) s += p >> b & 1 ? r[b] : -r[b];
            const double far = fabs((double)v[i] - c * s);
            if (far < least) {
                least = far;
                best = c * s;
                code = p;
            }
        }
        value[i] = (float)best;
        for (int b = 0; b < bits; b++)
            if (code >> b & 1) syi_binary_put(d->weight, b, row + i, input, true);
    }
}

static void uniform_column(void *self, int64_t col, int64_t row, int64_t n, const float *v, float *value)
{
    dual *d = self;
    const double low = -(double)(1 << (d->o->bits - 1)), top = -low - 1;
    const int64_t input = d->order ? d->order[col] : col;
    for (int64_t i = 0; i < n; i++) {
        const double scale = d->c[col] * d->r[row + i], q = scale > 0 ? fmax(low, fmin(top, rint((double)v[i] / scale))) : 0;
        value[i] = (float)(q * scale);
        d->codes[input * d->out + row + i] = (uint8_t)(q - low);
    }
}

static sy_status make_uniform(dual *d)
{
    SYI_TRY(syi_weight_packed(d->ctx, d->out, d->in, (int)d->o->bits, d->group, false, &d->weight));
    memset(d->weight->slot[SYI_PACKED_ZEROS].data, 1 << (d->o->bits - 1), (size_t)sy_tensor_bytes(&d->weight->slot[SYI_PACKED_ZEROS]));
    d->codes = syi_alloc(d->ctx, (size_t)(d->in * d->out));
    return d->codes ? SY_OK : SY_E_MEMORY;
}

static sy_status store_uniform(dual *d)
{
    uint8_t *row = syi_alloc(d->ctx, (size_t)d->in);
    if (!row) return SY_E_MEMORY;
    for (int64_t i = 0; i < d->out; i++) {
        for (int64_t j = 0; j < d->in; j++) row[j] = d->codes[j * d->out + i];
        syi_packed_put(d->weight, i, row);
    }
    syi_free(d->ctx, row);
    return SY_OK;
}

/* The weight without c, and c by input. */
static sy_status dual_solve(const at *b, const sy_site *site, const float *w, const sy_stats *stats, sy_weight **take, double *c)
{
    sy_context *ctx = b->c->ctx;
    const d2quant *o = b->o;
    dual d = {.ctx = ctx, .o = o, .out = site->out, .in = site->in, .group = syi_min(o->group, site->in)};
    const syi_binary_shape shape = {.bits = (int)o->bits, .rows = 1, .cols = d.group};
    int32_t *order = o->order ? syi_alloc(ctx, (size_t)site->in * sizeof *order) : NULL;
    d.r = syi_alloc(ctx, (size_t)(site->out * o->bits) * sizeof *d.r);
    d.c = syi_alloc(ctx, (size_t)site->in * sizeof *d.c);
    const bool uniform = o->bits > BINARY_BITS;
    sy_status st = !d.r || !d.c || (!order && o->order) ? SY_E_MEMORY : uniform ? make_uniform(&d) : syi_weight_binary(ctx, site->out, site->in, &shape, &d.weight);
    if (st == SY_OK && order) st = syi_order_make(ctx, SYI_ORDER_GROUPS, site->in, d.group, stats->xx, order);
    if (st == SY_OK) {
        d.order = order;
        double damped;
        const syi_columns columns = {.damp = o->backend == RTN ? 1e30 : o->damp, .block = d.group, .org = true, .alpha1 = o->backend == GPTAQ ? 0.25 : 0, .order = order};
        const syi_column_grid grid = {.self = &d, .group = d.group, .begin_all = dual_begin, .column = uniform ? uniform_column : dual_column};
        st = syi_columns_solve(sy_run_engine(b->run), &columns, &grid, site->out, site->in, w, stats->xx, stats->dx, NULL, &damped);
    }
    if (st == SY_OK && uniform) st = store_uniform(&d);
    for (int64_t q = 0; q < site->in && st == SY_OK; q++) c[order ? order[q] : q] = d.c[q];
    syi_free(ctx, order);
    syi_free(ctx, d.codes);
    syi_free(ctx, d.r);
    syi_free(ctx, d.c);
    if (st == SY_OK) *take = d.weight;
    else syi_weight_free(ctx, d.weight);
    return st;
}

sy_status syi_dsq_absorb(sy_context *ctx, sy_weight *w, const double *c)
{
    const syi_packed_shape p = syi_packed_shape_of(w);
    uint16_t *scales = w->slot[SYI_PACKED_SCALES].data;
    for (int64_t i = 0; i < w->out; i++)
        for (int64_t g = 0; g < p.groups; g++) {
            float s;
            SYI_TRY(sy_to_f32(ctx, SY_F16, scales + i * p.groups + g, &s, 1));
            s = (float)((double)s * c[i]);
            SYI_TRY(sy_from_f32(ctx, SY_F16, &s, scales + i * p.groups + g, 1));
        }
    return SY_OK;
}

/* c into the rows of up and into its bias. */
static sy_status absorb(const at *b, const double *c)
{
    sy_context *ctx = b->c->ctx;
    const sy_site *up = b->site[SY_ROLE_UP];
    sy_weight *w = syi_compress_made(b->c, up);
    SYI_TRY(syi_dsq_absorb(ctx, w, c));
    float *dense = syi_pages(ctx, (size_t)(up->out * up->in) * sizeof *dense);
    if (!dense) return SY_E_MEMORY;
    sy_status st = w->type->dense(ctx, w, 0, up->out, dense);
    if (st == SY_OK) st = syi_calibration_put(b->c, up, dense);
    syi_pages_free(ctx, dense);
    if (st != SY_OK || !up->bias) return st;
    float *bias = syi_alloc(ctx, (size_t)up->out * sizeof *bias);
    if (!bias) return SY_E_MEMORY;
    for (int64_t i = 0; i < up->out; i++) bias[i] = (float)((double)((const float *)up->bias->value.data)[i] * c[i]);
    st = syi_compress_vector(b->c, up->bias, bias);
    syi_free(ctx, bias);
    return st;
}

static sy_status dual_down(const at *b)
{
    const sy_site *down = b->site[SY_ROLE_DOWN];
    sy_context *ctx = b->c->ctx;
    sy_stats *stats = NULL;
    sy_layer layer;
    SYI_TRY(group_stats(b, b->site[SY_ROLE_DOWN], &stats));
    double *c = syi_alloc(ctx, (size_t)down->in * sizeof *c);
    float *scale = syi_alloc(ctx, (size_t)down->in * sizeof *scale);
    sy_status st = c && scale ? syi_layer_begin(b->c, down, stats, NULL, &layer) : SY_E_MEMORY;
    if (st == SY_OK) {
        st = dual_solve(b, down, layer.w, stats, &layer.take, c);
        if (st == SY_OK) st = absorb(b, c);
        for (int64_t j = 0; st == SY_OK && j < down->in; j++) scale[j] = (float)c[j];
        layer.absorbed = scale;
        snprintf(layer.note, sizeof layer.note, "input scales went into the rows of the up projection");
        if (st == SY_OK) st = syi_layer_end(b->c, &layer);
        else syi_layer_free(b->c, &layer);
    }
    syi_stats_free(ctx, stats);
    syi_free(ctx, c);
    syi_free(ctx, scale);
    return st;
}

/* -- DAC ------------------------------------------------------------------------------------------------- */

/* Teacher and student go side by side, so that nothing is kept but a few windows. */
typedef struct {
    const at *b;
    char *state;            /* [windows of a forward][seq][hidden]: what a part made of them  */
    float *teacher;         /* the norm's output on the teacher's states                       */
    int whose;
    double *sum;            /* [2 hidden]: of the deviations teacher - student and their squares */
    int64_t tokens;
} deviation;

static sy_status keep_state(void *self, int64_t window, const sy_tensor *y, const uint8_t *mask)
{
    deviation *d = self;
    (void)window, (void)mask;
    memcpy(d->state, y->data, (size_t)sy_tensor_bytes(y));
    return SY_OK;
}

static sy_status see_norm(deviation *d, const sy_tensor *y, const uint8_t *mask)
{
    const int64_t n = d->b->c->hidden;
    for (int64_t t = 0; t < y->dim[0]; t++) {
        float *to = d->teacher + t * n, row[1];
        for (int64_t j = 0; j < n; j++) {
            SYI_TRY(sy_to_f32(d->b->c->ctx, y->dtype, (const char *)y->data + (t * n + j) * sy_dtype_block_bytes(y->dtype), row, 1));
            if (d->whose != SYI_STUDENT) {
                to[j] = row[0];
                continue;
            }
            const double off = (double)to[j] - (double)row[0];
            if (!mask[t]) continue;
            d->sum[j] += off;
            d->sum[n + j] += off * off;
        }
        d->tokens += d->whose == SYI_STUDENT && mask[t];
    }
    return SY_OK;
}

static sy_status watch_norm(void *self, const sy_site *site, const sy_tensor *x, const uint8_t *mask)
{
    (void)site;
    return see_norm(self, x, mask);
}

static sy_status out_norm(void *self, int64_t window, const sy_tensor *y, const uint8_t *mask)
{
    (void)window;
    return see_norm(self, y, mask);
}

/* Deviations of a norm's output over the calibration text. The teacher is the part as it was (on the
 * student's stream: only this part's errors count), the student the part as it has become. gate: a linear that
 * reads the norm inside the block, NULL: the last norm. */
static sy_status deviations(deviation *d, int part, sy_site *gate)
{
    sy_calibration *c = d->b->c;
    const syi_watch watch = {gate, watch_norm, d, true};
    for (int64_t w = 0; w < c->windows[SYI_CALIB]; w += c->rows) {
        const int64_t n = syi_min(c->rows, c->windows[SYI_CALIB] - w);
        for (int k = 0; k < 2; k++) {
            d->whose = k ? SYI_STUDENT : SYI_LINEARS_ORIGINAL;
            const syi_piece made = {.stream = SYI_STUDENT, .whose = d->whose, .block = d->b->block, .part = part, .out = keep_state, .out_self = d};
            syi_piece norm = {.stream = SYI_STUDENT, .whose = SYI_STUDENT, .x = d->state, .block = d->b->block, .part = 1, .watch = &watch, .n_watch = 1};
            if (!gate) norm = (syi_piece){.stream = SYI_STUDENT, .whose = SYI_STUDENT, .x = d->state, .block = c->model->blocks, .out = out_norm, .out_self = d};
            SYI_TRY(syi_calibration_forward(c, &made, w, n));
            SYI_TRY(syi_calibration_forward(c, &norm, w, n));
        }
    }
    return SY_OK;
}

typedef struct { double key; int64_t index; } ranked;
static int falling(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

/* beta[n] from sums; note: mean squared deviation before and after. */
sy_status syi_dac_bias(sy_context *ctx, int select, double threshold, double lambda, double limit, int64_t n, int64_t tokens, const double *sum, float *beta, double mse[2])
{
    ranked *r = syi_alloc(ctx, (size_t)n * sizeof *r);
    if (!r) return SY_E_MEMORY;
    const double count = (double)syi_max(1, tokens);
    mse[0] = mse[1] = 0;
    for (int64_t j = 0; j < n; j++) {
        const double mu = sum[j] / count, spread = fmax(0, sum[n + j] / count - mu * mu);
        r[j] = (ranked){spread > 0 ? fabs(mu) / sqrt(spread) : mu == 0 ? 0 : INFINITY, j};
    }
    qsort(r, (size_t)n, sizeof *r, falling);
    for (int64_t k = 0; k < n; k++) {
        const int64_t j = r[k].index;
        const double snr = r[k].key, mu = sum[j] / count, square = sum[n + j] / count;
        const double explained = isinf(snr) ? 1 : snr * snr / (1 + snr * snr);
        const bool yes = select == DAC_ALL || (select == DAC_EXPLAIN && explained >= threshold) || (select == DAC_SNR && snr >= threshold) ||
                         (select == DAC_TOP && (double)k < threshold * (double)n);
        beta[j] = yes ? (float)(lambda * fmin(limit, fmax(-limit, mu))) : 0;
        mse[0] += square / (double)n;
        mse[1] += (square - 2 * mu * (double)beta[j] + (double)beta[j] * (double)beta[j]) / (double)n;
    }
    syi_free(ctx, r);
    return SY_OK;
}

static sy_status correct(at *b, sy_param *bias, int part, sy_site *gate)
{
    sy_calibration *c = b->c;
    sy_context *ctx = c->ctx;
    const int64_t n = c->hidden, tokens = c->rows * c->seq;
    deviation d = {.b = b};
    d.sum = syi_calloc(ctx, (size_t)(2 * n), sizeof *d.sum);
    d.state = syi_pages(ctx, (size_t)(tokens * n * sy_dtype_block_bytes(c->model->dtype)));
    d.teacher = syi_pages(ctx, (size_t)(tokens * n) * sizeof *d.teacher);
    float *beta = syi_alloc(ctx, (size_t)n * sizeof *beta);
    sy_status st = d.sum && d.state && d.teacher && beta ? deviations(&d, part, gate) : SY_E_MEMORY;
    if (st == SY_OK) st = syi_dac_bias(ctx, b->o->select, b->o->threshold, b->o->lambda, b->o->limit, n, d.tokens, d.sum, beta, b->deviation);
    if (st == SY_OK) st = syi_compress_vector(c, bias, beta);
    syi_free(ctx, d.sum);
    syi_free(ctx, beta);
    syi_pages_free(ctx, d.state);
    syi_pages_free(ctx, d.teacher);
    return st;
}

/* -- a block ------------------------------------------------------------------------------------------------ */

static sy_status work(at *b)
{
    static const sy_role qkv[] = {SY_ROLE_Q, SY_ROLE_K, SY_ROLE_V}, o[] = {SY_ROLE_O}, gated[] = {SY_ROLE_GATE, SY_ROLE_UP}, down[] = {SY_ROLE_DOWN};
    sy_calibration *c = b->c;
    const bool last = b->block == c->model->blocks - 1, scaled = b->o->dsq && b->site[SY_ROLE_DOWN] && b->site[SY_ROLE_UP];
    char name[128];
    sy_param *beta = NULL, *final = NULL;
    snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.bias", b->block);
    if (b->o->dac && b->site[SY_ROLE_GATE]) SYI_TRY(syi_model_vector(c->model, name, c->hidden, &beta));
    if (b->o->dac && last) SYI_TRY(syi_model_vector(c->model, "model.norm.bias", c->hidden, &final));
    SYI_TRY(ordinary_group(b, qkv, 3));
    SYI_TRY(ordinary_group(b, o, 1));
    if (beta) SYI_TRY(correct(b, beta, 0, b->site[SY_ROLE_GATE])); /* before the inputs of gate and up are counted */
    SYI_TRY(syi_calibration_push(c, b->block, 0));
    SYI_TRY(ordinary_group(b, gated, 2));
    SYI_TRY(scaled ? dual_down(b) : ordinary_group(b, down, 1));
    if (final) SYI_TRY(correct(b, final, 1, NULL));
    return syi_calibration_push(c, b->block, 1);
}

static sy_status block_hook(void *self, sy_run *run, sy_calibration *c, int number)
{
    at b = {.o = (const d2quant *)self, .run = run, .c = c, .block = number};
    if (c->model->arch->parts != 2) return syi_fail(c->ctx, SY_E_UNSUPPORTED, "d2quant: blocks of the %s architecture are not attention and a gated layer", c->model->arch->name);
    for (int i = 0; i < c->n_pairs; i++)
        if (syi_compress_index(c, c->pair[i].site) >= 0) b.site[c->pair[i].site->role] = c->pair[i].site;
    return work(&b);
}

static const sy_paper papers[] = {
    {.title = "D2Quant: Accurate Low-bit Post-Training Weight Quantization for LLMs", .authors = "Yan et al.", .venue = "arXiv", .id = "arXiv 2602.02546", .year = 2026},
    {.title = NULL}
};

const sy_method sy_method_d2quant = {
    .abi = SY_METHOD_ABI, .name = "d2quant", .kind = SY_COMPRESSOR,
    .title = "D2Quant: dual scales for the down projection, mean corrections in the norms",
    .papers = papers,
    .about = "For 2 and 3 bits in transformers with a gated feed-forward layer. A GPTAQ run with a better number format for the down projection (its input scales "
             "vanish into the up projection) and a bias in norms that takes back the shift of their means. Costs a little more time than GPTAQ and nothing when run.",
    .options = options, .size = sizeof(d2quant), .init = init, .needs = needs, .block = block_hook,
};
