/* SPDX-License-Identifier: Apache-2.0 */
/* Running a tape: making graphs, planning, backward, profiling. Internal. */
#ifndef SYI_GRAPH_H
#define SYI_GRAPH_H

#include "base/base.h"
#include "steelyard/graph.h"

/* -- heap.c: the step heap ------------------------------------------------------------ */
/* Best-fit over one range of addresses. Without memory behind it (plan) it hands out
 * offsets only, so the plan's high-water mark is the size that the real one needs. */
typedef struct syi_heap syi_heap;
sy_status syi_heap_new(sy_context *ctx, syi_heap **out);
void syi_heap_free(syi_heap *h);
/* Reserves the memory: after this allocations have data. */
sy_status syi_heap_reserve(syi_heap *h, int64_t bytes);
/* Offset of a block (64-byte aligned), or -1 with the error set. */
int64_t syi_heap_take(syi_heap *h, int64_t bytes);
void syi_heap_give(syi_heap *h, int64_t offset);
void *syi_heap_at(const syi_heap *h, int64_t offset); /* NULL without memory */
int64_t syi_heap_peak(const syi_heap *h);   /* high-water mark since reset          */
int64_t syi_heap_used(const syi_heap *h);
int64_t syi_heap_size(const syi_heap *h);   /* reserved                            */
void syi_heap_reset(syi_heap *h);           /* everything given back                */

/* -- graph.c ------------------------------------------------------------------------------ */
typedef struct {
    sy_dtype dtype;      /* of activations: F32, BF16, F64                               */
    bool training;       /* a backward follows                                          */
    bool planning;       /* shapes only                                                 */
    int recompute_blocks;/* the first N blocks are recomputed in backward; -1: all       */
    uint64_t seed;       /* noise of this forward: keyed by seed and step               */
    int64_t step;
    struct syi_profile *profile; /* NULL: off                                           */
    void *cache;         /* decoding: key/value cache (struct syi_kv_cache *), or NULL   */
    void *user;          /* the run                                                     */
} syi_graph_options;

/* heap is borrowed; nodes live in the graph until syi_graph_reset. */
sy_status syi_graph_new(sy_context *ctx, syi_engine *engine, syi_heap *heap, sy_graph **out);
void syi_graph_free(sy_graph *g);
/* Ready for the next forward: all nodes gone, heap reset, sticky status cleared. */
void syi_graph_reset(sy_graph *g, const syi_graph_options *options);
/* Backward from a loss (a scalar root) with gradient `seed`; frees values as it goes. */
sy_status syi_graph_backward(sy_graph *g, sy_node *loss, double seed);
syi_engine *syi_graph_engine(const sy_graph *g);
void *syi_graph_cache(const sy_graph *g);
void *syi_graph_user(const sy_graph *g);
/* Zeroed memory that lives as long as the step, outside the heap: index arrays of builders.
 * NULL after a failure. Not inside of a block that may be recomputed. */
int32_t *syi_graph_ints(sy_graph *g, int64_t n);
int64_t syi_graph_nodes(const sy_graph *g);
/* Keeps a value until the graph is reset (an output that the caller reads). */
void syi_node_hold(sy_node *n);
/* Aux tensor i of a node (per-token losses of head_loss); NULL in plan mode. Call
 * before the end of the scope it was made in, or hold the node. */
const sy_tensor *syi_node_aux(const sy_node *n, int i);

/* -- profile.c ------------------------------------------------------------------------------ */
typedef struct syi_profile syi_profile;
sy_status syi_profile_new(sy_context *ctx, syi_profile **out);
void syi_profile_free(syi_profile *p);
void syi_profile_add(syi_profile *p, const char *op, bool backward, double begin, double seconds, double flops, double bytes);
/* Table of ops (time, share, GF/s, GB/s); `limit` in FLOP/s gives the share of it. */
void syi_profile_table(const syi_profile *p, double limit, syi_text *out);
/* Counted work, and the seconds from the first operation to the last (0 without any). */
double syi_profile_flops(const syi_profile *p, double *seconds);
/* Chrome trace (chrome://tracing, Perfetto). */
sy_status syi_profile_trace(const syi_profile *p, const char *path);

#endif
