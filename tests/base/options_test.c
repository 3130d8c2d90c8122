/* SPDX-License-Identifier: Apache-2.0 */
/* Option rows: every type from text and JSON, tables filled from what was said, and
 * the messages that a user sees. */
#include "support/folder.h"
#include "support/option_rows.h"
#include "support/torture.h"

#include <stddef.h>

static const char *const modes[] = {"linear", "half-cosine", "constant", "miss=true", "bone=1", NULL};

typedef struct {
    bool shuffle, verbose;
    int64_t rank, steps, limit;
    double lr, alpha, beta;
    char *model, *out;
    int mode;
    sy_list targets;
    sy_map pattern;
} config;

#define AT(field) .offset = offsetof(config, field)
static const sy_option rows[] = {
    {.name = "model", .type = SY_OPT_PATH, AT(model), .flags = SY_OPT_REQUIRED, .help = "checkpoint to start from", .example = "smollm2"},
    {.name = "out", .type = SY_OPT_STRING, AT(out), .def = "run", .help = "where the run goes", .example = "run1"},
    {.name = "shuffle", .type = SY_OPT_BOOL, AT(shuffle), .def = "on", .help = "rows in random order"},
    {.name = "verbose", .type = SY_OPT_BOOL, AT(verbose), .help = "say more"},
    {.name = "rank", .type = SY_OPT_INT, AT(rank), .def = "8", .min = 1, .max = 64, .peft = "r", .alias = "r lora_r", .help = "rank of the branch", .example = "16"},
    {.name = "steps", .type = SY_OPT_INT, AT(steps), .help = "optimizer steps", .example = "1e3"},
    {.name = "memory-limit", .type = SY_OPT_SIZE, AT(limit), .max = 0x1p62, .help = "refuse above this", .example = "1.5G"},
    {.name = "lr", .type = SY_OPT_FLOAT, AT(lr), .def = "2e-4", .min = 0, .max = 10, .flags = SY_OPT_MIN_OPEN, .alias = "learning_rate", .help = "learning rate", .example = "1e-3"},
    {.name = "alpha", .type = SY_OPT_FLOAT, AT(alpha), .def = "16", .peft = "lora_alpha", .alias = "lora_alpha", .help = "scale of the branch", .example = "32"},
    {.name = "beta", .type = SY_OPT_FLOAT, AT(beta), .def = "0.9", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN | SY_OPT_ADVANCED, .help = "decay of the first moment", .example = "0.95"},
    {.name = "mode", .type = SY_OPT_ENUM, AT(mode), .def = "linear", .choices = modes, .help = "which way", .example = "half-cosine"},
    {.name = "target-modules", .type = SY_OPT_LIST, AT(targets), .def = "all-linear", .peft = "target_modules", .help = "linears to adapt", .example = "q_proj,v_proj"},
    {.name = "rank-pattern", .type = SY_OPT_MAP, AT(pattern), .min = 1, .max = 512, .peft = "rank_pattern", .help = "ranks by name", .example = "q_proj=4,v_proj=8"},
    {.name = NULL},
};

static const sy_option *row_of(const char *name)
{
    for (const sy_option *r = rows; r->name != NULL; r++)
        if (strcmp(r->name, name) == 0) return r;
    fail_msg("no row %s", name);
    return NULL;
}

static void boundaries(void **state)
{
    check_option_rows(((test_folder *)*state)->ctx, "test", rows, sizeof(config));
}

typedef struct { sy_context *ctx; syi_arena *arena; config c; } fixture;

static void begin(fixture *x, void **state)
{
    *x = (fixture){.ctx = ((test_folder *)*state)->ctx};
    assert_int_equal(syi_arena_new(x->ctx, 0, &x->arena), SY_OK);
}

static void set(fixture *x, const char *name, const char *text)
{
    if (syi_option_set(x->ctx, row_of(name), &x->c, text, "--x", x->arena) != SY_OK) fail_msg("%s", sy_error_message(x->ctx));
}

