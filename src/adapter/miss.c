/* SPDX-License-Identifier: Apache-2.0 */
/* MiSS, Bone and BAT: one zero-initialised matrix shared by all shards of the weight. A shard
 * is r consecutive inputs.
 *
 *   miss   y = W x + S(x) D,   S(x)[j] = sum over shards of x[k r + j],   D [r, out]
 *   mini   the same with D [r, q] repeated over the output
 *   bat    W'(p,g) = W(p,g) (I + B_p) + B_p for every r x r block of W; one B_p a block-row
 *
 * PEFT's MISS; its older BONE is the same method with other tensor names and is read too. In
 * miss and mini only S(x) [tokens, r] is kept for backward. bat makes the effective weight by
 * tiles of rows (see sy_tiled). */
#include "adapter/lora.h"
#include "graph/op_row.h"

#include <math.h>

enum mode { MODE_MISS, MODE_BAT, MODE_MINI, MODE_RANDOM };
static const char *const modes[] = { "miss=true", "bat", "mini", "random=false", NULL };

typedef struct {
    sy_adapter_common common;
    int64_t rank, mini_r;
    int mode;
    double dropout;
    sy_context *ctx;
} miss;

static const sy_option options[] = {
    SY_ADAPTER_ROWS(miss),
    { .name = "mode", .type = SY_OPT_ENUM, .offset = offsetof(miss, mode), .def = "miss", .choices = modes, .peft = "init_weights", .alias = "init_weights",
      .help = "miss; bat (changes the weight itself: better and slower); mini (few numbers); random (miss that starts at noise, for debugging)", .example = "bat" },
    { .name = "rank", .type = SY_OPT_INT, .offset = offsetof(miss, rank), .def = "64", .min = 1, .max = 65536, .peft = "r", .alias = "r",
      .help = "width of a shard; equal parameters with LoRA are at about twice LoRA's rank", .example = "16" },
    { .name = "mini-r", .type = SY_OPT_INT, .offset = offsetof(miss, mini_r), .def = "1", .min = 1, .max = 1 << 24, .peft = "mini_r",
      .help = "mode mini: columns of the matrix, repeated over the output; divides it", .example = "8" },
    { .name = "dropout", .type = SY_OPT_FLOAT, .offset = offsetof(miss, dropout), .def = "0", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN,
      .peft = "miss_dropout", .alias = "miss_dropout", .help = "dropout on the update's input (miss and mini)", .example = "0.05" },
    { .name = NULL }
};

enum { ROW_MISS, ROW_RANDOM, ROW_MINI, ROW_BAT, ROWS };

static const sy_slot slots[] = {
    [ROW_MISS] = { .name = ".miss_block", .shape = "rank,out", .when = "mode=miss", .flags = SY_SLOT_TRAIN, .fill = SY_FILL_ZERO, .group = "miss", .was = ".bone_block" },
    [ROW_RANDOM] = { .name = ".miss_block", .shape = "rank,out", .when = "mode=random", .flags = SY_SLOT_TRAIN, .fill = SY_FILL_KAIMING, .group = "miss", .was = ".bone_block" },
    [ROW_MINI] = { .name = ".miss_block", .shape = "rank,mini-r", .when = "mode=mini", .flags = SY_SLOT_TRAIN, .fill = SY_FILL_ZERO, .group = "miss" },
    [ROW_BAT] = { .name = ".miss_block", .shape = "blocks,rank,rank", .when = "mode=bat", .flags = SY_SLOT_TRAIN, .fill = SY_FILL_ZERO, .group = "miss", .was = ".bone_block" },
    { .name = NULL }
};

static sy_param *block(const sy_wrap *at)
{
    for (int i = 0; i < ROWS; i++)
        if (at->slot[i]) return at->slot[i];
    return NULL;
}

