/* SPDX-License-Identifier: Apache-2.0 */
/* A model as the engine and every verb see it, from a Hugging Face folder or a GGUF
 * file: config, tokenizer, template and tensors under Hugging Face's names. */
#include "source.h"

#include "base/registry.h"
#include "model/model.h"

#include <stdlib.h>

/* -- architectures ------------------------------------------------------------- */

static bool in_list(const char *const *list, const char *name)
{
    for (; list != NULL && *list != NULL; list++)
        if (strcmp(*list, name) == 0) return true;
    return false;
}

static const sy_arch *arch_of_config(const json_t *config)
{
    const char *type = json_string_value(json_object_get(config, "model_type"));
    const char *name = json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    for (int i = 0; type != NULL && syi_archs[i] != NULL; i++)
        if (in_list(syi_archs[i]->model_types, type)) return syi_archs[i];
    for (int i = 0; name != NULL && syi_archs[i] != NULL; i++)
        if (in_list(syi_archs[i]->architectures, name)) return syi_archs[i];
    return NULL;
}

static sy_status unknown_arch(sy_context *ctx, const char *path, const char *found)
{
    syi_text t;
    syi_text_init(&t, ctx, 4096);
    for (int i = 0; syi_archs[i] != NULL; i++) syi_text_printf(&t, "%s%s", i > 0 ? ", " : "", syi_archs[i]->name);
    const sy_status status = syi_fail(ctx, SY_E_UNSUPPORTED, "%s: the architecture %s%s%s is not supported; these are: %s", path,
                                      found != NULL ? "\"" : "", found != NULL ? found : "(none stated)", found != NULL ? "\"" : "",
                                      t.s != NULL ? t.s : "");
    syi_text_free(&t);
    return status;
}

sy_status syi_arch_of_config(sy_context *ctx, const json_t *config, const char *path, const sy_arch **out)
{
    *out = arch_of_config(config);
    if (*out != NULL) return SY_OK;
    const char *type = json_string_value(json_object_get(config, "model_type"));
    return unknown_arch(ctx, path, type != NULL ? type : json_string_value(json_array_get(json_object_get(config, "architectures"), 0)));
}

/* -- a folder --------------------------------------------------------------------- */

static sy_status read_optional(sy_context *ctx, const char *dir, const char *name, json_t **out)
{
    char *path = syi_join(ctx, dir, name);
    if (path == NULL) return sy_error_code(ctx);
    sy_status status = SY_OK;
    if (syi_exists(path)) status = syi_json_read(ctx, path, out);
    if (status == SY_OK && *out != NULL && !json_is_object(*out)) status = syi_fail(ctx, SY_E_INPUT, "%s: a JSON object was expected", path);
    syi_free(ctx, path);
    return status;
}

/* chat_template.jinja, or tokenizer_config.json's chat_template: a text, or a list
 * of named ones of which the default counts. */
static sy_status read_template(syi_source *s)
{
    sy_context *ctx = s->ctx;
    char *path = syi_join(ctx, s->path, "chat_template.jinja");
    if (path == NULL) return sy_error_code(ctx);
    int64_t size;
    sy_status status = syi_exists(path) ? syi_read_file(ctx, path, 16 << 20, &s->chat_template, &size) : SY_OK;
    syi_free(ctx, path);
    if (status != SY_OK || s->chat_template != NULL) return status;
    const json_t *t = json_object_get(s->tokenizer_config, "chat_template"), *one;
    size_t i;
    const char *text = json_string_value(t);
    json_array_foreach((json_t *)t, i, one) {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name != NULL && strcmp(name, "default") == 0) text = json_string_value(json_object_get(one, "template"));
    }
    if (text == NULL) return SY_OK;
    s->chat_template = syi_strdup(ctx, text);
    return s->chat_template != NULL ? SY_OK : sy_error_code(ctx);
}

/* The folder's tensors under the names of the architecture's rows, matrices the way round
 * that rows have them. */
