/* SPDX-License-Identifier: Apache-2.0 */
/* Adapters on disk and in the weights: PEFT folders out and back in bit for bit, strict
 * reading, and folding: merged == unmerged, un-merged == base. */
#include "run/run.h"
#include "support/folder.h"
#include "support/tiny_model.h"

typedef struct { const char *adapter, *settings[7]; bool tied, bias; double tolerance; const char *lora; } form;

static const form forms[] = {
    { "lora", { "rank=3", "alpha=5", NULL }, false, false, 1e-5, "yes" },
    { "lora", { "rank=3", "alpha=5", "use-rslora=on", "rank-pattern=q_proj=5", "alpha-pattern=v_proj=2", NULL }, true, false, 1e-5, "yes" },
    { "lora", { "rank=3", "alpha=6", "use-dora=on", NULL }, true, true, 1e-5, NULL },
    { "lora", { "rank=3", "alpha=6", "lora-bias=on", "bias=all", NULL }, false, true, 1e-5, NULL },
    { "lora", { "rank=4", "alpha=4", "init=pissa", NULL }, false, false, 1e-5, "yes" },
    { "lora", { "rank=4", "alpha=2", "init=pissa", "use-rslora=on", "layers-to-transform=1", NULL }, true, true, 1e-5, "yes" },
    { "lora", { "rank=4", "alpha=4", "init=pissa", "convert-pissa=off", NULL }, false, false, 1e-5, "yes" },
    { "lora", { "rank=3", "target-modules=q_proj,embed_tokens", NULL }, true, false, 1e-5, "yes" },
    { "lora", { "rank=3", "target-modules=k_proj,embed_tokens,lm_head", NULL }, true, false, 1e-5, NULL },
    { "lora", { "rank=3", "target-modules=.*mlp\\.(up|down)_proj", "bias=lora_only", NULL }, false, true, 1e-5, NULL },
    { "lora", { "rank=3", "exclude-modules=down_proj", "modules-to-save=norm,embed_tokens", NULL }, true, false, 1e-5, NULL },
    { "lora", { "rank=3", "modules-to-save=lm_head,input_layernorm", NULL }, false, false, 1e-5, NULL },
    { "vera", { "rank=8", NULL }, false, true, 1e-5, "yes" },
    { "miss", { "rank=5", NULL }, false, true, 1e-5, "yes" },
    { "miss", { "rank=6", "mode=mini", "mini-r=4", NULL }, true, false, 1e-5, "yes" },
    { "miss", { "rank=4", "mode=bat", NULL }, false, true, 1e-5, NULL },
    { "randlora", { "rank=3", "alpha=3", NULL }, true, false, 1e-5, NULL },
    { "randlora", { "rank=4", "alpha=3", "sparse=on", "save-projection=off", "target-modules=q_proj,down_proj", NULL }, false, true, 1e-5, NULL },
    { "lamda", { "rank=4", "alpha=6", NULL }, false, true, 1e-5, "yes" },
    { "lamda", { "rank=5", "plus=on", NULL }, true, false, 1e-5, "yes" },
    { "adalora", { "init-r=5", "target-r=3", "alpha=7", NULL }, false, true, 1e-5, "yes" },
    { "vera", { "rank=8", "save-projection=off", "projection-prng-key=5", NULL }, true, false, 1e-5, "yes" },
};

static const char *tiny(const test_folder *f, char buf[512], bool tied, bool bias)
{
    tiny_model m = TINY_MODEL;
    char name[32];
    m.tied = tied;
    m.bias = bias;
    snprintf(name, sizeof name, "model%d%d", tied, bias);
    in_folder(f, buf, name);
    if (!syi_is_dir(buf)) tiny_model_write(f->ctx, &m, buf);
    return buf;
}

static sy_run *shaken(const test_folder *f, const char *model, const form *c)
{
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = c->adapter, .settings = c->settings, .dtype = SY_F32 });
    tiny_shake(run, 0.1, 21);
    TEST_OK(f->ctx, syi_run_refresh(run));
    return run;
}

static void same_file(const test_folder *f, const char *a, const char *b, const char *name)
{
    char pa[600], pb[600], *x, *y;
    int64_t n, m;
    snprintf(pa, sizeof pa, "%s/%s", a, name);
    snprintf(pb, sizeof pb, "%s/%s", b, name);
    TEST_OK(f->ctx, syi_read_file(f->ctx, pa, 1 << 24, &x, &n));
    TEST_OK(f->ctx, syi_read_file(f->ctx, pb, 1 << 24, &y, &m));
    assert_int_equal(n, m);
    assert_memory_equal(x, y, (size_t)n);
    syi_free(f->ctx, x);
    syi_free(f->ctx, y);
}