static sy_status check(void *self, sy_run *run, sy_site *s)
{
    const miss *m = self;
    SYI_TRY(syi_linear_only(m->ctx, "miss", s));
    if (m->rank > s->in)
        return syi_fail(m->ctx, SY_E_USAGE, "miss: rank %lld is a shard's width and cannot be more than the %lld inputs of %s", (long long)m->rank, (long long)s->in, s->name);
    if (m->mode == MODE_BAT && (s->in % m->rank || s->out % m->rank))
        return syi_fail(m->ctx, SY_E_USAGE, "miss: mode bat cuts weights into %lld x %lld blocks; %s is %lld x %lld: choose a rank that divides both (or mode miss)",
                        (long long)m->rank, (long long)m->rank, s->name, (long long)s->out, (long long)s->in);
    if (m->mode == MODE_MINI && s->out % m->mini_r)
        return syi_fail(m->ctx, SY_E_USAGE, "miss: mini-r %lld must divide the %lld outputs of %s", (long long)m->mini_r, (long long)s->out, s->name);
    return m->mode == MODE_BAT ? sy_site_dim(run, s, "blocks", s->out / m->rank) : SY_OK;
}

static sy_status init(void *self, sy_run *run)
{
    miss *m = self;
    m->ctx = sy_run_context(run);
    SYI_TRY(syi_each_site(run, check, m));
    if (m->mode == MODE_BAT && m->dropout > 0)
        syi_log(m->ctx, SY_LOG_WARN, "miss: mode bat has no branch that dropout could act on; dropout %g is ignored, as PEFT does", m->dropout);
    return SY_OK;
}

/* -- miss, mini ------------------------------------------------------------------------- */

static sy_node *branch(void *self, sy_graph *g, const sy_wrap *at, sy_next next, sy_node *x)
{
    const miss *m = self;
    sy_node *base = sy_base(g, next, x), *u = x, *d = sy_leaf(g, block(at));
    if (m->dropout > 0 && sy_graph_training(g)) u = syi_op_dropout(g, u, m->dropout, sy_graph_key(g, "miss_dropout", at->site->name));
    sy_node *s = syi_op_shard_sum(g, u, m->rank);
    if (m->mode == MODE_MINI) return syi_op_repeat_add(g, base, syi_op_linear(g, s, d, true));
    return syi_op_product_add(g, base, s, 0, d, false, 1);
}

/* On one input: its sums over shards are made once. */
static bool forward_many(void *self, sy_graph *g, const sy_wrap *const *at, const sy_next *next, int n, sy_node *x, sy_node **out)
{
    const miss *m = self;
    if (m->mode == MODE_BAT || m->mode == MODE_MINI || (m->dropout > 0 && sy_graph_training(g))) return false;
    sy_node *s = syi_op_shard_sum(g, x, m->rank);
    for (int i = 0; i < n; i++) out[i] = syi_op_product_add(g, sy_base(g, next[i], x), s, 0, sy_leaf(g, block(at[i])), false, 1);
    sy_done(g, s);
    return true;
}

enum { KEEP_NUMBERS = 1 << 22 }; /* effective weights up to this size stay for backward */

static sy_node *forward(void *self, sy_graph *g, const sy_wrap *at, sy_next next, sy_node *x)
{
    const miss *m = self;
    if (m->mode == MODE_BAT) return sy_tiled(g, (sy_next){ next.site, next.depth + 1 }, x, at->site->in * at->site->out <= KEEP_NUMBERS);
    return branch(self, g, at, next, x);
}

/* -- bat -------------------------------------------------------------------------------- */

/* W' of the rows of some blocks. A block-row of W, r rows of G blocks of r numbers, lies in
 * memory as one matrix [r G, r], so W B_p is one product; row i of B_p is then added to every
 * block of row i. */
typedef struct { int64_t r, first; } bat_attr; /* first: block of the tile's first row */

static sy_status bat_shape(sy_op_call *c, int *n_aux)
{
    const bat_attr *a = c->attr;
    const sy_tensor *w = c->in[0], *b = c->in[1];
    (void)n_aux;
    if (w->rank != 2 || w->dim[0] % a->r || w->dim[1] % a->r) return syi_shape_wrong(c, "bat_weight", 0, "rows and columns that the block's side divides");
    if (b->rank != 3 || b->dim[1] != a->r || b->dim[2] != a->r || a->first + w->dim[0] / a->r > b->dim[0])
        return syi_shape_wrong(c, "bat_weight", 1, "[blocks, r, r] with a block for every r rows of input 0");
    syi_shape_like(c->out, w);
    return SY_OK;
}

