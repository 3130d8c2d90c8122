/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors: files made byte by byte here, every way in which a header can lie,
 * every truncation, every flipped bit; the writer's order, shards and failures. */
#include "support/scratch.h"
#include "support/test.h"

#include "base/base.h"
#include "base/rng.h"
#include "steelyard/checkpoint.h"

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

/* A file of that header and `size` bytes 0, 1, 2, ... */
static const char *make(const char *header, size_t size)
{
    const uint64_t n = strlen(header);
    uint8_t *all = malloc(8 + n + size);
    memcpy(all, &n, 8);
    memcpy(all + 8, header, n);
    for (size_t i = 0; i < size; i++) all[8 + n + i] = (uint8_t)i;
    const char *path = scratch_path(dir, "t.safetensors");
    scratch_write(path, all, 8 + n + size);
    free(all);
    return path;
}

/* Reads every number of whatever opened: for the sanitizers. */
static void read_all(const sy_checkpoint *ck)
{
    for (int64_t i = 0; i < sy_checkpoint_count(ck); i++) {
        const sy_entry *e = sy_checkpoint_at(ck, i);
        int64_t rows = 1, n = 1;
        for (int d = 0; d < e->rank; d++) n *= e->dim[d];
        for (int d = 0; d + 1 < e->rank; d++) rows *= e->dim[d];
        float *f = malloc(sizeof *f * (size_t)(n + 1));
        assert_int_equal(sy_entry_read_f32(ctx, e, 0, n == 0 ? 0 : rows, f), SY_OK);
        free(f);
    }
}

static void expect(const char *header, size_t size, sy_status status, const char *says)
{
    sy_checkpoint *ck = NULL;
    assert_int_equal(sy_checkpoint_open(ctx, make(header, size), &ck), status);
    if (status == SY_OK) {
        assert_non_null(ck);
        read_all(ck);
    } else {
        assert_null(ck);
        if (strstr(sy_error_message(ctx), says) == NULL) fail_msg("\"%s\" does not say \"%s\"", sy_error_message(ctx), says);
    }
    sy_checkpoint_close(ck);
}

#define T(name, dtype, shape, b, e) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #b "," #e "]}"

static void reads(void **state)
{
    (void)state;
    sy_checkpoint *ck = NULL;
    const char *path = make("{\"__metadata__\":{\"format\":\"pt\",\"k\":\"v\"}," T("b", "U8", "[2,3]", 1, 7) "," T("a", "BOOL", "[]", 0, 1) ","
                            T("w", "I32", "[2,2]", 7, 23) "," T("none", "F32", "[0,4]", 23, 23) "}   ", 23);
    assert_int_equal(sy_checkpoint_open(ctx, path, &ck), SY_OK);
    assert_int_equal(sy_checkpoint_count(ck), 4);
    assert_string_equal(sy_checkpoint_meta(ck, "k"), "v");
    assert_null(sy_checkpoint_meta(ck, "x"));
    assert_string_equal(sy_checkpoint_at(ck, 0)->name, "a"); /* by place */
    assert_null(sy_checkpoint_find(ck, "nope"));
    assert_null(sy_checkpoint_at(ck, 4));
    const sy_entry *e = sy_checkpoint_find(ck, "b");
    assert_true(e->rank == 2 && e->dim[0] == 2 && e->dim[1] == 3 && e->bytes == 6 && e->dtype == SY_U8);
    float f[6];
    assert_int_equal(sy_entry_read_f32(ctx, e, 1, 1, f), SY_OK);
    assert_true(f[0] == 4 && f[1] == 5 && f[2] == 6);
    e = sy_checkpoint_find(ck, "w"); /* at offset 7: not aligned */
    int32_t w[4];
    assert_int_equal(sy_entry_read(ctx, e, SY_I32, 0, 2, w), SY_OK);
    assert_int_equal(w[0], 0x0a090807);
    assert_int_equal(sy_entry_read(ctx, e, SY_I32, 1, 2, w), SY_E_BUG);
    assert_int_equal(sy_entry_read(ctx, e, SY_Q8_0, 0, 2, w), SY_E_UNSUPPORTED);
    assert_int_equal(sy_entry_read_f32(ctx, sy_checkpoint_find(ck, "a"), 0, 1, f), SY_OK);
    assert_true(f[0] == 0);
    read_all(ck);
    sy_checkpoint_close(ck);
}

