/* SPDX-License-Identifier: Apache-2.0 */
/* Products by oneDNN through its C API (2.6 to 3.x).
 *
 * Making a primitive generates code (about a millisecond), so primitives are kept
 * by shape, strides, types, factors and threads. Memory objects are made once with
 * each and pointed at the data of the call; scratchpads come from the engine. */
#include "tensor/gemm.h"

#include <math.h>

enum { MAX_ENTRIES = 2048 }; /* a run has some hundred shapes; more: start afresh */

/* Everything that a primitive depends on; compared as bytes, so no padding. */
typedef struct {
    int64_t m, n, k, lda, ldb, ldc;
    double alpha, beta;
    int32_t a_type, b_type, c_type;
    int32_t a_t, b_t;
    int32_t kind; /* enum kind */
    int32_t threads, reserved;
} key;

enum kind { PLAIN, PANELS_FORWARD, PANELS_BACKWARD };

typedef struct {
    key key;
    uint64_t hash;
    bool fast;             /* false: oneDNN has no product that we want */
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c, scratch;
    int64_t scratch_bytes;
} entry;

struct syi_products {
    sy_context *ctx;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    entry *entries; /* open addressing, hash 0: empty */
    int64_t slots, used;
    bool off; /* STEELYARD_CPU=plain: our own products only */
};

/* -- differences between versions ------------------------------------------------- */

/* A memory descriptor is a value in 2.x and an object in 3.x. */
#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t desc;
typedef const_dnnl_memory_desc_t desc_ref;
#define REF(d) (d)
static dnnl_status_t desc_strided(desc *d, const dnnl_dims_t dims, dnnl_data_type_t t, const dnnl_dims_t strides)
{
    return dnnl_memory_desc_create_with_strides(d, 2, dims, t, strides);
}
static dnnl_status_t desc_tagged(desc *d, const dnnl_dims_t dims, dnnl_data_type_t t, dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_create_with_tag(d, 2, dims, t, tag);
}
static void desc_free(desc *d)
{
    if (*d != NULL) dnnl_memory_desc_destroy(*d);
}
#else
typedef dnnl_memory_desc_t desc;
typedef const dnnl_memory_desc_t *desc_ref;
#define REF(d) (&(d))
static dnnl_status_t desc_strided(desc *d, const dnnl_dims_t dims, dnnl_data_type_t t, const dnnl_dims_t strides)
{
    return dnnl_memory_desc_init_by_strides(d, 2, dims, t, strides);
}
static dnnl_status_t desc_tagged(desc *d, const dnnl_dims_t dims, dnnl_data_type_t t, dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_init_by_tag(d, 2, dims, t, tag);
}
static void desc_free(desc *d)
{
    (void)d;
}
#endif

static dnnl_status_t attr_factors(dnnl_primitive_attr_t attr, dnnl_post_ops_t ops, double alpha, double beta)
{
    dnnl_status_t s = dnnl_success;
#if DNNL_VERSION_MAJOR >= 3
    if (alpha != 1) s = dnnl_post_ops_append_eltwise(ops, dnnl_eltwise_linear, (float)alpha, 0);
    if (s == dnnl_success && beta != 0) s = dnnl_post_ops_append_sum(ops, (float)beta, 0, dnnl_data_type_undef);
#else
    float scale = (float)alpha;
    if (alpha != 1) s = dnnl_primitive_attr_set_output_scales(attr, 1, 0, &scale);
    if (s == dnnl_success && beta != 0) s = dnnl_post_ops_append_sum(ops, (float)beta);
#endif
    if (s == dnnl_success) s = dnnl_primitive_attr_set_post_ops(attr, ops);
    return s;
}

static dnnl_status_t make_matmul(dnnl_engine_t engine, desc *a, desc *b, desc *c, dnnl_primitive_attr_t attr,
                                 dnnl_primitive_desc_t *out)
{
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_matmul_primitive_desc_create(out, engine, *a, *b, NULL, *c, attr);
#else
    dnnl_matmul_desc_t d;
    dnnl_status_t s = dnnl_matmul_desc_init(&d, a, b, NULL, c);
    return s == dnnl_success ? dnnl_primitive_desc_create(out, &d, attr, engine, NULL) : s;
#endif
}

static dnnl_status_t make_forward(dnnl_engine_t engine, desc *a, desc *b, desc *c, dnnl_primitive_attr_t attr,
                                  dnnl_primitive_desc_t *out)
{
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_inner_product_forward_primitive_desc_create(out, engine, dnnl_forward_inference, *a, *b, NULL, *c, attr);
#else
    dnnl_inner_product_desc_t d;
    dnnl_status_t s = dnnl_inner_product_forward_desc_init(&d, dnnl_forward_inference, a, b, NULL, c);
    return s == dnnl_success ? dnnl_primitive_desc_create(out, &d, attr, engine, NULL) : s;
#endif
}

