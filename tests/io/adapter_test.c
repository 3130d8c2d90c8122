/* SPDX-License-Identifier: Apache-2.0 */
/* Adapter folders and LoRA as GGUF: what is written, what comes back, what is refused. */
#include "tiny.h"

#include "support/folder.h"
#include "support/scratch.h"
#include "support/torture.h"

#include <math.h>

static void folders(void **state)
{
    test_folder *f = *state;
    char path[512];
    float a[6] = {1, 2, 3, 4, 5, 6};
    uint16_t b[2] = {0x3f80, 0x4000};
    json_t *config = json_pack("{s:s,s:i,s:f}", "peft_type", "LORA", "r", 2, "lora_dropout", 0.1);
    const syi_named tensors[] = {{"base_model.model.x.lora_B.weight", {.dtype = SY_BF16, .rank = 2, .dim = {1, 2}, .data = b}},
                                 {"base_model.model.x.lora_A.weight", {.dtype = SY_F32, .rank = 2, .dim = {2, 3}, .data = a}}};
    assert_int_equal(syi_adapter_write(f->ctx, f->dir, config, "# hello\n", tensors, 2), SY_OK);
    json_decref(config);
    assert_int_equal(count_entries(f->ctx, f->dir), 3);
    char *text = (char *)scratch_read(in_folder(f, path, "adapter_config.json"), NULL);
    assert_string_equal(text, "{\n  \"lora_dropout\": 0.1,\n  \"peft_type\": \"LORA\",\n  \"r\": 2\n}\n"); /* sorted */
    free(text);
    syi_adapter_dir *d = NULL;
    assert_int_equal(syi_adapter_open(f->ctx, f->dir, &d), SY_OK);
    assert_int_equal(sy_checkpoint_count(d->tensors), 2);
    const sy_entry *e = sy_checkpoint_find(d->tensors, "base_model.model.x.lora_A.weight");
    assert_memory_equal(e->data, a, sizeof a);
    assert_string_equal(sy_checkpoint_meta(d->tensors, "format"), "pt");
    syi_adapter_close(d);
}

static void refused_folders(void **state)
{
    test_folder *f = *state;
    char path[512];
    static const struct { const char *config; sy_status status; const char *says; } rows[] = {
        {NULL, SY_E_INPUT, "no adapter_config.json"},
        {"[1]", SY_E_INPUT, "object"},
        {"{\"r\": 8}", SY_E_INPUT, "peft_type"},
        {"{\"peft_type\": 7}", SY_E_INPUT, "peft_type"},
        {"{\"peft_type\": \"LORA\"}", SY_E_INPUT, "adapter_model.safetensors"},
    };
    syi_adapter_dir *d = NULL;
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        if (rows[i].config != NULL) scratch_write(in_folder(f, path, "adapter_config.json"), rows[i].config, strlen(rows[i].config));
        assert_int_equal(syi_adapter_open(f->ctx, f->dir, &d), rows[i].status);
        if (strstr(sy_error_message(f->ctx), rows[i].says) == NULL) fail_msg("%s", sy_error_message(f->ctx));
    }
    scratch_write(in_folder(f, path, "adapter_model.bin"), "x", 1);
    assert_int_equal(syi_adapter_open(f->ctx, f->dir, &d), SY_E_UNSUPPORTED);
    scratch_write(in_folder(f, path, "adapter_model.safetensors"), "x", 1);
    assert_int_equal(syi_adapter_open(f->ctx, f->dir, &d), SY_E_INPUT);
    assert_int_equal(remove(in_folder(f, path, "adapter_config.json")), 0);
    assert_int_equal(syi_mkdirs(f->ctx, in_folder(f, path, "mine")), SY_OK);
    scratch_write(in_folder(f, path, "mine/adapter_config.json"), "{}", 2);
    assert_int_equal(syi_adapter_open(f->ctx, f->dir, &d), SY_E_INPUT);
    assert_non_null(strstr(sy_error_message(f->ctx), "/mine"));
}

/* -- LoRA as GGUF ---------------------------------------------------------------------- */

enum { MOST = 64 };
typedef struct { const char *module; int rank, in, out; double scale; float a[MOST * 4], b[MOST * 4]; } lora;

