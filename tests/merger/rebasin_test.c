/* SPDX-License-Identifier: Apache-2.0 */
/* Re-basin with data: activations, straight-through and Sinkhorn find a network that was only
 * shuffled; heads too; running statistics against a convolution written out; losses on the line
 * against `eval`; the spectral identities behind R; the derivatives' prediction where it holds. */
#include "support/merging.h"
#include "support/tiny_model.h"

#include "merger/_rebasin_look.h"
#include "tensor/orth.h"

#include <math.h>

static uint64_t state_ = 11;
static double noise(void)
{
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (double)(state_ >> 11) * 0x1p-53 * 2 - 1;
}

/* -- running a merge ----------------------------------------------------------------------------- */

/* A number of the report of the merge, which must succeed; threads 0: all. */
static double merged(merging *m, const char *recipe, const char *out, const char *key, int threads)
{
    sy_job *job;
    char path[600], quoted[80], count[16];
    static int number;
    snprintf(path, sizeof path, "%s/r%d.yaml", m->dir, number++);
    scratch_write(path, recipe, strlen(recipe));
    snprintf(count, sizeof count, "%d", threads);
    TEST_OK(m->ctx, sy_job_new(m->ctx, "merge", &job));
    TEST_OK(m->ctx, sy_job_set(job, "recipe", path));
    TEST_OK(m->ctx, sy_job_set(job, "out", scratch_path(m->dir, out)));
    if (threads) TEST_OK(m->ctx, sy_job_set(job, "threads", count));
    if (sy_job_run(job) != SY_OK) fail_msg("%s\n%s", sy_error_message(m->ctx), recipe);
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = key[0] ? strstr(sy_job_report(job), quoted) : NULL;
    if (key[0] && !at) fail_msg("no %s in %s", key, sy_job_report(job));
    const double v = at ? strtod(at + strlen(quoted), NULL) : 0;
    sy_job_free(job);
    return v;
}

/* A tensor of a model, memory for the caller to free. */
static float *tensor(merging *m, const char *model, const char *name, int64_t *n)
{
    sy_checkpoint *ck;
    TEST_OK(m->ctx, sy_checkpoint_open(m->ctx, scratch_path(m->dir, model), &ck));
    const sy_entry *e = sy_checkpoint_find(ck, name);
    if (!e) fail_msg("%s has no %s", model, name);
    *n = 1;
    for (int i = 0; i < e->rank; i++) *n *= e->dim[i];
    float *x = malloc((size_t)*n * sizeof *x);
    TEST_OK(m->ctx, sy_entry_read_f32(m->ctx, e, 0, *n / (e->rank ? e->dim[e->rank - 1] : 1), x));
    sy_checkpoint_close(ck);
    return x;
}

/* Largest difference over all tensors, or those whose name holds `part`. */
static double apart(merging *m, const char *a, const char *b, const char *part)
{
    sy_checkpoint *ck;
    double most = 0;
    int seen = 0;
    TEST_OK(m->ctx, sy_checkpoint_open(m->ctx, scratch_path(m->dir, a), &ck));
    for (int64_t i = 0; i < sy_checkpoint_count(ck); i++) {
        const char *name = sy_checkpoint_at(ck, i)->name;
        int64_t n;
        if (part && !strstr(name, part)) continue;
        float *x = tensor(m, a, name, &n), *y = tensor(m, b, name, &n);
        for (int64_t k = 0; k < n; k++) most = fmax(most, fabs((double)x[k] - (double)y[k]));
        free(x), free(y);
        seen++;
    }
    sy_checkpoint_close(ck);
    assert_true(seen > 0);
    return most;
}

/* -- pictures and networks for them ------------------------------------------------------------------ */

enum { IMAGES = 60, SIDE = 6, CLASSES = 4 };

static void big_endian(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
}

