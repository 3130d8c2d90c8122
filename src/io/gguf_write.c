/* SPDX-License-Identifier: Apache-2.0 */
/* Writing GGUF, version 3: keys, then the list of tensors, then their data in any
 * order.
 *
 * Keys are gathered in memory; tensors are declared before the first byte is
 * written, so the space is reserved early; the file appears under its name
 * complete or not at all. */
#include "gguf.h"
#include "tensor/convert.h"

typedef struct {
    const char *name;
    sy_dtype dtype;
    int rank;
    int64_t dim[SY_MAX_RANK];
    int64_t rows, cols, row_bytes, bytes, at;
    uint8_t *have;      /* a bit a row */
    int64_t left;
} item;

struct syi_gguf_writer {
    sy_context *ctx;
    char *path;
    syi_arena *arena;
    syi_text keys;
    int64_t n_keys;
    syi_map *key_names;
    item *items;
    int64_t n, cap;
    syi_map *names;
    syi_file *file;
    bool begun;
};

sy_status syi_gguf_writer_new(sy_context *ctx, const char *path, syi_gguf_writer **out)
{
    *out = NULL;
    syi_gguf_writer *w = syi_calloc(ctx, 1, sizeof *w);
    if (w == NULL) return sy_error_code(ctx);
    w->ctx = ctx;
    syi_text_init(&w->keys, ctx, (size_t)1 << 31);
    sy_status status;
    SYI_TRY_TO(fail, status, syi_arena_new(ctx, 64 * 1024, &w->arena));
    SYI_TRY_TO(fail, status, syi_map_new(ctx, &w->names));
    SYI_TRY_TO(fail, status, syi_map_new(ctx, &w->key_names));
    w->path = syi_strdup(ctx, path);
    if (w->path == NULL) {
        status = sy_error_code(ctx);
        goto fail;
    }
    *out = w;
    return SY_OK;
fail:
    syi_gguf_writer_abort(w);
    return status;
}

void syi_gguf_writer_abort(syi_gguf_writer *w)
{
    if (w == NULL) return;
    syi_file_abort(w->file);
    syi_text_free(&w->keys);
    if (w->names != NULL) syi_map_free(w->names);
    if (w->key_names != NULL) syi_map_free(w->key_names);
    if (w->arena != NULL) syi_arena_free(w->arena);
    syi_free(w->ctx, w->items);
    syi_free(w->ctx, w->path);
    syi_free(w->ctx, w);
}

/* -- keys --------------------------------------------------------------------- */

static void add(syi_gguf_writer *w, const void *p, size_t n)
{
    syi_text_add(&w->keys, p, n);
}

static void add_string(syi_gguf_writer *w, const char *s, int64_t len)
{
    const uint64_t n = (uint64_t)len;
    add(w, &n, 8);
    add(w, s, (size_t)len);
}

static sy_status begin_key(syi_gguf_writer *w, const char *key, uint32_t type)
{
    int64_t unused;
    if (w->begun) return syi_fail(w->ctx, SY_E_BUG, "%s: key %s after the header was written", w->path, key);
    if (syi_map_get(w->key_names, key, strlen(key), &unused)) return syi_fail(w->ctx, SY_E_BUG, "%s: key %s is written twice", w->path, key);
    SYI_TRY(syi_map_set(w->key_names, key, strlen(key), w->n_keys));
    add_string(w, key, (int64_t)strlen(key));
    add(w, &type, 4);
    w->n_keys++;
    return SY_OK;
}

static sy_status end_key(syi_gguf_writer *w)
{
    return w->keys.failed ? sy_error_code(w->ctx) : SY_OK;
}

static sy_status put_plain(syi_gguf_writer *w, const char *key, uint32_t type, const void *value, size_t size)
{
    SYI_TRY(begin_key(w, key, type));
    add(w, value, size);
    return end_key(w);
}

sy_status syi_gguf_put_str(syi_gguf_writer *w, const char *key, const char *value, int64_t len)
{
    SYI_TRY(begin_key(w, key, SYI_GGUF_STRING));
    add_string(w, value, len < 0 ? (int64_t)strlen(value) : len);
    return end_key(w);
}

