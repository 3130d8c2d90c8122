/* SPDX-License-Identifier: Apache-2.0 */
/* Task arithmetic and its thinnings.
 *
 * The k largest magnitudes are found by counting: a first pass counts the upper 16 bits of
 * |difference| (an f32 without its sign), a second the lower 15 of those in the bucket
 * that holds the limit, and where several magnitudes equal the limit and only some of
 * them are kept, a third counts these tile by tile: the first ones in the tensor are kept.
 * Whole numbers add up in any order, so the result is exact whatever the threads do.
 * Random masks take element i of a stream keyed by (seed, model, tensor). */
#include "_delta.h"

#include "base/base.h"
#include "tensor/mix.h"

#include <math.h>

const char *const delta_rescale_choices[] = { "l1", "inv_density", NULL };
const char *const delta_consensus_choices[] = { "sum", "count", NULL };

enum { HIGH = 1 << 16, LOW = 1 << 15 };

/* One end of what is kept: `rank` numbers are smaller or equal-and-later. */
typedef struct { int64_t rank, less, equal; uint32_t key; bool used; } cut;

typedef struct {
    delta_thinning how;       /* ALL: nothing is dropped                                 */
    double weight, density, epsilon, scale;
    uint64_t key;
    cut lo, hi;               /* kept: lo.rank <= rank < hi.rank                          */
} share;

typedef struct { bool rescale, inverse, select, ties, draw; double lambda; bool normalize, count; int scale_pass; share of[SY_MERGE_INPUTS]; } own;

_Static_assert(sizeof(own) <= DELTA_OWN, "DELTA_OWN is too small");

sy_status delta_begin(sy_merge *m, delta_thinning how)
{
    own *o = m->own;
    o->lambda = sy_merge_value(m, "lambda", -1);
    o->normalize = sy_merge_value(m, "normalize", -1) != 0;
    o->count = sy_merge_value(m, "consensus", -1) == 1;
    o->rescale = sy_merge_value(m, "rescale", -1) == 1;
    o->inverse = o->rescale && sy_merge_value(m, "rescale-by", -1) == 1;
    for (int i = 0; i < m->n; i++) {
        share *s = &o->of[i];
        const double density = sy_merge_value(m, "density", i), gamma = sy_merge_value(m, "gamma", i);
        *s = (share){ .how = how, .weight = sy_merge_value(m, "weight", i), .density = density, .epsilon = sy_merge_value(m, "epsilon", i), .scale = 1 };
        if (how == DELTA_ALL || !(density < 1)) {
            s->how = DELTA_ALL;
            continue;
        }
        s->key = sy_merge_key(m, "mask", i);
        if (how == DELTA_RANKED && (density - s->epsilon <= 0 || density + s->epsilon >= 1))
            return sy_merge_fail(m, SY_E_USAGE, "density %g with epsilon %g: both density - epsilon and density + epsilon must lie between 0 and 1", density, s->epsilon);
        if (how == DELTA_RANDOM || how == DELTA_RANKED) {
            o->draw = true;
            if (o->inverse && how == DELTA_RANDOM) s->scale = 1 / density;
            continue;
        }
        o->select = true;
        int64_t keep = (int64_t)(density * (double)m->count), top = how == DELTA_MIDDLE ? (int64_t)(gamma * (double)m->count) : 0;
        keep = syi_max(1, keep);
        const int64_t bottom = syi_max(0, m->count - keep - top);
        s->lo.rank = bottom;
        s->hi.rank = bottom + keep;
        s->lo.used = s->lo.rank > 0;
        s->hi.used = s->hi.rank < m->count;
        if (o->inverse) s->scale = 1 / density;
    }
    o->scale_pass = -1;
    if (o->select) {
        m->passes = 2;
        m->counts = (int64_t)m->n * HIGH;
        m->sums = 2 * m->n;
        m->kept = m->tiles * m->sums * (int64_t)sizeof(double); /* ties before each tile */
    } else if (o->draw && o->rescale && !o->inverse) {
        m->passes = 1;
        m->sums = 2 * m->n;
        o->scale_pass = 0;
        m->kept = m->n * m->tiles * ((m->per_tile + 7) / 8);
    }
    return SY_OK;
}

/* -- masks ------------------------------------------------------------------------------------- */

