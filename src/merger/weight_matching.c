/* SPDX-License-Identifier: Apache-2.0 */
/* Re-basin by weight matching: hidden units of independently trained networks are permuted
 * onto each other, so that their weights can be averaged. The networks are held in memory
 * as f32, since a unit of the residual stream touches every tensor.
 *
 * Two models: theta = (1 - lambda) a + lambda pi(b). More: each in turn is matched to the mean
 * of the others until that changes nothing (MergeMany), or all to the first (anchor); then the
 * mean. With `scores`, matrices of second moments of activations (one per group, from data
 * run through both networks) take the place of the weights: activation matching. */
#include "_rebasin.h"

#include "run/_merge.h"
#include "tensor/lap.h"
#include "tensor/orth.h"

#include <math.h>

typedef struct {
    int64_t max_iter, restarts;
    double lambda;
    bool normalize, measure;
    int many;
    char *scores, *permutations;
    /* the merge's own */
    sy_context *ctx;
    syi_arena *arena;
    rebasin r;
    float **copy[SY_MERGE_INPUTS];     /* [model][tensor], moved                            */
    rebasin_perm perm[SY_MERGE_INPUTS];
    syi_map *names;
    int n;
} matching;

static const char *const manys[] = { "mergemany", "anchor", NULL };

static const sy_option rows[] = {
    { .name = "max-iter", .type = SY_OPT_INT, .offset = offsetof(matching, max_iter), .def = "100", .min = 1, .max = 1000000, .help = "most sweeps over the groups of units", .example = "20" },
    { .name = "restarts", .type = SY_OPT_INT, .offset = offsetof(matching, restarts), .def = "1", .min = 1, .max = 1000, .help = "orders of the groups to try; the best match is kept", .example = "3" },
    { .name = "lambda", .type = SY_OPT_FLOAT, .offset = offsetof(matching, lambda), .def = "0.5", .min = 0, .max = 1, .help = "0 is the first of two models, 1 the second, moved", .example = "0.3" },
    { .name = "normalize", .type = SY_OPT_BOOL, .offset = offsetof(matching, normalize), .def = "off", .help = "compare units at unit length, tensor by tensor", .example = "on" },
    { .name = "many", .type = SY_OPT_ENUM, .offset = offsetof(matching, many), .def = "mergemany", .choices = manys, .help = "three and more models: each to the mean of the others, or all to the first",
      .example = "anchor" },
    { .name = "measure", .type = SY_OPT_BOOL, .offset = offsetof(matching, measure), .def = "off", .help = "report how well singular vectors align, before and after (R)", .example = "on" },
    { .name = "scores", .type = SY_OPT_PATH, .offset = offsetof(matching, scores), .help = "safetensors with one matrix per group to match by instead of the weights (activations)", .example = "scores.safetensors" },
    { .name = "permutations", .type = SY_OPT_PATH, .offset = offsetof(matching, permutations), .help = "folder for what was found: modelN.safetensors, one vector per group", .example = "perms" },
    { .name = NULL }
};

/* -- reading ------------------------------------------------------------------------------------- */

static sy_status read_all(matching *o, sy_merging *job)
{
    SYI_TRY(syi_map_new(o->ctx, &o->names));
    o->r.tensor = syi_arena_alloc(o->arena, (size_t)job->n * sizeof *o->r.tensor);
    for (int k = 0; k < o->n; k++)
        if (!(o->copy[k] = syi_arena_alloc(o->arena, (size_t)job->n * sizeof **o->copy))) return SY_E_MEMORY;
    if (!o->r.tensor) return SY_E_MEMORY;
    for (int64_t i = 0; i < job->n; i++) {
        syi_merge_tensor *t = &job->tensors[i];
        if (t->copy) continue;
        const int at = o->r.n_tensors++;
        o->r.tensor[at] = (rebasin_tensor){ .name = t->name, .rank = t->rank, .count = t->count };
        memcpy(o->r.tensor[at].dim, t->dim, sizeof t->dim);
        SYI_TRY(syi_map_set(o->names, t->name, strlen(t->name), at));
        for (int k = 0; k < o->n; k++) {
            float *to = o->copy[k][at] = syi_arena_alloc(o->arena, (size_t)syi_max(1, t->count) * sizeof *to);
            if (!to) return SY_E_MEMORY;
            SYI_TRY(syi_merge_in_make(job, &t->in[k]));
            const float *from = syi_merge_in_rows(job, &t->in[k], 0, t->rows, to);
            if (from != to) memcpy(to, from, (size_t)t->count * sizeof *to);
            syi_merge_in_forget(job, &t->in[k]);
            if (!job->mix->finite(to, t->count))
                return syi_fail(o->ctx, SY_E_NUMERIC, "%s: tensor %s holds numbers that are not finite", job->models[t->model[k]].text, t->name);
        }
    }
    return SY_OK;
}

