/* SPDX-License-Identifier: Apache-2.0 */
/* RandLoRA: a full-rank update as a sum of frozen random low-rank matrices, of which only
 * diagonal scalings are trained. With m = min(in,out), M = max(in,out), n = ceil(m/r):
 *
 *   U[k n + b, j] = lambda[k,b] A[k,j] gamma[b,j]   [n r, m],     B^ = B[:M, :n, :] as [M, n r]
 *   in <= out:  W' = W + s B^ U            in > out:  W' = W + s U^T B^^T
 *
 * A [r,1,m] and B [M,n,r] are shared by all layers (each takes the slice it needs) and drawn as
 * PEFT draws them, so folders without them work too. The order of U's rows and B^'s columns is
 * PEFT's. Two ways to the same numbers: in factors (two products a token), or by way of the
 * effective weight, which costs the same for any number of tokens and is what long batches
 * take. */
#include "adapter/lora.h"
#include "graph/op_row.h"
#include "tensor/convert.h"

#include <jansson.h>
#include <math.h>

enum { RULE_PEFT, RULE_PAPER };
enum { UNIFORM, NORMAL };
enum { PATH_AUTO, PATH_FACTORS, PATH_WEIGHT };
static const char *const rules[] = { "peft", "paper", NULL }, *const draws[] = { "uniform", "normal", NULL }, *const paths[] = { "auto", "factors", "weight", NULL };

typedef struct {
    sy_adapter_common common;
    int64_t rank, key;
    double alpha, dropout;
    int rule, dist, path;
    bool sparse, very_sparse, save_projection, save_copies, init_weights, use_dora;
    sy_context *ctx;
    syi_slice *slices;
    int64_t in, out;   /* maxima over sites */
    bool drawn;
} randlora;

enum { ROW_L, ROW_G, ROW_M, ROW_A, ROW_B, ROW_A_COPIED, ROW_B_COPIED, ROW_A_MADE, ROW_B_MADE };

static const sy_option options[] = {
    SY_ADAPTER_ROWS(randlora),
    { .name = "rank", .type = SY_OPT_INT, .offset = offsetof(randlora, rank), .def = "32", .min = 1, .max = 65536, .peft = "r", .alias = "r",
      .help = "rank of a random matrix: a SMALLER one trains more numbers, about m*m/rank a layer, m the lesser side", .example = "16" },
    { .name = "alpha", .type = SY_OPT_FLOAT, .offset = offsetof(randlora, alpha), .def = "640", .min = 0, .max = 1e9, .flags = SY_OPT_MIN_OPEN,
      .peft = "randlora_alpha", .alias = "randlora_alpha", .help = "scale of the update: alpha/rank", .example = "320" },
    { .name = "scale-rule", .type = SY_OPT_ENUM, .offset = offsetof(randlora, rule), .def = "peft", .choices = rules, .flags = SY_OPT_ADVANCED, .peft = "scale_rule",
      .help = "peft: alpha/rank; paper: that divided by the root of the number of matrices (alpha is then 2*rank)", .example = "paper" },
    { .name = "dropout", .type = SY_OPT_FLOAT, .offset = offsetof(randlora, dropout), .def = "0", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN,
      .peft = "randlora_dropout", .alias = "randlora_dropout", .help = "dropout on the update's input (slower: only in factors)", .example = "0.05" },
    { .name = "sparse", .type = SY_OPT_BOOL, .offset = offsetof(randlora, sparse), .def = "off", .peft = "sparse",
      .help = "ternary matrices, two thirds zeros", .example = "on" },
    { .name = "very-sparse", .type = SY_OPT_BOOL, .offset = offsetof(randlora, very_sparse), .def = "off", .peft = "very_sparse",
      .help = "ternary matrices, all but 1/sqrt(m) zeros (wins over sparse)", .example = "on" },
    { .name = "dist", .type = SY_OPT_ENUM, .offset = offsetof(randlora, dist), .def = "uniform", .choices = draws, .flags = SY_OPT_ADVANCED,
      .help = "what dense matrices are drawn from", .example = "normal" },
    { .name = "projection-prng-key", .type = SY_OPT_INT, .offset = offsetof(randlora, key), .def = "0", .min = 0, .max = 9007199254740992.0, .peft = "projection_prng_key",
      .help = "seed of the random matrices", .example = "7" },
    { .name = "save-projection", .type = SY_OPT_BOOL, .offset = offsetof(randlora, save_projection), .def = "on", .peft = "save_projection",
      .help = "store the random matrices with the adapter", .example = "off" },
    { .name = "save-copies", .type = SY_OPT_BOOL, .offset = offsetof(randlora, save_copies), .def = "off", .flags = SY_OPT_ADVANCED,
      .help = "store them again under every module, as PEFT does and looks for (it says otherwise that they are missing)", .example = "on" },
    { .name = "use-dora", .type = SY_OPT_BOOL, .offset = offsetof(randlora, use_dora), .def = "off", .flags = SY_OPT_ADVANCED, .peft = "use_dora",
      .help = "RandDoRA: train the length of each output row apart from its direction (PEFT does not know it)", .example = "on" },
    { .name = "init-weights", .type = SY_OPT_BOOL, .offset = offsetof(randlora, init_weights), .def = "on", .flags = SY_OPT_ADVANCED, .peft = "init_weights",
      .help = "off: lambda starts at N(0,1), for debugging", .example = "off" },
    { .name = "path", .type = SY_OPT_ENUM, .offset = offsetof(randlora, path), .def = "auto", .choices = paths, .flags = SY_OPT_ADVANCED,
      .help = "how the update is computed: auto takes the effective weight for batches of more than m/2 tokens", .example = "factors" },
    { .name = NULL }
};

