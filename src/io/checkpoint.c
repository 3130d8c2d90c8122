/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints as one list of named tensors, whatever files they lie in, and rows
 * of them in the type that is asked for. */
#include "checkpoint.h"
#include "tensor/convert.h"

/* -- shapes ------------------------------------------------------------------- */

bool syi_shape_bytes(sy_dtype dtype, int rank, const int64_t *dim, int64_t *count, int64_t *bytes)
{
    const int64_t len = sy_dtype_block_len(dtype);
    int64_t n = 1;
    bool empty = false;
    for (int i = 0; i < rank; i++) { /* [0, 2^62, 2^62] is empty, and too large all the same */
        if (dim[i] < 0) return false;
        if (dim[i] == 0) empty = true;
        else if (!syi_size_mul(n, dim[i], &n)) return false;
    }
    if (len > 1 && (rank == 0 || dim[rank - 1] % len != 0)) return false;
    *count = empty ? 0 : n;
    return syi_size_mul(*count / len, sy_dtype_block_bytes(dtype), bytes);
}

int64_t syi_entry_rows(const sy_entry *e)
{
    int64_t rows = 1;
    for (int i = 0; i + 1 < e->rank; i++) rows *= e->dim[i];
    return rows;
}

int64_t syi_entry_cols(const sy_entry *e)
{
    return e->rank == 0 ? 1 : e->dim[e->rank - 1];
}

char *syi_shape_text(char buf[128], int rank, const int64_t *dim)
{
    size_t at = (size_t)snprintf(buf, 128, "[");
    for (int i = 0; i < rank; i++) at += (size_t)snprintf(buf + at, 128 - at, "%s%lld", i > 0 ? ", " : "", (long long)dim[i]);
    snprintf(buf + at, 128 - at, "]");
    return buf;
}

bool syi_utf8_ok(const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    for (size_t i = 0; i < n;) {
        const unsigned c = p[i];
        const int more = c < 0x80 ? 0 : c >= 0xc2 && c <= 0xdf ? 1 : (c & 0xf0) == 0xe0 ? 2 : c >= 0xf0 && c <= 0xf4 ? 3 : -1;
        if (c == 0 || more < 0 || n - i <= (size_t)more) return false;
        for (int k = 1; k <= more; k++)
            if ((p[i + (size_t)k] & 0xc0) != 0x80) return false;
        const unsigned second = more > 0 ? p[i + 1] : 0x80;
        if ((c == 0xe0 && second < 0xa0) || (c == 0xed && second > 0x9f) || (c == 0xf0 && second < 0x90) || (c == 0xf4 && second > 0x8f))
            return false; /* longer than needed, a surrogate, beyond U+10FFFF */
        i += (size_t)more + 1;
    }
    return true;
}

/* -- the list ------------------------------------------------------------------- */

sy_status syi_checkpoint_new(sy_context *ctx, const char *path, sy_checkpoint **out)
{
    *out = NULL;
    sy_checkpoint *ck = syi_calloc(ctx, 1, sizeof *ck);
    if (ck == NULL) return sy_error_code(ctx);
    ck->ctx = ctx;
    sy_status status;
    SYI_TRY_TO(fail, status, syi_arena_new(ctx, 64 * 1024, &ck->arena));
    SYI_TRY_TO(fail, status, syi_map_new(ctx, &ck->names));
    ck->path = syi_strdup(ctx, path);
    if (ck->path == NULL) {
        status = sy_error_code(ctx);
        goto fail;
    }
    *out = ck;
    return SY_OK;
fail:
    sy_checkpoint_close(ck);
    return status;
}

void sy_checkpoint_close(sy_checkpoint *ck)
{
    if (ck == NULL) return;
    sy_context *ctx = ck->ctx;
    for (int64_t i = 0; i < ck->files; i++) syi_unmap_file(ctx, &ck->file[i]);
    syi_gguf_close(ck->gguf);
    if (ck->names != NULL) syi_map_free(ck->names);
    if (ck->arena != NULL) syi_arena_free(ck->arena);
    syi_free(ctx, ck->file);
    syi_free(ctx, ck->entry);
    syi_free(ctx, ck->meta);
    syi_free(ctx, ck->path);
    syi_free(ctx, ck);
}