static sy_status find_groups(matching *o, sy_merging *job)
{
    const syi_source *s = job->models[job->donor].source;
    void *config = NULL;
    syi_perm *perms;
    int n;
    if (!job->arch) return syi_fail(o->ctx, SY_E_UNSUPPORTED, "%s: weight_matching needs to know the architecture, to see which units may change places", job->models[job->donor].text);
    SYI_TRY(syi_arch_config(o->ctx, job->arch, s->config, o->arena, &config));
    SYI_TRY(syi_arch_perms(o->ctx, job->arch, config, o->arena, &perms, &n));
    return rebasin_begin(&o->r, perms, n);
}

/* -- how well singular vectors align ---------------------------------------------------------------------- */

/* Adds to *sum and *count for one matrix: <U_a V_a^T, U_b V_b^T> over vectors with s >= gamma s_1. */
static sy_status align(sy_context *ctx, int64_t m, int64_t n, const float *a, const float *b, const double *gamma, int n_gamma, double *sum, double *count)
{
    const int64_t q = syi_min(m, n), each = q * (m + n + 1);
    double *x = syi_alloc(ctx, (size_t)(m * n + 2 * each + 2 * q * q) * sizeof *x);
    if (!x) return SY_E_MEMORY;
    double *part[2] = { x + m * n, x + m * n + each }, *uu = part[1] + each, *vv = uu + q * q;
    sy_status st = SY_OK;
    for (int k = 0; k < 2 && st == SY_OK; k++) {
        for (int64_t i = 0; i < m * n; i++) x[i] = (double)(k ? b : a)[i];
        st = syi_leading(ctx, m, n, x, q, part[k], part[k] + q * (m + n), part[k] + q * m);
    }
    for (int g = 0; g < n_gamma && st == SY_OK; g++) {
        int64_t kept[2] = { 0, 0 };
        for (int k = 0; k < 2; k++)
            while (kept[k] < q && part[k][q * (m + n) + kept[k]] >= gamma[g] * part[k][q * (m + n)]) kept[k]++;
        syi_mul_f64(false, true, kept[0], kept[1], m, 1, part[0], part[1], 0, uu);
        syi_mul_f64(false, true, kept[0], kept[1], n, 1, part[0] + q * m, part[1] + q * m, 0, vv);
        for (int64_t i = 0; i < kept[0] * kept[1]; i++) sum[g] += uu[i] * vv[i];
        count[g] += (double)syi_min(kept[0], kept[1]);
    }
    syi_free(ctx, x);
    return st;
}

static sy_status measure(matching *o, sy_merging *job, const char *when)
{
    static const double gamma[] = { 0, 0.3 };
    static const char *const keys[] = { "r_0", "r_0.3" };
    double sum[2] = { 0 }, count[2] = { 0 };
    char key[64];
    for (int t = 0; t < o->r.n_tensors; t++) {
        const rebasin_tensor *x = &o->r.tensor[t];
        if (x->rank < 2 || strstr(x->name, "embed")) continue;
        SYI_TRY(align(o->ctx, x->dim[0], x->count / x->dim[0], o->copy[0][t], o->copy[1][t], gamma, 2, sum, count));
    }
    for (int g = 0; g < 2; g++) {
        snprintf(key, sizeof key, "%s_%s", keys[g], when);
        SYI_TRY(sy_merge_report(job, key, count[g] > 0 ? sum[g] / count[g] : 0));
    }
    return SY_OK;
}

