/* SPDX-License-Identifier: Apache-2.0 */
/* The models that go into a merge: Hugging Face folders, GGUF files, single safetensors
 * files, each with an adapter on it if the recipe says "model+adapter". Rows come out as
 * f32 whatever they are stored as; what an adapter changes is folded one tensor at a time. */
#include "run/_merge.h"

#include "io/source.h"
#include "run/run.h"
#include "tensor/convert.h"

/* As given, or beside the recipe. NULL: nothing there. */
static char *find(sy_merging *g, const char *path)
{
    if (syi_exists(path) || path[0] == '/') return syi_exists(path) ? syi_arena_strdup(g->arena, path) : NULL;
    const char *slash = strrchr(g->recipe.path, '/');
    char *beside = slash ? syi_arena_format(g->arena, "%.*s/%s", (int)(slash - g->recipe.path), g->recipe.path, path) : NULL;
    return beside && syi_exists(beside) ? beside : NULL;
}

/* The two paths of "model+adapter"; a path may hold a '+' of its own. */
static sy_status split(sy_merging *g, syi_merge_model *m)
{
    m->path = find(g, m->text);
    for (const char *plus = strchr(m->text, '+'); plus && !m->path; plus = strchr(plus + 1, '+')) {
        char *left = syi_arena_format(g->arena, "%.*s", (int)(plus - m->text), m->text);
        if (!left) return SY_E_MEMORY;
        m->path = find(g, left);
        if (!m->path) continue;
        m->adapter = find(g, plus + 1);
        if (!m->adapter) return syi_fail(g->ctx, SY_E_INPUT, "%s: %s: there is no adapter folder %s", g->recipe.path, m->text, plus + 1);
    }
    if (m->path) return SY_OK;
    sy_error_clear(g->ctx);
    return syi_fail(g->ctx, SY_E_INPUT, "%s: there is no model %s (looked from here and from the recipe's folder; models are not downloaded)", g->recipe.path, m->text);
}

static sy_status open_adapter(sy_merging *g, syi_merge_model *m)
{
    sy_run_options o;
    sy_run_options_init(&o);
    o.model = m->path;
    o.adapter = m->adapter;
    o.dtype = SY_BF16; /* only tensors that the adapter touches are asked for, and those in f32 */
    for (int64_t i = 0; i < sy_checkpoint_count(m->tensors); i++)
        if (sy_checkpoint_at(m->tensors, i)->dtype == SY_F32 && sy_checkpoint_at(m->tensors, i)->rank > 1) o.dtype = SY_F32;
    o.keep_coded = true;
    return sy_run_open(g->ctx, &o, &m->run);
}

/* A merge takes matrices the way round that folders have them, which for some architectures
 * (GPT-2) is not how sources show them. */
static sy_status as_in_folders(sy_merging *g, syi_merge_model *m)
{
    char scratch[SYI_MODEL_NAME_MAX];
    for (int64_t i = 0; m->source->arch && i < m->tensors->n; i++) {
        sy_entry *e = &m->tensors->entry[i];
        const sy_arch_tensor *row = e->rank == 2 ? syi_name_row(m->source->arch, e->name, scratch) : NULL;
        if (!row || !(row->flags & SY_TENSOR_TRANSPOSED)) continue;
        if (!e->transposed && sy_dtype_block_len(e->dtype) > 1)
            return syi_fail(g->ctx, SY_E_UNSUPPORTED, "%s: tensor %s is stored in blocks and would have to be turned; convert the model to a folder first (steelyard convert)", m->text, e->name);
        const int64_t rows = e->dim[0];
        e->dim[0] = e->dim[1];
        e->dim[1] = rows;
        e->transposed = !e->transposed;
    }
    return SY_OK;
}

sy_status syi_merge_open(sy_merging *g, const char *text, int *model)
{
    for (int i = 0; i < g->n_models; i++)
        if (strcmp(g->models[i].text, text) == 0) return *model = i, SY_OK;
    SYI_TRY(syi_grow(g->ctx, (void **)&g->models, &g->cap_models, g->n_models + 1, sizeof *g->models, 4096));
    syi_merge_model *m = &g->models[g->n_models];
    *m = (syi_merge_model){ .text = syi_arena_strdup(g->arena, text) };
    if (!m->text) return SY_E_MEMORY;
    *model = g->n_models++;
    SYI_TRY(split(g, m));
    sy_status st = syi_source_open(g->ctx, m->path, false, &m->source);
    if (st == SY_OK) m->tensors = m->source->tensors;
    if (st == SY_OK) st = as_in_folders(g, m);
    if (st == SY_OK && m->adapter) st = open_adapter(g, m);
    if (st != SY_OK) return syi_fail_at(g->ctx, st, "%s", g->recipe.path);
    const sy_entry *e = sy_checkpoint_find(m->tensors, "model.embed_tokens.weight");
    if (e && e->rank == 2) m->vocab = e->dim[0];
    return SY_OK;
}

void syi_merge_models_free(sy_merging *g)
{
    for (int i = 0; i < g->n_models; i++) {
        sy_run_close(g->models[i].run);
        syi_source_close(g->models[i].source);
    }
    syi_free(g->ctx, g->models);
    g->models = NULL;
    g->n_models = 0;
}

