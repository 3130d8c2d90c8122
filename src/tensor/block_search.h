/* SPDX-License-Identifier: Apache-2.0 */
/* f32 to Q4_K and Q6_K: blocks of 256 numbers whose groups have integer scales in units
 * that the block holds as f16. The codes follow from the scales; which scales give the
 * least squared error is searched in three steps:
 *   1. each group alone: a few ranges, numbers to the nearest code, then the least-squares
 *      scale (and minimum) of those codes;
 *   2. the unit from the largest scale; each group takes of the integers around its scale
 *      the one with the least error, measured with the f16 unit as decoders will see it;
 *   3. the unit that fits these codes best (least squares), and 2 again, as long as the
 *      block gets better.
 * A block is scaled to [-1, 1] first, so that squares neither overflow nor vanish; what is
 * no finite number counts as 0. Included by a file for each instruction set: sums have
 * LANES parts in fixed order and nothing is contracted, so all give the same bits. */
#include "blocks.h"
#include "half.h"

#include <math.h>

enum { LANES = 8, BLOCK = 256, ROUNDS = 4 };
typedef float v8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));

/* Sums over a group: of the codes q, of q^2, of x q. */
typedef struct { float q, qq, xq; } sums;

static inline float total(const v8 *v)
{
    return (((*v)[0] + (*v)[4]) + ((*v)[2] + (*v)[6])) + (((*v)[1] + (*v)[5]) + ((*v)[3] + (*v)[7]));
}

/* Codes low..high nearest to (x - shift) * inverse (ties to even; no number: low), as
 * floats; macros because vectors are not passed by value without AVX. */
#define V8(x) ((v8){x, x, x, x, x, x, x, x})
#define V8_SELECT(mask, yes, no) ((v8)(((mask) & (i8)(yes)) | (~(mask) & (i8)(no))))
#define V8_CODE(v, x, shift, inverse, low, high)                              \
    do {                                                                      \
        v = ((x) - (shift)) * (inverse);                                      \
        v = V8_SELECT(v > (low), v, low);                                     \
        v = V8_SELECT(v < (high), v, high);                                   \
        v = (v + V8(0x1.8p23f)) - V8(0x1.8p23f);                              \
    } while (0)

/* The sums of the codes of n numbers. */
static inline sums try_codes(const float *x, int n, float shift, float inverse, float low, float high)
{
    const v8 vs = V8(shift), vi = V8(inverse), vl = V8(low), vh = V8(high);
    v8 a = {0}, b = {0}, c = {0}, in, q;
    for (int j = 0; j < n; j += LANES) {
        memcpy(&in, x + j, sizeof in);
        V8_CODE(q, in, vs, vi, vl, vh);
        a += q;
        b += q * q;
        c += in * q;
    }
    return (sums){total(&a), total(&b), total(&c)};
}

/* The codes for numbers that are scale * code + shift, and the sum of squared errors. */
static inline float put_codes(const float *x, int n, float scale, float shift, float inverse, float low, float high, float *codes)
{
    const v8 vs = V8(shift), vi = V8(inverse), vl = V8(low), vh = V8(high), va = V8(scale);
    v8 e = {0}, in, q;
    for (int j = 0; j < n; j += LANES) {
        memcpy(&in, x + j, sizeof in);
        V8_CODE(q, in, vs, vi, vl, vh);
        memcpy(codes + j, &q, sizeof q);
        const v8 r = in - (va * q + vs);
        e += r * r;
    }
    return total(&e);
}

static inline sums sums_of(const float *x, const float *codes, int n)
{
    v8 a = {0}, b = {0}, c = {0}, in, q;
    for (int j = 0; j < n; j += LANES) {
        memcpy(&in, x + j, sizeof in);
        memcpy(&q, codes + j, sizeof q);
        a += q;
        b += q * q;
        c += in * q;
    }
    return (sums){total(&a), total(&b), total(&c)};
}

