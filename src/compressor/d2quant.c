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

enum { GPTAQ, GPTQ, RTN };
static const char *const backends[] = {"gptaq", "gptq", "rtn", NULL};
static const char *const orders[] = {"none", "groups", NULL};

typedef struct {
    int64_t bits, group, rounds;
    int backend, order;
    bool dsq, dac, clip;
    double damp, lambda, limit, snr;
} d2quant;

#define OFFSET(f) offsetof(d2quant, f)
static const sy_option options[] = {
    {.name = "bits", .type = SY_OPT_INT, .offset = OFFSET(bits), .def = "2", .min = 2, .max = 3, .alias = "wbits", .help = "bits a code: 2 or 3", .example = "3"},
    {.name = "group", .type = SY_OPT_INT, .offset = OFFSET(group), .def = "128", .min = 32, .max = 128, .alias = "group_size groupsize", .help = "inputs that share scales: 32, 64, 96 or 128", .example = "64"},
    {.name = "backend", .type = SY_OPT_ENUM, .offset = OFFSET(backend), .def = "gptaq", .choices = backends, .help = "what spreads errors over columns", .example = "gptq"},
    {.name = "dsq", .type = SY_OPT_BOOL, .offset = OFFSET(dsq), .def = "on", .help = "row and input scales for the down projection", .example = "off"},
    {.name = "dac", .type = SY_OPT_BOOL, .offset = OFFSET(dac), .def = "on", .help = "mean corrections after attention and before the head", .example = "off"},
    {.name = "rounds", .type = SY_OPT_INT, .offset = OFFSET(rounds), .def = "15", .min = 1, .max = 50, .alias = "num_iters", .help = "alternations of the dual-scale fit", .example = "5"},
    {.name = "order", .type = SY_OPT_ENUM, .offset = OFFSET(order), .def = "groups", .choices = orders, .help = "inputs by falling activity inside groups, groups by their largest", .example = "none"},
    {.name = "clip", .type = SY_OPT_BOOL, .offset = OFFSET(clip), .def = "on", .help = "search the range of each group (other layers than down)", .example = "off"},
    {.name = "damp", .type = SY_OPT_FLOAT, .offset = OFFSET(damp), .def = "0.01", .min = 0, .max = 1, .alias = "percdamp", .help = "damping as a share of the mean second moment", .example = "0.05"},
    {.name = "dac-lambda", .type = SY_OPT_FLOAT, .offset = OFFSET(lambda), .def = "1", .min = 0, .max = 2, .flags = SY_OPT_ADVANCED, .help = "share of the mean deviation that is corrected", .example = "0.5"},
    {.name = "dac-clip", .type = SY_OPT_FLOAT, .offset = OFFSET(limit), .def = "10", .min = 0, .max = 1e6, .flags = SY_OPT_ADVANCED, .help = "largest correction", .example = "1"},
    {.name = "dac-snr", .type = SY_OPT_FLOAT, .offset = OFFSET(snr), .def = "0", .min = 0, .max = 1e6, .flags = SY_OPT_ADVANCED, .help = "only channels with |mean| / deviation of at least this are corrected", .example = "0.1"},
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

typedef struct { const d2quant *o; sy_run *run; sy_calibration *c; int block; sy_site *site[SY_ROLE_COUNT]; } at;

static syi_gptq solver_of(const d2quant *o)
{
    syi_gptq g = {.grid = {.bits = (int)o->bits, .group = o->group, .clip = o->clip}, .order = o->order ? SYI_ORDER_GROUPS : SYI_ORDER_NONE};
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
    float *fitted;
} dual;

static sy_status dual_begin(void *self, int64_t first, int64_t n, const float *w, int64_t ld)
{
    dual *d = self;
    const int bits = (int)d->o->bits;
    SYI_TRY(syi_dsq_fit(d->ctx, bits, (int)d->o->rounds, w, ld, d->out, n, d->r, d->c + first, NULL, NULL));
    double mean = 0; /* c keeps its shape only: the geometric mean goes into r */
    for (int64_t j = 0; j < n; j++) mean += log(d->c[first + j]) / (double)n;
    const double gamma = exp(mean);
    const int64_t input = d->order ? d->order[first] : first;
    for (int64_t j = 0; j < n; j++) d->c[first + j] /= gamma;
    for (int64_t i = 0; i < d->out; i++)
        for (int b = 0; b < bits; b++) {
            float r = (float)(d->r[i * bits + b] * gamma);
            uint16_t h;
            (void)sy_from_f32(NULL, SY_F16, &r, &h, 1);
            (void)sy_to_f32(NULL, SY_F16, &h, &r, 1);
            d->r[i * bits + b] = (double)r;
            SYI_TRY(syi_binary_alpha(d->ctx, d->weight, input / d->group * d->out + i, b, r));
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
    sy_status st = d.r && d.c && (order || !o->order) ? syi_weight_binary(ctx, site->out, site->in, &shape, &d.weight) : SY_E_MEMORY;
    if (st == SY_OK && order) st = syi_order_make(ctx, SYI_ORDER_GROUPS, site->in, d.group, stats->xx, order);
    if (st == SY_OK) {
        d.order = order;
        double damped;
        const syi_columns columns = {.damp = o->backend == RTN ? 1e30 : o->damp, .block = d.group, .org = true, .alpha1 = o->backend == GPTAQ ? 0.25 : 0, .order = order};
        const syi_column_grid grid = {.self = &d, .group = d.group, .begin_all = dual_begin, .column = dual_column};
        st = syi_columns_solve(sy_run_engine(b->run), &columns, &grid, site->out, site->in, w, stats->xx, stats->dx, NULL, &damped);
    }
    for (int64_t q = 0; q < site->in && st == SY_OK; q++) c[order ? order[q] : q] = d.c[q];
    syi_free(ctx, order);
    syi_free(ctx, d.r);
    syi_free(ctx, d.c);
    if (st == SY_OK) *take = d.weight;
    else syi_weight_free(ctx, d.weight);
    return st;
}

/* c into the rows of up: its groups' scales and its bias; codes and zeros stay. */
static sy_status absorb(const at *b, const double *c)
{
    sy_context *ctx = b->c->ctx;
    const sy_site *up = b->site[SY_ROLE_UP];
    sy_weight *w = syi_compress_made(b->c, up);
    const syi_packed_shape p = syi_packed_shape_of(w);
    uint16_t *scales = w->slot[SYI_PACKED_SCALES].data;
    for (int64_t i = 0; i < up->out; i++)
        for (int64_t g = 0; g < p.groups; g++) {
            float s;
            SYI_TRY(sy_to_f32(ctx, SY_F16, scales + i * p.groups + g, &s, 1));
            s = (float)((double)s * c[i]);
            SYI_TRY(sy_from_f32(ctx, SY_F16, &s, scales + i * p.groups + g, 1));
        }
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
    float *w = syi_pages(ctx, (size_t)(down->out * down->in) * sizeof *w);
    sy_weight *take = NULL;
    sy_status st = c && w ? syi_layer_begin(b->c, down, stats, NULL, &layer) : SY_E_MEMORY;
    if (st == SY_OK) {
        st = dual_solve(b, down, layer.w, stats, &take, c);
        for (int64_t i = 0; st == SY_OK && i < down->out; i++)
            for (int64_t j = 0; j < down->in; j++) w[i * down->in + j] = (float)((double)layer.original[i * down->in + j] / c[j]);
        syi_layer_free(b->c, &layer);
    }
    if (st == SY_OK) st = absorb(b, c);
    /* errors are those of c h seen by the weight without c: the same outputs */
    for (int64_t i = 0; st == SY_OK && i < down->in; i++)
        for (int64_t j = 0; j < down->in; j++) stats->xx[i * down->in + j] *= c[i] * c[j];
    if (st == SY_OK) st = syi_layer_begin(b->c, down, stats, w, &layer);
    if (st == SY_OK) {
        layer.take = take;
        take = NULL;
        snprintf(layer.note, sizeof layer.note, "input scales went into the rows of the up projection");
        st = syi_layer_end(b->c, &layer);
    }
    syi_weight_free(ctx, take);
    syi_stats_free(ctx, stats);
    syi_free(ctx, c);
    syi_pages_free(ctx, w);
    return st;
}

/* -- DAC ------------------------------------------------------------------------------------------------- */

typedef struct { sy_calibration *c; char *to; } copying;

static sy_status keep_states(void *self, int64_t window, const sy_tensor *y, const uint8_t *mask)
{
    const copying *k = self;
    (void)mask;
    memcpy(k->to + window * k->c->seq * k->c->hidden * sy_dtype_block_bytes(y->dtype), y->data, (size_t)sy_tensor_bytes(y));
    return SY_OK;
}

/* What the part makes of the student's stream with these weights, beside the stream. */
static sy_status teacher(const at *b, int part, int whose, char **out)
{
    copying k = {b->c, syi_pages(b->c->ctx, (size_t)b->c->bytes[SYI_STUDENT][SYI_CALIB])};
    if (!k.to) return SY_E_MEMORY;
    *out = k.to;
    return syi_calibration_pass(b->c, &(syi_piece){.set = SYI_CALIB, .stream = SYI_STUDENT, .whose = whose, .block = b->block, .part = part, .out = keep_states, .out_self = &k});
}

typedef struct { double *sum; int64_t n, tokens; } mean;

static sy_status add_mean(void *self, int64_t window, const sy_tensor *y, const uint8_t *mask)
{
    mean *m = self;
    (void)window;
    for (int64_t t = 0; t < y->dim[0]; t++) {
        if (!mask[t]) continue;
        m->tokens++;
        for (int64_t j = 0; j < m->n; j++) {
            float v;
            if (y->dtype == SY_F32) v = ((const float *)y->data)[t * m->n + j];
            else (void)sy_to_f32(NULL, y->dtype, (const uint16_t *)y->data + t * m->n + j, &v, 1);
            m->sum[j] += (double)v;
            m->sum[m->n + j] += (double)v * (double)v;
        }
    }
    return SY_OK;
}

static sy_status watch_mean(void *self, const sy_site *site, const sy_tensor *x, const uint8_t *mask)
{
    (void)site;
    return add_mean(self, 0, x, mask);
}

/* Means of a norm's output on the student's stream and on the teacher's states; the difference
 * becomes the norm's bias. gate: a linear that reads the norm inside the block, NULL: the last norm. */
static sy_status correct(const at *b, sy_param *bias, sy_site *gate, char *states)
{
    sy_calibration *c = b->c;
    sy_context *ctx = c->ctx;
    const int64_t n = c->hidden;
    double *sums = syi_calloc(ctx, (size_t)(4 * n), sizeof *sums);
    float *beta = syi_alloc(ctx, (size_t)n * sizeof *beta);
    char *own = c->at[SYI_STUDENT][SYI_CALIB];
    sy_status st = sums && beta ? SY_OK : SY_E_MEMORY;
    mean m[2] = {{sums, n, 0}, {sums ? sums + 2 * n : NULL, n, 0}};
    for (int k = 0; k < 2 && st == SY_OK; k++) {
        const syi_watch watch = {gate, watch_mean, &m[k], true};
        syi_piece p = {.set = SYI_CALIB, .stream = SYI_STUDENT, .whose = SYI_STUDENT, .block = b->block, .part = 1};
        if (gate) {
            p.watch = &watch;
            p.n_watch = 1;
        } else {
            p.block = c->model->blocks;
            p.part = 0;
            p.out = add_mean;
            p.out_self = &m[k];
        }
        if (k == 1) c->at[SYI_STUDENT][SYI_CALIB] = states;
        st = syi_calibration_pass(c, &p);
        c->at[SYI_STUDENT][SYI_CALIB] = own;
    }
    for (int64_t j = 0; st == SY_OK && j < n; j++) {
        const double student = m[0].sum[j] / (double)syi_max(1, m[0].tokens), target = m[1].sum[j] / (double)syi_max(1, m[1].tokens);
        const double spread = sqrt(fmax(0, m[0].sum[n + j] / (double)syi_max(1, m[0].tokens) - student * student)), mu = target - student;
        const bool yes = b->o->snr <= 0 || fabs(mu) >= b->o->snr * spread;
        beta[j] = yes ? (float)(b->o->lambda * fmin(b->o->limit, fmax(-b->o->limit, mu))) : 0;
    }
    if (st == SY_OK) st = syi_compress_vector(c, bias, beta);
    syi_free(ctx, sums);
    syi_free(ctx, beta);
    return st;
}

/* -- a block ------------------------------------------------------------------------------------------------ */

static sy_status work(const at *b)
{
    static const sy_role qkv[] = {SY_ROLE_Q, SY_ROLE_K, SY_ROLE_V}, o[] = {SY_ROLE_O}, gated[] = {SY_ROLE_GATE, SY_ROLE_UP}, down[] = {SY_ROLE_DOWN};
    sy_calibration *c = b->c;
    sy_context *ctx = c->ctx;
    const bool last = b->block == c->model->blocks - 1;
    char name[128], *states = NULL;
    sy_param *beta = NULL, *final = NULL;
    snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.bias", b->block);
    if (b->o->dac && b->site[SY_ROLE_GATE]) SYI_TRY(syi_model_vector(c->model, name, c->hidden, &beta));
    if (b->o->dac && last) SYI_TRY(syi_model_vector(c->model, "model.norm.bias", c->hidden, &final));
    sy_status st = SY_OK;
    if (beta) st = teacher(b, 0, SYI_ORIGINAL, &states);
    if (st == SY_OK) st = ordinary_group(b, qkv, 3);
    if (st == SY_OK) st = ordinary_group(b, o, 1);
    if (st == SY_OK) st = syi_calibration_push(c, b->block, 0);
    if (st == SY_OK && beta) st = correct(b, beta, b->site[SY_ROLE_GATE], states);
    syi_pages_free(ctx, states);
    states = NULL;
    if (st == SY_OK && final) st = teacher(b, 1, SYI_STUDENT, &states); /* the feed-forward layer is not solved yet */
    if (st == SY_OK) st = ordinary_group(b, gated, 2);
    const bool scaled = b->o->dsq && b->site[SY_ROLE_DOWN] && b->site[SY_ROLE_UP];
    if (st == SY_OK) st = scaled ? dual_down(b) : ordinary_group(b, down, 1);
    if (st == SY_OK) st = syi_calibration_push(c, b->block, 1);
    if (st == SY_OK && final) st = correct(b, final, NULL, states);
    syi_pages_free(ctx, states);
    return st;
}

static sy_status block_hook(void *self, sy_run *run, sy_calibration *c, int number)
{
    at b = {.o = self, .run = run, .c = c, .block = number};
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
