/* SPDX-License-Identifier: Apache-2.0 */
/* Task arithmetic and its thinnings.
 *
 * The k largest magnitudes: |difference| as the bits of an f32 without its sign is a whole number
 * of 31 bits. A sample of the tensor says between which two numbers the limit must lie; one pass
 * over the tensor counts what is above and picks out what is between (some percent), and the
 * limit is found among those. Where the sample was wrong, or too much lies between, the limit is
 * found by counting instead: the upper 16 bits, then the lower 15 of those in the bucket that
 * holds it. Either way the result is exact. Where several magnitudes equal the limit and only
 * some of them are kept, the first ones in the tensor are. Whole numbers add up in any order, so
 * threads do not matter. Random masks take element i of a stream keyed by (seed, model, tensor). */
#include "_delta.h"

#include "base/base.h"
#include "tensor/mix.h"

#include <math.h>

const char *const delta_rescale_choices[] = { "l1", "inv_density", NULL };
const char *const delta_consensus_choices[] = { "sum", "count", NULL };
const char *const delta_scope_choices[] = { "tensor", "model", NULL };
const char *const delta_zero_choices[] = { "plus", "majority", NULL };
const char *const delta_join_choices[] = { "auto", "mean", "sum", "max", NULL };

enum { HIGH = 1 << 16, LOW = 1 << 15, CUTS = 2, MOST_PICKED = 8 /* models */ };
enum { PICK, HIGH_BITS, LOW_BITS, TIES, SCALE, SIGNS }; /* what a pass does */

/* One end of what is kept: `rank` numbers are smaller, or equal and later in the tensor. */
typedef struct { int64_t rank, less, equal; uint32_t key, from, to; int pool; bool used; } cut;

typedef struct {
    delta_thinning how;       /* ALL: nothing is dropped                                 */
    double weight, density, epsilon, scale;
    uint64_t key;
    cut at[CUTS];             /* kept: at[0].rank <= rank < at[1].rank                    */
} share;

typedef struct {
    bool rescale, inverse, count, packed, majority;
    double lambda, zero;
    syi_join_by join;
    int kind[8], pools;
    int64_t room;             /* numbers that a pool holds                                */
    share of[SY_MERGE_INPUTS];
} own;

_Static_assert(sizeof(own) <= DELTA_OWN, "DELTA_OWN is too small");

struct delta_world {
    int n, stage;
    bool ready;
    double density[SY_MERGE_INPUTS], zero;
    cut at[SY_MERGE_INPUTS];
    int64_t *before;          /* [tensors][n] numbers that equal the limit, in earlier tensors */
    sy_context *ctx;
};

static void pass_of(sy_merge *m, int kind) { ((own *)m->own)->kind[m->passes++] = kind; }

/* Only some of those that equal the limit are kept. Which zeros are kept does not matter. */
static bool split(const cut *c) { return c->used && c->key != 0 && c->rank != c->less; }

/* -- what the passes leave: ties before each tile, what was picked ---------------------------- */

typedef struct { uint32_t at, n; } picked;

static double *ties_before(const sy_merge *m, int64_t tile, int i, int c) { return (double *)(void *)m->keep + (tile * m->n + i) * CUTS + c; }

static picked *picked_of(const sy_merge *m, int64_t tile, int i, int c)
{
    return (picked *)(void *)ties_before(m, m->tiles + 1, 0, 0) + (tile * m->n + i) * CUTS + c;
}

static int64_t *pool_used(const sy_merge *m, int pool) { return (int64_t *)(void *)picked_of(m, m->tiles, 0, 0) + pool; }

static uint32_t *pool_at(const sy_merge *m, int pool)
{
    const own *o = m->own;
    return (uint32_t *)(void *)pool_used(m, o->pools) + pool * o->room;
}

/* -- beginning ---------------------------------------------------------------------------------- */

