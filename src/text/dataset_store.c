/* SPDX-License-Identifier: Apache-2.0 */
/* Where a data set's tokens lie. Few of them stay in memory; more go into a file that
 * is mapped, so that memory does not grow with the data. A file with a name is a cache:
 * its key says what the tokens were made of, and whoever comes with the same key finds
 * them done. Without a name it is removed at once and lives as long as it is mapped.
 *
 * The file: a head, the tokens (u32, bit 31: to be predicted), the end of each document
 * (i64, in tokens). Its bytes are those of this machine; another one makes its own. */
#include "dataset.h"

#include <stdlib.h>
#include <unistd.h>

enum { VERSION = 1, KEEP_TOKENS = 16 << 20, BLOCK = 1 << 20 };
static const int64_t TOKENS_MAX = INT64_C(1) << 40;
static const char MAGIC[8] = "SYTOKENS";

typedef struct {
    char magic[8];
    uint32_t version, kind;
    syi_hash key;
    int64_t tokens, documents, masked;
    char notes[SYI_NOTES][48];
} head;

struct syi_store {
    sy_context *ctx;
    head h;
    char *path;             /* of the cache, or of a file that has no name for long   */
    bool named;
    syi_file *file;         /* while it is written                                   */
    uint32_t *token;        /* what is not in the file yet, or all                    */
    int64_t n, cap, written;
    int64_t *end;           /* of documents                                          */
    int64_t cap_end;
    syi_mapped map;
    bool mapped;
    const uint32_t *tokens; /* when done                                             */
    const int64_t *ends;
};

sy_status syi_store_new(sy_context *ctx, const char *path, syi_hash key, syi_store **out)
{
    syi_store *s = *out = syi_calloc(ctx, 1, sizeof *s);
    if (s == NULL) return SY_E_MEMORY;
    s->ctx = ctx;
    memcpy(s->h.magic, MAGIC, sizeof MAGIC);
    s->h.version = VERSION;
    s->h.key = key;
    s->named = path != NULL;
    if (path == NULL || (s->path = syi_strdup(ctx, path)) != NULL) return SY_OK;
    syi_store_free(s);
    *out = NULL;
    return SY_E_MEMORY;
}

void syi_store_free(syi_store *s)
{
    if (s == NULL) return;
    syi_file_abort(s->file);
    if (s->mapped) syi_unmap_file(s->ctx, &s->map);
    syi_free(s->ctx, s->path);
    syi_free(s->ctx, s->token);
    syi_free(s->ctx, s->end);
    syi_free(s->ctx, s);
}

/* -- writing ----------------------------------------------------------------------- */

static sy_status open_file(syi_store *s)
{
    if (s->path == NULL) {
        const char *dir = getenv("TMPDIR");
        s->path = syi_format(s->ctx, "%s/steelyard-tokens-%ld-%llx", dir != NULL && *dir != '\0' ? dir : "/tmp", (long)getpid(),
                             (unsigned long long)(uintptr_t)s);
        if (s->path == NULL) return SY_E_MEMORY;
    }
    SYI_TRY(syi_file_create(s->ctx, s->path, &s->file));
    return syi_file_write(s->file, &s->h, sizeof s->h); /* again at the end, with the counts */
}

static sy_status flush(syi_store *s)
{
    if (s->file == NULL) SYI_TRY(open_file(s));
    SYI_TRY(syi_file_write(s->file, s->token, s->n * (int64_t)sizeof *s->token));
    s->written += s->n;
    s->n = 0;
    return SY_OK;
}

sy_status syi_store_add(syi_store *s, const uint32_t *token, int64_t n)
{
    if (s->h.tokens > TOKENS_MAX - n) return syi_fail(s->ctx, SY_E_INPUT, "a data set of more than 2^40 tokens");
    if (s->n > 0 && s->n + n > (s->named ? BLOCK : KEEP_TOKENS)) SYI_TRY(flush(s));
    void *p = s->token;
    sy_status st = syi_grow(s->ctx, &p, &s->cap, s->n + n, sizeof *s->token, TOKENS_MAX);
    s->token = p;
    if (st != SY_OK) return st;
    if (n > 0) memcpy(s->token + s->n, token, (size_t)n * sizeof *token);
    s->n += n;
    s->h.tokens += n;
    return SY_OK;
}

sy_status syi_store_end(syi_store *s)
{
    void *p = s->end;
    sy_status st = syi_grow(s->ctx, &p, &s->cap_end, s->h.documents + 1, sizeof *s->end, TOKENS_MAX);
    s->end = p;
    if (st == SY_OK) s->end[s->h.documents++] = s->h.tokens;
    return st;
}