/* The largest magnitude; `x` becomes a copy of s divided by it. 0: a block of zeros. */
static float normalised(const float *restrict s, float *restrict x)
{
    float top = 0.0f;
    for (int j = 0; j < BLOCK; j++) {
        x[j] = fabsf(s[j]) <= 0x1.fffffep127f ? s[j] : 0.0f;
        top = fabsf(x[j]) > top ? fabsf(x[j]) : top;
    }
    for (int j = 0; j < BLOCK; j++) x[j] = top > 0.0f ? x[j] / top : 0.0f;
    return top;
}

/* A unit as decoders see it: as f16 of the numbers' own size. */
typedef struct { uint16_t half; float value; } unit;

static inline unit unit_of(float value, float top)
{
    float own = value * top;
    own = own < 65504.0f ? own : 65504.0f;
    own = own > 0.0f ? own : 0.0f;
    const uint16_t h = syi_float_to_half(own);
    return (unit){h, syi_half_to_float(h) / top};
}

static inline float inverse_of(float x)
{
    return x != 0.0f ? 1.0f / x : 0.0f;
}

static inline int clamped(float x, int low, int high)
{
    x = x > -1e6f ? x < 1e6f ? x : 1e6f : -1e6f;
    x = (x + 0x1.8p23f) - 0x1.8p23f;
    return x < (float)low ? low : x > (float)high ? high : (int)x;
}

/* -- Q4_K: 8 groups of 32, code * scale - minimum ------------------------------------- */

enum { GROUPS4 = 8, GROUP4 = 32 };

typedef struct {
    unit d, m;
    int scale[GROUPS4], low[GROUPS4];
    float q[BLOCK], error;
} block4;

/* Least-squares scale and shift (<= 0) of the codes with sums s; sum, square: of x and
 * x^2. The error that is left, or infinity when there is no such scale. */
static inline float fit4(const sums *s, float sum, float square, float *scale, float *shift)
{
    const float det = GROUP4 * s->qq - s->q * s->q;
    float a = 0.0f, b = 0.0f;
    if (det > 0.0f) {
        a = (GROUP4 * s->xq - sum * s->q) / det;
        b = (sum - a * s->q) / GROUP4;
    }
    if (!(det > 0.0f) || b > 0.0f) {
        b = 0.0f;
        a = s->qq > 0.0f ? s->xq / s->qq : 0.0f;
    }
    *scale = a;
    *shift = b;
    if (!(a > 0.0f)) return INFINITY;
    return (square - a * s->xq - b * sum) + (a * (a * s->qq + b * s->q - s->xq) + b * (a * s->q + GROUP4 * b - sum));
}

/* Step 1. */
static void group4(const float *x, float *scale, float *shift)
{
    float low = 0.0f, high = -1.0f, sum = 0.0f, square = 0.0f, best = INFINITY, a, b;
    for (int j = 0; j < GROUP4; j++) {
        low = x[j] < low ? x[j] : low;
        high = x[j] > high ? x[j] : high;
        sum += x[j];
        square += x[j] * x[j];
    }
    *scale = 0.0f;
    *shift = low;
    if (!(high > low)) return; /* one number, or none */
    for (int k = 0; k < 20; k++) {
        const sums s = try_codes(x, GROUP4, low, (12.6f + 0.2f * (float)k) / (high - low), 0.0f, 15.0f);
        const float e = fit4(&s, sum, square, &a, &b);
        if (!(e < best)) continue;
        best = e;
        *scale = a;
        *shift = b;
    }
    for (int k = 0; k < 4; k++) { /* codes for the scale, scale for the codes */
        const sums s = try_codes(x, GROUP4, *shift, inverse_of(*scale), 0.0f, 15.0f);
        const float e = fit4(&s, sum, square, &a, &b);
        if (!(e < best)) return;
        best = e;
        *scale = a;
        *shift = b;
    }
}

