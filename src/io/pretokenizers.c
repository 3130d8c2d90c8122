/* SPDX-License-Identifier: Apache-2.0 */
/* `tokenizer.ggml.pre`: GGUF stores a name where tokenizer.json stores what is to be
 * done. One row a name, with what it stands for; writing looks a tokenizer.json up
 * in the same rows. Names that are not here are refused: a wrong pre-tokenizer
 * gives other tokens than the model was trained on, without any sign of it. */
#include "source.h"

#define BYTES(use_regex) "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":" use_regex "}"
#define SPLIT(regex) "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define SEQUENCE(a, b) "{\"type\":\"Sequence\",\"pretokenizers\":[" a "," b "]}"
#define DIGITS "{\"type\":\"Digits\",\"individual_digits\":true}"

/* Parts of the patterns that came after GPT-2's; escaped for JSON. */
#define SUFFIXES "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORDS "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+"
#define REST "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define REST_SLASH "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define UPPER "[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define LOWER "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define BEFORE "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?"
#define CASED(suffix) BEFORE UPPER "*" LOWER "+" suffix "|" BEFORE UPPER "+" LOWER "*" suffix

static const syi_pre_row rows[] = {
    {"gpt-2 default", BYTES("true"), NULL, false, false},
    {"smollm starcoder refact codeshell", SEQUENCE(DIGITS, BYTES("true")), NULL, false, false},
    {"llama-bpe llama3 llama-v3", SEQUENCE(SPLIT(SUFFIXES "|" WORDS "|\\\\p{N}{1,3}" REST), BYTES("false")), NULL, true, true},
    {"qwen2 deepseek-r1-qwen", SEQUENCE(SPLIT(SUFFIXES "|" WORDS "|\\\\p{N}" REST), BYTES("false")), "{\"type\":\"NFC\"}", false, false},
    {"tekken", SEQUENCE(SPLIT(CASED("") "|\\\\p{N}" REST_SLASH), BYTES("false")), NULL, true, true},
    {"gpt-4o", SEQUENCE(SPLIT(CASED(SUFFIXES "?") "|\\\\p{N}{1,3}" REST_SLASH), BYTES("false")), NULL, false, false},
};

const syi_pre_row *syi_pre_by_name(const char *name)
{
    const size_t len = strlen(name);
    for (int i = 0; i < SYI_COUNT(rows); i++)
        for (const char *p = rows[i].names; *p != '\0';) {
            const size_t n = strcspn(p, " ");
            if (n == len && memcmp(p, name, n) == 0) return &rows[i];
            p += n;
            p += strspn(p, " ");
        }
    return NULL;
}

void syi_pre_name(const syi_pre_row *row, char out[32])
{
    snprintf(out, 32, "%.*s", (int)strcspn(row->names, " "), row->names);
}

void syi_pre_list(syi_text *out)
{
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        char name[32];
        syi_pre_name(&rows[i], name);
        syi_text_printf(out, "%s%s", i > 0 ? ", " : "", name);
    }
}

static bool flag(const json_t *j, const char *key, bool def)
{
    const json_t *v = json_object_get(j, key);
    return json_is_boolean(v) ? json_is_true(v) : def;
}

/* The one pattern of a Split, or NULL. */
static const char *regex_of(const json_t *split)
{
    return json_string_value(json_object_get(json_object_get(split, "pattern"), "Regex"));
}

/* Do two pre-tokenizers cut alike? What changes only offsets is left out. */
static bool same(const json_t *a, const json_t *b)
{
    const json_t *list_a = json_object_get(a, "pretokenizers"), *list_b = json_object_get(b, "pretokenizers");
    if (json_array_size(list_a) == 1 && list_b == NULL) return same(json_array_get(list_a, 0), b);
    const char *type_a = json_string_value(json_object_get(a, "type")), *type_b = json_string_value(json_object_get(b, "type"));
    if (type_a == NULL || type_b == NULL || strcmp(type_a, type_b) != 0) return false;
    if (strcmp(type_a, "Sequence") == 0) {
        if (json_array_size(list_a) != json_array_size(list_b)) return false;
        for (size_t i = 0; i < json_array_size(list_a); i++)
            if (!same(json_array_get(list_a, i), json_array_get(list_b, i))) return false;
        return true;
    }
    if (strcmp(type_a, "Digits") == 0) return flag(a, "individual_digits", false) == flag(b, "individual_digits", false);
    if (strcmp(type_a, "ByteLevel") == 0)
        return flag(a, "use_regex", true) == flag(b, "use_regex", true) && flag(a, "add_prefix_space", true) == flag(b, "add_prefix_space", true);
    if (strcmp(type_a, "Split") == 0) {
        const char *x = regex_of(a), *y = regex_of(b);
        const char *how_a = json_string_value(json_object_get(a, "behavior")), *how_b = json_string_value(json_object_get(b, "behavior"));
        return x != NULL && y != NULL && strcmp(x, y) == 0 && how_a != NULL && how_b != NULL && strcmp(how_a, how_b) == 0 &&
               flag(a, "invert", false) == flag(b, "invert", false);
    }
    return json_equal(a, b);
}

const syi_pre_row *syi_pre_of(const json_t *tokenizer)
{
    const json_t *pre = json_object_get(tokenizer, "pre_tokenizer");
    const bool ignore_merges = flag(json_object_get(tokenizer, "model"), "ignore_merges", false);
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        json_t *row = json_loads(rows[i].pre_tokenizer, 0, NULL);
        const bool found = row != NULL && same(pre, row) && ignore_merges == rows[i].ignore_merges;
        json_decref(row);
        if (found) return &rows[i];
    }
    return NULL;
}
