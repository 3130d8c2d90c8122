/* SPDX-License-Identifier: Apache-2.0 */
/* Reading GGUF, versions 2 and 3: keys with typed values, the list of tensors,
 * their data.
 *
 * The file is mapped and walked once; every length is compared with what is left
 * of the file before it is believed. Stricter than the format where loaders are:
 * names and keys must be unique, tensors lie one after the other at exactly their
 * padded sizes. GGUF counts dimensions from the fastest; turned round here. */
#include "gguf.h"

typedef struct {
    const char *key;
    syi_gguf_type type, item;   /* item: of an array                                */
    int64_t count;              /* of an array                                      */
    const uint8_t *data;        /* the value in the file; of an array: its items    */
    const uint8_t *begin;       /* the same with an array's type and count in front */
    int64_t bytes;              /* from there                                       */
    const char *text;           /* of a string: a copy that ends in NUL             */
    int64_t *at;                /* of an array of strings: where each begins, and the end */
} pair;

struct syi_gguf {
    sy_context *ctx;
    const char *path;
    syi_arena *arena;
    syi_mapped file;
    bool mapped;
    pair *pairs;
    int64_t n_pairs;
    syi_map *keys;
    sy_entry *tensors;
    int64_t n_tensors;
    syi_map *names;
    syi_gguf **parts;           /* of a split file: the second and later ones         */
    int64_t n_parts;
};

/* Where the reader stands; nothing is read beyond `end`. */
typedef struct { sy_context *ctx; const char *path; const uint8_t *begin, *at, *end; } cursor;

/* -- numbers of the format --------------------------------------------------- */

