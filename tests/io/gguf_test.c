/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF: files made byte by byte here, lies about every length, every truncation
 * and flipped bit; what the writer wrote comes back. */
#include "support/scratch.h"
#include "support/test.h"

#include "base/rng.h"
#include "io/gguf.h"

#include <errno.h>

static sy_context *ctx;
static char *dir;

static int set_up(void **state)
{
    (void)state;
    ctx = sy_context_new();
    dir = scratch_new();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
    scratch_remove(dir);
    return 0;
}

/* -- a file, byte by byte ----------------------------------------------------- */

typedef struct { uint8_t at[8192]; size_t n; } blob;
static void raw(blob *b, const void *p, size_t n) { memcpy(b->at + b->n, p, n); b->n += n; }
static void u32(blob *b, uint32_t v) { raw(b, &v, 4); }
static void u64(blob *b, uint64_t v) { raw(b, &v, 8); }
static void str(blob *b, const char *s) { u64(b, strlen(s)); raw(b, s, strlen(s)); }
static void head(blob *b, uint32_t version, uint64_t tensors, uint64_t keys)
{
    b->n = 0;
    raw(b, "GGUF", 4);
    u32(b, version);
    u64(b, tensors);
    u64(b, keys);
}
static void info(blob *b, const char *name, int rank, const uint64_t *dims, uint32_t type, uint64_t offset)
{
    str(b, name);
    u32(b, (uint32_t)rank);
    for (int i = 0; i < rank; i++) u64(b, dims[i]);
    u32(b, type);
    u64(b, offset);
}
static void pad(blob *b, size_t to) { while (b->n % to != 0) b->at[b->n++] = 0; }
static void fill(blob *b, size_t n) { for (size_t i = 0; i < n; i++) b->at[b->n++] = (uint8_t)(i + 1); }

static sy_status open_blob(const blob *b, syi_gguf **g)
{
    const char *path = scratch_path(dir, "t.gguf");
    scratch_write(path, b->at, b->n);
    return syi_gguf_open(ctx, path, g);
}

static void refused(const blob *b, sy_status status, const char *says)
{
    syi_gguf *g = NULL;
    assert_int_equal(open_blob(b, &g), status);
    assert_null(g);
    if (strstr(sy_error_message(ctx), says) == NULL) fail_msg("\"%s\" does not say \"%s\"", sy_error_message(ctx), says);
}

/* Every kind of value, two tensors. */
static void full(blob *b, uint32_t version)
{
    head(b, version, 2, 15);
    str(b, "general.architecture"), u32(b, SYI_GGUF_STRING), str(b, "llama");
    str(b, "u8"), u32(b, SYI_GGUF_U8), raw(b, "\xff", 1);
    str(b, "i8"), u32(b, SYI_GGUF_I8), raw(b, "\xff", 1);
    str(b, "u16"), u32(b, SYI_GGUF_U16), raw(b, "\xff\xff", 2);
    str(b, "i16"), u32(b, SYI_GGUF_I16), raw(b, "\xfe\xff", 2);
    str(b, "u32"), u32(b, SYI_GGUF_U32), u32(b, 4000000000u);
    str(b, "i32"), u32(b, SYI_GGUF_I32), u32(b, (uint32_t)-5);
    str(b, "f32"), u32(b, SYI_GGUF_F32), raw(b, &(float){0.5f}, 4);
    str(b, "yes"), u32(b, SYI_GGUF_BOOL), raw(b, "\1", 1);
    str(b, "u64"), u32(b, SYI_GGUF_U64), u64(b, UINT64_MAX);
    str(b, "i64"), u32(b, SYI_GGUF_I64), u64(b, (uint64_t)-7);
    str(b, "f64"), u32(b, SYI_GGUF_F64), raw(b, &(double){0.1}, 8);
    str(b, "strs"), u32(b, SYI_GGUF_ARRAY), u32(b, SYI_GGUF_STRING), u64(b, 3), str(b, "a"), str(b, ""), str(b, "bcd");
    str(b, "nums"), u32(b, SYI_GGUF_ARRAY), u32(b, SYI_GGUF_I16), u64(b, 3), raw(b, "\1\0\xff\xff\3\0", 6);
    str(b, "none"), u32(b, SYI_GGUF_ARRAY), u32(b, SYI_GGUF_F32), u64(b, 0);
    info(b, "w", 2, (const uint64_t[]){3, 2}, 0, 0); /* F32 [2,3], 24 bytes */
    info(b, "q", 2, (const uint64_t[]){32, 2}, 8, 32); /* Q8_0 [2,32], 68 bytes */
    pad(b, 32);
    fill(b, 24);
    pad(b, 32);
    fill(b, 68);
    pad(b, 32);
}

