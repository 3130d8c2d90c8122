/* SPDX-License-Identifier: Apache-2.0 */
/* Folding adapters into the weights. A method that can say what it is as plain LoRA is
 * added as s B A; any other that is linear in its input is found by sending unit vectors
 * through its chain, tile by tile. Everything is f32 (f64 in f64 runs) whatever the run
 * computes in, and is rounded once, when the file is written. One tensor at a time. */
#include "run/run.h"

#include "graph/ops.h"

#include <math.h>

extern const sy_storage sy_storage_dense;

/* -- one site by unit vectors ------------------------------------------------------------- */

/* The chain of a site in a graph of its own, with exact weights: the compute copies of the
 * site's parameters and its weight give way to the masters for as long as this lives. */
typedef struct {
    sy_run *run;
    sy_site *site;
    sy_dtype dt;
    syi_heap *heap;
    sy_graph *g;
    sy_weight exact, *weight;
    sy_tensor *compute; /* what the parameters' compute copies were, in order of wraps and slots */
    void *wide;         /* the weight in f64 */
} probe;

static int slots_of(const sy_site *s)
{
    int n = 0;
    for (int w = 0; w < s->n_wraps; w++) n += s->wraps[w].n_slots;
    return n;
}

static void swap_masters(probe *p, bool in)
{
    int k = 0;
    for (int w = 0; w < p->site->n_wraps; w++)
        for (int i = 0; i < p->site->wraps[w].n_slots; i++, k++) {
            sy_param *q = p->site->wraps[w].slot[i];
            if (!q) continue;
            if (in) {
                p->compute[k] = q->compute;
                q->compute = q->value;
            } else {
                q->compute = p->compute[k];
            }
        }
    if (in) {
        p->weight = p->site->weight;
        p->site->weight = &p->exact;
    } else {
        p->site->weight = p->weight;
    }
}

static void probe_end(probe *p)
{
    if (p->weight) swap_masters(p, false);
    syi_graph_free(p->g);
    syi_heap_free(p->heap);
    syi_free(p->run->ctx, p->compute);
    syi_free(p->run->ctx, p->wide);
}

/* w: what the chain stands on, f32 [weight->out, weight->in]. */
static sy_status probe_begin(probe *p, sy_run *run, sy_site *site, const float *w)
{
    const int64_t n = site->weight->out * site->weight->in;
    *p = (probe){ .run = run, .site = site, .dt = run->options.dtype == SY_F64 ? SY_F64 : SY_F32 };
    p->compute = syi_calloc(run->ctx, (size_t)slots_of(site) + 1, sizeof *p->compute);
    if (!p->compute) return SY_E_MEMORY;
    p->exact = *site->weight;
    p->exact.type = &sy_storage_dense;
    p->exact.param = NULL;
    p->exact.slot[0] = (sy_tensor){ .dtype = p->dt, .rank = 2, .dim = { p->exact.out, p->exact.in }, .data = (void *)(uintptr_t)w };
    if (p->dt == SY_F64) {
        double *wide = p->wide = syi_alloc(run->ctx, (size_t)n * sizeof *wide);
        if (!wide) return SY_E_MEMORY;
        for (int64_t i = 0; i < n; i++) wide[i] = w[i];
        p->exact.slot[0].data = wide;
    }
    SYI_TRY(syi_heap_new(run->ctx, &p->heap));
    SYI_TRY(syi_graph_new(run->ctx, run->engine, p->heap, &p->g));
    swap_masters(p, true);
    return SY_OK;
}