#define SHARED (SY_SLOT_FROZEN | SY_SLOT_SHARE_ALL)
static const sy_slot slots[] = {
    [ROW_L] = { .name = ".randlora_lambda", .shape = "rank,bases", .flags = SY_SLOT_TRAIN, .fill = SY_FILL_ZERO, .group = "randlora" },
    [ROW_G] = { .name = ".randlora_gamma", .shape = "bases,small", .flags = SY_SLOT_TRAIN, .fill = SY_FILL_OWN, .group = "randlora" },
    [ROW_M] = { .name = ".randlora_magnitude", .shape = "out", .when = "use-dora", .flags = SY_SLOT_TRAIN | SY_SLOT_NO_DECAY, .fill = SY_FILL_OWN, .group = "randlora" },
    [ROW_A] = { .name = "base_model.randlora_A", .shape = "rank,1,small", .when = "save-projection !save-copies", .flags = SHARED, .fill = SY_FILL_OWN },
    [ROW_B] = { .name = "base_model.randlora_B", .shape = "large,bases,rank", .when = "save-projection !save-copies", .flags = SHARED, .fill = SY_FILL_OWN },
    [ROW_A_COPIED] = { .name = "base_model.randlora_A", .shape = "rank,1,small", .when = "save-projection save-copies", .flags = SHARED | SY_SLOT_REPEATED, .fill = SY_FILL_OWN },
    [ROW_B_COPIED] = { .name = "base_model.randlora_B", .shape = "large,bases,rank", .when = "save-projection save-copies", .flags = SHARED | SY_SLOT_REPEATED, .fill = SY_FILL_OWN },
    [ROW_A_MADE] = { .name = "base_model.randlora_A", .shape = "rank,1,small", .when = "!save-projection", .flags = SHARED | SY_SLOT_NOT_SAVED, .fill = SY_FILL_OWN },
    [ROW_B_MADE] = { .name = "base_model.randlora_B", .shape = "large,bases,rank", .when = "!save-projection", .flags = SHARED | SY_SLOT_NOT_SAVED, .fill = SY_FILL_OWN },
    { .name = NULL }
};

static sy_param *shared(const sy_wrap *at, bool b)
{
    for (int row = ROW_A + b; row <= ROW_B_MADE; row += 2)
        if (at->slot[row]) return at->slot[row];
    return NULL;
}

/* -- before the tensors -------------------------------------------------------------------- */

static sy_status check(void *self, sy_run *run, sy_site *s)
{
    randlora *q = self;
    SYI_TRY(syi_linear_only(q->ctx, "randlora", s));
    const int64_t m = syi_min(s->in, s->out);
    if (q->rank > m)
        return syi_fail(q->ctx, SY_E_USAGE, "randlora: rank %lld is above the lesser side of %s (%lld x %lld)", (long long)q->rank, s->name, (long long)s->out, (long long)s->in);
    q->in = syi_max(q->in, s->in);
    q->out = syi_max(q->out, s->out);
    return sy_site_dim(run, s, "bases", syi_ceil_div(m, q->rank));
}

