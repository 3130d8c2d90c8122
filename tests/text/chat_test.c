/* SPDX-License-Identifier: Apache-2.0 */
/* Chat templates against what Jinja gave (data/golden.json), and templates that
 * are wrong, unsupported, endless or greedy. */
#include "support/test.h"
#include "text/text.h"

static json_t *golden(void)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/tests/text/data/golden.json", getenv("STEELYARD_ROOT"));
    json_t *j = json_load_file(path, 0, NULL);
    assert_non_null(j);
    return j;
}

static sy_status render(sy_context *ctx, const char *jinja, const json_t *messages, bool generate, char **text)
{
    sy_message m[16];
    size_t n = json_array_size(messages);
    for (size_t i = 0; i < n; i++)
        m[i] = (sy_message){json_string_value(json_object_get(json_array_get(messages, i), "role")),
                            json_string_value(json_object_get(json_array_get(messages, i), "content"))};
    return sy_chat_render(ctx, &(sy_chat_template){jinja, "<s>", "</s>"}, m, (int64_t)n, generate, text);
}

static void matches_jinja(void **state)
{
    sy_context *ctx = *state;
    json_t *j = golden(), *cases = json_object_get(j, "chats");
    int refused = 0, rendered = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        json_t *c = json_array_get(cases, i), *expected = json_object_get(c, "text");
        char *text;
        sy_status st = render(ctx, json_string_value(json_object_get(c, "template")), json_object_get(c, "messages"),
                              json_is_true(json_object_get(c, "add_generation_prompt")), &text);
        if (json_is_null(expected)) {
            assert_int_equal(st, SY_E_INPUT);
            assert_null(text);
            refused++;
            continue;
        }
        if (st != SY_OK) fail_msg("%s", sy_error_message(ctx));
        assert_string_equal(text, json_string_value(expected));
        sy_string_free(ctx, text);
        rendered++;
    }
    assert_true(rendered > 80 && refused > 5);
    json_decref(j);
}