/* y[rows, out] of x; the values are valid until the next call. */
static sy_status probe_run(probe *p, const sy_tensor *x, const sy_tensor **y)
{
    for (int planning = 1; planning >= 0; planning--) {
        syi_graph_options o = { .dtype = p->dt, .planning = planning, .seed = p->run->options.seed, .user = p->run };
        syi_graph_reset(p->g, &o);
        sy_node *n = sy_base(p->g, (sy_next){ p->site, p->site->n_wraps }, sy_const(p->g, x));
        SYI_TRY(sy_graph_status(p->g));
        if (planning) {
            if (syi_heap_peak(p->heap) > syi_heap_size(p->heap)) SYI_TRY(syi_heap_reserve(p->heap, syi_heap_peak(p->heap)));
        } else {
            *y = sy_value(n);
        }
    }
    return *y && (*y)->data ? SY_OK : syi_fail(p->run->ctx, SY_E_BUG, "fold: %s has no value", p->site->name);
}

static double number(const sy_tensor *t, int64_t i) { return t->dtype == SY_F64 ? ((const double *)t->data)[i] : ((const float *)t->data)[i]; }

static void set(sy_tensor *t, int64_t i, double v)
{
    if (t->dtype == SY_F64)
        ((double *)t->data)[i] = v;
    else
        ((float *)t->data)[i] = (float)v;
}

/* Columns of a linear's folded weight; constant[out] is the chain's answer to zero. */
static sy_status linear_columns(probe *p, float *w, double *constant)
{
    const int64_t in = p->site->in, out = p->site->out, tile = syi_min(in, syi_max(8, (1 << 20) / syi_max(in, out)));
    sy_tensor x = { .dtype = p->dt, .rank = 2, .dim = { 1, in } };
    const sy_tensor *y = NULL;
    x.data = syi_calloc(p->run->ctx, (size_t)(tile * in), 8);
    if (!x.data) return SY_E_MEMORY;
    sy_status st = probe_run(p, &x, &y);
    for (int64_t o = 0; o < out && st == SY_OK; o++) constant[o] = number(y, o);
    for (int64_t j = 0; j < in && st == SY_OK; j += tile) {
        x.dim[0] = syi_min(tile, in - j);
        for (int64_t t = 0; t < x.dim[0]; t++) set(&x, t * in + j + t, 1);
        st = probe_run(p, &x, &y);
        for (int64_t t = 0; t < x.dim[0] && st == SY_OK; t++)
            for (int64_t o = 0; o < out; o++) w[o * in + j + t] = (float)(number(y, t * out + o) - constant[o]);
        for (int64_t t = 0; t < x.dim[0]; t++) set(&x, t * in + j + t, 0);
    }
    syi_free(p->run->ctx, x.data);
    return st;
}

/* Rows of an embedding's folded table: its answers to every id. */
static sy_status embedding_rows(probe *p, float *w)
{
    const int64_t vocab = p->site->in, hidden = p->site->out, tile = syi_min(vocab, 4096);
    int32_t *ids = syi_alloc(p->run->ctx, (size_t)tile * sizeof *ids);
    sy_status st = ids ? SY_OK : SY_E_MEMORY;
    for (int64_t v = 0; v < vocab && st == SY_OK; v += tile) {
        sy_tensor x = { .dtype = SY_I32, .rank = 1, .dim = { syi_min(tile, vocab - v) }, .data = ids };
        const sy_tensor *y = NULL;
        for (int64_t t = 0; t < x.dim[0]; t++) ids[t] = (int32_t)(v + t);
        st = probe_run(p, &x, &y);
        for (int64_t i = 0; i < x.dim[0] * hidden && st == SY_OK; i++) w[v * hidden + i] = (float)number(y, i);
    }
    syi_free(p->run->ctx, ids);
    return st;
}

