/* SPDX-License-Identifier: Apache-2.0 */
/* Loops for one type of number: included twice by cpu_impl.h, with T, LOAD, STORE,
 * LOAD_PART, STORE_PART, LOGISTIC and NAME(f) defined. Arithmetic is f32. A tail goes through
 * the same vector code as the rest, so that a number's value does not depend on where
 * a piece ends. */

/* For i in steps of a vector up to n: BODY with IN(p) reading and OUT(p, v) writing
 * the vector at i (p: T), INF/OUTF likewise for f32. */
#define LOOP(n, BODY)                                                \
    do {                                                             \
        int64_t i = 0;                                               \
        for (; i + VW <= (n); i += VW) {                             \
            enum { FULL = 1 };                                       \
            const int64_t rest = VW;                                 \
            BODY                                                     \
            (void)rest;                                              \
        }                                                            \
        if (i < (n)) {                                               \
            enum { FULL = 0 };                                       \
            const int64_t rest = (n) - i;                            \
            BODY                                                     \
        }                                                            \
    } while (0)
#define IN(p) (FULL ? LOAD((p) + i) : LOAD_PART((p) + i, rest))
#define OUT(p, v)                                                    \
    do {                                                             \
        if (FULL) STORE((p) + i, v);                                 \
        else STORE_PART((p) + i, v, rest);                           \
    } while (0)
#define INF(p) (FULL ? vload_f32((p) + i) : vload_f32_part((p) + i, rest))
#define OUTF(p, v)                                                   \
    do {                                                             \
        if (FULL) vstore_f32((p) + i, v);                            \
        else vstore_f32_part((p) + i, v, rest);                      \
    } while (0)

static void NAME(axpy)(double a, const void *px, bool add, void *py, int64_t n)
{
    const T *x = px;
    T *y = py;
    vf va = vset((float)a);
    if (add) LOOP(n, OUT(y, IN(y) + va * IN(x)););
    else LOOP(n, OUT(y, va * IN(x)););
}

static void NAME(accumulate_f32)(const void *px, void *py, int64_t n)
{
    const T *x = px;
    float *y = py;
    LOOP(n, OUTF(y, INF(y) + IN(x)););
}

static void NAME(accumulate_bf16)(const void *px, void *py, int64_t n)
{
    const T *x = px;
    bf16 *y = py;
    int64_t i = 0;
    for (; i + VW <= n; i += VW) vstore_bf16(y + i, vload_bf16(y + i) + LOAD(x + i));
    if (i < n) vstore_bf16_part(y + i, vload_bf16_part(y + i, n - i) + LOAD_PART(x + i, n - i), n - i);
}

/* A vector of the sums stays in a register over all shards. */
static void NAME(shard_sum)(const void *px, int64_t cols, int64_t r, float *sum)
{
    const T *x = px;
    for (int64_t j = 0; j < r; j += VW) {
        const int64_t width = r - j < VW ? r - j : VW;
        vf s = vload_f32_part(sum + j, width);
        for (int64_t c = j; c < cols; c += r) {
            const int64_t n = cols - c < width ? cols - c : width;
            s = s + (n == VW ? LOAD(x + c) : LOAD_PART(x + c, n));
        }
        vstore_f32_part(sum + j, s, width);
    }
}

static void NAME(repeat_add)(const void *pz, int64_t r, int64_t cols, void *py)
{
    const T *z = pz;
    T *y = py;
    for (int64_t j = 0; j < r; j += VW) {
        const int64_t width = r - j < VW ? r - j : VW;
        const vf s = LOAD_PART(z + j, width);
        for (int64_t c = j; c < cols; c += r) {
            const int64_t n = cols - c < width ? cols - c : width;
            if (n == VW) STORE(y + c, LOAD(y + c) + s);
            else STORE_PART(y + c, LOAD_PART(y + c, n) + s, n);
        }
    }
}

static void NAME(add)(double a, const void *px, const void *py, void *pz, int64_t n)
{
    const T *x = px, *y = py;
    T *z = pz;
    vf va = vset((float)a);
    LOOP(n, OUT(z, IN(x) + va * IN(y)););
}

