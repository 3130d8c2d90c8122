/* SPDX-License-Identifier: Apache-2.0 */
/* Attention while decoding: appends the new keys and values to the cache, then attends
 * over all of it. Forward only. */
#include "model/model.h"

#include "graph/ops.h"

typedef struct { syi_kv_cache *cache; int block; syi_attention shape; } attr;

static sy_status cached_shape(sy_op_call *c, int *n_aux)
{
    const attr *a = c->attr;
    const syi_kv_cache *kv = a->cache;
    *n_aux = 0;
    *c->out = *c->in[0];
    c->out->data = NULL;
    int64_t n = c->in[0]->dim[0];
    if (c->in[0]->dtype != kv->dtype || c->in[0]->dim[1] != a->shape.heads * kv->head_dim || c->in[1]->dim[1] != kv->kv_heads * kv->head_dim)
        return syi_fail(c->ctx, SY_E_BUG, "cached attention: shapes of q, k and the cache differ");
    if (kv->past + n > kv->capacity)
        return syi_fail(c->ctx, SY_E_BUG, "cached attention: %lld tokens in a cache of %lld", (long long)(kv->past + n), (long long)kv->capacity);
    return SY_OK;
}

/* [n, kv_heads, dim] rows into [kv_heads, capacity, dim] at `past`. */
static void append(const syi_kv_cache *kv, char *to, const char *from, int64_t n)
{
    int64_t row = kv->head_dim * sy_dtype_block_bytes(kv->dtype);
    for (int64_t h = 0; h < kv->kv_heads; h++)
        for (int64_t t = 0; t < n; t++)
            memcpy(to + (h * kv->capacity + kv->past + t) * row, from + (t * kv->kv_heads + h) * row, (size_t)row);
}

static sy_status cached_forward(sy_op_call *c)
{
    const attr *a = c->attr;
    const syi_kv_cache *kv = a->cache;
    int64_t n = c->in[0]->dim[0];
    int64_t block = kv->kv_heads * kv->capacity * kv->head_dim * sy_dtype_block_bytes(kv->dtype);
    char *keys = (char *)kv->keys + a->block * block, *values = (char *)kv->values + a->block * block;
    append(kv, keys, c->in[1]->data, n);
    append(kv, values, c->in[2]->data, n);
    syi_attention shape = a->shape;
    shape.tokens = n;
    return syi_attention_cached(c->engine, kv->dtype, &shape, kv->past, kv->capacity, c->in[0]->data, keys, values, c->out->data);
}

static double cached_flops(const sy_op_call *c, bool backward)
{
    (void)backward;
    const attr *a = c->attr;
    double n = (double)c->in[0]->dim[0];
    return 4 * n * ((double)a->cache->past + (n + 1) / 2) * (double)(a->shape.heads * a->cache->head_dim);
}

static const sy_op op_cached = {
    .name = "attention_cached", .no_grad = "decoding only: it changes the cache", .min_in = 3, .max_in = 3,
    .shape = cached_shape, .forward = cached_forward, .flops = cached_flops,
};

sy_node *syi_op_attention_cached(sy_graph *g, sy_node *q, sy_node *k, sy_node *v, syi_kv_cache *cache, int block, const syi_attention *shape)
{
    attr a = {cache, block, *shape};
    return sy_call(g, &op_cached, (sy_node *[]){q, k, v}, 3, &a, sizeof a);
}