static void text_values(void **state)
{
    fixture x;
    begin(&x, state);
    static const struct { const char *text; bool v; } bools[] = {{"on", true}, {"OFF", false}, {"", true}, {"0", false}, {"1", true},
                                                                 {"True", true}, {"no", false}, {"yes", true}, {"false", false}};
    for (int i = 0; i < SYI_COUNT(bools); i++) {
        set(&x, "shuffle", bools[i].text);
        assert_int_equal(x.c.shuffle, bools[i].v);
    }
    set(&x, "rank", "32");
    assert_int_equal(x.c.rank, 32);
    set(&x, "steps", "1e3");
    assert_int_equal(x.c.steps, 1000);
    set(&x, "memory-limit", "1.5G");
    assert_int_equal(x.c.limit, INT64_C(3) << 29);
    set(&x, "lr", "3e-5");
    assert_true(x.c.lr == 3e-5);
    set(&x, "mode", "Half_Cosine");
    assert_int_equal(x.c.mode, 1);
    set(&x, "mode", "miss");
    assert_int_equal(x.c.mode, 3);
    static const struct { const char *text; int n; const char *items[4]; } lists[] = {
        {"q_proj,v_proj", 2, {"q_proj", "v_proj"}},
        {" q_proj , v_proj ", 2, {"q_proj", "v_proj"}},
        {"", 0, {NULL}},
        {"[]", 0, {NULL}},
        {"[\"a,b\", 3, true]", 3, {"a,b", "3", "true"}},
        {"[qv]_proj", 1, {"[qv]_proj"}},
        {"x{1\\,2},y", 2, {"x{1,2}", "y"}},
        {".*\\.(q|v)_proj", 1, {".*\\.(q|v)_proj"}},
    };
    for (int i = 0; i < SYI_COUNT(lists); i++) {
        set(&x, "target-modules", lists[i].text);
        assert_int_equal(x.c.targets.n, lists[i].n);
        for (int j = 0; j < lists[i].n; j++) assert_string_equal(x.c.targets.item[j], lists[i].items[j]);
    }
    set(&x, "rank-pattern", "a=1, b=c = 2.5");
    assert_int_equal(x.c.pattern.n, 2);
    assert_string_equal(x.c.pattern.key[1], "b=c");
    assert_true(x.c.pattern.value[1] == 2.5);
    set(&x, "rank-pattern", "{\"^x,y$\": 7}");
    assert_string_equal(x.c.pattern.key[0], "^x,y$");
    assert_true(x.c.pattern.value[0] == 7);
    syi_arena_free(x.arena);
}

/* Whatever words are in a list or map, its text gives them back. */
static void round_trips(void **state)
{
    fixture x;
    begin(&x, state);
    static char *const words[] = {"a", "a,b", "\\", "x\\", "x\\,y", ",", "[a]", "{a}", "a b", " a", "a ", "[\"q\"]", "a=b", "\xc3\xa9", "", "a\nb", "=", "\""};
    double values[SYI_COUNT(words)];
    for (int i = 0; i < SYI_COUNT(words); i++) values[i] = 1 + i / 7.0;
    for (int i = 0; i < SYI_COUNT(words); i++)
        for (int j = 0; j < SYI_COUNT(words); j++) {
            char *two[2] = {words[i], words[j]};
            double v[2] = {values[i], values[j]};
            x.c.targets = (sy_list){.item = two, .n = 2};
            char *text = syi_option_text(x.ctx, row_of("target-modules"), &x.c);
            set(&x, "target-modules", text);
            assert_int_equal(x.c.targets.n, 2);
            assert_string_equal(x.c.targets.item[0], words[i]);
            assert_string_equal(x.c.targets.item[1], words[j]);
            syi_free(x.ctx, text);
            if (i == j) continue;
            x.c.pattern = (sy_map){.key = two, .value = v, .n = 2};
            text = syi_option_text(x.ctx, row_of("rank-pattern"), &x.c);
            set(&x, "rank-pattern", text);
            assert_int_equal(x.c.pattern.n, 2);
            assert_string_equal(x.c.pattern.key[0], words[i]);
            assert_string_equal(x.c.pattern.key[1], words[j]);
            assert_true(x.c.pattern.value[0] == v[0] && x.c.pattern.value[1] == v[1]);
            syi_free(x.ctx, text);
        }
    syi_arena_free(x.arena);
}

