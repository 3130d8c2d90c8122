/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens of a merge: which the output has (the base's, another model's, or the union), in
 * which row of each model a token lies, and what stands for one that a model lacks: the
 * row of the only model that has it, the base's, or the mean of those that have it.
 * Without a word in the recipe, models whose tokens differ are refused: their rows would
 * be mixed up. */
#include "run/_merge.h"

#include <stdlib.h>

enum { ZERO = -1, AVERAGE = -2, PADDING = -3 }; /* in place of a donor */

typedef struct { const char *text; const json_t *added; } token;
typedef struct { syi_map *ids; token *at; int64_t n; } tokens; /* at[id]; text NULL: unused */

struct syi_merge_vocab {
    tokens out;
    int64_t rows;          /* with padding                                               */
    int *donor;            /* [rows] for models that lack the token                      */
    int64_t *row;          /* ... its row there                                          */
    tokens *of;            /* [n_models]; n 0: no tokenizer: as the donor's               */
    int n_models;
    int source;            /* model whose tokenizer files are taken, -1: the union        */
    json_t *added;         /* union: tokens that the donor's tokenizer gets               */
    float **mean;          /* [n_models * 2] rows of padding, made when first asked for   */
};

static sy_status add(sy_merging *g, tokens *t, const char *text, int64_t id, const json_t *added)
{
    if (id < 0 || id > 1 << 24) return syi_fail(g->ctx, SY_E_INPUT, "token \"%s\" has the id %lld", text, (long long)id);
    if (id >= t->n) {
        const int64_t cap = syi_max(id + 1, t->n + t->n / 2);
        token *more = syi_arena_alloc(g->arena, (size_t)cap * sizeof *more);
        if (!more) return SY_E_MEMORY;
        if (t->n) memcpy(more, t->at, (size_t)t->n * sizeof *more);
        t->at = more;
        t->n = cap;
    }
    t->at[id] = (token){ text, added };
    return syi_map_set(t->ids, text, strlen(text), id);
}

/* Ids below `limit` (rows of the embedding) only: others have no row. */
static sy_status read_tokens(sy_merging *g, int model, tokens *out)
{
    syi_source *s = g->models[model].source;
    const int64_t limit = g->models[model].vocab ? g->models[model].vocab : INT32_MAX;
    const char *key;
    json_t *v;
    size_t i;
    SYI_TRY(syi_map_new(g->ctx, &out->ids));
    SYI_TRY(syi_source_tokenizer(s));
    json_t *vocab = json_object_get(json_object_get(s->tokenizer, "model"), "vocab");
    json_object_foreach(vocab, key, v)
        if (json_integer_value(v) < limit) SYI_TRY(add(g, out, key, json_integer_value(v), NULL));
    if (json_is_array(vocab))
        json_array_foreach(vocab, i, v) {
            const char *text = json_string_value(json_array_get(v, 0));
            if (text && (int64_t)i < limit) SYI_TRY(add(g, out, text, (int64_t)i, NULL));
        }
    json_array_foreach(json_object_get(s->tokenizer, "added_tokens"), i, v) {
        const char *text = json_string_value(json_object_get(v, "content"));
        const int64_t id = json_integer_value(json_object_get(v, "id"));
        if (text && id < limit) SYI_TRY(add(g, out, text, id, v));
    }
    while (out->n > 0 && !out->at[out->n - 1].text) out->n--;
    return SY_OK;
}

static int64_t id_of(const tokens *t, const char *text)
{
    int64_t id;
    return t->ids && syi_map_get(t->ids, text, strlen(text), &id) ? id : -1;
}

/* -- no word in the recipe -------------------------------------------------------------------- */

static sy_status same_text(sy_merging *g, int a, int b, bool *same)
{
    const char *x = NULL, *y = NULL;
    int64_t n = 0, m = 0;
    SYI_TRY(syi_source_tokenizer_text(g->models[a].source, &x, &n));
    SYI_TRY(syi_source_tokenizer_text(g->models[b].source, &y, &m));
    *same = !x || !y || (n == m && memcmp(x, y, (size_t)n) == 0); /* without a tokenizer: taken for the same */
    return SY_OK;
}

