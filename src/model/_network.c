/* SPDX-License-Identifier: Apache-2.0 */
/* What networks without transformer blocks share (mlp, vgg, resnet): making their rows
 * from a config, and the pieces of their forward graphs. A convolution is a linear site on
 * what its window sees, so adapters, storages and mergers meet it like any other. */
#include "model/model.h"

#include "graph/graph.h"
#include "graph/ops.h"

#include <stdarg.h>

/* -- config ------------------------------------------------------------------------------ */

sy_status syi_config_list(sy_context *ctx, const json_t *config, const char *key, const char *word, int64_t high, int64_t *out, int max, int *n)
{
    const json_t *list = json_object_get(config, key), *v;
    size_t i;
    *n = -1;
    if (!list || json_is_null(list)) return SY_OK;
    if (!json_is_array(list)) return syi_fail(ctx, SY_E_INPUT, "config.json: %s: a list was expected", key);
    if (json_array_size(list) > (size_t)max) return syi_fail(ctx, SY_E_INPUT, "config.json: %s: more than %d entries", key, max);
    json_array_foreach((json_t *)list, i, v) {
        const bool is_word = word && json_is_string(v) && strcmp(json_string_value(v), word) == 0;
        const int64_t k = is_word ? 0 : json_integer_value(v);
        if (!is_word && (!json_is_integer(v) || k < 1 || k > high))
            return syi_fail(ctx, SY_E_INPUT, "config.json: %s[%d]: a whole number from 1 to %lld%s%s%s was expected", key, (int)i, (long long)high, word ? " or \"" : "", word ? word : "", word ? "\"" : "");
        out[i] = k;
    }
    *n = (int)json_array_size(list);
    return SY_OK;
}

/* -- rows ------------------------------------------------------------------------------------ */

char *syi_rows_format(syi_row_list *r, const char *fmt, ...)
{
    char text[200];
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    char *copy = n > 0 && n < (int)sizeof text ? syi_arena_strdup(r->arena, text) : NULL;
    r->failed |= !copy;
    return copy;
}

/* Room for one more, zeroed; tables double, the arena keeps the old ones until it goes. */
static void *one_more(syi_row_list *r, void **list, int64_t n, int64_t *cap, size_t size)
{
    if (n >= *cap) {
        void *more = syi_arena_alloc(r->arena, (size_t)(2 * n + 16) * size);
        if (!more) return r->failed = true, NULL;
        if (n) memcpy(more, *list, (size_t)n * size);
        *list = more;
        *cap = 2 * n + 16;
    }
    return (char *)*list + (size_t)n * size;
}

const char *syi_rows_tensor(syi_row_list *r, sy_role role, unsigned flags, const char *shape, const char *name)
{
    sy_arch_tensor *t = name && shape ? one_more(r, (void **)&r->tensors, r->n_tensors, &r->cap_tensors, sizeof *t) : NULL;
    if (!t) return r->failed = true, NULL;
    *t = (sy_arch_tensor){.name = name, .shape = shape, .role = role, .flags = flags};
    r->n_tensors++;
    return name;
}

void syi_rows_perm(syi_row_list *r, const char *group, const char *tensor, int axis, int64_t block)
{
    if (!group || !tensor) return;
    sy_arch_perm *p = one_more(r, (void **)&r->perms, r->n_perms, &r->cap_perms, sizeof *p);
    if (!p) return;
    *p = (sy_arch_perm){.group = group, .tensor = tensor, .axis = axis, .block = syi_rows_format(r, "%lld", (long long)block)};
    r->n_perms++;
}

static void matrix(syi_row_list *r, sy_role role, const char *name, const char *shape, int64_t out, bool bias, const char *rows, const char *columns, int64_t block)
{
    const char *w = syi_rows_tensor(r, role, SY_TENSOR_LINEAR, shape, syi_rows_format(r, "%s.weight", name));
    syi_rows_perm(r, rows, w, 0, 1);
    syi_rows_perm(r, columns, w, 1, block);
    if (!bias) return;
    syi_rows_perm(r, rows, syi_rows_tensor(r, SY_ROLE_BIAS, 0, syi_rows_format(r, "%lld", (long long)out), syi_rows_format(r, "%s.bias", name)), 0, 1);
}

void syi_rows_linear(syi_row_list *r, sy_role role, const char *name, int64_t out, int64_t in, bool bias, const char *rows, const char *columns, int64_t block)
{
    matrix(r, role, name, syi_rows_format(r, "%lld,%lld", (long long)out, (long long)in), out, bias, rows, columns, block);
}

void syi_rows_conv(syi_row_list *r, const char *name, int64_t out, int64_t in, int64_t kernel, bool bias, const char *rows, const char *columns)
{
    matrix(r, SY_ROLE_CONV, name, syi_rows_format(r, "%lld,%lld,%lld,%lld", (long long)out, (long long)in, (long long)kernel, (long long)kernel), out, bias, rows, columns, 1);
}

void syi_rows_batch_norm(syi_row_list *r, const char *name, int64_t channels, const char *group)
{
    static const struct { const char *suffix; sy_role role; } rows[] = {
        {"weight", SY_ROLE_NORM}, {"bias", SY_ROLE_BIAS}, {"running_mean", SY_ROLE_STAT}, {"running_var", SY_ROLE_STAT}};
    for (int i = 0; i < SYI_COUNT(rows); i++)
        syi_rows_perm(r, group, syi_rows_tensor(r, rows[i].role, 0, syi_rows_format(r, "%lld", (long long)channels), syi_rows_format(r, "%s.%s", name, rows[i].suffix)), 0, 1);
    syi_rows_tensor(r, SY_ROLE_STAT, SY_TENSOR_COUNTER, syi_rows_format(r, "1"), syi_rows_format(r, "%s.num_batches_tracked", name));
}

