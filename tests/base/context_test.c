/* SPDX-License-Identifier: Apache-2.0 */
/* Errors, cancellation and threads of a context. */
#include "support/folder.h"

#include <omp.h>
#include <pthread.h>
#include <signal.h>

static void errors(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    assert_int_equal(sy_error_code(ctx), SY_OK);
    assert_string_equal(sy_error_message(ctx), "");
    assert_int_equal(syi_fail(ctx, SY_E_INPUT, "%s: expected %d, found %d", "a.bin", 3, 4), SY_E_INPUT);
    assert_int_equal(sy_error_code(ctx), SY_E_INPUT);
    assert_string_equal(sy_error_message(ctx), "a.bin: expected 3, found 4");
    /* the message may be an argument of the next one */
    syi_fail(ctx, SY_E_IO, "again (%s)", sy_error_message(ctx));
    assert_string_equal(sy_error_message(ctx), "again (a.bin: expected 3, found 4)");
    assert_int_equal(syi_fail_at(ctx, SY_E_BUG, "tensor %d", 7), SY_E_IO);
    assert_string_equal(sy_error_message(ctx), "tensor 7: again (a.bin: expected 3, found 4)");
    sy_error_clear(ctx);
    assert_int_equal(sy_error_code(ctx), SY_OK);
    assert_string_equal(sy_error_message(ctx), "");
    assert_int_equal(syi_fail_at(ctx, SY_E_BUG, "alone"), SY_E_BUG);
    assert_string_equal(sy_error_message(ctx), "alone");
}

static void long_message(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    for (int shift = 0; shift < 4; shift++) { /* never half a character */
        char text[9001] = {0};
        for (int i = shift; i + 2 < 9000; i += 3) memcpy(text + i, "\xe2\x82\xac", 3);
        memset(text, 'x', (size_t)shift);
        syi_fail(ctx, SY_E_INPUT, "%s", text);
        const char *m = sy_error_message(ctx);
        size_t n = strlen(m);
        assert_in_range(n, 4000, 4095);
        assert_string_equal(m + n - 3, "...");
        assert_int_equal((n - 3 - (size_t)shift) % 3, 0);
        syi_fail_at(ctx, SY_E_INPUT, "0123456789");
        assert_in_range(strlen(sy_error_message(ctx)), 4000, 4095);
    }
}

static void two_contexts(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx, *other = sy_context_new();
    assert_non_null(other);
    syi_fail(ctx, SY_E_INPUT, "mine");
    sy_cancel(ctx);
    assert_int_equal(sy_error_code(other), SY_OK);
    assert_false(sy_cancelled(other));
    void *p = syi_alloc(ctx, 100);
    assert_int_equal(sy_memory_now(other), 0);
    syi_free(ctx, p);
    assert_int_equal(sy_threads_set(other, 3), SY_OK);
    assert_int_equal(sy_threads(other), 3);
    assert_int_not_equal(sy_threads_set(ctx, 5), SY_E_USAGE);
    assert_int_equal(sy_threads(other), 3);
    sy_context_free(other);
}

static sy_context *signalled;
static void on_signal(int number)
{
    (void)number;
    sy_cancel(signalled);
}

static void *from_thread(void *ctx)
{
    sy_cancel(ctx);
    return NULL;
}

static void cancel(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    assert_false(sy_cancelled(ctx));
    signalled = ctx;
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    assert_true(sy_cancelled(ctx));
    sy_cancel_clear(ctx);
    assert_false(sy_cancelled(ctx));
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, from_thread, ctx), 0);
    pthread_join(t, NULL);
    assert_true(sy_cancelled(ctx));
}

static void threads(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    assert_in_range(sy_threads(ctx), 1, 256);
    assert_true(sy_threads(ctx) <= omp_get_num_procs());
    assert_int_equal(sy_threads_set(ctx, 257), SY_E_USAGE);
    assert_non_null(strstr(sy_error_message(ctx), "257"));
    assert_int_equal(sy_threads_set(ctx, -1), SY_E_USAGE);
    int all = sy_threads(ctx);
    assert_int_equal(sy_threads_set(ctx, 3), SY_OK);
    assert_int_equal(syi_omp(ctx), 3);
    assert_int_equal(omp_get_max_threads(), 3); /* what oneDNN and OpenBLAS ask */
    int seen = 0;
#pragma omp parallel num_threads(syi_omp(ctx)) reduction(+ : seen)
    seen += 1;
    assert_int_equal(seen, 3);
    assert_int_equal(sy_threads_set(ctx, 0), SY_OK);
    assert_int_equal(syi_omp(ctx), all);
}

static void version(void **state)
{
    (void)state;
    int a, b, c;
    char rest;
    assert_int_equal(sscanf(sy_version(), "%d.%d.%d%c", &a, &b, &c, &rest), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(errors), folder_test(long_message), folder_test(two_contexts),
        folder_test(cancel), folder_test(threads),      cmocka_unit_test(version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
