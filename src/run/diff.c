/* SPDX-License-Identifier: Apache-2.0 */
/* The verb "diff": how two models or adapters differ, tensor by tensor, block by block and
 * over all: norms, cosine, relative change, and the spectrum of the difference. With one
 * argument: what an adapter does to the weights (or the weights themselves). */
#include "report/chart.h"
#include "run/diff.h"
#include "run/job.h"

#include <math.h>
#include <stdlib.h>

static const char *const spectra[] = { "auto", "exact", "fast", "off", NULL };

typedef struct { char *a, *b, *base, *svg, *only; int spectrum; bool all; } diff_self;

static const sy_option rows[] = {
    { .name = "a", .type = SY_OPT_PATH, .offset = offsetof(diff_self, a), .flags = SY_OPT_POSITION | SY_OPT_REQUIRED,
      .help = "model or adapter: folder, .safetensors or GGUF", .example = "models/tiny" },
    { .name = "b", .type = SY_OPT_PATH, .offset = offsetof(diff_self, b), .flags = SY_OPT_POSITION,
      .help = "the other one; an adapter beside a model is applied to it; none: A is looked at alone", .example = "models/tiny/devil-lora" },
    { .name = "base", .type = SY_OPT_PATH, .offset = offsetof(diff_self, base), .alias = "base-model",
      .help = "the model that adapters belong to (needed for those that are no plain LoRA)", .example = "models/tiny" },
    { .name = "spectrum", .type = SY_OPT_ENUM, .offset = offsetof(diff_self, spectrum), .def = "auto", .choices = spectra,
      .help = "singular values of the difference: all of them (exact), the 128 largest (fast), exact up to 2048 rows or columns (auto), off", .example = "fast" },
    { .name = "svg", .type = SY_OPT_PATH, .offset = offsetof(diff_self, svg), .help = "draws relative change and effective rank into this file", .example = "diff.svg" },
    { .name = "only", .type = SY_OPT_STRING, .offset = offsetof(diff_self, only), .help = "only tensors whose names contain this", .example = "q_proj" },
    { .name = "all", .type = SY_OPT_BOOL, .offset = offsetof(diff_self, all), .help = "show every tensor, not only sums over blocks and kinds", .example = "on" },
    { .name = NULL }
};

/* -- sums over tensors --------------------------------------------------------------- */

typedef struct {
    char *key;                  /* the kind: the name with its block as '#'            */
    int64_t layer;              /* -1: outside of the blocks                           */
    double a2, b2, d2, ab, max, ranks;
    int64_t count, tensors, changed, with_rank;
    double relative, rank;      /* of a single tensor (heat map)                       */
} sum;

static void add_to(sum *s, const syi_diff_result *r)
{
    s->a2 += r->a2;
    s->b2 += r->b2;
    s->d2 += r->d2;
    s->ab += r->ab;
    s->max = fmax(s->max, r->max);
    s->count += r->count;
    s->changed += r->changed;
    s->tensors++;
    if (r->n_sigma > 0) {
        s->ranks += r->effective_rank;
        s->with_rank++;
    }
}

