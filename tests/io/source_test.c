/* SPDX-License-Identifier: Apache-2.0 */
/* Models from GGUF and from folders, and written as either: names, order of rows,
 * config, tokenizer, what is refused, what an interruption leaves (nothing). */
#include "tiny.h"

#include "steelyard/model.h"

#include "support/folder.h"
#include "support/scratch.h"
#include "support/torture.h"

#include <unistd.h>

static syi_source *open_source(sy_context *ctx, const char *path)
{
    syi_source *s = NULL;
    if (syi_source_open(ctx, path, true, &s) != SY_OK) fail_msg("%s", sy_error_message(ctx));
    return s;
}

static void refused(sy_context *ctx, const char *path, sy_status status, const char *says)
{
    syi_source *s = NULL;
    assert_int_equal(syi_source_open(ctx, path, true, &s), status);
    assert_null(s);
    if (strstr(sy_error_message(ctx), says) == NULL) fail_msg("\"%s\" does not say \"%s\"", sy_error_message(ctx), says);
}

static double number(const json_t *j, const char *key) { return json_number_value(json_object_get(j, key)); }
static const char *text(const json_t *j, const char *key) { return json_string_value(json_object_get(j, key)); }

static void from_gguf(void **state)
{
    test_folder *f = *state;
    char path[512];
    tiny_gguf(f->ctx, in_folder(f, path, "t.gguf"), &(tiny_options){.pre = "smollm"});
    syi_source *s = open_source(f->ctx, path);
    assert_true(s->gguf);
    assert_string_equal(s->arch->name, "llama");
    assert_int_equal(sy_checkpoint_count(s->tensors), SYI_COUNT(tiny));
    tiny_check(f->ctx, s->tensors);
    const json_t *c = s->config;
    assert_true(number(c, "hidden_size") == TINY_HIDDEN && number(c, "num_hidden_layers") == 1 && number(c, "num_attention_heads") == TINY_HEADS);
    assert_true(number(c, "num_key_value_heads") == TINY_KV && number(c, "intermediate_size") == TINY_FFN && number(c, "vocab_size") == TINY_VOCAB);
    assert_true(number(c, "head_dim") == TINY_DIM && number(c, "max_position_embeddings") == 32);
    assert_true(number(c, "rms_norm_eps") == 1e-5 && number(c, "rope_theta") == 500000); /* decimals, not their f32 */
    assert_true(json_is_true(json_object_get(c, "tie_word_embeddings")) && json_is_false(json_object_get(c, "attention_bias")));
    assert_string_equal(text(c, "model_type"), "llama");
    assert_true(number(c, "bos_token_id") == 0 && number(c, "eos_token_id") == 2);
    assert_int_equal(json_array_size(json_object_get(s->generation, "eos_token_id")), 2);
    assert_string_equal(s->chat_template, "{{ messages }}");
    char hash[33], again[33];
    assert_int_equal(syi_source_hash(s, hash), SY_OK);
    assert_int_equal(syi_source_hash(s, again), SY_OK);
    assert_string_equal(hash, again);
    syi_source_close(s);
}

static void tokenizer_from_gguf(void **state)
{
    test_folder *f = *state;
    char path[512];
    tiny_gguf(f->ctx, in_folder(f, path, "t.gguf"), &(tiny_options){.pre = "smollm"});
    syi_source *s = open_source(f->ctx, path);
    assert_int_equal(syi_source_tokenizer(s), SY_OK);
    const json_t *model = json_object_get(s->tokenizer, "model"), *added = json_object_get(s->tokenizer, "added_tokens");
    assert_int_equal(json_object_size(json_object_get(model, "vocab")), 5); /* without the filler */
    assert_int_equal(json_integer_value(json_object_get(json_object_get(model, "vocab"), "ab")), 3);
    assert_string_equal(json_string_value(json_array_get(json_array_get(json_object_get(model, "merges"), 0), 1)), "b");
    assert_int_equal(json_array_size(added), 2);
    assert_true(json_is_true(json_object_get(json_array_get(added, 0), "special")));
    assert_true(json_is_false(json_object_get(json_array_get(added, 1), "special")));
    const json_t *pre = json_object_get(json_object_get(s->tokenizer, "pre_tokenizer"), "pretokenizers");
    assert_string_equal(text(json_array_get(pre, 0), "type"), "Digits");
    assert_string_equal(text(json_object_get(s->tokenizer, "post_processor"), "type"), "TemplateProcessing");
    assert_string_equal(text(s->tokenizer_config, "bos_token"), "<s>");
    assert_string_equal(text(s->tokenizer_config, "eos_token"), "b");
    syi_source_close(s);
}

