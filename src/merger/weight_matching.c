/* SPDX-License-Identifier: Apache-2.0 */
/* Re-basin: hidden units of independently trained networks are permuted onto each other, so
 * that their weights can be averaged. The networks are held in memory as f32, since a unit of
 * the residual stream touches every tensor.
 *
 * Two models: theta = (1 - lambda) a + lambda pi(b). More: each in turn is matched to the mean
 * of the others until that changes nothing (MergeMany), or all to the first (anchor, and every
 * search that needs data); then the mean. Searches: the weights' inner products (wm), second
 * moments of activations (am; or `scores`, made elsewhere), straight-through (ste), Sinkhorn's
 * relaxation. Batch norm's running statistics move along and, where data are given, are
 * estimated again for what comes out. */
#include "_rebasin_look.h"

#include "tensor/lap.h"

#include <math.h>

typedef struct {
    int64_t max_iter, restarts, seq, batch, am_batches, reestimate, ste_epochs, ste_batch, sinkhorn_steps, curve;
    double lambda, ste_lr, ste_momentum, sinkhorn_lr;
    bool normalize, measure, predict;
    int method, many, am_stat;
    char *scores, *permutations, *data, *eval_data, *pictures;
    sy_list gamma;
    /* the merge's own */
    sy_context *ctx;
    syi_arena *arena;
    rebasin r;
    float **copy[SY_MERGE_INPUTS];     /* [model][tensor], moved                            */
    rebasin_perm perm[SY_MERGE_INPUTS];
    float **as_it_was;                 /* the second model, for pictures                    */
    float **merged;                    /* whose running statistics are new, NULL: none      */
    rebasin_net net;
    syi_map *names;
    int n;
} matching;

enum { WM, AM, STE, SINKHORN_WM, SINKHORN_STE };
static const char *const methods[] = { "wm", "am", "ste", "sinkhorn-wm", "sinkhorn-ste", NULL };
static const char *const am_stats[] = { "second-moment", "pearson", NULL };

static const char *const manys[] = { "mergemany", "anchor", NULL };

