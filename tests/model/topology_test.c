/* SPDX-License-Identifier: Apache-2.0 */
/* Permutation symmetries as the architectures state them: a model whose hidden units,
 * channels, heads and residual stream are shuffled by them computes the same function. */
#include "support/folder.h"
#include "support/tiny_model.h"

#include "model/model.h"
#include "run/run.h"

/* -- models with every number random -------------------------------------------------------- */

static float *read_all(sy_context *ctx, const sy_entry *e, int64_t *n)
{
    *n = 1;
    for (int i = 0; i < e->rank; i++) *n *= e->dim[i];
    float *x = malloc((size_t)*n * sizeof *x);
    TEST_OK(ctx, sy_entry_read_f32(ctx, e, 0, *n / (e->rank ? e->dim[e->rank - 1] : 1), x));
    return x;
}

typedef void change(void *self, const sy_entry *e, float *x, int64_t n);

/* from/model.safetensors with every tensor changed, as to/model.safetensors. */
static void rewrite(sy_context *ctx, const char *from, const char *to, change *fn, void *self)
{
    char a[600], b[600], text[4096];
    sy_checkpoint *ck;
    sy_writer *w;
    TEST_OK(ctx, syi_mkdirs(ctx, to));
    snprintf(a, sizeof a, "%s/config.json", from), snprintf(b, sizeof b, "%s/config.json", to);
    if (strcmp(from, to) != 0) TEST_OK(ctx, syi_copy_file(ctx, a, b));
    snprintf(text, sizeof text, "%s/model.safetensors", to);
    TEST_OK(ctx, sy_checkpoint_open(ctx, from, &ck));
    TEST_OK(ctx, sy_writer_new(ctx, text, 0, &w));
    for (int64_t i = 0; i < sy_checkpoint_count(ck); i++) {
        const sy_entry *e = sy_checkpoint_at(ck, i);
        TEST_OK(ctx, sy_writer_declare(w, e->name, SY_F32, e->rank, e->dim));
    }
    TEST_OK(ctx, sy_writer_begin(w));
    for (int64_t i = 0; i < sy_checkpoint_count(ck); i++) {
        const sy_entry *e = sy_checkpoint_at(ck, i);
        int64_t n;
        float *x = read_all(ctx, e, &n);
        fn(self, e, x, n);
        TEST_OK(ctx, sy_writer_put(w, e->name, 0, n / e->dim[e->rank - 1], x));
        free(x);
    }
    TEST_OK(ctx, sy_writer_end(w));
    sy_checkpoint_close(ck);
}

static void shake(void *self, const sy_entry *e, float *x, int64_t n)
{
    (void)self;
    float *z = malloc((size_t)n * sizeof *z);
    syi_normal(syi_key(3, "shake", e->name, 0), 0, n, z);
    const bool variance = syi_ends(e->name, "running_var");
    for (int64_t i = 0; i < n; i++) x[i] = e->rank > 1 ? x[i] * 3 + z[i] * 0.05f : variance ? 0.5f + z[i] * z[i] : x[i] + z[i] * 0.3f;
    free(z);
}

/* -- shuffling ---------------------------------------------------------------------------------- */

typedef struct { syi_perm *perms; int n; uint64_t seed; int moved; } shuffle;

/* The permutation of a group (inside unit `unit` of its parent). */
static void permutation(const shuffle *s, const char *group, int64_t unit, int64_t n, int64_t *p)
{
    const uint64_t key = syi_key(s->seed, "shuffle", group, unit);
    for (int64_t i = 0; i < n; i++) p[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t k = (int64_t)(syi_random_u64(key, i) % (uint64_t)(i + 1)), t = p[i];
        p[i] = p[k];
        p[k] = t;
    }
}

static int64_t parent_block(const shuffle *s, const syi_perm *p, int64_t *units)
{
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->perms[i].group, p->parent) == 0 && strcmp(s->perms[i].tensor, p->tensor) == 0 && s->perms[i].axis == p->axis && s->perms[i].first == p->first)
            return *units = s->perms[i].units, s->perms[i].block;
    fail_msg("%s: %s has no parent %s there", p->tensor, p->group, p->parent);
    return 0;
}