static const struct { int id; sy_dtype dtype; } dtypes[] = {
    {0, SY_F32},      {1, SY_F16},     {2, SY_Q4_0},   {3, SY_Q4_1},   {6, SY_Q5_0},   {7, SY_Q5_1},  {8, SY_Q8_0},
    {10, SY_Q2_K},    {11, SY_Q3_K},   {12, SY_Q4_K},  {13, SY_Q5_K},  {14, SY_Q6_K},  {15, SY_Q8_K}, {20, SY_IQ4_NL},
    {23, SY_IQ4_XS},  {24, SY_I8},     {25, SY_I16},   {26, SY_I32},   {27, SY_I64},   {28, SY_F64},  {30, SY_BF16},
    {34, SY_TQ1_0},   {35, SY_TQ2_0},  {39, SY_MXFP4},
};
static const struct { int id; const char *name; } other_dtypes[] = {
    {4, "Q4_2"},      {5, "Q4_3"},     {9, "Q8_1"},      {16, "IQ2_XXS"},  {17, "IQ2_XS"},   {18, "IQ3_XXS"},  {19, "IQ1_S"}, {21, "IQ3_S"},
    {22, "IQ2_S"},    {29, "IQ1_M"},   {31, "Q4_0_4_4"}, {32, "Q4_0_4_8"}, {33, "Q4_0_8_8"}, {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"},
    {40, "NVFP4"},
};

int syi_gguf_dtype(uint32_t id, const char **name)
{
    *name = NULL;
    for (int i = 0; i < SYI_COUNT(dtypes); i++)
        if ((uint32_t)dtypes[i].id == id) return (int)dtypes[i].dtype;
    for (int i = 0; i < SYI_COUNT(other_dtypes); i++)
        if ((uint32_t)other_dtypes[i].id == id) *name = other_dtypes[i].name;
    return -1;
}

int syi_gguf_dtype_id(sy_dtype dtype)
{
    for (int i = 0; i < SYI_COUNT(dtypes); i++)
        if (dtypes[i].dtype == dtype) return dtypes[i].id;
    return -1;
}

static const struct { const char *name; int size; } types[] = {
    [SYI_GGUF_U8] = {"u8", 1},     [SYI_GGUF_I8] = {"i8", 1},         [SYI_GGUF_U16] = {"u16", 2},    [SYI_GGUF_I16] = {"i16", 2},
    [SYI_GGUF_U32] = {"u32", 4},   [SYI_GGUF_I32] = {"i32", 4},       [SYI_GGUF_F32] = {"f32", 4},    [SYI_GGUF_BOOL] = {"bool", 1},
    [SYI_GGUF_STRING] = {"string", 0}, [SYI_GGUF_ARRAY] = {"array", 0}, [SYI_GGUF_U64] = {"u64", 8}, [SYI_GGUF_I64] = {"i64", 8},
    [SYI_GGUF_F64] = {"f64", 8},
};

int syi_gguf_type_size(uint32_t type)
{
    return type < (uint32_t)SYI_COUNT(types) ? types[type].size : 0;
}

const char *syi_gguf_type_name(uint32_t type)
{
    return type < (uint32_t)SYI_COUNT(types) ? types[type].name : "unknown";
}

/* -- walking ------------------------------------------------------------------- */

/* "FILE: byte N: what was found and what was expected there". */
static sy_status bad(cursor *c, const void *at, sy_status code, const char *fmt, ...) SYI_PRINTF(4, 5);
static sy_status bad(cursor *c, const void *at, sy_status code, const char *fmt, ...)
{
    char text[1024];
    va_list list;
    va_start(list, fmt);
    vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    return syi_fail(c->ctx, code, "%s: byte %lld: %s", c->path, (long long)((const uint8_t *)at - c->begin), text);
}

static sy_status truncated(cursor *c, const char *what)
{
    return bad(c, c->end, SY_E_INPUT, "the file ends inside of %s: it is truncated", what);
}

static sy_status take(cursor *c, void *out, size_t n, const char *what)
{
    if ((size_t)(c->end - c->at) < n) return truncated(c, what);
    memcpy(out, c->at, n);
    c->at += n;
    return SY_OK;
}

/* Length and bytes of a string; not terminated. */
static sy_status take_string(cursor *c, const char **s, int64_t *len, uint64_t max, const char *what)
{
    uint64_t n = 0;
    SYI_TRY(take(c, &n, 8, what));
    if (n > max)
        return bad(c, c->at - 8, SY_E_INPUT, "%s would be %llu bytes long; at most %llu are accepted", what, (unsigned long long)n, (unsigned long long)max);
    if (n > (uint64_t)(c->end - c->at)) return truncated(c, what);
    *s = (const char *)c->at;
    *len = (int64_t)n;
    c->at += n;
    return SY_OK;
}

static char *copy_text(syi_gguf *g, const char *s, int64_t len)
{
    char *copy = syi_arena_alloc(g->arena, (size_t)len + 1);
    if (copy != NULL && len > 0) memcpy(copy, s, (size_t)len);
    return copy;
}

/* A key or a tensor's name: text, not empty, without NUL. */
static sy_status take_name(syi_gguf *g, cursor *c, const char **out, uint64_t max, const char *what)
{
    const char *s = "";
    int64_t len = 0;
    SYI_TRY(take_string(c, &s, &len, max, what));
    if (len == 0 || !syi_utf8_ok(s, (size_t)len))
        return bad(c, s, SY_E_INPUT, "%s is %s; UTF-8 text was expected", what, len == 0 ? "empty" : "not text");
    *out = copy_text(g, s, len);
    return *out != NULL ? SY_OK : sy_error_code(c->ctx);
}

static sy_status take_bools(cursor *c, const pair *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (p->data[i] > 1) return bad(c, p->data + i, SY_E_INPUT, "key %s: %d is no boolean; 0 or 1 was expected", p->key, p->data[i]);
    return SY_OK;
}

static sy_status take_array(syi_gguf *g, cursor *c, pair *p)
{
    uint32_t item = 0;
    uint64_t count = 0;
    SYI_TRY(take(c, &item, 4, p->key));
    SYI_TRY(take(c, &count, 8, p->key));
    if (item == SYI_GGUF_ARRAY)
        return bad(c, c->at - 12, SY_E_UNSUPPORTED, "key %s: arrays of arrays are not supported", p->key);
    if (item != SYI_GGUF_STRING && syi_gguf_type_size(item) == 0)
        return bad(c, c->at - 12, SY_E_INPUT, "key %s: %u is not a type of array items; 0 to 12 were expected", p->key, item);
    if (count > SYI_GGUF_LENGTH_MAX)
        return bad(c, c->at - 8, SY_E_INPUT, "key %s: an array of %llu items; at most %llu are accepted", p->key, (unsigned long long)count,
                   (unsigned long long)SYI_GGUF_LENGTH_MAX);
    p->item = (syi_gguf_type)item;
    p->count = (int64_t)count;
    p->data = c->at;
    if (item != SYI_GGUF_STRING) {
        const uint64_t bytes = count * (uint64_t)syi_gguf_type_size(item);
        if (bytes > (uint64_t)(c->end - c->at)) return truncated(c, p->key);
        c->at += bytes;
        return item == SYI_GGUF_BOOL ? take_bools(c, p, p->count) : SY_OK;
    }
    if (count > (uint64_t)(c->end - c->at) / 8) return truncated(c, p->key);
    p->at = syi_arena_alloc(g->arena, (size_t)(count + 1) * sizeof *p->at);
    if (p->at == NULL) return sy_error_code(c->ctx);
    for (int64_t i = 0; i < p->count; i++) {
        const char *s = "";
        int64_t len = 0;
        p->at[i] = c->at - p->data;
        SYI_TRY(take_string(c, &s, &len, SYI_GGUF_LENGTH_MAX, p->key));
    }
    p->at[p->count] = c->at - p->data;
    return SY_OK;
}

static sy_status take_value(syi_gguf *g, cursor *c, pair *p, uint32_t type)
{
    if (type == SYI_GGUF_ARRAY) return take_array(g, c, p);
    if (type == SYI_GGUF_STRING) {
        const char *s = "";
        int64_t len = 0;
        SYI_TRY(take_string(c, &s, &len, SYI_GGUF_LENGTH_MAX, p->key));
        if (memchr(s, 0, (size_t)len) != NULL) return bad(c, s, SY_E_INPUT, "key %s: the text holds a NUL", p->key);
        p->text = copy_text(g, s, len);
        return p->text != NULL ? SY_OK : sy_error_code(c->ctx);
    }
    const int size = syi_gguf_type_size(type);
    if (size == 0) return bad(c, c->at - 4, SY_E_INPUT, "key %s: %u is not a type of values; 0 to 12 were expected", p->key, type);
    if (c->end - c->at < size) return truncated(c, p->key);
    c->at += size;
    return type == SYI_GGUF_BOOL ? take_bools(c, p, 1) : SY_OK;
}

static sy_status take_pair(syi_gguf *g, cursor *c, pair *p)
{
    uint32_t type = 0;
    int64_t other;
    SYI_TRY(take_name(g, c, &p->key, SYI_GGUF_KEY_MAX, "a key"));
    if (syi_map_get(g->keys, p->key, strlen(p->key), &other))
        return bad(c, c->at - strlen(p->key), SY_E_INPUT, "key %s is there twice", p->key);
    SYI_TRY(syi_map_set(g->keys, p->key, strlen(p->key), p - g->pairs));
    SYI_TRY(take(c, &type, 4, p->key));
    p->type = (syi_gguf_type)type;
    const uint8_t *begin = p->data = c->at;
    SYI_TRY(take_value(g, c, p, type));
    p->begin = begin;
    p->bytes = c->at - begin;
    return SY_OK;
}

/* One tensor's description; *next is where its data must begin, and then where the
 * data of the one after it must. */
static sy_status take_tensor(syi_gguf *g, cursor *c, sy_entry *e, int64_t alignment, int64_t *next)
{
    uint32_t rank = 0, id = 0;
    uint64_t offset = 0;
    int64_t count, other;
    char text[128];
    SYI_TRY(take_name(g, c, &e->name, SYI_NAME_MAX, "a tensor's name"));
    if (syi_map_get(g->names, e->name, strlen(e->name), &other))
        return bad(c, c->at - strlen(e->name), SY_E_INPUT, "tensor %s is there twice", e->name);
    SYI_TRY(syi_map_set(g->names, e->name, strlen(e->name), e - g->tensors));
    SYI_TRY(take(c, &rank, 4, e->name));
    if (rank > SYI_GGUF_DIMS_MAX)
        return bad(c, c->at - 4, SY_E_INPUT, "tensor %s: %u dimensions; GGUF has at most %d", e->name, rank, SYI_GGUF_DIMS_MAX);
    e->rank = (int)rank;
    e->file = c->path;
    for (int i = 0; i < e->rank; i++) {
        uint64_t d = 0;
        SYI_TRY(take(c, &d, 8, e->name));
        if (d > INT64_MAX) return bad(c, c->at - 8, SY_E_INPUT, "tensor %s: dimension %llu is too large", e->name, (unsigned long long)d);
        e->dim[e->rank - 1 - i] = (int64_t)d;
    }
    SYI_TRY(take(c, &id, 4, e->name));
    SYI_TRY(take(c, &offset, 8, e->name));
    const char *name;
    const int dtype = syi_gguf_dtype(id, &name);
    if (dtype < 0)
        return bad(c, c->at - 12, SY_E_UNSUPPORTED, "tensor %s is of type %s (%u), which is not supported", e->name, name != NULL ? name : "unknown", id);
    e->dtype = (sy_dtype)dtype;
    if (!syi_shape_bytes(e->dtype, e->rank, e->dim, &count, &e->bytes))
        return bad(c, c->at - 12, SY_E_INPUT, "tensor %s: shape %s is too large, or its rows are no whole blocks of %s", e->name,
                   syi_shape_text(text, e->rank, e->dim), sy_dtype_name(e->dtype));
    if (offset != (uint64_t)*next)
        return bad(c, c->at - 8, SY_E_INPUT, "tensor %s: its data would begin at offset %llu, but the tensor before it ends at %lld", e->name,
                   (unsigned long long)offset, (long long)*next);
    e->data = (const void *)(uintptr_t)offset; /* an offset until the data is found */
    if (e->bytes > INT64_MAX - 2 * alignment - *next) return bad(c, c->at - 8, SY_E_INPUT, "tensor %s: the tensors are too large", e->name);
    *next = syi_ceil_div(*next + e->bytes, alignment) * alignment;
    return SY_OK;
}

static sy_status read_alignment(syi_gguf *g, int64_t *out)
{
    *out = SYI_GGUF_ALIGNMENT;
    int64_t i;
    if (!syi_map_get(g->keys, "general.alignment", 17, &i)) return SY_OK;
    if (g->pairs[i].type != SYI_GGUF_U32 || !syi_gguf_int(g, "general.alignment", out))
        return syi_fail(g->ctx, SY_E_INPUT, "%s: general.alignment is not a u32", g->path);
    if (*out < 1 || *out > (1 << 24) || (*out & (*out - 1)) != 0)
        return syi_fail(g->ctx, SY_E_INPUT, "%s: general.alignment is %lld; a power of two was expected", g->path, (long long)*out);
    return SY_OK;
}

static sy_status read_header(cursor *c, uint64_t *tensors, uint64_t *pairs)
{
    char magic[4] = {0};
    uint32_t version = 0;
    SYI_TRY(take(c, magic, 4, "the magic number"));
    if (memcmp(magic, "GGUF", 4) != 0) return bad(c, c->begin, SY_E_INPUT, "not a GGUF file: it does not begin with \"GGUF\"");
    SYI_TRY(take(c, &version, 4, "the version"));
    if (version != 2 && version != 3) {
        const bool swapped = version == 0x02000000u || version == 0x03000000u;
        return bad(c, c->begin + 4, version <= 4 || swapped ? SY_E_UNSUPPORTED : SY_E_INPUT, "GGUF version %u%s; versions 2 and 3 are read", version,
                   swapped ? " (a big-endian file)" : "");
    }
    SYI_TRY(take(c, tensors, 8, "the header"));
    SYI_TRY(take(c, pairs, 8, "the header"));
    const uint64_t left = (uint64_t)(c->end - c->at); /* a tensor takes 25 bytes at least, a key 14 */
    if (*tensors > left / 25 || *pairs > left / 14)
        return bad(c, c->begin + 8, SY_E_INPUT, "%llu tensors and %llu keys do not fit in %llu bytes: the file is truncated or damaged",
                   (unsigned long long)*tensors, (unsigned long long)*pairs, (unsigned long long)left);
    return SY_OK;
}

static sy_status read_all(syi_gguf *g)
{
    sy_context *ctx = g->ctx;
    cursor c = {ctx, g->path, g->file.data, g->file.data, g->file.data + g->file.size};
    uint64_t tensors = 0, pairs = 0;
    SYI_TRY(read_header(&c, &tensors, &pairs));
    g->pairs = syi_calloc(ctx, (size_t)pairs + 1, sizeof *g->pairs);
    g->tensors = syi_calloc(ctx, (size_t)tensors + 1, sizeof *g->tensors);
    if (g->pairs == NULL || g->tensors == NULL) return sy_error_code(ctx);
    for (uint64_t i = 0; i < pairs; i++) {
        SYI_TRY(take_pair(g, &c, &g->pairs[i]));
        g->n_pairs++;
    }
    int64_t alignment = 0, next = 0;
    SYI_TRY(read_alignment(g, &alignment));
    for (uint64_t i = 0; i < tensors; i++) SYI_TRY(take_tensor(g, &c, &g->tensors[i], alignment, &next));
    if (tensors == 0) return SY_OK;

    const int64_t start = syi_ceil_div(c.at - c.begin, alignment) * alignment;
    for (uint64_t i = 0; i < tensors; i++) {
        sy_entry *e = &g->tensors[i];
        const int64_t offset = (int64_t)(uintptr_t)e->data;
        if (start > g->file.size || offset > g->file.size - start || e->bytes > g->file.size - start - offset)
            return syi_fail(ctx, SY_E_INPUT, "%s: tensor %s: its data ends at byte %lld, but the file has %lld: it is truncated", g->path, e->name,
                            (long long)(start + offset + e->bytes), (long long)g->file.size);
        e->data = g->file.data + start + offset;
    }
    g->n_tensors = (int64_t)tensors;
    if (start + next < g->file.size)
        syi_log(ctx, SY_LOG_WARN, "%s: %lld bytes after the last tensor were left unread", g->path, (long long)(g->file.size - start - next));
    return SY_OK;
}

static sy_status open_one(sy_context *ctx, const char *path, syi_gguf **out)
{
    *out = NULL;
    syi_gguf *g = syi_calloc(ctx, 1, sizeof *g);
    if (g == NULL) return sy_error_code(ctx);
    g->ctx = ctx;
    sy_status status;
    SYI_TRY_TO(fail, status, syi_arena_new(ctx, 256 * 1024, &g->arena));
    SYI_TRY_TO(fail, status, syi_map_new(ctx, &g->keys));
    SYI_TRY_TO(fail, status, syi_map_new(ctx, &g->names));
    g->path = syi_arena_strdup(g->arena, path);
    if (g->path == NULL) {
        status = sy_error_code(ctx);
        goto fail;
    }
    SYI_TRY_TO(fail, status, syi_map_file(ctx, path, &g->file));
    g->mapped = true;
    SYI_TRY_TO(fail, status, read_all(g));
    *out = g;
    return SY_OK;
fail:
    syi_gguf_close(g);
    return status;
}

/* -- files in several parts ------------------------------------------------------------ */

enum { PARTS_MAX = 65535 };

/* "x/model-00002-of-00005.gguf" with another number; NULL with the error set when it is
 * not called so. */
static char *part_name(sy_context *ctx, const char *path, int64_t no, int64_t count)
{
    char end[32];
    snprintf(end, sizeof end, "-of-%05lld.gguf", (long long)count);
    const size_t tail = strlen("-00001") + strlen(end), n = strlen(path);
    const char *digits = n > tail ? path + n - tail + 1 : "";
    if (n <= tail || !syi_ends(path, end) || digits[-1] != '-' || strspn(digits, "0123456789") != 5) {
        syi_fail(ctx, SY_E_INPUT, "%s: a part of a file in %lld parts; a name ending in -00001%s was expected, to find the others by", path,
                 (long long)count, end);
        return NULL;
    }
    return syi_format(ctx, "%.*s-%05lld-of-%05lld.gguf", (int)(n - tail), path, (long long)no + 1, (long long)count);
}

static sy_status check_part(const syi_gguf *g, int64_t no, int64_t count)
{
    int64_t n = -1, all = -1;
    syi_gguf_int(g, "split.no", &n);
    syi_gguf_int(g, "split.count", &all);
    if (n != no || all != count)
        return syi_fail(g->ctx, SY_E_INPUT, "%s: split.no is %lld and split.count %lld; %lld and %lld were expected: the parts do not belong together",
                        g->path, (long long)n, (long long)all, (long long)no, (long long)count);
    return SY_OK;
}

/* The tensors of a part go behind those that are there. */
static sy_status append_part(syi_gguf *g, const syi_gguf *p)
{
    int64_t other;
    sy_entry *all = syi_realloc(g->ctx, g->tensors, (size_t)(g->n_tensors + p->n_tensors + 1) * sizeof *all);
    if (all == NULL) return sy_error_code(g->ctx);
    g->tensors = all;
    for (int64_t i = 0; i < p->n_tensors; i++) {
        const sy_entry *e = &p->tensors[i];
        if (syi_map_get(g->names, e->name, strlen(e->name), &other))
            return syi_fail(g->ctx, SY_E_INPUT, "%s: tensor %s is in %s already", p->path, e->name, g->tensors[other].file);
        SYI_TRY(syi_map_set(g->names, e->name, strlen(e->name), g->n_tensors));
        g->tensors[g->n_tensors++] = *e;
    }
    return SY_OK;
}

static sy_status open_parts(syi_gguf *g, int64_t count)
{
    sy_context *ctx = g->ctx;
    SYI_TRY(check_part(g, 0, count));
    g->parts = syi_calloc(ctx, (size_t)count, sizeof *g->parts);
    if (g->parts == NULL) return sy_error_code(ctx);
    for (int64_t i = 1; i < count; i++) {
        char *path = part_name(ctx, g->path, i, count);
        if (path == NULL) return sy_error_code(ctx);
        sy_status status = syi_exists(path) ? open_one(ctx, path, &g->parts[i - 1])
                                            : syi_fail(ctx, SY_E_INPUT, "%s: this part is missing: the model is in %lld files", path, (long long)count);
        syi_free(ctx, path);
        if (status != SY_OK) return status;
        g->n_parts++;
        SYI_TRY(check_part(g->parts[i - 1], i, count));
        SYI_TRY(append_part(g, g->parts[i - 1]));
    }
    int64_t tensors;
    if (syi_gguf_int(g, "split.tensors.count", &tensors) && tensors != g->n_tensors)
        return syi_fail(ctx, SY_E_INPUT, "%s: split.tensors.count is %lld, but the %lld parts have %lld tensors", g->path, (long long)tensors,
                        (long long)count, (long long)g->n_tensors);
    return SY_OK;
}

sy_status syi_gguf_open(sy_context *ctx, const char *path, syi_gguf **out)
{
    syi_gguf *g = NULL;
    int64_t count = 1, no = 0;
    *out = NULL;
    SYI_TRY(open_one(ctx, path, &g));
    sy_status status = SY_OK;
    const bool split = syi_gguf_int(g, "split.count", &count) && count != 1;
    if (split && (count < 1 || count > PARTS_MAX))
        status = syi_fail(ctx, SY_E_INPUT, "%s: split.count is %lld; 1 to %d were expected", path, (long long)count, PARTS_MAX);
    else if (split && syi_gguf_int(g, "split.no", &no) && no != 0) { /* begin with the first */
        char *first = part_name(ctx, path, 0, count);
        syi_gguf_close(g);
        g = NULL;
        status = first == NULL ? sy_error_code(ctx) : syi_exists(first) ? open_one(ctx, first, &g)
                                                    : syi_fail(ctx, SY_E_INPUT, "%s: this part is missing: the model is in %lld files", first, (long long)count);
        syi_free(ctx, first);
    }
    if (status == SY_OK && split) status = open_parts(g, count);
    if (status == SY_OK) *out = g;
    else syi_gguf_close(g);
    return status;
}

void syi_gguf_close(syi_gguf *g)
{
    if (g == NULL) return;
    for (int64_t i = 0; i < g->n_parts; i++) syi_gguf_close(g->parts[i]);
    syi_free(g->ctx, g->parts);
    if (g->mapped) syi_unmap_file(g->ctx, &g->file);
    if (g->keys != NULL) syi_map_free(g->keys);
    if (g->names != NULL) syi_map_free(g->names);
    if (g->arena != NULL) syi_arena_free(g->arena);
    syi_free(g->ctx, g->pairs);
    syi_free(g->ctx, g->tensors);
    syi_free(g->ctx, g);
}

/* -- tensors ---------------------------------------------------------------------- */

int64_t syi_gguf_tensors(const syi_gguf *g)
{
    return g->n_tensors;
}

const sy_entry *syi_gguf_tensor(const syi_gguf *g, int64_t i)
{
    return i >= 0 && i < g->n_tensors ? &g->tensors[i] : NULL;
}

const sy_entry *syi_gguf_find(const syi_gguf *g, const char *name)
{
    int64_t i;
    return syi_map_get(g->names, name, strlen(name), &i) ? &g->tensors[i] : NULL;
}

/* -- keys --------------------------------------------------------------------------- */

static const pair *find(const syi_gguf *g, const char *key)
{
    int64_t i;
    return syi_map_get(g->keys, key, strlen(key), &i) ? &g->pairs[i] : NULL;
}

bool syi_gguf_str(const syi_gguf *g, const char *key, const char **out)
{
    const pair *p = find(g, key);
    if (p == NULL || p->type != SYI_GGUF_STRING) return false;
    *out = p->text;
    return true;
}

/* A number at p: as an integer (false: not an integer, or beyond int64). */
static bool read_int(syi_gguf_type type, const uint8_t *p, int64_t *out)
{
#define READ(t) do { t v_; memcpy(&v_, p, sizeof v_); *out = (int64_t)v_; return true; } while (0)
    switch (type) {
    case SYI_GGUF_U8: READ(uint8_t);
    case SYI_GGUF_I8: READ(int8_t);
    case SYI_GGUF_U16: READ(uint16_t);
    case SYI_GGUF_I16: READ(int16_t);
    case SYI_GGUF_U32: READ(uint32_t);
    case SYI_GGUF_I32: READ(int32_t);
    case SYI_GGUF_I64: READ(int64_t);
    case SYI_GGUF_U64: {
        uint64_t v;
        memcpy(&v, p, 8);
        *out = (int64_t)v;
        return v <= INT64_MAX;
    }
    default: return false;
    }
#undef READ
}

static bool read_float(syi_gguf_type type, const uint8_t *p, double *out)
{
    int64_t i;
    if (type == SYI_GGUF_F32) {
        float v;
        memcpy(&v, p, 4);
        *out = v;
    } else if (type == SYI_GGUF_F64) {
        memcpy(out, p, 8);
    } else if (type == SYI_GGUF_U64) {
        uint64_t v;
        memcpy(&v, p, 8);
        *out = (double)v;
    } else if (read_int(type, p, &i)) {
        *out = (double)i;
    } else {
        return false;
    }
    return true;
}

bool syi_gguf_int(const syi_gguf *g, const char *key, int64_t *out)
{
    const pair *p = find(g, key);
    return p != NULL && read_int(p->type, p->data, out);
}

bool syi_gguf_float(const syi_gguf *g, const char *key, double *out)
{
    const pair *p = find(g, key);
    return p != NULL && read_float(p->type, p->data, out);
}

bool syi_gguf_bool(const syi_gguf *g, const char *key, bool *out)
{
    const pair *p = find(g, key);
    if (p == NULL || p->type != SYI_GGUF_BOOL) return false;
    *out = p->data[0] != 0;
    return true;
}

int64_t syi_gguf_array(const syi_gguf *g, const char *key, syi_gguf_type *item)
{
    const pair *p = find(g, key);
    if (p == NULL || p->type != SYI_GGUF_ARRAY) return -1;
    if (item != NULL) *item = p->item;
    return p->count;
}

bool syi_gguf_array_str(const syi_gguf *g, const char *key, int64_t i, const char **s, int64_t *len)
{
    const pair *p = find(g, key);
    if (p == NULL || p->type != SYI_GGUF_ARRAY || p->item != SYI_GGUF_STRING || i < 0 || i >= p->count) return false;
    *s = (const char *)p->data + p->at[i] + 8;
    *len = p->at[i + 1] - p->at[i] - 8;
    return true;
}

bool syi_gguf_array_num(const syi_gguf *g, const char *key, int64_t i, double *out)
{
    const pair *p = find(g, key);
    if (p == NULL || p->type != SYI_GGUF_ARRAY || p->item == SYI_GGUF_STRING || i < 0 || i >= p->count) return false;
    const uint8_t *at = p->data + i * syi_gguf_type_size(p->item);
    if (p->item != SYI_GGUF_BOOL) return read_float(p->item, at, out);
    *out = at[0];
    return true;
}

int64_t syi_gguf_keys(const syi_gguf *g)
{
    return g->n_pairs;
}

const char *syi_gguf_key(const syi_gguf *g, int64_t i, syi_gguf_type *type)
{
    if (i < 0 || i >= g->n_pairs) return NULL;
    if (type != NULL) *type = g->pairs[i].type;
    return g->pairs[i].key;
}

int syi_gguf_raw(const syi_gguf *g, const char *key, const uint8_t **data, int64_t *bytes)
{
    const pair *p = find(g, key);
    if (p == NULL) return -1;
    *data = p->begin;
    *bytes = p->bytes;
    return (int)p->type;
}
