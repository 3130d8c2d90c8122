/* SPDX-License-Identifier: Apache-2.0 */
/* LoRA adapters as GGUF, both ways.
 *
 * A GGUF adapter has tensors BASE.lora_a [r, in] and BASE.lora_b [out, r] under the
 * base's GGUF names and one alpha for all of them; a runtime adds alpha/r * B A.
 * Scales of single modules are therefore baked into B. Rows of B for q and k stand
 * in GGUF's order, as the base's do; to find back, head counts and the number of
 * blocks are written too, under the keys that models have (runtimes ignore them in
 * adapters). The embedding's A is stored transposed. */
#include "gguf.h"
#include "source.h"

#include "model/model.h"

#include <math.h>
#include <stdlib.h>

/* -- writing ---------------------------------------------------------------------- */

typedef struct {
    char a[SYI_MODEL_NAME_MAX + 16], b[SYI_MODEL_NAME_MAX + 16];
    int64_t rank, in, out, heads;
    bool embedding;
    sy_dtype dtype_a, dtype_b;
    double factor;        /* on B */
} item;

/* Q8_0 wants rows of whole blocks. */
static sy_dtype dtype_for(sy_dtype asked, int64_t cols)
{
    return asked == SY_Q8_0 && cols % 32 != 0 ? SY_F16 : asked;
}

static sy_status plan_pair(sy_context *ctx, syi_source *base, const void *config, sy_dtype dtype, const syi_lora_pair *p, item *out)
{
    char name[SYI_MODEL_NAME_MAX], gguf[SYI_MODEL_NAME_MAX];
    const sy_tensor *a = &p->a, *b = &p->b;
    if (snprintf(name, sizeof name, "%s.weight", p->module) >= (int)sizeof name)
        return syi_fail(ctx, SY_E_INPUT, "module %s: the name is too long", p->module);
    const sy_arch_tensor *row = syi_name_to_gguf(base->arch, name, gguf);
    const sy_entry *e = sy_checkpoint_find(base->tensors, name);
    if (row == NULL) return syi_fail(ctx, SY_E_UNSUPPORTED, "module %s has no name in GGUF's %s architecture", p->module, base->arch->gguf_arch);
    if (e == NULL)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "module %s: %s has no tensor %s%s; fold the adapter into the model instead", p->module, base->path, name,
                        (row->flags & SY_TENSOR_TIED) != 0 ? " (the head is tied to the embedding)" : "");
    out->embedding = (row->flags & SY_TENSOR_EMBED) != 0;
    if (a->rank != 2 || b->rank != 2 || e->rank != 2 || a->dim[0] != b->dim[1] || a->dim[1] != e->dim[out->embedding ? 0 : 1] ||
        b->dim[0] != e->dim[out->embedding ? 1 : 0])
        return syi_fail(ctx, SY_E_INPUT, "module %s: A [%lld, %lld] and B [%lld, %lld] do not fit its weight [%lld, %lld]", p->module,
                        (long long)a->dim[0], (long long)a->dim[1], (long long)b->dim[0], (long long)b->dim[1], (long long)e->dim[0],
                        (long long)e->dim[1]);
    out->rank = a->dim[0];
    out->in = a->dim[1];
    out->out = b->dim[0];
    out->heads = 0;
    if (row->flags & SY_TENSOR_PERMUTE_Q) syi_arch_field(base->arch, config, "heads", &out->heads);
    if (row->flags & SY_TENSOR_PERMUTE_K) syi_arch_field(base->arch, config, "kv_heads", &out->heads);
    if (out->heads > 0 && out->out % (2 * out->heads) != 0)
        return syi_fail(ctx, SY_E_INPUT, "module %s: %lld rows are not %lld heads of an even size", p->module, (long long)out->out,
                        (long long)out->heads);
    snprintf(out->a, sizeof out->a, "%s.lora_a", gguf);
    snprintf(out->b, sizeof out->b, "%s.lora_b", gguf);
    out->dtype_a = dtype_for(dtype, out->embedding ? out->rank : out->in);
    out->dtype_b = dtype_for(dtype, out->rank);
    return SY_OK;
}

