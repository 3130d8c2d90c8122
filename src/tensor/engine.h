/* SPDX-License-Identifier: Apache-2.0 */
/* The engine from inside src/tensor: the CPU table, working memory, oneDNN.
 * Other folders see it as an opaque pointer (kernels.h). */
#ifndef SYI_ENGINE_H
#define SYI_ENGINE_H

#include "tensor/cpu.h"
#include "tensor/kernels.h"

#include <oneapi/dnnl/dnnl.h>

/* Working buffers that live from call to call and only grow. Each kernel that
 * needs one has a slot of its own, so that kernels which call each other do not
 * meet in the same memory. */
enum {
    SYI_WORK_A,        /* gemm: A in another type              */
    SYI_WORK_B,        /* gemm: B in another type              */
    SYI_WORK_C,        /* gemm: C in another type              */
    SYI_WORK_WIDE_A,   /* gemm: A once more, in f32            */
    SYI_WORK_WIDE_B,   /* gemm: B once more, in f32            */
    SYI_WORK_PRODUCT,  /* oneDNN's scratchpad                  */
    SYI_WORK_OUTER,    /* partial sums of rank-r gradients     */
    SYI_WORK_PIECES,   /* partial sums of row reductions       */
    SYI_WORK_DECODE,   /* decoded tiles of block-coded weights */
    SYI_WORK_PACKED,   /* padded rows of x for packed weights   */
    SYI_WORK_SUM,      /* sums over tiles, wider than the result */
    SYI_WORK_ATTENTION,/* pieces of attention over a cache      */
    SYI_WORK_COUNT
};

struct syi_products; /* gemm_dnnl.c: primitives by shape */

typedef struct syi_team syi_team;

struct syi_engine {
    sy_context *ctx;
    const syi_cpu *cpu;
    struct syi_products *products;
    void *work[SYI_WORK_COUNT];
    int64_t work_bytes[SYI_WORK_COUNT];
    int panels_add; /* gemm_panels.c: 0 unknown, 1 yes, -1 no */
    syi_team *team; /* team.c: threads that are awake, or NULL */
};

/* At least `bytes` of slot `slot`, 64-byte aligned, contents lost on growth; NULL
 * with the error set. */
void *syi_engine_work(syi_engine *e, int slot, int64_t bytes);

/* fn(self, part, thread) for all parts, in parallel, by the team if there is one. What it
 * writes must not depend on `thread`, which is below syi_omp and for scratch only. */
typedef void syi_share_fn(void *self, int64_t part, int thread);
void syi_share(syi_engine *e, int64_t parts, syi_share_fn *fn, void *self);

/* gemm_dnnl.c. One product by oneDNN: all F32, or A,B BF16 with C BF16 or F32.
 * *done false: oneDNN has no fast product of these types here. */
sy_status syi_products_new(sy_context *ctx, syi_isa isa, bool forced, struct syi_products **out);
void syi_products_free(struct syi_products *p);
sy_status syi_product(syi_engine *e, int64_t m, int64_t n, int64_t k, double alpha, syi_mat a, syi_mat b, double beta,
                      sy_dtype ct, void *c, int64_t ldc, bool *done);
/* Has oneDNN f32 products that we want? */
sy_status syi_product_exists(syi_engine *e, bool *f32);
/* With a BF16 W[n,k] in the packed layout (gemm_panels.c): C[m,n] = A[m,k] W^T (+ beta
 * C), or backward A[m,k] = C[m,n] W (+ beta A). `done` as above; c NULL only asks. */
sy_status syi_product_panels(syi_engine *e, int64_t m, int64_t n, int64_t k, bool backward, const void *w, sy_dtype at, const void *a,
                             double beta, sy_dtype ct, void *c, bool *done);

#endif
