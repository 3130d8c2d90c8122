/* SPDX-License-Identifier: Apache-2.0 */
/* Writing a whole model: as a Hugging Face folder or as GGUF, in one file or several.
 *
 * Tensors stream through a buffer of a few megabytes, so that memory does not grow
 * with the model; conversion runs on all threads, row by row, so that the bytes do
 * not depend on how many there are. Folders and files appear complete or not at all. */
#include "gguf.h"
#include "source.h"

#include "model/model.h"
#include "tensor/convert.h"

#include <stdlib.h>

enum { BUFFER_BYTES = 16 << 20 };

typedef struct {
    sy_context *ctx;
    syi_source *s;
    syi_export *how;
    void *buffer;           /* BUFFER_BYTES, or one row (one head) if that is more   */
    size_t buffer_bytes;
    double start;
    int64_t done, total;
} job;

/* -- shared by both ------------------------------------------------------------------ */

static bool is_number(sy_dtype t)
{
    return sy_dtype_is_float(t) || sy_dtype_block_len(t) > 1 || t == SY_F8_E4M3 || t == SY_F8_E5M2;
}

static int dtype_asked(const syi_export *how)
{
    return (int)how->dtype;
}

/* Which matrices the source has most of, by bytes. */
static sy_dtype main_dtype(const sy_checkpoint *ck)
{
    int64_t bytes[SY_DTYPE_COUNT] = {0};
    sy_dtype best = SY_F32;
    for (int64_t i = 0; i < sy_checkpoint_count(ck); i++) {
        const sy_entry *e = sy_checkpoint_at(ck, i);
        if (e->rank >= 2 && is_number(e->dtype)) bytes[e->dtype] += e->bytes;
    }
    for (int t = 0; t < SY_DTYPE_COUNT; t++)
        if (bytes[t] > bytes[best]) best = (sy_dtype)t;
    return best;
}

static sy_status begin_job(job *j, int64_t total)
{
    j->start = syi_now();
    j->total = total;
    j->done = 0;
    j->how->tensors = j->how->bytes = 0;
    memset(j->how->types, 0, sizeof j->how->types);
    j->buffer_bytes = BUFFER_BYTES;
    j->buffer = syi_pages(j->ctx, j->buffer_bytes);
    return j->buffer != NULL ? SY_OK : sy_error_code(j->ctx);
}

static sy_status need_buffer(job *j, int64_t bytes)
{
    if ((size_t)bytes <= j->buffer_bytes) return SY_OK;
    syi_pages_free(j->ctx, j->buffer);
    j->buffer_bytes = (size_t)bytes;
    j->buffer = syi_pages(j->ctx, j->buffer_bytes);
    return j->buffer != NULL ? SY_OK : sy_error_code(j->ctx);
}

static sy_status tensor_done(job *j, int64_t bytes)
{
    j->how->tensors++;
    j->how->bytes += bytes;
    j->done++;
    const double seconds = syi_now() - j->start, rate = seconds > 0 ? (double)j->done / seconds : 0;
    const sy_progress p = {.what = "convert", .done = j->done, .total = j->total, .unit = "tensor", .seconds = seconds,
                           .eta = rate > 0 ? (double)(j->total - j->done) / rate : -1, .rate = rate, .rate_unit = "tensors",
                           .loss = __builtin_nan(""), .bytes = syi_rss_now()};
    syi_progress(j->ctx, &p);
    return sy_cancelled(j->ctx) ? syi_fail(j->ctx, SY_E_CANCELLED, "interrupted after %lld of %lld tensors; nothing was written",
                                           (long long)j->done, (long long)j->total)
                                : SY_OK;
}

/* Rows as f32, from whoever makes them. */
static sy_status rows_f32(job *j, const sy_entry *e, int64_t row, int64_t n, float *dst)
{
    if (j->how->rows != NULL) return j->how->rows(j->how->self, e, row, n, dst);
    return sy_entry_read_f32(j->ctx, e, row, n, dst);
}

/* Tensor i of what is written: the source's (NULL: left out), then those that come on top. */
static const sy_entry *entry_at(const job *j, int64_t i)
{
    const int64_t n = sy_checkpoint_count(j->s->tensors);
    if (i >= n) return &j->how->extra[i - n];
    const sy_entry *e = sy_checkpoint_at(j->s->tensors, i);
    return j->how->skip != NULL && j->how->skip(j->how->self, e) ? NULL : e;
}

