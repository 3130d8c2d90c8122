/* SPDX-License-Identifier: Apache-2.0 */
/* YAML: what is read, what is refused, and with which line. */
#include "support/folder.h"
#include "support/torture.h"

#include "base/options.h"

static const char *write_yaml(test_folder *f, char path[512], const char *text)
{
    in_folder(f, path, "run.yaml");
    assert_int_equal(syi_write_file(f->ctx, path, text, (int64_t)strlen(text)), SY_OK);
    return path;
}

static void reads(void **state)
{
    test_folder *f = *state;
    char path[512], where[600];
    static const struct { const char *key, *value; int line; } rows[] = {
        {"model", "some/folder", 2},
        {"lr", "2e-4", 3},
        {"lora-r", "16", 4},
        {"shuffle", "off", 5},
        {"prompt", "a: b # c", 6},
        {"target-modules", "[\"q_proj\",\"v_proj\",1,true,null,2.5]", 7},
        {"rank-pattern", "{\"q\":4,\"x\":{\"y\":[]}}", 14},
        {"empty", "", 18},
        {"tilde", "", 19},
        {"quoted", "null", 20},
        {"text", "one two\n", 21},
    };
    write_yaml(f, path,
               "# a comment\n"
               "model: some/folder\n"
               "lr: 2e-4   # as typed\n"
               "lora_r: 16\n"
               "shuffle: off\n"
               "prompt: \"a: b # c\"\n"
               "target_modules:\n"
               "  - q_proj\n"
               "  - \"v_proj\"\n"
               "  - 1\n"
               "  - true\n"
               "  - ~\n"
               "  - 2.5\n"
               "rank-pattern:\n"
               "  q: 4\n"
               "  x:\n"
               "    y: []\n"
               "empty:\n"
               "tilde: ~\n"
               "quoted: 'null'\n"
               "text: >\n  one\n  two\n");
    syi_settings s;
    syi_settings_init(&s, f->ctx);
    if (syi_settings_yaml(&s, path) != SY_OK) fail_msg("%s", sy_error_message(f->ctx));
    assert_int_equal(s.n, SYI_COUNT(rows));
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        assert_string_equal(s.at[i].key, rows[i].key);
        assert_string_equal(s.at[i].value, rows[i].value);
        snprintf(where, sizeof where, "%s:%d", path, rows[i].line);
        assert_string_equal(s.at[i].where, where);
        assert_false(s.at[i].flag);
    }
    assert_string_equal(syi_settings_get(&s, "lora_r"), "16");
    assert_null(syi_settings_get(&s, "lora"));
    assert_int_equal(syi_settings_add(&s, "lora_r", "4", "--lora_r", true), SY_OK);
    assert_int_equal(syi_settings_add(&s, "lora-r", "8", "other.yaml:1", false), SY_OK);
    assert_string_equal(syi_settings_get(&s, "lora-r"), "4"); /* flags win */
    syi_settings_free(&s);
    /* an empty file sets nothing */
    static const char *const nothing[] = {"", "# only a comment\n", "---\n", "~\n", "{}\n"};
    for (int i = 0; i < SYI_COUNT(nothing); i++) {
        assert_int_equal(syi_settings_yaml(&s, write_yaml(f, path, nothing[i])), SY_OK);
        assert_int_equal(s.n, 0);
    }
    syi_settings_free(&s);
}

