/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as JSON: refused with a message, or what is written of it reads back as
 * the same value, and setting one key of an object changes nothing else. */
#include "fuzz.h"

#include "io/io.h"

static void edit(sy_context *ctx, const json_t *j, const char *text)
{
    json_t *back = NULL, *want = json_copy((json_t *)(uintptr_t)j);
    char *changed = syi_strdup(ctx, text);
    if (changed == NULL || want == NULL || syi_json_set(ctx, &changed, "dtype", "\"x\"") != SY_OK) abort();
    json_object_set_new(want, "dtype", json_string("x"));
    if (syi_json_parse(ctx, changed, strlen(changed), "edited", &back) != SY_OK || !json_equal(back, want)) {
        fprintf(stderr, "%s\nbecame\n%s\n", text, changed);
        abort();
    }
    json_decref(want);
    json_decref(back);
    syi_free(ctx, changed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sy_context *ctx = sy_context_new();
    json_t *j = NULL, *back = NULL;
    char *text = NULL;
    if (ctx == NULL) abort();
    const sy_status status = syi_json_parse(ctx, (const char *)data, size, "input", &j);
    if (status == SY_OK) {
        if (syi_json_dump(ctx, j, false, &text) != SY_OK || syi_json_parse(ctx, text, strlen(text), "dumped", &back) != SY_OK || !json_equal(j, back)) abort();
        char *copy = syi_strndup(ctx, (const char *)data, size);
        /* a key written with an escape is another spelling that the edit does not look for */
        if (json_is_object(j) && copy != NULL && strchr(copy, '\\') == NULL && strlen(copy) == size) edit(ctx, j, copy);
        syi_free(ctx, copy);
    }
    syi_free(ctx, text);
    json_decref(j);
    json_decref(back);
    fuzz_end(ctx, status);
    return 0;
}
