/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints: named tensors in files, and the folders around them.
 *
 * Reading is a view: files are mapped, nothing is converted until rows are
 * asked for, so memory does not grow with the model. Writing is a stream: all
 * tensors are declared, then filled in any order, and the file appears under
 * its name complete or not at all. */
#ifndef STEELYARD_CHECKPOINT_H
#define STEELYARD_CHECKPOINT_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* -- named tensors ------------------------------------------------------- */

typedef struct {
    const char *name;    /* as the format says, or Hugging Face's name (model) */
    sy_dtype dtype;
    int rank;
    int64_t dim[SY_MAX_RANK];
    const void *data;    /* mapped bytes, maybe UNALIGNED; rows maybe permuted */
    int64_t bytes;
    int permute_heads;   /* > 0: rows are stored in GGUF's q/k order for that
                            many heads; sy_entry_read undoes it                */
    bool transposed;     /* rank 2, dim is [out,in], the bytes are [in,out] (GPT-2's Conv1D);
                            sy_entry_read undoes it                            */
    float shift;         /* added to every number when it is read (norms that one
                            format stores as their distance from 1)            */
    const char *file;    /* which file it lies in, for messages                */
} sy_entry;

typedef struct sy_checkpoint sy_checkpoint;

/* One .safetensors file, a folder with model.safetensors or
 * model.safetensors.index.json (or adapter_model.safetensors), or one .gguf.
 * Strict: SY_E_INPUT for headers that lie (sizes, holes, overlaps, duplicates,
 * overflow, truncation), with file and tensor named. */
sy_status sy_checkpoint_open(sy_context *ctx, const char *path, sy_checkpoint **out);
void sy_checkpoint_close(sy_checkpoint *ck);
int64_t sy_checkpoint_count(const sy_checkpoint *ck);
const sy_entry *sy_checkpoint_at(const sy_checkpoint *ck, int64_t i);
const sy_entry *sy_checkpoint_find(const sy_checkpoint *ck, const char *name);
/* "__metadata__" of safetensors, or a GGUF string value; NULL if absent. */
const char *sy_checkpoint_meta(const sy_checkpoint *ck, const char *key);

/* Rows [row, row+n) in Hugging Face order, as f32 / converted to `dtype` (one
 * rounding; same type: bytes unchanged). A tensor of rank 1 is one row; of rank
 * > 2 its leading dimensions are rows. dst holds n * cols numbers. */
sy_status sy_entry_read_f32(sy_context *ctx, const sy_entry *e, int64_t row, int64_t n, float *dst);
sy_status sy_entry_read(sy_context *ctx, const sy_entry *e, sy_dtype dtype, int64_t row, int64_t n, void *dst);

/* -- writing safetensors -------------------------------------------------- */

typedef struct sy_writer sy_writer;

/* One file, or shards of at most shard_bytes (0: one file) named
 * BASE-00001-of-0000N.safetensors with BASE.safetensors.index.json, when path
 * ends in "BASE.safetensors". */
sy_status sy_writer_new(sy_context *ctx, const char *path, int64_t shard_bytes, sy_writer **out);
/* Before sy_writer_begin. Default metadata is {"format":"pt"}. */
sy_status sy_writer_meta(sy_writer *w, const char *key, const char *value);
sy_status sy_writer_declare(sy_writer *w, const char *name, sy_dtype dtype, int rank, const int64_t *dim);
sy_status sy_writer_begin(sy_writer *w); /* header written, space reserved */
/* Rows [row, row+n) of a declared tensor, already in its type; any order. */
sy_status sy_writer_put(sy_writer *w, const char *name, int64_t row, int64_t n, const void *data);
/* Every byte must have been put: otherwise SY_E_BUG. Syncs, renames, frees. */
sy_status sy_writer_end(sy_writer *w);
void sy_writer_abort(sy_writer *w); /* frees; nothing is left; NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
