/* SPDX-License-Identifier: Apache-2.0 */
/* Data sets of labelled images: a folder for each class, IDX files (MNIST), a CSV list. Only
 * names and labels stay in memory (IDX: the mapped or decompressed file); an image is
 * decoded and prepared when its row is asked for. */
#include "data/data.h"

#include <omp.h>
#include <stdlib.h>
#include <zlib.h>

enum { SLOTS = 4, CLASSES_MAX = 1 << 20 };
static const int64_t IDX_MAX = INT64_C(1) << 32;

typedef struct { float *pixels; int32_t *target; int64_t cap; } slot;

typedef struct {
    sy_context *ctx;
    syi_image_rules rules;
    syi_labelled labelled;
    syi_arena *arena;
    const char **path;        /* [n] of files; NULL: IDX                                    */
    int32_t *label;
    int64_t n, cap_path, cap_label;
    uint8_t *idx; int64_t idx_bytes; /* the whole file, decompressed                        */
    const uint8_t *first;     /* image 0 of it                                              */
    syi_image shape;          /* of one                                                     */
    slot slot[SLOTS];
} images;

static void images_free(void *self)
{
    images *m = self;
    sy_context *ctx = m->ctx;
    for (int i = 0; i < SLOTS; i++) {
        syi_free(ctx, m->slot[i].pixels);
        syi_free(ctx, m->slot[i].target);
    }
    syi_labelled_free(&m->labelled);
    syi_arena_free(m->arena);
    syi_free(ctx, m->path);
    syi_free(ctx, m->label);
    syi_free(ctx, m->idx);
    syi_free(ctx, m);
}

static sy_status add(images *m, const char *path, int64_t label)
{
    SYI_TRY(syi_grow(m->ctx, (void **)&m->label, &m->cap_label, m->n + 1, sizeof *m->label, 1 << 28));
    SYI_TRY(syi_grow(m->ctx, (void **)&m->path, &m->cap_path, m->n + 1, sizeof *m->path, 1 << 28));
    m->path[m->n] = path != NULL ? syi_arena_strdup(m->arena, path) : NULL;
    m->label[m->n] = (int32_t)label;
    m->n++;
    return path == NULL || m->path[m->n - 1] != NULL ? SY_OK : SY_E_MEMORY;
}

/* -- a folder for each class ----------------------------------------------------------------- */

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Sorted names, hidden ones left out; free with free_names. */
static sy_status names_in(sy_context *ctx, const char *dir, char ***names, int *n)
{
    SYI_TRY(syi_list_dir(ctx, dir, names, n));
    qsort(*names, (size_t)*n, sizeof **names, by_name);
    return SY_OK;
}

static void free_names(sy_context *ctx, char **names, int n)
{
    for (int i = 0; i < n; i++) syi_free(ctx, names[i]);
    syi_free(ctx, names);
}

static sy_status add_folder(images *m, const char *dir, int64_t label, syi_hasher *h)
{
    char **names = NULL;
    int n = 0;
    SYI_TRY(names_in(m->ctx, dir, &names, &n));
    sy_status s = SY_OK;
    for (int i = 0; i < n && s == SY_OK; i++) {
        if (names[i][0] == '.' || !syi_image_name(names[i])) continue;
        char *path = syi_join(m->ctx, dir, names[i]);
        s = path != NULL ? add(m, path, label) : SY_E_MEMORY;
        syi_hasher_add(h, names[i], strlen(names[i]) + 1);
        syi_free(m->ctx, path);
    }
    free_names(m->ctx, names, n);
    return s;
}

static sy_status open_folder(images *m, const char *dir, const json_t *labels, int64_t classes, syi_hasher *h)
{
    char **names = NULL;
    int n = 0, found = 0, known = 0;
    SYI_TRY(names_in(m->ctx, dir, &names, &n));
    sy_status s = SY_OK;
    for (int pass = 0; pass < 2 && s == SY_OK; pass++) { /* first: are all names in label2id? */
        int k = 0;
        for (int i = 0; i < n && s == SY_OK; i++) {
            char *sub = names[i][0] == '.' ? NULL : syi_join(m->ctx, dir, names[i]);
            if (sub != NULL && syi_is_dir(sub)) {
                if (pass == 0) found++, known += json_object_get(labels, names[i]) != NULL;
                else {
                    const int64_t label = known == found ? syi_class_of(m->ctx, names[i], labels, classes, dir) : k;
                    if (label < 0) s = SY_E_INPUT;
                    else if (label >= classes) s = syi_fail(m->ctx, SY_E_INPUT, "%s: %d folders, one for each class; the model tells %lld classes apart", dir, found, (long long)classes);
                    else s = add_folder(m, sub, label, h);
                    syi_hasher_add(h, names[i], strlen(names[i]) + 1);
                }
                k++;
            }
            syi_free(m->ctx, sub);
        }
    }
    free_names(m->ctx, names, n);
    if (s == SY_OK && m->n == 0) s = syi_fail(m->ctx, SY_E_INPUT, "%s: no PNG or JPEG files in folders, one folder for each class, were found", dir);
    return s;
}

