/* SPDX-License-Identifier: Apache-2.0 */
/* The journal: a folder beside the output with one file a solved unit (a layer, or a block
 * where a method works on blocks), each complete or not there. Hidden states are not in it:
 * they are made again from what is, which is quicker than writing them. */
#include "run/compress.h"

#include "io/io.h"
#include "run/train.h"
#include "storage/weight.h"

#include <math.h>

#define SETTINGS "settings.json"
#define CHOICES "choices.json"

static sy_status same_settings(syi_compress *s, const char *path, const json_t *fingerprint)
{
    json_t *old;
    SYI_TRY(syi_json_read(s->ctx, path, &old));
    sy_status st = SY_OK;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)fingerprint, key, value) {
        const json_t *was = json_object_get(old, key);
        if (st != SY_OK || json_equal(was, value)) continue;
        st = syi_fail(s->ctx, SY_E_USAGE, "%s holds the unfinished work of a run with another %s (\"%s\", now \"%s\"); repeat that command to finish it, "
                      "or remove the folder", s->journal, key, was ? json_string_value(was) : "", json_string_value(value));
    }
    json_decref(old);
    return st;
}

sy_status syi_journal_open(syi_compress *s, const char *out, const json_t *fingerprint)
{
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    char *place = syi_arena_alloc(s->arena, n + 1);
    if (!place) return SY_E_MEMORY;
    memcpy(place, out, n);
    s->journal = syi_arena_format(s->arena, "%s.unfinished", place);
    if (!s->journal) return SY_E_MEMORY;
    SYI_TRY(syi_mkdirs(s->ctx, s->journal));
    SYI_TRY(syi_folder_lock(s->ctx, s->journal, &s->lock));
    SYI_TRY(syi_folder_clean(s->ctx, s->journal));
    char *path = syi_join(s->ctx, s->journal, SETTINGS);
    if (!path) return SY_E_MEMORY;
    const sy_status st = syi_exists(path) ? same_settings(s, path, fingerprint) : syi_json_write(s->ctx, path, fingerprint, true);
    syi_free(s->ctx, path);
    return st;
}

sy_status syi_journal_remove(syi_compress *s)
{
    const sy_status st = syi_remove_tree(s->ctx, s->journal);
    syi_folder_unlock(s->lock);
    s->lock = -1;
    return st;
}

static char *unit_path(const syi_compress *s, const char *unit) { return syi_format(s->ctx, "%s/%s.safetensors", s->journal, unit); }

/* -- reports ---------------------------------------------------------------------------------------- */

