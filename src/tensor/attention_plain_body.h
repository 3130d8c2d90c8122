/* SPDX-License-Identifier: Apache-2.0 */
/* Plain attention for one type, included by attention_plain.c with
 *   NUM       type in memory          REAL      type of sums and of lse
 *   GET, PUT  conversions             NAME(x)   the function's name
 *   EXP, LOG, TANH  of REAL
 * One row of one head at a time, exactly as the formulas say: this is what the
 * tiled paths are tested against, so nothing here is clever. */

static REAL NAME(dot)(const NUM *x, const NUM *y, int64_t n)
{
    REAL sum = 0;
    for (int64_t i = 0; i < n; i++) sum += GET(x[i]) * GET(y[i]);
    return sum;
}

/* A scaled score as it counts, and its derivative. */
static REAL NAME(capped)(const syi_attend *a, REAL x, REAL *slope)
{
    *slope = 1;
    if (!(a->softcap > 0)) return x;
    const REAL t = TANH(x / (REAL)a->softcap);
    *slope = 1 - t * t;
    return (REAL)a->softcap * t;
}

static void NAME(forward)(const syi_attend *a)
{
    const int64_t d = a->dim, group = a->heads / a->kv_heads;
    const NUM *q = a->q, *k = a->k, *v = a->v;
    NUM *out = a->out;
    REAL *lse = a->lse;
    const REAL scale = (REAL)a->scale;
#pragma omp parallel for schedule(dynamic, 16) num_threads(a->threads)
    for (int64_t item = 0; item < a->n * a->heads; item++) {
        const int64_t i = item / a->heads, h = item % a->heads, base = h / group * a->k_head;
        REAL acc[SYI_ATTENTION_MAX_DIM] = {0}, top = -(REAL)INFINITY, sum = 0;
        for (int64_t s = syi_attend_lo(a, i); s <= syi_attend_hi(a, i); s++) {
            REAL slope, x = NAME(capped)(a, scale * NAME(dot)(q + (i * a->heads + h) * d, k + base + s * a->k_token, d), &slope);
            if (x > top) { /* the sums so far were relative to a smaller maximum */
                REAL shrink = EXP(top - x);
                sum *= shrink;
                for (int64_t c = 0; c < d; c++) acc[c] *= shrink;
                top = x;
            }
            REAL p = EXP(x - top);
            sum += p;
            for (int64_t c = 0; c < d; c++) acc[c] += p * GET(v[base + s * a->k_token + c]);
        }
        for (int64_t c = 0; c < d; c++) out[(i * a->heads + h) * d + c] = PUT(acc[c] / sum);
        if (lse) lse[h * a->n + i] = top + LOG(sum);
    }
}

/* Gradients of a row's scores: ds = p * (dout.v - rowsum(dout*out)) * scale. */
static void NAME(backward)(const syi_attend *a)
{
    const int64_t d = a->dim, group = a->heads / a->kv_heads;
    const NUM *q = a->q, *k = a->k, *v = a->v, *dout = a->dout, *out = a->out;
    NUM *dq = a->dq, *dk = a->dk, *dv = a->dv;
    const REAL *lse = a->lse, scale = (REAL)a->scale;
    REAL *delta = (REAL *)(void *)a->scratch; /* [heads, n] */
#pragma omp parallel for schedule(dynamic, 16) num_threads(a->threads)
    for (int64_t item = 0; item < a->n * a->heads; item++) {
        const int64_t i = item / a->heads, h = item % a->heads, row = (i * a->heads + h) * d, base = h / group * a->k_head;
        REAL acc[SYI_ATTENTION_MAX_DIM] = {0}, own = NAME(dot)(dout + row, out + row, d);
        delta[h * a->n + i] = own;
        for (int64_t s = syi_attend_lo(a, i); dq && s <= syi_attend_hi(a, i); s++) {
            const NUM *ks = k + base + s * a->k_token;
            REAL slope, p = EXP(NAME(capped)(a, scale * NAME(dot)(q + row, ks, d), &slope) - lse[h * a->n + i]);
            REAL ds = p * (NAME(dot)(dout + row, v + base + s * a->k_token, d) - own) * scale * slope;
            for (int64_t c = 0; c < d; c++) acc[c] += ds * GET(ks[c]);
        }
        for (int64_t c = 0; dq && c < d; c++) dq[row + c] = PUT(a->add_q ? GET(dq[row + c]) + acc[c] : acc[c]);
    }
    if (!dk && !dv) return;
#pragma omp parallel for schedule(dynamic, 16) num_threads(a->threads)
    for (int64_t item = 0; item < a->n * a->kv_heads; item++) {
        const int64_t s = item / a->kv_heads, j = item % a->kv_heads, at = s * a->k_token + j * a->k_head;
        REAL acc_k[SYI_ATTENTION_MAX_DIM] = {0}, acc_v[SYI_ATTENTION_MAX_DIM] = {0};
        for (int64_t i = a->last ? syi_attend_lo(a, s) : s; i < a->n && syi_attend_lo(a, i) <= s; i++) {
            for (int64_t h = j * group; h < (j + 1) * group; h++) {
                const int64_t row = (i * a->heads + h) * d;
                REAL slope, p = EXP(NAME(capped)(a, scale * NAME(dot)(q + row, k + at, d), &slope) - lse[h * a->n + i]);
                REAL ds = p * (NAME(dot)(dout + row, v + at, d) - delta[h * a->n + i]) * scale * slope;
                for (int64_t c = 0; c < d; c++) {
                    acc_v[c] += p * GET(dout[row + c]);
                    acc_k[c] += ds * GET(q[row + c]);
                }
            }
        }
        for (int64_t c = 0; dk && c < d; c++) dk[at + c] = PUT(a->add_k ? GET(dk[at + c]) + acc_k[c] : acc_k[c]);
        for (int64_t c = 0; dv && c < d; c++) dv[at + c] = PUT(a->add_v ? GET(dv[at + c]) + acc_v[c] : acc_v[c]);
    }
}

#undef NUM
#undef REAL
#undef GET
#undef PUT
#undef NAME
#undef EXP
#undef LOG
#undef TANH
