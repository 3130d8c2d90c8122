/* SPDX-License-Identifier: Apache-2.0 */
/* Robust weight signatures: what fine-tuning on corrupted data changes in the first layers,
 * less what fine-tuning on clean data changes anyway: per tensor, with d = robust - start and
 * a = standard - start, the part of d orthogonal to a. Added to a clean model with the same
 * start it makes that one robust too; the values it replaced are kept, so it can be taken off
 * again byte for byte.
 *
 * A recipe extracts (models with role standard and robust, base_model the common start) and
 * patches the model with role target (without one: the standard model) in one go, or patches
 * with signatures saved before, or restores. */
#include "run/_merge.h"

#include <math.h>
#include <stdlib.h>

enum { ROBUST, STANDARD, TARGET };
static const char *const roles[] = { "robust", "standard", "target", NULL }, *const composes[] = { "mean", "sum", "code", NULL }, *const quants[] = { "none", "linear", "log", "tanh", NULL };
enum { NONE, LINEAR, LOG, TANH };

typedef struct { float *value; int64_t count; } patch;
typedef struct {
    int64_t keep_layers, levels;
    double alpha;
    int role, compose, quant;
    bool project;
    char *save, *undo, *restore;
    sy_list signatures;
    /* the merge's own */
    sy_context *ctx;
    syi_arena *arena;
    syi_map *names;           /* tensor -> index of `patches`                                */
    patch *patches; int n;
} rws;

static const sy_option rows[] = {
    { .name = "role", .type = SY_OPT_ENUM, .offset = offsetof(rws, role), .def = "robust", .choices = roles, .flags = SY_OPT_PER_MODEL, .help = "what a model of the recipe is", .example = "target" },
    { .name = "alpha", .type = SY_OPT_FLOAT, .offset = offsetof(rws, alpha), .def = "1", .min = -100, .max = 100, .flags = SY_OPT_PER_MODEL, .help = "strength (of each robust model, or of all signatures)",
      .example = "0.8" },
    { .name = "keep-layers", .type = SY_OPT_INT, .offset = offsetof(rws, keep_layers), .def = "7", .min = 1, .max = 100000, .help = "how many of the first layers are patched", .example = "2" },
    { .name = "compose", .type = SY_OPT_ENUM, .offset = offsetof(rws, compose), .def = "mean", .choices = composes, .help = "several signatures: alpha/n, alpha, or (alpha/n)^2 each (as the authors' code)",
      .example = "sum" },
    { .name = "project", .type = SY_OPT_BOOL, .offset = offsetof(rws, project), .def = "on", .help = "take out the clean update's direction; off: robust - standard", .example = "off" },
    { .name = "quant", .type = SY_OPT_ENUM, .offset = offsetof(rws, quant), .def = "none", .choices = quants, .help = "signatures as codes between each tensor's smallest and largest value", .example = "linear" },
    { .name = "levels", .type = SY_OPT_INT, .offset = offsetof(rws, levels), .def = "16", .min = 2, .max = 256, .help = "with quant: number of codes", .example = "16" },
    { .name = "save", .type = SY_OPT_PATH, .offset = offsetof(rws, save), .help = "file for the signature that was extracted", .example = "noise.safetensors" },
    { .name = "signatures", .type = SY_OPT_LIST, .offset = offsetof(rws, signatures), .help = "files of signatures to patch with", .example = "noise.safetensors" },
    { .name = "undo", .type = SY_OPT_PATH, .offset = offsetof(rws, undo), .help = "file for the values that the patch replaces", .example = "undo.safetensors" },
    { .name = "restore", .type = SY_OPT_PATH, .offset = offsetof(rws, restore), .help = "such a file: takes the patch off again, exactly", .example = "undo.safetensors" },
    { .name = NULL }
};

/* -- depth ------------------------------------------------------------------------------------ */

/* Where a tensor's layer stands: modules in natural order (numbers as numbers), blocks of a
 * residual network or of layers as one, what comes before them first. */
