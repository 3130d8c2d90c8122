/* SPDX-License-Identifier: Apache-2.0 */
/* The dual-scale fit: rows, columns and codes in turn, each the exact minimum given the
 * other two, so that the sum of squares never rises. */
#include "compressor/dsq.h"

#include <math.h>

enum { MOST = 4 };

static double value_of(const double *r, int bits, unsigned p)
{
    double v = 0;
    for (int b = 0; b < bits; b++) v += p >> b & 1 ? r[b] : -r[b];
    return v;
}

/* Least squares for one row's scales; negative ones turn their signs round. */
static void fit_row(int bits, const float *x, int64_t g, const double *c, uint8_t *code, double *r)
{
    double a[MOST][MOST + 1] = {{0}};
    for (int64_t j = 0; j < g; j++)
        for (int i = 0; i < bits; i++) {
            const double si = code[j] >> i & 1 ? 1 : -1;
            a[i][bits] += c[j] * si * (double)x[j];
            for (int k = 0; k < bits; k++) a[i][k] += c[j] * c[j] * si * (code[j] >> k & 1 ? 1 : -1);
        }
    for (int i = 0; i < bits; i++) a[i][i] *= 1 + 1e-14;
    for (int i = 0; i < bits; i++)
        for (int k = i + 1; k < bits; k++) {
            if (fabs(a[i][i]) < 1e-300) return; /* two signs that never differ: scales stay */
            const double f = a[k][i] / a[i][i];
            for (int t = i; t <= bits; t++) a[k][t] -= f * a[i][t];
        }
    double now[MOST];
    for (int i = bits - 1; i >= 0; i--) {
        if (fabs(a[i][i]) < 1e-12 * (1 + fabs(a[0][0]))) return;
        now[i] = a[i][bits];
        for (int k = i + 1; k < bits; k++) now[i] -= a[i][k] * now[k];
        now[i] /= a[i][i];
    }
    for (int i = 0; i < bits; i++) {
        r[i] = fmax(fabs(now[i]), 1e-8);
        if (now[i] < 0)
            for (int64_t j = 0; j < g; j++) code[j] ^= (uint8_t)(1 << i);
    }
}

static void fit_codes(int bits, const float *x, int64_t g, const double *c, const double *r, uint8_t *code)
{
    double level[1 << MOST];
    for (unsigned p = 0; p < 1u << bits; p++) level[p] = value_of(r, bits, p);
    for (int64_t j = 0; j < g; j++) {
        double least = INFINITY;
        for (unsigned p = 0; p < 1u << bits; p++) {
            const double d = fabs((double)x[j] - c[j] * level[p]);
            if (d < least) {
                least = d;
                code[j] = (uint8_t)p;
            }
        }
    }
}

static double squares(int bits, const float *x, int64_t ld, int64_t m, int64_t g, const double *r, const double *c, const uint8_t *code)
{
    double sum = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < g; j++) {
            const double d = (double)x[i * ld + j] - c[j] * value_of(r + i * bits, bits, code[i * g + j]);
            sum += d * d;
        }
    return sum;
}

void syi_dsq_begin(int bits, const float *x, int64_t ld, int64_t m, int64_t g, double *r, double *c, uint8_t *code)
{
    double norm = 0;
    for (int64_t j = 0; j < g; j++) c[j] = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < g; j++) c[j] += fabs((double)x[i * ld + j]) / (double)m;
    for (int64_t j = 0; j < g; j++) {
        c[j] = fmax(c[j], 1e-8);
        norm += c[j] * c[j];
    }
    for (int64_t i = 0; i < m; i++)
        for (int b = 0; b < bits; b++) {
            double dot = 0;
            for (int64_t j = 0; j < g; j++) {
                double rest = (double)x[i * ld + j];
                for (int k = 0; k < b; k++) rest -= c[j] * (code[i * g + j] >> k & 1 ? r[i * bits + k] : -r[i * bits + k]);
                if (b == 0) code[i * g + j] = 0;
                if (rest >= 0) code[i * g + j] |= (uint8_t)(1 << b);
                dot += c[j] * fabs(rest);
            }
            r[i * bits + b] = fmax(dot / norm, 1e-8);
        }
}