static void refused_gguf(void **state)
{
    test_folder *f = *state;
    char path[512];
    in_folder(f, path, "t.gguf");
    tiny_gguf(f->ctx, path, &(tiny_options){.pre = "martian"});
    refused(f->ctx, path, SY_E_UNSUPPORTED, "\"martian\"");
    syi_source *s = NULL;
    assert_int_equal(syi_source_open(f->ctx, path, false, &s), SY_OK); /* looking is allowed */
    assert_null(s->tokenizer);
    syi_source_close(s);
    tiny_gguf(f->ctx, path, &(tiny_options){.pre = "smollm", .duplicate = true});
    refused(f->ctx, path, SY_E_INPUT, "twice");
    tiny_gguf(f->ctx, path, &(tiny_options){.rename = "blk.0.ffn_up.weight"});
    refused(f->ctx, path, SY_E_UNSUPPORTED, "blk.0.strange.weight");
    tiny_gguf(f->ctx, path, &(tiny_options){.no_heads = true});
    refused(f->ctx, path, SY_E_INPUT, "num_attention_heads");
    tiny_gguf(f->ctx, path, &(tiny_options){.rope = true, .wrong_rope = true});
    refused(f->ctx, path, SY_E_UNSUPPORTED, "rope_freqs");
    tiny_gguf(f->ctx, path, &(tiny_options){.head = true, .rope = true});
    s = open_source(f->ctx, path);
    assert_true(json_is_false(json_object_get(s->config, "tie_word_embeddings")));
    assert_non_null(sy_checkpoint_find(s->tensors, "lm_head.weight"));
    assert_string_equal(text(json_object_get(s->config, "rope_scaling"), "rope_type"), "llama3");
    syi_source_close(s);
}

static void refused_folders(void **state)
{
    test_folder *f = *state;
    static const struct { const char *config; sy_status status; const char *says; } rows[] = {
        {NULL, SY_E_INPUT, "no config.json"},
        {"{\"model_type\": \"mamba\"}", SY_E_UNSUPPORTED, "\"mamba\""},
        {"{\"model_type\": \"mamba\"}", SY_E_UNSUPPORTED, "llama"},
        {"{}", SY_E_UNSUPPORTED, "none stated"},
        {"[]", SY_E_INPUT, "object"},
        {"{\"a\": 1, \"a\": 2}", SY_E_INPUT, "duplicate"},
        {"{\"model_type\": \"llama\"}", SY_E_INPUT, "no weights"},
    };
    char path[512];
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        if (rows[i].config != NULL) scratch_write(in_folder(f, path, "config.json"), rows[i].config, strlen(rows[i].config));
        refused(f->ctx, f->dir, rows[i].status, rows[i].says);
    }
    assert_int_equal(remove(in_folder(f, path, "config.json")), 0);
    scratch_write(in_folder(f, path, "adapter_config.json"), "{}", 2);
    refused(f->ctx, f->dir, SY_E_INPUT, "adapter");
    refused(f->ctx, in_folder(f, path, "nowhere"), SY_E_INPUT, "no such file");
}