static sy_status refuse_others(sy_merging *g)
{
    for (int i = 0; i < g->n_models; i++) {
        bool same;
        if (i == g->donor) continue;
        SYI_TRY(same_text(g, g->donor, i, &same));
        if (same) continue;
        tokens a = { 0 }, b = { 0 };
        sy_status st = read_tokens(g, g->donor, &a);
        if (st == SY_OK) st = read_tokens(g, i, &b);
        for (int64_t id = 0; id < syi_min(a.n, b.n) && st == SY_OK; id++)
            if (a.at[id].text && b.at[id].text && strcmp(a.at[id].text, b.at[id].text) != 0)
                st = syi_fail(g->ctx, SY_E_INPUT, "%s: the tokenizers differ: token %lld is \"%s\" in %s and \"%s\" in %s, so rows of their embeddings do not belong together; "
                              "say with \"tokenizer: {source: union}\" (or base) which tokens the result has", g->recipe.path, (long long)id, a.at[id].text,
                              g->models[g->donor].text, b.at[id].text, g->models[i].text);
        syi_map_free(a.ids);
        syi_map_free(b.ids);
        SYI_TRY(st);
    }
    return SY_OK;
}

/* -- the output's tokens --------------------------------------------------------------------------- */

static sy_status clone(sy_merging *g, const tokens *from, tokens *to)
{
    SYI_TRY(syi_map_new(g->ctx, &to->ids));
    for (int64_t i = 0; i < from->n; i++)
        if (from->at[i].text) SYI_TRY(add(g, to, from->at[i].text, i, from->at[i].added));
    while (to->n > 0 && !to->at[to->n - 1].text) to->n--;
    return SY_OK;
}

static sy_status append_token(sy_merging *g, struct syi_merge_vocab *v, const char *text, const json_t *added)
{
    json_t *entry = added ? json_deep_copy(added)
                          : json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", 0, "content", text, "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 1, "special", 0);
    const int64_t id = v->out.n;
    if (!entry || json_object_set_new(entry, "id", json_integer(id)) != 0 || json_array_append_new(v->added, entry) != 0) return syi_nomem(g->ctx, 0);
    SYI_TRY(add(g, &v->out, text, id, json_array_get(v->added, json_array_size(v->added) - 1)));
    v->out.n = id + 1;
    return SY_OK;
}

static sy_status unite(sy_merging *g, struct syi_merge_vocab *v)
{
    for (int pass = 0; pass < 2; pass++) /* ordinary tokens of all models first, then added ones */
        for (int i = 0; i < g->n_models; i++)
            for (int64_t k = 0; k < v->of[i].n; k++) {
                const token *t = &v->of[i].at[k];
                if (t->text && (t->added != NULL) == (pass == 1) && id_of(&v->out, t->text) < 0) SYI_TRY(append_token(g, v, t->text, t->added));
            }
    return SY_OK;
}

/* -- where rows come from ------------------------------------------------------------------------------ */

static sy_status asked_source(sy_merging *g, struct syi_merge_vocab *v, const syi_recipe_token *t, int64_t id)
{
    const json_t *s = t->source;
    const char *kind = json_string_value(json_object_get(s, "kind")), *where = g->recipe.path;
    if (!s) return SY_OK;
    if (kind && strcmp(kind, "zero") == 0) return v->donor[id] = ZERO, SY_OK;
    const char *model = json_is_string(s) ? json_string_value(s) : json_string_value(json_object_get(s, "model"));
    if (!model || (kind && strcmp(kind, "model_token") != 0))
        return syi_fail(g->ctx, SY_E_USAGE, "%s: tokenizer.tokens.%s.source: expected a model, {kind: zero}, or {kind: model_token, model, token or token_id}", where, t->token);
    int donor = -1;
    for (int i = 0; i < g->n_models; i++)
        if (strcmp(g->models[i].text, model) == 0) donor = i;
    if (donor < 0) return syi_fail(g->ctx, SY_E_USAGE, "%s: tokenizer.tokens.%s.source: %s is not one of the models of this merge", where, t->token, model);
    const char *other = json_string_value(json_object_get(s, "token"));
    const json_t *number = json_object_get(s, "token_id");
    const int64_t row = number ? json_integer_value(number) : id_of(&v->of[donor], other ? other : t->token);
    if (row < 0 || row >= g->models[donor].vocab)
        return syi_fail(g->ctx, SY_E_USAGE, "%s: tokenizer.tokens.%s.source: %s has no token \"%s\"", where, t->token, model, other ? other : t->token);
    v->donor[id] = donor;
    v->row[id] = row;
    return SY_OK;
}

