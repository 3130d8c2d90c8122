/* SPDX-License-Identifier: Apache-2.0 */
/* What progress and log lines look like on a terminal and elsewhere, without a terminal:
 * standard error goes into a file. */
#include "support/test.h"

#include "cli/progress.c"

/* What `draw` printed. */
static char *printed(void (*work)(cli_screen *), bool live)
{
    static char text[16384];
    char path[] = "/tmp/sy-screen-XXXXXX";
    int fd = mkstemp(path), saved = dup(STDERR_FILENO);
    assert_true(fd >= 0 && saved >= 0);
    unlink(path);
    fflush(stderr);
    dup2(fd, STDERR_FILENO);
    cli_screen s;
    cli_screen_init(&s);
    s.live = live;
    work(&s);
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    close(fd);
    assert_true(n >= 0);
    text[n] = 0;
    return text;
}

static sy_progress at(int64_t done, double seconds)
{
    return (sy_progress){ .what = "train", .done = done, .total = 200, .unit = "step", .seconds = seconds, .eta = 200 - (double)done,
                          .rate = 1234.4, .rate_unit = "tokens", .loss = 2.34567, .bytes = 3 << 20 };
}

static int count(const char *text, const char *part)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, part)); p += strlen(part)) n++;
    return n;
}

static void hundred(cli_screen *s)
{
    for (int i = 1; i <= 200; i++) {
        sy_progress p = at(i, i * 0.1);
        cli_progress(s, &p);
    }
}

static void two_kinds(cli_screen *s)
{
    sy_progress p = at(100, 10), e = at(3, 1);
    cli_progress(s, &p);
    cli_log(s, SY_LOG_WARN, "mind the gap");
    e.what = "eval";
    e.loss = NAN;
    cli_progress(s, &e);
    cli_log(s, SY_LOG_DEBUG, "not shown");
    cli_error(s, "it broke");
}

static void test_live(void **state)
{
    (void)state;
    const char *t = printed(hundred, true);
    assert_int_equal(t[0], '\r');
    assert_non_null(strstr(t, "train 1/200 [>"));
    assert_non_null(strstr(t, "train 200/200 [====="));
    assert_non_null(strstr(t, "loss 2.3457  1234 tokens/s  3.0 MiB"));
    assert_int_equal(count(t, "\n"), 1);          /* the last state stays */
    assert_true(count(t, "\r") < 20);             /* not drawn at every step */
    for (const char *p = t; *p;) {                /* no line is wider than the terminal */
        size_t n = strcspn(p, "\r\n");
        assert_true(n < 80 + strlen("\033[K"));
        p += n + (p[n] != 0);
    }
}

static void test_live_and_log(void **state)
{
    (void)state;
    const char *t = printed(two_kinds, true);
    assert_non_null(strstr(t, "\r\033[Ksteelyard: warning: mind the gap\n")); /* the line is cleared first */
    assert_non_null(strstr(t, "eval 3/200"));
    assert_null(strstr(t, "not shown"));
    assert_non_null(strstr(t, "\r\033[Ksteelyard: it broke\n"));
    assert_null(strstr(strstr(t, "eval"), "loss"));
}

static void test_plain(void **state)
{
    (void)state;
    const char *t = printed(hundred, false);
    assert_string_equal(t, "train step 200/200  loss 2.3457  1234 tokens/s  3.0 MiB  20 s\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_live), cmocka_unit_test(test_live_and_log), cmocka_unit_test(test_plain) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
