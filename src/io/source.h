/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of reading and writing whole models that only src/io shares: names and
 * config values between Hugging Face and GGUF, tokenizers both ways. */
#ifndef SYI_SOURCE_H
#define SYI_SOURCE_H

#include "checkpoint.h"
#include "steelyard/model.h"

/* -- gguf_model.c -------------------------------------------------------------- */

enum { SYI_MODEL_NAME_MAX = 256 };

/* Hugging Face's name of a tensor of GGUF, and its row; NULL: none of that
 * architecture's. */
const sy_arch_tensor *syi_name_from_gguf(const sy_arch *arch, const char *gguf, char out[SYI_MODEL_NAME_MAX]);
/* The row of a tensor of Hugging Face; NULL: none. out: scratch. */
const sy_arch_tensor *syi_name_row(const sy_arch *arch, const char *hf, char out[SYI_MODEL_NAME_MAX]);
/* GGUF's name of a tensor of Hugging Face. */
const sy_arch_tensor *syi_name_to_gguf(const sy_arch *arch, const char *hf, char out[SYI_MODEL_NAME_MAX]);
/* The architecture of a config.json; SY_E_UNSUPPORTED lists the known ones. */
sy_status syi_arch_of_config(sy_context *ctx, const json_t *config, const char *path, const sy_arch **out);
/* The architecture whose GGUF files are called that, or NULL. */
const sy_arch *syi_arch_of_gguf(const char *name);
/* config.json and generation_config.json from GGUF's keys. New references. */
sy_status syi_config_from_gguf(sy_context *ctx, const sy_arch *arch, const syi_gguf *g, const char *path, json_t **config,
                               json_t **generation);
/* Keys that describe the architecture. `config` is the struct of arch's rows, made from
 * `json`; classes: names of the head's classes belong to it. SY_E_UNSUPPORTED: the config
 * says something that GGUF cannot. */
sy_status syi_config_to_gguf(sy_context *ctx, syi_gguf_writer *w, const sy_arch *arch, void *config, const json_t *json, bool classes);
/* A field of the rows' struct; def or "": there is no such row. */
double syi_arch_float(const sy_arch *arch, const void *config, const char *field, double def);
const char *syi_arch_string(const sy_arch *arch, const void *config, const char *field);
/* The shortest decimal that is the same f32. */
double syi_shortest_f32(double v);

/* -- gguf_rope.c ----------------------------------------------------------------- */

/* Puts rope_scaling into the config made from keys, where tensors hold divisors of the
 * frequencies. arch: general.architecture. */
sy_status syi_rope_from_gguf(sy_context *ctx, const syi_gguf *g, const char *arch, const char *path, json_t *config);
/* Is it one of those tensors? */
bool syi_rope_is_part(const char *name);
/* The tensors that a config needs: none for plain rotation. */
enum { SYI_ROPE_VECTORS = 2 };
typedef struct { const char *name; int64_t n; const float *values; } syi_rope_vector;
sy_status syi_rope_to_gguf(sy_context *ctx, const sy_arch *arch, const void *config, const json_t *json, syi_arena *arena, syi_rope_vector out[SYI_ROPE_VECTORS],
                           int *n);
/* ... and the keys beside freq_base. */
sy_status syi_rope_keys(syi_gguf_writer *w, const sy_arch *arch, const void *config);

/* -- pooling.c -------------------------------------------------------------------- */

/* Keys of an encoder: that it reads in both directions, and how it pools. model: where it
 * comes from; classes: its head sorts into some. */
sy_status syi_pooling_to_gguf(sy_context *ctx, syi_gguf_writer *w, const char *arch, const char *model, bool classes);
/* ... and for a model folder that is copied: modules.json and what it names. */
sy_status syi_pooling_copy(sy_context *ctx, const char *from, const char *to);

/* -- gguf_tokenizer.c ------------------------------------------------------------ */

/* tokenizer.json, tokenizer_config.json and the template from GGUF's keys (NULL if
 * there are none). SY_E_UNSUPPORTED names a vocabulary or pre-tokenizer that is
 * not known. */
sy_status syi_tokenizer_from_gguf(sy_context *ctx, const syi_gguf *g, const char *path, json_t **tokenizer, json_t **config,
                                  char **chat_template);
/* The other way. vocab: rows of the embedding; ids beyond the tokenizer's are padded. */
sy_status syi_tokenizer_to_gguf(syi_gguf_writer *w, const syi_source *s, int64_t vocab);

/* -- pretokenizers.c --------------------------------------------------------------- */

/* What `tokenizer.ggml.pre` stands for. */
typedef struct {
    const char *names;          /* separated by blanks; the first is written        */
    const char *pre_tokenizer;  /* as in tokenizer.json                             */
    const char *normalizer;     /* the same; NULL: none                             */
    bool ignore_merges, add_bos;
} syi_pre_row;
const syi_pre_row *syi_pre_by_name(const char *name);
/* The row that does what this tokenizer.json does, or NULL. */
const syi_pre_row *syi_pre_of(const json_t *tokenizer);
/* "smollm": the row's first name. */
void syi_pre_name(const syi_pre_row *row, char out[32]);
/* All first names, ", " between. */
void syi_pre_list(syi_text *out);

#endif