/* Given with its bytes by the caller: written as it is. */
static bool is_given(const job *j, const sy_entry *e)
{
    return j->how->n_extra > 0 && e >= j->how->extra && e < j->how->extra + j->how->n_extra && e->data != NULL;
}

/* -- a folder ------------------------------------------------------------------------- */

static sy_dtype folder_dtype(const job *j, const sy_entry *e)
{
    const int asked = dtype_asked(j->how);
    if (!is_number(e->dtype) || is_given(j, e)) return e->dtype;
    if (asked >= 0) return (sy_dtype)asked;
    if (!j->s->gguf) return e->dtype;
    const sy_dtype most = main_dtype(j->s->tensors); /* GGUF keeps vectors in F32 whatever they were */
    return most == SY_F32 || most == SY_F16 ? most : SY_BF16;
}

static sy_status put_tensor(job *j, sy_writer *w, const sy_entry *e)
{
    sy_context *ctx = j->ctx;
    const int64_t rows = syi_entry_rows(e), cols = syi_entry_cols(e);
    const sy_dtype to = folder_dtype(j, e);
    const int64_t size = sy_dtype_block_bytes(to);
    if (rows == 0 || cols == 0) return tensor_done(j, 0);
    const bool own = j->how->rows != NULL && is_number(e->dtype) && !is_given(j, e); /* f32 first, then the type */
    const int64_t row_bytes = cols * (own ? size + 4 : size);
    const int64_t step = syi_max(1, BUFFER_BYTES / row_bytes);
    SYI_TRY(need_buffer(j, syi_min(step, rows) * row_bytes));
    for (int64_t row = 0; row < rows; row += step) {
        const int64_t n = syi_min(step, rows - row);
        void *data = j->buffer;
        if (own) {
            float *f = j->buffer;
            data = f + n * cols;
            SYI_TRY(rows_f32(j, e, row, n, f));
            const sy_entry made = {.name = e->name, .dtype = SY_F32, .rank = 2, .dim = {n, cols}, .data = f, .bytes = n * cols * 4, .file = e->file};
            SYI_TRY(sy_entry_read(ctx, &made, to, 0, n, data));
        } else {
            SYI_TRY(sy_entry_read(ctx, e, to, row, n, data));
        }
        SYI_TRY(sy_writer_put(w, e->name, row, n, data));
    }
    return tensor_done(j, rows * cols * size);
}

/* Matrices that folders keep the other way round: whole, since rows here are columns there. */
static sy_status put_transposed(job *j, sy_writer *w, const sy_entry *e)
{
    const int64_t rows = e->dim[0], cols = e->dim[1], n = rows * cols;
    const sy_dtype to = folder_dtype(j, e);
    const int64_t size = sy_dtype_block_bytes(to);
    if (n == 0) return tensor_done(j, 0);
    SYI_TRY(need_buffer(j, n * (8 + size)));
    float *f = j->buffer, *turned = f + n;
    SYI_TRY(rows_f32(j, e, 0, rows, f));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) turned[c * rows + r] = f[r * cols + c];
    const sy_entry made = {.name = e->name, .dtype = SY_F32, .rank = 2, .dim = {cols, rows}, .data = turned, .bytes = n * 4, .file = e->file};
    SYI_TRY(sy_entry_read(j->ctx, &made, to, 0, cols, turned + n));
    SYI_TRY(sy_writer_put(w, e->name, 0, cols, turned + n));
    return tensor_done(j, n * size);
}

/* As the row that it belongs to says. */
static bool is_turned(const job *j, const sy_entry *e)
{
    char scratch[SYI_MODEL_NAME_MAX];
    const sy_arch_tensor *row = e->rank == 2 ? syi_name_row(j->s->arch, e->name, scratch) : NULL;
    return row != NULL && (row->flags & SY_TENSOR_TRANSPOSED);
}