static sy_status place_rows(sy_merging *g, struct syi_merge_vocab *v)
{
    for (int64_t r = 0; r < v->rows; r++) {
        const char *text = r < v->out.n ? v->out.at[r].text : NULL;
        int have = 0, only = -1;
        v->donor[r] = r < v->out.n ? ZERO : PADDING;
        for (int i = 0; i < g->n_models; i++) {
            const tokens *t = v->of[i].n ? &v->of[i] : &v->of[g->donor];
            const int64_t id = text ? id_of(t, text) : r < g->models[i].vocab && r < v->out.n ? r : -1;
            g->models[i].take[r] = id < g->models[i].vocab ? id : -1;
            if (g->models[i].take[r] < 0) continue;
            have++;
            only = i;
        }
        if (have == 0) continue;
        const bool base = g->base >= 0 && g->models[g->base].take[r] >= 0;
        v->donor[r] = have == 1 ? only : base ? g->base : AVERAGE;
        if (v->donor[r] >= 0) v->row[r] = g->models[v->donor[r]].take[r];
    }
    const syi_recipe_tokenizer *asked = g->recipe.tokenizer;
    for (int64_t k = 0; asked && k < asked->n_tokens; k++) {
        const syi_recipe_token *t = &asked->tokens[k];
        const int64_t id = id_of(&v->out, t->token);
        SYI_TRY(asked_source(g, v, t, id));
        for (int i = 0; i < g->n_models && t->force; i++) g->models[i].take[id] = -1;
    }
    return SY_OK;
}

sy_status syi_merge_tokens(sy_merging *g)
{
    const syi_recipe *r = &g->recipe;
    const char *source = r->tokenizer ? r->tokenizer->source ? r->tokenizer->source : "union" : r->tokenizer_source;
    if (!source) return refuse_others(g);
    struct syi_merge_vocab *v = g->vocab = syi_arena_alloc(g->arena, sizeof *v);
    if (!v) return SY_E_MEMORY;
    const bool united = strcmp(source, "union") == 0;
    int from = g->donor;
    if (!united && strcmp(source, "base") != 0) SYI_TRY(syi_merge_open(g, source, &from));
    v->source = united ? -1 : from;
    v->n_models = g->n_models;
    v->of = syi_arena_alloc(g->arena, (size_t)g->n_models * sizeof *v->of);
    v->mean = syi_arena_alloc(g->arena, (size_t)g->n_models * 2 * sizeof *v->mean);
    v->added = json_array();
    if (!v->of || !v->mean || !v->added) return SY_E_MEMORY;
    for (int i = 0; i < g->n_models; i++) {
        SYI_TRY(read_tokens(g, i, &v->of[i]));
        if (!g->models[i].vocab) return syi_fail(g->ctx, SY_E_UNSUPPORTED, "%s: %s has no table of embeddings whose rows could be ordered by tokens", r->path, g->models[i].text);
    }
    if (v->of[from].n == 0) return syi_fail(g->ctx, SY_E_INPUT, "%s: tokenizer: %s has no tokenizer.json", r->path, g->models[from].text);
    SYI_TRY(clone(g, &v->of[from], &v->out));
    if (united) SYI_TRY(unite(g, v));
    for (int64_t k = 0; r->tokenizer && k < r->tokenizer->n_tokens; k++)
        if (id_of(&v->out, r->tokenizer->tokens[k].token) < 0) SYI_TRY(append_token(g, v, r->tokenizer->tokens[k].token, NULL));
    const int64_t multiple = r->tokenizer && r->tokenizer->pad_to_multiple_of > 0 ? r->tokenizer->pad_to_multiple_of : 1;
    v->rows = syi_ceil_div(v->out.n, multiple) * multiple;
    v->donor = syi_arena_alloc(g->arena, (size_t)v->rows * sizeof *v->donor);
    v->row = syi_arena_alloc(g->arena, (size_t)v->rows * sizeof *v->row);
    if (!v->donor || !v->row) return SY_E_MEMORY;
    for (int i = 0; i < g->n_models; i++) {
        g->models[i].take = syi_arena_alloc(g->arena, (size_t)v->rows * sizeof *g->models[i].take);
        g->models[i].n_take = v->rows;
        if (!g->models[i].take) return SY_E_MEMORY;
    }
    return place_rows(g, v);
}

