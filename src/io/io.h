/* SPDX-License-Identifier: Apache-2.0 */
/* Files of other tools: JSON, GGUF, model folders, adapter folders. Internal. */
#ifndef SYI_IO_H
#define SYI_IO_H

#include "base/base.h"
#include "steelyard/checkpoint.h"
#include <jansson.h>

struct sy_arch;

/* -- json.c ---------------------------------------------------------------- */
/* Strict (duplicate keys refused), errors with file:line:column. */
sy_status syi_json_read(sy_context *ctx, const char *path, json_t **out);
sy_status syi_json_parse(sy_context *ctx, const char *text, size_t len, const char *where, json_t **out);
/* Atomic; keys in order, indent 2, newline at the end. sorted: keys sorted. */
sy_status syi_json_write(sy_context *ctx, const char *path, const json_t *j, bool sorted);
/* The same as text; caller syi_free()s. */
sy_status syi_json_dump(sy_context *ctx, const json_t *j, bool sorted, char **text);
/* Appends a JSON string with its quotes. `s` must be UTF-8. */
void syi_json_quote(syi_text *t, const char *s, size_t n);
/* Sets one key of the object that *text (valid JSON) is to `value` (JSON text);
 * every other byte stays as it was. *text is replaced. */
sy_status syi_json_set(sy_context *ctx, char **text, const char *key, const char *value);

/* -- gguf.c: the container ---------------------------------------------------*/
typedef enum { SYI_GGUF_U8, SYI_GGUF_I8, SYI_GGUF_U16, SYI_GGUF_I16, SYI_GGUF_U32, SYI_GGUF_I32, SYI_GGUF_F32,
               SYI_GGUF_BOOL, SYI_GGUF_STRING, SYI_GGUF_ARRAY, SYI_GGUF_U64, SYI_GGUF_I64, SYI_GGUF_F64 } syi_gguf_type;
typedef struct syi_gguf syi_gguf;
/* v2 and v3; dims come out in Hugging Face order. Every limit checked. Any part of a split
 * file (NAME-00002-of-00005.gguf) opens all of it; the keys are the first part's. */
sy_status syi_gguf_open(sy_context *ctx, const char *path, syi_gguf **out);
void syi_gguf_close(syi_gguf *g);
int64_t syi_gguf_tensors(const syi_gguf *g);
const sy_entry *syi_gguf_tensor(const syi_gguf *g, int64_t i);
const sy_entry *syi_gguf_find(const syi_gguf *g, const char *name);
/* Typed look-ups: false if absent or of another type (integers of any width and
 * sign convert when the value fits). Strings are borrowed, NUL-terminated. */
bool syi_gguf_str(const syi_gguf *g, const char *key, const char **out);
bool syi_gguf_int(const syi_gguf *g, const char *key, int64_t *out);
bool syi_gguf_float(const syi_gguf *g, const char *key, double *out);
bool syi_gguf_bool(const syi_gguf *g, const char *key, bool *out);
/* Arrays: count (-1: absent), then items. */
int64_t syi_gguf_array(const syi_gguf *g, const char *key, syi_gguf_type *item);
/* (strings of arrays are not NUL-terminated) */
bool syi_gguf_array_str(const syi_gguf *g, const char *key, int64_t i, const char **s, int64_t *len);
bool syi_gguf_array_num(const syi_gguf *g, const char *key, int64_t i, double *out);
int64_t syi_gguf_keys(const syi_gguf *g);
const char *syi_gguf_key(const syi_gguf *g, int64_t i, syi_gguf_type *type);
/* The value as it lies in the file; its type, or -1. */
int syi_gguf_raw(const syi_gguf *g, const char *key, const uint8_t **data, int64_t *bytes);

/* Writer: keys, then declared tensors, then data in any order; atomic. Tensor
 * rows are put as f32 in GGUF's own row order and converted to the declared
 * type, which may be any that sy_from_f32 writes. */