static uint8_t *bits(const sy_merge *m, const sy_tile *t, int i)
{
    return m->keep + (i * m->tiles + t->index) * ((m->per_tile + 7) / 8);
}

/* One stable pass of sorting by `bits` bits of the upper half from `shift` on. */
static void digit_pass(const uint64_t *from, uint64_t *to, int64_t n, int shift, int width)
{
    uint32_t at[512] = { 0 }, sum = 0;
    const uint64_t mask = (1u << width) - 1;
    for (int64_t i = 0; i < n; i++) at[from[i] >> shift & mask]++;
    for (uint32_t d = 0; d <= mask; d++) {
        const uint32_t c = at[d];
        at[d] = sum;
        sum += c;
    }
    for (int64_t i = 0; i < n; i++) to[at[from[i] >> shift & mask]++] = from[i];
}

/* Ranks of one row's magnitudes, as probabilities of being kept. Sorted by the upper 18 bits
 * first; few different numbers share those, so putting neighbours right finishes it, unless
 * many do.
 * Equal magnitudes rank in their order. pairs[2n]: magnitude above place. */
static void ranked_row(const uint32_t *key, int64_t n, double p0, double step, float *p, uint64_t *pairs)
{
    uint64_t *a = pairs, *b = pairs + n;
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) a[i] = (uint64_t)key[i] << 32 | (uint64_t)i;
    digit_pass(a, b, n, 32 + 13, 9);
    digit_pass(b, a, n, 32 + 22, 9);
    for (int64_t i = 1; i < n; i++) wrong += a[i] < a[i - 1];
    if (wrong > n / 8) {
        for (int64_t i = 0; i < n; i++) a[i] = (uint64_t)key[i] << 32 | (uint64_t)i;
        digit_pass(a, b, n, 32, 7);
        digit_pass(b, a, n, 32 + 7, 6);
        digit_pass(a, b, n, 32 + 13, 9);
        digit_pass(b, a, n, 32 + 22, 9);
    } else if (wrong > 0) {
        for (int64_t i = 1; i < n; i++) {
            const uint64_t x = a[i];
            int64_t k = i;
            for (; k > 0 && a[k - 1] > x; k--) a[k] = a[k - 1];
            a[k] = x;
        }
    }
    for (int64_t r = 0; r < n; r++) p[a[r] & UINT32_MAX] = (float)(p0 + step * (double)r);
}

/* m[n]: 1 where drawn (1/probability in the inverse form of ranks). */
static void draw(const sy_merge *m, const sy_tile *t, int i, float *mask)
{
    const own *o = m->own;
    const share *s = &o->of[i];
    float *u = (float *)(void *)t->wide[0], *p = u + t->n;
    syi_uniform(s->key, t->first, t->n, u);
    if (s->how == DELTA_RANDOM) {
        m->mix->below(u, NULL, (float)s->density, mask, t->n);
        return;
    }
    uint32_t *key = (uint32_t *)(void *)mask;
    uint64_t *pairs = (uint64_t *)(void *)t->wide[1]; /* [2 n]: wide[1] and wide[2] */
    m->mix->keys(t->in[i], t->base, key, t->n);
    const double step = m->cols > 1 ? 2 * s->epsilon / (double)(m->cols - 1) : 0;
    for (int64_t r = 0; r < t->rows; r++)
        ranked_row(key + r * m->cols, m->cols, m->cols > 1 ? s->density - s->epsilon : s->density, step, p + r * m->cols, pairs);
    m->mix->below(u, p, 0, mask, t->n);
    for (int64_t k = 0; o->inverse && k < t->n; k++) mask[k] = mask[k] != 0 ? 1 / p[k] : 0;
}

/* How many numbers that equal the limit come before this tile. */
static double *ties_before(const sy_merge *m, const sy_tile *t, int i, bool high)
{
    return (double *)(void *)m->keep + t->index * m->sums + 2 * i + high;
}

static bool split(const cut *c)
{
    return c->used && c->rank != c->less; /* only some of the equal ones are kept */
}