static json_t *number(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static json_t *report_json(const syi_layer_report *r)
{
    return json_pack("{s:s, s:I, s:o, s:o, s:o, s:o, s:s}", "name", r->name, "bytes", (json_int_t)r->bytes, "bits", number(r->bits), "weight_error",
                     number(r->weight_error), "output_error", number(r->output_error), "seconds", number(r->seconds), "note", r->note);
}

static double real_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static int report_index(const syi_compress *s, const char *name)
{
    for (int i = 0; name && i < s->n_sites; i++)
        if (strcmp(s->report[i].name, name) == 0) return i;
    return -1;
}

static void report_take(syi_compress *s, const json_t *list)
{
    size_t k;
    json_t *o;
    json_array_foreach((json_t *)(uintptr_t)list, k, o) {
        const int i = report_index(s, json_string_value(json_object_get(o, "name")));
        if (i < 0) continue;
        syi_layer_report *r = &s->report[i];
        r->bytes = (int64_t)json_integer_value(json_object_get(o, "bytes"));
        r->bits = real_of(o, "bits");
        r->weight_error = real_of(o, "weight_error");
        r->output_error = real_of(o, "output_error");
        r->seconds = real_of(o, "seconds");
        const char *note = json_string_value(json_object_get(o, "note"));
        snprintf(r->note, sizeof r->note, "%s", note ? note : "");
        s->reused++;
    }
}

/* -- units ---------------------------------------------------------------------------------------------- */

/* The tensor of a slot: "" when the weight has no such slot in files. A dense weight is MODULE.weight. */
static void slot_name(const syi_compress *s, int i, int k, char name[512])
{
    const sy_weight *x = s->made[i].weight;
    const char *suffix = x->type->suffixes ? x->type->suffixes[k] : ".weight";
    name[0] = 0;
    if (x->slot[k].data) snprintf(name, 512, "%s%s", s->made[i].module, suffix);
}

static int slots_of(const sy_weight *x) { return x->type->suffixes ? syi_storage_slots(x->type) : 1; }

static sy_status declare(syi_compress *s, sy_writer *w)
{
    for (int i = 0; i < s->n_made; i++) {
        const sy_weight *x = s->made[i].weight;
        for (int k = 0; k < slots_of(x); k++) {
            char name[512];
            slot_name(s, i, k, name);
            if (name[0]) SYI_TRY(sy_writer_declare(w, name, x->slot[k].dtype, x->slot[k].rank, x->slot[k].dim));
        }
    }
    for (int i = 0; i < s->n_vectors; i++) {
        const sy_tensor *t = &s->vector[i].param->value;
        SYI_TRY(sy_writer_declare(w, s->vector[i].param->name, SY_F32, t->rank, t->dim));
    }
    return sy_writer_begin(w);
}

static sy_status put(syi_compress *s, sy_writer *w)
{
    for (int i = 0; i < s->n_made; i++) {
        const sy_weight *x = s->made[i].weight;
        for (int k = 0; k < slots_of(x); k++) {
            char name[512];
            slot_name(s, i, k, name);
            if (name[0] && sy_tensor_bytes(&x->slot[k]) > 0) SYI_TRY(sy_writer_put(w, name, 0, sy_tensor_rows(&x->slot[k]), x->slot[k].data));
        }
    }
    for (int i = 0; i < s->n_vectors; i++) SYI_TRY(sy_writer_put(w, s->vector[i].param->name, 0, 1, s->vector[i].data));
    return SY_OK;
}

sy_status syi_journal_save(syi_compress *s, const char *unit)
{
    char *path = unit_path(s, unit), *text = NULL;
    json_t *list = json_array();
    sy_writer *w = NULL;
    for (int i = 0; i < s->n_made; i++) {
        const int k = report_index(s, s->made[i].module);
        if (k >= 0) json_array_append_new(list, report_json(&s->report[k]));
    }
    if (s->kept) json_array_append_new(list, report_json(&s->report[report_index(s, s->kept)]));
    sy_status st = path && list ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK) text = json_dumps(list, JSON_COMPACT | JSON_REAL_PRECISION(17));
    if (st == SY_OK) st = sy_writer_new(s->ctx, path, 0, &w);
    if (st == SY_OK && text) st = sy_writer_meta(w, "layers", text);
    if (st == SY_OK) st = declare(s, w);
    if (st == SY_OK) st = put(s, w);
    if (st == SY_OK) {
        st = sy_writer_end(w);
        w = NULL;
    }
    sy_writer_abort(w);
    syi_json_free_text(text);
    json_decref(list);
    syi_free(s->ctx, path);
    return st;
}

static sy_status copy_slot(void *self, int64_t bytes, void **out)
{
    syi_compress *s = self;
    *out = syi_arena_alloc(s->arena, (size_t)syi_max(1, bytes));
    return *out ? SY_OK : SY_E_MEMORY;
}

static sy_status take_weight(syi_compress *s, const sy_checkpoint *ck, const sy_site *site, const sy_storage *type)
{
    sy_weight w;
    int64_t used;
    SYI_TRY(syi_weight_load(s->ctx, ck, site->name, type, site->out, site->in, copy_slot, s, &w, &used));
    float *dense = syi_alloc(s->ctx, (size_t)(site->out * site->in) * sizeof *dense);
    sy_status st = dense ? type->prepare(s->ctx, &w) : SY_E_MEMORY; /* also checks it */
    if (st == SY_OK) st = type->dense(s->ctx, &w, 0, site->out, dense);
    if (st == SY_OK) st = syi_calibration_put(s->c, site, dense);
    if (w.fast) type->release(s->ctx, &w);
    syi_free(s->ctx, dense);
    return st;
}

