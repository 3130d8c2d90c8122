/* SPDX-License-Identifier: Apache-2.0 */
/* Log and progress reach their callbacks; the clock and the memory of the
 * process are believable. */
#include "support/folder.h"

#include <math.h>

typedef struct { int lines; sy_log_level level; char last[128]; sy_progress progress; } seen;

static void on_log(void *self, sy_log_level level, const char *line)
{
    seen *s = self;
    s->lines++;
    s->level = level;
    snprintf(s->last, sizeof s->last, "%s", line);
}

static void on_progress(void *self, const sy_progress *progress)
{
    ((seen *)self)->progress = *progress;
}

static void callbacks(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    seen s = {0};
    sy_progress p = {.what = "train", .done = 3, .total = 9, .unit = "step", .loss = 1.5};
    syi_log(ctx, SY_LOG_INFO, "nobody listens");
    syi_progress(ctx, &p);
    sy_log_set(ctx, on_log, &s);
    sy_progress_set(ctx, on_progress, &s);
    syi_log(ctx, SY_LOG_WARN, "step %d of %s", 4, "nine");
    assert_int_equal(s.lines, 1);
    assert_int_equal(s.level, SY_LOG_WARN);
    assert_string_equal(s.last, "step 4 of nine");
    syi_progress(ctx, &p);
    assert_int_equal(s.progress.done, 3);
    assert_string_equal(s.progress.what, "train");
    sy_log_set(ctx, NULL, NULL);
    syi_log(ctx, SY_LOG_WARN, "dropped");
    assert_int_equal(s.lines, 1);
}

static void clock_runs(void **state)
{
    (void)state;
    double a = syi_now();
    for (int i = 0; i < 1000; i++) {
        double b = syi_now();
        assert_true(b >= a);
        a = b;
    }
}

static void resident(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    enum { MIB = 1 << 20, SIZE = 64 * MIB };
    int64_t before = syi_rss_now();
    assert_true(before > 0);
    char *p = syi_pages(ctx, SIZE);
    assert_non_null(p);
    for (int i = 0; i < SIZE; i += 4096) p[i] = 1;
    int64_t with = syi_rss_now();
    assert_true(with - before > SIZE * 3 / 4);
    assert_true(syi_rss_peak() >= with - 4 * MIB);
    syi_pages_free(ctx, p); /* given back at once */
    assert_true(with - syi_rss_now() > SIZE * 3 / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {folder_test(callbacks), cmocka_unit_test(clock_runs), folder_test(resident)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