static sy_status init(void *self, sy_run *run)
{
    randlora *q = self;
    q->ctx = sy_run_context(run);
    if (q->dist == NORMAL && !q->save_projection)
        return syi_fail(q->ctx, SY_E_USAGE, "randlora: dist normal needs save-projection on: nobody else could draw these matrices again");
    if (q->use_dora && q->dropout > 0)
        return syi_fail(q->ctx, SY_E_UNSUPPORTED, "randlora: use-dora works on the effective weight, which dropout on the branch's input does not have; leave one out");
    SYI_TRY(syi_each_site(run, check, q));
    return sy_site_dim(run, NULL, "bases", syi_ceil_div(syi_min(q->in, q->out), q->rank));
}

/* -- the random matrices --------------------------------------------------------------------- */

static float to_bf16(float v)
{
    uint16_t h;
    syi_from_f32(SY_BF16, &v, &h, 1);
    syi_to_f32(SY_BF16, &h, &v, 1);
    return v;
}

/* Unbiased standard deviation of all numbers. */
static double deviation(const float *v, int64_t n)
{
    double sum = 0, square = 0;
    for (int64_t i = 0; i < n; i++) sum += v[i];
    sum /= (double)n;
    for (int64_t i = 0; i < n; i++) square += (v[i] - sum) * (v[i] - sum);
    return n > 1 ? sqrt(square / (double)(n - 1)) : 1;
}

/* U(-b, b) as torch fills a bf16 tensor: f32 numbers, rounded; what rounds to b becomes -b. */
static void uniform_bf16(syi_torch_rng *rng, int64_t fan_in, int64_t n, float *v)
{
    const double bound = sqrt(3.0) * (sqrt(2.0 / 6.0) / sqrt((double)fan_in));
    const float top = to_bf16((float)bound);
    syi_torch_uniform(rng, (float)bound, n, v);
    for (int64_t i = 0; i < n; i++) {
        v[i] = to_bf16(v[i]);
        if (v[i] == top) v[i] = -top;
    }
}

/* u in [0,1) as torch draws it -> -1, 0, 1. */
static void ternary(syi_torch_rng *rng, double s, int64_t n, float *v)
{
    const float low = (float)(1 / (2 * s)), high = (float)(1 - 1 / (2 * s));
    syi_torch_uniform(rng, 0.5f, n, v);
    for (int64_t i = 0; i < n; i++) {
        const float u = v[i] + 0.5f; /* exact: v is a multiple of 2^-24 */
        v[i] = u < low ? -1 : u > high ? 1 : 0;
    }
}

/* Unit variance over the whole tensor, in the type that PEFT keeps it in. */
static void normalise(float *v, int64_t n, bool bf16)
{
    float std = (float)deviation(v, n);
    if (std == 0) return; /* all of a tiny ternary tensor is 0 */
    if (bf16) std = to_bf16(std);
    for (int64_t i = 0; i < n; i++) v[i] = bf16 ? to_bf16(v[i] / std) : v[i] / std;
}

static sy_status draw(randlora *q, sy_param *a, sy_param *b)
{
    const int64_t r = q->rank, m = a->value.dim[2], big = b->value.dim[0], n = b->value.dim[1], na = r * m, nb = big * n * r;
    const bool few = q->sparse || q->very_sparse;
    float *v = syi_alloc(q->ctx, (size_t)(na + nb) * sizeof *v), *part = syi_alloc(q->ctx, (size_t)(big * r) * sizeof *part);
    syi_torch_rng *rng = syi_alloc(q->ctx, sizeof *rng);
    sy_status st = v && part && rng ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK) {
        syi_torch_seed(rng, (uint64_t)q->key);
        if (few) {
            ternary(rng, q->very_sparse ? sqrt((double)m) : 3, na, v);
            ternary(rng, q->very_sparse ? sqrt((double)m) : 3, nb, v + na);
        } else if (q->dist == NORMAL) {
            syi_normal(syi_key((uint64_t)q->key, "randlora", "A", 0), 0, na, v);
            syi_normal(syi_key((uint64_t)q->key, "randlora", "B", 0), 0, nb, v + na);
        } else {
            uniform_bf16(rng, m, na, v);
            for (int64_t k = 0; k < n; k++) { /* matrix after matrix */
                uniform_bf16(rng, r, big * r, part);
                for (int64_t i = 0; i < big; i++) memcpy(v + na + (i * n + k) * r, part + i * r, (size_t)r * sizeof *v);
            }
        }
        normalise(v, na, !few);
        normalise(v + na, nb, !few);
        syi_param_put(a, 0, na, v);
        syi_param_put(b, 0, nb, v + na);
    }
    syi_free(q->ctx, v);
    syi_free(q->ctx, part);
    syi_free(q->ctx, rng);
    return st;
}

