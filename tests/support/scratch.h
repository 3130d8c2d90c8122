/* SPDX-License-Identifier: Apache-2.0 */
/* A folder of its own for a test, with what it needs to write and read files
 * without the library's help. */
#ifndef SCRATCH_H
#define SCRATCH_H

#include <stddef.h>
#include <stdint.h>

/* A new empty folder; scratch_remove deletes it with everything in it. */
char *scratch_new(void);
void scratch_remove(char *dir);
/* dir/name in a buffer that lives until the 16th call from now. */
const char *scratch_path(const char *dir, const char *name);
void scratch_write(const char *path, const void *data, size_t n);
/* The whole file (malloc, one NUL behind it); *n may be NULL. */
uint8_t *scratch_read(const char *path, size_t *n);
/* How many names are in the folder, hidden ones too. */
int scratch_count(const char *dir);

#endif
