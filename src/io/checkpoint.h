/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of a checkpoint: the list of named tensors that the readers of
 * safetensors, GGUF and model folders fill. For src/io only. */
#ifndef SYI_CHECKPOINT_H
#define SYI_CHECKPOINT_H

#include "io.h"

enum { SYI_NAME_MAX = 4096 };            /* bytes of a tensor's name            */
/* Numbers from which conversion is shared among threads. One thread does a thousand
 * million a second, about what memory gives; less is not worth waking the others. */
enum { SYI_PARALLEL_FROM = 1 << 22 };
#define SYI_TENSORS_MAX ((int64_t)1 << 24)

struct sy_checkpoint {
    sy_context *ctx;
    char *path;
    syi_arena *arena;         /* names and strings                              */
    sy_entry *entry;
    int64_t n, cap;
    syi_map *names;           /* name -> index                                  */
    syi_mapped *file;         /* what the entries point into                    */
    int64_t files, file_cap;
    struct syi_meta { const char *key, *value; } *meta;
    int64_t metas, meta_cap;
    syi_gguf *gguf;           /* owned; NULL: safetensors                       */
};

sy_status syi_checkpoint_new(sy_context *ctx, const char *path, sy_checkpoint **out);
/* Adds a tensor; name and file are copied. A name that is there already is
 * SY_E_INPUT. Checks nothing else. */
sy_status syi_checkpoint_add(sy_checkpoint *ck, const sy_entry *e);
/* Another name for tensor i; it is still found under the old one. */
sy_status syi_checkpoint_rename(sy_checkpoint *ck, int64_t i, const char *name);
/* The first value of a key stays. */
sy_status syi_checkpoint_add_meta(sy_checkpoint *ck, const char *key, const char *value);
/* safetensors.c: maps one file and adds its tensors, in the order of their
 * bytes. */
sy_status syi_safetensors_load(sy_checkpoint *ck, const char *path);
/* Numbers and bytes of a shape, checked for overflow: false if too large, a
 * dimension is negative, or the last one is no multiple of the block. */
bool syi_shape_bytes(sy_dtype dtype, int rank, const int64_t *dim, int64_t *count, int64_t *bytes);
/* Rows and columns as sy_entry_read counts them. */
int64_t syi_entry_rows(const sy_entry *e);
int64_t syi_entry_cols(const sy_entry *e);
/* Where row `row` lies among the rows of a matrix as stored (GGUF permutes some). */
int64_t syi_entry_stored_row(const sy_entry *e, int64_t row);
/* "[576, 1536]" for messages. */
char *syi_shape_text(char buf[128], int rank, const int64_t *dim);
/* Is it UTF-8 without NUL? */
bool syi_utf8_ok(const char *s, size_t n);

/* Writing that can be taken up again (before sy_writer_begin): the files have their names
 * from the start, so the folder around them must be what appears at once. */
void syi_writer_in_place(sy_writer *w);
/* Where a declared tensor lies, to be written with syi_file_put; counts as put. */
sy_status syi_writer_place(sy_writer *w, const char *name, syi_file **file, int64_t *at);
sy_status syi_writer_sync(sy_writer *w);

#endif