static void layer_key(const char *name, char key[256])
{
    const char *end = strrchr(name, '.'), *block = NULL;
    for (const char *at = name; (at = strstr(at, "layer")); at += 5) {
        const char *d = at + 5 + (at[5] == 's');
        if (at != name && at[-1] != '.') continue;
        d += *d == '.' && at[5] == 's';
        size_t n = strspn(d, "0123456789");
        if (n == 0) continue;
        if (at[5] != 's' && d[n] == '.') n += 1 + strspn(d + n + 1, "0123456789"); /* layer2.0 */
        block = d + n;
    }
    if (block) end = block;
    const bool stem = !block && (strstr(name, "embed") || strncmp(name, "conv1.", 6) == 0 || strncmp(name, "bn1.", 4) == 0);
    const int len = (int)(end ? end - name : (long)strlen(name));
    if (stem) snprintf(key, 256, "!");
    else snprintf(key, 256, "%.*s", len > 250 ? 250 : len, name);
}

static int natural(const char *a, const char *b)
{
    while (*a && *b) {
        if (*a >= '0' && *a <= '9' && *b >= '0' && *b <= '9') {
            while (*a == '0') a++;
            while (*b == '0') b++;
            const size_t n = strspn(a, "0123456789"), m = strspn(b, "0123456789");
            if (n != m) return n < m ? -1 : 1;
            const int c = strncmp(a, b, n);
            if (c) return c;
            a += n;
            b += n;
        } else if (*a != *b) {
            return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
        } else {
            a++;
            b++;
        }
    }
    return (*a != 0) - (*b != 0);
}

static int by_nature(const void *a, const void *b) { return natural(*(char *const *)a, *(char *const *)b); }

/* The last layer key that is kept. */
static sy_status last_key(rws *o, const sy_merging *job, char key[256])
{
    char **all = syi_arena_alloc(o->arena, (size_t)job->n * sizeof *all);
    int64_t n = 0, kinds = 0;
    if (!all) return SY_E_MEMORY;
    for (int64_t i = 0; i < job->n; i++) {
        layer_key(job->tensors[i].name, key);
        if (!(all[n++] = syi_arena_strdup(o->arena, key))) return SY_E_MEMORY;
    }
    qsort(all, (size_t)n, sizeof *all, by_nature);
    for (int64_t i = 0; i < n; i++) {
        kinds += i == 0 || strcmp(all[i], all[i - 1]) != 0;
        if (kinds > o->keep_layers) break;
        snprintf(key, 256, "%s", all[i]);
    }
    return SY_OK;
}

/* -- quantising ---------------------------------------------------------------------------------- */

static double forth(int quant, double x) { return quant == TANH ? tanh(x) : x; }
static double back(int quant, double y) { return quant == TANH ? atanh(fmax(-1 + 1e-12, fmin(1 - 1e-12, y))) : y; }

/* Values as they come out of N codes; smallest and largest are met exactly. */
static void quantise(const rws *o, float *x, int64_t n)
{
    if (o->quant == NONE || n == 0) return;
    const int64_t levels = o->quant == LOG ? syi_max(1, o->levels / 2) : o->levels;
    double low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        if (o->quant == LOG && x[i] == 0) continue;
        const double y = o->quant == LOG ? log2(fabs((double)x[i])) : forth(o->quant, (double)x[i]);
        low = fmin(low, y);
        high = fmax(high, y);
    }
    for (int64_t i = 0; i < n; i++) {
        if (!(high > low) || (o->quant == LOG && x[i] == 0)) continue;
        const double y = o->quant == LOG ? log2(fabs((double)x[i])) : forth(o->quant, (double)x[i]);
        const double q = levels > 1 ? round((y - low) / (high - low) * (double)(levels - 1)) / (double)(levels - 1) : 0.5;
        const double z = q == 1 ? high : low + q * (high - low);
        x[i] = (float)(o->quant == LOG ? copysign(exp2(z), (double)x[i]) : back(o->quant, z));
    }
}

/* -- signatures ------------------------------------------------------------------------------------- */

static sy_status whole_tensor(sy_merging *job, syi_merge_in *in, const syi_merge_tensor *t, float *to)
{
    SYI_TRY(syi_merge_in_make(job, in));
    const float *from = syi_merge_in_rows(job, in, 0, t->rows, to);
    if (from != to) memcpy(to, from, (size_t)t->count * sizeof *to);
    syi_merge_in_forget(job, in);
    return SY_OK;
}

