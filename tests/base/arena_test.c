/* SPDX-License-Identifier: Apache-2.0 */
/* The arena against a model: blocks never overlap, are zero and aligned, live
 * until their mark, and the chunks are used again. */
#include "support/folder.h"
#include "support/torture.h"

static bool all(const unsigned char *p, size_t n, int value)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != value) return false;
    return true;
}

enum { BLOCKS = 400 };

/* Random sizes, random rewinds; each block holds its own number. */
static void model(sy_context *ctx, size_t chunk, size_t largest)
{
    syi_arena *a = NULL;
    assert_int_equal(syi_arena_new(ctx, chunk, &a), SY_OK);
    unsigned char *p[BLOCKS];
    size_t size[BLOCKS];
    syi_mark mark[BLOCKS];
    int n = 0;
    for (int64_t i = 0; i < 3000; i++) {
        uint64_t r = syi_random_u64(chunk, i);
        if (n == BLOCKS || (n > 0 && r % 29 == 0)) {
            int back = (int)(r / 29 % (uint64_t)n);
            for (int j = 0; j < n; j++) assert_true(all(p[j], size[j], j & 255));
            syi_arena_rewind(a, mark[back]);
            n = back;
        } else {
            mark[n] = syi_arena_mark(a);
            size[n] = r / 7 % largest;
            p[n] = syi_arena_alloc(a, size[n]);
            assert_non_null(p[n]);
            assert_int_equal((uintptr_t)p[n] % 64, 0);
            assert_true(all(p[n], size[n], 0));
            memset(p[n], n & 255, size[n]);
            n++;
        }
    }
    for (int j = 0; j < n; j++) assert_true(all(p[j], size[j], j & 255));
    syi_arena_free(a);
    assert_int_equal(sy_memory_now(ctx), 0);
}

static void against_model(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    model(ctx, 0, 300);
    model(ctx, 10000, 9000);
    model(ctx, 1 << 20, 50000); /* chunks of fresh pages */
}

static void reuse(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    syi_arena *a = NULL;
    assert_int_equal(syi_arena_new(ctx, 1 << 20, &a), SY_OK);
    syi_mark empty = syi_arena_mark(a);
    assert_int_equal(syi_arena_bytes(a), 0);
    void *first = syi_arena_alloc(a, 100);
    for (int i = 0; i < 50; i++) syi_arena_alloc(a, 100000);
    assert_int_equal(syi_arena_bytes(a), 128 + 50 * 100032);
    int64_t held = sy_memory_now(ctx);
    for (int step = 0; step < 10; step++) {
        syi_arena_rewind(a, empty);
        assert_int_equal(syi_arena_bytes(a), 0);
        assert_ptr_equal(syi_arena_alloc(a, 100), first);
        for (int i = 0; i < 50; i++) syi_arena_alloc(a, 100000);
        assert_int_equal(sy_memory_now(ctx), held); /* no step needs more */
    }
    /* a block larger than any chunk */
    char *big = syi_arena_alloc(a, 7 << 20);
    assert_true(all((unsigned char *)big, 7 << 20, 0));
    syi_arena_free(a);
    syi_arena_free(NULL);
}

static void strings(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    syi_arena *a = NULL;
    assert_int_equal(syi_arena_new(ctx, 0, &a), SY_OK);
    assert_string_equal(syi_arena_strdup(a, "word"), "word");
    assert_string_equal(syi_arena_format(a, "%d-%s", 12, "x"), "12-x");
    assert_null(syi_arena_alloc(a, SIZE_MAX));
    assert_int_equal(sy_error_code(ctx), SY_E_MEMORY);
    syi_arena_free(a);
}

static sy_status fill(sy_context *ctx, void *self)
{
    (void)self;
    syi_arena *a = NULL;
    SYI_TRY(syi_arena_new(ctx, 4096, &a));
    sy_status status = SY_OK;
    for (int i = 0; i < 10 && status == SY_OK; i++)
        if (syi_arena_alloc(a, 3000) == NULL || syi_arena_format(a, "%d", i) == NULL) status = SY_E_MEMORY;
    syi_arena_free(a);
    return status;
}

static void torture(void **state)
{
    assert_true(torture_memory(((test_folder *)*state)->ctx, fill, NULL) >= 11);
}

int main(void)
{
    const struct CMUnitTest tests[] = {folder_test(against_model), folder_test(reuse), folder_test(strings),
                                       folder_test(torture)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
