/* SPDX-License-Identifier: Apache-2.0 */
/* Two runs in one process: step by step in turn on one thread, and at the same time on
 * two threads with contexts of their own. Losses must be the bits that each run has
 * alone. */
#include "support/test.h"

#include "steelyard/run.h"

#include <pthread.h>

enum { N = 48, STEPS = 4 };

typedef struct {
    sy_context *ctx;
    sy_run *run;
    sy_batch batch;
    int32_t ids[N], positions[N], first[N], target[N], sample[N];
} side;

static char model[512];

/* A LoRA run on the small model; `seed` decides the adapter's start and the text. */
static sy_status begin(side *s, int seed)
{
    sy_use use[2];
    sy_status st;
    if ((st = sy_use_new(s->ctx, "lora", SY_ADAPTER, (const char *[]){ "rank=4" }, 1, &use[0])) != SY_OK) return st;
    if ((st = sy_use_new(s->ctx, "adamw", SY_OPTIMIZER, NULL, 0, &use[1])) != SY_OK) {
        sy_use_free(s->ctx, &use[0]);
        return st;
    }
    sy_run_options o;
    sy_run_options_init(&o);
    o.model = model;
    o.use = use;
    o.n_use = 2;
    o.dtype = seed % 2 ? SY_F32 : SY_BF16;
    o.training = true;
    o.seed = (uint64_t)seed;
    if ((st = sy_run_open(s->ctx, &o, &s->run)) != SY_OK) return st;
    for (int i = 0; i < N; i++) {
        s->ids[i] = 3 + (i * 7 + seed * 31) % 1500;
        s->positions[i] = i;
        s->first[i] = s->sample[i] = 0;
        s->target[i] = i + 1 < N ? 3 + ((i + 1) * 7 + seed * 31) % 1500 : -1;
    }
    s->batch = (sy_batch){ .rows = 1, .seq = N, .tokens = N, .ids = s->ids, .positions = s->positions, .first = s->first,
                           .target = s->target, .sample = s->sample, .samples = 1, .trained = N - 1 };
    sy_plan plan;
    st = sy_run_plan(s->run, N, true, &plan);
    return st == SY_OK ? sy_run_reserve(s->run, &plan) : st;
}

static sy_status step(side *s, double *loss)
{
    sy_step_result r;
    sy_status st = sy_run_step_once(s->run, &s->batch, 1e-3, 1.0, &r);
    *loss = st == SY_OK ? r.loss : -1;
    return st;
}

static void must(side *s, sy_status st)
{
    if (st != SY_OK) fail_msg("%s", sy_error_message(s->ctx));
}

static void alone(int seed, double *loss)
{
    side s = { .ctx = sy_context_new() };
    assert_non_null(s.ctx);
    assert_int_equal(sy_threads_set(s.ctx, 2), SY_OK);
    must(&s, begin(&s, seed));
    for (int i = 0; i < STEPS; i++) must(&s, step(&s, &loss[i]));
    sy_run_close(s.run);
    assert_int_equal(sy_memory_now(s.ctx), 0);
    sy_context_free(s.ctx);
}

static void same(const double *a, const double *b)
{
    for (int i = 0; i < STEPS; i++)
        if (memcmp(&a[i], &b[i], sizeof a[i])) fail_msg("step %d: %.17g alone, %.17g beside another run", i, a[i], b[i]);
}

static void test_in_turn(void **state)
{
    (void)state;
    double one[STEPS], two[STEPS], one_now[STEPS], two_now[STEPS];
    alone(1, one);
    alone(2, two);
    assert_memory_not_equal(one, two, sizeof one);
    assert_true(one[STEPS - 1] < one[0]);
    /* in one context */
    side a = { .ctx = sy_context_new() }, b = { .ctx = a.ctx };
    must(&a, begin(&a, 1));
    must(&b, begin(&b, 2));
    for (int i = 0; i < STEPS; i++) {
        must(&a, step(&a, &one_now[i]));
        must(&b, step(&b, &two_now[i]));
    }
    sy_run_close(a.run);
    sy_run_close(b.run);
    assert_int_equal(sy_memory_now(a.ctx), 0);
    sy_context_free(a.ctx);
    same(one, one_now);
    same(two, two_now);
}

typedef struct { int seed; double loss[STEPS]; sy_status status; char message[512]; } job;

static void *on_thread(void *arg)
{
    job *j = arg;
    side s = { .ctx = sy_context_new() };
    j->status = s.ctx ? sy_threads_set(s.ctx, 1 + j->seed) : SY_E_MEMORY;
    if (j->status == SY_OK) j->status = begin(&s, j->seed);
    for (int i = 0; i < STEPS && j->status == SY_OK; i++) j->status = step(&s, &j->loss[i]);
    if (j->status != SY_OK && s.ctx) snprintf(j->message, sizeof j->message, "%s", sy_error_message(s.ctx));
    if (s.run) sy_run_close(s.run);
    sy_context_free(s.ctx);
    return NULL;
}

static void test_at_the_same_time(void **state)
{
    (void)state;
    double one[STEPS], two[STEPS];
    job jobs[2] = { { .seed = 1 }, { .seed = 2 } };
    pthread_t thread[2];
    alone(1, one);
    alone(2, two);
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&thread[i], NULL, on_thread, &jobs[i]), 0);
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_join(thread[i], NULL), 0);
    for (int i = 0; i < 2; i++)
        if (jobs[i].status != SY_OK) fail_msg("%s", jobs[i].message);
    same(one, jobs[0].loss);
    same(two, jobs[1].loss);
}

int main(void)
{
    const char *root = getenv("STEELYARD_ROOT");
    snprintf(model, sizeof model, "%s/models/tiny", root ? root : ".");
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_in_turn), cmocka_unit_test(test_at_the_same_time) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
