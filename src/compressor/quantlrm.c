/* SPDX-License-Identifier: Apache-2.0 */
/* QuantLRM and AWQ: each input channel is scaled up before rounding and down in whatever
 * makes it, by a power of its importance that a search picks. AWQ's importance is mean |x|;
 * QuantLRM's is how fine-tuning changed the channel: both the smallest and the largest
 * updates, and those that bf16 swallowed, mark what must be kept.
 *
 * Where the sheet leaves room: errors of o and down come from Gram matrices, those of
 * attention and the gated layer from forwards over at most --search-tokens tokens; 0 is
 * always in a grid's range; the signal of a model without a parent comes from --tuned, a
 * fine-tuned copy that is not itself quantized (the pseudo-fine-tuning of the paper: make it
 * with `steelyard train --adapter full`). */
#include "compressor/solve.h"
#include "run/compress.h"

#include <math.h>

enum { DELTA, ACT, DELTA_ACT, IN_FILE, NONE };
static const char *const importances[] = {"delta", "act", "delta-act", "file", "none", NULL};
enum { ENDS_BOTH, ENDS_LARGE, ENDS_SMALL };
static const char *const which_ends[] = {"both", "large", "small", NULL};
enum { UNROUNDED = 16 }; /* bits: scaled and folded only */

typedef struct {
    int importance, ends;
    char *parent, *tuned, *file;
    int64_t bits, group, grid, clip_grid, clip_tokens, search_tokens;
    double ratio, max_shrink, power;
    bool clip, zeros;
    /* at work */
    sy_context *ctx;
    sy_checkpoint *other;       /* the parent, or the fine-tuned copy, or --importance-file  */
    double least, middle, most; /* of the updates that are not zero                         */
    bool counted;
} quantlrm;

#define OFFSET(f) offsetof(quantlrm, f)
static const sy_option options[] = {
    {.name = "importance", .type = SY_OPT_ENUM, .offset = OFFSET(importance), .def = "delta", .choices = importances,
     .help = "what channels are scaled by: delta (the update from --parent), act (AWQ: mean activation), delta-act (their product), file, none", .example = "act"},
    {.name = "importance-file", .type = SY_OPT_PATH, .offset = OFFSET(file), .help = "safetensors with MODULE.importance [in] for every q, o, gate and down projection", .example = "importance.safetensors"},
    {.name = "parent", .type = SY_OPT_PATH, .offset = OFFSET(parent), .help = "the checkpoint that the model was fine-tuned from", .example = "base"},
    {.name = "tuned", .type = SY_OPT_PATH, .offset = OFFSET(tuned), .help = "instead of --parent: a fine-tuned copy of the model, used for its updates only", .example = "tuned"},
    {.name = "bits", .type = SY_OPT_INT, .offset = OFFSET(bits), .def = "3", .min = 2, .max = 16, .alias = "wbits w_bit", .help = "bits a code: 2, 3, 4 or 8; 16: scaled and folded, not rounded (f32)", .example = "4"},
    {.name = "group", .type = SY_OPT_INT, .offset = OFFSET(group), .def = "128", .min = -1, .max = 8192, .alias = "group_size q_group_size",
     .help = "inputs that share a scale, a multiple of 32; -1: a whole row", .example = "64"},
    {.name = "ratio", .type = SY_OPT_FLOAT, .offset = OFFSET(ratio), .def = "10", .min = 1, .max = 1e6, .flags = SY_OPT_MIN_OPEN, .help = "importance of the smallest and largest updates over the median one", .example = "4"},
    {.name = "ends", .type = SY_OPT_ENUM, .offset = OFFSET(ends), .def = "both", .choices = which_ends, .flags = SY_OPT_ADVANCED, .help = "updates that count as important: the largest and the smallest, or one of them", .example = "large"},
    {.name = "power", .type = SY_OPT_FLOAT, .offset = OFFSET(power), .def = "-1", .min = -1, .max = 1, .flags = SY_OPT_ADVANCED, .help = "this power of the importance everywhere instead of a search (-1: search)", .example = "0.5"},
    {.name = "count-zeros", .type = SY_OPT_BOOL, .offset = OFFSET(zeros), .def = "on", .help = "updates that bf16 swallowed multiply a channel's importance", .example = "off"},
    {.name = "grid", .type = SY_OPT_INT, .offset = OFFSET(grid), .def = "20", .min = 1, .max = 100, .alias = "n_grid", .help = "powers tried, from 0 in steps of 1/N", .example = "10"},
    {.name = "clip", .type = SY_OPT_BOOL, .offset = OFFSET(clip), .def = "on", .help = "search the range of each group on outputs (not for q and k)", .example = "off"},
    {.name = "max-shrink", .type = SY_OPT_FLOAT, .offset = OFFSET(max_shrink), .def = "0.5", .min = 0, .max = 0.95, .flags = SY_OPT_ADVANCED, .help = "how far ranges are clipped at most", .example = "0.3"},
    {.name = "clip-grid", .type = SY_OPT_INT, .offset = OFFSET(clip_grid), .def = "20", .min = 1, .max = 1000, .flags = SY_OPT_ADVANCED, .help = "steps of 1/N in the search for ranges", .example = "10"},
    {.name = "search-tokens", .type = SY_OPT_INT, .offset = OFFSET(search_tokens), .def = "2048", .min = 1, .max = 1e9, .help = "tokens that candidates for attention and the gated layer are run on", .example = "1024"},
    {.name = NULL}
};

