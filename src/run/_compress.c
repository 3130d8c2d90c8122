/* SPDX-License-Identifier: Apache-2.0 */
/* The schedule of compression: block by block, within a block the groups of linears that
 * share an input in the order in which the forward reaches them, each solved on inputs
 * that come from what has been compressed so far. Every finished unit goes to the journal;
 * one that is there already is taken from it, so that a run that died goes on with the
 * same bits. */
#include "run/compress.h"

#include "storage/weight.h"

#include <math.h>

enum { MAX_CHOICES = 512 };

/* -- sites ----------------------------------------------------------------------------------- */

static sy_status choose_sites(syi_compress *s)
{
    const sy_model *m = s->model;
    s->site = syi_arena_alloc(s->arena, (size_t)(m->n_sites + 1) * sizeof *s->site);
    s->report = syi_arena_alloc(s->arena, (size_t)(m->n_sites + 1) * sizeof *s->report);
    if (!s->site || !s->report) return SY_E_MEMORY;
    for (int b = 0; b < m->blocks; b++)
        for (int group = 0; group < 16; group++)
            for (int i = 0; i < m->n_sites; i++) {
                sy_site *x = &m->sites[i];
                bool yes = true, no = false;
                if (x->block != b || x->kind != SY_SITE_LINEAR || x->input_group != group) continue;
                if (s->targets.n) SYI_TRY(sy_site_match(s->ctx, x, &s->targets, &yes));
                if (s->excluded.n) SYI_TRY(sy_site_match(s->ctx, x, &s->excluded, &no));
                if (!yes || no) continue;
                if (x->weight->type->suffixes)
                    return syi_fail(s->ctx, SY_E_UNSUPPORTED, "%s is compressed already (stored as %s); start from the original model", x->name, x->weight->type->name);
                s->report[s->n_sites] = (syi_layer_report){.name = (char *)(uintptr_t)x->name, .block = b, .out = x->out, .in = x->in, .weight_error = NAN, .output_error = NAN};
                s->site[s->n_sites++] = x;
            }
    if (s->n_sites == 0) return syi_fail(s->ctx, SY_E_USAGE, "no linear is left to compress; check --target-modules and --exclude-modules");
    return SY_OK;
}

int syi_compress_index(const sy_calibration *c, const sy_site *site)
{
    for (int i = 0; i < c->owner->n_sites; i++)
        if (c->owner->site[i] == site) return i;
    return -1;
}

/* -- one layer ----------------------------------------------------------------------------------- */

sy_status syi_layer_begin(sy_calibration *c, const sy_site *site, sy_stats *stats, const float *w, sy_layer *layer)
{
    sy_context *ctx = c->ctx;
    const int64_t n = site->out * site->in;
    const int index = syi_compress_index(c, site);
    *layer = (sy_layer){.site = site, .out = site->out, .in = site->in, .index = index, .stats = stats, .choice = index >= 0 && c->owner->pick ? c->owner->pick[index] : -1};
    float *original = syi_alloc(ctx, (size_t)n * sizeof *original);
    layer->original = original;
    layer->w = syi_alloc(ctx, (size_t)n * sizeof *layer->w);
    sy_status st = original && layer->w ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK && w) memcpy(original, w, (size_t)n * sizeof *original);
    if (st == SY_OK && !w) {
        const sy_weight *from = syi_calibration_pair(c, site)->original;
        st = from->type->dense(ctx, from, 0, from->out, original);
    }
    for (int64_t i = 0; i < n && st == SY_OK; i++)
        if (!isfinite(original[i]))
            st = syi_fail(ctx, SY_E_INPUT, "%s: the weight holds %s (row %lld, column %lld); the checkpoint is damaged", site->name,
                          isnan(original[i]) ? "NaN" : "infinity", (long long)(i / site->in), (long long)(i % site->in));
    if (st != SY_OK) {
        syi_layer_free(c, layer);
        return st;
    }
    memcpy(layer->w, original, (size_t)n * sizeof *layer->w);
    if (index >= 0) c->owner->report[index].seconds = -syi_now();
    return SY_OK;
}

void syi_layer_free(sy_calibration *c, sy_layer *layer)
{
    syi_free(c->ctx, (void *)(uintptr_t)layer->original);
    syi_free(c->ctx, layer->w);
    syi_weight_free(c->ctx, layer->take);
    layer->original = layer->w = NULL;
    layer->take = NULL;
}

