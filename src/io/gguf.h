/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers of the GGUF format that its reader and its writer share. For src/io. */
#ifndef SYI_GGUF_H
#define SYI_GGUF_H

#include "checkpoint.h"
#include "steelyard/model.h"

enum {
    SYI_GGUF_ALIGNMENT = 32,       /* of tensor data, unless general.alignment says so */
    SYI_GGUF_NAME_MAX = 63,        /* bytes of a tensor's name that loaders accept      */
    SYI_GGUF_KEY_MAX = 65535,
    SYI_GGUF_DIMS_MAX = 4
};
#define SYI_GGUF_LENGTH_MAX ((uint64_t)1 << 30)  /* of strings and arrays */

/* Bytes of one value of a type; 0 for strings, arrays and unknown types. */
int syi_gguf_type_size(uint32_t type);
const char *syi_gguf_type_name(uint32_t type);
/* The type of a tensor by GGUF's number: -1 if it is none of ours, and then *name
 * is what GGUF calls it, or NULL for a number that no version had. */
int syi_gguf_dtype(uint32_t id, const char **name);
/* GGUF's number of a type of ours, or -1. */
int syi_gguf_dtype_id(sy_dtype dtype);

/* The type that a tensor gets when a file of type `asked` (-1: as it is) is written, and
 * why. row: the architecture's, or NULL. */
typedef struct { sy_dtype dtype; syi_gguf_reason why; } syi_gguf_choice;
syi_gguf_choice syi_gguf_choose(int asked, const sy_entry *e, const sy_arch_tensor *row);
/* general.file_type of a file that is mostly of that type. */
uint32_t syi_gguf_file_type(sy_dtype dtype);

#endif
