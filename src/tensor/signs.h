/* SPDX-License-Identifier: Apache-2.0 */
/* Products with +-1 codes by look-up (T-MAC's order of work; ShiftAddLLM's weights). Internal.
 *
 * For four inputs and one bit plane there are 16 signed sums; scaled by the plane's alpha
 * they fit a register of 16 numbers, and the codes of 32 rows pick from it: no product per
 * weight. Rows of a patch share their alphas, so patches are tiles of 32 rows here. */
#ifndef SYI_SIGNS_H
#define SYI_SIGNS_H

#include "tensor/kernels.h"

enum { SYI_SIGN_ROWS = 32, SYI_SIGN_COLS = 4 };

typedef struct {
    int bits;
    int64_t out, in, rows, cols;   /* rows, cols: of a patch                               */
    int64_t tiles, quads;          /* of 32 rows; of 4 inputs                              */
    /* [tiles][quads][bits][16]: byte i: row i in the low four bits, row i + 16 in the high */
    uint8_t *code;                 /* NULL: patches are not whole tiles, rows are decoded   */
    const float *alpha;            /* [patches of inputs][patches of rows][bits], borrowed   */
} syi_signs;

/* planes [bits][out][ceil(in / 8)] as the binary storage has them. */
sy_status syi_signs_new(sy_context *ctx, int64_t out, int64_t in, int bits, int64_t rows, int64_t cols, const uint8_t *planes, const float *alpha, syi_signs *s);
void syi_signs_free(sy_context *ctx, syi_signs *s);
/* y[m, out] = x[m, in] W^T, m <= 4. */
sy_status syi_signs_few(syi_engine *e, const syi_signs *s, int64_t m, const float *x, float *y);

#endif
