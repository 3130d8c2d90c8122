/* SPDX-License-Identifier: Apache-2.0 */
/* The Jinja subset of chat templates: the parsed form and the values it works on.
 * Internal to chat*.c. Parsing gives a tree of nodes that nobody writes on;
 * a rendering has an arena of its own and budgets of steps, depth and bytes. */
#ifndef SYI_TEXT_CHAT_H
#define SYI_TEXT_CHAT_H

#include "text.h"

enum { TEMPLATE_MAX = 1 << 20, PARSE_DEPTH = 100, RUN_DEPTH = 150, RUN_STEPS = 20000000, RUN_BYTES = 256 << 20, OUTPUT_MAX = 64 << 20 };

typedef enum {
    /* expressions */
    N_NONE, N_BOOL, N_INT, N_FLOAT, N_STRING, N_NAME, N_LIST, N_TUPLE, N_DICT, N_NOT, N_NEGATE, N_PLUS, N_AND, N_OR, N_COMPARE,
    N_BINARY, N_CONCAT, N_IF_ELSE, N_ATTRIBUTE, N_INDEX, N_SLICE, N_CALL, N_FILTER, N_TEST, N_KEYWORD, N_SPREAD,
    /* statements */
    N_TEXT, N_OUTPUT, N_BLOCK, N_IF, N_FOR, N_SET, N_SET_BLOCK, N_MACRO, N_BREAK, N_CONTINUE
} node_kind;

typedef enum {
    OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOT_IN, OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOOR, OP_MOD, OP_POW
} operator_kind;

/* kid: operands, arguments, parts; what each means stands at its parse function. */
typedef struct node node;
struct node {
    node_kind kind;
    operator_kind op;
    int line;
    bool flag;              /* TEST: is not                                          */
    const char *s;          /* name or text                                          */
    int64_t n;
    int64_t i;
    double f;
    node **kid;
    int kids, cap;
};

struct syi_chat {
    sy_context *ctx;
    syi_arena *arena;
    char *where;
    node *root;
};

sy_status syi_chat_tree(sy_context *ctx, syi_chat *c, const char *text, size_t len);

/* -- values ----------------------------------------------------------------- */

typedef enum { V_UNDEFINED, V_NONE, V_BOOL, V_INT, V_FLOAT, V_STRING, V_LIST, V_TUPLE, V_DICT, V_NAMESPACE, V_FUNCTION, V_METHOD, V_MACRO } value_kind;

typedef struct value value;
typedef struct { value *v; int64_t n, cap; } list;
typedef struct { value *key, *v; int64_t n, cap; } dict;
typedef struct run run;
typedef struct { const value *v; int n; const char *const *key; const value *key_value; int keys; } arguments;
typedef value function(run *r, const arguments *a);
typedef value method(run *r, value self, const arguments *a);

struct value {
    value_kind kind;
    union {
        bool b;
        int64_t i;
        double f;
        struct { const char *s; int64_t n; } str; /* UNDEFINED: its name; METHOD: see below */
        list *list;
        dict *dict;
        function *fn;
        const node *macro;
        struct { method *fn; value *self; } bound;
    } u;
};

typedef struct scope scope;
struct scope { scope *up; dict *names; };

struct run {
    sy_context *ctx;
    const char *where;
    syi_arena *arena;
    syi_text *out;
    scope *scope, *global;
    sy_status status;       /* sticky                                                */
    int64_t steps, bytes;
    int depth, line;
    enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;
};

/* chat_value.c: all return an undefined value after a failure, which r->status tells */
value syi_v_fail(run *r, sy_status code, const char *fmt, ...) SYI_PRINTF(3, 4);
void *syi_v_alloc(run *r, size_t n);
value syi_v_string(run *r, const char *s, int64_t n); /* copies */
value syi_v_list(run *r, value_kind kind);
value syi_v_dict(run *r, value_kind kind);
void syi_v_push(run *r, value l, value item);
void syi_v_put(run *r, value d, value key, value item);
bool syi_v_get(run *r, value d, value key, value *out);
value syi_v_from_json(run *r, const json_t *j, int depth);
bool syi_v_true(value v);
bool syi_v_equal(run *r, value a, value b, int depth);
int syi_v_order(run *r, value a, value b);    /* -1, 0, 1; fails if they have none */
bool syi_v_contains(run *r, value whole, value part);
const char *syi_v_type(value v);
void syi_v_write(run *r, syi_text *t, value v);              /* str()  */
void syi_v_repr(run *r, syi_text *t, value v, int depth);    /* repr() */
void syi_v_json(run *r, syi_text *t, value v, int64_t indent, const char *item, const char *colon, bool sort, int depth);
value syi_v_str(run *r, value v);
value syi_v_take(run *r, syi_text *t); /* the text as a value; frees it */
value syi_v_items(run *r, value v);    /* what iterating gives, as a list */
int64_t syi_v_length(run *r, value v); /* -1: it has none (not a failure) */
value syi_v_index(run *r, value v, value key);
value syi_v_slice(run *r, value v, const value part[3]);
#define STR(lit) ((value){.kind = V_STRING, .u.str = {lit, (int64_t)sizeof(lit) - 1}})
#define INT(x) ((value){.kind = V_INT, .u.i = (x)})
#define BOOL(x) ((value){.kind = V_BOOL, .u.b = (x)})
static inline bool syi_is_str(value v)
{
    return v.kind == V_STRING;
}

/* chat_filter.c */
value syi_filter(run *r, const char *name, int64_t n, value in, const arguments *a);
bool syi_test(run *r, const char *name, int64_t n, value in, const arguments *a);
/* chat_method.c: NULL if values of that kind have no such method */
method *syi_method(value self, const char *name, int64_t n);
value syi_global(const char *name, int64_t n); /* raise_exception, namespace, range, dict */
/* chat_run.c */
value syi_call(run *r, value f, const arguments *a);
bool syi_argument(const arguments *a, int position, const char *name, value *out);

#endif
