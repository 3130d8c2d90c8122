/* SPDX-License-Identifier: Apache-2.0 */
/* Building an eager tape: nodes, scopes, lifetimes.
 *
 * Every value has one owner (its node) and goes when three things have happened: its
 * scope has ended, no backward will read it, nobody holds it. A cheap op's value is
 * never kept: whoever would keep it keeps the op's inputs instead, and the value is
 * made again in backward. */
#include "tape.h"

sy_status syi_graph_new(sy_context *ctx, syi_engine *engine, syi_heap *heap, sy_graph **out)
{
    *out = NULL;
    sy_graph *g = syi_calloc(ctx, 1, sizeof *g);
    if (!g) return SY_E_MEMORY;
    g->ctx = ctx;
    g->engine = engine;
    g->heap = heap;
    sy_status s = syi_arena_new(ctx, 256 << 10, &g->arena);
    if (s != SY_OK) {
        syi_free(ctx, g);
        return s;
    }
    syi_graph_reset(g, &(syi_graph_options){.dtype = SY_F32});
    if ((s = g->status) != SY_OK) {
        syi_graph_free(g);
        return s;
    }
    *out = g;
    return SY_OK;
}

void syi_graph_free(sy_graph *g)
{
    if (!g) return;
    syi_arena_free(g->arena);
    syi_free(g->ctx, g->tape);
    syi_free(g->ctx, g->sides);
    syi_free(g->ctx, g);
}

void syi_graph_reset(sy_graph *g, const syi_graph_options *options)
{
    syi_arena_rewind(g->arena, (syi_mark){NULL, 0});
    syi_heap_reset(g->heap);
    g->o = *options;
    g->status = SY_OK;
    g->n = 0;
    g->n_sides = 0;
    g->keeping = options->training;
    g->replay = false;
    g->blocks_seen = 0;
    g->scratch = NULL;
    g->scope = syi_arena_alloc(g->arena, sizeof(scope));
    if (!g->scope) g->status = SY_E_MEMORY;
}

sy_status sy_graph_status(const sy_graph *g) { return g->status; }
void sy_graph_fail(sy_graph *g, sy_status status)
{
    if (g->status == SY_OK) g->status = status;
}
sy_context *sy_graph_context(const sy_graph *g) { return g->ctx; }
bool sy_graph_training(const sy_graph *g) { return g->o.training; }
bool sy_graph_replay(const sy_graph *g) { return g->replay; }
bool sy_graph_planning(const sy_graph *g) { return g->o.planning; }
sy_dtype sy_graph_dtype(const sy_graph *g) { return g->o.dtype; }
syi_engine *syi_graph_engine(const sy_graph *g) { return g->engine; }
void *syi_graph_cache(const sy_graph *g) { return g->o.cache; }
void *syi_graph_user(const sy_graph *g) { return g->o.user; }
int64_t syi_graph_nodes(const sy_graph *g) { return g->n; }
int32_t *syi_graph_ints(sy_graph *g, int64_t n)
{
    if (g->status != SY_OK) return NULL;
    int32_t *p = syi_arena_alloc(g->arena, (size_t)syi_max(1, n) * sizeof *p);
    if (!p) sy_graph_fail(g, SY_E_MEMORY);
    return p;
}
uint64_t sy_graph_key(const sy_graph *g, const char *purpose, const char *tensor)
{
    return syi_key(g->o.seed, purpose, tensor, g->o.step);
}

/* -- nodes -------------------------------------------------------------------------- */

static sy_node *node_new(sy_graph *g)
{
    sy_node *n = syi_arena_alloc(g->arena, sizeof *n);
    sy_status s = n ? syi_grow(g->ctx, (void **)&g->tape, &g->cap, g->n + 1, sizeof *g->tape, 1 << 26) : SY_E_MEMORY;
    if (s != SY_OK) {
        sy_graph_fail(g, s);
        return NULL;
    }
    n->g = g;
    n->value_at = n->grad_at = -1;
    for (int i = 0; i < SY_OP_MAX_AUX; i++) n->aux_at[i] = -1;
    n->alive = true;
    n->home = g->scope;
    n->next_home = g->scope->first;
    g->scope->first = n;
    g->tape[g->n++] = n;
    return n;
}

