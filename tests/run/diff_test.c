/* SPDX-License-Identifier: Apache-2.0 */
/* diff: numbers against sums and decompositions made here, adapters against the models
 * that they are folded into, the same report for any number of threads, no leak when
 * memory runs out. */
#include "io/io.h"
#include "run/diff.h"
#include "run/job.h"
#include "support/folder.h"
#include "support/tiny_model.h"
#include "support/torture.h"

typedef struct { const char *name; int rank; int64_t dim[2]; } shape;

/* A file of normal numbers; `with` (may be NULL) adds to some of them. */
static void write_tensors(sy_context *ctx, const char *path, const shape *t, int n, uint64_t seed, void (*with)(const char *name, float *v, int64_t count))
{
    sy_writer *w = NULL;
    TEST_OK(ctx, sy_writer_new(ctx, path, 0, &w));
    for (int i = 0; i < n; i++) TEST_OK(ctx, sy_writer_declare(w, t[i].name, SY_F32, t[i].rank, t[i].dim));
    TEST_OK(ctx, sy_writer_begin(w));
    for (int i = 0; i < n; i++) {
        const int64_t rows = t[i].rank > 1 ? t[i].dim[0] : 1, count = rows * t[i].dim[t[i].rank - 1];
        float *v = malloc((size_t)count * sizeof *v);
        syi_normal(syi_key(seed, "t", t[i].name, 0), 0, count, v);
        if (with != NULL) with(t[i].name, v, count);
        TEST_OK(ctx, sy_writer_put(w, t[i].name, 0, rows, v));
        free(v);
    }
    TEST_OK(ctx, sy_writer_end(w));
}

/* The report of `diff` with these settings; NULL and the status when it fails. */
static json_t *diff(sy_context *ctx, const char *const *set, sy_status *status)
{
    sy_job *job = NULL;
    json_t *report = NULL;
    *status = sy_job_new(ctx, "diff", &job);
    for (int i = 0; *status == SY_OK && set[i] != NULL; i += 2) *status = sy_job_set(job, set[i], set[i + 1]);
    if (*status == SY_OK) *status = sy_job_run(job);
    if (*status == SY_OK) report = json_loads(sy_job_report(job), 0, NULL);
    sy_job_free(job);
    return report;
}

static json_t *diff_ok(sy_context *ctx, const char *const *set)
{
    sy_status status;
    json_t *r = diff(ctx, set, &status);
    if (r == NULL) fail_msg("%s", sy_error_message(ctx));
    return r;
}

static const json_t *tensor(const json_t *report, const char *name)
{
    json_t *list = json_object_get(report, "tensors"), *v;
    size_t i;
    json_array_foreach(list, i, v)
        if (strcmp(json_string_value(json_object_get(v, "name")), name) == 0) return v;
    fail_msg("no tensor %s", name);
    return NULL;
}

static double get(const json_t *j, const char *key) { return json_number_value(json_object_get(j, key)); }

static void near(double got, double want, double tol, const char *what)
{
    if (!(fabs(got - want) <= tol * (fabs(want) + 1e-12))) fail_msg("%s: %.9g, not %.9g", what, got, want);
}

enum { A_ROWS = 40, A_COLS = 25, B_COLS = 70 };
static const shape left[] = {{"m.0.w", 2, {A_ROWS, A_COLS}}, {"m.1.w", 2, {A_COLS, B_COLS}}, {"m.1.v", 1, {30, 0}}, {"same", 2, {6, 5}}, {"odd", 2, {3, 4}}, {"a.only", 1, {3, 0}}};
static const shape right[] = {{"m.0.w", 2, {A_ROWS, A_COLS}}, {"m.1.w", 2, {A_COLS, B_COLS}}, {"m.1.v", 1, {30, 0}}, {"same", 2, {6, 5}}, {"odd", 2, {4, 3}}, {"b.only", 1, {3, 0}}};

