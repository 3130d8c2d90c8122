/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the tree of a chat template: statements write, expressions give values.
 * Steps and depth are counted, so that a template ends whatever it says. */
#include "chat.h"

#include <math.h>

static value eval(run *r, const node *x);
static void execute(run *r, const node *x);

static bool tick(run *r, const node *x)
{
    if (r->status != SY_OK) return false;
    r->line = x->line;
    if (++r->steps > RUN_STEPS) syi_v_fail(r, SY_E_INPUT, "the template took more than %d steps", RUN_STEPS);
    else if (r->depth > RUN_DEPTH) syi_v_fail(r, SY_E_INPUT, "nested more than %d deep", RUN_DEPTH);
    return r->status == SY_OK;
}

/* -- names -------------------------------------------------------------------------- */

static value named(const node *x)
{
    return (value){.kind = V_STRING, .u.str = {x->s, x->n}};
}

static value look_up(run *r, const node *x)
{
    value out;
    for (scope *s = r->scope; s != NULL; s = s->up)
        if (syi_v_get(r, (value){.kind = V_DICT, .u.dict = s->names}, named(x), &out)) return out;
    out = syi_global(x->s, x->n);
    if (out.kind == V_UNDEFINED) out.u.str = named(x).u.str;
    return out;
}

static bool push_scope(run *r, scope *s)
{
    value d = syi_v_dict(r, V_DICT);
    if (r->status != SY_OK) return false;
    *s = (scope){r->scope, d.u.dict};
    r->scope = s;
    return true;
}

static void assign(run *r, const node *target, value v)
{
    if (r->status != SY_OK) return;
    if (target->kind == N_NAME) {
        syi_v_put(r, (value){.kind = V_DICT, .u.dict = r->scope->names}, named(target), v);
    } else if (target->kind == N_ATTRIBUTE) {
        value of = look_up(r, target->kid[0]);
        if (of.kind != V_NAMESPACE) syi_v_fail(r, SY_E_INPUT, "only attributes of a namespace can be set");
        else syi_v_put(r, of, named(target), v);
    } else {
        value l = syi_v_items(r, v);
        if (r->status != SY_OK) return;
        if (l.u.list->n != target->kids) {
            syi_v_fail(r, SY_E_INPUT, "%lld values for %d names", (long long)l.u.list->n, target->kids);
            return;
        }
        for (int i = 0; i < target->kids; i++) assign(r, target->kid[i], l.u.list->v[i]);
    }
}

/* -- operators -------------------------------------------------------------------------- */

static bool number(value v, double *out)
{
    if (v.kind == V_BOOL) *out = v.u.b;
    else if (v.kind == V_INT) *out = (double)v.u.i;
    else if (v.kind == V_FLOAT) *out = v.u.f;
    else return false;
    return true;
}

static value integers(run *r, operator_kind op, int64_t a, int64_t b)
{
    int64_t c = 0;
    bool over = false;
    switch (op) {
    case OP_ADD: over = __builtin_add_overflow(a, b, &c); break;
    case OP_SUB: over = __builtin_sub_overflow(a, b, &c); break;
    case OP_MUL: over = __builtin_mul_overflow(a, b, &c); break;
    case OP_FLOOR:
    case OP_MOD:
        if (b == 0) return syi_v_fail(r, SY_E_INPUT, "division by zero");
        if (b == -1) {
            over = op == OP_FLOOR && a == INT64_MIN;
            c = op == OP_FLOOR && !over ? -a : 0;
            break;
        }
        c = a / b;
        if (a % b != 0 && (a % b < 0) != (b < 0)) c--;
        if (op == OP_MOD) c = a - c * b;
        break;
    default: /* OP_POW with b >= 0 */
        c = 1;
        for (int64_t i = 0; i < b && !over && c != 0 && (a != 1 || i == 0) && i < 128; i++) over = __builtin_mul_overflow(c, a, &c);
        if (a == -1) c = b % 2 ? -1 : 1;
    }
    if (over) return syi_v_fail(r, SY_E_INPUT, "a number of more than 64 bits");
    return INT(c);
}

