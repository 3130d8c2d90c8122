/* SPDX-License-Identifier: Apache-2.0 */
/* Alignment, accounting, overflow and the n-th failure. */
#include "support/folder.h"
#include "support/torture.h"

#include <omp.h>

static void blocks(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    static const size_t sizes[] = {0, 1, 63, 64, 65, 1000, 1 << 20};
    void *p[SYI_COUNT(sizes)];
    int64_t total = 0;
    for (int i = 0; i < SYI_COUNT(sizes); i++) {
        p[i] = syi_alloc(ctx, sizes[i]);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 64, 0);
        memset(p[i], 0xaa, sizes[i]);
        total += (int64_t)sizes[i];
        assert_int_equal(sy_memory_now(ctx), total);
    }
    for (int i = 0; i < SYI_COUNT(sizes); i++) syi_free(ctx, p[i]);
    assert_int_equal(sy_memory_now(ctx), 0);
    assert_int_equal(sy_memory_peak(ctx), total);
    syi_free(ctx, NULL);
}

static void zeroed(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    for (int round = 0; round < 3; round++) {
        unsigned char *p = syi_calloc(ctx, 37, 11);
        for (int i = 0; i < 37 * 11; i++) assert_int_equal(p[i], 0);
        memset(p, 0xff, 37 * 11);
        syi_free(ctx, p);
    }
    assert_null(syi_calloc(ctx, SIZE_MAX / 4, 8)); /* n * size wraps */
    assert_int_equal(sy_error_code(ctx), SY_E_MEMORY);
    sy_error_clear(ctx);
    assert_null(syi_alloc(ctx, SIZE_MAX - 3)); /* header + size wraps */
    assert_int_equal(sy_error_code(ctx), SY_E_MEMORY);
    assert_null(syi_pages(ctx, SIZE_MAX - 3));
    assert_null(syi_pages(ctx, (size_t)1 << 60)); /* nobody has that much */
    assert_int_equal(sy_memory_now(ctx), 0);
}

static void reallocated(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    unsigned char *p = syi_realloc(ctx, NULL, 10);
    for (int i = 0; i < 10; i++) p[i] = (unsigned char)i;
    p = syi_realloc(ctx, p, 5000);
    assert_int_equal((uintptr_t)p % 64, 0);
    for (int i = 0; i < 10; i++) assert_int_equal(p[i], i);
    p = syi_realloc(ctx, p, 3);
    for (int i = 0; i < 3; i++) assert_int_equal(p[i], i);
    assert_int_equal(sy_memory_now(ctx), 3);
    sy_memory_fail_after(ctx, 1);
    assert_null(syi_realloc(ctx, p, 100));
    assert_int_equal(p[2], 2); /* the old block is still there */
    syi_free(ctx, p);
}

static void strings(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    char *a = syi_strdup(ctx, "steel"), *b = syi_strndup(ctx, "yardstick", 4), *c = syi_strndup(ctx, "ab", 40);
    char *d = syi_format(ctx, "%s%s %d%%", a, b, 7);
    assert_string_equal(a, "steel");
    assert_string_equal(b, "yard");
    assert_string_equal(c, "ab");
    assert_string_equal(d, "steelyard 7%");
    syi_free(ctx, a);
    syi_free(ctx, b);
    syi_free(ctx, c);
    syi_free(ctx, d);
}

static void pages(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    static const size_t sizes[] = {0, 1, 4096, 1 << 20, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, 9 << 20};
    for (int i = 0; i < SYI_COUNT(sizes); i++) {
        unsigned char *p = syi_pages(ctx, sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % (sizes[i] >= 2 << 20 ? 2 << 20 : 4096), 0);
        for (size_t j = 0; j < sizes[i]; j++)
            if (p[j] != 0) fail_msg("byte %zu is not zero", j);
        memset(p, 1, sizes[i]);
        assert_int_equal(sy_memory_now(ctx), sizes[i]);
        if (i % 2) syi_pages_free(ctx, p);
        else syi_free(ctx, p); /* either works */
        assert_int_equal(sy_memory_now(ctx), 0);
    }
    syi_pages_free(ctx, NULL);
}

static void nth_fails(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    sy_memory_fail_after(ctx, 3);
    void *a = syi_alloc(ctx, 1), *b = syi_pages(ctx, 1), *c = syi_alloc(ctx, 5 << 20), *d = syi_alloc(ctx, 1);
    assert_true(a != NULL && b != NULL && c == NULL && d != NULL);
    assert_int_equal(sy_error_code(ctx), SY_E_MEMORY);
    assert_non_null(strstr(sy_error_message(ctx), "5.0 MiB"));
    syi_free(ctx, a);
    syi_free(ctx, b);
    syi_free(ctx, d);
}

static void grow(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    void *p = NULL;
    int64_t cap = 0;
    int moves = 0;
    for (int64_t i = 0; i < 1000; i++) {
        void *old = p;
        assert_int_equal(syi_grow(ctx, &p, &cap, i + 1, sizeof(int64_t), 1000), SY_OK);
        moves += old != p;
        assert_true(cap > i && cap <= 1000);
        ((int64_t *)p)[i] = i;
    }
    for (int64_t i = 0; i < 1000; i++) assert_int_equal(((int64_t *)p)[i], i);
    assert_true(moves < 10);
    assert_int_equal(syi_grow(ctx, &p, &cap, 1001, sizeof(int64_t), 1000), SY_E_INPUT);
    assert_int_equal(syi_grow(ctx, &p, &cap, INT64_MAX / 4, 1 << 10, INT64_MAX), SY_E_MEMORY);
    syi_free(ctx, p);
}

static sy_status allocate_some(sy_context *ctx, void *self)
{
    (void)self;
    void *list = NULL;
    int64_t cap = 0;
    char *s = NULL;
    void *p = NULL;
    sy_status status = SY_E_MEMORY;
    if ((s = syi_format(ctx, "%d", 5)) == NULL) goto end;
    if ((p = syi_pages(ctx, 3 << 20)) == NULL) goto end;
    SYI_TRY_TO(end, status, syi_grow(ctx, &list, &cap, 5, 8, 100));
    SYI_TRY_TO(end, status, syi_grow(ctx, &list, &cap, 50, 8, 100));
end:
    syi_free(ctx, s);
    syi_free(ctx, p);
    syi_free(ctx, list);
    return status;
}

static void torture(void **state)
{
    assert_int_equal(torture_memory(((test_folder *)*state)->ctx, allocate_some, NULL), 4);
}

/* Worker threads may allocate: nothing is lost in the counters. */
static void many_threads(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
#pragma omp parallel for num_threads(4)
    for (int i = 0; i < 2000; i++) {
        char *p = syi_alloc(ctx, (size_t)(i % 97));
        if (p != NULL) memset(p, i, (size_t)(i % 97));
        syi_free(ctx, p);
    }
    assert_int_equal(sy_memory_now(ctx), 0);
    assert_in_range(sy_memory_peak(ctx), 96, 96 * 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(blocks), folder_test(zeroed),    folder_test(reallocated), folder_test(strings),
        folder_test(pages),  folder_test(nth_fails), folder_test(grow),        folder_test(torture),
        folder_test(many_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