static sy_status init(void *self, sy_run *run)
{
    quantlrm *o = self;
    o->ctx = sy_run_context(run);
    if (o->bits != UNROUNDED) SYI_TRY(syi_grid_check(o->ctx, "quantlrm", o->bits, o->group));
    if ((o->importance == IN_FILE) != (o->file != NULL)) return syi_fail(o->ctx, SY_E_USAGE, "quantlrm: --importance file and --importance-file PATH belong together");
    if (o->importance == IN_FILE) return sy_run_planning(run) ? SY_OK : sy_checkpoint_open(o->ctx, o->file, &o->other);
    if (o->importance == ACT || o->importance == NONE) return SY_OK;
    if (!o->parent == !o->tuned)
        return syi_fail(o->ctx, SY_E_USAGE, "quantlrm: give the checkpoint that the model was fine-tuned from with --parent, or a fine-tuned copy with --tuned (one of them); "
                        "without either, --importance act is AWQ");
    return sy_run_planning(run) ? SY_OK : sy_checkpoint_open(o->ctx, o->parent ? o->parent : o->tuned, &o->other);
}

static void release(void *self)
{
    quantlrm *o = self;
    if (o->other) sy_checkpoint_close(o->other);
}

/* -- importance ----------------------------------------------------------------------------------- */

