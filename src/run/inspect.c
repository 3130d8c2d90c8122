/* SPDX-License-Identifier: Apache-2.0 */
/* The verb "inspect": what is in a model, adapter, run, safetensors or GGUF file. Headers
 * are read, weights never. Tensors that differ only in numbers inside their names (the
 * blocks of a model) form one group. */
#include "run/inspect.h"

typedef struct { char *path; bool all; } inspect_self;

static const sy_option rows[] = {
    { .name = "path", .type = SY_OPT_PATH, .offset = offsetof(inspect_self, path), .flags = SY_OPT_POSITION | SY_OPT_REQUIRED,
      .help = "model, adapter or run folder, .safetensors or .gguf (any part of it)", .example = "models/tiny" },
    { .name = "all", .type = SY_OPT_BOOL, .offset = offsetof(inspect_self, all),
      .help = "list every tensor, not one line for the same tensor of all blocks", .example = "on" },
    { .name = NULL }
};

/* -- groups ---------------------------------------------------------------------- */

typedef struct {
    char *pattern;      /* the name with its numbers as '#' */
    char *example;      /* the name of the first            */
    char *spread;       /* "model.layers.{0..29}.x"         */
    const sy_entry *entry;
    int64_t count, bytes, low, high;
} group;
typedef struct { sy_context *ctx; syi_arena *arena; group *at; int64_t n, cap; syi_map *index; } groups;

/* "a.3.b" -> "a.#.b"; *number is the number if the name has exactly one, else -1.
 * Only whole path components count as numbers. */
static char *pattern_of(syi_arena *arena, const char *name, int64_t *number)
{
    char *out = syi_arena_alloc(arena, strlen(name) + 2), *o = out;
    int seen = 0;
    *number = -1;
    for (const char *p = name; out && *p;) {
        bool begins = p == name || p[-1] == '.';
        size_t digits = strspn(p, "0123456789");
        if (begins && digits && digits < 10 && (p[digits] == '.' || !p[digits])) {
            if (seen++ == 0) {
                *number = 0;
                for (size_t i = 0; i < digits; i++) *number = *number * 10 + (p[i] - '0');
            }
            *o++ = '#';
            p += digits;
        } else *o++ = *p++;
    }
    if (seen > 1) *number = -1;
    return out;
}

static sy_status add(groups *g, const sy_entry *e, bool all)
{
    int64_t number, at;
    char *pattern = all ? syi_arena_strdup(g->arena, e->name) : pattern_of(g->arena, e->name, &number);
    if (all) number = -1;
    if (!pattern) return SY_E_MEMORY;
    char *key = syi_arena_format(g->arena, "%s|%d|%d|%lld|%lld", pattern, (int)e->dtype, e->rank, e->rank > 0 ? (long long)e->dim[0] : 0,
                                 e->rank > 1 ? (long long)e->dim[1] : 0);
    if (!key) return SY_E_MEMORY;
    if (!syi_map_get(g->index, key, strlen(key), &at)) {
        SYI_TRY(syi_grow(g->ctx, (void **)&g->at, &g->cap, g->n + 1, sizeof *g->at, (int64_t)1 << 32));
        at = g->n++;
        g->at[at] = (group){ .pattern = pattern, .example = syi_arena_strdup(g->arena, e->name), .entry = e, .low = number, .high = number };
        SYI_TRY(syi_map_set(g->index, key, strlen(key), at));
    }
    group *x = &g->at[at];
    x->count++;
    x->bytes += e->bytes;
    if (number >= 0) { x->low = syi_min(x->low, number); x->high = syi_max(x->high, number); }
    return SY_OK;
}

static char *spread(syi_arena *arena, const group *x)
{
    if (x->count == 1) return syi_arena_strdup(arena, x->example);
    const char *hash = strchr(x->pattern, '#');
    if (!hash || x->low < 0) return syi_arena_strdup(arena, x->pattern);
    /* all of low..high, or only some of them */
    const char *dots = x->count == x->high - x->low + 1 ? ".." : "..some..";
    return syi_arena_format(arena, "%.*s{%lld%s%lld}%s", (int)(hash - x->pattern), x->pattern, (long long)x->low, dots, (long long)x->high, hash + 1);
}

static json_t *shape_json(const sy_entry *e)
{
    json_t *a = json_array();
    for (int i = 0; i < e->rank; i++) json_array_append_new(a, json_integer(e->dim[i]));
    return a;
}

static int64_t numbers_of(const sy_entry *e)
{
    int64_t n = 1;
    for (int i = 0; i < e->rank; i++)
        if (!syi_size_mul(n, e->dim[i], &n)) return 0;
    return n;
}

/* -- report ------------------------------------------------------------------------ */

