/* SPDX-License-Identifier: Apache-2.0 */
/* From the journal to what is left: a folder of this project, the layouts of GPTQ and AWQ
 * in Hugging Face's folders, a dense folder, or GGUF blocks where they hold the same
 * numbers. Whatever a form cannot hold is an error, never an approximation. */
#include "run/compress.h"

#include "io/io.h"
#include "storage/weight.h"

typedef struct {
    syi_compress *s;
    sy_checkpoint **unit; int n_units;
    sy_entry *extra; int n_extra;
    char *memory; int64_t bytes, used;
    sy_weight held; const sy_site *held_site; float *dense; /* one weight at a time */
    int bits; int64_t group; bool order, symmetric, zero_at_0; /* of all layers */
} output;

/* -- the journal's content ------------------------------------------------------------------- */

static sy_status open_units(output *o)
{
    syi_compress *s = o->s;
    char **names = NULL;
    int n = 0;
    SYI_TRY(syi_list_dir(s->ctx, s->journal, &names, &n));
    sy_status st = SY_OK;
    o->unit = syi_arena_alloc(s->arena, (size_t)(n + 1) * sizeof *o->unit);
    if (!o->unit) st = SY_E_MEMORY;
    for (int i = 0; i < n; i++) {
        if (st == SY_OK && names[i][0] != '.' && syi_ends(names[i], ".safetensors")) {
            char *path = syi_join(s->ctx, s->journal, names[i]);
            st = path ? sy_checkpoint_open(s->ctx, path, &o->unit[o->n_units]) : SY_E_MEMORY;
            if (st == SY_OK) o->n_units++;
            syi_free(s->ctx, path);
        }
        syi_free(s->ctx, names[i]);
    }
    syi_free(s->ctx, names);
    return st;
}

static const sy_checkpoint *unit_of(const output *o, const sy_site *site, const sy_storage **type)
{
    for (int i = 0; i < o->n_units; i++)
        if ((*type = syi_storage_find(o->unit[i], site->name))) return o->unit[i];
    return NULL;
}

static const sy_entry *vector_of(const output *o, const char *name)
{
    for (int i = 0; i < o->n_units; i++) {
        const sy_entry *e = sy_checkpoint_find(o->unit[i], name);
        if (e) return e;
    }
    return NULL;
}

/* The compressed site whose weight the tensor is; NULL too for one that was kept as it is. */
static sy_site *site_of(const output *o, const char *tensor)
{
    const syi_compress *s = o->s;
    const sy_storage *type;
    const size_t n = strlen(tensor);
    for (int i = 0; i < s->n_sites; i++) {
        const size_t len = strlen(s->site[i]->name);
        if (n == len + 7 && memcmp(tensor, s->site[i]->name, len) == 0 && strcmp(tensor + len, ".weight") == 0) return unit_of(o, s->site[i], &type) ? s->site[i] : NULL;
    }
    return NULL;
}

static sy_status copy_slot(void *self, int64_t bytes, void **out)
{
    output *o = self;
    *out = syi_arena_alloc(o->s->arena, (size_t)syi_max(1, bytes));
    return *out ? SY_OK : SY_E_MEMORY;
}

/* The site's weight as the journal has it, not prepared. */
static sy_status weight_of(output *o, const sy_site *site, sy_weight *w)
{
    const sy_storage *type = NULL;
    const sy_checkpoint *ck = unit_of(o, site, &type);
    int64_t used;
    if (!ck) return syi_fail(o->s->ctx, SY_E_BUG, "%s: not in the journal", site->name);
    return syi_weight_load(o->s->ctx, ck, site->name, type, site->out, site->in, copy_slot, o, w, &used);
}

/* -- dense rows ---------------------------------------------------------------------------------- */