/* Has a method put another weight in the place of the file's (PiSSA)? */
static sy_status edited_weight(sy_run *run, const sy_site *site, const float *file, float **out)
{
    const sy_weight *w = site->weight;
    const int64_t n = w->out * w->in;
    bool may = false, differs = false;
    *out = NULL;
    for (int i = 0; i < site->n_wraps; i++) may |= (site->wraps[i].method->caps & SY_CAP_EDITS_BASE) != 0;
    if (!may) return SY_OK;
    float *now = syi_alloc(run->ctx, (size_t)n * sizeof *now);
    if (!now) return SY_E_MEMORY;
    sy_status st = w->type->dense(run->ctx, w, 0, w->out, now);
    const sy_dtype kept = w->slot[0].dtype == SY_F64 || !sy_dtype_is_float(w->slot[0].dtype) ? SY_F32 : w->slot[0].dtype;
    for (int64_t i = 0; i < n && st == SY_OK && !differs; i++) {
        uint32_t bits = 0; /* the file's number as the run keeps it */
        float rounded = 0;
        st = sy_from_f32(run->ctx, kept, &file[i], &bits, 1);
        if (st == SY_OK) st = sy_to_f32(run->ctx, kept, &bits, &rounded, 1);
        differs = rounded != now[i];
    }
    if (st == SY_OK && differs)
        *out = now;
    else
        syi_free(run->ctx, now);
    return st;
}

static sy_status fold_by_probe(sy_run *run, sy_site *site, float *w, double *constant)
{
    float *base = NULL;
    const int64_t n = site->weight->out * site->weight->in;
    SYI_TRY(edited_weight(run, site, w, &base));
    if (!base) {
        base = syi_alloc(run->ctx, (size_t)n * sizeof *base);
        if (!base) return SY_E_MEMORY;
        memcpy(base, w, (size_t)n * sizeof *base);
    }
    probe p;
    sy_status st = probe_begin(&p, run, site, base);
    if (st == SY_OK) st = site->kind == SY_SITE_EMBED ? embedding_rows(&p, w) : linear_columns(&p, w, constant);
    probe_end(&p);
    syi_free(run->ctx, base);
    return st;
}

/* -- one site -------------------------------------------------------------------------------- */

/* w += s B A for a linear, w += s (B A)^T for an embedding's table. */
static sy_status fold_as_lora(sy_run *run, sy_site *site, float *w, bool *done)
{
    const sy_wrap *at = &site->wraps[0];
    sy_tensor a, b;
    double s;
    *done = false;
    if (site->n_wraps != 1 || !at->method->to_lora) return SY_OK;
    sy_status st = at->method->to_lora(at->self, at, &a, &b, &s);
    if (st == SY_E_UNSUPPORTED) { /* not a plain LoRA as it is set: the general way */
        sy_error_clear(run->ctx);
        return SY_OK;
    }
    SYI_TRY(st);
    const int64_t r = a.dim[0], in = site->in, out = site->out;
    if (site->kind == SY_SITE_EMBED)
        st = syi_gemm(run->engine, in, out, r, s, (syi_mat){ SY_F32, a.data, in, true }, (syi_mat){ SY_F32, b.data, r, true }, 1, SY_F32, w, out);
    else
        st = syi_gemm(run->engine, out, in, r, s, (syi_mat){ SY_F32, b.data, r, false }, (syi_mat){ SY_F32, a.data, in, false }, 1, SY_F32, w, in);
    syi_free(run->ctx, a.data);
    syi_free(run->ctx, b.data);
    *done = st == SY_OK;
    return st;
}

sy_status syi_run_fold_site(sy_run *run, sy_site *site, float *w, double *constant, double *delta)
{
    const int64_t n = site->weight->out * site->weight->in;
    for (int i = 0; i < site->n_wraps; i++)
        if (!(site->wraps[i].method->caps & SY_CAP_LINEAR_IN_X))
            return syi_fail(run->ctx, SY_E_UNSUPPORTED, "%s: %s is not a linear map of its input, so it cannot be folded into a weight", site->name, site->wraps[i].method->name);
    for (int64_t o = 0; o < site->out; o++) constant[o] = 0;
    *delta = 0;
    if (site->n_wraps == 0) return SY_OK;
    float *before = syi_alloc(run->ctx, (size_t)n * sizeof *before);
    if (!before) return SY_E_MEMORY;
    memcpy(before, w, (size_t)n * sizeof *before);
    bool done = false;
    sy_status st = fold_as_lora(run, site, w, &done);
    if (st == SY_OK && !done) st = fold_by_probe(run, site, w, constant);
    for (int64_t i = 0; i < n && st == SY_OK; i++) {
        if (!isfinite(w[i])) st = syi_fail(run->ctx, SY_E_NUMERIC, "%s: the folded weight holds a number that is not finite", site->name);
        *delta = fmax(*delta, fabs((double)w[i] - before[i]));
    }
    syi_free(run->ctx, before);
    return st;
}

