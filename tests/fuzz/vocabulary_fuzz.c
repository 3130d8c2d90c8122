/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a GGUF file of which only the vocabulary is read: it becomes a
 * tokenizer.json, which must load or be refused, and tokenize. */
#include "fuzz.h"
#include "io/checkpoint.h"
#include "io/source.h"
#include "text/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file(data, size, ".gguf");
    sy_context *ctx = sy_context_new();
    sy_checkpoint *ck = NULL;
    json_t *tokenizer = NULL, *config = NULL;
    char *chat = NULL;
    sy_tokenizer *t = NULL;
    sy_status st = sy_checkpoint_open(ctx, path, &ck);
    if (st == SY_OK && ck->gguf != NULL) st = syi_tokenizer_from_gguf(ctx, ck->gguf, "fuzz", &tokenizer, &config, &chat);
    if (st == SY_OK && tokenizer != NULL) st = syi_tokenizer_from_json(ctx, tokenizer, "fuzz", &t);
    if (t != NULL) {
        sy_token *k;
        int64_t n;
        st = sy_tokenize(ctx, t, "ab a\xC3\xA9 <s>", 9, true, true, &k, &n);
        if (st == SY_OK) sy_tokens_free(ctx, k);
    }
    sy_tokenizer_free(t);
    json_decref(tokenizer);
    json_decref(config);
    syi_free(ctx, chat);
    sy_checkpoint_close(ck);
    unlink(path);
    fuzz_end(ctx, st);
    return 0;
}
