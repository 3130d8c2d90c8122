/* SPDX-License-Identifier: Apache-2.0 */
/* Tiled attention gradients in one pass of five products. Keys stand along the
 * lanes: a block of LN keys holds its dK and dV (transposed) while all query rows
 * that see it go by; the weights are made again from lse. dQ is summed in f32
 * rows. The work is cut into items (segment, key head, range of keys); an item has
 * its own dQ rows, and these are added in the order of the ranges at the end, so
 * that no sum depends on which thread did what. Included by attention_X.c after
 * attention_tile.h. */
#ifndef SYI_ATTENTION_BACKWARD_H
#define SYI_ATTENTION_BACKWARD_H

enum {
    TILE_ROWS = 48, /* query rows whose weights are made before dK and dV take them */
    RANGES_MAX = 4, /* of keys, a segment: each costs dQ rows of its own */
    ITEMS = 12,     /* wanted: enough for a few threads, whatever the documents are */
    NQ = VW == 8 ? 2 : 4, MQ = 4 /* register tile of the dQ product: rows of width */
};

/* Keys k0..k1-1 of segment `seg`, counted from its first, and the query rows
 * r0..r1-1 that may see them; dq[key head] at dq + key head * rows of all ranges. */
typedef struct { int64_t seg, k0, k1, r0, r1, dq; } range;

typedef struct {
    plan p;
    int64_t n_range, rows, dq_rows; /* packed query rows, dQ rows, of one key head */
    range *ranges;
    int64_t *first_range, *row_pack; /* [n_seg + 1]: a segment's ranges and packed rows begin here */
    int32_t *order;                  /* [n_range], the longest first */
    word *q, *dout;                  /* panels of MR rows, [kv_heads][rows][words] */
    word *q_pairs, *dout_pairs;      /* pairs of rows, [kv_heads][rows / PER][width] */
    float *lse, *delta;              /* [kv_heads][rows], lse in units of log 2 */
    float *dq;                       /* [kv_heads][dq_rows][width] */
} backward_plan;

/* How many of the pieces [n] of the scratch need how many bytes; all from sizes
 * alone, whatever the documents are. */
enum { S_SEGMENTS, S_RANGES, S_FIRST, S_PACK, S_ORDER, S_Q, S_DOUT, S_QPAIRS, S_DOUTPAIRS, S_LSE, S_DELTA, S_DQ, S_COUNT };

static int64_t ranges_max(int64_t n)
{
    return segments_max(n) + ITEMS * RANGES_MAX;
}

static void lay_out_backward(const syi_attend *a, int64_t at[S_COUNT + 1])
{
    const int64_t width = syi_ceil_div(a->dim, 16) * 16, n_seg = segments_max(a->n) + 1, group = a->heads / a->kv_heads;
    const int64_t rows = a->n * group + GRAIN * n_seg, packed = a->kv_heads * rows * width / PER * 4;
    /* Ranges of equal area under the diagonal: the c-th of n sees sqrt(1 - c/n) of
     * the rows, 3.07 times in all for RANGES_MAX = 4, and begins up to LN keys early. */
    const int64_t dq_rows = rows * 31 / 10 + (LN * group + GRAIN) * ITEMS * RANGES_MAX;
    const int64_t bytes[S_COUNT] = {
        [S_SEGMENTS] = n_seg * (int64_t)sizeof(segment), [S_RANGES] = ranges_max(a->n) * (int64_t)sizeof(range),
        [S_FIRST] = n_seg * 8, [S_PACK] = n_seg * 8, [S_ORDER] = ranges_max(a->n) * 4, [S_Q] = packed, [S_DOUT] = packed,
        [S_QPAIRS] = packed, [S_DOUTPAIRS] = packed, [S_LSE] = a->kv_heads * rows * 4, [S_DELTA] = a->kv_heads * rows * 4,
        [S_DQ] = a->kv_heads * dq_rows * width * 4,
    };
    at[0] = 0;
    for (int i = 0; i < S_COUNT; i++) at[i + 1] = at[i] + padded(bytes[i]);
}

