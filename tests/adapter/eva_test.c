/* SPDX-License-Identifier: Apache-2.0 */
/* EVA: nothing changes at the start, A's rows are the principal directions of the inputs that
 * the test collects itself, ranks meet the budget, shared inputs share a PCA, it is saved as
 * LoRA, resumes, and says what it lacks. */
#include "support/adapter_check.h"

#define LIST(...) ((const char *const[]){ __VA_ARGS__, NULL })
#define MODEL(f, buf) check_model(f, buf, "model", NULL)

static sy_run *started(test_folder *f, const char *model, const char *const *settings, sy_dtype dtype, tiny_batch *text)
{
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "eva", .settings = settings, .dtype = dtype, .total = 10 });
    sy_run_feed(run, check_feed, text);
    TEST_OK(f->ctx, sy_run_event(run, SY_START));
    TEST_OK(f->ctx, syi_run_refresh(run));
    return run;
}

static void start_changes_nothing(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    tiny_batch b, text;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    const char *const all[][3] = { { "rank=3", "max-batches=4", NULL }, { "rank=3", "use-dora=on", NULL }, { "rank=4", "rho=1", NULL } };
    sy_run *plain = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .dtype = SY_F32, .evaluate = true });
    float *base = tiny_logits(f->ctx, plain, &b.batch);
    sy_run_close(plain);
    for (int i = 0; i < SYI_COUNT(all); i++) {
        sy_run *run = started(f, model, all[i], SY_F32, &text);
        float *y = tiny_logits(f->ctx, run, &b.batch);
        if (i == 1) assert_true(tiny_relative(y, base, TINY_TOKENS * TINY_MODEL.vocab) < 1e-6);
        else assert_memory_equal(y, base, (size_t)(TINY_TOKENS * TINY_MODEL.vocab) * sizeof *y);
        free(y);
        sy_run_close(run);
    }
    free(base);
}

/* Inputs of a site over the first batches of the text. */
typedef struct { float *x; int64_t n, rows; const uint8_t *mask; } collected;

static sy_status take(void *self, const sy_site *site, const sy_tensor *x)
{
    collected *c = self;
    for (int64_t t = 0; t < x->dim[0]; t++)
        if (c->mask[t]) memcpy(c->x + c->rows++ * c->n, (const float *)x->data + t * site->in, (size_t)site->in * sizeof(float));
    return SY_OK;
}

static int64_t inputs(test_folder *f, const char *model, const char *name, int batches, bool labels, float *x)
{
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .dtype = SY_F32, .evaluate = true });
    sy_site *site = syi_model_site(run->model, name);
    uint8_t mask[TINY_TOKENS];
    collected c = { x, site->in, 0, mask };
    site->see = take;
    site->see_self = &c;
    for (int i = 0; i < batches; i++) {
        tiny_batch b;
        sy_batch batch;
        TEST_OK(f->ctx, check_feed(&b, i, 1, &batch));
        for (int t = 0; t < TINY_TOKENS; t++) mask[t] = !labels || (b.first[t] == t ? b.target[t] >= 0 : b.target[t - 1] >= 0);
        TEST_OK(f->ctx, sy_run_observe(run, &batch));
    }
    site->see = NULL;
    sy_run_close(run);
    for (int64_t j = 0; j < c.n; j++) { /* centred */
        double mean = 0;
        for (int64_t i = 0; i < c.rows; i++) mean += x[i * c.n + j];
        for (int64_t i = 0; i < c.rows; i++) x[i * c.n + j] -= (float)(mean / (double)c.rows);
    }
    return c.rows;
}

static double captured(const float *x, int64_t rows, int64_t n, const double *a, int64_t r)
{
    double sum = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < r; k++) {
            double dot = 0;
            for (int64_t j = 0; j < n; j++) dot += x[i * n + j] * a[k * n + j];
            sum += dot * dot;
        }
    return sum;
}

/* With k = n the streaming decomposition is exact however the data are cut: A holds the leading
 * right singular vectors of all centred rows together, and no other orthonormal rows capture
 * more. */