static dnnl_status_t make_backward(dnnl_engine_t engine, desc *a, desc *b, desc *c, dnnl_primitive_attr_t attr,
                                   dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *out)
{
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_inner_product_backward_data_primitive_desc_create(out, engine, *a, *b, *c, hint, attr);
#else
    dnnl_inner_product_desc_t d;
    dnnl_status_t s = dnnl_inner_product_backward_data_desc_init(&d, a, b, c);
    return s == dnnl_success ? dnnl_primitive_desc_create(out, &d, attr, engine, hint) : s;
#endif
}

/* -- entries ------------------------------------------------------------------------ */

static dnnl_data_type_t dnnl_type(int t)
{
    return t == SY_BF16 ? dnnl_bf16 : dnnl_f32;
}

static sy_status dnnl_failed(sy_context *ctx, const char *what, const key *k, dnnl_status_t s)
{
    return syi_fail(ctx, s == dnnl_out_of_memory ? SY_E_MEMORY : SY_E_BUG,
                    "oneDNN %d.%d.%d: %s for a product %lldx%lldx%lld (%s x %s -> %s) failed with status %d; "
                    "set DNNL_VERBOSE=2 to see why",
                    DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR, DNNL_VERSION_PATCH, what, (long long)k->m, (long long)k->n,
                    (long long)k->k, sy_dtype_name((sy_dtype)k->a_type), sy_dtype_name((sy_dtype)k->b_type),
                    sy_dtype_name((sy_dtype)k->c_type), (int)s);
}

static void entry_free(entry *x)
{
    if (x->a != NULL) dnnl_memory_destroy(x->a);
    if (x->b != NULL) dnnl_memory_destroy(x->b);
    if (x->c != NULL) dnnl_memory_destroy(x->c);
    if (x->scratch != NULL) dnnl_memory_destroy(x->scratch);
    if (x->primitive != NULL) dnnl_primitive_destroy(x->primitive);
    memset(x, 0, sizeof *x);
}

/* Of oneDNN's products the "brgemm" ones are fast and keep their bits whatever the
 * number of threads (but see gemm.c); its older general ones do not, and what it has
 * not specialised is done by reference loops, hundreds of times slower than ours. */
static bool is_good(const char *info)
{
    return info != NULL && strncmp(info, "brg", 3) == 0;
}

static sy_status entry_make(struct syi_products *p, const key *k, entry *x)
{
    x->key = *k;
    desc a, b, c;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    memset(&c, 0, sizeof c);
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t pd = NULL, hint = NULL;
    dnnl_data_type_t at = dnnl_type(k->a_type), bt = dnnl_type(k->b_type), ct = dnnl_type(k->c_type);
    const char *what = "describing";

    dnnl_status_t s = dnnl_primitive_attr_create(&attr);
    if (s == dnnl_success) s = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (s == dnnl_success) s = dnnl_post_ops_create(&ops);
    if (s == dnnl_success) s = attr_factors(attr, ops, k->alpha, k->beta);
    if (s != dnnl_success) goto done;
    if (k->kind == PLAIN) {
        const dnnl_dims_t da = {k->m, k->k}, db = {k->k, k->n}, dc = {k->m, k->n};
        const dnnl_dims_t sa = {k->a_t ? 1 : k->lda, k->a_t ? k->lda : 1};
        const dnnl_dims_t sb = {k->b_t ? 1 : k->ldb, k->b_t ? k->ldb : 1};
        const dnnl_dims_t sc = {k->ldc, 1};
        s = desc_strided(&a, da, at, sa);
        if (s == dnnl_success) s = desc_strided(&b, db, bt, sb);
        if (s == dnnl_success) s = desc_strided(&c, dc, ct, sc);
        if (s == dnnl_success) s = make_matmul(p->engine, &a, &b, &c, attr, &pd);
    } else {
        /* C[m,n] = A[m,k] W[n,k]^T, or A[m,k] = C[m,n] W[n,k] (the roles stay). */
        const dnnl_dims_t da = {k->m, k->k}, db = {k->n, k->k}, dc = {k->m, k->n};
        const dnnl_dims_t sa = {k->lda, 1}, sc = {k->ldc, 1};
        s = desc_strided(&a, da, at, sa);
        if (s == dnnl_success) s = desc_tagged(&b, db, bt, bt == dnnl_bf16 ? dnnl_AB8b64a2b : dnnl_AB16b64a);
        if (s == dnnl_success) s = desc_strided(&c, dc, ct, sc);
        if (s == dnnl_success && k->kind == PANELS_FORWARD) s = make_forward(p->engine, &a, &b, &c, attr, &pd);
        if (s == dnnl_success && k->kind == PANELS_BACKWARD) {
            desc plain; /* the hint is of the forward product, all of one type */
            memset(&plain, 0, sizeof plain);
            s = desc_strided(&plain, da, ct, sa);
            if (s == dnnl_success) s = make_forward(p->engine, &plain, &b, &c, NULL, &hint);
            desc_free(&plain);
            if (s == dnnl_success) s = make_backward(p->engine, &a, &b, &c, attr, hint, &pd);
        }
    }
    const char *info = NULL;
    if (s == dnnl_success) s = dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &info);
    if (s == dnnl_unimplemented || (s == dnnl_success && !is_good(info))) {
        x->fast = false; /* remembered, so that it is asked once */
        s = dnnl_success;
        goto done;
    }
    if (s != dnnl_success) goto done;
    x->fast = true;
    what = "making it";
    desc_ref scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    x->scratch_bytes = (int64_t)dnnl_memory_desc_get_size(scratch);
    s = dnnl_primitive_create(&x->primitive, pd);
    if (s == dnnl_success) s = dnnl_memory_create(&x->a, REF(a), p->engine, DNNL_MEMORY_NONE);
    if (s == dnnl_success) s = dnnl_memory_create(&x->b, REF(b), p->engine, DNNL_MEMORY_NONE);
    if (s == dnnl_success) s = dnnl_memory_create(&x->c, REF(c), p->engine, DNNL_MEMORY_NONE);
    if (s == dnnl_success && x->scratch_bytes > 0) s = dnnl_memory_create(&x->scratch, scratch, p->engine, DNNL_MEMORY_NONE);

