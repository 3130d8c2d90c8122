/* SPDX-License-Identifier: Apache-2.0 */
/* Loading a model: every tensor row of its architecture becomes a site's weight or a
 * parameter. Frozen weights stay in the mapped file when their type and alignment allow
 * it; the rest is converted once, row by row. */
#include "model/model.h"

#include "base/options.h"
#include "io/checkpoint.h"
#include "storage/weight.h"

extern const sy_storage sy_storage_coded;

sy_status syi_model_pages(sy_model *m, int64_t bytes, void **out)
{
    *out = NULL;
    if (m->plan_only) return SY_OK;
    if (bytes < 64 << 10) { /* hundreds of small ones: a page each would be waste */
        *out = syi_arena_alloc(m->arena, (size_t)bytes);
        return *out ? SY_OK : SY_E_MEMORY;
    }
    SYI_TRY(syi_grow(m->ctx, (void **)&m->owned, &m->cap_owned, m->n_owned + 1, sizeof *m->owned, 1 << 24));
    void *p = syi_pages(m->ctx, (size_t)syi_max(1, bytes));
    if (!p) return SY_E_MEMORY;
    m->owned[m->n_owned++] = p;
    *out = p;
    return SY_OK;
}

static sy_dtype vector_type(const sy_model *m) { return m->dtype == SY_F64 ? SY_F64 : SY_F32; }

/* A whole tensor in another type (or the same, un-permuted and aligned). */
static sy_status converted(sy_model *m, const sy_entry *e, sy_dtype to, sy_tensor *t)
{
    *t = (sy_tensor){.dtype = to, .rank = e->rank};
    memcpy(t->dim, e->dim, sizeof t->dim);
    SYI_TRY(syi_model_pages(m, sy_tensor_bytes(t), &t->data));
    m->bytes += sy_tensor_bytes(t);
    if (!t->data) return SY_OK;
    int64_t rows = sy_tensor_rows(t), cols = sy_tensor_cols(t);
    int64_t row_bytes = sy_tensor_bytes(t) / syi_max(1, rows), piece = syi_max(1, (1 << 20) / syi_max(1, cols));
    int64_t pieces = syi_ceil_div(rows, piece);
    sy_status status = SY_OK;
#pragma omp parallel for num_threads(syi_omp(m->ctx)) schedule(static)
    for (int64_t p = 0; p < pieces; p++) {
        int64_t r = p * piece;
        sy_status s = sy_entry_read(m->ctx, e, to, r, syi_min(piece, rows - r), (char *)t->data + r * row_bytes);
        if (s != SY_OK) {
#pragma omp critical
            status = s;
        }
    }
    syi_mapped_forget(e->data, e->bytes); /* what was read is held twice otherwise */
    return status;
}

static bool usable_as_is(const sy_entry *e, sy_dtype want)
{
    return e->dtype == want && e->permute_heads == 0 && !e->transposed && e->shift == 0 && (uintptr_t)e->data % (size_t)sy_dtype_block_bytes(want) == 0;
}

/* Kernels [out, in, height, width] are matrices [out, in*height*width] to products. */
static void flatten(const sy_weight *w, sy_tensor *t)
{
    t->rank = 2;
    t->dim[0] = w->out;
    t->dim[1] = w->in;
}

/* Slot 1 of a coded weight: its rows lie in another order in the file. */
static sy_status row_order(sy_model *m, const sy_entry *e, sy_weight *w)
{
    int32_t *order = syi_arena_alloc(m->arena, (size_t)w->out * sizeof *order);
    if (!order) return SY_E_MEMORY;
    for (int64_t r = 0; r < w->out; r++) order[r] = (int32_t)syi_entry_stored_row(e, r);
    w->slot[1] = (sy_tensor){.dtype = SY_I32, .rank = 1, .dim = {w->out}, .data = order};
    return SY_OK;
}