static void some_change(const char *name, float *v, int64_t n)
{
    if (strcmp(name, "same") == 0) return;
    for (int64_t i = 0; i < n; i++) v[i] += 0.1f * (float)((i * 7 + name[2]) % 11) - 0.3f;
}

/* Everything said of one tensor, by sums in f64 and LAPACK's own decomposition. */
static void check(sy_context *ctx, const json_t *t, const char *a_path, const char *b_path, const char *name, int64_t rows, int64_t cols)
{
    sy_checkpoint *ca = NULL, *cb = NULL;
    TEST_OK(ctx, sy_checkpoint_open(ctx, a_path, &ca));
    TEST_OK(ctx, sy_checkpoint_open(ctx, b_path, &cb));
    const int64_t n = rows * cols, p = syi_min(rows, cols);
    float *a = malloc((size_t)(3 * n) * sizeof *a), *b = a + n, *d = b + n, *u = malloc((size_t)(rows * p + p + p * cols) * sizeof *u);
    TEST_OK(ctx, sy_entry_read_f32(ctx, sy_checkpoint_find(ca, name), 0, rows, a));
    TEST_OK(ctx, sy_entry_read_f32(ctx, sy_checkpoint_find(cb, name), 0, rows, b));
    double a2 = 0, b2 = 0, d2 = 0, ab = 0, top = 0;
    for (int64_t i = 0; i < n; i++) {
        d[i] = b[i] - a[i];
        a2 += (double)a[i] * a[i];
        b2 += (double)b[i] * b[i];
        ab += (double)a[i] * b[i];
        d2 += (double)d[i] * d[i];
        top = fmax(top, fabs((double)d[i]));
    }
    near(get(t, "norm_a"), sqrt(a2), 1e-9, "norm_a");
    near(get(t, "norm_b"), sqrt(b2), 1e-9, "norm_b");
    near(get(t, "norm_delta"), sqrt(d2), 1e-6, "norm_delta");
    near(get(t, "relative"), sqrt(d2 / a2), 1e-6, "relative");
    near(get(t, "cosine"), ab / sqrt(a2 * b2), 1e-9, "cosine");
    near(get(t, "max_delta"), top, 1e-6, "max_delta");
    const json_t *s = json_object_get(t, "spectrum");
    if (rows > 1) {
        TEST_OK(ctx, syi_svd(ctx, rows, cols, d, u, u + rows * p, u + rows * p + p));
        const float *sigma = u + rows * p;
        double sum = 0, entropy = 0, so_far = 0;
        int rank90 = 0;
        for (int64_t i = 0; i < p; i++) sum += (double)sigma[i];
        for (int64_t i = 0; i < p; i++) {
            if (sigma[i] > 1e-6f * sigma[0]) entropy -= (double)sigma[i] / sum * log((double)sigma[i] / sum);
            so_far += (double)sigma[i] * (double)sigma[i];
            if (rank90 == 0 && so_far >= 0.9 * d2) rank90 = (int)i + 1;
        }
        assert_true(json_is_true(json_object_get(s, "exact")));
        near(get(s, "effective_rank"), exp(entropy), 1e-4, "effective_rank");
        near(get(s, "stable_rank"), d2 / ((double)sigma[0] * (double)sigma[0]), 1e-5, "stable_rank");
        near(get(s, "rank_90"), rank90, 0, "rank_90");
        near(get(s, "full_rank"), (double)p, 0, "full_rank");
        for (int i = 0; i < 16; i++) near(1 + json_number_value(json_array_get(json_object_get(s, "singular_values"), (size_t)i)) / (double)sigma[0], (double)sigma[i] / (double)sigma[0] + 1, 1e-6, "sigma");
    } else {
        assert_null(s);
    }
    free(a);
    free(u);
    sy_checkpoint_close(ca);
    sy_checkpoint_close(cb);
}