static sy_status dense_rows(void *self, const sy_entry *e, int64_t row, int64_t n, float *dst)
{
    output *o = self;
    sy_context *ctx = o->s->ctx;
    const sy_site *site = site_of(o, e->name);
    const sy_entry *vector = site ? NULL : vector_of(o, e->name);
    if (!site) return sy_entry_read_f32(ctx, vector ? vector : e, row, n, dst);
    if (o->held_site != site) {
        o->held_site = NULL;
        syi_free(ctx, o->dense);
        o->dense = syi_alloc(ctx, (size_t)(site->out * site->in) * sizeof *o->dense);
        if (!o->dense) return SY_E_MEMORY;
        SYI_TRY(weight_of(o, site, &o->held));
        SYI_TRY(o->held.type->dense(ctx, &o->held, 0, site->out, o->dense));
        o->held_site = site;
    }
    memcpy(dst, o->dense + row * site->in, (size_t)(n * site->in) * sizeof *dst);
    return SY_OK;
}

/* -- adding tensors ------------------------------------------------------------------------------------ */

static bool replaced(void *self, const sy_entry *e)
{
    const output *o = self;
    return site_of(o, e->name) != NULL || vector_of(o, e->name) != NULL;
}

static sy_status room(output *o, int64_t bytes)
{
    o->bytes = bytes;
    return syi_spill(o->s->ctx, o->s->journal, syi_max(4096, bytes), (void **)&o->memory);
}

/* A tensor in the spilled memory, zeroed; NULL when it is full (a bug). */
static void *add(output *o, const char *name, sy_dtype dtype, int rank, int64_t d0, int64_t d1)
{
    sy_tensor t = {.dtype = dtype, .rank = rank, .dim = {d0, d1}};
    const int64_t bytes = sy_tensor_bytes(&t), at = syi_ceil_div(o->used, 64) * 64;
    char *copy = syi_arena_strdup(o->s->arena, name);
    if (!copy || at + bytes > o->bytes) return NULL;
    o->used = at + bytes;
    o->extra[o->n_extra++] = (sy_entry){.name = copy, .dtype = dtype, .rank = rank, .dim = {d0, d1}, .data = o->memory + at, .bytes = bytes, .file = o->s->journal};
    return o->memory + at;
}

static void *add_slot(output *o, const sy_site *site, const char *suffix, sy_dtype dtype, int rank, int64_t d0, int64_t d1)
{
    char name[512];
    snprintf(name, sizeof name, "%s%s", site->name, suffix);
    return add(o, name, dtype, rank, d0, d1);
}

/* -- grids: what other tools' layouts can hold --------------------------------------------------------------- */

static const char *const divisors = "32, 64 or 128";

static sy_status common_grid(output *o, const char *form)
{
    sy_context *ctx = o->s->ctx;
    for (int i = 0; i < o->s->n_sites; i++) {
        sy_weight w;
        const sy_site *site = o->s->site[i];
        SYI_TRY(weight_of(o, site, &w));
        if (w.type != &sy_storage_packed)
            return syi_fail(ctx, SY_E_UNSUPPORTED, "--export %s: %s is stored as %s, which that format cannot hold; use --export dense", form, site->name, w.type->name);
        const syi_packed_shape p = syi_packed_shape_of(&w);
        const int64_t group = p.group == site->in ? -1 : p.group;
        if (i == 0) {
            o->bits = p.bits;
            o->group = group;
            o->symmetric = true;
        }
        if (p.bits != o->bits) return syi_fail(ctx, SY_E_UNSUPPORTED, "--export %s: layers have %d and %d bits; the format has one number for all", form, o->bits, p.bits);
        if (group != o->group && p.groups > 1) return syi_fail(ctx, SY_E_UNSUPPORTED, "--export %s: layers have groups of %lld and %lld inputs", form, (long long)o->group, (long long)group);
        o->order |= w.slot[SYI_PACKED_ORDER].data != NULL;
        const uint8_t *z = w.slot[SYI_PACKED_ZEROS].data;
        for (int64_t k = 0; k < site->out * p.groups; k++) {
            o->symmetric &= z[k] == 1u << (p.bits - 1);
            o->zero_at_0 |= z[k] == 0;
        }
    }
    return SY_OK;
}

