/* SPDX-License-Identifier: Apache-2.0 */
/* Files of a data set as records: lines of JSON, the elements of one JSON array,
 * or a whole text; each also compressed. A compressed file is inflated as it is
 * read: what is held is one record and a little more, never the whole. A file that
 * inflates to more than 250 times its size (after the first 256 MiB) is refused,
 * as is a record of more than 64 MiB and a text of more than 2 GiB. */
#include "dataset.h"

enum { CHUNK = 1 << 20, RATIO_MAX = 250 };
static const int64_t RATIO_FROM = INT64_C(256) << 20, TEXT_MAX = INT32_MAX;

static sy_status bad(syi_reader *r, const char *what)
{
    return syi_fail(r->ctx, SY_E_INPUT, "%s:%lld: %s", r->path, (long long)r->line, what);
}

/* -- bytes ------------------------------------------------------------------------- */

static sy_status inflate_some(syi_reader *r)
{
    int64_t most = r->whole ? TEXT_MAX : RECORD_MAX;
    void *p = r->owned;
    if (r->n + CHUNK > r->cap) {
        if (r->n > most) return bad(r, r->whole ? "a text of more than 2 GiB" : "a record of more than 64 MiB");
        sy_status st = syi_grow(r->ctx, &p, &r->cap, r->n + CHUNK, 1, most + 2 * CHUNK);
        r->owned = p;
        if (st != SY_OK) return st;
    }
    r->z.next_out = r->owned + r->n;
    r->z.avail_out = CHUNK;
    while (r->z.avail_out > 0 && !r->complete) {
        const uint8_t *end = r->file.data + r->file.size;
        int64_t left = end - r->z.next_in;
        r->z.avail_in = (uInt)syi_min(left, INT64_C(1) << 30);
        int rc = inflate(&r->z, Z_NO_FLUSH);
        if (rc == Z_STREAM_END) { /* members may follow each other; padding with zeros too */
            while (r->z.next_in < end && *r->z.next_in == 0) r->z.next_in++;
            if (r->z.next_in == end) r->complete = true;
            else if (inflateReset(&r->z) != Z_OK) return bad(r, "the compressed file cannot be read on");
        } else if (rc == Z_BUF_ERROR && r->z.next_in == end) {
            return bad(r, "the compressed file ends in the middle: it was cut off");
        } else if (rc == Z_MEM_ERROR) {
            return syi_nomem(r->ctx, 1 << 16);
        } else if (rc != Z_OK && rc != Z_BUF_ERROR) {
            return syi_fail(r->ctx, SY_E_INPUT, "%s:%lld: not a valid gzip file: %s", r->path, (long long)r->line,
                            r->z.msg ? r->z.msg : "damaged");
        }
    }
    int64_t got = CHUNK - (int64_t)r->z.avail_out;
    r->n += got;
    r->produced += got;
    r->s = r->owned;
    if (r->produced > RATIO_FROM && r->produced / RATIO_MAX > r->file.size)
        return syi_fail(r->ctx, SY_E_INPUT, "%s: inflates to more than %d times its size, which text does not; if it is what you mean, "
                        "decompress it first", r->path, RATIO_MAX);
    return SY_OK;
}

/* More bytes after those that are there; what is before `at` may go. */
static sy_status more(syi_reader *r)
{
    if (r->at > CHUNK && !r->whole) {
        memmove(r->owned, r->owned + r->at, (size_t)(r->n - r->at));
        r->n -= r->at;
        r->at = 0;
    }
    return inflate_some(r);
}

/* Is there a byte at `at` + i? */
static sy_status want(syi_reader *r, int64_t i, bool *there)
{
    while (r->at + i >= r->n && !r->complete) SYI_TRY(more(r));
    *there = r->at + i < r->n;
    return SY_OK;
}

