/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of a few new tokens over a long cache, bound by reading the cache.
 * The past is cut into pieces of a fixed number of keys; a piece of one key head
 * gives its maximum, its sum and its unnormalised result, and these are merged in
 * the order of the pieces. Rows are the new tokens times the heads that share the
 * key head, so a key is read once for all of them. Included by attention_X.c after
 * attention_tile.h. */
#ifndef SYI_ATTENTION_DECODE_H
#define SYI_ATTENTION_DECODE_H

enum {
    DECODE_ROWS = 8,    /* more rows than this fill the lanes of the tiled path better */
    DECODE_KEYS = 128,  /* of a piece */
    DECODE_AHEAD = 64,  /* keys that are asked for before they are needed */
    DECODE_ALONE = 512  /* pieces times rows times head size below this are not worth waking threads */
};

/* Whether this work is done here. */
static bool decode_fits(const syi_attend *a)
{
    return a->cached && a->n * (a->heads / a->kv_heads) <= DECODE_ROWS;
}

static int64_t decode_scratch(const syi_attend *a, int64_t n_keys)
{
    return padded(a->kv_heads * syi_ceil_div(n_keys, DECODE_KEYS) * DECODE_ROWS * (padded_width(a->dim) + 2) * 4);
}

/* x[k] = q . key k for 16 keys that stand one behind the other. The sum of each
 * key's lanes is that of the columns of a transposed square. */
INLINE void decode_scores(const word *q, const word *keys, int64_t words, float x[16])
{
#if defined(__AVX512F__)
    vf sum[16];
    __m512 a[16];
    UNROLL for (int k = 0; k < 16; k++) sum[k] = vset(0);
    for (int64_t w = 0; w < words; w += 16) {
        const vf left = wload(q + w);
        UNROLL for (int k = 0; k < 16; k++) sum[k] = dot(sum[k], left, wload(keys + k * words + w));
    }
    UNROLL for (int k = 0; k < 16; k++) a[k] = (__m512)sum[k];
    transpose16_in_place(a);
    UNROLL for (int n = 8; n > 0; n /= 2)
        UNROLL for (int i = 0; i < n; i++) a[i] = _mm512_add_ps(a[i], a[i + n]);
    vstore_f32(x, (vf)a[0]);
#else
    for (int k = 0; k < 16; k++) {
        vf sum = vset(0);
        for (int64_t w = 0; w < words; w += VW) sum = dot(sum, wload(q + w), wload(keys + k * words + w));
        x[k] = vtotal(sum);
    }
#endif
}

/* 16 keys or values from x on as rows of words one behind the other: where they
 * stand, or in `spare`, rows from `n` on filled with zeros. */
INLINE const word *decode_rows(const plan *p, const void *cache, int64_t j, int64_t x, int64_t n, word *spare)
{
    const syi_attend *a = p->a;
    const int64_t size = item_size(a->dt);
    const char *at = (const char *)cache + (x * a->k_token + j * a->k_head) * size;
    if (p->direct && n >= 16) return (const word *)(const void *)at;
    for (int64_t m = 0; m < 16; m++) row_words(a->dt, at + (m < n ? m : 0) * a->dim * size, m < n ? a->dim : 0, spare + m * p->words, p->words);
    return spare;
}

/* Asks for the 16 rows from x on, into the L2: the hardware does not see a stream
 * in the order that decode_scores reads them. */
INLINE void decode_ask(const plan *p, const void *cache, int64_t j, int64_t x, int64_t held)
{
    const syi_attend *a = p->a;
    if (x + 16 > held) return;
    const char *at = (const char *)cache + (x * a->k_token + j * a->k_head) * item_size(a->dt);
    const int64_t bytes = 16 * a->dim * item_size(a->dt);
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 0, 2);
}

typedef struct {
    plan p;
    int64_t rows, held, skip, pieces; /* skip: keys that no row sees any more */
    float *out, *top, *sum; /* [kv_heads][pieces][DECODE_ROWS], out with [width] */
} decode;