static int64_t tile_scratch_backward(const syi_attend *a)
{
    int64_t at[S_COUNT + 1];
    lay_out_backward(a, at);
    return at[S_COUNT];
}

/* The last query of segment s (from its first) that sees key x or an earlier one. */
static int64_t last_query(const plan *p, const segment *s, int64_t x)
{
    int64_t lo = x, hi = s->q1 - s->q0;
    while (hi - lo > 1) {
        int64_t mid = (lo + hi) / 2;
        if (syi_attend_lo(p->a, s->q0 + mid) - s->k0 <= x) lo = mid;
        else hi = mid;
    }
    return lo;
}

static backward_plan plan_backward(const syi_attend *a)
{
    int64_t at[S_COUNT + 1];
    lay_out_backward(a, at);
    char *m = a->scratch;
    backward_plan f = {.p = make_plan(a, (segment *)(void *)(m + at[S_SEGMENTS])), .ranges = (range *)(void *)(m + at[S_RANGES]),
                       .first_range = (int64_t *)(void *)(m + at[S_FIRST]), .row_pack = (int64_t *)(void *)(m + at[S_PACK]),
                       .order = (int32_t *)(void *)(m + at[S_ORDER]), .q = (word *)(void *)(m + at[S_Q]),
                       .dout = (word *)(void *)(m + at[S_DOUT]), .q_pairs = (word *)(void *)(m + at[S_QPAIRS]),
                       .dout_pairs = (word *)(void *)(m + at[S_DOUTPAIRS]), .lse = (float *)(void *)(m + at[S_LSE]),
                       .delta = (float *)(void *)(m + at[S_DELTA]), .dq = (float *)(void *)(m + at[S_DQ])};
    const plan *p = &f.p;
    double total = 0;
    for (int64_t s = 0; s < p->n_seg; s++) total += (double)(p->seg[s].q1 - p->seg[s].q0) * (double)(p->seg[s].q1 - p->seg[s].q0);
    for (int64_t s = 0; s < p->n_seg; s++) {
        const segment *seg = &p->seg[s];
        const int64_t len = seg->q1 - seg->q0;
        double want = ceil(ITEMS * (double)len * (double)len / total / (double)a->kv_heads - 1e-9);
        const int64_t n = want < 1 ? 1 : want > RANGES_MAX ? RANGES_MAX : (int64_t)want;
        f.first_range[s] = f.n_range, f.row_pack[s] = f.rows;
        for (int64_t c = 0, from = 0; c < n; c++) {
            int64_t to = c + 1 == n ? len : (int64_t)((double)len * (1 - sqrt(1 - (double)(c + 1) / (double)n))) / LN * LN;
            if (to <= from) continue;
            range *r = &f.ranges[f.n_range++];
            *r = (range){.seg = s, .k0 = from, .k1 = to, .dq = f.dq_rows};
            r->r0 = from * p->group / GRAIN * GRAIN;
            r->r1 = syi_ceil_div((last_query(p, seg, to - 1) + 1) * p->group, GRAIN) * GRAIN;
            f.dq_rows += r->r1 - r->r0;
            from = to;
        }
        f.rows += syi_ceil_div(len * p->group, GRAIN) * GRAIN;
    }
    f.first_range[p->n_seg] = f.n_range, f.row_pack[p->n_seg] = f.rows;
    int64_t n = 0;
    for (int bits = 62; bits >= 0; bits--)
        for (int64_t i = 0; i < f.n_range; i++) {
            const int64_t area = (f.ranges[i].k1 - f.ranges[i].k0) * (f.ranges[i].r1 - f.ranges[i].r0);
            if (area >> bits == 1) f.order[n++] = (int32_t)i;
        }
    return f;
}

static float row_dot(sy_dtype dt, const void *x, const void *y, int64_t d)
{
    vf sum = vset(0);
    int64_t i = 0;
    for (; i + VW <= d; i += VW)
        sum = sum + (dt == SY_F32 ? vload_f32((const float *)x + i) * vload_f32((const float *)y + i)
                                  : vload_bf16((const bf16 *)x + i) * vload_bf16((const bf16 *)y + i));
    float rest = 0;
    for (; i < d; i++)
        rest += dt == SY_F32 ? ((const float *)x)[i] * ((const float *)y)[i]
                             : syi_bf16_get(((const uint16_t *)x)[i]) * syi_bf16_get(((const uint16_t *)y)[i]);
    return vsum(sum) + rest;
}

