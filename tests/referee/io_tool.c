/* SPDX-License-Identifier: Apache-2.0 */
/* What the referee of src/io calls: conversions from the command line, before and
 * without the verbs.
 *   io_tool convert IN OUT [DTYPE|-] [SHARD_BYTES]   model to folder, or to X.gguf
 *   io_tool dump IN OUT.safetensors                  any checkpoint, all as f32
 *   io_tool model IN OUT.safetensors                 a model's tensors, all as f32
 *   io_tool open IN                                  exit code only
 *   io_tool lora-to-gguf BASE ADAPTER OUT.gguf [DTYPE]
 *   io_tool lora-from-gguf IN.gguf OUT
 */
#include "io/checkpoint.h"

#include <stdlib.h>

static void log_line(void *self, sy_log_level level, const char *line)
{
    (void)self, (void)level;
    fprintf(stderr, "%s\n", line);
}

static sy_status dump(sy_context *ctx, const sy_checkpoint *ck, const char *path)
{
    sy_writer *w = NULL;
    SYI_TRY(sy_writer_new(ctx, path, 0, &w));
    for (int64_t i = 0; i < sy_checkpoint_count(ck); i++) {
        const sy_entry *e = sy_checkpoint_at(ck, i);
        SYI_TRY(sy_writer_declare(w, e->name, SY_F32, e->rank, e->dim));
    }
    SYI_TRY(sy_writer_begin(w));
    for (int64_t i = 0; i < sy_checkpoint_count(ck); i++) {
        const sy_entry *e = sy_checkpoint_at(ck, i);
        const int64_t rows = syi_entry_rows(e), n = rows * syi_entry_cols(e);
        float *f = syi_alloc(ctx, (size_t)n * sizeof *f);
        if (f == NULL) return sy_error_code(ctx);
        SYI_TRY(sy_entry_read_f32(ctx, e, 0, n == 0 ? 0 : rows, f));
        SYI_TRY(sy_writer_put(w, e->name, 0, n == 0 ? 0 : rows, f));
        syi_free(ctx, f);
    }
    return sy_writer_end(w);
}

static sy_status convert(sy_context *ctx, int argc, char **argv)
{
    syi_source *s = NULL;
    const int dtype = argc > 4 && strcmp(argv[4], "-") != 0 ? sy_dtype_find(argv[4]) : -1;
    syi_export how = {.dtype = (sy_dtype)dtype, .shard_bytes = argc > 5 ? atoll(argv[5]) : 0};
    double start = syi_now();
    SYI_TRY(syi_source_open(ctx, argv[2], true, &s));
    const double opened = syi_now();
    sy_status status = syi_ends(argv[3], ".gguf") ? syi_source_to_gguf(s, argv[3], &how) : syi_source_to_folder(s, argv[3], &how);
    syi_source_close(s);
    if (status == SY_OK)
        printf("{\"tensors\": %lld, \"bytes\": %lld, \"open_seconds\": %.3f, \"seconds\": %.3f, \"peak_bytes\": %lld}\n", (long long)how.tensors,
               (long long)how.bytes, opened - start, syi_now() - start, (long long)sy_memory_peak(ctx));
    return status;
}

static sy_status dump_checkpoint(sy_context *ctx, const char *in, const char *out)
{
    sy_checkpoint *ck = NULL;
    SYI_TRY(sy_checkpoint_open(ctx, in, &ck));
    const sy_status status = dump(ctx, ck, out);
    sy_checkpoint_close(ck);
    return status;
}

static sy_status dump_model(sy_context *ctx, const char *in, const char *out)
{
    syi_source *s = NULL;
    char hash[33];
    SYI_TRY(syi_source_open(ctx, in, true, &s));
    sy_status status = dump(ctx, s->tensors, out);
    if (status == SY_OK) status = syi_source_hash(s, hash);
    syi_source_close(s);
    return status;
}

static sy_status only_open(sy_context *ctx, const char *in)
{
    syi_source *s = NULL;
    SYI_TRY(syi_source_open(ctx, in, false, &s));
    syi_source_close(s);
    return SY_OK;
}