/* -- the whole model ------------------------------------------------------------------------------ */

typedef struct {
    sy_run *run;
    const sy_entry *table;     /* the embedding in the file, where the head is tied to it  */
    const sy_site *held;       /* the site whose folded weight is in w                     */
    float *w;
    double *constant;          /* [held->out]                                             */
    double delta;              /* its largest change                                      */
    sy_fold *out;
    char seen[256];            /* the tensor being written                                */
} folding;

static bool is_tensor_of(const char *tensor, const char *module, const char *suffix)
{
    size_t n = strlen(module);
    return strncmp(tensor, module, n) == 0 && strcmp(tensor + n, suffix) == 0;
}

static sy_site *site_of(sy_run *run, const char *tensor, const char *suffix)
{
    for (int i = 0; i < run->model->n_sites; i++)
        if (is_tensor_of(tensor, run->model->sites[i].name, suffix)) return &run->model->sites[i];
    return NULL;
}

/* The folded weight of a site into f->w. */
static sy_status hold(folding *f, sy_site *site, const sy_entry *e)
{
    sy_run *run = f->run;
    const sy_weight *w = site->weight;
    if (f->held == site) return SY_OK;
    syi_free(run->ctx, f->w);
    syi_free(run->ctx, f->constant);
    f->held = NULL;
    f->w = syi_alloc(run->ctx, (size_t)(w->out * w->in) * sizeof *f->w);
    f->constant = syi_calloc(run->ctx, (size_t)site->out, sizeof *f->constant);
    if (!f->w || !f->constant) return SY_E_MEMORY;
    if (w->param && w->param->trained)
        SYI_TRY(w->type->dense(run->ctx, w, 0, w->out, f->w));
    else
        SYI_TRY(sy_entry_read_f32(run->ctx, e->data ? e : f->table, 0, w->out * w->in / syi_entry_width(e), f->w));
    SYI_TRY(syi_run_fold_site(run, site, f->w, f->constant, &f->delta));
    f->held = site;
    return SY_OK;
}

static sy_status difference(sy_run *run, const sy_entry *e, int64_t row, int64_t n, const float *now, double *delta)
{
    const int64_t cols = e->rank > 1 ? e->dim[e->rank - 1] : e->dim[0];
    float *file = syi_alloc(run->ctx, (size_t)(n * cols) * sizeof *file);
    if (!file) return SY_E_MEMORY;
    sy_status st = sy_entry_read_f32(run->ctx, e, row, n, file);
    for (int64_t i = 0; i < n * cols && st == SY_OK; i++) *delta = fmax(*delta, fabs((double)now[i] - file[i]));
    syi_free(run->ctx, file);
    return st;
}