/* Packs rows of segment s for key head j. */
static void pack_queries(const backward_plan *f, int64_t s, int64_t j)
{
    const plan *p = &f->p;
    const syi_attend *a = p->a;
    const segment *seg = &p->seg[s];
    const int64_t rows = (seg->q1 - seg->q0) * p->group, size = item_size(a->dt), base = j * f->rows + f->row_pack[s];
    for (int64_t r = 0; r < f->row_pack[s + 1] - f->row_pack[s]; r += MR) {
        const void *q[MR], *dout[MR];
        for (int m = 0; m < MR; m++) {
            const bool there = r + m < rows;
            const int64_t at = there ? row_at(p, seg, j, r + m) * size : 0, i = seg->q0 + (r + m) / p->group, h = j * p->group + (r + m) % p->group;
            q[m] = there ? (const char *)a->q + at : NULL;
            dout[m] = there ? (const char *)a->dout + at : NULL;
            /* a row that is not there gets weights of 2^-126 and products with 0 */
            f->lse[base + r + m] = there ? ((const float *)a->lse)[h * a->n + i] * 1.44269504088896341f : 1e30f;
            f->delta[base + r + m] = there ? row_dot(a->dt, dout[m], (const char *)a->out + at, a->dim) : 0;
        }
        pack_panel(p, q, f->q + (base + r) * p->words);
        pack_panel(p, dout, f->dout + (base + r) * p->words);
        for (int m = 0; m < MR; m += PER) {
            pack_pairs(p, q + m, f->q_pairs + (base + r + m) / PER * p->width);
            pack_pairs(p, dout + m, f->dout_pairs + (base + r + m) / PER * p->width);
        }
    }
}

/* A block of LN keys and what is summed for it. */
typedef struct {
    word k[SYI_ATTENTION_TILE_DIM * LN], v[SYI_ATTENTION_TILE_DIM * LN]; /* [words][LN] */
    word k_pairs[LN / PER * SYI_ATTENTION_TILE_DIM];                     /* [LN / PER][width] */
    float dk[SYI_ATTENTION_TILE_DIM * LN], dv[SYI_ATTENTION_TILE_DIM * LN]; /* [width][LN] */
    word w[TILE_ROWS / PER * LN], ds[TILE_ROWS / PER * LN];              /* pairs of rows, [TILE_ROWS / PER][LN] */
    word ds_rows[TILE_ROWS * LN / PER];                                  /* pairs of keys, [TILE_ROWS][LN / PER] */
    word rows[LN][SYI_ATTENTION_TILE_DIM];
} key_block;

/* Weights and score gradients of MR rows and nv vectors of keys; lanes up to all
 * vectors that the tile's products take are filled with zeros. */