static sy_status begin_world(sy_merge *m, delta_options *d, share *s, int i)
{
    if (!d->world) {
        sy_context *ctx = sy_merge_context(m);
        if (!(d->world = syi_calloc(ctx, 1, sizeof *d->world))) return sy_merge_fail(m, SY_E_MEMORY, "no memory");
        d->world->ctx = ctx;
    }
    struct delta_world *w = d->world;
    if (w->n == 0) w->n = m->n;
    if (w->density[i] == 0) w->density[i] = s->density;
    if (w->n != m->n || w->density[i] != s->density)
        return sy_merge_fail(m, SY_E_USAGE, "scope: model ranks the numbers of the whole model: it needs the same models everywhere and one density each (found %g and %g)", w->density[i], s->density);
    s->at[0] = w->at[i];
    s->how = w->density[i] < 1 ? DELTA_LARGEST : DELTA_ALL;
    return SY_OK;
}

static void begin_cuts(sy_merge *m, share *s, double density, double gamma)
{
    int64_t keep = (int64_t)(density * (double)m->count), top = s->how == DELTA_MIDDLE ? (int64_t)(gamma * (double)m->count) : 0;
    keep = syi_max(1, keep);
    const int64_t bottom = syi_max(0, m->count - keep - top);
    s->at[0].rank = bottom;
    s->at[1].rank = bottom + keep;
    s->at[0].used = bottom > 0;
    s->at[1].used = bottom + keep < m->count;
}

sy_status delta_begin(delta_options *self, sy_merge *m, delta_thinning how)
{
    own *o = m->own;
    bool select = false, drawn = false;
    const bool whole_model = how == DELTA_LARGEST && self->scope == 1;
    const double func = sy_merge_value(m, "merge-func", -1); /* NAN: the method has no such row */
    const int join = func > 0 ? (int)func : 0;
    o->lambda = sy_merge_value(m, "lambda", -1);
    o->join = join == 3 ? SYI_JOIN_MAX : join == 2 || (join < 1 && sy_merge_value(m, "normalize", -1) == 0) ? SYI_JOIN_SUM : SYI_JOIN_MEAN;
    o->count = sy_merge_value(m, "consensus", -1) == 1;
    o->majority = sy_merge_value(m, "zero-sign", -1) == 1;
    o->zero = 1;
    o->rescale = sy_merge_value(m, "rescale", -1) == 1;
    o->inverse = o->rescale && sy_merge_value(m, "rescale-by", -1) == 1;
    for (int i = 0; i < m->n; i++) {
        share *s = &o->of[i];
        const double density = sy_merge_value(m, "density", i);
        *s = (share){ .how = how, .weight = sy_merge_value(m, "weight", i), .density = density, .epsilon = sy_merge_value(m, "epsilon", i), .scale = 1 };
        if (whole_model) SYI_TRY(begin_world(m, self, s, i));
        if (how == DELTA_ALL || !(density < 1)) {
            s->how = DELTA_ALL;
            continue;
        }
        s->key = sy_merge_key(m, "mask", i);
        if (how == DELTA_RANKED && (density - s->epsilon <= 0 || density + s->epsilon >= 1))
            return sy_merge_fail(m, SY_E_USAGE, "density %g with epsilon %g: both density - epsilon and density + epsilon must lie between 0 and 1", density, s->epsilon);
        if (o->inverse && how != DELTA_RANKED) s->scale = 1 / density;
        if (how == DELTA_RANDOM || how == DELTA_RANKED) {
            drawn = true;
            continue;
        }
        select = true;
        if (!whole_model) begin_cuts(m, s, density, sy_merge_value(m, "gamma", i));
        for (int c = 0; c < CUTS; c++)
            if (s->at[c].used) s->at[c].pool = o->pools++;
    }
    m->sums = 2 * m->n;
    if (select) {
        const int64_t places = (m->tiles + 1) * m->n * CUTS * (int64_t)sizeof(double);
        m->kept = places;
        if (whole_model) {
            bool some = false;
            for (int i = 0; i < m->n; i++) some |= split(&o->of[i].at[0]);
            if (some || !self->world->ready) pass_of(m, TIES);
            if (self->world->ready) o->zero = self->world->zero;
            o->majority = false;
        } else if (m->n <= MOST_PICKED) {
            m->sample = syi_min(16384, syi_max(2048, m->count / 64));
            o->room = m->count <= 2 * m->sample ? m->count : m->count / 10 + 4096;
            m->kept = 2 * places + o->pools * (8 + 4 * o->room) + 64;
            pass_of(m, PICK);
        } else {
            m->counts = (int64_t)m->n * HIGH;
            pass_of(m, HIGH_BITS);
            pass_of(m, LOW_BITS);
        }
    } else if (drawn && o->rescale && !o->inverse) {
        o->packed = true;
        m->kept = m->n * m->tiles * ((m->per_tile + 7) / 8);
        pass_of(m, SCALE);
    }
    const bool later = select && m->passes > 0 && o->kind[m->passes - 1] != TIES; /* the limits are not known yet */
    if (!later && select && o->rescale && !o->inverse) pass_of(m, SCALE);
    if (!later && o->majority) pass_of(m, SIGNS);
    return SY_OK;
}