static void NAME(combine)(syi_combination op, double a, const void *px, const void *py, const void *pw, bool add, void *pz, int64_t n)
{
    const T *x = px, *y = py, *w = pw;
    T *z = pz;
    vf va = vset((float)a);
#define EACH(expression)                                             \
    if (add) LOOP(n, OUT(z, IN(z) + va * (expression)););            \
    else LOOP(n, OUT(z, va * (expression)););
    switch (op) {
    case SYI_MUL: EACH(IN(x) * IN(y)) break;
    case SYI_DIV: EACH(IN(x) / IN(y)) break;
    case SYI_MULDIV: EACH(IN(x) * IN(y) / IN(w)) break;
    case SYI_SQRT: EACH(vsqrt(IN(x))) break;
    }
#undef EACH
}

static void NAME(scale_cols)(const void *px, const void *ps, bool add, void *py, int64_t rows, int64_t cols)
{
    const float *s = ps;
    for (int64_t r = 0; r < rows; r++) {
        const T *x = (const T *)px + r * cols;
        T *y = (T *)py + r * cols;
        if (add) LOOP(cols, OUT(y, IN(y) + IN(x) * INF(s)););
        else LOOP(cols, OUT(y, IN(x) * INF(s)););
    }
}

static void NAME(add_bias)(const void *pb, void *py, int64_t rows, int64_t cols)
{
    const float *b = pb;
    for (int64_t r = 0; r < rows; r++) {
        T *y = (T *)py + r * cols;
        LOOP(cols, OUT(y, IN(y) + INF(b)););
    }
}

static void NAME(col_sums)(const void *px, const void *py, void *psum, int64_t rows, int64_t cols)
{
    float *sum = psum;
    memset(sum, 0, (size_t)cols * sizeof *sum);
    for (int64_t r = 0; r < rows; r++) {
        const T *x = (const T *)px + r * cols;
        if (py != NULL) {
            const T *y = (const T *)py + r * cols;
            LOOP(cols, OUTF(sum, INF(sum) + IN(x) * IN(y)););
        } else {
            LOOP(cols, OUTF(sum, INF(sum) + IN(x)););
        }
    }
}

static void NAME(dropout)(const float *u, double p, const void *px, bool add, void *py, int64_t n)
{
    const T *x = px;
    T *y = py;
    vf vp = vset((float)p), keep = vset((float)(1 / (1 - p))), zero = vset(0);
    if (add) LOOP(n, OUT(y, IN(y) + vselect(INF(u) >= vp, IN(x) * keep, zero)););
    else LOOP(n, OUT(y, vselect(INF(u) >= vp, IN(x) * keep, zero)););
}

static void NAME(rmsnorm)(const void *px, const void *pw, double eps, void *py, void *prstd, int64_t rows, int64_t cols)
{
    const float *w = pw;
    float *rstd = prstd;
    for (int64_t r = 0; r < rows; r++) {
        const T *x = (const T *)px + r * cols;
        T *y = (T *)py + r * cols;
        vf sum = vset(0);
        LOOP(cols, vf v = IN(x); sum += v * v;);
        float s = 1.0f / __builtin_sqrtf(vsum(sum) / (float)cols + (float)eps);
        if (rstd != NULL) rstd[r] = s;
        vf vs = vset(s);
        LOOP(cols, OUT(y, IN(x) * vs * INF(w)););
    }
}

static void NAME(rmsnorm_grad)(const void *pdy, const void *px, const void *pw, const void *prstd, bool add, void *pdx, void *pdw,
                               int64_t rows, int64_t cols)
{
    const float *w = pw, *rstd = prstd;
    float *dw = pdw;
    if (dw != NULL) memset(dw, 0, (size_t)cols * sizeof *dw);
    for (int64_t r = 0; r < rows; r++) {
        const T *x = (const T *)px + r * cols, *dy = (const T *)pdy + r * cols;
        vf s = vset(rstd[r]), sum = vset(0);
        if (dw != NULL) LOOP(cols, vf d = IN(dy) * (IN(x) * s); sum += d * INF(w); OUTF(dw, INF(dw) + d););
        else LOOP(cols, sum += IN(dy) * INF(w) * (IN(x) * s););
        if (pdx == NULL) continue;
        T *dx = (T *)pdx + r * cols;
        vf mean = vset(vsum(sum) / (float)cols);
        if (add) LOOP(cols, OUT(dx, IN(dx) + s * (IN(dy) * INF(w) - IN(x) * s * mean)););
        else LOOP(cols, OUT(dx, s * (IN(dy) * INF(w) - IN(x) * s * mean)););
    }
}

