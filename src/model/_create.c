/* SPDX-License-Identifier: Apache-2.0 */
/* A model to train from scratch: the tensors that a config asks for, filled as the usual
 * libraries fill them. */
#include "model/model.h"

#include "base/registry.h"
#include "io/source.h"

#include <math.h>

typedef struct {
    sy_context *ctx;
    const sy_arch *arch;
    void *config;
    syi_arena *arena;
    sy_writer *w;
    uint64_t seed;
    sy_dtype dtype;
    bool fill;  /* second pass */
} maker;

/* Convolutions and inner layers of image networks as He and others (2015), their head as
 * torch's Linear; transformers N(0, 0.02) (all Gaussian here). */
static double deviation(const maker *m, const sy_arch_tensor *r, int rank, const int64_t *dim)
{
    double in = 1;
    for (int i = 1; i < rank; i++) in *= (double)dim[i];
    if (r->role == SY_ROLE_CONV) return sqrt(2 / ((double)dim[0] * in / (double)dim[1]));
    if (r->role == SY_ROLE_FC) return sqrt(2 / in);
    if (m->arch->input == SY_INPUT_IMAGES && r->role == SY_ROLE_HEAD) return 1 / sqrt(3 * in);
    return 0.02;
}

static sy_status fill(const maker *m, const sy_arch_tensor *r, const char *name, int rank, const int64_t *dim)
{
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dim[i];
    const int64_t rows = rank > 0 ? n / dim[rank - 1] : 1;
    float *x = syi_alloc(m->ctx, (size_t)n * sizeof *x);
    void *y = syi_alloc(m->ctx, (size_t)n * sizeof *x);
    sy_status s = x && y ? SY_OK : SY_E_MEMORY;
    if (s == SY_OK) {
        const bool one = (r->role == SY_ROLE_NORM && !(r->flags & SY_TENSOR_FROM_ONE)) || (r->role == SY_ROLE_STAT && syi_ends(name, "running_var"));
        const bool flat = r->role == SY_ROLE_NORM || r->role == SY_ROLE_STAT || r->role == SY_ROLE_BIAS;
        const double d = flat ? 0 : deviation(m, r, rank, dim);
        if (!flat) syi_normal(syi_key(m->seed, "create", name, 0), 0, n, x);
        for (int64_t i = 0; i < n; i++) x[i] = flat ? one : (float)(x[i] * d);
        s = sy_from_f32(m->ctx, m->dtype, x, y, n);
    }
    if (s == SY_OK) s = sy_writer_put(m->w, name, 0, rows, y);
    syi_free(m->ctx, x);
    syi_free(m->ctx, y);
    return s;
}

static sy_status one(const maker *m, const sy_arch_tensor *r, int block)
{
    int rank;
    int64_t dim[SY_MAX_RANK], tied = 0;
    syi_arch_field(m->arch, m->config, "tied", &tied);
    if ((r->flags & SY_TENSOR_COUNTER) || (tied && (r->flags & SY_TENSOR_TIED)) || !syi_arch_row_active(m->arch, m->config, r)) return SY_OK;
    const char *name = block < 0 ? r->name : syi_arena_format(m->arena, r->name, block);
    if (!name) return SY_E_MEMORY;
    SYI_TRY(syi_arch_shape(m->ctx, m->arch, m->config, r->shape, &rank, dim));
    if (r->flags & SY_TENSOR_TRANSPOSED) { /* as the folder has it */
        const int64_t out = dim[0];
        dim[0] = dim[1];
        dim[1] = out;
    }
    if (!m->fill) return sy_writer_declare(m->w, name, m->dtype, rank, dim);
    return fill(m, r, name, rank, dim);
}

static sy_status all(const maker *m, const sy_arch_tensor *rows)
{
    int64_t layers = 0;
    syi_arch_field(m->arch, m->config, "layers", &layers);
    for (const sy_arch_tensor *r = rows; r->name; r++)
        for (int b = strstr(r->name, "%d") ? 0 : -1; b < (strstr(r->name, "%d") ? (int)layers : 0); b++) SYI_TRY(one(m, r, b));
    return SY_OK;
}

static sy_status write_weights(maker *m, const char *dir)
{
    const sy_arch_tensor *rows;
    const sy_arch_perm *perms;
    SYI_TRY(syi_arch_rows(m->ctx, m->arch, m->config, m->arena, &rows, &perms));
    char *path = syi_join(m->ctx, dir, "model.safetensors");
    if (!path) return SY_E_MEMORY;
    sy_status s = sy_writer_new(m->ctx, path, 0, &m->w);
    syi_free(m->ctx, path);
    SYI_TRY(s);
    s = all(m, rows);
    if (s == SY_OK) s = sy_writer_begin(m->w);
    m->fill = true;
    if (s == SY_OK) s = all(m, rows);
    if (s == SY_OK) return sy_writer_end(m->w);
    sy_writer_abort(m->w);
    return s;
}

sy_status sy_model_create(sy_context *ctx, const char *config, const char *dir, uint64_t seed, sy_dtype dtype)
{
    maker m = {.ctx = ctx, .seed = seed, .dtype = dtype};
    json_t *j = NULL;
    sy_status s;
    if (dtype != SY_F32 && dtype != SY_BF16 && dtype != SY_F16)
        return syi_fail(ctx, SY_E_USAGE, "a new model can have F32, BF16 or F16 weights, not %s", sy_dtype_name(dtype));
    SYI_TRY(syi_json_parse(ctx, config, strlen(config), "config.json", &j));
    SYI_TRY_TO(done, s, syi_arena_new(ctx, 16 << 10, &m.arena));
    SYI_TRY_TO(done, s, syi_arch_of_config(ctx, j, "config.json", &m.arch));
    SYI_TRY_TO(done, s, syi_arch_config(ctx, m.arch, j, m.arena, &m.config));
    SYI_TRY_TO(done, s, syi_mkdirs(ctx, dir));
    char *path = syi_join(ctx, dir, "config.json");
    s = path ? syi_json_write(ctx, path, j, false) : SY_E_MEMORY;
    syi_free(ctx, path);
    if (s == SY_OK) s = write_weights(&m, dir);
done:
    syi_arena_free(m.arena);
    json_decref(j);
    return s;
}