static double sum_of_squares(const float *x, int64_t n)
{
    double total = 0; /* in pieces: the same for any number of threads */
    for (int64_t i = 0; i < n; i += 4096) {
        double s = 0;
        for (int64_t j = i; j < syi_min(n, i + 4096); j++) s += (double)x[j] * (double)x[j];
        total += s;
    }
    return total;
}

/* tr(A XX A^T) */
static sy_status through(sy_calibration *c, const float *a, const float *xx, int64_t out, int64_t in, double *value)
{
    enum { ROWS = 256 };
    float *t = syi_alloc(c->ctx, (size_t)(ROWS * in) * sizeof *t);
    if (!t) return SY_E_MEMORY;
    sy_status st = SY_OK;
    *value = 0;
    for (int64_t r = 0; r < out && st == SY_OK; r += ROWS) {
        const int64_t n = syi_min(ROWS, out - r);
        st = syi_gemm(c->run->engine, n, in, in, 1, (syi_mat){SY_F32, a + r * in, in, false}, (syi_mat){SY_F32, xx, in, false}, 0, SY_F32, t, in);
        if (st == SY_OK) *value += syi_dot(c->run->engine, SY_F32, t, a + r * in, n * in);
    }
    syi_free(c->ctx, t);
    return st;
}

static sy_status measure(sy_calibration *c, const sy_layer *layer, const float *now, syi_layer_report *r)
{
    const int64_t out = layer->out, in = layer->in;
    float *d = layer->w, *xx = NULL; /* the solver is done with it */
    for (int64_t i = 0; i < out * in; i++) {
        if (!isfinite(now[i])) return syi_fail(c->ctx, SY_E_NUMERIC, "%s: the compressed weight holds a number that is not finite", layer->site->name);
        d[i] = (layer->absorbed ? now[i] * layer->absorbed[i % in] : now[i]) - layer->original[i];
    }
    const double whole = sum_of_squares(layer->original, out * in);
    r->weight_error = whole > 0 ? sum_of_squares(d, out * in) / whole : 0;
    if (!layer->stats || !layer->stats->xx) return SY_OK;
    double error = 0, size = 0;
    xx = syi_pages(c->ctx, (size_t)(in * in) * sizeof *xx);
    sy_status st = xx ? SY_OK : SY_E_MEMORY;
    for (int64_t i = 0; st == SY_OK && i < in * in; i++) xx[i] = (float)layer->stats->xx[i];
    if (st == SY_OK) st = through(c, d, xx, out, in, &error);
    if (st == SY_OK) st = through(c, layer->original, xx, out, in, &size);
    syi_pages_free(c->ctx, xx);
    r->output_error = size > 0 ? error / size : 0;
    return st;
}

static sy_status keep_made(syi_compress *s, const sy_site *site, sy_weight *take)
{
    if (!s->made) s->made = syi_arena_alloc(s->arena, (size_t)(s->model->n_sites + 1) * sizeof *s->made);
    if (!s->made) return SY_E_MEMORY;
    s->made[s->n_made].module = site->name;
    s->made[s->n_made++].weight = take;
    return SY_OK;
}

sy_weight *syi_compress_made(sy_calibration *c, const sy_site *site)
{
    for (int i = 0; i < c->owner->n_made; i++)
        if (strcmp(c->owner->made[i].module, site->name) == 0) return c->owner->made[i].weight;
    return NULL;
}

static void forget_made(syi_compress *s)
{
    for (int i = 0; i < s->n_made; i++) syi_weight_free(s->ctx, s->made[i].weight);
    for (int i = 0; i < s->n_vectors; i++) syi_free(s->ctx, s->vector[i].data);
    s->n_made = s->n_vectors = 0;
}

sy_status syi_compress_vector(sy_calibration *c, sy_param *param, const float *v)
{
    syi_compress *s = c->owner;
    const int64_t n = sy_tensor_count(&param->value);
    SYI_TRY(syi_calibration_put_vector(c, param, v));
    if (!s->vector) s->vector = syi_arena_alloc(s->arena, (size_t)(s->model->n_params + 1) * sizeof *s->vector);
    if (!s->vector) return SY_E_MEMORY;
    int at = 0;
    while (at < s->n_vectors && s->vector[at].param != param) at++;
    if (at == s->n_vectors) {
        s->vector[at].data = syi_alloc(s->ctx, (size_t)n * sizeof(float));
        if (!s->vector[at].data) return SY_E_MEMORY;
        s->vector[at].param = param;
        s->n_vectors++;
    }
    memcpy(s->vector[at].data, v, (size_t)n * sizeof *v);
    return SY_OK;
}