void syi_store_about(syi_store *s, syi_kind kind, int64_t masked)
{
    s->h.kind = (uint32_t)kind;
    s->h.masked = masked;
}

char (*syi_store_notes(syi_store *s))[48]
{
    return s->h.notes;
}

static bool fits(const syi_store *s)
{
    const head *h = (const head *)s->map.data;
    const int64_t size = s->map.size - (int64_t)sizeof *h;
    if (size < 0 || memcmp(h->magic, MAGIC, sizeof MAGIC) != 0 || h->version != VERSION || memcmp(&h->key, &s->h.key, sizeof h->key) != 0) return false;
    if (h->tokens < 0 || h->documents < 0 || h->tokens > TOKENS_MAX || h->documents > TOKENS_MAX || h->kind >= KIND_COUNT) return false;
    const int64_t pad = h->tokens % 2;
    if (size != (h->tokens + pad) * (int64_t)sizeof(uint32_t) + h->documents * (int64_t)sizeof(int64_t)) return false;
    const int64_t *end = (const int64_t *)(const void *)(s->map.data + sizeof *h + (h->tokens + pad) * (int64_t)sizeof(uint32_t));
    for (int64_t i = 0; i < h->documents; i++)
        if (end[i] < (i > 0 ? end[i - 1] : 0) || end[i] > h->tokens) return false;
    for (int i = 0; i < SYI_NOTES; i++)
        if (memchr(h->notes[i], 0, sizeof h->notes[i]) == NULL) return false;
    return h->documents == 0 || end[h->documents - 1] == h->tokens;
}

static void use_map(syi_store *s)
{
    memcpy(&s->h, s->map.data, sizeof s->h);
    s->tokens = (const uint32_t *)(const void *)(s->map.data + sizeof s->h);
    s->ends = (const int64_t *)(const void *)(s->tokens + s->h.tokens + s->h.tokens % 2);
}

sy_status syi_store_done(syi_store *s)
{
    if (s->file == NULL && !s->named) {
        s->tokens = s->token;
        s->ends = s->end;
        return SY_OK;
    }
    const uint32_t nothing = 0;
    SYI_TRY(flush(s));
    if (s->h.tokens % 2) SYI_TRY(syi_file_write(s->file, &nothing, sizeof nothing));
    if (s->h.documents > 0) SYI_TRY(syi_file_write(s->file, s->end, s->h.documents * (int64_t)sizeof *s->end));
    SYI_TRY(syi_file_write_at(s->file, 0, &s->h, sizeof s->h));
    sy_status st = syi_file_commit(s->file);
    s->file = NULL;
    if (st != SY_OK) return st;
    syi_free(s->ctx, s->token);
    syi_free(s->ctx, s->end);
    s->token = NULL;
    s->end = NULL;
    st = syi_map_file(s->ctx, s->path, &s->map);
    if (!s->named && st == SY_OK) st = syi_remove_tree(s->ctx, s->path); /* it lives on as long as it is mapped */
    if (st != SY_OK) return st;
    s->mapped = true;
    if (!fits(s)) return syi_fail(s->ctx, SY_E_IO, "%s: what was written is not what is there", s->path);
    use_map(s);
    return SY_OK;
}

/* -- reading -------------------------------------------------------------------------- */

sy_status syi_store_find(syi_store *s, bool *found)
{
    *found = false;
    if (!s->named || !syi_exists(s->path)) return SY_OK;
    SYI_TRY(syi_map_file(s->ctx, s->path, &s->map));
    s->mapped = true;
    *found = fits(s);
    if (*found) {
        use_map(s);
        return SY_OK;
    }
    syi_log(s->ctx, SY_LOG_WARN, "%s: not tokens of this data, or damaged: made anew", s->path);
    syi_unmap_file(s->ctx, &s->map);
    s->mapped = false;
    return SY_OK;
}

int64_t syi_store_documents(const syi_store *s)
{
    return s->h.documents;
}

int64_t syi_store_document(const syi_store *s, int64_t i, int64_t *end)
{
    *end = s->ends[i];
    return i > 0 ? s->ends[i - 1] : 0;
}

const uint32_t *syi_store_tokens(const syi_store *s, int64_t at)
{
    return s->tokens + at;
}

syi_kind syi_store_kind(const syi_store *s, int64_t *masked)
{
    *masked = s->h.masked;
    return (syi_kind)s->h.kind;
}

void syi_store_forget(const syi_store *s)
{
    if (s->mapped) syi_mapped_forget(s->map.data, s->map.size);
}
