/* SPDX-License-Identifier: Apache-2.0 */
/* A tiny model that can read: the random Llama of tiny_model.h with a tokenizer of one
 * token a byte, a ChatML template, and texts to learn. What tests of verbs stand on. */
#ifndef TEST_TINY_TEXT_H
#define TEST_TINY_TEXT_H

#include "steelyard/job.h"
#include "support/tiny_model.h"

enum { TINY_EOS = 256, TINY_TURN = 257, TINY_TURN_END = 258, TINY_VOCABULARY = 264 };

/* The character that byte-level vocabularies use for a byte, as UTF-8. */
static inline void tiny_byte_char(int byte, char out[8])
{
    bool same = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
    int code = byte, skipped = 0;
    if (!same) {
        for (int b = 0; b < byte; b++)
            skipped += !((b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff));
        code = 256 + skipped;
    }
    if (code < 0x80) snprintf(out, 8, "%s%c", code == '"' || code == '\\' ? "\\" : "", code);
    else snprintf(out, 8, "%c%c", 0xc0 | code >> 6, 0x80 | (code & 0x3f));
}

/* Files of a tokenizer whose token i is byte i, and three special tokens. */
static inline void tiny_tokenizer_write(const char *dir)
{
    char path[600], c[8];
    static const char *const special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
    for (int i = 0; i < 3; i++)
        fprintf(f, "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}",
                i ? "," : "", TINY_EOS + i, special[i]);
    fprintf(f, "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"
               "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
               "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
               "\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":false,\"vocab\":{");
    for (int b = 0; b < 256; b++) {
        tiny_byte_char(b, c);
        fprintf(f, "%s\"%s\":%d", b ? "," : "", c, b);
    }
    for (int i = 0; i < 3; i++) fprintf(f, ",\"%s\":%d", special[i], TINY_EOS + i);
    fprintf(f, "},\"merges\":[]}}\n");
    assert_int_equal(fclose(f), 0);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "{\"eos_token\":\"<|endoftext|>\",\"bos_token\":null,\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"chat_template\":"
               "\"{%% for m in messages %%}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{%% endfor %%}"
               "{%% if add_generation_prompt %%}{{ '<|im_start|>assistant\\n' }}{%% endif %%}\"}\n");
    assert_int_equal(fclose(f), 0);
    snprintf(path, sizeof path, "%s/generation_config.json", dir);
    f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "{\"eos_token_id\":%d}\n", TINY_EOS);
    assert_int_equal(fclose(f), 0);
}

/* A model folder that all verbs take: 2 blocks of 32, context 256. */
static inline void tiny_reader_write(sy_context *ctx, const char *dir)
{
    tiny_model m = TINY_MODEL;
    m.hidden = 32;
    m.head_dim = 8;
    m.ffn = 64;
    m.vocab = TINY_VOCABULARY;
    m.tied = true;
    tiny_model_write(ctx, &m, dir);
    tiny_tokenizer_write(dir);
}

/* n short documents that have something in common to learn. */
static inline void tiny_jsonl_write(const char *path, int n, int from)
{
    static const char *const who[] = {"ant", "bee", "cat", "dog", "eel"}, *const what[] = {"runs", "sings", "waits", "sleeps"};
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = from; i < from + n; i++)
        fprintf(f, "{\"text\": \"The %s %s. Number %d.\"}\n", who[i % 5], what[i * 7 % 4], i);
    assert_int_equal(fclose(f), 0);
}

/* Runs a verb with "key=value" settings, NULL-ended; *report (taken, may be NULL) is the JSON. */
static inline sy_status tiny_job(sy_context *ctx, const char *verb, const char *const *settings, char **report)
{
    sy_job *job;
    if (report != NULL) *report = NULL;
    TEST_OK(ctx, sy_job_new(ctx, verb, &job));
    for (int i = 0; settings[i] != NULL; i++) {
        char key[64];
        const char *eq = strchr(settings[i], '=');
        assert_non_null(eq);
        snprintf(key, sizeof key, "%.*s", (int)(eq - settings[i]), settings[i]);
        TEST_OK(ctx, sy_job_set(job, key, eq + 1));
    }
    sy_status status = sy_job_run(job);
    if (report != NULL) *report = strdup(sy_job_report(job));
    sy_job_free(job);
    return status;
}

#endif