/* By 11 bits at a time; `other` as long as key. */
static void sort_keys(uint32_t *key, uint32_t *other, int64_t n)
{
    uint32_t at[2048];
    for (int shift = 0; shift < 31; shift += 11) {
        uint32_t sum = 0;
        memset(at, 0, sizeof at);
        for (int64_t i = 0; i < n; i++) at[key[i] >> shift & 2047]++;
        for (int d = 0; d < 2048; d++) {
            const uint32_t c = at[d];
            at[d] = sum;
            sum += c;
        }
        for (int64_t i = 0; i < n; i++) other[at[key[i] >> shift & 2047]++] = key[i];
        uint32_t *swap = key;
        key = other;
        other = swap;
    }
    memcpy(other, key, (size_t)n * sizeof *key); /* three passes: the result lies in the other half */
}

/* Between which magnitudes each limit lies, but for one time in some thousand. */
void delta_sample(sy_merge *m, const sy_tile *t)
{
    own *o = m->own;
    uint32_t *key = (uint32_t *)(void *)t->wide[0];
    const double n = (double)t->n;
    for (int i = 0; i < m->n; i++) {
        if (o->of[i].how == DELTA_ALL) continue;
        m->mix->keys(t->in[i], t->base, key, t->n);
        sort_keys(key, key + t->n, t->n);
        for (int k = 0; k < CUTS; k++) {
            cut *c = &o->of[i].at[k];
            const double p = (double)c->rank / (double)m->count, off = t->n == m->count ? 0 : 4 * sqrt(p * (1 - p) * n) + 2;
            const double a = floor(p * n - off), b = ceil(p * n + off);
            c->from = a < 1 ? 1 : key[(int64_t)a]; /* zeros need not be picked */
            c->to = b >= n ? INT32_MAX : key[(int64_t)b];
            if (c->from < 1) c->from = 1;
            if (c->to < c->from) c->to = c->from;
        }
    }
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

/* One row of ranks, 1 where u is below the rank's probability p0 + step * rank. Only a u between
 * the smallest and the largest probability asks for its rank, and mostly the ranks of a bucket of
 * near magnitudes decide alike; otherwise the rank is counted. Not for rows in which a bucket is
 * crowded (many equal numbers): false. */
static bool draw_row(const sy_merge *m, const uint32_t *key, const float *u, int64_t n, double p0, double step, float *mask, int32_t *at)
{
    enum { MOST = 256 };
    const int shift = n < 1024 ? 20 : 19, buckets = n < 1024 ? MOST / 2 : MOST; /* 16 powers of two, 8 or 16 parts each */
    uint32_t start[MOST + 1], odd[MOST], top = 0, most = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) top = key[i] > top ? key[i] : top;
    const int32_t first = (int32_t)(top >> shift) - (buckets - 1);
#define BUCKET(k) ((int32_t)((k) >> shift) > first ? (int32_t)((k) >> shift) - first : 0)
    memset(start, 0, (size_t)buckets * sizeof *start);
    memset(odd, 0, (size_t)buckets * sizeof *odd);
    int64_t k = 0;
    for (; k + 2 <= n; k += 2) { /* neighbours often share a bucket: two sets of counters */
        start[BUCKET(key[k])]++;
        odd[BUCKET(key[k + 1])]++;
    }
    if (k < n) start[BUCKET(key[k])]++;
    for (int b = 0; b < buckets; b++) {
        const uint32_t c = start[b] + odd[b];
        most = c > most ? c : most;
        start[b] = sum;
        sum += c;
    }
    start[buckets] = sum;
    if (most > n / 8 + 16) return false;
    const float low = (float)p0, high = (float)(p0 + step * (double)(n - 1));
    m->mix->below(u, NULL, low, mask, n);
    const int64_t open = m->mix->between(u, low, high, at, n);
    for (k = 0; k < open; k++) {
        const int64_t i = at[k];
        const int32_t b = BUCKET(key[i]);
        const float x = u[i];
        if (x >= (float)(p0 + step * (double)(start[b + 1] - 1))) continue;
        if (x < (float)(p0 + step * (double)start[b])) mask[i] = 1;
        else mask[i] = x < (float)(p0 + step * (double)m->mix->rank(key, key[i], i, n)) ? 1.0f : 0.0f;
    }
#undef BUCKET
    return true;
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
    const int64_t c = m->cols;
    const double step = c > 1 ? 2 * s->epsilon / (double)(c - 1) : 0, p0 = c > 1 ? s->density - s->epsilon : s->density;
    uint32_t *key = (uint32_t *)(void *)p;
    m->mix->keys(t->in[i], t->base, key, t->n);
    for (int64_t r = 0; r < t->rows; r++) {
        const int64_t at = r * c;
        int32_t *places = (int32_t *)(void *)t->wide[1]; /* [n + 16], and pairs[2 n]: wide[1] and wide[2] */
        if (!o->inverse && draw_row(m, key + at, u + at, c, p0, step, mask + at, places)) continue;
        ranked_row(key + at, c, p0, step, mask + at, (uint64_t *)(void *)t->wide[1]);
        for (int64_t k = at; k < at + c; k++) {
            const float probability = mask[k];
            mask[k] = u[k] < probability ? o->inverse ? 1 / probability : 1.0f : 0.0f;
        }
    }
}