static value repeat(run *r, value v, int64_t times)
{
    if (times < 0) times = 0;
    int64_t n = v.kind == V_STRING ? v.u.str.n : v.u.list->n * (int64_t)sizeof(value), bytes;
    if (__builtin_mul_overflow(n, times, &bytes) || bytes > RUN_BYTES || times > RUN_STEPS) return syi_v_fail(r, SY_E_INPUT, "a repetition that is too long");
    if (v.kind == V_STRING) {
        char *s = syi_v_alloc(r, (size_t)bytes + 1);
        for (int64_t i = 0; s != NULL && i < times; i++) memcpy(s + i * n, v.u.str.s, (size_t)n);
        return s ? (value){.kind = V_STRING, .u.str = {s, bytes}} : (value){0};
    }
    value out = syi_v_list(r, v.kind);
    for (int64_t i = 0; i < times; i++)
        for (int64_t k = 0; k < v.u.list->n; k++) syi_v_push(r, out, v.u.list->v[k]);
    return out;
}

static value joined(run *r, value a, value b)
{
    char *s = syi_v_alloc(r, (size_t)(a.u.str.n + b.u.str.n) + 1);
    if (s == NULL) return (value){0};
    if (a.u.str.n > 0) memcpy(s, a.u.str.s, (size_t)a.u.str.n);
    if (b.u.str.n > 0) memcpy(s + a.u.str.n, b.u.str.s, (size_t)b.u.str.n);
    return (value){.kind = V_STRING, .u.str = {s, a.u.str.n + b.u.str.n}};
}

static bool is_list(value v)
{
    return v.kind == V_LIST || v.kind == V_TUPLE;
}

static value binary(run *r, operator_kind op, value a, value b)
{
    double x, y;
    if (r->status != SY_OK) return a;
    if (a.kind == V_UNDEFINED || b.kind == V_UNDEFINED) return syi_v_index(r, a.kind == V_UNDEFINED ? a : b, a);
    bool whole = (a.kind == V_INT || a.kind == V_BOOL) && (b.kind == V_INT || b.kind == V_BOOL);
    int64_t i = a.kind == V_BOOL ? a.u.b : a.u.i, k = b.kind == V_BOOL ? b.u.b : b.u.i;
    if (whole && op != OP_DIV && !(op == OP_POW && k < 0)) return integers(r, op, i, k);
    if (number(a, &x) && number(b, &y)) {
        if (y == 0 && (op == OP_DIV || op == OP_FLOOR || op == OP_MOD)) return syi_v_fail(r, SY_E_INPUT, "division by zero");
        double z = op == OP_ADD ? x + y : op == OP_SUB ? x - y : op == OP_MUL ? x * y : op == OP_DIV ? x / y : op == OP_FLOOR ? floor(x / y)
                   : op == OP_MOD ? x - y * floor(x / y) : pow(x, y);
        return (value){.kind = V_FLOAT, .u.f = z};
    }
    if (op == OP_ADD && a.kind == V_STRING && b.kind == V_STRING) return joined(r, a, b);
    if (op == OP_ADD && is_list(a) && a.kind == b.kind) {
        value out = syi_v_list(r, a.kind);
        for (int64_t n = 0; n < a.u.list->n; n++) syi_v_push(r, out, a.u.list->v[n]);
        for (int64_t n = 0; n < b.u.list->n; n++) syi_v_push(r, out, b.u.list->v[n]);
        return out;
    }
    if (op == OP_MUL && (a.kind == V_STRING || is_list(a)) && b.kind == V_INT) return repeat(r, a, b.u.i);
    if (op == OP_MUL && (b.kind == V_STRING || is_list(b)) && a.kind == V_INT) return repeat(r, b, a.u.i);
    static const char *const sign[] = {"==", "!=", "<", "<=", ">", ">=", "in", "not in", "+", "-", "*", "/", "//", "%", "**"};
    return syi_v_fail(r, SY_E_INPUT, "'%s' does not work on %s and %s", sign[op], syi_v_type(a), syi_v_type(b));
}