/* 7: out and in again: the same tensors, the same output, and the same files once more. */
static void round_trip(void **state)
{
    test_folder *f = *state;
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    const int64_t n = TINY_TOKENS * TINY_MODEL.vocab;
    for (int i = 0; i < SYI_COUNT(forms); i++) {
        char model[512], one[512], two[512], name[32];
        tiny(f, model, forms[i].tied, forms[i].bias);
        snprintf(name, sizeof name, "one%d", i);
        TEST_OK(f->ctx, syi_mkdirs(f->ctx, in_folder(f, one, name)));
        snprintf(name, sizeof name, "two%d", i);
        TEST_OK(f->ctx, syi_mkdirs(f->ctx, in_folder(f, two, name)));
        sy_run *run = shaken(f, model, &forms[i]);
        float *y = tiny_logits(f->ctx, run, &b.batch);
        TEST_OK(f->ctx, sy_run_save(run, one));
        sy_run_close(run);
        run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .folder = one, .dtype = SY_F32, .evaluate = true });
        float *z = tiny_logits(f->ctx, run, &b.batch);
        const bool converted = strstr(forms[i].settings[2] ? forms[i].settings[2] : "", "pissa") && !(forms[i].settings[3] && strstr(forms[i].settings[3], "convert"));
        const double d = tiny_relative(z, y, n);
        if (converted ? d > 1e-5 : d > 0) fail_msg("form %d: logits differ by %g after reading back", i, d);
        TEST_OK(f->ctx, sy_run_save(run, two));
        if (!strstr(forms[i].settings[3] ? forms[i].settings[3] : "", "convert-pissa=off")) { /* what is read is converted when written */
            same_file(f, one, two, "adapter_model.safetensors");
            same_file(f, one, two, "adapter_config.json");
        }
        sy_run_close(run);
        free(y);
        free(z);
    }
}

/* 3: the folded model is the model with its adapter. */
static void folded_is_unfolded(void **state)
{
    test_folder *f = *state;
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    const int64_t n = TINY_TOKENS * TINY_MODEL.vocab;
    for (int i = 0; i < SYI_COUNT(forms); i++)
        for (int dtype = 0; dtype < 3; dtype++) {
            char model[512], dir[512], name[32];
            sy_fold fold;
            tiny(f, model, forms[i].tied, forms[i].bias);
            snprintf(name, sizeof name, "folded%d-%d", i, dtype);
            in_folder(f, dir, name);
            const tiny_run how = { .model = model, .adapter = forms[i].adapter, .settings = forms[i].settings, .dtype = dtype == 0 ? SY_F32 : dtype == 1 ? SY_F64 : SY_BF16 };
            sy_run *run = tiny_run_open(f->ctx, &how);
            tiny_shake(run, 0.1, 21);
            TEST_OK(f->ctx, syi_run_refresh(run));
            float *y = tiny_logits(f->ctx, run, &b.batch);
            TEST_OK(f->ctx, sy_run_fold(run, dir, (sy_dtype)-1, &fold));
            float *again = tiny_logits(f->ctx, run, &b.batch); /* folding leaves the run as it was */
            assert_memory_equal(y, again, (size_t)n * sizeof *y);
            free(again);
            sy_run_close(run);
            if (fold.tensors_changed < 1 || fold.tensors_changed > fold.tensors || fold.max_delta < 1e-3)
                fail_msg("form %d, dtype %d: %lld of %lld tensors changed by at most %g", i, dtype, (long long)fold.tensors_changed, (long long)fold.tensors, fold.max_delta);
            run = tiny_run_open(f->ctx, &(tiny_run){ .model = dir, .dtype = SY_F32, .evaluate = true });
            float *z = tiny_logits(f->ctx, run, &b.batch);
            sy_run_close(run);
            const double d = tiny_relative(z, y, n), allowed = how.dtype == SY_BF16 ? 0.03 : forms[i].tolerance;
            if (d > allowed) fail_msg("form %d, dtype %d: the folded model's logits are off by %g", i, dtype, d);
            free(y);
            free(z);
        }
}