static sy_status load_weight(sy_model *m, const sy_entry *e, const syi_model_options *o, sy_weight *w)
{
    w->out = e->dim[0];
    w->in = 1;
    for (int i = 1; i < e->rank; i++) w->in *= e->dim[i]; /* a kernel is a row over its window */
    w->name = e->name;
    bool block = sy_dtype_block_len(e->dtype) > 1;
    if (o->keep_coded && !o->train_all && block) {
        w->type = &sy_storage_coded;
        if (e->permute_heads > 0) SYI_TRY(row_order(m, e, w));
        w->slot[0] = (sy_tensor){.dtype = e->dtype, .rank = 2, .dim = {w->out, w->in}, .data = (void *)(uintptr_t)e->data};
        m->bytes += e->bytes;
        return SY_OK;
    }
    w->type = &sy_storage_dense;
    if (usable_as_is(e, m->dtype)) {
        w->slot[0] = (sy_tensor){.dtype = e->dtype, .rank = 2, .dim = {w->out, w->in}, .data = (void *)(uintptr_t)e->data};
        m->bytes += e->bytes;
        return SY_OK;
    }
    SYI_TRY(converted(m, e, m->dtype, &w->slot[0]));
    flatten(w, &w->slot[0]);
    return SY_OK;
}

static sy_param *param_new(sy_model *m, const char *name, sy_role role)
{
    sy_param *p = &m->params[m->n_params];
    *p = (sy_param){.name = name, .role = role, .group = "default", .decay = true};
    if (syi_map_set(m->names, name, strlen(name), (int64_t)m->n_params) != SY_OK) return NULL;
    m->n_params++;
    return p;
}

sy_status syi_model_vector(sy_model *m, const char *name, int64_t n, sy_param **out)
{
    *out = syi_model_param(m, name);
    if (*out) return SY_OK;
    char *copy = syi_arena_strdup(m->arena, name);
    sy_param *p = copy ? param_new(m, copy, SY_ROLE_BIAS) : NULL;
    if (!p) return SY_E_MEMORY;
    p->value = (sy_tensor){.dtype = vector_type(m), .rank = 1, .dim = {n}};
    SYI_TRY(syi_model_pages(m, sy_tensor_bytes(&p->value), &p->value.data));
    p->compute = p->value;
    p->decay = false;
    *out = p;
    return SY_OK;
}

static sy_status load_vector(sy_model *m, const sy_entry *e, const char *name, sy_role role, bool train)
{
    sy_param *p = param_new(m, name, role);
    if (!p) return SY_E_MEMORY;
    SYI_TRY(converted(m, e, vector_type(m), &p->value));
    p->compute = p->value;
    p->trained = train && role != SY_ROLE_STAT;
    p->buffer = train && role == SY_ROLE_STAT;
    p->decay = false;
    return SY_OK;
}

sy_status syi_model_train_site(sy_model *m, sy_site *site)
{
    sy_weight *w = site->weight;
    if (w->param) return w->param->trained = true, SY_OK;
    if (w->type != &sy_storage_dense && w->type != &sy_storage_coded) /* blocks are read once more, as numbers */
        return syi_fail(m->ctx, SY_E_UNSUPPORTED, "%s: its weights are stored as %s and cannot be trained whole; convert the model first", site->name, w->type->name);
    char *name = syi_arena_format(m->arena, "%s.weight", site->name);
    sy_param *p = name ? param_new(m, name, site->role) : NULL;
    if (!p) return SY_E_MEMORY;
    p->site = site;
    p->value = w->slot[0];
    p->value.dtype = vector_type(m);
    const bool coded = w->type == &sy_storage_coded;
    const sy_entry *e = sy_checkpoint_find(m->source->tensors, w->name);
    if (!e) return syi_fail(m->ctx, SY_E_BUG, "model: tensor %s has no source", w->name);
    int64_t before = m->bytes;
    SYI_TRY(converted(m, e, p->value.dtype, &p->value));
    flatten(w, &p->value);
    if (m->dtype == p->value.dtype) {
        p->compute = p->value;
    } else {
        m->bytes = before + sy_tensor_bytes(&p->value);
        bool mapped = usable_as_is(e, m->dtype);
        p->compute = w->slot[0];
        p->compute.dtype = m->dtype;
        if (mapped || coded) { /* the file stays as it is: a copy of our own */
            SYI_TRY(syi_model_pages(m, sy_tensor_bytes(&p->compute), &p->compute.data));
            if (p->compute.data && coded) SYI_TRY(sy_from_f32(m->ctx, m->dtype, p->value.data, p->compute.data, sy_tensor_count(&p->value)));
            else if (p->compute.data) {
                memcpy(p->compute.data, e->data, (size_t)sy_tensor_bytes(&p->compute));
                syi_mapped_forget(e->data, e->bytes);
            }
        }
    }
    p->trained = true;
    w->param = p;
    w->type = &sy_storage_dense;
    w->slot[0] = p->compute;
    w->slot[1] = (sy_tensor){0};
    return SY_OK;
}