void syi_dsq_rows(sy_context *ctx, int bits, const float *x, int64_t ld, int64_t m, int64_t g, double *r, const double *c, uint8_t *code)
{
#pragma omp parallel for schedule(static) num_threads(syi_omp(ctx)) if (m * g > 4096)
    for (int64_t i = 0; i < m; i++) fit_row(bits, x + i * ld, g, c, code + i * g, r + i * bits);
}

void syi_dsq_columns(sy_context *ctx, int bits, const float *x, int64_t ld, int64_t m, int64_t g, const double *r, double *c, const uint8_t *code)
{
#pragma omp parallel for schedule(static) num_threads(syi_omp(ctx)) if (m * g > 4096)
    for (int64_t j = 0; j < g; j++) {
        double up = 0, down = 0;
        for (int64_t i = 0; i < m; i++) {
            const double s = value_of(r + i * bits, bits, code[i * g + j]);
            up += (double)x[i * ld + j] * s;
            down += s * s;
        }
        if (down > 0) c[j] = fmax(fabs(up / down), 1e-8);
    }
}

sy_status syi_dsq_fit(sy_context *ctx, int bits, int rounds, const float *x, int64_t ld, int64_t m, int64_t g, double *r, double *c, uint8_t *code, double *error)
{
    uint8_t *own = code ? NULL : syi_alloc(ctx, (size_t)(m * g));
    if (!code && !own) return SY_E_MEMORY;
    uint8_t *signs = code ? code : own;
    syi_dsq_begin(bits, x, ld, m, g, r, c, signs);
    if (error) *error++ = squares(bits, x, ld, m, g, r, c, signs);
    for (int round = 0; round < rounds; round++) {
        syi_dsq_rows(ctx, bits, x, ld, m, g, r, c, signs);
        if (error) *error++ = squares(bits, x, ld, m, g, r, c, signs);
        syi_dsq_columns(ctx, bits, x, ld, m, g, r, c, signs);
        if (error) *error++ = squares(bits, x, ld, m, g, r, c, signs);
#pragma omp parallel for schedule(static) num_threads(syi_omp(ctx)) if (m * g > 4096)
        for (int64_t i = 0; i < m; i++) fit_codes(bits, x + i * ld, g, c, r + i * bits, signs + i * g);
        if (error) *error++ = squares(bits, x, ld, m, g, r, c, signs);
    }
    syi_free(ctx, own);
    return SY_OK;
}

/* -- four bits and more: the same alternation on a symmetric uniform grid ----------------------- */

static double step_code(double x, double scale, int bits)
{
    const double top = (double)((1 << (bits - 1)) - 1), q = rint(x / scale);
    return q < -top - 1 ? -top - 1 : q > top ? top : q;
}

void syi_dsq_uniform(sy_context *ctx, int bits, int rounds, const float *x, int64_t ld, int64_t m, int64_t g, double *r, double *c)
{
    const double top = (double)((1 << (bits - 1)) - 1);
    for (int64_t j = 0; j < g; j++) {
        c[j] = 0;
        for (int64_t i = 0; i < m; i++) c[j] += fabs((double)x[i * ld + j]) / (double)m;
        c[j] = fmax(c[j], 1e-8);
    }
    for (int64_t i = 0; i < m; i++) {
        double most = 0;
        for (int64_t j = 0; j < g; j++) most = fmax(most, fabs((double)x[i * ld + j]) / c[j]);
        r[i] = fmax(most / top, 1e-8);
    }
    for (int round = 0; round < rounds; round++) {
#pragma omp parallel for schedule(static) num_threads(syi_omp(ctx)) if (m * g > 4096)
        for (int64_t i = 0; i < m; i++) {
            double up = 0, down = 0;
            for (int64_t j = 0; j < g; j++) {
                const double s = c[j] * step_code((double)x[i * ld + j], c[j] * r[i], bits);
                up += (double)x[i * ld + j] * s;
                down += s * s;
            }
            if (down > 0) r[i] = fmax(up / down, 1e-8);
        }
#pragma omp parallel for schedule(static) num_threads(syi_omp(ctx)) if (m * g > 4096)
        for (int64_t j = 0; j < g; j++) {
            double up = 0, down = 0;
            for (int64_t i = 0; i < m; i++) {
                const double s = r[i] * step_code((double)x[i * ld + j], c[j] * r[i], bits);
                up += (double)x[i * ld + j] * s;
                down += s * s;
            }
            if (down > 0) c[j] = fmax(fabs(up / down), 1e-8);
        }
    }
}