static sy_status check_group(const output *o, const sy_site *site, const char *form)
{
    if (o->group <= 0 || site->in % o->group == 0) return SY_OK;
    int64_t good = 128;
    while (good > 32) {
        bool all = true;
        for (int i = 0; i < o->s->n_sites; i++) all &= o->s->site[i]->in % good == 0;
        if (all) break;
        good /= 2;
    }
    return syi_fail(o->s->ctx, SY_E_USAGE, "--export %s: %s has %lld inputs, which groups of %lld do not divide (%s are usual); try --group %lld, or --export dense", form,
                    site->name, (long long)site->in, (long long)o->group, divisors, (long long)good);
}

/* -- GPTQ -------------------------------------------------------------------------------------------------- */

/* One code into the stream of bits of column `col`: words[k * stride + col]. */
static void put_bits(uint32_t *words, int64_t stride, int64_t col, int64_t index, int bits, uint32_t code)
{
    const int64_t bit = index * bits, word = bit / 32;
    const int shift = (int)(bit % 32);
    words[word * stride + col] |= code << shift;
    if (shift + bits > 32) words[(word + 1) * stride + col] |= code >> (32 - shift);
}

static sy_status gptq_site(output *o, const sy_site *site)
{
    sy_context *ctx = o->s->ctx;
    sy_weight w;
    SYI_TRY(check_group(o, site, "gptq"));
    SYI_TRY(weight_of(o, site, &w));
    const syi_packed_shape p = syi_packed_shape_of(&w);
    if (site->in * p.bits % 32 || site->out * p.bits % 32)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "--export gptq: %s is [%lld, %lld]; %d-bit codes of a row or column do not fill 32-bit words; use --export dense", site->name,
                        (long long)site->out, (long long)site->in, p.bits);
    uint32_t *qweight = add_slot(o, site, ".qweight", SY_I32, 2, site->in * p.bits / 32, site->out);
    uint32_t *qzeros = add_slot(o, site, ".qzeros", SY_I32, 2, p.groups, site->out * p.bits / 32);
    uint16_t *scales = add_slot(o, site, ".scales", SY_F16, 2, p.groups, site->out);
    int32_t *g_idx = add_slot(o, site, ".g_idx", SY_I32, 1, site->in, 0);
    uint8_t *codes = syi_alloc(ctx, (size_t)site->in);
    if (!qweight || !qzeros || !scales || !g_idx || !codes) {
        syi_free(ctx, codes);
        return syi_fail(ctx, SY_E_BUG, "--export gptq: %s: no room", site->name);
    }
    const int32_t *order = w.slot[SYI_PACKED_ORDER].data;
    const uint8_t *zeros = w.slot[SYI_PACKED_ZEROS].data;
    const uint16_t *scale = w.slot[SYI_PACKED_SCALES].data;
    for (int64_t k = 0; k < site->in; k++) g_idx[order ? order[k] : k] = (int32_t)(k / p.group);
    for (int64_t r = 0; r < site->out; r++) {
        syi_packed_get(&w, r, codes);
        for (int64_t k = 0; k < site->in; k++) put_bits(qweight, site->out, r, order ? order[k] : k, p.bits, codes[k]);
        for (int64_t g = 0; g < p.groups; g++) {
            scales[g * site->out + r] = scale[r * p.groups + g];
            put_bits(qzeros + g * (site->out * p.bits / 32), 1, 0, r, p.bits, (uint32_t)zeros[r * p.groups + g] - (o->zero_at_0 ? 0 : 1));
        }
    }
    syi_free(ctx, codes);
    return SY_OK;
}

static json_t *gptq_config(const output *o)
{
    const char *format = o->zero_at_0 ? "gptq_v2" : "gptq"; /* the first stores zero - 1, which has no room for 0 */
    return json_pack("{s:s, s:s, s:i, s:I, s:b, s:b, s:b, s:s, s:s, s:s, s:f, s:b, s:b, s:{s:[s]}}", "quant_method", "gptq", "method", "gptq", "bits", o->bits,
                     "group_size", (json_int_t)o->group, "desc_act", (int)o->order, "sym", (int)o->symmetric, "lm_head", 0, "checkpoint_format", format, "format", format,
                     "pack_dtype", "int32", "damp_percent", 0.01, "static_groups", 0, "true_sequential", 1, "meta", "quantizer", "steelyard");
}

/* -- AWQ ------------------------------------------------------------------------------------------------------ */

