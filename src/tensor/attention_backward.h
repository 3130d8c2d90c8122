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
    TILE_ROWS = 96, /* query rows whose weights are made before dK and dV take them */
    SMALL_ROWS = 48,
    PACK_ROWS = 64, /* that a thread packs at a time */
    RANGES_MAX = 4, /* of keys, a segment: each costs dQ rows of its own */
    ITEMS = 12,     /* wanted: enough for a few threads, whatever the documents are */
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
    const int64_t width = padded_width(a->dim), n_seg = segments_max(a->n) + 1, group = a->heads / a->kv_heads;
    const int64_t rows = a->n * group + GRAIN * n_seg, packed = a->kv_heads * rows * width / PER * 4;
    /* Ranges of equal area under the diagonal: the c-th of n sees sqrt(1 - c/n) of
     * the rows, 3.07 times in all for RANGES_MAX = 4, and begins up to LN keys early. */
    const int64_t dq_rows = (a->last ? rows * RANGES_MAX : rows * 31 / 10) + (LN * group + GRAIN) * ITEMS * RANGES_MAX;
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

/* The first query of segment s (from its first) that sees key x or a later one; the last that
 * sees x or an earlier one. */
static int64_t first_query(const plan *p, const segment *s, int64_t x)
{
    return p->a->last ? syi_attend_lo(p->a, s->q0 + x) - s->k0 : x;
}

static int64_t last_query(const plan *p, const segment *s, int64_t x)
{
    if (p->a->last) return p->a->last[s->q0 + x] - s->k0;
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
            const double part = (double)(c + 1) / (double)n; /* looking ahead too, each key is seen by all */
            int64_t to = c + 1 == n ? len : (int64_t)((double)len * (a->last ? part : 1 - sqrt(1 - part))) / LN * LN;
            if (to <= from) continue;
            range *r = &f.ranges[f.n_range++];
            *r = (range){.seg = s, .k0 = from, .k1 = to, .dq = f.dq_rows};
            r->r0 = first_query(p, seg, from) * p->group / GRAIN * GRAIN;
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
    return vtotal(sum) + rest;
}

