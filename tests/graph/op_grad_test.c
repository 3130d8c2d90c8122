/* SPDX-License-Identifier: Apache-2.0 */
/* Every op row: gradients in f64 against central differences; f32 and bf16, values and
 * gradients, against f64; equal bits for any number of threads. Each in four settings:
 * the inputs are leaves; they are computed (so that the op may work in place); their
 * gradient is added to one that is there already; the op is in a recomputed block. A
 * row without a backward must say why. */
#include "support/test.h"

#include "graph/op_row.h"
#include "steelyard/method.h"

#include <math.h>

enum { MAX_NUMBERS = 20000, SAMPLES = 60 };
enum { LEAVES, COMPUTED, ADDED, RECOMPUTED, SETTINGS };
static const char *const settings[] = {"leaves", "computed inputs", "added to", "recomputed"};

typedef struct {
    sy_context *ctx;
    syi_engine *e;
    syi_heap *heap;
    sy_graph *g;
} fixture;

/* Results of one run, as f64. */
typedef struct {
    double loss;
    double *out, *grad[SY_OP_MAX_IN];
    int64_t n_out;
    uint64_t bits; /* hash of everything as it was stored */
} result;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->ctx = sy_context_new();
    assert_int_equal(syi_engine_new(f->ctx, &f->e), SY_OK);
    assert_int_equal(syi_heap_new(f->ctx, &f->heap), SY_OK);
    assert_int_equal(syi_heap_reserve(f->heap, 64 << 20), SY_OK);
    assert_int_equal(syi_graph_new(f->ctx, f->e, f->heap, &f->g), SY_OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    syi_graph_free(f->g);
    syi_heap_free(f->heap);
    syi_engine_free(f->e);
    assert_int_equal(sy_memory_now(f->ctx), 0);
    sy_context_free(f->ctx);
    free(f);
    return 0;
}

static void result_free(result *r)
{
    free(r->out);
    for (int i = 0; i < SY_OP_MAX_IN; i++) free(r->grad[i]);
    memset(r, 0, sizeof *r);
}

static uint16_t to_bf16(float x)
{
    union { float f; uint32_t u; } v = {x};
    return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}

static double number(sy_dtype t, const void *p, int64_t i)
{
    union { uint32_t u; float f; } v;
    if (t == SY_F64) return ((const double *)p)[i];
    if (t == SY_F32) return (double)((const float *)p)[i];
    v.u = (uint32_t)((const uint16_t *)p)[i] << 16;
    return (double)v.f;
}

static void put(sy_dtype t, void *p, int64_t i, double x)
{
    if (t == SY_F64) ((double *)p)[i] = x;
    else if (t == SY_F32) ((float *)p)[i] = (float)x;
    else ((uint16_t *)p)[i] = to_bf16((float)x);
}

static sy_dtype role(sy_dtype in, sy_dtype graph)
{
    return in == CASE_ACT ? graph : graph == SY_F64 ? SY_F64 : SY_F32;
}

static int64_t numbers(const sy_op_case *c, int i)
{
    int64_t n = 1;
    for (int d = 0; d < c->in[i].rank; d++) n *= c->in[i].dim[d];
    return n;
}

/* Inputs that every type holds exactly. */
static void make_inputs(const sy_op_case *c, double **x)
{
    for (int i = 0; i < c->n_in; i++) {
        int64_t n = numbers(c, i);
        assert_true(n <= MAX_NUMBERS);
        float *z = malloc((size_t)n * sizeof *z);
        x[i] = malloc((size_t)n * sizeof **x);
        syi_normal(1000 + (uint64_t)i, 0, n, z);
        double scale = c->in[i].scale != 0 ? c->in[i].scale : 1;
        for (int64_t j = 0; j < n; j++) {
            uint16_t h = to_bf16((float)((double)z[j] * scale + c->in[i].shift));
            x[i][j] = number(SY_BF16, &h, 0);
        }
        free(z);
    }
}

typedef struct { const sy_op *op; const sy_op_case *c; } built;

