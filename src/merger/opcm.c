/* SPDX-License-Identifier: Apache-2.0 */
/* OPCM: fine-tuned models are merged one at a time, as they arrive. The state is the sum S
 * of what was taken from each so far (first one whole), with n, the mean norm of their
 * differences from the base; the merged model is base + S n / |S|. From a newcomer's
 * difference D of a weight matrix what lies along S is taken out: with S = U diag(s) V^T and
 * C = U^T D V, the diagonal and, for the leading r directions (cumulative share of s up to
 * alpha), the block i,j < r of C are removed ("inner": what the authors' code does), or
 * everything outside of i,j >= r ("outer": the formula in their paper).
 *
 * Round 0 makes S and the norms, which are the whole model's; round 1 the model. Directions
 * with singular values below 1e-6 of the first have no definite basis and are left alone. */
#include "_spectral.h"

#include <jansson.h>
#include <math.h>

typedef struct {
    double alpha, factor;
    int block, rescale, order;
    bool diag;
    char *state;
    /* the merge's own */
    double norm;             /* n before the first of these models                       */
    int64_t arrived;         /* models before them                                       */
    double scale;            /* round 1: base + scale * S                                */
    int64_t turn[SY_MERGE_INPUTS];
} opcm;

static const char *const blocks[] = { "inner", "outer", NULL }, *const rescales[] = { "mean-norm", "none", "factor", NULL }, *const orders[] = { "given", "shuffle", NULL };
enum { INNER, OUTER };

static const sy_option rows[] = {
    { .name = "alpha", .type = SY_OPT_FLOAT, .offset = offsetof(opcm, alpha), .def = "0.5", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN,
      .help = "share of the singular values whose directions are blocked", .example = "0.4" },
    { .name = "block", .type = SY_OPT_ENUM, .offset = offsetof(opcm, block), .def = "inner", .choices = blocks, .help = "inner: the authors' code; outer: their formula", .example = "outer" },
    { .name = "diag", .type = SY_OPT_BOOL, .offset = offsetof(opcm, diag), .def = "on", .help = "remove the diagonal, which makes newcomers orthogonal to the sum", .example = "off" },
    { .name = "rescale", .type = SY_OPT_ENUM, .offset = offsetof(opcm, rescale), .def = "mean-norm", .choices = rescales,
      .help = "length of the result: the mean length, that of the sum, or factor times it", .example = "none" },
    { .name = "factor", .type = SY_OPT_FLOAT, .offset = offsetof(opcm, factor), .def = "1", .help = "with rescale: factor", .example = "0.4" },
    { .name = "order", .type = SY_OPT_ENUM, .offset = offsetof(opcm, order), .def = "given", .choices = orders, .help = "in which the models arrive", .example = "shuffle" },
    { .name = "state", .type = SY_OPT_PATH, .offset = offsetof(opcm, state), .help = "folder of an earlier opcm merge that these models are added to", .example = "merged" },
    { .name = NULL }
};

static sy_status read_state(opcm *o, sy_merging *job)
{
    SYI_TRY(sy_merge_state(job, o->state));
    const char *text = sy_merge_noted(job);
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;
    const char *method = json_string_value(json_object_get(j, "method"));
    o->norm = json_number_value(json_object_get(j, "n"));
    o->arrived = json_integer_value(json_object_get(j, "t"));
    const bool fine = method && strcmp(method, "opcm") == 0 && o->arrived > 0 && o->norm > 0;
    json_decref(j);
    return fine ? SY_OK : syi_fail(sy_merging_context(job), SY_E_INPUT, "%s: merge_state.json is not that of an opcm merge", o->state);
}

static sy_status prepare(void *self, sy_merging *job)
{
    opcm *o = self;
    const int n = sy_merge_models(job);
    for (int i = 0; i < n; i++) o->turn[i] = i;
    if (o->order) syi_permutation(syi_key(sy_merging_seed(job), "opcm order", NULL, 0), n, o->turn);
    return o->state ? read_state(o, job) : SY_OK;
}

