/* SPDX-License-Identifier: Apache-2.0 */
/* The tape itself, with ops of the test's own: gradients against closed forms, recomputed
 * blocks against kept ones, cheap and in-place values, the plan against the real peak. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "graph/graph.h"
#include "tensor/kernels.h"

#include <math.h>

enum { N = 1000 };
static int forwards; /* how often the square op ran */

static sy_status same_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    *c->out = *c->in[0];
    c->out->data = NULL;
    return SY_OK;
}
static sy_status square_forward(sy_op_call *c)
{
    forwards++;
    const double *x = c->in[0]->data;
    double *y = c->out->data;
    for (int64_t i = 0; i < sy_tensor_count(c->out); i++) y[i] = x[i] * x[i];
    return SY_OK;
}
static sy_status square_backward(sy_op_call *c)
{
    const double *x = c->in[0]->data, *dy = c->dout->data;
    double *dx = c->din[0]->data;
    for (int64_t i = 0; i < sy_tensor_count(c->out); i++) dx[i] = (c->add[0] ? dx[i] : 0) + 2 * x[i] * dy[i];
    return SY_OK;
}
static const sy_op square = {.name = "t_square", .min_in = 1, .max_in = 1, .shape = same_shape, .forward = square_forward, .backward = square_backward};
static const sy_op cheap_square = {.name = "t_cheap", .min_in = 1, .max_in = 1, .flags = SY_OP_CHEAP, .shape = same_shape, .forward = square_forward, .backward = square_backward};
static const sy_op blocked = {.name = "t_blocked", .no_grad = "test", .min_in = 1, .max_in = 1, .shape = same_shape, .forward = square_forward};

static sy_status add_forward(sy_op_call *c)
{
    const double *x = c->in[0]->data, *y = c->in[1]->data;
    double *z = c->out->data;
    for (int64_t i = 0; i < sy_tensor_count(c->out); i++) z[i] = x[i] + y[i];
    return SY_OK;
}
static sy_status add_backward(sy_op_call *c)
{
    const double *dz = c->dout->data;
    for (int k = 0; k < 2; k++) {
        double *d = c->want[k] ? c->din[k]->data : NULL;
        for (int64_t i = 0; d && i < sy_tensor_count(c->out); i++) d[i] = (c->add[k] ? d[i] : 0) + dz[i];
    }
    return SY_OK;
}
static unsigned keep_none(const sy_op_call *c, unsigned want) { return (void)c, (void)want, 0; }
static const sy_op add = {.name = "t_add", .min_in = 2, .max_in = 2, .flags = SY_OP_IN_PLACE, .shape = same_shape, .forward = add_forward, .backward = add_backward, .keep = keep_none};

static sy_status sum_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    *c->out = (sy_tensor){.dtype = SY_F64, .rank = 1, .dim = {1}};
    return SY_OK;
}
static sy_status sum_forward(sy_op_call *c)
{
    double s = 0;
    for (int64_t i = 0; i < sy_tensor_count(c->in[0]); i++) s += ((const double *)c->in[0]->data)[i];
    *(double *)c->out->data = s;
    return SY_OK;
}
static sy_status sum_backward(sy_op_call *c)
{
    double dy = *(const double *)c->dout->data, *dx = c->din[0]->data;
    for (int64_t i = 0; i < sy_tensor_count(c->in[0]); i++) dx[i] = (c->add[0] ? dx[i] : 0) + dy;
    return SY_OK;
}
static const sy_op sum = {.name = "t_sum", .min_in = 1, .max_in = 1, .shape = sum_shape, .forward = sum_forward, .backward = sum_backward, .keep = keep_none};

typedef struct { sy_context *ctx; syi_engine *engine; syi_heap *heap; sy_graph *g; } rig;

static int set_up(void **state)
{
    static rig r;
    r.ctx = sy_context_new();
    assert_non_null(r.ctx);
    assert_int_equal(syi_engine_new(r.ctx, &r.engine), SY_OK);
    assert_int_equal(syi_heap_new(r.ctx, &r.heap), SY_OK);
    assert_int_equal(syi_graph_new(r.ctx, r.engine, r.heap, &r.g), SY_OK);
    *state = &r;
    return 0;
}
static int tear_down(void **state)
{
    rig *r = *state;
    syi_graph_free(r->g);
    syi_heap_free(r->heap);
    syi_engine_free(r->engine);
    assert_int_equal(sy_memory_now(r->ctx), 0);
    sy_context_free(r->ctx);
    return 0;
}

static sy_node *one(sy_graph *g, const sy_op *op, sy_node *x) { return sy_call(g, op, &x, 1, NULL, 0); }
static sy_node *two(sy_graph *g, const sy_op *op, sy_node *x, sy_node *y) { return sy_call(g, op, (sy_node *[]){x, y}, 2, NULL, 0); }

/* x -> x^2 + x, with the square cheap or kept */
static sy_node *body(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    (void)n;
    return two(g, &add, one(g, *(const sy_op *const *)self, in[0]), in[0]);
}