static sy_status awq_site(output *o, const sy_site *site)
{
    static const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    sy_context *ctx = o->s->ctx;
    sy_weight w;
    SYI_TRY(check_group(o, site, "awq"));
    SYI_TRY(weight_of(o, site, &w));
    const syi_packed_shape p = syi_packed_shape_of(&w);
    if (p.bits != 4) return syi_fail(ctx, SY_E_USAGE, "--export awq: the format has 4 bits only, these weights have %d; use --export gptq or --export dense", p.bits);
    if (o->order) return syi_fail(ctx, SY_E_USAGE, "--export awq: the format cannot hold --act-order's groups; leave act-order off, or use --export gptq");
    if (site->out % 8) return syi_fail(ctx, SY_E_UNSUPPORTED, "--export awq: %s has %lld outputs, no multiple of 8; use --export dense", site->name, (long long)site->out);
    const int64_t words = site->out / 8;
    uint32_t *qweight = add_slot(o, site, ".qweight", SY_I32, 2, site->in, words);
    uint32_t *qzeros = add_slot(o, site, ".qzeros", SY_I32, 2, p.groups, words);
    uint16_t *scales = add_slot(o, site, ".scales", SY_F16, 2, p.groups, site->out);
    uint8_t *codes = syi_alloc(ctx, (size_t)site->in);
    if (!qweight || !qzeros || !scales || !codes) {
        syi_free(ctx, codes);
        return syi_fail(ctx, SY_E_BUG, "--export awq: %s: no room", site->name);
    }
    int place[8];
    for (int i = 0; i < 8; i++) place[order[i]] = 4 * i;
    for (int64_t r = 0; r < site->out; r++) {
        syi_packed_get(&w, r, codes);
        for (int64_t k = 0; k < site->in; k++) qweight[k * words + r / 8] |= (uint32_t)codes[k] << place[r % 8];
        for (int64_t g = 0; g < p.groups; g++) {
            qzeros[g * words + r / 8] |= (uint32_t)((const uint8_t *)w.slot[SYI_PACKED_ZEROS].data)[r * p.groups + g] << place[r % 8];
            scales[g * site->out + r] = ((const uint16_t *)w.slot[SYI_PACKED_SCALES].data)[r * p.groups + g];
        }
    }
    syi_free(ctx, codes);
    return SY_OK;
}

static json_t *awq_config(const output *o)
{
    return json_pack("{s:s, s:i, s:I, s:b, s:s}", "quant_method", "awq", "bits", 4, "group_size", (json_int_t)o->group, "zero_point", 1, "version", "gemm");
}

/* -- GGUF ---------------------------------------------------------------------------------------------------------- */

/* The smallest block type whose integers hold every code - zero. */
static sy_dtype block_type(int low, int high)
{
    return low >= -8 && high <= 7 ? SY_Q4_0 : low >= -16 && high <= 15 ? SY_Q5_0 : low >= -128 && high <= 127 ? SY_Q8_0 : SY_F32;
}

static void put_block(sy_dtype t, uint16_t scale, const int *q, uint8_t *to)
{
    memcpy(to, &scale, 2);
    to += 2;
    if (t == SY_Q8_0) {
        for (int i = 0; i < 32; i++) to[i] = (uint8_t)q[i];
        return;
    }
    uint32_t high = 0;
    const int shift = t == SY_Q4_0 ? 8 : 16;
    for (int i = 0; i < 32; i++) high |= (uint32_t)(q[i] + shift) >> 4 << i;
    if (t == SY_Q5_0) {
        memcpy(to, &high, 4);
        to += 4;
    }
    for (int i = 0; i < 16; i++) to[i] = (uint8_t)(((q[i] + shift) & 15) | ((q[i + 16] + shift) & 15) << 4);
}

static int64_t heads_of(const syi_compress *s, const sy_site *site)
{
    int64_t heads = 0;
    for (const sy_arch_tensor *r = s->model->rows; r->name; r++) {
        char name[256];
        snprintf(name, sizeof name, r->name, site->block);
        const size_t n = strlen(site->name);
        if (strncmp(name, site->name, n) != 0 || strcmp(name + n, ".weight") != 0) continue;
        if (r->flags & SY_TENSOR_PERMUTE_Q) syi_arch_field(s->model->arch, s->model->config, "heads", &heads);
        if (r->flags & SY_TENSOR_PERMUTE_K) syi_arch_field(s->model->arch, s->model->config, "kv_heads", &heads);
    }
    return heads;
}

