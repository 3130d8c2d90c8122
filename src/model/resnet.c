/* SPDX-License-Identifier: Apache-2.0 */
/* ResNet (He and others, 2016) with torchvision's names: conv1, bn1, layerS.B.convN/bnN,
 * layerS.B.downsample.0/1, fc. config.json: {"model_type": "torchvision_resnet", "block":
 * "basic" or "bottleneck", "layers": [3, 3, 3], "widths": [16, 32, 64], "stem": "small" (3 x 3,
 * for small images: ResNet-20 is 3,3,3 of 16,32,64) or "imagenet" (7 x 7 and pooling),
 * "num_labels": 10, "image_size": 32, "num_channels": 3}. A stage after the first halves
 * the image; a block whose input has another shape has a 1 x 1 convolution beside it. */
#include "model/model.h"

#include "graph/ops.h"

enum { MAX_STAGES = 8 };

typedef struct {
    int64_t image, channels, labels;
    double eps, momentum;
    char *block, *stem;
    int64_t blocks[MAX_STAGES], width[MAX_STAGES];
    int n;
    bool deep, large;  /* bottleneck blocks; the large stem */
} resnet;

#define FIELD(f) offsetof(resnet, f)
static const sy_arch_config config[] = {
    {"image_size", "image_size", NULL, SY_OPT_INT, FIELD(image), "32"},
    {"channels", "num_channels", NULL, SY_OPT_INT, FIELD(channels), "3"},
    {"labels", "num_labels", NULL, SY_OPT_INT, FIELD(labels), NULL},
    {"eps", "batch_norm_eps", NULL, SY_OPT_FLOAT, FIELD(eps), "1e-05"},
    {"momentum", "batch_norm_momentum", NULL, SY_OPT_FLOAT, FIELD(momentum), "0.1"},
    {"block", "block", NULL, SY_OPT_STRING, FIELD(block), "basic"},
    {"stem", "stem", NULL, SY_OPT_STRING, FIELD(stem), "small"},
    {NULL, NULL, NULL, SY_OPT_INT, 0, NULL},
};

static sy_status check(sy_context *ctx, void *values, const void *config_json)
{
    resnet *c = values;
    int widths;
    if (c->image < 1 || c->image > 4096 || c->channels < 1 || c->channels > 64 || c->labels < 1 || c->labels > 1 << 20)
        return syi_fail(ctx, SY_E_INPUT, "config: image_size %lld, num_channels %lld, num_labels %lld: 1 to 4096, 1 to 64, 1 to a million were expected",
                        (long long)c->image, (long long)c->channels, (long long)c->labels);
    SYI_TRY(syi_config_list(ctx, config_json, "layers", NULL, 1000, c->blocks, MAX_STAGES, &c->n));
    SYI_TRY(syi_config_list(ctx, config_json, "widths", NULL, 1 << 16, c->width, MAX_STAGES, &widths));
    if (c->n < 1 || widths != c->n) return syi_fail(ctx, SY_E_INPUT, "config.json: layers and widths: lists of one length, a number a stage, were expected");
    c->deep = strcmp(c->block, "bottleneck") == 0;
    c->large = strcmp(c->stem, "imagenet") == 0;
    if (!c->deep && strcmp(c->block, "basic") != 0) return syi_fail(ctx, SY_E_UNSUPPORTED, "config.json: block \"%s\": basic or bottleneck was expected", c->block);
    if (!c->large && strcmp(c->stem, "small") != 0) return syi_fail(ctx, SY_E_UNSUPPORTED, "config.json: stem \"%s\": small or imagenet was expected", c->stem);
    return SY_OK;
}

/* One block: what goes in and out, and whether the short way needs a convolution. */
typedef struct { int64_t in, mid, out, stride; bool shortcut; } shape;

static shape shape_of(const resnet *c, int stage, int64_t b)
{
    const int64_t grow = c->deep ? 4 : 1;
    shape s = {.mid = c->width[stage], .out = c->width[stage] * grow, .stride = stage > 0 && b == 0 ? 2 : 1};
    s.in = b > 0 ? s.out : stage > 0 ? c->width[stage - 1] * grow : c->width[0];
    s.shortcut = s.stride != 1 || s.in != s.out;
    return s;
}

