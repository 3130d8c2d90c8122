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
typedef enum { KIND_NONE, KIND_TEXT, KIND_PROMPT, KIND_MESSAGES, KIND_PLAIN, KIND_IDS } syi_kind;
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
/* Never fails itself: trouble is in d->status. plain: the record is a text. */
void syi_document_make(syi_worker *w, const syi_record *r, bool plain, syi_document *d);

/* -- dataset_pack.c ----------------------------------------------------------------------- */
/* Puts sizes n[order[0]], n[order[1]], ... each into the first row of `seq` with
 * room; row[i] is the row of item i. Returns the number of rows in *rows. */
sy_status syi_first_fit(sy_context *ctx, const int32_t *n, const int64_t *order, int64_t count, int64_t seq, int64_t *row,
                        int64_t *rows);

#endif