static sy_status new_patch(rws *o, const syi_merge_tensor *t, patch **out)
{
    patch *p = &o->patches[o->n];
    *p = (patch){ syi_arena_alloc(o->arena, (size_t)syi_max(1, t->count) * sizeof(float)), t->count };
    if (!p->value) return SY_E_MEMORY;
    *out = p;
    return syi_map_set(o->names, t->name, strlen(t->name), o->n++);
}

static double factor(const rws *o, double alpha, int n)
{
    return o->compose == 0 ? alpha / n : o->compose == 1 ? alpha : alpha / n * (alpha / n);
}

static int role_of(const sy_merging *job, const syi_merge_tensor *t, int i)
{
    for (int r = 0; r < job->n_rows; r++)
        if (strcmp(rows[r].name, "role") == 0) return (int)t->value[r * (t->n + 1) + i];
    return ROBUST;
}

static double alpha_of(const sy_merging *job, const syi_merge_tensor *t, int i)
{
    for (int r = 0; r < job->n_rows; r++)
        if (strcmp(rows[r].name, "alpha") == 0) return t->value[r * (t->n + 1) + i];
    return 1;
}

static sy_status extract_tensor(rws *o, sy_merging *job, syi_merge_tensor *t, int robust)
{
    patch *p = NULL;
    float *x = syi_alloc(o->ctx, (size_t)(3 * t->count + 1) * sizeof *x), *standard = x ? x + t->count : NULL, *start = x ? standard + t->count : NULL;
    sy_status st = x ? new_patch(o, t, &p) : SY_E_MEMORY;
    if (st == SY_OK) st = whole_tensor(job, t->base, t, start);
    for (int i = 0; i < t->n && st == SY_OK; i++)
        if (role_of(job, t, i) == STANDARD) st = whole_tensor(job, &t->in[i], t, standard);
    for (int i = 0; i < t->n && st == SY_OK; i++) {
        double aa = 0, da = 0;
        if (role_of(job, t, i) != ROBUST) continue;
        st = whole_tensor(job, &t->in[i], t, x);
        for (int64_t k = 0; st == SY_OK && k < t->count; k++) {
            const double a = (double)standard[k] - (double)start[k];
            aa += a * a;
            da += a * ((double)x[k] - (double)start[k]);
        }
        const double c = o->project ? aa > 0 ? da / aa : 0 : 1, by = factor(o, alpha_of(job, t, i), robust);
        for (int64_t k = 0; st == SY_OK && k < t->count; k++)
            x[k] = (float)((double)x[k] - (double)start[k] - c * ((double)standard[k] - (double)start[k]));
        if (st == SY_OK) quantise(o, x, t->count);
        for (int64_t k = 0; st == SY_OK && k < t->count; k++) p->value[k] = (float)((double)p->value[k] + by * (double)x[k]);
    }
    syi_free(o->ctx, x);
    return st;
}

