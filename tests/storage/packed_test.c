/* SPDX-License-Identifier: Apache-2.0 */
/* Packed grids: codes come back from files' bytes and from lanes; products with them agree
 * with the dense matrix on every CPU path, for any shape, group, order and number of rows;
 * damaged slots are refused. */
#include "support/test.h"

#include "graph/graph.h"
#include "storage/weight.h"
#include "tensor/cpu.h"
#include "tensor/packed.h"

#include <math.h>

static sy_weight *make(sy_context *ctx, int64_t out, int64_t in, int bits, int64_t group, bool order, uint64_t seed)
{
    sy_weight *w;
    assert_int_equal(syi_weight_packed(ctx, out, in, bits, group, order, &w), SY_OK);
    const syi_packed_shape s = syi_packed_shape_of(w);
    uint8_t *codes = malloc((size_t)in), *back = malloc((size_t)in);
    for (int64_t r = 0; r < out; r++) {
        for (int64_t k = 0; k < in; k++) codes[k] = (uint8_t)(syi_random_u64(seed, r * in + k) >> (64 - bits));
        syi_packed_put(w, r, codes);
        syi_packed_get(w, r, back);
        assert_memory_equal(codes, back, (size_t)in);
        for (int64_t g = 0; g < s.groups; g++) {
            float scale = 0.01f + (float)(syi_random_u64(seed + 1, r * s.groups + g) % 1000) / 4000;
            assert_int_equal(sy_from_f32(ctx, SY_F16, &scale, (uint16_t *)w->slot[SYI_PACKED_SCALES].data + r * s.groups + g, 1), SY_OK);
            ((uint8_t *)w->slot[SYI_PACKED_ZEROS].data)[r * s.groups + g] = (uint8_t)(syi_random_u64(seed + 2, r * s.groups + g) >> (64 - bits));
        }
    }
    int32_t *o = w->slot[SYI_PACKED_ORDER].data;
    if (order) {
        int64_t *p = malloc((size_t)in * sizeof *p);
        syi_permutation(seed + 3, in, p);
        for (int64_t k = 0; k < in; k++) o[k] = (int32_t)p[k];
        free(p);
    }
    free(codes);
    free(back);
    return w;
}

/* y = x W^T and x' W through the graph against plain loops over `dense`. */
static void products(sy_context *ctx, const sy_weight *w, int64_t tokens)
{
    syi_engine *e;
    syi_heap *heap;
    sy_graph *g;
    const int64_t out = w->out, in = w->in;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    assert_int_equal(syi_heap_new(ctx, &heap), SY_OK);
    assert_int_equal(syi_heap_reserve(heap, 8 << 20), SY_OK);
    assert_int_equal(syi_graph_new(ctx, e, heap, &g), SY_OK);
    float *d = malloc((size_t)(out * in) * sizeof *d), *x = malloc((size_t)(tokens * (in > out ? in : out)) * sizeof *x);
    assert_int_equal(w->type->dense(ctx, w, 0, out, d), SY_OK);
    syi_normal(9, 0, tokens * (in > out ? in : out), x);
    for (int transposed = 0; transposed < 2; transposed++) {
        const int64_t from = transposed ? out : in, to = transposed ? in : out;
        sy_tensor t = {.dtype = SY_F32, .rank = 2, .dim = {tokens, from}, .data = x};
        syi_graph_options o = {.dtype = SY_F32};
        syi_graph_reset(g, &o);
        sy_node *y = w->type->apply(g, w, sy_const(g, &t), transposed);
        assert_int_equal(sy_graph_status(g), SY_OK);
        const float *v = sy_value(y)->data;
        for (int64_t i = 0; i < tokens; i++)
            for (int64_t j = 0; j < to; j++) {
                double s = 0, size = 0;
                for (int64_t k = 0; k < from; k++) {
                    const double term = (double)x[i * from + k] * (double)(transposed ? d[k * in + j] : d[j * in + k]);
                    s += term;
                    size += fabs(term);
                }
                if (!(fabs(s - (double)v[i * to + j]) <= 2e-6 * size + 1e-6))
                    fail_msg("[%d x %d] %d tokens: y[%d, %d] = %g, expected %g", (int)out, (int)in, (int)tokens, (int)i, (int)j, (double)v[i * to + j], s);
            }
    }
    free(d);
    free(x);
    syi_graph_free(g);
    syi_heap_free(heap);
    syi_engine_free(e);
}