static void reads(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        blob b;
        syi_gguf *g = NULL;
        full(&b, version);
        assert_int_equal(open_blob(&b, &g), SY_OK);
        const char *s;
        int64_t i, len;
        double d;
        bool yes;
        assert_true(syi_gguf_str(g, "general.architecture", &s) && strcmp(s, "llama") == 0);
        static const struct { const char *key; int64_t value; } ints[] = {{"u8", 255},          {"i8", -1},  {"u16", 65535}, {"i16", -2},
                                                                         {"u32", 4000000000}, {"i32", -5}, {"i64", -7}};
        for (int k = 0; k < SYI_COUNT(ints); k++) {
            assert_true(syi_gguf_int(g, ints[k].key, &i) && i == ints[k].value);
            assert_true(syi_gguf_float(g, ints[k].key, &d) && d == (double)i);
            assert_false(syi_gguf_str(g, ints[k].key, &s));
        }
        assert_false(syi_gguf_int(g, "u64", &i)); /* does not fit */
        assert_false(syi_gguf_int(g, "f32", &i));
        assert_false(syi_gguf_int(g, "absent", &i));
        assert_true(syi_gguf_float(g, "f32", &d) && d == 0.5);
        assert_true(syi_gguf_float(g, "f64", &d) && d == 0.1);
        assert_true(syi_gguf_bool(g, "yes", &yes) && yes);
        assert_false(syi_gguf_bool(g, "u8", &yes));
        syi_gguf_type item;
        assert_int_equal(syi_gguf_array(g, "strs", &item), 3);
        assert_int_equal(item, SYI_GGUF_STRING);
        assert_true(syi_gguf_array_str(g, "strs", 2, &s, &len) && len == 3 && memcmp(s, "bcd", 3) == 0);
        assert_true(syi_gguf_array_str(g, "strs", 1, &s, &len) && len == 0);
        assert_false(syi_gguf_array_str(g, "strs", 3, &s, &len));
        assert_false(syi_gguf_array_num(g, "strs", 0, &d));
        assert_true(syi_gguf_array_num(g, "nums", 1, &d) && d == -1);
        assert_false(syi_gguf_array_num(g, "nums", -1, &d));
        assert_int_equal(syi_gguf_array(g, "none", NULL), 0);
        assert_int_equal(syi_gguf_array(g, "u8", NULL), -1);
        assert_int_equal(syi_gguf_keys(g), 15);
        assert_string_equal(syi_gguf_key(g, 1, &item), "u8");
        assert_int_equal(item, SYI_GGUF_U8);
        assert_int_equal(syi_gguf_tensors(g), 2);
        const sy_entry *e = syi_gguf_find(g, "w");
        assert_true(e->rank == 2 && e->dim[0] == 2 && e->dim[1] == 3 && e->bytes == 24 && e->dtype == SY_F32);
        assert_int_equal(((const uint8_t *)e->data)[23], 24);
        e = syi_gguf_find(g, "q");
        assert_true(e->dim[0] == 2 && e->dim[1] == 32 && e->bytes == 68 && ((const uint8_t *)e->data)[67] == 68);
        float f[64];
        assert_int_equal(sy_entry_read_f32(ctx, e, 0, 2, f), SY_OK);
        syi_gguf_close(g);
    }
}

