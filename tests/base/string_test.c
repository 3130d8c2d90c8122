/* SPDX-License-Identifier: Apache-2.0 */
/* Prefixes, "did you mean", sizes and times for people. */
#include "support/test.h"

#include "base/base.h"

#include <math.h>

static void ends(void **state)
{
    (void)state;
    assert_true(syi_starts("model.layers", "model."));
    assert_true(syi_starts("x", ""));
    assert_false(syi_starts("mod", "model"));
    assert_true(syi_ends("a.safetensors", ".safetensors"));
    assert_true(syi_ends("x", ""));
    assert_false(syi_ends("s", ".s"));
}

static void nearest(void **state)
{
    (void)state;
    static const char *const names[] = {"rank", "alpha", "learning-rate", "target-modules", "lr", "seq"};
    static const struct { const char *word, *expected; } rows[] = {
        {"rank", "rank"},
        {"rnak", "rank"},                     /* swap: 1 */
        {"ran", "rank"},                      /* deletion */
        {"rankk", "rank"},                    /* insertion */
        {"alpah", "alpha"},
        {"Learning_Rate", "learning-rate"},   /* case and _ are free */
        {"learning-rat", "learning-rate"},
        {"target-module", "target-modules"},
        {"targetmodules", "target-modules"},
        {"l", "lr"},
        {"xyzzy", NULL},
        {"completely-different", NULL},
        {"", NULL},
    };
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        const char *found = syi_nearest(rows[i].word, names, SYI_COUNT(names));
        if (rows[i].expected == NULL) assert_null(found);
        else {
            assert_non_null(found);
            assert_string_equal(found, rows[i].expected);
        }
    }
    char longest[300];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_null(syi_nearest(longest, names, SYI_COUNT(names)));
    const char *const odd[] = {NULL, longest, "aaa"};
    assert_string_equal(syi_nearest("aab", odd, 3), "aaa");
    assert_null(syi_nearest("a", NULL, 0));
}

/* The threshold against the plain recursive definition of the distance. */
static int slow(const char *a, int n, const char *b, int m)
{
    if (n == 0 || m == 0) return n + m;
    int best = slow(a, n - 1, b, m) + 1, d = slow(a, n, b, m - 1) + 1;
    if (d < best) best = d;
    d = slow(a, n - 1, b, m - 1) + (a[n - 1] != b[m - 1]);
    if (d < best) best = d;
    if (n > 1 && m > 1 && a[n - 1] == b[m - 2] && a[n - 2] == b[m - 1]) {
        d = slow(a, n - 2, b, m - 2) + 1;
        if (d < best) best = d;
    }
    return best;
}

static void distances(void **state)
{
    (void)state;
    for (int64_t i = 0; i < 400; i++) {
        char a[8] = "", b[8] = "";
        uint64_t r = syi_random_u64(5, i);
        int n = 1 + (int)(r % 6), m = 1 + (int)(r / 6 % 6);
        for (int j = 0; j < n; j++) a[j] = (char)('a' + (r >> (10 + 2 * j) & 3));
        for (int j = 0; j < m; j++) b[j] = (char)('a' + (r >> (30 + 2 * j) & 3));
        const char *const names[] = {b};
        bool near = slow(a, n, b, m) <= 1 + n / 3;
        assert_int_equal(syi_nearest(a, names, 1) != NULL, near);
    }
}

static void human_bytes(void **state)
{
    (void)state;
    static const struct { int64_t bytes; const char *text; } rows[] = {
        {0, "0 B"},          {1, "1 B"},
        {1023, "1023 B"},    {1024, "1.0 KiB"},
        {1536, "1.5 KiB"},   {1048575, "1.0 MiB"},
        {-2048, "-2.0 KiB"}, {INT64_C(5) << 30, "5.0 GiB"},
        {INT64_MAX, "8.0 EiB"},
    };
    char buf[32];
    for (int i = 0; i < SYI_COUNT(rows); i++) assert_string_equal(syi_human_bytes(buf, rows[i].bytes), rows[i].text);
}

static void human_time(void **state)
{
    (void)state;
    static const struct { double seconds; const char *text; } rows[] = {
        {0, "0.0 s"},   {4.24, "4.2 s"},  {9.96, "10 s"},     {59.4, "59 s"},        {59.6, "1:00"},
        {61, "1:01"},   {3599.6, "1:00:00"}, {3723, "1:02:03"}, {-1, "?"},           {1e300, "?"},
    };
    char buf[32];
    for (int i = 0; i < SYI_COUNT(rows); i++) assert_string_equal(syi_human_time(buf, rows[i].seconds), rows[i].text);
    assert_string_equal(syi_human_time(buf, (double)NAN), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ends), cmocka_unit_test(nearest), cmocka_unit_test(distances),
                                       cmocka_unit_test(human_bytes), cmocka_unit_test(human_time)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
