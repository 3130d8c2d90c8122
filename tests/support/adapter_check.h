/* SPDX-License-Identifier: Apache-2.0 */
/* Checks that every adapter has to pass, on the tiny Llama: a start that changes nothing,
 * gradients against central differences, the fold against the formula, the same bits for any
 * number of threads, a resumed run equal to an uninterrupted one. */
#ifndef TEST_ADAPTER_CHECK_H
#define TEST_ADAPTER_CHECK_H

#include "run/run.h"
#include "support/folder.h"
#include "support/tiny_model.h"

static inline void tiny_put(sy_param *p, int64_t i, double v)
{
    if (p->value.dtype == SY_F64) ((double *)p->value.data)[i] = v;
    else ((float *)p->value.data)[i] = (float)v;
    p->stale = true;
}

static inline double tiny_get(const sy_param *p, int64_t i)
{
    return p->value.dtype == SY_F64 ? ((const double *)p->value.data)[i] : ((const float *)p->value.data)[i];
}

/* The tiny model in folder/NAME, written when it is not there. */
static inline const char *check_model(const test_folder *f, char buf[512], const char *name, const tiny_model *m)
{
    in_folder(f, buf, name);
    if (!syi_exists(buf)) tiny_model_write(f->ctx, m ? m : &TINY_MODEL, buf);
    return buf;
}

/* Logits with the new adapter against the base's: 0 asks for equal bits. A shaken adapter must
 * change them. */
static inline void check_start(const test_folder *f, const char *model, const char *adapter, const char *const *settings, double tolerance)
{
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    const int64_t n = TINY_TOKENS * TINY_MODEL.vocab;
    sy_run *plain = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .dtype = SY_F32, .evaluate = true });
    float *base = tiny_logits(f->ctx, plain, &b.batch);
    sy_run_close(plain);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = adapter, .settings = settings, .dtype = SY_F32 });
    float *y = tiny_logits(f->ctx, run, &b.batch);
    const double d = tiny_relative(y, base, n);
    if (d > tolerance) fail_msg("%s %s: logits moved by %g", adapter, settings[0] ? settings[0] : "", d);
    if (tolerance == 0) assert_memory_equal(y, base, (size_t)n * sizeof *y);
    tiny_shake(run, 0.2, 5);
    TEST_OK(f->ctx, syi_run_refresh(run));
    float *z = tiny_logits(f->ctx, run, &b.batch);
    assert_true(tiny_relative(z, base, n) > 1e-3);
    free(base);
    free(y);
    free(z);
    sy_run_close(run);
}

static inline double check_loss(sy_context *ctx, sy_run *run, const sy_batch *b)
{
    sy_loss l;
    TEST_OK(ctx, sy_run_loss(run, b, &l, NULL));
    return l.loss_sum;
}

/* Central differences of some elements of every trained parameter of an f64 run; `trained_loss`
 * when the loss has terms that evaluation lacks. */
static inline void check_gradients(sy_context *ctx, sy_run *run, const sy_batch *b)
{
    int n, checked = 0;
    sy_loss l;
    TEST_OK(ctx, sy_run_backward(run, b, 1, &l));
    sy_param *const *params = sy_params(run, &n);
    for (int i = 0; i < n; i++) {
        sy_param *p = params[i];
        if (!p->trained) continue;
        assert_int_equal(p->value.dtype, SY_F64);
        double *v = p->value.data, error = 0, size = 0;
        const int64_t count = sy_tensor_count(&p->value), stride = syi_max(1, count / 12);
        for (int64_t k = 0; k < count; k += stride) {
            const double keep = v[k], h = 1e-5 * fmax(1, fabs(keep));
            v[k] = keep + h;
            double up = check_loss(ctx, run, b);
            v[k] = keep - h;
            double down = check_loss(ctx, run, b);
            v[k] = keep;
            const double numeric = (up - down) / (2 * h), analytic = ((const double *)p->grad.data)[k];
            error += (numeric - analytic) * (numeric - analytic);
            size += numeric * numeric;
        }
        if (sqrt(error) > 1e-6 * sqrt(size) + 1e-9) fail_msg("%s: relative error %g of a gradient of size %g", p->name, sqrt(error / size), sqrt(size));
        checked += size > 0;
    }
    assert_true(checked > 1);
}

