/* SPDX-License-Identifier: Apache-2.0 */
/* KNOW: a network is fine-tuned on smaller and smaller parts of its data; the series of its
 * weights, read backwards, is continued by one more step: weights as if trained on more data
 * than there is. The recipe lists five snapshots, smallest part first, the full data last.
 * Each weight's five values go through a small network of their own kind (kernels, matrices,
 * biases); norms keep the last snapshot's values. recur repeats it.
 *
 * The predictor comes from a file, or is trained here from folders of trajectories (s0 ...
 * s6.safetensors, s0 on all data). Controls: linear (last difference again), fitted5 (best
 * linear rule), shrink. */
#include "_known.h"

#include "run/_merge.h"

#include <math.h>

enum { KNOWN, LINEAR, FITTED, SHRINK };
enum { CONV, FC, BIAS, KINDS, KEEP = KINDS };
static const char *const predictors[] = { "known", "linear", "fitted5", "shrink", NULL }, *const kind_names[KINDS] = { "conv", "fc", "bias" };

typedef struct {
    int predictor;
    int64_t recur, steps, batch, samples;
    double shrink, lr;
    char *file, *save;
    sy_list trajectories;
    /* the merge's own */
    sy_context *ctx;
    syi_arena *arena;
    float *w[KINDS];
    double fit[KINDS][5];
    bool has[KINDS];
} know;

static const sy_option rows[] = {
    { .name = "predictor", .type = SY_OPT_ENUM, .offset = offsetof(know, predictor), .def = "known", .choices = predictors, .help = "how the series is continued", .example = "linear" },
    { .name = "file", .type = SY_OPT_PATH, .offset = offsetof(know, file), .help = "a trained predictor (known, fitted5)", .example = "models/know/predictor.safetensors" },
    { .name = "recur", .type = SY_OPT_INT, .offset = offsetof(know, recur), .def = "1", .min = 1, .max = 3, .help = "predictions behind each other: twice, four, eight times the data at rate 0.5", .example = "3" },
    { .name = "shrink", .type = SY_OPT_FLOAT, .offset = offsetof(know, shrink), .def = "0.07", .min = 0, .max = 1, .help = "predictor shrink: what is taken off each weight", .example = "0.05" },
    { .name = "trajectories", .type = SY_OPT_LIST, .offset = offsetof(know, trajectories), .help = "folders with s0 ... s6.safetensors to train a predictor from", .example = "run1,run2" },
    { .name = "save", .type = SY_OPT_PATH, .offset = offsetof(know, save), .help = "file for the predictor that was trained", .example = "predictor.safetensors" },
    { .name = "steps", .type = SY_OPT_INT, .offset = offsetof(know, steps), .def = "20000", .min = 1, .max = 100000000, .flags = SY_OPT_ADVANCED, .help = "training: steps", .example = "2500" },
    { .name = "batch", .type = SY_OPT_INT, .offset = offsetof(know, batch), .def = "4096", .min = 16, .max = 1 << 24, .flags = SY_OPT_ADVANCED, .help = "training: weights a step", .example = "1024" },
    { .name = "lr", .type = SY_OPT_FLOAT, .offset = offsetof(know, lr), .def = "1e-3", .min = 0, .max = 1, .flags = SY_OPT_ADVANCED | SY_OPT_MIN_OPEN, .help = "training: learning rate", .example = "5e-4" },
    { .name = "samples", .type = SY_OPT_INT, .offset = offsetof(know, samples), .def = "2000", .min = 1, .max = 1 << 24, .flags = SY_OPT_ADVANCED,
      .help = "training: weights taken of each tensor", .example = "500" },
    { .name = NULL }
};

static int kind_of(const char *name, int rank, const int64_t *dim)
{
    if (rank == 1) return syi_ends(name, "bias") && !strstr(name, "norm") && !strstr(name, "bn") ? BIAS : KEEP;
    if (rank == 4 && (dim[2] > 1 || dim[3] > 1)) return CONV;
    return rank >= 2 ? FC : KEEP;
}