static sy_status put_pair(sy_context *ctx, syi_gguf_writer *w, const syi_lora_pair *p, const item *it)
{
    const int64_t na = it->rank * it->in, nb = it->out * it->rank, r = it->rank;
    float *f = syi_calloc(ctx, (size_t)(na > nb ? na : nb), 2 * sizeof *f);
    if (f == NULL) return sy_error_code(ctx);
    float *t = f + (na > nb ? na : nb), *out = f;
    sy_status status = sy_to_f32(ctx, p->a.dtype, p->a.data, f, na);
    if (status == SY_OK && it->embedding) {
        for (int64_t i = 0; i < r; i++)
            for (int64_t k = 0; k < it->in; k++) t[k * r + i] = f[i * it->in + k];
        out = t;
    }
    if (status == SY_OK) status = syi_gguf_put_rows(w, it->a, 0, it->embedding ? it->in : r, out);
    if (status == SY_OK) status = sy_to_f32(ctx, p->b.dtype, p->b.data, f, nb);
    out = f;
    for (int64_t i = 0; status == SY_OK && it->factor != 1 && i < nb; i++) f[i] = (float)(it->factor * f[i]);
    if (status == SY_OK && it->heads > 0) {
        const int64_t dim = it->out / it->heads;
        for (int64_t i = 0; i < it->out; i++) {
            const int64_t in = i % dim, at = i - in + (in % (dim / 2)) * 2 + in / (dim / 2);
            memcpy(t + at * r, f + i * r, (size_t)r * sizeof *t);
        }
        out = t;
    }
    if (status == SY_OK) status = syi_gguf_put_rows(w, it->b, 0, it->out, out);
    syi_free(ctx, f);
    return status;
}

static sy_status put_count(syi_gguf_writer *w, const sy_arch *arch, const void *config, const char *field, const char *key)
{
    char name[128];
    int64_t value;
    if (!syi_arch_field(arch, config, field, &value)) return SY_OK;
    snprintf(name, sizeof name, "%s.%s", arch->gguf_arch, key);
    return syi_gguf_put_u32(w, name, (uint32_t)value);
}

static sy_status put_keys(syi_gguf_writer *w, const syi_source *base, const void *config, float alpha)
{
    const sy_arch *arch = base->arch;
    SYI_TRY(syi_gguf_put_str(w, "general.architecture", arch->gguf_arch, -1));
    SYI_TRY(syi_gguf_put_str(w, "general.type", "adapter", -1));
    SYI_TRY(syi_gguf_put_str(w, "adapter.type", "lora", -1));
    SYI_TRY(syi_gguf_put_f32(w, "adapter.lora.alpha", alpha));
    SYI_TRY(syi_gguf_put_u32(w, "general.quantization_version", 2));
    SYI_TRY(put_count(w, arch, config, "layers", "block_count"));
    SYI_TRY(put_count(w, arch, config, "heads", "attention.head_count"));
    return put_count(w, arch, config, "kv_heads", "attention.head_count_kv");
}