static void numbers(void **state)
{
    test_folder *f = *state;
    char a[512], b[512], svg[512];
    write_tensors(f->ctx, in_folder(f, a, "a.safetensors"), left, SYI_COUNT(left), 1, NULL);
    write_tensors(f->ctx, in_folder(f, b, "b.safetensors"), right, SYI_COUNT(right), 1, some_change);
    in_folder(f, svg, "p.svg");
    json_t *r = diff_ok(f->ctx, (const char *const[]){"a", a, "b", b, "svg", svg, "threads", "1", NULL});
    check(f->ctx, tensor(r, "m.0.w"), a, b, "m.0.w", A_ROWS, A_COLS);
    check(f->ctx, tensor(r, "m.1.w"), a, b, "m.1.w", A_COLS, B_COLS);
    check(f->ctx, tensor(r, "m.1.v"), a, b, "m.1.v", 1, 30);
    assert_true(get(tensor(r, "same"), "norm_delta") == 0 && get(tensor(r, "same"), "changed") == 0);
    near(get(r, "identical"), 1, 0, "identical");
    near(get(r, "compared"), 4, 0, "compared");
    assert_string_equal(json_string_value(json_array_get(json_object_get(r, "only_in_a"), 0)), "a.only");
    assert_string_equal(json_string_value(json_array_get(json_object_get(r, "only_in_b"), 0)), "b.only");
    assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(r, "other_shape"), 0), "name")), "odd");
    double d2 = 0;
    const json_t *layers = json_object_get(r, "layers");
    assert_int_equal(json_array_size(layers), 3); /* none, 0, 1 */
    for (size_t i = 0; i < 3; i++) d2 += pow(get(json_array_get(layers, i), "norm_delta"), 2);
    near(get(json_object_get(r, "total"), "norm_delta"), sqrt(d2), 1e-9, "total");
    json_t *again = diff_ok(f->ctx, (const char *const[]){"a", a, "b", b, "threads", "3", NULL});
    assert_true(json_equal(json_object_get(r, "tensors"), json_object_get(again, "tensors")));
    char *text = NULL;
    int64_t size;
    TEST_OK(f->ctx, syi_read_file(f->ctx, svg, 1 << 20, &text, &size));
    assert_non_null(strstr(text, "relative change"));
    assert_non_null(strstr(text, "effective rank"));
    syi_free(f->ctx, text);
    json_decref(r);
    json_decref(again);
    sy_status status;
    assert_null(diff(f->ctx, (const char *const[]){"a", a, "b", b, "only", "nothing", NULL}, &status));
    assert_int_equal(status, SY_E_INPUT);
    assert_null(diff(f->ctx, (const char *const[]){"a", a, "b", b, "svg", "p.png", NULL}, &status));
    assert_int_equal(status, SY_E_USAGE);
}

/* A change of rank 3 in a matrix that is too large for the leading values to be all. */
static void add_rank_3(const char *name, float *v, int64_t n)
{
    (void)name, (void)n;
    for (int64_t i = 0; i < 200; i++)
        for (int64_t j = 0; j < 180; j++)
            for (int k = 1; k <= 3; k++) v[i * 180 + j] += (float)(sin((double)(i * k)) * cos((double)(j * k * k)) / k);
}

static void leading_values(void **state)
{
    test_folder *f = *state;
    static const shape one[] = {{"w", 2, {200, 180}}};
    char a[512], b[512];
    write_tensors(f->ctx, in_folder(f, a, "a.safetensors"), one, 1, 5, NULL);
    write_tensors(f->ctx, in_folder(f, b, "b.safetensors"), one, 1, 5, add_rank_3);
    json_t *fast = diff_ok(f->ctx, (const char *const[]){"a", a, "b", b, "spectrum", "fast", NULL});
    json_t *exact = diff_ok(f->ctx, (const char *const[]){"a", a, "b", b, "spectrum", "exact", NULL});
    json_t *off = diff_ok(f->ctx, (const char *const[]){"a", a, "b", b, "spectrum", "off", NULL});
    const json_t *s = json_object_get(tensor(fast, "w"), "spectrum"), *t = json_object_get(tensor(exact, "w"), "spectrum");
    assert_false(json_is_true(json_object_get(s, "exact")));
    assert_true(json_is_true(json_object_get(t, "exact")));
    near(get(s, "rank_99"), 3, 0, "rank_99");
    near(get(t, "rank_99"), 3, 0, "rank_99");
    near(get(s, "effective_rank"), get(t, "effective_rank"), 1e-3, "effective_rank");
    for (size_t i = 0; i < 3; i++)
        near(json_number_value(json_array_get(json_object_get(s, "singular_values"), i)), json_number_value(json_array_get(json_object_get(t, "singular_values"), i)), 1e-4, "sigma");
    assert_null(json_object_get(tensor(off, "w"), "spectrum"));
    json_decref(fast);
    json_decref(exact);
    json_decref(off);
}

