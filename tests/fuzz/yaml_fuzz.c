/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a YAML file of settings and as a recipe. */
#include "fuzz.h"

#include "base/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sy_context *ctx = sy_context_new();
    if (ctx == NULL) return 0;
    const char *path = fuzz_file(data, size, ".yaml");
    syi_settings s;
    json_t *j = NULL;
    syi_settings_init(&s, ctx);
    sy_status status = syi_settings_yaml(&s, path);
    syi_settings_free(&s);
    if (status == SY_OK) status = syi_yaml_load(ctx, path, &j); /* what settings take, a recipe takes */
    json_decref(j);
    unlink(path);
    fuzz_end(ctx, status);
    return 0;
}