static sy_status folded_rows(void *self, const sy_entry *e, int64_t row, int64_t n, float *dst)
{
    folding *f = self;
    sy_run *run = f->run;
    double delta = 0;
    sy_site *site = site_of(run, e->name, ".weight"), *biased = site_of(run, e->name, ".bias");
    bool changed = false;
    if (site && (site->n_wraps || !e->data || (site->weight->param && site->weight->param->trained))) {
        const int64_t cols = syi_entry_width(e); /* kernels have more rows than outputs */
        SYI_TRY(hold(f, site, e));
        delta = f->delta;
        memcpy(dst, f->w + row * cols, (size_t)(n * cols) * sizeof *dst);
        if (!site->n_wraps && e->data) SYI_TRY(difference(run, e, row, n, dst, &delta));
        changed = site->n_wraps || e->data;
    } else {
        SYI_TRY(syi_model_rows(run->model, e->name, row, n, dst, &changed));
        if (biased && biased->n_wraps) {
            const sy_entry *weight = sy_checkpoint_find(run->model->source->tensors, biased->weight->name);
            SYI_TRY(hold(f, biased, weight));
            for (int64_t o = 0; o < biased->out; o++) {
                changed |= f->constant[o] != 0;
                dst[o] = (float)(dst[o] + f->constant[o]);
            }
        }
        if (changed && e->data) SYI_TRY(difference(run, e, row, n, dst, &delta));
    }
    if (changed && strcmp(f->seen, e->name) != 0) {
        f->out->tensors_changed++;
        snprintf(f->seen, sizeof f->seen, "%s", e->name);
    }
    f->out->max_delta = fmax(f->out->max_delta, delta);
    return SY_OK;
}

/* A constant that a method adds needs a bias to go into. */
static sy_status check_constants(sy_run *run)
{
    for (int i = 0; i < run->model->n_sites; i++) {
        sy_site *s = &run->model->sites[i];
        for (int w = 0; w < s->n_wraps; w++) {
            if (!(s->wraps[w].method->caps & SY_CAP_LINEAR_IN_X))
                return syi_fail(run->ctx, SY_E_UNSUPPORTED, "%s: %s is not a linear map of its input, so it cannot be folded into a weight", s->name, s->wraps[w].method->name);
            if (s->bias || s->kind != SY_SITE_LINEAR) continue;
            for (int k = 0; k < s->wraps[w].n_slots; k++) {
                const sy_param *p = s->wraps[w].slot[k];
                if (!p || !syi_ends(p->name, ".bias")) continue;
                for (int64_t j = 0; j < sy_tensor_count(&p->value); j++)
                    if (number(&p->value, j) != 0)
                        return syi_fail(run->ctx, SY_E_UNSUPPORTED, "%s: the adapter adds a bias, but the layer has none to fold it into", s->name);
            }
        }
    }
    return SY_OK;
}

sy_status sy_run_fold(sy_run *run, const char *dir, sy_dtype dtype, sy_fold *out)
{
    sy_model *m = run->model;
    *out = (sy_fold){ .tensors = 0 };
    if (run->options.plan_only) return syi_fail(run->ctx, SY_E_USAGE, "%s: a run that only plans has nothing to fold", dir);
    SYI_TRY(check_constants(run));
    folding f = { .run = run, .out = out };
    syi_export how = { .dtype = dtype, .rows = folded_rows, .self = &f };
    /* A head that shares the embedding's table parts from it when only one of them changed. */
    const sy_site *embed = syi_model_role(m, -1, SY_ROLE_EMBED), *head = syi_model_role(m, -1, SY_ROLE_HEAD);
    sy_entry untied;
    json_t *config = NULL;
    f.table = embed ? sy_checkpoint_find(m->source->tensors, embed->weight->name) : NULL;
    if (embed && head && f.table && !sy_checkpoint_find(m->source->tensors, "lm_head.weight") &&
        (embed->n_wraps || head->n_wraps || embed->weight != head->weight)) {
        untied = *f.table;
        untied.name = "lm_head.weight";
        untied.data = NULL;
        untied.bytes = 0;
        how.extra = &untied;
        how.n_extra = 1;
        config = json_deep_copy(m->source->config);
        if (!config) return syi_nomem(run->ctx, 0);
        json_object_set_new(config, "tie_word_embeddings", json_false());
        how.config = config;
        syi_log(run->ctx, SY_LOG_INFO, "the output head no longer shares the embedding's table: lm_head.weight is written, tie_word_embeddings = false");
    }
    sy_status st = syi_source_to_folder(m->source, dir, &how);
    syi_free(run->ctx, f.w);
    syi_free(run->ctx, f.constant);
    json_decref(config);
    out->tensors = how.tensors;
    out->bytes = how.bytes;
    return st;
}