static uint16_t to_bf16(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t h)
{
    const uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* |bf16(a) - bf16(b)| rounded to bf16, as its bits. */
static uint16_t update_bits(float a, float b) { return to_bf16(fabsf(from_bf16(to_bf16(a)) - from_bf16(to_bf16(b)))); }

/* Rows of the weight and of the other checkpoint's, in f32: w[out*in] each. */
static sy_status both(const quantlrm *o, const sy_weight *now, const sy_site *site, float *a, float *b)
{
    char name[512];
    snprintf(name, sizeof name, "%s.weight", site->name);
    const sy_entry *e = sy_checkpoint_find(o->other, name);
    if (!e || e->rank != 2 || e->dim[0] != site->out || e->dim[1] != site->in)
        return syi_fail(o->ctx, SY_E_INPUT, "%s: there is no tensor %s [%lld, %lld] in it; it is not the checkpoint that the model comes from", o->parent ? o->parent : o->tuned, name,
                        (long long)site->out, (long long)site->in);
    SYI_TRY(now->type->dense(o->ctx, now, 0, site->out, a));
    SYI_TRY(sy_entry_read_f32(o->ctx, e, 0, site->out, b));
    syi_mapped_forget(e->data, e->bytes);
    return SY_OK;
}

/* bf16 has 32768 numbers that are not negative: a histogram gives exact order statistics. */
void syi_update_statistics(const int64_t *histogram, double *least, double *middle, double *most)
{
    int64_t total = 0, at = 0;
    for (int i = 1; i < 32768; i++) total += histogram[i];
    *least = *middle = *most = 0;
    if (total == 0) return;
    double low = 0, high = 0;
    for (int i = 1; i < 32768; i++) {
        if (!histogram[i]) continue;
        const double v = (double)from_bf16((uint16_t)i);
        if (at == 0) *least = v;
        if (at <= (total - 1) / 2 && at + histogram[i] > (total - 1) / 2) low = v;
        if (at <= total / 2 && at + histogram[i] > total / 2) high = v;
        at += histogram[i];
        *most = v;
    }
    *middle = 0.5 * (low + high);
}

static sy_status count_updates(quantlrm *o, sy_calibration *c)
{
    const syi_compress *s = c->owner;
    int64_t *histogram = syi_calloc(o->ctx, 32768, sizeof *histogram);
    sy_status st = histogram ? SY_OK : SY_E_MEMORY;
    for (int i = 0; i < s->n_sites && st == SY_OK; i++) {
        const sy_site *site = s->site[i];
        const int64_t n = site->out * site->in;
        float *a = syi_pages(o->ctx, (size_t)(2 * n) * sizeof *a);
        const syi_pair *pair = syi_calibration_pair(c, site);
        st = a ? both(o, pair ? pair->original : site->weight, site, a, a + n) : SY_E_MEMORY;
        for (int64_t k = 0; k < n && st == SY_OK; k++) histogram[update_bits(a[k], a[n + k]) & 0x7fff]++;
        syi_pages_free(o->ctx, a);
    }
    if (st == SY_OK) {
        syi_update_statistics(histogram, &o->least, &o->middle, &o->most);
        o->counted = true;
        if (o->most == 0) st = syi_fail(o->ctx, SY_E_INPUT, "%s: no weight differs from the model's; a fine-tuned pair is needed, or --importance act", o->parent ? o->parent : o->tuned);
    }
    syi_free(o->ctx, histogram);
    return st;
}

/* 1 at no update and at the median one, R at both ends. */
double syi_update_importance(double x, double least, double middle, double most, double ratio)
{
    if (x == 0) return 1;
    double t = x <= middle ? (middle - x) / fmax(middle - least, 1e-30) : (x - middle) / fmax(most - middle, 1e-30);
    t = fmin(1, fmax(-1, t));
    return 1 + (ratio - 1) * t * t;
}

double syi_channel_importance(const uint16_t *update, int64_t m, double least, double middle, double most, double ratio, bool count_zeros)
{
    double sum = 0;
    int64_t zeros = 0;
    for (int64_t i = 0; i < m; i++) {
        zeros += (update[i] & 0x7fff) == 0;
        sum += syi_update_importance((double)from_bf16(update[i] & 0x7fff), least, middle, most, ratio);
    }
    return sum / (double)m * (count_zeros ? 1 + (double)zeros : 1);
}

/* F of the site's inputs from the updates. */
static sy_status update_channels(const quantlrm *o, const syi_pair *pair, double *f)
{
    const sy_site *site = pair->site;
    const int64_t m = site->out, n = site->in;
    float *a = syi_pages(o->ctx, (size_t)(2 * m * n) * sizeof *a);
    uint16_t *update = syi_alloc(o->ctx, (size_t)m * sizeof *update);
    sy_status st = a && update ? both(o, pair->original, site, a, a + m * n) : SY_E_MEMORY;
    for (int64_t j = 0; j < n && st == SY_OK; j++) {
        for (int64_t i = 0; i < m; i++) {
            update[i] = update_bits(a[i * n + j], a[m * n + i * n + j]) & 0x7fff;
            const double x = (double)from_bf16(update[i]);
            if ((o->ends == ENDS_LARGE && x < o->middle && x > 0) || (o->ends == ENDS_SMALL && x > o->middle)) update[i] = to_bf16((float)o->middle); /* as unimportant as the median */
        }
        f[j] = syi_channel_importance(update, m, o->least, o->middle, o->most, o->ratio, o->zeros && o->ends != ENDS_LARGE);
    }
    syi_pages_free(o->ctx, a);
    syi_free(o->ctx, update);
    return st;
}

static sy_status file_channels(const quantlrm *o, const sy_site *site, double *f)
{
    char name[512];
    snprintf(name, sizeof name, "%s.importance", site->name);
    const sy_entry *e = sy_checkpoint_find(o->other, name);
    if (!e || e->rank != 1 || e->dim[0] != site->in) return syi_fail(o->ctx, SY_E_INPUT, "%s: there is no tensor %s [%lld] in it", o->file, name, (long long)site->in);
    float *v = syi_alloc(o->ctx, (size_t)site->in * sizeof *v);
    sy_status st = v ? sy_entry_read_f32(o->ctx, e, 0, 1, v) : SY_E_MEMORY;
    for (int64_t j = 0; j < site->in && st == SY_OK; j++) {
        if (!(v[j] > 0) || !isfinite(v[j])) st = syi_fail(o->ctx, SY_E_INPUT, "%s: %s: channel %lld is %g; importance is positive and finite", o->file, name, (long long)j, (double)v[j]);
        f[j] = (double)v[j];
    }
    syi_free(o->ctx, v);
    return st;
}

static sy_status channels(const quantlrm *o, const syi_pair *pair, const sy_stats *stats, double *f)
{
    for (int64_t j = 0; j < stats->n; j++) f[j] = 1;
    if (o->importance == DELTA || o->importance == DELTA_ACT) SYI_TRY(update_channels(o, pair, f));
    if (o->importance == IN_FILE) SYI_TRY(file_channels(o, pair->site, f));
    if (o->importance == ACT || o->importance == DELTA_ACT)
        for (int64_t j = 0; j < stats->n; j++) f[j] *= stats->abs[j] / (double)syi_max(1, stats->tokens);
    return SY_OK;
}

/* s = F^rho, at least 1e-4, over sqrt(max min): a common factor changes nothing. */
static void scales(const double *f, int64_t n, double rho, float *s)
{
    double low = INFINITY, high = 0;
    for (int64_t j = 0; j < n; j++) {
        const double v = fmax(pow(f[j], rho), 1e-4);
        low = fmin(low, v);
        high = fmax(high, v);
    }
    for (int64_t j = 0; j < n; j++) s[j] = (float)(fmax(pow(f[j], rho), 1e-4) / sqrt(low * high));
}

/* -- the block at hand -------------------------------------------------------------------------------- */

typedef struct {
    quantlrm *o;
    sy_run *run;
    sy_calibration *c;
    int block;
    sy_site *site[SY_ROLE_COUNT];
    float *w[SY_ROLE_COUNT];         /* [out, in], scaled as the search goes               */
    sy_stats *stats[4];              /* by input group                                     */
    int64_t windows;                 /* of a search by forwards                            */
    float *reference;                /* outputs of a part on those                          */
    double error;
    char note[SY_ROLE_COUNT][120];   /* what the search for a role's inputs found          */
} block;

static syi_grid grid_of(const quantlrm *o) { return (syi_grid){.bits = (int)o->bits, .group = o->group}; }

/* Q(W s) / s */
static void round_scaled(block *b, const sy_site *site, const float *w, const float *s, float *out)
{
    const quantlrm *o = b->o;
    const syi_grid g = grid_of(o);
    const int64_t n = site->in, group = o->group > 0 ? syi_min(o->group, n) : n;
    const float top = (float)((1 << o->bits) - 1);
#pragma omp parallel for schedule(static) num_threads(syi_omp(o->ctx))
    for (int64_t r = 0; r < site->out; r++) {
        float *to = out + r * n;
        for (int64_t j = 0; j < n; j++) to[j] = w[r * n + j] * s[j];
        if (o->bits == UNROUNDED) {
            for (int64_t j = 0; j < n; j++) to[j] /= s[j];
            continue;
        }
        for (int64_t first = 0; first < n; first += group) {
            float scale, zero;
            const int64_t count = syi_min(group, n - first);
            syi_grid_fit(sy_run_engine(b->run), &g, to + first, count, &scale, &zero);
            for (int64_t j = first; j < first + count; j++) to[j] = scale * (syi_grid_code(to[j], scale, zero, top) - zero) / s[j];
        }
    }
}

static float element(const sy_tensor *t, int64_t i)
{
    return t->dtype == SY_F32 ? ((const float *)t->data)[i] : t->dtype == SY_F64 ? (float)((const double *)t->data)[i] : from_bf16(((const uint16_t *)t->data)[i]);
}

static sy_status keep_output(void *self, int64_t window, const sy_tensor *y, const uint8_t *mask)
{
    block *b = self;
    (void)mask;
    const int64_t n = sy_tensor_count(y), first = window * b->c->seq * b->c->hidden;
    for (int64_t i = 0; i < n; i++) b->reference[first + i] = element(y, i);
    return SY_OK;
}

static sy_status compare_output(void *self, int64_t window, const sy_tensor *y, const uint8_t *mask)
{
    block *b = self;
    const int64_t cols = b->c->hidden, first = window * b->c->seq * cols;
    for (int64_t t = 0; t < y->dim[0]; t++) {
        if (!mask[t]) continue;
        double sum = 0;
        for (int64_t j = 0; j < cols; j++) {
            const double d = (double)element(y, t * cols + j) - (double)b->reference[first + t * cols + j];
            sum += d * d;
        }
        b->error += sum;
    }
    return SY_OK;
}

static sy_status run_part(block *b, int part, int whose, sy_status (*out)(void *, int64_t, const sy_tensor *, const uint8_t *))
{
    const syi_piece p = {.set = SYI_CALIB, .stream = SYI_ORIGINAL, .whose = whose, .block = b->block, .part = part, .out = out, .out_self = b};
    for (int64_t w = 0; w < b->windows; w += b->c->rows) SYI_TRY(syi_calibration_forward(b->c, &p, w, syi_min(b->c->rows, b->windows - w)));
    return SY_OK;
}

/* Error of the part's output with these consumers rounded under scales s. */
static sy_status forward_error(block *b, int part, const sy_role *role, int n, const float *s, double *error)
{
    for (int i = 0; i < n; i++) {
        const sy_site *site = b->site[role[i]];
        float *t = syi_alloc(b->o->ctx, (size_t)(site->out * site->in) * sizeof *t);
        if (!t) return SY_E_MEMORY;
        round_scaled(b, site, b->w[role[i]], s, t);
        const sy_status st = syi_calibration_put(b->c, site, t);
        syi_free(b->o->ctx, t);
        SYI_TRY(st);
    }
    b->error = 0;
    SYI_TRY(run_part(b, part, SYI_STUDENT, compare_output));
    *error = b->error;
    return SY_OK;
}

sy_status syi_output_error(syi_engine *e, int64_t m, int64_t n, const float *d, const float *gram, float *t, double *error)
{
    SYI_TRY(syi_gemm(e, m, n, n, 1, (syi_mat){SY_F32, d, n, false}, (syi_mat){SY_F32, gram, n, false}, 0, SY_F32, t, n));
    *error = syi_dot(e, SY_F32, d, t, m * n);
    return SY_OK;
}

/* tr((w^ - w) G (w^ - w)^T) */
static sy_status gram_error(block *b, const sy_site *site, const float *w, const float *s, const float *gram, double *error)
{
    const int64_t n = site->in, m = site->out;
    sy_context *ctx = b->o->ctx;
    float *t = syi_pages(ctx, (size_t)(2 * m * n) * sizeof *t);
    if (!t) return SY_E_MEMORY;
    round_scaled(b, site, w, s, t);
    for (int64_t i = 0; i < m * n; i++) t[i] -= w[i];
    const sy_status st = syi_output_error(sy_run_engine(b->run), m, n, t, gram, t + m * n, error);
    syi_pages_free(ctx, t);
    return st;
}

/* -- searching and folding --------------------------------------------------------------------------------- */

/* The first power with the least error. Gram: of a single consumer; else by forwards. */
static sy_status search(block *b, int part, const sy_role *role, int n, const sy_stats *stats, const double *f, bool by_forward, float *best)
{
    sy_context *ctx = b->o->ctx;
    const int64_t in = stats->n;
    float *s = syi_alloc(ctx, (size_t)in * sizeof *s), *gram = by_forward ? NULL : syi_pages(ctx, (size_t)(in * in) * sizeof *gram);
    double least = INFINITY;
    sy_status st = s && (by_forward || gram) ? SY_OK : SY_E_MEMORY;
    for (int64_t i = 0; gram && i < in * in; i++) gram[i] = (float)(stats->xx[i] / (double)syi_max(1, stats->tokens));
    if (st == SY_OK && by_forward) st = run_part(b, part, SYI_ORIGINAL, keep_output);
    bool constant = true;
    for (int64_t j = 1; j < in; j++) constant &= f[j] == f[0];
    const bool given = b->o->power >= 0;
    double chosen = 0, first = 0;
    for (int64_t k = 0; k < (constant || given ? 1 : b->o->grid) && st == SY_OK; k++) {
        const double rho = given ? b->o->power : (double)k / (double)b->o->grid;
        double error = 0;
        scales(f, in, rho, s);
        st = by_forward ? forward_error(b, part, role, n, s, &error) : gram_error(b, b->site[role[0]], b->w[role[0]], s, gram, &error);
        if (k == 0) first = error;
        if (st == SY_OK && error < least) {
            least = error;
            chosen = rho;
            memcpy(best, s, (size_t)in * sizeof *best);
        }
    }
    if (st == SY_OK) snprintf(b->note[role[0]], sizeof b->note[role[0]], "power %g of the importance: error of outputs %.6g, %.6g without scales", chosen, least, first);
    syi_free(ctx, s);
    syi_pages_free(ctx, gram);
    return st;
}

static void scale_inputs(float *w, int64_t m, int64_t n, const float *s)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) w[i * n + j] *= s[j];
}

