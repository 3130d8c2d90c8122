/* SPDX-License-Identifier: Apache-2.0 */
/* What the referee of coded blocks calls: standard input to standard output.
 *   block_tool decode Q2_K     blocks to f32
 *   block_tool encode Q4_K     f32 to blocks
 *   block_tool time Q4_K       the same, printing numbers a second of one thread */
#include "base/base.h"
#include "tensor/convert.h"

#include <stdlib.h>

static uint8_t *read_all(size_t *n)
{
    size_t cap = 1 << 20;
    uint8_t *p = malloc(cap);
    *n = 0;
    for (size_t got; p != NULL && (got = fread(p + *n, 1, cap - *n, stdin)) > 0;) {
        *n += got;
        if (*n == cap) p = realloc(p, cap *= 2);
    }
    return p;
}

int main(int argc, char **argv)
{
    const int type = argc == 3 ? sy_dtype_find(argv[2]) : -1;
    if (type < 0) return 2;
    const bool decode = strcmp(argv[1], "decode") == 0, timed = strcmp(argv[1], "time") == 0;
    const size_t len = (size_t)sy_dtype_block_len((sy_dtype)type), bytes = (size_t)sy_dtype_block_bytes((sy_dtype)type);
    size_t n;
    uint8_t *in = read_all(&n);
    const size_t blocks = decode ? n / bytes : n / 4 / len, size = decode ? blocks * len * 4 : blocks * bytes;
    uint8_t *out = malloc(size + 1);
    if (in == NULL || out == NULL) return 4;
    const double start = syi_now();
    if (decode) syi_to_f32((sy_dtype)type, in, (float *)(void *)out, (int64_t)(blocks * len));
    else if (!syi_from_f32((sy_dtype)type, (const float *)(const void *)in, out, (int64_t)(blocks * len))) return 3;
    if (timed) printf("%.3e\n", (double)(blocks * len) / (syi_now() - start));
    else if (fwrite(out, 1, size, stdout) != size) return 4;
    free(in);
    free(out);
    return 0;
}