static void json_values(void **state)
{
    fixture x;
    begin(&x, state);
    static const struct { const char *row, *text, *json; } out[] = {
        {"shuffle", "off", "false"},     {"rank", "4", "4"},
        {"lr", "0.5", "0.5"},            {"out", "x", "\"x\""},
        {"mode", "constant", "\"constant\""}, {"mode", "miss", "true"},
        {"mode", "bone", "1"},           {"target-modules", "a,b", "[\"a\",\"b\"]"},
        {"rank-pattern", "a=4,b=2.5", "{\"a\":4,\"b\":2.5}"},
    };
    for (int i = 0; i < SYI_COUNT(out); i++) {
        set(&x, out[i].row, out[i].text);
        json_t *j = syi_option_json(row_of(out[i].row), &x.c);
        char *text = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);
        assert_string_equal(text, out[i].json);
        syi_json_free_text(text);
        json_decref(j);
    }
    x.c.model = NULL;
    json_t *null = syi_option_json(row_of("model"), &x.c);
    assert_true(json_is_null(null));
    json_decref(null);
    static const struct { const char *row, *json, *text; } in[] = {
        {"shuffle", "true", "on"}, {"rank", "4", "4"}, {"rank", "4.0", "4"}, {"alpha", "16", "16"}, {"rank", "null", "4"},
        {"mode", "true", "miss"},  {"mode", "1", "bone"}, {"mode", "\"constant\"", "constant"},
        {"target-modules", "\"a,b\"", "a\\,b"}, {"target-modules", "[\"a\",7]", "a,7"}, {"target-modules", "3", "3"},
        {"rank-pattern", "{\"a\":4}", "a=4"}};
    for (int i = 0; i < SYI_COUNT(in); i++) {
        json_t *j = json_loads(in[i].json, JSON_DECODE_ANY, NULL);
        if (syi_option_from_json(x.ctx, row_of(in[i].row), &x.c, j, "a.json", x.arena) != SY_OK)
            fail_msg("%s: %s", in[i].json, sy_error_message(x.ctx));
        char *text = syi_option_text(x.ctx, row_of(in[i].row), &x.c);
        assert_string_equal(text, in[i].text);
        syi_free(x.ctx, text);
        json_decref(j);
    }
    static const struct { const char *row, *json; } wrong[] = {
        {"shuffle", "1"}, {"rank", "1.5"}, {"rank", "\"4\""}, {"rank", "65"}, {"lr", "\"x\""}, {"lr", "0"}, {"out", "5"}, {"mode", "false"},
        {"mode", "\"miss\""}, {"target-modules", "{}"}, {"target-modules", "[[]]"}, {"target-modules", "[null]"}, {"rank-pattern", "[]"},
        {"rank-pattern", "{\"a\":\"b\"}"}, {"rank-pattern", "{\"a\":0}"}};
    for (int i = 0; i < SYI_COUNT(wrong); i++) {
        json_t *j = json_loads(wrong[i].json, JSON_DECODE_ANY, NULL);
        sy_status status = syi_option_from_json(x.ctx, row_of(wrong[i].row), &x.c, j, "a.json", x.arena);
        if (status != SY_E_INPUT) fail_msg("%s = %s is taken", wrong[i].row, wrong[i].json);
        assert_true(syi_starts(sy_error_message(x.ctx), "a.json: "));
        json_decref(j);
    }
    syi_arena_free(x.arena);
}

/* A second table, as a verb and a method have. */
typedef struct { int64_t rank; bool quiet; double gamma; } second;
static const sy_option second_rows[] = {
    {.name = "rank", .type = SY_OPT_INT, .offset = offsetof(second, rank), .def = "2", .help = "its rank", .example = "3"},
    {.name = "quiet", .type = SY_OPT_BOOL, .offset = offsetof(second, quiet), .help = "say less"},
    {.name = "gamma", .type = SY_OPT_FLOAT, .offset = offsetof(second, gamma), .alias = "lr", .help = "its gain", .example = "1"},
    {.name = NULL},
};

typedef struct { const char *key, *value, *where; } said;

static sy_status fill(fixture *x, second *b, const said *what, int n)
{
    syi_settings s;
    syi_settings_init(&s, x->ctx);
    sy_error_clear(x->ctx);
    sy_status status = SY_OK;
    for (int i = 0; i < n && status == SY_OK; i++)
        status = syi_settings_add(&s, what[i].key, what[i].value, what[i].where, what[i].where[0] == '-');
    syi_rows tables[2] = {{rows, &x->c, "train", NULL}, {second_rows, b, "lora", NULL}};
    if (status == SY_OK) status = syi_options_fill(x->ctx, &s, tables, 2, x->arena);
    syi_settings_free(&s);
    return status;
}