static void unscale_stats(sy_stats *st, const float *s)
{
    for (int64_t i = 0; st->xx && i < st->n; i++)
        for (int64_t j = 0; j < st->n; j++) st->xx[i * st->n + j] /= (double)s[i] * (double)s[j];
    for (int64_t r = 0; st->rows && r < st->n_rows; r++)
        for (int64_t j = 0; j < st->n; j++) st->rows[r * st->n + j] /= s[j];
}

/* A vector of the compressed model divided by s (a norm's weight, a bias). */
static sy_status divide_vector(block *b, sy_param *p, const float *s)
{
    const int64_t n = sy_tensor_count(&p->value);
    float *v = syi_alloc(b->o->ctx, (size_t)n * sizeof *v);
    if (!v) return SY_E_MEMORY;
    for (int64_t j = 0; j < n; j++) v[j] = ((const float *)p->value.data)[j] / s[j];
    const sy_status st = syi_compress_vector(b->c, p, v);
    syi_free(b->o->ctx, v);
    return st;
}

static sy_status divide_rows(block *b, sy_role role, const float *s)
{
    const sy_site *site = b->site[role];
    for (int64_t i = 0; i < site->out; i++)
        for (int64_t j = 0; j < site->in; j++) b->w[role][i * site->in + j] /= s[i];
    return site->bias ? divide_vector(b, site->bias, s) : SY_OK;
}

