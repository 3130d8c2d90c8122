/* SPDX-License-Identifier: Apache-2.0 */
/* Memory behind a file that has no name: for data that are too many for memory and need not
 * outlive the process. The system may put its pages out of memory at any time. */
#include "base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

sy_status syi_spill(sy_context *ctx, const char *dir, int64_t bytes, void **out)
{
    char *path = syi_format(ctx, "%s/.spill.tmp-XXXXXX", dir);
    if (!path) return SY_E_MEMORY;
    const int fd = mkstemp(path);
    if (fd >= 0) unlink(path);
    const int error = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)bytes); /* a full disk shows now, not in a write to the map */
    void *p = error ? MAP_FAILED : mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    const sy_status st = p != MAP_FAILED ? SY_OK
        : syi_fail(ctx, SY_E_IO, "%s: no room for %lld bytes of working data beside the output: %s; free some space (what is solved is kept), or raise --memory-limit",
                   dir, (long long)bytes, strerror(error ? error : errno));
    if (fd >= 0) close(fd);
    syi_free(ctx, path);
    *out = p != MAP_FAILED ? p : NULL;
    return st;
}

void syi_spill_free(void *p, int64_t bytes)
{
    if (p != NULL) munmap(p, (size_t)bytes);
}