static void NAME(swiglu)(const void *pg, const void *pu, void *py, int64_t n)
{
    const T *g = pg, *u = pu;
    T *y = py;
    LOOP(n, vf v = IN(g); OUT(y, v * IN(u) * LOGISTIC(v)););
}

static void NAME(swiglu_grad)(const void *pdy, const void *pg, const void *pu, bool add_gate, void *pdg, bool add_up, void *pdu, int64_t n)
{
    const T *dy = pdy, *g = pg, *u = pu;
    T *dg = pdg, *du = pdu;
    vf one = vset(1), zero = vset(0);
    LOOP(n,
        vf v = IN(g); vf d = IN(dy); vf s = LOGISTIC(v); vf silu = v * s;
        if (dg != NULL) OUT(dg, (add_gate ? IN(dg) : zero) + d * IN(u) * (s + silu * (one - s)));
        if (du != NULL) OUT(du, (add_up ? IN(du) : zero) + d * silu););
}

/* y = f(x) (* u), and its gradients by f's derivative. */
#define ACT_LOOP(kind_)                                                                                   \
    case kind_:                                                                                           \
        if (u != NULL) LOOP(n, vf d; vf f = vact(kind_, IN(x), &d); OUT(y, f * IN(u)););                  \
        else LOOP(n, vf d; vf f = vact(kind_, IN(x), &d); OUT(y, f););                                    \
        break;
static void NAME(act)(syi_act kind, const void *px, const void *pu, void *py, int64_t n)
{
    const T *x = px, *u = pu;
    T *y = py;
    switch (kind) { SYI_ACT_EACH(ACT_LOOP) }
}
#undef ACT_LOOP

#define ACT_LOOP(kind_)                                                                                   \
    case kind_:                                                                                           \
        LOOP(n, vf d; vf f = vact(kind_, IN(x), &d); vf g = IN(dy);                                       \
             if (dx != NULL) OUT(dx, (add_x ? IN(dx) : zero) + (u != NULL ? g * IN(u) * d : g * d));      \
             if (du != NULL) OUT(du, (add_u ? IN(du) : zero) + g * f););                                  \
        break;
static void NAME(act_grad)(syi_act kind, const void *pdy, const void *px, const void *pu, bool add_x, void *pdx, bool add_u, void *pdu, int64_t n)
{
    const T *dy = pdy, *x = px, *u = pu;
    T *dx = pdx, *du = pdu;
    const vf zero = vset(0);
    switch (kind) { SYI_ACT_EACH(ACT_LOOP) }
}
#undef ACT_LOOP

static void NAME(layernorm)(const void *px, const void *pw, const void *pb, double eps, void *py, void *pmean, void *prstd, int64_t rows, int64_t cols)
{
    const float *w = pw, *b = pb;
    float *means = pmean, *rstd = prstd;
    for (int64_t r = 0; r < rows; r++) {
        const T *x = (const T *)px + r * cols;
        T *y = (T *)py + r * cols;
        vf sum = vset(0), square = vset(0);
        LOOP(cols, sum += IN(x););
        const float m = vsum(sum) / (float)cols;
        const vf vm = vset(m);
        int64_t k = 0; /* lanes beyond the row would count (0 - mean)^2 */
        for (; k + VW <= cols; k += VW) square += (LOAD(x + k) - vm) * (LOAD(x + k) - vm);
        float tail = 0;
        for (; k < cols; k++) {
            float v;
            vstore_f32_part(&v, LOAD_PART(x + k, 1), 1);
            tail += (v - m) * (v - m);
        }
        const float s = 1.0f / __builtin_sqrtf((vsum(square) + tail) / (float)cols + (float)eps);
        if (means != NULL) means[r] = m;
        if (rstd != NULL) rstd[r] = s;
        const vf vs = vset(s);
        if (b != NULL) LOOP(cols, OUT(y, (IN(x) - vm) * vs * INF(w) + INF(b)););
        else LOOP(cols, OUT(y, (IN(x) - vm) * vs * INF(w)););
    }
}