static void principal(test_folder *f, const char *solver)
{
    enum { BATCHES = 5, R = 3 };
    const char *const settings[] = { "rank=3", "rho=16", solver, "tau=1", "max-batches=5", "target-modules=q_proj,o_proj,up_proj", NULL };
    static const char *const sites[] = { "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.up_proj" };
    char model[512];
    MODEL(f, model);
    tiny_batch text;
    sy_run *run = started(f, model, settings, SY_F32, &text);
    for (int s = 0; s < SYI_COUNT(sites); s++) {
        const sy_site *site = syi_model_site(run->model, sites[s]);
        const sy_param *a = site->wraps[0].slot[0];
        const int64_t n = site->in, r = a->retired ? 0 : a->value.dim[0];
        float *x = malloc((size_t)(BATCHES * TINY_TOKENS * n) * sizeof *x), *u, sv[64], *vt;
        const int64_t rows = inputs(f, model, sites[s], BATCHES, true, x);
        u = malloc((size_t)(rows * n) * sizeof *u);
        vt = malloc((size_t)(n * n) * sizeof *vt);
        TEST_OK(f->ctx, syi_svd(f->ctx, rows, n, x, u, sv, vt));
        double mine[64 * 24], best = 0;
        for (int64_t k = 0; k < r; k++) {
            double dot = 0;
            for (int64_t j = 0; j < n; j++) dot += (mine[k * n + j] = tiny_get(a, k * n + j)) * vt[k * n + j];
            assert_true(fabs(fabs(dot) - 1) < 1e-4);
            best += (double)sv[k] * sv[k];
            for (int64_t i = 0; i <= k; i++) { /* orthonormal */
                double d = 0;
                for (int64_t j = 0; j < n; j++) d += mine[k * n + j] * mine[i * n + j];
                assert_true(fabs(d - (i == k)) < 1e-5);
            }
        }
        const double got = captured(x, rows, n, mine, r);
        assert_true(fabs(got - best) < 1e-4 * best);
        for (int trial = 0; trial < 1000 && r > 0; trial++) {
            float noise[64 * 24];
            double q[64 * 24];
            syi_normal((uint64_t)(trial + 77), 0, r * n, noise);
            for (int64_t k = 0; k < r; k++) {
                double norm = 0;
                for (int64_t j = 0; j < n; j++) q[k * n + j] = noise[k * n + j];
                for (int64_t i = 0; i < k; i++) {
                    double d = 0;
                    for (int64_t j = 0; j < n; j++) d += q[k * n + j] * q[i * n + j];
                    for (int64_t j = 0; j < n; j++) q[k * n + j] -= d * q[i * n + j];
                }
                for (int64_t j = 0; j < n; j++) norm += q[k * n + j] * q[k * n + j];
                for (int64_t j = 0; j < n; j++) q[k * n + j] /= sqrt(norm);
            }
            assert_true(captured(x, rows, n, q, r) <= got * (1 + 1e-6));
        }
        free(x);
        free(u);
        free(vt);
    }
    sy_run_close(run);
}

static void principal_directions(void **state)
{
    principal(*state, "svd=exact");
    principal(*state, "svd=moment");
}

/* The least directions: A x varies less than that of the leading ones, and less than x itself. */
static void least_directions(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    double got[2];
    float *x = malloc(8 * TINY_TOKENS * 16 * sizeof *x);
    for (int k = 0; k < 2; k++) {
        const char *const settings[] = { "rank=2", "rho=1", "tau=1", "max-batches=8", "use-label-mask=off", "target-modules=q_proj", k ? "directions=minor" : "directions=major", NULL };
        tiny_batch text;
        sy_run *run = started(f, model, settings, SY_F32, &text);
        const sy_param *a = tiny_param(run, "layers.0.self_attn.q_proj.lora_A.weight");
        double rows[2 * 16];
        assert_int_equal(a->value.dim[0], 2);
        for (int i = 0; i < 32; i++) rows[i] = tiny_get(a, i);
        sy_run_close(run);
        const int64_t n = inputs(f, model, "model.layers.0.self_attn.q_proj", 8, false, x);
        got[k] = captured(x, n, 16, rows, 2);
    }
    free(x);
    assert_true(got[1] < 0.2 * got[0]);
}

/* A pass that is cut short (the data end, the program is killed) and begun again gives the same
 * bits: it is a function of the data and the seed. */
static sy_status cut_feed(void *self, int64_t index, int64_t rows, sy_batch *out)
{
    return index == 2 ? SY_E_CANCELLED : check_feed(self, index, rows, out);
}

static void cut_short(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    static const char *const solvers[] = { "svd=randomized", "svd=moment" };
    for (int k = 0; k < 2; k++) {
        const tiny_run r = { .model = model, .adapter = "eva", .settings = LIST("rank=3", "max-batches=4", "tau=1", solvers[k]), .dtype = SY_F32, .total = 3 };
        syi_hash all[2];
        for (int cut = 0; cut < 2; cut++) {
            tiny_batch text, b;
            sy_step_result result;
            sy_run *run = tiny_run_open(f->ctx, &r);
            if (cut) {
                sy_run_feed(run, cut_feed, &text);
                assert_int_equal(sy_run_event(run, SY_START), SY_E_CANCELLED);
                sy_run_close(run);
                run = tiny_run_open(f->ctx, &r);
            }
            sy_run_feed(run, check_feed, &text);
            TEST_OK(f->ctx, sy_run_event(run, SY_START));
            tiny_batch_make(&b, TINY_MODEL.vocab, 7);
            for (int t = 0; t < 3; t++) TEST_OK(f->ctx, sy_run_step_once(run, &b.batch, 1e-2, 1, &result));
            all[cut] = check_hash(f->ctx, run);
            sy_run_close(run);
        }
        assert_true(all[0].lo == all[1].lo && all[0].hi == all[1].hi);
    }
}