static bool compare(run *r, operator_kind op, value a, value b)
{
    switch (op) {
    case OP_EQ: return syi_v_equal(r, a, b, 0);
    case OP_NE: return !syi_v_equal(r, a, b, 0);
    case OP_IN: return syi_v_contains(r, b, a);
    case OP_NOT_IN: return !syi_v_contains(r, b, a);
    case OP_LT: return syi_v_order(r, a, b) < 0;
    case OP_LE: return syi_v_order(r, a, b) <= 0;
    case OP_GT: return syi_v_order(r, a, b) > 0;
    default: return syi_v_order(r, a, b) >= 0;
    }
}

/* -- calls --------------------------------------------------------------------------------- */

/* Kids from `from` on as arguments, in the arena. */
static arguments arguments_of(run *r, const node *x, int from)
{
    arguments a = {0};
    value all = syi_v_list(r, V_LIST), *kv = syi_v_alloc(r, (size_t)x->kids * sizeof *kv);
    const char **key = syi_v_alloc(r, (size_t)x->kids * sizeof *key);
    for (int i = from; i < x->kids && r->status == SY_OK; i++) {
        const node *k = x->kid[i];
        if (k->kind == N_KEYWORD) {
            value name = syi_v_string(r, k->s, k->n);
            key[a.keys] = name.u.str.s;
            kv[a.keys++] = eval(r, k->kid[0]);
        } else if (k->kind == N_SPREAD) {
            value list_value = syi_v_items(r, eval(r, k->kid[0]));
            for (int64_t c = 0; r->status == SY_OK && c < list_value.u.list->n; c++) syi_v_push(r, all, list_value.u.list->v[c]);
        } else {
            syi_v_push(r, all, eval(r, k));
        }
    }
    if (r->status != SY_OK) return (arguments){0};
    if (all.u.list->n > INT32_MAX) syi_v_fail(r, SY_E_INPUT, "too many arguments");
    a.v = all.u.list->n > 0 ? all.u.list->v : kv; /* never NULL: some look past the first */
    a.n = (int)syi_min(all.u.list->n, INT32_MAX);
    a.key = key;
    a.key_value = kv;
    return a;
}

bool syi_argument(const arguments *a, int position, const char *name, value *out)
{
    if (position >= 0 && position < a->n) {
        *out = a->v[position];
        return true;
    }
    for (int i = 0; i < a->keys; i++)
        if (strcmp(a->key[i], name) == 0) {
            *out = a->key_value[i];
            return true;
        }
    return false;
}

static value call_macro(run *r, const node *m, const arguments *a)
{
    scope s, *back = r->scope;
    syi_text text, *out = r->out;
    if (a->n > m->kids - 1) return syi_v_fail(r, SY_E_INPUT, "the macro '%.*s' takes at most %d arguments", (int)m->n, m->s, m->kids - 1);
    r->scope = r->global;
    syi_text_init(&text, r->ctx, OUTPUT_MAX);
    if (push_scope(r, &s)) {
        for (int i = 1; i < m->kids && r->status == SY_OK; i++) {
            const node *p = m->kid[i];
            value v = {0}, name = syi_v_string(r, p->s, p->n);
            if (r->status != SY_OK) break;
            if (!syi_argument(a, i - 1, name.u.str.s, &v) && p->kids > 0) v = eval(r, p->kid[0]);
            assign(r, &(node){.kind = N_NAME, .s = p->s, .n = p->n}, v);
        }
        r->out = &text;
        r->depth++;
        execute(r, m->kid[0]);
        r->depth--;
        r->out = out;
    }
    r->scope = back;
    return syi_v_take(r, &text);
}

value syi_call(run *r, value f, const arguments *a)
{
    if (r->status != SY_OK) return f;
    if (f.kind == V_FUNCTION) return f.u.fn(r, a);
    if (f.kind == V_METHOD) return f.u.bound.fn(r, *f.u.bound.self, a);
    if (f.kind == V_MACRO) return call_macro(r, f.u.macro, a);
    if (f.kind == V_UNDEFINED) return syi_v_index(r, f, f);
    return syi_v_fail(r, SY_E_INPUT, "%s cannot be called", syi_v_type(f));
}