static float magnitude(uint32_t key)
{
    float f;
    memcpy(&f, &key, sizeof f);
    return f;
}

/* What is kept of a tile: from <= |difference| < to, or false where some numbers that equal a
 * limit are kept and others are not. */
static bool range(const sy_merge *m, const sy_tile *t, int i, float *from, float *to)
{
    const own *o = m->own;
    const cut *lo = &o->of[i].at[0], *hi = &o->of[i].at[1];
    *from = 0;
    *to = INFINITY;
    if (o->of[i].how == DELTA_ALL) return true;
    if (lo->used) *from = magnitude(lo->key);
    if (hi->used) *to = magnitude(hi->key);
    for (int c = 0; c < CUTS; c++) {
        const cut *x = &o->of[i].at[c];
        if (!split(x)) continue;
        const double before = *ties_before(m, t->index, i, c), equal = *ties_before(m, t->index + 1, i, c) - before;
        const double first = (double)(x->less + x->equal - x->rank); /* so many equals, from the first on, rank above */
        if (equal > 0 && (lo->key == hi->key || (before < first && before + equal > first))) return false;
        const bool above = before + equal <= first; /* those of this tile */
        if (c == 0 && !above) *from = magnitude(lo->key + 1);
        if (c == 1 && !above) *to = magnitude(hi->key + 1);
    }
    return true;
}

