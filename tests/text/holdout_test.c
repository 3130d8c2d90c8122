/* SPDX-License-Identifier: Apache-2.0 */
/* A share of a data set kept aside: the two parts together are the whole, nothing is in
 * both, the choice depends on the seed alone; a single text gives its end. */
#include "steelyard/text.h"
#include "support/folder.h"
#include "support/tiny_text.h"

enum { DOCUMENTS = 40 };

static sy_tokenizer *tokenizer(test_folder *f)
{
    char path[600], *text;
    int64_t size;
    sy_tokenizer *t;
    tiny_tokenizer_write(f->dir);
    snprintf(path, sizeof path, "%s/tokenizer.json", f->dir);
    TEST_OK(f->ctx, syi_read_file(f->ctx, path, 1 << 20, &text, &size));
    TEST_OK(f->ctx, sy_tokenizer_parse(f->ctx, text, (size_t)size, path, &t));
    syi_free(f->ctx, text);
    return t;
}

/* How often each of the numbers 0..DOCUMENTS-1, written in each document, is in the set. */
static void count(sy_dataset *d, int *seen)
{
    sy_dataset_info info;
    sy_dataset_stat(d, &info);
    for (int64_t row = 0; row < info.rows_per_epoch; row++) {
        sy_batch b;
        assert_int_equal(sy_dataset_batch(d, row, 1, 0, &b), SY_OK);
        for (int64_t t = 0; t + 2 < b.tokens; t++)
            if (b.ids[t] == '#') seen[(b.ids[t + 1] - '0') * 10 + b.ids[t + 2] - '0']++;
    }
}

static void parts_of_documents(void **state)
{
    test_folder *f = *state;
    sy_tokenizer *t = tokenizer(f);
    char path[600];
    snprintf(path, sizeof path, "%s/data.jsonl", f->dir);
    FILE *file = fopen(path, "w");
    for (int i = 0; i < DOCUMENTS; i++) fprintf(file, "{\"text\": \"document #%02d of several\"}\n", i);
    fclose(file);
    int first[DOCUMENTS] = {0};
    for (uint64_t seed = 1; seed <= 3; seed++)
        for (int share = 1; share <= 3; share++) {
            int rest[DOCUMENTS] = {0}, aside[DOCUMENTS] = {0};
            sy_dataset_options o = {.tokenizer = t, .eos_id = TINY_EOS, .bos_id = -1, .seq = 48, .pack = share == 2, .shuffle = true,
                                    .seed = seed, .holdout = 0.1 * share};
            sy_dataset *d;
            sy_dataset_info a, b;
            TEST_OK(f->ctx, sy_dataset_open(f->ctx, path, &o, &d));
            sy_dataset_stat(d, &a);
            count(d, rest);
            sy_dataset_free(d);
            o.heldout = true;
            o.shuffle = o.pack = false; /* how rows are laid does not matter */
            TEST_OK(f->ctx, sy_dataset_open(f->ctx, path, &o, &d));
            sy_dataset_stat(d, &b);
            count(d, aside);
            sy_dataset_free(d);
            assert_int_equal(b.documents, 4 * share);
            assert_int_equal(a.documents, DOCUMENTS - 4 * share);
            assert_int_equal(a.tokens, 24 * a.documents);
            assert_int_equal(b.trained_tokens, 23 * b.documents);
            int differ = 0;
            for (int i = 0; i < DOCUMENTS; i++) {
                assert_int_equal(rest[i] + aside[i], 1);
                if (seed == 1 && share == 3) first[i] = aside[i];
                differ += share == 3 && aside[i] != first[i];
            }
            if (seed > 1 && share == 3) assert_true(differ > 0);
        }
    sy_tokenizer_free(t);
}

static void end_of_a_text(void **state)
{
    test_folder *f = *state;
    sy_tokenizer *t = tokenizer(f);
    char path[600];
    snprintf(path, sizeof path, "%s/data.txt", f->dir);
    FILE *file = fopen(path, "w");
    for (int i = 0; i < DOCUMENTS; i++) fprintf(file, "#%02d56789", i); /* windows of 8 */
    fclose(file);
    sy_dataset_options o = {.tokenizer = t, .eos_id = -1, .bos_id = -1, .seq = 8, .holdout = 0.25, .heldout = true};
    sy_dataset *d;
    int aside[DOCUMENTS] = {0};
    TEST_OK(f->ctx, sy_dataset_open(f->ctx, path, &o, &d));
    count(d, aside);
    sy_dataset_free(d);
    for (int i = 0; i < DOCUMENTS; i++) assert_int_equal(aside[i], i >= 30);
    o.seq = 1024; /* one window */
    assert_int_equal(sy_dataset_open(f->ctx, path, &o, &d), SY_E_INPUT);
    assert_non_null(strstr(sy_error_message(f->ctx), "single window"));
    sy_tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {folder_test(parts_of_documents), folder_test(end_of_a_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