static bool has_edge(const sy_model *m, sy_role from, sy_role to)
{
    for (const sy_arch_edge *e = m->arch->edges; e && e->from != SY_ROLE_NONE; e++)
        if (e->from == from && e->to == to) return e->exact;
    return false;
}

/* The norm whose output the role's linear reads: the last one before it in the architecture's rows. */
static sy_param *norm_before(const block *b, sy_role role)
{
    const sy_arch_tensor *norm = NULL;
    for (const sy_arch_tensor *r = b->c->model->rows; r->name; r++) {
        if (!strstr(r->name, "%d")) continue;
        if (r->role == SY_ROLE_NORM) norm = r;
        if (r->role != role || !(r->flags & SY_TENSOR_LINEAR)) continue;
        char name[256];
        if (!norm || (norm->flags & SY_TENSOR_FROM_ONE)) return NULL;
        snprintf(name, sizeof name, norm->name, b->block);
        return syi_model_param(b->c->model, name);
    }
    return NULL;
}

/* A norm feeds these linears; all must be at hand. */
static sy_status norm_pair(block *b, int part, const sy_role *role, int n, sy_stats *stats)
{
    for (int i = 0; i < n; i++)
        if (!b->site[role[i]] || !has_edge(b->c->model, SY_ROLE_NORM, role[i])) return SY_OK;
    sy_param *norm = norm_before(b, role[0]);
    if (!norm || norm->value.dtype != SY_F32 || sy_tensor_count(&norm->value) != stats->n) return SY_OK;
    sy_context *ctx = b->o->ctx;
    double *f = syi_alloc(ctx, (size_t)stats->n * sizeof *f);
    float *s = syi_alloc(ctx, (size_t)stats->n * sizeof *s);
    sy_status st = f && s ? channels(b->o, syi_calibration_pair(b->c, b->site[role[0]]), stats, f) : SY_E_MEMORY;
    if (st == SY_OK) st = search(b, part, role, n, stats, f, true, s);
    if (st == SY_OK) st = divide_vector(b, norm, s);
    for (int i = 0; i < n && st == SY_OK; i++) scale_inputs(b->w[role[i]], b->site[role[i]]->out, b->site[role[i]]->in, s);
    if (st == SY_OK) unscale_stats(stats, s);
    syi_free(ctx, f);
    syi_free(ctx, s);
    return st;
}

