/* SPDX-License-Identifier: Apache-2.0 */
/* What inspect says besides the list of tensors: summaries of model, adapter, tokenizer and
 * run, and where they come from. Everything from headers and small JSON files. */
#include "run/inspect.h"

#include <stdlib.h>

static void put_string(json_t *j, const char *key, const char *value)
{
    if (value != NULL && *value != '\0') json_object_set_new(j, key, json_string(value));
}

/* Copies what is there and says something. */
static void take(json_t *to, const json_t *from, const char *const *keys)
{
    for (; *keys != NULL; keys++) {
        json_t *v = json_object_get(from, *keys);
        if (v == NULL || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0)) continue;
        if ((json_is_object(v) && json_object_size(v) == 0) || (json_is_array(v) && json_array_size(v) == 0)) continue;
        json_object_set(to, *keys, v);
    }
}

static int64_t numbers_of(const sy_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++)
        if (!syi_size_mul(n, e->dim[i], &n)) return 0;
    return n;
}

/* -- adapters --------------------------------------------------------------------------- */

json_t *syi_inspect_adapter(const json_t *config, const sy_checkpoint *ck)
{
    static const char *const keys[] = {"peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "use_dora", "bias",
                                       "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "rank_pattern", "alpha_pattern",
                                       "init_lora_weights", "lora_dropout", NULL};
    json_t *j = json_object(), *slots = json_object();
    int64_t numbers = 0, bytes = 0, modules = 0, low = INT64_MAX, high = 0;
    take(j, config, keys);
    for (int64_t i = 0; i < sy_checkpoint_count(ck); i++) {
        const sy_entry *e = sy_checkpoint_at(ck, i);
        const size_t len = strlen(e->name);
        const char *slot = e->name + len - (syi_ends(e->name, ".weight") ? 7 : 0);
        while (slot > e->name && slot[-1] != '.') slot--; /* "lora_A.weight", "vera_lambda_b", "weight.lora_a" */
        json_object_set_new(slots, slot, json_integer(json_integer_value(json_object_get(slots, slot)) + 1));
        numbers += numbers_of(e);
        bytes += e->bytes;
        if ((strstr(slot, "lora_A") == slot || strcmp(slot, "lora_a") == 0) && e->rank == 2) {
            low = syi_min(low, e->dim[0]);
            high = syi_max(high, e->dim[0]);
            modules++;
        }
    }
    if (modules > 0) {
        json_object_set_new(j, "modules", json_integer(modules));
        json_object_set_new(j, "lowest_rank", json_integer(low));
        json_object_set_new(j, "highest_rank", json_integer(high));
    }
    json_object_set_new(j, "stored_numbers", json_integer(numbers));
    json_object_set_new(j, "stored_bytes", json_integer(bytes));
    json_object_set_new(j, "tensors_by_slot", slots);
    return j;
}

/* -- tokenizers --------------------------------------------------------------------------- */

/* "Sequence(Digits, ByteLevel)" */
static void component(const json_t *j, syi_text *t)
{
    static const char *const lists[] = {"pretokenizers", "normalizers", "processors", "decoders"};
    const char *type = json_string_value(json_object_get(j, "type"));
    json_t *one;
    size_t i;
    syi_text_puts(t, type != NULL ? type : "?");
    for (int k = 0; k < SYI_COUNT(lists); k++) {
        json_t *list = json_object_get(j, lists[k]);
        if (!json_is_array(list)) continue;
        syi_text_puts(t, "(");
        json_array_foreach(list, i, one) {
            if (i > 0) syi_text_puts(t, ", ");
            component(one, t);
        }
        syi_text_puts(t, ")");
    }
}

static json_t *token_text(const json_t *config, const char *key)
{
    json_t *v = json_object_get(config, key);
    if (json_is_object(v)) v = json_object_get(v, "content");
    return json_is_string(v) ? json_incref(v) : NULL;
}

