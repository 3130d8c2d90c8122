/* SPDX-License-Identifier: Apache-2.0 */
/* The map against an array; its keys are its own. */
#include "support/folder.h"
#include "support/torture.h"

static void many(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    enum { N = 5000 };
    syi_map *m = NULL;
    assert_int_equal(syi_map_new(ctx, &m), SY_OK);
    int64_t value = 77;
    assert_false(syi_map_get(m, "a", 1, &value));
    char key[32];
    for (int64_t i = 0; i < N; i++) {
        int n = snprintf(key, sizeof key, "key%lld", (long long)(i * 7919));
        assert_int_equal(syi_map_set(m, key, (size_t)n, i), SY_OK);
        assert_int_equal(syi_map_count(m), i + 1);
    }
    for (int64_t i = 0; i < N; i += 2) { /* overwritten */
        int n = snprintf(key, sizeof key, "key%lld", (long long)(i * 7919));
        assert_int_equal(syi_map_set(m, key, (size_t)n, -i), SY_OK);
    }
    assert_int_equal(syi_map_count(m), N);
    for (int64_t i = 0; i < N; i++) {
        int n = snprintf(key, sizeof key, "key%lld", (long long)(i * 7919));
        assert_true(syi_map_get(m, key, (size_t)n, &value));
        assert_int_equal(value, i % 2 ? i : -i);
    }
    assert_false(syi_map_get(m, "key", 3, &value));
    assert_true(syi_map_get(m, "key0", 4, NULL));
    syi_map_free(m);
    syi_map_free(NULL);
}

/* Keys are bytes: empty, with NUL inside, prefixes of each other. */
static void odd_keys(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    static const struct { const char *s; size_t n; } keys[] = {{"", 0}, {"\0", 1}, {"\0\0", 2}, {"a", 1},
                                                               {"a\0", 2}, {"a\0b", 3}, {"ab", 2}};
    syi_map *m = NULL;
    int64_t value = 0;
    assert_int_equal(syi_map_new(ctx, &m), SY_OK);
    for (int i = 0; i < SYI_COUNT(keys); i++) assert_int_equal(syi_map_set(m, keys[i].s, keys[i].n, i), SY_OK);
    assert_int_equal(syi_map_count(m), SYI_COUNT(keys));
    for (int i = 0; i < SYI_COUNT(keys); i++) {
        assert_true(syi_map_get(m, keys[i].s, keys[i].n, &value));
        assert_int_equal(value, i);
    }
    syi_map_free(m);
}

static sy_status fill(sy_context *ctx, void *self)
{
    (void)self;
    syi_map *m = NULL;
    SYI_TRY(syi_map_new(ctx, &m));
    sy_status status = SY_OK;
    for (int i = 0; i < 200 && status == SY_OK; i++) status = syi_map_set(m, (char *)&i, sizeof i, i);
    int64_t value;
    for (int i = 0; i < 200 && status == SY_OK; i++)
        if (!syi_map_get(m, (char *)&i, sizeof i, &value) || value != i) status = SY_E_BUG;
    syi_map_free(m);
    return status;
}

static void torture(void **state)
{
    assert_true(torture_memory(((test_folder *)*state)->ctx, fill, NULL) > 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {folder_test(many), folder_test(odd_keys), folder_test(torture)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
