/* SPDX-License-Identifier: Apache-2.0 */
/* Data sets in other tools' words, under other names, tokens found in the cache, and
 * tokens that do not fit into memory. */
#include "support/test.h"
#include "text/dataset.h"

#include <unistd.h>

typedef struct { sy_context *ctx; sy_tokenizer *t; char dir[64]; int files; } fixture;

static int setup(void **state)
{
    static fixture f;
    char path[4096];
    f.ctx = sy_context_new();
    snprintf(path, sizeof path, "%s/tests/text/data/golden.json", getenv("STEELYARD_ROOT"));
    json_t *j = json_load_file(path, 0, NULL);
    if (j == NULL) return -1;
    json_t *spec = json_object_get(json_array_get(json_object_get(j, "tokenizers"), 0), "tokenizer");
    sy_status st = syi_tokenizer_from_json(f.ctx, spec, "golden.json", &f.t);
    json_decref(j);
    strcpy(f.dir, "/tmp/steelyard-records-XXXXXX");
    *state = &f;
    return st != SY_OK || mkdtemp(f.dir) == NULL;
}

static int teardown(void **state)
{
    fixture *f = *state;
    syi_remove_tree(f->ctx, f->dir);
    sy_tokenizer_free(f->t);
    sy_context_free(f->ctx);
    return 0;
}

static const char *write_text(fixture *f, const char *suffix, const char *text)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%d%s", f->dir, f->files++, suffix);
    FILE *file = fopen(path, "wb");
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    fclose(file);
    return path;
}

static sy_dataset_options options(fixture *f, int64_t seq)
{
    return (sy_dataset_options){.tokenizer = f->t, .eos_id = 2, .bos_id = -1, .seq = seq};
}

/* Texts of all tokens, and of those that are trained, of the set's first epoch. */
static void texts(fixture *f, const char *path, const sy_dataset_options *o, char **all, char **trained, sy_dataset_info *info)
{
    sy_dataset *d;
    sy_batch b;
    if (sy_dataset_open(f->ctx, path, o, &d) != SY_OK) fail_msg("%s", sy_error_message(f->ctx));
    sy_dataset_stat(d, info);
    assert_int_equal(sy_dataset_batch(d, 0, info->rows_per_epoch, 0, &b), SY_OK);
    int32_t *ids = calloc((size_t)b.tokens * 2, sizeof *ids), *targets = ids + b.tokens;
    int64_t n = 0, k = 0;
    for (int64_t i = 0; i < b.tokens; i++) {
        bool padding = b.first[i] == i && b.target[i] < 0 && (i + 1 == b.tokens || b.first[i + 1] == i + 1);
        if (!padding) ids[n++] = b.ids[i];
        if (b.target[i] >= 0) targets[k++] = b.target[i];
    }
    assert_int_equal(sy_detokenize(f->ctx, f->t, ids, n, false, all, NULL, NULL), SY_OK);
    assert_int_equal(sy_detokenize(f->ctx, f->t, targets, k, false, trained, NULL, NULL), SY_OK);
    free(ids);
    sy_dataset_free(d);
}

static void expect(fixture *f, const char *records, const sy_dataset_options *o, const char *format, const char *all, const char *trained)
{
    char *got, *learnt;
    sy_dataset_info info;
    texts(f, write_text(f, ".jsonl", records), o, &got, &learnt, &info);
    assert_string_equal(got, all);
    assert_string_equal(learnt, trained);
    assert_string_equal(info.format, format);
    sy_string_free(f->ctx, got);
    sy_string_free(f->ctx, learnt);
}

#define TURN(role, text) "<|im_start|>" role "\n" text "<|im_end|>\n"

