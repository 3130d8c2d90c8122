/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a conversation in JSON (what begins with '{'), under one of the built-in
 * templates; any other bytes as a template, over a conversation with tools. */
#include "fuzz.h"
#include "steelyard/text.h"

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be good\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"Hi \\\"you\\\"\\n\"},{\"type\":\"image\"}]},"
    "{\"role\":\"assistant\",\"content\":null,\"reasoning\":\"h\\u00f6\",\"tool_calls\":[{\"id\":\"1\",\"function\":{\"name\":\"f\",\"arguments\":{\"a\":[1,2.5,null,true]}}}]},"
    "{\"role\":\"tool\",\"content\":\"7\"},{\"role\":\"assistant\",\"content\":\"H\\u00f6\"}],\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":{}}}],"
    "\"add_generation_prompt\":true}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sy_context *ctx = sy_context_new();
    char *copy = malloc(size + 1), *text;
    memcpy(copy, data, size);
    copy[size] = '\0';
    sy_chat_template chat = {copy, "<s>", "</s>"};
    sy_status st;
    if (size > 0 && data[0] == '{' && (size < 2 || (data[1] != '{' && data[1] != '%' && data[1] != '#'))) {
        chat.jinja = sy_chat_named(sy_chat_name((int)(size % 12), NULL));
        st = sy_chat_render_json(ctx, &chat, copy, size, &text);
    } else {
        st = sy_chat_render_json(ctx, &chat, conversation, sizeof conversation - 1, &text);
        if (st == SY_OK) sy_string_free(ctx, text);
        sy_message m[] = {{"system", "Be good"}, {"user", "Hi \"you\"\n"}, {"assistant", "H\xC3\xB6"}};
        st = sy_chat_render(ctx, &chat, m, 3, size % 2, &text);
    }
    if (st == SY_OK) sy_string_free(ctx, text);
    free(copy);
    fuzz_end(ctx, st);
    return 0;
}