/* Step 2 for one group: integers near scale and low. */
static float choose4(const float *x, block4 *t, int g, int around)
{
    float best = INFINITY, q[GROUP4];
    const int s0 = t->scale[g], m0 = t->low[g];
    for (int s = s0 - around; s <= s0 + around; s++)
        for (int m = m0 - around; m <= m0 + around; m++) {
            if (s < 0 || s > 63 || m < 0 || m > 63) continue;
            const float a = t->d.value * (float)s, b = -(t->m.value * (float)m);
            const float e = put_codes(x, GROUP4, a, b, inverse_of(a), 0.0f, 15.0f, q);
            if (!(e < best)) continue;
            best = e;
            t->scale[g] = s;
            t->low[g] = m;
            memcpy(t->q + g * GROUP4, q, sizeof q);
        }
    return best;
}

/* Step 3: units for the integers and codes of t. */
static void refit4(const float *x, const block4 *t, float *d, float *m)
{
    double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;
    for (int g = 0; g < GROUPS4; g++) {
        float sum = 0.0f;
        for (int j = 0; j < GROUP4; j++) sum += x[g * GROUP4 + j];
        const sums s = sums_of(x + g * GROUP4, t->q + g * GROUP4, GROUP4);
        const double sc = t->scale[g], mn = -t->low[g];
        aa += sc * sc * (double)s.qq;
        ab += sc * mn * (double)s.q;
        bb += mn * mn * GROUP4;
        xa += sc * (double)s.xq;
        xb += mn * (double)sum;
    }
    const double det = aa * bb - ab * ab;
    if (det > 1e-9 * aa * bb) {
        *d = (float)((xa * bb - xb * ab) / det);
        *m = (float)((xb * aa - xa * ab) / det);
    } else if (aa > 0) {
        *d = (float)(xa / aa);
    }
}

static void pack4(const block4 *t, uint8_t *out)
{
    memcpy(out, &t->d.half, 2);
    memcpy(out + 2, &t->m.half, 2);
    uint8_t *k = out + 4, *q = out + 16;
    for (int g = 0; g < 4; g++) {
        k[g] = (uint8_t)(t->scale[g] | (t->scale[g + 4] >> 4) << 6);
        k[g + 4] = (uint8_t)(t->low[g] | (t->low[g + 4] >> 4) << 6);
        k[g + 8] = (uint8_t)((t->scale[g + 4] & 15) | (t->low[g + 4] & 15) << 4);
    }
    for (int g = 0; g < GROUPS4; g += 2)
        for (int j = 0; j < GROUP4; j++)
            *q++ = (uint8_t)((int)t->q[g * GROUP4 + j] | (int)t->q[(g + 1) * GROUP4 + j] << 4);
}

static void block_q4_k(const float *s, uint8_t *out)
{
    float x[BLOCK], scale[GROUPS4], shift[GROUPS4], d = 0.0f, m = 0.0f;
    const float top = normalised(s, x);
    if (!(top > 0.0f)) {
        memset(out, 0, 144);
        return;
    }
    for (int g = 0; g < GROUPS4; g++) {
        group4(x + g * GROUP4, &scale[g], &shift[g]);
        d = scale[g] / 63.0f > d ? scale[g] / 63.0f : d;
        m = -shift[g] / 63.0f > m ? -shift[g] / 63.0f : m;
    }
    block4 best = {.error = INFINITY}, t = {.error = 0};
    t.d = unit_of(d, top);
    t.m = unit_of(m, top);
    for (int g = 0; g < GROUPS4; g++) {
        t.scale[g] = clamped(scale[g] * inverse_of(t.d.value), 0, 63);
        t.low[g] = clamped(-shift[g] * inverse_of(t.m.value), 0, 63);
    }
    for (int round = 0; round < ROUNDS; round++) {
        t.error = 0.0f;
        for (int g = 0; g < GROUPS4; g++) t.error += choose4(x + g * GROUP4, &t, g, 1);
        if (!(t.error < best.error)) break;
        best = t;
        refit4(x, &best, &d, &m);
        t.d = unit_of(d, top);
        t.m = unit_of(m, top);
    }
    pack4(&best, out);
}

/* -- Q6_K: 16 groups of 16, (code - 32) * scale ---------------------------------------- */

enum { GROUPS6 = 16, GROUP6 = 16 };

typedef struct {
    unit d;
    int scale[GROUPS6];
    float q[BLOCK], error;
} block6;