/* Adding and taking away: W_m - s B A = W, and for DoRA W_m / (m / n) - s B A = W. */
static void unmerge(void **state)
{
    test_folder *f = *state;
    for (int dora = 0; dora < 2; dora++) {
        const form c = { "lora", { "rank=3", "alpha=6", dora ? "use-dora=on" : NULL, NULL }, false, false, 0, NULL };
        char model[512];
        tiny(f, model, false, false);
        sy_run *run = shaken(f, model, &c);
        for (int i = 0; i < run->model->n_sites; i++) {
            sy_site *site = &run->model->sites[i];
            if (!site->n_wraps) continue;
            const int64_t in = site->in, out = site->out, r = 3;
            float *w = malloc((size_t)(in * out) * sizeof *w), *merged = malloc((size_t)(in * out) * sizeof *w);
            double *constant = malloc((size_t)out * sizeof *constant), delta, error = 0, size = 0;
            TEST_OK(f->ctx, site->weight->type->dense(f->ctx, site->weight, 0, out, w));
            memcpy(merged, w, (size_t)(in * out) * sizeof *w);
            TEST_OK(f->ctx, syi_run_fold_site(run, site, merged, constant, &delta));
            const float *a = site->wraps[0].slot[0]->value.data, *bb = site->wraps[0].slot[1]->value.data;
            const float *m = dora ? site->wraps[0].slot[3]->value.data : NULL;
            for (int64_t o = 0; o < out; o++) {
                double n2 = 0;
                for (int pass = 0; pass < 2; pass++)
                    for (int64_t j = 0; j < in; j++) {
                        double ba = 0;
                        for (int64_t k = 0; k < r; k++) ba += 2.0 * bb[o * r + k] * a[k * in + j];
                        if (pass == 0) {
                            n2 += (w[o * in + j] + ba) * (w[o * in + j] + ba);
                        } else {
                            const double back = merged[o * in + j] / (dora ? m[o] / sqrt(n2) : 1) - ba;
                            error += (back - w[o * in + j]) * (back - w[o * in + j]);
                            size += (double)w[o * in + j] * w[o * in + j];
                        }
                    }
            }
            if (sqrt(error / size) > 1e-6) fail_msg("%s: un-merged weight is off by %g", site->name, sqrt(error / size));
            assert_true(delta > 1e-3);
            free(w);
            free(merged);
            free(constant);
        }
        sy_run_close(run);
    }
}

/* 4: the converted adapter on the original weights is W_res with the trained A and B. */
static void pissa_converts(void **state)
{
    test_folder *f = *state;
    const form c = { "lora", { "rank=4", "alpha=8", "init=pissa", "rank-pattern=q_proj=2", NULL }, false, false, 0, NULL };
    char model[512], dir[512];
    tiny(f, model, false, false);
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    sy_run *run = shaken(f, model, &c);
    float *y = tiny_logits(f->ctx, run, &b.batch);
    TEST_OK(f->ctx, syi_mkdirs(f->ctx, in_folder(f, dir, "adapter")));
    TEST_OK(f->ctx, sy_run_save(run, dir));
    sy_run_close(run);
    run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .folder = dir, .dtype = SY_F32, .evaluate = true });
    assert_int_equal(tiny_param(run, "layers.0.self_attn.v_proj.lora_A.weight")->value.dim[0], 8);
    assert_int_equal(tiny_param(run, "layers.0.self_attn.q_proj.lora_A.weight")->value.dim[0], 4);
    sy_run *plain = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .dtype = SY_F32, .evaluate = true });
    const sy_site *s = syi_model_site(run->model, "model.layers.0.mlp.up_proj"), *p = syi_model_site(plain->model, "model.layers.0.mlp.up_proj");
    assert_memory_equal(s->weight->slot[0].data, p->weight->slot[0].data, (size_t)sy_tensor_bytes(&s->weight->slot[0])); /* original weights */
    float *z = tiny_logits(f->ctx, run, &b.batch);
    assert_true(tiny_relative(z, y, TINY_TOKENS * TINY_MODEL.vocab) < 1e-5);
    free(y);
    free(z);
    sy_run_close(run);
    sy_run_close(plain);
}

/* -- strict reading ---------------------------------------------------------------------------- */

enum { DROP, EXTRA, RENAME, SHAPE, NOT_FINITE, CONFIG };