/* Keys from..to-1 of key head j. */
static void decode_piece(const decode *f, int64_t j, int64_t piece)
{
    const plan *p = &f->p;
    const syi_attend *a = p->a;
    const int64_t from = f->skip + piece * DECODE_KEYS, n = syi_min(DECODE_KEYS, f->held - from), size = item_size(a->dt);
    const int64_t item = (j * f->pieces + piece) * DECODE_ROWS, padded_rows = syi_ceil_div(f->rows, MQ) * MQ;
    const float scale = (float)(a->scale * 1.44269504088896341);
    const capping cap = capping_of(a);
    float x[DECODE_ROWS][DECODE_KEYS];
    word w[DECODE_ROWS][DECODE_KEYS / PER], q[DECODE_ROWS][SYI_ATTENTION_TILE_DIM];
    word spare[16 * SYI_ATTENTION_TILE_DIM], pairs[DECODE_KEYS / PER * SYI_ATTENTION_TILE_DIM];
    for (int64_t r = 0; r < f->rows; r++) row_words(a->dt, (const char *)a->q + row_at(p, &p->seg[0], j, r) * size, a->dim, q[r], p->words);
    for (int64_t k = 0; k < n; k += 16) {
        decode_ask(p, a->k, j, from + k + DECODE_AHEAD, f->held);
        decode_ask(p, a->v, j, from + k + DECODE_AHEAD, f->held);
        const word *rows = decode_rows(p, a->k, j, from + k, n - k, spare);
        for (int64_t r = 0; r < f->rows; r++) decode_scores(q[r], rows, p->words, x[r] + k);
        rows = decode_rows(p, a->v, j, from + k, n - k, spare);
        for (int m = 0; m < 16; m += PER) {
            const word *two[2] = {rows + m * p->words, rows + (m + 1) * p->words};
            rows_to_pairs(two, p->width, pairs + (k + m) / PER * p->width);
        }
    }
    const int64_t filled = syi_ceil_div(n, 16) * 16;
    for (int64_t i = f->rows * DECODE_KEYS / PER; i < padded_rows * DECODE_KEYS / PER; i += VW) wstore(w[0] + i, vset(0));
    for (int64_t r = 0; r < f->rows; r++) {
        const int64_t seen = syi_min(n, a->past + r / p->group + 1 - from), unseen = syi_min(filled, syi_attend_lo(a, r / p->group) - from);
        for (int64_t k = 0; cap.on && k < filled; k += VW) vstore_f32(x[r] + k, vcap(vload_f32(x[r] + k), cap.in) * vset(cap.out));
        for (int64_t k = 0; k < unseen; k++) x[r][k] = -INFINITY;
        for (int64_t k = syi_max(seen, 0); k < filled; k++) x[r][k] = -INFINITY;
        float top = -1e30f;
        vf most = vset(top), sum = vset(0);
        for (int64_t k = 0; k < filled; k += VW) most = vmax(most, vload_f32(x[r] + k));
        for (int i = 0; i < VW; i++) top = most[i] > top ? most[i] : top;
        for (int64_t k = 0; k < filled; k += VW) {
            vf e = vexp2((vload_f32(x[r] + k) - vset(top)) * vset(scale));
            sum = sum + e;
#if TILE_PAIRS
            vstore_bf16((bf16 *)(void *)w[r] + k, e);
#else
            wstore(w[r] + k, e);
#endif
        }
        f->top[item + r] = top, f->sum[item + r] = vtotal(sum);
    }
    rows_product(false, padded_rows, p->width, filled / PER, w[0], DECODE_KEYS / PER, pairs, f->out + item * p->width);
}

/* Row r of key head j from all its pieces. */
static void decode_merge(const decode *f, int64_t j, int64_t r)
{
    const plan *p = &f->p;
    const syi_attend *a = p->a;
    const float scale = (float)a->scale;
    float row[SYI_ATTENTION_TILE_DIM] = {0}, top = -1e30f, sum = 0;
    for (int64_t c = 0; c < f->pieces; c++) {
        const float t = f->top[(j * f->pieces + c) * DECODE_ROWS + r];
        top = t > top ? t : top;
    }
    for (int64_t c = 0; c < f->pieces; c++) {
        const int64_t item = (j * f->pieces + c) * DECODE_ROWS + r;
        const float weight = expf((f->top[item] - top) * scale);
        sum += weight * f->sum[item];
        for (int64_t i = 0; i < p->width; i += VW)
            vstore_f32(row + i, vload_f32(row + i) + vset(weight) * vload_f32(f->out + item * p->width + i));
    }
    for (int64_t i = 0; i < p->width; i += VW) vstore_f32(row + i, vload_f32(row + i) / vset(sum));
    row_store(a->dt, row, a->dim, false, (char *)a->out + row_at(p, &p->seg[0], j, r) * item_size(a->dt));
}

static void decode_piece_part(void *self, int64_t i, int thread)
{
    const decode *f = self;
    (void)thread;
    decode_piece(f, i / f->pieces, i % f->pieces);
}

static void decode_merge_part(void *self, int64_t i, int thread)
{
    const decode *f = self;
    (void)thread;
    decode_merge(f, i / f->rows, i % f->rows);
}

static void tile_decode(const syi_attend *a)
{
    segment seg[2];
    decode f = {.p = make_plan(a, seg), .held = a->past + a->n};
    f.rows = a->n * f.p.group;
    f.skip = syi_attend_lo(a, 0) / DECODE_KEYS * DECODE_KEYS;
    f.pieces = syi_ceil_div(f.held - f.skip, DECODE_KEYS);
    const int64_t items = a->kv_heads * f.pieces;
    f.out = (float *)(void *)a->scratch;
    f.top = f.out + items * DECODE_ROWS * f.p.width;
    f.sum = f.top + items * DECODE_ROWS;
    if (items * f.rows * f.p.width < DECODE_ALONE) {
        for (int64_t i = 0; i < items; i++) decode_piece_part(&f, i, 0);
        for (int64_t i = 0; i < a->kv_heads * f.rows; i++) decode_merge_part(&f, i, 0);
    } else {
        syi_share(a->engine, items, decode_piece_part, &f);
        syi_share(a->engine, a->kv_heads * f.rows, decode_merge_part, &f);
    }
}

#endif
