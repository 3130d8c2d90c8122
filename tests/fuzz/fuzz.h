/* SPDX-License-Identifier: Apache-2.0 */
/* What a fuzz program defines, and an input as a file for parsers that read files. */
#ifndef TEST_FUZZ_H
#define TEST_FUZZ_H

#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Feeds one input to the parser. Returns 0; anything wrong aborts the process. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The bytes under a name of this process' own, which ends with `suffix`. */
static inline const char *fuzz_file(const uint8_t *data, size_t size, const char *suffix)
{
    static char path[256];
    const char *tmp = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/steelyard-fuzz-%ld%s", tmp != NULL ? tmp : "/tmp", (long)getpid(), suffix);
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(data, 1, size, f) != size || fclose(f) != 0) abort();
    return path;
}

/* At the end of an input: nothing may be held, and a failure has a message (shown when
 * FUZZ_SHOW is set). */
static inline void fuzz_end(sy_context *ctx, sy_status status)
{
    if (getenv("FUZZ_SHOW") != NULL) fprintf(stderr, "%s: %s\n", sy_status_name(status), status != SY_OK ? sy_error_message(ctx) : "");
    if (sy_memory_now(ctx) != 0 || (status != SY_OK && sy_error_message(ctx)[0] == '\0') || status == SY_E_BUG) {
        fprintf(stderr, "%lld bytes held, %s: %s\n", (long long)sy_memory_now(ctx), sy_status_name(status), sy_error_message(ctx));
        abort();
    }
    sy_context_free(ctx);
}

#endif
