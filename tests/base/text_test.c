/* SPDX-License-Identifier: Apache-2.0 */
/* The growable text: contents, limit, stickiness. */
#include "support/folder.h"
#include "support/torture.h"

static void builds(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    syi_text t;
    syi_text_init(&t, ctx, 1 << 20);
    char expected[4000] = "";
    for (int i = 0; i < 500; i++) {
        syi_text_printf(&t, "%d,", i);
        snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "%d,", i);
    }
    syi_text_puts(&t, "end");
    syi_text_add(&t, "\0x", 2);
    assert_int_equal(t.len, strlen(expected) + 5);
    assert_memory_equal(t.s, expected, strlen(expected));
    assert_memory_equal(t.s + strlen(expected), "end\0x", 6);
    char *s = syi_text_take(&t);
    assert_ptr_not_equal(s, NULL);
    assert_null(t.s);
    syi_free(ctx, s);
    s = syi_text_take(&t); /* nothing in it: an empty string, not NULL */
    assert_string_equal(s, "");
    syi_free(ctx, s);
    syi_text_free(&t);
}

static void limit(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    syi_text t;
    syi_text_init(&t, ctx, 10);
    syi_text_puts(&t, "0123456789");
    assert_false(t.failed);
    syi_text_puts(&t, "");
    assert_false(t.failed);
    syi_text_puts(&t, "x");
    assert_true(t.failed);
    assert_int_equal(sy_error_code(ctx), SY_E_INPUT);
    sy_error_clear(ctx);
    syi_text_puts(&t, ""); /* sticky and silent */
    assert_int_equal(sy_error_code(ctx), SY_OK);
    assert_string_equal(t.s, "0123456789");
    assert_null(syi_text_take(&t));
    syi_text_init(&t, ctx, 10);
    syi_text_printf(&t, "%s", "01234567890");
    assert_true(t.failed);
    syi_text_free(&t);
}

static sy_status build(sy_context *ctx, void *self)
{
    (void)self;
    syi_text t;
    syi_text_init(&t, ctx, 1 << 20);
    for (int i = 0; i < 300; i++) syi_text_printf(&t, "%d", i);
    char *s = syi_text_take(&t);
    if (s == NULL) return SY_E_MEMORY;
    syi_free(ctx, s);
    return SY_OK;
}

static void torture(void **state)
{
    assert_true(torture_memory(((test_folder *)*state)->ctx, build, NULL) >= 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {folder_test(builds), folder_test(limit), folder_test(torture)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