static void refuses(void **state)
{
    test_folder *f = *state;
    char path[512], deep[1000] = "a: ", expected[600];
    memset(deep + 3, '[', 200);
    const struct { const char *text; int line; const char *says; } rows[] = {
        {"lr: 1\nrank: 2\nlr: 3\n", 3, "given twice (first in line 1)"},
        {"lora_r: 1\nlora-r: 2\n", 2, "given twice"},
        {"a:\n  b: 1\n  b: 2\n", 3, "\"b\" is given twice"},
        {"a: &x 1\n", 1, "anchor"},
        {"a: 1\nb: *x\n", 2, "alias"},
        {"a: !!int 1\n", 1, "tag"},
        {"a: !x [1]\n", 1, "tag"},
        {"<<: {a: 1}\n", 1, "merge key"},
        {"x:\n  <<: {a: 1}\n", 2, "merge key"},
        {"a: 1\n---\nb: 2\n", 2, "second one"},
        {"- a\n- b\n", 1, "found a list"},
        {"just words\n", 1, "found a single value"},
        {"a: 1\n b: 2\n", 2, "not valid YAML"},
        {"a: [1, 2\nb: 3\n", 2, "not valid YAML"},
        {"a: \"open\n", 2, "not valid YAML"},
        {"\ta: 1\n", 1, "not valid YAML"},
        {"? [a]\n: 1\n", 1, "name of an option"},
        {"a: \"x\\0y\"\n", 1, "NUL"},
        {"x: {[1]: 2}\n", 1, "expected a key"},
        {deep, 1, "64 levels"},
    };
    syi_settings s;
    syi_settings_init(&s, f->ctx);
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        sy_status status = syi_settings_yaml(&s, write_yaml(f, path, rows[i].text));
        const char *message = sy_error_message(f->ctx);
        snprintf(expected, sizeof expected, "%s:%d:", path, rows[i].line);
        if (status != SY_E_USAGE || strstr(message, rows[i].says) == NULL || !syi_starts(message, expected))
            fail_msg("%s\n%s: %s", rows[i].text, sy_status_name(status), message);
        syi_settings_free(&s);
    }
    assert_int_equal(syi_settings_yaml(&s, write_yaml(f, path, "a: \xff\xfe\n")), SY_E_USAGE);
    assert_non_null(strstr(sy_error_message(f->ctx), "not a YAML text"));
    assert_int_equal(syi_settings_yaml(&s, in_folder(f, path, "none.yaml")), SY_E_INPUT);
    syi_settings_free(&s);
}

static void loads(void **state)
{
    test_folder *f = *state;
    char path[512];
    json_t *j = NULL;
    write_yaml(f, path,
               "models:\n"
               "  - model: a/b\n"
               "    parameters: {weight: 0.5, density: [1, 0.7]}\n"
               "merge_method: ties\n"
               "normalize: true\n"
               "version: \"1.0\"\n"
               "nothing:\n");
    if (syi_yaml_load(f->ctx, path, &j) != SY_OK) fail_msg("%s", sy_error_message(f->ctx));
    char *text = json_dumps(j, JSON_COMPACT);
    assert_string_equal(text, "{\"models\":[{\"model\":\"a/b\",\"parameters\":{\"weight\":0.5,\"density\":[1,"
                              "0.69999999999999996]}}],\"merge_method\":\"ties\",\"normalize\":true,\"version\":\"1.0\","
                              "\"nothing\":null}");
    syi_json_free_text(text);
    json_decref(j);
    assert_int_equal(syi_yaml_load(f->ctx, write_yaml(f, path, ""), &j), SY_OK);
    assert_true(json_is_null(j));
    assert_int_equal(syi_yaml_load(f->ctx, write_yaml(f, path, "a: {b: 1, b: 2}\n"), &j), SY_E_USAGE);
    assert_null(j);
}

static sy_status work(sy_context *ctx, void *self)
{
    syi_settings s;
    json_t *j = NULL;
    syi_settings_init(&s, ctx);
    sy_status status = syi_settings_yaml(&s, self);
    if (status == SY_OK) status = syi_yaml_load(ctx, self, &j);
    json_decref(j);
    syi_settings_free(&s);
    return status;
}

static void torture(void **state)
{
    test_folder *f = *state;
    char path[512];
    write_yaml(f, path, "a: 1\nb: [x, y]\nc: {d: 2}\n");
    assert_true(torture_memory(f->ctx, work, path) > 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {folder_test(reads), folder_test(refuses), folder_test(loads), folder_test(torture)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