json_t *syi_inspect_tokenizer(sy_context *ctx, const json_t *tokenizer, const json_t *config, const char *chat_template)
{
    static const char *const parts[] = {"normalizer", "pre_tokenizer", "post_processor", "decoder"};
    static const char *const tokens[] = {"bos_token", "eos_token", "pad_token", "unk_token"};
    if (tokenizer == NULL) return NULL;
    json_t *j = json_object(), *added = json_object_get(tokenizer, "added_tokens"), *one;
    const json_t *model = json_object_get(tokenizer, "model"), *vocab = json_object_get(model, "vocab");
    const char *type = json_string_value(json_object_get(model, "type"));
    size_t i, special = 0;
    json_array_foreach(added, i, one) special += json_is_true(json_object_get(one, "special"));
    put_string(j, "model", type != NULL ? type : json_object_get(model, "merges") != NULL ? "BPE" : "unknown");
    json_object_set_new(j, "vocabulary", json_integer((json_int_t)(json_is_array(vocab) ? json_array_size(vocab) : json_object_size(vocab))));
    if (json_is_array(json_object_get(model, "merges"))) json_object_set_new(j, "merges", json_integer((json_int_t)json_array_size(json_object_get(model, "merges"))));
    if (json_is_true(json_object_get(model, "byte_fallback"))) json_object_set_new(j, "byte_fallback", json_true());
    json_object_set_new(j, "added_tokens", json_integer((json_int_t)json_array_size(added)));
    json_object_set_new(j, "special_tokens", json_integer((json_int_t)special));
    for (int k = 0; k < SYI_COUNT(parts); k++) {
        json_t *part = json_object_get(tokenizer, parts[k]);
        if (!json_is_object(part)) continue;
        syi_text t;
        syi_text_init(&t, ctx, 1 << 20);
        component(part, &t);
        put_string(j, parts[k], t.failed ? NULL : t.s);
        syi_text_free(&t);
    }
    for (int k = 0; k < SYI_COUNT(tokens); k++) {
        json_t *v = token_text(config, tokens[k]);
        if (v != NULL) json_object_set_new(j, tokens[k], v);
    }
    json_object_set_new(j, "chat_template_bytes", json_integer(chat_template != NULL ? (json_int_t)strlen(chat_template) : 0));
    return j;
}

/* -- models --------------------------------------------------------------------------------- */

static const char *part_of(const char *name)
{
    if (strstr(name, "embed_tokens") != NULL || strstr(name, "token_embd") != NULL || strstr(name, "embeddings.") != NULL || strstr(name, "wte.") != NULL ||
        strstr(name, "wpe.") != NULL)
        return "embedding";
    if (strstr(name, "lm_head") != NULL || strcmp(name, "output.weight") == 0 || strstr(name, "classifier") != NULL) return "head";
    for (const char *p = name; *p != '\0'; p++)
        if ((p == name || p[-1] == '.') && *p >= '0' && *p <= '9') return "blocks";
    return "other";
}

json_t *syi_inspect_model(const syi_source *s)
{
    static const char *const keys[] = {"model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
                                       "head_dim", "vocab_size", "max_position_embeddings", "sliding_window", "rope_theta", "tie_word_embeddings",
                                       "quantization_config", NULL};
    json_t *j = json_object(), *parts = json_object();
    int64_t numbers = 0, bytes = 0;
    take(j, s->config, keys);
    for (int64_t i = 0; i < sy_checkpoint_count(s->tensors); i++) {
        const sy_entry *e = sy_checkpoint_at(s->tensors, i);
        const char *part = part_of(e->name);
        const int64_t n = numbers_of(e);
        json_object_set_new(parts, part, json_integer(json_integer_value(json_object_get(parts, part)) + n));
        numbers += n;
        bytes += e->bytes;
    }
    json_object_set_new(j, "parameters_by_part", parts);
    if (numbers > 0) json_object_set_new(j, "bits_per_parameter", json_real(8.0 * (double)bytes / (double)numbers));
    return j;
}

/* -- where it comes from ---------------------------------------------------------------------- */

enum { SMALL_FILE = 4 << 20 };

static bool read_small(sy_context *ctx, const char *dir, const char *name, json_t **out)
{
    char *path = syi_join(ctx, dir, name);
    const int64_t size = path != NULL ? syi_file_size(path) : -1;
    *out = NULL;
    const sy_status status = size >= 0 && size <= SMALL_FILE ? syi_json_read(ctx, path, out) : SY_OK;
    if (status != SY_OK && status != SY_E_MEMORY) { /* said, not fatal: the tensors are what was asked for */
        syi_log(ctx, SY_LOG_WARN, "%s", sy_error_message(ctx));
        sy_error_clear(ctx);
    }
    syi_free(ctx, path);
    return *out != NULL;
}

static void put_files(sy_context *ctx, const char *dir, json_t *j)
{
    char **names = NULL;
    int n = 0;
    json_t *files = json_object();
    const sy_status status = syi_list_dir(ctx, dir, &names, &n);
    if (status != SY_OK && status != SY_E_MEMORY) sy_error_clear(ctx);
    for (int i = 0; i < n; i++) {
        char *path = syi_join(ctx, dir, names[i]);
        if (path != NULL && i < 1000) json_object_set_new(files, names[i], syi_is_dir(path) ? json_string("folder") : json_integer(syi_file_size(path)));
        syi_free(ctx, path);
        syi_free(ctx, names[i]);
    }
    syi_free(ctx, names);
    json_object_set_new(j, "files", files);
}