static sy_status adopt_tensors(syi_source *s)
{
    sy_checkpoint *ck = s->tensors;
    char name[SYI_MODEL_NAME_MAX], scratch[SYI_MODEL_NAME_MAX];
    const char *prefix = s->arch->prefix;
    bool whole = prefix == NULL;
    for (int64_t i = 0; i < ck->n && !whole; i++) whole = syi_starts(ck->entry[i].name, prefix);
    for (int64_t i = 0; i < ck->n; i++) {
        const sy_arch_tensor *row = syi_name_row(s->arch, ck->entry[i].name, scratch);
        if (row == NULL && !whole && snprintf(name, sizeof name, "%s%s", prefix, ck->entry[i].name) < (int)sizeof name) {
            row = syi_name_row(s->arch, name, scratch);
            if (row != NULL) SYI_TRY(syi_checkpoint_rename(ck, i, name));
        }
        sy_entry *e = &ck->entry[i];
        if (row == NULL || !(row->flags & SY_TENSOR_TRANSPOSED) || e->rank != 2) continue;
        const int64_t in = e->dim[0];
        e->dim[0] = e->dim[1];
        e->dim[1] = in;
        e->transposed = true;
    }
    return SY_OK;
}

static sy_status open_folder(syi_source *s, bool need_arch)
{
    sy_context *ctx = s->ctx;
    SYI_TRY(read_optional(ctx, s->path, "config.json", &s->config));
    if (s->config == NULL && need_arch) {
        char *path = syi_join(ctx, s->path, "adapter_config.json");
        const bool adapter = path != NULL && syi_exists(path);
        syi_free(ctx, path);
        return syi_fail(ctx, SY_E_INPUT, "%s: %s", s->path,
                        adapter ? "this is an adapter folder; a model was expected (give the adapter with --adapter)"
                                : "no config.json: not a model folder");
    }
    s->arch = arch_of_config(s->config);
    if (s->arch == NULL && need_arch) return syi_arch_of_config(ctx, s->config, s->path, &s->arch);
    SYI_TRY(read_optional(ctx, s->path, "generation_config.json", &s->generation));
    SYI_TRY(read_optional(ctx, s->path, "tokenizer_config.json", &s->tokenizer_config));
    SYI_TRY(read_template(s));
    SYI_TRY(sy_checkpoint_open(ctx, s->path, &s->tensors));
    return s->arch != NULL ? adopt_tensors(s) : SY_OK;
}

/* -- a GGUF file ---------------------------------------------------------------------- */

/* Heads by which the rows of a tensor are permuted in the file; 0: they are not. */
static sy_status heads_of(syi_source *s, const sy_arch_tensor *row, const void *config, const sy_entry *e, int *out)
{
    int64_t heads = 0;
    *out = 0;
    if (row->flags & SY_TENSOR_PERMUTE_Q) syi_arch_field(s->arch, config, "heads", &heads);
    else if (row->flags & SY_TENSOR_PERMUTE_K) syi_arch_field(s->arch, config, "kv_heads", &heads);
    else return SY_OK;
    const int64_t rows = e->rank > 0 ? e->dim[0] : 0;
    if (heads < 1 || heads > INT32_MAX || rows % (2 * heads) != 0)
        return syi_fail(s->ctx, SY_E_INPUT, "%s: tensor %s: %lld rows are not %lld heads of an even size", s->path, e->name, (long long)rows,
                        (long long)heads);
    *out = (int)heads;
    return SY_OK;
}

/* The file's tensors under their other names; rows that GGUF permutes are marked. */
static sy_status rename_tensors(syi_source *s, sy_checkpoint *ck, const void *config)
{
    const syi_gguf *g = ck->gguf;
    for (int64_t i = 0; i < syi_gguf_tensors(g); i++) {
        sy_entry e = *syi_gguf_tensor(g, i);
        char name[SYI_MODEL_NAME_MAX];
        if (syi_rope_is_part(e.name)) continue; /* became rope_scaling */
        const sy_arch_tensor *row = syi_name_from_gguf(s->arch, e.name, name);
        if (row == NULL)
            return syi_fail(s->ctx, SY_E_UNSUPPORTED, "%s: tensor %s is not part of the %s architecture as known here", s->path, e.name,
                            s->arch->name);
        SYI_TRY(heads_of(s, row, config, &e, &e.permute_heads));
        if (row->flags & SY_TENSOR_FROM_ONE) e.shift = -1;
        e.name = name;
        SYI_TRY(syi_checkpoint_add(ck, &e));
    }
    return SY_OK;
}

