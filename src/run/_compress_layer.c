/* SPDX-License-Identifier: Apache-2.0 */
/* One layer outside of a model, solved by any compressor that works layer by layer: what
 * experiments on single matrices and programs with statistics of their own use. */
#include "run/run.h"

#include "steelyard/run.h"
#include "storage/weight.h"

#include <math.h>

enum { MAX_CHOICES = 512 };

static sy_status choose(const sy_use *use, sy_run *run, sy_layer *layer)
{
    const sy_method *m = use->method;
    sy_choice all[MAX_CHOICES];
    int n = 0, pick = 0;
    if (!m->profile) return SY_OK;
    SYI_TRY(m->profile(use->self, run, layer, all, MAX_CHOICES, &n));
    if (n == 0) return syi_fail(sy_run_context(run), SY_E_BUG, "%s: no way to compress the layer", m->name);
    for (int i = 0; i < n; i++) all[i].item = 0;
    if (m->allocate) SYI_TRY(m->allocate(use->self, run, all, n, 1, &pick));
    layer->choice = all[pick].tag;
    return SY_OK;
}

static sy_status solve(const sy_use *use, sy_run *run, const sy_stats *stats, int64_t out, int64_t in, const float *w, float *value, double *bits)
{
    const sy_method *m = use->method;
    sy_context *ctx = sy_run_context(run);
    const int64_t n = out * in;
    sy_weight weight = {.type = &sy_storage_dense, .out = out, .in = in};
    weight.slot[0] = (sy_tensor){.dtype = SY_F32, .rank = 2, .dim = {out, in}, .data = (void *)(uintptr_t)w};
    const sy_site site = {.name = "layer", .kind = SY_SITE_LINEAR, .block = 0, .in = in, .out = out, .weight = &weight};
    sy_layer layer = {.site = &site, .out = out, .in = in, .original = w, .stats = (sy_stats *)(uintptr_t)stats, .choice = -1};
    if (!m->solve) return syi_fail(ctx, SY_E_UNSUPPORTED, "%s works on whole blocks of a model; a layer alone cannot be given to it", m->name);
    if (m->init) SYI_TRY(m->init(use->self, run));
    const unsigned want = m->needs ? m->needs(use->self, run, &site) : 0, have = stats ? stats->have : 0;
    if (want & ~have) return syi_fail(ctx, SY_E_USAGE, "%s wants statistics of the layer's inputs that it was not given (%#x of %#x)", m->name, want & ~have, want);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(w[i])) return syi_fail(ctx, SY_E_INPUT, "the weight holds a number that is not finite (row %lld, column %lld)", (long long)(i / in), (long long)(i % in));
    layer.w = syi_pages(ctx, (size_t)n * sizeof *layer.w);
    if (!layer.w) return SY_E_MEMORY;
    memcpy(layer.w, w, (size_t)n * sizeof *w);
    sy_status st = choose(use, run, &layer);
    if (st == SY_OK) memcpy(layer.w, w, (size_t)n * sizeof *w);
    if (st == SY_OK) st = m->solve(use->self, run, &layer);
    if (st == SY_OK && layer.take) {
        st = layer.take->type->dense(ctx, layer.take, 0, out, value);
        if (bits) *bits = layer.take->type->bits(layer.take);
    } else if (st == SY_OK) { /* left as it is */
        memcpy(value, w, (size_t)n * sizeof *w);
        if (bits) *bits = 32;
    }
    syi_weight_free(ctx, layer.take);
    syi_pages_free(ctx, layer.w);
    return st;
}

sy_status sy_compress_layer(sy_run *run, const char *method, const char *const *settings, const sy_stats *stats, int64_t out, int64_t in, const float *w, float *value,
                            double *bits)
{
    sy_context *ctx = sy_run_context(run);
    sy_use use;
    int n = 0;
    while (settings && settings[n]) n++;
    SYI_TRY(sy_use_new(ctx, method, SY_COMPRESSOR, settings, n, &use));
    const sy_status st = solve(&use, run, stats, out, in, w, value, bits);
    sy_use_free(ctx, &use);
    return st;
}