static int globals(void *self, const sy_merging *job)
{
    (void)self;
    return sy_merge_models(job) + 1;
}

static sy_status begin(void *self, sy_merge *m)
{
    (void)self;
    if (m->round == 1) return SY_OK;
    m->whole = m->linear;
    m->passes = !m->whole;
    m->sums = m->n + 1;
    return SY_OK;
}

/* What is not a weight matrix: differences add up. */
static void add_up(const opcm *o, const sy_merge *m, const sy_tile *t, float *s)
{
    for (int64_t i = 0; i < t->n; i++) s[i] = t->state ? t->state[i] : 0;
    for (int k = 0; k < m->n; k++)
        for (int64_t i = 0; i < t->n; i++) s[i] = (float)((double)s[i] + (double)t->in[o->turn[k]][i] - (double)t->base[i]);
}

static void look(void *self, const sy_merge *m, int pass, sy_tile *t)
{
    (void)pass;
    float *s = (float *)(void *)t->wide[0];
    for (int i = 0; i < m->n; i++) {
        double d[3] = { 0 };
        m->mix->dots(t->in[i], t->in[i], t->base, d, t->n);
        t->sum[i] = d[0];
    }
    add_up(self, m, t, s);
    double d[3] = { 0 };
    m->mix->dots(s, s, NULL, d, t->n);
    t->sum[m->n] = d[0];
}

static sy_status sum(void *self, sy_merge *m, int pass)
{
    (void)self, (void)pass;
    for (int i = 0; i <= m->n; i++) m->global[i] = m->total[i];
    return SY_OK;
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    const opcm *o = self;
    if (m->round == 0) {
        add_up(o, m, t, t->out);
        return;
    }
    m->mix->set(1, t->state, t->wide[0], t->n);
    m->mix->finish(o->scale, t->wide[0], t->base, t->out, t->n);
}

static double square(const double *x, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += x[i] * x[i];
    return s;
}

/* d -> what is taken of it, given the singular triplets of the sum. */
static sy_status project(const opcm *o, const sy_merge *m, const double *ut, const double *s, const double *vt, double *d)
{
    sy_context *ctx = sy_merge_context(m);
    const int64_t q = syi_min(m->rows, m->cols), a = m->rows, b = m->cols;
    double *left = syi_alloc(ctx, (size_t)(q * b + 2 * q * q) * sizeof *left), all = 0, share = 0;
    if (!left) return SY_E_MEMORY;
    double *c = left + q * b, *take = c + q * q;
    int64_t r = 0, sure = q;
    for (int64_t i = 0; i < q; i++) all += s[i];
    for (; r < q; r++) { /* the first whose cumulative share is above alpha */
        share += s[r];
        if (share > o->alpha * all) break;
    }
    while (sure > 0 && s[sure - 1] < 1e-6 * s[0]) sure--;
    r = syi_min(r, sure);
    syi_mul_f64(false, false, q, b, a, 1, ut, d, 0, left);
    syi_mul_f64(false, true, q, q, b, 1, left, vt, 0, c);
    for (int64_t i = 0; i < q; i++)
        for (int64_t j = 0; j < q; j++) {
            const bool inside = i < r && j < r;
            take[i * q + j] = inside || (o->diag && i == j && i < sure) ? c[i * q + j] : 0;
        }
    if (o->block == OUTER && r > 0) {
        /* also what has one side among the leading ones: U_r U_r^T D + D V_r V_r^T - the block twice */
        double *right = syi_alloc(ctx, (size_t)(a * r) * sizeof *right);
        if (!right) {
            syi_free(ctx, left);
            return SY_E_MEMORY;
        }
        for (int64_t i = 0; i < r; i++)
            for (int64_t j = 0; j < r; j++) take[i * q + j] = -c[i * q + j];
        syi_mul_f64(false, true, a, r, b, 1, d, vt, 0, right);
        syi_mul_f64(true, false, a, b, r, -1, ut, left, 1, d);
        syi_mul_f64(false, false, a, b, r, -1, right, vt, 1, d);
        syi_free(ctx, right);
    }
    syi_mul_f64(false, false, q, b, q, 1, take, vt, 0, left);
    syi_mul_f64(true, false, a, b, q, -1, ut, left, 1, d);
    syi_free(ctx, left);
    return SY_OK;
}

