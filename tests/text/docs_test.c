/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the examples of docs/data.md: what a block of records is said to train is
 * what it trains. */
#include "support/test.h"
#include "text/text.h"

#include <unistd.h>

/* The next block that opens with ```label, or NULL; *at moves past it. */
static char *block(char **at, const char *label)
{
    char open[32];
    snprintf(open, sizeof open, "\n```%s\n", label);
    char *begin = strstr(*at, open);
    if (begin == NULL) return NULL;
    begin += strlen(open);
    char *end = strstr(begin, "```\n");
    assert_non_null(end);
    *at = end + 3;
    return strndup(begin, (size_t)(end - begin));
}

static void examples_train_what_they_say(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    char path[4096], *page, *at, *records;
    int64_t size;
    int examples = 0;
    snprintf(path, sizeof path, "%s/tests/text/data/golden.json", getenv("STEELYARD_ROOT"));
    json_t *j = json_load_file(path, 0, NULL);
    sy_tokenizer *t;
    assert_int_equal(syi_tokenizer_from_json(ctx, json_object_get(json_array_get(json_object_get(j, "tokenizers"), 0), "tokenizer"), path, &t), SY_OK);
    snprintf(path, sizeof path, "%s/docs/data.md", getenv("STEELYARD_ROOT"));
    assert_int_equal(syi_read_file(ctx, path, 1 << 20, &page, &size), SY_OK);
    at = page;
    while ((records = block(&at, "jsonl")) != NULL) {
        char *expected = block(&at, "trained");
        assert_non_null(expected);
        expected[strlen(expected) - 1] = '\0'; /* the newline before the fence */
        char file[] = "/tmp/steelyard-docs-XXXXXX.jsonl";
        int fd = mkstemps(file, 6);
        assert_int_equal(write(fd, records, strlen(records)), strlen(records));
        close(fd);
        sy_dataset_options o = {.tokenizer = t, .eos_id = 2, .bos_id = -1, .seq = 512};
        sy_dataset *d;
        sy_dataset_info info;
        sy_batch b;
        if (sy_dataset_open(ctx, file, &o, &d) != SY_OK) fail_msg("%s", sy_error_message(ctx));
        sy_dataset_stat(d, &info);
        assert_int_equal(sy_dataset_batch(d, 0, info.rows_per_epoch, 0, &b), SY_OK);
        int32_t ids[256];
        int64_t n = 0;
        for (int64_t i = 0; i < b.tokens; i++)
            if (b.target[i] >= 0 && n < 256) ids[n++] = b.target[i];
        char *text;
        assert_int_equal(sy_detokenize(ctx, t, ids, n, false, &text, NULL, NULL), SY_OK);
        assert_string_equal(text, expected);
        sy_string_free(ctx, text);
        sy_dataset_free(d);
        unlink(file);
        free(records);
        free(expected);
        examples++;
    }
    assert_int_equal(examples, 6);
    syi_free(ctx, page);
    sy_tokenizer_free(t);
    json_decref(j);
    sy_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(examples_train_what_they_say)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