static void make_adapter(sy_context *ctx, const char *model, const char *name, const char *const *settings, const char *dir, uint64_t seed)
{
    tiny_batch b;
    sy_step_result r;
    tiny_batch_make(&b, TINY_MODEL.vocab, seed);
    sy_run *run = tiny_run_open(ctx, &(tiny_run){.model = model, .adapter = name, .settings = settings, .dtype = SY_F32, .seed = seed});
    for (int i = 0; i < 3; i++) TEST_OK(ctx, sy_run_step_once(run, &b.batch, 1e-2, 1, &r));
    TEST_OK(ctx, syi_mkdirs(ctx, dir));
    TEST_OK(ctx, sy_run_save(run, dir));
    sy_run_close(run);
}

static void fold(sy_context *ctx, const char *model, const char *adapter, const char *out)
{
    sy_run_options o;
    sy_run *run;
    sy_fold result;
    sy_run_options_init(&o);
    o.model = model;
    o.adapter = adapter;
    o.dtype = SY_F32;
    TEST_OK(ctx, sy_run_open(ctx, &o, &run));
    TEST_OK(ctx, sy_run_fold(run, out, SY_F32, &result));
    sy_run_close(run);
}

/* What an adapter changes is what folding it changes; alone it is its own update. */
static void adapters(void **state)
{
    test_folder *f = *state;
    char model[512], dir[512], folded[512], other[512], gguf[512];
    static const char *const lora[] = {"rank=3", "alpha=7", NULL}, *const dora[] = {"rank=2", "use-dora=on", NULL};
    static const struct { const char *name; const char *const *settings; bool plain; } rows[] = {{"lora", lora, true}, {"lora", dora, false}};
    tiny_model_write(f->ctx, &TINY_MODEL, in_folder(f, model, "model"));
    for (int k = 0; k < SYI_COUNT(rows); k++) {
        char name[32];
        snprintf(name, sizeof name, "adapter%d", k);
        make_adapter(f->ctx, model, rows[k].name, rows[k].settings, in_folder(f, dir, name), 3);
        snprintf(name, sizeof name, "folded%d", k);
        fold(f->ctx, model, dir, in_folder(f, folded, name));
        json_t *by_adapter = diff_ok(f->ctx, (const char *const[]){"a", model, "b", dir, NULL});
        json_t *by_fold = diff_ok(f->ctx, (const char *const[]){"a", model, "b", folded, NULL});
        json_t *swapped = diff_ok(f->ctx, (const char *const[]){"a", dir, "b", model, NULL});
        json_t *alone = diff_ok(f->ctx, (const char *const[]){"a", dir, "base", model, NULL});
        json_t *list = json_object_get(by_adapter, "tensors"), *t;
        size_t i;
        assert_true(json_array_size(list) > 0);
        assert_true(json_equal(list, json_object_get(swapped, "tensors")));
        json_array_foreach(list, i, t) {
            const char *tensor_name = json_string_value(json_object_get(t, "name"));
            const json_t *u = tensor(by_fold, tensor_name), *v = tensor(alone, tensor_name);
            near(get(t, "norm_delta"), get(u, "norm_delta"), 1e-4, tensor_name);
            near(get(t, "cosine"), get(u, "cosine"), 1e-6, tensor_name);
            near(get(t, "relative"), get(u, "relative"), 1e-4, tensor_name);
            near(get(v, "norm_delta"), get(t, "norm_delta"), 1e-6, tensor_name);
            const json_t *s = json_object_get(t, "spectrum"), *full = json_object_get(u, "spectrum");
            near(get(s, "stable_rank"), get(full, "stable_rank"), 1e-3, tensor_name);
            if (rows[k].plain) assert_true(get(s, "effective_rank") <= 3.001);
        }
        near(get(json_object_get(by_fold, "total"), "norm_delta"), get(json_object_get(by_adapter, "total"), "norm_delta"), 1e-4, "total");
        json_decref(by_adapter);
        json_decref(by_fold);
        json_decref(swapped);
        json_decref(alone);
    }
    /* two adapters: their updates; the same one as GGUF: none */
    in_folder(f, dir, "adapter0");
    make_adapter(f->ctx, model, "lora", (const char *const[]){"rank=2", NULL}, in_folder(f, other, "other"), 9);
    json_t *two = diff_ok(f->ctx, (const char *const[]){"a", dir, "b", other, NULL});
    assert_string_equal(json_string_value(json_object_get(two, "compares")), "updates");
    const json_t *t = json_array_get(json_object_get(two, "tensors"), 0);
    assert_true(fabs(get(t, "cosine")) < 1 && get(json_object_get(t, "spectrum"), "effective_rank") <= 5.001);
    json_decref(two);
    sy_run_options o;
    sy_run *run;
    int64_t tensors, bytes;
    sy_run_options_init(&o);
    o.model = model;
    o.adapter = dir;
    o.dtype = SY_F32;
    TEST_OK(f->ctx, sy_run_open(f->ctx, &o, &run));
    TEST_OK(f->ctx, syi_run_adapter_to_gguf(run, in_folder(f, gguf, "lora.gguf"), SY_F32, &tensors, &bytes));
    sy_run_close(run);
    two = diff_ok(f->ctx, (const char *const[]){"a", dir, "b", gguf, NULL});
    assert_true(get(json_object_get(two, "total"), "relative") < 1e-6);
    json_decref(two);
    sy_status status;
    in_folder(f, dir, "adapter1"); /* DoRA without its model */
    TEST_OK(f->ctx, syi_remove_tree(f->ctx, model));
    assert_null(diff(f->ctx, (const char *const[]){"a", dir, NULL}, &status));
    assert_int_equal(status, SY_E_USAGE);
    assert_non_null(strstr(sy_error_message(f->ctx), "--base"));
}