static void lies(void **state)
{
    (void)state;
    blob b;
    head(&b, 3, 0, 0);
    syi_gguf *g = NULL;
    assert_int_equal(open_blob(&b, &g), SY_OK); /* empty, but a file */
    syi_gguf_close(g);
    memcpy(b.at, "GGML", 4), refused(&b, SY_E_INPUT, "not a GGUF");
    head(&b, 1, 0, 0), refused(&b, SY_E_UNSUPPORTED, "version 1");
    head(&b, 0x03000000, 0, 0), refused(&b, SY_E_UNSUPPORTED, "big-endian");
    head(&b, 77, 0, 0), refused(&b, SY_E_INPUT, "version 77");
    head(&b, 3, UINT64_MAX, 0), refused(&b, SY_E_INPUT, "do not fit");
    head(&b, 3, 0, UINT64_MAX), refused(&b, SY_E_INPUT, "do not fit");

#define KEY(name, type) head(&b, 3, 0, 1), str(&b, name), u32(&b, type)
    KEY("", SYI_GGUF_U8), u64(&b, 0), refused(&b, SY_E_INPUT, "empty");
    KEY("a\xff", SYI_GGUF_U8), u64(&b, 0), refused(&b, SY_E_INPUT, "UTF-8");
    KEY("a", 13), u64(&b, 0), refused(&b, SY_E_INPUT, "type");
    KEY("a", SYI_GGUF_BOOL), raw(&b, "\2", 1), u64(&b, 0), refused(&b, SY_E_INPUT, "boolean");
    KEY("a", SYI_GGUF_STRING), u64(&b, UINT64_MAX), refused(&b, SY_E_INPUT, "at most");
    KEY("a", SYI_GGUF_STRING), u64(&b, 1 << 20), refused(&b, SY_E_INPUT, "truncated");
    KEY("a", SYI_GGUF_STRING), u64(&b, 2), raw(&b, "x\0", 2), refused(&b, SY_E_INPUT, "NUL");
    KEY("a", SYI_GGUF_ARRAY), u32(&b, SYI_GGUF_U64), u64(&b, UINT64_MAX / 8 + 2), refused(&b, SY_E_INPUT, "at most");
    KEY("a", SYI_GGUF_ARRAY), u32(&b, SYI_GGUF_U64), u64(&b, 1 << 30), refused(&b, SY_E_INPUT, "truncated");
    KEY("a", SYI_GGUF_ARRAY), u32(&b, SYI_GGUF_STRING), u64(&b, 1 << 30), refused(&b, SY_E_INPUT, "truncated");
    KEY("a", SYI_GGUF_ARRAY), u32(&b, 99), u64(&b, 0), refused(&b, SY_E_INPUT, "items");
    KEY("a", SYI_GGUF_ARRAY), u32(&b, SYI_GGUF_ARRAY), u64(&b, 0), refused(&b, SY_E_UNSUPPORTED, "arrays of arrays");
    KEY("general.alignment", SYI_GGUF_U32), u32(&b, 48), refused(&b, SY_E_INPUT, "power of two");
    KEY("general.alignment", SYI_GGUF_U32), u32(&b, 0), refused(&b, SY_E_INPUT, "power of two");
    KEY("general.alignment", SYI_GGUF_STRING), str(&b, "32"), refused(&b, SY_E_INPUT, "u32");
    KEY("split.count", SYI_GGUF_U16), raw(&b, "\3\0", 2), refused(&b, SY_E_INPUT, "do not belong together");
    KEY("split.count", SYI_GGUF_U32), u32(&b, 1 << 30), refused(&b, SY_E_INPUT, "split.count");
    head(&b, 3, 0, 2), str(&b, "k"), u32(&b, 0), raw(&b, "1", 1), str(&b, "k"), u32(&b, 0), raw(&b, "1", 1);
    refused(&b, SY_E_INPUT, "twice");

#define TENSOR(name, rank, dims, type, offset) (head(&b, 3, 1, 0), info(&b, name, rank, dims, type, offset), pad(&b, 32), fill(&b, 64))
    const uint64_t two[] = {32, 2, 1, 1, 1}, odd[] = {33}, huge[] = {1ull << 40, 1ull << 40}, wrap[] = {UINT64_MAX}, big[] = {1ull << 61};
    TENSOR("t", 1, two, 8, 0);
    assert_int_equal(open_blob(&b, &g), SY_OK);
    syi_gguf_close(g);
    TENSOR("t", 5, two, 8, 0), refused(&b, SY_E_INPUT, "dimensions");
    TENSOR("t", 1, odd, 8, 0), refused(&b, SY_E_INPUT, "blocks");
    TENSOR("t", 0, odd, 8, 0), refused(&b, SY_E_INPUT, "blocks");
    TENSOR("t", 2, huge, 0, 0), refused(&b, SY_E_INPUT, "too large");
    TENSOR("t", 1, wrap, 0, 0), refused(&b, SY_E_INPUT, "too large");
    TENSOR("t", 1, big, 0, 0), refused(&b, SY_E_INPUT, "too large");
    TENSOR("t", 1, two, 16, 0), refused(&b, SY_E_UNSUPPORTED, "tensor t is of type IQ2_XXS");
    TENSOR("t", 1, two, 1000, 0), refused(&b, SY_E_UNSUPPORTED, "1000");
    TENSOR("t", 1, two, 8, 32), refused(&b, SY_E_INPUT, "offset 32");
    TENSOR("", 1, two, 8, 0), refused(&b, SY_E_INPUT, "empty");
    TENSOR("t", 2, two, 0, 0), refused(&b, SY_E_INPUT, "truncated");
    head(&b, 3, 2, 0), info(&b, "t", 1, two, 0, 0), info(&b, "t", 1, two, 0, 128), pad(&b, 32), fill(&b, 256);
    refused(&b, SY_E_INPUT, "twice");
    head(&b, 3, 2, 0), info(&b, "t", 1, two, 0, 0), info(&b, "u", 1, two, 0, 160), pad(&b, 32), fill(&b, 320);
    refused(&b, SY_E_INPUT, "offset 160");
}