typedef struct { double loss; double grad[N]; int64_t peak; } answer;

static answer *run(rig *r, int blocks, int recompute, const sy_op *op, bool planning)
{
    static answer a;
    static double x[N];
    for (int i = 0; i < N; i++) {
        x[i] = 0.1 * sin(i);
        a.grad[i] = 0;
    }
    sy_tensor t = {.dtype = SY_F64, .rank = 1, .dim = {N}, .data = x}, dt = t;
    dt.data = a.grad;
    syi_graph_options o = {.dtype = SY_F64, .training = true, .planning = planning, .recompute_blocks = recompute};
    syi_graph_reset(r->g, &o);
    sy_node *h = sy_input(r->g, &t, &dt);
    for (int b = 0; b < blocks; b++) {
        sy_node *y = sy_block(r->g, body, &op, sizeof op, &h, 1, SY_BLOCK_MAY_RECOMPUTE);
        sy_done(r->g, h);
        h = y;
    }
    sy_node *loss = one(r->g, &sum, h);
    assert_int_equal(sy_graph_status(r->g), SY_OK);
    if (!planning) a.loss = *(const double *)sy_value(loss)->data;
    assert_int_equal(syi_graph_backward(r->g, loss, 1), SY_OK);
    assert_int_equal(syi_heap_used(r->heap), 64); /* only the loss is left */
    a.peak = syi_heap_peak(r->heap);
    return &a;
}

/* Everything against the closed form, iterated by hand. */
static void gradients_match_closed_form(void **state)
{
    rig *r = *state;
    assert_int_equal(syi_heap_reserve(r->heap, 1 << 20), SY_OK);
    const sy_op *kinds[] = {&square, &cheap_square};
    for (int k = 0; k < 2; k++)
        for (int recompute = -1; recompute <= 3; recompute++) {
            answer *a = run(r, 5, recompute, kinds[k], false);
            double loss = 0;
            for (int i = 0; i < N; i++) {
                double v = 0.1 * sin(i), d = 1;
                for (int b = 0; b < 5; b++) {
                    d *= 2 * v + 1;
                    v = v * v + v;
                }
                loss += v;
                assert_true(fabs(a->grad[i] - d) < 1e-12);
            }
            assert_true(fabs(a->loss - loss) < 1e-9);
        }
}

static void plan_is_the_peak(void **state)
{
    rig *r = *state;
    for (int recompute = -1; recompute <= 0; recompute++) {
        syi_heap *plan;
        sy_graph *g = r->g;
        assert_int_equal(syi_heap_new(r->ctx, &plan), SY_OK);
        assert_int_equal(syi_graph_new(r->ctx, r->engine, plan, &r->g), SY_OK);
        rig p = *r;
        p.heap = plan;
        int64_t planned = run(&p, 8, recompute, &square, true)->peak;
        syi_graph_free(r->g);
        syi_heap_free(plan);
        r->g = g;
        syi_heap *real;
        assert_int_equal(syi_heap_new(r->ctx, &real), SY_OK);
        assert_int_equal(syi_heap_reserve(real, planned), SY_OK);
        assert_int_equal(syi_graph_new(r->ctx, r->engine, real, &p.g), SY_OK);
        p.heap = real;
        assert_int_equal(run(&p, 8, recompute, &square, false)->peak, planned);
        syi_graph_free(p.g);
        syi_heap_free(real);
    }
}

static void recomputing_takes_less_and_runs_more(void **state)
{
    rig *r = *state;
    assert_int_equal(syi_heap_reserve(r->heap, 1 << 20), SY_OK);
    int64_t peak[2];
    int runs[2];
    for (int k = 0; k < 2; k++) {
        syi_heap *h = r->heap;
        sy_graph *g = r->g;
        assert_int_equal(syi_heap_new(r->ctx, &r->heap), SY_OK);
        assert_int_equal(syi_heap_reserve(r->heap, 1 << 20), SY_OK);
        assert_int_equal(syi_graph_new(r->ctx, r->engine, r->heap, &r->g), SY_OK);
        forwards = 0;
        peak[k] = run(r, 12, -k, &square, false)->peak;
        runs[k] = forwards;
        syi_graph_free(r->g);
        syi_heap_free(r->heap);
        r->heap = h;
        r->g = g;
    }
    assert_int_equal(runs[0], 12);
    assert_int_equal(runs[1], 24);
    assert_true(peak[1] <= peak[0]);
}

static void in_place_takes_over(void **state)
{
    rig *r = *state;
    assert_int_equal(syi_heap_reserve(r->heap, 1 << 20), SY_OK);
    static double x[N];
    sy_tensor t = {.dtype = SY_F64, .rank = 1, .dim = {N}, .data = x};
    syi_graph_options o = {.dtype = SY_F64};
    syi_graph_reset(r->g, &o);
    sy_node *c = sy_const(r->g, &t), *s = one(r->g, &square, c);
    int64_t before = syi_heap_used(r->heap);
    sy_node *y = two(r->g, &add, s, c);
    assert_non_null(y);
    assert_int_equal(syi_heap_used(r->heap), before);
    /* s is gone: using it is told, not crashed on */
    assert_null(two(r->g, &add, s, c));
    assert_int_equal(sy_graph_status(r->g), SY_E_BUG);
}