json_t *syi_inspect_provenance(sy_context *ctx, const char *path, const json_t *config, const sy_checkpoint *tensors)
{
    static const char *const keys[] = {"_name_or_path", "transformers_version", "peft_version", "base_model_name_or_path", "revision", NULL};
    static const char *const meta[] = {"format", "general.name", "general.author", "general.organization", "general.license", "general.source.url",
                                       "general.base_model.0.name", "general.base_model.0.repo_url", "general.quantized_by", "general.description"};
    static const char *const receipt_keys[] = {"steelyard", "verb", "model", "data", "adapter", "receipt", "seconds", NULL};
    json_t *j = json_object(), *receipt = NULL;
    take(j, config, keys);
    for (int i = 0; i < SYI_COUNT(meta); i++) put_string(j, meta[i], sy_checkpoint_meta(tensors, meta[i]));
    if (!syi_is_dir(path)) {
        json_object_set_new(j, "file_bytes", json_integer(syi_file_size(path)));
        return j;
    }
    if (read_small(ctx, path, "receipt.json", &receipt)) {
        json_t *r = json_object();
        take(r, receipt, receipt_keys);
        json_object_set_new(j, "receipt", r);
    }
    json_decref(receipt);
    put_files(ctx, path, j);
    return j;
}

/* -- runs ------------------------------------------------------------------------------------- */

/* The number of "checkpoint-N", or -1. */
static int64_t checkpoint_step(const char *name)
{
    if (!syi_starts(name, "checkpoint-")) return -1;
    const char *digits = name + strlen("checkpoint-");
    const size_t n = strspn(digits, "0123456789");
    if (n == 0 || n > 15 || digits[n] != '\0') return -1;
    int64_t v = 0;
    for (size_t i = 0; i < n; i++) v = v * 10 + (digits[i] - '0');
    return v;
}

sy_status syi_inspect_run(sy_context *ctx, const char *path, json_t **out, char **weights)
{
    static const char *const settings[] = {"model", "data", "adapter", "optimizer", "objective", "trainer", "method", "steps", "batch", "seq", "lr", "rank",
                                           "alpha", "seed", NULL};
    static const char *const state_keys[] = {"step", "tokens", "loss", "eval_loss", "best_loss", "best_step", "seconds", NULL};
    static const char *const result_keys[] = {"steps", "loss", "eval_loss", "perplexity", "tokens", "seconds", "trained_parameters", NULL};
    char *file = syi_join(ctx, path, SYI_SETTINGS_FILE), **names = NULL;
    json_t *yaml = NULL, *j = NULL, *state = NULL, *receipt = NULL;
    int n = 0;
    int64_t newest = -1;
    *out = NULL;
    *weights = NULL;
    if (file == NULL) return sy_error_code(ctx);
    if (!syi_exists(file)) {
        syi_free(ctx, file);
        return SY_OK;
    }
    sy_status status = syi_yaml_load(ctx, file, &yaml);
    syi_free(ctx, file);
    if (status != SY_OK) return status;
    j = json_object();
    take(j, yaml, settings);
    json_decref(yaml);
    json_t *list = json_array();
    SYI_TRY_TO(done, status, syi_list_dir(ctx, path, &names, &n));
    for (int i = 0; i < n; i++) {
        const int64_t step = checkpoint_step(names[i]);
        newest = syi_max(newest, step);
        if (step >= 0) json_array_append_new(list, json_integer(step));
        syi_free(ctx, names[i]);
    }
    syi_free(ctx, names);
    if (newest >= 0) {
        char name[64];
        snprintf(name, sizeof name, "checkpoint-%lld", (long long)newest);
        char *last = syi_join(ctx, path, name);
        if (last != NULL && read_small(ctx, last, "run_state.json", &state)) {
            json_t *at = json_object();
            take(at, state, state_keys);
            json_object_set_new(j, "newest_checkpoint", at);
        }
        *weights = last;
    }
    const bool complete = read_small(ctx, path, "receipt.json", &receipt);
    if (complete) {
        json_t *at = json_object();
        take(at, json_object_get(receipt, "result"), result_keys);
        json_object_set_new(j, "result", at);
    }
    json_object_set_new(j, "complete", json_boolean(complete));
done:
    json_object_set_new(j, "checkpoints", list);
    json_decref(state);
    json_decref(receipt);
    *out = j;
    return status;
}