static void cut_mask(const sy_merge *m, const sy_tile *t, int i, float *mask)
{
    const own *o = m->own;
    const cut *lo = &o->of[i].at[0], *hi = &o->of[i].at[1];
    uint32_t *key = (uint32_t *)(void *)t->wide[0];
    float from, to;
    m->mix->keys(t->in[i], t->base, key, t->n);
    const bool whole = range(m, t, i, &from, &to);
    double before[CUTS] = { whole ? 0 : *ties_before(m, t->index, i, 0), whole ? 0 : *ties_before(m, t->index, i, 1) };
    for (int64_t k = 0; k < t->n; k++) {
        const bool at_lo = !whole && split(lo) && key[k] == lo->key, at_hi = !whole && split(hi) && key[k] == hi->key;
        if (!at_lo && !at_hi) {
            const float d = magnitude(key[k]);
            mask[k] = whole ? d >= from && d < to : (!lo->used || key[k] >= lo->key) && (!hi->used || key[k] < hi->key);
            continue;
        }
        /* Among equals the later in the tensor has the lower rank. */
        const cut *c = at_lo ? lo : hi;
        const double rank = (double)(c->less + c->equal - 1) - before[at_lo ? 0 : 1];
        mask[k] = (!lo->used || rank >= (double)lo->rank) && (!hi->used || rank < (double)hi->rank) ? 1.0f : 0.0f;
        before[0] += at_lo;
        before[1] += at_hi;
    }
}

/* NULL: what lies in the range is kept. */
static const float *mask_of(const sy_merge *m, const sy_tile *t, int i, float *from, float *to)
{
    const own *o = m->own;
    const share *s = &o->of[i];
    *from = 0;
    *to = INFINITY;
    if (s->how == DELTA_ALL) return NULL;
    if (s->how == DELTA_LARGEST || s->how == DELTA_MIDDLE) {
        if (range(m, t, i, from, to)) return NULL;
        cut_mask(m, t, i, t->spare[i]);
    } else if (o->packed) {
        m->mix->unpack(bits(m, t, i), t->spare[i], t->n);
    } else {
        draw(m, t, i, t->spare[i]);
    }
    return t->spare[i];
}

/* -- passes -------------------------------------------------------------------------------------- */

static void pick(const sy_merge *m, sy_tile *t)
{
    const own *o = m->own;
    uint32_t *found = (uint32_t *)(void *)t->wide[0];
    for (int i = 0; i < m->n; i++)
        for (int k = 0; k < CUTS; k++) {
            const cut *c = &o->of[i].at[k];
            int64_t above = 0, at;
            if (!c->used) continue;
            const int64_t n = m->mix->pick(t->in[i], t->base, c->from, c->to, found, &above, t->n);
            int64_t *used = pool_used(m, c->pool);
#pragma omp atomic capture
            { at = *used; *used += n; }
            t->sum[2 * i + k] = (double)above;
            if (at + n > o->room) continue; /* too many: delta_sum sees it by `used` */
            memcpy(pool_at(m, c->pool) + at, found, (size_t)n * sizeof *found);
            *picked_of(m, t->index, i, k) = (picked){ (uint32_t)at, (uint32_t)n };
        }
}

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
        const uint32_t lo = s->at[0].used ? s->at[0].key : UINT32_MAX, hi = s->at[1].used ? s->at[1].key : UINT32_MAX;
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
        const cut *lo = &o->of[i].at[0], *hi = &o->of[i].at[1];
        int64_t n[CUTS] = { 0 };
        if (o->of[i].how == DELTA_ALL || !(split(lo) || split(hi))) continue;
        m->mix->keys(t->in[i], t->base, key, t->n);
        for (int64_t k = 0; k < t->n; k++) {
            n[0] += key[k] == lo->key;
            n[1] += key[k] == hi->key;
        }
        for (int k = 0; k < CUTS; k++) t->sum[2 * i + k] = split(&o->of[i].at[k]) ? (double)n[k] : 0;
    }
}

/* wide[0]: the sum whose sign is elected. */
static void add_up(const sy_merge *m, sy_tile *t, const float *const *mask, const float *from, const float *to)
{
    const own *o = m->own;
    for (int64_t k = 0; k < t->n; k++) t->wide[0][k] = 0;
    for (int i = 0; i < m->n; i++) {
        const double w = o->of[i].weight * o->of[i].scale;
        if (mask[i]) m->mix->add_masked(w, mask[i], t->in[i], t->base, t->wide[0], t->n);
        else if (o->of[i].how == DELTA_ALL) m->mix->add_delta(w, t->in[i], t->base, t->wide[0], t->n);
        else m->mix->add_range(w, from[i], to[i], t->in[i], t->base, t->wide[0], t->n);
    }
}