/* -- IDX ------------------------------------------------------------------------------------------ */

/* A file whole, decompressed if its name ends in .gz. */
static sy_status read_whole(sy_context *ctx, const char *path, uint8_t **out, int64_t *n)
{
    *out = NULL;
    if (!syi_ends(path, ".gz")) return syi_read_file(ctx, path, IDX_MAX, (char **)out, n);
    gzFile z = gzopen(path, "rb");
    if (z == NULL) return syi_fail(ctx, SY_E_IO, "%s: cannot be opened", path);
    int64_t cap = 0;
    sy_status s = SY_OK;
    *n = 0;
    for (;;) {
        void *p = *out;
        s = syi_grow(ctx, &p, &cap, *n + (1 << 20), 1, IDX_MAX);
        *out = p;
        if (s != SY_OK) break;
        const int got = gzread(z, *out + *n, 1 << 20);
        if (got < 0) s = syi_fail(ctx, SY_E_INPUT, "%s: not a whole gzip file", path);
        if (got <= 0) break;
        *n += got;
    }
    gzclose(z);
    if (s != SY_OK) {
        syi_free(ctx, *out);
        *out = NULL;
    }
    return s;
}

static int64_t big32(const uint8_t *p) { return (int64_t)p[0] << 24 | (int64_t)p[1] << 16 | (int64_t)p[2] << 8 | p[3]; }

/* Unsigned bytes of `low` to `high` dimensions that fill the file. */
static sy_status idx_header(sy_context *ctx, const char *path, const uint8_t *p, int64_t n, int low, int high, int64_t *dim)
{
    const int rank = n >= 4 ? p[3] : 0;
    if (n < 4 || p[0] != 0 || p[1] != 0 || p[2] != 8 || rank < low || rank > high || n < 4 + 4 * rank)
        return syi_fail(ctx, SY_E_INPUT, "%s: not an IDX file of unsigned bytes with %d to %d dimensions", path, low, high);
    int64_t count = 1;
    for (int i = 0; i < rank; i++) {
        dim[i] = big32(p + 4 + 4 * i);
        if (dim[i] < 1 || !syi_size_mul(count, dim[i], &count))
            return syi_fail(ctx, SY_E_INPUT, "%s: dimension %d is %lld, at byte %d", path, i, (long long)dim[i], 4 + 4 * i);
    }
    for (int i = rank; i < high; i++) dim[i] = 1;
    if (count == n - 4 - 4 * rank) return SY_OK;
    return syi_fail(ctx, SY_E_INPUT, "%s: its header promises %lld bytes, %lld follow", path, (long long)count, (long long)(n - 4 - 4 * rank));
}

/* The labels' file: "images" and "idx3" in the name become "labels" and "idx1". */
static char *labels_path(sy_context *ctx, const char *path)
{
    char *copy = syi_strdup(ctx, path);
    const char *base = copy != NULL ? syi_basename(copy) : NULL;
    char *a = copy != NULL ? strstr(copy + (base - copy), "images") : NULL, *b = copy != NULL ? strstr(copy + (base - copy), "idx3") : NULL;
    if (a != NULL) memcpy(a, "labels", 6);
    if (b != NULL) b[3] = '1';
    return copy;
}