sy_status syi_model_untie(sy_model *m, sy_site *site)
{
    if (m->head != m->embedding || site->weight != m->head) return SY_OK;
    sy_weight *own = syi_arena_alloc(m->arena, sizeof *own);
    if (!own) return SY_E_MEMORY;
    *own = *site->weight;
    own->param = NULL;
    const sy_entry *e = sy_checkpoint_find(m->source->tensors, own->name);
    if (e && own->type == &sy_storage_dense && !usable_as_is(e, own->slot[0].dtype)) { /* converted: training one end must not write into the other's */
        sy_tensor *t = &own->slot[0];
        const void *shared = t->data;
        SYI_TRY(syi_model_pages(m, sy_tensor_bytes(t), &t->data));
        if (t->data) memcpy(t->data, shared, (size_t)sy_tensor_bytes(t));
        m->bytes += sy_tensor_bytes(t);
    }
    site->weight = own;
    if (site->role == SY_ROLE_HEAD) m->head = own;
    else m->embedding = own;
    return SY_OK;
}

sy_status syi_model_set_weight(sy_model *m, sy_site *site, const float *values)
{
    sy_weight *w = site->weight;
    sy_tensor t = {.dtype = m->dtype, .rank = 2, .dim = {w->out, w->in}};
    if (w->param) return syi_fail(m->ctx, SY_E_UNSUPPORTED, "%s: its weight is trained; it cannot be replaced", site->name);
    SYI_TRY(syi_model_pages(m, sy_tensor_bytes(&t), &t.data));
    int64_t n = w->out * w->in;
    if (t.data && m->dtype == SY_F64)
        for (int64_t i = 0; i < n; i++) ((double *)t.data)[i] = values[i];
    else if (t.data)
        SYI_TRY(sy_from_f32(m->ctx, m->dtype, values, t.data, n));
    w->type = &sy_storage_dense;
    w->slot[0] = t;
    w->slot[1] = (sy_tensor){0};
    return SY_OK;
}

/* -- from rows to sites ------------------------------------------------------------------- */

static int input_group(sy_role role)
{
    switch ((int)role) {
    case SY_ROLE_Q: case SY_ROLE_K: case SY_ROLE_V: return 0;
    case SY_ROLE_O: return 1;
    case SY_ROLE_GATE: case SY_ROLE_UP: return 2;
    case SY_ROLE_DOWN: return 3;
    default: return -1;
    }
}

static sy_status check_shape(sy_model *m, const sy_arch_tensor *row, const sy_entry *e)
{
    int rank;
    int64_t dim[SY_MAX_RANK] = {0};
    SYI_TRY(syi_arch_shape(m->ctx, m->arch, m->config, row->shape, &rank, dim));
    bool same = rank == e->rank;
    for (int i = 0; same && i < rank; i++) same = dim[i] == e->dim[i];
    if (same) return SY_OK;
    char want[160] = "", found[160] = "";
    for (int i = 0; i < rank; i++) snprintf(want + strlen(want), sizeof want - strlen(want), "%s%lld", i ? ", " : "", (long long)dim[i]);
    for (int i = 0; i < e->rank; i++) snprintf(found + strlen(found), sizeof found - strlen(found), "%s%lld", i ? ", " : "", (long long)e->dim[i]);
    return syi_fail(m->ctx, SY_E_INPUT, "%s: tensor %s: config.json says [%s] (%s), the file has [%s]", e->file, e->name, want, row->shape, found);
}

