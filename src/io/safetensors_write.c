/* SPDX-License-Identifier: Apache-2.0 */
/* Writing safetensors, in one file or in shards, tensor by tensor.
 *
 * Everything is declared first, so the header is known, the space reserved and a
 * full disk seen before any work is lost. Order as the format's reference writer
 * has it: largest type first, then by name, header padded to 8 bytes, so that
 * tensors of a type stay aligned to it. Files appear under their names at the end,
 * the index last. */
#include "checkpoint.h"

#include <stdlib.h>

typedef struct {
    const char *name;
    sy_dtype dtype;
    int rank;
    int64_t dim[SY_MAX_RANK];
    int64_t rows, row_bytes, bytes;
    int64_t shard, at;         /* which file, and where in it                    */
    uint8_t *have;             /* a bit a row: put                               */
    int64_t left;              /* rows not yet put                               */
} item;

typedef struct { syi_file *file; char *path; } shard;

struct sy_writer {
    sy_context *ctx;
    char *path;
    int64_t shard_bytes;
    syi_arena *arena;
    json_t *meta;
    item *items;
    int64_t n, cap;
    syi_map *names;
    shard *shards;
    int64_t count;             /* of shards, once begun                          */
    bool begun;
    bool in_place;             /* files under their own names, resumable          */
};

sy_status sy_writer_new(sy_context *ctx, const char *path, int64_t shard_bytes, sy_writer **out)
{
    *out = NULL;
    sy_writer *w = syi_calloc(ctx, 1, sizeof *w);
    if (w == NULL) return sy_error_code(ctx);
    w->ctx = ctx;
    w->shard_bytes = shard_bytes;
    sy_status status;
    SYI_TRY_TO(fail, status, syi_arena_new(ctx, 64 * 1024, &w->arena));
    SYI_TRY_TO(fail, status, syi_map_new(ctx, &w->names));
    w->path = syi_strdup(ctx, path);
    w->meta = json_pack("{s:s}", "format", "pt");
    if (w->path == NULL || w->meta == NULL) {
        status = syi_nomem(ctx, strlen(path) + 1);
        goto fail;
    }
    if (shard_bytes > 0 && !syi_ends(path, ".safetensors")) {
        status = syi_fail(ctx, SY_E_USAGE, "%s: shards need a name that ends in .safetensors", path);
        goto fail;
    }
    *out = w;
    return SY_OK;
fail:
    sy_writer_abort(w);
    return status;
}

void sy_writer_abort(sy_writer *w)
{
    if (w == NULL) return;
    for (int64_t i = 0; i < w->count; i++) {
        syi_file_abort(w->shards[i].file);
        syi_free(w->ctx, w->shards[i].path);
    }
    if (w->names != NULL) syi_map_free(w->names);
    if (w->arena != NULL) syi_arena_free(w->arena);
    json_decref(w->meta);
    syi_free(w->ctx, w->shards);
    syi_free(w->ctx, w->items);
    syi_free(w->ctx, w->path);
    syi_free(w->ctx, w);
}

sy_status sy_writer_meta(sy_writer *w, const char *key, const char *value)
{
    if (w->begun) return syi_fail(w->ctx, SY_E_BUG, "%s: metadata after the header was written", w->path);
    if (json_object_set_new(w->meta, key, json_string(value)) != 0)
        return syi_fail(w->ctx, SY_E_INPUT, "%s: metadata \"%s\" is not UTF-8 text", w->path, key);
    return SY_OK;
}

sy_status sy_writer_declare(sy_writer *w, const char *name, sy_dtype dtype, int rank, const int64_t *dim)
{
    sy_context *ctx = w->ctx;
    char text[128];
    int64_t unused, count;
    if (w->begun) return syi_fail(ctx, SY_E_BUG, "%s: tensor %s declared after the header was written", w->path, name);
    if (rank < 0 || rank > SY_MAX_RANK) return syi_fail(ctx, SY_E_USAGE, "%s: tensor %s: rank %d is not in 0..%d", w->path, name, rank, SY_MAX_RANK);
    if ((unsigned)dtype >= SY_DTYPE_COUNT || sy_dtype_block_len(dtype) != 1)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tensor %s: safetensors has no type %s; convert it first", w->path, name, sy_dtype_name(dtype));
    if (strcmp(name, "__metadata__") == 0 || !syi_utf8_ok(name, strlen(name)))
        return syi_fail(ctx, SY_E_INPUT, "%s: \"%s\" cannot be the name of a tensor", w->path, name);
    if (syi_map_get(w->names, name, strlen(name), &unused)) return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s is declared twice", w->path, name);
    SYI_TRY(syi_grow(ctx, (void **)&w->items, &w->cap, w->n + 1, sizeof *w->items, SYI_TENSORS_MAX));
    item *t = &w->items[w->n];
    *t = (item){.name = syi_arena_strdup(w->arena, name), .dtype = dtype, .rank = rank, .rows = 1};
    if (t->name == NULL) return sy_error_code(ctx);
    for (int i = 0; i < rank; i++) t->dim[i] = dim[i];
    if (!syi_shape_bytes(dtype, rank, dim, &count, &t->bytes))
        return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s: shape %s is too large", w->path, name, syi_shape_text(text, rank, dim));
    for (int i = 0; i + 1 < rank; i++) t->rows *= dim[i];
    t->row_bytes = (rank == 0 ? 1 : dim[rank - 1]) * sy_dtype_block_bytes(dtype);
    if (t->bytes == 0) t->rows = 0; /* nothing to put */
    t->left = t->rows;
    SYI_TRY(syi_map_set(w->names, name, strlen(name), w->n));
    w->n++;
    return SY_OK;
}