typedef struct { const char *a, *b, *svg; } paths;
static sy_status once(sy_context *ctx, void *self)
{
    const paths *p = self;
    sy_status status;
    json_decref(diff(ctx, (const char *const[]){"a", p->a, "b", p->b, "svg", p->svg, "threads", "1", NULL}, &status));
    return status;
}

static void torture(void **state)
{
    test_folder *f = *state;
    char a[512], b[512], svg[512], model[512], adapter[512];
    write_tensors(f->ctx, in_folder(f, a, "a.safetensors"), left, SYI_COUNT(left), 1, NULL);
    write_tensors(f->ctx, in_folder(f, b, "b.safetensors"), right, SYI_COUNT(right), 1, some_change);
    paths p = {a, b, in_folder(f, svg, "p.svg")};
    assert_true(torture_memory(f->ctx, once, &p) > 20);
    assert_true(torture_disk(f->ctx, once, NULL, &p) > 2);
    tiny_model_write(f->ctx, &TINY_MODEL, in_folder(f, model, "model"));
    make_adapter(f->ctx, model, "lora", (const char *const[]){"rank=2", "use-dora=on", "target-modules=q_proj", NULL}, in_folder(f, adapter, "adapter"), 3);
    p = (paths){model, adapter, svg};
    assert_true(torture_memory(f->ctx, once, &p) > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {folder_test(numbers), folder_test(leading_values), folder_test(adapters), folder_test(torture)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