/* Noise around one picture a class: dir/some-images-idx3-ubyte and its labels. */
static const char *images(merging *m, uint8_t pixel[IMAGES][SIDE * SIDE])
{
    static uint8_t file[16 + IMAGES * SIDE * SIDE], labels[8 + IMAGES];
    uint8_t mean[CLASSES][SIDE * SIDE];
    for (int i = 0; i < CLASSES * SIDE * SIDE; i++) mean[i / (SIDE * SIDE)][i % (SIDE * SIDE)] = (uint8_t)(128 + 60 * noise());
    big_endian(file, 0x803), big_endian(file + 4, IMAGES), big_endian(file + 8, SIDE), big_endian(file + 12, SIDE);
    big_endian(labels, 0x801), big_endian(labels + 4, IMAGES);
    for (int i = 0; i < IMAGES; i++) {
        labels[8 + i] = (uint8_t)(i % CLASSES);
        for (int k = 0; k < SIDE * SIDE; k++) pixel[i][k] = file[16 + i * SIDE * SIDE + k] = (uint8_t)(mean[i % CLASSES][k] + 60 * noise());
    }
    scratch_write(scratch_path(m->dir, "some-images-idx3-ubyte"), (const char *)file, sizeof file);
    scratch_write(scratch_path(m->dir, "some-labels-idx1-ubyte"), (const char *)labels, sizeof labels);
    static char path[600]; /* scratch_path's own is soon another's */
    snprintf(path, sizeof path, "%s/some-images-idx3-ubyte", m->dir);
    return path;
}

#define MLP "{\"model_type\": \"mlp\", \"hidden_act\": \"gelu\", \"hidden_sizes\": [20, 16], \"num_labels\": 4, \"image_size\": 6, \"num_channels\": 1}"
#define RESNET "{\"model_type\": \"torchvision_resnet\", \"layers\": [1, 2], \"widths\": [8, 12], \"num_labels\": 4, \"image_size\": 6, \"num_channels\": 1}"
#define VGG "{\"model_type\": \"torchvision_vgg\", \"layers\": [8, \"M\", 12], \"batch_norm\": true, \"classifier\": [20], \"num_labels\": 4, \"image_size\": 6, \"num_channels\": 1}"

static void create(merging *m, const char *config, const char *name, uint64_t seed) { TEST_OK(m->ctx, sy_model_create(m->ctx, config, scratch_path(m->dir, name), seed, SY_F32)); }

/* "b": "a" with its units where those of an unrelated network are most alike, which is a
 * permutation of a that nothing below knows of. */
static void shuffled(merging *m, const char *config)
{
    create(m, config, "a", 1);
    create(m, config, "other", 2);
    merged(m, "merge_method: weight_matching\nmodels: [{model: other}, {model: a}]\nparameters: {lambda: 1}\n", "b", "", 0);
    assert_true(apart(m, "a", "b", NULL) > 0.01);
}