static sy_status write_weights(job *j, const char *dir)
{
    sy_context *ctx = j->ctx;
    const sy_checkpoint *ck = j->s->tensors;
    const int64_t n = sy_checkpoint_count(ck), all = n + j->how->n_extra;
    sy_writer *w = NULL;
    sy_status status;
    char *path = syi_join(ctx, dir, "model.safetensors");
    if (path == NULL) return sy_error_code(ctx);
    status = sy_writer_new(ctx, path, j->how->shard_bytes, &w);
    syi_free(ctx, path);
    if (status != SY_OK) return status;
    for (int64_t i = 0; i < all; i++) {
        const sy_entry *e = entry_at(j, i);
        int64_t dim[SY_MAX_RANK];
        if (e == NULL) continue;
        memcpy(dim, e->dim, sizeof dim);
        if (is_turned(j, e)) dim[0] = e->dim[1], dim[1] = e->dim[0];
        SYI_TRY_TO(fail, status, sy_writer_declare(w, e->name, folder_dtype(j, e), e->rank, dim));
    }
    SYI_TRY_TO(fail, status, sy_writer_begin(w));
    for (int64_t i = 0; i < all; i++) {
        const sy_entry *e = entry_at(j, i);
        if (e == NULL) continue;
        SYI_TRY_TO(fail, status, is_turned(j, e) ? put_transposed(j, w, e) : put_tensor(j, w, e));
        if (i < n) syi_mapped_forget(e->data, e->bytes); /* memory does not grow with the model */
    }
    return sy_writer_end(w);
fail:
    sy_writer_abort(w);
    return status;
}

static const char *torch_name(sy_dtype t)
{
    return t == SY_F32 ? "float32" : t == SY_F16 ? "float16" : t == SY_BF16 ? "bfloat16" : t == SY_F64 ? "float64" : NULL;
}

/* config.json of a folder keeps every byte but the type's name. */
static sy_status copy_config(job *j, const char *to)
{
    sy_context *ctx = j->ctx;
    const int asked = dtype_asked(j->how);
    const char *name = asked >= 0 ? torch_name((sy_dtype)asked) : NULL;
    int64_t size;
    char *from = syi_join(ctx, j->s->path, "config.json"), *text = NULL, value[32];
    if (from == NULL) return sy_error_code(ctx);
    sy_status status = syi_read_file(ctx, from, 512 << 20, &text, &size);
    syi_free(ctx, from);
    if (status == SY_OK && name != NULL) {
        const bool new_key = json_object_get(j->s->config, "dtype") != NULL, old_key = json_object_get(j->s->config, "torch_dtype") != NULL;
        snprintf(value, sizeof value, "\"%s\"", name);
        if (new_key) status = syi_json_set(ctx, &text, "dtype", value);
        if (status == SY_OK && (old_key || !new_key)) status = syi_json_set(ctx, &text, "torch_dtype", value);
    }
    if (status == SY_OK) status = syi_write_file(ctx, to, text, (int64_t)strlen(text));
    syi_free(ctx, text);
    return status;
}

static sy_status write_config(job *j, const char *dir)
{
    sy_context *ctx = j->ctx;
    char *path = syi_join(ctx, dir, "config.json");
    if (path == NULL) return sy_error_code(ctx);
    sy_status status;
    if (j->how->config == NULL && !j->s->gguf) {
        status = copy_config(j, path);
    } else {
        json_t *config = json_deep_copy(j->how->config != NULL ? j->how->config : j->s->config);
        const sy_entry *first = sy_checkpoint_at(j->s->tensors, 0);
        const char *name = first != NULL ? torch_name(folder_dtype(j, first)) : NULL;
        if (name != NULL && j->s->gguf) json_object_set_new(config, "torch_dtype", json_string(name));
        status = config != NULL ? syi_json_write(ctx, path, config, j->s->gguf) : syi_nomem(ctx, 0);
        json_decref(config);
    }
    syi_free(ctx, path);
    return status;
}

static sy_status write_json_file(job *j, const char *dir, const char *name, const json_t *value)
{
    if (value == NULL || json_object_size(value) == 0) return SY_OK;
    char *path = syi_join(j->ctx, dir, name);
    if (path == NULL) return sy_error_code(j->ctx);
    const sy_status status = syi_json_write(j->ctx, path, value, false);
    syi_free(j->ctx, path);
    return status;
}