/* -- rows that a model lacks ---------------------------------------------------------------------------- */

static void read_row(const sy_merging *g, const syi_merge_in *in, int model, int64_t row, float *dst)
{
    const sy_entry *e = sy_checkpoint_find(g->models[model].tensors, in->entry->name);
    if (!e) e = sy_checkpoint_find(g->models[model].tensors, "model.embed_tokens.weight"); /* a tied head */
    const syi_merge_in other = { .model = model, .entry = e };
    const float *at = e ? syi_merge_in_rows(g, &other, row, 1, dst) : NULL;
    const size_t bytes = (size_t)syi_entry_cols(in->entry) * sizeof *dst;
    if (!at) memset(dst, 0, bytes);
    else if (at != dst) memcpy(dst, at, bytes);
}

/* The mean of the model's own rows in the output. */
static void mean_row(const sy_merging *g, const syi_merge_in *in, float *dst)
{
    struct syi_merge_vocab *v = g->vocab;
    const int64_t cols = syi_entry_cols(in->entry);
    float **slot = &v->mean[in->model * 2 + (strcmp(in->entry->name, "lm_head.weight") == 0)];
#pragma omp critical(syi_merge_mean)
    if (!*slot) {
        float *sum = syi_calloc(g->ctx, (size_t)cols, sizeof *sum);
        double *wide = syi_calloc(g->ctx, (size_t)cols, sizeof *wide);
        for (int64_t r = 0; sum && wide && r < v->out.n; r++) {
            const float *x = syi_merge_in_rows(g, in, r, 1, dst);
            for (int64_t c = 0; c < cols; c++) wide[c] += (double)x[c];
        }
        for (int64_t c = 0; sum && wide && c < cols; c++) sum[c] = (float)(wide[c] / (double)v->out.n);
        syi_free(g->ctx, wide);
        *slot = sum;
    }
    if (*slot) memcpy(dst, *slot, (size_t)cols * sizeof *dst);
    else memset(dst, 0, (size_t)cols * sizeof *dst);
}

void syi_merge_token_default(const sy_merging *g, const syi_merge_in *in, int64_t r, float *dst)
{
    const struct syi_merge_vocab *v = g->vocab;
    const int64_t cols = syi_entry_cols(in->entry);
    if (v->donor[r] >= 0) {
        read_row(g, in, v->donor[r], v->row[r], dst);
    } else if (v->donor[r] == PADDING) {
        mean_row(g, in, dst);
    } else {
        memset(dst, 0, (size_t)cols * sizeof *dst);
        if (v->donor[r] != AVERAGE) return;
        int have = 0;
        for (int i = 0; i < g->n_models; i++) have += g->models[i].take[r] >= 0;
        for (int64_t c0 = 0; c0 < cols; c0 += 512) { /* a strip at a time: no memory is taken */
            float strip[512];
            const int64_t n = syi_min(512, cols - c0);
            double sum[512] = { 0 };
            for (int i = 0; i < g->n_models; i++) {
                const int64_t row = g->models[i].take[r];
                const sy_entry *e = sy_checkpoint_find(g->models[i].tensors, in->entry->name);
                if (!e) e = sy_checkpoint_find(g->models[i].tensors, "model.embed_tokens.weight");
                if (row < 0 || !e) continue;
                const int len = sy_dtype_block_len(e->dtype);
                if (512 % len != 0) continue;
                const char *at = (const char *)e->data + (row * cols + c0) / len * sy_dtype_block_bytes(e->dtype);
                if (sy_to_f32(g->ctx, e->dtype, at, strip, n) != SY_OK) continue;
                for (int64_t c = 0; c < n; c++) sum[c] += (double)strip[c];
            }
            for (int64_t c = 0; c < n; c++) dst[c0 + c] = (float)(sum[c] / have);
        }
    }
}

