/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers and sizes as typed, in any locale. */
#include "support/test.h"

#include "base/options.h"

#include <locale.h>
#include <math.h>

static void sizes(void **state)
{
    (void)state;
    static const struct { const char *text; int64_t bytes; } rows[] = {
        {"0", 0},
        {"123", 123},
        {"1K", 1024},
        {"64 KiB", 65536},
        {"64kb", 65536},
        {"512M", INT64_C(512) << 20},
        {"1.5G", INT64_C(3) << 29},
        {"2GiB", INT64_C(2) << 30},
        {"2 GB", INT64_C(2) << 30},
        {"1T", INT64_C(1) << 40},
        {"8191P", INT64_C(8191) << 50},
        {"10B", 10},
        {"1e3", 1000},
        {"9223372036854775807", INT64_MAX},
    };
    static const char *const wrong[] = {"", "x", "-1", "1X", "1 Ki", "1KBB", "8192P", "9223372036854775808", "1.5.5G",
                                        "1e30", "G", " 1", "1K ", "nan", "1 K B"};
    int64_t v;
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        v = -1;
        if (!syi_parse_size(rows[i].text, &v)) fail_msg("%s is refused", rows[i].text);
        assert_true(v == rows[i].bytes);
    }
    for (int i = 0; i < SYI_COUNT(wrong); i++)
        if (syi_parse_size(wrong[i], &v)) fail_msg("'%s' is taken as %lld", wrong[i], (long long)v);
}

static void integers(void **state)
{
    (void)state;
    static const struct { const char *text; int64_t v; } rows[] = {
        {"0", 0}, {"-7", -7}, {"+7", 7}, {"1e4", 10000}, {"2.0", 2}, {"007", 7},
        {"9223372036854775807", INT64_MAX}, {"-9223372036854775808", INT64_MIN}};
    static const char *const wrong[] = {"", "1.5", "x", "1 ", " 1", "0x10", "9223372036854775808", "1e30", "1e-1", "--1", "."};
    int64_t v;
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        assert_true(syi_parse_int(rows[i].text, &v));
        assert_true(v == rows[i].v);
    }
    for (int i = 0; i < SYI_COUNT(wrong); i++)
        if (syi_parse_int(wrong[i], &v)) fail_msg("'%s' is taken as %lld", wrong[i], (long long)v);
}

static void check_doubles(void)
{
    static const struct { const char *text; double v; } rows[] = {
        {"0", 0}, {"1.5", 1.5}, {"-2e-4", -2e-4}, {".5", .5}, {"5.", 5}, {"1E+3", 1000}, {"2.2250738585072014e-308", 2.2250738585072014e-308}};
    static const char *const wrong[] = {"", ".", "e5", "1e", "1e+", "nan", "inf", "0x1p3", "1,5", "1e999", "1.5 ", " 1.5", "1..5"};
    double v, back;
    char buf[40];
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        if (!syi_parse_double(rows[i].text, &v)) fail_msg("'%s' is refused", rows[i].text);
        assert_true(v == rows[i].v);
    }
    for (int i = 0; i < SYI_COUNT(wrong); i++)
        if (syi_parse_double(wrong[i], &v)) fail_msg("'%s' is taken as %g", wrong[i], v);
    assert_string_equal(syi_double_text(buf, 0.1), "0.1");
    assert_string_equal(syi_double_text(buf, 2e-4), "0.0002");
    assert_string_equal(syi_double_text(buf, 16), "16");
    assert_string_equal(syi_double_text(buf, 1.0 / 3), "0.3333333333333333");
    for (int i = 0; i < 2000; i++) {
        uint64_t bits = syi_random_u64(3, i);
        memcpy(&v, &bits, sizeof v);
        if (!isfinite(v)) continue;
        assert_true(syi_parse_double(syi_double_text(buf, v), &back));
        assert_memory_equal(&v, &back, sizeof v);
    }
}

static void doubles(void **state)
{
    (void)state;
    check_doubles();
}

/* The program around us may have set a locale with a decimal comma. Where the system
 * has none installed, only the C locale is tried. */
static void other_locale(void **state)
{
    (void)state;
    static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE.utf8", "fr_FR.utf8"};
    for (int i = 0; i < SYI_COUNT(names); i++)
        if (setlocale(LC_NUMERIC, names[i]) != NULL) break;
    check_doubles();
    setlocale(LC_NUMERIC, "C");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sizes), cmocka_unit_test(integers), cmocka_unit_test(doubles),
                                       cmocka_unit_test(other_locale)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
