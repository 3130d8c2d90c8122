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
    TILE_KEYS = 192, /* weights of so many keys are made before they are multiplied with V */
    STEP_KEYS = 64,  /* scores of so many keys are made before they become weights */
    PIECE = 64       /* keys that a thread packs at a time */
};

/* K as panels of MR keys and V as pairs of keys, for all key heads. */
typedef struct { plan p; word *k, *v; int64_t head_k, head_v; } forward_plan;

static int64_t tile_scratch_forward(const syi_attend *a, int64_t n_keys)
{
    const int64_t width = padded_width(a->dim), keys = pack_max(a->n, n_keys);
    return padded((segments_max(a->n) + 1) * (int64_t)sizeof(segment)) + 2 * padded(a->kv_heads * keys * width / PER * 4);
}

static void pack_keys(const forward_plan *f, int64_t j, int64_t from, int64_t to)
{
    static const word zeros[SYI_ATTENTION_TILE_DIM];
    const plan *p = &f->p;
    const syi_attend *a = p->a;
    const int64_t size = item_size(a->dt);
    word spare[2][GRAIN][SYI_ATTENTION_TILE_DIM];
    for (int64_t key = from; key < to; key += GRAIN) {
        const segment *s = &p->seg[segment_of_key(p, key)];
        const word *k[GRAIN], *v[GRAIN];
        for (int m = 0; m < GRAIN; m++) {
            const int64_t x = s->k0 + key - s->pack + m, at = (x * a->k_token + j * a->k_head) * size;
            k[m] = x < s->k1 ? words_of(p, (const char *)a->k + at, spare[0][m]) : zeros;
            v[m] = x < s->k1 ? words_of(p, (const char *)a->v + at, spare[1][m]) : zeros;
        }
        rows_to_panels(k, p->words, f->k + j * f->head_k + key * p->words);
        for (int m = 0; m < GRAIN; m += PER) rows_to_pairs(v + m, p->width, f->v + j * f->head_v + (key + m) / PER * p->width);
    }
}

/* One block of query rows. */
typedef struct {
    int64_t rows;
    int32_t lo[LN], hi[LN];                /* keys that a lane sees, from the segment's first */
    int32_t lo_min, lo_max, hi_min, hi_max;
    word q[SYI_ATTENTION_TILE_DIM * LN];   /* [words][LN] */
    word w[TILE_KEYS / PER * LN];          /* weights, [TILE_KEYS / PER][LN] */
    float x[STEP_KEYS * LN];               /* scores, [STEP_KEYS][LN] */
    float out[SYI_ATTENTION_TILE_DIM * LN]; /* [width][LN] */
    float top[LN], limit[LN], sum[LN];     /* the reference; where it must move; sums of weights */
} block;

/* Scores of keys that not all lanes see: -infinity where they do not. */
static void mask_scores(block *b, int nv, int64_t x, int64_t keys)
{
    for (int n = 0; n < nv; n++) {
        vi lo, hi;
        memcpy(&lo, b->lo + n * VW, sizeof lo);
        memcpy(&hi, b->hi + n * VW, sizeof hi);
        for (int64_t m = 0; m < keys; m++) {
            vi key = vseti((int32_t)(x + m));
            float *at = b->x + m * LN + n * VW;
            vstore_f32(at, vselect((vi)(key >= lo) & (vi)(key <= hi), vload_f32(at), vset(-INFINITY)));
        }
    }
}

/* Whether some score lies above its lane's limit; top becomes the new reference. */
static bool look(const block *b, int nv, int64_t keys, vf top[NV])
{
    bool above = false;
    for (int n = 0; n < nv; n++) {
        vf most[4];
        for (int m = 0; m < 4; m++) most[m] = vload_f32(b->x + m * LN + n * VW);
        for (int64_t x = 4; x < keys; x += 4)
            for (int m = 0; m < 4; m++) most[m] = vmax(most[m], vload_f32(b->x + (x + m) * LN + n * VW));
        top[n] = vmax(vmax(most[0], most[1]), vmax(most[2], most[3]));
        above |= any_above(top[n], vload_f32(b->limit + n * VW));
    }
    return above;
}

/* Moves the reference up to `top` and scales what has been summed so far. */
static void move(block *b, int nv, int64_t width, float scale, const vf top[NV])
{
    for (int n = 0; n < nv; n++) {
        const vf was = vload_f32(b->top + n * VW), now = vmax(was, top[n]);
        const vf shrink = vselect((vi)(now > was), vexp2((was - now) * vset(scale)), vset(1));
        vstore_f32(b->top + n * VW, now);
        vstore_f32(b->limit + n * VW, now + vset((float)HEADROOM / scale));
        vstore_f32(b->sum + n * VW, vload_f32(b->sum + n * VW) * shrink);
        for (int64_t r = 0; r < width; r++) {
            float *o = b->out + r * LN + n * VW;
            vstore_f32(o, vload_f32(o) * shrink);
        }
    }
}