static void read_everything(const syi_gguf *g)
{
    for (int64_t i = 0; i < syi_gguf_keys(g); i++) {
        const char *key = syi_gguf_key(g, i, NULL), *s;
        double d;
        int64_t len, n = syi_gguf_array(g, key, NULL);
        syi_gguf_float(g, key, &d);
        if (syi_gguf_str(g, key, &s)) assert_true(strlen(s) < 8192);
        for (int64_t k = 0; k < n; k++) {
            syi_gguf_array_num(g, key, k, &d);
            if (syi_gguf_array_str(g, key, k, &s, &len) && len > 0) assert_true(s[0] == s[len - 1] || s[0] != s[len - 1]);
        }
    }
    for (int64_t i = 0; i < syi_gguf_tensors(g); i++) {
        const sy_entry *e = syi_gguf_tensor(g, i);
        float *f = malloc((size_t)(syi_entry_rows(e) * syi_entry_cols(e) + 1) * sizeof *f);
        assert_int_equal(sy_entry_read_f32(ctx, e, 0, syi_entry_rows(e), f), SY_OK);
        free(f);
    }
}

static void truncations(void **state)
{
    (void)state;
    blob b;
    full(&b, 3);
    const size_t n = b.n - 28; /* the padding after the last tensor may be missing */
    for (b.n = 0; b.n < n; b.n++) {
        syi_gguf *g = NULL;
        assert_int_equal(open_blob(&b, &g), SY_E_INPUT);
        assert_non_null(strstr(sy_error_message(ctx), "t.gguf"));
    }
    syi_gguf *g = NULL;
    assert_int_equal(open_blob(&b, &g), SY_OK);
    syi_gguf_close(g);
}