static void NAME(layernorm_grad)(const void *pdy, const void *px, const void *pw, const void *pmean, const void *prstd, bool add, void *pdx,
                                 void *pdw, void *pdb, int64_t rows, int64_t cols)
{
    const float *w = pw, *means = pmean, *rstd = prstd;
    float *dw = pdw, *db = pdb;
    if (dw != NULL) memset(dw, 0, (size_t)cols * sizeof *dw);
    if (db != NULL) memset(db, 0, (size_t)cols * sizeof *db);
    for (int64_t r = 0; r < rows; r++) {
        const T *x = (const T *)px + r * cols, *dy = (const T *)pdy + r * cols;
        const vf s = vset(rstd[r]), m = vset(means[r]);
        vf sum = vset(0), dot = vset(0);
        LOOP(cols, vf d = IN(dy); vf h = (IN(x) - m) * s; vf g = d * INF(w); sum += g; dot += g * h;
             if (dw != NULL) OUTF(dw, INF(dw) + d * h);
             if (db != NULL) OUTF(db, INF(db) + d););
        if (pdx == NULL) continue;
        T *dx = (T *)pdx + r * cols;
        const vf a = vset(vsum(sum) / (float)cols), c = vset(vsum(dot) / (float)cols), zero = vset(0);
        LOOP(cols, OUT(dx, (add ? IN(dx) : zero) + s * (IN(dy) * INF(w) - a - (IN(x) - m) * s * c)););
    }
}

static void NAME(rope)(const void *px, const int32_t *pos, const void *pc, const void *ps, bool inverse, bool add, void *py,
                       int64_t tokens, int64_t heads, int64_t dim)
{
    int64_t half = dim / 2;
    vf sign = vset(inverse ? -1.0f : 1.0f);
    for (int64_t t = 0; t < tokens; t++) {
        const float *c = (const float *)pc + pos[t] * half, *s = (const float *)ps + pos[t] * half;
        for (int64_t h = 0; h < heads; h++) {
            const T *x = (const T *)px + (t * heads + h) * dim, *x2 = x + half;
            T *y = (T *)py + (t * heads + h) * dim, *y2 = y + half;
            if (add)
                LOOP(half, vf a = IN(x); vf b = IN(x2); vf vc = INF(c); vf vs = INF(s) * sign;
                     OUT(y, IN(y) + (a * vc - b * vs)); OUT(y2, IN(y2) + (b * vc + a * vs)););
            else
                LOOP(half, vf a = IN(x); vf b = IN(x2); vf vc = INF(c); vf vs = INF(s) * sign;
                     OUT(y, a * vc - b * vs); OUT(y2, b * vc + a * vs););
        }
    }
}

/* Sixteen sums in f64 whatever the vectors' width, added pairwise: equal bits on
 * every path. */
static double NAME(dot)(const void *px, const void *py, int64_t n)
{
    const T *x = px, *y = py;
    double sum[16] = {0};
    float a[16], b[16];
    for (int64_t i = 0; i < n; i += 16) {
        if (i + 16 <= n) {
            for (int j = 0; j < 16; j += VW) {
                vstore_f32(a + j, LOAD(x + i + j));
                vstore_f32(b + j, y != NULL ? LOAD(y + i + j) : vset(1));
            }
        } else {
            for (int j = 0; j < 16; j++) a[j] = b[j] = 0;
            for (int64_t j = 0; i + j < n; j++) {
                vstore_f32_part(a + j, LOAD_PART(x + i + j, 1), 1);
                b[j] = 1;
                if (y != NULL) vstore_f32_part(b + j, LOAD_PART(y + i + j, 1), 1);
            }
        }
        for (int j = 0; j < 16; j++) sum[j] += (double)a[j] * (double)b[j];
    }
    for (int m = 8; m > 0; m /= 2)
        for (int j = 0; j < m; j++) sum[j] += sum[j + m];
    return sum[0];
}

#undef LOOP
#undef IN
#undef OUT
#undef INF
#undef OUTF
