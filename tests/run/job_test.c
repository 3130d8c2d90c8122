/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs on a verb of the test's own: which settings win, which methods come along, what
 * is refused and with which message, the report, and that nothing leaks when memory
 * runs out at any point. */
#include "support/test.h"

#include "run/job.h"

#include <unistd.h>

typedef struct { char *adapter, *optimizer, *out, *resume, *name; int64_t n; double lr; bool fast; int64_t fail; } self_t;

static const sy_option rows[] = {
    { .name = "adapter", .type = SY_OPT_STRING, .offset = offsetof(self_t, adapter), .def = "lora", .help = "adapter" },
    { .name = "optimizer", .type = SY_OPT_STRING, .offset = offsetof(self_t, optimizer), .def = "none", .help = "optimizer" },
    { .name = "out", .type = SY_OPT_PATH, .offset = offsetof(self_t, out), .flags = SY_OPT_RUNTIME, .help = "folder" },
    { .name = "resume", .type = SY_OPT_PATH, .offset = offsetof(self_t, resume), .flags = SY_OPT_RUNTIME, .help = "folder" },
    { .name = "name", .type = SY_OPT_STRING, .offset = offsetof(self_t, name), .flags = SY_OPT_POSITION, .help = "a name" },
    { .name = "steps-of-work", .type = SY_OPT_INT, .offset = offsetof(self_t, n), .def = "3", .min = 1, .max = 9, .alias = "max_n",
      .help = "a number" },
    { .name = "learning", .type = SY_OPT_FLOAT, .offset = offsetof(self_t, lr), .def = "0.5", .max = 1, .help = "a rate" },
    { .name = "fast", .type = SY_OPT_BOOL, .offset = offsetof(self_t, fast), .help = "a switch" },
    { .name = "fail", .type = SY_OPT_INT, .offset = offsetof(self_t, fail), .max = 20, .help = "a status" },
    { .name = NULL }
};

typedef struct { self_t self; syi_common common; sy_use adapter; const char *adapter_name; json_t *all, *print; bool given_n, given_lr; } seen_t;
static seen_t seen;

static sy_status run(void *self_, sy_job *job)
{
    self_t *self = self_;
    sy_context *ctx = syi_job_context(job);
    seen.self = *self;
    seen.common = *syi_job_common(job);
    seen.given_n = syi_job_given(job, "steps-of-work");
    seen.given_lr = syi_job_given(job, "learning");
    sy_use use = syi_job_take(job, SY_ADAPTER);
    seen.adapter_name = use.method ? use.method->name : NULL;
    assert_null(use.method ? syi_job_take(job, SY_ADAPTER).method : NULL);
    sy_use_free(ctx, &use);
    json_decref(seen.all);
    json_decref(seen.print);
    seen.all = syi_job_settings(job, false);
    seen.print = syi_job_settings(job, true);
    json_object_set_new(syi_job_report(job), "n", json_integer(self->n));
    syi_job_receipt(job, "did %lld things", (long long)self->n);
    syi_job_print(job, "%s", "a line\n");
    if (self->fail) return syi_fail(ctx, -(int)self->fail, "as asked");
    return SY_OK;
}

static const sy_verb verb = { .name = "work", .title = "a verb of the test", .options = rows, .size = sizeof(self_t), .run = run };

static int setup(void **state)
{
    *state = sy_context_new();
    memset(&seen, 0, sizeof seen);
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    json_decref(seen.all);
    json_decref(seen.print);
    int64_t left = sy_memory_now(*state);
    sy_context_free(*state);
    return left ? -1 : 0; /* every test must leave nothing behind */
}

static sy_job *job_of(sy_context *ctx)
{
    sy_job *job;
    assert_int_equal(syi_job_new(ctx, &verb, &job), SY_OK);
    return job;
}

static char *write_temp(const char *text)
{
    static char path[64];
    strcpy(path, "/tmp/sy-job-test-XXXXXX.yaml");
    int fd = mkstemps(path, 5);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return path;
}

