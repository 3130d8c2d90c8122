/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters that stop being trained or change their shape during training, with everything
 * that hangs on them: gradient, compute copy, optimizer state. Memory was planned for the
 * largest shape, so a change of shape stays where it is; what is given back goes page by
 * page. */
#include "run/run.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

/* The whole pages of a range leave memory; they read as zeros from now on. */
static void give_back(void *p, int64_t bytes)
{
    if (!p || bytes <= 0) return;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)p + page - 1) / page * page, last = ((uintptr_t)p + (uintptr_t)bytes) / page * page;
    memset(p, 0, (size_t)bytes);
    if (last > first) madvise((void *)first, last - first, MADV_DONTNEED);
}

sy_status sy_param_train(sy_run *run, sy_param *p, bool on)
{
    if (p->retired ? !on : on == p->trained && !(p->slot && (p->slot->flags & SY_SLOT_STATE))) return SY_OK;
    if (on) return syi_fail(run->ctx, SY_E_BUG, "%s: what is no longer trained cannot be trained again", p->name);
    const bool state = p->slot && (p->slot->flags & SY_SLOT_STATE);
    for (int i = 0; i < p->n_state; i++) {
        give_back(p->state[i].data, sy_tensor_bytes(&p->state[i]));
        p->state[i].data = NULL;
    }
    if (p->grad.data) give_back(p->grad.data, sy_tensor_bytes(&p->grad));
    if (state) give_back(p->value.data, sy_tensor_bytes(&p->value));
    p->grad.data = NULL;
    p->n_state = 0;
    p->mask = NULL;
    p->trained = false;
    p->retired = true;
    return SY_OK;
}

static void set_dims(sy_tensor *t, int rank, const int64_t *dim)
{
    t->rank = rank;
    memcpy(t->dim, dim, (size_t)rank * sizeof *dim);
}

sy_status syi_param_shape(sy_run *run, sy_param *p, int rank, const int64_t *dim)
{
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dim[i];
    if (!p->capacity || n > p->capacity || rank != p->value.rank)
        return syi_fail(run->ctx, SY_E_BUG, "%s: was made for %lld numbers, %lld are asked for; init declares the largest phase", p->name, (long long)p->capacity, (long long)n);
    const int states = p->n_state;
    for (int i = 0; i < states; i++) {
        bool same = p->state[i].rank == p->value.rank;
        for (int k = 0; same && k < p->value.rank; k++) same = p->state[i].dim[k] == p->value.dim[k];
        if (!same) return syi_fail(run->ctx, SY_E_UNSUPPORTED, "%s: this optimizer's state has a shape of its own, which cannot follow a parameter that changes its shape", p->name);
    }
    for (int i = 0; i < states; i++) set_dims(&p->state[i], rank, dim);
    set_dims(&p->value, rank, dim);
    set_dims(&p->compute, rank, dim);
    if (p->grad.rank) set_dims(&p->grad, rank, dim);
    return SY_OK;
}

/* to[outer, n, inner] = from[outer, was, inner] by keep. */
static void gather(const char *from, char *to, int64_t outer, int64_t was, int64_t n, size_t inner, const int64_t *keep)
{
    for (int64_t o = 0; o < outer; o++)
        for (int64_t k = 0; k < n; k++) {
            char *at = to + ((size_t)(o * n + k)) * inner;
            if (keep[k] < 0) memset(at, 0, inner);
            else memcpy(at, from + ((size_t)(o * was + keep[k])) * inner, inner);
        }
}

sy_status sy_param_resize(sy_run *run, sy_param *p, int axis, const int64_t *keep, int64_t n)
{
    const syi_active *o = syi_run_active(run, SY_OPTIMIZER);
    const int64_t was = p->value.dim[axis];
    int64_t outer = 1, inner = 1, dim[SY_MAX_RANK];
    for (int i = 0; i < axis; i++) outer *= p->value.dim[i];
    for (int i = axis + 1; i < p->value.rank; i++) inner *= p->value.dim[i];
    for (int64_t k = 0; k < n; k++)
        if (keep[k] >= was) return syi_fail(run->ctx, SY_E_BUG, "%s: entry %lld of %lld along axis %d", p->name, (long long)keep[k], (long long)was, axis);
    memcpy(dim, p->value.dim, sizeof dim);
    dim[axis] = n;
    const size_t one = (size_t)inner * (p->value.dtype == SY_F64 ? 8 : 4), bytes = (size_t)(outer * was) * one;
    char *before = syi_alloc(run->ctx, bytes);
    if (!before) return SY_E_MEMORY;
    sy_status st = syi_param_shape(run, p, p->value.rank, dim);
    void *parts[2 + 8] = { p->value.data, p->grad.data };
    int count = 2, at = 0;
    for (const sy_slot *s = o ? o->method->slots : NULL; st == SY_OK && s && s->name && at < p->n_state; s++) {
        if (!syi_slot_when(o, NULL, s)) continue;
        sy_tensor *t = &p->state[at++];
        if (s->moment == 0) memset(t->data, 0, (size_t)sy_tensor_bytes(t));
        else if (count < 10) parts[count++] = t->data;
    }
    for (int i = 0; i < count && st == SY_OK; i++) {
        if (!parts[i]) continue;
        memcpy(before, parts[i], bytes);
        gather(before, parts[i], outer, was, n, one, keep);
    }
    syi_free(run->ctx, before);
    p->mask = NULL;
    p->stale = p->compute.data != p->value.data;
    return st;
}