static sy_status expand(sy_context *ctx, const void *values, struct syi_arena *arena, const sy_arch_tensor **tensors, const sy_arch_perm **perms)
{
    const resnet *c = values;
    syi_row_list r = {.ctx = ctx, .arena = arena};
    const char *stream = "stem"; /* the group of the residual stream */
    syi_rows_conv(&r, "conv1", c->width[0], c->channels, c->large ? 7 : 3, false, stream, NULL);
    syi_rows_batch_norm(&r, "bn1", c->width[0], stream);
    for (int s = 0; s < c->n; s++)
        for (int64_t b = 0; b < c->blocks[s]; b++) {
            const shape q = shape_of(c, s, b);
            const char *name = syi_rows_format(&r, "layer%d.%lld", s + 1, (long long)b), *from = stream;
            if (q.shortcut) stream = syi_rows_format(&r, "layer%d", s + 1);
            const int last = c->deep ? 3 : 2;
            const char *inner = from;
            for (int k = 1; k <= last; k++) {
                const char *group = k < last ? syi_rows_format(&r, "%s.inner%d", name, k) : stream;
                const int64_t out = k < last ? q.mid : q.out, kernel = c->deep && k != 2 ? 1 : 3;
                syi_rows_conv(&r, syi_rows_format(&r, "%s.conv%d", name, k), out, k == 1 ? q.in : q.mid, kernel, false, group, inner);
                syi_rows_batch_norm(&r, syi_rows_format(&r, "%s.bn%d", name, k), out, group);
                inner = group;
            }
            if (!q.shortcut) continue;
            syi_rows_conv(&r, syi_rows_format(&r, "%s.downsample.0", name), q.out, q.in, 1, false, stream, from);
            syi_rows_batch_norm(&r, syi_rows_format(&r, "%s.downsample.1", name), q.out, stream);
        }
    const shape end = shape_of(c, c->n - 1, c->blocks[c->n - 1]);
    syi_rows_linear(&r, SY_ROLE_HEAD, "fc", c->labels, end.out, true, NULL, stream, 1);
    return syi_rows_end(&r, tensors, perms);
}

typedef struct { sy_model *m; const resnet *c; int stage; int64_t b; syi_window size; } block;

static sy_node *conv_norm(sy_graph *g, const block *l, sy_node *x, syi_window *at, const char *conv, const char *norm, int64_t kernel, int64_t stride)
{
    char name[64];
    snprintf(name, sizeof name, "layer%d.%lld.%s", l->stage + 1, (long long)l->b, conv);
    x = syi_image_conv(g, l->m, name, x, at, kernel, stride, kernel / 2);
    snprintf(name, sizeof name, "layer%d.%lld.%s", l->stage + 1, (long long)l->b, norm);
    return syi_image_norm(g, l->m, name, x, l->c->eps, l->c->momentum);
}

static sy_node *residual(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    (void)n;
    const block *l = self;
    const shape q = shape_of(l->c, l->stage, l->b);
    syi_window at = l->size, side = l->size;
    sy_node *x = in[0], *y = x;
    if (l->c->deep) { /* torchvision strides in the middle */
        y = syi_op_activate(g, SYI_ACT_RELU, conv_norm(g, l, y, &at, "conv1", "bn1", 1, 1));
        y = syi_op_activate(g, SYI_ACT_RELU, conv_norm(g, l, y, &at, "conv2", "bn2", 3, q.stride));
        y = conv_norm(g, l, y, &at, "conv3", "bn3", 1, 1);
    } else {
        y = syi_op_activate(g, SYI_ACT_RELU, conv_norm(g, l, y, &at, "conv1", "bn1", 3, q.stride));
        y = conv_norm(g, l, y, &at, "conv2", "bn2", 3, 1);
    }
    if (q.shortcut) x = conv_norm(g, l, x, &side, "downsample.0", "downsample.1", 1, q.stride);
    return syi_op_activate(g, SYI_ACT_RELU, syi_op_add(g, y, x));
}

static sy_node *build(sy_graph *g, sy_model *m, const sy_batch *batch)
{
    const resnet *c = m->config;
    syi_window size;
    sy_node *x = syi_image_input(g, batch, c->image, c->image, c->channels, &size);
    x = syi_image_conv(g, m, "conv1", x, &size, c->large ? 7 : 3, c->large ? 2 : 1, c->large ? 3 : 1);
    x = syi_op_activate(g, SYI_ACT_RELU, syi_image_norm(g, m, "bn1", x, c->eps, c->momentum));
    if (c->large) x = syi_image_pool(g, x, &size, 3, 2, 1, true);
    for (int s = 0; s < c->n; s++)
        for (int64_t b = 0; b < c->blocks[s]; b++) {
            const shape q = shape_of(c, s, b);
            block l = {m, c, s, b, size};
            sy_node *y = sy_block(g, residual, &l, sizeof l, &x, 1, SY_BLOCK_SCOPE);
            sy_done(g, x);
            x = y;
            size.channels = q.out;
            size.height = (size.height - 1) / q.stride + 1;
            size.width = (size.width - 1) / q.stride + 1;
        }
    return syi_image_pool(g, x, &size, size.height, size.height, 0, false);
}

static const sy_arch_tensor none[] = {{NULL, NULL, NULL, SY_ROLE_NONE, 0, NULL}};
static const char *const model_types[] = {"torchvision_resnet", NULL};
static const char *const architectures[] = {"ResNet", NULL};
static const char *const gguf_archs[] = {NULL};

const sy_arch sy_arch_resnet = {
    .name = "resnet", .model_types = model_types, .architectures = architectures, .gguf_archs = gguf_archs, .config = config,
    .config_size = sizeof(resnet), .tensors = none, .input = SY_INPUT_IMAGES, .head = SY_HEAD_CLASS, .expand = expand, .check = check, .build = build,
};
