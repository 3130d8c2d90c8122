/* SPDX-License-Identifier: Apache-2.0 */
/* VGG (Simonyan and Zisserman, 2015) with torchvision's names: features.N counts
 * convolutions, norms, activations and pooling in order; classifier.0, .3, .6. config.json
 * says what torchvision's constructors do: {"model_type": "torchvision_vgg", "layers": [64,
 * "M", 128, "M", ...], "batch_norm": true, "classifier": [512, 512], "num_labels": 10,
 * "image_size": 32, "num_channels": 3, "avgpool": 1, "dropout": 0.0}. avgpool is the side
 * of the map that goes into the classifier (torchvision: 7 from 224 pixels). */
#include "model/model.h"

#include "graph/ops.h"

enum { MAX_LAYERS = 64, MAX_HIDDEN = 8 };

typedef struct {
    int64_t image, channels, labels, pooled; /* pooled: side of the last map               */
    double dropout, eps, momentum;
    bool norm;
    int64_t layer[MAX_LAYERS], hidden[MAX_HIDDEN]; /* layer 0: max pooling                  */
    int n, n_hidden;
    int64_t last, map;                       /* channels and side after the features        */
} vgg;

#define FIELD(f) offsetof(vgg, f)
static const sy_arch_config config[] = {
    {"image_size", "image_size", NULL, SY_OPT_INT, FIELD(image), "32"},
    {"channels", "num_channels", NULL, SY_OPT_INT, FIELD(channels), "3"},
    {"labels", "num_labels", NULL, SY_OPT_INT, FIELD(labels), NULL},
    {"pooled", "avgpool", NULL, SY_OPT_INT, FIELD(pooled), "0"},
    {"dropout", "dropout", NULL, SY_OPT_FLOAT, FIELD(dropout), "0.0"},
    {"eps", "batch_norm_eps", NULL, SY_OPT_FLOAT, FIELD(eps), "1e-05"},
    {"momentum", "batch_norm_momentum", NULL, SY_OPT_FLOAT, FIELD(momentum), "0.1"},
    {"norm", "batch_norm", NULL, SY_OPT_BOOL, FIELD(norm), "true"},
    {NULL, NULL, NULL, SY_OPT_INT, 0, NULL},
};

static sy_status check(sy_context *ctx, void *values, const void *config_json)
{
    vgg *c = values;
    if (c->image < 1 || c->image > 4096 || c->channels < 1 || c->channels > 64 || c->labels < 1 || c->labels > 1 << 20 || !(c->dropout >= 0 && c->dropout < 1))
        return syi_fail(ctx, SY_E_INPUT, "config: image_size %lld, num_channels %lld, num_labels %lld, dropout %g: 1 to 4096, 1 to 64, 1 to a million, 0 to below 1 were expected",
                        (long long)c->image, (long long)c->channels, (long long)c->labels, c->dropout);
    SYI_TRY(syi_config_list(ctx, config_json, "layers", "M", 1 << 16, c->layer, MAX_LAYERS, &c->n));
    SYI_TRY(syi_config_list(ctx, config_json, "classifier", NULL, 1 << 20, c->hidden, MAX_HIDDEN, &c->n_hidden));
    if (c->n < 1) return syi_fail(ctx, SY_E_INPUT, "config.json: layers is missing or empty; the vgg architecture needs it");
    if (c->n_hidden < 0) c->n_hidden = 0;
    c->map = c->image;
    for (int i = 0; i < c->n; i++) {
        if (c->layer[i]) c->last = c->layer[i];
        else c->map /= 2;
    }
    if (c->last == 0 || c->map < 1)
        return syi_fail(ctx, SY_E_INPUT, "config.json: layers: %s", c->last ? "more pooling than an image of this image_size has room for" : "there is no convolution");
    if (c->pooled == 0) c->pooled = c->map;
    if (c->pooled < 1 || c->map % c->pooled != 0)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "config.json: avgpool %lld: the last map is %lld x %lld, which is not a whole multiple; set image_size or avgpool", (long long)c->pooled,
                        (long long)c->map, (long long)c->map);
    return SY_OK;
}