static void count_signs(const sy_merge *m, sy_tile *t)
{
    const float *mask[SY_MERGE_INPUTS];
    float from[SY_MERGE_INPUTS], to[SY_MERGE_INPUTS];
    for (int i = 0; i < m->n; i++) mask[i] = mask_of(m, t, i, &from[i], &to[i]);
    add_up(m, t, mask, from, to);
    for (int64_t k = 0; k < t->n; k++) {
        t->sum[0] += t->wide[0][k] > 0;
        t->sum[1] += t->wide[0][k] < 0;
    }
}

void delta_look(const sy_merge *m, int pass, sy_tile *t)
{
    const own *o = m->own;
    switch (o->kind[pass]) {
    case PICK: pick(m, t); return;
    case HIGH_BITS: count_high(m, t); return;
    case LOW_BITS: count_low(m, t); return;
    case TIES: count_ties(m, t); return;
    case SIGNS: count_signs(m, t); return;
    default: break;
    }
    for (int i = 0; i < m->n; i++) {
        float *mask = t->spare[i];
        if (o->of[i].how == DELTA_ALL) continue;
        if (o->packed) {
            draw(m, t, i, mask);
            m->mix->pack(mask, bits(m, t, i), t->n);
        } else {
            cut_mask(m, t, i, mask);
        }
        m->mix->abs_sums(t->in[i], t->base, mask, t->sum + 2 * i, t->n);
    }
}

/* The bucket of `counts` in which the number of this rank lies. */
static uint32_t find(const int64_t *counts, int64_t n, int64_t rank, int64_t *less)
{
    uint32_t b = 0;
    while (b + 1 < n && *less + counts[b] <= rank) *less += counts[b++];
    return b;
}

/* The limit among what was picked; false: it is not among it. */
static bool limit_of(sy_merge *m, int i, int k)
{
    own *o = m->own;
    cut *c = &o->of[i].at[k];
    const int64_t n = *pool_used(m, c->pool), below = m->count - (int64_t)m->total[2 * i + k] - n;
    const uint32_t *key = pool_at(m, c->pool);
    if (n > o->room) return false;
    if (c->rank < below && c->from == 1) { /* those below are zeros */
        c->key = 0;
        c->less = 0;
        c->equal = below;
        return true;
    }
    if (c->rank < below || c->rank >= below + n) return false;
    int64_t less = below;
    uint32_t from = c->from, to = c->to;
    for (;;) { /* 2048 parts of what is left, and the part that holds the rank */
        int64_t part[2048] = { 0 };
        int shift = 0;
        while ((to - from) >> shift >= 2048) shift++;
        for (int64_t j = 0; j < n; j++)
            if (key[j] >= from && key[j] <= to) part[(key[j] - from) >> shift]++;
        const uint32_t b = find(part, 2048, c->rank, &less);
        from += b << shift;
        if (shift == 0) {
            c->key = from;
            c->less = less;
            c->equal = part[b];
            return true;
        }
        to = from + ((1u << shift) - 1);
    }
}

static void ties_of_picked(sy_merge *m, int i, int k)
{
    own *o = m->own;
    const cut *c = &o->of[i].at[k];
    double before = 0;
    if (!split(c)) return;
    for (int64_t tile = 0; tile <= m->tiles; tile++) {
        *ties_before(m, tile, i, k) = before;
        if (tile == m->tiles) break;
        const picked p = *picked_of(m, tile, i, k);
        const uint32_t *key = pool_at(m, c->pool) + p.at;
        uint32_t n = 0;
        for (uint32_t j = 0; j < p.n; j++) n += key[j] == c->key;
        before += n;
    }
}

static void sum_picked(sy_merge *m)
{
    own *o = m->own;
    bool found = true;
    for (int i = 0; i < m->n && found; i++)
        for (int k = 0; k < CUTS && found; k++)
            if (o->of[i].at[k].used) found = limit_of(m, i, k);
    for (int i = 0; i < m->n && found; i++)
        for (int k = 0; k < CUTS; k++) ties_of_picked(m, i, k);
    if (found) return;
    for (int i = 0; i < m->n; i++)
        for (int k = 0; k < CUTS; k++) o->of[i].at[k].less = 0;
    m->counts = (int64_t)m->n * HIGH;
    pass_of(m, HIGH_BITS);
    pass_of(m, LOW_BITS);
}