static sy_status attach(void *self, sy_run *run, sy_wrap *at)
{
    randlora *q = self;
    const bool loading = sy_run_adapter_config(run) != NULL;
    if (!q->drawn && (!loading || !q->save_projection)) SYI_TRY(draw(q, shared(at, false), shared(at, true)));
    q->drawn = true;
    if (loading) return SY_OK;
    const int64_t n = at->slot[ROW_G]->value.dim[0], m = at->slot[ROW_G]->value.dim[1];
    syi_param_fill(at->slot[ROW_G], q->init_weights ? 1.0 / (double)syi_max(n, m) : 1.0 / (double)syi_max(at->site->in, at->site->out));
    if (!q->init_weights) syi_param_normal(at->slot[ROW_L], sy_run_key(run, "randlora_lambda", at->site->name), 1);
    if (!q->use_dora) return SY_OK;
    const int64_t out = at->site->out;
    double *norms = syi_alloc(q->ctx, (size_t)out * sizeof *norms);
    sy_status st = norms ? syi_row_norms(q->ctx, at->site->weight, norms) : SY_E_MEMORY;
    for (int64_t o = 0; o < out && st == SY_OK; o++) {
        const float v = (float)sqrt(norms[o]); /* of W: the update is zero (init-weights off: near enough) */
        syi_param_put(at->slot[ROW_M], o, 1, &v);
    }
    syi_free(q->ctx, norms);
    return st;
}

/* -- U ----------------------------------------------------------------------------------------- */

/* Columns [first, first + cols) of U from A[r,m], lambda[r,n], gamma[n,m]. */
typedef struct { int64_t first, cols; } scaled_attr;

static sy_status scaled_shape(sy_op_call *c, int *n_aux)
{
    const scaled_attr *at = c->attr;
    const sy_tensor *a = c->in[0], *l = c->in[1], *y = c->in[2];
    (void)n_aux;
    if (a->rank != 2 || l->rank != 2 || y->rank != 2 || l->dim[0] != a->dim[0] || y->dim[0] != l->dim[1] || y->dim[1] != a->dim[1] || at->first + at->cols > a->dim[1])
        return syi_shape_wrong(c, "randlora_scaled", 1, "lambda[r, n] beside A[r, m] and gamma[n, m]");
    syi_shape_2(c->out, sy_graph_dtype(c->graph), l->dim[0] * l->dim[1], at->cols);
    return SY_OK;
}

/* A, lambda and gamma as f32 (or f64). */
static int64_t scaled_scratch(const sy_op_call *c, bool backward)
{
    const scaled_attr *at = c->attr;
    const int64_t z = c->out->dtype == SY_F64 ? 8 : 4, r = c->in[1]->dim[0], n = c->in[1]->dim[1];
    return (r * at->cols + n * at->cols + r * n + (backward ? 2 * n * at->cols + r * n : n * at->cols) + 64) * z;
}

/* A column range of t[rows, m] as wide numbers. */
static sy_status widen(const sy_op_call *c, const sy_tensor *t, int64_t first, int64_t cols, sy_dtype wt, char *dst)
{
    const int64_t z = syi_dtype_size(t->dtype), zw = syi_dtype_size(wt), rows = t->dim[0], m = t->dim[1];
    if (cols == m) return syi_cast(c->engine, t->dtype, t->data, wt, dst, rows * m);
    for (int64_t i = 0; i < rows; i++) SYI_TRY(syi_cast(c->engine, t->dtype, (const char *)t->data + (i * m + first) * z, wt, dst + i * cols * zw, cols));
    return SY_OK;
}