static void progress(syi_compress *s, const char *what, int done)
{
    const double seconds = syi_now() - s->c->busy;
    (void)seconds;
    syi_progress(s->ctx, &(sy_progress){.what = what, .done = done, .total = s->n_sites, .unit = "layer", .eta = -1, .loss = NAN, .bytes = syi_rss_now()});
}

static sy_status keep_as_is(sy_calibration *c, sy_layer *layer, syi_layer_report *r)
{
    syi_compress *s = c->owner;
    const sy_weight *w = syi_calibration_pair(c, layer->site)->original;
    r->bits = w->type->bits(w);
    r->bytes = (int64_t)(r->bits * (double)(layer->out * layer->in) / 8);
    r->weight_error = r->output_error = 0;
    r->seconds += syi_now();
    snprintf(r->note, sizeof r->note, "%s", layer->note);
    s->kept = layer->site->name;
    const sy_status st = s->block_unit ? SY_OK : syi_journal_save(s, layer->site->name);
    s->kept = NULL;
    syi_layer_free(c, layer);
    return st;
}

sy_status syi_layer_end(sy_calibration *c, sy_layer *layer)
{
    syi_compress *s = c->owner;
    syi_layer_report spare = {0}, *r = layer->index >= 0 ? &s->report[layer->index] : &spare;
    sy_weight *take = layer->take;
    if (layer->keep && !take) return keep_as_is(c, layer, r);
    sy_status st = take ? SY_OK : syi_fail(c->ctx, SY_E_BUG, "%s: the method gave no weight", layer->site->name);
    float *now = syi_alloc(c->ctx, (size_t)(layer->out * layer->in) * sizeof *now);
    if (st == SY_OK && !now) st = SY_E_MEMORY;
    if (st == SY_OK) st = take->type->dense(c->ctx, take, 0, take->out, now);
    if (st == SY_OK) st = measure(c, layer, now, r);
    if (st == SY_OK) st = syi_calibration_put(c, layer->site, now);
    syi_free(c->ctx, now);
    if (st == SY_OK) {
        r->bits = take->type->bits(take);
        r->bytes = syi_weight_bytes(take);
        r->seconds += syi_now();
        snprintf(r->note, sizeof r->note, "%s", layer->note);
        st = keep_made(s, layer->site, take);
        if (st == SY_OK) layer->take = NULL;
    }
    if (st == SY_OK && !s->block_unit) {
        st = syi_journal_save(s, layer->site->name);
        forget_made(s);
    }
    if (st == SY_OK) progress(s, "compress", layer->index + 1);
    syi_layer_free(c, layer);
    return st;
}

/* -- the ordinary schedule of a block ---------------------------------------------------------------- */

static sy_status solve_layer(syi_compress *s, sy_site *site, sy_stats *stats)
{
    sy_layer layer;
    SYI_TRY(syi_layer_begin(s->c, site, stats, NULL, &layer));
    sy_status st = s->use.method->solve(s->use.self, s->run, &layer);
    if (st == SY_OK) return syi_layer_end(s->c, &layer);
    syi_layer_free(s->c, &layer);
    return st == SY_E_CANCELLED ? st : syi_fail_at(s->ctx, st, "%s", site->name);
}

/* Linears of one input: sites [first, end) of the list. */
static sy_status solve_group(syi_compress *s, int first, int end)
{
    const sy_method *method = s->use.method;
    unsigned want = 0;
    bool there[8] = {false}, all = true;
    for (int i = first; i < end; i++) {
        SYI_TRY(syi_journal_load(s, s->site[i]->name, &there[i - first]));
        forget_made(s);
        all &= there[i - first];
        if (there[i - first]) continue;
        if (method->needs) want |= method->needs(s->use.self, s->run, s->site[i]);
    }
    if (all) return SY_OK;
    sy_stats *stats = NULL;
    if (want)
        SYI_TRY(syi_calibration_stats(s->c, s->site[first], syi_site_part(s->model, s->site[first]), want, 512, (method->caps & SY_CAP_SEES_ORIGINAL) != 0, &stats));
    sy_status st = SY_OK;
    for (int i = first; i < end && st == SY_OK; i++)
        if (!there[i - first]) st = solve_layer(s, s->site[i], stats);
    syi_stats_free(s->ctx, stats);
    return st;
}

