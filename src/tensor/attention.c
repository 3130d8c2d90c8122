/* SPDX-License-Identifier: Apache-2.0 */
/* Attention's entry points: what is asked is checked once and described once
 * (syi_attend), then done by the best path that this CPU has. */
#include "tensor/attention_internal.h"

/* The path for this type, this head size and this CPU. The tiled ones hold a head
 * in their tiles and look for maxima of scores, so they want a positive scale of sane size. */
static const syi_attend_path *path_of(const syi_engine *e, const syi_attend *a)
{
    const char *cpu = syi_engine_cpu(e);
    if (a->dt == SY_F64 || a->dim > SYI_ATTENTION_TILE_DIM || !(a->scale > 0 && a->scale < 1e6)) return &syi_attend_plain;
#if defined(__x86_64__)
    if (strcmp(cpu, "avx512_bf16") == 0) return a->dt == SY_BF16 ? &syi_attend_avx512bf16 : &syi_attend_avx512;
    if (strcmp(cpu, "avx512") == 0) return &syi_attend_avx512;
    if (strcmp(cpu, "avx2") == 0) return &syi_attend_avx2;
#elif defined(__aarch64__)
    if (strcmp(cpu, "neon") == 0) return &syi_attend_neon;
#endif
    (void)cpu;
    return &syi_attend_plain;
}

static sy_status check(sy_context *ctx, const char *what, const syi_attend *a)
{
    if (a->dt != SY_F64 && a->dt != SY_F32 && a->dt != SY_BF16)
        return syi_fail(ctx, SY_E_BUG, "%s: type %s; F64, F32 and BF16 can be computed in", what, sy_dtype_name(a->dt));
    if (a->n < 0 || a->past < 0 || a->kv_heads < 1 || a->heads < a->kv_heads || a->heads % a->kv_heads != 0 || a->dim < 1 || a->window < 0)
        return syi_fail(ctx, SY_E_BUG, "%s: %lld tokens after %lld, %lld heads over %lld key heads of size %lld, window %lld do not fit together",
                        what, (long long)a->n, (long long)a->past, (long long)a->heads, (long long)a->kv_heads, (long long)a->dim, (long long)a->window);
    if (a->dim > SYI_ATTENTION_MAX_DIM)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: head size %lld, at most %d is supported", what, (long long)a->dim, SYI_ATTENTION_MAX_DIM);
    for (int64_t t = 0; a->first && t < a->n; t++)
        if (a->first[t] != t && (t == 0 || a->first[t] != a->first[t - 1]))
            return syi_fail(ctx, SY_E_BUG, "%s: first[%lld] = %lld; a token's document begins at itself or where that of the token before it does",
                            what, (long long)t, (long long)a->first[t]);
    if (!(a->softcap >= 0) || (a->last && (a->past > 0 || a->window > 0)))
        return syi_fail(ctx, SY_E_BUG, "%s: soft cap %g; looking ahead goes neither with a cache nor with a window", what, a->softcap);
    for (int64_t t = 0; a->last && t < a->n; t++)
        if (a->last[t] != (t + 1 < a->n && (a->first ? a->first[t + 1] : 0) != t + 1 ? a->last[t + 1] : t))
            return syi_fail(ctx, SY_E_BUG, "%s: last[%lld] = %lld is not the end of its document", what, (long long)t, (long long)a->last[t]);
    return SY_OK;
}

static syi_attend describe(const syi_engine *e, sy_dtype dt, const syi_attention *a)
{
    return (syi_attend){.dt = dt, .n = a->tokens, .heads = a->heads, .kv_heads = a->kv_heads, .dim = a->dim, .scale = a->scale,
                        .first = a->first, .last = a->last, .window = a->window, .softcap = a->softcap, .k_token = a->kv_heads * a->dim, .k_head = a->dim,
                        .threads = syi_omp(syi_engine_context(e))};
}

int64_t syi_attention_scratch(const syi_engine *e, sy_dtype dt, const syi_attention *a, bool backward)
{
    syi_attend w = describe(e, dt, a);
    return path_of(e, &w)->scratch(&w, a->tokens, backward);
}

sy_status syi_attention_forward(syi_engine *e, sy_dtype dt, const syi_attention *a, const void *q, const void *k, const void *v,
                                void *out, void *lse, void *scratch)
{
    syi_attend w = describe(e, dt, a);
    SYI_TRY(check(syi_engine_context(e), "attention", &w));
    w.q = q, w.k = k, w.v = v, w.out = out, w.lse = lse, w.scratch = scratch;
    if (w.n > 0) path_of(e, &w)->forward(&w);
    return SY_OK;
}

sy_status syi_attention_backward(syi_engine *e, sy_dtype dt, const syi_attention *a, const void *q, const void *k, const void *v,
                                 const void *out, const void *lse, const void *dout, bool add_q, void *dq, bool add_k, void *dk,
                                 bool add_v, void *dv, void *scratch)
{
    syi_attend w = describe(e, dt, a);
    SYI_TRY(check(syi_engine_context(e), "attention gradient", &w));
    w.q = q, w.k = k, w.v = v, w.out = (void *)(uintptr_t)out, w.lse = (void *)(uintptr_t)lse, w.dout = dout, w.scratch = scratch;
    w.add_q = add_q, w.dq = dq, w.add_k = add_k, w.dk = dk, w.add_v = add_v, w.dv = dv;
    if (w.n > 0) path_of(e, &w)->backward(&w);
    return SY_OK;
}

sy_status syi_attention_cached(syi_engine *e, sy_dtype dt, const syi_attention *a, int64_t past, int64_t capacity, const void *q, const void *kc,
                               const void *vc, void *out)
{
    sy_context *ctx = syi_engine_context(e);
    syi_attend w = describe(e, dt, a);
    w.first = w.last = NULL;
    w.past = past, w.cached = true, w.k_token = a->dim, w.k_head = capacity * a->dim;
    w.q = q, w.k = kc, w.v = vc, w.out = out, w.engine = e;
    SYI_TRY(check(ctx, "attention over the cache", &w));
    if (past + w.n > capacity)
        return syi_fail(ctx, SY_E_BUG, "attention over the cache: %lld tokens after %lld do not fit a cache of %lld", (long long)w.n,
                        (long long)past, (long long)capacity);
    if (w.n == 0) return SY_OK;
    const syi_attend_path *path = path_of(e, &w);
    int64_t bytes = path->scratch(&w, past + w.n, false);
    if (bytes > 0 && !(w.scratch = syi_engine_work(e, SYI_WORK_ATTENTION, bytes))) return SY_E_MEMORY;
    path->forward(&w);
    return SY_OK;
}
