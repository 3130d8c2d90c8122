/* SPDX-License-Identifier: Apache-2.0 */
/* The work of a merge. Tensors go by in batches of a few million numbers: all tiles of a
 * batch are one pool of work for all threads, pass by pass, so small tensors and large
 * ones keep them equally busy. Reading (the next batch is asked of the system before this
 * one is worked on), computing, and writing (each tile as soon as it is made; the system
 * writes finished tensors out meanwhile) go on side by side. */
#include "run/_merge.h"

#include "tensor/convert.h"

#include <math.h>
#include <omp.h>

enum { TILE = 8192, SAMPLE = 16384, RUN = 16, BATCH_NUMBERS = 4 << 20, BATCH_TENSORS = 16, BATCH_COUNTING = 8 };

typedef struct {
    float *in[SY_MERGE_INPUTS + 1], *spare[SY_MERGE_INPUTS], *out;
    double *wide[3], *sum;
    void *bytes;
    void *block; /* all of the above */
} scratch;

typedef struct {
    syi_merge_tensor *t;
    sy_merge m;
    uint32_t *counts;    /* [threads][n_counts] */
    int64_t n_counts, tile_rows, first_tile;
} piece;

typedef struct {
    sy_merging *g;
    scratch *scratch; int threads;
    int64_t longest;     /* numbers of the longest tile                                  */
    int inputs, sums;
    piece piece[BATCH_TENSORS]; int n;
    syi_arena *arena;
} worker;

sy_context *sy_merge_context(const sy_merge *m) { return m->job->ctx; }

uint64_t sy_merge_key(const sy_merge *m, const char *purpose, int i)
{
    return syi_key(m->job->seed, purpose, m->name, i < 0 ? -1 : m->model[i]);
}

sy_status sy_merge_fail(const sy_merge *m, sy_status code, const char *fmt, ...)
{
    va_list args;
    char text[400];
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
#pragma omp critical(sy_merge_failed)
    if (m->job->failed == SY_OK) {
        m->job->failed = code;
        snprintf(m->job->why, sizeof m->job->why, "tensor %s: %s", m->name, text);
    }
    return code;
}

static bool failed(const sy_merging *g)
{
    int status;
#pragma omp atomic read
    status = ((sy_merging *)(uintptr_t)g)->failed;
    return status != SY_OK;
}

static sy_status verdict(sy_merging *g)
{
    return g->failed == SY_OK ? SY_OK : syi_fail(g->ctx, g->failed, "%s: %s", g->recipe.path, g->why);
}

/* -- setting up --------------------------------------------------------------------------- */

static int64_t tile_rows(const syi_merge_tensor *t) { return syi_max(1, TILE / syi_max(1, t->cols)); }

static void describe(sy_merging *g, syi_merge_tensor *t, sy_merge *m)
{
    *m = (sy_merge){ .name = t->name, .role = t->row ? t->row->role : SY_ROLE_NONE, .block = t->block, .rank = t->rank, .rows = t->rows, .cols = t->cols, .count = t->count,
                     .index = t - g->tensors, .n = t->n, .based = t->base != NULL, .model = t->model, .mix = g->mix, .value = t->value, .job = g, .of = t, .round = g->round, .global = t->global };
    memcpy(m->dim, t->dim, sizeof m->dim);
    if (t->row) m->linear = (t->row->flags & SY_TENSOR_LINEAR) && !t->vocab;
    else m->linear = t->rank == 2 && !t->vocab && syi_ends(t->name, "weight") && !strstr(t->name, "embed") && !strstr(t->name, "norm");
    m->tiles = syi_ceil_div(t->rows, tile_rows(t));
    m->per_tile = syi_min(tile_rows(t), t->rows) * t->cols;
}