/* Every plain LoRA pair of a folder, with alpha/r of its config. */
static sy_status lora_to_gguf(sy_context *ctx, const char *base, const char *dir, const char *out, sy_dtype dtype)
{
    syi_adapter_dir *a = NULL;
    syi_source *s = NULL;
    SYI_TRY(syi_source_open(ctx, base, true, &s));
    SYI_TRY(syi_adapter_open(ctx, dir, &a));
    const json_t *ranks = json_object_get(a->config, "rank_pattern"), *alphas = json_object_get(a->config, "alpha_pattern");
    const int64_t n = sy_checkpoint_count(a->tensors), most = n / 2 + 1;
    syi_lora_pair *pairs = syi_calloc(ctx, (size_t)most, sizeof *pairs);
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        const sy_entry *e = sy_checkpoint_at(a->tensors, i);
        const char *end = strstr(e->name, ".lora_A.weight"), *first = e->name + strlen("base_model.model.");
        if (end == NULL) continue;
        char *module = syi_format(ctx, "%.*s", (int)(end - first), first), *other = syi_format(ctx, "%.*s.lora_B.weight", (int)(end - e->name), e->name);
        const sy_entry *b = sy_checkpoint_find(a->tensors, other);
        if (b == NULL || count == most) return syi_fail(ctx, SY_E_INPUT, "%s is missing", other);
        syi_lora_pair *p = &pairs[count++];
        *p = (syi_lora_pair){module, {.dtype = SY_F32, .rank = 2, .dim = {e->dim[0], e->dim[1]}}, {.dtype = SY_F32, .rank = 2, .dim = {b->dim[0], b->dim[1]}}, 0};
        p->a.data = syi_alloc(ctx, (size_t)sy_tensor_bytes(&p->a));
        p->b.data = syi_alloc(ctx, (size_t)sy_tensor_bytes(&p->b));
        SYI_TRY(sy_entry_read_f32(ctx, e, 0, e->dim[0], p->a.data));
        SYI_TRY(sy_entry_read_f32(ctx, b, 0, b->dim[0], p->b.data));
        const char *leaf = strrchr(module, '.') != NULL ? strrchr(module, '.') + 1 : module;
        const json_t *alpha = json_object_get(alphas, leaf), *rank = json_object_get(ranks, leaf);
        if (alpha == NULL) alpha = json_object_get(a->config, "lora_alpha");
        if (rank != NULL && json_integer_value(rank) != e->dim[0]) return syi_fail(ctx, SY_E_INPUT, "%s: rank", module);
        p->scale = json_number_value(alpha) / (double)e->dim[0];
        syi_free(ctx, other);
    }
    const sy_status status = syi_lora_to_gguf(ctx, s, out, dtype, pairs, count);
    for (int64_t i = 0; i < count; i++) {
        syi_free(ctx, (char *)(uintptr_t)pairs[i].module);
        syi_free(ctx, pairs[i].a.data);
        syi_free(ctx, pairs[i].b.data);
    }
    syi_free(ctx, pairs);
    syi_adapter_close(a);
    syi_source_close(s);
    return status;
}

static sy_status run(sy_context *ctx, int argc, char **argv)
{
    const char *verb = argc > 2 ? argv[1] : "";
    if (strcmp(verb, "convert") == 0 && argc > 3) return convert(ctx, argc, argv);
    if (strcmp(verb, "dump") == 0 && argc > 3) return dump_checkpoint(ctx, argv[2], argv[3]);
    if (strcmp(verb, "model") == 0 && argc > 3) return dump_model(ctx, argv[2], argv[3]);
    if (strcmp(verb, "open") == 0) return only_open(ctx, argv[2]);
    if (strcmp(verb, "lora-to-gguf") == 0 && argc > 4)
        return lora_to_gguf(ctx, argv[2], argv[3], argv[4], argc > 5 ? (sy_dtype)sy_dtype_find(argv[5]) : SY_F32);
    if (strcmp(verb, "lora-from-gguf") == 0 && argc > 3) return syi_lora_from_gguf(ctx, argv[2], argv[3]);
    return syi_fail(ctx, SY_E_USAGE, "usage: io_tool convert|dump|model|open ...");
}

int main(int argc, char **argv)
{
    sy_context *ctx = sy_context_new();
    if (ctx == NULL) return 4;
    sy_log_set(ctx, log_line, NULL);
    const sy_status status = run(ctx, argc, argv);
    if (status != SY_OK) fprintf(stderr, "%s\n", sy_error_message(ctx));
    sy_context_free(ctx);
    return sy_status_exit(status);
}