/* A copy of an adapter folder with one thing wrong with it. */
static void spoil(const test_folder *f, const char *from, const char *to, int what, const char *tensor, const char *json)
{
    syi_adapter_dir *d;
    TEST_OK(f->ctx, syi_adapter_open(f->ctx, from, &d));
    TEST_OK(f->ctx, syi_mkdirs(f->ctx, to));
    const int64_t n = sy_checkpoint_count(d->tensors);
    syi_named *t = calloc((size_t)n + 1, sizeof *t);
    int64_t k = 0;
    for (int64_t i = 0; i < n; i++) {
        const sy_entry *e = sy_checkpoint_at(d->tensors, i);
        sy_tensor v = { .dtype = SY_F32, .rank = e->rank };
        memcpy(v.dim, e->dim, sizeof v.dim);
        const bool it = strcmp(e->name, tensor) == 0;
        if (it && what == DROP) continue;
        v.data = calloc((size_t)sy_tensor_count(&v) + 1, sizeof(float));
        TEST_OK(f->ctx, sy_entry_read_f32(f->ctx, e, 0, sy_tensor_rows(&v), v.data));
        if (it && what == SHAPE) {
            v.dim[0]--;
        } else if (it && what == NOT_FINITE) {
            ((float *)v.data)[sy_tensor_count(&v) - 1] = (float)NAN;
        }
        t[k++] = (syi_named){ it && what == RENAME ? "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight" : e->name, v };
    }
    float one[2] = { 1, 2 };
    if (what == EXTRA) t[k++] = (syi_named){ tensor, { .dtype = SY_F32, .rank = 1, .dim = { 2 }, .data = one } };
    if (what == CONFIG) {
        json_t *more = json_loads(json, 0, NULL);
        assert_non_null(more);
        json_object_update(d->config, more);
        json_decref(more);
    }
    TEST_OK(f->ctx, syi_adapter_write(f->ctx, to, d->config, NULL, t, k));
    for (int64_t i = 0; i < k; i++)
        if (t[i].value.data != one) free(t[i].value.data);
    free(t);
    syi_adapter_close(d);
}

static const char *const q_a = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

static void strict(void **state)
{
    test_folder *f = *state;
    static const struct { int what; const char *tensor, *json; sy_status status; const char *says[3]; } cases[] = {
        { DROP, q_a, NULL, SY_E_INPUT, { "missing", "layers.0.self_attn.q_proj.lora_A.weight", NULL } },
        { EXTRA, "base_model.model.lm_head.lora_A.weight", NULL, SY_E_INPUT, { "no place", "lm_head.lora_A.weight", NULL } },
        { RENAME, q_a, NULL, SY_E_INPUT, { "layers.7", NULL } },
        { SHAPE, q_a, NULL, SY_E_INPUT, { "[2, 16]", "[3, 16]", NULL } },
        { NOT_FINITE, q_a, NULL, SY_E_INPUT, { "not finite", "q_proj.lora_A", NULL } },
        { CONFIG, "", "{\"r\": 4}", SY_E_INPUT, { "[4, 16]", NULL } },
        { CONFIG, "", "{\"r\": \"three\"}", SY_E_INPUT, { "adapter_config.json", "r", NULL } },
        { CONFIG, "", "{\"use_qalora\": true}", SY_E_UNSUPPORTED, { "use_qalora", NULL } },
        { CONFIG, "", "{\"megatron_config\": {\"a\": 1}}", SY_E_UNSUPPORTED, { "megatron_config", NULL } },
        { CONFIG, "", "{\"layer_replication\": [[0, 1]]}", SY_E_UNSUPPORTED, { "layer_replication", NULL } },
        { CONFIG, "", "{\"trainable_token_indices\": [1]}", SY_E_UNSUPPORTED, { "trainable_token_indices", NULL } },
        { CONFIG, "", "{\"alora_invocation_tokens\": [1]}", SY_E_UNSUPPORTED, { "alora_invocation_tokens", NULL } },
        { CONFIG, "", "{\"target_parameters\": [\"x\"]}", SY_E_UNSUPPORTED, { "target_parameters", NULL } },
        { CONFIG, "", "{\"init_lora_weights\": \"corda\"}", SY_E_UNSUPPORTED, { "corda", NULL } },
        { CONFIG, "", "{\"init_lora_weights\": \"pissa9\"}", SY_E_USAGE, { "pissa9", NULL } },
        { CONFIG, "", "{\"layers_pattern\": \"blocks\"}", SY_E_UNSUPPORTED, { "layers_pattern", NULL } },
        { CONFIG, "", "{\"peft_type\": \"PROMPT_TUNING\"}", SY_E_UNSUPPORTED, { "PROMPT_TUNING", "LORA", NULL } },
        { CONFIG, "", "{\"peft_type\": 3}", SY_E_INPUT, { "peft_type", NULL } },
        { CONFIG, "", "{\"target_modules\": null}", SY_E_INPUT, { "target_modules", NULL } },
        { CONFIG, "", "{\"target_modules\": [\"q_prj\"]}", SY_E_USAGE, { "q_prj", NULL } },
        { CONFIG, "", "{\"use_dora\": true}", SY_E_INPUT, { "missing", "lora_magnitude_vector", NULL } },
        /* and what must be taken */
        { CONFIG, "", "{\"a_key_of_tomorrow\": {\"x\": 1}, \"init_lora_weights\": \"eva\", \"eva_config\": {\"rho\": 2}}", SY_OK, { NULL } },
        { CONFIG, "", "{\"target_modules\": \".*self_attn\\\\.(q|v)_proj\", \"bias\": \"none\", \"fan_in_fan_out\": true, \"layers_pattern\": null}", SY_OK, { NULL } },
        { CONFIG, "", "{\"layers_to_transform\": [0, 1], \"layers_pattern\": [\"layers\"], \"lora_dropout\": 0, \"init_lora_weights\": \"gaussian\"}", SY_OK, { NULL } },
    };
    char model[512], good[512];
    tiny(f, model, false, false);
    const form c = { "lora", { "rank=3", "target-modules=q_proj,v_proj", NULL }, false, false, 0, NULL };
    sy_run *run = shaken(f, model, &c);
    TEST_OK(f->ctx, syi_mkdirs(f->ctx, in_folder(f, good, "good")));
    TEST_OK(f->ctx, sy_run_save(run, good));
    sy_run_close(run);
    for (int i = 0; i < SYI_COUNT(cases); i++) {
        char dir[512], name[32];
        snprintf(name, sizeof name, "spoilt%d", i);
        spoil(f, good, in_folder(f, dir, name), cases[i].what, cases[i].tensor, cases[i].json);
        const sy_status st = tiny_run_try(f->ctx, &(tiny_run){ .model = model, .folder = dir, .dtype = SY_F32, .evaluate = true }, &run);
        const char *message = sy_error_message(f->ctx);
        if (st != cases[i].status) fail_msg("case %d: status %s, message '%s'", i, sy_status_name(st), message);
        for (int k = 0; cases[i].says[k]; k++)
            if (!strstr(message, cases[i].says[k])) fail_msg("case %d: the message does not say %s: %s", i, cases[i].says[k], message);
        sy_run_close(run);
        sy_error_clear(f->ctx);
    }
}