static sy_node *build(sy_graph *g, const void *self, sy_node *const *in, int n)
{
    const built *b = self;
    return sy_call(g, b->op, in, n, b->c->attr, b->c->attr_size);
}

static uint64_t mix(uint64_t h, const void *p, int64_t bytes)
{
    return syi_hash64(p, (size_t)bytes, h);
}

/* Weights of the outputs in the loss, and of the inputs in what is added to it. */
static double weight_of(int64_t i) { return (double)(i % 7 - 3) * 0.25 + 0.125; }

static sy_node *weighted(sy_graph *g, sy_node *y, void *memory)
{
    sy_tensor w = *sy_shape(y);
    w.data = memory;
    for (int64_t i = 0; i < sy_tensor_count(&w); i++) put(w.dtype, w.data, i, weight_of(i));
    return syi_op_dot(g, y, sy_const(g, &w));
}

static result run(fixture *f, const sy_op *op, const sy_op_case *c, double **x, sy_dtype dt, int setting, bool backward)
{
    result r = {0};
    sy_tensor in[SY_OP_MAX_IN], grad[SY_OP_MAX_IN];
    void *extra[SY_OP_MAX_IN + 1];
    sy_node *leaf[SY_OP_MAX_IN], *node[SY_OP_MAX_IN];
    memset(in, 0, sizeof in), memset(grad, 0, sizeof grad);
    syi_graph_reset(f->g, &(syi_graph_options){.dtype = dt, .training = backward});
    for (int i = 0; i <= SY_OP_MAX_IN; i++) extra[i] = malloc(MAX_NUMBERS * 8);
    for (int i = 0; i < c->n_in; i++) {
        int64_t n = numbers(c, i);
        in[i] = (sy_tensor){.dtype = role(c->in[i].dtype, dt), .rank = c->in[i].rank, .data = malloc((size_t)n * 8)};
        memcpy(in[i].dim, c->in[i].dim, sizeof in[i].dim);
        for (int64_t j = 0; j < n; j++) put(in[i].dtype, in[i].data, j, x[i][j]);
        leaf[i] = node[i] = NULL;
        if (!c->in[i].grad) {
            node[i] = sy_const(f->g, &in[i]);
            continue;
        }
        grad[i] = in[i];
        grad[i].dtype = dt == SY_F64 ? SY_F64 : SY_F32; /* as a parameter's */
        grad[i].data = malloc((size_t)n * 8);
        for (int64_t j = 0; j < n; j++) put(grad[i].dtype, grad[i].data, j, 0.5); /* added to what is there */
        leaf[i] = node[i] = sy_input(f->g, &in[i], &grad[i]);
        if (setting == COMPUTED || setting == ADDED || setting == RECOMPUTED) node[i] = syi_op_scale(f->g, leaf[i], 1);
        if (setting == ADDED) syi_node_hold(node[i]);
    }
    built b = {op, c};
    sy_node *y = setting == RECOMPUTED ? sy_block(f->g, build, &b, 0, node, c->n_in, SY_BLOCK_RECOMPUTE) : build(f->g, &b, node, c->n_in);
    if (sy_graph_status(f->g) != SY_OK) fail_msg("op %s (%s), %s, %s: %s", op->name, c->what, sy_dtype_name(dt), settings[setting], sy_error_message(f->ctx));
    syi_node_hold(y);
    const sy_tensor *v = sy_value(y);
    r.n_out = sy_tensor_count(v);
    r.out = malloc((size_t)r.n_out * sizeof *r.out);
    for (int64_t i = 0; i < r.n_out; i++) r.out[i] = number(v->dtype, v->data, i);
    r.bits = mix(1, v->data, sy_tensor_bytes(v));
    bool root = (op->flags & SY_OP_ROOT) && r.n_out == 1;
    sy_node *loss = root ? y : weighted(f->g, y, extra[SY_OP_MAX_IN]);
    if (setting == ADDED)
        for (int i = 0; i < c->n_in; i++)
            if (leaf[i] != NULL) {
                sy_node *more = weighted(f->g, node[i], extra[i]);
                loss = syi_op_add(f->g, loss, syi_op_cast(f->g, more, sy_shape(loss)->dtype));
            }
    const sy_tensor *l = sy_value(loss);
    if (l == NULL) fail_msg("op %s (%s), %s, %s: %s", op->name, c->what, sy_dtype_name(dt), settings[setting], sy_error_message(f->ctx));
    r.loss = number(l->dtype, l->data, 0);
    if (backward && sy_needs_grad(loss) && syi_graph_backward(f->g, loss, 1) != SY_OK)
        fail_msg("op %s (%s), %s, %s: backward: %s", op->name, c->what, sy_dtype_name(dt), settings[setting], sy_error_message(f->ctx));
    for (int i = 0; i < c->n_in; i++) {
        if (leaf[i] != NULL && backward) {
            int64_t n = numbers(c, i);
            r.grad[i] = malloc((size_t)n * sizeof *r.grad[i]);
            r.bits = mix(r.bits, grad[i].data, sy_tensor_bytes(&grad[i]));
            for (int64_t j = 0; j < n; j++) r.grad[i][j] = number(grad[i].dtype, grad[i].data, j) - 0.5;
        }
        free(grad[i].data);
        free(in[i].data);
    }
    for (int i = 0; i <= SY_OP_MAX_IN; i++) free(extra[i]);
    return r;
}