static sy_status gguf_site(output *o, const sy_site *site)
{
    sy_context *ctx = o->s->ctx;
    sy_weight w;
    SYI_TRY(weight_of(o, site, &w));
    const syi_packed_shape p = syi_packed_shape_of(&w);
    if (w.slot[SYI_PACKED_ORDER].data) return syi_fail(ctx, SY_E_USAGE, "GGUF blocks cannot hold --act-order's groups (%s); leave act-order off", site->name);
    if (site->in % 32 || (p.groups > 1 && p.group % 32))
        return syi_fail(ctx, SY_E_UNSUPPORTED, "GGUF: %s: %lld inputs in groups of %lld are no whole blocks of 32", site->name, (long long)site->in, (long long)p.group);
    const uint8_t *zeros = w.slot[SYI_PACKED_ZEROS].data;
    int low = 0, high = 0;
    for (int64_t k = 0; k < site->out * p.groups; k++) {
        low = (int)syi_min(low, -(int64_t)zeros[k]);
        high = (int)syi_max(high, (1 << p.bits) - 1 - (int64_t)zeros[k]);
    }
    const sy_dtype t = block_type(low, high);
    if (t == SY_F32)
        return syi_fail(ctx, SY_E_UNSUPPORTED, "GGUF: %s: codes from %d to %d around zero fit no block type exactly; use a symmetric grid (--sym on), fewer bits, or --export dense and convert",
                        site->name, low, high);
    const int64_t row_bytes = site->in / 32 * sy_dtype_block_bytes(t), heads = heads_of(o->s, site), unit = heads > 0 ? site->out / heads : site->out;
    uint8_t *to = add_slot(o, site, ".weight", t, 2, site->out, site->in), *codes = syi_alloc(ctx, (size_t)site->in);
    if (!to || !codes) {
        syi_free(ctx, codes);
        return syi_fail(ctx, SY_E_BUG, "GGUF: %s: no room", site->name);
    }
    o->extra[o->n_extra - 1].permute_heads = (int)heads;
    for (int64_t r = 0; r < site->out; r++) {
        const int64_t i = r % unit, at = heads > 0 ? r / unit * unit + i % (unit / 2) * 2 + i / (unit / 2) : r; /* rotated pairs side by side */
        syi_packed_get(&w, r, codes);
        for (int64_t b = 0; b < site->in / 32; b++) {
            const int64_t g = r * p.groups + b * 32 / p.group;
            int q[32];
            for (int k = 0; k < 32; k++) q[k] = (int)codes[b * 32 + k] - (int)zeros[g];
            put_block(t, ((const uint16_t *)w.slot[SYI_PACKED_SCALES].data)[g], q, to + at * row_bytes + b * sy_dtype_block_bytes(t));
        }
    }
    syi_free(ctx, codes);
    return SY_OK;
}

/* -- writing ------------------------------------------------------------------------------------------------------------ */

static sy_status steelyard_extras(output *o)
{
    for (int i = 0; i < o->n_units; i++)
        for (int64_t k = 0; k < sy_checkpoint_count(o->unit[i]); k++) o->extra[o->n_extra++] = *sy_checkpoint_at(o->unit[i], k);
    return SY_OK;
}

/* Norms and biases that have changed, as they are. */
static sy_status vector_extras(output *o)
{
    for (int i = 0; i < o->n_units; i++)
        for (int64_t k = 0; k < sy_checkpoint_count(o->unit[i]); k++) {
            const sy_entry *e = sy_checkpoint_at(o->unit[i], k);
            if (syi_model_param(o->s->model, e->name)) o->extra[o->n_extra++] = *e;
        }
    return SY_OK;
}