static int by_type_and_name(const void *a, const void *b)
{
    const item *x = *(item *const *)a, *y = *(item *const *)b;
    const int bx = sy_dtype_block_bytes(x->dtype), by = sy_dtype_block_bytes(y->dtype);
    return bx != by ? by - bx : strcmp(x->name, y->name);
}

/* Cuts the tensors, in the order in which they were declared, into shards. */
static void plan_shards(sy_writer *w)
{
    int64_t bytes = 0;
    w->count = 1;
    for (int64_t i = 0; i < w->n; i++) {
        if (w->shard_bytes > 0 && bytes > 0 && w->items[i].bytes > w->shard_bytes - bytes) {
            w->count++;
            bytes = 0;
        }
        w->items[i].shard = w->count - 1;
        bytes += w->items[i].bytes;
    }
}

static char *shard_path(sy_writer *w, int64_t i)
{
    if (w->count == 1) return syi_strdup(w->ctx, w->path);
    const size_t base = strlen(w->path) - strlen(".safetensors");
    return syi_format(w->ctx, "%.*s-%05lld-of-%05lld.safetensors", (int)base, w->path, (long long)i + 1, (long long)w->count);
}

/* Header text of one shard; sets where its tensors lie. */
static sy_status make_header(sy_writer *w, item **order, int64_t n, syi_text *t, int64_t *data_bytes)
{
    const char *key;
    json_t *value;
    int64_t at = 0;
    bool first = true;
    syi_text_puts(t, "{\"__metadata__\":{");
    json_object_foreach(w->meta, key, value) {
        if (!first) syi_text_puts(t, ",");
        first = false;
        syi_json_quote(t, key, strlen(key));
        syi_text_puts(t, ":");
        syi_json_quote(t, json_string_value(value), json_string_length(value));
    }
    syi_text_puts(t, "}");
    for (int64_t i = 0; i < n; i++) {
        item *x = order[i];
        syi_text_puts(t, ",");
        syi_json_quote(t, x->name, strlen(x->name));
        syi_text_printf(t, ":{\"dtype\":\"%s\",\"shape\":[", sy_dtype_name(x->dtype));
        for (int d = 0; d < x->rank; d++) syi_text_printf(t, "%s%lld", d > 0 ? "," : "", (long long)x->dim[d]);
        if (x->bytes > INT64_MAX - at) return syi_fail(w->ctx, SY_E_INPUT, "%s: the tensors are too large for one file", w->path);
        syi_text_printf(t, "],\"data_offsets\":[%lld,%lld]}", (long long)at, (long long)(at + x->bytes));
        x->at = at;
        at += x->bytes;
    }
    syi_text_puts(t, "}");
    while (t->len % 8 != 0 && !t->failed) syi_text_puts(t, " ");
    *data_bytes = at;
    return t->failed ? sy_error_code(w->ctx) : SY_OK;
}

static sy_status begin_shard(sy_writer *w, int64_t i, item **order)
{
    sy_context *ctx = w->ctx;
    shard *s = &w->shards[i];
    int64_t n = 0, data = 0;
    for (int64_t k = 0; k < w->n; k++)
        if (w->items[k].shard == i) order[n++] = &w->items[k];
    qsort(order, (size_t)n, sizeof *order, by_type_and_name);
    s->path = shard_path(w, i);
    if (s->path == NULL) return sy_error_code(ctx);

    syi_text t;
    syi_text_init(&t, ctx, 100000000);
    sy_status status;
    SYI_TRY_TO(done, status, make_header(w, order, n, &t, &data));
    const int64_t start = 8 + (int64_t)t.len;
    if (data > INT64_MAX - start) {
        status = syi_fail(ctx, SY_E_INPUT, "%s: the tensors are too large for one file", w->path);
        goto done;
    }
    for (int64_t k = 0; k < n; k++) order[k]->at += start;
    if (w->in_place) {
        SYI_TRY_TO(done, status, syi_file_in_place(ctx, s->path, start + data, &s->file));
    } else {
        SYI_TRY_TO(done, status, syi_file_create(ctx, s->path, &s->file));
        SYI_TRY_TO(done, status, syi_file_reserve(s->file, start + data));
    }
    const uint64_t length = t.len;
    SYI_TRY_TO(done, status, syi_file_write_at(s->file, 0, &length, 8));
    SYI_TRY_TO(done, status, syi_file_write_at(s->file, 8, t.s, (int64_t)t.len));
done:
    syi_text_free(&t);
    return status;
}

void syi_writer_in_place(sy_writer *w)
{
    w->in_place = true;
}