/* Packs rows from..to-1 (of all packed rows) for key head j. */
static void pack_queries(const backward_plan *f, int64_t j, int64_t from, int64_t to)
{
    static const word zeros[SYI_ATTENTION_TILE_DIM];
    const plan *p = &f->p;
    const syi_attend *a = p->a;
    const int64_t size = item_size(a->dt), base = j * f->rows;
    word spare[2][GRAIN][SYI_ATTENTION_TILE_DIM];
    int64_t s = 0;
    for (int64_t hi = p->n_seg; hi - s > 1;) { /* the segment that holds row `from` */
        int64_t mid = (s + hi) / 2;
        if (f->row_pack[mid] <= from) s = mid;
        else hi = mid;
    }
    for (int64_t row = from; row < to; row += GRAIN) {
        while (f->row_pack[s + 1] <= row) s++;
        const segment *seg = &p->seg[s];
        const int64_t rows = (seg->q1 - seg->q0) * p->group;
        const word *q[GRAIN], *dout[GRAIN];
        for (int m = 0; m < GRAIN; m++) {
            const int64_t r = row - f->row_pack[s] + m;
            q[m] = dout[m] = zeros;
            /* a row that is not there gets weights of 2^-126 and products with 0 */
            f->lse[base + row + m] = 1e30f, f->delta[base + row + m] = 0;
            if (r >= rows) continue;
            const int64_t at = row_at(p, seg, j, r) * size, i = seg->q0 + r / p->group, h = j * p->group + r % p->group;
            q[m] = words_of(p, (const char *)a->q + at, spare[0][m]);
            dout[m] = words_of(p, (const char *)a->dout + at, spare[1][m]);
            f->lse[base + row + m] = ((const float *)a->lse)[h * a->n + i] * 1.44269504088896341f;
            f->delta[base + row + m] = row_dot(a->dt, (const char *)a->dout + at, (const char *)a->out + at, a->dim);
        }
        rows_to_panels(q, p->words, f->q + (base + row) * p->words);
        rows_to_panels(dout, p->words, f->dout + (base + row) * p->words);
        for (int m = 0; m < GRAIN; m += PER) {
            rows_to_pairs(q + m, p->width, f->q_pairs + (base + row + m) / PER * p->width);
            rows_to_pairs(dout + m, f->p.width, f->dout_pairs + (base + row + m) / PER * p->width);
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
    float x[TILE_ROWS * LN], dx[TILE_ROWS * LN];                         /* scores, gradients of weights */
    word spare[2][LN][SYI_ATTENTION_TILE_DIM];
} key_block;

/* Scores of MR rows become weights, their gradients those of the scores; both as
 * words for the products that take them. */
INLINE void row_block(int nv, float scale, const capping *cap, const float *lse, const float *delta, const int32_t *lo, const int32_t *hi, int32_t x0,
                      bool masked, key_block *b, int64_t row)
{
    vi lane;
    for (int i = 0; i < VW; i++) lane[i] = x0 + i;
    for (int n = 0; n < nv; n++, lane = lane + VW)
        UNROLL for (int m = 0; m < MR; m += 2) {
            vf w[2], ds[2];
            UNROLL for (int i = 0; i < 2; i++) {
                const int64_t at = (row + m + i) * LN + n * VW;
                vf x = vload_f32(b->x + at), slope = vset(1);
                if (cap->on) {
                    const vf t = vcap(x, cap->in);
                    slope = vset(1) - t * t;
                    x = t * vset(cap->out);
                }
                w[i] = vexp2(x * vset(scale) - vset(lse[m + i]));
                if (masked) w[i] = vselect((vi)(lane >= lo[m + i]) & (vi)(lane <= hi[m + i]), w[i], vset(0));
                ds[i] = w[i] * (vload_f32(b->dx + at) - vset(delta[m + i]));
                if (cap->on) ds[i] = ds[i] * slope;
#if TILE_PAIRS
                vstore_bf16((bf16 *)(void *)b->ds_rows + at, ds[i]);
#endif
            }
            const int64_t to = (row + m) / PER * LN + n * VW;
            wstore(b->w + to, pair_up(w[0], w[1]));
            wstore(b->ds + to, pair_up(ds[0], ds[1]));
            if (PER == 1) {
                wstore(b->w + to + LN, w[1]);
                wstore(b->ds + to + LN, ds[1]);
            }
        }
}

/* Rows r0..r1-1 (multiples of MR) against the block of keys x0... */
static void row_tile(const backward_plan *f, const segment *s, int64_t base, int64_t r0, int64_t r1, int64_t x0, int most, bool add, float *dq, key_block *b)
{
    const plan *p = &f->p;
    const int64_t last = s->q1 - s->q0 - 1, rows = r1 - r0, depth = rows / PER;
    const float scale = (float)(p->a->scale * 1.44269504088896341);
    const capping cap = capping_of(p->a);
    const int64_t most_seen = syi_attend_hi(p->a, s->q0 + syi_min((r1 - 1) / p->group, last)) - s->k0;
    const int nv = (int)syi_min(most, syi_min(most_seen - x0, LN - 1) / VW + 1); /* vectors that some row sees */
    product[nv](rows, p->words, f->q + (base + r0) * p->words, MR * p->words, MR, b->k, b->x);
    product[nv](rows, p->words, f->dout + (base + r0) * p->words, MR * p->words, MR, b->v, b->dx);
    for (int64_t r = r0; r < r1; r += MR) {
        const int64_t i0 = syi_min(r / p->group, last), i1 = syi_min((r + MR - 1) / p->group, last);
        const float *lse = f->lse + base + r, *delta = f->delta + base + r;
        if (syi_attend_hi(p->a, s->q0 + i0) - s->k0 >= x0 + nv * VW - 1 && syi_attend_lo(p->a, s->q0 + i1) - s->k0 <= x0) {
            row_block(nv, scale, &cap, lse, delta, NULL, NULL, 0, false, b, r - r0);
            continue;
        }
        int32_t lo[MR], hi[MR];
        for (int m = 0; m < MR; m++) {
            const int64_t i = syi_min((r + m) / p->group, last);
            lo[m] = (int32_t)(syi_attend_lo(p->a, s->q0 + i) - s->k0), hi[m] = (int32_t)(syi_attend_hi(p->a, s->q0 + i) - s->k0);
        }
        row_block(nv, scale, &cap, lse, delta, lo, hi, (int32_t)x0, true, b, r - r0);
    }
    product_add[nv](p->width, depth, f->dout_pairs + (base + r0) / PER * p->width, MR, p->width, b->w, b->dv);
    product_add[nv](p->width, depth, f->q_pairs + (base + r0) / PER * p->width, MR, p->width, b->ds, b->dk);
    if (!p->a->dq) return;
    rows_product(add, rows, p->width, nv * VW / PER, PER == 2 ? b->ds_rows : b->ds, LN / PER, b->k_pairs, dq);
}

/* dk or dv [width][LN] of n keys from x0 on into the rows of the result. */
static void store_keys(const plan *p, const segment *s, int64_t j, int64_t x0, int64_t n, float *sums, float scale, bool add, void *to, key_block *b)
{
    const syi_attend *a = p->a;
    if (!to) return;
    for (int64_t i = 0; i < p->width * LN; i += VW) vstore_f32(sums + i, vload_f32(sums + i) * vset(scale));
    float *rows = (float *)(void *)b->spare[0][0];
    lanes_to_rows(sums, p->width, rows);
    for (int64_t x = 0; x < n; x++)
        row_store(a->dt, rows + x * p->width, a->dim, add,
                  (char *)to + ((s->k0 + x0 + x) * a->k_token + j * a->k_head) * item_size(a->dt));
}

static void run_range(const backward_plan *f, const range *g, int64_t j, key_block *b)
{
    const plan *p = &f->p;
    const syi_attend *a = p->a;
    const segment *s = &p->seg[g->seg];
    const int64_t base = j * f->rows + f->row_pack[g->seg], size = item_size(a->dt);
    float *dq = f->dq + (j * f->dq_rows + g->dq) * p->width;
    for (int64_t x0 = g->k0; x0 < g->k1; x0 += LN) {
        const int64_t n = syi_min(LN, g->k1 - x0);
        const word *ks[LN], *vs[LN];
        for (int64_t x = 0; x < LN; x++) { /* lanes without a key repeat the last and are masked */
            const int64_t at = ((s->k0 + x0 + syi_min(x, n - 1)) * a->k_token + j * a->k_head) * size;
            ks[x] = words_of(p, (const char *)a->k + at, b->spare[0][x]);
            vs[x] = words_of(p, (const char *)a->v + at, b->spare[1][x]);
        }
        rows_to_lanes(ks, p->words, b->k);
        rows_to_lanes(vs, p->words, b->v);
        for (int64_t x = 0; x < LN; x += PER) rows_to_pairs(ks + x, p->width, b->k_pairs + x / PER * p->width);
        memset(b->dk, 0, (size_t)(p->width * LN) * sizeof *b->dk);
        memset(b->dv, 0, (size_t)(p->width * LN) * sizeof *b->dv);

        const int64_t begin = first_query(p, s, x0) * p->group / MR * MR;
        const int64_t end = syi_ceil_div((last_query(p, s, x0 + n - 1) + 1) * p->group, MR) * MR;
        const int most = (int)syi_ceil_div(n, VW);
        if (x0 == g->k0 && a->dq) { /* the first block sets its rows, the others find 0 */
            memset(dq, 0, (size_t)((begin - g->r0) * p->width) * sizeof *dq);
            memset(dq + (end - g->r0) * p->width, 0, (size_t)((g->r1 - end) * p->width) * sizeof *dq);
        }
        /* near the diagonal in smaller tiles, which skip vectors that no row sees */
        const int64_t diagonal = a->last ? begin : (x0 + LN) * p->group;
        for (int64_t r = begin, next; r < end; r = next) {
            next = syi_min(r + (r < diagonal ? SMALL_ROWS : TILE_ROWS), end);
            row_tile(f, s, base, r, next, x0, most, x0 > g->k0, dq + (r - g->r0) * p->width, b);
        }
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
    const int64_t packs = syi_ceil_div(f.rows, PACK_ROWS);
#pragma omp parallel num_threads(a->threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < packs * a->kv_heads; i++)
            pack_queries(&f, i / packs, i % packs * PACK_ROWS, syi_min(i % packs * PACK_ROWS + PACK_ROWS, f.rows));
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