static void flipped_bits(void **state)
{
    (void)state;
    blob b;
    full(&b, 3);
    int opened = 0;
    for (size_t bit = 0; bit < (b.n - 128) * 8; bit++) {
        syi_gguf *g = NULL;
        b.at[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        const sy_status status = open_blob(&b, &g);
        b.at[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_true(status == SY_OK || status == SY_E_INPUT || status == SY_E_UNSUPPORTED);
        if (status == SY_OK) {
            read_everything(g);
            opened++;
        }
        syi_gguf_close(g);
    }
    assert_true(opened > 500); /* names and values */
}

/* -- the writer -------------------------------------------------------------------- */

static sy_status write_some(const char *path, const float *data)
{
    syi_gguf_writer *w = NULL;
    sy_status status;
    static const char *const words[] = {"x", "", "yz"};
    const int64_t lens[] = {1, 0, 2};
    SYI_TRY(syi_gguf_writer_new(ctx, path, &w));
    SYI_TRY_TO(fail, status, syi_gguf_put_str(w, "general.architecture", "llama", -1));
    SYI_TRY_TO(fail, status, syi_gguf_put_str(w, "cut", "abc", 2));
    SYI_TRY_TO(fail, status, syi_gguf_put_u32(w, "u", 4000000000u));
    SYI_TRY_TO(fail, status, syi_gguf_put_i32(w, "i", -3));
    SYI_TRY_TO(fail, status, syi_gguf_put_f32(w, "f", 1e-5f));
    SYI_TRY_TO(fail, status, syi_gguf_put_bool(w, "b", true));
    SYI_TRY_TO(fail, status, syi_gguf_put_strs(w, "s", 3, words, lens));
    SYI_TRY_TO(fail, status, syi_gguf_put_f32s(w, "fs", 2, (const float[]){1, 2}));
    SYI_TRY_TO(fail, status, syi_gguf_put_i32s(w, "is", 2, (const int32_t[]){-1, 2}));
    SYI_TRY_TO(fail, status, syi_gguf_declare(w, "a", SY_F32, 2, (const int64_t[]){3, 5}));
    SYI_TRY_TO(fail, status, syi_gguf_declare(w, "b", SY_Q8_0, 2, (const int64_t[]){3, 32}));
    SYI_TRY_TO(fail, status, syi_gguf_declare(w, "c", SY_BF16, 1, (const int64_t[]){7}));
    SYI_TRY_TO(fail, status, syi_gguf_declare(w, "d", SY_F16, 1, (const int64_t[]){3}));
    SYI_TRY_TO(fail, status, syi_gguf_begin(w));
    for (int64_t r = 2; r >= 0; r--) SYI_TRY_TO(fail, status, syi_gguf_put_rows(w, "b", r, 1, data + r * 32));
    SYI_TRY_TO(fail, status, syi_gguf_put_rows(w, "a", 0, 3, data));
    SYI_TRY_TO(fail, status, syi_gguf_put_rows(w, "c", 0, 1, data));
    SYI_TRY_TO(fail, status, syi_gguf_put_rows(w, "d", 0, 1, data));
    return syi_gguf_end(w);
fail:
    syi_gguf_writer_abort(w);
    return status;
}

static void writes(void **state)
{
    (void)state;
    char *out = scratch_new();
    const char *path = scratch_path(out, "w.gguf");
    float data[96], back[96], want[96];
    uint8_t coded[256];
    syi_normal(1, 0, 96, data);
    assert_int_equal(write_some(path, data), SY_OK);
    assert_int_equal(scratch_count(out), 1);
    assert_int_equal(syi_file_size(path) % 32, 0);
    sy_checkpoint *ck = NULL;
    assert_int_equal(sy_checkpoint_open(ctx, path, &ck), SY_OK);
    assert_string_equal(sy_checkpoint_meta(ck, "cut"), "ab");
    int64_t i, len;
    double d;
    const char *s;
    assert_true(syi_gguf_int(ck->gguf, "u", &i) && i == 4000000000);
    assert_true(syi_gguf_int(ck->gguf, "i", &i) && i == -3);
    assert_true(syi_gguf_float(ck->gguf, "f", &d) && d == 1e-5f);
    assert_true(syi_gguf_array_str(ck->gguf, "s", 2, &s, &len) && len == 2 && memcmp(s, "yz", 2) == 0);
    assert_true(syi_gguf_array_num(ck->gguf, "is", 0, &d) && d == -1);
    assert_true(syi_gguf_array_num(ck->gguf, "fs", 1, &d) && d == 2);
    static const struct { const char *name; sy_dtype dtype; int n; } tensors[] = {{"a", SY_F32, 15}, {"b", SY_Q8_0, 96}, {"c", SY_BF16, 7}, {"d", SY_F16, 3}};
    for (int t = 0; t < SYI_COUNT(tensors); t++) {
        const sy_entry *e = sy_checkpoint_find(ck, tensors[t].name);
        assert_int_equal(e->dtype, tensors[t].dtype);
        assert_int_equal(sy_from_f32(ctx, e->dtype, data, coded, tensors[t].n), SY_OK);
        assert_memory_equal(e->data, coded, (size_t)e->bytes);
        assert_int_equal(sy_entry_read_f32(ctx, e, 0, syi_entry_rows(e), back), SY_OK);
        assert_int_equal(sy_to_f32(ctx, e->dtype, coded, want, tensors[t].n), SY_OK);
        assert_memory_equal(back, want, (size_t)tensors[t].n * 4);
    }
    sy_checkpoint_close(ck);

    const char *other = scratch_path(out, "o.gguf"); /* every write that fails */
    for (int nth = 1; nth < 40; nth++) {
        syi_file_fail_after(ctx, nth, ENOSPC);
        const sy_status status = write_some(other, data);
        syi_file_fail_after(ctx, 0, 0);
        if (status == SY_OK) break;
        assert_int_equal(status, SY_E_IO);
        assert_true(nth < 39);
        if (scratch_count(out) == 1) continue;
        /* Only the sync after the rename may fail with the file in its place. */
        assert_int_equal(sy_checkpoint_open(ctx, other, &ck), SY_OK);
        sy_checkpoint_close(ck);
        assert_int_equal(remove(other), 0);
        assert_int_equal(scratch_count(out), 1);
    }
    assert_int_equal(scratch_count(out), 2);
    scratch_remove(out);
}

static void misuse(void **state)
{
    (void)state;
    syi_gguf_writer *w = NULL;
    const int64_t dim[] = {1, 1, 1, 1, 33};
    assert_int_equal(syi_gguf_writer_new(ctx, scratch_path(dir, "m.gguf"), &w), SY_OK);
    assert_int_equal(syi_gguf_put_u32(w, "k", 1), SY_OK);
    assert_int_equal(syi_gguf_put_u32(w, "k", 1), SY_E_BUG);
    assert_int_equal(syi_gguf_declare(w, "t", SY_F32, 5, dim), SY_E_UNSUPPORTED);
    assert_int_equal(syi_gguf_declare(w, "t", SY_Q8_0, 1, dim + 4), SY_E_UNSUPPORTED);
    assert_int_equal(syi_gguf_declare(w, "t", SY_U8, 1, dim), SY_E_UNSUPPORTED);
    assert_int_equal(syi_gguf_declare(w, "a.name.that.is.longer.than.the.sixty-three.bytes.that.loaders.take", SY_F32, 1, dim), SY_E_UNSUPPORTED);
    assert_int_equal(syi_gguf_declare(w, "t", SY_F32, 1, dim), SY_OK);
    assert_int_equal(syi_gguf_declare(w, "t", SY_F32, 1, dim), SY_E_INPUT);
    assert_int_equal(syi_gguf_begin(w), SY_OK);
    assert_int_equal(syi_gguf_put_rows(w, "t", 0, 2, (const float[]){1, 2}), SY_E_BUG);
    assert_int_equal(syi_gguf_end(w), SY_E_BUG);
    assert_false(syi_exists(scratch_path(dir, "m.gguf")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads), cmocka_unit_test(lies), cmocka_unit_test(truncations), cmocka_unit_test(flipped_bits), cmocka_unit_test(writes),
        cmocka_unit_test(misuse),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