static void test_defaults(void **state)
{
    sy_job *job = job_of(*state);
    assert_string_equal(sy_job_report(job), "{}");
    assert_int_equal(sy_job_run(job), SY_OK);
    assert_int_equal(seen.self.n, 3);
    assert_string_equal(seen.adapter_name, "lora");
    assert_false(seen.given_n);
    assert_int_equal(seen.common.seed, 42);
    assert_string_equal(sy_job_report(job), "{\"n\":3,\"receipt\":[\"did 3 things\"]}");
    sy_job_free(job);
}

static void test_flags_over_yaml(void **state)
{
    sy_job *job = job_of(*state);
    char *path = write_temp("steps_of_work: 4\nlearning: 0.25\nfast: true\n");
    assert_int_equal(sy_job_set(job, "steps-of-work", "5"), SY_OK); /* the order of calls does not count */
    assert_int_equal(sy_job_load(job, path), SY_OK);
    unlink(path);
    assert_int_equal(sy_job_run(job), SY_OK);
    assert_int_equal(seen.self.n, 5);
    assert_true(seen.self.fast);
    assert_true(seen.self.lr == 0.25);
    assert_true(seen.given_lr);
    sy_job_free(job);
}

static void test_alias_over_yaml_name(void **state)
{
    sy_job *job = job_of(*state);
    char *path = write_temp("steps-of-work: 4\n");
    assert_int_equal(sy_job_load(job, path), SY_OK);
    unlink(path);
    assert_int_equal(sy_job_set(job, "max_n", "7"), SY_OK);
    assert_int_equal(sy_job_run(job), SY_OK);
    assert_int_equal(seen.self.n, 7);
    assert_true(seen.given_n);
    sy_job_free(job);
}

static void refused(sy_context *ctx, const char *key, const char *value, sy_status code, const char *const *parts)
{
    sy_job *job = job_of(ctx);
    assert_int_equal(sy_job_set(job, key, value), SY_OK);
    assert_int_equal(sy_job_run(job), code);
    for (int i = 0; parts[i]; i++)
        if (!strstr(sy_error_message(ctx), parts[i])) fail_msg("\"%s\" lacks \"%s\"", sy_error_message(ctx), parts[i]);
    sy_job_free(job);
}

static void test_refusals(void **state)
{
    refused(*state, "steps-of-wrok", "4", SY_E_USAGE, (const char *[]){ "steps-of-wrok", "steps-of-work", NULL });
    refused(*state, "steps-of-work", "10", SY_E_USAGE, (const char *[]){ "steps-of-work", "10", "9", NULL });
    refused(*state, "steps-of-work", "four", SY_E_USAGE, (const char *[]){ "steps-of-work", "four", NULL });
    refused(*state, "adapter", "lorra", SY_E_USAGE, (const char *[]){ "adapter", "lorra", "did you mean \"lora\"", NULL });
    refused(*state, "optimizer", "xyzxyzxyz", SY_E_USAGE, (const char *[]){ "optimizer", "adamw", NULL });
    refused(*state, "fail", "3", SY_E_INPUT, (const char *[]){ "as asked", NULL });
}

/* An option of an optimizer that is not in use is named as such. */
static void test_option_of_another_method(void **state)
{
    const sy_method *adamw = sy_method_find("adamw", SY_OPTIMIZER);
    assert_non_null(adamw);
    assert_non_null(adamw->options);
    refused(*state, adamw->options[0].name, "0.5", SY_E_USAGE, (const char *[]){ adamw->options[0].name, "adamw", "--optimizer adamw", NULL });
    sy_job *job = job_of(*state);
    assert_int_equal(sy_job_set(job, "optimizer", "adamw"), SY_OK);
    assert_int_equal(sy_job_set(job, adamw->options[0].name, adamw->options[0].example ? adamw->options[0].example : adamw->options[0].def), SY_OK);
    assert_int_equal(sy_job_run(job), SY_OK);
    assert_non_null(json_object_get(seen.all, adamw->options[0].name));
    sy_job_free(job);
}