static sy_site *site_new(sy_model *m, const char *name, size_t len, sy_site_kind kind, sy_role role, int block)
{
    sy_site *s = &m->sites[m->n_sites];
    *s = (sy_site){.kind = kind, .role = role, .block = block, .input_group = input_group(role)};
    char *copy = syi_arena_alloc(m->arena, len + 1);
    s->weight = syi_arena_alloc(m->arena, sizeof *s->weight);
    if (!copy || !s->weight) return NULL;
    memcpy(copy, name, len);
    s->name = copy;
    m->n_sites++;
    m->by_role[(block + 1) * SY_ROLE_COUNT + (int)role] = s;
    return s;
}

static sy_status copy_bytes(void *self, int64_t bytes, void **out) { return syi_model_pages(self, bytes, out); }

/* A linear that the file holds in a storage of its own instead of as MODULE.weight. */
static sy_status load_stored(sy_model *m, const sy_arch_tensor *row, const char *name, int block, int64_t *used, bool *found)
{
    const size_t len = strlen(name) - (syi_ends(name, ".weight") ? 7 : 0);
    char module[512];
    *found = false;
    if (!(row->flags & SY_TENSOR_LINEAR) || len >= sizeof module) return SY_OK;
    memcpy(module, name, len);
    module[len] = 0;
    const sy_storage *type = syi_storage_find(m->source->tensors, module);
    if (!type) return SY_OK;
    *found = true;
    int rank;
    int64_t dim[SY_MAX_RANK] = {0}, tensors;
    SYI_TRY(syi_arch_shape(m->ctx, m->arch, m->config, row->shape, &rank, dim));
    sy_site *s = site_new(m, module, len, SY_SITE_LINEAR, row->role, block);
    if (!s) return SY_E_MEMORY;
    SYI_TRY(syi_weight_load(m->ctx, m->source->tensors, module, type, dim[0], dim[1], copy_bytes, m, s->weight, &tensors));
    s->weight->name = s->name;
    s->out = dim[0];
    s->in = dim[1];
    *used += tensors;
    m->n_scalars += dim[0] * dim[1];
    m->bytes += syi_weight_bytes(s->weight);
    if (!m->plan_only) SYI_TRY(type->prepare(m->ctx, s->weight));
    for (int i = 0; i < SY_MAX_WEIGHT_SLOTS; i++) /* laid out anew: the file's pages may go */
        if (s->weight->slot[i].data) syi_mapped_forget(s->weight->slot[i].data, sy_tensor_bytes(&s->weight->slot[i]));
    return SY_OK;
}

static bool expected(const sy_model *m, const char *name);

/* Norms of a kind without a bias have one when a compressor put it there. */
static sy_status load_norm_bias(sy_model *m, const char *weight, int64_t n, int64_t *used)
{
    char *name = syi_ends(weight, ".weight") ? syi_arena_format(m->arena, "%.*s.bias", (int)strlen(weight) - 7, weight) : NULL;
    const sy_entry *e = name ? sy_checkpoint_find(m->source->tensors, name) : NULL;
    if (!e || expected(m, name)) return SY_OK;
    if (e->rank != 1 || e->dim[0] != n) return syi_fail(m->ctx, SY_E_INPUT, "%s: tensor %s does not fit %s", e->file, name, weight);
    (*used)++;
    m->n_scalars += n;
    return load_vector(m, e, name, SY_ROLE_BIAS, false);
}