static void fills(void **state)
{
    fixture x;
    second b;
    begin(&x, state);
    memset(&x.c, 0xff, sizeof x.c); /* rows without a default become zero */
    memset(&b, 0xff, sizeof b);
    const said first[] = {{"model", "m", "--model"}};
    if (fill(&x, &b, first, 1) != SY_OK) fail_msg("%s", sy_error_message(x.ctx));
    assert_string_equal(x.c.model, "m");
    assert_string_equal(x.c.out, "run");
    assert_true(x.c.shuffle && !x.c.verbose && !b.quiet);
    assert_int_equal(x.c.rank, 8);
    assert_int_equal(b.rank, 2);
    assert_int_equal(x.c.steps, 0);
    assert_true(x.c.lr == 2e-4 && b.gamma == 0);
    assert_int_equal(x.c.targets.n, 1);
    assert_int_equal(x.c.pattern.n, 0);

    const said more[] = {
        {"lora_r", "32", "--lora_r"}, /* flag, by alias: the first table only */
        {"model", "m", "run.yaml:1"},
        {"lora_r", "16", "run.yaml:2"}, /* loses against the flag, though later */
        {"out", "a", "run.yaml:3"},
        {"out", "b", "more.yaml:1"},    /* later of the same kind wins */
        {"lr", "1", "run.yaml:4"},      /* a name: the alias of the other table is passed by */
        {"no-shuffle", "", "--no-shuffle"},
        {"steps", "", "run.yaml:5"},    /* left empty in YAML: the default */
        {"quiet", "", "--quiet"},
    };
    if (fill(&x, &b, more, SYI_COUNT(more)) != SY_OK) fail_msg("%s", sy_error_message(x.ctx));
    assert_int_equal(x.c.rank, 32);
    assert_int_equal(b.rank, 2);
    assert_string_equal(x.c.out, "b");
    assert_true(x.c.lr == 1 && b.gamma == 0);
    assert_false(x.c.shuffle);
    assert_true(b.quiet);
    const said shared[] = {{"model", "m", "--model"}, {"rank", "5", "--rank"}};
    assert_int_equal(fill(&x, &b, shared, 2), SY_OK);
    assert_true(x.c.rank == 5 && b.rank == 5);
    syi_arena_free(x.arena);
}

static void messages(void **state)
{
    fixture x;
    second b;
    begin(&x, state);
    static const struct { said what; const char *message; } table[] = {
        {{"rnak", "4", "--rnak"}, "unknown option \"--rnak\"; did you mean \"--rank\"?"},
        {{"learning-rat", "4", "run.yaml:3"}, "run.yaml:3: unknown option \"learning-rat\"; did you mean \"lr\"?"},
        {{"zzzzzzz", "4", "run.yaml:3"}, "run.yaml:3: unknown option \"zzzzzzz\"; \"steelyard help train\" lists the options"},
        {{"rank", "0", "--rank"}, "--rank: expected a whole number from 1 to 64, found \"0\""},
        {{"rank", "x", "run.yaml:9"}, "run.yaml:9: rank: expected a whole number from 1 to 64, found \"x\""},
        {{"r", "65", "--r"}, "--r: rank: expected a whole number from 1 to 64, found \"65\""},
        {{"rank", "", "--rank"}, "--rank: expected a whole number from 1 to 64, found nothing"},
        {{"lr", "0", "--lr"}, "--lr: expected a number more than 0, at most 10, found \"0\""},
        {{"beta", "1", "--beta"}, "--beta: expected a number from 0 to less than 1, found \"1\""},
        {{"mode", "half-cosin", "--mode"}, "--mode: expected one of linear, half-cosine, constant, miss, bone, found \"half-cosin\"; did you mean \"half-cosine\"?"},
        {{"shuffle", "maybe", "--shuffle"}, "--shuffle: expected on or off, found \"maybe\""},
        {{"no-shuffle", "5", "--no-shuffle"}, "--no-shuffle: expected no value, found \"5\"; write shuffle: off instead"},
        {{"no-rank", "", "--no-rank"}, "unknown option \"--no-rank\"; did you mean \"--rank\"?"},
        {{"memory-limit", "5 apples", "--memory-limit"}, "--memory-limit: expected a size (\"512M\", \"1.5G\", bytes), found \"5 apples\""},
        {{"rank-pattern", "q", "--rank-pattern"}, "--rank-pattern: expected key=number,key=number, found \"q\""},
        {{"rank-pattern", "q=1,q=2", "--rank-pattern"}, "--rank-pattern: expected each key once, found \"q=1,q=2\""},
        {{"target-modules", "a,,b", "--target-modules"}, "--target-modules: expected words with single commas between them, found \"a,,b\""},
    };
    for (int i = 0; i < SYI_COUNT(table); i++) {
        said what[2] = {{"model", "m", "--model"}, table[i].what};
        assert_int_equal(fill(&x, &b, what, 2), SY_E_USAGE);
        assert_string_equal(sy_error_message(x.ctx), table[i].message);
    }
    assert_int_equal(fill(&x, &b, NULL, 0), SY_E_USAGE);
    assert_string_equal(sy_error_message(x.ctx), "train: --model is missing (checkpoint to start from); for example: --model smollm2");
    const said empty[] = {{"model", "", "run.yaml:1"}};
    assert_int_equal(fill(&x, &b, empty, 1), SY_E_USAGE);
    /* a table with a wrong default is our fault, not the user's */
    static const sy_option bad[] = {{.name = "n", .type = SY_OPT_INT, .def = "x"}, {.name = NULL}};
    int64_t n;
    assert_int_equal(syi_option_default(x.ctx, bad, &n, x.arena), SY_E_BUG);
    syi_arena_free(x.arena);
}

