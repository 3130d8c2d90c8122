/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of the data set: records come from a reader, become documents
 * in workers, and lie in the data set as tokens with a mark. Internal. */
#ifndef SYI_TEXT_DATASET_H
#define SYI_TEXT_DATASET_H

#include "text.h"

#include <zlib.h>

/* -- dataset_read.c: a file as records --------------------------------------------- */
enum { RECORD_MAX = 64 << 20 };
typedef struct {
    sy_context *ctx;
    const char *path;
    syi_mapped file;
    bool gz, whole, array, opened, ended; /* whole: the file is one record (.txt)   */
    z_stream z;
    bool z_live;
    uint8_t *owned;          /* decompressed bytes; plain files are read where they lie */
    const uint8_t *s;
    int64_t n, cap, at;      /* bytes here; the next record is at or after `at`       */
    int64_t produced, line;
    bool complete;           /* all bytes of the file are here                        */
} syi_reader;
typedef struct { char *s; int64_t n, line; bool owned; } syi_record;

sy_status syi_reader_open(sy_context *ctx, const char *path, syi_reader *r);
void syi_reader_close(syi_reader *r);
/* The next record (a copy if the reader's buffer moves), or found false. */
sy_status syi_reader_next(syi_reader *r, syi_record *out, bool *found);

/* -- dataset_record.c: a record as a document ------------------------------------------ */
typedef enum {
    KIND_NONE, KIND_TEXT, KIND_PROMPT, KIND_MESSAGES, KIND_PLAIN, KIND_IDS, KIND_ALPACA, KIND_SHAREGPT, KIND_PREFERENCE, KIND_COUNT
} syi_kind;
#define TRAINED 0x80000000u  /* on a token: it is to be predicted */

/* All that one thread writes on; its context is its own, as contexts are not
 * shared between threads. */
typedef struct {
    sy_context *ctx;
    syi_encoder *encoder;
    const sy_dataset_options *o;
    const syi_chat *chat;
    const json_t *variables;
    const char *path;
} syi_worker;

typedef struct {
    uint32_t *token;         /* of the worker's context                              */
    int64_t n;
    int64_t masked;          /* tokens of the text that are not trained                */
    syi_kind kind;
    char extra[48];          /* a key that was not used, or ""                        */
    sy_status status;
    char *message;           /* of the worker's context, if status is not SY_OK        */
} syi_document;

const char *syi_kind_name(syi_kind kind);
/* Never fails itself: trouble is in d->status. */
void syi_document_make(syi_worker *w, const syi_record *r, syi_document *d);

/* -- dataset_convert.c: other tools' records in our words ------------------------------- */
/* Turns an object into one with "text", "prompt" and "completion", or "messages" (and
 * "tools"), and says what kind it was. *out is new. SY_OK with *out NULL: the record is
 * one that is not to be trained (an unpaired bad answer). */
sy_status syi_record_convert(syi_worker *w, const syi_record *r, const json_t *j, syi_document *d, json_t **out);
/* The error `what`, with file and line before it. */
sy_status syi_record_bad(syi_worker *w, const syi_record *r, sy_status code, const char *what);

/* -- dataset_store.c: the tokens -------------------------------------------------------- */
enum { SYI_NOTES = 8 };
typedef struct syi_store syi_store;
/* path: a cache file, or NULL: in memory, or in a file without a name when it grows. */
sy_status syi_store_new(sy_context *ctx, const char *path, syi_hash key, syi_store **out);
void syi_store_free(syi_store *s);
sy_status syi_store_find(syi_store *s, bool *found); /* the cache, if its key fits   */
sy_status syi_store_add(syi_store *s, const uint32_t *token, int64_t n);
sy_status syi_store_end(syi_store *s);               /* of a document                  */
void syi_store_about(syi_store *s, syi_kind kind, int64_t masked);
char (*syi_store_notes(syi_store *s))[48];           /* SYI_NOTES keys that are unused  */
sy_status syi_store_done(syi_store *s);              /* from here on it is read        */
int64_t syi_store_documents(const syi_store *s);
int64_t syi_store_document(const syi_store *s, int64_t i, int64_t *end); /* its begin  */
const uint32_t *syi_store_tokens(const syi_store *s, int64_t at);
syi_kind syi_store_kind(const syi_store *s, int64_t *masked);
void syi_store_forget(const syi_store *s);           /* pages may leave memory          */

/* -- dataset_make.c --------------------------------------------------------------------- */
/* The tokens of a file, made or found in the cache; the hash of the file. */
sy_status syi_documents_make(sy_context *ctx, const char *path, const sy_dataset_options *o, syi_store **out, char hash[33], bool *cached);

/* -- dataset_pack.c ----------------------------------------------------------------------- */
/* Puts sizes n[order[0]], n[order[1]], ... each into the first row of `seq` with
 * room; row[i] is the row of item i. Returns the number of rows in *rows. */
sy_status syi_first_fit(sy_context *ctx, const int32_t *n, const int64_t *order, int64_t count, int64_t seq, int64_t *row,
                        int64_t *rows);

#endif
