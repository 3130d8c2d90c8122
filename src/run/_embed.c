/* SPDX-License-Identifier: Apache-2.0 */
/* Embeddings of texts: states of the tokens, pooled as sentence-transformers' files beside
 * the model say (modules.json and the folders that it names), or their mean. */
#include "train.h"

#include "graph/ops.h"

static sy_status read_json(sy_context *ctx, const char *dir, const char *name, json_t **out)
{
    char *path = syi_join(ctx, dir, name);
    sy_status s = path != NULL ? SY_OK : SY_E_MEMORY;
    *out = NULL;
    if (s == SY_OK && syi_exists(path)) s = syi_json_read(ctx, path, out);
    syi_free(ctx, path);
    return s;
}

/* The one pooling that is on. */
static sy_status read_pooling(sy_context *ctx, const char *dir, const char *folder, syi_pooling *out)
{
    static const struct { const char *key; int kind; } kinds[] = {{"pooling_mode_cls_token", SYI_POOL_CLS}, {"pooling_mode_mean_tokens", SYI_POOL_MEAN},
                                                                  {"pooling_mode_max_tokens", SYI_POOL_MAX}, {"pooling_mode_lasttoken", SYI_POOL_LAST}};
    char name[300];
    json_t *j;
    int on = 0;
    snprintf(name, sizeof name, "%.200s/config.json", folder);
    SYI_TRY(read_json(ctx, dir, name, &j));
    for (int i = 0; i < SYI_COUNT(kinds); i++)
        if (json_is_true(json_object_get(j, kinds[i].key))) out->kind = kinds[i].kind, on++;
    const bool other = json_is_true(json_object_get(j, "pooling_mode_weightedmean_tokens")) || json_is_true(json_object_get(j, "pooling_mode_mean_sqrt_len_tokens"));
    json_decref(j);
    if (on == 1 && !other) return SY_OK;
    return syi_fail(ctx, SY_E_UNSUPPORTED, "%s/%s: one of the poolings cls, mean, max and last token was expected", dir, name);
}

sy_status syi_pooling_read(sy_context *ctx, const char *dir, syi_pooling *out)
{
    json_t *modules, *text, *m;
    size_t i;
    *out = (syi_pooling){.kind = SYI_POOL_MEAN};
    if (!syi_is_dir(dir)) return SY_OK;
    SYI_TRY(read_json(ctx, dir, "modules.json", &modules));
    sy_status s = read_json(ctx, dir, "sentence_bert_config.json", &text);
    out->tokens = json_integer_value(json_object_get(text, "max_seq_length"));
    json_decref(text);
    json_array_foreach(modules, i, m) {
        const char *type = json_string_value(json_object_get(m, "type")), *path = json_string_value(json_object_get(m, "path"));
        const char *kind = type != NULL && strrchr(type, '.') != NULL ? strrchr(type, '.') + 1 : "";
        if (s != SY_OK || strcmp(kind, "Transformer") == 0) continue;
        if (strcmp(kind, "Pooling") == 0 && path != NULL) s = read_pooling(ctx, dir, path, out);
        else if (strcmp(kind, "Normalize") == 0) out->normalize = true;
        else s = syi_fail(ctx, SY_E_UNSUPPORTED, "%s/modules.json: a module of the type %s is not known here", dir, type != NULL ? type : "(none)");
    }
    json_decref(modules);
    return s;
}

static float state(const sy_tensor *t, int64_t i)
{
    if (t->dtype == SY_F64) return (float)((const double *)t->data)[i];
    if (t->dtype == SY_F32) return ((const float *)t->data)[i];
    union { uint32_t u; float f; } x = {(uint32_t)((const uint16_t *)t->data)[i] << 16};
    return x.f;
}

static void pool(const syi_pooling *how, const sy_tensor *states, int64_t from, int64_t n, int64_t hidden, float *out)
{
    double square = 0;
    for (int64_t c = 0; c < hidden; c++) {
        double v = how->kind == SYI_POOL_CLS ? state(states, from * hidden + c) : how->kind == SYI_POOL_LAST ? state(states, (from + n - 1) * hidden + c) : 0;
        if (how->kind == SYI_POOL_MAX) v = -INFINITY;
        for (int64_t t = 0; how->kind != SYI_POOL_CLS && how->kind != SYI_POOL_LAST && t < n; t++) {
            const double x = state(states, (from + t) * hidden + c);
            v = how->kind == SYI_POOL_MAX ? fmax(v, x) : v + x / (double)n;
        }
        out[c] = (float)v;
        square += v * v;
    }
    if (how->normalize)
        for (int64_t c = 0; c < hidden; c++) out[c] = (float)(out[c] / fmax(sqrt(square), 1e-12));
}

sy_status syi_run_embed(sy_run *run, const sy_batch *batch, const syi_pooling *how, float *out)
{
    sy_model *m = run->model;
    syi_graph_options o;
    if (m->arch->input != SY_INPUT_TOKENS) return syi_fail(run->ctx, SY_E_UNSUPPORTED, "embeddings are made of texts; this model reads images");
    SYI_TRY(syi_run_prepare(run, batch));
    SYI_TRY(syi_run_graph_options(run, false, false, &o));
    syi_graph_reset(run->graph, &o);
    sy_node *x = (m->arch->states != NULL ? m->arch->states : m->arch->build)(run->graph, m, batch);
    SYI_TRY(sy_graph_status(run->graph));
    const sy_tensor *states = sy_value(x);
    for (int64_t r = 0; r < batch->rows; r++) {
        int64_t n = 0;
        while (n < batch->seq && batch->first[r * batch->seq + n] == r * batch->seq) n++;
        pool(how, states, r * batch->seq, n, m->hidden, out + r * m->hidden);
    }
    return SY_OK;
}