static sy_status whole(void *self, const sy_merge *m, const float *base, const float *const *in, float *out)
{
    const opcm *o = self;
    sy_context *ctx = sy_merge_context(m);
    const int64_t q = syi_min(m->rows, m->cols);
    double *d = syi_alloc(ctx, (size_t)(2 * m->count + q * (m->rows + m->cols + 1)) * sizeof *d);
    if (!d) return spectral_fail(m, SY_E_MEMORY);
    double *sum_ = d + m->count, *ut = sum_ + m->count, *vt = ut + q * m->rows, *s = vt + q * m->cols;
    sy_status st = SY_OK;
    for (int64_t i = 0; i < m->count; i++) sum_[i] = m->state ? (double)m->state[i] : 0;
    for (int k = 0; k < m->n && st == SY_OK; k++) {
        spectral_delta(m, base, in[o->turn[k]], d);
        m->global[o->turn[k]] = square(d, m->count);
        if (square(sum_, m->count) > 0) {
            st = syi_leading(ctx, m->rows, m->cols, sum_, q, ut, s, vt);
            if (st == SY_OK) st = project(o, m, ut, s, vt, d);
        }
        /* The state is f32: one merge of many is the same as many of one. */
        for (int64_t i = 0; i < m->count; i++) sum_[i] = (double)(float)(sum_[i] + d[i]);
    }
    for (int64_t i = 0; i < m->count; i++) out[i] = (float)sum_[i];
    m->global[m->n] = square(sum_, m->count);
    syi_free(ctx, d);
    return spectral_fail(m, st);
}

static sy_status between(void *self, sy_merging *job, const double *sums)
{
    opcm *o = self;
    const int n = sy_merge_models(job);
    const double length = sqrt(sums[n]);
    double norm = o->norm;
    int64_t t = o->arrived;
    for (int k = 0; k < n; k++) {
        norm = ((double)t * norm + sqrt(sums[o->turn[k]])) / (double)(t + 1);
        t++;
    }
    o->scale = length == 0 ? 0 : o->rescale == 0 ? norm / length : o->rescale == 1 ? 1 : o->factor;
    char text[400];
    snprintf(text, sizeof text, "{\"method\": \"opcm\", \"t\": %lld, \"n\": %.17g, \"lambda\": %.17g, \"alpha\": %.17g, \"block\": \"%s\"}\n", (long long)t, norm,
             norm > 0 ? length / norm : 0, o->alpha, blocks[o->block]);
    SYI_TRY(sy_merge_report(job, "lambda", norm > 0 ? length / norm : 0));
    SYI_TRY(sy_merge_report(job, "norm", norm));
    return sy_merge_note(job, text);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_REQUIRED, .min_inputs = 1, .rounds = 2, .prepare = prepare, .globals = globals, .begin = begin, .look = look, .sum = sum,
                                  .make = make, .whole = whole, .between = between };

static const sy_paper papers[] = {
    { "Merging models on the fly without retraining: a sequential approach to scalable continual model merging", "Tang et al.", "NeurIPS", "arXiv:2501.09522", 2025, "section 4, algorithm 1" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_opcm = {
    .abi = SY_METHOD_ABI, .name = "opcm", .kind = SY_MERGER, .title = "continual merging: each newcomer's update is projected away from the sum so far", .papers = papers,
    .about = "Models are merged one at a time, in the order of the recipe, and need not be kept: the result's folder holds merge_state.safetensors, and a later recipe with "
             "parameters: {state: that folder} adds further models to it. No strength to tune: the merged update gets the mean length of the single ones. "
             "A decomposition of every weight matrix for every model.",
    .options = rows, .size = sizeof(opcm), .merger = &merger,
};
