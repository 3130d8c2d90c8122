/* SPDX-License-Identifier: Apache-2.0 */
/* Records in the words of other tools: alpaca, sharegpt, preference and unpaired ones,
 * under any names (field_* options). What comes out is "text", "prompt" and
 * "completion", or "messages". A record that fits two kinds fits none. */
#include "dataset.h"

/* What we call a part, where the options say what the file calls it, the file's usual
 * names for it. */
typedef struct { const char *name; size_t given; } field;
#define FIELD(name) {#name, offsetof(sy_dataset_fields, name)}
enum { TEXT, PROMPT, COMPLETION, MESSAGES, INSTRUCTION, INPUT, OUTPUT, SYSTEM, ROLE, CONTENT, CHOSEN, REJECTED, FIELDS };
static const field fields[FIELDS] = {FIELD(text),   FIELD(prompt), FIELD(completion), FIELD(messages), FIELD(instruction), FIELD(input),
                                     FIELD(output), FIELD(system), FIELD(role),       FIELD(content),  FIELD(chosen),      FIELD(rejected)};

static const char *key_of(const syi_worker *w, int which)
{
    const char *given = *(const char *const *)((const char *)&w->o->fields + fields[which].given);
    return given != NULL && *given != '\0' ? given : fields[which].name;
}

static const json_t *part(const syi_worker *w, const json_t *j, int which)
{
    return json_object_get(j, key_of(w, which));
}

sy_status syi_record_bad(syi_worker *w, const syi_record *r, sy_status code, const char *what)
{
    return syi_fail(w->ctx, code, "%s:%lld: %s", w->path, (long long)r->line, what);
}

/* -- building ------------------------------------------------------------------------- */

static sy_status put(syi_worker *w, json_t *object, const char *key, const json_t *v)
{
    return json_object_set(object, key, (json_t *)(uintptr_t)v) == 0 ? SY_OK : syi_nomem(w->ctx, 64);
}

static sy_status say(syi_worker *w, json_t *messages, const char *role, json_t *content)
{
    json_t *m = json_pack("{s:s,s:o}", "role", role, "content", content);
    if (m == NULL) json_decref(content);
    return m != NULL && json_array_append_new(messages, m) == 0 ? SY_OK : syi_nomem(w->ctx, 64);
}

static sy_status say_text(syi_worker *w, const syi_record *r, json_t *messages, const char *role, const json_t *text, const char *what)
{
    if (json_is_string(text)) return say(w, messages, role, json_incref((json_t *)(uintptr_t)text));
    char message[96];
    snprintf(message, sizeof message, "\"%.60s\" is not a text", what);
    return syi_record_bad(w, r, SY_E_INPUT, message);
}

/* -- roles and turns -------------------------------------------------------------------- */

static const char *our_role(const char *role)
{
    static const char *const same[][2] = {{"human", "user"}, {"gpt", "assistant"}, {"chatgpt", "assistant"}, {"bot", "assistant"}, {"model", "assistant"},
                                          {"observation", "tool"}, {"function_call", "assistant"}};
    for (int i = 0; i < SYI_COUNT(same); i++)
        if (strcmp(role, same[i][0]) == 0) return same[i][1];
    return role;
}

/* {"from", "value"} or {"role", "content"}, under any names; other keys go along. */
static sy_status turn(syi_worker *w, const syi_record *r, const json_t *m, json_t *messages, bool foreign)
{
    const char *role_key = w->o->fields.role ? key_of(w, ROLE) : foreign ? "from" : "role";
    const char *content_key = w->o->fields.content ? key_of(w, CONTENT) : foreign ? "value" : "content";
    const char *role = json_string_value(json_object_get(m, role_key)), *key;
    json_t *v, *copy = json_object();
    if (copy == NULL || json_array_append_new(messages, copy) != 0) return syi_nomem(w->ctx, 64);
    if (role == NULL) {
        char message[128];
        snprintf(message, sizeof message, "turn %zu has no text under \"%.60s\"", json_array_size(messages) - 1, role_key);
        return syi_record_bad(w, r, SY_E_INPUT, message);
    }
    json_object_foreach((json_t *)(uintptr_t)m, key, v)
        if (strcmp(key, role_key) != 0 && strcmp(key, content_key) != 0) SYI_TRY(put(w, copy, key, v));
    json_t *name = json_string(foreign ? our_role(role) : role);
    if (name == NULL || json_object_set_new(copy, "role", name) != 0) return syi_nomem(w->ctx, 64);
    v = json_object_get(m, content_key);
    return v != NULL ? put(w, copy, "content", v) : SY_OK;
}

