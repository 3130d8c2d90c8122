/* SPDX-License-Identifier: Apache-2.0 */
/* Reading one safetensors file: 8 bytes of header length, the header (JSON), the
 * bytes of the tensors.
 *
 * The header is not trusted: its length, every shape and every offset are checked
 * with overflow in mind, and the tensors must cover the bytes exactly, without
 * holes and overlaps, so that nothing hides in a file and nothing is read twice.
 * Offsets promise no alignment. */
#include "checkpoint.h"

#include <stdlib.h>

#define HEADER_MAX ((int64_t)100000000)

typedef struct { sy_entry e; int64_t begin, end; } span;

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->e.name, y->e.name);
}

/* Valid in the format, but without a type of ours. */
static bool foreign_dtype(const char *name)
{
    static const char *const names[] = {"F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4", "F6_E2M3", "F6_E3M2", "C64"};
    for (int i = 0; i < SYI_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

static sy_status read_dtype(sy_context *ctx, const char *path, const char *name, const json_t *j, sy_dtype *out)
{
    const char *text = json_string_value(j);
    if (text == NULL) return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s has no dtype", path, name);
    const int dtype = sy_dtype_find(text);
    if (dtype >= 0 && sy_dtype_block_len((sy_dtype)dtype) == 1 && strcmp(text, sy_dtype_name((sy_dtype)dtype)) == 0) {
        *out = (sy_dtype)dtype;
        return SY_OK;
    }
    if (foreign_dtype(text))
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tensor %s is of type %s, which is not supported", path, name, text);
    return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s: \"%s\" is not a dtype of safetensors", path, name, text);
}

static sy_status read_tensor(sy_context *ctx, const char *path, const char *name, const json_t *j, int64_t size, span *s)
{
    if (!json_is_object(j)) return syi_fail(ctx, SY_E_INPUT, "%s: the header's entry %s is not an object", path, name);
    if (strlen(name) > SYI_NAME_MAX)
        return syi_fail(ctx, SY_E_INPUT, "%s: a tensor's name is %zu bytes long; at most %d are accepted", path, strlen(name), SYI_NAME_MAX);
    s->e.name = name;
    s->e.file = path;
    SYI_TRY(read_dtype(ctx, path, name, json_object_get(j, "dtype"), &s->e.dtype));

    const json_t *shape = json_object_get(j, "shape"), *offsets = json_object_get(j, "data_offsets");
    if (!json_is_array(shape)) return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s has no shape", path, name);
    if (json_array_size(shape) > SY_MAX_RANK)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: tensor %s has %zu dimensions; at most %d are supported", path, name,
                        json_array_size(shape), SY_MAX_RANK);
    s->e.rank = (int)json_array_size(shape);
    for (int i = 0; i < s->e.rank; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return syi_fail(ctx, SY_E_INPUT, "%s: dimension %d of tensor %s is not a whole number >= 0", path, i, name);
        s->e.dim[i] = json_integer_value(d);
    }

    const json_t *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s: data_offsets must be two whole numbers", path, name);
    s->begin = json_integer_value(b);
    s->end = json_integer_value(e);
    if (s->begin < 0 || s->end < s->begin || s->end > size)
        return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s: data_offsets [%lld, %lld] do not lie in the %lld bytes after the header", path,
                        name, (long long)s->begin, (long long)s->end, (long long)size);

    int64_t count = 0, bytes = 0;
    char text[128];
    if (!syi_shape_bytes(s->e.dtype, s->e.rank, s->e.dim, &count, &bytes))
        return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s: shape %s is too large", path, name, syi_shape_text(text, s->e.rank, s->e.dim));
    if (bytes != s->end - s->begin)
        return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s: %s numbers of %s take %lld bytes, but data_offsets give it %lld", path, name,
                        syi_shape_text(text, s->e.rank, s->e.dim), sy_dtype_name(s->e.dtype), (long long)bytes,
                        (long long)(s->end - s->begin));
    s->e.bytes = bytes;
    return SY_OK;
}

static sy_status read_metadata(sy_checkpoint *ck, const char *path, const json_t *j)
{
    if (!json_is_object(j)) return syi_fail(ck->ctx, SY_E_INPUT, "%s: __metadata__ is not an object", path);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)j, key, value) {
        if (!json_is_string(value))
            return syi_fail(ck->ctx, SY_E_INPUT, "%s: __metadata__: the value of \"%s\" is not a string", path, key);
        SYI_TRY(syi_checkpoint_add_meta(ck, key, json_string_value(value)));
    }
    return SY_OK;
}