#define SCALED_LOOPS(T, name)                                                                                                              \
    static void rows_##name(int threads, int64_t r, int64_t n, int64_t cols, const T *a, const T *l, const T *y, T *work, T *out,           \
                            uint16_t *narrow)                                                                                              \
    {                                                                                                                                      \
        _Pragma("omp parallel for num_threads(threads) schedule(static)")                                                                  \
        for (int64_t b = 0; b < n; b++)                                                                                                    \
            for (int64_t k = 0; k < r; k++) {                                                                                              \
                const T f = l[k * n + b];                                                                                                  \
                T *to = out ? out + (k * n + b) * cols : work + b * cols;                                                                  \
                for (int64_t j = 0; j < cols; j++) to[j] = f * a[k * cols + j] * y[b * cols + j];                                          \
                if (narrow) syi_from_f32(SY_BF16, (const float *)(const void *)to, narrow + (k * n + b) * cols, cols);                     \
            }                                                                                                                              \
    }                                                                                                                                      \
    /* dl[k,b] = sum_j dU A gamma; dy[b,j] = sum_k dU A lambda */                                                                          \
    static void back_##name(int threads, int64_t r, int64_t n, int64_t cols, const T *a, const T *l, const T *y, const void *du, bool bf16, \
                            T *work, T *dl, T *dy)                                                                                         \
    {                                                                                                                                      \
        _Pragma("omp parallel for num_threads(threads) schedule(static)")                                                                  \
        for (int64_t b = 0; b < n; b++) {                                                                                                  \
            T *row = dy + b * cols, *wide = work + b * cols;                                                                               \
            memset(row, 0, (size_t)cols * sizeof *row);                                                                                    \
            for (int64_t k = 0; k < r; k++) {                                                                                              \
                const T *g = (const T *)du + (k * n + b) * cols, f = l[k * n + b], *ak = a + k * cols, *yb = y + b * cols;                  \
                if (bf16) {                                                                                                                \
                    syi_to_f32(SY_BF16, (const uint16_t *)du + (k * n + b) * cols, (float *)(void *)wide, cols);                           \
                    g = wide;                                                                                                              \
                }                                                                                                                          \
                double sum = 0;                                                                                                            \
                for (int64_t i = 0; i < cols; i += 64) {                                                                                   \
                    const int64_t end = i + 64 < cols ? i + 64 : cols;                                                                     \
                    T lane[8] = { 0 }, rest = 0;                                                                                           \
                    int64_t j = i;                                                                                                         \
                    for (; j + 8 <= end; j += 8)                                                                                           \
                        for (int s = 0; s < 8; s++) {                                                                                      \
                            const T ga = g[j + s] * ak[j + s];                                                                             \
                            row[j + s] += f * ga;                                                                                          \
                            lane[s] += ga * yb[j + s];                                                                                     \
                        }                                                                                                                  \
                    for (; j < end; j++) {                                                                                                 \
                        const T ga = g[j] * ak[j];                                                                                         \
                        row[j] += f * ga;                                                                                                  \
                        rest += ga * yb[j];                                                                                                \
                    }                                                                                                                      \
                    sum += (double)(((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7])) + rest);      \
                }                                                                                                                          \
                dl[k * n + b] = (T)sum;                                                                                                    \
            }                                                                                                                              \
        }                                                                                                                                  \
    }
SCALED_LOOPS(float, f32)
SCALED_LOOPS(double, f64)

static sy_status scaled_inputs(const sy_op_call *c, void **a, void **l, void **y, void **more)
{
    const scaled_attr *at = c->attr;
    const bool f64 = c->out->dtype == SY_F64;
    const sy_dtype wt = f64 ? SY_F64 : SY_F32;
    const int64_t z = f64 ? 8 : 4, r = c->in[1]->dim[0], n = c->in[1]->dim[1];
    char *s = sy_scratch(c);
    *a = s;
    *l = s + r * at->cols * z;
    *y = (char *)*l + r * n * z;
    *more = (char *)*y + n * at->cols * z;
    SYI_TRY(widen(c, c->in[0], at->first, at->cols, wt, *a));
    SYI_TRY(widen(c, c->in[1], 0, n, wt, *l));
    return widen(c, c->in[2], at->first, at->cols, wt, *y);
}

static sy_status scaled_forward(sy_op_call *c)
{
    const scaled_attr *at = c->attr;
    const int64_t r = c->in[1]->dim[0], n = c->in[1]->dim[1];
    void *a, *l, *y, *work;
    const int threads = r * n * at->cols > 1 << 14 ? syi_omp(c->ctx) : 1;
    SYI_TRY(scaled_inputs(c, &a, &l, &y, &work));
    if (c->out->dtype == SY_F64) rows_f64(threads, r, n, at->cols, a, l, y, work, c->out->data, NULL);
    else if (c->out->dtype == SY_F32) rows_f32(threads, r, n, at->cols, a, l, y, work, c->out->data, NULL);
    else rows_f32(threads, r, n, at->cols, a, l, y, work, NULL, c->out->data);
    return SY_OK;
}