/* Keys, and how many are less and equal, from the counters of the two counting passes. */
static void sum_counts(sy_merge *m, int kind, bool *ties)
{
    own *o = m->own;
    for (int i = 0; i < m->n; i++) {
        cut *lo = &o->of[i].at[0], *hi = &o->of[i].at[1];
        const int64_t *c = m->counted + (int64_t)i * HIGH;
        if (o->of[i].how == DELTA_ALL) continue;
        if (kind == HIGH_BITS) {
            lo->key = find(c, HIGH, lo->rank, &lo->less);
            hi->key = find(c, HIGH, hi->rank, &hi->less);
            continue;
        }
        const uint32_t a = find(c, LOW, lo->rank, &lo->less), b = find(c + LOW, LOW, hi->rank, &hi->less);
        lo->equal = c[a];
        hi->equal = c[LOW + b];
        lo->key = lo->key << 15 | a;
        hi->key = hi->key << 15 | b;
        *ties |= split(lo) || split(hi);
    }
}

sy_status delta_sum(const delta_options *self, sy_merge *m, int pass)
{
    own *o = m->own;
    const int kind = o->kind[pass];
    bool ties = false;
    switch (kind) {
    case PICK: sum_picked(m); break;
    case HIGH_BITS:
    case LOW_BITS:
        sum_counts(m, kind, &ties);
        if (ties) pass_of(m, TIES);
        break;
    case TIES:
        for (int i = 0; i < m->n; i++)
            for (int k = 0; k < CUTS; k++) {
                double before = self->world && self->world->before && k == 0 ? (double)self->world->before[m->index * m->n + i] : 0;
                for (int64_t tile = 0; tile <= m->tiles; tile++) {
                    *ties_before(m, tile, i, k) = before;
                    if (tile < m->tiles) before += m->part[tile * m->sums + 2 * i + k];
                }
            }
        break;
    case SIGNS: o->zero = m->total[0] >= m->total[1] ? 1 : -1; return SY_OK;
    default:
        for (int i = 0; i < m->n; i++) {
            const double before = m->total[2 * i], after = m->total[2 * i + 1];
            if (o->of[i].how != DELTA_ALL && before >= 1e-7 && after >= 1e-7) o->of[i].scale = before / after;
        }
        return SY_OK;
    }
    if (pass + 1 < m->passes || kind == HIGH_BITS) return SY_OK;
    if (o->rescale && !o->inverse) pass_of(m, SCALE);
    if (o->majority) pass_of(m, SIGNS);
    return SY_OK;
}

/* -- one limit for the whole model --------------------------------------------------------------- */

enum { WORLD_HIGH, WORLD_LOW, WORLD_TIES, WORLD_SIGNS };

