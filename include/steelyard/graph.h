/* SPDX-License-Identifier: Apache-2.0 */
/* The tape: ops, nodes, graphs.
 *
 * A graph is an eager tape: building a node computes it. In plan mode the same
 * building code runs with shapes only (every node's data is NULL), which gives
 * the peak of the step memory before any work is done. Building is sticky:
 * after a failure every call returns NULL-safe nothing and sy_graph_status tells
 * what happened, so build freely and check once.
 *
 * Values live in the step heap, which is planned: the sequence of allocations is
 * the same in plan mode and in earnest. A value is released as early as it can
 * be: at the end of the scope it was made in (sy_block), unless it is the scope's
 * result or some op's backward keeps it; kept values go when that backward has
 * run. Cheap ops (flag SY_OP_CHEAP) are not kept at all but computed again. */
#ifndef STEELYARD_GRAPH_H
#define STEELYARD_GRAPH_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sy_graph sy_graph;
typedef struct sy_node sy_node;
typedef struct sy_param sy_param;
typedef struct sy_op sy_op;
struct sy_op_case;
typedef struct syi_engine syi_engine; /* products, threads, CPU dispatch */

enum { SY_OP_MAX_IN = 8, SY_OP_MAX_AUX = 4, SY_OP_MAX_OUT = 4 };

/* One call of an op: what its functions see.
 *
 * forward fills out (and aux, which is kept for backward). backward reads dout
 * and whatever it asked to keep, and writes din[i] where want[i]: din[i] = ... if
 * !add[i], din[i] += ... if add[i]. din[i] has the dtype of in[i], except for a
 * trained parameter's gradient, which is f32 (f64 in an f64 graph) and always
 * added to. An input that has not been kept has data NULL in backward. */
typedef struct {
    sy_context *ctx;
    syi_engine *engine;
    sy_graph *graph;
    const void *attr;               /* op's attributes, copied at sy_call      */
    int n_in;
    const sy_tensor *in[SY_OP_MAX_IN];
    sy_tensor *out;
    sy_tensor *aux[SY_OP_MAX_AUX];
    const sy_tensor *dout;
    sy_tensor *din[SY_OP_MAX_IN];   /* forward: a trained parameter's gradient (added to),
                                       for ops that make it while they are at it; else NULL */
    bool want[SY_OP_MAX_IN];        /* forward: will a gradient be asked for?   */
    bool add[SY_OP_MAX_IN];
    bool training;                  /* forward: a backward will follow          */
    bool in_place;                  /* forward: out->data is in[0]->data        */
} sy_op_call;

enum {
    SY_OP_CHEAP = 1,    /* computed again in backward rather than kept          */
    SY_OP_IN_PLACE = 2, /* out may take over in[0]'s memory (same bytes), when
                           nobody keeps in[0]; in[0] may not be used afterwards */
    SY_OP_ROOT = 4,     /* a loss: backward may start here                      */
    SY_OP_PASSES = 8    /* in[0]'s gradient is dout itself: when in[0] has none yet,
                           din[0]->data is dout->data and there is nothing to do */
};

/* One row: everything about one op in one place (src/graph/op_*.c). */
struct sy_op {
    const char *name;
    const char *no_grad;   /* why backward is NULL; NULL if there is a backward */
    int min_in, max_in;
    unsigned flags;
    /* Sets dtype, rank, dim of out and of n_aux aux tensors, checks the inputs. */
    sy_status (*shape)(sy_op_call *c, int *n_aux);
    sy_status (*forward)(sy_op_call *c);
    sy_status (*backward)(sy_op_call *c);
    /* Which of in[0..7] (bits 0-7) and out (bit 8) backward will read, given
     * which inputs want a gradient (bits). NULL: all inputs. */
    unsigned (*keep)(const sy_op_call *c, unsigned want);
    /* Bytes of scratch that forward / backward take from the step heap. NULL: 0.
     * They get it with sy_scratch. */
    int64_t (*scratch)(const sy_op_call *c, bool backward);
    double (*flops)(const sy_op_call *c, bool backward); /* counted work; NULL: 0 */
    double (*traffic)(const sy_op_call *c, bool backward); /* bytes; NULL: in+out */
    /* For the gradient test, which runs every row in f64 against central
     * differences and in f32/bf16 against f64: makes case number `i` (inputs
     * filled by the test with normal numbers unless made here), false: no more. */
    bool (*test)(int i, struct sy_op_case *out);
};

