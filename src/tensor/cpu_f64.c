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

static double act_f64(syi_act kind, double x, double *d)
{
    double t, s;
    switch (kind) {
    case SYI_ACT_RELU:
        *d = x > 0;
        return x > 0 ? x : 0;
    case SYI_ACT_TANH:
        t = tanh(x);
        *d = 1 - t * t;
        return t;
    case SYI_ACT_GELU_TANH:
        t = tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x));
        *d = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.79788456080286535588 * (1 + 3 * 0.044715 * x * x);
        return 0.5 * x * (1 + t);
    case SYI_ACT_GELU:
        s = 0.5 * erfc(-x * 0.70710678118654752440);
        *d = s + x * 0.39894228040143267794 * exp(-0.5 * x * x);
        return x * s;
    default: break;
    }
    const double k = kind == SYI_ACT_QUICK_GELU ? 1.702 : 1;
    s = 1 / (1 + exp(-k * x));
    *d = s * (1 + k * x * (1 - s));
    return x * s;
}

void syi_act_f64(syi_act kind, const void *px, const void *pu, void *py, int64_t n)
{
    const double *x = px, *u = pu;
    double *y = py, d;
    for (int64_t i = 0; i < n; i++) y[i] = act_f64(kind, x[i], &d) * (u != NULL ? u[i] : 1);
}

void syi_act_grad_f64(syi_act kind, const void *pdy, const void *px, const void *pu, bool add_x, void *pdx, bool add_u, void *pdu, int64_t n)
{
    const double *dy = pdy, *x = px, *u = pu;
    double *dx = pdx, *du = pdu, d;
    for (int64_t i = 0; i < n; i++) {
        const double f = act_f64(kind, x[i], &d), to_x = dy[i] * d * (u != NULL ? u[i] : 1), to_u = dy[i] * f;
        if (dx != NULL) dx[i] = (add_x ? dx[i] : 0) + to_x;
        if (du != NULL) du[i] = (add_u ? du[i] : 0) + to_u;
    }
}

void syi_layernorm_f64(const void *px, const void *pw, const void *pb, double eps, void *py, void *pmean, void *prstd, int64_t rows, int64_t cols)
{
    const double *w = pw, *b = pb;
    double *means = pmean, *rstd = prstd;
    for (int64_t r = 0; r < rows; r++) {
        const double *x = (const double *)px + r * cols;
        double *y = (double *)py + r * cols, m = 0, v = 0;
        for (int64_t c = 0; c < cols; c++) m += x[c];
        m /= (double)cols;
        for (int64_t c = 0; c < cols; c++) v += (x[c] - m) * (x[c] - m);
        const double s = 1 / sqrt(v / (double)cols + eps);
        if (means != NULL) means[r] = m;
        if (rstd != NULL) rstd[r] = s;
        for (int64_t c = 0; c < cols; c++) y[c] = (x[c] - m) * s * w[c] + (b != NULL ? b[c] : 0);
    }
}

void syi_layernorm_grad_f64(const void *pdy, const void *px, const void *pw, const void *pmean, const void *prstd, bool add, void *pdx, void *pdw,
                            void *pdb, int64_t rows, int64_t cols)
{
    const double *w = pw, *means = pmean, *rstd = prstd;
    double *dw = pdw, *db = pdb;
    for (int64_t c = 0; c < cols; c++) {
        if (dw != NULL) dw[c] = 0;
        if (db != NULL) db[c] = 0;
    }
    for (int64_t r = 0; r < rows; r++) {
        const double *x = (const double *)px + r * cols, *dy = (const double *)pdy + r * cols;
        const double s = rstd[r], m = means[r];
        double sum = 0, dot = 0;
        for (int64_t c = 0; c < cols; c++) {
            const double h = (x[c] - m) * s, g = dy[c] * w[c];
            sum += g;
            dot += g * h;
            if (dw != NULL) dw[c] += dy[c] * h;
            if (db != NULL) db[c] += dy[c];
        }
        if (pdx == NULL) continue;
        double *dx = (double *)pdx + r * cols;
        for (int64_t c = 0; c < cols; c++)
            dx[c] = (add ? dx[c] : 0) + s * (dy[c] * w[c] - sum / (double)cols - (x[c] - m) * s * dot / (double)cols);
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
