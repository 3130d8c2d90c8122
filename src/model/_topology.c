/* SPDX-License-Identifier: Apache-2.0 */
/* Topology of an architecture under one config: the permutation rows that its file
 * states, written out block by block with numbers instead of names. */
#include "model/model.h"

bool syi_arch_row_active(const sy_arch *arch, const void *config, const sy_arch_tensor *row)
{
    int64_t on = 1;
    return !row->when || (syi_arch_field(arch, config, row->when, &on) && on != 0);
}

sy_status syi_arch_rows(sy_context *ctx, const sy_arch *arch, const void *config, syi_arena *arena, const sy_arch_tensor **tensors,
                        const sy_arch_perm **perms)
{
    *tensors = arch->tensors;
    *perms = arch->perms;
    return arch->expand ? arch->expand(ctx, config, arena, tensors, perms) : SY_OK;
}

typedef struct {
    sy_context *ctx;
    const sy_arch *arch;
    const void *config;
    const sy_arch_tensor *tensors;
    const sy_arch_perm *perms;
} topology;

static const sy_arch_tensor *tensor_of(const topology *t, const sy_arch_perm *p)
{
    int64_t tied = 0;
    syi_arch_field(t->arch, t->config, "tied", &tied);
    for (const sy_arch_tensor *r = t->tensors; r->name; r++)
        if (strcmp(r->name, p->tensor) == 0)
            return syi_arch_row_active(t->arch, t->config, r) && !(tied && (r->flags & SY_TENSOR_TIED)) ? r : NULL;
    return NULL; /* a table that several architectures share may speak of tensors that not all have */
}

static sy_status number(const topology *t, const char *text, int64_t *out)
{
    int rank = 0;
    int64_t dim[SY_MAX_RANK] = {0};
    SYI_TRY(syi_arch_shape(t->ctx, t->arch, t->config, text, &rank, dim));
    *out = dim[0];
    return rank == 1 ? SY_OK : syi_fail(t->ctx, SY_E_BUG, "architecture %s: permutation block %s is not one number", t->arch->name, text);
}

/* Indices that the group has on this axis: the axis, or one unit of the parent. */
static sy_status extent(const topology *t, const sy_arch_perm *p, const sy_arch_tensor *r, int64_t *out)
{
    int rank = 0;
    int64_t dim[SY_MAX_RANK] = {0};
    for (const sy_arch_perm *q = t->perms; p->parent && q->group; q++)
        if (strcmp(q->group, p->parent) == 0 && strcmp(q->tensor, p->tensor) == 0 && q->axis == p->axis
            && strcmp(q->first ? q->first : "", p->first ? p->first : "") == 0)
            return number(t, q->block, out);
    if (p->parent) return syi_fail(t->ctx, SY_E_BUG, "architecture %s: %s axis %d: group %s is not in its parent %s", t->arch->name, p->tensor, p->axis, p->group, p->parent);
    SYI_TRY(syi_arch_shape(t->ctx, t->arch, t->config, r->shape, &rank, dim));
    if (p->axis >= rank) return syi_fail(t->ctx, SY_E_BUG, "architecture %s: %s has no axis %d", t->arch->name, p->tensor, p->axis);
    *out = dim[p->axis];
    return SY_OK;
}

/* The smallest number of units that some row has room for: others hold more (repeats) or
 * begin somewhere inside. */
static sy_status units_of(const topology *t, const char *group, int64_t *out)
{
    *out = 0;
    for (const sy_arch_perm *p = t->perms; p->group; p++) {
        const sy_arch_tensor *r = strcmp(p->group, group) == 0 ? tensor_of(t, p) : NULL;
        int64_t size = 0, block = 0;
        if (!r || (p->first && !p->parent)) continue;
        SYI_TRY(extent(t, p, r, &size));
        SYI_TRY(number(t, p->block, &block));
        if (block < 1 || size % block != 0)
            return syi_fail(t->ctx, SY_E_BUG, "architecture %s: %s axis %d: %lld are not whole units of %lld", t->arch->name, p->tensor, p->axis, (long long)size, (long long)block);
        if (*out == 0 || size / block < *out) *out = size / block;
    }
    return *out > 0 ? SY_OK : syi_fail(t->ctx, SY_E_BUG, "architecture %s: group %s has no tensor that says how many units there are", t->arch->name, group);
}

/* Groups that live on tensors of blocks only have a permutation of their own in each. */
static bool by_block(const topology *t, const char *group)
{
    for (const sy_arch_perm *p = t->perms; p->group; p++)
        if (strcmp(p->group, group) == 0 && !strstr(p->tensor, "%d")) return false;
    return true;
}

static const char *named(const topology *t, syi_arena *arena, const char *group, int block)
{
    if (!group) return NULL;
    return by_block(t, group) ? syi_arena_format(arena, "%s_%d", group, block) : group;
}

sy_status syi_arch_perms(sy_context *ctx, const sy_arch *arch, const void *config, syi_arena *arena, syi_perm **out, int *n)
{
    topology t = {.ctx = ctx, .arch = arch, .config = config};
    int64_t layers = 0, rows = 0;
    *out = NULL;
    *n = 0;
    SYI_TRY(syi_arch_rows(ctx, arch, config, arena, &t.tensors, &t.perms));
    if (!t.perms) return syi_fail(ctx, SY_E_UNSUPPORTED, "architecture %s: its permutation symmetries are not stated", arch->name);
    syi_arch_field(arch, config, "layers", &layers);
    while (t.perms[rows].group) rows++;
    syi_perm *made = syi_arena_alloc(arena, (size_t)(rows * syi_max(1, layers)) * sizeof *made);
    if (!made) return SY_E_MEMORY;
    for (const sy_arch_perm *p = t.perms; p->group; p++) {
        const sy_arch_tensor *r = tensor_of(&t, p);
        if (!r) continue;
        syi_perm one = {.axis = p->axis, .role = r->role};
        SYI_TRY(units_of(&t, p->group, &one.units));
        SYI_TRY(number(&t, p->block, &one.block));
        if (p->first) SYI_TRY(number(&t, p->first, &one.first));
        if (r->flags & SY_TENSOR_TRANSPOSED) one.axis = 1 - one.axis; /* as the file has it */
        const bool blocks = strstr(p->tensor, "%d") != NULL;
        for (int b = 0; b < (blocks ? layers : 1); b++) {
            one.group = named(&t, arena, p->group, b);
            one.parent = named(&t, arena, p->parent, b);
            one.tensor = blocks ? syi_arena_format(arena, p->tensor, b) : p->tensor;
            if (!one.group || !one.tensor || (p->parent && !one.parent)) return SY_E_MEMORY;
            made[(*n)++] = one;
        }
    }
    *out = made;
    return SY_OK;
}