typedef struct sy_op_case {
    const char *what;
    int n_in;
    struct { sy_dtype dtype; int rank; int64_t dim[SY_MAX_RANK]; bool grad; double scale, shift; } in[SY_OP_MAX_IN];
    const void *attr;
    size_t attr_size;
    double tol_f32, tol_bf16;  /* relative (Frobenius), 0: 2e-5 and 2e-2        */
} sy_op_case;

/* The scratch that c's op asked for (step heap, uninitialised), NULL in plan. */
void *sy_scratch(const sy_op_call *c);

/* -- building ---------------------------------------------------------------- */
/* attr (attr_size bytes) is copied. Never fails visibly: see sy_graph_status. */
sy_node *sy_call(sy_graph *g, const sy_op *op, sy_node *const *in, int n_in, const void *attr, size_t attr_size);
/* A value that gets no gradient; t->data must outlive the step. */
sy_node *sy_const(sy_graph *g, const sy_tensor *t);
/* A parameter: its value in the graph's compute type; gradients go to it. */
sy_node *sy_leaf(sy_graph *g, sy_param *p);
/* A value that the caller provides and wants the gradient of (input gradients,
 * tests). `grad` may be NULL; otherwise same shape, added to. */
sy_node *sy_input(sy_graph *g, const sy_tensor *t, sy_tensor *grad);
/* Same value, no gradient passes. */
sy_node *sy_detach(sy_graph *g, sy_node *x);
/* hard's value, soft's gradient (straight-through). */
sy_node *sy_ste(sy_graph *g, sy_node *hard, sy_node *soft);
/* NULL in plan mode, and after a failure. Valid until the node is released. */
const sy_tensor *sy_value(const sy_node *n);
/* dtype and shape: in plan mode too. NULL only after a failure. */
const sy_tensor *sy_shape(const sy_node *n);
bool sy_needs_grad(const sy_node *n);

/* A scope: runs body(g, self, in, n) and returns its result; everything else it
 * made is released as soon as possible. recompute: nothing inside is kept, it is
 * run again in backward (activation checkpointing). self_size bytes of self are
 * copied when > 0; otherwise self must outlive the step. */
typedef sy_node *sy_body(sy_graph *g, const void *self, sy_node *const *in, int n);
enum { SY_BLOCK_SCOPE = 0, SY_BLOCK_MAY_RECOMPUTE = 1, SY_BLOCK_RECOMPUTE = 2 /* always */ };
sy_node *sy_block(sy_graph *g, sy_body *body, const void *self, size_t self_size, sy_node *const *in, int n, unsigned flags);
/* The builder will not use this value again: it goes as soon as no backward needs it. */
void sy_done(sy_graph *g, sy_node *n);

/* Named values inside one forward: a model publishes, a method asks. */
void sy_publish(sy_graph *g, const char *name, sy_node *n);
sy_node *sy_side(sy_graph *g, const char *name);

/* Text of the last error stays on the context. */
sy_status sy_graph_status(const sy_graph *g);
/* From inside a builder: makes the graph fail. */
void sy_graph_fail(sy_graph *g, sy_status status);
sy_context *sy_graph_context(const sy_graph *g);
bool sy_graph_training(const sy_graph *g); /* a backward will follow */
bool sy_graph_replay(const sy_graph *g);   /* running again inside backward */
bool sy_graph_planning(const sy_graph *g);
sy_dtype sy_graph_dtype(const sy_graph *g); /* F32, BF16 or F64: of activations */
/* The key for this forward's noise: same in a replay, other at every step. */
uint64_t sy_graph_key(const sy_graph *g, const char *purpose, const char *tensor);

#ifdef __cplusplus
}
#endif
#endif