static void cut_mask(const sy_merge *m, const sy_tile *t, int i, float *mask)
{
    const own *o = m->own;
    const share *s = &o->of[i];
    uint32_t *key = (uint32_t *)(void *)t->wide[0];
    m->mix->keys(t->in[i], t->base, key, t->n);
    /* Everything from lo's key on, without lo's equals when those are split. */
    if (!s->lo.used || (!split(&s->lo) && s->lo.key == 0))
        for (int64_t k = 0; k < t->n; k++) mask[k] = 1;
    else m->mix->above(key, split(&s->lo) ? s->lo.key : s->lo.key - 1, mask, t->n);
    if (s->hi.used)
        for (int64_t k = 0; k < t->n; k++) mask[k] = key[k] < s->hi.key ? mask[k] : 0;
    const bool lo = split(&s->lo), hi = split(&s->hi);
    if (!lo && !hi) return;
    int64_t before[2] = { (int64_t)*ties_before(m, t, i, false), (int64_t)*ties_before(m, t, i, true) };
    for (int64_t k = 0; k < t->n; k++) {
        const bool at_lo = lo && key[k] == s->lo.key, at_hi = hi && key[k] == s->hi.key;
        if (!at_lo && !at_hi) continue;
        /* Among equals the later in the tensor has the lower rank. */
        const cut *c = at_lo ? &s->lo : &s->hi;
        const int64_t rank = c->less + c->equal - 1 - before[at_lo ? 0 : 1];
        mask[k] = rank >= s->lo.rank && rank < s->hi.rank ? 1.0f : 0.0f;
        before[0] += at_lo;
        before[1] += at_hi;
    }
}

static const float *mask_of(const sy_merge *m, const sy_tile *t, int i)
{
    const own *o = m->own;
    const share *s = &o->of[i];
    if (s->how == DELTA_ALL) return NULL;
    if (s->how == DELTA_LARGEST || s->how == DELTA_MIDDLE) cut_mask(m, t, i, t->spare[i]);
    else if (o->scale_pass >= 0) m->mix->unpack(bits(m, t, i), t->spare[i], t->n);
    else draw(m, t, i, t->spare[i]);
    return t->spare[i];
}

/* -- passes -------------------------------------------------------------------------------------- */

static void count_high(const sy_merge *m, sy_tile *t)
{
    const own *o = m->own;
    uint32_t *key = (uint32_t *)(void *)t->wide[0];
    for (int i = 0; i < m->n; i++) {
        uint32_t *c = t->counts + (int64_t)i * HIGH;
        if (o->of[i].how == DELTA_ALL) continue;
        m->mix->keys(t->in[i], t->base, key, t->n);
        for (int64_t k = 0; k < t->n; k++) c[key[k] >> 15]++;
    }
}

static void count_low(const sy_merge *m, sy_tile *t)
{
    const own *o = m->own;
    uint32_t *key = (uint32_t *)(void *)t->wide[0];
    for (int i = 0; i < m->n; i++) {
        const share *s = &o->of[i];
        uint32_t *c = t->counts + (int64_t)i * HIGH;
        if (s->how == DELTA_ALL) continue;
        m->mix->keys(t->in[i], t->base, key, t->n);
        const uint32_t lo = s->lo.used ? s->lo.key : UINT32_MAX, hi = s->hi.used ? s->hi.key : UINT32_MAX;
        for (int64_t k = 0; k < t->n; k++) {
            const uint32_t bucket = key[k] >> 15;
            if (bucket == lo) c[key[k] & (LOW - 1)]++;
            if (bucket == hi) c[LOW + (key[k] & (LOW - 1))]++;
        }
    }
}

static void count_ties(const sy_merge *m, sy_tile *t)
{
    const own *o = m->own;
    uint32_t *key = (uint32_t *)(void *)t->wide[0];
    for (int i = 0; i < m->n; i++) {
        const share *s = &o->of[i];
        int64_t lo = 0, hi = 0;
        if (s->how == DELTA_ALL || !(split(&s->lo) || split(&s->hi))) continue;
        m->mix->keys(t->in[i], t->base, key, t->n);
        for (int64_t k = 0; k < t->n; k++) {
            lo += key[k] == s->lo.key;
            hi += key[k] == s->hi.key;
        }
        t->sum[2 * i] = (double)lo;
        t->sum[2 * i + 1] = (double)hi;
    }
}