done:
    if (pd != NULL) dnnl_primitive_desc_destroy(pd);
    if (hint != NULL) dnnl_primitive_desc_destroy(hint);
    if (ops != NULL) dnnl_post_ops_destroy(ops);
    if (attr != NULL) dnnl_primitive_attr_destroy(attr);
    desc_free(&a);
    desc_free(&b);
    desc_free(&c);
    if (s != dnnl_success) {
        entry_free(x);
        return dnnl_failed(p->ctx, what, k, s);
    }
    return SY_OK;
}

/* -- the table ------------------------------------------------------------------------ */

static void table_clear(struct syi_products *p)
{
    for (int64_t i = 0; i < p->slots; i++)
        if (p->entries[i].hash != 0) entry_free(&p->entries[i]);
    p->used = 0;
}

static sy_status table_grow(struct syi_products *p)
{
    int64_t slots = p->slots > 0 ? 2 * p->slots : 256;
    entry *fresh = syi_calloc(p->ctx, (size_t)slots, sizeof *fresh);
    if (fresh == NULL) return SY_E_MEMORY;
    for (int64_t i = 0; i < p->slots; i++) {
        if (p->entries[i].hash == 0) continue;
        int64_t at = (int64_t)(p->entries[i].hash & (uint64_t)(slots - 1));
        while (fresh[at].hash != 0) at = (at + 1) & (slots - 1);
        fresh[at] = p->entries[i];
    }
    syi_free(p->ctx, p->entries);
    p->entries = fresh;
    p->slots = slots;
    return SY_OK;
}

static sy_status table_find(struct syi_products *p, const key *k, entry **out)
{
    uint64_t hash = syi_hash64(k, sizeof *k, 0);
    if (hash == 0) hash = 1;
    if (p->used >= MAX_ENTRIES) table_clear(p);
    if (2 * (p->used + 1) > p->slots) SYI_TRY(table_grow(p));
    int64_t at = (int64_t)(hash & (uint64_t)(p->slots - 1));
    for (; p->entries[at].hash != 0; at = (at + 1) & (p->slots - 1)) {
        if (p->entries[at].hash == hash && memcmp(&p->entries[at].key, k, sizeof *k) == 0) {
            *out = &p->entries[at];
            return SY_OK;
        }
    }
    if (!p->off) SYI_TRY(entry_make(p, k, &p->entries[at]));
    else p->entries[at].key = *k;
    p->entries[at].hash = hash;
    p->used++;
    *out = &p->entries[at];
    return SY_OK;
}

sy_status syi_products_new(sy_context *ctx, syi_isa isa, bool forced, struct syi_products **out)
{
    struct syi_products *p = syi_calloc(ctx, 1, sizeof *p);
    if (p == NULL) return SY_E_MEMORY;
    p->ctx = ctx;
    p->off = forced && isa == SYI_ISA_PLAIN;
    /* A path forced by STEELYARD_CPU holds for oneDNN too. It is a switch of the
     * process and only the first caller is heard: good enough for what it is for. */
    if (forced && isa == SYI_ISA_AVX2) (void)dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
    if (forced && isa == SYI_ISA_AVX512) (void)dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx512_core);
    dnnl_status_t s = dnnl_engine_create(&p->engine, dnnl_cpu, 0);
    if (s == dnnl_success) s = dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags);
    if (s != dnnl_success) {
        syi_products_free(p);
        return syi_fail(ctx, s == dnnl_out_of_memory ? SY_E_MEMORY : SY_E_UNSUPPORTED,
                        "oneDNN cannot use this processor (status %d)", (int)s);
    }
    *out = p;
    return SY_OK;
}

