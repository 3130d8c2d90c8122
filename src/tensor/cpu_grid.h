/* SPDX-License-Identifier: Apache-2.0 */
/* Errors of a uniform grid for the clip search: part of cpu_impl.h. */

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
