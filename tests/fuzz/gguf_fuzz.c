/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a GGUF file: refused with a message, or config, tokenizer and every
 * number of every tensor can be had from it. */
#include "fuzz.h"

#include "io/checkpoint.h"

static void look_up(const syi_gguf *g)
{
    for (int64_t i = 0; i < syi_gguf_keys(g); i++) {
        const char *key = syi_gguf_key(g, i, NULL), *s;
        int64_t n, len;
        double d;
        bool b;
        size_t sum = 0;
        syi_gguf_int(g, key, &n);
        syi_gguf_float(g, key, &d);
        syi_gguf_bool(g, key, &b);
        if (syi_gguf_str(g, key, &s)) sum += strlen(s);
        n = syi_gguf_array(g, key, NULL);
        for (int64_t k = -1; k <= n; k++) {
            syi_gguf_array_num(g, key, k, &d);
            if (syi_gguf_array_str(g, key, k, &s, &len))
                for (int64_t j = 0; j < len; j++) sum += (unsigned char)s[j];
        }
        if (sum == SIZE_MAX) abort(); /* the sum is used: the reads stay */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sy_context *ctx = sy_context_new();
    syi_source *s = NULL;
    if (ctx == NULL) abort();
    const sy_status status = syi_source_open(ctx, fuzz_file(data, size, ".gguf"), false, &s);
    if ((status == SY_OK) != (s != NULL)) abort();
    if (s != NULL) look_up(s->tensors->gguf);
    for (int64_t i = 0; s != NULL && i < sy_checkpoint_count(s->tensors); i++) {
        const sy_entry *e = sy_checkpoint_at(s->tensors, i);
        const int64_t rows = syi_entry_rows(e), cols = syi_entry_cols(e);
        if (e->bytes == 0) continue;
        float *f = syi_alloc(ctx, (size_t)(rows * cols) * sizeof *f);
        if (f == NULL || sy_entry_read_f32(ctx, e, 0, rows, f) != SY_OK) abort();
        syi_free(ctx, f);
    }
    syi_source_close(s);
    fuzz_end(ctx, status);
    return 0;
}