/* -- training ----------------------------------------------------------------------------------- */

typedef struct { float *history, *target; int64_t n, cap; } examples;

static sy_status add_tensor(know *o, const sy_entry *const *s, examples *e, uint64_t key)
{
    int64_t count = 1, rows_ = 1;
    for (int d = 0; d < s[0]->rank; d++) count *= s[0]->dim[d];
    for (int d = 0; d + 1 < s[0]->rank; d++) rows_ *= s[0]->dim[d];
    const int64_t take = syi_min(count, o->samples);
    float *x = syi_alloc(o->ctx, (size_t)(7 * count + 1) * sizeof *x);
    if (!x) return SY_E_MEMORY;
    sy_status st = SY_OK;
    for (int k = 0; k < 7 && st == SY_OK; k++) st = sy_entry_read_f32(o->ctx, s[k], 0, rows_, x + k * count);
    if (st == SY_OK && e->n + 2 * take > e->cap) {
        const int64_t cap = 2 * (e->n + 2 * take);
        float *h = syi_realloc(o->ctx, e->history, (size_t)cap * 5 * sizeof *h), *t = h ? syi_realloc(o->ctx, e->target, (size_t)cap * sizeof *t) : NULL;
        if (h) e->history = h;
        if (t) e->target = t, e->cap = cap;
        if (!t) st = SY_E_MEMORY;
    }
    for (int64_t i = 0; i < take && st == SY_OK; i++) {
        const int64_t at = take == count ? i : (int64_t)(syi_random_u64(key, i) % (uint64_t)count);
        for (int window = 0; window < 2; window++) { /* sessions 6 5 4 3 2 -> 1 and 5 4 3 2 1 -> 0 */
            for (int k = 0; k < 5; k++) e->history[e->n * 5 + k] = x[(6 - window - k) * count + at];
            e->target[e->n] = x[(1 - window) * count + at] - x[(2 - window) * count + at];
            e->n++;
        }
    }
    syi_free(o->ctx, x);
    return st;
}

static sy_status read_trajectory(know *o, const char *dir, examples *all, uint64_t seed)
{
    sy_checkpoint *s[7] = { NULL };
    sy_status st = SY_OK;
    for (int k = 0; k < 7 && st == SY_OK; k++) {
        char name[32];
        snprintf(name, sizeof name, "s%d.safetensors", k);
        char *path = syi_join(o->ctx, dir, name);
        st = path ? sy_checkpoint_open(o->ctx, path, &s[k]) : SY_E_MEMORY;
        syi_free(o->ctx, path);
    }
    for (int64_t i = 0; st == SY_OK && i < sy_checkpoint_count(s[0]); i++) {
        const sy_entry *e[7] = { sy_checkpoint_at(s[0], i) };
        const int kind = kind_of(e[0]->name, e[0]->rank, e[0]->dim);
        if (kind == KEEP) continue;
        for (int k = 1; k < 7 && st == SY_OK; k++) {
            e[k] = sy_checkpoint_find(s[k], e[0]->name);
            if (!e[k] || e[k]->rank != e[0]->rank || memcmp(e[k]->dim, e[0]->dim, sizeof *e[0]->dim * (size_t)e[0]->rank) != 0)
                st = syi_fail(o->ctx, SY_E_INPUT, "%s: tensor %s is not the same in s0 and s%d", dir, e[0]->name, k);
        }
        if (st == SY_OK) st = add_tensor(o, e, &all[kind], syi_key(seed, "know sample", e[0]->name, (int64_t)all[kind].n));
    }
    for (int k = 0; k < 7; k++) sy_checkpoint_close(s[k]);
    return st;
}