sy_status syi_gguf_put_u32(syi_gguf_writer *w, const char *key, uint32_t v)
{
    return put_plain(w, key, SYI_GGUF_U32, &v, 4);
}

sy_status syi_gguf_put_i32(syi_gguf_writer *w, const char *key, int32_t v)
{
    return put_plain(w, key, SYI_GGUF_I32, &v, 4);
}

sy_status syi_gguf_put_f32(syi_gguf_writer *w, const char *key, float v)
{
    return put_plain(w, key, SYI_GGUF_F32, &v, 4);
}

sy_status syi_gguf_put_bool(syi_gguf_writer *w, const char *key, bool v)
{
    const uint8_t b = v;
    return put_plain(w, key, SYI_GGUF_BOOL, &b, 1);
}

static sy_status begin_array(syi_gguf_writer *w, const char *key, uint32_t type, int64_t n)
{
    const uint64_t count = (uint64_t)n;
    SYI_TRY(begin_key(w, key, SYI_GGUF_ARRAY));
    add(w, &type, 4);
    add(w, &count, 8);
    return SY_OK;
}

sy_status syi_gguf_put_strs(syi_gguf_writer *w, const char *key, int64_t n, const char *const *s, const int64_t *len)
{
    SYI_TRY(begin_array(w, key, SYI_GGUF_STRING, n));
    for (int64_t i = 0; i < n; i++) add_string(w, s[i], len != NULL ? len[i] : (int64_t)strlen(s[i]));
    return end_key(w);
}

sy_status syi_gguf_put_f32s(syi_gguf_writer *w, const char *key, int64_t n, const float *v)
{
    SYI_TRY(begin_array(w, key, SYI_GGUF_F32, n));
    add(w, v, (size_t)n * 4);
    return end_key(w);
}

sy_status syi_gguf_put_i32s(syi_gguf_writer *w, const char *key, int64_t n, const int32_t *v)
{
    SYI_TRY(begin_array(w, key, SYI_GGUF_I32, n));
    add(w, v, (size_t)n * 4);
    return end_key(w);
}

bool syi_gguf_has_key(const syi_gguf_writer *w, const char *key)
{
    int64_t unused;
    return syi_map_get(w->key_names, key, strlen(key), &unused);
}

sy_status syi_gguf_copy_key(syi_gguf_writer *w, const syi_gguf *from, const char *key)
{
    const uint8_t *data;
    int64_t bytes;
    const int type = syi_gguf_raw(from, key, &data, &bytes);
    if (type < 0) return syi_fail(w->ctx, SY_E_BUG, "%s: there is no key %s to copy", w->path, key);
    return put_plain(w, key, (uint32_t)type, data, (size_t)bytes);
}

/* -- tensors --------------------------------------------------------------------- */