static sy_status expand(sy_context *ctx, const void *values, struct syi_arena *arena, const sy_arch_tensor **tensors, const sy_arch_perm **perms)
{
    const vgg *c = values;
    syi_row_list r = {.ctx = ctx, .arena = arena};
    const char *before = NULL;
    int64_t in = c->channels;
    for (int i = 0, at = 0; i < c->n; i++) {
        if (c->layer[i] == 0) {
            at++;
            continue;
        }
        const char *group = syi_rows_format(&r, "C%d", at);
        syi_rows_conv(&r, syi_rows_format(&r, "features.%d", at), c->layer[i], in, 3, true, group, before);
        if (c->norm) syi_rows_batch_norm(&r, syi_rows_format(&r, "features.%d", at + 1), c->layer[i], group);
        at += c->norm ? 3 : 2;
        in = c->layer[i];
        before = group;
    }
    const int64_t area = c->pooled * c->pooled;
    for (int i = 0; i <= c->n_hidden; i++) {
        const char *group = i < c->n_hidden ? syi_rows_format(&r, "D%d", i) : NULL;
        syi_rows_linear(&r, i < c->n_hidden ? SY_ROLE_FC : SY_ROLE_HEAD, syi_rows_format(&r, "classifier.%d", 3 * i), i < c->n_hidden ? c->hidden[i] : c->labels,
                        i ? c->hidden[i - 1] : c->last * area, true, group, before, i ? 1 : area);
        before = group;
    }
    return syi_rows_end(&r, tensors, perms);
}

typedef struct { sy_model *m; int at; bool norm; double eps, momentum; syi_window size; } layer;

static sy_node *conv(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    (void)n;
    const layer *l = self;
    syi_window at = l->size;
    char name[32];
    snprintf(name, sizeof name, "features.%d", l->at);
    sy_node *x = syi_image_conv(g, l->m, name, in[0], &at, 3, 1, 1);
    snprintf(name, sizeof name, "features.%d", l->at + 1);
    if (l->norm) x = syi_image_norm(g, l->m, name, x, l->eps, l->momentum);
    return syi_op_activate(g, SYI_ACT_RELU, x);
}

static sy_node *build(sy_graph *g, sy_model *m, const sy_batch *batch)
{
    const vgg *c = m->config;
    syi_window size;
    sy_node *x = syi_image_input(g, batch, c->image, c->image, c->channels, &size);
    for (int i = 0, at = 0; i < c->n; i++) {
        sy_node *y;
        if (c->layer[i] == 0) {
            y = syi_image_pool(g, x, &size, 2, 2, 0, true);
            at++;
        } else {
            layer l = {m, at, c->norm, c->eps, c->momentum, size};
            y = sy_block(g, conv, &l, sizeof l, &x, 1, SY_BLOCK_SCOPE);
            at += c->norm ? 3 : 2;
            size.channels = c->layer[i];
        }
        sy_done(g, x);
        x = y;
    }
    if (c->pooled < c->map) x = syi_image_pool(g, x, &size, c->map / c->pooled, c->map / c->pooled, 0, false);
    x = syi_image_flatten(g, x, &size);
    for (int i = 0; i < c->n_hidden; i++) {
        char name[32];
        snprintf(name, sizeof name, "classifier.%d", 3 * i);
        x = syi_op_activate(g, SYI_ACT_RELU, syi_model_linear(g, m, name, x));
        if (sy_graph_training(g) && c->dropout > 0) x = syi_op_dropout(g, x, c->dropout, sy_graph_key(g, "dropout", name));
    }
    return x;
}

static const sy_arch_tensor none[] = {{NULL, NULL, NULL, SY_ROLE_NONE, 0, NULL}};
static const char *const model_types[] = {"torchvision_vgg", NULL};
static const char *const architectures[] = {"VGG", NULL};
static const char *const gguf_archs[] = {NULL};

const sy_arch sy_arch_vgg = {
    .name = "vgg", .model_types = model_types, .architectures = architectures, .gguf_archs = gguf_archs, .config = config,
    .config_size = sizeof(vgg), .tensors = none, .input = SY_INPUT_IMAGES, .head = SY_HEAD_CLASS, .expand = expand, .check = check, .build = build,
};