static sy_status size_scratch(worker *w)
{
    sy_merging *g = w->g;
    w->longest = 1;
    for (int64_t i = 0; i < g->n; i++) {
        const syi_merge_tensor *t = &g->tensors[i];
        if (t->copy) continue;
        w->longest = syi_max(w->longest, syi_min(tile_rows(t), t->rows) * t->cols);
        if (t->n > w->inputs) w->inputs = t->n;
    }
    if (g->merger->sample) w->longest = syi_max(w->longest, SAMPLE);
    w->threads = syi_omp(g->ctx);
    w->scratch = syi_calloc(g->ctx, (size_t)w->threads, sizeof *w->scratch);
    if (!w->scratch) return SY_E_MEMORY;
    const int floats = w->inputs + 2 + (g->merger->spare ? w->inputs : 0);
    const int64_t one = syi_ceil_div(w->longest, 16) * 16; /* 64-byte steps */
    for (int i = 0; i < w->threads; i++) {
        scratch *s = &w->scratch[i];
        char *at = s->block = syi_pages(g->ctx, (size_t)one * ((size_t)floats * 4 + 3 * 8 + 8));
        if (!at) return SY_E_MEMORY;
        for (int k = 0; k < w->inputs + 1; k++, at += one * 4) s->in[k] = (float *)(void *)at;
        for (int k = 0; g->merger->spare && k < w->inputs; k++, at += one * 4) s->spare[k] = (float *)(void *)at;
        s->out = (float *)(void *)at;
        at += one * 4;
        for (int k = 0; k < 3; k++, at += one * 8) s->wide[k] = (double *)(void *)at;
        s->bytes = at;
    }
    return SY_OK;
}

static void free_scratch(worker *w)
{
    for (int i = 0; w->scratch && i < w->threads; i++)
        if (w->scratch[i].block) syi_pages_free(w->g->ctx, w->scratch[i].block);
    syi_free(w->g->ctx, w->scratch);
}

static void *batch_alloc(worker *w, int64_t bytes)
{
    return syi_arena_alloc(w->arena, (size_t)syi_max(bytes, 1));
}

/* The state's numbers; safetensors aligns f32 when nothing wider is in the file. */
static sy_status find_state(const sy_merging *g, sy_merge *m)
{
    const sy_entry *e = g->state ? sy_checkpoint_find(g->state, m->name) : NULL;
    if (!g->state) return SY_OK;
    if (!e || e->dtype != SY_F32 || e->bytes != m->count * 4 || (uintptr_t)e->data % sizeof(float) != 0)
        return syi_fail(g->ctx, SY_E_INPUT, "the state has no f32 tensor %s of %lld numbers: it is of another model", m->name, (long long)m->count);
    m->state = e->data;
    return SY_OK;
}

static sy_status begin_piece(worker *w, piece *p)
{
    sy_merging *g = w->g;
    sy_merge *m = &p->m;
    describe(g, p->t, m);
    p->tile_rows = tile_rows(p->t);
    SYI_TRY(find_state(g, m));
    if (g->merger->own && !(m->own = batch_alloc(w, (int64_t)g->merger->own))) return SY_E_MEMORY;
    if (g->merger->begin) SYI_TRY(g->merger->begin(g->use.self, m));
    SYI_TRY(verdict(g));
    p->n_counts = -1;
    m->total = batch_alloc(w, 8 * m->sums);
    m->part = batch_alloc(w, 8 * m->sums * m->tiles);
    m->keep = batch_alloc(w, m->kept);
    return m->total && m->part && m->keep ? SY_OK : SY_E_MEMORY;
}

/* Room for the counters of a pass, which may be more than those of the pass before. */
static sy_status counters(worker *w, piece *p)
{
    sy_merge *m = &p->m;
    if (m->counts > p->n_counts) {
        p->n_counts = m->counts;
        m->counted = batch_alloc(w, 8 * m->counts);
        p->counts = batch_alloc(w, 4 * m->counts * w->threads);
        if (!m->counted || !p->counts) return SY_E_MEMORY;
    }
    memset(m->part, 0, (size_t)(8 * m->sums * m->tiles));
    memset(p->counts, 0, (size_t)(4 * m->counts * w->threads));
    return SY_OK;
}