sy_status syi_checkpoint_rename(sy_checkpoint *ck, int64_t i, const char *name)
{
    char *copy = syi_arena_strdup(ck->arena, name);
    if (copy == NULL) return sy_error_code(ck->ctx);
    SYI_TRY(syi_map_set(ck->names, copy, strlen(copy), i));
    ck->entry[i].name = copy;
    return SY_OK;
}

sy_status syi_checkpoint_add(sy_checkpoint *ck, const sy_entry *e)
{
    sy_context *ctx = ck->ctx;
    int64_t other;
    if (syi_map_get(ck->names, e->name, strlen(e->name), &other))
        return syi_fail(ctx, SY_E_INPUT, "%s: there are two tensors named %s (the other in %s)", e->file, e->name, ck->entry[other].file);
    SYI_TRY(syi_grow(ctx, (void **)&ck->entry, &ck->cap, ck->n + 1, sizeof *ck->entry, SYI_TENSORS_MAX));
    sy_entry copy = *e;
    copy.name = syi_arena_strdup(ck->arena, e->name);
    if (copy.name == NULL) return sy_error_code(ctx);
    SYI_TRY(syi_map_set(ck->names, copy.name, strlen(copy.name), ck->n));
    ck->entry[ck->n++] = copy;
    return SY_OK;
}

sy_status syi_checkpoint_add_meta(sy_checkpoint *ck, const char *key, const char *value)
{
    if (sy_checkpoint_meta(ck, key) != NULL) return SY_OK;
    SYI_TRY(syi_grow(ck->ctx, (void **)&ck->meta, &ck->meta_cap, ck->metas + 1, sizeof *ck->meta, 1 << 20));
    struct syi_meta m = {syi_arena_strdup(ck->arena, key), syi_arena_strdup(ck->arena, value)};
    if (m.key == NULL || m.value == NULL) return sy_error_code(ck->ctx);
    ck->meta[ck->metas++] = m;
    return SY_OK;
}

int64_t sy_checkpoint_count(const sy_checkpoint *ck)
{
    return ck->n;
}

const sy_entry *sy_checkpoint_at(const sy_checkpoint *ck, int64_t i)
{
    return i >= 0 && i < ck->n ? &ck->entry[i] : NULL;
}

const sy_entry *sy_checkpoint_find(const sy_checkpoint *ck, const char *name)
{
    int64_t i;
    return syi_map_get(ck->names, name, strlen(name), &i) ? &ck->entry[i] : NULL;
}

const char *sy_checkpoint_meta(const sy_checkpoint *ck, const char *key)
{
    for (int64_t i = 0; i < ck->metas; i++)
        if (strcmp(ck->meta[i].key, key) == 0) return ck->meta[i].value;
    const char *text = NULL;
    return ck->gguf != NULL && syi_gguf_str(ck->gguf, key, &text) ? text : NULL;
}

/* -- opening ----------------------------------------------------------------------- */

/* The shards that an index names. Strict both ways: every tensor of the map lies in
 * its file, and every tensor of the files is in the map. */