static sy_status train(know *o, uint64_t seed)
{
    examples e[KINDS] = { { NULL, NULL, 0, 0 } };
    sy_status st = SY_OK;
    for (int i = 0; i < o->trajectories.n && st == SY_OK; i++) st = read_trajectory(o, o->trajectories.item[i], e, syi_key(seed, "know", o->trajectories.item[i], i));
    /* One after the other, each from the one before: they have much in common. */
    const float *before = NULL;
    for (int k = 0; k < KINDS && st == SY_OK; k++) {
        if (e[k].n == 0) continue;
        const syi_known_training how = { o->steps, o->batch, o->lr, syi_key(seed, "know train", kind_names[k], 0) };
        o->w[k] = syi_arena_alloc(o->arena, SYI_KNOWN_SIZE * sizeof *o->w[k]);
        st = o->w[k] ? syi_known_fit(o->ctx, e[k].history, e[k].target, e[k].n, o->fit[k]) : SY_E_MEMORY;
        if (st == SY_OK && o->predictor == KNOWN) st = syi_known_train(o->ctx, e[k].history, e[k].target, e[k].n, &how, before, o->w[k]);
        o->has[k] = true;
        before = o->w[k];
    }
    for (int k = 0; k < KINDS; k++) {
        syi_free(o->ctx, e[k].history);
        syi_free(o->ctx, e[k].target);
    }
    return st;
}

/* -- files --------------------------------------------------------------------------------------- */

static sy_status save(know *o)
{
    static const int64_t size[2] = { SYI_KNOWN_SIZE, 5 };
    sy_writer *w;
    char name[32];
    SYI_TRY(sy_writer_new(o->ctx, o->save, 0, &w));
    sy_status st = sy_writer_meta(w, "method", "know");
    if (st == SY_OK) st = sy_writer_meta(w, "sessions", "5");
    if (st == SY_OK) st = sy_writer_meta(w, "input_norm", "none");
    for (int put = 0; put < 2 && st == SY_OK; put++) {
        for (int k = 0; k < KINDS && st == SY_OK; k++)
            for (int f = 0; f < 2 && st == SY_OK && o->has[k]; f++) {
                float c[5];
                for (int i = 0; i < 5; i++) c[i] = (float)o->fit[k][i];
                snprintf(name, sizeof name, f ? "fitted5.%s" : "%s", kind_names[k]);
                st = put ? sy_writer_put(w, name, 0, 1, f ? c : o->w[k]) : sy_writer_declare(w, name, SY_F32, 1, &size[f]);
            }
        if (!put && st == SY_OK) st = sy_writer_begin(w);
    }
    if (st == SY_OK) return sy_writer_end(w);
    sy_writer_abort(w);
    return st;
}

static sy_status load(know *o)
{
    sy_checkpoint *ck;
    char name[32];
    SYI_TRY(sy_checkpoint_open(o->ctx, o->file, &ck));
    const char *method = sy_checkpoint_meta(ck, "method");
    sy_status st = method && strcmp(method, "know") == 0 ? SY_OK : syi_fail(o->ctx, SY_E_INPUT, "%s: is not a predictor (its metadata has no method = know)", o->file);
    for (int k = 0; k < KINDS && st == SY_OK; k++) {
        float c[5];
        const sy_entry *e = sy_checkpoint_find(ck, kind_names[k]);
        snprintf(name, sizeof name, "fitted5.%s", kind_names[k]);
        const sy_entry *f = sy_checkpoint_find(ck, name);
        if (!e || !f || e->rank != 1 || e->dim[0] != SYI_KNOWN_SIZE || f->rank != 1 || f->dim[0] != 5) continue;
        o->w[k] = syi_arena_alloc(o->arena, SYI_KNOWN_SIZE * sizeof *o->w[k]);
        st = o->w[k] ? sy_entry_read_f32(o->ctx, e, 0, 1, o->w[k]) : SY_E_MEMORY;
        if (st == SY_OK) st = sy_entry_read_f32(o->ctx, f, 0, 1, c);
        for (int i = 0; i < 5; i++) o->fit[k][i] = (double)c[i];
        o->has[k] = true;
    }
    sy_checkpoint_close(ck);
    return st;
}

