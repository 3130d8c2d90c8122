/* SPDX-License-Identifier: Apache-2.0 */
/* Kinds of vocabulary that GGUF knows, one row each, for gguf_tokenizer.c. */
#ifndef SYI_VOCABULARIES_H
#define SYI_VOCABULARIES_H

#include "source.h"

#define KEY "tokenizer.ggml."

/* Types of tokens in GGUF. */
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };

typedef struct {
    sy_context *ctx;
    const syi_gguf *g;
    const char *path;
    const syi_pre_row *pre;   /* of byte-level BPE                                    */
    const char *unk;          /* the text of the unknown token, or NULL                */
} syi_vocab_reader;

/* Parts of a tokenizer.json; new references. The model gets its "vocab" later. */
typedef struct { json_t *normalizer, *pre_tokenizer, *decoder, *model; } syi_vocab_parts;

typedef struct {
    sy_context *ctx;
    const syi_source *s;
    int64_t n;
    const char **token;    /* [n], NULL: no such id                                   */
    int32_t *type;         /* [n]                                                     */
} syi_vocab_table;

typedef struct {
    const char *model;     /* tokenizer.ggml.model                                    */
    bool add_bos, add_eos; /* where the file does not say                             */
    /* A token's text in tokenizer.json from GGUF's; syi_free()d. NULL: the same.       */
    char *(*text_from)(sy_context *ctx, const char *text, int type);
    /* vocab: texts and ids as in tokenizer.json.                                      */
    sy_status (*parts)(syi_vocab_reader *r, const json_t *vocab, syi_vocab_parts *out);
    bool (*is)(const json_t *tokenizer);         /* can this one be written so?        */
    bool (*adds_space)(const json_t *tokenizer); /* before the first word              */
    /* Puts what is special to the kind, and may change texts and types of the table.  */
    sy_status (*put)(syi_gguf_writer *w, syi_vocab_table *t, syi_arena *arena);
} syi_vocabulary;
const syi_vocabulary *syi_vocabulary_by_name(const char *model);   /* NULL: none       */
const syi_vocabulary *syi_vocabulary_of(const json_t *tokenizer);

#endif