static sy_status write_all(sy_context *ctx, syi_source *base, syi_gguf_writer *w, const void *config, sy_dtype dtype, const syi_lora_pair *pairs,
                           int64_t n, item *items)
{
    for (int64_t i = 0; i < n; i++) SYI_TRY(plan_pair(ctx, base, config, dtype, &pairs[i], &items[i]));
    /* alpha of the first; 0 would mean "scale 1" to a runtime */
    float alpha = n > 0 ? (float)(pairs[0].scale * (double)items[0].rank) : 1;
    if (alpha == 0 || !isfinite(alpha)) alpha = n > 0 ? (float)items[0].rank : 1;
    for (int64_t i = 0; i < n; i++) {
        items[i].factor = pairs[i].scale * (double)items[i].rank / alpha;
        if (fabs(items[i].factor - 1) < 1e-7) items[i].factor = 1; /* only alpha's own rounding */
    }
    SYI_TRY(put_keys(w, base, config, alpha));
    for (int64_t i = 0; i < n; i++) {
        const item *it = &items[i];
        const int64_t a[] = {it->embedding ? it->in : it->rank, it->embedding ? it->rank : it->in}, b[] = {it->out, it->rank};
        SYI_TRY(syi_gguf_declare(w, it->a, it->dtype_a, 2, a));
        SYI_TRY(syi_gguf_declare(w, it->b, it->dtype_b, 2, b));
    }
    SYI_TRY(syi_gguf_begin(w));
    for (int64_t i = 0; i < n; i++) SYI_TRY(put_pair(ctx, w, &pairs[i], &items[i]));
    return SY_OK;
}

sy_status syi_lora_to_gguf(sy_context *ctx, syi_source *base, const char *file, sy_dtype dtype, const syi_lora_pair *pairs, int64_t n)
{
    if (base->arch == NULL || base->config == NULL)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: without a known architecture its adapters cannot be written as GGUF", base->path);
    if (dtype != SY_F32 && dtype != SY_F16 && dtype != SY_BF16 && dtype != SY_Q8_0)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: a LoRA GGUF holds F32, F16, BF16 or Q8_0, not %s", file, sy_dtype_name(dtype));
    syi_gguf_writer *w = NULL;
    syi_arena *arena = NULL;
    void *config = NULL;
    sy_status status;
    item *items = syi_calloc(ctx, (size_t)n + 1, sizeof *items);
    if (items == NULL) return sy_error_code(ctx);
    SYI_TRY_TO(done, status, syi_arena_new(ctx, 4096, &arena));
    SYI_TRY_TO(done, status, syi_arch_config(ctx, base->arch, base->config, arena, &config));
    SYI_TRY_TO(done, status, syi_gguf_writer_new(ctx, file, &w));
    SYI_TRY_TO(done, status, write_all(ctx, base, w, config, dtype, pairs, n, items));
    status = syi_gguf_end(w);
    w = NULL;
done:
    syi_gguf_writer_abort(w);
    syi_arena_free(arena);
    syi_free(ctx, items);
    return status;
}

/* -- reading ------------------------------------------------------------------------- */

typedef struct {
    const sy_entry *a, *b;
    const char *module;      /* without ".weight"                                     */
    int block;               /* -1: outside of the blocks                             */
    int64_t rank;
    bool embedding;
    int64_t heads;
} pair;

typedef struct {
    sy_context *ctx;
    const char *file;
    const syi_gguf *g;
    const sy_arch *arch;
    syi_arena *arena;
    pair *pairs;
    int64_t n;
    int64_t rank;            /* the one that most modules have                        */
} reader;

static bool arch_int(const reader *r, const char *key, int64_t *out)
{
    char name[128];
    const char *arch = r->arch->gguf_arch;
    syi_gguf_str(r->g, "general.architecture", &arch);
    snprintf(name, sizeof name, "%s.%s", arch, key);
    return syi_gguf_int(r->g, name, out);
}

static sy_status check_kind(reader *r)
{
    const char *type = "", *kind = "", *arch = "";
    syi_gguf_str(r->g, "general.type", &type);
    syi_gguf_str(r->g, "adapter.type", &kind);
    syi_gguf_str(r->g, "general.architecture", &arch);
    if (strcmp(type, "adapter") != 0 || strcmp(kind, "lora") != 0)
        return syi_fail(r->ctx, SY_E_INPUT, "%s: its general.type is \"%s\" and its adapter.type \"%s\"; a LoRA adapter was expected", r->file, type, kind);
    if (syi_gguf_array(r->g, "adapter.alora.invocation_tokens", NULL) >= 0)
        return syi_fail(r->ctx, SY_E_UNSUPPORTED, "%s: an activated LoRA (it works from certain tokens on) is not supported", r->file);
    r->arch = syi_arch_of_gguf(arch);
    if (r->arch == NULL) return syi_fail(r->ctx, SY_E_UNSUPPORTED, "%s: the architecture \"%s\" is not supported", r->file, arch);
    return SY_OK;
}

