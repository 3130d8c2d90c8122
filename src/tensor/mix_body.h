/* SPDX-License-Identifier: Apache-2.0 */
/* The loops behind mix.h, compiled once per instruction set; plain C that vectorises. */
#include "tensor/mix.h"

#include <math.h>
#include <string.h>

static inline float from_word(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t to_word(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static void from_bf16(const void *x, float *restrict y, int64_t n)
{
    const char *p = x;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        y[i] = from_word((uint32_t)h << 16);
    }
}

static void to_bf16(const float *restrict x, void *y, int64_t n)
{
    char *p = y;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t u = to_word(x[i]);
        const uint32_t nan = u >> 16 | 0x40, round = (u + 0x7fff + (u >> 16 & 1)) >> 16;
        const uint16_t h = (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? nan : round);
        memcpy(p + 2 * i, &h, 2);
    }
}

static bool finite_all(const float *restrict x, int64_t n)
{
    uint32_t worst = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t u = to_word(x[i]) & 0x7fffffff;
        worst = u > worst ? u : worst;
    }
    return worst < 0x7f800000;
}

static void set(double w, const float *restrict x, double *restrict acc, int64_t n)
{
    for (int64_t i = 0; i < n; i++) acc[i] = w * (double)x[i];
}

static void add(double w, const float *restrict x, double *restrict acc, int64_t n)
{
    for (int64_t i = 0; i < n; i++) acc[i] += w * (double)x[i];
}

static void add_delta(double w, const float *restrict x, const float *restrict base, double *restrict acc, int64_t n)
{
    for (int64_t i = 0; i < n; i++) acc[i] += w * ((double)x[i] - (double)base[i]);
}

static void add_masked(double w, const float *restrict m, const float *restrict x, const float *restrict base, double *restrict acc, int64_t n)
{
    for (int64_t i = 0; i < n; i++) acc[i] += w * (double)m[i] * ((double)x[i] - (double)base[i]);
}

static void finish(double a, const double *restrict acc, const float *restrict base, float *restrict y, int64_t n)
{
    if (base)
        for (int64_t i = 0; i < n; i++) y[i] = (float)((double)base[i] + a * acc[i]);
    else
        for (int64_t i = 0; i < n; i++) y[i] = (float)(a * acc[i]);
}

static void pair(double a, const float *restrict x, double b, const float *restrict z, float *restrict y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = (float)(a * (double)x[i] + b * (double)z[i]);
}

enum { WAYS = 8 };

static double tree(const double *v)
{
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

static void dots(const float *restrict x, const float *restrict z, const float *restrict base, double *restrict s, int64_t n)
{
    double xx[WAYS] = {0}, zz[WAYS] = {0}, xz[WAYS] = {0};
    int64_t i = 0;
    for (; i + WAYS <= n; i += WAYS)
        for (int j = 0; j < WAYS; j++) {
            const double b = base ? (double)base[i + j] : 0, p = (double)x[i + j] - b, q = (double)z[i + j] - b;
            xx[j] += p * p;
            zz[j] += q * q;
            xz[j] += p * q;
        }
    for (int j = 0; i < n; i++, j++) {
        const double b = base ? (double)base[i] : 0, p = (double)x[i] - b, q = (double)z[i] - b;
        xx[j] += p * p;
        zz[j] += q * q;
        xz[j] += p * q;
    }
    s[0] += tree(xx);
    s[1] += tree(zz);
    s[2] += tree(xz);
}

static void keys(const float *restrict x, const float *restrict base, uint32_t *restrict key, int64_t n)
{
    for (int64_t i = 0; i < n; i++) key[i] = to_word(x[i] - base[i]) & 0x7fffffff;
}

#ifndef MIX_OWN_LOOPS /* plain C: blocks without a hit, most of them, stay in vectors */
static void abs_sums(const float *restrict x, const float *restrict base, const float *restrict m, double *restrict sum, int64_t n)
{
    double all[WAYS] = {0}, some[WAYS] = {0};
    int64_t i = 0;
    for (; i + WAYS <= n; i += WAYS)
        for (int j = 0; j < WAYS; j++) {
            const float d = fabsf(x[i + j] - base[i + j]);
            all[j] += (double)d;
            some[j] += (double)(m[i + j] != 0 ? d : 0);
        }
    for (int j = 0; i < n; i++, j++) {
        const float d = fabsf(x[i] - base[i]);
        all[j] += (double)d;
        some[j] += (double)(m[i] != 0 ? d : 0);
    }
    sum[0] += tree(all);
    sum[1] += tree(some);
}

static int64_t pick(const float *restrict x, const float *restrict base, uint32_t lo, uint32_t hi, uint32_t *restrict out, int64_t *above, int64_t n)
{
    enum { BLOCK = 32 };
    uint32_t key[BLOCK];
    int64_t found = 0, more = 0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int m = n - at < BLOCK ? (int)(n - at) : BLOCK;
        uint32_t inside = 0, over = 0;
        for (int i = 0; i < m; i++) key[i] = to_word(x[at + i] - base[at + i]) & 0x7fffffff;
        for (int i = 0; i < m; i++) {
            over += key[i] > hi;
            inside += key[i] - lo <= hi - lo;
        }
        more += over;
        for (int i = 0; inside && i < m; i++) {
            out[found] = key[i];
            found += key[i] - lo <= hi - lo;
        }
    }
    *above += more;
    return found;
}

static int64_t between(const float *restrict u, float from, float to, int32_t *restrict at, int64_t n)
{
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++) {
        at[found] = (int32_t)i;
        found += u[i] >= from && u[i] < to;
    }
    return found;
}
#endif

