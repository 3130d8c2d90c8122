/* SPDX-License-Identifier: Apache-2.0 */
/* Tiled forward attention, for training and over a cache. Keys stand along the
 * rows of a tile and query rows (tokens times the heads that share a key head)
 * along its lanes, so that maxima, sums and weights of the softmax are plain
 * vector arithmetic. Included by attention_X.c after attention_tile.h.
 *
 * The running maximum is followed lazily: weights are relative to a reference that
 * only moves when some score exceeds it by more than 2^HEADROOM, so the results so
 * far are rarely rescaled. */
#ifndef SYI_ATTENTION_FORWARD_H
#define SYI_ATTENTION_FORWARD_H

enum {
    HEADROOM = 8,
    TILE_KEYS = 96, /* weights of so many keys are made before they are multiplied with V */
    PIECE = 64      /* keys that a thread packs at a time */
};

/* K as panels of MR keys and V as pairs of keys, for all key heads. */
typedef struct { plan p; word *k, *v; int64_t head_k, head_v; } forward_plan;

static int64_t tile_scratch_forward(const syi_attend *a, int64_t n_keys)
{
    const int64_t width = syi_ceil_div(a->dim, 16) * 16, keys = pack_max(a->n, n_keys);
    return padded((segments_max(a->n) + 1) * (int64_t)sizeof(segment)) + 2 * padded(a->kv_heads * keys * width / PER * 4);
}

static void pack_keys(const forward_plan *f, int64_t j, int64_t from, int64_t to)
{
    const plan *p = &f->p;
    const syi_attend *a = p->a;
    const int64_t size = item_size(a->dt);
    for (int64_t key = from; key < to; key += MR) {
        const segment *s = &p->seg[segment_of_key(p, key)];
        const void *ks[MR], *vs[MR];
        for (int m = 0; m < MR; m++) {
            const int64_t at = s->k0 + key - s->pack + m;
            const bool there = at < s->k1;
            ks[m] = there ? (const char *)a->k + (at * a->k_token + j * a->k_head) * size : NULL;
            vs[m] = there ? (const char *)a->v + (at * a->k_token + j * a->k_head) * size : NULL;
        }
        pack_panel(p, ks, f->k + j * f->head_k + key * p->words);
        for (int m = 0; m < MR; m += PER) pack_pairs(p, vs + m, f->v + j * f->head_v + (key + m) / PER * p->width);
    }
}

/* One block of query rows. */
typedef struct {
    int64_t rows;
    int32_t lo[LN], hi[LN];                /* keys that a lane sees, from the segment's first */
    int32_t lo_min, lo_max, hi_min, hi_max;
    word q[SYI_ATTENTION_TILE_DIM * LN];   /* [words][LN] */
    word w[TILE_KEYS * LN];                /* weights, [TILE_KEYS / PER][LN] */
    float out[SYI_ATTENTION_TILE_DIM * LN]; /* [width][LN] */
    float top[LN], sum[LN];
} block;

INLINE void run_block(const int nv, const plan *p, const segment *s, const word *k, const word *v, block *b)
{
    const float c = (float)(p->a->scale * 1.44269504088896341);
    const vf scale = vset(c), room = vset((float)HEADROOM / c), lowest = vset(-1e30f);
    vf top[NV], limit[NV], sum[NV]; /* the reference, in units of scores; where it must move; sums of weights */
    UNROLL for (int n = 0; n < nv; n++) top[n] = lowest, limit[n] = lowest, sum[n] = vset(0);
    memset(b->out, 0, (size_t)(p->width * LN) * sizeof *b->out);
    const int64_t begin = b->lo_min / GRAIN * GRAIN, end = b->hi_max + 1;
    for (int64_t tile = begin; tile < end; tile += TILE_KEYS) {
        const int64_t stop = syi_min(tile + TILE_KEYS, syi_ceil_div(end, GRAIN) * GRAIN);
        int64_t taken = tile; /* keys from here on are not yet in b->out */
        for (int64_t x = tile; x < stop; x += MR) {
            vf acc[MR][NV];
            UNROLL for (int m = 0; m < MR; m++)
                UNROLL for (int n = 0; n < nv; n++) acc[m][n] = vset(0);
            multiply(MR, nv, p->words, k + x * p->words, 1, MR, b->q, LN, acc);
            if (x < b->lo_max || x + MR - 1 > b->hi_min)
                UNROLL for (int n = 0; n < nv; n++) {
                    vi lo, hi;
                    memcpy(&lo, b->lo + n * VW, sizeof lo);
                    memcpy(&hi, b->hi + n * VW, sizeof hi);
                    UNROLL for (int m = 0; m < MR; m++) {
                        vi key = vseti((int32_t)x + m);
                        acc[m][n] = vselect((vi)(key >= lo) & (vi)(key <= hi), acc[m][n], vset(-INFINITY));
                    }
                }
            bool move = false;
            vf most[NV];
            UNROLL for (int n = 0; n < nv; n++) {
                most[n] = acc[0][n];
                UNROLL for (int m = 1; m < MR; m++) most[n] = vmax(most[n], acc[m][n]);
                move |= any_above(most[n], limit[n]);
            }
            if (move) {
                if (x > taken)
                    accumulate(nv, p->width, (x - taken) / PER, v + taken / PER * p->width, 1, p->width, b->w + (taken - tile) / PER * LN,
                               LN, b->out, LN);
                taken = x;
                UNROLL for (int n = 0; n < nv; n++) {
                    vf now = vmax(top[n], most[n]), shrink = vexp2((top[n] - now) * scale);
                    shrink = vselect((vi)(now > top[n]), shrink, vset(1));
                    top[n] = now, limit[n] = now + room, sum[n] = sum[n] * shrink;
                    for (int64_t r = 0; r < p->width; r++) {
                        float *o = b->out + r * LN + n * VW;
                        vstore_f32(o, vload_f32(o) * shrink);
                    }
                }
            }
            UNROLL for (int n = 0; n < nv; n++) {
                const vf shift = top[n] * scale;
                vf part = vset(0);
                UNROLL for (int m = 0; m < MR; m += PER) {
                    vf w0 = vexp2(acc[m][n] * scale - shift), w1 = w0;
                    part = part + w0;
                    if (PER == 2) {
                        w1 = vexp2(acc[m + PER - 1][n] * scale - shift);
                        part = part + w1;
                    }
                    wstore(b->w + ((x - tile + m) / PER) * LN + n * VW, pair_up(w0, w1));
                }
                sum[n] = sum[n] + part;
            }
        }
        accumulate(nv, p->width, (stop - taken) / PER, v + taken / PER * p->width, 1, p->width, b->w + (taken - tile) / PER * LN, LN,
                   b->out, LN);
    }
    UNROLL for (int n = 0; n < nv; n++) {
        vstore_f32(b->top + n * VW, top[n] * scale);
        vstore_f32(b->sum + n * VW, sum[n]);
    }
    (void)s;
}