static sy_status scaled_backward(sy_op_call *c)
{
    const scaled_attr *at = c->attr;
    const int64_t r = c->in[1]->dim[0], n = c->in[1]->dim[1], m = c->in[2]->dim[1], cols = at->cols;
    const bool f64 = c->out->dtype == SY_F64;
    const sy_dtype wt = f64 ? SY_F64 : SY_F32;
    const int64_t z = f64 ? 8 : 4;
    void *a, *l, *y, *work;
    const int threads = r * n * cols > 1 << 14 ? syi_omp(c->ctx) : 1;
    SYI_TRY(scaled_inputs(c, &a, &l, &y, &work));
    char *dy = (char *)work + n * cols * z, *dl = dy + n * cols * z;
    if (f64) back_f64(threads, r, n, cols, a, l, y, c->dout->data, false, work, (double *)(void *)dl, (double *)(void *)dy);
    else back_f32(threads, r, n, cols, a, l, y, c->dout->data, c->dout->dtype == SY_BF16, work, (float *)(void *)dl, (float *)(void *)dy);
    if (c->want[1]) {
        syi_zero_unless_add(c, 1);
        SYI_TRY(syi_accumulate(c->engine, wt, dl, c->din[1]->dtype, c->din[1]->data, r * n));
    }
    if (c->want[2]) {
        const int64_t zd = syi_dtype_size(c->din[2]->dtype);
        syi_zero_unless_add(c, 2);
        SYI_TRY(syi_copy_rows(c->engine, wt, dy, cols, true, c->din[2]->dtype, (char *)c->din[2]->data + at->first * zd, m, n, cols));
    }
    return SY_OK;
}

static bool scaled_test(int i, sy_op_case *t)
{
    static const scaled_attr attr[] = { { 0, 11 }, { 2, 5 } };
    if (i > 1) return false;
    *t = (sy_op_case){ .what = i ? "some columns" : "all columns", .n_in = 3, .attr = &attr[i], .attr_size = sizeof *attr };
    syi_case_in(t, 0, 2, (const int64_t[]){ 3, 11 }, false);
    syi_case_in(t, 1, 2, (const int64_t[]){ 3, 4 }, true);
    syi_case_in(t, 2, 2, (const int64_t[]){ 4, 11 }, true);
    return true;
}

static const sy_op scaled_row = {
    .name = "randlora_scaled", .min_in = 3, .max_in = 3, .shape = scaled_shape, .forward = scaled_forward, .backward = scaled_backward,
    .scratch = scaled_scratch, .test = scaled_test,
};

/* -- rows of a given length (RandDoRA) ----------------------------------------------------------- */

/* out = diag(m[first..] / n) w, n the lengths of w's rows, constant in backward. */
typedef struct { int64_t first; } length_attr;

static sy_status length_shape(sy_op_call *c, int *n_aux)
{
    const length_attr *at = c->attr;
    const sy_tensor *w = c->in[0];
    if (w->rank != 2 || c->in[1]->rank != 1 || at->first + w->dim[0] > c->in[1]->dim[0]) return syi_shape_wrong(c, "row_lengths", 1, "a length for every row of input 0");
    syi_shape_like(c->out, w);
    syi_shape_1(c->aux[0], syi_sum_type(w->dtype), w->dim[0]);
    *n_aux = 1;
    return SY_OK;
}

static double number(const sy_tensor *t, int64_t i)
{
    if (t->dtype == SY_F64) return ((const double *)t->data)[i];
    float v;
    syi_to_f32(t->dtype, (const char *)t->data + i * syi_dtype_size(t->dtype), &v, 1);
    return v;
}

static sy_status length_forward(sy_op_call *c)
{
    const length_attr *at = c->attr;
    const sy_tensor *w = c->in[0];
    const int64_t rows = w->dim[0], cols = w->dim[1], z = syi_dtype_size(w->dtype);
    for (int64_t i = 0; i < rows; i++) {
        bool ok = true;
        const char *from = (const char *)w->data + i * cols * z;
        const double n = sqrt(syi_sumsq(c->engine, w->dtype, from, cols, &ok)), f = n > 0 ? number(c->in[1], at->first + i) / n : 0;
        if (c->aux[0]->dtype == SY_F64) ((double *)c->aux[0]->data)[i] = n;
        else ((float *)c->aux[0]->data)[i] = (float)n;
        SYI_TRY(syi_axpy(c->engine, w->dtype, f, from, false, (char *)c->out->data + i * cols * z, cols));
    }
    return SY_OK;
}