sy_status syi_gguf_declare(syi_gguf_writer *w, const char *name, sy_dtype dtype, int rank, const int64_t *dim)
{
    sy_context *ctx = w->ctx;
    int64_t unused, count;
    char text[128];
    if (w->begun) return syi_fail(ctx, SY_E_BUG, "%s: tensor %s declared after the header was written", w->path, name);
    if (strlen(name) > SYI_GGUF_NAME_MAX)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: the name %s is longer than the %d bytes that GGUF loaders accept", w->path, name,
                        SYI_GGUF_NAME_MAX);
    if (rank < 0 || rank > SYI_GGUF_DIMS_MAX)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tensor %s: GGUF has at most %d dimensions, not %d", w->path, name, SYI_GGUF_DIMS_MAX, rank);
    if ((unsigned)dtype >= SY_DTYPE_COUNT || syi_gguf_dtype_id(dtype) < 0)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tensor %s: GGUF has no type %s", w->path, name, sy_dtype_name(dtype));
    if (syi_map_get(w->names, name, strlen(name), &unused)) return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s is declared twice", w->path, name);
    SYI_TRY(syi_grow(ctx, (void **)&w->items, &w->cap, w->n + 1, sizeof *w->items, SYI_TENSORS_MAX));
    item *t = &w->items[w->n];
    *t = (item){.name = syi_arena_strdup(w->arena, name), .dtype = dtype, .rank = rank, .rows = 1, .cols = 1};
    if (t->name == NULL) return sy_error_code(ctx);
    for (int i = 0; i < rank; i++) t->dim[i] = dim[i];
    if (!syi_shape_bytes(dtype, rank, dim, &count, &t->bytes))
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tensor %s: shape %s is too large, or its rows are no whole blocks of %s", w->path, name,
                        syi_shape_text(text, rank, dim), sy_dtype_name(dtype));
    for (int i = 0; i + 1 < rank; i++) t->rows *= dim[i];
    if (rank > 0) t->cols = dim[rank - 1];
    t->row_bytes = t->cols / sy_dtype_block_len(dtype) * sy_dtype_block_bytes(dtype);
    if (t->bytes == 0) t->rows = 0;
    t->left = t->rows;
    SYI_TRY(syi_map_set(w->names, name, strlen(name), w->n));
    w->n++;
    return SY_OK;
}

static int64_t aligned(int64_t n)
{
    return syi_ceil_div(n, SYI_GGUF_ALIGNMENT) * SYI_GGUF_ALIGNMENT;
}

sy_status syi_gguf_begin(syi_gguf_writer *w)
{
    sy_context *ctx = w->ctx;
    if (w->begun) return syi_fail(ctx, SY_E_BUG, "%s: begun twice", w->path);
    w->begun = true;
    syi_text t;
    syi_text_init(&t, ctx, (size_t)1 << 31);
    const uint32_t version = 3;
    const uint64_t tensors = (uint64_t)w->n, keys = (uint64_t)w->n_keys;
    syi_text_add(&t, "GGUF", 4);
    syi_text_add(&t, (const char *)&version, 4);
    syi_text_add(&t, (const char *)&tensors, 8);
    syi_text_add(&t, (const char *)&keys, 8);
    syi_text_add(&t, w->keys.s, w->keys.len);
    int64_t at = 0;
    sy_status status = SY_OK;
    for (int64_t i = 0; i < w->n && status == SY_OK; i++) {
        item *x = &w->items[i];
        const uint64_t length = strlen(x->name), offset = (uint64_t)at;
        const uint32_t rank = (uint32_t)x->rank, type = (uint32_t)syi_gguf_dtype_id(x->dtype);
        syi_text_add(&t, (const char *)&length, 8);
        syi_text_puts(&t, x->name);
        syi_text_add(&t, (const char *)&rank, 4);
        for (int d = x->rank - 1; d >= 0; d--) {
            const uint64_t dim = (uint64_t)x->dim[d];
            syi_text_add(&t, (const char *)&dim, 8);
        }
        syi_text_add(&t, (const char *)&type, 4);
        syi_text_add(&t, (const char *)&offset, 8);
        x->at = at;
        if (x->bytes > (INT64_MAX >> 1) - at) status = syi_fail(ctx, SY_E_INPUT, "%s: the tensors are too large for one file", w->path);
        else at = aligned(at + x->bytes);
        x->have = syi_arena_alloc(w->arena, (size_t)(x->rows / 8) + 1);
        if (x->have == NULL) status = sy_error_code(ctx);
    }
    if (status == SY_OK && t.failed) status = sy_error_code(ctx);
    if (status != SY_OK) goto done;
    const int64_t header = (int64_t)t.len, start = aligned(header);
    static const char zeros[SYI_GGUF_ALIGNMENT];
    for (int64_t i = 0; i < w->n; i++) w->items[i].at += start;
    SYI_TRY_TO(done, status, syi_file_create(ctx, w->path, &w->file));
    SYI_TRY_TO(done, status, syi_file_reserve(w->file, start + at));
    SYI_TRY_TO(done, status, syi_file_write_at(w->file, 0, t.s, header));
    SYI_TRY_TO(done, status, syi_file_write_at(w->file, header, zeros, start - header));
    for (int64_t i = 0; i < w->n; i++) { /* the padding after each tensor */
        const int64_t end = w->items[i].at + w->items[i].bytes;
        if (aligned(end) > end) SYI_TRY_TO(done, status, syi_file_write_at(w->file, end, zeros, aligned(end) - end));
    }
done:
    syi_text_free(&t);
    return status;
}