static void ranks(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    for (int k = 0; k < 4; k++) {
        const char *const settings[] = { "rank=3", k == 0 ? "rho=1" : k == 3 ? "rho=3" : "rho=2", k == 2 ? "adjust-scaling-factors=off" : "alpha=6", "max-batches=6", NULL };
        tiny_batch text;
        sy_run *run = started(f, model, settings, SY_F32, &text);
        int64_t sum = 0, most = 0, modules = 0, least = 99;
        for (int i = 0; i < run->model->n_sites; i++) {
            const sy_site *s = &run->model->sites[i];
            if (!s->n_wraps) continue;
            const int64_t r = s->wraps[0].active ? s->wraps[0].slot[0]->value.dim[0] : 0;
            assert_int_equal(r ? s->wraps[0].slot[1]->value.dim[1] : 0, r);
            sum += r;
            modules++;
            most = syi_max(most, r);
            least = syi_min(least, r);
            if (!r) continue;
            sy_tensor a, b;
            double scale;
            TEST_OK(f->ctx, s->wraps[0].method->to_lora(s->wraps[0].self, &s->wraps[0], &a, &b, &scale));
            assert_float_equal(scale, k == 2 ? 1.0 / (double)r : 2.0, 1e-9);
            syi_free(f->ctx, a.data);
            syi_free(f->ctx, b.data);
        }
        assert_int_equal(sum, 3 * modules);
        assert_true(most <= (k == 0 ? 3 : k == 3 ? 9 : 6));
        if (k == 0) assert_int_equal(least, 3);
        else assert_true(most > 3); /* inputs do differ */
        /* q, k and v have one input and one PCA */
        const sy_param *q = tiny_param(run, "layers.0.self_attn.q_proj.lora_A.weight"), *v = tiny_param(run, "layers.0.self_attn.v_proj.lora_A.weight");
        const int64_t common = syi_min(q->value.dim[0], v->value.dim[0]) * 16;
        if (!q->retired && !v->retired) assert_memory_equal(q->value.data, v->value.data, (size_t)common * sizeof(float));
        sy_run_close(run);
    }
}

/* Trained a little, saved: a LoRA folder with the same function; q.. also with modules left out. */
static void files(void **state)
{
    test_folder *f = *state;
    char model[512], dir[512];
    MODEL(f, model);
    for (int k = 0; k < 2; k++) {
        const char *const settings[] = { k ? "rank=1" : "rank=3", k ? "rho=6" : "rho=2", "alpha=4", "max-batches=4", k ? "redist-metric=raw" : "whiten=on", NULL };
        tiny_batch text, b;
        sy_run *run = started(f, model, settings, SY_F32, &text);
        sy_step_result r;
        tiny_batch_make(&b, TINY_MODEL.vocab, 3);
        for (int t = 0; t < 3; t++) TEST_OK(f->ctx, sy_run_step_once(run, &b.batch, 1e-2, 1, &r));
        float *y = tiny_logits(f->ctx, run, &b.batch);
        in_folder(f, dir, k ? "one" : "two");
        TEST_OK(f->ctx, syi_mkdirs(f->ctx, dir));
        TEST_OK(f->ctx, sy_run_save(run, dir));
        int out = 0;
        for (int i = 0; i < run->model->n_sites; i++) out += run->model->sites[i].n_wraps && !run->model->sites[i].wraps[0].active;
        if (k) assert_true(out > 0);
        sy_run_close(run);
        run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .folder = dir, .dtype = SY_F32, .evaluate = true });
        assert_string_equal(sy_run_use(run, SY_ADAPTER)->method->name, "lora");
        float *z = tiny_logits(f->ctx, run, &b.batch);
        assert_true(tiny_relative(z, y, TINY_TOKENS * TINY_MODEL.vocab) < 1e-6);
        free(y);
        free(z);
        sy_run_close(run);
    }
}

static void resumes(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    check_resume(f, model, "eva", LIST("rank=1", "rho=6", "max-batches=3", "redist-metric=raw"), SY_F32, 6, (const int[]){ 1, 4, 0 });
    check_resume(f, model, "eva", LIST("rank=3", "max-batches=3"), SY_BF16, 4, (const int[]){ 2, 0 });
}

static void refusals(void **state)
{
    test_folder *f = *state;
    char model[512];
    MODEL(f, model);
    check_refused(f, model, "eva", LIST("rank=17"), SY_E_USAGE, "above the 16 inputs");
    check_refused(f, model, "eva", LIST("target-modules=embed_tokens"), SY_E_UNSUPPORTED, "embed_tokens");
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "eva", .settings = LIST("rank=2"), .dtype = SY_F32 });
    assert_int_equal(sy_run_event(run, SY_START), SY_E_USAGE); /* no data */
    sy_run_close(run);
    tiny_batch text;
    run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "eva", .settings = LIST("rank=16", "rho=2", "target-modules=down_proj"), .dtype = SY_F32 });
    sy_run_feed(run, check_feed, &text);
    assert_int_equal(sy_run_event(run, SY_START), SY_E_INPUT); /* 18 tokens, 32 directions */
    assert_non_null(strstr(sy_error_message(f->ctx), "svd-batch"));
    sy_run_close(run);
}

int main(void)
{
    const struct CMUnitTest tests[] = { folder_test(start_changes_nothing), folder_test(principal_directions), folder_test(least_directions), folder_test(cut_short), folder_test(ranks), folder_test(files), folder_test(resumes), folder_test(refusals) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