/* Every preset is found by its name only, sets what it says it sets, and gives way to what
 * the user sets. */
static void test_presets(void **state)
{
    int n = 0;
    for (const sy_method *const *m = sy_methods(); *m; m++)
        for (const sy_preset *p = (*m)->presets; p && p->name; p++, n++) {
            assert_ptr_equal(sy_method_find(p->name, (int)(*m)->kind), *m);
            assert_ptr_equal(sy_preset_find(*m, p->name), p);
            char key[64];
            const size_t length = strcspn(p->settings, "=");
            snprintf(key, sizeof key, "%.*s", (int)length, p->settings);
            const sy_option *row = syi_row_find((*m)->options, key);
            assert_non_null(row);
            sy_use plain, preset;
            assert_int_equal(sy_use_new(*state, (*m)->name, (*m)->kind, NULL, 0, &plain), SY_OK);
            assert_int_equal(sy_use_new(*state, p->name, (*m)->kind, NULL, 0, &preset), SY_OK);
            char *was = syi_option_text(*state, row, plain.self), *is = syi_option_text(*state, row, preset.self);
            assert_string_equal(is, p->settings + length + 1);
            assert_string_not_equal(is, was);
            syi_free(*state, is);
            char *back = syi_format(*state, "%s=%s", key, was);
            sy_use own;
            assert_int_equal(sy_use_new(*state, p->name, (*m)->kind, (const char *[]){back}, 1, &own), SY_OK);
            is = syi_option_text(*state, row, own.self);
            assert_string_equal(is, was);
            syi_free(*state, is);
            syi_free(*state, was);
            syi_free(*state, back);
            sy_use_free(*state, &own);
            sy_use_free(*state, &preset);
            sy_use_free(*state, &plain);
        }
    assert_true(n > 0);
    sy_job *job = job_of(*state);
    assert_int_equal(sy_job_set(job, "adapter", "dora"), SY_OK);
    assert_int_equal(sy_job_run(job), SY_OK);
    assert_string_equal(seen.adapter_name, "lora");
    assert_string_equal(json_string_value(json_object_get(seen.all, "use-dora")), "on");
    sy_job_free(job);
    char *path = write_temp("adapter: dora\nuse_dora: false\n");
    job = job_of(*state);
    assert_int_equal(sy_job_load(job, path), SY_OK);
    unlink(path);
    assert_int_equal(sy_job_run(job), SY_OK);
    assert_string_equal(json_string_value(json_object_get(seen.all, "use-dora")), "off");
    sy_job_free(job);
}

static void test_unknown_verb(void **state)
{
    sy_job *job;
    assert_int_equal(sy_job_new(*state, "inspct", &job), SY_E_USAGE);
    assert_null(job);
    assert_non_null(strstr(sy_error_message(*state), "did you mean \"inspect\""));
    assert_int_equal(sy_job_new(*state, "qqqqqqqqqqqq", &job), SY_E_USAGE);
    assert_non_null(strstr(sy_error_message(*state), "steelyard help"));
}

