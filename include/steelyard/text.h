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
/* Ids to text; skip_special leaves special tokens out; ids that the tokenizer
 * does not have give nothing. Bytes come out as they are: what is not UTF-8 stays
 * so. Caller frees with sy_string_free. *len: its bytes (a NUL follows; there may
 * be others inside). The result may end inside a character: *complete tells how
 * many of its bytes are whole characters (for streaming). Both NULL if unwanted. */
sy_status sy_detokenize(sy_context *ctx, const sy_tokenizer *t, const int32_t *ids, int64_t n, bool skip_special,
                        char **text, int64_t *len, int64_t *complete);
void sy_string_free(sy_context *ctx, char *s);
/* The id of a token by its exact content, or -1; the content of an id, or NULL. */
int32_t sy_token_find(const sy_tokenizer *t, const char *content);
const char *sy_token_text(const sy_tokenizer *t, int32_t id, int64_t *len, bool *special);

/* -- chat ----------------------------------------------------------------------- */
typedef struct { const char *role, *content; } sy_message;
/* Renders messages with the model's own template, as transformers'
 * apply_chat_template does. `jinja` is the template's text (NULL: ChatML);
 * bos_token and eos_token are what it prints under those names (NULL: undefined).
 * A construct that is not known is SY_E_UNSUPPORTED with its line; what the
 * template itself refuses (raise_exception) is SY_E_INPUT with its words. Steps,
 * depth and output are bounded. Free *text with sy_string_free. */
typedef struct { const char *jinja, *bos_token, *eos_token; } sy_chat_template;
sy_status sy_chat_render(sy_context *ctx, const sy_chat_template *chat, const sy_message *messages, int64_t n,
                         bool add_generation_prompt, char **text);
/* The same for a conversation in JSON, as the field writes them: {"messages": [...],
 * "tools": [...], "add_generation_prompt": true, ...}. A message is passed to the
 * template with all of its keys (tool_calls, tool_call_id, content as a list of
 * parts, ...); every other key of the object is a variable of the template, as what
 * apply_chat_template passes on (documents, enable_thinking, date_string, ...). */
sy_status sy_chat_render_json(sy_context *ctx, const sy_chat_template *chat, const char *json, size_t len, char **text);
/* Templates that are built in, for models that come without one or with one that is
 * not understood: the text of NAME, or NULL. `i` from 0: the names and what they are
 * for, NULL at the end. */
const char *sy_chat_named(const char *name);
const char *sy_chat_name(int i, const char **title);

/* -- data sets ------------------------------------------------------------------ */
typedef enum { SY_LOSS_DEFAULT, /* completions and assistant turns; all of plain text */
               SY_LOSS_ALL } sy_loss_on;

/* What a file calls the parts of its records; NULL: as they are named here (role and
 * content: also "from" and "value"). */
typedef struct {
    const char *text, *prompt, *completion, *messages, *instruction, *input, *output, *system, *role, *content, *chosen, *rejected;
} sy_dataset_fields;
/* What to do with preference records: of two answers, one can be trained. */
typedef enum { SY_PREFERENCE_REFUSED, SY_PREFERENCE_CHOSEN, SY_PREFERENCE_REJECTED } sy_preference;

typedef struct {
    const sy_tokenizer *tokenizer; /* must outlive the call that opens             */
    const char *chat_template;  /* Jinja text or NULL: ChatML                     */
    const char *bos_token, *eos_token; /* for the template; NULL: content of the ids */
    int32_t eos_id, bos_id;     /* -1: none; see the rules below                  */
    sy_loss_on loss_on;
    int64_t seq;                /* tokens a row of a batch, >= 2                  */
    bool pack;                  /* documents share rows; they never see each other */
    bool shuffle;               /* rows' order, anew each epoch                   */
    uint64_t seed;
    int64_t max_documents;      /* 0: all                                         */
    double holdout;             /* share [0,1) of the documents that is kept aside,
                                   chosen by the seed; of a single text: its end   */
    bool heldout;               /* this is the part kept aside, not the rest       */
    sy_dataset_fields fields;
    sy_preference preference;
    const char *cache;          /* a folder: tokens are kept there under a name made of
                                   the contents of file, tokenizer, template and
                                   options, and found again. NULL: not kept        */
} sy_dataset_options;

