/* SPDX-License-Identifier: Apache-2.0 */
/* Weights on a uniform grid of 2, 3, 4 or 8 bits, as products read them. Internal.
 *
 * w[r, k] = scale[r, k / group] * code + offset[r, k / group]. The codes of a row lie in
 * 64 lanes of 8 bits: lane l of position p is input 64 p + l, and a lane's codes follow one
 * another as a string of bits in bytes, so that 64 consecutive inputs are a shift and a
 * mask of one vector of bytes (of 3 bits sometimes two). Vectors of four rows lie side by
 * side: a product reads memory from one end to the other. */
#ifndef SYI_PACKED_H
#define SYI_PACKED_H

#include "tensor/kernels.h"

enum { SYI_LANES = 64, SYI_PITCH = 4 * SYI_LANES /* from a vector of a row to its next */ };

typedef struct {
    int bits;
    int64_t out, in, group;  /* group: a multiple of 32; the last one of a row may be short */
    int64_t groups;          /* of a row                                                */
    int64_t padded, words;   /* in, rounded up to SYI_LANES; bytes of a row              */
    uint8_t *code;           /* [out / 4, words / 64, 4, 64], the last four filled up with zeros */
    float *scale, *offset;   /* [out, groups]                                           */
} syi_packed;

/* Where vector `word` (a multiple of SYI_LANES bytes) of a row lies in `code`. */
static inline int64_t syi_packed_at(const syi_packed *p, int64_t row, int64_t word) { return row / 4 * 4 * p->words + row % 4 * SYI_LANES + word * 4; }

/* A few rows of x as a CPU path's product wants them (cpu->packed_in), what one of its units
 * is worth and the sums of x, both by groups: [m, groups]. */
typedef struct { const void *x; float *unit, *sums; } syi_packed_in;

/* Memory for out x in; everything zero. SY_E_USAGE for a group that is no multiple of 32. */
sy_status syi_packed_new(sy_context *ctx, int64_t out, int64_t in, int bits, int64_t group, syi_packed *p);
void syi_packed_free(sy_context *ctx, syi_packed *p);
/* Codes of one row, one byte each, into lanes. */
void syi_packed_row(syi_packed *p, int64_t row, const uint8_t *codes);
/* Rows [row, row+n) as f32 [n, in]. */
void syi_packed_dense(syi_engine *e, const syi_packed *p, int64_t row, int64_t n, float *dst);

/* A weight that is not dense, as products see it: rows decoded to f32, and, if it has one,
 * a product of its own for a few rows of x. Both are called from one thread each. */
typedef struct {
    const void *self;
    int64_t out, in;
    sy_status (*rows)(syi_engine *e, const void *self, int64_t row, int64_t n, float *dst);
    /* y[m, out] = x[m, in] W^T for m <= SYI_FEW; uses threads itself. NULL: rows are decoded. */
    sy_status (*few)(syi_engine *e, const void *self, int64_t m, const float *x, float *y);
} syi_stored;
enum { SYI_FEW = 4 };
sy_status syi_packed_few(syi_engine *e, const void *packed, int64_t m, const float *x, float *y);
/* y[m, out] = x[m, in] W^T + beta y, or with `transposed` y[m, in] = x[m, out] W. */
sy_status syi_gemm_stored(syi_engine *e, int64_t m, sy_dtype dt, const void *x, const syi_stored *w, bool transposed, double beta, void *y);

#endif
