/* SPDX-License-Identifier: Apache-2.0 */
/* Even inputs: any bytes as tokenizer.json. Odd ones: any bytes as a text for a
 * byte-level tokenizer, which must give them back. */
#include "fuzz.h"
#include "text/text.h"

/* Made once, in a context of its own. */
static const sy_tokenizer *byte_level(void)
{
    static sy_context *ctx;
    static sy_tokenizer *out;
    if (out != NULL) return out;
    ctx = sy_context_new();
    syi_text t;
    syi_text_init(&t, ctx, 1 << 20);
    syi_text_puts(&t, "{\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},"
                      "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}]},"
                      "\"decoder\":{\"type\":\"ByteLevel\"},\"added_tokens\":[{\"id\":300,\"content\":\"<s>\",\"special\":true}],\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int b = 0; b < 256; b++) {
        uint8_t utf8[5] = {0};
        syi_utf8_encode(syi_byte_char((uint8_t)b), utf8);
        syi_text_printf(&t, "\"%s%s\":%d,", b == '"' || b == '\\' ? "\\" : "", (char *)utf8, b);
    }
    syi_text_puts(&t, "\"aa\":256,\"aaaa\":257,\"ab\":258},\"merges\":[\"a b\",\"a a\",\"aa aa\"]}}");
    if (sy_tokenizer_parse(ctx, t.s, t.len, "fuzz", &out) != SY_OK) abort();
    syi_text_free(&t);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sy_context *ctx = sy_context_new();
    sy_tokenizer *own = NULL;
    sy_status st = SY_OK;
    bool text = size > 0 && data[0] % 2;
    if (!text && size > 0) st = sy_tokenizer_parse(ctx, (const char *)data + 1, size - 1, "fuzz", &own);
    const sy_tokenizer *t = text ? byte_level() : own;
    if (t != NULL) {
        sy_token *k;
        int64_t n, len;
        char *back;
        const char *s = text ? (const char *)data + 1 : "Hello  w\xC3\xB6rld 123\n\xFF\xF0\x9F\x98\x80 <s>";
        int64_t bytes = text ? (int64_t)size - 1 : (int64_t)strlen(s);
        if ((st = sy_tokenize(ctx, t, s, bytes, !text, true, &k, &n)) == SY_OK) {
            int32_t *ids = malloc((size_t)(n + 1) * sizeof *ids);
            for (int64_t i = 0; i < n; i++) {
                if (k[i].begin < 0 || k[i].begin > k[i].end || k[i].end > bytes) abort();
                ids[i] = k[i].id;
            }
            if ((st = sy_detokenize(ctx, t, ids, n, false, &back, &len, NULL)) == SY_OK) {
                if (text && (len != bytes || memcmp(back, s, (size_t)len) != 0)) abort();
                sy_string_free(ctx, back);
            }
            free(ids);
            sy_tokens_free(ctx, k);
        }
        sy_tokenizer_free(own);
    }
    fuzz_end(ctx, st);
    return 0;
}