/* new[i] = old[map[i]] along the axis. */
static void axis_map(const shuffle *s, const sy_entry *e, int axis, int64_t *map)
{
    int64_t *p = malloc(4096 * sizeof *p), *old = malloc(4096 * sizeof *old);
    assert_true(e->dim[axis] <= 4096);
    for (int64_t i = 0; i < e->dim[axis]; i++) map[i] = i;
    for (int level = 0; level < 2; level++)
        for (int i = 0; i < s->n; i++) {
            const syi_perm *q = &s->perms[i];
            if (strcmp(q->tensor, e->name) != 0 || q->axis != axis || (q->parent != NULL) != level) continue;
            int64_t outer = 1, span = q->units * q->block;
            if (q->parent) span = parent_block(s, q, &outer);
            assert_true(q->first + outer * span <= e->dim[axis] && span % (q->units * q->block) == 0);
            memcpy(old, map, (size_t)e->dim[axis] * sizeof *old);
            for (int64_t u = 0; u < outer; u++) {
                permutation(s, q->group, u, q->units, p);
                for (int64_t k = 0; k < span; k++) {
                    const int64_t turn = k / (q->units * q->block), unit = k / q->block % q->units, rest = k % q->block;
                    map[q->first + u * span + k] = old[q->first + u * span + (turn * q->units + p[unit]) * q->block + rest];
                }
            }
        }
    free(p), free(old);
}

static void shuffled(void *self, const sy_entry *e, float *x, int64_t n)
{
    shuffle *s = self;
    float *old = malloc((size_t)n * sizeof *old);
    for (int axis = 0; axis < e->rank; axis++) {
        int64_t *map = malloc((size_t)e->dim[axis] * sizeof *map), inner = 1;
        axis_map(s, e, axis, map);
        for (int i = axis + 1; i < e->rank; i++) inner *= e->dim[i];
        memcpy(old, x, (size_t)n * sizeof *old);
        for (int64_t i = 0; i < n; i++) {
            const int64_t at = i / inner % e->dim[axis];
            x[i] = old[i + (map[at] - at) * inner];
            s->moved += map[at] != at && inner == 1;
        }
        free(map);
    }
    free(old);
}

/* -- the function ---------------------------------------------------------------------------------- */

enum { IMAGES = 3 };

static int64_t logits(sy_context *ctx, const char *dir, float **out)
{
    sy_run *run = tiny_run_open(ctx, &(tiny_run){.model = dir, .dtype = SY_F32, .evaluate = true});
    sy_model *m = run->model;
    tiny_batch b;
    int64_t image = 0, channels = 0, rows = TINY_TOKENS;
    float *pixels = NULL;
    tiny_batch_make(&b, (int)m->vocab, 5);
    if (m->arch->input == SY_INPUT_IMAGES) {
        static const int32_t target[IMAGES] = {0, 1, 2};
        assert_true(syi_arch_field(m->arch, m->config, "image_size", &image) && syi_arch_field(m->arch, m->config, "channels", &channels));
        const int64_t n = IMAGES * image * image * channels;
        pixels = malloc((size_t)n * sizeof *pixels);
        syi_normal(11, 0, n, pixels);
        b.batch = (sy_batch){.rows = IMAGES, .seq = 1, .tokens = IMAGES, .target = target, .samples = IMAGES, .trained = IMAGES, .pixels = pixels,
                             .height = image, .width = image, .channels = channels};
        rows = IMAGES;
    }
    sy_plan plan;
    TEST_OK(ctx, sy_run_plan(run, b.batch.tokens, false, &plan));
    TEST_OK(ctx, sy_run_reserve(run, &plan));
    *out = malloc((size_t)(rows * m->outputs) * sizeof **out);
    TEST_OK(ctx, sy_run_logits(run, &b.batch, tiny_take_logits, &(tiny_logits_sink){*out, m->outputs}));
    const int64_t n = rows * m->outputs;
    sy_run_close(run);
    free(pixels);
    return n;
}

static void check(test_folder *f, const char *config, int groups)
{
    char a[512], b[512];
    float *x, *y;
    in_folder(f, a, "a"), in_folder(f, b, "b");
    TEST_OK(f->ctx, sy_model_create(f->ctx, config, a, 1, SY_F32));
    in_folder(f, b, "shaken");
    rewrite(f->ctx, a, b, shake, NULL);
    in_folder(f, a, "shaken"), in_folder(f, b, "b");
    syi_model_options o = {.dtype = SY_F32};
    sy_model *m;
    TEST_OK(f->ctx, syi_model_load(f->ctx, a, &o, &m));
    shuffle s = {.seed = 9};
    TEST_OK(f->ctx, syi_arch_perms(f->ctx, m->arch, m->config, m->arena, &s.perms, &s.n));
    int seen = 0;
    for (int i = 0; i < s.n; i++) {
        int k = 0;
        while (strcmp(s.perms[k].group, s.perms[i].group) != 0) k++;
        seen += k == i;
        assert_int_equal(s.perms[k].units, s.perms[i].units);
        assert_true(s.perms[i].units > 1);
        assert_non_null(sy_checkpoint_find(m->source->tensors, s.perms[i].tensor));
    }
    assert_int_equal(seen, groups);
    rewrite(f->ctx, a, b, shuffled, &s);
    assert_true(s.moved > 20);
    syi_model_free(m);
    const int64_t n = logits(f->ctx, a, &x);
    assert_int_equal(logits(f->ctx, b, &y), n);
    double off = 0, size = 0;
    for (int64_t i = 0; i < n; i++) off += ((double)x[i] - y[i]) * ((double)x[i] - y[i]), size += (double)x[i] * x[i];
    if (!(off <= 1e-10 * size) || size == 0) fail_msg("another function: relative difference %g", sqrt(off / size));
    free(x), free(y);
}