typedef struct sy_dataset sy_dataset;
/* .txt (the whole file is one document) or .jsonl / .json (a record a line, or
 * one array of records), each also .gz. Records are recognised by their keys,
 * the same kind throughout:
 *   {"text"} · {"prompt", "completion"} · {"messages": [{"role", "content"}]}
 *   alpaca {"instruction", "input", "output"[, "system", "history"]} and sharegpt
 *   {"conversations": [{"from", "value"}][, "system"]} become messages
 *   {"prompt", "chosen", "rejected"} and {"prompt", "completion", "label"}, texts or
 *   messages: only with options->preference
 * Messages may have tool_calls, parts and any other keys that the template reads;
 * "tools" of a record go to the template. "train": false or "weight": 0 on a message
 * takes it out of the loss. Other keys are named once in the log and not used.
 * Many tokens lie in a mapped file (the cache, or one without a name in TMPDIR), so
 * that memory does not grow with the data but for some bytes a window.
 * Messages of every error name file and line.
 *
 * A document is its text as the tokenizer gives it with the post-processor's
 * tokens (messages: the template's text, which brings its own). bos_id begins it
 * if it does not begin so already (not messages). eos_id ends it if it does not
 * end so already; a conversation is ended only if what its template wrote last,
 * white space aside, is not a special token. That eos is trained if what it ends
 * is: text, completion, an assistant's turn.
 *
 * Prompt and completion are tokenized as one text; a token that holds any byte of
 * the completion belongs to it. An assistant's turn is what rendering messages
 * 0..i adds to rendering 0..i-1 with the generation prompt, up to and with the
 * template's end-of-turn token: found by rendering, never by markers. (Where a
 * template has no generation prompt or rewrites earlier turns, it is what changes
 * when the words of message i do, and the special token after it.)
 *
 * Text longer than seq is cut into windows that do not overlap and do not see
 * each other; of longer prompts+completions and conversations the first seq
 * tokens are kept (truncated_documents). Packing puts each window in the first
 * row with room (documents in the order of the file; shuffled once by the seed
 * with `shuffle`); the rows are then the same in every epoch, in another order.
 *
 * An empty data set, a mask of all 0 (or of all 1 for prompt+completion or
 * messages under SY_LOSS_DEFAULT) is SY_E_INPUT. */
sy_status sy_dataset_open(sy_context *ctx, const char *path, const sy_dataset_options *options, sy_dataset **out);
/* The same from memory: one document of exactly these ids, all trained (no eos is
 * added); options->tokenizer may be NULL. For tests and examples. */
sy_status sy_dataset_from_ids(sy_context *ctx, const int32_t *ids, int64_t n, const sy_dataset_options *options, sy_dataset **out);
void sy_dataset_free(sy_dataset *d);

typedef struct {
    int64_t documents;           /* with at least one trained token              */
    int64_t skipped_documents;   /* shorter than two tokens, or nothing trained   */
    int64_t truncated_documents; /* lost what is beyond seq tokens                */
    int64_t tokens;              /* of an epoch, padding not counted              */
    int64_t trained_tokens;      /* of an epoch: targets                          */
    int64_t rows_per_epoch;
    const char *format;   /* "text", "prompt-completion", "messages", "alpaca",
                             "sharegpt", "preference", "plain", "ids"              */
    bool cached;          /* the tokens were found in the cache                    */
    char hash[33];        /* of the file's bytes                                  */
} sy_dataset_info;
void sy_dataset_stat(const sy_dataset *d, sy_dataset_info *out);

/* Tokens of `rows` rows laid end to end: tokens = rows * seq. For models that classify, a row
 * is one document or image and `target`, `weight` have one entry a row; images come as
 * `pixels` instead of ids, with seq = 1. */
struct sy_batch {
    int64_t rows, seq, tokens;
    const int32_t *ids;       /* [tokens]                                          */
    const int32_t *positions; /* [tokens] within its document                      */
    const int32_t *first;     /* [tokens] index of its document's first token in
                                 this batch; padding is its own one-token document */
    const int32_t *target;    /* [tokens] next token of the same window, or -1: no
                                 loss here (the last token of a window never has one) */
    const float *weight;      /* [tokens] loss weight (1 by default); NULL: all 1  */
    const int32_t *sample;    /* [tokens] which window of the batch it belongs to,
                                 0..samples-1; padding: that of the window before  */
    int64_t samples, trained; /* trained: tokens with target >= 0                  */
    const float *pixels;      /* [rows, height, width, channels], prepared; or NULL */
    int64_t height, width, channels;
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
