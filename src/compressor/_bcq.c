/* SPDX-License-Identifier: Apache-2.0 */
/* Binary-coding fits. Sums that the least squares need follow from how many numbers have
 * each pattern of signs, and what they add up to: 2^bits cells, whatever the group's size. */
#include "compressor/bcq.h"

#include <math.h>

/* The nearest sum of signed powers of two: each step takes the power nearest in logarithm. */
static float apot(float v, int terms)
{
    double left = (double)v, sum = 0;
    for (int i = 0; i < terms && left != 0; i++) {
        int e;
        const double m = frexp(fabs(left), &e); /* [1/2, 1): round(log2) is e or e - 1 */
        const double p = ldexp(left < 0 ? -1 : 1, m >= 0.70710678118654752440 ? e : e - 1);
        sum += p;
        left -= p;
    }
    return (float)sum;
}

static float as_f16(float v)
{
    uint16_t h;
    (void)sy_from_f32(NULL, SY_F16, &v, &h, 1);
    (void)sy_to_f32(NULL, SY_F16, &h, &v, 1);
    return v;
}

void syi_bcq_levels(syi_bcq *q)
{
    const int n = 1 << q->bits;
    for (int p = 0; p < n; p++) {
        float v = 0;
        for (int b = 0; b < q->bits; b++) v += p >> b & 1 ? q->alpha[b] : -q->alpha[b];
        int at = p; /* insertion keeps equal values in the order of patterns */
        while (at > 0 && q->level[at - 1] > v) {
            q->level[at] = q->level[at - 1];
            q->sign[at] = q->sign[at - 1];
            at--;
        }
        q->level[at] = v;
        q->sign[at] = (uint8_t)p;
    }
}

/* (B^T B + ridge) a = B^T w by Gauss' elimination; bits <= 8. */
static void least_squares(int bits, const double *count, const double *sum, double n, float *alpha)
{
    double a[SYI_BCQ_MAX][SYI_BCQ_MAX + 1] = {{0}};
    for (int p = 0; p < 1 << bits; p++)
        for (int i = 0; i < bits; i++) {
            const double si = p >> i & 1 ? 1 : -1;
            a[i][bits] += si * sum[p];
            for (int j = 0; j < bits; j++) a[i][j] += si * (p >> j & 1 ? 1 : -1) * count[p];
        }
    for (int i = 0; i < bits; i++) a[i][i] += 1e-9 * n; /* signs that never differ do not stop it; small enough to vanish in f32 */
    for (int i = 0; i < bits; i++) /* positive definite: no pivots */
        for (int r = i + 1; r < bits; r++) {
            const double f = a[r][i] / a[i][i];
            for (int c = i; c <= bits; c++) a[r][c] -= f * a[i][c];
        }
    for (int i = bits - 1; i >= 0; i--) {
        for (int c = i + 1; c < bits; c++) a[i][bits] -= a[i][c] * a[c][bits];
        a[i][bits] /= a[i][i];
        alpha[i] = (float)a[i][bits];
    }
}

void syi_bcq_fit(int bits, int terms, int rounds, const float *w, int64_t n, syi_bcq *q)
{
    double count[1 << SYI_BCQ_MAX], sum[1 << SYI_BCQ_MAX];
    q->bits = bits;
    double rest = 0; /* greedy start: r - sign(r) mean|r|, all from |w| alone for the first bit */
    float mid[(1 << SYI_BCQ_MAX)];
    for (int b = 0; b < bits; b++) {
        rest = 0;
        for (int64_t i = 0; i < n; i++) {
            float r = w[i];
            for (int k = 0; k < b; k++) r -= r < 0 ? -q->alpha[k] : q->alpha[k];
            rest += fabs((double)r);
        }
        q->alpha[b] = (float)(rest / (double)(n > 0 ? n : 1));
    }
    syi_bcq_levels(q);
    for (int round = 0; round < rounds; round++) {
        const int levels = 1 << bits;
        float before[SYI_BCQ_MAX];
        memcpy(before, q->alpha, sizeof before);
        for (int i = 0; i + 1 < levels; i++) mid[i] = 0.5f * (q->level[i] + q->level[i + 1]);
        for (int p = 0; p < levels; p++) count[p] = sum[p] = 0;
        for (int64_t i = 0; i < n; i++) {
            int at = 0;
            if (round == 0) { /* the greedy codes */
                float r = w[i];
                int p = 0;
                for (int k = 0; k < bits; k++) {
                    p |= (r >= 0) << k;
                    r -= r < 0 ? -q->alpha[k] : q->alpha[k];
                }
                count[p] += 1;
                sum[p] += (double)w[i];
                continue;
            }
            for (int k = 0; k + 1 < levels; k++) at += w[i] > mid[k];
            count[q->sign[at]] += 1;
            sum[q->sign[at]] += (double)w[i];
        }
        least_squares(bits, count, sum, (double)n, q->alpha);
        for (int b = 0; b < bits; b++) q->alpha[b] = fabsf(q->alpha[b]);
        for (int i = 0; i < bits; i++)
            for (int j = i + 1; j < bits; j++)
                if (q->alpha[j] > q->alpha[i]) {
                    const float t = q->alpha[i];
                    q->alpha[i] = q->alpha[j];
                    q->alpha[j] = t;
                }
        for (int b = 0; b < bits; b++) q->alpha[b] = terms > 0 ? apot(q->alpha[b], terms) : q->alpha[b];
        syi_bcq_levels(q);
        if (round > 0 && memcmp(before, q->alpha, (size_t)bits * sizeof *before) == 0) break;
    }
    for (int b = 0; b < bits; b++) q->alpha[b] = terms > 0 ? apot(q->alpha[b], terms) : as_f16(q->alpha[b]);
    syi_bcq_levels(q);
}
