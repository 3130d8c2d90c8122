/* SPDX-License-Identifier: Apache-2.0 */
/* Tiled attention of f32 (and of bf16 through f32) with NEON. */
#define TILE_PAIRS 0
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

const syi_attend_path syi_attend_neon = {scratch, forward, tile_backward};