static void finds_a_shuffled_network(void **state)
{
    static const char *const configs[] = { MLP, VGG, RESNET };
    /* inputs of both signs: a unit that is never active cannot be told from another such one */
    static const char rules[] = "{\"do_resize\": false, \"do_rescale\": true, \"do_normalize\": true, \"image_mean\": [0.5], \"image_std\": [0.2]}";
    static const char *const searches[] = { "am", "am, am_stat: pearson", "ste, ste_epochs: 2, ste_batch: 30", NULL };
    uint8_t pixel[IMAGES][SIDE * SIDE];
    char recipe[800], out[40];
    for (int c = 0; c < SYI_COUNT(configs); c++) {
        merging *m;
        assert_int_equal(merging_setup((void **)&m), 0);
        const char *data = images(m, pixel);
        shuffled(m, configs[c]);
        for (int i = 0; i < 2; i++) scratch_write(scratch_path(m->dir, i ? "a/preprocessor_config.json" : "b/preprocessor_config.json"), rules, sizeof rules - 1);
        for (int i = 0; searches[i]; i++) {
            snprintf(recipe, sizeof recipe, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\nparameters: {lambda: 1, data: %s, method: %s}\n", data, searches[i]);
            snprintf(out, sizeof out, "found%d", i);
            const double left = merged(m, recipe, out, "distance_after", 0);
            if (left != 0 || apart(m, "a", out, NULL) != 0) fail_msg("network %d, %s: %g from the one that was shuffled", c, searches[i], left);
        }
        merging_teardown((void **)&m);
    }
    (void)state;
}

static void sinkhorn_finds_it(void **state)
{
    merging *m = *state;
    uint8_t pixel[IMAGES][SIDE * SIDE];
    char recipe[800];
    const char *data = images(m, pixel);
    shuffled(m, MLP);
    const double before = merged(m, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\nparameters: {lambda: 1, method: sinkhorn-wm}\n", "found", "distance_before", 0);
    assert_true(before > 1);
    assert_true(apart(m, "a", "found", NULL) == 0);
    /* by the loss: a match at least; the function stays b's whatever it is */
    snprintf(recipe, sizeof recipe,
             "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\nparameters: {lambda: 1, data: %s, method: sinkhorn-ste, ste_batch: 60, sinkhorn_steps: 30, curve: 2}\n", data);
    const double after = merged(m, recipe, "soft", "midpoint_barrier_after", 0), naive = merged(m, recipe, "soft2", "midpoint_barrier_before", 2);
    if (!(after < naive)) fail_msg("the midpoint's loss did not fall: %g, before %g", after, naive);
    assert_true(apart(m, "soft", "soft2", NULL) == 0); /* whatever the threads */
}

static void soft_permutations(void **state)
{
    (void)state;
    enum { N = 5 };
    static float x[N * N], z[(2 * REBASIN_SINKHORN + 1) * N * N], p[N * N], d[N * N], weight[N * N];
    for (int i = 0; i < N * N; i++) x[i] = (float)noise(), weight[i] = (float)noise();
    rebasin_soft(N, x, z, p);
    for (int i = 0; i < N; i++) {
        double row = 0, column = 0;
        for (int k = 0; k < N; k++) row += p[i * N + k], column += p[k * N + i];
        assert_float_equal(row, 1, 1e-5);
        assert_float_equal(column, 1, 1e-5);
    }
    memcpy(d, weight, sizeof d);
    rebasin_soft_back(N, z, d);
    for (int i = 0; i < N * N; i++) {
        double f[2] = { 0, 0 };
        const float was = x[i];
        for (int s = 0; s < 2; s++) {
            x[i] = was + (s ? -5e-3f : 5e-3f);
            rebasin_soft(N, x, z, p);
            for (int k = 0; k < N * N; k++) f[s] += (double)p[k] * weight[k];
        }
        x[i] = was;
        assert_float_equal((f[0] - f[1]) / 1e-2, d[i], 2e-4);
    }
}

/* -- text ---------------------------------------------------------------------------------------------------- */

static const char *text(merging *m)
{
    static const char line[] = "{\"text\": \"In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness was upon the face of the deep.\"}\n"
                               "{\"text\": \"And God said, Let there be light: and there was light. And God saw the light, that it was good: and God divided the light from the darkness.\"}\n";
    scratch_write(scratch_path(m->dir, "text.jsonl"), line, sizeof line - 1);
    static char path[600];
    snprintf(path, sizeof path, "%s/text.jsonl", m->dir);
    return path;
}

static void give_tokenizer(merging *m, const char *model)
{
    char from[600], to[600];
    static const char *const files[] = { "tokenizer.json", "tokenizer_config.json" };
    for (int i = 0; i < 2; i++) {
        snprintf(from, sizeof from, "%s/models/tiny/%s", getenv("STEELYARD_ROOT"), files[i]);
        snprintf(to, sizeof to, "%s/%s/%s", m->dir, model, files[i]);
        TEST_OK(m->ctx, syi_copy_file(m->ctx, from, to));
    }
}

#define LLAMA(tied) "{\"model_type\": \"llama\", \"hidden_size\": 32, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 8, " \
                    "\"intermediate_size\": 40, \"vocab_size\": 2048, \"max_position_embeddings\": 64, \"eos_token_id\": 0, \"tie_word_embeddings\": " tied "}"
#define GPT2 "{\"model_type\": \"gpt2\", \"n_embd\": 32, \"n_layer\": 2, \"n_head\": 4, \"n_positions\": 64, \"vocab_size\": 2048, \"eos_token_id\": 0}"

#define PHI3 "{\"model_type\": \"phi3\", \"hidden_size\": 32, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"intermediate_size\": 40, " \
             "\"vocab_size\": 2048, \"max_position_embeddings\": 64, \"eos_token_id\": 0}"

/* A search of a shuffled network; the losses at both ends are what `eval` says of it. */
static void text_network(merging *m, const char *config, const char *method)
{
    static const char *const names[] = { "a", "other", "b" };
    char recipe[800];
    const char *data = text(m);
    shuffled(m, config);
    for (int i = 0; i < 3; i++) give_tokenizer(m, names[i]);
    snprintf(recipe, sizeof recipe, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\nparameters: {lambda: 1, data: %s, seq: 32, method: %s, curve: 2}\n", data, method);
    const double loss = merged(m, recipe, "found", "loss_first", 0);
    if (strcmp(method, "am") == 0) assert_true(apart(m, "a", "found", NULL) == 0);
    assert_float_equal(merged(m, recipe, "again", "loss_second", 0), loss, 1e-5);
    sy_job *job;
    TEST_OK(m->ctx, sy_job_new(m->ctx, "eval", &job));
    TEST_OK(m->ctx, sy_job_set(job, "model", scratch_path(m->dir, "a")));
    TEST_OK(m->ctx, sy_job_set(job, "data", data));
    TEST_OK(m->ctx, sy_job_set(job, "seq", "32"));
    TEST_OK(m->ctx, sy_job_set(job, "dtype", "f32"));
    TEST_OK(m->ctx, sy_job_run(job));
    assert_float_equal(strtod(strstr(sy_job_report(job), "\"loss\":") + 7, NULL), loss, 1e-5);
    sy_job_free(job);
}

static void llama_by_activations(void **state)
{
    static const char *const configs[] = { LLAMA("false"), LLAMA("true") };
    for (int i = 0; i < 2; i++) {
        merging *m;
        assert_int_equal(merging_setup((void **)&m), 0);
        text_network(m, configs[i], "am");
        merging_teardown((void **)&m);
    }
    (void)state;
}

/* Its matrices lie the other way round in the file; channels of q and k are groups of their own, which
 * activations say nothing of. */
static void phi3_on_data(void **state) { text_network(*state, PHI3, "wm"); }
static void gpt2_on_data(void **state)
{
    merging *m = *state;
    text_network(m, GPT2, "wm");
    merged(m, "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 0}}]\n", "first", "", 0);
    assert_true(apart(m, "a", "first", NULL) == 0);
}

static void refused(void **state)
{
    merging *m = *state;
    uint8_t pixel[IMAGES][SIDE * SIDE];
    char recipe[800];
    const char *data = images(m, pixel);
    create(m, MLP, "a", 1), create(m, MLP, "b", 2), create(m, MLP, "c", 3);
    create(m, LLAMA("true"), "l", 1), create(m, LLAMA("true"), "k", 2);
#define TWO(x, y) "merge_method: weight_matching\nmodels: [{model: " x "}, {model: " y "}]\n"
    merging_fails(m, TWO("a", "b") "parameters: {method: am}\n", SY_E_USAGE, "am needs data");
    merging_fails(m, TWO("a", "b") "parameters: {curve: 5}\n", SY_E_USAGE, "curve needs data");
    merging_fails(m, TWO("a", "b") "parameters: {method: stee}\n", SY_E_USAGE, "ste");
    merging_fails(m, TWO("a", "b") "parameters: {measure: true, gamma: [2]}\n", SY_E_USAGE, "gamma");
    merging_fails(m, TWO("l", "k") "parameters: {method: sinkhorn-wm}\n", SY_E_UNSUPPORTED, "heads");
    merging_fails(m, TWO("a", "b") "parameters: {method: am, data: nowhere}\n", SY_E_INPUT, "nowhere");
    snprintf(recipe, sizeof recipe, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}, {model: c}]\nparameters: {curve: 3, data: %s}\n", data);
    merging_fails(m, recipe, SY_E_USAGE, "two models");
}

/* -- running statistics ------------------------------------------------------------------------------------- */

/* conv1 of the merged network on all pictures, written out; its channels' moments. */
static void statistics_are_estimated(void **state)
{
    merging *m = *state;
    uint8_t pixel[IMAGES][SIDE * SIDE];
    char recipe[800];
    const char *data = images(m, pixel);
    int64_t n;
    create(m, RESNET, "a", 1), create(m, RESNET, "b", 2);
    snprintf(recipe, sizeof recipe, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\nparameters: {data: %s, batch: 30}\n", data);
    merged(m, recipe, "new", "", 0);
    float *w = tensor(m, "new", "conv1.weight", &n), *mean = tensor(m, "new", "bn1.running_mean", &n), *var = tensor(m, "new", "bn1.running_var", &n);
    for (int c = 0; c < n; c++) {
        double sum = 0, square = 0, halves = 0;
        const double count = (double)IMAGES * SIDE * SIDE;
        for (int i = 0; i < IMAGES; i++)
            for (int y = 0; y < SIDE; y++)
                for (int x = 0; x < SIDE; x++) {
                    double s = 0;
                    for (int dy = -1; dy <= 1; dy++)
                        for (int dx = -1; dx <= 1; dx++)
                            if (y + dy >= 0 && y + dy < SIDE && x + dx >= 0 && x + dx < SIDE) s += (double)w[c * 9 + (dy + 1) * 3 + dx + 1] * pixel[i][(y + dy) * SIDE + x + dx] / 255;
                    sum += s;
                    square += s * s;
                }
        assert_float_equal(mean[c], sum / count, 1e-5);
        /* two batches of random halves: their variances' mean is that of all, but for the halves' means */
        halves = square / count - (sum / count) * (sum / count);
        assert_true(fabs(var[c] - halves) < 0.05 * halves);
    }
    free(w), free(mean), free(var);
    /* one batch of all: the unbiased variance exactly; moved only: the second's own; 0: the average */
    snprintf(recipe, sizeof recipe, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\nparameters: {data: %s, batch: 60, lambda: 1}\n", data);
    merged(m, recipe, "moved", "", 0);
    var = tensor(m, "moved", "bn1.running_var", &n);
    for (int c = 0; c < n; c++) assert_true(var[c] == 1);
    free(var);
    snprintf(recipe, sizeof recipe, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\nparameters: {data: %s, bn_reestimate: 0}\n", data);
    merged(m, recipe, "average", "", 0);
    var = tensor(m, "average", "bn1.running_var", &n);
    for (int c = 0; c < n; c++) assert_true(var[c] == 1);
    free(var);
}

/* -- the search itself ---------------------------------------------------------------------------------------- */

static void never_worse(void **state)
{
    merging *m = *state;
    char recipe[400], out[40];
    create(m, RESNET, "a", 1), create(m, RESNET, "b", 2);
    double last = merged(m, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\n", "done", "distance_before", 0);
    const double best = merged(m, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\n", "again", "distance_after", 0);
    for (int sweeps = 1; sweeps < 8; sweeps++) {
        snprintf(recipe, sizeof recipe, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\nparameters: {max_iter: %d}\n", sweeps);
        snprintf(out, sizeof out, "s%d", sweeps);
        const double d = merged(m, recipe, out, "distance_after", 0);
        assert_true(d <= last * (1 + 1e-12) && d >= best * (1 - 1e-12));
        last = d;
    }
    assert_true(best < 0.99 * merged(m, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\n", "third", "distance_before", 0));
}

/* -- what R stands on --------------------------------------------------------------------------------------------- */

static void spectral_identities(void **state)
{
    merging *m = *state;
    enum { R = 7, C = 11, Q = 7 };
    static double w[2][R * C], ut[2][Q * R], s[2][Q], vt[2][Q * C], moved[R * C], s2[Q], u2[Q * R], v2[Q * C];
    float f[2][R * C];
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < R * C; i++) w[k][i] = f[k][i] = (float)noise();
    for (int k = 0; k < 2; k++) TEST_OK(m->ctx, syi_leading(m->ctx, R, C, w[k], Q, ut[k], s[k], vt[k]));
    double inner = 0, sum = 0, product = 0, plain = 0, r = 0, count = 0;
    for (int i = 0; i < R * C; i++) inner += w[0][i] * w[1][i];
    for (int i = 0; i < Q; i++)
        for (int j = 0; j < Q; j++) {
            double uu = 0, vv = 0;
            for (int k = 0; k < R; k++) uu += ut[0][i * R + k] * ut[1][j * R + k];
            for (int k = 0; k < C; k++) vv += vt[0][i * C + k] * vt[1][j * C + k];
            sum += s[0][i] * s[1][j] * uu * vv;
            plain += uu * vv;
        }
    assert_float_equal(sum, inner, 1e-10);
    for (int i = 0; i < R; i++)
        for (int k = 0; k < C; k++) {
            double x = 0, y = 0;
            for (int q = 0; q < Q; q++) x += ut[0][q * R + i] * vt[0][q * C + k], y += ut[1][q * R + i] * vt[1][q * C + k];
            product += x * y;
        }
    assert_float_equal(plain, product, 1e-10);
    const double zero = 0;
    TEST_OK(m->ctx, rebasin_align(m->ctx, R, C, f[0], f[1], &zero, 1, &r, &count));
    assert_float_equal(r, product, 1e-9);
    assert_float_equal(count, Q, 0);
    r = count = 0;
    TEST_OK(m->ctx, rebasin_align(m->ctx, R, C, f[0], f[0], &zero, 1, &r, &count));
    assert_float_equal(r / count, 1, 1e-9);
    /* permutations turn singular vectors, never singular values */
    for (int i = 0; i < R; i++)
        for (int k = 0; k < C; k++) moved[i * C + k] = w[0][(3 * i + 2) % R * C + (5 * k + 1) % C];
    TEST_OK(m->ctx, syi_leading(m->ctx, R, C, moved, Q, u2, s2, v2));
    for (int q = 0; q < Q; q++) assert_float_equal(s2[q], s[0][q], 1e-6 * s[0][0]);
}

/* Networks near each other: the barrier is what derivatives say. */
static void prediction(void **state)
{
    merging *m = *state;
    uint8_t pixel[IMAGES][SIDE * SIDE];
    char recipe[800];
    const char *data = images(m, pixel);
    int64_t n[6];
    static const char *const names[] = { "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "layers.2.weight", "layers.2.bias" };
    static const int64_t dim[6][2] = { { 20, 36 }, { 20, 0 }, { 16, 20 }, { 16, 0 }, { 4, 16 }, { 4, 0 } };
    merging_tensor t[6];
    /* gelu: second derivatives that a rectifier lacks */
    create(m, "{\"model_type\": \"mlp\", \"hidden_sizes\": [20, 16], \"num_labels\": 4, \"image_size\": 6, \"num_channels\": 1, \"hidden_act\": \"gelu\"}", "a", 1);
    for (int i = 0; i < 6; i++) {
        float *x = tensor(m, "a", names[i], &n[i]);
        for (int64_t k = 0; k < n[i]; k++) x[k] += (float)(0.03 * noise());
        t[i] = (merging_tensor){ names[i], dim[i][1] ? 2 : 1, { dim[i][0], dim[i][1] }, x };
    }
    merging_model(m, "b", SY_F32, t, 6);
    for (int i = 0; i < 6; i++) free((void *)(uintptr_t)t[i].data);
    TEST_OK(m->ctx, syi_copy_file(m->ctx, scratch_path(m->dir, "a/config.json"), scratch_path(m->dir, "b/config.json")));
    snprintf(recipe, sizeof recipe, "merge_method: weight_matching\nmodels: [{model: a}, {model: b}]\nparameters: {data: %s, predict: true, ste_batch: 60, batch: 60, curve: 3}\n", data);
    const double predicted = merged(m, recipe, "p", "predicted_barrier", 0), found = merged(m, recipe, "q", "midpoint_barrier_after", 0);
    if (!(fabs(predicted - found) < 0.1 * fabs(found)) || fabs(found) < 1e-5) fail_msg("barrier %g, derivatives say %g", found, predicted);
}

int main(void)
{
    const struct CMUnitTest tests[] = { merging_test(finds_a_shuffled_network), merging_test(sinkhorn_finds_it), merging_test(soft_permutations), merging_test(llama_by_activations), merging_test(gpt2_on_data), merging_test(phi3_on_data),
                                        merging_test(refused), merging_test(statistics_are_estimated), merging_test(never_worse), merging_test(spectral_identities),
                                        merging_test(prediction) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