static sy_status load_index(sy_checkpoint *ck, const char *dir, const char *index)
{
    sy_context *ctx = ck->ctx;
    json_t *j = NULL;
    syi_map *seen = NULL;
    SYI_TRY(syi_json_read(ctx, index, &j));
    sy_status status = SY_OK;
    json_t *map = json_object_get(j, "weight_map"), *value;
    const char *name;
    if (!json_is_object(map)) {
        status = syi_fail(ctx, SY_E_INPUT, "%s: has no weight_map", index);
        goto done;
    }
    SYI_TRY_TO(done, status, syi_map_new(ctx, &seen));
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        int64_t unused;
        if (file == NULL || strchr(file, '/') != NULL || file[0] == '.' || file[0] == '\0') {
            status = syi_fail(ctx, SY_E_INPUT, "%s: weight_map: tensor %s: a plain file name was expected, found \"%s\"", index, name,
                              file != NULL ? file : "(no string)");
            goto done;
        }
        if (syi_map_get(seen, file, strlen(file), &unused)) continue;
        SYI_TRY_TO(done, status, syi_map_set(seen, file, strlen(file), 1));
        char *path = syi_join(ctx, dir, file);
        if (path == NULL) {
            status = sy_error_code(ctx);
            goto done;
        }
        if (!syi_exists(path))
            status = syi_fail(ctx, SY_E_INPUT, "%s: the shard that %s names is missing: fetch the checkpoint again", path, index);
        else
            status = syi_safetensors_load(ck, path);
        syi_free(ctx, path);
        if (status != SY_OK) goto done;
    }
    json_object_foreach(map, name, value) {
        const sy_entry *e = sy_checkpoint_find(ck, name);
        if (e == NULL || strcmp(syi_basename(e->file), json_string_value(value)) != 0) {
            status = syi_fail(ctx, SY_E_INPUT, "%s: tensor %s should lie in %s, but is %s%s", index, name, json_string_value(value),
                              e != NULL ? "in " : "not there", e != NULL ? syi_basename(e->file) : "");
            goto done;
        }
    }
    for (int64_t i = 0; i < ck->n; i++)
        if (json_object_get(map, ck->entry[i].name) == NULL) {
            status = syi_fail(ctx, SY_E_INPUT, "%s: tensor %s of %s is not in the weight_map", index, ck->entry[i].name, ck->entry[i].file);
            goto done;
        }
done:
    if (seen != NULL) syi_map_free(seen);
    json_decref(j);
    return status;
}

static sy_status load_folder(sy_checkpoint *ck, const char *dir)
{
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"};
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin"};
    sy_context *ctx = ck->ctx;
    for (int i = 0; i < SYI_COUNT(names); i++) {
        char *path = syi_join(ctx, dir, names[i]);
        if (path == NULL) return sy_error_code(ctx);
        const bool there = syi_exists(path);
        sy_status status = !there ? SY_OK : i == 1 ? load_index(ck, dir, path) : syi_safetensors_load(ck, path);
        syi_free(ctx, path);
        if (there || status != SY_OK) return status;
    }
    for (int i = 0; i < SYI_COUNT(pickles); i++) {
        char *path = syi_join(ctx, dir, pickles[i]);
        if (path == NULL) return sy_error_code(ctx);
        const bool there = syi_exists(path);
        syi_free(ctx, path);
        if (there)
            return syi_fail(ctx, SY_E_UNSUPPORTED,
                            "%s: has its weights in %s, a pickle, which can run code and is not read; save them as safetensors", dir, pickles[i]);
    }
    return syi_fail(ctx, SY_E_INPUT, "%s: no weights: expected model.safetensors, model.safetensors.index.json or adapter_model.safetensors", dir);
}

static sy_status load_gguf(sy_checkpoint *ck, const char *path)
{
    SYI_TRY(syi_gguf_open(ck->ctx, path, &ck->gguf));
    for (int64_t i = 0; i < syi_gguf_tensors(ck->gguf); i++) SYI_TRY(syi_checkpoint_add(ck, syi_gguf_tensor(ck->gguf, i)));
    return SY_OK;
}

static bool has_gguf_magic(const char *path)
{
    char magic[4];
    return syi_peek_file(path, magic, 4) == 4 && memcmp(magic, "GGUF", 4) == 0;
}

sy_status sy_checkpoint_open(sy_context *ctx, const char *path, sy_checkpoint **out)
{
    *out = NULL;
    if (!syi_exists(path)) return syi_fail(ctx, SY_E_INPUT, "%s: no such file or folder", path);
    sy_checkpoint *ck = NULL;
    SYI_TRY(syi_checkpoint_new(ctx, path, &ck));
    sy_status status = syi_is_dir(path)                                       ? load_folder(ck, path)
                       : syi_ends(path, ".gguf") || has_gguf_magic(path) ? load_gguf(ck, path)
                                                                              : syi_safetensors_load(ck, path);
    if (status == SY_OK)
        *out = ck;
    else
        sy_checkpoint_close(ck);
    return status;
}

/* -- rows ------------------------------------------------------------------------------ */

/* Numbers converted at a time: a multiple of every block length. */
enum { CHUNK = 4096 };

