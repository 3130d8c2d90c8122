/* SPDX-License-Identifier: Apache-2.0 */
/* Products with +-1 codes by look-up (T-MAC's order of work; ShiftAddLLM's weights). Internal.
 *
 * For four inputs there are 16 signed sums, whatever the row and the bit plane: rows pick
 * from them, no product per weight. Two layouts:
 *
 * - Patches of 8 inputs or more. The sums are integers of 16 bits in two digits, so that the
 *   tables of 8 inputs fill one vector register, and all planes of all rows of a tile pick
 *   from it. What was picked adds up exactly; a patch's alpha is applied to its total.
 * - Patches of one input. Alphas go into the sums, in f32, for each patch of rows. */
#ifndef SYI_SIGNS_H
#define SYI_SIGNS_H

#include "tensor/kernels.h"

enum {
    SYI_SIGN_ROWS = 32, SYI_SIGN_COLS = 4,      /* of a tile with alphas in its tables   */
    SYI_SIGN_TILE = 16, SYI_SIGN_STEP = 8,      /* of a tile with shared tables          */
    SYI_SIGN_SPAN = 128,                        /* inputs whose tables have one unit     */
    SYI_SIGN_HIGH = 255                         /* what the high digit counts            */
};

typedef struct {
    int bits;
    int64_t out, in, rows, cols;   /* rows, cols: of a patch                               */
    bool shared;                   /* the first layout                                     */
    int64_t tiles, steps;          /* of 16 rows, 8 inputs; or of 32 rows, 4 inputs         */
    /* shared: [tiles][steps][16 bits] bytes. Planes in fours, for each four (a last one may
     * have fewer) row pairs, planes, the two rows: a byte is 8 inputs, the first lowest.
     * Else [tiles][steps][bits][16]: byte i: row i in the low four bits, row i + 16 above. */
    uint8_t *code;                 /* NULL: patches are not whole tiles, rows are decoded   */
    const float *alpha;            /* [patches of inputs][patches of rows][bits], borrowed   */
    float *scale;                  /* shared: [tiles][patches of inputs][bits][1, or 16 rows if each has its own] */
} syi_signs;

/* Tables of one row of x: `digit` [steps][64], 16 sums each: first four inputs' low and high
 * digits, last four's; `unit` [spans]. */
typedef struct { int8_t *digit; float *unit; } syi_signs_in;

/* planes [bits][out][ceil(in / 8)] as the binary storage has them. */
sy_status syi_signs_new(sy_context *ctx, int64_t out, int64_t in, int bits, int64_t rows, int64_t cols, const uint8_t *planes, const float *alpha, syi_signs *s);
void syi_signs_free(sy_context *ctx, syi_signs *s);
/* y[m, out] = x[m, in] W^T, m <= 4. */
sy_status syi_signs_few(syi_engine *e, const syi_signs *s, int64_t m, const float *x, float *y);

#endif
