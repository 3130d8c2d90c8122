/* SPDX-License-Identifier: Apache-2.0 */
/* The cross-entropy's row passes with AVX2. */
#include "tensor/cross_entropy_rows.h"

const syi_softmax_path syi_softmax_avx2 = {rows_exp, rows_add};