static sy_status load_row(sy_model *m, const sy_arch_tensor *row, int block, const syi_model_options *o, int64_t *used)
{
    char *name = block < 0 ? syi_arena_strdup(m->arena, row->name) : syi_arena_format(m->arena, row->name, block);
    if (!name) return SY_E_MEMORY;
    const sy_entry *e = sy_checkpoint_find(m->source->tensors, name);
    if (row->flags & SY_TENSOR_COUNTER) return SY_OK; /* check_rest knows it */
    if (!e) {
        bool found;
        SYI_TRY(load_stored(m, row, name, block, used, &found));
        if (found) return o->train_all ? syi_model_train_site(m, &m->sites[m->n_sites - 1]) : SY_OK;
        if (row->flags & (SY_TENSOR_OPTIONAL | SY_TENSOR_TIED)) return SY_OK;
        return syi_fail(m->ctx, SY_E_INPUT, "%s: tensor %s is missing; the %s architecture needs it", m->source->path, name, m->arch->name);
    }
    SYI_TRY(check_shape(m, row, e));
    (*used)++;
    int64_t count = 1;
    for (int i = 0; i < e->rank; i++) count *= e->dim[i];
    m->n_scalars += count;
    if (row->flags & (SY_TENSOR_LINEAR | SY_TENSOR_EMBED)) {
        size_t len = strlen(name) - (syi_ends(name, ".weight") ? 7 : 0);
        bool embed = row->flags & SY_TENSOR_EMBED;
        sy_site *s = site_new(m, name, len, embed ? SY_SITE_EMBED : SY_SITE_LINEAR, row->role, block);
        if (!s) return SY_E_MEMORY;
        SYI_TRY(load_weight(m, e, o, s->weight));
        /* An embedding maps ids to hidden: its table is [vocabulary, hidden]. */
        s->in = embed ? s->weight->out : s->weight->in;
        s->out = embed ? s->weight->in : s->weight->out;
        if (o->train_all) SYI_TRY(syi_model_train_site(m, s));
        return SY_OK;
    }
    SYI_TRY(load_vector(m, e, name, row->role, o->train_all));
    return row->role == SY_ROLE_NORM ? load_norm_bias(m, name, e->dim[0], used) : SY_OK;
}

/* Parameters called "<site>.bias" belong to their site. */
static void find_biases(sy_model *m)
{
    for (int i = 0; i < m->n_sites; i++) {
        char name[256];
        int n = snprintf(name, sizeof name, "%s.bias", m->sites[i].name);
        int64_t k;
        if (n > 0 && n < (int)sizeof name && syi_map_get(m->names, name, (size_t)n, &k)) {
            m->sites[i].bias = &m->params[k];
            m->params[k].site = &m->sites[i];
        }
    }
}

/* Is `name` this row's, of some block? */
static bool fits(const sy_arch_tensor *r, const char *name)
{
    const char *d = strstr(r->name, "%d");
    if (!d) return strcmp(r->name, name) == 0;
    if (strncmp(r->name, name, (size_t)(d - r->name)) != 0) return false;
    const char *p = name + (d - r->name);
    size_t digits = strspn(p, "0123456789");
    return digits && strcmp(p + digits, d + 2) == 0;
}

static bool expected(const sy_model *m, const char *name)
{
    for (const sy_arch_tensor *r = m->rows; r->name; r++)
        if (fits(r, name)) return true;
    return false;
}

/* Tensors that old exporters leave in files and nobody reads. */
static bool harmless(const char *name) { return syi_ends(name, "rotary_emb.inv_freq") || syi_ends(name, "masked_bias"); }

static bool is_counter(const sy_model *m, const char *name)
{
    for (const sy_arch_tensor *r = m->rows; r->name; r++)
        if ((r->flags & SY_TENSOR_COUNTER) && fits(r, name)) return true;
    return false;
}

