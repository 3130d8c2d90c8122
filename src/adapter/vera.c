/* SPDX-License-Identifier: Apache-2.0 */
/* VeRA: y = W x + lambda_b * (B (lambda_d * (A drop(x)))). A and B are random, frozen and
 * shared by all layers (each takes the slice it needs); only the two vectors are trained.
 * The pair is drawn as PEFT draws it (PyTorch's CPU stream, A first, then B), so that
 * folders without the projections work too. */
#include "adapter/lora.h"
#include "graph/ops.h"

#include <math.h>

typedef struct {
    sy_adapter_common common;
    int64_t rank, key;
    double d_initial, dropout;
    bool save_projection;
    sy_context *ctx;
    syi_slice *slices;
    bool drawn;
} vera;

enum { ROW_B, ROW_D, ROW_PA, ROW_PB, ROW_PA_MADE, ROW_PB_MADE };

static const sy_option options[] = {
    SY_ADAPTER_ROWS(vera),
    { .name = "rank", .type = SY_OPT_INT, .offset = offsetof(vera, rank), .def = "256", .min = 1, .max = 65536, .peft = "r", .alias = "r",
      .help = "rank of the shared random pair", .example = "64" },
    { .name = "d-initial", .type = SY_OPT_FLOAT, .offset = offsetof(vera, d_initial), .def = "0.1", .min = 0, .max = 1e6, .flags = SY_OPT_MIN_OPEN,
      .peft = "d_initial", .help = "start of lambda_d", .example = "0.1" },
    { .name = "dropout", .type = SY_OPT_FLOAT, .offset = offsetof(vera, dropout), .def = "0", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN,
      .peft = "vera_dropout", .alias = "vera_dropout", .help = "dropout on the update's input", .example = "0.05" },
    { .name = "projection-prng-key", .type = SY_OPT_INT, .offset = offsetof(vera, key), .def = "0", .min = 0, .max = 9007199254740992.0, .peft = "projection_prng_key",
      .help = "seed of the random pair", .example = "7" },
    { .name = "save-projection", .type = SY_OPT_BOOL, .offset = offsetof(vera, save_projection), .def = "on", .peft = "save_projection",
      .help = "store the random pair with the adapter", .example = "off" },
    { .name = NULL }
};

static const sy_slot slots[] = {
    [ROW_B] = { .name = ".vera_lambda_b", .shape = "out", .flags = SY_SLOT_TRAIN | SY_SLOT_NO_DECAY, .fill = SY_FILL_ZERO, .group = "vera" },
    [ROW_D] = { .name = ".vera_lambda_d", .shape = "rank", .flags = SY_SLOT_TRAIN | SY_SLOT_NO_DECAY, .fill = SY_FILL_OWN, .group = "vera" },
    [ROW_PA] = { .name = "base_model.vera_A", .shape = "rank,in", .when = "save-projection", .flags = SY_SLOT_FROZEN | SY_SLOT_SHARE_ALL, .fill = SY_FILL_OWN },
    [ROW_PB] = { .name = "base_model.vera_B", .shape = "out,rank", .when = "save-projection", .flags = SY_SLOT_FROZEN | SY_SLOT_SHARE_ALL, .fill = SY_FILL_OWN },
    [ROW_PA_MADE] = { .name = "base_model.vera_A", .shape = "rank,in", .when = "!save-projection", .flags = SY_SLOT_FROZEN | SY_SLOT_SHARE_ALL | SY_SLOT_NOT_SAVED,
                      .fill = SY_FILL_OWN },
    [ROW_PB_MADE] = { .name = "base_model.vera_B", .shape = "out,rank", .when = "!save-projection", .flags = SY_SLOT_FROZEN | SY_SLOT_SHARE_ALL | SY_SLOT_NOT_SAVED,
                      .fill = SY_FILL_OWN },
    { .name = NULL }
};

static sy_param *pair(const sy_wrap *at, bool b)
{
    sy_param *saved = at->slot[b ? ROW_PB : ROW_PA];
    return saved ? saved : at->slot[b ? ROW_PB_MADE : ROW_PA_MADE];
}

static sy_status check(void *self, sy_run *run, sy_site *site)
{
    (void)run;
    return syi_linear_only(((vera *)self)->ctx, "vera", site);
}

static sy_status init(void *self, sy_run *run)
{
    ((vera *)self)->ctx = sy_run_context(run);
    return syi_each_site(run, check, self);
}

/* The shared pair, at the first site. */
static sy_status draw(vera *v, sy_param *a, sy_param *b)
{
    const int64_t na = sy_tensor_count(&a->value), nb = sy_tensor_count(&b->value);
    float *buffer = syi_alloc(v->ctx, (size_t)syi_max(na, nb) * sizeof *buffer);
    syi_torch_rng *rng = syi_alloc(v->ctx, sizeof *rng);
    if (buffer && rng) {
        syi_torch_seed(rng, (uint64_t)v->key);
        syi_torch_uniform(rng, (float)(sqrt(3.0) * (sqrt(2.0) / sqrt((double)a->value.dim[1]))), na, buffer);
        syi_param_put(a, 0, na, buffer);
        syi_torch_uniform(rng, (float)(sqrt(3.0) * (sqrt(2.0) / sqrt((double)b->value.dim[1]))), nb, buffer);
        syi_param_put(b, 0, nb, buffer);
    }
    sy_status st = buffer && rng ? SY_OK : SY_E_MEMORY;
    syi_free(v->ctx, buffer);
    syi_free(v->ctx, rng);
    return st;
}

