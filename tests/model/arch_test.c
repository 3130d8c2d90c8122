/* SPDX-License-Identifier: Apache-2.0 */
/* Architectures: config values from both spellings, what is refused and how, names
 * against GGUF, and the topology rows against the tensors that they speak of. */
#include "support/folder.h"

#include "base/registry.h"
#include "io/source.h"
#include "model/decoder.h"
#include "model/model.h"

static const sy_arch *arch_named(const char *name)
{
    for (int i = 0; syi_archs[i] != NULL; i++)
        if (strcmp(syi_archs[i]->name, name) == 0) return syi_archs[i];
    fail_msg("no architecture %s", name);
    return NULL;
}

#define BASE "\"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"intermediate_size\": 96, \"vocab_size\": 100"

/* The config of an architecture from JSON: the status, and the struct in `c`. */
static sy_status config_of(test_folder *f, const char *arch, const char *more, syi_decoder_config *c)
{
    char text[2048];
    json_t *j = NULL;
    syi_arena *arena = NULL;
    void *made = NULL;
    snprintf(text, sizeof text, "{" BASE "%s%s}", more[0] != '\0' ? ", " : "", more);
    /* a later value of the same key wins, so that rows of a test can override BASE */
    j = json_loads(text, 0, NULL);
    assert_non_null(j);
    assert_int_equal(syi_arena_new(f->ctx, 4096, &arena), SY_OK);
    const sy_status status = syi_arch_config(f->ctx, arch_named(arch), j, arena, &made);
    if (status == SY_OK) memcpy(c, made, sizeof *c);
    if (status == SY_OK) c->rope_type = strcmp(c->rope_type, "llama3") == 0 ? "llama3" : strcmp(c->rope_type, "linear") == 0 ? "linear" : "default";
    syi_arena_free(arena);
    json_decref(j);
    return status;
}

static void values(void **state)
{
    test_folder *f = *state;
    syi_decoder_config c;
    assert_int_equal(config_of(f, "llama", "", &c), SY_OK);
    assert_true(c.kv_heads == 4 && c.head_dim == 16 && c.query_heads == 1 && c.rope_theta == 10000 && c.norm_eps == 1e-6);
    assert_true(!c.tied && !c.qkv_bias && !c.qk_norm && c.sliding_window == 0);
    assert_int_equal(config_of(f, "llama", "\"attention_bias\": true, \"num_key_value_heads\": 2, \"head_dim\": 32, \"tie_word_embeddings\": true", &c), SY_OK);
    assert_true(c.qkv_bias && c.o_bias && c.tied && c.kv_heads == 2 && c.query_heads == 2 && c.head_dim == 32);
    assert_int_equal(config_of(f, "qwen2", "\"sliding_window\": 8, \"use_sliding_window\": false", &c), SY_OK);
    assert_true(c.qkv_bias && !c.o_bias && c.sliding_window == 0);
    assert_int_equal(config_of(f, "qwen3", "", &c), SY_OK);
    assert_true(c.qk_norm && !c.qkv_bias && c.head_dim == 128);
    assert_int_equal(config_of(f, "mistral", "", &c), SY_OK);
    assert_int_equal(c.sliding_window, 4096); /* its default */
    assert_int_equal(config_of(f, "mistral", "\"sliding_window\": null", &c), SY_OK);
    assert_int_equal(c.sliding_window, 0);
}