/* Adds saved signatures to the patches of their tensors. */
static sy_status read_signature(rws *o, sy_merging *job, const char *path, double by)
{
    sy_checkpoint *ck;
    SYI_TRY(sy_checkpoint_open(o->ctx, path, &ck));
    const char *method = sy_checkpoint_meta(ck, "method");
    sy_status st = method && strcmp(method, "rws") == 0 ? SY_OK : syi_fail(o->ctx, SY_E_INPUT, "%s: is not a saved signature (its metadata has no method = rws)", path);
    int64_t found = 0;
    for (int64_t i = 0; i < job->n && st == SY_OK; i++) {
        syi_merge_tensor *t = &job->tensors[i];
        const sy_entry *e = sy_checkpoint_find(ck, t->name);
        int64_t at;
        patch *p = NULL;
        if (!e || t->copy) continue;
        if (e->rank != t->rank || memcmp(e->dim, t->dim, sizeof *e->dim * (size_t)e->rank) != 0) {
            char a[128], b[128];
            st = syi_fail(o->ctx, SY_E_INPUT, "%s: tensor %s is %s there and %s in the model", path, t->name, syi_shape_text(a, e->rank, e->dim), syi_shape_text(b, t->rank, t->dim));
            break;
        }
        if (syi_map_get(o->names, t->name, strlen(t->name), &at)) p = &o->patches[at];
        else st = new_patch(o, t, &p);
        float *x = st == SY_OK ? syi_alloc(o->ctx, (size_t)(t->count + 1) * sizeof *x) : NULL;
        if (st == SY_OK && !x) st = SY_E_MEMORY;
        if (st == SY_OK) st = sy_entry_read_f32(o->ctx, e, 0, t->rows, x);
        for (int64_t k = 0; st == SY_OK && k < t->count; k++) p->value[k] = (float)((double)p->value[k] + by * (double)x[k]);
        syi_free(o->ctx, x);
        found++;
    }
    if (st == SY_OK && found != sy_checkpoint_count(ck))
        st = syi_fail(o->ctx, SY_E_INPUT, "%s: %lld of its %lld tensors are not in the model", path, (long long)(sy_checkpoint_count(ck) - found), (long long)sy_checkpoint_count(ck));
    sy_checkpoint_close(ck);
    return st;
}

/* The patched tensors' patch (or original bytes) as a file. */
static sy_status write_file(rws *o, sy_merging *job, const char *path, bool originals)
{
    sy_writer *w;
    char layers[32];
    SYI_TRY(sy_writer_new(o->ctx, path, 0, &w));
    snprintf(layers, sizeof layers, "%lld", (long long)o->keep_layers);
    sy_status st = sy_writer_meta(w, "method", originals ? "rws undo" : "rws");
    if (st == SY_OK) st = sy_writer_meta(w, "keep_layers", layers);
    if (st == SY_OK) st = sy_writer_meta(w, "projected", o->project ? "true" : "false");
    for (int put = 0; put < 2 && st == SY_OK; put++) {
        for (int64_t i = 0; i < job->n && st == SY_OK; i++) {
            syi_merge_tensor *t = &job->tensors[i];
            int64_t at;
            if (!syi_map_get(o->names, t->name, strlen(t->name), &at)) continue;
            int target = 0;
            for (int k = 0; k < t->n; k++)
                if (role_of(job, t, k) == TARGET || (role_of(job, t, k) == STANDARD && role_of(job, t, target) != TARGET)) target = k;
            const sy_entry *e = t->in[target].entry;
            if (!put) st = sy_writer_declare(w, t->name, originals ? e->dtype : SY_F32, t->rank, t->dim);
            else st = sy_writer_put(w, t->name, 0, t->rows, originals ? e->data : (const void *)o->patches[at].value);
        }
        if (!put && st == SY_OK) st = sy_writer_begin(w);
    }
    if (st == SY_OK) return sy_writer_end(w);
    sy_writer_abort(w);
    return st;
}