static void make(lora *l, const char *module, int rank, int in, int out, double scale)
{
    *l = (lora){.module = module, .rank = rank, .in = in, .out = out, .scale = scale};
    for (int i = 0; i < rank * in; i++) l->a[i] = (float)(i % 7) - 3;
    for (int i = 0; i < out * rank; i++) l->b[i] = (float)(i % 11) + 1;
}

static syi_lora_pair pair_of(lora *l)
{
    return (syi_lora_pair){l->module, {.dtype = SY_F32, .rank = 2, .dim = {l->rank, l->in}, .data = l->a},
                           {.dtype = SY_F32, .rank = 2, .dim = {l->out, l->rank}, .data = l->b}, l->scale};
}

/* (row, col) of scale * B A */
static double delta(const lora *l, int row, int col)
{
    double sum = 0;
    for (int k = 0; k < l->rank; k++) sum += (double)l->b[row * l->rank + k] * l->a[k * l->in + col];
    return l->scale * sum;
}

typedef struct { lora l[4]; syi_lora_pair p[4]; char base[512], file[512], out[512]; } world;

static void make_world(test_folder *f, world *w)
{
    make(&w->l[0], "model.layers.0.self_attn.q_proj", 2, TINY_HIDDEN, TINY_HEADS * TINY_DIM, 1.5);
    make(&w->l[1], "model.layers.0.self_attn.v_proj", 2, TINY_HIDDEN, TINY_KV * TINY_DIM, 1.5);
    make(&w->l[2], "model.layers.0.mlp.down_proj", 3, TINY_FFN, TINY_HIDDEN, 0.25); /* another rank and scale */
    make(&w->l[3], "model.embed_tokens", 2, TINY_VOCAB, TINY_HIDDEN, 1.5);
    for (int i = 0; i < 4; i++) w->p[i] = pair_of(&w->l[i]);
    tiny_gguf(f->ctx, in_folder(f, w->base, "base.gguf"), &(tiny_options){.pre = "smollm"});
    in_folder(f, w->file, "lora.gguf");
    in_folder(f, w->out, "back");
}

static sy_status write_lora(sy_context *ctx, void *self)
{
    world *w = self;
    syi_source *s = NULL;
    SYI_TRY(syi_source_open(ctx, w->base, true, &s));
    const sy_status status = syi_lora_to_gguf(ctx, s, w->file, SY_F32, w->p, 4);
    syi_source_close(s);
    return status;
}

static void to_gguf(void **state)
{
    test_folder *f = *state;
    world w;
    make_world(f, &w);
    assert_int_equal(write_lora(f->ctx, &w), SY_OK);
    sy_checkpoint *ck = NULL;
    assert_int_equal(sy_checkpoint_open(f->ctx, w.file, &ck), SY_OK);
    assert_string_equal(sy_checkpoint_meta(ck, "general.type"), "adapter");
    assert_string_equal(sy_checkpoint_meta(ck, "adapter.type"), "lora");
    double alpha = 0;
    assert_true(syi_gguf_float(ck->gguf, "adapter.lora.alpha", &alpha) && alpha == 3.0);
    static const char *const names[] = {"blk.0.attn_q.weight", "blk.0.attn_v.weight", "blk.0.ffn_down.weight", "token_embd.weight"};
    static const int64_t swapped[TINY_DIM] = {0, 2, 1, 3};
    for (int i = 0; i < 4; i++) { /* what a runtime adds: alpha/r B A, in GGUF's order of rows */
        const lora *l = &w.l[i];
        char name[80];
        float a[MOST * 4], b[MOST * 4];
        const sy_entry *ea = sy_checkpoint_find(ck, (snprintf(name, sizeof name, "%s.lora_a", names[i]), name));
        const sy_entry *eb = sy_checkpoint_find(ck, (snprintf(name, sizeof name, "%s.lora_b", names[i]), name));
        assert_true(ea != NULL && eb != NULL && ea->dtype == SY_F32);
        assert_true(eb->dim[0] == l->out && eb->dim[1] == l->rank);
        assert_true(ea->dim[i == 3 ? 1 : 0] == l->rank && ea->dim[i == 3 ? 0 : 1] == l->in); /* the embedding's A lies down */
        assert_int_equal(sy_entry_read_f32(f->ctx, ea, 0, ea->dim[0], a), SY_OK);
        assert_int_equal(sy_entry_read_f32(f->ctx, eb, 0, eb->dim[0], b), SY_OK);
        for (int row = 0; row < l->out; row++)
            for (int col = 0; col < l->in; col++) {
                double sum = 0;
                for (int k = 0; k < l->rank; k++) sum += (double)b[row * l->rank + k] * a[i == 3 ? col * l->rank + k : k * l->in + col];
                const int hf = i == 0 ? row / TINY_DIM * TINY_DIM + (int)swapped[row % TINY_DIM] : row;
                assert_true(fabs(alpha / l->rank * sum - delta(l, hf, col)) < 1e-5);
            }
    }
    sy_checkpoint_close(ck);
}