/* The pair that begins with this .lora_a. */
static sy_status read_pair(reader *r, const sy_entry *a, pair *p)
{
    char base[SYI_MODEL_NAME_MAX + 16], other[SYI_MODEL_NAME_MAX + 16], hf[SYI_MODEL_NAME_MAX];
    const size_t len = strlen(a->name) - strlen(".lora_a");
    snprintf(base, sizeof base, "%.*s", (int)len, a->name);
    snprintf(other, sizeof other, "%.*s.lora_b", (int)len, a->name);
    const sy_arch_tensor *row = syi_name_from_gguf(r->arch, base, hf);
    if (row == NULL || !syi_ends(hf, ".weight"))
        return syi_fail(r->ctx, SY_E_UNSUPPORTED, "%s: tensor %s: %s is not a weight of the %s architecture", r->file, a->name, base, r->arch->name);
    p->a = a;
    p->b = syi_gguf_find(r->g, other);
    if (p->b == NULL) return syi_fail(r->ctx, SY_E_INPUT, "%s: tensor %s is there, but %s is not", r->file, a->name, other);
    p->embedding = (row->flags & SY_TENSOR_EMBED) != 0;
    if (a->rank != 2 || p->b->rank != 2 || a->dim[p->embedding ? 1 : 0] != p->b->dim[1] || p->b->dim[1] < 1)
        return syi_fail(r->ctx, SY_E_INPUT, "%s: tensors %s and %s do not fit each other", r->file, a->name, other);
    p->rank = p->b->dim[1];
    hf[strlen(hf) - strlen(".weight")] = '\0';
    p->module = syi_arena_strdup(r->arena, hf);
    if (p->module == NULL) return sy_error_code(r->ctx);
    p->block = strstr(row->gguf, "%d") != NULL ? (int)strtol(a->name + (strstr(row->gguf, "%d") - row->gguf), NULL, 10) : -1;
    const char *key = row->flags & SY_TENSOR_PERMUTE_Q ? "attention.head_count" : row->flags & SY_TENSOR_PERMUTE_K ? "attention.head_count_kv" : NULL;
    p->heads = 0;
    if (key == NULL) return SY_OK;
    if (!arch_int(r, key, &p->heads) && !(row->flags & SY_TENSOR_PERMUTE_K && arch_int(r, "attention.head_count", &p->heads)))
        return syi_fail(r->ctx, SY_E_UNSUPPORTED,
                        "%s: rows of %s are in GGUF's order, and the file does not say how many heads there are (%s.%s): it cannot be turned back",
                        r->file, other, r->arch->gguf_arch, key);
    if (p->heads < 1 || p->b->dim[0] % (2 * p->heads) != 0)
        return syi_fail(r->ctx, SY_E_INPUT, "%s: tensor %s: %lld rows are not %lld heads of an even size", r->file, other,
                        (long long)p->b->dim[0], (long long)p->heads);
    return SY_OK;
}