/* -- tiles -------------------------------------------------------------------------------------- */

static void load(const worker *w, const piece *p, scratch *s, int64_t index, const float **in, sy_tile *t)
{
    const syi_merge_tensor *x = p->t;
    *t = (sy_tile){ .index = index, .row = index * p->tile_rows, .in = in, .out = s->out, .wide = { s->wide[0], s->wide[1], s->wide[2] } };
    t->rows = syi_min(p->tile_rows, x->rows - t->row);
    t->first = t->row * x->cols;
    t->n = t->rows * x->cols;
    for (int i = 0; i < x->n; i++) {
        in[i] = syi_merge_in_rows(w->g, &x->in[i], t->row, t->rows, s->in[i]);
        t->spare[i] = s->spare[i];
    }
    if (x->base) t->base = syi_merge_in_rows(w->g, x->base, t->row, t->rows, s->in[w->inputs]);
    if (p->m.state) t->state = p->m.state + t->first;
}

static void check_inputs(const piece *p, const sy_tile *t)
{
    const sy_merging *g = p->m.job;
    for (int i = -1; i < p->t->n; i++) {
        const float *x = i < 0 ? t->base : t->in[i];
        if (!x || g->mix->finite(x, t->n)) continue;
        int64_t at = 0;
        while (at < t->n && isfinite(x[at])) at++;
        sy_merge_fail(&p->m, SY_E_NUMERIC, "number %lld in %s is not finite", (long long)(t->first + at), g->models[i < 0 ? p->t->base->model : p->t->model[i]].text);
        return;
    }
}

static bool makes_state(const sy_merging *g) { return g->merger->rounds > 1 && g->round == 0; }

static void write_tile(const worker *w, const piece *p, scratch *s, int64_t first, int64_t n, const float *values)
{
    const syi_merge_tensor *t = p->t;
    const bool state = makes_state(w->g);
    const sy_dtype dtype = state ? SY_F32 : t->dtype;
    const int64_t size = sy_dtype_block_bytes(dtype);
    const void *bytes = s->bytes;
    bool fits = w->g->mix->finite(values, n);
    for (int64_t i = 0; fits && dtype == SY_F16 && i < n; i++) fits = fabsf(values[i]) < 65520.0f;
    if (!fits) {
        sy_merge_fail(&p->m, SY_E_NUMERIC, "the result holds a number that is not finite or does not fit into %s", sy_dtype_name(dtype));
        return;
    }
    if (dtype == SY_F32) bytes = values;
    else if (dtype == SY_BF16) w->g->mix->to_bf16(values, s->bytes, n);
    else syi_from_f32(dtype, values, s->bytes, n);
    const int error = state ? syi_file_put(t->state_file, t->state_at + first * size, bytes, n * size) : syi_file_put(t->file, t->at + first * size, bytes, n * size);
    if (error) sy_merge_fail(&p->m, SY_E_IO, "writing into %s failed: %s; free some space and run the same command again: it goes on where it stopped", w->g->work, strerror(error));
}

static int64_t number_tiles(worker *w, int pass)
{
    int64_t tiles = 0;
    for (int i = 0; i < w->n; i++) {
        w->piece[i].first_tile = tiles;
        if (!w->piece[i].m.whole && (pass < 0 || pass < w->piece[i].m.passes)) tiles += w->piece[i].m.tiles;
    }
    return tiles;
}

static piece *piece_of(worker *w, int64_t tile)
{
    int lo = 0, hi = w->n - 1;
    while (lo < hi) {
        const int mid = (lo + hi + 1) / 2;
        if (w->piece[mid].first_tile <= tile) lo = mid;
        else hi = mid - 1;
    }
    return &w->piece[lo];
}