static sy_status open_idx(images *m, const char *path, int64_t classes, syi_hasher *h)
{
    sy_context *ctx = m->ctx;
    int64_t dim[4], count = 0, n = 0;
    uint8_t *labels = NULL;
    SYI_TRY(read_whole(ctx, path, &m->idx, &m->idx_bytes));
    SYI_TRY(idx_header(ctx, path, m->idx, m->idx_bytes, 3, 4, dim));
    m->shape = (syi_image){dim[1], dim[2], dim[3], NULL};
    if (dim[1] > SYI_IMAGE_SIDE || dim[2] > SYI_IMAGE_SIDE || (dim[3] != 1 && dim[3] != 3))
        return syi_fail(ctx, SY_E_INPUT, "%s: images of %lld x %lld x %lld bytes", path, (long long)dim[1], (long long)dim[2], (long long)dim[3]);
    m->first = m->idx + 4 + 4 * m->idx[3];
    char *other = labels_path(ctx, path);
    if (other == NULL) return SY_E_MEMORY;
    sy_status s = strcmp(other, path) != 0 && syi_exists(other) ? read_whole(ctx, other, &labels, &n)
                                                                : syi_fail(ctx, SY_E_INPUT, "%s: its labels were expected in %s", path, other);
    if (s == SY_OK) s = idx_header(ctx, other, labels, n, 1, 1, &count);
    if (s == SY_OK && count != dim[0]) s = syi_fail(ctx, SY_E_INPUT, "%s: %lld labels for %lld images", other, (long long)count, (long long)dim[0]);
    for (int64_t i = 0; i < count && s == SY_OK; i++) {
        const uint8_t label = labels[8 + i];
        s = label < classes ? add(m, NULL, label) : syi_fail(ctx, SY_E_INPUT, "%s: label %d of image %lld; the model tells %lld classes apart", other, label, (long long)i, (long long)classes);
    }
    if (s == SY_OK) {
        syi_hasher_add(h, m->idx, (size_t)m->idx_bytes);
        syi_hasher_add(h, labels, (size_t)n);
    }
    syi_free(ctx, labels);
    syi_free(ctx, other);
    return s;
}

/* -- CSV ---------------------------------------------------------------------------------------------- */

/* The next field into out[512]; *end: it ends its line. false: no more. Quotes as in RFC 4180. */
static bool csv_field(const char **at, const char *stop, char out[512], bool *end)
{
    const char *p = *at;
    size_t n = 0;
    bool quoted = p < stop && *p == '"';
    if (p >= stop) return false;
    p += quoted;
    for (; p < stop; p++) {
        if (quoted && *p == '"') {
            if (p + 1 < stop && p[1] == '"') p++;
            else {
                quoted = false;
                continue;
            }
        } else if (!quoted && (*p == ',' || *p == '\n' || *p == '\r')) {
            break;
        }
        if (n < 511) out[n++] = *p;
    }
    out[n] = '\0';
    *end = p >= stop || *p != ',';
    if (p < stop && *p == '\r') p++;
    if (p < stop && (*p == ',' || *p == '\n')) p++;
    *at = p;
    return true;
}

static bool among(const char *name, const char *const *list)
{
    for (; *list != NULL; list++)
        if (strcmp(*list, name) == 0) return true;
    return false;
}

static sy_status open_csv(images *m, const char *path, const json_t *labels, int64_t classes, syi_hasher *h)
{
    static const char *const files[] = {"file_name", "filename", "image", "path", "file", NULL}, *const classes_of[] = {"label", "class", "target", NULL};
    sy_context *ctx = m->ctx;
    char *text = NULL, field[512], dir[4096], where[4200];
    int64_t size = 0, line = 1;
    int columns = 0, file_at = -1, label_at = -1;
    bool end = false;
    SYI_TRY(syi_read_file(ctx, path, INT64_C(1) << 30, &text, &size));
    syi_hasher_add(h, text, (size_t)size);
    const char *at = text, *stop = text + size;
    snprintf(dir, sizeof dir, "%.*s", (int)(syi_basename(path) - path), path);
    while (!end && csv_field(&at, stop, field, &end)) {
        if (among(field, files)) file_at = columns;
        if (among(field, classes_of)) label_at = columns;
        columns++;
    }
    sy_status s = file_at >= 0 && label_at >= 0 ? SY_OK : syi_fail(ctx, SY_E_INPUT, "%s:1: a first line with the columns file_name and label was expected", path);
    while (s == SY_OK && at < stop) {
        char file[4800] = "", label[512] = "";
        int column = 0;
        line++;
        for (end = false; !end && csv_field(&at, stop, field, &end); column++) {
            if (column == file_at) snprintf(file, sizeof file, "%s%s", field[0] == '/' ? "" : dir, field);
            if (column == label_at) snprintf(label, sizeof label, "%s", field);
        }
        if (column == 1 && file[0] == '\0' && label[0] == '\0') continue; /* an empty line */
        snprintf(where, sizeof where, "%s:%lld", path, (long long)line);
        if (column != columns) s = syi_fail(ctx, SY_E_INPUT, "%s: %d fields where the first line has %d", where, column, columns);
        const int64_t k = s == SY_OK ? syi_class_of(ctx, label, labels, classes, where) : -1;
        if (s == SY_OK) s = k < 0 ? SY_E_INPUT : add(m, file, k);
    }
    syi_free(ctx, text);
    if (s == SY_OK && m->n == 0) s = syi_fail(ctx, SY_E_INPUT, "%s: it lists no images", path);
    return s;
}