static sy_status read_pairs(reader *r)
{
    const int64_t n = syi_gguf_tensors(r->g);
    r->pairs = syi_arena_alloc(r->arena, ((size_t)n + 1) * sizeof *r->pairs);
    if (r->pairs == NULL) return sy_error_code(r->ctx);
    for (int64_t i = 0; i < n; i++) {
        const sy_entry *e = syi_gguf_tensor(r->g, i);
        if (syi_ends(e->name, ".lora_a")) SYI_TRY(read_pair(r, e, &r->pairs[r->n++]));
        else if (!syi_ends(e->name, ".lora_b"))
            return syi_fail(r->ctx, SY_E_UNSUPPORTED, "%s: tensor %s is no part of a LoRA", r->file, e->name);
    }
    if (r->n == 0 || 2 * r->n != n) return syi_fail(r->ctx, SY_E_INPUT, "%s: %lld tensors are not pairs of .lora_a and .lora_b", r->file, (long long)n);
    int64_t best = 0;
    for (int64_t i = 0; i < r->n; i++) {
        int64_t same = 0;
        for (int64_t k = 0; k < r->n; k++) same += r->pairs[k].rank == r->pairs[i].rank;
        if (same > best) {
            best = same;
            r->rank = r->pairs[i].rank;
        }
    }
    return SY_OK;
}

/* "q_proj" stands for every block's; a module that some blocks lack is named in full. */
static const char *target_of(const reader *r, const pair *p)
{
    int64_t blocks = -1, have = 0;
    const char *leaf = strrchr(p->module, '.');
    if (leaf == NULL) return p->module;
    arch_int(r, "block_count", &blocks);
    for (int64_t i = 0; i < r->n; i++) have += r->pairs[i].block >= 0 && syi_ends(r->pairs[i].module, leaf);
    return p->block < 0 || have == blocks ? leaf + 1 : p->module;
}

static sy_status make_config(reader *r, json_t **out)
{
    double alpha = 0;
    syi_gguf_float(r->g, "adapter.lora.alpha", &alpha);
    const bool plain = alpha == 0; /* scale 1, whatever the rank */
    json_t *targets = json_array(), *ranks = json_object(), *alphas = json_object();
    json_t *seen = json_object();
    for (int64_t i = 0; i < r->n; i++) {
        const pair *p = &r->pairs[i];
        const char *target = target_of(r, p);
        if (json_object_get(seen, target) == NULL) json_array_append_new(targets, json_string(target));
        json_object_set_new(seen, target, json_true());
        if (p->rank == r->rank) continue;
        json_object_set_new(ranks, p->module, json_integer(p->rank));
        if (plain) json_object_set_new(alphas, p->module, json_integer(p->rank));
    }
    json_decref(seen);
    const double value = plain ? (double)r->rank : alpha;
    json_t *number = value == floor(value) && fabs(value) < 1e15 ? json_integer((json_int_t)value) : json_real(value);
    *out = json_pack("{s:s,s:s,s:s,s:b,s:n,s:I,s:o,s:f,s:o,s:o,s:o,s:s,s:b,s:b,s:b,s:n,s:b}", "peft_type", "LORA", "task_type", "CAUSAL_LM",
                     "base_model_name_or_path", "", "inference_mode", 1, "revision", "r", (json_int_t)r->rank, "lora_alpha", number, "lora_dropout",
                     0.0, "target_modules", targets, "rank_pattern", ranks, "alpha_pattern", alphas, "bias", "none", "fan_in_fan_out", 0,
                     "use_rslora", 0, "use_dora", 0, "modules_to_save", "init_lora_weights", 1);
    return *out != NULL ? SY_OK : syi_nomem(r->ctx, 0);
}

static sy_status read_tensor(reader *r, const pair *p, bool is_a, syi_named *out)
{
    sy_context *ctx = r->ctx;
    sy_entry e = is_a ? *p->a : *p->b;
    const bool turn = is_a && p->embedding;
    const char *slot = p->embedding ? (is_a ? "lora_embedding_A" : "lora_embedding_B") : (is_a ? "lora_A.weight" : "lora_B.weight");
    const int64_t rows = e.dim[0], cols = e.dim[1];
    float *f = syi_arena_alloc(r->arena, (size_t)(rows * cols) * sizeof *f), *t = f;
    out->name = syi_arena_format(r->arena, "base_model.model.%s.%s", p->module, slot);
    if (f == NULL || out->name == NULL) return sy_error_code(ctx);
    if (!is_a) e.permute_heads = (int)p->heads;
    SYI_TRY(sy_entry_read_f32(ctx, &e, 0, rows, f));
    if (turn) {
        t = syi_arena_alloc(r->arena, (size_t)(rows * cols) * sizeof *t);
        if (t == NULL) return sy_error_code(ctx);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = 0; k < cols; k++) t[k * rows + i] = f[i * cols + k];
    }
    out->value = (sy_tensor){.dtype = SY_F32, .rank = 2, .dim = {turn ? cols : rows, turn ? rows : cols}, .data = t};
    return SY_OK;
}