static void end_pass(worker *w, piece *p)
{
    sy_merge *m = &p->m;
    for (int k = 0; k < m->sums; k++) {
        double s = 0;
        for (int64_t i = 0; i < m->tiles; i++) s += m->part[i * m->sums + k];
        m->total[k] = s;
    }
    for (int64_t c = 0; c < m->counts; c++) m->counted[c] = 0;
    for (int i = 0; i < w->threads; i++)
        for (int64_t c = 0; c < m->counts; c++) m->counted[c] += p->counts[i * m->counts + c];
}

static sy_status look(worker *w, int pass)
{
    sy_merging *g = w->g;
    const int64_t tiles = number_tiles(w, pass);
    if (tiles == 0) return SY_OK;
    for (int i = 0; i < w->n; i++) {
        piece *p = &w->piece[i];
        if (!p->m.whole && pass < p->m.passes) SYI_TRY(counters(w, p));
    }
#pragma omp parallel for schedule(dynamic, 2) num_threads(w->threads)
    for (int64_t i = 0; i < tiles; i++) {
        piece *p = piece_of(w, i);
        scratch *s = &w->scratch[omp_get_thread_num()];
        const float *in[SY_MERGE_INPUTS];
        sy_tile t;
        if (failed(g)) continue;
        load(w, p, s, i - p->first_tile, in, &t);
        t.sum = p->m.part + t.index * p->m.sums;
        t.counts = p->counts + omp_get_thread_num() * p->m.counts;
        g->merger->look(g->use.self, &p->m, pass, &t);
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(w->threads)
    for (int i = 0; i < w->n; i++) {
        piece *p = &w->piece[i];
        if (p->m.whole || pass >= p->m.passes || failed(g)) continue;
        end_pass(w, p);
        if (g->merger->sum) g->merger->sum(g->use.self, &p->m, pass);
    }
    return verdict(g);
}

/* Runs of neighbours at equal distances, the same places in every input. */
static void sample(const worker *w, piece *p, scratch *s)
{
    const sy_merging *g = w->g;
    const syi_merge_tensor *x = p->t;
    const int64_t want = syi_min(syi_min(p->m.sample, w->longest), x->count), runs = syi_max(1, want / RUN);
    const float *in[SY_MERGE_INPUTS];
    sy_tile t = { .in = in, .wide = { s->wide[0], s->wide[1], s->wide[2] } };
    t.n = want < RUN ? want : runs * RUN;
    for (int k = 0; k < x->n + (x->base != NULL); k++) {
        float *to = s->in[k < x->n ? k : w->inputs];
        for (int64_t r = 0; r < runs; r++)
            syi_merge_in_run(g, &x->in[k], runs > 1 ? (x->count - RUN) * r / (runs - 1) : 0, want < RUN ? want : RUN, to + r * RUN, s->out);
        if (k < x->n) in[k] = to;
        else t.base = to;
    }
    g->merger->sample(g->use.self, &p->m, &t);
}

static sy_status samples(worker *w)
{
#pragma omp parallel for schedule(dynamic, 1) num_threads(w->threads)
    for (int i = 0; i < w->n; i++)
        if (!w->piece[i].m.whole && w->piece[i].m.sample > 0 && !failed(w->g)) sample(w, &w->piece[i], &w->scratch[omp_get_thread_num()]);
    return verdict(w->g);
}

static sy_status make(worker *w)
{
    sy_merging *g = w->g;
    const int64_t tiles = number_tiles(w, -1);
#pragma omp parallel for schedule(dynamic, 2) num_threads(w->threads)
    for (int64_t i = 0; i < tiles; i++) {
        piece *p = piece_of(w, i);
        scratch *s = &w->scratch[omp_get_thread_num()];
        const float *in[SY_MERGE_INPUTS];
        sy_tile t;
        if (failed(g)) continue;
        load(w, p, s, i - p->first_tile, in, &t);
        check_inputs(p, &t);
        g->merger->make(g->use.self, &p->m, &t);
        if (!failed(g)) write_tile(w, p, s, t.first, t.n, t.out);
    }
    return verdict(g);
}

/* -- whole tensors ---------------------------------------------------------------------------------- */

static void whole(worker *w, piece *p, scratch *s)
{
    sy_merging *g = w->g;
    const syi_merge_tensor *t = p->t;
    const float *in[SY_MERGE_INPUTS], *base = NULL;
    float *made[SY_MERGE_INPUTS + 2] = { NULL };
    bool ok = true;
    for (int i = 0; i < t->n + 2 && ok; i++) {
        if (i == t->n && !t->base) continue;
        const syi_merge_in *x = i < t->n ? &t->in[i] : t->base;
        const bool there = i <= t->n && (x->made || (x->entry->dtype == SY_F32 && !x->take && x->entry->permute_heads == 0));
        if (!there) ok = (made[i] = syi_pages(g->ctx, (size_t)t->count * sizeof(float))) != NULL;
        if (!ok || i > t->n) continue;
        const float *v = syi_merge_in_rows(g, x, 0, t->rows, made[i]);
        if (i < t->n) in[i] = v;
        else base = v;
    }
    sy_tile all = { .n = t->count, .in = in, .base = base };
    if (ok) check_inputs(p, &all);
    else sy_merge_fail(&p->m, SY_E_MEMORY, "no memory for %d tensors of %lld numbers at once", t->n + 2, (long long)t->count);
    if (ok && !failed(g)) g->merger->whole(g->use.self, &p->m, base, in, made[t->n + 1]);
    for (int64_t at = 0; ok && at < t->count && !failed(g); at += w->longest)
        write_tile(w, p, s, at, syi_min(w->longest, t->count - at), made[t->n + 1] + at);
    for (int i = 0; i < t->n + 2; i++)
        if (made[i]) syi_pages_free(g->ctx, made[i]);
}

static sy_status wholes(worker *w)
{
#pragma omp parallel for schedule(dynamic, 1) num_threads(w->threads)
    for (int i = 0; i < w->n; i++)
        if (w->piece[i].m.whole && !failed(w->g)) whole(w, &w->piece[i], &w->scratch[omp_get_thread_num()]);
    return verdict(w->g);
}

/* -- batches ------------------------------------------------------------------------------------------- */

static sy_status copy(const syi_merge_tensor *t)
{
    const syi_merge_in *x = t->base ? t->base : &t->in[0];
    const int error = syi_file_put(t->file, t->at, x->entry->data, t->bytes);
    return error ? syi_file_put_fail(t->file, error) : SY_OK;
}

static void with_inputs(const syi_merge_tensor *t, void (*advise)(const void *, int64_t))
{
    for (int k = 0; k < t->n + (t->base != NULL); k++) advise(t->in[k].entry->data, t->in[k].entry->bytes);
}

static sy_status want_inputs(sy_merging *g, const syi_merge_tensor *t)
{
    for (int k = 0; k < t->n + (t->base != NULL); k++) SYI_TRY(syi_merge_in_make(g, &t->in[k]));
    return SY_OK;
}

static void forget_inputs(sy_merging *g, const syi_merge_tensor *t)
{
    for (int k = 0; k < t->n + (t->base != NULL); k++) syi_merge_in_forget(g, &t->in[k]);
    with_inputs(t, syi_mapped_forget);
}

/* Where the batch that begins at `first` ends. */
static int64_t batch_end(const sy_merging *g, int64_t first, bool counting)
{
    int64_t numbers = 0, i = first;
    const int64_t most = counting ? BATCH_COUNTING : BATCH_TENSORS;
    for (; i < g->n && i - first < most; i++) {
        if (i > first && numbers + g->tensors[i].count > BATCH_NUMBERS) break;
        numbers += g->tensors[i].count;
    }
    return i;
}

static sy_status run_batch(worker *w, int64_t first, int64_t end)
{
    sy_merging *g = w->g;
    int passes = 0;
    w->n = 0;
    for (int64_t i = first; i < end; i++) {
        syi_merge_tensor *t = &g->tensors[i];
        if (t->done || t->count == 0) continue;
        if (t->copy) {
            if (!makes_state(g)) SYI_TRY(copy(t));
            continue;
        }
        SYI_TRY(want_inputs(g, t));
        w->piece[w->n].t = t;
        SYI_TRY(begin_piece(w, &w->piece[w->n]));
        w->n++;
    }
    if (w->n == 0) return SY_OK;
    if (g->merger->sample) SYI_TRY(samples(w));
    for (int pass = 0;; pass++) {
        for (int i = 0; i < w->n; i++)
            if (!w->piece[i].m.whole && w->piece[i].m.passes > passes) passes = w->piece[i].m.passes;
        if (pass >= passes) break;
        SYI_TRY(look(w, pass));
    }
    SYI_TRY(make(w));
    return wholes(w);
}

static void report(sy_merging *g, double began, int64_t done)
{
    const double seconds = syi_now() - began, rate = seconds > 0 ? (double)(done - g->resumed) / seconds : 0;
    const sy_progress p = { .what = "merge", .done = done, .total = g->n, .unit = "tensor", .seconds = seconds, .eta = rate > 0 ? (double)(g->n - done) / rate : -1,
                            .rate = rate, .rate_unit = "tensors", .loss = NAN, .bytes = syi_rss_now() };
    syi_progress(g->ctx, &p);
}

sy_status syi_merge_check(sy_merging *g)
{
    syi_arena *arena;
    SYI_TRY(syi_arena_new(g->ctx, 65536, &arena));
    sy_status st = SY_OK;
    for (int64_t i = 0; i < g->n && st == SY_OK; i++) {
        sy_merge m;
        const syi_mark mark = syi_arena_mark(arena);
        if (g->tensors[i].copy) continue;
        describe(g, &g->tensors[i], &m);
        m.own = syi_arena_alloc(arena, g->merger->own + 1);
        if (!m.own) st = SY_E_MEMORY;
        else if (g->merger->begin) st = g->merger->begin(g->use.self, &m);
        if (st == SY_OK || g->failed) st = verdict(g);
        g->counting |= m.counts > 0;
        g->largest_kept = syi_max(g->largest_kept, m.kept + 12 * m.counts + 8 * m.sums * m.tiles);
        if (m.whole) g->largest_whole = syi_max(g->largest_whole, m.count * (g->tensors[i].n + 2));
        syi_arena_rewind(arena, mark);
    }
    syi_arena_free(arena);
    return st;
}

int64_t syi_merge_memory(const sy_merging *g)
{
    int64_t longest = 1, batch = 0, held = 0;
    int inputs = 1;
    for (int64_t i = 0; i < g->n; i++) {
        longest = syi_max(longest, syi_min(tile_rows(&g->tensors[i]), g->tensors[i].rows) * g->tensors[i].cols);
        if (g->tensors[i].n > inputs) inputs = g->tensors[i].n;
        if (g->merger->holds) held += g->tensors[i].count * 4 * g->tensors[i].n;
        for (int k = 0; k < g->tensors[i].n; k++)
            if (g->tensors[i].in[k].fold) batch = syi_max(batch, g->tensors[i].count * 4 * 2);
    }
    const int64_t tiles = sy_threads(g->ctx) * longest * ((inputs + 2) * 4 * (g->merger->spare ? 2 : 1) + 32);
    return tiles + batch + held + sy_threads(g->ctx) * g->largest_whole * 4 + g->largest_kept + (24 << 20);
}

/* -- counting over the whole model ----------------------------------------------------------------------- */

static sy_status walk_tensor(worker *w, int walk, int64_t index, uint32_t *counts, int64_t n)
{
    sy_merging *g = w->g;
    piece p = { .t = &g->tensors[index], .tile_rows = tile_rows(&g->tensors[index]) };
    describe(g, p.t, &p.m);
    SYI_TRY(want_inputs(g, p.t));
#pragma omp parallel for schedule(dynamic, 2) num_threads(w->threads)
    for (int64_t i = 0; i < p.m.tiles; i++) {
        scratch *s = &w->scratch[omp_get_thread_num()];
        const float *in[SY_MERGE_INPUTS];
        sy_tile t;
        if (failed(g)) continue;
        load(w, &p, s, i, in, &t);
        if (walk == 0) check_inputs(&p, &t);
        t.counts = counts + omp_get_thread_num() * n;
        g->merger->glance(g->use.self, &p.m, walk, &t);
    }
    forget_inputs(g, p.t);
    return verdict(g);
}

static sy_status survey(worker *w)
{
    sy_merging *g = w->g;
    int64_t *counted = NULL, n;
    sy_status st = SY_OK;
    if (!g->merger->survey) return SY_OK;
    for (int walk = 0; st == SY_OK && (n = g->merger->survey(g->use.self, g, walk, counted)) > 0; walk++) {
        uint32_t *counts = syi_calloc(g->ctx, (size_t)(n * w->threads), sizeof *counts);
        syi_free(g->ctx, counted);
        counted = syi_calloc(g->ctx, (size_t)n, sizeof *counted);
        if (!counts || !counted) st = SY_E_MEMORY;
        int64_t since = 0;
        for (int64_t i = 0; st == SY_OK && i < g->n; i++) {
            if (g->tensors[i].copy || g->tensors[i].count == 0) continue;
            st = walk_tensor(w, walk, i, counts, n);
            since += g->tensors[i].count;
            if (since < 1 << 30 && i + 1 < g->n) continue; /* before a counter of 32 bits could be full */
            for (int64_t c = 0; c < n * w->threads; c++) counted[c % n] += counts[c], counts[c] = 0;
            since = 0;
        }
        for (int64_t c = 0; counts && counted && c < n * w->threads; c++) counted[c % n] += counts[c];
        syi_free(g->ctx, counts);
        if (st == SY_OK && sy_cancelled(g->ctx)) st = syi_fail(g->ctx, SY_E_CANCELLED, "interrupted while the whole model was surveyed; the same command begins again");
    }
    syi_free(g->ctx, counted);
    return st == SY_OK ? verdict(g) : st;
}

static sy_status one_round(worker *w, double began)
{
    sy_merging *g = w->g;
    sy_status st = SY_OK;
    for (int64_t first = 0, end; first < g->n && st == SY_OK; first = end) {
        end = batch_end(g, first, g->counting);
        for (int64_t i = end, next = batch_end(g, end, g->counting); i < next; i++)
            if (!g->tensors[i].done) with_inputs(&g->tensors[i], syi_mapped_want);
        const syi_mark mark = syi_arena_mark(w->arena);
        st = run_batch(w, first, end);
        syi_arena_rewind(w->arena, mark);
        for (int64_t i = first; i < end; i++) forget_inputs(g, &g->tensors[i]);
        bool fresh = false;
        for (int64_t i = first; i < end; i++) fresh |= !g->tensors[i].done;
        if (st == SY_OK && fresh) st = syi_merge_mark(g, first, end - first);
        if (st == SY_OK) report(g, began, end);
        if (st == SY_OK && sy_cancelled(g->ctx))
            st = syi_fail(g->ctx, SY_E_CANCELLED, "interrupted after %lld of %lld tensors; the same command goes on from there", (long long)end, (long long)g->n);
    }
    return st;
}

sy_status syi_merge_work(sy_merging *g)
{
    worker *w = syi_calloc(g->ctx, 1, sizeof *w);
    if (!w) return SY_E_MEMORY;
    w->g = g;
    const double began = syi_now();
    sy_status st = syi_arena_new(g->ctx, 1 << 20, &w->arena);
    if (st == SY_OK) st = size_scratch(w);
    if (st == SY_OK) st = survey(w);
    while (st == SY_OK) {
        st = one_round(w, began);
        if (st != SY_OK || !makes_state(g)) break;
        st = syi_merge_next(g);
    }
    free_scratch(w);
    syi_arena_free(w->arena);
    syi_free(g->ctx, w);
    return st;
}