#define DECODER "\"hidden_size\": 32, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 8, " \
                "\"intermediate_size\": 40, \"vocab_size\": 40, \"max_position_embeddings\": 64"
static void llama(void **state) { check(*state, "{\"model_type\": \"llama\", " DECODER "}", 1 + 2 * 4); }
static void llama_biases(void **state)
{
    check(*state, "{\"model_type\": \"llama\", \"attention_bias\": true, \"mlp_bias\": true, \"tie_word_embeddings\": true, " DECODER "}", 1 + 2 * 4);
}
static void qwen2(void **state) { check(*state, "{\"model_type\": \"qwen2\", " DECODER "}", 1 + 2 * 4); }
static void qwen3(void **state) { check(*state, "{\"model_type\": \"qwen3\", " DECODER "}", 1 + 2 * 4); }
static void gpt2(void **state)
{
    check(*state, "{\"model_type\": \"gpt2\", \"n_embd\": 32, \"n_layer\": 2, \"n_head\": 4, \"n_positions\": 64, \"vocab_size\": 40}", 1 + 2 * 4);
}
#define GEMMA "\"query_pre_attn_scalar\": 5, \"sliding_window\": 4, " DECODER "}"
static void gemma2(void **state) { check(*state, "{\"model_type\": \"gemma2\", \"attn_logit_softcapping\": 2, \"final_logit_softcapping\": 3, " GEMMA, 1 + 2 * 4); }
static void gemma3(void **state) { check(*state, "{\"model_type\": \"gemma3_text\", \"sliding_window_pattern\": 2, " GEMMA, 1 + 2 * 4); }
static void phi3(void **state) { check(*state, "{\"model_type\": \"phi3\", " DECODER "}", 1 + 2 * 4); }
static void smollm3(void **state) { check(*state, "{\"model_type\": \"smollm3\", \"no_rope_layer_interval\": 2, " DECODER "}", 1 + 2 * 4); }
static void olmo2(void **state) { check(*state, "{\"model_type\": \"olmo2\", " DECODER "}", 1 + 2 * 4); }
static void mlp(void **state)
{
    check(*state, "{\"model_type\": \"mlp\", \"hidden_sizes\": [20, 30, 10], \"num_labels\": 5, \"image_size\": 6, \"num_channels\": 2}", 3);
}
static void vgg(void **state)
{
    check(*state, "{\"model_type\": \"torchvision_vgg\", \"layers\": [8, \"M\", 12, 16, \"M\"], \"batch_norm\": true, \"classifier\": [20, 24], \"num_labels\": 5, "
                  "\"image_size\": 8, \"num_channels\": 3, \"avgpool\": 1}", 5);
}
static void vgg_wide_map(void **state)
{
    check(*state, "{\"model_type\": \"torchvision_vgg\", \"layers\": [8, \"M\", 12], \"batch_norm\": false, \"classifier\": [20], \"num_labels\": 5, "
                  "\"image_size\": 8, \"num_channels\": 1}", 3);
}
static void resnet(void **state)
{
    check(*state, "{\"model_type\": \"torchvision_resnet\", \"layers\": [2, 2, 1], \"widths\": [8, 12, 16], \"num_labels\": 5, \"image_size\": 8, \"num_channels\": 3}", 3 + 5);
}
static void resnet_bottleneck(void **state)
{
    check(*state, "{\"model_type\": \"torchvision_resnet\", \"block\": \"bottleneck\", \"stem\": \"imagenet\", \"layers\": [1, 2], \"widths\": [6, 8], \"num_labels\": 5, "
                  "\"image_size\": 16, \"num_channels\": 3}", 3 + 2 * 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        folder_test(llama), folder_test(llama_biases), folder_test(qwen2), folder_test(qwen3), folder_test(gpt2), folder_test(gemma2),
        folder_test(gemma3), folder_test(phi3), folder_test(smollm3), folder_test(olmo2), folder_test(mlp), folder_test(vgg),
        folder_test(vgg_wide_map), folder_test(resnet), folder_test(resnet_bottleneck),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