static sy_status check_rest(sy_model *m, int64_t used)
{
    int64_t n = sy_checkpoint_count(m->source->tensors);
    if (used == n) return SY_OK;
    for (int64_t i = 0; i < n; i++) {
        const char *name = sy_checkpoint_at(m->source->tensors, i)->name;
        int64_t k;
        char site[256];
        size_t len = strlen(name);
        if (syi_map_get(m->names, name, len, &k) || harmless(name) || is_counter(m, name)) continue;
        bool known = false;
        if (len < sizeof site && syi_ends(name, ".weight")) {
            memcpy(site, name, len - 7);
            site[len - 7] = 0;
            known = syi_model_site(m, site) && strcmp(syi_model_site(m, site)->weight->name, name) == 0;
        }
        for (int other = 0; !known && other < m->n_sites; other++) { /* a slot of a stored weight */
            const sy_site *owner = &m->sites[other];
            const size_t stem = strlen(owner->name);
            for (int f = 0; strncmp(owner->name, name, stem) == 0 && !known && f < syi_storage_slots(owner->weight->type); f++)
                known = strcmp(name + stem, owner->weight->type->suffixes[f]) == 0;
        }
        if (!known)
            return syi_fail(m->ctx, SY_E_INPUT, "%s: tensor %s %s", m->source->path, name,
                            expected(m, name) ? "contradicts config.json (a block or bias that it does not have)"
                                              : "is not part of this architecture; the file would be read only in part");
    }
    return SY_OK;
}

/* The head: a row of its own, or the embedding's table again. */
static sy_status find_head(sy_model *m)
{
    sy_site *embed = syi_model_role(m, -1, SY_ROLE_EMBED), *head = syi_model_role(m, -1, SY_ROLE_HEAD);
    int64_t hidden = 0;
    if (!head && m->arch->head == SY_HEAD_CLASS) { /* states only: embeddings */
        syi_arch_field(m->arch, m->config, "hidden", &hidden);
        m->embedding = embed ? embed->weight : NULL;
        m->vocab = embed ? embed->weight->out : 0;
        m->hidden = hidden;
        return SY_OK;
    }
    if (!embed && !head) return syi_fail(m->ctx, SY_E_BUG, "architecture %s has neither an embedding nor a head row", m->arch->name);
    m->embedding = embed ? embed->weight : NULL;
    int64_t tied = 0;
    if (embed && m->arch->head == SY_HEAD_CAUSAL) syi_arch_field(m->arch, m->config, "tied", &tied);
    if (tied && head && m->source->tensors) {
        /* Some files store the tied head once more; config.json decides, as everywhere. */
        head->weight = embed->weight;
    } else if (!head) {
        if (!tied)
            return syi_fail(m->ctx, SY_E_INPUT, "%s: there is no output head, and config.json does not say tie_word_embeddings", m->source->path);
        head = site_new(m, "lm_head", 7, SY_SITE_LINEAR, SY_ROLE_HEAD, -1);
        if (!head) return SY_E_MEMORY;
        head->weight = embed->weight;
        head->in = embed->out;
        head->out = embed->in;
    }
    m->head = head->weight;
    m->outputs = m->head->out;
    m->vocab = embed ? embed->weight->out : m->head->out;
    m->hidden = m->head->in;
    return SY_OK;
}

static sy_status load_rows(sy_model *m, const syi_model_options *o)
{
    int64_t layers = 0, used = 0;
    syi_arch_field(m->arch, m->config, "layers", &layers);
    if (layers < 0 || layers > 4096) return syi_fail(m->ctx, SY_E_INPUT, "config.json: %lld layers; 0 to 4096 are supported", (long long)layers);
    m->blocks = (int)layers;
    int64_t rows = 0;
    const sy_arch_perm *perms;
    SYI_TRY(syi_arch_rows(m->ctx, m->arch, m->config, m->arena, &m->rows, &perms));
    for (const sy_arch_tensor *r = m->rows; r->name; r++) rows++;
    size_t most = (size_t)(rows * (layers + 1) + 1);
    m->sites = syi_arena_alloc(m->arena, most * sizeof *m->sites);
    m->params = syi_arena_alloc(m->arena, most * sizeof *m->params);
    m->by_role = syi_arena_alloc(m->arena, (size_t)(layers + 1) * SY_ROLE_COUNT * sizeof *m->by_role);
    if (!m->sites || !m->params || !m->by_role) return SY_E_MEMORY;
    for (const sy_arch_tensor *r = m->rows; r->name; r++) {
        if (strstr(r->name, "%d") || !syi_arch_row_active(m->arch, m->config, r)) continue;
        SYI_TRY(load_row(m, r, -1, o, &used));
    }
    for (int b = 0; b < m->blocks; b++)
        for (const sy_arch_tensor *r = m->rows; r->name; r++)
            if (strstr(r->name, "%d") && syi_arch_row_active(m->arch, m->config, r)) SYI_TRY(load_row(m, r, b, o, &used));
    find_biases(m);

    SYI_TRY(find_head(m));
    return check_rest(m, used);
}