static sy_status open_known_gguf(syi_source *s, sy_checkpoint *ck)
{
    sy_context *ctx = s->ctx;
    syi_arena *arena = NULL;
    void *config = NULL;
    SYI_TRY(syi_config_from_gguf(ctx, s->arch, ck->gguf, s->path, &s->config, &s->generation));
    SYI_TRY(syi_arena_new(ctx, 4096, &arena));
    sy_status status = syi_arch_config(ctx, s->arch, s->config, arena, &config);
    if (status == SY_OK) status = rename_tensors(s, ck, config);
    else syi_fail_at(ctx, status, "%s", s->path);
    syi_arena_free(arena);
    return status;
}

static sy_status open_gguf(syi_source *s, bool need_arch)
{
    sy_context *ctx = s->ctx;
    sy_checkpoint *ck = NULL;
    SYI_TRY(syi_checkpoint_new(ctx, s->path, &ck));
    s->tensors = ck;
    SYI_TRY(syi_gguf_open(ctx, s->path, &ck->gguf));
    const char *type = "model", *name = NULL;
    syi_gguf_str(ck->gguf, "general.type", &type);
    syi_gguf_str(ck->gguf, "general.architecture", &name);
    if (strcmp(type, "model") != 0 && need_arch)
        return syi_fail(ctx, SY_E_INPUT, "%s: its general.type is \"%s\"; a model was expected%s", s->path, type,
                        strcmp(type, "adapter") == 0 ? " (convert the adapter to a folder and give it with --adapter)" : "");
    s->arch = name != NULL && strcmp(type, "model") == 0 ? syi_arch_of_gguf(name) : NULL;
    if (s->arch == NULL) {
        if (need_arch) return unknown_arch(ctx, s->path, name);
        for (int64_t i = 0; i < syi_gguf_tensors(ck->gguf); i++) SYI_TRY(syi_checkpoint_add(ck, syi_gguf_tensor(ck->gguf, i)));
        return SY_OK;
    }
    SYI_TRY(open_known_gguf(s, ck));
    sy_status status = syi_tokenizer_from_gguf(ctx, ck->gguf, s->path, &s->tokenizer, &s->tokenizer_config, &s->chat_template);
    if (status == SY_E_UNSUPPORTED && !need_arch) { /* looking at a file needs no tokenizer */
        syi_log(ctx, SY_LOG_WARN, "%s", sy_error_message(ctx));
        sy_error_clear(ctx);
        status = SY_OK;
    }
    return status;
}

/* -- both --------------------------------------------------------------------------------- */

sy_status syi_source_open(sy_context *ctx, const char *path, bool need_arch, syi_source **out)
{
    *out = NULL;
    if (!syi_exists(path)) return syi_fail(ctx, SY_E_INPUT, "%s: no such file or folder", path);
    syi_source *s = syi_calloc(ctx, 1, sizeof *s);
    if (s == NULL) return sy_error_code(ctx);
    s->ctx = ctx;
    s->path = syi_strdup(ctx, path);
    sy_status status = SY_OK;
    if (s->path == NULL) status = sy_error_code(ctx);
    else if (syi_is_dir(path)) status = open_folder(s, need_arch);
    else if (syi_ends(path, ".safetensors") && need_arch)
        status = syi_fail(ctx, SY_E_INPUT, "%s: weights alone are not a model; give the folder that config.json is in", path);
    else if (syi_ends(path, ".safetensors")) status = sy_checkpoint_open(ctx, path, &s->tensors);
    else {
        s->gguf = true;
        status = open_gguf(s, need_arch);
    }
    if (status == SY_OK) *out = s;
    else syi_source_close(s);
    return status;
}

/* -- tokenizer.json, when asked for ----------------------------------------------------------- */

enum { MAX_TOKENIZER = 512 << 20 };

static sy_status read_tokenizer(syi_source *s)
{
    if (s->tokenizer_text != NULL || s->gguf || !syi_is_dir(s->path)) return SY_OK;
    char *path = syi_join(s->ctx, s->path, "tokenizer.json");
    if (path == NULL) return sy_error_code(s->ctx);
    sy_status status = SY_OK;
    if (syi_exists(path)) status = syi_read_file(s->ctx, path, MAX_TOKENIZER, &s->tokenizer_text, &s->tokenizer_len);
    syi_free(s->ctx, path);
    return status;
}