static bool is_blank(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static sy_status skip_blanks(syi_reader *r, bool *there)
{
    for (;;) {
        SYI_TRY(want(r, 0, there));
        if (!*there || !is_blank(r->s[r->at])) return SY_OK;
        if (r->s[r->at++] == '\n') r->line++;
    }
}

/* -- opening ---------------------------------------------------------------------------- */

sy_status syi_reader_open(sy_context *ctx, const char *path, syi_reader *r)
{
    *r = (syi_reader){.ctx = ctx, .path = path, .line = 1};
    char name[16] = "";
    size_t n = strlen(path);
    r->gz = syi_ends(path, ".gz");
    if (r->gz) n -= 3;
    for (size_t i = n > 7 ? n - 7 : 0, k = 0; i < n; i++) name[k++] = path[i];
    r->whole = syi_ends(name, ".txt");
    if (!r->whole && !syi_ends(name, ".jsonl") && !syi_ends(name, ".json") && !syi_ends(name, ".ndjson"))
        return syi_fail(ctx, SY_E_UNSUPPORTED, "%s: a data set is .jsonl, .json or .txt (or one of these with .gz); rename the file "
                        "to what it holds", path);
    SYI_TRY(syi_map_file(ctx, path, &r->file));
    r->opened = true;
    if (!r->gz) {
        r->s = r->file.data;
        r->n = r->file.size;
        r->complete = true;
        if (r->whole && r->n > TEXT_MAX) return bad(r, "a text of more than 2 GiB; split it");
    } else {
        r->z.next_in = (uint8_t *)(uintptr_t)r->file.data;
        if (inflateInit2(&r->z, 15 + 16) != Z_OK) return syi_nomem(ctx, 1 << 16);
        r->z_live = true;
    }
    bool there;
    SYI_TRY(want(r, 2, &there));
    if (there && memcmp(r->s, "\xEF\xBB\xBF", 3) == 0) r->at = 3; /* a byte order mark is not text */
    return SY_OK;
}

void syi_reader_close(syi_reader *r)
{
    if (r->z_live) inflateEnd(&r->z);
    if (r->opened) syi_unmap_file(r->ctx, &r->file);
    syi_free(r->ctx, r->owned);
    *r = (syi_reader){0};
}

/* -- records ------------------------------------------------------------------------------ */

static sy_status give(syi_reader *r, int64_t n, int64_t line, syi_record *out)
{
    *out = (syi_record){.s = (char *)(uintptr_t)(r->s + r->at), .n = n, .line = line, .owned = r->owned != NULL};
    if (out->owned) {
        out->s = syi_alloc(r->ctx, (size_t)n + 1);
        if (out->s == NULL) return SY_E_MEMORY;
        memcpy(out->s, r->s + r->at, (size_t)n);
    }
    r->at += n;
    return SY_OK;
}

static sy_status next_line(syi_reader *r, syi_record *out)
{
    int64_t i = 0;
    bool there = true;
    for (;;) {
        const uint8_t *end = memchr(r->s + r->at + i, '\n', (size_t)(r->n - r->at - i));
        if (end != NULL) {
            i = end - r->s - r->at;
            break;
        }
        i = r->n - r->at;
        if (i > RECORD_MAX) return bad(r, "a line of more than 64 MiB");
        SYI_TRY(want(r, i, &there));
        if (!there) break;
    }
    if (i > RECORD_MAX) return bad(r, "a line of more than 64 MiB");
    return give(r, i, r->line, out);
}

/* An element of the array: up to the ',' or ']' that stands outside of everything. */
static sy_status next_element(syi_reader *r, syi_record *out)
{
    int64_t i = 0, line = r->line, depth = 0;
    bool text = false, there;
    for (;; i++) {
        SYI_TRY(want(r, i, &there));
        if (!there) return bad(r, "the array does not end: the file was cut off");
        if (i > RECORD_MAX) return bad(r, "an element of more than 64 MiB");
        uint8_t c = r->s[r->at + i];
        if (c == '\n') r->line++;
        if (text) {
            if (c == '\\') i++;
            else if (c == '"') text = false;
        } else if (c == '"') {
            text = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (depth > 0 && (c == '}' || c == ']')) {
            depth--;
        } else if (depth == 0 && (c == ',' || c == ']')) {
            return give(r, i, line, out);
        }
    }
}

static sy_status next_of_array(syi_reader *r, syi_record *out, bool *found)
{
    bool there;
    SYI_TRY(skip_blanks(r, &there));
    if (!r->array) {
        r->array = true;
        r->at++; /* the '[' */
        SYI_TRY(skip_blanks(r, &there));
        if (there && r->s[r->at] == ']') r->ended = true;
    } else {
        if (!there) return bad(r, "the array does not end: the file was cut off");
        r->ended = r->s[r->at] == ']';
        if (!r->ended) { /* the ',' after the element before */
            r->at++;
            SYI_TRY(skip_blanks(r, &there));
        }
    }
    if (r->ended) {
        r->at++;
        SYI_TRY(skip_blanks(r, &there));
        return there ? bad(r, "something follows the end of the array") : SY_OK;
    }
    *found = true;
    return next_element(r, out);
}

sy_status syi_reader_next(syi_reader *r, syi_record *out, bool *found)
{
    bool there;
    *found = false;
    if (r->ended) return SY_OK;
    if (r->whole) {
        while (!r->complete) SYI_TRY(more(r));
        r->ended = true;
        *found = r->n > r->at;
        return *found ? give(r, r->n - r->at, 1, out) : SY_OK;
    }
    if (r->array) return next_of_array(r, out, found);
    bool first = r->line == 1 && r->at <= 3 && r->produced <= CHUNK;
    SYI_TRY(skip_blanks(r, &there));
    if (!there) return SY_OK;
    if (first && r->s[r->at] == '[') return next_of_array(r, out, found);
    *found = true;
    return next_line(r, out);
}
