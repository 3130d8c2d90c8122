/* SPDX-License-Identifier: Apache-2.0 */
/* Rounding to uniform grids, for the solvers of compressors: part of cpu_impl.h. */

/* |d|^2.4 to about 1e-5, by powers of two: a mantissa's logarithm and its way back are
 * polynomials. 0 stays 0. */
static inline vf power_2_4(vf d)
{
    vi u = (vi)d & 0x7fffffff;
    const vf a = (vf)u;
    const vf m = (vf)((u & 0x007fffff) | 0x3f800000); /* [1, 2) */
    const vf e = __builtin_convertvector((u >> 23) - 127, vf);
    /* log2 m around 1.5: 2 atanh((m-1.5)/(m+1.5)) / ln 2 + log2 1.5 */
    const vf t = (m - vset(1.5f)) / (m + vset(1.5f)), t2 = t * t;
    const vf l = t * (vset(2.88539008f) + t2 * (vset(0.96179669f) + t2 * (vset(0.57707802f) + t2 * vset(0.41219859f)))) + vset(0.5849625007f);
    vf y = (e + l) * vset(2.4f);
    y = vselect(y < vset(-126.0f), vset(-126.0f), y);
    const vf magic = vset(12582912.0f);
    const vf k = (y + magic) - magic, r = y - k;
    const vf p = vset(1.0f) + r * (vset(0.69314718f) + r * (vset(0.24022651f) + r * (vset(0.055504109f) + r * (vset(0.0096181291f) + r * vset(0.0013333558f)))));
    const vi n = __builtin_convertvector(k, vi);
    const vf scale = (vf)((n + 127) << 23);
    return vselect(a > vset(0), p * scale, vset(0));
}

static double grid_error(const float *w, int64_t n, float scale, float zero, float top)
{
    const vf magic = vset(12582912.0f), s = vset(scale), z = vset(zero), t = vset(top);
    vf sum = vset(0);
    for (int64_t i = 0; i < n; i += VW) {
        const vf v = n - i >= VW ? vload_f32(w + i) : vload_f32_part(w + i, n - i);
        vf q = v / s;
        const vf far = vset(4194304.0f); /* rounding by adding: within 2^22 */
        q = vselect(q > far, far, vselect(q < -far, -far, q));
        vf c = ((q + magic) - magic) + z;
        c = vselect(c < vset(0), vset(0), vselect(c > t, t, c));
        sum += power_2_4(s * (c - z) - v); /* what lies beyond the end is 0, which every grid holds */
    }
    return (double)vsum(sum);
}

static void grid_round(int64_t n, const float *w, const float *scale, const float *zero, float top, uint8_t *code, float *value)
{
    const vf magic = vset(12582912.0f), t = vset(top), far = vset(4194304.0f);
    for (int64_t i = 0; i < n; i += VW) {
        const int64_t left = n - i;
        const bool full = left >= VW;
        const vf v = full ? vload_f32(w + i) : vload_f32_part(w + i, left), z = full ? vload_f32(zero + i) : vload_f32_part(zero + i, left);
        vf s = full ? vload_f32(scale + i) : vload_f32_part(scale + i, left);
        vf q = v / vselect(s == vset(0), vset(1), s);
        q = vselect(q > far, far, vselect(q < -far, -far, q));
        vf c = ((q + magic) - magic) + z;
        c = vselect(c < vset(0), vset(0), vselect(c > t, t, c));
        const vf out = s * (c - z);
        const vi k = __builtin_convertvector(c, vi);
        for (int j = 0; j < VW && j < left; j++) code[i + j] = (uint8_t)k[j];
        if (full) vstore_f32(value + i, out);
        else vstore_f32_part(value + i, out, left);
    }
}

static void columns_owe(int64_t rows, int64_t n, float sign, const float *u, int64_t ldu, const float *e, float *t)
{
    int64_t i = 0;
    for (; i + 4 * VW <= rows; i += 4 * VW) {
        vf a = vload_f32(t + i), b = vload_f32(t + i + VW), c = vload_f32(t + i + 2 * VW), d = vload_f32(t + i + 3 * VW);
        for (int64_t q = 0; q < n; q++) {
            const vf by = vset(sign * u[q * ldu]);
            const float *from = e + q * rows + i;
            a += by * vload_f32(from);
            b += by * vload_f32(from + VW);
            c += by * vload_f32(from + 2 * VW);
            d += by * vload_f32(from + 3 * VW);
        }
        vstore_f32(t + i, a);
        vstore_f32(t + i + VW, b);
        vstore_f32(t + i + 2 * VW, c);
        vstore_f32(t + i + 3 * VW, d);
    }
    for (; i < rows; i++) {
        float a = t[i];
        for (int64_t q = 0; q < n; q++) a += sign * u[q * ldu] * e[q * rows + i];
        t[i] = a;
    }
}
