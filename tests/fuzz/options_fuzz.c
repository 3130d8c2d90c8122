/* SPDX-License-Identifier: Apache-2.0 */
/* Any text as the value of an option of each type: it is refused, or its text gives
 * the same value again. The first byte chooses the type. */
#include "fuzz.h"

#include "base/options.h"

#include <stddef.h>

typedef struct {
    bool flag;
    int64_t whole, size;
    double number;
    char *text;
    int word;
    sy_list list;
    sy_map map;
} config;

static const char *const words[] = {"one", "two=true", "three-four", NULL};
static const sy_option rows[] = {
    {.name = "flag", .type = SY_OPT_BOOL, .offset = offsetof(config, flag)},
    {.name = "whole", .type = SY_OPT_INT, .offset = offsetof(config, whole), .min = -1e9, .max = 1e9},
    {.name = "size", .type = SY_OPT_SIZE, .offset = offsetof(config, size)},
    {.name = "number", .type = SY_OPT_FLOAT, .offset = offsetof(config, number)},
    {.name = "text", .type = SY_OPT_STRING, .offset = offsetof(config, text)},
    {.name = "word", .type = SY_OPT_ENUM, .offset = offsetof(config, word), .choices = words},
    {.name = "list", .type = SY_OPT_LIST, .offset = offsetof(config, list)},
    {.name = "map", .type = SY_OPT_MAP, .offset = offsetof(config, map)},
};

static void again(sy_context *ctx, const sy_option *row, const config *a, syi_arena *arena)
{
    config b = {0};
    char *one = syi_option_text(ctx, row, a), *two = NULL;
    if (one == NULL || syi_option_set(ctx, row, &b, one, "again", arena) != SY_OK ||
        (two = syi_option_text(ctx, row, &b)) == NULL || strcmp(one, two) != 0) {
        fprintf(stderr, "--%s: '%s' became '%s' (%s)\n", row->name, one != NULL ? one : "", two != NULL ? two : "",
                sy_error_message(ctx));
        abort();
    }
    syi_free(ctx, one);
    syi_free(ctx, two);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    sy_context *ctx = sy_context_new();
    syi_arena *arena = NULL;
    if (ctx == NULL || syi_arena_new(ctx, 0, &arena) != SY_OK) abort();
    const sy_option *row = &rows[data[0] % SYI_COUNT(rows)];
    char *text = syi_strndup(ctx, (const char *)data + 1, size - 1);
    config a = {0};
    sy_status status = syi_option_set(ctx, row, &a, text, "fuzz", arena);
    if (status == SY_OK) again(ctx, row, &a, arena);
    syi_free(ctx, text);
    syi_arena_free(arena);
    fuzz_end(ctx, status);
    return 0;
}
