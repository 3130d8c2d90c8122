/* SPDX-License-Identifier: Apache-2.0 */
/* Writing GGUF, version 3: keys, then the list of tensors, then their data in any
 * order; in one file or in several.
 *
 * Keys are gathered in memory; tensors are declared before the first byte is
 * written, so the space is reserved early; a file appears under its name complete
 * or not at all. Of several the first appears last: with it, all are there. */
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
    int part;
} item;

typedef struct { syi_file *file; int64_t first, n, header, start, bytes; } part; /* tensors [first, first + n) */

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
    int64_t split;      /* largest file; 0: one file */
    part *parts;
    int n_parts;
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
    for (int i = 0; i < w->n_parts; i++) syi_file_abort(w->parts[i].file);
    syi_free(w->ctx, w->parts);
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

sy_status syi_gguf_put_u16(syi_gguf_writer *w, const char *key, uint16_t v)
{
    return put_plain(w, key, SYI_GGUF_U16, &v, 2);
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

void syi_gguf_split(syi_gguf_writer *w, int64_t file_bytes)
{
    w->split = file_bytes;
}

int syi_gguf_files(const syi_gguf_writer *w)
{
    return w->n_parts;
}

/* Bytes of a tensor's line in the list. */
static int64_t line_bytes(const item *x)
{
    return 8 + (int64_t)strlen(x->name) + 4 + 8 * x->rank + 4 + 8;
}

enum { HEADER = 24, SPLIT_KEYS = 128, PARTS_MAX = 65535 };

/* Which tensors go into which file, in their order; the first may have keys only. */
static sy_status cut(syi_gguf_writer *w)
{
    int64_t cap = 0;
    for (int64_t i = 0; i < w->n || w->n_parts == 0; i++) {
        part *p = w->n_parts > 0 ? &w->parts[w->n_parts - 1] : NULL;
        const item *x = i < w->n ? &w->items[i] : NULL;
        const int64_t more = x != NULL ? line_bytes(x) + x->bytes : 0;
        const bool full = p != NULL && x != NULL && w->split > 0 && aligned(p->header + line_bytes(x)) + p->bytes + aligned(x->bytes) > w->split;
        if (p == NULL || (full && (p->n > 0 || (w->n_parts == 1 && HEADER + SPLIT_KEYS + SYI_GGUF_ALIGNMENT + more <= w->split)))) {
            if (w->n_parts == PARTS_MAX)
                return syi_fail(w->ctx, SY_E_USAGE, "%s: more than %d files of at most %lld bytes; let them be larger", w->path, PARTS_MAX, (long long)w->split);
            SYI_TRY(syi_grow(w->ctx, (void **)&w->parts, &cap, w->n_parts + 1, sizeof *w->parts, PARTS_MAX));
            p = &w->parts[w->n_parts++];
            *p = (part){.first = i, .header = HEADER + SPLIT_KEYS + (w->n_parts == 1 ? (int64_t)w->keys.len : 0)};
        }
        if (x == NULL) break;
        if (more > (INT64_MAX >> 2) - p->bytes) return syi_fail(w->ctx, SY_E_INPUT, "%s: the tensors are too large for one file", w->path);
        w->items[i].part = w->n_parts - 1;
        w->items[i].at = p->bytes;
        p->header += line_bytes(x);
        p->bytes += aligned(x->bytes);
        p->n++;
    }
    return SY_OK;
}

/* "model.gguf" of 3: "model-00001-of-00003.gguf"; of 1 as it is. */
static char *part_path(const syi_gguf_writer *w, int i)
{
    const size_t n = strlen(w->path) - (syi_ends(w->path, ".gguf") ? 5 : 0);
    if (w->n_parts == 1) return syi_strdup(w->ctx, w->path);
    return syi_format(w->ctx, "%.*s-%05d-of-%05d.gguf", (int)n, w->path, i + 1, w->n_parts);
}

static void add_key(syi_text *t, const char *key, uint32_t type, const void *value, size_t size)
{
    const uint64_t n = strlen(key);
    syi_text_add(t, (const char *)&n, 8);
    syi_text_puts(t, key);
    syi_text_add(t, (const char *)&type, 4);
    syi_text_add(t, value, size);
}

static void part_header(const syi_gguf_writer *w, int i, syi_text *t)
{
    const part *p = &w->parts[i];
    const bool several = w->n_parts > 1;
    const uint32_t version = 3;
    const uint64_t tensors = (uint64_t)p->n, keys = (i == 0 ? (uint64_t)w->n_keys : 0) + (several ? 3 : 0);
    syi_text_add(t, "GGUF", 4);
    syi_text_add(t, (const char *)&version, 4);
    syi_text_add(t, (const char *)&tensors, 8);
    syi_text_add(t, (const char *)&keys, 8);
    if (i == 0) syi_text_add(t, w->keys.s != NULL ? w->keys.s : "", w->keys.len);
    if (several) {
        add_key(t, "split.no", SYI_GGUF_U16, &(uint16_t){(uint16_t)i}, 2);
        add_key(t, "split.count", SYI_GGUF_U16, &(uint16_t){(uint16_t)w->n_parts}, 2);
        add_key(t, "split.tensors.count", SYI_GGUF_I32, &(int32_t){(int32_t)w->n}, 4);
    }
    for (int64_t k = p->first; k < p->first + p->n; k++) {
        const item *x = &w->items[k];
        const uint64_t length = strlen(x->name), offset = (uint64_t)x->at;
        const uint32_t rank = (uint32_t)x->rank, type = (uint32_t)syi_gguf_dtype_id(x->dtype);
        syi_text_add(t, (const char *)&length, 8);
        syi_text_puts(t, x->name);
        syi_text_add(t, (const char *)&rank, 4);
        for (int d = x->rank - 1; d >= 0; d--) {
            const uint64_t dim = (uint64_t)x->dim[d];
            syi_text_add(t, (const char *)&dim, 8);
        }
        syi_text_add(t, (const char *)&type, 4);
        syi_text_add(t, (const char *)&offset, 8);
    }
}

static sy_status begin_part(syi_gguf_writer *w, int i)
{
    sy_context *ctx = w->ctx;
    static const char zeros[SYI_GGUF_ALIGNMENT];
    part *p = &w->parts[i];
    syi_text t;
    syi_text_init(&t, ctx, (size_t)1 << 31);
    part_header(w, i, &t);
    char *path = part_path(w, i);
    sy_status status = t.failed || path == NULL ? sy_error_code(ctx) : SY_OK;
    if (status != SY_OK) goto done;
    p->header = (int64_t)t.len;
    p->start = aligned(p->header);
    SYI_TRY_TO(done, status, syi_file_create(ctx, path, &p->file));
    SYI_TRY_TO(done, status, syi_file_reserve(p->file, p->start + p->bytes));
    SYI_TRY_TO(done, status, syi_file_write_at(p->file, 0, t.s, p->header));
    SYI_TRY_TO(done, status, syi_file_write_at(p->file, p->header, zeros, p->start - p->header));
    for (int64_t k = p->first; k < p->first + p->n; k++) { /* the padding after each tensor */
        item *x = &w->items[k];
        x->at += p->start;
        const int64_t end = x->at + x->bytes;
        if (aligned(end) > end) SYI_TRY_TO(done, status, syi_file_write_at(p->file, end, zeros, aligned(end) - end));
    }
done:
    syi_text_free(&t);
    syi_free(ctx, path);
    return status;
}

sy_status syi_gguf_begin(syi_gguf_writer *w)
{
    if (w->begun) return syi_fail(w->ctx, SY_E_BUG, "%s: begun twice", w->path);
    w->begun = true;
    for (int64_t i = 0; i < w->n; i++) {
        item *x = &w->items[i];
        x->have = syi_arena_alloc(w->arena, (size_t)(x->rows / 8) + 1);
        if (x->have == NULL) return sy_error_code(w->ctx);
    }
    SYI_TRY(cut(w));
    for (int i = 0; i < w->n_parts; i++) SYI_TRY(begin_part(w, i));
    return SY_OK;
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
    SYI_TRY(syi_file_write_at(w->parts[t->part].file, t->at + row * t->row_bytes, data, n * t->row_bytes));
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
    const int64_t from = sy_dtype_block_len(dtype) > 1 ? 1 << 16 : SYI_PARALLEL_FROM; /* coding is slower than memory */
#pragma omp parallel for num_threads(threads) if (n * cols >= from)
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
    for (int i = w->n_parts - 1; status == SY_OK && i >= 0; i--) {
        syi_file *file = w->parts[i].file;
        w->parts[i].file = NULL;
        status = syi_file_commit(file);
    }
    syi_gguf_writer_abort(w);
    return status;
}