int64_t delta_survey(delta_options *self, const sy_merging *job, int walk, const int64_t *counted)
{
    struct delta_world *w = self->world;
    const int64_t tensors = sy_merge_tensors(job);
    if (self->scope != 1 || !w) return 0;
    if (walk == 0) {
        const int64_t all = sy_merge_numbers(job);
        for (int i = 0; i < w->n; i++) {
            const int64_t keep = syi_max(1, (int64_t)(w->density[i] * (double)all));
            w->at[i] = (cut){ .rank = all - keep, .used = keep < all };
        }
        w->ready = true;
        w->zero = 1;
        w->stage = WORLD_HIGH;
        return (int64_t)w->n * HIGH;
    }
    bool ties = false;
    if (w->stage == WORLD_HIGH) {
        for (int i = 0; i < w->n; i++) w->at[i].key = find(counted + (int64_t)i * HIGH, HIGH, w->at[i].rank, &w->at[i].less);
        w->stage = WORLD_LOW;
        return (int64_t)w->n * LOW;
    }
    if (w->stage == WORLD_LOW) {
        for (int i = 0; i < w->n; i++) {
            const uint32_t b = find(counted + (int64_t)i * LOW, LOW, w->at[i].rank, &w->at[i].less);
            w->at[i].key = w->at[i].key << 15 | b;
            w->at[i].equal = counted[(int64_t)i * LOW + b];
            ties |= split(&w->at[i]);
        }
        w->stage = WORLD_TIES;
        if (ties) return tensors * w->n;
        counted = NULL;
    }
    if (w->stage == WORLD_TIES) {
        if (counted) {
            w->before = syi_calloc(w->ctx, (size_t)(tensors * w->n), sizeof *w->before);
            if (!w->before) return 0; /* the error is on the context; begin sees it */
            for (int64_t t = 1; t < tensors; t++)
                for (int i = 0; i < w->n; i++) w->before[t * w->n + i] = w->before[(t - 1) * w->n + i] + counted[(t - 1) * w->n + i];
        }
        w->stage = WORLD_SIGNS;
        return self->zero_sign == 1 ? 2 : 0;
    }
    if (counted) w->zero = counted[0] >= counted[1] ? 1 : -1;
    return 0;
}

void delta_glance(const delta_options *self, const sy_merge *m, sy_tile *t)
{
    const struct delta_world *w = self->world;
    uint32_t *key = (uint32_t *)(void *)t->wide[0];
    if (w->stage == WORLD_SIGNS) { /* ties at the limit are few: all of them count */
        for (int64_t k = 0; k < t->n; k++) t->wide[1][k] = 0;
        for (int i = 0; i < w->n; i++)
            m->mix->add_range(sy_merge_value(m, "weight", i), w->at[i].used ? magnitude(w->at[i].key) : 0, INFINITY, t->in[i], t->base, t->wide[1], t->n);
        for (int64_t k = 0; k < t->n; k++) {
            t->counts[0] += t->wide[1][k] > 0;
            t->counts[1] += t->wide[1][k] < 0;
        }
        return;
    }
    for (int i = 0; i < w->n; i++) {
        m->mix->keys(t->in[i], t->base, key, t->n);
        uint32_t *c = t->counts;
        const uint32_t limit = w->at[i].key;
        if (w->stage == WORLD_HIGH)
            for (int64_t k = 0; k < t->n; k++) c[(int64_t)i * HIGH + (key[k] >> 15)]++;
        else if (w->stage == WORLD_LOW)
            for (int64_t k = 0; k < t->n; k++) c[(int64_t)i * LOW + (key[k] & (LOW - 1))] += key[k] >> 15 == limit;
        else
            for (int64_t k = 0; k < t->n; k++) c[m->index * w->n + i] += key[k] == limit;
    }
}

void delta_free(delta_options *self)
{
    if (!self->world) return;
    syi_free(self->world->ctx, self->world->before);
    syi_free(self->world->ctx, self->world);
    self->world = NULL;
}

/* -- the result -------------------------------------------------------------------------------------- */

void delta_make(const sy_merge *m, sy_tile *t, bool elect)
{
    const own *o = m->own;
    double w[SY_MERGE_INPUTS], d[SY_MERGE_INPUTS], total = 0;
    float from[SY_MERGE_INPUTS], to[SY_MERGE_INPUTS];
    const float *mask[SY_MERGE_INPUTS];
    for (int i = 0; i < m->n; i++) {
        mask[i] = mask_of(m, t, i, &from[i], &to[i]);
        w[i] = o->of[i].weight * o->of[i].scale;
        total += d[i] = o->of[i].weight;
    }
    if (elect) {
        const syi_election how = { .w = w, .d = d, .from = from, .to = to, .count = o->count, .join = o->join, .lambda = o->lambda, .zero = o->zero };
        m->mix->elect(&how, m->n, t->in, mask, t->base, t->out, t->n);
        return;
    }
    add_up(m, t, mask, from, to);
    const double by = o->join == SYI_JOIN_MEAN && fabs(total) >= 1e-8 ? 1 / total : 1;
    m->mix->finish(o->lambda * by, t->wide[0], t->base, t->out, t->n);
}
