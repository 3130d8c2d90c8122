/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a chat template. */
#include "fuzz.h"
#include "steelyard/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sy_context *ctx = sy_context_new();
    sy_message m[] = {{"system", "Be good"}, {"user", "Hi \"you\"\n"}, {"assistant", "H\xC3\xB6"}};
    char *jinja = malloc(size + 1), *text;
    memcpy(jinja, data, size);
    jinja[size] = '\0';
    sy_status st = sy_chat_render(ctx, &(sy_chat_template){jinja, "<s>", "</s>"}, m, 3, size % 2, &text);
    if (st == SY_OK) sy_string_free(ctx, text);
    free(jinja);
    fuzz_end(ctx, st);
    return 0;
}