/* -- refusals and GGUF ------------------------------------------------------------------------------ */

static void what_cannot_be_folded(void **state)
{
    test_folder *f = *state;
    char model[512], dir[512];
    tiny(f, model, false, false);
    const form c = { "lora", { "rank=3", "lora-bias=on", NULL }, false, false, 0, NULL };
    sy_run *run = shaken(f, model, &c);
    sy_fold fold;
    assert_int_equal(sy_run_fold(run, in_folder(f, dir, "folded"), (sy_dtype)-1, &fold), SY_E_UNSUPPORTED);
    assert_non_null(strstr(sy_error_message(f->ctx), "bias"));
    assert_false(syi_exists(dir)); /* nothing is left */
    sy_run_close(run);
}

static void lora_gguf(void **state)
{
    test_folder *f = *state;
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    for (int i = 0; i < SYI_COUNT(forms); i++) {
        char model[512], file[512], dir[512], name[32];
        int64_t tensors, bytes;
        tiny(f, model, forms[i].tied, forms[i].bias);
        snprintf(name, sizeof name, "lora%d.gguf", i);
        in_folder(f, file, name);
        sy_run *run = shaken(f, model, &forms[i]);
        float *y = tiny_logits(f->ctx, run, &b.batch);
        const sy_status st = syi_run_adapter_to_gguf(run, file, SY_F32, &tensors, &bytes);
        sy_run_close(run);
        if (!forms[i].lora) {
            if (st != SY_E_UNSUPPORTED) fail_msg("form %d: expected SY_E_UNSUPPORTED, got %s", i, sy_status_name(st));
            assert_false(syi_exists(file));
            free(y);
            continue;
        }
        if (st != SY_OK) fail_msg("form %d: %s", i, sy_error_message(f->ctx));
        assert_true(tensors > 0 && bytes > 0 && syi_file_size(file) > bytes);
        snprintf(name, sizeof name, "from-gguf%d", i);
        TEST_OK(f->ctx, syi_lora_from_gguf(f->ctx, file, in_folder(f, dir, name)));
        run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .folder = dir, .dtype = SY_F32, .evaluate = true });
        float *z = tiny_logits(f->ctx, run, &b.batch);
        const double d = tiny_relative(z, y, TINY_TOKENS * TINY_MODEL.vocab);
        if (d > 1e-5) fail_msg("form %d: through a LoRA GGUF and back the logits are off by %g", i, d);
        sy_run_close(run);
        free(y);
        free(z);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(round_trip), folder_test(folded_is_unfolded), folder_test(unmerge), folder_test(pissa_converts),
        folder_test(strict), folder_test(what_cannot_be_folded), folder_test(lora_gguf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
