/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine's products reach at best: the rate of a plain product of the size
 * that a step is made of, which profiles and benchmarks hold the whole step against. */
#include "tensor/engine.h"

enum { ROWS = 2048, OUT = 1536, IN = 576, WARM = 2, RUNS = 12 };

sy_status syi_product_limit(syi_engine *e, sy_dtype dt, double *flops)
{
    const int64_t z = sy_dtype_block_bytes(dt), na = ROWS * IN, nb = OUT * IN, nc = (int64_t)ROWS * OUT;
    char *all = syi_pages(e->ctx, (size_t)((na + nb + nc) * z));
    if (all == NULL) return SY_E_MEMORY;
    char *b = all + na * z, *c = b + nb * z;
    sy_status s = syi_fill(e, dt, 1.0 / 32, false, all, na + nb);
    double best = 0;
    for (int i = 0; i < WARM + RUNS && s == SY_OK; i++) {
        double begin = syi_now();
        s = syi_gemm(e, ROWS, OUT, IN, 1, (syi_mat){dt, all, IN, false}, (syi_mat){dt, b, IN, true}, 0, dt, c, OUT);
        double rate = 2.0 * ROWS * OUT * IN / (syi_now() - begin);
        if (i >= WARM && rate > best) best = rate;
    }
    syi_pages_free(e->ctx, all);
    *flops = best;
    return s;
}
