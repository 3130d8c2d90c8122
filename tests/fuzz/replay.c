/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz program without a fuzzer: each file of a folder as it is, cut off at
 * many places, with bits flipped, and with bytes replaced. The same inputs each time. */
#include "fuzz.h"

static int inputs;

static void feed(const uint8_t *data, size_t size)
{
    /* a copy of exactly that size, so that a sanitizer sees reads past its end */
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL) abort();
    if (size > 0) memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    inputs++;
}

static void variants(uint8_t *data, size_t size)
{
    static const uint8_t bytes[] = {0, 1, 0x7f, 0x80, 0xff, '"', '{', '[', '\n', ' ', '9'};
    feed(data, size);
    size_t step = size / 64 + 1;
    for (size_t n = 0; n < size; n += step) feed(data, n);
    for (int64_t i = 0; i < 200 && size > 0; i++) {
        uint64_t r = syi_random_u64(size, i);
        size_t at = (size_t)(r >> 8) % size;
        if (i % 2) at = (size_t)(r >> 8) % (size < 256 ? size : 256); /* headers matter most */
        uint8_t old = data[at];
        data[at] = r % 3 ? (uint8_t)(old ^ 1u << (r >> 4 & 7)) : bytes[r / 3 % sizeof bytes];
        feed(data, size);
        data[at] = old;
    }
}

int main(int argc, char **argv)
{
    sy_context *ctx = sy_context_new();
    if (ctx == NULL || argc < 2) return 2;
    char **names = NULL;
    int n = 0, seeds = 0;
    if (syi_list_dir(ctx, argv[1], &names, &n) != SY_OK) {
        fprintf(stderr, "%s\n", sy_error_message(ctx));
        return 2;
    }
    for (int i = 0; i < n; i++) {
        char *path = syi_join(ctx, argv[1], names[i]), *text = NULL;
        int64_t size = 0;
        if (path == NULL || syi_read_file(ctx, path, 1 << 20, &text, &size) != SY_OK) {
            fprintf(stderr, "%s\n", sy_error_message(ctx));
            return 2;
        }
        variants((uint8_t *)text, (size_t)size);
        seeds++;
        syi_free(ctx, text);
        syi_free(ctx, path);
        syi_free(ctx, names[i]);
    }
    syi_free(ctx, names);
    sy_context_free(ctx);
    printf("%d seeds, %d inputs\n", seeds, inputs);
    return seeds > 0 ? 0 : 1; /* a corpus that is not there tests nothing */
}
