/* SPDX-License-Identifier: Apache-2.0 */
/* Uniform grids: fitting a scale and a zero to a group, with the clip search of the GPTQ
 * family, and plain rounding. */
#include "compressor/solve.h"

#include "tensor/engine.h"

#include <math.h>
#include <omp.h>

/* The f16 nearest to x (normal numbers; what is smaller becomes the smallest normal). */
static float as_f16(float x)
{
    uint16_t h;
    float back;
    if (!(x > 6.2e-5f)) x = 6.2e-5f;
    if (x > 65504.0f) x = 65504.0f;
    (void)sy_from_f32(NULL, SY_F16, &x, &h, 1);
    (void)sy_to_f32(NULL, SY_F16, &h, &back, 1);
    return back;
}

static void place(const syi_grid *g, float lo, float hi, float *scale, float *zero)
{
    const float top = (float)((1 << g->bits) - 1);
    if (g->sym) {
        *scale = as_f16(fmaxf(hi, -lo) / (float)((1 << (g->bits - 1)) - 1));
        *zero = (float)(1 << (g->bits - 1));
    } else {
        *scale = as_f16((hi - lo) / top);
        *zero = rintf(-lo / *scale);
        *zero = *zero < 0 ? 0 : *zero > top ? top : *zero;
    }
}

void syi_grid_fit(syi_engine *e, const syi_grid *g, const float *w, int64_t n, float *scale, float *zero)
{
    enum { STEPS = 80 };
    float lo = 0, hi = 0;
    for (int64_t i = 0; i < n; i++) {
        lo = w[i] < lo ? w[i] : lo;
        hi = w[i] > hi ? w[i] : hi;
    }
    const double least = (double)lo, most = (double)hi;
    if (lo == 0 && hi == 0) {
        lo = -1;
        hi = 1;
    }
    if (hi - lo < 1e-5f) { /* a floor under the range */
        const float more = (1e-5f - (hi - lo)) / 2;
        lo -= lo < 0 ? more : 0;
        hi += hi > 0 ? more : 0;
    }
    if (g->sym) {
        hi = fmaxf(hi, -lo);
        lo = -hi;
    }
    place(g, lo, hi, scale, zero);
    if (!g->clip) return;
    const float top = (float)((1 << g->bits) - 1);
    float best_scale = *scale, best_zero = *zero, last = -1, last_zero = -1;
    double best = INFINITY, root = INFINITY; /* root: the loss of one number that makes the best sum */
    for (int i = 0; i < STEPS; i++) {
        const float p = 1.0f - (float)i / 100;
        float s, z;
        place(g, lo * p, hi * p, &s, &z);
        if (s == last && z == last_zero) continue;
        last = s;
        last_zero = z;
        if (fmax((double)(-s * z) - least, most - (double)(s * (top - z))) > root) continue; /* what an extreme loses is more than the best sum */
        const double err = e->cpu->grid_error(w, n, s, z, top);
        if (err < best) {
            best = err;
            root = 1.001 * pow(err, 1 / 2.4); /* sums of powers are right to 1e-5 */
            best_scale = s;
            best_zero = z;
        }
    }
    *scale = best_scale;
    *zero = best_zero;
}

sy_status syi_grid_round(syi_engine *e, const syi_grid *g, int64_t out, int64_t in, const float *w, sy_weight **take)
{
    sy_context *ctx = syi_engine_context(e);
    SYI_TRY(syi_weight_packed(ctx, out, in, g->bits, g->group, false, take));
    const syi_packed_shape p = syi_packed_shape_of(*take);
    uint16_t *scales = (*take)->slot[SYI_PACKED_SCALES].data;
    uint8_t *zeros = (*take)->slot[SYI_PACKED_ZEROS].data;
    const float top = (float)((1 << g->bits) - 1);
    const int threads = syi_omp(ctx);
    uint8_t *codes = syi_alloc(ctx, (size_t)(threads * (in + 64)));
    if (!codes) {
        syi_weight_free(ctx, *take);
        *take = NULL;
        return SY_E_MEMORY;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < out; r++) {
        uint8_t *c = codes + omp_get_thread_num() * (in + 64);
        for (int64_t k = 0; k < p.groups; k++) {
            const int64_t first = k * p.group, n = syi_min(p.group, in - first);
            float scale, zero;
            syi_grid_fit(e, g, w + r * in + first, n, &scale, &zero);
            for (int64_t j = first; j < first + n; j++) c[j] = (uint8_t)syi_grid_code(w[r * in + j], scale, zero, top);
            (void)sy_from_f32(ctx, SY_F16, &scale, scales + r * p.groups + k, 1);
            zeros[r * p.groups + k] = (uint8_t)zero;
        }
        syi_packed_put(*take, r, c);
    }
    syi_free(ctx, codes);
    return SY_OK;
}

sy_status syi_grid_check(sy_context *ctx, const char *method, int64_t bits, int64_t group)
{
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return syi_fail(ctx, SY_E_USAGE, "%s: --bits %lld: packed weights have 2, 3, 4 or 8 bits", method, (long long)bits);
    if (group != -1 && (group < 32 || group % 32 != 0))
        return syi_fail(ctx, SY_E_USAGE, "%s: --group %lld: give a multiple of 32 (64 and 128 are usual), or -1 for a whole row", method, (long long)group);
    return SY_OK;
}