sy_status syi_node_place(sy_graph *g, sy_tensor *t, int64_t *at)
{
    *at = syi_heap_take(g->heap, sy_tensor_bytes(t));
    if (*at < 0) return sy_error_code(g->ctx);
    t->data = syi_heap_at(g->heap, *at);
    if (g->o.planning) t->data = NULL;
    return SY_OK;
}

sy_node *sy_const(sy_graph *g, const sy_tensor *t)
{
    if (g->status != SY_OK) return NULL;
    sy_node *n = node_new(g);
    if (n) n->value = *t;
    return n;
}

sy_node *sy_leaf(sy_graph *g, sy_param *p);

sy_node *sy_input(sy_graph *g, const sy_tensor *t, sy_tensor *grad)
{
    sy_node *n = sy_const(g, t);
    if (!n) return NULL;
    n->grad_out = grad;
    n->needs = grad != NULL && g->o.training;
    n->has_grad = grad != NULL; /* added to from the start */
    if (grad) n->grad = *grad;
    return n;
}

const sy_tensor *sy_value(const sy_node *n)
{
    return !n || n->g->status != SY_OK || n->g->o.planning || !n->alive ? NULL : &n->value;
}
const sy_tensor *sy_shape(const sy_node *n) { return n ? &n->value : NULL; }
bool sy_needs_grad(const sy_node *n) { return n && n->needs; }
void syi_node_hold(sy_node *n)
{
    if (n) n->held = true;
}
const sy_tensor *syi_node_aux(const sy_node *n, int i)
{
    return !n || n->g->o.planning || i >= n->n_aux || n->aux_at[i] < 0 ? NULL : &n->aux[i];
}

/* -- lifetimes ------------------------------------------------------------------------ */

static void release_value(sy_node *n)
{
    if (n->value_at >= 0) {
        syi_heap_give(n->g->heap, n->value_at);
        n->value_at = -1;
        n->value.data = NULL;
    }
    n->alive = false;
}

static bool is_cheap(const sy_node *n) { return n->op && (n->op->flags & SY_OP_CHEAP); }

void syi_node_settle(sy_node *n)
{
    if (n->home || n->held) return;
    if (n->keep == 0 && n->alive && (n->op || n->body)) release_value(n);
    /* aux belongs to the node's own backward */
    if (!n->kept && !n->want)
        for (int i = 0; i < n->n_aux; i++)
            if (n->aux_at[i] >= 0) {
                syi_heap_give(n->g->heap, n->aux_at[i]);
                n->aux_at[i] = -1;
            }
}

void syi_node_keep(sy_node *n)
{
    if (is_cheap(n)) {
        if (n->remat++ == 0)
            for (int i = 0; i < n->n_in; i++) syi_node_keep(n->in[i]);
        return;
    }
    n->keep++;
}

void syi_node_unkeep(sy_node *n)
{
    if (is_cheap(n)) {
        if (--n->remat == 0) {
            if (n->alive && !n->home) release_value(n);
            for (int i = 0; i < n->n_in; i++) syi_node_unkeep(n->in[i]);
        }
        return;
    }
    n->keep--;
    syi_node_settle(n);
}

static void scope_begin(sy_graph *g, scope *s)
{
    *s = (scope){g->scope, NULL};
    g->scope = s;
}

/* Ends the current scope; `result` moves to the parent. */
static void scope_end(sy_graph *g, sy_node *result)
{
    scope *s = g->scope;
    g->scope = s->parent;
    for (sy_node *n = s->first, *next; n; n = next) {
        next = n->next_home;
        n->next_home = NULL;
        if (n->home != s) continue; /* already done with */
        if (n == result && s->parent) {
            n->home = s->parent;
            n->next_home = s->parent->first;
            s->parent->first = n;
            continue;
        }
        n->home = NULL;
        syi_node_settle(n);
    }
}

void sy_done(sy_graph *g, sy_node *n)
{
    if (!n || g->status != SY_OK || n->home != g->scope) return;
    n->home = NULL; /* still in the scope's list, which skips it */
    syi_node_settle(n);
}

/* -- running ops ------------------------------------------------------------------------- */

void *sy_scratch(const sy_op_call *c) { return c->graph->scratch; }

