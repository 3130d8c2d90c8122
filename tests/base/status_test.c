/* SPDX-License-Identifier: Apache-2.0 */
/* Names, texts and exit codes that scripts rely on. */
#include "support/test.h"

#include "steelyard/status.h"

static void table(void **state)
{
    (void)state;
    static const struct { sy_status code; const char *name; int exit_code; } rows[] = {
        {SY_OK, "SY_OK", 0},
        {SY_E_FAILED, "SY_E_FAILED", 1},
        {SY_E_USAGE, "SY_E_USAGE", 2},
        {SY_E_INPUT, "SY_E_INPUT", 3},
        {SY_E_UNSUPPORTED, "SY_E_UNSUPPORTED", 3},
        {SY_E_MEMORY, "SY_E_MEMORY", 4},
        {SY_E_IO, "SY_E_IO", 4},
        {SY_E_CANCELLED, "SY_E_CANCELLED", 130},
        {SY_E_NUMERIC, "SY_E_NUMERIC", 1},
        {SY_E_DISTRIBUTED, "SY_E_DISTRIBUTED", 1},
        {SY_E_BUG, "SY_E_BUG", 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(rows[i].code, -(int)i);
        assert_string_equal(sy_status_name(rows[i].code), rows[i].name);
        assert_int_equal(sy_status_exit(rows[i].code), rows[i].exit_code);
        assert_true(strlen(sy_status_text(rows[i].code)) > 3);
    }
    assert_string_equal(sy_status_text(SY_E_INPUT), "bad input file");
}

static void unknown(void **state)
{
    (void)state;
    assert_string_equal(sy_status_text(7), "unknown status");
    assert_string_equal(sy_status_name(-99), "SY_E_UNKNOWN");
    assert_int_equal(sy_status_exit(-99), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(table), cmocka_unit_test(unknown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