static void without_a_template_it_is_chatml(void **state)
{
    sy_context *ctx = *state;
    sy_message m[] = {{"user", "Hi"}, {"assistant", "Ho"}};
    char *text;
    assert_int_equal(sy_chat_render(ctx, NULL, m, 2, true, &text), SY_OK);
    assert_string_equal(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n<|im_start|>assistant\n");
    sy_string_free(ctx, text);
    assert_int_equal(sy_chat_render(ctx, NULL, m, 0, false, &text), SY_OK);
    assert_string_equal(text, "");
    sy_string_free(ctx, text);
    m[0].content = NULL;
    assert_int_equal(sy_chat_render(ctx, NULL, m, 1, false, &text), SY_E_INPUT);
    m[0].content = "\xFF";
    assert_int_equal(sy_chat_render(ctx, NULL, m, 1, false, &text), SY_E_INPUT);
}

static void refuse(sy_context *ctx, const char *jinja, sy_status expected, const char *says)
{
    sy_message m[] = {{"user", "Hi"}};
    char *text;
    int64_t before = sy_memory_now(ctx);
    sy_status st = sy_chat_render(ctx, &(sy_chat_template){.jinja = jinja}, m, 1, false, &text);
    if (st != expected || strstr(sy_error_message(ctx), says) == NULL)
        fail_msg("%s: %s '%s' for %s '%s'", jinja, sy_status_name(st), sy_error_message(ctx), sy_status_name(expected), says);
    assert_null(text);
    assert_int_equal(sy_memory_now(ctx), before);
}

static void renders(sy_context *ctx, const char *jinja, const char *json, const char *expected)
{
    char *text;
    sy_chat_template chat = {.jinja = jinja, .bos_token = "<s>", .eos_token = "</s>"};
    if (sy_chat_render_json(ctx, &chat, json, strlen(json), &text) != SY_OK) fail_msg("%s", sy_error_message(ctx));
    assert_string_equal(text, expected);
    sy_string_free(ctx, text);
}

static void renders_json(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    char *text;
    renders(ctx, "{% for t in tools %}{{ t.function.name }};{% endfor %}{% for m in messages %}{{ m.role }}:{% for c in m.tool_calls or [] %}"
                 "{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}{{ m.content if m.content is defined else '-' }} {% endfor %}{{ day }}",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"function\": "
            "{\"name\": \"f\", \"arguments\": {\"a\": [1, 2.5, \"\u00e9\"]}}}]}], \"tools\": [{\"function\": {\"name\": \"f\"}}], \"day\": \"now\"}",
            "f;user:x assistant:f({\"a\": [1, 2.5, \"\xC3\xA9\"]})- now");
    renders(ctx, "{% macro f(a, b) %}{{ b }}{{ a }}{% endmacro %}{{ f(*['x', 'y']) }}", "{\"messages\": []}", "yx");
    renders(ctx, "{{ messages[0].reasoning_content }}", "{\"messages\": [{\"role\": \"assistant\", \"content\": \"\", \"reasoning\": \"r\"}]}", "r");
    renders(ctx, "{{ messages[0].content[1].text }}", "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"}, {\"text\": \"t\"}]}]}", "t");
    renders(ctx, "{{ bos_token }}{{ add_generation_prompt }}", "{\"messages\": [], \"bos_token\": \"B\", \"add_generation_prompt\": true}", "BTrue");
    static const char *const bad[] = {"{}", "[]", "{\"messages\": [{}]}", "{\"messages\": [{\"role\": \"user\"}]}", "{\"messages\": [{\"role\": \"user\", \"content\": 1}]}",
                                      "{\"messages\": [1]}", "{\"messages\": [{\"role\": 1, \"content\": \"\"}]}"};
    for (int i = 0; i < SYI_COUNT(bad); i++) assert_int_equal(sy_chat_render_json(ctx, NULL, bad[i], strlen(bad[i]), &text), SY_E_INPUT);
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

/* Every built-in template takes a system message, turns and the prompt of the next,
 * and says all of the words in their order. */
static void built_in_templates(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    const char *name, *title;
    int n = 0;
    for (; (name = sy_chat_name(n, &title)) != NULL; n++) {
        static const sy_message m[] = {{"system", "Alpha"}, {"user", "Beta"}, {"assistant", "Gamma"}, {"user", "Delta"}};
        char *text, *at;
        assert_non_null(title);
        sy_chat_template chat = {sy_chat_named(name), "<s>", "</s>"};
        if (sy_chat_render(ctx, &chat, m, 4, true, &text) != SY_OK) fail_msg("%s: %s", name, sy_error_message(ctx));
        at = text;
        for (int i = 0; i < 4; i++) {
            at = strstr(at, m[i].content);
            assert_non_null(at);
        }
        assert_int_equal(strlen(strstr(text, "Delta")) > strlen("Delta"), 1);
        sy_string_free(ctx, text);
    }
    assert_true(n >= 12);
    assert_null(sy_chat_named("nosuch"));
    sy_context_free(ctx);
}

static void names_the_line(void **state)
{
    sy_context *ctx = *state;
    refuse(ctx, "a\nb\n{% include 'x' %}", SY_E_UNSUPPORTED, "chat template:3:");
    refuse(ctx, "\n{{ x | nosuch }}", SY_E_UNSUPPORTED, ":2: the filter 'nosuch'");
    refuse(ctx, "{{ 1 is nosuch }}", SY_E_UNSUPPORTED, "the test 'nosuch'");
    refuse(ctx, "{% for x in y recursive %}{% endfor %}", SY_E_UNSUPPORTED, "recursive");
    refuse(ctx, "{{ f(**a) }}", SY_E_UNSUPPORTED, "unpacking");
    refuse(ctx, "{{ f(**a) }}", SY_E_UNSUPPORTED, "--chat-template NAME: chatml, llama-2");
    refuse(ctx, "{{ namespace(*3) }}", SY_E_INPUT, "walked");
    refuse(ctx, "{{ raise_exception('no ' ~ 'thanks') }}", SY_E_INPUT, "no thanks");
    refuse(ctx, "\n\n{{ gone.x }}", SY_E_INPUT, ":3: 'gone' is undefined");
    refuse(ctx, "{{ 'a", SY_E_INPUT, "does not end");
    refuse(ctx, "{{ 1", SY_E_INPUT, "does not end");
    refuse(ctx, "{% if 1 %}", SY_E_INPUT, "endif");
    refuse(ctx, "{% endfor %}", SY_E_INPUT, "wrong place");
    refuse(ctx, "{# x", SY_E_INPUT, "comment");
    refuse(ctx, "{% raw %}", SY_E_INPUT, "endraw");
    refuse(ctx, "{{ 1 2 }}", SY_E_INPUT, "end of the tag");
    refuse(ctx, "{{ $ }}", SY_E_INPUT, "means nothing");
    refuse(ctx, "{{ 99999999999999999999 }}", SY_E_INPUT, "too large");
    refuse(ctx, "{{ 9223372036854775807 + 1 }}", SY_E_INPUT, "64 bits");
    refuse(ctx, "{{ -9223372036854775807 - 2 }}", SY_E_INPUT, "64 bits");
    refuse(ctx, "{{ (-9223372036854775807 - 1) // -1 }}", SY_E_INPUT, "64 bits");
    refuse(ctx, "{{ 1 % 0 }}", SY_E_INPUT, "zero");
    refuse(ctx, "{{ '\\ud800' }}", SY_E_INPUT, "not a character");
    refuse(ctx, "{% set messages.x = 1 %}", SY_E_INPUT, "namespace");
    refuse(ctx, "{{ messages.append(1) }}", SY_E_INPUT, "in place");
}

/* What a template can ask for is bounded in steps, depth, memory and output. */
static void is_bounded(void **state)
{
    sy_context *ctx = *state;
    refuse(ctx, "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", SY_E_INPUT, "more than");
    refuse(ctx, "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", SY_E_INPUT, "more than");
    refuse(ctx, "{{ 'x' * 999999999999 }}", SY_E_INPUT, "too long");
    refuse(ctx, "{{ [1] * 99999999 }}", SY_E_INPUT, "too long");
    refuse(ctx, "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", SY_E_INPUT, "deep");
    refuse(ctx, "{% set s = 'x' * 1000000 %}{% for a in range(1000) %}{{ s }}{% endfor %}", SY_E_INPUT, "limit");
    refuse(ctx, "{{ range(100001) }}", SY_E_INPUT, "range");
    refuse(ctx, "{% set ns = namespace(l=[]) %}{% for a in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}", SY_E_INPUT, "deep");
    enum { N = 100000 };
    static const char *const open[] = {"(", "[", "{% if 1 %}", "-", "not ", "{{ [", "1 if ", "{a:"};
    for (int i = 0; i < SYI_COUNT(open); i++) {
        size_t k = strlen(open[i]);
        char *deep = malloc(N + 16);
        memcpy(deep, "{{ ", 3);
        size_t at = open[i][0] == '{' && open[i][1] != 'a' ? 0 : 3;
        while (at + k < N) memcpy(deep + at, open[i], k), at += k;
        deep[at] = '\0';
        char *text;
        assert_int_equal(sy_chat_render(ctx, &(sy_chat_template){.jinja = deep}, NULL, 0, false, &text), SY_E_INPUT);
        free(deep);
    }
}

static void survives_cut_and_changed_templates(void **state)
{
    sy_context *ctx = *state;
    json_t *j = golden(), *cases = json_object_get(j, "chats");
    uint64_t key = syi_key(5, "templates", "", 0);
    for (size_t i = 0; i < json_array_size(cases); i += 3) {
        json_t *c = json_array_get(cases, i);
        const char *jinja = json_string_value(json_object_get(c, "template"));
        size_t n = strlen(jinja);
        for (int trial = 0; trial < 40; trial++) {
            uint64_t r = syi_random_u64(key, (int64_t)i * 100 + trial);
            char *copy = strdup(jinja), *text = NULL;
            if (trial % 2) copy[r % n] = '\0';
            else copy[r % n] = (char)(1 + (r >> 32) % 127);
            if (render(ctx, copy, json_object_get(c, "messages"), trial & 4, &text) == SY_OK) sy_string_free(ctx, text);
            else assert_null(text);
            free(copy);
        }
    }
    json_decref(j);
}

static void survives_lack_of_memory(void **state)
{
    (void)state;
    json_t *j = golden(), *cases = json_object_get(j, "chats");
    int failures = 0;
    for (size_t i = 1; i < json_array_size(cases); i += 7) {
        json_t *c = json_array_get(cases, i);
        for (int64_t n = 1; n < 40; n++) {
            sy_context *ctx = sy_context_new();
            char *text = NULL;
            sy_memory_fail_after(ctx, n);
            sy_status st = render(ctx, json_string_value(json_object_get(c, "template")), json_object_get(c, "messages"), true, &text);
            assert_true(st == SY_OK || st == SY_E_MEMORY || st == SY_E_INPUT);
            failures += st == SY_E_MEMORY;
            sy_memory_fail_after(ctx, 0);
            sy_string_free(ctx, text);
            assert_int_equal(sy_memory_now(ctx), 0);
            sy_context_free(ctx);
        }
    }
    assert_true(failures > 20);
    json_decref(j);
}

static int setup(void **state)
{
    *state = sy_context_new();
    return *state == NULL;
}

static int teardown(void **state)
{
    sy_context_free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_jinja), cmocka_unit_test(without_a_template_it_is_chatml), cmocka_unit_test(renders_json), cmocka_unit_test(built_in_templates), cmocka_unit_test(names_the_line),
        cmocka_unit_test(is_bounded),    cmocka_unit_test(survives_cut_and_changed_templates), cmocka_unit_test(survives_lack_of_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