static inline void check_all_gradients(const test_folder *f, const char *model, const char *adapter, const char *const *settings, double sigma)
{
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 11);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = adapter, .settings = settings, .dtype = SY_F64 });
    tiny_shake(run, sigma, 9);
    check_gradients(f->ctx, run, &b.batch);
    sy_run_close(run);
}

/* The folded weight of a site (f32 [out,in], malloc), and the model's own in *base. */
static inline float *check_folded(sy_context *ctx, sy_run *run, const char *site, float **base)
{
    sy_site *s = syi_model_site(run->model, site);
    assert_non_null(s);
    float *w = malloc((size_t)(s->in * s->out) * sizeof *w);
    double *constant = malloc((size_t)s->out * sizeof *constant), delta;
    TEST_OK(ctx, s->weight->type->dense(ctx, s->weight, 0, s->out, w));
    if (base) {
        *base = malloc((size_t)(s->in * s->out) * sizeof *w);
        memcpy(*base, w, (size_t)(s->in * s->out) * sizeof *w);
    }
    TEST_OK(ctx, syi_run_fold_site(run, s, w, constant, &delta));
    free(constant);
    return w;
}

/* The model with the (shaken) adapter folded in gives the adapter's logits. */
static inline void check_fold(const test_folder *f, const char *model, const char *adapter, const char *const *settings, double tolerance)
{
    char dir[512];
    in_folder(f, dir, "folded");
    TEST_OK(f->ctx, syi_remove_tree(f->ctx, dir));
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = adapter, .settings = settings, .dtype = SY_F32 });
    tiny_shake(run, 0.1, 5);
    TEST_OK(f->ctx, syi_run_refresh(run));
    float *y = tiny_logits(f->ctx, run, &b.batch);
    sy_fold out;
    TEST_OK(f->ctx, sy_run_fold(run, dir, (sy_dtype)-1, &out));
    assert_true(out.tensors_changed > 0 && out.max_delta > 0);
    sy_run_close(run);
    run = tiny_run_open(f->ctx, &(tiny_run){ .model = dir, .dtype = SY_F32, .evaluate = true });
    float *z = tiny_logits(f->ctx, run, &b.batch);
    const double d = tiny_relative(z, y, TINY_TOKENS * TINY_MODEL.vocab);
    if (d > tolerance) fail_msg("%s %s: folded logits differ by %g", adapter, settings[0], d);
    sy_run_close(run);
    free(y);
    free(z);
}

/* Saved and loaded again: the same logits, and the same files the second time. */
static inline void check_round_trip(const test_folder *f, const char *model, const char *adapter, const char *const *settings, double tolerance)
{
    char dir[512];
    in_folder(f, dir, "round");
    TEST_OK(f->ctx, syi_remove_tree(f->ctx, dir));
    TEST_OK(f->ctx, syi_mkdirs(f->ctx, dir));
    tiny_batch b;
    tiny_batch_make(&b, TINY_MODEL.vocab, 3);
    sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = adapter, .settings = settings, .dtype = SY_F32 });
    tiny_shake(run, 0.1, 5);
    TEST_OK(f->ctx, syi_run_refresh(run));
    float *y = tiny_logits(f->ctx, run, &b.batch);
    TEST_OK(f->ctx, sy_run_save(run, dir));
    sy_run_close(run);
    run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .folder = dir, .dtype = SY_F32, .evaluate = true });
    float *z = tiny_logits(f->ctx, run, &b.batch);
    const double d = tiny_relative(z, y, TINY_TOKENS * TINY_MODEL.vocab);
    if (d > tolerance) fail_msg("%s %s: logits of the saved adapter differ by %g", adapter, settings[0], d);
    sy_run_close(run);
    free(y);
    free(z);
}

static inline syi_hash check_hash(sy_context *ctx, const sy_run *run)
{
    syi_hasher *h;
    TEST_OK(ctx, syi_hasher_new(ctx, &h));
    for (int k = 0; k < run->n_params; k++) {
        const sy_param *p = run->params[k];
        if (!p->retired || !(p->slot->flags & SY_SLOT_STATE)) syi_hasher_add(h, p->value.data, (size_t)sy_tensor_bytes(&p->value));
        for (int i = 0; i < p->n_state; i++) syi_hasher_add(h, p->state[i].data, (size_t)sy_tensor_bytes(&p->state[i]));
    }
    return syi_hasher_end(h);
}