static sy_status turns(syi_worker *w, const syi_record *r, const json_t *list, json_t *messages)
{
    if (!json_is_array(list) || json_array_size(list) == 0) return syi_record_bad(w, r, SY_E_INPUT, "a conversation is a list with at least one message");
    const json_t *first = json_array_get(list, 0);
    bool foreign = json_object_get(first, "from") != NULL && json_object_get(first, "role") == NULL;
    for (size_t i = 0; i < json_array_size(list); i++) SYI_TRY(turn(w, r, json_array_get(list, i), messages, foreign));
    return SY_OK;
}

/* Tools are a list, or a list as a text. */
static sy_status tools(syi_worker *w, const syi_record *r, const json_t *j, json_t *out)
{
    json_t *t = json_object_get(j, "tools"), *parsed = NULL;
    if (t == NULL || json_is_null(t)) return SY_OK;
    if (json_is_string(t) && json_string_length(t) == 0) return SY_OK;
    if (json_is_string(t)) t = parsed = json_loadb(json_string_value(t), json_string_length(t), 0, NULL);
    sy_status st = json_is_array(t) ? put(w, out, "tools", t) : syi_record_bad(w, r, SY_E_INPUT, "\"tools\" is not a list (nor the text of one)");
    json_decref(parsed);
    return st;
}

/* -- kinds ---------------------------------------------------------------------------------- */

static sy_status alpaca(syi_worker *w, const syi_record *r, const json_t *j, json_t *messages)
{
    const json_t *system = part(w, j, SYSTEM), *input = part(w, j, INPUT), *instruction = part(w, j, INSTRUCTION), *history = json_object_get(j, "history");
    if (json_is_string(system) && json_string_length(system) > 0) SYI_TRY(say_text(w, r, messages, "system", system, key_of(w, SYSTEM)));
    if (history != NULL && !json_is_null(history) && !json_is_array(history)) return syi_record_bad(w, r, SY_E_INPUT, "\"history\" is not a list of pairs");
    for (size_t i = 0; i < json_array_size(history); i++) {
        const json_t *pair = json_array_get(history, i);
        if (json_array_size(pair) != 2) return syi_record_bad(w, r, SY_E_INPUT, "\"history\" is not a list of pairs of texts");
        SYI_TRY(say_text(w, r, messages, "user", json_array_get(pair, 0), "history"));
        SYI_TRY(say_text(w, r, messages, "assistant", json_array_get(pair, 1), "history"));
    }
    if (!json_is_string(instruction)) return say_text(w, r, messages, "user", instruction, key_of(w, INSTRUCTION));
    if (input != NULL && !json_is_null(input) && !json_is_string(input)) return say_text(w, r, messages, "user", input, key_of(w, INPUT));
    if (json_string_length(input) > 0) {
        json_t *both = json_sprintf("%s\n%s", json_string_value(instruction), json_string_value(input));
        if (both == NULL) return syi_nomem(w->ctx, 64);
        SYI_TRY(say(w, messages, "user", both));
    } else {
        SYI_TRY(say_text(w, r, messages, "user", instruction, key_of(w, INSTRUCTION)));
    }
    return say_text(w, r, messages, "assistant", part(w, j, OUTPUT), key_of(w, OUTPUT));
}

