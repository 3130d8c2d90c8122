/* SPDX-License-Identifier: Apache-2.0 */
/* The output of a merge: a hidden folder beside its place, ".NAME.merging", with the
 * shards under their names, a journal of the tensors that are in them, and at the end the
 * files around them; then it is renamed. A merge that was killed is taken up where its
 * journal ends if recipe, inputs and options are the same.
 *
 * What the journal says must be on disk. Death of the process leaves the system's cache
 * intact, so lines are good until the machine restarts; a line "synced" (after an fsync of
 * the shards, every two gigabytes) makes those above it good for ever. */
#include "run/_merge.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

enum { SYNC_EVERY = 2 }; /* GiB */

static void boot_id(char out[64])
{
    char text[64];
    const int64_t n = syi_peek_file("/proc/sys/kernel/random/boot_id", text, 36);
    snprintf(out, 64, "%.*s", n > 0 ? (int)n : 0, text);
}

/* Everything that the bytes of the output follow from. */
static sy_status fingerprint(sy_merging *g, char out[33])
{
    syi_hasher *h;
    SYI_TRY(syi_hasher_new(g->ctx, &h));
    char *recipe = json_dumps(g->recipe.json, JSON_COMPACT | JSON_SORT_KEYS);
    const char *version = sy_version();
    if (recipe) syi_hasher_add(h, recipe, strlen(recipe) + 1);
    syi_json_free_text(recipe);
    syi_hasher_add(h, version, strlen(version) + 1);
    syi_hasher_add(h, &g->seed, sizeof g->seed);
    syi_hasher_add(h, &g->shard_bytes, sizeof g->shard_bytes);
    for (int64_t i = 0; i < g->n; i++) {
        const syi_merge_tensor *t = &g->tensors[i];
        syi_hasher_add(h, t->name, strlen(t->name) + 1);
        syi_hasher_add(h, &t->dtype, sizeof t->dtype);
        syi_hasher_add(h, t->dim, sizeof t->dim);
        if (t->value) syi_hasher_add(h, t->value, sizeof *t->value * (size_t)(g->n_rows * (t->n + 1)));
        for (int k = 0; k < t->n + (t->base != NULL); k++) {
            const sy_entry *e = t->in[k].entry;
            /* Some of the bytes: another file under the same name shows. */
            syi_hasher_add(h, e->name, strlen(e->name) + 1);
            syi_hasher_add(h, &e->bytes, sizeof e->bytes);
            syi_hasher_add(h, e->data, (size_t)syi_min(e->bytes, 512));
        }
    }
    syi_hash_text(out, syi_hasher_end(h));
    return SY_OK;
}

static char *work_folder(sy_merging *g, const char *out)
{
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    size_t slash = n;
    while (slash > 0 && out[slash - 1] != '/') slash--;
    return syi_arena_format(g->arena, "%.*s.%.*s.merging", (int)slash, out, (int)(n - slash), out + slash);
}

static sy_status check_place(sy_merging *g, const char *out)
{
    char **names;
    int n = 0;
    if (!syi_exists(out)) return SY_OK;
    if (!syi_is_dir(out)) return syi_fail(g->ctx, SY_E_USAGE, "--out %s is there already and is no folder", out);
    SYI_TRY(syi_list_dir(g->ctx, out, &names, &n));
    for (int i = 0; i < n; i++) syi_free(g->ctx, names[i]);
    syi_free(g->ctx, names);
    return n ? syi_fail(g->ctx, SY_E_USAGE, "--out %s is there already and is not empty; give a folder that does not exist yet", out) : SY_OK;
}

