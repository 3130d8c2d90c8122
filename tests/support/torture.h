/* SPDX-License-Identifier: Apache-2.0 */
/* Torture: the same work with the 1st, 2nd, 3rd ... allocation failing, or the
 * 1st, 2nd, 3rd ... change of the disk, until it goes through untouched. Each
 * broken run must return the right status with a message and leave no memory
 * held. */
#ifndef TEST_TORTURE_H
#define TEST_TORTURE_H

#include "base/base.h"
#include "support/test.h"

#include <errno.h>

/* One whole piece of work: makes what it needs and frees all of it. */
typedef sy_status torture_fn(sy_context *ctx, void *self);
/* What must hold after a failed run (no temporaries left ...); may be NULL. */
typedef void torture_check_fn(sy_context *ctx, void *self);

/* Returns the number of allocations that were made to fail. */
static inline int torture_memory(sy_context *ctx, torture_fn *work, void *self)
{
    int64_t before = sy_memory_now(ctx);
    for (int n = 1; n < 100000; n++) {
        sy_error_clear(ctx);
        sy_memory_fail_after(ctx, n);
        sy_status status = work(ctx, self);
        sy_memory_fail_after(ctx, 0);
        if (sy_memory_now(ctx) != before)
            fail_msg("allocation %d failed: %lld bytes leaked", n, (long long)(sy_memory_now(ctx) - before));
        if (status == SY_OK) return n - 1;
        if (status != SY_E_MEMORY || sy_error_code(ctx) != SY_E_MEMORY)
            fail_msg("allocation %d failed: status %s, message '%s'", n, sy_status_name(status), sy_error_message(ctx));
    }
    fail_msg("the work never went through");
    return -1;
}

/* The same for changes of the disk; the expected status is SY_E_IO. */
static inline int torture_disk(sy_context *ctx, torture_fn *work, torture_check_fn *check, void *self)
{
    int64_t before = sy_memory_now(ctx);
    for (int n = 1; n < 100000; n++) {
        sy_error_clear(ctx);
        syi_file_fail_after(ctx, n, ENOSPC);
        sy_status status = work(ctx, self);
        syi_file_fail_after(ctx, 0, 0);
        if (sy_memory_now(ctx) != before)
            fail_msg("disk change %d failed: %lld bytes leaked", n, (long long)(sy_memory_now(ctx) - before));
        if (status == SY_OK) return n - 1;
        if (status != SY_E_IO || strstr(sy_error_message(ctx), strerror(ENOSPC)) == NULL)
            fail_msg("disk change %d failed: status %s, message '%s'", n, sy_status_name(status), sy_error_message(ctx));
        if (check != NULL) check(ctx, self);
    }
    fail_msg("the work never went through");
    return -1;
}

#endif