/* |a - b| / |b|, Frobenius; b's size has a floor so that zeros compare. */
static double apart(const double *a, const double *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) d += (a[i] - b[i]) * (a[i] - b[i]), s += b[i] * b[i];
    return isfinite(d) ? sqrt(d) / (sqrt(s) + 1e-6 * sqrt((double)n)) : INFINITY;
}

static void differences(fixture *f, const sy_op *op, const sy_op_case *c, double **x, const result *r)
{
    for (int i = 0; i < c->n_in; i++) {
        if (!c->in[i].grad) continue;
        int64_t n = numbers(c, i), step = n > SAMPLES ? n / SAMPLES : 1;
        for (int64_t j = 0; j < n; j += step) {
            double old = x[i][j], h = 1e-5 * fmax(1, fabs(old));
            x[i][j] = old + h;
            result up = run(f, op, c, x, SY_F64, LEAVES, false);
            x[i][j] = old - h;
            result down = run(f, op, c, x, SY_F64, LEAVES, false);
            x[i][j] = old;
            double expected = (up.loss - down.loss) / (2 * h), got = r->grad[i][j];
            if (!(fabs(got - expected) <= 1e-6 * fabs(expected) + 2e-7))
                fail_msg("op %s (%s): d loss / d input %d [%lld] is %.10g, central difference %.10g", op->name, c->what, i, (long long)j, got, expected);
            result_free(&up);
            result_free(&down);
        }
    }
}

static void compare(const sy_op *op, const sy_op_case *c, sy_dtype dt, int setting, const result *a, const result *b, double tol, double added)
{
    double d = apart(a->out, b->out, a->n_out);
    if (!(d <= tol)) fail_msg("op %s (%s), %s, %s: value is %g apart from f64 (bound %g)", op->name, c->what, sy_dtype_name(dt), settings[setting], d, tol);
    for (int i = 0; i < c->n_in; i++) {
        if (!c->in[i].grad) continue;
        int64_t n = numbers(c, i);
        double *expected = malloc((size_t)n * sizeof *expected);
        for (int64_t j = 0; j < n; j++) expected[j] = b->grad[i][j] + added * weight_of(j);
        d = apart(a->grad[i], expected, n);
        free(expected);
        if (!(d <= tol))
            fail_msg("op %s (%s), %s, %s: gradient of input %d is %g apart from f64 (bound %g)", op->name, c->what, sy_dtype_name(dt), settings[setting], i, d, tol);
    }
}