/* The answer that is asked for, after the prompt. */
static sy_status preference(syi_worker *w, const syi_record *r, const json_t *j, json_t *out, json_t *messages)
{
    const json_t *prompt = part(w, j, PROMPT), *answer = part(w, j, w->o->preference == SY_PREFERENCE_REJECTED ? REJECTED : CHOSEN);
    if (json_is_string(answer)) {
        if (!json_is_string(prompt)) return syi_record_bad(w, r, SY_E_INPUT, "a preference record whose answers are texts needs the text of its \"prompt\"");
        SYI_TRY(put(w, out, "prompt", prompt));
        return put(w, out, "completion", answer);
    }
    const json_t *system = part(w, j, SYSTEM);
    if (json_is_string(system) && json_string_length(system) > 0) SYI_TRY(say_text(w, r, messages, "system", system, key_of(w, SYSTEM)));
    if (json_is_string(prompt)) SYI_TRY(say_text(w, r, messages, "user", prompt, key_of(w, PROMPT)));
    else if (prompt != NULL && !json_is_null(prompt)) SYI_TRY(turns(w, r, prompt, messages));
    json_t *one = json_is_object(answer) ? json_pack("[O]", answer) : NULL; /* one message stands alone */
    sy_status st = turns(w, r, one != NULL ? one : answer, messages);
    json_decref(one);
    return st;
}

/* -- which kind ---------------------------------------------------------------------------------- */

static bool among(const char *names, const char *key)
{
    size_t n = strlen(key);
    for (const char *at = names; at != NULL && *at != '\0'; at += strspn(at, " ")) {
        size_t len = strcspn(at, " ");
        if (len == n && memcmp(at, key, n) == 0) return true;
        at += len;
    }
    return false;
}

/* The first key that is not read: neither one of the fields nor among the names. */
static void note_extra(const syi_worker *w, const json_t *j, const int *used, int n, const char *also, syi_document *d)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)j, key, v)
    {
        bool known = among(also, key);
        for (int i = 0; i < n; i++) known |= strcmp(key, key_of(w, used[i])) == 0;
        if (!known && d->extra[0] == '\0') snprintf(d->extra, sizeof d->extra, "%s", key);
    }
}

static sy_status nothing_known(syi_worker *w, const syi_record *r, const json_t *j)
{
    char has[160] = "";
    size_t n = 0;
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)j, key, v)
        if (n < sizeof has) n += (size_t)snprintf(has + n, sizeof has - n, "%s\"%.40s\"", n > 0 ? ", " : "", key);
    return syi_fail(w->ctx, SY_E_INPUT, "%s:%lld: the record has none of \"%s\"; \"%s\" and \"%s\"; \"%s\"; \"%s\" and \"%s\"; \"conversations\"; "
                    "\"chosen\"%s%s. If it calls them otherwise, say so: --field-text NAME, --field-messages NAME, ...", w->path, (long long)r->line,
                    key_of(w, TEXT), key_of(w, PROMPT), key_of(w, COMPLETION), key_of(w, MESSAGES), key_of(w, INSTRUCTION), key_of(w, OUTPUT),
                    has[0] ? "; it has " : "; it is empty", has);
}

static syi_kind recognise(syi_worker *w, const json_t *j, int *fitting)
{
    bool mapped = w->o->fields.messages != NULL;
    bool text = part(w, j, TEXT), completion = part(w, j, COMPLETION), messages = part(w, j, MESSAGES),
         instruction = part(w, j, INSTRUCTION), conversations = !mapped && json_object_get(j, "conversations"),
         chosen = part(w, j, CHOSEN) || part(w, j, REJECTED);
    bool prompt = part(w, j, PROMPT) && !chosen && json_object_get(j, "completions") == NULL;
    *fitting = text + (prompt || completion) + messages + instruction + conversations + chosen;
    return text ? KIND_TEXT : messages ? KIND_MESSAGES : conversations ? KIND_SHAREGPT : instruction ? KIND_ALPACA : chosen ? KIND_PREFERENCE
           : prompt || completion ? KIND_PROMPT : KIND_NONE;
}