typedef struct syi_gguf_writer syi_gguf_writer;
sy_status syi_gguf_writer_new(sy_context *ctx, const char *path, syi_gguf_writer **out);
sy_status syi_gguf_put_str(syi_gguf_writer *w, const char *key, const char *value, int64_t len);
sy_status syi_gguf_put_u16(syi_gguf_writer *w, const char *key, uint16_t v);
sy_status syi_gguf_put_u32(syi_gguf_writer *w, const char *key, uint32_t v);
sy_status syi_gguf_put_i32(syi_gguf_writer *w, const char *key, int32_t v);
sy_status syi_gguf_put_f32(syi_gguf_writer *w, const char *key, float v);
sy_status syi_gguf_put_bool(syi_gguf_writer *w, const char *key, bool v);
sy_status syi_gguf_put_strs(syi_gguf_writer *w, const char *key, int64_t n, const char *const *s, const int64_t *len);
sy_status syi_gguf_put_f32s(syi_gguf_writer *w, const char *key, int64_t n, const float *v);
sy_status syi_gguf_put_i32s(syi_gguf_writer *w, const char *key, int64_t n, const int32_t *v);
/* A value as another file has it. */
sy_status syi_gguf_copy_key(syi_gguf_writer *w, const syi_gguf *from, const char *key);
bool syi_gguf_has_key(const syi_gguf_writer *w, const char *key);
sy_status syi_gguf_declare(syi_gguf_writer *w, const char *name, sy_dtype dtype, int rank, const int64_t *dim);
/* Before begin: no file larger than that (0: one file). When there is more than one they
 * are called NAME-00001-of-0000N.gguf; a tensor is never cut, so one that is larger has a
 * file of its own. The first file, which has the keys, appears last. */
void syi_gguf_split(syi_gguf_writer *w, int64_t file_bytes);
int syi_gguf_files(const syi_gguf_writer *w); /* after begin */
sy_status syi_gguf_begin(syi_gguf_writer *w);
sy_status syi_gguf_put_rows(syi_gguf_writer *w, const char *name, int64_t row, int64_t n, const float *data);
/* Rows that are in the declared type already, whatever type that is. */
sy_status syi_gguf_put_raw(syi_gguf_writer *w, const char *name, int64_t row, int64_t n, const void *data);
sy_status syi_gguf_end(syi_gguf_writer *w);
void syi_gguf_writer_abort(syi_gguf_writer *w);

/* -- source.c: a model as the engine and convert see it -----------------------*/
/* From a Hugging Face folder or a GGUF file: everything under Hugging Face's
 * names and conventions. For a GGUF, config, tokenizer and templates are made
 * from its keys through the architecture's rows, q/k rows are un-permuted. */
typedef struct {
    sy_context *ctx;
    char *path;
    bool gguf;
    json_t *config;             /* config.json                                  */
    json_t *generation;         /* generation_config.json or NULL               */
    json_t *tokenizer;          /* tokenizer.json: after syi_source_tokenizer   */
    char *tokenizer_text;       /* ... as text: syi_source_tokenizer_text       */
    int64_t tokenizer_len;
    json_t *tokenizer_config;   /* tokenizer_config.json or NULL                */
    char *chat_template;        /* Jinja text or NULL                           */
    const struct sy_arch *arch; /* NULL: architecture unknown (inspect only)    */
    sy_checkpoint *tensors;     /* Hugging Face names                           */
} syi_source;
/* need_arch: an unknown architecture is SY_E_UNSUPPORTED that lists the known. */
sy_status syi_source_open(sy_context *ctx, const char *path, bool need_arch, syi_source **out);
void syi_source_close(syi_source *s);
/* tokenizer.json is megabytes and only some readers want it parsed: each of these makes its
 * form of it when first asked for (NULL: the model has none). forget frees both forms of a
 * folder's (they come back when asked for). */
sy_status syi_source_tokenizer(syi_source *s);
sy_status syi_source_tokenizer_text(syi_source *s, const char **text, int64_t *len);
void syi_source_tokenizer_forget(syi_source *s);
/* Hash of config, tokenizer and tensor bytes, for receipts and resume. */
sy_status syi_source_hash(syi_source *s, char text[33]);

/* Numbers of one row as sy_entry_read counts rows: the last dimension. */
static inline int64_t syi_entry_width(const sy_entry *e) { return e->rank > 0 ? e->dim[e->rank - 1] : 1; }

