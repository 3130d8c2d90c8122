/* SPDX-License-Identifier: Apache-2.0 */
/* Filling and reading the LoRA family's parameters: random starts, rank and alpha
 * patterns, norms of the frozen weight's rows, and PyTorch's uniform stream, from which
 * VeRA's projections come when a folder does not hold them. */
#include "adapter/lora.h"

#include <math.h>

void syi_param_put(sy_param *p, int64_t first, int64_t n, const float *v)
{
    if (p->value.dtype == SY_F64) {
        for (int64_t i = 0; i < n; i++) ((double *)p->value.data)[first + i] = v[i];
    } else {
        memcpy((float *)p->value.data + first, v, (size_t)n * sizeof *v);
    }
    p->stale = true;
}

void syi_param_get(const sy_param *p, int64_t first, int64_t n, float *v)
{
    if (p->value.dtype == SY_F64) {
        for (int64_t i = 0; i < n; i++) v[i] = (float)((const double *)p->value.data)[first + i];
    } else {
        memcpy(v, (const float *)p->value.data + first, (size_t)n * sizeof *v);
    }
}

void syi_param_fill(sy_param *p, double v)
{
    int64_t n = sy_tensor_count(&p->value);
    float f = (float)v;
    for (int64_t i = 0; i < n; i++) syi_param_put(p, i, 1, &f);
}

static void random_fill(sy_param *p, uint64_t key, double a, bool normal)
{
    float part[1024];
    int64_t n = sy_tensor_count(&p->value);
    for (int64_t i = 0; i < n; i += SYI_COUNT(part)) {
        int64_t k = syi_min(SYI_COUNT(part), n - i);
        if (normal)
            syi_normal(key, i, k, part);
        else
            syi_uniform(key, i, k, part);
        for (int64_t j = 0; j < k; j++) part[j] = (float)(normal ? a * part[j] : a * (2.0 * part[j] - 1));
        syi_param_put(p, i, k, part);
    }
}

void syi_param_normal(sy_param *p, uint64_t key, double sigma) { random_fill(p, key, sigma, true); }
void syi_param_uniform(sy_param *p, uint64_t key, double bound) { random_fill(p, key, bound, false); }

/* MT19937 (Matsumoto and Nishimura, 1998), which is PyTorch's CPU generator. */
void syi_torch_seed(syi_torch_rng *rng, uint64_t seed)
{
    rng->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < 624; i++)
        rng->state[i] = 1812433253u * (rng->state[i - 1] ^ (rng->state[i - 1] >> 30)) + i;
    rng->at = 624;
}