static sy_status write_folder(reader *r, const char *dir)
{
    sy_context *ctx = r->ctx;
    json_t *config = NULL;
    syi_dir out = {0};
    sy_status status;
    syi_named *named = syi_arena_alloc(r->arena, (size_t)r->n * 2 * sizeof *named);
    if (named == NULL) return sy_error_code(ctx);
    SYI_TRY_TO(done, status, make_config(r, &config));
    for (int64_t i = 0; i < 2 * r->n; i++) SYI_TRY_TO(done, status, read_tensor(r, &r->pairs[i / 2], i % 2 == 0, &named[i]));
    char *readme = syi_arena_format(r->arena, "---\nlibrary_name: peft\ntags:\n- lora\n---\n\nA LoRA adapter, converted from `%s`.\n",
                                    syi_basename(r->file));
    if (readme == NULL) {
        status = sy_error_code(ctx);
        goto done;
    }
    SYI_TRY_TO(done, status, syi_dir_begin(ctx, dir, false, &out));
    SYI_TRY_TO(done, status, syi_adapter_write(ctx, out.work, config, readme, named, 2 * r->n));
    status = syi_dir_commit(&out);
done:
    syi_dir_abort(&out);
    json_decref(config);
    return status;
}

sy_status syi_lora_gguf_read(sy_context *ctx, const char *file, syi_arena *arena, syi_lora_pair **out, int64_t *n)
{
    syi_gguf *g = NULL;
    reader r = {.ctx = ctx, .file = file, .arena = arena};
    *out = NULL;
    *n = 0;
    SYI_TRY(syi_gguf_open(ctx, file, &g));
    r.g = g;
    double alpha = 0;
    sy_status status = check_kind(&r);
    if (status == SY_OK) status = read_pairs(&r);
    syi_gguf_float(g, "adapter.lora.alpha", &alpha);
    syi_lora_pair *pairs = status == SY_OK ? syi_arena_alloc(arena, (size_t)r.n * sizeof *pairs) : NULL;
    if (status == SY_OK && pairs == NULL) status = sy_error_code(ctx);
    for (int64_t i = 0; status == SY_OK && i < r.n; i++) {
        const pair *p = &r.pairs[i];
        syi_named a = {0}, b = {0};
        status = read_tensor(&r, p, true, &a);
        if (status == SY_OK) status = read_tensor(&r, p, false, &b);
        pairs[i] = (syi_lora_pair){p->module, a.value, b.value, alpha == 0 ? 1 : alpha / (double)p->rank};
    }
    syi_gguf_close(g);
    if (status != SY_OK) return status;
    *out = pairs;
    *n = r.n;
    return SY_OK;
}

sy_status syi_lora_from_gguf(sy_context *ctx, const char *file, const char *dir)
{
    syi_gguf *g = NULL;
    reader r = {.ctx = ctx, .file = file};
    SYI_TRY(syi_gguf_open(ctx, file, &g));
    r.g = g;
    sy_status status = syi_arena_new(ctx, 1 << 20, &r.arena);
    if (status == SY_OK) status = check_kind(&r);
    if (status == SY_OK) status = read_pairs(&r);
    if (status == SY_OK) status = write_folder(&r, dir);
    if (r.arena != NULL) syi_arena_free(r.arena);
    syi_gguf_close(g);
    return status;
}