/* -- whole models ---------------------------------------------------------------------------- */

sy_status syi_model_load(sy_context *ctx, const char *path, const syi_model_options *o, sy_model **out)
{
    *out = NULL;
    sy_model *m = syi_calloc(ctx, 1, sizeof *m);
    if (!m) return SY_E_MEMORY;
    m->ctx = ctx;
    m->dtype = o->dtype;
    m->plan_only = o->plan_only;
    sy_status s;
    SYI_TRY_TO(fail, s, syi_arena_new(ctx, 64 << 10, &m->arena));
    SYI_TRY_TO(fail, s, syi_map_new(ctx, &m->names));
    SYI_TRY_TO(fail, s, syi_source_open(ctx, path, true, &m->source));
    m->arch = m->source->arch;
    s = syi_arch_config(ctx, m->arch, m->source->config, m->arena, &m->config);
    if (s != SY_OK) {
        s = syi_fail_at(ctx, s, "%s", path);
        goto fail;
    }
    SYI_TRY_TO(fail, s, load_rows(m, o));
    syi_arch_field(m->arch, m->config, "context", &m->context_length);
    if (o->positions) SYI_TRY_TO(fail, s, syi_model_positions(m, o->positions));
    *out = m;
    return SY_OK;
fail:
    syi_model_free(m);
    return s;
}

void syi_model_free(sy_model *m)
{
    if (!m) return;
    for (int i = 0; i < m->n_sites; i++)
        if (m->sites[i].weight && m->sites[i].weight->type && m->sites[i].weight->type->release) m->sites[i].weight->type->release(m->ctx, m->sites[i].weight);
    for (int64_t i = 0; i < m->n_owned; i++) syi_pages_free(m->ctx, m->owned[i]);
    syi_free(m->ctx, m->owned);
    syi_model_positions_free(m);
    syi_source_close(m->source);
    syi_map_free(m->names);
    syi_arena_free(m->arena);
    syi_free(m->ctx, m);
}

sy_site *syi_model_role(const sy_model *m, int block, sy_role role)
{
    return block >= m->blocks ? NULL : m->by_role[(block + 1) * SY_ROLE_COUNT + (int)role];
}

sy_site *syi_model_site(sy_model *m, const char *name)
{
    for (int i = 0; i < m->n_sites; i++)
        if (strcmp(m->sites[i].name, name) == 0) return &m->sites[i];
    return NULL;
}

sy_param *syi_model_param(sy_model *m, const char *name)
{
    int64_t k;
    return syi_map_get(m->names, name, strlen(name), &k) ? &m->params[k] : NULL;
}

sy_status syi_model_rows(sy_model *m, const char *name, int64_t row, int64_t n, float *dst, bool *changed)
{
    const sy_param *p = syi_model_param(m, name);
    *changed = p && (p->trained || p->buffer);
    const sy_entry *e = sy_checkpoint_find(m->source->tensors, name);
    if (!*changed) {
        if (!e) return syi_fail(m->ctx, SY_E_BUG, "model: no tensor %s", name);
        return sy_entry_read_f32(m->ctx, e, row, n, dst);
    }
    int64_t cols = e ? syi_entry_width(e) : sy_tensor_cols(&p->value);
    if (p->value.dtype == SY_F64) {
        const double *src = (const double *)p->value.data + row * cols;
        for (int64_t i = 0; i < n * cols; i++) dst[i] = (float)src[i];
        return SY_OK;
    }
    memcpy(dst, (const float *)p->value.data + row * cols, (size_t)(n * cols) * sizeof *dst);
    return SY_OK;
}
