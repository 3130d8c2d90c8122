/* SPDX-License-Identifier: Apache-2.0 */
/* JSON: what is refused and where the message points, numbers that read back the
 * same, texts that stay as they were. */
#include "support/scratch.h"
#include "support/test.h"

#include "base/rng.h"
#include "io/io.h"

#include <math.h>

static sy_context *ctx;

static int set_up(void **state)
{
    (void)state;
    ctx = sy_context_new();
    return ctx == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
    return 0;
}

static json_t *parse(const char *text)
{
    json_t *j = NULL;
    assert_int_equal(syi_json_parse(ctx, text, strlen(text), "here", &j), SY_OK);
    return j;
}

static void refused(void **state)
{
    (void)state;
    static const struct { const char *text, *says; } rows[] = {
        {"{\"a\": 1, \"a\": 2}", "duplicate"}, {"{\"a\": 1", "here:1:"}, {"{\n\"a\": nope}", "here:2:"},
        {"{} x", "here:1:"},                   {"", "here:"},            {"{\"a\": \"\xff\"}", "here:1:"},
        {"{\"a\": 01}", "here:1:"},            {"{\"a\": 1e999}", "here:1:"},
    };
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        json_t *j = NULL;
        assert_int_equal(syi_json_parse(ctx, rows[i].text, strlen(rows[i].text), "here", &j), SY_E_INPUT);
        assert_null(j);
        assert_non_null(strstr(sy_error_message(ctx), rows[i].says));
    }
}

static void big_integers(void **state)
{
    (void)state;
    json_t *j = parse("{\"model_max_length\": 1000000000000000019884624838656, \"s\": \"9999999999999999999999 \\\" 1\", \"n\": -7}");
    assert_true(json_real_value(json_object_get(j, "model_max_length")) == 1000000000000000019884624838656.0);
    assert_string_equal(json_string_value(json_object_get(j, "s")), "9999999999999999999999 \" 1");
    assert_int_equal(json_integer_value(json_object_get(j, "n")), -7);
    json_decref(j);
}

static void shortest_numbers(void **state)
{
    (void)state;
    json_t *j = json_pack("[f,f,f,f,f,I]", 1e-05, 0.1, 10000.0, 1.0 / 3, 1e300, (json_int_t)INT64_MIN);
    char *text = NULL;
    assert_int_equal(syi_json_dump(ctx, j, false, &text), SY_OK);
    assert_string_equal(text, "[\n  1e-05,\n  0.1,\n  10000.0,\n  0.3333333333333333,\n  1e+300,\n  -9223372036854775808\n]\n");
    syi_free(ctx, text);
    json_decref(j);
    for (int i = 0; i < 2000; i++) { /* any double comes back */
        uint64_t bits = syi_random_u64(5, i);
        double v;
        memcpy(&v, &bits, 8);
        if (!isfinite(v)) continue;
        j = json_pack("[f]", v);
        assert_int_equal(syi_json_dump(ctx, j, false, &text), SY_OK);
        json_t *back = parse(text);
        assert_true(json_is_real(json_array_get(back, 0)));
        assert_true(json_real_value(json_array_get(back, 0)) == v);
        json_decref(back);
        json_decref(j);
        syi_free(ctx, text);
    }
}

static void round_trip(void **state)
{
    (void)state;
    char *dir = scratch_new();
    json_t *j = parse("{\"z\": {\"b\": [], \"a\": {}}, \"a\": [true, false, null, \"\\u0001\\n\\t\\\"\\\\/ \xc3\xa9\xf0\x9f\x99\x82\"]}");
    const char *path = scratch_path(dir, "x.json");
    assert_int_equal(syi_json_write(ctx, path, j, false), SY_OK);
    json_t *back = NULL;
    assert_int_equal(syi_json_read(ctx, path, &back), SY_OK);
    assert_true(json_equal(j, back));
    json_decref(back);
    assert_int_equal(syi_json_write(ctx, path, j, true), SY_OK);
    char *text = (char *)scratch_read(path, NULL);
    assert_true(strstr(text, "\"a\"") < strstr(text, "\"z\""));
    assert_non_null(strstr(text, "\xc3\xa9\xf0\x9f\x99\x82"));
    free(text);
    json_decref(j);
    assert_int_equal(scratch_count(dir), 1);
    assert_int_equal(syi_json_read(ctx, scratch_path(dir, "none.json"), &back), SY_E_INPUT);
    scratch_remove(dir);
}

static void set_one_key(void **state)
{
    (void)state;
    static const struct { const char *before, *key, *value, *after; } rows[] = {
        {"{ \"a\" : 1.50 ,\t\"b\":[1, {\"a\":2}] }", "a", "3", "{ \"a\" : 3 ,\t\"b\":[1, {\"a\":2}] }"},
        {"{\"a\":\"x,}\\\"\",\"dtype\":\"f\"}", "dtype", "\"b\"", "{\"a\":\"x,}\\\"\",\"dtype\":\"b\"}"},
        {"{\"a\": 1}\n", "b", "true", "{\"a\": 1,\n  \"b\": true}\n"},
        {"{}", "b", "1", "{\n  \"b\": 1\n}"},
        {"{\"b\": {\"c\": [1]} , \"d\": null}", "b", "0", "{\"b\": 0 , \"d\": null}"},
    };
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        char *text = syi_strdup(ctx, rows[i].before);
        assert_int_equal(syi_json_set(ctx, &text, rows[i].key, rows[i].value), SY_OK);
        assert_string_equal(text, rows[i].after);
        syi_free(ctx, text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused),    cmocka_unit_test(big_integers), cmocka_unit_test(shortest_numbers),
        cmocka_unit_test(round_trip), cmocka_unit_test(set_one_key),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