/* Settings written by one job and found by --resume give the same context again; flags win. */
static void test_resume(void **state)
{
    char dir[] = "/tmp/sy-job-run-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    sy_job *job = job_of(*state);
    assert_int_equal(sy_job_set(job, "steps-of-work", "6"), SY_OK);
    assert_int_equal(sy_job_set(job, "name", "a \"quoted\" name: yes"), SY_OK);
    assert_int_equal(sy_job_set(job, "learning", "0.1"), SY_OK);
    assert_int_equal(sy_job_set(job, "seed", "9"), SY_OK);
    assert_int_equal(sy_job_run(job), SY_OK);
    snprintf(path, sizeof path, "%s/%s", dir, SYI_SETTINGS_FILE);
    assert_int_equal(json_dump_file(seen.all, path, JSON_INDENT(1)), 0);
    assert_null(json_object_get(seen.print, "threads"));
    assert_null(json_object_get(seen.print, "out"));
    assert_non_null(json_object_get(seen.print, "seed"));
    sy_job_free(job);

    memset(&seen.self, 0, sizeof seen.self);
    job = job_of(*state);
    assert_int_equal(sy_job_set(job, "resume", dir), SY_OK);
    assert_int_equal(sy_job_set(job, "max-n", "7"), SY_OK); /* by its alias */
    assert_int_equal(sy_job_run(job), SY_OK);
    assert_int_equal(seen.self.n, 7);
    assert_true(seen.self.lr == 0.1);
    assert_int_equal(seen.common.seed, 9);
    assert_string_equal(seen.self.name, "a \"quoted\" name: yes");
    sy_job_free(job);
    unlink(path);

    job = job_of(*state);
    assert_int_equal(sy_job_set(job, "resume", dir), SY_OK);
    assert_int_equal(sy_job_run(job), SY_E_INPUT);
    assert_non_null(strstr(sy_error_message(*state), dir));
    sy_job_free(job);
    rmdir(dir);
}

static void collect(void *self, const char *text, size_t len) { strncat(self, text, len); }

static void test_print_and_once(void **state)
{
    char text[64] = "";
    sy_job *job = job_of(*state);
    sy_job_print_to(job, collect, text);
    assert_int_equal(sy_job_run(job), SY_OK);
    assert_string_equal(text, "a line\n");
    assert_int_equal(sy_job_run(job), SY_E_USAGE);
    sy_job_free(job);
}

static void test_use_new(void **state)
{
    sy_use use;
    assert_int_equal(sy_use_new(*state, "lora", SY_ADAPTER, (const char *[]){ "r=4" }, 1, &use), SY_OK);
    assert_string_equal(use.method->name, "lora");
    sy_use_free(*state, &use);
    assert_null(use.self);
    sy_use_free(*state, &use);
    assert_int_equal(sy_use_new(*state, "lora", SY_OPTIMIZER, NULL, 0, &use), SY_E_USAGE);
    assert_int_equal(sy_use_new(*state, "lora", SY_ADAPTER, (const char *[]){ "r" }, 1, &use), SY_E_USAGE);
    assert_int_equal(sy_use_new(*state, "lora", SY_ADAPTER, (const char *[]){ "r=-4" }, 1, &use), SY_E_USAGE);
    assert_int_equal(sy_use_new(*state, "lora", SY_ADAPTER, (const char *[]){ "no-such-option=4" }, 1, &use), SY_E_USAGE);
    assert_null(use.self);
}

static void test_out_of_memory(void **state)
{
    for (int64_t n = 1; n < 2000; n++) {
        sy_job *job;
        sy_memory_fail_after(*state, n);
        sy_status st = syi_job_new(*state, &verb, &job);
        if (st == SY_OK) st = sy_job_set(job, "max-n", "5");
        if (st == SY_OK) st = sy_job_run(job);
        sy_memory_fail_after(*state, 0);
        sy_job_free(job);
        if (st == SY_OK) return;
        assert_int_equal(st, SY_E_MEMORY);
    }
    fail_msg("no number of allocations was enough");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_defaults, setup, teardown), cmocka_unit_test_setup_teardown(test_flags_over_yaml, setup, teardown),
        cmocka_unit_test_setup_teardown(test_alias_over_yaml_name, setup, teardown), cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_option_of_another_method, setup, teardown), cmocka_unit_test_setup_teardown(test_unknown_verb, setup, teardown),
        cmocka_unit_test_setup_teardown(test_presets, setup, teardown),
        cmocka_unit_test_setup_teardown(test_resume, setup, teardown), cmocka_unit_test_setup_teardown(test_print_and_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_use_new, setup, teardown), cmocka_unit_test_setup_teardown(test_out_of_memory, setup, teardown)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