static value attribute(run *r, value of, const char *name, int64_t n, bool method_first)
{
    value key = {.kind = V_STRING, .u.str = {name, n}}, out;
    if (r->status != SY_OK) return of;
    method *m = syi_method(of, name, n);
    if (!method_first && of.kind == V_DICT && syi_v_get(r, of, key, &out)) return out;
    if (m == NULL) return syi_v_index(r, of, key);
    value *self = syi_v_alloc(r, sizeof *self);
    if (self == NULL) return of;
    *self = of;
    return (value){.kind = V_METHOD, .u.bound = {m, self}};
}

/* -- expressions --------------------------------------------------------------------------------- */

static value sequence(run *r, const node *x)
{
    value l = syi_v_list(r, x->kind == N_LIST ? V_LIST : V_TUPLE);
    for (int i = 0; i < x->kids && r->status == SY_OK; i++) syi_v_push(r, l, eval(r, x->kid[i]));
    return l;
}

static value dictionary(run *r, const node *x)
{
    value d = syi_v_dict(r, V_DICT);
    for (int i = 0; i + 1 < x->kids && r->status == SY_OK; i += 2) {
        value k = eval(r, x->kid[i]);
        syi_v_put(r, d, k, eval(r, x->kid[i + 1]));
    }
    return d;
}

static value chain(run *r, const node *x)
{
    value left = eval(r, x->kid[0]);
    for (int i = 1; i < x->kids && r->status == SY_OK; i++) {
        value right = eval(r, x->kid[i]->kid[0]);
        if (r->status != SY_OK || !compare(r, x->kid[i]->op, left, right)) return BOOL(false);
        left = right;
    }
    return BOOL(true);
}

static value negate(run *r, value v)
{
    if (v.kind == V_FLOAT) return (value){.kind = V_FLOAT, .u.f = -v.u.f};
    return binary(r, OP_SUB, INT(0), v);
}

static value eval_inner(run *r, const node *x)
{
    value a;
    switch (x->kind) {
    case N_NONE: return (value){.kind = V_NONE};
    case N_BOOL: return BOOL(x->i != 0);
    case N_INT: return INT(x->i);
    case N_FLOAT: return (value){.kind = V_FLOAT, .u.f = x->f};
    case N_STRING: return named(x);
    case N_NAME: return look_up(r, x);
    case N_LIST:
    case N_TUPLE: return sequence(r, x);
    case N_DICT: return dictionary(r, x);
    case N_NOT: return BOOL(!syi_v_true(eval(r, x->kid[0])));
    case N_NEGATE: return negate(r, eval(r, x->kid[0]));
    case N_PLUS: return binary(r, OP_ADD, INT(0), eval(r, x->kid[0]));
    case N_AND:
        a = eval(r, x->kid[0]);
        return syi_v_true(a) ? eval(r, x->kid[1]) : a;
    case N_OR:
        a = eval(r, x->kid[0]);
        return syi_v_true(a) ? a : eval(r, x->kid[1]);
    case N_COMPARE: return chain(r, x);
    case N_BINARY:
        a = eval(r, x->kid[0]);
        return binary(r, x->op, a, eval(r, x->kid[1]));
    case N_CONCAT:
        a = syi_v_str(r, eval(r, x->kid[0]));
        a = joined(r, a.kind == V_STRING ? a : STR(""), syi_v_str(r, eval(r, x->kid[1])));
        return a;
    case N_IF_ELSE:
        if (syi_v_true(eval(r, x->kid[1]))) return eval(r, x->kid[0]);
        return x->kids > 2 ? eval(r, x->kid[2]) : (value){0};
    case N_ATTRIBUTE: return attribute(r, eval(r, x->kid[0]), x->s, x->n, true);
    case N_INDEX: {
        a = eval(r, x->kid[0]);
        value key = eval(r, x->kid[1]);
        if (r->status == SY_OK && key.kind == V_STRING) return attribute(r, a, key.u.str.s, key.u.str.n, false);
        return r->status == SY_OK ? syi_v_index(r, a, key) : a;
    }
    case N_SLICE: {
        value part[3];
        a = eval(r, x->kid[0]);
        for (int i = 0; i < 3; i++) part[i] = eval(r, x->kid[i + 1]);
        return r->status == SY_OK ? syi_v_slice(r, a, part) : a;
    }
    case N_CALL: {
        a = eval(r, x->kid[0]);
        arguments args = arguments_of(r, x, 1);
        return syi_call(r, a, &args);
    }
    case N_FILTER: {
        a = eval(r, x->kid[0]);
        arguments args = arguments_of(r, x, 1);
        r->line = x->line;
        return r->status == SY_OK ? syi_filter(r, x->s, x->n, a, &args) : a;
    }
    case N_TEST: {
        a = eval(r, x->kid[0]);
        arguments args = arguments_of(r, x, 1);
        r->line = x->line;
        return BOOL(r->status == SY_OK && syi_test(r, x->s, x->n, a, &args) != x->flag);
    }
    default: return syi_v_fail(r, SY_E_BUG, "a node of kind %d in an expression", (int)x->kind);
    }
}