void delta_look(const sy_merge *m, int pass, sy_tile *t)
{
    own *o = m->own;
    if (pass == o->scale_pass) {
        for (int i = 0; i < m->n; i++) {
            if (o->of[i].how == DELTA_ALL) continue;
            const bool drawn = o->draw;
            float *mask = t->spare[i];
            if (drawn) draw(m, t, i, mask), m->mix->pack(mask, bits(m, t, i), t->n);
            else mask_of(m, t, i);
            t->sum[2 * i] = m->mix->abs_sum(t->in[i], t->base, NULL, t->n);
            t->sum[2 * i + 1] = m->mix->abs_sum(t->in[i], t->base, mask, t->n);
        }
    } else if (pass == 0) {
        count_high(m, t);
    } else if (pass == 1) {
        count_low(m, t);
    } else {
        count_ties(m, t);
    }
}

/* The bucket of `counts` in which the number of this rank lies. */
static uint32_t find(const int64_t *counts, int64_t n, int64_t rank, int64_t *less)
{
    uint32_t b = 0;
    while (b + 1 < n && *less + counts[b] <= rank) *less += counts[b++];
    return b;
}

sy_status delta_sum(sy_merge *m, int pass)
{
    own *o = m->own;
    if (pass == o->scale_pass) {
        for (int i = 0; i < m->n; i++) {
            const double before = m->total[2 * i], after = m->total[2 * i + 1];
            if (o->of[i].how != DELTA_ALL && before >= 1e-7 && after >= 1e-7) o->of[i].scale = before / after;
        }
        return SY_OK;
    }
    bool ties = false;
    for (int i = 0; i < m->n; i++) {
        share *s = &o->of[i];
        const int64_t *c = m->counted + (int64_t)i * HIGH;
        if (s->how == DELTA_ALL) continue;
        if (pass == 0) {
            s->lo.key = find(c, HIGH, s->lo.rank, &s->lo.less);
            s->hi.key = find(c, HIGH, s->hi.rank, &s->hi.less);
        } else if (pass == 1) {
            const uint32_t lo = find(c, LOW, s->lo.rank, &s->lo.less), hi = find(c + LOW, LOW, s->hi.rank, &s->hi.less);
            s->lo.equal = c[lo];
            s->hi.equal = c[LOW + hi];
            s->lo.key = s->lo.key << 15 | lo;
            s->hi.key = s->hi.key << 15 | hi;
            ties |= split(&s->lo) || split(&s->hi);
        } else { /* ties before each tile */
            double before[2] = { 0, 0 };
            for (int64_t k = 0; k < m->tiles; k++)
                for (int h = 0; h < 2; h++) {
                    ((double *)(void *)m->keep)[k * m->sums + 2 * i + h] = before[h];
                    before[h] += m->part[k * m->sums + 2 * i + h];
                }
        }
    }
    if (pass != 1) return SY_OK;
    if (ties) m->passes++;
    if (o->rescale && !o->inverse) o->scale_pass = m->passes++;
    return SY_OK;
}

/* -- the result -------------------------------------------------------------------------------------- */

void delta_make(const sy_merge *m, sy_tile *t, bool elect)
{
    const own *o = m->own;
    double w[SY_MERGE_INPUTS], d[SY_MERGE_INPUTS], total = 0;
    const float *mask[SY_MERGE_INPUTS];
    for (int i = 0; i < m->n; i++) {
        mask[i] = mask_of(m, t, i);
        w[i] = o->of[i].weight * o->of[i].scale;
        total += d[i] = o->of[i].weight;
    }
    if (elect) {
        m->mix->elect(m->n, t->in, mask, w, d, o->count, o->normalize, o->lambda, t->base, t->out, t->n);
        return;
    }
    memset(t->wide[0], 0, (size_t)t->n * sizeof *t->wide[0]);
    for (int i = 0; i < m->n; i++) {
        if (mask[i]) m->mix->add_masked(w[i], mask[i], t->in[i], t->base, t->wide[0], t->n);
        else m->mix->add_delta(w[i], t->in[i], t->base, t->wide[0], t->n);
    }
    const double by = o->normalize && fabs(total) >= 1e-8 ? 1 / total : 1;
    m->mix->finish(o->lambda * by, t->wide[0], t->base, t->out, t->n);
}