void syi_node_fill_call(sy_node *n, sy_op_call *c)
{
    sy_graph *g = n->g;
    *c = (sy_op_call){.ctx = g->ctx, .engine = g->engine, .graph = g, .attr = n->attr, .n_in = n->n_in, .out = &n->value};
    for (int i = 0; i < n->n_in; i++) {
        c->in[i] = &n->in[i]->value;
        c->want[i] = (n->want >> i) & 1;
        if (c->want[i]) c->din[i] = n->in[i]->grad_out;
    }
    for (int i = 0; i < n->n_aux; i++) c->aux[i] = &n->aux[i];
}

sy_status syi_node_run(sy_node *n, sy_op_call *c, bool backward)
{
    sy_graph *g = n->g;
    int64_t scratch = n->op->scratch ? n->op->scratch(c, backward) : 0, at = -1;
    if (scratch > 0) {
        at = syi_heap_take(g->heap, scratch);
        if (at < 0) return sy_error_code(g->ctx);
    }
    sy_status s = SY_OK;
    if (!g->o.planning) {
        g->scratch = at >= 0 ? syi_heap_at(g->heap, at) : NULL;
        double begin = g->o.profile ? syi_now() : 0;
        s = backward ? n->op->backward(c) : n->op->forward(c);
        if (g->o.profile) {
            /* What is computed again is time, not work. */
            double flops = n->op->flops && (backward || !g->replay) ? n->op->flops(c, backward) : 0, bytes = 0;
            if (n->op->traffic) bytes = n->op->traffic(c, backward);
            else {
                for (int i = 0; i < n->n_in; i++) bytes += (double)sy_tensor_bytes(c->in[i]) * (backward ? 1 + c->want[i] : 1);
                bytes += (double)sy_tensor_bytes(&n->value);
            }
            syi_profile_add(g->o.profile, n->op->name, backward, begin, syi_now() - begin, flops, bytes);
        }
        g->scratch = NULL;
    }
    if (at >= 0) syi_heap_give(g->heap, at);
    return s;
}

sy_status syi_node_again(sy_node *n)
{
    if (n->alive) return SY_OK;
    if (!is_cheap(n))
        return syi_fail(n->g->ctx, SY_E_BUG, "graph: op %s: its backward reads a value that was not kept", n->op ? n->op->name : "block");
    for (int i = 0; i < n->n_in; i++) SYI_TRY(syi_node_again(n->in[i]));
    SYI_TRY(syi_node_place(n->g, &n->value, &n->value_at));
    n->alive = true;
    /* Its aux may be gone if its own backward has run: give it a throw-away. */
    int64_t made[SY_OP_MAX_AUX];
    for (int i = 0; i < n->n_aux; i++) {
        made[i] = -1;
        if (n->aux_at[i] < 0) SYI_TRY(syi_node_place(n->g, &n->aux[i], &made[i]));
    }
    sy_op_call c;
    syi_node_fill_call(n, &c);
    sy_status s = syi_node_run(n, &c, false);
    for (int i = 0; i < n->n_aux; i++)
        if (made[i] >= 0) syi_heap_give(n->g->heap, made[i]);
    return s;
}

static bool may_take_over(const sy_graph *g, const sy_node *x, const sy_tensor *out)
{
    return x->op && x->value_at >= 0 && x->home == g->scope && x->keep == 0 && x->remat == 0 && !x->held && !is_cheap(x)
        && !(x->kept & 256u) && x->value.dtype == out->dtype && sy_tensor_bytes(&x->value) == sy_tensor_bytes(out);
}