/* x[rows, cols] becomes its transpose. */
static sy_status turn(sy_context *ctx, int64_t rows, int64_t cols, float *x)
{
    float *was = syi_alloc(ctx, (size_t)(rows * cols) * sizeof *was);
    if (!was) return SY_E_MEMORY;
    memcpy(was, x, (size_t)(rows * cols) * sizeof *was);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) x[c * rows + r] = was[r * cols + c];
    syi_free(ctx, was);
    return SY_OK;
}

sy_status syi_merge_in_make(sy_merging *g, syi_merge_in *in)
{
    syi_merge_model *m = &g->models[in->model];
    const sy_entry *e = in->entry;
    const int64_t rows = syi_entry_rows(e), cols = syi_entry_cols(e);
    if (!in->fold || in->made) return SY_OK;
    in->made = syi_pages(g->ctx, (size_t)(rows * cols) * sizeof *in->made);
    double *constant = syi_calloc(g->ctx, (size_t)syi_max(in->fold->out, 1), sizeof *constant), delta;
    bool changed = false;
    sy_status st = in->made && constant ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK && in->fold->n_wraps == 0) st = syi_model_rows(m->run->model, e->name, 0, rows, in->made, &changed);
    if (st == SY_OK && in->fold->n_wraps > 0) {
        const sy_entry *shown = sy_checkpoint_find(m->run->model->source->tensors, e->name); /* as the site has it */
        const bool turned = shown->rank == 2 && shown->transposed != e->transposed;
        st = sy_entry_read_f32(g->ctx, shown, 0, turned ? cols : rows, in->made);
        if (st == SY_OK) st = syi_run_fold_site(m->run, in->fold, in->made, constant, &delta);
        if (st == SY_OK && turned) st = turn(g->ctx, cols, rows, in->made);
        for (int64_t o = 0; st == SY_OK && o < in->fold->out; o++)
            if (constant[o] != 0)
                st = syi_fail(g->ctx, SY_E_UNSUPPORTED, "%s: the adapter adds a constant to %s; fold it into the model first (steelyard fold)", m->text, in->fold->name);
    }
    syi_free(g->ctx, constant);
    return st;
}

void syi_merge_in_forget(sy_merging *g, syi_merge_in *in)
{
    if (in->made) syi_pages_free(g->ctx, in->made);
    in->made = NULL;
}

static void entry_rows(const sy_merging *g, const sy_entry *e, int64_t row, int64_t n, float *dst)
{
    const int64_t cols = syi_entry_cols(e);
    if (e->permute_heads > 0 || e->transposed || e->shift != 0) {
        sy_entry_read_f32(g->ctx, e, row, n, dst); /* checked when it was planned: cannot fail */
        return;
    }
    const char *at = (const char *)e->data + row * (cols / sy_dtype_block_len(e->dtype)) * sy_dtype_block_bytes(e->dtype);
    if (e->dtype == SY_BF16) g->mix->from_bf16(at, dst, n * cols);
    else syi_to_f32(e->dtype, at, dst, n * cols);
}

const float *syi_merge_in_rows(const sy_merging *g, const syi_merge_in *in, int64_t row, int64_t n, float *dst)
{
    const sy_entry *e = in->entry;
    const int64_t cols = syi_entry_cols(e);
    if (in->take) {
        for (int64_t i = 0; i < n; i++) {
            const int64_t from = in->take[row + i];
            float *to = dst + i * cols;
            if (from < 0) syi_merge_token_default(g, in, row + i, to);
            else if (in->made) memcpy(to, in->made + from * cols, (size_t)cols * sizeof *to);
            else entry_rows(g, e, from, 1, to);
        }
        return dst;
    }
    if (in->made) return in->made + row * cols;
    if (e->dtype == SY_F32 && e->permute_heads == 0 && !e->transposed && e->shift == 0 && (uintptr_t)e->data % sizeof(float) == 0) return (const float *)e->data + row * cols;
    entry_rows(g, e, row, n, dst);
    return dst;
}

void syi_merge_in_run(const sy_merging *g, const syi_merge_in *in, int64_t first, int64_t n, float *dst, float *row)
{
    const sy_entry *e = in->entry;
    const int64_t cols = syi_entry_cols(e);
    if (!in->take && !in->made && e->permute_heads == 0 && !e->transposed && e->shift == 0 && sy_dtype_block_len(e->dtype) == 1) {
        const char *at = (const char *)e->data + first * sy_dtype_block_bytes(e->dtype);
        if (e->dtype == SY_BF16) g->mix->from_bf16(at, dst, n);
        else syi_to_f32(e->dtype, at, dst, n);
        return;
    }
    for (int64_t k = 0; k < n;) {
        const int64_t r = (first + k) / cols, c = (first + k) % cols, m = syi_min(cols - c, n - k);
        memcpy(dst + k, syi_merge_in_rows(g, in, r, 1, row) + c, (size_t)m * sizeof *dst);
        k += m;
    }
}