static uint32_t torch_next(syi_torch_rng *rng)
{
    uint32_t *s = rng->state;
    if (rng->at == 624) {
        for (int i = 0; i < 624; i++) {
            uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % 624] & 0x7fffffffu);
            s[i] = s[(i + 397) % 624] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        rng->at = 0;
    }
    uint32_t y = s[rng->at++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

void syi_torch_uniform(syi_torch_rng *rng, float bound, int64_t n, float *out)
{
    const float from = -bound, width = bound - from;
    for (int64_t i = 0; i < n; i++) {
        volatile float scaled = (float)(torch_next(rng) & 0xffffffu) * 0x1p-24f * width; /* no fused multiply-add */
        out[i] = scaled + from;
    }
}

sy_status syi_pattern_value(sy_context *ctx, const sy_map *pattern, const sy_site *site, bool first, double *value)
{
    int found = -1;
    for (int i = 0; i < pattern->n; i++) {
        char *expression = syi_format(ctx, "(.*\\.)?(%s)", pattern->key[i]);
        if (!expression) return SY_E_MEMORY;
        sy_list one = { &expression, 1 };
        bool match = false;
        sy_status st = sy_site_match(ctx, site, &one, &match);
        syi_free(ctx, expression);
        if (st != SY_OK) return syi_fail_at(ctx, st, "pattern \"%s\"", pattern->key[i]);
        if (!match) continue;
        if (found >= 0 && pattern->value[i] != *value)
            return syi_fail(ctx, SY_E_USAGE, "%s matches two keys of a pattern, \"%s\" (%g) and \"%s\" (%g); write keys that one module matches once", site->name,
                            pattern->key[found], *value, pattern->key[i], pattern->value[i]);
        found = i;
        *value = pattern->value[i];
        if (first) break;
    }
    return SY_OK;
}

sy_status syi_row_norms(sy_context *ctx, const sy_weight *w, double *out)
{
    const int64_t tile = syi_max(1, 65536 / w->in);
    float *rows = syi_alloc(ctx, (size_t)(syi_min(tile, w->out) * w->in) * sizeof *rows);
    sy_status st = rows ? SY_OK : SY_E_MEMORY;
    for (int64_t row = 0; row < w->out && st == SY_OK; row += tile) {
        int64_t n = syi_min(tile, w->out - row);
        st = w->type->dense(ctx, w, row, n, rows);
        for (int64_t i = 0; i < n && st == SY_OK; i++) {
            double sum = 0;
            for (int64_t j = 0; j < w->in; j++) sum += (double)rows[i * w->in + j] * rows[i * w->in + j];
            out[row + i] = sum;
        }
    }
    syi_free(ctx, rows);
    return st;
}

sy_status syi_weight_dense(sy_context *ctx, const sy_weight *w, float **out)
{
    *out = syi_alloc(ctx, (size_t)(w->out * w->in) * sizeof **out);
    if (!*out) return SY_E_MEMORY;
    sy_status st = w->type->dense(ctx, w, 0, w->out, *out);
    if (st != SY_OK) {
        syi_free(ctx, *out);
        *out = NULL;
    }
    return st;
}

/* -- shared tensors ----------------------------------------------------------------------- */

struct syi_slice { syi_slice *next; const sy_param *p; sy_tensor t; };

sy_node *syi_shared_slice(sy_context *ctx, syi_slice **cache, sy_graph *g, const sy_param *p, int64_t rows, int64_t cols)
{
    const sy_tensor *from = p->compute.rank ? &p->compute : &p->value;
    const int64_t width = sy_tensor_count(from) / syi_max(1, from->dim[0]), size = sy_dtype_block_bytes(from->dtype);
    sy_tensor t = { .dtype = from->dtype, .rank = 2, .dim = { rows, cols }, .data = from->data };
    if (cols == width || sy_graph_planning(g)) {
        if (sy_graph_planning(g)) t.data = NULL;
        return sy_const(g, &t);
    }
    for (syi_slice *s = *cache; s; s = s->next)
        if (s->p == p && s->t.dtype == t.dtype && s->t.dim[0] == rows && s->t.dim[1] == cols) return sy_const(g, &s->t);
    syi_slice *s = syi_calloc(ctx, 1, sizeof *s);
    if (s) s->t.data = syi_alloc(ctx, (size_t)(rows * cols * size));
    if (!s || !s->t.data) {
        syi_free(ctx, s);
        sy_graph_fail(g, SY_E_MEMORY);
        return NULL;
    }
    t.data = s->t.data;
    for (int64_t k = 0; k < rows; k++) memcpy((char *)t.data + k * cols * size, (const char *)from->data + k * width * size, (size_t)(cols * size));
    *s = (syi_slice){ *cache, p, t };
    *cache = s;
    return sy_const(g, &s->t);
}

void syi_slices_free(sy_context *ctx, syi_slice **cache)
{
    for (syi_slice *s = *cache, *next; s; s = next) {
        next = s->next;
        syi_free(ctx, s->t.data);
        syi_free(ctx, s);
    }
    *cache = NULL;
}

sy_status syi_each_site(sy_run *run, sy_status (*fn)(void *self, sy_run *run, sy_site *site), void *self)
{
    sy_context *ctx = sy_run_context(run);
    const int n = sy_sites(run, NULL, 0);
    if (n < 0) return sy_error_code(ctx);
    sy_site **sites = syi_calloc(ctx, (size_t)n + 1, sizeof *sites);
    if (!sites) return SY_E_MEMORY;
    sy_status st = sy_sites(run, sites, n) < 0 ? sy_error_code(ctx) : SY_OK;
    for (int i = 0; i < n && st == SY_OK; i++) st = fn(self, run, sites[i]);
    syi_free(ctx, sites);
    return st;
}

sy_status syi_linear_only(sy_context *ctx, const char *method, const sy_site *site)
{
    if (site->kind == SY_SITE_LINEAR) return SY_OK;
    return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: %s is not a linear layer; leave it out of target-modules", method, site->name);
}
