/* SPDX-License-Identifier: Apache-2.0 */
/* Backward: the tape in reverse. Gradients appear when something is first added to
 * them and go when their node's backward has run, as do the values it kept. */
#include "tape.h"

#include "steelyard/method.h"
#include "tensor/kernels.h"

/* A parameter's gradient lies in the run's memory and is always added to. In plan mode
 * it has no memory yet, so "trained" says whether there will be one. */
sy_node *sy_leaf(sy_graph *g, sy_param *p)
{
    sy_node *n = sy_const(g, &p->compute);
    if (!n) return NULL;
    n->param = p;
    n->needs = p->trained && g->o.training;
    n->grad_out = n->needs ? &p->grad : NULL;
    n->has_grad = n->needs;
    if (n->needs) n->grad = p->grad;
    return n;
}

sy_status syi_ste_backward(sy_op_call *c)
{
    if (c->want[1]) return syi_axpy(c->engine, c->dout->dtype, 1, c->dout->data, c->add[1], c->din[1]->data, sy_tensor_count(c->dout));
    return SY_OK;
}

void syi_node_drop_grad(sy_node *n)
{
    if (n->grad_at >= 0) {
        syi_heap_give(n->g->heap, n->grad_at);
        n->grad_at = -1;
        n->grad.data = NULL;
    }
    n->has_grad = n->grad_out != NULL;
}

static sy_status grad_of(sy_node *x, bool *add)
{
    *add = x->has_grad;
    if (x->has_grad) return SY_OK;
    x->grad = x->value;
    SYI_TRY(syi_node_place(x->g, &x->grad, &x->grad_at));
    x->has_grad = true;
    return SY_OK;
}

static void forget(sy_node *n)
{
    for (int i = 0; i < n->n_in; i++)
        if (n->kept >> i & 1) syi_node_unkeep(n->in[i]);
    if (n->kept & 256u) n->keep--;
    n->kept = n->want = 0;
    syi_node_settle(n);
}

/* May in[0] take over the memory of n's gradient? */
static bool hands_over(const sy_node *n)
{
    const sy_node *x = n->in[0];
    return (n->op->flags & SY_OP_PASSES) && !x->has_grad && n->grad_at >= 0 && x->value.dtype == n->grad.dtype &&
           sy_tensor_bytes(&x->value) == sy_tensor_bytes(&n->grad);
}

static sy_status op_backward(sy_node *n)
{
    sy_graph *g = n->g;
    for (int i = 0; i < n->n_in; i++)
        if (n->kept >> i & 1) SYI_TRY(syi_node_again(n->in[i]));
    sy_op_call c;
    syi_node_fill_call(n, &c);
    c.training = true;
    c.dout = &n->grad;
    /* One node may be two inputs of an op: the second gets a place of its own. */
    sy_tensor twin[SY_OP_MAX_IN];
    int64_t twin_at[SY_OP_MAX_IN];
    bool given = false;
    for (int i = 0; i < n->n_in; i++) {
        twin_at[i] = -1;
        if (!c.want[i]) continue;
        bool twice = false;
        for (int j = 0; j < i; j++) twice |= c.want[j] && n->in[j] == n->in[i];
        if (twice) {
            twin[i] = n->in[i]->value;
            SYI_TRY(syi_node_place(g, &twin[i], &twin_at[i]));
            c.din[i] = &twin[i];
            c.add[i] = false;
        } else {
            if (i == 0 && hands_over(n)) {
                n->in[0]->grad = n->in[0]->value;
                n->in[0]->grad.data = n->grad.data;
                n->in[0]->has_grad = given = true;
            } else {
                SYI_TRY(grad_of(n->in[i], &c.add[i]));
            }
            c.din[i] = &n->in[i]->grad;
        }
    }
    SYI_TRY(syi_node_run(n, &c, true));
    if (given) {
        n->in[0]->grad_at = n->grad_at;
        n->grad_at = -1;
    }
    for (int i = 0; i < n->n_in; i++)
        if (twin_at[i] >= 0) {
            if (!g->o.planning)
                SYI_TRY(syi_accumulate(g->engine, twin[i].dtype, twin[i].data, n->in[i]->grad.dtype, n->in[i]->grad.data, sy_tensor_count(&twin[i])));
            syi_heap_give(g->heap, twin_at[i]);
        }
    return SY_OK;
}

static sy_status run_tape(sy_graph *g, int64_t from, int64_t to);

/* Runs a block again, now keeping what its backward needs, and goes back through it. */
static sy_status block_backward(sy_node *b)
{
    sy_graph *g = b->g;
    for (int i = 0; i < b->n_in; i++)
        if (b->kept >> i & 1) SYI_TRY(syi_node_again(b->in[i]));
    int64_t mark = g->n;
    syi_mark arena = syi_arena_mark(g->arena);
    bool replay = g->replay;
    int seen = g->blocks_seen;
    g->replay = true;
    scope s = {g->scope, NULL};
    g->scope = &s;
    sy_node *r = b->body(g, b->self, b->in, b->n_in);
    g->scope = s.parent;
    g->replay = replay;
    g->blocks_seen = seen;
    SYI_TRY(g->status);
    for (sy_node *n = s.first; n; n = n->next_home)
        if (n->home == &s) {
            n->home = NULL;
            syi_node_settle(n);
        }
    if (r->has_grad) return syi_fail(g->ctx, SY_E_BUG, "graph: a recomputed block returned one of its inputs");
    r->grad = b->grad;
    r->grad_at = b->grad_at;
    r->has_grad = true;
    b->grad_at = -1;
    b->has_grad = false;
    SYI_TRY(run_tape(g, mark, g->n));
    g->n = mark;
    syi_arena_rewind(g->arena, arena);
    return SY_OK;
}

static sy_status run_tape(sy_graph *g, int64_t from, int64_t to)
{
    for (int64_t i = to - 1; i >= from; i--) {
        sy_node *n = g->tape[i];
        if (n->op || n->body) {
            if (n->needs && n->has_grad) SYI_TRY(n->op ? op_backward(n) : block_backward(n));
            forget(n);
            syi_node_drop_grad(n);
        }
    }
    return SY_OK;
}

sy_status syi_graph_backward(sy_graph *g, sy_node *loss, double seed)
{
    SYI_TRY(g->status);
    if (!loss || !loss->needs)
        return g->status = syi_fail(g->ctx, SY_E_BUG, "graph: backward from a value that depends on nothing trained");
    if (!g->o.training) return g->status = syi_fail(g->ctx, SY_E_BUG, "graph: backward in a graph that is not training");
    if (sy_tensor_count(&loss->value) != 1) return g->status = syi_fail(g->ctx, SY_E_BUG, "graph: backward starts from a single number");
    /* The root scope ends: nothing more is built. */
    scope *s = g->scope;
    for (sy_node *n = s->first; n; n = n->next_home)
        if (n->home == s && n != loss) {
            n->home = NULL;
            syi_node_settle(n);
        }
    s->first = NULL;
    bool add;
    sy_status status = grad_of(loss, &add);
    if (status == SY_OK && !g->o.planning) {
        if (loss->grad.dtype == SY_F64) *(double *)loss->grad.data = seed;
        else if (loss->grad.dtype == SY_F32) *(float *)loss->grad.data = (float)seed;
        else status = syi_fail(g->ctx, SY_E_BUG, "graph: a loss is f32 or f64");
    }
    if (status == SY_OK) status = run_tape(g, 0, g->n);
    if (status != SY_OK) g->status = status;
    return status;
}
