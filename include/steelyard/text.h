/* SPDX-License-Identifier: Apache-2.0 */
/* Text: tokenizers, chat templates, data sets, batches. */
#ifndef STEELYARD_TEXT_H
#define STEELYARD_TEXT_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* -- tokenizer -------------------------------------------------------------- */
/* tokenizer.json, interpreted literally; a component that is not known is an
 * error that names it. Read-only after loading: safe to share between threads. */
typedef struct sy_tokenizer sy_tokenizer;

/* From the text of a tokenizer.json. `where` is for messages. */
sy_status sy_tokenizer_parse(sy_context *ctx, const char *json, size_t len, const char *where, sy_tokenizer **out);
void sy_tokenizer_free(sy_tokenizer *t);
int64_t sy_tokenizer_size(const sy_tokenizer *t); /* highest id + 1 */

typedef struct { int32_t id; int64_t begin, end; } sy_token; /* bytes [begin,end) of the input */
/* UTF-8 text (malformed bytes are handled as byte-level tokenizers do). special:
 * added special tokens in the text are recognised; add: the post-processor adds
 * its tokens (BOS). *out from the context's allocator: free with sy_tokens_free. */
sy_status sy_tokenize(sy_context *ctx, const sy_tokenizer *t, const char *text, int64_t len, bool special, bool add,
                      sy_token **out, int64_t *n);
void sy_tokens_free(sy_context *ctx, sy_token *tokens);
/* Ids to text; skip_special leaves special tokens out. Caller frees with
 * sy_string_free. The result may end inside a character: *complete tells how
 * many of its bytes are whole characters (for streaming); NULL if unwanted. */
sy_status sy_detokenize(sy_context *ctx, const sy_tokenizer *t, const int32_t *ids, int64_t n, bool skip_special,
                        char **text, int64_t *complete);
void sy_string_free(sy_context *ctx, char *s);
/* The id of a token by its exact content, or -1; the content of an id, or NULL. */
int32_t sy_token_find(const sy_tokenizer *t, const char *content);
const char *sy_token_text(const sy_tokenizer *t, int32_t id, int64_t *len, bool *special);

/* -- chat ----------------------------------------------------------------------- */
typedef struct { const char *role, *content; } sy_message;
/* Renders messages with the model's template. `jinja` is the template's text
 * (NULL: ChatML). `first`..`n`: with the incremental rule used for loss masks,
 * the text of message i is render(0..i) minus render(0..i-1). */
sy_status sy_chat_render(sy_context *ctx, const char *jinja, const sy_message *messages, int64_t n,
                         bool add_generation_prompt, char **text);

/* -- data sets ------------------------------------------------------------------ */
typedef enum { SY_LOSS_DEFAULT, /* completions and assistant turns; all of plain text */
               SY_LOSS_ALL } sy_loss_on;

typedef struct {
    const sy_tokenizer *tokenizer;
    const char *chat_template;  /* Jinja text or NULL                             */
    int32_t eos_id, bos_id;     /* -1: none. EOS ends every document              */
    sy_loss_on loss_on;
    int64_t seq;                /* tokens a row of a batch, >= 2                  */
    bool pack;                  /* documents share rows; they never see each other */
    bool shuffle;               /* documents' order, anew each epoch              */
    uint64_t seed;
    int64_t max_documents;      /* 0: all                                         */
} sy_dataset_options;

typedef struct sy_dataset sy_dataset;
/* .jsonl / .json (array) / .txt, each also .gz. One .txt file is one document,
 * longer ones are cut into windows of seq tokens that do not overlap. An empty
 * data set, a mask of all 0 (or of all 1 for a prompt+completion or messages
 * set) is SY_E_INPUT. */
sy_status sy_dataset_open(sy_context *ctx, const char *path, const sy_dataset_options *options, sy_dataset **out);
/* The same from memory: one document of token ids, all trained. For tests. */
sy_status sy_dataset_from_ids(sy_context *ctx, const int32_t *ids, int64_t n, const sy_dataset_options *options, sy_dataset **out);
void sy_dataset_free(sy_dataset *d);

typedef struct {
    int64_t documents, tokens, trained_tokens, rows_per_epoch, truncated_documents;
    const char *format;   /* "text", "prompt-completion", "messages", "plain"     */
    char hash[33];        /* of the file's bytes                                  */
} sy_dataset_info;
void sy_dataset_stat(const sy_dataset *d, sy_dataset_info *out);

/* Tokens of `rows` rows laid end to end: tokens = rows * seq. */
struct sy_batch {
    int64_t rows, seq, tokens;
    const int32_t *ids;       /* [tokens]                                          */
    const int32_t *positions; /* [tokens] within its document                      */
    const int32_t *first;     /* [tokens] index of its document's first token in
                                 this batch; padding is its own one-token document */
    const int32_t *target;    /* [tokens] next token, or -1: no loss here          */
    const float *weight;      /* [tokens] loss weight (1 by default); NULL: all 1  */
    const int32_t *sample;    /* [tokens] which sample of the batch it belongs to  */
    int64_t samples, trained; /* trained: tokens with target >= 0                  */
};
typedef struct sy_batch sy_batch;

/* Rows [row, row+rows) of the endless sequence of epochs (row / rows_per_epoch is
 * the epoch): any row at any time, so resuming is a matter of one number. Fills
 * arrays that `out` points to; buffers belong to the data set until the next
 * call with the same `slot` (0..3). */
sy_status sy_dataset_batch(sy_dataset *d, int64_t row, int64_t rows, int slot, sy_batch *out);

#ifdef __cplusplus
}
#endif
#endif