static sy_status attach(void *self, sy_run *run, sy_wrap *at)
{
    vera *v = self;
    (void)run;
    if (!v->drawn) SYI_TRY(draw(v, pair(at, false), pair(at, true)));
    v->drawn = true;
    syi_param_fill(at->slot[ROW_D], v->d_initial);
    return SY_OK;
}

static sy_node *forward(void *self, sy_graph *g, const sy_wrap *at, sy_next next, sy_node *x)
{
    vera *v = self;
    const sy_param *pa = pair(at, false), *pb = pair(at, true);
    sy_node *a = syi_shared_slice(v->ctx, &v->slices, g, pa, pa->value.dim[0], at->site->in), *b = syi_shared_slice(v->ctx, &v->slices, g, pb, at->site->out, pb->value.dim[1]);
    sy_node *base = sy_base(g, next, x), *u = x;
    if (v->dropout > 0 && sy_graph_training(g)) u = syi_op_dropout(g, u, v->dropout, sy_graph_key(g, "vera_dropout", at->site->name));
    u = syi_op_linear(g, u, a, false);
    u = syi_op_scale_cols(g, u, sy_leaf(g, at->slot[ROW_D]));
    u = syi_op_scale_cols(g, syi_op_linear(g, u, b, false), sy_leaf(g, at->slot[ROW_B]));
    return syi_op_add(g, base, u);
}

/* A' = diag(lambda_d) A[:, :in], B' = diag(lambda_b) B[:out], scale 1: exact. */
static sy_status to_lora(void *self, const sy_wrap *at, sy_tensor *a, sy_tensor *b, double *scale)
{
    vera *v = self;
    const sy_param *pa = pair(at, false), *pb = pair(at, true);
    const int64_t r = pa->value.dim[0], in = at->site->in, out = at->site->out, width = pa->value.dim[1];
    *a = (sy_tensor){ .dtype = SY_F32, .rank = 2, .dim = { r, in }, .data = syi_alloc(v->ctx, (size_t)(r * in) * sizeof(float)) };
    *b = (sy_tensor){ .dtype = SY_F32, .rank = 2, .dim = { out, r }, .data = syi_alloc(v->ctx, (size_t)(out * r) * sizeof(float)) };
    if (!a->data || !b->data) {
        syi_free(v->ctx, a->data);
        syi_free(v->ctx, b->data);
        a->data = b->data = NULL;
        return SY_E_MEMORY;
    }
    *scale = 1;
    for (int64_t k = 0; k < r; k++) {
        float *row = (float *)a->data + k * in, d;
        syi_param_get(at->slot[ROW_D], k, 1, &d);
        syi_param_get(pa, k * width, in, row);
        for (int64_t j = 0; j < in; j++) row[j] *= d;
    }
    for (int64_t i = 0; i < out; i++) {
        float *row = (float *)b->data + i * r, d;
        syi_param_get(at->slot[ROW_B], i, 1, &d);
        syi_param_get(pb, i * r, r, row);
        for (int64_t k = 0; k < r; k++) row[k] *= d;
    }
    return SY_OK;
}

static void release(void *self)
{
    vera *v = self;
    syi_slices_free(v->ctx, &v->slices);
}

static const sy_paper papers[] = {
    { .title = "VeRA: Vector-based Random Matrix Adaptation", .authors = "Dawid J. Kopiczko, Tijmen Blankevoort, Yuki M. Asano", .venue = "ICLR 2024", .id = "arXiv:2310.11454", .year = 2023,
      .equations = "y = W x + lambda_b * (B (lambda_d * (A drop(x))));  A, B random, frozen, shared;  lambda_b = 0, lambda_d = d_initial at the start" },
    { .title = NULL }
};

const sy_method sy_method_vera = {
    .abi = SY_METHOD_ABI, .name = "vera", .kind = SY_ADAPTER,
    .title = "VeRA: two trained vectors a layer around a shared random pair",
    .papers = papers,
    .about = "The few-parameter reference: r + out trained numbers a layer, tens of times fewer than LoRA, at the price of a larger rank "
             "(256 and up) and its products. Learns slower than LoRA; wants a learning rate about ten times larger.",
    .peft_type = "VERA", .peft_lacks = "exclude_modules",
    .peft_defaults = "{\"fan_in_fan_out\":false,\"init_weights\":true,\"layers_pattern\":null,\"layers_to_transform\":null,\"modules_to_save\":null}",
    .caps = SY_CAP_LINEAR_IN_X,
    .options = options, .slots = slots, .size = sizeof(vera),
    .init = init, .attach = attach, .free = release, .forward = forward, .to_lora = to_lora,
};