static sy_status prepare(void *self, sy_merging *job)
{
    rws *o = self;
    char last[256], key[256];
    int robust = 0, standard = 0;
    double size = 0;
    o->ctx = job->ctx;
    SYI_TRY(syi_arena_new(o->ctx, 1 << 16, &o->arena));
    SYI_TRY(syi_map_new(o->ctx, &o->names));
    o->patches = syi_arena_alloc(o->arena, (size_t)job->n * sizeof *o->patches);
    if (!o->patches) return SY_E_MEMORY;
    if (o->restore) { /* the original values come back as they are */
        sy_checkpoint *ck;
        SYI_TRY(sy_checkpoint_open(o->ctx, o->restore, &ck));
        sy_status st = SY_OK;
        for (int64_t i = 0; i < job->n && st == SY_OK; i++) {
            syi_merge_tensor *t = &job->tensors[i];
            const sy_entry *e = sy_checkpoint_find(ck, t->name);
            patch *p = NULL;
            if (!e) continue;
            st = e->bytes / sy_dtype_block_bytes(e->dtype) == t->count && e->dtype == t->dtype ? new_patch(o, t, &p)
                 : syi_fail(o->ctx, SY_E_INPUT, "%s: tensor %s has another type or shape there; merge without dtype to restore it", o->restore, t->name);
            if (st == SY_OK) st = sy_entry_read_f32(o->ctx, e, 0, t->rows, p->value);
        }
        sy_checkpoint_close(ck);
        return st == SY_OK && o->n == 0 ? syi_fail(o->ctx, SY_E_INPUT, "%s: none of its tensors is in the model", o->restore) : st;
    }
    for (int i = 0; i < job->tensors[0].n; i++) {
        robust += role_of(job, &job->tensors[0], i) == ROBUST;
        standard += role_of(job, &job->tensors[0], i) == STANDARD;
    }
    if (o->signatures.n) {
        for (int i = 0; i < o->signatures.n; i++) SYI_TRY(read_signature(o, job, o->signatures.item[i], factor(o, alpha_of(job, &job->tensors[0], job->tensors[0].n), o->signatures.n)));
    } else {
        if (standard != 1 || robust < 1 || !job->tensors[0].base)
            return syi_fail(o->ctx, SY_E_USAGE, "%s: rws needs base_model (the common start), one model with role: standard and at least one with role: robust; or signatures, or restore", job->recipe.path);
        SYI_TRY(last_key(o, job, last));
        for (int64_t i = 0; i < job->n; i++) {
            layer_key(job->tensors[i].name, key);
            if (!job->tensors[i].copy && natural(key, last) <= 0) SYI_TRY(extract_tensor(o, job, &job->tensors[i], robust));
        }
        if (o->save) SYI_TRY(write_file(o, job, o->save, false));
    }
    if (o->undo) SYI_TRY(write_file(o, job, o->undo, true));
    for (int i = 0; i < o->n; i++) size += (double)o->patches[i].count;
    SYI_TRY(sy_merge_report(job, "patched_tensors", o->n));
    return sy_merge_report(job, "patched_numbers", size);
}

static sy_status begin(void *self, sy_merge *m)
{
    int targets = 0;
    (void)self;
    for (int i = 0; i < m->n; i++) targets += sy_merge_value(m, "role", i) == TARGET;
    return targets > 1 ? sy_merge_fail(m, SY_E_USAGE, "%d models have role: target; one can be patched", targets) : SY_OK;
}

static void make(void *self, const sy_merge *m, sy_tile *t)
{
    const rws *o = self;
    int target = 0;
    int64_t at;
    for (int i = m->n - 1; i >= 0; i--)
        if (sy_merge_value(m, "role", i) == STANDARD) target = i;
    for (int i = 0; i < m->n; i++)
        if (sy_merge_value(m, "role", i) == TARGET) target = i;
    memcpy(t->out, t->in[target], (size_t)t->n * sizeof *t->out);
    if (!syi_map_get(o->names, m->name, strlen(m->name), &at)) return;
    const float *p = o->patches[at].value + t->first;
    if (o->restore) memcpy(t->out, p, (size_t)t->n * sizeof *t->out);
    else m->mix->pair(1, t->in[target], 1, p, t->out, t->n);
}

static void finish(void *self)
{
    rws *o = self;
    if (o->names) syi_map_free(o->names);
    if (o->arena) syi_arena_free(o->arena);
}

static const sy_merger merger = { .base = SY_MERGE_BASE_OPTIONAL, .min_inputs = 1, .prepare = prepare, .begin = begin, .make = make };

static const sy_paper papers[] = {
    { "Robust Weight Signatures: gaining robustness as easy as patching weights?", "Cai, Zhang and Wang", "ICML", "arXiv:2302.12480", 2023, "section 3" },
    { NULL, NULL, NULL, NULL, 0, NULL }
};

const sy_method sy_method_rws = {
    .abi = SY_METHOD_ABI, .name = "rws", .kind = SY_MERGER, .title = "patches of the first layers that make a clean model robust, on and off", .papers = papers,
    .about = "Extracts what training on corrupted data adds to the first layers beyond the clean update, saves it, adds it to any model with the same start at any strength, and takes it "
             "off again byte for byte. Networks with batch norm need their running statistics estimated again afterwards. One pass.",
    .options = rows, .size = sizeof(rws), .free = finish, .merger = &merger,
};