static value eval(run *r, const node *x)
{
    value none = {0};
    if (!tick(r, x)) return none;
    r->depth++;
    value v = eval_inner(r, x);
    r->depth--;
    return r->status == SY_OK ? v : none;
}

/* -- statements ------------------------------------------------------------------------------------- */

static void write(run *r, const char *s, int64_t n)
{
    syi_text_add(r->out, s, (size_t)n);
    if (r->out->failed && r->status == SY_OK) r->status = sy_error_code(r->ctx) == SY_OK ? SY_E_MEMORY : sy_error_code(r->ctx);
}

static value loop_cycle(run *r, value self, const arguments *a)
{
    value i = {0};
    syi_v_get(r, self, STR("index0"), &i);
    if (a->n == 0) return syi_v_fail(r, SY_E_INPUT, "loop.cycle needs values");
    return a->v[i.u.i % a->n];
}

static void set_loop(run *r, value loop, const list *l, int64_t i)
{
    int64_t n = l->n;
    value none = {.u.str = {"loop neighbour", 14}};
    syi_v_put(r, loop, STR("index0"), INT(i));
    syi_v_put(r, loop, STR("index"), INT(i + 1));
    syi_v_put(r, loop, STR("revindex0"), INT(n - i - 1));
    syi_v_put(r, loop, STR("revindex"), INT(n - i));
    syi_v_put(r, loop, STR("first"), BOOL(i == 0));
    syi_v_put(r, loop, STR("last"), BOOL(i + 1 == n));
    syi_v_put(r, loop, STR("length"), INT(n));
    syi_v_put(r, loop, STR("previtem"), i > 0 ? l->v[i - 1] : none);
    syi_v_put(r, loop, STR("nextitem"), i + 1 < n ? l->v[i + 1] : none);
}

static void for_loop(run *r, const node *x)
{
    value all = syi_v_items(r, eval(r, x->kid[1])), kept = syi_v_list(r, V_LIST);
    scope *back = r->scope, s;
    if (r->status != SY_OK) return;
    if (x->kid[2]->kind != N_NONE) {
        for (int64_t i = 0; i < all.u.list->n && push_scope(r, &s); i++) {
            assign(r, x->kid[0], all.u.list->v[i]);
            if (syi_v_true(eval(r, x->kid[2]))) syi_v_push(r, kept, all.u.list->v[i]);
            r->scope = back;
        }
        all = kept;
    }
    value loop = syi_v_dict(r, V_NAMESPACE), *self = syi_v_alloc(r, sizeof *self);
    if (r->status != SY_OK) return;
    *self = loop;
    syi_v_put(r, loop, STR("cycle"), (value){.kind = V_METHOD, .u.bound = {loop_cycle, self}});
    for (int64_t i = 0; i < all.u.list->n && r->status == SY_OK; i++) {
        set_loop(r, loop, all.u.list, i);
        if (!push_scope(r, &s)) break;
        assign(r, x->kid[0], all.u.list->v[i]);
        assign(r, &(node){.kind = N_NAME, .s = "loop", .n = 4}, loop);
        execute(r, x->kid[3]);
        r->scope = back;
        bool stop = r->flow == FLOW_BREAK;
        r->flow = FLOW_ON;
        if (stop) break;
    }
    if (all.u.list->n == 0 && x->kid[4]->kind == N_BLOCK) execute(r, x->kid[4]);
}

