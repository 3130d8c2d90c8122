/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels in f64: plain loops, the definition that the fast ones are tested
 * against and that gradients are checked in. */
#include "tensor/cpu.h"

#include <math.h>

void syi_axpy_f64(double a, const void *px, bool add, void *py, int64_t n)
{
    const double *x = px;
    double *y = py;
    for (int64_t i = 0; i < n; i++) y[i] = (add ? y[i] : 0) + a * x[i];
}

void syi_add_f64(double a, const void *px, const void *py, void *pz, int64_t n)
{
    const double *x = px, *y = py;
    double *z = pz;
    for (int64_t i = 0; i < n; i++) z[i] = x[i] + a * y[i];
}

void syi_combine_f64(syi_combination op, double a, const void *px, const void *py, const void *pw, bool add, void *pz, int64_t n)
{
    const double *x = px, *y = py, *w = pw;
    double *z = pz;
    for (int64_t i = 0; i < n; i++) {
        double v = op == SYI_MUL ? x[i] * y[i] : op == SYI_DIV ? x[i] / y[i] : op == SYI_MULDIV ? x[i] * y[i] / w[i] : sqrt(x[i]);
        z[i] = (add ? z[i] : 0) + a * v;
    }
}

void syi_scale_cols_f64(const void *px, const void *ps, bool add, void *py, int64_t rows, int64_t cols)
{
    const double *x = px, *s = ps;
    double *y = py;
    for (int64_t i = 0; i < rows * cols; i++) y[i] = (add ? y[i] : 0) + x[i] * s[i % cols];
}

void syi_add_bias_f64(const void *pb, void *py, int64_t rows, int64_t cols)
{
    const double *b = pb;
    double *y = py;
    for (int64_t i = 0; i < rows * cols; i++) y[i] += b[i % cols];
}

void syi_col_sums_f64(const void *px, const void *py, void *psum, int64_t rows, int64_t cols)
{
    const double *x = px, *y = py;
    double *sum = psum;
    for (int64_t c = 0; c < cols; c++) sum[c] = 0;
    for (int64_t i = 0; i < rows * cols; i++) sum[i % cols] += x[i] * (y != NULL ? y[i] : 1);
}

void syi_dropout_f64(const float *u, double p, const void *px, bool add, void *py, int64_t n)
{
    const double *x = px;
    double *y = py;
    for (int64_t i = 0; i < n; i++) y[i] = (add ? y[i] : 0) + (u[i] >= (float)p ? x[i] / (1 - p) : 0);
}

void syi_rmsnorm_f64(const void *px, const void *pw, double eps, void *py, void *prstd, int64_t rows, int64_t cols)
{
    const double *w = pw;
    double *rstd = prstd;
    for (int64_t r = 0; r < rows; r++) {
        const double *x = (const double *)px + r * cols;
        double *y = (double *)py + r * cols, sum = 0;
        for (int64_t c = 0; c < cols; c++) sum += x[c] * x[c];
        double s = 1 / sqrt(sum / (double)cols + eps);
        if (rstd != NULL) rstd[r] = s;
        for (int64_t c = 0; c < cols; c++) y[c] = x[c] * s * w[c];
    }
}

void syi_rmsnorm_grad_f64(const void *pdy, const void *px, const void *pw, const void *prstd, bool add, void *pdx, void *pdw, int64_t rows,
                          int64_t cols)
{
    const double *w = pw, *rstd = prstd;
    double *dw = pdw;
    for (int64_t c = 0; dw != NULL && c < cols; c++) dw[c] = 0;
    for (int64_t r = 0; r < rows; r++) {
        const double *x = (const double *)px + r * cols, *dy = (const double *)pdy + r * cols;
        double s = rstd[r], mean = 0;
        for (int64_t c = 0; c < cols; c++) {
            mean += dy[c] * w[c] * x[c] * s;
            if (dw != NULL) dw[c] += dy[c] * x[c] * s;
        }
        mean /= (double)cols;
        if (pdx == NULL) continue;
        double *dx = (double *)pdx + r * cols;
        for (int64_t c = 0; c < cols; c++) dx[c] = (add ? dx[c] : 0) + s * (dy[c] * w[c] - x[c] * s * mean);
    }
}

void syi_swiglu_f64(const void *pg, const void *pu, void *py, int64_t n)
{
    const double *g = pg, *u = pu;
    double *y = py;
    for (int64_t i = 0; i < n; i++) y[i] = g[i] / (1 + exp(-g[i])) * u[i];
}

void syi_swiglu_grad_f64(const void *pdy, const void *pg, const void *pu, bool add_gate, void *pdg, bool add_up, void *pdu, int64_t n)
{
    const double *dy = pdy, *g = pg, *u = pu;
    double *dg = pdg, *du = pdu;
    for (int64_t i = 0; i < n; i++) {
        double s = 1 / (1 + exp(-g[i]));
        double to_gate = dy[i] * u[i] * s * (1 + g[i] * (1 - s)), to_up = dy[i] * g[i] * s;
        if (dg != NULL) dg[i] = (add_gate ? dg[i] : 0) + to_gate;
        if (du != NULL) du[i] = (add_up ? du[i] : 0) + to_up;
    }
}

void syi_rope_f64(const void *px, const int32_t *pos, const void *pc, const void *ps, bool inverse, bool add, void *py, int64_t tokens,
                  int64_t heads, int64_t dim)
{
    int64_t half = dim / 2;
    for (int64_t t = 0; t < tokens; t++) {
        const double *c = (const double *)pc + pos[t] * half, *s = (const double *)ps + pos[t] * half;
        for (int64_t h = 0; h < heads; h++) {
            const double *x = (const double *)px + (t * heads + h) * dim;
            double *y = (double *)py + (t * heads + h) * dim;
            for (int64_t i = 0; i < half; i++) {
                double sine = inverse ? -s[i] : s[i];
                double a = x[i] * c[i] - x[half + i] * sine, b = x[half + i] * c[i] + x[i] * sine;
                y[i] = (add ? y[i] : 0) + a;
                y[half + i] = (add ? y[half + i] : 0) + b;
            }
        }
    }
}

double syi_dot_f64(const void *px, const void *py, int64_t n)
{
    const double *x = px, *y = py;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * (y != NULL ? y[i] : 1);
    return sum;
}