sy_status syi_source_tokenizer(syi_source *s)
{
    if (s->tokenizer != NULL) return SY_OK;
    SYI_TRY(read_tokenizer(s));
    if (s->tokenizer_text == NULL) return SY_OK;
    char *where = syi_join(s->ctx, s->path, "tokenizer.json");
    if (where == NULL) return sy_error_code(s->ctx);
    sy_status status = syi_json_parse(s->ctx, s->tokenizer_text, (size_t)s->tokenizer_len, where, &s->tokenizer);
    if (status == SY_OK && !json_is_object(s->tokenizer)) status = syi_fail(s->ctx, SY_E_INPUT, "%s: a JSON object was expected", where);
    syi_free(s->ctx, where);
    return status;
}

sy_status syi_source_tokenizer_text(syi_source *s, const char **text, int64_t *len)
{
    SYI_TRY(read_tokenizer(s));
    if (s->tokenizer_text == NULL && s->tokenizer != NULL) {
        char *made = json_dumps(s->tokenizer, JSON_COMPACT);
        if (made == NULL) return syi_nomem(s->ctx, 0);
        s->tokenizer_text = syi_strdup(s->ctx, made);
        s->tokenizer_len = (int64_t)strlen(made);
        syi_json_free_text(made);
        if (s->tokenizer_text == NULL) return SY_E_MEMORY;
    }
    *text = s->tokenizer_text;
    *len = s->tokenizer_len;
    return SY_OK;
}

void syi_source_tokenizer_forget(syi_source *s)
{
    syi_free(s->ctx, s->tokenizer_text);
    s->tokenizer_text = NULL;
    if (s->gguf) return; /* made from keys: kept */
    json_decref(s->tokenizer);
    s->tokenizer = NULL;
}

void syi_source_close(syi_source *s)
{
    if (s == NULL) return;
    sy_checkpoint_close(s->tensors);
    json_decref(s->config);
    json_decref(s->generation);
    json_decref(s->tokenizer);
    json_decref(s->tokenizer_config);
    syi_free(s->ctx, s->tokenizer_text);
    syi_free(s->ctx, s->chat_template);
    syi_free(s->ctx, s->path);
    syi_free(s->ctx, s);
}

static sy_status hash_json(syi_source *s, syi_hasher *h, const json_t *j)
{
    if (j == NULL) return SY_OK;
    char *text = json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS);
    if (text == NULL) return syi_nomem(s->ctx, 0);
    syi_hasher_add(h, text, strlen(text) + 1);
    syi_json_free_text(text);
    return SY_OK;
}

sy_status syi_source_hash(syi_source *s, char text[33])
{
    enum { PIECE = 4 << 20 };
    syi_hasher *h = NULL;
    SYI_TRY(syi_hasher_new(s->ctx, &h));
    sy_status status = hash_json(s, h, s->config);
    const char *tokenizer = NULL;
    int64_t length = 0;
    if (status == SY_OK) status = syi_source_tokenizer_text(s, &tokenizer, &length);
    if (status == SY_OK && tokenizer != NULL) syi_hasher_add(h, tokenizer, (size_t)length);
    for (int64_t i = 0; status == SY_OK && i < sy_checkpoint_count(s->tensors); i++) {
        const sy_entry *e = sy_checkpoint_at(s->tensors, i);
        syi_hasher_add(h, e->name, strlen(e->name) + 1);
        syi_hasher_add(h, &e->dtype, sizeof e->dtype);
        syi_hasher_add(h, e->dim, sizeof e->dim[0] * (size_t)e->rank);
        for (int64_t at = 0; at < e->bytes; at += PIECE) { /* large tensors add nothing to the peak */
            const int64_t n = syi_min(PIECE, e->bytes - at);
            syi_hasher_add(h, (const char *)e->data + at, (size_t)n);
            syi_mapped_forget((const char *)e->data + at, n);
        }
    }
    syi_hash_text(text, syi_hasher_end(h));
    return status;
}
