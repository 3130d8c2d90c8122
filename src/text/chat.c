/* SPDX-License-Identifier: Apache-2.0 */
/* Chat templates: the public call, and a parsed form for those who render often.
 * The time is not given to templates (strftime_now is undefined, which they
 * provide for), so that the same messages always give the same text. */
#include "chat.h"

sy_status syi_chat_parse(sy_context *ctx, const char *jinja, size_t len, const char *where, syi_chat **out)
{
    syi_chat *c = *out = syi_calloc(ctx, 1, sizeof *c);
    if (c == NULL) return SY_E_MEMORY;
    c->ctx = ctx;
    sy_status st = syi_arena_new(ctx, 64 << 10, &c->arena);
    if (st == SY_OK && (c->where = syi_strdup(ctx, where)) == NULL) st = SY_E_MEMORY;
    if (jinja == NULL) {
        jinja = sy_chat_named("chatml");
        len = strlen(jinja);
    }
    if (st == SY_OK) st = syi_chat_tree(ctx, c, jinja, len);
    if (st == SY_E_UNSUPPORTED) st = syi_chat_advise(ctx);
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

sy_status syi_chat_advise(sy_context *ctx)
{
    syi_text t;
    const char *name;
    syi_text_init(&t, ctx, 4096);
    syi_text_puts(&t, sy_error_message(ctx));
    for (int i = 0; (name = sy_chat_name(i, NULL)) != NULL; i++)
        syi_text_printf(&t, "%s%s", i == 0 ? "; one of these can stand for it, --chat-template NAME: " : ", ", name);
    sy_status st = syi_fail(ctx, SY_E_UNSUPPORTED, "%s", t.s ? t.s : "");
    syi_text_free(&t);
    return st;
}

/* As transformers does: what is null is not there, since many templates print it. */
static void drop_nulls(json_t *message)
{
    const char *key;
    void *next;
    json_t *v;
    json_object_foreach_safe(message, next, key, v)
        if (json_is_null(v)) json_object_del(message, key);
}

/* What transformers hands to templates besides: reasoning under its newer names. */
static sy_status alias_reasoning(sy_context *ctx, json_t *message)
{
    static const char *const name[] = {"reasoning_content", "thinking", "reasoning"};
    const json_t *found = NULL;
    for (int i = 0; i < SYI_COUNT(name) && found == NULL; i++) {
        found = json_object_get(message, name[i]);
        if (json_is_null(found)) found = NULL;
    }
    if (found == NULL) return SY_OK;
    json_t *keep = json_incref((json_t *)(uintptr_t)found);
    int bad = json_object_get(message, "thinking") == NULL && json_object_set(message, "thinking", keep) != 0;
    bad |= json_object_set(message, "reasoning_content", keep) != 0;
    json_decref(keep);
    return bad ? syi_nomem(ctx, 64) : SY_OK;
}

sy_status syi_chat_messages(sy_context *ctx, const json_t *messages, const char *where)
{
    if (!json_is_array(messages)) return syi_fail(ctx, SY_E_INPUT, "%s\"messages\" is a list of messages", where);
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *m = json_array_get(messages, i), *content = json_object_get(m, "content");
        bool known = json_is_string(content) || json_is_array(content) ||
                     ((content == NULL || json_is_null(content)) && json_object_get(m, "tool_calls") != NULL);
        if (!json_is_string(json_object_get(m, "role")) || !known)
            return syi_fail(ctx, SY_E_INPUT, "%smessages[%zu]: expected {\"role\": text, \"content\": text}, or a content that is a list of parts, or "
                            "tool_calls", where, i);
        drop_nulls(m);
        SYI_TRY(alias_reasoning(ctx, m));
    }
    return SY_OK;
}

static sy_status render(sy_context *ctx, const sy_chat_template *chat, json_t *variables, const json_t *messages, bool generate, char **text)
{
    const char *jinja = chat ? chat->jinja : NULL;
    syi_chat *c = NULL;
    syi_text out;
    syi_text_init(&out, ctx, OUTPUT_MAX);
    if (chat && chat->bos_token && !json_object_get(variables, "bos_token")) json_object_set_new(variables, "bos_token", json_string(chat->bos_token));
    if (chat && chat->eos_token && !json_object_get(variables, "eos_token")) json_object_set_new(variables, "eos_token", json_string(chat->eos_token));
    sy_status st = syi_chat_parse(ctx, jinja, jinja ? strlen(jinja) : 0, "chat template", &c);
    if (st == SY_OK) st = syi_chat_run(ctx, c, variables, messages, json_array_size(messages), generate, &out);
    if (st == SY_OK && out.s == NULL) syi_text_add(&out, "", 0);
    if (st == SY_OK && (*text = syi_text_take(&out)) == NULL) st = SY_E_MEMORY;
    syi_text_free(&out);
    syi_chat_free(c);
    return st;
}

sy_status sy_chat_render(sy_context *ctx, const sy_chat_template *chat, const sy_message *messages, int64_t n,
                         bool add_generation_prompt, char **text)
{
    *text = NULL;
    json_t *array = json_array(), *variables = json_object();
    sy_status st = array && variables ? SY_OK : syi_nomem(ctx, 64);
    for (int64_t i = 0; i < n && st == SY_OK; i++) st = add_message(ctx, array, &messages[i], i);
    if (st == SY_OK) st = render(ctx, chat, variables, array, add_generation_prompt, text);
    json_decref(array);
    json_decref(variables);
    return st;
}

sy_status sy_chat_render_json(sy_context *ctx, const sy_chat_template *chat, const char *json, size_t len, char **text)
{
    json_error_t error;
    *text = NULL;
    json_t *j = json_loadb(json, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error), *messages = json_object_get(j, "messages");
    if (j == NULL) return syi_fail(ctx, SY_E_INPUT, "conversation: line %d, column %d: not valid JSON: %s", error.line, error.column, error.text);
    sy_status st = syi_chat_messages(ctx, messages, "conversation: ");
    bool generate = json_is_true(json_object_get(j, "add_generation_prompt"));
    if (st == SY_OK) {
        json_incref(messages);
        json_object_del(j, "messages");
        json_object_del(j, "add_generation_prompt");
        st = render(ctx, chat, j, messages, generate, text);
        json_decref(messages);
    }
    json_decref(j);
    return st;
}