/* -- searching ---------------------------------------------------------------------------------------------- */

/* By given scores: every group that has some. */
static sy_status by_scores(matching *o)
{
    sy_checkpoint *ck;
    int used = 0;
    SYI_TRY(sy_checkpoint_open(o->ctx, o->scores, &ck));
    sy_status st = SY_OK;
    for (int g = 0; g < o->r.n_groups && st == SY_OK; g++) {
        const int64_t n = o->r.group[g].units;
        const sy_entry *e = sy_checkpoint_find(ck, o->r.group[g].name);
        if (!e || o->r.group[g].parent >= 0) continue;
        float *f = syi_alloc(o->ctx, (size_t)(n * n) * sizeof *f);
        double *score = syi_alloc(o->ctx, (size_t)(n * n) * sizeof *score);
        int64_t *p = syi_alloc(o->ctx, (size_t)n * sizeof *p);
        st = f && score && p ? SY_OK : SY_E_MEMORY;
        if (st == SY_OK && (e->rank != 2 || e->dim[0] != n || e->dim[1] != n))
            st = syi_fail(o->ctx, SY_E_INPUT, "%s: %s must be a matrix of %lld x %lld", o->scores, e->name, (long long)n, (long long)n);
        if (st == SY_OK) st = sy_entry_read_f32(o->ctx, e, 0, n, f);
        for (int64_t i = 0; st == SY_OK && i < n * n; i++) score[i] = (double)f[i];
        if (st == SY_OK) st = syi_lap(o->ctx, n, score, p, NULL);
        if (st == SY_OK) st = rebasin_move(&o->r, g, p, o->copy[1], &o->perm[1]);
        used++;
        syi_free(o->ctx, f);
        syi_free(o->ctx, score);
        syi_free(o->ctx, p);
    }
    sy_checkpoint_close(ck);
    return st == SY_OK && used == 0 ? syi_fail(o->ctx, SY_E_INPUT, "%s: no matrix has the name of a group of units (the first is %s)", o->scores, o->r.group[0].name) : st;
}

static sy_status fresh(matching *o, float ***out, const float *const *from)
{
    float **x = syi_alloc(o->ctx, (size_t)o->r.n_tensors * sizeof *x);
    if (!x) return SY_E_MEMORY;
    *out = x;
    for (int t = 0; t < o->r.n_tensors; t++) x[t] = NULL;
    for (int t = 0; t < o->r.n_tensors; t++) {
        const size_t bytes = (size_t)syi_max(1, o->r.tensor[t].count) * sizeof **x;
        x[t] = syi_alloc(o->ctx, bytes);
        if (!x[t]) return SY_E_MEMORY;
        if (from) memcpy(x[t], from[t], bytes);
    }
    return SY_OK;
}

static void drop(matching *o, float **x)
{
    for (int t = 0; x && t < o->r.n_tensors; t++) syi_free(o->ctx, x[t]);
    syi_free(o->ctx, x);
}