static int group_end(const syi_compress *s, int first)
{
    int end = first + 1;
    while (end < s->n_sites && end < first + 8 && s->site[end]->block == s->site[first]->block && s->site[end]->input_group == s->site[first]->input_group) end++;
    return end;
}

static sy_status solve_block(syi_compress *s, int block, int *next)
{
    const int parts = (int)syi_max(1, s->model->arch->parts);
    SYI_TRY(syi_calibration_block(s->c, block));
    if (s->use.method->block) {
        char unit[32];
        bool there;
        snprintf(unit, sizeof unit, "block-%d", block);
        SYI_TRY(syi_journal_load(s, unit, &there));
        sy_status st = SY_OK;
        if (there) {
            for (int part = 0; part < parts && st == SY_OK; part++) st = syi_calibration_push(s->c, block, part);
        } else {
            s->block_unit = true;
            st = s->use.method->block(s->use.self, s->run, s->c, block);
            if (st == SY_OK) st = syi_journal_save(s, unit);
        }
        forget_made(s);
        s->block_unit = false;
        return st;
    }
    for (int part = 0; part < parts; part++) {
        while (*next < s->n_sites && s->site[*next]->block == block && syi_site_part(s->model, s->site[*next]) == part) {
            const int end = group_end(s, *next);
            SYI_TRY(solve_group(s, *next, end));
            *next = end;
        }
        SYI_TRY(syi_calibration_push(s->c, block, part));
    }
    return SY_OK;
}

/* -- allocation: a pass over the original model ---------------------------------------------------------- */

static sy_status profile_group(syi_compress *s, int first, int end, sy_choice *all, int *n)
{
    const sy_method *method = s->use.method;
    unsigned want = 0;
    for (int i = first; i < end; i++)
        if (method->needs) want |= method->needs(s->use.self, s->run, s->site[i]) & ~(unsigned)SY_STAT_DX;
    sy_stats *stats = NULL;
    if (want) SYI_TRY(syi_calibration_stats(s->c, s->site[first], syi_site_part(s->model, s->site[first]), want, 512, true, &stats));
    sy_status st = SY_OK;
    for (int i = first; i < end && st == SY_OK; i++) {
        sy_layer layer;
        int found = 0;
        st = syi_layer_begin(s->c, s->site[i], stats, NULL, &layer);
        if (st != SY_OK) break;
        st = method->profile(s->use.self, s->run, &layer, all + *n, MAX_CHOICES, &found);
        for (int k = 0; k < found; k++) all[*n + k].item = i;
        *n += found;
        syi_layer_free(s->c, &layer);
        progress(s, "profile", i + 1);
    }
    syi_stats_free(s->ctx, stats);
    return st;
}

static sy_status allocate(syi_compress *s, sy_dataset *const set[2], const int64_t windows[2], int64_t seq, const syi_calibration_options *o)
{
    const sy_method *method = s->use.method;
    bool there;
    if (!method->profile) return SY_OK;
    s->pick = syi_arena_alloc(s->arena, (size_t)s->n_sites * sizeof *s->pick);
    if (!s->pick) return SY_E_MEMORY;
    SYI_TRY(syi_journal_choices(s, false, &there));
    if (there) return SY_OK;
    sy_choice *all = syi_alloc(s->ctx, (size_t)s->n_sites * MAX_CHOICES * sizeof *all);
    if (!all) return SY_E_MEMORY;
    int n = 0;
    syi_calibration_options original = *o;
    memset(original.runs, 0, sizeof original.runs);
    original.runs[SYI_ORIGINAL][SYI_CALIB] = true;
    sy_status st = syi_calibration_open(s->run, set, windows, seq, &original, &s->c);
    if (st == SY_OK) s->c->owner = s;
    const int parts = (int)syi_max(1, s->model->arch->parts);
    int next = 0;
    for (int b = 0; b < s->model->blocks && st == SY_OK; b++) {
        st = syi_calibration_block(s->c, b);
        for (int part = 0; part < parts && st == SY_OK; part++) {
            while (st == SY_OK && next < s->n_sites && s->site[next]->block == b && syi_site_part(s->model, s->site[next]) == part) {
                const int end = group_end(s, next);
                st = profile_group(s, next, end, all, &n);
                next = end;
            }
            if (st == SY_OK) st = syi_calibration_push(s->c, b, part);
        }
    }
    syi_calibration_close(s->c);
    s->c = NULL;
    int *index = syi_calloc(s->ctx, (size_t)s->n_sites, sizeof *index);
    if (st == SY_OK && !index) st = SY_E_MEMORY;
    if (st == SY_OK && method->allocate) st = method->allocate(s->use.self, s->run, all, n, s->n_sites, index);
    else if (st == SY_OK)
        for (int i = n - 1; i >= 0; i--) index[all[i].item] = i;
    for (int i = 0; st == SY_OK && i < s->n_sites; i++) s->pick[i] = all[index[i]].tag;
    syi_free(s->ctx, index);
    syi_free(s->ctx, all);
    return st == SY_OK ? syi_journal_choices(s, true, &there) : st;
}

