/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens of a template, between chat_lex.c and chat_parse.c. */
#ifndef SYI_TEXT_CHAT_LEX_H
#define SYI_TEXT_CHAT_LEX_H

#include "chat.h"

#include <errno.h>
#include <stdlib.h>

typedef enum { T_EOF, T_TEXT, T_VARIABLE, T_BLOCK, T_END, T_NAME, T_STRING, T_INT, T_FLOAT, T_OPERATOR } token_kind;
typedef struct { token_kind kind; int line; const char *s; int64_t n, i; double f; } token;
typedef struct {
    sy_context *ctx;
    syi_arena *arena;
    const char *where, *s; /* newlines are \n already */
    int64_t n, at;
    int line;
    token *token;          /* freed by the caller */
    int64_t count, cap;
} lexer;
sy_status syi_chat_lex(lexer *x);

#endif