/* Types that f32 does not hold exactly, and types that are rounded again. */
static bool is_wide(sy_dtype t)
{
    return t == SY_F64 || t == SY_I32 || t == SY_U32 || t == SY_I64 || t == SY_U64;
}

static bool is_narrow(sy_dtype t)
{
    return t == SY_BF16 || t == SY_F16 || t == SY_F8_E4M3 || t == SY_F8_E5M2;
}

static int64_t bytes_of(sy_dtype t, int64_t n)
{
    return n / sy_dtype_block_len(t) * sy_dtype_block_bytes(t);
}

/* n consecutive numbers from one type to another, any alignment of src. */
static void convert(sy_dtype from, const uint8_t *src, sy_dtype to, uint8_t *dst, int64_t n)
{
    if (from == to) {
        if (n > 0) memcpy(dst, src, (size_t)bytes_of(to, n));
        return;
    }
    float f[CHUNK];
    for (int64_t i = 0; i < n; i += CHUNK) {
        const int64_t m = syi_min(CHUNK, n - i);
        const uint8_t *s = src + bytes_of(from, i);
        if (is_wide(from) && is_narrow(to)) syi_to_f32_odd(from, s, f, m);
        else syi_to_f32(from, s, f, m);
        syi_from_f32(to, f, dst + bytes_of(to, i), m);
    }
}

/* Where row r of Hugging Face's order lies among GGUF's rows: a head's two halves
 * are interleaved there. */
static int64_t stored_row(int64_t r, int64_t head_dim)
{
    const int64_t head = r / head_dim, in = r % head_dim, half = head_dim / 2;
    return head * head_dim + (in % half) * 2 + in / half;
}

int64_t syi_entry_stored_row(const sy_entry *e, int64_t row)
{
    return e->permute_heads > 0 ? stored_row(row, syi_entry_rows(e) / e->permute_heads) : row;
}

static sy_status check_read(sy_context *ctx, const sy_entry *e, sy_dtype dtype, int64_t row, int64_t n)
{
    const int64_t rows = syi_entry_rows(e), cols = syi_entry_cols(e);
    if (row < 0 || n < 0 || row > rows || n > rows - row)
        return syi_fail(ctx, SY_E_BUG, "%s: tensor %s: rows [%lld, +%lld) asked of %lld", e->file, e->name, (long long)row, (long long)n,
                        (long long)rows);
    if (dtype == e->dtype) return SY_OK;
    if (!syi_can_write(dtype))
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tensor %s: conversion from %s to %s is not supported", e->file, e->name,
                        sy_dtype_name(e->dtype), sy_dtype_name(dtype));
    const bool floats = sy_dtype_is_float(dtype) || is_narrow(dtype) || sy_dtype_block_len(dtype) > 1;
    if (is_wide(e->dtype) && e->dtype != SY_F64 && (!floats || dtype == SY_F64))
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tensor %s: conversion from %s to %s is not supported", e->file, e->name,
                        sy_dtype_name(e->dtype), sy_dtype_name(dtype));
    if (cols % sy_dtype_block_len(dtype) != 0)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tensor %s: rows of %lld numbers cannot be coded as %s, whose blocks have %d", e->file,
                        e->name, (long long)cols, sy_dtype_name(dtype), sy_dtype_block_len(dtype));
    return SY_OK;
}

/* A permuted vector (a bias): its elements move as rows would. */
static sy_status read_permuted_vector(sy_context *ctx, const sy_entry *e, sy_dtype dtype, void *dst)
{
    const int64_t cols = syi_entry_cols(e), head_dim = cols / e->permute_heads, size = sy_dtype_block_bytes(dtype);
    if (sy_dtype_block_len(dtype) != 1)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tensor %s: a permuted vector cannot be read as %s", e->file, e->name, sy_dtype_name(dtype));
    uint8_t *all = syi_alloc(ctx, (size_t)(cols * size));
    if (all == NULL) return sy_error_code(ctx);
    convert(e->dtype, e->data, dtype, all, cols);
    for (int64_t i = 0; i < cols; i++) memcpy((uint8_t *)dst + i * size, all + stored_row(i, head_dim) * size, (size_t)size);
    syi_free(ctx, all);
    return SY_OK;
}

