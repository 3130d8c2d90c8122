/* SPDX-License-Identifier: Apache-2.0 */
/* Parses a chat template into a tree, by recursive descent with Jinja's own
 * precedences. Depth is bounded; errors are sticky and name the line. */
#include "chat_lex.h"

typedef struct {
    sy_context *ctx;
    syi_arena *arena;
    const char *where;
    const token *t;     /* the next one */
    sy_status status;
    int depth, loops;
} parser;

static node *expression(parser *p);
static node *primary(parser *p);
static node *body(parser *p, const char *const *ends);

/* -- small things ----------------------------------------------------------------- */

static node *fail(parser *p, sy_status code, const char *what)
{
    if (p->status != SY_OK) return NULL;
    const token *t = p->t;
    if (t->kind == T_NAME || t->kind == T_OPERATOR)
        p->status = syi_fail(p->ctx, code, "%s:%d: %s, at '%.*s'", p->where, t->line, what, (int)syi_min(t->n, 40), t->s);
    else p->status = syi_fail(p->ctx, code, "%s:%d: %s", p->where, t->line, what);
    return NULL;
}

static node *make(parser *p, node_kind kind)
{
    if (p->status != SY_OK) return NULL;
    node *x = syi_arena_alloc(p->arena, sizeof *x);
    if (x == NULL) {
        p->status = SY_E_MEMORY;
        return NULL;
    }
    x->kind = kind;
    x->line = p->t->line;
    return x;
}

static void add(parser *p, node *x, node *kid)
{
    if (p->status != SY_OK || x == NULL) return;
    if (x->kids == x->cap) {
        int cap = x->cap ? x->cap * 2 : 4;
        node **more = syi_arena_alloc(p->arena, (size_t)cap * sizeof *more);
        if (more == NULL) {
            p->status = SY_E_MEMORY;
            return;
        }
        if (x->kids > 0) memcpy(more, x->kid, (size_t)x->kids * sizeof *more);
        x->kid = more;
        x->cap = cap;
    }
    x->kid[x->kids++] = kid;
}

static node *make2(parser *p, node_kind kind, node *a, node *b)
{
    node *x = make(p, kind);
    if (a != NULL) add(p, x, a);
    if (b != NULL) add(p, x, b);
    return x;
}

static bool is_op(const parser *p, const char *op)
{
    return p->t->kind == T_OPERATOR && strcmp(p->t->s, op) == 0;
}

static bool same(const token *t, const char *name)
{
    return t->kind == T_NAME && t->n == (int64_t)strlen(name) && memcmp(t->s, name, (size_t)t->n) == 0;
}

static bool is_name(const parser *p, const char *name)
{
    return same(p->t, name);
}

static bool skip_op(parser *p, const char *op)
{
    bool yes = p->status == SY_OK && is_op(p, op);
    p->t += yes;
    return yes;
}

static bool skip_name(parser *p, const char *name)
{
    bool yes = p->status == SY_OK && is_name(p, name);
    p->t += yes;
    return yes;
}

static void expect_op(parser *p, const char *op)
{
    char what[32];
    snprintf(what, sizeof what, "expected '%s'", op);
    if (p->status == SY_OK && !skip_op(p, op)) fail(p, SY_E_INPUT, what);
}

static void expect_end(parser *p)
{
    if (p->status != SY_OK) return;
    if (p->t->kind == T_END) p->t++;
    else fail(p, SY_E_INPUT, "expected the end of the tag");
}

static bool enter(parser *p)
{
    if (++p->depth > PARSE_DEPTH) fail(p, SY_E_INPUT, "nested too deeply");
    return p->status == SY_OK;
}

static node *name_node(parser *p, node_kind kind)
{
    node *x = make(p, kind);
    if (x == NULL) return NULL;
    if (p->t->kind != T_NAME) return fail(p, SY_E_INPUT, "expected a name");
    x->s = p->t->s;
    x->n = p->t->n;
    p->t++;
    return x;
}

/* -- expressions -------------------------------------------------------------------- */