static sy_status copy_beside(job *j, const char *dir)
{
    static const char *const names[] = {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                        "added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt",
                                        "tokenizer.model", "preprocessor_config.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "LICENSE"};
    for (int i = 0; i < SYI_COUNT(names); i++) {
        char *from = syi_join(j->ctx, j->s->path, names[i]), *to = syi_join(j->ctx, dir, names[i]);
        sy_status status = from == NULL || to == NULL ? sy_error_code(j->ctx) : SY_OK;
        if (status == SY_OK && syi_exists(from)) status = syi_copy_file(j->ctx, from, to);
        syi_free(j->ctx, from);
        syi_free(j->ctx, to);
        SYI_TRY(status);
    }
    return syi_pooling_copy(j->ctx, j->s->path, dir);
}

/* What a GGUF says about pooling, as sentence-transformers' files. */
static sy_status write_pooling(job *j, const char *dir)
{
    syi_pooling how;
    SYI_TRY(syi_pooling_read(j->ctx, j->s->path, &how));
    return how.stated ? syi_pooling_write(j->ctx, dir, &how, json_integer_value(json_object_get(j->s->config, "hidden_size"))) : SY_OK;
}

static sy_status write_files(job *j, const char *dir)
{
    SYI_TRY(write_config(j, dir));
    if (!j->s->gguf) return copy_beside(j, dir);
    SYI_TRY(write_json_file(j, dir, "generation_config.json", j->s->generation));
    SYI_TRY(write_json_file(j, dir, "tokenizer.json", j->s->tokenizer));
    SYI_TRY(write_pooling(j, dir));
    return write_json_file(j, dir, "tokenizer_config.json", j->s->tokenizer_config);
}

sy_status syi_source_files(syi_source *s, const char *dir, syi_export *how)
{
    job j = {.ctx = s->ctx, .s = s, .how = how};
    return write_files(&j, dir);
}

static sy_status write_folder(job *j, const char *dir)
{
    SYI_TRY(write_files(j, dir));
    return write_weights(j, dir);
}

static sy_status check_export(syi_source *s, const syi_export *how)
{
    if (s->config == NULL || s->arch == NULL) return syi_fail(s->ctx, SY_E_UNSUPPORTED, "%s: without a known architecture it cannot be converted", s->path);
    if (how->n_extra > 0 && how->rows == NULL && how->extra[0].data == NULL) return syi_fail(s->ctx, SY_E_BUG, "%s: nobody makes the tensors that are to be added", s->path);
    return SY_OK;
}

sy_status syi_source_to_folder(syi_source *s, const char *dir, syi_export *how)
{
    sy_context *ctx = s->ctx;
    job j = {.ctx = ctx, .s = s, .how = how};
    const int asked = dtype_asked(how);
    SYI_TRY(check_export(s, how));
    if (asked >= 0 && torch_name((sy_dtype)asked) == NULL)
        return syi_fail(ctx, SY_E_USAGE, "%s: a folder can have tensors of type F32, F16, BF16 or F64, not %s", dir, sy_dtype_name((sy_dtype)asked));
    SYI_TRY(begin_job(&j, sy_checkpoint_count(s->tensors) + how->n_extra));
    sy_status status;
    if (how->into) {
        status = write_folder(&j, dir);
    } else {
        syi_dir out = {0};
        status = syi_dir_begin(ctx, dir, false, &out);
        if (status == SY_OK) status = write_folder(&j, out.work);
        if (status == SY_OK) status = syi_dir_commit(&out);
        syi_dir_abort(&out);
    }
    syi_pages_free(ctx, j.buffer);
    return status;
}

/* -- GGUF ---------------------------------------------------------------------------------- */

/* What a tensor of the model becomes in the file. */
typedef struct {
    const sy_entry *e;
    char name[SYI_MODEL_NAME_MAX];
    sy_dtype dtype;
    syi_gguf_reason why;
    int64_t heads;        /* > 0: rows go out permuted                               */
    float shift;          /* added to every number                                   */
    int64_t skip;         /* rows at the beginning that stay out                     */
    bool raw;             /* bytes as they are                                       */
} item;

static sy_status plan_tensor(job *j, const void *config, const sy_entry *e, item *out)
{
    sy_context *ctx = j->ctx;
    const sy_arch *arch = j->s->arch;
    const sy_arch_tensor *row = syi_name_to_gguf(arch, e->name, out->name);
    if (row == NULL)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tensor %s has no name in GGUF's %s architecture", j->s->path, e->name, arch->gguf_arch);
    out->e = e;
    const syi_gguf_choice choice = syi_gguf_choose(dtype_asked(j->how), e, row);
    out->dtype = is_given(j, e) ? e->dtype : choice.dtype;
    if (!is_given(j, e)) out->why = choice.why;
    out->heads = 0;
    if (row->flags & SY_TENSOR_PERMUTE_Q) syi_arch_field(arch, config, "heads", &out->heads);
    if (row->flags & SY_TENSOR_PERMUTE_K) syi_arch_field(arch, config, "kv_heads", &out->heads);
    if (out->heads > 0 && (e->rank < 1 || e->dim[0] % (2 * out->heads) != 0))
        return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s: %lld rows are not %lld heads of an even size", j->s->path, e->name,
                        (long long)(e->rank > 0 ? e->dim[0] : 0), (long long)out->heads);
    out->shift = row->flags & SY_TENSOR_FROM_ONE ? 1 : 0;
    if (row->role == SY_ROLE_POSITION) syi_arch_field(arch, config, "first_position", &out->skip);
    if (out->skip > 0 && (e->rank != 2 || e->dim[0] <= out->skip))
        return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s: more than %lld rows were expected", j->s->path, e->name, (long long)out->skip);
    out->raw = is_given(j, e) ? (int64_t)e->permute_heads == out->heads
                              : j->how->rows == NULL && out->dtype == e->dtype && !e->transposed && out->skip == 0 && out->shift + e->shift == 0 && (int64_t)e->permute_heads == out->heads;
    if (!out->raw && !syi_can_write(out->dtype))
        return syi_fail(ctx, SY_E_UNSUPPORTED, "tensor %s: %s is read but not written; ask for another type (--dtype f16, q8_0, q4_k ...)", e->name,
                        sy_dtype_name(out->dtype));
    return SY_OK;
}