static sy_status bat_forward(sy_op_call *c)
{
    const bat_attr *a = c->attr;
    const sy_tensor *w = c->in[0], *b = c->in[1];
    const int64_t r = a->r, in = w->dim[1], rows = r * (in / r), z = syi_dtype_size(w->dtype), zb = syi_dtype_size(b->dtype);
    SYI_TRY(syi_cast(c->engine, w->dtype, w->data, w->dtype, c->out->data, sy_tensor_count(w)));
    for (int64_t p = 0; p < w->dim[0] / r; p++) {
        const char *wp = (const char *)w->data + p * r * in * z, *bp = (const char *)b->data + (a->first + p) * r * r * zb;
        char *op = (char *)c->out->data + p * r * in * z;
        SYI_TRY(syi_gemm(c->engine, rows, r, r, 1, (syi_mat){ w->dtype, wp, r, false }, (syi_mat){ b->dtype, bp, r, false }, 1, w->dtype, op, r));
        SYI_TRY(syi_repeat_add(c->engine, b->dtype, bp, r, r, in, w->dtype, op));
    }
    return SY_OK;
}

static sy_status bat_backward(sy_op_call *c)
{
    const bat_attr *a = c->attr;
    const sy_tensor *w = c->in[0], *b = c->in[1], *dy = c->dout;
    const int64_t r = a->r, in = w->dim[1], rows = r * (in / r), z = syi_dtype_size(w->dtype), zb = syi_dtype_size(b->dtype);
    if (c->want[0]) SYI_TRY(syi_pass_grad(c, 0, 1));
    if (c->want[1]) syi_zero_unless_add(c, 1);
    for (int64_t p = 0; p < w->dim[0] / r; p++) {
        const char *wp = (const char *)w->data + p * r * in * z, *bp = (const char *)b->data + (a->first + p) * r * r * zb;
        const char *gp = (const char *)dy->data + p * r * in * z;
        const syi_mat gm = { w->dtype, gp, r, false };
        if (c->want[1]) {
            char *d = (char *)c->din[1]->data + (a->first + p) * r * r * syi_dtype_size(c->din[1]->dtype);
            SYI_TRY(syi_gemm(c->engine, r, r, rows, 1, (syi_mat){ w->dtype, wp, r, true }, gm, 1, c->din[1]->dtype, d, r));
            SYI_TRY(syi_shard_sum(c->engine, w->dtype, gp, r, in, r, true, c->din[1]->dtype, d));
        }
        if (c->want[0]) {
            char *d = (char *)c->din[0]->data + p * r * in * syi_dtype_size(c->din[0]->dtype);
            SYI_TRY(syi_gemm(c->engine, rows, r, r, 1, gm, (syi_mat){ b->dtype, bp, r, true }, 1, c->din[0]->dtype, d, r));
        }
    }
    return SY_OK;
}

static double bat_flops(const sy_op_call *c, bool backward)
{
    const double one = 2 * (double)sy_tensor_count(c->in[0]) * (double)((const bat_attr *)c->attr)->r;
    return backward ? one * (c->want[0] + c->want[1]) : one;
}

static bool bat_test(int i, sy_op_case *t)
{
    static const bat_attr attr[] = { { 3, 0 }, { 4, 1 } };
    if (i > 1) return false;
    *t = (sy_op_case){ .what = i ? "a tile in the middle" : "all blocks", .n_in = 2, .attr = &attr[i], .attr_size = sizeof *attr };
    syi_case_in(t, 0, 2, i ? (const int64_t[]){ 4, 12 } : (const int64_t[]){ 6, 9 }, true);
    syi_case_in(t, 1, 3, i ? (const int64_t[]){ 3, 4, 4 } : (const int64_t[]){ 2, 3, 3 }, true);
    return true;
}

static const sy_op bat_row = {
    .name = "bat_weight", .min_in = 2, .max_in = 2, .shape = bat_shape, .forward = bat_forward, .backward = bat_backward, .flops = bat_flops, .test = bat_test,
};

static const sy_op *const ops[] = { &bat_row, NULL };

static sy_node *weight(void *self, sy_graph *g, const sy_wrap *at, sy_node *w, int64_t first)
{
    const miss *m = self;
    if (m->mode != MODE_BAT) {
        sy_graph_fail(g, syi_fail(m->ctx, SY_E_UNSUPPORTED, "%s: only mode bat of miss has an effective weight", at->site->name));
        return NULL;
    }
    const bat_attr a = { m->rank, first / m->rank };
    return sy_call(g, &bat_row, (sy_node *[]){ w, sy_leaf(g, at->slot[ROW_BAT]) }, 2, &a, sizeof a);
}