/* kid 0: what is called, filtered or tested (NULL for none); then arguments. */
static void arguments_of(parser *p, node *x)
{
    bool keywords = false;
    expect_op(p, "(");
    while (p->status == SY_OK && !skip_op(p, ")")) {
        if (p->t->kind == T_NAME && p->t[1].kind == T_OPERATOR && strcmp(p->t[1].s, "=") == 0) {
            node *k = name_node(p, N_KEYWORD);
            p->t++;
            add(p, k, expression(p));
            add(p, x, k);
            keywords = true;
        } else if (is_op(p, "**")) {
            fail(p, SY_E_UNSUPPORTED, "unpacking of named arguments is not supported");
        } else if (skip_op(p, "*")) {
            node *k = make(p, N_SPREAD);
            add(p, k, expression(p));
            add(p, x, k);
        } else {
            if (keywords) fail(p, SY_E_INPUT, "an argument after a named one");
            add(p, x, expression(p));
        }
        if (!is_op(p, ")")) expect_op(p, ",");
    }
}

static node *subscript(parser *p, node *of)
{
    node *part[3] = {NULL, NULL, NULL};
    int colons = 0;
    expect_op(p, "[");
    while (p->status == SY_OK && !is_op(p, "]")) {
        if (skip_op(p, ":")) {
            if (++colons > 2) return fail(p, SY_E_INPUT, "a slice has at most two ':'");
        } else if (part[colons] != NULL) {
            return fail(p, SY_E_INPUT, "expected ':' or ']'");
        } else {
            part[colons] = expression(p);
        }
    }
    expect_op(p, "]");
    if (colons == 0 && part[0] == NULL) return fail(p, SY_E_INPUT, "expected an index");
    if (colons == 0) return make2(p, N_INDEX, of, part[0]);
    node *x = make2(p, N_SLICE, of, NULL);
    for (int i = 0; i < 3; i++) add(p, x, part[i] ? part[i] : make(p, N_NONE));
    return x;
}

static node *postfix(parser *p, node *x)
{
    while (p->status == SY_OK) {
        if (skip_op(p, ".")) {
            if (p->t->kind == T_INT) {
                node *i = make(p, N_INT);
                if (i != NULL) i->i = p->t->i;
                p->t++;
                x = make2(p, N_INDEX, x, i);
                continue;
            }
            node *a = name_node(p, N_ATTRIBUTE);
            add(p, a, x);
            x = a;
        } else if (is_op(p, "[")) {
            x = subscript(p, x);
        } else if (is_op(p, "(")) {
            node *c = make2(p, N_CALL, x, NULL);
            arguments_of(p, c);
            x = c;
        } else {
            break;
        }
    }
    return x;
}

/* Filters, tests and calls, as they follow each other. */
static node *filters(parser *p, node *x)
{
    while (p->status == SY_OK) {
        if (skip_op(p, "|")) {
            node *f = name_node(p, N_FILTER);
            add(p, f, x);
            if (is_op(p, "(")) arguments_of(p, f);
            x = f;
        } else if (skip_name(p, "is")) {
            bool negative = skip_name(p, "not");
            node *t = name_node(p, N_TEST);
            if (t == NULL) return NULL;
            t->flag = negative;
            add(p, t, x);
            if (is_op(p, "(")) {
                arguments_of(p, t);
            } else if ((p->t->kind == T_NAME && !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and") && !is_name(p, "is") &&
                        !is_name(p, "if") && !is_name(p, "not") && !is_name(p, "in")) ||
                       p->t->kind == T_STRING || p->t->kind == T_INT || p->t->kind == T_FLOAT || is_op(p, "[") || is_op(p, "{")) {
                add(p, t, postfix(p, primary(p)));
            }
            x = t;
        } else if (is_op(p, "(")) {
            node *c = make2(p, N_CALL, x, NULL);
            arguments_of(p, c);
            x = c;
        } else {
            break;
        }
    }
    return x;
}

/* Values between brackets; `close` is skipped. A tuple of one needs its comma. */
static node *sequence(parser *p, node *x, const char *close, bool *comma)
{
    while (p->status == SY_OK && !skip_op(p, close)) {
        add(p, x, expression(p));
        if (is_op(p, close)) continue;
        expect_op(p, ",");
        *comma = true;
    }
    return x;
}

static node *dictionary(parser *p)
{
    node *x = make(p, N_DICT);
    expect_op(p, "{");
    while (p->status == SY_OK && !skip_op(p, "}")) {
        add(p, x, expression(p));
        expect_op(p, ":");
        add(p, x, expression(p));
        if (!is_op(p, "}")) expect_op(p, ",");
    }
    return x;
}

static node *constant(parser *p, node_kind kind)
{
    node *x = make(p, kind);
    if (x != NULL) {
        x->s = p->t->s;
        x->n = p->t->n;
        x->i = p->t->i;
        x->f = p->t->f;
    }
    p->t++;
    return x;
}