/* A linear feeds another: v -> o (grouped heads share v's channels), up -> down. */
static sy_status linear_pair(block *b, sy_role from, sy_role to, sy_stats *stats)
{
    if (!b->site[from] || !b->site[to] || !has_edge(b->c->model, from, to)) return SY_OK;
    sy_context *ctx = b->o->ctx;
    const int64_t n = stats->n, rows = b->site[from]->out;
    double *f = syi_alloc(ctx, (size_t)n * sizeof *f);
    float *s = syi_alloc(ctx, (size_t)(n + rows) * sizeof *s), *narrow = s ? s + n : NULL;
    sy_status st = f && s ? channels(b->o, syi_calibration_pair(b->c, b->site[to]), stats, f) : SY_E_MEMORY;
    if (st == SY_OK) st = search(b, 0, &to, 1, stats, f, false, s);
    if (st == SY_OK) {
        int64_t dim = rows, repeat = n / rows; /* channel i of query head h belongs to head h / repeat */
        if (repeat > 1) syi_arch_field(b->c->model->arch, b->c->model->config, "head_dim", &dim);
        for (int64_t i = 0; i < rows; i++) {
            double sum = 0;
            for (int64_t k = 0; k < repeat; k++) sum += (double)s[(i / dim * repeat + k) * dim + i % dim];
            narrow[i] = (float)(sum / (double)repeat);
        }
        for (int64_t j = 0; j < n; j++) s[j] = narrow[j / dim / repeat * dim + j % dim];
        st = divide_rows(b, from, narrow);
    }
    if (st == SY_OK) {
        scale_inputs(b->w[to], b->site[to]->out, n, s);
        unscale_stats(stats, s);
    }
    syi_free(ctx, f);
    syi_free(ctx, s);
    return st;
}

/* -- ranges and rounding ---------------------------------------------------------------------------------------- */