static void missing_gradients_are_visible(void **state)
{
    rig *r = *state;
    assert_int_equal(syi_heap_reserve(r->heap, 1 << 20), SY_OK);
    static double x[N], d[N];
    sy_tensor t = {.dtype = SY_F64, .rank = 1, .dim = {N}, .data = x}, dt = t;
    dt.data = d;
    syi_graph_options o = {.dtype = SY_F64, .training = true};
    syi_graph_reset(r->g, &o);
    sy_node *in = sy_input(r->g, &t, &dt);
    assert_non_null(one(r->g, &blocked, sy_detach(r->g, in)));
    assert_null(one(r->g, &blocked, in));
    assert_int_equal(sy_graph_status(r->g), SY_E_UNSUPPORTED);
    assert_non_null(strstr(sy_error_message(r->ctx), "t_blocked"));
    /* sticky: everything after is quiet */
    assert_null(one(r->g, &square, in));
}

static void one_value_twice(void **state)
{
    rig *r = *state;
    assert_int_equal(syi_heap_reserve(r->heap, 1 << 20), SY_OK);
    static double x[N], d[N];
    for (int i = 0; i < N; i++) x[i] = i * 1e-3, d[i] = 0;
    sy_tensor t = {.dtype = SY_F64, .rank = 1, .dim = {N}, .data = x}, dt = t;
    dt.data = d;
    syi_graph_options o = {.dtype = SY_F64, .training = true};
    syi_graph_reset(r->g, &o);
    sy_node *s = one(r->g, &square, sy_input(r->g, &t, &dt));
    sy_node *loss = one(r->g, &sum, two(r->g, &add, s, s));
    assert_int_equal(syi_graph_backward(r->g, loss, 0.5), SY_OK);
    for (int i = 0; i < N; i++) assert_true(fabs(d[i] - 2 * x[i]) < 1e-12);
}

static void straight_through(void **state)
{
    rig *r = *state;
    assert_int_equal(syi_heap_reserve(r->heap, 1 << 20), SY_OK);
    static double x[N], d[N];
    for (int i = 0; i < N; i++) x[i] = i * 1e-3, d[i] = 0;
    sy_tensor t = {.dtype = SY_F64, .rank = 1, .dim = {N}, .data = x}, dt = t;
    dt.data = d;
    syi_graph_options o = {.dtype = SY_F64, .training = true};
    syi_graph_reset(r->g, &o);
    sy_node *in = sy_input(r->g, &t, &dt);
    sy_node *y = sy_ste(r->g, one(r->g, &square, in), in);
    assert_true(fabs(((const double *)sy_value(y)->data)[10] - 1e-4) < 1e-15);
    assert_int_equal(syi_graph_backward(r->g, one(r->g, &sum, y), 1), SY_OK);
    for (int i = 0; i < N; i++) assert_true(fabs(d[i] - 1) < 1e-12);
}

/* Random takes and gives against a plain list of live ranges. */
static void heap_blocks_never_overlap(void **state)
{
    rig *r = *state;
    syi_heap *h;
    assert_int_equal(syi_heap_new(r->ctx, &h), SY_OK);
    enum { LIVE = 64 };
    int64_t at[LIVE], size[LIVE];
    for (int i = 0; i < LIVE; i++) at[i] = -1;
    for (int step = 0; step < 20000; step++) {
        int i = (int)(syi_random_u64(7, step * 2) % LIVE);
        if (at[i] >= 0) {
            syi_heap_give(h, at[i]);
            at[i] = -1;
            continue;
        }
        size[i] = 1 + (int64_t)(syi_random_u64(7, step * 2 + 1) % 5000);
        at[i] = syi_heap_take(h, size[i]);
        assert_true(at[i] >= 0 && at[i] % 64 == 0);
        for (int k = 0; k < LIVE; k++)
            if (k != i && at[k] >= 0) assert_true(at[i] + size[i] <= at[k] || at[k] + size[k] <= at[i]);
    }
    for (int i = 0; i < LIVE; i++)
        if (at[i] >= 0) syi_heap_give(h, at[i]);
    assert_int_equal(syi_heap_used(h), 0);
    assert_int_equal(syi_heap_take(h, 1), 0); /* all merged back */
    syi_heap_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(gradients_match_closed_form, set_up, tear_down),
        cmocka_unit_test_setup_teardown(plan_is_the_peak, set_up, tear_down),
        cmocka_unit_test_setup_teardown(recomputing_takes_less_and_runs_more, set_up, tear_down),
        cmocka_unit_test_setup_teardown(in_place_takes_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(missing_gradients_are_visible, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_value_twice, set_up, tear_down),
        cmocka_unit_test_setup_teardown(straight_through, set_up, tear_down),
        cmocka_unit_test_setup_teardown(heap_blocks_never_overlap, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