static int64_t tile(void *self, const sy_wrap *at)
{
    const miss *m = self;
    (void)at;
    return m->mode == MODE_BAT ? m->rank : 0;
}

/* -- out -------------------------------------------------------------------------------- */

/* A = [I I ...], B = D^T, scale 1: exact. */
static sy_status to_lora(void *self, const sy_wrap *at, sy_tensor *a, sy_tensor *b, double *scale)
{
    const miss *m = self;
    const sy_param *d = block(at);
    const int64_t r = m->rank, in = at->site->in, out = at->site->out, cols = d->value.dim[1];
    a->data = b->data = NULL;
    if (m->mode == MODE_BAT)
        return syi_fail(m->ctx, SY_E_UNSUPPORTED, "%s: mode bat changes every block of the weight on its own, which has full rank and is no plain LoRA; fold it instead, "
                        "or approximate it with --to lora", at->site->name);
    *a = (sy_tensor){ .dtype = SY_F32, .rank = 2, .dim = { r, in }, .data = syi_calloc(m->ctx, (size_t)(r * in), sizeof(float)) };
    *b = (sy_tensor){ .dtype = SY_F32, .rank = 2, .dim = { out, r }, .data = syi_alloc(m->ctx, (size_t)(out * r) * sizeof(float)) };
    float *row = syi_alloc(m->ctx, (size_t)cols * sizeof *row);
    sy_status st = a->data && b->data && row ? SY_OK : SY_E_MEMORY;
    for (int64_t j = 0; j < in && st == SY_OK; j++) ((float *)a->data)[j % r * in + j] = 1;
    for (int64_t k = 0; k < r && st == SY_OK; k++) {
        syi_param_get(d, k * cols, cols, row);
        for (int64_t o = 0; o < out; o++) ((float *)b->data)[o * r + k] = row[o % cols];
    }
    syi_free(m->ctx, row);
    if (st != SY_OK) {
        syi_free(m->ctx, a->data);
        syi_free(m->ctx, b->data);
        a->data = b->data = NULL;
    }
    *scale = 1;
    return st;
}

static const sy_paper papers[] = {
    { .title = "MiSS: Revisiting the Trade-off in LoRA with an Efficient Shard-Sharing Structure (earlier: Bone, DiSHA)", .authors = "Jiale Kang, Qingyu Yin",
      .venue = "ES-FoMo III at ICML 2025", .id = "arXiv:2409.15371", .year = 2024,
      .equations = "miss: y = W x + D^T S(x), S(x)[j] = sum_k x[k r + j];  bat: W'(p,g) = W(p,g) (I + B_p) + B_p" },
    { .title = NULL }
};

static const sy_preset presets[] = {
    {"bat", "blocks that multiply the weight and add to it", "mode=bat"},
    {"mini", "one block, repeated over the outputs", "mode=mini"},
    {NULL, NULL, NULL}
};

const sy_method sy_method_miss = {
    .abi = SY_METHOD_ABI, .name = "miss", .kind = SY_ADAPTER,
    .title = "MiSS (Bone, BAT): one zero-initialised matrix shared by all shards of the weight",
    .presets = presets, .papers = papers,
    .about = "Learns faster than LoRA in the first steps for less work: one matrix of rank x out numbers a layer, and instead of a product with A "
             "the input's shards are added up. mode bat multiplies every block of the weight itself (full rank, about a quarter more time); mode "
             "mini gets by with rank x mini-r numbers. Twice LoRA's rank has about LoRA's number of parameters.",
    .peft_type = "MISS", .also = "bone BONE",
    .peft_defaults = "{\"layers_pattern\":null,\"layers_to_transform\":null,\"modules_to_save\":null,\"exclude_modules\":null}",
    .caps = SY_CAP_LINEAR_IN_X,
    .options = options, .slots = slots, .size = sizeof(miss),
    .ops = ops, .init = init, .forward = forward, .forward_many = forward_many, .weight = weight, .tile = tile, .to_lora = to_lora,
};