/* -- all of it ------------------------------------------------------------------------------------------------ */

sy_status syi_compress_all(syi_compress *s, sy_dataset *const set[2], const int64_t windows[2], int64_t seq, int64_t limit)
{
    const sy_method *method = s->use.method;
    unsigned want = 0;
    SYI_TRY(choose_sites(s));
    for (int i = 0; i < s->n_sites && method->needs; i++) want |= method->needs(s->use.self, s->run, s->site[i]);
    if ((want || method->block) && !set[SYI_CALIB])
        return syi_fail(s->ctx, SY_E_USAGE, "%s looks at inputs: give it text with --calib (.txt or .jsonl, a few hundred lines are enough)", method->name);
    const bool original = (method->caps & SY_CAP_SEES_ORIGINAL) != 0;
    syi_calibration_options o = {.spill = s->journal, .memory_limit = limit};
    o.runs[SYI_ORIGINAL][SYI_HELDOUT] = o.runs[SYI_STUDENT][SYI_HELDOUT] = set[SYI_HELDOUT] != NULL;
    o.runs[SYI_STUDENT][SYI_CALIB] = (want || method->block) && !original;
    o.runs[SYI_ORIGINAL][SYI_CALIB] = (want & SY_STAT_DX) || ((want || method->block) && original);
    SYI_TRY(allocate(s, set, windows, seq, &o));
    SYI_TRY(syi_calibration_open(s->run, set, windows, seq, &o, &s->c));
    s->c->owner = s;
    sy_status st = SY_OK;
    int next = 0;
    for (int b = 0; b < s->model->blocks && st == SY_OK; b++) st = solve_block(s, b, &next);
    if (st == SY_OK) st = syi_calibration_block(s->c, s->model->blocks);
    if (st == SY_OK && method->on) st = method->on(s->use.self, s->run, SY_STOP);
    if (st == SY_OK) st = syi_calibration_loss(s->c, SYI_ORIGINAL, &s->loss_before, &s->heldout_tokens);
    if (st == SY_OK) st = syi_calibration_loss(s->c, SYI_STUDENT, &s->loss_after, &s->heldout_tokens);
    forget_made(s);
    syi_calibration_close(s->c);
    s->c = NULL;
    return st;
}

/* -- the plan --------------------------------------------------------------------------------------------------- */

sy_status syi_compress_plan(syi_compress *s, const int64_t windows[2], int64_t seq)
{
    const sy_model *m = s->model;
    int64_t states = 0, block = 0, work = 0;
    unsigned all = 0;
    SYI_TRY(choose_sites(s));
    for (int i = 0; i < s->n_sites; i++) {
        const unsigned want = s->use.method->needs ? s->use.method->needs(s->use.self, s->run, s->site[i]) : 0;
        const int64_t n = s->site[i]->out * s->site[i]->in;
        all |= want;
        if (s->site[i]->block == s->site[0]->block) block += n * 4;
        /* statistics, their factor and products with it; the weight, its copy, its codes */
        work = syi_max(work, 3 * syi_stats_bytes(s->site[i]->in, want, 512) + 6 * n * 4);
    }
    const int64_t row = seq * m->hidden * sy_dtype_block_bytes(m->dtype);
    states = windows[SYI_HELDOUT] * row * 2 + windows[SYI_CALIB] * row * ((all & SY_STAT_DX) ? 2 : all || s->use.method->block ? 1 : 0);
    const int64_t total = (48 << 20) + states + block + work;
    char text[4][32];
    json_object_set_new(syi_job_report(s->job), "plan_bytes", json_integer(total));
    syi_job_receipt(s->job, "memory    about %s planned: hidden states %s, one block %s, one layer's statistics and work %s; %d layers", syi_human_bytes(text[0], total),
                    syi_human_bytes(text[1], states), syi_human_bytes(text[2], block), syi_human_bytes(text[3], work), s->n_sites);
    return SY_OK;
}