/* The error that is there gets the place of the header's entry `name` after the path. */
static sy_status at_entry(sy_context *ctx, const char *path, const char *text, int64_t length, const char *name)
{
    char message[2048];
    const size_t n = strlen(name), skip = strlen(path) + 2;
    int64_t at = 0;
    for (int64_t i = 0; i + (int64_t)n + 2 <= length && at == 0; i++) /* names with escapes are not found: the header's place */
        if (text[i] == '"' && memcmp(text + i + 1, name, n) == 0 && text[i + 1 + (int64_t)n] == '"') at = i;
    snprintf(message, sizeof message, "%s", sy_error_message(ctx));
    if (strncmp(message, path, skip - 2) != 0 || strlen(message) < skip) return sy_error_code(ctx);
    return syi_fail(ctx, sy_error_code(ctx), "%s: byte %lld: %s", path, (long long)at + 8, message + skip);
}

/* The header's tensors into spans, sorted by place, places checked. */
static sy_status read_header(sy_checkpoint *ck, const char *path, const json_t *header, const char *text, int64_t length, int64_t size, span *spans,
                             int64_t *out_n)
{
    sy_context *ctx = ck->ctx;
    int64_t n = 0;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)header, name, value) {
        const bool metadata = strcmp(name, "__metadata__") == 0;
        const sy_status status = metadata ? read_metadata(ck, path, value) : read_tensor(ctx, path, name, value, size, &spans[n]);
        if (status == SY_E_INPUT || status == SY_E_UNSUPPORTED) return at_entry(ctx, path, text, length, name);
        SYI_TRY(status);
        n += !metadata;
    }
    qsort(spans, (size_t)n, sizeof *spans, by_begin);
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        if (spans[i].begin != at)
            return syi_fail(ctx, SY_E_INPUT, "%s: byte %lld: tensor %s begins at %lld of the data, but the tensor before it ends at %lld: %s", path,
                            (long long)(8 + length + at), spans[i].e.name, (long long)spans[i].begin, (long long)at,
                            spans[i].begin > at ? "a hole" : "an overlap");
        at = spans[i].end;
    }
    if (at != size)
        return syi_fail(ctx, SY_E_INPUT, "%s: byte %lld: the tensors end here, at %lld of %lld bytes of data: the file is %s", path,
                        (long long)(8 + length + at), (long long)at, (long long)size, at < size ? "longer than its header says" : "truncated");
    *out_n = n;
    return SY_OK;
}

static sy_status load_mapped(sy_checkpoint *ck, const char *path, const syi_mapped *file)
{
    sy_context *ctx = ck->ctx;
    if (file->size < 8)
        return syi_fail(ctx, SY_E_INPUT, "%s: byte 0: a safetensors file begins with 8 bytes of length, this one has %lld in all: it is truncated or something else", path,
                        (long long)file->size);
    uint64_t length;
    memcpy(&length, file->data, 8);
    if (length > (uint64_t)HEADER_MAX)
        return syi_fail(ctx, SY_E_INPUT, "%s: byte 0: the header would be %llu bytes long; at most %lld are allowed: not a safetensors file?", path,
                        (unsigned long long)length, (long long)HEADER_MAX);
    if ((int64_t)length > file->size - 8)
        return syi_fail(ctx, SY_E_INPUT, "%s: byte 0: the header is %lld bytes long, but only %lld bytes follow: the file is truncated", path,
                        (long long)length, (long long)file->size - 8);
    const char *text = (const char *)file->data + 8;
    if (length == 0 || text[0] != '{') return syi_fail(ctx, SY_E_INPUT, "%s: byte 8: the header does not begin with {: not a safetensors file", path);

    json_t *header = NULL;
    SYI_TRY(syi_json_parse(ctx, text, (size_t)length, path, &header));
    span *spans = syi_calloc(ctx, json_object_size(header) + 1, sizeof *spans);
    int64_t n = 0;
    const int64_t size = file->size - 8 - (int64_t)length;
    sy_status status = spans == NULL ? sy_error_code(ctx) : read_header(ck, path, header, text, (int64_t)length, size, spans, &n);
    for (int64_t i = 0; status == SY_OK && i < n; i++) {
        spans[i].e.data = file->data + 8 + length + spans[i].begin;
        status = syi_checkpoint_add(ck, &spans[i].e);
    }
    syi_free(ctx, spans);
    json_decref(header);
    return status;
}

sy_status syi_safetensors_load(sy_checkpoint *ck, const char *path)
{
    sy_context *ctx = ck->ctx;
    SYI_TRY(syi_grow(ctx, (void **)&ck->file, &ck->file_cap, ck->files + 1, sizeof *ck->file, 1 << 20));
    const char *name = syi_arena_strdup(ck->arena, path); /* the entries' `file` */
    if (name == NULL) return sy_error_code(ctx);
    syi_mapped *file = &ck->file[ck->files];
    SYI_TRY(syi_map_file(ctx, path, file));
    ck->files++;
    return load_mapped(ck, name, file);
}