static sy_status find_rows(syi_gguf_writer *w, const char *name, int64_t row, int64_t n, item **out)
{
    int64_t i;
    if (!w->begun || !syi_map_get(w->names, name, strlen(name), &i))
        return syi_fail(w->ctx, SY_E_BUG, "%s: tensor %s was not declared before writing began", w->path, name);
    item *t = &w->items[i];
    const int64_t rows = t->bytes == 0 ? INT64_MAX : t->rows;
    if (row < 0 || n < 0 || row > rows || n > rows - row)
        return syi_fail(w->ctx, SY_E_BUG, "%s: tensor %s: rows [%lld, +%lld) put of %lld", w->path, name, (long long)row, (long long)n,
                        (long long)t->rows);
    *out = t;
    return SY_OK;
}

static sy_status put(syi_gguf_writer *w, item *t, int64_t row, int64_t n, const void *data)
{
    SYI_TRY(syi_file_write_at(w->file, t->at + row * t->row_bytes, data, n * t->row_bytes));
    for (int64_t r = row; r < row + n; r++) {
        const uint8_t bit = (uint8_t)(1u << (r % 8));
        t->left -= !(t->have[r / 8] & bit);
        t->have[r / 8] |= bit;
    }
    return SY_OK;
}

sy_status syi_gguf_put_raw(syi_gguf_writer *w, const char *name, int64_t row, int64_t n, const void *data)
{
    item *t = NULL;
    SYI_TRY(find_rows(w, name, row, n, &t));
    return t->bytes == 0 || n == 0 ? SY_OK : put(w, t, row, n, data);
}

sy_status syi_gguf_put_rows(syi_gguf_writer *w, const char *name, int64_t row, int64_t n, const float *data)
{
    sy_context *ctx = w->ctx;
    item *t = NULL;
    SYI_TRY(find_rows(w, name, row, n, &t));
    if (t->bytes == 0 || n == 0) return SY_OK;
    if (t->dtype == SY_F32) return put(w, t, row, n, data);
    if (!syi_can_write(t->dtype))
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tensor %s: writing %s is not supported", w->path, name, sy_dtype_name(t->dtype));
    uint8_t *coded = syi_alloc(ctx, (size_t)(n * t->row_bytes));
    if (coded == NULL) return sy_error_code(ctx);
    const int threads = syi_omp(ctx);
    const int64_t cols = t->cols, row_bytes = t->row_bytes;
    const sy_dtype dtype = t->dtype;
#pragma omp parallel for num_threads(threads) if (n * cols >= SYI_PARALLEL_FROM)
    for (int64_t r = 0; r < n; r++) syi_from_f32(dtype, data + r * cols, coded + r * row_bytes, cols);
    sy_status status = put(w, t, row, n, coded);
    syi_free(ctx, coded);
    return status;
}

sy_status syi_gguf_end(syi_gguf_writer *w)
{
    sy_status status = SY_OK;
    if (!w->begun) status = syi_fail(w->ctx, SY_E_BUG, "%s: ended before it was begun", w->path);
    for (int64_t i = 0; status == SY_OK && i < w->n; i++)
        if (w->items[i].left > 0)
            status = syi_fail(w->ctx, SY_E_BUG, "%s: %lld of the %lld rows of tensor %s were never put", w->path, (long long)w->items[i].left,
                              (long long)w->items[i].rows, w->items[i].name);
    if (status == SY_OK) {
        syi_file *file = w->file;
        w->file = NULL;
        status = syi_file_commit(file);
    }
    syi_gguf_writer_abort(w);
    return status;
}