/* Clips w[m, n] group by group to the range with the least error on the kept rows of inputs. */
static sy_status clip_weight(block *b, float *w, int64_t m, const sy_stats *stats)
{
    const quantlrm *o = b->o;
    const int64_t n = stats->n, group = o->group > 0 ? syi_min(o->group, n) : n;
    const syi_grid g = grid_of(o);
    const float top = (float)((1 << o->bits) - 1);
    float *gram = syi_pages(o->ctx, (size_t)(group * group) * sizeof *gram);
    if (!gram) return SY_E_MEMORY;
    sy_status st = SY_OK;
    for (int64_t first = 0; first < n && st == SY_OK; first += group) {
        const int64_t count = syi_min(group, n - first);
        const float *x = stats->rows + first;
        st = syi_gemm(sy_run_engine(b->run), count, count, stats->n_rows, 1, (syi_mat){SY_F32, x, n, true}, (syi_mat){SY_F32, x, n, false}, 0, SY_F32, gram, count);
#pragma omp parallel for schedule(static) num_threads(syi_omp(o->ctx)) if (st == SY_OK)
        for (int64_t r = 0; r < m; r++) {
            float *at = w + r * n + first, most = 0, limit = 0, d[1024], c[1024];
            double least = INFINITY;
            if (count > 1024) continue; /* whole rows are left as they are */
            for (int64_t j = 0; j < count; j++) most = fmaxf(most, fabsf(at[j]));
            for (int64_t i = 0; i < (int64_t)(o->max_shrink * (double)o->clip_grid); i++) {
                const float a = most * (1 - (float)i / (float)o->clip_grid);
                float scale, zero;
                double error = 0;
                for (int64_t j = 0; j < count; j++) c[j] = fminf(a, fmaxf(-a, at[j]));
                syi_grid_fit(sy_run_engine(b->run), &g, c, count, &scale, &zero);
                for (int64_t j = 0; j < count; j++) d[j] = scale * (syi_grid_code(c[j], scale, zero, top) - zero) - at[j];
                for (int64_t j = 0; j < count; j++) {
                    float s = 0;
                    for (int64_t k = 0; k < count; k++) s += d[k] * gram[j * count + k];
                    error += (double)s * (double)d[j];
                }
                if (error < least) {
                    least = error;
                    limit = a;
                }
            }
            for (int64_t j = 0; j < count; j++) at[j] = fminf(limit, fmaxf(-limit, at[j]));
        }
    }
    syi_pages_free(o->ctx, gram);
    return st;
}

static sy_status finish_site(block *b, sy_role role, sy_stats *stats)
{
    const sy_site *site = b->site[role];
    if (!site) return SY_OK;
    sy_layer layer;
    const syi_grid g = grid_of(b->o);
    SYI_TRY(syi_layer_begin(b->c, site, stats, b->w[role], &layer));
    sy_status st = SY_OK;
    snprintf(layer.note, sizeof layer.note, "%s", b->note[role]);
    if (b->o->bits == UNROUNDED) {
        st = syi_weight_new(b->c->ctx, &sy_storage_dense, layer.out, layer.in, &layer.take);
        if (st == SY_OK) st = syi_weight_slot(b->c->ctx, layer.take, 0, SY_F32, 2, (const int64_t[]){layer.out, layer.in});
        if (st == SY_OK) memcpy(layer.take->slot[0].data, layer.w, (size_t)(layer.out * layer.in) * sizeof *layer.w);
        if (st == SY_OK) return syi_layer_end(b->c, &layer);
        syi_layer_free(b->c, &layer);
        return st;
    }
    if (b->o->clip && role != SY_ROLE_Q && role != SY_ROLE_K) st = clip_weight(b, layer.w, layer.out, stats);
    if (st == SY_OK) st = syi_grid_round(sy_run_engine(b->run), &g, layer.out, layer.in, layer.w, &layer.take);
    if (st == SY_OK) return syi_layer_end(b->c, &layer);
    syi_layer_free(b->c, &layer);
    return st;
}

/* -- a block ------------------------------------------------------------------------------------------------------ */