static void round_trip(void **state)
{
    test_folder *f = *state;
    char gguf[512], folder[512], again[512], back[512];
    tiny_gguf(f->ctx, in_folder(f, gguf, "t.gguf"), &(tiny_options){.pre = "llama-bpe", .head = true, .rope = true});
    in_folder(f, folder, "folder"), in_folder(f, again, "again.gguf"), in_folder(f, back, "back");
    syi_source *s = open_source(f->ctx, gguf);
    syi_export how = {.dtype = SY_F32, .shard_bytes = 600};
    assert_int_equal(syi_source_to_folder(s, folder, &how), SY_OK);
    assert_int_equal(how.tensors, SYI_COUNT(tiny) + 1);
    assert_int_equal(syi_source_to_folder(s, folder, &how), SY_E_USAGE); /* something is there */
    syi_source_close(s);

    s = open_source(f->ctx, folder);
    tiny_check(f->ctx, s->tensors);
    assert_string_equal(s->chat_template, "{{ messages }}");
    how = (syi_export){.dtype = SY_F32};
    assert_int_equal(syi_source_to_gguf(s, again, &how), SY_OK);
    syi_source_close(s);

    sy_checkpoint *a = NULL, *b = NULL; /* the file we wrote holds the bytes of the first */
    assert_int_equal(sy_checkpoint_open(f->ctx, gguf, &a), SY_OK);
    assert_int_equal(sy_checkpoint_open(f->ctx, again, &b), SY_OK);
    assert_int_equal(sy_checkpoint_count(a), sy_checkpoint_count(b));
    for (int64_t i = 0; i < sy_checkpoint_count(a); i++) {
        const sy_entry *x = sy_checkpoint_at(a, i), *y = sy_checkpoint_find(b, x->name);
        assert_non_null(y);
        assert_int_equal(x->bytes, y->bytes);
        if (strcmp(x->name, "rope_freqs.weight") != 0) {
            assert_memory_equal(x->data, y->data, (size_t)x->bytes);
        } else {
            for (int k = 0; k < TINY_DIM / 2; k++) assert_float_equal(((const float *)x->data)[k], ((const float *)y->data)[k], 1e-4);
        }
    }
    static const char *const keys[] = {"tokenizer.ggml.pre", "tokenizer.chat_template", "general.architecture"};
    for (int i = 0; i < SYI_COUNT(keys); i++) assert_string_equal(sy_checkpoint_meta(a, keys[i]), sy_checkpoint_meta(b, keys[i]));
    for (int64_t i = 0; i < syi_gguf_array(a->gguf, "tokenizer.ggml.tokens", NULL); i++) {
        const char *x = "", *y = "";
        int64_t n = 0, m = 0;
        double p = 0, q = 0;
        assert_true(syi_gguf_array_str(a->gguf, "tokenizer.ggml.tokens", i, &x, &n) && syi_gguf_array_str(b->gguf, "tokenizer.ggml.tokens", i, &y, &m));
        assert_true(n == m && memcmp(x, y, (size_t)n) == 0);
        assert_true(syi_gguf_array_num(a->gguf, "tokenizer.ggml.token_type", i, &p) && syi_gguf_array_num(b->gguf, "tokenizer.ggml.token_type", i, &q));
        assert_true(p == q);
    }
    int64_t eot = 0;
    bool bos = false;
    assert_true(syi_gguf_int(b->gguf, "tokenizer.ggml.eot_token_id", &eot) && eot == 3);
    assert_true(syi_gguf_bool(b->gguf, "tokenizer.ggml.add_bos_token", &bos) && bos);
    sy_checkpoint_close(a);
    sy_checkpoint_close(b);

    s = open_source(f->ctx, again); /* GGUF to GGUF keeps blocks and keys */
    how = (syi_export){.dtype = (sy_dtype)-1};
    assert_int_equal(syi_source_to_gguf(s, back, &how), SY_OK);
    syi_source_close(s);
    s = open_source(f->ctx, back);
    tiny_check(f->ctx, s->tensors);
    syi_source_close(s);
}

static sy_status plus_one(void *self, const sy_entry *e, int64_t row, int64_t n, float *dst)
{
    sy_context *ctx = self;
    const int64_t cols = syi_entry_cols(e);
    if (strcmp(e->name, "lm_head.weight") == 0) {
        for (int64_t i = 0; i < n * cols; i++) dst[i] = (float)(row * cols + i);
        return SY_OK;
    }
    SYI_TRY(sy_entry_read_f32(ctx, e, row, n, dst));
    for (int64_t i = 0; i < n * cols; i++) dst[i] += 1;
    return SY_OK;
}