static sy_status prepare(void *self, sy_merging *job)
{
    know *o = self;
    o->ctx = job->ctx;
    SYI_TRY(syi_arena_new(o->ctx, 1 << 16, &o->arena));
    if (o->trajectories.n) SYI_TRY(train(o, job->seed));
    else if (o->file) SYI_TRY(load(o));
    else if (o->predictor == KNOWN || o->predictor == FITTED)
        return syi_fail(o->ctx, SY_E_USAGE, "%s: know needs a trained predictor: give parameters: {file: ...}, or trajectories to train one from", job->recipe.path);
    if (!o->has[CONV] && o->has[FC]) { /* nothing was learned about kernels: as matrices */
        o->w[CONV] = o->w[FC];
        memcpy(o->fit[CONV], o->fit[FC], sizeof o->fit[FC]);
    }
    for (int k = FC; k < KINDS && (o->predictor == KNOWN || o->predictor == FITTED); k++)
        if (!o->has[k]) return syi_fail(o->ctx, SY_E_INPUT, "the predictor has nothing for %s", k == FC ? "matrices" : "biases");
    if (o->save && !o->trajectories.n) return syi_fail(o->ctx, SY_E_USAGE, "%s: save needs trajectories to train a predictor from", job->recipe.path);
    return o->save ? save(o) : SY_OK;
}

static float next(const know *o, int kind, const float *x)
{
    double s = 0;
    switch (o->predictor) {
    case KNOWN: return x[4] + syi_known_f32(o->w[kind], x, 0, NULL);
    case LINEAR: return (float)((double)x[4] + ((double)x[4] - (double)x[3]));
    case FITTED:
        for (int i = 0; i < 5; i++) s += o->fit[kind][i] * (double)x[i];
        return (float)((double)x[4] + s);
    default: return (float)((1 - o->shrink) * (double)x[4]);
    }
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    const know *o = self;
    const int kind = kind_of(m->name, m->rank, m->dim);
    if (kind == KEEP || m->role == SY_ROLE_NORM || m->role == SY_ROLE_STAT) {
        memcpy(t->out, t->in[4], (size_t)t->n * sizeof *t->out);
        return;
    }
    for (int64_t i = 0; i < t->n; i++) {
        float x[8];
        for (int k = 0; k < 5; k++) x[k] = t->in[k][i];
        for (int64_t r = 0; r < o->recur; r++) x[5 + r] = next(o, kind, x + r);
        t->out[i] = x[4 + o->recur];
    }
}

static void finish(void *self)
{
    know *o = self;
    if (o->arena) syi_arena_free(o->arena);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_NONE, .min_inputs = 5, .max_inputs = 5, .prepare = prepare, .make = make };

static const sy_paper papers[] = {
    { "Learning from oblivion: predicting knowledge-overflowed weights via retrodiction of forgetting", "Jang, Kim and Kim", "CVPR", "arXiv:2508.05059", 2026, "sections 3 and 4" },
    { "Learning to boost training by periodic nowcasting near future weights", "Jang et al.", "ICML", "pmlr:v202/jang23b", 2023, "section 3" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_know = {
    .abi = SY_METHOD_ABI, .name = "know", .kind = SY_MERGER, .title = "continues a series of checkpoints of shrinking data backwards: weights as if of more data", .papers = papers,
    .about = "From five snapshots (fine-tuned on 1/16, 1/8, 1/4, 1/2 and all of the data, in this order) a small trained network predicts the weights that more data would give, weight by "
             "weight. Compare with predictor: shrink and a tuned learning rate before believing a gain. One pass; about 18,000 operations a weight.",
    .options = rows, .size = sizeof(know), .free = finish, .merger = &merger,
};
