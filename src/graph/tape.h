/* SPDX-License-Identifier: Apache-2.0 */
/* What graph.c (building) and backward.c share. Internal to src/graph. */
#ifndef SYI_TAPE_H
#define SYI_TAPE_H

#include "graph/graph.h"

typedef struct scope scope;

struct sy_node {
    sy_graph *g;
    const sy_op *op;         /* NULL: a constant, parameter, input or block            */
    void *attr;
    int n_in, n_aux;
    sy_node **in;
    sy_tensor value, grad, aux[SY_OP_MAX_AUX];
    int64_t value_at, grad_at, aux_at[SY_OP_MAX_AUX]; /* heap offsets, -1: not ours     */
    sy_param *param;
    sy_tensor *grad_out;     /* where the gradient goes instead of the heap             */
    scope *home;             /* NULL: its scope has ended                               */
    sy_node *next_home;
    unsigned want, kept;     /* inputs that get gradients; inputs/out that we keep      */
    int keep;                /* backwards that will still read the value                */
    int remat;               /* of those, for a cheap op: inputs are kept in its stead  */
    bool needs, has_grad, held, alive, consumed;
    /* block that is run again in backward */
    sy_body *body;
    const void *self;
};

struct scope { scope *parent; sy_node *first; };

typedef struct { char *name; sy_node *node; } side;

struct sy_graph {
    sy_context *ctx;
    syi_engine *engine;
    syi_heap *heap;
    syi_arena *arena;
    syi_graph_options o;
    sy_status status;
    sy_node **tape;
    int64_t n, cap;
    scope *scope;
    bool keeping;            /* values are kept for backward (not inside a block that is run again) */
    bool replay;
    int blocks_seen;         /* recomputable blocks so far                              */
    void *scratch;
    side *sides;
    int64_t n_sides, cap_sides;
};

/* One more / one fewer backward will read n's value (through cheap ops to their inputs). */
void syi_node_keep(sy_node *n);
void syi_node_unkeep(sy_node *n);
/* Frees what can go now. */
void syi_node_settle(sy_node *n);
/* Makes the value of a cheap op again. */
sy_status syi_node_again(sy_node *n);
/* Memory of a tensor from the heap. */
sy_status syi_node_place(sy_graph *g, sy_tensor *t, int64_t *at);
void syi_node_fill_call(sy_node *n, sy_op_call *c);
sy_status syi_node_run(sy_node *n, sy_op_call *c, bool backward);
void syi_node_drop_grad(sy_node *n);
sy_status syi_ste_backward(sy_op_call *c);

#endif