void syi_products_free(struct syi_products *p)
{
    if (p == NULL) return;
    table_clear(p);
    syi_free(p->ctx, p->entries);
    if (p->stream != NULL) dnnl_stream_destroy(p->stream);
    if (p->engine != NULL) dnnl_engine_destroy(p->engine);
    syi_free(p->ctx, p);
}

static sy_status run(syi_engine *e, const key *k, const void *a, const void *b, void *c, bool *done)
{
    struct syi_products *p = e->products;
    entry *x = NULL;
    SYI_TRY(table_find(p, k, &x));
    *done = x->fast;
    if (!x->fast) return SY_OK;
    dnnl_status_t s = dnnl_memory_set_data_handle(x->a, syi_unconst(a));
    if (s == dnnl_success) s = dnnl_memory_set_data_handle(x->b, syi_unconst(b));
    if (s == dnnl_success) s = dnnl_memory_set_data_handle(x->c, syi_unconst(c));
    dnnl_exec_arg_t args[4];
    bool backward = k->kind == PANELS_BACKWARD;
    args[0] = (dnnl_exec_arg_t){backward ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, x->a};
    args[1] = (dnnl_exec_arg_t){DNNL_ARG_WEIGHTS, x->b};
    args[2] = (dnnl_exec_arg_t){backward ? DNNL_ARG_DIFF_DST : DNNL_ARG_DST, x->c};
    int n = 3;
    if (x->scratch != NULL) {
        void *scratch = syi_engine_work(e, SYI_WORK_PRODUCT, x->scratch_bytes);
        if (scratch == NULL) return SY_E_MEMORY;
        if (s == dnnl_success) s = dnnl_memory_set_data_handle(x->scratch, scratch);
        args[n++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, x->scratch};
    }
    if (s == dnnl_success) s = dnnl_primitive_execute(x->primitive, p->stream, n, args);
    if (s == dnnl_success) s = dnnl_stream_wait(p->stream);
    return s == dnnl_success ? SY_OK : dnnl_failed(e->ctx, "running it", k, s);
}

sy_status syi_product(syi_engine *e, int64_t m, int64_t n, int64_t k, double alpha, syi_mat a, syi_mat b, double beta,
                      sy_dtype ct, void *c, int64_t ldc, bool *done)
{
    key x;
    memset(&x, 0, sizeof x);
    x.m = m, x.n = n, x.k = k;
    x.lda = a.ld, x.ldb = b.ld, x.ldc = ldc;
    x.alpha = alpha, x.beta = beta;
    x.a_type = (int32_t)a.dtype, x.b_type = (int32_t)b.dtype, x.c_type = (int32_t)ct;
    x.a_t = a.t, x.b_t = b.t;
    x.kind = PLAIN;
    x.threads = syi_omp(e->ctx);
    return run(e, &x, a.data, b.data, c, done);
}

void syi_product_version(int version[3])
{
    const dnnl_version_t *v = dnnl_version();
    version[0] = v->major, version[1] = v->minor, version[2] = v->patch;
}

/* A plain f32 product: what it says of one shape holds for all. */
sy_status syi_product_exists(syi_engine *e, bool *f32)
{
    key x;
    memset(&x, 0, sizeof x);
    x.m = x.n = x.k = x.lda = x.ldb = x.ldc = 64;
    x.alpha = 1;
    x.a_type = x.b_type = x.c_type = SY_F32;
    x.kind = PLAIN;
    x.threads = syi_omp(e->ctx);
    entry *known = NULL;
    SYI_TRY(table_find(e->products, &x, &known));
    *f32 = known->fast;
    return SY_OK;
}

sy_status syi_product_panels(syi_engine *e, int64_t m, int64_t n, int64_t k, bool backward, const void *w, sy_dtype at, const void *a,
                             double beta, sy_dtype ct, void *c, bool *done)
{
    key x;
    memset(&x, 0, sizeof x);
    x.m = m, x.n = n, x.k = k;
    x.lda = k, x.ldc = n;
    x.alpha = 1, x.beta = beta;
    x.a_type = (int32_t)at, x.b_type = SY_BF16, x.c_type = (int32_t)ct;
    x.kind = backward ? PANELS_BACKWARD : PANELS_FORWARD;
    x.threads = syi_omp(e->ctx);
    if (c != NULL) return run(e, &x, a, w, c, done);
    entry *known = NULL;
    SYI_TRY(table_find(e->products, &x, &known));
    *done = known->fast;
    return SY_OK;
}
