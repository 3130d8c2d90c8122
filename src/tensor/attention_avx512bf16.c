/* SPDX-License-Identifier: Apache-2.0 */
/* Tiled attention of bf16 with AVX-512's bf16 dot products. */
#define TILE_PAIRS 1
#include "tensor/attention_tile.h"

#include "tensor/attention_backward.h"
#include "tensor/attention_decode.h"
#include "tensor/attention_forward.h"

static int64_t scratch(const syi_attend *a, int64_t n_keys, bool backward)
{
    return backward ? tile_scratch_backward(a) : decode_fits(a) ? decode_scratch(a, n_keys) : tile_scratch_forward(a, n_keys);
}

static void forward(const syi_attend *a)
{
    if (decode_fits(a)) tile_decode(a);
    else tile_forward(a);
}

const syi_attend_path syi_attend_avx512bf16 = {scratch, forward, tile_backward};