static void own_rows(void **state)
{
    test_folder *f = *state;
    char gguf[512], folder[512], path[600];
    tiny_gguf(f->ctx, in_folder(f, gguf, "t.gguf"), &(tiny_options){.pre = "gpt-2"});
    in_folder(f, folder, "out");
    assert_int_equal(syi_mkdirs(f->ctx, folder), SY_OK);
    scratch_write((snprintf(path, sizeof path, "%s/notes.txt", folder), path), "x", 1);
    syi_source *s = open_source(f->ctx, gguf);
    json_t *config = json_deep_copy(s->config);
    json_object_set_new(config, "tie_word_embeddings", json_false());
    const sy_entry head = {.name = "lm_head.weight", .dtype = SY_F32, .rank = 2, .dim = {TINY_VOCAB, TINY_HIDDEN}, .file = "here"};
    syi_export how = {.dtype = SY_F32, .rows = plus_one, .self = f->ctx, .extra = &head, .n_extra = 1, .config = config, .into = true};
    assert_int_equal(syi_source_to_folder(s, folder, &how), SY_OK);
    how.into = false;
    char other[512];
    assert_int_equal(syi_source_to_gguf(s, in_folder(f, other, "o.gguf"), &how), SY_OK);
    syi_source_close(s);
    json_decref(config);
    assert_true(syi_exists(path));
    for (int pass = 0; pass < 2; pass++) {
        s = open_source(f->ctx, pass == 0 ? folder : other);
        assert_true(json_is_false(json_object_get(s->config, "tie_word_embeddings")));
        float x[TINY_VOCAB * TINY_HIDDEN];
        assert_int_equal(sy_entry_read_f32(f->ctx, sy_checkpoint_find(s->tensors, "lm_head.weight"), 0, TINY_VOCAB, x), SY_OK);
        for (int i = 0; i < TINY_VOCAB * TINY_HIDDEN; i++) assert_true(x[i] == (float)i);
        const int64_t all = tiny_count(&tiny[3]);
        float *q = malloc((size_t)all * sizeof *q);
        assert_int_equal(sy_entry_read_f32(f->ctx, sy_checkpoint_find(s->tensors, tiny[3].hf), 0, tiny[3].dim[0], q), SY_OK);
        for (int64_t i = 0; i < all; i++) assert_true(q[i] == tiny_value(3, i) + 1);
        free(q);
        syi_source_close(s);
    }
}

static void types(void **state)
{
    test_folder *f = *state;
    char gguf[512], out[512];
    tiny_gguf(f->ctx, in_folder(f, gguf, "t.gguf"), &(tiny_options){.pre = "gpt-2"});
    syi_source *s = open_source(f->ctx, gguf);
    syi_export how = {.dtype = SY_Q8_0};
    assert_int_equal(syi_source_to_gguf(s, in_folder(f, out, "q.gguf"), &how), SY_OK);
    sy_checkpoint *ck = NULL;
    assert_int_equal(sy_checkpoint_open(f->ctx, out, &ck), SY_OK);
    for (int k = 0; k < SYI_COUNT(tiny); k++) /* rows of 8 and 12 are no blocks of 32; vectors stay F32 */
        assert_int_equal(sy_checkpoint_find(ck, tiny[k].gguf)->dtype, tiny[k].rank == 1 ? SY_F32 : SY_F16);
    sy_checkpoint_close(ck);
    how = (syi_export){.dtype = SY_Q4_K};
    assert_int_equal(syi_source_to_gguf(s, in_folder(f, out, "q4.gguf"), &how), SY_OK);
    assert_int_equal(how.types[SY_F16][SYI_GGUF_ROWS], 7);
    assert_int_equal(how.types[SY_F16][SYI_GGUF_OUTER], 1);
    assert_int_equal(how.types[SY_F32][SYI_GGUF_VECTOR], 3);
    assert_int_equal(how.files, 1);
    const int64_t bytes = how.bytes;
    how.dry = true;
    assert_int_equal(syi_source_to_gguf(s, in_folder(f, out, "dry.gguf"), &how), SY_OK);
    assert_false(syi_exists(out));
    assert_int_equal(how.bytes, bytes);
    how = (syi_export){.dtype = SY_Q8_0};
    assert_int_equal(syi_source_to_folder(s, in_folder(f, out, "q8"), &how), SY_E_USAGE);
    how = (syi_export){.dtype = SY_BF16};
    assert_int_equal(syi_source_to_folder(s, in_folder(f, out, "bf16"), &how), SY_OK);
    syi_source_close(s);
    s = open_source(f->ctx, out);
    assert_string_equal(text(s->config, "torch_dtype"), "bfloat16");
    for (int64_t i = 0; i < sy_checkpoint_count(s->tensors); i++) assert_int_equal(sy_checkpoint_at(s->tensors, i)->dtype, SY_BF16);
    sy_cancel(f->ctx);
    how = (syi_export){.dtype = SY_F32};
    assert_int_equal(syi_source_to_folder(s, in_folder(f, out, "never"), &how), SY_E_CANCELLED);
    assert_int_equal(syi_source_to_gguf(s, in_folder(f, out, "never.gguf"), &how), SY_E_CANCELLED);
    sy_cancel_clear(f->ctx);
    syi_source_close(s);
    assert_int_equal(count_entries(f->ctx, f->dir), 4); /* t.gguf, q.gguf, q4.gguf, bf16 */
}