/* -- rows --------------------------------------------------------------------------------------------------- */

static sy_status fill_one(const images *m, sy_context *ctx, int64_t item, float *to)
{
    syi_image image = {0};
    char where[64];
    if (m->path == NULL || m->path[item] == NULL) {
        image = m->shape;
        image.data = (uint8_t *)(uintptr_t)(m->first + item * image.height * image.width * image.channels);
        snprintf(where, sizeof where, "image %lld", (long long)item);
        return syi_image_prepare(ctx, &m->rules, &image, where, to);
    }
    syi_mapped file;
    SYI_TRY(syi_map_file(ctx, m->path[item], &file));
    sy_status s = syi_image_decode(ctx, file.data, file.size, m->path[item], &image);
    if (s == SY_OK) s = syi_image_prepare(ctx, &m->rules, &image, m->path[item], to);
    syi_free(ctx, image.data);
    syi_unmap_file(ctx, &file);
    return s;
}

static sy_status images_batch(void *self, int64_t row, int64_t rows, int which, sy_batch *out)
{
    images *m = self;
    const int64_t size = m->rules.height * m->rules.width * m->rules.channels;
    if (row < 0 || rows < 1 || rows > INT32_MAX || row > INT64_MAX - rows || which < 0 || which >= SLOTS)
        return syi_fail(m->ctx, SY_E_USAGE, "a batch of %lld rows from row %lld in slot %d", (long long)rows, (long long)row, which);
    slot *s = &m->slot[which];
    if (s->cap < rows) {
        syi_free(m->ctx, s->pixels);
        syi_free(m->ctx, s->target);
        *s = (slot){.pixels = syi_alloc(m->ctx, (size_t)(rows * size) * sizeof *s->pixels), .target = syi_alloc(m->ctx, (size_t)rows * sizeof *s->target), .cap = rows};
        if (s->pixels == NULL || s->target == NULL) return s->cap = 0, SY_E_MEMORY;
    }
    for (int64_t i = 0; i < rows; i++) { /* contexts are not shared between threads: one at a time */
        int64_t item;
        SYI_TRY(syi_labelled_at(&m->labelled, row + i, &item));
        s->target[i] = m->label[item];
        SYI_TRY(fill_one(m, m->ctx, item, s->pixels + i * size));
    }
    *out = (sy_batch){.rows = rows, .seq = 1, .tokens = rows, .target = s->target, .samples = rows, .trained = rows, .pixels = s->pixels,
                      .height = m->rules.height, .width = m->rules.width, .channels = m->rules.channels};
    return SY_OK;
}

sy_status syi_images_open(sy_context *ctx, const char *path, const syi_image_rules *rules, const json_t *labels, int64_t classes, const sy_dataset_options *o, sy_dataset **out)
{
    static const syi_dataset_ops ops = {images_batch, images_free};
    *out = NULL;
    images *m = syi_calloc(ctx, 1, sizeof *m);
    syi_hasher *h = NULL;
    sy_dataset_info info = {.format = "images"};
    if (m == NULL) return SY_E_MEMORY;
    m->ctx = ctx;
    m->rules = *rules;
    sy_status s = syi_arena_new(ctx, 64 << 10, &m->arena);
    if (s == SY_OK) s = syi_hasher_new(ctx, &h);
    if (s == SY_OK && !syi_exists(path)) s = syi_fail(ctx, SY_E_INPUT, "%s: no such file or folder", path);
    if (s == SY_OK) {
        if (syi_is_dir(path)) s = open_folder(m, path, labels, classes, h), info.format = "image folder";
        else if (syi_ends(path, ".csv")) s = open_csv(m, path, labels, classes, h), info.format = "image list";
        else s = open_idx(m, path, classes, h), info.format = "idx";
    }
    if (h != NULL) {
        for (int64_t i = 0; s == SY_OK && i < m->n && m->path[i] != NULL; i++) { /* what is in the files counts, too */
            syi_mapped file;
            s = syi_map_file(ctx, m->path[i], &file);
            if (s != SY_OK) break;
            syi_hasher_add(h, file.data, (size_t)file.size);
            syi_unmap_file(ctx, &file);
        }
        syi_hash_text(info.hash, syi_hasher_end(h));
    }
    if (s == SY_OK) s = syi_labelled_init(ctx, m->n, o, &m->labelled);
    info.documents = info.tokens = info.trained_tokens = info.rows_per_epoch = m->labelled.n;
    if (s == SY_OK) s = syi_dataset_of(ctx, &ops, m, &info, out);
    if (s != SY_OK) images_free(m);
    return s;
}