/* NULL where the number has no meaning: JSON has no infinities. */
static json_t *number(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static void put_norms(json_t *j, bool two, double a2, double b2, double d2, double ab, double max)
{
    if (two) {
        json_object_set_new(j, "norm_a", number(sqrt(a2)));
        json_object_set_new(j, "norm_b", number(sqrt(b2)));
        json_object_set_new(j, "relative", a2 > 0 ? number(sqrt(d2 / a2)) : json_null());
        json_object_set_new(j, "cosine", a2 > 0 && b2 > 0 ? number(ab / sqrt(a2) / sqrt(b2)) : json_null());
    }
    json_object_set_new(j, "norm_delta", number(sqrt(d2)));
    json_object_set_new(j, "max_delta", number(max));
}

static json_t *sum_json(const sum *s, bool two)
{
    json_t *j = json_object();
    put_norms(j, two, s->a2, s->b2, s->d2, s->ab, s->max);
    json_object_set_new(j, "tensors", json_integer(s->tensors));
    json_object_set_new(j, "numbers", json_integer(s->count));
    json_object_set_new(j, "changed", json_integer(s->changed));
    if (s->with_rank) json_object_set_new(j, "mean_effective_rank", number(s->ranks / (double)s->with_rank));
    return j;
}

static json_t *spectrum_json(const syi_diff_result *r)
{
    json_t *top = json_array();
    for (int64_t i = 0; i < syi_min(r->n_sigma, SYI_DIFF_TOP); i++) json_array_append_new(top, number(r->sigma[i]));
    json_t *j = json_pack("{s:b, s:f, s:f, s:I, s:o}", "exact", r->exact, "effective_rank", r->effective_rank, "stable_rank", r->stable_rank,
                          "full_rank", (json_int_t)r->full_rank, "singular_values", top);
    if (r->rank90 > 0) json_object_set_new(j, "rank_90", json_integer(r->rank90));
    if (r->rank99 > 0) json_object_set_new(j, "rank_99", json_integer(r->rank99));
    return j;
}

static json_t *tensor_json(const char *name, int64_t layer, const syi_diff_item *item, bool two, const syi_diff_result *r)
{
    json_t *j = json_pack("{s:s, s:[I,I]}", "name", name, "shape", (json_int_t)item->rows, (json_int_t)item->cols);
    if (layer >= 0) json_object_set_new(j, "layer", json_integer(layer));
    put_norms(j, two, r->a2, r->b2, r->d2, r->ab, r->max);
    json_object_set_new(j, "changed", json_integer(r->changed));
    if (r->not_finite) json_object_set_new(j, "not_finite", json_integer(r->not_finite));
    if (r->n_sigma > 0) json_object_set_new(j, "spectrum", spectrum_json(r));
    return j;
}

/* -- the work -------------------------------------------------------------------------- */

typedef struct {
    sy_job *job;
    const diff_self *self;
    syi_engine *engine;
    syi_diff_side *a, *b;          /* b NULL: a alone                                   */
    bool add;                      /* one is a model, the other an adapter: a the model  */
    sum *kinds, *layers, *cells, total;
    int64_t n_kinds, n_layers, n_cells, kind_cap, layer_cap, cell_cap, identical, not_finite;
    json_t *tensors, *only_a, *only_b, *other_shape;
    double start;
    int64_t done, todo;
} work;

/* "model.layers.3.mlp.up_proj.weight" -> "model.layers.#.mlp.up_proj.weight", 3. */
static char *kind_of(syi_arena *arena, const char *name, int64_t *layer)
{
    *layer = -1;
    for (const char *p = name; *p; p++) {
        const size_t digits = p == name || p[-1] == '.' ? strspn(p, "0123456789") : 0;
        if (digits == 0 || digits > 6 || p[digits] != '.') continue;
        *layer = 0;
        for (size_t i = 0; i < digits; i++) *layer = *layer * 10 + (p[i] - '0');
        return syi_arena_format(arena, "%.*s#%s", (int)(p - name), name, p + digits);
    }
    return syi_arena_strdup(arena, name);
}

static sy_status sum_of(sy_context *ctx, sum **at, int64_t *n, int64_t *cap, const char *key, int64_t layer, bool by_layer, sum **out)
{
    for (int64_t i = 0; i < *n; i++)
        if (by_layer ? (*at)[i].layer == layer : strcmp((*at)[i].key, key) == 0) {
            *out = &(*at)[i];
            return SY_OK;
        }
    SYI_TRY(syi_grow(ctx, (void **)at, cap, *n + 1, sizeof **at, 1 << 24));
    *out = &(*at)[(*n)++];
    **out = (sum){ .key = (char *)(uintptr_t)key, .layer = layer };
    return SY_OK;
}

static sy_status one(work *w, const char *name, const syi_diff_item *a, const syi_diff_item *b)
{
    sy_context *ctx = syi_job_context(w->job);
    const syi_diff_item *any = a ? a : b;
    syi_diff_result r;
    int64_t layer;
    sum *s;
    if (a && b && (a->rows != b->rows || a->cols != b->cols)) {
        json_array_append_new(w->other_shape, json_pack("{s:s, s:[I,I], s:[I,I]}", "name", name, "a", (json_int_t)a->rows, (json_int_t)a->cols, "b",
                                                        (json_int_t)b->rows, (json_int_t)b->cols));
        return SY_OK;
    }
    SYI_TRY(syi_diff_measure(ctx, w->engine, w->a, a, w->b ? w->b : w->a, b, w->add, (syi_spectrum_how)w->self->spectrum, (uint64_t)syi_job_common(w->job)->seed, &r));
    char *kind = kind_of(syi_job_arena(w->job), name, &layer);
    if (!kind) return SY_E_MEMORY;
    SYI_TRY(sum_of(ctx, &w->kinds, &w->n_kinds, &w->kind_cap, kind, layer, false, &s));
    add_to(s, &r);
    SYI_TRY(sum_of(ctx, &w->layers, &w->n_layers, &w->layer_cap, kind, layer, true, &s));
    add_to(s, &r);
    SYI_TRY(syi_grow(ctx, (void **)&w->cells, &w->cell_cap, w->n_cells + 1, sizeof *w->cells, 1 << 24));
    w->cells[w->n_cells++] = (sum){ .key = kind, .layer = layer, .rank = r.n_sigma > 0 ? r.effective_rank : NAN,
                                    .relative = w->b && r.a2 > 0 ? sqrt(r.d2 / r.a2) : sqrt(r.d2) };
    add_to(&w->total, &r);
    w->identical += r.changed == 0 && r.not_finite == 0;
    w->not_finite += r.not_finite;
    json_array_append_new(w->tensors, tensor_json(name, layer, any, w->b != NULL, &r));
    w->done++;
    const double seconds = syi_now() - w->start;
    syi_progress(ctx, &(sy_progress){ .what = "diff", .done = w->done, .total = w->todo, .unit = "tensor", .seconds = seconds,
                                      .eta = seconds / (double)w->done * (double)(w->todo - w->done), .rate = (double)w->done / seconds, .rate_unit = "tensors",
                                      .loss = NAN, .bytes = syi_rss_now() });
    return sy_cancelled(ctx) ? syi_fail(ctx, SY_E_CANCELLED, "interrupted after %lld of %lld tensors", (long long)w->done, (long long)w->todo) : SY_OK;
}

static bool wanted(const work *w, const syi_diff_item *i)
{
    const bool numbers = sy_dtype_is_float(i->dtype) || sy_dtype_block_len(i->dtype) > 1 || i->dtype == SY_F8_E4M3 || i->dtype == SY_F8_E5M2;
    return numbers && (!w->self->only || !*w->self->only || strstr(i->name, w->self->only));
}

static sy_status compare(work *w)
{
    syi_diff_side *a = w->a, *b = w->b;
    const bool both_updates = b && a->update && b->update;
    for (int64_t i = 0; i < a->n; i++) w->todo += wanted(w, &a->items[i]);
    for (int64_t i = 0; i < a->n; i++) {
        const syi_diff_item *x = &a->items[i], *y = b ? syi_diff_find(b, x->name) : NULL;
        if (!wanted(w, x)) continue;
        if (!b) SYI_TRY(one(w, x->name, NULL, x));
        else if (y || both_updates) SYI_TRY(one(w, x->name, x, y)); /* no update is an update by zero */
        else if (!w->add) json_array_append_new(w->only_a, json_string(x->name));
        if (b && !y && both_updates) json_array_append_new(w->only_a, json_string(x->name));
    }
    for (int64_t i = 0; b && i < b->n; i++) {
        const syi_diff_item *y = &b->items[i];
        if (!wanted(w, y) || syi_diff_find(a, y->name)) continue;
        if (both_updates) SYI_TRY(one(w, y->name, NULL, y));
        json_array_append_new(w->only_b, json_string(y->name));
    }
    return SY_OK;
}

/* -- the picture ------------------------------------------------------------------------ */

static sy_status draw(work *w)
{
    sy_context *ctx = syi_job_context(w->job);
    syi_arena *arena = syi_job_arena(w->job);
    const int rows_n = (int)w->n_kinds, cols_n = (int)w->n_layers;
    double *value = syi_arena_alloc(arena, (size_t)(2 * rows_n * cols_n) * sizeof *value);
    const char **kind = syi_arena_alloc(arena, (size_t)rows_n * sizeof *kind), **layer = syi_arena_alloc(arena, (size_t)cols_n * sizeof *layer);
    if (!value || !kind || !layer) return SY_E_MEMORY;
    bool ranks = false;
    for (int i = 0; i < 2 * rows_n * cols_n; i++) value[i] = NAN;
    for (int i = 0; i < rows_n; i++) {
        const char *name = w->kinds[i].key, *block = strstr(name, "#.");
        char *text = syi_arena_strdup(arena, block ? block + 2 : name);
        if (!text) return SY_E_MEMORY;
        if (syi_ends(text, ".weight")) text[strlen(text) - strlen(".weight")] = '\0';
        kind[i] = text;
    }
    for (int k = 0; k < cols_n; k++) {
        layer[k] = w->layers[k].layer < 0 ? "-" : syi_arena_format(arena, "%lld", (long long)w->layers[k].layer);
        if (!layer[k]) return SY_E_MEMORY;
    }
    for (int64_t c = 0; c < w->n_cells; c++)
        for (int i = 0; i < rows_n; i++)
            for (int k = 0; k < cols_n; k++)
                if (w->cells[c].layer == w->layers[k].layer && !strcmp(w->cells[c].key, w->kinds[i].key)) {
                    value[i * cols_n + k] = w->cells[c].relative;
                    value[rows_n * cols_n + i * cols_n + k] = w->cells[c].rank;
                    ranks |= isfinite(w->cells[c].rank);
                }
    const syi_heat maps[] = { { w->b ? "relative change |B - A| / |A|" : w->a->update ? "norm of the update" : "norm", value, true },
                              { w->b || w->a->update ? "effective rank of the change" : "effective rank", value + rows_n * cols_n, true } };
    char *title = w->b ? syi_arena_format(arena, "%s against %s", syi_basename(w->b->path), syi_basename(w->a->path)) : syi_arena_strdup(arena, w->a->path);
    char *sub = syi_arena_format(arena, "%lld tensors, %lld of them identical", (long long)w->total.tensors, (long long)w->identical);
    if (!title || !sub) return SY_E_MEMORY;
    const syi_heat_page page = { .title = title, .subtitle = w->b ? sub : NULL, .col_label = "block (-: outside of the blocks)", .rows = kind, .cols = layer,
                                 .n_rows = rows_n, .n_cols = cols_n, .maps = maps, .n_maps = ranks ? 2 : 1 };
    syi_text t;
    syi_text_init(&t, ctx, (size_t)1 << 28);
    sy_status st = syi_heat_svg(ctx, &page, &t);
    if (st == SY_OK) st = syi_write_file(ctx, w->self->svg, t.s, (int64_t)t.len);
    syi_text_free(&t);
    return st;
}

/* -- report ------------------------------------------------------------------------------- */

static int by_layer(const void *x, const void *y)
{
    const int64_t a = ((const sum *)x)->layer, b = ((const sum *)y)->layer;
    return a < b ? -1 : a > b;
}

static void report(work *w)
{
    json_t *r = syi_job_report(w->job), *layers = json_array(), *kinds = json_array();
    const bool two = w->b != NULL;
    json_object_set_new(r, "a", json_pack("{s:s, s:s}", "path", w->a->path, "kind", w->a->kind));
    if (two) json_object_set_new(r, "b", json_pack("{s:s, s:s}", "path", w->b->path, "kind", w->b->kind));
    json_object_set_new(r, "compares", json_string(w->add ? "model with and without the adapter" : two && w->a->update ? "updates" : two ? "weights" : w->a->update ? "update" : "weights of one"));
    json_object_set_new(r, "compared", json_integer(w->total.tensors));
    json_object_set_new(r, "identical", json_integer(w->identical));
    if (w->not_finite) json_object_set_new(r, "not_finite", json_integer(w->not_finite));
    json_object_set_new(r, "total", sum_json(&w->total, two));
    for (int64_t i = 0; i < w->n_kinds; i++) {
        json_t *j = sum_json(&w->kinds[i], two);
        json_object_set_new(j, "name", json_string(w->kinds[i].key));
        json_array_append_new(kinds, j);
    }
    for (int64_t i = 0; i < w->n_layers; i++) {
        json_t *j = sum_json(&w->layers[i], two);
        json_object_set_new(j, "layer", w->layers[i].layer < 0 ? json_null() : json_integer(w->layers[i].layer));
        json_array_append_new(layers, j);
    }
    json_object_set_new(r, "kinds", kinds);
    json_object_set_new(r, "layers", layers);
    json_object_set(r, "tensors", w->tensors);
    json_object_set(r, "only_in_a", w->only_a);
    json_object_set(r, "only_in_b", w->only_b);
    json_object_set(r, "other_shape", w->other_shape);
    json_object_set_new(r, "show_all", json_boolean(w->self->all));
    json_object_set_new(r, "seconds", json_real(syi_now() - w->start));
}

static sy_status open_sides(work *w)
{
    sy_context *ctx = syi_job_context(w->job);
    const diff_self *f = w->self;
    const char *base = f->base;
    const bool ua = syi_diff_is_adapter(ctx, f->a), ub = f->b && syi_diff_is_adapter(ctx, f->b);
    if (!base && f->b && ua != ub) base = ua ? f->b : f->a;
    SYI_TRY(syi_diff_open(ctx, w->engine, f->a, base, &w->a));
    if (f->b) SYI_TRY(syi_diff_open(ctx, w->engine, f->b, base, &w->b));
    if (w->b && ua != ub) {
        w->add = true;
        if (ua) { /* the model first: what the adapter changes is seen from it */
            syi_diff_side *t = w->a;
            w->a = w->b;
            w->b = t;
        }
    }
    return SY_OK;
}

static sy_status run(void *self, sy_job *job)
{
    sy_context *ctx = syi_job_context(job);
    work w = { .job = job, .self = self, .start = syi_now() };
    if (w.self->svg && !syi_ends(w.self->svg, ".svg")) return syi_fail(ctx, SY_E_USAGE, "--svg %s: a name ending in .svg was expected", w.self->svg);
    w.tensors = json_array();
    w.only_a = json_array();
    w.only_b = json_array();
    w.other_shape = json_array();
    sy_status st = syi_engine_new(ctx, &w.engine);
    if (st == SY_OK) st = open_sides(&w);
    if (st == SY_OK && !syi_job_common(job)->dry_run) st = compare(&w);
    if (st == SY_OK && !syi_job_common(job)->dry_run && w.total.tensors == 0)
        st = syi_fail(ctx, SY_E_INPUT, "%s and %s have no tensor of the same name%s: nothing to compare", w.self->a, w.self->b ? w.self->b : "-",
                      json_array_size(w.other_shape) ? " and shape" : "");
    if (st == SY_OK) {
        qsort(w.layers, (size_t)w.n_layers, sizeof *w.layers, by_layer);
        report(&w);
        if (json_array_size(w.only_a) + json_array_size(w.only_b) + json_array_size(w.other_shape) > 0)
            syi_job_receipt(job, "not compared: %lld tensors only in A, %lld only in B, %lld of another shape", (long long)json_array_size(w.only_a),
                            (long long)json_array_size(w.only_b), (long long)json_array_size(w.other_shape));
        if (w.self->svg && w.total.tensors > 0) st = draw(&w);
        if (st == SY_OK && w.self->svg && w.total.tensors > 0) syi_job_receipt(job, "picture: %s", w.self->svg);
    }
    json_decref(w.tensors);
    json_decref(w.only_a);
    json_decref(w.only_b);
    json_decref(w.other_shape);
    syi_free(ctx, w.kinds);
    syi_free(ctx, w.layers);
    syi_free(ctx, w.cells);
    syi_diff_close(w.a);
    syi_diff_close(w.b);
    syi_engine_free(w.engine);
    return st;
}

const sy_verb sy_verb_diff = {
    .name = "diff", .title = "how two models or adapters differ",
    .about = "Per tensor, per kind of tensor and per block: norms, cosine, relative change |B - A| / |A|, and the spectrum of B - A "
             "with its effective rank (the exponential of the entropy of the singular values' shares). Folders, .safetensors, GGUF files "
             "and adapters in any combination: two models are compared by weights, an adapter and a model by what the adapter changes, two "
             "adapters by their updates, and an adapter alone is its own update. Tensors are read in slices; memory does not grow with the model, except around an adapter that is no plain LoRA.",
    .example = "diff models/tiny models/tiny/devil-lora --svg {tmp}/diff.svg", .options = rows, .size = sizeof(diff_self), .run = run
};