static int64_t rank(const uint32_t *restrict key, uint32_t mine, int64_t at, int64_t n)
{
    uint32_t less = 0;
    for (int64_t i = 0; i < at; i++) less += key[i] <= mine;
    for (int64_t i = at; i < n; i++) less += key[i] < mine;
    return less;
}

static int64_t above(const uint32_t *restrict key, uint32_t limit, float *restrict m, int64_t n)
{
    int64_t equal = 0;
    for (int64_t i = 0; i < n; i++) {
        m[i] = key[i] > limit ? 1.0f : 0.0f;
        equal += key[i] == limit;
    }
    return equal;
}

static void below(const float *restrict u, const float *restrict p, float one, float *restrict m, int64_t n)
{
    if (p)
        for (int64_t i = 0; i < n; i++) m[i] = u[i] < p[i] ? 1.0f : 0.0f;
    else
        for (int64_t i = 0; i < n; i++) m[i] = u[i] < one ? 1.0f : 0.0f;
}

static void pack(const float *restrict m, uint8_t *restrict bits, int64_t n)
{
    const int64_t whole = n / 8;
    for (int64_t i = 0; i < whole; i++) {
        unsigned b = 0;
        for (int j = 0; j < 8; j++) b |= (unsigned)(m[8 * i + j] != 0.0f) << j;
        bits[i] = (uint8_t)b;
    }
    if (n % 8 == 0) return;
    bits[whole] = 0;
    for (int64_t i = 8 * whole; i < n; i++) bits[whole] |= (uint8_t)((m[i] != 0.0f) << (i % 8));
}

static void unpack(const uint8_t *restrict bits, float *restrict m, int64_t n)
{
    const int64_t whole = n / 8;
    for (int64_t i = 0; i < whole; i++)
        for (int j = 0; j < 8; j++) m[8 * i + j] = (float)(bits[i] >> j & 1);
    for (int64_t i = 8 * whole; i < n; i++) m[i] = (float)(bits[whole] >> (i % 8) & 1);
}

enum { STRIP = 256 };

static void terms(double w, const float *restrict m, float from, float to, const float *restrict x, const float *restrict base, double *restrict e, int64_t n)
{
    if (m)
        for (int64_t i = 0; i < n; i++) e[i] = w * (double)m[i] * ((double)x[i] - (double)base[i]);
    else
        for (int64_t i = 0; i < n; i++) {
            const float d = fabsf(x[i] - base[i]), in = d >= from && d < to ? 1.0f : 0.0f;
            e[i] = w * (double)in * ((double)x[i] - (double)base[i]);
        }
}

static void add_range(double w, float from, float to, const float *restrict x, const float *restrict base, double *restrict acc, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float d = fabsf(x[i] - base[i]), in = d >= from && d < to ? 1.0f : 0.0f;
        acc[i] += w * (double)in * ((double)x[i] - (double)base[i]);
    }
}

static void elect(const syi_election *how, int k, const float *const *x, const float *const *m, const float *base, float *y, int64_t n)
{
    double few[4][STRIP], e[STRIP], sum[STRIP], top[STRIP], down[STRIP];
    const double zero = how->zero, lambda = how->lambda;
    for (int64_t at = 0; at < n; at += STRIP) {
        const int64_t c = n - at < STRIP ? n - at : STRIP;
        const float *restrict b = base + at;
        float *restrict out = y + at;
        for (int64_t i = 0; i < c; i++) sum[i] = top[i] = down[i] = 0;
        for (int j = 0; j < k; j++) {
            double *restrict v = k <= 4 ? few[j] : e; /* few: kept for the second look */
            terms(how->w[j], m[j] ? m[j] + at : 0, how->from[j], how->to[j], x[j] + at, b, v, c);
            if (how->count)
                for (int64_t i = 0; i < c; i++) sum[i] += v[i] > 0 ? 1.0 : v[i] < 0 ? -1.0 : 0.0;
            else
                for (int64_t i = 0; i < c; i++) sum[i] += v[i];
        }
        for (int64_t i = 0; i < c; i++) sum[i] = sum[i] == 0 ? zero : sum[i];
        for (int j = 0; j < k; j++) {
            const double dj = how->d[j];
            double *restrict v = k <= 4 ? few[j] : e;
            if (k > 4) terms(how->w[j], m[j] ? m[j] + at : 0, how->from[j], how->to[j], x[j] + at, b, v, c);
            if (how->join == SYI_JOIN_MAX)
                for (int64_t i = 0; i < c; i++) {
                    const double side = sum[i] > 0 ? v[i] : -v[i];
                    top[i] = side > fabs(top[i]) ? v[i] : top[i];
                }
            else
                for (int64_t i = 0; i < c; i++) {
                    const double side = sum[i] > 0 ? v[i] : -v[i];
                    top[i] += side > 0 ? v[i] : 0;
                    down[i] += side > 0 ? dj : 0;
                }
        }
        if (how->join == SYI_JOIN_MEAN)
            for (int64_t i = 0; i < c; i++) out[i] = (float)((double)b[i] + lambda * (top[i] / (down[i] == 0 ? 1 : down[i])));
        else
            for (int64_t i = 0; i < c; i++) out[i] = (float)((double)b[i] + lambda * top[i]);
    }
}

#define MIX_TABLE(label)                                                                                                    \
    {.name = label, .from_bf16 = from_bf16, .to_bf16 = to_bf16, .finite = finite_all, .set = set, .add = add,               \
     .add_delta = add_delta, .finish = finish, .pair = pair, .dots = dots, .abs_sums = abs_sums, .keys = keys, .above = above, \
     .add_masked = add_masked, .add_range = add_range, .pick = pick, .rank = rank, .between = between, .elect = elect, .below = below, .pack = pack,  \
     .unpack = unpack}