static void lies(void **state)
{
    (void)state;
    expect("{}", 0, SY_OK, "");
    expect("{}", 1, SY_E_INPUT, "longer");
    expect(" {}", 0, SY_E_INPUT, "begin with {");
    expect("[1]", 0, SY_E_INPUT, "begin with {");
    expect("{" T("a", "U8", "[4]", 0, 4) "}", 3, SY_E_INPUT, "a");
    expect("{" T("a", "U8", "[4]", 0, 4) "}", 5, SY_E_INPUT, "longer");
    expect("{" T("a", "U8", "[4]", 1, 5) "}", 5, SY_E_INPUT, "hole");
    expect("{" T("a", "U8", "[4]", 0, 4) "," T("b", "U8", "[4]", 3, 7) "}", 7, SY_E_INPUT, "overlap");
    expect("{" T("a", "U8", "[4]", 0, 4) "," T("b", "U8", "[4]", 5, 9) "}", 9, SY_E_INPUT, "hole");
    expect("{" T("a", "U8", "[4]", 0, 4) "," T("b", "U8", "[4]", 0, 4) "}", 4, SY_E_INPUT, "overlap");
    expect("{" T("a", "U8", "[4]", 0, 4) "," T("a", "U8", "[4]", 4, 8) "}", 8, SY_E_INPUT, "duplicate");
    expect("{" T("a", "U8", "[5]", 0, 4) "}", 4, SY_E_INPUT, "take 5 bytes");
    expect("{" T("a", "F32", "[4]", 0, 4) "}", 4, SY_E_INPUT, "take 16 bytes");
    expect("{" T("a", "U8", "[4]", 4, 0) "}", 4, SY_E_INPUT, "do not lie");
    expect("{" T("a", "U8", "[4]", -4, 0) "}", 4, SY_E_INPUT, "do not lie");
    expect("{" T("a", "U8", "[4]", 0, 9223372036854775807) "}", 4, SY_E_INPUT, "do not lie");
    expect("{" T("a", "U8", "[4]", 0, 18446744073709551615) "}", 4, SY_E_INPUT, "data_offsets");
    expect("{" T("a", "U8", "[4294967296,4294967296]", 0, 0) "}", 0, SY_E_INPUT, "too large");
    expect("{" T("a", "F32", "[4611686018427387904]", 0, 0) "}", 0, SY_E_INPUT, "too large");
    expect("{" T("a", "U8", "[0,4294967296,4294967296]", 0, 0) "}", 0, SY_E_INPUT, "too large");
    expect("{" T("a", "U8", "[-1]", 0, 0) "}", 0, SY_E_INPUT, "dimension");
    expect("{" T("a", "U8", "[1.0]", 0, 1) "}", 1, SY_E_INPUT, "dimension");
    expect("{" T("a", "U8", "[1,1,1,1,1,1,1]", 0, 1) "}", 1, SY_E_UNSUPPORTED, "at most 6");
    expect("{" T("a", "u8", "[1]", 0, 1) "}", 1, SY_E_INPUT, "dtype");
    expect("{" T("a", "Q8_0", "[32]", 0, 34) "}", 34, SY_E_INPUT, "dtype");
    expect("{" T("a", "C64", "[1]", 0, 8) "}", 8, SY_E_UNSUPPORTED, "C64");
    expect("{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, SY_E_INPUT, "dtype");
    expect("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, SY_E_INPUT, "shape");
    expect("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, SY_E_INPUT, "data_offsets");
    expect("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1, SY_E_INPUT, "data_offsets");
    expect("{\"a\":1}", 1, SY_E_INPUT, "not an object");
    expect("{\"__metadata__\":{\"a\":1}}", 0, SY_E_INPUT, "not a string");
    expect("{\"__metadata__\":[]}", 0, SY_E_INPUT, "not an object");
    expect("{" T("a", "U8", "[1]", 0, 1) "} x", 1, SY_E_INPUT, "JSON");
    uint8_t raw[16] = {0};
    const uint64_t lengths[] = {100000001, UINT64_MAX, 9, 1u << 30};
    for (int i = 0; i < SYI_COUNT(lengths); i++) {
        memcpy(raw, &lengths[i], 8);
        raw[8] = '{';
        sy_checkpoint *ck = NULL;
        scratch_write(scratch_path(dir, "t.safetensors"), raw, sizeof raw);
        assert_int_equal(sy_checkpoint_open(ctx, scratch_path(dir, "t.safetensors"), &ck), SY_E_INPUT);
    }
}

static const char small[] = "{\"__metadata__\":{\"format\":\"pt\"}," T("x.weight", "BF16", "[3,2]", 4, 16) "," T("y", "F32", "[1]", 0, 4) "}";

static void truncations(void **state)
{
    (void)state;
    size_t n;
    uint8_t *all = scratch_read(make(small, 16), &n);
    for (size_t keep = 0; keep < n; keep++) {
        sy_checkpoint *ck = NULL;
        const char *path = scratch_path(dir, "cut.safetensors");
        scratch_write(path, all, keep);
        assert_int_equal(sy_checkpoint_open(ctx, path, &ck), SY_E_INPUT);
        assert_non_null(strstr(sy_error_message(ctx), "cut.safetensors"));
    }
    free(all);
}

static void flipped_bits(void **state)
{
    (void)state;
    size_t n;
    int opened = 0;
    uint8_t *all = scratch_read(make(small, 16), &n);
    for (size_t bit = 0; bit < (n - 16) * 8; bit++) {
        sy_checkpoint *ck = NULL;
        all[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        const char *path = scratch_path(dir, "flip.safetensors");
        scratch_write(path, all, n);
        all[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        const sy_status status = sy_checkpoint_open(ctx, path, &ck);
        assert_true(status == SY_OK || status == SY_E_INPUT || status == SY_E_UNSUPPORTED);
        if (status == SY_OK) { /* another name, another type of the same size */
            read_all(ck);
            opened++;
        } else {
            assert_true(strlen(sy_error_message(ctx)) > 10);
        }
        sy_checkpoint_close(ck);
    }
    assert_true(opened > 50 && opened < 400); /* names and metadata are free text */
    free(all);
}

/* -- the writer ------------------------------------------------------------------- */

static void put_all(sy_writer *w, const char *name, int64_t rows, int64_t row_bytes, int seed)
{
    uint8_t *row = malloc((size_t)row_bytes);
    for (int64_t r = rows - 1; r >= 0; r--) { /* any order */
        for (int64_t i = 0; i < row_bytes; i++) row[i] = (uint8_t)(seed + r * row_bytes + i);
        assert_int_equal(sy_writer_put(w, name, r, 1, row), SY_OK);
    }
    free(row);
}

static void check_all(const sy_checkpoint *ck, const char *name, int64_t rows, int64_t row_bytes, int seed)
{
    const sy_entry *e = sy_checkpoint_find(ck, name);
    assert_non_null(e);
    assert_int_equal(e->bytes, rows * row_bytes);
    for (int64_t i = 0; i < e->bytes; i++) assert_int_equal(((const uint8_t *)e->data)[i], (uint8_t)(seed + i));
}

static void declare_three(sy_writer *w)
{
    assert_int_equal(sy_writer_declare(w, "m.b", SY_BF16, 2, (const int64_t[]){5, 4}), SY_OK);
    assert_int_equal(sy_writer_declare(w, "z.f", SY_F32, 1, (const int64_t[]){3}), SY_OK);
    assert_int_equal(sy_writer_declare(w, "m.a", SY_BF16, 2, (const int64_t[]){4, 4}), SY_OK);
    assert_int_equal(sy_writer_declare(w, "one", SY_U8, 0, NULL), SY_OK);
    assert_int_equal(sy_writer_declare(w, "none", SY_F32, 2, (const int64_t[]){3, 0}), SY_OK);
}

static void put_three(sy_writer *w)
{
    put_all(w, "m.b", 5, 8, 1);
    put_all(w, "z.f", 1, 12, 2);
    put_all(w, "m.a", 4, 8, 3);
    put_all(w, "one", 1, 1, 4);
}

static void check_three(const sy_checkpoint *ck)
{
    assert_int_equal(sy_checkpoint_count(ck), 5);
    check_all(ck, "m.b", 5, 8, 1);
    check_all(ck, "z.f", 1, 12, 2);
    check_all(ck, "m.a", 4, 8, 3);
    check_all(ck, "one", 1, 1, 4);
    check_all(ck, "none", 0, 0, 0);
    assert_string_equal(sy_checkpoint_meta(ck, "format"), "pt");
}

static void writes(void **state)
{
    (void)state;
    char *out = scratch_new();
    sy_writer *w = NULL;
    const char *path = scratch_path(out, "model.safetensors");
    assert_int_equal(sy_writer_new(ctx, path, 0, &w), SY_OK);
    declare_three(w);
    assert_int_equal(sy_writer_declare(w, "one", SY_U8, 0, NULL), SY_E_INPUT);
    assert_int_equal(sy_writer_declare(w, "q", SY_Q8_0, 1, (const int64_t[]){32}), SY_E_UNSUPPORTED);
    assert_int_equal(sy_writer_declare(w, "big", SY_F32, 2, (const int64_t[]){1LL << 40, 1LL << 40}), SY_E_INPUT);
    assert_int_equal(sy_writer_meta(w, "we\"ird", "v\n"), SY_OK);
    assert_int_equal(sy_writer_begin(w), SY_OK);
    assert_int_equal(sy_writer_declare(w, "late", SY_U8, 0, NULL), SY_E_BUG);
    put_three(w);
    assert_int_equal(sy_writer_put(w, "m.b", 5, 1, "12345678"), SY_E_BUG);
    assert_int_equal(sy_writer_put(w, "nope", 0, 1, "x"), SY_E_BUG);
    assert_false(syi_exists(path));
    assert_int_equal(sy_writer_end(w), SY_OK);
    assert_int_equal(scratch_count(out), 1);

    sy_checkpoint *ck = NULL;
    assert_int_equal(sy_checkpoint_open(ctx, out, &ck), SY_OK);
    check_three(ck);
    assert_string_equal(sy_checkpoint_meta(ck, "we\"ird"), "v\n");
    static const char *const order[] = {"none", "z.f", "m.a", "m.b", "one"}; /* largest type, then name */
    for (int i = 0; i < 5; i++) assert_string_equal(sy_checkpoint_at(ck, i)->name, order[i]);
    sy_checkpoint_close(ck);
    uint64_t header;
    uint8_t *raw = scratch_read(path, NULL);
    memcpy(&header, raw, 8);
    assert_int_equal(header % 8, 0);
    free(raw);
    scratch_remove(out);
}

static void shards(void **state)
{
    (void)state;
    char *out = scratch_new();
    for (int pass = 0; pass < 2; pass++) { /* the second replaces the first's one file by shards */
        sy_writer *w = NULL;
        const char *path = scratch_path(out, "model.safetensors");
        assert_int_equal(sy_writer_new(ctx, path, pass == 0 ? 0 : 50, &w), SY_OK);
        declare_three(w);
        assert_int_equal(sy_writer_begin(w), SY_OK);
        put_three(w);
        assert_int_equal(sy_writer_end(w), SY_OK);
    }
    assert_int_equal(scratch_count(out), 3); /* 40 | 12 + 32 + 1, and the index */
    assert_true(syi_exists(scratch_path(out, "model-00002-of-00002.safetensors")));
    sy_checkpoint *ck = NULL;
    assert_int_equal(sy_checkpoint_open(ctx, out, &ck), SY_OK);
    check_three(ck);
    sy_checkpoint_close(ck);

    const char *index = scratch_path(out, "model.safetensors.index.json");
    char *good = (char *)scratch_read(index, NULL);
    assert_non_null(strstr(good, "\"total_size\": 85"));
    static const struct { const char *from, *to, *says; } bad[] = {
        {"\"one\"", "\"two\"", "two"}, {"model-00001", "model-00009", "missing"}, {"model-00001", "../el-00001", "plain file name"},
        {"weight_map", "weight_mop", "weight_map"}, {"\"m.a\": \"model-00002", "\"m.a\": \"model-00001", "m.a"},
    };
    for (int i = 0; i < SYI_COUNT(bad); i++) {
        char *text = strdup(good), *at = strstr(text, bad[i].from);
        assert_non_null(at);
        memcpy(at, bad[i].to, strlen(bad[i].to));
        scratch_write(index, text, strlen(text));
        free(text);
        assert_int_equal(sy_checkpoint_open(ctx, out, &ck), SY_E_INPUT);
        if (strstr(sy_error_message(ctx), bad[i].says) == NULL) fail_msg("%s", sy_error_message(ctx));
    }
    free(good);
    scratch_remove(out);
}

static void unfinished(void **state)
{
    (void)state;
    char *out = scratch_new();
    sy_writer *w = NULL;
    assert_int_equal(sy_writer_new(ctx, scratch_path(out, "model.safetensors"), 0, &w), SY_OK);
    declare_three(w);
    assert_int_equal(sy_writer_begin(w), SY_OK);
    put_all(w, "m.b", 4, 8, 1); /* one row short */
    put_all(w, "m.b", 4, 8, 1); /* again: does not count twice */
    put_all(w, "z.f", 1, 12, 2);
    put_all(w, "m.a", 4, 8, 3);
    put_all(w, "one", 1, 1, 4);
    assert_int_equal(sy_writer_end(w), SY_E_BUG);
    assert_non_null(strstr(sy_error_message(ctx), "m.b"));
    assert_int_equal(scratch_count(out), 0);

    /* Every write that fails: reported, nothing left behind. */
    for (int nth = 1; nth < 40; nth++) {
        sy_status status = SY_OK;
        assert_int_equal(sy_writer_new(ctx, scratch_path(out, "model.safetensors"), 40, &w), SY_OK);
        declare_three(w);
        syi_file_fail_after(ctx, nth, ENOSPC);
        status = sy_writer_begin(w);
        static const struct { const char *name; int64_t rows, row_bytes; } parts[] = {{"m.b", 5, 8}, {"z.f", 1, 12}, {"m.a", 4, 8}, {"one", 1, 1}};
        const uint8_t zeros[64] = {0};
        for (int i = 0; i < 4 && status == SY_OK; i++) status = sy_writer_put(w, parts[i].name, 0, parts[i].rows, zeros);
        if (status == SY_OK) status = sy_writer_end(w);
        else sy_writer_abort(w);
        syi_file_fail_after(ctx, 0, 0);
        if (status == SY_OK) break;
        assert_int_equal(status, SY_E_IO);
        assert_true(nth < 39);
    }
    scratch_remove(out);
}

static void folders(void **state)
{
    (void)state;
    char *out = scratch_new();
    sy_checkpoint *ck = NULL;
    assert_int_equal(sy_checkpoint_open(ctx, out, &ck), SY_E_INPUT);
    assert_non_null(strstr(sy_error_message(ctx), "no weights"));
    scratch_write(scratch_path(out, "pytorch_model.bin"), "x", 1);
    assert_int_equal(sy_checkpoint_open(ctx, out, &ck), SY_E_UNSUPPORTED);
    assert_non_null(strstr(sy_error_message(ctx), "pickle"));
    assert_int_equal(sy_checkpoint_open(ctx, scratch_path(out, "nope"), &ck), SY_E_INPUT);
    scratch_remove(out);
}

static void no_memory(void **state)
{
    (void)state;
    char *path = strdup(make(small, 16));
    bool done = false;
    for (int nth = 1; nth < 200 && !done; nth++) {
        sy_checkpoint *ck = NULL;
        sy_memory_fail_after(ctx, nth);
        const sy_status status = sy_checkpoint_open(ctx, path, &ck);
        sy_memory_fail_after(ctx, 0);
        done = status == SY_OK;
        if (!done) assert_int_equal(status, SY_E_MEMORY);
        sy_checkpoint_close(ck);
    }
    assert_true(done);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads),  cmocka_unit_test(lies),       cmocka_unit_test(truncations), cmocka_unit_test(flipped_bits), cmocka_unit_test(writes),
        cmocka_unit_test(shards), cmocka_unit_test(unfinished), cmocka_unit_test(folders),     cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