INLINE void row_block(const int nv, int all, const plan *p, const word *q, const word *dout, const float *lse, const float *delta,
                      const int32_t *lo, const int32_t *hi, int32_t x0, bool masked, key_block *b, int64_t row)
{
    const vf scale = vset((float)(p->a->scale * 1.44269504088896341));
    vf acc[MR][NV];
    float w[MR * LN];
    UNROLL for (int m = 0; m < MR; m++)
        UNROLL for (int n = 0; n < nv; n++) acc[m][n] = vset(0);
    multiply(MR, nv, p->words, q, 1, MR, b->k, LN, acc);
    UNROLL for (int m = 0; m < MR; m++) {
        const vf shift = vset(lse[m]);
        UNROLL for (int n = 0; n < nv; n++) acc[m][n] = vexp2(acc[m][n] * scale - shift);
    }
    if (masked) {
        vi lane;
        for (int i = 0; i < VW; i++) lane[i] = x0 + i;
        UNROLL for (int m = 0; m < MR; m++)
            UNROLL for (int n = 0; n < nv; n++) {
                vi key = lane + n * VW;
                acc[m][n] = vselect((vi)(key >= lo[m]) & (vi)(key <= hi[m]), acc[m][n], vset(0));
            }
    }
    UNROLL for (int m = 0; m < MR; m += PER)
        UNROLL for (int n = 0; n < nv; n++) {
            vstore_f32(w + m * LN + n * VW, acc[m][n]);
            if (PER == 2) vstore_f32(w + (m + PER - 1) * LN + n * VW, acc[m + PER - 1][n]);
            wstore(b->w + (row + m) / PER * LN + n * VW, pair_up(acc[m][n], acc[m + PER - 1][n]));
        }
    UNROLL for (int m = 0; m < MR; m++)
        UNROLL for (int n = 0; n < nv; n++) acc[m][n] = vset(0);
    multiply(MR, nv, p->words, dout, 1, MR, b->v, LN, acc);
    UNROLL for (int m = 0; m < MR; m++) {
        const vf own = vset(delta[m]);
        UNROLL for (int n = 0; n < nv; n++) {
            acc[m][n] = vload_f32(w + m * LN + n * VW) * (acc[m][n] - own);
#if TILE_PAIRS
            vstore_bf16((bf16 *)(void *)(b->ds_rows + (row + m) * LN / 2) + n * VW, acc[m][n]);
#endif
        }
    }
    UNROLL for (int m = 0; m < MR; m += PER)
        UNROLL for (int n = 0; n < nv; n++)
            wstore(b->ds + (row + m) / PER * LN + n * VW, pair_up(acc[m][n], acc[m + PER - 1][n]));
    for (int n = nv; n < all; n++)
        for (int m = 0; m < MR; m += PER) {
            wstore(b->w + (row + m) / PER * LN + n * VW, vset(0));
            wstore(b->ds + (row + m) / PER * LN + n * VW, vset(0));
        }
}

/* dq[row][width] += ds[row][keys] K for MR rows, nv vectors of width. */
INLINE void add_dq_part(const int nv, const plan *p, const word *ds, const word *k_pairs, int64_t depth, float *dq)
{
    for (int r = 0; r < MR; r += MQ) {
        vf acc[MQ][NQ];
        UNROLL for (int m = 0; m < MQ; m++)
            UNROLL for (int n = 0; n < nv; n++) acc[m][n] = vload_f32(dq + (r + m) * p->width + n * VW);
        for (int64_t d = 0; d < depth; d++) {
            vf x[NQ];
            UNROLL for (int n = 0; n < nv; n++) x[n] = wload(k_pairs + d * p->width + n * VW);
            UNROLL for (int m = 0; m < MQ; m++) {
                vf y = wset(ds + (r + m) * (LN / PER) + d);
                UNROLL for (int n = 0; n < nv; n++) acc[m][n] = dot(acc[m][n], y, x[n]);
            }
        }
        UNROLL for (int m = 0; m < MQ; m++)
            UNROLL for (int n = 0; n < nv; n++) vstore_f32(dq + (r + m) * p->width + n * VW, acc[m][n]);
    }
}

static void add_dq(const plan *p, const word *ds, const word *k_pairs, int64_t depth, float *dq)
{
    int64_t c = 0;
    for (; c + NQ * VW <= p->width; c += NQ * VW) add_dq_part(NQ, p, ds, k_pairs + c, depth, dq + c);
    for (; c < p->width; c += VW) add_dq_part(1, p, ds, k_pairs + c, depth, dq + c);
}