/* Text for methods that look at it before training: a batch a number. */
static inline sy_status check_feed(void *self, int64_t index, int64_t rows, sy_batch *out)
{
    tiny_batch *b = self;
    (void)rows;
    tiny_batch_make(b, TINY_MODEL.vocab, 5000 + (uint64_t)index);
    *out = b->batch;
    return SY_OK;
}

/* `steps` steps against the same with a stop at each of `cuts` (0-ended): state saved, all
 * closed, opened again, state loaded. Every bit of values and states must be the same. */
static inline void check_resume(const test_folder *f, const char *model, const char *adapter, const char *const *settings, sy_dtype dtype, int steps, const int *cuts)
{
    syi_hash whole = { 0, 0 };
    char file[512];
    in_folder(f, file, "state.safetensors");
    for (int cut = -1; cut < 0 || cuts[cut]; cut++) {
        const tiny_run r = { .model = model, .adapter = adapter, .settings = settings, .dtype = dtype, .total = steps };
        tiny_batch text;
        sy_run *run = tiny_run_open(f->ctx, &r);
        sy_run_feed(run, check_feed, &text);
        TEST_OK(f->ctx, sy_run_event(run, SY_START));
        for (int k = 0; k < steps; k++) {
            tiny_batch b;
            sy_step_result result;
            if (cut >= 0 && k == cuts[cut]) {
                TEST_OK(f->ctx, sy_run_state_save(run, file));
                sy_run_close(run);
                run = tiny_run_open(f->ctx, &r);
                TEST_OK(f->ctx, sy_run_state_load(run, file));
                sy_run_feed(run, check_feed, &text);
                TEST_OK(f->ctx, sy_run_event(run, SY_START));
            }
            tiny_batch_make(&b, TINY_MODEL.vocab, 100 + (uint64_t)k);
            TEST_OK(f->ctx, sy_run_step_once(run, &b.batch, 1e-2, 1, &result));
        }
        TEST_OK(f->ctx, sy_run_event(run, SY_STOP));
        const syi_hash all = check_hash(f->ctx, run);
        if (cut < 0) whole = all;
        else if (all.lo != whole.lo || all.hi != whole.hi) fail_msg("%s %s: other bits when resumed after step %d", adapter, settings[0], cuts[cut]);
        sy_run_close(run);
    }
}

/* Some steps: the same bits with 1 and 3 threads. */
static inline void check_threads(const test_folder *f, const char *adapter, const char *const *settings, int steps)
{
    char model[512];
    const tiny_model m = { .hidden = 96, .layers = 1, .heads = 6, .kv_heads = 2, .head_dim = 16, .ffn = 160, .vocab = 300, .tied = true, .dtype = SY_F32, .seed = 3 };
    check_model(f, model, "wider", &m);
    tiny_batch b;
    tiny_batch_make(&b, m.vocab, 2);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        syi_hash first = { 0, 0 };
        for (int threads = 1; threads < 4; threads += 2) {
            sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = adapter, .settings = settings, .dtype = bf16 ? SY_BF16 : SY_F32, .threads = threads });
            sy_step_result r;
            for (int k = 0; k < steps; k++) TEST_OK(f->ctx, sy_run_step_once(run, &b.batch, 1e-2, 1, &r));
            const syi_hash all = check_hash(f->ctx, run);
            if (threads == 1) first = all;
            else if (all.lo != first.lo || all.hi != first.hi) fail_msg("%s %s, bf16 %d: other bits with %d threads", adapter, settings[0], bf16, threads);
            sy_run_close(run);
        }
    }
}

/* Wrong settings are refused with words that help. */
static inline void check_refused(const test_folder *f, const char *model, const char *adapter, const char *const *settings, sy_status status, const char *says)
{
    sy_run *run;
    sy_status st = tiny_run_try(f->ctx, &(tiny_run){ .model = model, .adapter = adapter, .settings = settings, .dtype = SY_F32 }, &run);
    if (st != status || !strstr(sy_error_message(f->ctx), says))
        fail_msg("%s %s: status %s, message '%s'", adapter, settings[0], sy_status_name(st), sy_error_message(f->ctx));
}

#endif