static void from_gguf(void **state)
{
    test_folder *f = *state;
    world w;
    make_world(f, &w);
    assert_int_equal(write_lora(f->ctx, &w), SY_OK);
    assert_int_equal(syi_lora_from_gguf(f->ctx, w.file, w.out), SY_OK);
    syi_adapter_dir *d = NULL;
    assert_int_equal(syi_adapter_open(f->ctx, w.out, &d), SY_OK);
    assert_int_equal(sy_checkpoint_count(d->tensors), 8);
    const double alpha = json_number_value(json_object_get(d->config, "lora_alpha"));
    assert_true(json_integer_value(json_object_get(d->config, "r")) == 2 && alpha == 3);
    const json_t *ranks = json_object_get(d->config, "rank_pattern"), *targets = json_object_get(d->config, "target_modules");
    assert_int_equal(json_integer_value(json_object_get(ranks, w.l[2].module)), 3);
    assert_int_equal(json_array_size(targets), 4);
    assert_string_equal(json_string_value(json_array_get(targets, 0)), "q_proj"); /* in all of the one block */
    for (int i = 0; i < 4; i++) { /* PEFT adds lora_alpha / r B A */
        const lora *l = &w.l[i];
        char name[120];
        float a[MOST * 4], b[MOST * 4];
        snprintf(name, sizeof name, i == 3 ? "base_model.model.%s.lora_embedding_A" : "base_model.model.%s.lora_A.weight", l->module);
        const sy_entry *e = sy_checkpoint_find(d->tensors, name);
        assert_true(e != NULL && e->dim[0] == l->rank && e->dim[1] == l->in);
        assert_int_equal(sy_entry_read_f32(f->ctx, e, 0, l->rank, a), SY_OK);
        snprintf(name, sizeof name, i == 3 ? "base_model.model.%s.lora_embedding_B" : "base_model.model.%s.lora_B.weight", l->module);
        e = sy_checkpoint_find(d->tensors, name);
        assert_true(e != NULL && e->dim[0] == l->out && e->dim[1] == l->rank);
        assert_int_equal(sy_entry_read_f32(f->ctx, e, 0, l->out, b), SY_OK);
        for (int row = 0; row < l->out; row++)
            for (int col = 0; col < l->in; col++) {
                double sum = 0;
                for (int k = 0; k < l->rank; k++) sum += (double)b[row * l->rank + k] * a[k * l->in + col];
                assert_true(fabs(alpha / l->rank * sum - delta(l, row, col)) < 1e-5);
            }
    }
    syi_adapter_close(d);
    assert_int_equal(syi_lora_from_gguf(f->ctx, w.file, w.out), SY_E_USAGE); /* there already */
    assert_int_equal(syi_lora_from_gguf(f->ctx, w.base, f->dir), SY_E_INPUT); /* a model */
}