/* The best of `restarts` searches, each from where b is. */
static sy_status match_to(matching *o, const float *const *a, int b, uint64_t key, int64_t *sweeps)
{
    float **best = NULL, **trial = NULL;
    double least = INFINITY;
    if (o->restarts == 1) return rebasin_match(&o->r, a, o->copy[b], o->max_iter, key, &o->perm[b], sweeps);
    rebasin_perm kept = { NULL };
    sy_status st = fresh(o, &best, (const float *const *)o->copy[b]);
    for (int64_t k = 0; k < o->restarts && st == SY_OK; k++) {
        rebasin_perm p;
        int64_t n;
        st = fresh(o, &trial, (const float *const *)o->copy[b]);
        if (st == SY_OK) st = rebasin_identity(&o->r, &p);
        for (int g = 0; g < o->r.n_groups && st == SY_OK; g++)
            memcpy(p.p[g], o->perm[b].p[g], (size_t)(o->r.group[g].units * rebasin_copies(&o->r, g)) * sizeof(int64_t));
        if (st == SY_OK) st = rebasin_match(&o->r, a, trial, o->max_iter, syi_key(key, "restart", NULL, k), &p, &n);
        const double d = st == SY_OK ? rebasin_distance(&o->r, a, (const float *const *)trial) : INFINITY;
        if (d < least) {
            float **swap = best;
            best = trial;
            trial = swap;
            kept = p;
            least = d;
            *sweeps = n;
        }
        drop(o, trial);
        trial = NULL;
    }
    for (int t = 0; st == SY_OK && t < o->r.n_tensors; t++) memcpy(o->copy[b][t], best[t], (size_t)o->r.tensor[t].count * sizeof **best);
    if (st == SY_OK) o->perm[b] = kept;
    drop(o, best);
    return st;
}

static void mean_of_others(const matching *o, int without, float **mean)
{
    for (int t = 0; t < o->r.n_tensors; t++)
        for (int64_t i = 0; i < o->r.tensor[t].count; i++) {
            double s = 0;
            for (int k = 0; k < o->n; k++) s += k == without ? 0 : (double)o->copy[k][t][i];
            mean[t][i] = (float)(s / (o->n - 1));
        }
}

static sy_status merge_many(matching *o, sy_merging *job, int64_t *sweeps)
{
    float **mean = NULL;
    int64_t order[SY_MERGE_INPUTS];
    sy_status st = fresh(o, &mean, NULL);
    bool progress = true;
    for (int64_t round = 0; progress && round < o->max_iter && st == SY_OK; round++) {
        progress = false;
        syi_permutation(syi_key(job->seed, "merge many", NULL, round), o->n, order);
        for (int i = 0; i < o->n && st == SY_OK; i++) {
            const int k = (int)order[i];
            int64_t n = 0;
            mean_of_others(o, k, mean);
            const double before = rebasin_distance(&o->r, (const float *const *)mean, (const float *const *)o->copy[k]);
            st = match_to(o, (const float *const *)mean, k, syi_key(job->seed, "match", NULL, round * o->n + i), &n);
            const double after = rebasin_distance(&o->r, (const float *const *)mean, (const float *const *)o->copy[k]);
            progress |= after < before * (1 - 1e-6);
            *sweeps += n;
        }
    }
    drop(o, mean);
    return st;
}

static sy_status write_permutations(matching *o)
{
    SYI_TRY(syi_mkdirs(o->ctx, o->permutations));
    for (int k = 0; k < o->n; k++) {
        char name[64];
        sy_writer *w;
        snprintf(name, sizeof name, "model%d.safetensors", k);
        char *path = syi_join(o->ctx, o->permutations, name);
        if (!path) return SY_E_MEMORY;
        sy_status st = sy_writer_new(o->ctx, path, 0, &w);
        syi_free(o->ctx, path);
        SYI_TRY(st);
        for (int put = 0; put < 2 && st == SY_OK; put++) {
            for (int g = 0; g < o->r.n_groups && st == SY_OK; g++) {
                const int64_t copies = rebasin_copies(&o->r, g), dim[2] = { o->r.group[g].parent < 0 ? o->r.group[g].units : copies, o->r.group[g].units };
                st = put ? sy_writer_put(w, o->r.group[g].name, 0, copies, o->perm[k].p[g]) : sy_writer_declare(w, o->r.group[g].name, SY_I64, o->r.group[g].parent < 0 ? 1 : 2, dim);
            }
            if (!put && st == SY_OK) st = sy_writer_begin(w);
        }
        if (st == SY_OK) st = sy_writer_end(w);
        else sy_writer_abort(w);
        SYI_TRY(st);
    }
    return SY_OK;
}