/* All rows r0..r1-1 (multiples of MR) of a tile against one block of keys x0... */
static void row_tile(const backward_plan *f, const segment *s, int64_t base, int64_t r0, int64_t r1, int64_t x0, int most, float *dq, key_block *b)
{
    const plan *p = &f->p;
    const int64_t last = s->q1 - s->q0 - 1;
    const int all = (int)syi_min(most, syi_min(syi_min((r1 - 1) / p->group, last) - x0, LN - 1) / VW + 1);
    for (int64_t r = r0; r < r1; r += MR) {
        const int64_t i0 = r / p->group, i1 = syi_min((r + MR - 1) / p->group, last);
        if (i1 < x0) { /* rows that only fill up the first MR */
            for (int m = 0; m < MR / PER * all; m++) {
                wstore(b->w + ((r - r0) / PER + m / all) * LN + m % all * VW, vset(0));
                wstore(b->ds + ((r - r0) / PER + m / all) * LN + m % all * VW, vset(0));
            }
            continue;
        }
        const int nv = (int)syi_min(all, (i1 - x0) / VW + 1);
        const bool masked = i0 < x0 + nv * VW - 1 || syi_attend_lo(p->a, s->q0 + i1) - s->k0 > x0;
        int32_t lo[MR], hi[MR];
        for (int m = 0; masked && m < MR; m++) {
            const int64_t i = syi_min((r + m) / p->group, last);
            lo[m] = (int32_t)(syi_attend_lo(p->a, s->q0 + i) - s->k0), hi[m] = (int32_t)i;
        }
        const word *q = f->q + (base + r) * p->words, *dout = f->dout + (base + r) * p->words;
        const float *lse = f->lse + base + r, *delta = f->delta + base + r;
        if (nv == 1) row_block(1, all, p, q, dout, lse, delta, lo, hi, (int32_t)x0, masked, b, r - r0);
        else if (nv == 2) row_block(2, all, p, q, dout, lse, delta, lo, hi, (int32_t)x0, masked, b, r - r0);
        else row_block(3, all, p, q, dout, lse, delta, lo, hi, (int32_t)x0, masked, b, r - r0);
        if (p->a->dq)
            add_dq(p, PER == 2 ? b->ds_rows + (r - r0) * (LN / PER) : b->ds + (r - r0) * LN, b->k_pairs, nv * VW / PER,
                   dq + (r - r0) * p->width);
    }
    const int64_t depth = (r1 - r0) / PER;
    const word *qp = f->q_pairs + (base + r0) / PER * p->width, *dp = f->dout_pairs + (base + r0) / PER * p->width;
    if (all == 1) {
        accumulate(1, p->width, depth, dp, 1, p->width, b->w, LN, b->dv, LN);
        accumulate(1, p->width, depth, qp, 1, p->width, b->ds, LN, b->dk, LN);
    } else if (all == 2) {
        accumulate(2, p->width, depth, dp, 1, p->width, b->w, LN, b->dv, LN);
        accumulate(2, p->width, depth, qp, 1, p->width, b->ds, LN, b->dk, LN);
    } else {
        accumulate(3, p->width, depth, dp, 1, p->width, b->w, LN, b->dv, LN);
        accumulate(3, p->width, depth, qp, 1, p->width, b->ds, LN, b->dk, LN);
    }
}

/* dk or dv [width][LN] of n keys from x0 on into the rows of the result. */
static void store_keys(const plan *p, const segment *s, int64_t j, int64_t x0, int64_t n, float *sums, float scale, bool add, void *to, key_block *b)
{
    const syi_attend *a = p->a;
    if (!to) return;
    for (int64_t i = 0; i < p->width * LN; i += VW) vstore_f32(sums + i, vload_f32(sums + i) * vset(scale));
    transpose((int)p->width, LN, (const word *)(const void *)sums, LN, b->rows[0], SYI_ATTENTION_TILE_DIM);
    for (int64_t x = 0; x < n; x++)
        row_store(a->dt, (const float *)(const void *)b->rows[x], a->dim, add,
                  (char *)to + ((s->k0 + x0 + x) * a->k_token + j * a->k_head) * item_size(a->dt));
}

