/* SPDX-License-Identifier: Apache-2.0 */
/* How states of tokens become one vector: sentence-transformers' files beside a model
 * (modules.json and the folders that it names), or GGUF's key pooling_type. */
#include "source.h"

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

/* Kinds by GGUF's numbers. Whether vectors are scaled to length 1 is not in the file; its
 * runtimes do that. */
enum { GGUF_NONE = 0, GGUF_RANK = 4 };
static const int of_gguf[] = {-1, SYI_POOL_MEAN, SYI_POOL_CLS, SYI_POOL_LAST, -1};

static sy_status from_gguf(sy_context *ctx, const char *path, syi_pooling *out)
{
    syi_gguf *g;
    char key[128];
    const char *arch = "";
    int64_t kind = GGUF_NONE;
    SYI_TRY(syi_gguf_open(ctx, path, &g));
    syi_gguf_str(g, "general.architecture", &arch);
    snprintf(key, sizeof key, "%.64s.pooling_type", arch);
    const bool there = syi_gguf_int(g, key, &kind) && kind != GGUF_NONE && kind != GGUF_RANK;
    syi_gguf_close(g);
    if (!there) return SY_OK;
    if (kind < 0 || kind >= SYI_COUNT(of_gguf)) return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: %s is %lld; 1 (mean), 2 (first token) or 3 (last token) were expected", path, key, (long long)kind);
    *out = (syi_pooling){.kind = of_gguf[kind], .normalize = true, .stated = true};
    return SY_OK;
}

sy_status syi_pooling_to_gguf(sy_context *ctx, syi_gguf_writer *w, const char *arch, const char *model, bool classes)
{
    syi_pooling how;
    char key[128];
    uint32_t kind = GGUF_RANK;
    if (!classes) {
        SYI_TRY(syi_pooling_read(ctx, model, &how));
        for (kind = 0; kind < SYI_COUNT(of_gguf) && (!how.stated || of_gguf[kind] != how.kind); kind++) {}
        if (how.stated && kind == SYI_COUNT(of_gguf)) syi_log(ctx, SY_LOG_WARN, "%s: pools by the maximum, which GGUF has no word for: say how to pool when the file is used", model);
        if (kind == SYI_COUNT(of_gguf)) kind = GGUF_NONE;
    }
    snprintf(key, sizeof key, "%.64s.attention.causal", arch);
    SYI_TRY(syi_gguf_put_bool(w, key, false));
    snprintf(key, sizeof key, "%.64s.pooling_type", arch);
    return kind == GGUF_NONE ? SY_OK : syi_gguf_put_u32(w, key, kind);
}

static sy_status put_file(sy_context *ctx, const char *dir, const char *name, json_t *take)
{
    char *path = syi_join(ctx, dir, name);
    sy_status st = path == NULL || take == NULL ? syi_nomem(ctx, 0) : syi_json_write(ctx, path, take, true);
    syi_free(ctx, path);
    json_decref(take);
    return st;
}

sy_status syi_pooling_write(sy_context *ctx, const char *dir, const syi_pooling *how, int64_t hidden)
{
    static const char module[] = "sentence_transformers.models.";
    char *folder = syi_join(ctx, dir, "1_Pooling");
    sy_status st = folder == NULL ? sy_error_code(ctx) : syi_mkdirs(ctx, folder);
    syi_free(ctx, folder);
    json_t *list = json_array();
    static const char *const parts[] = {"", "Transformer", "1_Pooling", "Pooling", "2_Normalize", "Normalize"};
    char type[64], name[8];
    for (int i = 0; i < (how->normalize ? 3 : 2); i++) {
        snprintf(type, sizeof type, "%s%s", module, parts[2 * i + 1]);
        snprintf(name, sizeof name, "%d", i);
        json_array_append_new(list, json_pack("{s:i,s:s,s:s,s:s}", "idx", i, "name", name, "path", parts[2 * i], "type", type));
    }
    if (st == SY_OK) st = put_file(ctx, dir, "modules.json", json_incref(list));
    json_decref(list);
    if (st != SY_OK) return st;
    return put_file(ctx, dir, "1_Pooling/config.json", json_pack("{s:I,s:b,s:b,s:b,s:b}", "word_embedding_dimension", (json_int_t)hidden, "pooling_mode_cls_token", how->kind == SYI_POOL_CLS,
                    "pooling_mode_mean_tokens", how->kind == SYI_POOL_MEAN, "pooling_mode_max_tokens", how->kind == SYI_POOL_MAX, "pooling_mode_lasttoken", how->kind == SYI_POOL_LAST));
}

sy_status syi_pooling_read(sy_context *ctx, const char *dir, syi_pooling *out)
{
    json_t *modules, *text, *m;
    size_t i;
    *out = (syi_pooling){.kind = SYI_POOL_MEAN};
    if (!syi_is_dir(dir)) return from_gguf(ctx, dir, out);
    SYI_TRY(read_json(ctx, dir, "modules.json", &modules));
    sy_status s = read_json(ctx, dir, "sentence_bert_config.json", &text);
    out->tokens = json_integer_value(json_object_get(text, "max_seq_length"));
    json_decref(text);
    out->stated = modules != NULL;
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


sy_status syi_pooling_copy(sy_context *ctx, const char *from, const char *to)
{
    json_t *modules, *m;
    char name[300];
    size_t i;
    SYI_TRY(read_json(ctx, from, "modules.json", &modules));
    sy_status st = SY_OK;
    json_array_foreach(modules, i, m) { /* one folder each, with a config.json; weights in one are of a kind that is refused */
        const char *path = json_string_value(json_object_get(m, "path"));
        if (path == NULL || path[0] == '\0' || strchr(path, '/') != NULL || strcmp(path, "..") == 0 || strlen(path) > 200) continue;
        snprintf(name, sizeof name, "%s/config.json", path);
        char *a = syi_join(ctx, from, name), *b = syi_join(ctx, to, name), *dir = syi_join(ctx, to, path);
        if (a == NULL || b == NULL || dir == NULL) st = sy_error_code(ctx);
        else if (syi_exists(a)) {
            st = syi_mkdirs(ctx, dir);
            if (st == SY_OK) st = syi_copy_file(ctx, a, b);
        }
        syi_free(ctx, a);
        syi_free(ctx, b);
        syi_free(ctx, dir);
        if (st != SY_OK) break;
    }
    json_decref(modules);
    return st;
}