static void set_block(run *r, const node *x)
{
    syi_text text, *out = r->out;
    scope *back = r->scope, s;
    syi_text_init(&text, r->ctx, OUTPUT_MAX);
    if (push_scope(r, &s)) {
        r->out = &text;
        execute(r, x->kid[1]);
        r->out = out;
        r->scope = back;
    }
    value v = syi_v_take(r, &text);
    /* The filters hang on a NONE; they are applied from the inside. */
    const node *f[RUN_DEPTH];
    int n = 0;
    for (const node *k = x->kid[2]; k->kind == N_FILTER && n < RUN_DEPTH; k = k->kid[0]) f[n++] = k;
    while (n-- > 0) {
        arguments args = arguments_of(r, f[n], 1);
        if (r->status == SY_OK) v = syi_filter(r, f[n]->s, f[n]->n, v, &args);
    }
    assign(r, x->kid[0], v);
}

static void if_statement(run *r, const node *x)
{
    int i = 0;
    for (; i + 1 < x->kids; i += 2) {
        bool yes = syi_v_true(eval(r, x->kid[i]));
        if (r->status != SY_OK) return;
        if (!yes) continue;
        execute(r, x->kid[i + 1]);
        return;
    }
    if (i < x->kids) execute(r, x->kid[i]);
}

static void execute(run *r, const node *x)
{
    if (!tick(r, x) || r->flow != FLOW_ON) return;
    r->depth++;
    switch (x->kind) {
    case N_TEXT: write(r, x->s, x->n); break;
    case N_OUTPUT: {
        value v = eval(r, x->kid[0]);
        if (r->status == SY_OK) syi_v_write(r, r->out, v);
        break;
    }
    case N_BLOCK:
        for (int i = 0; i < x->kids && r->status == SY_OK && r->flow == FLOW_ON; i++) execute(r, x->kid[i]);
        break;
    case N_IF: if_statement(r, x); break;
    case N_FOR: for_loop(r, x); break;
    case N_SET: assign(r, x->kid[0], eval(r, x->kid[1])); break;
    case N_SET_BLOCK: set_block(r, x); break;
    case N_MACRO: assign(r, &(node){.kind = N_NAME, .s = x->s, .n = x->n}, (value){.kind = V_MACRO, .u.macro = x}); break;
    case N_BREAK: r->flow = FLOW_BREAK; break;
    case N_CONTINUE: r->flow = FLOW_CONTINUE; break;
    default: syi_v_fail(r, SY_E_BUG, "a node of kind %d as a statement", (int)x->kind);
    }
    r->depth--;
}

sy_status syi_chat_run(sy_context *ctx, const syi_chat *c, const json_t *variables, const json_t *messages, size_t n,
                       bool add_generation_prompt, syi_text *out)
{
    run r = {.ctx = ctx, .where = c->where, .out = out};
    scope global = {0};
    SYI_TRY(syi_arena_new(ctx, 64 << 10, &r.arena));
    if (push_scope(&r, &global)) {
        value names = {.kind = V_DICT, .u.dict = global.names}, list_value = syi_v_list(&r, V_LIST);
        const char *key;
        json_t *v;
        syi_v_put(&r, names, STR("tools"), (value){.kind = V_NONE});
        syi_v_put(&r, names, STR("documents"), (value){.kind = V_NONE});
        json_object_foreach((json_t *)(uintptr_t)variables, key, v)
            syi_v_put(&r, names, (value){.kind = V_STRING, .u.str = {key, (int64_t)strlen(key)}}, syi_v_from_json(&r, v, 0));
        for (size_t i = 0; i < n; i++) syi_v_push(&r, list_value, syi_v_from_json(&r, json_array_get(messages, i), 0));
        syi_v_put(&r, names, STR("messages"), list_value);
        syi_v_put(&r, names, STR("add_generation_prompt"), BOOL(add_generation_prompt));
        r.global = &global;
        execute(&r, c->root);
    }
    syi_arena_free(r.arena);
    return r.status == SY_E_UNSUPPORTED ? syi_chat_advise(ctx) : r.status;
}