static void one_case(fixture *f, const sy_op *op, const sy_op_case *c)
{
    double *x[SY_OP_MAX_IN] = {NULL};
    make_inputs(c, x);
    result reference = run(f, op, c, x, SY_F64, LEAVES, op->backward != NULL);
    if (op->backward != NULL) differences(f, op, c, x, &reference);
    static const sy_dtype types[] = {SY_F64, SY_F32, SY_BF16};
    for (int t = 0; t < SYI_COUNT(types) && op->backward != NULL; t++) {
        double tol = types[t] == SY_F64 ? 1e-12 : types[t] == SY_F32 ? (c->tol_f32 > 0 ? c->tol_f32 : 2e-5) : (c->tol_bf16 > 0 ? c->tol_bf16 : 2e-2);
        for (int s = 0; s < SETTINGS; s++) {
            assert_int_equal(sy_threads_set(f->ctx, 1), SY_OK);
            result r = run(f, op, c, x, types[t], s, true);
            compare(op, c, types[t], s, &r, &reference, tol, s == ADDED ? 1 : 0);
            assert_int_equal(sy_threads_set(f->ctx, 3), SY_OK);
            result again = run(f, op, c, x, types[t], s, true);
            if (again.bits != r.bits) fail_msg("op %s (%s), %s, %s: other bits with 3 threads than with 1", op->name, c->what, sy_dtype_name(types[t]), settings[s]);
            result_free(&r);
            result_free(&again);
        }
    }
    result_free(&reference);
    for (int i = 0; i < c->n_in; i++) free(x[i]);
}

/* Row n of the engine's and the methods' own; NULL: no more. */
static const sy_op *op_at(int n)
{
    for (int i = 0; syi_ops[i]; i++)
        if (n-- == 0) return syi_ops[i];
    for (const sy_method *const *m = sy_methods(); *m; m++)
        for (int i = 0; (*m)->ops && (*m)->ops[i]; i++)
            if (n-- == 0) return (*m)->ops[i];
    return NULL;
}

static void rows(void **state)
{
    fixture *f = *state;
    int n = 0, cases = 0;
    for (; op_at(n) != NULL; n++) {
        const sy_op *op = op_at(n);
        if ((op->backward == NULL) != (op->no_grad != NULL))
            fail_msg("op %s: a row has either a backward or the reason why it has none", op->name);
        if (op->test == NULL) fail_msg("op %s: no test cases", op->name);
        sy_op_case c = {0};
        int i = 0;
        for (; op->test(i, &c); i++, cases++) one_case(f, op, &c);
        assert_true(i > 0);
        for (int j = 0; j < n; j++) assert_string_not_equal(op_at(j)->name, op->name);
    }
    assert_true(n >= 20);
    print_message("%d op rows, %d cases\n", n, cases);
}

/* Shapes that do not fit are refused with a message that names them. */
static void refusals(void **state)
{
    fixture *f = *state;
    float a[12] = {0}, b[12] = {0};
    sy_tensor x = {.dtype = SY_F32, .rank = 2, .dim = {3, 4}, .data = a}, w = {.dtype = SY_F32, .rank = 2, .dim = {4, 3}, .data = b};
    syi_graph_options o = {.dtype = SY_F32};
    syi_graph_reset(f->g, &o);
    assert_null(syi_op_linear(f->g, sy_const(f->g, &x), sy_const(f->g, &w), false));
    assert_int_equal(sy_graph_status(f->g), SY_E_BUG);
    assert_non_null(strstr(sy_error_message(f->ctx), "[4, 3]"));
    syi_graph_reset(f->g, &o);
    assert_null(syi_op_add(f->g, sy_const(f->g, &x), sy_const(f->g, &w)));
    assert_int_equal(sy_graph_status(f->g), SY_E_BUG);
    syi_graph_reset(f->g, &o);
    assert_null(syi_op_reshape(f->g, sy_const(f->g, &x), 2, (int64_t[]){5, 2}));
    assert_int_equal(sy_graph_status(f->g), SY_E_BUG);
    syi_graph_reset(f->g, &o);
    int32_t ids[] = {0, 4};
    assert_null(syi_op_embed(f->g, sy_const(f->g, &w), false, ids, 2));
    assert_non_null(strstr(sy_error_message(f->ctx), "id 4"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rows, setup, teardown),
        cmocka_unit_test_setup_teardown(refusals, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
