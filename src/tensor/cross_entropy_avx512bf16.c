/* SPDX-License-Identifier: Apache-2.0 */
/* The cross-entropy's row passes with AVX-512 and its bf16 conversions. */
#include "tensor/cross_entropy_rows.h"

const syi_softmax_path syi_softmax_avx512bf16 = {rows_exp, rows_add};