static sy_status list_tensors(sy_job *job, const sy_checkpoint *ck, bool all)
{
    sy_context *ctx = syi_job_context(job);
    json_t *report = syi_job_report(job), *tensors = json_array(), *list = json_array(), *types = json_object();
    json_object_set_new(report, "types", types);
    json_object_set_new(report, "groups", list);
    json_object_set_new(report, "tensors", tensors);
    groups g = { .ctx = ctx, .arena = syi_job_arena(job) };
    SYI_TRY(syi_map_new(ctx, &g.index));
    sy_status st = SY_OK;
    int64_t parameters = 0, bytes = 0;
    for (int64_t i = 0; i < sy_checkpoint_count(ck) && st == SY_OK; i++) {
        const sy_entry *e = sy_checkpoint_at(ck, i);
        const char *type = sy_dtype_name(e->dtype);
        parameters += numbers_of(e);
        bytes += e->bytes;
        json_t *t = json_object_get(types, type);
        if (!t) { t = json_pack("{s:i, s:i}", "tensors", 0, "bytes", 0); json_object_set_new(types, type, t); }
        json_object_set_new(t, "tensors", json_integer(json_integer_value(json_object_get(t, "tensors")) + 1));
        json_object_set_new(t, "bytes", json_integer(json_integer_value(json_object_get(t, "bytes")) + e->bytes));
        json_array_append_new(tensors, json_pack("{s:s, s:s, s:o, s:I, s:s?}", "name", e->name, "type", type, "shape", shape_json(e),
                                                 "bytes", (json_int_t)e->bytes, "file", e->file ? syi_basename(e->file) : NULL));
        st = add(&g, e, all);
    }
    for (int64_t i = 0; i < g.n && st == SY_OK; i++) {
        const group *x = &g.at[i];
        char *name = spread(g.arena, x);
        if (!name) { st = SY_E_MEMORY; break; }
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I, s:I}", "name", name, "type", sy_dtype_name(x->entry->dtype), "shape",
                                              shape_json(x->entry), "count", (json_int_t)x->count, "bytes", (json_int_t)x->bytes));
    }
    json_object_set_new(report, "tensor_count", json_integer(sy_checkpoint_count(ck)));
    json_object_set_new(report, "parameters", json_integer(parameters));
    json_object_set_new(report, "bytes", json_integer(bytes));
    syi_map_free(g.index);
    syi_free(ctx, g.at);
    return st;
}

/* Did a summary run out of memory? */
static sy_status summaries(sy_context *ctx)
{
    return sy_error_code(ctx) == SY_E_MEMORY ? SY_E_MEMORY : SY_OK;
}

static void put(sy_job *job, const char *key, json_t *take)
{
    if (take != NULL) json_object_set_new(syi_job_report(job), key, take);
}

static void kind(sy_job *job, const char *path, const char *text)
{
    put(job, "path", json_string(path));
    put(job, "kind", json_string(text));
}

static sy_status inspect_adapter(sy_job *job, const char *path, bool all, const char *text)
{
    sy_context *ctx = syi_job_context(job);
    syi_adapter_dir *a;
    SYI_TRY(syi_adapter_open(ctx, path, &a));
    kind(job, path, text);
    put(job, "adapter", syi_inspect_adapter(a->config, a->tensors));
    put(job, "config", json_incref(a->config));
    put(job, "provenance", syi_inspect_provenance(ctx, path, a->config, a->tensors));
    sy_status st = summaries(ctx);
    if (st == SY_OK) st = list_tensors(job, a->tensors, all);
    syi_adapter_close(a);
    return st;
}

static sy_status inspect_model(sy_job *job, const char *path, bool all, const char *text)
{
    sy_context *ctx = syi_job_context(job);
    syi_source *s;
    SYI_TRY(syi_source_open(ctx, path, false, &s));
    kind(job, path, text ? text : s->gguf ? "model (GGUF)" : "model (Hugging Face folder)");
    put(job, "architecture", s->arch ? json_string(s->arch->name) : json_null());
    put(job, "model", syi_inspect_model(s));
    sy_status st = syi_source_tokenizer(s);
    if (st == SY_OK) {
        put(job, "tokenizer", syi_inspect_tokenizer(ctx, s->tokenizer, s->tokenizer_config, s->chat_template));
        put(job, "provenance", syi_inspect_provenance(ctx, path, s->config, s->tensors));
        put(job, "config", s->config ? json_incref(s->config) : NULL);
        st = summaries(ctx);
        if (st == SY_OK) st = list_tensors(job, s->tensors, all);
    }
    syi_source_close(s);
    return st;
}