#define ROW(name_, type_, field, ...) { .name = name_, .type = type_, .offset = offsetof(matching, field), __VA_ARGS__ }
static const sy_option rows[] = {
    ROW("method", SY_OPT_ENUM, method, .def = "wm", .choices = methods, .help = "search: by weights, activations, straight-through gradients, or Sinkhorn's relaxation of the first and third", .example = "am"),
    ROW("max-iter", SY_OPT_INT, max_iter, .def = "100", .min = 1, .max = 1000000, .help = "most sweeps over the groups of units", .example = "20"),
    ROW("restarts", SY_OPT_INT, restarts, .def = "1", .min = 1, .max = 1000, .help = "orders of the groups to try; the best match is kept", .example = "3"),
    ROW("lambda", SY_OPT_FLOAT, lambda, .def = "0.5", .min = 0, .max = 1, .help = "0 is the first of two models, 1 the second, moved", .example = "0.3"),
    ROW("normalize", SY_OPT_BOOL, normalize, .def = "off", .help = "compare units at unit length, tensor by tensor", .example = "on"),
    ROW("many", SY_OPT_ENUM, many, .def = "mergemany", .choices = manys, .help = "three and more models, by weights: each to the mean of the others, or all to the first", .example = "anchor"),
    ROW("scores", SY_OPT_PATH, scores, .help = "safetensors with one matrix per group to match by instead", .example = "scores.safetensors"),
    ROW("permutations", SY_OPT_PATH, permutations, .help = "folder for what was found: modelN.safetensors, one vector per group", .example = "perms"),
    ROW("data", SY_OPT_PATH, data, .help = "data that the models were trained on, as train takes them: for am, ste, running statistics, curve", .example = "train.jsonl"),
    ROW("eval-data", SY_OPT_PATH, eval_data, .help = "data for the curve's losses (default: data)", .example = "valid.jsonl"),
    ROW("seq", SY_OPT_INT, seq, .def = "256", .min = 2, .max = 1048576, .help = "tokens of a window of text", .example = "128"),
    ROW("batch", SY_OPT_INT, batch, .def = "0", .min = 0, .max = 65536, .help = "rows computed at once (0: 64 images, 8 windows of text)", .example = "32"),
    ROW("am-stat", SY_OPT_ENUM, am_stat, .def = "second-moment", .choices = am_stats, .help = "am: what says that two units are alike", .example = "pearson"),
    ROW("am-batches", SY_OPT_INT, am_batches, .def = "100", .min = 1, .max = 1000000, .help = "am: batches of data, an epoch at most", .example = "20"),
    ROW("bn-reestimate", SY_OPT_INT, reestimate, .def = "100", .min = 0, .max = 1000000, .help = "batches that running statistics of batch norm are estimated on after the merge (0: averaged)", .example = "50"),
    ROW("ste-lr", SY_OPT_FLOAT, ste_lr, .def = "0.01", .min = 0, .max = 1000, .flags = SY_OPT_MIN_OPEN, .help = "ste: learning rate", .example = "0.1"),
    ROW("ste-momentum", SY_OPT_FLOAT, ste_momentum, .def = "0.9", .min = 0, .max = 1, .flags = SY_OPT_MAX_OPEN, .help = "ste: momentum", .example = "0.8"),
    ROW("ste-epochs", SY_OPT_INT, ste_epochs, .def = "250", .min = 1, .max = 1000000, .help = "ste: passes over the data", .example = "10"),
    ROW("ste-batch", SY_OPT_INT, ste_batch, .def = "0", .min = 0, .max = 1000000, .help = "ste: rows of a step (0: 1000 images, 16 windows of text)", .example = "500"),
    ROW("sinkhorn-steps", SY_OPT_INT, sinkhorn_steps, .def = "50", .min = 1, .max = 1000000, .help = "sinkhorn: steps of AdamW", .example = "20"),
    ROW("sinkhorn-lr", SY_OPT_FLOAT, sinkhorn_lr, .def = "0.1", .min = 0, .max = 1000, .flags = SY_OPT_MIN_OPEN, .help = "sinkhorn: learning rate", .example = "0.05"),
    ROW("measure", SY_OPT_BOOL, measure, .def = "off", .help = "report how well singular vectors align, before and after (R)", .example = "on"),
    ROW("gamma", SY_OPT_LIST, gamma, .def = "0,0.3", .help = "thresholds for R: shares of a matrix' first singular value", .example = "0,0.5"),
    ROW("curve", SY_OPT_INT, curve, .def = "0", .min = 0, .max = 1000, .help = "report the barrier between two models, before and after, on so many points (with pictures: 25)", .example = "11"),
    ROW("pictures", SY_OPT_PATH, pictures, .help = "folder for barrier.svg (with data) and alignment.svg", .example = "pictures"),
    ROW("predict", SY_OPT_BOOL, predict, .def = "off", .help = "report the barrier that gradients and curvatures predict (it fails where networks are far apart)", .example = "on"),
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
        o->r.tensor[at] = (rebasin_tensor){ .name = t->name, .rank = t->rank, .count = t->count,
                                            .transposed = t->row && (t->row->flags & SY_TENSOR_TRANSPOSED) };
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

/* The best of `restarts` searches, each from where b is. */
static sy_status match_to(matching *o, const float *const *a, int b, uint64_t key, int64_t *sweeps)
{
    float **best = NULL, **trial = NULL;
    double least = INFINITY;
    if (o->restarts == 1) return rebasin_match(&o->r, a, o->copy[b], o->max_iter, key, &o->perm[b], sweeps);
    rebasin_perm kept = { NULL };
    sy_status st = rebasin_fresh(&o->r, (const float *const *)o->copy[b], &best);
    for (int64_t k = 0; k < o->restarts && st == SY_OK; k++) {
        rebasin_perm p;
        int64_t n;
        st = rebasin_fresh(&o->r, (const float *const *)o->copy[b], &trial);
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
        rebasin_drop(&o->r, trial);
        trial = NULL;
    }
    for (int t = 0; st == SY_OK && t < o->r.n_tensors; t++) memcpy(o->copy[b][t], best[t], (size_t)o->r.tensor[t].count * sizeof **best);
    if (st == SY_OK) o->perm[b] = kept;
    rebasin_drop(&o->r, best);
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
    sy_status st = rebasin_fresh(&o->r, NULL, &mean);
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
    rebasin_drop(&o->r, mean);
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

/* -- measures ----------------------------------------------------------------------------------------------- */

static sy_status report(sy_merging *job, const char *key, const char *when, double value)
{
    char name[96];
    snprintf(name, sizeof name, "%s_%s", key, when);
    return isfinite(value) ? sy_merge_report(job, name, value) : SY_OK;
}

/* R of the two models before and after, for the report and as a curve. */
static sy_status measure(matching *o, sy_merging *job)
{
    enum { GRID = 20, MOST = 64 };
    double gamma[MOST + GRID], r[2][MOST + GRID];
    const int asked = o->measure ? o->gamma.n : 0, n = asked + (o->pictures ? GRID : 0);
    if (o->gamma.n > MOST) return syi_fail(o->ctx, SY_E_USAGE, "gamma: at most %d thresholds", MOST);
    for (int i = 0; i < n; i++) gamma[i] = (i - asked) / (double)GRID;
    for (int i = 0; i < asked; i++)
        if (!syi_parse_double(o->gamma.item[i], &gamma[i]) || !(gamma[i] >= 0 && gamma[i] < 1))
            return syi_fail(o->ctx, SY_E_USAGE, "gamma: \"%s\": numbers from 0 to below 1 were expected", o->gamma.item[i]);
    if (n == 0 || o->n > 2) return SY_OK;
    SYI_TRY(rebasin_alignment(&o->r, (const float *const *)o->copy[0], (const float *const *)o->as_it_was, gamma, n, r[0]));
    SYI_TRY(rebasin_alignment(&o->r, (const float *const *)o->copy[0], (const float *const *)o->copy[1], gamma, n, r[1]));
    for (int i = 0; i < asked; i++) {
        char key[64];
        snprintf(key, sizeof key, "r_%.32s", o->gamma.item[i]);
        SYI_TRY(report(job, key, "before", r[0][i]));
        SYI_TRY(report(job, key, "after", r[1][i]));
    }
    return o->pictures ? rebasin_draw_alignment(o->ctx, o->pictures, gamma + asked, r[0] + asked, r[1] + asked, GRID) : SY_OK;
}

static sy_status curve(matching *o, sy_merging *job)
{
    const float *const *const end[2] = { (const float *const *)o->as_it_was, (const float *const *)o->copy[1] };
    static const char *const when[2] = { "before", "after" };
    rebasin_line line[2] = { { .points = 0 }, { .points = 0 } };
    sy_status st = SY_OK;
    for (int k = 0; k < 2 && st == SY_OK; k++) {
        st = rebasin_line_measure(&o->net, (const float *const *)o->copy[0], end[k], o->curve > 1 ? o->curve : 25, o->reestimate, &line[k]);
        if (st == SY_OK) st = report(job, "barrier", when[k], line[k].barrier);
        if (st == SY_OK) st = report(job, "midpoint_barrier", when[k], line[k].midpoint);
        if (st == SY_OK) st = report(job, "midpoint_accuracy", when[k], line[k].middle_accuracy);
    }
    for (int k = 0; k < 2 && st == SY_OK; k++) {
        const int64_t at = k ? line[0].points - 1 : 0;
        st = report(job, "loss", k ? "second" : "first", line[0].loss[at]);
        if (st == SY_OK) st = report(job, "accuracy", k ? "second" : "first", line[0].accuracy[at]);
    }
    if (st == SY_OK && o->pictures) st = rebasin_draw_lines(o->ctx, o->pictures, &line[0], &line[1]);
    for (int k = 0; k < 2; k++) rebasin_line_free(o->ctx, &line[k]);
    return st;
}

/* -- the work ----------------------------------------------------------------------------------------------- */

static bool searches_data(const matching *o) { return o->method == AM || o->method == STE || o->method == SINKHORN_STE; }

static sy_status check(const matching *o)
{
    if (o->scores && o->n > 2) return syi_fail(o->ctx, SY_E_USAGE, "scores are between two models; found %d", o->n);
    if (o->scores && o->method != WM) return syi_fail(o->ctx, SY_E_USAGE, "scores take the place of a search; leave method %s out", methods[o->method]);
    if (!o->data && (searches_data(o) || o->curve || o->predict || o->eval_data))
        return syi_fail(o->ctx, SY_E_USAGE, "weight_matching: %s needs data; give parameters: {data: FILE}", searches_data(o) ? methods[o->method] : o->curve ? "curve" : o->predict ? "predict" : "eval_data");
    if (o->n > 2 && (o->curve || o->predict || o->pictures)) return syi_fail(o->ctx, SY_E_USAGE, "curve, predict and pictures are of two models; found %d", o->n);
    return SY_OK;
}

/* Model k is matched to a, in place. */
static sy_status search(matching *o, const float *const *a, int k, uint64_t key, int64_t *sweeps)
{
    switch (o->method) {
    case AM: return rebasin_net_match(&o->net, a, o->copy[k], o->am_batches, o->am_stat == 1, &o->perm[k]);
    case STE: {
        const rebasin_ste_options how = { .lr = o->ste_lr, .momentum = o->ste_momentum, .epochs = o->ste_epochs, .max_sweeps = o->max_iter };
        return rebasin_ste(&o->net, a, o->copy[k], &how, key, &o->perm[k], sweeps);
    }
    case SINKHORN_WM: case SINKHORN_STE: {
        const rebasin_soft_options how = { .lr = o->sinkhorn_lr, .steps = o->sinkhorn_steps };
        *sweeps = how.steps;
        return rebasin_sinkhorn(&o->r, o->method == SINKHORN_STE ? &o->net : NULL, a, o->copy[k], &how, key, &o->perm[k]);
    }
    default: return match_to(o, a, k, key, sweeps);
    }
}

static sy_status match_all(matching *o, sy_merging *job, int64_t *sweeps)
{
    if (o->scores) return by_scores(o);
    if (o->n > 2 && o->many == 0 && !searches_data(o)) return merge_many(o, job, sweeps);
    for (int k = 1; k < o->n; k++) {
        int64_t n = 0;
        SYI_TRY(search(o, (const float *const *)o->copy[0], k, syi_key(job->seed, "match", NULL, k), &n));
        *sweeps += n;
    }
    return SY_OK;
}

/* What comes out, in f32: of two, (1 - lambda) a + lambda b with each tensor's own lambda. */
static sy_status mix(matching *o, sy_merging *job, bool *moved_only)
{
    *moved_only = o->n == 2;
    SYI_TRY(rebasin_fresh(&o->r, NULL, &o->merged));
    for (int64_t i = 0; i < job->n; i++) {
        const syi_merge_tensor *t = &job->tensors[i];
        int64_t at;
        if (t->copy || !syi_map_get(o->names, t->name, strlen(t->name), &at)) continue;
        const double lambda = sy_merge_value(&(sy_merge){ .value = t->value, .n = t->n, .job = job }, "lambda", -1);
        *moved_only &= lambda == 0 || lambda == 1;
        for (int64_t e = 0; e < t->count; e++) {
            double s = 0;
            for (int k = 0; k < o->n; k++) s += (o->n > 2 ? 1.0 / o->n : k ? lambda : 1 - lambda) * (double)o->copy[k][at][e];
            o->merged[at][e] = (float)s;
        }
    }
    return SY_OK;
}

/* Running statistics of the mixture; one of the networks, moved, has them already. */
static sy_status statistics(matching *o, sy_merging *job)
{
    bool any = false, moved_only;
    for (int t = 0; t < o->r.n_tensors; t++) any |= o->r.tensor[t].silent;
    if (!any || o->reestimate == 0) return SY_OK;
    SYI_TRY(mix(o, job, &moved_only));
    if (!moved_only && o->data) return rebasin_net_statistics(&o->net, o->merged, o->reestimate);
    if (!moved_only)
        syi_log(o->ctx, SY_LOG_WARN, "running statistics of batch norm are averages now, which a merged network's activations do not keep to: give parameters: {data: FILE}");
    rebasin_drop(&o->r, o->merged);
    o->merged = NULL;
    return SY_OK;
}

static sy_status prepare(void *self, sy_merging *job)
{
    matching *o = self;
    int64_t sweeps = 0;
    double predicted;
    o->ctx = job->ctx;
    o->n = sy_merge_models(job);
    SYI_TRY(check(o));
    SYI_TRY(syi_arena_new(o->ctx, 1 << 20, &o->arena));
    o->r = (rebasin){ .ctx = o->ctx, .arena = o->arena, .normalize = o->normalize };
    SYI_TRY(read_all(o, job));
    SYI_TRY(find_groups(o, job));
    const bool gradients = o->method == STE || o->method == SINKHORN_STE || o->predict;
    if (o->data) SYI_TRY(rebasin_net_open(&o->net, &o->r, job, &(rebasin_net_options){ o->data, o->eval_data, o->seq, o->batch, gradients ? o->ste_batch : -1 }));
    for (int k = 0; k < o->n; k++) SYI_TRY(rebasin_identity(&o->r, &o->perm[k]));
    const double before = rebasin_distance(&o->r, (const float *const *)o->copy[0], (const float *const *)o->copy[1]);
    if (o->n == 2 && (o->measure || o->curve || o->pictures)) SYI_TRY(rebasin_fresh(&o->r, (const float *const *)o->copy[1], &o->as_it_was));
    SYI_TRY(match_all(o, job, &sweeps));
    const double after = rebasin_distance(&o->r, (const float *const *)o->copy[0], (const float *const *)o->copy[1]);
    SYI_TRY(measure(o, job));
    if (o->data && (o->curve || o->pictures)) SYI_TRY(curve(o, job));
    if (o->predict) {
        SYI_TRY(rebasin_predict(&o->net, (const float *const *)o->copy[0], (const float *const *)o->copy[1], &predicted));
        SYI_TRY(sy_merge_report(job, "predicted_barrier", predicted));
    }
    SYI_TRY(sy_merge_report(job, "distance_before", sqrt(before)));
    SYI_TRY(sy_merge_report(job, "distance_after", sqrt(after)));
    SYI_TRY(sy_merge_report(job, "sweeps", (double)sweeps));
    if (after >= before && o->method == WM && !o->scores)
        syi_log(o->ctx, SY_LOG_WARN, "nothing to match: the models' units are in the same places already (fine-tunings of one base?)");
    SYI_TRY(statistics(o, job));
    rebasin_net_close(&o->net);
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
    if (o->merged && o->r.tensor[at].silent) {
        memcpy(t->out, o->merged[at] + t->first, (size_t)t->n * sizeof *t->out);
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
    rebasin_net_close(&o->net);
    rebasin_drop(&o->r, o->as_it_was);
    rebasin_drop(&o->r, o->merged);
    if (o->names) syi_map_free(o->names);
    if (o->arena) syi_arena_free(o->arena);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_NONE, .min_inputs = 2, .holds = true, .prepare = prepare, .make = make };

static const sy_paper papers[] = {
    { "Git Re-Basin: merging models modulo permutation symmetries", "Ainsworth, Hayase and Srinivasa", "ICLR", "arXiv:2209.04836", 2023, "section 3" },
    { "Analysis of linear mode connectivity via permutation-based weight matching", "Ito, Yamada and Kumagai", "ICLR", "arXiv:2402.04051", 2025, "theorem 4.1" },
    { "Re-basin via implicit Sinkhorn differentiation", "Guerrero Pena, Medeiros, Dubail, Aminbeidokhti, Granger and Pedersoli", "CVPR", "arXiv:2212.12042", 2023, "section 3" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_weight_matching = {
    .abi = SY_METHOD_ABI, .name = "weight_matching", .kind = SY_MERGER, .title = "re-basin: permutes units of independently trained networks onto each other, then averages", .papers = papers,
    .about = "For networks of one architecture trained from different starts. The groups of units that may change places come from the architecture (hidden units, channels, heads and what is "
             "in them, the residual stream); each group is one exact linear assignment, visited in turn until nothing gains. With data also by activations, by straight-through "
             "gradients, or by Sinkhorn's relaxation; and running statistics of batch norm are estimated again, losses on the line between two models drawn. All models are held in memory as f32.",
    .options = rows, .size = sizeof(matching), .free = finish, .merger = &merger,
};