static void help(void **state)
{
    sy_context *ctx = ((test_folder *)*state)->ctx;
    syi_text t;
    syi_text_init(&t, ctx, 1 << 20);
    syi_options_help(&t, rows, false);
    static const char *const lines[] = {
        "  --model PATH                checkpoint to start from (required)\n",
        "  --[no-]shuffle              rows in random order (default on)\n",
        "  --verbose                   say more\n",
        "  --rank N                    rank of the branch (default 8; from 1 to 64; also r, lora_r)\n",
        "  --lr X                      learning rate (default 2e-4; more than 0, at most 10; also\n"
        "                              learning_rate)\n",
        "  --mode WORD                 which way (default linear; one of linear, half-cosine, constant, miss,\n"
        "                              bone)\n",
        "  --rank-pattern KEY=X,...    ranks by name (from 1 to 512)\n",
    };
    for (int i = 0; i < SYI_COUNT(lines); i++)
        if (strstr(t.s, lines[i]) == NULL) fail_msg("expected\n%s\nin\n%s", lines[i], t.s);
    assert_null(strstr(t.s, "--beta"));
    syi_options_help(&t, rows, true);
    assert_non_null(strstr(t.s, "--beta"));
    syi_text_free(&t);
    assert_int_equal(syi_options_count(rows), 13);
    assert_int_equal(syi_options_count(NULL), 0);
}

static sy_status everything(sy_context *ctx, void *self)
{
    (void)self;
    fixture x = {.ctx = ctx};
    second b;
    const said what[] = {{"model", "m", "--model"}, {"target-modules", "a,b\\,c", "--t"}, {"rank-pattern", "a=2,b=3", "r.yaml:1"}};
    SYI_TRY(syi_arena_new(ctx, 0, &x.arena));
    sy_status status = fill(&x, &b, what, SYI_COUNT(what));
    for (const sy_option *r = rows; r->name != NULL && status == SY_OK; r++) {
        char *text = syi_option_text(ctx, r, &x.c);
        if (text == NULL) status = SY_E_MEMORY;
        syi_free(ctx, text);
    }
    syi_text t;
    syi_text_init(&t, ctx, 1 << 20);
    if (status == SY_OK) {
        syi_options_help(&t, rows, true);
        if (t.failed) status = SY_E_MEMORY;
    }
    syi_text_free(&t);
    syi_arena_free(x.arena);
    return status;
}

static void torture(void **state)
{
    assert_true(torture_memory(((test_folder *)*state)->ctx, everything, NULL) > 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(boundaries), folder_test(text_values), folder_test(round_trips), folder_test(json_values),
        folder_test(fills),      folder_test(messages),    folder_test(help),        folder_test(torture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
