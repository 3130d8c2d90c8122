/* SPDX-License-Identifier: Apache-2.0 */
/* The loops of mix.h for AVX512. */
#include "tensor/mix_body.h"

const syi_mix syi_mix_avx512 = MIX_TABLE("avx512");
