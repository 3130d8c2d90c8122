/* SPDX-License-Identifier: Apache-2.0 */
/* A context and an empty folder for one test, both checked and removed after. */
#ifndef TEST_FOLDER_H
#define TEST_FOLDER_H

#include "base/base.h"
#include "support/test.h"

#include <stdlib.h>

typedef struct { sy_context *ctx; char dir[256]; } test_folder;

static inline int folder_setup(void **state)
{
    test_folder *f = calloc(1, sizeof *f);
    const char *tmp = getenv("TMPDIR");
    snprintf(f->dir, sizeof f->dir, "%s/steelyard-test-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(f->dir) == NULL || (f->ctx = sy_context_new()) == NULL) return -1;
    *state = f;
    return 0;
}

static inline int folder_teardown(void **state)
{
    test_folder *f = *state;
    int64_t held = sy_memory_now(f->ctx);
    sy_status status = syi_remove_tree(f->ctx, f->dir);
    sy_context_free(f->ctx);
    free(f);
    if (held != 0) print_error("%lld bytes are still held\n", (long long)held);
    return held == 0 && status == SY_OK ? 0 : -1;
}

/* dir/name in a buffer of `out`. */
static inline const char *in_folder(const test_folder *f, char out[512], const char *name)
{
    snprintf(out, 512, "%s/%s", f->dir, name);
    return out;
}

/* Entries in a folder, hidden ones too. */
static inline int count_entries(sy_context *ctx, const char *dir)
{
    char **names = NULL;
    int n = 0;
    assert_int_equal(syi_list_dir(ctx, dir, &names, &n), SY_OK);
    for (int i = 0; i < n; i++) syi_free(ctx, names[i]);
    syi_free(ctx, names);
    return n;
}

#define folder_test(f) cmocka_unit_test_setup_teardown(f, folder_setup, folder_teardown)

#endif