/* Rows of one head from Hugging Face's order (first halves, then second halves) to
 * GGUF's (the two of a rotated pair side by side). */
static void permute_head(const float *from, float *to, int64_t head_dim, int64_t cols)
{
    for (int64_t i = 0; i < head_dim; i++) {
        const int64_t at = (i % (head_dim / 2)) * 2 + i / (head_dim / 2);
        memcpy(to + at * cols, from + i * cols, (size_t)cols * sizeof *to);
    }
}

static sy_status put_item(job *j, syi_gguf_writer *w, const item *it)
{
    const sy_entry *e = it->e;
    const bool vector = e->rank < 2;
    const int64_t rows = vector && it->heads > 0 ? syi_entry_cols(e) : syi_entry_rows(e) - it->skip;
    const int64_t cols = vector && it->heads > 0 ? 1 : syi_entry_cols(e);
    const int64_t len = sy_dtype_block_len(it->dtype), bytes = rows * cols / len * sy_dtype_block_bytes(it->dtype);
    if (rows == 0 || cols == 0) return tensor_done(j, 0);
    if (it->raw) {
        SYI_TRY(syi_gguf_put_raw(w, it->name, 0, syi_entry_rows(e), e->data));
        return tensor_done(j, bytes);
    }
    if (vector && it->heads > 0) { /* a bias: all at once, its elements are the rows */
        SYI_TRY(need_buffer(j, rows * 8));
        float *f = j->buffer, *to = f + rows;
        SYI_TRY(rows_f32(j, e, 0, 1, f));
        for (int64_t h = 0; h < it->heads; h++) permute_head(f + h * (rows / it->heads), to + h * (rows / it->heads), rows / it->heads, 1);
        SYI_TRY(syi_gguf_put_rows(w, it->name, 0, 1, to));
        return tensor_done(j, bytes);
    }
    const int64_t unit = it->heads > 0 ? rows / it->heads : 1, copies = it->heads > 0 ? 2 : 1;
    const int64_t step = syi_max(1, BUFFER_BYTES / (cols * 4 * copies) / unit) * unit;
    SYI_TRY(need_buffer(j, syi_min(step, rows) * cols * 4 * copies));
    for (int64_t row = 0; row < rows; row += step) {
        const int64_t n = syi_min(step, rows - row);
        float *f = j->buffer, *out = f;
        SYI_TRY(rows_f32(j, e, it->skip + row, n, f));
        for (int64_t i = 0; it->shift != 0 && i < n * cols; i++) f[i] += it->shift;
        if (it->heads > 0) {
            out = f + n * cols;
            for (int64_t r = 0; r < n; r += unit) permute_head(f + r * cols, out + r * cols, unit, cols);
        }
        SYI_TRY(syi_gguf_put_rows(w, it->name, row, n, out));
    }
    return tensor_done(j, bytes);
}