static void misfits(void **state)
{
    test_folder *f = *state;
    world w;
    make_world(f, &w);
    syi_source *s = NULL;
    assert_int_equal(syi_source_open(f->ctx, w.base, true, &s), SY_OK);
    static const struct { const char *module; int in; sy_status status; const char *says; } rows[] = {
        {"model.layers.0.self_attn.z_proj", TINY_HIDDEN, SY_E_UNSUPPORTED, "z_proj"},
        {"model.layers.1.self_attn.q_proj", TINY_HIDDEN, SY_E_UNSUPPORTED, "no tensor"},
        {"lm_head", TINY_HIDDEN, SY_E_UNSUPPORTED, "tied"},
        {"model.layers.0.self_attn.q_proj", TINY_HIDDEN + 1, SY_E_INPUT, "do not fit"},
    };
    for (int i = 0; i < SYI_COUNT(rows); i++) {
        lora l;
        make(&l, rows[i].module, 2, rows[i].in, TINY_HEADS * TINY_DIM, 1);
        syi_lora_pair p = pair_of(&l);
        assert_int_equal(syi_lora_to_gguf(f->ctx, s, w.file, SY_F32, &p, 1), rows[i].status);
        if (strstr(sy_error_message(f->ctx), rows[i].says) == NULL) fail_msg("%s", sy_error_message(f->ctx));
        assert_false(syi_exists(w.file));
    }
    assert_int_equal(syi_lora_to_gguf(f->ctx, s, w.file, SY_Q4_0, w.p, 4), SY_E_UNSUPPORTED);
    syi_source_close(s);
}

/* A file without head counts, as other converters write it: v comes back, q cannot. */
static void foreign(void **state)
{
    test_folder *f = *state;
    char file[512], out[512];
    static const char *const names[] = {"blk.0.attn_v.weight", "blk.0.attn_q.weight"};
    in_folder(f, file, "foreign.gguf"), in_folder(f, out, "out");
    for (int with_q = 0; with_q < 2; with_q++) {
        syi_gguf_writer *w = NULL;
        float ones[16];
        char name[80];
        for (int i = 0; i < 16; i++) ones[i] = 1;
        assert_int_equal(syi_gguf_writer_new(f->ctx, file, &w), SY_OK);
        assert_int_equal(syi_gguf_put_str(w, "general.architecture", "llama", -1), SY_OK);
        assert_int_equal(syi_gguf_put_str(w, "general.type", "adapter", -1), SY_OK);
        assert_int_equal(syi_gguf_put_str(w, "adapter.type", "lora", -1), SY_OK);
        for (int i = 0; i <= with_q; i++)
            for (int b = 0; b < 2; b++) {
                snprintf(name, sizeof name, "%s.lora_%c", names[i], "ab"[b]);
                assert_int_equal(syi_gguf_declare(w, name, SY_F16, 2, b ? (const int64_t[]){8, 2} : (const int64_t[]){2, 8}), SY_OK);
            }
        assert_int_equal(syi_gguf_begin(w), SY_OK);
        for (int i = 0; i <= with_q; i++)
            for (int b = 0; b < 2; b++) {
                snprintf(name, sizeof name, "%s.lora_%c", names[i], "ab"[b]);
                assert_int_equal(syi_gguf_put_rows(w, name, 0, b ? 8 : 2, ones), SY_OK);
            }
        assert_int_equal(syi_gguf_end(w), SY_OK);
        if (with_q) {
            assert_int_equal(syi_lora_from_gguf(f->ctx, file, f->dir), SY_E_UNSUPPORTED);
            assert_non_null(strstr(sy_error_message(f->ctx), "attention.head_count"));
        } else {
            syi_adapter_dir *d = NULL;
            assert_int_equal(syi_lora_from_gguf(f->ctx, file, out), SY_OK);
            assert_int_equal(syi_adapter_open(f->ctx, out, &d), SY_OK);
            /* no alpha: scale 1; blocks unknown: the module in full */
            assert_int_equal(json_integer_value(json_object_get(d->config, "lora_alpha")), 2);
            assert_string_equal(json_string_value(json_array_get(json_object_get(d->config, "target_modules"), 0)), "model.layers.0.self_attn.v_proj");
            syi_adapter_close(d);
        }
    }
}

static sy_status write_and_read(sy_context *ctx, void *self)
{
    world *w = self;
    syi_remove_tree(ctx, w->out);
    SYI_TRY(write_lora(ctx, w));
    return syi_lora_from_gguf(ctx, w->file, w->out);
}

static void torture(void **state)
{
    test_folder *f = *state;
    world w;
    make_world(f, &w);
    assert_true(torture_memory(f->ctx, write_and_read, &w) > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(folders), folder_test(refused_folders), folder_test(to_gguf), folder_test(from_gguf),
        folder_test(misfits), folder_test(foreign),         folder_test(torture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