static sy_status fill(output *o, syi_out_form form)
{
    syi_compress *s = o->s;
    int64_t bytes = 0, entries = 0;
    for (int i = 0; i < o->n_units; i++) entries += sy_checkpoint_count(o->unit[i]);
    o->extra = syi_arena_alloc(s->arena, (size_t)(entries + s->n_sites * 4 + 1) * sizeof *o->extra);
    if (!o->extra) return SY_E_MEMORY;
    if (form == SYI_OUT_STEELYARD) return steelyard_extras(o);
    if (form == SYI_OUT_DENSE) return SY_OK;
    SYI_TRY(common_grid(o, form == SYI_OUT_GPTQ ? "gptq" : form == SYI_OUT_AWQ ? "awq" : "gguf"));
    SYI_TRY(vector_extras(o));
    for (int i = 0; i < s->n_sites; i++) bytes += s->site[i]->out * s->site[i]->in * 9 / 8 + s->site[i]->in * 4 + s->site[i]->out * (s->site[i]->in / 16 + 8) + 4096;
    SYI_TRY(room(o, bytes));
    for (int i = 0; i < s->n_sites; i++) {
        if (form == SYI_OUT_GPTQ) SYI_TRY(gptq_site(o, s->site[i]));
        else if (form == SYI_OUT_AWQ) SYI_TRY(awq_site(o, s->site[i]));
        else SYI_TRY(gguf_site(o, s->site[i]));
    }
    return SY_OK;
}

static sy_status extra_json(syi_compress *s, const char *dir, const char *name, const json_t *value)
{
    char *path = syi_join(s->ctx, dir, name);
    if (!path) return SY_E_MEMORY;
    const sy_status st = syi_json_write(s->ctx, path, value, false);
    syi_free(s->ctx, path);
    return st;
}

static sy_status write_folder(output *o, const char *out, syi_out_form form, const json_t *settings, syi_export *how)
{
    syi_compress *s = o->s;
    json_t *config = json_deep_copy(s->model->source->config), *quantization = NULL;
    if (!config) return syi_nomem(s->ctx, 0);
    if (form == SYI_OUT_STEELYARD) quantization = json_pack("{s:s, s:s, s:O}", "quant_method", "steelyard", "compressor", s->use.method->name, "settings", settings);
    if (form == SYI_OUT_GPTQ) quantization = gptq_config(o);
    if (form == SYI_OUT_AWQ) quantization = awq_config(o);
    if (quantization) json_object_set_new(config, "quantization_config", quantization);
    how->config = config;
    how->into = true;
    syi_dir dir = {0};
    sy_status st = syi_dir_begin(s->ctx, out, false, &dir);
    if (st == SY_OK) st = syi_source_to_folder(s->model->source, dir.work, how);
    if (st == SY_OK && form == SYI_OUT_GPTQ) st = extra_json(s, dir.work, "quantize_config.json", quantization);
    if (st == SY_OK) st = extra_json(s, dir.work, "report.json", syi_job_report(s->job));
    if (st == SY_OK) st = syi_dir_commit(&dir);
    syi_dir_abort(&dir);
    json_decref(config);
    return st;
}

sy_status syi_compress_write(syi_compress *s, const char *out, syi_out_form form, const json_t *settings, int64_t *bytes)
{
    output o = {.s = s};
    sy_status st = open_units(&o);
    if (st == SY_OK) st = fill(&o, form);
    syi_export how = {.dtype = (sy_dtype)-1, .self = &o, .skip = form == SYI_OUT_DENSE ? NULL : replaced, .extra = o.extra, .n_extra = o.n_extra};
    if (form == SYI_OUT_DENSE) {
        how.rows = dense_rows;
        const sy_dtype t = s->site[0]->weight->slot[0].dtype;
        how.dtype = t == SY_F16 ? SY_F16 : SY_BF16;
    }
    if (st == SY_OK && form == SYI_OUT_GGUF) st = syi_source_to_gguf(s->model->source, out, &how);
    else if (st == SY_OK) st = write_folder(&o, out, form, settings, &how);
    *bytes = how.bytes;
    for (int i = 0; i < o.n_units; i++) sy_checkpoint_close(o.unit[i]);
    syi_spill_free(o.memory, syi_max(4096, o.bytes));
    syi_free(s->ctx, o.dense);
    return st;
}