static void rope_spellings(void **state)
{
    test_folder *f = *state;
    static const char *const same[] = {
        "\"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.5, \"high_freq_factor\": 5.0, "
        "\"original_max_position_embeddings\": 8192}",
        "\"rope_parameters\": {\"rope_theta\": 500000.0, \"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.5, \"high_freq_factor\": 5.0, "
        "\"original_max_position_embeddings\": 8192}",
    };
    for (int i = 0; i < 2; i++) {
        syi_decoder_config c;
        assert_int_equal(config_of(f, "llama", same[i], &c), SY_OK);
        assert_true(c.rope_theta == 500000 && c.rope_factor == 8 && c.rope_low_freq == 1.5 && c.rope_high_freq == 5 && c.rope_original_context == 8192);
        assert_string_equal(c.rope_type, "llama3");
    }
    syi_decoder_config c;
    assert_int_equal(config_of(f, "llama", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}", &c), SY_OK);
    assert_true(strcmp(c.rope_type, "linear") == 0 && c.rope_factor == 2);
}

static void refused(void **state)
{
    test_folder *f = *state;
    static const struct { const char *more; sy_status status; const char *says; } rows[] = {
        {"\"hidden_size\": 0", SY_E_INPUT, "hidden_size"},
        {"\"hidden_size\": 65", SY_E_INPUT, "multiple of 4 heads"},
        {"\"num_attention_heads\": 0", SY_E_INPUT, "num_attention_heads"},
        {"\"num_key_value_heads\": 3", SY_E_INPUT, "evenly"},
        {"\"num_key_value_heads\": 8", SY_E_INPUT, "num_key_value_heads"},
        {"\"num_hidden_layers\": -1", SY_E_INPUT, "num_hidden_layers"},
        {"\"vocab_size\": 1e30", SY_E_INPUT, "vocab_size"},
        {"\"vocab_size\": null", SY_E_INPUT, "vocab_size"},
        {"\"vocab_size\": \"many\"", SY_E_INPUT, "vocab_size"},
        {"\"head_dim\": 15", SY_E_INPUT, "odd"},
        {"\"rms_norm_eps\": -1", SY_E_INPUT, "rms_norm_eps"},
        {"\"rope_theta\": 0", SY_E_INPUT, "rope_theta"},
        {"\"hidden_act\": \"mish\"", SY_E_UNSUPPORTED, "\"mish\""},
        {"\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}", SY_E_UNSUPPORTED, "\"yarn\""},
        {"\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 0.5}", SY_E_INPUT, "factor"},
        {"\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}", SY_E_INPUT, "original_max_position_embeddings"},
        {"\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4}", SY_E_INPUT, "low_freq_factor"},
        {"\"quantization_config\": {\"quant_method\": \"gptq\"}", SY_E_UNSUPPORTED, "gptq"},
        {"\"partial_rotary_factor\": 0.5", SY_E_UNSUPPORTED, "partial_rotary_factor"},
    };
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        syi_decoder_config c;
        assert_int_equal(config_of(f, "llama", rows[i].more, &c), rows[i].status);
        if (strstr(sy_error_message(f->ctx), rows[i].says) == NULL) fail_msg("\"%s\" does not say \"%s\"", sy_error_message(f->ctx), rows[i].says);
    }
}

static void names(void **state)
{
    (void)state;
    char out[SYI_MODEL_NAME_MAX];
    const sy_arch *llama = arch_named("llama");
    const sy_arch_tensor *row = syi_name_to_gguf(llama, "model.layers.12.self_attn.q_proj.weight", out);
    assert_non_null(row);
    assert_string_equal(out, "blk.12.attn_q.weight");
    assert_true(row->role == SY_ROLE_Q && (row->flags & SY_TENSOR_PERMUTE_Q));
    assert_int_equal(syi_name_to_gguf(arch_named("qwen2"), "model.layers.12.self_attn.q_proj.weight", out)->flags & SY_TENSOR_PERMUTE_Q, 0);
    static const char *const wrong[] = {"model.layers.01.mlp.up_proj.weight", "model.layers..mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weightx",
                                        "model.layers.-1.mlp.up_proj.weight", "model.layers.1234567.mlp.up_proj.weight", "model.layers.%d.mlp.up_proj.weight",
                                        "lm_head", ""};
    for (int i = 0; i < SYI_COUNT(wrong); i++) assert_null(syi_name_to_gguf(llama, wrong[i], out));
    for (int a = 0; syi_archs[a] != NULL; a++) { /* there and back */
        for (const sy_arch_tensor *t = syi_archs[a]->tensors; t->name != NULL; t++) {
            char hf[SYI_MODEL_NAME_MAX], gguf[SYI_MODEL_NAME_MAX];
            if (t->gguf == NULL) continue;
            const char *hole = strstr(t->name, "%d");
            snprintf(hf, sizeof hf, "%.*s%s%s", hole != NULL ? (int)(hole - t->name) : (int)strlen(t->name), t->name, hole != NULL ? "7" : "",
                     hole != NULL ? hole + 2 : "");
            assert_ptr_equal(syi_name_to_gguf(syi_archs[a], hf, gguf), t);
            assert_ptr_equal(syi_name_from_gguf(syi_archs[a], gguf, out), t);
            assert_string_equal(out, hf);
        }
    }
    assert_ptr_equal(syi_arch_of_gguf("llama"), llama);
    assert_ptr_equal(syi_arch_of_gguf("bert"), arch_named("bert"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(values), folder_test(rope_spellings), folder_test(refused), cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