static void all_shapes(void **state)
{
    (void)state;
    static const char *const paths[] = {"plain", "avx2", "avx512", "avx512_bf16", "neon"};
    static const struct { int64_t out, in, group; bool order; } shape[] = {
        {5, 64, 64, false}, {19, 576, 128, false}, {33, 200, 32, false}, {7, 37, 0, false}, {16, 1040, 96, true}, {40, 512, 128, true}, {3, 16, 0, false}, {64, 144, 0, true},
    };
    int tried = 0;
    for (int p = 0; p < SYI_COUNT(paths); p++) {
        if (!syi_cpu_find(paths[p])) continue;
        setenv("STEELYARD_CPU", paths[p], 1);
        sy_context *ctx = sy_context_new();
        for (int bits = 2; bits <= 8; bits += bits == 4 ? 4 : 1)
            for (int s = 0; s < SYI_COUNT(shape); s++) {
                sy_weight *w = make(ctx, shape[s].out, shape[s].in, bits, shape[s].group, shape[s].order, (uint64_t)(bits * 10 + s));
                assert_int_equal(w->type->prepare(ctx, w), SY_OK);
                for (int64_t tokens = 1; tokens < 7; tokens += tokens < 4 ? 1 : 2) products(ctx, w, tokens);
                syi_weight_free(ctx, w);
                tried++;
            }
        assert_int_equal(sy_memory_now(ctx), 0);
        sy_context_free(ctx);
    }
    unsetenv("STEELYARD_CPU");
    assert_true(tried >= 4 * SYI_COUNT(shape));
}

/* Lanes hold what the slots hold, to the bit. */
static void lanes_agree(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    syi_engine *e;
    assert_int_equal(syi_engine_new(ctx, &e), SY_OK);
    for (int bits = 2; bits <= 8; bits += bits == 4 ? 4 : 1) {
        sy_weight *w = make(ctx, 11, 333, bits, 64, false, 5);
        assert_int_equal(w->type->prepare(ctx, w), SY_OK);
        float a[333], b[333];
        for (int r = 0; r < 11; r++) {
            assert_int_equal(w->type->dense(ctx, w, r, 1, a), SY_OK);
            syi_packed_dense(e, w->fast, r, 1, b); /* the lanes come first in it */
            assert_memory_equal(a, b, sizeof a);
        }
        assert_true(w->type->bits(w) > bits && w->type->bits(w) < bits + 1.2);
        syi_weight_free(ctx, w);
    }
    syi_engine_free(e);
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

static void damaged(void **state)
{
    (void)state;
    sy_context *ctx = sy_context_new();
    for (int what = 0; what < 6; what++) {
        sy_weight *w = make(ctx, 4, 64, 4, 32, true, 1);
        int32_t *p = w->slot[SYI_PACKED_PACKING].data, *o = w->slot[SYI_PACKED_ORDER].data;
        if (what == 0) p[0] = 5;
        if (what == 1) p[1] = 33;
        if (what == 2) p[2] = 65;
        if (what == 3) o[0] = o[1];
        if (what == 4) o[0] = 64;
        if (what == 5) w->slot[SYI_PACKED_SCALES].dim[1]++;
        assert_int_equal(w->type->prepare(ctx, w), SY_E_INPUT);
        assert_non_null(strstr(sy_error_message(ctx), "packed weight"));
        if (what == 5) w->slot[SYI_PACKED_SCALES].dim[1]--;
        syi_weight_free(ctx, w);
    }
    sy_weight *w;
    assert_int_equal(syi_weight_packed(ctx, 4, 100, 4, 100, false, &w), SY_OK); /* one group a row may have any length */
    assert_int_equal(w->type->prepare(ctx, w), SY_OK);
    syi_weight_free(ctx, w);
    assert_int_equal(sy_memory_now(ctx), 0);
    sy_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_shapes), cmocka_unit_test(lanes_agree), cmocka_unit_test(damaged)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