static sy_status call_op(sy_graph *g, sy_node *n)
{
    const sy_op *op = n->op;
    sy_op_call c;
    unsigned want = 0;
    for (int i = 0; i < n->n_in; i++) {
        sy_node *x = n->in[i];
        if (x->consumed)
            return syi_fail(g->ctx, SY_E_BUG, "graph: op %s: input %d was taken over by an earlier op and cannot be used again", op->name, i);
        if (!x->alive) return syi_fail(g->ctx, SY_E_BUG, "graph: op %s: input %d was released before", op->name, i);
        if (x->needs) want |= 1u << i;
    }
    n->want = want;
    syi_node_fill_call(n, &c);
    c.training = want != 0 && g->keeping; /* not in the first pass of a recomputed block */
    int n_aux = 0;
    for (int i = 0; i < SY_OP_MAX_AUX; i++) c.aux[i] = &n->aux[i];
    SYI_TRY(op->shape(&c, &n_aux));
    n->n_aux = n_aux;
    if (want && !op->backward)
        return syi_fail(g->ctx, SY_E_UNSUPPORTED, "op %s has no gradient (%s); detach its input", op->name, op->no_grad ? op->no_grad : "no reason given");
    n->needs = want != 0;

    if (want && g->keeping) {
        n->kept = op->keep ? op->keep(&c, want) : (1u << n->n_in) - 1u;
        for (int i = 0; i < n->n_in; i++)
            if (n->kept >> i & 1) syi_node_keep(n->in[i]);
        if (n->kept & 256u) n->keep++;
    }
    for (int i = 0; i < n_aux; i++) SYI_TRY(syi_node_place(g, &n->aux[i], &n->aux_at[i]));
    if ((op->flags & SY_OP_IN_PLACE) && may_take_over(g, n->in[0], &n->value)) {
        sy_node *x = n->in[0];
        n->value_at = x->value_at;
        n->value.data = x->value.data;
        x->value_at = -1;
        x->consumed = true;
        c.in_place = true;
    } else {
        SYI_TRY(syi_node_place(g, &n->value, &n->value_at));
    }
    sy_status s = syi_node_run(n, &c, false);
    if (c.in_place) {
        n->in[0]->value.data = NULL;
        n->in[0]->alive = false;
    }
    if (!n->kept && !g->keeping) n->want = 0; /* no backward of its own: aux may go with the value */
    return s;
}

sy_node *sy_call(sy_graph *g, const sy_op *op, sy_node *const *in, int n_in, const void *attr, size_t attr_size)
{
    if (g->status != SY_OK) return NULL;
    for (int i = 0; i < n_in; i++)
        if (!in[i]) {
            sy_graph_fail(g, syi_fail(g->ctx, SY_E_BUG, "graph: op %s: input %d is missing", op->name, i));
            return NULL;
        }
    if (n_in < op->min_in || n_in > op->max_in) {
        sy_graph_fail(g, syi_fail(g->ctx, SY_E_BUG, "graph: op %s takes %d to %d inputs, got %d", op->name, op->min_in, op->max_in, n_in));
        return NULL;
    }
    sy_node *n = node_new(g);
    if (!n) return NULL;
    n->op = op;
    n->n_in = n_in;
    n->in = syi_arena_alloc(g->arena, (size_t)syi_max(1, n_in) * sizeof *n->in);
    n->attr = syi_arena_alloc(g->arena, attr_size ? attr_size : 1);
    sy_status s = SY_E_MEMORY;
    if (n->in && n->attr) {
        if (n_in) memcpy(n->in, in, (size_t)n_in * sizeof *n->in);
        if (attr_size) memcpy(n->attr, attr, attr_size);
        s = call_op(g, n);
    }
    if (s != SY_OK) {
        sy_graph_fail(g, s);
        return NULL;
    }
    return n;
}

/* -- scopes and blocks ------------------------------------------------------------------------ */