/* Where tensors to be written come from: rows of `name` as f32. */
typedef sy_status syi_rows_fn(void *self, const sy_entry *e, int64_t row, int64_t n, float *dst);
typedef enum { SYI_GGUF_AS_ASKED, SYI_GGUF_VECTOR, SYI_GGUF_OUTER, SYI_GGUF_ROWS, SYI_GGUF_REASONS } syi_gguf_reason;
const char *syi_gguf_why(syi_gguf_reason why);
typedef struct {
    sy_dtype dtype;        /* of matrices; -1: as in the source                  */
    int64_t shard_bytes;   /* of a safetensors file, of a part of a GGUF; 0: one */
    bool dry;              /* to_gguf: nothing is written, the outcome is counted */
    syi_rows_fn *rows;     /* NULL: the source's own                             */
    void *self;
    const sy_entry *extra; /* tensors that the source lacks (a head untied from the
                              embedding): name, dtype, shape; filled by rows, or with
                              data: written as they are (GGUF: permute_heads says that
                              rows are in its order already)                       */
    int n_extra;
    bool (*skip)(void *self, const sy_entry *e); /* tensors of the source to leave out, or NULL */
    const json_t *config;  /* written instead of the source's config.json, or NULL */
    bool into;             /* to_folder: dir exists and holds other files; ours are
                              added one by one (each atomic) instead of the whole  */
    int64_t tensors, bytes;   /* out                                             */
    int64_t types[SY_DTYPE_COUNT][SYI_GGUF_REASONS]; /* out, to_gguf: tensors of each type,
                              by the reason for it                               */
    int files;                /* out, to_gguf                                    */
} syi_export;
/* The source as a Hugging Face folder (atomic) / one GGUF file (atomic). */
sy_status syi_source_to_folder(syi_source *s, const char *dir, syi_export *how);
sy_status syi_source_to_gguf(syi_source *s, const char *file, syi_export *how);
/* What lies around the weights in a folder (config.json, tokenizer, templates), into `dir`. */
sy_status syi_source_files(syi_source *s, const char *dir, syi_export *how);

/* -- pooling.c: sentence encoders ----------------------------------------------------*/
/* How states of tokens become one vector. tokens: the longest text, 0: not said. stated: a
 * file says so (else: the mean). model: a folder or a GGUF. */
enum { SYI_POOL_MEAN, SYI_POOL_CLS, SYI_POOL_MAX, SYI_POOL_LAST };
typedef struct { int kind; bool normalize, stated; int64_t tokens; } syi_pooling;
sy_status syi_pooling_read(sy_context *ctx, const char *model, syi_pooling *out);
/* modules.json and what it names, into the folder of a model. */
sy_status syi_pooling_write(sy_context *ctx, const char *dir, const syi_pooling *how, int64_t hidden);

/* -- adapter_dir.c: PEFT folders ----------------------------------------------*/
typedef struct {
    sy_context *ctx;
    char *path;
    json_t *config;        /* adapter_config.json                                */
    sy_checkpoint *tensors;/* names as in the file ("base_model.model....")      */
} syi_adapter_dir;
sy_status syi_adapter_open(sy_context *ctx, const char *dir, syi_adapter_dir **out);
void syi_adapter_close(syi_adapter_dir *a);
/* Writes adapter_config.json (sorted), adapter_model.safetensors, README.md into
 * an existing folder. Tensors are f32 unless dtype says otherwise. */
typedef struct { const char *name; sy_tensor value; } syi_named;
sy_status syi_adapter_write(sy_context *ctx, const char *dir, const json_t *config, const char *readme,
                            const syi_named *tensors, int64_t n);

/* LoRA GGUF: A [r,in] and B [out,r] under Hugging Face module names; scale s is
 * baked as alpha = s*r of the first and the rest into B. */
typedef struct { const char *module; sy_tensor a, b; double scale; } syi_lora_pair;
sy_status syi_lora_to_gguf(sy_context *ctx, syi_source *base, const char *file, sy_dtype dtype,
                           const syi_lora_pair *pairs, int64_t n);
/* The pairs of a LoRA GGUF as f32, in `arena`; of an embedding A is [r, vocabulary]. */
sy_status syi_lora_gguf_read(sy_context *ctx, const char *file, syi_arena *arena, syi_lora_pair **out, int64_t *n);
/* The reverse: a LoRA GGUF becomes a PEFT folder on disk. */
sy_status syi_lora_from_gguf(sy_context *ctx, const char *file, const char *dir);

#endif
