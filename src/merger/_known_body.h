/* SPDX-License-Identifier: Apache-2.0 */
/* The predictor's forward and backward pass on one weight, in the type NUM (f32 to work, f64
 * for checks); included twice by _known.c. Matrices with 8 or m columns are stored turned, so
 * that loops run over 64 numbers. */

static NUM NAME(dot)(const NUM *x, const NUM *y, int n)
{
    NUM s[8] = { 0 };
    for (int i = 0; i < n; i += 8)
        for (int k = 0; k < 8; k++) s[k] += x[i + k] * y[i + k];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

typedef struct { NUM y[WIDE], hp[NECK], h[NECK], g[3][WIDE], ex[WIDE], t[WIDE], zp[TAIL]; } NAME(kept);

static void NAME(branch)(const NUM *w, const NUM *in, int m, NAME(kept) *k, NUM *z)
{
    const NUM *a = w + WIDE * m, *b = a + WIDE, *bb = b + NECK * WIDE, *c = bb + NECK, *e = c + 3 * (NECK + 1) * WIDE, *eb = e + TAIL * WIDE;
    for (int i = 0; i < WIDE; i++) k->y[i] = a[i];
    for (int j = 0; j < m; j++)
        for (int i = 0; i < WIDE; i++) k->y[i] += w[j * WIDE + i] * in[j];
    for (int j = 0; j < NECK; j++) {
        k->hp[j] = bb[j] + NAME(dot)(b + j * WIDE, k->y, WIDE);
        k->h[j] = k->hp[j] > 0 ? k->hp[j] : 0;
    }
    for (int q = 0; q < 3; q++) {
        const NUM *cq = c + q * (NECK + 1) * WIDE;
        for (int i = 0; i < WIDE; i++) k->g[q][i] = cq[NECK * WIDE + i];
        for (int j = 0; j < NECK; j++)
            for (int i = 0; i < WIDE; i++) k->g[q][i] += cq[j * WIDE + i] * k->h[j];
    }
    for (int i = 0; i < WIDE; i++) {
        const NUM s = k->g[2][i] * k->y[i];
        k->ex[i] = EXP(s > 20 ? 20 : s < -20 ? -20 : s);
        k->t[i] = k->g[0][i] + k->g[1][i] * k->ex[i];
    }
    for (int o = 0; o < TAIL; o++) {
        k->zp[o] = eb[o] + NAME(dot)(e + o * WIDE, k->t, WIDE);
        z[o] = k->zp[o] > 0 ? k->zp[o] : (NUM)0.3 * k->zp[o];
    }
}

static void NAME(branch_back)(const NUM *w, const NUM *in, int m, const NAME(kept) *k, const NUM *dz, NUM *d)
{
    const size_t at_a = (size_t)(WIDE * m), at_b = at_a + WIDE, at_bb = at_b + NECK * WIDE, at_c = at_bb + NECK, at_e = at_c + 3 * (NECK + 1) * WIDE, at_eb = at_e + TAIL * WIDE;
    NUM dt[WIDE] = { 0 }, dg[3][WIDE], dy[WIDE], dh[NECK];
    for (int o = 0; o < TAIL; o++) {
        const NUM v = dz[o] * (k->zp[o] > 0 ? 1 : (NUM)0.3);
        d[at_eb + (size_t)o] += v;
        for (int i = 0; i < WIDE; i++) {
            d[at_e + (size_t)(o * WIDE + i)] += v * k->t[i];
            dt[i] += v * w[at_e + (size_t)(o * WIDE + i)];
        }
    }
    for (int i = 0; i < WIDE; i++) {
        const NUM s = k->g[2][i] * k->y[i], ds = s > 20 || s < -20 ? 0 : dt[i] * k->g[1][i] * k->ex[i];
        dg[0][i] = dt[i];
        dg[1][i] = dt[i] * k->ex[i];
        dg[2][i] = ds * k->y[i];
        dy[i] = ds * k->g[2][i];
    }
    for (int j = 0; j < NECK; j++) dh[j] = 0;
    for (int q = 0; q < 3; q++) {
        const size_t at = at_c + (size_t)(q * (NECK + 1) * WIDE);
        for (int i = 0; i < WIDE; i++) d[at + (size_t)(NECK * WIDE + i)] += dg[q][i];
        for (int j = 0; j < NECK; j++) {
            for (int i = 0; i < WIDE; i++) d[at + (size_t)(j * WIDE + i)] += dg[q][i] * k->h[j];
            dh[j] += NAME(dot)(w + at + (size_t)(j * WIDE), dg[q], WIDE);
        }
    }
    for (int j = 0; j < NECK; j++) {
        const NUM v = k->hp[j] > 0 ? dh[j] : 0;
        d[at_bb + (size_t)j] += v;
        for (int i = 0; i < WIDE; i++) {
            d[at_b + (size_t)(j * WIDE + i)] += v * k->y[i];
            dy[i] += v * w[at_b + (size_t)(j * WIDE + i)];
        }
    }
    for (int i = 0; i < WIDE; i++) d[at_a + (size_t)i] += dy[i];
    for (int j = 0; j < m; j++)
        for (int i = 0; i < WIDE; i++) d[j * WIDE + i] += dy[i] * in[j];
}

/* tanh(F z + f) for one history; grad != NULL: adds slope * its gradient, slope given the value. */
NUM NAME(syi_known)(const NUM *w, const NUM *x, NUM target, NUM *grad)
{
    NAME(kept) k[2];
    NUM z[2 * TAIL], in[4];
    for (int i = 0; i < 4; i++) in[i] = x[i + 1] - x[i];
    const NUM *head = w + BRANCH(5) + BRANCH(4);
    NAME(branch)(w, x, 5, &k[0], z);
    NAME(branch)(w + BRANCH(5), in, 4, &k[1], z + TAIL);
    const NUM v = TANH_(NAME(dot)(head, z, 2 * TAIL) + head[2 * TAIL]);
    if (!grad) return v;
    const NUM slope = (v > target ? 1 : v < target ? -1 : 0) * (1 - v * v);
    NUM dz[2 * TAIL], *dhead = grad + BRANCH(5) + BRANCH(4);
    for (int i = 0; i < 2 * TAIL; i++) {
        dz[i] = slope * head[i];
        dhead[i] += slope * z[i];
    }
    dhead[2 * TAIL] += slope;
    NAME(branch_back)(w, x, 5, &k[0], dz, grad);
    NAME(branch_back)(w + BRANCH(5), in, 4, &k[1], dz + TAIL, grad + BRANCH(5));
    return v;
}