static const char *model_name(const job *j)
{
    const char *name = json_string_value(json_object_get(j->s->config, "_name_or_path"));
    return name != NULL && name[0] != '\0' ? syi_basename(name) : syi_basename(j->s->path);
}

static sy_status put_general(job *j, syi_gguf_writer *w, sy_dtype most)
{
    const syi_gguf *g = j->s->gguf ? j->s->tensors->gguf : NULL;
    SYI_TRY(syi_gguf_put_str(w, "general.architecture", j->s->arch->gguf_arch, -1));
    SYI_TRY(syi_gguf_put_str(w, "general.type", "model", -1));
    SYI_TRY(syi_gguf_put_u32(w, "general.file_type", syi_gguf_file_type(most)));
    SYI_TRY(syi_gguf_put_u32(w, "general.quantization_version", 2));
    for (int64_t i = 0; g != NULL && i < syi_gguf_keys(g); i++) { /* name, licence, authors ... */
        const char *key = syi_gguf_key(g, i, NULL);
        if (syi_starts(key, "general.") && strcmp(key, "general.alignment") != 0 && !syi_gguf_has_key(w, key))
            SYI_TRY(syi_gguf_copy_key(w, g, key));
    }
    if (!syi_gguf_has_key(w, "general.name")) SYI_TRY(syi_gguf_put_str(w, "general.name", model_name(j), -1));
    return SY_OK;
}

/* The tensors in the order of the architecture's rows, block by block. */
static sy_status plan_all(job *j, const void *config, item *items, int64_t *out_n)
{
    const sy_checkpoint *ck = j->s->tensors;
    int64_t tied = 0, n = 0;
    syi_arch_field(j->s->arch, config, "tied", &tied);
    for (int64_t i = 0; i < sy_checkpoint_count(ck) + j->how->n_extra; i++) {
        const sy_entry *e = entry_at(j, i);
        if (e == NULL) continue;
        if (syi_ends(e->name, "rotary_emb.inv_freq")) continue; /* left in by old exporters; computed from the config */
        if (tied && strcmp(e->name, "lm_head.weight") == 0) continue;
        char scratch[SYI_MODEL_NAME_MAX];
        const sy_arch_tensor *row = syi_name_row(j->s->arch, e->name, scratch);
        if (row != NULL && (row->flags & SY_TENSOR_COUNTER)) continue; /* nobody needs it */
        SYI_TRY(plan_tensor(j, config, e, &items[n]));
        n++;
    }
    *out_n = n;
    return SY_OK;
}

static sy_dtype most_of(const item *items, int64_t n)
{
    int64_t count[SY_DTYPE_COUNT] = {0};
    sy_dtype best = SY_F32;
    for (int64_t i = 0; i < n; i++)
        if (items[i].e->rank >= 2) count[items[i].dtype] += syi_entry_rows(items[i].e) * syi_entry_cols(items[i].e);
    for (int t = 0; t < SY_DTYPE_COUNT; t++)
        if (count[t] > count[best]) best = (sy_dtype)t;
    return best;
}

static sy_status count_only(job *j, const item *items, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const int64_t numbers = syi_entry_rows(items[i].e) * syi_entry_cols(items[i].e);
        j->how->tensors++;
        j->how->bytes += numbers / sy_dtype_block_len(items[i].dtype) * sy_dtype_block_bytes(items[i].dtype);
    }
    return SY_OK;
}

/* Has the model a head that sorts into classes? */
static bool has_classes(const job *j, const item *items, int64_t n)
{
    char scratch[SYI_MODEL_NAME_MAX];
    for (int64_t i = 0; i < n && j->s->arch->head == SY_HEAD_CLASS; i++) {
        const sy_arch_tensor *row = syi_name_row(j->s->arch, items[i].e->name, scratch);
        if (row != NULL && row->role == SY_ROLE_HEAD) return true;
    }
    return false;
}