static sy_status length_backward(sy_op_call *c)
{
    const length_attr *at = c->attr;
    const sy_tensor *w = c->in[0];
    const int64_t rows = w->dim[0], cols = w->dim[1], z = syi_dtype_size(w->dtype);
    const sy_dtype dt = c->dout->dtype;
    if (c->want[0]) syi_zero_unless_add(c, 0);
    if (c->want[1]) syi_zero_unless_add(c, 1);
    float wide[512];
    for (int64_t i = 0; i < rows; i++) {
        const double n = number(c->aux[0], i), f = n > 0 ? number(c->in[1], at->first + i) / n : 0;
        const char *g = (const char *)c->dout->data + i * cols * z;
        double sum = 0;
        for (int64_t j = 0; j < cols && c->want[1]; j++) sum += number(c->dout, i * cols + j) * number(w, i * cols + j);
        if (c->want[1]) {
            const double v = n > 0 ? sum / n : 0;
            if (c->din[1]->dtype == SY_F64) ((double *)c->din[1]->data)[at->first + i] += v;
            else ((float *)c->din[1]->data)[at->first + i] += (float)v;
        }
        if (!c->want[0]) continue;
        char *to = (char *)c->din[0]->data + i * cols * syi_dtype_size(c->din[0]->dtype);
        if (c->din[0]->dtype == dt) {
            SYI_TRY(syi_axpy(c->engine, dt, f, g, true, to, cols));
            continue;
        }
        for (int64_t j = 0; j < cols; j += SYI_COUNT(wide)) { /* bf16 into f32 */
            const int64_t k = syi_min(SYI_COUNT(wide), cols - j);
            syi_to_f32(dt, g + j * z, wide, k);
            SYI_TRY(syi_axpy(c->engine, SY_F32, f, wide, true, to + j * (int64_t)sizeof(float), k));
        }
    }
    return SY_OK;
}

/* The lengths are constants in backward, so differences see another function than this one's
 * gradient for w: only m's is tested here; w's is the product with m/n, tested through the
 * method. */
static bool length_test(int i, sy_op_case *t)
{
    static const length_attr attr = { 2 };
    if (i > 0) return false;
    *t = (sy_op_case){ .what = "some rows", .n_in = 2, .attr = &attr, .attr_size = sizeof attr };
    syi_case_in(t, 0, 2, (const int64_t[]){ 4, 9 }, false);
    t->in[1].dtype = CASE_VEC;
    t->in[1].rank = 1;
    t->in[1].dim[0] = 7;
    t->in[1].grad = true;
    return true;
}

static const sy_op length_row = {
    .name = "row_lengths", .min_in = 2, .max_in = 2, .shape = length_shape, .forward = length_forward, .backward = length_backward, .test = length_test,
};

static const sy_op *const ops[] = { &scaled_row, &length_row, NULL };

/* -- forward --------------------------------------------------------------------------------------- */

static double scale_of(const randlora *q, const sy_wrap *at)
{
    const double s = q->alpha / (double)q->rank;
    return q->rule == RULE_PAPER ? s / sqrt((double)at->slot[ROW_L]->value.dim[1]) : s;
}

static sy_node *scaled(randlora *q, sy_graph *g, const sy_wrap *at, int64_t first, int64_t cols)
{
    const sy_param *pa = shared(at, false);
    const int64_t m = at->slot[ROW_G]->value.dim[1];
    const scaled_attr a = { first, cols };
    sy_node *in[] = { syi_shared_slice(q->ctx, &q->slices, g, pa, q->rank, m), sy_leaf(g, at->slot[ROW_L]), sy_leaf(g, at->slot[ROW_G]) };
    return sy_call(g, &scaled_row, in, 3, &a, sizeof a);
}

static sy_node *bases(randlora *q, sy_graph *g, const sy_wrap *at)
{
    return syi_shared_slice(q->ctx, &q->slices, g, shared(at, true), syi_max(at->site->in, at->site->out), at->slot[ROW_L]->value.dim[1] * q->rank);
}

