/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers of the GGUF format that its reader and its writer share. For src/io. */
#ifndef SYI_GGUF_H
#define SYI_GGUF_H

#include "checkpoint.h"

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

#endif
