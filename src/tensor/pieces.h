/* SPDX-License-Identifier: Apache-2.0 */
/* How long flat work is cut: pieces of a fixed size, whatever the threads, so that
 * every number is made by the same instructions in any run. */
#ifndef SYI_PIECES_H
#define SYI_PIECES_H

#include "tensor/engine.h"

#include <omp.h>

enum { SYI_PIECE = 8192 }; /* numbers: 32 KiB of f32, half of a first-level cache */

/* for (first, count) over pieces of n numbers, in parallel when it pays. */
#define SYI_PIECES(e, total, first, count, body)                                                        \
    do {                                                                                                \
        int64_t pieces_ = syi_ceil_div(total, SYI_PIECE);                                               \
        int threads_ = (int)syi_min(syi_omp((e)->ctx), pieces_);                                        \
        _Pragma("omp parallel for schedule(static) num_threads(threads_) if (threads_ > 1)")            \
        for (int64_t piece_ = 0; piece_ < pieces_; piece_++) {                                          \
            int64_t first = piece_ * SYI_PIECE, count = syi_min(SYI_PIECE, (total) - first);            \
            body                                                                                        \
        }                                                                                               \
    } while (0)

#endif