/* Scores become weights (words for the product with V). */
static void weigh(block *b, int nv, int64_t keys, float scale, word *w)
{
    for (int n = 0; n < nv; n++) {
        const vf c = vset(scale), shift = vload_f32(b->top + n * VW) * c;
        vf even = vset(0), odd = vset(0);
        for (int64_t m = 0; m < keys; m += 2) {
            vf w0 = vexp2(vload_f32(b->x + m * LN + n * VW) * c - shift), w1 = vexp2(vload_f32(b->x + (m + 1) * LN + n * VW) * c - shift);
            even = even + w0, odd = odd + w1;
            wstore(w + m / PER * LN + n * VW, pair_up(w0, w1));
            if (PER == 1) wstore(w + (m + 1) * LN + n * VW, w1);
        }
        vstore_f32(b->sum + n * VW, vload_f32(b->sum + n * VW) + (even + odd));
    }
}

static void run_block(const plan *p, int nv, const word *k, const word *v, block *b)
{
    const float scale = (float)(p->a->scale * 1.44269504088896341);
    const capping cap = capping_of(p->a);
    for (int i = 0; i < LN; i++) b->top[i] = b->limit[i] = -1e30f, b->sum[i] = 0;
    memset(b->out, 0, (size_t)(p->width * LN) * sizeof *b->out);
    const int64_t begin = b->lo_min / GRAIN * GRAIN, end = syi_ceil_div(b->hi_max + 1, GRAIN) * GRAIN;
    for (int64_t tile = begin; tile < end; tile += TILE_KEYS) {
        const int64_t stop = syi_min(tile + TILE_KEYS, end);
        int64_t taken = tile; /* keys from here on are not yet in b->out */
        for (int64_t x = tile; x < stop; x += STEP_KEYS) {
            const int64_t n = syi_min(STEP_KEYS, stop - x);
            vf top[NV];
            product[nv](n, p->words, k + x * p->words, MR * p->words, MR, b->q, b->x);
            if (cap.on)
                for (int64_t m = 0; m < n; m++)
                    for (int i = 0; i < nv; i++) {
                        float *at = b->x + m * LN + i * VW;
                        vstore_f32(at, vcap(vload_f32(at), cap.in) * vset(cap.out));
                    }
            if (x < b->lo_max || x + n - 1 > b->hi_min) mask_scores(b, nv, x, n);
            if (look(b, nv, n, top)) {
                product_add[nv](p->width, (x - taken) / PER, v + taken / PER * p->width, MR, p->width, b->w + (taken - tile) / PER * LN, b->out);
                taken = x;
                move(b, nv, p->width, scale, top);
            }
            weigh(b, nv, n, scale, b->w + (x - tile) / PER * LN);
        }
        product_add[nv](p->width, (stop - taken) / PER, v + taken / PER * p->width, MR, p->width, b->w + (taken - tile) / PER * LN, b->out);
    }
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
    word spare[LN][SYI_ATTENTION_TILE_DIM];
    const word *q[LN];
    for (int64_t l = 0; l < LN; l++) {
        const int64_t r = r0 + syi_min(l, b->rows - 1), i = s->q0 + r / p->group;
        b->lo[l] = (int32_t)(syi_attend_lo(a, i) - s->k0);
        b->hi[l] = (int32_t)(syi_attend_hi(a, i) - s->k0);
        q[l] = words_of(p, (const char *)a->q + row_at(p, s, j, r) * size, spare[l]);
    }
    b->lo_min = b->lo[0], b->lo_max = b->lo[LN - 1], b->hi_min = b->hi[0], b->hi_max = b->hi[LN - 1];
    rows_to_lanes(q, p->words, b->q);
    const word *k = f->k + j * f->head_k + s->pack * p->words, *v = f->v + j * f->head_v + s->pack / PER * p->width;
    const int nv = (int)syi_ceil_div(b->rows, VW);
    run_block(p, nv, k, v, b);

    for (int n = 0; n < nv; n++) {
        const vf over = vset(1) / vload_f32(b->sum + n * VW);
        for (int64_t r = 0; r < p->width; r++) {
            float *o = b->out + r * LN + n * VW;
            vstore_f32(o, vload_f32(o) * over);
        }
    }
    float *out = (float *)(void *)spare[0];
    lanes_to_rows(b->out, p->width, out);
    for (int64_t l = 0; l < b->rows; l++) {
        const int64_t r = r0 + l;
        row_store(a->dt, out + l * p->width, a->dim, false, (char *)a->out + row_at(p, s, j, r) * size);
        if (a->lse)
            ((float *)a->lse)[(j * p->group + r % p->group) * a->n + s->q0 + r / p->group] =
                b->top[l] * (float)a->scale + logf(b->sum[l]);
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