static sy_status prepare(void *self, sy_merging *job)
{
    matching *o = self;
    int64_t sweeps = 0;
    o->ctx = job->ctx;
    o->n = sy_merge_models(job);
    SYI_TRY(syi_arena_new(o->ctx, 1 << 20, &o->arena));
    o->r = (rebasin){ .ctx = o->ctx, .arena = o->arena, .normalize = o->normalize };
    SYI_TRY(read_all(o, job));
    SYI_TRY(find_groups(o, job));
    for (int k = 0; k < o->n; k++) SYI_TRY(rebasin_identity(&o->r, &o->perm[k]));
    const double before = rebasin_distance(&o->r, (const float *const *)o->copy[0], (const float *const *)o->copy[1]);
    if (o->measure) SYI_TRY(measure(o, job, "before"));
    if (o->scores) {
        if (o->n > 2) return syi_fail(o->ctx, SY_E_USAGE, "scores are between two models; found %d", o->n);
        SYI_TRY(by_scores(o));
    } else if (o->n == 2 || o->many == 1) {
        for (int k = 1; k < o->n; k++) SYI_TRY(match_to(o, (const float *const *)o->copy[0], k, syi_key(job->seed, "match", NULL, k), &sweeps));
    } else {
        SYI_TRY(merge_many(o, job, &sweeps));
    }
    const double after = rebasin_distance(&o->r, (const float *const *)o->copy[0], (const float *const *)o->copy[1]);
    if (o->measure) SYI_TRY(measure(o, job, "after"));
    SYI_TRY(sy_merge_report(job, "distance_before", sqrt(before)));
    SYI_TRY(sy_merge_report(job, "distance_after", sqrt(after)));
    SYI_TRY(sy_merge_report(job, "sweeps", (double)sweeps));
    if (after >= before && !o->scores) syi_log(o->ctx, SY_LOG_WARN, "nothing to match: the models' units are in the same places already (fine-tunings of one base?)");
    return o->permutations ? write_permutations(o) : SY_OK;
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    const matching *o = self;
    int64_t at;
    if (!syi_map_get(o->names, m->name, strlen(m->name), &at)) {
        sy_merge_fail(m, SY_E_BUG, "it was not matched");
        return;
    }
    if (m->n == 2) {
        const double lambda = sy_merge_value(m, "lambda", -1);
        m->mix->pair(1 - lambda, o->copy[0][at] + t->first, lambda, o->copy[1][at] + t->first, t->out, t->n);
        return;
    }
    m->mix->set(1, o->copy[0][at] + t->first, t->wide[0], t->n);
    for (int k = 1; k < m->n; k++) m->mix->add(1, o->copy[k][at] + t->first, t->wide[0], t->n);
    m->mix->finish(1.0 / m->n, t->wide[0], NULL, t->out, t->n);
}

static void finish(void *self)
{
    matching *o = self;
    if (o->names) syi_map_free(o->names);
    if (o->arena) syi_arena_free(o->arena);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_NONE, .min_inputs = 2, .prepare = prepare, .make = make };

static const sy_paper papers[] = {
    { "Git Re-Basin: merging models modulo permutation symmetries", "Ainsworth, Hayase and Srinivasa", "ICLR", "arXiv:2209.04836", 2023, "section 3" },
    { "Analysis of linear mode connectivity via permutation-based weight matching", "Ito, Yamada and Kumagai", "ICLR", "arXiv:2402.04051", 2025, "theorem 4.1" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_weight_matching = {
    .abi = SY_METHOD_ABI, .name = "weight_matching", .kind = SY_MERGER, .title = "re-basin: permutes units of independently trained networks onto each other, then averages", .papers = papers,
    .about = "For networks of one architecture trained from different starts. The groups of units that may change places come from the architecture (hidden units, channels, heads and what is "
             "in them, the residual stream); each group is one exact linear assignment, visited in turn until nothing gains. All models are held in memory as f32.",
    .options = rows, .size = sizeof(matching), .free = finish, .merger = &merger,
};