/* Rows of a matrix whose bytes are its columns one after the other. */
static sy_status read_transposed(sy_context *ctx, const sy_entry *e, sy_dtype dtype, int64_t row, int64_t n, void *dst)
{
    const int64_t cols = syi_entry_cols(e), rows = syi_entry_rows(e), from = sy_dtype_block_bytes(e->dtype), size = sy_dtype_block_bytes(dtype);
    if (sy_dtype_block_len(e->dtype) != 1 || sy_dtype_block_len(dtype) != 1)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tensor %s: a transposed matrix has no blocks of rows", e->file, e->name);
    uint8_t *line = syi_alloc(ctx, (size_t)(n * size));
    if (line == NULL) return sy_error_code(ctx);
    for (int64_t c = 0; c < cols; c++) {
        convert(e->dtype, (const uint8_t *)e->data + (c * rows + row) * from, dtype, line, n);
        for (int64_t r = 0; r < n; r++) memcpy((char *)dst + (r * cols + c) * size, line + r * size, (size_t)size);
    }
    syi_free(ctx, line);
    return SY_OK;
}

static sy_status read_shifted(sy_context *ctx, const sy_entry *e, sy_dtype dtype, int64_t row, int64_t n, void *dst)
{
    sy_entry plain = *e;
    plain.shift = 0;
    const int64_t count = n * syi_entry_cols(e);
    float *x = syi_alloc(ctx, (size_t)count * sizeof *x);
    if (x == NULL) return sy_error_code(ctx);
    sy_status status = sy_entry_read(ctx, &plain, SY_F32, row, n, x);
    for (int64_t i = 0; status == SY_OK && i < count; i++) x[i] += e->shift;
    if (status == SY_OK && dtype == SY_F64)
        for (int64_t i = 0; i < count; i++) ((double *)dst)[i] = x[i];
    else if (status == SY_OK) status = sy_from_f32(ctx, dtype, x, dst, count);
    syi_free(ctx, x);
    return status;
}

sy_status sy_entry_read(sy_context *ctx, const sy_entry *e, sy_dtype dtype, int64_t row, int64_t n, void *dst)
{
    SYI_TRY(check_read(ctx, e, dtype, row, n));
    const int64_t cols = syi_entry_cols(e), rows = syi_entry_rows(e);
    if (n == 0 || cols == 0) return SY_OK;
    if (e->shift != 0) return read_shifted(ctx, e, dtype, row, n, dst);
    if (e->transposed) return read_transposed(ctx, e, dtype, row, n, dst);
    const int64_t from_bytes = bytes_of(e->dtype, cols), to_bytes = bytes_of(dtype, cols);
    const uint8_t *src = e->data;
    uint8_t *to = dst;
    const int threads = syi_omp(ctx);
    if (e->permute_heads > 0) {
        const int64_t all = e->rank == 1 ? cols : rows, head_dim = all / e->permute_heads;
        if (all % e->permute_heads != 0 || head_dim % 2 != 0)
            return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s: %lld rows are not %d heads of an even size", e->file, e->name,
                            (long long)all, e->permute_heads);
        if (e->rank == 1) return read_permuted_vector(ctx, e, dtype, dst);
#pragma omp parallel for num_threads(threads) if (n * cols >= SYI_PARALLEL_FROM)
        for (int64_t i = 0; i < n; i++)
            convert(e->dtype, src + stored_row(row + i, head_dim) * from_bytes, dtype, to + i * to_bytes, cols);
        return SY_OK;
    }
    src += row * from_bytes;
    const int64_t count = n * cols, piece = (int64_t)CHUNK * 8;
#pragma omp parallel for num_threads(threads) if (count >= SYI_PARALLEL_FROM)
    for (int64_t i = 0; i < count; i += piece)
        convert(e->dtype, src + bytes_of(e->dtype, i), dtype, to + bytes_of(dtype, i), syi_min(piece, count - i));
    return SY_OK;
}

sy_status sy_entry_read_f32(sy_context *ctx, const sy_entry *e, int64_t row, int64_t n, float *dst)
{
    return sy_entry_read(ctx, e, SY_F32, row, n, dst);
}