static sy_status prepare(block *b)
{
    sy_context *ctx = b->o->ctx;
    const unsigned want = SY_STAT_XX | SY_STAT_ROWS | SY_STAT_ABS;
    for (int i = 0; i < b->c->n_pairs; i++) {
        const syi_pair *p = &b->c->pair[i];
        const int64_t n = p->site->out * p->site->in;
        if (syi_compress_index(b->c, p->site) < 0) continue;
        b->site[p->site->role] = p->site;
        b->w[p->site->role] = syi_pages(ctx, (size_t)n * sizeof(float));
        if (!b->w[p->site->role]) return SY_E_MEMORY;
        SYI_TRY(p->original->type->dense(ctx, p->original, 0, p->site->out, b->w[p->site->role]));
        for (int64_t k = 0; k < n; k++)
            if (!isfinite(b->w[p->site->role][k])) return syi_fail(ctx, SY_E_INPUT, "%s: the weight holds a number that is not finite; the checkpoint is damaged", p->site->name);
        const int group = p->site->input_group;
        if (group < 0 || group > 3) return syi_fail(ctx, SY_E_UNSUPPORTED, "quantlrm: %s has a place in the block that it does not know", p->site->name);
        if (!b->stats[group]) SYI_TRY(syi_calibration_stats(b->c, p->site, syi_site_part(b->c->model, p->site), want, 512, true, &b->stats[group]));
    }
    b->windows = syi_min(b->c->windows[SYI_CALIB], syi_max(1, b->o->search_tokens / b->c->seq));
    b->reference = syi_pages(ctx, (size_t)(b->windows * b->c->seq * b->c->hidden) * sizeof *b->reference);
    return b->reference ? SY_OK : SY_E_MEMORY;
}

static sy_status work(block *b)
{
    static const sy_role qkv[] = {SY_ROLE_Q, SY_ROLE_K, SY_ROLE_V}, gated[] = {SY_ROLE_GATE, SY_ROLE_UP};
    static const struct { sy_role role; int group; } all[] = {{SY_ROLE_Q, 0}, {SY_ROLE_K, 0}, {SY_ROLE_V, 0}, {SY_ROLE_O, 1}, {SY_ROLE_GATE, 2}, {SY_ROLE_UP, 2}, {SY_ROLE_DOWN, 3}};
    SYI_TRY(prepare(b));
    if (b->o->importance != NONE) {
        if (b->stats[0]) SYI_TRY(norm_pair(b, 0, qkv, 3, b->stats[0]));
        if (b->stats[1]) SYI_TRY(linear_pair(b, SY_ROLE_V, SY_ROLE_O, b->stats[1]));
        if (b->stats[2]) SYI_TRY(norm_pair(b, 1, gated, 2, b->stats[2]));
        if (b->stats[3]) SYI_TRY(linear_pair(b, SY_ROLE_UP, SY_ROLE_DOWN, b->stats[3]));
    }
    for (int i = 0; i < SYI_COUNT(all); i++) SYI_TRY(finish_site(b, all[i].role, b->stats[all[i].group]));
    for (int part = 0; part < b->c->model->arch->parts; part++) SYI_TRY(syi_calibration_push(b->c, b->block, part));
    return SY_OK;
}

static sy_status block_hook(void *self, sy_run *run, sy_calibration *c, int number)
{
    quantlrm *o = self;
    block b = {.o = o, .run = run, .c = c, .block = number};
    if (o->other && !o->counted) SYI_TRY(count_updates(o, c));
    const sy_status st = work(&b);
    for (int i = 0; i < SY_ROLE_COUNT; i++) syi_pages_free(o->ctx, b.w[i]);
    for (int i = 0; i < 4; i++) syi_stats_free(o->ctx, b.stats[i]);
    syi_pages_free(o->ctx, b.reference);
    return st;
}

static const sy_paper papers[] = {
    {.title = "QuantLRM: Quantization of Large Reasoning Models via Fine-Tuning Signals", .authors = "Zhang et al.", .venue = "arXiv", .id = "arXiv 2602.02581", .year = 2026},
    {.title = "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", .authors = "Lin et al.", .venue = "MLSys", .id = "arXiv 2306.00978", .year = 2024},
    {.title = NULL}
};

static const sy_preset presets[] = {
    {"awq", "activation-aware weight quantization: channels scaled by their mean activation", "importance=act"},
    {NULL, NULL, NULL}
};

const sy_method sy_method_quantlrm = {
    .abi = SY_METHOD_ABI, .name = "quantlrm", .kind = SY_COMPRESSOR,
    .title = "QuantLRM and AWQ: channels scaled by importance before rounding",
    .presets = presets, .papers = papers,
    .about = "Scales each input channel before it is rounded, by a power of its importance that a search on outputs picks, and folds the inverse into the norm or "
             "linear before it. AWQ (--importance act) takes mean activations; QuantLRM takes how fine-tuning changed the channel and so wants the checkpoint that "
             "the model was fine-tuned from. For 3 and 4 bits; keeps skills that fine-tuning brought.",
    .caps = SY_CAP_SEES_ORIGINAL,
    .options = options, .size = sizeof(quantlrm), .init = init, .free = release, .block = block_hook,
};