static sy_node *weight(void *self, sy_graph *g, const sy_wrap *at, sy_node *w, int64_t first)
{
    randlora *q = self;
    const int64_t in = at->site->in, out = at->site->out, rows = sy_shape(w) ? sy_shape(w)->dim[0] : 0;
    const double s = scale_of(q, at);
    sy_node *y, *b = bases(q, g, at);
    if (!rows || !b) return NULL;
    if (in <= out) {
        sy_tensor part = *sy_shape(b);
        part.dim[0] = rows;
        if (part.data) part.data = (char *)part.data + first * part.dim[1] * syi_dtype_size(part.dtype);
        y = syi_op_product_add(g, w, sy_const(g, &part), 0, scaled(q, g, at, 0, in), false, s);
    } else {
        y = syi_op_add(g, syi_op_matmul(g, scaled(q, g, at, first, rows), true, b, true, s), w);
    }
    if (!q->use_dora) return y;
    const length_attr a = { first };
    return sy_call(g, &length_row, (sy_node *[]){ y, sy_leaf(g, at->slot[ROW_M]) }, 2, &a, sizeof a);
}

enum { KEEP_NUMBERS = 1 << 22 }; /* effective weights up to this size stay for backward */

static sy_node *forward(void *self, sy_graph *g, const sy_wrap *at, sy_next next, sy_node *x)
{
    randlora *q = self;
    const int64_t in = at->site->in, out = at->site->out;
    const bool noisy = q->dropout > 0 && sy_graph_training(g);
    if (!sy_shape(x)) return NULL;
    const bool by_weight = q->use_dora || (!noisy && (q->path == PATH_WEIGHT || (q->path == PATH_AUTO && sy_tensor_rows(sy_shape(x)) > syi_min(in, out) / 2)));
    if (by_weight) return sy_tiled(g, (sy_next){ next.site, next.depth + 1 }, x, in * out <= KEEP_NUMBERS);
    sy_node *base = sy_base(g, next, x), *u = x, *b = bases(q, g, at), *scaled_a = scaled(q, g, at, 0, syi_min(in, out));
    if (noisy) u = syi_op_dropout(g, u, q->dropout, sy_graph_key(g, "randlora_dropout", at->site->name));
    if (in <= out) return syi_op_product_add(g, base, syi_op_linear(g, u, scaled_a, false), 0, b, true, scale_of(q, at));
    return syi_op_product_add(g, base, syi_op_linear(g, u, b, true), 0, scaled_a, false, scale_of(q, at));
}

/* -- out ----------------------------------------------------------------------------------------------- */

static sy_status config_out(void *self, sy_run *run, void *json)
{
    randlora *q = self;
    (void)run;
    /* Keys that only we have stay out of folders that do not need them. */
    if (q->rule == RULE_PEFT) json_object_del(json, "scale_rule");
    if (!q->use_dora) json_object_del(json, "use_dora");
    if (q->rule == RULE_PAPER || q->use_dora)
        syi_log(q->ctx, SY_LOG_WARN, "randlora: scale-rule paper and use-dora are not PEFT's; it would read this folder as another function");
    return SY_OK;
}

static void release(void *self)
{
    randlora *q = self;
    if (q->ctx) syi_slices_free(q->ctx, &q->slices);
}

static const sy_paper papers[] = {
    { .title = "RandLoRA: Full-rank parameter-efficient fine-tuning of large models", .authors = "Paul Albert, Frederic Z. Zhang, Hemanth Saratchandran, Cristian Rodriguez-Opazo, "
      "Anton van den Hengel, Ehsan Abbasnejad", .venue = "ICLR 2025", .id = "arXiv:2502.00987", .year = 2025,
      .equations = "W' = W + s sum_j B_j diag(lambda_j) A diag(gamma_j);  A, B_j random, frozen, shared" },
    { .title = NULL }
};

const sy_method sy_method_randlora = {
    .abi = SY_METHOD_ABI, .name = "randlora", .kind = SY_ADAPTER,
    .title = "RandLoRA: a full-rank update from scaled random matrices",
    .papers = papers,
    .about = "For tasks where LoRA gets no better with more rank: the update has full rank for LoRA's number of trained parameters, at the price of "
             "more computing (about a third more time). A smaller rank trains more numbers. On targets of low rank LoRA is better; with little data "
             "RandLoRA overfits earlier. The scale is large (20): start with a learning rate some times smaller than LoRA's.",
    .peft_type = "RANDLORA", .peft_lacks = "exclude_modules",
    .peft_defaults = "{\"fan_in_fan_out\":false,\"layers_pattern\":null,\"layers_to_transform\":null,\"modules_to_save\":null}",
    .caps = SY_CAP_LINEAR_IN_X,
    .options = options, .slots = slots, .size = sizeof(randlora), .ops = ops,
    .init = init, .attach = attach, .free = release, .forward = forward, .weight = weight, .config_out = config_out,
};