static sy_status write_gguf(job *j, syi_gguf_writer *w, void *config, syi_arena *arena, item *items)
{
    const sy_arch *arch = j->s->arch;
    const json_t *json = j->how->config != NULL ? j->how->config : j->s->config;
    int64_t n = 0, vocab = 0;
    syi_rope_vector rope[SYI_ROPE_VECTORS];
    int ropes = 0;
    SYI_TRY(plan_all(j, config, items, &n));
    SYI_TRY(put_general(j, w, most_of(items, n)));
    const bool classes = has_classes(j, items, n);
    SYI_TRY(syi_config_to_gguf(j->ctx, w, arch, config, json, classes));
    if (arch->head == SY_HEAD_CLASS) SYI_TRY(syi_pooling_to_gguf(j->ctx, w, arch->gguf_arch, j->s->path, classes));
    syi_arch_field(arch, config, "vocab", &vocab);
    SYI_TRY(syi_source_tokenizer(j->s));
    SYI_TRY(syi_tokenizer_to_gguf(w, j->s, vocab));
    SYI_TRY(syi_rope_to_gguf(j->ctx, arch, config, json, arena, rope, &ropes));
    for (int i = 0; i < ropes; i++) SYI_TRY(syi_gguf_declare(w, rope[i].name, SY_F32, 1, &rope[i].n));
    for (int64_t i = 0; i < n; i++) {
        int64_t dim[SY_MAX_RANK];
        memcpy(dim, items[i].e->dim, sizeof dim);
        dim[0] -= items[i].skip;
        SYI_TRY(syi_gguf_declare(w, items[i].name, items[i].dtype, items[i].e->rank, dim));
        j->how->types[items[i].dtype][items[i].why]++;
    }
    syi_gguf_split(w, j->how->shard_bytes);
    if (j->how->dry) return count_only(j, items, n);
    SYI_TRY(syi_gguf_begin(w));
    j->how->files = syi_gguf_files(w);
    for (int i = 0; i < ropes; i++) SYI_TRY(syi_gguf_put_rows(w, rope[i].name, 0, 1, rope[i].values));
    j->total = n;
    const sy_checkpoint *ck = j->s->tensors;
    for (int64_t i = 0; i < n; i++) {
        SYI_TRY(put_item(j, w, &items[i]));
        if (items[i].e == sy_checkpoint_find(ck, items[i].e->name)) syi_mapped_forget(items[i].e->data, items[i].e->bytes);
    }
    return SY_OK;
}

sy_status syi_source_to_gguf(syi_source *s, const char *file, syi_export *how)
{
    sy_context *ctx = s->ctx;
    job j = {.ctx = ctx, .s = s, .how = how};
    syi_gguf_writer *w = NULL;
    syi_arena *arena = NULL;
    item *items = NULL;
    void *config = NULL;
    sy_status status;
    SYI_TRY(check_export(s, how));
    if (s->arch->gguf_arch == NULL)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: GGUF has no architecture for %s models; give OUT the name of a folder instead", s->path, s->arch->name);
    SYI_TRY_TO(done, status, begin_job(&j, 0));
    SYI_TRY_TO(done, status, syi_arena_new(ctx, 4096, &arena));
    SYI_TRY_TO(done, status, syi_arch_config(ctx, s->arch, how->config != NULL ? how->config : s->config, arena, &config));
    items = syi_calloc(ctx, (size_t)(sy_checkpoint_count(s->tensors) + how->n_extra) + 1, sizeof *items);
    if (items == NULL) {
        status = sy_error_code(ctx);
        goto done;
    }
    SYI_TRY_TO(done, status, syi_gguf_writer_new(ctx, file, &w));
    SYI_TRY_TO(done, status, write_gguf(&j, w, config, arena, items));
    if (!how->dry) {
        status = syi_gguf_end(w);
        w = NULL;
    }
done:
    syi_gguf_writer_abort(w);
    syi_arena_free(arena);
    syi_free(ctx, items);
    if (j.buffer != NULL) syi_pages_free(ctx, j.buffer);
    return status;
}