static sy_status lock_folder(sy_merging *g)
{
    SYI_TRY(syi_mkdirs(g->ctx, g->work));
    const int fd = open(g->work, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return syi_fail(g->ctx, SY_E_IO, "cannot open folder %s: %s", g->work, strerror(errno));
    g->lock = fd + 1;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return syi_fail(g->ctx, SY_E_USAGE, "another process is merging into the same place (%s); wait for it, or choose another --out", g->work);
    return SY_OK;
}

/* "sums 12 0x1.8p+1 ...": the numbers of tensor 12 in round 0. */
static void read_numbers(sy_merging *g, const char *line)
{
    char *at;
    if (!syi_starts(line, "sums ")) return;
    const long i = strtol(line + 5, &at, 10);
    if (i < 0 || i >= g->n) return;
    for (int k = 0; k < g->globals; k++) {
        char *end;
        const double v = strtod(at, &end);
        if (end == at) return;
        g->tensors[i].global[k] = v;
        at = end;
    }
}

/* Marks tensors that an earlier process finished. Keeps nothing of a journal that is not
 * of this merge. */
static int64_t read_journal(sy_merging *g, const char *text, const char *header)
{
    char boot[64], line[4096], now[160];
    int64_t count = 0;
    const size_t n = strlen(header);
    if (strncmp(text, header, n) != 0) return 0;
    boot_id(boot);
    snprintf(now, sizeof now, "boot %s\n", boot);
    const char *at = text + n, *last_sync = NULL;
    const bool same_boot = *boot && syi_starts(at, now);
    for (const char *p = at; (p = strstr(p, "\nsynced\n")); p++) last_sync = p;
    for (const char *p = at; *p;) {
        const char *end = strchr(p, '\n');
        if (!end) break; /* half a line */
        snprintf(line, sizeof line, "%.*s", (int)(end - p), p);
        char *second = syi_starts(line, "done ") ? strchr(line + 5, ' ') : NULL;
        int64_t first = -1, many = 0;
        if (second) *second = 0;
        if (strcmp(line, "round 1") == 0) {
            for (int64_t i = 0; i < g->n; i++) g->tensors[i].done = false;
            g->round = 1;
            count = g->n; /* of both rounds */
        }
        read_numbers(g, line);
        if (second && syi_parse_int(line + 5, &first) && syi_parse_int(second + 1, &many) && first >= 0 && many <= g->n && (same_boot || (last_sync && p < last_sync)))
            for (int64_t i = first; i < first + many && i < g->n; i++) {
                count += !g->tensors[i].done;
                g->tensors[i].done = true;
            }
        p = end + 1;
    }
    return count;
}

static sy_status begin_journal(sy_merging *g)
{
    char mark[33], header[128], boot[64], *path = syi_join(g->ctx, g->work, "journal"), *text = NULL;
    if (!path) return SY_E_MEMORY;
    sy_status st = fingerprint(g, mark);
    snprintf(header, sizeof header, "steelyard merge %s\n", mark);
    if (st == SY_OK && syi_exists(path)) st = syi_read_file(g->ctx, path, 64 << 20, &text, NULL);
    if (st == SY_OK && text) {
        g->resumed = read_journal(g, text, header);
        if (g->resumed == 0) { /* of another merge, or of none: from the start */
            char **names;
            int n = 0;
            st = syi_list_dir(g->ctx, g->work, &names, &n);
            for (int i = 0; i < n; i++) {
                char *inside = syi_join(g->ctx, g->work, names[i]);
                if (inside && st == SY_OK) st = syi_remove_tree(g->ctx, inside);
                syi_free(g->ctx, inside);
                syi_free(g->ctx, names[i]);
            }
            if (st == SY_OK) syi_free(g->ctx, names);
        }
    }
    if (st == SY_OK) st = syi_append_open(g->ctx, path, g->resumed ? -1 : 0, &g->journal);
    if (st == SY_OK && g->resumed == 0) {
        char line[256];
        boot_id(boot);
        snprintf(line, sizeof line, "%sboot %s\n", header, boot);
        st = syi_append(g->journal, line, (int64_t)strlen(line));
    }
    syi_free(g->ctx, text);
    syi_free(g->ctx, path);
    return st;
}

static sy_status begin_state(sy_merging *g)
{
    char *path = syi_join(g->ctx, g->work, "merge_state.safetensors");
    if (!path) return SY_E_MEMORY;
    sy_status st = sy_writer_new(g->ctx, path, 0, &g->state_writer);
    syi_free(g->ctx, path);
    SYI_TRY(st);
    for (int64_t i = 0; i < g->n; i++)
        if (!g->tensors[i].copy) SYI_TRY(sy_writer_declare(g->state_writer, g->tensors[i].name, SY_F32, g->tensors[i].rank, g->tensors[i].dim));
    syi_writer_in_place(g->state_writer);
    SYI_TRY(sy_writer_begin(g->state_writer));
    for (int64_t i = 0; i < g->n; i++)
        if (!g->tensors[i].copy) SYI_TRY(syi_writer_place(g->state_writer, g->tensors[i].name, &g->tensors[i].state_file, &g->tensors[i].state_at));
    return SY_OK;
}

/* Round 0 is complete: its state becomes an input, its numbers are added up. */
static sy_status use_state(sy_merging *g)
{
    double *sums = syi_arena_alloc(g->arena, (size_t)(g->globals + 1) * sizeof *sums);
    char *path = syi_join(g->ctx, g->work, "merge_state.safetensors"), *note = NULL;
    sy_status st = sums && path ? SY_OK : SY_E_MEMORY;
    sy_checkpoint_close(g->state);
    g->state = NULL;
    if (st == SY_OK) st = sy_checkpoint_open(g->ctx, path, &g->state);
    for (int64_t i = 0; st == SY_OK && i < g->n; i++)
        for (int k = 0; k < g->globals; k++) sums[k] += g->tensors[i].global[k];
    if (st == SY_OK && g->merger->between) st = g->merger->between(g->use.self, g, sums);
    syi_free(g->ctx, path);
    if (st == SY_OK && g->note) {
        note = syi_join(g->ctx, g->work, "merge_state.json");
        st = note ? syi_write_file(g->ctx, note, g->note, (int64_t)strlen(g->note)) : SY_E_MEMORY;
        syi_free(g->ctx, note);
    }
    return st;
}

sy_status syi_merge_next(sy_merging *g)
{
    sy_writer *w = g->state_writer;
    g->state_writer = NULL;
    SYI_TRY(sy_writer_end(w));
    g->round = 1;
    for (int64_t i = 0; i < g->n; i++) g->tensors[i].done = false;
    SYI_TRY(syi_append(g->journal, "round 1\nsynced\n", 15));
    return use_state(g);
}

sy_status sy_merge_state(sy_merging *g, const char *folder)
{
    char *path = syi_join(g->ctx, folder, "merge_state.safetensors"), *note = syi_join(g->ctx, folder, "merge_state.json"), *text = NULL;
    sy_status st = path && note ? SY_OK : SY_E_MEMORY;
    if (st == SY_OK && !syi_exists(path)) st = syi_fail(g->ctx, SY_E_INPUT, "%s: no merge_state.safetensors: give the folder that an earlier merge wrote", folder);
    if (st == SY_OK) st = sy_checkpoint_open(g->ctx, path, &g->state);
    if (st == SY_OK && syi_exists(note)) st = syi_read_file(g->ctx, note, 1 << 20, &text, NULL);
    if (st == SY_OK && text && !(g->noted = syi_arena_strdup(g->arena, text))) st = SY_E_MEMORY;
    syi_free(g->ctx, text);
    syi_free(g->ctx, path);
    syi_free(g->ctx, note);
    return st;
}

sy_status syi_merge_begin(sy_merging *g, const char *out)
{
    g->globals = g->merger->globals ? g->merger->globals(g->use.self, g) : 0;
    for (int64_t i = 0; g->globals && i < g->n; i++)
        if (!(g->tensors[i].global = syi_arena_alloc(g->arena, (size_t)g->globals * sizeof(double)))) return SY_E_MEMORY;
    SYI_TRY(check_place(g, out));
    g->work = work_folder(g, out);
    if (!g->work) return SY_E_MEMORY;
    SYI_TRY(lock_folder(g));
    SYI_TRY(begin_journal(g));
    char *path = syi_join(g->ctx, g->work, "model.safetensors");
    if (!path) return SY_E_MEMORY;
    sy_status st = sy_writer_new(g->ctx, path, g->shard_bytes, &g->writer);
    syi_free(g->ctx, path);
    SYI_TRY(st);
    for (int64_t i = 0; i < g->n; i++) SYI_TRY(sy_writer_declare(g->writer, g->tensors[i].name, g->tensors[i].dtype, g->tensors[i].rank, g->tensors[i].dim));
    syi_writer_in_place(g->writer);
    SYI_TRY(sy_writer_begin(g->writer));
    for (int64_t i = 0; i < g->n; i++) SYI_TRY(syi_writer_place(g->writer, g->tensors[i].name, &g->tensors[i].file, &g->tensors[i].at));
    if (g->merger->rounds < 2) return SY_OK;
    return g->round == 0 ? begin_state(g) : use_state(g);
}

static sy_status note_numbers(sy_merging *g, int64_t i)
{
    syi_text t;
    syi_text_init(&t, g->ctx, 4096);
    syi_text_printf(&t, "sums %lld", (long long)i);
    for (int k = 0; k < g->globals; k++) syi_text_printf(&t, " %a", g->tensors[i].global[k]);
    syi_text_puts(&t, "\n");
    const sy_status st = t.failed ? sy_error_code(g->ctx) : syi_append(g->journal, t.s, (int64_t)t.len);
    syi_text_free(&t);
    return st;
}

sy_status syi_merge_mark(sy_merging *g, int64_t first, int64_t n)
{
    char line[64];
    const int64_t limit = (int64_t)SYNC_EVERY << 30;
    int64_t before = 0, bytes = 0;
    for (int64_t i = 0; i < first + n; i++) {
        if (i < first) before += g->tensors[i].bytes;
        else bytes += g->tensors[i].bytes;
    }
    for (int64_t i = first; i < first + n; i++) {
        g->tensors[i].done = true;
        if (g->state_writer) SYI_TRY(note_numbers(g, i));
        else syi_file_start(g->tensors[i].file, g->tensors[i].at, g->tensors[i].bytes);
    }
    snprintf(line, sizeof line, "done %lld %lld\n", (long long)first, (long long)n);
    SYI_TRY(syi_append(g->journal, line, (int64_t)strlen(line)));
    if (before / limit == (before + bytes) / limit) return SY_OK;
    SYI_TRY(syi_writer_sync(g->state_writer ? g->state_writer : g->writer));
    return syi_append(g->journal, "synced\n", 7);
}

/* config.json with what changed; every other key as the donor has it. */
static sy_status make_config(sy_merging *g)
{
    static const char *const names[SY_DTYPE_COUNT] = { [SY_F32] = "float32", [SY_BF16] = "bfloat16", [SY_F16] = "float16", [SY_F64] = "float64" };
    const syi_source *s = g->models[g->donor].source;
    if (!s->config) return SY_OK;
    g->config = json_deep_copy(s->config);
    if (!g->config) return syi_nomem(g->ctx, 0);
    const char *type = NULL;
    bool head = false;
    int64_t vocab = 0;
    for (int64_t i = 0; i < g->n; i++) {
        const syi_merge_tensor *t = &g->tensors[i];
        if (t->rank == 2 && !type) type = names[t->dtype];
        head |= strcmp(t->name, "lm_head.weight") == 0;
        if (strcmp(t->name, "model.embed_tokens.weight") == 0) vocab = t->dim[0];
    }
    if (type) {
        if (json_object_get(g->config, "dtype")) json_object_set_new(g->config, "dtype", json_string(type));
        if (json_object_get(g->config, "torch_dtype") || !json_object_get(g->config, "dtype")) json_object_set_new(g->config, "torch_dtype", json_string(type));
    }
    if (g->layers > 0 && json_object_get(g->config, "num_hidden_layers")) json_object_set_new(g->config, "num_hidden_layers", json_integer(g->layers));
    if (vocab && json_object_get(g->config, "vocab_size")) json_object_set_new(g->config, "vocab_size", json_integer(vocab));
    if (head && json_is_true(json_object_get(g->config, "tie_word_embeddings"))) json_object_set_new(g->config, "tie_word_embeddings", json_false());
    json_object_del(g->config, "quantization_config");
    return SY_OK;
}

static sy_status write_around(sy_merging *g)
{
    syi_export how = { .dtype = (sy_dtype)g->dtype, .config = g->config };
    syi_source *donor = g->models[g->donor].source;
    if (donor->config) {
        if (donor->gguf) SYI_TRY(syi_source_tokenizer(donor));
        SYI_TRY(syi_source_files(donor, g->work, &how));
        SYI_TRY(syi_merge_tokens_write(g, g->work));
    }
    char *to = syi_join(g->ctx, g->work, "mergekit_config.yml"); /* where its users look for it */
    if (!to) return SY_E_MEMORY;
    sy_status st = syi_copy_file(g->ctx, g->recipe.path, to);
    syi_free(g->ctx, to);
    return st;
}

sy_status syi_merge_end(sy_merging *g, const char *out)
{
    SYI_TRY(make_config(g));
    SYI_TRY(write_around(g));
    sy_writer *w = g->writer;
    g->writer = NULL;
    SYI_TRY(sy_writer_end(w));
    SYI_TRY(syi_append_close(g->journal, false));
    g->journal = NULL;
    char *path = syi_join(g->ctx, g->work, "journal");
    if (!path) return SY_E_MEMORY;
    sy_status st = syi_remove_tree(g->ctx, path);
    syi_free(g->ctx, path);
    SYI_TRY(st);
    SYI_TRY(check_place(g, out));
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    char *place = syi_arena_format(g->arena, "%.*s", (int)n, out);
    if (!place) return SY_E_MEMORY;
    return syi_rename(g->ctx, g->work, place);
}

void syi_merge_close(sy_merging *g)
{
    sy_writer_abort(g->writer);
    sy_writer_abort(g->state_writer);
    sy_checkpoint_close(g->state);
    json_decref(g->numbers);
    if (g->journal) syi_append_close(g->journal, false);
    if (g->lock) close(g->lock - 1);
    syi_merge_models_free(g);
    syi_merge_tokens_free(g);
    json_decref(g->config);
    sy_use_free(g->ctx, &g->use);
    syi_free(g->ctx, g->tensors);
    syi_recipe_free(&g->recipe);
    syi_arena_free(g->arena);
}
