/* SPDX-License-Identifier: Apache-2.0 */
/* PEFT adapter folders: adapter_config.json, adapter_model.safetensors, README.md.
 * What the tensors mean is the methods' business; here they are names and bytes. */
#include "checkpoint.h"

/* dir/name, opened as the adapter's weights. */
static sy_status open_weights(sy_context *ctx, const char *dir, sy_checkpoint **out)
{
    char *path = syi_join(ctx, dir, "adapter_model.safetensors"), *pickle = syi_join(ctx, dir, "adapter_model.bin");
    sy_status status;
    if (path == NULL || pickle == NULL) status = sy_error_code(ctx);
    else if (syi_exists(path)) status = sy_checkpoint_open(ctx, path, out);
    else if (syi_exists(pickle))
        status = syi_fail(ctx, SY_E_UNSUPPORTED, "%s: a pickle, which can run code and is not read; save the adapter as safetensors", pickle);
    else
        status = syi_fail(ctx, SY_E_INPUT, "%s: there is no adapter_model.safetensors beside adapter_config.json", dir);
    syi_free(ctx, path);
    syi_free(ctx, pickle);
    return status;
}

/* An adapter with a name of its own lies in a folder below: say which there are. */
static sy_status no_config(sy_context *ctx, const char *dir)
{
    char **names = NULL;
    int n = 0;
    syi_text found;
    syi_text_init(&found, ctx, 4096);
    if (syi_is_dir(dir)) SYI_TRY(syi_list_dir(ctx, dir, &names, &n));
    for (int i = 0; i < n; i++) {
        char *path = syi_format(ctx, "%s/%s/adapter_config.json", dir, names[i]);
        if (path != NULL && syi_exists(path)) syi_text_printf(&found, "%s%s/%s", found.len > 0 ? ", " : "", dir, names[i]);
        syi_free(ctx, path);
        syi_free(ctx, names[i]);
    }
    syi_free(ctx, names);
    const sy_status status = syi_fail(ctx, SY_E_INPUT, "%s: not an adapter folder: there is no adapter_config.json%s%s", dir,
                                      found.len > 0 ? "; adapters are in " : "", found.len > 0 ? found.s : "");
    syi_text_free(&found);
    return status;
}

static sy_status open_all(syi_adapter_dir *a)
{
    sy_context *ctx = a->ctx;
    char *path = syi_join(ctx, a->path, "adapter_config.json");
    if (path == NULL) return sy_error_code(ctx);
    sy_status status = syi_exists(path) ? syi_json_read(ctx, path, &a->config) : no_config(ctx, a->path);
    if (status == SY_OK && !json_is_object(a->config)) status = syi_fail(ctx, SY_E_INPUT, "%s: a JSON object was expected", path);
    if (status == SY_OK && !json_is_string(json_object_get(a->config, "peft_type")))
        status = syi_fail(ctx, SY_E_INPUT, "%s: peft_type is missing; it says what kind of adapter this is (\"LORA\" ...)", path);
    if (status == SY_OK) status = open_weights(ctx, a->path, &a->tensors);
    syi_free(ctx, path);
    return status;
}

sy_status syi_adapter_open(sy_context *ctx, const char *dir, syi_adapter_dir **out)
{
    *out = NULL;
    syi_adapter_dir *a = syi_calloc(ctx, 1, sizeof *a);
    if (a == NULL) return sy_error_code(ctx);
    a->ctx = ctx;
    a->path = syi_strdup(ctx, dir);
    const sy_status status = a->path != NULL ? open_all(a) : sy_error_code(ctx);
    if (status == SY_OK) *out = a;
    else syi_adapter_close(a);
    return status;
}

void syi_adapter_close(syi_adapter_dir *a)
{
    if (a == NULL) return;
    sy_checkpoint_close(a->tensors);
    json_decref(a->config);
    syi_free(a->ctx, a->path);
    syi_free(a->ctx, a);
}

static sy_status write_weights(sy_context *ctx, const char *path, const syi_named *tensors, int64_t n)
{
    sy_writer *w = NULL;
    sy_status status;
    SYI_TRY(sy_writer_new(ctx, path, 0, &w));
    for (int64_t i = 0; i < n; i++)
        SYI_TRY_TO(fail, status, sy_writer_declare(w, tensors[i].name, tensors[i].value.dtype, tensors[i].value.rank, tensors[i].value.dim));
    SYI_TRY_TO(fail, status, sy_writer_begin(w));
    for (int64_t i = 0; i < n; i++)
        SYI_TRY_TO(fail, status, sy_writer_put(w, tensors[i].name, 0, sy_tensor_rows(&tensors[i].value), tensors[i].value.data));
    return sy_writer_end(w);
fail:
    sy_writer_abort(w);
    return status;
}

sy_status syi_adapter_write(sy_context *ctx, const char *dir, const json_t *config, const char *readme, const syi_named *tensors, int64_t n)
{
    char *weights = syi_join(ctx, dir, "adapter_model.safetensors"), *json = syi_join(ctx, dir, "adapter_config.json");
    char *text = syi_join(ctx, dir, "README.md");
    sy_status status = weights != NULL && json != NULL && text != NULL ? SY_OK : sy_error_code(ctx);
    if (status == SY_OK) status = write_weights(ctx, weights, tensors, n);
    if (status == SY_OK && readme != NULL) status = syi_write_file(ctx, text, readme, (int64_t)strlen(readme));
    if (status == SY_OK) status = syi_json_write(ctx, json, config, true); /* last: it makes the folder an adapter */
    syi_free(ctx, weights);
    syi_free(ctx, json);
    syi_free(ctx, text);
    return status;
}