sy_status syi_writer_place(sy_writer *w, const char *name, syi_file **file, int64_t *at)
{
    int64_t i;
    if (!w->begun || !syi_map_get(w->names, name, strlen(name), &i))
        return syi_fail(w->ctx, SY_E_BUG, "%s: tensor %s was never declared", w->path, name);
    w->items[i].left = 0;
    *file = w->shards[w->items[i].shard].file;
    *at = w->items[i].at;
    return SY_OK;
}

sy_status syi_writer_sync(sy_writer *w)
{
    for (int64_t i = 0; i < w->count; i++) SYI_TRY(syi_file_sync(w->shards[i].file));
    return SY_OK;
}

sy_status sy_writer_begin(sy_writer *w)
{
    sy_context *ctx = w->ctx;
    if (w->begun) return syi_fail(ctx, SY_E_BUG, "%s: begun twice", w->path);
    w->begun = true;
    plan_shards(w);
    const int64_t count = w->count;
    w->count = 0;
    w->shards = syi_calloc(ctx, (size_t)count, sizeof *w->shards);
    if (w->shards == NULL) return sy_error_code(ctx);
    w->count = count;
    for (int64_t i = 0; i < w->n; i++) {
        w->items[i].have = syi_arena_alloc(w->arena, (size_t)syi_ceil_div(w->items[i].rows, 8) + 1);
        if (w->items[i].have == NULL) return sy_error_code(ctx);
    }
    item **order = syi_calloc(ctx, (size_t)w->n + 1, sizeof *order);
    if (order == NULL) return sy_error_code(ctx);
    sy_status status = SY_OK;
    for (int64_t i = 0; status == SY_OK && i < count; i++) status = begin_shard(w, i, order);
    syi_free(ctx, order);
    return status;
}

sy_status sy_writer_put(sy_writer *w, const char *name, int64_t row, int64_t n, const void *data)
{
    int64_t i;
    if (!w->begun || !syi_map_get(w->names, name, strlen(name), &i))
        return syi_fail(w->ctx, SY_E_BUG, "%s: tensor %s was not declared before writing began", w->path, name);
    item *t = &w->items[i];
    if (t->bytes == 0) return SY_OK;
    if (row < 0 || n < 0 || row > t->rows || n > t->rows - row)
        return syi_fail(w->ctx, SY_E_BUG, "%s: tensor %s: rows [%lld, +%lld) put of %lld", w->path, name, (long long)row, (long long)n,
                        (long long)t->rows);
    SYI_TRY(syi_file_write_at(w->shards[t->shard].file, t->at + row * t->row_bytes, data, n * t->row_bytes));
    for (int64_t r = row; r < row + n; r++) {
        const uint8_t bit = (uint8_t)(1u << (r % 8));
        t->left -= !(t->have[r / 8] & bit);
        t->have[r / 8] |= bit;
    }
    return SY_OK;
}

static sy_status write_index(sy_writer *w, const char *path)
{
    int64_t total = 0;
    json_t *map = json_object(), *j = json_pack("{s:{},s:O}", "metadata", "weight_map", map);
    bool ok = j != NULL;
    for (int64_t i = 0; ok && i < w->n; i++) {
        ok = json_object_set_new(map, w->items[i].name, json_string(syi_basename(w->shards[w->items[i].shard].path))) == 0;
        total += w->items[i].bytes;
    }
    ok = ok && json_object_set_new(json_object_get(j, "metadata"), "total_size", json_integer(total)) == 0;
    sy_status status = ok ? syi_json_write(w->ctx, path, j, true) : syi_nomem(w->ctx, 0);
    json_decref(map);
    json_decref(j);
    return status;
}

/* The other form of the same checkpoint, left by an earlier run, would be read
 * instead of (or beside) this one. */
static sy_status finish_index(sy_writer *w)
{
    if (!syi_ends(w->path, ".safetensors")) return SY_OK;
    char *index = syi_format(w->ctx, "%s.index.json", w->path);
    if (index == NULL) return sy_error_code(w->ctx);
    sy_status status = SY_OK;
    if (w->count > 1) status = write_index(w, index);
    if (status == SY_OK) status = syi_remove_tree(w->ctx, w->count > 1 ? w->path : index);
    syi_free(w->ctx, index);
    return status;
}

sy_status sy_writer_end(sy_writer *w)
{
    sy_status status = SY_OK;
    if (!w->begun) status = syi_fail(w->ctx, SY_E_BUG, "%s: ended before it was begun", w->path);
    for (int64_t i = 0; status == SY_OK && i < w->n; i++)
        if (w->items[i].left > 0)
            status = syi_fail(w->ctx, SY_E_BUG, "%s: %lld of the %lld rows of tensor %s were never put", w->path, (long long)w->items[i].left,
                              (long long)w->items[i].rows, w->items[i].name);
    for (int64_t i = 0; status == SY_OK && i < w->count; i++) {
        syi_file *file = w->shards[i].file;
        w->shards[i].file = NULL;
        status = syi_file_commit(file);
    }
    if (status == SY_OK) status = finish_index(w);
    sy_writer_abort(w);
    return status;
}