static sy_status pair(syi_worker *w, const syi_record *r, const json_t *j, syi_document *d, json_t *out, bool *skip)
{
    const json_t *prompt = part(w, j, PROMPT), *completion = part(w, j, COMPLETION), *label = json_object_get(j, "label");
    char message[160];
    if (prompt == NULL || completion == NULL) {
        snprintf(message, sizeof message, "\"%.40s\" without \"%.40s\"", key_of(w, prompt ? PROMPT : COMPLETION), key_of(w, prompt ? COMPLETION : PROMPT));
        return syi_record_bad(w, r, SY_E_INPUT, message);
    }
    if (label != NULL) { /* unpaired: good and bad completions */
        d->kind = KIND_PREFERENCE;
        if (w->o->preference == SY_PREFERENCE_REFUSED)
            return syi_record_bad(w, r, SY_E_UNSUPPORTED, "an unpaired preference record (\"label\"), whose bad completions must not be trained; "
                                  "--preference chosen trains the good ones");
        if (!json_is_boolean(label)) return syi_record_bad(w, r, SY_E_INPUT, "\"label\" is not true or false");
        *skip = json_is_true(label) != (w->o->preference == SY_PREFERENCE_CHOSEN);
    }
    SYI_TRY(put(w, out, "prompt", prompt));
    return put(w, out, "completion", completion);
}

static sy_status convert(syi_worker *w, const syi_record *r, const json_t *j, syi_document *d, json_t *out, bool *skip)
{
    static const int text[] = {TEXT}, both[] = {PROMPT, COMPLETION}, chat[] = {MESSAGES, SYSTEM}, task[] = {INSTRUCTION, INPUT, OUTPUT, SYSTEM},
                     choice[] = {PROMPT, CHOSEN, REJECTED, SYSTEM};
    int fitting;
    d->kind = recognise(w, j, &fitting);
    if (fitting > 1)
        return syi_record_bad(w, r, SY_E_INPUT, "the record has the keys of several kinds; a record is of one: {\"text\"}, {\"prompt\", \"completion\"}, "
                              "{\"messages\"}, {\"instruction\", \"input\", \"output\"}, {\"conversations\"} or {\"prompt\", \"chosen\", \"rejected\"}");
    if (d->kind == KIND_NONE && json_object_get(j, "completions") != NULL)
        return syi_record_bad(w, r, SY_E_UNSUPPORTED, "a stepwise record (\"completions\", \"labels\"), which is not used here");
    if (d->kind == KIND_NONE) return nothing_known(w, r, j);
    if (d->kind == KIND_TEXT) {
        note_extra(w, j, text, 1, NULL, d);
        return put(w, out, "text", part(w, j, TEXT));
    }
    if (d->kind == KIND_PROMPT) {
        note_extra(w, j, both, 2, "label", d);
        return pair(w, r, j, d, out, skip);
    }
    if (d->kind == KIND_PREFERENCE && w->o->preference == SY_PREFERENCE_REFUSED)
        return syi_record_bad(w, r, SY_E_UNSUPPORTED, "a preference record (\"chosen\", \"rejected\"), of which training on answers knows only one; "
                              "--preference chosen trains the chosen ones");
    json_t *messages = json_array();
    if (messages == NULL || json_object_set_new(out, "messages", messages) != 0) return syi_nomem(w->ctx, 64);
    SYI_TRY(tools(w, r, j, out));
    if (d->kind == KIND_ALPACA) {
        note_extra(w, j, task, 4, "history tools", d);
        return alpaca(w, r, j, messages);
    }
    if (d->kind == KIND_PREFERENCE) {
        note_extra(w, j, choice, 4, "tools", d);
        SYI_TRY(preference(w, r, j, out, messages));
        if (json_object_get(out, "prompt") != NULL) json_object_del(out, "messages");
        return SY_OK;
    }
    note_extra(w, j, chat, 2, d->kind == KIND_SHAREGPT ? "conversations tools" : "tools", d);
    const json_t *system = part(w, j, SYSTEM);
    if (json_is_string(system) && json_string_length(system) > 0) SYI_TRY(say_text(w, r, messages, "system", system, key_of(w, SYSTEM)));
    return turns(w, r, d->kind == KIND_SHAREGPT ? json_object_get(j, "conversations") : part(w, j, MESSAGES), messages);
}

sy_status syi_record_convert(syi_worker *w, const syi_record *r, const json_t *j, syi_document *d, json_t **out)
{
    bool skip = false;
    *out = json_object();
    if (*out == NULL) return syi_nomem(w->ctx, 64);
    sy_status st = convert(w, r, j, d, *out, &skip);
    if (st == SY_OK && !skip) return SY_OK;
    json_decref(*out);
    *out = NULL;
    return st;
}
