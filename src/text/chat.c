/* SPDX-License-Identifier: Apache-2.0 */
/* Chat templates: the public call, and a parsed form for those who render often.
 * The time is not given to templates (strftime_now is undefined, which they
 * provide for), so that the same messages always give the same text. */
#include "chat.h"

static const char chatml[] = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
                             "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

sy_status syi_chat_parse(sy_context *ctx, const char *jinja, size_t len, const char *where, syi_chat **out)
{
    syi_chat *c = *out = syi_calloc(ctx, 1, sizeof *c);
    if (c == NULL) return SY_E_MEMORY;
    c->ctx = ctx;
    sy_status st = syi_arena_new(ctx, 64 << 10, &c->arena);
    if (st == SY_OK && (c->where = syi_strdup(ctx, where)) == NULL) st = SY_E_MEMORY;
    if (st == SY_OK) st = jinja ? syi_chat_tree(ctx, c, jinja, len) : syi_chat_tree(ctx, c, chatml, sizeof chatml - 1);
    if (st != SY_OK) {
        syi_chat_free(c);
        *out = NULL;
    }
    return st;
}

void syi_chat_free(syi_chat *c)
{
    if (c == NULL) return;
    syi_arena_free(c->arena);
    syi_free(c->ctx, c->where);
    syi_free(c->ctx, c);
}

static sy_status add_message(sy_context *ctx, json_t *array, const sy_message *m, int64_t i)
{
    json_t *j = json_object(), *role = m->role ? json_string(m->role) : NULL, *content = m->content ? json_string(m->content) : NULL;
    if (role == NULL || content == NULL) {
        json_decref(role);
        json_decref(content);
        json_decref(j);
        return syi_fail(ctx, SY_E_INPUT, "message %lld: role or content is missing or not valid UTF-8", (long long)i);
    }
    if (json_object_set_new(j, "role", role) | json_object_set_new(j, "content", content) | json_array_append_new(array, j))
        return syi_nomem(ctx, 64);
    return SY_OK;
}

sy_status sy_chat_render(sy_context *ctx, const sy_chat_template *chat, const sy_message *messages, int64_t n,
                         bool add_generation_prompt, char **text)
{
    const char *jinja = chat ? chat->jinja : NULL;
    syi_chat *c = NULL;
    syi_text out;
    *text = NULL;
    syi_text_init(&out, ctx, OUTPUT_MAX);
    json_t *array = json_array(), *variables = json_object();
    sy_status st = array && variables ? SY_OK : syi_nomem(ctx, 64);
    for (int64_t i = 0; i < n && st == SY_OK; i++) st = add_message(ctx, array, &messages[i], i);
    if (st == SY_OK && chat && chat->bos_token) json_object_set_new(variables, "bos_token", json_string(chat->bos_token));
    if (st == SY_OK && chat && chat->eos_token) json_object_set_new(variables, "eos_token", json_string(chat->eos_token));
    if (st == SY_OK) st = syi_chat_parse(ctx, jinja, jinja ? strlen(jinja) : 0, "chat template", &c);
    if (st == SY_OK) st = syi_chat_run(ctx, c, variables, array, (size_t)n, add_generation_prompt, &out);
    if (st == SY_OK && (*text = syi_text_take(&out)) == NULL) st = SY_E_MEMORY;
    syi_text_free(&out);
    syi_chat_free(c);
    json_decref(array);
    json_decref(variables);
    return st;
}