/* Scalars and strings of a GGUF's keys; of arrays the length. */
static sy_status gguf_keys(sy_job *job, const char *path, bool *model)
{
    syi_gguf *g;
    SYI_TRY(syi_gguf_open(syi_job_context(job), path, &g));
    json_t *keys = json_object();
    const char *s, *type = "model";
    syi_gguf_str(g, "general.type", &type);
    *model = strcmp(type, "adapter") && syi_gguf_str(g, "general.architecture", &s);
    for (int64_t i = 0; i < syi_gguf_keys(g); i++) {
        syi_gguf_type t;
        const char *key = syi_gguf_key(g, i, &t);
        int64_t n;
        double d;
        bool b;
        json_t *v = NULL;
        char what[64];
        if (t == SYI_GGUF_STRING) { if (syi_gguf_str(g, key, &s)) v = json_string(strlen(s) > 200 ? "(long text)" : s); }
        else if (t == SYI_GGUF_ARRAY) { snprintf(what, sizeof what, "(%lld items)", (long long)syi_gguf_array(g, key, NULL)); v = json_string(what); }
        else if (t == SYI_GGUF_BOOL) { if (syi_gguf_bool(g, key, &b)) v = json_boolean(b); }
        else if (t == SYI_GGUF_F32 || t == SYI_GGUF_F64) { if (syi_gguf_float(g, key, &d)) v = json_real(d); }
        else if (syi_gguf_int(g, key, &n)) v = json_integer(n);
        if (v) json_object_set_new(keys, key, v);
    }
    put(job, "keys", keys);
    syi_gguf_close(g);
    return SY_OK;
}

static sy_status inspect_file(sy_job *job, const char *path, bool all, const char *text, bool adapter)
{
    sy_context *ctx = syi_job_context(job);
    sy_checkpoint *ck;
    SYI_TRY(sy_checkpoint_open(ctx, path, &ck));
    kind(job, path, text);
    if (adapter) put(job, "adapter", syi_inspect_adapter(json_object_get(syi_job_report(job), "keys"), ck));
    put(job, "provenance", syi_inspect_provenance(ctx, path, NULL, ck));
    sy_status st = summaries(ctx);
    if (st == SY_OK) st = list_tensors(job, ck, all);
    sy_checkpoint_close(ck);
    return st;
}

/* What lies in a folder; text: what it is called (NULL: by what is in it). */
static sy_status inspect_folder(sy_job *job, const char *path, bool all, const char *text)
{
    sy_context *ctx = syi_job_context(job);
    if (syi_dir_holds(ctx, path, "adapter_config.json")) return inspect_adapter(job, path, all, text ? text : "adapter folder (PEFT)");
    if (syi_dir_holds(ctx, path, "config.json")) return inspect_model(job, path, all, text);
    if (syi_dir_holds(ctx, path, "state.safetensors") && !syi_dir_holds(ctx, path, "model.safetensors")) { /* a checkpoint of something else */
        char *file = syi_join(ctx, path, "state.safetensors");
        const sy_status st = file ? inspect_file(job, file, all, text ? text : "state of a run", false) : SY_E_MEMORY;
        syi_free(ctx, file);
        return st;
    }
    return inspect_file(job, path, all, text ? text : "folder with tensors", false);
}

/* A folder that train works in: what it has come to, and its weights or the newest ones. */
static sy_status inspect_run(sy_job *job, const char *path, bool all)
{
    sy_context *ctx = syi_job_context(job);
    json_t *about = NULL;
    char *weights = NULL;
    sy_status st = syi_inspect_run(ctx, path, &about, &weights);
    const bool result = syi_dir_holds(ctx, path, "adapter_config.json") || syi_dir_holds(ctx, path, "config.json");
    if (about) put(job, "run", about);
    if (st == SY_OK) st = summaries(ctx);
    if (st == SY_OK && !about) st = inspect_folder(job, path, all, NULL);
    else if (st == SY_OK && result) st = inspect_folder(job, path, all, "run folder");
    else if (st == SY_OK && weights) st = inspect_folder(job, weights, all, "newest checkpoint of a run folder");
    else if (st == SY_OK) kind(job, path, "run folder without a checkpoint yet");
    syi_free(ctx, weights);
    return st;
}

static sy_status run(void *self_, sy_job *job)
{
    inspect_self *self = self_;
    sy_context *ctx = syi_job_context(job);
    if (!syi_exists(self->path)) return syi_fail(ctx, SY_E_INPUT, "%s does not exist; inspect wants a model, adapter or run folder, a .safetensors "
                                                 "or a .gguf file", self->path);
    if (syi_is_dir(self->path)) return inspect_run(job, self->path, self->all);
    char magic[4] = "";
    if (syi_peek_file(self->path, magic, 4) == 4 && !memcmp(magic, "GGUF", 4)) {
        bool model;
        SYI_TRY(gguf_keys(job, self->path, &model));
        if (model) return inspect_model(job, self->path, self->all, NULL);
        return inspect_file(job, self->path, self->all, "adapter (LoRA GGUF)", true);
    }
    return inspect_file(job, self->path, self->all, "safetensors file", false);
}

const sy_verb sy_verb_inspect = {
    .name = "inspect", .title = "what is in a model, adapter, run or tensor file",
    .about = "Tensors with type, shape and size; the numbers of parameters by part; summaries of model, adapter, tokenizer and run; where it "
             "comes from. Only headers and small files are read, never weights.",
    .example = "inspect models/tiny", .options = rows, .size = sizeof(inspect_self), .run = run
};