typedef struct { char gguf[512], folder[512], file[512]; } places;

static sy_status there_and_back(sy_context *ctx, void *self)
{
    const places *p = self;
    syi_source *s = NULL;
    syi_export how = {.dtype = SY_BF16, .shard_bytes = 500};
    if (access(p->folder, F_OK) == 0) scratch_remove(strdup(p->folder)); /* not counted as changes of the disk */
    unlink(p->file);
    SYI_TRY(syi_source_open(ctx, p->gguf, true, &s));
    sy_status status = syi_source_to_folder(s, p->folder, &how);
    syi_source_close(s);
    if (status != SY_OK) return status;
    SYI_TRY(syi_source_open(ctx, p->folder, true, &s));
    how = (syi_export){.dtype = SY_F16};
    status = syi_source_to_gguf(s, p->file, &how);
    syi_source_close(s);
    return status;
}

/* After a failure: what is there opens, and there are no temporaries. */
static void nothing_half_done(sy_context *ctx, void *self)
{
    const places *p = self;
    char dir[512];
    snprintf(dir, sizeof dir, "%.*s", (int)(strlen(p->gguf) - strlen("/t.gguf")), p->gguf);
    const bool folder = syi_exists(p->folder), file = syi_exists(p->file);
    assert_int_equal(count_entries(ctx, dir), 1 + folder + file);
    for (int i = 0; i < 2; i++) {
        if (i == 0 ? !folder : !file) continue;
        syi_source *s = open_source(ctx, i == 0 ? p->folder : p->file);
        assert_int_equal(sy_checkpoint_count(s->tensors), SYI_COUNT(tiny) + 1);
        syi_source_close(s);
    }
}

static void torture(void **state)
{
    test_folder *f = *state;
    places p;
    tiny_gguf(f->ctx, in_folder(f, p.gguf, "t.gguf"), &(tiny_options){.pre = "smollm", .head = true});
    in_folder(f, p.folder, "folder"), in_folder(f, p.file, "out.gguf");
    assert_true(torture_memory(f->ctx, there_and_back, &p) > 100);
    assert_true(torture_disk(f->ctx, there_and_back, nothing_half_done, &p) > 20);
}

static void arguments_of_rows(void **state)
{
    (void)state;
    for (int k = 0; k < SYI_COUNT(tiny); k++) { /* the table of this test itself: a permutation */
        bool seen[64] = {false};
        for (int64_t r = 0; r < tiny[k].dim[0]; r++) seen[tiny_row(&tiny[k], r)] = true;
        for (int64_t r = 0; r < tiny[k].dim[0]; r++) assert_true(seen[r]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(from_gguf), folder_test(tokenizer_from_gguf), folder_test(refused_gguf), folder_test(refused_folders), folder_test(round_trip),
        folder_test(own_rows),  folder_test(types),               folder_test(torture),      cmocka_unit_test(arguments_of_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
