/* SPDX-License-Identifier: Apache-2.0 */
/* Everything the next step depends on, as one safetensors file: master values of what is
 * trained, optimizer state, method state, the step. */
#include "run/run.h"

#include <stdlib.h>

typedef sy_status visit_fn(void *self, const char *name, const sy_tensor *t);

static sy_status visit(sy_run *run, visit_fn *fn, void *self)
{
    const syi_active *o = syi_run_active(run, SY_OPTIMIZER);
    for (int i = 0; i < run->n_params; i++) {
        const sy_param *p = run->params[i];
        bool state = p->slot && (p->slot->flags & SY_SLOT_STATE);
        if (!p->trained && !state && !p->buffer && !p->retired) continue;
        if (p->retired && state) continue;
        char name[400];
        snprintf(name, sizeof name, "value.%s", p->name);
        SYI_TRY(fn(self, name, &p->value));
        int k = 0;
        for (const sy_slot *s = o ? o->method->slots : NULL; s && s->name && k < p->n_state; s++) {
            if (!syi_slot_when(o, NULL, s)) continue;
            snprintf(name, sizeof name, "%s.%s", s->name, p->name);
            SYI_TRY(fn(self, name, &p->state[k++]));
        }
    }
    return SY_OK;
}

static sy_status declare(void *self, const char *name, const sy_tensor *t) { return sy_writer_declare(self, name, t->dtype, t->rank, t->dim); }
static sy_status put(void *self, const char *name, const sy_tensor *t) { return sy_writer_put(self, name, 0, sy_tensor_rows(t), t->data); }

sy_status sy_run_state_save(sy_run *run, const char *file)
{
    sy_writer *w;
    SYI_TRY(sy_writer_new(run->ctx, file, 0, &w));
    char step[32];
    snprintf(step, sizeof step, "%lld", (long long)run->step);
    syi_text retired;
    syi_text_init(&retired, run->ctx, 1 << 24);
    for (int i = 0; i < run->n_params; i++)
        if (run->params[i]->retired) syi_text_printf(&retired, "%s%s", retired.len ? "\n" : "", run->params[i]->name);
    sy_status s = sy_writer_meta(w, "steelyard.step", step);
    if (s == SY_OK && retired.len) s = retired.failed ? SY_E_MEMORY : sy_writer_meta(w, "steelyard.retired", retired.s);
    syi_text_free(&retired);
    if (s == SY_OK) s = visit(run, declare, w);
    if (s == SY_OK) s = sy_writer_begin(w);
    if (s == SY_OK) s = visit(run, put, w);
    if (s == SY_OK) return sy_writer_end(w);
    sy_writer_abort(w);
    return s;
}

typedef struct { sy_run *run; sy_checkpoint *ck; const char *file; int64_t seen; } loader;

static sy_status load(void *self, const char *name, const sy_tensor *t)
{
    loader *l = self;
    const sy_entry *e = sy_checkpoint_find(l->ck, name);
    if (!e) return syi_fail(l->run->ctx, SY_E_INPUT, "%s: tensor %s is missing; the checkpoint was written by a run with other settings", l->file, name);
    bool same = e->dtype == t->dtype && e->rank == t->rank;
    for (int i = 0; same && i < t->rank; i++) same = e->dim[i] == t->dim[i];
    if (!same) return syi_fail(l->run->ctx, SY_E_INPUT, "%s: tensor %s has another shape or type than this run's", l->file, name);
    memcpy(t->data, e->data, (size_t)e->bytes);
    l->seen++;
    return SY_OK;
}

/* Is `name` a line of `lines`? */
static bool listed(const char *lines, const char *name)
{
    const size_t n = strlen(name);
    for (const char *p = lines; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
        if (strncmp(p, name, n) == 0 && (p[n] == '\n' || p[n] == '\0')) return true;
    return false;
}

/* Parameters that the other run had resized or no longer trained: this one follows. Shapes
 * that it has no room for are left to `load`, which refuses them. */
static sy_status follow(sy_run *run, sy_checkpoint *ck)
{
    const char *retired = sy_checkpoint_meta(ck, "steelyard.retired");
    for (int i = 0; i < run->n_params; i++) {
        sy_param *p = run->params[i];
        char name[400];
        snprintf(name, sizeof name, "value.%s", p->name);
        const sy_entry *e = sy_checkpoint_find(ck, name);
        if (e && p->capacity && e->rank == p->value.rank) {
            int64_t count = 1;
            bool differs = false;
            for (int k = 0; k < e->rank; k++) {
                count *= e->dim[k];
                differs |= e->dim[k] != p->value.dim[k];
            }
            if (differs && count <= p->capacity) SYI_TRY(syi_param_shape(run, p, e->rank, e->dim));
        }
        if (listed(retired, p->name)) SYI_TRY(sy_param_train(run, p, false));
    }
    return SY_OK;
}

sy_status sy_run_state_load(sy_run *run, const char *file)
{
    loader l = {.run = run, .file = file};
    SYI_TRY(sy_checkpoint_open(run->ctx, file, &l.ck));
    sy_status s = follow(run, l.ck);
    if (s == SY_OK) s = visit(run, load, &l);
    const char *step = sy_checkpoint_meta(l.ck, "steelyard.step");
    if (s == SY_OK && l.seen != sy_checkpoint_count(l.ck))
        s = syi_fail(run->ctx, SY_E_INPUT, "%s: holds %lld tensors, this run has %lld", file, (long long)sy_checkpoint_count(l.ck), (long long)l.seen);
    if (s == SY_OK && !step) s = syi_fail(run->ctx, SY_E_INPUT, "%s: no step is recorded in it", file);
    if (s == SY_OK) {
        run->step = strtoll(step, NULL, 10);
        for (int i = 0; i < run->n_params; i++) run->params[i]->stale = run->params[i]->compute.data != run->params[i]->value.data;
        if (run->reserved) s = syi_run_refresh(run);
    }
    sy_checkpoint_close(l.ck);
    return s;
}