static void other_tools_records(void **state)
{
    fixture *f = *state;
    sy_dataset_options o = options(f, 128);
    expect(f, "{\"instruction\":\"Add\",\"input\":\"1 2\",\"output\":\"3\"}\n", &o, "alpaca", TURN("user", "Add\n1 2") TURN("assistant", "3"), "3<|im_end|>");
    expect(f, "{\"instruction\":\"Hi\",\"input\":\"\",\"output\":\"Ho\",\"system\":\"Be\",\"history\":[[\"q\",\"a\"]]}", &o, "alpaca",
           TURN("system", "Be") TURN("user", "q") TURN("assistant", "a") TURN("user", "Hi") TURN("assistant", "Ho"), "a<|im_end|>Ho<|im_end|>");
    expect(f, "{\"conversations\":[{\"from\":\"system\",\"value\":\"s\"},{\"from\":\"human\",\"value\":\"Hi\"},{\"from\":\"gpt\",\"value\":\"Ho\"},"
              "{\"from\":\"observation\",\"value\":\"7\"},{\"from\":\"function_call\",\"value\":\"f\"}]}", &o, "sharegpt",
           TURN("system", "s") TURN("user", "Hi") TURN("assistant", "Ho") TURN("tool", "7") TURN("assistant", "f"), "Ho<|im_end|>f<|im_end|>");
    expect(f, "{\"system\":\"s\",\"conversations\":[{\"from\":\"human\",\"value\":\"Hi\"},{\"from\":\"gpt\",\"value\":\"Ho\"}]}", &o, "sharegpt",
           TURN("system", "s") TURN("user", "Hi") TURN("assistant", "Ho"), "Ho<|im_end|>");
    /* turns that are context only */
    expect(f, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\",\"train\":false},{\"role\":\"user\",\"content\":\"c\"},"
              "{\"role\":\"assistant\",\"content\":\"d\",\"weight\":1}]}", &o, "messages",
           TURN("user", "a") TURN("assistant", "b") TURN("user", "c") TURN("assistant", "d"), "d<|im_end|>");
    /* tools and what messages say beyond words are the template's */
    o.chat_template = "{% for t in tools or [] %}[{{ t.name }}]{% endfor %}{% for m in messages %}{{ m.role }}: {{ m.content if m.content is defined else '' }}"
                      "{% for c in m.tool_calls or [] %}({{ c.name }}){% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    expect(f, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"name\":\"f\"}]}],\"tools\":\"[{\\\"name\\\":\\\"f\\\"}]\"}",
           &o, "messages", "[f]user: a<|im_end|>assistant: (f)<|im_end|>", "(f)<|im_end|>");
}

static void preference_records(void **state)
{
    fixture *f = *state;
    sy_dataset_options o = options(f, 128);
    static const char texts_of[] = "{\"prompt\":\"2 + 2 =\",\"chosen\":\" 4\",\"rejected\":\" 5\"}\n";
    static const char turns_of[] = "{\"prompt\":[{\"role\":\"user\",\"content\":\"q\"}],\"chosen\":[{\"role\":\"assistant\",\"content\":\"yes\"}],\"rejected\":[{\"role\":\"assistant\",\"content\":\"no\"}]}\n";
    static const char unpaired[] = "{\"prompt\":\"a\",\"completion\":\" b\",\"label\":true}\n{\"prompt\":\"c\",\"completion\":\" d\",\"label\":false}\n";
    o.preference = SY_PREFERENCE_CHOSEN;
    expect(f, texts_of, &o, "preference", "2 + 2 = 4<|im_end|>", " 4<|im_end|>");
    expect(f, turns_of, &o, "preference", TURN("user", "q") TURN("assistant", "yes"), "yes<|im_end|>");
    expect(f, unpaired, &o, "preference", "a b<|im_end|>", " b<|im_end|>");
    expect(f, "{\"chosen\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"x\"}],\"rejected\":[]}", &o, "preference",
           TURN("user", "q") TURN("assistant", "x"), "x<|im_end|>");
    o.preference = SY_PREFERENCE_REJECTED;
    expect(f, texts_of, &o, "preference", "2 + 2 = 5<|im_end|>", " 5<|im_end|>");
    expect(f, unpaired, &o, "preference", "c d<|im_end|>", " d<|im_end|>");
}

static void other_names(void **state)
{
    fixture *f = *state;
    sy_dataset_options o = options(f, 128);
    o.fields.text = "body";
    expect(f, "{\"body\":\"a b\",\"text\":7}\n", &o, "text", "a b<|im_end|>", " b<|im_end|>");
    o = options(f, 128);
    o.fields.prompt = "question";
    o.fields.completion = "answer";
    expect(f, "{\"question\":\"a\",\"answer\":\" b\"}\n", &o, "prompt-completion", "a b<|im_end|>", " b<|im_end|>");
    o = options(f, 128);
    o.fields.messages = "chat";
    o.fields.role = "who";
    o.fields.content = "says";
    expect(f, "{\"chat\":[{\"who\":\"user\",\"says\":\"a\"},{\"who\":\"assistant\",\"says\":\"b\"}]}\n", &o, "messages", TURN("user", "a") TURN("assistant", "b"), "b<|im_end|>");
    o = options(f, 128);
    o.fields.instruction = "q";
    o.fields.output = "a";
    expect(f, "[{\"q\":\"x\",\"a\":\"y\"}]", &o, "alpaca", TURN("user", "x") TURN("assistant", "y"), "y<|im_end|>");
}

