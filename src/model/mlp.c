/* SPDX-License-Identifier: Apache-2.0 */
/* A multi-layer perceptron on images: linear layers with an activation between them, as a
 * torch Sequential under the name "layers" (layers.0, layers.1, ... without the
 * activations). config.json: {"model_type": "mlp", "hidden_sizes": [256, 256],
 * "num_labels": 10, "image_size": 28, "num_channels": 1, "hidden_act": "relu"}. */
#include "model/model.h"

#include "graph/ops.h"

enum { MAX_LAYERS = 64 };

typedef struct {
    int64_t image, channels, labels, input;
    char *act;
    int64_t size[MAX_LAYERS];
    int n;
} mlp;

#define FIELD(f) offsetof(mlp, f)
static const sy_arch_config config[] = {
    {"image_size", "image_size", NULL, SY_OPT_INT, FIELD(image), NULL},
    {"channels", "num_channels", NULL, SY_OPT_INT, FIELD(channels), "1"},
    {"labels", "num_labels", NULL, SY_OPT_INT, FIELD(labels), NULL},
    {"act", "hidden_act", NULL, SY_OPT_STRING, FIELD(act), "relu"},
    {NULL, NULL, NULL, SY_OPT_INT, 0, NULL},
};

static sy_status check(sy_context *ctx, void *values, const void *config_json)
{
    mlp *c = values;
    if (c->image < 1 || c->image > 4096 || c->channels < 1 || c->channels > 64 || c->labels < 1 || c->labels > 1 << 20)
        return syi_fail(ctx, SY_E_INPUT, "config: image_size %lld, num_channels %lld, num_labels %lld: 1 to 4096, 1 to 64, 1 to a million were expected",
                        (long long)c->image, (long long)c->channels, (long long)c->labels);
    if (syi_act_find(c->act) < 0) return syi_fail(ctx, SY_E_UNSUPPORTED, "config: hidden_act \"%s\" is not supported", c->act);
    c->input = c->image * c->image * c->channels;
    SYI_TRY(syi_config_list(ctx, config_json, "hidden_sizes", NULL, 1 << 20, c->size, MAX_LAYERS, &c->n));
    return c->n >= 1 ? SY_OK : syi_fail(ctx, SY_E_INPUT, "config.json: hidden_sizes is missing or empty; the mlp architecture needs it");
}

static sy_status expand(sy_context *ctx, const void *values, struct syi_arena *arena, const sy_arch_tensor **tensors, const sy_arch_perm **perms)
{
    const mlp *c = values;
    syi_row_list r = {.ctx = ctx, .arena = arena};
    const char *before = NULL;
    for (int i = 0; i <= c->n; i++) {
        const char *group = i < c->n ? syi_rows_format(&r, "P%d", i) : NULL;
        syi_rows_linear(&r, i < c->n ? SY_ROLE_FC : SY_ROLE_HEAD, syi_rows_format(&r, "layers.%d", i), i < c->n ? c->size[i] : c->labels, i ? c->size[i - 1] : c->input,
                        true, group, before, 1);
        before = group;
    }
    return syi_rows_end(&r, tensors, perms);
}

static sy_node *build(sy_graph *g, sy_model *m, const sy_batch *batch)
{
    const mlp *c = m->config;
    syi_window at;
    sy_node *x = syi_image_flatten(g, syi_image_input(g, batch, c->image, c->image, c->channels, &at), &at);
    for (int i = 0; i < c->n; i++) {
        char name[32];
        snprintf(name, sizeof name, "layers.%d", i);
        x = syi_op_activate(g, (syi_act)syi_act_find(c->act), syi_model_linear(g, m, name, x));
    }
    return x;
}

static const sy_arch_tensor none[] = {{NULL, NULL, NULL, SY_ROLE_NONE, 0, NULL}};
static const char *const model_types[] = {"mlp", NULL};
static const char *const architectures[] = {"MLP", NULL};
static const char *const gguf_archs[] = {NULL};

const sy_arch sy_arch_mlp = {
    .name = "mlp", .model_types = model_types, .architectures = architectures, .gguf_archs = gguf_archs, .config = config,
    .config_size = sizeof(mlp), .tensors = none, .input = SY_INPUT_IMAGES, .head = SY_HEAD_CLASS, .expand = expand, .check = check, .build = build,
};