static node *primary(parser *p)
{
    if (p->status != SY_OK) return NULL;
    bool comma = false;
    switch (p->t->kind) {
    case T_NAME:
        if (is_name(p, "none") || is_name(p, "None")) return constant(p, N_NONE);
        if (is_name(p, "true") || is_name(p, "True") || is_name(p, "false") || is_name(p, "False")) {
            bool yes = p->t->s[0] == 't' || p->t->s[0] == 'T';
            node *x = constant(p, N_BOOL);
            if (x != NULL) x->i = yes;
            return x;
        }
        return name_node(p, N_NAME);
    case T_INT:
        return constant(p, N_INT);
    case T_FLOAT:
        return constant(p, N_FLOAT);
    case T_STRING: { /* neighbours are one text */
        node *x = constant(p, N_STRING);
        while (x != NULL && p->t->kind == T_STRING) {
            char *s = syi_arena_alloc(p->arena, (size_t)(x->n + p->t->n) + 1);
            if (s == NULL) {
                p->status = SY_E_MEMORY;
                return NULL;
            }
            memcpy(s, x->s, (size_t)x->n);
            memcpy(s + x->n, p->t->s, (size_t)p->t->n);
            x->s = s;
            x->n += p->t->n;
            p->t++;
        }
        return x;
    }
    default:
        break;
    }
    if (is_op(p, "{")) return dictionary(p);
    if (skip_op(p, "[")) return sequence(p, make(p, N_LIST), "]", &comma);
    if (skip_op(p, "(")) {
        node *x = sequence(p, make(p, N_TUPLE), ")", &comma);
        return x != NULL && x->kids == 1 && !comma ? x->kid[0] : x;
    }
    return fail(p, SY_E_INPUT, "expected a value");
}

static node *unary(parser *p, bool with_filters)
{
    node *x;
    if (!enter(p)) return NULL;
    if (skip_op(p, "-")) x = make2(p, N_NEGATE, unary(p, false), NULL);
    else if (skip_op(p, "+")) x = make2(p, N_PLUS, unary(p, false), NULL);
    else x = postfix(p, primary(p));
    if (with_filters) x = filters(p, x);
    p->depth--;
    return x;
}

typedef struct { const char *s; operator_kind op; } operator_row;

/* Left-associative operators of one level over the next one. */
static node *level(parser *p, int depth)
{
    static const operator_row sum[] = {{"+", OP_ADD}, {"-", OP_SUB}, {NULL, OP_ADD}};
    static const operator_row product[] = {{"*", OP_MUL}, {"//", OP_FLOOR}, {"/", OP_DIV}, {"%", OP_MOD}, {NULL, OP_ADD}};
    static const operator_row power[] = {{"**", OP_POW}, {NULL, OP_ADD}};
    static const operator_row concat[] = {{"~", OP_ADD}, {NULL, OP_ADD}};
    static const operator_row *const table[] = {sum, concat, product, power};
    if (depth == 4) return unary(p, true);
    node *x = level(p, depth + 1);
    for (const operator_row *r = table[depth]; p->status == SY_OK && r->s != NULL;) {
        if (!skip_op(p, r->s)) {
            r++;
            continue;
        }
        x = make2(p, depth == 1 ? N_CONCAT : N_BINARY, x, level(p, depth + 1));
        if (x != NULL) x->op = r->op;
        r = table[depth];
    }
    return x;
}

