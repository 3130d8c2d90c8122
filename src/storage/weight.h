/* SPDX-License-Identifier: Apache-2.0 */
/* Weights outside a model: made by solvers, read from files, written to them. Internal. */
#ifndef SYI_WEIGHT_H
#define SYI_WEIGHT_H

#include "base/base.h"
#include "steelyard/method.h"

extern const sy_storage sy_storage_dense, sy_storage_packed, sy_storage_factored, sy_storage_binary;

/* A weight that owns its slots (syi_alloc); they are for the caller to fill, then
 * type->prepare makes it ready. */
sy_status syi_weight_new(sy_context *ctx, const sy_storage *type, int64_t out, int64_t in, sy_weight **w);
sy_status syi_weight_slot(sy_context *ctx, sy_weight *w, int slot, sy_dtype dtype, int rank, const int64_t *dim);
void syi_weight_free(sy_context *ctx, sy_weight *w); /* slots, fast, itself; NULL is fine */
/* Bytes of the slots. */
int64_t syi_weight_bytes(const sy_weight *w);
/* The number of slots that a storage may have in files. */
int syi_storage_slots(const sy_storage *s);
/* The storage of which `tensors` holds a weight of that module, or NULL. */
const sy_storage *syi_storage_find(const sy_checkpoint *tensors, const char *module);
/* Slots from the file: borrowed from its map where they are aligned, else copied by `copy`
 * (memory that the caller frees). Not prepared. *used: tensors read. */
sy_status syi_weight_load(sy_context *ctx, const sy_checkpoint *tensors, const char *module, const sy_storage *type, int64_t out, int64_t in,
                          sy_status (*copy)(void *self, int64_t bytes, void **out), void *self, sy_weight *w, int64_t *used);

/* -- packed.c: uniform grids ------------------------------------------------------------ */
/* w = scale (code - zero), groups of `group` inputs. Slots as in files:
 *   .codes    U8 [out, bytes]: a row's codes as a string of bits, lowest first, each row
 *             begun at a byte
 *   .scales   F16 [out, groups]
 *   .zeros    U8 [out, groups]
 *   .packing  I32 [4]: bits, inputs of a group, in, 0
 *   .order    I32 [in], optional: code k of a row belongs to input order[k] (groups follow
 *             the codes) */
enum { SYI_PACKED_CODES, SYI_PACKED_SCALES, SYI_PACKED_ZEROS, SYI_PACKED_PACKING, SYI_PACKED_ORDER };
typedef struct { int bits; int64_t group, groups, row_bytes; } syi_packed_shape;
/* Slots of zeros; `group` <= 0: one a row. */
sy_status syi_weight_packed(sy_context *ctx, int64_t out, int64_t in, int bits, int64_t group, bool order, sy_weight **w);
syi_packed_shape syi_packed_shape_of(const sy_weight *w);
void syi_packed_put(sy_weight *w, int64_t row, const uint8_t *codes);       /* [in], in the order of storage */
void syi_packed_get(const sy_weight *w, int64_t row, uint8_t *codes);

/* -- factored.c: W = V U ------------------------------------------------------------------ */
/* Slots .u [k, in], and .v [out, k] (nnz < 0) or .v_values [nnz] with .v_bitmap U8 [out, bytes],
 * bit i of a row's bytes: column i of V. dtype F32 or BF16. */
sy_status syi_weight_factored(sy_context *ctx, int64_t out, int64_t in, int64_t k, int64_t nnz, sy_dtype dtype, sy_weight **w);
/* u[k, in], v[out, k] (zeros are not stored in the sparse form; their number must fit). */
sy_status syi_factored_fill(sy_context *ctx, sy_weight *w, const float *u, const float *v);

/* -- binary.c: sums of +-alpha ------------------------------------------------------------- */
/* Slots: .planes U8 [bits, out, bytes], bit i of a row: input i, 1 is +; the alphas of patches of
 * `rows` x `cols`, patches of inputs first: .alpha F16 [patches, bits] (terms 0), or .alpha_exp
 * I8 [patches, bits, terms] (-128: no term) with .alpha_sign (a bit a term, 1 is -); .patch. */
typedef struct { int bits, terms; int64_t rows, cols; } syi_binary_shape;
sy_status syi_weight_binary(sy_context *ctx, int64_t out, int64_t in, const syi_binary_shape *s, sy_weight **w); /* all - */
syi_binary_shape syi_binary_shape_of(const sy_weight *w);
int64_t syi_binary_patches(const syi_binary_shape *s, int64_t out, int64_t in);
void syi_binary_put(sy_weight *w, int bit, int64_t row, int64_t col, bool plus);
sy_status syi_binary_alpha(sy_context *ctx, sy_weight *w, int64_t patch, int bit, float alpha);
/* v as a sum of signed powers of two; returns that sum. */
double syi_apot(double v, int terms, int8_t *exponent, bool *minus);

#endif