/* A weight that a method changed and left dense. */
static sy_status take_dense(syi_compress *s, const sy_checkpoint *ck, const sy_site *site)
{
    char name[512];
    snprintf(name, sizeof name, "%s.weight", site->name);
    const sy_entry *e = sy_checkpoint_find(ck, name);
    if (!e) return SY_OK; /* kept as it was */
    if (e->rank != 2 || e->dim[0] != site->out || e->dim[1] != site->in) return syi_fail(s->ctx, SY_E_INPUT, "%s: %s is not [%lld, %lld]", s->journal, name, (long long)site->out, (long long)site->in);
    float *w = syi_alloc(s->ctx, (size_t)(site->out * site->in) * sizeof *w);
    sy_status st = w ? sy_entry_read_f32(s->ctx, e, 0, site->out, w) : SY_E_MEMORY;
    if (st == SY_OK) st = syi_calibration_put(s->c, site, w);
    syi_free(s->ctx, w);
    return st;
}

sy_status syi_journal_load(syi_compress *s, const char *unit, bool *there)
{
    char *path = unit_path(s, unit);
    sy_checkpoint *ck = NULL;
    *there = path && syi_exists(path);
    sy_status st = path ? SY_OK : SY_E_MEMORY;
    if (!*there) {
        syi_free(s->ctx, path);
        return st;
    }
    st = sy_checkpoint_open(s->ctx, path, &ck);
    for (int i = 0; i < s->c->n_pairs && st == SY_OK; i++) {
        const sy_site *site = s->c->pair[i].site;
        const sy_storage *type = syi_storage_find(ck, site->name);
        st = type ? take_weight(s, ck, site, type) : take_dense(s, ck, site);
    }
    for (int64_t i = 0; st == SY_OK && i < sy_checkpoint_count(ck); i++) {
        const sy_entry *e = sy_checkpoint_at(ck, i);
        sy_param *p = syi_model_param(s->model, e->name);
        if (p && e->dtype == SY_F32 && sy_tensor_count(&p->value) * 4 == e->bytes) {
            float *v = syi_alloc(s->ctx, (size_t)e->bytes);
            st = v ? sy_entry_read_f32(s->ctx, e, 0, 1, v) : SY_E_MEMORY;
            if (st == SY_OK) st = syi_calibration_put_vector(s->c, p, v);
            syi_free(s->ctx, v);
        }
    }
    const char *text = st == SY_OK ? sy_checkpoint_meta(ck, "layers") : NULL;
    json_t *list = NULL;
    if (text) st = syi_json_parse(s->ctx, text, strlen(text), path, &list);
    if (list) report_take(s, list);
    json_decref(list);
    sy_checkpoint_close(ck);
    syi_free(s->ctx, path);
    return st;
}

/* -- what was allocated ------------------------------------------------------------------------------------ */

sy_status syi_journal_choices(syi_compress *s, bool save, bool *there)
{
    char *path = syi_join(s->ctx, s->journal, CHOICES);
    sy_status st = path ? SY_OK : SY_E_MEMORY;
    json_t *list = NULL;
    *there = false;
    if (st == SY_OK && save) {
        list = json_array();
        for (int i = 0; i < s->n_sites; i++) json_array_append_new(list, json_integer(s->pick[i]));
        st = list ? syi_json_write(s->ctx, path, list, false) : syi_nomem(s->ctx, 0);
    } else if (st == SY_OK && syi_exists(path)) {
        st = syi_json_read(s->ctx, path, &list);
        *there = st == SY_OK && (int)json_array_size(list) == s->n_sites;
        for (int i = 0; *there && i < s->n_sites; i++) s->pick[i] = (int)json_integer_value(json_array_get(list, (size_t)i));
    }
    json_decref(list);
    syi_free(s->ctx, path);
    return st;
}