/* kid 0, then for each comparison a node whose op and kid 0 are its right side. */
static node *comparison(parser *p)
{
    static const operator_row row[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<=", OP_LE}, {">=", OP_GE}, {"<", OP_LT}, {">", OP_GT}};
    node *x = level(p, 0), *all = NULL;
    while (p->status == SY_OK) {
        int k = 0;
        operator_kind op = OP_IN;
        while (k < SYI_COUNT(row) && !is_op(p, row[k].s)) k++;
        if (k < SYI_COUNT(row)) {
            op = row[k].op;
            p->t++;
        } else if (is_name(p, "not") && same(p->t + 1, "in")) {
            op = OP_NOT_IN;
            p->t += 2;
        } else if (!skip_name(p, "in")) {
            break;
        }
        if (all == NULL) all = make2(p, N_COMPARE, x, NULL);
        node *side = make2(p, N_COMPARE, level(p, 0), NULL);
        if (side != NULL) side->op = op;
        add(p, all, side);
    }
    return all ? all : x;
}

static node *negation(parser *p)
{
    if (!skip_name(p, "not")) return comparison(p);
    if (!enter(p)) return NULL;
    node *x = make2(p, N_NOT, negation(p), NULL);
    p->depth--;
    return x;
}

static node *conjunction(parser *p)
{
    node *x = negation(p);
    while (skip_name(p, "and")) x = make2(p, N_AND, x, negation(p));
    return x;
}

static node *disjunction(parser *p)
{
    node *x = conjunction(p);
    while (skip_name(p, "or")) x = make2(p, N_OR, x, conjunction(p));
    return x;
}

/* kids: value, condition[, other value] */
static node *expression(parser *p)
{
    if (!enter(p)) return NULL;
    node *x = disjunction(p);
    while (skip_name(p, "if")) {
        x = make2(p, N_IF_ELSE, x, disjunction(p));
        if (skip_name(p, "else")) add(p, x, expression(p));
    }
    p->depth--;
    return x;
}

/* One value, or several with commas: a tuple. */
static node *values(parser *p, node *(*one)(parser *))
{
    node *x = one(p), *all = NULL;
    while (p->status == SY_OK && is_op(p, ",")) {
        if (all == NULL) all = make2(p, N_TUPLE, x, NULL);
        p->t++;
        if (p->t->kind == T_END || is_op(p, "=")) break;
        add(p, all, one(p));
    }
    return all ? all : x;
}

/* -- statements -------------------------------------------------------------------------- */

static node *one_target(parser *p)
{
    if (skip_op(p, "(")) {
        node *x = values(p, one_target);
        expect_op(p, ")");
        return x;
    }
    node *x = name_node(p, N_NAME);
    if (skip_op(p, ".")) {
        node *a = name_node(p, N_ATTRIBUTE);
        add(p, a, x);
        return a;
    }
    return x;
}

static bool at_tag(const parser *p, const char *name)
{
    return p->t->kind == T_BLOCK && same(p->t + 1, name);
}

/* "{% name": skips both tokens. */
static void open_tag(parser *p)
{
    p->t += 2;
}

static void close_with(parser *p, const char *name)
{
    char what[64];
    snprintf(what, sizeof what, "expected {%% %s %%}", name);
    if (p->status != SY_OK) return;
    if (!at_tag(p, name)) {
        fail(p, SY_E_INPUT, what);
        return;
    }
    open_tag(p);
    expect_end(p);
}

/* kids: condition, body, condition, body, ...[, body of else] */
static node *if_statement(parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    node *x = make(p, N_IF);
    for (;;) {
        open_tag(p);
        add(p, x, values(p, expression));
        expect_end(p);
        add(p, x, body(p, ends));
        if (p->status != SY_OK || !at_tag(p, "elif")) break;
    }
    if (p->status == SY_OK && at_tag(p, "else")) {
        open_tag(p);
        expect_end(p);
        add(p, x, body(p, ends + 2));
    }
    close_with(p, "endif");
    return x;
}

/* kids: target, what is walked, filter or NONE, body, else body or NONE */
static node *for_statement(parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    node *x = make(p, N_FOR);
    open_tag(p);
    add(p, x, values(p, one_target));
    if (!skip_name(p, "in")) return fail(p, SY_E_INPUT, "expected 'in'");
    add(p, x, values(p, disjunction));
    add(p, x, skip_name(p, "if") ? expression(p) : make(p, N_NONE));
    if (p->status == SY_OK && is_name(p, "recursive")) return fail(p, SY_E_UNSUPPORTED, "recursive loops are not supported");
    expect_end(p);
    p->loops++;
    add(p, x, body(p, ends));
    p->loops--;
    if (p->status == SY_OK && at_tag(p, "else")) {
        open_tag(p);
        expect_end(p);
        add(p, x, body(p, ends + 1));
    } else {
        add(p, x, make(p, N_NONE));
    }
    close_with(p, "endfor");
    return x;
}

/* SET: target, value. SET_BLOCK: target, body, filters (whose innermost is NONE). */
static node *set_statement(parser *p)
{
    static const char *const ends[] = {"endset", NULL};
    node *x = make(p, N_SET);
    open_tag(p);
    add(p, x, values(p, one_target));
    if (skip_op(p, "=")) {
        add(p, x, values(p, expression));
        expect_end(p);
        return x;
    }
    if (x == NULL) return NULL;
    x->kind = N_SET_BLOCK;
    node *chain = filters(p, make(p, N_NONE));
    expect_end(p);
    add(p, x, body(p, ends));
    add(p, x, chain);
    close_with(p, "endset");
    return x;
}

/* s: name; kids: body, then for each parameter a KEYWORD with its default or none */
static node *macro_statement(parser *p)
{
    static const char *const ends[] = {"endmacro", NULL};
    open_tag(p);
    node *x = name_node(p, N_MACRO);
    add(p, x, NULL);
    expect_op(p, "(");
    while (p->status == SY_OK && !skip_op(p, ")")) {
        node *k = name_node(p, N_KEYWORD);
        if (skip_op(p, "=")) add(p, k, expression(p));
        add(p, x, k);
        if (!is_op(p, ")")) expect_op(p, ",");
    }
    expect_end(p);
    int loops = p->loops;
    p->loops = 0;
    node *b = body(p, ends);
    p->loops = loops;
    if (p->status != SY_OK) return NULL;
    x->kid[0] = b;
    close_with(p, "endmacro");
    return x;
}

static node *flow_statement(parser *p, node_kind kind)
{
    if (p->loops == 0) return fail(p, SY_E_INPUT, "break or continue outside of a loop");
    node *x = make(p, kind);
    open_tag(p);
    expect_end(p);
    return x;
}

static node *generation(parser *p)
{
    static const char *const ends[] = {"endgeneration", NULL};
    open_tag(p);
    expect_end(p);
    node *x = body(p, ends);
    close_with(p, "endgeneration");
    return x;
}

static node *statement(parser *p)
{
    if (at_tag(p, "if")) return if_statement(p);
    if (at_tag(p, "for")) return for_statement(p);
    if (at_tag(p, "set")) return set_statement(p);
    if (at_tag(p, "macro")) return macro_statement(p);
    if (at_tag(p, "break")) return flow_statement(p, N_BREAK);
    if (at_tag(p, "continue")) return flow_statement(p, N_CONTINUE);
    if (at_tag(p, "generation")) return generation(p);
    static const char *const not_here[] = {"call", "filter", "with", "include", "import", "from", "extends", "block", "autoescape", "trans", "do", NULL};
    p->t++;
    for (int i = 0; not_here[i] != NULL; i++)
        if (is_name(p, not_here[i])) return fail(p, SY_E_UNSUPPORTED, "this tag is not supported in chat templates here");
    return fail(p, SY_E_INPUT, "a tag that is not known or stands in the wrong place");
}

/* Up to the end or one of the tags `ends`, which is left. */
static node *body(parser *p, const char *const *ends)
{
    node *x = make(p, N_BLOCK);
    if (!enter(p)) return NULL;
    while (p->status == SY_OK && p->t->kind != T_EOF) {
        if (p->t->kind == T_TEXT) {
            add(p, x, constant(p, N_TEXT));
        } else if (p->t->kind == T_VARIABLE) {
            p->t++;
            add(p, x, make2(p, N_OUTPUT, values(p, expression), NULL));
            expect_end(p);
        } else {
            bool end = false;
            for (const char *const *e = ends; *e != NULL; e++) end = end || at_tag(p, *e);
            if (end) break;
            add(p, x, statement(p));
        }
    }
    p->depth--;
    return x;
}

/* Newlines become \n and one at the end is left out, as Jinja does. */
static char *lines_of(syi_arena *a, const char *text, size_t len, int64_t *n)
{
    char *s = syi_arena_alloc(a, len + 1);
    int64_t w = 0;
    for (size_t i = 0; s != NULL && i < len; i++) {
        if (text[i] == '\r' && i + 1 < len && text[i + 1] == '\n') continue;
        s[w++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (w > 0 && s[w - 1] == '\n') w--;
    *n = w;
    return s;
}

sy_status syi_chat_tree(sy_context *ctx, syi_chat *c, const char *text, size_t len)
{
    static const char *const none[] = {NULL};
    lexer x = {.ctx = ctx, .arena = c->arena, .where = c->where, .line = 1};
    if (len > TEMPLATE_MAX)
        return syi_fail(ctx, SY_E_INPUT, "%s: a template of %zu bytes; at most %d are accepted", c->where, len, TEMPLATE_MAX);
    x.s = lines_of(c->arena, text, len, &x.n);
    if (x.s == NULL) return SY_E_MEMORY;
    sy_status st = syi_chat_lex(&x);
    if (st == SY_OK) {
        parser p = {.ctx = ctx, .arena = c->arena, .where = c->where, .t = x.token};
        c->root = body(&p, none);
        st = p.status;
    }
    syi_free(ctx, x.token);
    return st;
}
