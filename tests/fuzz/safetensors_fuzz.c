/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a safetensors file: refused with a message, or every number of every
 * tensor can be read. */
#include "fuzz.h"

#include "io/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sy_context *ctx = sy_context_new();
    sy_checkpoint *ck = NULL;
    if (ctx == NULL) abort();
    const sy_status status = sy_checkpoint_open(ctx, fuzz_file(data, size, ".safetensors"), &ck);
    if ((status == SY_OK) != (ck != NULL)) abort();
    for (int64_t i = 0; ck != NULL && i < sy_checkpoint_count(ck); i++) {
        const sy_entry *e = sy_checkpoint_at(ck, i);
        if (sy_checkpoint_find(ck, e->name) != e) abort();
        const int64_t rows = syi_entry_rows(e), cols = syi_entry_cols(e);
        if (e->bytes == 0) continue;
        float *f = syi_alloc(ctx, (size_t)(rows * cols) * sizeof *f);
        if (f == NULL || sy_entry_read_f32(ctx, e, 0, rows, f) != SY_OK) abort();
        syi_free(ctx, f);
    }
    sy_checkpoint_close(ck);
    fuzz_end(ctx, status);
    return 0;
}
