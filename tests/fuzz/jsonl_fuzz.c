/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a data set: the first byte chooses the ending and the options. */
#include "fuzz.h"
#include "text/text.h"

static const char spec[] = "{\"decoder\":{\"type\":\"Fuse\"},\"added_tokens\":[{\"id\":9,\"content\":\"<|im_end|>\",\"special\":true}],"
                           "\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"?\":0,\"a\":1,\"b\":2,\"ab\":3,\" \":4,\"\\n\":5},\"merges\":[\"a b\"]}}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const ending[] = {".jsonl", ".json.gz", ".txt", ".txt.gz"};
    if (size == 0) return 0;
    const char *path = fuzz_file(data + 1, size - 1, ending[data[0] % 4]);
    sy_context *ctx = sy_context_new();
    sy_threads_set(ctx, 1);
    sy_tokenizer *t;
    sy_dataset *d;
    if (sy_tokenizer_parse(ctx, spec, sizeof spec - 1, "spec", &t) != SY_OK) abort();
    sy_dataset_options o = {.tokenizer = t, .eos_id = 9, .bos_id = -1, .seq = 8, .pack = data[0] & 4, .shuffle = data[0] & 8,
                            .preference = data[0] & 16 ? SY_PREFERENCE_CHOSEN : SY_PREFERENCE_REFUSED, .holdout = data[0] & 64 ? 0.3 : 0};
    if (data[0] & 32) o.fields.prompt = "q", o.fields.completion = "a";
    sy_status st = sy_dataset_open(ctx, path, &o, &d);
    if (st == SY_OK) {
        sy_batch b;
        if (sy_dataset_batch(d, 3, 4, 0, &b) != SY_OK) abort();
        for (int64_t i = 0; i < b.tokens; i++)
            if (b.target[i] >= 0 && (b.target[i] != b.ids[i + 1] || b.first[i] != b.first[i + 1])) abort();
        sy_dataset_free(d);
    }
    sy_tokenizer_free(t);
    unlink(path);
    fuzz_end(ctx, st);
    return 0;
}