static void run_range(const backward_plan *f, const range *g, int64_t j, key_block *b)
{
    const plan *p = &f->p;
    const syi_attend *a = p->a;
    const segment *s = &p->seg[g->seg];
    const int64_t base = j * f->rows + f->row_pack[g->seg], size = item_size(a->dt);
    float *dq = f->dq + (j * f->dq_rows + g->dq) * p->width;
    if (a->dq) memset(dq, 0, (size_t)((g->r1 - g->r0) * p->width) * sizeof *dq);
    for (int64_t x0 = g->k0; x0 < g->k1; x0 += LN) {
        const int64_t n = syi_min(LN, g->k1 - x0);
        const void *ks[LN];
        for (int64_t x = 0; x < LN; x++) { /* lanes without a key repeat the last and are masked */
            const int64_t at = ((s->k0 + x0 + syi_min(x, n - 1)) * a->k_token + j * a->k_head) * size;
            ks[x] = (const char *)a->k + at;
            row_words(a->dt, (const char *)a->v + at, a->dim, b->rows[x], p->words);
        }
        transpose(LN, (int)p->words, b->rows[0], SYI_ATTENTION_TILE_DIM, b->v, LN);
        for (int64_t x = 0; x < LN; x++) row_words(a->dt, ks[x], a->dim, b->rows[x], p->words);
        transpose(LN, (int)p->words, b->rows[0], SYI_ATTENTION_TILE_DIM, b->k, LN);
        for (int64_t x = 0; x < LN; x += PER) pack_pairs(p, ks + x, b->k_pairs + x / PER * p->width);
        memset(b->dk, 0, (size_t)(p->width * LN) * sizeof *b->dk);
        memset(b->dv, 0, (size_t)(p->width * LN) * sizeof *b->dv);

        const int64_t begin = x0 * p->group / MR * MR;
        const int64_t end = syi_ceil_div((last_query(p, s, x0 + n - 1) + 1) * p->group, MR) * MR;
        const int most = (int)syi_ceil_div(n, VW);
        for (int64_t r = begin; r < end; r += TILE_ROWS)
            row_tile(f, s, base, r, syi_min(r + TILE_ROWS, end), x0, most, dq + (r - g->r0) * p->width, b);
        store_keys(p, s, j, x0, n, b->dk, (float)a->scale, a->add_k, a->dk, b);
        store_keys(p, s, j, x0, n, b->dv, 1, a->add_v, a->dv, b);
    }
}

/* dQ of all heads of one query: the ranges' rows added in their order. */
static void store_query(const backward_plan *f, int64_t s, int64_t i)
{
    const plan *p = &f->p;
    const syi_attend *a = p->a;
    const segment *seg = &p->seg[s];
    for (int64_t h = 0; h < a->heads; h++) {
        const int64_t j = h / p->group, r = i * p->group + h % p->group;
        float row[SYI_ATTENTION_TILE_DIM] = {0};
        for (int64_t x = f->first_range[s]; x < f->first_range[s + 1]; x++) {
            const range *g = &f->ranges[x];
            if (r < g->r0 || r >= g->r1) continue;
            const float *part = f->dq + (j * f->dq_rows + g->dq + r - g->r0) * p->width;
            for (int64_t c = 0; c < p->width; c += VW) vstore_f32(row + c, vload_f32(row + c) + vload_f32(part + c));
        }
        for (int64_t c = 0; c < p->width; c += VW) vstore_f32(row + c, vload_f32(row + c) * vset((float)a->scale));
        row_store(a->dt, row, a->dim, a->add_q, (char *)a->dq + row_at(p, seg, j, r) * item_size(a->dt));
    }
}

static void tile_backward(const syi_attend *a)
{
    const backward_plan f = plan_backward(a);
    const plan *p = &f.p;
#pragma omp parallel num_threads(a->threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < p->n_seg * a->kv_heads; i++) pack_queries(&f, i / a->kv_heads, i % a->kv_heads);
        key_block b;
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < f.n_range * a->kv_heads; i++)
            run_range(&f, &f.ranges[f.order[i / a->kv_heads]], i % a->kv_heads, &b);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < (a->dq ? syi_ceil_div(a->n, 16) : 0); i++)
            for (int64_t t = i * 16, s = segment_of_query(p, t); t < syi_min(i * 16 + 16, a->n); t++) {
                while (p->seg[s].q1 <= t) s++;
                store_query(&f, s, t - p->seg[s].q0);
            }
    }
}

#endif