/* -- files ---------------------------------------------------------------------------------------------------- */

static sy_status write_union(sy_merging *g, const char *dir)
{
    const struct syi_merge_vocab *v = g->vocab;
    syi_source *s = g->models[v->source < 0 ? g->donor : v->source].source;
    if (json_array_size(v->added) == 0 && v->source == g->donor) return SY_OK;
    SYI_TRY(syi_source_tokenizer(s));
    json_t *all = json_deep_copy(s->tokenizer);
    char *path = syi_join(g->ctx, dir, "tokenizer.json");
    sy_status st = all && path ? SY_OK : syi_nomem(g->ctx, 0);
    if (st == SY_OK) {
        json_t *list = json_object_get(all, "added_tokens");
        if (!json_is_array(list)) json_object_set_new(all, "added_tokens", list = json_array());
        if (json_array_extend(list, v->added) != 0) st = syi_nomem(g->ctx, 0);
    }
    if (st == SY_OK) st = syi_json_write(g->ctx, path, all, false);
    syi_free(g->ctx, path);
    json_decref(all);
    return st;
}

/* The other tokenizer files of the model whose tokens the output has. */
static sy_status copy_others(sy_merging *g, const char *dir)
{
    static const char *const names[] = { "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "tokenizer.model" };
    const struct syi_merge_vocab *v = g->vocab;
    if (v->source < 0 || v->source == g->donor || !syi_is_dir(g->models[v->source].path)) return SY_OK;
    for (int i = 0; i < SYI_COUNT(names); i++) {
        char *from = syi_join(g->ctx, g->models[v->source].path, names[i]), *to = syi_join(g->ctx, dir, names[i]);
        sy_status st = from && to ? SY_OK : SY_E_MEMORY;
        if (st == SY_OK && syi_exists(from)) st = syi_copy_file(g->ctx, from, to);
        syi_free(g->ctx, from);
        syi_free(g->ctx, to);
        SYI_TRY(st);
    }
    return SY_OK;
}

static sy_status write_template(sy_merging *g, const char *dir)
{
    const char *text = g->recipe.chat_template;
    if (!text) return SY_OK;
    if (strcmp(text, "auto") == 0) { /* what most models have */
        int best = 0;
        text = NULL;
        for (int i = 0; i < g->n_models; i++) {
            const char *a = g->models[i].source->chat_template;
            int votes = 0;
            for (int k = 0; a && k < g->n_models; k++) votes += g->models[k].source->chat_template && strcmp(a, g->models[k].source->chat_template) == 0;
            if (votes > best) best = votes, text = a;
        }
        if (!text) return SY_OK;
    } else if (!strchr(text, '{')) {
        return syi_fail(g->ctx, SY_E_USAGE, "%s: chat_template: expected \"auto\" or the text of a template, found \"%s\"", g->recipe.path, text);
    }
    char *path = syi_join(g->ctx, dir, "chat_template.jinja");
    if (!path) return SY_E_MEMORY;
    sy_status st = syi_write_file(g->ctx, path, text, (int64_t)strlen(text));
    syi_free(g->ctx, path);
    return st;
}

sy_status syi_merge_tokens_write(sy_merging *g, const char *dir)
{
    if (g->vocab) {
        SYI_TRY(copy_others(g, dir));
        SYI_TRY(write_union(g, dir));
    }
    return write_template(g, dir);
}

void syi_merge_tokens_free(sy_merging *g)
{
    struct syi_merge_vocab *v = g->vocab;
    if (!v) return;
    for (int i = 0; v->of && i < v->n_models; i++) syi_map_free(v->of[i].ids);
    for (int i = 0; v->mean && i < v->n_models * 2; i++) syi_free(g->ctx, v->mean[i]);
    syi_map_free(v->out.ids);
    json_decref(v->added);
}