static void found_in_the_cache(void **state)
{
    fixture *f = *state;
    char cache[128], path[128], *all[2], *trained[2], **names;
    int n;
    sy_dataset_info info;
    snprintf(cache, sizeof cache, "%s/cache/deep", f->dir);
    snprintf(path, sizeof path, "%s", write_text(f, ".jsonl", "{\"text\":\"The quick brown fox\",\"source\":1}\n{\"text\":\"jumps over\"}\n{\"text\":\"the lazy dog\"}\n"));
    sy_dataset_options o = options(f, 4);
    o.cache = cache;
    for (int i = 0; i < 2; i++) {
        texts(f, path, &o, &all[i], &trained[i], &info);
        assert_int_equal(info.cached, i == 1);
    }
    assert_string_equal(all[0], all[1]);
    assert_string_equal(trained[0], trained[1]);
    for (int i = 0; i < 2; i++) {
        sy_string_free(f->ctx, all[i]);
        sy_string_free(f->ctx, trained[i]);
    }
    /* another row length and another part of the same tokens */
    o.seq = 8;
    o.pack = true;
    o.holdout = 0.4;
    texts(f, path, &o, &all[0], &trained[0], &info);
    assert_true(info.cached);
    sy_string_free(f->ctx, all[0]);
    sy_string_free(f->ctx, trained[0]);
    /* what changes the tokens changes the name; a damaged file is not believed */
    o.holdout = 0;
    o.eos_id = -1;
    texts(f, path, &o, &all[0], &trained[0], &info);
    assert_false(info.cached);
    sy_string_free(f->ctx, all[0]);
    sy_string_free(f->ctx, trained[0]);
    assert_int_equal(syi_list_dir(f->ctx, cache, &names, &n), SY_OK);
    assert_int_equal(n, 2);
    for (int i = 0; i < n; i++) {
        char *file = syi_join(f->ctx, cache, names[i]);
        for (int64_t cut = syi_file_size(file) - 1; cut >= 0; cut -= 13) {
            assert_int_equal(truncate(file, cut), 0);
            if (i > 0) break;
        }
        syi_free(f->ctx, file);
        syi_free(f->ctx, names[i]);
    }
    syi_free(f->ctx, names);
    texts(f, path, &o, &all[0], &trained[0], &info);
    assert_false(info.cached);
    sy_string_free(f->ctx, all[0]);
    sy_string_free(f->ctx, trained[0]);
    texts(f, path, &o, &all[0], &trained[0], &info);
    assert_true(info.cached);
    sy_string_free(f->ctx, all[0]);
    sy_string_free(f->ctx, trained[0]);
}

/* More tokens than are kept in memory: the same ones, and not more memory. */
static void does_not_grow_with_the_file(void **state)
{
    fixture *f = *state;
    char path[128];
    static const char line[] = "{\"text\":\"1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0\"}\n";
    int64_t peak[2], lines = 20000;
    sy_dataset_options o = options(f, 128);
    char cache[128];
    snprintf(cache, sizeof cache, "%s/large", f->dir);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/large%d.jsonl", f->dir, i);
        FILE *file = fopen(path, "wb");
        for (int64_t k = 0; k < lines << (3 * i); k++) fputs(line, file);
        fclose(file);
        sy_context *ctx = sy_context_new();
        sy_threads_set(ctx, 2);
        sy_dataset *d;
        sy_dataset_info info;
        sy_batch b;
        o.cache = cache; /* in a file from the first token on */
        assert_int_equal(sy_dataset_open(ctx, path, &o, &d), SY_OK);
        sy_dataset_stat(d, &info);
        assert_int_equal(info.documents, lines << (3 * i));
        assert_int_equal(sy_dataset_batch(d, info.rows_per_epoch - 1, 2, 0, &b), SY_OK);
        assert_memory_equal(b.ids, b.ids + 128, 128 * sizeof *b.ids);
        sy_dataset_free(d);
        peak[i] = sy_memory_peak(ctx);
        sy_context_free(ctx);
        unlink(path);
    }
    /* eight times the tokens (64 MB more of them): some bytes a document, no more */
    assert_true(peak[1] - peak[0] < (lines * 7) * 80 + (4 << 20));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_tools_records), cmocka_unit_test(preference_records), cmocka_unit_test(other_names), cmocka_unit_test(found_in_the_cache),
        cmocka_unit_test(does_not_grow_with_the_file),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