/* The scale of either sign: codes reach one further down than up. */
static float group6(const float *x)
{
    float top = 0.0f, at = 0.0f, best = 0.0f, scale = 0.0f;
    for (int j = 0; j < GROUP6; j++) {
        at = fabsf(x[j]) > top ? x[j] : at;
        top = fabsf(x[j]) > top ? fabsf(x[j]) : top;
    }
    if (!(top > 0.0f)) return 0.0f;
    for (int k = 0; k < 24; k++) {
        const float inverse = k < 16 ? -(29.75f + 0.25f * (float)k) / at : (29.75f + 0.25f * (float)(k - 16)) / at;
        const sums s = try_codes(x, GROUP6, 0.0f, inverse, -32.0f, 31.0f);
        if (!(s.qq > 0.0f) || !(s.xq * s.xq > best * s.qq)) continue;
        best = s.xq * s.xq / s.qq; /* what the scale xq / qq takes off the sum of squares */
        scale = s.xq / s.qq;
    }
    return scale;
}

static float choose6(const float *x, block6 *t, int g, int around)
{
    float best = INFINITY, q[GROUP6];
    const int s0 = t->scale[g];
    for (int s = s0 - around; s <= s0 + around; s++) {
        if (s < -128 || s > 127) continue;
        const float a = t->d.value * (float)s;
        const float e = put_codes(x, GROUP6, a, 0.0f, inverse_of(a), -32.0f, 31.0f, q);
        if (!(e < best)) continue;
        best = e;
        t->scale[g] = s;
        memcpy(t->q + g * GROUP6, q, sizeof q);
    }
    return best;
}

static float refit6(const float *x, const block6 *t)
{
    double aa = 0, xa = 0;
    for (int g = 0; g < GROUPS6; g++) {
        const sums s = sums_of(x + g * GROUP6, t->q + g * GROUP6, GROUP6);
        aa += (double)t->scale[g] * t->scale[g] * (double)s.qq;
        xa += (double)t->scale[g] * (double)s.xq;
    }
    return aa > 0 ? (float)(xa / aa) : 0.0f;
}

static void pack6(const block6 *t, uint8_t *out)
{
    for (int half = 0; half < 2; half++) {
        const float *q = t->q + 128 * half;
        for (int j = 0; j < 32; j++) {
            const int a = (int)q[j] + 32, b = (int)q[j + 32] + 32, c = (int)q[j + 64] + 32, d = (int)q[j + 96] + 32;
            out[64 * half + j] = (uint8_t)((a & 15) | (c & 15) << 4);
            out[64 * half + 32 + j] = (uint8_t)((b & 15) | (d & 15) << 4);
            out[128 + 32 * half + j] = (uint8_t)(a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6);
        }
    }
    for (int g = 0; g < GROUPS6; g++) out[192 + g] = (uint8_t)t->scale[g];
    memcpy(out + 208, &t->d.half, 2);
}

static void block_q6_k(const float *s, uint8_t *out)
{
    float x[BLOCK], scale[GROUPS6], most = 0.0f;
    const float top = normalised(s, x);
    if (!(top > 0.0f)) {
        memset(out, 0, 210);
        return;
    }
    for (int g = 0; g < GROUPS6; g++) {
        scale[g] = group6(x + g * GROUP6);
        most = fabsf(scale[g]) > fabsf(most) ? scale[g] : most;
    }
    block6 best = {.error = INFINITY}, t = {.error = 0};
    t.d = unit_of(fabsf(most) / (most < 0.0f ? 128.0f : 127.0f), top);
    for (int g = 0; g < GROUPS6; g++) t.scale[g] = clamped(scale[g] * inverse_of(t.d.value), -128, 127);
    for (int round = 0; round < ROUNDS; round++) {
        t.error = 0.0f;
        for (int g = 0; g < GROUPS6; g++) t.error += choose6(x + g * GROUP6, &t, g, 2);
        if (!(t.error < best.error)) break;
        best = t;
        t.d = unit_of(refit6(x, &best), top);
    }
    pack6(&best, out);
}
