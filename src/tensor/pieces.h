/* SPDX-License-Identifier: Apache-2.0 */
/* How long flat work and rows are cut: pieces of sizes that depend on shapes only, so
 * that every number is made by the same instructions however many threads there are. */
#ifndef SYI_PIECES_H
#define SYI_PIECES_H

#include "tensor/engine.h"

#include <omp.h>

enum { SYI_PIECE = 8192 }; /* numbers: 32 KiB of f32, what a first-level cache holds */

/* Index into the table of CPU paths, or -1. */
static inline int syi_type(sy_dtype dt)
{
    return dt == SY_F32 ? SYI_T_F32 : dt == SY_BF16 ? SYI_T_BF16 : dt == SY_F64 ? SYI_T_F64 : -1;
}

/* Which thread of the team this is. */
static inline int64_t syi_thread(void)
{
    return omp_get_thread_num();
}

/* The error for a type that has no kernel. */
sy_status syi_no_type(const syi_engine *e, const char *what, sy_dtype dt);

/* Rows of a piece: about SYI_PIECE numbers. */
static inline int64_t syi_piece_rows(int64_t cols)
{
    return syi_max(1, SYI_PIECE / syi_max(1, cols));
}

/* Rows of a piece whose column sums are kept apart: at most 64 pieces. */
static inline int64_t syi_sum_rows_piece(int64_t rows)
{
    return syi_max(32, syi_ceil_div(rows, 64));
}

/* for (first, count) over pieces of `size` of `total`, in parallel when it pays. */
#define SYI_CUT(e, total, size, first, count, ...)                                                      \
    do {                                                                                                \
        const int64_t all_ = (total), size_ = (size), pieces_ = syi_ceil_div(all_, size_);              \
        const int threads_ = (int)syi_min(syi_omp((e)->ctx), pieces_);                                  \
        _Pragma("omp parallel for schedule(static) num_threads(threads_) if (threads_ > 1)")            \
        for (int64_t piece_ = 0; piece_ < pieces_; piece_++) {                                          \
            const int64_t first = piece_ * size_, count = syi_min(size_, all_ - first);                 \
            __VA_ARGS__                                                                                 \
        }                                                                                               \
    } while (0)

/* x[i] of elements of `size` bytes. */
static inline const void *syi_at(const void *x, int64_t i, int64_t size)
{
    return x == NULL ? NULL : (const char *)x + i * size;
}

static inline void *syi_to(void *x, int64_t i, int64_t size)
{
    return x == NULL ? NULL : (char *)x + i * size;
}

/* Adds part[pieces][cols] (type t: f32 or f64) in a fixed tree, then to sum[cols]. */
void syi_tree_add(syi_engine *e, int t, void *part, int64_t pieces, int64_t cols, void *sum);

#endif