static void forward_block(const forward_plan *f, int64_t item, block *b)
{
    const plan *p = &f->p;
    const syi_attend *a = p->a;
    const segment *s = &p->seg[segment_of_block(p, item / a->kv_heads)];
    const int64_t blocks = s[1].block - s->block, y = item - s->block * a->kv_heads, j = y / blocks;
    const int64_t r0 = (blocks - 1 - y % blocks) * LN; /* the longest first */
    const int64_t size = item_size(a->dt);
    b->rows = syi_min(LN, (s->q1 - s->q0) * p->group - r0);
    word rows[LN][SYI_ATTENTION_TILE_DIM]; /* first query rows, then results */
    for (int64_t l = 0; l < LN; l++) {
        const int64_t r = r0 + syi_min(l, b->rows - 1), i = s->q0 + r / p->group;
        b->lo[l] = (int32_t)(syi_attend_lo(a, i) - s->k0);
        b->hi[l] = (int32_t)(a->past + i - s->k0);
        row_words(a->dt, (const char *)a->q + row_at(p, s, j, r) * size, a->dim, rows[l], p->words);
    }
    b->lo_min = b->lo[0], b->lo_max = b->lo[LN - 1], b->hi_min = b->hi[0], b->hi_max = b->hi[LN - 1];
    transpose(LN, (int)p->words, rows[0], SYI_ATTENTION_TILE_DIM, b->q, LN);
    const word *k = f->k + j * f->head_k + s->pack * p->words, *v = f->v + j * f->head_v + s->pack / PER * p->width;
    const int nv = (int)syi_ceil_div(b->rows, VW);
    if (nv == 1) run_block(1, p, s, k, v, b);
    else if (nv == 2) run_block(2, p, s, k, v, b);
    else run_block(3, p, s, k, v, b);

    float out[LN][SYI_ATTENTION_TILE_DIM];
    for (int n = 0; n < nv; n++) {
        const vf over = vset(1) / vload_f32(b->sum + n * VW);
        for (int64_t r = 0; r < p->width; r++) {
            float *o = b->out + r * LN + n * VW;
            vstore_f32(o, vload_f32(o) * over);
        }
    }
    transpose((int)p->width, nv * VW, (const word *)(const void *)b->out, LN, (word *)(void *)out[0], SYI_ATTENTION_TILE_DIM);
    for (int64_t l = 0; l < b->rows; l++) {
        const int64_t r = r0 + l;
        row_store(a->dt, out[l], a->dim, false, (char *)a->out + row_at(p, s, j, r) * size);
        if (a->lse)
            ((float *)a->lse)[(j * p->group + r % p->group) * a->n + s->q0 + r / p->group] =
                (b->top[l] + log2f(b->sum[l])) * 0.693147180559945309f;
    }
}

static void tile_forward(const syi_attend *a)
{
    char *at = a->scratch;
    forward_plan f = {.p = make_plan(a, (segment *)(void *)at)};
    const plan *p = &f.p;
    at += padded((segments_max(a->n) + 1) * (int64_t)sizeof(segment));
    f.head_k = p->pack * p->words, f.head_v = p->pack / PER * p->width;
    f.k = (word *)(void *)at, f.v = (word *)(void *)(at + padded(a->kv_heads * f.head_k * 4));
    const int64_t pieces = syi_ceil_div(p->pack, PIECE);
#pragma omp parallel num_threads(a->threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < pieces * a->kv_heads; i++)
            pack_keys(&f, i / pieces, i % pieces * PIECE, syi_min(i % pieces * PIECE + PIECE, p->pack));
        block b;
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < p->blocks * a->kv_heads; i++) forward_block(&f, i, &b);
    }
}

#endif