sy_status syi_rows_end(syi_row_list *r, const sy_arch_tensor **tensors, const sy_arch_perm **perms)
{
    sy_arch_tensor *t = one_more(r, (void **)&r->tensors, r->n_tensors, &r->cap_tensors, sizeof *t);
    sy_arch_perm *p = one_more(r, (void **)&r->perms, r->n_perms, &r->cap_perms, sizeof *p);
    if (r->failed || !t || !p) return SY_E_MEMORY;
    *t = (sy_arch_tensor){.name = NULL};
    *p = (sy_arch_perm){.group = NULL};
    *tensors = r->tensors;
    *perms = r->perms;
    return SY_OK;
}

/* -- graphs -------------------------------------------------------------------------------------- */

sy_node *syi_image_input(sy_graph *g, const sy_batch *batch, int64_t height, int64_t width, int64_t channels, syi_window *at)
{
    *at = (syi_window){.images = batch->rows, .height = height, .width = width, .channels = channels};
    if (batch->pixels && (batch->height != height || batch->width != width || batch->channels != channels)) {
        sy_graph_fail(g, syi_fail(sy_graph_context(g), SY_E_INPUT, "images of %lld x %lld with %lld channels; the model wants %lld x %lld with %lld", (long long)batch->height,
                                  (long long)batch->width, (long long)batch->channels, (long long)height, (long long)width, (long long)channels));
        return NULL;
    }
    sy_tensor t = {.dtype = SY_F32, .rank = 2, .dim = {batch->rows * height * width, channels}, .data = (void *)(uintptr_t)batch->pixels};
    return syi_op_cast(g, sy_const(g, &t), sy_graph_dtype(g));
}

/* The window over *at, which becomes the result's size. */
static bool slide(sy_graph *g, syi_window *at, int64_t kernel_h, int64_t kernel_w, int64_t stride, int64_t pad, syi_window *w)
{
    *w = *at;
    w->kernel_h = kernel_h, w->kernel_w = kernel_w, w->stride = stride, w->pad = pad;
    if (syi_window_size(w)) {
        at->height = w->out_h;
        at->width = w->out_w;
        return true;
    }
    sy_graph_fail(g, syi_fail(sy_graph_context(g), SY_E_INPUT, "config.json: a window of %lld x %lld does not fit %lld x %lld pixels; the image size is too small for the layers",
                              (long long)kernel_h, (long long)kernel_w, (long long)at->height, (long long)at->width));
    return false;
}

sy_node *syi_model_linear(sy_graph *g, sy_model *m, const char *name, sy_node *x)
{
    sy_site *s = syi_model_site(m, name);
    if (s) return sy_site_apply(g, s, x);
    sy_graph_fail(g, syi_fail(m->ctx, SY_E_BUG, "architecture %s: no site %s", m->arch->name, name));
    return NULL;
}

sy_node *syi_image_conv(sy_graph *g, sy_model *m, const char *name, sy_node *x, syi_window *at, int64_t kernel, int64_t stride, int64_t pad)
{
    syi_window w;
    if (!slide(g, at, kernel, kernel, stride, pad, &w)) return NULL;
    sy_node *seen = kernel == 1 && stride == 1 ? x : syi_op_patches(g, x, &w), *y = syi_model_linear(g, m, name, seen);
    const sy_tensor *t = sy_shape(y);
    if (t) at->channels = sy_tensor_cols(t);
    return y;
}

sy_node *syi_image_pool(sy_graph *g, sy_node *x, syi_window *at, int64_t kernel, int64_t stride, int64_t pad, bool max)
{
    syi_window w;
    return slide(g, at, kernel, kernel, stride, pad, &w) ? syi_op_pool(g, x, &w, max) : NULL;
}

sy_node *syi_image_flatten(sy_graph *g, sy_node *x, const syi_window *at)
{
    syi_window w, size = *at;
    if (at->height == 1 && at->width == 1) return x;
    return slide(g, &size, at->height, at->width, 1, 0, &w) ? syi_op_patches(g, x, &w) : NULL;
}

sy_node *syi_image_norm(sy_graph *g, sy_model *m, const char *name, sy_node *x, double eps, double momentum)
{
    static const char *const parts[] = {"weight", "bias", "running_mean", "running_var"};
    sy_param *p[4];
    for (int i = 0; i < 4; i++) {
        char full[256];
        snprintf(full, sizeof full, "%s.%s", name, parts[i]);
        p[i] = syi_model_param(m, full);
        if (!p[i]) {
            sy_graph_fail(g, syi_fail(m->ctx, SY_E_BUG, "architecture %s: no parameter %s", m->arch->name, full));
            return NULL;
        }
    }
    sy_node *w = sy_leaf(g, p[0]), *b = sy_leaf(g, p[1]);
    if (sy_graph_training(g) && p[2]->buffer) return syi_op_batch_norm_own(g, x, w, b, eps, m->norm_momentum > 0 ? m->norm_momentum : momentum, p[2]->value.data, p[3]->value.data);
    return syi_op_batch_norm(g, x, w, b, sy_const(g, &p[2]->value), sy_const(g, &p[3]->value), eps);
}