sy_node *sy_block(sy_graph *g, sy_body *body, const void *self, size_t self_size, sy_node *const *in, int n, unsigned flags)
{
    if (g->status != SY_OK) return NULL;
    bool again = g->keeping && (flags & SY_BLOCK_RECOMPUTE);
    if (flags & SY_BLOCK_MAY_RECOMPUTE) {
        int index = g->blocks_seen++;
        again = g->keeping && (g->o.recompute_blocks < 0 || index < g->o.recompute_blocks);
    }
    if (self_size) {
        void *copy = syi_arena_alloc(g->arena, self_size);
        if (!copy) {
            sy_graph_fail(g, SY_E_MEMORY);
            return NULL;
        }
        self = memcpy(copy, self, self_size);
    }
    scope s;
    if (!again) {
        scope_begin(g, &s);
        sy_node *r = body(g, self, in, n);
        if (g->status != SY_OK) {
            g->scope = s.parent;
            return NULL;
        }
        scope_end(g, r);
        return r;
    }

    int64_t mark = g->n;
    g->keeping = false;
    scope_begin(g, &s);
    sy_node *r = body(g, self, in, n);
    g->keeping = true;
    if (g->status != SY_OK || !r) {
        g->scope = s.parent;
        return NULL;
    }
    sy_tensor value = r->value;
    int64_t at = r->value_at;
    bool needs = r->needs, own = r->home == &s && at >= 0;
    if (own) { /* the block's node takes the memory over */
        r->value_at = -1;
        r->alive = false;
    }
    scope_end(g, NULL);
    g->n = mark; /* what was inside is run again in backward: nothing of it stays on the tape */
    if (!own) return r;
    sy_node *b = node_new(g);
    if (!b) return NULL;
    b->value = value;
    b->value_at = at;
    b->needs = needs;
    b->body = body;
    b->self = self;
    b->n_in = n;
    b->in = syi_arena_alloc(g->arena, (size_t)syi_max(1, n) * sizeof *b->in);
    if (!b->in) {
        sy_graph_fail(g, SY_E_MEMORY);
        return NULL;
    }
    for (int i = 0; i < n; i++) {
        b->in[i] = in[i];
        if (needs) {
            syi_node_keep(in[i]);
            b->kept |= 1u << i;
            if (in[i]->needs) b->want |= 1u << i;
        }
    }
    return b;
}

/* -- side values --------------------------------------------------------------------------------- */

void sy_publish(sy_graph *g, const char *name, sy_node *n)
{
    if (g->status != SY_OK || !n || g->replay) return; /* a replay publishes what is there already */
    sy_status s = syi_grow(g->ctx, (void **)&g->sides, &g->cap_sides, g->n_sides + 1, sizeof *g->sides, 1 << 16);
    char *copy = s == SY_OK ? syi_arena_strdup(g->arena, name) : NULL;
    if (!copy) {
        sy_graph_fail(g, SY_E_MEMORY);
        return;
    }
    n->held = true;
    g->sides[g->n_sides++] = (side){copy, n};
}

sy_node *sy_side(sy_graph *g, const char *name)
{
    for (int64_t i = g->n_sides - 1; i >= 0; i--)
        if (strcmp(g->sides[i].name, name) == 0) return g->sides[i].node;
    return NULL;
}

/* -- detach, straight-through ------------------------------------------------------------------------ */

static sy_status copy_shape(sy_op_call *c, int *n_aux)
{
    *n_aux = 0;
    *c->out = *c->in[0];
    c->out->data = NULL;
    for (int i = 1; i < c->n_in; i++)
        if (sy_tensor_bytes(c->in[i]) != sy_tensor_bytes(c->in[0]) || c->in[i]->dtype != c->in[0]->dtype)
            return syi_fail(c->ctx, SY_E_BUG, "graph: straight-through: both values need one shape");
    return SY_OK;
}
static sy_status copy_forward(sy_op_call *c)
{
    memcpy(c->out->data, c->in[0]->data, (size_t)sy_tensor_bytes(c->out));
    return SY_OK;
}

static unsigned keep_nothing(const sy_op_call *c, unsigned want)
{
    (void)c, (void)want;
    return 0;
}
static const sy_op op_detach = {.name = "detach", .no_grad = "it exists to stop gradients", .min_in = 1, .max_in = 1,
                                .shape = copy_shape, .forward = copy_forward};
static const sy_op op_ste = {.name = "straight_through", .min_in = 2, .max_in = 2, .shape = copy_shape, .forward = copy_forward,
                             .backward = syi_ste_backward, .keep = keep_nothing};

sy_node *sy_detach(sy_graph *g, sy_node *x)
{
    if (g->status != SY_OK || !x || !x->needs) return x;
    bool needs = x->needs;
    x->needs = false; /* so that the op does not ask for its gradient */
    sy_node *n = sy_call(g, &op_detach, &x, 1, NULL, 0);
    x->needs = needs;
    return n;
}

sy_node *sy_ste(sy_graph *g, sy_node *hard, sy_node *soft)
{
    if (g->status != SY_OK || !hard || !soft) return NULL;
    bool needs = hard->needs;
    hard->needs = false;
    sy_node *n = sy_call(g, &op_ste, (sy_node *[]){hard, soft}, 2, NULL, 0);
    hard->needs = needs;
    return n;
}
